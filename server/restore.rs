//! Where a store comes from: founded, joined, or restored from an extracted part.
//!
//! Each is made aside, in a folder of the store directory, and put in place by a rename; a crash on the way starts over. A restore checks every byte of the
//! part before it loads the first row, and changes nothing when anything is wrong.
//!
//! The steps of a restore, each of which can be done again: the part is checked; a store is made of it under `restoring/`; the manifest is moved there,
//! which says that the store is complete; the store is put in place; chunks and `restoring/` are removed. A manifest beside a store is therefore not a
//! restore that was interrupted but a part that was extracted over a live store, and is refused.
//!
//! A restored group begins at its mark: its rows are those of the cut, its log is empty behind the mark's entry, its members are those of the cut. Marks,
//! numbers of snapshots that are open, and remembered requests are not carried over.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    cluster::{self, Changed, Node, State, state::Settings, walk::Membership},
    data,
    disk::{self, Disk},
    entry::{Identity, LOG_BEGIN, Position, Record},
    error::{Context, Error, Result},
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, Lineage, NodeId, SnapshotSeq},
    log::Log,
    snapshot::{chunk::ChunkHash, lanes, manifest::Manifest, source::PartSource, verify},
    store::{self, Commit, FORMAT, Store, keys},
    wire,
};

const MANIFEST: &str = "manifest.json";
const ASIDE: &str = "restoring";
const FOUNDING: &str = "founding";
const NODE: &str = "node-id";

/// What a store directory holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    Store,
    /// An extracted part.
    Part,
}

/// Looks into a store directory, and finishes a restore that had come to its end but for cleaning up.
pub fn look(dir: &Path) -> Result<Holds> {
    let aside = dir.join(ASIDE);
    if aside.join(MANIFEST).exists() {
        finish(dir)?;
    }
    match (Store::exists(dir), dir.join(MANIFEST).exists()) {
        (true, true) => Err(Error::conflict(format!(
            "{} holds a store and an extracted part of a snapshot beside it: a part is restored into an empty directory only. To keep the store, remove \
             manifest.json and chunks/; to restore the part, move the store away first",
            dir.display()
        ))),
        (true, false) => Ok(Holds::Store),
        (false, true) => Ok(Holds::Part),
        (false, false) if dir.join("chunks").exists() => Err(Error::conflict(format!(
            "{} holds chunks of a snapshot and no manifest.json: the part was not extracted whole. Extract it again into an empty directory",
            dir.display()
        ))),
        (false, false) if dir.join("log").exists() => Err(Error::conflict(format!(
            "{} holds Raft logs and no state.redb: the store has lost its rows. Restore a part into an empty directory, or start with an empty one and --join",
            dir.display()
        ))),
        (false, false) => Ok(Holds::Nothing),
    }
}

/// Opens a store and reads whose it is. A store of a newer format is refused.
pub fn open(dir: &Path, disk: &dyn Disk) -> Result<(Store, Identity)> {
    let store = Store::open(dir, disk)?;
    let identity = wire::decode_identity(&store.identity()?)?;
    if identity.format > FORMAT {
        return Err(Error::conflict(format!(
            "{} was written by a newer version: its format is {}, this program reads up to {FORMAT}; start that version",
            dir.display(),
            identity.format
        )));
    }
    Ok((store, identity))
}

/// Opens the log beside a store. One that is gone took with it what this node has acknowledged and whom it has voted for: it must not go on without.
pub fn open_log(dir: &Path, disk: Arc<dyn Disk>, store: &Store) -> Result<Log> {
    let there = fs::read_dir(dir.join("log")).is_ok_and(|mut files| files.next().is_some());
    let served = store.has_served()?;
    if served && !there {
        return Err(Error::conflict(format!(
            "{} has lost its Raft log: the node would forget what it acknowledged. Bring log/ back; or restore a part into an empty directory; or start with an \
             empty one and --join",
            dir.display()
        )));
    }
    let log = Log::open(dir, disk)?;
    if !served {
        failpoint(Failpoint::LogOpened);
        store::sync_dir(&dir.join("log"))?;
        store::sync_dir(dir)?;
        failpoint(Failpoint::LogDirSynced);
        store.set_served()?;
        failpoint(Failpoint::ServedNoted);
    }
    Ok(log)
}

