//! Chaos: a cluster of real processes under real clients, while processes are killed and stopped,
//! links cut and slowed down, disks filled and clocks shifted. Disks are lost with their nodes, and
//! repaired as the manual says; nodes leave, join and move to other addresses, and at the end the
//! whole cluster is restored elsewhere. What clients saw and what snapshots hold is judged by the
//! simulator's checkers.
//!
//! Beside the simulator, which plays more and replays it exactly, this tries what it leaves out:
//! the kernel's files, sockets and scheduling, gRPC, the start of a process, the copying and
//! restoring of parts. It takes `DEVICEDB_CHAOS_SECONDS`, 90 without a word, and some more to begin
//! and to heal; `make chaos SECONDS=3600` takes its time. `DEVICEDB_CHAOS_SEED` has the same faults
//! planned as another run; what the processes make of them differs. `DEVICEDB_CHAOS_ONLY` names
//! the kinds of faults, as in `LoseDisk,Kill`.
//!
//! Files: `stage` (the cluster), `links` (the proxies between nodes), `machines` (their disks and
//! clocks), `faults`, `clients`, `snapshots`, `verdict`.

#[allow(dead_code, unused_imports, reason = "the tests of the cluster use the rest of it")]
#[path = "../cluster/harness/mod.rs"]
mod harness;
#[path = "../sim/history.rs"]
mod history;

mod clients;
mod faults;
mod links;
mod machines;
mod snapshots;
mod stage;
mod verdict;

use std::{sync::Arc, time::Duration};

use devicedb::base::{clock::Random, ids::Topology};
use tokio::sync::{Notify, watch};

use clients::{Crowd, Place, Shared};
use faults::{Saboteur, Timeline};
use harness::eventually;
use snapshots::{Photographer, Tally};
use stage::Stage;

const SECONDS: u64 = 90;
const SECONDS_MIN: u64 = 30;
/// Clients that do less than this were not at work, however slow the machine is.
const SUCCESSES_A_SECOND_MIN: u64 = 5;
/// When all is well again, whoever waits has an answer, and a snapshot has every part.
const HEALED: Duration = Duration::from_secs(60);

fn number(name: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    std::env::var(name).map_or_else(
        |_| otherwise(),
        |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}

/// Tells what happened if the test fails, wherever that is.
struct Story {
    seed: u64,
    timeline: Timeline,
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("==== faults of seed {} ====\n{}", self.seed, self.timeline.told());
            eprintln!(
                "again: DEVICEDB_CHAOS_SEED={} cargo test --test chaos no_fault -- --nocapture",
                self.seed
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_processes_links_disks_or_clocks_breaks_a_promise() {
    let seconds = number("DEVICEDB_CHAOS_SECONDS", || SECONDS);
    assert!(
        seconds >= SECONDS_MIN,
        "DEVICEDB_CHAOS_SECONDS is at least {SECONDS_MIN}, so that something can happen"
    );
    let seed = number("DEVICEDB_CHAOS_SEED", || Random::from_entropy().below(1_000_000));
    let span = Duration::from_secs(seconds);
    let mut rng = Random::seeded(seed);
    let mut stage = Stage::set().await;
    let only: Option<Vec<String>> = std::env::var("DEVICEDB_CHAOS_ONLY")
        .ok()
        .map(|kinds| kinds.split(',').map(str::to_owned).collect());
    let mut saboteur = Saboteur::new(Random::seeded(rng.next_u64()), &stage, span, only.as_deref());
    println!("seed {seed}, {seconds} s, faults: {}", saboteur.enabled());
    let story = Story { seed, timeline: saboteur.timeline.clone() };
    for place in Place::all() {
        stage.cluster.client().add_site(&place.site()).await.unwrap();
    }

    let shared = Shared::new(stage.clock, stage.started.clone());
    let crowd = Crowd::start(|| stage.clients(), shared.clone(), &mut rng);
    let (began, (stop, stopped)) = (Arc::new(Notify::new()), watch::channel(false));
    let options = &stage.cluster.options;
    let photographer = Photographer {
        nodes: stage.clients(),
        topology: Topology::new(options.partitions, options.groups).unwrap(),
        shared: shared.clone(),
        dir: stage.cluster.dir().to_path_buf(),
        rng: Random::seeded(rng.next_u64()),
        began: began.clone(),
        tally: Tally::default(),
    };
    let photographer = tokio::spawn(photographer.work(stopped));
    saboteur.work(&mut stage, span, &began).await;

    stage.cluster.settled().await;
    stop.send_replace(true);
    let mut photographer = tokio::time::timeout(HEALED, photographer)
        .await
        .expect("all is well, and a snapshot stays open")
        .expect("snapshots have failed");
    // While clients go on: one that must be whole. A node that was away takes a moment to be heard
    // of.
    eventually("all is well, and a snapshot has every part", HEALED, async || {
        if photographer.take().await { Ok(()) } else { Err("some are missing") }
    })
    .await;
    tokio::time::timeout(HEALED, crowd.end())
        .await
        .expect("all is well, and a client has no answer");
    tokio::time::timeout(HEALED, shared.read_all(stage.cluster.clients()))
        .await
        .expect("all is well, and a read has no answer");
    // The end of all: what comes back elsewhere is what was read last.
    let uuid = stage.cluster.client().complete_snapshot(HEALED).await.uuid;
    let tars = stage.cluster.download_all(&uuid).await;
    story
        .timeline
        .note(stage.now(), "every disk is lost, and every node restored elsewhere".into());
    stage.restore_elsewhere(&tars).await;
    tokio::time::timeout(HEALED, shared.read_all(stage.cluster.clients()))
        .await
        .expect("all are restored, and a read has no answer");

    let history = shared.history();
    let tally = &photographer.tally;
    println!(
        "{} operations, {} attempts failed, {} writes stayed open; faults: {:?}, {} of them at \
         snapshots; {} nodes ended with a full disk; snapshots: {tally:?}",
        history.succeeded,
        history.failed,
        history.unknown,
        saboteur.struck,
        saboteur.at_snapshots,
        saboteur.ended_full
    );
    let mut broken = verdict::of(&history);
    broken.extend(saboteur.broken.iter().cloned());
    for what in &broken {
        eprintln!("==== broken ====\n{what}");
    }
    assert!(
        broken.is_empty(),
        "seed {seed}: {} promises are broken, the first: {}",
        broken.len(),
        broken[0]
    );
    assert!(
        history.succeeded >= seconds * SUCCESSES_A_SECOND_MIN,
        "only {} operations in {seconds} s",
        history.succeeded
    );
    let idle: Vec<_> =
        saboteur.kinds.iter().filter(|kind| !saboteur.struck.contains_key(kind)).collect();
    assert!(idle.is_empty(), "never happened: {idle:?}");
    drop(story);
}
