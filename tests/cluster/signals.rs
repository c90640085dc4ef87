//! Signals: which of them end a node, and how.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use devicedb::proto::v1::Bucket;
use rustix::process::Signal;

use crate::{
    connections::{Connection, call, stream},
    harness::{Cluster, Options, SOON, SnapshotStore, binary, ended, eventually, http_get, shell},
};

fn options() -> Options {
    Options { snapshot_store: SnapshotStore::None, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_is_no_request_to_stop_ends_no_node() {
    let mut cluster = Cluster::start(1, options()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    let passes = [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::PIPE,
        Signal::XFSZ,
    ];
    for signal in passes {
        cluster.nodes[0].signal(signal);
        client.put("shop", Bucket::Default, format!("{signal:?}"), "v").await.unwrap();
    }
    let told = |node: &crate::harness::Node, words: &str| {
        if node.log().contains(words) { Ok(()) } else { Err(node.log_end()) }
    };
    eventually("SIGHUP is told", SOON, async || {
        told(&cluster.nodes[0], "SIGHUP: there is nothing to reopen or reload")
    })
    .await;
    assert!(cluster.nodes[0].ended_by_itself().is_none());
    for (signal, code) in [(Signal::INT, 0), (Signal::TERM, 0)] {
        cluster.nodes[0].signal(signal);
        assert_eq!(
            cluster.nodes[0].wait_ended().await.code(),
            Some(code),
            "{}",
            cluster.nodes[0].log_end()
        );
        cluster.restart_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_to_join_ends_when_it_is_asked_to_and_not_when_its_terminal_closes() {
    let cluster = Cluster::start(1, options()).await;
    let mut waiting = cluster.further();
    cluster.nodes[0].pause().await;
    waiting.start();
    waiting.wait_alive().await;
    waiting.signal(Signal::HUP);
    eventually("SIGHUP is told", SOON, async || {
        if waiting.log().contains("SIGHUP") { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert_eq!(waiting.terminate().await.code(), Some(0), "{}", waiting.log_end());
    cluster.nodes[0].resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_to_stop_ends_a_node_at_once_and_loses_nothing() {
    let mut cluster = Cluster::start(1, options()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    // A call that is never finished is waited for.
    let mut open = Connection::to(&client).await;
    open.write(&call(stream(0), 0)).await;
    open.taken_in().await;
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
    // It waits for a second only, in which a busy machine may not come to the second request: so
    // both wait for it.
    let node = &mut cluster.nodes[0];
    node.pause().await;
    node.signal_to_stop();
    node.signal(Signal::INT);
    node.resume();
    let status = node.wait_ended().await;
    // By the one that it has heard second.
    assert!(
        matches!((status.code(), status.signal()), (Some(130 | 143), None)),
        "{status}: {}",
        node.log_end()
    );
    assert!(node.log().contains("asked again: the node ends without stopping"));
    drop(open);
    cluster.restart_all().await;
    assert_eq!(cluster.client().values("shop", Bucket::Default, "k").await.unwrap(), ["v"]);
}

/// How a program that starts a node for itself alone leaves none behind. No page tells of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_with_its_standard_input_where_it_is_told_to() {
    let cluster = Cluster::start(1, options()).await;
    let mut node = cluster.further();
    node.args.push("--end-with-stdin".into());
    let refused = node.start_refused().await;
    assert_eq!(refused.code, Some(2), "{}", refused.story());
    assert!(refused.stderr.contains("standard input is no pipe"), "{}", refused.story());
    let mut command = Command::new(binary("devicedb"));
    command.args(&node.args).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually("the node answers", SOON, async || {
        match http_get(&node.endpoint(), "/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    drop(child.stdin.take());
    let status = ended(&mut child, "the node ends with its standard input", SOON).await;
    assert_eq!(status.code(), Some(0), "{status}");
    let help = shell("devicedb start --help; ddbctl --help", SOON).await.exits(0).out();
    assert!(help.contains("--snapshot-store") && !help.contains("end-with-stdin"), "{help}");
}
