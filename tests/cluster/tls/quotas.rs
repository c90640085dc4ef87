//! What one client may use of a node, and that others go on meanwhile.

use std::time::Duration;

use bytes::Bytes;
use devicedb::{
    base::clock::Random,
    proto::v1::{
        BatchOperation, Bucket, DownloadSnapshotRequest, DownloadSnapshotResponse, ScanRequest,
        ScanResponse, batch_operation::Action,
    },
};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Issued, Leaf, Secured, number};
use crate::harness::{Client, Options, SOON, SnapshotStore, eventually, reason};

const SITE: &str = "shop-1";
const MEBIBYTE: usize = 1 << 20;

impl Secured {
    /// Nodes that were started with these words, a site, and clients that may write and back up.
    async fn limited(nodes: usize, words: &[&str], clients: &[&str]) -> (Secured, Vec<Issued>) {
        let extra = words.iter().map(|word| (*word).to_owned()).collect();
        let options = Options {
            replication_factor: nodes as u32,
            snapshot_store: SnapshotStore::Own,
            extra,
            ..Options::default()
        };
        let secured = Secured::start(nodes, options).await;
        secured.settled().await;
        secured.ctl(&["site", "add", SITE]).await.exits(0);
        let mut issued = Vec::new();
        for name in clients {
            issued.push(secured.authority.issue(name, &Leaf::client(name)));
            let identity = format!("spiffe://acme/devicedb/client/{name}");
            for role in ["writer", "backup"] {
                secured.ctl(&["grant", "add", &identity, role]).await.exits(0);
            }
        }
        for (at, holder) in (0..nodes).flat_map(|at| issued.iter().map(move |one| (at, one))) {
            let client = secured.client_with(at, holder).await;
            eventually("the grants hold", SOON, async || {
                let read = client.get(SITE, Bucket::Default, "k").await;
                read.map(drop).map_err(|status| status.to_string())
            })
            .await;
        }
        (secured, issued)
    }
}

/// Values of which none compresses.
fn large(count: usize) -> Vec<BatchOperation> {
    let mut rng = Random::seeded(7);
    let value = |rng: &mut Random| -> Bytes {
        (0..MEBIBYTE / 8 - 64).flat_map(|_| rng.next_u64().to_be_bytes()).collect()
    };
    (0..count)
        .map(|number| BatchOperation {
            key: format!("large-{number}").into(),
            action: Some(Action::Put(value(&mut rng))),
            ..BatchOperation::default()
        })
        .collect()
}

/// A scan of which nobody reads the rest.
async fn scan(client: &Client) -> Result<Streaming<ScanResponse>, Status> {
    let request = ScanRequest { site: SITE.into(), ..ScanRequest::default() };
    Ok(client.kv.clone().scan(request).await?.into_inner())
}

async fn download(
    client: &Client,
    uuid: &str,
    node_id: u64,
) -> Result<Streaming<DownloadSnapshotResponse>, Status> {
    let request = DownloadSnapshotRequest { uuid: uuid.into(), node_id, offset: 0 };
    Ok(client.snapshots.clone().download_snapshot(request).await?.into_inner())
}

/// Refused for a limit: what is said, and when to come again.
fn over(status: &Status) -> (String, Duration) {
    assert_eq!((status.code(), &*reason(status)), (Code::ResourceExhausted, "EXHAUSTED"));
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    (status.message().to_owned(), after.expect("it says when"))
}

