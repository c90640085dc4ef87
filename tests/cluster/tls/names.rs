//! A node's id belongs to the name of its certificate.

use devicedb::{
    net,
    proto::{
        DESCRIPTORS,
        internal::v1::{
            DeliverRequest, DescribePartRequest, FoundClusterRequest, Founder,
            GetNodeStatusRequest, Hello, IntroduceRequest, JoinRequest, ListPartsRequest,
            PromiseFoundingRequest, RemovePartRequest, SendRowsRequest, StoreSnapshotRequest,
            UploadGroupsRequest, VerifyRepositoryRequest, peer_service_client::PeerServiceClient,
        },
        v1::{Bucket, DownloadSnapshotRequest, snapshot_service_client::SnapshotServiceClient},
    },
};
use prost::Message as _;
use tonic::{Code, Status, transport::Channel};

use super::{Authority, Issued, Leaf, Secured, channel};
use crate::harness::{Node, Options, SOON, SnapshotStore, eventually, shell};

fn name(node: &str) -> String {
    format!("spiffe://acme/devicedb/node/{node}")
}

/// Waits until a node's log says so, however often.
async fn has_said(node: &Node, words: &str) {
    eventually(&format!("{} says {words:?}", node.name), SOON, async || {
        if node.log().contains(words) { Ok(()) } else { Err(node.log_end()) }
    })
    .await;
}

impl Secured {
    /// Who calls a node with this certificate as another node does.
    pub(super) async fn peer(&self, at: usize, issued: &Issued) -> PeerServiceClient<Channel> {
        let channel = channel(&self.node(at).endpoint(), &self.config(issued)).await;
        PeerServiceClient::new(channel.unwrap())
    }

    /// What a hello of another node to this one says, but for who speaks.
    pub(super) async fn hello(&self, at: usize, issued: &Issued) -> Hello {
        let mut peer = self.peer(at, issued).await;
        let told = peer.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner();
        let own = told.hello.unwrap();
        Hello { node_id: 0, to: own.node_id, incarnation: 4711, ..own }
    }

