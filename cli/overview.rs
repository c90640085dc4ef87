//! The cluster at a glance: its nodes, its partitions, and whether anything is wrong.

use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::{Cluster, Node},
    client::{Call, Client},
    exit::{self, Failure},
    output::{Console, View},
    table::Table,
};
use crate::proto::v1::{self, cluster_service_client::ClusterServiceClient};

#[derive(Debug, Serialize)]
pub struct Overview {
    cluster_id: String,
    lineage: String,
    replication_factor: u32,
    partitions: u32,
    groups: u32,
    nodes: Vec<NodeLine>,
    groups_without_leader: u32,
    groups_under_replicated: u32,
    /// Absent when nobody leads the meta group.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_leader: Option<String>,
    meta_under_replicated: bool,
    answered_by: String,
    sites: u64,
    relays: u64,
    healthy: bool,
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_list: Option<Vec<PartitionLine>>,
}

/// A node. Ids are text in documents: many readers of JSON cannot hold 64 bits.
#[derive(Clone, Debug, Serialize)]
struct NodeLine {
    id: String,
    address: String,
    capacity_percent: u32,
    reachable: bool,
    ready: bool,
    version: String,
    snapshot_store: bool,
    groups_wanted: u32,
    groups_led: u32,
}

#[derive(Debug, Serialize)]
struct PartitionLine {
    id: u32,
    group: u32,
    replicas: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
}

#[derive(Debug, Serialize)]
struct Nodes {
    nodes: Vec<NodeLine>,
}

#[derive(Debug, Serialize)]
struct Health {
    healthy: bool,
    problems: Vec<String>,
    nodes: usize,
    groups: u32,
}

pub async fn cluster(command: Cluster, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Cluster::Overview { partitions } => {
            let mut overview = look(client).await?;
            if partitions {
                overview.partition_list = Some(partition_list(client).await?);
            }
            console.print(&overview)
        }
        Cluster::Health => {
            let Overview { healthy, problems, nodes, groups, .. } = look(client).await?;
            let health = Health { healthy, problems, nodes: nodes.len(), groups };
            console.print(&health)?;
            health.judge()
        }
    }
}

pub async fn node(command: Node, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let Node::List = command;
    let nodes = client
        .pages(
            &Call::new("list the nodes"),
            |page_token| v1::ListNodesRequest { page_size: 0, page_token },
            |channel, request| async move { cluster_of(channel).list_nodes(request).await },
            |page| (page.nodes, page.next_page_token),
        )
        .await?;
    console.print(&Nodes { nodes: nodes.into_iter().map(NodeLine::new).collect() })
}

pub async fn look(client: &mut Client) -> Result<Overview, Failure> {
    let call = Call::new("describe the cluster");
    let request = v1::GetOverviewRequest {};
    let answer = client.call(&call, request, |channel, request| async move { cluster_of(channel).get_overview(request).await }).await?;
    Ok(Overview::new(answer.body))
}

async fn partition_list(client: &mut Client) -> Result<Vec<PartitionLine>, Failure> {
    let partitions = client
        .pages(
            &Call::new("list the partitions"),
            |page_token| v1::ListPartitionsRequest { page_size: 0, page_token },
            |channel, request| async move { cluster_of(channel).list_partitions(request).await },
            |page| (page.partitions, page.next_page_token),
        )
        .await?;
    Ok(partitions.into_iter().map(PartitionLine::new).collect())
}

impl Overview {
    fn new(v1: v1::GetOverviewResponse) -> Overview {
        let problems = problems(&v1);
        Overview {
            cluster_id: v1.cluster_id,
            lineage: v1.lineage,
            replication_factor: v1.replication_factor,
            partitions: v1.partitions,
            groups: v1.groups,
            nodes: v1.nodes.into_iter().map(NodeLine::new).collect(),
            groups_without_leader: v1.groups_without_leader,
            groups_under_replicated: v1.groups_under_replicated,
            meta_leader: id(v1.meta_leader),
            meta_under_replicated: v1.meta_under_replicated,
            answered_by: v1.answered_by.to_string(),
            sites: v1.sites,
            relays: v1.relays,
            healthy: problems.is_empty(),
            problems,
            partition_list: None,
        }
    }

