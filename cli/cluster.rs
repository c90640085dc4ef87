//! `ddbctl cluster`: its nodes, its partitions, and whether anything is wrong.
//!
//! `health` and `overview` begin with what works and what one more loss would stop (`outlook`).
//! Both answer without a quorum, too (`picture`). The exit code of `health` is a verdict: 0 only
//! when a leader spoke for the whole cluster and nothing is wrong.

use std::time::Duration;

use serde::Serialize;

use super::{
    args::Cluster,
    client::{Answer, Call, Client},
    departure, joins,
    outlook::Outlook,
    picture::{Picture, Stale, agreed_or_alone, picture, service},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        table::{Number, Prose, Table, Text},
    },
    upgrade,
};
use crate::base::limits;
use crate::proto::v1;

#[derive(Debug, Serialize)]
pub struct Overview {
    pub outlook: Outlook,
    pub cluster_id: String,
    pub lineage: String,
    replication_factor: u32,
    partitions: u32,
    groups: u32,
    pub nodes: Vec<NodeLine>,
    groups_without_leader: u32,
    groups_under_replicated: u32,
    /// Absent when nobody leads the meta group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "meta_leader_id")]
    meta_leader: Option<String>,
    meta_under_replicated: bool,
    answered_by: String,
    sites: u64,
    relays: u64,
    healthy: bool,
    problems: Vec<String>,
    #[serde(flatten)]
    pub stale: Option<Stale>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_list: Option<Vec<PartitionLine>>,
}

/// A node. Ids are text in documents: many readers of JSON cannot hold 64 bits.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLine {
    pub id: String,
    pub address: String,
    pub capacity_percent: u32,
    pub reachable: bool,
    pub ready: bool,
    pub version: String,
    pub snapshot_store: bool,
    pub groups_wanted: u32,
    pub groups_led: u32,
    /// Whether it is being decommissioned.
    pub leaving: bool,
    /// Whether it is drained: it leads nothing, and is not ready for clients, as it was told.
    pub draining: bool,
    /// The name in its certificate, by which other nodes know it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_name: String,
    /// Why it is not ready, or could not be asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Debug, Serialize)]
struct PartitionLine {
    id: u32,
    group: u32,
    #[serde(rename = "replica_ids")]
    replicas: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "leader_id")]
    leader: Option<String>,
}

#[derive(Debug, Serialize)]
struct Health {
    outlook: Outlook,
    healthy: bool,
    problems: Vec<String>,
    cluster_id: String,
    lineage: String,
    nodes: usize,
    groups: u32,
    #[serde(flatten)]
    stale: Option<Stale>,
}

#[derive(Debug, Serialize)]
struct Founded {
    cluster_id: String,
    created: bool,
}

pub async fn run(
    command: Cluster,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        Cluster::Overview { partitions } => {
            let mut overview = Overview::new(picture(client).await?);
            if partitions {
                overview.partition_list = Some(partition_list(client).await?);
            }
            warn(&overview.stale, console);
            console.print(&overview)
        }
        Cluster::Health { wait } => {
            let health = healthy_within(wait.map_or(Duration::ZERO, |wait| wait.0), client).await?;
            warn(&health.stale, console);
            console.print(&health)?;
            health.judge()
        }
        Cluster::Init => init(client, console).await,
        Cluster::Rebalance { dry_run, force, etag, wait } => {
            let request = v1::RebalanceRequest { validate_only: dry_run, etag, force };
            departure::rebalance(request, wait.most(), client, console).await
        }
        Cluster::Upgrade(command) => upgrade::run(command, client, console).await,
        Cluster::Joins { how } => joins::run(how, client, console).await,
    }
}

/// The first look that finds nothing wrong, or the last one within the time. Nodes that do not
/// answer may be starting: that is waited for as well.
async fn healthy_within(wait: Duration, client: &mut Client) -> Result<Health, Failure> {
    let until = client.now() + wait;
    loop {
        let seen = picture(client).await.map(Overview::new);
        let settled = match &seen {
            Ok(overview) => overview.healthy,
            Err(failure) => failure.exit != exit::UNREACHABLE,
        };
        if settled || client.now() + limits::CTL_HEALTH_LOOK > until {
            return seen.map(Health::of);
        }
        tokio::time::sleep(limits::CTL_HEALTH_LOOK).await;
    }
}

