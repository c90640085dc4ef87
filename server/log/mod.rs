//! The Raft logs of all local groups in one raft-engine: one append and one fsync write the entries
//! of every group that a round of the engine touched.
//!
//! For each group the log keeps the entries, the hard state and its beginning, which is the index
//! and term of the last entry that was dropped because the store covers it. Groups keep recent
//! entries in memory and read only older ones from here. Only this folder uses raft-engine.

mod files;

use std::{path::Path, sync::Arc};

use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use self::files::{Extent, Failed, Files};
use crate::{
    base::{
        disk::Disk,
        error::{Context as _, Error, Kind, Result},
        ids::GroupId,
    },
    entry::Position,
    faults::failpoint::{Failpoint, failpoint},
};

const HARD_STATE: &[u8] = b"hard-state";
const BEGIN: &[u8] = b"begin";

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;
    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// All logs of a node. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    engine: Arc<Engine<Files>>,
    failed: Failed,
    extent: Arc<Extent>,
}

/// What becomes durable together.
#[derive(Default)]
pub struct Batch {
    batch: LogBatch,
}

/// What the log knows of a group.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub hard_state: HardState,
    /// The entry before the first.
    pub begin: Position,
    pub last_index: u64,
}

impl Log {
    pub fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Log> {
        let config = Config {
            dir: dir.join("log").to_string_lossy().into_owned(),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            // In one order, so that a simulated restart can be repeated.
            recovery_threads: 1,
            target_file_size: ReadableSize::mb(32),
            purge_threshold: ReadableSize::mb(256),
            ..Config::default()
        };
        let (files, failed, extent) = Files::on(&dir.join("log"), disk).at(dir.display())?;
        let engine = Engine::open_with_file_system(config, Arc::new(files))
            .map_err(|e| broken("opening the log", e))?;
        let log = Log { engine: Arc::new(engine), failed, extent };
        log.check()?;
        log.extent.file().at("the note of how far the log is synced")?;
        Ok(log)
    }

    /// Groups that have ever been written here.
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<_> = self
            .engine
            .raft_groups()
            .into_iter()
            .map(|region| GroupId((region - 1) as u32))
            .collect();
        groups.sort_unstable();
        groups
    }

    pub fn find(&self, group: GroupId) -> Result<Found> {
        let hard_state = self
            .engine
            .get_message(region(group), HARD_STATE)
            .map_err(|e| broken("reading a hard state", e))?
            .unwrap_or_default();
        let begin = self
            .engine
            .get(region(group), BEGIN)
            .map(|b| decode_position(&b))
            .transpose()?
            .unwrap_or_default();
        let last_index = self.engine.last_index(region(group)).unwrap_or(0).max(begin.index);
        Ok(Found { hard_state, begin, last_index })
    }

    /// Drops all entries of a group; what it has voted for stays.
    pub fn forget(&self, group: GroupId) -> Result<()> {
        let found = self.find(group)?;
        if found.last_index == 0 {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.restart(group, Position::default(), found.last_index)?;
        self.write(&mut batch, true)
    }

    /// Entries `low..high`, at least one, and no more than about `bytes_max`.
    pub fn entries(
        &self,
        group: GroupId,
        low: u64,
        high: u64,
        bytes_max: Option<u64>,
    ) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let bytes_max = bytes_max.map(|b| b as usize);
        self.engine
            .fetch_entries_to::<Entries>(region(group), low, high, bytes_max, &mut entries)
            .map_err(|e| broken(&format!("reading entries {low}..{high} of group {group}"), e))?;
        Ok(entries)
    }

    /// Writes a batch; with `sync` it is durable when this returns. An error means that the node
    /// has to stop: the log's state is unknown.
    pub fn write(&self, batch: &mut Batch, sync: bool) -> Result<()> {
        self.check()?;
        self.engine.write(&mut batch.batch, sync).map_err(|e| broken("writing the log", e))?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(e) => Err(Error::unavailable(format!("syncing the log: {e}"))),
        }
    }

    /// Gives the space of entries back that begin before every group's log does.
    pub fn purge(&self) -> Result<()> {
        self.engine.purge_expired_files().map_err(|e| broken("purging the log", e))?;
        failpoint(Failpoint::LogPurged);
        self.check()
    }

    /// Notes how far the log is synced, so that damage before that is told from the torn end that a
    /// crash leaves.
    pub fn note_extent(&self) -> Result<()> {
        self.extent.note().at("noting how far the log is synced")
    }

    pub fn bytes(&self) -> u64 {
        self.engine.get_used_size() as u64
    }
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// About what it holds.
    pub fn bytes(&self) -> usize {
        self.batch.approximate_size()
    }

    pub fn append(&mut self, group: GroupId, entries: &[Entry]) -> Result<()> {
        self.batch
            .add_entries::<Entries>(region(group), entries)
            .map_err(|e| broken("gathering entries", e))
    }

    pub fn hard_state(&mut self, group: GroupId, state: &HardState) -> Result<()> {
        self.batch
            .put_message(region(group), HARD_STATE.to_vec(), state)
            .map_err(|e| broken("gathering a hard state", e))
    }

    /// Drops entries up to and including `begin`.
    pub fn begin(&mut self, group: GroupId, begin: Position) -> Result<()> {
        self.batch
            .put(region(group), BEGIN.to_vec(), encode_position(begin))
            .map_err(|e| broken("gathering a position", e))?;
        self.batch.add_command(region(group), Command::Compact { index: begin.index + 1 });
        Ok(())
    }

    /// Drops every entry: the next one may have any index behind `begin`.
    pub fn restart(&mut self, group: GroupId, begin: Position, last_index: u64) -> Result<()> {
        self.batch
            .put(region(group), BEGIN.to_vec(), encode_position(begin))
            .map_err(|e| broken("gathering a position", e))?;
        self.batch.add_command(
            region(group),
            Command::Compact { index: last_index.max(begin.index) + 1 },
        );
        Ok(())
    }
}

