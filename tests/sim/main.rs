//! A whole cluster in one thread from one seed, and checkers that believe nothing.
//!
//! `DEVICEDB_SIM_SEEDS=1000..2000` plays those seeds instead of the usual ones. A seed that breaks
//! a promise is made as short as it can be, told, and printed with the command that plays it again:
//! `DEVICEDB_SIM_PLOT` takes the short plot. With the feature `fault-injection`, mutations are
//! made, one at a time and each in plots that bring it about, to show that the checkers see them.

mod clients;
mod cost;
#[cfg(feature = "fault-injection")]
mod directed;
mod disaster;
mod disk;
mod history;
mod parts;
mod plot;
mod recovery;
mod story;
mod world;

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use devicedb::base::clock::{Clock, busy};
#[cfg(feature = "fault-injection")]
use devicedb::faults::mutation;
use plot::{Fault, Moves, Plot};
use story::{Ending, play};

/// The build with mutations is the simulator's own; there it plays more. `make soak` plays as many
/// as one likes.
const SEEDS: Range<u64> = if cfg!(feature = "fault-injection") { 0..150 } else { 0..40 };

fn seeds_or(usual: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("DEVICEDB_SIM_SEEDS") else { return usual };
    let bounds =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let one = || text.parse().ok().map(|seed: u64| seed..seed + 1);
    bounds.or_else(one).expect("DEVICEDB_SIM_SEEDS is a seed, or two with .. between them")
}

/// Plots that have broken a promise once, what they have found, and the story below
/// `tests/golden/engine/` that shows it, where one machine of the engine can.
const FOUND: &[(&str, &str, Option<&str>)] = &[
    (
        "seed=25",
        "a follower that had not heard of a new leader sent a request in circles",
        Some("requests/a_follower_that_has_not_heard_of_the_new_leader.txt"),
    ),
    ("seed=53", "the engine's thread ended without a reason at a log that could not be read", None),
    (
        "seed=50",
        "verify counted a node whose part lacks the meta group, which cannot be restored, for a \
         majority",
        None,
    ),
    (
        "seed=157 lasts=2214 disasters=0 faults=Loss without=3",
        "a request that came late took a deleted snapshot once more, under the same uuid",
        None,
    ),
    (
        "seed=619 nodes=7 replicas=3 think=1 every=500 checkpoint=1024 overlay=16384 kept=0 \
         cut=1000 clients=4 lasts=11000 snapshots=500 disasters=1 faults=Crash,Cut,Late \
         without=6,7,28,29,35,36,37,38,39,40,41,42,43",
        "a replica that had come past its Raft snapshot by another way was left waiting for ever",
        Some("offers/a_member_that_has_come_past_its_snapshot_another_way.txt"),
    ),
    (
        "seed=676 without=80,81,82,83,98,99,100,101,102,103,104,105,106,107,108,\
         109,110,111,112,113,114,115,116,117,118,119,120,121",
        "a new leader that lacked the one voter for which a Raft snapshot had been lost never sent \
         it again",
        Some("offers/a_snapshot_that_is_lost_is_sent_again.txt"),
    ),
    (
        "seed=318 clients=7 disasters=0 without=21,22,23,33,34,35,36,37,38,39,40,41,42,43,44",
        "a node that was restarted captured a sealed snapshot once more, for the one group that \
         had been behind, and could not put that in the place of its part",
        Some("captures/a_restarted_node_captures_nothing_that_was_begun_before.txt"),
    ),
    ("seed=298", "several logs in one thread read one another's blocks", None),
];
/// How many stories may be played to make one shorter.
const ATTEMPTS: u32 = 150;

