//! Whom somebody believes who opens a repository, and with which key they sign what they add.
//!
//! A repository is signed where it has a *voucher*: an object `signed/KEY`, made once, in which the
//! owner of a signing key says which repository this is. It names the digest of `devicedb.json`,
//! and with it the id and, of a sealed one, the key that it is sealed with: so nobody seals rows
//! for a stranger who has put another repository in its place. From then on every catalogue is
//! signed.
//!
//! - **Who has no key adds nothing** to a signed repository, and who has one adds nothing where its
//!   voucher is missing.
//! - **Who pins keys** takes nothing that none of them has signed: not the repository, and not a
//!   catalogue. One's own key is pinned by itself. A catalogue names the digests of all that it
//!   lists, so one signature covers every row, hold and drop of a history.
//! - **Nobody is led back in silence.** Where the newest catalogue is damaged, or not signed by a
//!   pinned key, an older one is taken only if that is wanted. A catalogue that was signed once
//!   stays signed, so whoever removes the newest ones leads back to one that is whole: a process
//!   remembers the newest that it has seen of each history, and an operator can name one that must
//!   have been reached.
//!
//! Who pins nothing is told nothing by signatures, but that a text is not what was signed.

use std::{
    collections::BTreeMap,
    env, fmt,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    key::{KeySource, private},
    manifest::{laid_out, of_format, taken_apart},
    signature::{Kind, PublicKey, Signature, SigningKey},
    store::{Store, found},
};
use crate::{
    base::{
        error::{self, Error, Result},
        ids::{ClusterId, Lineage},
        limits,
        locks::lock,
    },
    part::chunk::Digest,
};

/// What somebody brings who opens a repository: the key of a sealed one, and whom they believe.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub key: KeySource,
    pub trust: Trust,
}

/// Whom somebody believes. Cheap to clone; what clones have seen is remembered in one place.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    signing: SigningSource,
    pinned: Vec<PublicKey>,
    /// An older catalogue will do where the newest is not to be believed.
    older: bool,
    at_least: Vec<Mark>,
    seen: Arc<Mutex<Numbers>>,
}

/// The newest catalogue of each history of a repository.
type Numbers = BTreeMap<(Uuid, ClusterId, Lineage), u64>;

/// Where the key is found with which somebody signs.
#[derive(Clone, Debug, Default)]
pub enum SigningSource {
    #[default]
    Nowhere,
    File(PathBuf),
    /// What stands in the environment.
    Text(Secrecy),
}

/// A text that is not shown.
#[derive(Clone)]
pub struct Secrecy(String);

/// A catalogue of a history, by its number: `CLUSTER/LINEAGE/N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub number: u64,
}

/// What the owner of a key says a repository is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voucher {
    /// First, so that a program can tell what it cannot read before it reads it.
    format: u32,
    repository: Uuid,
    /// The digest of all bytes of `devicedb.json`.
    root: Digest,
    signer: PublicKey,
    /// Of the text without this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Signature>,
}

/// What stands between an opened repository and what lies there.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    trust: Trust,
    signer: Option<Arc<SigningKey>>,
    /// Those that are pinned, and one's own.
    trusted: Vec<PublicKey>,
    /// Whose vouchers it has: all without pins, and else those of whom are trusted.
    vouched: Vec<PublicKey>,
    /// A catalogue that nobody has signed will do.
    adopts: bool,
}

/// The folder of the vouchers.
pub const VOUCHERS: &str = "signed";
/// The variable of the environment that may hold a signing key.
pub const VARIABLE: &str = "DEVICEDB_REPOSITORY_SIGNING_KEY";
const FORMAT: u32 = 1;
/// How a signing key can be named.
const WAYS: &str = "ddbctl with --signing-key-file FILE, devicedb start with \
                    --repository-signing-key-file FILE, both in the variable \
                    DEVICEDB_REPOSITORY_SIGNING_KEY";

impl From<KeySource> for Access {
    fn from(key: KeySource) -> Access {
        Access { key, trust: Trust::default() }
    }
}

impl Access {
    /// No key, and nobody is believed more than others.
    pub fn none() -> Access {
        Access::default()
    }

    /// Refuses what can never be a key. Commands are not run.
    pub fn check(&self) -> Result<()> {
        self.key.check()?;
        self.trust.signing.read().map(drop)
    }

    /// The same for somebody who never takes an older catalogue.
    pub fn strict(mut self) -> Access {
        self.trust.older = false;
        self
    }
}

impl Trust {
    pub fn new(
        signing: SigningSource,
        pinned: Vec<PublicKey>,
        older: bool,
        at_least: Vec<Mark>,
    ) -> Trust {
        Trust { signing, pinned, older, at_least, seen: Arc::default() }
    }
}

