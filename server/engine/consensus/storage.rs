//! One group's log as raft-rs wants to see it: what is on disk, with the recent entries kept in
//! memory, and the Raft snapshots that are ready to be announced.
//!
//! - `last` is on disk or in the batch that is being written; raft-rs is told of it only after the
//!   write.
//! - A Raft snapshot is announced to a node only after its rows have arrived there; until then
//!   raft-rs is told to come back later, and the wish is kept for the engine (`Offers`).

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::VecDeque,
};

use raft::{
    GetEntriesContext, RaftState, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

use super::offers::{Announced, Offers};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId},
        limits,
    },
    cluster::reconfigure::Membership,
    entry::Position,
    faults::mutation::{Mutation, mutated},
    log::{self, Batch, Log},
};

/// See the module.
pub struct GroupLog {
    group: GroupId,
    log: Log,
    hard_state: HardState,
    members: Membership,
    begin: Position,
    last: Position,
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// The last entry that is applied, as far as `forget` has said.
    applied: u64,
    /// Bytes appended since the start, and what they were at some entries, for whoever asks how far
    /// back so many bytes reach.
    appended: u64,
    steps: VecDeque<(u64, u64)>,
    /// raft-rs asks for a snapshot where it may only look.
    offers: RefCell<Offers>,
}

impl GroupLog {
    /// Opens a group's log. `applied` is where the stored rows are: the log may have been lost up
    /// to there, never behind it.
    pub fn open(
        log: Log,
        group: GroupId,
        applied: Position,
        members: Membership,
    ) -> Result<GroupLog> {
        let found = log.find(group)?;
        let mut hard_state = found.hard_state.clone();
        let mut this = GroupLog {
            group,
            hard_state: HardState::default(),
            members,
            begin: found.begin,
            last: found.begin,
            recent: VecDeque::new(),
            recent_bytes: 0,
            applied: applied.index,
            appended: 0,
            steps: VecDeque::new(),
            offers: RefCell::default(),
            log,
        };
        if found.last_index < applied.index || found.begin.index > applied.index {
            // A Raft snapshot's rows are stored before the log is told to begin behind them; a
            // crash in between ends here.
            if found.begin.index > applied.index {
                return Err(Error::corrupt(format!(
                    "group {group}: its log begins behind entry {} but its rows end at {}; the \
                     store has lost rows",
                    found.begin.index, applied.index
                )));
            }
            let mut batch = Batch::default();
            batch.restart(group, applied, found.last_index)?;
            this.log.write(&mut batch, true)?;
            (this.begin, this.last) = (applied, applied);
        } else if found.last_index > found.begin.index && this.log_diverges(&found, applied)? {
            // The same, where the log held other entries than those that the rows came with.
            let mut batch = Batch::default();
            batch.restart(group, applied, found.last_index)?;
            this.log.write(&mut batch, true)?;
            (this.begin, this.last) = (applied, applied);
        } else if found.last_index > found.begin.index {
            let last = this.log.entries(group, found.last_index, found.last_index + 1, None)?;
            let last = last.first().ok_or_else(|| {
                Error::corrupt(format!("group {group}: log entry {} is gone", found.last_index))
            })?;
            this.last = Position { index: last.index, term: last.term };
        }
        hard_state.commit = hard_state.commit.max(applied.index).min(this.last.index);
        if hard_state.term < this.last.term {
            (hard_state.term, hard_state.vote) = (this.last.term, 0);
        }
        this.hard_state = hard_state;
        Ok(this)
    }

    /// Whether the entry that the rows end with is another one in the log.
    fn log_diverges(&self, found: &log::Found, applied: Position) -> Result<bool> {
        if applied.index == found.begin.index {
            return Ok(applied.term != found.begin.term);
        }
        let entries = self.log.entries(self.group, applied.index, applied.index + 1, None)?;
        Ok(entries.first().is_none_or(|e| e.term != applied.term))
    }

    pub fn begin(&self) -> Position {
        self.begin
    }

    pub fn last(&self) -> Position {
        self.last
    }

