//! `ddbctl repository drill`: a rehearsal of the restore, by the real thing. A node of a new
//! cluster starts from the repository in a directory of its own, answers reads and takes a write; a
//! snapshot of it has to hold, partition by partition, the rows of the one that it was made of.
//! Then it ends, and its directory is emptied: whatever ends the drill (`scratch`, `throwaway`).
//!
//! It can harm nobody. The node hears on the loopback alone, joins nobody, has a cluster id and a
//! history that were just drawn, and is started without a repository to write to. Of what this
//! environment says to nodes it is told the key alone; whom this command believes it is told by
//! `--trusted-key` and `--at-least-catalogue`.
//!
//! A drill that does not pass is no error of the program: it says what it found, and exits 6.

mod scratch;
mod throwaway;

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use scratch::Scratch;
use throwaway::Throwaway;

use super::{
    args,
    client::{Call, Client},
    connection::Access,
    kv,
    place::{self, failed, open},
    site, snapshot,
    term::{
        exit::{self, Failure},
        output::{Console, Format, Look, View},
    },
};
use crate::{
    base::{
        clock::{Clock, Random},
        error::{Error, Result as Outcome},
        ids::{GroupId, SnapshotId},
        limits,
    },
    part::{manifest::rfc3339, source::Source},
    proto::v1,
    repository::{
        drills::{self, Phases, Report},
        points,
        root::{Kept, Repository},
        send,
    },
};

impl View for Report {
    fn text(&self, _: Look) -> String {
        let seconds = |phase: Option<f64>| phase.map_or("-".into(), |s| format!("{s:.1} s"));
        let goal = |goal: Option<f64>| goal.map_or(String::new(), |s| format!(" of {s:.0} s"));
        let Phases { find_s, first_answer_s, sites_s, compare_s, first_write_s, check_s } =
            &self.phases;
        let mut lines = format!(
            "{}\nsnapshot      {}, number {}, written {}\nrestored      {} rows, {} bytes, {} \
             partitions, {} sites\nwould lose    {:.1} s{}\nwould take    {:.1} s{}\nphases        \
             find {find_s:.1} s, first answer {}, every site {}, compare {}, first write {}, check \
             {}\n",
            if self.passed { "PASSED" } else { "FAILED" },
            self.snapshot,
            self.seq,
            self.written,
            self.rows,
            self.bytes,
            self.partitions,
            self.sites,
            self.rpo_s,
            goal(self.rpo_objective_s),
            self.rto_s,
            goal(self.rto_objective_s),
            seconds(*first_answer_s),
            seconds(*sites_s),
            seconds(*compare_s),
            seconds(*first_write_s),
            seconds(*check_s),
        );
        self.problems.iter().for_each(|problem| lines += &format!("PROBLEM       {problem}\n"));
        lines
    }
}

/// Rehearses, tells, and keeps the report where that is wanted.
pub async fn run(order: args::Drill, console: &mut Console) -> Result<(), Failure> {
    let clock = Clock::start();
    let (began, began_ms) = (clock.now(), clock.wall_ms());
    let repository = open(&order.place, order.key.clone())?;
    let point = order.point.unwrap_or(points::Point::Latest);
    let found = points::find(&repository, point)
        .map_err(|e| failed("there is nothing to restore", &order.place, &e))?;
    let written_ms = found.kept.snapshot.written_ms;
    let mut report = Report {
        began: rfc3339(began_ms),
        snapshot: found.kept.snapshot.snapshot.to_string(),
        seq: found.kept.snapshot.seq.0,
        written: found.kept.snapshot.written.clone(),
        rpo_s: began_ms.saturating_sub(written_ms) as f64 / 1000.0,
        rpo_objective_s: order.rpo.map(|span| span.0.as_secs_f64()),
        rto_objective_s: order.rto.map(|span| span.0.as_secs_f64()),
        ..Report::default()
    };
    report.phases.find_s = (clock.now() - began).as_secs_f64();
    let drill = Drill { clock, began, until: began + order.limit.0, repository, found: found.kept };
    console.on_interrupt("the drill is given up");
    console.tidy_on_interrupt(true);
    {
        let scratch = Scratch::make(&order.scratch, drill.found.snapshot.bytes)?;
        if let Err(problem) = drill.rehearse(&order, &scratch, &mut report, console).await {
            report.problems.push(problem);
        }
    }
    console.tidy_on_interrupt(false);
    report.rto_s = match report.phases.sites_s {
        Some(sites_s) => sites_s,
        None => (clock.now() - began).as_secs_f64(),
    };
    objective("would be lost", report.rpo_s, report.rpo_objective_s, &mut report.problems);
    objective("it would take", report.rto_s, report.rto_objective_s, &mut report.problems);
    report.passed = report.problems.is_empty();
    console.print(&report)?;
    let kept = order.keep_report.then(|| drills::keep(&drill.repository, &report, began_ms));
    let verdict = match report.passed {
        true => Ok(()),
        false => Err(Failure::new(
            exit::NOT_VERIFIED,
            "the drill has not passed",
            order.place.clone(),
            "see the problems above: a restore would meet them too",
        )),
    };
    place::with_report(&order.place, kept, verdict, console)
}

