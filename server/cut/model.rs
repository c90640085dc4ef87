//! A small model of the cut under faults: groups with logs of their own, leaders that come and go,
//! nodes that restart, and a network that loses, doubles and reorders. `Fence`, `Open` and
//! `Barrier` are the real ones; Raft is only its outcome: what is committed stays, what is not may
//! be lost or kept.
//!
//! For every sealed snapshot the model checks the promise itself: nothing that a client had been
//! shown before some write of the snapshot was asked for is missing from it. Rules R3 to R6 of
//! `docs/cut.md` are then broken on purpose, and the model has to notice.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::base::clock::Random;

const NODES: usize = 3;
const GROUPS: usize = 4;
/// The meta group is the last of them.
const META: usize = GROUPS - 1;

/// Which rule is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Leaders keep nothing waiting: slower, but right.
    Queue,
    /// Entries behind a mark take effect whatever they have seen.
    FenceAndQueue,
    /// Entries carry the mark they see as what is open.
    SeenIsMark,
    /// The barrier opens when most groups are marked.
    Majority,
    /// A new leader starts without the mark.
    MarkForgotten,
    /// The deadline opens.
    DeadlineOpens,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Noop,
    Mark(SnapshotSeq),
    Write { invoked: u64, seen: SnapshotSeq },
    Begin(SnapshotSeq),
    Outcome(SnapshotSeq, bool),
}

#[derive(Default)]
struct Group {
    leader: usize,
    /// Committed and applied; users' writes with whether they took effect.
    log: Vec<(Entry, bool)>,
    /// Appended by the leader and not committed.
    tail: Vec<Entry>,
    fence: Fence,
    noop_applied: bool,
    cuts: BTreeMap<SnapshotSeq, usize>,
}

#[derive(Clone, Debug)]
enum Message {
    Ask(SnapshotSeq),
    Marked(SnapshotSeq, Vec<GroupId>),
    Release(SnapshotSeq),
}

struct Model {
    rng: Random,
    broken: Broken,
    step: u64,
    groups: Vec<Group>,
    /// What each node knows to be open, and how much of the meta log it has applied.
    nodes: Vec<(Open, usize)>,
    net: Vec<(usize, Message)>,
    barrier: Option<Barrier>,
    /// When, in which group and up to which entry somebody was shown something.
    shown: Vec<(u64, usize, usize)>,
    sealed: Vec<SnapshotSeq>,
}

fn id(group: usize) -> GroupId {
    if group == META { GroupId::META } else { GroupId(group as u32) }
}

impl Model {
    fn run(seed: u64, broken: Broken) -> Result<usize, String> {
        let groups = (0..GROUPS)
            .map(|g| Group { leader: g % NODES, noop_applied: true, ..Group::default() })
            .collect();
        let mut model = Model {
            rng: Random::seeded(seed),
            broken,
            step: 0,
            groups,
            nodes: vec![(Open::default(), 0); NODES],
            net: Vec::new(),
            barrier: None,
            shown: Vec::new(),
            sealed: Vec::new(),
        };
        for _ in 0..1500 {
            model.step();
        }
        model.check()?;
        Ok(model.sealed.len())
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }
    fn now(&self) -> Duration {
        Duration::from_millis(self.step * 10)
    }
    fn open(&self, node: usize) -> Open {
        self.nodes[node].0
    }

    fn step(&mut self) {
        self.step += 1;
        let group = self.below(GROUPS);
        match self.below(100) {
            0..25 => self.write(group),
            25..50 => self.commit(group),
            50..58 => self.shown.push((self.step, group, self.groups[group].log.len())),
            58..80 => self.deliver(),
            80..86 => self.tick(),
            86..93 => self.apply_meta(),
            93..96 => self.create(),
            96..98 => self.elect(group),
            98 => self.commit(META),
            _ => self.restart(),
        }
    }

    /// A user's write reaches its leader. One that has to wait is given up in this model.
    fn write(&mut self, group: usize) {
        let invoked = self.step;
        let open = self.open(self.groups[group].leader);
        let g = &mut self.groups[group];
        let queue =
            !matches!(self.broken, Broken::Queue | Broken::FenceAndQueue | Broken::SeenIsMark);
        if !queue || (g.noop_applied && !g.fence.holds_writes(open)) {
            let seen = if self.broken == Broken::SeenIsMark {
                open.get().max(g.fence.mark())
            } else {
                open.get()
            };
            g.tail.push(Entry::Write { invoked, seen });
        }
    }

