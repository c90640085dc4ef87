//! What one replica owes the leader that it follows, and when it may stand for election.
//!
//! Pure: the caller says what was heard and when, and carries out what is decided.
//!
//! - A replica that has heard its leader votes for nobody else for `limits::PROMISE`, which is a
//!   little longer than the lease under which the leader answers reads alone. A candidate that the
//!   leader itself has named may be voted for at once: that leader gives its lease up.
//! - A process that has restarted may have promised just before, so it votes for nobody until
//!   `votes_from`.
//! - When the last stream of the leader's node ends, the leader is a *suspect*. It is forgotten
//!   once the promise is over, unless it is heard again; voters then stand one after the other, so
//!   that they do not split the vote.

use std::time::Duration;

use crate::{
    base::{ids::NodeId, limits},
    faults::mutation::{Mutation, mutated},
};

#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// The replica votes for nobody else before.
    until: Duration,
    suspect: Option<NodeId>,
}

/// What becomes of a suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: the promise stands, or it is another voter's turn.
    Wait,
    /// The suspect is forgotten; this replica has no vote, or is none that may stand.
    Forget,
    /// The suspect is forgotten, and this replica stands.
    Stand,
}

impl Promise {
    /// The leader of a term that is not older than the replica's has sent something.
    pub fn hear(&mut self, now: Duration) {
        self.until = now + limits::PROMISE;
        self.suspect = None;
    }

    /// The last stream of the leader's node has ended.
    pub fn suspect(&mut self, leader: NodeId) {
        self.suspect = Some(leader);
    }

    pub fn suspected(&self) -> Option<NodeId> {
        self.suspect
    }

    pub fn stands(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Whether the replica may hear a request for its vote. `named` says that the leader itself has
    /// told the candidate to take over.
    pub fn lets_vote(&self, now: Duration, votes_from: Duration, named: bool) -> bool {
        let restarted = now < votes_from && !mutated(Mutation::VoteLost);
        !(restarted || self.stands(now) && !named) || mutated(Mutation::VotesAtOnce)
    }

    /// What to do about a suspect now. `turn` counts the ticks after which this replica stands; a
    /// replica without a vote has none. Anything but `Wait` ends the suspicion.
    pub fn step(&mut self, now: Duration, votes_from: Duration, turn: Option<u32>) -> Step {
        if self.suspect.is_none() {
            return Step::Wait;
        }
        let due = turn.map_or(self.until, |turn| self.until + limits::TICK * (1 + turn));
        if (now < due || now < votes_from) && !mutated(Mutation::VotesAtOnce) {
            return Step::Wait;
        }
        self.suspect = None;
        if turn.is_some() { Step::Stand } else { Step::Forget }
    }
}

/// How many ticks after the first voter of a group a voter stands; none for a node without a vote.
/// Each group begins with another voter, so that leaders spread over the nodes.
pub fn turn(group: u32, voters: impl Iterator<Item = NodeId>, me: NodeId) -> Option<u32> {
    let voters: Vec<NodeId> = voters.collect();
    let place = voters.iter().position(|voter| *voter == me)?;
    let turn = (place + group as usize) % voters.len();
    Some(limits::STAND_APART_TICKS * turn as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::golden::{self, ms};

    fn act(promise: &mut Promise, votes_from: &mut Duration, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["restarted", "at", now] => *votes_from = ms(now) + limits::PROMISE,
            ["leader", "heard", "at", now] => promise.hear(ms(now)),
            ["stream", "of", node, "ends"] => promise.suspect(NodeId(node.parse().unwrap())),
            ["vote", "asked", "at", now, ref named @ ..] => {
                let named = named == ["by", "whom", "the", "leader", "named"];
                let lets = promise.lets_vote(ms(now), *votes_from, named);
                return if lets { "may vote" } else { "is not asked" }.into();
            }
            ["tick", "at", now, "turn", turn] => {
                let turn = turn.parse().ok();
                return format!("{:?}", promise.step(ms(now), *votes_from, turn)).to_lowercase();
            }
            ["turns", "in", "group", group, "of", ref nodes @ ..] => {
                let nodes: Vec<NodeId> = nodes.iter().map(|n| NodeId(n.parse().unwrap())).collect();
                let of = |me: NodeId| turn(group.parse().unwrap(), nodes.iter().copied(), me);
                let told = nodes.iter().map(|me| format!("{me}: {} ticks", of(*me).unwrap()));
                return told.collect::<Vec<_>>().join("\n");
            }
            _ => panic!("{line} is no line of a story"),
        }
        String::new()
    }

    #[test]
    fn promises_are_kept_as_told() {
        golden::play("engine/elections", || {
            let (mut promise, mut votes_from) = (Promise::default(), Duration::ZERO);
            move |line| act(&mut promise, &mut votes_from, line)
        });
    }
}