impl SigningSource {
    /// As a command line names it, or else the environment.
    pub fn named(file: Option<PathBuf>) -> SigningSource {
        let text = || env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned());
        match file {
            Some(file) => SigningSource::File(file),
            None => {
                text().map_or(SigningSource::Nowhere, |text| SigningSource::Text(Secrecy(text)))
            }
        }
    }

    /// The key, if one is named.
    pub fn read(&self) -> Result<Option<SigningKey>> {
        let (text, place) = match self {
            SigningSource::Nowhere => return Ok(None),
            SigningSource::Text(Secrecy(text)) => {
                (text.clone(), format!("what stands in {VARIABLE}"))
            }
            SigningSource::File(path) => {
                let place = format!("the signing key in {}", path.display());
                (private(path, &place, "sign in your name")?, place)
            }
        };
        SigningKey::parse(&text).map(Some).ok_or_else(|| {
            Error::invalid(format!(
                "{place}: it is no signing key, which ddbctl repository keygen makes"
            ))
        })
    }
}

impl fmt::Debug for Secrecy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrecy")
    }
}

impl FromStr for Mark {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mark> {
        let mark = || {
            let mut words = text.split('/');
            let (cluster, lineage) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let number = words.next()?.parse().ok().filter(|number| *number > 0)?;
            let mark = Mark { cluster: ClusterId(cluster), lineage, number };
            words.next().is_none().then_some(mark)
        };
        mark().ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is no catalogue: CLUSTER/LINEAGE/N, as uploads, imports and ddbctl \
                 repository status print it"
            ))
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mark { cluster, lineage, number } = self;
        write!(f, "{cluster}/{lineage}/{number}")
    }
}

/// Where the voucher of a key lies.
pub fn voucher(key: &PublicKey) -> String {
    format!("{VOUCHERS}/{key}")
}

/// Whose vouchers there are, by their names.
pub fn vouchers(store: &dyn Store) -> Result<Vec<PublicKey>> {
    let there = found(store.list(VOUCHERS))?.unwrap_or_default();
    let key = |name: &str| name.strip_prefix(VOUCHERS)?.strip_prefix('/')?.parse().ok();
    Ok(there.iter().filter_map(|object| key(&object.name)).collect())
}

impl Voucher {
    /// The text in which the owner of a key says that a repository has this root.
    pub fn signed(repository: Uuid, root: &[u8], key: &SigningKey) -> Vec<u8> {
        let root = Digest(blake3::hash(root).into());
        let mut voucher =
            Voucher { format: FORMAT, repository, root, signer: key.public(), signature: None };
        voucher.signature = Some(key.sign(Kind::Voucher, &laid_out(&voucher)));
        laid_out(&voucher)
    }

    /// `Conflict` if a newer version made it, `Corrupt` if it is not what was signed.
    pub fn parse(text: &[u8]) -> Result<Voucher> {
        let whole = taken_apart(text)?;
        let voucher: Voucher = of_format(&whole, "made this voucher", FORMAT)?;
        // One voucher has one text.
        if voucher.format == 0 || laid_out(&voucher) != text {
            return Err(Error::corrupt("it is not laid out as this program writes it"));
        }
        let bare = Voucher { signature: None, ..voucher.clone() };
        let signature = voucher.signature;
        let fits = signature.is_some_and(|signature| {
            voucher.signer.has_signed(Kind::Voucher, &laid_out(&bare), &signature)
        });
        match fits {
            true => Ok(voucher),
            false => Err(Error::corrupt("its signature is not that of what it says")),
        }
    }

    /// Whether there is one of a key, which has to be for this repository. `Denied` if another one
    /// lies there.
    pub fn is_there(store: &dyn Store, id: Uuid, root: &[u8], key: &PublicKey) -> Result<bool> {
        let (name, place) = (voucher(key), store.place());
        let text = match found(store.read(&name, limits::REPOSITORY_VOUCHER_BYTES_MAX)) {
            Ok(None) => return Ok(false),
            Ok(Some(text)) => Ok(text),
            // Too long.
            Err(e) if e.kind == error::Kind::Corrupt => Err(e),
            Err(e) => return Err(e),
        };
        let read = text.and_then(|text| Voucher::parse(&text)).map_err(|e| match e.kind {
            error::Kind::Corrupt => e.of_kind(error::Kind::Denied).at(&name).at(&place),
            _ => e.at(&name),
        })?;
        let Voucher { repository, root: said, signer, .. } = read;
        if signer != *key {
            return Err(Error::denied(format!("{place}: {name} is signed by {signer}")));
        }
        if repository != id || said != Digest(blake3::hash(root).into()) {
            return Err(Error::denied(format!(
                "{place} is repository {id}, and {name} says that it is {repository}: its \
                 devicedb.json is not the one that was signed. Somebody has changed it, or put \
                 another repository in its place"
            )));
        }
        Ok(true)
    }
}

