//! `ddbctl snapshot orphans`: parts that lie in the nodes' snapshot stores and are of no snapshot
//! that the cluster knows.

use indicatif::HumanBytes;
use serde::Serialize;

use super::status::service;
use crate::{
    ctl::{
        client::{Call, Client},
        term::{
            exit::{self, Failure},
            output::{Console, Look, View},
            table::{Number, Prose, Table, Text},
            text,
        },
    },
    proto::v1,
};

#[derive(Debug, Serialize)]
struct Orphans {
    orphans: Vec<Orphan>,
    unanswered: Vec<Unanswered>,
}

/// Its node's id is text: many readers of JSON cannot hold 64 bits.
#[derive(Debug, Serialize)]
struct Orphan {
    node_id: String,
    address: String,
    uuid: String,
    lineage: String,
    written_ms: u64,
    stored_bytes: u64,
    /// The former node that has left it; empty where the node itself has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    left_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    damage: String,
}

#[derive(Debug, Serialize)]
struct Unanswered {
    node_id: String,
    address: String,
    reason: String,
}

/// What a page holds.
enum Item {
    Lies(v1::Orphan),
    Silent(v1::UnansweredNode),
}

pub async fn list(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let items = client
        .pages(
            &Call::new("list the orphans"),
            |page_token| v1::ListOrphansRequest { page_size: 0, page_token },
            |channel, request| async move { service(channel).list_orphans(request).await },
            |page| {
                let silent = page.unanswered.into_iter().map(Item::Silent);
                (
                    page.orphans.into_iter().map(Item::Lies).chain(silent).collect(),
                    page.next_page_token,
                )
            },
        )
        .await?;
    tell(items, console)
}

fn tell(items: Vec<Item>, console: &mut Console) -> Result<(), Failure> {
    let mut all = Orphans { orphans: Vec::new(), unanswered: Vec::new() };
    for item in items {
        match item {
            Item::Lies(orphan) => all.orphans.push(Orphan::new(orphan)),
            Item::Silent(node) => {
                let node = Unanswered {
                    node_id: node.node_id.to_string(),
                    address: node.address,
                    reason: node.reason,
                };
                // Every page names it.
                if !all.unanswered.iter().any(|known| known.node_id == node.node_id) {
                    console.warn(&format!(
                        "node {} at {} did not say what lies in its snapshot store: {}",
                        node.node_id, node.address, node.reason
                    ));
                    all.unanswered.push(node);
                }
            }
        }
    }
    console.print(&all)?;
    match all.unanswered.first() {
        Some(node) => Err(Failure::new(
            exit::UNREACHABLE,
            "the list may lack what some nodes have",
            &node.reason,
            "repeat it when they are up",
        )),
        None => Ok(()),
    }
}

impl Orphan {
    fn new(orphan: v1::Orphan) -> Orphan {
        Orphan {
            node_id: orphan.node_id.to_string(),
            address: orphan.address,
            uuid: orphan.uuid,
            lineage: orphan.lineage,
            written_ms: orphan.written_ms,
            stored_bytes: orphan.stored_bytes,
            left_by: if orphan.left_by == 0 { String::new() } else { orphan.left_by.to_string() },
            damage: orphan.damage,
        }
    }
}

impl View for Orphans {
    fn text(&self, look: Look) -> String {
        let rows = self.orphans.iter().map(|o| {
            let written = if o.written_ms == 0 { String::new() } else { text::when(o.written_ms) };
            [
                o.uuid.clone(),
                o.lineage.clone(),
                o.node_id.clone(),
                o.address.clone(),
                written,
                look.age(o.written_ms),
                HumanBytes(o.stored_bytes).to_string(),
                o.left_by.clone(),
                o.damage.clone(),
            ]
        });
        Table::new(
            [
                Text("UUID"),
                Text("LINEAGE"),
                Number("NODE ID"),
                Text("ADDRESS"),
                Text("WRITTEN"),
                Text("AGE"),
                Number("STORED BYTES"),
                Number("LEFT BY"),
                Prose("DAMAGE"),
            ],
            rows,
        )
        .render(look.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::{snapshot::status::tests::UUID, term::output::Format};

    #[test]
    fn orphans_are_shown_in_every_format_and_a_node_that_is_silent_is_named_once() {
        let orphan = |node_id, written_ms, damage: &str| {
            let (address, lineage) = (
                format!("localhost:{}", 8080 + node_id),
                if written_ms == 0 { "0000000000000000" } else { "00c0ffee00c0ffee" },
            );
            Item::Lies(v1::Orphan {
                node_id,
                address,
                uuid: UUID.into(),
                lineage: lineage.into(),
                written_ms,
                stored_bytes: written_ms / 1000,
                damage: damage.into(),
                left_by: if node_id == 2 { 7 } else { 0 },
            })
        };
        let silent = || {
            Item::Silent(v1::UnansweredNode {
                node_id: 3,
                address: "localhost:8083".into(),
                reason: "localhost:8083 does not answer".into(),
            })
        };
        let mut story = String::new();
        for format in [Format::Table, Format::Json] {
            for items in [
                vec![],
                vec![
                    orphan(1, 1_735_689_599_000, ""),
                    orphan(2, 0, "manifest.json: it is cut short"),
                    silent(),
                    silent(),
                ],
            ] {
                let (mut console, out, words) = Console::recording(format);
                let end = tell(items, &mut console);
                let exit = console.finish(end);
                story +=
                    &format!("stdout:\n{}stderr:\n{}exit {exit}\n\n", out.text(), words.text());
            }
        }
        crate::ctl::golden::check("orphans.txt", &story);
    }
}
