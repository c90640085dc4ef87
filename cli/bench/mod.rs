//! `ddbctl bench`: how fast a cluster answers, as a client sees it.
//!
//! It prepares sites of its own, sends requests to them, and reports rates, latencies and failures.
//! It measures the cluster, the network and itself together; on a machine that also runs the nodes,
//! all three share the cores.
//!
//! `load` and `tally` know nothing of DeviceDB: `make compare` drives another database with them.

pub mod tally;
pub mod load;
pub mod requests;
mod sites;
pub mod report;
#[cfg_attr(not(feature = "plot"), path = "unplotted.rs")]
pub mod plot;
mod snapshot;

use std::{
    num::{NonZeroU64, NonZeroUsize},
    path::Path,
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::{Bench, Ground, Timed},
    client::Client,
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
    },
};
use crate::base::limits;
use load::{Lasts, Load, Plan};
use report::{Figures, Point, Run, Setting, points};
use requests::{Field, Kind, Lines, Requests};
use tally::Tally;

const CLIENTS_A_CONNECTION: u64 = 16;
/// How sites are filled before a measurement.
const FILLERS: usize = 8;
const FILL_ROWS: u64 = 500;

/// What a measurement stands on: sites that are there, connections that are open.
struct Prepared {
    ground: Ground,
    field: Arc<Field>,
    lines: Arc<Lines>,
    /// Sites in which keys may be missing.
    lacking: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Removed {
    removed: Vec<String>,
}

impl View for Removed {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

pub async fn run(
    command: Bench,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        Bench::Put(timed) => measure("put", Kind::Put, timed, client, console).await,
        Bench::Get(timed) => measure("get", Kind::Get, timed, client, console).await,
        Bench::Mixed { timed, reads } => {
            measure("mixed", Kind::Mixed { reads_percent: reads }, timed, client, console).await
        }
        Bench::Scan { timed, rows } => {
            measure("scan", Kind::Scan { rows }, timed, client, console).await
        }
        Bench::Load { ground, rows } => load(ground, rows, client, console).await,
        Bench::Snapshot(timed) => shoot(timed, client, console).await,
        Bench::Cleanup { prefix } => clean(&prefix, client, console).await,
    }
}

async fn measure(
    work: &'static str,
    kind: Kind,
    timed: Timed,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut prepared = Prepared::new(timed.ground, client, console).await?;
    if kind != Kind::Put {
        prepared.fill(client, console).await?;
    }
    let window = Duration::from_secs(timed.seconds);
    let rate = timed.rate.and_then(NonZeroU64::new);
    let plan = Plan { clients: prepared.ground.clients as usize, lasts: Lasts::For(window), rate };
    let mut load = prepared.start(plan, kind, client);
    watch(&mut load, work, Some(window), console).await;
    prepared.tell(work, timed.rate, &load.end(), client, console).await
}

async fn load(
    ground: Ground,
    rows: u64,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let prepared = Prepared::new(ground, client, console).await?;
    let rows = prepared.field.rows_a_batch(rows);
    let plan = Plan {
        clients: prepared.ground.clients as usize,
        lasts: Lasts::Requests(prepared.field.batches(rows)),
        rate: None,
    };
    let mut load = prepared.start(plan, Kind::Batch { rows }, client);
    watch(&mut load, "load", None, console).await;
    let tally = load.end();
    if tally.failed() == 0 {
        sites::filled(&prepared.field.sites, &prepared.field, client).await?;
    }
    prepared.tell("load", None, &tally, client, console).await
}

async fn shoot(timed: Timed, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let mut prepared = Prepared::new(timed.ground, client, console).await?;
    prepared.fill(client, console).await?;
    let rate = timed.rate.and_then(NonZeroU64::new);
    let plan = Plan { clients: prepared.ground.clients as usize, lasts: Lasts::UntilStopped, rate };
    let mut load = prepared.start(plan, Kind::Put, client);
    let window = Duration::from_secs(timed.seconds);
    // The load does not end by itself, so what ends is the time.
    let _ = tokio::time::timeout(window, watch(&mut load, "put", Some(window), console)).await;
    let shot = snapshot::take(&load, client).await;
    load.stop();
    load.wait().await;
    let shot = shot?;
    let report = shot.report(prepared.setting(timed.rate));
    console.print(&report)?;
    prepared.draw("snapshot", &report.over_time)?;
    prepared.leave(client, console).await?;
    judge(&shot.before, console)?;
    judge(&shot.during, console)
}

async fn clean(prefix: &str, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let removed = sites::made(prefix, client).await?;
    sites::remove(&removed, client).await?;
    console.confirm(&format!("{} sites removed", removed.len()));
    console.print(&Removed { removed })
}

impl Prepared {
    async fn new(
        ground: Ground,
        client: &mut Client,
        console: &mut Console,
    ) -> Result<Prepared, Failure> {
        if let Some(path) = &ground.plot {
            plot::check(path)?;
        }
        let field =
            Field::of(&ground.prefix, ground.sites, ground.keys, ground.value_bytes as usize);
        let lines = connect(&ground, client, console).await?;
        let lacking = sites::claim(&field, client).await?;
        console.on_interrupt(format!(
            "sites {} to {} stay; ddbctl bench cleanup removes them",
            field.sites[0],
            field.sites[field.sites.len() - 1]
        ));
        Ok(Prepared { ground, field: Arc::new(field), lines: Arc::new(lines), lacking })
    }

