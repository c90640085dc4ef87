//! The catalogue of a history: which snapshots it has, which numbers it never takes again, and what
//! of it is being deleted.
//!
//! Catalogues are numbered, and each says all of it. Number `n` is made of number `n - 1`, whose
//! digest it names, and create-if-absent makes it: of all who would change catalogue `n - 1`, one
//! does, and the others look again. So there is one order of everything that ever happened to a
//! history, without a lock, a lease or a clock. A request that a network has held back for hours
//! comes to a name that is taken.
//!
//! What follows from that order, and is relied upon everywhere else:
//!
//! - A snapshot is there from the catalogue on that lists it, and until the one that does not.
//!   Objects that no catalogue has ever listed are nobody's.
//! - It is listed only while the snapshot it leans on is: what the two share is still there.
//! - An object is dropped only when the snapshot that it was stored for is listed or void, and no
//!   listed one refers to it. Nothing is stored for a void number, so a dropped name never comes
//!   back, however late somebody deletes it.
//!
//! The newest catalogue is the one that counts. Whoever lists names may be told of older ones, and
//! looks whether there is a next. Old ones are deleted behind the newest `CATALOGUES_KEPT`.
//!
//! A catalogue that cannot be read takes no snapshot with it: the one before is read, and with it
//! every snapshot that stands there and is not void. The next change makes this a catalogue again.
//! What the damaged one alone had dropped comes back then, as far as it is whole. A hold stands
//! nowhere but in catalogues, so whoever makes one sees to it that two of them say it
//! (`amend_twice`) before it counts as made: no damage to one object ends it.
//!
//! Of a signed repository every catalogue is signed (`trust`), in a format of its own. Whoever
//! believes what is signed alone goes back to none that is older unless he wants to, and takes in
//! nothing that no signed one lists.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    cover::Cover,
    entry::Entry,
    index::is_name,
    manifest::{Snapshot, laid_out, lineage_text, of_format, taken_apart},
    root::{Folder, Kept, Repository},
    signature::{self, PublicKey, Signature, SigningKey},
    store::{Made, found},
    trust::{Mark, unsigned},
};
use crate::{
    base::{
        clock::Clock,
        error::{Error, Kind, Result},
        ids::{ClusterId, Lineage, SnapshotId, SnapshotSeq},
        limits,
    },
    part::{
        chunk::Digest,
        manifest::{WRITTEN_MS_MAX, rfc3339},
    },
};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// First, so that a program can tell what it cannot read before it reads it.
    pub format: u32,
    /// The version of the program that made it.
    pub product: String,
    pub repository: Uuid,
    pub cluster: ClusterId,
    #[serde(with = "lineage_text")]
    pub lineage: Lineage,
    pub number: u64,
    /// The digest of the catalogue before, all its bytes; the first has none.
    pub before: Option<Digest>,
    /// By the clock of who made it, for people.
    pub written: String,
    pub written_ms: u64,
    /// By number.
    pub snapshots: Vec<Entry>,
    /// Numbers that are never listed again: first and last of each run, ascending.
    pub void: Vec<(SnapshotSeq, SnapshotSeq)>,
    /// What is being deleted.
    pub dropped: Vec<Dropped>,
    /// Who has taken the history over, if somebody has. Nothing is listed any more then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// Who has signed it, if somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<PublicKey>,
    /// Of the text without this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// In no text: what had to be made up for.
    #[serde(skip)]
    pub found: Found,
}

/// Where newer catalogues cannot be read: these, and what was found in their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that cannot be read, and why.
    pub damaged: Vec<String>,
    /// Snapshots that no catalogue lists that can be read. Their objects stand in the folder.
    pub snapshots: BTreeSet<SnapshotSeq>,
}

/// Who has taken a history over (`adopt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopted {
    pub cluster: ClusterId,
    #[serde(with = "lineage_text")]
    pub lineage: Lineage,
    /// By the clock of who said so, for people.
    pub at_ms: u64,
}

/// Objects that nothing refers to any more, and when they may be deleted. Until then whoever began
/// to read them can go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    pub not_before_ms: u64,
    pub objects: Vec<String>,
}

/// A history's catalogue as it stands, and what the next one has to name.
#[derive(Clone, Debug)]
pub struct Standing {
    pub folder: Folder,
    /// With number 0 where there is none yet.
    pub catalogue: Catalogue,
    /// Of the object with its number.
    digest: Option<Digest>,
    /// Newer catalogues that cannot be read, and why.
    pub damaged: Vec<String>,
}

