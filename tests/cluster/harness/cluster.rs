//! Several nodes in one temporary directory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use super::{Certificates, Client, Node, Port, Ran, SOON, eventually, node::secured_ddbctl, shell};

/// Where parts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStore {
    None,
    /// One directory for all nodes, as in the guide.
    Shared,
    /// One directory a node.
    Own,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub partitions: u32,
    pub groups: u32,
    pub replication_factor: u32,
    pub snapshot_store: SnapshotStore,
    /// Further words for every node.
    pub extra: Vec<String>,
    /// Whether nodes and clients have certificates, and speak TLS and nothing else.
    pub secured: bool,
}

impl Default for Options {
    /// Small enough for several clusters at a time on two cores; what a user gets without a word is
    /// `Options::product()`.
    fn default() -> Options {
        Options {
            partitions: 64,
            groups: 8,
            replication_factor: 3,
            snapshot_store: SnapshotStore::Shared,
            extra: Vec::new(),
            secured: false,
        }
    }
}

impl Options {
    /// The product's own defaults.
    pub fn product() -> Options {
        Options { partitions: 1024, groups: 64, ..Options::default() }
    }
}

pub struct Cluster {
    // Nodes are dropped, and so killed, before their directory.
    pub nodes: Vec<Node>,
    pub options: Options,
    certificates: Option<Arc<Certificates>>,
    dir: TempDir,
}

impl Cluster {
    /// Founds a cluster and waits until every node is ready and every group has all its replicas.
    pub async fn start(size: usize, options: Options) -> Cluster {
        let mut cluster = Cluster::empty(options);
        for _ in 0..size {
            cluster.add().await;
        }
        cluster.settled().await;
        cluster
    }

    /// A directory in which no node has been started yet.
    pub fn empty(options: Options) -> Cluster {
        let dir = TempDir::with_prefix("devicedb-").unwrap();
        let make = || Arc::new(Certificates::make(&dir.path().join("certs")));
        let certificates = options.secured.then(make);
        Cluster { nodes: Vec::new(), options, certificates, dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts one more node, which joins the others; the first one founds. Returns when it listens.
    pub async fn add(&mut self) -> &mut Node {
        let mut node = self.further();
        node.start();
        node.wait_listening().await;
        self.nodes.push(node);
        self.nodes.last_mut().expect("it was just pushed")
    }

    /// The next node, not started and not part of `nodes` yet.
    pub fn further(&self) -> Node {
        let name = format!("node{}", self.nodes.len() + 1);
        let port = Port::claim();
        let store = self.dir().join(&name);
        let options = &self.options;
        let mut args: Vec<String> = vec![
            "start".into(),
            "--store".into(),
            store.display().to_string(),
            "--listen".into(),
            port.endpoint(),
        ];
        match self.nodes.first() {
            Some(founder) => args.extend(["--join".into(), founder.endpoint()]),
            None => args.extend([
                "--found".into(),
                format!("--partitions={}", options.partitions),
                format!("--groups={}", options.groups),
                format!("--replication-factor={}", options.replication_factor),
            ]),
        }
        let snapshot_store = self.snapshot_store(&name);
        if let Some(dir) = &snapshot_store {
            std::fs::create_dir_all(dir).unwrap();
            args.extend(["--snapshot-store".into(), dir.display().to_string()]);
        }
        args.extend(options.extra.iter().cloned());
        args.extend(self.certificates.iter().flat_map(|held| held.issue(&name)));
        let mut node = Node::new(&name, port, self.dir(), store, args);
        node.snapshot_store = snapshot_store;
        node.certificates = self.certificates.clone();
        node
    }

    fn snapshot_store(&self, name: &str) -> Option<PathBuf> {
        match self.options.snapshot_store {
            SnapshotStore::None => None,
            SnapshotStore::Shared => Some(self.dir().join("snapshots")),
            SnapshotStore::Own => Some(self.dir().join(format!("{name}-snapshots"))),
        }
    }

    /// Waits until every started node is ready and the cluster says of itself that nothing is
    /// missing.
    pub async fn settled(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.wait_ready().await;
        }
        let running = self.nodes.iter().filter(|node| node.is_running()).count();
        let client = self.client();
        eventually("every group has a leader and its replicas", SOON, async || {
            let seen = client.overview().await.map_err(|e| e.to_string())?;
            let reachable = seen.nodes.iter().filter(|node| node.reachable && node.ready).count();
            // With fewer nodes than the replication factor, every group says that it lacks some.
            let wanted = self.nodes.len().max(self.options.replication_factor as usize);
            let whole = running < wanted
                || seen.groups_under_replicated == 0 && !seen.meta_under_replicated;
            if reachable == running && seen.groups_without_leader == 0 && whole {
                Ok(())
            } else {
                Err(format!("{seen:#?}"))
            }
        })
        .await;
    }

    /// A client of the first node that runs.
    pub fn client(&self) -> Client {
        self.nodes.iter().find(|node| node.is_running()).expect("a node runs").client()
    }

    /// A client for every node, in order, whether it runs or not.
    pub fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(Node::client).collect()
    }

    /// `ddbctl` with the endpoints of all nodes.
    pub async fn ctl(&self, args: &[&str]) -> Ran {
        let endpoints: Vec<_> = self.nodes.iter().map(Node::endpoint).collect();
        secured_ddbctl(self.certificates.as_deref(), &endpoints.join(","), args).await
    }

    /// Kills all nodes with one breath between them.
    pub fn kill9_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            node.kill9();
        }
    }

    /// Starts all nodes that are down, and waits until the cluster is whole.
    pub async fn restart_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.start();
        }
        self.settled().await;
    }

    /// Every running node's part of a snapshot, by `ddbctl`, in the order of `nodes`.
    pub async fn download_all(&self, uuid: &str) -> Vec<PathBuf> {
        let mut tars = Vec::new();
        for node in &self.nodes {
            let tar = self.dir().join(format!("snapshot-{uuid}-{}.tar", node.name));
            let path = tar.display().to_string();
            node.ctl(&["snapshot", "download", uuid, "--output", &path]).await.exits(0);
            tars.push(tar);
        }
        tars
    }

    /// Leaves nodes and directory behind: the directory, and each node's endpoint and process id.
    #[allow(dead_code, reason = "only the demo leaves a cluster behind")]
    pub fn leave(self) -> (PathBuf, Vec<(String, u32)>) {
        let nodes = self.nodes.into_iter().map(|node| (node.endpoint(), node.leave())).collect();
        (self.dir.keep(), nodes)
    }

    /// The disaster: every node is killed and its store is gone.
    pub fn lose_every_disk(&mut self) {
        self.kill9_all();
        for node in &self.nodes {
            std::fs::remove_dir_all(&node.store).unwrap();
        }
    }

    /// Extracts each part into the empty store of its node.
    pub async fn extract(&self, tars: &[PathBuf]) {
        for (node, tar) in self.nodes.iter().zip(tars) {
            std::fs::create_dir(&node.store).unwrap();
            shell(&format!("tar xf {} -C {}", tar.display(), node.store.display()), SOON)
                .await
                .exits(0);
        }
    }

    /// The way back: each part is extracted into the empty store of its node, and the nodes are
    /// started.
    pub async fn restore(&mut self, tars: &[PathBuf]) {
        self.extract(tars).await;
        self.restart_all().await;
    }
}
