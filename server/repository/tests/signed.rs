//! Signed repositories: who may add, what whoever pins a key believes, and what is refused of
//! somebody who may write to the place and has no key.

use std::os::unix::fs::PermissionsExt as _;

use uuid::Uuid;

use super::*;
use crate::repository::{
    collect::{Order, collect, hold},
    key::SLOTS,
    points::{self, Point},
    repair::repair,
    root::{Folder, ROOT, Sealed},
    sign::{Signed, sign_on},
    signature::{PublicKey, SigningKey},
    trust::{Mark, SigningSource, VOUCHERS, Voucher, voucher},
    vault::Secret,
};

/// Writes the file of a key.
fn file(dir: &Path, key: &SigningKey) -> PathBuf {
    let path = dir.join(format!("{}.key", key.public()));
    fs::write(&path, key.reveal()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Of somebody who only reads.
fn pins(keys: &[&SigningKey]) -> Trust {
    let keys = keys.iter().map(|key| key.public()).collect();
    Trust::new(SigningSource::Nowhere, keys, false, Vec::new())
}

fn pins_but_older_will_do(key: &SigningKey) -> Trust {
    Trust::new(SigningSource::Nowhere, vec![key.public()], true, Vec::new())
}

fn at_least(key: &SigningKey, mark: Mark) -> Trust {
    Trust::new(SigningSource::Nowhere, vec![key.public()], false, vec![mark])
}

impl Stage {
    fn holds_key(&self, key: &SigningKey, pinned: &[&SigningKey]) -> Trust {
        let pinned = pinned.iter().map(|key| key.public()).collect();
        let source = SigningSource::File(file(self.dir.path(), key));
        Trust::new(source, pinned, false, Vec::new())
    }

    fn sign_by(&self, trust: Trust) -> Result<Signed> {
        let access = Access { trust, ..self.access() };
        sign_on(Arc::new(Directory::new(self.root())), &access)
    }

    /// Signs it, and has the key from then on.
    fn sign(&mut self, key: &SigningKey) -> Signed {
        let trust = self.holds_key(key, &[]);
        let signed = self.sign_by(trust.clone()).unwrap();
        self.trust = trust;
        self.repository = self.open().unwrap();
        signed
    }

    /// A signed one that holds two snapshots, each in a catalogue of its own.
    fn signed(key: &SigningKey) -> Stage {
        let mut stage = Stage::new();
        stage.sign(key);
        stage.import(&sample(1, 1));
        stage.import(&sample(2, 2));
        stage
    }

    fn by(&self, trust: Trust) -> Result<Repository> {
        let access = Access { trust, ..self.access() };
        Repository::on(Arc::new(Directory::new(self.root())), &access)
    }

    fn standing_by(&self, trust: Trust) -> Result<catalogue::Standing> {
        self.by(trust)?.standings().map(|mut all| all.pop().unwrap())
    }

    fn history(&self) -> Folder {
        *self.repository.catalogues().unwrap().keys().next().unwrap()
    }

    fn path_of(&self, number: u64) -> PathBuf {
        self.root().join(catalogue::name(self.history(), number))
    }

    fn newest(&self) -> Catalogue {
        self.repository.standing(self.history()).unwrap().catalogue
    }

    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        let all = self.repository.store.list("").unwrap().into_iter();
        all.map(|Object { name, .. }| (name.clone(), fs::read(self.root().join(name)).unwrap()))
            .collect()
    }
}

fn key(n: u8) -> SigningKey {
    SigningKey::of([n; 32])
}

/// It is refused, and what is said holds all of these words.
fn is_denied<T>(result: Result<T>, words: &[&str]) {
    let e = result.map(drop).unwrap_err();
    assert_eq!(e.kind, Kind::Denied, "{e}");
    words.iter().for_each(|word| assert!(e.message.contains(word), "{word:?} is not in: {e}"));
}

/// The text with the digest that belongs to it.
fn put_right(text: &[u8]) -> Vec<u8> {
    let mark = b"  \"digest\": \"";
    let at = text.windows(mark.len()).rposition(|w| w == mark).unwrap_or(text.len());
    let digest = blake3::hash(&text[..at]);
    [&text[..at], format!("  \"digest\": \"{digest}\"\n}}\n").as_bytes()].concat()
}

/// Formats that were written once are read for good.
#[test]
fn the_signed_formats_are_those_of_the_golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/repository");
    let plain = Catalogue::parse(&fs::read(folder.join("catalogue.json")).unwrap()).unwrap();
    assert_eq!((plain.format, plain.signer), (1, None));
    let signed = plain.clone().signed(&key(7));
    let text = signed.encode().unwrap();
    golden("catalogue-signed.json", std::str::from_utf8(&text).unwrap());
    assert_eq!(Catalogue::parse(&text), Ok(signed.clone()));
    let unsigned = Catalogue { format: 1, signer: None, signature: None, ..signed };
    assert_eq!(unsigned, plain, "all else is as ever");
    let text = Voucher::signed(Uuid::from_u128(1), b"{}\n", &key(7));
    golden("voucher.json", std::str::from_utf8(&text).unwrap());
}

