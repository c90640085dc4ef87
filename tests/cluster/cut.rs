//! A snapshot is one instant. Counters are written to site A, then B, then C; whatever happens to
//! the nodes, a restored cluster holds A >= B >= C, and everything that was acknowledged before
//! `create` was called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use devicedb::{
    base::ids::{SiteId, Topology},
    proto::v1::{Bucket, PutRequest, Snapshot, SnapshotStatus},
};
use tokio::{task::JoinHandle, time::sleep};

use crate::harness::{Client, Cluster, Options, SOON, eventually, put_request};

const COLUMNS: usize = 4;
const CALL: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(20);
pub const COUNTER: &str = "counter";

/// Three sites in three groups, and a writer that counts through them.
pub struct Column {
    pub sites: [String; 3],
    /// The last number that C acknowledged.
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Column {
    pub fn start(clients: Vec<Client>, sites: [String; 3], from: u64) -> Column {
        let acknowledged = Arc::new(AtomicU64::new(from));
        let (count, to) = (acknowledged.clone(), sites.clone());
        let clients: Vec<_> =
            clients.into_iter().map(|client| client.with_deadline(CALL)).collect();
        let task = tokio::spawn(async move {
            let mut nodes = clients.iter().cycle();
            let mut put = async |put: PutRequest| {
                while nodes
                    .next()
                    .expect("a cycle has no end")
                    .put_request(put.clone())
                    .await
                    .is_err()
                {
                    sleep(RETRY).await;
                }
            };
            for number in from + 1.. {
                for site in &to {
                    put(put_request(site, Bucket::Default, COUNTER, number.to_be_bytes())).await;
                }
                count.store(number, Ordering::SeqCst);
            }
        });
        Column { sites, acknowledged, task }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    pub async fn goes_on(&self, more: u64) {
        let goal = self.acknowledged() + more;
        eventually("the counters go on", SOON, async || match self.acknowledged() {
            count if count >= goal => Ok(()),
            count => Err(format!("{count} of {goal}")),
        })
        .await;
    }

    fn end(self) -> [String; 3] {
        self.task.abort();
        self.sites
    }
}

/// What may happen to a node, by its place in the cluster, while the snapshot is taken.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    Kill(usize),
    Pause(usize),
}

impl Fault {
    /// Takes a snapshot, by a node to which nothing happens, while the fault does; mends the fault
    /// when the snapshot is resolved. A snapshot that fails does so with a reason, and one that
    /// nothing happened to is complete.
    pub async fn while_taking(self, cluster: &mut Cluster) -> Snapshot {
        let asked = usize::from(matches!(self, Fault::Kill(0) | Fault::Pause(0)));
        let client = cluster.nodes[asked].client();
        let begun = client.create_snapshot().await.unwrap();
        match self {
            Fault::None => {}
            Fault::Kill(victim) => cluster.nodes[victim].kill9(),
            Fault::Pause(victim) => cluster.nodes[victim].pause().await,
        }
        let snapshot = client.snapshot_resolved(&begun.uuid, SOON * 2).await;
        match self {
            Fault::None => {}
            Fault::Kill(_) => cluster.restart_all().await,
            Fault::Pause(victim) => {
                cluster.nodes[victim].resume();
                cluster.settled().await;
            }
        }
        assert!(
            is_complete(&snapshot) || !matches!(self, Fault::None),
            "nothing happened, and the snapshot is not complete: {snapshot:#?}"
        );
        assert!(
            snapshot.status() != SnapshotStatus::Failed || !snapshot.reason.is_empty(),
            "{self:?}: {snapshot:#?}"
        );
        snapshot
    }
}

/// Whether every node has its part.
pub fn is_complete(snapshot: &Snapshot) -> bool {
    snapshot.parts.iter().all(|part| part.status() == SnapshotStatus::Completed)
}

async fn counter(client: &Client, site: &str) -> u64 {
    let values = client.values(site, Bucket::Default, COUNTER).await.unwrap();
    assert!(values.len() <= 1, "{site}: a counter with one writer has siblings: {values:?}");
    values.first().map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()))
}

/// Names of sites that lie in groups of their own.
pub fn columns(topology: Topology) -> Vec<[String; 3]> {
    let mut number = 0;
    let mut next = |group: u32| loop {
        number += 1;
        let site = format!("site{number}");
        if topology.group_of_site(&SiteId::new(&site).unwrap()).0 == group {
            return site;
        }
    };
    (0..COLUMNS as u32)
        .map(|column| [0, 1, 2].map(|place| next((3 * column + place) % topology.groups())))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_holds_one_instant_whatever_happened_while_the_snapshot_was_taken() {
    let options = Options::default();
    let topology = Topology::new(options.partitions, options.groups).unwrap();
    let mut cluster = Cluster::start(3, options).await;
    let mut columns: Vec<_> = columns(topology).into_iter().map(|sites| (sites, 0)).collect();
    for site in columns.iter().flat_map(|(sites, _)| sites) {
        cluster.client().add_site(site).await.unwrap();
    }
    for fault in
        [Fault::None, Fault::Pause(1), Fault::Kill(2), Fault::None, Fault::Kill(0), Fault::Pause(0)]
    {
        let writers: Vec<_> = columns
            .drain(..)
            .map(|(sites, from)| Column::start(cluster.clients(), sites, from))
            .collect();
        for writer in &writers {
            writer.goes_on(10).await;
        }
        let before: Vec<_> = writers.iter().map(Column::acknowledged).collect();
        let snapshot = fault.while_taking(&mut cluster).await;
        for writer in &writers {
            writer.goes_on(5).await;
        }
        let sites: Vec<_> = writers.into_iter().map(Column::end).collect();
        if is_complete(&snapshot) {
            let tars = cluster.download_all(&snapshot.uuid).await;
            cluster.lose_every_disk();
            cluster.restore(&tars).await;
        }
        let client = cluster.client();
        for (sites, floor) in sites.into_iter().zip(before) {
            let [a, b, c] = [
                counter(&client, &sites[0]).await,
                counter(&client, &sites[1]).await,
                counter(&client, &sites[2]).await,
            ];
            assert!(a >= b && b >= c, "{fault:?}: not one instant: {sites:?} hold {a}, {b}, {c}");
            assert!(
                c >= floor,
                "{fault:?}: {floor} was acknowledged before create was called, {sites:?} hold {a}, \
                 {b}, {c}"
            );
            columns.push((sites, a));
        }
    }
}
