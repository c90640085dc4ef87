//! Starts that must not be: each says why, exits, and leaves the others and its own store as they
//! were.

use std::{fs, net::TcpListener, path::Path};

use devicedb::{
    base::disk::Machine, boot::restore, entry::Identity, proto::v1::Bucket, store::Store, wire,
};
use tonic::Code;

use crate::harness::{Cluster, Node, Options, Port, SOON, reason, shell};

/// Every file below a directory with its bytes: what must not change.
pub fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => all.push((path.display().to_string(), fs::read(&path).unwrap())),
            }
        }
    }
    all.sort();
    all
}

/// A further start of the same words on another port.
fn twin(node: &Node, dir: &Path) -> Node {
    let port = Port::claim();
    let args = node
        .args
        .iter()
        .map(|word| if *word == node.endpoint() { port.endpoint() } else { word.clone() })
        .collect();
    Node::new("twin", port, dir, node.store.clone(), args)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_one_store_exits_with_the_reason() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let mut twin = twin(&cluster.nodes[0], cluster.dir());
    let store = twin.store.display().to_string();
    twin.start_refused().await.says(&store);
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_ends_the_start_with_the_reason() {
    let cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let taken = TcpListener::bind(node.endpoint()).unwrap();
    node.start_refused().await.says(&node.port.number.to_string()).says("in use");
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_beyond_loopback_is_refused_without_insecure() {
    let cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    for word in &mut node.args {
        *word = word.replace("127.0.0.1", "0.0.0.0");
    }
    node.start_refused().await.says("--insecure");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_can_be_found_ends_the_start_and_leaves_no_store() {
    let cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let usual = node.args.clone();
    for (flag, address) in [
        ("--join", "nonsense"),
        ("--advertise", "node1"),
        ("--advertise", "node1:0"),
        ("--join", "http://node1:8080"),
    ] {
        node.args = usual.iter().cloned().chain([flag.to_string(), address.to_string()]).collect();
        node.start_refused().await.exits(2).says(flag).says(address);
    }
    node.args = ["cluster", "start", "-store", node.store.to_str().unwrap(), "-join", "nonsense"]
        .map(str::to_string)
        .to_vec();
    node.start_refused().await.exits(2).says("\"nonsense\" lacks a port: write HOST:PORT");
    assert!(!node.store.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_store_that_cannot_work_ends_the_start_with_the_reason_and_leaves_no_store() {
    let cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let dir = node.snapshot_store.clone().unwrap();
    let named = format!("snapshot store {}", dir.display());
    fs::remove_dir(&dir).unwrap();
    node.start_refused()
        .await
        .exits(2)
        .says(&format!("{named} does not exist; create the directory first"));
    fs::write(&dir, "in the way").unwrap();
    node.start_refused().await.exits(2).says(&format!("{named} is not a directory"));
    fs::remove_file(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    // Nobody writes to a disk that is mounted read-only, root neither.
    let read_only = r#"mount -t tmpfs -o ro small "$0" && exec "$@""#;
    node.under = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        read_only,
        dir.to_str().unwrap(),
    ]
    .map(str::to_string)
    .to_vec();
    node.start_refused().await.exits(2).says(&format!("{named} is not writable"));
    assert!(!node.store.exists(), "a refused start has founded a cluster");
    node.under.clear();
    node.start();
    node.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_extracted_over_a_live_store_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let client = cluster.client();
    let snapshot = client.complete_snapshot(SOON).await;
    let (part, outcome) = client.download(&snapshot.uuid, 0, 0).await;
    outcome.unwrap();
    cluster.nodes[0].kill9();
    let store = cluster.nodes[0].store.clone();
    let tar = cluster.dir().join("part.tar");
    fs::write(&tar, part.data).unwrap();
    let untar = format!("tar xf {} -C {}", tar.display(), store.display());
    shell(&untar, SOON).await.exits(0);
    let before = contents(&store);
    cluster.nodes[0].start_refused().await.says("manifest.json");
    assert!(contents(&store) == before, "a refused start has changed its store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_has_lost_its_log_or_is_of_a_newer_format_is_refused_with_the_reason() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    cluster.kill9_all();
    let node = &mut cluster.nodes[0];
    let (log, aside) = (node.store.join("log"), node.store.join("log-elsewhere"));
    fs::rename(&log, &aside).unwrap();
    node.start_refused().await.says("lost its Raft log");
    fs::create_dir(&log).unwrap();
    node.start_refused().await.says("lost its Raft log");
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();

    let newer = {
        let (store, identity) = restore::open(&node.store, &Machine).unwrap();
        store
            .set_identity(&wire::encode_identity(&Identity {
                format: identity.format + 1,
                ..identity.clone()
            }))
            .unwrap();
        identity
    };
    node.start_refused().await.says("newer version");
    let store = Store::open(&node.store, &Machine).unwrap();
    store.set_identity(&wire::encode_identity(&newer)).unwrap();
    drop(store);
    cluster.restart_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_to_join_says_that_it_lives_and_what_it_waits_for() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let mut node = cluster.further();
    let target = cluster.nodes[0].endpoint();
    cluster.kill9_all();
    node.start();
    node.wait_alive().await;
    node.wait_unready(&target).await;
    let status = node.client().get("shop", Bucket::Default, "k").await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "UNAVAILABLE"),
        "{status:?}"
    );
    assert!(status.message().contains(&target), "{status:?}");

    cluster.nodes.push(node);
    cluster.restart_all().await;
}
