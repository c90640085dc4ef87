//! Nodes that are drained lead nothing, and their clients notice nothing of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use devicedb::proto::v1::{self, Bucket};

use crate::harness::{Client, Cluster, Node, Options, SOON, eventually, http_get};
use crate::members::id_of;

/// Writes to a node, one write after another, each once. How many, and what was refused.
fn writes_once(
    client: Client,
    name: &'static str,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut refused = Vec::new();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for site in ["dock", "mill", "pier", "shed"] {
                let key = format!("{name}-{number}");
                if let Err(e) = client.put(site, Bucket::Default, key, "v").await {
                    refused.push(format!("{site} {number}: {e}"));
                }
                written.fetch_add(1, Ordering::Relaxed);
            }
        }
        refused
    })
}

async fn seen(cluster: &Cluster, id: u64) -> v1::Node {
    let overview = cluster.nodes[0].client().overview().await.unwrap();
    overview.nodes.into_iter().find(|node| node.id == id).expect("it is a member")
}

async fn leads(cluster: &Cluster, id: u64, enough: impl Fn(u32) -> bool) {
    eventually("it leads what it should", SOON, async || {
        let node = seen(cluster, id).await;
        if enough(node.groups_led) { Ok(()) } else { Err(format!("{node:?}")) }
    })
    .await;
}

async fn readyz(node: &Node, code: u16, words: &str) {
    eventually("readyz says so", SOON, async || {
        let told = http_get(&node.endpoint(), "/readyz").await.map_err(|e| e.to_string())?;
        if told.0 == code && told.1.contains(words) { Ok(()) } else { Err(format!("{told:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_undrained_and_no_request_fails() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    for site in ["dock", "mill", "pier", "shed"] {
        cluster.client().add_site(site).await.unwrap();
    }
    let id = id_of(&cluster, &cluster.nodes[1]).await;
    let word = id.to_string();
    leads(&cluster, id, |led| led > 0).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers = [("first", 0), ("third", 2)].map(|(name, node)| {
        writes_once(cluster.nodes[node].client(), name, stop.clone(), written.clone())
    });
    let stop_its_own = Arc::new(AtomicBool::new(false));
    let its_own =
        writes_once(cluster.nodes[1].client(), "drained", stop_its_own.clone(), Arc::default());
    let goes_on = async || {
        let before = written.load(Ordering::Relaxed);
        eventually("writes go on", SOON, async || match written.load(Ordering::Relaxed) - before {
            more if more >= 40 => Ok(()),
            more => Err(more),
        })
        .await
    };
    goes_on().await;
    let drained = cluster.ctl(&["node", "drain", &word, "--wait", "--wait-timeout", "30s"]).await;
    drained.exits(0).says(&format!("node {id} is drained"));
    // A group that it has just handed over may not have told it yet who leads now.
    eventually("it is drained and follows all groups", SOON, async || {
        let node = seen(&cluster, id).await;
        match (node.draining, node.ready, node.groups_led) {
            (true, true, 0) => Ok(()),
            _ => Err(format!("{node:?}")),
        }
    })
    .await;
    readyz(&cluster.nodes[1], 503, "it is drained, until ddbctl node undrain").await;
    goes_on().await;
    // Clients may still speak to it, and it passes on what they ask.
    stop_its_own.store(true, Ordering::Relaxed);
    assert_eq!(its_own.await.unwrap(), Vec::<String>::new());
    cluster.ctl(&["cluster", "health", "--wait"]).await.exits(0);
    eventually("it is listed as drained", SOON, async || {
        let listed = cluster.ctl(&["node", "list"]).await.exits(0);
        if listed.out().contains("drained") { Ok(()) } else { Err(listed.story()) }
    })
    .await;
    cluster.ctl(&["node", "drain", &word]).await.exits(0).says("was drained before");

    // A restart changes nothing of it. Whoever leads a group must notice nothing.
    cluster.nodes[1].terminate().await;
    cluster.nodes[1].start();
    readyz(&cluster.nodes[1], 503, "it is drained").await;
    goes_on().await;
    leads(&cluster, id, |led| led == 0).await;

    cluster.ctl(&["node", "undrain", &word]).await.exits(0).says("leads again");
    readyz(&cluster.nodes[1], 200, "").await;
    leads(&cluster, id, |led| led > 0).await;
    goes_on().await;
    cluster.ctl(&["node", "undrain", &word]).await.exits(0).says("was not drained");
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert_eq!(writer.await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_node_that_could_lead_is_not_drained_and_a_lone_replica_is_named() {
    let options = Options { replication_factor: 1, ..Options::default() };
    let cluster = Cluster::start(2, options).await;
    let ids = [id_of(&cluster, &cluster.nodes[0]).await, id_of(&cluster, &cluster.nodes[1]).await];
    leads(&cluster, ids[1], |led| led == 4).await;
    cluster.ctl(&["node", "drain", "7"]).await.exits(5).says("there is no node 7");
    // A node is named by its address too, as long as it is known who is there.
    let (address, nobody) = (cluster.nodes[1].endpoint(), cluster.further().endpoint());
    cluster.ctl(&["node", "drain", &nobody]).await.exits(5).says("no node of the cluster is at");
    cluster.ctl(&["node", "drain", &address]).await.exits(0).says(&ids[1].to_string());
    let refused = cluster.ctl(&["node", "drain", &ids[0].to_string()]).await.exits(5);
    refused.says("no other node is left that could lead");
    let wait = Duration::from_secs(2).as_secs().to_string();
    let late = ["node", "drain", &ids[1].to_string(), "--wait", "--wait-timeout", &wait];
    let late = cluster.ctl(&late).await.exits(3);
    late.says("alone votes in group").says("nobody else could lead it");
    cluster.ctl(&["node", "undrain", &address]).await.exits(0);
}
