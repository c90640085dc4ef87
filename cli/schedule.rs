//! `ddbctl schedule` and `ddbctl backup`: snapshots that the cluster takes and stores by itself,
//! verifications that it carries out, and how they stand.
//!
//! What is wrong is said in words, and in the same words to people and to scripts.

use std::time::Duration;

use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::{BackupStatus as BackupArgs, Schedule as Args},
    care::Told,
    client::{Call, Client},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        table::{Prose, Table, Text},
        text,
    },
};
use crate::{
    base::limits,
    proto::v1::{self, schedule_service_client::ScheduleServiceClient},
};

/// A schedule as it is shown.
#[derive(Debug, Serialize)]
struct Schedule {
    name: String,
    cron: String,
    keep: String,
    /// How much its runs verify; absent where they take snapshots.
    #[serde(skip_serializing_if = "String::is_empty")]
    verify: String,
    start_deadline_ms: u64,
    paused: bool,
    created_ms: u64,
    next_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<Run>,
    missed: u64,
    skipped: u64,
    failures: u32,
    /// How long ago the last snapshot that is stored was taken; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_s: Option<u64>,
    /// What is wrong, in words; empty where nothing is.
    problem: String,
}

#[derive(Debug, Serialize)]
struct Run {
    uuid: String,
    planned_ms: u64,
    began_ms: u64,
    ended_ms: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    by_hand: bool,
}

#[derive(Debug, Serialize)]
struct Schedules {
    schedules: Vec<Schedule>,
}

/// All that somebody wants to know in the morning.
#[derive(Debug, Serialize)]
struct Status {
    repositories: Vec<String>,
    #[serde(flatten)]
    care: Told,
    schedules: Vec<Schedule>,
}

/// A schedule that is no more.
#[derive(Debug, Serialize)]
struct Deleted {
    name: String,
}

impl View for Deleted {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

fn service(channel: Channel) -> ScheduleServiceClient<Channel> {
    ScheduleServiceClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES_MAX)
}

pub async fn run(command: Args, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    match command {
        Args::Create { name, cron, keep, verify, start_deadline, replace } => {
            let call = Call::new(format!("create schedule {name:?}"));
            let start_deadline_ms = start_deadline.map_or(0, |span| span.0.as_millis() as u64);
            let verify = verify.map_or(String::new(), |extent| extent.to_string());
            let request =
                v1::PutScheduleRequest { name, cron, keep, start_deadline_ms, replace, verify };
            let answer = client
                .call(&call, request, |channel, request| async move {
                    service(channel).put_schedule(request).await
                })
                .await?;
            let changed = answer.body.changed || answer.repeated;
            let shown = Schedule::new(answer.body.schedule, client.wall_ms());
            let how = if changed { "is there" } else { "was there before, and is the same" };
            let next = time(shown.next_ms);
            console.confirm(&format!("schedule {:?} {how}; it is due next at {next}", shown.name));
            console.print(&shown)
        }
        Args::List => {
            let schedules = all(client).await?.schedules;
            console.print(&Schedules { schedules })
        }
        Args::Get { name } => {
            let shown = get(&name, client).await?;
            console.print(&shown)
        }
        Args::Pause { name } => {
            let call = Call::new(format!("pause schedule {name:?}"));
            let answer = client
                .call(&call, v1::PauseScheduleRequest { name }, |channel, request| async move {
                    service(channel).pause_schedule(request).await
                })
                .await?;
            let shown = Schedule::new(answer.body.schedule, client.wall_ms());
            console.confirm(&format!("schedule {:?} is paused", shown.name));
            console.print(&shown)
        }
        Args::Resume { name } => {
            let call = Call::new(format!("resume schedule {name:?}"));
            let answer = client
                .call(&call, v1::ResumeScheduleRequest { name }, |channel, request| async move {
                    service(channel).resume_schedule(request).await
                })
                .await?;
            let shown = Schedule::new(answer.body.schedule, client.wall_ms());
            let next = time(shown.next_ms);
            console
                .confirm(&format!("schedule {:?} goes on; it is due next at {next}", shown.name));
            console.print(&shown)
        }
        Args::Run { name, wait, wait_timeout } => {
            let most = wait.then_some(wait_timeout.0);
            begin(name, most, client, console).await
        }
        Args::Delete { name } => {
            let call = Call {
                what: format!("delete schedule {name:?}"),
                again: "repeat it; it says when there is no such schedule any more".into(),
            };
            let request = v1::DeleteScheduleRequest { name: name.clone() };
            client
                .remove(&call, request, |channel, request| async move {
                    service(channel).delete_schedule(request).await
                })
                .await?;
            console.confirm(&format!("schedule {name:?} is deleted; its snapshots stay"));
            console.print(&Deleted { name })
        }
    }
}

