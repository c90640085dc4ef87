//! What a cluster may be, and what it remembers.

use std::time::Duration;

/// Partitions that a cluster has at least. Founding with fewer is refused.
pub const PARTITIONS_MIN: u32 = 64;
/// Partitions that a cluster has at most. Founding with more is refused.
pub const PARTITIONS_MAX: u32 = 65_536;
/// Replicas of each data group. Founding with more is refused.
pub const REPLICATION_FACTOR_MAX: u32 = 7;
/// Voters of the meta group; all other nodes are its learners.
pub const META_VOTERS_MAX: usize = 7;
/// Nodes of one cluster. A further node that asks to join is refused.
pub const NODES_MAX: usize = 1024;
/// A node's capacity in percent, which weighs its share of the groups against the other nodes'. A
/// node that announces more is refused.
pub const CAPACITY_PERCENT_MAX: u32 = 10_000;
/// The capacity of a node of which nobody has said anything else.
pub const CAPACITY_PERCENT_USUAL: u32 = 100;
/// Bytes of the product version that a node announces.
pub const VERSION_BYTES_MAX: usize = 64;
/// Relays of one site, since removing the site takes all of them from it in one step of the meta
/// group. A further relay is refused.
pub const SITE_RELAYS_MAX: usize = 16_384;
/// Bytes of a node's `host:port`: a DNS name of 255 and a port of 5.
pub const ADDRESS_BYTES_MAX: usize = 261;

/// Requests whose outcome a data group remembers, so that a retry is answered and not repeated. A
/// retry that comes after this many later requests of the group is applied as a new request.
pub const REQUESTS_REMEMBERED: u64 = 4096;
/// Snapshots that the cluster keeps a record of. At this number `create` is refused until one is
/// deleted; where creates have raced past that check, the meta group forgets its oldest record.
pub const SNAPSHOTS_REMEMBERED: usize = 1000;
/// Snapshots from which on `create` warns its caller that the cluster will soon take no more.
pub const SNAPSHOTS_WARNED: usize = 900;
/// Deleted snapshots whose uuid the cluster remembers and refuses for a new snapshot.
pub const SNAPSHOTS_DELETED_REMEMBERED: usize = 256;

/// Operations that the cluster remembers, those that run included: enough for an operator to look
/// back, and few enough for one answer. The one that ended first is forgotten for a new one.
pub const OPERATIONS_REMEMBERED: usize = 256;
/// Objections that an operation was forced over and remembers: there are no more kinds of them.
pub const OPERATION_TEXTS_MAX: usize = 8;
/// Bytes of each of them; longer ones are cut.
pub const OPERATION_TEXT_BYTES_MAX: usize = 1024;

/// Bytes of a pattern for identities or sites: a SPIFFE ID is at most 2048, and those in use are
/// far shorter.
pub const PATTERN_BYTES_MAX: usize = 512;
/// Grants that a cluster keeps: every node compares each new identity with all of them.
pub const GRANTS_MAX: usize = 4096;
/// Tokens that a cluster keeps, expired ones included.
pub const TOKENS_MAX: usize = 4096;
/// Bytes of a token's name.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Bytes of a token's secret that a caller may bring: what is longer is none that was made here.
pub const TOKEN_SECRET_BYTES_MAX: usize = 128;
/// For how long a token may be valid: a leap year, so that nobody has to renew it twice a year.
pub const TOKEN_VALID_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// And how long at least: what is shorter is gone before it is used.
pub const TOKEN_VALID_MIN: Duration = Duration::from_secs(1);
/// Identities whose roles a node remembers. Beyond it, it works them out again.
pub const IDENTITIES_REMEMBERED: usize = 4096;

/// Generations of sites that a recovered cluster skips: more than the lost nodes can have drawn
/// behind the newest one that a survivor knows. Beyond it, a site that was removed or added in the
/// lost history could be taken for a later life of itself.
pub const RECOVERY_GENERATIONS: u64 = 1 << 32;

const _: () = assert!(PARTITIONS_MIN <= PARTITIONS_MAX);
const _: () = assert!(META_VOTERS_MAX % 2 == 1, "an even voter more spares no failure");
const _: () = assert!(ADDRESS_BYTES_MAX == 255 + ":65535".len());
const _: () = assert!(SNAPSHOTS_WARNED < SNAPSHOTS_REMEMBERED, "the warning comes first");