    /// Writes every key into the sites in which some may be missing.
    async fn fill(&mut self, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
        if self.lacking.is_empty() {
            return Ok(());
        }
        let field = Field { sites: std::mem::take(&mut self.lacking), ..Field::clone(&self.field) };
        let rows = field.rows_a_batch(FILL_ROWS);
        let plan =
            Plan { clients: FILLERS, lasts: Lasts::Requests(field.batches(rows)), rate: None };
        let persist = Some(client.timeout());
        let mut load = start(
            plan,
            Kind::Batch { rows },
            Arc::new(field.clone()),
            self.lines.clone(),
            persist,
            client,
        );
        watch(&mut load, "fill", None, console).await;
        let tally = load.end();
        match tally.failures.values().next() {
            None => sites::filled(&field.sites, &field, client).await,
            Some(failures) => Err(Failure::new(
                failures.exit,
                "cannot fill the sites before the measurement",
                &failures.example,
                "repeat it",
            )),
        }
    }

    fn start(&self, plan: Plan, kind: Kind, client: &mut Client) -> Load {
        start(plan, kind, self.field.clone(), self.lines.clone(), None, client)
    }

    fn setting(&self, rate: Option<u64>) -> Setting {
        Setting {
            endpoints: self.lines.endpoints().to_vec(),
            clients: self.ground.clients,
            connections: self.lines.count(),
            direct: self.ground.direct,
            sites: self.field.sites.len(),
            keys: self.field.keys(),
            value_bytes: self.field.value_bytes,
            rate,
        }
    }

    async fn tell(
        &self,
        work: &'static str,
        rate: Option<u64>,
        tally: &Tally,
        client: &mut Client,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let run = Run {
            work,
            setting: self.setting(rate),
            figures: Figures::of(tally),
            over_time: points(tally, 0.0),
        };
        console.print(&run)?;
        self.draw(work, &run.over_time)?;
        self.leave(client, console).await?;
        judge(tally, console)
    }

    fn draw(&self, work: &str, points: &[Point]) -> Result<(), Failure> {
        let Some(path) = &self.ground.plot else { return Ok(()) };
        let title = format!(
            "{work}, {} clients, {} bytes a value",
            self.ground.clients, self.field.value_bytes
        );
        plot::draw(&title, points, Path::new(path))
    }

