//! Snapshots: taking, watching and listing them. Downloads, verification, deletion and orphans have
//! modules of their own.
//!
//! The exit code tells a script how the snapshot is, not only whether it could be asked: 5 when it
//! is missing or being deleted, 1 when it failed, 6 when it is damaged. Without a quorum a list and
//! a status are what the best informed endpoint knows by itself; a snapshot that it does not know
//! is `unknown` and not missing, exit code 3, since the endpoint may not have heard of it yet.

use std::collections::BTreeSet;

use bytes::Bytes;
use indicatif::HumanBytes;
use serde::Serialize;
use tonic::transport::Channel;

use super::stored::Upload;
use crate::{
    base::{ids::SnapshotId, limits},
    ctl::{
        client::{Call, Client},
        cluster::{title, warn},
        picture::{Stale, agreed_or_alone},
        term::{
            exit::{self, Failure},
            output::{Console, Look, View},
            table::{Number, Prose, Table, Text},
            text,
        },
    },
    proto::v1::{self, SnapshotStatus as Status, snapshot_service_client::SnapshotServiceClient},
};

#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub uuid: String,
    pub status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    partitions: u32,
    partitions_covered: u32,
    copies_min: u32,
    created_ms: u64,
    lineage: String,
    cluster_id: String,
    /// Where the nodes have a repository: how far it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<Upload>,
    parts: Vec<Part>,
    #[serde(flatten)]
    pub stale: Option<Stale>,
}

/// What one node contributes. Its id is text: many readers of JSON cannot hold 64 bits.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    pub node_id: String,
    address: String,
    pub status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    partitions: u32,
    partitions_done: u32,
    rows: u64,
    bytes: u64,
    bytes_written: u64,
    download_bytes: u64,
    manifest_digest: String,
    /// Whom it is sealed to, nobody where it is not sealed; absent where nobody has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed_to: Option<Vec<String>>,
}

