//! Everything that can be asked of the meta group, and what it answers.
//!
//! Relies on ids that are valid by construction; what ids cannot promise (the length of an address)
//! is checked when a command is applied. Knows neither who asks nor how commands are written down.

use std::collections::BTreeSet;

use crate::{
    base::{
        error::{Error, Result},
        ids::{
            GroupId, Lineage, NodeId, OperationId, RelayId, ScheduleId, SiteGeneration, SiteId,
            SnapshotId, SnapshotSeq, TokenId,
        },
        limits,
    },
    cluster::{
        access::{Grant, Purpose, Ticket, Token},
        level::Level,
        operations::{Begin, Kind},
        schedule::{Decision, Definition, Run},
        sites::Relay,
        snapshots::{Part, Snapshot},
    },
};

/// One process with one store, as it announces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// host:port.
    pub address: String,
    /// Share of groups relative to the others; 0 holds nothing.
    pub capacity_percent: u32,
    /// The version it runs.
    pub version: String,
    pub snapshot_store: bool,
    /// The lineage in which it last announced itself.
    pub lineage: Lineage,
    /// The newest level that it knows.
    pub level: Level,
    /// Whether it is being decommissioned: what it holds goes to others, and it gets nothing.
    pub leaving: bool,
    /// Whether it is being drained: it leads nothing, and gets no further replicas.
    pub draining: bool,
    /// The name in its certificate, once it has proved one: whoever speaks as this node over TLS
    /// has to have it. Of several nodes it may be the same.
    pub certificate_name: Option<String>,
}

/// A change of the cluster's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A known node says where it is now. One that is new joins; where the level allows it, by
    /// `JoinNode`.
    AnnounceNode(Node),
    /// A node joins, or comes back and holds nothing: it gets its share of the groups. One that is
    /// new has a ticket where the cluster asks for one.
    JoinNode { node: Node, away: Away, ticket: Option<Ticket> },
    /// A site shall be.
    AddSite(SiteId),
    /// The site's group takes writes of this life of it.
    SiteAdded { site: SiteId, generation: SiteGeneration },
    /// A site shall be no more.
    RemoveSite(SiteId),
    /// The data of this life of the site is gone.
    SiteRemoved { site: SiteId, generation: SiteGeneration },
    /// A relay is registered; one that exists is left as it is.
    AddRelay(Relay),
    /// A relay is no more.
    RemoveRelay(RelayId),
    /// A relay belongs to another site.
    MoveRelay(Relay),
    /// A snapshot begins.
    BeginSnapshot { id: SnapshotId, created_ms: u64 },
    /// All groups have applied their mark.
    SealSnapshot { seq: SnapshotSeq },
    /// The snapshot will not be.
    AbortSnapshot { seq: SnapshotSeq, reason: String },
    /// A node says how its part stands.
    ReportPart { id: SnapshotId, part: Part },
    /// A snapshot is forgotten at once. Logs of versions that did not wait for nodes to delete
    /// their parts hold it; nobody proposes it any more.
    ForgetSnapshot { id: SnapshotId },
    /// A snapshot shall be deleted on every node. `lineage` is the history that wrote it, where
    /// whoever deletes it has named it.
    BeginDeletion { id: SnapshotId, lineage: Option<Lineage> },
    /// A node says why it cannot delete its part; an empty reason says that nothing of it is left.
    ReportDeletion { id: SnapshotId, node: NodeId, reason: String },
    /// The first leader after a restore names the new history.
    EstablishLineage { nonce: u64 },
    /// Every member knows this level: from now on the cluster may use it.
    RaiseLevel(Level),
    /// A node is no member any more, and never will be again. Refused unless the members and the
    /// assignments are still those that whoever asks has seen. `by` is the node that takes its
    /// places, all of them and no others.
    RemoveNode { node: NodeId, removed_ms: u64, seen: Etag, by: Option<NodeId>, away: Away },
    /// A node shall leave: what it holds goes to others first. Refused as a removal is.
    Decommission { node: NodeId, seen: Etag, by: Option<NodeId>, away: Away },
    /// A node that is leaving stays.
    CancelDecommission { node: NodeId, away: Away },
    /// A node that was leaving holds nothing any more, as it says itself, and is no member.
    Decommissioned { node: NodeId, removed_ms: u64 },
    /// A node's share of the groups, relative to the others.
    SetCapacity { node: NodeId, percent: u32, away: Away },
    /// Every group goes where it should be. Refused as a removal is.
    Rebalance { seen: Etag, away: Away },
    /// A node leads nothing and gets nothing from now on, or is as any other again.
    SetDraining { node: NodeId, draining: bool, at_ms: u64 },
    /// One of the changes above that go on after the command (`operates`), as an
    /// operation.
    Operate { begin: Begin, change: Box<Command> },
    /// What an operation asked for has come true on these members and assignments, as whoever leads
    /// the meta group has heard from all leaders.
    FinishOperation { id: OperationId, ended_ms: u64, seen: Etag },
    /// An operation is taken back, as far as that can be done.
    CancelOperation { id: OperationId, ended_ms: u64, away: Away },
    /// Identities get a role.
    AddGrant(Grant),
    /// They lose it.
    RemoveGrant(Grant),
    /// There is a token.
    CreateToken(Token),
    /// It is no more.
    RevokeToken(TokenId),
    /// A token of another history holds in this one too.
    ResumeToken(TokenId),
    /// Whoever speaks as the node over TLS has this name from now on: where it has none yet, or
    /// `anew`, where an operator says so, in the place of another one.
    BindNode { node: NodeId, name: String, anew: bool },
    /// Whether machines need a join token to become nodes.
    SetJoins { need_token: bool },
    /// There is a schedule; one that is there becomes another one if it is to be replaced.
    PutSchedule { id: ScheduleId, definition: Definition, at_ms: u64, replace: bool },
    /// It is no more.
    DeleteSchedule(ScheduleId),
    /// It is paused, or goes on.
    PauseSchedule { id: ScheduleId, paused: bool, at_ms: u64 },
    /// A run of it begins out of turn.
    RunSchedule { id: ScheduleId, run: Run },
    /// Whoever leads the meta group has seen what is due.
    DecideRun(Decision),
    /// A run is over; an empty reason says that its snapshot is in the repository.
    EndRun { id: ScheduleId, snapshot: SnapshotId, ended_ms: u64, reason: String },
}

