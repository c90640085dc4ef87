//! How a start gets its store: it resumes with the one that is there, restores an extracted part,
//! founds a cluster, empty or of a snapshot in a repository, or waits for one and joins it.
//!
//! Somebody has to decide to found: with `--found`, with `--restore-from`, with the guide's
//! `cluster start` without `-join`, or with `ddbctl cluster init` to a node that waits. With
//! `--expect-nodes` several nodes begin at once (`together`). Founding is
//! refused if there is a trace of an earlier cluster: other files in the store directory, or parts
//! of this address in the snapshot store. Then a disk is gone or not mounted, and a second cluster
//! at the address of an old member would be taken for the first. A founding with `--restore-from`
//! is refused as well while a node of `--join` belongs to a cluster.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    base::{
        clock::{Clock, Random},
        crew::{self, Role},
        disk,
        error::{Error, Result},
        ids::{ClusterId, Lineage, NodeId, Topology},
        limits,
    },
    boot::{
        restore::{
            self, Holds,
            plan::Order,
            seed::{self, Founding, Progress},
        },
        starting::StartingServer,
        waiting::{self, End, Newcomer, Waiting},
    },
    cluster::{Node as NodeEntry, access::Pattern, level::Level},
    entry::Identity,
    faults::failpoint::{Failpoint, failpoint},
    net::{
        self, Dialler,
        spans::Collector,
        tls::{
            Mode, Setup,
            ticket::{JoinToken, Joiner},
        },
    },
    part::{
        seal::{Identities, Recipient},
        shelf::Shelf,
        traces,
    },
    proto::{
        internal::v1::{JoinRequest, JoinResponse},
        v1::NodeState,
    },
    repository,
    rpc::QuotaLimits,
    service::uploads,
    store::{FORMAT, Store},
    wire,
};

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Options {
    pub store: PathBuf,
    pub listen: SocketAddr,
    /// host:port under which others reach this node; the address it listens on if there is none.
    pub advertise: Option<String>,
    /// An empty store founds a cluster.
    pub found: bool,
    /// An empty store founds a cluster of a snapshot.
    pub restore_from: Option<Order>,
    /// host:port of nodes of the cluster to join, and to ask for the others after all addresses
    /// have changed. May name the node itself.
    pub join: Vec<String>,
    /// The file of the join token that a node without a store joins by.
    pub join_token: Option<PathBuf>,
    pub replication_factor: u32,
    pub partitions: u32,
    pub groups: u32,
    /// Bytes of rows a second that it sends to other nodes, and that it takes.
    pub move_rate: u64,
    pub snapshot_store: Option<PathBuf>,
    /// Where snapshots are uploaded to.
    pub repository: Option<uploads::Place>,
    /// Who can read the parts that are kept there; whoever gets them, if there is nobody.
    pub seal_to: Vec<Recipient>,
    /// The identity file that opens the part which is to be restored.
    pub unseal_with: Option<PathBuf>,
    /// It joins without a share of the groups.
    pub replacement: bool,
    /// Allows listening beyond loopback without TLS, or with TLS that is optional.
    pub insecure: bool,
    pub tls: Setup,
    /// Identities that may do everything, beside those whose certificates say so.
    pub admins: Vec<Pattern>,
    /// What each client may use of this node.
    pub quotas: QuotaLimits,
    /// The directory of the audit log; there is none without it.
    pub audit_log: Option<PathBuf>,
    /// Who is told how long calls and snapshots take, if somebody is.
    pub collector: Option<Collector>,
    /// It ends when its standard input does, which is a pipe.
    pub end_with_stdin: bool,
}

/// A start, as far as it has come.
pub struct Arrival<'a> {
    pub options: &'a Options,
    /// Where others reach this node.
    pub address: &'a str,
    /// Random, drawn when the process started.
    pub incarnation: u64,
    pub porch: &'a StartingServer,
    pub dialler: &'a Dialler,
}

/// The store that a start has come to.
pub struct Arrived {
    pub store: Store,
    pub identity: Identity,
    /// Nodes that are known from joining.
    pub known: Vec<NodeEntry>,
}

impl Options {
    /// A node of whom nothing is asked but to listen.
    pub fn plain(store: PathBuf, listen: SocketAddr) -> Options {
        Options {
            store,
            listen,
            advertise: None,
            found: false,
            restore_from: None,
            join: Vec::new(),
            join_token: None,
            replication_factor: 3,
            partitions: 1024,
            groups: 64,
            move_rate: limits::MOVE_BYTES_A_SECOND,
            snapshot_store: None,
            repository: None,
            seal_to: Vec::new(),
            unseal_with: None,
            replacement: false,
            insecure: false,
            tls: Setup::default(),
            admins: Vec::new(),
            quotas: QuotaLimits::default(),
            audit_log: None,
            collector: None,
            end_with_stdin: false,
        }
    }

