//! Verifications by shares, their reports, and what is told of them.

use std::collections::HashMap;

use super::*;
use crate::{
    base::{clock::Clock, limits},
    part::manifest::rfc3339,
    repository::{
        care::Care,
        drills,
        index::Located,
        reports::{self, Report as _, Verification},
        root::Folder,
        verify::{Percent, Report, Watch, watched},
    },
};

const DAY_MS: u64 = 86_400_000;
/// Some time after everything in here.
const LATER_MS: u64 = 4_000_000_000_000;

/// Counts how often each range is read.
struct Counting {
    inner: Directory,
    reads: Mutex<HashMap<(String, u64), u32>>,
}

impl Store for Counting {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        self.inner.create(name, bytes)
    }
    fn bytes(&self, name: &str) -> Result<u64> {
        self.inner.bytes(name)
    }
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.inner.read(name, bytes_max)
    }
    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        *self.reads.lock().unwrap().entry((name.to_owned(), offset)).or_default() += 1;
        self.inner.read_range(name, offset, bytes)
    }
    fn list(&self, below: &str) -> Result<Vec<Object>> {
        self.inner.list(below)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

/// Every chunk that a snapshot has, and the segment in which it lies.
fn chunks(stage: &Stage, sample: &Sample) -> Vec<(String, Located)> {
    let kept = stage.repository.find(sample.snapshot).unwrap();
    let indexes = kept.snapshot.held.iter().map(|held| {
        let index = stage.repository.index(kept.folder, &held.index).unwrap();
        let name = |at: &Located| kept.folder.object(&index.segments[at.segment].name);
        index.chunks.iter().map(|at| (name(at), at.clone())).collect::<Vec<_>>()
    });
    indexes.flatten().collect()
}

fn flip(stage: &Stage, name: &str, at: u64) {
    let path = stage.root().join(name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn share(percent: u8, day: u64) -> Depth {
    Depth::share(Percent::try_from(percent).unwrap(), day * DAY_MS)
}

#[test]
fn a_flip_is_found_on_the_day_whose_share_has_its_chunk_and_on_no_other() {
    for stage in [Stage::new(), Stage::sealed()] {
        let (first, second) = (sample(1, 1), sample(2, 2));
        stage.import(&first);
        stage.import(&second);
        let whole = verify(&stage.repository, &[], Depth::Whole).unwrap();
        let days = |percent: u8, from: u64| -> Vec<(Depth, Report)> {
            let days = 100u64.div_ceil(u64::from(percent));
            let verified = |depth| (depth, verify(&stage.repository, &[], depth).unwrap());
            (from..from + days).map(|day| verified(share(percent, day))).collect()
        };
        for (percent, most) in [(10, 1), (100, 1), (30, 2)] {
            let all = days(percent, 20_787);
            assert!(all.iter().all(|(_, report)| report.sound));
            let read: u64 = all.iter().map(|(_, report)| report.read.chunks).sum();
            let once = whole.read.chunks;
            assert!((once..=most * once).contains(&read), "{read} of {once}, {percent} %");
        }
        // One that both snapshots have.
        let mut both = chunks(&stage, &second);
        let of_first = chunks(&stage, &first);
        both.retain(|chunk| of_first.contains(chunk));
        let (name, at) = both.into_iter().max_by_key(|(_, at)| at.stored_bytes).unwrap();
        flip(&stage, &name, at.offset + at.stored_bytes / 2);
        let mut found = 0;
        for (depth, report) in days(10, 20_787) {
            assert_eq!(report.sound, !depth.opens(at.hash), "{depth:?}: {report}");
            if !report.sound {
                found += 1;
                assert!(report.snapshots.iter().all(|looked| !looked.sound), "{report}");
                assert!(report.problems.iter().all(|p| p.what.contains(&name)), "{report}");
                assert!(report.to_string().contains("read 10 % of the chunks: "), "{report}");
            }
        }
        assert_eq!(found, 1);
    }
}

#[test]
fn what_snapshots_share_is_read_once() {
    let stage = Stage::new();
    let samples = [sample(1, 1), sample(2, 2), sample(3, 2), sample(4, 3)];
    for sample in &samples {
        stage.import(sample);
    }
    let store = Arc::new(Counting { inner: Directory::new(stage.root()), reads: Mutex::default() });
    let repository = stage.on(store.clone()).unwrap();
    let report = verify(&repository, &[], Depth::Whole).unwrap();
    assert!(report.sound, "{report}");
    let reads = std::mem::take(&mut *store.reads.lock().unwrap());
    assert!(reads.values().all(|times| *times == 1), "{reads:?}");
    let of = |kind: &str| reads.keys().filter(|(name, _)| name.contains(kind)).count() as u64;
    assert_eq!((report.read.indexes, report.read.chunks), (of("/i/"), of("/g/")));
    let all: std::collections::BTreeSet<(String, u64)> = samples
        .iter()
        .flat_map(|sample| chunks(&stage, sample))
        .map(|(name, at)| (name, at.offset))
        .collect();
    assert_eq!(report.read.chunks, all.len() as u64, "and nothing is left out");
    let told: usize = report.snapshots.iter().map(|looked| looked.chunks).sum();
    assert!(told > 2 * all.len(), "most of it is shared: {told}");
    let quick = verify(&repository, &[], Depth::Quick).unwrap();
    assert_eq!((quick.read.chunks, quick.read.stored_bytes), (0, 0));
    assert_eq!(quick.read.indexes, report.read.indexes);
}

fn verified(stage: &Stage, began_ms: u64) -> (Verification, String) {
    let report = verify(&stage.repository, &[], share(10, began_ms / DAY_MS)).unwrap();
    let kept = Verification::new(&report, true, began_ms, began_ms + 1500);
    let name = reports::keep(&stage.repository, &kept, began_ms).unwrap();
    (kept, name)
}

fn drilled(stage: &Stage, sample: &Sample, began_ms: u64) -> (drills::Report, String) {
    let drill = drills::Report {
        passed: true,
        began: rfc3339(began_ms),
        snapshot: sample.snapshot.to_string(),
        seq: sample.seq,
        rto_s: 1.5,
        ..drills::Report::default()
    };
    let name = drills::keep(&stage.repository, &drill, began_ms).unwrap();
    (drill, name)
}

fn care(stage: &Stage) -> Care {
    let standings = stage.repository.standings().unwrap();
    Care::of(&stage.repository, &standings, Clock::start().wall_ms()).unwrap()
}

#[test]
fn a_report_is_kept_once_and_told_with_what_has_come_since() {
    let stage = Stage::new();
    let samples = [sample(1, 1), sample(2, 2), sample(3, 2)];
    stage.import(&samples[0]);
    assert_eq!(care(&stage), Care::default());
    let (began, (report, name)) = (DAY_MS * 20_000, verified(&stage, DAY_MS * 20_000));
    assert!(name.starts_with("verifies/20241004T000000000Z-"), "{name}");
    let text = fs::read_to_string(stage.root().join(&name)).unwrap();
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&said["format"], &said["percent"]), (&1.into(), &10.into()), "{text}");
    assert_eq!((&said["day"], &said["took_s"]), (&"2024-10-04".into(), &1.5.into()), "{text}");
    let told = care(&stage).verification.unwrap();
    assert_eq!((&told.report, told.began_ms, told.sound), (&name, began, true));
    assert_eq!((told.depth, told.snapshots, told.snapshots_since), (report.depth, 1, 0));
    for sample in &samples[1..] {
        stage.import(sample);
    }
    let (_, drill) = drilled(&stage, &samples[1], began + 5);
    let told = care(&stage);
    assert_eq!(told.verification.unwrap().snapshots_since, 2);
    let last = told.drill.unwrap();
    assert_eq!((&last.report, last.snapshots_since, last.drill.passed), (&drill, 1, true));

    // A newer one counts, also when it is worse; one of named snapshots does not.
    let found = verify(&stage.repository, &[samples[0].snapshot], Depth::Whole).unwrap();
    let some = Verification::new(&found, false, began + 9, began + 10);
    reports::keep(&stage.repository, &some, began + 9).unwrap();
    let (name, at) = chunks(&stage, &samples[2]).swap_remove(0);
    flip(&stage, &name, at.offset);
    let found = verify(&stage.repository, &[], Depth::Whole).unwrap();
    let kept = Verification::new(&found, true, began + 7, began + 10);
    reports::keep(&stage.repository, &kept, began + 7).unwrap();
    let told = care(&stage).verification.unwrap();
    assert_eq!((told.sound, told.began_ms, told.snapshots_since), (false, began + 7, 0));
    assert!(told.problems > 0);
    // They are neither left over nor in anybody's way.
    let left = status(&stage.repository).unwrap();
    assert_eq!((left.unnamed, left.unreadable.len()), (0, 0));
    assert!(left.care.unreadable_reports.is_empty(), "{left:?}");
}

/// Whatever lies where the newest report should: the one before it is told, and it is named.
#[test]
fn a_report_that_cannot_be_read_is_named_and_the_newest_that_can_be_counts() {
    let stage = Stage::new();
    let first = sample(1, 1);
    stage.import(&first);
    let began = DAY_MS * 20_000;
    let older = [verified(&stage, began).1, drilled(&stage, &first, began).1];
    let newer = [verified(&stage, began + 1).1, drilled(&stage, &first, began + 1).1];
    let (mut tried, good) = (0, care(&stage));
    assert!(good.unreadable_reports.is_empty());
    for (older, newer) in older.iter().zip(&newer) {
        let path = stage.root().join(newer);
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let mut try_bytes = |bytes: &[u8], says: &str| {
            fs::write(&path, bytes).unwrap();
            let told = care(&stage);
            let [why] = &told.unreadable_reports[..] else { panic!("{says}: {told:?}") };
            assert!(why.contains(newer.as_str()) && why.contains(says), "{says}: {why}");
            let verification = told.verification.unwrap().report;
            let reports = [&verification, &told.drill.unwrap().report];
            assert!(reports.contains(&older), "{says}: {reports:?}");
            tried += 1;
        };
        // Cut anywhere but behind its last brace.
        for bytes in (0..whole.len() - 2).step_by(7).chain([1, whole.len() - 2]) {
            try_bytes(&whole[..bytes], "it is not what this program writes");
        }
        for garbage in ["", "\0", "null", "[]", "{}", "\u{feff}{}", "7", "\"x\"", "{\"format\":1}"]
        {
            try_bytes(garbage.as_bytes(), "it is not what this program writes");
        }
        try_bytes(&[0xff; 100], "it is not what this program writes");
        try_bytes(&[b'['; 10_000], "it is not what this program writes");
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}: {text}");
            text.replacen(from, to, 1).into_bytes()
        };
        try_bytes(&with("\"format\": 1", "\"format\": 2"), "a newer version made this report");
        let future = r#"{"format": 99, "verdict": {"all": "new"}}"#;
        try_bytes(future.as_bytes(), "a newer version made this report: format 99");
        try_bytes(&with("\"format\": 1", "\"format\": -1"), "it is not what this program writes");
        try_bytes(&with("\"began\": \"2024", "\"began\": \"2023"), "another time than its name");
        let id = stage.repository.id.to_string();
        try_bytes(&with(&id, &sample::snapshot(7).to_string()), "it is of another repository");
        let verdict = if text.contains("\"sound\": true") { "\"sound\"" } else { "\"passed\"" };
        try_bytes(&with(&format!("{verdict}: true"), &format!("{verdict}: false")), "or neither");
        try_bytes(&with(&format!("{verdict}: true"), &format!("{verdict}: 1")), "not what");
        let large = vec![b' '; limits::REPORT_BYTES_MAX as usize + 1];
        try_bytes(&large, "more than");
        // What is new in the same format is passed over.
        fs::write(&path, with("\"format\": 1", "\"format\": 1, \"mood\": \"good\"")).unwrap();
        assert_eq!(care(&stage), good);
        // Flips of single bits break nothing, whatever they make of it.
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            let told = care(&stage);
            assert!(told.verification.is_some() && told.drill.is_some(), "{at}: {told:?}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(care(&stage), good);
    }
    assert!(tried > 100);

    // What is there beside them.
    let folder = stage.root().join("verifies");
    let stray = "it is not named as a report";
    let ahead = "lies ahead of this machine's clock";
    for (name, says) in [
        ("zzz.json", stray),
        ("README", stray),
        ("20261130T100303123Z-1.json", stray),
        ("20261330T100303123Z-0000000000000001.json", stray),
        ("99991130T100303123Z-0000000000000001.json", ahead),
        ("00000000T000000000Z-0000000000000001.json", stray),
    ] {
        fs::write(folder.join(name), "{}").unwrap();
        let told = care(&stage);
        assert_eq!(told.verification, good.verification, "{name}");
        assert!(told.unreadable_reports.iter().all(|why| why.contains(says)), "{told:?}");
        // Nobody looks behind the newest that can be read.
        assert_eq!(told.unreadable_reports.is_empty(), name.starts_with("0000"), "{name}");
        fs::remove_file(folder.join(name)).unwrap();
    }
    // So many that nobody reads all: some are named, and nothing is told of what lies behind.
    for n in 0..limits::REPORTS_TRIED {
        fs::write(folder.join(format!("20241004T000000002Z-{n:016x}.json")), "").unwrap();
    }
    let told = care(&stage);
    assert_eq!((told.verification, told.drill), (None, good.drill));
    assert_eq!(told.unreadable_reports.len(), limits::REPORTS_NAMED_MAX + 1);
    assert!(told.unreadable_reports.last().unwrap().contains("further ones are not named"));
    fs::remove_file(folder.join(format!("20241004T000000002Z-{:016x}.json", 0))).unwrap();
    assert_eq!(care(&stage).verification, good.verification);
}

