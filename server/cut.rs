//! The cut: one entry in each group's log, so that all of them together look like one instant.
//!
//! Let T be the moment at which the last group has applied its mark. Showing anyone what stands
//! behind a mark before T would tear the cut; after T it is harmless. Everything here serves that
//! one line. The rules are R1 to R10 of `docs/cut.md`, which also says why they suffice and what
//! breaks without each.
//!
//! - `Open` is what a node knows to be past T, or given up (R4).
//! - `Fence` is what a group's replica knows of its marks: which mark may be set (R2), and what has
//!   to wait for or fails behind it (R5).
//! - `Barrier` is the meta leader's: it collects the marks, and only when all are in it releases
//!   and seals (R3).
//!
//! ```text
//!   meta leader      Begin(seq) ── ask ────────────────► T ── Release(seq), Seal(seq)
//!   group's leader        Mark(seq) appended ─ applied ──┘ ▲          │
//!   its users' writes     ········ wait ···················│··········▼ go on, with seen = seq
//! ```
//!
//! Relies on its caller for order: a mark is applied in the same transaction as the group's rows
//! (R6), capture splits the batch there (R7), a barrier is made only once `Begin(seq)` is applied
//! (R1), and dropped when its outcome is applied or leadership is lost. Does not capture anything,
//! and knows time only to give up: nothing is ever opened because time has passed.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    base::{
        ids::{GroupId, SnapshotSeq},
        limits,
    },
    cluster::snapshots::named_groups,
    faults::mutation::{Mutation, mutated},
};

const NONE: SnapshotSeq = SnapshotSeq(0);

/// The newest snapshot for which a node need not hold writes any more. It only grows, through
/// `released` and `resolved` and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open(SnapshotSeq);

impl Open {
    /// The number that entries with users' commands carry as `seen` when they are proposed.
    pub fn get(self) -> SnapshotSeq {
        self.0
    }

    /// Notes that `Release(seq)` has come, and says whether that lets writes go on.
    pub fn released(&mut self, seq: SnapshotSeq) -> bool {
        self.raise(seq)
    }

    /// Notes that this node's meta log has applied `Seal(seq)` or `Abort(seq)`, and says whether
    /// that lets writes go on.
    pub fn resolved(&mut self, seq: SnapshotSeq) -> bool {
        self.raise(seq)
    }

    fn raise(&mut self, seq: SnapshotSeq) -> bool {
        let news = seq > self.0;
        self.0 = self.0.max(seq);
        news
    }
}

/// The marks of one group, as one replica knows them.
///
/// `mark` is replicated: stored with the rows, part of Raft snapshots, the same on every replica at
/// the same index. `in_flight` is a leader's own and gone with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    mark: SnapshotSeq,
    in_flight: SnapshotSeq,
}

impl Fence {
    /// As it stands in the group's rows; 0 after a restore.
    pub fn stored(mark: SnapshotSeq) -> Fence {
        Fence { mark, in_flight: NONE }
    }

    /// The newest mark that was applied.
    pub fn mark(self) -> SnapshotSeq {
        self.mark
    }

    /// Whether the mark of x has been applied, so that it may be reported.
    pub fn is_marked(self, seq: SnapshotSeq) -> bool {
        self.mark >= seq
    }

    /// Whether a leader may append `Mark(seq)`. Before its own no-op is applied, marks of earlier
    /// leaders may still be on their way.
    pub fn may_propose_mark(self, seq: SnapshotSeq, noop_applied: bool) -> bool {
        noop_applied && self.mark < seq && self.in_flight == NONE
    }

    /// This leader has appended `Mark(seq)`.
    pub fn proposed(&mut self, seq: SnapshotSeq) {
        self.in_flight = seq;
    }

    /// `Mark(seq)` is applied. Whether it is the first: then the group is captured at exactly this
    /// entry, and never again for x.
    pub fn apply_mark(&mut self, seq: SnapshotSeq) -> bool {
        if self.in_flight <= seq {
            self.in_flight = NONE;
        }
        let first = seq > self.mark;
        self.mark = self.mark.max(seq);
        first
    }

    /// Whether a leader keeps users' writes waiting. That is for speed: proposed now, they would
    /// come behind a mark without knowing it resolved.
    pub fn holds_writes(self, open: Open) -> bool {
        self.mark.max(self.in_flight) > open.get()
    }