/// What a change comes to.
pub enum Step<T> {
    /// Nothing has to be changed.
    Is(T),
    /// This becomes the next catalogue.
    Becomes(T),
}

/// Nobody has signed it.
const FORMAT: u32 = 1;
const SIGNED: u32 = 2;
/// The same of a history that was adopted: what does not know of that must not add to it.
const ADOPTED: u32 = 3;
const ADOPTED_SIGNED: u32 = 4;
/// Where all catalogues lie, of all histories: one listing of a few names shows them.
pub const FOLDER: &str = "k";

impl Adopted {
    pub fn by(&self) -> Folder {
        Folder { cluster: self.cluster, lineage: self.lineage }
    }

    /// What whoever would still store something there is told.
    pub fn refusal(&self, of: Folder) -> Error {
        Error::conflict(format!(
            "cluster {}, lineage {}, was adopted by cluster {}, lineage {}, at {}: nothing is \
             stored for it any more. If it shall go on beside that one, give it another repository",
            of.cluster,
            of.lineage,
            self.cluster,
            self.lineage,
            rfc3339(self.at_ms)
        ))
    }
}

impl Catalogue {
    fn empty(repository: &Repository, folder: Folder) -> Catalogue {
        Catalogue {
            format: FORMAT,
            product: env!("CARGO_PKG_VERSION").into(),
            repository: repository.id,
            cluster: folder.cluster,
            lineage: folder.lineage,
            number: 0,
            before: None,
            written: rfc3339(0),
            written_ms: 0,
            snapshots: Vec::new(),
            void: Vec::new(),
            dropped: Vec::new(),
            found: Found::default(),
            adopted: None,
            signer: None,
            signature: None,
        }
    }

    /// As it says who has adopted the history and who signs.
    fn format_of(&self, signed: bool) -> u32 {
        match (self.adopted.is_some(), signed) {
            (false, false) => FORMAT,
            (false, true) => SIGNED,
            (true, false) => ADOPTED,
            (true, true) => ADOPTED_SIGNED,
        }
    }

    /// The same, signed.
    pub fn signed(self, key: &SigningKey) -> Catalogue {
        let signer = Some(key.public());
        let format = self.format_of(true);
        let mut signed = Catalogue { format, signer, signature: None, ..self };
        signed.signature = Some(key.sign(signature::Kind::Catalogue, &laid_out(&signed)));
        signed
    }

    /// Whether whoever it names has signed this text, and none of another one.
    fn is_as_signed(&self) -> bool {
        let fits = self.format == self.format_of(self.signer.is_some());
        let (signer, signature) = match (self.signer, self.signature) {
            (None, None) => return fits,
            (Some(signer), Some(signature)) if fits => (signer, signature),
            _ => return false,
        };
        let bare = Catalogue { signature: None, ..self.clone() };
        signer.has_signed(signature::Kind::Catalogue, &laid_out(&bare), &signature)
    }

    pub fn entry(&self, seq: SnapshotSeq) -> Option<&Entry> {
        self.snapshots
            .binary_search_by_key(&seq, |entry| entry.seq)
            .ok()
            .map(|at| self.snapshots.get(at).expect("it was just found"))
    }

    pub fn is_void(&self, seq: SnapshotSeq) -> bool {
        self.void.iter().any(|(first, last)| (*first..=*last).contains(&seq))
    }

    /// Whether something is said of the object of a snapshot: it is listed, or goes, or another
    /// was faster.
    pub fn knows(&self, object: &str) -> bool {
        let number = number_of(object);
        number.is_some_and(|seq| self.is_void(seq) || self.entry(seq).is_some())
    }

    /// Lists a snapshot that is not listed.
    pub fn list(&mut self, entry: Entry) {
        let at = self.snapshots.partition_point(|other| other.seq < entry.seq);
        self.snapshots.insert(at, entry);
    }

