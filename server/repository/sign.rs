//! Signs a repository, from its newest catalogues on: what stands there now becomes what the owner
//! of the key answers for, so look at it first (`verify`).
//!
//! Each history gets a catalogue that says the same and is signed; the voucher comes last. So where
//! there is a voucher, every history was signed once, and what is not signed is never taken for
//! something that was overlooked. Said again, it goes on with what it had not come to.
//!
//! A repository that somebody else has signed is signed on where their key is trusted: that is how
//! one key takes the place of another.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    catalogue::{self, Step},
    root::{Folder, Repository, store_at},
    store::{Made, Store},
    trust::{Access, Voucher, voucher},
};
use crate::base::error::{Error, Kind, Result};

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signed {
    pub repository: String,
    pub place: String,
    /// The public key.
    pub key: String,
    /// It was signed with that key before.
    pub was_signed: bool,
    /// The newest catalogue of each history, as CLUSTER/LINEAGE/N.
    pub catalogues: Vec<String>,
}

/// Signs the repository at a place.
pub fn sign(place: &str, patience: Duration, access: &Access) -> Result<Signed> {
    sign_on(store_at(place, patience)?, access)
}

/// The same on a store.
pub fn sign_on(store: Arc<dyn Store>, access: &Access) -> Result<Signed> {
    let (repository, root) = Repository::to_sign(store, access)?;
    let key = repository.signing_key()?.ok_or_else(|| Error::denied("no signing key is named"))?;
    histories(&repository)?;
    let text = Voucher::signed(repository.id, &root, key);
    let made = repository.store.create(&voucher(&key.public()), text.into())?;
    if made == Made::Before {
        let store = &*repository.store;
        Voucher::is_there(store, repository.id, &root, &key.public())?;
    }
    // Once more: of those that began meanwhile nobody had to know.
    let catalogues = histories(&repository)?;
    Ok(Signed {
        repository: repository.id.to_string(),
        place: repository.store.place(),
        key: key.public().to_string(),
        was_signed: made == Made::Before,
        catalogues,
    })
}

fn histories(repository: &Repository) -> Result<Vec<String>> {
    let mut catalogues = Vec::new();
    for folder in repository.catalogues()?.into_keys() {
        sign_history(repository, folder)?;
        catalogues.push(repository.standing(folder)?.mark().to_string());
    }
    Ok(catalogues)
}

/// One more catalogue of what the newest says, unless that is signed with this key.
fn sign_history(repository: &Repository, folder: Folder) -> Result<()> {
    let own = repository.signing_key()?.map(|key| key.public());
    let standing = repository.standing(folder)?;
    if standing.catalogue.signer == own && standing.damaged.is_empty() {
        return Ok(());
    }
    if standing.catalogue.signer.is_none() {
        never_signed(repository, folder)?;
    }
    repository.amend(folder, |_| Ok(Step::Becomes(())))
}

/// What was signed once does not become unsigned: somebody without a key has added to it.
fn never_signed(repository: &Repository, folder: Folder) -> Result<()> {
    let numbers = repository.catalogues()?.remove(&folder).unwrap_or_default();
    for number in numbers {
        let signer = match repository.catalogue(folder, number) {
            Ok(read) => read.and_then(|(catalogue, _)| catalogue.signer),
            Err(e) if e.kind == Kind::Corrupt => None,
            Err(e) => return Err(e),
        };
        if let Some(signer) = signer {
            return Err(Error::denied(format!(
                "{} is signed by {signer}, and the newest catalogue of this history is not signed: \
                 somebody has added to it without the key. Remove what is not signed, and say it \
                 again",
                catalogue::name(folder, number)
            )));
        }
    }
    Ok(())
}
