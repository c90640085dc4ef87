//! Corners that nodes have left behind: of a node that was removed or replaced, or that was started
//! anew with an empty store on the same machine, which made it another node. Nobody opens such a
//! corner again, so nobody would see its parts or give their space back.
//!
//! - Listing changes nothing and takes no lock. It skips the corners of members, who use theirs
//!   also while they are down, of other clusters, and those that do not say whose they are.
//! - Removing takes the corner's lock first, so a process that does use it keeps its parts. What an
//!   unfinished write has left there goes as well, as it would at a start of its node.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{MANIFEST, Owner, PartInfo, Shelf, names, owner, read_bounded};
use crate::{
    base::{
        error::{Context as _, Result},
        ids::{ClusterId, Lineage, NodeId, SnapshotId},
        limits,
    },
    part::manifest::Manifest,
};

/// The corners of a snapshot store that nodes of this cluster have left.
#[derive(Debug)]
pub struct Left<'a> {
    pub store: &'a Path,
    pub cluster: ClusterId,
    /// Whose corners are in use.
    pub members: &'a BTreeSet<NodeId>,
}

/// A part in such a corner.
#[derive(Debug)]
pub struct LeftPart {
    pub node: NodeId,
    pub snapshot: SnapshotId,
    /// An error where its manifest cannot be read.
    pub found: Result<PartInfo>,
}

impl Left<'_> {
    /// The parts of all snapshots, or of one, by node and snapshot; at most
    /// `limits::LEFT_PARTS_LISTED`.
    pub fn parts(&self, only: Option<SnapshotId>) -> Result<Vec<LeftPart>> {
        let mut parts = Vec::new();
        for owner in self.owners()? {
            for (path, name) in names(&self.home(owner.node).join("snapshots"))? {
                let Ok(snapshot) = name.parse::<SnapshotId>() else { continue };
                let path = path.join(MANIFEST);
                if only.is_some_and(|only| only != snapshot)
                    || !path.try_exists().at(path.display())?
                {
                    continue;
                }
                if parts.len() == limits::LEFT_PARTS_LISTED {
                    return Ok(parts);
                }
                parts.push(LeftPart { node: owner.node, snapshot, found: read(&path) });
            }
        }
        Ok(parts)
    }

    /// Removes the part that a history wrote of a snapshot, as `Shelf::delete` does. `Conflict`
    /// where a process uses the corner.
    pub fn remove(&self, node: NodeId, snapshot: SnapshotId, lineage: Lineage) -> Result<bool> {
        let Some(owner) = self.owners()?.into_iter().find(|owner| owner.node == node) else {
            return Ok(false);
        };
        Shelf::open(self.store, &owner)?.delete(snapshot, lineage)
    }

    fn owners(&self) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        for (corner, name) in names(self.store)? {
            let node = name.strip_prefix("node-").and_then(|id| id.parse().ok()).map(NodeId);
            let Some(node) = node.filter(|node| !self.members.contains(node)) else { continue };
            let is_left = |owner: &Owner| (owner.cluster, owner.node) == (self.cluster, node);
            owners.extend(owner::noted(&corner).filter(is_left));
        }
        owners.sort_by_key(|owner| owner.node);
        Ok(owners)
    }

    fn home(&self, node: NodeId) -> PathBuf {
        self.store.join(format!("node-{node}"))
    }
}

fn read(path: &Path) -> Result<PartInfo> {
    let text = read_bounded(path, limits::MANIFEST_BYTES_MAX as u64).at(path.display())?;
    let (manifest, digest) = Manifest::parse(&text).map_err(|e| e.at(path.display()))?;
    Ok(PartInfo::of(&manifest, text.len(), digest))
}
