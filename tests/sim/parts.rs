//! Parts of snapshots: captured, put on a shelf, reported, deleted, as production does it with
//! tasks and threads, here in steps of virtual time.
//!
//! Copying, the shelf and the tar are the real ones, on files of a temporary directory: what a
//! crash does to half a part is that the process ends. The shelf's own fsyncs are not simulated. Of
//! a part that is put in place it is checked, now and then, that its tar holds what was frozen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use devicedb::{
    base::{
        clock::{Clock, Random},
        error::{Kind, Result},
        ids::{
            ClusterId, GroupId, Lineage, NodeId, PartitionId, SnapshotId, SnapshotSeq, Topology,
        },
        limits,
    },
    cluster::{self, snapshots::Part},
    data::Reply,
    engine::{Body, Captured, SnapshotNews, Token},
    part::{
        manifest::Manifest,
        shelf::{Owner, PartWriter, Shelf},
        source::Source,
        tar::PartReader,
        verify,
    },
    service::parts::capture::{self, Capture, Head, Outcome},
    store::{View, keys},
};

use uuid::Uuid;

use crate::world::World;

/// Alarms of parts have numbers from here on.
pub const ALARMS: u64 = 1 << 32;

/// A digest of the rows of each group that a node holds; without the letter of the key space, as
/// they stand in a part.
pub type Rows = BTreeMap<GroupId, String>;

pub struct Parts {
    rng: Random,
    shelves: Vec<PathBuf>,
    nodes: BTreeMap<usize, Node>,
    steps: BTreeMap<u64, (usize, u64, SnapshotId)>,
    next_step: u64,
    reports: BTreeMap<Token, Report>,
    again: BTreeMap<u64, Report>,
    pub completed: u64,
    pub broken: Vec<String>,
}

/// The parts of one process.
struct Node {
    incarnation: u64,
    shelf: Arc<Shelf>,
    captures: BTreeMap<SnapshotId, Taken>,
    /// Parts that this process has not begun and says what became of them.
    lying: BTreeSet<SnapshotId>,
}

struct Taken {
    capture: Capture,
    seq: SnapshotSeq,
    groups: Option<Vec<Captured>>,
    rows: Rows,
    copied: Option<(PartWriter, Manifest)>,
}

#[derive(Clone)]
struct Report {
    node: usize,
    incarnation: u64,
    id: SnapshotId,
    part: Part,
}

impl Parts {
    pub fn new(seed: u64, shelves: Vec<PathBuf>) -> Parts {
        Parts {
            rng: Random::seeded(seed),
            shelves,
            nodes: BTreeMap::new(),
            steps: BTreeMap::new(),
            next_step: ALARMS,
            reports: BTreeMap::new(),
            again: BTreeMap::new(),
            completed: 0,
            broken: Vec::new(),
        }
    }

    /// What this node's process has begun; what another process of it had begun is gone.
    fn of(&mut self, node: usize, world: &World) -> &mut Node {
        let incarnation = world.nodes[node].incarnation;
        if self.nodes.get(&node).is_some_and(|n| n.incarnation != incarnation) {
            self.nodes.remove(&node);
        }
        self.nodes.entry(node).or_insert_with(|| {
            let shelf = open(&self.shelves[node], world.nodes[node].id);
            Node { incarnation, shelf, captures: BTreeMap::new(), lying: BTreeSet::new() }
        })
    }

