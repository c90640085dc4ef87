//! What makes a place a repository: `devicedb.json`, which is made once and says its format, its id
//! and how it is sealed, if it is.
//!
//! Format 2 is a repository that is not sealed, and format 3 one that is. In a sealed one nothing
//! that is not sealed is believed. Format 1 kept no catalogues, and is refused.

use std::{path::Path, sync::Arc, thread, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    cover::Cover,
    index::{Index, Located, Place},
    key,
    manifest::Snapshot,
    objects::{self, Objects},
    signature::{PublicKey, SigningKey},
    store::{Directory, Made, Object, Store, found},
    trust::{Access, Guard},
    vault::{OVERHEAD, Scheme, Secret, Vault},
};
use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::{ClusterId, Lineage},
        limits,
    },
    part::{chunk::Digest, seal::Recipient},
};

/// A repository that is there.
#[derive(Clone)]
pub struct Repository {
    pub store: Arc<dyn Store>,
    pub id: Uuid,
    seal: Seal,
    pub(super) guard: Guard,
}

/// What is between a repository and whoever looks at it.
#[derive(Clone)]
enum Seal {
    Nothing,
    Opened(Arc<Vault>),
    /// Its key is not here: only covers can be read.
    Closed,
}

/// How a repository that is made is sealed.
pub struct Sealed {
    pub key: Secret,
    /// Who get slots.
    pub recipients: Vec<Recipient>,
}

/// The folder of one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Folder {
    pub cluster: ClusterId,
    pub lineage: Lineage,
}

/// A snapshot that a repository has.
#[derive(Clone, Debug)]
pub struct Kept {
    pub folder: Folder,
    /// Its object in the folder.
    pub object: String,
    pub snapshot: Snapshot,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    format: u32,
    product: String,
    repository: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    seal: Option<Scheme>,
}

/// All that can be relied on of a newer one.
#[derive(Deserialize)]
struct AnyRoot {
    format: u32,
}

pub const ROOT: &str = "devicedb.json";
const PLAIN: u32 = 2;
const SEALED: u32 = 3;
/// Names on which `init` has writers race, and how many of them.
const RACES: usize = 8;
const RACERS: u8 = 8;

impl Folder {
    pub fn name(&self) -> String {
        format!("{}/{}", self.cluster, self.lineage)
    }

    pub fn parse(name: &str) -> Option<Folder> {
        let (cluster, lineage) = name.split_once('/')?;
        let cluster = ClusterId(cluster.parse().ok()?);
        let folder = Folder { cluster, lineage: lineage.parse().ok()? };
        (folder.name() == name).then_some(folder)
    }

    /// The folder of an object, and the object's name in it.
    pub fn split(name: &str) -> Option<(Folder, &str)> {
        let (end, _) = name.match_indices('/').nth(1)?;
        let (folder, object) = name.split_at_checked(end)?;
        Some((Folder::parse(folder)?, object.strip_prefix('/')?))
    }

    /// Names in catalogues and indexes are relative to the folder.
    pub fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.name())
    }
}

impl Repository {
    /// Makes a repository of a place that is empty: a directory that may also not be there, or an
    /// object store below a prefix.
    pub fn init(place: &str) -> Result<Repository> {
        Repository::init_on(store_at(place, limits::OBJECT_PATIENCE_COMMAND)?, None)
    }

    /// The same, sealed.
    pub fn init_sealed(place: &str, sealed: &Sealed) -> Result<Repository> {
        Repository::init_on(store_at(place, limits::OBJECT_PATIENCE_COMMAND)?, Some(sealed))
    }

    fn init_on(store: Arc<dyn Store>, sealed: Option<&Sealed>) -> Result<Repository> {
        let place = store.place();
        if let Some(text) = found(store.read(ROOT, limits::REPOSITORY_ROOT_BYTES_MAX))? {
            let id = Root::parse(&text, &place)?.repository;
            return Err(Error::conflict(format!("{place} is a repository already, {id}")));
        }
        if let Some(Object { name, .. }) = store.any()? {
            return Err(Error::conflict(format!(
                "{place} is not empty, it holds {name:?}: name a place that is, or that is not \
                 there",
            )));
        }
        one_makes_a_name(&*store)?;
        let id = Random::from_entropy().uuid();
        let scheme = sealed.map(|sealed| Scheme::of(&sealed.key, id));
        let seal = match (&scheme, sealed) {
            (Some(scheme), Some(sealed)) => {
                add_slots(&*store, sealed)?;
                scheme.vault(&sealed.key, id).map_or(Seal::Closed, |v| Seal::Opened(Arc::new(v)))
            }
            _ => Seal::Nothing,
        };
        let root = Root {
            format: if scheme.is_some() { SEALED } else { PLAIN },
            product: env!("CARGO_PKG_VERSION").into(),
            repository: id,
            seal: scheme,
        };
        let mut text = serde_json::to_vec(&root).expect("texts and numbers are JSON");
        text.push(b'\n');
        match store.create(ROOT, text.into())? {
            Made::Now => Ok(Repository { store, id, seal, guard: Guard::default() }),
            Made::Before => {
                let recipients = sealed.map_or(&[][..], |sealed| &sealed.recipients);
                recipients.iter().try_for_each(|own| store.delete(&key::slot(own)))?;
                Err(Error::conflict(format!("somebody else has just made {place} one")))
            }
        }
    }