    /// The node table as the guide shows it, sorted as text as there.
    pub fn node_table(&self) -> String {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        let rows = nodes.into_iter().map(|node| {
            let (host, port) = node.address.rsplit_once(':').unwrap_or((&node.address, ""));
            let host = host.trim_start_matches('[').trim_end_matches(']');
            [node.id.clone(), host.to_owned(), port.to_owned(), node.capacity_percent.to_string()]
        });
        let mut table = Table::new(["NODE ID", "HOST", "PORT", "CAPACITY %"], rows);
        let shape = [format!("PARTITIONS: {}", self.partitions), format!("REPLICATION FACTOR: {}", self.replication_factor)];
        // As wide as the largest id, so that the table has one shape whatever ids were drawn.
        table.first_width_min = u64::MAX.to_string().len();
        table.footer = Some([String::new(), String::new()].into_iter().chain(shape).collect());
        format!("Nodes\n{}", table.render())
    }
}

impl View for Overview {
    fn text(&self) -> String {
        let partitions = self.partition_list.as_deref().map(partition_table).unwrap_or_default();
        partitions + &self.node_table() + &health(&self.problems, self.nodes.len(), self.groups)
    }
}

impl View for Health {
    fn text(&self) -> String {
        health(&self.problems, self.nodes, self.groups)
    }
}

impl Health {
    fn judge(&self) -> Result<(), Failure> {
        let Some((first, others)) = self.problems.split_first() else { return Ok(()) };
        let more = if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
        Err(Failure::new(exit::FAILED, "the cluster is not healthy", format!("{first}{more}"), "look at ddbctl cluster overview"))
    }
}

impl View for Nodes {
    fn text(&self) -> String {
        let rows = self.nodes.iter().map(|n| {
            let state = match (n.reachable, n.ready) {
                (false, _) => "unreachable",
                (true, false) => "not ready",
                (true, true) => "ready",
            };
            let snapshots = if n.snapshot_store { "yes" } else { "no" };
            let [capacity, wanted, led] = [n.capacity_percent, n.groups_wanted, n.groups_led].map(|n| n.to_string());
            [n.id.clone(), n.address.clone(), state.into(), capacity, wanted, led, snapshots.into(), n.version.clone()]
        });
        Table::new(["NODE ID", "ADDRESS", "STATE", "CAPACITY %", "GROUPS", "LEADS", "SNAPSHOTS", "VERSION"], rows).render()
    }
}

fn partition_table(partitions: &[PartitionLine]) -> String {
    let rows = partitions.iter().map(|p| [p.id.to_string(), p.group.to_string(), p.leader.clone().unwrap_or_default(), p.replicas.join(" ")]);
    format!("Partitions\n{}", Table::new(["PARTITION", "GROUP", "LEADER", "REPLICAS"], rows).render())
}

fn health(problems: &[String], nodes: usize, groups: u32) -> String {
    if problems.is_empty() {
        return format!("healthy: {nodes} nodes ready, {groups} groups led and fully replicated\n");
    }
    problems.iter().map(|problem| format!("unhealthy: {}\n", super::text::line(problem))).collect()
}

/// Everything that keeps a cluster from being healthy.
fn problems(overview: &v1::GetOverviewResponse) -> Vec<String> {
    let nodes = overview.nodes.iter().filter_map(|node| match (node.reachable, node.ready) {
        (false, _) => Some(format!("node {} at {} does not answer", node.id, node.address)),
        (true, false) => Some(format!("node {} at {} is not ready", node.id, node.address)),
        (true, true) => None,
    });
    let of = overview.groups;
    let groups = [
        (overview.meta_leader == 0, "the meta group has no leader: the configuration cannot change".to_owned()),
        (overview.meta_under_replicated, "the meta group has fewer replicas than it should".to_owned()),
        (overview.groups_without_leader > 0, format!("{} of {of} groups have no leader: writes to their sites wait", overview.groups_without_leader)),
        (overview.groups_under_replicated > 0, format!("{} of {of} groups have fewer replicas than they should", overview.groups_under_replicated)),
        (overview.nodes.is_empty(), "there are no nodes".to_owned()),
    ];
    nodes.chain(groups.into_iter().filter_map(|(wrong, problem)| wrong.then_some(problem))).collect()
}

