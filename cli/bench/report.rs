//! What a bench prints: a document for scripts, whose names are stable, and text for people.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::tally::{Sum, Tally};
use crate::ctl::term::{
    output::{Look, View},
    table::{Number, Table, Text},
};

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    pub endpoints: Vec<String>,
    pub clients: u64,
    pub connections: usize,
    pub direct: bool,
    pub sites: usize,
    pub keys: u64,
    pub value_bytes: usize,
    /// Requests a second that were due; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// What a load came to.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub seconds: f64,
    /// Those that were answered.
    pub requests: u64,
    /// Those that were answered in time, a second.
    pub requests_per_second: f64,
    pub rows_per_second: f64,
    /// Of keys and values, in millions of bytes.
    pub mb_per_second: f64,
    pub latency_ms: BTreeMap<&'static str, Latency>,
    pub failed: u64,
    pub errors: Vec<Errors>,
    /// Requests that were due and never sent; 0 in a closed loop.
    pub unsent: u64,
    pub longest_silence_ms: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Errors {
    pub kind: String,
    pub count: u64,
    /// The first one's words.
    pub example: String,
}

/// A stretch of the run, as the plot draws it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    pub seconds: f64,
    pub requests_per_second: f64,
    pub errors_per_second: f64,
    /// Absent where nothing was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Spread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// A run of requests of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub work: &'static str,
    pub setting: Setting,
    #[serde(flatten)]
    pub figures: Figures,
    pub over_time: Vec<Point>,
}

/// A snapshot that was taken while writes went on.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    pub work: &'static str,
    pub setting: Setting,
    pub snapshot: Extent,
    pub before: Figures,
    pub during: Figures,
    pub over_time: Vec<Point>,
}

/// How large it was and how long it took.
#[derive(Clone, Debug, Serialize)]
pub struct Extent {
    pub uuid: String,
    pub status: &'static str,
    /// From the call of create until every part was there.
    pub seconds: f64,
    pub parts: usize,
    /// Of all parts together: each holds the replicas of its node.
    pub rows: u64,
    /// Before compression.
    pub bytes: u64,
    /// Chunks that had to be written.
    pub bytes_written: u64,
    /// `bytes`, a second.
    pub mb_per_second: f64,
}

impl Figures {
    pub fn of(tally: &Tally) -> Figures {
        let seconds = tally.took.as_secs_f64();
        let Sum { requests: _, rows, bytes } = tally.in_time;
        let a_second = |n: u64| rounded(n as f64 / seconds.max(f64::MIN_POSITIVE));
        let errors = tally.failures.iter().map(|(kind, of)| Errors {
            kind: kind.clone(),
            count: of.count,
            example: of.example.clone(),
        });
        Figures {
            seconds: rounded(seconds),
            requests: tally.all.requests,
            requests_per_second: rounded(tally.per_second()),
            rows_per_second: a_second(rows),
            mb_per_second: rounded(bytes as f64 / 1e6 / seconds.max(f64::MIN_POSITIVE)),
            latency_ms: tally
                .latency
                .iter()
                .map(|(verb, histogram)| (*verb, Latency::of(histogram)))
                .collect(),
            failed: tally.failed(),
            errors: errors.collect(),
            unsent: tally.unsent,
            longest_silence_ms: rounded(tally.longest_silence.as_secs_f64() * 1000.0),
        }
    }
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Latency {
            mean: rounded(histogram.mean() / 1000.0),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ms(histogram.max()),
        }
    }
}

/// A tally's moments, `after` seconds after the begin of the run.
pub fn points(tally: &Tally, after: f64) -> Vec<Point> {
    let step = tally.step.as_secs_f64();
    let point = |(at, moment): (usize, &super::tally::Moment)| {
        let latency = &moment.latency;
        let spread = || Spread {
            p50: ms(latency.value_at_quantile(0.5)),
            p99: ms(latency.value_at_quantile(0.99)),
            max: ms(latency.max()),
        };
        // The last stretch is rarely whole.
        let width = (tally.took.as_secs_f64() - at as f64 * step).min(step);
        Some(Point {
            seconds: rounded(after + (at + 1) as f64 * step),
            requests_per_second: rounded(moment.sum.requests as f64 / width),
            errors_per_second: rounded(moment.failures as f64 / width),
            latency_ms: (!latency.is_empty()).then(spread),
        })
        .filter(|_| width > 0.0)
    };
    tally.moments.iter().enumerate().filter_map(point).collect()
}

fn ms(micros: impl TryInto<u64>) -> f64 {
    rounded(micros.try_into().unwrap_or(u64::MAX) as f64 / 1000.0)
}

/// More digits than three behind the point are noise.
fn rounded(n: f64) -> f64 {
    (n * 1000.0).round() / 1000.0
}

impl View for Run {
    fn text(&self, look: Look) -> String {
        let figures = &self.figures;
        let verbs = if self.work == "load" {
            format!(", {:.0} rows/s", figures.rows_per_second)
        } else {
            String::new()
        };
        format!(
            "{}requests = {} in {:.1} s, {:.1}/s{verbs}, {:.2} MB/s\n{}{}",
            setting(self.work, &self.setting),
            figures.requests,
            figures.seconds,
            figures.requests_per_second,
            figures.mb_per_second,
            troubles(figures),
            table(
                figures.latency_ms.iter().map(|(verb, latency)| (verb.to_string(), latency)),
                look,
            ),
        )
    }
}

