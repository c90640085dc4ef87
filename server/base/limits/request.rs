//! What a client's request may hold. A request that holds more is refused, with an error that names
//! the bound.

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Concurrent values of one key. A write that would add another is refused with CONFLICT until a
/// write with the key's context settles them.
pub const SIBLINGS_MAX: usize = 64;
/// Bytes of all concurrent values of one key, so that one message can answer a read of any key. A
/// write that would exceed them is refused as one beyond `SIBLINGS_MAX` is.
pub const SIBLINGS_BYTES_MAX: usize = 4 << 20;
/// Histories (lineages) that the version vector of a key or a context remembers. Each restore adds
/// one. Beyond this number the oldest that no value of the key needs are forgotten, which can turn
/// values that were seen into siblings, and nothing else.
pub const LINEAGES_MAX: usize = 64;
/// Puts and deletes in one batch.
pub const BATCH_STEPS_MAX: usize = 4096;
/// Bytes of all keys and values in one batch; contexts count towards `MESSAGE_BYTES_MAX` only.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Bytes of the id of a site or a relay, and of a product's name in a manifest.
pub const ID_BYTES_MAX: usize = 255;
/// Bytes of an encoded context that a client hands back.
pub const CONTEXT_BYTES_MAX: usize = 4096;
/// Items on one page of a list (nodes, sites, snapshots and so on); a request for more gets this
/// many.
pub const PAGE_SIZE_MAX: u32 = 1000;
/// Items on one page of nodes, partitions, sites or relays when the request names no size.
pub const PAGE_SIZE: u32 = 1000;
/// Items on one page of snapshots or orphans when the request names no size.
pub const SNAPSHOTS_PAGE_SIZE: u32 = 100;
/// Rows that one page of a scan visits, deleted ones included; the page ends there.
pub const PAGE_ROWS_MAX: u32 = 2048;
/// Bytes of keys and values that one page of a scan returns; a larger row makes a page alone.
pub const PAGE_BYTES_MAX: usize = 128 << 10;
/// Bytes of rows that the server reads for one page of a scan, rows that the page leaves out
/// included; the page ends there.
pub const PAGE_VISIT_BYTES_MAX: usize = 16 << 20;
/// Bytes of a gRPC message that a client sends or receives; a larger one fails the call.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// What protobuf writes around one value or step, with room to spare.
pub(super) const FRAMING_BYTES: usize = 64;

const _: () = assert!(SIBLINGS_BYTES_MAX >= VALUE_BYTES_MAX, "one largest value is no conflict");
const _: () = assert!(BATCH_BYTES_MAX >= KEY_BYTES_MAX + VALUE_BYTES_MAX, "any put fits a batch");
const _: () = assert!(
    MESSAGE_BYTES_MAX > BATCH_BYTES_MAX + BATCH_STEPS_MAX * FRAMING_BYTES,
    "a message holds the largest batch"
);
const _: () = assert!(
    MESSAGE_BYTES_MAX
        > KEY_BYTES_MAX + CONTEXT_BYTES_MAX + SIBLINGS_BYTES_MAX + SIBLINGS_MAX * FRAMING_BYTES,
    "a message holds the answer to a read of any key"
);
const _: () = assert!(
    MESSAGE_BYTES_MAX > PAGE_BYTES_MAX + PAGE_ROWS_MAX as usize * FRAMING_BYTES,
    "a message holds any page of a scan"
);
const _: () = assert!(PAGE_VISIT_BYTES_MAX > KEY_BYTES_MAX + SIBLINGS_BYTES_MAX);
const _: () = assert!(PAGE_SIZE <= PAGE_SIZE_MAX && SNAPSHOTS_PAGE_SIZE <= PAGE_SIZE_MAX);
