//! Which nodes hold a group: the leader of each group changes its members into the wanted ones, one
//! step at a time, and sends rows to members that are too far behind.
//!
//! Joining, leaving and replacing are this one mechanism. A step is a Raft membership change of a
//! single node. When it is applied, the group's leader of that moment computes the next step from
//! what it finds, so a crash loses no state.
//!
//! A replica that needs entries which the log no longer has gets rows. The leader waits for a
//! checkpoint that knows the member, sends the rows of that checkpoint (`RowsToSend`), and lets
//! raft-rs announce the Raft snapshot only when the rows have arrived. The receiver puts them in
//! place (`Installing`) and goes on from there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use raft::{
    Progress, ProgressState, SnapshotStatus,
    eraftpb::{ConfChange, ConfChangeType},
};

use super::{
    Engine, Host, Installing, Job,
    group::Group,
    requests::For,
    storage::{self, Offer},
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, Lineage, NodeId, SiteId},
        limits,
    },
    cluster::{
        self,
        reconfigure::{self, Membership, Step, Wait},
        sites::{Site, SiteState},
    },
    data::{self, Reply},
    entry::{Position, Record},
    faults::{
        failpoint::{Failpoint, failpoint},
        mutation::{Mutation, mutated},
    },
    store::View,
    wire,
};

/// Rows of a group for a node, as the store held them at a place of the log.
pub struct RowsToSend {
    pub to: NodeId,
    pub group: GroupId,
    pub name: Bytes,
    pub record: Vec<u8>,
    pub view: Arc<View>,
    pub announced: Announced,
}

/// Rows of a group that another node has sent.
#[derive(Debug)]
pub struct ArrivedRows {
    pub group: GroupId,
    pub name: Bytes,
    /// The group's record, as the file begins with it.
    pub record: Vec<u8>,
    pub path: PathBuf,
}

impl ArrivedRows {
    /// Whether these are what a Raft snapshot announces, at its place and with its members. Once
    /// they are being put in place, it is too late to refuse them.
    pub(super) fn are_of(&self, snapshot: &raft::eraftpb::Snapshot) -> bool {
        let meta = snapshot.get_metadata();
        let at = Position { index: meta.index, term: meta.term };
        let fits = |record: Record| {
            record.applied == at && record.members == storage::membership(meta.get_conf_state())
        };
        self.name == snapshot.data && wire::decode_record(&self.record).is_ok_and(fits)
    }
}

/// What raft-rs announces when rows have arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced {
    pub at: Position,
    pub members: Membership,
    pub name: Bytes,
}

impl Engine {
    /// Groups whose replica here is not wanted any more: it hears of nothing that happens after it
    /// has left.
    pub(super) fn note_departures(&mut self) {
        let (meta, me) = (&self.meta, self.identity.node);
        let departed = |id: &GroupId| {
            !id.is_meta() && meta.assignments().get(id).is_some_and(|nodes| !nodes.contains(&me))
        };
        self.groups
            .values_mut()
            .filter(|group| departed(&group.id))
            .for_each(|group| group.left = true);
    }

    /// Whether this node holds a group as far as it knows: it should by the newest assignment that
    /// it has applied, it is a member, and it was not away in between. Only then may it answer from
    /// what it has; what it may still have of another group is old, and what was removed since is
    /// in it.
    pub(super) fn holds(&self, id: GroupId) -> bool {
        let assigned =
            self.meta.assignments().get(&id).is_some_and(|nodes| nodes.contains(&self.me()));
        assigned
            && self.groups.get(&id).is_some_and(|group| {
                group.has_replica()
                    && group.installing.is_none()
                    && !group.left
                    && group.members().has(self.me())
            })
    }

