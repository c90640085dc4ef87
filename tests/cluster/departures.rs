//! Nodes that give away what they hold, and leave; and what becomes of the replicas that stay
//! behind when groups have gone elsewhere.

use devicedb::{
    base::{clock::Random, limits},
    proto::v1::{Bucket, OperationState},
};

use crate::{
    connections::{metrics, number},
    harness::{Cluster, Node, Options, SOON, eventually, shell},
    members::{Acknowledged, all_is_there, four_sites, id_of, repaired, writes},
};

/// Has a node decommissioned, and sees it off.
async fn leaves(cluster: &mut Cluster, node: usize, further: &[&str]) -> String {
    let id = id_of(cluster, &cluster.nodes[node]).await.to_string();
    let words = ["node", "decommission", &id, "--wait", "--wait-timeout", "60s"];
    let ran = cluster.ctl(&[&words[..], further].concat()).await.exits(0);
    ran.says("is decommissioned, and its process ends");
    ends_well(&mut cluster.nodes[node]).await;
    id
}

pub async fn ends_well(node: &mut Node) {
    let ended = node.wait_ended().await;
    let log = node.log();
    assert_eq!(ended.code(), Some(0), "{log}");
    assert!(log.contains("others hold all that it held"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_away_what_it_holds_then_ends_well_and_does_not_come_back() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    // The one that founded the cluster, and leads most of it.
    let gone = id_of(&cluster, &cluster.nodes[0]).await.to_string();
    let guide = format!("devicedb cluster decommission -port {}", cluster.nodes[0].port.number);
    shell(&guide, SOON).await.exits(0).says(&format!("node {gone} is leaving"));
    ends_well(&mut cluster.nodes[0]).await;
    cluster.nodes.rotate_left(1);
    repaired(&cluster).await;
    writes(&cluster.nodes[0].client(), "after", &mut acknowledged).await;
    all_is_there(&cluster, &acknowledged).await;
    let overview = cluster.nodes[0].client().overview().await.unwrap();
    assert_eq!(overview.nodes.len(), 3, "{overview:#?}");
    let ctl = async |words: &[&str]| cluster.ctl(words).await;
    ctl(&["node", "decommission", &gone]).await.exits(0).says("is no member any more");
    ctl(&["node", "cancel", &gone]).await.exits(5).says("is no member any more");

    let mut back = cluster.nodes.pop().unwrap();
    back.start();
    assert_eq!(back.wait_ended().await.code(), Some(1), "{}", back.log());
    assert!(back.log().contains("was removed from its cluster"), "{}", back.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_to_three_nodes_and_back_and_the_last_one_stays() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "three", &mut acknowledged).await;
    let second = id_of(&cluster, &cluster.nodes[1]).await.to_string();
    let refused = cluster.ctl(&["node", "decommission", &second]).await.exits(5);
    refused.says("8 of 8 groups have fewer than 3 replicas afterwards");
    let plan = cluster.ctl(&["node", "decommission", &second, "--dry-run"]).await.exits(1);
    plan.says("BELOW_REPLICATION_FACTOR refuses, unless forced");

    leaves(&mut cluster, 1, &["--force"]).await;
    writes(&cluster.client(), "two", &mut acknowledged).await;
    all_is_there(&cluster, &acknowledged).await;
    leaves(&mut cluster, 0, &["--force"]).await;
    cluster.nodes.swap(0, 2);
    writes(&cluster.nodes[0].client(), "one", &mut acknowledged).await;
    all_is_there(&cluster, &acknowledged).await;
    let last = id_of(&cluster, &cluster.nodes[0]).await.to_string();
    let refused = cluster.ctl(&["node", "decommission", &last, "--force"]).await.exits(5);
    refused.says("is the last one of its cluster that stays");
    cluster.ctl(&["node", "decommission", "7"]).await.exits(5).says("there is no node 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_it_waits_for_and_stays_when_it_is_told_to() {
    let mut cluster = Cluster::start(5, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let leaving = id_of(&cluster, &cluster.nodes[4]).await.to_string();
    let away = id_of(&cluster, &cluster.nodes[3]).await.to_string();
    cluster.nodes[3].pause().await;
    eventually("it is missed", SOON, async || {
        let plan = cluster.ctl(&["node", "decommission", &leaving, "--dry-run"]).await;
        if plan.out().contains("OTHERS_AWAY warns") { Ok(()) } else { Err(plan.story()) }
    })
    .await;
    cluster.ctl(&["node", "decommission", &leaving]).await.exits(0).says("is leaving");
    eventually("it says whom it waits for", SOON, async || {
        let seen = cluster.ctl(&["-o", "json", "node", "decommission", &leaving]).await.exits(0);
        let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
        let waits = seen["waits"].as_array().unwrap();
        let named = waits.iter().any(|wait| wait["node_id"] == away.as_str());
        if named && seen["state"] == "leaving" { Ok(()) } else { Err(format!("{seen}")) }
    })
    .await;
    let late = ["node", "decommission", &leaving, "--wait", "--wait-timeout", "2s"];
    cluster.ctl(&late).await.exits(3).says("has not ended within 2s").says(&away);
    cluster.ctl(&["node", "cancel", &leaving]).await.exits(0).says("stays");
    cluster.ctl(&["node", "cancel", &leaving]).await.exits(0).says("was not leaving");
    cluster.nodes[3].resume();
    repaired(&cluster).await;
    all_is_there(&cluster, &acknowledged).await;
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 5);

    // One that does not answer cannot give anything away.
    cluster.nodes[4].kill9();
    let refused = cluster.ctl(&["node", "decommission", &leaving, "--force"]).await.exits(5);
    refused.says("does not answer, and has to give away what it holds");
}

/// Bytes of a node's rows on disk.
fn store_bytes(node: &Node) -> u64 {
    std::fs::metadata(node.store.join("state.redb")).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_room_of_groups_that_have_left_is_used_again_and_what_they_held_is_not_served() {
    let options = Options { replication_factor: 1, ..Options::default() };
    let cluster = Cluster::start(2, options).await;
    four_sites(&cluster.client()).await;
    let fill = async |round: &str| {
        for site in ["dock", "mill", "pier", "shed"] {
            for number in 0..8 {
                let (key, value) = (format!("{round}{number}"), vec![number as u8; 1 << 20]);
                cluster.client().put(site, Bucket::Default, key, value).await.unwrap();
            }
        }
    };
    fill("first").await;
    let ids = [id_of(&cluster, &cluster.nodes[0]).await, id_of(&cluster, &cluster.nodes[1]).await];
    let ended =
        async |node: &Node| number(&metrics(&node.client()).await, "devicedb_replicas_ended_total");
    // All that one held goes to the other, and its own replicas end.
    let move_to = async |to: usize| {
        let from = 1 - to;
        let before = ended(&cluster.nodes[from]).await;
        let share = async |node: usize, percent: &str| {
            let words = ["node", "set", &ids[node].to_string(), "--capacity", percent, "--wait"];
            cluster.ctl(&words).await.exits(0);
        };
        share(to, "100").await;
        share(from, "0").await;
        eventually("all groups are there", SOON, async || {
            let overview = cluster.client().overview().await.unwrap();
            let led = overview.nodes.iter().find(|node| node.id == ids[to]).unwrap().groups_led;
            // The meta group may be led anywhere.
            if led >= 8 { Ok(()) } else { Err(format!("{overview:?}")) }
        })
        .await;
        eventually("the replicas that are left over end", SOON, async || {
            let seen = cluster.ctl(&["-o", "json", "node", "list"]).await;
            if ended(&cluster.nodes[from]).await > before { Ok(()) } else { Err(seen.story()) }
        })
        .await;
    };
    move_to(0).await;
    let (first, most) = (store_bytes(&cluster.nodes[0]), 32 << 20);
    assert!(first > most, "it holds everything: {first}");
    move_to(1).await;
    let client = cluster.nodes[0].client();
    client.put("mill", Bucket::Default, "first0", "new").await.unwrap();
    for node in &cluster.nodes {
        let read = node.client().values("mill", Bucket::Default, "first0").await.unwrap();
        assert_eq!(read, ["new"]);
    }
    move_to(0).await;
    let again = store_bytes(&cluster.nodes[0]);
    assert!(again < first + (8 << 20), "{first} bytes, and {again} with the same rows again");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_move_no_faster_than_the_nodes_are_told() {
    const RATE: u64 = 4 << 20;
    let extra = vec!["--move-rate".to_owned(), RATE.to_string()];
    let options = Options { replication_factor: 1, extra, ..Options::default() };
    let cluster = Cluster::start(2, options).await;
    let client = cluster.client();
    four_sites(&client).await;
    let mut rng = Random::seeded(7);
    let mut value = || -> Vec<u8> {
        (0..limits::VALUE_BYTES_MAX / 8).flat_map(|_| rng.next_u64().to_be_bytes()).collect()
    };
    for site in ["dock", "mill", "pier", "shed"] {
        for number in 0..4 {
            client.put(site, Bucket::Default, format!("{number}"), value()).await.unwrap();
        }
    }
    // Wherever the sites are: all goes to one node, and then to the other.
    let ids = [id_of(&cluster, &cluster.nodes[0]).await, id_of(&cluster, &cluster.nodes[1]).await];
    let mut rates = Vec::new();
    for (empty, full) in [(ids[0], ids[1]), (ids[1], ids[0])] {
        let (empty, full) = (empty.to_string(), full.to_string());
        cluster.ctl(&["node", "set", &full, "--capacity", "100", "--wait"]).await.exits(0);
        let words = ["-o", "json", "node", "set", &empty, "--capacity", "0"];
        let begun = cluster.ctl(&words).await.exits(0);
        let begun: serde_json::Value = serde_json::from_slice(&begun.stdout).unwrap();
        let operation = begun["operation_id"].as_str().unwrap();
        eventually("all has moved", SOON, async || {
            let seen = client.operation(operation).await.unwrap();
            rates.push(seen.bytes_per_s);
            if seen.state() == OperationState::Done { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
    // Of the last four seconds: what they allow, and the message that came in the first moment.
    let most = RATE + limits::ROWS_PIECE_BYTES as u64 / 4;
    assert!(rates.iter().any(|rate| *rate > 0), "rows came: {rates:?}");
    assert!(rates.iter().all(|rate| *rate <= most), "{rates:?}");
}
