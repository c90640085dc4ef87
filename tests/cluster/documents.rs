//! The contract as JSON over HTTP, as `curl` and a browser speak it, and the page that is drawn of
//! it.

use std::fmt::Write as _;

use devicedb::base::limits;
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, http_get, http_post};

/// A call, and what came of it.
async fn call(at: &str, method: &str, headers: &[&str], body: &str) -> (u16, Value) {
    let path = format!("/devicedb.v1.{method}");
    let headers: Vec<&str> =
        ["Content-Type: application/json"].into_iter().chain(headers.iter().copied()).collect();
    let (status, body) = http_post(at, &path, &headers, body).await.unwrap();
    let document = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
    (status, document)
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at) & 63) as usize] as char;
            write!(text, "{}", if at <= three.len() { letter } else { '=' }).unwrap();
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_with_one_answer_can_be_made_in_json() {
    let cluster = Cluster::start(1, Options { replication_factor: 1, ..Options::default() }).await;
    let at = cluster.nodes[0].endpoint();
    let (status, overview) = call(&at, "ClusterService/GetOverview", &[], "{}").await;
    assert_eq!((status, &overview["replicationFactor"]), (200, &json!(1)), "{overview}");
    assert!(overview["nodes"][0]["id"].is_string(), "64 bits are text: {overview}");
    let (status, added) = call(&at, "ClusterService/AddSite", &[], r#"{"site": "shop"}"#).await;
    assert_eq!((status, &added["created"]), (200, &json!(true)));

    // A put and a get, with bytes as base64.
    let value = base64(b"blue\xff");
    let put = json!({ "site": "shop", "key": base64(b"color"), "value": value }).to_string();
    assert_eq!(call(&at, "KvService/Put", &["Connect-Timeout-Ms: 5000"], &put).await.0, 200);
    let get = json!({ "site": "shop", "key": base64(b"color") }).to_string();
    let (status, got) = call(&at, "KvService/Get", &[], &get).await;
    assert_eq!((status, &got["siblings"][0]["value"]), (200, &json!(value)), "{got}");

    // A value of the largest size, and one beyond it.
    for (bytes, wanted) in [(limits::VALUE_BYTES_MAX, 200), (limits::VALUE_BYTES_MAX + 1, 400)] {
        let value = base64(&vec![7; bytes]);
        let put = json!({ "site": "shop", "key": base64(b"large"), "value": value }).to_string();
        assert_eq!(call(&at, "KvService/Put", &[], &put).await.0, wanted, "{bytes} bytes");
    }

    // What is wrong is told as gRPC tells it.
    for (method, headers, body, wanted, code, why) in [
        ("KvService/Get", &[][..], r#"{"site": "none"}"#, 400, "invalid_argument", "key"),
        ("KvService/Get", &[], r#"{"site": "none", "key": "aw=="}"#, 404, "not_found", "none"),
        ("KvService/Get", &[], r#"{"sight": "shop"}"#, 400, "invalid_argument", "sight"),
        ("KvService/Get", &[], "{", 400, "invalid_argument", "GetRequest"),
        ("KvService/Scan", &[], "{}", 501, "unimplemented", "stream"),
        ("KvService/Nothing", &[], "{}", 501, "unimplemented", "is no method"),
        ("KvService/Get", &["Connect-Timeout-Ms: soon"], "{}", 400, "invalid_argument", "no time"),
        ("KvService/Get", &["Content-Encoding: gzip"], "{}", 400, "invalid_argument", "encoded"),
        ("KvService/Get", &["devicedb-cluster-id: 0"], "{}", 400, "invalid_argument", "cluster"),
    ] {
        let (status, told) = call(&at, method, headers, body).await;
        assert_eq!((status, &told["code"]), (wanted, &json!(code)), "{method} {body}: {told}");
        assert!(told["message"].as_str().unwrap().contains(why), "{method} {body}: {told}");
    }
    let (_, told) = call(&at, "KvService/Get", &[], r#"{"site": "none", "key": "aw=="}"#).await;
    assert_eq!(told["details"][0]["debug"]["reason"], "NOT_FOUND", "{told}");

    // A page of another site is not answered under a name of its own.
    let evil = ["Host: evil.example", "Origin: http://evil.example"];
    let (status, told) = call(&at, "ClusterService/GetOverview", &evil, "{}").await;
    assert_eq!((status, &told["code"]), (403, &json!("permission_denied")), "{told}");
    let own = format!("Origin: http://{at}");
    assert_eq!(call(&at, "ClusterService/GetOverview", &[&own], "{}").await.0, 200);
}

#[tokio::test]
async fn a_document_that_is_too_large_is_refused_and_the_node_goes_on() {
    let cluster = Cluster::start(1, Options { replication_factor: 1, ..Options::default() }).await;
    let at = cluster.nodes[0].endpoint();
    let large = format!("{{\"site\": \"{}\"}}", "x".repeat(limits::JSON_BYTES_MAX));
    // It may be hung up on before it has sent all of it.
    if let Ok((status, body)) = http_post(
        &at,
        "/devicedb.v1.ClusterService/AddSite",
        &["Content-Type: application/json"],
        &large,
    )
    .await
    {
        assert_eq!(status, 400, "{body}");
    }
    assert_eq!(call(&at, "ClusterService/GetOverview", &[], "").await.0, 200);
}

#[tokio::test]
async fn the_console_is_served_whole_and_takes_nothing_from_elsewhere() {
    let cluster = Cluster::start(1, Options { replication_factor: 1, ..Options::default() }).await;
    let at = cluster.nodes[0].endpoint();
    let (status, page) = http_get(&at, "/console").await.unwrap();
    assert_eq!(status, 200);
    for file in ["/console/app.js", "/console/style.css"] {
        assert!(page.contains(&format!("\"{file}\"")), "{file} is asked for");
        let (status, text) = http_get(&at, file).await.unwrap();
        assert_eq!(status, 200, "{file}");
        let elsewhere = text.replace("http://www.w3.org/", "").contains("://");
        assert!(!elsewhere, "{file} names another place");
    }
    assert_eq!(http_get(&at, "/").await.unwrap().0, 307);
    assert_eq!(http_get(&at, "/console/none").await.unwrap().0, 404);
}
