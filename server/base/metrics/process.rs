//! What the kernel says of this process: `/proc/self`, as Linux has it (proc(5)).

use std::{fs, io};

use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Its own, and the kernel's for it.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_files: u64,
    pub files_max: u64,
    pub threads: u64,
    pub started_unix_s: u64,
}

/// Ticks of the times in /proc, a second: the same on every machine that Rust's Linux runs on.
const USER_HZ: u64 = 100;
/// When it began, in ticks since the machine did; counted from what follows the program's name.
const STARTED: usize = 19;

impl Process {
    pub fn look() -> io::Result<Process> {
        let read = |path| fs::read_to_string(path);
        let (status, stat) = (read("/proc/self/status")?, read("/proc/self/stat")?);
        let mut process = Process::of(&status, &stat, &read("/proc/stat")?)?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        process.cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        // One of them is the listing itself.
        process.open_files = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1) as u64;
        process.files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(process)
    }

    fn of(status: &str, stat: &str, machine: &str) -> io::Result<Process> {
        let missing = |what: &str| io::Error::other(format!("/proc says no {what}"));
        let field = |name: &str| -> io::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| missing(name))
        };
        // The name may hold spaces and parentheses.
        let started = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(STARTED));
        let started = started.and_then(|ticks| ticks.parse::<u64>().ok());
        let boot = machine.lines().find_map(|line| line.strip_prefix("btime "));
        let boot = boot.and_then(|at| at.parse::<u64>().ok()).ok_or_else(|| missing("btime"))?;
        Ok(Process {
            resident_bytes: field("VmRSS")? * 1024,
            virtual_bytes: field("VmSize")? * 1024,
            threads: field("Threads")?,
            started_unix_s: boot + started.ok_or_else(|| missing("start"))? / USER_HZ,
            ..Process::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn what_stands_in_proc_is_read_whatever_the_program_is_called() {
        let status = "Name:\ta ) b\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\nThreads:\t9\n";
        let stat = "77 (a ) b (c) S 1 77 77 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 9 0 1000 2097152";
        let process = Process::of(status, stat, "cpu 1 2\nbtime 1700000000\n").unwrap();
        let wanted = Process {
            resident_bytes: 512 << 10,
            virtual_bytes: 2 << 20,
            threads: 9,
            started_unix_s: 1_700_000_010,
            ..Process::default()
        };
        assert_eq!(process, wanted);
        for (status, stat, machine, lacks) in [
            ("", stat, "btime 1", "VmRSS"),
            (status, "1 (x) S 1", "btime 1", "start"),
            (status, "", "btime 1", "start"),
            (status, stat, "cpu 1", "btime"),
        ] {
            let error = Process::of(status, stat, machine).unwrap_err().to_string();
            assert!(error.contains(lacks), "{error}");
        }
    }

    #[test]
    fn this_process_is_seen() {
        let process = Process::look().unwrap();
        assert!(process.resident_bytes > 0 && process.virtual_bytes >= process.resident_bytes);
        assert!(process.threads > 0 && process.open_files > 0 && process.cpu_seconds > 0.0);
        assert!(process.open_files <= process.files_max);
        let now_s = Clock::start().wall_ms() / 1000;
        assert!(process.started_unix_s < now_s + 2, "{process:?}");
    }
}
