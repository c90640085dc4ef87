//! Machines that become nodes by join tokens alone.

use std::{fs, io::ErrorKind, net::TcpListener};

use devicedb::{
    base::ids::NodeId,
    cluster::level::Level,
    net::{
        self,
        tls::ticket::{JoinToken, Joiner},
    },
    proto::internal::v1::{JoinProof, JoinRequest, NodeRecord},
};
use tonic::Code;

use super::{Leaf, Secured, audit::told};
use crate::harness::{Node, Options, Ran, SOON, eventually};

impl Secured {
    /// A machine with a certificate of a node, which is not started yet.
    fn machine(&self, name: &str) -> Node {
        let mut node = self.cluster.further();
        let issued = self.authority.issue(&node.name, &Leaf::node(name));
        node.args.extend(self.authority.words(&issued));
        node
    }

    async fn members(&self) -> usize {
        self.client(0).await.overview().await.unwrap().nodes.len()
    }

    async fn join_token(&self, words: &[&str]) -> Ran {
        let all: Vec<&str> =
            ["-o", "json", "token", "create"].into_iter().chain(words.iter().copied()).collect();
        self.ctl(&all).await.exits(0)
    }
}

/// The id of the token that was made.
fn id_in(made: &Ran) -> String {
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

fn with_token(node: &mut Node, file: &std::path::Path) {
    node.args.extend(["--join-token".to_owned(), file.display().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_nodes_certificate_joins_by_a_token_that_holds_and_otherwise_not() {
    let mut secured = Secured::prepared(1, Options::default());
    let (log, tokens) = (secured.cluster.dir().join("audit"), secured.cluster.dir().join("tokens"));
    fs::create_dir(&tokens).unwrap();
    let words = ["--audit-log".to_owned(), log.display().to_string()];
    secured.cluster.nodes[0].args.extend(words);
    secured.cluster.nodes[0].start();
    secured.answers(0, "/readyz", 200).await;
    secured.settled().await;
    let file = |name: &str| tokens.join(name);
    let in_file = |name: &str| file(name).display().to_string();

    secured.ctl(&["cluster", "joins"]).await.exits(0).says("every machine");
    secured.ctl(&["cluster", "joins", "token"]).await.exits(0).says("from now on");
    secured.ctl(&["cluster", "joins", "token"]).await.exits(0).says("as before");
    secured.ctl(&["cluster", "joins"]).await.exits(0).says("need a join token");

    // With a certificate of the same CA, as one of another cluster of its owner has it.
    let mut stray = secured.machine("stray");
    stray.start_refused().await.says("by join tokens alone").says("has brought none");
    let one = secured.join_token(&["one", "--join", "--file", &in_file("one")]).await;
    assert!(!one.out().contains("ddbj_"), "it is in the file alone: {}", one.out());
    let text = fs::read_to_string(file("one")).unwrap();
    assert!(text.starts_with("ddbj_"), "{text}");

    // One that somebody has made up.
    let forged = file("forged");
    let mut other = text.trim().to_owned();
    let at = other.len() - 8;
    other.replace_range(at..=at, if other.as_bytes()[at] == b'A' { "B" } else { "A" });
    fs::copy(file("one"), &forged).unwrap();
    fs::write(&forged, other).unwrap();
    with_token(&mut stray, &forged);
    stray.start_refused().await.says("its secret is another one");
    assert_eq!(secured.members().await, 1);

    let mut second = secured.machine("n2");
    with_token(&mut second, &file("one"));
    second.start();
    secured.cluster.nodes.push(second);
    secured.answers(1, "/readyz", 200).await;
    assert_eq!(secured.members().await, 2);
    secured.ctl(&["token", "list"]).await.exits(0).says("join, 0 left").says("used up");
    let mut stray = secured.machine("stray");
    with_token(&mut stray, &file("one"));
    stray.start_refused().await.says("used up");

    // Who has joined needs no token any more, and none of what is made with it is written down.
    fs::remove_file(file("one")).unwrap();
    secured.cluster.nodes[1].terminate().await;
    secured.cluster.nodes[1].start();
    secured.answers(1, "/readyz", 200).await;
    let secret = text.trim().rsplit('_').next().unwrap();
    let noted = fs::read_to_string(log.join("audit.jsonl")).unwrap();
    assert!(!noted.contains(secret), "{noted}");
    let joins = told(&log, "Join");
    assert!(joins.iter().any(|line| line.contains("by join token") && line.ends_with("OK")));
    assert!(joins.iter().any(|line| line.starts_with("denied stray")), "{joins:#?}");

    // One that is revoked, and one that has expired.
    let made =
        secured.join_token(&["two", "--join", "--uses", "5", "--file", &in_file("two")]).await;
    let id = id_in(&made);
    secured.ctl(&["token", "revoke", &id]).await.exits(0);
    stray.args.truncate(stray.args.len() - 2);
    with_token(&mut stray, &file("two"));
    stray.start_refused().await.says(&format!("no join token {id}"));
    secured.join_token(&["short", "--join", "--expires", "1s", "--file", &in_file("short")]).await;
    eventually("it has expired", SOON, async || {
        let ran = secured.ctl(&["token", "list"]).await;
        if ran.out().contains("expired") { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    stray.args.truncate(stray.args.len() - 2);
    with_token(&mut stray, &file("short"));
    stray.start_refused().await.says("has expired");

    secured.ctl(&["cluster", "joins", "open"]).await.exits(0);
    stray.start();
    secured.cluster.nodes.push(stray);
    secured.answers(2, "/readyz", 200).await;
    assert_eq!(secured.members().await, 3);
}

/// With a certificate of a node, and as many machines as it makes up.
#[tokio::test(flavor = "multi_thread")]
async fn machines_that_somebody_makes_up_are_not_called_and_take_no_place() {
    let secured = Secured::start(1, Options::default()).await;
    secured.ctl(&["cluster", "joins", "token"]).await.exits(0);
    let token = secured.cluster.dir().join("token");
    let words = ["one", "--join", "--file", &token.display().to_string()];
    let id = u32::from_str_radix(&id_in(&secured.join_token(&words).await), 16).unwrap();
    let forger = secured.authority.issue("forger", &Leaf::node("forger"));
    let called = TcpListener::bind("127.0.0.1:0").unwrap();
    called.set_nonblocking(true).unwrap();
    let address = called.local_addr().unwrap().to_string();
    let mut peer = secured.peer(0, &forger).await;
    for node in 1..=300 {
        let node = NodeRecord {
            id: node,
            address: address.clone(),
            level: Level::own().0,
            ..NodeRecord::default()
        };
        let signature = vec![node.id as u8; 64].into();
        let proof = node.id.is_multiple_of(2).then(|| JoinProof {
            token_id: id,
            signature,
            ..JoinProof::default()
        });
        let protocol = *net::PROTOCOLS.end();
        let asked = JoinRequest { node: Some(node), protocol, proof, ..JoinRequest::default() };
        let refused = peer.join(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    // What a machine with the token has said to somebody else.
    let heard = {
        let name = "spiffe://acme/devicedb/node/n2";
        let (node, incarnation) = (NodeId(4711), 7);
        let joiner = Joiner { node, incarnation, address: &address, name: Some(name) };
        JoinToken::read(&token).unwrap().prove(&joiner)
    };
    let renamed = JoinProof { name: "spiffe://acme/devicedb/node/forger".into(), ..heard.clone() };
    for proof in [heard, renamed] {
        let node = NodeRecord {
            id: 4711,
            address: address.clone(),
            level: Level::own().0,
            ..NodeRecord::default()
        };
        let asked = JoinRequest {
            node: Some(node),
            protocol: *net::PROTOCOLS.end(),
            incarnation: 7,
            proof: Some(proof),
            ..JoinRequest::default()
        };
        let refused = peer.join(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    }
    let nobody = called.accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock);
    assert_eq!(secured.members().await, 1);
    // Whoever has the token finds it as it was.
    let mut node = secured.machine("n2");
    with_token(&mut node, &token);
    node.start();
    eventually("the real one joins", SOON, async || {
        let members = secured.members().await;
        if members == 2 { Ok(()) } else { Err(members) }
    })
    .await;
}
