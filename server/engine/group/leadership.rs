//! Who leads a group, as its replica here knows; whom it may vote for; and what it gives up when it
//! leads no more.

use std::time::Duration;

use super::{
    super::{
        consensus::{Advanced, Message, Turn, entries},
        promise::{self, Step},
        requests::Asker,
    },
    Group,
};
use crate::{
    base::{clock::Random, ids::NodeId, limits},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
};

/// What a replica that follows who leads has found.
pub struct Followed {
    pub leader: Option<NodeId>,
    /// Whether that is somebody else than before.
    pub changed: bool,
    /// Everyone who waited for this replica to lead.
    pub given_back: Vec<Asker>,
}

impl Group {
    pub fn leads(&self) -> bool {
        self.raft.leads()
    }

    pub fn term(&self) -> u64 {
        self.raft.term()
    }

    /// The last leader that this replica has heard of, as the engine has been told.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether a leader has applied an entry of its own term: only then does it know everything
    /// that was acknowledged before.
    pub fn knows_all(&self) -> bool {
        self.leads() && self.record.applied.term == self.term()
    }

    /// Whether it leads, or has heard a leader within its promise.
    pub fn stands_by_leader(&self, now: Duration) -> bool {
        self.leads() || self.promise.stands(now)
    }

    // ---- Messages. ----

    /// Whether raft-rs may see a message. A vote is not asked of it while it is promised to a
    /// leader, nor of a replica that has ended (`endings`): it would not see whose log lacks what
    /// it acknowledged. Takes note of leaders on the way.
    pub fn may_take(&mut self, message: &Message, now: Duration, votes_from: Duration) -> bool {
        if message.is_of_leader() && message.term() >= self.term() {
            self.promise.hear(now);
        }
        if !message.asks_for_vote() {
            return true;
        }
        if self.ended && !mutated(Mutation::EndedVotes) {
            return false;
        }
        if !self.promise.lets_vote(now, votes_from, message.is_of_heir()) {
            return false;
        }
        if let Some(gone) = self.promise.suspected() {
            self.raft.forget_leader(gone);
        }
        true
    }

    /// Whether a message is of the stay in the group that its sender or this replica is in.
    /// Acknowledgements name theirs only where every node knows to.
    pub fn is_of_this_stay(&mut self, message: &Message, tenure: u64, named: bool) -> bool {
        let term = message.term();
        if message.acknowledges() {
            let checked = self.leads() && term == self.term() && named;
            return !checked
                || tenure == self.tenures.of(term, message.from())
                || mutated(Mutation::TenureIgnored);
        }
        !message.is_of_leader() || self.tenures.hear(term, tenure)
    }

    pub fn step(&mut self, message: Message, rng: &mut Random) {
        self.raft.step(message, rng);
    }

    /// The tenure that belongs on a message of this replica.
    pub fn tenure_on(&self, message: &Message) -> u64 {
        if self.leads() {
            self.tenures.of(message.term(), message.to())
        } else {
            self.tenures.own(message.term())
        }
    }

    // ---- Turns. ----

    /// A turn is on disk. What is to be said, and which entries are committed; questions that a
    /// quorum has answered allow reads.
    pub fn advance(&mut self, turn: Turn) -> (Vec<Message>, Vec<entries::Raw>) {
        let Advanced { messages, committed, answered } =
            self.raft.advance(turn, self.record.applied.index);
        let (reads, known) = self.reads_with();
        for answer in answered {
            reads.answered(&known, answer.question, answer.index);
        }
        (messages, committed)
    }

    /// Follows who leads. A leader that is none any more gives back what waits for it, and its
    /// lease and its offers are over; looks at the state wait for the next leader.
    pub fn follow(&mut self, steps_down: bool) -> Followed {
        let leader = self.raft.leader();
        let changed = leader != self.leader;
        self.leader = leader;
        let lost = steps_down || (changed && leader != Some(self.raft.me()));
        let given_back = if lost { self.lose_leadership() } else { Vec::new() };
        Followed { leader, changed, given_back }
    }

    fn lose_leadership(&mut self) -> Vec<Asker> {
        self.fence.leadership_lost();
        self.raft.offers_mut().clear();
        self.reads.lose_leadership();
        self.give_back()
    }

    // ---- Elections. ----

    /// The last stream of a node has ended: if that node leads, its process may be gone.
    pub fn suspect(&mut self, node: NodeId) {
        if self.raft.leader() == Some(node) {
            self.promise.suspect(node);
        }
    }

    pub fn stand(&mut self) {
        self.raft.stand();
    }

    /// Whether this node alone votes here, so that it need not wait for an election.
    pub fn is_sole_voter(&self) -> bool {
        let voters = &self.members().voters;
        voters.len() == 1 && voters.contains(&self.raft.me())
    }

    /// Stands in a group in which nobody was elected since the restore, if it is this node's turn.
    /// Whether it did.
    pub fn stand_first(&mut self) -> bool {
        let begins = self.raft.leader().is_none()
            && self.term() == self.raft.begin().term
            && !self.is_installing();
        let silent = self.raft.silent_ticks() as u32;
        let stands = begins
            && self.turn_to_stand(None).is_some_and(|turn| silent >= turn)
            && self.raft.may_stand();
        if stands {
            self.raft.stand();
        }
        stands
    }

    /// Does what is to be done about a suspect now: forgets it once the promise is over, and stands
    /// if it is this node's turn. Whether it did anything.
    pub fn follow_suspicion(&mut self, now: Duration, votes_from: Duration) -> bool {
        let Some(gone) = self.promise.suspected().filter(|_| !self.is_installing()) else {
            return false;
        };
        let turn = self.turn_to_stand(Some(gone));
        let step = self.promise.step(now, votes_from, turn);
        if step == Step::Wait {
            return false;
        }
        self.raft.forget_leader(gone);
        if step == Step::Stand && self.raft.follows() {
            self.raft.stand();
        }
        true
    }

    /// After how many ticks this node stands in a group whose leader is gone.
    fn turn_to_stand(&self, gone: Option<NodeId>) -> Option<u32> {
        let voters = self.members().voters.iter().copied().filter(|n| Some(*n) != gone);
        promise::turn(self.id.0, voters, self.raft.me())
    }

    /// Offers leadership to a node. From now on this term has no lease: that node may be elected at
    /// once, at any later moment. Whether it did; it does not again within `HAND_OVER_AGAIN`.
    pub fn hand_over(&mut self, to: NodeId, now: Duration) -> bool {
        let again = limits::HAND_OVER_AGAIN;
        if self.handed_over.is_some_and(|before| now.saturating_sub(before) < again) {
            return false;
        }
        self.handed_over = Some(now);
        self.reads.offered(self.term());
        self.raft.transfer(to);
        failpoint(Failpoint::LeadershipOffered);
        true
    }

    /// Offers leadership to the voter that knows most, whenever that was done last. Whether there
    /// is one.
    pub fn resign(&mut self, now: Duration) -> bool {
        let (me, alive) = (self.raft.me(), self.raft.alive());
        let others =
            self.members().voters.iter().copied().filter(|n| *n != me && alive.contains(n));
        let knows = |n: &NodeId| (self.knows_last_change(*n), self.raft.matched(*n));
        let Some(heir) = others.max_by_key(knows) else { return false };
        self.handed_over = None;
        self.hand_over(heir, now)
    }
}
