//! What was acknowledged stays, whoever is killed; and writes go on.

use std::time::Duration;

use devicedb::proto::v1::{Bucket, Consistency, ScanRequest};

use crate::harness::{Client, Cluster, Ledger, Options, SOON, Writer, eventually};

/// A promise of the product: however a node dies, writes wait no longer.
const WRITES_WAIT_MAX: Duration = Duration::from_secs(2);
const SITES: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_one_node_loses_nothing_and_writes_go_on_within_two_seconds() {
    let mut cluster = Cluster::start(3, Options::product()).await;
    let writers = writers(&cluster, "w").await;
    for victim in 0..3 {
        for writer in &writers {
            writer.goes_on(20, SOON).await;
        }
        cluster.nodes[victim].kill9();
        for writer in &writers {
            writer.goes_on(20, SOON).await;
        }
        cluster.restart_all().await;
    }
    let mut ledgers = Vec::new();
    for writer in writers {
        let (site, bucket) = (writer.site.clone(), writer.bucket);
        ledgers.push((site, bucket, writer.stop().await));
    }
    everywhere(&cluster, &ledgers).await;
    let longest =
        ledgers.iter().map(|(.., ledger)| ledger.longest_pause).max().expect("there are writers");
    println!("the longest that a write waited: {longest:?}");
    for (site, _, ledger) in &ledgers {
        assert!(
            ledger.longest_pause <= WRITES_WAIT_MAX,
            "writes of {site} waited {:?}",
            ledger.longest_pause
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_all_nodes_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start(3, Options::product()).await;
    let mut ledgers = Vec::new();
    for round in 0..3 {
        let writers = writers(&cluster, &format!("round{round}")).await;
        for writer in &writers {
            writer.goes_on(50, SOON).await;
        }
        cluster.kill9_all();
        ledgers.extend(
            writers
                .into_iter()
                .map(|writer| (writer.site.clone(), writer.bucket, writer.abandon())),
        );
        cluster.restart_all().await;
        everywhere(&cluster, &ledgers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_holds_what_it_missed() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.client().add_site("shop").await.unwrap();
    cluster.nodes[2].kill9();
    let writer = Writer::start(&cluster.clients()[..2], "shop", Bucket::Default, "missed");
    writer.goes_on(1000, SOON * 2).await;
    let ledger = writer.stop().await;
    cluster.restart_all().await;

    // Nobody but the node itself is asked.
    let returned = cluster.nodes[2].client();
    eventually("the node that was away holds every write", SOON, async || {
        let own = ScanRequest {
            site: "shop".into(),
            bucket: Bucket::Default.into(),
            keys_only: true,
            consistency: Consistency::Stale.into(),
            ..ScanRequest::default()
        };
        let held = returned.scan_request(own).await.map_err(|e| e.to_string())?.len();
        if held == ledger.acknowledged.len() {
            Ok(())
        } else {
            Err(format!("{held} of {}", ledger.acknowledged.len()))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_end_hands_over_and_exits_with_0() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let status = cluster.nodes[0].terminate().await;
    assert_eq!(status.code(), Some(0), "{}", cluster.nodes[0].log_end());
    cluster.restart_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_first_boot_logs_no_warning() {
    let cluster = Cluster::start(3, Options::product()).await;
    for node in &cluster.nodes {
        let log = node.log();
        // They have one disk here.
        let lines = log
            .lines()
            .filter(|line| !line.contains("store and snapshot store lie on one file system"));
        let loud: Vec<_> =
            lines.filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        assert!(
            loud.is_empty(),
            "{} says on a healthy first boot:\n{}",
            node.name,
            loud.join("\n")
        );
    }
}

/// One writer for each site, in turn over the buckets that a cluster takes.
async fn writers(cluster: &Cluster, name: &str) -> Vec<Writer> {
    let clients = cluster.clients();
    let mut writers = Vec::new();
    for (number, bucket) in
        (0..SITES).zip([Bucket::Default, Bucket::Lww, Bucket::Cloud].into_iter().cycle())
    {
        let site = format!("site{number}");
        cluster.client().add_site(&site).await.unwrap();
        writers.push(Writer::start(&clients, &site, bucket, name));
    }
    writers
}

async fn everywhere(cluster: &Cluster, ledgers: &[(String, Bucket, Ledger)]) {
    let clients: Vec<Client> = cluster.clients();
    for client in &clients {
        for (site, bucket, ledger) in ledgers {
            ledger.check(client, site, *bucket).await;
        }
    }
}
