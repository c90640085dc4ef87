//! The way of a request to the leader of its group, and of the answer back.
//!
//! What may not be asked of a group is refused where it comes in (`admission`): once it is proposed
//! it is in the log for good.
//!
//! A request is routed when it comes, when leadership changes, and when it was not answered. A node
//! that leads takes it into the group's queue; any other sends it on, or says who it believes
//! leads. A copy that is refused speaks for itself only: where an earlier one may still have its
//! effect, the request is tried again until its deadline.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Engine, Host, News,
    admission::{self, Objection},
    group::Waiting,
    message,
    read_index::Read,
    requests::{Asker, Body, For, Request},
};
use crate::{
    base::{
        error::{Error, Kind, Result},
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
        let asked = BTreeSet::new();
        let number = self.requests.add(Request {
            for_whom,
            group,
            body,
            deadline,
            sent: None,
            asked,
            exposed: false,
            sendings: 0,
            declined: None,
            hops: 0,
        });
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

    /// Hands a request to the node that is believed to lead its group.
    pub(super) fn route(&mut self, number: u64, host: &mut dyn Host) -> Result<()> {
        let Some(request) = self.requests.open.get_mut(&number) else { return Ok(()) };
        let (id, me) = (request.group, self.identity.node);
        request.sendings += 1;
        if let Body::Read { query, stale: true } = &request.body {
            let query = query.clone();
            if self.holds(id) {
                return self.answer_read(id, Asker::Mine(number), &query, host);
            }
        }
        let leads = self.groups.get(&id).is_some_and(|g| g.leads());
        let request = self.requests.open.get_mut(&number).expect("it was just looked at");
        // A write was looked at when it came, and waits for nobody's word.
        if leads
            && let Body::Propose(command) = &request.body
            && !matches!(command.action, Action::Data(data::Command::Write(_)))
        {
            // Without a place where it was sent it is asked again on the next tick.
            request.sent = None;
            let command = command.clone();
            match self.with_facts(me, id, |facts| admission::command(facts, &command)) {
                Ok(()) => {}
                Err(Objection::Later) => return Ok(()),
                Err(Objection::Wrong(_, e)) => {
                    return self.finish(Asker::Mine(number), id, Reply::Refused(e), host);
                }
            }
        }
        let request = self.requests.open.get_mut(&number).expect("it was just looked at");
        if let Some(group) = self.groups.get_mut(&id).filter(|g| g.leads()) {
            request.sent = Some((me, self.now));
            let (asker, deadline) = (Asker::Mine(number), request.deadline);
            match request.body.clone() {
                Body::Propose(command) => {
                    if let Err(full) = group.enqueue(Waiting { asker, command, deadline }) {
                        return self.finish(asker, id, Reply::Refused(full), host);
                    }
                    request.exposed = true;
                }
                Body::Read { query, .. } => group.reads_mut().add(Read { asker, query, deadline }),
            }
            self.awake.insert(id);
            return Ok(());
        }
        let unanswered = request.sent.map(|(to, _)| to);
        if unanswered.is_some() && self.hints.get(&id).copied() == unanswered {
            self.hints.remove(&id);
        }
        let replicas = self.meta.assignments().get(&id).map_or(&[][..], Vec::as_slice);
        let follows =
            replicas.contains(&me) && self.groups.get(&id).is_some_and(|g| g.has_replica());
        // A replica hears itself who leads. Others ask those that should hold the group, one after
        // the other, until somebody knows.
        let hint = self.hints.get(&id).copied();
        let target = if follows {
            // Whoever has just declined knows better than this replica, which has not heard of the
            // new leader yet.
            self.groups
                .get(&id)
                .and_then(|g| g.leader())
                .filter(|l| Some(*l) != request.declined)
                .or(hint)
        } else {
            let next = || replicas.get(request.sendings as usize % replicas.len().max(1)).copied();
            hint.or_else(next)
        };
        let target = target.filter(|n| *n != me);
        request.sent = target.map(|to| (to, self.now));
        if let Some(to) = target {
            request.asked.insert(to);
            request.exposed |= matches!(request.body, Body::Propose(_));
            let deadline_ms =
                request.deadline.saturating_sub(self.now).as_millis().min(u128::from(u32::MAX))
                    as u32;
            let asked = match &request.body {
                Body::Propose(command) => {
                    internal::forward::Request::Command(wire::command(command))
                }
                Body::Read { query, stale } => {
                    internal::forward::Request::Query(wire::query(query, *stale))
                }
            };
            let forward = internal::Forward {
                id: number,
                deadline_ms,
                request: Some(asked),
                again: request.sendings > 1,
            };
            failpoint(Failpoint::Forwarding);
            host.send(to, message(id, peer_message::Body::Forward(forward)));
            failpoint(Failpoint::Forwarded);
        }
        Ok(())
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
        let leads = self.groups.get(&id).is_some_and(|g| g.leads());
        match forward.request {
            // The copy that came first is answered.
            Some(internal::forward::Request::Command(_))
                if leads
                    && forward.again
                    && self.groups.get(&id).is_some_and(|g| g.holds(asker)) => {}
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
            .get(&id)
            .and_then(|g| g.leader())
            .or_else(|| self.hints.get(&id).copied())
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
            self.hints.insert(id, from);
            let answer = wire::parse_reply(answer).unwrap_or_else(Reply::Refused);
            return self.finish(Asker::Mine(reply.id), id, answer, host);
        }
        match NodeId(reply.leader) {
            NodeId(0) => self.hints.remove(&id),
            leader => self.hints.insert(id, leader),
        };
        if let Some(request) = self.requests.open.get_mut(&reply.id)
            && request.sent.is_some_and(|(to, _)| to == from)
        {
            // At once to somebody new, but not for ever: while an election settles, nodes may point
            // at each other in a circle.
            (request.sent, request.declined) = (None, Some(from));
            if reply.leader != 0
                && NodeId(reply.leader) != from
                && request.hops < limits::FORWARD_HOPS_MAX
            {
                request.hops += 1;
                self.route(reply.id, host)?;
            }
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
                let earlier_copy =
                    self.requests.open.get_mut(&number).filter(|r| r.exposed && r.sendings > 1);
                if let (
                    Some(request),
                    Reply::Refused(Error { kind: Kind::Exhausted | Kind::Unavailable, .. }),
                ) = (earlier_copy, &reply)
                {
                    // This copy had no effect; an earlier one may still have. It is tried again
                    // until its deadline.
                    request.sent = None;
                    return Ok(());
                }
                let told = !(mutated(Mutation::NotAnswered) && number.is_multiple_of(50));
                if let Some(request) = self.requests.open.remove(&number).filter(|_| told) {
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