/// Works through a list on all cores. The results stand in the order of the list.
fn on_all_cores<T: Sync, R: Send>(list: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                while let Some((at, one)) = pick(list, &next) {
                    let result = work(one);
                    done.lock().unwrap().push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn pick<'a, T>(list: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    list.get(at).map(|one| (at, one))
}

/// Plays plots on all cores: what they came to together, and those that break a promise.
fn play_all(plots: Vec<Plot>) -> (Ending, Vec<(Plot, Ending)>) {
    let clock = Clock::start();
    let endings = on_all_cores(&plots, |plot| {
        let began = busy();
        let ending = played(plot.clone());
        let told = if ending.broken.is_empty() { Vec::new() } else { ending.told };
        (Ending { told, ..ending }, busy() - began)
    });
    let (mut total, mut failed, mut worked) = (Ending::default(), Vec::new(), Duration::ZERO);
    let count = plots.len();
    for (plot, (ending, busy)) in plots.into_iter().zip(endings) {
        worked += busy;
        total.operations += ending.operations;
        total.unknown += ending.unknown;
        total.faults += ending.faults;
        total.snapshots += ending.snapshots;
        total.sealed += ending.sealed;
        total.parts += ending.parts;
        total.restores += ending.restores;
        total.refused_parts += ending.refused_parts;
        total.removed += ending.removed;
        total.ended += ending.ended;
        total.in_vain += ending.in_vain;
        total.rounds += ending.rounds;
        total.messages += ending.messages;
        total.disk_operations += ending.disk_operations;
        if !ending.broken.is_empty() {
            failed.push((plot, ending));
        }
    }
    println!(
        "{count} plots in {:.1} s, {:.1} s of processors: {total:?}",
        clock.now().as_secs_f64(),
        worked.as_secs_f64()
    );
    (total, failed)
}

/// That none of them breaks a promise; else the first that does is made shorter.
fn keep_every_promise(plots: Vec<Plot>) -> Ending {
    let count = plots.len();
    let (total, failed) = play_all(plots);
    for (plot, ending) in &failed {
        println!("{plot}: {}", ending.broken.join("\n  "));
    }
    if let Some((plot, _)) = failed.first() {
        println!("The first of them, made shorter: {}", explain(plot.clone(), ATTEMPTS).1);
    }
    assert!(failed.is_empty(), "{} of {count} plots break a promise", failed.len());
    total
}

/// Plays a story; a panic breaks a promise too.
fn played(plot: Plot) -> Ending {
    let told = std::panic::catch_unwind(|| play(plot));
    told.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Ending {
            broken: vec![format!("a panic: {}", words.unwrap_or_default())],
            ..Ending::default()
        }
    })
}

/// Makes a broken story short, and tells it.
fn explain(plot: Plot, attempts: u32) -> (Plot, String) {
    let breaks = |plot: &Plot| {
        Some(played(plot.clone()))
            .filter(|ending| !ending.broken.is_empty())
            .map(|ending| ending.faults)
    };
    let plot = plot.shrink(attempts, breaks);
    let ending = played(plot.clone());
    let told = format!(
        "{plot}\n  {}\n  {}\n  again: DEVICEDB_SIM_PLOT='{plot}' cargo test --features \
         fault-injection --test sim no_seed -- --nocapture",
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
        return assert!(
            ending.broken.is_empty(),
            "{}\n{}",
            ending.told.join("\n"),
            ending.broken.join("\n")
        );
    }
    keep_every_promise(seeds_or(SEEDS).map(Plot::of).collect());
}

#[cfg(feature = "fault-injection")]
#[test]
fn no_scenario_breaks_a_promise_without_its_mutation() {
    keep_every_promise(directed::plots());
}

/// Forty restores to other addresses, beside those of the other seeds, in which everything else
/// fails as well.
#[test]
fn clusters_that_are_restored_elsewhere_are_one_again_within_five_seconds() {
    let plot = |seed: u64| Plot {
        nodes: [3, 5][seed as usize / 2 % 2],
        replication_factor: 3,
        faults: BTreeSet::new(),
        lasts: Duration::from_secs(3),
        snapshots_every: Duration::from_millis(500),
        moves: [Moves::Away, Moves::About][seed as usize % 2],
        disasters: 1,
        ..Plot::of(seed)
    };
    // Where no snapshot was complete in time there is nothing to restore from.
    let restores = keep_every_promise((0..60).map(plot).collect()).restores;
    assert!(restores >= 40, "only {restores} of 60 stories came to a restore");
}

/// Nearly as many disks as a cluster has nodes are lost in each of these.
#[cfg(feature = "fault-injection")]
#[test]
fn disks_are_lost_and_replaced_one_after_the_other_and_nothing_else_is() {
    let plots: Vec<Plot> = seeds_or(0..12).map(directed::repairs).collect();
    let stories = plots.len() as u64;
    let removed = keep_every_promise(plots).removed;
    // Two and a half in each, on average.
    assert!(removed >= stories, "only {removed} nodes were lost in {stories} stories");
}

/// Nodes that run leave for good, and empty ones take their places.
#[cfg(feature = "fault-injection")]
#[test]
fn nodes_leave_one_after_the_other_and_nothing_is_lost() {
    let plots: Vec<Plot> = seeds_or(0..12).map(directed::departures).collect();
    let stories = plots.len() as u64;
    let left = keep_every_promise(plots).removed;
    assert!(left >= 2 * stories, "only {left} nodes have left in {stories} stories");
}

/// Groups leave a node and come back many times in each of these.
#[cfg(feature = "fault-injection")]
#[test]
fn replicas_end_where_their_groups_have_left_and_begin_anew_where_they_come_back() {
    let plots: Vec<Plot> = seeds_or(0..6).flat_map(directed::moves).collect();
    let stories = plots.len() as u64;
    let ended = keep_every_promise(plots).ended;
    assert!(ended >= 10 * stories, "only {ended} replicas ended in {stories} stories");
}