    pub(super) fn tick_members(&mut self) {
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            self.tick_group(id);
        }
    }

    /// Takes the next step towards the wanted members of a group that this node leads, if there is
    /// one to take now.
    pub(super) fn tick_group(&mut self, id: GroupId) {
        let (me, now) = (self.me(), self.now);
        let resigning = self.resigning;
        let Some(group) = self.groups.get_mut(&id).filter(|g| g.leads()) else { return };
        // Also before it has committed an entry of its term: the voter that it lacks for that may
        // be the one that waits for rows.
        watch_snapshots(group, now);
        if !group.knows_all() || resigning || group.raw.raft.has_pending_conf() {
            return;
        }
        let wanted = self.meta.wanted(id);
        let (caught_up, alive) = (|n| group.is_caught_up(n), |n| group.may_be_alive(n));
        let members = group.members();
        let step = reconfigure::next_step(members, &wanted, me, &caught_up, &alive);
        // Most groups are at rest at most times.
        let waits = step.is_none() && !wanted.is_met_by(members);
        let waits =
            waits.then(|| reconfigure::why_not(members, &wanted, me, &caught_up, &alive)).flatten();
        group.waits = waits.map(|wait| match group.waits {
            Some((before, since)) if before == wait => (wait, since),
            _ => (wait, now),
        });
        if let Some(step) = step {
            take_step(group, step, now);
            self.awake.insert(id);
        }
    }

    /// What a group waits for that this node leads, and for how long already.
    pub(super) fn wait_of(&self, group: &Group) -> Option<(Wait, Duration)> {
        let wait = self.why_waits(group)?;
        let since = group.waits.filter(|(before, _)| *before == wait).map_or(self.now, |w| w.1);
        Some((wait, self.now.saturating_sub(since)))
    }

    fn why_waits(&self, group: &Group) -> Option<Wait> {
        if !group.knows_all() || group.raw.raft.has_pending_conf() {
            return None;
        }
        let wanted = self.meta.wanted(group.id);
        let (caught_up, alive) = (|n| group.is_caught_up(n), |n| group.may_be_alive(n));
        reconfigure::why_not(group.members(), &wanted, self.me(), &caught_up, &alive)
    }

    /// Offers every group that this node leads to the voter that knows most, and takes none back:
    /// the node is about to stop.
    pub(super) fn resign(&mut self) {
        self.resigning = true;
        let (me, now) = (self.me(), self.now);
        for group in self.groups.values_mut().filter(|g| g.leads()) {
            let alive = group.alive();
            let others =
                group.members().voters.iter().copied().filter(|n| *n != me && alive.contains(n));
            if let Some(heir) = others.max_by_key(|n| group.matched(*n)) {
                group.handed_over = Duration::ZERO;
                hand_over(group, heir, now);
                self.awake.insert(group.id);
            }
        }
    }

    /// Sends rows to members that asked for them, as far as the store knows those members.
    pub(super) fn tick_offers(&mut self, host: &mut dyn Host) {
        let groups = &self.groups;
        self.offering.retain(|id| groups.get(id).is_some_and(|g| g.offers()));
        if self.offering.is_empty() {
            return;
        }
        let under_way = |g: &Group| {
            g.raw
                .store()
                .offers
                .borrow()
                .values()
                .filter(|o| matches!(o, Offer::Sending { .. }))
                .count()
        };
        let mut free =
            limits::ROWS_AT_ONCE.saturating_sub(self.groups.values().map(|g| under_way(g)).sum());
        for group in self.groups.values_mut().filter(|g| g.leads()) {
            let mut offers = group.raw.store().offers.borrow_mut();
            let members = group.members();
            offers.retain(|to, _| members.has(*to));
            let wanted: Vec<NodeId> =
                offers.iter().filter(|(_, o)| **o == Offer::Wanted).map(|(n, _)| *n).collect();
            for to in wanted {
                // Rows of an earlier stay would bring back the members of then, and less than the
                // node has acknowledged: the store has to have the last change.
                let members = &group.stored.members;
                let known = members.has(to) && group.stored.applied.index >= group.changed_at;
                if !known || group.stored.applied.index < group.raw.store().begin().index {
                    self.checkpoints.wanted = true;
                    continue;
                }
                if free == 0 {
                    continue;
                }
                free -= 1;
                let at = group.stored.applied;
                let name = Bytes::copy_from_slice(&self.rng.next_u64().to_be_bytes());
                offers.insert(to, Offer::Sending { at, since: self.now });
                let announced = Announced { at, members: members.clone(), name: name.clone() };
                let record = wire::encode_record(&group.stored);
                host.send_rows(RowsToSend {
                    to,
                    group: group.id,
                    name,
                    record,
                    view: self.view.clone(),
                    announced,
                });
            }
        }
    }

    pub(super) fn on_rows_sent(&mut self, to: NodeId, id: GroupId, announced: Option<Announced>) {
        let Some(group) = self.groups.get_mut(&id).filter(|g| g.leads()) else { return };
        let now = self.now;
        let offers = group.raw.mut_store().offers.get_mut();
        if !matches!(offers.get(&to), Some(Offer::Sending { .. })) {
            return;
        }
        match announced {
            Some(Announced { at, members, name }) => {
                offers.insert(to, Offer::Delivered { at, members, name, since: now });
                group.raw.ping();
            }
            // raft-rs asks again with the next heartbeat.
            None => drop(offers.remove(&to)),
        }
        self.awake.insert(id);
    }

    /// A process that has ended has lost the rows that it had not put in place: the next one is not
    /// left waiting for them. If only its stream has ended, they are sent once more.
    pub(super) fn take_offers_back(&mut self, node: NodeId) {
        for group in self.groups.values_mut().filter(|g| g.leads()) {
            if group.raw.mut_store().offers.get_mut().remove(&node).is_some() {
                group.raw.report_snapshot(node.0, SnapshotStatus::Failure);
            }
        }
    }

    pub(super) fn on_rows_arrived(&mut self, rows: ArrivedRows, host: &mut dyn Host) {
        let arrived = self.arrived.entry(rows.group).or_default();
        arrived.push_back(rows);
        if arrived.len() > limits::ROWS_KEPT {
            arrived.pop_front().into_iter().for_each(|old| host.discard(old));
        }
    }

    /// A leader has announced rows that are here: they replace what this replica had.
    pub(super) fn install(
        &mut self,
        id: GroupId,
        ready: raft::Ready,
        host: &mut dyn Host,
    ) -> Result<()> {
        let meta = ready.snapshot().get_metadata();
        let at = Position { index: meta.index, term: meta.term };
        // Others of this group will not be announced any more.
        let (mine, others): (Vec<_>, Vec<_>) = self
            .arrived
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .partition(|rows| rows.are_of(ready.snapshot()));
        let mut mine = mine.into_iter();
        let ArrivedRows { record, path, .. } =
            mine.next().expect("a snapshot is stepped only when its rows are here");
        mine.chain(others).for_each(|rows| host.discard(rows));
        let mut record = wire::decode_record(&record)?;
        if mutated(Mutation::MarkNotSent) {
            record.mark = crate::base::ids::SnapshotSeq(0);
        }
        self.checkpoints.uncounted = true;
        let group = self.group(id);
        (record.applied, record.members) = (at, storage::membership(meta.get_conf_state()));
        group.overlay.reset();
        group.changed.clear();
        failpoint(Failpoint::InstallBegun);
        host.start(Job::Install { group: id, path, record: wire::encode_record(&record) })?;
        group.installing = Some(Installing::Rows { ready: Box::new(ready), record });
        Ok(())
    }

    /// The rows are stored: the log begins behind them.
    pub(super) fn on_installed(
        &mut self,
        id: GroupId,
        view: View,
        host: &mut dyn Host,
    ) -> Result<()> {
        let installing = {
            let group = self.groups.get_mut(&id).expect("a group stays while it installs");
            group.installing.take().expect("only an installing group has something installed")
        };
        let Installing::Rows { ready, record } = installing else {
            return self.on_ended(id, view, host);
        };
        self.view = Arc::new(view);
        let machine = if id.is_meta() {
            None
        } else {
            Some(super::apply::load_machine(&self.view, self.topology(), id, record.data)?)
        };
        if id.is_meta() {
            self.meta = super::apply::load_meta(&self.view, &self.identity)?;
            self.meta_changed.clear();
            self.marks.meta_replaced(&self.meta);
            self.adopt(self.meta.settings().lineage, host)?;
            self.tell_nodes(host);
            self.tell_access(host);
            self.tell_outcomes(host);
        }
        let group = self.groups.get_mut(&id).expect("a group stays while it installs");
        group.machine = machine;
        (group.left, group.ended) = (false, false);
        group.changed_at = record.applied.index;
        group.fence = crate::cut::Fence::stored(record.mark);
        let mut batch = crate::log::Batch::default();
        let log = group.raw.mut_store();
        log.restart(record.applied, record.members.clone(), &mut batch)?;
        log.append(ready.entries(), &mut batch)?;
        if let Some(state) = ready.hs() {
            log.set_hard_state(state, &mut batch)?;
        }
        (group.record, group.stored) = (record.clone(), record);
        self.log.write(&mut batch, true)?;
        failpoint(Failpoint::InstallLogRestarted);
        self.after_write(id, *ready, host)
    }

    /// On the meta leader, finishes sites that were left half added or half removed.
    pub(super) fn tick_sites(&mut self, host: &mut dyn Host) -> Result<()> {
        for site in std::mem::take(&mut self.site_again) {
            self.site_step(site, host)?;
        }
        if !self.leads_meta()
            || self.identity.lineage == Lineage::PENDING
            || !self.ticks.is_multiple_of(limits::SITE_TICKS)
        {
            return Ok(());
        }
        for (site, _) in self.meta.unfinished_sites(limits::SITES_AT_ONCE) {
            if self.site_work.insert(site.clone()) {
                self.site_step(site, host)?;
            }
        }
        Ok(())
    }

    fn site_step(&mut self, site: SiteId, host: &mut dyn Host) -> Result<()> {
        let group = self.topology().group_of_site(&site);
        let Some(now) = self.meta.sites().site(&site).filter(|s| s.state != SiteState::Present)
        else {
            self.site_work.remove(&site);
            return Ok(());
        };
        let generation = now.generation;
        let command = match now.state {
            SiteState::Adding | SiteState::Present => {
                data::Command::AddSite { site: site.clone(), generation }
            }
            SiteState::Removing => data::Command::DropSite {
                site: site.clone(),
                generation,
                rows_max: limits::SITE_DROP_ROWS,
            },
        };
        self.ask(group, command, For::Site(site, now), host)
    }

    /// What a step did follows from how the site was when it was asked for, not from how it is now.
    pub(super) fn on_site_step(
        &mut self,
        site: SiteId,
        was: Site,
        answer: Result<Reply>,
        host: &mut dyn Host,
    ) -> Result<()> {
        let generation = was.generation;
        match (answer, was.state) {
            // At the next tick: a lone voter would commit step after step within one round.
            (Ok(Reply::SiteDropped { more: true }), _) => {
                self.site_again.push(site);
                return Ok(());
            }
            (Ok(Reply::SiteDropped { more: false } | Reply::Done { .. }), SiteState::Removing) => {
                self.ask(
                    GroupId::META,
                    cluster::Command::SiteRemoved { site: site.clone(), generation },
                    For::Nobody,
                    host,
                )?;
            }
            (Ok(Reply::Done { .. }), SiteState::Adding) => {
                self.ask(
                    GroupId::META,
                    cluster::Command::SiteAdded { site: site.clone(), generation },
                    For::Nobody,
                    host,
                )?;
            }
            _ => {}
        }
        self.site_work.remove(&site);
        Ok(())
    }
}

