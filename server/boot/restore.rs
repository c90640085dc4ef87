//! Where a store comes from: founded, joined, or restored from an extracted part.
//!
//! Each kind is made aside, in a folder of the store directory, and put in place by a rename; after
//! a crash on the way the next start begins again. A restore checks every byte of the part before
//! it loads the first row, and changes nothing if anything is wrong.
//!
//! A sealed part is restored with the identity file of a recipient. It is read once; the store that
//! is made is not sealed, and keeps nothing of it.
//!
//! `offline` makes a store of parts before a start: of one, or of several for one node. `seed`
//! makes one of a snapshot in a repository, for the first node of a new cluster, or for each of
//! several that begin together by one `plan`.
//!
//! The steps of a restore: it tries everything that can fail for a reason which an operator can
//! mend, such as the directory's permissions and the room for the store; checks every byte of the
//! part; makes a store of it under `restoring/`; moves the part's files out of its way; and gives
//! the store its name (`moved`). A failure on the way is undone: the directory is as it was, and
//! the next start tries again. So a manifest beside a store is no interrupted restore but a part
//! that was extracted over a live store, and it is refused.
//!
//! A restored group begins at its mark: its rows and members are those of the cut, its log is empty
//! behind the mark's entry, and it counts its dots on from there. Marks, numbers of open snapshots
//! and remembered requests are left behind. A part of format 1 does not say how many dots a group
//! had minted. Its groups begin at 1 again, as they did when such parts were written: a node that
//! starts late from its part has to count as the nodes that started before it.

mod moved;
pub mod offline;
pub mod plan;
pub mod seed;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::noted::refuse_half_recovered;
use crate::{
    base::{
        disk::{self, Disk},
        error::{Context, Error, Result},
        ids::{GroupId, Lineage, NodeId, SnapshotId},
        limits,
        space::Space,
        strangers,
    },
    cluster::{self, Node, State, reconfigure::Membership, state::Settings},
    data,
    entry::{Identity, LOG_BEGIN, Position, Record},
    faults::failpoint::{Failpoint, failpoint},
    log::Log,
    part::{
        manifest::{ChunkEntry, GroupPart, Manifest, MetaPart},
        parallel,
        seal::{Identities, kept},
        source::Source,
        verify,
    },
    store::{self, Commit, FORMAT, Store, keys},
    wire,
};

const MANIFEST: &str = "manifest.json";
const ASIDE: &str = "restoring";
const FOUNDING: &str = "founding";
const NODE: &str = "node-id";
/// The node that one that waits has promised to leave the founding to, and the same while it is
/// written.
pub const FOUNDER: &str = "founder";
pub const FOUNDER_ASIDE: &str = "founder.new";
/// The plan by which a node begins a cluster together with others, and the same while it is
/// written.
pub const PLAN: &str = "seed-plan";
const PLAN_ASIDE: &str = "seed-plan.new";
/// All that a node keeps in its store directory.
const OWN: &[&str] = &[
    "state.redb",
    "log",
    "spool",
    MANIFEST,
    "chunks",
    ASIDE,
    FOUNDING,
    NODE,
    FOUNDER,
    FOUNDER_ASIDE,
    PLAN,
    PLAN_ASIDE,
    kept::FILE,
    kept::ASIDE,
];

/// What a store directory holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    Store,
    /// An extracted part.
    Part,
}

/// Looks into a store directory, and tidies up behind a restore, a founding or a join that was
/// interrupted. A directory without a store, and with something that no node keeps there, is
/// refused: it is not what was meant.
pub fn look(dir: &Path) -> Result<Holds> {
    let holds = recognise(dir)?;
    let strangers = strangers::in_directory(dir, |name| OWN.contains(&name))?;
    match holds {
        _ if strangers.is_empty() => {}
        Holds::Nothing => {
            return Err(Error::invalid(format!(
                "{} holds no store, but {}: a node keeps nothing of that kind. Is it the directory \
                 that was meant, and is its disk mounted? A part of a snapshot is extracted: tar \
                 xf PART.tar -C DIR",
                dir.display(),
                strangers::named(&strangers)
            )));
        }
        // Whoever crashed may have left something there, and must come back. Beside a part it is
        // refused with the part.
        Holds::Store | Holds::Part => tracing::warn!(
            "{} holds {} besides what a node keeps there",
            dir.display(),
            strangers::named(&strangers)
        ),
    }
    if holds == Holds::Part {
        end_waiting(dir)?;
    }
    Ok(holds)
}

