//! Every failpoint: a real process dies there, is started again, and nothing that was promised is
//! lost.
//!
//! `plan` says for each what has to go on for it to be passed. What it must hold afterwards is
//! checked in the same way everywhere: whoever died did so at that very place; every acknowledged
//! write is there and no other; new writes are taken; and what was interrupted can be done again
//! and ends well.
//!
//! An abort takes what a process had in memory and not what it gave to the kernel: the simulator's
//! disk does that. `DEVICEDB_FAILPOINTS=capture,log.written` crashes only at those whose names
//! begin so.

#[allow(dead_code, unused_imports, reason = "the tests of clusters use the rest of it")]
#[path = "../cluster/harness/mod.rs"]
mod harness;

mod crash;
mod one;
mod panics;
mod several;

use std::{collections::VecDeque, sync::Mutex, thread};

use devicedb::{
    base::{clock::Clock, crew::Role},
    faults::failpoint::Failpoint,
};

use crash::{Crash, Prepared};

/// Clusters at a time.
const LANES: usize = 2;

/// What goes on when a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// A cluster is founded.
    Founding,
    /// A node that waits for a cluster is told to found it.
    Init,
    /// A node starts on what an earlier process left.
    Start,
    /// A node starts that is to seal its parts.
    Sealing,
    /// A node takes writes.
    Writes,
    /// A node stores what it has taken.
    Checkpoint,
    /// A node takes writes and a snapshot.
    Snapshot,
    /// A snapshot is deleted.
    Delete,
    /// A part is downloaded, and the server dies.
    Download,
    /// The same, and `ddbctl` dies.
    Fetch,
    /// A part is restored.
    Restore,
    /// A cluster is made of a snapshot in a repository.
    Seed,
    /// The same by several nodes together, and the one that founds dies.
    Together,
    /// The store of a node whose peers are lost is recovered.
    Recover,
    /// A site is added, or removed.
    Site,
    /// A node joins, and dies.
    Join,
    /// A node joins, and the one that was there dies.
    Welcome,
    /// Groups move from one node to another.
    Move,
    /// The same, and the node dies that held them.
    End,
    /// One node of three dies while all take writes.
    Talk,
    /// A snapshot goes into a repository.
    Upload,
    /// A schedule takes one and has it stored.
    Scheduled,
    /// Three nodes take a snapshot under writes, and whoever passes dies.
    Cut,
    /// A snapshot cannot be sealed, since groups have no leader.
    Abort,
}

impl Scene {
    /// Whether its crashes follow each other in one cluster.
    fn goes_on(self) -> bool {
        matches!(self, Scene::Talk | Scene::Cut | Scene::Fetch)
    }
}