#[test]
fn a_report_in_a_sealed_repository_says_what_everybody_sees() {
    let stage = Stage::sealed();
    let first = sample(1, 1);
    stage.import(&first);
    let (name, at) = chunks(&stage, &first).swap_remove(0);
    flip(&stage, &name, at.offset);
    let mut found = verify(&stage.repository, &[], Depth::Whole).unwrap();
    assert!(!found.sound);
    let quoted = format!("invalid value: string \"pier 7\" in chunk {}", at.hash);
    found.problems[0].what = format!("{}; {quoted}", found.problems[0].what);
    let kept = Verification::new(&found, true, LATER_MS, LATER_MS);
    let report = reports::keep(&stage.repository, &kept, LATER_MS).unwrap();
    let text = fs::read_to_string(stage.root().join(report)).unwrap();
    assert!(text.contains(&name) && text.contains("what it is is told to who has the key"));
    assert!(!text.contains(&at.hash.to_string()) && !text.contains("pier"), "{text}");
    let drill = drills::Report {
        began: rfc3339(LATER_MS),
        snapshot: first.snapshot.to_string(),
        problems: vec!["site \"pier 7\" cannot be read: it is gone".into()],
        ..drills::Report::default()
    };
    let report = drills::keep(&stage.repository, &drill, LATER_MS).unwrap();
    let text = fs::read_to_string(stage.root().join(report)).unwrap();
    assert!(!text.contains("pier") && text.contains("something is wrong"), "{text}");
    // Who has no key is told as well.
    let mut unreadable = Vec::new();
    let seen = Repository::seen(
        &stage.root().display().to_string(),
        limits::OBJECT_PATIENCE_COMMAND,
        &Access::default(),
    );
    let last = reports::newest::<Verification>(&seen.unwrap(), LATER_MS, &mut unreadable);
    assert_eq!(last.unwrap().unwrap().report.problems.len(), found.problems.len());
    assert!(unreadable.is_empty(), "{unreadable:?}");
}

