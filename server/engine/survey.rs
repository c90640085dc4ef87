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

use super::consensus::{
    Change, Holds, Logged, Role,
    entries::{self, Raw},
};
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
        let entry = Logged::of(entry);
        survey.last = entry.at;
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
    mut see: impl FnMut(Raw) -> Result<()>,
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
    fn take(&mut self, entry: Logged, fence: &mut Fence) -> Result<()> {
        let commands = match entry.holds {
            Holds::Nothing => return Ok(()),
            Holds::Commands(commands) => commands,
            Holds::Change(Ok(change)) => {
                self.change_members(change, entry.at.index);
                return Ok(());
            }
            // `apply` passes over it too.
            Holds::Change(Err(_)) => return Ok(()),
            Holds::NewerChange => {
                return Err(Error::conflict(
                    "a newer version has changed members in a way that this one does not know: \
                     use that version",
                ));
            }
        };
        let decoded = match wire::decode_entry(&commands) {
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

    fn change_members(&mut self, change: Change, index: u64) {
        let mut members = self.members.last().cloned().unwrap_or_default();
        members.voters.remove(&change.node);
        members.learners.remove(&change.node);
        match change.to {
            Role::Voter => drop(members.voters.insert(change.node)),
            Role::Learner => drop(members.learners.insert(change.node)),
            Role::Nothing => {}
        }
        // raft-rs refuses a change that leaves no voter.
        if !members.voters.is_empty() {
            if index <= self.commit {
                self.members.clear();
            }
            self.members.push(members);
        }
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
    let mut replaced: Vec<Raw> = Vec::new();
    each_behind(log, group, applied.index, last, |entry| {
        if entries::changes_members(&entry) {
            replaced.push(entries::emptied(&entry));
        } else if !replaced.is_empty() {
            replaced.push(entry);
        }
        Ok(())
    })?;
    if replaced.is_empty() { Ok(()) } else { batch.append(group, &replaced) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raft::eraftpb::{ConfChange, ConfChangeType, Entry as RaftEntry, EntryType};

    use super::*;
    use crate::{
        base::{
            disk::Machine,
            ids::{NodeId, SiteId},
        },
        cluster,
        entry::{self, Entry},
    };

    const GROUP: GroupId = GroupId(3);

    fn at(index: u64) -> Position {
        Position { index, term: 7 }
    }

    fn normal(index: u64, seen: u64, actions: Vec<Action>) -> RaftEntry {
        let commands =
            actions.into_iter().map(|action| entry::Command { request: None, action }).collect();
        let data = wire::encode_entry(&Entry { seen: SnapshotSeq(seen), commands });
        RaftEntry { index, term: 7, data: data.into(), ..RaftEntry::default() }
    }

    fn change(index: u64, kind: ConfChangeType, node: u64) -> RaftEntry {
        let mut change = ConfChange::default();
        change.set_change_type(kind);
        change.node_id = node;
        let data = protobuf::Message::write_to_bytes(&change).unwrap();
        let mut entry = RaftEntry { index, term: 7, data: data.into(), ..RaftEntry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        entry
    }

    fn record(applied: u64, voters: &[u64]) -> Record {
        let voters = voters.iter().copied().map(NodeId).collect();
        let members = Membership { voters, learners: Default::default() };
        Record { applied: at(applied), members, ..Record::default() }
    }

    fn log_with(dir: &tempfile::TempDir, entries: &[RaftEntry], commit: u64) -> Log {
        let log = Log::open(dir.path(), Arc::new(Machine)).unwrap();
        let mut batch = Batch::default();
        batch.append(GROUP, entries).unwrap();
        let begin = Position { index: entries[0].index - 1, term: 7 };
        batch.begin(GROUP, begin).unwrap();
        let state = raft::eraftpb::HardState { term: 9, vote: 2, commit, ..Default::default() };
        batch.hard_state(GROUP, &state).unwrap();
        log.write(&mut batch, true).unwrap();
        log
    }

    fn voters(survey: &Survey) -> Vec<Vec<u64>> {
        survey.members.iter().map(|m| m.voters.iter().map(|node| node.0).collect()).collect()
    }

    #[test]
    fn the_end_the_members_and_the_mark_are_those_of_the_whole_log() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [
            normal(11, 0, vec![]),
            change(12, ConfChangeType::AddNode, 2),
            normal(13, 0, vec![Action::Mark(SnapshotSeq(4))]),
            change(14, ConfChangeType::AddLearnerNode, 3),
            change(15, ConfChangeType::AddNode, 3),
            change(16, ConfChangeType::RemoveNode, 1),
        ];
        let log = log_with(&dir, &entries, 12);
        let found = survey(&log, GROUP, &record(11, &[1]), None).unwrap();
        assert_eq!((found.last, found.commit, found.term), (at(16), 12, 9));
        assert_eq!(found.mark, SnapshotSeq(4));
        // The lone voter of before is not asked: what is committed behind it is.
        assert_eq!(voters(&found), [vec![1, 2], vec![1, 2], vec![1, 2, 3], vec![2, 3]]);
    }

    #[test]
    fn a_log_that_ends_before_the_rows_ends_with_them_and_one_with_a_gap_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = log_with(&dir, &[normal(11, 0, vec![]), normal(12, 0, vec![])], 12);
        let ends = |applied: u64| survey(&log, GROUP, &record(applied, &[1]), None);
        assert_eq!(ends(40).unwrap().last, at(40));
        assert_eq!(ends(10).unwrap().last, at(12));
        let gap = ends(9).unwrap_err();
        assert_eq!(gap.kind, Kind::Corrupt, "{gap}");
        // Rows that came from another node, of a term that the log does not have there.
        let other = Record { applied: Position { index: 11, term: 8 }, ..record(11, &[1]) };
        let found = survey(&log, GROUP, &other, None).unwrap();
        assert_eq!(found.last, other.applied);
    }

    #[test]
    fn the_configuration_has_all_of_the_log_but_what_a_mark_has_fenced() {
        let dir = tempfile::tempdir().unwrap();
        let add = |site: &str| Action::Meta(cluster::Command::AddSite(SiteId::new(site).unwrap()));
        let entries = [
            normal(11, 0, vec![add("one")]),
            normal(12, 0, vec![Action::Mark(SnapshotSeq(4)), add("fenced")]),
            normal(13, 4, vec![add("two")]),
        ];
        let log = log_with(&dir, &entries, 11);
        let node = cluster::Node {
            id: NodeId(1),
            address: "n1:1".into(),
            capacity_percent: 100,
            version: "1".into(),
            snapshot_store: false,
            lineage: Default::default(),
            level: cluster::level::Level::FIRST,
            leaving: false,
            draining: false,
            certificate_name: None,
        };
        let settings = crate::cluster::state::Settings::founding(
            crate::base::ids::ClusterId(crate::base::clock::Random::seeded(1).uuid()),
            crate::base::ids::Lineage(1),
            3,
            crate::base::ids::Topology::new(64, 4).unwrap(),
        );
        let before = State::found(settings.unwrap(), node).unwrap();
        let found = survey(&log, GROUP, &record(10, &[1]), Some(before)).unwrap();
        let sites = found.meta.unwrap();
        let names: Vec<_> = sites.sites().sites().keys().map(|site| site.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn changes_of_members_lose_their_effect_and_everything_else_stays_however_often_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let entries = [
            normal(11, 0, vec![]),
            change(12, ConfChangeType::AddNode, 2),
            normal(13, 0, vec![Action::Mark(SnapshotSeq(4))]),
            change(14, ConfChangeType::AddNode, 3),
            normal(15, 0, vec![]),
        ];
        let log = log_with(&dir, &entries, 15);
        let empty = |index: u64| RaftEntry { index, term: 7, ..RaftEntry::default() };
        let [one, _, three, _, five] = entries.clone();
        let expected = [one, empty(12), three, empty(14), five];
        for _ in 0..2 {
            let mut batch = Batch::default();
            without_changes(&log, GROUP, at(11), &mut batch).unwrap();
            log.write(&mut batch, true).unwrap();
            assert_eq!(log.entries(GROUP, 11, 16, None).unwrap(), expected);
        }
        let found = survey(&log, GROUP, &record(11, &[1]), None).unwrap();
        assert_eq!((found.last, voters(&found)), (at(15), vec![vec![1]]));
        // A change that the rows have already stays as it was.
        drop(log);
        let dir = tempfile::tempdir().unwrap();
        let log = log_with(&dir, &entries, 15);
        let mut batch = Batch::default();
        without_changes(&log, GROUP, at(14), &mut batch).unwrap();
        assert!(batch.is_empty());
    }
}
