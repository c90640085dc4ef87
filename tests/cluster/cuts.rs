//! The cut, again and again: snapshots of a running cluster are read from the parts themselves, so that a round takes a moment and there can be many.
//!
//! `DEVICEDB_CUT_ROUNDS` says how many rounds; the default keeps a test run short. Every round checks, in each node's part, that counters written to site A,
//! then B, then C stand in that order, that what was acknowledged before `create` was called is there, and that parts agree on every partition they share.
//! Now and then a node is killed or paused while the snapshot is taken; then the snapshot may fail with a reason, but no part may be torn.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    data::{Row, RowKey},
    ids::{PartitionId, SiteId, Topology},
    proto::v1::{Snapshot, SnapshotStatus},
    snapshot::{chunk::Digest, manifest::Manifest},
    wire,
};

use crate::{
    cut::{Column, Fault, columns},
    harness::{Cluster, Options, SOON},
};

const ROUNDS: u32 = 120;
const FAULT_EVERY: u32 = 20;

/// What a part says of the sites it is asked for.
fn counters(part: &Path, sites: &[String; 3]) -> [u64; 3] {
    let (manifest, _) = Manifest::parse(&std::fs::read(part).unwrap()).unwrap();
    let home = part.ancestors().nth(3).expect("a manifest lies three folders deep in a node's corner");
    sites.clone().map(|site| {
        let site = SiteId::new(site).unwrap();
        let partition = manifest.partition(manifest.topology.partition_of(&site)).expect("a part holds every partition here");
        let mut found = 0;
        for hash in &partition.chunks {
            let name = hash.to_string();
            let data = std::fs::read(home.join("chunks").join(&name[..2]).join(&name)).unwrap();
            for (key, value) in manifest.entry(*hash).unwrap().open(&data).unwrap().iter() {
                let key = RowKey::decode(key).unwrap();
                if key.site == site
                    && let Row::Key(versions) = wire::decode_row(&key.place, &Bytes::copy_from_slice(value)).unwrap()
                {
                    let [version] = versions.versions() else { panic!("a counter with one writer has siblings: {versions:?}") };
                    let value = version.value.clone().expect("counters are not deleted").into_bytes();
                    found = u64::from_be_bytes(value[..].try_into().unwrap());
                }
            }
        }
        found
    })
}

fn manifest_of(cluster: &Cluster, node_id: u64, uuid: &str) -> PathBuf {
    cluster.dir().join("snapshots").join(format!("node-{node_id}")).join("snapshots").join(uuid).join("manifest.json")
}

fn digests(part: &Path) -> BTreeMap<PartitionId, Digest> {
    let (manifest, _) = Manifest::parse(&std::fs::read(part).unwrap()).unwrap();
    manifest.partitions().map(|(_, p)| (p.id, p.digest)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_many_snapshots_holds_one_instant_whatever_happens_to_the_nodes() {
    let rounds = std::env::var("DEVICEDB_CUT_ROUNDS").map_or(ROUNDS, |n| n.parse().expect("DEVICEDB_CUT_ROUNDS is a number"));
    let options = Options::default();
    let topology = Topology::new(options.partitions, options.groups).unwrap();
    let mut cluster = Cluster::start(3, options).await;
    let columns = columns(topology);
    for site in columns.iter().flatten() {
        cluster.client().add_site(site).await.unwrap();
    }
    let writers: Vec<_> = columns.into_iter().map(|sites| Column::start(cluster.clients(), sites, 0)).collect();
    let (mut parts_read, mut complete) = (0, 0);
    for round in 0..rounds {
        let fault = match (round % FAULT_EVERY, round / FAULT_EVERY) {
            (10, n) if n % 2 == 0 => Fault::Kill((n / 2 % 3) as usize),
            (10, n) => Fault::Pause((n / 2 % 3) as usize),
            _ => Fault::None,
        };
        for writer in &writers {
            writer.goes_on(1).await;
        }
        let before: Vec<u64> = writers.iter().map(Column::acknowledged).collect();
        let snapshot = taken_through(&mut cluster, fault).await;
        let completed: Vec<_> = snapshot.parts.iter().filter(|p| p.status() == SnapshotStatus::Completed).collect();
        assert!(!matches!(fault, Fault::None) || completed.len() == 3, "round {round}: nothing happened, and the snapshot is not complete: {snapshot:#?}");
        assert!(snapshot.status() != SnapshotStatus::Failed || !snapshot.reason.is_empty(), "round {round}: {snapshot:#?}");
        let parts: Vec<PathBuf> = completed.iter().map(|p| manifest_of(&cluster, p.node_id, &snapshot.uuid)).collect();
        for part in &parts {
            for (writer, floor) in writers.iter().zip(&before) {
                let [a, b, c] = counters(part, &writer.sites);
                let place = format!("round {round}, {fault:?}, {}: {:?} hold {a}, {b}, {c}", part.display(), writer.sites);
                assert!(a >= b && b >= c, "not one instant: {place}");
                assert!(c >= *floor, "{floor} was acknowledged before create was called: {place}");
            }
            assert_eq!(digests(part), digests(&parts[0]), "round {round}: {} and {} differ", part.display(), parts[0].display());
            parts_read += 1;
        }
        complete += u32::from(completed.len() == 3);
        cluster.client().delete_snapshot(&snapshot.uuid).await.unwrap();
    }
    println!("{rounds} snapshots, {complete} with all three parts, {parts_read} parts read");
    assert!(complete * 10 >= rounds * 9, "only {complete} of {rounds} snapshots were complete");
}

/// Takes a snapshot while the fault happens, and mends the fault afterwards.
async fn taken_through(cluster: &mut Cluster, fault: Fault) -> Snapshot {
    let asked = if matches!(fault, Fault::Kill(0) | Fault::Pause(0)) { 1 } else { 0 };
    let client = cluster.nodes[asked].client().with_deadline(SOON);
    let begun = client.create_snapshot().await.unwrap();
    match fault {
        Fault::None => {}
        Fault::Kill(victim) => cluster.nodes[victim].kill9(),
        Fault::Pause(victim) => cluster.nodes[victim].pause(),
    }
    let snapshot = client.snapshot_resolved(&begun.uuid, SOON * 2 + Duration::from_secs(30)).await;
    match fault {
        Fault::None => {}
        Fault::Kill(_) => cluster.restart_all().await,
        Fault::Pause(victim) => {
            cluster.nodes[victim].resume();
            cluster.settled().await;
        }
    }
    snapshot
}
