//! `ddbctl bench` against real nodes: what it reports, what it leaves, and what it does not touch.
//! How fast anything was is nobody's business here.

use std::fs;

use devicedb::proto::v1::Bucket;
use serde_json::Value;

use crate::harness::{Cluster, Options, Ran};

async fn bench(cluster: &Cluster, line: &str) -> Ran {
    let words: Vec<_> = ["-o", "json", "bench"].into_iter().chain(line.split(' ')).collect();
    cluster.ctl(&words).await
}

fn document(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}\n{}", ran.story()))
}

/// Every request was answered, each verb has latencies, and its percentiles rise.
#[track_caller]
fn sound(figures: &Value, verbs: &[&str]) {
    assert!(figures["requests"].as_u64() > Some(0) && figures["failed"] == 0, "{figures:#}");
    assert_eq!(
        figures["latency_ms"].as_object().unwrap().keys().collect::<Vec<_>>(),
        verbs,
        "{figures:#}"
    );
    for verb in verbs {
        let latency = ["p50", "p90", "p99", "p99_9", "max"]
            .map(|name| figures["latency_ms"][verb][name].as_f64().unwrap());
        assert!(latency[0] > 0.0 && latency.is_sorted(), "{figures:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bench_reports_what_it_did_and_leaves_its_sites_until_it_is_told_not_to() {
    let cluster = Cluster::start(1, Options::default()).await;
    let data = "--sites 3 --keys 300 --value-bytes 10";
    for (work, words, verbs) in [
        ("put", "--seconds 1 --clients 4 --connections 2", &["put"][..]),
        ("get", "--seconds 1 --direct", &["get"]),
        ("mixed", "--seconds 1 --rate 50 --reads 50", &["get", "put"]),
        ("scan", "--seconds 1 --rows 7", &["scan"]),
        ("load", "--rows 20", &["batch"]),
    ] {
        let ran = bench(&cluster, &format!("{work} {data} {words}")).await.exits(0);
        let report = document(&ran);
        assert_eq!(
            (&report["work"], &report["setting"]["keys"]),
            (&work.into(), &300.into()),
            "{report:#}"
        );
        sound(&report, verbs);
        let rows: f64 = report["over_time"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["requests_per_second"].as_f64().unwrap())
            .sum();
        assert!(rows > 0.0, "{report:#}");
        assert_eq!(cluster.client().sites().await.unwrap(), ["bench-0", "bench-1", "bench-2"]);
    }
    let keys = cluster.client().scan("bench-1", Bucket::Default, "key-").await.unwrap();
    assert!(
        keys.len() == 100
            && keys.iter().all(|(_, values)| values.len() == 1 && values[0].len() == 10),
        "{keys:?}"
    );

    let report = document(&bench(&cluster, "cleanup").await.exits(0));
    assert_eq!(report["removed"], serde_json::json!(["bench-0", "bench-1", "bench-2"]));
    assert_eq!(cluster.client().sites().await.unwrap(), [""; 0]);
    bench(&cluster, &format!("get {data} --seconds 1 --cleanup")).await.exits(0);
    assert_eq!(cluster.client().sites().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_no_bench_made_is_neither_written_nor_removed() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = cluster.client();
    client.add_site("bench-1").await.unwrap();
    client.put("bench-1", Bucket::Default, "key-000000000000", "somebody's").await.unwrap();
    for line in ["put --seconds 1 --sites 2", "load --sites 2", "snapshot --seconds 1 --sites 2"] {
        bench(&cluster, line)
            .await
            .exits(5)
            .says("site \"bench-1\" exists, and no bench made it")
            .says("--prefix");
    }
    assert_eq!(
        client.sites().await.unwrap(),
        ["bench-1"],
        "nothing is made before all is known to be free"
    );
    bench(&cluster, "cleanup").await.exits(0);
    assert_eq!(
        client.values("bench-1", Bucket::Default, "key-000000000000").await.unwrap(),
        ["somebody's"]
    );
    bench(&cluster, "put --seconds 1 --sites 2 --prefix bench-of-mine- --cleanup").await.exits(0);
    assert_eq!(client.sites().await.unwrap(), ["bench-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_of_snapshots_tells_what_one_took_and_what_writes_noticed_and_deletes_it() {
    let cluster = Cluster::start(1, Options::default()).await;
    let plot = cluster.dir().join("plot.svg");
    let ran = bench(
        &cluster,
        &format!("snapshot --seconds 1 --sites 2 --keys 200 --plot {}", plot.display()),
    )
    .await
    .exits(0);
    let report = document(&ran);
    sound(&report["before"], &["put"]);
    assert_eq!(
        (&report["snapshot"]["status"], &report["snapshot"]["parts"]),
        (&"completed".into(), &1.into()),
        "{report:#}"
    );
    assert!(
        report["snapshot"]["rows"].as_u64() >= Some(200)
            && report["snapshot"]["seconds"].as_f64() > Some(0.0),
        "{report:#}"
    );
    assert!(report["during"]["longest_silence_ms"].is_number(), "{report:#}");
    assert!(cluster.client().snapshots().await.unwrap().is_empty());
    assert!(fs::read_to_string(&plot).unwrap().contains("latency in ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_away_is_left_out_with_a_word_and_without_any_nothing_is_measured() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.nodes[1].kill9();
    cluster.settled().await;
    let ran = bench(&cluster, "put --seconds 1 --sites 1")
        .await
        .exits(0)
        .says(&format!("measured without {}", cluster.nodes[1].endpoint()));
    sound(&document(&ran), &["put"]);
    cluster.kill9_all();
    bench(&cluster, "put --seconds 1 --sites 1").await.exits(3).says("cannot connect");
}
