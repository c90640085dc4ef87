//! Takes requests to the leaders of their groups, and answers back. Where a request goes is decided
//! in `requests`.
//!
//! What may not be asked of a group is refused where it comes in (`admission`): once it is proposed
//! it is in the log for good.
//!
//! A request is routed when it comes, when leadership changes, and when it was not answered. A node
//! that leads takes it into the group's queue; any other sends it on, or says who it believes
//! leads.

use std::time::Duration;

use super::{
    Engine, Host, News,
    admission::{self, Objection},
    group::Waiting,
    message,
    read_index::Read,
    requests::{Asker, Body, For, Hop, Known, Request},
};
use crate::{
    base::{
        error::{Kind, Result},
        ids::{GroupId, NodeId},
        limits,
    },
    data::{self, Reply},
    entry::{Action, Command},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    proto::internal::{v1 as internal, v1::peer_message},
    wire,
};

impl Engine {
    pub(super) fn on_request(
        &mut self,
        for_whom: For,
        group: GroupId,
        body: Body,
        deadline: Duration,
        host: &mut dyn Host,
    ) -> Result<()> {
        let objection = self.with_facts(self.me(), group, |facts| match &body {
            Body::Propose(command) => admission::command(facts, command),
            Body::Read { query, .. } => admission::query(facts, query),
        });
        if let Err(Objection::Wrong(_, e)) = objection {
            return self.deliver(&for_whom, Err(e), host);
        }
        let number = self.requests.add(Request::new(for_whom, group, body, deadline));
        self.route(number, host)
    }

    /// Asks the cluster for something on the engine's own behalf. It is asked again later if it is
    /// still wanted, so nobody waits for the answer.
    pub(super) fn ask(
        &mut self,
        group: GroupId,
        command: impl Into<Command>,
        for_whom: For,
        host: &mut dyn Host,
    ) -> Result<()> {
        let deadline = self.now + limits::REQUEST_DEADLINE;
        self.on_request(for_whom, group, Body::Propose(command.into()), deadline, host)
    }

    /// Takes a request to where it is to be answered.
    pub(super) fn route(&mut self, number: u64, host: &mut dyn Host) -> Result<()> {
        let Some(request) = self.requests.get(number) else { return Ok(()) };
        let (id, me) = (request.group, self.me());
        let holds = request.is_stale_read() && self.holds(id);
        let group = self.groups.get(id);
        let leads = group.is_some_and(|group| group.leads());
        let replicas = self.meta.assignments().get(&id).filter(|_| !leads);
        let replicas = replicas.map_or(&[][..], Vec::as_slice);
        let known = Known {
            holds,
            leads,
            follows: replicas.contains(&me) && group.is_some_and(|group| group.has_replica()),
            leader: group.and_then(|group| group.leader()),
            replicas,
        };
        match self.requests.next_hop(number, &known, self.now) {
            Some(Hop::AnswerHere) => self.answer_here(number, id, host),
            Some(Hop::Lead) => self.lead(number, id, host),
            Some(Hop::Forward(to)) => {
                self.forward(number, to, host);
                Ok(())
            }
            Some(Hop::Wait) | None => Ok(()),
        }
    }

    /// A stale read is answered from what this node has.
    fn answer_here(&mut self, number: u64, id: GroupId, host: &mut dyn Host) -> Result<()> {
        let Some(Request { body: Body::Read { query, .. }, .. }) = self.requests.get(number) else {
            return Ok(());
        };
        let query = query.clone();
        self.answer_read(id, Asker::Mine(number), &query, host)
    }

    /// Puts a request into the queue of a group that this node leads.
    fn lead(&mut self, number: u64, id: GroupId, host: &mut dyn Host) -> Result<()> {
        let Some(request) = self.requests.get(number) else { return Ok(()) };
        let (asker, deadline) = (Asker::Mine(number), request.deadline);
        match request.body.clone() {
            Body::Read { query, .. } => {
                self.group(id).reads_mut().add(Read { asker, query, deadline });
            }
            Body::Propose(command) => {
                match self.may_propose(id, &command) {
                    Ok(()) => {}
                    Err(Objection::Later) => {
                        self.requests.ask_again(number);
                        return Ok(());
                    }
                    Err(Objection::Wrong(_, e)) => {
                        return self.finish(asker, id, Reply::Refused(e), host);
                    }
                }
                if let Err(full) = self.group(id).enqueue(Waiting { asker, command, deadline }) {
                    return self.finish(asker, id, Reply::Refused(full), host);
                }
            }
        }
        self.requests.queued(number, self.now);
        self.awake.insert(id);
        Ok(())
    }

    /// Whether a command of this node may be proposed now. A write was looked at when it came, and
    /// waits for nobody's word.
    fn may_propose(&self, id: GroupId, command: &Command) -> std::result::Result<(), Objection> {
        match &command.action {
            Action::Data(data::Command::Write(_)) => Ok(()),
            _ => self.with_facts(self.me(), id, |facts| admission::command(facts, command)),
        }
    }

    /// Sends a request to the node that is believed to lead its group.
    fn forward(&mut self, number: u64, to: NodeId, host: &mut dyn Host) {
        let Some(request) = self.requests.get(number) else { return };
        let left = request.deadline.saturating_sub(self.now).as_millis();
        let asked = match &request.body {
            Body::Propose(command) => internal::forward::Request::Command(wire::command(command)),
            Body::Read { query, stale } => {
                internal::forward::Request::Query(wire::query(query, *stale))
            }
        };
        let forward = internal::Forward {
            id: number,
            deadline_ms: left.min(u128::from(u32::MAX)) as u32,
            request: Some(asked),
            again: request.is_again(),
        };
        let id = request.group;
        failpoint(Failpoint::Forwarding);
        host.send(to, message(id, peer_message::Body::Forward(forward)));
        failpoint(Failpoint::Forwarded);
    }

