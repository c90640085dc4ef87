//! A repository at a store that does its worst, and several who use it at a time, from a seed.
//!
//! In the middle of any request of one actor another one may do all of what it does, to a depth of
//! three. Answers are lost; puts and deletes arrive after hundreds of other requests; listings are
//! old; clocks are off by a year. Whoever gets an error gives up where it is, as if it were killed.
//!
//! What has to hold after each step, looked at past all faults: every snapshot that is listed
//! consists of objects that are there, and its rows are those that went in. What was stored is
//! listed, unless its number is void. What was taken out is not.

use std::{
    collections::BTreeSet,
    sync::{MutexGuard, Weak, atomic::AtomicBool},
};

use super::*;
use crate::{
    base::ids::GroupId,
    part::{chunk::ChunkHash, manifest::ChunkEntry},
    repository::{
        collect::{Order, References, collect, hold},
        commit::{Commit, part_of, root_of},
        contents::Contents,
        manifest,
        root::Folder,
        send::{Destination, Part, Sent, Unwatched, send},
    },
};

const PARTS: u64 = 12;
const STEPS: u64 = 40;
/// How much time a request takes: a day is some three hundred of them.
const TICK_MS: u64 = 5 * 60_000;
const YEAR_MS: u64 = 365 * 24 * 3_600_000;
const BEGIN_MS: u64 = 1_900_000_000_000;

/// A part that lies in memory.
struct Memory {
    manifest: Manifest,
    chunks: BTreeMap<ChunkHash, Vec<u8>>,
    root: Digest,
}

impl Part for Memory {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }
    fn stored(&self, entry: &ChunkEntry) -> Result<Vec<u8>> {
        Ok(self.chunks[&entry.hash].clone())
    }
}

fn groups() -> impl Iterator<Item = GroupId> {
    sample::topology().group_ids().chain([GroupId::META])
}

fn memory(seq: u64) -> Memory {
    // One has what the one before has, and the next one has not.
    let sample = Sample { snapshot: sample::snapshot(seq), seq, seed: seq / 2, ..Sample::new(1) };
    let (manifest, chunks) = Sample { rows: 3, ..sample }.part();
    let chunks = chunks.into_iter().map(|chunk| (chunk.hash, chunk.data.to_vec())).collect();
    let roots = groups().map(|group| root_of(&manifest, group).unwrap());
    let root = manifest::root(roots);
    Memory { manifest, chunks, root }
}

/// A snapshot that is sent and not listed.
struct Begun<'a> {
    part: &'a Memory,
    commit: Commit,
    base: Option<SnapshotSeq>,
    sent: Sent,
}

impl Begun<'_> {
    /// Lists it; `pinned` is not said by mistake.
    fn end(self, pinned: bool) -> Result<()> {
        let Begun { part, commit, base, sent } = self;
        let base = base.filter(|_| pinned);
        commit.make(vec![part_of(&part.manifest)], &sent.groups, sent.new_bytes, base).map(drop)
    }
}

/// What is on its way.
enum Late {
    Put(String, Bytes),
    Delete(String),
}

struct World {
    objects: BTreeMap<String, Bytes>,
    /// What was there some requests ago.
    old: Vec<Object>,
    /// With the request at which it arrives.
    late: Vec<(u64, Late)>,
    requests: u64,
    random: Random,
    depth: usize,
    lost: u64,
    /// Numbers that somebody was told are stored, and taken out.
    stored: BTreeSet<u64>,
    taken_out: BTreeSet<u64>,
}

struct Faulty {
    this: Weak<Faulty>,
    world: Mutex<World>,
    parts: Arc<Vec<Memory>>,
    /// No faults: somebody looks.
    calm: AtomicBool,
}

impl World {
    fn names(&self) -> Vec<Object> {
        let object = |(name, bytes): (&String, &Bytes)| Object {
            name: name.clone(),
            bytes: bytes.len() as u64,
        };
        self.objects.iter().map(object).collect()
    }

    fn put(&mut self, name: String, bytes: Bytes) -> Made {
        match self.objects.get(&name) {
            Some(_) => Made::Before,
            None => {
                self.objects.insert(name, bytes);
                Made::Now
            }
        }
    }

    fn arrive(&mut self, until: u64) {
        let (now, later) =
            std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= until);
        self.late = later;
        for (_, late) in Vec::from_iter::<Vec<(u64, Late)>>(now) {
            match late {
                Late::Put(name, bytes) => drop(self.put(name, bytes)),
                Late::Delete(name) => drop(self.objects.remove(&name)),
            }
        }
    }
}

fn lost<T>() -> Result<T> {
    Err(Error::unavailable("the answer was lost"))
}

