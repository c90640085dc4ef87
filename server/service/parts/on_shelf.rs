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
        ids::{Lineage, SnapshotId},
        limits,
        locks::lock,
    },
    cluster,
    part::shelf::{PartInfo, Shelf},
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

    /// All parts that lie here, as they are known without a look at their chunks.
    pub fn listed(&self) -> Result<Vec<internal::ShelfPart>> {
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

    /// Removes a part of which the cluster knows nothing. Without a lineage, one of the present
    /// history.
    pub async fn remove_unknown(
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
            let whose = unreadable.map_or_else(
                || {
                    format!(
                        "it was written in lineage {wrote}, and a cluster of that lineage may live \
                         on"
                    )
                },
                |(_, e)| format!("whose it is cannot be read ({e})"),
            );
            return Ok(Removal::Kept(
                wrote,
                format!("{whose}: to delete it all the same, say --lineage {wrote}"),
            ));
        }
        self.looks().remove(&id);
        let removed = crew::blocking(Role::Remove, move || shelf.delete(id, wrote)).await;
        match removed {
            Ok(true) => Ok(Removal::Removed(wrote)),
            Ok(false) => Ok(Removal::Absent),
            Err(e) => Ok(Removal::Kept(wrote, e.message)),
        }
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
        },
        Err(e) => internal::ShelfPart {
            uuid,
            damage: e.message.clone(),
            ..internal::ShelfPart::default()
        },
    }
}