/// The two lines of the guide.
#[derive(Debug, Serialize)]
pub struct Brief {
    pub uuid: String,
    pub status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// One part of a snapshot that was asked for by its node.
#[derive(Debug, Serialize)]
pub struct OnePart {
    pub uuid: String,
    pub part: Part,
    #[serde(flatten)]
    pub stale: Option<Stale>,
}

#[derive(Debug, Serialize)]
struct Snapshots {
    cluster_id: String,
    snapshots: Vec<Snapshot>,
    #[serde(flatten)]
    stale: Option<Stale>,
}

/// The snapshot that was begun, and what will keep later ones from being taken; empty where nothing
/// does.
pub async fn create(
    uuid: Option<SnapshotId>,
    client: &mut Client,
) -> Result<(Snapshot, String), Failure> {
    let uuid = uuid.map_or_else(|| client.draw_id(), |id| id.0);
    let call = Call {
        what: "take a snapshot".into(),
        again: format!("look with ddbctl snapshot status {uuid}, or repeat it with --uuid {uuid}"),
    };
    let request = v1::CreateSnapshotRequest { request_id: Bytes::copy_from_slice(uuid.as_bytes()) };
    let body = client
        .call(&call, request, |channel, request| async move {
            service(channel).create_snapshot(request).await
        })
        .await?
        .body;
    Ok((Snapshot::new(body.snapshot.unwrap_or_default()), body.warning))
}

/// A snapshot, and the node that told of it. An unknown one is there with status missing.
pub async fn find(uuid: SnapshotId, client: &mut Client) -> Result<(v1::Snapshot, u64), Failure> {
    let body = ask(uuid, client, false).await?;
    Ok((body.snapshot.unwrap_or_default(), body.answered_by))
}

/// What was found of a snapshot.
pub struct Seen {
    pub snapshot: v1::Snapshot,
    /// The node that told of it.
    pub answered_by: u64,
    pub stale: Option<Stale>,
}

/// A snapshot as the leader knows it, or as an endpoint knows it by itself, and why that may be
/// old.
pub async fn seen(uuid: SnapshotId, client: &mut Client) -> Result<Seen, Failure> {
    let ((mut snapshot, answered_by), stale) =
        agreed_or_alone(client, move |mut client, local| async move {
            let body = ask(uuid, &mut client, local).await?;
            Ok(((body.snapshot.unwrap_or_default(), body.answered_by), body.local))
        })
        .await?;
    if stale.is_some() && snapshot.status() == Status::Missing {
        snapshot.set_status(Status::Unspecified);
        snapshot.reason = "whoever was asked has not heard of it".into();
    }
    Ok(Seen { snapshot, answered_by, stale })
}

/// The answer has a snapshot.
async fn ask(
    uuid: SnapshotId,
    client: &mut Client,
    local: bool,
) -> Result<v1::GetSnapshotResponse, Failure> {
    let call = Call::new(format!("look at snapshot {uuid}"));
    let request = v1::GetSnapshotRequest { uuid: uuid.to_string(), local };
    let body = client
        .call(&call, request, |channel, request| async move {
            service(channel).get_snapshot(request).await
        })
        .await?
        .body;
    let missing = || v1::Snapshot { status: Status::Missing.into(), ..Default::default() };
    let snapshot = v1::Snapshot { uuid: uuid.to_string(), ..body.snapshot.unwrap_or_else(missing) };
    Ok(v1::GetSnapshotResponse { snapshot: Some(snapshot), ..body })
}

/// A node's part; missing where the snapshot does not name the node, and unknown where whoever was
/// asked does not know the snapshot.
pub fn part_of(snapshot: &v1::Snapshot, node: u64) -> Part {
    let is_told = |part: &v1::SnapshotPart| match snapshot.status() {
        Status::Missing => false,
        Status::Unspecified => part.status() != Status::Missing,
        _ => true,
    };
    let part = snapshot.parts.iter().find(|part| part.node_id == node && is_told(part)).cloned();
    part.map_or_else(|| Part::absent(snapshot, node), Part::new)
}

pub async fn list(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let (pages, stale) = agreed_or_alone(client, |mut client, local| async move {
        client
            .pages_of(
                &Call::new("list the snapshots"),
                |page_token| v1::ListSnapshotsRequest { page_size: 0, page_token, local },
                |channel, request| async move { service(channel).list_snapshots(request).await },
                |mut page| {
                    let next = std::mem::take(&mut page.next_page_token);
                    let alone = page.local.take();
                    (vec![page], next, alone)
                },
            )
            .await
    })
    .await?;
    warn(&stale, console);
    let cluster_id = pages.first().map(|page| page.cluster_id.clone()).unwrap_or_default();
    console.print(&Snapshots {
        cluster_id,
        snapshots: pages.into_iter().flat_map(|page| page.snapshots).map(Snapshot::new).collect(),
        stale,
    })
}

/// The end of a command that told how a snapshot is.
pub fn judge(snapshot: &Snapshot) -> Result<(), Failure> {
    verdict(&format!("snapshot {}", snapshot.uuid), snapshot.status, &snapshot.reason)
}

pub fn judge_part(uuid: &str, part: &Part) -> Result<(), Failure> {
    verdict(
        &format!("the part of node {} in snapshot {uuid}", part.node_id),
        part.status,
        &part.reason,
    )
}

fn verdict(what: &str, status: &str, reason: &str) -> Result<(), Failure> {
    match status {
        "missing" => Err(Failure::new(
            exit::NOT_FOUND,
            format!("{what} is missing"),
            reason,
            "see what there is with ddbctl snapshot list",
        )),
        "unknown" => Err(Failure::new(
            exit::UNREACHABLE,
            format!("{what} is not known to whoever could be asked"),
            reason,
            "it may be there: ask again when the meta group has a leader, or name more nodes with \
             --endpoint",
        )),
        "deleting" => {
            Err(Failure::new(exit::NOT_FOUND, format!("{what} is being deleted"), reason, ""))
        }
        "damaged" => Err(Failure::new(
            exit::NOT_VERIFIED,
            format!("{what} is damaged"),
            reason,
            "do not count on it: take another one",
        )),
        "failed" => Err(Failure::new(
            exit::FAILED,
            format!("{what} failed"),
            reason,
            "remove the cause and take another one",
        )),
        _ => Ok(()),
    }
}

pub fn status_word(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "unknown",
        Status::Processing => "processing",
        Status::Completed => "completed",
        Status::Missing => "missing",
        Status::Failed => "failed",
        Status::Damaged => "damaged",
        Status::Deleting => "deleting",
    }
}

