//! Snapshots that go in and come out, whatever happens in between.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;

use super::{
    catalogue::{self, Catalogue, Dropped},
    entry::Hold,
    export::export,
    import::{Imported, import},
    index::Place,
    key::KeySource,
    manifest::Snapshot,
    root::{Kept, Repository},
    status::status,
    store::{Directory, Made, Object, Store},
    trust::{Access, Trust},
    verify::{Depth, verify},
};
use crate::{
    base::{
        clock::Random,
        error::{Error, Kind, Result},
        ids::{NodeId, SnapshotSeq},
    },
    part::{
        chunk::{self, Chunk, Digest},
        manifest::Manifest,
        reseal,
        sample::{self, Sample},
        seal::{Identity, Sealing},
        tar,
    },
};

mod adopting;
mod caring;
mod collecting;
mod faulty;
mod lossy;
mod sealed;
mod signed;

/// The nodes that hold each group of a sample; one is the largest id there is.
const NODES: [u64; 3] = [1, 2, u64::MAX];

struct Stage {
    dir: tempfile::TempDir,
    repository: Repository,
    /// The file that opens it, if it is sealed.
    key: Option<PathBuf>,
    /// Whose signatures are believed.
    trust: Trust,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(dir.path().join("repository").to_str().unwrap()).unwrap();
        Stage { dir, repository, key: None, trust: Trust::default() }
    }

    fn open(&self) -> Result<Repository> {
        self.on(Arc::new(Directory::new(self.root())))
    }

    fn on(&self, store: Arc<dyn Store>) -> Result<Repository> {
        Repository::on(store, &self.access())
    }

    fn access(&self) -> Access {
        let key = self.key.as_ref().map_or_else(KeySource::none, KeySource::file);
        Access { key, trust: self.trust.clone() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    /// The tars that three nodes would send.
    fn tars(&self, sample: &Sample) -> Vec<PathBuf> {
        let write = |node| {
            let sample = Sample { node: NodeId(node), ..sample.clone() };
            let path = self.dir.path().join(format!("{}-{node}.tar", sample.snapshot));
            fs::write(&path, tar(&sample)).unwrap();
            path
        };
        NODES.map(write).into()
    }

    /// Those that `tars` has written.
    fn tars_of_before(&self, sample: &Sample) -> Vec<PathBuf> {
        let path = |node| self.dir.path().join(format!("{}-{node}.tar", sample.snapshot));
        NODES.map(path).into()
    }

    fn import(&self, sample: &Sample) -> Imported {
        import(&self.repository, &self.tars(sample)).unwrap()
    }

    fn segments(&self) -> u64 {
        let objects = self.repository.store.list("").unwrap();
        objects.iter().filter(|o| o.name.contains("/g/")).map(|o| o.bytes).sum()
    }

    /// Whether all parts come back as they went in.
    fn comes_back(&self, sample: &Sample) {
        let kept = self.repository.find(sample.snapshot).unwrap();
        let out = tempfile::tempdir().unwrap();
        let parts = export(&self.repository, &kept, None, out.path()).unwrap();
        let given = self.tars(sample);
        assert_eq!(parts.len(), given.len());
        for (part, tar) in parts.iter().zip(given) {
            assert_eq!(fs::read(&part.path).unwrap(), fs::read(tar).unwrap(), "{part:?}");
            assert_eq!(fs::metadata(&part.path).unwrap().len(), part.bytes);
        }
    }

    fn is_sound(&self) {
        let report = verify(&self.repository, &[], Depth::Whole).unwrap();
        assert!(report.sound, "{report}");
    }
}

/// As a node sends it, without a shelf in between.
fn tar(sample: &Sample) -> Vec<u8> {
    let (manifest, chunks) = sample.part();
    tar_of(&manifest, chunks)
}

fn tar_of(manifest: &Manifest, chunks: Vec<Chunk>) -> Vec<u8> {
    let chunks: BTreeMap<_, _> = chunks.into_iter().map(|c| (c.hash, c.data.to_vec())).collect();
    let mut tar = Vec::new();
    let text = manifest.encode().unwrap().0;
    tar::write(&mut tar, manifest, &text, |put| {
        manifest.chunks.iter().try_for_each(|entry| put(chunks[&entry.hash].clone()))
    })
    .unwrap();
    tar
}

#[test]
fn a_part_that_is_written_is_the_one_that_a_node_sends() {
    let sample = Sample::new(1);
    assert_eq!(tar(&sample), sample.tar());
}

fn sample(seq: u64, seed: u64) -> Sample {
    Sample { snapshot: sample::snapshot(seq), seq, seed, rows: 200, ..Sample::new(1) }
}

#[test]
fn replicas_are_stored_once_and_every_part_comes_back_byte_for_byte() {
    let stage = Stage::new();
    let first = sample(1, 1);
    let imported = stage.import(&first);
    let one = first.part().0.stored_bytes();
    assert_eq!((imported.given_bytes, imported.stored_bytes), (3 * one, one));
    assert_eq!((imported.new_bytes, stage.segments()), (one, one));
    stage.comes_back(&first);
    stage.is_sound();
    let again = stage.import(&first);
    assert_eq!((again.was_there, again.new_bytes, again.root), (true, 0, imported.root));
    assert_eq!(stage.segments(), one);
    let left = status(&stage.repository).unwrap();
    assert_eq!((left.unnamed, left.histories.len()), (0, 1), "{left:?}");
}

/// Formats that were written once are read for good.
#[test]
fn the_formats_are_those_of_the_golden_files() {
    let stage = Stage::new();
    stage.import(&Sample::new(1));
    let Kept { folder, mut snapshot, .. } = stage.repository.find(sample::snapshot(1)).unwrap();
    let mut index = stage.repository.index(folder, &snapshot.held[0].index).unwrap();
    // What is drawn, or of this version.
    snapshot.product = "0.1.0".into();
    snapshot.repository = sample::snapshot(3).0;
    for (at, held) in (0..).zip(&mut snapshot.held) {
        let (object, digest) = ("i/1-2".into(), Digest([7; 32]));
        held.index = Place { object, offset: 1000 * at, bytes: 1000, digest };
    }
    index.segments.iter_mut().for_each(|segment| segment.name = "g/1-2-000000".into());
    let text = serde_json::to_string(&index).unwrap();
    let mut catalogue = stage.repository.standing(folder).unwrap().catalogue;
    catalogue.product = "0.1.0".into();
    catalogue.repository = sample::snapshot(3).0;
    (catalogue.number, catalogue.before) = (2, Some(Digest([7; 32])));
    (catalogue.written_ms, catalogue.written) = (1_000, "1970-01-01T00:00:01.000Z".into());
    for entry in &mut catalogue.snapshots {
        (entry.object, entry.digest, entry.listed_ms) = ("s/1-2".into(), Digest([8; 32]), 1_000);
        entry.schedule = Some("nightly".into());
        entry.hold = Some(Hold { reason: "the audit".into(), until_ms: Some(2_000) });
    }
    catalogue.void = vec![(SnapshotSeq(3), SnapshotSeq(5))];
    catalogue.dropped =
        vec![Dropped { not_before_ms: 3_000, objects: vec!["g/3-4".into(), "s/3-5".into()] }];
    let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    golden("catalogue.json", &text_of(catalogue.encode().unwrap()));
    assert_eq!(Catalogue::parse(&catalogue.encode().unwrap()), Ok(catalogue));
    golden("snapshot.json", &String::from_utf8(snapshot.encode().unwrap()).unwrap());
    golden("index.json", &text);
    assert_eq!(Snapshot::parse(&snapshot.encode().unwrap()), Ok(snapshot));
}

fn golden(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/repository");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
    }
    assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), text, "{name}");
}

