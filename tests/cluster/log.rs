//! A log that cannot be written: it never touches the node.

use std::{fs::File, time::Duration};

use devicedb::proto::v1::Bucket;

use crate::harness::{Client, Cluster, Node, Options, SOON, eventually, http_get, shell};

/// A node that is started under a shell, which gives it another stderr.
fn node_with_stderr(cluster: &Cluster, stderr: &str) -> Node {
    let mut node = cluster.further();
    node.under =
        ["bash", "-c", &format!(r#"exec "$0" "$@" 2> {stderr}"#)].map(str::to_string).to_vec();
    node
}

async fn lost_lines(client: &Client) -> u64 {
    let (_, text) = http_get(&client.endpoint, "/metrics").await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("devicedb_stderr_lines_lost_total "));
    line.expect("lost lines are counted").parse().unwrap()
}

/// It takes writes and snapshots while lines are lost, and stops when it is asked to.
async fn serves_and_stops(cluster: &mut Cluster, node: Node) {
    cluster.nodes.push(node);
    cluster.nodes[0].wait_ready().await;
    let client = cluster.client().with_deadline(Duration::from_secs(5));
    client.add_site("shop").await.unwrap();
    let mut number = 0;
    eventually("lines are lost", SOON, async || {
        number += 1;
        client.put("shop", Bucket::Default, format!("k{number}"), "v").await.unwrap();
        client.complete_snapshot(SOON).await;
        let lost = lost_lines(&client).await;
        if lost > 0 { Ok(()) } else { Err(format!("{lost} after {number} snapshots")) }
    })
    .await;
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    client.complete_snapshot(SOON).await;
    let status = cluster.nodes[0].terminate().await;
    assert_eq!(status.code(), Some(0), "{}", cluster.nodes[0].log_end());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_nobody_reads_any_more_serves_on() {
    let mut cluster = Cluster::empty(Options::default());
    let mut node = node_with_stderr(&cluster, ">(head -n 1 >/dev/null)");
    node.start();
    serves_and_stops(&mut cluster, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_log_is_not_read_at_all_serves_on() {
    let mut cluster = Cluster::empty(Options::default());
    let pipe = cluster.dir().join("pipe");
    shell(&format!("mkfifo {}", pipe.display()), SOON).await.exits(0);
    // Open for both, so that there is a reader, who does not read.
    let _reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut node = node_with_stderr(&cluster, pipe.to_str().unwrap());
    // More than a pipe holds, and than waits for it.
    node.args.extend(["--log", "trace"].map(str::to_string));
    node.start();
    serves_and_stops(&mut cluster, node).await;
}
