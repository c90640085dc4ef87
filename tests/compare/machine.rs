//! What a reader has to know of the machine to believe a number, and what a process has used.

use std::{fs, io::Write as _, path::Path, process::Command};

use devicedb::base::clock::Clock;
use serde::Serialize;

const SYNCS: usize = 200;
/// Linux counts the time of processes in hundredths of a second, on every architecture that it
/// tells anybody of.
const TICKS_A_SECOND: f64 = 100.0;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_gib: u64,
    pub kernel: String,
    pub filesystem: String,
    /// Median of writes of 4 KiB at the end of a file, each synchronised.
    pub sync_micros: u64,
    pub devicedb: String,
    pub etcd: String,
}

impl Machine {
    pub fn look() -> Machine {
        let dir = std::env::temp_dir();
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory_gib: number(&field("/proc/meminfo", "MemTotal")) >> 20,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_string(),
            filesystem: filesystem(&dir),
            sync_micros: sync_micros(&dir),
            devicedb: format!(
                "{} ({})",
                env!("CARGO_PKG_VERSION"),
                said("git", &["rev-parse", "--short", "HEAD"])
            ),
            etcd: said("etcd", &["--version"]).replace("etcd Version: ", ""),
        }
    }

    /// Where nothing reaches a disk, nothing durable is measured.
    pub fn is_durable(&self) -> bool {
        !["tmpfs", "ramfs", "overlay"].contains(&self.filesystem.as_str())
    }
}

/// The largest resident memory that a process has had, in MiB.
pub fn peak_memory_mib(pid: u32) -> f64 {
    number(&field(&format!("/proc/{pid}/status"), "VmHWM")) as f64 / 1024.0
}

/// Processor seconds that processes have used.
pub fn processor_seconds(pids: &[u32]) -> f64 {
    let ticks = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in brackets may hold spaces; user and system time are the 12th and 13th words
        // behind it.
        let words = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(number);
        words.sum::<u64>()
    };
    pids.iter().map(ticks).sum::<u64>() as f64 / TICKS_A_SECOND
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    line.unwrap_or_default().trim().to_string()
}

fn number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The kind of file system that a directory lies in.
fn filesystem(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let around = mounts.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.len());
    around.map_or(String::new(), |(_, kind)| kind.to_string())
}

fn sync_micros(dir: &Path) -> u64 {
    let mut file = tempfile::tempfile_in(dir).unwrap();
    let clock = Clock::start();
    let mut took: Vec<_> = (0..SYNCS)
        .map(|_| {
            let began = clock.now();
            file.write_all(&[0; 4096]).unwrap();
            file.sync_data().unwrap();
            clock.now() - began
        })
        .collect();
    took.sort();
    took[SYNCS / 2].as_micros() as u64
}

/// The first line of what a command says.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_string()
}
