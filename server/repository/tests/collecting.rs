//! Snapshots that are taken out, and what is left of the others.

use super::*;
use crate::{
    base::ids::SnapshotId,
    repository::{
        catalogue::Step,
        collect::{Collected, Order, Unfinished, collect, hold, unfinished},
        commit::{Commit, Made},
        repair::repair,
        root::Folder,
    },
};

const HOUR_MS: u64 = 3_600_000;

/// Some time after everything in here.
fn now() -> u64 {
    crate::base::clock::Clock::start().wall_ms()
}

fn order(rules: &str) -> Order {
    Order {
        keep: if rules.is_empty() { Default::default() } else { rules.parse().unwrap() },
        schedule: None,
        named: Default::default(),
        grace_ms: HOUR_MS,
        now_ms: now(),
        own: None,
        trust_clock: true,
        dry_run: false,
    }
}

fn dropping(seq: u64) -> Order {
    Order { named: [sample::snapshot(seq)].into(), ..order("") }
}

fn later(order: &Order) -> Order {
    Order { now_ms: order.now_ms + 2 * HOUR_MS, named: Default::default(), ..order.clone() }
}

impl Stage {
    fn folder(&self) -> Folder {
        *self.repository.catalogues().unwrap().keys().next().unwrap()
    }

    fn collect(&self, order: &Order) -> Collected {
        collect(&self.repository, self.folder(), order).unwrap()
    }

    fn numbers(&self) -> Vec<u64> {
        self.repository.listed().unwrap().iter().map(|(_, entry)| entry.seq.0).collect()
    }

    /// What is listed comes back, and nothing else takes place.
    fn holds_exactly(&self, samples: &[&Sample]) {
        assert_eq!(self.numbers(), samples.iter().map(|one| one.seq).collect::<Vec<_>>());
        samples.iter().for_each(|sample| self.comes_back(sample));
        self.is_sound();
        let status = status(&self.repository).unwrap();
        assert_eq!((status.unnamed, status.dropped), (0, 0), "{status:?}");
    }
}

#[test]
fn what_rules_do_not_keep_goes_after_its_grace_and_the_others_come_back() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=4).map(|n| sample(n, n)).collect();
    samples.iter().for_each(|sample| drop(stage.import(sample)));
    let before = stage.segments();
    let two = order("last=2");
    let would = stage.collect(&Order { dry_run: true, ..two.clone() });
    assert_eq!(stage.numbers(), [1, 2, 3, 4], "a dry run changes nothing");
    let collected = stage.collect(&two);
    assert_eq!(
        Collected { waiting: 0, next_ms: None, dry_run: false, ..would },
        Collected { waiting: 0, next_ms: None, ..collected.clone() }
    );
    let verdicts = collected.snapshots.iter().map(|one| (one.seq, one.stays));
    assert!(verdicts.eq([(4, true), (3, true), (2, false), (1, false)]), "{collected:?}");
    assert!(collected.dropped > 2 && collected.deleted == 0, "{collected:?}");
    assert_eq!(stage.numbers(), [3, 4]);
    // Whoever reads one of them goes on reading.
    assert_eq!(stage.segments(), before);
    assert_eq!(status(&stage.repository).unwrap().dropped, collected.dropped);
    let again = stage.collect(&two);
    assert_eq!((again.dropped, again.deleted, again.waiting), (0, 0, collected.dropped));
    let swept = stage.collect(&later(&two));
    assert_eq!((swept.deleted, swept.deleted_bytes), (collected.dropped, collected.dropped_bytes));
    assert!(stage.segments() < before);
    stage.holds_exactly(&[&samples[2], &samples[3]]);
    let nothing = stage.collect(&later(&two));
    assert_eq!((nothing.dropped, nothing.deleted, nothing.waiting), (0, 0, 0));
}

#[test]
fn nothing_is_stored_under_a_number_that_was_dropped() {
    let stage = Stage::new();
    let (first, second, third) = (sample(1, 1), sample(2, 2), sample(3, 3));
    stage.import(&first);
    stage.import(&third);
    stage.collect(&dropping(1));
    for swept in [false, true] {
        let e = import(&stage.repository, &stage.tars(&first)).unwrap_err();
        assert!(e.kind == Kind::Conflict && e.message.contains("was dropped"), "{e}");
        if !swept {
            stage.collect(&later(&order("")));
        }
    }
    stage.import(&second);
    stage.holds_exactly(&[&second, &third]);
}

