//! How DeviceDB alone grows: one thing at a time is made larger, and puts, their cost, memory and
//! snapshots are measured beside it.
//!
//! Every point is a new cluster. What a point does not vary is as in the comparison: three nodes,
//! 64 groups, 64 sites, 100,000 keys of 100 bytes, 64 clients that ask leaders.

use std::{path::Path, time::Duration};

use devicedb::{
    base::clock::Clock,
    ctl::bench::{
        load::{Lasts, Plan},
        plot::{FONT, LABEL, register_font},
        report::Latency,
        requests::{Field, Kind},
    },
};
use plotters::prelude::*;
use serde::Serialize;

use crate::{
    Args, KEYS, SITES, TYPICAL, VALUE_BYTES, WARM_UP,
    harness::{Cluster, Options},
    machine::{Machine, peak_memory_mib, processor_seconds},
    subject::Subject,
    table::{median, written},
};

/// What was written is in the store by then.
pub const SETTLE: Duration = Duration::from_secs(8);
pub const REST: Duration = Duration::from_secs(10);
const SNAPSHOT_BOUND: Duration = Duration::from_secs(600);
/// A field of large values has fewer keys.
const FIELD_BYTES: u64 = 200_000_000;
const GREY: RGBColor = RGBColor(120, 120, 120);

/// What of a point is drawn.
type Of = fn(&Point) -> f64;

/// A cluster and what lies in it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Setting {
    nodes: usize,
    groups: u32,
    sites: u64,
    keys: u64,
    value_bytes: usize,
}

const BASE: Setting =
    Setting { nodes: 3, groups: 64, sites: SITES, keys: KEYS, value_bytes: VALUE_BYTES };