impl NodeLine {
    fn new(node: v1::Node) -> NodeLine {
        NodeLine {
            id: node.id.to_string(),
            address: node.address,
            capacity_percent: node.capacity_percent,
            reachable: node.reachable,
            ready: node.ready,
            version: node.version,
            snapshot_store: node.snapshot_store,
            groups_wanted: node.groups_wanted,
            groups_led: node.groups_led,
        }
    }
}

impl PartitionLine {
    fn new(partition: v1::Partition) -> PartitionLine {
        let replicas = partition.replicas.iter().map(u64::to_string).collect();
        PartitionLine { id: partition.id, group: partition.group, replicas, leader: id(partition.leader) }
    }
}

fn id(id: u64) -> Option<String> {
    (id != 0).then(|| id.to_string())
}

fn cluster_of(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel).max_decoding_message_size(crate::limits::MESSAGE_BYTES_MAX)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ctl::output::Format;

    fn node(id: u64, address: &str) -> v1::Node {
        v1::Node {
            id,
            address: address.into(),
            capacity_percent: 100,
            reachable: true,
            ready: true,
            version: "0.1.0".into(),
            snapshot_store: true,
            groups_wanted: 64,
            groups_led: 21,
        }
    }

    /// The cluster of the guide.
    pub fn guide() -> v1::GetOverviewResponse {
        v1::GetOverviewResponse {
            cluster_id: "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11".into(),
            lineage: "00c0ffee00c0ffee".into(),
            replication_factor: 3,
            partitions: 1024,
            groups: 64,
            nodes: vec![node(4678103818387409268, "localhost:8181"), node(8131915220083707319, "localhost:8080"), node(16681865894510149803, "localhost:8282")],
            groups_without_leader: 0,
            groups_under_replicated: 0,
            meta_leader: 8131915220083707319,
            answered_by: 4678103818387409268,
            sites: 2,
            relays: 0,
            meta_under_replicated: false,
        }
    }

    fn sick() -> v1::GetOverviewResponse {
        let mut overview = guide();
        overview.nodes[0].reachable = false;
        overview.nodes[0].address = "[::1]:8181".into();
        overview.nodes[1].ready = false;
        overview.groups_without_leader = 3;
        overview.groups_under_replicated = 64;
        overview.meta_leader = 0;
        overview.meta_under_replicated = true;
        overview
    }

    #[test]
    fn the_node_table_is_the_guides_byte_for_byte() {
        let golden = concat!(
            "Nodes\n",
            "+----------------------+-----------+------------------+-----------------------+\n",
            "|       NODE ID        |   HOST    |       PORT       |      CAPACITY %       |\n",
            "+----------------------+-----------+------------------+-----------------------+\n",
            "| 16681865894510149803 | localhost |             8282 |                   100 |\n",
            "|  4678103818387409268 | localhost |             8181 |                   100 |\n",
            "|  8131915220083707319 | localhost |             8080 |                   100 |\n",
            "+----------------------+-----------+------------------+-----------------------+\n",
            "|                                    PARTITIONS: 1024 | REPLICATION FACTOR: 3 |\n",
            "+----------------------+-----------+------------------+-----------------------+\n",
        );
        assert_eq!(Overview::new(guide()).node_table(), golden);
    }

    #[test]
    fn a_cluster_is_shown_in_every_format() {
        let mut story = String::new();
        for (name, v1) in [("healthy", guide()), ("sick", sick())] {
            for format in [Format::Table, Format::Json, Format::Yaml] {
                let (mut console, out, _) = Console::recording(format);
                let mut overview = Overview::new(v1.clone());
                let partition = v1::Partition { id: 0, group: 0, replicas: vec![4678103818387409268, 5], leader: 5 };
                overview.partition_list = Some(vec![PartitionLine::new(partition)]);
                console.print(&overview).unwrap();
                console.print(&Nodes { nodes: overview.nodes.clone() }).unwrap();
                story += &format!("# {name}, {format:?}\n{}", out.text());
            }
        }
        crate::ctl::golden::check("overview.txt", &story);
    }

    #[test]
    fn each_thing_that_is_wrong_is_named() {
        assert!(problems(&guide()).is_empty());
        assert_eq!(problems(&sick()).len(), 6);
    }
}