    /// Refuses what can never work, before anything is changed.
    pub fn check(&self) -> Result<()> {
        if !self.listen.ip().is_loopback() && !self.insecure && self.tls.mode() != Mode::Required {
            return Err(Error::invalid(format!(
                "{} can be reached from other machines, and whoever reaches it may do everything; \
                 give this node certificates (`devicedb start --tls-cert --tls-key --tls-ca`), \
                 listen on 127.0.0.1, or use `devicedb start --insecure`",
                self.listen
            )));
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return Err(Error::invalid(format!(
                "{} is no address that other nodes can reach; say --advertise HOST:PORT",
                self.listen
            )));
        }
        if self.join.len() > limits::JOIN_ADDRESSES_MAX {
            return Err(Error::invalid(format!(
                "--join names {} addresses; {} are enough to find the others",
                self.join.len(),
                limits::JOIN_ADDRESSES_MAX
            )));
        }
        if let Some(Order { nodes, .. }) = self.restore_from
            && !(1..=limits::NODES_MAX).contains(&(nodes as usize))
        {
            return Err(Error::invalid(format!(
                "--expect-nodes says how many nodes begin, 1 to {}, and not {nodes}",
                limits::NODES_MAX
            )));
        }
        let founds = self.found || self.restore_from.is_some();
        if !founds && self.join.is_empty() && !self.store.exists() {
            return Err(self.lost(&format!("{} does not exist", self.store.display())));
        }
        if let Some(order) = &self.restore_from {
            order.access.check()?;
        }
        if let Some(uploads::Place { place, access, .. }) = &self.repository {
            repository::root::check_place(place)?;
            access.check()?;
            if !self.seal_to.is_empty() {
                return Err(Error::invalid(
                    "sealed parts cannot be stored in a repository yet: leave out --seal-to or \
                     --repository",
                ));
            }
        }
        let Some(store) = &self.snapshot_store else { return Ok(()) };
        Shelf::check(store)?;
        traces::check(store)
    }

    /// There is no store, and it is not for this program to say why.
    fn lost(&self, seen: &str) -> Error {
        let dir = self.store.display();
        Error::invalid(format!(
            "{seen}, and nothing says what this node shall be.\n  If it had a store: mount its \
             disk, or extract a part of a snapshot into {dir} (see docs/backup-and-restore.md).\n  \
             If there is a cluster, also where this node was one of it and has lost its store: \
             --join HOST:PORT,... names nodes of it.\n  If there shall be a new one: --found, said \
             once and by hand, makes this node its first; or --join with the same list on every \
             node, and `ddbctl cluster init`. With the data of a backup: --restore-from \
             REPOSITORY."
        ))
    }
}