/// Nodes that were started a moment ago are waited for, as long as the timeout allows.
async fn init(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    client.be_patient();
    let call = Call { what: "found a cluster".into(), again: "repeat it".into() };
    let request = v1::InitClusterRequest {};
    let Answer { body, repeated } = client
        .call(&call, request, |channel, request| async move {
            service(channel).init_cluster(request).await
        })
        .await?;
    let created = body.created || repeated;
    console.say(if created {
        "the cluster is founded; the nodes that wait join it by themselves"
    } else {
        "they belong to a cluster already"
    });
    console.print(&Founded { cluster_id: body.cluster_id, created })
}

/// The cluster as its leader knows it.
pub async fn look(client: &mut Client) -> Result<Overview, Failure> {
    let (call, request) =
        (Call::new("describe the cluster"), v1::GetOverviewRequest { local: false });
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).get_overview(request).await
        })
        .await?;
    Ok(Overview::new(Picture { overview: answer.body, stale: None }))
}

/// Says that a result may be old, before it is shown.
pub fn warn(stale: &Option<Stale>, console: &mut Console) {
    if let Some(stale) = stale {
        stale.warn(console);
    }
}

async fn partition_list(client: &mut Client) -> Result<Vec<PartitionLine>, Failure> {
    let (partitions, _) = agreed_or_alone(client, |mut client, local| async move {
        client
            .pages_of(
                &Call::new("list the partitions"),
                |page_token| v1::ListPartitionsRequest { page_size: 0, page_token, local },
                |channel, request| async move { service(channel).list_partitions(request).await },
                |page| (page.partitions, page.next_page_token, page.local),
            )
            .await
    })
    .await?;
    Ok(partitions.into_iter().map(PartitionLine::new).collect())
}

impl Overview {
    pub fn new(Picture { overview: v1, stale }: Picture) -> Overview {
        let mut problems = problems(&v1);
        if let Some(stale) = stale.as_ref().filter(|_| problems.is_empty()) {
            problems.push(stale.reason().to_owned());
        }
        Overview {
            outlook: Outlook::of(&v1),
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
            stale,
            partition_list: None,
        }
    }

    /// The node table as the guide shows it, sorted as text as there: of one shape whatever ids
    /// were drawn, and on every terminal.
    pub fn node_table(&self) -> String {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        let rows = nodes.into_iter().map(|node| {
            let (host, port) = node.address.rsplit_once(':').unwrap_or((&node.address, ""));
            let host = host.trim_start_matches('[').trim_end_matches(']');
            [node.id.clone(), host.to_owned(), port.to_owned(), node.capacity_percent.to_string()]
        });
        let columns = [Number("NODE ID"), Text("HOST"), Number("PORT"), Number("CAPACITY %")];
        let table = Table::new(columns, rows).with_footer([
            " ".repeat(u64::MAX.to_string().len()),
            String::new(),
            format!("PARTITIONS: {}", self.partitions),
            format!("REPLICATION FACTOR: {}", self.replication_factor),
        ]);
        format!("Nodes\n{}", table.render(None))
    }
}

impl View for Overview {
    fn text(&self, look: Look) -> String {
        let list = self.partition_list.as_deref().map(|list| partition_table(list, look));
        headline(&self.outlook)
            + &title(&self.cluster_id, &self.lineage)
            + &list.unwrap_or_default()
            + &self.node_table()
            + &health(&self.problems, self.nodes.len(), self.groups)
    }
}

impl View for Health {
    fn text(&self, _: Look) -> String {
        headline(&self.outlook)
            + &title(&self.cluster_id, &self.lineage)
            + &health(&self.problems, self.nodes, self.groups)
    }
}

impl View for Founded {
    fn text(&self, _: Look) -> String {
        format!("cluster = {}\n", self.cluster_id)
    }
}

impl Health {
    fn of(seen: Overview) -> Health {
        Health {
            outlook: seen.outlook,
            healthy: seen.healthy,
            problems: seen.problems,
            cluster_id: seen.cluster_id,
            lineage: seen.lineage,
            nodes: seen.nodes.len(),
            groups: seen.groups,
            stale: seen.stale,
        }
    }

