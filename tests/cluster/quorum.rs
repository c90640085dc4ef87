//! The picture without a quorum: what `ddbctl` shows when two of three nodes are gone, what it says
//! about that, and how it exits; and what the headline of `cluster health` says on the way there.

use devicedb::proto::v1::SnapshotStatus;
use serde_json::Value;

use crate::harness::{Cluster, Node, Options, Ran, SOON, eventually, http_get};

/// Long enough for the leader to be asked, on a busy machine, before the nodes are asked alone.
const PATIENT: [&str; 2] = ["--timeout", "8s"];

async fn ctl(cluster: &Cluster, args: &[&str]) -> Ran {
    cluster.ctl(&[&PATIENT, args].concat()).await
}

async fn document(cluster: &Cluster, args: &[&str], code: i32) -> Value {
    let ran = ctl(cluster, &[&["-o", "json"], args].concat()).await.exits(code);
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.story()))
}

fn first_line(ran: &Ran) -> String {
    ran.out().lines().next().unwrap_or_default().to_owned()
}

/// The id of the node at this place.
async fn id(cluster: &Cluster, node: &Node) -> String {
    let seen = cluster.client().local_overview().await.unwrap();
    let found = seen.nodes.iter().find(|n| n.address == node.endpoint());
    found.unwrap_or_else(|| panic!("{seen:#?}")).id.to_string()
}

