//! From the members a group has to the ones it should have, one node at a time.
//!
//! The leader of a group asks for the next step whenever its membership or its followers' progress
//! has changed, proposes it, and asks again once it is applied. Nothing is remembered between
//! steps: the next leader goes on from what it finds. Raft allows a change of one node without
//! joint consensus, because every majority before it meets every majority after it (Ongaro 2014,
//! section 4.1).
//!
//! Relies on the caller to take only one step at a time, and to say who is alive, who has caught up
//! and who knows of the last step; all may be wrong without harm, only slow. Does not decide who
//! the members should be: see `placement`.
//!
//! - A learner becomes a voter only when it has caught up, so a new voter never delays commits.
//! - While a voter that is to stay is away, none is added to as many as there should be: a new one
//!   that is lost soon after would take the quorum with it.
//! - No voter is removed until every wanted voter votes, so the number of copies never falls below
//!   min(before, wanted).
//! - A voter is removed only while enough of the others are alive to agree without it.
//! - While a voter is away, none that lives is removed: it may hold what the one that is away held.
//! - The last voter stays.
//! - Leadership is offered only to a voter that knows that it votes. Another one passes over the
//!   offer, and writes wait until the leader gives it up.

use std::collections::BTreeSet;

use crate::base::ids::NodeId;

/// The members a group has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
}

impl Membership {
    pub fn has(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// The members a group should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub voters: Vec<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// Who should lead when all is well; None leaves leadership where it is.
    pub leader: Option<NodeId>,
    /// Nodes that should not lead.
    pub drained: BTreeSet<NodeId>,
}

impl Wanted {
    /// Whether these are the voters, so that nothing is waited for.
    pub fn is_met_by(&self, current: &Membership) -> bool {
        current.voters.len() == self.voters.len()
            && self.voters.iter().all(|node| current.voters.contains(node))
    }
}

/// What a group waits for that does not have the wanted members yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The node shall vote, and does not answer.
    Silent(NodeId),
    /// The node shall vote, and does not have all entries yet.
    Behind(NodeId),
    /// The node votes and does not answer: meanwhile no other one goes.
    Away(NodeId),
}

/// One change of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the node a learner, which receives the log and does not vote; a voter stops voting.
    AddLearner(NodeId),
    /// Make the learner a voter.
    Promote(NodeId),
    /// Remove the node from the group.
    Remove(NodeId),
    /// Hand leadership over to this node.
    HandOver(NodeId),
}

/// How the leader sees the members.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// Whether a member lacks no more than the last entries.
    pub caught_up: &'a dyn Fn(NodeId) -> bool,
    /// Whether a member has said that it knows of the last change of members.
    pub knows: &'a dyn Fn(NodeId) -> bool,
    pub alive: &'a dyn Fn(NodeId) -> bool,
}

/// The next step, or None while there is nothing to do or nothing that would be safe.
pub fn next_step(
    current: &Membership,
    wanted: &Wanted,
    me: NodeId,
    seen: Seen<'_>,
) -> Option<Step> {
    if wanted.voters.is_empty() {
        return None;
    }
    let walk = Walk { current, wanted, me, seen };
    walk.hand_over_drained()
        .or_else(|| walk.promote())
        .or_else(|| walk.add_learner())
        .or_else(|| walk.remove_learner())
        .or_else(|| walk.make_way())
        .or_else(|| walk.remove_voter())
        .or_else(|| walk.hand_over_to_preferred())
}

/// Why there is no next step; None while there is one, or nothing to do.
pub fn why_not(current: &Membership, wanted: &Wanted, me: NodeId, seen: Seen<'_>) -> Option<Wait> {
    if next_step(current, wanted, me, seen).is_some() {
        return None;
    }
    let Seen { caught_up, alive, .. } = seen;
    let learns = wanted.voters.iter().copied().find(|n| current.learners.contains(n));
    let away = current.voters.iter().copied().find(|n| *n != me && !alive(*n));
    if let Some(node) = learns {
        if let Some(away) = away.filter(|_| alive(node) && caught_up(node)) {
            return Some(Wait::Away(away));
        }
        return Some(if alive(node) { Wait::Behind(node) } else { Wait::Silent(node) });
    }
    if let Some(node) = wanted.voters.iter().copied().find(|n| !current.has(*n)) {
        return Some(Wait::Silent(node));
    }
    let goes = current.voters.iter().any(|n| !wanted.voters.contains(n));
    away.filter(|_| goes).map(Wait::Away)
}

