//! What happens to the cluster: which kinds of faults a seed switches on, when each strikes whom,
//! and when it is mended.
//!
//! The seed decides kinds, victims and times. What the processes make of it is the machine's own,
//! so that a seed that has found something finds it again only perhaps. Faults overlap; a node
//! suffers one of its own at a time, a way between nodes too.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::Duration,
};

use devicedb::base::clock::Random;
use tokio::{sync::Notify, time::sleep};

use crate::{
    links::Way,
    stage::{NODES, Stage},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// kill -9, and later a start.
    Kill,
    /// All at once.
    KillAll,
    /// SIGSTOP, and later SIGCONT.
    Pause,
    CutOneWay,
    CutBothWays,
    /// Every link of a node, both ways.
    Isolate,
    /// Delay, and at times little bandwidth.
    Slow,
    /// Connections end, and may be made again at once.
    Reset,
    FullDisk,
    /// kill -9, and a start with other clocks.
    ClockJump,
    /// One more node; it may be killed meanwhile.
    Join,
    /// kill -9, and a start at another address.
    Move,
    /// The same with all at once.
    MoveAll,
    /// kill -9, and the disk is gone: the operator removes the node, and starts an empty one
    /// elsewhere.
    LoseDisk,
    /// A node leaves in an orderly way, and an empty one comes in its place.
    Leave,
}

use Kind::*;

const KINDS: [Kind; 15] = [
    Kill,
    KillAll,
    Pause,
    CutOneWay,
    CutBothWays,
    Isolate,
    Slow,
    Reset,
    FullDisk,
    ClockJump,
    Join,
    Move,
    MoveAll,
    LoseDisk,
    Leave,
];
/// Those that may strike while a snapshot is taken, besides their usual turns.
const AT_SNAPSHOTS: [Kind; 5] = [Kill, Pause, CutOneWay, Isolate, Slow];
/// From one fault to the next.
const CALM_MS: u64 = 3500;
/// From one look of an operator at a repair to the next.
const AGAIN: Duration = Duration::from_millis(700);
/// When all is well again, a repair is soon done.
const HEALED: Duration = Duration::from_secs(60);
/// A look at the nodes, whatever else there is to do.
const LOOK: Duration = Duration::from_millis(100);
/// What a node says when its disk is full.
const FULL: &str = "No space left on device";

/// What happened, for people.
#[derive(Clone, Default)]
pub struct Timeline(Arc<Mutex<Vec<String>>>);

impl Timeline {
    pub fn note(&self, at: Duration, what: String) {
        self.0
            .lock()
            .expect("notes do not panic")
            .push(format!("{:9.3} s  {what}", at.as_secs_f64()));
    }

    pub fn told(&self) -> String {
        self.0.lock().expect("notes do not panic").join("\n")
    }
}

#[derive(Debug)]
enum Mend {
    /// With clocks shifted by so many seconds.
    Start(usize, u64),
    Resume(usize),
    Heal(Vec<Way>),
    MakeRoom(usize),
    /// The victim of a kill that is to come.
    KillJoiner(usize),
    /// The lost node with this id is not a member any more.
    Remove(String),
    /// The node gives away what it holds and ends by itself, and then another one comes.
    Leaves(usize),
    /// All that the cluster should hold it holds again.
    BeWhole,
}

impl Mend {
    /// What an operator does, and may have to do again.
    fn is_a_repair(&self) -> bool {
        matches!(self, Mend::Remove(_) | Mend::Leaves(_) | Mend::BeWhole)
    }
}

pub struct Saboteur {
    rng: Random,
    pub kinds: Vec<Kind>,
    /// Kinds that have not struck yet; they come first.
    fresh: Vec<Kind>,
    open: Vec<(Duration, Mend)>,
    /// Nodes that were short of room since they were last started.
    squeezed: BTreeSet<usize>,
    pub struck: BTreeMap<Kind, u32>,
    pub at_snapshots: u32,
    /// Nodes that ended because their disk was full.
    pub ended_full: u32,
    pub timeline: Timeline,
    pub broken: Vec<String>,
}