    /// Whether a user's entry that is being applied has no effect and is answered *retry*. Safety
    /// rests on this alone.
    pub fn fenced(self, seen: SnapshotSeq) -> bool {
        self.mark > seen
    }

    /// Whatever was in flight may or may not be applied one day; the next leader finds out.
    pub fn leadership_lost(&mut self) {
        self.in_flight = NONE;
    }
}

/// What the meta leader does for the open snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask every node in the cluster for `Mark(seq)` in all groups that it leads.
    AskMarks,
    /// Send `Release(seq)` to every node in the cluster.
    Release,
    /// Propose `Seal(seq)`.
    ProposeSeal,
    /// Propose `Abort(seq)`.
    ProposeAbort(String),
}

/// Collects the marks of one open snapshot.
///
/// Any message may be lost, late or doubled: what is asked is asked again on every tick, and what
/// is proposed is proposed again until its outcome is applied, which is harmless since the first
/// outcome wins. A new leader begins a barrier of its own: nodes report marks that were applied
/// long ago just as well. It goes by groups, not by nodes, so that replicas may move and nodes may
/// come meanwhile.
#[derive(Clone, Debug)]
pub struct Barrier {
    seq: SnapshotSeq,
    unmarked: BTreeSet<GroupId>,
    deadline: Duration,
    phase: Phase,
    propose_next: Duration,
}

/// Decided once and not changed by this leader any more.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Asking,
    Sealing,
    /// With the reason.
    Aborting(String),
}

impl Barrier {
    /// For a snapshot whose `Begin` is applied. `groups` are all groups there are, the meta group
    /// among them. `tick` is due at once.
    pub fn new(
        seq: SnapshotSeq,
        groups: impl IntoIterator<Item = GroupId>,
        now: Duration,
        patience: Duration,
    ) -> Barrier {
        Barrier {
            seq,
            unmarked: groups.into_iter().collect(),
            deadline: now + patience,
            phase: Phase::Asking,
            propose_next: now,
        }
    }

    pub fn seq(&self) -> SnapshotSeq {
        self.seq
    }

    /// Groups of which no mark has been reported.
    pub fn unmarked(&self) -> &BTreeSet<GroupId> {
        &self.unmarked
    }

    /// Some node's leaders have applied `Mark(seq)` in these groups.
    pub fn marked(&mut self, seq: SnapshotSeq, groups: &[GroupId], now: Duration) -> Vec<Action> {
        if seq != self.seq {
            return Vec::new();
        }
        for group in groups {
            self.unmarked.remove(group);
        }
        let enough = self.unmarked.is_empty()
            || (mutated(Mutation::ReleasedByMajority) && self.unmarked.len() <= 2);
        if self.phase != Phase::Asking || !enough {
            return Vec::new();
        }
        self.phase = Phase::Sealing;
        self.seal(now)
    }

    /// To be called now and then while the snapshot is open; every `limits::TICK` is good.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        if self.phase == Phase::Asking && now >= self.deadline {
            if mutated(Mutation::OpenedByTime) {
                return vec![Action::Release, Action::AskMarks];
            }
            self.phase = if mutated(Mutation::SealedByTime) {
                Phase::Sealing
            } else {
                Phase::Aborting(self.why())
            };
        }
        match &self.phase {
            Phase::Asking => vec![Action::AskMarks],
            Phase::Sealing => self.seal(now),
            Phase::Aborting(why) => {
                let abort = Action::ProposeAbort(why.clone());
                if self.proposed_again(now) { vec![abort] } else { Vec::new() }
            }
        }
    }

    fn seal(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = vec![Action::Release];
        if self.proposed_again(now) {
            actions.push(Action::ProposeSeal);
        }
        actions
    }

    fn proposed_again(&mut self, now: Duration) -> bool {
        let due = now >= self.propose_next;
        if due {
            self.propose_next = now + limits::CUT_PROPOSE_AGAIN;
        }
        due
    }

    fn why(&self) -> String {
        let unmarked: Vec<GroupId> = self.unmarked.iter().copied().collect();
        format!(
            "{} could not be marked in time: no leader has said that its mark is applied",
            named_groups(&unmarked)
        )
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod stories;
