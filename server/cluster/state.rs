//! The meta group's state machine: what the cluster consists of, and how each command changes it.
//!
//! Pure and deterministic: the same commands in the same order give the same state, replies, rows
//! and events on every node. A command that is refused has no effect. Whether a command is let
//! through at all (the fence of `docs/cut.md`) is decided before it comes here.
//!
//! Relies on `sites`, `snapshots` and `placement` for their rules. Does not know which nodes are
//! alive, what time it is, or what is in any site: those who do know propose commands.
//!
//! - At most one snapshot is open: `begun` is `resolved` or one more, and then it is the open one.
//! - Every group has an assignment, and it names only nodes that are there.
//! - A node that was removed is never there again.
//! - A change costs O(log n) in sites and relays; only a new node costs more, since everything is
//!   placed anew.

mod settings;
mod members;
mod operations;
mod grants;
mod schedules;
mod snapshots;
mod recovered;
mod seeded;

use std::collections::{BTreeMap, BTreeSet};

pub use recovered::Recovery;
pub use seeded::{LeftOut, Seed, listed};
pub use settings::Settings;

use crate::{
    base::{
        error::{Error, Result},
        ids::{
            GroupId, Lineage, NodeId, OperationId, RelayId, ScheduleId, SiteGeneration, SiteId,
            SnapshotId, SnapshotSeq,
        },
        limits,
    },
    cluster::{
        access::{Access, Grant, Token},
        command::{Applied, Away, Changed, Command, Event, Node, Outcome, Removed},
        operations::Operation,
        placement::Assignments,
        reconfigure::Wanted,
        schedule::Schedule,
        sites::{Relay, Site, Sites},
        snapshots::{Overall, Snapshot},
    },
    faults::mutation::{Mutation, mutated},
};

/// What is stored, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub settings: Settings,
    pub nodes: Vec<Node>,
    pub sites: Vec<(SiteId, Site)>,
    pub relays: Vec<Relay>,
    pub assignments: Vec<(GroupId, Vec<NodeId>)>,
    pub snapshots: Vec<Snapshot>,
    pub removed: Vec<Removed>,
    pub operations: Vec<Operation>,
    pub grants: Vec<Grant>,
    pub tokens: Vec<Token>,
    pub schedules: Vec<Schedule>,
}

/// The configuration of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    settings: Settings,
    nodes: BTreeMap<NodeId, Node>,
    sites: Sites,
    assignments: Assignments,
    snapshots: BTreeMap<SnapshotSeq, Snapshot>,
    removed: BTreeMap<NodeId, Removed>,
    operations: BTreeMap<OperationId, Operation>,
    access: Access,
    schedules: BTreeMap<ScheduleId, Schedule>,
}

/// What a command did apart from its reply.
#[derive(Default)]
struct Effects {
    changed: Vec<Changed>,
    events: Vec<Event>,
}

impl State {
    /// A cluster of one node, which holds everything.
    pub fn found(settings: Settings, node: Node) -> Result<State> {
        node.check()?;
        let (nodes, sites) = (BTreeMap::from([(node.id, node)]), Sites::default());
        let mut state = State {
            settings,
            nodes,
            sites,
            assignments: Assignments::new(),
            snapshots: BTreeMap::new(),
            removed: BTreeMap::new(),
            operations: BTreeMap::new(),
            access: Access::default(),
            schedules: BTreeMap::new(),
        };
        state.assignments = state.placed(&Assignments::new(), &Away::new());
        Ok(state)
    }

    /// What a node knows that has joined and whose replica of the meta group has not received
    /// anything yet.
    pub fn unknown(settings: Settings) -> State {
        State {
            settings,
            nodes: BTreeMap::new(),
            sites: Sites::default(),
            assignments: Assignments::new(),
            snapshots: BTreeMap::new(),
            removed: BTreeMap::new(),
            operations: BTreeMap::new(),
            access: Access::default(),
            schedules: BTreeMap::new(),
        }
    }