/// Region 0 is raft-engine's own.
fn region(group: GroupId) -> u64 {
    u64::from(group.0) + 1
}

fn encode_position(p: Position) -> Vec<u8> {
    [p.index.to_be_bytes(), p.term.to_be_bytes()].concat()
}

fn decode_position(bytes: &[u8]) -> Result<Position> {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    match (number(0), number(8)) {
        (Some(index), Some(term)) => Ok(Position { index, term }),
        _ => Err(Error::corrupt(format!("a log's beginning is 16 bytes, not {}", bytes.len()))),
    }
}

fn broken(doing: &str, e: raft_engine::Error) -> Error {
    let kind = match &e {
        raft_engine::Error::Corruption(_)
        | raft_engine::Error::Codec(_)
        | raft_engine::Error::EntryNotFound
        | raft_engine::Error::EntryCompacted
        | raft_engine::Error::Protobuf(_) => Kind::Corrupt,
        raft_engine::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Kind::Exhausted
        }
        raft_engine::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => Kind::Corrupt,
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("{doing}: {e}")).with_source(e)
}

/// Bytes that an entry takes, for bounds.
pub fn entry_bytes(entry: &Entry) -> usize {
    entry.compute_size() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::disk::Machine;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: format!("entry {index}").into(), ..Entry::default() }
    }

    #[test]
    fn what_was_written_is_found_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let group = GroupId::META;
        {
            let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
            let mut batch = Batch::default();
            batch.append(group, &[entry(6, 5), entry(7, 5), entry(8, 6)]).unwrap();
            batch
                .hard_state(
                    group,
                    &HardState { term: 6, vote: 9, commit: 7, ..HardState::default() },
                )
                .unwrap();
            batch.begin(group, Position { index: 5, term: 5 }).unwrap();
            log.write(&mut batch, true).unwrap();
            let mut batch = Batch::default();
            batch.begin(group, Position { index: 6, term: 5 }).unwrap();
            log.write(&mut batch, false).unwrap();
        }
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        let found = log.find(group).unwrap();
        assert_eq!(
            (found.begin, found.last_index, found.hard_state.vote),
            (Position { index: 6, term: 5 }, 8, 9)
        );
        let entries = log.entries(group, 7, 9, None).unwrap();
        assert_eq!(entries, [entry(7, 5), entry(8, 6)]);
        assert_eq!(log.groups(), [group]);
    }

    #[test]
    fn damage_before_what_was_noted_as_synced_is_not_taken_for_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let write = |log: &Log, index| {
            let mut batch = Batch::default();
            batch.append(GroupId(0), &[entry(index, 5)]).unwrap();
            log.write(&mut batch, true).unwrap();
        };
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        (6..=8).for_each(|index| write(&log, index));
        log.note_extent().unwrap();
        (9..=11).for_each(|index| write(&log, index));
        drop(log);
        let path = dir.path().join("log/0000000000000001.raftlog");
        let whole = std::fs::read(&path).unwrap();
        let mut found = Vec::new();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, damaged).unwrap();
            match Log::open(dir.path(), Arc::new(Machine)) {
                Err(e) => assert!(
                    e.kind == Kind::Corrupt
                        && e.message.contains("0000000000000001.raftlog is damaged at byte "),
                    "{e}"
                ),
                Ok(log) => found.push(log.find(GroupId(0)).unwrap().last_index),
            }
        }
        assert!(found.len() * 7 < whole.len(), "no damage was noticed");
        assert!(
            found.iter().all(|last| *last >= 8),
            "entries that were synced before the note are forgotten: {found:?}"
        );
        // A torn end stays one.
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(
            Log::open(dir.path(), Arc::new(Machine)).unwrap().find(GroupId(0)).unwrap().last_index,
            10
        );
    }

    #[test]
    fn a_log_restarts_behind_a_snapshot_whatever_it_held() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        let group = GroupId(0);
        for (held, snapshot) in [(6..=9, 30), (31..=60, 40)] {
            let entries: Vec<_> = held.map(|i| entry(i, 5)).collect();
            let mut batch = Batch::default();
            batch.append(group, &entries).unwrap();
            log.write(&mut batch, true).unwrap();
            let mut batch = Batch::default();
            batch
                .restart(
                    group,
                    Position { index: snapshot, term: 7 },
                    entries.last().unwrap().index,
                )
                .unwrap();
            log.write(&mut batch, true).unwrap();
            assert_eq!(log.find(group).unwrap().last_index, snapshot);
            let mut batch = Batch::default();
            batch.append(group, &[entry(snapshot + 1, 8)]).unwrap();
            log.write(&mut batch, true).unwrap();
            assert_eq!(log.find(group).unwrap().last_index, snapshot + 1);
        }
    }
}
