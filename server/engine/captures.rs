//! Which snapshots this node captures, and when it has all that it waits for.
//!
//! A replica that applies a snapshot's mark stands at its cut, and what it holds there is frozen.
//! When all replicas of this node do, what they have frozen is handed over.
//!
//! Pure: the caller says which marks are applied, what the meta group knows of a snapshot and which
//! replicas are still to come, and carries out what is decided. What is frozen is none of its
//! business.
//!
//! - Only a mark that is applied as it comes is captured. One that is applied again after a restart
//!   is not, nor is the mark of a group that was behind in a snapshot that was begun before the
//!   restart: the part is what lies finished on the shelf, or missing.
//! - A node does not wait for ever for its last replica: `limits::MARK_GRACE` after the first mark
//!   its part holds the groups it has, if the snapshot is sealed.
//! - A snapshot that is aborted, or in which this node has no part any more, is let go of at once,
//!   and never captured again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::base::{
    ids::{GroupId, SnapshotId, SnapshotSeq},
    limits,
};

/// A snapshot that this node is capturing.
#[derive(Debug)]
struct Capture<G> {
    /// When this node applied its first mark of the snapshot.
    since: Duration,
    /// The groups that stand at their mark, each with what it holds there.
    groups: BTreeMap<GroupId, G>,
}

/// What the meta group knows of a snapshot and of this node's part in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// This node has not applied that the snapshot was begun.
    Unbegun,
    /// Nobody waits for a part of this node: the snapshot is aborted, deleted or forgotten, or the
    /// part is reported already.
    Unwanted,
    /// It is wanted, and the snapshot is not sealed yet.
    Open,
    /// It is wanted, and the snapshot is sealed.
    Sealed,
}

/// What is to be done about the oldest snapshot that is being captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet, or nothing is being captured.
    Nothing,
    /// What is frozen for it is let go of: it is not captured here.
    GiveUp(SnapshotSeq),
    /// What is frozen is handed over.
    HandOver(SnapshotSeq),
}

/// The captures of a node. `G` is what a group holds at its mark.
#[derive(Debug)]
pub struct Captures<G> {
    under_way: BTreeMap<SnapshotSeq, Capture<G>>,
    /// Snapshots that this node captures no more: handed over, given up, or begun before it
    /// started.
    over: BTreeSet<SnapshotSeq>,
    /// Snapshots whose groups the snapshot service has got; it reports on them.
    handed_over: BTreeMap<SnapshotSeq, SnapshotId>,
}

impl<G> Default for Captures<G> {
    fn default() -> Captures<G> {
        Captures { under_way: BTreeMap::new(), over: BTreeSet::new(), handed_over: BTreeMap::new() }
    }
}

impl<G> Captures<G> {
    /// Snapshots that this process has not seen begin: what was begun before it is not captured by
    /// it, sealed or not, since a part of it may be finished already.
    pub fn pass_over(&mut self, seqs: impl IntoIterator<Item = SnapshotSeq>) {
        self.over.extend(seqs);
    }

    /// Whether a group whose mark is applied now is to be captured there.
    pub fn takes(&self, seq: SnapshotSeq) -> bool {
        !self.over.contains(&seq)
    }

    /// A group stands at its mark, and holds this.
    pub fn marked(&mut self, seq: SnapshotSeq, group: GroupId, holds: G, now: Duration) {
        let new = || Capture { since: now, groups: BTreeMap::new() };
        self.under_way.entry(seq).or_insert_with(new).groups.insert(group, holds);
    }

    /// Whether a group stands at its mark.
    pub fn has(&self, seq: SnapshotSeq, group: GroupId) -> bool {
        self.under_way.get(&seq).is_some_and(|capture| capture.groups.contains_key(&group))
    }

    /// Lets go of a snapshot, and of what is frozen for it. Whether anything was.
    pub fn give_up(&mut self, seq: SnapshotSeq) -> bool {
        self.over.insert(seq);
        self.under_way.remove(&seq).is_some()
    }

    /// The oldest snapshot that is being captured.
    pub fn next(&self) -> Option<SnapshotSeq> {
        self.under_way.keys().next().copied()
    }

    /// What is to be done about a snapshot that is being captured. `to_come` says whether some
    /// replica here is still to apply the mark.
    pub fn due(
        &self,
        seq: SnapshotSeq,
        part: Part,
        now: Duration,
        to_come: impl Fn(&Captures<G>) -> bool,
    ) -> Due {
        let Some(capture) = self.under_way.get(&seq) else { return Due::Nothing };
        let late = now.saturating_sub(capture.since) > limits::MARK_GRACE;
        match part {
            Part::Unbegun if late => Due::GiveUp(seq),
            Part::Unbegun => Due::Nothing,
            Part::Unwanted => Due::GiveUp(seq),
            Part::Sealed if late => Due::HandOver(seq),
            Part::Open | Part::Sealed if !to_come(self) => Due::HandOver(seq),
            Part::Open | Part::Sealed => Due::Nothing,
        }
    }

