//! Parts that lie in this node's snapshot store: what there is, whether it is still whole, and how
//! it goes.
//!
//! Whether a part is whole is looked up on the disk, chunk by chunk, by existence and size: what a
//! directory that was emptied, a disk that was swapped or another program has taken is found so; a
//! bit that has flipped is not. A look is shared by all who ask while it goes on, and its result
//! for a moment longer.
//!
//! A part that the cluster deletes is tried until it is gone, and the cluster is told why it is
//! not. A part that the cluster does not know goes when somebody names it, and one of another
//! history only when that is named too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::watch;

use super::{Parts, capture::Outcome};
use crate::{
    base::{
        crew::{self, Role},
        error::{Error, Kind, Result},
        ids::{Lineage, NodeId, SnapshotId},
        limits,
        locks::lock,
    },
    cluster,
    part::shelf::{
        PartInfo, Shelf,
        left::{Left, LeftPart},
    },
    proto::internal::v1 as internal,
};

/// What a look has found, and when; None while it goes on.
type Found = Option<(Duration, Result<PartInfo>)>;

/// The looks that go on and those that have just ended.
#[derive(Default)]
pub(super) struct Looks(Mutex<BTreeMap<SnapshotId, watch::Receiver<Found>>>);

/// What became of a part that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There was none.
    Absent,
    /// Its space is given back. The history that wrote it.
    Removed(Lineage),
    /// It stays, for this reason.
    Kept(Lineage, String),
}

impl Removal {
    fn of(wrote: Lineage, removed: Result<bool>) -> Removal {
        match removed {
            Ok(true) => Removal::Removed(wrote),
            Ok(false) => Removal::Absent,
            Err(e) => Removal::Kept(wrote, e.message),
        }
    }

    /// What became of two parts: what stays is said first.
    fn and(self, other: Removal) -> Removal {
        match (self, other) {
            (kept @ Removal::Kept(..), _) | (_, kept @ Removal::Kept(..)) => kept,
            (Removal::Absent, other) => other,
            (removed, _) => removed,
        }
    }
}

impl Parts {
    /// The part of a snapshot as it stands on disk: `NotFound` if there is none, `Corrupt` if it is
    /// not whole. None when the look takes longer than an answer may wait.
    pub async fn look(&self, id: SnapshotId) -> Option<Result<PartInfo>> {
        let mut found = match self.begin_look(id) {
            Ok(found) => found,
            Err(e) => return Some(Err(e)),
        };
        let ended =
            tokio::time::timeout(limits::PART_LOOK, found.wait_for(Option::is_some)).await.ok()?;
        match ended {
            Ok(found) => found.as_ref().map(|(_, found)| found.clone()),
            Err(_) => Some(Err(Error::unavailable("the look at the part ended unexpectedly"))),
        }
    }

    fn begin_look(&self, id: SnapshotId) -> Result<watch::Receiver<Found>> {
        let now = self.shared.clock.now();
        let shelf = self.shelf()?;
        let mut looks = self.looks();
        looks.retain(|_, found| match &*found.borrow() {
            Some((ended, _)) => now.saturating_sub(*ended) < limits::PART_LOOK_FRESH,
            // The thread is there as long as its end of the channel is.
            None => found.has_changed().is_ok(),
        });
        if let Some(found) = looks.get(&id) {
            return Ok(found.clone());
        }
        if looks.len() >= limits::PARTS_LOOKED_AT {
            looks.retain(|_, found| found.borrow().is_none());
        }
        if looks.len() >= limits::PARTS_LOOKED_AT {
            return Err(Error::exhausted(format!(
                "{} parts are being looked at; ask again",
                looks.len()
            )));
        }
        let (tell, found) = watch::channel(None);
        looks.insert(id, found.clone());
        let clock = self.shared.clock;
        self.shared.crew.spawn(Role::DiskLook, async move {
            let found = crew::blocking(Role::DiskLook, move || look(&shelf, id)).await;
            tell.send_replace(Some((clock.now(), found)));
        });
        Ok(found)
    }

