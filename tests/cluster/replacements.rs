//! Nodes that take the places of others: of one that is named, or of those that are away when
//! somebody joins.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    departures::ends_well,
    harness::{Cluster, Node, Options, SOON, eventually, shell},
    members::{Acknowledged, all_is_there, four_sites, id_of, lose, repaired, writes},
};

/// Starts a node that holds nothing until it replaces another one.
async fn spare(cluster: &mut Cluster) -> u64 {
    let running = cluster.nodes.iter().filter(|node| node.is_running());
    let join: Vec<String> = running.map(Node::endpoint).collect();
    let mut node = cluster.further();
    let at = node.args.iter().position(|word| word == "--join").unwrap();
    node.args[at + 1] = join.join(",");
    node.args.push("--replacement".into());
    node.start();
    node.wait_ready().await;
    cluster.nodes.push(node);
    id_of(cluster, cluster.nodes.last().unwrap()).await
}

/// The nodes that hold each partition.
async fn places(cluster: &Cluster) -> BTreeMap<u32, BTreeSet<u64>> {
    let partitions = cluster.client().partitions().await.unwrap();
    partitions.into_iter().map(|p| (p.id, p.replicas.into_iter().collect())).collect()
}

/// Groups that a node should hold.
async fn wanted(cluster: &Cluster, id: u64) -> u32 {
    let overview = cluster.client().overview().await.unwrap();
    overview.nodes.iter().find(|node| node.id == id).unwrap().groups_wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_is_replaced_by_one_that_takes_its_places_and_nothing_else_moves() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let by = spare(&mut cluster).await;
    assert_eq!(wanted(&cluster, by).await, 0);
    let before = places(&cluster).await;

    let [old, other] =
        [id_of(&cluster, &cluster.nodes[3]).await, id_of(&cluster, &cluster.nodes[1]).await];
    let [old_word, by_word, other_word] = [old, by, other].map(|id| id.to_string());
    let ctl = async |words: &[&str]| cluster.ctl(words).await;
    let refused = ctl(&["node", "replace", &old_word, &other_word]).await.exits(5);
    refused.says("it has a share of the groups");
    ctl(&["node", "replace", &old_word, &old_word]).await.exits(5).says("it is the node itself");
    ctl(&["node", "replace", &old_word, "7"]).await.exits(5).says("there is no node 7");
    ctl(&["node", "replace", "7", &by_word]).await.exits(5).says("there is no node 7");
    ctl(&["node", "replace", &old_word, "0"]).await.exits(2);
    let held = wanted(&cluster, old).await;
    let plan = ctl(&["node", "replace", &old_word, &by_word, "--dry-run"]).await.exits(0);
    // The meta group has three voters, and it may be one of them.
    let moved = |n: u32| format!("replicas moved = {n}\n");
    assert!([moved(held), moved(held + 1)].iter().any(|m| plan.out().contains(m.as_str())));

    // In the words of the guide, said to the node that goes.
    let guide = format!(
        "devicedb cluster replace -port {} -replacement_node {by}",
        cluster.nodes[3].port.number
    );
    shell(&guide, SOON).await.exits(0).says(&format!("node {old} is leaving"));
    ends_well(&mut cluster.nodes[3]).await;
    cluster.nodes.remove(3);
    repaired(&cluster).await;
    writes(&cluster.client(), "after", &mut acknowledged).await;
    all_is_there(&cluster, &acknowledged).await;
    let renamed = |nodes: BTreeSet<u64>| -> BTreeSet<u64> {
        nodes.into_iter().map(|id| if id == old { by } else { id }).collect()
    };
    let expected: BTreeMap<_, _> = before.into_iter().map(|(p, n)| (p, renamed(n))).collect();
    assert_eq!(places(&cluster).await, expected);
    let again = cluster.ctl(&["node", "replace", &old_word, &by_word]).await.exits(0);
    again.says("is no member any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_replaced_by_one_command_and_the_next_loss_is_survived() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    for round in ["first", "second"] {
        let old = id_of(&cluster, &cluster.nodes[2]).await.to_string();
        lose(&mut cluster.nodes[2]);
        writes(&cluster.client(), round, &mut acknowledged).await;
        let by = spare(&mut cluster).await.to_string();
        let replace = ["node", "replace", old.as_str(), by.as_str()];
        cluster.ctl(&replace).await.exits(0).says(&format!("node {old} is removed"));
        cluster.ctl(&replace).await.exits(0);
        repaired(&cluster).await;
        cluster.nodes.remove(2);
        all_is_there(&cluster, &acknowledged).await;
    }
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 3);
}

