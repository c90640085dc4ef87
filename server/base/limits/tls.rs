//! TLS: handshakes, files of certificates, and how long a connection is believed.

use std::time::Duration;

use super::{FIRST_REQUEST, PEER_CONNECT};

/// Time within which a connection to a node with certificates has to send its first byte and finish
/// its handshake, or is closed.
pub const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes that are under way at once. With one more, the one that has taken longest is closed:
/// an honest one takes milliseconds.
pub const HANDSHAKES_MAX: usize = 512;
/// How often a node looks whether its files of certificates have changed.
pub const CERTIFICATES_LOOK: Duration = Duration::from_secs(5);
/// Bytes of one file of certificates, keys or revocations; a larger one is refused.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the name in a certificate, as SPIFFE bounds its own; with a longer one it is nobody's.
pub const CERTIFICATE_NAME_BYTES_MAX: usize = 2048;
/// Bytes of a first TLS record that a node without certificates reads before it says that it has
/// none: a closed connection with unread bytes would take the answer with it.
pub const HELLO_BYTES: usize = 16 << 10;
/// Age at which a node with certificates asks the clients of a connection to open another one, so
/// that a new certificate and a revocation come to count.
pub const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Time by which that age differs at most from node to node, so that not all ask at once.
pub const CONNECTION_AGE_JITTER: Duration = Duration::from_secs(5 * 60);

const _: () = assert!(HANDSHAKE.as_millis() < FIRST_REQUEST.as_millis());
const _: () = assert!(PEER_CONNECT.as_millis() < HANDSHAKE.as_millis(), "nodes give up earlier");
const _: () = assert!(CONNECTION_AGE_JITTER.as_millis() < CONNECTION_AGE.as_millis());
