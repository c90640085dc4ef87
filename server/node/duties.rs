//! What a node does beside answering requests, each duty in a task of its own that ends with the
//! node: it listens to its engine, sends rows, makes itself known, goes on with snapshots,
//! schedules and operations, and watches its disks.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::{Notify, mpsc};

use super::services::Services;
use crate::{
    base::{
        crew::{self, Crew, Role},
        ids::NodeId,
        limits,
        metrics::Metrics,
        space::Space,
    },
    boot::arrival::Options,
    cluster::Node as NodeEntry,
    engine::{News, RowsToSend, SnapshotNews},
    net::Peers,
    rpc::Access,
};

/// What an engine has to say to its node.
pub struct Heard {
    pub news: mpsc::Receiver<News>,
    /// Rows that it has sent to other nodes.
    pub rows: mpsc::Receiver<RowsToSend>,
}

/// Begins all duties. `entry` is the node as others are to know it.
pub fn begin(
    options: &Options,
    services: &Services,
    access: &Access,
    entry: NodeEntry,
    heard: Heard,
    (metrics, crew): (&Arc<Metrics>, &Crew),
) {
    let Services { me, peers, cluster, parts, uploads, schedules, readers, .. } = services.clone();
    crew.spawn(Role::Repository, uploads.watch());
    crew.spawn(Role::Schedules, schedules.tend());
    crew.spawn(Role::Disk, watch_disk("store", options.store.clone(), metrics.clone()));
    if let Some(dir) = options.snapshot_store.clone() {
        crew.spawn(Role::Disk, watch_disk("snapshot_store", dir, metrics.clone()));
    }
    let (snapshots_tx, snapshots) = mpsc::channel(limits::NEWS_QUEUE_MAX);
    crew.spawn(Role::Parts, parts.run(snapshots));
    let departs = Arc::new(Notify::new());
    let listener = Listener {
        me,
        peers: peers.clone(),
        access: access.clone(),
        snapshots: snapshots_tx,
        departs: departs.clone(),
    };
    crew.spawn(Role::News, listener.listen(heard.news));
    crew.spawn(Role::Rows, send_rows(peers.clone(), heard.rows));
    crew.spawn(Role::Announce, access.clone().become_current(cluster.clone()));
    crew.spawn(Role::Announce, {
        let cluster = cluster.clone();
        async move { cluster.announce_until_known(entry).await }
    });
    crew.spawn(Role::Announce, {
        let cluster = cluster.clone();
        async move {
            loop {
                departs.notified().await;
                cluster.depart().await;
            }
        }
    });
    crew.spawn(Role::Operations, async move { cluster.tend_operations().await });
    for target in options.join.clone() {
        let peers = peers.clone();
        crew.spawn(Role::Meet, async move { peers.meet(target).await });
    }
    crew.spawn(Role::Readers, readers.run());
}

/// Whoever has to know what happens in the engine.
struct Listener {
    me: NodeId,
    peers: Peers,
    access: Access,
    snapshots: mpsc::Sender<SnapshotNews>,
    departs: Arc<Notify>,
}

impl Listener {
    async fn listen(self, mut news: mpsc::Receiver<News>) {
        let Listener { me, peers, access, snapshots, departs } = self;
        while let Some(news) = news.recv().await {
            match news {
                News::Nodes(nodes) => {
                    nodes.iter().for_each(|(id, address)| peers.listed(*id, address))
                }
                News::Removed(nodes) if nodes.contains(&me) => peers.is_out(),
                News::Access(granted, lineage) => access.granted(*granted, lineage),
                News::Departs => departs.notify_one(),
                News::Removed(nodes) => nodes.iter().for_each(|id| peers.remove(*id)),
                // The service ends only with this task.
                News::Snapshot(news) => drop(snapshots.send(*news).await),
                News::Leader { group, leader } => {
                    tracing::debug!(%group, ?leader, "a group's leader")
                }
                News::Held(_)
                | News::Logged { .. }
                | News::InVain { .. }
                | News::Refused { .. }
                | News::Ended { .. }
                | News::Skipped { .. } => {}
            }
        }
    }
}

async fn send_rows(peers: Peers, mut rows: mpsc::Receiver<RowsToSend>) {
    while let Some(rows) = rows.recv().await {
        peers.send_rows(rows);
    }
}

/// Says for `/metrics` what is free where a directory lies, and in the log when that comes to its
/// floor. Each has its own task: a disk that does not answer holds up nothing else.
async fn watch_disk(what: &'static str, dir: PathBuf, metrics: Arc<Metrics>) {
    let mut low = false;
    loop {
        let looked = dir.clone();
        if let Ok(space) = crew::blocking(Role::DiskLook, move || Space::of(&looked)).await {
            let (Space { free, .. }, floor) = (space, space.floor());
            metrics.disk(what, free, floor);
            if low != (free < floor) {
                low = !low;
                match low {
                    true => {
                        tracing::warn!(
                            what,
                            dir = %dir.display(),
                            free,
                            floor,
                            "a disk is nearly full: no parts and no rows for others are written to \
                             it",
                        )
                    }
                    false => {
                        tracing::info!(
                            what,
                            dir = %dir.display(),
                            free,
                            floor,
                            "a disk has room again",
                        )
                    }
                }
            }
        }
        tokio::time::sleep(limits::DISK_LOOK_EVERY).await;
    }
}
