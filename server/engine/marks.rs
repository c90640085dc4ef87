//! The engine's part in a snapshot: it sets marks, holds and releases writes, and hands over what
//! its replicas hold at exactly the cut.
//!
//! The rules stand in `docs/cut.md`, their decisions in `cut`; here they meet the groups. The meta
//! leader runs the barrier. A leader of any group sets its mark when it is asked. A replica that
//! applies a mark seals its layer there and freezes its rows; when all replicas of this node have
//! done so, what they have frozen is handed over. Neither waits for a checkpoint, and none waits
//! for them.
//!
//! Which snapshots are captured, and when, is decided in `captures`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Engine, Host, News,
    captures::{Captures, Due, Part as Known},
    group::Waiting,
    message,
    overlay::Frozen,
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, Lineage, NodeId, SnapshotId, SnapshotSeq},
        limits,
    },
    cluster::{
        self, Command,
        reconfigure::Membership,
        snapshots::{Part, Stage, Status},
    },
    cut::{Action, Barrier, Open},
    entry::{Action as Logged, Position},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    proto::internal::{v1 as internal, v1::peer_message},
};

/// What the snapshot service has to know.
pub enum SnapshotNews {
    /// The cut, as far as this node holds it. To be copied soon: what is frozen keeps memory, and
    /// the store from reusing space.
    Captured {
        id: SnapshotId,
        seq: SnapshotSeq,
        groups: Vec<Captured>,
    },
    Sealed {
        id: SnapshotId,
    },
    Aborted {
        id: SnapshotId,
    },
    /// It is forgotten, and its files are to go.
    Deleted {
        id: SnapshotId,
    },
    /// Its files are to go, and the cluster waits for that. Told again until the cluster knows.
    Deleting {
        id: SnapshotId,
        lineage: Lineage,
    },
    /// The cluster waits for this node's part, and no capture of it is under way. Told again until
    /// the cluster knows.
    Unreported {
        id: SnapshotId,
    },
}

impl std::fmt::Debug for SnapshotNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotNews::Captured { id, groups, .. } => {
                write!(f, "Captured({id}, {} groups)", groups.len())
            }
            SnapshotNews::Sealed { id } => write!(f, "Sealed({id})"),
            SnapshotNews::Aborted { id } => write!(f, "Aborted({id})"),
            SnapshotNews::Deleted { id } => write!(f, "Deleted({id})"),
            SnapshotNews::Deleting { id, lineage } => write!(f, "Deleting({id} of {lineage})"),
            SnapshotNews::Unreported { id } => write!(f, "Unreported({id})"),
        }
    }
}

/// A group at its mark.
#[derive(Clone, Debug)]
pub struct Captured {
    pub group: GroupId,
    pub at: Position,
    /// The counter of its newest dot.
    pub dots: u64,
    pub members: Membership,
    pub rows: Frozen,
}

/// Marks and captures of a node.
#[derive(Debug, Default)]
pub(super) struct Marks {
    open: Open,
    barrier: Option<Barrier>,
    captures: Captures<Captured>,
    /// The node that asked for marks last; leaders report marks to it.
    asked_by: Option<NodeId>,
    /// A question for marks that came before this node applied the snapshot's `Begin`, and the node
    /// that asked.
    early: Option<(SnapshotSeq, NodeId)>,
    /// When the meta leader began to miss each silent node.
    away: BTreeMap<NodeId, Duration>,
    /// The snapshot whose deletion this node began last, so that all get their turn.
    deletion_told: SnapshotSeq,
}

impl Marks {
    pub fn new(meta: &cluster::State) -> Marks {
        let mut marks = Marks::default();
        marks.meta_replaced(meta);
        marks.captures.pass_over(meta.snapshots().keys().copied());
        marks
    }

    pub fn open(&self) -> Open {
        self.open
    }

    /// The meta state has come from a Raft snapshot or the store.
    pub fn meta_replaced(&mut self, meta: &cluster::State) {
        self.open.resolved(meta.settings().resolved);
        // Begin was not applied here as it came.
        self.captures.pass_over(meta.open_snapshot().map(|s| s.seq));
    }

