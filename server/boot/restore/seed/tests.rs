//! Stores that are made of snapshots in a repository, held against the rows that went in.

use std::{cell::RefCell, collections::BTreeMap, fs};

use super::*;
use crate::{
    base::{
        clock::Random,
        disk,
        error::Kind,
        ids::{SiteGeneration, SnapshotSeq, Topology},
    },
    cluster::{Changed, Command, level::Level, sites::SiteState, state::Settings},
    data::{Key, Place},
    part::{
        chunk,
        manifest::{Manifest, MetaPart, PartitionPart},
        sample::{self, Sample},
    },
    repository::{import::import, trust::Access},
};

const SITES: [&str; 4] = ["pier", "depot", "silo", "van"];
const BUCKET: crate::data::Bucket = crate::data::Bucket::Default;

struct Stage {
    dir: tempfile::TempDir,
    repository: Repository,
    snapshot: SnapshotId,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn node(id: u64, lineage: Lineage) -> Node {
    Node {
        id: NodeId(id),
        address: format!("node-{id}:1"),
        capacity_percent: 100,
        version: "1.0".into(),
        snapshot_store: true,
        lineage,
        level: Level::own(),
        leaving: false,
        draining: false,
        certificate_name: None,
    }
}

fn site(id: &str) -> SiteId {
    SiteId::new(id).unwrap()
}

/// The configuration of a cluster of three nodes, at a snapshot: `van` is being removed.
fn captured(snapshot: SnapshotId) -> State {
    let (cluster, topology) = (Sample::new(1).part().0.cluster, sample::topology());
    let settings = Settings::founding(cluster, sample::LINEAGE, 3, topology).unwrap();
    let mut state = State::found(settings, node(1, sample::LINEAGE)).unwrap();
    let others = [2, u64::MAX].map(|id| Command::AnnounceNode(node(id, sample::LINEAGE)));
    let added = (1..).zip(SITES).flat_map(|(number, id)| {
        let generation = SiteGeneration(number);
        [Command::AddSite(site(id)), Command::SiteAdded { site: site(id), generation }]
    });
    let removed = Command::RemoveSite(site("van"));
    let begun = Command::BeginSnapshot { id: snapshot, created_ms: 0 };
    for command in others.into_iter().chain(added).chain([removed, begun]) {
        state.apply(&command).reply.unwrap();
    }
    state
}

fn rows_of(topology: Topology, id: &str) -> Vec<sample::Row> {
    let (partition, site) = (topology.partition_of(&site(id)), site(id));
    let mut rng = Random::seeded(partition.0.into());
    let key = |n: u64| {
        let key = Key::new(format!("key-{n:04}")).unwrap();
        RowKey { partition, site: site.clone(), place: Place::Key { bucket: BUCKET, key } }
    };
    let own = (RowKey::of_site(partition, site.clone()).encode(), b"its own row".to_vec());
    let keys = (0..200).map(|n| (key(n).encode(), rng.next_u64().to_string().into_bytes()));
    [own].into_iter().chain(keys).collect()
}

fn meta_rows(state: &State) -> Vec<sample::Row> {
    let row = |name: &Changed| {
        (wire::meta_row_name(name), wire::encode_meta_row(state, name).unwrap().to_vec())
    };
    let mut rows: Vec<_> = state.all_rows().iter().map(row).collect();
    rows.sort();
    rows
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(dir.path().join("repository").to_str().unwrap()).unwrap();
        let sample = Sample::new(1);
        let topology = sample::topology();
        let mut by_partition: BTreeMap<PartitionId, Vec<sample::Row>> = BTreeMap::new();
        for id in SITES {
            by_partition
                .entry(topology.partition_of(&site(id)))
                .or_default()
                .extend(rows_of(topology, id));
        }
        by_partition.values_mut().for_each(|rows| rows.sort());
        let (mut manifest, _) = sample.part();
        let mut chunks = Vec::new();
        let mut part = |id: PartitionId, rows: &[sample::Row]| {
            let new = sample::chunks_of(rows);
            let names: Vec<_> = new.iter().map(|chunk| chunk.hash).collect();
            let bytes = new.iter().map(|chunk| chunk.bytes).sum();
            chunks.extend(new);
            let count = rows.len() as u64;
            let digest = chunk::digest(&names, count);
            PartitionPart { id, data_index: 77, rows: count, bytes, digest, chunks: names }
        };
        for partition in manifest.groups.iter_mut().flat_map(|group| &mut group.partitions) {
            let rows = by_partition.get(&partition.id).map_or(&[][..], Vec::as_slice);
            *partition = part(partition.id, rows);
        }
        let state = captured(sample.snapshot);
        let PartitionPart { rows, bytes, digest, chunks: names, .. } =
            part(PartitionId(0), &meta_rows(&state));
        let meta = manifest.meta.take().unwrap();
        manifest.meta = Some(MetaPart { rows, bytes, digest, chunks: names, ..meta });
        manifest.chunks = chunks.iter().map(sample::entry).collect();
        manifest.chunks.sort_by_key(|chunk| chunk.hash);
        let part = dir.path().join("part");
        extract(&part, &manifest, &chunks);
        import(&repository, &[part]).unwrap();
        let rows = by_partition.into_values().flatten().collect();
        Stage { dir, repository, snapshot: sample.snapshot, rows }
    }

