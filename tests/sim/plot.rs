//! What may happen in a story: drawn from its seed, and made smaller when the story breaks a
//! promise.
//!
//! Each seed switches kinds of faults on and off (swarm testing: Groce and others, 2012), since
//! faults hide each other: a story in which everything fails at once never gets anywhere. A broken
//! story is shortened as in delta debugging (Zeller and Hildebrandt, 2002): less is tried, and kept
//! while it still breaks.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use devicedb::{base::clock::Random, engine::Bounds};

/// What may happen in a story. As text it is its seed and what differs from that seed's plot:
/// `seed=7 nodes=3 lasts=4000 faults=Crash,Cut without=0,3`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    pub seed: u64,
    pub nodes: usize,
    pub replication_factor: u32,
    pub clients: usize,
    pub think: Duration,
    /// Virtual time with faults.
    pub lasts: Duration,
    pub bounds: Bounds,
    pub faults: BTreeSet<Fault>,
    pub faults_every: Duration,
    pub snapshots_every: Duration,
    /// How often the whole cluster is lost and restored.
    pub disasters: u64,
    /// Where it is restored to.
    pub moves: Moves,
    /// It is restored from the same snapshot again, where that still lies. Only in directed
    /// scenarios.
    pub same_snapshot: bool,
    /// Faults that do not happen after all, by their number.
    pub without: BTreeSet<u64>,
}

/// Where restored nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// Where they were.
    Stay,
    /// Where nobody was, each told of another one.
    Away,
    /// Where others of them were, and told nothing.
    About,
}

impl Moves {
    const ALL: [Moves; 3] = [Moves::Stay, Moves::Away, Moves::About];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Crash,
    CrashAll,
    CrashBetweenWrites,
    Pause,
    Cut,
    Isolate,
    Loss,
    Doubled,
    Late,
    SlowDisk,
    FullDisk,
    SlowStore,
    Drift,
    FalseAlarm,
    Checkpoint,
    /// A bit of a log rots while its node is down: once in a story, that or the next, and where
    /// every group can do without a voter.
    Rot,
    /// Bits in pages of a store rot, whether its node runs or is down.
    StoreRot,
    /// A node comes back at another address; now and then it is told of another one.
    Move,
    /// From now on another node hears late that its groups are to be marked, by up to twice the
    /// deadline: snapshots stay open, some groups marked and others not, while everything else goes
    /// on. Only in directed scenarios.
    LateMarks,
    /// Power goes everywhere as soon as a node has voted for another one, before that one can say
    /// that it leads. Only in directed scenarios.
    CrashAtVote,
    /// A disk is lost for good, where every group can do without it. A new machine joins in its
    /// place, and an operator removes the lost node. Only in directed scenarios.
    DiskLost,
    /// An operator changes a node's share of the groups: it gives all away, or takes its share
    /// again. Only in directed scenarios.
    Capacity,
    /// The same, whenever all groups are where they should be; and what a member had acknowledged
    /// comes again when it has left and come back. Only in directed scenarios.
    Comeback,
    /// Groups leave a node while another one hears of no entry. Then these two are alone. Only in
    /// directed scenarios.
    Laggard,
    /// A node is decommissioned, and an empty machine joins when it has left. Only in directed
    /// scenarios.
    Departure,
    /// A disk is lost, and a new machine joins before the lost node is removed. When it has taken
    /// the places of that one, the next disk is lost. Only in directed scenarios.
    SecondLoss,
}

/// What `Plot::of` draws by itself, behind everything else, or not at all.
const DRAWN_LATER: [Fault; 11] = [
    Fault::Rot,
    Fault::StoreRot,
    Fault::Move,
    Fault::LateMarks,
    Fault::CrashAtVote,
    Fault::DiskLost,
    Fault::Capacity,
    Fault::Comeback,
    Fault::Laggard,
    Fault::Departure,
    Fault::SecondLoss,
];

impl Fault {
    pub const ALL: [Fault; 26] = [
        Fault::Crash,
        Fault::CrashAll,
        Fault::CrashBetweenWrites,
        Fault::Pause,
        Fault::Cut,
        Fault::Isolate,
        Fault::Loss,
        Fault::Doubled,
        Fault::Late,
        Fault::SlowDisk,
        Fault::FullDisk,
        Fault::SlowStore,
        Fault::Drift,
        Fault::FalseAlarm,
        Fault::Checkpoint,
        Fault::Rot,
        Fault::StoreRot,
        Fault::Move,
        Fault::LateMarks,
        Fault::CrashAtVote,
        Fault::DiskLost,
        Fault::Capacity,
        Fault::Comeback,
        Fault::Laggard,
        Fault::Departure,
        Fault::SecondLoss,
    ];
}

