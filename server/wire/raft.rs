//! Raft messages, field by field: raft-rs's own structs on one side, the contract's on the other, so that the parser of protobuf 2 never sees a network.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use crate::proto::internal::v1::{self as internal, RaftEntryType, RaftMessageType};

const TYPES: &[(MessageType, RaftMessageType)] = &[
    (MessageType::MsgAppend, RaftMessageType::Append),
    (MessageType::MsgAppendResponse, RaftMessageType::AppendResponse),
    (MessageType::MsgRequestVote, RaftMessageType::RequestVote),
    (MessageType::MsgRequestVoteResponse, RaftMessageType::RequestVoteResponse),
    (MessageType::MsgSnapshot, RaftMessageType::Snapshot),
    (MessageType::MsgHeartbeat, RaftMessageType::Heartbeat),
    (MessageType::MsgHeartbeatResponse, RaftMessageType::HeartbeatResponse),
    (MessageType::MsgTransferLeader, RaftMessageType::TransferLeader),
    (MessageType::MsgTimeoutNow, RaftMessageType::TimeoutNow),
    (MessageType::MsgReadIndex, RaftMessageType::ReadIndex),
    (MessageType::MsgReadIndexResp, RaftMessageType::ReadIndexResponse),
    (MessageType::MsgRequestPreVote, RaftMessageType::RequestPreVote),
    (MessageType::MsgRequestPreVoteResponse, RaftMessageType::RequestPreVoteResponse),
];

const ENTRY_TYPES: &[(EntryType, RaftEntryType)] = &[
    (EntryType::EntryNormal, RaftEntryType::Normal),
    (EntryType::EntryConfChange, RaftEntryType::ConfChange),
    (EntryType::EntryConfChangeV2, RaftEntryType::ConfChangeV2),
];

pub fn raft(mut message: Message) -> internal::RaftMessage {
    let kind = TYPES.iter().find(|(ours, _)| *ours == message.msg_type).map_or(RaftMessageType::Unspecified, |(_, wire)| *wire);
    let snapshot = message.snapshot.take().map(|s| {
        let meta = s.get_metadata();
        internal::RaftSnapshot {
            index: meta.index,
            term: meta.term,
            voters: meta.get_conf_state().get_voters().to_vec(),
            learners: meta.get_conf_state().get_learners().to_vec(),
            data: s.data.clone(),
        }
    });
    internal::RaftMessage {
        r#type: kind as i32,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.into_iter().map(entry).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
    }
}

/// None for a message of a kind that this version does not know: it counts as lost.
pub fn parse_raft(message: internal::RaftMessage) -> Option<Message> {
    let kind = message.r#type();
    let mut parsed = Message {
        msg_type: TYPES.iter().find(|(_, wire)| *wire == kind)?.0,
        from: message.from,
        to: message.to,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
        ..Message::default()
    };
    parsed.set_entries(message.entries.into_iter().map(parse_entry).collect::<Option<Vec<_>>>()?.into());
    if let Some(s) = message.snapshot {
        let mut snapshot = Snapshot { data: s.data, ..Snapshot::default() };
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (s.index, s.term);
        meta.set_conf_state(ConfState::from((s.voters, s.learners)));
        parsed.set_snapshot(snapshot);
    }
    Some(parsed)
}

fn entry(entry: Entry) -> internal::RaftEntry {
    let kind = ENTRY_TYPES.iter().find(|(ours, _)| *ours == entry.entry_type).map_or(RaftEntryType::Unspecified, |(_, wire)| *wire);
    internal::RaftEntry { r#type: kind as i32, term: entry.term, index: entry.index, data: entry.data, context: entry.context }
}

fn parse_entry(entry: internal::RaftEntry) -> Option<Entry> {
    let kind = entry.r#type();
    let entry_type = ENTRY_TYPES.iter().find(|(_, wire)| *wire == kind)?.0;
    Some(Entry { entry_type, term: entry.term, index: entry.index, data: entry.data, context: entry.context, ..Entry::default() })
}