    /// One in a directory that is not sealed.
    pub fn open(path: &Path) -> Result<Repository> {
        Repository::on(Arc::new(Directory::new(path)), &Access::none())
    }

    /// One whose root was read before.
    #[cfg(test)]
    pub fn unsealed(store: Arc<dyn Store>, id: Uuid) -> Repository {
        Repository { store, id, seal: Seal::Nothing, guard: Guard::default() }
    }

    /// The repository at a place, for somebody who waits for so long where a store fails.
    pub fn at(place: &str, patience: Duration, access: &Access) -> Result<Repository> {
        Repository::on(store_at(place, patience)?, access)
    }

    /// `Denied` if it is sealed, and the key is not its own; or if keys are pinned, and the owner
    /// of none has signed that this is the repository.
    pub fn on(store: Arc<dyn Store>, access: &Access) -> Result<Repository> {
        let (root, text) = Root::read(&*store)?;
        let id = root.repository;
        // First: whoever asks for the key below already takes it for the repository that is meant.
        let guard = Guard::of(&*store, id, &text, &access.trust)?;
        let seal = match root.seal {
            Some(scheme) => Seal::Opened(Arc::new(access.key.vault(&*store, &scheme, id)?)),
            None => {
                access.key.is_not_needed(&store.place())?;
                Seal::Nothing
            }
        };
        Ok(Repository { store, id, seal, guard })
    }

    /// The same for somebody who may do without the key: what everybody sees is enough then.
    pub fn seen(place: &str, patience: Duration, access: &Access) -> Result<Repository> {
        let store = store_at(place, patience)?;
        if access.key.is_named() {
            return Repository::on(store, access);
        }
        let (root, text) = Root::read(&*store)?;
        let guard = Guard::of(&*store, root.repository, &text, &access.trust)?;
        let seal = root.seal.map_or(Seal::Nothing, |_| Seal::Closed);
        Ok(Repository { store, id: root.repository, seal, guard })
    }

    /// The same for whoever signs it, and the bytes that say what it is.
    pub(super) fn to_sign(store: Arc<dyn Store>, access: &Access) -> Result<(Repository, Vec<u8>)> {
        let (root, text) = Root::read(&*store)?;
        let id = root.repository;
        let guard = Guard::adopting(&*store, id, &text, &access.trust)?;
        let seal = match (root.seal, access.key.is_named()) {
            // A key that is named has to be its own.
            (Some(scheme), true) => Seal::Opened(Arc::new(access.key.vault(&*store, &scheme, id)?)),
            (Some(_), false) => Seal::Closed,
            (None, _) => {
                access.key.is_not_needed(&store.place())?;
                Seal::Nothing
            }
        };
        Ok((Repository { store, id, seal, guard }, text))
    }

    /// Who has signed that it is this repository: those that are trusted, or without any all who
    /// say so.
    pub fn signers(&self) -> &[PublicKey] {
        self.guard.vouched()
    }

    /// With what is signed whatever is added, if anything is. `Denied` where it is signed, and no
    /// key is named.
    pub fn signing_key(&self) -> Result<Option<&SigningKey>> {
        self.guard.signer(&self.store.place())
    }

    /// Refuses whoever may not add to it, before anything is sent.
    pub fn is_open_to_additions(&self) -> Result<()> {
        self.signing_key().map(drop)
    }

    pub fn is_sealed(&self) -> bool {
        !matches!(self.seal, Seal::Nothing)
    }

    /// Whether its key is not here.
    pub fn is_closed(&self) -> bool {
        matches!(self.seal, Seal::Closed)
    }

