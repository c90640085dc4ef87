//! Nodes that are lost are removed, and others take their places; versions change one node at a
//! time.

use std::collections::BTreeMap;

use devicedb::proto::v1::Bucket;

use crate::harness::{Client, Cluster, Node, Options, SOON, eventually};

/// What the cluster has acknowledged, key by key.
pub type Acknowledged = BTreeMap<String, String>;

pub async fn four_sites(client: &Client) {
    for site in ["dock", "mill", "pier", "shed"] {
        client.add_site(site).await.unwrap();
    }
}

/// Writes a key into every site and notes what was acknowledged. A write that waits for a new
/// leader is repeated.
pub async fn writes(client: &Client, round: &str, acknowledged: &mut Acknowledged) {
    for site in ["dock", "mill", "pier", "shed"] {
        let value = format!("{site} in round {round}");
        eventually("a write is acknowledged", SOON, async || {
            client.put(site, Bucket::Default, round, value.as_str()).await
        })
        .await;
        acknowledged.insert(format!("{site}/{round}"), value);
    }
}

/// Every node that runs reads all that was acknowledged.
pub async fn all_is_there(cluster: &Cluster, acknowledged: &Acknowledged) {
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let client = node.client();
        for (place, value) in acknowledged {
            let (site, key) = place.split_once('/').unwrap();
            let read = client.values(site, Bucket::Default, key).await.unwrap();
            assert_eq!(read, [value.as_str()], "{place} at {}", node.name);
        }
    }
}

pub async fn id_of(cluster: &Cluster, node: &Node) -> u64 {
    let overview = cluster.client().overview().await.unwrap();
    let endpoint = node.endpoint();
    overview.nodes.iter().find(|seen| seen.address == endpoint).expect("it is a member").id
}

/// The disk of a node is lost with its process.
pub fn lose(node: &mut Node) {
    node.kill9();
    std::fs::remove_dir_all(&node.store).unwrap();
}

/// A node with an empty store joins by all addresses that the cluster ever had.
async fn joins(cluster: &mut Cluster) {
    let addresses: Vec<String> =
        cluster.nodes.iter().filter(|node| node.is_running()).map(Node::endpoint).collect();
    let mut newcomer = cluster.further();
    let at = newcomer.args.iter().position(|word| word == "--join").unwrap();
    newcomer.args[at + 1] = addresses.join(",");
    newcomer.start();
    newcomer.wait_ready().await;
    cluster.nodes.push(newcomer);
}