impl Plot {
    pub fn of(seed: u64) -> Plot {
        let mut rng = Random::seeded(seed ^ 0x5EED);
        let nodes = [1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5, 7][rng.below(16) as usize];
        let faults = Fault::ALL
            .into_iter()
            .filter(|fault| !DRAWN_LATER.contains(fault) && rng.below(3) == 0)
            .collect();
        let mut plot = Plot {
            seed,
            nodes,
            replication_factor: [1, 3, 3, 3][rng.below(4) as usize],
            clients: 2 + rng.below(8) as usize,
            think: Duration::from_millis([1, 5, 20, 50][rng.below(4) as usize]),
            lasts: Duration::from_secs(10 + rng.below(20)),
            bounds: Bounds {
                overlay_checkpoint_bytes: [1 << 10, 16 << 10, 16 << 20][rng.below(3) as usize],
                overlay_bytes_max: [16 << 10, 128 << 20][rng.below(2) as usize],
                log_entries_kept: [0, 10, 100, 10_000][rng.below(4) as usize],
                cut_deadline: Duration::from_millis([300, 1000, 10_000][rng.below(3) as usize]),
            },
            faults,
            faults_every: Duration::from_millis([200, 500, 1000, 3000][rng.below(4) as usize]),
            snapshots_every: Duration::from_millis(
                [500, 1500, 4000, 20_000][rng.below(4) as usize],
            ),
            disasters: [0, 0, 0, 1, 1, 2][rng.below(6) as usize],
            moves: Moves::Stay,
            same_snapshot: false,
            without: BTreeSet::new(),
        };
        // What came later is drawn last, so that a seed's plot stays what it was but for that.
        plot.faults.extend((rng.below(3) == 0).then_some(Fault::Rot));
        plot.faults.extend((rng.below(3) == 0).then_some(Fault::StoreRot));
        plot.moves = [Moves::Stay, Moves::Away, Moves::Away, Moves::About][rng.below(4) as usize];
        plot.faults.extend((rng.below(3) == 0).then_some(Fault::Move));
        plot
    }
}

