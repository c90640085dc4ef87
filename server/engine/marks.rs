//! The engine's part in a snapshot: it sets marks, holds and releases writes, and hands over a view of the store at exactly the cut.
//!
//! The rules stand in `snapshot::cut`; here they meet the groups. The meta leader runs the barrier. A leader of any group sets its mark when it is asked. A
//! replica that applies a mark seals its layer there and holds back what comes after; when all replicas of this node have done so, one checkpoint brings
//! the store to the cut, a view of it is opened, and the groups go on.
//!
//! - Only a mark that is applied as it comes is captured. One that is applied again after a restart is not, nor is the mark of a group that was behind in a
//!   snapshot that was begun before the restart: the part is what lies finished on the shelf, or missing.
//! - A node does not wait for ever for its last replica: after `limits::MARK_GRACE` its part holds the groups it has.
//! - A snapshot that is aborted, or in which this node has no part any more, is let go of at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Engine, Host, News, apply::nobodys, message};
use crate::{
    cluster::{
        self, Command,
        snapshots::{Part, Stage, Status},
        walk::Membership,
    },
    entry::{Action as Logged, Position},
    error::Result,
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, Lineage, NodeId, SnapshotId, SnapshotSeq},
    limits,
    planted::{Mistake, planted},
    proto::internal::v1::{self as internal, peer_message},
    snapshot::cut::{Action, Barrier, Open},
    store::View,
};

/// What the snapshot service has to know.
pub enum SnapshotNews {
    /// The store at the cut, as far as this node holds it. To be copied soon: a view keeps the store from reusing space.
    View {
        id: SnapshotId,
        x: SnapshotSeq,
        created_ms: u64,
        view: Box<View>,
        groups: Vec<Captured>,
    },
    Sealed {
        id: SnapshotId,
    },
    Aborted {
        id: SnapshotId,
    },
    Deleted {
        id: SnapshotId,
    },
    /// The cluster waits for this node's part, and no capture of it is under way. Told again until the cluster knows.
    Unreported {
        id: SnapshotId,
    },
}

impl std::fmt::Debug for SnapshotNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotNews::View { id, groups, .. } => write!(f, "View({id}, {} groups)", groups.len()),
            SnapshotNews::Sealed { id } => write!(f, "Sealed({id})"),
            SnapshotNews::Aborted { id } => write!(f, "Aborted({id})"),
            SnapshotNews::Deleted { id } => write!(f, "Deleted({id})"),
            SnapshotNews::Unreported { id } => write!(f, "Unreported({id})"),
        }
    }
}

/// A group at its mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub group: GroupId,
    pub at: Position,
    pub members: Membership,
}

/// A snapshot that this node is capturing.
#[derive(Debug)]
struct Capture {
    since: Duration,
    groups: BTreeMap<GroupId, Captured>,
    viewing: bool,
}

/// Marks and captures of a node.
#[derive(Debug, Default)]
pub(super) struct Marks {
    open: Open,
    barrier: Option<Barrier>,
    captures: BTreeMap<SnapshotSeq, Capture>,
    /// Snapshots that were handed over or given up: nothing of them is captured any more.
    over: BTreeSet<SnapshotSeq>,
    /// Those that were handed over: the snapshot service reports on them.
    handed_over: BTreeMap<SnapshotSeq, SnapshotId>,
    /// Who asked for marks last, and so wants to hear of them.
    asked_by: Option<NodeId>,
    /// Since when nodes have not been heard of by the meta leader.
    away: BTreeMap<NodeId, Duration>,
}

impl Marks {
    pub fn new(meta: &cluster::State) -> Marks {
        let mut marks = Marks::default();
        marks.meta_replaced(meta);
        // What was begun before this process is not captured by it, sealed or not: a part of it may be finished already.
        marks.over.extend(meta.snapshots().keys());
        marks
    }

    pub fn open(&self) -> Open {
        self.open
    }