#[test]
fn every_flip_and_every_cut_of_a_signed_catalogue_is_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/repository");
    let plain = Catalogue::parse(&fs::read(folder.join("catalogue.json")).unwrap()).unwrap();
    let text = plain.clone().signed(&key(7)).encode().unwrap();
    for at in 0..text.len() {
        assert!(Catalogue::parse(&text[..at]).is_err(), "cut at {at}");
        for bit in [0, 3, 6] {
            let mut flipped = text.clone();
            flipped[at] ^= 1 << bit;
            assert!(Catalogue::parse(&flipped).is_err(), "byte {at}, bit {bit}");
            // Whoever changes it on purpose puts its digest right.
            let right = put_right(&flipped);
            assert!(right == text || Catalogue::parse(&right).is_err(), "byte {at}, bit {bit}");
        }
    }
    // What was signed for one thing is not signed for another: one field after the other.
    let signed = plain.clone().signed(&key(7));
    let changed = |change: fn(&mut Catalogue)| {
        let mut other = signed.clone();
        change(&mut other);
        other.encode().map(drop)
    };
    let changes: [fn(&mut Catalogue); 9] = [
        |c| c.number += 1,
        |c| c.before = Some(Digest([9; 32])),
        |c| c.repository = Uuid::from_u128(9),
        |c| c.snapshots[0].digest = Digest([9; 32]),
        |c| c.snapshots[0].object = "s/9-9".into(),
        |c| c.snapshots[0].hold = None,
        |c| c.void.clear(),
        |c| c.dropped[0].objects[0] = "g/1-1".into(),
        |c| c.signer = Some(key(8).public()),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let e = changed(change).unwrap_err();
        assert!(e.message.contains("its signature is not that"), "change {at}: {e}");
    }
    // Nor does it lose its signature, or get half of one.
    let changes: [fn(&mut Catalogue); 4] = [
        |c| c.format = 1,
        |c| c.signature = None,
        |c| (c.signer, c.signature) = (None, None),
        |c| (c.format, c.signature) = (1, None),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert!(changed(change).is_err(), "change {at}");
    }
}

#[test]
fn what_is_not_signed_is_as_it_was_byte_for_byte() {
    let stage = Stage::new();
    stage.import(&sample(1, 1));
    let text = fs::read_to_string(stage.path_of(1)).unwrap();
    assert!(text.starts_with("{\n  \"format\": 1,") && !text.contains("sign"), "{text}");
    assert!(stage.repository.signers().is_empty());
    assert!(!stage.all().keys().any(|name| name.starts_with(VOUCHERS)));
}

