//! What nodes swear by their Raft messages. Raft is safe only while nobody goes back on it (Ongaro
//! and Ousterhout, 2014, figures 2 and 3), whatever happens to processes and disks in between; a
//! client may notice long after, or never.
//!
//! - A node's term in a group never falls.
//! - It votes for one candidate in a term, and has voted for itself when it stands.
//! - What it has of a leader's log it never denies to that leader, while it stays in the group.
//! - A term has one leader.

use std::collections::BTreeMap;

use devicedb::{
    base::ids::{GroupId, Lineage, NodeId},
    proto::internal::v1::{PeerMessage, RaftMessageType, peer_message::Body},
};

#[derive(Default)]
pub struct RaftInvariants {
    /// By machine.
    terms: BTreeMap<(usize, GroupId), Term>,
    leaders: BTreeMap<(Lineage, GroupId, u64), NodeId>,
}

/// The last that a node has spoken of.
#[derive(Clone, Copy, Default)]
struct Term {
    number: u64,
    vote: Option<NodeId>,
    /// Its stay in the group, as its leader has named it last.
    tenure: u64,
    /// The last entry of its leader's log that it has, in this stay.
    has: u64,
}

impl RaftInvariants {
    /// Hears what the node on a machine says, in the order in which it says it. An error is the
    /// oath that it breaks.
    pub fn hear(
        &mut self,
        machine: usize,
        lineage: Lineage,
        message: &PeerMessage,
    ) -> Result<(), String> {
        let Some(Body::Raft(raft)) = &message.body else { return Ok(()) };
        let from = NodeId(raft.from);
        let (kind, group) = (raft.r#type(), GroupId(message.group));
        // These speak of a term that may never come, and what is forwarded of none.
        if matches!(kind, RaftMessageType::RequestPreVote | RaftMessageType::RequestPreVoteResponse)
            || raft.term == 0
        {
            return Ok(());
        }
        let term = self.terms.entry((machine, group)).or_default();
        if raft.term < term.number {
            return Err(format!(
                "{from} is in term {} of group {group}, and has been in term {}",
                raft.term, term.number
            ));
        }
        if raft.term > term.number {
            *term = Term { number: raft.term, ..Term::default() };
        }
        let vote = match kind {
            RaftMessageType::RequestVote => Some(from),
            RaftMessageType::RequestVoteResponse if !raft.reject => Some(NodeId(raft.to)),
            _ => None,
        };
        if let (Some(before), Some(now)) = (term.vote, vote)
            && before != now
        {
            return Err(format!(
                "{from} votes for {now} in term {} of group {group}, and has voted for {before}",
                raft.term
            ));
        }
        term.vote = term.vote.or(vote);
        // One that asks for rows says so in a denial.
        if kind == RaftMessageType::AppendResponse && raft.request_snapshot == 0 {
            if raft.tenure > term.tenure {
                (term.tenure, term.has) = (raft.tenure, 0);
            }
            if raft.reject && raft.reject_hint < term.has {
                return Err(format!(
                    "{from} has {} entries of group {group} in term {}, and had {}",
                    raft.reject_hint, raft.term, term.has
                ));
            }
            term.has = if raft.reject { term.has } else { term.has.max(raft.index) };
        }
        let leads = matches!(
            kind,
            RaftMessageType::Append | RaftMessageType::Heartbeat | RaftMessageType::Snapshot
        );
        // A restored cluster begins without a lineage, as others that come of the same parts do.
        if leads && lineage != Lineage::PENDING {
            let leader = *self.leaders.entry((lineage, group, raft.term)).or_insert(from);
            if leader != from {
                return Err(format!(
                    "{from} and {leader} lead group {group} in term {}",
                    raft.term
                ));
            }
        }
        Ok(())
    }

    /// Another machine stands in the place of one, and has sworn nothing.
    pub fn forget(&mut self, machine: usize) {
        self.terms.retain(|(other, _), _| *other != machine);
    }
}