    /// The members that are sent rows.
    pub fn offers(&self) -> Ref<'_, Offers> {
        self.offers.borrow()
    }

    pub fn offers_mut(&mut self) -> &mut Offers {
        self.offers.get_mut()
    }

    /// For who holds what raft-rs knows of the members at the same time.
    pub fn offers_to_review(&self) -> RefMut<'_, Offers> {
        self.offers.borrow_mut()
    }

    pub fn set_members(&mut self, members: Membership) {
        self.members = members;
    }

    /// Puts new entries into the batch and behind the ones there are, cutting off what they
    /// replace.
    pub fn append(&mut self, entries: &[Entry], batch: &mut Batch) -> Result<()> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        while self.recent.back().is_some_and(|e| e.index >= first.index) {
            self.recent_bytes -= self.recent.pop_back().map_or(0, |e| log::entry_bytes(&e));
        }
        if self.recent.back().is_some_and(|e| e.index + 1 != first.index) {
            self.recent.clear();
            self.recent_bytes = 0;
        }
        while self.steps.back().is_some_and(|(index, _)| *index >= first.index) {
            self.steps.pop_back();
        }
        for entry in entries {
            let bytes = log::entry_bytes(entry);
            self.recent_bytes += bytes;
            self.recent.push_back(entry.clone());
            self.appended += bytes as u64;
            if self.appended - self.steps.back().map_or(0, |(_, at)| *at) >= limits::LOG_BYTES_STEP
            {
                self.steps.push_back((entry.index, self.appended));
            }
        }
        // What is not applied is asked for as soon as it is committed.
        while self.recent.front().is_some_and(|e| {
            let applied = e.index <= self.applied;
            self.recent_bytes
                > if applied { limits::LOG_CACHE_BYTES } else { limits::LOG_CACHE_BYTES_MAX }
        }) {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |e| log::entry_bytes(&e));
        }
        self.last = Position { index: last.index, term: last.term };
        batch.append(self.group, entries)
    }

    /// Puts the hard state into the batch when losing it could matter: a commit index that is
    /// behind does not, except for membership changes.
    pub fn set_hard_state(&mut self, state: &HardState, batch: &mut Batch) -> Result<()> {
        let matters = (state.term, state.vote) != (self.hard_state.term, self.hard_state.vote);
        self.hard_state = state.clone();
        if matters { batch.hard_state(self.group, &written(state)) } else { Ok(()) }
    }

    /// Puts into the batch that everything up to an index is committed.
    pub fn persist_commit(&mut self, index: u64, batch: &mut Batch) -> Result<()> {
        self.hard_state.commit = self.hard_state.commit.max(index);
        batch.hard_state(self.group, &written(&self.hard_state))
    }

    /// Bytes of the entries that are kept in memory.
    pub fn recent_bytes(&self) -> usize {
        self.recent_bytes
    }

    /// Drops entries that are applied and that nobody lacks from memory, but for the last ones.
    /// They stay on disk.
    pub fn forget(&mut self, applied: u64, lacked: u64) {
        self.applied = applied;
        while self.recent_bytes > limits::LOG_CACHE_LEFT_BYTES
            && self.recent.front().is_some_and(|e| e.index <= applied.min(lacked))
        {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |e| log::entry_bytes(&e));
        }
    }

    pub fn set_commit(&mut self, commit: u64) {
        self.hard_state.commit = commit;
    }

    /// The last entry that so many bytes lie behind, as far as it is known; the beginning
    /// otherwise.
    pub fn behind(&self, bytes: u64) -> u64 {
        let behind = self.steps.iter().take_while(|(_, at)| self.appended - at >= bytes).last();
        behind.map_or(self.begin.index, |(index, _)| *index)
    }

    /// Drops entries up to and including `to`, which the stored rows cover.
    pub fn compact(&mut self, to: u64, batch: &mut Batch) -> Result<()> {
        if to <= self.begin.index {
            return Ok(());
        }
        let term = raft::Storage::term(self, to).map_err(|e| {
            Error::corrupt(format!("group {}: the term of entry {to} is gone: {e}", self.group))
                .with_source(e)
        })?;
        self.begin = Position { index: to, term };
        while self.steps.front().is_some_and(|(index, _)| *index <= to) {
            self.steps.pop_front();
        }
        while self.recent.front().is_some_and(|e| e.index <= to) {
            self.recent_bytes -= self.recent.pop_front().map_or(0, |e| log::entry_bytes(&e));
        }
        batch.begin(self.group, self.begin)
    }

    /// Begins again behind a Raft snapshot whose rows are stored.
    pub fn restart(&mut self, at: Position, members: Membership, batch: &mut Batch) -> Result<()> {
        batch.restart(self.group, at, self.last.index)?;
        (self.begin, self.last, self.members) = (at, at, members);
        self.hard_state.commit = self.hard_state.commit.max(at.index);
        self.recent.clear();
        self.steps.clear();
        self.recent_bytes = 0;
        Ok(())
    }

    /// Begins again at nothing, in a leader's term. A vote of that term stays.
    pub fn end(&mut self, term: u64, batch: &mut Batch) -> Result<()> {
        let known = &self.hard_state;
        let vote = if known.term == term { known.vote } else { 0 };
        let state = HardState { term, vote, commit: 0, ..HardState::default() };
        let nothing = Position::default();
        batch.restart(self.group, nothing, self.last.index)?;
        batch.hard_state(self.group, &written(&state))?;
        (self.begin, self.last, self.members) = (nothing, nothing, Membership::default());
        self.hard_state = state;
        self.recent.clear();
        self.steps.clear();
        self.recent_bytes = 0;
        Ok(())
    }
}