impl Arrival<'_> {
    /// The store, wherever it comes from.
    pub async fn prepare(&self) -> Result<Arrived> {
        let dir = self.options.store.clone();
        let mut known = Vec::new();
        let look = {
            let dir = dir.clone();
            move || restore::look(&dir)
        };
        match blocking(look).await? {
            Holds::Store => self.warn_of_idle_flags(),
            Holds::Part if self.options.restore_from.is_some() => {
                return Err(Error::conflict(format!(
                    "{0} holds an extracted part of a snapshot, and --restore-from says to take \
                     another one: to restore the part, leave --restore-from out; to take the \
                     repository, name an empty directory",
                    dir.display()
                )));
            }
            Holds::Part => {
                self.porch.say(
                    NodeState::Restoring,
                    format!("the part in {} is being restored", dir.display()),
                );
                self.restore().await?
            }
            Holds::Nothing => known = self.begin().await?,
        }
        self.porch
            .say(NodeState::Opening, format!("the store in {} is being opened", dir.display()));
        let (store, identity) = blocking(move || restore::open(&dir, &disk::Machine)).await?;
        failpoint(Failpoint::StoreOpened);
        self.porch.belongs(&identity);
        Ok(Arrived { store, identity, known })
    }

    /// A store where there is nothing. The nodes that are known from joining.
    async fn begin(&self) -> Result<Vec<NodeEntry>> {
        let Options { store, found, restore_from, join, .. } = self.options;
        let (dir, plan) = (store.display(), store.join(restore::PLAN));
        match restore_from {
            Some(order) if order.nodes > 1 => return self.begin_together(order).await,
            _ if (*found || restore_from.is_some()) && plan.exists() => {
                return Err(Error::conflict(format!(
                    "{dir} has the plan of a beginning together with other nodes that was \
                     interrupted: start it with the --restore-from and --expect-nodes that it had, \
                     or remove {} if that is given up on every node",
                    plan.display()
                )));
            }
            Some(order) => self.seed(order).await?,
            None if *found => self.found_at_once().await?,
            None if join.is_empty() => {
                return Err(self.options.lost(&format!("{dir} holds no store")));
            }
            None => return self.wait().await,
        }
        Ok(Vec::new())
    }

    async fn restore(&self) -> Result<()> {
        let Options { store, unseal_with, seal_to, snapshot_store, .. } = self.options;
        let (dir, file) = (store.clone(), unseal_with.clone());
        blocking(move || {
            let identities = file.map(|file| Identities::read(&file)).transpose()?;
            restore::restore(&dir, identities.as_ref())
        })
        .await?;
        if unseal_with.is_some() && seal_to.is_empty() && snapshot_store.is_some() {
            tracing::warn!(
                "the part was opened, and the parts that this node writes are not sealed: \
                 --seal-to says for whom they shall be"
            );
        }
        Ok(())
    }

    /// Flags that are for the first start only.
    fn warn_of_idle_flags(&self) {
        let Options { found, restore_from, unseal_with, .. } = self.options;
        if *found {
            tracing::warn!(
                "there is a store: --found changes nothing. Leave it out, or this start founds a \
                 second cluster when the disk is lost"
            );
        }
        if restore_from.is_some() {
            tracing::warn!(
                "there is a store: --restore-from changes nothing. Leave it out, or this start \
                 makes a second cluster of an old snapshot when the disk is lost"
            );
        }
        if unseal_with.is_some() {
            tracing::warn!(
                "there is a store: --unseal-with changes nothing. Leave it out, and the identity \
                 file need not lie here"
            );
        }
    }

    async fn found_at_once(&self) -> Result<()> {
        let node = self.may_found().await?;
        self.found(node).map(drop)
    }

    /// The id of the first node of a new cluster, if nothing speaks against there being one.
    pub(super) async fn may_found(&self) -> Result<NodeId> {
        match self.objection().await? {
            Some(seen) if self.options.restore_from.is_some() => {
                return Err(Error::conflict(format!("{seen}, or --snapshot-store names another")));
            }
            Some(seen) => return Err(self.options.lost(&seen)),
            None => {}
        }
        let node = self.node_id()?;
        match waiting::promised(&self.options.store)? {
            Some(other) if other.node_id != node.0 => {
                let dir = self.options.store.display();
                Err(Error::conflict(format!(
                    "{dir} has promised to leave the founding to node {} at {}: start it with the \
                     --join that it had. If nothing came of that, remove {dir}/{} first",
                    other.node_id,
                    other.address,
                    restore::FOUNDER
                )))
            }
            _ => Ok(node),
        }
    }

    /// Founds a cluster of a snapshot in a repository.
    async fn seed(&self, order: &Order) -> Result<()> {
        let node = self.may_found().await?;
        let waiting = Waiting::new(self.newcomer(node, None), self.dialler.clone());
        if let Some((cluster, at)) = waiting.belonging().await {
            return Err(Error::conflict(format!(
                "{} of --join belongs to cluster {cluster}, and --restore-from makes another one. \
                 To join that cluster, leave --restore-from out. For a new one, name in --join \
                 only nodes that shall belong to it",
                at.join(" and ")
            )));
        }
        let mut rng = Random::from_entropy();
        let founding = Founding {
            cluster: ClusterId(rng.uuid()),
            nonce: rng.next_u64(),
            founder: self.founder(node, Lineage::PENDING),
        };
        let (tell, place) = (self.porch.teller(), order.place.clone());
        tell(NodeState::Restoring, format!("a snapshot is looked up in {place}"));
        let (dir, order, clock) = (self.options.store.clone(), order.clone(), Clock::start());
        let seeded = blocking(move || {
            let say = |snapshot: &str, progress: Progress| {
                tell(NodeState::Restoring, progress.words(snapshot, &place));
            };
            seed::seed(&dir, &order, &founding, &say)
        })
        .await?;
        seeded.tell(clock, "founded a cluster of a snapshot");
        Ok(())
    }

    /// What says that a cluster was here.
    async fn objection(&self) -> Result<Option<String>> {
        let Some(store) = self.options.snapshot_store.clone() else { return Ok(None) };
        let address = self.address.to_owned();
        let part = blocking(move || traces::part_of(&store, &address)).await?;
        Ok(part.map(|manifest| {
            format!(
                "{} holds no store, but there are parts of a node at {} in the snapshot store, as \
                 {}: a cluster was here. A founding would make a second one, unless that node's \
                 directory is moved away first",
                self.options.store.display(),
                self.address,
                manifest.display()
            )
        }))
    }

    fn node_id(&self) -> Result<NodeId> {
        restore::node_id(&self.options.store, || NodeId(Random::from_entropy().nonzero()))
    }

    fn entry(&self, id: NodeId, lineage: Lineage) -> NodeEntry {
        entry(self.options, id, lineage, self.address)
    }

    /// The same of one that founds.
    pub(super) fn founder(&self, id: NodeId, lineage: Lineage) -> NodeEntry {
        let may = Level::own() >= Level::ACCESS;
        let certificate_name = if may { self.dialler.own_name() } else { None };
        NodeEntry { certificate_name, ..self.entry(id, lineage) }
    }

    pub(super) fn newcomer(&self, node: NodeId, objection: Option<String>) -> Newcomer {
        Newcomer {
            node,
            incarnation: self.incarnation,
            address: self.address.to_owned(),
            dir: self.options.store.clone(),
            join: self.options.join.iter().cloned().collect(),
            objection,
        }
    }

    fn found(&self, node: NodeId) -> Result<Identity> {
        let mut rng = Random::from_entropy();
        let identity = Identity {
            format: FORMAT,
            node,
            cluster: ClusterId(rng.uuid()),
            lineage: Lineage(rng.nonzero()),
            restored_from: None,
            topology: Topology::new(self.options.partitions, self.options.groups)?,
        };
        let settings = restore::founding_settings(&identity, self.options.replication_factor)?;
        let founder = self.founder(node, identity.lineage);
        restore::found(&self.options.store, &identity, settings, founder)?;
        tracing::info!(cluster = %identity.cluster, node = %identity.node, "founded a cluster");
        Ok(identity)
    }

    /// Waits until there is a cluster. The nodes that it consists of.
    async fn wait(&self) -> Result<Vec<NodeEntry>> {
        let node = self.node_id()?;
        let newcomer = self.newcomer(node, self.objection().await?);
        let waiting = Waiting::new(newcomer, self.dialler.clone());
        self.porch.say(
            NodeState::Waiting,
            format!("the node asks {} to join a cluster", self.options.join.join(", ")),
        );
        self.porch.seat(waiting.clone());
        let request = self.join_request(node)?;
        let (identity, known) = match waiting
            .end(&request, |why| {
                self.porch.say(NodeState::Waiting, format!("the node waits for a cluster: {why}"))
            })
            .await?
        {
            End::Found => (self.found(node)?, Vec::new()),
            End::Join(address, answer) => self.join(node, &address, *answer)?,
        };
        self.porch.belongs(&identity);
        waiting.settle(identity.cluster);
        Ok(known)
    }

    /// What this node asks the nodes of a cluster.
    pub(super) fn join_request(&self, node: NodeId) -> Result<JoinRequest> {
        let own_name = self.dialler.own_name();
        let joiner = Joiner {
            node,
            incarnation: self.incarnation,
            address: self.address,
            name: own_name.as_deref(),
        };
        let token = self.options.join_token.as_deref().map(JoinToken::read).transpose()?;
        Ok(JoinRequest {
            node: Some(wire::node_record(&self.entry(node, Lineage::PENDING))),
            protocol: *net::PROTOCOLS.end(),
            protocol_min: *net::PROTOCOLS.start(),
            incarnation: self.incarnation,
            proof: token.map(|token| token.prove(&joiner)),
            seed: None,
        })
    }

    pub(super) fn join(
        &self,
        node: NodeId,
        address: &str,
        answer: JoinResponse,
    ) -> Result<(Identity, Vec<NodeEntry>)> {
        failpoint(Failpoint::JoinAnswered);
        let settings =
            wire::parse_settings(answer.settings.ok_or_else(|| {
                Error::invalid(format!("{address} has answered without settings"))
            })?)?;
        let known = answer.nodes.into_iter().map(wire::parse_node).collect::<Result<Vec<_>>>()?;
        let identity = Identity {
            format: FORMAT,
            node,
            cluster: settings.cluster,
            lineage: settings.lineage,
            restored_from: settings.restored_from,
            topology: settings.topology,
        };
        restore::join(&self.options.store, &identity)?;
        tracing::info!(cluster = %identity.cluster, node = %identity.node, "joined a cluster");
        Ok((identity, known))
    }
}

/// A node as the registry is to have it.
pub fn entry(options: &Options, id: NodeId, lineage: Lineage, address: &str) -> NodeEntry {
    NodeEntry {
        id,
        address: address.to_owned(),
        capacity_percent: if options.replacement { 0 } else { limits::CAPACITY_PERCENT_USUAL },
        version: env!("CARGO_PKG_VERSION").into(),
        snapshot_store: options.snapshot_store.is_some(),
        lineage,
        level: Level::own(),
        leaving: false,
        draining: false,
        certificate_name: None,
    }
}

/// Work that blocks, on a thread for it.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    crew::blocking(Role::Start, work).await
}
