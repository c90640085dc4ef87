//! Requests of this node on their way to the leaders of their groups, and back.
//!
//! A request is kept here from its arrival to its answer. It stands in the queue of a local leader,
//! or travels as a `Forward` to the node that is believed to lead. When leadership changes or no
//! answer comes, it is sent again with the same request id, which has its effect once. At the
//! deadline it is answered: `Unavailable` when it was certainly never proposed, `Unknown` when it
//! may have been.
//!
//! Pure: the caller says what is known of the group and what time it is, takes the request where
//! `next_hop` says, and tells what came of it. `forward` does that.
//!
//! - A replica hears itself who leads. Other nodes ask the one that was named last, or those that
//!   should hold the group, one after the other, until somebody knows.
//! - Whoever has just declined knows better than a replica that has not heard of the new leader.
//! - While an election settles, nodes may point at each other in a circle: a request is sent on at
//!   once `limits::FORWARD_HOPS_MAX` times, and then waits for the next tick.
//! - A copy that is refused speaks for itself only: where an earlier one may still have its effect,
//!   the request is tried again until its deadline.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    base::{
        error::{Error, Kind},
        ids::{GroupId, NodeId, SiteId},
        limits,
    },
    cluster::sites::Site,
    data::{self, Reply},
    entry::{Action, Command},
};

/// Names a request to the caller that handed it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The one that waits for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A request of this node, by its number.
    Mine(u64),
    /// A request that another node forwarded, by its number there.
    Theirs(NodeId, u64),
    /// Nobody: the engine itself, which looks at the state instead.
    Nobody,
}

/// What is asked of a group.
#[derive(Clone, Debug)]
pub enum Body {
    Propose(Command),
    Read { query: data::Query, stale: bool },
}

/// What the answer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum For {
    /// A caller outside the engine.
    Caller(Token),
    /// The engine, which finishes adding or removing a site; with the site as it was then.
    Site(SiteId, Site),
    /// Nothing: the engine looks at the state instead.
    Nobody,
}

/// A request that is not answered.
#[derive(Debug)]
pub struct Request {
    pub for_whom: For,
    pub group: GroupId,
    pub body: Body,
    pub deadline: Duration,
    /// The node that the request was last sent to, and when; none while no leader is known.
    sent: Option<(NodeId, Duration)>,
    /// Every other node that the request was ever sent to: any of them may answer.
    asked: BTreeSet<NodeId>,
    /// Whether some leader may have proposed the request.
    exposed: bool,
    /// How often the request was routed.
    sendings: u32,
    /// The node that last answered that it does not lead.
    declined: Option<NodeId>,
    /// How often the request was sent on at once since the last tick, because of such an answer.
    hops: u32,
}

/// What is known here of a request's group.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// This node may answer a stale read from what it has.
    pub holds: bool,
    /// Its replica leads.
    pub leads: bool,
    /// It has a replica, which should be here.
    pub follows: bool,
    /// Whom that replica has heard.
    pub leader: Option<NodeId>,
    /// The nodes that should hold the group.
    pub replicas: &'a [NodeId],
}

/// Where a request goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It is answered from what this node has.
    AnswerHere,
    /// This node leads: into the group's queue.
    Lead,
    /// To the node that is believed to lead.
    Forward(NodeId),
    /// Nowhere: nobody is known to lead. It is asked again on the next tick.
    Wait,
}

/// All requests that are not answered, by number, and what nodes have said of who leads.
#[derive(Debug)]
pub struct Requests {
    me: NodeId,
    open: BTreeMap<u64, Request>,
    /// The leaders of groups, as other nodes have named them.
    hints: BTreeMap<GroupId, NodeId>,
    last: u64,
}

impl Requests {
    /// Numbers begin anywhere, so that an answer to a forward of an earlier run is not taken for
    /// one of this.
    pub fn starting_at(me: NodeId, number: u64) -> Requests {
        Requests { me, open: BTreeMap::new(), hints: BTreeMap::new(), last: number >> 1 }
    }

