//! The plan of a cluster whose first nodes begin together with a snapshot: of what, who, and the
//! digest of what comes of both.
//!
//! The node that founds draws it up once. Every node keeps it in its store directory before it
//! loads the first row, and makes its store of the plan and the snapshot alone. It keeps it beside
//! its store too, for those that the plan names and that have not begun. So a node that dies goes
//! on with the plan that it has and asks nobody, and two nodes with one plan have equal replicas of
//! every group that both hold, without a byte between them.
//!
//! The assignment of the groups does not stand in it. Each node computes it, with all else that the
//! meta group begins with; where the digest of that is another one, the node is of another version,
//! and makes no store.
//!
//! The file: 32 bytes of BLAKE3 over what follows, and a `SeedPlan`. It is written aside and takes
//! its name by a rename.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use super::{PLAN, PLAN_ASIDE};
use crate::{
    base::{
        error::{Context as _, Error, Result},
        ids::{ClusterId, Lineage, NodeId, SnapshotId},
        limits,
    },
    cluster::{
        Node, State,
        access::Pattern,
        state::{LeftOut, Seed},
    },
    faults::failpoint::{Failpoint, failpoint},
    part::chunk::Digest,
    proto::internal::v1::{SeedOrder, SeedPlan},
    repository::{points::Point, trust::Access},
    store, wire,
};

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct Order {
    pub place: String,
    /// The key of a sealed one, and whose signatures are believed.
    pub access: Access,
    pub point: Point,
    /// All sites, if there is no pattern.
    pub sites: Vec<Pattern>,
    /// How many nodes begin together.
    pub nodes: u32,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The repository that the snapshot is in.
    pub repository: Uuid,
    pub snapshot: SnapshotId,
    /// Sorted; all sites, if there is no pattern.
    pub sites: Vec<Pattern>,
    pub cluster: ClusterId,
    pub lineage: Lineage,
    /// Those that begin, the founder first.
    pub nodes: Vec<Node>,
    /// Of the meta group's rows.
    pub beginning: Digest,
}

