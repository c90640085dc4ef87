//! Raft messages, field by field: raft-rs's own structs on one side, the contract's on the other,
//! so that the parser of protobuf 2 never sees a network.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use prost::Message as _;

use crate::{
    base::limits,
    proto::internal::v1::{
        self as internal, PeerMessage, RaftEntryType, RaftMessageType, peer_message::Body,
    },
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

/// Cuts a batch into batches that a frame has room for, each with its bytes. A message that is
/// larger goes alone: a frame beyond `PEER_MESSAGE_BYTES_MAX` would break the stream, and every
/// frame is in memory at once, at both of its ends.
pub fn frames(messages: Vec<PeerMessage>) -> Vec<(Vec<PeerMessage>, usize)> {
    let mut frames: Vec<(Vec<PeerMessage>, usize)> = Vec::new();
    for message in messages {
        let bytes = peer_bytes(std::slice::from_ref(&message));
        match frames.last_mut().filter(|(_, before)| before + bytes <= limits::PEER_FRAME_BYTES) {
            Some((batch, before)) => {
                batch.push(message);
                *before += bytes;
            }
            None => frames.push((vec![message], bytes)),
        }
    }
    frames
}

/// With the tenure that belongs on it (`engine::tenure`).
pub fn raft(mut message: Message, tenure: u64) -> internal::RaftMessage {
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
        tenure,
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
    // A small one is copied: groups keep recent entries in memory, and one of a few bytes would
    // keep the frame of megabytes that it came in. A large one is most of its frame.
    let large = entry.data.len() >= limits::ENTRY_SHARED_BYTES;
    let data = if large { entry.data } else { Bytes::copy_from_slice(&entry.data) };
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
        assert_eq!(raft(parse_raft(append.clone()).unwrap(), append.tenure), append);
        assert_eq!(parse_raft(message(RaftMessageType::Unspecified, RaftEntryType::Normal)), None);
        assert_eq!(parse_raft(message(RaftMessageType::Append, RaftEntryType::Unspecified)), None);
    }

    #[test]
    fn a_batch_of_many_large_messages_is_cut_into_frames_in_their_order() {
        let forward = |number: u64, bytes: usize| PeerMessage {
            group: 0,
            body: Some(Body::Forward(internal::Forward {
                id: number,
                request: Some(internal::forward::Request::Command(internal::Command {
                    request_id: vec![0; bytes].into(),
                    action: None,
                })),
                ..internal::Forward::default()
            })),
        };
        let sizes = [10, 1 << 20, 1 << 20, 10, 10, 5 << 20, 10, 1 << 20, 10];
        let all: Vec<_> =
            sizes.iter().zip(1..).map(|(bytes, number)| forward(number, *bytes)).collect();
        let frames = frames(all.clone());
        assert_eq!(frames.iter().map(|(batch, _)| batch.len()).collect::<Vec<_>>(), [2, 3, 1, 3]);
        for (batch, bytes) in &frames {
            assert_eq!(*bytes, peer_bytes(batch));
            assert!(*bytes <= limits::PEER_FRAME_BYTES || batch.len() == 1);
        }
        assert_eq!(frames.into_iter().flat_map(|(batch, _)| batch).collect::<Vec<_>>(), all);
    }
}
