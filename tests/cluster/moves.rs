//! Nodes that come back where others were: they find each other, whoever stands at an address now.

use devicedb::proto::v1::Bucket;

use crate::harness::{Cluster, Options, SOON};

/// Restores a cluster onto its own machines, the part of each on the one that is named for it, and writes and reads everywhere.
async fn restored_in_another_order(order: [usize; 3], joins: bool) {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    client.put("shop", Bucket::Default, "before", "kept").await.unwrap();
    let uuid = client.complete_snapshot(SOON).await.uuid;
    let tars = cluster.download_all(&uuid).await;
    cluster.lose_every_disk();
    if !joins {
        for node in &mut cluster.nodes {
            if let Some(at) = node.args.iter().position(|word| word == "--join") {
                node.args.drain(at..at + 2);
            }
        }
    }
    let moved = order.map(|part| tars[part].clone());
    cluster.restore(&moved).await;
    for node in &cluster.nodes {
        let (client, key) = (node.client(), format!("after on {}", node.name));
        assert_eq!(client.values("shop", Bucket::Default, "before").await.unwrap(), ["kept"]);
        client.put("shop", Bucket::Default, key, "served").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_restored_onto_the_old_machines_in_another_order_serve_without_a_word_of_who_is_where() {
    restored_in_another_order([2, 0, 1], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_restored_onto_the_old_machines_in_another_order_serve_with_the_words_of_their_first_start() {
    restored_in_another_order([1, 2, 0], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_two_machines_that_are_mixed_up_serve() {
    restored_in_another_order([1, 0, 2], false).await;
}
