//! What a node offers, made of its engine and its peers. Which door leads to which of it is in
//! `doors`, and what runs beside requests is in `duties`.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use crate::{
    base::{
        clock::Clock,
        crew::Crew,
        ids::{NodeId, Topology},
        metrics::Metrics,
    },
    boot::arrival::Options,
    engine::driver::Handle,
    entry::Identity,
    net::{Arrivals, Peers, spans::Traces},
    service::{
        admin::Cluster,
        parts::{Directories, Parts},
        readers::Readers,
        schedules::Schedules,
        uploads::Uploads,
    },
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    pub me: NodeId,
    pub topology: Topology,
    pub handle: Handle,
    pub peers: Peers,
    pub cluster: Cluster,
    pub parts: Parts,
    pub uploads: Uploads,
    pub schedules: Schedules,
    pub readers: Readers,
}

impl Services {
    pub fn new(
        options: &Options,
        identity: watch::Receiver<Identity>,
        directories: Directories,
        (handle, peers): (Handle, Peers),
        (clock, metrics, crew, traces): (Clock, &Arc<Metrics>, &Crew, &Traces),
    ) -> Services {
        let (me, topology) = {
            let identity = identity.borrow();
            (identity.node, identity.topology)
        };
        let store: PathBuf = options.store.clone();
        let arrivals = Arrivals::new(options.move_rate, clock);
        let cluster = Cluster::new(handle.clone(), peers.clone(), arrivals, topology, store);
        let parts = Parts::new(
            me,
            directories,
            identity,
            peers.me().address.clone(),
            clock,
            cluster.clone(),
            metrics.clone(),
            crew.clone(),
            traces.clone(),
        );
        let uploads = Uploads::new(
            options.repository.clone(),
            cluster.clone(),
            parts.clone(),
            peers.clone(),
            clock,
            metrics.clone(),
            crew.clone(),
            traces.clone(),
        );
        let schedules =
            Schedules::new(cluster.clone(), uploads.clone(), clock, metrics.clone(), crew.clone());
        let readers = Readers::new(clock);
        Services { me, topology, handle, peers, cluster, parts, uploads, schedules, readers }
    }
}