#[test]
fn what_the_snapshot_before_has_is_not_stored_again() {
    let stage = Stage::new();
    let (first, second, third) = (sample(1, 1), sample(2, 2), sample(3, 2));
    stage.import(&first);
    let before = stage.segments();
    let imported = stage.import(&second);
    // Partitions below 4 differ, of 64.
    assert!(imported.new_bytes > 0 && imported.new_bytes < imported.stored_bytes / 4);
    assert_eq!(stage.segments(), before + imported.new_bytes);
    let objects = stage.repository.store.list("").unwrap().len();
    let unchanged = stage.import(&third);
    assert_eq!((unchanged.new_bytes, unchanged.stored_bytes), (0, imported.stored_bytes));
    let more = stage.repository.store.list("").unwrap().len();
    assert_eq!(more, objects + 2, "a snapshot of what is there, and the catalogue that lists it");
    for sample in [&first, &second, &third] {
        stage.comes_back(sample);
    }
    stage.is_sound();
    // Whichever comes first: an older one finds no newer one to lean on, and is whole by itself.
    let other = Stage::new();
    for sample in [&third, &first, &second] {
        other.import(sample);
    }
    for sample in [&first, &second, &third] {
        other.comes_back(sample);
    }
}

/// A part in which a partition has these rows.
fn with_rows(sample: &Sample, partition: u32, rows: &[sample::Row]) -> Vec<u8> {
    let (mut manifest, mut chunks) = sample.part();
    let part = manifest.groups.iter_mut().flat_map(|group| &mut group.partitions);
    let part = part.into_iter().find(|part| part.id.0 == partition).unwrap();
    let new = sample::chunks_of(rows);
    let old = std::mem::replace(&mut part.chunks, new.iter().map(|c| c.hash).collect());
    (part.rows, part.bytes) = (new.iter().map(|c| c.rows).sum(), new.iter().map(|c| c.bytes).sum());
    part.digest = chunk::digest(&part.chunks, part.rows);
    chunks.retain(|chunk| !old.contains(&chunk.hash));
    chunks.extend(new);
    manifest.chunks = chunks.iter().map(sample::entry).collect();
    manifest.chunks.sort_by_key(|chunk| chunk.hash);
    tar_of(&manifest, chunks)
}

