//! What stories say of schedules.

use super::{number, snapshot_id};
use crate::{
    base::ids::ScheduleId,
    cluster::{
        command::Command,
        schedule::{Decision, Definition, Ended, Run, Task},
        state::State,
    },
};

fn id(name: &str) -> ScheduleId {
    ScheduleId::new(name).unwrap()
}

fn definition(cron: &str) -> Definition {
    let task = Task::Backup { keep: None };
    Definition { cron: cron.parse().unwrap(), task, start_deadline_ms: None }
}

fn run(snapshot: &str, planned_ms: u64, by_hand: bool) -> Run {
    let snapshot = snapshot_id(number(snapshot));
    Run { snapshot, planned_ms, began_ms: planned_ms + 1, by_hand }
}

pub fn command(words: &[&str]) -> Option<Command> {
    let put = |name, cron, at, replace| {
        let (definition, at_ms) = (definition(cron), number(at));
        Command::PutSchedule { id: id(name), definition, at_ms, replace }
    };
    Some(match words[..] {
        ["schedule", name, cron, "at", at] => put(name, cron, at, false),
        ["schedule", name, cron, "at", at, "instead"] => put(name, cron, at, true),
        ["verify", name, cron, extent, "at", at] => {
            let task = Task::Verify(extent.parse().unwrap());
            let definition = Definition { task, ..definition(cron) };
            Command::PutSchedule { id: id(name), definition, at_ms: number(at), replace: true }
        }
        ["unschedule", name] => Command::DeleteSchedule(id(name)),
        ["pause", name, "at", at] => {
            Command::PauseSchedule { id: id(name), paused: true, at_ms: number(at) }
        }
        ["unpause", name, "at", at] => {
            Command::PauseSchedule { id: id(name), paused: false, at_ms: number(at) }
        }
        ["run", name, snapshot, "at", at] => {
            Command::RunSchedule { id: id(name), run: run(snapshot, number(at), true) }
        }
        ["decide", name, "from", seen, "to", decided, "missed", missed, ref snapshot @ ..] => {
            Command::DecideRun(Decision {
                id: id(name),
                seen_ms: number(seen),
                decided_ms: number(decided),
                missed: number(missed),
                skipped: 0,
                note: String::new(),
                run: snapshot.first().map(|snapshot| run(snapshot, number(decided), false)),
            })
        }
        ["ended", name, snapshot, ref why @ ..] => Command::EndRun {
            id: id(name),
            snapshot: snapshot_id(number(snapshot)),
            ended_ms: 9,
            reason: why.join(" "),
        },
        _ => return None,
    })
}

pub fn told(state: &State) -> String {
    let ended = |what: &str, ended: &Option<Ended>| {
        ended.as_ref().map_or(String::new(), |ended| {
            let Ended { run, ended_ms, reason } = ended;
            let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            format!(", {what} {} of {} at {ended_ms}{because}", run.snapshot, run.planned_ms)
        })
    };
    let one = |s: &crate::cluster::schedule::Schedule| {
        let paused = if s.paused { ", paused" } else { "" };
        let runs = s.running.map_or(String::new(), |run| format!(", {} runs", run.snapshot));
        let shelved: Vec<String> = s.shelved.iter().map(|id| id.to_string()).collect();
        format!(
            "  {} is {} since {}, decided to {}{paused}{runs}{}{}, {} missed, {} failures, on \
             shelves: [{}]\n",
            s.id,
            s.definition.cron,
            s.created_ms,
            s.decided_ms,
            ended("stored", &s.stored),
            ended("failed", &s.failed),
            s.missed,
            s.failures,
            shelved.join(" ")
        )
    };
    let idle: Vec<String> = state.idle_snapshots().iter().map(|id| id.to_string()).collect();
    let all: String = state.schedules().values().map(one).collect();
    if idle.is_empty() { all } else { format!("{all}  can go: {}\n", idle.join(" ")) }
}