impl Snapshot {
    pub fn new(snapshot: v1::Snapshot) -> Snapshot {
        let status = status_word(snapshot.status());
        let parts = if status == "missing" { Vec::new() } else { snapshot.parts };
        Snapshot {
            status,
            reason: snapshot.reason,
            partitions: snapshot.partitions,
            partitions_covered: snapshot.partitions_covered,
            copies_min: snapshot.copies_min,
            created_ms: snapshot.created_ms,
            lineage: snapshot.lineage,
            cluster_id: snapshot.cluster_id,
            upload: snapshot.upload.map(Upload::new),
            uuid: snapshot.uuid,
            parts: parts.into_iter().map(Part::new).collect(),
            stale: None,
        }
    }

    pub fn brief(&self) -> Brief {
        Brief { uuid: self.uuid.clone(), status: self.status, reason: self.reason.clone() }
    }
}

impl Part {
    fn new(part: v1::SnapshotPart) -> Part {
        Part {
            node_id: part.node_id.to_string(),
            status: status_word(part.status()),
            address: part.address,
            reason: part.reason,
            partitions: part.partitions,
            partitions_done: part.partitions_done,
            rows: part.rows,
            bytes: part.bytes,
            bytes_written: part.bytes_written,
            download_bytes: part.download_bytes,
            manifest_digest: part.manifest_digest,
            sealed_to: part.seal.map(|seal| seal.recipients),
        }
    }

    /// A node of which the snapshot says nothing: it has failed with the whole, or is missing.
    fn absent(snapshot: &v1::Snapshot, node_id: u64) -> Part {
        let (status, reason) = match snapshot.status() {
            Status::Failed => (Status::Failed, snapshot.reason.clone()),
            Status::Unspecified => (Status::Unspecified, snapshot.reason.clone()),
            _ => (Status::Missing, String::new()),
        };
        Part::new(v1::SnapshotPart { node_id, status: status.into(), reason, ..Default::default() })
    }
}

impl View for Brief {
    fn text(&self, _: Look) -> String {
        let reason = if self.reason.is_empty() {
            String::new()
        } else {
            format!("reason = {}\n", text::line(&self.reason))
        };
        format!("uuid = {}\nstatus = {}\n{reason}", self.uuid, self.status)
    }
}

impl View for Snapshot {
    fn text(&self, look: Look) -> String {
        let brief = self.brief().text(look);
        if ["missing", "unknown"].contains(&self.status) {
            return brief;
        }
        let covered = format!(
            "covered = {} of {} partitions, at least {} copies\n",
            self.partitions_covered, self.partitions, self.copies_min
        );
        let created = if self.created_ms == 0 {
            String::new()
        } else {
            let (when, age) = (text::when(self.created_ms), look.age(self.created_ms));
            format!("created = {when}, {age} ago\n")
        };
        let cluster = if self.cluster_id.is_empty() {
            String::new()
        } else {
            format!("cluster = {}\n", self.cluster_id)
        };
        let sealed = sealed(&self.parts);
        let upload = self.upload.as_ref().map_or(String::new(), |upload| upload.text(look));
        let parts = parts_table(&self.parts, look);
        format!("{brief}{covered}{created}{cluster}{sealed}{upload}{parts}")
    }
}

impl View for OnePart {
    fn text(&self, look: Look) -> String {
        let brief = Brief {
            uuid: self.uuid.clone(),
            status: self.part.status,
            reason: self.part.reason.clone(),
        };
        let parts = std::slice::from_ref(&self.part);
        brief.text(look) + &sealed(parts) + &parts_table(parts, look)
    }
}