/// Cuts entries into runs: each ends with the entry that brings it to so many bytes.
pub fn in_bytes(entries: &[Entry], bytes: usize) -> impl Iterator<Item = &[Entry]> {
    let mut run = 0;
    entries.split_inclusive(move |entry| {
        run += log::entry_bytes(entry);
        let ends = run >= bytes;
        if ends {
            run = 0;
        }
        ends
    })
}

impl raft::Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), conf_state(&self.members)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max = max_size.into();
        if low <= self.begin.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last.index + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let Some(first) = self.recent.front().map(|e| e.index).filter(|first| *first <= low) else {
            return self
                .log
                .entries(self.group, low, high, max)
                .map_err(|e| StorageError::Other(e.into()).into());
        };
        let mut bytes = 0;
        let entries = self.recent.range((low - first) as usize..(high - first) as usize);
        let fit = entries.take_while(|e| {
            let fits = bytes == 0 || max.is_none_or(|max| bytes < max);
            bytes += log::entry_bytes(e) as u64;
            fits
        });
        Ok(fit.cloned().collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.begin.index {
            return Ok(self.begin.term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index < self.begin.index {
            return Err(StorageError::Compacted.into());
        }
        let entries = self.entries(index, index + 1, None, GetEntriesContext::empty(false))?;
        entries.first().map(|e| e.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.begin.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last.index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let needed = request_index.max(self.begin.index);
        match self.offers.borrow_mut().ask(NodeId(to), needed) {
            Some(Announced { at, members, name }) => {
                let mut snapshot = Snapshot { data: name.clone(), ..Snapshot::default() };
                let meta = snapshot.mut_metadata();
                (meta.index, meta.term) = (at.index, at.term);
                meta.set_conf_state(conf_state(members));
                Ok(snapshot)
            }
            None => Err(StorageError::SnapshotTemporarilyUnavailable.into()),
        }
    }
}

fn written(state: &HardState) -> HardState {
    if mutated(Mutation::VoteLost) {
        HardState { commit: state.commit, ..HardState::default() }
    } else {
        state.clone()
    }
}

pub fn conf_state(members: &Membership) -> ConfState {
    let ids =
        |set: &std::collections::BTreeSet<NodeId>| set.iter().map(|n| n.0).collect::<Vec<_>>();
    ConfState::from((ids(&members.voters), ids(&members.learners)))
}

pub fn membership(state: &ConfState) -> Membership {
    Membership {
        voters: state.get_voters().iter().map(|n| NodeId(*n)).collect(),
        learners: state.get_learners().iter().map(|n| NodeId(*n)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::Storage as _;

    use super::*;
    use crate::{base::disk::Machine, entry::LOG_BEGIN};

    #[test]
    fn entries_are_cut_into_runs_of_so_many_bytes() {
        let entry = |bytes: usize| Entry { data: vec![0; bytes].into(), ..Entry::default() };
        let entries = [10, 10, 500, 10, 200, 10].map(entry);
        let runs = |bytes| in_bytes(&entries, bytes).map(<[Entry]>::len).collect::<Vec<_>>();
        assert_eq!(runs(1), [1; 6]);
        assert_eq!(runs(200), [3, 2, 1]);
        assert_eq!(runs(10_000), [6]);
        assert_eq!(in_bytes(&[], 1).count(), 0);
    }

    #[test]
    fn what_is_not_applied_stays_in_memory_and_what_was_dropped_is_read_from_disk() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        let mut group =
            GroupLog::open(log.clone(), GroupId(0), LOG_BEGIN, Membership::default()).unwrap();
        let first = LOG_BEGIN.index + 1;
        let entries: Vec<_> = (first..first + 6)
            .map(|index| Entry {
                index,
                term: LOG_BEGIN.term,
                data: vec![index as u8; 1 << 20].into(),
                ..Entry::default()
            })
            .collect();
        for entry in &entries {
            let mut batch = Batch::default();
            group.append(std::slice::from_ref(entry), &mut batch).unwrap();
            log.write(&mut batch, true).unwrap();
        }
        let in_memory = |group: &GroupLog| group.recent.iter().map(|e| e.index).collect::<Vec<_>>();
        let read = |group: &GroupLog| {
            group.entries(first, first + 6, None, GetEntriesContext::empty(false)).unwrap()
        };
        assert_eq!(in_memory(&group), (first..first + 6).collect::<Vec<_>>());

        group.forget(first + 3, first + 1);
        assert_eq!(in_memory(&group), (first + 2..first + 6).collect::<Vec<_>>(), "one is lacked");
        assert_eq!(read(&group), entries);
        group.forget(first + 5, u64::MAX);
        assert_eq!((in_memory(&group), group.recent_bytes()), (vec![], 0));
        assert_eq!(read(&group), entries);
        assert_eq!(group.term(first + 2).unwrap(), LOG_BEGIN.term);
    }
}
