//! When each other node of the cluster was last heard.
//!
//! Pure: the caller says whom it has heard and when. raft-rs has its own idea of who is active,
//! which it forgets at every check of the quorum: it tells nobody who is away from who has not
//! answered since a moment ago.
//!
//! - A node that has just become a member is as good as heard: its silence begins then. Otherwise
//!   whoever joins next would be given its places.
//! - Only members are remembered, since there may be any number of others.

use std::{collections::BTreeMap, time::Duration};

use crate::base::{ids::NodeId, limits};

/// See the module.
#[derive(Debug, Default)]
pub struct Heard(BTreeMap<NodeId, Duration>);

impl Heard {
    pub fn note(&mut self, node: NodeId, now: Duration) {
        self.0.insert(node, now);
    }

    /// Who the members are now.
    pub fn note_members(&mut self, members: impl Iterator<Item = NodeId>, now: Duration) {
        let known = std::mem::take(&mut self.0);
        self.0 = members.map(|node| (node, known.get(&node).copied().unwrap_or(now))).collect();
    }

    /// For how long a node has said nothing; since the beginning where it never has.
    pub fn silence(&self, node: NodeId, now: Duration) -> Duration {
        now.saturating_sub(self.0.get(&node).copied().unwrap_or_default())
    }

    /// Whether a node has said anything within a few elections.
    pub fn lately(&self, node: NodeId, now: Duration) -> bool {
        self.0.contains_key(&node) && self.silence(node, now) < limits::SILENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_heard_lately_until_it_has_been_silent() {
        let [old, new, stranger] = [1, 2, 3].map(NodeId);
        let s = Duration::from_secs;
        let mut heard = Heard::default();
        heard.note(old, s(10));
        heard.note_members([old, new].into_iter(), s(12));
        assert_eq!([old, new, stranger].map(|n| heard.lately(n, s(12))), [true, true, false]);
        assert_eq!([old, new, stranger].map(|n| heard.silence(n, s(13)).as_secs()), [3, 1, 13]);
        assert_eq!([old, new].map(|n| heard.lately(n, s(13))), [false, true]);
        heard.note_members([new].into_iter(), s(13));
        assert_eq!([old, new].map(|n| heard.silence(n, s(13)).as_secs()), [13, 1]);
    }
}
