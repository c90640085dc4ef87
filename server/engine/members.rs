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

use super::{
    Engine, Host, Job,
    consensus::{Announced, Turn},
    group::{Group, Installing},
};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, NodeId},
        limits,
    },
    cluster::reconfigure::Wait,
    entry::Record,
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
    pub(super) fn are(&self, announced: &Announced) -> bool {
        let fits =
            |record: Record| record.applied == announced.at && record.members == announced.members;
        self.name == announced.name && wire::decode_record(&self.record).is_ok_and(fits)
    }
}

impl Engine {
    /// Groups whose replica here is not wanted any more: it hears of nothing that happens after it
    /// has left.
    pub(super) fn note_departures(&mut self) {
        let (meta, me) = (&self.meta, self.identity.node);
        let departed = |id: &GroupId| {
            !id.is_meta() && meta.assignments().get(id).is_some_and(|nodes| !nodes.contains(&me))
        };
        self.groups.all_mut().filter(|group| departed(&group.id())).for_each(|group| group.leave());
    }

    /// Whether this node holds a group as far as it knows: it should by the newest assignment that
    /// it has applied, it is a member, and it was not away in between. Only then may it answer from
    /// what it has; what it may still have of another group is old, and what was removed since is
    /// in it.
    pub(super) fn holds(&self, id: GroupId) -> bool {
        let assigned =
            self.meta.assignments().get(&id).is_some_and(|nodes| nodes.contains(&self.me()));
        assigned
            && self.groups.get(id).is_some_and(|group| {
                group.has_replica()
                    && !group.is_installing()
                    && !group.was_left()
                    && group.members().has(self.me())
            })
    }

    pub(super) fn tick_members(&mut self) {
        for id in self.groups.ids().collect::<Vec<_>>() {
            self.tick_group(id);
        }
    }

    /// Takes the next step towards the wanted members of a group that this node leads, if there is
    /// one to take now.
    pub(super) fn tick_group(&mut self, id: GroupId) {
        let now = self.now;
        let resigning = self.resigning;
        let Some(group) = self.groups.get_mut(id).filter(|g| g.leads()) else { return };
        // Also before it has committed an entry of its term: the voter that it lacks for that may
        // be the one that waits for rows.
        group.review_offers(now);
        if resigning || !group.may_change_members() {
            return;
        }
        if let Some(step) = group.next_step(&self.meta.wanted(id), now) {
            group.take_step(step, now);
            self.awake.insert(id);
        }
    }

    /// What a group waits for that this node leads, and for how long already.
    pub(super) fn wait_of(&self, group: &Group) -> Option<(Wait, Duration)> {
        group.wait(&self.meta.wanted(group.id()), self.now)
    }

    /// Offers every group that this node leads to the voter that knows most, and takes none back:
    /// the node is about to stop.
    pub(super) fn resign(&mut self) {
        self.resigning = true;
        for group in self.groups.all_mut().filter(|g| g.leads()) {
            if group.resign(self.now) {
                self.awake.insert(group.id());
            }
        }
    }

    /// Sends rows to members that asked for them, as far as the store knows those members.
    pub(super) fn tick_offers(&mut self, host: &mut dyn Host) {
        let groups = &self.groups;
        self.offering.retain(|id| groups.get(*id).is_some_and(|g| g.offers_rows()));
        if self.offering.is_empty() {
            return;
        }
        let under_way = self.groups.all().map(|group| group.rows_under_way()).sum();
        let mut free = limits::ROWS_AT_ONCE.saturating_sub(under_way);
        for group in self.groups.all_mut().filter(|g| g.leads()) {
            for (to, would_do) in group.rows_wanted() {
                if !would_do {
                    self.checkpoints.want();
                    continue;
                }
                if free == 0 {
                    continue;
                }
                free -= 1;
                let name = Bytes::copy_from_slice(&self.rng.next_u64().to_be_bytes());
                let (announced, record) = group.send_rows(to, name.clone());
                let record = wire::encode_record(record);
                let (group, view) = (group.id(), self.view.clone());
                host.send_rows(RowsToSend { to, group, name, record, view, announced });
            }
        }
    }

    pub(super) fn on_rows_sent(&mut self, to: NodeId, id: GroupId, announced: Option<Announced>) {
        let Some(group) = self.groups.get_mut(id).filter(|g| g.leads()) else { return };
        if group.rows_sent(to, announced, self.now) {
            self.awake.insert(id);
        }
    }

    /// A process that has ended has lost the rows that it had not put in place: the next one is not
    /// left waiting for them. If only its stream has ended, they are sent once more.
    pub(super) fn take_offers_back(&mut self, node: NodeId) {
        for group in self.groups.all_mut().filter(|g| g.leads()) {
            group.take_offer_back(node);
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
        turn: Turn,
        announced: &Announced,
        host: &mut dyn Host,
    ) -> Result<()> {
        // Others of this group will not be announced any more.
        let (mine, others): (Vec<_>, Vec<_>) = self
            .arrived
            .remove(&id)
            .unwrap_or_default()
            .into_iter()
            .partition(|rows| rows.are(announced));
        let mut mine = mine.into_iter();
        let ArrivedRows { record, path, .. } =
            mine.next().expect("a snapshot is stepped only when its rows are here");
        mine.chain(others).for_each(|rows| host.discard(rows));
        let mut record = wire::decode_record(&record)?;
        if mutated(Mutation::MarkNotSent) {
            record.mark = crate::base::ids::SnapshotSeq(0);
        }
        self.checkpoints.count_again();
        failpoint(Failpoint::InstallBegun);
        host.start(Job::Install { group: id, path, record: wire::encode_record(&record) })?;
        self.group(id).install(Installing::Rows { turn: Box::new(turn), record });
        Ok(())
    }

    /// The rows are stored: the log begins behind them.
    pub(super) fn on_installed(
        &mut self,
        id: GroupId,
        view: View,
        host: &mut dyn Host,
    ) -> Result<()> {
        let Installing::Rows { turn, record } = self.group(id).take_installing() else {
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
        let mut batch = crate::log::Batch::default();
        self.group(id).installed(&turn, record, machine, &mut batch)?;
        self.log.write(&mut batch, true)?;
        failpoint(Failpoint::InstallLogRestarted);
        self.after_write(id, *turn, host)
    }
}