    pub fn on_news(&mut self, node: usize, news: SnapshotNews, world: &mut World) {
        let incarnation = world.nodes[node].incarnation;
        match news {
            SnapshotNews::Captured { id, seq, groups } => {
                let rows = captured(&groups, world.topology).expect("the story has just read them");
                let capture = Capture::begin(groups.len() as u32, Clock::start());
                let taken = Taken { capture, seq, groups: Some(groups), rows, copied: None };
                self.of(node, world).captures.insert(id, taken);
                let most = [5, 100, 3000][self.rng.below(3) as usize];
                self.later(node, id, most, world);
            }
            SnapshotNews::Sealed { id } => self.decide(node, id, Outcome::Sealed, world),
            SnapshotNews::Aborted { id } => self.decide(node, id, Outcome::Given, world),
            SnapshotNews::Deleted { id } => {
                self.decide(node, id, Outcome::Given, world);
                self.delete(node, id, world);
            }
            SnapshotNews::Deleting { id, lineage } => {
                self.decide(node, id, Outcome::Given, world);
                if let Err(e) = self.of(node, world).shelf.delete(id, lineage) {
                    self.broken.push(format!("node {node} cannot delete its part of {id}: {e}"));
                }
                let report = cluster::Command::ReportDeletion {
                    id,
                    node: world.nodes[node].id,
                    reason: String::new(),
                };
                // Told again where that gets lost.
                world.request(
                    node,
                    GroupId::META,
                    Body::Propose(report.into()),
                    limits::REQUEST_DEADLINE,
                );
            }
            SnapshotNews::Unreported { id } => {
                let this = self.of(node, world);
                if !this.captures.contains_key(&id) && this.lying.insert(id) {
                    let part = capture::on_shelf(&this.shelf, id).unwrap_or_else(|| {
                        Part::missing(world.nodes[node].id, "the node was away")
                    });
                    self.report(Report { node, incarnation, id, part }, world);
                }
            }
        }
    }

    fn decide(&mut self, node: usize, id: SnapshotId, outcome: Outcome, world: &mut World) {
        if let Some(taken) = self.of(node, world).captures.get(&id) {
            taken.capture.decide(outcome);
            self.later(node, id, 20, world);
        }
    }

    fn delete(&mut self, node: usize, id: SnapshotId, world: &World) {
        let Some(lineage) = world.engine(node).map(|e| e.identity().lineage) else { return };
        if let Err(e) = self.of(node, world).shelf.delete(id, lineage) {
            self.broken.push(format!("node {node} cannot delete its part of {id}: {e}"));
        }
    }

    fn later(&mut self, node: usize, id: SnapshotId, most_ms: u64, world: &mut World) {
        let incarnation = world.nodes[node].incarnation;
        self.next_step += 1;
        self.steps.insert(self.next_step, (node, incarnation, id));
        world.alarm(Duration::from_micros(1 + self.rng.below(most_ms * 1000)), self.next_step);
    }

    /// The next step of a capture, if its process is still there.
    pub fn on_alarm(&mut self, number: u64, world: &mut World) {
        if let Some(report) =
            self.again.remove(&number).filter(|r| world.nodes[r.node].incarnation == r.incarnation)
        {
            return self.report(report, world);
        }
        let Some((node, incarnation, id)) = self.steps.remove(&number) else { return };
        if world.nodes[node].incarnation != incarnation {
            return;
        }
        if world.nodes[node].paused_until > world.now {
            let left = world.nodes[node].paused_until - world.now;
            return self.later(node, id, left.as_millis() as u64 + 1, world);
        }
        let Some(identity) = world.engine(node).map(|e| e.identity().clone()) else { return };
        let me = world.nodes[node].id;
        let written_ms = world.now.as_millis() as u64;
        let this = self.of(node, world);
        this.shelf.set_lineage(identity.lineage).expect("a temporary directory can be used");
        let Some(taken) = this.captures.get_mut(&id) else { return };
        if let Some(groups) = taken.groups.take() {
            let head = Head {
                snapshot: id,
                seq: taken.seq,
                identity: &identity,
                address: "127.0.0.1:1",
                written_ms,
                sealing: None,
            };
            match capture::copy(&this.shelf, &head, groups, &taken.capture) {
                Ok(copied) => taken.copied = Some(copied),
                Err(_) if taken.capture.is_stopped() => {}
                Err(e) => {
                    let part = Part::failed(me, e.message.clone());
                    if !world.nodes[node].may_fail_to_read(&e) {
                        self.broken.push(format!("node {node} cannot capture {id}: {e}"));
                    }
                    return self.report(Report { node, incarnation, id, part }, world);
                }
            }
        }
        let this = self.of(node, world);
        let Some(taken) = this.captures.get_mut(&id) else { return };
        match taken.capture.outcome() {
            Outcome::Open => {}
            Outcome::Given => drop(this.captures.remove(&id)),
            Outcome::Sealed => {
                let Some((writer, manifest)) = taken.copied.take() else { return };
                match capture::put_in_place(&taken.capture, &this.shelf, writer, manifest) {
                    Ok(Some(finished)) => {
                        let part = capture::completed(&finished);
                        let (shelf, rows) = (this.shelf.clone(), taken.rows.clone());
                        self.completed += 1;
                        if self.rng.below(8) == 0 {
                            self.check(node, &shelf, id, &rows, world);
                        }
                        self.report(Report { node, incarnation, id, part }, world);
                    }
                    Ok(None) => drop(this.captures.remove(&id)),
                    Err(e) => {
                        self.broken.push(format!("node {node} cannot finish its part of {id}: {e}"))
                    }
                }
            }
        }
    }