    /// Takes numbers out for good.
    pub fn make_void(&mut self, numbers: &BTreeSet<SnapshotSeq>) {
        self.snapshots.retain(|entry| !numbers.contains(&entry.seq));
        let runs = numbers.iter().map(|seq| (*seq, *seq)).chain(self.void.iter().copied());
        let mut runs: Vec<_> = runs.collect();
        runs.sort_unstable();
        self.void = Vec::new();
        for (first, last) in runs {
            match self.void.last_mut() {
                Some((_, end)) if first.0 <= end.0.saturating_add(1) => *end = last.max(*end),
                _ => self.void.push((first, last)),
            }
        }
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check()?;
        let text = laid_out(self);
        if text.len() as u64 > limits::CATALOGUE_BYTES_MAX {
            return Err(Error::exhausted(format!(
                "the catalogue of {} snapshots would have {} bytes, and {} is the most: drop some \
                 (ddbctl repository collect --keep)",
                self.snapshots.len(),
                text.len(),
                limits::CATALOGUE_BYTES_MAX
            )));
        }
        Ok(text)
    }

    /// `Conflict` if a newer version made it, `Corrupt` if it is not what was made.
    pub fn parse(text: &[u8]) -> Result<Catalogue> {
        let whole = taken_apart(text)?;
        let catalogue: Catalogue = of_format(&whole, "made this catalogue", ADOPTED_SIGNED)?;
        catalogue.check()?;
        // One catalogue has one text.
        if laid_out(&catalogue) != text {
            return Err(Error::corrupt("it is not laid out as this program writes it"));
        }
        Ok(catalogue)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::corrupt(what));
        if self.format == 0 || self.number == 0 || self.before.is_some() == (self.number == 1) {
            return wrong(
                "no format and no catalogue has number 0, and all but the first name one",
            );
        }
        let times = self.snapshots.iter().flat_map(|entry| [entry.written_ms, entry.listed_ms]);
        if self.written_ms > WRITTEN_MS_MAX
            || self.adopted.is_some_and(|adopted| adopted.at_ms > WRITTEN_MS_MAX)
            || self.written != rfc3339(self.written_ms)
            || times.max().is_some_and(|latest| latest > WRITTEN_MS_MAX)
        {
            return wrong("written and written_ms are two instants, or lie behind the year 9999");
        }
        if !self.snapshots.is_sorted_by(|a, b| a.seq < b.seq)
            || self.snapshots.iter().any(|entry| self.is_void(entry.seq) || entry.seq.0 == 0)
        {
            return wrong("its snapshots are not sorted, or one of them is void");
        }
        let dropped = self.dropped.iter().flat_map(|dropped| &dropped.objects);
        let objects = self.snapshots.iter().map(|entry| &entry.object).chain(dropped);
        if objects.clone().any(|object| !is_name(object)) {
            return wrong("the name of an object is none");
        }
        let apart = |a: &(SnapshotSeq, SnapshotSeq), b: &(SnapshotSeq, SnapshotSeq)| {
            a.1.0.checked_add(1).is_some_and(|next| next < b.0.0)
        };
        if self.void.iter().any(|(first, last)| first > last) || !self.void.is_sorted_by(apart) {
            return wrong("its void numbers are not runs that lie apart");
        }
        if !self.is_as_signed() {
            return wrong("its signature is not that of what it says");
        }
        Ok(())
    }
}

/// Where a catalogue lies.
pub fn name(folder: Folder, number: u64) -> String {
    format!("{FOLDER}/{}/{number:016x}", folder.name())
}

/// Of the name of a catalogue, and its number.
fn of(name: &str) -> Option<(Folder, u64)> {
    let rest = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    let (path, number) = rest.rsplit_once('/')?;
    let (folder, number) = (Folder::parse(path)?, u64::from_str_radix(number, 16).ok()?);
    (self::name(folder, number) == name).then_some((folder, number))
}

/// The number of the snapshot that an object in a folder was stored for.
pub fn number_of(object: &str) -> Option<SnapshotSeq> {
    let (kind, rest) = object.split_once('/')?;
    let (number, _) = rest.split_once('-')?;
    let number = u64::from_str_radix(number, 16).ok()?;
    ["s", "i", "g"].contains(&kind).then_some(SnapshotSeq(number))
}

impl Repository {
    /// The numbers of the catalogues of every history that has any.
    pub fn catalogues(&self) -> Result<BTreeMap<Folder, BTreeSet<u64>>> {
        let mut all: BTreeMap<Folder, BTreeSet<u64>> = BTreeMap::new();
        for object in self.store.list(FOLDER)? {
            if let Some((folder, number)) = of(&object.name) {
                all.entry(folder).or_default().insert(number);
            }
        }
        Ok(all)
    }

