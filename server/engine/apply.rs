//! What committed entries do: rows into the overlay, members into the record, answers to those who asked.
//!
//! The cut's rule R5 stands here: behind a mark that its proposer did not know to be resolved, a user's command is a no-op. Those who asked are queued again,
//! and the leader's queue holds them until the snapshot is resolved, so they see nothing of it but the wait.

use std::ops::Range;

use raft::eraftpb::{ConfChange, Entry as RaftEntry, EntryType};

use super::{
    Engine, Host, News,
    group::{Asker, Group, Proposed, Waiting},
    overlay::{Overlay, Reader},
    storage,
};
use crate::{
    cluster::{self, Changed, Event},
    data::{self, Machine, Reply, Row, RowKey},
    entry::{Action, Entry, Identity, Position},
    error::{Error, Result},
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, SnapshotSeq, Topology},
    planted::{Mistake, planted},
    store::{View, keys},
    wire,
};

/// The rows of a data group as its machine sees them.
pub(super) struct GroupRows<'a> {
    pub overlay: &'a mut Overlay,
    pub view: &'a View,
}

/// The same, only to look at.
pub(super) struct SeenRows<'a>(pub Reader<'a>);

impl data::Rows for GroupRows<'_> {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        get(&Reader { overlay: self.overlay, view: self.view }, key)
    }
    fn set(&mut self, key: &RowKey, row: Option<Row>) -> Result<()> {
        self.overlay.set(keys::data(&key.encode()), row.map(|row| wire::encode_row(&row)));
        Ok(())
    }
    fn visit(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(RowKey, Row) -> Result<bool>) -> Result<()> {
        visit(&Reader { overlay: self.overlay, view: self.view }, from, to, each)
    }
}

impl data::Rows for SeenRows<'_> {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        get(&self.0, key)
    }
    fn set(&mut self, key: &RowKey, _: Option<Row>) -> Result<()> {
        Err(Error::conflict(format!("a read tried to change a row of site {:?}", key.site.as_str())))
    }
    fn visit(&self, from: &[u8], to: &[u8], each: &mut dyn FnMut(RowKey, Row) -> Result<bool>) -> Result<()> {
        visit(&self.0, from, to, each)
    }
}

fn get(reader: &Reader<'_>, key: &RowKey) -> Result<Option<Row>> {
    reader.get(&keys::data(&key.encode()))?.map(|bytes| wire::decode_row(&key.place, &bytes)).transpose()
}

fn visit(reader: &Reader<'_>, from: &[u8], to: &[u8], each: &mut dyn FnMut(RowKey, Row) -> Result<bool>) -> Result<()> {
    let range: Range<Vec<u8>> = keys::data(from)..keys::data(to);
    for row in reader.range(&range)? {
        let (key, bytes) = row?;
        let key = RowKey::decode(&key[1..])?;
        let row = wire::decode_row(&key.place, &bytes)?;
        if !each(key, row)? {
            break;
        }
    }
    Ok(())
}

/// A data group's machine with the requests it remembers, as stored.
pub(super) fn load_machine(view: &View, topology: Topology, id: GroupId, state: data::State) -> Result<Machine> {
    let mut remembered = Vec::new();
    for row in view.range(&keys::requests(id))? {
        let (key, bytes) = row?;
        let slot = keys::slot_of(&key).ok_or_else(|| Error::corrupt(format!("group {id} has a remembered request without a slot")))?;
        remembered.push((slot, wire::decode_remembered(&bytes)?));
    }
    Machine::open(topology, id, state, remembered)
}

/// The cluster's configuration, as stored.
pub(super) fn load_meta(view: &View, identity: &Identity) -> Result<cluster::State> {
    let rows = view.range(&(vec![keys::META]..vec![keys::META + 1]))?;
    let rows = rows.map(|row| row.map(|(key, bytes)| (key[1..].to_vec(), bytes))).collect::<Result<Vec<_>>>()?;
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
}

