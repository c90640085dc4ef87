//! Entries of a group's log as its replicas apply them.

use bytes::Bytes;
pub use raft::eraftpb::Entry as Raw;
use raft::eraftpb::{ConfChange, ConfChangeType, EntryType};

use crate::{
    base::{
        error::{Error, Result},
        ids::NodeId,
    },
    entry::Position,
};

/// An entry, and where it stands.
pub struct Logged {
    pub at: Position,
    pub holds: Holds,
}

/// What an entry holds.
pub enum Holds {
    /// Nothing: a new leader's first, or one that has lost its effect.
    Nothing,
    /// Commands, as `wire::decode_entry` reads them.
    Commands(Bytes),
    /// A change of one member; `Corrupt` where it cannot be read.
    Change(Result<Change>),
    /// A change of members in a way that only a newer version knows.
    NewerChange,
}

/// What a node is in a group from an entry on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub node: NodeId,
    pub to: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Voter,
    Learner,
    /// No member.
    Nothing,
}

impl Logged {
    pub fn of(entry: Raw) -> Logged {
        let at = Position { index: entry.index, term: entry.term };
        let holds = match entry.get_entry_type() {
            EntryType::EntryConfChangeV2 => Holds::NewerChange,
            EntryType::EntryConfChange => Holds::Change(Change::read(&entry)),
            EntryType::EntryNormal if entry.data.is_empty() => Holds::Nothing,
            EntryType::EntryNormal => Holds::Commands(entry.data),
        };
        Logged { at, holds }
    }

    pub fn changes_members(&self) -> bool {
        matches!(self.holds, Holds::Change(_) | Holds::NewerChange)
    }
}

impl Change {
    fn read(entry: &Raw) -> Result<Change> {
        let change: ConfChange = protobuf::Message::parse_from_bytes(&entry.data).map_err(|e| {
            Error::corrupt(format!("a membership change cannot be read: {e}")).with_source(e)
        })?;
        let to = match change.get_change_type() {
            ConfChangeType::AddNode => Role::Voter,
            ConfChangeType::AddLearnerNode => Role::Learner,
            ConfChangeType::RemoveNode => Role::Nothing,
        };
        Ok(Change { node: NodeId(change.node_id), to })
    }

    pub(super) fn raw(self) -> ConfChange {
        let mut change = ConfChange { node_id: self.node.0, ..ConfChange::default() };
        change.set_change_type(match self.to {
            Role::Voter => ConfChangeType::AddNode,
            Role::Learner => ConfChangeType::AddLearnerNode,
            Role::Nothing => ConfChangeType::RemoveNode,
        });
        change
    }
}

/// Whether an entry of a log changes members.
pub fn changes_members(entry: &Raw) -> bool {
    entry.get_entry_type() != EntryType::EntryNormal
}

/// An entry at the same place without effect.
pub fn emptied(entry: &Raw) -> Raw {
    Raw { index: entry.index, term: entry.term, ..Raw::default() }
}