fn take_step(group: &mut Group, step: Step, now: Duration) {
    let (node, kind, proposed) = match step {
        Step::AddLearner(node) => {
            (node, ConfChangeType::AddLearnerNode, Failpoint::LearnerProposed)
        }
        Step::Promote(node) => (node, ConfChangeType::AddNode, Failpoint::PromotionProposed),
        Step::Remove(node) => (node, ConfChangeType::RemoveNode, Failpoint::RemovalProposed),
        Step::HandOver(node) => return hand_over(group, node, now),
    };
    let mut change = ConfChange::default();
    change.set_change_type(kind);
    change.node_id = node.0;
    // Dropped while leadership is on its way elsewhere; the next leader thinks of it again.
    let _ = group.raw.propose_conf_change(Vec::new(), change);
    failpoint(proposed);
}

/// Offers leadership to a node. From now on this term has no lease: that node may be elected at
/// once, at any later moment.
fn hand_over(group: &mut Group, to: NodeId, now: Duration) {
    if now.saturating_sub(group.handed_over) < limits::HAND_OVER_AGAIN
        && group.handed_over != Duration::ZERO
    {
        return;
    }
    group.handed_over = now;
    group.no_lease_in = group.term();
    group.lease_until = Duration::ZERO;
    group.raw.transfer_leader(to.0);
    failpoint(Failpoint::LeadershipOffered);
}