impl Saboteur {
    /// Most kinds are switched on, and as many as there is time for; or those that are named.
    pub fn new(
        mut rng: Random,
        stage: &Stage,
        span: Duration,
        only: Option<&[String]>,
    ) -> Saboteur {
        let mut possible = KINDS.to_vec();
        match &stage.machines {
            Err(why) => {
                eprintln!(
                    "no full disks and no clocks that jump, because namespaces are not permitted \
                     here: {why}"
                );
                possible.retain(|kind| ![FullDisk, ClockJump].contains(kind));
            }
            Ok(machines) if !machines.clocks => {
                eprintln!(
                    "no clocks that jump, because this kernel or its unshare does not shift the \
                     clocks of a process"
                );
                possible.retain(|kind| *kind != ClockJump);
            }
            Ok(_) => {}
        }
        for at in (1..possible.len()).rev() {
            possible.swap(at, rng.below(at as u64 + 1) as usize);
        }
        let most = possible.len() as u64;
        let count = (most / 2 + rng.below(most / 2 + 2)).min(span.as_secs() / 8) as usize;
        match only {
            Some(only) => possible.retain(|kind| only.contains(&format!("{kind:?}"))),
            None => possible.truncate(count.max(1)),
        }
        assert!(!possible.is_empty(), "none of these faults is known and possible here: {only:?}");
        // A node leaves only where enough others are left.
        if possible.contains(&Leave) && !possible.contains(&Join) {
            possible.push(Join);
        }
        let (kinds, fresh) = (possible.clone(), possible);
        let open = Vec::new();
        let timeline = Timeline::default();
        Saboteur {
            rng,
            kinds,
            fresh,
            open,
            squeezed: BTreeSet::new(),
            struck: BTreeMap::new(),
            at_snapshots: 0,
            ended_full: 0,
            timeline,
            broken: Vec::new(),
        }
    }

    /// Strikes for so long, and then mends everything.
    pub async fn work(&mut self, stage: &mut Stage, span: Duration, began: &Notify) {
        let end = stage.now() + span;
        let mut next = stage.now() + self.time(CALM_MS);
        // Those that have not struck yet find their victims in the end: no fault lasts, and no
        // other kind begins before them.
        while stage.now() < end || !self.fresh.is_empty() {
            self.mend(stage, stage.now()).await;
            self.look_after(stage).await;
            if stage.now() >= next {
                let any = self.kinds[self.rng.below(self.kinds.len() as u64) as usize];
                let turn = if self.fresh.is_empty() { vec![any] } else { self.fresh.clone() };
                turn.into_iter().any(|kind| self.strike(kind, stage));
                next = stage.now() + self.time(CALM_MS);
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = began.notified() => {
                    let kind = AT_SNAPSHOTS[self.rng.below(AT_SNAPSHOTS.len() as u64) as usize];
                    let strikes = self.rng.below(2) == 0 && self.kinds.contains(&kind);
                    if strikes && self.strike(kind, stage) {
                        self.at_snapshots += 1;
                    }
                }
            }
        }
        self.note(stage, "everything is mended".into());
        self.mend(stage, Duration::MAX).await;
        self.look_after(stage).await;
        // One that was short of room may be about to end still. It is asked to, so that nobody
        // waits for it in vain.
        for number in self.squeezed.clone() {
            let status = stage.cluster.nodes[number].terminate().await;
            if !status.success() {
                self.note_end(stage, number, status);
            }
            stage.start(number, 0);
        }
    }

    fn time(&mut self, most_ms: u64) -> Duration {
        Duration::from_millis(most_ms / 20 + self.rng.below(most_ms))
    }

    fn note(&self, stage: &Stage, what: String) {
        self.timeline.note(stage.now(), what);
    }

