//! `ddbctl node`: each node with its state and what it holds.

use serde::Serialize;

use super::{
    args::Node,
    client::{Call, Client},
    cluster::{NodeLine, Overview, seen_apart, service, title},
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
}

pub async fn run(command: Node, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Node::List => list(client, console).await,
        Node::Remove { node, force, dry_run, etag } => {
            let request =
                v1::RemoveNodeRequest { node_id: node, force, validate_only: dry_run, etag };
            removal::run(request, client, console).await
        }
    }
}

async fn list(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let listed = client
        .pages(
            &Call::new("list the nodes"),
            |page_token| v1::ListNodesRequest { page_size: 0, page_token },
            |channel, request| async move { service(channel).list_nodes(request).await },
            |mut page| {
                let next = std::mem::take(&mut page.next_page_token);
                (vec![page], next)
            },
        )
        .await;
    match listed {
        Ok(pages) => {
            let (cluster_id, lineage) = pages
                .first()
                .map(|page| (page.cluster_id.clone(), page.lineage.clone()))
                .unwrap_or_default();
            let nodes = pages.into_iter().flat_map(|page| page.nodes).map(NodeLine::new).collect();
            console.print(&Nodes { cluster_id, lineage, nodes })
        }
        Err(failure) => {
            let Some(Overview { cluster_id, lineage, nodes, .. }) =
                seen_apart(client, &failure, client.timeout()).await
            else {
                return Err(failure);
            };
            console.print(&Nodes { cluster_id, lineage, nodes })?;
            Err(failure)
        }
    }
}

impl View for Nodes {
    fn text(&self, columns: Option<usize>) -> String {
        let state = |n: &NodeLine| match (n.reachable, n.ready) {
            (false, _) => "unreachable",
            (true, false) => "not ready",
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