/// The last key of a chunk moves nearer to the chunk behind it, which stays as it was: what the
/// index says of that one has to hold beside its new neighbour.
#[test]
fn a_chunk_that_stays_is_found_by_its_keys_whatever_its_neighbours_become() {
    let stage = Stage::new();
    let (first, second) = (sample(1, 1), sample(2, 1));
    let mut rows = first.rows_of(0);
    let heads: Vec<Vec<u8>> = rows.iter().map(|(key, _)| key.clone()).collect();
    rows.iter_mut().for_each(|(key, _)| key.extend(b"/tail"));
    let chunks = sample::chunks_of(&rows);
    let end = chunks[0].rows as usize - 1;
    // Between the head and the whole of the key that begins the second chunk.
    let moved = (0..100_000).find_map(|n| {
        let mut moved = rows.clone();
        moved[end].0 = [&heads[end + 1][..], format!("/a-{n}").as_bytes()].concat();
        let new = sample::chunks_of(&moved);
        (new[0].rows == chunks[0].rows && new[1].hash == chunks[1].hash).then_some(moved)
    });
    let moved = moved.expect("some key ends a chunk as the old one did");
    for (sample, rows) in [(&first, &rows), (&second, &moved)] {
        let path = stage.dir.path().join(format!("{}.tar", sample.snapshot));
        fs::write(&path, with_rows(sample, 0, rows)).unwrap();
        import(&stage.repository, &[path]).unwrap();
        stage.is_sound();
        let Kept { folder, snapshot, .. } = stage.repository.find(sample.snapshot).unwrap();
        let index = stage.repository.index(folder, &snapshot.held[0].index).unwrap();
        let partition: Vec<_> = index.in_order(false).map(|(_, chunk)| chunk).collect();
        let mine = &partition[..index.partitions[0].chunks.len()];
        for (key, value) in rows {
            let chunk = mine.iter().rev().find(|chunk| chunk.first <= *key).unwrap();
            let frame = stage.repository.chunk(folder, &index, chunk).unwrap();
            let opened = chunk.entry().open(&frame, None).unwrap();
            assert!(opened.iter().any(|row| row == (key, value)), "{key:?}");
        }
    }
}

#[test]
fn extracted_parts_and_single_nodes_will_do_where_they_hold_everything() {
    let stage = Stage::new();
    let (part, extracted) = (sample(1, 1), stage.dir.path().join("extracted"));
    part.extract(&extracted);
    let imported = import(&stage.repository, &[&extracted]).unwrap();
    assert_eq!((imported.parts, imported.given_bytes), (1, imported.stored_bytes));
    let half = Sample { groups: (0..4).collect(), meta: false, ..sample(2, 1) };
    let e = import(&stage.repository, &stage.tars(&half)).unwrap_err();
    assert!(
        e.kind == Kind::Conflict
            && e.message.contains("hold 32 of 64 partitions and no meta group"),
        "{e}"
    );
}