    /// Takes what the groups hold, to hand it over to the snapshot service, which reports on it
    /// from now on. It is not captured again.
    pub fn hand_over(&mut self, seq: SnapshotSeq, id: SnapshotId) -> Vec<G> {
        self.over.insert(seq);
        self.handed_over.insert(seq, id);
        let capture = self.under_way.remove(&seq);
        capture.map(|capture| capture.groups.into_values().collect()).unwrap_or_default()
    }

    pub fn handed_over(&self) -> impl Iterator<Item = (SnapshotSeq, SnapshotId)> {
        self.handed_over.iter().map(|(seq, id)| (*seq, *id))
    }

    /// Whether a part of a snapshot is being captured, or was handed over, by this process.
    pub fn is_known(&self, seq: SnapshotSeq) -> bool {
        self.handed_over.contains_key(&seq) || self.under_way.contains_key(&seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::golden::{self, ms, number};

    /// One node, and what it is told of snapshots.
    #[derive(Default)]
    struct Node {
        captures: Captures<GroupId>,
        parts: BTreeMap<u64, Part>,
        /// Groups of which this node has a replica.
        groups: Vec<GroupId>,
        marked: BTreeSet<(SnapshotSeq, GroupId)>,
        now: Duration,
    }

    fn group(word: &str) -> GroupId {
        if word == "meta" { GroupId::META } else { GroupId(number(word) as u32) }
    }

    impl Node {
        fn act(&mut self, line: &str) -> String {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["at", now] => self.now = ms(now),
                ["replicas", "of", ref groups @ ..] => {
                    self.groups = groups.iter().map(|word| group(word)).collect();
                }
                ["snapshot", seq, "is", stage] => {
                    let part = match stage {
                        "begun" => Part::Open,
                        "sealed" => Part::Sealed,
                        "aborted" | "deleted" | "reported" => Part::Unwanted,
                        _ => panic!("{stage} is no stage of a snapshot"),
                    };
                    self.parts.insert(number(seq), part);
                }
                ["abort", "of", seq, "applied"] => {
                    self.parts.insert(number(seq), Part::Unwanted);
                    let held = self.captures.give_up(SnapshotSeq(number(seq)));
                    return if held { "what is frozen is let go of" } else { "nothing is" }.into();
                }
                ["restart"] => {
                    let known = self.parts.keys().copied().map(SnapshotSeq).collect::<Vec<_>>();
                    self.captures = Captures::default();
                    self.captures.pass_over(known);
                }
                ["mark", seq, "applied", "in", name] => {
                    return self.mark(SnapshotSeq(number(seq)), group(name));
                }
                ["round"] => return self.round(),
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }

        fn mark(&mut self, seq: SnapshotSeq, group: GroupId) -> String {
            self.marked.insert((seq, group));
            if !self.captures.takes(seq) {
                return format!("group {group} is not captured");
            }
            self.captures.marked(seq, group, group, self.now);
            format!("group {group} stands at its mark")
        }

        fn round(&mut self) -> String {
            let Some(seq) = self.captures.next() else { return "captures nothing".into() };
            let part = self.parts.get(&seq.0).copied().unwrap_or(Part::Unbegun);
            let to_come = |captures: &Captures<GroupId>| {
                let mut replicas = self.groups.iter();
                replicas.any(|g| !captures.has(seq, *g) && !self.marked.contains(&(seq, *g)))
            };
            match self.captures.due(seq, part, self.now, to_come) {
                Due::Nothing => format!("waits for snapshot {seq}"),
                Due::HandOver(seq) => {
                    let groups = self.captures.hand_over(seq, SnapshotId(uuid::Uuid::nil()));
                    let names: Vec<_> = groups.iter().map(GroupId::to_string).collect();
                    format!("hands over groups {} of snapshot {seq}", names.join(" "))
                }
                Due::GiveUp(seq) => {
                    self.captures.give_up(seq);
                    format!("gives snapshot {seq} up")
                }
            }
        }
    }

    #[test]
    fn snapshots_are_captured_as_told() {
        golden::play("engine/captures", || {
            let mut node = Node::default();
            move |line| node.act(line)
        });
    }
}
