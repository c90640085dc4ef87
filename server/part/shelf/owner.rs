//! Whose a node's corner of a snapshot store is: the file `owner.json` in it, locked for the life
//! of the process that uses it.
//!
//! A cluster that is restored beside the one it was taken from has the same node ids, and so would
//! use the same directories; so does a second process that is started by mistake. The lock is what
//! keeps them apart, and the kernel lets go of it when the process ends, however that happens. The
//! text says who holds it, or held it last: cluster, lineage, node, address and process, one line
//! of JSON. It is for people, and for one check: a directory of another cluster is refused.
//!
//! It is `flock`, on a file that is open for reading only, so that the file system can still be
//! remounted read-only. NFS carries it to the server as a lock on the file's bytes, which wants the
//! file open for writing: that is tried next. Where a file system knows no such locks the directory
//! is refused. One that grants them on each machine for itself (NFS mounted with `nolock` or
//! `local_lock`) keeps no two machines apart.

use std::{
    fs::{self, File, TryLockError},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{
        error::{Context as _, Error, Result},
        flock::Flock,
        ids::{ClusterId, Lineage, NodeId},
        limits,
    },
    faults::failpoint::{Failpoint, failpoint},
};

/// Who uses a corner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub cluster: ClusterId,
    /// The history that writes there; `PENDING` while nodes fresh from a restore have not agreed on
    /// one.
    pub lineage: Lineage,
    pub node: NodeId,
    /// host:port.
    pub address: String,
}

/// A corner that belongs to this process alone while it is held.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Flock,
}

/// What stands in the file.
#[derive(Serialize, Deserialize)]
struct Text {
    cluster: ClusterId,
    lineage: String,
    node: String,
    address: String,
    process: u32,
}

const FILE: &str = "owner.json";

impl Lock {
    /// Locks a corner and notes who has it. `Conflict` where another process has it or it is of
    /// another cluster, `Invalid` where it cannot be locked at all.
    pub fn take(home: &Path, owner: &Owner) -> Result<Lock> {
        let path = home.join(FILE);
        // Never removed, and never replaced by a rename: whoever opens it meets the same lock.
        let writable = super::made(home, || {
            File::options().read(true).write(true).create(true).truncate(false).open(&path)
        })?;
        failpoint(Failpoint::ShelfOwnerOpened);
        let readable = File::open(&path).at(path.display())?;
        let taken = match Flock::try_on(readable) {
            Err((_, TryLockError::Error(_))) => Flock::try_on(writable),
            taken => taken,
        };
        let lock = match taken {
            Ok(file) => Lock { path, file },
            Err((_, TryLockError::WouldBlock)) => return Err(in_use(home, said(&path))),
            Err((_, TryLockError::Error(e))) => return Err(no_locks(home, &e)),
        };
        match said(&lock.path) {
            Some(said) if said.cluster != owner.cluster => {
                return Err(of_another_cluster(home, &said));
            }
            Some(said) if said.lineage != owner.lineage.to_string() => {
                tracing::info!(
                    corner = %home.display(),
                    before = said.lineage,
                    now = %owner.lineage,
                    "a snapshot store of an earlier history is gone on with: its parts are kept",
                );
            }
            _ => {}
        }
        lock.note(owner)?;
        Ok(lock)
    }

    /// Writes down who has it.
    pub fn note(&self, owner: &Owner) -> Result<()> {
        let text = Text {
            cluster: owner.cluster,
            lineage: owner.lineage.to_string(),
            node: owner.node.to_string(),
            address: owner.address.clone(),
            process: std::process::id(),
        };
        let line = serde_json::to_string(&text).expect("texts and numbers are always JSON") + "\n";
        // A crash in between leaves a text that says nothing, which is as good as none.
        let write = || {
            let mut file = File::options().write(true).truncate(true).open(&self.path)?;
            file.write_all(line.as_bytes())?;
            file.sync_data()
        };
        let written = write();
        failpoint(Failpoint::ShelfOwnerNoted);
        written.at(self.path.display())
    }

    /// Whether what is locked is what a start would find there: somebody may have emptied the
    /// store, or mounted another.
    pub fn stands(&self) -> bool {
        let inode = |m: fs::Metadata| (m.dev(), m.ino());
        let held = self.file.metadata().map(inode);
        fs::metadata(&self.path).map(inode).is_ok_and(|found| held.is_ok_and(|held| held == found))
    }
}

/// Who has used a corner last, as it says itself; None where that cannot be read.
pub fn noted(home: &Path) -> Option<Owner> {
    let text = said(&home.join(FILE))?;
    let node = NodeId(text.node.parse().ok()?);
    let lineage = text.lineage.parse().ok()?;
    Some(Owner { cluster: text.cluster, lineage, node, address: text.address })
}

fn said(path: &Path) -> Option<Text> {
    let text = super::read_bounded(path, limits::OWNER_BYTES_MAX).ok()?;
    serde_json::from_slice(&text).ok()
}

fn in_use(home: &Path, said: Option<Text>) -> Error {
    let holder = match said {
        Some(t) => format!(
            "node {} at {} (process {}, cluster {}, lineage {})",
            t.node, t.address, t.process, t.cluster, t.lineage
        ),
        None => "another process".into(),
    };
    Error::conflict(format!(
        "{} is in use by {holder}: two processes of one node id would destroy each other's parts \
         there. A cluster that is restored beside the one it comes from needs a snapshot store of \
         its own: start this node with another --snapshot-store, or stop the other process first",
        home.display()
    ))
}

fn of_another_cluster(home: &Path, said: &Text) -> Error {
    Error::conflict(format!(
        "{} holds parts of cluster {} (node {}, last at {}): start this node with another \
         --snapshot-store",
        home.display(),
        said.cluster,
        said.node,
        said.address
    ))
}

fn no_locks(home: &Path, e: &std::io::Error) -> Error {
    Error::invalid(format!(
        "{} cannot be locked: {e}. Without a lock, two processes of one node id could destroy each \
         other's parts there: mount the file system with locks (NFS: version 4, or version 3 with \
         its lock manager), or start this node with another --snapshot-store",
        home.display()
    ))
}