    /// The meta state has come from a Raft snapshot or the store.
    pub fn meta_replaced(&mut self, meta: &cluster::State) {
        self.open.resolved(meta.settings().resolved);
        // Begin was not applied here as it came: whatever is open now is not captured by this node.
        self.over.extend(meta.open_snapshot().map(|s| s.x));
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
        let leads = self.groups.get(&GroupId::META).is_some_and(|g| g.knows_all());
        let open = self.meta.open_snapshot().map(|s| s.x);
        if !leads || open.is_none() || self.identity.lineage == Lineage::PENDING {
            self.marks.barrier = None;
            return Ok(());
        }
        if self.marks.barrier.as_ref().map(|b| b.x()) != open {
            let groups = self.topology().group_ids().chain([GroupId::META]);
            let mut barrier = Barrier::new(open.expect("it was just looked at"), groups, self.now, self.checkpoints.bounds.cut_deadline);
            let actions = barrier.tick(self.now);
            self.marks.barrier = Some(barrier);
            self.carry_out(actions, host)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, actions: Vec<Action>, host: &mut dyn Host) -> Result<()> {
        let Some(x) = self.marks.barrier.as_ref().map(|b| b.x()) else { return Ok(()) };
        for action in actions {
            match action {
                Action::AskMarks => {
                    failpoint(Failpoint::MarksAsking);
                    self.tell_all(peer_message::Body::MarkRequest(internal::MarkRequest { x: x.0 }), host);
                    failpoint(Failpoint::MarksAsked);
                }
                Action::Release => {
                    failpoint(Failpoint::Releasing);
                    self.tell_all(peer_message::Body::Release(internal::Release { x: x.0 }), host);
                    failpoint(Failpoint::Released);
                }
                Action::ProposeSeal => {
                    self.propose_meta(Command::SealSnapshot { x });
                    failpoint(Failpoint::SealProposed);
                }
                Action::ProposeAbort(reason) => {
                    self.propose_meta(Command::AbortSnapshot { x, reason });
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
        if let Some(meta) = self.groups.get_mut(&GroupId::META) {
            meta.queue.push_back(nobodys(command.into(), deadline));
            self.awake.insert(GroupId::META);
        }
    }

    pub(super) fn on_marked(&mut self, _from: NodeId, marked: internal::Marked, host: &mut dyn Host) -> Result<()> {
        let groups: Vec<GroupId> = marked.groups.into_iter().map(GroupId).collect();
        let now = self.now;
        let actions = self.marks.barrier.as_mut().map(|b| b.marked(SnapshotSeq(marked.x), &groups, now)).unwrap_or_default();
        self.carry_out(actions, host)
    }

    // ---- Leaders of groups. ----

    pub(super) fn on_mark_request(&mut self, from: NodeId, asked: internal::MarkRequest, host: &mut dyn Host) -> Result<()> {
        let x = SnapshotSeq(asked.x);
        self.marks.asked_by = Some(from);
        let (open, deadline) = (self.marks.open, self.now + limits::REQUEST_DEADLINE);
        let mut marked = Vec::new();
        for group in self.groups.values_mut().filter(|g| g.leads()) {
            if group.fence.is_marked(x) && !planted(Mistake::CapturedTwice) {
                marked.push(group.id.0);
            } else if group.fence.may_propose_mark(x, group.knows_all()) || (planted(Mistake::CapturedTwice) && group.knows_all()) {
                let mark = crate::entry::Command { request: None, action: Logged::Mark(x) };
                if group.propose(open, vec![nobodys(mark, deadline)]).is_ok() {
                    group.fence.proposed(x);
                    failpoint(Failpoint::MarkProposed);
                    self.awake.insert(group.id);
                }
            }
        }
        if !marked.is_empty() {
            let marked = internal::Marked { x: x.0, groups: marked };
            self.send(from, message(GroupId::META, peer_message::Body::Marked(marked)), host);
        }
        Ok(())
    }

    pub(super) fn on_release(&mut self, release: internal::Release) {
        if self.marks.open.released(SnapshotSeq(release.x)) {
            self.awake.extend(self.groups.keys().copied());
        }
    }

    // ---- Every replica. ----

    /// The first mark of x is applied in a group: its rows are at the cut.
    pub(super) fn mark_applied(&mut self, id: GroupId, x: SnapshotSeq, host: &mut dyn Host) -> Result<()> {
        let group = &self.groups[&id];
        let (at, leads, replayed) = (group.record.applied, group.leads(), group.record.applied.index <= group.replay_until);
        if replayed {
            self.give_up(x, host);
        } else if !self.marks.over.contains(&x) && !self.marks.captures.get(&x).is_some_and(|c| c.viewing) {
            let layer = self.seal_group(id, true);
            let group = self.groups.get_mut(&id).expect("it was just looked at");
            // A layer is always closed here: the record has moved to the mark.
            if !planted(Mistake::CapturedLate) {
                group.overlay.hold_after(x, layer.unwrap_or_else(|| group.overlay.last_sealed()));
            }
            let captured = Captured { group: id, at, members: group.record.members.clone() };
            let now = self.now;
            let capture = self.marks.captures.entry(x).or_insert_with(|| Capture { since: now, groups: BTreeMap::new(), viewing: false });
            capture.groups.insert(id, captured);
        }
        failpoint(Failpoint::MarkApplied);
        if leads && let Some(asked_by) = self.marks.asked_by {
            let marked = internal::Marked { x: x.0, groups: vec![id.0] };
            self.send(asked_by, message(GroupId::META, peer_message::Body::Marked(marked)), host);
            failpoint(Failpoint::MarkReported);
        }
        Ok(())
    }

    /// `Begin(x)` is applied.
    pub(super) fn snapshot_begun(&mut self, x: SnapshotSeq, index: u64) {
        let replayed = self.groups.get(&GroupId::META).is_some_and(|g| index <= g.replay_until);
        if replayed {
            self.marks.over.insert(x);
        }
    }

    pub(super) fn snapshot_resolved(&mut self, x: SnapshotSeq, host: &mut dyn Host) {
        if self.marks.open.resolved(x) {
            self.awake.extend(self.groups.keys().copied());
        }
        let Some(snapshot) = self.meta.snapshot(x) else { return };
        let (id, sealed) = (snapshot.id, snapshot.stage == Stage::Sealed);
        if sealed {
            self.report_away(x);
            failpoint(Failpoint::Sealed);
            host.tell(News::Snapshot(Box::new(SnapshotNews::Sealed { id })));
        } else {
            self.give_up(x, host);
            host.tell(News::Snapshot(Box::new(SnapshotNews::Aborted { id })));
        }
    }

    /// Lets go of a snapshot: nothing waits for its view any more.
    fn give_up(&mut self, x: SnapshotSeq, _host: &mut dyn Host) {
        self.marks.over.insert(x);
        if self.marks.captures.remove(&x).is_some() {
            self.release_layers(x);
        }
    }

    fn release_layers(&mut self, x: SnapshotSeq) {
        for group in self.groups.values_mut() {
            group.overlay.release(x);
        }
    }

    /// A Raft snapshot replaces a group's rows: whatever was captured of it and not yet seen by a view is gone.
    pub(super) fn forget_captured(&mut self, id: GroupId) {
        for capture in self.marks.captures.values_mut().filter(|c| !c.viewing) {
            capture.groups.remove(&id);
        }
    }

    /// The snapshot for which the next checkpoint brings the store to the cut.
    pub(super) fn capture_due(&mut self, host: &mut dyn Host) -> Option<SnapshotSeq> {
        let (x, since) = self.marks.captures.iter().find(|(_, c)| !c.viewing).map(|(x, c)| (*x, c.since))?;
        let late = self.now.saturating_sub(since) > limits::MARK_GRACE || self.checkpoints.is_full();
        let Some(snapshot) = self.meta.snapshot(x) else {
            // This node's meta replica has not applied Begin yet, or the snapshot was forgotten long ago.
            if late || self.meta.settings().begun >= x {
                self.give_up(x, host);
            }
            return None;
        };
        let mine = snapshot.parts.get(&self.me()).map(|p| p.status);
        if snapshot.stage == Stage::Aborted || mine != Some(Status::Processing) {
            self.give_up(x, host);
            return None;
        }
        let capture = self.marks.captures.get_mut(&x)?;
        let (meta, me) = (&self.meta, self.identity.node);
        // A replica that is to go, or has gone elsewhere, is not waited for.
        let stays = |id: GroupId| id.is_meta() || meta.assignments().get(&id).is_some_and(|nodes| nodes.contains(&me));
        let waits = |g: &super::group::Group| g.has_replica() && stays(g.id) && !capture.groups.contains_key(&g.id) && !g.fence.is_marked(x);
        let sealed = snapshot.stage == Stage::Sealed;
        if self.groups.values().any(|g| waits(g)) && !(late && sealed) {
            if late && !sealed && self.checkpoints.is_full() {
                self.give_up(x, host);
            }
            return None;
        }
        capture.viewing = true;
        Some(x)
    }

    /// The store stands at the cut and a view of it is open.
    pub(super) fn on_view(&mut self, x: SnapshotSeq, view: View, host: &mut dyn Host) {
        let Some(capture) = self.marks.captures.remove(&x) else { return };
        self.release_layers(x);
        self.marks.over.insert(x);
        let Some(snapshot) = self.meta.snapshot(x) else { return };
        self.marks.handed_over.insert(x, snapshot.id);
        let groups = capture.groups.into_values().collect();
        host.tell(News::Snapshot(Box::new(SnapshotNews::View { id: snapshot.id, x, created_ms: snapshot.created_ms, view: Box::new(view), groups })));
        if snapshot.stage == Stage::Sealed {
            host.tell(News::Snapshot(Box::new(SnapshotNews::Sealed { id: snapshot.id })));
        }
    }

    // ---- On every tick. ----

    pub(super) fn tend_marks(&mut self, host: &mut dyn Host) -> Result<()> {
        let now = self.now;
        let actions = self.marks.barrier.as_mut().map(|b| b.tick(now)).unwrap_or_default();
        self.carry_out(actions, host)?;
        self.settle_lineage(host)?;
        if !self.ticks.is_multiple_of(limits::PART_TICKS) {
            return Ok(());
        }
        self.report_own_losses(host);
        self.watch_nodes();
        Ok(())
    }

    /// Parts that the cluster waits for and this process has not begun: it was restarted, came too late, or comes from a restore.
    fn report_own_losses(&self, host: &mut dyn Host) {
        let me = self.me();
        let mine = |p: &BTreeMap<NodeId, Part>| p.get(&me).is_some_and(|p| p.status == Status::Processing);
        let recent = self.meta.snapshots().values().rev().take(limits::PARTS_WATCHED).filter(|s| mine(&s.parts) && !s.is_open());
        let lost = recent.filter(|s| !self.marks.handed_over.contains_key(&s.x) && !self.marks.captures.contains_key(&s.x)).map(|s| s.id);
        for id in lost.collect::<Vec<_>>() {
            host.tell(News::Snapshot(Box::new(SnapshotNews::Unreported { id })));
        }
    }

    /// The meta leader gives up parts of nodes that have been away for too long.
    fn watch_nodes(&mut self) {
        if !self.groups.get(&GroupId::META).is_some_and(|g| g.knows_all()) {
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
        let sealed: Vec<SnapshotSeq> =
            self.meta.snapshots().values().rev().take(limits::PARTS_WATCHED).filter(|s| s.stage == Stage::Sealed).map(|s| s.x).collect();
        let gone: Vec<NodeId> = self.marks.away.iter().filter(|(_, since)| now.saturating_sub(**since) > limits::PART_GRACE).map(|(n, _)| *n).collect();
        for x in sealed {
            self.report_missing(x, &gone, "the node has not been reachable since the snapshot was sealed");
        }
    }

    /// At the seal the meta leader declares parts of nodes missing that do not answer.
    fn report_away(&mut self, x: SnapshotSeq) {
        if !self.groups.get(&GroupId::META).is_some_and(|g| g.leads()) {
            return;
        }
        let alive = self.heard_lately();
        let gone: Vec<NodeId> = self.meta.nodes().keys().copied().filter(|n| !alive.contains(n)).collect();
        self.report_missing(x, &gone, "the node was not reachable while the snapshot was taken");
    }

    /// Nodes that have said anything within a few elections. raft-rs's own idea of who is active is forgotten at every check of the quorum.
    fn heard_lately(&self) -> BTreeSet<NodeId> {
        let lately = self.heard.iter().filter(|(_, at)| self.now.saturating_sub(**at) < limits::SILENT).map(|(n, _)| *n);
        lately.chain([self.me()]).collect()
    }

    /// What became of snapshots whose views were handed over, when the news of it came as a whole and not one by one.
    pub(super) fn tell_outcomes(&self, host: &mut dyn Host) {
        for (x, id) in &self.marks.handed_over {
            let news = match self.meta.snapshot(*x).map(|s| s.stage) {
                Some(Stage::Begun) => continue,
                Some(Stage::Sealed) => SnapshotNews::Sealed { id: *id },
                Some(Stage::Aborted) => SnapshotNews::Aborted { id: *id },
                None => SnapshotNews::Deleted { id: *id },
            };
            host.tell(News::Snapshot(Box::new(news)));
        }
    }

    fn report_missing(&mut self, x: SnapshotSeq, nodes: &[NodeId], why: &str) {
        let Some(snapshot) = self.meta.snapshot(x) else { return };
        let id = snapshot.id;
        let open = |n: &&NodeId| snapshot.parts.get(n).is_some_and(|p| p.status == Status::Processing);
        for node in nodes.iter().filter(open).copied().collect::<Vec<_>>() {
            self.propose_meta(Command::ReportPart { id, part: Part::missing(node, why) });
        }
    }

    /// The first leader after a restore names the new history; leaders of data groups bring it into their logs.
    pub(super) fn settle_lineage(&mut self, _host: &mut dyn Host) -> Result<()> {
        let meta_leader = self.groups.get(&GroupId::META).is_some_and(|g| g.knows_all());
        let lineage = self.meta.settings().lineage;
        if lineage == Lineage::PENDING {
            if meta_leader && self.meta.settings().restored_from.is_some() {
                let nonce = self.chance.next_u64();
                self.propose_meta(Command::EstablishLineage { nonce });
                failpoint(Failpoint::LineageProposed);
            }
            return Ok(());
        }
        let deadline = self.now + limits::REQUEST_DEADLINE;
        for group in self.groups.values_mut().filter(|g| g.knows_all()) {
            let behind = group.machine.as_ref().is_some_and(|m| m.state().lineage != lineage);
            let asked = group.queue.iter().map(|w| &w.command).chain(group.proposed.iter().flat_map(|p| p.commands.iter().map(|w| &w.command)));
            let set = Logged::Data(crate::data::Command::SetLineage { lineage });
            if behind && !asked.into_iter().any(|c| c.action == set) {
                group.queue.push_front(nobodys(crate::entry::Command { request: None, action: set }, deadline));
                failpoint(Failpoint::LineageQueued);
                self.awake.insert(group.id);
            }
        }
        Ok(())
    }
}