    /// Why a node refuses a stream with this hello; empty when it does not.
    async fn greeted(&self, at: usize, issued: &Issued, hello: &Hello) -> String {
        let mut peer = self.peer(at, issued).await;
        let first = DeliverRequest { hello: Some(hello.clone()), ..DeliverRequest::default() };
        let mut answers = peer.deliver(tokio_stream::once(first)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap().refused
    }

    /// The names under which nodes are registered, by their addresses in the order of `nodes`.
    async fn names(&self) -> Vec<String> {
        let seen = self.client(0).await.overview().await.unwrap();
        let of = |endpoint: String| {
            let node = seen.nodes.iter().find(|node| node.address == endpoint);
            node.map(|node| node.certificate_name.clone()).unwrap_or_default()
        };
        self.cluster.nodes.iter().map(|node| of(node.endpoint())).collect()
    }

    pub(super) async fn are_named(&self, wanted: &[&str]) {
        let wanted: Vec<String> = wanted.iter().map(|node| name(node)).collect();
        eventually("every node is registered under its name", SOON, async || {
            let found = self.names().await;
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    async fn id(&self, at: usize) -> u64 {
        let (seen, endpoint) =
            (self.client(0).await.overview().await.unwrap(), self.node(at).endpoint());
        seen.nodes.iter().find(|node| node.address == endpoint).unwrap().id
    }

    /// Starts a node with another certificate than it had.
    async fn restart_as(&mut self, at: usize, issued: &Issued) {
        let words = self.authority.words(issued);
        let node = &mut self.cluster.nodes[at];
        node.terminate().await;
        let from = node.args.iter().position(|word| word == "--tls-cert").unwrap();
        node.args.splice(from..from + words.len(), words);
        node.args.retain(|word| word != "--found");
        node.start();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_speaks_for_no_other_node_and_for_none_that_has_not_joined() {
    let mut secured = Secured::start(3, Options::default()).await;
    secured.are_named(&["n1", "n2", "n3"]).await;
    let second = secured.authority.issue("thief", &Leaf::node("n2"));
    let unknown = secured.authority.issue("unknown", &Leaf::node("n9"));
    let ids = [secured.id(0).await, secured.id(1).await, secured.id(2).await];
    let refused = format!(
        "node {} has the certificate of {}, and whoever speaks as node {} that of {}",
        ids[2],
        name("n3"),
        ids[2],
        name("n2")
    );
    for round in 0..2 {
        let hello = Hello { node_id: ids[2], ..secured.hello(0, &second).await };
        let told = secured.greeted(0, &second, &hello).await;
        assert!(told.starts_with(&refused), "{told}");
        assert!(secured.greeted(0, &unknown, &hello).await.contains(&name("n9")));
        secured.node(0).says_times(&refused, round + 1).await;
        // Rows come by a call of their own.
        let mut peer = secured.peer(0, &second).await;
        let rows = SendRowsRequest { hello: Some(hello.clone()), ..SendRowsRequest::default() };
        let told = peer.send_rows(tokio_stream::once(rows)).await.unwrap_err();
        assert!(told.message().contains(&refused), "{told:?}");
        // With its own name it is the node, of which one process speaks already.
        let own = Hello { node_id: ids[1], ..hello.clone() };
        let told = secured.greeted(0, &second, &own).await;
        assert!(told.contains("another process"), "{told}");
        let nobody = Hello { node_id: 4711, ..hello };
        let told = secured.greeted(0, &unknown, &nobody).await;
        assert!(told.starts_with("no node 4711 has joined this cluster"), "{told}");
        if round == 0 {
            // It is remembered.
            for at in 0..3 {
                let issued = secured
                    .authority
                    .issue(&secured.node(at).name.clone(), &Leaf::node(&format!("n{}", at + 1)));
                secured.restart_as(at, &issued).await;
                secured.answers(at, "/readyz", 200).await;
            }
            secured.settled().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_the_certificate_of_another_stays_out_until_an_operator_says_its_new_name() {
    let options = Options { snapshot_store: SnapshotStore::None, ..Options::default() };
    let mut secured = Secured::start(3, options).await;
    secured.are_named(&["n1", "n2", "n3"]).await;
    let client = secured.client(0).await;
    client.add_site("shop").await.unwrap();
    let id = secured.id(2).await;
    let other = secured.authority.issue("other", &Leaf::node("new"));
    secured.restart_as(2, &other).await;
    let (node, known) = (secured.node(2), name("n3"));
    has_said(node, &format!("node {id} has the certificate of {known}")).await;
    has_said(secured.node(0), &format!("that of {}", name("new"))).await;
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    secured.answers(2, "/readyz", 503).await;
    // Nor is it believed to be the node where it is asked.
    eventually("the first node does not take its word", SOON, async || {
        let seen = client.overview().await.map_err(|e| e.to_string())?;
        let it = seen.nodes.iter().find(|node| node.id == id).unwrap();
        if it.reason.contains(&format!("that of {}", name("new"))) && !it.reachable {
            Ok(())
        } else {
            Err(format!("{it:?}"))
        }
    })
    .await;
    let uuid = "0badcafe-0000-4000-8000-000000000000";
    let output = secured.cluster.dir().join("never.tar");
    let words = format!("snapshot download {uuid} --node {id} --output {}", output.display());
    secured.ctl_as(0, &secured.ops, &words).await.exits(5).says(&name("new"));
    let id = id.to_string();
    let set =
        async |name: &str| secured.ctl(&["node", "set", &id, "--certificate-name", name]).await;
    set("spiffe://acme/devicedb/client/new").await.exits(2).says("is in no node's certificate");
    secured
        .ctl(&["node", "set", "4711", "--certificate-name", &name("new")])
        .await
        .says("there is no node 4711");
    set(&name("new")).await.exits(0).says("is known by");
    set(&name("new")).await.exits(0).says("before");
    secured.answers(2, "/readyz", 200).await;
    secured.settled().await;
    secured.are_named(&["n1", "n2", "new"]).await;

    // A node that is lost is replaced by another one with a certificate of the same name.
    let lost = secured.id(1).await.to_string();
    secured.cluster.nodes[1].kill9();
    let mut node = secured.cluster.further();
    let issued = secured.authority.issue(&node.name, &Leaf::node("n2"));
    node.args.extend(secured.authority.words(&issued));
    node.start();
    secured.cluster.nodes[1] = node;
    secured.answers(1, "/readyz", 200).await;
    eventually("the lost node can be removed", SOON, async || {
        let ran = secured.ctl(&["node", "remove", &lost, "--force"]).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    secured.settled().await;
    secured.are_named(&["n1", "n2", "new"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_begins_without_names_and_takes_those_of_its_new_certificates() {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut secured = Secured::start(3, options).await;
    secured.are_named(&["n1", "n2", "n3"]).await;
    let client = secured.client(0).await;
    client.add_site("shop").await.unwrap();
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    let snapshot = client.complete_snapshot(SOON).await;
    let mut tars = Vec::new();
    for at in 0..3 {
        let tar = secured.cluster.dir().join(format!("{at}.tar")).display().to_string();
        let id = secured.id(at).await.to_string();
        let words = ["snapshot", "download", &snapshot.uuid, "--node", &id, "--output", &tar];
        secured.ctl(&words).await.exits(0);
        tars.push(tar);
    }
    secured.cluster.lose_every_disk();
    secured.authority = Authority::new(secured.cluster.dir(), "elsewhere");
    secured.ops = secured.authority.issue("ops", &Leaf::admin("ops"));
    for (at, tar) in tars.iter().enumerate() {
        let node = &mut secured.cluster.nodes[at];
        std::fs::create_dir(&node.store).unwrap();
        shell(&format!("tar xf {tar} -C {}", node.store.display()), SOON).await.exits(0);
        // The nodes have changed places.
        let issued = secured.authority.issue(&node.name, &Leaf::node(&format!("m{}", 3 - at)));
        let from = node.args.iter().position(|word| word == "--tls-cert").unwrap();
        node.args.splice(from.., secured.authority.words(&issued));
        node.args.retain(|word| word != "--found");
        node.start();
    }
    for at in 0..3 {
        secured.answers(at, "/readyz", 200).await;
    }
    secured.settled().await;
    secured.are_named(&["m3", "m2", "m1"]).await;
    secured.ctl(&["get", "--site", "shop", "k"]).await.exits(0).says("v");
}

/// The methods between nodes, as the contract has them.
fn between_nodes() -> Vec<String> {
    let all = prost_types::FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let services = all.file.iter().flat_map(|file| &file.service);
    services
        .filter(|service| service.name() == "PeerService")
        .flat_map(|service| service.method.iter().map(|method| method.name().to_owned()))
        .collect()
}

impl Secured {
    /// How a call between nodes ends for whoever has this certificate.
    async fn called(&self, method: &str, issued: &Issued) -> Result<(), Status> {
        let mut peer = self.peer(0, issued).await;
        let own = self.own_hello().await;
        let hello = Hello { node_id: 4711, to: own.node_id, incarnation: 4711, ..own };
        match method {
            "Deliver" => match self.greeted(0, issued, &hello).await {
                refused if refused.is_empty() => Ok(()),
                refused => Err(Status::permission_denied(refused)),
            },
            "SendRows" => {
                let rows = SendRowsRequest { hello: Some(hello), ..Default::default() };
                peer.send_rows(tokio_stream::once(rows)).await.map(drop)
            }
            "GetNodeStatus" => peer.get_node_status(GetNodeStatusRequest {}).await.map(drop),
            "ListParts" => peer.list_parts(ListPartsRequest::default()).await.map(drop),
            "RemovePart" => peer.remove_part(RemovePartRequest::default()).await.map(drop),
            "DescribePart" => peer.describe_part(DescribePartRequest::default()).await.map(drop),
            "UploadGroups" => peer.upload_groups(UploadGroupsRequest::default()).await.map(drop),
            "StoreSnapshot" => peer.store_snapshot(StoreSnapshotRequest::default()).await.map(drop),
            "VerifyRepository" => {
                let request = VerifyRepositoryRequest::default();
                peer.verify_repository(request).await.map(drop)
            }
            "Join" => {
                let protocol = *net::PROTOCOLS.end();
                peer.join(JoinRequest { protocol, ..Default::default() }).await.map(drop)
            }
            "Introduce" => peer.introduce(IntroduceRequest {}).await.map(drop),
            "PromiseFounding" => {
                let founder = Some(Founder { node_id: 4711, address: "x:1".into() });
                let asked = PromiseFoundingRequest { founder, join: Vec::new() };
                peer.promise_founding(asked).await.map(drop)
            }
            "FoundCluster" => {
                let answer = peer.found_cluster(FoundClusterRequest {}).await?;
                assert!(!answer.into_inner().created);
                Ok(())
            }
            other => panic!("{other} has no row: may a node of another cluster call it?"),
        }
    }

    /// What the first node says of itself in a hello.
    async fn own_hello(&self) -> Hello {
        let own = self.authority.issue("own", &Leaf::node("n1"));
        let mut peer = self.peer(0, &own).await;
        peer.get_node_status(GetNodeStatusRequest {}).await.unwrap().into_inner().hello.unwrap()
    }

    /// How it ends when such a caller fetches a part of a snapshot.
    async fn fetched(&self, issued: &Issued) -> Code {
        let channel = channel(&self.node(0).endpoint(), &self.config(issued)).await.unwrap();
        let asked = DownloadSnapshotRequest {
            uuid: "0badcafe-0000-4000-8000-000000000000".into(),
            ..Default::default()
        };
        let begun = SnapshotServiceClient::new(channel).download_snapshot(asked).await;
        match begun {
            Err(status) => status.code(),
            Ok(stream) => stream.into_inner().message().await.unwrap_err().code(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_with_the_same_ca_may_ask_who_is_there_and_to_join_and_no_more() {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let secured = Secured::start(1, options).await;
    secured.are_named(&["n1"]).await;
    let stranger = secured.authority.issue("stranger", &Leaf::node("n9"));
    let member = secured.authority.issue("member", &Leaf::node("n1"));
    for method in between_nodes() {
        let told = secured.called(&method, &stranger).await;
        let words = told.as_ref().err().map_or("", Status::message);
        match method.as_str() {
            "Deliver" | "SendRows" => {
                assert!(words.contains("no node 4711 has joined"), "{method}: {told:?}")
            }
            "Introduce" | "FoundCluster" => assert!(told.is_ok(), "{method}: {told:?}"),
            "PromiseFounding" => assert!(words.contains("belongs to cluster"), "{told:?}"),
            "Join" => assert!(words.contains("has to say who it is"), "{told:?}"),
            _ => {
                let code = told.as_ref().unwrap_err().code();
                assert_eq!(code, Code::PermissionDenied, "{method}: {told:?}");
                assert!(words.contains("no member has that name"), "{method}: {told:?}");
                // Which goes for strangers alone.
                let told = secured.called(&method, &member).await.err();
                assert!(told.is_none_or(|e| e.code() != Code::PermissionDenied), "{method}");
            }
        }
    }
    assert_eq!(secured.fetched(&stranger).await, Code::PermissionDenied);
    assert_ne!(secured.fetched(&member).await, Code::PermissionDenied);
}
