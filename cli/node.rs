//! `ddbctl node`: each node with its state and what it holds, and why it is not ready in its own
//! words. Without a quorum it is what the endpoints know by themselves.

use serde::Serialize;

use super::{
    args::Node,
    client::Client,
    cluster::{NodeLine, Overview, title, warn},
    departure,
    picture::{Stale, picture},
    removal,
    term::{
        exit::Failure,
        output::{Console, View},
        table::{Number, Table, Text},
        text,
    },
};
use crate::proto::v1;

#[derive(Debug, Serialize)]
pub struct Nodes {
    pub cluster_id: String,
    pub lineage: String,
    pub nodes: Vec<NodeLine>,
    #[serde(flatten)]
    pub stale: Option<Stale>,
}

pub async fn run(command: Node, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Node::List => list(client, console).await,
        Node::Remove { node, force, dry_run, etag, wait } => {
            let request = v1::RemoveNodeRequest {
                node_id: node,
                force,
                validate_only: dry_run,
                etag,
                replacement_id: 0,
            };
            removal::run(request, wait.most(), client, console).await
        }
        Node::Decommission { node, force, dry_run, etag, wait } => {
            let wait = wait.most();
            let asked = departure::Asked { node, replacement: 0, force, dry_run, etag, wait };
            departure::decommission(asked, client, console).await
        }
        Node::Replace { node, replacement, force, dry_run, etag, wait } => {
            let wait = wait.most();
            let asked = departure::Asked { node, replacement, force, dry_run, etag, wait };
            departure::replace(asked, client, console).await
        }
        Node::Cancel { node } => departure::cancel(node, client, console).await,
        Node::Set { node, capacity, dry_run, force, wait } => {
            let request = v1::SetCapacityRequest {
                node_id: node,
                capacity_percent: capacity,
                validate_only: dry_run,
                force,
            };
            departure::set(request, wait.most(), client, console).await
        }
        Node::Drain { node, wait } => departure::drain(node, wait.most(), client, console).await,
        Node::Undrain { node } => departure::undrain(node, client, console).await,
    }
}

async fn list(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let seen = Overview::new(picture(client).await?);
    warn(&seen.stale, console);
    if seen.stale.is_some() {
        seen.outlook.lines().for_each(|line| console.warn(line));
    }
    console.print(&Nodes::of(seen))
}

impl Nodes {
    pub fn of(Overview { cluster_id, lineage, nodes, stale, .. }: Overview) -> Nodes {
        Nodes { cluster_id, lineage, nodes, stale }
    }
}

impl View for Nodes {
    fn text(&self, columns: Option<usize>) -> String {
        let state = |n: &NodeLine| match (n.reachable, n.ready) {
            (false, _) => "unreachable",
            (true, false) => "not ready",
            (true, true) if n.leaving => "leaving",
            (true, true) if n.draining => "drained",
            (true, true) => "ready",
        };
        let rows = self.nodes.iter().map(|n| {
            let snapshots = if n.snapshot_store { "yes" } else { "no" };
            let [capacity, wanted, led] =
                [n.capacity_percent, n.groups_wanted, n.groups_led].map(|n| n.to_string());
            [
                n.id.clone(),
                n.address.clone(),
                state(n).into(),
                capacity,
                wanted,
                led,
                snapshots.into(),
                n.version.clone(),
            ]
        });
        let table = Table::new(
            [
                Number("NODE ID"),
                Text("ADDRESS"),
                Text("STATE"),
                Number("CAPACITY %"),
                Number("GROUPS"),
                Number("LEADS"),
                Text("SNAPSHOTS"),
                Text("VERSION"),
            ],
            rows,
        )
        .render(columns);
        let reasons = self.nodes.iter().filter(|n| !n.reason.is_empty());
        let reasons: String = reasons
            .map(|n| format!("{} is {}: {}\n", n.id, state(n), text::line(&n.reason)))
            .collect();
        title(&self.cluster_id, &self.lineage) + &table + &reasons
    }
}
