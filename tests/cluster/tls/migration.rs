//! From open to closed, and from old certificates to new ones, under load.

use std::{fs, time::Duration};

use devicedb::{base::clock::Clock, proto::v1::Bucket};
use rustix::process::Signal;

use super::{Authority, Leaf, Secured, channel, handshake, number, shown};
use crate::harness::{Client, Cluster, Options, SOON, SnapshotStore, Writer, eventually, http_get};

fn options() -> Options {
    Options { snapshot_store: SnapshotStore::None, ..Options::default() }
}

/// Restarts one node after the other with these words more, each when the one before is back.
async fn restart_each(secured: &mut Secured, words: impl Fn(usize) -> Vec<String>) {
    for at in 0..secured.cluster.nodes.len() {
        let node = &mut secured.cluster.nodes[at];
        node.terminate().await;
        if let Some(from) = node.args.iter().position(|word| word == "--tls") {
            node.args.truncate(from);
        }
        node.args.extend(words(at));
        node.args.retain(|word| word != "--found");
        node.start();
        let endpoint = node.endpoint();
        let required = node.args.contains(&"required".to_owned());
        if required {
            secured.answers(at, "/readyz", 200).await;
            secured.settled().await;
        } else {
            let plain = Client::to(&endpoint);
            eventually("it is back, and so is every replica", SOON, async || {
                let seen = plain.overview().await.map_err(|e| e.to_string())?;
                let whole = seen.groups_under_replicated == 0
                    && seen.groups_without_leader == 0
                    && !seen.meta_under_replicated
                    && seen.nodes.iter().all(|node| node.reachable && node.ready);
                if whole { Ok(()) } else { Err(format!("{seen:#?}")) }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_from_open_to_closed_and_back_by_restarts_without_a_failed_request() {
    let cluster = Cluster::start(3, options()).await;
    let authority = Authority::new(cluster.dir(), "acme");
    let ops = authority.issue("ops", &Leaf::admin("ops"));
    let issued: Vec<_> = (1..=3)
        .map(|n| authority.issue(&format!("node{n}"), &Leaf::node(&format!("n{n}"))))
        .collect();
    let words = |mode: &str, at: usize| {
        let mut words = vec!["--tls".to_owned(), mode.to_owned()];
        words.extend(authority.words(&issued[at]));
        words
    };
    let all: Vec<Vec<Vec<String>>> = ["optional", "required", "optional"]
        .iter()
        .map(|mode| (0..3).map(|at| words(mode, at)).collect())
        .collect();
    let mut secured = Secured { cluster, authority, ops };
    let plain = secured.cluster.clients();
    plain[0].add_site("old").await.unwrap();
    plain[0].add_site("new").await.unwrap();

    let old = Writer::start(&plain, "old", Bucket::Default, "k");
    old.goes_on(50, SOON).await;
    restart_each(&mut secured, |at| all[0][at].clone()).await;
    old.goes_on(50, SOON).await;
    let page = http_get(&secured.node(0).endpoint(), "/metrics").await.unwrap().1;
    let kind = |page: &str, kind: &str| {
        number(page, &format!(r#"devicedb_plain_connections_total{{kind="{kind}"}}"#))
    };
    assert!(kind(&page, "client") > 0 && kind(&page, "page") > 0, "{page}");
    // They are known by what they have proved, without anybody's saying it.
    secured.are_named(&["n1", "n2", "n3"]).await;
    let new = Writer::start(&secured.clients().await, "new", Bucket::Default, "k");
    new.goes_on(50, SOON).await;
    let ledger_old = old.stop().await;

    restart_each(&mut secured, |at| all[1][at].clone()).await;
    new.goes_on(50, SOON).await;
    for at in 0..3 {
        let page = secured.metrics(at).await;
        assert_eq!(kind(&page, "node"), 0, "every node dials TLS by now: {page}");
    }
    let (code, _) = http_get(&secured.node(0).endpoint(), "/readyz").await.unwrap();
    assert_eq!(code, 400);

    restart_each(&mut secured, |at| all[2][at].clone()).await;
    new.goes_on(50, SOON).await;
    let ledger_new = new.stop().await;
    let client = secured.client(0).await;
    ledger_old.check(&client, "old", Bucket::Default).await;
    ledger_new.check(&client, "new", Bucket::Default).await;
}

/// How often a node gets another certificate while writers write; `make soak-rotations` has more.
const ROTATIONS: usize = 12;
/// Within which a node shows the certificate that its files hold, told of it or not.
const SHOWN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_load_and_no_request_fails() {
    let secured = Secured::start(3, options()).await;
    let clients = secured.clients().await;
    clients[0].add_site("shop").await.unwrap();
    let config = secured.config(&secured.ops);
    let fresh = async |at: usize| {
        handshake(&secured.node(at).endpoint(), &config).await.map(|stream| shown(&stream))
    };
    let asked = std::env::var("DEVICEDB_ROTATIONS").ok();
    let rotations = asked.map_or(ROTATIONS, |count| count.parse().expect("it is a number"));
    let writer = Writer::start(&clients, "shop", Bucket::Default, "k");
    let (clock, mut slowest) = (Clock::start(), Duration::ZERO);
    for turn in 0..rotations {
        let (at, began) = (turn % 3, clock.now());
        let name = &secured.node(at).name;
        let issued = secured.authority.issue(name, &Leaf::node(&format!("n{}", at + 1)));
        // Some are found by themselves.
        if turn % 7 != 0 {
            secured.node(at).signal(Signal::HUP);
        }
        eventually(&format!("{name} shows its new certificate"), SHOWN, async || {
            match fresh(at).await {
                Ok(der) if der == issued.der => Ok(()),
                Ok(_) => Err("the old one".to_owned()),
                Err(e) => Err(e.to_string()),
            }
        })
        .await;
        slowest = slowest.max(clock.now() - began);
        // A new connection serves at once.
        let endpoint = secured.node(at).endpoint();
        let channel = channel(&endpoint, &config).await.unwrap();
        let put = Client::through(channel, &endpoint)
            .put("shop", Bucket::Lww, format!("r{turn}"), "v")
            .await;
        put.unwrap_or_else(|e| panic!("rotation {turn}, on a fresh connection: {e}"));
    }
    writer.goes_on(20, SOON).await;
    let ledger = writer.stop().await;
    println!(
        "{rotations} rotations in {:?}, each shown within {slowest:?}; {} writes, {} failed \
         requests",
        clock.now(),
        ledger.acknowledged.len(),
        ledger.failed
    );
    assert_eq!(ledger.failed, 0, "no request fails because a certificate changes");
    ledger.check(&clients[0], "shop", Bucket::Default).await;
    // Streams between nodes that break now are opened by the new certificates.
    secured.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_change_nothing_and_a_metric_says_so() {
    let secured = Secured::start(1, options()).await;
    let client = secured.client(0).await;
    client.add_site("shop").await.unwrap();
    let node = secured.node(0);
    let cert = secured.cluster.dir().join("acme/node1.crt");
    let good = fs::read(&cert).unwrap();
    let failed = async |wanted: u64| {
        node.signal(Signal::HUP);
        eventually("the metric says so", SOON, async || {
            let page = secured.metrics(0).await;
            match number(&page, "devicedb_tls_reload_failed") {
                found if found == wanted => Ok(()),
                _ => Err(page),
            }
        })
        .await;
    };
    fs::write(&cert, "nonsense").unwrap();
    failed(1).await;
    node.says("the ones read before stay in use").await;
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    secured.client(0).await.put("shop", Bucket::Default, "k", "v").await.unwrap();
    fs::write(&cert, &good).unwrap();
    failed(0).await;
    let expired = Leaf { from: -9, until: -1, ..Leaf::node("n1") };
    secured.authority.issue("node1", &expired);
    failed(1).await;
    secured.client(0).await.put("shop", Bucket::Default, "k", "v").await.unwrap();
    let issued = secured.authority.issue("node1", &Leaf::node("n1"));
    failed(0).await;
    let found = handshake(&node.endpoint(), &secured.config(&secured.ops)).await.unwrap();
    assert_eq!(shown(&found), issued.der);
}
