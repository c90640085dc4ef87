//! The door between the streams of other nodes and the engine: who may say what, and within which
//! bounds.
//!
//! A stream's hello says which node speaks, of which cluster and history. That is not enough: a
//! peer may have a fault, or be a stranger. So every field of every message has a row here (`RAFT`,
//! `FORWARD`, `REPLY`, `ENDINGS`, `MARKS`; what a forwarded command may be is in `commands`), or
//! stands in `elsewhere` with the door that checks it or the reason why any value of it is
//! harmless. A test goes through the contract and misses the row that a new field lacks. Rows are
//! asked in order, and the first that objects names the field in the log and in the metric.
//!
//! # Whom this node believes
//!
//! - A *stranger* is in no registry that this node has applied. It is believed nothing, but for one
//!   thing: a node that was away may find the meta group led by one that came meanwhile, and only
//!   the meta group's log can tell it so. Therefore Raft messages of the meta group are taken from
//!   a stranger while this node follows no leader of it. Where strangers reach the port of peers
//!   that is a gap. Over TLS they have a node's certificate at least, and none of them speaks as a
//!   node that is registered under another name (`net::handshake`).
//! - A *registered* node may ask for things. In a group of which it is no member as far as this
//!   node knows, it may stand or lead only while the replica here follows no leader: members change
//!   while a replica is away, and the newest have to reach it. One that hears a leader waits for
//!   that one to fall silent; a leader that has lost its place does so within an election's time.
//! - A *member* is in the group's configuration as it is applied here, or in its assignment. It
//!   takes part in Raft.
//! - The *leader* that the replica follows, and no other, may tell it to stand for election, to
//!   commit for a read, to mark and to release.
//!
//! Refusing is always safe: any message may be lost. What an honest node says a moment too early
//! for this one is `Later` and not counted, since it says it again.
//!
//! # Why the bounds are safe
//!
//! - Terms: at most `limits::TERM_STEP_MAX` ahead and below `limits::COUNT_MAX`. A term only grows,
//!   so one that is believed once is there for good, after a restart too; at the end of the numbers
//!   no election could follow.
//! - Indexes below `COUNT_MAX`. What is acknowledged or committed lies within the log here: raft-rs
//!   ends the process where it does not.
//! - A replica that knows nothing takes entries only behind a snapshot (`entry::LOG_BEGIN`), so
//!   that nobody can found a group on it.
//! - Numbers of snapshots: what the meta group here has begun. A mark beyond that would hold writes
//!   until that number is reached, which is never.
//!
//! It relies on its caller for what is known, decides and does nothing.

mod commands;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod tests;

pub(super) use self::commands::{Objection, command, query};
use super::requests::Request;
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, NodeId, Topology},
        limits,
    },
    cluster::{self, reconfigure::Membership},
    entry::{LOG_BEGIN, Record},
    proto::internal::v1::{
        ForwardReply, PeerMessage, RaftMessage, RaftMessageType, RaftSnapshot, peer_message::Body,
    },
};

/// What this node knows when a message comes.
pub(super) struct Facts<'a> {
    pub me: NodeId,
    /// Whose hello opened the stream.
    pub from: NodeId,
    /// The group that the message names.
    pub group: GroupId,
    pub topology: Topology,
    pub meta: &'a cluster::State,
    /// This node's replica of the message's group.
    pub replica: Option<Replica<'a>>,
    pub replicas: &'a dyn Fn(GroupId) -> Option<Replica<'a>>,
    /// The request of this node that an answer names, if it is still open.
    pub asked: &'a dyn Fn(u64) -> Option<&'a Request>,
}

/// A group's replica on this node.
#[derive(Clone, Copy)]
pub(super) struct Replica<'a> {
    pub members: &'a Membership,
    pub term: u64,
    pub last_index: u64,
    /// Whom raft-rs has for the leader.
    pub leader: Option<NodeId>,
    pub leads: bool,
    /// It leads, or has heard a leader within its promise.
    pub follows: bool,
}

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// It may be true and is too early here, or too late. Whoever said it says it again, or does
    /// not mind.
    Later,
    /// No node that is well says this. The field that gives it away.
    Refuse(&'static str),
}

