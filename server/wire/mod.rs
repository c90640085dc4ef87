//! Domain types as protobuf messages and as stored bytes, and back.
//!
//! Requests, commands, rows, records and log entries are parsed here, once, so that the rest of the
//! program holds valid values only. Bytes that a node logs or stores are encoded and parsed nowhere
//! else. Messages that carry no domain type are taken apart where they are used: the engine and
//! `net` build and match the envelopes of peers' messages (`Forward`, `MarkRequest`, `Hello`), and
//! `rpc` and `service` fill in answers.
//!
//! - A stored message that cannot be parsed is `Corrupt`, and the error names the message.
//! - A request or a peer's message that cannot be parsed is `Invalid`. It is refused and never
//!   stops the node.

mod row;
mod operation;
mod access;
mod schedule;
mod meta;
mod command;
mod raft;
mod status;
pub mod public;

pub use self::access::{parse_role, parse_token_id, role_number};
pub use self::command::{
    command, command_bytes, decode_entry, encode_entry, parse_command, parse_query, parse_reply,
    query, reply,
};
pub use self::meta::{
    decode_meta, encode_meta_row, meta_command, meta_row_name, node_record, parse_meta_command,
    parse_node, parse_settings, settings_record,
};
pub use self::operation::{kind_number, progress_number};
pub use self::raft::{frames, parse_raft, peer_bytes, raft};
pub use self::row::{
    decode_identity, decode_record, decode_remembered, decode_row, encode_identity, encode_record,
    encode_remembered, encode_row,
};
pub use self::schedule::{
    Verifying, drill, parse_definition, parse_verifying, schedule, verification,
};
pub use self::status::{
    code_name, error_of, explained, not_permitted, other_cluster, slow_down, status_of,
};

use prost::Message;

use crate::base::error::{Error, Kind, Result};

/// Parses bytes that this program has written.
fn stored<M: Message + Default>(bytes: &[u8], what: &str) -> Result<M> {
    M::decode(bytes)
        .map_err(|e| Error::corrupt(format!("{what} cannot be read: {e}")).with_source(e))
}

/// What is invalid in a request is corrupt where it was stored.
fn as_corrupt(e: Error) -> Error {
    e.of_kind(Kind::Corrupt)
}

fn absent(what: &str) -> Error {
    Error::invalid(format!("{what} is absent; a newer version may have sent it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{self, State},
        data::Place,
        proto::internal::v1 as internal,
    };

    fn settings(replication_factor: u32, begun: u64) -> internal::SettingsRecord {
        let cluster_id = vec![7; 16].into();
        internal::SettingsRecord {
            cluster_id,
            replication_factor,
            partitions: 64,
            groups: 4,
            lineage: 5,
            begun,
            ..Default::default()
        }
    }

    fn state_of(settings: &internal::SettingsRecord) -> Result<State> {
        decode_meta([(&b"s"[..], &settings.encode_to_vec()[..])].into_iter())
    }

    #[test]
    fn what_is_damaged_on_disk_is_corrupt_and_no_mistake_of_whoever_asks() {
        let long = internal::Version {
            dot: Some(internal::Dot { lineage: 1, counter: 1 }),
            value: Some(vec![0; 2 << 20].into()),
            timestamp_ms: 0,
        };
        let row = internal::Row { versions: vec![long], clock: vec![] }.encode_to_vec().into();
        let at = Place::Key {
            bucket: crate::data::Bucket::Default,
            key: crate::data::Key::new("k").unwrap(),
        };
        let short = internal::RequestRow { request_id: vec![1].into(), ..Default::default() }
            .encode_to_vec();
        let kinds = [
            decode_identity(&[]).unwrap_err().kind,
            decode_remembered(&short).unwrap_err().kind,
            decode_row(&at, &row).unwrap_err().kind,
            state_of(&internal::SettingsRecord::default()).unwrap_err().kind,
        ];
        assert_eq!(kinds, [Kind::Corrupt; 4]);
    }

    #[test]
    fn settings_under_which_nothing_can_be_placed_or_numbered_are_refused() {
        for (replication_factor, begun) in [(0, 0), (8, 0), (3, u64::MAX)] {
            assert_eq!(
                parse_settings(settings(replication_factor, begun)).unwrap_err().kind,
                Kind::Invalid
            );
            assert_eq!(
                state_of(&settings(replication_factor, begun)).unwrap_err().kind,
                Kind::Corrupt
            );
        }
        assert!(parse_settings(settings(3, 9)).is_ok());
    }

    #[test]
    fn a_row_of_the_configuration_lies_under_its_own_name() {
        let relay = internal::RelayRecord { id: "r1".into(), site: String::new() }.encode_to_vec();
        let node = internal::NodeRecord { id: 1, address: "a:1".into(), ..Default::default() };
        let settings = settings(1, 0);
        let state =
            State::found(parse_settings(settings).unwrap(), parse_node(node).unwrap()).unwrap();
        let groups = state.assignments().keys().map(|group| cluster::Changed::Assignment(*group));
        let rows = groups.chain([
            cluster::Changed::Settings,
            cluster::Changed::Node(crate::base::ids::NodeId(1)),
        ]);
        let rows: Vec<_> = rows
            .map(|row| (meta_row_name(&row), encode_meta_row(&state, &row).unwrap().to_vec()))
            .collect();
        let with = |name: &'static [u8]| {
            let rows = rows.iter().map(|(name, row)| (name.as_slice(), row.as_slice()));
            decode_meta(rows.chain([(name, relay.as_slice())]))
                .map(|state| state.sites().relays().len())
                .map_err(|e| e.message)
        };
        assert_eq!(with(b"rr1"), Ok(1));
        assert!(with(b"rr2").unwrap_err().contains("\"rr2\" which is that of Relay"));
    }

    #[test]
    fn an_answer_that_cannot_be_read_may_have_been_a_yes() {
        let empty = internal::Found { key: None };
        for answer in [None, Some(internal::reply::Answer::Found(empty))] {
            assert_eq!(parse_reply(internal::Reply { answer }).unwrap_err().kind, Kind::Unknown);
        }
    }
}