/// The id of a node that has not joined yet; drawn once, also when joining takes several starts.
pub fn node_id(dir: &Path, draw: impl FnOnce() -> NodeId) -> Result<NodeId> {
    let path = dir.join(NODE);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.at(path.display())?,
    };
    // A line without its end was cut short by a crash, before anybody was told that id.
    if !text.ends_with('\n') {
        let id = draw();
        fs::write(&path, format!("{id}\n")).at(path.display())?;
        failpoint(Failpoint::IdWritten);
        fs::File::open(&path).and_then(|file| file.sync_all()).at(path.display())?;
        store::sync_dir(dir)?;
        failpoint(Failpoint::IdSynced);
        return Ok(id);
    }
    let id = text.trim().parse().map(NodeId).ok().filter(|id| *id != NodeId(0));
    id.ok_or_else(|| Error::corrupt(format!("{}: {:?} is not a node id", path.display(), text.trim())))
}

/// Makes the store of a cluster's first node.
pub fn found(dir: &Path, identity: &Identity, settings: Settings, node: Node) -> Result<()> {
    let state = State::found(settings, node)?;
    failpoint(Failpoint::FoundingBegun);
    make(dir, FOUNDING, identity, |commit| {
        let members = Membership { voters: [identity.node].into(), learners: Default::default() };
        for group in identity.topology.group_ids().chain([GroupId::META]) {
            let data = data::State { lineage: identity.lineage, ..data::State::default() };
            let record = Record { applied: LOG_BEGIN, members: members.clone(), data, ..Record::default() };
            commit.group(group, &wire::encode_record(&record))?;
        }
        put_meta(commit, &state)
    })?;
    failpoint(Failpoint::FoundingMade);
    put_in_place(dir, FOUNDING, Failpoint::FoundingInPlace)
}

/// Makes the store of a node that has been taken into a cluster; its rows come from the others.
pub fn join(dir: &Path, identity: &Identity) -> Result<()> {
    make(dir, FOUNDING, identity, |_| Ok(()))?;
    failpoint(Failpoint::JoinMade);
    put_in_place(dir, FOUNDING, Failpoint::JoinInPlace)
}

fn make(dir: &Path, aside: &str, identity: &Identity, fill: impl FnOnce(&mut Commit) -> Result<()>) -> Result<()> {
    let aside = dir.join(aside);
    clear(&aside)?;
    fs::create_dir(&aside).at(aside.display())?;
    failpoint(Failpoint::AsideDirMade);
    let store = Store::create(&aside, &disk::Machine, &wire::encode_identity(identity))?;
    failpoint(Failpoint::AsideCreated);
    let mut commit = store.begin()?;
    fill(&mut commit)?;
    failpoint(Failpoint::AsideFilled);
    commit.finish()?;
    failpoint(Failpoint::AsideCommitted);
    store::sync_dir(&aside)
}

fn put_in_place(dir: &Path, aside: &str, done: Failpoint) -> Result<()> {
    Store::put_in_place(&dir.join(aside), dir)?;
    failpoint(done);
    clear(&dir.join(aside))?;
    failpoint(Failpoint::AsideRemoved);
    clear(&dir.join(NODE))
}

fn clear(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(path.display()),
        _ => Ok(()),
    }
}

fn put_meta(commit: &mut Commit, state: &State) -> Result<()> {
    let rows: Vec<_> = all_rows(state).into_iter().map(|row| (keys::meta(&wire::meta_row_name(&row)), wire::encode_meta_row(state, &row))).collect();
    commit.rows(rows.iter().map(|(key, row)| (key.as_slice(), row.as_deref())))
}

fn all_rows(state: &State) -> Vec<Changed> {
    let mut rows = vec![Changed::Settings];
    rows.extend(state.nodes().keys().map(|n| Changed::Node(*n)));
    rows.extend(state.sites().sites().keys().map(|s| Changed::Site(s.clone())));
    rows.extend(state.sites().relays().keys().map(|r| Changed::Relay(r.clone())));
    rows.extend(state.assignments().keys().map(|g| Changed::Assignment(*g)));
    rows.extend(state.snapshots().keys().map(|x| Changed::Snapshot(*x)));
    rows
}

// ---- Restore. ----

/// Restores the part that a directory holds.
pub fn restore(dir: &Path) -> Result<()> {
    clear(&dir.join(ASIDE))?;
    let report = verify::verify_part(dir)
        .map_err(|problems| Error::corrupt(format!("{} does not hold a part that can be restored; nothing was changed:\n{problems}", dir.display())))?;
    tracing::info!(%report, "every byte of the part is as it was written");
    failpoint(Failpoint::RestoreChecked);
    let source = PartSource::open(dir)?;
    let manifest = source.manifest();
    let identity = Identity {
        format: FORMAT,
        node: manifest.node,
        cluster: manifest.cluster,
        lineage: Lineage::PENDING,
        restored_from: Some(manifest.snapshot),
        topology: manifest.topology,
    };
    let state = restored_state(&source)?;
    make(dir, ASIDE, &identity, |commit| {
        put_meta(commit, &state)?;
        load(commit, &source, manifest)
    })?;
    failpoint(Failpoint::RestoreMade);
    let aside = dir.join(ASIDE);
    fs::rename(dir.join(MANIFEST), aside.join(MANIFEST)).at(aside.display())?;
    failpoint(Failpoint::RestoreManifestMoved);
    store::sync_dir(&aside)?;
    store::sync_dir(dir)?;
    failpoint(Failpoint::RestoreManifestSynced);
    finish(dir)
}