impl Faulty {
    fn new(seed: u64, parts: &Arc<Vec<Memory>>) -> Arc<Faulty> {
        Arc::new_cyclic(|this| Faulty {
            this: this.clone(),
            world: Mutex::new(World {
                objects: BTreeMap::new(),
                old: Vec::new(),
                late: Vec::new(),
                requests: 0,
                random: Random::seeded(seed),
                depth: 0,
                lost: 0,
                stored: BTreeSet::new(),
                taken_out: BTreeSet::new(),
            }),
            parts: parts.clone(),
            calm: AtomicBool::new(true),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Before a request: time passes, and somebody else may come in between.
    fn passes(&self) -> Option<MutexGuard<'_, World>> {
        let mut world = self.world();
        if self.calm.load(Ordering::SeqCst) {
            return None;
        }
        world.requests += 1;
        let now = world.requests;
        world.arrive(now);
        if world.random.below(16) == 0 {
            world.old = world.names();
        }
        if world.depth < 3 && world.random.below(24) == 0 {
            world.depth += 1;
            drop(world);
            self.act();
            world = self.world();
            world.depth -= 1;
        }
        Some(world)
    }

    fn read_whole(&self, name: &str) -> Result<Bytes> {
        if let Some(mut world) = self.passes()
            && world.random.below(50) == 0
        {
            world.lost += 1;
            return lost();
        }
        let there = self.world().objects.get(name).cloned();
        there.ok_or_else(|| Error::not_found(name.to_owned()))
    }

    fn repository(&self) -> Repository {
        Repository::on(self.this.upgrade().unwrap(), &Access::none()).unwrap()
    }

    fn folder(&self) -> Folder {
        let Manifest { cluster, lineage, .. } = self.parts[0].manifest;
        Folder { cluster, lineage }
    }

    /// What one of several does, to its end or until something is lost.
    fn act(&self) {
        let (what, seq, now_ms, wild) = {
            let mut world = self.world();
            let newest = world.stored.last().copied().unwrap_or(0);
            let fresh = (newest + 1 + world.random.below(2)).min(PARTS);
            let any = 1 + world.random.below(fresh);
            let seq = if world.random.below(3) == 0 { any } else { fresh };
            let now_ms = BEGIN_MS + world.requests * TICK_MS;
            let jump = match world.random.below(16) {
                0 => now_ms + YEAR_MS,
                1 => now_ms - YEAR_MS,
                _ => now_ms,
            };
            (world.random.below(8), seq, jump, world.random.clone())
        };
        match what {
            0..4 => {
                if self.store(seq).is_ok() {
                    self.world().stored.insert(seq);
                }
            }
            4 => {
                let end = (seq % 2 == 0).then_some(now_ms + TICK_MS);
                let held = Hold { reason: "so".into(), until_ms: end };
                let held = (seq % 3 > 0).then_some(held);
                drop(hold(&self.open(), sample::snapshot(seq), held));
            }
            _ => self.collect(seq, now_ms, wild),
        }
    }

    /// Without the look at what makes it a repository.
    fn open(&self) -> Repository {
        Repository::unsealed(self.this.upgrade().unwrap(), sample::snapshot(77).0)
    }

    fn store(&self, seq: u64) -> Result<()> {
        self.begin(seq)?.map_or(Ok(()), |begun| begun.end(true))
    }

    /// Sends all that a snapshot consists of; nothing if it is listed already.
    fn begin(&self, seq: u64) -> Result<Option<Begun<'_>>> {
        let part = &self.parts[seq as usize - 1];
        let repository = self.open();
        let commit = Commit {
            repository: repository.clone(),
            folder: self.folder(),
            seq: SnapshotSeq(seq),
            snapshot: sample::snapshot(seq),
            partitions: 64,
            groups: 8,
            schedule: None,
        };
        if commit.there(&part.root)?.is_some() {
            return Ok(None);
        }
        let mut damaged = Vec::new();
        let base = commit.base(&mut damaged)?;
        assert_eq!(damaged, [""; 0], "what is listed can be read");
        let to = Destination {
            repository: &repository,
            folder: commit.folder,
            seq: commit.seq,
            base: base.as_ref(),
        };
        let wanted: Vec<(GroupId, &dyn Part)> =
            groups().map(|group| (group, part as &dyn Part)).collect();
        let sent = send(to, &wanted, &Unwatched)?;
        let base = base.map(|base| base.seq);
        Ok(Some(Begun { part, commit, base, sent }))
    }

    fn collect(&self, seq: u64, now_ms: u64, mut random: Random) {
        let mut keep = crate::cluster::retention::Keep::default();
        let mut named = BTreeSet::new();
        match random.below(3) {
            0 => keep.last = 1 + random.below(4) as u32,
            1 => drop(named.insert(sample::snapshot(seq))),
            _ => {}
        }
        let order = Order {
            keep,
            schedule: None,
            named,
            grace_ms: 24 * 3_600_000,
            now_ms,
            own: None,
            trust_clock: random.below(2) == 0,
            dry_run: random.below(8) == 0,
        };
        let Ok(collected) = collect(&self.open(), self.folder(), &order) else { return };
        if !order.dry_run {
            let gone = collected.snapshots.iter().filter(|one| !one.stays).map(|one| one.seq);
            self.world().taken_out.extend(gone);
        }
    }

    /// Past all faults.
    fn holds(&self, whole: bool) {
        let was = self.calm.swap(true, Ordering::SeqCst);
        let (repository, folder) = (self.open(), self.folder());
        let standing = repository.standing(folder).unwrap();
        assert_eq!(standing.damaged, [""; 0]);
        let mut references = References::default();
        for entry in &standing.catalogue.snapshots {
            let needed = references.of(&repository, folder, entry).unwrap();
            let world = self.world();
            for name in needed {
                assert!(world.objects.contains_key(&folder.object(name)), "{name} is gone");
            }
            drop(world);
            let kept = repository.kept(folder, entry).unwrap();
            assert_eq!(kept.snapshot.root, self.parts[entry.seq.0 as usize - 1].root);
            if whole {
                let contents = Contents::open(&repository, &kept).unwrap();
                contents.rows(|_| true, |_, _| Ok(())).unwrap();
                contents.meta_rows().unwrap();
            }
        }
        let world = self.world();
        for seq in world.stored.iter().map(|seq| SnapshotSeq(*seq)) {
            let catalogue = &standing.catalogue;
            assert!(catalogue.entry(seq).is_some() || catalogue.is_void(seq), "{seq} is lost");
        }
        for seq in &world.taken_out {
            assert!(standing.catalogue.is_void(SnapshotSeq(*seq)), "{seq} was taken out");
        }
        drop(world);
        self.calm.store(was, Ordering::SeqCst);
    }
}

impl Store for Faulty {
    fn place(&self) -> String {
        "a store that does its worst".into()
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        let Some(mut world) = self.passes() else {
            return Ok(self.world().put(name.to_owned(), bytes));
        };
        let fate = world.random.below(20);
        world.lost += u64::from(fate < 4);
        match fate {
            0 => lost(),
            1 => {
                world.put(name.to_owned(), bytes);
                lost()
            }
            2 | 3 => {
                let at = world.requests + world.random.below(900);
                world.late.push((at, Late::Put(name.to_owned(), bytes.clone())));
                if fate == 2 {
                    return lost();
                }
                // It looks, and says it again.
                let same = world.objects.get(name).is_some_and(|there| *there == bytes);
                let made = world.put(name.to_owned(), bytes);
                Ok(if same { Made::Now } else { made })
            }
            _ => Ok(world.put(name.to_owned(), bytes)),
        }
    }

