//! Fields that are not the engine's to judge: which door checks them, or why any value of them does
//! no harm. For the test that holds the contract against the tables.

pub(super) const FIELDS: &[(&str, &str)] = &[
    // Who speaks. Read once a stream.
    ("Hello.protocol", "net::judge: the versions that both sides know overlap"),
    ("Hello.protocol_min", "net::judge: the versions that both sides know overlap"),
    (
        "Hello.node_id",
        "net::judge: not this node; net::handshake::belongs: one that has joined, and over TLS \
         under the name of its certificate; what its messages may say is decided one by one",
    ),
    ("Hello.to", "net::judge: this node, or 0"),
    ("Hello.cluster_id", "net::judge: this cluster's"),
    ("Hello.lineage", "net::judge: this history's, or none after the same restore"),
    ("Hello.restored_from", "net::judge: the same snapshot"),
    ("Hello.address", "any: dialled and shown, and the hello that answers there says who it is"),
    ("Hello.incarnation", "any: two processes of one node are told apart by it (net::Peers)"),
    (
        "DeliverRequest.hello",
        "net::listen: the first message of a stream has one; ignored in others",
    ),
    (
        "DeliverRequest.messages",
        "each goes through admission; bytes and number are bounded by the frame \
         (PEER_MESSAGE_BYTES_MAX) and the engine's queue",
    ),
    ("DeliverResponse.hello", "net::judge, as the caller's own"),
    ("DeliverResponse.refused", "any: it is shown"),
    (
        "DeliverRequest.heard",
        "net::Whereabouts: places to look at, at most NODES_MAX nodes and PLACES_MAX places of \
         each; what counts is who answers there",
    ),
    ("DeliverResponse.heard", "net::Whereabouts, as in a request"),
    (
        "DeliverResponse.removed",
        "net::Peers: of a node of this cluster and history; it ends this node only when most of \
         the meta group's other voters say so",
    ),
    // Messages.
    ("PeerMessage.raft", "RAFT"),
    ("PeerMessage.forward", "FORWARD"),
    ("PeerMessage.forward_reply", "REPLY"),
    ("PeerMessage.mark_request", "MARKS"),
    ("PeerMessage.marked", "MARKS"),
    ("PeerMessage.release", "MARKS"),
    ("PeerMessage.end_request", "ENDINGS"),
    ("PeerMessage.may_end", "ENDINGS"),
    ("RaftMessage.reject", "any: what is rejected is sent again or snapshotted"),
    // Requests on their way.
    ("Forward.deadline_ms", "any: cut to REQUEST_DEADLINE_MAX (engine::forward)"),
    (
        "Forward.again",
        "any: only a copy of the sender's own request, of the same number, is left to the one that \
         came first",
    ),
    ("Forward.command", "wire::parse_command, then commands::command"),
    ("Forward.query", "wire::parse_query, then commands::query"),
    ("Query.bucket", "data::Bucket: one that there is"),
    ("Query.stale", "any: a node that does not hold the group sends the question on"),
    ("Query.key", "data::Key: 1 to KEY_BYTES_MAX bytes"),
    ("Query.scan", "wire::parse_query"),
    ("ScanQuery.prefix", "data::Prefix: at most KEY_BYTES_MAX bytes"),
    ("ScanQuery.after", "data::Key: 1 to KEY_BYTES_MAX bytes, or empty"),
    ("ScanQuery.limit", "any: a page has at most PAGE_ROWS_MAX rows"),
    ("ScanQuery.keys_only", "any"),
    (
        "ForwardReply.reply",
        "wire::parse_reply: what cannot be read is an unknown outcome; what does not fit the \
         request is told so by whoever asked",
    ),
    // What is proposed.
    ("Command.request_id", "ids::RequestId: 16 bytes, or empty"),
    ("Mark.seq", "Command.mark: by nobody"),
    ("MetaCommand.add_site", "ids::SiteId; cluster::State holds it against the registry"),
    ("MetaCommand.site_added", "ids::SiteId; cluster::State holds it against the registry"),
    ("MetaCommand.remove_site", "ids::SiteId; cluster::State holds it against the registry"),
    ("MetaCommand.site_removed", "ids::SiteId; cluster::State holds it against the registry"),
    ("MetaCommand.add_relay", "ids::RelayId; cluster::State holds it against the registry"),
    ("MetaCommand.remove_relay", "ids::RelayId; cluster::State holds it against the registry"),
    ("MetaCommand.move_relay", "ids::RelayId; cluster::State holds it against the registry"),
    ("MetaCommand.begin_snapshot", "ids::SnapshotId; cluster::State numbers it, one at a time"),
    (
        "MetaCommand.delete_snapshot",
        "ids::SnapshotId; cluster::State holds it against the registry",
    ),
    (
        "MetaCommand.begin_deletion",
        "ids::SnapshotId; cluster::State holds it, and the lineage that is named, against the \
         registry",
    ),
    (
        "MetaCommand.remove_node",
        "cluster::State: a member, and not the last, on the members and assignments that whoever \
         asks has seen",
    ),
    ("MetaCommand.decommission", "cluster::State: as a removal, and not the last node that stays"),
    (
        "MetaCommand.cancel_decommission",
        "cluster::State: a member; one that stays is left as it is",
    ),
    ("MetaCommand.set_capacity", "cluster::State: of a member, at most CAPACITY_PERCENT_MAX"),
    ("MetaCommand.rebalance", "cluster::State: on the members and assignments that were seen"),
    (
        "MetaCommand.operation",
        "wire::operate: beside a change that is an operation, and Begin::check; cluster::State \
         remembers one of an id, and one that runs of a node",
    ),
    ("MetaCommand.set_draining", "cluster::State: a member, and not the last one that could lead"),
    (
        "MetaCommand.finish_operation",
        "cluster::State: one that does not end by itself, on the members and assignments that were \
         seen",
    ),
    ("MetaCommand.cancel_operation", "cluster::State: one that runs and can be taken back"),
    ("MetaCommand.add_grant", "Grant::check: not of an admin; cluster::State keeps GRANTS_MAX"),
    ("MetaCommand.remove_grant", "Grant::check; cluster::State: one that is there"),
    (
        "MetaCommand.create_token",
        "Token::check: not of an admin; cluster::State: of this history, one of a name and of an \
         id, and TOKENS_MAX",
    ),
    ("MetaCommand.revoke_token", "cluster::State: one that is there"),
    ("MetaCommand.resume_token", "cluster::State: one that is there"),
    (
        "MetaCommand.set_joins",
        "any: whoever calls is an admin (rpc::roles), and members stay what they are",
    ),
    (
        "MetaCommand.ticket",
        "cluster::State: of a join token that holds, where the node is new and needs one; that its \
         secret was shown is the word of the node that was asked",
    ),
    (
        "MetaCommand.bind_node",
        "cluster::State: a member, and one that has no name yet or gets another one by an operator",
    ),
    ("MetaCommand.away", "any: a hint; others than members are nobody (cluster::placement)"),
    ("MetaCommand.raise_level", "cluster::State: not above what every member knows"),
    ("MetaCommand.site_generation", "any: cluster::State does nothing to another life of the site"),
    // Joining.
    (
        "JoinRequest.node",
        "cluster::Node::check; the lineage is this cluster's, whatever it says (rpc::PeerDoor)",
    ),
    ("JoinRequest.protocol", "rpc::PeerDoor: the versions that both sides know overlap"),
    ("JoinRequest.protocol_min", "rpc::PeerDoor: the versions that both sides know overlap"),
    (
        "JoinRequest.incarnation",
        "rpc::PeerDoor: what answers at the node's address has to name the same",
    ),
    ("JoinRequest.proof", "service::admin: looked at where the node is new and joins need a token"),
    ("JoinProof.token_id", "service::admin: a join token that holds"),
    ("JoinProof.name", "net::tls::ticket: signed, and that of the certificate that was shown"),
    ("JoinProof.signature", "net::tls::ticket: of this node, by the key of the token"),
    (
        "JoinResponse.settings",
        "wire::parse_settings; who joins trusts the address that it was given",
    ),
    ("JoinResponse.nodes", "cluster::Node::check"),
    // Founding.
    (
        "IntroduceResponse.node_id",
        "waiting: another node's, and the same as long as its process lives",
    ),
    ("IntroduceResponse.incarnation", "any: two processes are told apart by it"),
    ("IntroduceResponse.cluster_id", "waiting: 16 bytes, or empty while it belongs to none"),
    ("IntroduceResponse.waiting", "waiting: absent where it does not wait"),
    ("WaitingNode.address", "waiting: shown, and dialled"),
    ("WaitingNode.join", "waiting: the addresses that this node was told too"),
    ("WaitingNode.founder", "waiting: no other than this node's, or nobody founds"),
    ("WaitingNode.objection", "any: shown, and nobody founds"),
    ("Founder.node_id", "waiting: not 0; one for good"),
    ("Founder.address", "waiting: at most ADDRESS_BYTES_MAX bytes without white space"),
    ("PromiseFoundingRequest.founder", "porch: there is one"),
    ("PromiseFoundingRequest.join", "waiting: the addresses that this node was told too"),
    ("FoundClusterResponse.cluster_id", "any: shown"),
    ("FoundClusterResponse.created", "any: shown"),
    // Rows.
    ("SendRowsRequest.hello", "net::judge, and no newcomer; then admission::rows, as of a leader"),
    ("SendRowsRequest.group", "admission::rows: one that there is and that the sender may lead"),
    ("SendRowsRequest.name", "net::receive_rows: 1 to RAFT_NAME_BYTES_MAX bytes"),
    (
        "SendRowsRequest.rows",
        "engine::check_rows: rows of this group that can be served from, and a record that \
         admission::record takes",
    ),
    ("SendRowsRequest.bytes", "any: an estimate that is shown"),
    ("SendRowsRequest.digest", "net::receive_rows: blake3 of the rows"),
    // What a node says of itself when it is asked. Shown, and counted in an overview.
    ("LedGroup.group", "any: shown"),
    ("LedGroup.voters", "any: shown"),
    ("LedGroup.learners", "any: shown"),
    ("LedGroup.wait", "any: shown"),
    ("GroupWait.node_id", "any: shown"),
    ("GroupWait.reason", "one that this version knows, or it is not shown"),
    ("GroupWait.since_s", "any: shown"),
    ("GetNodeStatusResponse.incoming", "any: shown"),
    ("GetNodeStatusResponse.incoming_bytes_per_s", "any: shown"),
    ("IncomingRows.group", "any: shown"),
    ("IncomingRows.bytes", "any: shown"),
    ("IncomingRows.bytes_total", "any: shown"),
    ("IncomingRows.reason", "one that this version knows, or it is not shown"),
    ("GetNodeStatusResponse.replicas", "any: shown"),
    ("GetNodeStatusResponse.room", "any: an estimate, which an operator may go over"),
    ("Room.held_bytes", "any: an estimate, which an operator may go over"),
    ("Room.spare_bytes", "any: an estimate, which an operator may go over"),
    ("LeaderlessGroup.group", "any: shown"),
    ("LeaderlessGroup.voters", "any: shown"),
    ("LeaderlessGroup.applied_index", "any: shown"),
    (
        "GetNodeStatusResponse.node_id",
        "membership: the node that was meant, or the answer counts for none",
    ),
    ("GetNodeStatusResponse.ready", "any: shown"),
    ("GetNodeStatusResponse.unready", "any: shown"),
    ("GetNodeStatusResponse.version", "any: shown"),
    ("GetNodeStatusResponse.led", "any: shown"),
    ("GetNodeStatusResponse.leaderless", "any: shown"),
    ("GetNodeStatusResponse.parts", "any: shown"),
    (
        "GetNodeStatusResponse.heard",
        "any: dialled, and the hello that answers there says who it is",
    ),
    ("GetNodeStatusResponse.hello", "net::judge, before what the answer says of others counts"),
    ("HeardNode.node_id", "any: dialled, and the hello that answers there says who it is"),
    (
        "HeardNode.address",
        "net::Whereabouts: 1 to ADDRESS_BYTES_MAX bytes; dialled, and the hello that answers \
         there says who it is",
    ),
    ("HeardNode.incarnation", "any: an old word dies with the process that said it"),
    ("LocalPart.uuid", "any: shown"),
    ("LocalPart.part", "any: shown"),
    ("LocalPart.partitions_done", "any: shown"),
    ("LocalPart.partitions", "any: shown"),
    // Parts in snapshot stores.
    ("ListPartsRequest.uuid", "ids::SnapshotId, or empty"),
    (
        "ListPartsResponse.node_id",
        "inventory: the node that was meant, or the answer counts for none",
    ),
    ("ListPartsResponse.lineage", "inventory: this history's, or the answer counts for none"),
    ("ListPartsResponse.parts", "any: shown, and held against the registry"),
    ("ListPartsResponse.looking", "any: shown"),
    ("ListPartsResponse.storeless", "any: shown"),
    ("ShelfPart.uuid", "ids::SnapshotId"),
    ("ShelfPart.lineage", "any: shown, and held against the registry"),
    ("ShelfPart.written_ms", "any: shown"),
    ("ShelfPart.stored_bytes", "any: shown"),
    ("ShelfPart.manifest_digest", "any: held against the registry"),
    ("ShelfPart.damage", "any: shown"),
    ("ShelfPart.seal", "any: shown"),
    ("ShelfSeal.recipients", "any: shown"),
    ("ShelfPart.left_by", "inventory: not a member, or it is not shown"),
    ("RemovePartRequest.uuid", "ids::SnapshotId"),
    ("RemovePartRequest.lineage", "parts: the part's own, or it stays"),
    ("RemovePartRequest.named", "parts: without it only a part of the present history goes"),
    ("RemovePartRequest.node_id", "inventory: this node"),
    ("RemovePartRequest.present", "inventory: this history's"),
    ("RemovePartRequest.members", "parts: their directories are not touched; none, and no other"),
    ("RemovePartResponse.removed", "any: shown"),
    ("RemovePartResponse.kept", "any: shown"),
    ("RemovePartResponse.lineage", "any: shown"),
];