    fn report(&mut self, report: Report, world: &mut World) {
        let command = cluster::Command::ReportPart { id: report.id, part: report.part.clone() };
        let token = world.request(
            report.node,
            GroupId::META,
            Body::Propose(command.into()),
            limits::REQUEST_DEADLINE,
        );
        self.reports.insert(token, report);
    }

    /// Whether an answer was one that a part waits for.
    pub fn on_answer(&mut self, token: Token, answer: &Result<Reply>, world: &mut World) -> bool {
        let Some(report) = self.reports.remove(&token) else { return false };
        let Report { node, incarnation, id, .. } = report;
        if world.nodes[node].incarnation != incarnation {
            return true;
        }
        if let Err(e) = answer
            && matches!(e.kind, Kind::Unavailable | Kind::Unknown | Kind::Exhausted)
        {
            self.next_step += 1;
            self.again.insert(self.next_step, report);
            world.alarm(limits::REPORT_AGAIN, self.next_step);
            return true;
        }
        let this = self.of(node, world);
        this.lying.remove(&id);
        if this.captures.remove(&id).is_some_and(|taken| taken.capture.is_given()) {
            self.delete(node, id, world);
        }
        true
    }

    /// Downloads a part and compares it with what its node had frozen.
    fn check(
        &mut self,
        node: usize,
        shelf: &Arc<Shelf>,
        id: SnapshotId,
        held: &Rows,
        world: &World,
    ) {
        let dir = tempfile::tempdir_in(&world.root).unwrap();
        let tar = dir.path().join("part.tar");
        let looked = download(shelf, id, &tar, &mut self.rng).and_then(|()| {
            verify::verify_part(&tar, None)
                .map_err(|problems| devicedb::base::error::Error::corrupt(problems.to_string()))?;
            let extracted = dir.path().join("part");
            extract(&tar, &extracted);
            rows_of_part(&extracted)
        });
        match looked {
            Ok(rows) if rows == *held => {}
            Ok(rows) => self.broken.push(format!(
                "node {node}: the part of {id} holds {rows:?}, the node had {held:?}"
            )),
            Err(e) => self.broken.push(format!(
                "node {node}: the part of {id} that was just completed is not sound: {e}"
            )),
        }
    }

    /// All processes are gone.
    pub fn crash(&mut self) {
        self.nodes.clear();
        self.reports.clear();
        self.again.clear();
        self.steps.clear();
    }

    /// Nodes that have a finished part, by snapshot. Only while no process runs.
    pub fn lying(&self, world: &World) -> BTreeMap<SnapshotId, Vec<usize>> {
        let mut lying: BTreeMap<SnapshotId, Vec<usize>> = BTreeMap::new();
        for (node, shelf) in self.shelves.iter().enumerate() {
            open(shelf, world.nodes[node].id)
                .list()
                .into_iter()
                .for_each(|part| lying.entry(part.snapshot).or_default().push(node));
        }
        lying
    }