impl View for Taken {
    fn text(&self, look: Look) -> String {
        let Extent { uuid, status, seconds, parts, rows, bytes, bytes_written, mb_per_second } =
            &self.snapshot;
        let put = |when, figures: &Figures| {
            let (rate, silence) = (figures.requests_per_second, figures.longest_silence_ms);
            format!(
                "{when} = {rate:.1} puts/s, {silence:.1} ms the longest without an answer\n{}",
                troubles(figures)
            )
        };
        let rows_of = |when: &str, figures: &Figures| {
            figures.latency_ms.values().next().map(|latency| (format!("put {when}"), *latency))
        };
        let latencies: Vec<_> = [rows_of("before", &self.before), rows_of("during", &self.during)]
            .into_iter()
            .flatten()
            .collect();
        format!(
            "{}snapshot = {uuid}, {status}\ntook = {seconds:.3} s from create until every part was \
             there\n\
             parts = {parts}, with {rows} rows and {bytes} bytes, {bytes_written} of them written, \
             {mb_per_second:.1} MB/s\n{}{}{}",
            setting(self.work, &self.setting),
            put("before", &self.before),
            put("during", &self.during),
            table(latencies.iter().map(|(name, latency)| (name.clone(), latency)), look),
        )
    }
}

fn setting(work: &str, setting: &Setting) -> String {
    let Setting { endpoints, clients, connections, direct, sites, keys, value_bytes, rate } =
        setting;
    let pace = rate.map_or("closed loop".to_owned(), |rate| format!("{rate} requests/s due"));
    let asked = if *direct { "leaders first" } else { "in turn" };
    format!(
        "work = {work}, {pace}\nclients = {clients}\nconnections = {connections} to {}, {asked}\n\
         data = {keys} keys of {sites} sites, {value_bytes} bytes a value\n",
        endpoints.join(",")
    )
}

fn troubles(figures: &Figures) -> String {
    let errors = figures.errors.iter().map(|Errors { kind, count, example }| {
        format!("errors = {count} {kind}: {}\n", crate::ctl::term::text::line(example))
    });
    let unsent = if figures.unsent == 0 {
        String::new()
    } else {
        format!("unsent = {} requests that were due\n", figures.unsent)
    };
    errors.collect::<String>() + &unsent
}

fn table<'a>(latencies: impl Iterator<Item = (String, &'a Latency)>, look: Look) -> String {
    let cell = |ms: f64| format!("{ms:.3}");
    let rows = latencies.map(|(name, l)| {
        [name, cell(l.mean), cell(l.p50), cell(l.p90), cell(l.p99), cell(l.p99_9), cell(l.max)]
    });
    let [mean, p50, p90, p99, p99_9, max] =
        ["MEAN", "P50", "P90", "P99", "P99.9", "MAX"].map(Number);
    Table::new([Text("LATENCY, MS"), mean, p50, p90, p99, p99_9, max], rows).render(look.columns)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Status;

    use super::*;
    use crate::ctl::{
        bench::tally::{Done, Meter},
        term::output::{Console, Format},
    };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn setting() -> Setting {
        let endpoints = vec!["a:1".to_owned(), "b:2".to_owned()];
        Setting {
            endpoints,
            clients: 8,
            connections: 2,
            direct: false,
            sites: 4,
            keys: 1000,
            value_bytes: 100,
            rate: Some(500),
        }
    }

    fn tally() -> Tally {
        let mut meter = Meter::begin(ms(0), Some(ms(300)));
        for n in 1..=200 {
            let verb = if n % 2 == 0 { "put" } else { "get" };
            meter.note(ms(n), ms(n), &Ok(Done { verb, rows: 1, bytes: 116 }));
        }
        meter.note(ms(201), ms(1), &Err(Status::unavailable("nobody\nleads")));
        Tally { unsent: 7, ..meter.split(ms(300)) }
    }

    #[test]
    fn a_run_is_shown_in_every_format() {
        let tally = tally();
        let run = Run {
            work: "mixed",
            setting: setting(),
            figures: Figures::of(&tally),
            over_time: points(&tally, 0.0),
        };
        let extent = Extent {
            uuid: "19a7e40e-adcc-4cc2-87a7-ae599272b050".into(),
            status: "completed",
            seconds: 1.5,
            parts: 3,
            rows: 3000,
            bytes: 348_000,
            bytes_written: 1000,
            mb_per_second: 0.232,
        };
        let (before, during) = (Figures::of(&tally), Figures::of(&tally));
        let taken = Taken {
            work: "snapshot",
            setting: Setting { rate: None, ..setting() },
            snapshot: extent,
            before,
            during,
            over_time: vec![],
        };
        let mut story = String::new();
        for format in [Format::Table, Format::Json, Format::Yaml] {
            let (mut console, out, _) = Console::recording(format);
            console.print(&run).unwrap();
            console.print(&taken).unwrap();
            story += &format!("# {format:?}\n{}", out.text());
        }
        crate::ctl::golden::check("bench.txt", &story);
    }

    #[test]
    fn a_run_without_an_answer_has_no_latencies_and_breaks_nothing() {
        let nothing = Meter::begin(ms(0), Some(ms(100))).split(ms(100));
        let figures = Figures::of(&nothing);
        assert_eq!(
            (figures.requests, figures.requests_per_second, figures.latency_ms.len()),
            (0, 0.0, 0)
        );
        assert_eq!(points(&nothing, 0.0), []);
    }
}
