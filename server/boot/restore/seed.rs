//! A new cluster that is made of a snapshot in a repository: its first node's store, with all
//! groups, straight from the chunks that lie there.
//!
//! It is a founding, and the store looks like one: an id and a history that were just drawn, one
//! node that is the only voter of every group, logs that begin where all logs do
//! ([`State::seeded`]). What it has of the old cluster are the sites, relays, settings, grants, and
//! the groups' rows. Empty nodes join it, as many as one likes, and the groups spread.
//!
//! Rows have dots of the old history. Groups count theirs on from the mark, in the new history, so
//! none comes twice. Remembered requests and marks are left behind, as in any restore. So are the
//! places in the log at which partitions have changed last: this log has no such place.
//!
//! The steps: it finds the snapshot, reads its indexes and holds them against its root, looks
//! whether everything is there that they name, and whether the disk has room; then it loads the
//! rows, chunk by chunk, each of them checked, into a store under `restoring/`, in one transaction;
//! and a rename gives the store its name. Nothing of it is left after an error, and after a crash
//! the next start begins again.
//!
//! Of a snapshot some sites alone can be taken. What no such site needs is not read then.

use std::{collections::BTreeSet, path::Path};

use super::{ASIDE, clear, has_room, index_room, make, moved, put_meta, rows_room};
use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, GroupId, Lineage, NodeId, PartitionId, SiteId, SnapshotId},
        limits,
    },
    cluster::{
        Node, State,
        access::Pattern,
        reconfigure::Membership,
        state::{LeftOut, Seed, listed},
    },
    data::{self, RowKey},
    entry::{Identity, LOG_BEGIN, Record},
    faults::failpoint::{Failpoint, failpoint},
    part::{
        chunk::{Digest, Rows},
        manifest::ChunkEntry,
    },
    repository::{
        contents::Contents,
        key::KeySource,
        points::{self, Point},
        root::{Kept, Repository},
    },
    store::{Commit, FORMAT, Store, keys},
    wire,
};

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Order {
    pub place: String,
    /// Where its key is found, if it is sealed.
    pub key: KeySource,
    pub point: Point,
    /// All sites, if there is no pattern.
    pub sites: Vec<Pattern>,
}

/// Who founds, and what is drawn for it.
#[derive(Clone, Debug)]
pub struct Founding {
    pub cluster: ClusterId,
    /// With the snapshot's id it makes the name of the history.
    pub nonce: u64,
    /// Its lineage is that of the new history, whatever stands there.
    pub founder: Node,
}

/// What the new cluster was made of.
#[derive(Clone, Debug)]
pub struct Seeded {
    pub identity: Identity,
    pub snapshot: SnapshotId,
    /// When it was written, as RFC 3339 has it.
    pub written: String,
    pub root: Digest,
    /// Rows and their bytes that were loaded.
    pub rows: u64,
    pub bytes: u64,
}

/// How far the loading is, in bytes of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// The sites whose rows are taken.
enum Wanted {
    All,
    /// And the partitions in which they lie.
    Some(BTreeSet<SiteId>, BTreeSet<PartitionId>),
}

/// Makes the store of a new cluster's first node, in a directory that holds none. `say` hears what
/// it does and how far it is. After an error nothing of the store is left.
pub fn seed(
    dir: &Path,
    order: &Order,
    founding: &Founding,
    say: &dyn Fn(&str, Progress),
) -> Result<Seeded> {
    // A place that is none is said soon; a store that fails later is waited for.
    let at = |patience| Repository::at(&order.place, patience, &order.key);
    let repository =
        at(limits::OBJECT_PATIENCE_COMMAND).and_then(|_| at(limits::OBJECT_PATIENCE_NODE));
    let made = repository.and_then(|repository| of(&repository, dir, order, founding, say));
    made.map_err(|e| {
        let (place, dir) = (&order.place, dir.display());
        let told = format!("nothing is restored from {place}, and {dir} holds no store: {e}");
        Error::new(e.kind, told).with_source(e)
    })
}

