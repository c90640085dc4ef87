//! Scenarios that bring mutations about, so that each is found by intent and not by luck.
//!
//! A scenario is a family of plots: what makes its situation come about is fixed, and the rest
//! follows from the seed. `found` says in how many seeds a promise was broken while the mutation
//! was made. The gate plays at most `SEEDS` of them, so many that by this rate the probability that
//! all of them miss is below `MISSED_MAX`.
//!
//! Whoever changes what a scenario relies on, as when something takes another time, measures again:
//! `make mutations`. Without a mutation no promise may break in any of these families.

use std::collections::BTreeSet;

use devicedb::faults::mutation::Mutation;

use crate::plot::Plot;

/// So many seeds of each scenario are played.
pub const SEEDS: u64 = 40;
/// And so many of each family without a mutation.
const SOUND_SEEDS: u64 = 8;
/// How probable it may be that all `SEEDS` miss a mutation.
const MISSED_MAX: f64 = 1e-6;

pub struct Scenario {
    pub mutation: Mutation,
    /// A plot's words, all but the seed.
    pub family: &'static str,
    /// In how many seeds a promise was broken, of how many, from 0 on.
    pub found: (u32, u32),
    /// How it brings the mutation about.
    pub how: &'static str,
}

impl Scenario {
    pub fn plot(&self, seed: u64) -> Plot {
        plot(self.family, seed)
    }
}

fn plot(family: &str, seed: u64) -> Plot {
    format!("seed={seed} {family}").parse().expect("a family is written like a plot")
}

/// One in which lost nodes are removed and replaced.
pub fn repairs(seed: u64) -> Plot {
    plot(REPAIRS, seed)
}

/// Two in which groups leave nodes and come back.
pub fn moves(seed: u64) -> [Plot; 2] {
    [plot(MOVES, seed), plot(MOVES_AND_CRASHES, seed)]
}

/// One in which nodes leave and others come.
pub fn departures(seed: u64) -> Plot {
    plot(DEPARTURES, seed)
}

/// The plots that the gate plays of all families.
pub fn plots() -> Vec<Plot> {
    let families: BTreeSet<&str> = SCENARIOS.iter().map(|s| s.family).collect();
    families
        .into_iter()
        .flat_map(|family| (0..SOUND_SEEDS).map(move |seed| plot(family, seed)))
        .collect()
}

/// All nodes lose power again and again, soon after their last checkpoint.
const POWER: &str = "nodes=3 replicas=3 clients=6 think=10 every=700 checkpoint=1024 \
                     overlay=134217728 kept=0 lasts=8000 snapshots=20000 disasters=0 \
                     faults=CrashAll,Checkpoint";
/// Power goes everywhere when somebody has voted and nobody leads yet.
const VOTES: &str = "nodes=3 replicas=3 clients=6 think=20 every=500 lasts=10000 snapshots=20000 \
                     disasters=0 faults=Crash,CrashAtVote";
/// A leader is cut off, and the others notice at once and elect another one.
const CUT_OFF: &str = "nodes=3 replicas=3 clients=40 think=40 every=1200 kept=10000 lasts=25000 \
                       snapshots=20000 disasters=0 faults=Isolate";
/// The same, again and again.
const CUT_OFF_SHORTLY: &str = "nodes=3 replicas=3 clients=40 think=5 every=400 kept=10000 \
                               lasts=8000 snapshots=20000 disasters=0 faults=Isolate";
/// Messages come twice, or seconds late.
const ECHOES: &str = "nodes=3 replicas=3 clients=9 think=1 every=500 lasts=10000 snapshots=20000 \
                      disasters=0 faults=Doubled,Late";
/// Bits rot in a log whose rows are not in the store.
const LOG_ROT: &str = "nodes=3 replicas=3 clients=12 think=20 every=2000 checkpoint=16777216 \
                       overlay=134217728 kept=10000 lasts=20000 snapshots=20000 disasters=0 \
                       faults=Rot";
/// Bits rot in a store that holds nearly all rows.
const STORE_ROT: &str = "nodes=3 replicas=3 clients=9 think=10 every=1500 checkpoint=1024 \
                         overlay=134217728 kept=0 lasts=10000 snapshots=20000 disasters=0 \
                         faults=StoreRot";
/// Nothing fails.
const CALM: &str = "nodes=3 replicas=3 clients=9 think=1 lasts=3000 snapshots=20000 disasters=0 \
                    faults=";
/// Snapshots follow each other, and one is restored.
const SNAPSHOTS: &str = "nodes=3 replicas=3 clients=6 think=20 lasts=10000 snapshots=500 \
                         disasters=1 faults= moves=Stay";
/// Nodes fall behind logs that are cut off at once.
const BEHIND: &str = "nodes=3 replicas=3 clients=6 think=1 every=700 checkpoint=1024 \
                      overlay=134217728 kept=0 lasts=6000 snapshots=20000 disasters=0 \
                      faults=Crash,Pause";