impl Engine {
    /// Applies committed entries of one group, in order.
    pub(super) fn apply(&mut self, id: GroupId, entries: Vec<RaftEntry>, host: &mut dyn Host) -> Result<()> {
        let bytes_before = self.groups.get(&id).map_or(0, |g| g.overlay.bytes());
        for entry in entries {
            let at = Position { index: entry.index, term: entry.term };
            if entry.get_entry_type() != EntryType::EntryNormal {
                self.commit_members(id, at.index)?;
            }
            let effect = self.apply_entry(id, entry).map_err(|e| e.at(format!("applying entry {} of group {id}", at.index)))?;
            let group = self.groups.get_mut(&id).expect("groups are not dropped within a round");
            group.record.applied = at;
            group.raw.advance_apply_to(at.index);
            failpoint(Failpoint::Applied);
            let asked = take_proposed(group, at);
            self.answer_entry(id, asked, effect.replies, host)?;
            if let Some(x) = effect.marked {
                self.mark_applied(id, x, host)?;
            }
            for event in effect.events {
                self.on_event(&event, at.index, host)?;
            }
            if effect.members_changed {
                self.tend_group(id);
            }
        }
        let bytes = self.groups.get(&id).map_or(0, |g| g.overlay.bytes());
        self.checkpoints.bytes += bytes.saturating_sub(bytes_before);
        Ok(())
    }

    /// Makes it durable that a membership change is committed, before it takes effect. Otherwise a node that restarts from rows older than the change would
    /// not know of it: one that once was alone in its group would elect itself, and roll back what the others have acknowledged since. With the commit
    /// index on disk raft-rs does not stand for election before it has applied the change again.
    fn commit_members(&mut self, id: GroupId, index: u64) -> Result<()> {
        let group = self.groups.get_mut(&id).expect("groups are not dropped within a round");
        let mut batch = crate::log::Batch::default();
        group.raw.mut_store().persist_commit(index, &mut batch)?;
        self.log.write(&mut batch, true)?;
        failpoint(Failpoint::ChangeCommitted);
        Ok(())
    }

    fn apply_entry(&mut self, id: GroupId, entry: RaftEntry) -> Result<Effect> {
        let Engine { groups, meta, meta_changed, view, .. } = self;
        let group = groups.get_mut(&id).expect("groups are not dropped within a round");
        if entry.get_entry_type() != EntryType::EntryNormal {
            change_members(group, &entry)?;
            return Ok(Effect { members_changed: true, ..Effect::default() });
        }
        let mut effect = Effect::default();
        if entry.data.is_empty() {
            return Ok(effect);
        }
        let Entry { seen, commands } = wire::decode_entry(&entry.data)?;
        for command in commands {
            let reply = match command.action {
                action if action.is_user() && group.fence.fenced(seen) && !planted(Mistake::NoHold) => {
                    drop(action);
                    None
                }
                Action::Mark(x) => {
                    if group.fence.apply_mark(x) || planted(Mistake::CapturedTwice) {
                        let at = Position { index: entry.index, term: entry.term };
                        if !planted(Mistake::MarkNotStored) {
                            (group.record.mark, group.record.mark_at) = (x, at);
                        }
                        effect.marked = Some(x);
                    }
                    Some(Reply::Done { changed: effect.marked.is_some() })
                }
                Action::Data(command_data) => {
                    let Group { machine, overlay, changed, record, .. } = &mut **group;
                    let machine = machine.as_mut().ok_or_else(|| Error::corrupt("a command for a data group stands in the meta group's log"))?;
                    let reply = machine.apply(command.request, &command_data, &mut GroupRows { overlay, view })?;
                    changed.extend(machine.take_touched().into_iter().map(|p| (p, entry.index)));
                    record.data = machine.state();
                    Some(reply)
                }
                Action::Meta(command) => {
                    if !id.is_meta() {
                        return Err(Error::corrupt("a command for the meta group stands in a data group's log"));
                    }
                    let applied = meta.apply(&command);
                    meta_changed.extend(applied.changed);
                    effect.events.extend(applied.events);
                    Some(applied.reply.map_or_else(Reply::Refused, |outcome| Reply::Done { changed: outcome.changed() }))
                }
            };
            effect.replies.push(reply);
        }
        Ok(effect)
    }