/// The first line of `health`, once it is this.
async fn health_begins(cluster: &Cluster, with: &str, code: i32) -> Ran {
    eventually(&format!("health begins with {with:?}"), SOON, async || {
        let ran = ctl(cluster, &["cluster", "health"]).await;
        if first_line(&ran) == with { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    ctl(cluster, &["cluster", "health"]).await.exits(code)
}

const ALL_WORK: &str =
    "All 8 groups take reads and writes, and nodes, sites and snapshots can change.";
const NONE_WORKS: &str = "No group takes reads or writes (8 without a majority of their voters), \
                          and nodes, sites and snapshots cannot change (the meta group is without \
                          a majority of its voters).";

#[tokio::test(flavor = "multi_thread")]
async fn when_two_of_three_nodes_are_gone_every_list_answers_says_that_it_may_be_old_and_why() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let uuid = client.complete_snapshot(SOON).await.uuid;
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        ids.push(id(&cluster, node).await);
    }
    let whole = health_begins(&cluster, ALL_WORK, 0).await;
    whole.says("\nAny one node may be lost, and nothing stops.\n");
    let fresh = document(&cluster, &["site", "list"], 0).await;
    assert_eq!(fresh["stale"], Value::Null, "{fresh}");

    // One is gone: all works, and each of the two others has become critical.
    cluster.nodes[2].kill9();
    cluster.settled().await;
    let hurt = health_begins(&cluster, ALL_WORK, 1).await;
    hurt.says(" is lost too, all 8 groups and the meta group stop.\n").says("Connection refused");
    let hurt = document(&cluster, &["cluster", "health"], 1).await;
    let mut critical: Vec<_> =
        hurt["outlook"]["critical_node_ids"].as_array().unwrap().iter().collect();
    critical.sort_by_key(|id| id.to_string());
    let mut alive: Vec<&String> = ids[..2].iter().collect();
    alive.sort();
    assert_eq!(critical, alive, "{hurt}");
    assert_eq!(hurt["stale"], Value::Null, "{hurt}");

    // Two are gone. The one that is left may have led a moment ago, and has to notice.
    cluster.nodes[1].kill9();
    cluster.nodes[0].wait_unready("the meta group has no leader").await;
    let lost = health_begins(&cluster, NONE_WORKS, 1).await;
    let own = format!("node {} at {} is not ready: the meta group has no leader", ids[0], {
        cluster.nodes[0].endpoint()
    });
    lost.says("No further loss can stop anything.")
        .says(" is back, all 8 groups and the meta group work again.\n")
        .says("warning: this may be old: nobody speaks for the whole cluster")
        .says(&own)
        .says(&format!("not asked: {}", cluster.nodes[1].endpoint()));
    eventually("a silent node is counted", SOON, async || {
        let (_, metrics) = http_get(&cluster.nodes[0].endpoint(), "/metrics").await.unwrap();
        let counted = |id: &String| {
            let label = format!("devicedb_node_silent_seconds{{node=\"{id}\"}} ");
            let value = metrics.lines().find_map(|line| line.strip_prefix(label.as_str()));
            value.is_some_and(|seconds| seconds.parse::<u32>().unwrap() > 0)
        };
        if ids[1..].iter().all(counted) { Ok(()) } else { Err(metrics.clone()) }
    })
    .await;
    let lost = document(&cluster, &["cluster", "health"], 1).await;
    assert_eq!((&lost["healthy"], &lost["stale"]), (&false.into(), &true.into()), "{lost}");
    assert_eq!(lost["outlook"]["groups_working"], 0, "{lost}");

    let why =
        format!("node {} at {} says: the meta group has no leader; looking for node", ids[0], {
            cluster.nodes[0].endpoint()
        });
    let lists: [&[&str]; 6] = [
        &["node", "list"],
        &["site", "list"],
        &["relay", "list"],
        &["snapshot", "list"],
        &["snapshot", "status", &uuid],
        &["cluster", "overview", "--partitions"],
    ];
    for list in lists {
        let ran = ctl(&cluster, list).await.exits(0).says("warning: this may be old");
        let said = ran.stderr.lines().next().unwrap_or_default();
        assert!(said.contains("this may be old: nobody speaks"), "first of all: {}", ran.story());
        let told = document(&cluster, list, 0).await;
        assert_eq!(told["stale"], true, "{list:?}: {told}");
        let reason = told["stale_reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&why), "{list:?}: {reason}");
    }
    let told = ctl(&cluster, &["site", "list"]).await.says("shop").says(NONE_WORKS);
    assert!(told.out().contains("shop") && !told.out().contains("old"), "{}", told.story());
    let told = document(&cluster, &["node", "list"], 0).await;
    let reasons: Vec<_> =
        told["nodes"].as_array().unwrap().iter().filter_map(|n| n["reason"].as_str()).collect();
    assert_eq!(reasons.len(), 3, "each node has a reason: {told}");
    assert_eq!(reasons.iter().filter(|why| why.contains("Connection refused")).count(), 3);
    let told = document(&cluster, &["snapshot", "status", &uuid], 0).await;
    assert_eq!((&told["uuid"], &told["status"]), (&uuid[..].into(), &"completed".into()), "{told}");
    let told = document(&cluster, &["snapshot", "list"], 0).await;
    assert_eq!(told["snapshots"].as_array().map(Vec::len), Some(1), "{told}");

    // What is left of the snapshot can be fetched all the same.
    let dir = cluster.dir().join("left");
    std::fs::create_dir(&dir).unwrap();
    let to = dir.to_str().unwrap();
    let own = dir.join(format!("snapshot-{uuid}-{}.tar", ids[0]));
    let (verify, own_word) = (["snapshot", "verify", own.to_str().unwrap()], own.to_str().unwrap());
    for fetch in [
        &["snapshot", "download", &uuid, "--output", to][..],
        &["snapshot", "download", &uuid, "--node", &ids[0], "--output", own_word],
    ] {
        cluster.nodes[0].ctl(fetch).await.exits(0);
        cluster.nodes[0].ctl(&verify).await.exits(0);
        std::fs::remove_file(&own).unwrap();
    }
    let all = ["snapshot", "download", &uuid, "--all", "--output", to];
    ctl(&cluster, &all).await.exits(3).says("this may be old").says(own_word);
    cluster.nodes[0].ctl(&verify).await.exits(0);

    // What would change something, or has to be the newest, waits for a quorum as before.
    for refused in [&["site", "add", "other"][..], &["get", "--site", "shop", "k"]] {
        cluster.ctl(&[&["--timeout", "2s"], refused].concat()).await.exits(3);
    }

    cluster.nodes[1].start();
    cluster.nodes[2].start();
    let whole = ctl(&cluster, &["cluster", "health", "--wait"]).await.exits(0);
    assert_eq!((first_line(&whole).as_str(), whole.stderr.as_str()), (ALL_WORK, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_through_a_snapshot_does_not_call_it_missing() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    client.add_site("before").await.unwrap();
    cluster.nodes[2].kill9();
    cluster.settled().await;
    client.add_site("after").await.unwrap();
    let begun = client.create_snapshot().await.unwrap();
    let taken = client.snapshot_resolved(&begun.uuid, SOON).await;
    assert_eq!(taken.status(), SnapshotStatus::Completed, "{taken:#?}");
    cluster.kill9_all();
    cluster.nodes[2].start();
    cluster.nodes[2].wait_unready("the meta group has no leader").await;

    // The endpoints that are named first do not answer.
    let sites = ctl(&cluster, &["site", "list"]).await.exits(0).says("this may be old");
    // What it had heard of as committed may be old, too: it says what it has applied.
    assert!(!sites.out().contains("after"), "{}", sites.story());
    let status = ["snapshot", "status", &begun.uuid];
    ctl(&cluster, &status).await.exits(3).says("status = unknown").says("it may be there");
    ctl(&cluster, &[&status[..], &["--node", "7"]].concat()).await.exits(3).says("unknown");
    let told = document(&cluster, &status, 3).await;
    assert_eq!((&told["status"], &told["stale"]), (&"unknown".into(), &true.into()), "{told}");

    cluster.nodes[0].start();
    eventually("two of three have a leader again", SOON, async || {
        let ran = ctl(&cluster, &status).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    let told = document(&cluster, &status, 0).await;
    assert_eq!((&told["status"], &told["stale"]), (&"completed".into(), &Value::Null), "{told}");
    // Of an unknown one a quorum knows that it is missing.
    let missing = ["snapshot", "status", "00000000-0000-4000-8000-000000000000"];
    ctl(&cluster, &missing).await.exits(5).says("status = missing");
}