/// The cluster is lost and restored several times, if it can be from the same snapshot.
const RESTORES: &str = "nodes=3 replicas=3 clients=9 think=10 lasts=4000 snapshots=600 \
                        disasters=3 faults= moves=Stay same=true";
/// Snapshots stay open, some groups marked and others not, and are sealed after all.
const HALF_MARKED: &str = "nodes=3 replicas=3 clients=9 think=10 every=700 checkpoint=16777216 \
                           overlay=134217728 cut=1000 lasts=5000 snapshots=500 disasters=0 \
                           faults=LateMarks";
/// The same, past the deadline.
const OVERDUE: &str = "nodes=3 replicas=3 clients=9 think=10 every=700 checkpoint=16777216 \
                       overlay=134217728 cut=300 lasts=6000 snapshots=500 disasters=0 \
                       faults=LateMarks";
/// The same, while nodes checkpoint all the time, and slowly.
const SLOW_CAPTURE: &str = "nodes=3 replicas=3 clients=9 think=5 every=700 checkpoint=1024 \
                            overlay=134217728 cut=1000 lasts=6000 snapshots=500 disasters=0 \
                            faults=LateMarks,SlowStore";
/// The same, while nodes restart and lead again.
const LEADERS_CHANGE: &str = "nodes=3 replicas=3 clients=9 think=20 every=500 checkpoint=1024 \
                              overlay=134217728 kept=0 cut=10000 lasts=25000 snapshots=500 \
                              disasters=0 faults=LateMarks,Crash,Pause,Isolate";

/// Disks are lost one after the other, beside crashes, while snapshots are taken.
const REPAIRS: &str = "nodes=4 replicas=3 clients=6 think=20 every=700 lasts=20000 snapshots=1500 \
                       disasters=0 faults=DiskLost,Crash";

/// Groups leave nodes and come back again and again, while messages come twice or seconds late.
const MOVES: &str = "nodes=4 replicas=2 clients=6 think=20 every=300 checkpoint=1024 \
                     overlay=134217728 kept=10 lasts=20000 snapshots=3000 disasters=0 \
                     faults=Capacity,Doubled,Late";
/// Groups leave a node and come back, and what it had acknowledged before comes again.
const COMEBACKS: &str = "nodes=3 replicas=2 clients=4 think=50 every=500 kept=10000 lasts=60000 \
                         snapshots=200000 disasters=0 faults=Comeback";
/// Groups leave a node while another one hears of no entry; then these two are alone.
const LAGGARDS: &str = "nodes=4 replicas=3 clients=4 think=50 every=1000 kept=10000 lasts=60000 \
                        snapshots=200000 disasters=0 faults=Laggard";
/// Groups leave nodes and come back, beside crashes.
const MOVES_AND_CRASHES: &str = "nodes=4 replicas=3 clients=6 think=20 every=300 kept=100 \
                                 lasts=20000 snapshots=1500 disasters=0 \
                                 faults=Capacity,Crash,Pause,Isolate";

/// Nodes leave one after the other, and empty ones join, beside crashes and snapshots.
const DEPARTURES: &str = "nodes=4 replicas=2 clients=6 think=20 every=700 checkpoint=1024 \
                          kept=100 lasts=30000 snapshots=3000 disasters=0 \
                          faults=Departure,Crash,Late,Isolate";
/// Nodes leave that have the only copy of what they hold.
const ONLY_COPIES: &str = "nodes=3 replicas=1 clients=6 think=20 every=1000 lasts=20000 \
                           snapshots=20000 disasters=0 faults=Departure";

/// A node is lost and not removed, another one joins, and one more is lost.
const TWO_LOSSES: &str = "nodes=4 replicas=3 clients=6 think=20 every=1000 lasts=40000 \
                          snapshots=20000 disasters=0 faults=SecondLoss";

const fn scenario(
    mutation: Mutation,
    family: &'static str,
    found: (u32, u32),
    how: &'static str,
) -> Scenario {
    Scenario { mutation, family, found, how }
}

