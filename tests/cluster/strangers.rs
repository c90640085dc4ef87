//! Peers that are not well: what another node says is believed only as far as no node that is well
//! would say otherwise, and what stands in a log for good ends nobody at each start.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use devicedb::{
    base::{
        disk::Machine,
        ids::{GroupId, SiteId, SnapshotSeq, Topology},
    },
    boot::restore,
    entry::Entry,
    log::{Batch, Log},
    proto::{
        internal::{
            v1 as internal,
            v1::{
                Command, DeliverRequest, DeliverResponse, Forward, Hello, PeerMessage, RaftMessage,
                RaftMessageType, command::Action, forward::Request as Asked, peer_message::Body,
                peer_service_client::PeerServiceClient,
            },
        },
        v1::{Bucket, Consistency, GetOverviewResponse, GetRequest, ScanRequest, SnapshotStatus},
    },
    wire,
};
use prost::Message as _;
use raft::eraftpb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::harness::{Client, Cluster, Node, Options, SOON, SnapshotStore, eventually, http_get};

const META: u32 = u32::MAX;

/// Somebody who claims to be a node, and what it has to say to another one.
struct Speaker {
    id: u64,
    frames: mpsc::Sender<DeliverRequest>,
    _answers: Streaming<DeliverResponse>,
}

impl Speaker {
    async fn to(node: &Node, id: u64, address: &str, cluster: &GetOverviewResponse) -> Speaker {
        let (speaker, refused) = Speaker::greet(node, id, address, cluster).await;
        assert_eq!(refused, "");
        speaker
    }

    /// And why it is refused.
    async fn greet(
        node: &Node,
        id: u64,
        address: &str,
        cluster: &GetOverviewResponse,
    ) -> (Speaker, String) {
        let mut client =
            PeerServiceClient::connect(format!("http://{}", node.endpoint())).await.unwrap();
        let (frames, outgoing) = mpsc::channel(16);
        let hello = Hello {
            protocol: *devicedb::net::PROTOCOLS.end(),
            node_id: id,
            cluster_id: Bytes::copy_from_slice(
                cluster.cluster_id.parse::<uuid::Uuid>().unwrap().as_bytes(),
            ),
            lineage: u64::from_str_radix(&cluster.lineage, 16).unwrap(),
            address: address.into(),
            incarnation: 7,
            ..Hello::default()
        };
        frames
            .send(DeliverRequest { hello: Some(hello), ..DeliverRequest::default() })
            .await
            .unwrap();
        let mut answers = client.deliver(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        (Speaker { id, frames, _answers: answers }, answer.refused)
    }

    async fn say(&self, messages: Vec<PeerMessage>) {
        self.frames.send(DeliverRequest { messages, ..DeliverRequest::default() }).await.unwrap();
    }

    /// A message of Raft in every group.
    fn raft(
        &self,
        kind: RaftMessageType,
        to: u64,
        groups: &[u32],
        change: impl Fn(&mut RaftMessage),
    ) -> Vec<PeerMessage> {
        let mut raft = RaftMessage {
            r#type: kind as i32,
            from: self.id,
            to,
            term: 9,
            log_term: 5,
            index: 5,
            ..RaftMessage::default()
        };
        change(&mut raft);
        groups
            .iter()
            .map(|group| PeerMessage { group: *group, body: Some(Body::Raft(raft.clone())) })
            .collect()
    }
}

fn forwarded(group: u32, action: Action) -> PeerMessage {
    let command = Command { request_id: Bytes::new(), action: Some(action) };
    PeerMessage {
        group,
        body: Some(Body::Forward(Forward {
            id: 1,
            deadline_ms: 5000,
            request: Some(Asked::Command(command)),
            ..Forward::default()
        })),
    }
}

fn group_of(site: &str) -> u32 {
    Topology::new(64, 8).unwrap().group_of_site(&SiteId::new(site).unwrap()).0
}

/// How many messages nodes have refused for a field.
async fn refused(nodes: &[&Node], field: &str) -> u64 {
    let mut count = 0;
    for node in nodes {
        let (_, page) = http_get(&node.endpoint(), "/metrics").await.unwrap();
        let line = format!("devicedb_peer_messages_refused_total{{field=\"{field}\"}} ");
        count += page.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap());
    }
    count
}