#[test]
fn damaged_parts_and_a_second_history_are_refused_and_leave_nothing() {
    let stage = Stage::new();
    let first = sample(1, 1);
    let tars = stage.tars(&first);
    let mut bytes = fs::read(&tars[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&tars[1], bytes).unwrap();
    let e = import(&stage.repository, &tars).unwrap_err();
    assert!(e.kind == Kind::Corrupt && e.message.contains("nothing was imported"), "{e}");
    assert_eq!(stage.repository.store.list("").unwrap().len(), 1);
    stage.import(&first);
    // The same number of the same history, and other rows.
    let twin = Sample { snapshot: sample::snapshot(9), ..sample(1, 7) };
    let e = import(&stage.repository, &stage.tars(&twin)).unwrap_err();
    assert!(e.message.contains("two clusters have written one history"), "{e}");
    stage.comes_back(&first);
}

/// An interrupted import leaves what it meets again.
#[test]
fn what_was_left_and_then_damaged_is_named_and_nothing_leans_on_it() {
    for kind in ["/g/", "/i/", "/s/"] {
        let stage = Stage::new();
        let sample = sample(1, 1);
        stage.import(&sample);
        let (folder, _) = stage.repository.find_entry(sample.snapshot).unwrap();
        stage.repository.store.delete(&catalogue::name(folder, 1)).unwrap();
        let all = stage.repository.store.list("").unwrap();
        let left = all.iter().find(|object| object.name.contains(kind)).unwrap();
        let path = stage.root().join(&left.name);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let longer = [&whole[..], b"x"].concat();
        for damaged in [&flipped[..], &whole[..whole.len() - 1], &longer, b""] {
            fs::write(&path, damaged).unwrap();
            let e = import(&stage.repository, &stage.tars(&sample)).unwrap_err();
            assert_eq!(e.kind, Kind::Corrupt, "{e}");
            assert!(e.message.contains(&format!("{} holds other bytes", left.name)), "{e}");
            assert!(e.message.contains(&format!("{} are to be stored", whole.len())), "{e}");
            assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is stored over it");
            assert_eq!(stage.repository.listed().unwrap().len(), 0);
        }
        stage.repository.store.delete(&left.name).unwrap();
        stage.import(&sample);
        stage.comes_back(&sample);
        stage.is_sound();
    }
}

#[test]
fn parts_of_several_snapshots_are_refused_by_name() {
    let stage = Stage::new();
    let parts = [stage.tars(&sample(1, 1)), stage.tars(&sample(2, 2))].concat();
    let e = import(&stage.repository, &parts).unwrap_err();
    assert!(e.kind == Kind::Invalid && e.message.contains("of 2 snapshots"), "{e}");
    assert!([1, 2].iter().all(|n| e.message.contains(&sample::snapshot(*n).to_string())), "{e}");
}

#[test]
fn sealed_parts_are_refused_with_the_way_to_go_on() {
    let stage = Stage::new();
    let plain = &stage.tars(&sample(1, 1))[0];
    let recipient = Identity::draw().recipient();
    let sealing = Sealing::draw(std::slice::from_ref(&recipient)).unwrap().0;
    let (sealed, mut tar) = (stage.dir.path().join("sealed.tar"), Vec::new());
    reseal::sealed(plain, &sealing).unwrap().write(&mut tar).unwrap();
    fs::write(&sealed, tar).unwrap();
    let e = import(&stage.repository, &[sealed]).unwrap_err();
    assert!(e.kind == Kind::Conflict && e.message.contains("ddbctl snapshot unseal"), "{e}");
    assert_eq!(stage.repository.store.list("").unwrap().len(), 1);
}

/// Flips and cuts whatever a repository consists of, and looks whether anybody notices.
#[test]
fn every_flip_and_cut_of_every_object_is_found() {
    found_and_named(&Stage::new());
    found_and_named(&Stage::sealed());
}

fn found_and_named(stage: &Stage) {
    let (first, second) = (sample(1, 1), sample(2, 2));
    stage.import(&first);
    stage.import(&second);
    let objects = stage.repository.store.list("").unwrap();
    let mut tried = 0;
    for Object { name, bytes } in &objects {
        let path = stage.root().join(name);
        let whole = fs::read(&path).unwrap();
        let found = |what: &str| {
            let own = name.split('/').next_back().unwrap();
            let names = |text: &str| text.contains(own);
            let report = stage.open().and_then(|repository| verify(&repository, &[], Depth::Whole));
            let notices = match &report {
                Err(e) => names(&e.message),
                Ok(report) => report.problems.iter().any(|p| names(&p.what) || names(&p.snapshot)),
            };
            assert!(notices, "{what} of {name} goes unnoticed: {report:?}");
        };
        // The name of the program's version is free text: all else has one meaning.
        let step = (*bytes as usize / 24).max(1);
        let is_root = name == super::root::ROOT;
        for at in (0..whole.len()).step_by(step).filter(|_| !is_root) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            found(&format!("a flip at byte {at}"));
            tried += 1;
        }
        for bytes in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..bytes]).unwrap();
            // Its last line end says nothing.
            if !(is_root && bytes == whole.len() - 1) {
                found(&format!("a cut at byte {bytes}"));
            }
        }
        fs::remove_file(&path).unwrap();
        found("the loss");
        fs::write(&path, whole).unwrap();
    }
    assert!(tried > 100, "{tried}");
    stage.is_sound();
}