impl View for Snapshots {
    fn text(&self, look: Look) -> String {
        let rows = self.snapshots.iter().map(|s| {
            let completed = s.parts.iter().filter(|part| part.status == "completed").count();
            let created = if s.created_ms == 0 { String::new() } else { text::when(s.created_ms) };
            [
                s.uuid.clone(),
                s.status.into(),
                created,
                look.age(s.created_ms),
                format!("{completed}/{}", s.parts.len()),
                s.copies_min.to_string(),
                s.reason.clone(),
            ]
        });
        let table = Table::new(
            [
                Text("UUID"),
                Text("STATUS"),
                Text("CREATED"),
                Text("AGE"),
                Text("PARTS"),
                Number("COPIES"),
                Prose("REASON"),
            ],
            rows,
        );
        title(&self.cluster_id, "") + &table.render(look.columns)
    }
}

/// Whom parts are sealed to, as far as somebody has looked.
fn sealed(parts: &[Part]) -> String {
    let known: Vec<&Vec<String>> = parts.iter().filter_map(|p| p.sealed_to.as_ref()).collect();
    let sealed: Vec<_> = known.iter().filter(|recipients| !recipients.is_empty()).collect();
    if known.is_empty() {
        return String::new();
    }
    if sealed.is_empty() {
        return "sealed = no\n".to_owned();
    }
    let many = if sealed.len() < known.len() {
        format!("{} of {} parts, ", sealed.len(), known.len())
    } else {
        String::new()
    };
    let all: BTreeSet<&str> = sealed.iter().flat_map(|to| to.iter().map(String::as_str)).collect();
    let all = all.into_iter().collect::<Vec<_>>().join(", ");
    if sealed.iter().all(|to| *to == sealed[0]) {
        format!("sealed = {many}to {all}\n")
    } else {
        format!("sealed = {many}each to some of {all}; see -o json\n")
    }
}

fn parts_table(parts: &[Part], look: Look) -> String {
    let rows = parts.iter().map(|p| {
        let [bytes, written, download] =
            [p.bytes, p.bytes_written, p.download_bytes].map(|n| HumanBytes(n).to_string());
        let partitions = format!("{}/{}", p.partitions_done, p.partitions);
        [
            p.node_id.clone(),
            p.address.clone(),
            p.status.into(),
            partitions,
            p.rows.to_string(),
            bytes,
            written,
            download,
            p.reason.clone(),
        ]
    });
    Table::new(
        [
            Number("NODE ID"),
            Text("ADDRESS"),
            Text("STATUS"),
            Text("PARTITIONS"),
            Number("ROWS"),
            Number("BYTES"),
            Number("WRITTEN"),
            Number("DOWNLOAD"),
            Prose("REASON"),
        ],
        rows,
    )
    .render(look.columns)
}