    fn commit(&mut self, group: usize) {
        let step = self.step;
        let g = &mut self.groups[group];
        if g.tail.is_empty() {
            return;
        }
        let entry = g.tail.remove(0);
        let effective = match entry {
            Entry::Write { seen, .. } => {
                !g.fence.fenced(seen) || self.broken == Broken::FenceAndQueue
            }
            _ => false,
        };
        match entry {
            Entry::Noop => g.noop_applied = true,
            Entry::Mark(seq) if g.fence.apply_mark(seq) => {
                g.cuts.entry(seq).or_insert(g.log.len());
            }
            _ => {}
        }
        g.log.push((entry, effective));
        if effective {
            self.shown.push((step, group, self.groups[group].log.len()));
        }
        if group == META {
            self.lead_meta();
        }
    }

    /// Begun and resolved, as the meta log up to an entry says.
    fn meta(&self, until: usize) -> (SnapshotSeq, SnapshotSeq) {
        let (mut begun, mut resolved) = (NONE, NONE);
        for (entry, _) in &self.groups[META].log[..until] {
            match entry {
                Entry::Begin(seq) if begun == resolved => begun = *seq,
                Entry::Outcome(seq, _) if *seq == begun => resolved = *seq,
                _ => {}
            }
        }
        (begun, resolved)
    }

    /// The meta leader applies at once: it resumes what is open, and drops what is resolved.
    fn lead_meta(&mut self) {
        let (begun, resolved) = self.meta(self.groups[META].log.len());
        if begun == resolved || !self.groups[META].noop_applied {
            self.barrier = None;
        } else if self.barrier.as_ref().is_none_or(|b| b.seq() != begun) {
            let patience = Duration::from_millis(500 + self.rng.below(3000));
            self.barrier = Some(Barrier::new(begun, (0..GROUPS).map(id), self.now(), patience));
        }
        if let Some((Entry::Outcome(seq, true), _)) = self.groups[META].log.last() {
            let before = self.meta(self.groups[META].log.len() - 1);
            if before.0 == *seq && before.1 < *seq {
                self.sealed.push(*seq);
            }
        }
    }

    fn apply_meta(&mut self) {
        let node = self.below(NODES);
        let until = (self.nodes[node].1 + 1).min(self.groups[META].log.len());
        let (_, resolved) = self.meta(until);
        self.nodes[node].1 = until;
        self.nodes[node].0.resolved(resolved);
    }

    fn create(&mut self) {
        let (begun, resolved) = self.meta(self.groups[META].log.len());
        if begun == resolved && self.groups[META].noop_applied {
            self.groups[META].tail.push(Entry::Begin(SnapshotSeq(begun.0 + 1)));
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let Some(barrier) = &mut self.barrier else { return };
        let actions = barrier.tick(now);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        let Some(seq) = self.barrier.as_ref().map(Barrier::seq) else { return };
        let all = |message: Message| (0..NODES).map(move |n| (n, message.clone()));
        for action in actions {
            match action {
                Action::AskMarks => self.net.extend(all(Message::Ask(seq))),
                Action::Release => self.net.extend(all(Message::Release(seq))),
                Action::ProposeSeal => self.groups[META].tail.push(Entry::Outcome(seq, true)),
                Action::ProposeAbort(why) => {
                    assert!(why.contains("could not be marked"), "{why}");
                    if self.broken == Broken::DeadlineOpens {
                        self.net.extend(all(Message::Release(seq)));
                        self.groups[META].tail.push(Entry::Outcome(seq, true));
                    }
                    self.groups[META].tail.push(Entry::Outcome(seq, false));
                }
            }
        }
    }

    /// Any of the messages on their way, in any order. Some are lost, some come again.
    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        let at = self.below(self.net.len());
        let (to, message) = self.net[at].clone();
        let fate = self.below(10);
        if fate > 0 {
            self.net.swap_remove(at);
        }
        if fate > 1 {
            self.receive(to, message);
        }
    }

