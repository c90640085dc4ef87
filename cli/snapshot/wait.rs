//! Waiting for a snapshot: look, draw, look again, until it has failed or no part is being written
//! any more.
//!
//! The wait has a deadline, and so has each look. Nodes that stay away for longer than that end the
//! wait, and the snapshot goes on without it.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use super::status::{self, Snapshot};
use crate::{
    base::{ids::SnapshotId, limits},
    ctl::{
        client::Client,
        term::{
            exit::{self, Failure},
            output::{Console, Format},
        },
    },
    proto::v1::{self, SnapshotStatus as Status},
};

/// What a look means for the wait.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Wait,
    /// It is over, and these parts are not there.
    Over(Vec<String>),
}

/// Whether the snapshot or a part of it may still change.
pub fn under_way(snapshot: &v1::Snapshot) -> bool {
    match snapshot.status() {
        Status::Processing => true,
        Status::Missing | Status::Failed | Status::Damaged | Status::Deleting => false,
        _ => snapshot.parts.iter().any(|part| part.status() == Status::Processing),
    }
}

fn outcome(snapshot: &v1::Snapshot) -> Outcome {
    if under_way(snapshot) {
        return Outcome::Wait;
    }
    let absent = snapshot.parts.iter().filter(|part| part.status() != Status::Completed);
    Outcome::Over(
        absent
            .map(|part| {
                let because = if part.reason.is_empty() {
                    String::new()
                } else {
                    format!(": {}", part.reason)
                };
                format!(
                    "the part of node {} at {} is {}{because}",
                    part.node_id,
                    part.address,
                    status::status_word(part.status())
                )
            })
            .collect(),
    )
}

/// Waits for a snapshot that has begun, prints it, and ends as it ended.
pub async fn wait(
    begun: Snapshot,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let (snapshot, absent) = settled(begun, most, client, console).await?;
    tell(snapshot, &absent, console)
}

/// Waits for a snapshot that has begun. As it ended, and the parts that are not there.
pub async fn settled(
    begun: Snapshot,
    most: Duration,
    client: &mut Client,
    console: &mut Console,
) -> Result<(Snapshot, Vec<String>), Failure> {
    let uuid: SnapshotId = begun
        .uuid
        .parse()
        .map_err(|e| Failure::new(exit::FAILED, format!("{e}"), "the answer to create", ""))?;
    if console.format == Format::Table {
        console.write(format!("uuid = {uuid}\n").as_bytes())?;
    }
    console
        .on_interrupt(format!("snapshot {uuid} goes on; look with ddbctl snapshot status {uuid}"));
    client.be_patient();
    let until = client.now() + most;
    let mut bars = Bars::new(console);
    let mut pause = limits::CTL_LOOK_MIN;
    let (snapshot, absent) = loop {
        let (snapshot, _) = status::find(uuid, client).await.map_err(|e| lost(&uuid, e))?;
        bars.show(&snapshot, console);
        if let Outcome::Over(absent) = outcome(&snapshot) {
            break (snapshot, absent);
        }
        if client.now() + pause > until {
            let remedy = format!("it goes on; look with ddbctl snapshot status {uuid}");
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!("snapshot {uuid} is still processing"),
                "when --wait-timeout was over",
                remedy,
            ));
        }
        tokio::time::sleep(pause).await;
        // So that what is over is noticed after a fifth more of the time that it took at the
        // latest.
        pause = (pause * 6 / 5).min(limits::CTL_LOOK_MAX);
    };
    bars.clear();
    Ok((Snapshot::new(snapshot), absent))
}

fn lost(uuid: &SnapshotId, failure: Failure) -> Failure {
    let remedy = format!("the snapshot may go on; look with ddbctl snapshot status {uuid}");
    Failure { remedy, ..failure }
}

pub fn tell(snapshot: Snapshot, absent: &[String], console: &mut Console) -> Result<(), Failure> {
    match console.format {
        Format::Table => {
            let reason = if snapshot.reason.is_empty() {
                String::new()
            } else {
                format!("reason = {}\n", crate::ctl::term::text::line(&snapshot.reason))
            };
            console.write(format!("status = {}\n{reason}", snapshot.status).as_bytes())?;
        }
        _ => console.print(&snapshot)?,
    }
    absent.iter().for_each(|part| console.warn(part));
    status::judge(&snapshot)
}

/// A bar for each part, on a terminal.
struct Bars {
    all: MultiProgress,
    parts: Vec<(u64, ProgressBar)>,
}

impl Bars {
    fn new(console: &Console) -> Bars {
        let target = if console.draws() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Bars { all: MultiProgress::with_draw_target(target), parts: Vec::new() }
    }

    fn show(&mut self, snapshot: &v1::Snapshot, console: &Console) {
        // A node that has not said what it holds has no bar yet: it would be a full one.
        for part in snapshot.parts.iter().filter(|part| part.partitions > 0) {
            let at = self.parts.iter().position(|(node, _)| *node == part.node_id).unwrap_or_else(
                || {
                    let bar = self.all.add(console.bar(u64::from(part.partitions), false));
                    self.parts.push((part.node_id, bar));
                    self.parts.len() - 1
                },
            );
            let bar = &self.parts[at].1;
            bar.set_length(u64::from(part.partitions));
            bar.set_position(u64::from(part.partitions_done));
            bar.set_message(format!(
                "{:>20} {:<10}",
                part.node_id,
                status::status_word(part.status())
            ));
        }
    }

    fn clear(&self) {
        let _ = self.all.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::snapshot::status::tests::{UUID, part, snapshot};

    #[test]
    fn the_wait_ends_when_nothing_more_can_come() {
        let completed = || part(1, Status::Completed, "");
        assert_eq!(outcome(&snapshot(Status::Processing, "", vec![completed()])), Outcome::Wait);
        assert_eq!(
            outcome(&snapshot(
                Status::Completed,
                "",
                vec![completed(), part(2, Status::Processing, "")]
            )),
            Outcome::Wait
        );
        assert_eq!(
            outcome(&snapshot(Status::Completed, "", vec![completed()])),
            Outcome::Over(vec![])
        );
        assert_eq!(outcome(&snapshot(Status::Missing, "", vec![])), Outcome::Over(vec![]));
        assert_eq!(outcome(&snapshot(Status::Failed, "disk full", vec![])), Outcome::Over(vec![]));
    }

    #[test]
    fn a_completed_snapshot_with_parts_away_succeeds_with_a_warning_and_a_failed_one_fails() {
        let mut story = String::new();
        let away = part(2, Status::Missing, "the node was away when the cut was made");
        let cases = [
            snapshot(Status::Completed, "", vec![part(1, Status::Completed, ""), away]),
            snapshot(
                Status::Failed,
                "node 1: disk full",
                vec![part(1, Status::Failed, "disk full")],
            ),
            v1::Snapshot {
                uuid: UUID.into(),
                status: Status::Missing.into(),
                ..Default::default()
            },
        ];
        for case in cases {
            let (mut console, out, words) = Console::recording(Format::Table);
            let Outcome::Over(absent) = outcome(&case) else { panic!("it is over") };
            let end = tell(Snapshot::new(case), &absent, &mut console);
            let exit = console.finish(end);
            story += &format!("stdout:\n{}stderr:\n{}exit {exit}\n\n", out.text(), words.text());
        }
        crate::ctl::golden::check("wait.txt", &story);
    }
}