/// Forgets Raft snapshots that have done their work, and those that have not within their time.
fn watch_snapshots(group: &mut Group, now: Duration) {
    let offers: Vec<(NodeId, Offer)> =
        group.raw.store().offers.borrow().iter().map(|(n, o)| (*n, o.clone())).collect();
    for (node, offer) in offers {
        let over = match offer {
            Offer::Wanted => false,
            Offer::Sending { since, .. } => now.saturating_sub(since) > limits::SEND_ROWS,
            Offer::Delivered { at, since, .. } => {
                let late = now.saturating_sub(since) > limits::SNAPSHOT_FOLLOWED;
                if late && group.matched(node) < at.index {
                    group.raw.report_snapshot(node.0, SnapshotStatus::Failure);
                }
                late || group.matched(node) >= at.index
            }
        };
        if over {
            group.raw.mut_store().offers.get_mut().remove(&node);
        }
    }
    // raft-rs goes on only when an answer is news. A member that has come past its snapshot another
    // way has nothing new to say, and would wait for ever.
    let passed =
        |p: &Progress| p.state == ProgressState::Snapshot && p.matched >= p.pending_snapshot;
    let waiting: Vec<u64> =
        group.raw.raft.prs().iter().filter(|(_, p)| passed(p)).map(|(node, _)| *node).collect();
    waiting.into_iter().for_each(|node| group.raw.report_snapshot(node, SnapshotStatus::Finish));
}
