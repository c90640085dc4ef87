//! A new cluster that is made of a snapshot in a repository: its first node's store, with all
//! groups, straight from the chunks that lie there.
//!
//! It is a founding, and the store looks like one: an id and a history that were just drawn, one
//! node that is the only voter of every group, logs that begin where all logs do
//! ([`State::seeded`]). What it has of the old cluster are the sites, relays, settings, grants, and
//! the groups' rows. Empty nodes join it, as many as one likes, and the groups spread.
//!
//! Where several nodes begin together, each loads the groups that it is a member of, and every
//! group begins with all its members. A replica votes when its store is in place, and not before.
//! It is the same on every node: nothing goes into it but the snapshot and the plan ([`Plan`]).
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

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use uuid::Uuid;

use super::{
    ASIDE, clear, has_room, index_room, moved,
    plan::{self, Order, Plan},
    put_meta, rows_room,
};
use crate::{
    base::{
        clock::Clock,
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
        points::{self, Point},
        root::{Kept, Repository},
        trust::Access,
    },
    store::{Commit, FORMAT, Store, keys},
    wire,
};

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

impl Progress {
    pub fn words(self, snapshot: &str, place: &str) -> String {
        let Progress { done, total } = self;
        let percent = done * 100 / total.max(1);
        format!("snapshot {snapshot}, is loaded from {place}: {percent} %, {done} of {total} bytes")
    }
}

impl Seeded {
    /// Says it in the log.
    pub fn tell(&self, clock: Clock, what: &str) {
        tracing::info!(
            cluster = %self.identity.cluster,
            node = %self.identity.node,
            snapshot = %self.snapshot,
            written = self.written,
            root = %self.root,
            rows = self.rows,
            bytes = self.bytes,
            took_ms = clock.now().as_millis() as u64,
            "{what}"
        );
    }
}

/// The sites whose rows are taken.
enum Wanted {
    All,
    /// And the partitions in which they lie.
    Some(BTreeSet<SiteId>, BTreeSet<PartitionId>),
}

/// Makes the store of a new cluster's only node, in a directory that holds none. `say` hears what
/// it does and how far it is. After an error nothing of the store is left.
pub fn seed(
    dir: &Path,
    order: &Order,
    founding: &Founding,
    say: &dyn Fn(&str, Progress),
) -> Result<Seeded> {
    let made = opened(&order.place, &order.access).and_then(|repository| {
        let kept = chosen(&repository, order.point)?;
        let contents = Contents::open(&repository, &kept)?;
        let seed = Seed {
            snapshot: kept.snapshot.snapshot,
            cluster: founding.cluster,
            lineage: Lineage::derive(kept.snapshot.snapshot, founding.nonce),
            nodes: std::slice::from_ref(&founding.founder),
            sites: &order.sites,
        };
        let (state, left_out) = captured(&contents, &kept)?.seeded(&seed)?;
        tell_left_out(&left_out);
        Making { dir, kept: &kept, state: &state, node: founding.founder.id, say }
            .make(&contents, &order.sites)
    });
    made.map_err(|e| unmade(dir, &order.place, e))
}

/// Makes the store of one of the nodes that begin a cluster together, as `seed` does.
pub fn seed_planned(
    dir: &Path,
    order: &Order,
    plan: &Plan,
    node: NodeId,
    say: &dyn Fn(&str, Progress),
) -> Result<Seeded> {
    let made = opened(&order.place, &order.access).and_then(|repository| {
        if repository.id != plan.repository {
            return Err(Error::conflict(format!(
                "it is repository {}, and the nodes have begun with snapshot {} in repository {}: \
                 name the same on every node",
                repository.id, plan.snapshot, plan.repository
            )));
        }
        let kept = chosen(&repository, Point::Snapshot(plan.snapshot))?;
        let contents = Contents::open(&repository, &kept)?;
        let (state, left_out) = plan.state(captured(&contents, &kept)?)?;
        tell_left_out(&left_out);
        Making { dir, kept: &kept, state: &state, node, say }.make(&contents, &plan.sites)
    });
    made.map_err(|e| unmade(dir, &order.place, e))
}

/// What several nodes are to begin with, before anybody is waited for.
pub struct Choice {
    pub repository: Uuid,
    pub snapshot: SnapshotId,
    captured: State,
}

/// Looks which repository and which snapshot are meant. Reads none of its rows.
pub fn look_up(order: &Order) -> Result<(Uuid, SnapshotId)> {
    let repository = opened(&order.place, &order.access)?;
    Ok((repository.id, chosen(&repository, order.point)?.snapshot.snapshot))
}

impl Choice {
    /// Looks whether a cluster of several nodes can be made of what is meant, as far as the
    /// founder can tell.
    pub fn of(order: &Order, founder: &Node) -> Result<Choice> {
        let repository = opened(&order.place, &order.access)?;
        let kept = chosen(&repository, order.point)?;
        let contents = Contents::open(&repository, &kept)?;
        let snapshot = kept.snapshot.snapshot;
        let choice =
            Choice { repository: repository.id, snapshot, captured: captured(&contents, &kept)? };
        // A site that is not there, or joins by token alone, are told before anybody comes.
        let twin = Node { id: NodeId(founder.id.0.wrapping_add(1).max(1)), ..founder.clone() };
        let tried = Founding { cluster: kept.folder.cluster, nonce: 0, founder: founder.clone() };
        choice.plan(order, &tried, vec![twin])?;
        Ok(choice)
    }