pub async fn backup(
    command: BackupArgs,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let BackupArgs::Status = command;
    let status = all(client).await?;
    console.print(&status)
}

/// All schedules, and where their snapshots go. A cluster keeps so few that one page holds them.
async fn all(client: &mut Client) -> Result<Status, Failure> {
    let call = Call::new("list the schedules");
    let request = v1::ListSchedulesRequest::default();
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).list_schedules(request).await
        })
        .await?;
    let now_ms = client.wall_ms();
    let care = Told::new(&answer.body, now_ms);
    let v1::ListSchedulesResponse { schedules, repositories, .. } = answer.body;
    let schedules = schedules.into_iter().map(|one| Schedule::new(Some(one), now_ms)).collect();
    Ok(Status { repositories, care, schedules })
}

async fn get(name: &str, client: &mut Client) -> Result<Schedule, Failure> {
    let call = Call::new(format!("look at schedule {name:?}"));
    let request = v1::GetScheduleRequest { name: name.to_owned() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).get_schedule(request).await
        })
        .await?;
    Ok(Schedule::new(answer.body.schedule, client.wall_ms()))
}

/// Begins a run, and waits for its end if that is wanted.
async fn begin(
    name: String,
    most: Option<Duration>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let call = Call::new(format!("run schedule {name:?}"));
    let request = v1::RunScheduleRequest { name: name.clone() };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).run_schedule(request).await
        })
        .await?;
    let began = answer.body.began || answer.repeated;
    let shown = Schedule::new(answer.body.schedule, client.wall_ms());
    // It may be over already.
    let Some(run) = shown.running.as_ref().or(shown.last()) else { return console.print(&shown) };
    let uuid = run.uuid.clone();
    let how = if began { "has begun" } else { "was under way already" };
    let what = match shown.verify.is_empty() {
        true => format!("snapshot {uuid}"),
        false => format!("verification {uuid}"),
    };
    console.say(&format!("the run of {what} {how}"));
    let Some(most) = most else { return console.print(&shown) };
    console.on_interrupt(format!(
        "the run goes on; look with ddbctl schedule get {}",
        text::shell_word(&name)
    ));
    client.be_patient();
    let until = client.now() + most;
    let mut pause = limits::CTL_LOOK_MIN;
    loop {
        let shown = get(&name, client).await?;
        let is = |run: &&Run| run.uuid == uuid;
        if shown.stored.as_ref().is_some_and(|run| is(&run)) {
            console.confirm(&match shown.verify.is_empty() {
                true => format!("{what} is in the repository"),
                false => "the repository was verified, and nothing is wrong".to_owned(),
            });
            return console.print(&shown);
        }
        let failed = shown.failed.as_ref().filter(is).map(|run| run.reason.clone());
        let is_over = !shown.running.as_ref().is_some_and(|run| is(&run));
        if failed.is_some() || is_over {
            let reason = failed.unwrap_or_else(|| "nobody remembers how it ended".into());
            return Err(Failure::new(
                exit::FAILED,
                format!("the run of schedule {name:?} failed: {}", text::line(&reason)),
                what,
                format!(
                    "remove the cause, and say ddbctl schedule run {}",
                    text::shell_word(&name)
                ),
            ));
        }
        if client.now() + pause > until {
            return Err(Failure::new(
                exit::UNREACHABLE,
                format!("the run of schedule {name:?} is not over yet"),
                "when --wait-timeout was over",
                format!("it goes on; look with ddbctl schedule get {}", text::shell_word(&name)),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 6 / 5).min(limits::CTL_LOOK_MAX);
    }
}

impl Run {
    fn new(run: v1::ScheduledRun) -> Run {
        let v1::ScheduledRun { uuid, planned_ms, began_ms, ended_ms, reason, by_hand } = run;
        Run { uuid, planned_ms, began_ms, ended_ms, reason, by_hand }
    }
}

impl Schedule {
    fn new(schedule: Option<v1::Schedule>, now_ms: u64) -> Schedule {
        let schedule = schedule.unwrap_or_default();
        let problem = problem(&schedule, now_ms);
        let age_ms = schedule.stored.as_ref().map(|run| now_ms.saturating_sub(run.began_ms));
        Schedule {
            name: schedule.name,
            cron: schedule.cron,
            keep: schedule.keep,
            verify: schedule.verify,
            start_deadline_ms: schedule.start_deadline_ms,
            paused: schedule.paused,
            created_ms: schedule.created_ms,
            next_ms: schedule.next_ms,
            running: schedule.running.map(Run::new),
            stored: schedule.stored.map(Run::new),
            failed: schedule.failed.map(Run::new),
            missed: schedule.missed,
            skipped: schedule.skipped,
            failures: schedule.failures,
            age_s: age_ms.map(|ms| ms / 1000),
            problem,
        }
    }

    /// The run that ended last.
    fn last(&self) -> Option<&Run> {
        [&self.stored, &self.failed].into_iter().flatten().max_by_key(|run| run.ended_ms)
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("schedule", text::line(&self.name)), ("due", self.cron.clone())];
        // A verification has no snapshot to look for.
        let of = |run: &Run| match self.verify.is_empty() {
            true => format!(" (snapshot {})", run.uuid),
            false => String::new(),
        };
        if !self.verify.is_empty() {
            lines.push(("verifies", text::line(&self.verify)));
        }
        let good = match (&self.stored, self.age_s) {
            (Some(run), Some(age)) => {
                format!("{}, {} ago{}", text::when(run.began_ms), text::span(age), of(run))
            }
            _ => "never".to_owned(),
        };
        lines.push(("last good", good));
        if let Some(run) = &self.running {
            lines.push(("under way", format!("since {}{}", text::when(run.began_ms), of(run))));
        }
        if let Some(run) = &self.failed {
            let reason = text::line(&run.reason);
            lines.push(("last failure", format!("{}: {reason}", text::when(run.ended_ms))));
        }
        let next = if self.paused { "nothing: it is paused".into() } else { time(self.next_ms) };
        lines.push(("next", next));
        if !self.problem.is_empty() {
            lines.push(("wrong", text::line(&self.problem)));
        }
        lines
    }
}

