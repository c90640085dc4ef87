//! Sealed repositories: what can be seen of them without the key, and that all else is as ever.

use std::{collections::HashSet, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::{
    base::limits,
    repository::{
        cover::Cover,
        entry::Entry,
        key,
        root::{ROOT, Sealed},
        vault::{Scheme, Secret},
    },
};

impl Stage {
    /// One that is sealed, and opened with an identity file.
    pub fn sealed() -> Stage {
        let (dir, identity) = (tempfile::tempdir().unwrap(), Identity::draw());
        let file = dir.path().join("identity.txt");
        fs::write(&file, identity.reveal()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let sealed =
            Sealed { key: Secret::draw().unwrap(), recipients: vec![identity.recipient()] };
        let place = dir.path().join("repository").display().to_string();
        let repository = Repository::init_sealed(&place, &sealed).unwrap();
        Stage { dir, repository, key: Some(file), trust: Trust::default() }
    }

    /// As somebody sees it who has no key.
    fn seen(&self) -> Repository {
        let place = self.root().display().to_string();
        Repository::seen(&place, limits::OBJECT_PATIENCE_COMMAND, &Access::none()).unwrap()
    }

    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let all = self.repository.store.list("").unwrap();
        let read = |Object { name, .. }: Object| {
            let bytes = fs::read(self.root().join(&name)).unwrap();
            (name, bytes)
        };
        all.into_iter().map(read).collect()
    }
}

#[test]
fn a_sealed_repository_gives_back_what_an_open_one_does() {
    let (open, sealed) = (Stage::new(), Stage::sealed());
    for sample in [sample(1, 1), sample(2, 2), sample(3, 2)] {
        let (one, other) = (open.import(&sample), sealed.import(&sample));
        assert_eq!(one, other, "a seal changes nothing of what is told");
        sealed.comes_back(&sample);
        let again = sealed.import(&sample);
        assert_eq!((again.was_there, again.new_bytes), (true, 0));
    }
    sealed.is_sound();
    assert_eq!(sealed.objects().len(), open.objects().len() + 1, "but for the slot");
    let left = status(&sealed.repository).unwrap();
    assert_eq!((left.unnamed, left.sealed, left.closed), (0, true, false), "{left:?}");
}

/// Whoever stores the same again, on whichever node, finds what is there by its name.
#[test]
fn the_same_rows_are_the_same_objects_byte_for_byte() {
    let stage = Stage::sealed();
    let (first, second) = (sample(1, 1), sample(2, 2));
    stage.import(&first);
    stage.import(&second);
    let before = stage.objects();
    let stays = |name: &&String| *name == ROOT || name.starts_with(key::SLOTS);
    for name in before.keys().filter(|name| !stays(name)) {
        fs::remove_file(stage.root().join(name)).unwrap();
    }
    assert_eq!(stage.objects().len(), 2, "the root and a slot");
    let other = stage.open().unwrap();
    for sample in [&first, &second] {
        import(&other, &stage.tars(sample)).unwrap();
    }
    // Catalogues say when they were made.
    let lasting = |mut objects: BTreeMap<String, Vec<u8>>| {
        objects.retain(|name, _| !name.starts_with("k/"));
        objects
    };
    assert_eq!(lasting(stage.objects()), lasting(before));
}

/// Finds whether any of many needles stands in some bytes.
struct Needles {
    heads: HashSet<[u8; HEAD]>,
}

const HEAD: usize = 10;

impl Needles {
    fn new(needles: impl Iterator<Item = Vec<u8>>) -> Needles {
        let head = |needle: Vec<u8>| needle.first_chunk::<HEAD>().copied();
        Needles { heads: needles.filter_map(head).collect() }
    }

    fn found(&self, bytes: &[u8]) -> Option<String> {
        let mut windows = bytes.windows(HEAD);
        let found = windows.find(|window| self.heads.contains::<[u8]>(*window));
        found.map(|found| String::from_utf8_lossy(found).into_owned())
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes()
}

#[test]
fn no_row_site_name_address_or_hash_stands_in_any_object_or_name() {
    let sample = Sample { rows: 500, ..sample(1, 1) };
    let (manifest, chunks) = sample.part();
    let rows: Vec<sample::Row> = (0..64).flat_map(|id| sample.rows_of(id)).collect();
    assert!(rows.len() > 10_000, "{}", rows.len());
    let mut hashes: Vec<[u8; 32]> = Vec::new();
    for chunk in &chunks {
        hashes.push(chunk.hash.0);
        hashes.push(blake3::hash(&chunk.data).into());
    }
    hashes.extend(manifest.groups.iter().flat_map(|g| &g.partitions).map(|p| p.digest.0));
    hashes.extend(manifest.chunks.iter().map(|entry| entry.stored_digest.0));
    hashes.extend(rows.iter().map(|(_, value)| <[u8; 32]>::from(blake3::hash(value))));
    let open = Stage::new();
    hashes.push(open.import(&sample).root.0);
    let texts = [manifest.address.into_bytes(), b"site/key-0".to_vec()];
    let rows = rows.into_iter().flat_map(|(key, value)| [key[2..].to_vec(), hex(&key), value]);
    let plain = Needles::new(rows.chain(texts));
    let known =
        Needles::new(hashes.iter().flat_map(|hash| [hash.to_vec(), hash[4..].to_vec(), hex(hash)]));
    // Of an open repository its objects say both. Its rows are compressed.
    let opened = |bytes: &[u8]| zstd::decode_all(bytes).unwrap_or_default();
    let objects = open.objects();
    for needles in [&plain, &known] {
        let seen = objects
            .values()
            .any(|bytes| needles.found(bytes).is_some() || needles.found(&opened(bytes)).is_some());
        assert!(seen, "what is looked for is there to be found");
    }
    let sealed = Stage::sealed();
    sealed.import(&sample);
    let second = Sample { seed: 2, ..self::sample(2, 2) };
    sealed.import(&second);
    for (name, bytes) in sealed.objects() {
        for needles in [&plain, &known] {
            assert_eq!(needles.found(name.as_bytes()), None, "in the name {name}");
            assert_eq!(needles.found(&bytes), None, "in {name}");
        }
    }
    // No name says which content is there: those of the two repositories have none in common.
    let own = |stage: &Stage| -> Vec<String> {
        let names = stage.objects().into_keys();
        names.filter(|name| name.contains("/g/") || name.contains("/i/")).collect()
    };
    assert!(own(&sealed).iter().all(|name| !own(&open).contains(name)));
}

#[test]
fn without_the_key_a_repository_is_listed_and_nothing_else() {
    let stage = Stage::sealed();
    let (first, second) = (sample(1, 1), sample(2, 2));
    stage.import(&first);
    stage.import(&second);
    let seen = stage.seen();
    assert!(seen.is_sealed() && seen.is_closed());
    for (folder, entry) in seen.listed().unwrap() {
        let cover = seen.cover(folder, &entry).unwrap();
        let snapshot = stage.repository.kept(folder, &entry).unwrap().snapshot;
        assert_eq!(cover.nodes, NODES.map(NodeId));
        assert_eq!((cover.snapshot, cover.written), (snapshot.snapshot, snapshot.written));
        let e = seen.kept(folder, &entry).unwrap_err();
        assert!(e.kind == Kind::Denied && e.message.contains("its key is not here"), "{e}");
    }
    let told = status(&seen).unwrap();
    assert_eq!((told.histories[0].snapshots, told.closed, told.unnamed), (2, true, 0), "{told:?}");
    let before = stage.objects();
    let e = import(&seen, &stage.tars(&sample(3, 3))).unwrap_err();
    assert_eq!(e.kind, Kind::Denied);
    assert_eq!(stage.objects(), before, "nothing was stored");
}

#[test]
fn what_is_not_sealed_is_not_believed_in_a_sealed_repository() {
    let (stage, open) = (Stage::sealed(), Stage::new());
    let first = sample(1, 1);
    stage.import(&first);
    open.import(&first);
    let kept = open.repository.find(first.snapshot).unwrap();
    let (folder, entry) = stage.repository.find_entry(first.snapshot).unwrap();
    let name = folder.object(&entry.object);
    let of = |text: &[u8]| Entry { digest: Digest(blake3::hash(text).into()), ..entry.clone() };
    let plain = Snapshot { repository: stage.repository.id, ..kept.snapshot };
    let sealed = fs::read(stage.root().join(&name)).unwrap();
    let text = plain.encode().unwrap();
    fs::write(stage.root().join(&name), &text).unwrap();
    for repository in [stage.open().unwrap(), stage.seen()] {
        let e = repository.cover(folder, &of(&text)).unwrap_err();
        assert!(e.kind == Kind::Corrupt && e.message.contains(&name), "{e}");
    }
    // A cover that was changed, with its digest put right.
    let text = String::from_utf8(sealed).unwrap();
    let (body, _) = text.split_once("  \"digest\"").unwrap();
    let body = body.replace("\"rows\": ", "\"rows\": 1");
    let digest = blake3::hash(body.as_bytes());
    let changed = format!("{body}  \"digest\": \"{digest}\"\n}}\n");
    fs::write(stage.root().join(&name), &changed).unwrap();
    stage.seen().cover(folder, &of(changed.as_bytes())).unwrap();
    let e = stage.open().unwrap().cover(folder, &of(changed.as_bytes())).unwrap_err();
    assert!(e.kind == Kind::Corrupt && e.message.contains("its seal is broken"), "{e}");
}

#[test]
fn a_place_gets_one_key_and_leaves_no_slots_of_others() {
    let stage = Stage::sealed();
    let bert = Identity::draw().recipient();
    let other = Sealed { key: Secret::draw().unwrap(), recipients: vec![bert] };
    let place = stage.root().display().to_string();
    let before = stage.objects();
    let e = Repository::init_sealed(&place, &other).map(|r| r.id).unwrap_err();
    assert!(e.message.contains("is a repository already"), "{e}");
    assert_eq!(stage.objects(), before);
}

/// Formats that were written once are read for good.
#[test]
fn the_sealed_formats_are_those_of_the_golden_files() {
    let golden = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/repository");
        fs::read(folder.join(name)).unwrap()
    };
    let (key, snapshot) = (Secret::of([7; 32]), Snapshot::parse(&golden("snapshot.json")).unwrap());
    let scheme = Scheme::of(&key, snapshot.repository);
    let vault = scheme.vault(&key, snapshot.repository).unwrap();
    let sealed = Cover::seal(&snapshot, &vault).unwrap();
    super::golden("snapshot-sealed.json", &String::from_utf8(sealed.clone()).unwrap());
    assert_eq!(Cover::parse(&sealed).unwrap().open(&vault), Ok(snapshot.clone()));
    let id = snapshot.repository;
    let scheme = serde_json::to_string(&scheme).unwrap();
    let root = format!(
        "{{\"format\":3,\"product\":\"0.1.0\",\"repository\":\"{id}\",\"seal\":{scheme}}}\n"
    );
    super::golden("root-sealed.json", &root);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(ROOT), golden("root-sealed.json")).unwrap();
    let file = dir.path().join("key.hex");
    fs::write(&file, key.reveal()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let store = Arc::new(Directory::new(dir.path()));
    assert_eq!(Repository::on(store, &Access::from(KeySource::file(file))).unwrap().id, id);
}