    /// From what is stored. Rows that contradict each other are `Corrupt`.
    pub fn from_rows(rows: Rows) -> Result<State> {
        let state = State {
            settings: rows.settings,
            nodes: rows.nodes.into_iter().map(|n| (n.id, n)).collect(),
            sites: Sites::from_rows(rows.sites, rows.relays)?,
            assignments: rows.assignments.into_iter().collect(),
            snapshots: rows.snapshots.into_iter().map(|s| (s.seq, s)).collect(),
            removed: rows.removed.into_iter().map(|r| (r.id, r)).collect(),
            operations: rows.operations.into_iter().map(|o| (o.id, o)).collect(),
            access: Access::from_rows(rows.grants, rows.tokens)?,
            schedules: rows.schedules.into_iter().map(|s| (s.id.clone(), s)).collect(),
        };
        state.check()?;
        Ok(state)
    }

    /// The names of all rows that make the state.
    pub fn all_rows(&self) -> Vec<Changed> {
        let State {
            settings: _,
            nodes,
            sites,
            assignments,
            snapshots,
            removed,
            operations,
            access,
            schedules,
        } = self;
        let mut rows = vec![Changed::Settings];
        rows.extend(nodes.keys().copied().map(Changed::Node));
        rows.extend(sites.sites().keys().cloned().map(Changed::Site));
        rows.extend(sites.relays().keys().cloned().map(Changed::Relay));
        rows.extend(assignments.keys().copied().map(Changed::Assignment));
        rows.extend(snapshots.keys().copied().map(Changed::Snapshot));
        rows.extend(removed.keys().copied().map(Changed::Removed));
        rows.extend(operations.keys().copied().map(Changed::Operation));
        rows.extend(access.grants().iter().cloned().map(Changed::Grant));
        rows.extend(access.tokens().keys().copied().map(Changed::Token));
        rows.extend(schedules.keys().cloned().map(Changed::Schedule));
        rows
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }
    pub fn sites(&self) -> &Sites {
        &self.sites
    }
    /// The nodes that were members once.
    pub fn removed(&self) -> &BTreeMap<NodeId, Removed> {
        &self.removed
    }
    /// What operators have asked of the members: what runs, and what ended last.
    pub fn operations(&self) -> &BTreeMap<OperationId, Operation> {
        &self.operations
    }
    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.access
    }
    /// When the cluster takes snapshots by itself.
    pub fn schedules(&self) -> &BTreeMap<ScheduleId, Schedule> {
        &self.schedules
    }
    /// Sites whose addition or removal somebody has begun, at most `limit` of them, by id.
    pub fn unfinished_sites(&self, limit: usize) -> Vec<(SiteId, Site)> {
        self.sites.unfinished(limit)
    }
    /// The data groups' and the meta group's. Of the meta group only the voters stand there.
    pub fn assignments(&self) -> &Assignments {
        &self.assignments
    }
    /// By number.
    pub fn snapshots(&self) -> &BTreeMap<SnapshotSeq, Snapshot> {
        &self.snapshots
    }
    pub fn snapshot(&self, seq: SnapshotSeq) -> Option<&Snapshot> {
        self.snapshots.get(&seq)
    }
    pub fn snapshot_named(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.snapshots.values().rev().find(|s| s.id == id)
    }
    pub fn overall(&self, snapshot: &Snapshot) -> Overall {
        snapshot.overall(self.settings.topology)
    }
    /// The one that is being taken.
    pub fn open_snapshot(&self) -> Option<&Snapshot> {
        if self.settings.begun > self.settings.resolved {
            self.snapshots.get(&self.settings.begun)
        } else {
            None
        }
    }

    /// Whether another snapshot may begin: beyond those that are remembered, the oldest would be
    /// forgotten with its parts still on disk. Where there will soon be no room, what to do. One
    /// that is known is only named once more.
    pub fn room_for_snapshot(&self, id: SnapshotId) -> Result<Option<String>> {
        let (known, most) = (self.snapshots.len(), limits::SNAPSHOTS_REMEMBERED);
        if known < limits::SNAPSHOTS_WARNED || self.snapshot_named(id).is_some() {
            return Ok(None);
        }
        let told = format!(
            "the cluster has {known} snapshots and keeps at most {most}: delete old ones with \
             ddbctl snapshot delete"
        );
        match self.snapshots.first_key_value() {
            Some((_, oldest)) if known >= most => {
                Err(Error::conflict(format!("{told}; the oldest is {}", oldest.id)))
            }
            _ => Ok(Some(told)),
        }
    }

    /// The members that a group should have. Every node follows the meta group, and nobody in
    /// particular leads it.
    pub fn wanted(&self, group: GroupId) -> Wanted {
        let voters = self.assignments.get(&group).cloned().unwrap_or_default();
        let drained: BTreeSet<NodeId> =
            self.nodes.values().filter(|n| n.draining).map(|n| n.id).collect();
        if !group.is_meta() {
            let leader = voters.iter().copied().find(|node| !drained.contains(node));
            return Wanted { leader, voters, drained, ..Wanted::default() };
        }
        let learners = self.nodes.keys().copied().filter(|n| !voters.contains(n)).collect();
        Wanted { voters, learners, leader: None, drained }
    }

    pub fn apply(&mut self, command: &Command) -> Applied {
        let mut effects = Effects::default();
        let reply = self.carry_out(command, &mut effects);
        Applied { reply, changed: effects.changed, events: effects.events }
    }

    fn carry_out(&mut self, command: &Command, effects: &mut Effects) -> Result<Outcome> {
        match command {
            Command::AnnounceNode(node) => self.announce_node(node, effects),
            Command::JoinNode { node, away, ticket } => {
                self.join_node(node, away, ticket.as_ref(), effects)
            }
            Command::AddSite(site) => self.add_site(site, effects),
            Command::SiteAdded { site, generation } => {
                let news = self.sites.site_added(site, *generation);
                Ok(effects.site(site, news))
            }
            Command::RemoveSite(site) => self.remove_site(site, effects),
            Command::SiteRemoved { site, generation } => {
                let news = self.sites.site_removed(site, *generation);
                Ok(effects.site(site, news))
            }
            Command::AddRelay(relay) => {
                self.sites.add_relay(relay).map(|news| self.relay_reply(&relay.id, news, effects))
            }
            Command::RemoveRelay(relay) => {
                self.sites.remove_relay(relay).map(|()| effects.row(Changed::Relay(relay.clone())))
            }
            Command::MoveRelay(relay) => {
                self.sites.move_relay(relay).map(|news| self.relay_reply(&relay.id, news, effects))
            }
            Command::BeginSnapshot { id, created_ms } => {
                self.begin_snapshot(*id, *created_ms, effects)
            }
            Command::SealSnapshot { seq } => Ok(self.resolve_snapshot(
                *seq,
                Snapshot::seal,
                Event::SnapshotSealed(*seq),
                effects,
            )),
            Command::AbortSnapshot { seq, reason } => Ok(self.resolve_snapshot(
                *seq,
                |s| s.abort(reason),
                Event::SnapshotAborted(*seq),
                effects,
            )),
            Command::ReportPart { id, part } => self.report_part(*id, part, effects),
            Command::ForgetSnapshot { id } => self.forget_snapshot(*id, effects),
            Command::BeginDeletion { id, lineage } => self.begin_deletion(*id, *lineage, effects),
            Command::ReportDeletion { id, node, reason } => {
                Ok(self.report_deletion(*id, *node, reason, effects))
            }
            Command::EstablishLineage { nonce } => Ok(self.establish_lineage(*nonce, effects)),
            Command::RaiseLevel(level) => self.raise_level(*level, effects),
            Command::RemoveNode { node, removed_ms, seen, by, away } => {
                self.remove_node(*node, *removed_ms, *seen, (*by, away), effects)
            }
            Command::Decommission { node, seen, by, away } => {
                self.decommission(*node, *seen, (*by, away), effects)
            }
            Command::CancelDecommission { node, away } => {
                self.cancel_decommission(*node, away, effects)
            }
            Command::Decommissioned { node, removed_ms } => {
                self.decommissioned(*node, *removed_ms, effects)
            }
            Command::SetCapacity { node, percent, away } => {
                self.set_capacity(*node, *percent, away, effects)
            }
            Command::Rebalance { seen, away } => self.rebalance(*seen, away, effects),
            Command::SetDraining { node, draining, at_ms } => {
                self.set_draining(*node, *draining, *at_ms, effects)
            }
            Command::Operate { begin, change } => self.operate(begin, change, effects),
            Command::FinishOperation { id, ended_ms, seen } => {
                self.finish_operation(*id, *ended_ms, *seen, effects)
            }
            Command::CancelOperation { id, ended_ms, away } => {
                self.cancel_operation(*id, *ended_ms, away, effects)
            }
            Command::AddGrant(grant) => self.add_grant(grant, effects),
            Command::RemoveGrant(grant) => self.remove_grant(grant, effects),
            Command::CreateToken(token) => self.create_token(token, effects),
            Command::RevokeToken(id) => self.revoke_token(*id, effects),
            Command::ResumeToken(id) => self.resume_token(*id, effects),
            Command::BindNode { node, name, anew } => self.bind_node(*node, name, *anew, effects),
            Command::SetJoins { need_token } => Ok(self.set_joins(*need_token, effects)),
            Command::PutSchedule { id, definition, at_ms, replace } => {
                self.put_schedule(id, definition, *at_ms, *replace, effects)
            }
            Command::DeleteSchedule(id) => self.delete_schedule(id, effects),
            Command::PauseSchedule { id, paused, at_ms } => {
                self.pause_schedule(id, *paused, *at_ms, effects)
            }
            Command::RunSchedule { id, run } => self.run_schedule(id, run, effects),
            Command::DecideRun(decision) => self.decide_run(decision, effects),
            Command::EndRun { id, snapshot, ended_ms, reason } => {
                self.end_run(id, *snapshot, *ended_ms, reason, effects)
            }
        }
    }

    /// What a cluster begins with that was restored from the snapshot during which this state was
    /// captured.
    ///
    /// - The snapshot is sealed, or nobody could have restored it. Parts that were being written at
    ///   the cut are reported anew by their nodes, if they come.
    /// - Numbers go on from the largest one: all that the fence needs is that they grow, and
    ///   records are kept by them.
    /// - The history has no name until the meta group's first leader gives it one.
    /// - Snapshots that were being deleted are forgotten: what is left of them is of another
    ///   history now, and nothing of that is touched unasked.
    /// - Grants are as they were. So are tokens, and they are of another history: each is suspended
    ///   until somebody resumes it.
    /// - Nodes, and sites that were half added or removed, are as they were. Nodes announce
    ///   themselves, and the sites are finished. So operations are as they were too, and what runs
    ///   ends by the same facts.
    /// - Schedules go on. What ran is over: the snapshot that was being taken is of the old
    ///   history, as are the parts that the old runs have left.
    /// - No node has the name of a certificate: other machines have other certificates.
    pub fn restored(mut self, snapshot: SnapshotId) -> Result<State> {
        let seq = self.captured_by(snapshot)?;
        self.snapshots.retain(|_, record| record.deleting.is_none());
        for record in self.snapshots.values_mut() {
            record.seal();
        }
        self.nodes.values_mut().for_each(|node| node.certificate_name = None);
        self.schedules.values_mut().for_each(Schedule::into_new_history);
        self.settings = Settings {
            lineage: Lineage::PENDING,
            restored_from: Some(snapshot),
            begun: seq,
            resolved: seq,
            ..self.settings
        };
        Ok(self)
    }

    /// The number of the snapshot during which this state was captured: it is open in it.
    fn captured_by(&self, snapshot: SnapshotId) -> Result<SnapshotSeq> {
        let open = self.open_snapshot().filter(|s| s.id == snapshot).map(|s| s.seq);
        open.ok_or_else(|| {
            let what = format!("snapshot {snapshot}: it is not open in them");
            Error::corrupt(format!("the meta group's rows were not captured by {what}"))
        })
    }

    fn add_site(&mut self, site: &SiteId, effects: &mut Effects) -> Result<Outcome> {
        let generation = SiteGeneration(self.settings.site_generations.0 + 1);
        let news = self.sites.add_site(site, generation)?;
        if news {
            self.settings.site_generations = generation;
            effects.changed.push(Changed::Settings);
        }
        Ok(effects.site(site, news))
    }

    fn remove_site(&mut self, site: &SiteId, effects: &mut Effects) -> Result<Outcome> {
        let Some(relays) = self.sites.remove_site(site)? else {
            return Ok(Outcome::Done { changed: false });
        };
        effects.changed.extend(relays.into_iter().map(Changed::Relay));
        Ok(effects.row(Changed::Site(site.clone())))
    }

    fn relay_reply(&self, relay: &RelayId, changed: bool, effects: &mut Effects) -> Outcome {
        if changed {
            effects.row(Changed::Relay(relay.clone()));
        }
        Outcome::Relay {
            relay: self.sites.relay(relay).expect("it was just added or found"),
            changed,
        }
    }

    /// The first one names the history; later ones change nothing.
    fn establish_lineage(&mut self, nonce: u64, effects: &mut Effects) -> Outcome {
        let (Lineage::PENDING, Some(from)) = (self.settings.lineage, self.settings.restored_from)
        else {
            return Outcome::Done { changed: false };
        };
        let nonce = if mutated(Mutation::LineageWithoutNonce) { 0 } else { nonce };
        self.settings.lineage = Lineage::derive(from, nonce);
        effects.events.push(Event::LineageEstablished(self.settings.lineage));
        effects.row(Changed::Settings)
    }

    fn check(&self) -> Result<()> {
        let (begun, resolved) = (self.settings.begun, self.settings.resolved);
        let open: Vec<SnapshotSeq> =
            self.snapshots.values().filter(|s| s.is_open()).map(|s| s.seq).collect();
        let expected: &[SnapshotSeq] = if begun > resolved { &[begun] } else { &[] };
        if resolved > begun
            || open != expected
            || self.snapshots.last_key_value().is_some_and(|(seq, _)| *seq > begun)
        {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: begun {begun}, resolved {resolved}, \
                 open {open:?}"
            )));
        }
        if let Some(node) = self.removed.keys().find(|node| self.nodes.contains_key(node)) {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: node {node} is there and was removed"
            )));
        }
        self.check_operations()?;
        self.check_schedules()?;
        let newest = self.settings.site_generations;
        if let Some((site, _)) = self.sites.sites().iter().find(|(_, s)| s.generation > newest) {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: site {site} is newer than the newest \
                 site, {newest}"
            )));
        }
        if let Some(node) =
            self.assignments.values().flatten().find(|n| !self.nodes.contains_key(n))
        {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: groups are assigned to node {node}, \
                 which is not there"
            )));
        }
        if let Some(group) =
            self.assignments.keys().find(|group| !self.settings.topology.has(**group))
        {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: group {group} is assigned, and there \
                 is no such group"
            )));
        }
        let unassigned = |g: &GroupId| self.assignments.get(g).is_none_or(Vec::is_empty);
        if let Some(group) =
            self.settings.topology.group_ids().chain([GroupId::META]).find(unassigned)
        {
            return Err(Error::corrupt(format!(
                "the meta group's rows contradict each other: group {group} is assigned to no node"
            )));
        }
        Ok(())
    }
}

impl Effects {
    fn row(&mut self, row: Changed) -> Outcome {
        self.changed.push(row);
        Outcome::Done { changed: true }
    }

    fn site(&mut self, site: &SiteId, changed: bool) -> Outcome {
        if changed { self.row(Changed::Site(site.clone())) } else { Outcome::Done { changed } }
    }
}
