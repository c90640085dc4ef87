//! Crashes among several nodes: joins, moves, writes that travel, and cuts.

use std::slice;

use bytes::Bytes;
use devicedb::{faults::failpoint::Failpoint, proto::v1::SnapshotStatus};

use crate::{
    crash::{
        Books, Crash, Prepared, Writers, add_sites, ask_for_snapshot, recovers, snapshots_work,
        until_done,
    },
    harness::{Cluster, Options, SOON, eventually, shell},
};

pub async fn join(crash: Crash, prepared: &Prepared) {
    let (mut cluster, mut books) = (prepared.copy().await, prepared.books.clone());
    cluster.restart_all().await;
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    let mut newcomer = cluster.further();
    crash.kills(slice::from_mut(&mut newcomer), async {}).await;
    cluster.nodes.push(newcomer);
    recovers(&mut cluster, vec![writers], &mut books).await;
    snapshots_work(&cluster, None).await;
}

pub async fn welcome(crash: Crash, prepared: &Prepared) {
    let (mut cluster, mut books) = (prepared.copy().await, prepared.books.clone());
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    let mut newcomer = cluster.further();
    newcomer.start();
    crash.kills(&mut cluster.nodes[..1], async {}).await;
    cluster.nodes.push(newcomer);
    recovers(&mut cluster, vec![writers], &mut books).await;
    snapshots_work(&cluster, None).await;
}

/// Nodes begin a cluster of a snapshot together, and the one that founds dies.
pub async fn together(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.together();
    crash.kills(&mut cluster.nodes, async {}).await;
    let kept = cluster.nodes[0].store.join("seed-plan");
    assert_eq!(kept.exists(), crash.point == Failpoint::SeedPlanKept);
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    for node in &cluster.nodes {
        for left in ["restoring", "node-id", "seed-plan.new"] {
            assert!(!node.store.join(left).exists(), "{left} was left behind");
        }
    }
    snapshots_work(&cluster, None).await;
}

/// With one replica of each group, half of the groups go to the second node.
pub async fn groups_move(crash: Crash) {
    let (mut cluster, mut books) = sites_on(1, 1).await;
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    let mut newcomer = cluster.further();
    crash.kills(slice::from_mut(&mut newcomer), async {}).await;
    cluster.nodes.push(newcomer);
    recovers(&mut cluster, vec![writers], &mut books).await;
    snapshots_work(&cluster, None).await;
}

/// The same, and the node dies from which they go.
pub async fn replicas_end(crash: Crash) {
    let (mut cluster, mut books) = sites_on(1, 1).await;
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    let mut newcomer = cluster.further();
    cluster.nodes[0].kill9();
    crash.kills(&mut cluster.nodes, async { newcomer.start() }).await;
    cluster.nodes.push(newcomer);
    recovers(&mut cluster, vec![writers], &mut books).await;
    snapshots_work(&cluster, None).await;
}

async fn sites_on(nodes: usize, replication_factor: u32) -> (Cluster, Books) {
    let cluster = Cluster::start(nodes, Options { replication_factor, ..Options::default() }).await;
    add_sites(&cluster).await;
    (cluster, Books::default())
}

pub async fn talk(crashes: &[Crash]) {
    let (mut cluster, mut books) = sites_on(3, 3).await;
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
    let ids: Vec<u64> =
        cluster.client().overview().await.unwrap().nodes.iter().map(|node| node.id).collect();
    for (number, crash) in crashes.iter().enumerate() {
        let victim = number % cluster.nodes.len();
        cluster.nodes[victim].kill9();
        let (clients, its_client) = (cluster.clients(), cluster.nodes[victim].client());
        let mut writers = Vec::new();
        // Half of the writes, and parts of other nodes, go through the victim, as soon as it can
        // take them.
        let deed = async {
            until_done(async || its_client.overview().await).await;
            for (way, clients) in [("by", std::slice::from_ref(&its_client)), ("beside", &clients)]
            {
                writers.push(Writers::start(clients, &format!("{way} it {number}")));
            }
            for id in ids.iter().cycle() {
                until_done(async || its_client.download(&uuid, *id, 0).await.1).await;
            }
        };
        crash.kills(&mut cluster.nodes[victim..=victim], deed).await;
        recovers(&mut cluster, writers, &mut books).await;
    }
    snapshots_work(&cluster, Some(&uuid)).await;
}

pub async fn cut(crashes: &[Crash]) {
    let (mut cluster, mut books) = sites_on(3, 3).await;
    for (number, crash) in crashes.iter().enumerate() {
        cluster.kill9_all();
        let name = Bytes::copy_from_slice(&[number as u8 + 1; 16]);
        let writers = Writers::start(&cluster.clients(), &format!("during{number}"));
        let asking = ask_for_snapshot(cluster.clients(), name.clone());
        crash.kills(&mut cluster.nodes, asking).await;
        recovers(&mut cluster, vec![writers], &mut books).await;
        let interrupted = cluster.client().create_snapshot_named(name).await.unwrap();
        snapshots_work(&cluster, Some(&interrupted.uuid)).await;
    }
}

/// Two of three nodes are lost, and the recovery of the third one is interrupted.
pub async fn recovery(crash: Crash) {
    let (mut cluster, mut books) = sites_on(3, 3).await;
    let writers = Writers::start(&cluster.clients(), "before");
    writers.go_on().await;
    writers.stop(&mut books).await;
    // The third one alone must have all, so that the books stay exact.
    let client = cluster.nodes[2].client();
    eventually("the third node has all", SOON, async || books.lacking_stale(&client).await).await;
    cluster.kill9_all();
    cluster.nodes.drain(..2);
    let (store, dir) = (cluster.nodes[0].store.display().to_string(), cluster.dir().to_owned());
    let at = |name: &str| dir.join(name).display().to_string();
    let (report, plan) = (at("report.json"), at("plan.json"));
    let words = format!(
        "devicedb recover inspect --store {store} > {report}; \
         devicedb recover plan {report} > {plan}"
    );
    shell(&words, SOON).await.exits(0);
    let read = |path: &str| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let planned: serde_json::Value = read(&plan);
    let short = &planned["history"]["cluster"].as_str().unwrap()[..8];
    let apply = format!("devicedb recover apply {plan} --store {store} --confirm {short}");
    crash.kills_command(&apply).await;
    // Half recovered, it does not start.
    if matches!(crash.point, Failpoint::RecoverStored | Failpoint::RecoverLogged) {
        cluster.nodes[0].start_refused().await.exits(1).says("was interrupted. Finish it first");
    }
    shell(&apply, SOON).await.exits(0);
    shell(&apply, SOON).await.exits(0).says("before");
    recovers(&mut cluster, Vec::new(), &mut books).await;
    snapshots_work(&cluster, None).await;
}

pub async fn abort(crash: Crash) {
    let (mut cluster, mut books) = sites_on(3, 1).await;
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    writers.go_on().await;
    cluster.kill9_all();
    let name = Bytes::from_static(&[5; 16]);
    let asking = ask_for_snapshot(cluster.clients()[..2].to_vec(), name.clone());
    crash.kills(&mut cluster.nodes[..2], asking).await;
    recovers(&mut cluster, vec![writers], &mut books).await;
    let interrupted = cluster.client().create_snapshot_named(name).await.unwrap();
    let resolved = cluster.client().snapshot_resolved(&interrupted.uuid, SOON).await;
    assert!(resolved.status() != SnapshotStatus::Processing);
    snapshots_work(&cluster, Some(&interrupted.uuid)).await;
}
