//! What committed entries do: rows into the overlay, members into the record, answers to those who
//! asked.
//!
//! Rule R5 of `docs/cut.md` stands here: behind a mark that its proposer did not know to be
//! resolved, a user's command is a no-op. Those who asked are queued again, and the leader's queue
//! holds them until the snapshot is resolved, so they see nothing of it but the wait.
//!
//! # What cannot be applied
//!
//! An entry that is committed stays in the log, and a node that ends over it ends over it at each
//! start. So what no version of this program can apply is passed over, with an error that calls
//! somebody (`News::Skipped`); the node goes on serving, since every replica has done the same.
//! That is safe because all replicas see the same bytes after the same entries, and each of these
//! is told from bytes and members alone:
//!
//! - bytes that are no entry, or hold a command without an action (`wire::decode_entry`);
//! - a command of the meta group in a data group, or the reverse: what an action is for is part of
//!   what it means, in every version;
//! - a membership change that cannot be read, or that raft-rs refuses for the members that there
//!   are.
//!
//! What a *newer* version may have written is another matter: that one applies it, so a node that
//! passed over it would hold other rows from then on. It ends the node, which says that it has to
//! be upgraded.

use std::path::Path;

use super::{
    Engine, Host, News,
    consensus::{Holds, Logged, entries},
    group::Waiting,
    opened,
};
use crate::{
    base::{
        error::{Error, Kind, Result},
        ids::{GroupId, SnapshotSeq, Topology},
    },
    cluster::{self, Changed, Event},
    data::{self, Machine, Reply, RowKey},
    entry::{Action, Entry, Identity},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    store::{View, keys, transfer},
    wire,
};

/// Reads the rows that have come for a group to their end, and returns the record that they begin
/// with. `Corrupt` unless they could be served from: a node that finds out only when they are in
/// place finds out at each start again.
pub fn check_rows(path: &Path, topology: Topology, group: GroupId) -> Result<Vec<u8>> {
    let (mut remembered, mut configuration) = (Vec::new(), Vec::new());
    let record = transfer::check(path, topology, group, |key, value| {
        match (key.first(), keys::slot_of_request(key)) {
            (_, Some(slot)) => remembered.push((slot, wire::decode_remembered(&value)?)),
            (Some(&keys::DATA), _) => {
                drop(wire::decode_row(&RowKey::decode(&key[1..])?.place, &value.into())?)
            }
            (Some(&keys::META), _) => configuration.push((key[1..].to_vec(), value)),
            _ => {}
        }
        Ok(())
    })?;
    let known = wire::decode_record(&record)?;
    if group.is_meta() {
        let state = wire::decode_meta(
            configuration.iter().map(|(name, row)| (name.as_slice(), row.as_slice())),
        )?;
        if known.mark > state.settings().begun {
            return Err(Error::corrupt(format!(
                "the meta group is marked for snapshot {}, which it has not begun",
                known.mark
            )));
        }
    } else {
        Machine::open(topology, group, known.data, remembered)?;
    }
    Ok(record)
}

/// A data group's machine with the requests it remembers, as stored.
pub(super) fn load_machine(
    view: &View,
    topology: Topology,
    id: GroupId,
    state: data::State,
) -> Result<Machine> {
    let mut remembered = Vec::new();
    for row in view.range(&keys::requests(id))? {
        let (key, bytes) = row?;
        let slot = keys::slot_of(&key).ok_or_else(|| {
            Error::corrupt(format!("group {id} has a remembered request without a slot"))
        })?;
        remembered.push((slot, wire::decode_remembered(&bytes)?));
    }
    Machine::open(topology, id, state, remembered)
}

/// The cluster's configuration, as stored.
pub fn load_meta(view: &View, identity: &Identity) -> Result<cluster::State> {
    let rows = view.range(&(vec![keys::META]..vec![keys::META + 1]))?;
    let rows = rows
        .map(|row| row.map(|(key, bytes)| (key[1..].to_vec(), bytes)))
        .collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        Ok(cluster::State::unknown(identity.unknown_settings()))
    } else {
        wire::decode_meta(rows.iter().map(|(k, v)| (k.as_slice(), v.as_ref())))
    }
}