fn of(
    repository: &Repository,
    dir: &Path,
    order: &Order,
    founding: &Founding,
    say: &dyn Fn(&str, Progress),
) -> Result<Seeded> {
    let points::Found { kept, next } = points::find(repository, order.point)?;
    let name = points::named(&kept.snapshot);
    tracing::info!(
        snapshot = %kept.snapshot.snapshot,
        written = kept.snapshot.written,
        root = %kept.snapshot.root,
        next = next.map(|next| points::named(&next)),
        "a new cluster is made of this snapshot of {}",
        repository.store.place()
    );
    let contents = Contents::open(repository, &kept)?;
    let (state, left_out) = seeded(&contents, &kept, order, founding)?;
    tell_left_out(&left_out);
    let wanted = Wanted::of(&state, &order.sites);
    let takes = |partition| wanted.takes(partition);
    contents.all_there(takes)?;
    clear(&dir.join(ASIDE))?;
    let entries: Vec<ChunkEntry> = contents.chunks(takes).map(|(.., at)| at.entry()).collect();
    let topology = state.settings().topology;
    let needed = limits::RESTORE_ROOM_BYTES
        + rows_room(entries.iter())
        + index_room(topology.partitions() as usize);
    has_room(dir, needed, "name a store on a larger disk")?;
    failpoint(Failpoint::SeedChecked);

    let total = entries.iter().map(|chunk| chunk.stored_bytes).sum();
    let mut loaded = Loaded { progress: Progress { done: 0, total }, rows: 0, bytes: 0 };
    let identity = identity(&state, founding.founder.id);
    let mut fill = |commit: &mut Commit| {
        put_meta(commit, &state)?;
        put_records(commit, &kept, &state, &identity)?;
        contents.rows(takes, |at, rows| {
            loaded.take(commit, &wanted, rows)?;
            loaded.progress.done += at.stored_bytes;
            say(&name, loaded.progress);
            failpoint(Failpoint::SeedChunkLoaded);
            Ok(())
        })
    };
    let made = make(dir, ASIDE, &identity, &mut fill).and_then(|()| {
        failpoint(Failpoint::SeedMade);
        Store::put_in_place(&dir.join(ASIDE), dir)
    });
    made.map_err(|e| moved::undo(dir, e))?;
    failpoint(Failpoint::SeedInPlace);
    moved::clean_up(dir);
    Ok(Seeded {
        identity,
        snapshot: kept.snapshot.snapshot,
        written: kept.snapshot.written,
        root: kept.snapshot.root,
        rows: loaded.rows,
        bytes: loaded.bytes,
    })
}

/// The new cluster's state, of the rows of the old one's meta group.
fn seeded(
    contents: &Contents<'_>,
    kept: &Kept,
    order: &Order,
    founding: &Founding,
) -> Result<(State, LeftOut)> {
    let rows = contents.meta_rows()?;
    let captured = wire::decode_meta(rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice())))?;
    let settings = captured.settings();
    if (settings.cluster, settings.topology) != (kept.folder.cluster, kept.snapshot.topology()?) {
        return Err(Error::corrupt(format!(
            "the configuration in snapshot {} is of another cluster, or of another shape",
            kept.snapshot.snapshot
        )));
    }
    let lineage = Lineage::derive(kept.snapshot.snapshot, founding.nonce);
    captured.seeded(&Seed {
        snapshot: kept.snapshot.snapshot,
        cluster: founding.cluster,
        lineage,
        founder: Node { lineage, ..founding.founder.clone() },
        sites: &order.sites,
    })
}

fn identity(state: &State, node: NodeId) -> Identity {
    let settings = state.settings();
    Identity {
        format: FORMAT,
        node,
        cluster: settings.cluster,
        lineage: settings.lineage,
        restored_from: settings.restored_from,
        topology: settings.topology,
    }
}

/// Every group begins with the founder as its only voter.
fn put_records(commit: &mut Commit, kept: &Kept, state: &State, identity: &Identity) -> Result<()> {
    let members = Membership { voters: [identity.node].into(), learners: BTreeSet::new() };
    for group in state.settings().topology.group_ids().chain([GroupId::META]) {
        let dots = kept.snapshot.group(group).map_or(0, |held| held.dots);
        let data = data::State { lineage: identity.lineage, dots, ..data::State::default() };
        let record =
            Record { applied: LOG_BEGIN, members: members.clone(), data, ..Record::default() };
        commit.group(group, &wire::encode_record(&record))?;
    }
    Ok(())
}

/// What has come into the store.
struct Loaded {
    progress: Progress,
    rows: u64,
    bytes: u64,
}

impl Loaded {
    fn take(&mut self, commit: &mut Commit, wanted: &Wanted, rows: &Rows) -> Result<()> {
        let Wanted::Some(sites, _) = wanted else {
            (self.rows, self.bytes) = (self.rows + rows.rows(), self.bytes + rows.bytes());
            return commit.load(keys::DATA, rows.iter());
        };
        let mut taken = Vec::new();
        for (key, value) in rows.iter() {
            if sites.contains(&RowKey::decode(key)?.site) {
                self.rows += 1;
                self.bytes += (key.len() + value.len()) as u64;
                taken.push((key, value));
            }
        }
        commit.load(keys::DATA, taken.into_iter())
    }
}

impl Wanted {
    fn of(state: &State, patterns: &[Pattern]) -> Wanted {
        if patterns.is_empty() {
            return Wanted::All;
        }
        let sites: BTreeSet<SiteId> = state.sites().sites().keys().cloned().collect();
        let topology = state.settings().topology;
        let partitions = sites.iter().map(|site| topology.partition_of(site)).collect();
        Wanted::Some(sites, partitions)
    }

    fn takes(&self, partition: PartitionId) -> bool {
        match self {
            Wanted::All => true,
            Wanted::Some(_, partitions) => partitions.contains(&partition),
        }
    }
}

fn tell_left_out(left_out: &LeftOut) {
    let LeftOut { sites, relays } = left_out;
    if !sites.is_empty() || *relays > 0 {
        tracing::warn!(
            sites = sites.len(),
            relays,
            "what --sites does not name is left out, with its rows: {}",
            listed(sites.iter())
        );
    }
}

#[cfg(test)]
mod tests;