    /// A catalogue by its number, and the digest of its bytes; nothing where there is none.
    pub fn catalogue(&self, folder: Folder, number: u64) -> Result<Option<(Catalogue, Digest)>> {
        let name = name(folder, number);
        let Some(text) = found(self.store.read(&name, limits::CATALOGUE_BYTES_MAX))? else {
            return Ok(None);
        };
        let catalogue = Catalogue::parse(&text).map_err(|e| e.at(&name))?;
        let Catalogue { cluster, lineage, repository, .. } = catalogue;
        let belongs = (cluster, lineage, repository, catalogue.number);
        if belongs != (folder.cluster, folder.lineage, self.id, number) {
            return Err(Error::corrupt(format!(
                "{name}: it says of itself that it is catalogue {} of cluster {cluster} in lineage \
                 {lineage} in repository {repository}",
                catalogue.number
            )));
        }
        Ok(Some((catalogue, Digest(blake3::hash(&text).into()))))
    }

    /// Every history's catalogue as it stands.
    pub fn standings(&self) -> Result<Vec<Standing>> {
        let mut all = self.catalogues()?;
        // One that is gone altogether is missed, where somebody says that it was there.
        for (cluster, lineage) in self.guard.named_histories() {
            all.entry(Folder { cluster, lineage }).or_default();
        }
        all.into_iter().map(|(folder, numbers)| self.standing_of(folder, numbers)).collect()
    }

    /// A history's catalogue as it stands.
    pub fn standing(&self, folder: Folder) -> Result<Standing> {
        let all = self.store.list(&format!("{FOLDER}/{}", folder.name()))?;
        let numbers = all.iter().filter_map(|object| of(&object.name));
        let numbers = numbers.filter(|(of, _)| *of == folder).map(|(_, number)| number);
        self.standing_of(folder, numbers.collect())
    }

    fn standing_of(&self, folder: Folder, mut numbers: BTreeSet<u64>) -> Result<Standing> {
        let Folder { cluster, lineage } = folder;
        let floor = self.guard.floor(self.id, cluster, lineage);
        // A listing may be older than what is there.
        let mut newest = numbers.last().copied().unwrap_or(0);
        if newest < floor && found(self.store.bytes(&name(folder, floor)))?.is_some() {
            newest = floor;
            numbers.insert(newest);
        }
        while found(self.store.bytes(&name(folder, newest + 1)))?.is_some() {
            newest += 1;
            numbers.insert(newest);
        }
        let mut standing = Standing {
            folder,
            catalogue: Catalogue::empty(self, folder),
            digest: None,
            damaged: Vec::new(),
        };
        for number in numbers.into_iter().rev() {
            let name = name(folder, number);
            match self.catalogue(folder, number) {
                Ok(Some((catalogue, digest))) => {
                    standing.digest.get_or_insert(digest);
                    match self.guard.believes(&name, catalogue.signer) {
                        Ok(()) => {
                            standing.catalogue = catalogue;
                            break;
                        }
                        Err(e) => standing.damaged.push(self.guard.damaged(e)?),
                    }
                }
                Ok(None) => return Err(Error::unavailable(format!("{name} has just gone"))),
                Err(e) if e.kind == Kind::Corrupt => {
                    standing.damaged.push(self.guard.damaged(e)?);
                    if standing.digest.is_none() {
                        let text = self.store.read(&name, limits::CATALOGUE_BYTES_MAX)?;
                        standing.digest = Some(Digest(blake3::hash(&text).into()));
                    }
                }
                Err(e) => return Err(e),
            }
        }
        let believed = Mark { cluster, lineage, number: standing.catalogue.number };
        if !standing.damaged.is_empty() {
            // Whoever believes what is signed alone takes nothing in that no signature covers.
            match self.guard.is_strict() {
                true if believed.number == 0 => {
                    let damaged = standing.damaged.join("; ");
                    return Err(Error::denied(format!("nothing older is left: {damaged}")));
                }
                true => {}
                false => self.list_again(folder, &mut standing)?,
            }
            standing.catalogue.number = newest;
            standing.catalogue.found.damaged.clone_from(&standing.damaged);
        }
        self.guard.reaches(self.id, believed, floor)?;
        Ok(standing)
    }

