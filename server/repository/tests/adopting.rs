//! What a lost cluster has stored becomes another one's.

use uuid::Uuid;

use super::*;
use crate::{
    base::{clock::Clock, ids::ClusterId, limits},
    repository::{
        adopt::{Adoption, Named, adopt},
        catalogue::Adopted,
        collect::{self, Collected, Order, hold},
        points::{self, Point},
        root::Folder,
        signature,
    },
};

const HOUR_MS: u64 = 3_600_000;

fn now() -> u64 {
    Clock::start().wall_ms()
}

/// The history of all samples, which its cluster has lost.
fn lost() -> Folder {
    let owner = sample::owner(1);
    Folder { cluster: owner.cluster, lineage: owner.lineage }
}

fn folder(n: u128) -> Folder {
    Folder { cluster: ClusterId(Uuid::from_u128(n)), lineage: sample::LINEAGE }
}

fn named(folder: Folder) -> Named {
    Named { cluster: folder.cluster, lineage: Some(folder.lineage) }
}

fn cluster(folder: Folder) -> Named {
    Named { cluster: folder.cluster, lineage: None }
}

fn order(rules: &str) -> Order {
    Order {
        keep: rules.parse().unwrap(),
        schedule: None,
        named: Default::default(),
        grace_ms: 0,
        now_ms: now(),
        own: None,
        trust_clock: true,
        dry_run: false,
    }
}

impl Stage {
    fn adopt(&self, lost: Named, by: Named) -> Result<Vec<Adoption>> {
        adopt(&self.repository, lost, by, now())
    }

    /// A snapshot of another history, written so much later than all that are there.
    fn put(&self, folder: Folder, seq: u64, id: u64, later_ms: u64) {
        let written_ms = newest_written_ms(self) + later_ms;
        let tars = NODES.map(|node| {
            let id = sample::snapshot(id);
            let one =
                Sample { node: NodeId(node), snapshot: id, ..sample(seq, id.0.as_u64_pair().0) };
            let (mut manifest, chunks) = one.part();
            (manifest.cluster, manifest.lineage) = (folder.cluster, folder.lineage);
            manifest.written_ms = written_ms;
            let path = self.dir.path().join(format!("{id}-{node}.tar"));
            fs::write(&path, tar_of(&manifest, chunks)).unwrap();
            path
        });
        assert!(!import(&self.repository, &tars).unwrap().was_there);
    }
}

fn newest_written_ms(stage: &Stage) -> u64 {
    let all = stage.repository.listed().unwrap();
    all.iter().map(|(_, entry)| entry.written_ms).max().unwrap()
}

fn stays(collected: &[Collected]) -> Vec<(u64, bool)> {
    let all = collected.iter().flat_map(|of| &of.snapshots);
    all.map(|one| (one.seq, one.stays)).collect()
}

#[test]
fn the_format_of_an_adopted_history_is_that_of_the_golden_file() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/repository");
    let plain = Catalogue::parse(&fs::read(goldens.join("catalogue.json")).unwrap()).unwrap();
    let Folder { cluster, lineage } = folder(7);
    let by = Some(Adopted { cluster, lineage, at_ms: 1_800_000_000_000 });
    let adopted = Catalogue { format: 3, adopted: by, ..plain.clone() };
    let text = adopted.encode().unwrap();
    golden("catalogue-adopted.json", std::str::from_utf8(&text).unwrap());
    assert_eq!(Catalogue::parse(&text).unwrap(), adopted);
    let key = signature::SigningKey::of([7; 32]);
    let signed = adopted.clone().signed(&key);
    assert_eq!((signed.format, Catalogue::parse(&signed.encode().unwrap()).unwrap()), (4, signed));
    for format in [1, 2, 4, 5] {
        assert!(Catalogue { format, ..adopted.clone() }.encode().is_err(), "{format}");
        assert!(Catalogue { format: format.max(2), ..plain.clone() }.encode().is_err());
    }
}