impl Guard {
    /// Before anything else is believed of what lies there. `Denied` where somebody is trusted, and
    /// none of them has signed that this is the repository.
    pub fn of(store: &dyn Store, id: Uuid, root: &[u8], trust: &Trust) -> Result<Guard> {
        let signer = trust.signing.read()?.map(Arc::new);
        let own = signer.as_ref().map(|key| key.public());
        let mut trusted: Vec<PublicKey> = own.into_iter().chain(trust.pinned.clone()).collect();
        trusted.sort_unstable();
        trusted.dedup();
        let mut vouched = Vec::new();
        for key in &trusted {
            if Voucher::is_there(store, id, root, key)? {
                vouched.push(*key);
            }
        }
        if trusted.is_empty() {
            vouched = vouchers(store)?;
        } else if vouched.is_empty() || own.is_some_and(|own| !vouched.contains(&own)) {
            let who = own.map_or_else(|| told(&trusted), |own| own.to_string());
            return Err(Error::denied(format!(
                "{} is repository {id}, and {who} has not signed that it is: it was never signed, \
                 or somebody has put another repository in its place. If it is yours, ddbctl \
                 repository sign says so",
                store.place()
            )));
        }
        Ok(Guard { trust: trust.clone(), signer, trusted, vouched, adopts: false })
    }

    /// For whoever signs what nobody has signed before. Those whose vouchers it has have to be
    /// trusted, if there are any.
    pub fn adopting(store: &dyn Store, id: Uuid, root: &[u8], trust: &Trust) -> Result<Guard> {
        let signer = trust.signing.read()?.map(Arc::new);
        let signer = signer
            .ok_or_else(|| Error::denied("no signing key is named: say --signing-key-file FILE"))?;
        let mut trusted = trust.pinned.clone();
        trusted.push(signer.public());
        let there = vouchers(store)?;
        let mut known = false;
        for key in &trusted {
            known |= Voucher::is_there(store, id, root, key)?;
        }
        if !known && !there.is_empty() {
            return Err(Error::denied(format!(
                "{} is signed by {}: name one of them with --trusted-key, and what they have \
                 signed is signed on with {}",
                store.place(),
                told(&there),
                signer.public()
            )));
        }
        let vouched = vec![signer.public()];
        Ok(Guard { trust: trust.clone(), signer: Some(signer), trusted, vouched, adopts: !known })
    }

    /// Whoever has vouched for it, as far as that is known.
    pub fn vouched(&self) -> &[PublicKey] {
        &self.vouched
    }

    /// Whether only what is signed is believed.
    pub fn is_strict(&self) -> bool {
        !self.trusted.is_empty()
    }

    /// Whether what is not to be believed may be passed over.
    pub fn takes_older(&self) -> bool {
        !self.is_strict() || self.trust.older
    }

    /// With what is signed whatever is added; nothing where nothing is signed.
    pub fn signer(&self, place: &str) -> Result<Option<&SigningKey>> {
        match (&self.signer, self.vouched.is_empty()) {
            (Some(signer), _) => Ok(Some(signer)),
            (None, true) => Ok(None),
            (None, false) => Err(unsigned(place, &self.vouched)),
        }
    }

    /// Refuses a catalogue by its signer.
    pub fn believes(&self, name: &str, signer: Option<PublicKey>) -> Result<()> {
        let no = |what: String| {
            Err(Error::denied(format!(
                "{name} {what}, and only what is signed by {} is believed{}",
                told(&self.trusted),
                older()
            )))
        };
        match signer {
            _ if !self.is_strict() => Ok(()),
            Some(signer) if self.trusted.contains(&signer) => Ok(()),
            None if self.adopts => Ok(()),
            None => no("is not signed".into()),
            Some(signer) => no(format!("is signed by {signer}")),
        }
    }

    /// What becomes of a catalogue that cannot be read: an error where nobody is led back.
    pub fn damaged(&self, e: Error) -> Result<String> {
        match self.takes_older() {
            _ if self.adopts && e.kind == error::Kind::Corrupt => Err(Error::conflict(format!(
                "{}. Nobody knows what was listed there, so it is not signed: see ddbctl \
                 repository repair",
                e.message
            ))),
            true => Ok(e.message),
            false => Err(Error::denied(format!("{}{}", e.message, older()))),
        }
    }