/// Nodes that have not answered whoever asks for some time. Their places go to others, as far as
/// these are enough for the replication factor. It is a hint: nothing depends on its being true.
pub type Away = BTreeSet<NodeId>;

/// A node that was a member. It is remembered for good: it may come back with what it had, and must
/// be told from one that is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    pub id: NodeId,
    /// Where it was.
    pub address: String,
    /// Milliseconds since 1970, for people.
    pub removed_ms: u64,
    /// Whether others had all that it held before it went.
    pub decommissioned: bool,
}

/// Names the members and what is assigned to them: a plan that was made for one is not carried out
/// on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag(pub u64);

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// A refusal had no effect.
    pub reply: Result<Outcome>,
    /// The rows to store. One that is not in the state any more is to be deleted.
    pub changed: Vec<Changed>,
    /// What the node should act on.
    pub events: Vec<Event>,
}

/// The answer to a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done {
        changed: bool,
    },
    /// The relay as it stands.
    Relay {
        relay: Relay,
        changed: bool,
    },
    /// The snapshot as it stands.
    Snapshot {
        snapshot: Box<Snapshot>,
        changed: bool,
    },
}

/// A row of the meta group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    Settings,
    Node(NodeId),
    Site(SiteId),
    Relay(RelayId),
    Assignment(GroupId),
    Snapshot(SnapshotSeq),
    Removed(NodeId),
    Operation(OperationId),
    Grant(Grant),
    Token(TokenId),
    Schedule(ScheduleId),
}

/// What every node that applies the command should know of at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is new, or can be reached elsewhere.
    NodeChanged(NodeId),
    /// A node is no member any more.
    NodeRemoved(NodeId),
    /// Groups should have other members than before.
    AssignmentsChanged,
    /// Marks are asked for.
    SnapshotBegun(SnapshotSeq),
    /// There is a cut, and nothing waits for it any more.
    SnapshotSealed(SnapshotSeq),
    /// There will be no cut, and nothing waits for it any more.
    SnapshotAborted(SnapshotSeq),
    /// Its files are to go. Of a snapshot that is forgotten already.
    SnapshotDeleted(SnapshotId),
    /// Its files are to go, and the cluster waits for that.
    SnapshotDeleting(SnapshotSeq),
    /// Somebody may do more or less than before.
    AccessChanged,
    /// The history has a name.
    LineageEstablished(Lineage),
}