    fn bytes(&self, name: &str) -> Result<u64> {
        self.read_whole(name).map(|bytes| bytes.len() as u64)
    }

    fn read(&self, name: &str, _: u64) -> Result<Vec<u8>> {
        self.read_whole(name).map(|bytes| bytes.to_vec())
    }

    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let whole = self.read_whole(name)?;
        let range = whole.get(offset as usize..(offset + bytes) as usize);
        range.map(<[u8]>::to_vec).ok_or_else(|| Error::corrupt(name.to_owned()))
    }

    fn list(&self, below: &str) -> Result<Vec<Object>> {
        let mut stale = false;
        if let Some(mut world) = self.passes() {
            match world.random.below(20) {
                0 => return lost(),
                1 | 2 => stale = true,
                _ => {}
            }
        }
        let world = self.world();
        let all = if stale { world.old.clone() } else { world.names() };
        let is_below = |object: &Object| {
            let rest = object.name.strip_prefix(below);
            rest.is_some_and(|rest| below.is_empty() || rest.is_empty() || rest.starts_with('/'))
        };
        Ok(all.into_iter().filter(is_below).collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        let Some(mut world) = self.passes() else {
            self.world().objects.remove(name);
            return Ok(());
        };
        match world.random.below(12) {
            0 => lost(),
            1 => {
                let at = world.requests + world.random.below(900);
                world.late.push((at, Late::Delete(name.to_owned())));
                Ok(())
            }
            2 => {
                world.objects.remove(name);
                lost()
            }
            _ => {
                world.objects.remove(name);
                Ok(())
            }
        }
    }
}

/// What makes the place a repository.
fn founded(seed: u64, parts: &Arc<Vec<Memory>>) -> Arc<Faulty> {
    let faulty = Faulty::new(seed, parts);
    let id = sample::snapshot(77).0;
    let root = format!("{{\"format\":2,\"product\":\"0\",\"repository\":\"{id}\"}}\n");
    faulty.world().put(super::super::root::ROOT.into(), root.into());
    faulty
}

fn parts() -> Arc<Vec<Memory>> {
    Arc::new((1..=PARTS).map(memory).collect())
}

/// The mistake that this is all about, brought about step by step: a snapshot leans on one that is
/// taken out, and deleted, before it is listed.
#[test]
fn a_snapshot_that_leans_on_nobody_listed_would_be_damaged() {
    for pinned in [true, false] {
        let faulty = founded(0, &parts());
        for seq in [1, 2] {
            faulty.store(seq).unwrap();
        }
        let third = faulty.begin(3).unwrap().unwrap();
        faulty.store(4).unwrap();
        let (repository, folder) = (faulty.open(), faulty.folder());
        for (named, days) in [(Some(2), 0), (None, 2)] {
            let order = Order {
                keep: Default::default(),
                schedule: None,
                named: named.map(sample::snapshot).into_iter().collect(),
                grace_ms: 3_600_000,
                now_ms: BEGIN_MS + days * 24 * 3_600_000,
                own: None,
                trust_clock: true,
                dry_run: false,
            };
            collect(&repository, folder, &order).unwrap();
        }
        let ended = third.end(pinned);
        let found = std::panic::catch_unwind(|| faulty.holds(true)).is_err();
        match pinned {
            true => assert_eq!((ended.unwrap_err().kind, found), (Kind::Conflict, false)),
            false => assert_eq!((ended, found), (Ok(()), true), "nobody would have noticed"),
        }
    }
}

/// Plays a story; how many answers were lost in it, and how many snapshots were stored and taken
/// out.
fn play(seed: u64, parts: &Arc<Vec<Memory>>) -> [u64; 3] {
    let faulty = founded(seed, parts);
    for step in 0..STEPS {
        faulty.calm.store(false, Ordering::SeqCst);
        faulty.act();
        faulty.holds(step % 10 == 9);
    }
    // What is late arrives, and everything that nobody needs goes.
    faulty.world().arrive(u64::MAX);
    faulty.holds(true);
    faulty.calm.store(true, Ordering::SeqCst);
    let (repository, folder) = (faulty.repository(), faulty.folder());
    let latest = BEGIN_MS + 2 * YEAR_MS;
    for days in [0, 2, 4] {
        let order = Order {
            keep: Default::default(),
            schedule: None,
            named: BTreeSet::new(),
            grace_ms: 3_600_000,
            now_ms: latest + days * 24 * 3_600_000,
            own: None,
            trust_clock: true,
            dry_run: false,
        };
        if repository.catalogues().unwrap().contains_key(&folder) {
            collect(&repository, folder, &order).unwrap();
        }
    }
    faulty.holds(true);
    let newest = repository.listed().unwrap().last().map_or(0, |(_, entry)| entry.seq.0);
    let left: Vec<String> = verify(&repository, &[], Depth::Whole)
        .map(|report| {
            report
                .problems
                .iter()
                .map(|problem| format!("{}: {}", problem.snapshot, problem.what))
                .collect()
        })
        .unwrap();
    let is_newer = |told: &String| {
        let number = told.split('/').nth(3).and_then(|word| word.split('-').next());
        number.and_then(|number| u64::from_str_radix(number, 16).ok()) > Some(newest)
    };
    // Of what was being stored behind the newest nobody knows that it is given up.
    assert!(left.iter().all(is_newer), "{left:?}");
    let world = faulty.world();
    [world.lost, world.stored.len() as u64, world.taken_out.len() as u64]
}

/// `DEVICEDB_STORE_SEEDS=0..100000` plays others than the gate does.
#[test]
fn whatever_a_store_does_listed_snapshots_are_whole() {
    let parts = parts();
    let told = std::env::var("DEVICEDB_STORE_SEEDS").unwrap_or_else(|_| "0..40".into());
    let (first, end) = told.split_once("..").expect("two seeds with .. between them");
    let (first, end) = (first.parse::<u64>().unwrap(), end.parse::<u64>().unwrap());
    let mut sums = [0; 3];
    for seed in first..end {
        let told = std::panic::catch_unwind(|| play(seed, &parts));
        let counts = told.unwrap_or_else(|_| panic!("in the story of seed {seed}"));
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let [lost, stored, taken_out] = sums.map(|sum| sum / (end - first).max(1));
    println!("a story: {lost} answers lost, {stored} snapshots stored, {taken_out} taken out");
    assert!(lost > 5 && stored > 4 && taken_out > 1, "stories are too dull: {sums:?}");
}
