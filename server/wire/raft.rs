//! Raft messages, field by field: raft-rs's own structs on one side, the contract's on the other,
//! so that the parser of protobuf 2 never sees a network.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use prost::Message as _;

use crate::proto::internal::v1::{
    self as internal, PeerMessage, RaftEntryType, RaftMessageType, peer_message::Body,
};

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

/// Bytes that messages take while they wait, for bounds. Raft's own are most of them, and what they
/// carry is known without encoding them.
pub fn peer_bytes(messages: &[PeerMessage]) -> usize {
    let body = |message: &PeerMessage| match &message.body {
        Some(Body::Raft(raft)) => {
            let entries: usize = raft
                .entries
                .iter()
                .map(|e| size_of::<internal::RaftEntry>() + e.data.len() + e.context.len())
                .sum();
            raft.context.len() + entries + raft.snapshot.as_ref().map_or(0, |s| s.encoded_len())
        }
        Some(_) => message.encoded_len(),
        None => 0,
    };
    messages.iter().map(|message| size_of::<PeerMessage>() + body(message)).sum()
}

pub fn raft(mut message: Message) -> internal::RaftMessage {
    let kind = TYPES
        .iter()
        .find(|(ours, _)| *ours == message.msg_type)
        .map_or(RaftMessageType::Unspecified, |(_, wire)| *wire);
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

/// None for a message with a kind, or with an entry of a kind, that this version does not know: it
/// counts as lost. Which of the others may be believed is `engine::admission`'s to say; raft-rs
/// would stop the process over some of them.
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
    parsed.set_entries(
        message.entries.into_iter().map(parse_entry).collect::<Option<Vec<_>>>()?.into(),
    );
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
    let kind = ENTRY_TYPES
        .iter()
        .find(|(ours, _)| *ours == entry.entry_type)
        .map_or(RaftEntryType::Unspecified, |(_, wire)| *wire);
    internal::RaftEntry {
        r#type: kind as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
        context: entry.context,
    }
}

fn parse_entry(entry: internal::RaftEntry) -> Option<Entry> {
    let kind = entry.r#type();
    let entry_type = ENTRY_TYPES.iter().find(|(_, wire)| *wire == kind)?.0;
    // Copied: groups keep recent entries in memory, and one of a few bytes would keep the frame of
    // megabytes that it came in.
    let data = Bytes::copy_from_slice(&entry.data);
    Some(Entry {
        entry_type,
        term: entry.term,
        index: entry.index,
        data,
        context: entry.context,
        ..Entry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in_unless_it_is_of_an_unknown_kind() {
        let entry = |kind: RaftEntryType| internal::RaftEntry {
            r#type: kind as i32,
            index: 11,
            term: 2,
            ..internal::RaftEntry::default()
        };
        let message = |kind: RaftMessageType, of: RaftEntryType| internal::RaftMessage {
            r#type: kind as i32,
            from: 1,
            to: 2,
            term: 3,
            index: 10,
            entries: vec![entry(of)],
            ..internal::RaftMessage::default()
        };
        let append = message(RaftMessageType::Append, RaftEntryType::Normal);
        assert_eq!(raft(parse_raft(append.clone()).unwrap()), append);
        assert_eq!(parse_raft(message(RaftMessageType::Unspecified, RaftEntryType::Normal)), None);
        assert_eq!(parse_raft(message(RaftMessageType::Append, RaftEntryType::Unspecified)), None);
    }
}