/// The scene in which a failpoint is crashed at, and at which pass.
fn plan(point: Failpoint) -> (Scene, u32) {
    use Failpoint::*;
    match point {
        FoundingPromised => (Scene::Init, 1),
        PortBound | StoreClaimed | FoundingBegun | FoundingMade | FoundingInPlace | LogOpened
        | LogDirSynced | ServedNoted => (Scene::Founding, 1),
        // What a store is resized to leaves room for what the other scenes write.
        LogFileMade | LogRoomTaken | StoreResized => (Scene::Founding, 1),

        StoreOpened | SpoolRemoved | ThreadsStarted | DoorsOpening | Announcing | Announced => {
            (Scene::Start, 1)
        }
        SealWritten | SealInPlace => (Scene::Sealing, 1),
        ShelfOwnerOpened | ShelfOwnerNoted | ShelfDirsMade | ShelfAsideRemoved
        | ShelfDirRemoved | ShelfChunkSwept => (Scene::Start, 1),

        // Later than what a start writes and answers.
        LogGathered | LogWritten | LogSynced | Applied | Answering | Answered => {
            (Scene::Writes, 40)
        }
        LogBytesWritten => (Scene::Writes, 41),

        LayersSealed
        | CheckpointRowsWritten
        | CheckpointGroupsWritten
        | CheckpointCommitted
        | CheckpointNoted
        | LogPurged
        | ExtentWritten
        | ExtentSynced => (Scene::Checkpoint, 1),
        StorePageWritten => (Scene::Checkpoint, 12),
        StoreSynced | StoreSumsWritten => (Scene::Checkpoint, 1),
        CaptureHandedOver | CaptureBegun | CaptureChunkPlaced | CaptureCopied | CaptureSynced => {
            (Scene::Snapshot, 1)
        }
        CaptureAsideWritten => (Scene::Snapshot, 2),
        CaptureDirMade
        | CaptureManifestRenamed
        | CaptureDirSynced
        | CaptureInPlace
        | ReportSending
        | ReportTaken => (Scene::Snapshot, 1),

        DeleteAgreed | DeleteManifestRemoved | DeleteSynced => (Scene::Delete, 1),
        DeleteChunkRemoved => (Scene::Delete, 2),

        DownloadHeaderSent | DownloadTrailerSent => (Scene::Download, 1),
        DownloadPieceSent => (Scene::Download, 2),
        UploadSegmentStored | UploadGroupsStored | UploadReady | UploadMade => (Scene::Upload, 1),
        ScheduledSnapshotTaken | ScheduledSnapshotStored => (Scene::Scheduled, 1),
        FetchFileMade | FetchSynced | FetchRenamed | FetchDirSynced => (Scene::Fetch, 1),
        FetchPieceWritten => (Scene::Fetch, 2),

        AsideDirMade | AsideCreated | AsideFilled | AsideCommitted | StoreRenamed => {
            (Scene::Restore, 1)
        }
        RestoreTried | RestoreChecked | RestoreMade | RestorePartMoved | RestoreInPlace => {
            (Scene::Restore, 1)
        }
        // The first time it is only tried.
        RestoreChunksMoved => (Scene::Restore, 2),
        RestoreAsideRemoved | LineageProposed | LineageStored | LineageQueued => {
            (Scene::Restore, 1)
        }

        SeedChecked | SeedMade | SeedInPlace => (Scene::Seed, 1),
        SeedChunkLoaded => (Scene::Seed, 3),
        SeedPlanWritten | SeedPlanKept => (Scene::Together, 1),

        RecoverChecked | RecoverWritten | RecoverStored | RecoverLogged | RecoverDone => {
            (Scene::Recover, 1)
        }

        SiteRegistered | SiteDataAdded | SiteRemoving | SiteDropped => (Scene::Site, 1),

        IdWritten | IdSynced | JoinAsking | JoinAnswered | JoinMade | JoinInPlace
        | AsideRemoved => (Scene::Join, 1),
        RowsFileMade | RowsPieceWritten | RowsChecked | RowsArrived => (Scene::Join, 1),
        InstallBegun | InstallWritten | InstallCommitted | InstallFileRemoved
        | InstallLogRestarted => (Scene::Join, 1),
        JoinAnnouncing | JoinAnnounced | RowsSpooled | RowsHeadSent | RowsPieceSent
        | RowsDigestSent | RowsTaken => (Scene::Welcome, 1),
        LearnerProposed | PromotionProposed | ChangeCommitted | MembersChanged
        | LeadershipOffered => (Scene::Welcome, 1),
        RemovalProposed => (Scene::Move, 1),
        EndBegun | EndLogCut | EndRowsDeleted | EndCommitted | EndNoted => (Scene::End, 2),

        EarlySending | EarlySent | LateSending | LateSent | FrameSending | FrameSent
        | FrameCame => (Scene::Talk, 60),
        Forwarding | Forwarded | ForwardAnswering | ForwardAnswered => (Scene::Talk, 20),
        HelloSending | HelloAnswered | DownloadRelayed => (Scene::Talk, 1),

        MarksAsking | MarksAsked | MarkProposed | MarkApplied | MarkReported | Releasing
        | Released | SealProposed | Sealed => (Scene::Cut, 1),
        AbortProposed => (Scene::Abort, 1),
    }
}

/// Crashes that follow each other in one cluster.
type Story = (Scene, Vec<Crash>);

fn stories() -> VecDeque<Story> {
    let wanted = std::env::var("DEVICEDB_FAILPOINTS").unwrap_or_default();
    let chosen =
        |point: &Failpoint| wanted.split(',').any(|prefix| point.name().starts_with(prefix));
    let mut stories = VecDeque::<Story>::new();
    for point in Failpoint::ALL.iter().copied().filter(chosen) {
        let (scene, pass) = plan(point);
        let crash = Crash { point, pass };
        match stories.iter_mut().find(|(other, _)| *other == scene && scene.goes_on()) {
            Some((_, crashes)) => crashes.push(crash),
            None => stories.push_back((scene, vec![crash])),
        }
    }
    // The long ones first, so that both lanes end together.
    stories
        .make_contiguous()
        .sort_by_key(|(scene, crashes)| std::cmp::Reverse((crashes.len(), *scene == Scene::Abort)));
    stories
}

async fn play(scene: Scene, crashes: Vec<Crash>, prepared: &Prepared) {
    match scene {
        Scene::Talk => return several::talk(&crashes).await,
        Scene::Cut => return several::cut(&crashes).await,
        Scene::Fetch => return one::fetch(&crashes, prepared).await,
        _ => {}
    }
    let [crash] = crashes[..] else { panic!("{scene:?} has a cluster for each crash") };
    match scene {
        Scene::Founding => one::founding(crash).await,
        Scene::Init => one::init(crash).await,
        Scene::Start => one::start(crash, prepared).await,
        Scene::Sealing => one::sealing(crash, prepared).await,
        Scene::Writes => one::writes(crash, prepared).await,
        Scene::Checkpoint => one::checkpoint(crash, prepared).await,
        Scene::Snapshot => one::snapshot(crash, prepared).await,
        Scene::Delete => one::delete(crash, prepared).await,
        Scene::Download => one::download(crash, prepared).await,
        Scene::Upload => one::upload(crash, prepared).await,
        Scene::Scheduled => one::scheduled(crash, prepared).await,
        Scene::Restore => one::restore(crash, prepared).await,
        Scene::Seed => one::seed(crash, prepared).await,
        Scene::Together => several::together(crash, prepared).await,
        Scene::Recover => several::recovery(crash).await,
        Scene::Site => one::site(crash, prepared).await,
        Scene::Join => several::join(crash, prepared).await,
        Scene::Welcome => several::welcome(crash, prepared).await,
        Scene::Move => several::groups_move(crash).await,
        Scene::End => several::replicas_end(crash).await,
        Scene::Abort => several::abort(crash).await,
        Scene::Talk | Scene::Cut | Scene::Fetch => unreachable!("played above"),
    }
}

