//! What replicas of a group say to each other: raft-rs's messages, told apart by what the engine
//! has to know of them. The rest of a message is raft-rs's own.

use raft::eraftpb::{self, MessageType};

use super::{offers::Announced, storage};
use crate::{base::ids::NodeId, entry::Position, proto::internal::v1 as internal, wire};

/// What raft-rs writes into vote requests of a node that was told to take over: nobody's lease
/// stands against it.
const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// One message.
pub struct Message(pub(super) eraftpb::Message);

impl Message {
    /// None for one that this version does not know.
    pub fn parse(message: internal::RaftMessage) -> Option<Message> {
        wire::parse_raft(message).map(Message)
    }

    /// With the tenure that belongs on it (`engine::tenure`).
    pub fn into_wire(self, tenure: u64) -> internal::RaftMessage {
        wire::raft(self.0, tenure)
    }

    pub fn from(&self) -> NodeId {
        NodeId(self.0.from)
    }

    pub fn to(&self) -> NodeId {
        NodeId(self.0.to)
    }

    pub fn term(&self) -> u64 {
        self.0.term
    }

    /// Whether only the leader of its term says it.
    pub fn is_of_leader(&self) -> bool {
        matches!(
            self.0.msg_type,
            MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot
        )
    }

    pub fn asks_for_vote(&self) -> bool {
        matches!(self.0.msg_type, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote)
    }

    /// Whether the leader itself has told the one that asks for a vote to take over.
    pub fn is_of_heir(&self) -> bool {
        self.0.context[..] == *CAMPAIGN_TRANSFER
    }

    /// Whether it says how far a follower has the leader's log.
    pub fn acknowledges(&self) -> bool {
        self.0.msg_type == MessageType::MsgAppendResponse
    }

    pub fn brings_entries(&self) -> bool {
        self.0.msg_type == MessageType::MsgAppend && !self.0.entries.is_empty()
    }

    /// The rows that a leader announces.
    pub fn announces(&self) -> Option<Announced> {
        let snapshot = self.0.msg_type == MessageType::MsgSnapshot;
        snapshot.then(|| announced(self.0.get_snapshot()))
    }
}

pub(super) fn announced(snapshot: &eraftpb::Snapshot) -> Announced {
    let meta = snapshot.get_metadata();
    Announced {
        at: Position { index: meta.index, term: meta.term },
        members: storage::membership(meta.get_conf_state()),
        name: snapshot.data.clone(),
    }
}