/// Groups leave a node and come back, and nothing fails: no write waits for a node that does not
/// know yet that it may lead.
#[test]
fn nobody_is_offered_leadership_in_vain_where_nothing_fails() {
    let plot = |seed| Plot {
        nodes: 4,
        replication_factor: 3,
        faults: BTreeSet::from([Fault::Capacity]),
        faults_every: Duration::from_millis(700),
        lasts: Duration::from_secs(15),
        disasters: 0,
        ..Plot::of(seed)
    };
    let Ending { ended, in_vain, .. } = keep_every_promise((0..12).map(plot).collect());
    assert!(ended >= 12 * 10, "only {ended} replicas ended in 12 stories");
    // Messages are lost with a stream that ends, and with them an offer now and then.
    assert!(in_vain * 50 < ended, "{in_vain} in vain, and {ended} replicas ended");
}

#[test]
fn no_story_that_broke_a_promise_once_does_so_again() {
    let endings = on_all_cores(FOUND, |(plot, ..)| played(plot.parse().unwrap()));
    for ((plot, found, _), ending) in FOUND.iter().zip(endings) {
        assert!(
            ending.broken.is_empty(),
            "{plot}, which found that {found}: {}",
            ending.broken.join("\n")
        );
    }
}

#[test]
fn a_story_that_tells_what_a_plot_found_names_the_plot() {
    let stories = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/engine");
    for (plot, found, story) in FOUND {
        let Some(story) = story else { continue };
        let told = std::fs::read_to_string(stories.join(story)).unwrap_or_default();
        let seed = plot.split(' ').next().unwrap();
        let named = told.contains(&format!("{seed} of FOUND in tests/sim/main.rs"));
        assert!(named, "{story} does not say that it is {plot}, which found that {found}");
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_story_that_breaks_a_promise_is_made_short_and_told() {
    let scenario = &directed::SCENARIOS[0];
    let breaks = |plot: &Plot| !played(plot.clone()).broken.is_empty();
    mutation::plant(Some(scenario.mutation));
    let mut plots = (0..directed::SEEDS).map(|seed| {
        let mut plot = scenario.plot(seed);
        plot.faults.extend([Fault::Drift, Fault::Pause]);
        plot
    });
    let long = plots.find(breaks).expect("this mutation is found");
    let (plot, told) = explain(long.clone(), 40);
    let again = breaks(&plot.to_string().parse().unwrap());
    mutation::plant(None);
    assert!(again && told.contains("again: DEVICEDB_SIM_PLOT='seed="), "{told}");
    assert!(plot.faults.len() < long.faults.len(), "nothing was left out: {told}");
}

#[test]
fn a_seed_plays_the_same_story_again() {
    for seed in 0..3 {
        let [first, second] = [play(Plot::of(seed)), play(Plot::of(seed))];
        assert_eq!(
            (first.trace, first.operations),
            (second.trace, second.operations),
            "seed {seed}"
        );
    }
}

/// Each mutation breaks a promise in one of the plots of its scenario; they are played until one
/// does. Where `DEVICEDB_SIM_SEEDS` says which, all are, and counted: that is how the rates in
/// `directed.rs` are measured. `DEVICEDB_SIM_MUTATION=VoteLost` makes only that one.
#[cfg(feature = "fault-injection")]
#[test]
fn every_mutation_is_found() {
    let only = std::env::var("DEVICEDB_SIM_MUTATION").ok();
    let most = if std::env::var("DEVICEDB_SIM_SEEDS").is_ok() { usize::MAX } else { 1 };
    let seeds = seeds_or(0..directed::SEEDS);
    let wanted: Vec<_> = directed::SCENARIOS
        .into_iter()
        .filter(|s| only.as_ref().is_none_or(|name| *name == format!("{:?}", s.mutation)))
        .collect();
    let found = on_all_cores(&wanted, |scenario| {
        let began = busy();
        mutation::plant(Some(scenario.mutation));
        let broken = seeds.clone().filter_map(|seed| {
            let what = played(scenario.plot(seed)).broken.into_iter().next()?;
            Some((seed, what))
        });
        let found: Vec<_> = broken.take(most).collect();
        let first = found.first().map_or(String::new(), |(seed, what)| format!("{seed}: {what}"));
        println!(
            "{:?}: found by {} of the seeds {seeds:?} in {:.1} s of a processor; {first}",
            scenario.mutation,
            found.len(),
            (busy() - began).as_secs_f64()
        );
        found.len()
    });
    let missed: Vec<_> = wanted
        .iter()
        .zip(found)
        .filter(|(_, found)| *found == 0)
        .map(|(s, _)| s.mutation)
        .collect();
    assert!(missed.is_empty(), "not found in the seeds {seeds:?}: {missed:?}");
}
