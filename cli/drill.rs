//! `ddbctl repository drill`: a rehearsal of the restore, by the real thing. A node of a new
//! cluster starts from the repository in a directory of its own, answers reads and takes a write; a
//! snapshot of it has to hold, partition by partition, the rows of the one that it was made of.
//! Then it ends, and its directory is emptied.
//!
//! It can harm nobody. The node hears on the loopback alone, joins nobody, has a cluster id and a
//! history that were just drawn, and is started without a repository to write to and without
//! anything that this environment says to nodes but the key.
//!
//! A drill that does not pass is no error of the program: it says what it found, and exits 6.

use std::{
    env,
    fs::{self, DirBuilder, File},
    net::TcpListener,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;

use super::{
    args,
    client::{Call, Client},
    connection::Access,
    kv,
    place::{failed, open},
    site, snapshot,
    term::{
        exit::{self, Failure},
        output::{Console, Format, View},
        text,
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
    fn text(&self, _: Option<usize>) -> String {
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
    let scratch = Scratch::make(&order.scratch)?;
    let drill = Drill { clock, began, until: began + order.limit.0, repository, found: found.kept };
    if let Err(problem) = drill.rehearse(&order, &scratch, &mut report, console).await {
        report.problems.push(problem);
    }
    report.rto_s = match report.phases.sites_s {
        Some(sites_s) => sites_s,
        None => (clock.now() - began).as_secs_f64(),
    };
    objective("would be lost", report.rpo_s, report.rpo_objective_s, &mut report.problems);
    objective("it would take", report.rto_s, report.rto_objective_s, &mut report.problems);
    report.passed = report.problems.is_empty();
    if order.keep_report {
        let kept = drills::keep(&drill.repository, &report, began_ms);
        kept.map_err(|e| failed("its report is not kept", &order.place, &e))?;
    }
    console.print(&report)?;
    match report.passed {
        true => Ok(()),
        false => Err(Failure::new(
            exit::NOT_VERIFIED,
            "the drill has not passed",
            order.place,
            "see the problems above: a restore would meet them too",
        )),
    }
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

/// A directory that was empty, and is again afterwards.
struct Scratch {
    path: PathBuf,
}

/// A node that ends with this.
struct Throwaway {
    child: Child,
    log: PathBuf,
    address: String,
}

impl Scratch {
    fn make(path: &Path) -> Result<Scratch, Failure> {
        let failed = |what: String| {
            let remedy = "name a directory with --scratch that is empty, or is not there";
            Failure::new(exit::FAILED, what, path.display().to_string(), remedy)
        };
        let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
        made.map_err(|e| failed(format!("cannot make the directory: {e}")))?;
        let mut entries =
            fs::read_dir(path).map_err(|e| failed(format!("cannot read the directory: {e}")))?;
        if entries.next().is_some() {
            return Err(failed("the directory is not empty".to_owned()));
        }
        let scratch = Scratch { path: path.to_owned() };
        DirBuilder::new()
            .mode(0o700)
            .create(path.join(SNAPSHOTS))
            .map_err(|e| failed(format!("cannot make a directory in it: {e}")))?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for name in [STORE, SNAPSHOTS] {
            // What stays is in the way of the next drill, which says so.
            let _ = fs::remove_dir_all(self.path.join(name));
        }
        for name in [LOG, PART] {
            let _ = fs::remove_file(self.path.join(name));
        }
    }
}

const STORE: &str = "store";
const SNAPSHOTS: &str = "snapshots";
const LOG: &str = "node.log";
const PART: &str = "part.tar";

impl Throwaway {
    fn start(order: &args::Drill, snapshot: SnapshotId, scratch: &Scratch) -> Outcome<Throwaway> {
        let program = match &order.devicedb {
            Some(program) => program.clone(),
            // Beside this program, as both are installed.
            None => env::current_exe()
                .ok()
                .and_then(|own| Some(own.parent()?.join("devicedb")))
                .filter(|program| program.exists())
                .unwrap_or_else(|| "devicedb".into()),
        };
        let address = free_address()?;
        let log = scratch.path.join(LOG);
        let (file, errors) = File::create(&log)
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(|e| Error::unavailable(format!("{}: {e}", log.display())))?;
        let mut command = Command::new(&program);
        command
            .arg("start")
            .arg("--store")
            .arg(scratch.path.join(STORE))
            .arg("--snapshot-store")
            .arg(scratch.path.join(SNAPSHOTS))
            .args(["--listen", &address, "--restore-from", &order.place, "--point"])
            .arg(snapshot.to_string())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors);
        let said = env::vars_os().map(|(name, _)| name);
        // What opens the repository is all that it shall know.
        let is_for_nodes = |name: &str| {
            name.starts_with("DEVICEDB_") && !name.starts_with("DEVICEDB_REPOSITORY_KEY")
        };
        for name in said.filter(|name| is_for_nodes(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.args(order.key.words());
        let child = command.spawn().map_err(|e| {
            let program = program.display();
            Error::unavailable(format!("{program} does not start: {e}; name it with --devicedb"))
        })?;
        Ok(Throwaway { child, log, address })
    }

    /// How it ended, if it has, in its own words.
    fn ended(&mut self) -> Option<String> {
        let status: ExitStatus = self.child.try_wait().ok().flatten()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        Some(format!("the node has ended, {status}, and said: {}", text::line(last)))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of the loopback at which nobody listens at this moment.
fn free_address() -> Outcome<String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.map_err(|e| Error::unavailable(format!("no port of the loopback: {e}")))?;
    Ok(free.to_string())
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
        for site in &sites {
            let read = kv::some(&site.id, &mut client).await;
            read.map_err(|e| format!("site {:?} cannot be read: {}", site.id, e.what))?;
            self.in_time()?;
        }
        report.phases.sites_s = Some(self.since());
        let part = scratch.path.join(PART);
        self.part(&part, &mut client, console).await?;
        self.compare(&part, report).map_err(|e| e.message)?;
        report.phases.compare_s = Some(self.since());
        let site = sites.first().map(|site| site.id.clone());
        write(site, &mut client).await?;
        report.phases.first_write_s = Some(self.since());
        if let Some(check) = &order.check {
            self.check(check, &node).await?;
            report.phases.check_s = Some(self.since());
        }
        match node.ended() {
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
            if let Some(ended) = node.ended() {
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
        snapshot::download::to_file(uuid, path, client, console).await.map_err(told)
    }

    /// Whether every partition has the rows that the repository has.
    fn compare(&self, part: &Path, report: &mut Report) -> Outcome<()> {
        let source = Source::open(part)?;
        let groups = self.found.snapshot.held.iter().filter(|held| !held.group.is_meta());
        for held in groups {
            let index = self.repository.index(self.found.folder, &held.index)?;
            let restored = send::partitions(source.manifest(), held.group)?;
            let pairs = index.partitions.iter().zip(&restored);
            let mut other = pairs
                .filter(|(was, is)| (was.id, was.rows, was.digest) != (is.id, is.rows, is.digest));
            if let Some((was, is)) = other.next() {
                return Err(differs(held.group, was.id, was.rows, is.rows));
            }
            report.partitions += restored.len() as u64;
            report.rows += restored.iter().map(|partition| partition.rows).sum::<u64>();
            report.bytes += restored.iter().map(|partition| partition.bytes).sum::<u64>();
        }
        Ok(())
    }

    async fn check(&self, check: &str, node: &Throwaway) -> Result<(), String> {
        let mut child = Command::new("sh")
            .args(["-c", check])
            .env("DDBCTL_ENDPOINT", &node.address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("--check does not start: {e}"))?;
        loop {
            match child.try_wait().map_err(|e| format!("--check cannot be waited for: {e}"))? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("--check {check:?} has ended, {status}")),
                None => {}
            }
            if let Err(late) = self.in_time() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("--check {check:?}: {late}"));
            }
            tokio::time::sleep(limits::DRILL_LOOK).await;
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
