//! Which snapshots this node captures, and when a checkpoint brings its store to the cut.
//!
//! A replica that applies a snapshot's mark stands at its cut. When all replicas of this node do,
//! one checkpoint brings the store there, and a view of it is handed over.
//!
//! Pure: the caller says which marks are applied, what the meta group knows of a snapshot and which
//! replicas are still to come, and carries out what is decided.
//!
//! - Only a mark that is applied as it comes is captured. One that is applied again after a restart
//!   is not, nor is the mark of a group that was behind in a snapshot that was begun before the
//!   restart: the part is what lies finished on the shelf, or missing.
//! - A node does not wait for ever for its last replica: `limits::MARK_GRACE` after the first mark,
//!   or when the overlay is full, its part holds the groups it has, if the snapshot is sealed.
//! - A snapshot that is aborted, or in which this node has no part any more, is let go of at once,
//!   and never captured again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    base::{
        ids::{GroupId, SnapshotId, SnapshotSeq},
        limits,
    },
    cluster::reconfigure::Membership,
    entry::Position,
};

/// A group at its mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub group: GroupId,
    pub at: Position,
    /// The counter of its newest dot.
    pub dots: u64,
    pub members: Membership,
}

/// A snapshot that this node is capturing.
#[derive(Debug)]
struct Capture {
    /// When this node applied its first mark of the snapshot.
    since: Duration,
    /// The groups that stand at their mark.
    groups: BTreeMap<GroupId, Captured>,
    /// Whether the checkpoint has begun that opens the view.
    viewing: bool,
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
    /// Its layers are let go of: it is not captured here.
    GiveUp(SnapshotSeq),
    /// The next checkpoint brings the store to its cut.
    Capture(SnapshotSeq),
}

/// The captures of a node.
#[derive(Debug, Default)]
pub struct Captures {
    under_way: BTreeMap<SnapshotSeq, Capture>,
    /// Snapshots that this node captures no more: handed over, given up, or begun before it
    /// started.
    over: BTreeSet<SnapshotSeq>,
    /// Snapshots whose view the snapshot service has got; it reports on them.
    handed_over: BTreeMap<SnapshotSeq, SnapshotId>,
}

impl Captures {
    /// Snapshots that this process has not seen begin: what was begun before it is not captured by
    /// it, sealed or not, since a part of it may be finished already.
    pub fn pass_over(&mut self, seqs: impl IntoIterator<Item = SnapshotSeq>) {
        self.over.extend(seqs);
    }

    /// Whether a group whose mark is applied now is to be captured there.
    pub fn takes(&self, seq: SnapshotSeq) -> bool {
        !self.over.contains(&seq) && !self.under_way.get(&seq).is_some_and(|c| c.viewing)
    }

    /// A group stands at its mark.
    pub fn marked(&mut self, seq: SnapshotSeq, captured: Captured, now: Duration) {
        let capture = self.under_way.entry(seq).or_insert_with(|| Capture {
            since: now,
            groups: BTreeMap::new(),
            viewing: false,
        });
        capture.groups.insert(captured.group, captured);
    }

    /// Whether a group stands at its mark.
    pub fn has(&self, seq: SnapshotSeq, group: GroupId) -> bool {
        self.under_way.get(&seq).is_some_and(|capture| capture.groups.contains_key(&group))
    }

    /// A Raft snapshot replaces a group's rows: whatever was captured of it and not yet seen by a
    /// view is gone.
    pub fn forget_group(&mut self, group: GroupId) {
        for capture in self.under_way.values_mut().filter(|capture| !capture.viewing) {
            capture.groups.remove(&group);
        }
    }

    /// Lets go of a snapshot: nothing waits for its view any more. Whether layers wait for it.
    pub fn give_up(&mut self, seq: SnapshotSeq) -> bool {
        self.over.insert(seq);
        self.under_way.remove(&seq).is_some()
    }

    /// The oldest snapshot that still waits for its checkpoint.
    pub fn next(&self) -> Option<SnapshotSeq> {
        self.under_way.iter().find(|(_, capture)| !capture.viewing).map(|(seq, _)| *seq)
    }