#[test]
fn a_store_that_takes_no_report_says_so_and_what_was_found_is_known() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    let full = eventful(&stage, |name| match name.starts_with(Verification::FOLDER) {
        true => Err(Error::denied("nobody may write here")),
        false => Ok(()),
    });
    let found = verify(&full, &[], Depth::Whole).unwrap();
    let kept = Verification::new(&found, true, LATER_MS, LATER_MS);
    let e = reports::keep(&full, &kept, LATER_MS).unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (Kind::Denied, "nobody may write here"));
    assert!(found.sound && care(&stage) == Care::default());
    // Many snapshots, of which the last ones are named.
    let mut many = found.clone();
    many.snapshots = (0..limits::REPORT_SNAPSHOTS_MAX as u64 + 5)
        .map(|n| {
            let mut looked = found.snapshots[0].clone();
            looked.seq = n;
            looked
        })
        .collect();
    let kept = Verification::new(&many, true, DAY_MS, DAY_MS);
    assert_eq!((kept.more_snapshots, kept.snapshots[0].seq), (5, 5));
    reports::keep(&stage.repository, &kept, DAY_MS).unwrap();
    let told = care(&stage).verification.unwrap();
    assert_eq!(told.snapshots, limits::REPORT_SNAPSHOTS_MAX as u64 + 5);
}