#[test]
fn quick_looks_at_sizes_and_whole_at_bytes() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    let objects = stage.repository.store.list("").unwrap();
    let segment = objects.iter().find(|o| o.name.contains("/g/")).unwrap();
    let path = stage.root().join(&segment.name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(verify(&stage.repository, &[], Depth::Quick).unwrap().sound);
    let report = verify(&stage.repository, &[], Depth::Whole).unwrap();
    assert_eq!(report.problems.len(), 1, "{report}");
    assert!(report.to_string().contains("DAMAGED"), "{report}");
    // Damage is not handed on.
    let kept = stage.repository.find(sample::snapshot(1)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let e = export(&stage.repository, &kept, None, out.path()).unwrap_err();
    assert!(e.kind == Kind::Corrupt && e.message.contains(&segment.name), "{e}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "no half of a part stays");
    fs::write(&path, &bytes[1..]).unwrap();
    let report = verify(&stage.repository, &[], Depth::Quick).unwrap();
    assert!(report.problems[0].what.contains("was made with"), "{report}");
}

#[test]
fn damage_to_the_snapshot_before_keeps_no_later_one_from_being_stored() {
    let (first, second) = (sample(1, 1), sample(2, 2));
    for kind in ["/s/", "/i/"] {
        let stage = Stage::new();
        stage.import(&first);
        let objects = stage.repository.store.list("").unwrap();
        let hurt = objects.iter().find(|object| object.name.contains(kind)).unwrap();
        let path = stage.root().join(&hurt.name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, bytes).unwrap();
        let imported = stage.import(&second);
        assert!(!imported.lost.is_empty(), "{kind}");
        assert!(imported.lost.iter().all(|lost| lost.contains(&hurt.name)), "{imported:?}");
        stage.comes_back(&second);
        let report = verify(&stage.repository, &[second.snapshot], Depth::Whole).unwrap();
        assert!(report.sound, "{report}");
    }
}

/// A directory in which something happens before an object is made.
struct Eventful<F> {
    inner: Directory,
    before: F,
}

impl<F: Fn(&str) -> Result<()> + Send + Sync> Store for Eventful<F> {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        (self.before)(name)?;
        self.inner.create(name, bytes)
    }
    fn bytes(&self, name: &str) -> Result<u64> {
        self.inner.bytes(name)
    }
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.read(name, bytes_max)
    }
    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.inner.read_range(name, offset, bytes)
    }
    fn list(&self, below: &str) -> Result<Vec<Object>> {
        self.inner.list(below)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

fn eventful(
    stage: &Stage,
    before: impl Fn(&str) -> Result<()> + Send + Sync + 'static,
) -> Repository {
    stage.on(Arc::new(Eventful { inner: Directory::new(stage.root()), before })).unwrap()
}

#[test]
fn an_import_that_ends_anywhere_harms_nothing_and_is_said_again() {
    [Stage::new(), Stage::sealed()].iter().for_each(goes_on);
}

fn goes_on(stage: &Stage) {
    let (first, second) = (sample(1, 1), sample(2, 2));
    stage.import(&first);
    for (kind, left) in [("/g/", 0), ("/i/", 1), ("/s/", 2), ("k/", 3)] {
        let full = eventful(stage, move |name| {
            if name.contains(kind) { Err(Error::exhausted("the disk is full")) } else { Ok(()) }
        });
        let e = import(&full, &stage.tars(&second)).unwrap_err();
        assert_eq!(e.kind, Kind::Exhausted);
        assert_eq!(stage.repository.listed().unwrap().len(), 1);
        assert!(verify(&stage.repository, &[first.snapshot], Depth::Whole).unwrap().sound);
        assert_eq!(verify(&stage.repository, &[], Depth::Whole).unwrap().sound, left < 3, "{kind}");
        assert_eq!(status(&stage.repository).unwrap().unnamed, left, "{kind}");
    }
    // It goes on where the others ended.
    let made = Arc::new(AtomicUsize::new(0));
    let counted = made.clone();
    let counting = eventful(stage, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    assert!(!import(&counting, &stage.tars(&second)).unwrap().was_there);
    let made = made.load(Ordering::SeqCst);
    assert_eq!(made, 3, "the index and the snapshot, which are there, and the catalogue");
    assert_eq!(status(&stage.repository).unwrap().unnamed, 0);
    stage.comes_back(&first);
    stage.comes_back(&second);
}

#[test]
fn of_two_imports_of_one_snapshot_one_makes_it_and_neither_leaves_anything() {
    let stage = Stage::new();
    let first = sample(1, 1);
    let tars = stage.tars(&first);
    let faster = Mutex::new(Some((stage.repository.clone(), tars.clone())));
    let slower = eventful(&stage, move |name| {
        if name.contains("k/")
            && let Some((repository, tars)) = faster.lock().unwrap().take()
        {
            assert!(!import(&repository, &tars)?.was_there);
        }
        Ok(())
    });
    let imported = import(&slower, &tars).unwrap();
    assert!(imported.was_there, "{imported:?}");
    let left = status(&stage.repository).unwrap();
    assert_eq!((left.unnamed, left.histories[0].snapshots), (0, 1), "{left:?}");
    stage.comes_back(&first);
    stage.is_sound();
}

#[test]
fn nothing_is_overwritten_and_what_is_absent_is_named() {
    let stage = Stage::new();
    let first = sample(1, 1);
    stage.import(&first);
    let kept = stage.repository.find(first.snapshot).unwrap();
    let out = tempfile::tempdir().unwrap();
    let one = export(&stage.repository, &kept, Some(NodeId(2)), out.path()).unwrap();
    assert_eq!(one.len(), 1);
    let e = export(&stage.repository, &kept, None, out.path()).unwrap_err();
    assert!(e.message.contains("nothing is overwritten"), "{e}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
    let killed = out.path().join(format!("snapshot-{}-1.tar.partial", first.snapshot));
    fs::write(&killed, "half").unwrap();
    let e = export(&stage.repository, &kept, Some(NodeId(1)), out.path()).unwrap_err();
    assert!(e.kind == Kind::Conflict && e.message.contains("was killed: remove it"), "{e}");
    fs::remove_file(&killed).unwrap();
    export(&stage.repository, &kept, Some(NodeId(1)), out.path()).unwrap();
    let e = export(&stage.repository, &kept, Some(NodeId(5)), out.path()).unwrap_err();
    assert!(e.kind == Kind::NotFound && e.message.contains("it has those of 1, 2,"), "{e}");
    let e = stage.repository.find(sample::snapshot(5)).map(|kept| kept.folder).unwrap_err();
    assert!(e.kind == Kind::NotFound && e.message.contains("has no snapshot"), "{e}");
    // A snapshot under another's name is not taken for it.
    let name = catalogue::name(kept.folder, 1);
    fs::copy(stage.root().join(name), stage.root().join(catalogue::name(kept.folder, 2))).unwrap();
    let report = verify(&stage.repository, &[], Depth::Quick).unwrap();
    let says = "it says of itself that it is catalogue 1";
    assert!(report.problems[0].what.contains(says), "{report}");
}