    /// The plan of the founder and those that begin with it.
    pub fn plan(&self, order: &Order, founding: &Founding, others: Vec<Node>) -> Result<Plan> {
        let lineage = Lineage::derive(self.snapshot, founding.nonce);
        let nodes = [founding.founder.clone()].into_iter().chain(others);
        let mut plan = Plan {
            repository: self.repository,
            snapshot: self.snapshot,
            sites: plan::sorted(&order.sites),
            cluster: founding.cluster,
            lineage,
            nodes: nodes.map(|node| Node { lineage, ..node }).collect(),
            beginning: Digest([0; 32]),
        };
        let (state, _) = self.captured.clone().seeded(&plan.seed())?;
        plan.beginning = plan::beginning(&state);
        Ok(plan)
    }
}

/// A place that is none is said soon; a store that fails later is waited for.
fn opened(place: &str, access: &Access) -> Result<Repository> {
    Repository::at(place, limits::OBJECT_PATIENCE_COMMAND, access)?;
    Repository::at(place, limits::OBJECT_PATIENCE_NODE, access)
}

fn unmade(dir: &Path, place: &str, e: Error) -> Error {
    let dir = dir.display();
    let told = format!("nothing is restored from {place}, and {dir} holds no store: {e}");
    Error::new(e.kind, told).with_source(e)
}

fn chosen(repository: &Repository, point: Point) -> Result<Kept> {
    let points::Found { kept, next } = points::find(repository, point)?;
    tracing::info!(
        snapshot = %kept.snapshot.snapshot,
        written = kept.snapshot.written,
        root = %kept.snapshot.root,
        next = next.map(|next| next.named()),
        "a new cluster is made of this snapshot of {}",
        repository.store.place()
    );
    Ok(kept)
}

/// The old cluster's state, of the rows of its meta group.
fn captured(contents: &Contents<'_>, kept: &Kept) -> Result<State> {
    let rows = contents.meta_rows()?;
    let captured = wire::decode_meta(rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice())))?;
    let settings = captured.settings();
    if (settings.cluster, settings.topology) != (kept.folder.cluster, kept.snapshot.topology()?) {
        return Err(Error::corrupt(format!(
            "the configuration in snapshot {} is of another cluster, or of another shape",
            kept.snapshot.snapshot
        )));
    }
    Ok(captured)
}

/// A store that is made.
struct Making<'a> {
    dir: &'a Path,
    kept: &'a Kept,
    /// What the cluster begins with.
    state: &'a State,
    /// Whose store it is.
    node: NodeId,
    say: &'a dyn Fn(&str, Progress),
}

impl Making<'_> {
    fn make(&self, contents: &Contents<'_>, sites: &[Pattern]) -> Result<Seeded> {
        let Making { dir, kept, state, node, say } = *self;
        let (wanted, topology) = (Wanted::of(state, sites), state.settings().topology);
        let mine: BTreeMap<GroupId, Membership> = topology
            .group_ids()
            .chain([GroupId::META])
            .map(|group| (group, members(state, group)))
            .filter(|(_, members)| members.has(node))
            .collect();
        let takes =
            |partition| wanted.takes(partition) && mine.contains_key(&topology.group_of(partition));
        contents.all_there(takes)?;
        clear(&dir.join(ASIDE))?;
        let entries: Vec<ChunkEntry> = contents.chunks(takes).map(|(.., at)| at.entry()).collect();
        let needed = limits::RESTORE_ROOM_BYTES
            + rows_room(entries.iter())
            + index_room(topology.partitions() as usize);
        has_room(dir, needed, "name a store on a larger disk")?;
        failpoint(Failpoint::SeedChecked);

        let name = points::named(&kept.snapshot);
        let total = entries.iter().map(|chunk| chunk.stored_bytes).sum();
        let mut loaded = Loaded { progress: Progress { done: 0, total }, rows: 0, bytes: 0 };
        let identity = identity(state, node);
        let mut fill = |commit: &mut Commit| {
            put_meta(commit, state)?;
            put_records(commit, kept, &mine, &identity)?;
            contents.rows(takes, |at, rows| {
                loaded.take(commit, &wanted, rows)?;
                loaded.progress.done += at.stored_bytes;
                say(&name, loaded.progress);
                failpoint(Failpoint::SeedChunkLoaded);
                Ok(())
            })
        };
        let made = super::make(dir, ASIDE, &identity, &mut fill).and_then(|()| {
            failpoint(Failpoint::SeedMade);
            Store::put_in_place(&dir.join(ASIDE), dir)
        });
        made.map_err(|e| moved::undo(dir, e))?;
        failpoint(Failpoint::SeedInPlace);
        moved::clean_up(dir);
        Ok(Seeded {
            identity,
            snapshot: kept.snapshot.snapshot,
            written: kept.snapshot.written.clone(),
            root: kept.snapshot.root,
            rows: loaded.rows,
            bytes: loaded.bytes,
        })
    }
}

/// Of a group at its beginning.
fn members(state: &State, group: GroupId) -> Membership {
    let wanted = state.wanted(group);
    Membership { voters: wanted.voters.into_iter().collect(), learners: wanted.learners }
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

fn put_records(
    commit: &mut Commit,
    kept: &Kept,
    mine: &BTreeMap<GroupId, Membership>,
    identity: &Identity,
) -> Result<()> {
    for (group, members) in mine {
        let dots = kept.snapshot.group(*group).map_or(0, |held| held.dots);
        let data = data::State { lineage: identity.lineage, dots, ..data::State::default() };
        let record =
            Record { applied: LOG_BEGIN, members: members.clone(), data, ..Record::default() };
        commit.group(*group, &wire::encode_record(&record))?;
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