    pub fn download(
        &mut self,
        node: usize,
        id: SnapshotId,
        tar: &Path,
        world: &World,
    ) -> Result<()> {
        download(&open(&self.shelves[node], world.nodes[node].id), id, tar, &mut self.rng)
    }

    pub fn set_shelf(&mut self, node: usize, shelf: PathBuf) {
        self.shelves[node] = shelf;
    }
}

fn open(dir: &Path, node: NodeId) -> Arc<Shelf> {
    fs::create_dir_all(dir).unwrap();
    // Of whatever history: what is tried here is not whose it is.
    let owner = Owner {
        cluster: ClusterId(Uuid::nil()),
        lineage: Lineage::PENDING,
        node,
        address: "127.0.0.1:1".into(),
    };
    Shelf::open(dir, &owner).expect("a temporary directory can be used")
}

/// Streams a part into a file, now and then from an offset again.
fn download(shelf: &Arc<Shelf>, id: SnapshotId, tar: &Path, rng: &mut Random) -> Result<()> {
    let mut bytes = Vec::new();
    let mut reader = PartReader::open(shelf.hold(id)?, 0)?;
    loop {
        if rng.below(20) == 0 {
            bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            reader = PartReader::open(shelf.hold(id)?, bytes.len() as u64)?;
        }
        match reader.next(1 + rng.below(100_000) as usize)? {
            Some(piece) => bytes.extend_from_slice(&piece),
            None => break,
        }
    }
    fs::write(tar, bytes).unwrap();
    Ok(())
}

pub fn extract(tar: &Path, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    tar::Archive::new(fs::File::open(tar).unwrap())
        .unpack(dir)
        .expect("what was downloaded is a tar");
}

/// What an extracted part holds.
pub fn rows_of_part(dir: &Path) -> Result<Rows> {
    let source = Source::open(dir)?;
    let digest =
        |chunks: &[devicedb::part::chunk::ChunkHash], hash: &mut blake3::Hasher| -> Result<()> {
            for chunk in chunks {
                for (key, row) in source.chunk(*chunk)?.iter() {
                    hash.update(key).update(row);
                }
            }
            Ok(())
        };
    let mut rows = Rows::new();
    for group in &source.manifest().groups {
        let mut hash = blake3::Hasher::new();
        group.partitions.iter().try_for_each(|p| digest(&p.chunks, &mut hash))?;
        rows.insert(group.group, hash.finalize().to_hex().to_string());
    }
    if let Some(meta) = &source.manifest().meta {
        let mut hash = blake3::Hasher::new();
        digest(&meta.chunks, &mut hash)?;
        rows.insert(GroupId::META, hash.finalize().to_hex().to_string());
    }
    Ok(rows)
}

/// What a view holds of some groups.
pub fn rows(
    view: &View,
    topology: Topology,
    groups: impl IntoIterator<Item = GroupId>,
) -> Result<Rows> {
    let of = |group| Ok((group, digest(group, topology, |range, see| view.each(range, see))?));
    groups.into_iter().map(of).collect()
}

/// What was frozen of some groups.
pub fn captured(groups: &[Captured], topology: Topology) -> Result<Rows> {
    let of = |Captured { group, rows, .. }: &Captured| {
        Ok((*group, digest(*group, topology, |range, see| rows.each(range, see))?))
    };
    groups.iter().map(of).collect()
}

type See<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

fn digest(
    group: GroupId,
    topology: Topology,
    each: impl Fn(&Range<Vec<u8>>, See) -> Result<()>,
) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let ranges = match group.is_meta() {
        true => vec![vec![keys::META]..vec![keys::META + 1]],
        false => topology.partitions_of(group).map(|p| keys::partition(PartitionId(p))).collect(),
    };
    for range in &ranges {
        each(range, &mut |key, row| {
            hash.update(&key[1..]).update(row);
            Ok(())
        })?;
    }
    Ok(hash.finalize().to_hex().to_string())
}
