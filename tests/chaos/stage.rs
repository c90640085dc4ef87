//! The cluster that chaos happens to: nodes that reach each other through `links` only, each on a
//! machine of its own where that is permitted.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devicedb::{
    base::clock::{Clock, Random},
    proto::v1::GetOverviewResponse,
};

use crate::{
    harness::{Client, Cluster, Node, Options, Port, SOON, shell},
    links::Links,
    machines::Machines,
};

/// Nodes from the beginning; the others join while everything else happens.
pub const FOUNDERS: usize = 3;
pub const NODES: usize = 4;

/// How long an operator waits for an answer.
const CALL: Duration = Duration::from_secs(3);

pub struct Stage {
    pub clock: Clock,
    pub links: Links,
    /// All that were started once.
    pub cluster: Cluster,
    /// How many these are, for clients.
    pub started: Arc<AtomicUsize>,
    /// Those that were not, the next one last.
    further: Vec<Node>,
    /// Why there are none, otherwise.
    pub machines: Result<Machines, String>,
}

impl Stage {
    pub async fn set() -> Stage {
        let options = Options::default();
        let cluster = Cluster::empty(options.clone());
        let dir = cluster.dir().to_path_buf();
        let disks: Vec<_> = (0..NODES).map(|node| dir.join(format!("disk{node}"))).collect();
        for disk in &disks {
            fs::create_dir(disk).unwrap();
        }
        let machines = Machines::with_disks(disks.clone());
        let ports: Vec<_> = (0..NODES).map(|_| Port::claim()).collect();
        let links = Links::between(&ports.iter().map(Port::endpoint).collect::<Vec<_>>()).await;
        let snapshots = dir.join("snapshots");
        fs::create_dir(&snapshots).unwrap();
        let mut further = Vec::new();
        for (number, (port, disk)) in ports.into_iter().zip(disks).enumerate() {
            let store = disk.join("store");
            let mut args = vec!["start".to_string()];
            let mut say = |flag: &str, word: String| args.extend([flag.to_string(), word]);
            say("--store", store.display().to_string());
            say("--listen", port.endpoint());
            say("--advertise", links.address(number));
            say("--snapshot-store", snapshots.display().to_string());
            say("--partitions", options.partitions.to_string());
            say("--groups", options.groups.to_string());
            say("--replication-factor", options.replication_factor.to_string());
            match number {
                0 => args.push("--found".to_string()),
                _ => say("--join", links.address(0)),
            }
            further.push(Node::new(&format!("node{number}"), port, &dir, store, args));
        }
        further.reverse();
        let mut stage = Stage {
            clock: Clock::start(),
            links,
            cluster,
            started: Arc::default(),
            further,
            machines,
        };
        for _ in 0..FOUNDERS {
            let node = stage.add();
            stage.cluster.nodes[node].wait_listening().await;
        }
        stage.cluster.settled().await;
        stage
    }

    /// Clients of all nodes, those that do not run yet included.
    pub fn clients(&self) -> Vec<Client> {
        self.cluster.nodes.iter().chain(self.further.iter().rev()).map(Node::client).collect()
    }

    pub fn may_add(&self) -> bool {
        !self.further.is_empty()
    }

    /// Starts one more node.
    pub fn add(&mut self) -> usize {
        let node = self.further.pop().expect("there is one more");
        self.cluster.nodes.push(node);
        let number = self.cluster.nodes.len() - 1;
        self.start(number, 0);
        self.started.store(number + 1, Ordering::SeqCst);
        number
    }

    /// Starts a node with its clocks shifted by so many seconds. One that has yet to join is told
    /// where all others are now.
    pub fn start(&mut self, number: usize, shift_seconds: u64) {
        let founds = self.cluster.nodes[number].args.iter().any(|word| word == "--found");
        if !founds && !self.holds_store(number) {
            let others = self.others(number);
            self.told_of(number, &others);
        }
        let node = &mut self.cluster.nodes[number];
        if let Ok(machines) = &self.machines {
            node.under = machines.under(shift_seconds);
        }
        node.start();
        self.links.is_process(number, node.pid());
    }

    /// From its next start on a node is reached at another address, and is told where others are
    /// now.
    pub fn move_away(&mut self, number: usize, told_of: &[usize]) {
        self.links.move_away(number);
        self.told_of(number, told_of);
        let address = self.links.address(number);
        let args = &mut self.cluster.nodes[number].args;
        // It has founded long ago.
        args.retain(|word| word != "--found");
        let at = args
            .iter()
            .position(|word| word == "--advertise")
            .expect("every node advertises its proxy");
        args[at + 1] = address;
    }

    /// From its next start on a node looks for others where these are now.
    fn told_of(&mut self, number: usize, others: &[usize]) {
        let joins: Vec<String> = others
            .iter()
            .flat_map(|node| ["--join".to_string(), self.links.address(*node)])
            .collect();
        let args = &mut self.cluster.nodes[number].args;
        while let Some(at) = args.iter().position(|word| word == "--join") {
            args.drain(at..at + 2);
        }
        args.extend(joins);
    }

