//! Snapshots into the nodes' repository.
//!
//! A node that is asked to have a snapshot stored drives it (`drive`): it asks the nodes what their
//! parts hold, gives each some groups to store, and makes the snapshot when all groups are there.
//! Everybody who has a part may be given its groups, since replicas of a group are equal, and that
//! is compared before anything is stored.
//!
//! Nothing about an upload is kept on a node or in the meta group. The repository says what is in
//! it: whoever begins an upload again, on any node, finds there what was stored before, and sends
//! the rest (`repository::send`). Two nodes that drive the same upload waste work and harm nothing:
//! one of them makes the snapshot, and the other finds the same one there. So an upload ends with
//! the node that drives it, and the client that waits for it asks another node.
//!
//! A node that has a repository also verifies it where a schedule says so (`verifying`).
//!
//! Does not decide when snapshots are stored or the repository is verified.

mod care;
mod retain;
mod verifying;
mod drive;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
};

pub use self::care::Told;
use self::verifying::Verification;
use crate::{
    base::{
        clock::Clock,
        crew::{self, Crew, Role},
        error::{Error, Result},
        ids::{GroupId, Lineage, NodeId, SnapshotId, SnapshotSeq},
        limits,
        locks::lock,
        metrics::Metrics,
        pace::Pace,
    },
    cluster::snapshots::Status,
    faults::failpoint::{Failpoint, failpoint},
    net::{Peers, spans::Traces},
    part::shelf::PartHold,
    proto::{internal::v1 as internal, v1},
    repository::{
        commit::{part_of, root_of},
        manifest::{Group, Snapshot},
        root::{Folder, Repository, store_at},
        send::{self, Destination, Part, Watch},
        store::Store,
        trust::{Access, Mark},
    },
    service::{admin::Cluster, parts::Parts},
};

/// Where snapshots go.
#[derive(Clone, Debug)]
pub struct Place {
    /// As the operator wrote it.
    pub place: String,
    /// Bytes a second that this node sends at most; none is no bound.
    pub bytes_per_second: Option<u64>,
    /// The key of a sealed one, and who signs.
    pub access: Access,
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    shared: Arc<Shared>,
}

struct Shared {
    place: Option<Place>,
    /// Where that is, once somebody has asked.
    store: Mutex<Option<Arc<dyn Store>>>,
    pace: Pace,
    /// The same for what verifications read.
    reading: Pace,
    /// The verification that this node carries out, or the last one.
    verification: Mutex<Option<Arc<Verification>>>,
    /// What the repository's reports said last.
    care: Mutex<Told>,
    driven: Mutex<BTreeMap<SnapshotId, Arc<Driven>>>,
    /// Places for threads that ask the repository what it has: a store that is silent must not
    /// gather them.
    looks: Arc<Semaphore>,
    cluster: Cluster,
    parts: Parts,
    peers: Peers,
    clock: Clock,
    metrics: Arc<Metrics>,
    crew: Crew,
    traces: Traces,
}

/// An upload that this node drives or has driven.
struct Driven {
    /// Bytes of chunks that are in the repository, and that there are.
    done: AtomicU64,
    bytes: AtomicU64,
    state: Mutex<(v1::UploadStatus, String)>,
}

/// The messages of a node that stores groups.
pub type Progress = mpsc::Receiver<Result<internal::UploadGroupsResponse>>;

impl Place {
    pub fn new(place: String, bytes_per_second: Option<u64>, access: Access) -> Place {
        Place { place, bytes_per_second, access }
    }
}