    fn looks(&self) -> MutexGuard<'_, BTreeMap<SnapshotId, watch::Receiver<Found>>> {
        lock(&self.shared.looks.0)
    }

    /// All parts that lie here, as they are known without a look at their chunks: first this node's
    /// own, then those in directories of nodes that are no members any more.
    pub async fn listed(&self, members: BTreeSet<NodeId>) -> Result<Vec<internal::ShelfPart>> {
        let mut parts = self.listed_own()?;
        parts.extend(self.left(members, None).await?.iter().map(|part| internal::ShelfPart {
            left_by: part.node.0,
            ..shelf_part(part.snapshot, part.found.as_ref())
        }));
        Ok(parts)
    }

    fn listed_own(&self) -> Result<Vec<internal::ShelfPart>> {
        let shelf = self.shelf()?;
        let damaged = shelf.damaged().into_iter().map(|(id, e)| shelf_part(id, Err(&e)));
        let mut parts: Vec<_> = shelf
            .list()
            .iter()
            .map(|info| shelf_part(info.snapshot, Ok(info)))
            .chain(damaged)
            .collect();
        parts.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        Ok(parts)
    }

    /// The part of one snapshot, looked at.
    pub async fn looked_at(&self, id: SnapshotId) -> Result<internal::ListPartsResponse> {
        let (parts, looking) = match self.look(id).await {
            None => (Vec::new(), true),
            Some(Err(e)) if e.kind == Kind::NotFound => (Vec::new(), false),
            Some(Err(e)) if e.kind == Kind::Corrupt => (vec![shelf_part(id, Err(&e))], false),
            Some(Err(e)) => return Err(e),
            Some(Ok(info)) => (vec![shelf_part(id, Ok(&info))], false),
        };
        Ok(internal::ListPartsResponse { parts, looking, ..Default::default() })
    }

    /// What lies in directories of nodes that are no members any more.
    async fn left(
        &self,
        members: BTreeSet<NodeId>,
        only: Option<SnapshotId>,
    ) -> Result<Vec<LeftPart>> {
        let Some(store) = self.shared.snapshot_store.clone() else { return Ok(Vec::new()) };
        let cluster = self.shared.identity.borrow().cluster;
        crew::blocking(Role::DiskLook, move || {
            Left { store: &store, cluster, members: &members }.parts(only)
        })
        .await
    }

    /// Removes a part of which the cluster knows nothing, wherever it lies in this node's snapshot
    /// store. Without a lineage, one of the present history. Without members, only this node's own.
    pub async fn remove_unknown(
        &self,
        id: SnapshotId,
        lineage: Option<Lineage>,
        members: BTreeSet<NodeId>,
    ) -> Result<Removal> {
        let mut removal = self.remove_own(id, lineage).await?;
        if members.is_empty() {
            return Ok(removal);
        }
        for part in self.left(members.clone(), Some(id)).await? {
            removal = removal.and(self.remove_left(part, lineage, members.clone()).await);
        }
        Ok(removal)
    }

    async fn remove_left(
        &self,
        part: LeftPart,
        lineage: Option<Lineage>,
        members: BTreeSet<NodeId>,
    ) -> Removal {
        let wrote = part.found.as_ref().map_or(Lineage::PENDING, |info| info.lineage);
        let (store, identity) = (self.shared.snapshot_store.clone(), self.shared.identity.clone());
        let (cluster, present) = (identity.borrow().cluster, identity.borrow().lineage);
        let asked = lineage.unwrap_or(present);
        if asked != wrote || (lineage.is_none() && part.found.is_err()) {
            return Removal::Kept(wrote, of_another(wrote, part.found.err()));
        }
        let removed = crew::blocking(Role::Remove, move || {
            store.map_or(Ok(false), |store| {
                Left { store: &store, cluster, members: &members }.remove(
                    part.node,
                    part.snapshot,
                    wrote,
                )
            })
        });
        Removal::of(wrote, removed.await)
    }

    pub(super) async fn remove_own(
        &self,
        id: SnapshotId,
        lineage: Option<Lineage>,
    ) -> Result<Removal> {
        let shelf = self.shelf()?;
        let present = shelf.owner().lineage;
        let found = shelf.list().into_iter().find(|p| p.snapshot == id).map(|p| p.lineage);
        let unreadable = shelf.damaged().into_iter().find(|(damaged, _)| *damaged == id);
        let Some(wrote) = found.or(unreadable.as_ref().map(|_| Lineage::PENDING)) else {
            return Ok(Removal::Absent);
        };
        if lineage.unwrap_or(present) != wrote || (lineage.is_none() && unreadable.is_some()) {
            return Ok(Removal::Kept(wrote, of_another(wrote, unreadable.map(|(_, e)| e))));
        }
        self.looks().remove(&id);
        let removed = crew::blocking(Role::Remove, move || shelf.delete(id, wrote)).await;
        Ok(Removal::of(wrote, removed))
    }

    /// Deletes this node's part for the cluster, or gives it up while it is written; then says so,
    /// or why it could not.
    pub(super) fn tick_deletion(&self, id: SnapshotId, lineage: Lineage) {
        self.decide(id, Outcome::Given);
        if !self.deletions().insert(id) {
            return;
        }
        let this = self.clone();
        self.shared.crew.spawn(Role::Delete, async move {
            let reason = match this.delete(id, lineage).await {
                Ok(()) => String::new(),
                Err(e) => e.message,
            };
            let failed = !reason.is_empty();
            if failed {
                tracing::warn!(
                    snapshot = %id,
                    why = %reason,
                    "a part could not be deleted; it is tried again",
                );
            }
            this.tell_cluster(
                id,
                cluster::Command::ReportDeletion { id, node: this.shared.node, reason },
            )
            .await;
            if failed {
                tokio::time::sleep(limits::DELETE_AGAIN).await;
            }
            this.deletions().remove(&id);
        });
    }

    fn deletions(&self) -> MutexGuard<'_, BTreeSet<SnapshotId>> {
        lock(&self.shared.deletions)
    }

    /// Without a snapshot store, this node can only say that it has no part if it never had one.
    async fn delete(&self, id: SnapshotId, lineage: Lineage) -> Result<()> {
        self.looks().remove(&id);
        let shelf = match self.shelf_to_delete().await {
            Some(shelf) => shelf?,
            None if self.has_reported(id).await? => return Err(self.no_store()),
            None => return Ok(()),
        };
        crew::blocking(Role::Remove, move || shelf.delete(id, lineage)).await.map(drop)
    }

    /// A store that could not be used, or was emptied or mounted again meanwhile, is opened anew.
    async fn shelf_to_delete(&self) -> Option<Result<Arc<Shelf>>> {
        self.shared.snapshot_store.as_ref()?;
        let this = self.clone();
        Some(crew::blocking(Role::Remove, move || this.shelf_to_write()).await)
    }

    async fn has_reported(&self, id: SnapshotId) -> Result<bool> {
        let me = self.shared.node;
        let completed = move |s: &cluster::snapshots::Snapshot| {
            s.parts.get(&me).is_some_and(|p| p.status == cluster::snapshots::Status::Completed)
        };
        self.shared
            .cluster
            .look(limits::REQUEST_DEADLINE, move |s| s.snapshot_named(id).is_some_and(completed))
            .await
    }
}