#[test]
fn a_signed_repository_gives_back_what_it_took_and_all_that_changes_it_is_signed() {
    let own = key(7);
    let stage = Stage::signed(&own);
    let reader = stage.by(pins(&[&own])).unwrap();
    assert_eq!(reader.signers(), [own.public()]);
    let is_signed = |number| {
        let catalogue = stage.newest();
        assert_eq!((catalogue.number, catalogue.signer), (number, Some(own.public())));
        let text = fs::read(stage.path_of(number)).unwrap();
        assert!(text.starts_with(b"{\n  \"format\": 2,"));
        assert_eq!(reader.standing(stage.history()).unwrap().catalogue, catalogue);
    };
    is_signed(2);
    stage.comes_back(&sample(1, 1));
    stage.comes_back(&sample(2, 2));
    let held = Hold { reason: "the audit".into(), until_ms: None };
    hold(&stage.repository, sample::snapshot(1), Some(held)).unwrap();
    // A hold stands in two.
    is_signed(4);
    hold(&stage.repository, sample::snapshot(1), None).unwrap();
    is_signed(5);
    let collected = collect(&stage.repository, stage.history(), &dropping(1)).unwrap();
    assert!(collected.dropped > 0, "{collected:?}");
    is_signed(6);
    assert!(verify(&reader, &[], Depth::Whole).unwrap().sound);
    let told = status(&reader).unwrap();
    assert_eq!((told.unnamed, told.signed), (0, vec![own.public().to_string()]));
    assert_eq!(told.histories[0].catalogue, format!("{}/6", stage.history().name()));
}

fn dropping(seq: u64) -> Order {
    Order {
        keep: Default::default(),
        schedule: None,
        named: [sample::snapshot(seq)].into(),
        grace_ms: 3_600_000,
        now_ms: crate::base::clock::Clock::start().wall_ms(),
        own: None,
        trust_clock: true,
        dry_run: false,
    }
}

#[test]
fn nobody_adds_to_a_signed_repository_without_the_key() {
    let own = key(7);
    let stage = Stage::signed(&own);
    let before = stage.all();
    let tars = stage.tars(&sample(3, 3));
    for trust in [Trust::default(), pins(&[&own])] {
        let other = stage.by(trust).unwrap();
        let (folder, id) = (stage.history(), sample::snapshot(1));
        let refused: [(&str, Result<()>); 5] = [
            ("import", import(&other, &tars).map(drop)),
            ("hold", hold(&other, id, None).map(drop)),
            ("drop", collect(&other, folder, &dropping(1)).map(drop)),
            ("repair", repair(&other).map(drop)),
            ("put", crate::repository::send::put(&other, "g/1-1", vec![1])),
        ];
        for (what, refused) in refused {
            let e = refused.unwrap_err();
            assert_eq!(e.kind, Kind::Denied, "{what}: {e}");
            for word in ["--signing-key-file", "--repository-signing-key-file"] {
                assert!(e.message.contains(word), "{what}: {e}");
            }
        }
        // What would be is nobody's secret.
        let dry = Order { dry_run: true, ..dropping(1) };
        assert!(collect(&other, folder, &dry).unwrap().dropped > 0);
    }
    // Not even where the voucher is gone: the catalogue is signed.
    let place = stage.root().join(voucher(&own.public()));
    let text = fs::read(&place).unwrap();
    fs::remove_file(&place).unwrap();
    let other = stage.by(Trust::default()).unwrap();
    is_denied(hold(&other, sample::snapshot(1), None), &["--signing-key-file"]);
    is_denied(stage.open(), &["has not signed that it is", "ddbctl repository sign"]);
    fs::write(&place, text).unwrap();
    assert_eq!(stage.all(), before);
    // With another key as little as without one.
    is_denied(stage.by(stage.holds_key(&key(8), &[])), &["has not signed that it is"]);
    let both = stage.holds_key(&key(8), &[&own]);
    is_denied(stage.by(both), &["has not signed that it is", &key(8).public().to_string()]);
    // Whoever only reads, and pins nothing, reads as ever.
    let anybody = stage.by(Trust::default()).unwrap();
    assert!(verify(&anybody, &[], Depth::Whole).unwrap().sound);
}