/// What one entry did, apart from its effect on rows.
#[derive(Default)]
struct Effect {
    replies: Vec<Option<Reply>>,
    marked: Option<SnapshotSeq>,
    events: Vec<Event>,
    members_changed: bool,
    /// Why something in it was passed over.
    skipped: Vec<String>,
}

impl Effect {
    /// Passes over a command.
    fn skip(&mut self, why: &str) {
        self.skipped.push(why.to_owned());
        self.replies.push(Some(Reply::Refused(Error::invalid(format!("nothing was done: {why}")))));
    }
}

impl Engine {
    /// Applies committed entries of one group, in order.
    pub(super) fn apply(
        &mut self,
        id: GroupId,
        entries: Vec<entries::Raw>,
        host: &mut dyn Host,
    ) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let bytes_before = self.groups.get(id).map_or(0, |g| g.overlay_bytes());
        for entry in entries {
            let entry = Logged::of(entry);
            let at = entry.at;
            if entry.changes_members() {
                self.commit_members(id, at.index)?;
            }
            let effect = self
                .apply_entry(id, entry)
                .map_err(|e| e.at(format!("applying entry {} of group {id}", at.index)))?;
            let group = self.group(id);
            group.advance_applied(at);
            failpoint(Failpoint::Applied);
            for why in effect.skipped {
                host.tell(News::Skipped { group: id, at, why });
            }
            let asked = group.take_proposed(at);
            self.answer_entry(id, asked, effect.replies, host)?;
            if let Some(seq) = effect.marked {
                self.mark_applied(id, seq, host)?;
            }
            for event in effect.events {
                self.on_event(&event, at.index, host)?;
            }
            if effect.members_changed {
                self.tick_group(id);
            }
        }
        let bytes = opened(&mut self.groups, id).overlay_bytes();
        self.checkpoints.add(bytes.saturating_sub(bytes_before));
        Ok(())
    }

    /// Makes it durable that a membership change is committed, before it takes effect. Otherwise a
    /// node that restarts from rows older than the change would not know of it: one that once was
    /// alone in its group would elect itself, and roll back what the others have acknowledged
    /// since. With the commit index on disk raft-rs does not stand for election before it has
    /// applied the change again.
    fn commit_members(&mut self, id: GroupId, index: u64) -> Result<()> {
        let mut batch = crate::log::Batch::default();
        self.group(id).persist_commit(index, &mut batch)?;
        self.log.write(&mut batch, true)?;
        failpoint(Failpoint::ChangeCommitted);
        Ok(())
    }

    fn apply_entry(&mut self, id: GroupId, entry: Logged) -> Result<Effect> {
        let Engine { groups, meta, meta_changed, view, .. } = self;
        let group = opened(groups, id);
        let mut effect = Effect::default();
        let (at, commands) = match entry {
            Logged { holds: Holds::Nothing, .. } => return Ok(effect),
            Logged { holds: Holds::Commands(commands), at } => (at, commands),
            Logged { holds: Holds::Change(change), at } => {
                match change.and_then(|change| group.change_members(change, at.index)) {
                    Ok(()) => effect.members_changed = true,
                    Err(e) if e.kind == Kind::Corrupt => effect.skipped.push(e.message),
                    Err(e) => return Err(e),
                }
                return Ok(effect);
            }
            Logged { holds: Holds::NewerChange, .. } => {
                return Err(Error::conflict(
                    "a newer version has changed members in a way that this one does not know: \
                     upgrade this node",
                ));
            }
        };
        let Entry { seen, commands } = match wire::decode_entry(&commands) {
            Err(e) if e.kind == Kind::Corrupt => {
                effect.skipped.push(e.message);
                return Ok(effect);
            }
            decoded => decoded?,
        };
        for command in commands {
            let reply = match command.action {
                action
                    if action.is_user()
                        && group.fence().fenced(seen)
                        && !mutated(Mutation::NoHold) =>
                {
                    drop(action);
                    None
                }
                Action::Mark(seq) => {
                    if group.apply_mark(seq, at) {
                        effect.marked = Some(seq);
                    }
                    Some(Reply::Done { changed: effect.marked.is_some() })
                }
                Action::Data(data) => {
                    let Some(reply) = group.apply(command.request, &data, at.index, view)? else {
                        effect.skip(
                            "it holds a command for a data group, and stands in the log of the \
                             meta group",
                        );
                        continue;
                    };
                    Some(reply)
                }
                Action::Meta(_) if !id.is_meta() => {
                    effect.skip(
                        "it holds a command for the meta group, and stands in the log of a data \
                         group",
                    );
                    continue;
                }
                Action::Meta(command) => {
                    let applied = meta.apply(&command);
                    // A level that this version does not know: others may use it from here on.
                    meta.settings().check()?;
                    meta_changed.extend(applied.changed);
                    effect.events.extend(applied.events);
                    Some(applied.reply.map_or_else(Reply::Refused, |outcome| Reply::Done {
                        changed: outcome.changed(),
                    }))
                }
            };
            effect.replies.push(reply);
        }
        Ok(effect)
    }

    /// Answers whoever asked for an entry's commands; those that a mark has turned into no-ops wait
    /// again.
    fn answer_entry(
        &mut self,
        id: GroupId,
        asked: Vec<Waiting>,
        replies: Vec<Option<Reply>>,
        host: &mut dyn Host,
    ) -> Result<()> {
        let mut again = Vec::new();
        for (waiting, reply) in asked.into_iter().zip(replies) {
            match reply {
                Some(reply) => self.finish(waiting.asker, id, reply, host)?,
                None => again.push(waiting),
            }
        }
        self.group(id).enqueue_again(again);
        Ok(())
    }

    fn on_event(&mut self, event: &Event, index: u64, host: &mut dyn Host) -> Result<()> {
        match event {
            Event::NodeChanged(_) | Event::NodeRemoved(_) => self.tell_nodes(host),
            Event::AssignmentsChanged => {
                self.note_departures();
                self.tick_members();
            }
            Event::SnapshotBegun(seq) => self.snapshot_begun(*seq, index, host)?,
            Event::SnapshotSealed(seq) | Event::SnapshotAborted(seq) => {
                self.snapshot_resolved(*seq, host)
            }
            Event::SnapshotDeleted(id) => {
                host.tell(News::Snapshot(Box::new(super::SnapshotNews::Deleted { id: *id })))
            }
            Event::SnapshotDeleting(seq) => self.tell_deletion(*seq, host),
            Event::AccessChanged => self.tell_access(host),
            // Tokens hold in the history of which they are.
            Event::LineageEstablished(lineage) => {
                self.adopt(*lineage, host)?;
                self.tell_access(host);
            }
        }
        Ok(())
    }

    pub(super) fn tell_nodes(&mut self, host: &mut dyn Host) {
        self.note_members();
        host.tell(News::Nodes(
            self.meta.nodes().values().map(|n| (n.id, n.address.clone())).collect(),
        ));
        if !self.meta.removed().is_empty() {
            host.tell(News::Removed(self.meta.removed().keys().copied().collect()));
        }
    }

    pub(super) fn tell_access(&mut self, host: &mut dyn Host) {
        let (access, lineage) = (self.meta.access().clone(), self.meta.settings().lineage);
        host.tell(News::Access(Box::new(access), lineage));
    }

    /// The meta group's rows that have changed since its last layer was sealed.
    pub(super) fn changed_meta_rows(&mut self) -> Vec<(Vec<u8>, Option<bytes::Bytes>)> {
        let changed: Vec<Changed> = std::mem::take(&mut self.meta_changed).into_iter().collect();
        changed
            .iter()
            .map(|c| (keys::meta(&wire::meta_row_name(c)), wire::encode_meta_row(&self.meta, c)))
            .collect()
    }
}