/// The repair that the manual prescribes, ended by the health that it promises.
pub async fn repaired(cluster: &Cluster) {
    cluster.ctl(&["cluster", "health", "--wait", "60s"]).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_lost_and_replaced_one_after_the_other_until_none_of_the_first_is_left() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    for round in 0..4 {
        writes(&cluster.client(), &format!("{round} before"), &mut acknowledged).await;
        let lost = id_of(&cluster, &cluster.nodes[round]).await;
        lose(&mut cluster.nodes[round]);
        writes(&cluster.client(), &format!("{round} between"), &mut acknowledged).await;
        // Whichever comes first: both are the way of somebody.
        let remove = ["node", "remove", &lost.to_string()].map(str::to_owned);
        let remove: Vec<&str> = remove.iter().map(String::as_str).collect();
        if round % 2 == 0 {
            cluster.ctl(&remove).await.exits(0).says("is removed");
            joins(&mut cluster).await;
        } else {
            joins(&mut cluster).await;
            cluster.ctl(&remove).await.exits(0).says("is removed");
        }
        repaired(&cluster).await;
        cluster.ctl(&remove).await.exits(0).says("was removed before");
    }
    all_is_there(&cluster, &acknowledged).await;
    let overview = cluster.client().overview().await.unwrap();
    assert_eq!(overview.nodes.len(), 3, "{overview:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_that_comes_back_is_refused_says_so_and_ends() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let gone = id_of(&cluster, &cluster.nodes[3]).await.to_string();
    cluster.nodes[3].kill9();
    cluster.ctl(&["node", "remove", &gone]).await.exits(0);
    repaired(&cluster).await;
    for _ in 0..2 {
        cluster.nodes[3].start();
        let status = cluster.nodes[3].wait_ended().await;
        let log = cluster.nodes[3].log();
        assert_eq!(status.code(), Some(1), "{log}");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(&format!("node {gone} was removed from its cluster")), "{log}");
    }
    // What it held is as it left it, and nobody has heard it.
    all_is_there(&cluster, &acknowledged).await;
    repaired(&cluster).await;
    // With an empty store it is another node.
    std::fs::remove_dir_all(&cluster.nodes[3].store).unwrap();
    cluster.nodes[3].start();
    cluster.settled().await;
    assert_ne!(id_of(&cluster, &cluster.nodes[3]).await.to_string(), gone);
    all_is_there(&cluster, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_is_removed_only_by_force_and_ends_by_itself() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let lives = id_of(&cluster, &cluster.nodes[3]).await.to_string();
    cluster.ctl(&["node", "remove", &lives]).await.exits(5).says(&format!("node {lives} answers"));
    let plan = cluster.ctl(&["node", "remove", &lives, "--dry-run"]).await.exits(1);
    let plan = plan.says("NODE_LIVES refuses, unless forced").out();
    let etag = plan.lines().find_map(|line| line.strip_prefix("etag = ")).unwrap().to_owned();
    // A plan is carried out on the members that it was made for.
    let old = "0000000000000001";
    cluster
        .ctl(&["node", "remove", &lives, "--force", "--etag", old])
        .await
        .exits(5)
        .says("have changed since");
    cluster
        .ctl(&["node", "remove", &lives, "--force", "--etag", "plan 9"])
        .await
        .exits(2)
        .says("is no etag");
    cluster.ctl(&["node", "remove", &lives, "--force", "--etag", &etag]).await.exits(0);
    let status = cluster.nodes[3].wait_ended().await;
    assert_eq!(status.code(), Some(1), "{}", cluster.nodes[3].log());
    assert!(cluster.nodes[3].log().contains("was removed from its cluster"));
    repaired(&cluster).await;
    all_is_there(&cluster, &acknowledged).await;
    cluster.ctl(&["node", "remove", "7"]).await.exits(5).says("there is no node 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_without_a_majority_nor_the_last_node() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let only = id_of(&cluster, &cluster.nodes[0]).await.to_string();
    let refused = cluster.ctl(&["node", "remove", &only, "--force"]).await.exits(5);
    refused.says("is the last one of its cluster");
    cluster.add().await;
    cluster.add().await;
    cluster.settled().await;
    let lost = id_of(&cluster, &cluster.nodes[2]).await.to_string();
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    // A leader that has not noticed yet would take the request, and carry it out later.
    cluster.nodes[0].wait_unready("the meta group has no leader").await;
    cluster.ctl(&["--timeout", "3s", "node", "remove", &lost, "--force"]).await.exits(3);
    cluster.restart_all().await;
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 3);
}

const OLD: [&str; 2] = ["env", "DEVICEDB_LEVEL=1"];

/// The node goes on as another version.
async fn becomes(cluster: &mut Cluster, node: usize, version: &[&str]) {
    cluster.nodes[node].terminate().await;
    cluster.nodes[node].under = version.iter().map(|word| (*word).to_owned()).collect();
    cluster.nodes[node].start();
    cluster.settled().await;
    let id = id_of(cluster, &cluster.nodes[node]).await.to_string();
    let level = if version.is_empty() { 7 } else { 1 };
    eventually("its level is known", SOON, async || {
        let seen = cluster.ctl(&["-o", "json", "cluster", "upgrade", "status"]).await.exits(0);
        let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
        let nodes = seen["nodes"].as_array().unwrap();
        let known = nodes.iter().find(|node| node["id"] == id.as_str()).unwrap()["level"].clone();
        if known == level { Ok(()) } else { Err(format!("{seen}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_node_by_node_and_may_go_back_until_that_is_finalized() {
    let mut cluster = Cluster::empty(Options::default());
    for _ in 0..3 {
        let mut node = cluster.further();
        node.under = OLD.map(str::to_owned).to_vec();
        node.start();
        node.wait_ready().await;
        cluster.nodes.push(node);
    }
    cluster.settled().await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    // Forth, back again with the one in the middle, and forth in another order.
    for (step, (node, version)) in
        [(2, &[][..]), (0, &[]), (2, &OLD), (1, &[]), (2, &[])].into_iter().enumerate()
    {
        let status = cluster.ctl(&["cluster", "upgrade", "finalize"]).await;
        match step {
            0 => drop(status.exits(0).says("nothing has changed")),
            _ => drop(status.exits(5).says("not every node knows level 7")),
        }
        let refused = cluster.ctl(&["node", "remove", "7", "--force"]).await.exits(5);
        refused.says("there is no node 7");
        writes(&cluster.client(), &format!("{step}"), &mut acknowledged).await;
        cluster.client().complete_snapshot(SOON).await;
        becomes(&mut cluster, node, version).await;
        all_is_there(&cluster, &acknowledged).await;
    }
    // All are new, and the cluster is still one that an old node can read.
    let gone = id_of(&cluster, &cluster.nodes[0]).await.to_string();
    let refused = cluster.ctl(&["node", "remove", &gone, "--force"]).await.exits(5);
    refused.says("this needs level 2, and the cluster is at level 1");
    cluster.ctl(&["cluster", "upgrade", "status"]).await.exits(0).says("finalize ends the upgrade");
    cluster.ctl(&["cluster", "upgrade", "finalize"]).await.exits(0).says("uses level 7");
    cluster.ctl(&["cluster", "upgrade", "finalize"]).await.exits(0).says("nothing has changed");
    // No way back: the old version says so and changes nothing.
    cluster.nodes[2].terminate().await;
    cluster.nodes[2].under = OLD.map(str::to_owned).to_vec();
    cluster.nodes[2].start();
    let status = cluster.nodes[2].wait_ended().await;
    assert_eq!(status.code(), Some(1), "{}", cluster.nodes[2].log());
    assert!(cluster.nodes[2].log().contains("upgrade this node"), "{}", cluster.nodes[2].log());
    becomes_whole(&mut cluster).await;
    // An old one that comes anew is refused as well.
    let mut stranger = cluster.further();
    stranger.under = OLD.map(str::to_owned).to_vec();
    stranger.start();
    eventually("it is told why it may not join", SOON, async || {
        let log = stranger.log();
        if log.contains("upgrade that node") { Ok(()) } else { Err(log) }
    })
    .await;
    all_is_there(&cluster, &acknowledged).await;
}

async fn becomes_whole(cluster: &mut Cluster) {
    cluster.nodes[2].under.clear();
    cluster.restart_all().await;
}