async fn wait_refused(nodes: &[&Node], field: &str, at_least: u64) {
    eventually(&format!("{at_least} messages are refused for {field}"), SOON, async || {
        match refused(nodes, field).await {
            count if count >= at_least => Ok(()),
            count => Err(count),
        }
    })
    .await;
}

async fn id_of(client: &Client) -> u64 {
    client.overview().await.unwrap().answered_by
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gone_wrong_ends_nobody_blocks_nothing_and_removes_nothing() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let sites: Vec<String> = (0..16).map(|n| format!("site{n}")).collect();
    for site in &sites {
        cluster.client().add_site(site).await.unwrap();
        cluster.client().put(site, Bucket::Default, "before", "kept").await.unwrap();
    }
    let ids = [
        id_of(&cluster.nodes[0].client()).await,
        id_of(&cluster.nodes[1].client()).await,
        id_of(&cluster.nodes[2].client()).await,
    ];
    let seen = cluster.client().overview().await.unwrap();
    // In its place speaks somebody who says what it likes.
    let address = cluster.nodes[2].endpoint();
    cluster.nodes[2].kill9();
    let both = [&cluster.nodes[0], &cluster.nodes[1]];
    let groups: Vec<u32> = (0..8).chain([META]).collect();
    let all = groups.len() as u64;
    let leaders = async |client: &Client| match client.overview().await {
        Ok(seen) if seen.groups_without_leader == 0 && seen.meta_leader != 0 => Ok(()),
        seen => Err(format!("{seen:?}")),
    };
    eventually("two nodes lead all groups", SOON, async || {
        leaders(&cluster.nodes[0].client()).await
    })
    .await;

    for (node, to) in both.iter().zip(ids) {
        let speaker = Speaker::to(node, ids[2], &address, &seen).await;
        for kind in [
            RaftMessageType::Heartbeat,
            RaftMessageType::Append,
            RaftMessageType::RequestVote,
            RaftMessageType::AppendResponse,
        ] {
            speaker.say(speaker.raft(kind, to, &groups, |m| m.term = u64::MAX)).await;
        }
        wait_refused(&[node], "RaftMessage.term", 4 * all).await;
        speaker
            .say(speaker.raft(RaftMessageType::AppendResponse, to, &groups, |m| m.index = u64::MAX))
            .await;
        speaker.say(speaker.raft(RaftMessageType::TransferLeader, to, &groups, |_| ())).await;
        wait_refused(&[node], "RaftMessage.type", all).await;
        let group = |site: &String| group_of(site);
        let seq = u64::MAX;
        let mut asked: Vec<PeerMessage> =
            groups.iter().map(|g| forwarded(*g, Action::Mark(internal::Mark { seq }))).collect();
        asked.extend(
            groups
                .iter()
                .map(|g| forwarded(*g, Action::SetLineage(internal::SetLineage { lineage: 9 }))),
        );
        asked.extend(sites.iter().map(|site| {
            forwarded(
                group(site),
                Action::DropSiteData(internal::DropSiteData {
                    site: site.clone(),
                    rows_max: 100,
                    generation: 1000,
                }),
            )
        }));
        asked.extend(sites.iter().map(|site| {
            forwarded(
                group(site),
                Action::DropSiteData(internal::DropSiteData {
                    site: site.clone(),
                    rows_max: 100,
                    generation: u64::MAX,
                }),
            )
        }));
        let meta = |action| {
            Action::Meta(internal::MetaCommand { action: Some(action), ..Default::default() })
        };
        asked.extend(
            (0..8).map(|g| {
                forwarded(g, meta(internal::meta_command::Action::AddSite("ghost".into())))
            }),
        );
        asked.push(forwarded(
            META,
            meta(internal::meta_command::Action::SealSnapshot(internal::SealSnapshot { seq })),
        ));
        asked.push(forwarded(
            META,
            Action::AddSiteData(internal::AddSiteData { site: "site1".into(), generation: 1 }),
        ));
        speaker.say(asked).await;
        let release = |body| PeerMessage { group: META, body: Some(body) };
        speaker
            .say(vec![
                release(Body::MarkRequest(internal::MarkRequest { seq })),
                release(Body::Release(internal::Release { seq })),
            ])
            .await;
        wait_refused(&[node], "Release.seq", 1).await;
    }
    // Each by the node that leads the group.
    for (field, count) in [
        ("Command.mark", all),
        ("Command.set_lineage", all),
        ("Command.meta", 8),
        ("DropSiteData.generation", 16),
    ] {
        wait_refused(&both, field, count).await;
    }
    for field in [
        "MetaCommand.seal_snapshot",
        "Command.add_site_data",
        "MarkRequest.seq",
        "RaftMessage.index",
    ] {
        wait_refused(&both, field, 1).await;
    }
    // Who has never joined is not even heard.
    let (_, refused) = Speaker::greet(both[0], 99, "127.0.0.1:1", &seen).await;
    assert!(refused.starts_with("no node 99 has joined this cluster"), "{refused}");

    for round in ["now", "after a restart"] {
        for site in &sites {
            let client = cluster.client();
            assert_eq!(client.values(site, Bucket::Default, "before").await.unwrap(), ["kept"]);
            client.put(site, Bucket::Default, round, "written").await.unwrap();
        }
        assert_eq!(cluster.client().sites().await.unwrap().len(), sites.len());
        if round == "now" {
            // The cut waits for nobody's marks but those that were set.
            let begun = cluster.client().create_snapshot().await.unwrap();
            assert_eq!(
                cluster.client().snapshot_resolved(&begun.uuid, SOON).await.status(),
                SnapshotStatus::Completed
            );
            cluster.kill9_all();
            cluster.restart_all().await;
        }
    }
    for node in &cluster.nodes {
        assert!(!node.log().contains("panicked"), "{} has panicked", node.name);
        let (_, page) = http_get(&node.endpoint(), "/metrics").await.unwrap();
        assert!(
            page.contains("devicedb_log_entries_skipped_total 0"),
            "something of it was proposed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_log_holds_for_good_and_nobody_can_apply_is_passed_over_and_calls_somebody() {
    let mut cluster =
        Cluster::start(1, Options { replication_factor: 1, ..Options::default() }).await;
    cluster.client().add_site("shop").await.unwrap();
    cluster.client().put("shop", Bucket::Default, "before", "kept").await.unwrap();
    let group = group_of("shop");
    cluster.nodes[0].kill9();
    let command = |action| Command { request_id: Bytes::new(), action: Some(action) };
    let entry = |commands| internal::Entry { seen: 0, commands }.encode_to_vec();
    let drop = || {
        command(Action::DropSiteData(internal::DropSiteData {
            site: "shop".into(),
            rows_max: 100,
            generation: 9,
        }))
    };
    let add = internal::MetaCommand {
        action: Some(internal::meta_command::Action::AddSite("ghost".into())),
        ..Default::default()
    };
    let poison = [
        (GroupId(group), entry(vec![command(Action::Meta(add.clone()))])),
        (GroupId(group), b"\xff\xff\xff".to_vec()),
        (GroupId(group), entry(vec![Command::default()])),
        (GroupId::META, entry(vec![drop(), command(Action::Meta(add))])),
    ];
    commit(&cluster.nodes[0], &poison);
    for _ in 0..2 {
        cluster.nodes[0].start();
        cluster.settled().await;
        assert_eq!(
            cluster.client().values("shop", Bucket::Default, "before").await.unwrap(),
            ["kept"]
        );
        cluster.client().put("shop", Bucket::Default, "after", "written").await.unwrap();
        // What stood beside a command that was passed over has its effect.
        let sites =
            eventually("the site that was half added is there", SOON, async || {
                match cluster.client().sites().await {
                    Ok(sites) if sites.len() == 2 => Ok(sites),
                    sites => Err(format!("{sites:?}")),
                }
            });
        assert_eq!(sites.await, ["ghost", "shop"]);
        cluster.nodes[0].kill9();
    }
    let log = cluster.nodes[0].log();
    for why in [
        "a command for the meta group",
        "a command for a data group",
        "it cannot be read",
        "a command without an action",
    ] {
        let line = log.lines().find(|line| line.contains("passed over") && line.contains(why));
        assert!(
            line.is_some_and(|line| line.contains("ERROR")),
            "the log says nothing of {why}:\n{log}"
        );
    }

    // A newer version's: one that passed over it would not be what the others are.
    let mut newer = wire::encode_entry(&Entry { seen: SnapshotSeq(0), commands: Vec::new() });
    newer.extend([0xf8, 0x07, 1]);
    commit(&cluster.nodes[0], &[(GroupId(group), newer)]);
    cluster.nodes[0].start();
    assert!(!cluster.nodes[0].wait_ended().await.success());
    assert!(cluster.nodes[0].log().contains("upgrade this node"), "{}", cluster.nodes[0].log_end());
}

/// Puts entries into the log of a node that is down, as its only voter would have committed them.
fn commit(node: &Node, entries: &[(GroupId, Vec<u8>)]) {
    let (store, _) = restore::open(&node.store, &Machine).unwrap();
    let log: Log = restore::open_log(&node.store, Arc::new(Machine), &store).unwrap();
    for (group, data) in entries {
        let found = log.find(*group).unwrap();
        let mut state = found.hard_state;
        let index = found.last_index + 1;
        (state.commit, state.term) = (index, state.term.max(found.begin.term));
        let entry = eraftpb::Entry {
            index,
            term: state.term,
            data: data.clone().into(),
            ..eraftpb::Entry::default()
        };
        let mut batch = Batch::default();
        batch.append(*group, &[entry]).unwrap();
        batch.hard_state(*group, &state).unwrap();
        log.write(&mut batch, true).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_holds_a_site_no_more_sends_stale_reads_on() {
    let options =
        Options { replication_factor: 1, snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut cluster = Cluster::start(1, options).await;
    let sites: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    let first = cluster.nodes[0].client();
    for site in &sites {
        first.add_site(site).await.unwrap();
        first.put(site, Bucket::Default, "k", "old").await.unwrap();
    }
    cluster.add().await;
    cluster.settled().await;
    eventually("each group is on one node alone", SOON, async || {
        let mut voters = Vec::new();
        for node in &cluster.nodes {
            let mut peer =
                PeerServiceClient::connect(format!("http://{}", node.endpoint())).await.unwrap();
            let led = peer
                .get_node_status(internal::GetNodeStatusRequest {})
                .await
                .unwrap()
                .into_inner()
                .led;
            voters.extend(led.into_iter().filter(|g| g.group != META).map(|g| g.voters.len()));
        }
        if voters == [1; 8] { Ok(()) } else { Err(format!("{voters:?}")) }
    })
    .await;
    for site in &sites {
        first.put(site, Bucket::Default, "k", "new").await.unwrap();
    }
    for _ in ["as they have moved", "after a restart"] {
        let first = cluster.nodes[0].client();
        for site in &sites {
            assert_eq!(stale(&first, site).await, Ok("new".into()), "{site}");
            let scan = ScanRequest {
                site: site.clone(),
                bucket: Bucket::Default.into(),
                consistency: Consistency::Stale.into(),
                ..ScanRequest::default()
            };
            assert_eq!(
                first.scan_request(scan).await.unwrap(),
                [("k".into(), vec!["new".into()])],
                "{site}"
            );
        }
        // What it still has of others is in no part of it.
        let snapshot = first.complete_snapshot(SOON).await;
        let counts: Vec<u32> = snapshot.parts.iter().map(|part| part.partitions).collect();
        assert_eq!(counts, [32, 32], "each partition is in one part");
        cluster.nodes[0].terminate().await;
        cluster.nodes[0].start();
        cluster.settled().await;
    }
    let first = cluster.nodes[0].client();
    for site in &sites {
        first.remove_site(site).await.unwrap();
        assert_eq!(
            stale(&first, site).await,
            Err(Code::NotFound),
            "{site} was removed with all its data"
        );
    }
}

async fn stale(client: &Client, site: &str) -> Result<String, Code> {
    let get = GetRequest {
        site: site.into(),
        bucket: Bucket::Default.into(),
        key: "k".into(),
        consistency: Consistency::Stale.into(),
    };
    let mut request = tonic::Request::new(get);
    request.set_timeout(Duration::from_secs(10));
    let found = client.kv.clone().get(request).await.map_err(|status| status.code())?.into_inner();
    Ok(found.siblings.iter().map(|s| String::from_utf8_lossy(&s.value).into_owned()).collect())
}