/// Waits until the others count a node as lost.
async fn is_away(cluster: &Cluster, id: u64) {
    let note = format!("node {id} does not answer, and gives up its places");
    eventually("it is missed", SOON, async || {
        let plan = cluster.ctl(&["cluster", "rebalance", "--dry-run"]).await;
        if plan.story().contains(&note) { Ok(()) } else { Err(plan.story()) }
    })
    .await;
}

/// The fourth of four nodes is lost again and again, and nobody removes it: each time the next one
/// takes its places, and the sites take writes throughout.
#[tokio::test(flavor = "multi_thread")]
async fn who_joins_takes_the_places_of_those_that_are_away() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    let mut lost = Vec::new();
    for round in 0..3 {
        let id = id_of(&cluster, &cluster.nodes[3]).await;
        let before = places(&cluster).await;
        lose(&mut cluster.nodes[3]);
        lost.push(id);
        writes(&cluster.client(), &format!("{round} without"), &mut acknowledged).await;
        is_away(&cluster, id).await;
        cluster.nodes.truncate(3);
        let node = cluster.add().await;
        node.wait_ready().await;
        let newcomer = id_of(&cluster, &cluster.nodes[3]).await;
        let renamed = |nodes: BTreeSet<u64>| -> BTreeSet<u64> {
            nodes.into_iter().map(|n| if n == id { newcomer } else { n }).collect()
        };
        let expected: BTreeMap<_, _> = before.into_iter().map(|(p, n)| (p, renamed(n))).collect();
        assert_eq!(places(&cluster).await, expected, "round {round}");
        writes(&cluster.client(), &format!("{round} with"), &mut acknowledged).await;
        // All groups have their replicas on nodes that live.
        eventually("the newcomer has what it should", SOON, async || {
            let overview = cluster.client().overview().await.unwrap();
            let full = overview.groups_under_replicated == 0;
            if full { Ok(()) } else { Err(format!("{overview:?}")) }
        })
        .await;
    }
    for id in lost {
        cluster.ctl(&["node", "remove", &id.to_string()]).await.exits(0);
    }
    repaired(&cluster).await;
    all_is_there(&cluster, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_when_others_have_its_places_gets_a_share_again() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let away = id_of(&cluster, &cluster.nodes[2]).await;
    cluster.nodes[2].kill9();
    is_away(&cluster, away).await;
    let node = cluster.add().await;
    node.wait_ready().await;
    assert_eq!(wanted(&cluster, away).await, 0);
    writes(&cluster.client(), "between", &mut acknowledged).await;

    cluster.nodes[2].start();
    cluster.nodes[2].wait_ready().await;
    eventually("it has a share", SOON, async || match wanted(&cluster, away).await {
        0 => Err("it holds nothing"),
        _ => Ok(()),
    })
    .await;
    repaired(&cluster).await;
    let nothing = cluster.ctl(&["cluster", "rebalance"]).await.exits(0);
    nothing.says("every group is where it should be");
    let old = ["cluster", "rebalance", "--etag", "0000000000000001"];
    cluster.ctl(&old).await.exits(5).says("have changed since");
    all_is_there(&cluster, &acknowledged).await;
}