impl Plan {
    pub fn seed(&self) -> Seed<'_> {
        Seed {
            snapshot: self.snapshot,
            cluster: self.cluster,
            lineage: self.lineage,
            nodes: &self.nodes,
            sites: &self.sites,
        }
    }

    /// What the cluster begins with, of the state that the snapshot has captured.
    pub fn state(&self, captured: State) -> Result<(State, LeftOut)> {
        let (state, left_out) = captured.seeded(&self.seed())?;
        if beginning(&state) != self.beginning {
            return Err(Error::conflict(format!(
                "this node, of version {}, makes another beginning of snapshot {} than the node \
                 that founds, of version {}: start the same version on every node",
                env!("CARGO_PKG_VERSION"),
                self.snapshot,
                self.nodes.first().map_or("", |founder| &founder.version)
            )));
        }
        Ok((state, left_out))
    }

    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.iter().any(|one| one.id == node)
    }

    /// Whether it is the plan of what was asked for, as far as that can be told without asking the
    /// repository.
    pub fn check(&self, order: &Order) -> Result<()> {
        let other = match order.point {
            Point::Snapshot(id) if id != self.snapshot => Some(format!("--point {id}")),
            _ if order.nodes as usize != self.nodes.len() => {
                Some(format!("--expect-nodes {}", order.nodes))
            }
            _ if sorted(&order.sites) != self.sites => {
                Some(format!("--sites {}", listed(&order.sites)))
            }
            _ => None,
        };
        let Some(other) = other else { return Ok(()) };
        Err(Error::conflict(format!(
            "the plan is to begin with snapshot {} on {} nodes, with {}, and this node was told \
             {other}",
            self.snapshot,
            self.nodes.len(),
            if self.sites.is_empty() { "all sites".into() } else { listed(&self.sites) }
        )))
    }

    pub fn record(&self) -> SeedPlan {
        SeedPlan {
            repository_id: Bytes::copy_from_slice(self.repository.as_bytes()),
            snapshot: Bytes::copy_from_slice(self.snapshot.0.as_bytes()),
            sites: self.sites.iter().map(Pattern::to_string).collect(),
            cluster_id: Bytes::copy_from_slice(self.cluster.0.as_bytes()),
            lineage: self.lineage.0,
            nodes: self.nodes.iter().map(wire::node_record).collect(),
            beginning: Bytes::copy_from_slice(&self.beginning.0),
        }
    }

    pub fn parse(record: SeedPlan) -> Result<Plan> {
        let garbled = |what: &str| Error::invalid(format!("a plan of a beginning with {what}"));
        let uuid =
            |bytes: &[u8], what| Uuid::from_slice(bytes).map_err(|e| garbled(what).with_source(e));
        if record.nodes.len() > limits::NODES_MAX || record.nodes.is_empty() {
            return Err(garbled("too many nodes, or none"));
        }
        let beginning: [u8; 32] =
            record.beginning[..].try_into().map_err(|_| garbled("a digest of another length"))?;
        let plan = Plan {
            repository: uuid(&record.repository_id, "no repository")?,
            snapshot: SnapshotId::from_slice(&record.snapshot)?,
            sites: record.sites.into_iter().map(Pattern::new).collect::<Result<_>>()?,
            cluster: ClusterId(uuid(&record.cluster_id, "no cluster")?),
            lineage: Lineage(record.lineage),
            nodes: record.nodes.into_iter().map(wire::parse_node).collect::<Result<_>>()?,
            beginning: Digest(beginning),
        };
        match plan.lineage {
            Lineage::PENDING => Err(garbled("no lineage")),
            _ => Ok(plan),
        }
    }

    /// Keeps it in a store directory, durably.
    pub fn keep(&self, dir: &Path) -> Result<()> {
        let (path, aside) = (dir.join(PLAN), dir.join(PLAN_ASIDE));
        let record = self.record().encode_to_vec();
        let written = File::create(&aside).and_then(|mut file| {
            file.write_all(blake3::hash(&record).as_bytes())?;
            file.write_all(&record)?;
            file.sync_all()
        });
        written.at(aside.display())?;
        failpoint(Failpoint::SeedPlanWritten);
        fs::rename(&aside, &path).at(path.display())?;
        store::sync_dir(dir)?;
        failpoint(Failpoint::SeedPlanKept);
        Ok(())
    }

    /// The one that an earlier start has kept there.
    pub fn kept(dir: &Path) -> Result<Option<Plan>> {
        let path = dir.join(PLAN);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.at(path.display())?,
        };
        let garbled = || {
            Error::corrupt(format!(
                "{} is not what was written: remove it, and this node joins the cluster that the \
                 others begin, or founds anew",
                path.display()
            ))
        };
        let (digest, record) = bytes.split_at_checked(32).ok_or_else(garbled)?;
        if blake3::hash(record).as_bytes() != digest {
            return Err(garbled());
        }
        let record = SeedPlan::decode(record).map_err(|e| garbled().with_source(e))?;
        Plan::parse(record).map(Some).map_err(|e| e.at(path.display()))
    }
}

/// What all first nodes have to be told alike.
pub fn told(order: &Order, repository: Uuid, snapshot: SnapshotId) -> SeedOrder {
    SeedOrder {
        repository_id: Bytes::copy_from_slice(repository.as_bytes()),
        point: order.point.to_string(),
        snapshot: Bytes::copy_from_slice(snapshot.0.as_bytes()),
        sites: sorted(&order.sites).iter().map(Pattern::to_string).collect(),
        nodes: order.nodes,
    }
}

pub fn sorted(sites: &[Pattern]) -> Vec<Pattern> {
    let mut sites = sites.to_vec();
    sites.sort();
    sites.dedup();
    sites
}

fn listed(sites: &[Pattern]) -> String {
    sites.iter().map(Pattern::as_str).collect::<Vec<_>>().join(",")
}

/// Of all rows of the meta group, in the order of their names, each with its lengths.
pub fn beginning(state: &State) -> Digest {
    let mut rows: Vec<_> = state
        .all_rows()
        .into_iter()
        .map(|row| (wire::meta_row_name(&row), wire::encode_meta_row(state, &row)))
        .collect();
    rows.sort();
    let mut hash = blake3::Hasher::new();
    for (name, row) in &rows {
        for bytes in [&name[..], row.as_deref().unwrap_or_default()] {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        }
    }
    Digest(hash.finalize().into())
}