/// What one row says to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Fine,
    Later,
    Wrong,
}

use Judged::{Fine, Later, Wrong};

/// The rule for one field.
pub(super) struct Row<M: 'static> {
    /// As the contract names it.
    pub field: &'static str,
    /// Who may say it, and within what bounds.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for who reads the table, and for the test that prints it")
    )]
    pub rule: &'static str,
    judge: fn(&Facts<'_>, &M) -> Judged,
}

const fn row<M>(
    field: &'static str,
    rule: &'static str,
    judge: fn(&Facts<'_>, &M) -> Judged,
) -> Row<M> {
    Row { field, rule, judge }
}

fn only_if(holds: bool) -> Judged {
    if holds { Fine } else { Wrong }
}

/// Whether a message is taken.
pub(super) fn judge(facts: &Facts<'_>, message: &PeerMessage) -> Verdict {
    match &message.body {
        _ if !facts.topology.has(facts.group) => Verdict::Refuse("PeerMessage.group"),
        Some(Body::Raft(raft)) => through(RAFT, facts, raft),
        Some(body @ Body::Forward(_)) => through(FORWARD, facts, body),
        Some(Body::ForwardReply(reply)) => through(REPLY, facts, reply),
        Some(body @ (Body::EndRequest(_) | Body::MayEnd(_))) => through(ENDINGS, facts, body),
        Some(body) => through(MARKS, facts, body),
        // A newer version says what this one does not know; it counts as lost.
        None => Verdict::Later,
    }
}

fn through<M>(rows: &'static [Row<M>], facts: &Facts<'_>, message: &M) -> Verdict {
    for row in rows {
        match (row.judge)(facts, message) {
            Fine => {}
            Later => return Verdict::Later,
            Wrong => return Verdict::Refuse(row.field),
        }
    }
    Verdict::Take
}

impl Facts<'_> {
    /// A node that has just joined knows nobody yet.
    pub fn is_registered(&self, node: NodeId) -> bool {
        node == self.me || self.meta.nodes().is_empty() || self.meta.node(node).is_some()
    }

    fn is_assigned(&self, group: GroupId, node: NodeId) -> bool {
        self.meta.assignments().get(&group).is_some_and(|nodes| nodes.contains(&node))
    }

    fn is_member(&self, group: GroupId, node: NodeId) -> bool {
        let replica = if group == self.group { self.replica } else { (self.replicas)(group) };
        replica.is_some_and(|r| r.members.has(node)) || self.is_assigned(group, node)
    }

    /// Whether the sender may stand for leadership of the group, or lead it.
    fn may_lead(&self) -> Judged {
        let replica = self.replica;
        let follows = replica.is_some_and(|r| r.follows);
        if self.is_member(self.group, self.from)
            || replica.is_some_and(|r| r.leader == Some(self.from))
        {
            return Fine;
        }
        if !self.is_registered(self.from) {
            return if self.group.is_meta() && !follows { Fine } else { self.stranger() };
        }
        let empty = replica.is_none_or(|r| r.last_index == 0);
        let expected = self.group.is_meta()
            || self.meta.nodes().is_empty()
            || self.is_assigned(self.group, self.me);
        if follows || (empty && !expected) { Later } else { Fine }
    }

    /// A node that is in no registry here. It may be new, where this node may not have heard the
    /// latest.
    fn stranger(&self) -> Judged {
        if (self.replicas)(GroupId::META).is_some_and(|r| r.follows) { Wrong } else { Later }
    }

    /// A node that does not have the part that it plays, as far as is known here.
    fn later_or_stranger(&self) -> Judged {
        if self.is_registered(self.from) { Later } else { self.stranger() }
    }

    fn registered(&self) -> Judged {
        if self.is_registered(self.from) { Fine } else { self.stranger() }
    }

    /// Whether somebody else has been elected in this term: there is one leader a term.
    fn another_leads(&self, term: u64) -> bool {
        self.replica
            .is_some_and(|r| r.term == term && r.leader.is_some_and(|leader| leader != self.from))
    }

    /// Whether the sender is the leader that the replica follows, in its term.
    fn leads_here(&self, term: u64) -> Judged {
        match self.replica {
            // raft-rs ignores what is of an earlier term.
            Some(r) if term < r.term || (term == r.term && r.leader == Some(self.from)) => Fine,
            Some(r) if term == r.term && r.leader.is_some() => Wrong,
            _ => Later,
        }
    }

    /// Whether the sender leads the meta group, as this node has heard.
    fn leads_meta(&self) -> Judged {
        let leader = (self.replicas)(GroupId::META).and_then(|r| r.leader);
        match leader {
            Some(leader) if leader == self.from => Fine,
            _ if self.is_registered(self.from) => Later,
            _ => self.stranger(),
        }
    }

    /// Whether the meta group has begun a snapshot of this number.
    fn is_begun(&self, seq: u64) -> Judged {
        let begun = self.meta.settings().begun.0;
        match seq.checked_sub(begun) {
            _ if seq == 0 => Wrong,
            None | Some(0) => Fine,
            Some(ahead) => {
                if ahead < limits::SNAPSHOT_STEP_MAX {
                    Later
                } else {
                    Wrong
                }
            }
        }
    }
}