    pub fn add(&mut self, request: Request) -> u64 {
        self.last += 1;
        self.open.insert(self.last, request);
        self.last
    }

    /// Has a request share the bytes of what was proposed for it.
    pub fn share(&mut self, number: u64, proposed: &Command) {
        if let Some(request) = self.open.get_mut(&number) {
            debug_assert!(matches!(&request.body, Body::Propose(command) if command == proposed));
            request.body = Body::Propose(proposed.clone());
        }
    }

    pub fn get(&self, number: u64) -> Option<&Request> {
        self.open.get(&number)
    }

    // ---- Who leads. ----

    /// The leader of a group, as other nodes have named it.
    pub fn hint(&self, group: GroupId) -> Option<NodeId> {
        self.hints.get(&group).copied()
    }

    /// Somebody is said to lead a group, or nobody.
    pub fn note_leader(&mut self, group: GroupId, leader: Option<NodeId>) {
        match leader {
            Some(leader) => drop(self.hints.insert(group, leader)),
            None => drop(self.hints.remove(&group)),
        }
    }

    /// Requests for a group that are somewhere else than at its new leader.
    pub fn not_at(&self, group: GroupId, leader: NodeId) -> Vec<u64> {
        let elsewhere = |r: &Request| r.group == group && r.sent.is_none_or(|(to, _)| to != leader);
        self.open.iter().filter(|(_, r)| elsewhere(r)).map(|(number, _)| *number).collect()
    }

    // ---- The way there. ----

    /// Where a request goes now. None if it is answered.
    pub fn next_hop(&mut self, number: u64, known: &Known<'_>, now: Duration) -> Option<Hop> {
        let me = self.me;
        let request = self.open.get_mut(&number)?;
        request.sendings += 1;
        if known.holds && request.is_stale_read() {
            return Some(Hop::AnswerHere);
        }
        if known.leads {
            return Some(Hop::Lead);
        }
        let id = request.group;
        let unanswered = request.sent.map(|(to, _)| to);
        if unanswered.is_some() && self.hints.get(&id).copied() == unanswered {
            self.hints.remove(&id);
        }
        let hint = self.hints.get(&id).copied();
        let target = if known.follows {
            known.leader.filter(|leader| Some(*leader) != request.declined).or(hint)
        } else {
            let next = request.sendings as usize % known.replicas.len().max(1);
            hint.or_else(|| known.replicas.get(next).copied())
        };
        let target = target.filter(|node| *node != me);
        request.sent = target.map(|to| (to, now));
        let Some(to) = target else { return Some(Hop::Wait) };
        request.asked.insert(to);
        request.exposed |= matches!(request.body, Body::Propose(_));
        Some(Hop::Forward(to))
    }

    /// A request was put off or given back: it is asked again on the next tick.
    pub fn ask_again(&mut self, number: u64) {
        if let Some(request) = self.open.get_mut(&number) {
            request.sent = None;
        }
    }

    /// A request stands in the queue of this node, which leads.
    pub fn queued(&mut self, number: u64, now: Duration) {
        if let Some(request) = self.open.get_mut(&number) {
            request.sent = Some((self.me, now));
            request.exposed |= matches!(request.body, Body::Propose(_));
        }
    }

    // ---- The way back. ----

    /// A node has answered that it does not lead, or cannot take the request yet, and who does lead
    /// as far as it knows. Whether the request is to be sent on at once.
    pub fn declined(
        &mut self,
        number: u64,
        group: GroupId,
        from: NodeId,
        leader: Option<NodeId>,
    ) -> bool {
        self.note_leader(group, leader);
        let Some(request) = self.open.get_mut(&number) else { return false };
        if request.sent.is_none_or(|(to, _)| to != from) {
            return false;
        }
        (request.sent, request.declined) = (None, Some(from));
        let again =
            leader.is_some_and(|leader| leader != from) && request.hops < limits::FORWARD_HOPS_MAX;
        if again {
            request.hops += 1;
        }
        again
    }