    pub fn lost_leadership(&mut self) {
        self.barrier = None;
        self.away.clear();
    }
}

impl Engine {
    // ---- The meta leader. ----

    /// Begins a barrier for a snapshot that is open, and does what it asks for.
    pub(super) fn advance_snapshots(&mut self, host: &mut dyn Host) -> Result<()> {
        let open = self.meta.open_snapshot().map(|s| s.seq);
        if !self.leads_meta() || open.is_none() || self.identity.lineage == Lineage::PENDING {
            self.marks.barrier = None;
            return Ok(());
        }
        if self.marks.barrier.as_ref().map(|b| b.seq()) != open {
            let groups = self.topology().group_ids().chain([GroupId::META]);
            let mut barrier = Barrier::new(
                open.expect("it was just looked at"),
                groups,
                self.now,
                self.checkpoints.cut_deadline(),
            );
            let actions = barrier.tick(self.now);
            self.marks.barrier = Some(barrier);
            self.carry_out(actions, host)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, actions: Vec<Action>, host: &mut dyn Host) -> Result<()> {
        let Some(seq) = self.marks.barrier.as_ref().map(|b| b.seq()) else { return Ok(()) };
        for action in actions {
            match action {
                Action::AskMarks => {
                    failpoint(Failpoint::MarksAsking);
                    self.tell_all(
                        peer_message::Body::MarkRequest(internal::MarkRequest { seq: seq.0 }),
                        host,
                    );
                    failpoint(Failpoint::MarksAsked);
                }
                Action::Release => {
                    failpoint(Failpoint::Releasing);
                    self.tell_all(
                        peer_message::Body::Release(internal::Release { seq: seq.0 }),
                        host,
                    );
                    failpoint(Failpoint::Released);
                }
                Action::ProposeSeal => {
                    self.propose_meta(Command::SealSnapshot { seq });
                    failpoint(Failpoint::SealProposed);
                }
                Action::ProposeAbort(reason) => {
                    self.propose_meta(Command::AbortSnapshot { seq, reason });
                    failpoint(Failpoint::AbortProposed);
                }
            }
        }
        Ok(())
    }

    fn tell_all(&mut self, body: peer_message::Body, host: &mut dyn Host) {
        for node in self.meta.nodes().keys().copied().collect::<Vec<_>>() {
            self.send(node, message(GroupId::META, body.clone()), host);
        }
    }

    /// In the meta group that this node leads; nobody waits for it.
    pub(super) fn propose_meta(&mut self, command: Command) {
        let deadline = self.now + limits::REQUEST_DEADLINE;
        if let Some(meta) = self.groups.get_mut(GroupId::META) {
            meta.enqueue_own(Waiting::for_nobody(Logged::Meta(command), deadline));
            self.awake.insert(GroupId::META);
        }
    }

    pub(super) fn on_marked(
        &mut self,
        marked: internal::Marked,
        host: &mut dyn Host,
    ) -> Result<()> {
        let groups: Vec<GroupId> = marked.groups.into_iter().map(GroupId).collect();
        let now = self.now;
        let actions = self
            .marks
            .barrier
            .as_mut()
            .map(|b| b.marked(SnapshotSeq(marked.seq), &groups, now))
            .unwrap_or_default();
        self.carry_out(actions, host)
    }

    // ---- Leaders of groups. ----

    pub(super) fn on_mark_request(
        &mut self,
        from: NodeId,
        seq: SnapshotSeq,
        host: &mut dyn Host,
    ) -> Result<()> {
        if seq > self.meta.settings().begun {
            // The question has overtaken its reason; asked again on the next tick it would hold
            // writes a tick longer.
            self.marks.early = Some((seq, from));
            return Ok(());
        }
        self.marks.asked_by = Some(from);
        let (open, deadline) = (self.marks.open, self.now + limits::REQUEST_DEADLINE);
        let mut marked = Vec::new();
        for group in self.groups.all_mut().filter(|g| g.leads()) {
            if group.fence().is_marked(seq) && !mutated(Mutation::CapturedTwice) {
                marked.push(group.id().0);
            } else if group.propose_mark(seq, open, deadline) {
                failpoint(Failpoint::MarkProposed);
                self.awake.insert(group.id());
            }
        }
        if !marked.is_empty() {
            let marked = internal::Marked { seq: seq.0, groups: marked };
            self.send(from, message(GroupId::META, peer_message::Body::Marked(marked)), host);
        }
        Ok(())
    }

    pub(super) fn on_release(&mut self, release: internal::Release) {
        if self.marks.open.released(SnapshotSeq(release.seq)) {
            self.awake.extend(self.groups.ids());
        }
    }

    // ---- Every replica. ----

    /// The first mark of x is applied in a group: its rows are at the cut.
    pub(super) fn mark_applied(
        &mut self,
        id: GroupId,
        seq: SnapshotSeq,
        host: &mut dyn Host,
    ) -> Result<()> {
        let group = &self.groups[id];
        let (at, leads) = (group.applied(), group.leads());
        let replayed = group.is_replayed(at.index);
        if replayed {
            self.give_up(seq);
        } else if self.marks.captures.takes(seq) {
            let rows = self.freeze(id);
            let group = &self.groups[id];
            let (dots, members) = (group.record().data.dots, group.members().clone());
            let captured = Captured { group: id, at, dots, members, rows };
            self.marks.captures.marked(seq, id, captured, self.now);
        }
        failpoint(Failpoint::MarkApplied);
        if leads && let Some(asked_by) = self.marks.asked_by {
            let marked = internal::Marked { seq: seq.0, groups: vec![id.0] };
            self.send(asked_by, message(GroupId::META, peer_message::Body::Marked(marked)), host);
            failpoint(Failpoint::MarkReported);
        }
        Ok(())
    }

    /// A group's rows as they are now: its layers, and the view that they lie over.
    fn freeze(&mut self, id: GroupId) -> Frozen {
        self.seal_group(id, true);
        self.groups[id].freeze(self.view.clone())
    }

    /// `Begin(seq)` is applied.
    pub(super) fn snapshot_begun(
        &mut self,
        seq: SnapshotSeq,
        index: u64,
        host: &mut dyn Host,
    ) -> Result<()> {
        let replayed = self.groups.get(GroupId::META).is_some_and(|g| g.is_replayed(index));
        if replayed {
            self.marks.captures.pass_over([seq]);
        }
        match self.marks.early.take() {
            Some((early, from)) if early == seq => self.on_mark_request(from, seq, host),
            _ => Ok(()),
        }
    }

    pub(super) fn snapshot_resolved(&mut self, seq: SnapshotSeq, host: &mut dyn Host) {
        if self.marks.open.resolved(seq) {
            self.awake.extend(self.groups.ids());
        }
        let Some(snapshot) = self.meta.snapshot(seq) else { return };
        let (id, sealed) = (snapshot.id, snapshot.stage == Stage::Sealed);
        if sealed {
            self.report_away(seq);
            failpoint(Failpoint::Sealed);
            host.tell(News::Snapshot(Box::new(SnapshotNews::Sealed { id })));
        } else {
            self.give_up(seq);
            host.tell(News::Snapshot(Box::new(SnapshotNews::Aborted { id })));
        }
    }

    /// Lets go of a snapshot, and of what is frozen for it.
    fn give_up(&mut self, seq: SnapshotSeq) {
        self.marks.captures.give_up(seq);
    }

    /// Hands over the snapshots for which this node has all that it waits for.
    pub(super) fn hand_over_captures(&mut self, host: &mut dyn Host) {
        while let Some(seq) = self.capture_due() {
            self.hand_over(seq, host);
        }
    }

    /// The oldest snapshot that is captured, if this node has all that it waits for.
    fn capture_due(&mut self) -> Option<SnapshotSeq> {
        let seq = self.marks.captures.next()?;
        let (part, now) = (self.part_in(seq), self.now);
        let (meta, me, groups) = (&self.meta, self.identity.node, &self.groups);
        // A replica that is to go, or has gone elsewhere, is not waited for.
        let stays = |id: GroupId| {
            id.is_meta() || meta.assignments().get(&id).is_some_and(|nodes| nodes.contains(&me))
        };
        let to_come = |captures: &Captures<Captured>| {
            groups.all().any(|group| {
                group.has_replica()
                    && stays(group.id())
                    && !captures.has(seq, group.id())
                    && !group.fence().is_marked(seq)
            })
        };
        match self.marks.captures.due(seq, part, now, to_come) {
            Due::Nothing => None,
            Due::HandOver(seq) => Some(seq),
            Due::GiveUp(seq) => {
                self.give_up(seq);
                None
            }
        }
    }

    /// What this node's meta replica knows of its part in a snapshot.
    fn part_in(&self, seq: SnapshotSeq) -> Known {
        let Some(snapshot) = self.meta.snapshot(seq) else {
            let forgotten = self.meta.settings().begun >= seq;
            return if forgotten { Known::Unwanted } else { Known::Unbegun };
        };
        let mine = snapshot.parts.get(&self.me()).map(|part| part.status);
        match snapshot.stage {
            _ if snapshot.deleting.is_some() || mine != Some(Status::Processing) => Known::Unwanted,
            Stage::Aborted => Known::Unwanted,
            Stage::Begun => Known::Open,
            Stage::Sealed => Known::Sealed,
        }
    }

    fn hand_over(&mut self, seq: SnapshotSeq, host: &mut dyn Host) {
        let Some(snapshot) = self.meta.snapshot(seq) else { return self.give_up(seq) };
        let (id, sealed) = (snapshot.id, snapshot.stage == Stage::Sealed);
        let mut groups = self.marks.captures.hand_over(seq, id);
        if mutated(Mutation::CapturedLate) {
            for captured in &mut groups {
                captured.rows = self.freeze(captured.group);
            }
        }
        host.tell(News::Snapshot(Box::new(SnapshotNews::Captured { id, seq, groups })));
        failpoint(Failpoint::CaptureHandedOver);
        if sealed {
            host.tell(News::Snapshot(Box::new(SnapshotNews::Sealed { id })));
        }
    }

    // ---- On every tick. ----

    pub(super) fn tick_marks(&mut self, host: &mut dyn Host) -> Result<()> {
        let now = self.now;
        let actions = self.marks.barrier.as_mut().map(|b| b.tick(now)).unwrap_or_default();
        self.carry_out(actions, host)?;
        self.settle_lineage();
        if !self.ticks.is_multiple_of(limits::PART_TICKS) {
            return Ok(());
        }
        self.report_own_losses(host);
        self.tell_deletions(host);
        self.watch_nodes();
        Ok(())
    }

    /// Parts that the cluster waits for and this process has not begun: it was restarted, came too
    /// late, or comes from a restore.
    fn report_own_losses(&self, host: &mut dyn Host) {
        let me = self.me();
        let mine =
            |p: &BTreeMap<NodeId, Part>| p.get(&me).is_some_and(|p| p.status == Status::Processing);
        let recent = self
            .meta
            .snapshots()
            .values()
            .rev()
            .take(limits::PARTS_WATCHED)
            .filter(|s| mine(&s.parts) && !s.is_open() && s.deleting.is_none());
        let lost = recent.filter(|s| !self.marks.captures.is_known(s.seq)).map(|s| s.id);
        for id in lost.collect::<Vec<_>>() {
            host.tell(News::Snapshot(Box::new(SnapshotNews::Unreported { id })));
        }
    }

    /// Parts that this node is to delete, a few at a time, all in turn: one that cannot be deleted
    /// keeps no other one waiting.
    fn tell_deletions(&mut self, host: &mut dyn Host) {
        let (me, told) = (self.me(), self.marks.deletion_told);
        let from = |seq: std::ops::Bound<SnapshotSeq>| {
            self.meta.snapshots().range((seq, std::ops::Bound::Unbounded))
        };
        let behind = from(std::ops::Bound::Excluded(told))
            .chain(from(std::ops::Bound::Unbounded).take_while(|(seq, _)| **seq <= told));
        let waiting: Vec<SnapshotSeq> = behind
            .filter(|(_, s)| s.awaits_deletion(me))
            .map(|(seq, _)| *seq)
            .take(limits::PARTS_WATCHED)
            .collect();
        for seq in waiting {
            self.marks.deletion_told = seq;
            self.tell_deletion(seq, host);
        }
    }

    pub(super) fn tell_deletion(&self, seq: SnapshotSeq, host: &mut dyn Host) {
        if let Some(snapshot) = self.meta.snapshot(seq).filter(|s| s.awaits_deletion(self.me())) {
            host.tell(News::Snapshot(Box::new(SnapshotNews::Deleting {
                id: snapshot.id,
                lineage: snapshot.lineage,
            })));
        }
    }

    /// The meta leader gives up parts of nodes that have been away for too long.
    fn watch_nodes(&mut self) {
        if !self.leads_meta() {
            return;
        }
        let alive = self.heard_lately();
        let now = self.now;
        let nodes: Vec<NodeId> = self.meta.nodes().keys().copied().collect();
        for node in nodes {
            if alive.contains(&node) {
                self.marks.away.remove(&node);
            } else {
                self.marks.away.entry(node).or_insert(now);
            }
        }
        let sealed: Vec<SnapshotSeq> = self
            .meta
            .snapshots()
            .values()
            .rev()
            .take(limits::PARTS_WATCHED)
            .filter(|s| s.stage == Stage::Sealed && s.deleting.is_none())
            .map(|s| s.seq)
            .collect();
        let gone: Vec<NodeId> = self
            .marks
            .away
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) > limits::PART_GRACE)
            .map(|(n, _)| *n)
            .collect();
        for seq in sealed {
            self.report_missing(
                seq,
                &gone,
                "the node has not been reachable since the snapshot was sealed",
            );
        }
    }

    /// At the seal the meta leader declares parts of nodes missing that do not answer.
    fn report_away(&mut self, seq: SnapshotSeq) {
        if !self.groups.get(GroupId::META).is_some_and(|g| g.leads()) {
            return;
        }
        let alive = self.heard_lately();
        let gone: Vec<NodeId> =
            self.meta.nodes().keys().copied().filter(|n| !alive.contains(n)).collect();
        self.report_missing(seq, &gone, "the node was not reachable while the snapshot was taken");
    }

    /// This node, and others that have said anything within a few elections.
    fn heard_lately(&self) -> BTreeSet<NodeId> {
        let nodes = self.meta.nodes().keys().copied();
        nodes.filter(|node| *node == self.me() || self.heard.lately(*node, self.now)).collect()
    }

    /// What became of snapshots whose views were handed over, when the news of it came as a whole
    /// and not one by one.
    pub(super) fn tell_outcomes(&self, host: &mut dyn Host) {
        for (seq, id) in self.marks.captures.handed_over() {
            let news = match self.meta.snapshot(seq).map(|s| s.stage) {
                Some(Stage::Begun) => continue,
                Some(Stage::Sealed) => SnapshotNews::Sealed { id },
                Some(Stage::Aborted) => SnapshotNews::Aborted { id },
                None => SnapshotNews::Deleted { id },
            };
            host.tell(News::Snapshot(Box::new(news)));
        }
    }

    fn report_missing(&mut self, seq: SnapshotSeq, nodes: &[NodeId], why: &str) {
        let Some(snapshot) = self.meta.snapshot(seq) else { return };
        let id = snapshot.id;
        let open =
            |n: &&NodeId| snapshot.parts.get(n).is_some_and(|p| p.status == Status::Processing);
        for node in nodes.iter().filter(open).copied().collect::<Vec<_>>() {
            self.propose_meta(Command::ReportPart { id, part: Part::missing(node, why) });
        }
    }

    /// The first leader after a restore names the new history; leaders of data groups bring it into
    /// their logs.
    pub(super) fn settle_lineage(&mut self) {
        let lineage = self.meta.settings().lineage;
        if lineage == Lineage::PENDING {
            if self.leads_meta() && self.meta.settings().restored_from.is_some() {
                let nonce = self.rng.next_u64();
                self.propose_meta(Command::EstablishLineage { nonce });
                failpoint(Failpoint::LineageProposed);
            }
            return;
        }
        let deadline = self.now + limits::REQUEST_DEADLINE;
        for group in self.groups.all_mut() {
            if group.enqueue_lineage(lineage, deadline) {
                failpoint(Failpoint::LineageQueued);
                self.awake.insert(group.id());
            }
        }
    }
}