    /// The number that a history must have reached.
    pub fn floor(&self, id: Uuid, cluster: ClusterId, lineage: Lineage) -> u64 {
        let named = self.named(cluster, lineage);
        let seen = lock(&self.trust.seen).get(&(id, cluster, lineage)).copied();
        named.max(seen.filter(|_| !self.takes_older()).unwrap_or(0))
    }

    fn named(&self, cluster: ClusterId, lineage: Lineage) -> u64 {
        let of = |mark: &&Mark| (mark.cluster, mark.lineage) == (cluster, lineage);
        self.trust.at_least.iter().filter(of).map(|mark| mark.number).max().unwrap_or(0)
    }

    /// The histories that must have reached some number.
    pub fn named_histories(&self) -> impl Iterator<Item = (ClusterId, Lineage)> {
        self.trust.at_least.iter().map(|mark| (mark.cluster, mark.lineage))
    }

    /// Refuses a catalogue that is older than `floor`, and remembers it otherwise.
    pub fn reaches(&self, id: Uuid, at: Mark, floor: u64) -> Result<()> {
        let Mark { cluster, lineage, number } = at;
        if number < floor {
            let who = match self.named(cluster, lineage) == floor {
                true => "--at-least-catalogue says that there was",
                false => "this process has seen",
            };
            return Err(Error::denied(format!(
                "the newest catalogue of cluster {cluster} in lineage {lineage} that is believed \
                 is number {number}, and {who} number {floor}: newer ones were removed, or the \
                 repository is a copy of before"
            )));
        }
        let mut seen = lock(&self.trust.seen);
        let newest = seen.entry((id, cluster, lineage)).or_default();
        *newest = number.max(*newest);
        Ok(())
    }
}

/// Who adds to a signed repository needs a key.
pub fn unsigned(place: &str, keys: &[PublicKey]) -> Error {
    Error::denied(format!(
        "{place} is signed by {}, and nobody adds to it without the signing key: name it, {WAYS}",
        told(keys)
    ))
}

fn older() -> &'static str {
    ". An older catalogue is taken only where that is wanted: --older-catalogue"
}

fn told(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn every_flip_of_a_voucher_is_refused_also_with_its_digest_put_right() {
        let (key, id) = (SigningKey::of([7; 32]), Uuid::from_u128(1));
        let text = Voucher::signed(id, b"root", &key);
        let read = Voucher::parse(&text).unwrap();
        assert_eq!((read.repository, read.signer), (id, key.public()));
        for at in 0..text.len() {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            assert!(Voucher::parse(&flipped).is_err(), "byte {at}");
            let e = Voucher::parse(&put_right(&flipped)).map(|_| ());
            assert!(e.is_err() || put_right(&flipped) == text, "byte {at}");
        }
        for end in 0..text.len() {
            assert!(Voucher::parse(&text[..end]).is_err(), "cut at {end}");
        }
    }

    /// The text with the digest that belongs to it.
    fn put_right(text: &[u8]) -> Vec<u8> {
        let mark = b"  \"digest\": \"";
        let at = text.windows(mark.len()).rposition(|w| w == mark).unwrap_or(text.len());
        let digest = blake3::hash(&text[..at]);
        [&text[..at], format!("  \"digest\": \"{digest}\"\n}}\n").as_bytes()].concat()
    }

    #[test]
    fn a_catalogue_is_named_as_it_is_printed() {
        let text = "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11/00000000000000aa/12";
        let mark: Mark = text.parse().unwrap();
        assert_eq!((mark.to_string(), mark.number), (text.to_owned(), 12));
        let broken = [
            "",
            "12",
            "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11/00000000000000aa",
            "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11/00000000000000aa/0",
            "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11/00000000000000aa/-1",
            "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11/00000000000000aa/1/2",
            "5f1c8a9e/00000000000000aa/1",
        ];
        for no in broken {
            let e = no.parse::<Mark>().unwrap_err();
            assert!(e.message.contains("CLUSTER/LINEAGE/N"), "{no}: {e}");
        }
    }

    #[test]
    fn a_signing_key_is_read_from_a_file_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (file, key) = (dir.path().join("signing.key"), SigningKey::of([7; 32]));
        let source = SigningSource::File(file.clone());
        let write = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(source.read().unwrap_err().message.contains("cannot be read"));
        write(&key.reveal(), 0o640);
        let e = source.read().unwrap_err();
        assert!(e.message.contains("others can read the file") && e.kind == error::Kind::Invalid);
        write(&key.reveal(), 0o600);
        assert_eq!(source.read().unwrap().unwrap().public(), key.public());
        write("00", 0o600);
        assert!(source.read().unwrap_err().message.contains("ddbctl repository keygen"));
        assert!(SigningSource::Nowhere.read().unwrap().is_none());
    }
}