    /// A copy of a request is answered: takes the request, if it was not answered before. If the
    /// copy had no effect while an earlier one may still have its, the request is tried again until
    /// its deadline.
    pub fn answered(&mut self, number: u64, reply: &Reply) -> Option<Request> {
        let without_effect = matches!(
            reply,
            Reply::Refused(Error { kind: Kind::Exhausted | Kind::Unavailable, .. })
        );
        let earlier_copy = |request: &&mut Request| request.exposed && request.sendings > 1;
        if without_effect && let Some(request) = self.open.get_mut(&number).filter(earlier_copy) {
            request.sent = None;
            return None;
        }
        self.open.remove(&number)
    }

    // ---- Time. ----

    /// Takes the requests whose deadline is over.
    pub fn take_expired(&mut self, now: Duration) -> Vec<Request> {
        let late = self.open.iter().filter(|(_, r)| r.deadline <= now).map(|(n, _)| *n);
        let late: Vec<u64> = late.collect();
        late.into_iter().filter_map(|number| self.open.remove(&number)).collect()
    }

    /// Requests to be sent again at a tick: nobody was known to lead, or no answer came.
    pub fn tick(&mut self, now: Duration) -> Vec<u64> {
        self.open.values_mut().for_each(|request| request.hops = 0);
        let again = |r: &Request| {
            r.sent.is_none_or(|(to, at)| {
                to != self.me && now.saturating_sub(at) >= limits::FORWARD_AGAIN
            })
        };
        self.open.iter().filter(|(_, r)| again(r)).map(|(n, _)| *n).collect()
    }
}

impl Request {
    pub fn new(for_whom: For, group: GroupId, body: Body, deadline: Duration) -> Request {
        Request {
            for_whom,
            group,
            body,
            deadline,
            sent: None,
            asked: BTreeSet::new(),
            exposed: false,
            sendings: 0,
            declined: None,
            hops: 0,
        }
    }

    /// One that was sent to a node.
    #[cfg(test)]
    pub fn sent(group: GroupId, body: Body, to: NodeId) -> Request {
        let asked = BTreeSet::from([to]);
        let request = Request::new(For::Nobody, group, body, Duration::ZERO);
        Request { asked, exposed: true, sendings: 1, ..request }
    }

    pub fn is_stale_read(&self) -> bool {
        matches!(self.body, Body::Read { stale: true, .. })
    }

    /// Whether it was ever sent to a node, which may then answer.
    pub fn was_sent_to(&self, node: NodeId) -> bool {
        self.asked.contains(&node)
    }

    /// Whether it was routed before, so that a copy of it may be under way.
    pub fn is_again(&self) -> bool {
        self.sendings > 1
    }