    /// Whether there was a victim.
    fn strike(&mut self, kind: Kind, stage: &mut Stage) -> bool {
        let Some((told, mends)) = self.struck_by(kind, stage) else { return false };
        let now = stage.now();
        self.timeline.note(now, format!("{kind:?}: {told}"));
        self.open.extend(mends.into_iter().map(|(after, mend)| (now + after, mend)));
        *self.struck.entry(kind).or_default() += 1;
        self.fresh.retain(|fresh| *fresh != kind);
        true
    }

    fn struck_by(
        &mut self,
        kind: Kind,
        stage: &mut Stage,
    ) -> Option<(String, Vec<(Duration, Mend)>)> {
        let one = |told: String, after: Duration, mend: Mend| Some((told, vec![(after, mend)]));
        match kind {
            Kill | ClockJump => {
                let node = self.victim(stage)?;
                stage.cluster.nodes[node].kill9();
                let shift = if kind == ClockJump { stage.another_shift(&mut self.rng) } else { 0 };
                one(format!("node{node}"), self.time(4000), Mend::Start(node, shift))
            }
            Move => {
                if stage.somebody_joins() {
                    return None;
                }
                let node = self.victim(stage)?;
                stage.cluster.nodes[node].kill9();
                // Others may be down and move before they are up again: who moves last knows where
                // all of them are.
                let others = stage.others(node);
                stage.move_away(node, &others);
                one(format!("node{node}"), self.time(2000), Mend::Start(node, 0))
            }
            KillAll | MoveAll => {
                if !self.suffering().is_empty() {
                    return None;
                }
                stage.cluster.kill9_all();
                if kind == MoveAll {
                    stage.move_all();
                }
                let mends = (0..stage.cluster.nodes.len())
                    .map(|node| (self.time(1500), Mend::Start(node, 0)));
                Some(("every node".into(), mends.collect()))
            }
            Pause => {
                let node = self.victim(stage)?;
                stage.cluster.nodes[node].signal_to_pause();
                one(format!("node{node}"), self.time(8000), Mend::Resume(node))
            }
            FullDisk => {
                let node = self.victim(stage)?;
                stage.machines.as_ref().ok()?.fill(node);
                self.squeezed.insert(node);
                one(
                    format!("node{node}"),
                    Duration::from_secs(6) + self.time(4000),
                    Mend::MakeRoom(node),
                )
            }
            LoseDisk => {
                // A second disk that is lost before all is held again as often as it should be
                // takes what was acknowledged with it, and nobody promises otherwise.
                if self.is_repaired() {
                    return None;
                }
                let node = self.victim(stage)?;
                stage.cluster.nodes[node].kill9();
                let lost = stage.lose_disk(node);
                let started = (self.time(3000), Mend::Start(node, 0));
                let removed = (self.time(3000), lost.map_or(Mend::BeWhole, Mend::Remove));
                let mends = vec![started, removed];
                Some((format!("node{node}"), mends))
            }
            Leave => {
                if self.is_repaired() || stage.cluster.nodes.len() < NODES {
                    return None;
                }
                let node = self.victim(stage)?;
                one(format!("node{node}"), Duration::ZERO, Mend::Leaves(node))
            }
            Join => {
                if !stage.may_add() {
                    return None;
                }
                let node = stage.add();
                let kill =
                    (self.rng.below(2) == 0).then(|| (self.time(1500), Mend::KillJoiner(node)));
                Some((format!("node{node}"), kill.into_iter().collect()))
            }
            Reset => {
                let way = self.way(stage, |_| true)?;
                stage.links.reset(way);
                Some((format!("{way:?}"), Vec::new()))
            }
            CutOneWay | CutBothWays | Isolate | Slow => {
                let (from, to) = self.way(stage, |way| stage.links.is_fine(way))?;
                let ways: Vec<Way> = match kind {
                    CutOneWay => vec![(from, to)],
                    CutBothWays => vec![(from, to), (to, from)],
                    _ => stage.links.ways().filter(|way| [way.0, way.1].contains(&from)).collect(),
                };
                // A way has one kind of weather at a time.
                let ways: Vec<Way> =
                    ways.into_iter().filter(|way| stage.links.is_fine(*way)).collect();
                let (delay, rate) = (self.time(200), (self.rng.below(3) == 0).then_some(64 << 10));
                for way in &ways {
                    if kind == Slow {
                        stage.links.slow(*way, delay, rate)
                    } else {
                        stage.links.cut(*way)
                    }
                }
                let told = if kind == Slow {
                    format!("{ways:?} by {delay:?}, {rate:?} bytes a second")
                } else {
                    format!("{ways:?}")
                };
                one(told, self.time(8000), Mend::Heal(ways))
            }
        }
    }