/// Somebody who may write to the place, and has not the key.
#[test]
fn whoever_pins_a_key_is_told_what_was_changed_and_goes_back_only_knowingly() {
    let own = key(7);
    let stage = Stage::signed(&own);
    let (folder, newest) = (stage.history(), stage.newest());
    let next = Catalogue {
        format: 1,
        number: 3,
        before: Some(Digest(blake3::hash(&fs::read(stage.path_of(2)).unwrap()).into())),
        signer: None,
        signature: None,
        ..newest.clone()
    };
    let write = |number, text: &[u8]| fs::write(stage.path_of(number), text).unwrap();
    let whole = fs::read(stage.path_of(2)).unwrap();
    let older = fs::read(stage.path_of(1)).unwrap();
    let changed =
        String::from_utf8(whole.clone()).unwrap().replacen("\"rows\": ", "\"rows\": 1", 1);
    type Attack<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str, u64);
    let attacks: [Attack; 7] = [
        (
            "one more that is not signed",
            Box::new(|| write(3, &next.encode().unwrap())),
            "is not signed",
            2,
        ),
        (
            "one that another key has signed",
            Box::new(|| write(3, &next.clone().signed(&key(8)).encode().unwrap())),
            "is signed by ed25519-",
            2,
        ),
        (
            "the newest, changed",
            Box::new(|| write(2, &put_right(changed.as_bytes()))),
            "its signature is not that of what it says",
            1,
        ),
        (
            "the newest, without a signature",
            Box::new(|| {
                write(
                    2,
                    &Catalogue { number: 2, before: newest.before, ..next.clone() }
                        .encode()
                        .unwrap(),
                )
            }),
            "is not signed",
            1,
        ),
        ("the newest, cut short", Box::new(|| write(2, &whole[..100])), "cut short", 1),
        (
            "the one before in the place of the newest",
            Box::new(|| write(2, &older)),
            "it says of itself that it is catalogue 1",
            1,
        ),
        ("nothing", Box::new(|| write(2, b"")), "cut short", 1),
    ];
    for (name, attack, said, left) in attacks {
        attack();
        let words =
            [said, &catalogue::name(folder, if left == 2 { 3 } else { 2 }), "--older-catalogue"];
        let reader = stage.by(pins(&[&own])).unwrap();
        is_denied(reader.standings(), &words);
        is_denied(points::find(&reader, Point::Latest), &words);
        is_denied(verify(&reader, &[], Depth::Quick), &words);
        is_denied(status(&reader), &words);
        is_denied(import(&stage.open().unwrap(), &stage.tars_of_before(&sample(2, 2))), &words);
        let back = stage.standing_by(pins_but_older_will_do(&own)).unwrap();
        let listed: Vec<u64> = back.catalogue.snapshots.iter().map(|entry| entry.seq.0).collect();
        assert_eq!(listed, (1..=left).collect::<Vec<_>>(), "{name}");
        assert!(back.damaged[0].contains(said), "{name}: {:?}", back.damaged);
        // Whoever pins nothing takes what a flip has left, and believes whatever lies there.
        stage.standing_by(Trust::default()).unwrap();
        write(2, &whole);
        let _ = fs::remove_file(stage.path_of(3));
    }
    stage.is_sound();
}

