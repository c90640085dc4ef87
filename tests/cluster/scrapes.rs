//! What monitoring sees: `/metrics` in both formats. What is made of it is in `tests/alarms`.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Cluster, Options};

/// A GET over HTTP/1.0, whose answer comes in one piece: its head, and its body.
async fn get(address: &str, path: &str, accept: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok((head.to_ascii_lowercase(), body.to_owned()))
}

/// The names of all samples of a page.
fn samples(page: &str) -> Vec<&str> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split([' ', '{']).next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let cluster = Cluster::start(1, Options::default()).await;
    let node = cluster.nodes[0].endpoint();
    let open = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let (head, open) = get(&node, "/metrics", open).await.unwrap();
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    let (head, text) = get(&node, "/metrics", "*/*").await.unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(text.contains("# TYPE devicedb_log_entries_total counter\n"), "{text}");
    assert!(!text.contains("EOF"), "{text}");
    assert_eq!(samples(&text), samples(&open));
    for line in ["devicedb_groups_without_leader 0", "devicedb_ready 1", "process_threads "] {
        assert!(text.contains(&format!("\n{line}")), "no {line} in\n{text}");
    }
    // One node has one replica of the three that each group wants.
    let under =
        text.lines().find_map(|line| line.strip_prefix("devicedb_groups_under_replicated "));
    assert_eq!(under, Some("8"), "{text}");
}