fn recognise(dir: &Path) -> Result<Holds> {
    if !Store::exists(dir) {
        moved::put_back(dir)?;
    }
    match (Store::exists(dir), dir.join(MANIFEST).exists()) {
        (true, true) => Err(Error::conflict(format!(
            "{} holds a store and an extracted part of a snapshot beside it: a part is restored \
             into an empty directory only. To keep the store, remove manifest.json and chunks/; to \
             restore the part, move the store away first",
            dir.display()
        ))),
        (true, false) => {
            moved::clean_up(dir);
            Ok(Holds::Store)
        }
        (false, true) => Ok(Holds::Part),
        (false, false) if dir.join("chunks").exists() => Err(Error::conflict(format!(
            "{} holds chunks of a snapshot and no manifest.json: the part was not extracted whole. \
             Extract it again into an empty directory",
            dir.display()
        ))),
        (false, false) if dir.join("log").exists() => Err(Error::conflict(format!(
            "{} holds Raft logs and no state.redb: the store has lost its rows. Restore a part \
             into an empty directory, or start with an empty one and --join",
            dir.display()
        ))),
        (false, false) => Ok(Holds::Nothing),
    }
}

/// Opens a store and reads whose it is. A store of a newer format is refused.
pub fn read(dir: &Path, disk: &dyn Disk) -> Result<(Store, Identity)> {
    let store = Store::open(dir, disk)?;
    let identity = wire::decode_identity(&store.identity()?)?;
    refuse_newer(dir, identity.format, FORMAT)?;
    Ok((store, identity))
}

/// Opens a store for a node to serve from. An older one that can be read has the present format
/// from now on; one that is half recovered is refused.
pub fn open(dir: &Path, disk: &dyn Disk) -> Result<(Store, Identity)> {
    let (store, mut identity) = read(dir, disk)?;
    refuse_half_recovered(dir, &store)?;
    if identity.format < FORMAT {
        identity.format = FORMAT;
        store.set_identity(&wire::encode_identity(&identity))?;
    }
    Ok((store, identity))
}

fn refuse_newer(dir: &Path, format: u32, newest: u32) -> Result<()> {
    if format <= newest {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "{} was written by a newer version: its format is {format}, this program reads up to \
         {newest}; start that version",
        dir.display()
    )))
}

