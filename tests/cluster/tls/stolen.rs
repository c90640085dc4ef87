//! What a stolen key of a node is good for: as `docs/security.md` says, for all that may be asked
//! of the cluster through that node, and for no more.

use devicedb::{
    base::ids::{SiteId, Topology},
    cluster::{access::Role, level::Level},
    proto::{
        internal::v1::{
            Command, DeliverRequest, Forward, GrantRecord, Hello, MetaCommand, NodeRecord,
            PartRecord, PeerMessage, ReportPart, SealSnapshot, SetLineage, TokenRecord, Write,
            WriteStep, command::Action, forward, meta_command::Action as Meta, peer_message::Body,
        },
        v1::{self, Bucket, access_service_client::AccessServiceClient},
    },
    wire,
};

use tonic::Status;

use super::{Issued, Leaf, Secured, channel};
use crate::harness::{Options, SOON, eventually};

const META: u32 = u32::MAX;

fn asks(group: u32, id: u64, action: Action) -> PeerMessage {
    let request_id = vec![id as u8; 16].into();
    let command = Command { request_id, action: Some(action) };
    let request = Some(forward::Request::Command(command));
    let forward = Forward { id, deadline_ms: 20_000, request, again: false };
    PeerMessage { group, body: Some(Body::Forward(forward)) }
}

fn changes(id: u64, action: Meta) -> PeerMessage {
    let change = MetaCommand { action: Some(action), ..MetaCommand::default() };
    asks(META, id, Action::Meta(change))
}

fn grant(identity: &str, role: Role) -> GrantRecord {
    let role = wire::role_number(role);
    GrantRecord { identity: identity.into(), role, sites: "*".into() }
}

impl Secured {
    /// Says something as a node whose key is at hand to each node that runs, in one stream each.
    async fn says_as(&self, node: u64, thief: &Issued, messages: &[PeerMessage]) {
        for at in [0, 2] {
            let mut peer = self.peer(at, thief).await;
            let own = self.hello(at, thief).await;
            let hello = Hello { node_id: node, address: "127.0.0.1:1".into(), ..own };
            let first = DeliverRequest { hello: Some(hello), ..DeliverRequest::default() };
            let rest = DeliverRequest { messages: messages.to_vec(), ..DeliverRequest::default() };
            let until = "the node that has stopped is not waited for any more";
            eventually(until, SOON, async || {
                // The stream stays open until what was said has been taken.
                let (said, stream) = tokio::sync::mpsc::channel(2);
                said.try_send(first.clone()).unwrap();
                let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
                let mut answers = peer.deliver(stream).await.unwrap().into_inner();
                let refused = answers.message().await.unwrap().unwrap().refused;
                if !refused.is_empty() {
                    return Err(refused);
                }
                said.try_send(rest.clone()).unwrap();
                drop(said);
                while let Ok(Some(_)) = answers.message().await {}
                Ok(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_key_of_a_node_asks_for_whatever_clients_may_and_is_neither_an_admin_nor_a_leader()
{
    let mut secured = Secured::start(3, Options::default()).await;
    secured.are_named(&["n1", "n2", "n3"]).await;
    let client = secured.client(0).await;
    client.add_site("shop").await.unwrap();
    let topology = Topology::new(64, 8).unwrap();
    let group = topology.group_of_site(&SiteId::new("shop").unwrap()).0;
    let seen = client.overview().await.unwrap();
    let id = |at: usize| {
        let endpoint = secured.node(at).endpoint();
        seen.nodes.iter().find(|node| node.address == endpoint).unwrap().id
    };
    let (second, third) = (id(1), id(2));
    let mut access = {
        let channel = channel(&secured.node(0).endpoint(), &secured.config(&secured.ops)).await;
        AccessServiceClient::new(channel.unwrap())
    };
    let lineage = u64::from_str_radix(&seen.lineage, 16).unwrap();
    let thief = secured.authority.issue("thief", &Leaf::node("n2"));
    secured.cluster.nodes[1].kill9();

    let token = |name: &str, role| TokenRecord {
        id: 7,
        name: name.into(),
        role: wire::role_number(role),
        sites: "*".into(),
        digest: vec![7; 32].into(),
        created_ms: 1,
        expires_ms: u64::MAX >> 1,
        lineage,
        ..TokenRecord::default()
    };
    let newcomer = NodeRecord {
        id: 4711,
        address: "127.0.0.1:1".into(),
        capacity_percent: 100,
        version: "1".into(),
        lineage,
        level: Level::own().0,
        ..NodeRecord::default()
    };
    let part = PartRecord { node_id: third, status: 2, ..PartRecord::default() };
    let step = WriteStep { key: "k".into(), value: Some("forged".into()), ..WriteStep::default() };
    let write = Write { site: "shop".into(), bucket: Bucket::Default as u32, steps: vec![step] };
    let named =
        NodeRecord { certificate_name: "spiffe://acme/devicedb/node/n9".into(), ..newcomer };
    let messages = [
        // What nobody gets in this way: to be an admin, or who leads, or another node.
        changes(1, Meta::AddGrant(grant("spiffe://acme/devicedb/client/me", Role::Admin))),
        changes(2, Meta::CreateToken(token("root", Role::Admin))),
        changes(3, Meta::SealSnapshot(SealSnapshot { seq: 1 })),
        changes(4, Meta::ReportPart(ReportPart { uuid: vec![1; 16].into(), part: Some(part) })),
        changes(5, Meta::AnnounceNode(named)),
        asks(group, 6, Action::SetLineage(SetLineage { lineage: 9 })),
        // And what everybody gets whose door lets it in.
        asks(group, 7, Action::Write(write)),
        changes(8, Meta::AddSite("forged".into())),
        changes(9, Meta::AddGrant(grant("spiffe://acme/devicedb/client/me", Role::Operator))),
    ];
    let mut granted = async || {
        let answer = access.list_grants(v1::ListGrantsRequest {}).await?.into_inner();
        Ok::<_, Status>(answer.grants.into_iter().map(|grant| grant.role()).collect::<Vec<_>>())
    };
    // A group of which nobody leads for a moment takes nothing: whoever asks asks again.
    eventually("what doors let in has its effect", SOON, async || {
        secured.says_as(second, &thief, &messages).await;
        let written = client.values("shop", Bucket::Default, "k").await;
        let sites = client.sites().await.map_err(|e| e.to_string())?;
        let found = (granted().await.map_err(|e| e.to_string())?, written);
        let wanted = found.0 == [v1::Role::Operator] && sites.contains(&"forged".to_owned());
        match &found.1 {
            Ok(values) if wanted && *values == ["forged"] => Ok(()),
            _ => Err(format!("{found:?} {sites:?}")),
        }
    })
    .await;
    // All that came before it in each stream has been looked at, too.
    let tokens = secured.ctl(&["token", "list"]).await.exits(0).out();
    assert!(!tokens.contains("root"), "{tokens}");
    let after = client.overview().await.unwrap();
    assert_eq!((after.nodes.len(), &after.lineage), (3, &seen.lineage));
    // The key opens no public door either.
    secured.ctl_as(0, &thief, "get --site shop k").await.exits(4).says("is a node, and no client");
}