pub fn service(channel: Channel) -> SnapshotServiceClient<Channel> {
    SnapshotServiceClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ctl::{picture::tests::stale as stale_words, term::output::Format};

    pub const UUID: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";

    pub fn part(node_id: u64, status: Status, reason: &str) -> v1::SnapshotPart {
        let completed = status == Status::Completed;
        v1::SnapshotPart {
            node_id,
            address: format!("localhost:{}", 8080 + node_id),
            status: status.into(),
            reason: reason.into(),
            partitions: 1024,
            partitions_done: if completed { 1024 } else { 12 },
            rows: 4096,
            bytes: 300_000,
            bytes_written: 250_000,
            download_bytes: if completed { 305_664 } else { 0 },
            manifest_digest: if completed { "ab".repeat(32) } else { String::new() },
            seal: completed.then(v1::PartSeal::default),
        }
    }

    pub fn snapshot(status: Status, reason: &str, parts: Vec<v1::SnapshotPart>) -> v1::Snapshot {
        v1::Snapshot {
            uuid: UUID.into(),
            status: status.into(),
            reason: reason.into(),
            parts,
            partitions: 1024,
            partitions_covered: 1024,
            copies_min: 2,
            created_ms: 1_735_689_599_000,
            lineage: "00c0ffee00c0ffee".into(),
            cluster_id: "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11".into(),
            upload: None,
        }
    }

    #[test]
    fn whom_parts_are_sealed_to_is_said_as_far_as_it_is_known() {
        let said = |seals: &[Option<&[&str]>]| {
            let parts = (1..).zip(seals).map(|(node, seal)| {
                let recipients = |to: &&[&str]| to.iter().map(ToString::to_string).collect();
                let seal = seal.as_ref().map(|to| v1::PartSeal { recipients: recipients(to) });
                Part::new(v1::SnapshotPart { seal, ..part(node, Status::Completed, "") })
            });
            sealed(&parts.collect::<Vec<_>>())
        };
        assert_eq!(said(&[None, None]), "");
        assert_eq!(said(&[Some(&[]), None]), "sealed = no\n");
        assert_eq!(said(&[Some(&["a", "b"]), Some(&["a", "b"]), None]), "sealed = to a, b\n");
        assert_eq!(said(&[Some(&["a"]), Some(&[])]), "sealed = 1 of 2 parts, to a\n");
        let told = said(&[Some(&["a"]), Some(&["b"])]);
        assert_eq!(told, "sealed = each to some of a, b; see -o json\n");
    }

    #[test]
    fn a_snapshot_is_shown_in_every_format_and_its_exit_code_tells_how_it_is() {
        let parts = vec![
            part(1, Status::Completed, ""),
            part(2, Status::Missing, "the node was away when the cut was made"),
            part(3, Status::Processing, ""),
        ];
        let cases = [
            ("completed", snapshot(Status::Completed, "", parts.clone())),
            (
                "failed",
                snapshot(
                    Status::Failed,
                    "node 3 has no snapshot store",
                    vec![part(3, Status::Failed, "no snapshot store")],
                ),
            ),
            (
                "damaged",
                snapshot(
                    Status::Damaged,
                    "no completed part holds group 3; node 3: chunk is missing",
                    vec![part(3, Status::Damaged, "chunk is missing")],
                ),
            ),
            (
                "deleting",
                snapshot(
                    Status::Deleting,
                    "node 3: Read-only file system",
                    vec![part(3, Status::Deleting, "Read-only file system")],
                ),
            ),
            (
                "missing",
                v1::Snapshot {
                    uuid: UUID.into(),
                    status: Status::Missing.into(),
                    ..Default::default()
                },
            ),
            (
                "not known without a quorum",
                snapshot(
                    Status::Unspecified,
                    "the cluster does not know this snapshot",
                    vec![part(3, Status::Missing, "this node has no part of it")],
                ),
            ),
            (
                "completed, without a quorum",
                snapshot(Status::Completed, "", vec![part(3, Status::Completed, "")]),
            ),
        ];
        let stale = |name: &str| name.ends_with("without a quorum").then(stale_words);
        let mut story = String::new();
        for (name, v1) in cases {
            for format in [Format::Table, Format::Json] {
                let (mut console, out, _) = Console::recording(format);
                let snapshot = Snapshot { stale: stale(name), ..Snapshot::new(v1.clone()) };
                console.print(&snapshot).unwrap();
                console.print(&snapshot.brief()).unwrap();
                let stale = stale(name);
                let part = part_of(&v1, 3);
                console.print(&OnePart { uuid: UUID.into(), part, stale: stale.clone() }).unwrap();
                console
                    .print(&Snapshots {
                        cluster_id: v1.cluster_id.clone(),
                        snapshots: vec![snapshot.clone()],
                        stale,
                    })
                    .unwrap();
                story += &format!("# {name}, {format:?}\n{}", out.text());
                story += &format!(
                    "the snapshot exits {}\n",
                    judge(&snapshot).map_or_else(|e| format!("{}: {e}", e.exit), |()| "0".into())
                );
                story += &format!(
                    "the part exits {}\n",
                    judge_part(UUID, &part_of(&v1, 3))
                        .map_or_else(|e| format!("{}: {e}", e.exit), |()| "0".into())
                );
            }
        }
        crate::ctl::golden::check("snapshot.txt", &story);
    }

    #[test]
    fn a_node_of_which_the_snapshot_says_nothing_has_no_part() {
        assert_eq!(part_of(&snapshot(Status::Completed, "", vec![]), 9).status, "missing");
        let failed = part_of(&snapshot(Status::Failed, "the cut timed out", vec![]), 9);
        assert_eq!((failed.status, failed.reason.as_str()), ("failed", "the cut timed out"));
    }
}