    /// Nodes that something is wrong with.
    fn suffering(&self) -> BTreeSet<usize> {
        let nodes = self.open.iter().filter_map(|(_, mend)| match mend {
            Mend::Start(node, _)
            | Mend::Resume(node)
            | Mend::MakeRoom(node)
            | Mend::KillJoiner(node)
            | Mend::Leaves(node) => Some(*node),
            Mend::Heal(_) | Mend::Remove(_) | Mend::BeWhole => None,
        });
        nodes.collect()
    }

    /// Whether a node is lost or leaves, and the cluster does not hold again all that it should.
    fn is_repaired(&self) -> bool {
        self.open.iter().any(|(_, mend)| mend.is_a_repair())
    }

    /// A node that runs and is well; rarely so if another is not, since then there may be no
    /// majority.
    fn victim(&mut self, stage: &Stage) -> Option<usize> {
        let suffering = self.suffering();
        if !suffering.is_empty() && self.rng.below(4) > 0 {
            return None;
        }
        let well: Vec<usize> =
            (0..stage.cluster.nodes.len()).filter(|node| !suffering.contains(node)).collect();
        (!well.is_empty()).then(|| well[self.rng.below(well.len() as u64) as usize])
    }

    fn way(&mut self, stage: &Stage, fits: impl Fn(Way) -> bool) -> Option<Way> {
        let started = stage.cluster.nodes.len().min(NODES);
        let ways: Vec<Way> = stage
            .links
            .ways()
            .filter(|way| way.0 < started && way.1 < started && fits(*way))
            .collect();
        (!ways.is_empty()).then(|| ways[self.rng.below(ways.len() as u64) as usize])
    }

