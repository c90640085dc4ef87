//! Who gets in, who does not, and what they are told.

use std::{fs, time::Duration};

use devicedb::{
    base::{clock::Clock, limits},
    proto::{
        internal::v1::{GetNodeStatusRequest, peer_service_client::PeerServiceClient},
        v1::{
            Bucket, GetIdentityRequest, SnapshotStatus,
            cluster_service_client::ClusterServiceClient,
        },
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, transport::Channel};

use super::{Authority, Leaf, Secured, channel, get, handshake, number, shown};
use crate::harness::{
    Cluster, Node, Options, SOON, SnapshotStore, ddbctl, eventually, http_get, shell,
};

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_with_certificates_found_serve_and_back_up_and_nothing_goes_unencrypted() {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut secured = Secured::prepared(3, options);
    let all = secured.cluster.nodes.iter().map(Node::endpoint).collect::<Vec<_>>().join(",");
    for node in &mut secured.cluster.nodes {
        node.args.retain(|word| word != "--found" && !word.starts_with("--replication-factor="));
        if let Some(at) = node.args.iter().position(|word| word == "--join") {
            node.args.drain(at..at + 2);
        }
        let shape = ["--join", &all, "--partitions=64", "--groups=8"].map(str::to_owned);
        node.args
            .retain(|word| !word.starts_with("--partitions=") && !word.starts_with("--groups="));
        node.args.extend(shape);
        node.start();
    }
    for at in 0..3 {
        secured.answers(at, "/readyz", 503).await;
    }
    eventually("they found a cluster when they are told to", SOON, async || {
        let ran = secured.ctl(&["cluster", "init"]).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    for at in 0..3 {
        secured.answers(at, "/readyz", 200).await;
    }
    secured.settled().await;

    secured.ctl(&["site", "add", "shop"]).await.exits(0);
    secured.ctl(&["put", "--site", "shop", "k", "v"]).await.exits(0);
    secured.ctl(&["get", "--site", "shop", "k"]).await.exits(0).says("v");
    for client in secured.clients().await {
        client.put("shop", Bucket::Default, "k", client.endpoint.clone()).await.unwrap();
    }
    let client = secured.client(0).await;
    let snapshot = client.complete_snapshot(SOON).await;
    assert_eq!(snapshot.status(), SnapshotStatus::Completed);
    // From one node, those of the others: it fetches them.
    for part in &snapshot.parts {
        let (downloaded, outcome) = client.download(&snapshot.uuid, part.node_id, 0).await;
        outcome.unwrap();
        assert_eq!(downloaded.trailer.unwrap().total_bytes, downloaded.data.len() as u64);
    }
    for at in 0..3 {
        let page = secured.metrics(at).await;
        for kind in ["client", "node", "page"] {
            let name = format!(r#"devicedb_plain_connections_total{{kind="{kind}"}}"#);
            assert_eq!(number(&page, &name), 0, "{page}");
        }
        assert!(number(&page, "devicedb_tls_handshakes_total") > 2, "{page}");
    }
}

pub async fn public(channel: Channel) -> (Code, String) {
    let asked = ClusterServiceClient::new(channel).get_identity(GetIdentityRequest {}).await;
    asked.map_or_else(|e| (e.code(), e.message().to_owned()), |_| (Code::Ok, String::new()))
}

async fn between_nodes(channel: Channel) -> (Code, String) {
    let asked = PeerServiceClient::new(channel).get_node_status(GetNodeStatusRequest {}).await;
    asked.map_or_else(|e| (e.code(), e.message().to_owned()), |_| (Code::Ok, String::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_belong_is_refused_with_the_reason() {
    let mut secured = Secured::prepared(1, Options::default());
    let ours = &secured.authority;
    let other = Authority::new(secured.cluster.dir(), "other");
    let twin_dir = secured.cluster.dir().join("beside");
    fs::create_dir(&twin_dir).unwrap();
    let twin = Authority::new(&twin_dir, "acme");
    let day = 24 * 3600;
    let client = Leaf::client("c");
    let revoked = Leaf { serial: 4711, ..Leaf::client("gone") };
    let revoked_node = Leaf { serial: 4712, ..Leaf::node("gone") };
    let list = ours.revoke(&[4711, 4712]);
    let all = vec![
        ("a client", ours.issue("w0", &client), Ok(Code::Ok), Err("is no node")),
        (
            "a member",
            ours.issue("w1", &Leaf::node("n1")),
            Err("is a node, and no client"),
            Ok(Code::Ok),
        ),
        (
            "a node of another cluster",
            ours.issue("w17", &Leaf::node("x")),
            Err("is a node, and no client"),
            Err("is a node, and none of this cluster"),
        ),
        (
            "expired",
            ours.issue("w2", &Leaf { from: -3 * day, until: -day, ..client.clone() }),
            Err("has expired, on"),
            Err("has expired, on"),
        ),
        (
            "not yet valid, as to a clock that is a day behind",
            ours.issue("w3", &Leaf { from: day, ..client.clone() }),
            Err("is not valid before"),
            Err("is not valid before"),
        ),
        ("of another CA", other.issue("w4", &client), Err("of another CA"), Err("of another CA")),
        (
            "of another CA, a node",
            other.issue("w5", &Leaf::node("x")),
            Err("of another CA"),
            Err("of another CA"),
        ),
        (
            "of another CA of the same name",
            twin.issue("w6", &client),
            Err("another of the same name"),
            Err("another of the same name"),
        ),
        (
            "a common name alone",
            ours.issue("w7", &Leaf { uris: Vec::new(), ..client.clone() }),
            Err("a common name is no identity"),
            Err("a common name is no identity"),
        ),
        (
            "a node and a client at once",
            ours.issue(
                "w8",
                &Leaf {
                    uris: [Leaf::node("x").uris, client.uris.clone()].concat(),
                    ..client.clone()
                },
            ),
            Err("it names several"),
            Err("it names several"),
        ),
        (
            "a node's name without a name",
            ours.issue(
                "w9",
                &Leaf { uris: vec!["spiffe://acme/devicedb/node/".into()], ..client.clone() },
            ),
            Ok(Code::Ok),
            Err("is no node"),
        ),
        ("revoked", ours.issue("w10", &revoked), Err("been revoked"), Err("been revoked")),
        (
            "a revoked node",
            ours.issue("w11", &revoked_node),
            Err("been revoked"),
            Err("been revoked"),
        ),
        (
            "for servers only",
            ours.issue(
                "w12",
                &Leaf { uses: vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth], ..client.clone() },
            ),
            Err("not for this use"),
            Err("not for this use"),
        ),
        (
            "a CA's",
            ours.issue("w13", &Leaf { is_ca: true, ..client.clone() }),
            Err("cannot be believed"),
            Err("cannot be believed"),
        ),
        (
            "a wildcard",
            ours.issue(
                "w15",
                &Leaf { uris: Vec::new(), hosts: vec!["*.example".into()], ..client.clone() },
            ),
            Err("is a pattern, and no name"),
            Err("is a pattern, and no name"),
        ),
        (
            "any node",
            ours.issue("w16", &Leaf::node("*")),
            Err("is a pattern, and no name"),
            Err("is a pattern, and no name"),
        ),
        (
            "a DNS name and no URI",
            ours.issue(
                "w14",
                &Leaf { uris: Vec::new(), hosts: vec!["till.example".into()], ..client.clone() },
            ),
            Ok(Code::Ok),
            Err("is no node"),
        ),
    ];
    secured.cluster.nodes[0].args.extend(["--tls-crl".into(), list.display().to_string()]);
    secured.cluster.nodes[0].start();
    secured.answers(0, "/readyz", 200).await;
    let endpoint = secured.node(0).endpoint();
    for (who, issued, wanted_public, wanted_between) in all {
        let config = secured.config(&issued);
        let channel = channel(&endpoint, &config).await.unwrap_or_else(|e| panic!("{who}: {e:?}"));
        for (found, wanted) in [
            (public(channel.clone()).await, wanted_public),
            (between_nodes(channel.clone()).await, wanted_between),
        ] {
            match wanted {
                Ok(code) => assert_eq!(found.0, code, "{who}: {found:?}"),
                Err(words) => {
                    let known = words.contains("is no node") || words.contains("is a node");
                    let code = if known { Code::PermissionDenied } else { Code::Unauthenticated };
                    assert_eq!(found.0, code, "{who}: {found:?}");
                    assert!(found.1.contains(words), "{who}: {found:?}");
                }
            }
        }
        // Whether the node lives is no secret.
        let (code, _) = get(&endpoint, &config, "/healthz").await.unwrap();
        assert_eq!(code, 200, "{who}");
    }

    let bare = devicedb::net::tls::material::client(&secured.authority.ca_path, None).unwrap();
    let nobody = channel(&endpoint, &bare).await.unwrap();
    for found in [public(nobody.clone()).await, between_nodes(nobody).await] {
        assert_eq!(found.0, Code::Unauthenticated);
        assert!(found.1.contains("neither a certificate nor a token was given"), "{found:?}");
    }
    for (path, code) in [("/healthz", 200), ("/readyz", 200), ("/metrics", 401), ("/other", 401)] {
        assert_eq!(get(&endpoint, &bare, path).await.unwrap().0, code, "{path}");
    }
    let page = secured.metrics(0).await;
    for (why, least) in [("dates", 2), ("issuer", 3), ("revoked", 2), ("unfit", 4)] {
        let name = format!(r#"devicedb_tls_handshakes_failed_total{{why="{why}"}}"#);
        assert!(number(&page, &name) >= least, "{why}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_names_certificates_beside_its_file_and_a_flag_takes_the_place_of_one() {
    let secured = Secured::start(1, Options::default()).await;
    let other = Authority::new(secured.cluster.dir(), "other");
    let stranger = other.issue("stranger", &Leaf::client("stranger"));
    let home = secured.cluster.dir().join("home");
    fs::create_dir_all(home.join("devicedb")).unwrap();
    let config = format!(
        "current = \"acme\"\n[contexts.acme]\nendpoints = [\"{}\"]\nca = \
         \"../../acme/ca.crt\"\ncert = \"../../acme/ops.crt\"\nkey = \"../../acme/ops.key\"\n",
        secured.node(0).endpoint()
    );
    fs::write(home.join("devicedb/config.toml"), config).unwrap();
    let list = |words: String| {
        let home = home.display().to_string();
        async move {
            let line = format!("env -u DDBCTL_CONTEXT XDG_CONFIG_HOME={home} ddbctl node list");
            shell(&format!("{line} {words}"), SOON).await
        }
    };
    list(String::new()).await.exits(0).says(&secured.node(0).endpoint());
    let mine = format!("--cert {} --key {}", stranger.cert.display(), stranger.key.display());
    list(mine).await.exits(4).says("the caller is not believed");
    list(format!("--ca {}", other.ca_path.display()))
        .await
        .exits(4)
        .says("the node is not believed");
    let plain = Cluster::start(1, Options::default()).await;
    let elsewhere = format!("--endpoint {}", plain.nodes[0].endpoint());
    list(elsewhere.clone()).await.exits(4).says("does not speak TLS").says("--context ''");
    list(format!("{elsewhere} --context ''")).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ddbctl_says_what_is_wrong_and_exits_4() {
    let secured = Secured::start(1, Options::default()).await;
    let ours = &secured.authority;
    let other = Authority::new(secured.cluster.dir(), "other");
    let endpoint = secured.node(0).endpoint();
    let plain = Cluster::start(1, Options::default()).await;
    let at = |words: Vec<String>, endpoint: String| async move {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ddbctl(&endpoint, &[&words[..], &["site", "list"]].concat()).await
    };
    let with = |issued| ours.ctl_words(&issued);
    at(Vec::new(), endpoint.clone()).await.exits(4).says("this node speaks TLS").says("--ca");
    let ca_only = vec!["--ca".to_owned(), ours.ca_path.display().to_string()];
    at(ca_only, endpoint.clone())
        .await
        .exits(4)
        .says("neither a certificate nor a token was given")
        .says("--cert");
    at(other.ctl_words(&secured.ops), endpoint.clone())
        .await
        .exits(4)
        .says("another CA")
        .says("--ca");
    let expired = ours.issue("old", &Leaf { from: -9, until: -1, ..Leaf::client("old") });
    at(with(expired), endpoint.clone()).await.exits(4).says("has expired, on");
    at(with(ours.issue("n", &Leaf::node("n"))), endpoint.clone()).await.exits(4).says("is a node");
    let by_name = endpoint.replace("127.0.0.1", "localhost");
    at(with(secured.ops.clone()), by_name.clone())
        .await
        .exits(4)
        .says("not for localhost, but for 127.0.0.1")
        .says("--server-name");
    let mut named = with(secured.ops.clone());
    named.extend(["--server-name".to_owned(), "127.0.0.1".to_owned()]);
    at(named, by_name).await.exits(0);
    at(with(secured.ops.clone()), plain.nodes[0].endpoint())
        .await
        .exits(4)
        .says("does not speak TLS");
    let mut mixed = secured.ops.clone();
    mixed.key = ours.issue("p", &Leaf::client("p")).key;
    at(with(mixed), endpoint.clone()).await.exits(2).says("it is not the key of");
    at(with(secured.ops.clone()), endpoint).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_files_that_cannot_be_used_is_refused_by_their_names() {
    let cluster = Cluster::empty(Options::default());
    let ours = Authority::new(cluster.dir(), "acme");
    let other = Authority::new(cluster.dir(), "other");
    let node = ours.issue("node", &Leaf::node("n"));
    let second = ours.issue("second", &Leaf::node("m"));
    let garbage = cluster.dir().join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        .unwrap();
    let with = |cert: &std::path::Path, key: &std::path::Path, ca: &std::path::Path| {
        [("--tls-cert", cert), ("--tls-key", key), ("--tls-ca", ca)]
            .into_iter()
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect::<Vec<_>>()
    };
    let expired = ours.issue("expired", &Leaf { from: -9, until: -1, ..Leaf::node("n") });
    let early = ours.issue("early", &Leaf { from: 99, ..Leaf::node("n") });
    let client = ours.issue("client", &Leaf::client("c"));
    let stranger = other.issue("stranger", &Leaf::node("n"));
    // RSA of 1024 bits.
    let weak =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tls/rsa-1024.key");
    let missing = cluster.dir().join("missing.crt");
    let ca = &ours.ca_path;
    for (words, told) in [
        (with(&node.cert, &second.key, ca), vec!["second.key", "not the key of", "node.crt"]),
        (with(&node.cert, &weak, ca), vec!["rsa-1024.key"]),
        (with(&missing, &node.key, ca), vec!["missing.crt"]),
        (with(&garbage, &node.key, ca), vec!["garbage.pem"]),
        (with(&node.cert, &node.cert, ca), vec!["node.crt", "no private key"]),
        (with(&node.cert, &node.key, &node.key), vec!["node.key", "no certificate"]),
        (with(&expired.cert, &expired.key, ca), vec!["expired.crt", "has expired, on"]),
        (with(&early.cert, &early.key, ca), vec!["early.crt", "not valid before"]),
        (with(&client.cert, &client.key, ca), vec!["client.crt", "devicedb/node/NAME"]),
        (with(&stranger.cert, &stranger.key, ca), vec!["stranger.crt", "another CA"]),
        (vec!["--tls".into(), "required".into()], vec!["--tls-cert", "--tls-ca"]),
        (vec!["--tls".into(), "optional".into()], vec!["--tls-cert", "--tls-ca"]),
        (vec!["--tls-cert".into(), "a".into()], vec!["--tls-key", "--tls-ca"]),
        (vec!["--tls".into(), "maybe".into()], vec!["off, optional or required"]),
    ] {
        let mut refused = cluster.further();
        refused.args.extend(words);
        let mut ran = refused.start_refused().await.exits(2);
        for word in told {
            ran = ran.says(word);
        }
        assert!(!refused.store.exists(), "it has left something behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_hellos_delay_nobody_and_are_freed() {
    let secured = Secured::start(1, Options::default()).await;
    let endpoint = secured.node(0).endpoint();
    secured.client(0).await.add_site("shop").await.unwrap();
    let clock = Clock::start();
    let mut held = Vec::new();
    for number in 0..limits::HANDSHAKES_MAX + 200 {
        let mut slow = TcpStream::connect(&endpoint).await.unwrap();
        // The beginning of a record of which the rest never comes.
        slow.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        held.push(slow);
        if number % 2 == 0 {
            held.push(TcpStream::connect(&endpoint).await.unwrap());
        }
    }
    let before = clock.now();
    let client = secured.client(0).await;
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    let took = clock.now() - before;
    assert!(took < Duration::from_secs(2), "a handshake beside slow ones took {took:?}");
    for mut slow in held {
        let ended = tokio::time::timeout(2 * limits::HANDSHAKE, slow.read(&mut [0; 64])).await;
        let ended = ended.expect("a connection that says nothing is closed");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    let page = secured.metrics(0).await;
    let failed = |why: &str| {
        number(&page, &format!(r#"devicedb_tls_handshakes_failed_total{{why="{why}"}}"#))
    };
    assert!(failed("room") >= 200 && failed("late") >= 300, "{page}");
    assert!(number(&page, "devicedb_connections") < 20, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_plainly_to_tls_or_tls_to_a_plain_port_is_told_so() {
    let secured = Secured::start(1, Options::default()).await;
    let (code, page) = http_get(&secured.node(0).endpoint(), "/healthz").await.unwrap();
    assert!(code == 400 && page.contains("speaks TLS"), "{code} {page}");
    let endpoint = format!("http://{}", secured.node(0).endpoint());
    let plain = tonic::transport::Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
    for found in [public(plain.clone()).await, between_nodes(plain).await] {
        assert_eq!(found.0, Code::Unauthenticated);
        assert!(found.1.contains("speaks TLS"), "{found:?}");
    }
    let page = secured.metrics(0).await;
    for kind in ["client", "node", "page"] {
        let name = format!(r#"devicedb_plain_connections_total{{kind="{kind}"}}"#);
        assert_eq!(number(&page, &name), 1, "{page}");
    }

    let without = Cluster::start(1, Options::default()).await;
    let e =
        handshake(&without.nodes[0].endpoint(), &secured.config(&secured.ops)).await.unwrap_err();
    assert!(e.to_string().contains("UnexpectedMessage"), "{e}");
    let e = channel(&without.nodes[0].endpoint(), &secured.config(&secured.ops)).await.unwrap_err();
    let fault = devicedb::net::tls::Fault::behind(&e).expect("it is about TLS");
    assert!(fault.to_string().contains("does not speak TLS"), "{fault}");
    // TLS of yesterday is none: nothing before 1.3 is spoken.
    let mut old = TcpStream::connect(secured.node(0).endpoint()).await.unwrap();
    old.write_all(&[0x16, 3, 1, 0, 4, 1, 0, 0, 0]).await.unwrap();
    let mut alert = [0; 7];
    old.read_exact(&mut alert).await.unwrap();
    assert_eq!(alert[0], 21, "an alert: {alert:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_certificate_that_opened_it() {
    let secured = Secured::start(1, Options::default()).await;
    let seconds = 4;
    let short = Leaf { until: seconds, ..Leaf::client("short") };
    let issued = secured.authority.issue("short", &short);
    let mut stream =
        handshake(&secured.node(0).endpoint(), &secured.config(&issued)).await.unwrap();
    assert!(shown(&stream).len() > 100);
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n").await.unwrap();
    let read = stream.read(&mut [0; 12]).await.unwrap();
    assert!(read > 0, "while it is valid, it is answered");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it stays open");
    let (code, page) =
        get(&secured.node(0).endpoint(), &secured.config(&issued), "/metrics").await.unwrap();
    assert!(code == 401 && page.contains("has expired"), "{code} {page}");
}