#[test]
fn a_node_that_dies_at_any_failpoint_comes_back_with_all_it_has_promised() {
    let stories = stories();
    let crashes: usize = stories.iter().map(|(_, crashes)| crashes.len()).sum();
    assert!(crashes > 0, "DEVICEDB_FAILPOINTS begins no name of a failpoint");
    let prepared = alone(Prepared::make());
    let title = |(scene, crashes): &Story| {
        format!(
            "{scene:?}: {}",
            crashes.iter().map(|crash| crash.point.name()).collect::<Vec<_>>().join(", ")
        )
    };
    let failed =
        on_lanes(stories, title, |(scene, crashes)| alone(play(scene, crashes, &prepared)));
    assert!(failed.is_empty(), "not recovered from, or never reached:\n{}", failed.join("\n"));
}

/// `DEVICEDB_PANICS=scan,engine` takes only those.
#[test]
fn a_thread_or_task_that_panics_ends_its_node_or_fails_its_part_or_its_request() {
    let wanted = std::env::var("DEVICEDB_PANICS").unwrap_or_default();
    let chosen =
        |role: &Role| wanted.is_empty() || wanted.split(',').any(|name| name == role.name());
    let roles: VecDeque<Role> = Role::ALL.iter().copied().filter(chosen).collect();
    assert!(!roles.is_empty(), "DEVICEDB_PANICS names no role");
    let prepared = alone(Prepared::make());
    let failed =
        on_lanes(roles, |role| panics::title(*role), |role| alone(panics::story(role, &prepared)));
    assert!(failed.is_empty(), "not as the role says, or never run:\n{}", failed.join("\n"));
}

/// Plays all stories, several at a time; the titles of those that fail.
fn on_lanes<T: Send>(
    stories: VecDeque<T>,
    title: impl Fn(&T) -> String + Sync,
    play: impl Fn(T) + Sync,
) -> Vec<String> {
    let (clock, count) = (Clock::start(), stories.len());
    let (stories, failed) = (Mutex::new(stories), Mutex::new(Vec::new()));
    let next = || stories.lock().unwrap().pop_front();
    let lane = || {
        while let Some(story) = next() {
            let (began, title) = (clock.now(), title(&story));
            let end = thread::scope(|scope| scope.spawn(|| play(story)).join());
            let took = clock.now() - began;
            println!(
                "{:>6.2} s  {title}{}",
                took.as_secs_f32(),
                if end.is_err() { "  FAILED" } else { "" }
            );
            if end.is_err() {
                failed.lock().unwrap().push(title);
            }
        }
    };
    thread::scope(|scope| (0..LANES).for_each(|_| drop(scope.spawn(lane))));
    println!("{count} stories in {:.0} s", clock.now().as_secs_f32());
    failed.into_inner().unwrap()
}

/// To its end, on threads of its own.
fn alone<T>(deed: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a machine that runs tests has threads").block_on(deed)
}

#[test]
fn a_name_that_no_failpoint_has_ends_the_start_and_lists_those_there_are() {
    alone(async {
        let cluster = harness::Cluster::empty(harness::Options::default());
        let mut node = cluster.further();
        for word in ["log.writen", "log.written:0", "log.written:x"] {
            node.under =
                ["env", &format!("DEVICEDB_FAILPOINT={word}")].map(str::to_string).to_vec();
            let ran = node.start_refused().await.exits(2).says(word);
            for point in Failpoint::ALL {
                assert!(ran.stderr.contains(point.name()), "{}", ran.story());
            }
        }
        assert!(!node.store.exists());
    });
}

#[test]
fn there_are_failpoints_wherever_something_could_be_left_half_done() {
    assert!(Failpoint::ALL.len() >= 60, "only {} are left", Failpoint::ALL.len());
    let places: std::collections::BTreeSet<_> =
        Failpoint::ALL.iter().filter_map(|point| point.name().split('.').next()).collect();
    for place in [
        "engine",
        "log",
        "store",
        "checkpoint",
        "cut",
        "capture",
        "delete",
        "download",
        "fetch",
        "restore",
        "seed",
        "recover",
        "join",
        "rows",
        "install",
        "end",
    ] {
        assert!(places.contains(place), "{place} has none of {places:?}");
    }
}
