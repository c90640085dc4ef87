//! The repository: a place outside the cluster where snapshots are kept, each row once for all
//! replicas and over time.
//!
//! A repository is a directory (`store`), a prefix in an object store (`objects`), or whatever else
//! can make a name that was not there.
//! Nothing in it is ever overwritten:
//!
//! ```text
//! devicedb.json                     what this is: format, id, and whether it is sealed (`root`)
//! keys/<recipient>                  the key of a sealed one, for one who can open it (`key`)
//! signed/<key>                      that this is the repository, by the owner of a key (`trust`)
//! k/<cluster>/<lineage>/<number>    which snapshots a history has: the commit point (`catalogue`)
//! <cluster>/<lineage>/s/<seq>-...   a snapshot (`manifest`)
//! <cluster>/<lineage>/i/<seq>-...   the chunks of its groups, and where they lie (`index`)
//! <cluster>/<lineage>/g/<seq>-...   segments: chunks, one behind the other
//! verifies/..., drills/...          what verifications and drills came to (`reports`)
//! ```
//!
//! - `send` stores groups. Replicas of a group hold equal rows, so one of them is stored. Chunks
//!   that the snapshot before has are not stored again, and a group that has not changed points at
//!   the index that is there.
//! - `commit` makes the snapshot of what was sent. Segments come first, then the indexes, the
//!   snapshot, and the catalogue that lists it last: before that nothing counts them in, and after
//!   it all of it is there to stay.
//! - `import` does both with downloaded parts; nodes that upload do the first each for some groups,
//!   and one of them does the second.
//! - `export` gives the parts back, byte for byte.
//! - `points` finds the snapshot that is meant, by its uuid or a time, and `contents` hands on its
//!   rows, each of them checked: for a cluster that begins with them, no part need lie anywhere.
//! - `verify` reads what a snapshot names and names everything that is wrong, and `depth` says how
//!   much of it is read.
//! - `collect` takes snapshots out, by rules or by name, and deletes what nothing refers to.
//! - `adopt` has one history go on in another one, whose cluster takes over what a lost one stored.
//! - `reports` keeps what verifications and rehearsed restores came to (`drills`), and `care` tells
//!   the newest of both.
//! - `sign` signs one that was not signed, from its newest catalogues on.
//! - `repair` makes catalogues again that are damaged or missing.
//!
//! `digested` writes texts with their digest.
//!
//! Two that store the same snapshot at a time do not harm each other: an object is named by what is
//! in it, and one of them makes the snapshot. Histories have folders of their own, so a clone of a
//! cluster and its original never refer to each other's objects.
//!
//! A repository may be sealed (`vault`): then who reads the place learns what catalogues and the
//! covers of snapshots say (`cover`), and no row, name or hash of one. Everything is sealed as the
//! last thing before it is stored and opened as the first after it was read, in `Repository` and in
//! `send`.
//!
//! A repository may be signed (`trust`, `signature`): then every catalogue is, and with it all that
//! it names: the snapshot's object by its digest, in it the digest of each index, and in that the
//! hash and the digest of each chunk. Whoever pins the key of the signer takes nothing else.
//!
//! Sealed parts are refused. Rows are compared with the one snapshot before, and not with all: no
//! table of all chunks has to fit into memory or be kept right.

pub mod store;
pub mod objects;
pub mod vault;
pub mod index;
pub mod manifest;
pub mod cover;
pub mod key;
pub mod signature;
pub mod trust;
pub mod root;
pub mod entry;
pub mod catalogue;
pub mod adopt;
pub mod sign;
pub mod send;
pub mod commit;
pub mod import;
pub mod export;
pub mod points;
pub mod contents;
pub mod depth;
pub mod verify;
pub mod collect;
pub mod repair;
pub mod reports;
pub mod drills;
pub mod care;
pub mod status;

#[cfg(test)]
mod tests;
