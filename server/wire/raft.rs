//! Raft messages, field by field: raft-rs's own structs on one side, the contract's on the other, so that the parser of protobuf 2 never sees a network.

use std::collections::BTreeSet;

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use prost::Message as _;

use crate::proto::internal::v1::{self as internal, PeerMessage, RaftEntryType, RaftMessageType, peer_message::Body};

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

/// Bytes that messages take while they wait, for bounds. Raft's own are most of them, and what they carry is known without encoding them.
pub fn peer_bytes(messages: &[PeerMessage]) -> usize {
    let body = |message: &PeerMessage| match &message.body {
        Some(Body::Raft(raft)) => raft.context.len() + raft.entries.iter().map(|e| size_of::<internal::RaftEntry>() + e.data.len()).sum::<usize>(),
        Some(_) => message.encoded_len(),
        None => 0,
    };
    messages.iter().map(|message| size_of::<PeerMessage>() + body(message)).sum()
}

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

/// None for a message of a kind that this version does not know, or of a shape that raft-rs never sends and would stop the process over: it counts as lost.
pub fn parse_raft(message: internal::RaftMessage) -> Option<Message> {
    let kind = message.r#type();
    let well_formed = match kind {
        RaftMessageType::ReadIndex => message.entries.len() == 1,
        RaftMessageType::Append => message.term > 0 && follows(&message),
        RaftMessageType::Heartbeat => message.term > 0,
        RaftMessageType::Snapshot => message.term > 0 && message.snapshot.as_ref().is_some_and(can_be_restored),
        _ => true,
    };
    if !well_formed {
        return None;
    }
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

/// Whether the entries come one after the other behind the place that the message names, written by a leader of its term or an earlier one.
fn follows(message: &internal::RaftMessage) -> bool {
    let mut before = message.index;
    message.entries.iter().all(|entry| {
        let next = before.checked_add(1) == Some(entry.index) && (1..=message.term).contains(&entry.term);
        before = entry.index;
        next
    })
}

/// raft-rs adds the members one by one and ends the process when it comes to others than the snapshot says.
fn can_be_restored(snapshot: &internal::RaftSnapshot) -> bool {
    let mut seen = BTreeSet::from([0]);
    snapshot.index > 0 && !snapshot.voters.is_empty() && snapshot.voters.iter().chain(&snapshot.learners).all(|node| seen.insert(*node))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: RaftMessageType, entries: &[(u64, u64)]) -> internal::RaftMessage {
        let entry = |(index, term): &(u64, u64)| internal::RaftEntry {
            r#type: RaftEntryType::Normal as i32,
            index: *index,
            term: *term,
            ..internal::RaftEntry::default()
        };
        internal::RaftMessage {
            r#type: kind as i32,
            from: 1,
            to: 2,
            term: 3,
            index: 10,
            entries: entries.iter().map(entry).collect(),
            ..internal::RaftMessage::default()
        }
    }

    fn is_taken(message: internal::RaftMessage) -> bool {
        parse_raft(message).is_some()
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let append = message(RaftMessageType::Append, &[(11, 2), (12, 3)]);
        assert_eq!(raft(parse_raft(append.clone()).unwrap()), append);
    }

    #[test]
    fn a_read_has_one_entry() {
        let read = |entries: &[(u64, u64)]| is_taken(internal::RaftMessage { term: 0, index: 0, ..message(RaftMessageType::ReadIndex, entries) });
        assert_eq!([read(&[]), read(&[(0, 0)]), read(&[(0, 0), (0, 0)])], [false, true, false]);
    }

    #[test]
    fn entries_follow_each_other_and_come_from_no_later_term() {
        let append = |entries: &[(u64, u64)]| is_taken(message(RaftMessageType::Append, entries));
        assert!(append(&[]));
        assert!(append(&[(11, 1), (12, 3)]));
        assert!(!append(&[(12, 3)]), "a gap at the beginning");
        assert!(!append(&[(10, 3)]), "an overlap");
        assert!(!append(&[(11, 3), (13, 3)]), "a gap");
        assert!(!append(&[(11, 0)]), "no term");
        assert!(!append(&[(11, 4)]), "a term to come");
        let at_the_end = internal::RaftMessage { index: u64::MAX, ..message(RaftMessageType::Append, &[(0, 3)]) };
        assert!(!is_taken(at_the_end));
    }

    #[test]
    fn a_leader_has_a_term() {
        for kind in [RaftMessageType::Append, RaftMessageType::Heartbeat] {
            assert!(is_taken(message(kind, &[])));
            assert!(!is_taken(internal::RaftMessage { term: 0, ..message(kind, &[]) }), "{kind:?}");
        }
    }

    #[test]
    fn a_snapshot_has_a_place_and_members() {
        let announced = |index, voters: &[u64], learners: &[u64]| {
            let snapshot = internal::RaftSnapshot { index, term: 3, voters: voters.to_vec(), learners: learners.to_vec(), ..Default::default() };
            is_taken(internal::RaftMessage { snapshot: Some(snapshot), ..message(RaftMessageType::Snapshot, &[]) })
        };
        assert!(announced(10, &[1, 2], &[3]));
        assert!(!is_taken(message(RaftMessageType::Snapshot, &[])), "no snapshot");
        assert!(!announced(0, &[1, 2], &[3]), "no place");
        assert!(!announced(10, &[], &[3]), "no voters");
        assert!(!announced(10, &[1, 0], &[]), "a node without an id");
        assert!(!announced(10, &[1, 2], &[2]), "a node that is both");
    }
}
