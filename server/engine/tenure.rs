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
    use crate::base::golden::{self, number};

    fn act(tenures: &mut Tenures, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let node = |word: &str| NodeId(number(word));
        match words[..] {
            ["term", term, "node", member, "becomes", "a", "member", "at", at] => {
                tenures.begin(number(term), node(member), number(at));
                String::new()
            }
            ["term", term, "tenure", "of", "node", member] => {
                tenures.of(number(term), node(member)).to_string()
            }
            ["term", term, "the", "leader", "names", "tenure", tenure] => {
                let heard = tenures.hear(number(term), number(tenure));
                if heard { "heard" } else { "said to the replica before" }.into()
            }
            ["term", term, "own", "tenure"] => tenures.own(number(term)).to_string(),
            ["term", term, "the", "replica", "ends", "at", at] => {
                *tenures = Tenures::end(number(term), number(at));
                String::new()
            }
            _ => panic!("{line} is no line of a story"),
        }
    }

    #[test]
    fn tenures_are_as_told() {
        golden::play("engine/tenures", || {
            let mut tenures = Tenures::default();
            move |line| act(&mut tenures, line)
        });
    }
}