#[test]
fn the_owner_goes_on_where_the_newest_is_damaged_and_signs_nothing_that_is_not_listed() {
    let own = key(7);
    let mut stage = Stage::signed(&own);
    fs::write(stage.path_of(2), b"noise").unwrap();
    is_denied(repair(&stage.open().unwrap()), &["--older-catalogue"]);
    let source = SigningSource::File(file(stage.dir.path(), &own));
    let repaired = repair(&stage.by(Trust::new(source, Vec::new(), true, Vec::new())).unwrap());
    let repaired = repaired.unwrap();
    assert_eq!((repaired.damaged.len(), repaired.listed.len()), (1, 0), "{repaired:?}");
    assert!(repaired.refused[0].contains("no signed catalogue lists it"), "{repaired:?}");
    stage.trust = stage.holds_key(&own, &[]);
    stage.repository = stage.open().unwrap();
    assert_eq!((stage.newest().number, stage.newest().snapshots.len()), (3, 1));
    // Who has the parts stores them again.
    stage.import(&sample(2, 2));
    stage.comes_back(&sample(1, 1));
    stage.comes_back(&sample(2, 2));
    // The noise is named as long as it lies there.
    let report = verify(&stage.by(pins(&[&own])).unwrap(), &[], Depth::Whole).unwrap();
    assert!(report.problems.iter().all(|one| one.snapshot.starts_with("k/")), "{report}");
    assert!(!report.sound, "{report}");
    assert!(report.snapshots.iter().all(|looked| looked.sound), "{report}");
}

#[test]
fn a_history_that_was_led_back_whole_is_found_by_who_remembers_it() {
    let own = key(7);
    let stage = Stage::signed(&own);
    let trust = pins(&[&own]);
    let reader = stage.by(trust.clone()).unwrap();
    let mark = reader.standing(stage.history()).unwrap().mark();
    assert_eq!(mark.to_string(), format!("{}/2", stage.history().name()));
    let (folder, whole) = (stage.history(), fs::read(stage.path_of(2)).unwrap());
    fs::remove_file(stage.path_of(2)).unwrap();
    // The process has seen it, and its next look sees that it is gone.
    let words = ["newest catalogue", "is number 1", "this process has seen number 2"];
    is_denied(reader.standing(folder), &words);
    is_denied(stage.by(trust).unwrap().standings(), &words);
    is_denied(stage.standing_by(at_least(&own, mark)), &["--at-least-catalogue", "number 2"]);
    // Nobody else can tell: that is what the mark is for.
    assert_eq!(stage.standing_by(pins(&[&own])).unwrap().mark().number, 1);
    fs::remove_file(stage.root().join(catalogue::name(folder, 1))).unwrap();
    is_denied(stage.by(at_least(&own, mark)).unwrap().standings(), &["is number 0", "number 2"]);
    fs::write(stage.root().join(catalogue::name(folder, 2)), whole).unwrap();
    assert_eq!(stage.standing_by(at_least(&own, mark)).unwrap().mark(), mark);
    let more = Mark { number: 3, ..mark };
    is_denied(stage.standing_by(at_least(&own, more)), &["is number 2", "number 3"]);
    // It needs no key.
    let unpinned = Trust::new(SigningSource::Nowhere, Vec::new(), false, vec![more]);
    is_denied(stage.standing_by(unpinned), &["is number 2", "number 3"]);
}