/// What is wrong with a schedule, the worst first.
fn problem(schedule: &v1::Schedule, now_ms: u64) -> String {
    let mut told = Vec::new();
    let reason = schedule.failed.as_ref().map_or("", |run| &run.reason);
    match schedule.failures {
        0 => {}
        1 => told.push(format!("the last run failed: {reason}")),
        n => told.push(format!("the last {n} runs failed, the last one because: {reason}")),
    }
    let late_ms = now_ms.saturating_sub(schedule.next_ms);
    if schedule.next_ms > 0 && late_ms > limits::CTL_SCHEDULE_LATE.as_millis() as u64 {
        told.push(format!(
            "it has been due for {}, and no node has begun it: see ddbctl cluster health, and the \
             clocks of the nodes and of this machine",
            text::span(late_ms / 1000)
        ));
    }
    if !schedule.note.is_empty() {
        told.push(schedule.note.clone());
    }
    if schedule.paused {
        told.push("it is paused".into());
    }
    told.join("; ")
}

fn time(ms: u64) -> String {
    if ms == 0 { "-".into() } else { text::when(ms) }
}

fn told(lines: &[(&str, String)]) -> String {
    lines.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}

impl View for Schedule {
    fn text(&self, _: Look) -> String {
        let mut lines = self.lines();
        if self.verify.is_empty() {
            let keep = if self.keep.is_empty() { "everything" } else { &self.keep };
            lines.push(("keep", keep.to_owned()));
        }
        if self.start_deadline_ms > 0 {
            lines.push(("start deadline", text::span(self.start_deadline_ms / 1000)));
        }
        lines.push(("missed", self.missed.to_string()));
        lines.push(("skipped", self.skipped.to_string()));
        told(&lines)
    }
}

impl View for Schedules {
    fn text(&self, look: Look) -> String {
        let rows = self.schedules.iter().map(|s| {
            [
                s.name.clone(),
                s.cron.clone(),
                s.stored.as_ref().map_or("never".into(), |run| text::when(run.began_ms)),
                look.age(s.stored.as_ref().map_or(0, |run| run.began_ms)),
                if s.paused { "paused".into() } else { time(s.next_ms) },
                s.problem.clone(),
            ]
        });
        let heads = [
            Text("NAME"),
            Text("DUE"),
            Text("LAST GOOD"),
            Text("AGE"),
            Text("NEXT"),
            Prose("WHAT IS WRONG"),
        ];
        Table::new(heads, rows).render(look.columns)
    }
}

