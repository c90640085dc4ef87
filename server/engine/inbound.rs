//! What other nodes say, once it has passed the door: which duty it belongs to, and where a Raft
//! message finds its replica.

use super::{
    Engine, Host, News,
    admission::{self, Facts, Replica, Verdict},
    consensus::{GroupLog, Message},
    group::Group,
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, NodeId, SnapshotSeq},
    },
    cluster::level::Level,
    data,
    entry::Record,
    proto::internal::v1::{self as internal, PeerMessage, peer_message},
};

impl Engine {
    pub(super) fn on_peer(
        &mut self,
        from: NodeId,
        message: PeerMessage,
        host: &mut dyn Host,
    ) -> Result<()> {
        let id = GroupId(message.group);
        if !self.is_active(id) {
            return Ok(());
        }
        match self.with_facts(from, id, |facts| admission::judge(facts, &message)) {
            Verdict::Take => {}
            Verdict::Later => return Ok(()),
            Verdict::Refuse(field) => {
                host.tell(News::Refused { from, group: id, field });
                return Ok(());
            }
        }
        match message.body {
            Some(peer_message::Body::Raft(raft)) => self.on_raft(id, raft)?,
            Some(peer_message::Body::Forward(forward)) => {
                self.on_forward(from, id, forward, host)?
            }
            Some(peer_message::Body::ForwardReply(reply)) => {
                self.on_forward_reply(from, id, reply, host)?
            }
            Some(peer_message::Body::MarkRequest(asked)) => {
                self.on_mark_request(from, SnapshotSeq(asked.seq), host)?
            }
            Some(peer_message::Body::Marked(marked)) => self.on_marked(marked, host)?,
            Some(peer_message::Body::Release(release)) => self.on_release(release),
            Some(peer_message::Body::EndRequest(asked)) => {
                self.on_end_request(from, id, asked, host)
            }
            Some(peer_message::Body::MayEnd(may)) => self.on_may_end(id, may, host)?,
            None => {}
        }
        Ok(())
    }

    /// Shows the door what this node knows of a sender and a group.
    pub(super) fn with_facts<T>(
        &self,
        from: NodeId,
        group: GroupId,
        judge: impl FnOnce(&Facts<'_>) -> T,
    ) -> T {
        let replicas = |group: GroupId| {
            let group = self.groups.get(group)?;
            Some(Replica {
                members: group.members(),
                term: group.term(),
                last_index: group.raft().last_index(),
                leader: group.raft().leader(),
                leads: group.leads(),
                follows: group.stands_by_leader(self.now),
            })
        };
        let asked = |number: u64| self.requests.get(number);
        judge(&Facts {
            me: self.me(),
            from,
            group,
            topology: self.topology(),
            meta: &self.meta,
            replica: replicas(group),
            replicas: &replicas,
            asked: &asked,
        })
    }

    /// Notes when a node of the cluster was heard.
    pub(super) fn note_heard(&mut self, node: NodeId) {
        if self.meta.node(node).is_some() {
            self.heard.note(node, self.now);
        }
    }

    pub(super) fn note_members(&mut self) {
        self.heard.note_members(self.meta.nodes().keys().copied(), self.now);
    }

    fn on_raft(&mut self, id: GroupId, raft: internal::RaftMessage) -> Result<()> {
        let tenure = raft.tenure;
        let Some(message) = Message::parse(raft) else { return Ok(()) };
        if message.brings_entries() && self.checkpoints.is_full() {
            // The store is behind; Raft sends them again.
            return Ok(());
        }
        if !self.groups.has(id) {
            self.make_room_for(id)?;
        }
        let group = self.groups.get_mut(id).expect("room was just made for it");
        if group.is_installing() {
            return Ok(());
        }
        if !group.may_take(&message, self.now, self.votes_from) {
            return Ok(());
        }
        if let Some(announced) = message.announces() {
            // Its rows came first; without them it cannot be followed, and the leader sends both
            // again.
            let arrived = self.arrived.get(&id);
            if !arrived.is_some_and(|arrived| arrived.iter().any(|rows| rows.are(&announced))) {
                return Ok(());
            }
        }
        // Members that have not heard yet which stay they are in do not name it.
        let named = self.meta.settings().level >= Level::DEPARTURE;
        if !group.is_of_this_stay(&message, tenure, named) {
            return Ok(());
        }
        group.step(message, &mut self.rng);
        self.awake.insert(id);
        Ok(())
    }

    /// A replica that knows nothing yet: a leader has found this node among those that should hold
    /// the group.
    fn make_room_for(&mut self, id: GroupId) -> Result<()> {
        let record = Record::default();
        let machine = if id.is_meta() {
            None
        } else {
            Some(data::Machine::open(self.topology(), id, record.data, [])?)
        };
        let log = GroupLog::open(self.log.clone(), id, record.applied, record.members.clone())?;
        let group = Group::open(self.me(), id, log, record, machine, &mut self.rng)?;
        self.groups.insert(group);
        Ok(())
    }
}
