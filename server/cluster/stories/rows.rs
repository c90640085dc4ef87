//! The rows that commands name are the state: after any commands, in any order.

use proptest::prelude::*;

use super::{command, founded};
use crate::cluster::{
    command::{Changed, Command, Outcome},
    state::{Rows, State},
};

fn a_command() -> impl Strategy<Value = Command> {
    let words = (0..38u32, 1..5u64, 0..3u64, 1..6u64).prop_map(|(what, n, s, x)| match what {
        0 | 1 => format!("announce {} node-{n}:{}", n + s, 8080 + x),
        2 => format!("add-site s{s}"),
        3 => format!("site-added s{s} {x}"),
        4 => format!("remove-site s{s}"),
        5 => format!("site-removed s{s} {x}"),
        6 => format!("add-relay r{n} s{s}"),
        7 => format!("move-relay r{n} s{s}"),
        8 => format!("remove-relay r{n}"),
        9 | 10 => format!("begin {n}"),
        11 => format!("seal {x}"),
        12 => format!("abort {x} late"),
        13 => format!("report {n} {x} completed 0,1,2,3,meta"),
        14 => format!("report {n} {x} missing away"),
        15 => format!("deleted {n} {x}"),
        16 => format!("deleted {n} {x} read-only file system"),
        17 => format!("forget {n}"),
        18 => format!("operate {x} drain {n}"),
        19 => format!("operate {x} capacity {n} {}", 50 * s),
        20 => format!("undrain {n}"),
        21 => format!("cancel operation {x}"),
        22 => format!("bind {n} name-{s}"),
        23 => format!("bind {n} name-{s} anew"),
        24 => format!("grant id-{n}* reader shop-{s}"),
        25 => format!("take id-{n}* reader shop-{s}"),
        26 => format!("token {n} name-{s} backup"),
        27 => format!("revoke {n}"),
        28 => format!("resume {n}"),
        29 => format!("schedule plan-{s} @hourly at {n}"),
        30 => format!("schedule plan-{s} @daily at {n} instead"),
        31 => format!("unschedule plan-{s}"),
        32 => format!("pause plan-{s} at {n}"),
        33 => format!("unpause plan-{s} at {x}"),
        34 => format!("run plan-{s} {n} at {x}"),
        35 => format!("decide plan-{s} from {n} to {x} missed 1 {n}"),
        36 => format!("ended plan-{s} {n}"),
        _ => format!("delete {n}"),
    });
    words.prop_map(|line| command(&line.split(' ').collect::<Vec<_>>()))
}

/// The rows as a store holds them, kept up with nothing but what `Applied` names.
pub struct Stored(pub Rows);

impl Stored {
    pub fn of(state: &State) -> Stored {
        Stored(Rows {
            settings: state.settings().clone(),
            nodes: state.nodes().values().cloned().collect(),
            sites: state.sites().sites().iter().map(|(s, how)| (s.clone(), *how)).collect(),
            relays: state
                .sites()
                .relays()
                .keys()
                .map(|r| state.sites().relay(r).unwrap())
                .collect(),
            assignments: state.assignments().iter().map(|(g, nodes)| (*g, nodes.clone())).collect(),
            snapshots: state.snapshots().values().cloned().collect(),
            removed: state.removed().values().cloned().collect(),
            operations: state.operations().values().cloned().collect(),
            grants: state.access().grants().iter().cloned().collect(),
            tokens: state.access().tokens().values().cloned().collect(),
            schedules: state.schedules().values().cloned().collect(),
        })
    }

    fn follow(&mut self, state: &State, changed: &Changed) {
        let rows = &mut self.0;
        match changed {
            Changed::Settings => rows.settings = state.settings().clone(),
            Changed::Node(id) => {
                replace(&mut rows.nodes, |n| n.id == *id, state.node(*id).cloned())
            }
            Changed::Removed(id) => {
                replace(&mut rows.removed, |r| r.id == *id, state.removed().get(id).cloned())
            }
            Changed::Operation(id) => {
                replace(&mut rows.operations, |o| o.id == *id, state.operations().get(id).cloned())
            }
            Changed::Grant(grant) => replace(
                &mut rows.grants,
                |g| g == grant,
                state.access().grants().get(grant).cloned(),
            ),
            Changed::Token(id) => {
                replace(&mut rows.tokens, |t| t.id == *id, state.access().tokens().get(id).cloned())
            }
            Changed::Schedule(id) => {
                replace(&mut rows.schedules, |s| s.id == *id, state.schedules().get(id).cloned())
            }
            Changed::Site(id) => replace(
                &mut rows.sites,
                |(s, _)| s == id,
                state.sites().site(id).map(|how| (id.clone(), how)),
            ),
            Changed::Relay(id) => {
                replace(&mut rows.relays, |r| r.id == *id, state.sites().relay(id))
            }
            Changed::Assignment(g) => replace(
                &mut rows.assignments,
                |(a, _)| a == g,
                state.assignments().get(g).map(|nodes| (*g, nodes.clone())),
            ),
            Changed::Snapshot(seq) => {
                replace(&mut rows.snapshots, |s| s.seq == *seq, state.snapshot(*seq).cloned())
            }
        }
    }
}

fn replace<T>(rows: &mut Vec<T>, is: impl Fn(&T) -> bool, by: Option<T>) {
    rows.retain(|row| !is(row));
    rows.extend(by);
}

proptest! {
    /// Whatever is asked in whatever order: the rows named are enough to come back after a restart,
    /// and a refusal names none.
    #[test]
    fn what_is_stored_is_what_is_known(commands in prop::collection::vec(a_command(), 1..60)) {
        let mut state = founded(1);
        let mut stored = Stored::of(&state);
        for command in &commands {
            let before = state.clone();
            let applied = state.apply(command);
            applied.changed.iter().for_each(|row| stored.follow(&state, row));
            prop_assert_eq!(&State::from_rows(stored.0.clone()).unwrap(), &state);
            let changed = applied.reply.as_ref().is_ok_and(Outcome::changed);
            prop_assert_eq!(changed, state != before, "{:?} answered {:?}", command, applied.reply);
            prop_assert_eq!(changed, !applied.changed.is_empty());
            prop_assert!(changed || applied.events.is_empty());
            prop_assert!(state.settings().begun.0 - state.settings().resolved.0 <= 1);
            prop_assert!(
                state.settings().begun >= before.settings().begun
                    && state.settings().resolved >= before.settings().resolved
            );
        }
    }

    /// A retried command finds its work done, whatever it was.
    #[test]
    fn the_same_command_again_changes_nothing(
        commands in prop::collection::vec(a_command(), 1..40),
    ) {
        let mut state = founded(2);
        for command in &commands {
            state.apply(command);
            let before = state.clone();
            state.apply(command);
            prop_assert_eq!(&state, &before, "{:?}", command);
        }
    }
}