    /// Takes in what stands in a folder and is not void.
    fn list_again(&self, folder: Folder, standing: &mut Standing) -> Result<()> {
        for object in self.store.list(&format!("{}/s", folder.name()))? {
            let Some(relative) = object.name.strip_prefix(&format!("{}/", folder.name())) else {
                continue;
            };
            let read = self.store.read(&object.name, limits::MANIFEST_BYTES_MAX as u64)?;
            // Without the key, its cover tells enough of a sealed one.
            let parsed = match self.is_closed() {
                true => Cover::parse(&read).map_err(|e| e.at(&object.name)),
                false => self.parse_snapshot(folder, relative, &read).map(|s| Cover::of(&s)),
            };
            let (cover, catalogue) = match parsed {
                Ok(cover) => (cover, &mut standing.catalogue),
                Err(e) => {
                    standing.damaged.push(e.message);
                    continue;
                }
            };
            if catalogue.entry(cover.seq).is_none() && !catalogue.is_void(cover.seq) {
                let digest = Digest(blake3::hash(&read).into());
                catalogue.list(Entry::of(&cover, relative, digest, cover.written_ms));
                catalogue.found.snapshots.insert(cover.seq);
            }
        }
        Ok(())
    }

    /// Changes a history's catalogue. `change` is asked again when somebody else was faster. One
    /// that is damaged is made again, whatever `change` says. It is signed where the repository is.
    pub fn amend<T>(
        &self,
        folder: Folder,
        mut change: impl FnMut(&mut Catalogue) -> Result<Step<T>>,
    ) -> Result<T> {
        let signing = self.signing_key()?;
        for _ in 0..limits::CATALOGUE_TRIES {
            let standing = self.standing(folder)?;
            if let (None, Some(signer)) = (signing, standing.catalogue.signer) {
                return Err(unsigned(&self.store.place(), &[signer]));
            }
            let now_ms = Clock::start().wall_ms().min(WRITTEN_MS_MAX);
            let mut next = Catalogue {
                format: FORMAT,
                product: env!("CARGO_PKG_VERSION").into(),
                number: standing.catalogue.number + 1,
                before: standing.digest,
                written: rfc3339(now_ms),
                written_ms: now_ms,
                signer: None,
                signature: None,
                ..standing.catalogue
            };
            let becomes = match change(&mut next)? {
                Step::Is(is) if standing.damaged.is_empty() => return Ok(is),
                Step::Is(becomes) | Step::Becomes(becomes) => becomes,
            };
            next.format = next.format_of(false);
            let name = name(folder, next.number);
            let next = match signing {
                Some(key) => next.signed(key),
                None => next,
            };
            let made = self.store.create(&name, next.encode()?.into())?;
            // A name that was free again, far behind the newest, is no link of the chain.
            let newest = self.standing(folder)?.catalogue.number;
            if made == Made::Now && newest < next.number + limits::CATALOGUES_KEPT {
                return Ok(becomes);
            }
        }
        Err(Error::unavailable(format!(
            "{} others change the catalogue of {} all the time: try again",
            limits::CATALOGUE_TRIES,
            folder.name()
        )))
    }

    /// The same for what must not be lost with one object: it is over when `says` finds it in the
    /// two newest catalogues.
    pub fn amend_twice<T>(
        &self,
        folder: Folder,
        mut change: impl FnMut(&mut Catalogue) -> Result<Step<T>>,
        says: impl Fn(&Catalogue) -> bool,
    ) -> Result<T> {
        let changed = self.amend(folder, &mut change)?;
        let number = self.standing(folder)?.catalogue.number;
        let before = match self.catalogue(folder, number.saturating_sub(1)) {
            Err(e) if e.kind != Kind::Corrupt => return Err(e),
            before => before.ok().flatten(),
        };
        if before.is_some_and(|(before, _)| says(&before)) {
            return Ok(changed);
        }
        self.amend(folder, |next| {
            Ok(match change(next)? {
                Step::Is(is) | Step::Becomes(is) => Step::Becomes(is),
            })
        })
    }

    /// Every snapshot that is listed, in order of history and number.
    pub fn listed(&self) -> Result<Vec<(Folder, Entry)>> {
        let standings = self.standings()?.into_iter();
        Ok(standings
            .flat_map(|standing| {
                let folder = standing.folder;
                standing.catalogue.snapshots.into_iter().map(move |entry| (folder, entry))
            })
            .collect())
    }

