//! A whole cluster in one thread from one seed, and checkers that believe nothing.
//!
//! `DEVICEDB_SIM_SEEDS=1000..2000` plays those seeds instead of the usual ones. A seed that breaks a promise is made as short as it can be, told, and printed with
//! the command that plays it again: `DEVICEDB_SIM_PLOT` takes the short plot. With the feature `planted`, mistakes are made on purpose, to show that the
//! checkers see them.

mod clients;
mod cost;
mod disaster;
mod disk;
mod history;
mod parts;
mod plot;
mod story;
mod world;

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use devicedb::planted::Mistake;
use plot::Plot;
use story::{Ending, play};

/// The build that makes mistakes on purpose is the simulator's own; there it plays at length.
const SEEDS: Range<u64> = if cfg!(feature = "planted") { 0..700 } else { 0..40 };
/// In so many stories every mistake on purpose has to show.
#[cfg(feature = "planted")]
const MISTAKE_SEEDS: u64 = 1000;

fn seeds_or(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("DEVICEDB_SIM_SEEDS") else { return usual };
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let one = || text.parse().ok().map(|seed: u64| seed..seed + 1);
    bounds.or_else(one).expect("DEVICEDB_SIM_SEEDS is a seed, or two with .. between them")
}

/// Seeds that have broken a promise once, and what they have found.
const FOUND: &[(&str, &str)] = &[
    ("seed=25", "a follower that had not heard of a new leader sent a request in circles"),
    ("seed=53", "the engine's thread ended without a reason at a log that could not be read"),
    ("seed=50", "verify counted a node whose part lacks the meta group, which cannot be restored, for a majority"),
    ("seed=157 lasts=2214 disasters=0 faults=Loss without=3", "a request that came late took a deleted snapshot once more, under the same uuid"),
    (
        "seed=619 nodes=7 replicas=3 think=1 every=500 checkpoint=1024 overlay=16384 kept=0 cut=1000 clients=4 lasts=11000 snapshots=500 disasters=1 \
         faults=Crash,Cut,Late without=6,7,28,29,35,36,37,38,39,40,41,42,43",
        "a replica that had come past its Raft snapshot by another way was left waiting for ever",
    ),
    (
        "seed=676 without=80,81,82,83,98,99,100,101,102,103,104,105,106,107,108,109,110,111,112,113,114,115,116,117,118,119,120,121",
        "a new leader that lacked the one voter for which a Raft snapshot had been lost never sent it again",
    ),
    (
        "seed=318 clients=7 disasters=0 without=21,22,23,33,34,35,36,37,38,39,40,41,42,43,44",
        "a node that was restarted captured a sealed snapshot once more, for the one group that had been behind, and could not put that in the place of its part",
    ),
    ("seed=298", "several logs in one thread read one another's blocks"),
];
/// How many stories may be played to make one shorter.
const ATTEMPTS: u32 = 150;

/// Plays seeds on all cores, those that break a promise apart; with a mistake, until the first does.
fn play_all(seeds: Range<u64>, mistake: Option<Mistake>) -> (Ending, Vec<(u64, Ending)>) {
    let (next, total, failed) = (AtomicU64::new(seeds.start), Mutex::new(Ending::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                #[cfg(feature = "planted")]
                devicedb::planted::plant(mistake);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let found = mistake.is_some() && !failed.lock().unwrap().is_empty();
                    if seed >= seeds.end || found {
                        return;
                    }
                    let ending = played(Plot::of(seed));
                    let mut total = total.lock().unwrap();
                    total.operations += ending.operations;
                    total.unknown += ending.unknown;
                    total.faults += ending.faults;
                    total.snapshots += ending.snapshots;
                    total.sealed += ending.sealed;
                    total.parts += ending.parts;
                    total.restores += ending.restores;
                    total.refused_parts += ending.refused_parts;
                    total.rounds += ending.rounds;
                    total.messages += ending.messages;
                    total.disk_operations += ending.disk_operations;
                    if !ending.broken.is_empty() {
                        failed.lock().unwrap().push((seed, ending));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, _)| *seed);
    (total.into_inner().unwrap(), failed)
}

/// Plays a story; a panic breaks a promise too.
fn played(plot: Plot) -> Ending {
    let told = std::panic::catch_unwind(|| play(plot));
    told.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Ending { broken: vec![format!("a panic: {}", words.unwrap_or_default())], ..Ending::default() }
    })
}