    fn judge(&self) -> Result<(), Failure> {
        let Some((first, others)) = self.problems.split_first() else { return Ok(()) };
        let more =
            if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
        Err(Failure::new(
            exit::FAILED,
            "the cluster is not healthy",
            format!("{first}{more}"),
            "look at ddbctl node list",
        ))
    }
}

fn headline(outlook: &Outlook) -> String {
    outlook.lines().map(|line| super::term::text::line(line) + "\n").collect()
}

/// Which cluster is shown. A server that does not say has none to show.
pub fn title(cluster_id: &str, lineage: &str) -> String {
    match (cluster_id, lineage) {
        ("", _) => String::new(),
        (id, "") => format!("Cluster {id}\n"),
        (id, lineage) => format!("Cluster {id}, lineage {lineage}\n"),
    }
}

fn partition_table(partitions: &[PartitionLine], look: Look) -> String {
    let rows = partitions.iter().map(|p| {
        [
            p.id.to_string(),
            p.group.to_string(),
            p.leader.clone().unwrap_or_default(),
            p.replicas.join(" "),
        ]
    });
    let table = Table::new(
        [Number("PARTITION"), Number("GROUP"), Number("LEADER"), Prose("REPLICAS")],
        rows,
    );
    format!("Partitions\n{}", table.render(look.columns))
}

fn health(problems: &[String], nodes: usize, groups: u32) -> String {
    if problems.is_empty() {
        return format!("healthy: {nodes} nodes ready, {groups} groups led and fully replicated\n");
    }
    problems
        .iter()
        .map(|problem| format!("unhealthy: {}\n", super::term::text::line(problem)))
        .collect()
}

/// What a cluster lacks that has fewer nodes than each group should have replicas.
fn too_few(overview: &v1::GetOverviewResponse) -> String {
    let (nodes, replicas) = (overview.nodes.len(), overview.replication_factor);
    if nodes == 0 || nodes >= replicas as usize {
        return String::new();
    }
    format!(
        ": each is for {replicas} nodes, and the cluster has {nodes}; it works, and is not \
         redundant until others join"
    )
}

/// Everything that keeps a cluster from being healthy.
fn problems(overview: &v1::GetOverviewResponse) -> Vec<String> {
    // A removal is an entry of the meta group's log, and each group's leader carries it out.
    let may_remove = overview.meta_leader != 0 && overview.groups_without_leader == 0;
    let nodes = overview.nodes.iter().filter_map(|node| match (node.reachable, node.ready) {
        (false, _) => {
            let way = may_remove
                .then(|| format!("; if it is lost for good: ddbctl node remove {}", node.id));
            Some(format!(
                "node {} at {} does not answer{}{}",
                node.id,
                node.address,
                because(node),
                way.unwrap_or_default()
            ))
        }
        (true, false) => {
            Some(format!("node {} at {} is not ready{}", node.id, node.address, because(node)))
        }
        (true, true) => None,
    });
    let of = overview.groups;
    let groups = [
        (
            overview.meta_leader == 0,
            "the meta group has no leader: the configuration cannot change".to_owned(),
        ),
        (
            overview.meta_under_replicated,
            "the meta group has fewer replicas than it should".to_owned(),
        ),
        (
            overview.groups_without_leader > 0,
            format!(
                "{} of {of} groups have no leader: writes to their sites wait",
                overview.groups_without_leader
            ),
        ),
        (
            overview.groups_under_replicated > 0,
            format!(
                "{} of {of} groups have fewer replicas than they should{}",
                overview.groups_under_replicated,
                too_few(overview)
            ),
        ),
        (overview.nodes.is_empty(), "there are no nodes".to_owned()),
    ];
    nodes
        .chain(groups.into_iter().filter_map(|(wrong, problem)| wrong.then_some(problem)))
        .collect()
}

/// A node's reason, without its address, which stands before it.
fn because(node: &v1::Node) -> String {
    let reason = node
        .reason
        .strip_prefix(&node.address)
        .unwrap_or(&node.reason)
        .trim_start_matches([':', ' ']);
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

impl NodeLine {
    pub fn new(node: v1::Node) -> NodeLine {
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
            leaving: node.leaving,
            draining: node.draining,
            certificate_name: node.certificate_name,
            reason: node.reason,
        }
    }
}

