//! What operators ask of the nodes as a whole is remembered: it survives whoever leads and whoever
//! watches, says why it waits, and can be taken back as far as that is possible.

use std::{process::Stdio, time::Duration};

use devicedb::{
    base::clock::Clock,
    proto::v1::{OperationKind, OperationState, WaitOperationRequest},
};
use serde_json::Value;

use crate::{
    departures::ends_well,
    harness::{Cluster, Options, Ran, SOON, binary, eventually},
    members::{Acknowledged, all_is_there, four_sites, id_of, repaired, writes},
};

fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.story()))
}

async fn ctl_json(cluster: &Cluster, words: &[&str]) -> Value {
    json(&cluster.ctl(&[&["-o", "json"], words].concat()).await.exits(0))
}

/// Begins something, and says which operation it is.
async fn begun(cluster: &Cluster, words: &[&str]) -> String {
    let answer = ctl_json(cluster, words).await;
    let id = answer["operation_id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 16, "{answer}");
    id
}

/// An operation as it is listed.
async fn listed(cluster: &Cluster, id: &str) -> Value {
    let all = ctl_json(cluster, &["operation", "list"]).await;
    let all = all["operations"].as_array().unwrap();
    all.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} in {all:?}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_survives_the_meta_leader_and_whoever_watches_and_is_listed_as_done() {
    let mut cluster = Cluster::start(5, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let overview = cluster.client().overview().await.unwrap();
    let address = |id| overview.nodes.iter().find(|n| n.id == id).unwrap().address.clone();
    let leader = address(overview.meta_leader);
    let at = |cluster: &Cluster, address: &str| {
        cluster.nodes.iter().position(|node| node.endpoint() == address).unwrap()
    };
    // The leader comes first, so that ddbctl asks it first; the one that leaves comes last.
    let first = at(&cluster, &leader);
    cluster.nodes.swap(0, first);
    let leaving = id_of(&cluster, &cluster.nodes[4]).await.to_string();
    let leader = overview.meta_leader.to_string();

    // Nothing can be given up while one of the voters is away.
    cluster.nodes[0].kill9();
    let missed = async || {
        let plan = cluster.ctl(&["node", "decommission", &leaving, "--dry-run"]).await;
        if plan.out().contains("OTHERS_AWAY warns") { Ok(()) } else { Err(plan.story()) }
    };
    eventually("it is missed", SOON, missed).await;
    let id = begun(&cluster, &["node", "decommission", &leaving]).await;
    let running = listed(&cluster, &id).await;
    assert_eq!((&running["kind"], &running["state"]), (&"decommission".into(), &"running".into()));
    assert_eq!(running["node_id"], leaving.as_str());
    eventually("it names whom it waits for", SOON, async || {
        let seen = ctl_json(&cluster, &["operation", "show", &id]).await;
        let waits = seen["waits"].as_array().unwrap();
        if waits.iter().any(|wait| wait["node_id"] == leader.as_str()) { Ok(()) } else { Err(seen) }
    })
    .await;
    let again = begun(&cluster, &["node", "decommission", &leaving]).await;
    assert_eq!(again, id, "who asks again is told of the same one");

    // Whoever watches is killed, and so is the leader of now.
    let endpoints = cluster.nodes.iter().map(|n| n.endpoint()).collect::<Vec<_>>().join(",");
    let mut watcher = std::process::Command::new(binary("ddbctl"))
        .args(["--endpoint", &endpoints, "operation", "wait", &id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let leader = cluster.nodes[1].client().overview().await.unwrap().meta_leader;
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].wait_listening().await;
    if leader.to_string() != leaving {
        let second = at(&cluster, &address(leader));
        cluster.nodes[second].kill9();
        cluster.nodes[second].start();
        cluster.nodes[second].wait_listening().await;
    }
    let waited = ["operation", "wait", &id, "--wait-timeout", "60s"];
    cluster.ctl(&waited).await.exits(0).says(&format!("operation {id} is done"));
    ends_well(&mut cluster.nodes[4]).await;
    cluster.nodes.pop();
    repaired(&cluster).await;

    // It is remembered, over a restart of everything.
    cluster.kill9_all();
    cluster.restart_all().await;
    let done = listed(&cluster, &id).await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["replicas_done"], done["replicas_total"], "{done}");
    assert!(done["replicas_total"].as_u64().unwrap() > 0, "{done}");
    assert!(done["ended_ms"].as_u64() >= done["began_ms"].as_u64(), "{done}");
    let seen = begun(&cluster, &["node", "decommission", &leaving, "--wait"]).await;
    assert_eq!(seen, id);
    all_is_there(&cluster, &acknowledged).await;
    let of_node = ctl_json(&cluster, &["operation", "list", "--node", &leaving]).await;
    assert_eq!(of_node["operations"].as_array().unwrap().len(), 1, "{of_node}");
    let running = ctl_json(&cluster, &["operation", "list", "--running"]).await;
    assert_eq!(running["operations"].as_array().unwrap().len(), 0, "{running}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_receiver_is_named_within_two_seconds_and_an_operation_is_taken_back() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let shrinks = id_of(&cluster, &cluster.nodes[1]).await.to_string();
    let paused = id_of(&cluster, &cluster.nodes[3]).await;
    cluster.nodes[3].pause().await;
    let id = begun(&cluster, &["node", "set", &shrinks, "--capacity", "0"]).await;
    let (clock, bound) = (Clock::start(), Duration::from_secs(2));
    let seen = eventually("the paused node is named", SOON, async || {
        let seen = cluster.nodes[0].client().operation(&id).await.unwrap();
        let named = seen.waits.iter().any(|wait| wait.node_id == paused);
        if named { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let took = clock.now();
    assert!(took < bound, "it was named after {took:?}: {seen:?}");
    assert_eq!((seen.kind(), seen.state()), (OperationKind::SetCapacity, OperationState::Running));
    assert!(seen.replicas_total > seen.replicas_done, "{seen:?}");

    // One call waits no longer than it is told to, and no longer than is allowed.
    let mut operations = cluster.nodes[0].client().operations;
    let wait = |wait_ms| WaitOperationRequest { id: id.clone(), wait_ms };
    let waited = operations.wait_operation(wait(300)).await.unwrap().into_inner();
    assert_eq!(waited.operation.unwrap().state(), OperationState::Running);
    let refused = operations.wait_operation(wait(60_001)).await.unwrap_err();
    assert!(refused.message().contains("at most 60000 ms"), "{refused}");
    let late = ["operation", "wait", &id, "--wait-timeout", "1s"];
    cluster.ctl(&late).await.exits(3).says("has not ended within 1s").says(&paused.to_string());

    // There is one at a time for a node; another node may have its own.
    let ctl = async |words: &[&str]| cluster.ctl(words).await;
    let second = ctl(&["node", "decommission", &shrinks, "--force"]).await.exits(5);
    second.says(&format!("node {shrinks} is getting another capacity (operation {id})"));
    let other = ctl(&["node", "set", &shrinks, "--capacity", "7"]).await.exits(5);
    other.says(&format!("take it back with ddbctl operation cancel {id}"));

    ctl(&["operation", "cancel", &id]).await.exits(0).says("is cancelled");
    ctl(&["operation", "cancel", &id]).await.exits(0).says("is cancelled");
    ctl(&["operation", "wait", &id]).await.exits(1).says("was cancelled");
    let nodes = ctl_json(&cluster, &["node", "list"]).await;
    let nodes = nodes["nodes"].as_array().unwrap();
    let capacity = nodes.iter().find(|node| node["id"] == shrinks.as_str()).unwrap();
    assert_eq!(capacity["capacity_percent"], 100, "{capacity}");
    cluster.nodes[3].resume();
    cluster.settled().await;
    all_is_there(&cluster, &acknowledged).await;

    let ctl = async |words: &[&str]| cluster.ctl(words).await;
    // It is done when it is said again, now that everybody answers.
    let words = ["node", "set", &shrinks, "--capacity", "0", "--wait", "--wait-timeout", "60s"];
    let done = begun(&cluster, &words).await;
    assert_eq!(listed(&cluster, &done).await["state"], "done");
    let overview = cluster.client().overview().await.unwrap();
    let left = overview.voter_sets.iter().flat_map(|set| &set.voters);
    assert!(left.clone().all(|voter| voter.to_string() != shrinks), "{overview:?}");
    let over = ctl(&["operation", "cancel", &done]).await.exits(5);
    over.says(&format!("operation {done} is done: there is nothing left to cancel"));
    ctl(&["operation", "show", "00000000000000ff"]).await.exits(5).says("there is no operation");
    ctl(&["operation", "cancel", "00000000000000ff"]).await.exits(5).says("there is no operation");
    ctl(&["operation", "wait", "ff"]).await.exits(2).says("16 hexadecimal digits");
    all_is_there(&cluster, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_removal_of_a_node_takes_the_place_of_its_decommission_and_cannot_be_taken_back() {
    let mut cluster = Cluster::start(4, Options::default()).await;
    four_sites(&cluster.client()).await;
    let mut acknowledged = Acknowledged::new();
    writes(&cluster.client(), "before", &mut acknowledged).await;
    let lost = id_of(&cluster, &cluster.nodes[3]).await.to_string();
    cluster.nodes[2].pause().await;
    let leaves = begun(&cluster, &["node", "decommission", &lost]).await;
    cluster.nodes[3].kill9();
    cluster.nodes[2].resume();
    let removes = eventually("it may be removed", SOON, async || {
        let ran = cluster.ctl(&["-o", "json", "node", "remove", &lost]).await;
        if ran.out().is_empty() { Err(ran.story()) } else { Ok(json(&ran)) }
    })
    .await;
    let removes = removes["operation_id"].as_str().unwrap().to_owned();
    assert_eq!(listed(&cluster, &leaves).await["state"], "cancelled");
    let refused = cluster.ctl(&["operation", "cancel", &removes]).await;
    if listed(&cluster, &removes).await["state"] == "running" {
        refused.exits(5).says("is no member any more, and never will be again");
    } else {
        refused.exits(5);
    }
    let waits = ["operation", "wait", &removes, "--wait-timeout", "60s"];
    cluster.ctl(&waits).await.exits(0).says("is done");
    cluster.nodes.pop();
    let overview = cluster.client().overview().await.unwrap();
    let left = overview.voter_sets.iter().flat_map(|set| &set.voters);
    assert!(left.clone().all(|voter| voter.to_string() != lost), "{overview:?}");
    let again = begun(&cluster, &["node", "remove", &lost, "--wait"]).await;
    assert_eq!(again, removes);
    all_is_there(&cluster, &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_an_older_version_has_no_operations_and_says_what_to_do() {
    let mut cluster = Cluster::empty(Options::default());
    for _ in 0..2 {
        let mut node = cluster.further();
        node.under = ["env", "DEVICEDB_LEVEL=2"].map(str::to_owned).to_vec();
        node.start();
        node.wait_ready().await;
        cluster.nodes.push(node);
    }
    cluster.settled().await;
    let second = id_of(&cluster, &cluster.nodes[1]).await.to_string();
    let set = ctl_json(&cluster, &["node", "set", &second, "--capacity", "50"]).await;
    assert_eq!((&set["changed"], &set["operation_id"]), (&true.into(), &"".into()));
    let none = ctl_json(&cluster, &["operation", "list"]).await;
    assert_eq!(none["operations"].as_array().unwrap().len(), 0, "{none}");
    let refused = cluster.ctl(&["node", "drain", &second]).await.exits(5);
    refused.says("this needs level 3, and the cluster is at level 2").says("upgrade finalize");
    for node in 0..2 {
        cluster.nodes[node].terminate().await;
        cluster.nodes[node].under.clear();
        cluster.nodes[node].start();
        cluster.settled().await;
    }
    let finalized = async || {
        let ran = cluster.ctl(&["cluster", "upgrade", "finalize"]).await;
        if ran.story().contains("uses level 7") { Ok(()) } else { Err(ran.story()) }
    };
    eventually("the cluster uses what its nodes know", SOON, finalized).await;
    begun(&cluster, &["node", "set", &second, "--capacity", "60"]).await;
}