/// In a history that a report does not know, what was listed later has come since.
#[test]
fn other_histories_count_by_their_times() {
    let stage = Stage::new();
    let first = sample(1, 1);
    stage.import(&first);
    let found = verify(&stage.repository, &[], Depth::Quick).unwrap();
    let folder = stage.repository.find(first.snapshot).unwrap().folder;
    let listed_ms = stage.repository.standing(folder).unwrap().catalogue.snapshots[0].listed_ms;
    let covered = &found.histories[0];
    let name = format!("{}/{}", covered.cluster, covered.lineage);
    assert_eq!(Folder::parse(&name), Some(folder));
    for (began_ms, since) in [(listed_ms - 1, 1), (listed_ms, 0)] {
        let mut kept = Verification::new(&found, true, began_ms, began_ms);
        kept.histories.clear();
        reports::keep(&stage.repository, &kept, began_ms).unwrap();
        assert_eq!(care(&stage).verification.unwrap().snapshots_since, since);
    }
}

/// Counts what is to be read, and takes nothing for a finding that a store cannot answer for.
#[derive(Default)]
struct Onlooker {
    bytes: Mutex<Vec<u64>>,
    /// Ends it after so many reads.
    most: Option<usize>,
}

impl Watch for Onlooker {
    fn before(&self, bytes: u64) -> Result<()> {
        let mut all = self.bytes.lock().unwrap();
        all.push(bytes);
        match self.most.is_none_or(|most| all.len() <= most) {
            true => Ok(()),
            false => Err(Error::unavailable("nobody waits")),
        }
    }

