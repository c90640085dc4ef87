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

use std::collections::BTreeMap;

use crate::{
    base::{
        error::{Error, Result},
        ids::{
            ClusterId, GroupId, Lineage, NodeId, RelayId, SiteGeneration, SiteId, SnapshotId,
            SnapshotSeq, Topology,
        },
        limits,
    },
    cluster::{
        command::{Applied, Changed, Command, Etag, Event, Node, Outcome, Removed},
        level::Level,
        placement::{self, Assignments},
        reconfigure::Wanted,
        sites::{Relay, Site, Sites},
        snapshots::{Overall, Part, Snapshot},
    },
    faults::mutation::{Mutation, mutated},
};

/// Everything that there is one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub cluster: ClusterId,
    pub replication_factor: u32,
    pub topology: Topology,
    /// `PENDING` while nodes fresh from a restore have not agreed on one.
    pub lineage: Lineage,
    /// The snapshot this history was restored from; None when founded.
    pub restored_from: Option<SnapshotId>,
    /// The newest snapshot number begun.
    pub begun: SnapshotSeq,
    /// The newest snapshot number sealed or aborted.
    pub resolved: SnapshotSeq,
    /// The newest life of any site: every site that is added draws the next one.
    pub site_generations: SiteGeneration,
    /// The snapshots that were deleted last, oldest first: a request to take one that comes late,
    /// or once more, must not bring it back.
    pub deleted: Vec<SnapshotId>,
    /// What may stand in the logs.
    pub level: Level,
}

impl Settings {
    /// The settings of a new cluster, which has not taken a snapshot yet.
    pub fn founding(
        cluster: ClusterId,
        lineage: Lineage,
        replication_factor: u32,
        topology: Topology,
    ) -> Result<Settings> {
        let (none, site_generations) = (SnapshotSeq(0), SiteGeneration(0));
        let settings = Settings {
            cluster,
            replication_factor,
            topology,
            lineage,
            restored_from: None,
            begun: none,
            resolved: none,
            site_generations,
            deleted: Vec::new(),
            level: Level::own(),
        };
        settings.check()?;
        Ok(settings)
    }