    fn store(&self) -> std::path::PathBuf {
        let store = self.dir.path().join("store");
        fs::create_dir_all(&store).unwrap();
        store
    }

    fn order(&self, sites: &[&str]) -> Order {
        let place = self.dir.path().join("repository");
        let sites = sites.iter().map(|text| Pattern::new(*text).unwrap()).collect();
        let place = place.display().to_string();
        Order { place, access: Access::none(), point: Point::Latest, sites, nodes: 1 }
    }

    fn seed(&self, sites: &[&str], nonce: u64) -> Result<Seeded> {
        seed(&self.store(), &self.order(sites), &founding(nonce), &|_, _| {})
    }

    /// The data rows of the store that was made, and its configuration.
    fn held(&self) -> (BTreeMap<Vec<u8>, Vec<u8>>, State) {
        self.held_in(&self.store())
    }

    fn held_in(&self, dir: &Path) -> (BTreeMap<Vec<u8>, Vec<u8>>, State) {
        let (store, _) = super::super::open(dir, &disk::Machine).unwrap();
        let view = store.view().unwrap();
        let rows = |space: u8| -> Vec<(Vec<u8>, Vec<u8>)> {
            let range = vec![space]..vec![space + 1];
            let rows = view.range(&range).unwrap().map(Result::unwrap);
            rows.map(|(key, row)| (key[1..].to_vec(), row.to_vec())).collect()
        };
        let meta = rows(keys::META);
        let state = wire::decode_meta(meta.iter().map(|(k, v)| (k.as_slice(), v.as_slice())));
        assert!(rows(b'p').is_empty() && rows(b'r').is_empty());
        (rows(keys::DATA).into_iter().collect(), state.unwrap())
    }

    fn is_empty(&self) {
        let left = fs::read_dir(self.store()).unwrap().count();
        assert_eq!(left, 0, "{:?}", fs::read_dir(self.store()).unwrap().collect::<Vec<_>>());
    }

    /// Changes the only object of a kind, and puts it back.
    fn with(&self, kind: &str, change: impl Fn(&Path), then: impl FnOnce()) {
        let objects = self.repository.store.list("").unwrap();
        let name = objects.into_iter().find(|object| object.name.contains(kind)).unwrap().name;
        let path = self.dir.path().join("repository").join(name);
        let was = fs::read(&path).unwrap();
        change(&path);
        then();
        fs::write(path, was).unwrap();
    }
}

fn extract(dir: &Path, manifest: &Manifest, chunks: &[chunk::Chunk]) {
    fs::create_dir_all(dir.join("chunks")).unwrap();
    fs::write(dir.join("manifest.json"), manifest.encode().unwrap().0).unwrap();
    for chunk in chunks {
        fs::write(dir.join("chunks").join(chunk.hash.to_string()), &chunk.data).unwrap();
    }
}

fn founding(nonce: u64) -> Founding {
    let cluster = ClusterId(Random::seeded(nonce).uuid());
    Founding { cluster, nonce, founder: node(11, Lineage::PENDING) }
}

