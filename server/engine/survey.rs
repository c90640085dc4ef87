//! What a replica is while nobody runs it: how far its log reaches, and what stands in the log
//! behind the rows that the store holds.
//!
//! For `boot::recover`, which chooses among replicas of which most are lost. Relies on a locked
//! store and an open log. Changes neither, apart from `without_changes`, which fills a batch.
//!
//! - Entries are read as `apply` would read them: what `apply` passes over is passed over here, and
//!   what only a newer version can apply is an error that says so.
//! - The meta group's state machine is pure, so the whole log is replayed into it here. A data
//!   group's log is not replayed: the engine does that when the node starts.

use raft::eraftpb::{ConfChange, ConfChangeType, Entry as RaftEntry, EntryType};

use crate::{
    base::{
        error::{Error, Kind, Result},
        ids::{GroupId, SnapshotSeq},
        limits,
    },
    cluster::{State, reconfigure::Membership},
    cut::Fence,
    entry::{Action, Position, Record},
    log::{Batch, Log},
    wire,
};

/// A replica that has received something, and whose log is whole behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    pub last: Position,
    /// What the replica knew to be committed.
    pub commit: u64,
    pub term: u64,
    /// The members by what the replica knew to be committed, then after each change behind that.
    pub members: Vec<Membership>,
    /// The newest mark, in the rows or in the log.
    pub mark: SnapshotSeq,
    /// The meta group's state at the end of the log.
    pub meta: Option<State>,
}

/// Looks at one group. `meta` is the meta group's state at its applied entry. `Corrupt` where the
/// log is not whole behind the rows.
pub fn survey(log: &Log, group: GroupId, record: &Record, meta: Option<State>) -> Result<Survey> {
    let found = log.find(group)?;
    let (applied, state) = (record.applied, &found.hard_state);
    let mut survey = Survey {
        last: applied,
        commit: state.commit.min(found.last_index).max(applied.index),
        term: state.term.max(applied.term),
        members: vec![record.members.clone()],
        mark: record.mark,
        meta,
    };
    if found.begin.index > applied.index {
        return Err(Error::corrupt(format!(
            "its log begins behind entry {} and its rows end at {}",
            found.begin.index, applied.index
        )));
    }
    if begins_again(log, group, applied)? {
        survey.commit = applied.index;
        return Ok(survey);
    }
    let mut fence = Fence::stored(record.mark);
    each_behind(log, group, applied.index, found.last_index, |entry| {
        survey.last = Position { index: entry.index, term: entry.term };
        survey.take(entry, &mut fence)
    })?;
    survey.mark = fence.mark();
    survey.term = survey.term.max(survey.last.term);
    Ok(survey)
}

/// Whether the engine would let the log begin again behind the rows, as `GroupLog::open` does: the
/// rows came from another node, and the log was not told of it before a crash.
fn begins_again(log: &Log, group: GroupId, applied: Position) -> Result<bool> {
    let found = log.find(group)?;
    if found.last_index < applied.index {
        return Ok(true);
    }
    if found.begin.index == applied.index {
        return Ok(found.begin.term != applied.term);
    }
    let entries = log.entries(group, applied.index, applied.index + 1, None)?;
    Ok(entries.first().is_none_or(|entry| entry.term != applied.term))
}

/// Shows the entries `after..=last`, in order and without a gap.
fn each_behind(
    log: &Log,
    group: GroupId,
    after: u64,
    last: u64,
    mut see: impl FnMut(RaftEntry) -> Result<()>,
) -> Result<()> {
    let mut next = after + 1;
    while next <= last {
        let bytes = limits::LOG_WRITE_BYTES as u64;
        let entries = log.entries(group, next, last + 1, Some(bytes))?;
        let gone = || Error::corrupt(format!("its log lacks entry {next}"));
        if entries.first().ok_or_else(gone)?.index != next {
            return Err(gone());
        }
        for entry in entries {
            if entry.index != next {
                return Err(Error::corrupt(format!("its log lacks entry {next}")));
            }
            next += 1;
            see(entry)?;
        }
    }
    Ok(())
}

impl Survey {
    fn take(&mut self, entry: RaftEntry, fence: &mut Fence) -> Result<()> {
        if entry.get_entry_type() != EntryType::EntryNormal {
            return self.change_members(&entry);
        }
        if entry.data.is_empty() {
            return Ok(());
        }
        let decoded = match wire::decode_entry(&entry.data) {
            Err(e) if e.kind == Kind::Corrupt => return Ok(()),
            decoded => decoded?,
        };
        for command in decoded.commands {
            match command.action {
                action if action.is_user() && fence.fenced(decoded.seen) => drop(action),
                Action::Mark(seq) => drop(fence.apply_mark(seq)),
                Action::Meta(command) => {
                    if let Some(meta) = &mut self.meta {
                        // A refusal had no effect, and nobody waits for it.
                        drop(meta.apply(&command));
                        meta.settings().check()?;
                    }
                }
                Action::Data(_) => {}
            }
        }
        Ok(())
    }

    fn change_members(&mut self, entry: &RaftEntry) -> Result<()> {
        if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
            return Err(Error::conflict(
                "a newer version has changed members in a way that this one does not know: use \
                 that version",
            ));
        }
        let change: ConfChange = match protobuf::Message::parse_from_bytes(&entry.data) {
            Ok(change) => change,
            // `apply` passes over it too.
            Err(_) => return Ok(()),
        };
        let mut members = self.members.last().cloned().unwrap_or_default();
        let node = crate::base::ids::NodeId(change.node_id);
        members.voters.remove(&node);
        members.learners.remove(&node);
        match change.get_change_type() {
            ConfChangeType::AddNode => drop(members.voters.insert(node)),
            ConfChangeType::AddLearnerNode => drop(members.learners.insert(node)),
            ConfChangeType::RemoveNode => {}
        }
        // raft-rs refuses a change that leaves no voter.
        if !members.voters.is_empty() {
            if entry.index <= self.commit {
                self.members.clear();
            }
            self.members.push(members);
        }
        Ok(())
    }
}

/// Puts into the batch what makes every change of members behind the rows an entry without effect.
/// The replica is to be the only one of its group, so nobody else holds the entries that are
/// replaced; done twice, it is done once.
pub fn without_changes(
    log: &Log,
    group: GroupId,
    applied: Position,
    batch: &mut Batch,
) -> Result<()> {
    let last = log.find(group)?.last_index;
    if begins_again(log, group, applied)? {
        return Ok(());
    }
    let mut replaced: Vec<RaftEntry> = Vec::new();
    each_behind(log, group, applied.index, last, |entry| {
        let changes = entry.get_entry_type() != EntryType::EntryNormal;
        if changes {
            let (index, term) = (entry.index, entry.term);
            replaced.push(RaftEntry { index, term, ..RaftEntry::default() });
        } else if !replaced.is_empty() {
            replaced.push(entry);
        }
        Ok(())
    })?;
    if replaced.is_empty() { Ok(()) } else { batch.append(group, &replaced) }
}