#[test]
fn of_two_that_adopt_one_does_and_the_other_is_told_by_whom() {
    for round in 0..8 {
        let stage = Stage::new();
        stage.import(&sample(1, round));
        let tried = thread::scope(|scope| {
            let adopts = |n| {
                let stage = &stage;
                scope.spawn(move || stage.adopt(cluster(lost()), named(folder(n))))
            };
            [adopts(1), adopts(2)].map(|thread| thread.join().unwrap())
        });
        let winner = tried.iter().position(Result::is_ok).expect("one does");
        let e = tried[1 - winner].as_ref().unwrap_err();
        let by = folder(winner as u128 + 1);
        let told = format!("was adopted by cluster {}", by.cluster);
        assert!(e.kind == Kind::Conflict && e.message.contains(&told), "{e}");
        // Said again it is so, and changes nothing.
        let again = stage.adopt(named(lost()), named(by)).unwrap();
        assert!(again[0].was_adopted && again[0].by == by.name(), "{again:?}");
        let number = stage.repository.standing(lost()).unwrap().catalogue.number;
        stage.adopt(cluster(lost()), named(by)).unwrap();
        assert_eq!(stage.repository.standing(lost()).unwrap().catalogue.number, number);
    }
}

#[test]
fn nothing_is_stored_for_a_history_that_was_adopted_and_all_of_it_stays() {
    for damaged in [None, Some(0), Some(1)] {
        let stage = Stage::new();
        let (first, second) = (sample(1, 1), sample(2, 2));
        stage.import(&first);
        let audit = Hold { reason: "the audit".into(), until_ms: None };
        hold(&stage.repository, first.snapshot, Some(audit)).unwrap();
        let adopted = stage.adopt(cluster(lost()), named(folder(1))).unwrap();
        assert_eq!((adopted[0].snapshots, adopted[0].held, adopted[0].was_adopted), (1, 1, false));
        if let Some(nth) = damaged {
            let numbers = stage.repository.catalogues().unwrap().remove(&lost()).unwrap();
            let number = numbers.iter().rev().nth(nth).copied().unwrap();
            fs::write(stage.root().join(catalogue::name(lost(), number)), "x").unwrap();
        }
        let e = import(&stage.repository, &stage.tars(&second)).unwrap_err();
        let told = format!("was adopted by cluster {}", folder(1).cluster);
        assert!(e.kind == Kind::Conflict && e.message.contains(&told), "{damaged:?}: {e}");
        // Nor does the lost cluster take anything out.
        let own = Order { own: Some(lost()), ..order("last=1") };
        let e = collect::line(&stage.repository, lost(), &own).unwrap_err();
        assert!(e.message.contains(&told), "{e}");
        stage.comes_back(&first);
        let entry = &stage.repository.listed().unwrap()[0].1;
        assert_eq!(entry.hold.as_ref().unwrap().reason, "the audit");
        if damaged.is_none() {
            stage.is_sound();
            let told = status(&stage.repository).unwrap().histories;
            assert_eq!(told[0].adopted_by, Some(folder(1).name()));
        }
    }
}

#[test]
fn what_was_on_its_way_when_a_history_was_adopted_is_never_listed_and_goes() {
    let stage = Stage::new();
    let (first, second) = (sample(1, 1), sample(2, 2));
    stage.import(&first);
    let others = Mutex::new(Some(stage.repository.clone()));
    let slow = eventful(&stage, move |name| {
        if name.contains("/s/")
            && let Some(repository) = others.lock().unwrap().take()
        {
            adopt(&repository, cluster(lost()), named(folder(1)), now())?;
        }
        Ok(())
    });
    let e = import(&slow, &stage.tars(&second)).unwrap_err();
    assert!(e.message.contains("nothing is stored for it any more"), "{e}");
    assert_eq!(stage.repository.listed().unwrap().len(), 1);
    assert!(status(&stage.repository).unwrap().unnamed > 0);
    let late = now() + limits::ABANDONED_AFTER_MS + HOUR_MS;
    for now_ms in [late, late + HOUR_MS] {
        collect::all(&stage.repository, &Order { now_ms, ..order("last=9") }).unwrap();
    }
    let told = status(&stage.repository).unwrap();
    assert_eq!((told.unnamed, told.dropped), (0, 0), "{told:?}");
    stage.comes_back(&first);
}

