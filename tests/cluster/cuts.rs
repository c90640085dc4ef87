//! The cut, again and again: the parts of every snapshot are restored, each into a store of its
//! own, and the stores are read.
//!
//! Nodes are not started on those stores, so that a round takes a moment and there can be
//! thousands; `cut` does that, a few times. `DEVICEDB_CUT_ROUNDS` says how many rounds; the default
//! keeps a test run short. In every part's store counters that were written to site A, then B, then
//! C must stand in that order, what was acknowledged before `create` was called must be there, and
//! parts must agree on every partition. Now and then a node is killed or paused while the snapshot
//! is taken; then parts may be missing, but none may be torn.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use devicedb::{
    base::{
        disk::Machine,
        ids::{PartitionId, SiteId, Topology},
    },
    boot::restore,
    data::{Bucket, Key, Place, Row, RowKey},
    part::{chunk::Digest, manifest::Manifest},
    proto::v1::SnapshotStatus,
    store::{Store, View, keys},
    wire,
};

use crate::{
    cut::{COUNTER, Column, Fault, columns, is_complete},
    harness::{Cluster, Options},
};

const ROUNDS: u32 = 120;
const FAULT_EVERY: u32 = 20;

/// A part as it lies on the shelf.
struct Part {
    home: PathBuf,
    path: PathBuf,
    manifest: Manifest,
}

impl Part {
    fn of(cluster: &Cluster, node_id: u64, uuid: &str) -> Part {
        let home = cluster.dir().join("snapshots").join(format!("node-{node_id}"));
        let path = home.join("snapshots").join(uuid).join("manifest.json");
        let (manifest, _) = Manifest::parse(&fs::read(&path).unwrap()).unwrap();
        Part { home, path, manifest }
    }

    /// Puts it into an empty store directory as extracting its tar would, and has it restored. A
    /// view reads only while its store is held.
    fn restored(&self, dir: &Path) -> (View, Store) {
        let chunks = dir.join("chunks");
        fs::create_dir_all(&chunks).unwrap();
        fs::copy(&self.path, dir.join("manifest.json")).unwrap();
        for chunk in &self.manifest.chunks {
            let name = chunk.hash.to_string();
            fs::copy(self.home.join("chunks").join(&name[..2]).join(&name), chunks.join(&name))
                .unwrap();
        }
        restore::restore(dir, None).unwrap();
        let (store, _) = restore::open(dir, &Machine).unwrap();
        (store.view().unwrap(), store)
    }

    fn digests(&self) -> BTreeMap<PartitionId, Digest> {
        self.manifest.partitions().map(|(_, p)| (p.id, p.digest)).collect()
    }
}

/// What a restored store says of the sites it is asked for.
fn counters(store: &View, topology: Topology, sites: &[String; 3]) -> [u64; 3] {
    sites.clone().map(|site| {
        let site = SiteId::new(site).unwrap();
        let place = Place::Key { bucket: Bucket::Default, key: Key::new(COUNTER).unwrap() };
        let row = RowKey { partition: topology.partition_of(&site), site, place };
        let Some(stored) = store.get(&keys::data(&row.encode())).unwrap() else { return 0 };
        let Row::Key(versions) = wire::decode_row(&row.place, &stored).unwrap() else {
            panic!("{row:?} is not the row of a key")
        };
        let [version] = versions.versions() else {
            panic!("a counter with one writer has siblings: {versions:?}")
        };
        let value = version.value.clone().expect("counters are not deleted").into_bytes();
        u64::from_be_bytes(value[..].try_into().unwrap())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_many_snapshots_restores_to_one_instant_whatever_happens_to_the_nodes() {
    let rounds = std::env::var("DEVICEDB_CUT_ROUNDS")
        .map_or(ROUNDS, |n| n.parse().expect("DEVICEDB_CUT_ROUNDS is a number"));
    let options = Options::default();
    let topology = Topology::new(options.partitions, options.groups).unwrap();
    let mut cluster = Cluster::start(3, options).await;
    let columns = columns(topology);
    for site in columns.iter().flatten() {
        cluster.client().add_site(site).await.unwrap();
    }
    let writers: Vec<_> =
        columns.into_iter().map(|sites| Column::start(cluster.clients(), sites, 0)).collect();
    let (mut restored, mut complete) = (0, 0);
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
        let snapshot = fault.while_taking(&mut cluster).await;
        let completed = snapshot.parts.iter().filter(|p| p.status() == SnapshotStatus::Completed);
        let parts: Vec<Part> =
            completed.map(|p| Part::of(&cluster, p.node_id, &snapshot.uuid)).collect();
        for part in &parts {
            let dir = cluster.dir().join("restored");
            let (view, store) = part.restored(&dir);
            for (writer, floor) in writers.iter().zip(&before) {
                let [a, b, c] = counters(&view, topology, &writer.sites);
                let place = format!(
                    "round {round}, {fault:?}, {}: {:?} hold {a}, {b}, {c}",
                    part.path.display(),
                    writer.sites
                );
                assert!(a >= b && b >= c, "not one instant: {place}");
                assert!(c >= *floor, "{floor} was acknowledged before create was called: {place}");
            }
            assert_eq!(
                part.digests(),
                parts[0].digests(),
                "round {round}: {} and {} differ",
                part.path.display(),
                parts[0].path.display()
            );
            drop((view, store));
            fs::remove_dir_all(&dir).unwrap();
            restored += 1;
        }
        complete += u32::from(is_complete(&snapshot));
        cluster.client().delete_snapshot(&snapshot.uuid).await.unwrap();
    }
    println!("{rounds} snapshots, {complete} of them complete, {restored} parts restored");
    assert!(complete * 10 >= rounds * 9, "only {complete} of {rounds} snapshots were complete");
}