#[test]
fn a_snapshot_is_not_listed_beside_one_that_is_gone() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=4).map(|n| sample(n, n)).collect();
    stage.import(&samples[0]);
    stage.import(&samples[1]);
    // While the third is stored beside the second, the fourth is, and the second goes for good.
    let others = Mutex::new(Some((stage.repository.clone(), stage.tars(&samples[3]))));
    let slow = eventful(&stage, move |name| {
        if name.contains("/s/")
            && let Some((repository, tars)) = others.lock().unwrap().take()
        {
            import(&repository, &tars)?;
            let folder = *repository.catalogues()?.keys().next().unwrap();
            collect(&repository, folder, &dropping(2))?;
            collect(&repository, folder, &later(&order("")))?;
        }
        Ok(())
    });
    let e = import(&slow, &stage.tars(&samples[2])).unwrap_err();
    assert!(e.kind == Kind::Conflict && e.message.contains("stored beside, was dropped"), "{e}");
    assert_eq!(stage.numbers(), [1, 4]);
    stage.import(&samples[2]);
    stage.collect(&order(""));
    stage.collect(&later(&order("")));
    stage.holds_exactly(&[&samples[0], &samples[2], &samples[3]]);
}

#[test]
fn whoever_collects_looks_again_when_a_snapshot_is_listed_meanwhile() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=3).map(|n| sample(n, n)).collect();
    stage.import(&samples[0]);
    stage.import(&samples[1]);
    let others = Mutex::new(Some((stage.repository.clone(), stage.tars(&samples[2]))));
    let slow = eventful(&stage, move |name| {
        if name.contains("k/")
            && let Some((repository, tars)) = others.lock().unwrap().take()
        {
            import(&repository, &tars)?;
        }
        Ok(())
    });
    let collected = collect(&slow, stage.folder(), &order("last=1")).unwrap();
    assert_eq!(collected.snapshots[0].seq, 3, "{collected:?}");
    stage.collect(&later(&order("")));
    stage.holds_exactly(&[&samples[2]]);
}

#[test]
fn what_is_held_stays_until_it_is_released_or_its_time_is_over() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=3).map(|n| sample(n, n)).collect();
    samples.iter().for_each(|sample| drop(stage.import(sample)));
    let until_ms = Some(now() + 3 * HOUR_MS);
    let audit = Hold { reason: "the audit".into(), until_ms };
    hold(&stage.repository, sample::snapshot(1), Some(audit.clone())).unwrap();
    hold(&stage.repository, sample::snapshot(1), Some(audit)).unwrap();
    let collected = stage.collect(&order("last=1"));
    assert_eq!(stage.numbers(), [1, 3]);
    assert_eq!(collected.snapshots[2].reasons, ["held: the audit"]);
    let e = collect(&stage.repository, stage.folder(), &dropping(1)).unwrap_err();
    assert!(e.kind == Kind::Conflict && e.message.contains("is held: the audit"), "{e}");
    stage.collect(&Order { now_ms: now() + 4 * HOUR_MS, ..order("last=1") });
    assert_eq!(stage.numbers(), [3]);
    let e = hold(&stage.repository, sample::snapshot(1), None).unwrap_err();
    assert_eq!(e.kind, Kind::NotFound, "{e}");
}

#[test]
fn a_hold_outlives_damage_to_any_one_catalogue() {
    let reason = |stage: &Stage| {
        let all = stage.repository.listed().unwrap();
        all[0].1.hold.as_ref().map(|hold| hold.reason.clone())
    };
    let audit = Some(Hold { reason: "the audit".into(), until_ms: None });
    for nth in 0..2 {
        let stage = Stage::new();
        stage.import(&sample(1, 1));
        hold(&stage.repository, sample::snapshot(1), audit.clone()).unwrap();
        let numbers = stage.repository.catalogues().unwrap().remove(&stage.folder()).unwrap();
        let damaged = numbers.iter().rev().nth(nth).copied().unwrap();
        fs::write(stage.root().join(catalogue::name(stage.folder(), damaged)), "x").unwrap();
        assert_eq!(reason(&stage).as_deref(), Some("the audit"), "number {damaged} of {numbers:?}");
        // Said again it changes nothing, unless one of the two is missing.
        hold(&stage.repository, sample::snapshot(1), audit.clone()).unwrap();
        let before = stage.repository.standing(stage.folder()).unwrap().catalogue.number;
        hold(&stage.repository, sample::snapshot(1), audit.clone()).unwrap();
        let after = stage.repository.standing(stage.folder()).unwrap().catalogue.number;
        assert_eq!((before, reason(&stage).as_deref()), (after, Some("the audit")));
        let e = collect(&stage.repository, stage.folder(), &dropping(1)).unwrap_err();
        assert!(e.message.contains("is held: the audit"), "{e}");
    }
}

