//! Snapshots into the nodes' repository: having one stored there, and waiting for it.
//!
//! A node has it stored, and forgets that when it ends. So whoever waits asks again when nobody has
//! it stored any more; what is in the repository by then is not sent a second time.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use super::{
    status::{self, Snapshot, service},
    stored::Upload,
    wait,
};
use crate::{
    base::{ids::SnapshotId, limits},
    ctl::{
        client::{Call, Client},
        term::{
            exit::{self, Failure},
            output::{Console, Format, Look, View},
            text,
        },
    },
    proto::v1::{self, UploadStatus as Status},
};

/// An upload by itself.
#[derive(Serialize)]
struct Alone<'a> {
    uuid: &'a str,
    upload: &'a Upload,
}

impl View for Alone<'_> {
    fn text(&self, look: Look) -> String {
        format!("uuid = {}\n{}", self.uuid, self.upload.text(look))
    }
}

/// Waits for a snapshot that has begun, has it stored, and waits for that.
pub async fn after(
    begun: Snapshot,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let until = client.now() + most;
    let (mut snapshot, absent) = wait::settled(begun, most, client, console).await?;
    let table = console.format == Format::Table;
    if table || snapshot.status != "completed" {
        wait::tell(snapshot.clone(), &absent, console)?;
    } else {
        absent.iter().for_each(|part| console.warn(part));
    }
    let uuid = snapshot
        .uuid
        .parse()
        .map_err(|e| Failure::new(exit::FAILED, format!("{e}"), "the answer to create", ""))?;
    let left = until.saturating_sub(client.now());
    let upload = wait(uuid, left, client, console).await?;
    if table {
        return console.print(&upload);
    }
    snapshot.upload = Some(upload);
    console.print(&snapshot)
}

/// Has a snapshot stored and waits until it is.
pub async fn run(
    uuid: SnapshotId,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let upload = wait(uuid, most, client, console).await?;
    console.print(&Alone { uuid: &uuid.to_string(), upload: &upload })
}

async fn wait(
    uuid: SnapshotId,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<Upload, Failure> {
    console.on_interrupt(format!(
        "the upload of snapshot {uuid} goes on; look with ddbctl snapshot status {uuid}"
    ));
    let until = client.now() + most;
    let bar = bar(console);
    let mut upload = begin(uuid, client).await?;
    client.be_patient();
    let mut pause = limits::CTL_LOOK_MIN;
    loop {
        match upload.status() {
            Status::Stored => break,
            Status::Failed => {
                bar.finish_and_clear();
                return Err(Failure::new(
                    exit::FAILED,
                    format!("snapshot {uuid} is not stored: {}", text::line(&upload.reason)),
                    upload.repository,
                    format!(
                        "remove the cause, and say ddbctl snapshot upload {uuid}: it goes on where \
                         it ended"
                    ),
                ));
            }
            Status::Running => {
                bar.set_length(upload.bytes);
                bar.set_position(upload.bytes_done);
            }
            // Whoever had it stored has ended.
            _ => drop(begin(uuid, client).await?),
        }
        if client.now() + pause > until {
            bar.finish_and_clear();
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!("snapshot {uuid} is not stored yet"),
                "when --wait-timeout was over",
                format!("it goes on; look with ddbctl snapshot status {uuid}"),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 6 / 5).min(limits::CTL_LOOK_MAX);
        upload = look(uuid, client).await?;
    }
    bar.finish_and_clear();
    Ok(Upload::new(upload))
}

fn bar(console: &Console) -> ProgressBar {
    let target =
        if console.draws() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    ProgressBar::with_draw_target(Some(0), target)
}

async fn begin(uuid: SnapshotId, client: &mut Client) -> Result<v1::Upload, Failure> {
    let call = Call::new(format!("have snapshot {uuid} stored"));
    let request = v1::UploadSnapshotRequest { uuid: uuid.to_string() };
    let body = client
        .call(&call, request, |channel, request| async move {
            service(channel).upload_snapshot(request).await
        })
        .await?
        .body;
    Ok(body.upload.unwrap_or_default())
}

/// How far it is; absent where the node that answers has no repository.
async fn look(uuid: SnapshotId, client: &mut Client) -> Result<v1::Upload, Failure> {
    let (snapshot, _) = status::find(uuid, client).await?;
    Ok(snapshot.upload.unwrap_or_default())
}
