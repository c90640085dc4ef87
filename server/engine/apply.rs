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

use std::{ops::Range, path::Path};

use raft::eraftpb::{ConfChange, ConfChangeType, Entry as RaftEntry, EntryType};

use super::{
    Engine, Host, News,
    group::{Asker, Group, Proposed, Waiting},
    heard_within, opened,
    overlay::{Overlay, Reader},
    storage,
};
use crate::{
    base::{
        error::{Error, Kind, Result},
        ids::{GroupId, NodeId, SnapshotSeq, Topology},
    },
    cluster::{self, Changed, Event},
    data::{self, Machine, Reply, Row, RowKey},
    entry::{Action, Entry, Identity, Position},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    store::{View, keys, transfer},
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
    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()> {
        visit(&Reader { overlay: self.overlay, view: self.view }, from, to, each)
    }
}

impl data::Rows for SeenRows<'_> {
    fn get(&self, key: &RowKey) -> Result<Option<Row>> {
        get(&self.0, key)
    }
    fn set(&mut self, key: &RowKey, _: Option<Row>) -> Result<()> {
        Err(Error::conflict(format!(
            "a read tried to change a row of site {:?}",
            key.site.as_str()
        )))
    }
    fn visit(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
    ) -> Result<()> {
        visit(&self.0, from, to, each)
    }
}

fn get(reader: &Reader<'_>, key: &RowKey) -> Result<Option<Row>> {
    reader
        .get(&keys::data(&key.encode()))?
        .map(|bytes| wire::decode_row(&key.place, &bytes))
        .transpose()
}

fn visit(
    reader: &Reader<'_>,
    from: &[u8],
    to: &[u8],
    each: &mut dyn FnMut(RowKey, Row) -> Result<bool>,
) -> Result<()> {
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
        entries: Vec<RaftEntry>,
        host: &mut dyn Host,
    ) -> Result<()> {
        let bytes_before = self.groups.get(&id).map_or(0, |g| g.overlay.bytes());
        for entry in entries {
            let at = Position { index: entry.index, term: entry.term };
            if entry.get_entry_type() != EntryType::EntryNormal {
                self.commit_members(id, at.index)?;
            }
            let effect = self
                .apply_entry(id, entry)
                .map_err(|e| e.at(format!("applying entry {} of group {id}", at.index)))?;
            let group = self.group(id);
            group.record.applied = at;
            group.raw.advance_apply_to(at.index);
            failpoint(Failpoint::Applied);
            for why in effect.skipped {
                host.tell(News::Skipped { group: id, at, why });
            }
            let asked = take_proposed(group, at);
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
        let group = opened(&mut self.groups, id);
        group.forget_applied(heard_within(&self.heard, self.now));
        let bytes = group.overlay.bytes();
        self.checkpoints.bytes += bytes.saturating_sub(bytes_before);
        Ok(())
    }

    /// Makes it durable that a membership change is committed, before it takes effect. Otherwise a
    /// node that restarts from rows older than the change would not know of it: one that once was
    /// alone in its group would elect itself, and roll back what the others have acknowledged
    /// since. With the commit index on disk raft-rs does not stand for election before it has
    /// applied the change again.
    fn commit_members(&mut self, id: GroupId, index: u64) -> Result<()> {
        let group = self.group(id);
        let mut batch = crate::log::Batch::default();
        group.raw.mut_store().persist_commit(index, &mut batch)?;
        self.log.write(&mut batch, true)?;
        failpoint(Failpoint::ChangeCommitted);
        Ok(())
    }

    fn apply_entry(&mut self, id: GroupId, entry: RaftEntry) -> Result<Effect> {
        let Engine { groups, meta, meta_changed, view, .. } = self;
        let group = opened(groups, id);
        let mut effect = Effect::default();
        if entry.get_entry_type() != EntryType::EntryNormal {
            match change_members(group, &entry) {
                Ok(()) => effect.members_changed = true,
                Err(e) if e.kind == Kind::Corrupt => effect.skipped.push(e.message),
                Err(e) => return Err(e),
            }
            return Ok(effect);
        }
        if entry.data.is_empty() {
            return Ok(effect);
        }
        let Entry { seen, commands } = match wire::decode_entry(&entry.data) {
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
                        && group.fence.fenced(seen)
                        && !mutated(Mutation::NoHold) =>
                {
                    drop(action);
                    None
                }
                Action::Mark(seq) => {
                    if group.fence.apply_mark(seq) || mutated(Mutation::CapturedTwice) {
                        let at = Position { index: entry.index, term: entry.term };
                        if !mutated(Mutation::MarkNotStored) {
                            (group.record.mark, group.record.mark_at) = (seq, at);
                        }
                        effect.marked = Some(seq);
                    }
                    Some(Reply::Done { changed: effect.marked.is_some() })
                }
                Action::Data(command_data) => {
                    let Group { machine, overlay, changed, record, .. } = group;
                    let Some(machine) = machine else {
                        effect.skip(
                            "it holds a command for a data group, and stands in the log of the \
                             meta group",
                        );
                        continue;
                    };
                    let reply = machine.apply(
                        command.request,
                        &command_data,
                        &mut GroupRows { overlay, view },
                    )?;
                    changed.extend(machine.take_touched().into_iter().map(|p| (p, entry.index)));
                    record.data = machine.state();
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
        let group = self.group(id);
        for waiting in again.into_iter().rev() {
            group.queue.push_front(waiting);
        }
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

/// `Corrupt` where no version could make the change.
fn change_members(group: &mut Group, entry: &RaftEntry) -> Result<()> {
    if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
        return Err(Error::conflict(
            "a newer version has changed members in a way that this one does not know: upgrade \
             this node",
        ));
    }
    let change: ConfChange = protobuf::Message::parse_from_bytes(&entry.data).map_err(|e| {
        Error::corrupt(format!("a membership change cannot be read: {e}")).with_source(e)
    })?;
    let node = NodeId(change.node_id);
    let was_member = group.members().has(node);
    let state = group.raw.apply_conf_change(&change).map_err(|e| {
        Error::corrupt(format!("a membership change is refused: {e}")).with_source(e)
    })?;
    let members = storage::membership(&state);
    group.left &= change.node_id != group.raw.raft.id
        || change.get_change_type() == ConfChangeType::RemoveNode;
    group.changed_at = entry.index;
    if !members.has(node) {
        // Rows of this stay are none of the next one's.
        group.raw.mut_store().offers.get_mut().remove(&node);
    }
    if group.leads() && !was_member && members.has(node) {
        group.tenures.begin(group.term(), node, entry.index);
    }
    group.record.members = members.clone();
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
        Some(Proposed { at: place, .. }) if *place == at => {
            group.proposed.pop_front().map(|p| p.commands).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Keeps `Asker` and the group's own commands in one place: what nobody asked for is proposed like
/// the rest.
pub(super) fn internal_command(
    command: crate::entry::Command,
    deadline: std::time::Duration,
) -> Waiting {
    Waiting { asker: Asker::Nobody, command, deadline }
}