// ---- Raft. ----

pub(super) const RAFT: &[Row<RaftMessage>] = &[
    row(
        "RaftMessage.type",
        "what followers, candidates and leaders send; nobody asks for leadership over the wire",
        |_, m| {
            only_if(!matches!(
                m.r#type(),
                RaftMessageType::Unspecified | RaftMessageType::TransferLeader
            ))
        },
    ),
    row(
        "RaftMessage.from",
        "the node of the hello; who may lead, who asks, and whose word counts follows from what it \
         is to the group",
        |f, m| {
            if m.from != f.from.0 {
                return Wrong;
            }
            match m.r#type() {
                RaftMessageType::Append
                | RaftMessageType::Heartbeat
                | RaftMessageType::Snapshot
                    if f.another_leads(m.term) =>
                {
                    Wrong
                }
                RaftMessageType::Append
                | RaftMessageType::Heartbeat
                | RaftMessageType::Snapshot => f.may_lead(),
                RaftMessageType::RequestVote | RaftMessageType::RequestPreVote => f.may_lead(),
                RaftMessageType::TimeoutNow | RaftMessageType::ReadIndexResponse => {
                    f.leads_here(m.term)
                }
                // Of these raft-rs ignores what is not said by a member.
                _ => {
                    if f.is_member(f.group, f.from) {
                        Fine
                    } else {
                        f.registered()
                    }
                }
            }
        },
    ),
    row("RaftMessage.to", "this node", |f, m| only_if(m.to == f.me.0)),
    row(
        "RaftMessage.term",
        "0 in a question for a read, else 1 to COUNT_MAX, at most TERM_STEP_MAX ahead",
        |f, m| {
            let most = f
                .replica
                .map_or(0, |r| r.term)
                .saturating_add(limits::TERM_STEP_MAX)
                .min(limits::COUNT_MAX);
            only_if(if m.r#type() == RaftMessageType::ReadIndex {
                m.term == 0
            } else {
                (1..=most).contains(&m.term)
            })
        },
    ),
    row("RaftMessage.log_term", "no later than the sender's term", |_, m| {
        only_if(m.log_term <= m.term)
    }),
    row(
        "RaftMessage.index",
        "below COUNT_MAX; within the leader's log when it is acknowledged; behind a snapshot where \
         nothing is known",
        |f, m| {
            let replica = f.replica;
            only_if(match m.r#type() {
                RaftMessageType::Append if replica.is_none_or(|r| r.last_index == 0) => {
                    (LOG_BEGIN.index..=limits::COUNT_MAX).contains(&m.index)
                }
                RaftMessageType::AppendResponse => m.index <= acknowledged(replica, m.term),
                _ => m.index <= limits::COUNT_MAX,
            })
        },
    ),
    row(
        "RaftMessage.entries",
        "behind an append, at most RAFT_ENTRIES_MAX; one in a question for a read and its answer; \
         none else",
        |_, m| {
            only_if(match m.r#type() {
                RaftMessageType::Append => m.entries.len() <= limits::RAFT_ENTRIES_MAX,
                RaftMessageType::ReadIndex | RaftMessageType::ReadIndexResponse => {
                    m.entries.len() == 1
                }
                _ => m.entries.is_empty(),
            })
        },
    ),
    row(
        "RaftMessage.commit",
        "below COUNT_MAX; in a heartbeat within the log here, since its leader knows that log; \
         where there is none, the replica may have ended since",
        |f, m| {
            let last = f.replica.map_or(0, |r| r.last_index);
            match m.r#type() {
                RaftMessageType::Heartbeat if last == 0 && m.commit > 0 => Later,
                RaftMessageType::Heartbeat => only_if(m.commit <= last),
                _ => only_if(m.commit <= limits::COUNT_MAX),
            }
        },
    ),
    row("RaftMessage.commit_term", "no later than the sender's term", |_, m| {
        only_if(m.commit_term <= m.term)
    }),
    row("RaftMessage.snapshot", "in its announcement and nowhere else", |_, m| {
        only_if(m.snapshot.is_some() == (m.r#type() == RaftMessageType::Snapshot))
    }),
    row("RaftMessage.request_snapshot", "0: nobody asks for one", |_, m| {
        only_if(m.request_snapshot == 0)
    }),
    row("RaftMessage.reject_hint", "no later than what is rejected", |_, m| {
        only_if(m.reject_hint <= m.index)
    }),
    row(
        "RaftMessage.context",
        "at most RAFT_NAME_BYTES_MAX; an election in place of a leader that lives only by a member",
        |f, m| {
            let stands = matches!(
                m.r#type(),
                RaftMessageType::RequestVote | RaftMessageType::RequestPreVote
            );
            match m.context.len() {
                0 => Fine,
                1..=limits::RAFT_NAME_BYTES_MAX if !stands || f.is_member(f.group, f.from) => Fine,
                // It may have become one, and this node not have heard of it.
                1..=limits::RAFT_NAME_BYTES_MAX => f.later_or_stranger(),
                _ => Wrong,
            }
        },
    ),
    row("RaftMessage.tenure", "at most COUNT_MAX", |_, m| only_if(m.tenure <= limits::COUNT_MAX)),
    row("RaftMessage.priority", "0: no node goes before another", |_, m| only_if(m.priority == 0)),
    row(
        "RaftEntry.type",
        "commands, or a change of one member; a question for a read is none",
        |_, m| {
            let appends = m.r#type() == RaftMessageType::Append;
            only_if(m.entries.iter().all(|e| {
                matches!(e.r#type, NORMAL) || (appends && matches!(e.r#type, CHANGE | CHANGE_V2))
            }))
        },
    ),
    row("RaftEntry.term", "1 to the leader's; 0 in a question for a read", |_, m| {
        let appends = m.r#type() == RaftMessageType::Append;
        only_if(
            m.entries
                .iter()
                .all(|e| if appends { (1..=m.term).contains(&e.term) } else { e.term == 0 }),
        )
    }),
    row(
        "RaftEntry.index",
        "one after the other behind the message's index; 0 in a question for a read",
        |_, m| {
            let first =
                if m.r#type() == RaftMessageType::Append { m.index.checked_add(1) } else { None };
            only_if(
                (0..)
                    .zip(&m.entries)
                    .all(|(n, e)| e.index == first.map_or(0, |first| first.saturating_add(n))),
            )
        },
    ),
    row(
        "RaftEntry.data",
        "a question for a read names who asks; what else it holds is looked at when it is applied",
        |f, m| {
            let asker = match m.r#type() {
                RaftMessageType::ReadIndex => f.from,
                RaftMessageType::ReadIndexResponse => f.me,
                _ => return Fine,
            };
            only_if(
                m.entries
                    .iter()
                    .all(|e| e.data.len() == 16 && e.data.starts_with(&asker.0.to_be_bytes())),
            )
        },
    ),
    row(
        "RaftEntry.context",
        "empty: a step towards the wanted members is thought of anew when it is applied",
        |_, m| only_if(m.entries.iter().all(|e| e.context.is_empty())),
    ),
    row("RaftSnapshot.index", "1 to COUNT_MAX", |_, m| {
        snapshot(m, |s| (1..=limits::COUNT_MAX).contains(&s.index))
    }),
    row("RaftSnapshot.term", "1 to the leader's", |_, m| {
        snapshot(m, |s| (1..=m.term).contains(&s.term))
    }),
    row("RaftSnapshot.voters", "1 to NODES_MAX, none twice and none 0", |_, m| {
        snapshot(m, |s| {
            (1..=limits::NODES_MAX).contains(&s.voters.len()) && are_distinct(&s.voters, &[])
        })
    }),
    row(
        "RaftSnapshot.learners",
        "at most NODES_MAX, none that votes, none twice and none 0",
        |_, m| {
            snapshot(m, |s| {
                s.learners.len() <= limits::NODES_MAX && are_distinct(&s.voters, &s.learners)
            })
        },
    ),
    row(
        "RaftSnapshot.data",
        "the name of rows that have come, at most RAFT_NAME_BYTES_MAX",
        |_, m| snapshot(m, |s| (1..=limits::RAFT_NAME_BYTES_MAX).contains(&s.data.len())),
    ),
];

const NORMAL: i32 = crate::proto::internal::v1::RaftEntryType::Normal as i32;
const CHANGE: i32 = crate::proto::internal::v1::RaftEntryType::ConfChange as i32;
const CHANGE_V2: i32 = crate::proto::internal::v1::RaftEntryType::ConfChangeV2 as i32;

/// How far a follower may say that its log agrees. Of other terms raft-rs asks no more than the
/// term.
fn acknowledged(replica: Option<Replica<'_>>, term: u64) -> u64 {
    replica.filter(|r| r.leads && r.term == term).map_or(limits::COUNT_MAX, |r| r.last_index)
}

fn snapshot(message: &RaftMessage, holds: impl Fn(&RaftSnapshot) -> bool) -> Judged {
    only_if(message.snapshot.as_ref().is_none_or(holds))
}

/// raft-rs adds members one by one and ends the process when it comes to others than it was told.
fn are_distinct(voters: &[u64], learners: &[u64]) -> bool {
    let mut seen = std::collections::BTreeSet::from([0]);
    voters.iter().chain(learners).all(|node| seen.insert(*node))
}

// ---- Requests on their way. ----

pub(super) const FORWARD: &[Row<Body>] =
    &[row("Forward.id", "any; a registered node names its own request with it", |f, _| {
        f.registered()
    })];

pub(super) const REPLY: &[Row<ForwardReply>] = &[
    row(
        "ForwardReply.id",
        "a request that is open, of this group, and was sent to the sender",
        |f, m| {
            let Some(request) = (f.asked)(m.id) else { return Later };
            only_if(request.group == f.group && request.was_sent_to(f.from))
        },
    ),
    row("ForwardReply.leader", "0, or a registered node", |f, m| {
        if m.leader == 0 || f.is_registered(NodeId(m.leader)) { Fine } else { Later }
    }),
];

// ---- The end of a replica. ----

/// Whether a replica may end, of which its node asks, and what the leader says to that.
pub(super) const ENDINGS: &[Row<Body>] = &[
    row("EndRequest.id", "any; a registered node names its own question with it", |f, body| {
        if matches!(body, Body::EndRequest(_)) { f.registered() } else { Fine }
    }),
    row("MayEnd.term", "as that of a Raft message", |f, body| {
        let Body::MayEnd(may) = body else { return Fine };
        let known = f.replica.map_or(0, |r| r.term);
        let most = known.saturating_add(limits::TERM_STEP_MAX).min(limits::COUNT_MAX);
        only_if((1..=most).contains(&may.term))
    }),
    row("MayEnd.index", "at most COUNT_MAX", |_, body| {
        let Body::MayEnd(may) = body else { return Fine };
        only_if(may.index <= limits::COUNT_MAX)
    }),
    row(
        "MayEnd.id",
        "a question of this node, which is compared when it is acted on; by a node that the group \
         is assigned to, while it is not assigned to this one",
        |f, body| match body {
            Body::MayEnd(_) if !f.is_assigned(f.group, f.from) => f.later_or_stranger(),
            Body::MayEnd(_) if f.is_assigned(f.group, f.me) => Later,
            _ => Fine,
        },
    ),
];

// ---- The cut. ----

/// Requests for marks, reports of them, and the release: bodies of the meta group.
pub(super) const MARKS: &[Row<Body>] = &[
    row("PeerMessage.group", "the meta group, whose leader takes the cut", |f, _| {
        only_if(f.group.is_meta())
    }),
    row(
        "MarkRequest.seq",
        "by the leader of the meta group, for a snapshot that it has begun; the next one waits \
         until that is applied here",
        |f, body| {
            let Body::MarkRequest(asked) = body else { return Fine };
            match f.is_begun(asked.seq) {
                Later if asked.seq == f.meta.settings().begun.0 + 1 => f.leads_meta(),
                Fine => f.leads_meta(),
                other => other,
            }
        },
    ),
    row(
        "Marked.seq",
        "by a registered node, for a snapshot that the meta group has begun",
        |f, body| {
            let Body::Marked(marked) = body else { return Fine };
            if f.is_registered(f.from) { f.is_begun(marked.seq) } else { f.stranger() }
        },
    ),
    row(
        "Marked.groups",
        "groups that there are and that the sender may lead; the meta group's mark is its leader's \
         own",
        |f, body| {
            let Body::Marked(marked) = body else { return Fine };
            let mut judged = only_if(marked.groups.len() <= f.topology.groups() as usize + 1);
            for group in marked.groups.iter().map(|g| GroupId(*g)) {
                // A replica that follows nobody may not know the newest members.
                let held = (f.replicas)(group).filter(|r| r.follows);
                let may =
                    held.is_none_or(|r| f.is_member(group, f.from) || r.leader == Some(f.from));
                match judged {
                    _ if !f.topology.has(group) => return Wrong,
                    // Whoever led it when the mark was set, and does so no more, may say so late.
                    Fine if if group.is_meta() { f.from != f.me } else { !may } => judged = Later,
                    _ => {}
                }
            }
            judged
        },
    ),
    row(
        "Release.seq",
        "by the leader of the meta group, for a snapshot that it has begun",
        |f, body| {
            let Body::Release(release) = body else { return Fine };
            match f.is_begun(release.seq) {
                Fine => f.leads_meta(),
                other => other,
            }
        },
    ),
];

// ---- Rows, which come on streams of their own. ----

/// Whether a node may send rows of a group: before the first of them is taken.
pub(super) fn rows(facts: &Facts<'_>) -> Result<()> {
    match facts.may_lead() {
        _ if !facts.topology.has(facts.group) => Err(Error::invalid(format!(
            "rows of group {}, and there are only {}",
            facts.group,
            facts.topology.groups()
        ))),
        Fine => Ok(()),
        Later | Wrong => Err(Error::conflict(format!(
            "node {} does not lead group {} as far as node {} knows; it may try again",
            facts.from, facts.group, facts.me
        ))),
    }
}

/// Whether what a group remembers of itself may be put in place of what it remembers here.
pub(super) fn record(facts: &Facts<'_>, record: &Record) -> Result<()> {
    let counts = [
        record.applied.index,
        record.applied.term,
        record.mark_at.index,
        record.mark_at.term,
        record.data.dots,
        record.data.requests,
    ];
    if counts.iter().any(|n| *n > limits::COUNT_MAX) || record.applied < LOG_BEGIN {
        return Err(Error::invalid(format!(
            "rows of group {} at a place where no log comes: {record:?}",
            facts.group
        )));
    }
    // A node that has just joined does not know what was begun, and what the meta group's own rows
    // say of it is newer than what is known here.
    let begun = facts.meta.settings().begun;
    if record.mark > begun && !facts.group.is_meta() && !facts.meta.nodes().is_empty() {
        let told = format!(
            "rows of group {} that were marked for snapshot {}, and here only {begun} is begun; \
             try again",
            facts.group, record.mark
        );
        return Err(Error::unavailable(told));
    }
    Ok(())
}