    /// Mends what is due.
    async fn mend(&mut self, stage: &mut Stage, by: Duration) {
        let (due, open) = std::mem::take(&mut self.open).into_iter().partition(|(at, _)| *at <= by);
        self.open = open;
        // Repairs come last: what else is mended lets them succeed.
        let (repairs, due): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(_, mend)| mend.is_a_repair());
        for (_, mend) in due {
            self.note(stage, format!("mended: {mend:?}"));
            match mend {
                Mend::Start(node, shift) => {
                    self.squeezed.remove(&node);
                    stage.start(node, shift);
                }
                Mend::Resume(node) => stage.cluster.nodes[node].resume(),
                Mend::Heal(ways) => {
                    // What was held is let go of, or lost with its connection.
                    let lost = self.rng.below(2) == 0;
                    for way in ways {
                        if lost {
                            stage.links.reset(way);
                        }
                        stage.links.heal(way);
                    }
                }
                Mend::MakeRoom(node) => {
                    if let Ok(machines) = &stage.machines {
                        machines.make_room(node);
                    }
                }
                Mend::KillJoiner(node) => {
                    stage.cluster.nodes[node].kill9();
                    let back = (stage.now() + self.time(1500), Mend::Start(node, 0));
                    if by == Duration::MAX { stage.start(node, 0) } else { self.open.push(back) }
                }
                Mend::Remove(_) | Mend::Leaves(_) | Mend::BeWhole => {}
            }
        }
        let patience = if by == Duration::MAX { HEALED } else { Duration::ZERO };
        for (_, mend) in repairs {
            self.repair(stage, mend, patience).await;
        }
    }

    /// What an operator does, who looks from time to time how far it is. Faults go on meanwhile,
    /// unless there is patience.
    async fn repair(&mut self, stage: &mut Stage, mend: Mend, patience: Duration) {
        let until = stage.now() + patience;
        let next = loop {
            let next = match &mend {
                Mend::Remove(id) => match stage.remove(id).await {
                    Ok(()) => Some(Mend::BeWhole),
                    Err(why) if stage.now() >= until => {
                        self.note(stage, format!("node {id} is not removed yet: {why}"));
                        None
                    }
                    Err(_) => None,
                },
                Mend::Leaves(node) => self.has_left(stage, *node).await.then_some(Mend::BeWhole),
                _ => stage.is_whole().await.then_some(Mend::BeWhole),
            };
            if next.is_some() || stage.now() >= until {
                break next;
            }
            sleep(LOOK).await;
        };
        match (mend, next) {
            (Mend::BeWhole, Some(_)) => self.note(stage, "all is held again".into()),
            (_, Some(next)) => self.open.push((stage.now(), next)),
            (mend, None) if patience.is_zero() => self.open.push((stage.now() + AGAIN, mend)),
            (mend, None) => self.broken.push(format!("all is well, and not mended: {mend:?}")),
        }
    }

    /// Whether a node that shall leave has done so; an empty one is started in its place then.
    async fn has_left(&mut self, stage: &mut Stage, node: usize) -> bool {
        if stage.cluster.nodes[node].is_running()
            && stage.cluster.nodes[node].ended_by_itself().is_none()
        {
            stage.decommission(node).await;
            return false;
        }
        let status = stage.cluster.nodes[node].wait_ended().await;
        if !status.success() {
            self.note_end(stage, node, status);
            stage.start(node, 0);
            return false;
        }
        self.note(stage, format!("node{node} has left"));
        stage.lose_disk(node);
        stage.start(node, 0);
        true
    }

    /// A node ends by itself only when its disk is full; then it says so, and starts again when
    /// there is room.
    async fn look_after(&mut self, stage: &mut Stage) {
        for number in 0..stage.cluster.nodes.len() {
            let node = &mut stage.cluster.nodes[number];
            let mut mends = self.open.iter().map(|(_, mend)| mend);
            let leaves = mends.any(|mend| matches!(mend, Mend::Leaves(node) if *node == number));
            if leaves || !node.is_running() || node.ended_by_itself().is_none() {
                continue;
            }
            let status = node.wait_ended().await;
            self.note_end(stage, number, status);
            let room = self
                .open
                .iter_mut()
                .find(|(_, mend)| matches!(mend, Mend::MakeRoom(node) if *node == number));
            match room {
                // It would end again until there is room; the start comes behind it.
                Some((at, _)) => {
                    let at = *at;
                    self.open.push((at, Mend::Start(number, 0)));
                }
                None => stage.start(number, 0),
            }
        }
    }

    fn note_end(&mut self, stage: &Stage, number: usize, status: ExitStatus) {
        let log = stage.cluster.nodes[number].log();
        let last = log.lines().last().unwrap_or_default();
        self.note(stage, format!("node{number} has ended: {status}: {last}"));
        if self.squeezed.remove(&number) && status.code() == Some(1) && last.contains(FULL) {
            self.ended_full += 1;
        } else {
            self.broken.push(format!("node{number} ended by itself: {status}: {last}"));
        }
    }

    pub fn enabled(&self) -> String {
        self.kinds.iter().map(|kind| format!("{kind:?}")).collect::<Vec<_>>().join(", ")
    }
}