#[test]
fn a_clock_that_is_far_ahead_deletes_nothing_and_ends_no_hold() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=2).map(|n| sample(n, n)).collect();
    samples.iter().for_each(|sample| drop(stage.import(sample)));
    stage.collect(&order("last=1"));
    let wrong = Order { now_ms: now() + 365 * 24 * HOUR_MS, trust_clock: false, ..order("last=1") };
    let collected = stage.collect(&wrong);
    assert_eq!(collected.deleted, 0);
    assert!(collected.refused[0].contains("365 days ahead"), "{collected:?}");
    let right = Order { trust_clock: true, ..wrong };
    assert!(stage.collect(&right).deleted > 0);
    stage.holds_exactly(&[&samples[1]]);
}

#[test]
fn while_a_snapshot_that_stays_cannot_be_read_nothing_goes() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=3).map(|n| sample(n, n)).collect();
    samples.iter().for_each(|sample| drop(stage.import(sample)));
    let kept = stage.repository.find(sample::snapshot(3)).unwrap();
    let path = stage.root().join(kept.folder.object(&kept.snapshot.held[0].index.object));
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[1..]).unwrap();
    let collected = stage.collect(&order("last=1"));
    assert_eq!(stage.numbers(), [1, 2, 3]);
    assert!(collected.refused[0].contains("nobody knows"), "{collected:?}");
    fs::write(&path, whole).unwrap();
    stage.collect(&order("last=1"));
    stage.collect(&later(&order("")));
    stage.holds_exactly(&[&samples[2]]);
}

#[test]
fn what_interrupted_storing_has_left_goes_when_it_is_overtaken() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=3).map(|n| sample(n, n)).collect();
    stage.import(&samples[0]);
    let full = eventful(&stage, |name| match name.contains("/s/") {
        true => Err(Error::exhausted("the disk is full")),
        false => Ok(()),
    });
    import(&full, &stage.tars(&samples[1])).unwrap_err();
    stage.import(&samples[2]);
    assert_eq!(status(&stage.repository).unwrap().unnamed, 2);
    assert_eq!(stage.collect(&order("")).dropped, 0, "it may be under way");
    let day = Order { now_ms: now() + 25 * HOUR_MS, ..order("") };
    assert_eq!(stage.collect(&day).dropped, 2);
    stage.collect(&later(&day));
    stage.holds_exactly(&[&samples[0], &samples[2]]);
    let e = import(&stage.repository, &stage.tars(&samples[1])).unwrap_err();
    assert!(e.message.contains("given up"), "{e}");
}

/// Lists a snapshot of a schedule, as a node does that drives an upload.
fn upload(stage: &Stage, sample: &Sample, schedule: &str) -> Made {
    let kept = stage.repository.find(sample.snapshot).unwrap();
    let Snapshot { seq, snapshot, partitions, groups, .. } = kept.snapshot;
    let repository = stage.repository.clone();
    let schedule = Some(schedule.to_owned());
    let folder = kept.folder;
    let commit = Commit { repository, folder, seq, snapshot, partitions, groups, schedule };
    match commit.there(&kept.snapshot.root).unwrap() {
        Some(made) => made,
        None => panic!("{snapshot} is not there"),
    }
}

impl Stage {
    fn catalogue(&self, number: u64) -> PathBuf {
        self.root().join(catalogue::name(self.folder(), number))
    }

    fn schedules(&self) -> Vec<Option<String>> {
        let listed = self.repository.listed().unwrap();
        listed.into_iter().map(|(_, entry)| entry.schedule).collect()
    }
}

