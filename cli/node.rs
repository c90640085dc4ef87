//! `ddbctl node`: each node with its state and what it holds, and why it is not ready in its own
//! words. Without a quorum it is what the endpoints know by themselves.

use serde::Serialize;

use super::{
    args::{Node, NodeName},
    client::{Call, Client},
    cluster::{NodeLine, Overview, title, warn},
    departure,
    picture::{self, Stale, picture},
    removal,
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
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

/// A node that has another name.
#[derive(Debug, Serialize)]
struct Named {
    #[serde(rename = "node_id")]
    node: String,
    certificate_name: String,
    changed: bool,
}

pub async fn run(command: Node, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Node::List => list(client, console).await,
        Node::Remove { node, force, dry_run, etag, wait } => {
            let node = id_of(node, client).await?;
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
            let node = id_of(node, client).await?;
            let wait = wait.most();
            let asked = departure::Asked { node, replacement: 0, force, dry_run, etag, wait };
            departure::decommission(asked, client, console).await
        }
        Node::Replace { node, replacement, force, dry_run, etag, wait } => {
            let node = id_of(node, client).await?;
            let replacement = id_of(replacement, client).await?;
            let wait = wait.most();
            let asked = departure::Asked { node, replacement, force, dry_run, etag, wait };
            departure::replace(asked, client, console).await
        }
        Node::Cancel { node } => {
            let node = id_of(node, client).await?;
            departure::cancel(node, client, console).await
        }
        Node::Set { node, certificate_name: Some(name), .. } => {
            let node = id_of(node, client).await?;
            set_certificate_name(node, name, client, console).await
        }
        Node::Set { node, capacity, dry_run, force, wait, .. } => {
            let node = id_of(node, client).await?;
            let request = v1::SetCapacityRequest {
                node_id: node,
                // The flags have one of the two.
                capacity_percent: capacity.unwrap_or_default(),
                validate_only: dry_run,
                force,
            };
            departure::set(request, wait.most(), client, console).await
        }
        Node::Drain { node, wait } => {
            let node = id_of(node, client).await?;
            departure::drain(node, wait.most(), client, console).await
        }
        Node::Undrain { node } => {
            let node = id_of(node, client).await?;
            departure::undrain(node, client, console).await
        }
    }
}

/// The id of a node. An address is looked up among the nodes as they are now: where nobody can say
/// that, another node may be there by now.
async fn id_of(name: NodeName, client: &mut Client) -> Result<u64, Failure> {
    let address = match name {
        NodeName::Id(id) => return Ok(id),
        NodeName::Address(address) => address,
    };
    let seen = Overview::new(picture(client).await?);
    if seen.stale.is_some() {
        return Err(Failure::new(
            exit::UNREACHABLE,
            format!("which node is at {address} cannot be said now: no leader could be asked"),
            "",
            "name it by its id, or say it again later",
        ));
    }
    let there = seen.nodes.iter().find(|node| node.address == address);
    there.and_then(|node| node.id.parse().ok()).ok_or_else(|| {
        let nobody = format!("no node of the cluster is at {address}");
        Failure::new(exit::NOT_FOUND, nobody, "", "see ddbctl node list")
    })
}

/// Has other nodes know a node by another name.
async fn set_certificate_name(
    node: u64,
    certificate_name: String,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let what = format!("set the certificate's name of node {node}");
    let call = Call { what, again: "repeat it".into() };
    let request =
        v1::SetCertificateNameRequest { node_id: node, certificate_name: certificate_name.clone() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            picture::service(channel).set_certificate_name(request).await
        })
        .await?;
    let changed = answer.body.changed || answer.repeated;
    console.confirm(&match changed {
        true => format!("node {node} is known by {certificate_name} from now on"),
        false => format!("node {node} has been known by {certificate_name} before"),
    });
    console.print(&Named { node: node.to_string(), certificate_name, changed })
}

async fn list(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let seen = Overview::new(picture(client).await?);
    warn(&seen.stale, console);
    if seen.stale.is_some() {
        seen.outlook.lines().for_each(|line| console.warn(line));
    }
    console.print(&Nodes::of(seen))
}

impl View for Named {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

impl Nodes {
    pub fn of(Overview { cluster_id, lineage, nodes, stale, .. }: Overview) -> Nodes {
        Nodes { cluster_id, lineage, nodes, stale }
    }
}

impl View for Nodes {
    fn text(&self, look: Look) -> String {
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
        .render(look.columns);
        let reasons = self.nodes.iter().filter(|n| !n.reason.is_empty());
        let reasons: String = reasons
            .map(|n| format!("{} is {}: {}\n", n.id, state(n), text::line(&n.reason)))
            .collect();
        title(&self.cluster_id, &self.lineage) + &table + &reasons
    }
}