    pub(super) fn on_forward(
        &mut self,
        from: NodeId,
        id: GroupId,
        forward: internal::Forward,
        host: &mut dyn Host,
    ) -> Result<()> {
        let deadline = self.now
            + Duration::from_millis(u64::from(forward.deadline_ms))
                .min(limits::REQUEST_DEADLINE_MAX);
        let asker = Asker::Theirs(from, forward.id);
        let leads = self.groups.get(id).is_some_and(|g| g.leads());
        match forward.request {
            // The copy that came first is answered.
            Some(internal::forward::Request::Command(_))
                if leads
                    && forward.again
                    && self.groups.get(id).is_some_and(|g| g.holds(asker)) => {}
            Some(internal::forward::Request::Command(command)) if leads => {
                let command = match wire::parse_command(command) {
                    Ok(command) => command,
                    Err(e) => return self.finish(asker, id, Reply::Refused(e), host),
                };
                match self.with_facts(from, id, |facts| admission::command(facts, &command)) {
                    Ok(()) => {}
                    Err(Objection::Later) => return self.put_off(from, forward.id, id, host),
                    Err(Objection::Wrong(field, e)) => {
                        // What the registry has overtaken is nobody's fault.
                        if e.kind == Kind::Invalid {
                            host.tell(News::Refused { from, group: id, field });
                        }
                        return self.finish(asker, id, Reply::Refused(e), host);
                    }
                }
                if let Err(full) = self.group(id).enqueue(Waiting { asker, command, deadline }) {
                    return self.finish(asker, id, Reply::Refused(full), host);
                }
                self.awake.insert(id);
            }
            Some(internal::forward::Request::Query(query)) => {
                let (query, stale) = match wire::parse_query(query) {
                    Ok(parsed) => parsed,
                    Err(e) => return self.finish(asker, id, Reply::Refused(e), host),
                };
                if let Err(Objection::Wrong(field, e)) =
                    self.with_facts(from, id, |facts| admission::query(facts, &query))
                {
                    host.tell(News::Refused { from, group: id, field });
                    return self.finish(asker, id, Reply::Refused(e), host);
                }
                if leads && !stale {
                    self.group(id).reads_mut().add(Read { asker, query, deadline });
                    self.awake.insert(id);
                } else if stale && self.holds(id) {
                    self.answer_read(id, asker, &query, host)?;
                } else {
                    self.decline(from, forward.id, id, host);
                }
            }
            _ => self.decline(from, forward.id, id, host),
        }
        Ok(())
    }

    /// Tells a node that this one leads, and cannot take its request yet.
    fn put_off(
        &mut self,
        to: NodeId,
        forward: u64,
        id: GroupId,
        host: &mut dyn Host,
    ) -> Result<()> {
        let reply = internal::ForwardReply { id: forward, leader: self.me().0, reply: None };
        host.send(to, message(id, peer_message::Body::ForwardReply(reply)));
        Ok(())
    }

    /// Tells a node that this one does not lead, and who does as far as it knows.
    pub(super) fn decline(&mut self, to: NodeId, forward: u64, id: GroupId, host: &mut dyn Host) {
        let leader = self
            .groups
            .get(id)
            .and_then(|g| g.leader())
            .or_else(|| self.requests.hint(id))
            .filter(|l| *l != self.me());
        let reply =
            internal::ForwardReply { id: forward, leader: leader.map_or(0, |l| l.0), reply: None };
        host.send(to, message(id, peer_message::Body::ForwardReply(reply)));
    }

    pub(super) fn on_forward_reply(
        &mut self,
        from: NodeId,
        id: GroupId,
        reply: internal::ForwardReply,
        host: &mut dyn Host,
    ) -> Result<()> {
        if let Some(answer) = reply.reply {
            self.requests.note_leader(id, Some(from));
            let answer = wire::parse_reply(answer).unwrap_or_else(Reply::Refused);
            return self.finish(Asker::Mine(reply.id), id, answer, host);
        }
        let leader = Some(NodeId(reply.leader)).filter(|leader| *leader != NodeId(0));
        if self.requests.declined(reply.id, id, from, leader) {
            self.route(reply.id, host)?;
        }
        Ok(())
    }

    /// Gives an answer to the asker.
    pub(super) fn finish(
        &mut self,
        asker: Asker,
        id: GroupId,
        reply: Reply,
        host: &mut dyn Host,
    ) -> Result<()> {
        match asker {
            Asker::Nobody => {}
            Asker::Mine(number) => {
                if let Some(request) = self.requests.answered(number, &reply) {
                    if mutated(Mutation::NotAnswered) && number.is_multiple_of(50) {
                        return Ok(());
                    }
                    let answer = if let Reply::Refused(e) = reply { Err(e) } else { Ok(reply) };
                    self.deliver(&request.for_whom, answer, host)?;
                }
            }
            Asker::Theirs(node, forward) => {
                let reply = internal::ForwardReply {
                    id: forward,
                    leader: self.me().0,
                    reply: Some(wire::reply(&reply)),
                };
                failpoint(Failpoint::ForwardAnswering);
                host.send(node, message(id, peer_message::Body::ForwardReply(reply)));
                failpoint(Failpoint::ForwardAnswered);
            }
        }
        Ok(())
    }

    pub(super) fn deliver(
        &mut self,
        for_whom: &For,
        answer: Result<Reply>,
        host: &mut dyn Host,
    ) -> Result<()> {
        match for_whom {
            For::Caller(token) => host.answer(*token, answer),
            For::Site(site, was) => self.on_site_step(site.clone(), *was, answer, host)?,
            For::Nobody => {}
        }
        Ok(())
    }
}