#[test]
fn an_upload_beside_a_damaged_catalogue_says_so_and_its_snapshot_keeps_its_schedule() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=3).map(|n| sample(n, n)).collect();
    samples[..2].iter().for_each(|sample| drop(stage.import(sample)));
    let damage = |number| {
        let whole = fs::read(stage.catalogue(number)).unwrap();
        fs::write(stage.catalogue(number), &whole[1..]).unwrap();
    };
    // What is imported now is new, though it is found where the catalogue should list it.
    damage(2);
    let imported = stage.import(&samples[2]);
    assert!(!imported.was_there && imported.new_bytes > 0, "{imported:?}");
    assert!(imported.damaged[0].contains("0000000000000002"), "{imported:?}");
    let again = stage.import(&samples[2]);
    assert_eq!((again.was_there, again.new_bytes, again.damaged), (true, 0, Vec::new()));
    assert_eq!(stage.numbers(), [1, 2, 3]);

    // One that no text says a schedule of, and that the request does.
    damage(3);
    let made = upload(&stage, &samples[2], "nightly");
    assert!(made.was_there && made.damaged[0].contains("0000000000000003"), "{made:?}");
    assert_eq!(stage.repository.standing(stage.folder()).unwrap().damaged, [""; 0]);
    assert_eq!(stage.schedules(), [None, None, Some("nightly".to_owned())]);
    // One that is listed is as it was listed.
    let made = upload(&stage, &samples[1], "nightly");
    assert!(made.was_there && made.damaged.is_empty(), "{made:?}");
    assert_eq!(stage.schedules(), [None, None, Some("nightly".to_owned())]);
}

/// The snapshot itself says its schedule, so that whoever makes the catalogue again knows it.
#[test]
fn a_schedule_outlives_the_catalogue_that_said_it() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=3).map(|n| sample(n, n)).collect();
    stage.import(&samples[0]);
    let part = samples[1].part().0;
    let kept = stage.repository.find(samples[0].snapshot).unwrap();
    let commit = Commit {
        repository: stage.repository.clone(),
        folder: kept.folder,
        seq: part.seq,
        snapshot: part.snapshot,
        partitions: kept.snapshot.partitions,
        groups: kept.snapshot.groups,
        schedule: Some("nightly".into()),
    };
    let snapshot = Snapshot {
        snapshot: part.snapshot,
        seq: part.seq,
        schedule: commit.schedule.clone(),
        ..kept.snapshot
    };
    assert!(!commit.list(snapshot, None).unwrap().was_there);
    fs::write(stage.catalogue(2), b"{}").unwrap();
    stage.import(&samples[2]);
    assert_eq!(stage.schedules(), [None, Some("nightly".to_owned()), None]);
    // And the schedule's rules take it out.
    let nightly = Order { schedule: Some("nightly".into()), ..order("last=1") };
    let collected = stage.collect(&nightly);
    assert_eq!(collected.snapshots[1].reasons, ["newest", "last 1 of 1"], "{collected:?}");
    for number in 2..=3 {
        fs::write(stage.catalogue(number), b"{}").unwrap();
    }
    repair(&stage.repository).unwrap();
    assert_eq!(stage.schedules(), [None, Some("nightly".to_owned()), None]);
}

#[test]
fn a_damaged_or_missing_catalogue_takes_no_snapshot_with_it() {
    let stage = Stage::new();
    let samples: Vec<Sample> = (1..=4).map(|n| sample(n, n)).collect();
    samples[..3].iter().for_each(|sample| drop(stage.import(sample)));
    let newest = stage.root().join(catalogue::name(stage.folder(), 3));
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[1..]).unwrap();
    assert_eq!(stage.numbers(), [1, 2, 3]);
    assert_eq!(stage.repository.standing(stage.folder()).unwrap().damaged.len(), 1);
    let report = verify(&stage.repository, &[], Depth::Whole).unwrap();
    assert!(!report.sound && report.snapshots.iter().all(|one| one.sound), "{report}");
    // Storing goes on, and with it there is a catalogue again.
    stage.import(&samples[3]);
    assert_eq!(stage.numbers(), [1, 2, 3, 4]);
    fs::write(&newest, &whole).unwrap();
    for number in 1..=4 {
        fs::remove_file(stage.root().join(catalogue::name(stage.folder(), number))).unwrap();
        if number == 4 {
            break;
        }
        assert!(!verify(&stage.repository, &[], Depth::Whole).unwrap().sound);
    }
    assert!(stage.numbers().is_empty());
    assert!(!verify(&stage.repository, &[], Depth::Whole).unwrap().sound);
    let repaired = repair(&stage.repository).unwrap();
    assert_eq!((repaired.listed.len(), repaired.refused.len()), (4, 0), "{repaired:?}");
    stage.holds_exactly(&samples.iter().collect::<Vec<_>>());
    assert_eq!(repair(&stage.repository).unwrap(), Default::default());
}

