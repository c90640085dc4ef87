//! What a group logs and what it remembers of itself: log entries, their commands, and the record
//! that is stored with its rows.
//!
//! Pure types; `wire` gives them bytes, the engine gives them effect.

use crate::{
    base::ids::{
        ClusterId, Lineage, NodeId, RequestId, SiteGeneration, SnapshotId, SnapshotSeq, Topology,
    },
    cluster::{self, level::Level, reconfigure::Membership, state::Settings},
    data,
};

/// A place in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// What a Raft entry carries. A leader's no-op carries nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The proposer's `open` when it proposed (rule R5 of `docs/cut.md`): behind a newer mark the
    /// user's commands are no-ops.
    pub seen: SnapshotSeq,
    pub commands: Vec<Command>,
}

/// One change of a group's state.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    pub request: Option<RequestId>,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Data(data::Command),
    Meta(cluster::Command),
    /// Capture the group here.
    Mark(SnapshotSeq),
}

impl Action {
    /// Whether a user can see what it does: such commands wait behind a mark until the snapshot is
    /// resolved.
    pub fn is_user(&self) -> bool {
        match self {
            Action::Data(data::Command::SetLineage { .. }) | Action::Mark(_) => false,
            Action::Data(_) => true,
            Action::Meta(command) => command.is_user(),
        }
    }
}

impl From<data::Command> for Command {
    fn from(command: data::Command) -> Command {
        Command { request: None, action: Action::Data(command) }
    }
}

impl From<cluster::Command> for Command {
    fn from(command: cluster::Command) -> Command {
        Command { request: None, action: Action::Meta(command) }
    }
}

/// How far a replica is, stored in the same transaction as its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    pub applied: Position,
    pub members: Membership,
    /// The newest snapshot whose mark was applied, and where.
    pub mark: SnapshotSeq,
    pub mark_at: Position,
    pub data: data::State,
}

impl Record {
    /// What a replica leaves in the store that has ended, by the word of the leader of a term at a
    /// place of its log.
    pub fn ended_at(at: Position) -> Record {
        Record { mark_at: at, ..Record::default() }
    }

    /// Whether this is what a replica leaves in the store that has ended. Any other has applied
    /// something before it is stored.
    pub fn has_ended(&self) -> bool {
        self.applied.index == 0
    }
}

/// Where every group's log begins: nothing is at this place, so that a replica that knows nothing
/// needs a Raft snapshot and learns the members from it.
pub const LOG_BEGIN: Position = Position { index: 5, term: 5 };

/// Whose store it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Version of what stands in the store directory.
    pub format: u32,
    pub node: NodeId,
    pub cluster: ClusterId,
    /// `PENDING` while fresh from a restore.
    pub lineage: Lineage,
    /// The snapshot that this history was restored from.
    pub restored_from: Option<SnapshotId>,
    pub topology: Topology,
}

impl Identity {
    /// What the node can say of the cluster's settings before it has received them.
    pub fn unknown_settings(&self) -> Settings {
        Settings {
            cluster: self.cluster,
            replication_factor: 1,
            topology: self.topology,
            lineage: self.lineage,
            restored_from: self.restored_from,
            begun: SnapshotSeq(0),
            resolved: SnapshotSeq(0),
            site_generations: SiteGeneration(0),
            deleted: Vec::new(),
            level: Level::FIRST,
            joins_need_token: false,
        }
    }
}
