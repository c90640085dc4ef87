//! Requests of this node on their way to the leaders of their groups, and back.
//!
//! A request is kept here from its arrival to its answer. It stands in the queue of a local leader,
//! or travels as a `Forward` to the node that is believed to lead. When leadership changes or no
//! answer comes, it is sent again with the same request id, which has its effect once. At the
//! deadline it is answered: `Unavailable` when it was certainly never proposed, `Unknown` when it
//! may have been.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::group::{Asker, Waiting};
use crate::{
    base::{
        error::Error,
        ids::{GroupId, NodeId, RequestId, SiteId},
        limits,
    },
    cluster::sites::Site,
    data,
    entry::{Action, Command},
    wire,
};

/// Names a request to the caller that handed it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

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
    pub sent: Option<(NodeId, Duration)>,
    /// Every other node that the request was ever sent to: any of them may answer.
    pub asked: BTreeSet<NodeId>,
    /// Whether some leader may have proposed the request.
    pub exposed: bool,
    /// How often the request was routed.
    pub sendings: u32,
    /// The node that last answered that it does not lead.
    pub declined: Option<NodeId>,
    /// How often the request was sent on at once since the last tick, because of such an answer.
    pub hops: u32,
}

/// All requests that are not answered, by number.
#[derive(Debug, Default)]
pub struct Requests {
    pub open: BTreeMap<u64, Request>,
    last: u64,
}

impl Requests {
    pub fn add(&mut self, request: Request) -> u64 {
        self.last += 1;
        self.open.insert(self.last, request);
        self.last
    }

    /// Has requests share the bytes of what was proposed for them, where these are many.
    pub fn share<'a>(&mut self, proposed: impl Iterator<Item = &'a Waiting>) {
        for Waiting { asker, command, .. } in proposed {
            if wire::command_bytes(command) >= limits::ENTRY_SHARED_BYTES
                && let Asker::Mine(number) = asker
                && let Some(request) = self.open.get_mut(number)
            {
                request.body = Body::Propose(command.clone());
            }
        }
    }

    /// Numbers begin anywhere, so that an answer to a forward of an earlier run is not taken for
    /// one of this.
    pub fn starting_at(number: u64) -> Requests {
        Requests { open: BTreeMap::new(), last: number >> 1 }
    }

    /// Requests to be sent again: nobody was known to lead, or no answer came.
    pub fn stale(&self, now: Duration, me: NodeId) -> Vec<u64> {
        let again = |r: &Request| {
            r.sent
                .is_none_or(|(to, at)| to != me && now.saturating_sub(at) >= limits::FORWARD_AGAIN)
        };
        self.open.iter().filter(|(_, r)| again(r)).map(|(n, _)| *n).collect()
    }

    pub fn expired(&self, now: Duration) -> Vec<u64> {
        self.open.iter().filter(|(_, r)| r.deadline <= now).map(|(n, _)| *n).collect()
    }
}

impl Request {
    pub fn request_id(&self) -> Option<RequestId> {
        match &self.body {
            Body::Propose(command) => command.request,
            Body::Read { .. } => None,
        }
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