impl fmt::Display for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = Plot::of(self.seed);
        write!(f, "seed={}", self.seed)?;
        for ((name, value), (_, usual)) in self.words().into_iter().zip(whole.words()) {
            if value != usual {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Plot {
    type Err = String;

    fn from_str(text: &str) -> Result<Plot, String> {
        let words = text
            .split_whitespace()
            .map(|word| word.split_once('=').ok_or_else(|| format!("{word:?} is not name=value")));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        let [("seed", seed), rest @ ..] = words.as_slice() else {
            return Err("a plot begins with seed=NUMBER".into());
        };
        let mut plot = Plot::of(number(seed)?);
        for (name, value) in rest {
            plot.set(name, value)?;
        }
        Ok(plot)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn listed<T>(text: &str, read: impl FnMut(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').filter(|word| !word.is_empty()).map(read).collect()
}

impl Plot {
    /// All of it but the seed, as words. Times are in milliseconds, sizes in bytes.
    fn words(&self) -> Vec<(&'static str, String)> {
        let ms = |time: Duration| time.as_millis().to_string();
        let faults: Vec<String> = self.faults.iter().map(|fault| format!("{fault:?}")).collect();
        let without: Vec<String> = self.without.iter().map(u64::to_string).collect();
        vec![
            ("nodes", self.nodes.to_string()),
            ("replicas", self.replication_factor.to_string()),
            ("think", ms(self.think)),
            ("every", ms(self.faults_every)),
            ("checkpoint", self.bounds.overlay_checkpoint_bytes.to_string()),
            ("overlay", self.bounds.overlay_bytes_max.to_string()),
            ("kept", self.bounds.log_entries_kept.to_string()),
            ("cut", ms(self.bounds.cut_deadline)),
            ("clients", self.clients.to_string()),
            ("lasts", ms(self.lasts)),
            ("snapshots", ms(self.snapshots_every)),
            ("disasters", self.disasters.to_string()),
            ("moves", format!("{:?}", self.moves)),
            ("same", self.same_snapshot.to_string()),
            ("faults", faults.join(",")),
            ("without", without.join(",")),
        ]
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let fault = |name: &str| {
            Fault::ALL
                .into_iter()
                .find(|f| format!("{f:?}") == name)
                .ok_or_else(|| format!("{name:?} is not a kind of fault"))
        };
        match name {
            "nodes" => self.nodes = number(value)?.max(1) as usize,
            "replicas" => self.replication_factor = number(value)?.max(1) as u32,
            "think" => self.think = Duration::from_millis(number(value)?),
            "every" => self.faults_every = Duration::from_millis(number(value)?.max(1)),
            "checkpoint" => self.bounds.overlay_checkpoint_bytes = number(value)? as usize,
            "overlay" => self.bounds.overlay_bytes_max = number(value)? as usize,
            "kept" => self.bounds.log_entries_kept = number(value)?,
            "cut" => self.bounds.cut_deadline = Duration::from_millis(number(value)?),
            "clients" => self.clients = number(value)? as usize,
            "lasts" => self.lasts = Duration::from_millis(number(value)?),
            "snapshots" => self.snapshots_every = Duration::from_millis(number(value)?.max(1)),
            "disasters" => self.disasters = number(value)?,
            "moves" => {
                self.moves = Moves::ALL
                    .into_iter()
                    .find(|m| format!("{m:?}") == value)
                    .ok_or_else(|| format!("{value:?} is no way to move"))?
            }
            "same" => {
                self.same_snapshot =
                    value.parse().map_err(|_| format!("{value:?} is neither true nor false"))?
            }
            "faults" => self.faults = listed(value, fault)?.into_iter().collect(),
            "without" => self.without = listed(value, number)?.into_iter().collect(),
            _ => return Err(format!("a plot has no {name:?}")),
        }
        Ok(())
    }

    /// Smaller plots, those that leave most out first. `faults` is how many happened.
    fn smaller(&self, faults: u64) -> Vec<Plot> {
        let mut smaller = Vec::new();
        let mut with = |change: &dyn Fn(&mut Plot)| {
            let mut plot = self.clone();
            change(&mut plot);
            if plot != *self {
                smaller.push(plot);
            }
        };
        with(&|plot| plot.disasters = 0);
        with(&|plot| plot.disasters = plot.disasters.min(1));
        with(&|plot| plot.moves = Moves::Stay);
        with(&|plot| plot.same_snapshot = false);
        with(&|plot| plot.snapshots_every = plot.snapshots_every.max(NO_SNAPSHOTS));
        [1, 2, 3, 4].into_iter().for_each(|nodes| with(&|plot| plot.nodes = plot.nodes.min(nodes)));
        [2, 4]
            .into_iter()
            .for_each(|part| with(&|plot| plot.lasts = plot.lasts - plot.lasts / part));
        [2, 4].into_iter().for_each(|part| with(&|plot| plot.clients -= plot.clients / part));
        for kind in &self.faults {
            with(&|plot| plot.faults.retain(|other| other != kind));
        }
        let left: Vec<u64> = (0..faults).filter(|number| !self.without.contains(number)).collect();
        let mut size = left.len().div_ceil(2);
        while size > 0 {
            left.chunks(size).for_each(|some| with(&|plot| plot.without.extend(some)));
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        smaller
    }

    /// Makes a plot smaller as long as it still breaks a promise, in at most so many attempts.
    /// `faults` plays a plot and says how many faults happened, or nothing if no promise was
    /// broken.
    pub fn shrink(self, attempts: u32, mut faults: impl FnMut(&Plot) -> Option<u64>) -> Plot {
        let (mut plot, mut left) = (self, attempts);
        let Some(mut happened) = faults(&plot) else { return plot };
        'again: loop {
            for smaller in plot.smaller(happened) {
                if left == 0 {
                    return plot;
                }
                left -= 1;
                if let Some(count) = faults(&smaller) {
                    (plot, happened) = (smaller, count);
                    continue 'again;
                }
            }
            return plot;
        }
    }
}

const NO_SNAPSHOTS: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_read_back_from_its_text() {
        for seed in 0..50 {
            let plot = Plot::of(seed);
            assert_eq!(plot.to_string(), format!("seed={seed}"));
            for smaller in plot.smaller(5) {
                assert_eq!(smaller.to_string().parse(), Ok(smaller));
            }
        }
        for wrong in
            ["", "nodes=3", "seed=x", "seed=1 nodes", "seed=1 faults=Flood", "seed=1 weather=fine"]
        {
            wrong.parse::<Plot>().unwrap_err();
        }
    }

    #[test]
    fn what_is_not_needed_to_break_a_promise_is_left_out() {
        // A story that breaks where its 8th fault happens, on at least two nodes, with pauses.
        let plot = Plot { nodes: 5, faults: Fault::ALL.into(), disasters: 2, ..Plot::of(1) };
        let breaks = |plot: &Plot| {
            (plot.nodes >= 2 && plot.faults.contains(&Fault::Pause) && !plot.without.contains(&7))
                .then_some(20)
        };
        let shrunk = plot.shrink(1000, breaks);
        assert_eq!(shrunk.faults, [Fault::Pause].into());
        assert_eq!((shrunk.nodes, shrunk.disasters), (2, 0));
        assert_eq!(shrunk.without, (0..20).filter(|number| *number != 7).collect());
    }
}