impl Driven {
    fn new() -> Arc<Driven> {
        let state = (v1::UploadStatus::Running, "it asks what the parts hold".to_owned());
        Arc::new(Driven {
            done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    fn say(&self, what: impl Into<String>) {
        lock(&self.state).1 = what.into();
    }

    fn is_running(&self) -> bool {
        lock(&self.state).0 == v1::UploadStatus::Running
    }

    fn upload(&self) -> v1::Upload {
        let (status, reason) = lock(&self.state).clone();
        let (bytes_done, bytes) =
            (self.done.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        v1::Upload { status: status as i32, reason, bytes_done, bytes, ..v1::Upload::default() }
    }
}

impl Uploads {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        place: Option<Place>,
        cluster: Cluster,
        parts: Parts,
        peers: Peers,
        clock: Clock,
        metrics: Arc<Metrics>,
        crew: Crew,
        traces: Traces,
    ) -> Uploads {
        let shared = Shared {
            // Nodes never go back to an older catalogue.
            place: place.map(|at| Place { access: at.access.strict(), ..at }),
            store: Mutex::default(),
            pace: Pace::default(),
            reading: Pace::default(),
            verification: Mutex::default(),
            care: Mutex::default(),
            driven: Mutex::default(),
            looks: Arc::new(Semaphore::new(limits::REPOSITORY_LOOKS)),
            cluster,
            parts,
            peers,
            clock,
            metrics,
            crew,
            traces,
        };
        Uploads { shared: Arc::new(shared) }
    }

    /// Whether this node has a repository.
    pub fn are_possible(&self) -> bool {
        self.shared.place.is_some()
    }

    /// Where its repository is, as the operator wrote it.
    pub fn repository_place(&self) -> Option<String> {
        self.shared.place.as_ref().map(|at| at.place.clone())
    }

    fn me(&self) -> NodeId {
        self.shared.peers.me().identity.borrow().node
    }

    fn lineage(&self) -> Lineage {
        self.shared.peers.me().identity.borrow().lineage
    }

    fn place(&self) -> Result<&Place> {
        self.shared.place.as_ref().ok_or_else(|| {
            Error::conflict(format!(
                "node {} has no repository: start it with --repository PLACE",
                self.me()
            ))
        })
    }

    /// The repository, as it is there now: what was mounted may be gone, and then nothing must be
    /// stored where it was. Without its key it is not opened, and so nothing is stored or planned.
    /// Waits for it: not for a thread of tokio.
    fn repository(&self) -> Result<Repository> {
        let (known, place) = (lock(&self.shared.store).clone(), self.place()?);
        let store = match known {
            Some(store) => store,
            None => {
                let opened = store_at(&place.place, limits::OBJECT_PATIENCE_NODE)?;
                lock(&self.shared.store).insert(opened).clone()
            }
        };
        Repository::on(store, &place.access)
    }

    /// The same for whoever stores something: in a signed one only with the signing key.
    fn repository_to_add_to(&self) -> Result<Repository> {
        let repository = self.repository()?;
        repository.is_open_to_additions()?;
        Ok(repository)
    }

    /// Says in the log whether the repository can be used. The node starts without it too: what
    /// keeps backups must not keep a cluster from its work.
    async fn look_once(&self) {
        let Some(place) = self.shared.place.clone() else { return };
        let this = self.clone();
        let opened = crew::blocking(Role::Repository, move || this.repository_to_add_to()).await;
        match opened {
            Ok(repository) => {
                tracing::info!(repository = %repository.id, place = place.place,
                               sealed = repository.is_sealed(),
                               signed = !repository.signers().is_empty(),
                               "snapshots can be uploaded")
            }
            Err(e) => {
                tracing::error!(error = %e, "the repository cannot be used: uploads of snapshots \
                                fail until it can")
            }
        }
    }

    // ---- As clients see it. ----

    /// Has a snapshot stored, unless it is there or some node has it stored already.
    pub async fn begin(&self, id: SnapshotId, wait: Duration) -> Result<v1::Upload> {
        self.place()?;
        let overall = self.shared.cluster.look(wait, move |s| {
            s.snapshot_named(id).map(|snapshot| snapshot.overall(s.settings().topology))
        });
        let overall = overall.await?.ok_or_else(|| unknown(id))?;
        if !matches!(overall.status, Status::Completed | Status::Processing) {
            return Err(not_completed(id, &overall.reason));
        }
        let (now, is_listed) = self.seen(id).await?;
        // Where it is found beside a damaged catalogue, driving it makes the catalogue again.
        if now.status() == v1::UploadStatus::Running || is_listed {
            return Ok(now);
        }
        let driven = Driven::new();
        {
            let mut all = lock(&self.shared.driven);
            if let Some(other) = all.get(&id).filter(|other| other.is_running()) {
                return Ok(self.seen_from_here(other.upload()));
            }
            let running = all.values().filter(|driven| driven.is_running()).count();
            if running >= limits::UPLOADS_AT_ONCE {
                return Err(Error::exhausted(format!(
                    "node {} drives {running} uploads already, and no more at a time: ask another \
                     node, or again when one of them has ended",
                    self.me()
                )));
            }
            // What has ended is kept for whoever asks why, and not for ever.
            if all.len() >= limits::UPLOADS_REMEMBERED {
                all.retain(|_, driven| driven.is_running());
            }
            all.insert(id, driven.clone());
        }
        let (this, watched) = (self.clone(), driven.clone());
        self.shared.crew.spawn_or(
            Role::Upload,
            {
                let driven = driven.clone();
                async move {
                    let mut traced = this.shared.traces.of_snapshot("upload", id);
                    let ended = this.drive(id, &driven).await;
                    if let Ok(stored) = &ended {
                        traced.note("devicedb.bytes", stored.bytes as i64);
                        traced.note("devicedb.bytes.new", stored.new_bytes as i64);
                    }
                    traced.ended(ended.as_ref().map(|_| ()).map_err(|e| e.message.clone()));
                    this.ended(id, &driven, ended);
                }
            },
            async move |e| *lock(&watched.state) = (v1::UploadStatus::Failed, e.message),
        );
        Ok(self.seen_from_here(driven.upload()))
    }

    fn ended(&self, id: SnapshotId, driven: &Driven, ended: Result<v1::Upload>) {
        match ended {
            Ok(stored) => {
                tracing::info!(snapshot = %id, new_bytes = stored.new_bytes, bytes = stored.bytes,
                               root = stored.root, catalogue = stored.catalogue,
                               "the snapshot is in the repository");
                self.shared.metrics.upload_ended(true);
                *lock(&driven.state) = (v1::UploadStatus::Stored, stored.reason);
            }
            Err(e) => {
                tracing::error!(snapshot = %id, error = %e, "the snapshot was not uploaded");
                self.shared.metrics.upload_ended(false);
                *lock(&driven.state) = (v1::UploadStatus::Failed, e.message);
            }
        }
    }

    fn seen_from_here(&self, upload: v1::Upload) -> v1::Upload {
        let repository = self.shared.place.as_ref().map_or(String::new(), |at| at.place.clone());
        v1::Upload { repository, node_id: self.me().0, ..upload }
    }

    /// How far a snapshot is in the repository: what the repository says, or who has it stored.
    pub async fn state(&self, id: SnapshotId) -> Result<v1::Upload> {
        self.seen(id).await.map(|(upload, _)| upload)
    }

    /// The same, and whether a catalogue lists it that is not damaged.
    async fn seen(&self, id: SnapshotId) -> Result<(v1::Upload, bool)> {
        let place = self.place()?.place.clone();
        let here = lock(&self.shared.driven).get(&id).map(|driven| driven.upload());
        if let Some(upload) = here.as_ref().filter(|u| u.status() == v1::UploadStatus::Running) {
            return Ok((self.seen_from_here(upload.clone()), false));
        }
        let elsewhere = self.shared.cluster.uploads(id).await;
        let running = |u: &&v1::Upload| u.status() == v1::UploadStatus::Running;
        if let Some(upload) = elsewhere.iter().find(running) {
            return Ok((v1::Upload { repository: place, ..upload.clone() }, false));
        }
        let this = self.clone();
        let known = self.shared.cluster.view(true, limits::NODE_STATUS, move |s| {
            s.snapshot_named(id).map(|snapshot| (snapshot.lineage, snapshot.seq))
        });
        let known = known.await?.0;
        let place_to_look = self.shared.looks.clone().acquire_owned();
        let look = async move {
            let seat = place_to_look.await;
            crew::blocking(Role::Repository, move || {
                let _seat = seat;
                match known {
                    Some((lineage, seq)) => this.stored(id, lineage, seq),
                    None => Ok(None),
                }
            })
            .await
        };
        let absent = |reason: String| {
            let failed = here.clone().map(|upload| self.seen_from_here(upload));
            let failed = failed.into_iter().chain(elsewhere.clone());
            // Another node has stored it meanwhile, whatever went wrong before.
            let is_stored = |u: &v1::Upload| u.status() == v1::UploadStatus::Stored;
            let mut failed = failed.filter(|_| !elsewhere.iter().any(is_stored));
            let known = failed.find(|u| u.status() == v1::UploadStatus::Failed);
            let status = v1::UploadStatus::Absent as i32;
            let nobody = v1::Upload { status, reason, ..v1::Upload::default() };
            v1::Upload { repository: place.clone(), ..known.unwrap_or(nobody) }
        };
        match tokio::time::timeout(limits::NODE_STATUS, look).await {
            Ok(Ok(Some(stored))) if stored.reason.is_empty() => {
                // Whoever drove it knows what had to be made up for.
                let mut driven = here.iter().chain(&elsewhere);
                let driven = driven.find(|u| u.status() == v1::UploadStatus::Stored);
                let reason = driven.map_or(String::new(), |driven| driven.reason.clone());
                Ok((v1::Upload { reason, ..stored }, true))
            }
            Ok(Ok(Some(found))) => Ok((found, false)),
            Ok(Ok(None)) => Ok((absent(String::new()), false)),
            Ok(Err(e)) => Ok((absent(format!("nobody knows: {e}")), false)),
            Err(_) => {
                let silent = "nobody knows: the repository does not answer".to_owned();
                Ok((absent(silent), false))
            }
        }
    }

    /// The snapshot as the repository has it, with a reason where it was found beside a damaged
    /// catalogue. Waits for it: not for a thread of tokio.
    fn stored(
        &self,
        id: SnapshotId,
        lineage: Lineage,
        seq: SnapshotSeq,
    ) -> Result<Option<v1::Upload>> {
        let repository = self.repository()?;
        let cluster = self.shared.peers.me().identity.borrow().cluster;
        let folder = Folder { cluster, lineage };
        let standing = repository.standing(folder)?;
        let Some(entry) = standing.catalogue.entry(seq) else { return Ok(None) };
        let there = repository.kept(folder, entry)?.snapshot;
        let reason = match &standing.damaged[..] {
            [] => String::new(),
            damaged => format!(
                "a catalogue of the repository is damaged, and the next upload makes it again: {}",
                damaged.join("; ")
            ),
        };
        let found = v1::Upload { reason, ..self.is_there(&there, standing.mark()) };
        Ok(Some(found).filter(|_| there.snapshot == id))
    }

    /// Listed in this catalogue.
    fn is_there(&self, there: &Snapshot, at: Mark) -> v1::Upload {
        v1::Upload {
            status: v1::UploadStatus::Stored as i32,
            repository: self.shared.place.as_ref().map_or(String::new(), |at| at.place.clone()),
            bytes_done: there.stored_bytes,
            bytes: there.stored_bytes,
            new_bytes: there.new_bytes,
            root: there.root.to_string(),
            catalogue: at.to_string(),
            ..v1::Upload::default()
        }
    }

    /// What this node drives, for others to show.
    pub fn driven(&self) -> Vec<internal::DrivenUpload> {
        let driven = lock(&self.shared.driven);
        let told = |(id, driven): (&SnapshotId, &Arc<Driven>)| {
            let v1::Upload { status, reason, bytes_done, bytes, .. } = driven.upload();
            internal::DrivenUpload {
                uuid: id.0.as_bytes().to_vec().into(),
                status: status as u32,
                reason,
                bytes_done,
                bytes,
            }
        };
        driven.iter().map(told).collect()
    }

    // ---- As other nodes see it. ----

    fn judge(&self, node: u64, lineage: u64) -> Result<()> {
        if (NodeId(node), Lineage(lineage)) == (self.me(), self.lineage()) {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "this is node {} of lineage {}, and node {node} of lineage {} is meant",
            self.me(),
            self.lineage(),
            Lineage(lineage)
        )))
    }

    /// Has a snapshot stored where another node asks for it, or says how far that is.
    pub async fn store_asked(
        &self,
        request: internal::StoreSnapshotRequest,
        wait: Duration,
    ) -> Result<internal::StoreSnapshotResponse> {
        self.judge(request.node_id, request.lineage)?;
        let id = SnapshotId::from_slice(&request.uuid)?;
        let upload =
            if request.begin { self.begin(id, wait).await? } else { self.state(id).await? };
        let v1::Upload { status, reason, .. } = upload;
        Ok(internal::StoreSnapshotResponse { status: status as u32, reason })
    }

    /// What this node's part of a snapshot holds.
    pub async fn describe(
        &self,
        request: internal::DescribePartRequest,
    ) -> Result<internal::DescribePartResponse> {
        self.judge(request.node_id, request.lineage)?;
        let id = SnapshotId::from_slice(&request.uuid)?;
        let (this, lineage) = (self.clone(), self.lineage());
        crew::blocking(Role::Repository, move || {
            let repository = this.repository_to_add_to()?;
            let hold = this.shared.parts.hold(id)?;
            let manifest = hold.manifest();
            if let Some(seal) = &manifest.seal {
                return Err(Error::conflict(format!(
                    "its part is sealed to {}, and sealed parts cannot be stored in a repository",
                    seal.named()
                )));
            }
            let of = part_of(manifest);
            let groups = of.groups.iter().copied().chain(of.meta.then_some(GroupId::META));
            let described = groups.map(|group| {
                let chunks = send::partitions(manifest, group)?;
                let chunks = chunks.iter().flat_map(|partition| &partition.chunks);
                let entries = chunks.filter_map(|hash| manifest.entry(*hash));
                Ok(internal::DescribedGroup {
                    group: group.0,
                    root: root_of(manifest, group)?.0.to_vec().into(),
                    stored_bytes: entries.map(|entry| entry.stored_bytes).sum(),
                })
            });
            Ok(internal::DescribePartResponse {
                node_id: of.node.0,
                lineage: lineage.0,
                repository: repository.id.as_bytes().to_vec().into(),
                groups: described.collect::<Result<_>>()?,
                address: of.address,
                format: of.format,
                product: of.product,
                written_ms: of.written_ms,
            })
        })
        .await
    }

    /// Stores groups of this node's part. What comes says how far it is, and last where they are.
    /// It ends when nobody listens any more.
    pub async fn store_groups(&self, request: internal::UploadGroupsRequest) -> Result<Progress> {
        self.judge(request.node_id, request.lineage)?;
        let id = SnapshotId::from_slice(&request.uuid)?;
        let wanted: BTreeSet<u32> = request.groups.iter().copied().collect();
        if wanted.is_empty() || wanted.len() != request.groups.len() {
            return Err(Error::invalid("the groups to store are none, or one is named twice"));
        }
        let (this, asked) = (self.clone(), request.repository.clone());
        let (repository, hold) = crew::blocking(Role::Repository, move || {
            let repository = this.repository_to_add_to()?;
            if repository.id.as_bytes()[..] != asked[..] {
                return Err(Error::conflict(format!(
                    "{} is repository {} to node {}: the nodes name several places",
                    repository.store.place(),
                    repository.id,
                    this.me()
                )));
            }
            Ok((repository, this.shared.parts.hold(id)?))
        })
        .await?;
        let (tell, told) = mpsc::channel(limits::UPLOAD_NEWS_QUEUE_MAX);
        let sending = Sending {
            uploads: self.clone(),
            runtime: Handle::current(),
            tell: tell.clone(),
            done: AtomicU64::new(0),
            groups: request.groups.iter().map(|group| GroupId(*group)).collect(),
            base: SnapshotSeq(request.base),
        };
        self.shared.crew.spawn(Role::Upload, async move {
            let stored =
                crew::blocking(Role::Repository, move || sending.run(&repository, &hold)).await;
            let _ = tell.send(stored).await;
        });
        Ok(told)
    }
}

fn unknown(id: SnapshotId) -> Error {
    Error::not_found(format!("the cluster does not know snapshot {id}"))
}

fn not_completed(id: SnapshotId, reason: &str) -> Error {
    Error::conflict(format!("snapshot {id} is not completed: {reason}"))
}

/// Groups that this node stores.
struct Sending {
    uploads: Uploads,
    runtime: Handle,
    tell: mpsc::Sender<Result<internal::UploadGroupsResponse>>,
    done: AtomicU64,
    groups: Vec<GroupId>,
    base: SnapshotSeq,
}

impl Sending {
    fn is_wanted(&self) -> Result<()> {
        match self.tell.is_closed() {
            true => Err(Error::unavailable("nobody waits for these groups any more")),
            false => Ok(()),
        }
    }