/// Opens the log beside a store. One that is gone took with it what this node has acknowledged and
/// whom it has voted for: it must not go on without.
pub fn open_log(dir: &Path, disk: Arc<dyn Disk>, store: &Store) -> Result<Log> {
    let there = fs::read_dir(dir.join("log")).is_ok_and(|mut files| files.next().is_some());
    let served = store.has_served()?;
    if served && !there {
        return Err(Error::conflict(format!(
            "{} has lost its Raft log: the node would forget what it acknowledged. Bring log/ \
             back; or restore a part into an empty directory; or start with an empty one and \
             --join",
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
    id.ok_or_else(|| {
        Error::corrupt(format!("{}: {:?} is not a node id", path.display(), text.trim()))
    })
}

/// Makes the store of a cluster's first node.
pub fn found(dir: &Path, identity: &Identity, settings: Settings, node: Node) -> Result<()> {
    let state = State::found(settings, node)?;
    failpoint(Failpoint::FoundingBegun);
    make(dir, FOUNDING, identity, |commit| {
        let members = Membership { voters: [identity.node].into(), learners: Default::default() };
        for group in identity.topology.group_ids().chain([GroupId::META]) {
            let data = data::State { lineage: identity.lineage, ..data::State::default() };
            let record =
                Record { applied: LOG_BEGIN, members: members.clone(), data, ..Record::default() };
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

/// Makes a store in a folder of the directory. One that is half made does not stay and take room.
fn make(
    dir: &Path,
    aside: &str,
    identity: &Identity,
    fill: impl FnOnce(&mut Commit) -> Result<()>,
) -> Result<()> {
    let aside = dir.join(aside);
    clear(&aside)?;
    fs::create_dir(&aside).at(aside.display())?;
    let made = make_in(&aside, identity, fill);
    made.inspect_err(|_| drop(clear(&aside)))
}

fn make_in(
    aside: &Path,
    identity: &Identity,
    fill: impl FnOnce(&mut Commit) -> Result<()>,
) -> Result<()> {
    failpoint(Failpoint::AsideDirMade);
    let store = Store::create(aside, &disk::Machine, &wire::encode_identity(identity))?;
    failpoint(Failpoint::AsideCreated);
    let mut commit = store.begin()?;
    fill(&mut commit)?;
    failpoint(Failpoint::AsideFilled);
    commit.finish()?;
    failpoint(Failpoint::AsideCommitted);
    store::sync_dir(aside)
}

fn put_in_place(dir: &Path, aside: &str, done: Failpoint) -> Result<()> {
    Store::put_in_place(&dir.join(aside), dir)?;
    failpoint(done);
    clear(&dir.join(aside))?;
    failpoint(Failpoint::AsideRemoved);
    end_waiting(dir)
}

/// Removes what a node kept while it waited for a cluster.
fn end_waiting(dir: &Path) -> Result<()> {
    let kept = [FOUNDING, NODE, FOUNDER, FOUNDER_ASIDE, PLAN, PLAN_ASIDE];
    kept.iter().try_for_each(|name| clear(&dir.join(name)))
}

fn clear(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(path.display()),
        _ => Ok(()),
    }
}

fn put_meta(commit: &mut Commit, state: &State) -> Result<()> {
    let rows: Vec<_> = state
        .all_rows()
        .into_iter()
        .map(|row| (keys::meta(&wire::meta_row_name(&row)), wire::encode_meta_row(state, &row)))
        .collect();
    commit.rows(rows.iter().map(|(key, row)| (key.as_slice(), row.as_deref())))
}

// ---- Restore. ----

/// Restores the part that a directory holds; a sealed one with the identity of a recipient. After
/// an error the directory is as it was.
pub fn restore(dir: &Path, identities: Option<&Identities>) -> Result<()> {
    let ready = moved::put_back(dir).and_then(|()| clear(&dir.join(ASIDE)));
    let restored = ready.and_then(|()| check(dir, identities)).and_then(|source| {
        put_restored(dir, &source)?;
        Ok(source)
    });
    let source = restored.map_err(|e| {
        moved::undo(dir, e)
            .at(format!("the part in {} is not restored, and stays as it was", dir.display()))
    })?;
    failpoint(Failpoint::RestoreInPlace);
    let manifest = source.manifest();
    tracing::info!(
        snapshot = %manifest.snapshot, written = manifest.written(), lineage = %manifest.lineage,
        "restored: the node begins with what it had in this snapshot, and later writes are gone"
    );
    moved::clean_up(dir);
    Ok(())
}

/// Everything that could be in the way later, the quickest first.
fn check(dir: &Path, identities: Option<&Identities>) -> Result<Source> {
    let source = opened(dir, identities)?;
    moved::try_out(dir)?;
    clear(&dir.join(ASIDE))?;
    has_room(dir, room(source.manifest()), "extract it on a larger disk")?;
    let report = verify::verify_part(dir, identities)
        .map_err(|problems| Error::corrupt(format!("it is not what was written:\n{problems}")))?;
    tracing::info!(%report, "every byte of the part is as it was written");
    failpoint(Failpoint::RestoreChecked);
    Ok(source)
}

/// A part whose rows can be read.
fn opened(path: &Path, identities: Option<&Identities>) -> Result<Source> {
    let mut source = Source::open(path)?;
    match (&source.manifest().seal, identities) {
        (None, _) => {}
        (Some(_), Some(identities)) => source.unseal(identities)?,
        (Some(seal), None) => {
            return Err(Error::conflict(format!(
                "it is sealed to {}: name the age identity file of one of them with --unseal-with \
                 FILE; or make a part of it that is not sealed, with ddbctl snapshot unseal, where \
                 that file is",
                seal.named()
            )));
        }
    }
    Ok(source)
}

/// Bytes that the store of a part takes, about.
fn room(manifest: &Manifest) -> u64 {
    limits::RESTORE_ROOM_BYTES
        + rows_room(manifest.chunks.iter())
        + index_room(manifest.partitions().count())
}

/// Rows of one chunk are taken to be of one length.
fn rows_room<'a>(chunks: impl Iterator<Item = &'a ChunkEntry>) -> u64 {
    chunks.map(|chunk| store::room(chunk.rows, chunk.bytes)).sum()
}

fn index_room(partitions: usize) -> u64 {
    store::room(partitions as u64, partitions as u64 * keys::PARTITION_INDEX_BYTES)
}

fn has_room(dir: &Path, needed: u64, otherwise: &str) -> Result<()> {
    let free = Space::of(dir)?.free;
    if free >= needed {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "its store takes about {needed} bytes, and {free} are free on the disk: make room, or \
         {otherwise}"
    )))
}

/// Makes the store of a part, and puts it in the part's place.
fn put_restored(dir: &Path, source: &Source) -> Result<()> {
    make_restored(dir, source)?;
    moved::set_aside(dir)?;
    failpoint(Failpoint::RestorePartMoved);
    Store::put_in_place(&dir.join(ASIDE), dir)
}

/// Makes the store of a part aside.
fn make_restored(dir: &Path, source: &Source) -> Result<()> {
    let (manifest, state) = (source.manifest(), restored_state(source)?);
    make(dir, ASIDE, &identity(manifest, manifest.snapshot), |commit| {
        put_meta(commit, &state)?;
        load(commit, source, manifest)
    })?;
    failpoint(Failpoint::RestoreMade);
    Ok(())
}

/// What a store says of itself that is made of a part. `from` names the history until its first
/// leader does.
fn identity(manifest: &Manifest, from: SnapshotId) -> Identity {
    Identity {
        format: FORMAT,
        node: manifest.node,
        cluster: manifest.cluster,
        lineage: Lineage::PENDING,
        restored_from: Some(from),
        topology: manifest.topology,
    }
}

fn restored_state(source: &Source) -> Result<State> {
    let manifest = source.manifest();
    let meta = manifest.meta.as_ref().ok_or_else(|| {
        Error::conflict(
            "this part lacks the cluster's configuration: its node had not caught up at the cut. \
             Restore the other parts, then start this node with an empty store and --join",
        )
    })?;
    captured_state(source, meta)?.restored(manifest.snapshot)
}

/// The meta group's state at its mark.
fn captured_state(source: &Source, meta: &MetaPart) -> Result<State> {
    let mut rows = Vec::new();
    for hash in &meta.chunks {
        let chunk = source.chunk(*hash)?;
        rows.extend(chunk.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    wire::decode_meta(rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice())))
}

fn load(commit: &mut Commit, source: &Source, manifest: &Manifest) -> Result<()> {
    if let Some(meta) = &manifest.meta {
        let members = members(&meta.voters, &meta.learners);
        commit.group(GroupId::META, &wire::encode_record(&meta_record(manifest, meta, members)))?;
    }
    for group in &manifest.groups {
        let members = members(&group.voters, &group.learners);
        commit.group(group.group, &wire::encode_record(&record(manifest, group, members)))?;
    }
    load_rows(commit, &manifest.groups.iter().map(|group| (source, group)).collect::<Vec<_>>())
}

fn members(voters: &[NodeId], learners: &[NodeId]) -> Membership {
    Membership {
        voters: voters.iter().copied().collect(),
        learners: learners.iter().copied().collect(),
    }
}

fn meta_record(manifest: &Manifest, meta: &MetaPart, members: Membership) -> Record {
    let applied = Position { index: meta.mark_index, term: meta.mark_term };
    let data = data::State { lineage: manifest.lineage, ..data::State::default() };
    Record { applied, members, data, ..Record::default() }
}

fn record(manifest: &Manifest, group: &GroupPart, members: Membership) -> Record {
    let applied = Position { index: group.mark_index, term: group.mark_term };
    let (lineage, dots) = (manifest.lineage, group.dots);
    let data = data::State { lineage, dots, ..data::State::default() };
    Record { applied, members, data, ..Record::default() }
}

/// Loads the rows of groups, each from a part that has it. Groups and their partitions come in the
/// order of their keys.
fn load_rows(commit: &mut Commit, groups: &[(&Source, &GroupPart)]) -> Result<()> {
    let partitions =
        || groups.iter().flat_map(|(source, group)| group.partitions.iter().map(|p| (*source, p)));
    let chunks = partitions()
        .flat_map(|(source, partition)| partition.chunks.iter().map(move |hash| (source, *hash)));
    parallel::in_order(
        chunks,
        |(source, hash)| source.chunk(hash),
        |rows| commit.load(keys::DATA, rows?.iter()),
    )?;
    for (_, partition) in partitions() {
        let index = partition.data_index.to_be_bytes();
        let key = keys::partition_index(partition.id);
        commit.rows([(key.as_slice(), Some(&index[..]))].into_iter())?;
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
    cluster::state::Settings::founding(
        identity.cluster,
        identity.lineage,
        replication_factor,
        identity.topology,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{error::Kind, ids::SnapshotSeq},
        part::{manifest, sample::Sample},
    };

    #[test]
    fn an_id_is_drawn_once_but_for_one_that_a_crash_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let found = |text: &str| {
            fs::write(dir.path().join(NODE), text).unwrap();
            node_id(dir.path(), || NodeId(7)).map_err(|e| e.kind)
        };
        assert_eq!(node_id(dir.path(), || NodeId(5)), Ok(NodeId(5)));
        assert_eq!(node_id(dir.path(), || NodeId(6)), Ok(NodeId(5)));
        assert_eq!(
            [found("123\n"), found("12"), found("")],
            [Ok(NodeId(123)), Ok(NodeId(7)), Ok(NodeId(7))]
        );
        assert_eq!([found("0\n"), found("node\n"), found("\n")], [Err(Kind::Corrupt); 3]);
    }

    fn identity(format: u32) -> Identity {
        Identity {
            format,
            node: NodeId(1),
            cluster: crate::base::ids::ClusterId(crate::base::clock::Random::seeded(1).uuid()),
            lineage: Lineage(1),
            restored_from: None,
            topology: crate::base::ids::Topology::new(64, 8).unwrap(),
        }
    }

    #[test]
    fn a_store_of_format_2_is_read_and_written_as_one_of_format_3_from_its_first_opening_on() {
        let dir = tempfile::tempdir().unwrap();
        let large = |byte: u8| vec![byte; 1 << 20];
        let rows = [(&b"da"[..], vec![1]), (b"db", large(2)), (b"dc", large(3)), (b"dd", large(4))];
        store::tests::write_format_2(dir.path(), &wire::encode_identity(&identity(2)), &rows);

        let found = |store: &Store, key: &[u8]| {
            store.view().unwrap().get(key).unwrap().map(|row| row.to_vec())
        };
        let (store, opened) = open(dir.path(), &disk::Machine).unwrap();
        assert_eq!(opened, identity(3));
        for (key, row) in &rows {
            assert_eq!(found(&store, key).as_ref(), Some(row), "a row is cut from its old place");
        }
        let mut commit = store.begin().unwrap();
        let (small, new) = ([9], large(5));
        commit
            .rows([(&b"da"[..], Some(&new[..])), (b"db", Some(&small)), (b"dc", None)].into_iter())
            .unwrap();
        commit.finish().unwrap();
        drop(store);

        let (store, opened) = open(dir.path(), &disk::Machine).unwrap();
        assert_eq!(opened, identity(3), "the first opening is for good");
        assert_eq!(found(&store, b"da"), Some(large(5)));
        assert_eq!(found(&store, b"db"), Some(vec![9]));
        assert_eq!(found(&store, b"dc"), None);
        assert_eq!(found(&store, b"dd"), Some(large(4)), "a row that nobody wrote stays");
    }

    #[test]
    fn a_program_refuses_a_store_of_a_newer_format_by_name_and_leaves_it_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let newer = wire::encode_identity(&identity(FORMAT + 1));
        drop(Store::create(dir.path(), &disk::Machine, &newer).unwrap());
        let refused = |e: Error, format: u32, newest: u32| {
            let says = format!(
                "{} was written by a newer version: its format is {format}, this program reads up \
                 to {newest}; start that version",
                dir.path().display()
            );
            assert_eq!((e.kind, e.message), (Kind::Conflict, says));
        };
        let Err(e) = open(dir.path(), &disk::Machine) else { panic!("it was opened") };
        refused(e, FORMAT + 1, FORMAT);
        let store = Store::open(dir.path(), &disk::Machine).unwrap();
        assert_eq!(store.identity().unwrap(), newer);
        // What a program of format 2 says of a store that this one has opened.
        refused(refuse_newer(dir.path(), FORMAT, 2).unwrap_err(), FORMAT, 2);
    }

    #[test]
    fn a_store_that_cannot_be_made_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(FORMAT);
        let full = |_: &mut Commit| Err(Error::exhausted("the disk is full"));
        assert_eq!(make(dir.path(), FOUNDING, &identity, full).unwrap_err().kind, Kind::Exhausted);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_restored_group_counts_its_dots_on_from_its_mark_and_one_of_the_first_format_from_none() {
        for format in 1..=manifest::FORMAT {
            let (part, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let sample = Sample::new(1);
            sample.extract(part.path());
            if format == 1 {
                let mut manifest = sample.part().0;
                manifest.format = format;
                manifest.groups.iter_mut().for_each(|group| group.dots = 0);
                fs::write(part.path().join(MANIFEST), manifest.encode().unwrap().0).unwrap();
            }
            let source = Source::open(part.path()).unwrap();
            let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
            let mut commit = store.begin().unwrap();
            load(&mut commit, &source, source.manifest()).unwrap();
            commit.finish().unwrap();
            let record =
                wire::decode_record(&store.view().unwrap().group(GroupId(5)).unwrap().unwrap())
                    .unwrap();
            let dots = if format == 1 { 0 } else { 1005 };
            assert_eq!(
                record.data,
                data::State { lineage: source.manifest().lineage, dots, requests: 0 }
            );
            assert_eq!(
                (record.applied, record.mark),
                (Position { index: 105, term: 2 }, SnapshotSeq(0))
            );
        }
    }
}