impl Command {
    /// Whether marks fence it: behind a mark that its proposer did not know to be resolved it has
    /// no effect and is queued again (`docs/cut.md`, R5 and R10).
    ///
    /// Fenced is all that a client asks for and can see: sites, relays, and what becomes of
    /// snapshots that were taken before, levels, who may do what, who leaves or is removed, and
    /// schedules with what has become of their runs. Not fenced is:
    /// - `SealSnapshot` and `AbortSnapshot`: they open the fence, so they cannot wait behind it.
    /// - `BeginSnapshot`: while a snapshot is open it is refused, and afterwards nothing is fenced.
    ///   So it never has an effect that could be seen too early.
    /// - `AnnounceNode`, `JoinNode`, `BindNode`: membership. They say where a process is and how it
    ///   proves that, which no snapshot brings back: every node announces itself again when it
    ///   starts.
    /// - `EstablishLineage`: no snapshot can begin before it.
    pub fn is_user(&self) -> bool {
        match self {
            Command::AddSite(_)
            | Command::SiteAdded { .. }
            | Command::RemoveSite(_)
            | Command::SiteRemoved { .. } => true,
            Command::AddRelay(_) | Command::RemoveRelay(_) | Command::MoveRelay(_) => true,
            Command::ReportPart { .. } | Command::ForgetSnapshot { .. } => true,
            Command::BeginDeletion { .. } | Command::ReportDeletion { .. } => true,
            Command::BeginSnapshot { .. }
            | Command::SealSnapshot { .. }
            | Command::AbortSnapshot { .. } => false,
            Command::AnnounceNode(_)
            | Command::JoinNode { .. }
            | Command::BindNode { .. }
            | Command::EstablishLineage { .. } => false,
            Command::RaiseLevel(_) | Command::RemoveNode { .. } => true,
            Command::Decommission { .. }
            | Command::CancelDecommission { .. }
            | Command::Decommissioned { .. }
            | Command::SetCapacity { .. }
            | Command::Rebalance { .. } => true,
            Command::SetDraining { .. }
            | Command::Operate { .. }
            | Command::FinishOperation { .. }
            | Command::CancelOperation { .. } => true,
            Command::AddGrant(_)
            | Command::RemoveGrant(_)
            | Command::CreateToken(_)
            | Command::RevokeToken(_)
            | Command::ResumeToken(_)
            | Command::SetJoins { .. } => true,
            Command::PutSchedule { .. }
            | Command::DeleteSchedule(_)
            | Command::PauseSchedule { .. }
            | Command::RunSchedule { .. }
            | Command::DecideRun(_)
            | Command::EndRun { .. } => true,
        }
    }

    /// What it is as an operation, of which node, and by which other one; none where it is no
    /// operation.
    pub fn operates(&self) -> Option<(Kind, Option<NodeId>, Option<NodeId>)> {
        Some(match self {
            Command::RemoveNode { node, by: None, .. } => (Kind::Remove, Some(*node), None),
            Command::Decommission { node, by: None, .. } => (Kind::Decommission, Some(*node), None),
            Command::RemoveNode { node, by, .. } | Command::Decommission { node, by, .. } => {
                (Kind::Replace, Some(*node), *by)
            }
            Command::SetCapacity { node, .. } => (Kind::SetCapacity, Some(*node), None),
            Command::Rebalance { .. } => (Kind::Rebalance, None, None),
            Command::SetDraining { node, draining: true, .. } => (Kind::Drain, Some(*node), None),
            _ => return None,
        })
    }

