//! What a new list of revocations, or of CAs, does to connections that stand.

use std::{fs, sync::Arc};

use devicedb::proto::v1::Bucket;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{Authority, Issued, Leaf, Secured, channel, get, handshake};
use crate::harness::{Client, Options, SOON, SnapshotStore, Writer, eventually};

/// Three nodes with a list that revokes nothing yet; node `n` has the serial `100 + n`.
async fn listed() -> Secured {
    let options = Options { snapshot_store: SnapshotStore::None, ..Options::default() };
    let mut secured = Secured::prepared(3, options);
    let list = secured.authority.revoke(&[]);
    for at in 0..3 {
        let number = at as u64 + 1;
        let leaf = Leaf { serial: 100 + number, ..Leaf::node(&format!("n{number}")) };
        secured.authority.issue(&secured.node(at).name, &leaf);
        let node = &mut secured.cluster.nodes[at];
        node.args.extend(["--tls-crl".into(), list.display().to_string()]);
        node.start();
        secured.answers(at, "/readyz", 200).await;
    }
    secured.settled().await;
    secured
}

/// A connection on which a page was read, and which stays open.
async fn held(secured: &Secured, issued: &Issued) -> TlsStream<TcpStream> {
    let endpoint = secured.node(0).endpoint();
    let mut stream = handshake(&endpoint, &secured.config(issued)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

/// Waits until the other side ends a connection, while those who are believed go on.
async fn ends(mut stream: TlsStream<TcpStream>, others: &[Client]) {
    let ended = tokio::spawn(async move {
        let ended = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
        drop(ended.expect("a connection that is not believed any more ends"));
    });
    let mut written = 0;
    while !ended.is_finished() || written < 50 {
        for client in others {
            let key = format!("k{}", written % 50);
            client.put("shop", Bucket::Lww, key, "v").await.unwrap();
            written += 1;
        }
    }
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_what_the_revoked_have_open_and_nobody_else_notices() {
    let secured = listed().await;
    let gone = secured.authority.issue("gone", &Leaf { serial: 4711, ..Leaf::admin("gone") });
    let clients = secured.clients().await;
    clients[0].add_site("shop").await.unwrap();
    let stream = held(&secured, &gone).await;
    let calls = secured.client_with(0, &gone).await;
    calls.overview().await.unwrap();
    let other = held(&secured, &secured.ops).await;

    // Nobody says anything to the nodes: they look by themselves.
    secured.authority.revoke(&[4711]);
    ends(stream, &clients).await;
    let refused = calls.overview().await.unwrap_err();
    assert!(refused.message().contains("been revoked"), "{refused:?}");
    secured.node(0).says_times("devicedb/admin/gone", 2).await;
    let config = secured.config(&gone);
    let (code, page) = get(&secured.node(0).endpoint(), &config, "/metrics").await.unwrap();
    assert!(code == 401 && page.contains("been revoked"), "{code} {page}");
    for at in 0..3 {
        assert!(!secured.node(at).log().contains("admin/ops"), "{}", secured.node(at).log_end());
    }
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_cut_off_from_the_others_at_once_and_they_go_on() {
    let secured = listed().await;
    let clients = secured.clients().await;
    clients[0].add_site("shop").await.unwrap();
    let writer = Writer::start(&clients[..2], "shop", Bucket::Default, "k");
    writer.goes_on(20, SOON).await;
    secured.authority.revoke(&[103]);
    for at in 0..2 {
        let node = secured.node(at);
        eventually(&format!("{} ends its streams with the third", node.name), SOON, async || {
            let log = node.log();
            let ended = "a connection ends: its certificate is not believed";
            let named = log.lines().filter(|l| l.contains(ended) && l.contains("node/n3"));
            // That on which it speaks, and that on which it is spoken to.
            if named.count() >= 2 { Ok(()) } else { Err(node.log_end()) }
        })
        .await;
    }
    eventually("the others do not reach it", SOON, async || {
        let seen = clients[0].overview().await.map_err(|e| e.to_string())?;
        let reached = seen.nodes.iter().filter(|node| node.reachable).count();
        if reached == 2 { Ok(()) } else { Err(format!("{seen:#?}")) }
    })
    .await;
    secured.answers(2, "/readyz", 503).await;
    writer.goes_on(50, SOON).await;
    let ledger = writer.stop().await;
    ledger.check(&clients[0], "shop", Bucket::Default).await;
    // It was a mistake.
    secured.authority.revoke(&[]);
    secured.settled().await;
    secured.answers(2, "/readyz", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_taken_out_ends_what_its_clients_have_open() {
    let secured = Secured::start(1, Options::default()).await;
    let other = Authority::new(secured.cluster.dir(), "other");
    let ours = fs::read_to_string(&secured.authority.ca_path).unwrap();
    let theirs = fs::read_to_string(&other.ca_path).unwrap();
    let clients = secured.clients().await;
    clients[0].add_site("shop").await.unwrap();
    fs::write(&secured.authority.ca_path, ours.clone() + &theirs).unwrap();
    let guest = other.issue("guest", &Leaf::admin("guest"));
    let config = secured.config(&guest);
    let endpoint = secured.node(0).endpoint();
    eventually("the other CA's clients are let in", SOON, async || {
        match get(&endpoint, &config, "/metrics").await.map(|(code, _)| code) {
            Ok(200) => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    let stream = held(&secured, &guest).await;
    fs::write(&secured.authority.ca_path, &ours).unwrap();
    ends(stream, &clients).await;
    let config = Arc::new((*config).clone());
    let calls = channel(&endpoint, &config).await.unwrap();
    let refused = Client::through(calls, &endpoint).overview().await.unwrap_err();
    assert!(refused.message().contains("of another CA"), "{refused:?}");
}
