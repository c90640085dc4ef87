//! What a lost cluster has stored becomes another one's.

use uuid::Uuid;

use super::*;
use crate::{
    base::{clock::Clock, ids::ClusterId, limits},
    repository::{
        adopt::{Adoption, Named, adopt},
        catalogue::Adopted,
        collect::{self, Order, hold},
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