    /// A snapshot that is listed.
    pub fn kept(&self, folder: Folder, entry: &Entry) -> Result<Kept> {
        let name = folder.object(&entry.object);
        let text = self.text(&name, entry)?;
        let snapshot = self.parse_snapshot(folder, &entry.object, &text)?;
        if (snapshot.seq, snapshot.snapshot) != (entry.seq, entry.snapshot) {
            return Err(Error::corrupt(format!(
                "{name}: it says of itself that it is snapshot {}, number {}",
                snapshot.snapshot, snapshot.seq
            )));
        }
        Ok(Kept { folder, object: entry.object.clone(), snapshot })
    }

    /// What everybody sees of it. Where the key is here, it is proved.
    pub fn cover(&self, folder: Folder, entry: &Entry) -> Result<Cover> {
        if !self.is_closed() {
            return Ok(Cover::of(&self.kept(folder, entry)?.snapshot));
        }
        let name = folder.object(&entry.object);
        let cover = Cover::parse(&self.text(&name, entry)?).map_err(|e| e.at(&name))?;
        self.belongs(&cover, folder, &name)?;
        Ok(cover)
    }

    fn text(&self, name: &str, entry: &Entry) -> Result<Vec<u8>> {
        let read = self.store.read(name, limits::MANIFEST_BYTES_MAX as u64);
        let read = read.map_err(|e| match e.kind {
            Kind::NotFound => Error::corrupt(format!("{name} is missing")),
            _ => e,
        })?;
        if Digest(blake3::hash(&read).into()) != entry.digest {
            return Err(Error::corrupt(format!(
                "{name}: its digest is not that in the catalogue: it was changed or cut short \
                 after it was written"
            )));
        }
        Ok(read)
    }

    /// The snapshot of that number, if it is listed.
    pub fn snapshot(&self, folder: Folder, seq: SnapshotSeq) -> Result<Option<Snapshot>> {
        Ok(self.snapshot_at(folder, seq)?.0)
    }

    /// The same, and the newest catalogue.
    pub fn snapshot_at(
        &self,
        folder: Folder,
        seq: SnapshotSeq,
    ) -> Result<(Option<Snapshot>, Mark)> {
        let standing = self.standing(folder)?;
        let entry = standing.catalogue.entry(seq);
        let kept = entry.map(|entry| self.kept(folder, entry)).transpose()?;
        Ok((kept.map(|kept| kept.snapshot), standing.mark()))
    }

    /// A snapshot by its public name.
    pub fn find(&self, id: SnapshotId) -> Result<Kept> {
        let (folder, entry) = self.find_entry(id)?;
        self.kept(folder, &entry)
    }

    pub fn find_entry(&self, id: SnapshotId) -> Result<(Folder, Entry)> {
        let all = self.listed()?.into_iter();
        let mut named = all.filter(|(_, entry)| entry.snapshot == id);
        named.next().ok_or_else(|| {
            let place = self.store.place();
            Error::not_found(format!("the repository {place} has no snapshot {id}"))
        })
    }

    pub(super) fn parse_snapshot(
        &self,
        folder: Folder,
        object: &str,
        text: &[u8],
    ) -> Result<Snapshot> {
        let name = folder.object(object);
        let snapshot = match self.vault()? {
            None => Snapshot::parse(text),
            Some(vault) => Cover::parse(text).and_then(|cover| cover.open(vault)),
        };
        let snapshot = snapshot.map_err(|e| e.at(&name))?;
        self.belongs(&Cover::of(&snapshot), folder, &name)?;
        Ok(snapshot)
    }

    fn belongs(&self, cover: &Cover, folder: Folder, name: &str) -> Result<()> {
        let belongs = (cover.cluster, cover.lineage, cover.repository);
        if belongs == (folder.cluster, folder.lineage, self.id) {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "{name}: it says of itself that it is number {} of cluster {} in lineage {} in \
             repository {}",
            cover.seq, cover.cluster, cover.lineage, cover.repository
        )))
    }
}

impl Standing {
    /// The newest catalogue, as `--at-least-catalogue` takes it.
    pub fn mark(&self) -> Mark {
        let Folder { cluster, lineage } = self.folder;
        Mark { cluster, lineage, number: self.catalogue.number }
    }
}
