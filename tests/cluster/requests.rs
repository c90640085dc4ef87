//! Bad requests and bad times for good ones: each gets the documented answer, and nothing hangs.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use devicedb::{
    base::limits,
    proto::v1::{
        BatchOperation, Bucket, GetRequest, PutRequest, ScanRequest, batch_operation::Action,
    },
};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::harness::{Cluster, Options, SOON, SnapshotStore, http_get, reason};

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, why: &str, words: &str) {
    let status = outcome.expect_err(words);
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{words}: {status:?}");
    assert!(status.message().contains(words), "does not say {words:?}: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_are_refused_by_name_and_the_odd_ones_are_served() {
    let cluster =
        Cluster::start(1, Options { snapshot_store: SnapshotStore::None, ..Options::default() })
            .await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let put = async |site: &str, bucket, key: &[u8], value: &[u8]| {
        client.put(site, bucket, key, value).await
    };
    let (largest_key, largest_value) =
        (vec![b'k'; limits::KEY_BYTES_MAX], vec![0; limits::VALUE_BYTES_MAX]);

    refused(put("shop", Bucket::Default, b"", b"v").await, Code::InvalidArgument, "INVALID", "key");
    refused(
        put("shop", Bucket::Default, &[&largest_key[..], b"k"].concat(), b"v").await,
        Code::InvalidArgument,
        "INVALID",
        "1024",
    );
    refused(
        put("shop", Bucket::Default, b"k", &[&largest_value[..], b"v"].concat()).await,
        Code::InvalidArgument,
        "INVALID",
        "1048576",
    );
    refused(put("", Bucket::Default, b"k", b"v").await, Code::InvalidArgument, "INVALID", "site");
    refused(
        put("nowhere", Bucket::Default, b"k", b"v").await,
        Code::NotFound,
        "NOT_FOUND",
        "nowhere",
    );
    refused(
        put("shop", Bucket::Local, b"k", b"v").await,
        Code::InvalidArgument,
        "INVALID",
        "local",
    );
    let of_bucket_99 = PutRequest {
        site: "shop".into(),
        bucket: 99,
        key: Bytes::from_static(b"k"),
        ..PutRequest::default()
    };
    refused(client.put_request(of_bucket_99).await, Code::InvalidArgument, "INVALID", "99");
    let short_id = PutRequest {
        site: "shop".into(),
        key: Bytes::from_static(b"k"),
        request_id: Bytes::from_static(b"short"),
        ..PutRequest::default()
    };
    refused(client.put_request(short_id).await, Code::InvalidArgument, "INVALID", "request id");
    refused(
        client.get("nowhere", Bucket::Default, "k").await,
        Code::NotFound,
        "NOT_FOUND",
        "nowhere",
    );
    refused(
        client.scan("nowhere", Bucket::Default, "").await,
        Code::NotFound,
        "NOT_FOUND",
        "nowhere",
    );
    refused(
        client.batch("shop", Bucket::Default, Vec::new()).await,
        Code::InvalidArgument,
        "INVALID",
        "batch",
    );

    assert_eq!(
        client.scan("shop", Bucket::Default, "").await.unwrap(),
        Vec::new(),
        "a scan of nothing ends without a page"
    );
    assert_eq!(
        client.values("shop", Bucket::Default, "absent").await.unwrap(),
        Vec::<Bytes>::new()
    );
    for key in [&b"\0"[..], b"a\0b", b"\xff\xfe", b"/ &?=\n", &largest_key] {
        put("shop", Bucket::Default, key, key).await.unwrap();
        assert_eq!(client.values("shop", Bucket::Default, key).await.unwrap(), [key], "{key:?}");
    }
    put("shop", Bucket::Lww, b"largest", &largest_value).await.unwrap();
    put("shop", Bucket::Lww, b"smallest", b"").await.unwrap();
    assert_eq!(client.values("shop", Bucket::Lww, "smallest").await.unwrap(), [""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_one_bad_step_has_no_effect() {
    let cluster =
        Cluster::start(1, Options { snapshot_store: SnapshotStore::None, ..Options::default() })
            .await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let step = |key: &'static str| BatchOperation {
        key: Bytes::from_static(key.as_bytes()),
        action: Some(Action::Put(Bytes::from_static(b"v"))),
        ..BatchOperation::default()
    };
    refused(
        client.batch("shop", Bucket::Default, vec![step("good"), step("")]).await,
        Code::InvalidArgument,
        "INVALID",
        "key",
    );
    assert_eq!(client.scan("shop", Bucket::Default, "").await.unwrap(), Vec::new());
    client.batch("shop", Bucket::Default, vec![step("one"), step("two")]).await.unwrap();
    assert_eq!(client.scan("shop", Bucket::Default, "").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged_and_nothing_hangs() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client().with_deadline(Duration::from_secs(5));
    client.add_site("shop").await.unwrap();
    client.put("shop", Bucket::Default, "k", "before").await.unwrap();
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();

    let status = client
        .put("shop", Bucket::Default, "k", "during")
        .await
        .expect_err("no quorum can acknowledge it");
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::DeadlineExceeded),
        "{status:?}"
    );
    let node = &cluster.nodes[0];
    node.ctl(&["--timeout", "5s", "put", "--site", "shop", "k", "during"]).await.exits(3);
    node.ctl(&["--timeout", "5s", "snapshot", "create"]).await.exits(3);

    cluster.restart_all().await;
    let values = cluster.client().values("shop", Bucket::Default, "k").await.unwrap();
    assert!(values == ["before"] || values == ["during"], "{values:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_node_that_has_not_joined_yet_is_unavailable_within_its_deadline() {
    let cluster = Cluster::start(1, Options::default()).await;
    let mut waiting = cluster.further();
    cluster.nodes[0].pause().await;
    waiting.start();
    let get =
        GetRequest { site: "shop".into(), key: Bytes::from_static(b"k"), ..GetRequest::default() };
    let mut request = tonic::Request::new(get);
    request.set_timeout(Duration::from_secs(3));
    let status = waiting.client().kv.get(request).await.expect_err("it knows of no site yet");
    assert!(matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded), "{status:?}");
    cluster.nodes[0].resume();
    waiting.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_and_keys_are_whatever_users_call_things() {
    let cluster = Cluster::start(1, Options::default()).await;
    for site in ["shop 7/floor & 2", "a=b?c#d", "größe", "-dash"] {
        cluster.ctl(&["site", "add", "--", site]).await.exits(0);
        let site = format!("--site={site}");
        cluster.ctl(&["put", &site, "a/b &c", "v 1"]).await.exits(0);
        cluster.ctl(&["get", &site, "a/b &c"]).await.exits(0).says("v 1");
        cluster.ctl(&["get", &site, "absent"]).await.exits(5);
    }
    let listed = cluster.client().sites().await.unwrap();
    assert_eq!(
        listed,
        ["-dash", "a=b?c#d", "größe", "shop 7/floor & 2"].map(str::to_string),
        "the sites, by name"
    );
    assert_eq!(cluster.client().partitions().await.unwrap().len(), 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_site_takes_its_data_with_it() {
    let cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    for bucket in [Bucket::Default, Bucket::Lww, Bucket::Cloud] {
        client.put("shop", bucket, "k", "v").await.unwrap();
        client.delete("shop", bucket, "never was").await.unwrap();
    }
    client.remove_site("shop").await.unwrap();
    for client in cluster.clients() {
        refused(
            client.get("shop", Bucket::Default, "k").await,
            Code::NotFound,
            "NOT_FOUND",
            "shop",
        );
    }
    client.add_site("shop").await.unwrap();
    for bucket in [Bucket::Default, Bucket::Lww, Bucket::Cloud] {
        assert_eq!(
            client.scan("shop", bucket, "").await.unwrap(),
            Vec::new(),
            "it begins with nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_comes_in_bounded_pages_in_key_order() {
    let cluster =
        Cluster::start(1, Options { snapshot_store: SnapshotStore::None, ..Options::default() })
            .await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let keys: Vec<String> =
        (0..3 * limits::PAGE_ROWS_MAX).map(|number| format!("p/{number:06}")).collect();
    let put = |key: &String| BatchOperation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        action: Some(Action::Put(Bytes::from_static(b"v"))),
        ..BatchOperation::default()
    };
    for some in keys.chunks(limits::BATCH_STEPS_MAX) {
        client.batch("shop", Bucket::Default, some.iter().map(put).collect()).await.unwrap();
    }
    client.put("shop", Bucket::Default, "q", "outside the prefix").await.unwrap();

    let scan = ScanRequest {
        site: "shop".into(),
        prefix: Bytes::from_static(b"p/"),
        ..ScanRequest::default()
    };
    let mut pages = client.kv.clone().scan(scan).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(page) = pages.message().await.unwrap() {
        assert!(
            page.entries.len() <= limits::PAGE_ROWS_MAX as usize,
            "{} entries in one page",
            page.entries.len()
        );
        found.extend(
            page.entries.into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()),
        );
    }
    assert!(found == keys, "{} keys of {} in another order", found.len(), keys.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_node_down_is_unhealthy_and_counts_no_more_groups_than_it_has() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.nodes[2].kill9();
    cluster.settled().await;
    let seen = cluster.client().overview().await.unwrap();
    assert_eq!(
        (seen.groups, seen.groups_under_replicated, seen.meta_under_replicated),
        (8, 8, true),
        "{seen:#?}"
    );
    cluster
        .ctl(&["cluster", "health"])
        .await
        .exits(1)
        .says("8 of 8 groups have fewer replicas")
        .says("the meta group has fewer replicas");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_counts_and_measures_what_it_has_done() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    client.get("nowhere", Bucket::Default, "k").await.unwrap_err();
    client.complete_snapshot(SOON).await;
    let (code, text) = http_get(&client.endpoint, "/metrics").await.unwrap();
    assert_eq!(code, 200);
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().unwrap()
    };
    assert_eq!(number(r#"devicedb_requests_total{method="Put",code="OK"}"#), 1.0);
    assert_eq!(number(r#"devicedb_requests_total{method="Get",code="NOT_FOUND"}"#), 1.0);
    assert_eq!(number(r#"devicedb_request_duration_seconds_count{method="Put"}"#), 1.0);
    assert_eq!(number(r#"devicedb_snapshot_parts_total{outcome="completed"}"#), 1.0);
    assert_eq!(number("devicedb_elections_won_total"), 9.0, "eight groups and the meta group");
    assert!(
        number("devicedb_log_sync_duration_seconds_count") >= 3.0,
        "a founding, a site and a value were synced"
    );
    assert!(
        (0.0..100.0).contains(&number("devicedb_engine_queue_depth")),
        "what was taken from the queue is not in it any more"
    );
}

/// Messages as bytes, whatever they mean.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_the_callers_mistake_and_says_so() {
    let cluster =
        Cluster::start(1, Options { snapshot_store: SnapshotStore::None, ..Options::default() })
            .await;
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.nodes[0].endpoint()))
            .unwrap()
            .connect()
            .await
            .unwrap();
    let call = async |path: &'static str,
                      messages: Vec<Bytes>,
                      headers: &[(&'static str, &'static str)]| {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(tokio_stream::iter(messages));
        headers.iter().for_each(|(name, value)| {
            drop(request.metadata_mut().insert(*name, value.parse().unwrap()))
        });
        client.client_streaming(request, path.parse().unwrap(), Raw).await
    };
    const GET: &str = "/devicedb.v1.KvService/Get";
    let (invalid, unknown, cannot) =
        (Code::InvalidArgument, Code::Unimplemented, "the request cannot be read");
    let empty = || vec![Bytes::new()];
    refused(call(GET, vec![Bytes::from_static(&[0xff; 9])], &[]).await, invalid, "INVALID", cannot);
    refused(
        call("/devicedb.v1.ClusterService/AddSite", vec![Bytes::from_static(&[10, 200])], &[])
            .await,
        invalid,
        "INVALID",
        cannot,
    );
    refused(call(GET, Vec::new(), &[]).await, invalid, "INVALID", "Missing request message");
    refused(
        call(GET, vec![vec![0; limits::MESSAGE_BYTES_MAX + 1].into()], &[]).await,
        invalid,
        "INVALID",
        "8388608 bytes",
    );
    refused(call(GET, empty(), &[("grpc-encoding", "snappy")]).await, unknown, "INVALID", "snappy");
    refused(
        call("/devicedb.v1.KvService/Nothing", empty(), &[]).await,
        unknown,
        "INVALID",
        "no such service or method",
    );
    refused(
        call("/devicedb.v9.KvService/Get", empty(), &[]).await,
        unknown,
        "INVALID",
        "no such service or method",
    );
    for time in ["-1S", "+1S", "1", "soon", "999999999S"] {
        refused(
            call(GET, empty(), &[("grpc-timeout", time)]).await,
            invalid,
            "INVALID",
            "is no time",
        );
    }
    refused(call(GET, empty(), &[("grpc-timeout", "5S")]).await, invalid, "INVALID", "site");
    let (code, _) = http_get(&cluster.nodes[0].endpoint(), "/nothing").await.unwrap();
    assert_eq!(code, 404, "a page that is not there is no call");
}