    /// What types do not say: nothing can be placed without replicas, and numbers that only grow
    /// must not be at their end.
    pub fn check(&self) -> Result<()> {
        if !(1..=limits::REPLICATION_FACTOR_MAX).contains(&self.replication_factor) {
            return Err(Error::invalid(format!(
                "the replication factor must be 1 to {}, not {}",
                limits::REPLICATION_FACTOR_MAX,
                self.replication_factor
            )));
        }
        if self.begun.0.max(self.resolved.0).max(self.site_generations.0) == u64::MAX {
            return Err(Error::invalid("no number is left for another snapshot or site"));
        }
        if self.level > Level::own() {
            return Err(Error::conflict(format!(
                "the cluster is at level {} and this version knows only those up to {}: upgrade \
                 this node",
                self.level,
                Level::own()
            )));
        }
        Ok(())
    }
}

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
        };
        state.assignments = state.placed(&Assignments::new());
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
        };
        state.check()?;
        Ok(state)
    }

    /// The names of all rows that make the state.
    pub fn all_rows(&self) -> Vec<Changed> {
        let State { settings: _, nodes, sites, assignments, snapshots, removed } = self;
        let mut rows = vec![Changed::Settings];
        rows.extend(nodes.keys().copied().map(Changed::Node));
        rows.extend(sites.sites().keys().cloned().map(Changed::Site));
        rows.extend(sites.relays().keys().cloned().map(Changed::Relay));
        rows.extend(assignments.keys().copied().map(Changed::Assignment));
        rows.extend(snapshots.keys().copied().map(Changed::Snapshot));
        rows.extend(removed.keys().copied().map(Changed::Removed));
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
        if !group.is_meta() {
            return Wanted { leader: voters.first().copied(), voters, ..Wanted::default() };
        }
        let learners = self.nodes.keys().copied().filter(|n| !voters.contains(n)).collect();
        Wanted { voters, learners, leader: None }
    }

    pub fn apply(&mut self, command: &Command) -> Applied {
        let mut effects = Effects::default();
        let reply = match command {
            Command::AnnounceNode(node) => self.announce_node(node, &mut effects),
            Command::AddSite(site) => self.add_site(site, &mut effects),
            Command::SiteAdded { site, generation } => {
                let news = self.sites.site_added(site, *generation);
                Ok(effects.site(site, news))
            }
            Command::RemoveSite(site) => self.remove_site(site, &mut effects),
            Command::SiteRemoved { site, generation } => {
                let news = self.sites.site_removed(site, *generation);
                Ok(effects.site(site, news))
            }
            Command::AddRelay(relay) => self
                .sites
                .add_relay(relay)
                .map(|news| self.relay_reply(&relay.id, news, &mut effects)),
            Command::RemoveRelay(relay) => {
                self.sites.remove_relay(relay).map(|()| effects.row(Changed::Relay(relay.clone())))
            }
            Command::MoveRelay(relay) => self
                .sites
                .move_relay(relay)
                .map(|news| self.relay_reply(&relay.id, news, &mut effects)),
            Command::BeginSnapshot { id, created_ms } => {
                self.begin_snapshot(*id, *created_ms, &mut effects)
            }
            Command::SealSnapshot { seq } => Ok(self.resolve_snapshot(
                *seq,
                Snapshot::seal,
                Event::SnapshotSealed(*seq),
                &mut effects,
            )),
            Command::AbortSnapshot { seq, reason } => Ok(self.resolve_snapshot(
                *seq,
                |s| s.abort(reason),
                Event::SnapshotAborted(*seq),
                &mut effects,
            )),
            Command::ReportPart { id, part } => self.report_part(*id, part, &mut effects),
            Command::ForgetSnapshot { id } => self.forget_snapshot(*id, &mut effects),
            Command::BeginDeletion { id, lineage } => {
                self.begin_deletion(*id, *lineage, &mut effects)
            }
            Command::ReportDeletion { id, node, reason } => {
                Ok(self.report_deletion(*id, *node, reason, &mut effects))
            }
            Command::EstablishLineage { nonce } => Ok(self.establish_lineage(*nonce, &mut effects)),
            Command::RaiseLevel(level) => self.raise_level(*level, &mut effects),
            Command::RemoveNode { node, removed_ms, seen } => {
                self.remove_node(*node, *removed_ms, *seen, &mut effects)
            }
        };
        Applied { reply, changed: effects.changed, events: effects.events }
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
    /// - Nodes, and sites that were half added or removed, are as they were. Nodes announce
    ///   themselves, and the sites are finished.
    pub fn restored(mut self, snapshot: SnapshotId) -> Result<State> {
        let open = self.open_snapshot().filter(|s| s.id == snapshot).map(|s| s.seq);
        let seq = open.ok_or_else(|| {
            let what = format!("snapshot {snapshot}: it is not open in them");
            Error::corrupt(format!("the meta group's rows were not captured by {what}"))
        })?;
        self.snapshots.retain(|_, record| record.deleting.is_none());
        for record in self.snapshots.values_mut() {
            record.seal();
        }
        self.settings = Settings {
            lineage: Lineage::PENDING,
            restored_from: Some(snapshot),
            begun: seq,
            resolved: seq,
            ..self.settings
        };
        Ok(self)
    }

    /// A known node says where it is now; a new one is given its share of the groups.
    ///
    /// An address that another node has announced is taken as it comes: after a restore on other
    /// machines addresses may have changed places, and until all have announced themselves two
    /// share one. Nothing depends on it, since nodes name the id they want to reach, and another
    /// one declines.
    fn announce_node(&mut self, node: &Node, effects: &mut Effects) -> Result<Outcome> {
        node.check()?;
        let known = self.nodes.get(&node.id);
        if known.is_none() && self.nodes.len() >= limits::NODES_MAX {
            return Err(Error::conflict(format!(
                "node {} cannot join: a cluster has at most {} nodes",
                node.id,
                limits::NODES_MAX
            )));
        }
        if let Some(removed) = self.removed.get(&node.id) {
            return Err(Error::conflict(Removed::refusal(removed.id)));
        }
        if node.level < self.settings.level {
            return Err(Error::conflict(format!(
                "node {} runs version {}, which knows levels up to {}, and this cluster is at \
                 level {}: upgrade that node",
                node.id, node.version, node.level, self.settings.level
            )));
        }
        // Its capacity was given when it joined; a restart does not move data.
        let now = Node {
            capacity_percent: known.map_or(node.capacity_percent, |k| k.capacity_percent),
            ..node.clone()
        };
        if known == Some(&now) {
            return Ok(Outcome::Done { changed: false });
        }
        let is_new = self.nodes.insert(node.id, now).is_none();
        effects.events.push(Event::NodeChanged(node.id));
        let outcome = effects.row(Changed::Node(node.id));
        if is_new {
            self.assign(effects);
        }
        Ok(outcome)
    }

    /// Names the members and what is assigned to them (blake3, cut to 8 bytes).
    pub fn etag(&self) -> Etag {
        let mut hash = blake3::Hasher::new();
        for node in self.nodes.values() {
            hash.update(&node.id.0.to_be_bytes());
            hash.update(&node.capacity_percent.to_be_bytes());
        }
        for (group, nodes) in &self.assignments {
            hash.update(&group.0.to_be_bytes());
            hash.update(&(nodes.len() as u64).to_be_bytes());
            for node in nodes {
                hash.update(&node.0.to_be_bytes());
            }
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        Etag(u64::from_be_bytes(first))
    }

    /// Where the groups would be without a node.
    pub fn assignments_without(&self, node: NodeId) -> Assignments {
        let others = self.nodes.values().filter(|other| other.id != node);
        self.placed_on(others, &self.assignments)
    }

    /// What the node holds goes to others, nobody waits for its parts any more, and it never comes
    /// back. Whether its data is somewhere else is not known here: whoever asks has looked.
    fn remove_node(
        &mut self,
        id: NodeId,
        removed_ms: u64,
        seen: Etag,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if self.removed.contains_key(&id) {
            return Ok(Outcome::Done { changed: false });
        }
        let Some(node) = self.nodes.get(&id) else {
            return Err(Error::not_found(format!("there is no node {id}")));
        };
        if self.nodes.len() == 1 {
            return Err(Error::conflict(format!(
                "node {id} is the last one, and a cluster has at least one"
            )));
        }
        if seen != self.etag() {
            return Err(Error::conflict(
                "nodes or their groups have changed since the removal was planned; ask again",
            ));
        }
        let address = node.address.clone();
        self.removed.insert(id, Removed { id, address, removed_ms });
        self.nodes.remove(&id);
        effects.changed.extend([Changed::Node(id), Changed::Removed(id)]);
        effects.events.push(Event::NodeRemoved(id));
        for snapshot in self.snapshots.values_mut() {
            let waits = snapshot.parts.get(&id).is_some_and(|part| !part.is_final());
            if waits && snapshot.report(&Part::missing(id, "the node was removed")) {
                effects.changed.push(Changed::Snapshot(snapshot.seq));
            }
        }
        let deleting = self.snapshots.values().filter(|snapshot| snapshot.deleting.is_some());
        for seq in deleting.map(|snapshot| snapshot.seq).collect::<Vec<_>>() {
            if self.is_gone(seq) {
                self.forget(seq, self.snapshots[&seq].id, effects);
            }
        }
        self.assign(effects);
        Ok(Outcome::Done { changed: true })
    }

    fn assign(&mut self, effects: &mut Effects) {
        let new = self.placed(&self.assignments);
        let before = effects.changed.len();
        let changed = new
            .iter()
            .filter(|(group, nodes)| self.assignments.get(group) != Some(nodes))
            .map(|(group, _)| Changed::Assignment(*group));
        effects.changed.extend(changed);
        if effects.changed.len() > before {
            effects.events.push(Event::AssignmentsChanged);
        }
        self.assignments = new;
    }

    fn placed(&self, old: &Assignments) -> Assignments {
        self.placed_on(self.nodes.values(), old)
    }

    fn placed_on<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        old: &Assignments,
    ) -> Assignments {
        let capacities: BTreeMap<NodeId, u32> = nodes.map(|n| (n.id, n.capacity_percent)).collect();
        let mut new = placement::place(
            &capacities,
            old,
            self.settings.topology.group_ids(),
            self.settings.replication_factor,
        );
        new.insert(
            GroupId::META,
            placement::meta_voters(&capacities, old.get(&GroupId::META).map_or(&[], Vec::as_slice)),
        );
        new
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

    fn begin_snapshot(
        &mut self,
        id: SnapshotId,
        created_ms: u64,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        if let Some(known) = self.snapshot_named(id) {
            if known.deleting.is_some() {
                return Err(Error::conflict(format!(
                    "snapshot {id} is being deleted; take another one under a new uuid"
                )));
            }
            return Ok(Outcome::Snapshot { snapshot: Box::new(known.clone()), changed: false });
        }
        if self.settings.deleted.contains(&id) {
            return Err(Error::conflict(format!(
                "snapshot {id} was deleted; take another one under a new uuid"
            )));
        }
        if let Some(open) = self.open_snapshot() {
            return Err(Error::conflict(format!(
                "snapshot {} is being taken; wait for it",
                open.id
            )));
        }
        if self.settings.lineage == Lineage::PENDING {
            return Err(Error::unavailable(
                "the cluster comes from a restore and has not agreed on its history yet; try again \
                 when it has",
            ));
        }
        let seq = SnapshotSeq(self.settings.begun.0 + 1);
        let snapshot = Snapshot::begin(
            id,
            seq,
            created_ms,
            self.settings.lineage,
            self.nodes.values().map(|n| (n.id, n.snapshot_store)),
        );
        self.settings.begun = seq;
        effects.changed.extend([Changed::Settings, Changed::Snapshot(seq)]);
        if snapshot.is_open() {
            effects.events.push(Event::SnapshotBegun(seq));
        } else {
            self.settings.resolved = seq;
            effects.events.push(Event::SnapshotAborted(seq));
        }
        self.snapshots.insert(seq, snapshot.clone());
        self.forget_oldest(effects);
        Ok(Outcome::Snapshot { snapshot: Box::new(snapshot), changed: true })
    }

    /// Only the record goes; what nodes keep of it stays where it is.
    fn forget_oldest(&mut self, effects: &mut Effects) {
        while self.snapshots.len() - usize::from(self.open_snapshot().is_some())
            > limits::SNAPSHOTS_REMEMBERED
        {
            let (seq, _) = self.snapshots.pop_first().expect("there are more than are remembered");
            effects.changed.push(Changed::Snapshot(seq));
        }
    }

    /// The first outcome wins, and one of a snapshot that is not known does nothing.
    fn resolve_snapshot(
        &mut self,
        seq: SnapshotSeq,
        resolve: impl FnOnce(&mut Snapshot) -> bool,
        event: Event,
        effects: &mut Effects,
    ) -> Outcome {
        let changed = self.snapshots.get_mut(&seq).is_some_and(resolve);
        if changed {
            self.settings.resolved = self.settings.resolved.max(seq);
            effects.changed.extend([Changed::Settings, Changed::Snapshot(seq)]);
            effects.events.push(event);
            self.forget_oldest(effects);
        }
        Outcome::Done { changed }
    }

    fn report_part(
        &mut self,
        id: SnapshotId,
        part: &Part,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        part.check(self.settings.topology)?;
        let seq = self.number_of(id)?;
        if !self.nodes.contains_key(&part.node) {
            return Err(Error::not_found(format!(
                "node {} is not part of the cluster, so it has no part of snapshot {id}",
                part.node
            )));
        }
        let changed = self.snapshots.get_mut(&seq).is_some_and(|s| s.report(part));
        if changed {
            effects.row(Changed::Snapshot(seq));
        }
        Ok(Outcome::Done { changed })
    }

    fn forget_snapshot(&mut self, id: SnapshotId, effects: &mut Effects) -> Result<Outcome> {
        let seq = self.deletable(id)?;
        effects.events.push(Event::SnapshotDeleted(id));
        Ok(self.forget(seq, id, effects))
    }

    /// One of an earlier history has to be named as such: the cluster that this one was restored
    /// from may live on its parts.
    fn begin_deletion(
        &mut self,
        id: SnapshotId,
        lineage: Option<Lineage>,
        effects: &mut Effects,
    ) -> Result<Outcome> {
        let seq = self.deletable(id)?;
        let snapshot = self.snapshots.get_mut(&seq).expect("it was just found");
        if lineage.is_some_and(|named| named != snapshot.lineage) {
            return Err(Error::not_found(format!(
                "there is no snapshot {id} of lineage {}",
                lineage.unwrap_or_default()
            )));
        }
        if self.settings.lineage == Lineage::PENDING {
            return Err(Error::unavailable(
                "the cluster comes from a restore and has not agreed on its history yet; try again \
                 when it has",
            ));
        }
        if lineage.is_none() && snapshot.lineage != self.settings.lineage {
            return Err(Error::conflict(format!(
                "snapshot {id} was taken before this cluster was restored, in lineage {0}, and \
                 that cluster may live on: its parts are kept. To delete them all the same, name \
                 their lineage: --lineage {0}",
                snapshot.lineage
            )));
        }
        if !snapshot.begin_deletion(self.nodes.values().map(|n| (n.id, n.snapshot_store))) {
            return Ok(Outcome::Done { changed: false });
        }
        effects.events.push(Event::SnapshotDeleting(seq));
        effects.row(Changed::Snapshot(seq));
        Ok(self.forget_if_gone(seq, effects))
    }

    /// One of a snapshot that is not known, or of a node that is not waited for, does nothing.
    fn report_deletion(
        &mut self,
        id: SnapshotId,
        node: NodeId,
        reason: &str,
        effects: &mut Effects,
    ) -> Outcome {
        let Some(seq) = self.snapshot_named(id).map(|s| s.seq) else {
            return Outcome::Done { changed: false };
        };
        if !self.snapshots.get_mut(&seq).is_some_and(|s| s.report_deletion(node, reason)) {
            return Outcome::Done { changed: false };
        }
        effects.row(Changed::Snapshot(seq));
        self.forget_if_gone(seq, effects)
    }

    /// Nodes that are not of the cluster any more are not waited for.
    fn forget_if_gone(&mut self, seq: SnapshotSeq, effects: &mut Effects) -> Outcome {
        if !self.is_gone(seq) {
            return Outcome::Done { changed: true };
        }
        effects.changed.clear();
        self.forget(seq, self.snapshots[&seq].id, effects)
    }

    /// Whether no node has a part any more of a snapshot that is being deleted.
    fn is_gone(&self, seq: SnapshotSeq) -> bool {
        let mut waited_for = self.snapshots[&seq].deleting.iter().flatten();
        !waited_for.any(|(node, _)| self.nodes.contains_key(node))
    }

    fn forget(&mut self, seq: SnapshotSeq, id: SnapshotId, effects: &mut Effects) -> Outcome {
        self.snapshots.remove(&seq);
        let deleted = &mut self.settings.deleted;
        deleted.push(id);
        deleted.drain(..deleted.len().saturating_sub(limits::SNAPSHOTS_DELETED_REMEMBERED));
        effects.row(Changed::Settings);
        effects.row(Changed::Snapshot(seq))
    }

    fn deletable(&self, id: SnapshotId) -> Result<SnapshotSeq> {
        let seq = self.number_of(id)?;
        if self.snapshots[&seq].is_open() {
            return Err(Error::conflict(format!(
                "snapshot {id} is being taken; wait for it, then delete it"
            )));
        }
        Ok(seq)
    }

    fn number_of(&self, id: SnapshotId) -> Result<SnapshotSeq> {
        self.snapshot_named(id)
            .map(|s| s.seq)
            .ok_or_else(|| Error::not_found(format!("there is no snapshot {id}")))
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

    fn raise_level(&mut self, level: Level, effects: &mut Effects) -> Result<Outcome> {
        if level <= self.settings.level {
            return Ok(Outcome::Done { changed: false });
        }
        let behind: Vec<String> = self
            .nodes
            .values()
            .filter(|node| node.level < level)
            .map(|node| format!("node {} at {} runs {}", node.id, node.address, node.version))
            .collect();
        if !behind.is_empty() {
            return Err(Error::conflict(format!(
                "not every node knows level {level}: {}; upgrade them first",
                behind.join(", ")
            )));
        }
        self.settings.level = level;
        Ok(effects.row(Changed::Settings))
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