#[test]
fn a_store_holds_the_rows_of_the_snapshot_and_one_node_that_votes_alone() {
    let stage = Stage::new();
    let said = RefCell::new(Vec::new());
    let say = |snapshot: &str, progress: Progress| {
        assert!(snapshot.starts_with(&stage.snapshot.to_string()), "{snapshot}");
        said.borrow_mut().push(progress);
    };
    let seeded = seed(&stage.store(), &stage.order(&[]), &founding(5), &say).unwrap();
    let (rows, state) = stage.held();
    assert_eq!(rows, stage.rows);
    assert_eq!(seeded.rows, stage.rows.len() as u64);
    let said = said.into_inner();
    assert!(said.len() > 10 && said.is_sorted_by_key(|progress| progress.done), "{said:?}");
    assert_eq!(said.last().map(|last| last.done), said.first().map(|first| first.total));

    let (store, identity) = super::super::open(&stage.store(), &disk::Machine).unwrap();
    assert_eq!(identity, seeded.identity);
    assert_eq!((identity.node, identity.cluster), (NodeId(11), founding(5).cluster));
    assert_eq!(identity.restored_from, Some(stage.snapshot));
    assert!(![Lineage::PENDING, sample::LINEAGE].contains(&identity.lineage));
    assert_eq!(state.settings().lineage, identity.lineage);
    assert_eq!(state.nodes()[&NodeId(11)].lineage, identity.lineage);
    let van = state.sites().site(&site("van")).unwrap();
    assert_eq!(van.state, SiteState::Removing, "the meta leader goes on with it");
    let view = store.view().unwrap();
    for group in sample::topology().group_ids().chain([GroupId::META]) {
        let record = wire::decode_record(&view.group(group).unwrap().unwrap()).unwrap();
        assert_eq!((record.applied, record.mark), (LOG_BEGIN, SnapshotSeq(0)));
        assert_eq!(record.members.voters, [NodeId(11)].into());
        assert_eq!(record.data.lineage, identity.lineage);
        let dots = if group.is_meta() { 0 } else { 1000 + u64::from(group.0) };
        assert_eq!(record.data.dots, dots, "it counts on from the mark");
    }
}

/// The plan of four nodes, and the stores that they make of it.
fn planned(stage: &Stage, sites: &[&str]) -> (Plan, Vec<std::path::PathBuf>) {
    let order = Order { nodes: 4, ..stage.order(sites) };
    let choice = Choice::of(&order, &node(11, Lineage::PENDING)).unwrap();
    let others = [12, 3, 40].map(|id| node(id, Lineage::PENDING)).to_vec();
    let plan = choice.plan(&order, &founding(5), others).unwrap();
    plan.check(&order).unwrap();
    let make = |at: &Node| {
        let dir = stage.dir.path().join(format!("node-{}", at.id));
        fs::create_dir_all(&dir).unwrap();
        plan.keep(&dir).unwrap();
        let kept = Plan::kept(&dir).unwrap().unwrap();
        assert_eq!(kept, plan);
        let seeded = seed_planned(&dir, &order, &kept, at.id, &|_, _| {}).unwrap();
        assert_eq!((seeded.identity.node, seeded.identity.cluster), (at.id, plan.cluster));
        assert_eq!(Plan::kept(&dir).as_ref(), Ok(&Some(plan.clone())), "others may ask for it");
        dir
    };
    let dirs = plan.nodes.iter().map(make).collect();
    (plan, dirs)
}