#[test]
fn another_repository_in_the_same_place_is_refused_by_name() {
    let own = key(7);
    let (stage, other, unsigned) = (Stage::signed(&own), Stage::signed(&key(8)), Stage::new());
    for there in [&other, &unsigned] {
        let id = there.repository.id.to_string();
        is_denied(there.by(pins(&[&own])), &[&id, "another repository"]);
        is_denied(there.by(there.holds_key(&own, &[])), &[&id, "another repository"]);
    }
    // With the voucher of the one that was there.
    let name = voucher(&own.public());
    for there in [&other, &unsigned] {
        fs::create_dir_all(there.root().join(VOUCHERS)).unwrap();
        fs::copy(stage.root().join(&name), there.root().join(&name)).unwrap();
        let id = there.repository.id.to_string();
        let was = stage.repository.id.to_string();
        is_denied(there.by(pins(&[&own])), &[&id, &was, "devicedb.json is not the one"]);
    }
    // Its own, with something changed in it.
    let root = stage.root().join(ROOT);
    let text = fs::read_to_string(&root).unwrap();
    fs::write(&root, text.replace("\"product\":\"", "\"product\":\"1")).unwrap();
    is_denied(stage.by(pins(&[&own])), &["devicedb.json is not the one"]);
    fs::write(&root, &text).unwrap();
    // The voucher itself: gone, changed, somebody else's.
    let place = stage.root().join(&name);
    let whole = fs::read(&place).unwrap();
    fs::remove_file(&place).unwrap();
    is_denied(stage.by(pins(&[&own])), &["has not signed that it is"]);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        for text in [flipped.clone(), put_right(&flipped)] {
            if text != whole {
                fs::write(&place, text).unwrap();
                let e = stage.by(pins(&[&own])).map(drop).unwrap_err();
                assert!(matches!(e.kind, Kind::Denied | Kind::Conflict), "byte {at}: {e}");
                assert!(e.message.contains(&name), "byte {at}: {e}");
            }
        }
    }
    let forged = Voucher::signed(stage.repository.id, text.as_bytes(), &key(8));
    fs::write(&place, forged).unwrap();
    is_denied(stage.by(pins(&[&own])), &["is signed by ed25519-"]);
    fs::write(&place, &whole).unwrap();
    stage.by(pins(&[&own])).unwrap();
}

/// A stranger knows the recipients of a sealed repository, since they are public.
#[test]
fn nobody_is_made_to_seal_rows_for_a_stranger() {
    let own = key(7);
    let mut stage = Stage::sealed();
    stage.sign(&own);
    stage.import(&sample(1, 1));
    let recipient = fs::read_dir(stage.root().join(SLOTS)).unwrap().next().unwrap().unwrap();
    let recipient = recipient.file_name().into_string().unwrap().parse().unwrap();
    let strange = tempfile::tempdir().unwrap();
    let place = strange.path().join("repository");
    let sealed = Sealed { key: Secret::draw().unwrap(), recipients: vec![recipient] };
    Repository::init_sealed(place.to_str().unwrap(), &sealed).unwrap();
    let on = |trust: Trust| {
        let access = Access { trust, ..stage.access() };
        Repository::on(Arc::new(Directory::new(&place)), &access)
    };
    on(Trust::default()).expect("by its slot it opens as well as the right one");
    is_denied(on(stage.trust.clone()), &["another repository"]);
    is_denied(on(pins(&[&own])), &["another repository"]);
    assert!(verify(&stage.by(pins(&[&own])).unwrap(), &[], Depth::Whole).unwrap().sound);
}

#[test]
fn a_repository_that_was_not_signed_is_signed_from_its_newest_catalogue_on() {
    let own = key(7);
    let mut stage = Stage::new();
    stage.import(&sample(1, 1));
    is_denied(stage.by(pins(&[&own])), &["has not signed that it is"]);
    let signed = stage.sign(&own);
    assert_eq!((signed.was_signed, signed.key.parse()), (false, Ok(own.public())));
    assert_eq!(signed.catalogues, [format!("{}/2", stage.history().name())]);
    let listed = stage.standing_by(pins(&[&own])).unwrap().catalogue;
    assert_eq!((listed.snapshots.len(), listed.signer), (1, Some(own.public())));
    let before = stage.all();
    let again = stage.sign(&own);
    assert_eq!((again.was_signed, &again.catalogues), (true, &signed.catalogues));
    assert_eq!(stage.all(), before, "there is nothing more to do");
    stage.import(&sample(2, 2));
    // The catalogue from before is no way back.
    for number in [2, 3] {
        fs::write(stage.path_of(number), b"noise").unwrap();
    }
    let back = stage.standing_by(pins_but_older_will_do(&own));
    is_denied(back, &["nothing older is left", "is not signed"]);
}

