//! `ddbctl snapshot delete`: what became of each node's part.
//!
//! It ends well when no part is left, or when nothing stands in the way of those that are: nodes
//! that are away delete theirs when they return. A node that cannot delete its part, or keeps it
//! because another history wrote it, makes it fail; a node of which nobody knows whether it has one
//! leaves it unreached.

use serde::Serialize;

use super::status::service;
use crate::{
    base::ids::{Lineage, SnapshotId},
    ctl::{
        client::{Call, Client},
        term::{
            exit::{self, Failure},
            output::{Console, Look, View},
        },
    },
    proto::v1::{self, PartDeletion},
};

#[derive(Debug, Serialize)]
struct Deleted {
    uuid: String,
    known: bool,
    parts: Vec<Part>,
}

/// Its id is text: many readers of JSON cannot hold 64 bits.
#[derive(Debug, Serialize)]
struct Part {
    node_id: String,
    address: String,
    lineage: String,
    deletion: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// Deletes a snapshot. Nothing is answered when an earlier attempt had done it.
pub async fn remove(
    uuid: SnapshotId,
    lineage: Option<Lineage>,
    client: &mut Client,
) -> Result<v1::DeleteSnapshotResponse, Failure> {
    let call = Call { what: format!("delete snapshot {uuid}"), again: "repeat it".into() };
    let request = v1::DeleteSnapshotRequest {
        uuid: uuid.to_string(),
        lineage: lineage.map_or_else(String::new, |l| l.to_string()),
    };
    let answer = client
        .remove(&call, request, |channel, request| async move {
            service(channel).delete_snapshot(request).await
        })
        .await?;
    Ok(answer.unwrap_or_default())
}

pub async fn run(
    uuid: SnapshotId,
    lineage: Option<Lineage>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let answer = remove(uuid, lineage, client).await?;
    tell(uuid, answer, console)
}

fn tell(
    uuid: SnapshotId,
    answer: v1::DeleteSnapshotResponse,
    console: &mut Console,
) -> Result<(), Failure> {
    let (known, parts) = (answer.known, answer.parts.into_iter().map(Part::new).collect());
    let deleted = Deleted { uuid: uuid.to_string(), known, parts };
    deleted.words(known).iter().for_each(|line| console.confirm(line));
    console.print(&deleted)?;
    deleted.verdict()
}

impl Part {
    fn new(part: v1::DeletedPart) -> Part {
        let deletion = match part.deletion() {
            PartDeletion::Unspecified => "unknown",
            PartDeletion::Deleted => "deleted",
            PartDeletion::Pending => "pending",
            PartDeletion::Kept => "kept",
            PartDeletion::Unanswered => "unanswered",
        };
        Part {
            node_id: part.node_id.to_string(),
            address: part.address,
            lineage: part.lineage,
            deletion,
            reason: part.reason,
        }
    }

    fn place(&self) -> String {
        format!("node {} at {}", self.node_id, self.address)
    }

    fn words(&self) -> String {
        let place = self.place();
        match (self.deletion, self.reason.as_str()) {
            ("pending", "") => format!(
                "{place} has not deleted its part yet: it goes on, or does so when it is up"
            ),
            ("pending", why) => format!("{place} cannot delete its part: {why}; it goes on trying"),
            ("kept", why) => format!("{place} keeps its part: {why}"),
            (_, why) => format!("{place} did not say whether it has a part: {why}"),
        }
    }
}

impl Deleted {
    fn words(&self, known: bool) -> Vec<String> {
        let left: Vec<String> =
            self.parts.iter().filter(|p| p.deletion != "deleted").map(Part::words).collect();
        let gone: Vec<String> =
            self.parts.iter().filter(|p| p.deletion == "deleted").map(Part::place).collect();
        let first = match (left.is_empty(), known) {
            (true, true) => format!("snapshot {} deleted", self.uuid),
            (false, true) => format!("snapshot {} is being deleted", self.uuid),
            (_, false) if gone.is_empty() => format!(
                "snapshot {} is not known to the cluster, and no part of it was deleted",
                self.uuid
            ),
            (_, false) => format!(
                "snapshot {} is not known to the cluster; deleted what lay of it on {}",
                self.uuid,
                gone.join(", ")
            ),
        };
        [first].into_iter().chain(left).collect()
    }

    fn verdict(&self) -> Result<(), Failure> {
        let of = |deletion: &str| {
            self.parts
                .iter()
                .find(|p| p.deletion == deletion && (deletion != "pending" || !p.reason.is_empty()))
        };
        let uuid = &self.uuid;
        if let Some(part) = of("pending") {
            let what = format!("snapshot {uuid} is not deleted everywhere");
            return Err(Failure::new(
                exit::FAILED,
                what,
                part.words(),
                format!("remove the cause; see ddbctl snapshot status {uuid}"),
            ));
        }
        if let Some(part) = of("kept") {
            return Err(Failure::new(
                exit::FAILED,
                format!("not every part of snapshot {uuid} is deleted"),
                part.words(),
                "",
            ));
        }
        match of("unanswered") {
            Some(part) => Err(Failure::new(
                exit::UNREACHABLE,
                format!("not every node has been asked for its part of snapshot {uuid}"),
                part.words(),
                "repeat it",
            )),
            None => Ok(()),
        }
    }
}

impl View for Deleted {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::{snapshot::status::tests::UUID, term::output::Format};

    #[test]
    fn a_deletion_says_what_became_of_each_part_and_its_exit_code_whether_that_is_well() {
        let part = |node_id, deletion: PartDeletion, reason: &str| v1::DeletedPart {
            node_id,
            address: format!("localhost:{}", 8080 + node_id),
            lineage: "00c0ffee00c0ffee".into(),
            deletion: deletion.into(),
            reason: reason.into(),
        };
        let gone = || part(1, PartDeletion::Deleted, "");
        let cases = [
            ("gone", true, vec![gone(), part(2, PartDeletion::Deleted, "")]),
            ("one is away", true, vec![gone(), part(2, PartDeletion::Pending, "")]),
            (
                "one cannot",
                true,
                vec![
                    gone(),
                    part(
                        2,
                        PartDeletion::Pending,
                        "/backups/node-2: Read-only file system (os error 30)",
                    ),
                ],
            ),
            ("orphans", false, vec![gone(), part(2, PartDeletion::Deleted, "")]),
            (
                "orphans of another history",
                false,
                vec![part(1, PartDeletion::Kept, "it was written in lineage 00c0ffee00c0ffee")],
            ),
            (
                "orphans, and one is away",
                false,
                vec![gone(), part(2, PartDeletion::Unanswered, "localhost:8082 does not answer")],
            ),
            ("an earlier attempt has done it", false, vec![]),
        ];
        let mut story = String::new();
        for (name, known, parts) in cases {
            for format in [Format::Table, Format::Json] {
                let (mut console, out, words) = Console::recording(format);
                let known = known || parts.is_empty();
                let end = tell(
                    UUID.parse().unwrap(),
                    v1::DeleteSnapshotResponse { parts: parts.clone(), known },
                    &mut console,
                );
                let exit = console.finish(end);
                story += &format!(
                    "# {name}, {format:?}\nstdout:\n{}stderr:\n{}exit {exit}\n\n",
                    out.text(),
                    words.text()
                );
            }
        }
        crate::ctl::golden::check("deletion.txt", &story);
    }
}