    /// The level that all members have to know before it may stand in a log.
    pub fn level(&self) -> Level {
        match self {
            Command::PutSchedule { definition, .. } if !definition.task.is_backup() => {
                Level::VERIFICATIONS
            }
            Command::PutSchedule { .. }
            | Command::DeleteSchedule(_)
            | Command::PauseSchedule { .. }
            | Command::RunSchedule { .. }
            | Command::DecideRun(_)
            | Command::EndRun { .. } => Level::SCHEDULES,
            Command::SetJoins { .. } | Command::JoinNode { ticket: Some(_), .. } => Level::JOINS,
            Command::CreateToken(Token { purpose: Purpose::Joins { .. }, .. }) => Level::JOINS,
            Command::BindNode { .. } => Level::ACCESS,
            Command::AnnounceNode(node) | Command::JoinNode { node, .. }
                if node.certificate_name.is_some() =>
            {
                Level::ACCESS
            }
            Command::JoinNode { .. }
            | Command::RemoveNode { .. }
            | Command::Decommission { .. }
            | Command::CancelDecommission { .. }
            | Command::Decommissioned { .. }
            | Command::SetCapacity { .. }
            | Command::Rebalance { .. } => Level::DEPARTURE,
            Command::SetDraining { .. }
            | Command::Operate { .. }
            | Command::FinishOperation { .. }
            | Command::CancelOperation { .. } => Level::OPERATIONS,
            Command::AddGrant(_)
            | Command::RemoveGrant(_)
            | Command::CreateToken(_)
            | Command::RevokeToken(_)
            | Command::ResumeToken(_) => Level::ACCESS,
            _ => Level::FIRST,
        }
    }
}

impl Removed {
    /// What is said to a node that comes back.
    pub fn refusal(node: NodeId) -> String {
        format!(
            "node {node} was removed from its cluster and cannot come back: what it holds is old. \
             Start it with an empty store and --join, and it becomes a new node"
        )
    }
}

impl Outcome {
    /// Whether the command changed anything.
    pub fn changed(&self) -> bool {
        match self {
            Outcome::Done { changed }
            | Outcome::Relay { changed, .. }
            | Outcome::Snapshot { changed, .. } => *changed,
        }
    }
}

impl Node {
    /// Whether the registry has what a node says of itself, apart from what others decide.
    pub fn is_as_known(&self, known: &Node) -> bool {
        let Node { capacity_percent, leaving, draining, .. } = *known;
        let certificate_name = known.certificate_name.clone();
        *known == Node { capacity_percent, leaving, draining, certificate_name, ..self.clone() }
    }

    /// Why whoever speaks as the node by this name does not; none where it may be the node.
    pub fn misnamed(&self, name: &str) -> Option<String> {
        let known = self.certificate_name.as_ref().filter(|known| *known != name)?;
        let id = self.id;
        Some(format!(
            "node {id} has the certificate of {known}, and whoever speaks as node {id} that of \
             {name}: start it with a certificate of its name or, if that is its new one, say \
             ddbctl node set {id} --certificate-name {name}"
        ))
    }

    pub fn check(&self) -> Result<()> {
        if self.id == NodeId(0) {
            return Err(Error::invalid(format!(
                "the node at {} announces itself without an id",
                self.address
            )));
        }
        if self.address.is_empty() || self.address.len() > limits::ADDRESS_BYTES_MAX {
            return Err(Error::invalid(format!(
                "node {} announces an address of {} bytes; host:port is 1 to {} bytes",
                self.id,
                self.address.len(),
                limits::ADDRESS_BYTES_MAX
            )));
        }
        if self.capacity_percent > limits::CAPACITY_PERCENT_MAX {
            return Err(Error::invalid(format!(
                "node {}: a capacity of {} % is not possible, only up to {} %",
                self.id,
                self.capacity_percent,
                limits::CAPACITY_PERCENT_MAX
            )));
        }
        if self.version.len() > limits::VERSION_BYTES_MAX {
            return Err(Error::invalid(format!(
                "node {} announces a version of more than {} bytes",
                self.id,
                limits::VERSION_BYTES_MAX
            )));
        }
        let name = self.certificate_name.as_ref().map_or(1, String::len);
        if !(1..=limits::CERTIFICATE_NAME_BYTES_MAX).contains(&name) {
            return Err(Error::invalid(format!(
                "the name in the certificate of node {} has {name} bytes; it has 1 to {}",
                self.id,
                limits::CERTIFICATE_NAME_BYTES_MAX
            )));
        }
        Ok(())
    }
}