    /// The answer when the deadline is over.
    pub fn too_late(&self) -> Error {
        let group = self.group;
        match (&self.body, self.exposed) {
            (Body::Propose(Command { action: Action::Data(_) | Action::Meta(_), .. }), true) => {
                Error::unknown(format!(
                    "no majority of group {group} has answered in time; the write may have its \
                     effect, retry it with the same request id"
                ))
            }
            _ if self.sent.is_none() => Error::unavailable(format!(
                "group {group} has no leader that could be reached; nothing was done, retry later"
            )),
            _ => Error::unavailable(format!(
                "the leader of group {group} has not answered in time; nothing was done, retry \
                 later"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::golden::{self, ms, number},
        data::Bucket,
    };

    const GROUP: GroupId = GroupId(4);

    /// One node, and what it knows of one group.
    struct Node {
        requests: Requests,
        holds: bool,
        leads: bool,
        follows: bool,
        leader: Option<NodeId>,
        replicas: Vec<NodeId>,
        now: Duration,
    }

    impl Node {
        fn new() -> Node {
            Node {
                requests: Requests::starting_at(NodeId(9), 0),
                holds: false,
                leads: false,
                follows: false,
                leader: None,
                replicas: Vec::new(),
                now: Duration::ZERO,
            }
        }

        fn ask(&mut self, body: Body, until: &str) -> String {
            let request = Request::new(For::Nobody, GROUP, body, ms(until));
            let number = self.requests.add(request);
            self.hop(number)
        }

        fn hop(&mut self, number: u64) -> String {
            let known = Known {
                holds: self.holds,
                leads: self.leads,
                follows: self.follows,
                leader: self.leader,
                replicas: &self.replicas,
            };
            match self.requests.next_hop(number, &known, self.now) {
                None => format!("request {number} is answered already"),
                Some(Hop::AnswerHere) => format!("request {number} is answered here"),
                Some(Hop::Lead) => {
                    self.requests.queued(number, self.now);
                    format!("request {number} is queued here")
                }
                Some(Hop::Forward(node)) => format!("request {number} is sent to node {node}"),
                Some(Hop::Wait) => format!("request {number} waits"),
            }
        }

        fn hops(&mut self, numbers: Vec<u64>) -> String {
            let told: Vec<String> = numbers.into_iter().map(|number| self.hop(number)).collect();
            told.join("\n")
        }

        fn answered(&mut self, name: &str, reply: &Reply) -> String {
            match self.requests.answered(number(name), reply) {
                Some(_) => format!("request {name} is answered"),
                None => format!("request {name} is not answered"),
            }
        }

        fn act(&mut self, line: &str) -> String {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["at", now] => self.now = ms(now),
                ["the", "group", "is", "on", ref nodes @ ..] => {
                    self.replicas = nodes.iter().map(|n| NodeId(number(n))).collect()
                }
                ["this", "node", "leads"] => self.leads = true,
                ["this", "node", "follows", leader] => {
                    (self.follows, self.leads) = (true, false);
                    self.leader = leader.parse().ok().map(NodeId);
                }
                ["this", "node", "holds", "the", "group"] => self.holds = true,
                ["it", "hears", "that", node, "leads"] => {
                    let leader = NodeId(number(node));
                    self.leader = Some(leader);
                    self.requests.note_leader(GROUP, Some(leader));
                    let numbers = self.requests.not_at(GROUP, leader);
                    return self.hops(numbers);
                }
                ["a", "write", "until", until] => {
                    let action =
                        Action::Data(data::Command::SetLineage { lineage: Default::default() });
                    let command = Command { request: None, action };
                    return self.ask(Body::Propose(command), until);
                }
                ["a", kind @ ("read" | "stale"), .., "until", until] => {
                    let query = data::Query {
                        site: SiteId::new("shop").unwrap(),
                        bucket: Bucket::Default,
                        read: data::Read::Get { key: data::Key::new("k").unwrap() },
                    };
                    return self.ask(Body::Read { query, stale: kind == "stale" }, until);
                }
                ["node", from, "declines", "request", name, "and", "names", leader] => {
                    let (from, leader) = (NodeId(number(from)), leader.parse().ok().map(NodeId));
                    return if self.requests.declined(number(name), GROUP, from, leader) {
                        self.hop(number(name))
                    } else {
                        format!("request {name} is not sent on")
                    };
                }
                ["request", name, "is", "answered"] => {
                    return self.answered(name, &Reply::Done { changed: true });
                }
                ["request", name, "meets", "a", "full", "queue"] => {
                    let full = Reply::Refused(Error::exhausted("the queue is full"));
                    return self.answered(name, &full);
                }
                ["request", name, "is", "given", "back"] => self.requests.ask_again(number(name)),
                ["tick"] => {
                    let late = self.requests.take_expired(self.now);
                    let why = |request: &Request| {
                        let error = request.too_late();
                        format!("{:?}: {error}", error.kind)
                    };
                    let mut told: Vec<String> = late.iter().map(why).collect();
                    let numbers = self.requests.tick(self.now);
                    told.extend(numbers.into_iter().map(|number| self.hop(number)));
                    return told.join("\n");
                }
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }
    }

    #[test]
    fn requests_go_where_the_stories_say() {
        golden::play("engine/requests", || {
            let mut node = Node::new();
            move |line| node.act(line)
        });
    }
}