#[test]
fn rules_go_through_an_adopted_history_as_through_one() {
    let stage = Stage::new();
    (1..=3).for_each(|n| drop(stage.import(&sample(n, n))));
    let by = folder(1);
    stage.put(by, 1, 100, HOUR_MS);
    let latest = || points::find(&stage.repository, Point::Latest);
    assert!(latest().unwrap_err().message.contains("2 histories"), "nobody has said whose");
    // By its cluster alone, since it has one history here.
    stage.adopt(cluster(lost()), cluster(by)).unwrap();
    assert_eq!(latest().unwrap().kept.snapshot.snapshot, sample::snapshot(100));
    let first = newest_written_ms(&stage) - HOUR_MS;
    let then = points::find(&stage.repository, Point::Time(first)).unwrap();
    assert_eq!(then.kept.snapshot.snapshot, sample::snapshot(3));
    let audit = Hold { reason: "the audit".into(), until_ms: None };
    hold(&stage.repository, sample::snapshot(1), Some(audit)).unwrap();

    let dry = Order { dry_run: true, ..order("last=2") };
    let would = collect::line(&stage.repository, by, &dry).unwrap();
    let wanted = [(1, true), (3, true), (2, false), (1, true)];
    assert_eq!(stays(&would), wanted, "{would:?}");
    let own = Order { own: Some(by), ..order("last=2") };
    let collected = collect::line(&stage.repository, by, &own).unwrap();
    assert_eq!(stays(&collected), wanted);
    assert_eq!(collected[1].snapshots[0].reasons, ["last 2 of 2"]);
    // The newest of the line is the one that always stays.
    let collected = collect::all(&stage.repository, &order("last=1")).unwrap();
    assert_eq!(stays(&collected), [(1, true), (3, false), (1, true)]);
    stage.comes_back(&sample(1, 1));
}

#[test]
fn who_was_adopted_adopts_nobody_and_who_has_nothing_is_told_so() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    let [b, c] = [folder(1), folder(2)];
    stage.put(b, 1, 100, HOUR_MS);
    for (lost, by, why) in [
        (cluster(folder(9)), named(b), "has nothing of cluster"),
        (cluster(lost()), cluster(c), "have it store one first, or name its lineage too"),
        (named(b), named(b), "does not adopt itself"),
        (cluster(b), named(b), "has nothing of cluster"),
    ] {
        let e = stage.adopt(lost, by).unwrap_err();
        assert!(e.message.contains(why), "{e}");
    }
    stage.adopt(cluster(lost()), named(b)).unwrap();
    stage.adopt(cluster(b), named(c)).unwrap();
    let e = stage.adopt(named(lost()), named(b)).unwrap_err();
    assert!(e.message.contains(&format!("was adopted by cluster {}", c.cluster)), "{e}");
    let e = stage.adopt(cluster(lost()), named(c)).unwrap_err();
    assert!(e.message.contains(&format!("was adopted by cluster {}", b.cluster)), "{e}");
    // All three are one line, whose newest is what a restore finds.
    stage.put(c, 7, 200, 2 * HOUR_MS);
    let latest = points::find(&stage.repository, Point::Latest).unwrap();
    assert_eq!(latest.kept.snapshot.snapshot, sample::snapshot(200));
    let dry = Order { dry_run: true, ..order("last=2") };
    let would = collect::all(&stage.repository, &dry).unwrap();
    assert_eq!(stays(&would), [(7, true), (1, true), (1, false)]);
}