/// Makes a broken story short, and tells it.
fn explain(plot: Plot) -> (Plot, String) {
    let breaks = |plot: &Plot| Some(played(plot.clone())).filter(|ending| !ending.broken.is_empty()).map(|ending| ending.faults);
    let plot = plot.shrink(ATTEMPTS, breaks);
    let ending = played(plot.clone());
    let told = format!(
        "{plot}\n  {}\n  {}\n  again: DEVICEDB_SIM_PLOT='{plot}' cargo test --features planted --test sim no_seed -- --nocapture",
        ending.told.join("\n  "),
        ending.broken.join("\n  ")
    );
    (plot, told)
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Ok(text) = std::env::var("DEVICEDB_SIM_PLOT") {
        let plot: Plot = text.parse().expect("DEVICEDB_SIM_PLOT is a plot as it was printed");
        let ending = played(plot);
        return assert!(ending.broken.is_empty(), "{}\n{}", ending.told.join("\n"), ending.broken.join("\n"));
    }
    let seeds = seeds_or(SEEDS);
    let count = seeds.end - seeds.start;
    let (total, failed) = play_all(seeds, None);
    println!("{count} seeds: {total:?}");
    for (seed, ending) in &failed {
        println!("seed {seed}: {}", ending.broken.join("\n  "));
    }
    if let Some((seed, _)) = failed.first() {
        println!("The first of them, made shorter: {}", explain(Plot::of(*seed)).1);
    }
    assert!(failed.is_empty(), "{} of {count} seeds break a promise", failed.len());
}

#[test]
fn no_story_that_broke_a_promise_once_does_so_again() {
    for (plot, found) in FOUND {
        let ending = played(plot.parse().unwrap());
        assert!(ending.broken.is_empty(), "{plot}, which found that {found}: {}", ending.broken.join("\n"));
    }
}

#[cfg(feature = "planted")]
#[test]
fn a_story_that_breaks_a_promise_is_made_short_and_told() {
    let mistake = Some(Mistake::AckBeforeSync);
    let (seed, ending) = play_all(0..MISTAKE_SEEDS, mistake).1.into_iter().next().expect("this mistake is found");
    devicedb::planted::plant(mistake);
    let (plot, told) = explain(Plot::of(seed));
    let again = played(plot.to_string().parse().unwrap());
    devicedb::planted::plant(None);
    assert!(!again.broken.is_empty() && told.contains("again: DEVICEDB_SIM_PLOT='seed="), "{told}");
    assert!(plot.faults.len() < Plot::of(seed).faults.len() || again.told.len() < ending.told.len(), "nothing was left out: {told}");
}

#[test]
fn a_seed_plays_the_same_story_again() {
    for seed in 0..3 {
        let [first, second] = [play(Plot::of(seed)), play(Plot::of(seed))];
        assert_eq!((first.trace, first.operations), (second.trace, second.operations), "seed {seed}");
    }
}

/// Each mistake breaks a promise in one of a thousand stories, or of `DEVICEDB_SIM_SEEDS`. `DEVICEDB_SIM_MISTAKE=VoteLost` plants only that one.
#[cfg(feature = "planted")]
#[test]
fn every_mistake_on_purpose_is_found() {
    let only = std::env::var("DEVICEDB_SIM_MISTAKE").ok();
    let wanted = |mistake: &Mistake| only.as_ref().is_none_or(|name| *name == format!("{mistake:?}"));
    let mut missed = Vec::new();
    for mistake in Mistake::ALL.into_iter().filter(wanted) {
        match play_all(seeds_or(0..MISTAKE_SEEDS), Some(mistake)).1.first() {
            Some((seed, ending)) => eprintln!("{mistake:?}: seed {seed}: {}", ending.broken[0]),
            None => missed.push(mistake),
        }
    }
    assert!(missed.is_empty(), "not found in {:?}: {missed:?}", seeds_or(0..MISTAKE_SEEDS));
}
