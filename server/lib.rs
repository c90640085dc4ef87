//! DeviceDB: the map. What stands where, how the main things happen, and what must always hold.
//!
//! One library carries two binaries: `devicedb` (`server/main.rs`) is a node, `ddbctl` (`cli/main.rs`) speaks to nodes. The contract between processes is
//! `proto/`: `devicedb.v1` is public, `devicedb.internal.v1` is what nodes say to each other and what they log and store.
//!
//! # Words
//!
//! A *site* is one tenant's database. It hashes to one of P *partitions*; a run of P/G partitions is a Raft *group*; the *meta group* is one more, which
//! agrees on configuration. A *mark* is the log entry at which a group is captured; all groups' marks of one snapshot are its *cut*; a *part* is what one node
//! contributes to it. The *lineage* names the history that logs belong to and changes at every restore.
//!
//! # What stands where
//!
//! In reading order, which is the import order: a file imports only what stands above it, and `tests/tidy.rs` says which line breaks that. Within the
//! folder `snapshot` the first three files decide and stand high, the others read and write files and stand below `peer`.
//!
//! | layer | module | what it is for |
//! | --- | --- | --- |
//! | foundations | `limits` | every bound, in one place |
//! | | `error` | the one error; its kinds say what the caller does next |
//! | | `clock` | the only doors to time and chance |
//! | | `ids` | a type for every id; which partition and group a site lies in (`Topology`) |
//! | | `room` | a bound in bytes for what waits in a queue |
//! | | `cork` | connections that write once for everything that becomes ready together |
//! | | `disk` | the files below the log and the store, which a simulator can put its own in place of |
//! | | `planted`, `failpoint` | mistakes on purpose, for the simulator to find; places to die at on purpose, for tests to come back from |
//! | decide | `data` | keys, siblings, contexts, remembered requests; the machine that a data group's log drives (`Machine`) |
//! | | `cluster` | nodes, sites, relays, snapshots as the registry has them; the machine that the meta log drives (`State`); `placement`; `walk` |
//! | | `snapshot::{cut, chunk, manifest}` | the barrier and the fence; where chunks begin and end; what a part consists of |
//! | | `entry` | what a group logs, and what it remembers of itself (`Record`) |
//! | contract | `proto` | generated from `proto/` |
//! | | `wire` | domain types and their bytes: the only place that speaks both |
//! | do | `metrics` | what a node counts and measures |
//! | | `store` | rows on disk; the only importer of redb |
//! | | `log` | Raft logs on disk; the only importer of raft-engine |
//! | | `engine` | all Raft groups of a node, driven by one synchronous loop; the only one that steps raft-rs |
//! | | `driver` | the two OS threads that run the loop and the store, and the `Handle` by which tasks talk to them |
//! | | `peer` | streams between nodes, and who may speak to whom |
//! | parts | `snapshot::{shelf, archive, source, lanes, verify, set}` | finished parts on disk, as tars, as extracted directories; checking one, checking all |
//! | services | `kv` | reads and writes of sites |
//! | | `membership` | nodes, sites, relays, the registry of snapshots, as users see them |
//! | | `parts` | this node's parts: from the view at the cut to files on the shelf |
//! | | `restore` | where a store comes from: founded, joined, restored |
//! | doors | `rpc`, `http` | gRPC services, thin; metrics and health |
//! | | `porch` | what a node answers while it joins, restores or opens its store |
//! | | `node` | builds the above, wires it, starts it, stops it in reverse |
//! | client | `ctl` (`cli/`) | `ddbctl`, and the guide's `devicedb cluster ...` as a translation onto it |
//!
//! `tests/sim/` puts a simulated world around `engine`, `store` and `log`: its own `Host`, and a `Disk` that fails. `tests/fuzz/` is bytes from outside at every door.
//!
//! # A put
//!
//! 1. `rpc::KvDoor::put` parses the request (`wire::public::parse_put`): what comes out is valid. `Porter::call` keeps the caller's deadline, a little early.
//! 2. `kv::Kv::write` finds the group (`Topology::group_of_site`), gives the write a request id if it has none, and hands it to the engine's bounded queue
//!    (`driver::Handle::request`).
//! 3. `driver::run_engine` takes what waits and calls `Engine::round`. `Engine::route` puts the write into the queue of its group if this node leads it, or
//!    sends it as a `Forward` to the node that is believed to; `on_forward` queues it there. What gets no answer is sent again with the same id.
//! 4. `Group::propose_waiting` makes one entry of what waits, if the leader has applied an entry of its own term, the group is in the present lineage, no mark
//!    holds writes back (`cut::Fence::holds_writes`), and the overlay has room. The entry carries `seen`: the newest snapshot that the proposer knows to be
//!    released or resolved.
//! 5. `Engine::drive` sends a leader's messages, then writes the entries of all groups of the round with one fsync (`Log::write`). `after_write` sends
//!    what had to wait for the disk, as a follower's acknowledgement does.
//! 6. Once committed, `Engine::apply` decodes it. Behind a mark above its `seen` it is a no-op, and goes back into the queue (`cut::Fence::fenced`).
//!    Otherwise `data::Machine::apply` recalls the request or works the write out; its rows go into the group's `Overlay`, in memory.
//! 7. `Engine::finish` answers: to the task that waits, or as a `ForwardReply` to the node that asked.
//! 8. Later `Engine::start_checkpoint_if_due` seals the overlays, each with its group's `Record`, and the store thread (`driver::keep_store`) writes them to
//!    redb in one durable transaction. Then layers are dropped and logs are cut off behind (`compact_logs`). A restart replays what comes after.
//!
//! # A read
//!
//! 1. `rpc::KvDoor::get` and `kv::Kv::get` take the same way to `Engine::route`. A `stale` read is answered at once from whatever replica is here.
//! 2. The leader keeps the read in `Group::reads`. `ask_for_reads` begins a round of heartbeats for all that wait (ReadIndex), unless the lease covers them.
//! 3. `note_read_states` hears that a quorum has answered: that ripens the round and renews the lease, counted from when the round was sent.
//! 4. `answer_reads` answers under the lease when all that is committed is applied, or when the round's index is; the clock is asked again just before.
//!    `data::Query::answer` reads the overlay's layers, newest first, over the store's view (`overlay::Reader`).
//! 5. A scan is one such read a page (`rpc::KvDoor::scan`): a page is linearizable, the scan is not one instant.
//!
//! # A snapshot
//!
//! 1. `membership::Cluster::create_snapshot` proposes `BeginSnapshot` in the meta group; `cluster::State` gives it the next number x. One is open at a time.
//! 2. On the meta leader `Engine::advance_snapshots` makes a `cut::Barrier`, which asks every node for marks, again on every tick.
//! 3. `on_mark_request`: every leader appends `Mark(x)` to its groups. From then on their writes wait.
//! 4. Where the first `Mark(x)` is applied (`mark_applied`), every replica seals its overlay there and keeps later layers from the store
//!    (`Overlay::hold_after`); the leader reports the mark.
//! 5. When all groups have reported, the barrier sends `Release(x)` to all nodes and proposes `SealSnapshot`; after `limits::CUT_DEADLINE` it proposes
//!    `AbortSnapshot` instead. The first of the two in the meta log wins. Release, seal and abort raise `cut::Open`, and writes go on.
//! 6. When all replicas of a node stand at the mark, one checkpoint brings its store to the cut and opens a view of it (`capture_due`, `on_view`); then the later
//!    layers may be written. A replica that comes later than `limits::MARK_GRACE` is not in the part. A node that applies a mark while it replays its log
//!    after a restart takes no part at all.
//! 7. `parts::Parts::take` copies the view on a thread of its own: `chunk::Chunker` cuts, `shelf::PartWriter` keeps; a partition that has not changed since the
//!    node's newest part of this history is taken over unread. The view is let go of. Only when the snapshot is sealed the manifest is put in place.
//! 8. The part is reported (`ReportPart`). `cluster::snapshots::Snapshot::overall` calls the snapshot completed when it is sealed and every group, the meta group
//!    too, is in a completed part. Nodes that were not heard of at the seal are `missing` for good (`report_away`, `watch_nodes`).
//!
//! # A join
//!
//! 1. `node::prepare` finds an empty directory (`restore::look`) and asks the node named by `--join` until it is taken in (`node::join`). The new node's id
//!    is drawn once and kept in the file `node-id` meanwhile.
//! 2. There `rpc::PeerDoor::join` proposes `AnnounceNode`; `cluster::State` places all groups anew with as few moves as it finds (`placement::place`).
//! 3. The new node makes an empty store (`restore::join`) and starts. The others learn where it is (`Event::NodeChanged`) and open streams (`Peers::learn`).
//! 4. The leader of each group walks its members towards the wanted ones, one change at a time (`Engine::tend_members`,
//!    `walk::next_step`): add a learner, promote it when it has caught up, hand over leadership, remove who is too many. Nothing is remembered between steps.
//! 5. A replica without the entries it needs gets rows: `tend_offers` sends them as of the last checkpoint (`Peers::send_rows`), and raft-rs announces the Raft
//!    snapshot only once they have arrived. `install` replaces what the replica had, and `on_installed` lets its log begin behind them.
//!
//! # A restore
//!
//! 1. `restore::look` finds a manifest and no store. `restore::restore` checks every byte of the part (`verify::verify_part`); if anything is wrong the start
//!    ends there and has changed nothing.
//! 2. It makes a store under `restoring/`. Each group's log begins at its mark, with the members of the cut; marks and remembered requests are not carried
//!    over. `cluster::State::restored` makes the meta state one whose lineage is pending. A rename puts the store in place; a crash before that starts over.
//! 3. The node starts. While its lineage is pending only the meta group is alive (`Engine::is_active`), and `peer::judge` lets it speak to nodes restored from the
//!    same snapshot only.
//! 4. The first meta leader proposes `EstablishLineage` with a random nonce (`settle_lineage`); the lineage follows from snapshot and nonce. Every node makes
//!    it durable (`Engine::adopt`), leaders of data groups log it (`SetLineage`), and only then take writes: no dot of an earlier history is minted again.
//! 5. A node that starts late from a part of the same snapshot adopts the lineage that a hello of theirs names. Each node announces where it is now
//!    (`Cluster::announce_until_known`).
//!
//! # What must always hold
//!
//! - Nothing is answered OK before it is on disk on a majority of the group's voters and applied by the leader.
//! - A group's rows and its `Record` change in one transaction; rows leave memory only when a view that holds them is what readers see.
//! - If the log or the store fails, the node stops. It does not guess.
//! - The engine has no thread, socket, clock or chance of its own: inputs, a `Host` and a seed come from outside.
//! - What decides (`data`, `cluster`, `cut`, `chunk`, `manifest`, `entry`) reaches no file, socket, time or protobuf.
//! - `Open` is raised by a release and by an outcome in the meta log, never by time. A deadline can only abort.
//! - A part is there when its manifest is; a store is there when its rename is done. Half of either never looks like one.
//! - Wall-clock time is data: for `lww` and for people. Monotonic time serves deadlines, elections and leases; only leases need it to be right.

// -- foundations
pub mod limits;
pub mod error;
pub mod clock;
pub mod ids;
pub mod room;
pub mod cork;
pub mod disk;
pub mod planted;
pub mod failpoint;
// -- decide; `snapshot` also holds what stands below `peer`
pub mod data;
pub mod cluster;
pub mod snapshot;
pub mod entry;

// -- contract
pub mod proto;
pub mod wire;

// -- do
pub mod metrics;
pub mod store;
pub mod log;
pub mod engine;
pub mod driver;
pub mod peer;

// -- services
pub mod kv;
pub mod membership;
pub mod parts;
pub mod restore;

// -- doors
pub mod rpc;
pub mod http;
pub mod porch;
pub mod node;

// -- client
#[path = "../cli/lib.rs"]
pub mod ctl;

#[cfg(test)]
mod golden;