fn objective(what: &str, is: f64, most: Option<f64>, problems: &mut Vec<String>) {
    if let Some(most) = most.filter(|most| is > *most) {
        problems.push(format!("{what}: {is:.1} s, and {most:.1} s is the objective"));
    }
}

struct Drill {
    clock: Clock,
    began: Duration,
    until: Duration,
    repository: Repository,
    found: Kept,
}

impl Drill {
    fn since(&self) -> f64 {
        (self.clock.now() - self.began).as_secs_f64()
    }

    /// What it says in error keeps the drill from going on.
    async fn rehearse(
        &self,
        order: &args::Drill,
        scratch: &Scratch,
        report: &mut Report,
        console: &mut Console,
    ) -> Result<(), String> {
        let snapshot = self.found.snapshot.snapshot;
        let mut node = Throwaway::start(order, snapshot, scratch).map_err(|e| e.message)?;
        console.confirm(&format!("restoring snapshot {snapshot} at {}", node.address));
        let mut client = Client::new(
            vec![node.address.clone()],
            Access::default(),
            None,
            limits::DRILL_ASK,
            self.clock,
            Random::from_entropy(),
        );
        let sites = self.first_answer(&mut node, &mut client).await?;
        report.phases.first_answer_s = Some(self.since());
        report.sites = sites.len() as u64;
        console.confirm(&format!("it answers after {:.1} s; reading every site", self.since()));
        for site in &sites {
            let read = kv::some(&site.id, &mut client).await;
            read.map_err(|e| format!("site {:?} cannot be read: {}", site.id, e.what))?;
            self.in_time()?;
        }
        report.phases.sites_s = Some(self.since());
        console.confirm(&format!("read after {:.1} s; comparing every partition", self.since()));
        self.part(&scratch.part(), &mut client, console).await?;
        self.compare(&scratch.part(), report).await?;
        report.phases.compare_s = Some(self.since());
        console.confirm(&format!("compared after {:.1} s; writing", self.since()));
        let site = sites.first().map(|site| site.id.clone());
        write(site, &mut client).await?;
        report.phases.first_write_s = Some(self.since());
        if let Some(check) = &order.check {
            console.confirm(&format!("written after {:.1} s; running --check", self.since()));
            self.check(check, &node).await?;
            report.phases.check_s = Some(self.since());
        }
        match node.ended().await {
            Some(ended) => Err(ended),
            None => Ok(()),
        }
    }

    fn in_time(&self) -> Result<(), String> {
        match self.clock.now() < self.until {
            true => Ok(()),
            false => Err("it is not done within --limit".to_owned()),
        }
    }

    async fn first_answer(
        &self,
        node: &mut Throwaway,
        client: &mut Client,
    ) -> Result<Vec<v1::Site>, String> {
        loop {
            if let Some(ended) = node.ended().await {
                return Err(ended);
            }
            match site::list(client).await {
                Ok(sites) => return Ok(sites),
                Err(failure) => self.in_time().map_err(|e| format!("{e}: {}", failure.what))?,
            }
            tokio::time::sleep(limits::DRILL_LOOK).await;
        }
    }

    /// The node's part of a snapshot of what was restored.
    async fn part(
        &self,
        path: &Path,
        client: &mut Client,
        console: &mut Console,
    ) -> Result<(), String> {
        let told = |e: Failure| format!("no snapshot of what was restored: {}", e.what);
        let (begun, _) = snapshot::create(None, client).await.map_err(told)?;
        let uuid: SnapshotId = begun.uuid.parse().map_err(|e: Error| e.message)?;
        let mut quiet = Console::open("ddbctl", Format::Json);
        let left = self.until.saturating_sub(self.clock.now());
        let (_, absent) =
            snapshot::wait::settled(begun, left, client, &mut quiet).await.map_err(told)?;
        if !absent.is_empty() {
            return Err(absent.join("; "));
        }
        // What is left of it when it is interrupted goes with all else.
        let mut beside = console.beside(1).pop().expect("one was asked for");
        snapshot::download::to_file(uuid, path, client, &mut beside).await.map_err(told)
    }