impl View for Status {
    fn text(&self, _: Look) -> String {
        let place = match &self.repositories[..] {
            [] => "none: start the nodes with --repository PLACE".to_owned(),
            [one] => one.clone(),
            several => {
                format!("{}: start all nodes with the same --repository", several.join(" and "))
            }
        };
        let mut first = vec![("repository", text::line(&place))];
        first.extend(self.care.lines());
        let mut blocks = vec![told(&first)];
        if self.schedules.is_empty() {
            let none = "none: make one with ddbctl schedule create".to_owned();
            blocks.push(told(&[("schedules", none)]));
        }
        blocks.extend(self.schedules.iter().map(|schedule| told(&schedule.lines())));
        blocks.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    const NOW: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn run(hours_ago: u64, reason: &str) -> Option<v1::ScheduledRun> {
        let planned_ms = NOW - hours_ago * HOUR;
        Some(v1::ScheduledRun {
            uuid: format!("00000000-0000-8000-8000-{hours_ago:012}"),
            planned_ms,
            began_ms: planned_ms + 300,
            ended_ms: planned_ms + 90_000,
            reason: reason.into(),
            by_hand: false,
        })
    }

    fn schedules() -> Vec<Schedule> {
        let well = v1::Schedule {
            name: "hourly".into(),
            cron: "0 * * * *".into(),
            keep: "last=24,daily=30".into(),
            created_ms: NOW - 99 * HOUR,
            next_ms: NOW + HOUR,
            stored: run(1, ""),
            missed: 2,
            ..v1::Schedule::default()
        };
        let failing = v1::Schedule {
            name: "daily".into(),
            cron: "@daily".into(),
            start_deadline_ms: 2 * HOUR,
            stored: run(72, ""),
            failed: run(1, "the repository does not answer"),
            failures: 3,
            note: "the run before was still under way".into(),
            ..well.clone()
        };
        let late = v1::Schedule {
            name: "late".into(),
            next_ms: NOW - 3 * HOUR,
            stored: None,
            running: run(0, ""),
            ..well.clone()
        };
        let paused =
            v1::Schedule { name: "paused".into(), paused: true, next_ms: 0, ..well.clone() };
        let checked = v1::Schedule {
            name: "checked".into(),
            cron: "17 4 * * *".into(),
            keep: String::new(),
            verify: "10%".into(),
            running: run(0, ""),
            failed: run(25, "the repository is damaged, with 1 problem"),
            ..well.clone()
        };
        [well, failing, late, paused, checked].map(|one| Schedule::new(Some(one), NOW)).into()
    }

    /// All is well, and nothing is.
    fn looked_after() -> [v1::ListSchedulesResponse; 2] {
        let verification = v1::RepositoryVerification {
            report: "verifies/20270115T050000000Z-0000000000000001.json".into(),
            began_ms: NOW - 3 * HOUR,
            depth: v1::VerificationDepth::Share.into(),
            percent: 10,
            sound: true,
            problems: 0,
            snapshots: 54,
            snapshots_since: 3,
        };
        let drill = v1::RepositoryDrill {
            report: "drills/20270112T080000000Z-0000000000000002.json".into(),
            began_ms: NOW - 72 * HOUR,
            uuid: "00000000-0000-8000-8000-000000000001".into(),
            passed: true,
            problem: String::new(),
            rto_ms: 12_345,
            rpo_ms: 60_000,
            snapshots_since: 1,
        };
        let ill = v1::ListSchedulesResponse {
            verification: Some(v1::RepositoryVerification {
                depth: v1::VerificationDepth::Whole.into(),
                percent: 0,
                sound: false,
                problems: 1,
                ..verification.clone()
            }),
            drill: Some(v1::RepositoryDrill {
                passed: false,
                problem: "the node has ended\u{1b}[2J".into(),
                ..drill.clone()
            }),
            unreadable_reports: vec!["verifies/x.json: it is not named as a report".into()],
            ..v1::ListSchedulesResponse::default()
        };
        let well = v1::ListSchedulesResponse {
            verification: Some(verification),
            drill: Some(drill),
            ..v1::ListSchedulesResponse::default()
        };
        [well, ill]
    }

    #[test]
    fn schedules_show_what_is_good_what_is_next_and_what_is_wrong() {
        let mut story = String::new();
        let mut show = |what: &str, format: Format, view: &dyn Fn(&mut Console)| {
            let (mut console, out, _) = Console::recording(format);
            view(&mut console);
            story += &format!("# {what}\n{}", out.text());
        };
        show("list", Format::Table, &|console| {
            console.print(&Schedules { schedules: schedules() }).unwrap();
        });
        for one in schedules() {
            show("get", Format::Table, &|console| console.print(&one).unwrap());
        }
        show("get", Format::Json, &|console| console.print(&schedules()[1]).unwrap());
        for repositories in [vec![], vec!["/backups".to_owned()], vec!["a".into(), "b".into()]] {
            let some = repositories.len() == 1;
            show("status", Format::Table, &|console| {
                let schedules = if some { schedules() } else { Vec::new() };
                let (repositories, care) = (repositories.clone(), Told::default());
                console.print(&Status { repositories, care, schedules }).unwrap();
            });
        }
        for format in [Format::Table, Format::Json] {
            for answer in looked_after() {
                show("status", format, &|console| {
                    let (care, schedules) = (Told::new(&answer, NOW), Vec::new());
                    let repositories = vec!["/backups".to_owned()];
                    console.print(&Status { repositories, care, schedules }).unwrap();
                });
            }
        }
        crate::ctl::golden::check("schedule.txt", &story);
    }
}
