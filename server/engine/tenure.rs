//! Which stay of a member in its group an acknowledgement is of.
//!
//! A replica that has ended (`endings`) has forgotten what it acknowledged. Its node may become a
//! member of the group again, while acknowledgements from before are still under way: a leader that
//! took one of them for the new replica's would count a copy that is not there. So a leader stamps
//! what it sends to a member with the place of the change that made it one, its *tenure*; a
//! follower repeats that in its acknowledgements; and a leader takes none of another tenure.
//!
//! A tenure is 0 for members of before the leader's term. Of an earlier term no acknowledgement is
//! taken by raft-rs, so nothing here outlives a term, and nothing is stored.

use std::collections::BTreeMap;

use crate::base::ids::NodeId;

/// The tenures of one group, as one replica knows them in one term.
#[derive(Debug, Default)]
pub struct Tenures {
    term: u64,
    /// Those of members that came while this replica led.
    began: BTreeMap<NodeId, u64>,
    /// This replica's own, as the leader has named it last.
    own: u64,
    /// The replica before this one ended in this term, with the leader's log here: what names an
    /// earlier tenure was said to that one.
    ended: Option<u64>,
}

impl Tenures {
    /// This replica leads, and a node has become a member by the entry at a place.
    pub fn begin(&mut self, term: u64, node: NodeId, at: u64) {
        self.come_to(term);
        self.began.insert(node, at);
    }

    /// A member's tenure, where this replica leads.
    pub fn of(&self, term: u64, node: NodeId) -> u64 {
        if self.term == term { self.began.get(&node).copied().unwrap_or_default() } else { 0 }
    }

    /// The replica has ended, and another one begins in its place.
    pub fn end(term: u64, at: u64) -> Tenures {
        Tenures { term, ended: Some(at), ..Tenures::default() }
    }

    /// The leader of a term has named this replica's tenure. False if it spoke to one before.
    pub fn hear(&mut self, term: u64, tenure: u64) -> bool {
        if term < self.term {
            return true;
        }
        self.come_to(term);
        self.own = self.own.max(tenure);
        self.ended.is_none_or(|ended| tenure > ended)
    }

    /// This replica's own.
    pub fn own(&self, term: u64) -> u64 {
        if self.term == term { self.own } else { 0 }
    }

    fn come_to(&mut self, term: u64) {
        if self.term != term {
            *self = Tenures { term, ..Tenures::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenure_is_of_one_term_and_a_late_word_of_an_earlier_stay_does_not_bring_it_back() {
        let (mut leader, node) = (Tenures::default(), NodeId(2));
        assert_eq!(leader.of(3, node), 0);
        leader.begin(3, node, 40);
        leader.begin(3, node, 90);
        assert_eq!((leader.of(3, node), leader.of(3, NodeId(1)), leader.of(4, node)), (90, 0, 0));
        leader.begin(4, NodeId(1), 120);
        assert_eq!(leader.of(4, node), 0, "it came in an earlier term");

        let mut member = Tenures::default();
        assert!([(3, 40), (3, 90), (3, 40), (2, 70)].iter().all(|(t, at)| member.hear(*t, *at)));
        assert_eq!((member.own(3), member.own(2)), (90, 0));
        assert!(member.hear(5, 0));
        assert_eq!((member.own(3), member.own(5)), (0, 0));

        let mut next = Tenures::end(5, 200);
        assert!(!next.hear(5, 0) && !next.hear(5, 190), "it was said to the replica before");
        assert!(next.hear(5, 210) && next.hear(6, 0));
    }
}