    fn run(
        &self,
        repository: &Repository,
        hold: &PartHold,
    ) -> Result<internal::UploadGroupsResponse> {
        let manifest = hold.manifest();
        let folder = Folder { cluster: manifest.cluster, lineage: manifest.lineage };
        let mut lost = Vec::new();
        let base = match self.base {
            SnapshotSeq(0) => None,
            seq => send::or_lost(repository.snapshot(folder, seq), &mut lost)?.flatten(),
        };
        let to = Destination { repository, folder, seq: manifest.seq, base: base.as_ref() };
        let wanted: Vec<(GroupId, &dyn Part)> =
            self.groups.iter().map(|group| (*group, hold as &dyn Part)).collect();
        let sent = send::send(to, &wanted, self)?;
        lost.extend(sent.lost);
        failpoint(Failpoint::UploadGroupsStored);
        Ok(internal::UploadGroupsResponse {
            bytes_done: self.done.load(Ordering::Relaxed),
            groups: sent.groups.iter().map(|(group, _)| stored_group(group)).collect(),
            new_bytes: sent.new_bytes,
            lost,
        })
    }
}

fn stored_group(group: &Group) -> internal::StoredGroup {
    internal::StoredGroup {
        group: group.group.0,
        mark_index: group.mark_index,
        mark_term: group.mark_term,
        dots: group.dots,
        voters: group.voters.iter().map(|node| node.0).collect(),
        learners: group.learners.iter().map(|node| node.0).collect(),
        object: group.index.object.clone(),
        offset: group.index.offset,
        bytes: group.index.bytes,
        digest: group.index.digest.0.to_vec().into(),
    }
}

impl Watch for Sending {
    fn before(&self, bytes: u64) -> Result<()> {
        self.is_wanted()?;
        let shared = &self.uploads.shared;
        if let Some(Place { bytes_per_second: Some(rate), .. }) = &shared.place {
            let price = shared.pace.pay(shared.clock.now(), bytes, *rate);
            self.runtime.block_on(async {
                // It ends early when nobody listens any more.
                let _ = tokio::time::timeout(price.wait, self.tell.closed()).await;
            });
            if let Err(e) = self.is_wanted() {
                shared.pace.give_back(price);
                return Err(e);
            }
        }
        shared.metrics.upload_sent(bytes);
        Ok(())
    }

    fn after(&self, bytes: u64) {
        failpoint(Failpoint::UploadSegmentStored);
        let bytes_done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Whoever listens learns the rest with the next message.
        let _ = self.tell.try_send(Ok(internal::UploadGroupsResponse {
            bytes_done,
            ..internal::UploadGroupsResponse::default()
        }));
    }
}