    /// Answers whoever asked for an entry's commands; those that a mark has turned into no-ops wait again.
    fn answer_entry(&mut self, id: GroupId, asked: Vec<Waiting>, replies: Vec<Option<Reply>>, host: &mut dyn Host) -> Result<()> {
        let mut again = Vec::new();
        for (waiting, reply) in asked.into_iter().zip(replies) {
            match reply {
                Some(reply) => self.finish(waiting.asker, id, reply, host)?,
                None => again.push(waiting),
            }
        }
        let group = self.groups.get_mut(&id).expect("groups are not dropped within a round");
        for waiting in again.into_iter().rev() {
            group.queue.push_front(waiting);
        }
        Ok(())
    }

    fn on_event(&mut self, event: &Event, index: u64, host: &mut dyn Host) -> Result<()> {
        match event {
            Event::NodeChanged(_) => self.tell_nodes(host),
            Event::AssignmentsChanged => self.tend_members(),
            Event::SnapshotBegun(x) => self.snapshot_begun(*x, index),
            Event::SnapshotSealed(x) | Event::SnapshotAborted(x) => self.snapshot_resolved(*x, host),
            Event::SnapshotDeleted(id) => host.tell(News::Snapshot(Box::new(super::SnapshotNews::Deleted { id: *id }))),
            Event::LineageEstablished(lineage) => self.adopt(*lineage, host)?,
        }
        Ok(())
    }

    pub(super) fn tell_nodes(&self, host: &mut dyn Host) {
        host.tell(News::Nodes(self.meta.nodes().values().map(|n| (n.id, n.address.clone())).collect()));
    }

    /// The meta group's rows that have changed since its last layer was sealed.
    pub(super) fn changed_meta_rows(&mut self) -> Vec<(Vec<u8>, Option<bytes::Bytes>)> {
        let changed: Vec<Changed> = std::mem::take(&mut self.meta_changed).into_iter().collect();
        changed.iter().map(|c| (keys::meta(&wire::meta_row_name(c)), wire::encode_meta_row(&self.meta, c))).collect()
    }
}

fn change_members(group: &mut Group, entry: &RaftEntry) -> Result<()> {
    if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
        return Err(Error::corrupt("a membership change of a kind that this version does not make"));
    }
    let change: ConfChange = protobuf::Message::parse_from_bytes(&entry.data).map_err(|e| Error::corrupt(format!("a membership change: {e}")))?;
    let state = group.raw.apply_conf_change(&change).map_err(|e| Error::corrupt(format!("a membership change is refused: {e}")))?;
    group.record.members = storage::membership(&state);
    let members = group.record.members.clone();
    group.raw.mut_store().set_members(members);
    failpoint(Failpoint::MembersChanged);
    Ok(())
}

/// Who asked for the entry at a place; nobody when another leader's entry took that place.
fn take_proposed(group: &mut Group, at: Position) -> Vec<Waiting> {
    while group.proposed.front().is_some_and(|p| p.at.index < at.index) {
        group.proposed.pop_front();
    }
    match group.proposed.front() {
        Some(Proposed { at: place, .. }) if *place == at => group.proposed.pop_front().map(|p| p.commands).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Keeps `Asker` and the group's own commands in one place: what nobody asked for is proposed like the rest.
pub(super) fn nobodys(command: crate::entry::Command, deadline: std::time::Duration) -> Waiting {
    Waiting { asker: Asker::Nobody, command, deadline }
}