    /// What opens it; nothing where it is not sealed.
    pub fn vault(&self) -> Result<Option<&Vault>> {
        match &self.seal {
            Seal::Nothing => Ok(None),
            Seal::Opened(vault) => Ok(Some(vault)),
            Seal::Closed => Err(Error::denied(format!(
                "{} is sealed, and its key is not here",
                self.store.place()
            ))),
        }
    }

    /// By how much a frame is longer where it is stored.
    pub fn overhead(&self) -> u64 {
        if self.is_sealed() { OVERHEAD } else { 0 }
    }

    /// What content is called where everybody sees it.
    pub fn veiled(&self, content: Digest) -> Result<Digest> {
        Ok(self.vault()?.map_or(content, |vault| vault.veiled(&content)))
    }

    /// A snapshot's object.
    pub fn encoded(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        self.vault()?.map_or_else(|| snapshot.encode(), |vault| Cover::seal(snapshot, vault))
    }

    /// The index of a group.
    pub fn index(&self, folder: Folder, place: &Place) -> Result<Index> {
        let name = folder.object(&place.object);
        if place.bytes > limits::REPOSITORY_INDEX_BYTES_MAX as u64 {
            return Err(Error::corrupt(format!("{name}: an index of {} bytes", place.bytes)));
        }
        let frame = self.store.read_range(&name, place.offset, place.bytes);
        let missing = |e: Error| e.at("an index of the snapshot");
        let frame = frame.map_err(missing)?;
        let opened = match self.vault()? {
            None => Ok(frame),
            Some(vault) => vault.open_index(&place.digest, &frame),
        };
        let index = opened.and_then(|frame| Index::decode(&frame, place));
        index.map_err(|e| e.at(format_args!("{name} at byte {}", place.offset)))
    }

    /// A chunk's frame, as it was before it was stored.
    pub fn chunk(&self, folder: Folder, index: &Index, chunk: &Located) -> Result<Vec<u8>> {
        let name = folder.object(&index.segments[chunk.segment].name);
        let bytes = chunk.stored_bytes + self.overhead();
        let read = self.store.read_range(&name, chunk.offset, bytes)?;
        let opened = match self.vault()? {
            None => Ok(read),
            Some(vault) => vault.open_chunk(chunk.hash, &read),
        };
        let checked = opened.and_then(|frame| chunk.entry().check_stored(&frame).map(|()| frame));
        checked.map_err(|e| e.at(format_args!("{name} at byte {}", chunk.offset)))
    }
}

impl Root {
    /// And its bytes.
    fn read(store: &dyn Store) -> Result<(Root, Vec<u8>)> {
        let text = found(store.read(ROOT, limits::REPOSITORY_ROOT_BYTES_MAX))?;
        let text = text.ok_or_else(|| {
            Error::not_found(format!(
                "{} is no repository, since it has no {ROOT}: ddbctl repository init makes one",
                store.place()
            ))
        })?;
        Ok((Root::parse(&text, &store.place())?, text))
    }

    fn parse(text: &[u8], place: &str) -> Result<Root> {
        let no = |e: &dyn std::fmt::Display| {
            Error::corrupt(format!("{place}: {ROOT} is not what this program writes: {e}"))
        };
        let garbled = |e: serde_json::Error| no(&e).with_source(e);
        let AnyRoot { format } = serde_json::from_slice(text).map_err(garbled)?;
        if format > SEALED {
            return Err(Error::conflict(format!(
                "{place} was made by a newer version: format {format}, this program reads up to \
                 {SEALED}; use a newer program"
            )));
        }
        let root: Root = serde_json::from_slice(text).map_err(garbled)?;
        if root.format < PLAIN {
            return Err(Error::conflict(format!(
                "{place} was made by an early version, format {format}, which kept no catalogue of \
                 its snapshots: export their parts with that version, and import them into a new \
                 one"
            )));
        }
        if root.format != if root.seal.is_some() { SEALED } else { PLAIN } {
            return Err(no(&"its format and its seal do not fit"));
        }
        Ok(root)
    }
}

/// Slots come before the root: a repository whose key nobody has is never made.
fn add_slots(store: &dyn Store, sealed: &Sealed) -> Result<()> {
    let mut made: Vec<&Recipient> = Vec::new();
    for recipient in &sealed.recipients {
        if key::add_slot(store, &sealed.key, recipient)? == Made::Before {
            made.iter().try_for_each(|own| store.delete(&key::slot(own)))?;
            return Err(Error::conflict(format!(
                "somebody else is just making a repository of {}",
                store.place()
            )));
        }
        made.push(recipient);
    }
    Ok(())
}