    /// Whether every partition has the rows that the repository has. On a thread of its own: an
    /// interrupt does not wait for a store.
    async fn compare(&self, part: &Path, report: &mut Report) -> Result<(), String> {
        let (repository, found, part) =
            (self.repository.clone(), self.found.clone(), part.to_owned());
        let compared =
            tokio::task::spawn_blocking(move || Compared::of(&repository, &found, &part));
        let compared = compared.await.map_err(|e| format!("comparing has not ended: {e}"))?;
        let Compared { partitions, rows, bytes } = compared.map_err(|e| e.message)?;
        (report.partitions, report.rows, report.bytes) = (partitions, rows, bytes);
        Ok(())
    }

    async fn check(&self, check: &str, node: &Throwaway) -> Result<(), String> {
        let mut checking = Checking::start(check, &node.address)?;
        loop {
            let ended = checking.0.try_wait();
            match ended.map_err(|e| format!("--check cannot be waited for: {e}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("--check {check:?} has ended, {status}")),
                None => {}
            }
            self.in_time().map_err(|late| format!("--check {check:?}: {late}"))?;
            tokio::time::sleep(limits::DRILL_LOOK).await;
        }
    }
}

/// What a comparison that found no difference has compared.
#[derive(Default)]
struct Compared {
    partitions: u64,
    rows: u64,
    bytes: u64,
}

impl Compared {
    fn of(repository: &Repository, found: &Kept, part: &Path) -> Outcome<Compared> {
        let source = Source::open(part)?;
        let mut compared = Compared::default();
        for held in found.snapshot.held.iter().filter(|held| !held.group.is_meta()) {
            let index = repository.index(found.folder, &held.index)?;
            let restored = send::partitions(source.manifest(), held.group)?;
            let pairs = index.partitions.iter().zip(&restored);
            let mut other = pairs
                .filter(|(was, is)| (was.id, was.rows, was.digest) != (is.id, is.rows, is.digest));
            if let Some((was, is)) = other.next() {
                return Err(differs(held.group, was.id, was.rows, is.rows));
            }
            compared.partitions += restored.len() as u64;
            compared.rows += restored.iter().map(|partition| partition.rows).sum::<u64>();
            compared.bytes += restored.iter().map(|partition| partition.bytes).sum::<u64>();
        }
        Ok(compared)
    }
}

/// The operator's command. It and what it has started end with this.
struct Checking(Child);

impl Checking {
    fn start(check: &str, address: &str) -> Result<Checking, String> {
        Command::new("sh")
            .args(["-c", check])
            .env("DDBCTL_ENDPOINT", address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Checking)
            .map_err(|e| format!("--check does not start: {e}"))
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        // Once it was waited for, its number may be another's.
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

fn differs(group: GroupId, partition: impl std::fmt::Display, was: u64, is: u64) -> Error {
    Error::corrupt(format!(
        "partition {partition} of group {group} has other rows than the repository: {is}, and \
         there are {was}"
    ))
}

/// A write, and the read that has to see it.
async fn write(site: Option<String>, client: &mut Client) -> Result<(), String> {
    let told = |e: Failure| format!("it takes no write: {}", e.what);
    let site = match site {
        Some(site) => site,
        None => {
            site::register("drill", client).await.map_err(told)?;
            "drill".to_owned()
        }
    };
    let value = Bytes::copy_from_slice(client.draw_id().as_bytes());
    let key = Bytes::from_static(b"ddbctl/drill");
    let request = v1::PutRequest {
        site: site.clone(),
        bucket: v1::Bucket::Default.into(),
        key: key.clone(),
        value: value.clone(),
        context: None,
        timestamp_ms: None,
        request_id: Bytes::copy_from_slice(client.draw_id().as_bytes()),
    };
    let call = Call::new("put a key");
    let put = client
        .call(&call, request, |channel, request| async move { kv::kv(channel).put(request).await });
    put.await.map_err(told)?;
    let request = v1::GetRequest {
        site,
        bucket: v1::Bucket::Default.into(),
        key,
        consistency: v1::Consistency::Linearizable.into(),
    };
    let call = Call::new("get a key");
    let got = client
        .call(&call, request, |channel, request| async move { kv::kv(channel).get(request).await });
    let siblings = got.await.map_err(told)?.body.siblings;
    match siblings.iter().any(|sibling| sibling.value == value) {
        true => Ok(()),
        false => Err("a key that was just put does not have its value".to_owned()),
    }
}
