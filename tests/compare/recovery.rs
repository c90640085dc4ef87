//! Snapshots and restores: from the command to files that suffice, and from empty disks to a
//! cluster that serves.
//!
//! Every round founds new clusters, since a second snapshot of what has not changed costs DeviceDB
//! next to nothing. Sizes are of keys and values as a user wrote them, once, however many copies a
//! cluster keeps of them.

use std::time::Duration;

use devicedb::{
    base::clock::Clock,
    ctl::bench::{
        load::{Lasts, Plan},
        requests::{Field, Kind},
    },
};

use crate::{
    Args, SITES, VALUE_BYTES,
    harness::{Cluster, SOON, eventually, http_get, shell},
    machine::peak_memory_mib,
    subject::{Subject, Which},
    table::{Better, ETCD, MANY, Results, Sample},
};

const BOUND: Duration = Duration::from_secs(600);
/// Keys that are read after a restore, to see that it was one.
const LOOKS: u64 = 2000;

/// What a round came to, in seconds.
struct Took {
    filled: Duration,
    snapshot: Duration,
    restore: Duration,
    memory_mib: f64,
}

pub async fn measure(args: &Args, nodes: usize, results: &mut Results) {
    let field = |which| match which {
        Which::Ours => Field::of("many-", SITES, args.keys, VALUE_BYTES),
        Which::Etcd => Field::of("", 1, args.keys, VALUE_BYTES),
    };
    for round in 0..args.rounds {
        let mut order = [(Which::Ours, MANY), (Which::Etcd, ETCD)];
        order.rotate_left(round % 2);
        for (which, name) in order {
            let field = field(which);
            let took = once(which, nodes, &field).await;
            let mb = (field.keys() * field.row_bytes()) as f64 / 1e6;
            let numbers = [
                (
                    "keys written in batches a second",
                    Better::More,
                    field.keys() as f64 / took.filled.as_secs_f64(),
                ),
                ("snapshot to files, MB/s", Better::More, mb / took.snapshot.as_secs_f64()),
                ("restore to serving, MB/s", Better::More, mb / took.restore.as_secs_f64()),
                ("peak memory of a node up to the snapshot, MiB", Better::Less, took.memory_mib),
            ];
            for (what, better, value) in numbers {
                eprintln!("{nodes} nodes, round {}: {name}: {what}: {value:.0}", round + 1);
                results.samples.push(Sample {
                    nodes,
                    what: what.to_string(),
                    better,
                    shown: true,
                    subject: name,
                    round,
                    value,
                });
            }
        }
    }
}

async fn once(which: Which, nodes: usize, field: &Field) -> Took {
    let clock = Clock::start();
    let mut subject = Subject::start(which, nodes).await;
    let connections = subject.connect().await;
    let filled = subject.fill(field, &connections).await.took;
    drop(connections);

    let began = clock.now();
    let snapshot = match &mut subject {
        Subject::Ours(cluster) => {
            let taken = cluster.client().complete_snapshot(BOUND).await;
            cluster.download_all(&taken.uuid).await
        }
        Subject::Etcd(members) => {
            let file = members.dir().join("snapshot.db");
            members.save(&file).await;
            vec![file]
        }
    };
    let snapshot_took = clock.now() - began;
    let memory_mib = subject.pids().into_iter().map(peak_memory_mib).fold(0.0, f64::max);

    match &mut subject {
        Subject::Ours(cluster) => cluster.lose_every_disk(),
        Subject::Etcd(members) => members.lose_every_disk(),
    }
    let began = clock.now();
    match &mut subject {
        Subject::Ours(cluster) => restore(cluster, &snapshot).await,
        Subject::Etcd(members) => members.restore(&snapshot[0]).await,
    }
    let restore_took = clock.now() - began;

    let connections = subject.connect().await;
    let plan = Plan { clients: 8, lasts: Lasts::Requests(LOOKS), rate: None };
    let looked = subject.load(Kind::Get, plan, field, true, &connections).await;
    assert_eq!(
        (looked.all.requests, looked.failed()),
        (LOOKS, 0),
        "a restored cluster lacks keys: {:?}",
        looked.failures
    );
    Took { filled, snapshot: snapshot_took, restore: restore_took, memory_mib }
}

/// As `Cluster::restore`, for as many rows as it takes.
async fn restore(cluster: &mut Cluster, tars: &[std::path::PathBuf]) {
    for (node, tar) in cluster.nodes.iter_mut().zip(tars) {
        std::fs::create_dir(&node.store).unwrap();
        shell(&format!("tar xf {} -C {}", tar.display(), node.store.display()), BOUND)
            .await
            .exits(0);
        node.start();
    }
    for node in &cluster.nodes {
        let endpoint = node.endpoint();
        eventually(&format!("{} has loaded its part", node.name), BOUND.max(SOON), async || {
            match http_get(&endpoint, "/readyz").await {
                Ok((200, _)) => Ok(()),
                Ok((code, body)) => Err(format!("{code} {body}")),
                Err(e) => Err(e.to_string()),
            }
        })
        .await;
    }
    cluster.settled().await;
}