    pub fn others(&self, number: usize) -> Vec<usize> {
        (0..self.cluster.nodes.len()).filter(|other| *other != number).collect()
    }

    /// Whether a node has yet to join. It knows where the others were when it was started, and
    /// nobody tells it that they have moved.
    pub fn somebody_joins(&self) -> bool {
        (0..self.cluster.nodes.len()).any(|node| !self.holds_store(node))
    }

    /// Every node moves, and is told of one that holds a store: one that has lost its own and
    /// joins is nobody's way to the others.
    pub fn move_all(&mut self) {
        let nodes = 0..self.cluster.nodes.len();
        let hub = nodes.clone().find(|node| self.holds_store(*node));
        let hub = hub.expect("no two disks are lost at a time");
        // Where the others look for it is known when it has moved.
        self.move_away(hub, &[]);
        nodes.filter(|node| *node != hub).for_each(|node| self.move_away(node, &[hub]));
    }

    fn holds_store(&self, number: usize) -> bool {
        self.store(number).join("state.redb").exists()
    }

    /// A machine is lost with its disk, and its place is taken by another one at another address,
    /// which is told of all others. The id of the lost one, if it ever got one: where it was may
    /// never have come round.
    pub fn lose_disk(&mut self, number: usize) -> Option<String> {
        let id = self.id(number);
        let others = self.others(number);
        self.move_away(number, &others);
        let store = self.store(number);
        fs::remove_dir_all(&store).unwrap();
        id
    }

    /// What a node calls itself, while it joins and afterwards.
    fn id(&self, number: usize) -> Option<String> {
        if let Ok(drawn) = fs::read_to_string(self.store(number).join("node-id")) {
            return Some(drawn.trim().to_owned());
        }
        let log = self.cluster.nodes[number].log();
        let says = |line: &&str| {
            ["founded a cluster", "joined a cluster", "serving node="]
                .iter()
                .any(|words| line.contains(words))
        };
        let line = log.lines().rev().find(says)?;
        line.split_whitespace().find_map(|word| word.strip_prefix("node=")).map(str::to_owned)
    }

    /// A node's store as it is seen from here.
    fn store(&self, number: usize) -> PathBuf {
        self.machines
            .as_ref()
            .map_or(self.cluster.nodes[number].store.clone(), |m| m.seen(number).join("store"))
    }

    /// Has the operator remove a lost node.
    pub async fn remove(&self, id: &str) -> Result<(), String> {
        let overview = self.overview().await?;
        if !overview.nodes.iter().any(|node| node.id.to_string() == id) {
            return Ok(());
        }
        let ran = self.cluster.ctl(&["--timeout", "3s", "node", "remove", id]).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
    }

    /// Has the operator say that a node shall leave, which may be said again.
    pub async fn decommission(&self, number: usize) {
        if let Ok(Some(id)) = self.id_at(&self.links.address(number)).await {
            // It is refused while other nodes are away, and said again until it is not.
            self.cluster.ctl(&["--timeout", "3s", "node", "decommission", &id]).await;
        }
    }

    /// Whether the cluster says that nothing is missing.
    pub async fn is_whole(&self) -> bool {
        self.cluster.ctl(&["--timeout", "3s", "cluster", "health"]).await.code == Some(0)
    }

    async fn id_at(&self, address: &str) -> Result<Option<String>, String> {
        let overview = self.overview().await?;
        let node = overview.nodes.iter().find(|node| node.address == address);
        Ok(node.map(|node| node.id.to_string()))
    }

    async fn overview(&self) -> Result<GetOverviewResponse, String> {
        let running = self.cluster.nodes.iter().find(|node| node.is_running());
        let client = running.ok_or("no node runs")?.client().with_deadline(CALL);
        client.overview().await.map_err(|status| status.to_string())
    }

    /// Every disk is lost, and every node restored from its part, all at other addresses. Each but
    /// the first is told where that is.
    pub async fn restore_elsewhere(&mut self, tars: &[PathBuf]) {
        self.cluster.kill9_all();
        for (number, tar) in tars.iter().enumerate() {
            let store = self.store(number);
            fs::remove_dir_all(&store).unwrap();
            fs::create_dir(&store).unwrap();
            shell(&format!("tar xf {} -C {}", tar.display(), store.display()), SOON).await.exits(0);
            self.move_away(number, if number == 0 { &[] } else { &[0] });
        }
        for number in (0..tars.len()).rev() {
            self.start(number, 0);
        }
        self.cluster.settled().await;
    }

    pub fn another_shift(&self, rng: &mut Random) -> u64 {
        self.machines.as_ref().map_or(0, |machines| machines.another_shift(rng))
    }

    pub fn now(&self) -> Duration {
        self.clock.now()
    }
}