#[test]
fn signing_goes_on_where_it_was_interrupted_and_takes_nothing_over_from_strangers() {
    let own = key(7);
    let mut stage = Stage::new();
    stage.import(&sample(1, 1));
    stage.sign(&own);
    // All is signed, and the voucher is not there yet.
    fs::remove_file(stage.root().join(voucher(&own.public()))).unwrap();
    assert!(!stage.sign(&own).was_signed);
    assert_eq!(stage.newest().number, 2);
    // What somebody adds without the key does not become signed, whether the voucher is there...
    let text = fs::read(stage.path_of(2)).unwrap();
    let added = Catalogue {
        format: 1,
        number: 3,
        before: Some(Digest(blake3::hash(&text).into())),
        signer: None,
        signature: None,
        ..stage.newest()
    };
    fs::write(stage.path_of(3), added.encode().unwrap()).unwrap();
    is_denied(stage.sign_by(stage.holds_key(&own, &[])), &["is not signed"]);
    // ...or not.
    fs::remove_file(stage.root().join(voucher(&own.public()))).unwrap();
    let no = stage.sign_by(stage.holds_key(&own, &[]));
    is_denied(no, &["somebody has added to it without the key"]);
    // One that is damaged says nothing that could be signed.
    let damaged = Stage::new();
    damaged.import(&sample(1, 1));
    damaged.import(&sample(2, 2));
    fs::write(damaged.path_of(2), b"noise").unwrap();
    let e = damaged.sign_by(damaged.holds_key(&own, &[])).unwrap_err();
    assert!(e.kind == Kind::Conflict && e.message.contains("ddbctl repository repair"), "{e}");
    let no_key = damaged.sign_by(Trust::default());
    is_denied(no_key, &["--signing-key-file"]);
}

#[test]
fn one_key_takes_the_place_of_another() {
    let (old, new) = (key(7), key(8));
    let stage = Stage::signed(&old);
    is_denied(stage.sign_by(stage.holds_key(&new, &[])), &["name one of them with --trusted-key"]);
    let signed = stage.sign_by(stage.holds_key(&new, &[&old])).unwrap();
    assert_eq!(signed.catalogues, [format!("{}/3", stage.history().name())]);
    let signer = |trust: Trust| stage.standing_by(trust).unwrap().catalogue.signer;
    assert_eq!(signer(pins(&[&new])), Some(new.public()));
    assert_eq!(signer(pins(&[&old, &new])), Some(new.public()));
    is_denied(stage.standing_by(pins(&[&old])), &["is signed by", &new.public().to_string()]);
    // A writer with the old key trusts the new one, or stops.
    is_denied(import(&stage.open().unwrap(), &stage.tars(&sample(3, 3))), &["is signed by"]);
    let writer = stage.by(stage.holds_key(&new, &[])).unwrap();
    import(&writer, &stage.tars(&sample(3, 3))).unwrap();
    let keys: Vec<PublicKey> = stage.by(Trust::default()).unwrap().signers().to_vec();
    assert_eq!(keys.len(), 2);
}

/// Nothing that is read of a signed repository is free to change: whatever is flipped, somebody
/// who pins the key is told.
#[test]
fn one_signature_covers_everything_that_is_read() {
    let own = key(7);
    let stage = Stage::signed(&own);
    for (name, whole) in stage.all() {
        // Of catalogues the newest counts, and the chain back to the first.
        let places = [0, whole.len() / 3, whole.len() / 2, whole.len() - 1];
        for at in places {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(stage.root().join(&name), flipped).unwrap();
            let read =
                stage.by(pins(&[&own])).and_then(|reader| verify(&reader, &[], Depth::Whole));
            assert!(read.map_or(true, |report| !report.sound), "{name}, byte {at}");
        }
        fs::write(stage.root().join(&name), whole).unwrap();
    }
    stage.is_sound();
}