/// From a complete store aside to one in place.
fn finish(dir: &Path) -> Result<()> {
    let aside = dir.join(ASIDE);
    if Store::exists(&aside) {
        Store::put_in_place(&aside, dir)?;
    }
    failpoint(Failpoint::RestoreInPlace);
    clear(&dir.join("chunks"))?;
    failpoint(Failpoint::RestoreChunksRemoved);
    clear(&aside)?;
    failpoint(Failpoint::RestoreAsideRemoved);
    store::sync_dir(dir)
}

fn restored_state(source: &PartSource) -> Result<State> {
    let manifest = source.manifest();
    let meta = manifest.meta.as_ref().ok_or_else(|| {
        Error::conflict("this part lacks the cluster's configuration: its node had not caught up at the cut. Restore the other parts, then start this node with an empty store and --join")
    })?;
    let mut rows = Vec::new();
    each_row(source, &meta.chunks, |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(())
    })?;
    wire::decode_meta(rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice())))?.restored(manifest.snapshot)
}

fn load(commit: &mut Commit, source: &PartSource, manifest: &Manifest) -> Result<()> {
    let record = |index, term, voters: &[NodeId], learners: &[NodeId]| Record {
        applied: Position { index, term },
        members: Membership { voters: voters.iter().copied().collect(), learners: learners.iter().copied().collect() },
        mark: SnapshotSeq(0),
        mark_at: Position::default(),
        data: data::State { lineage: manifest.lineage, ..data::State::default() },
    };
    if let Some(meta) = &manifest.meta {
        commit.group(GroupId::META, &wire::encode_record(&record(meta.mark_index, meta.mark_term, &meta.voters, &meta.learners)))?;
    }
    for group in &manifest.groups {
        commit.group(group.group, &wire::encode_record(&record(group.mark_index, group.mark_term, &group.voters, &group.learners)))?;
    }
    let partitions = || manifest.groups.iter().flat_map(|group| &group.partitions);
    // Groups and their partitions stand in the order of their keys.
    let chunks = partitions().flat_map(|partition| &partition.chunks);
    lanes::in_order(chunks, |hash| source.chunk(*hash), |rows| commit.load(keys::DATA, rows?.iter()))?;
    for partition in partitions() {
        let index = partition.data_index.to_be_bytes();
        let key = keys::partition_index(partition.id);
        commit.rows([(key.as_slice(), Some(&index[..]))].into_iter())?;
    }
    Ok(())
}

fn each_row(source: &PartSource, chunks: &[ChunkHash], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    for hash in chunks {
        for (key, value) in source.chunk(*hash)?.iter() {
            each(key, value)?;
        }
    }
    Ok(())
}

/// Where rows on their way between nodes are spooled.
pub fn spool(dir: &Path) -> Result<PathBuf> {
    let spool = dir.join("spool");
    clear(&spool)?;
    failpoint(Failpoint::SpoolRemoved);
    fs::create_dir(&spool).at(spool.display())?;
    Ok(spool)
}

/// A founding cluster's settings.
pub fn founding_settings(identity: &Identity, replication_factor: u32) -> Result<Settings> {
    cluster::state::Settings::founding(identity.cluster, identity.lineage, replication_factor, identity.topology)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn an_id_is_drawn_once_but_for_one_that_a_crash_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let found = |text: &str| {
            fs::write(dir.path().join(NODE), text).unwrap();
            node_id(dir.path(), || NodeId(7)).map_err(|e| e.kind)
        };
        assert_eq!(node_id(dir.path(), || NodeId(5)), Ok(NodeId(5)));
        assert_eq!(node_id(dir.path(), || NodeId(6)), Ok(NodeId(5)));
        assert_eq!([found("123\n"), found("12"), found("")], [Ok(NodeId(123)), Ok(NodeId(7)), Ok(NodeId(7))]);
        assert_eq!([found("0\n"), found("node\n"), found("\n")], [Err(Kind::Corrupt); 3]);
    }
}