    fn is_finding(&self, e: &Error) -> bool {
        e.kind != Kind::Unavailable
    }
}

/// Does not answer for objects of some kind.
struct Silent {
    inner: Directory,
    kind: &'static str,
}

impl Silent {
    fn asked(&self, name: &str) -> Result<()> {
        match name.contains(self.kind) {
            true => Err(Error::unavailable(format!("{name}: no answer"))),
            false => Ok(()),
        }
    }
}

impl Store for Silent {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        self.inner.create(name, bytes)
    }
    fn bytes(&self, name: &str) -> Result<u64> {
        self.inner.bytes(name)
    }
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        self.asked(name).and_then(|()| self.inner.read(name, bytes_max))
    }
    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        self.asked(name).and_then(|()| self.inner.read_range(name, offset, bytes))
    }
    fn list(&self, below: &str) -> Result<Vec<Object>> {
        self.inner.list(below)
    }
    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)
    }
}

#[test]
fn whoever_looks_on_sees_every_read_before_it_and_can_end_it() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    stage.import(&sample(2, 2));
    let onlooker = Onlooker::default();
    let report = watched(&stage.repository, &[], Depth::Whole, &onlooker).unwrap();
    assert_eq!(report, verify(&stage.repository, &[], Depth::Whole).unwrap());
    let asked = onlooker.bytes.into_inner().unwrap();
    assert_eq!(asked.len() as u64, report.read.indexes + report.read.chunks);
    assert!(asked.iter().sum::<u64>() > report.read.stored_bytes, "indexes too");
    for most in [0, 1, asked.len() - 1] {
        let onlooker = Onlooker { most: Some(most), ..Onlooker::default() };
        let e = watched(&stage.repository, &[], Depth::Whole, &onlooker).unwrap_err();
        assert_eq!((e.kind, e.message.as_str()), (Kind::Unavailable, "nobody waits"));
    }
}