    /// What is to be done about a snapshot that waits for its checkpoint. `to_come` says whether
    /// some replica here is still to apply the mark; `full` that the overlay holds writes back
    /// meanwhile.
    pub fn due(
        &mut self,
        seq: SnapshotSeq,
        part: Part,
        full: bool,
        now: Duration,
        to_come: impl Fn(&Captures) -> bool,
    ) -> Due {
        let Some(capture) = self.under_way.get(&seq) else { return Due::Nothing };
        let late = now.saturating_sub(capture.since) > limits::MARK_GRACE || full;
        let decided = match part {
            Part::Unbegun if late => Due::GiveUp(seq),
            Part::Unbegun => Due::Nothing,
            Part::Unwanted => Due::GiveUp(seq),
            Part::Sealed if late => Due::Capture(seq),
            Part::Open | Part::Sealed if !to_come(self) => Due::Capture(seq),
            // Nothing gets into the store before the snapshot has its view, and writes wait.
            Part::Open if full => Due::GiveUp(seq),
            Part::Open | Part::Sealed => Due::Nothing,
        };
        if decided == Due::Capture(seq)
            && let Some(capture) = self.under_way.get_mut(&seq)
        {
            capture.viewing = true;
        }
        decided
    }

    /// The store stands at the cut, and a view of it is open. The groups that it holds, if the
    /// snapshot was not given up meanwhile.
    pub fn viewed(&mut self, seq: SnapshotSeq) -> Option<Vec<Captured>> {
        let capture = self.under_way.remove(&seq)?;
        self.over.insert(seq);
        Some(capture.groups.into_values().collect())
    }

    /// The view goes to the snapshot service, which reports on it.
    pub fn hand_over(&mut self, seq: SnapshotSeq, id: SnapshotId) {
        self.handed_over.insert(seq, id);
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
        captures: Captures,
        parts: BTreeMap<u64, Part>,
        /// Groups of which this node has a replica.
        groups: Vec<GroupId>,
        marked: BTreeSet<(SnapshotSeq, GroupId)>,
        full: bool,
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
                    return if held { "its layers are let go of" } else { "nothing waits" }.into();
                }
                ["restart"] => {
                    let known = self.parts.keys().copied().map(SnapshotSeq).collect::<Vec<_>>();
                    self.captures = Captures::default();
                    self.captures.pass_over(known);
                }
                ["mark", seq, "applied", "in", name] => {
                    return self.mark(SnapshotSeq(number(seq)), group(name));
                }
                ["rows", "of", name, "replaced"] => self.captures.forget_group(group(name)),
                ["overlay", "full"] => self.full = true,
                ["checkpoint"] => return self.checkpoint(),
                ["view", "of", seq, "open"] => {
                    let seq = SnapshotSeq(number(seq));
                    let Some(groups) = self.captures.viewed(seq) else {
                        return format!("nobody waits for snapshot {seq}");
                    };
                    let names: Vec<_> = groups.iter().map(|c| c.group.to_string()).collect();
                    return format!("snapshot {seq} has groups {}", names.join(" "));
                }
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }

        fn mark(&mut self, seq: SnapshotSeq, group: GroupId) -> String {
            self.marked.insert((seq, group));
            if !self.captures.takes(seq) {
                return format!("group {group} is not captured");
            }
            let captured = Captured {
                group,
                at: Position::default(),
                dots: 0,
                members: Membership::default(),
            };
            self.captures.marked(seq, captured, self.now);
            format!("group {group} stands at its mark")
        }

        fn checkpoint(&mut self) -> String {
            let Some(seq) = self.captures.next() else { return "captures nothing".into() };
            let part = self.parts.get(&seq.0).copied().unwrap_or(Part::Unbegun);
            let to_come = |captures: &Captures| {
                let mut replicas = self.groups.iter();
                replicas.any(|g| !captures.has(seq, *g) && !self.marked.contains(&(seq, *g)))
            };
            match self.captures.due(seq, part, self.full, self.now, to_come) {
                Due::Nothing => format!("waits for snapshot {seq}"),
                Due::Capture(seq) => format!("goes to the cut of snapshot {seq}"),
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