#[test]
fn nodes_that_begin_together_hold_every_group_alike_and_together_all_rows() {
    let stage = Stage::new();
    let (plan, dirs) = planned(&stage, &[]);
    let topology = sample::topology();
    let mut copies: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut records: BTreeMap<GroupId, (Vec<u8>, usize)> = BTreeMap::new();
    let mut states = Vec::new();
    for (dir, node) in dirs.iter().zip(&plan.nodes) {
        let (rows, state) = stage.held_in(dir);
        let voters = |key: &[u8]| {
            let partition = RowKey::decode(key).unwrap().partition;
            state.assignments()[&topology.group_of(partition)].clone()
        };
        for (key, row) in rows {
            assert_eq!(stage.rows.get(&key), Some(&row));
            assert!(voters(&key).contains(&node.id));
            *copies.entry(key).or_default() += 1;
        }
        let (store, _) = super::super::open(dir, &disk::Machine).unwrap();
        for (group, record) in store.view().unwrap().groups().unwrap() {
            let members = wire::decode_record(&record).unwrap().members;
            assert!(members.has(node.id), "{group}");
            let of_all = if group.is_meta() { 4 } else { 3 };
            assert_eq!(members.voters.len() + members.learners.len(), of_all, "{group}");
            let (first, count) = records.entry(group).or_insert_with(|| (record.to_vec(), 0));
            assert_eq!(*first, record.to_vec(), "{group} begins alike everywhere");
            *count += 1;
        }
        states.push(state);
    }
    assert!(states.iter().all(|state| *state == states[0]));
    assert_eq!(plan::beginning(&states[0]), plan.beginning);
    assert_eq!(copies.len(), stage.rows.len());
    assert!(copies.values().all(|copies| *copies == 3), "every row has three replicas");
    let expected = |group: &GroupId| if group.is_meta() { 4 } else { 3 };
    assert_eq!(records.len(), topology.groups() as usize + 1);
    assert!(records.iter().all(|(group, (_, count))| *count == expected(group)));
}

#[test]
fn of_some_sites_together_every_node_loads_what_it_holds_of_them() {
    let stage = Stage::new();
    let (_, dirs) = planned(&stage, &["silo", "d*", "silo"]);
    let wanted = ["depot", "silo"];
    let mut rows = BTreeMap::new();
    for dir in &dirs {
        rows.extend(stage.held_in(dir).0);
    }
    let mut expected = stage.rows.clone();
    expected.retain(|key, _| wanted.contains(&RowKey::decode(key).unwrap().site.as_str()));
    assert_eq!(rows, expected);
}

#[test]
fn a_plan_that_is_damaged_or_of_something_else_makes_no_store() {
    let stage = Stage::new();
    let (plan, _) = planned(&stage, &[]);
    let dir = stage.store();
    let order = stage.order(&[]);
    let refused = |plan: &Plan, kind: Kind, says: &str| {
        let e = seed_planned(&dir, &order, plan, NodeId(11), &|_, _| {}).unwrap_err();
        assert!(e.kind == kind && e.message.contains(says), "{e}");
        assert!(e.message.contains("nothing is restored from"), "{e}");
        stage.is_empty();
    };
    let other = Random::seeded(9).uuid();
    refused(&Plan { repository: other, ..plan.clone() }, Kind::Conflict, "name the same on every");
    let gone = SnapshotId(other);
    refused(&Plan { snapshot: gone, ..plan.clone() }, Kind::NotFound, "has no snapshot");
    let differs = Plan { beginning: Digest([7; 32]), ..plan.clone() };
    refused(&differs, Kind::Conflict, "start the same version on every node");
    let fewer = Plan { nodes: plan.nodes[..3].to_vec(), ..plan.clone() };
    refused(&fewer, Kind::Conflict, "makes another beginning");

    let order = Order { nodes: 4, ..stage.order(&[]) };
    for (order, says) in [
        (
            Order { nodes: 3, ..order.clone() },
            "on 4 nodes, with all sites, and this node was told --expect-nodes 3",
        ),
        (Order { point: Point::Snapshot(gone), ..order.clone() }, "was told --point"),
        (Order { nodes: 4, ..stage.order(&["van", "silo"]) }, "was told --sites van,silo"),
    ] {
        let e = plan.check(&order).unwrap_err();
        assert!(e.kind == Kind::Conflict && e.message.contains(says), "{e}");
    }

    plan.keep(&dir).unwrap();
    let path = dir.join(super::super::PLAN);
    let whole = fs::read(&path).unwrap();
    for at in [0, 31, 32, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        let e = Plan::kept(&dir).unwrap_err();
        assert!(e.kind == Kind::Corrupt && e.message.contains("seed-plan"), "{e}");
    }
    fs::write(&path, &whole[..20]).unwrap();
    assert_eq!(Plan::kept(&dir).unwrap_err().kind, Kind::Corrupt);
    let record = plan.record();
    let garbled = |change: &dyn Fn(&mut crate::proto::internal::v1::SeedPlan)| {
        let mut record = record.clone();
        change(&mut record);
        Plan::parse(record).unwrap_err();
    };
    garbled(&|record| record.lineage = 0);
    garbled(&|record| record.nodes.clear());
    garbled(&|record| record.nodes[0].id = 0);
    garbled(&|record| record.cluster_id.truncate(15));
    garbled(&|record| record.repository_id.clear());
    garbled(&|record| record.snapshot.truncate(1));
    garbled(&|record| record.sites.push("a*b".into()));
    garbled(&|record| record.beginning.truncate(31));
}