async fn again_soon<T>(what: &str, call: impl AsyncFn() -> Result<T, Status>) -> T {
    eventually(what, SOON, async || call().await.map_err(|status| status.to_string())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_streams_on_a_node_and_nodes_have_as_many_as_they_need() {
    let words = ["--client-scans", "2", "--client-downloads", "1"];
    let (secured, issued) = Secured::limited(3, &words, &["one", "other"]).await;
    let one = secured.client_with(0, &issued[0]).await;
    let other = secured.client_with(0, &issued[1]).await;
    one.batch(SITE, Bucket::Default, large(3)).await.unwrap();

    let mut scans = vec![scan(&one).await.unwrap(), scan(&one).await.unwrap()];
    let (said, _) = over(&scan(&one).await.unwrap_err());
    assert!(
        said.starts_with("spiffe://acme/devicedb/client/one has 2 scans open on this node"),
        "{said}"
    );
    // Its other connections are the same client; on another node, or as somebody else, it is not.
    over(&scan(&secured.client_with(0, &issued[0]).await).await.unwrap_err());
    let elsewhere = scan(&secured.client_with(1, &issued[0]).await).await.unwrap();
    let others = scan(&other).await.unwrap();
    one.put(SITE, Bucket::Default, "k", "v").await.unwrap();
    scans.pop();
    scans.push(again_soon("a scan has ended", async || scan(&one).await).await);
    drop((scans, elsewhere, others));

    // Each client has one download, and a node that passes them on has as many as its clients have.
    let uuid = one.create_snapshot().await.unwrap().uuid;
    let snapshot = one.snapshot_resolved(&uuid, SOON).await;
    let overview = secured.client(0).await.overview().await.unwrap();
    let far = &overview.nodes.iter().find(|node| node.address == secured.node(2).endpoint());
    let far = far.expect("it is a member").id;
    assert!(snapshot.parts.iter().any(|part| part.node_id == far), "{snapshot:?}");
    let first = download(&one, &uuid, far).await.unwrap();
    let second = download(&other, &uuid, far).await.unwrap();
    let (said, _) = over(&download(&one, &uuid, 0).await.unwrap_err());
    assert!(said.contains("has 1 downloads open") && said.contains("--client-downloads"), "{said}");
    let page = secured.metrics(0).await;
    for (quota, least) in [("scans", 2), ("downloads", 1), ("calls", 0), ("bytes", 0)] {
        let name = format!("devicedb_client_calls_refused_total{{quota=\"{quota}\"}}");
        let found = number(&page, &name);
        assert!(found >= least && (least > 0) == (found > 0), "{quota}: {found}");
    }
    assert_eq!(
        number(
            &secured.metrics(2).await,
            "devicedb_client_calls_refused_total{quota=\"downloads\"}"
        ),
        0
    );
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_runs_wild_is_told_to_slow_down_and_others_are_served() {
    let words = ["--client-calls-per-second", "20"];
    let (secured, issued) = Secured::limited(3, &words, &["wild", "calm"]).await;
    let wild = secured.client_with(0, &issued[0]).await;
    let calm = secured.client_with(0, &issued[1]).await;
    let mut calls = tokio::task::JoinSet::new();
    // More than a slow machine takes in before its twenty a second have come round.
    for number in 0..500 {
        let wild = wild.clone();
        calls.spawn(async move {
            wild.put(SITE, Bucket::Default, format!("wild-{number}"), "v").await.map(drop)
        });
    }
    calm.put(SITE, Bucket::Default, "calm", "v").await.unwrap();
    let (done, refused): (Vec<_>, Vec<_>) =
        calls.join_all().await.into_iter().partition(Result::is_ok);
    assert!(!done.is_empty() && !refused.is_empty(), "{} of 500 refused", refused.len());
    for (said, _) in refused.into_iter().map(|one| over(&one.unwrap_err())) {
        let wanted = "client/wild makes more than 20 calls a second on this node";
        assert!(said.contains(wanted), "{said}");
    }
    // Whoever waits as long as it is told is let in, if nothing else of the same client was since.
    if let Err(status) = wild.put(SITE, Bucket::Default, "wild", "v").await {
        tokio::time::sleep(over(&status).1).await;
        wild.put(SITE, Bucket::Default, "wild", "v").await.unwrap();
    }
    // ddbctl waits so.
    for _ in 0..30 {
        let line = format!("get --site {SITE} calm");
        secured.ctl_as(0, &issued[0], &line).await.exits(0).says("v");
    }
    // What was refused had no effect.
    let rows = calm.scan(SITE, Bucket::Default, "wild-").await.unwrap();
    assert_eq!(rows.len(), done.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_paid_for_by_whoever_moves_them() {
    let words = ["--client-bytes-per-second", "1048576"];
    let (secured, issued) = Secured::limited(1, &words, &["bulky", "slim"]).await;
    let bulky = secured.client_with(0, &issued[0]).await;
    let slim = secured.client_with(0, &issued[1]).await;
    // Each takes three seconds' worth; on a slow machine the first may be paid before the second.
    let mut refused = None;
    for _ in 0..10 {
        refused = bulky.batch(SITE, Bucket::Default, large(4)).await.err();
        if refused.is_some() {
            break;
        }
    }
    let (said, after) = over(&refused.expect("nobody is so slow ten times"));
    assert!(said.contains("sends and receives more than 1048576 bytes a second"), "{said}");
    slim.put(SITE, Bucket::Default, "k", "v").await.unwrap();
    tokio::time::sleep(after).await;
    assert_eq!(bulky.get(SITE, Bucket::Default, "k").await.unwrap().siblings.len(), 1);
    // A stream is not refused once it has begun: it takes its time and comes whole.
    let rows =
        again_soon("a scan may begin", async || bulky.scan(SITE, Bucket::Default, "large-").await);
    assert_eq!(rows.await.len(), 4);
}