    fn receive(&mut self, node: usize, message: Message) {
        match message {
            Message::Release(seq) => {
                self.nodes[node].0.released(seq);
            }
            Message::Marked(seq, groups) if self.groups[META].leader == node => {
                self.marked(seq, &groups)
            }
            Message::Marked(..) => {}
            Message::Ask(seq) => {
                let mut marked = Vec::new();
                for (n, group) in
                    self.groups.iter_mut().enumerate().filter(|(_, g)| g.leader == node)
                {
                    if group.fence.may_propose_mark(seq, group.noop_applied) {
                        group.fence.proposed(seq);
                        group.tail.push(Entry::Mark(seq));
                    } else if group.fence.is_marked(seq) {
                        marked.push(id(n));
                    }
                }
                self.net.push((self.groups[META].leader, Message::Marked(seq, marked)));
            }
        }
    }

    fn marked(&mut self, seq: SnapshotSeq, groups: &[GroupId]) {
        let now = self.now();
        let Some(barrier) = &mut self.barrier else { return };
        let mut actions = barrier.marked(seq, groups, now);
        if self.broken == Broken::Majority && barrier.unmarked().len() < GROUPS / 2 {
            let rest: Vec<GroupId> = barrier.unmarked().iter().copied().collect();
            actions.extend(barrier.marked(seq, &rest, now));
        }
        self.act(actions);
    }

    /// Somebody else leads. Of what was not committed the new leader may have the first part.
    fn elect(&mut self, group: usize) {
        let (leader, kept) = (self.below(NODES), self.below(self.groups[group].tail.len() + 1));
        let g = &mut self.groups[group];
        g.leader = leader;
        g.tail.truncate(kept);
        g.tail.push(Entry::Noop);
        g.noop_applied = false;
        g.fence.leadership_lost();
        if self.broken == Broken::MarkForgotten {
            g.fence = Fence::stored(NONE);
        }
        if group == META {
            self.barrier = None;
        }
    }

    /// What a node knew to be open is gone; it learns it again from its meta log.
    fn restart(&mut self) {
        let node = self.below(NODES);
        self.nodes[node] = (Open::default(), 0);
        for group in 0..GROUPS {
            if self.groups[group].leader == node {
                self.elect(group);
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        for seq in &self.sealed {
            let mut last_invoked = 0;
            for (n, group) in self.groups.iter().enumerate() {
                let Some(cut) = group.cuts.get(seq) else {
                    return Err(format!("{seq} is sealed without a mark in group {}", id(n)));
                };
                let inside = group.log[..*cut].iter().filter(|(_, effective)| *effective);
                let invoked = inside.filter_map(|(e, _)| {
                    if let Entry::Write { invoked, .. } = e { Some(*invoked) } else { None }
                });
                last_invoked = last_invoked.max(invoked.max().unwrap_or(0));
            }
            for (when, group, until) in &self.shown {
                let behind =
                    &self.groups[*group].log[..*until][self.groups[*group].cuts[seq].min(*until)..];
                if *when < last_invoked && behind.iter().any(|(_, effective)| *effective) {
                    return Err(format!(
                        "{seq} lacks what group {} showed at {when}, but holds a write that began \
                         at {last_invoked}",
                        id(*group)
                    ));
                }
            }
        }
        Ok(())
    }
}

const SEEDS: u64 = 400;

fn play(broken: Broken) -> Result<usize, String> {
    (0..SEEDS)
        .map(|seed| Model::run(seed, broken).map_err(|e| format!("{broken:?}, seed {seed}: {e}")))
        .sum()
}

#[test]
fn a_sealed_snapshot_is_one_instant_whatever_is_lost_doubled_or_late() {
    for broken in [Broken::Nothing, Broken::Queue] {
        let sealed = play(broken).unwrap();
        assert!(
            sealed > SEEDS as usize,
            "only {sealed} snapshots were sealed, so little was tried"
        );
    }
}

#[test]
fn the_model_notices_every_rule_that_is_broken() {
    for broken in [
        Broken::FenceAndQueue,
        Broken::SeenIsMark,
        Broken::Majority,
        Broken::MarkForgotten,
        Broken::DeadlineOpens,
    ] {
        assert!(play(broken).is_err(), "{broken:?} went unnoticed");
    }
}