    async fn leave(&self, client: &mut Client, console: &mut Console) -> Result<(), Failure> {
        if self.ground.cleanup {
            sites::remove(&self.field.sites, client).await?;
            console.on_interrupt("");
        }
        Ok(())
    }
}

/// Says what went wrong beside the figures; fails when nothing went right.
fn judge(tally: &Tally, console: &mut Console) -> Result<(), Failure> {
    let (answered, failed) = (tally.all.requests, tally.failed());
    if answered == 0 {
        let most = tally.failures.values().max_by_key(|failures| failures.count);
        let (exit, example) =
            most.map_or((exit::FAILED, ""), |failures| (failures.exit, &failures.example));
        return Err(Failure::new(
            exit,
            format!("no request was answered, and {failed} failed"),
            example,
            "see ddbctl cluster health",
        ));
    }
    if failed > 0 {
        let kinds: Vec<_> = tally
            .failures
            .iter()
            .map(|(kind, failures)| format!("{} {kind}", failures.count))
            .collect();
        console.warn(&format!(
            "{failed} of {} requests failed: {}",
            answered + failed,
            kinds.join(", ")
        ));
    }
    if tally.unsent > 0 {
        console.warn(&format!(
            "{} requests were due and never sent: the cluster is too slow for this rate, or allow \
             more --clients",
            tally.unsent
        ));
    }
    Ok(())
}

fn start(
    plan: Plan,
    kind: Kind,
    field: Arc<Field>,
    lines: Arc<Lines>,
    persist: Option<Duration>,
    client: &mut Client,
) -> Load {
    let (clock, timeout, meant) = (client.clock(), client.timeout(), client.meant());
    let access = client.access().clone();
    Load::start(plan, clock, |_| {
        let (field, lines, rng) = (field.clone(), lines.clone(), client.draw_chance());
        let access = access.clone();
        Requests { kind, field, lines, rng, timeout, meant, access, persist, clock }
    })
}

/// Opens the connections. An endpoint that cannot be reached is left out, with a warning.
async fn connect(
    ground: &Ground,
    client: &Client,
    console: &mut Console,
) -> Result<Lines, Failure> {
    let endpoints = client.endpoints();
    let wanted = ground.connections.unwrap_or_else(|| {
        ground.clients.div_ceil(CLIENTS_A_CONNECTION).max(endpoints.len() as u64)
    }) as usize;
    let mut channels: Vec<(usize, Channel)> = Vec::new();
    let mut faults = Vec::new();
    for (at, endpoint) in endpoints.iter().enumerate().take(wanted) {
        // Those of one endpoint are opened together, so that one that is away costs its time once.
        for _ in (at..wanted).step_by(endpoints.len()) {
            let within = client.timeout().min(limits::BENCH_CONNECT);
            match client.access().open(endpoint, within).await {
                Ok(channel) => channels.push((at, channel)),
                Err(fault) => {
                    faults.push(format!("{endpoint} ({})", fault.message));
                    break;
                }
            }
        }
    }
    if channels.is_empty() {
        let remedy = "see that a node runs there, or name others with --endpoint";
        return Err(Failure::new(exit::UNREACHABLE, "cannot connect", faults.join(", "), remedy));
    }
    faults.iter().for_each(|fault| console.warn(&format!("measured without {fault}")));
    // Neighbours in the list go to different endpoints.
    let turn = |at: usize| {
        channels[..at].iter().filter(|(endpoint, _)| *endpoint == channels[at].0).count()
    };
    let mut order: Vec<usize> = (0..channels.len()).collect();
    order.sort_by_key(|at| (turn(*at), channels[*at].0));
    let channels = order.into_iter().map(|at| channels[at].clone()).collect();
    let sites =
        NonZeroUsize::new(ground.sites as usize).expect("the command line wants one at least");
    Ok(Lines::new(channels, endpoints.to_vec(), sites, ground.direct))
}

/// Waits for a load, and shows on a terminal how it goes.
async fn watch(load: &mut Load, what: &str, window: Option<Duration>, console: &mut Console) {
    let target =
        if console.draws() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style =
        ProgressStyle::with_template("{spinner} {msg}").expect("the template is well formed");
    let bar = ProgressBar::with_draw_target(None, target).with_style(style);
    loop {
        tokio::select! {
            () = load.wait() => break,
            () = tokio::time::sleep(limits::BENCH_DRAW) => {}
        }
        bar.set_message(load.glance(|tally, since| glance(what, tally, since, window)));
        bar.tick();
    }
    bar.finish_and_clear();
}

fn glance(what: &str, tally: &Tally, since: Duration, window: Option<Duration>) -> String {
    let of = window.map_or(String::new(), |window| format!(" of {}", window.as_secs()));
    let answered = tally.all.requests;
    let rate = answered as f64 / since.as_secs_f64();
    let failed =
        if tally.failed() == 0 { String::new() } else { format!(", {} failed", tally.failed()) };
    format!("{what}: {:.0}{of} s, {answered} answers, {rate:.0}/s{failed}", since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::ctl::term::output::Format;
    use tally::{Done, Meter};

    fn tally(answered: u64, failures: &[Status], unsent: u64) -> Tally {
        let mut meter = Meter::begin(Duration::ZERO, None);
        let now = Duration::from_millis(1);
        (0..answered)
            .for_each(|_| meter.note(now, now, &Ok(Done { verb: "put", rows: 1, bytes: 1 })));
        failures.iter().for_each(|status| meter.note(now, now, &Err(status.clone())));
        Tally { unsent, ..meter.split(now) }
    }

    #[test]
    fn a_run_that_failed_in_part_succeeds_with_a_warning_and_one_that_failed_as_a_whole_fails() {
        let down = || Status::unavailable("no leader");
        let mut story = String::new();
        for tally in [
            tally(5, &[], 0),
            tally(5, &[down(), Status::internal("odd"), down()], 0),
            tally(5, &[], 3),
            tally(0, &[down()], 0),
            tally(0, &[], 9),
        ] {
            let (mut console, _, words) = Console::recording(Format::Table);
            let end = judge(&tally, &mut console);
            let exit = console.finish(end);
            story += &format!(
                "{}exit {exit}
",
                words.text()
            );
        }
        crate::ctl::golden::check("bench_ends.txt", &story);
    }
}