pub const SCENARIOS: [Scenario; 32] = [
    scenario(
        Mutation::AckBeforeSync,
        POWER,
        (75, 100),
        "power goes everywhere at once, and takes what was acknowledged and not synced",
    ),
    scenario(
        Mutation::LeaseForEver,
        CUT_OFF,
        (19, 20),
        "the leader that was cut off still answers reads while its successor takes writes",
    ),
    scenario(
        Mutation::VotesAtOnce,
        CUT_OFF_SHORTLY,
        (65, 100),
        "the successor is elected and takes writes before the lease of the one cut off is over",
    ),
    scenario(
        Mutation::ReadsUnasked,
        CUT_OFF,
        (19, 20),
        "the leader that was cut off still answers reads while its successor takes writes",
    ),
    scenario(
        Mutation::VoteLost,
        VOTES,
        (98, 100),
        "nodes vote, lose power, and are asked for the same term again",
    ),
    scenario(
        Mutation::ExtentForgotten,
        LOG_ROT,
        (66, 100),
        "a log that ends at a rotten bit is taken for whole, and what lay behind it is denied",
    ),
    scenario(
        Mutation::PagesUnchecked,
        STORE_ROT,
        (19, 20),
        "the store's cache is small, so that rotten pages are read and served",
    ),
    scenario(
        Mutation::TruncatedEarly,
        POWER,
        (20, 20),
        "power goes when the log has been cut off and rows are only in memory",
    ),
    scenario(
        Mutation::RetriedTwice,
        ECHOES,
        (11, 12),
        "a forwarded write comes a second time, after others have written the same key",
    ),
    scenario(
        Mutation::RequestsNotStored,
        POWER,
        (12, 12),
        "nodes restart from a checkpoint that should hold requests, and retries come",
    ),
    scenario(
        Mutation::BatchInPart,
        CALM,
        (12, 12),
        "clients write pairs in batches and read them back",
    ),
    scenario(
        Mutation::NotAnswered,
        CALM,
        (12, 12),
        "clients ask more than fifty times, and wait at the end until all are answered",
    ),
    scenario(
        Mutation::TombstoneDropped,
        CALM,
        (11, 12),
        "older values come after deletions, and contexts are stale",
    ),
    scenario(
        Mutation::LineageWithoutNonce,
        RESTORES,
        (19, 20),
        "the same snapshot is restored twice, and both histories speak under one name",
    ),
    scenario(
        Mutation::HistoriesMixed,
        RESTORES,
        (19, 20),
        "a node of another history, or restored once more, finds the others and is let in",
    ),
    scenario(
        Mutation::StaleReuse,
        SNAPSHOTS,
        (12, 12),
        "snapshots follow each other while rows change, and one is restored and compared",
    ),
    scenario(
        Mutation::RowsNotInstalled,
        BEHIND,
        (12, 12),
        "nodes come back behind the beginning of the log and need rows",
    ),
    scenario(
        Mutation::NoHold,
        HALF_MARKED,
        (12, 12),
        "clients write behind a mark, then before the mark of a group that hears of it later",
    ),
    scenario(
        Mutation::SeenFromMark,
        HALF_MARKED,
        (12, 12),
        "clients write behind a mark, then before the mark of a group that hears of it later",
    ),
    scenario(
        Mutation::ReleasedByMajority,
        HALF_MARKED,
        (13, 20),
        "one node's groups are marked seconds after the others were released",
    ),
    scenario(
        Mutation::SealedByTime,
        OVERDUE,
        (15, 20),
        "one node's groups are marked after the deadline, when the others were released",
    ),
    scenario(
        Mutation::MarkNotStored,
        LEADERS_CHANGE,
        (14, 20),
        "a node restarts behind a mark that is in its store alone, and leads before the release",
    ),
    scenario(
        Mutation::CapturedLate,
        SLOW_CAPTURE,
        (34, 60),
        "a node's groups are marked one after the other, and the first ones take writes again",
    ),
    scenario(
        Mutation::CapturedTwice,
        HALF_MARKED,
        (10, 12),
        "marks are asked for on every tick while one node is late",
    ),
    scenario(
        Mutation::MarkNotSent,
        LEADERS_CHANGE,
        (33, 100),
        "a node gets rows behind a mark, and leads before the release",
    ),
    scenario(
        Mutation::OpenedByTime,
        OVERDUE,
        (15, 20),
        "groups are released at the deadline, and one node's are marked after it",
    ),
    scenario(
        Mutation::RemovedKeepsItsPlace,
        REPAIRS,
        (10, 20),
        "a node whose disk is lost is removed",
    ),
    scenario(
        Mutation::EndedVotes,
        LAGGARDS,
        (19, 20),
        "a node that hears of no entry is alone with one whose replica has ended, and stands",
    ),
    scenario(
        Mutation::TenureIgnored,
        COMEBACKS,
        (19, 20),
        "what a member had acknowledged comes when it has left and come back",
    ),
    scenario(
        Mutation::DepartsEarly,
        ONLY_COPIES,
        (19, 20),
        "a node that is to leave has the only copies",
    ),
    scenario(
        Mutation::CountsTheDead,
        TWO_LOSSES,
        (40, 40),
        "a node joins in the place of one that is lost and not removed, and another is lost",
    ),
    scenario(
        Mutation::FinishedEarly,
        REPAIRS,
        (14, 40),
        "a node whose disk is lost is removed, and its operation ends",
    ),
];

mod tests {
    use super::*;

    #[test]
    fn every_mutation_has_a_scenario_that_hardly_ever_misses_it() {
        assert_eq!(SCENARIOS.map(|scenario| scenario.mutation), Mutation::ALL);
        for Scenario { mutation, found, how, .. } in SCENARIOS {
            let (found, played) = found;
            let missed = (1.0 - f64::from(found) / f64::from(played)).powi(SEEDS as i32);
            assert!(missed < MISSED_MAX, "{mutation:?}, where {how}: {found} of {played}");
        }
    }
}
