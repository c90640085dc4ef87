//! What a cluster has one of each: its identity, its shape, and the numbers that only grow.

use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, Lineage, SiteGeneration, SnapshotId, SnapshotSeq, Topology},
        limits,
    },
    cluster::level::Level,
};

/// Everything that there is one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub cluster: ClusterId,
    pub replication_factor: u32,
    pub topology: Topology,
    /// `PENDING` while nodes fresh from a restore have not agreed on one.
    pub lineage: Lineage,
    /// The snapshot this history was restored from; None when founded.
    pub restored_from: Option<SnapshotId>,
    /// The newest snapshot number begun.
    pub begun: SnapshotSeq,
    /// The newest snapshot number sealed or aborted.
    pub resolved: SnapshotSeq,
    /// The newest life of any site: every site that is added draws the next one.
    pub site_generations: SiteGeneration,
    /// The snapshots that were deleted last, oldest first: a request to take one that comes late,
    /// or once more, must not bring it back.
    pub deleted: Vec<SnapshotId>,
    /// What may stand in the logs.
    pub level: Level,
    /// Whether machines need a join token to become nodes.
    pub joins_need_token: bool,
}

impl Settings {
    /// The settings of a new cluster, which has not taken a snapshot yet.
    pub fn founding(
        cluster: ClusterId,
        lineage: Lineage,
        replication_factor: u32,
        topology: Topology,
    ) -> Result<Settings> {
        let (none, site_generations) = (SnapshotSeq(0), SiteGeneration(0));
        let settings = Settings {
            cluster,
            replication_factor,
            topology,
            lineage,
            restored_from: None,
            begun: none,
            resolved: none,
            site_generations,
            deleted: Vec::new(),
            level: Level::own(),
            joins_need_token: false,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Whether this is the cluster that a node means which was told to begin one with a snapshot,
    /// and comes when it serves. `point` is what it was told.
    pub fn began_with(&self, snapshot: SnapshotId, point: &str) -> Result<()> {
        if self.restored_from == Some(snapshot) {
            return Ok(());
        }
        let of = self.restored_from.map_or("of none".to_owned(), |from| format!("of {from}"));
        Err(Error::conflict(format!(
            "cluster {} was made {of}, and the node that joins was told to begin one with snapshot \
             {snapshot} (--point {point}): name other nodes in --join, or, to join this cluster, \
             leave out --restore-from and --expect-nodes",
            self.cluster
        )))
    }

    /// What types do not say: nothing can be placed without replicas, and numbers that only grow
    /// must not be at their end.
    pub fn check(&self) -> Result<()> {
        if !(1..=limits::REPLICATION_FACTOR_MAX).contains(&self.replication_factor) {
            return Err(Error::invalid(format!(
                "the replication factor must be 1 to {}, not {}",
                limits::REPLICATION_FACTOR_MAX,
                self.replication_factor
            )));
        }
        if self.begun.0.max(self.resolved.0).max(self.site_generations.0) == u64::MAX {
            return Err(Error::invalid("no number is left for another snapshot or site"));
        }
        if self.level > Level::own() {
            return Err(Error::conflict(format!(
                "the cluster is at level {} and this version knows only those up to {}: upgrade \
                 this node",
                self.level,
                Level::own()
            )));
        }
        Ok(())
    }
}
