//! DeviceDB: the map. What stands where, how the main things happen, and what must always hold.
//!
//! One library carries two binaries. `devicedb` (`server/main.rs`) is a node; `ddbctl`
//! (`cli/main.rs`) talks to nodes. The contract between processes is `proto/`: clients use
//! `devicedb.v1`; nodes use `devicedb.internal.v1` for their own messages, logs and stores.
//!
//! # Words
//!
//! A *site* is one tenant's database. Its id hashes to one of P *partitions*. A run of P/G
//! partitions is a Raft *group*; one more group, the *meta group*, agrees on the configuration. A
//! *mark* is the log entry at which a snapshot captures a group; the marks of all groups are the
//! snapshot's *cut*. A *part* is what one node contributes to a snapshot. The *lineage* names the
//! history that the logs belong to; every restore begins a new one. `docs/glossary.md` has the
//! other words.
//!
//! # What stands where
//!
//! The table follows the reading order, which is the import order: a file imports only what stands
//! above it. `tests/tidy/` names any line that breaks this.
//!
//! | module | what stands there |
//! | --- | --- |
//! | [`base`] | bounds ([`limits`]), the one [`error`], time and chance ([`clock`]), ids, files |
//! | [`faults`] | crash points and deliberate mistakes, for tests only |
//! | [`data`] | keys, siblings, contexts, remembered requests; a data group's state machine |
//! | [`cluster`] | nodes, sites, relays, snapshots; the meta group's state machine; placement |
//! | [`cut`] | the barrier and the fence of a snapshot; `docs/cut.md` has their rules |
//! | [`part`] | the format of a part: chunks, manifest, tar, shelf; checking one part or a set |
//! | [`repository`] | backups outside the cluster, open or sealed: each row once for all replicas |
//! | [`entry`] | what a group logs, and what it stores about itself ([`Record`]) |
//! | [`proto`] | the contract, generated from `proto/` |
//! | [`wire`] | domain types as messages and as stored bytes |
//! | [`store`] | rows on disk; the only importer of redb |
//! | [`log`] | Raft logs on disk; the only importer of raft-engine |
//! | [`engine`] | all Raft groups of a node in one loop, and the threads that drive it |
//! | [`net`] | TLS, incoming connections, streams between nodes, where the other nodes are |
//! | [`service`] | what a node does for its callers: sites, registry, parts, snapshots |
//! | [`rpc`] | gRPC services and HTTP pages, thin |
//! | [`boot`] | how a start gets its store: it resumes, restores, founds, or waits and joins |
//! | [`signals`] | how a node reacts to signals |
//! | [`node`] | builds, wires and starts all of the above, and stops it in reverse |
//! | [`ctl`] | `ddbctl` (`cli/`), and the guide's `devicedb cluster ...` on top of it |
//!
//! `tests/sim/` simulates a cluster around [`engine`], [`store`] and [`log`], with its own [`Host`]
//! and a [`Disk`] that fails. `tests/fuzz/` feeds bytes from outside to every parser.
//! `docs/formats.md` describes the bytes on disk.
//!
//! # A put
//!
//! 1. [`Threshold`] refuses callers that may not call, as `rpc::callers` has it, or are over their
//!    limits (`rpc::quotas`), and [`Gate`] a call that is meant for another cluster.
//!    [`KvApi::put`] parses it ([`wire::public::parse_put`]) into a valid write. [`Calls::call`]
//!    ends the call a little before the caller's deadline, so that the answer can say why.
//! 2. [`kv::Kv::write`] finds the group ([`Topology::group_of_site`]), draws a request id if the
//!    write has none, and puts it into the engine's bounded queue ([`driver::Handle::request`]).
//! 3. `driver::run_engine` takes what is queued and calls [`Engine::round`], where messages of
//!    other nodes pass [`engine::admission`]. [`Engine::route`] takes the write where
//!    [`Requests::next_hop`] says: into the group's queue if this node leads the group, or with a
//!    `Forward` to the node that it believes leads, where [`on_forward`] queues it. An unanswered
//!    request is sent again with the same id.
//! 4. [`Group::propose_waiting`] makes one entry of the queued writes, provided that the leader has
//!    applied an entry of its own term, the group is in the present lineage, no mark holds writes
//!    back ([`Fence::holds_writes`]), and the overlay has room. The entry carries `seen`: the
//!    newest snapshot that the proposer knows to be released or resolved.
//! 5. [`Engine::drive`] sends the leader's messages, then writes the entries of all groups in the
//!    round with one fsync ([`Log::write`]). After that [`after_write`] sends the messages that had
//!    to wait for the disk, such as a follower's acknowledgement.
//! 6. [`Engine::apply`] decodes the committed entry. Behind a mark above its `seen` the entry does
//!    nothing, and its writes go back into the queue ([`Fence::fenced`]). Otherwise
//!    [`data::Machine::apply`] finds the request among the remembered ones or works the write out.
//!    Its rows go into the group's [`Overlay`], in memory.
//! 7. [`Engine::finish`] answers the waiting task, or sends a `ForwardReply` to the node that
//!    forwarded the write.
//! 8. Later [`Engine::start_checkpoint_if_due`] seals the overlays, each with its group's
//!    [`Record`]. The store thread (`driver::keep_store`) writes them to redb in one durable
//!    transaction. Then the engine drops the layers from memory and cuts the logs off behind them
//!    ([`compact_logs`]). A restart replays the entries that follow.
//!
//! # A read
//!
//! 1. [`KvApi::get`] and [`kv::Kv::get`] lead to [`Engine::route`] in the same way. A `stale` read
//!    is answered at once from the local replica, if this node holds the group as far as it knows
//!    ([`Engine::holds`]).
//! 2. The leader keeps the read in [`Group::reads`]. Unless the lease covers it, [`ask_for_reads`]
//!    begins one round of heartbeats for all reads that wait (ReadIndex).
//! 3. When a quorum has answered, [`Reads::answered`] marks the round as ripe and renews the lease,
//!    counted from the moment at which the round was sent.
//! 4. [`answer_reads`] checks the clock again. It answers under the lease once everything committed
//!    is applied, or without it once the round's index is applied ([`Reads::take_ripe`]).
//!    [`data::Query::answer`] reads the overlay's layers, newest first, and then the store's view
//!    ([`overlay::Reader`]).
//! 5. A scan is one such read for each page ([`KvApi::scan`]): a page is linearizable, the whole
//!    scan is not one instant. The server makes the next page when the connection has room for it
//!    ([`rpc::pulled`]) and clients have taken enough of what waits ([`readers::Readers`]).
//!
//! # A snapshot
//!
//! 1. [`admin::Cluster::create_snapshot`] proposes `BeginSnapshot` in the meta group.
//!    [`cluster::State`] gives the snapshot the next number, `seq`. Only one snapshot is open at a
//!    time.
//! 2. On the meta leader [`Engine::advance_snapshots`] makes a [`Barrier`], which asks every node
//!    for marks and repeats the question on every tick.
//! 3. In [`on_mark_request`] a leader appends `Mark(seq)` to each of its groups. From then on the
//!    writes of these groups wait.
//! 4. When a replica applies the first `Mark(seq)` ([`mark_applied`]), it seals its overlay there
//!    and freezes its rows: the sealed layers and the store's view under them
//!    ([`Overlay::freeze`]). The leader also reports the mark.
//! 5. When all groups have reported, the barrier sends `Release(seq)` to all nodes and proposes
//!    `SealSnapshot`. After [`limits::CUT_DEADLINE`] it proposes `AbortSnapshot` instead. The
//!    outcome that comes first in the meta log wins. Release, seal and abort all raise [`Open`],
//!    and writes go on.
//! 6. When all replicas of a node stand at their marks ([`Captures::due`]), what they have frozen
//!    is handed over to be copied ([`hand_over_captures`]). No checkpoint is waited for, and none
//!    waits. If a replica has not come [`limits::MARK_GRACE`] after the node's first mark, the node
//!    goes without it as soon as the snapshot is sealed. A node that applies a mark while it
//!    replays its log after a restart contributes no part.
//! 7. [`parts::Parts::take`] copies the rows on a thread of its own. [`chunk::Chunker`] cuts them
//!    into chunks, sealed for recipients if there are any ([`kept::seal`]), and
//!    [`shelf::PartWriter`] stores them. A partition that has not changed since the node's newest
//!    part of this history and this seal is taken over unread. When the rows of a group are copied,
//!    its layers and its view are dropped. The manifest is put in place once the snapshot is
//!    sealed.
//! 8. The node reports its part (`ReportPart`). [`cluster::snapshots::Snapshot::overall`] calls the
//!    snapshot completed when it is sealed and every group, including the meta group, is in a
//!    completed part. The parts of nodes that were silent at the seal are `missing` for good
//!    ([`report_away`], [`watch_nodes`]).
//!
//! # A join
//!
//! 1. [`Arrival::prepare`] finds an empty directory ([`restore::look`]) and asks the nodes named by
//!    `--join` until one of them takes it in ([`waiting::Waiting::end`]). The new node draws its id
//!    once and keeps it in the file `node-id`; meanwhile [`boot::starting`] tells callers the id.
//! 2. The node that was asked calls the announced address back ([`PeerApi::join`]); the process
//!    that answers must be the one that asked ([`Cluster::take_in`]). Then it proposes
//!    `JoinNode`, and [`cluster::State`] places all groups again with as few moves as it finds, on
//!    the nodes that live ([`placement::living`], [`placement::place`]).
//! 3. The new node makes an empty store ([`restore::join`]) and starts. The other nodes learn its
//!    address ([`Event::NodeChanged`]) and open streams to it ([`Peers::listed`]).
//! 4. The leader of each group changes its members into the wanted ones, one change at a time
//!    ([`Engine::tick_members`], [`reconfigure::next_step`]): it adds a learner, promotes it when
//!    it has caught up, hands over leadership, and removes a member that is not wanted. It
//!    remembers nothing between two steps.
//! 5. A replica that lacks entries which the log no longer has gets rows. [`tick_offers`] sends
//!    them as of the last checkpoint ([`Peers::send_rows`]), and raft-rs announces the Raft
//!    snapshot only after they have arrived. [`install`] replaces the replica's rows, and
//!    [`on_installed`] lets its log begin behind them.
//!
//! # A founding
//!
//! 1. With `--found` [`Arrival::prepare`] founds at once, if it finds no trace of an earlier
//!    cluster ([`part::traces`]).
//! 2. Without it, nodes with the same `--join` wait. `ddbctl cluster init` reaches one of them, and
//!    that one asks all the others who they are ([`Waiting::init`]). If one of them belongs to a
//!    cluster, that cluster takes the others in, as above.
//! 3. Otherwise one node asks all others for a durable promise to leave the founding to it
//!    ([`Waiting::found`]). With all promises it makes the store ([`restore::found`]) and starts to
//!    serve, and the others join.
//!
//! # A restore
//!
//! 1. [`restore::look`] finds a manifest and no store. [`restore::restore`] tries out the renames
//!    that it will need, compares the size of the store with the free space, and checks every byte
//!    of the part ([`verify::verify_part`]), which it opens with an identity file where it is
//!    sealed ([`Source::unseal`]). If anything is wrong, the start ends here and has changed
//!    nothing.
//! 2. It makes a store under `restoring/`. Each group's log begins at its mark, with the members
//!    that it had there; marks and remembered requests are left behind.
//!    [`cluster::State::restored`] turns the meta state into one whose lineage is pending. A rename
//!    puts the store in place. A failure before the rename is undone; after a crash before it, the
//!    next start begins again.
//! 3. The node starts. While its lineage is pending, only the meta group is active
//!    ([`Engine::is_active`]), and [`net::judge`] lets the node talk only to nodes that were
//!    restored from the same snapshot.
//! 4. The first meta leader proposes `EstablishLineage` with a random nonce ([`settle_lineage`]).
//!    Snapshot and nonce determine the lineage. Every node makes it durable ([`Engine::adopt`]),
//!    and the leaders of data groups log it (`SetLineage`) before they take writes. So no dot of an
//!    earlier history is minted again.
//! 5. A node that starts later from a part of the same snapshot adopts the lineage that the hello
//!    of another such node names. Each node announces its present address
//!    ([`Cluster::announce_until_known`]).
//! 6. If no node is at the address that the part names, nodes find each other
//!    ([`net::Whereabouts`]). Each asks at the addresses of its `--join` ([`Peers::meet`]), and
//!    streams pass on which nodes talk to their sender ([`Peers::heard`], [`Peers::told`]). So a
//!    node that reaches one other soon reaches all.
//! 7. Parts of fewer nodes than most that cover every partition become one store
//!    ([`offline::plan`]): [`ways::sole_survivor`] says which node goes on and from which part each
//!    group comes, every group has that node as its only voter, and the others are lost as in a
//!    recovery. Empty nodes join it.
//!
//! # A new cluster from a repository
//!
//! 1. With `--restore-from` [`Arrival::prepare`] founds as with `--found`, unless a node of
//!    `--join` belongs to a cluster. [`points::find`] says which snapshot is meant.
//! 2. [`Contents::open`] reads the snapshot's indexes and holds them against its root.
//!    [`cluster::State::seeded`] turns the meta state into that of a new cluster of one node, with
//!    an id and a lineage that were just drawn.
//! 3. [`seed::seed`] loads the rows into a store under `restoring/`, each chunk checked on its way.
//!    Every group's log begins where all logs do, with this node as its only voter. A rename puts
//!    the store in place. Empty nodes join, as in a join.
//! 4. With `--expect-nodes` several nodes begin. The one that founds waits until all have asked it
//!    to join ([`Gathering::attend`]), and draws up the plan, which each node keeps
//!    ([`Plan::keep`]). Each makes the store of its own share ([`seed::seed_planned`]), and checks
//!    that its meta group begins as the founder's does ([`Plan::state`]). Every group begins with
//!    all its members as voters.
//!
//! # A recovery
//!
//! 1. Most nodes are lost for good. [`recover::inspect`] reads a store that is left and reports, of
//!    each group, how far the log reaches ([`survey::survey`]); the meta group's log is replayed.
//! 2. [`recover::choose`] takes all reports and keeps of each group the copy whose log reaches
//!    furthest. [`cluster::State::recovered`] turns the meta state into that of the nodes that are
//!    left, with a pending lineage.
//! 3. [`recover::apply`] makes of each store what the plan says, in one transaction, and changes
//!    the logs after it. A kept data group has its node as the only voter.
//! 4. The nodes start as after a restore: they agree on a lineage, and the lost nodes, of another
//!    one, are refused. Each group's leader commits the whole log that it kept, and members join it
//!    as in a join.
//!
//! # What must always hold
//!
//! - Nothing is answered OK before it is on disk on a majority of the group's voters and applied by
//!   the leader.
//! - A group's rows and its [`Record`] change in one transaction. Rows leave memory only when
//!   readers see a view that holds them.
//! - If the log or the store fails, the node stops. It does not guess.
//! - A node believes another only within the bounds of [`engine::admission`]. Every entry that is
//!   proposed can be applied. An entry that no version can apply is passed over by every replica
//!   alike; an entry that only a newer version can apply ends the node ([`engine::apply`]).
//! - The engine has no thread, socket, clock or randomness of its own: it gets inputs, a [`Host`]
//!   and a seed.
//! - The code that decides ([`data`], [`cluster`], [`cut`], [`chunk`], [`manifest`], [`entry`])
//!   uses no file, socket, time or protobuf.
//! - Only a release and an outcome in the meta log raise [`Open`]; time never does. A deadline can
//!   only abort.
//! - A part exists when its manifest does, and a store when its rename is done. Half of either
//!   never looks like one.
//! - Wall-clock time is data, for `lww` and for people. Monotonic time drives deadlines, elections
//!   and leases; only leases need it to be right.
//!
//! [`Arrival::prepare`]: boot::arrival::Arrival::prepare
//! [`Barrier`]: cut::Barrier
//! [`Calls::call`]: rpc::Calls::call
//! [`Captures::due`]: engine::captures::Captures::due
//! [`Cluster::announce_until_known`]: service::admin::Cluster::announce_until_known
//! [`Cluster::take_in`]: service::admin::Cluster::take_in
//! [`Contents::open`]: repository::contents::Contents::open
//! [`Disk`]: base::disk::Disk
//! [`Engine::adopt`]: engine::Engine::adopt
//! [`Engine::advance_snapshots`]: engine::Engine::advance_snapshots
//! [`Engine::apply`]: engine::Engine::apply
//! [`Engine::drive`]: engine::Engine::drive
//! [`Engine::finish`]: engine::Engine::finish
//! [`Engine::holds`]: engine::Engine::holds
//! [`Engine::is_active`]: engine::Engine::is_active
//! [`Engine::round`]: engine::Engine::round
//! [`Engine::route`]: engine::Engine::route
//! [`Engine::tick_members`]: engine::Engine::tick_members
//! [`tick_offers`]: engine::Engine::tick_offers
//! [`Engine::start_checkpoint_if_due`]: engine::Engine::start_checkpoint_if_due
//! [`Event::NodeChanged`]: cluster::Event::NodeChanged
//! [`Fence::fenced`]: cut::Fence::fenced
//! [`Fence::holds_writes`]: cut::Fence::holds_writes
//! [`Gate`]: rpc::Gate
//! [`Gathering::attend`]: boot::gathering::Gathering::attend
//! [`Source::unseal`]: part::source::Source::unseal
//! [`Threshold`]: rpc::Threshold
//! [`Group::propose_waiting`]: engine::group::Group::propose_waiting
//! [`Group::reads`]: engine::group::Group::reads
//! [`Host`]: engine::Host
//! [`KvApi::get`]: rpc::KvApi
//! [`KvApi::put`]: rpc::KvApi
//! [`KvApi::scan`]: rpc::KvApi
//! [`Log::write`]: log::Log::write
//! [`Open`]: cut::Open
//! [`Overlay`]: engine::overlay::Overlay
//! [`Overlay::freeze`]: engine::overlay::Overlay::freeze
//! [`PeerApi::join`]: rpc::PeerApi
//! [`Peers::heard`]: net::Peers::heard
//! [`Peers::listed`]: net::Peers::listed
//! [`Peers::meet`]: net::Peers::meet
//! [`Peers::send_rows`]: net::Peers::send_rows
//! [`Peers::told`]: net::Peers::told
//! [`Plan::keep`]: boot::restore::plan::Plan::keep
//! [`Plan::state`]: boot::restore::plan::Plan::state
//! [`Reads::answered`]: engine::read_index::Reads::answered
//! [`Reads::take_ripe`]: engine::read_index::Reads::take_ripe
//! [`Record`]: entry::Record
//! [`Requests::next_hop`]: engine::requests::Requests::next_hop
//! [`Topology::group_of_site`]: base::ids::Topology::group_of_site
//! [`Waiting::found`]: boot::waiting::Waiting::found
//! [`Waiting::init`]: boot::waiting::Waiting::init
//! [`admin::Cluster::create_snapshot`]: service::admin::Cluster::create_snapshot
//! [`after_write`]: engine::Engine::after_write
//! [`answer_reads`]: engine::Engine::answer_reads
//! [`ask_for_reads`]: engine::Engine::ask_for_reads
//! [`base`]: base
//! [`boot`]: boot
//! [`boot::starting`]: boot::starting
//! [`chunk`]: part::chunk
//! [`chunk::Chunker`]: part::chunk::Chunker
//! [`clock`]: base::clock
//! [`cluster`]: cluster
//! [`cluster::State`]: cluster::State
//! [`cluster::State::recovered`]: cluster::State::recovered
//! [`cluster::State::restored`]: cluster::State::restored
//! [`cluster::State::seeded`]: cluster::State::seeded
//! [`cluster::snapshots::Snapshot::overall`]: cluster::snapshots::Snapshot::overall
//! [`compact_logs`]: engine::Engine::compact_logs
//! [`ctl`]: ctl
//! [`cut`]: cut
//! [`data`]: data
//! [`data::Machine::apply`]: data::Machine::apply
//! [`data::Query::answer`]: data::Query::answer
//! [`driver::Handle::request`]: engine::driver::Handle::request
//! [`engine`]: engine
//! [`engine::admission`]: engine::admission
//! [`engine::apply`]: engine::apply
//! [`entry`]: entry
//! [`error`]: base::error
//! [`faults`]: faults
//! [`hand_over_captures`]: engine::Engine::hand_over_captures
//! [`install`]: engine::Engine::install
//! [`kept::seal`]: part::seal::kept::seal
//! [`kv::Kv::get`]: service::kv::Kv::get
//! [`kv::Kv::write`]: service::kv::Kv::write
//! [`limits`]: base::limits
//! [`limits::CUT_DEADLINE`]: base::limits::CUT_DEADLINE
//! [`limits::MARK_GRACE`]: base::limits::MARK_GRACE
//! [`log`]: log
//! [`manifest`]: part::manifest
//! [`mark_applied`]: engine::Engine::mark_applied
//! [`net`]: net
//! [`net::Whereabouts`]: net::Whereabouts
//! [`net::judge`]: net::judge
//! [`node`]: node
//! [`offline::plan`]: boot::restore::offline::plan
//! [`on_forward`]: engine::Engine::on_forward
//! [`on_installed`]: engine::Engine::on_installed
//! [`on_mark_request`]: engine::Engine::on_mark_request
//! [`overlay::Reader`]: engine::overlay::Reader
//! [`part`]: part
//! [`part::traces`]: part::traces
//! [`parts::Parts::take`]: service::parts::Parts::take
//! [`placement::living`]: cluster::placement::living
//! [`placement::place`]: cluster::placement::place
//! [`points::find`]: repository::points::find
//! [`proto`]: proto
//! [`readers::Readers`]: service::readers::Readers
//! [`reconfigure::next_step`]: cluster::reconfigure::next_step
//! [`recover::apply`]: boot::recover::apply
//! [`recover::choose`]: boot::recover::choose
//! [`recover::inspect`]: boot::recover::inspect
//! [`report_away`]: engine::Engine::report_away
//! [`restore::found`]: boot::restore::found
//! [`restore::join`]: boot::restore::join
//! [`restore::look`]: boot::restore::look
//! [`restore::restore`]: boot::restore::restore
//! [`rpc`]: rpc
//! [`rpc::pulled`]: rpc::pulled
//! [`seed::seed`]: boot::restore::seed::seed
//! [`seed::seed_planned`]: boot::restore::seed::seed_planned
//! [`service`]: service
//! [`settle_lineage`]: engine::Engine::settle_lineage
//! [`shelf::PartWriter`]: part::shelf::PartWriter
//! [`signals`]: signals
//! [`store`]: store
//! [`survey::survey`]: engine::survey::survey
//! [`verify::verify_part`]: part::verify::verify_part
//! [`waiting::Waiting::end`]: boot::waiting::Waiting::end
//! [`watch_nodes`]: engine::Engine::watch_nodes
//! [`ways::sole_survivor`]: part::ways::sole_survivor
//! [`wire`]: wire
//! [`wire::public::parse_put`]: wire::public::parse_put

// The map names private items too: `cargo doc --document-private-items` builds all of it.
#![allow(rustdoc::private_intra_doc_links)]

pub mod base;
pub mod faults;

// What decides.
pub mod data;
pub mod cluster;
pub mod cut;
pub mod part;
pub mod repository;
pub mod entry;

// The contract.
pub mod proto;
pub mod wire;

// What does.
pub mod store;
pub mod log;
pub mod engine;
pub mod net;
pub mod service;
pub mod rpc;
pub mod boot;
pub mod signals;
pub mod node;

// The client.
#[path = "../cli/lib.rs"]
pub mod ctl;