#[test]
fn old_catalogues_are_deleted_and_the_chain_is_whole() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    for n in 0..80 {
        let reason = Some(Hold { reason: n.to_string(), until_ms: None });
        hold(&stage.repository, sample::snapshot(1), reason).unwrap();
    }
    stage.collect(&order(""));
    let numbers = stage.repository.catalogues().unwrap().remove(&stage.folder()).unwrap();
    assert_eq!((numbers.first(), numbers.last()), (Some(&98), Some(&161)));
    stage.is_sound();
    // A put that comes late, of a number that is free again, is no link of the chain.
    let late = catalogue::name(stage.folder(), 97);
    let folder = stage.folder();
    fs::copy(stage.root().join(catalogue::name(folder, 98)), stage.root().join(&late)).unwrap();
    assert_eq!(stage.numbers(), [1]);
    let missing = stage.root().join(catalogue::name(folder, 120));
    fs::remove_file(missing).unwrap();
    let report = verify(&stage.repository, &[], Depth::Quick).unwrap();
    assert!(report.to_string().contains("it is missing"), "{report}");
}

#[test]
fn void_numbers_are_runs_and_a_catalogue_has_one_text() {
    let stage = Stage::new();
    stage.import(&sample(5, 1));
    let folder = stage.folder();
    for numbers in [vec![1, 2], vec![4], vec![3, 9], vec![u64::MAX], vec![2]] {
        let numbers = numbers.into_iter().map(SnapshotSeq).collect();
        let amended = stage.repository.amend(folder, |next| {
            next.make_void(&numbers);
            Ok(Step::Becomes(()))
        });
        amended.unwrap();
    }
    let catalogue = stage.repository.standing(folder).unwrap().catalogue;
    let void: Vec<(u64, u64)> = catalogue.void.iter().map(|(a, b)| (a.0, b.0)).collect();
    assert_eq!(void, [(1, 4), (9, 9), (u64::MAX, u64::MAX)]);
    let text = catalogue.encode().unwrap();
    assert_eq!(catalogue::Catalogue::parse(&text).unwrap(), catalogue);
    let id: SnapshotId = sample::snapshot(5);
    assert_eq!(stage.repository.find_entry(id).unwrap().1.seq, SnapshotSeq(5));
}

/// A writer that is killed in the middle of an object leaves a file that has no name.
#[test]
fn what_a_killed_writer_has_left_without_a_name_goes_when_it_is_old() {
    let stage = Stage::new();
    let sample = sample(1, 1);
    stage.import(&sample);
    let aside = stage.root().join("unfinished");
    let (left, own) = (aside.join(sample::snapshot(9).to_string()), aside.join("notes.txt"));
    fs::write(&left, [7; 1000]).unwrap();
    fs::write(&own, "whoever wrote this knows why").unwrap();
    let day = Order { now_ms: now() + 24 * HOUR_MS, ..order("") };
    let none = Unfinished::default();
    assert_eq!(unfinished(&stage.repository, &order("")), Ok(none), "it may be under way");
    let it = Unfinished { files: 1, bytes: 1000 };
    let looks = Order { dry_run: true, ..day.clone() };
    assert_eq!(unfinished(&stage.repository, &looks), Ok(it));
    assert!(left.exists());
    assert_eq!(unfinished(&stage.repository, &day), Ok(it));
    assert!(!left.exists() && own.exists());
    assert_eq!(unfinished(&stage.repository, &day), Ok(none));
    stage.holds_exactly(&[&sample]);
}