#[test]
fn a_store_that_does_not_answer_is_no_damage_to_whoever_looks_on() {
    let stage = Stage::new();
    let only = sample(1, 1);
    stage.import(&only);
    for kind in ["/s/", "/i/", "/g/"] {
        let inner = Directory::new(stage.root());
        let repository = stage.on(Arc::new(Silent { inner, kind })).unwrap();
        let e = watched(&repository, &[], Depth::Whole, &Onlooker::default()).unwrap_err();
        assert!(e.kind == Kind::Unavailable && e.message.contains("no answer"), "{kind}: {e}");
        let told = verify(&repository, &[], Depth::Whole).unwrap();
        assert!(!told.sound, "a command says what it has met");
    }
    // What is damaged is a finding, whoever looks on.
    let (name, at) = chunks(&stage, &only).swap_remove(0);
    flip(&stage, &name, at.offset);
    let found = watched(&stage.repository, &[], Depth::Whole, &Onlooker::default()).unwrap();
    assert!(!found.sound && found.problems[0].what.contains(&name), "{found}");
}

#[test]
fn a_run_has_one_report_and_the_first_counts() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    let (began, run) = (DAY_MS * 20_000, sample::snapshot(5).0);
    let report = verify(&stage.repository, &[], share(10, 20_000)).unwrap();
    let made = |took_ms| Verification::new(&report, true, began, began + took_ms);
    let kept = || reports::kept::<Verification>(&stage.repository, began, run);
    assert_eq!(kept().unwrap(), None);
    let two = thread::scope(|scope| {
        let keep = |took_ms| {
            let (repository, made) = (&stage.repository, made(took_ms));
            scope.spawn(move || reports::keep_once(repository, &made, began, run).unwrap())
        };
        [keep(1000), keep(2000)].map(|thread| thread.join().unwrap())
    });
    assert_eq!(two[0], two[1], "both have the one that is there");
    assert_eq!(kept().unwrap().as_ref(), Some(&two[0]));
    let name = reports::of_run::<Verification>(began, run);
    assert_eq!(care(&stage).verification.unwrap().report, name);
    // Another run of the same moment has its own.
    let other = sample::snapshot(6).0;
    assert_eq!(reports::keep_once(&stage.repository, &made(7), began, other).unwrap(), made(7));
    // One that is damaged is said to be, and never taken for absent.
    fs::write(stage.root().join(&name), "{}").unwrap();
    let e = kept().unwrap_err();
    assert!(e.message.contains(&name), "{e}");
}