/// A directory, or an object store where the place has the scheme of one.
pub fn store_at(place: &str, patience: Duration) -> Result<Arc<dyn Store>> {
    match objects::scheme(place) {
        Some(_) => Ok(Arc::new(Objects::open(place, patience)?)),
        None => Ok(Arc::new(Directory::new(place.strip_prefix("file://").unwrap_or(place)))),
    }
}

/// Refuses a place that can never be one, and asks nobody.
pub fn check_place(place: &str) -> Result<()> {
    store_at(place, limits::OBJECT_PATIENCE_COMMAND).map(drop)
}

/// Has writers race for names. A store that lets two of them win would mix two snapshots.
fn one_makes_a_name(store: &dyn Store) -> Result<()> {
    let nonce = Random::from_entropy().uuid();
    for race in 0..RACES {
        let name = format!("probe/{nonce}-{race}");
        let made: Vec<Result<Made>> = thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let name = &name;
                    scope.spawn(move || store.create(name, vec![racer; 64].into()))
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("it does not panic")).collect()
        });
        let made = made.into_iter().collect::<Result<Vec<Made>>>();
        let held = store.read(&name, 64);
        store.delete(&name)?;
        let made = made?;
        let winners = made.iter().filter(|made| **made == Made::Now).count();
        let winner = made.iter().position(|made| *made == Made::Now);
        if winners != 1 || winner.is_none_or(|winner| held != Ok(vec![winner as u8; 64])) {
            return Err(Error::conflict(format!(
                "{} lets {winners} of {RACERS} writers make the same name, where one must: two \
                 backups could mix there; use another place",
                store.place()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
    };

    use bytes::Bytes;

    use super::*;
    use crate::base::error::Kind;

    #[test]
    fn a_repository_is_made_once_in_a_place_that_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backups");
        let no = Repository::open(&path).map(|r| r.id).unwrap_err();
        assert!(no.kind == Kind::NotFound && no.message.contains("ddbctl repository init"), "{no}");
        let made = Repository::init(path.to_str().unwrap()).unwrap();
        assert_eq!(Repository::open(&path).unwrap().id, made.id);
        let again = Repository::init(path.to_str().unwrap()).map(|r| r.id).unwrap_err();
        assert!(again.message.contains("is a repository already"), "{again}");
        assert_eq!(made.store.list("").unwrap().len(), 1, "nothing of the probe stays");
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("letter.txt"), "x").unwrap();
        let full = Repository::init(other.to_str().unwrap()).map(|r| r.id).unwrap_err();
        assert!(full.message.contains("letter.txt"), "{full}");
    }

    #[test]
    fn what_is_newer_or_garbled_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for (text, says) in [
            ("{\"format\":4,\"new\":1}", "made by a newer version: format 4"),
            ("{\"format\":1}", "is not what this program writes"),
            (
                "{\"format\":1,\"product\":\"0.1.0\",\
                 \"repository\":\"00000000-0000-0000-0000-000000000001\"}",
                "made by an early version",
            ),
            ("hello", "is not what this program writes"),
        ] {
            fs::write(dir.path().join(ROOT), text).unwrap();
            let e = Repository::open(dir.path()).map(|r| r.id).unwrap_err();
            assert!(e.message.contains(says), "{e}");
        }
    }

    /// Says yes to two.
    struct Liar(Directory, AtomicBool);

    impl Store for Liar {
        fn place(&self) -> String {
            self.0.place()
        }
        fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
            let made = self.0.create(name, bytes)?;
            let lies = made == Made::Before && self.1.swap(false, Ordering::SeqCst);
            Ok(if lies { Made::Now } else { made })
        }
        fn bytes(&self, name: &str) -> Result<u64> {
            self.0.bytes(name)
        }
        fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
            self.0.read(name, bytes_max)
        }
        fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
            self.0.read_range(name, offset, bytes)
        }
        fn list(&self, below: &str) -> Result<Vec<Object>> {
            self.0.list(below)
        }
        fn delete(&self, name: &str) -> Result<()> {
            self.0.delete(name)
        }
    }

    #[test]
    fn a_store_that_lets_two_win_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let honest = Directory::new(dir.path());
        one_makes_a_name(&honest).unwrap();
        let e = one_makes_a_name(&Liar(honest, AtomicBool::new(true))).unwrap_err();
        assert!(e.message.contains("lets 2 of 8 writers make the same name"), "{e}");
    }
}
