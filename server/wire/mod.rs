//! Domain types and their bytes: the only place that speaks both.
//!
//! What is logged and stored is encoded here, and parsed again when it is read, so that the rest of the program holds only what is valid. Errors while
//! parsing stored bytes are `Corrupt` and name the message; errors while parsing a peer's are `Invalid` and refuse the peer, never stop the node.

mod row;
mod meta;
mod command;
mod raft;
mod status;
pub mod public;

pub use self::command::{command, command_bytes, decode_entry, encode_entry, parse_command, parse_query, parse_reply, query, reply};
pub use self::meta::{decode_meta, encode_meta_row, meta_command, meta_row_name, node_record, parse_meta_command, parse_node, parse_settings, settings_record};
pub use self::raft::{parse_raft, raft};
pub use self::row::{decode_identity, decode_record, decode_remembered, decode_row, encode_identity, encode_record, encode_remembered, encode_row};
pub use self::status::{code_name, error_of, status_of};

use prost::Message;

use crate::error::{Error, Kind, Result};

/// Parses bytes that this program has written.
fn stored<M: Message + Default>(bytes: &[u8], what: &str) -> Result<M> {
    M::decode(bytes).map_err(|e| Error::corrupt(format!("{what} cannot be read: {e}")))
}

/// What is invalid in a request is corrupt where it was stored.
fn as_corrupt(e: Error) -> Error {
    Error { kind: Kind::Corrupt, ..e }
}

fn absent(what: &str) -> Error {
    Error::invalid(format!("{what} is absent; a newer version may have sent it"))
}
