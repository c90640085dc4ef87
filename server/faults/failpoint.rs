//! Places at which a process can be made to die on purpose, so that tests can show that it comes
//! back from there.
//!
//! They stand wherever a node or `ddbctl` writes, renames, syncs or sends. They are there only with
//! the feature `fault-injection`, which a release build refuses; otherwise `failpoint` is nothing
//! at all. With it, `DEVICEDB_FAILPOINT=name` aborts the process when it passes that place,
//! `name:n` when it does so for the n-th time, and `trace` says on stderr which places are passed.
//! An abort flushes nothing and cleans nothing up; what the kernel has been given stays.
//! `make failpoints` lists them; `tests/failpoints/` crashes at each.

macro_rules! failpoints {
    ($($(#[doc = $doc:literal])+ $point:ident $name:literal)+) => {
        /// Where a process can be made to die.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Failpoint { $($(#[doc = $doc])+ $point,)+ }

        impl Failpoint {
            pub const ALL: &[Failpoint] = &[$(Failpoint::$point,)+];

            pub fn name(self) -> &'static str {
                match self { $(Failpoint::$point => $name,)+ }
            }

            /// What has just happened there, or is about to.
            pub fn about(self) -> &'static str {
                match self { $(Failpoint::$point => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

failpoints! {
    // A start.
    /// The port is taken; nothing on disk has changed.
    PortBound "start.port-bound"
    /// The store directory is there and belongs to this process.
    StoreClaimed "start.store-claimed"
    /// The store is open and its identity read.
    StoreOpened "start.store-opened"
    /// A node's own seal is written and has not its name yet.
    SealWritten "start.seal-written"
    /// The seal has its name, and the directory is not synced.
    SealInPlace "start.seal-in-place"
    /// The spool of an earlier process is removed, and a new one not made.
    SpoolRemoved "start.spool-removed"
    /// The log of a store that has never served is open.
    LogOpened "start.log-opened"
    /// The directory of that log is synced.
    LogDirSynced "start.log-dir-synced"
    /// The store says, durably, that it has a log from now on.
    ServedNoted "start.served-noted"
    /// The engine runs, and speaks to nobody yet.
    ThreadsStarted "start.threads-started"
    /// The doors are about to open.
    DoorsOpening "start.doors-opening"

    // A founding, and what every store goes through that is made aside.
    /// A node has promised, durably, to leave the founding to a node, perhaps to itself, and has
    /// not said so.
    FoundingPromised "founding.promised"
    /// A cluster is about to be founded in an empty directory.
    FoundingBegun "founding.begun"
    /// The first node's store is made aside.
    FoundingMade "founding.made"
    /// The first node's store is in place.
    FoundingInPlace "founding.in-place"
    /// The directory in which a store is made is there.
    AsideDirMade "aside.dir-made"
    /// The store aside has its identity and nothing else.
    AsideCreated "aside.store-created"
    /// The rows of the store aside are written and not committed.
    AsideFilled "aside.rows-written"
    /// The rows of the store aside are committed.
    AsideCommitted "aside.committed"
    /// A store made aside is renamed into its place, and the directory not synced.
    StoreRenamed "store.renamed"
    /// A store made aside is in place, and its directory aside removed.
    AsideRemoved "store.aside-removed"

    // A join.
    /// The id of a node that is to join is written and not synced.
    IdWritten "join.id-written"
    /// The id is durable.
    IdSynced "join.id-synced"
    /// The node is about to ask for being taken in.
    JoinAsking "join.asking"
    /// The node is taken in, and has no store yet.
    JoinAnswered "join.answered"
    /// Its store is made aside.
    JoinMade "join.made"
    /// Its store is in place.
    JoinInPlace "join.in-place"
    /// The node that was asked is about to propose the newcomer.
    JoinAnnouncing "join.announcing"
    /// The newcomer is in the configuration, and nobody has told it so.
    JoinAnnounced "join.announced"

    // Members of a group.
    /// A leader has proposed a learner.
    LearnerProposed "members.learner-proposed"
    /// A leader has proposed that a learner votes.
    PromotionProposed "members.promotion-proposed"
    /// A leader has proposed that a member goes.
    RemovalProposed "members.removal-proposed"
    /// A leader has offered its leadership.
    LeadershipOffered "members.leadership-offered"
    /// The log says, durably, that a change of members is committed.
    ChangeCommitted "members.change-committed"
    /// A change of members has taken effect.
    MembersChanged "members.changed"

    // A group's rows on their way to a replica.
    /// The sender has copied the rows into a file.
    RowsSpooled "rows.spooled"
    /// Head and hello are sent.
    RowsHeadSent "rows.head-sent"
    /// A piece of the rows is sent.
    RowsPieceSent "rows.piece-sent"
    /// The digest is sent.
    RowsDigestSent "rows.digest-sent"
    /// The receiver has said that it has them all.
    RowsTaken "rows.taken"
    /// The receiver has made a file for them.
    RowsFileMade "rows.file-made"
    /// The receiver has written a piece.
    RowsPieceWritten "rows.piece-written"
    /// The receiver has compared the digest.
    RowsChecked "rows.checked"
    /// The engine has the rows, and the sender does not know.
    RowsArrived "rows.arrived"
    /// Raft has announced them, and they are about to be put in place.
    InstallBegun "install.begun"
    /// They replace what the replica had, and are not committed.
    InstallWritten "install.rows-written"
    /// They are committed, and the log does not begin behind them yet.
    InstallCommitted "install.committed"
    /// Their file is removed.
    InstallFileRemoved "install.file-removed"
    /// The log begins behind them.
    InstallLogRestarted "install.log-restarted"

    // The end of a replica.
    /// The group's leader has said that the replica may end.
    EndBegun "end.begun"
    /// The rows are deleted, and not committed.
    EndRowsDeleted "end.rows-deleted"
    /// That is committed; the log is there.
    EndCommitted "end.committed"
    /// The log is cut off.
    EndLogCut "end.log-cut"
    /// The replica is opened anew, and knows nothing.
    EndNoted "end.noted"

    // The log.
    /// A file of the log is made.
    LogFileMade "log.file-made"
    /// A file of the log has got room.
    LogRoomTaken "log.room-taken"
    /// What a round has to write is gathered.
    LogGathered "log.gathered"
    /// Bytes are written and not synced.
    LogBytesWritten "log.bytes-written"
    /// Bytes are synced, and nobody knows.
    LogSynced "log.synced"
    /// A round's entries are durable; what waited for that has not happened.
    LogWritten "log.written"
    /// Entries that every group has dropped have given back their space.
    LogPurged "log.purged"
    /// How far the log is synced is noted, and that note is not.
    ExtentWritten "log.extent-written"
    /// The note is durable.
    ExtentSynced "log.extent-synced"

    // What the engine says.
    /// A leader's messages are about to go, before its own disk has them.
    EarlySending "engine.early-sending"
    /// A leader's messages have gone, before its own disk has them.
    EarlySent "engine.early-sent"
    /// The messages that had to wait for the disk are about to go.
    LateSending "engine.late-sending"
    /// The messages that had to wait for the disk have gone.
    LateSent "engine.late-sent"
    /// An entry is applied in memory, and nobody answered.
    Applied "engine.applied"
    /// Whoever asked is about to be answered.
    Answering "engine.answering"
    /// The answer is handed over.
    Answered "engine.answered"
    /// A request is about to go to the leader of its group.
    Forwarding "engine.forwarding"
    /// A request has gone to the leader of its group.
    Forwarded "engine.forwarded"
    /// A request of another node is done, and about to be answered.
    ForwardAnswering "engine.forward-answering"
    /// A request of another node is answered.
    ForwardAnswered "engine.forward-answered"

    // Streams between nodes.
    /// A hello is about to go.
    HelloSending "peer.hello-sending"
    /// A hello is answered.
    HelloAnswered "peer.hello-answered"
    /// Messages are about to go.
    FrameSending "peer.frame-sending"
    /// They are handed to the connection.
    FrameSent "peer.frame-sent"
    /// Messages have come, and the engine does not have them.
    FrameCame "peer.frame-came"

    // A checkpoint.
    /// The layers are sealed, and remembered requests with them.
    LayersSealed "checkpoint.layers-sealed"
    /// Rows are written and not committed.
    CheckpointRowsWritten "checkpoint.rows-written"
    /// Records of groups are written and not committed.
    CheckpointGroupsWritten "checkpoint.groups-written"
    /// The checkpoint is durable.
    CheckpointCommitted "checkpoint.committed"
    /// The engine reads from the new view, and the layers are dropped.
    CheckpointNoted "checkpoint.noted"
    /// The store's file has another size.
    StoreResized "store.resized"
    /// A page of the store is written and not synced.
    StorePageWritten "store.page-written"
    /// A block of checksums of the store's pages is written and not synced.
    StoreSumsWritten "store.sums-written"
    /// The store's file is synced, and nobody knows.
    StoreSynced "store.synced"

    // The cut of a snapshot.
    /// The meta leader is about to ask for marks.
    MarksAsking "cut.marks-asking"
    /// Every node is asked.
    MarksAsked "cut.marks-asked"
    /// A leader has proposed its group's mark.
    MarkProposed "cut.mark-proposed"
    /// A mark is applied, and its layer sealed.
    MarkApplied "cut.mark-applied"
    /// A mark is reported.
    MarkReported "cut.mark-reported"
    /// All groups are marked, and nodes are about to be told.
    Releasing "cut.releasing"
    /// Every node is told.
    Released "cut.released"
    /// The seal is proposed.
    SealProposed "cut.seal-proposed"
    /// The snapshot is sealed in the configuration.
    Sealed "cut.sealed"
    /// The abort is proposed.
    AbortProposed "cut.abort-proposed"
    /// What a node has frozen at the cut is handed over to be copied.
    CaptureHandedOver "cut.handed-over"

    // This node's part.
    /// Copying is about to begin.
    CaptureBegun "capture.begun"
    /// A chunk, or the manifest, is written aside.
    CaptureAsideWritten "capture.aside-written"
    /// A chunk is in its place.
    CaptureChunkPlaced "capture.chunk-placed"
    /// All rows are copied and the view is let go of.
    CaptureCopied "capture.copied"
    /// The chunks and the manifest aside are synced.
    CaptureSynced "capture.synced"
    /// The part's directory is made.
    CaptureDirMade "capture.dir-made"
    /// The manifest has its name.
    CaptureManifestRenamed "capture.manifest-renamed"
    /// The part's directory is synced.
    CaptureDirSynced "capture.dir-synced"
    /// The part is in place for good.
    CaptureInPlace "capture.in-place"
    /// The part is about to be reported.
    ReportSending "capture.reporting"
    /// The cluster knows of the part.
    ReportTaken "capture.reported"

    // The snapshot store.
    /// The file that says who uses this node's corner is there.
    ShelfOwnerOpened "shelf.owner-opened"
    /// The file that says who uses this node's corner is written.
    ShelfOwnerNoted "shelf.owner-noted"
    /// The corner's directories are there.
    ShelfDirsMade "shelf.dirs-made"
    /// Something that was being written is removed.
    ShelfAsideRemoved "shelf.aside-removed"
    /// The directory of a part without a manifest is removed.
    ShelfDirRemoved "shelf.dir-removed"
    /// A chunk that no part names is removed.
    ShelfChunkSwept "shelf.chunk-swept"
    /// The cluster has agreed that a snapshot is deleted, and its parts are there.
    DeleteAgreed "delete.agreed"
    /// The manifest is removed, and that is not synced.
    DeleteManifestRemoved "delete.manifest-removed"
    /// The removal is durable.
    DeleteSynced "delete.synced"
    /// A chunk is removed.
    DeleteChunkRemoved "delete.chunk-removed"

    // A download.
    /// The size of the part is sent.
    DownloadHeaderSent "download.header-sent"
    /// A piece of the part is sent.
    DownloadPieceSent "download.piece-sent"
    /// The digest is sent.
    DownloadTrailerSent "download.trailer-sent"
    /// A piece of another node's part is passed on.
    DownloadRelayed "download.relayed"
    /// `ddbctl` has made the partial file.
    FetchFileMade "fetch.file-made"
    /// `ddbctl` has written a piece.
    FetchPieceWritten "fetch.piece-written"
    /// `ddbctl` has synced the whole file.
    FetchSynced "fetch.synced"
    /// `ddbctl` has given the file its name.
    FetchRenamed "fetch.renamed"
    /// `ddbctl` has synced the directory.
    FetchDirSynced "fetch.dir-synced"

    // An upload.
    /// A segment is in the repository, and nobody has been told.
    UploadSegmentStored "upload.segment-stored"
    /// A node's groups are in the repository with their indexes, and nobody has been told.
    UploadGroupsStored "upload.groups-stored"
    /// All that the snapshot names is in the repository, and the snapshot is not.
    UploadReady "upload.ready"
    /// The snapshot is in the repository, and nobody has been told.
    UploadMade "upload.made"

    // A run of a schedule.
    /// Its snapshot has begun, and nobody has it stored.
    ScheduledSnapshotTaken "schedule.snapshot-taken"
    /// Its snapshot is in the repository, and the run's end is not noted.
    ScheduledSnapshotStored "schedule.snapshot-stored"

    // A restore.
    /// The part's files are moved out of the way, to see that they can be, and come back next.
    RestoreTried "restore.tried"
    /// Every byte of the part is checked; nothing has changed.
    RestoreChecked "restore.checked"
    /// The store is made aside.
    RestoreMade "restore.made"
    /// The chunks are moved out of the way, and the manifest is not.
    RestoreChunksMoved "restore.chunks-moved"
    /// Both are, durably, and there is no store in their place.
    RestorePartMoved "restore.part-moved"
    /// The store is in place.
    RestoreInPlace "restore.in-place"
    /// The directory aside is removed, and that is not synced.
    RestoreAsideRemoved "restore.aside-removed"

    // A cluster that is made of a snapshot in a repository.
    /// A node that begins it together with others has written their plan aside.
    SeedPlanWritten "seed.plan-written"
    /// It keeps the plan, durably, and has told nobody of it.
    SeedPlanKept "seed.plan-kept"
    /// The snapshot's indexes agree with its root, and all that they name is there; nothing has
    /// changed.
    SeedChecked "seed.checked"
    /// A chunk's rows are in the store aside, and not committed.
    SeedChunkLoaded "seed.chunk-loaded"
    /// The store is made aside.
    SeedMade "seed.made"
    /// The store is in place.
    SeedInPlace "seed.in-place"

    // A recovery of a lost majority.
    /// The plan fits the store and is confirmed; nothing has changed.
    RecoverChecked "recover.checked"
    /// The store has the plan's rows and records, and they are not committed.
    RecoverWritten "recover.rows-written"
    /// They are committed, and the logs are as they were.
    RecoverStored "recover.stored"
    /// The logs are as the plan says, and the store does not say that all is done.
    RecoverLogged "recover.logged"
    /// The store says so.
    RecoverDone "recover.done"

    // A new history.
    /// The first leader has proposed the new lineage.
    LineageProposed "lineage.proposed"
    /// The node is in the lineage, durably, and has told nobody.
    LineageStored "lineage.stored"
    /// A leader has queued the lineage for its group's log.
    LineageQueued "lineage.queued"
    /// The node is about to say where it is.
    Announcing "lineage.announcing"
    /// The cluster knows where it is.
    Announced "lineage.announced"

    // Sites, which change in two places.
    /// A new site is in the configuration.
    SiteRegistered "site.registered"
    /// A new site is in its group.
    SiteDataAdded "site.data-added"
    /// A site is about to go.
    SiteRemoving "site.removing"
    /// Rows of a site are removed from its group.
    SiteDropped "site.dropped"
}

#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub fn failpoint(_: Failpoint) {}

#[cfg(feature = "fault-injection")]
pub use armed::{check, failpoint, listed};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::{
        io::Write as _,
        sync::{
            Mutex, OnceLock,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::Failpoint;
    use crate::base::{
        error::{Error, Result},
        locks::lock,
    };

    const VARIABLE: &str = "DEVICEDB_FAILPOINT";

    /// What the environment asks for.
    enum Armed {
        Nothing,
        /// Say which ones are passed, once each.
        Trace(Mutex<Vec<Failpoint>>),
        /// Die at one, when so many passes are left.
        Crash(Failpoint, AtomicU32),
        Unknown(String),
    }

    fn armed() -> &'static Armed {
        static ARMED: OnceLock<Armed> = OnceLock::new();
        ARMED.get_or_init(|| std::env::var(VARIABLE).map_or(Armed::Nothing, |said| parse(&said)))
    }

    fn parse(said: &str) -> Armed {
        if said == "trace" {
            return Armed::Trace(Mutex::default());
        }
        let (name, passes) = said.split_once(':').unwrap_or((said, "1"));
        let point = Failpoint::ALL.iter().find(|point| point.name() == name);
        match (point, passes.parse()) {
            (Some(point), Ok(passes @ 1..)) => Armed::Crash(*point, AtomicU32::new(passes)),
            _ => Armed::Unknown(said.to_owned()),
        }
    }

    fn say(here: Failpoint) {
        // Where nobody reads, it dies without a word.
        let _ = writeln!(std::io::stderr(), "failpoint {}", here.name());
    }

    /// Dies here if the environment says so.
    pub fn failpoint(here: Failpoint) {
        match armed() {
            Armed::Crash(point, left)
                if *point == here && left.fetch_sub(1, Ordering::Relaxed) == 1 =>
            {
                say(here);
                std::process::abort();
            }
            Armed::Trace(passed) => {
                let mut passed = lock(passed);
                if !passed.contains(&here) {
                    passed.push(here);
                    say(here);
                }
            }
            _ => {}
        }
    }

    /// Every place at which a test can crash a node, one a line.
    pub fn listed() -> String {
        let line = |point: &Failpoint| format!("{:28} {}\n", point.name(), point.about());
        Failpoint::ALL.iter().map(line).collect()
    }

    /// `Invalid`, with those there are, if the environment names none of them.
    pub fn check() -> Result<()> {
        let Armed::Unknown(said) = armed() else { return Ok(()) };
        let names: Vec<_> = Failpoint::ALL.iter().map(|point| point.name()).collect();
        Err(Error::invalid(format!(
            "{VARIABLE}={said:?} is not `trace`, nor NAME or NAME:PASS with one of these names: {}",
            names.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failpoint_has_a_name_of_its_own_and_a_line_that_says_what_happens_there() {
        let names: std::collections::BTreeSet<_> =
            Failpoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Failpoint::ALL.len());
        assert!(Failpoint::ALL.iter().all(|point| point.about().ends_with('.')));
    }
}