struct Walk<'a> {
    current: &'a Membership,
    wanted: &'a Wanted,
    me: NodeId,
    seen: Seen<'a>,
}

impl Walk<'_> {
    fn promote(&self) -> Option<Step> {
        if self.lacks_one_that_stays() {
            return None;
        }
        let ready = |n: &NodeId| {
            self.current.learners.contains(n) && (self.seen.caught_up)(*n) && (self.seen.alive)(*n)
        };
        self.wanted.voters.iter().copied().find(ready).map(Step::Promote)
    }

    /// Whether the group has as many voters as it should, and one that is to stay is away.
    fn lacks_one_that_stays(&self) -> bool {
        let away = |n: &&NodeId| **n != self.me && !(self.seen.alive)(**n);
        let stays = |n: &NodeId| self.wanted.voters.contains(n);
        self.current.voters.len() >= self.wanted.voters.len()
            && self.current.voters.iter().filter(away).any(stays)
    }

    /// Only who is alive: a learner that does not answer would only hold the log back.
    fn add_learner(&self) -> Option<Step> {
        let new = |n: &NodeId| {
            !self.current.voters.contains(n)
                && !self.current.learners.contains(n)
                && (self.seen.alive)(*n)
        };
        self.wanted
            .voters
            .iter()
            .chain(&self.wanted.learners)
            .copied()
            .find(new)
            .map(Step::AddLearner)
    }

    fn remove_learner(&self) -> Option<Step> {
        let wanted =
            |n: &NodeId| self.wanted.voters.contains(n) || self.wanted.learners.contains(n);
        self.current.learners.iter().copied().find(|n| !wanted(n)).map(Step::Remove)
    }

    /// A leader that is to go hands over first: one that removed itself would leave an election
    /// behind.
    fn make_way(&self) -> Option<Step> {
        if self.wanted.voters.contains(&self.me) || !self.all_vote() {
            return None;
        }
        self.successor(|_| true).map(Step::HandOver)
    }

    /// A node that is drained leads only what no other node can lead.
    fn hand_over_drained(&self) -> Option<Step> {
        if !self.wanted.drained.contains(&self.me) {
            return None;
        }
        self.successor(|n| !self.wanted.drained.contains(&n)).map(Step::HandOver)
    }

    /// The dead go first: without them the others can spare more.
    fn remove_voter(&self) -> Option<Step> {
        if !self.all_vote() {
            return None;
        }
        let to_go = || {
            self.current
                .voters
                .iter()
                .copied()
                .filter(|n| *n != self.me && !self.wanted.voters.contains(n))
        };
        let alive = |n: &NodeId| *n == self.me || (self.seen.alive)(*n);
        let all_alive = || self.current.voters.iter().all(alive);
        let node =
            to_go().find(|n| !alive(n)).or_else(|| to_go().next().filter(|_| all_alive()))?;
        let left = self.current.voters.iter().filter(|n| **n != node);
        let (alive, quorum) =
            (left.filter(|n| alive(n)).count(), (self.current.voters.len() - 1) / 2 + 1);
        let step = if self.wanted.learners.contains(&node) {
            Step::AddLearner(node)
        } else {
            Step::Remove(node)
        };
        (alive >= quorum).then_some(step)
    }

    fn hand_over_to_preferred(&self) -> Option<Step> {
        let leader = self.wanted.leader.filter(|n| *n != self.me)?;
        self.successor(|n| n == leader).map(Step::HandOver)
    }

    fn all_vote(&self) -> bool {
        self.wanted.voters.iter().all(|n| self.current.voters.contains(n))
    }

    fn successor(&self, may: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let ready = |n: &NodeId| {
            *n != self.me
                && self.current.voters.contains(n)
                && (self.seen.alive)(*n)
                && (self.seen.caught_up)(*n)
                && (self.seen.knows)(*n)
                && may(*n)
        };
        let preferred = self.wanted.leader.filter(ready);
        preferred.or_else(|| self.wanted.voters.iter().copied().find(ready))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::golden::{self, number};

    fn set(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        nodes.into_iter().map(NodeId).collect()
    }

    fn seen<'a>(
        caught_up: &'a dyn Fn(NodeId) -> bool,
        alive: &'a dyn Fn(NodeId) -> bool,
    ) -> Seen<'a> {
        Seen { caught_up, knows: &|_| true, alive }
    }

    /// A group, and who leads it, is alive, has caught up and knows of the last change.
    #[derive(Default)]
    struct Story {
        members: Membership,
        wanted: Wanted,
        leader: Option<NodeId>,
        silent: BTreeSet<NodeId>,
        behind: BTreeSet<NodeId>,
        unaware: BTreeSet<NodeId>,
    }

    fn nodes<C: FromIterator<NodeId>>(words: &[&str]) -> C {
        words.iter().map(|word| NodeId(number(word))).collect()
    }

    impl Story {
        fn step(&mut self) -> String {
            let Story { members, wanted, leader, silent, behind, unaware } = self;
            let leader = leader.as_mut().expect("the story says who leads");
            let (caught_up, alive) = (|n| !behind.contains(&n), |n| !silent.contains(&n));
            let knows = |n| !unaware.contains(&n);
            let seen = Seen { caught_up: &caught_up, knows: &knows, alive: &alive };
            let Some(step) = next_step(members, wanted, *leader, seen) else {
                let wait = why_not(members, wanted, *leader, seen);
                return wait.map_or("rests".into(), |wait| match wait {
                    Wait::Silent(node) => format!("waits for node {node} to answer"),
                    Wait::Behind(node) => format!("waits for node {node} to catch up"),
                    Wait::Away(node) => format!("waits for node {node}, which votes, to answer"),
                });
            };
            take(step, members, leader);
            match step {
                Step::AddLearner(node) => {
                    behind.insert(node);
                    format!("node {node} learns")
                }
                Step::Promote(node) => format!("node {node} votes"),
                Step::Remove(node) => format!("node {node} is removed"),
                Step::HandOver(node) => format!("node {node} leads"),
            }
        }

        fn act(&mut self, line: &str) -> String {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["voters", ref voters @ ..] => self.members.voters = nodes(voters),
                ["wanted", ref voters @ ..] => self.wanted.voters = nodes(voters),
                ["node", node, "leads"] => self.leader = Some(NodeId(number(node))),
                ["node", node, "should", "lead"] => {
                    self.wanted.leader = Some(NodeId(number(node)));
                }
                ["node", node, "is", "drained"] => {
                    self.wanted.drained.insert(NodeId(number(node)));
                }
                ["node", node, "is", "silent"] => drop(self.silent.insert(NodeId(number(node)))),
                ["node", node, "answers"] => drop(self.silent.remove(&NodeId(number(node)))),
                ["node", node, "has", "caught", "up"] => {
                    self.behind.remove(&NodeId(number(node)));
                }
                ["node", node, "has", "not", "heard"] => {
                    self.unaware.insert(NodeId(number(node)));
                }
                ["node", node, "has", "heard"] => drop(self.unaware.remove(&NodeId(number(node)))),
                ["step"] => return self.step(),
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }
    }

    #[test]
    fn members_change_as_told() {
        golden::play("engine/members", || {
            let mut story = Story::default();
            move |line| story.act(line)
        });
    }

    fn a_membership() -> impl Strategy<Value = Membership> {
        (prop::collection::btree_set(1..9u64, 1..7), prop::collection::btree_set(1..9u64, 0..5))
            .prop_map(|(voters, learners)| {
                let voters = set(voters);
                let learners = set(learners).difference(&voters).copied().collect();
                Membership { voters, learners }
            })
    }

    /// Raft's own rules, and that a step does something.
    fn take(step: Step, members: &mut Membership, leader: &mut NodeId) {
        match step {
            Step::AddLearner(n) => {
                assert!(*leader != n && members.learners.insert(n));
                members.voters.remove(&n);
            }
            Step::Promote(n) => assert!(members.learners.remove(&n) && members.voters.insert(n)),
            Step::Remove(n) => {
                assert!(*leader != n && (members.voters.remove(&n) || members.learners.remove(&n)))
            }
            Step::HandOver(n) => {
                assert!(members.voters.contains(&n) && n != *leader);
                *leader = n;
            }
        }
        assert!(members.voters.contains(leader), "the leader votes, so there is a voter left");
    }

    fn a_walk() -> impl Strategy<Value = (Membership, Wanted, NodeId)> {
        (
            a_membership(),
            a_membership(),
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            any::<bool>(),
        )
            .prop_map(|(from, to, me, leader, prefers)| {
                let voters: Vec<NodeId> = to.voters.iter().copied().collect();
                let leader = prefers.then(|| *leader.get(&voters));
                let me = *me.get(&from.voters.iter().copied().collect::<Vec<_>>());
                (from, Wanted { voters, learners: to.learners, leader, ..Wanted::default() }, me)
            })
    }

    proptest! {
        #[test]
        fn with_everyone_alive_every_walk_ends_at_what_is_wanted((from, wanted, me) in a_walk()) {
            let (mut members, mut leader, mut steps) = (from.clone(), me, 0);
            let all = |_| true;
            while let Some(step) = next_step(&members, &wanted, leader, seen(&all, &all)) {
                let before = members.voters.clone();
                take(step, &mut members, &mut leader);
                prop_assert!(before.symmetric_difference(&members.voters).count() <= 1);
                prop_assert!(members.voters.len() >= before.len().min(wanted.voters.len()));
                steps += 1;
                prop_assert!(steps <= 40, "it goes in circles");
            }
            prop_assert_eq!(members.voters, wanted.voters.iter().copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(members.learners, wanted.learners);
            prop_assert!(wanted.leader.is_none_or(|n| n == leader));
        }

        #[test]
        fn whoever_is_dead_no_step_takes_the_quorum_away(
            (from, wanted, me) in a_walk(),
            dead in prop::collection::btree_set(1..9u64, 0..5),
            slow in prop::collection::btree_set(1..9u64, 0..5),
        ) {
            let alive = |n: NodeId| n == me || !dead.contains(&n.0);
            let has_quorum = |m: &Membership| {
                m.voters.iter().filter(|n| alive(**n)).count() > m.voters.len() / 2
            };
            prop_assume!(has_quorum(&from));
            let (mut members, mut leader, mut steps) = (from, me, 0);
            while let Some(step) =
                next_step(&members, &wanted, leader, seen(&|n| !slow.contains(&n.0), &alive))
            {
                if let Step::Promote(n) = step {
                    prop_assert!(!slow.contains(&n.0), "nobody votes before having caught up");
                }
                let lost = members.voters.clone();
                take(step, &mut members, &mut leader);
                let lost: Vec<_> = lost.difference(&members.voters).collect();
                prop_assert!(
                    lost.is_empty() || wanted.voters.iter().all(|n| members.voters.contains(n)),
                    "{lost:?} went before all that should vote did"
                );
                prop_assert!(has_quorum(&members) && alive(leader));
                steps += 1;
                prop_assert!(steps <= 40, "it goes in circles");
            }
        }
    }

    #[test]
    fn a_dead_voter_is_replaced_before_it_is_removed() {
        let mut members = Membership { voters: set([1, 2, 3]), learners: set([]) };
        let wanted = Wanted { voters: vec![NodeId(1), NodeId(2), NodeId(4)], ..Wanted::default() };
        let mut leader = NodeId(1);
        let mut steps = Vec::new();
        let alive = |n| n != NodeId(3);
        while let Some(step) = next_step(&members, &wanted, leader, seen(&|_| true, &alive)) {
            take(step, &mut members, &mut leader);
            steps.push(step);
        }
        assert_eq!(
            steps,
            [Step::AddLearner(NodeId(4)), Step::Promote(NodeId(4)), Step::Remove(NodeId(3))]
        );
    }

    /// A fourth node has joined while the third one is away: the second stays until the third is
    /// back, or is removed from the cluster and wanted no more.
    #[test]
    fn while_a_voter_is_away_none_that_lives_goes() {
        let members = Membership { voters: set([1, 2, 3, 4]), learners: set([]) };
        let wanted =
            |voters: [u64; 3]| Wanted { voters: voters.map(NodeId).to_vec(), ..Wanted::default() };
        let step = |wanted: &Wanted, away: u64| {
            next_step(&members, wanted, NodeId(1), seen(&|_| true, &|n| n.0 != away))
        };
        assert_eq!(step(&wanted([1, 3, 4]), 3), None);
        assert_eq!(step(&wanted([1, 3, 4]), 0), Some(Step::Remove(NodeId(2))));
        assert_eq!(step(&wanted([1, 2, 4]), 3), Some(Step::Remove(NodeId(3))));
    }

    #[test]
    fn a_group_says_whom_it_waits_for() {
        let members = Membership { voters: set([1, 2, 3]), learners: set([4]) };
        let wanted = Wanted { voters: [1, 2, 4].map(NodeId).to_vec(), ..Wanted::default() };
        let why = |members: &Membership, behind: u64, silent: u64| {
            why_not(members, &wanted, NodeId(1), seen(&|n| n.0 != behind, &|n| n.0 != silent))
        };
        assert_eq!(why(&members, 0, 0), None, "it can go on");
        assert_eq!(why(&members, 4, 0), Some(Wait::Behind(NodeId(4))));
        assert_eq!(why(&members, 0, 4), Some(Wait::Silent(NodeId(4))));
        let all = Membership { voters: set([1, 2, 3, 4]), learners: set([]) };
        assert_eq!(why(&all, 0, 2), Some(Wait::Away(NodeId(2))));
        assert_eq!(why(&all, 0, 3), None, "the one that goes is the one that is away");
        let new = Membership { voters: set([1, 2, 3]), learners: set([]) };
        assert_eq!(why(&new, 0, 4), Some(Wait::Silent(NodeId(4))));
        let done = Membership { voters: set([1, 2, 4]), learners: set([]) };
        assert_eq!(why(&done, 0, 2), None, "there is nothing to do");
    }

    /// The third of three is away when a fourth node takes the place of one that lives, and may be
    /// lost as soon as it votes.
    #[test]
    fn while_a_voter_that_stays_is_away_none_is_added() {
        let members = Membership { voters: set([1, 2, 3]), learners: set([4]) };
        let wanted =
            |voters: [u64; 3]| Wanted { voters: voters.map(NodeId).to_vec(), ..Wanted::default() };
        let (all, without_3) = (|_| true, |n: NodeId| n.0 != 3);
        let step = |wanted: &Wanted, alive: &dyn Fn(NodeId) -> bool| {
            let to_go = next_step(&members, wanted, NodeId(1), seen(&all, alive));
            (to_go, why_not(&members, wanted, NodeId(1), seen(&all, alive)))
        };
        let promotes = (Some(Step::Promote(NodeId(4))), None);
        let waits = (None, Some(Wait::Away(NodeId(3))));
        assert_eq!(step(&wanted([1, 3, 4]), &all), promotes);
        assert_eq!(step(&wanted([1, 3, 4]), &without_3), waits);
        assert_eq!(
            step(&wanted([1, 2, 4]), &without_3),
            promotes,
            "it takes the third one's place"
        );
    }

    #[test]
    fn while_a_wanted_voter_is_away_nobody_goes() {
        let members = Membership { voters: set([1, 2, 3]), learners: set([]) };
        let wanted = Wanted { voters: vec![NodeId(1), NodeId(2), NodeId(4)], ..Wanted::default() };
        let without_4 = |n| n != NodeId(4);
        assert_eq!(next_step(&members, &wanted, NodeId(1), seen(&|_| true, &without_4)), None);
    }
}