#[derive(Debug, Serialize)]
pub struct Point {
    /// What is varied.
    axis: &'static str,
    value: u64,
    setting: Setting,
    rows_written_a_second: f64,
    /// Percent of one core, of the node that takes most, while nobody asks anything.
    idle_percent: f64,
    puts_a_second: f64,
    put_p99_ms: f64,
    /// Of all nodes together, for one put.
    put_micros: f64,
    /// Of the largest node.
    peak_memory_mib: f64,
    /// From the command to a complete snapshot, of all keys.
    snapshot_seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct Growth {
    machine: Machine,
    rounds: usize,
    seconds: u64,
    points: Vec<Point>,
}

fn plan() -> Vec<(&'static str, u64, Setting)> {
    let mut plan = Vec::new();
    for groups in [16, 64, 256, 1024] {
        plan.push(("groups", u64::from(groups), Setting { groups, sites: 1024, ..BASE }));
    }
    for sites in [1, 16, 256, 4096] {
        plan.push(("sites", sites, Setting { sites, ..BASE }));
    }
    for value_bytes in [10, 100, 1000, 10_000] {
        let keys = KEYS.min(FIELD_BYTES / value_bytes as u64);
        plan.push(("bytes in a value", value_bytes as u64, Setting { value_bytes, keys, ..BASE }));
    }
    for keys in [100_000, 1_000_000, 10_000_000] {
        plan.push(("keys", keys, Setting { keys, ..BASE }));
    }
    for nodes in [1, 3, 5] {
        plan.push(("nodes", nodes as u64, Setting { nodes, ..BASE }));
    }
    plan
}

pub async fn measure(args: &Args) -> Growth {
    let mut points = Vec::new();
    for (axis, value, setting) in plan() {
        let point = point(args, axis, value, setting).await;
        eprintln!(
            "{axis} {value}: {:.0} puts/s, {:.0} µs, p99 {:.1} ms, idle {:.1} %, {:.0} MiB, \
             snapshot {:.2} s",
            point.puts_a_second,
            point.put_micros,
            point.put_p99_ms,
            point.idle_percent,
            point.peak_memory_mib,
            point.snapshot_seconds
        );
        points.push(point);
    }
    Growth { machine: Machine::look(), rounds: args.rounds, seconds: args.seconds, points }
}

async fn point(args: &Args, axis: &'static str, value: u64, setting: Setting) -> Point {
    let Setting { nodes, groups, sites, keys, value_bytes } = setting;
    let subject =
        Subject::Ours(Cluster::start(nodes, Options { groups, ..Options::product() }).await);
    let connections = subject.connect().await;
    let pids = subject.pids();
    let used = || pids.iter().map(|pid| processor_seconds(&[*pid])).collect::<Vec<_>>();
    let field = Field::of("site-", sites, keys, value_bytes);
    let filled = subject.fill(&field, &connections).await.took;

    tokio::time::sleep(SETTLE).await;
    let before = used();
    tokio::time::sleep(REST).await;
    let idle = used().iter().zip(&before).map(|(after, before)| after - before).fold(0.0, f64::max);

    let puts = async |window| {
        let plan = Plan { clients: TYPICAL, lasts: Lasts::For(window), rate: None };
        let before: f64 = used().iter().sum();
        let tally = subject.load(Kind::Put, plan, &field, true, &connections).await;
        assert_eq!(tally.failed(), 0, "{axis} {value}: puts failed: {:?}", tally.failures);
        let micros = (used().iter().sum::<f64>() - before) * 1e6 / tally.all.requests as f64;
        (tally.per_second(), Latency::of(&tally.latency()).p99, micros)
    };
    puts(WARM_UP).await;
    let mut measured = Vec::new();
    for _ in 0..args.rounds {
        measured.push(puts(Duration::from_secs(args.seconds)).await);
    }
    let middle = |of: fn(&(f64, f64, f64)) -> f64| {
        let mut values: Vec<_> = measured.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        median(&values)
    };

    let Subject::Ours(cluster) = &subject else { unreachable!("it was made as one of ours") };
    let (clock, client) = (Clock::start(), cluster.client());
    let began = clock.now();
    client.complete_snapshot(SNAPSHOT_BOUND).await;
    let snapshot = clock.now() - began;
    Point {
        axis,
        value,
        setting,
        rows_written_a_second: field.keys() as f64 / filled.as_secs_f64(),
        idle_percent: idle * 100.0 / REST.as_secs_f64(),
        puts_a_second: middle(|m| m.0),
        put_p99_ms: middle(|m| m.1),
        put_micros: middle(|m| m.2),
        peak_memory_mib: pids.iter().map(|pid| peak_memory_mib(*pid)).fold(0.0, f64::max),
        snapshot_seconds: snapshot.as_secs_f64(),
    }
}

impl Growth {
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} cores ({}), {}; {} rounds of {} s each, medians; DeviceDB {}.\n\n",
            self.machine.cores,
            self.machine.processor,
            self.machine.filesystem,
            self.rounds,
            self.seconds,
            self.machine.devicedb
        );
        text += "| what grows | to | puts a second | processor time of all nodes for one, µs | put \
                 p99, ms | rows a second in batches | snapshot, s | peak memory of a node, MiB | \
                 idle, % of a core |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for p in &self.points {
            let numbers = [
                p.puts_a_second,
                p.put_micros,
                p.put_p99_ms,
                p.rows_written_a_second,
                p.snapshot_seconds,
                p.peak_memory_mib,
                p.idle_percent,
            ]
            .map(written);
            text += &format!("| {} | {} | {} |\n", p.axis, p.value, numbers.join(" | "));
        }
        text
    }

    /// One file for each thing that grows: rate and cost against it, as a share of the most.
    pub fn draw(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
        register_font();
        for axis in ["groups", "sites", "bytes in a value", "keys", "nodes"] {
            let points: Vec<_> = self.points.iter().filter(|p| p.axis == axis).collect();
            let curves: [(&str, RGBColor, Of); 3] = [
                ("puts a second", BLUE, |p| p.puts_a_second),
                ("processor time for a put", RGBColor(230, 120, 0), |p| p.put_micros),
                ("snapshot", GREY, |p| p.snapshot_seconds),
            ];
            let path = folder.join(format!("{}.svg", axis.replace(' ', "-")));
            let area = SVGBackend::new(&path, (800, 500)).into_drawing_area();
            area.fill(&WHITE)?;
            let ends = points
                .first()
                .zip(points.last())
                .map(|(first, last)| first.value as f64..last.value as f64)
                .ok_or("no points")?;
            let mut chart = ChartBuilder::on(&area);
            let mut chart = chart
                .margin(16)
                .x_label_area_size(44)
                .y_label_area_size(60)
                .build_cartesian_2d(ends.log_scale(), 0.0..1.05)?;
            chart
                .configure_mesh()
                .x_desc(axis)
                .y_desc("share of the most")
                .label_style((FONT, LABEL))
                .axis_desc_style((FONT, LABEL))
                .light_line_style(TRANSPARENT)
                .draw()?;
            for (name, colour, of) in curves {
                let most = points.iter().map(|p| of(p)).fold(f64::MIN_POSITIVE, f64::max);
                let line = LineSeries::new(
                    points.iter().map(|p| (p.value as f64, of(p) / most)),
                    colour.stroke_width(2),
                )
                .point_size(3);
                let label = format!("{name}, at most {}", written(most));
                chart.draw_series(line)?.label(label).legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerLeft)
                .label_font((FONT, LABEL))
                .background_style(WHITE.mix(0.8))
                .border_style(GREY)
                .draw()?;
            area.present()?;
        }
        Ok(())
    }
}