#[test]
fn two_stores_of_one_snapshot_are_of_two_clusters_and_two_histories() {
    let seeded = [1, 2].map(|nonce| Stage::new().seed(&[], nonce).unwrap().identity);
    let [one, other] = &seeded;
    assert_eq!(one.restored_from, other.restored_from);
    assert!(one.cluster != other.cluster && one.lineage != other.lineage);
}

#[test]
fn of_some_sites_the_rows_are_there_and_of_the_others_nothing() {
    let stage = Stage::new();
    let seeded = stage.seed(&["silo", "d*"], 1).unwrap();
    let (rows, state) = stage.held();
    let wanted = ["depot", "silo"];
    let there: Vec<_> = state.sites().sites().keys().map(SiteId::as_str).collect();
    assert_eq!(there, wanted);
    let is_of = |key: &[u8]| wanted.contains(&RowKey::decode(key).unwrap().site.as_str());
    let mut expected = stage.rows.clone();
    expected.retain(|key, _| is_of(key));
    assert_eq!(rows, expected);
    assert_eq!(seeded.rows, 402);

    let other = Stage::new();
    let e = other.seed(&["depto"], 1).unwrap_err();
    let says = "no site of the snapshot is called depto; it has depot, pier, silo, van";
    assert!(e.kind == Kind::Invalid && e.message.ends_with(says), "{e}");
    other.is_empty();
}

#[test]
fn whatever_is_damaged_or_missing_is_named_and_nothing_is_left_of_the_store() {
    let stage = Stage::new();
    let flip = |at: usize| {
        move |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            let at = at * bytes.len() / 100;
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        }
    };
    let refused = |kind: Kind, says: &str| {
        let e = stage.seed(&[], 1).unwrap_err();
        assert_eq!(e.kind, kind, "{e}");
        assert!(e.message.contains(says) && e.message.contains("holds no store"), "{e}");
        stage.is_empty();
    };
    for at in [0, 30, 60, 99] {
        stage.with("/g/", flip(at), || refused(Kind::Corrupt, "/g/"));
        stage.with("/i/", flip(at), || refused(Kind::Corrupt, "/i/"));
        stage.with("/s/", flip(at), || refused(Kind::Corrupt, "/s/"));
    }
    stage.with(
        "/g/",
        |path| fs::remove_file(path).unwrap(),
        || refused(Kind::Corrupt, "is missing"),
    );
    stage.with(
        "/g/",
        |path| fs::write(path, "short").unwrap(),
        || refused(Kind::Corrupt, "has 5 bytes, and was made with"),
    );
    stage.with(
        "/i/",
        |path| fs::remove_file(path).unwrap(),
        || refused(Kind::NotFound, "an index of the snapshot"),
    );
    stage.seed(&[], 1).unwrap();
    assert_eq!(stage.held().0, stage.rows);
}

#[test]
fn a_crash_before_the_store_has_its_name_leaves_a_directory_that_begins_again() {
    let stage = Stage::new();
    let aside = stage.store().join(ASIDE);
    fs::create_dir(&aside).unwrap();
    fs::write(Store::path_in(&aside), "half a store").unwrap();
    assert_eq!(super::super::look(&stage.store()), Ok(super::super::Holds::Nothing));
    stage.seed(&[], 1).unwrap();
    assert_eq!(stage.held().0, stage.rows);
    assert!(!aside.exists());
}