impl PartitionLine {
    fn new(partition: v1::Partition) -> PartitionLine {
        let replicas = partition.replicas.iter().map(u64::to_string).collect();
        PartitionLine {
            id: partition.id,
            group: partition.group,
            replicas,
            leader: id(partition.leader),
        }
    }
}

fn id(id: u64) -> Option<String> {
    (id != 0).then(|| id.to_string())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

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
            reason: String::new(),
            leaving: false,
            draining: false,
            certificate_name: String::new(),
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
            nodes: vec![
                node(4678103818387409268, "localhost:8181"),
                node(8131915220083707319, "localhost:8080"),
                node(16681865894510149803, "localhost:8282"),
            ],
            groups_without_leader: 0,
            groups_under_replicated: 0,
            meta_leader: 8131915220083707319,
            answered_by: 4678103818387409268,
            sites: 2,
            relays: 0,
            meta_under_replicated: false,
            voter_sets: [(true, 1), (false, 64)]
                .map(|(meta, groups)| voter_set(meta, groups))
                .into(),
            local: None,
            joins_need_token: false,
        }
    }

    fn voter_set(meta: bool, groups: u32) -> v1::VoterSet {
        let voters = vec![4678103818387409268, 8131915220083707319, 16681865894510149803];
        v1::VoterSet { voters, groups, groups_led: groups, meta }
    }

    fn agreed(overview: v1::GetOverviewResponse) -> Picture {
        Picture { overview, stale: None }
    }

    fn sick() -> v1::GetOverviewResponse {
        let mut overview = guide();
        overview.nodes[0].reachable = false;
        overview.nodes[0].address = "[::1]:8181".into();
        overview.nodes[0].reason = "[::1]:8181 cannot be reached: Connection refused".into();
        overview.nodes[1].ready = false;
        overview.nodes[1].reason = "the meta group has no leader; looking for node \
                                    4678103818387409268 ([::1]:8181: Connection refused)"
            .into();
        overview.groups_without_leader = 3;
        overview.groups_under_replicated = 64;
        overview.meta_leader = 0;
        overview.meta_under_replicated = true;
        overview.voter_sets[0].groups_led = 0;
        overview.voter_sets[1].groups_led = 61;
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
        assert_eq!(Overview::new(agreed(guide())).node_table(), golden);
    }

    /// A removal needs the meta group, and then every group: whoever follows the advice must not
    /// be refused.
    #[test]
    fn a_removal_is_advised_only_where_it_can_be_carried_out() {
        let mut overview = guide();
        overview.nodes[0].reachable = false;
        let advised = |overview: &v1::GetOverviewResponse| {
            problems(overview).iter().any(|problem| problem.contains("ddbctl node remove"))
        };
        assert!(advised(&overview));
        assert!(!advised(&v1::GetOverviewResponse { meta_leader: 0, ..overview.clone() }));
        assert!(!advised(&v1::GetOverviewResponse { groups_without_leader: 1, ..overview }));
    }

    #[test]
    fn a_cluster_is_shown_in_every_format() {
        let mut story = String::new();
        let stale = crate::ctl::picture::tests::stale();
        let apart = Picture { overview: sick(), stale: Some(stale) };
        for (name, picture) in
            [("healthy", agreed(guide())), ("sick", agreed(sick())), ("apart", apart)]
        {
            for format in [Format::Table, Format::Json, Format::Yaml] {
                let (mut console, out, _) = Console::recording(format);
                let mut overview = Overview::new(picture.clone());
                let partition = v1::Partition {
                    id: 0,
                    group: 0,
                    replicas: vec![4678103818387409268, 5],
                    leader: 5,
                };
                overview.partition_list = Some(vec![PartitionLine::new(partition)]);
                console.print(&overview).unwrap();
                let health = Health::of(Overview::new(picture.clone()));
                console.print(&health).unwrap();
                console.print(&crate::ctl::node::Nodes::of(overview)).unwrap();
                story += &format!("# {name}, {format:?}\n{}", out.text());
            }
        }
        crate::ctl::golden::check("cluster.txt", &story);
    }

    #[test]
    fn each_thing_that_is_wrong_is_named() {
        assert!(problems(&guide()).is_empty());
        assert_eq!(problems(&sick()).len(), 6);
    }
}