/// Why a part stays that was not named whole.
fn of_another(wrote: Lineage, unreadable: Option<Error>) -> String {
    let whose = unreadable.map_or_else(
        || format!("it was written in lineage {wrote}, and a cluster of that lineage may live on"),
        |e| format!("whose it is cannot be read ({e})"),
    );
    format!("{whose}: to delete it all the same, say --lineage {wrote}")
}

fn look(shelf: &Arc<Shelf>, id: SnapshotId) -> Result<PartInfo> {
    shelf.hold(id)?.look()?;
    shelf.info(id)
}

fn shelf_part(id: SnapshotId, found: Result<&PartInfo, &Error>) -> internal::ShelfPart {
    let uuid = id.0.as_bytes().to_vec().into();
    match found {
        Ok(info) => internal::ShelfPart {
            uuid,
            lineage: info.lineage.0,
            written_ms: info.written_ms,
            stored_bytes: info.stored_bytes,
            manifest_digest: info.digest.0.to_vec().into(),
            damage: String::new(),
            left_by: 0,
            seal: Some(internal::ShelfSeal {
                recipients: info.sealed_to.iter().map(ToString::to_string).collect(),
            }),
        },
        Err(e) => internal::ShelfPart {
            uuid,
            damage: e.message.clone(),
            ..internal::ShelfPart::default()
        },
    }
}
