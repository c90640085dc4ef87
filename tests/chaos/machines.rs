//! What makes a process a machine of its own: a small disk that can be full, and clocks that differ
//! from start to start.
//!
//! Both are namespaces of Linux, which an ordinary user may make where unprivileged user namespaces
//! are allowed. A process that only waits holds a mount namespace with a tmpfs for every node, so
//! that a disk outlives its node; nodes are started inside. A disk is filled by a file beside the
//! store.
//!
//! A time namespace shifts `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`, all that the database uses for
//! deadlines, elections and leases; each start of a node may have another shift, as machines that
//! boot do. The wall clock has no such namespace, and the machine's own is not touched: promise 7
//! is that it only stamps. A clock that jumps while a process runs is what a process that was
//! stopped sees, and that is done.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use devicedb::base::clock::Random;
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    io::Errno,
};

/// Room for a store and its log, which keeps up to some 300 MiB of itself.
const DISK_MEBIBYTES: u32 = 512;
const SHIFT_SECONDS_MAX: u64 = 100 * 24 * 3600;
const BALLAST: &str = "ballast";

pub struct Machines {
    /// Ends when its standard input does, at the latest with this process.
    holder: Child,
    disks: Vec<PathBuf>,
    pub clocks: bool,
}

impl Machines {
    /// Mounts a disk at each of these empty directories; what it says when that is not permitted.
    pub fn with_disks(disks: Vec<PathBuf>) -> Result<Machines, String> {
        let script = format!(
            r#"for disk; do mount -t tmpfs -o size={DISK_MEBIBYTES}m small "$disk" || exit 1; done
            echo mounted; exec cat"#
        );
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
            .args(&disks);
        let holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut machines = Machines { holder, disks, clocks: false };
        let mut said = String::new();
        let out = machines.holder.stdout.take().expect("it is piped");
        // It has said so, or has ended.
        BufReader::new(out).read_line(&mut said).map_err(|e| e.to_string())?;
        if said != "mounted\n" {
            let mut why = String::new();
            let _ = machines.holder.stderr.take().expect("it is piped").read_to_string(&mut why);
            return Err(format!("unshare and mount: {}", why.trim()));
        }
        machines.clocks = machines.clocks_can_be_shifted();
        for disk in 0..machines.disks.len() {
            fs::write(machines.seen(disk).join(BALLAST), "")
                .map_err(|e| format!("the disk of node {disk} is out of reach: {e}"))?;
        }
        Ok(machines)
    }

    /// What stands before a command that is to run there, with clocks shifted by so many seconds.
    pub fn under(&self, shift_seconds: u64) -> Vec<String> {
        let holder = self.holder.id().to_string();
        let mut words: Vec<String> =
            ["nsenter", "--target", &holder, "--user", "--mount", "--preserve-credentials"]
                .map(str::to_string)
                .to_vec();
        if shift_seconds > 0 {
            let shift = shift_seconds.to_string();
            words.extend(
                ["unshare", "--time", "--boottime", &shift, "--monotonic", &shift]
                    .map(str::to_string),
            );
        }
        words
    }

    pub fn another_shift(&self, rng: &mut Random) -> u64 {
        1 + rng.below(SHIFT_SECONDS_MAX)
    }

    /// Takes all the room there is.
    pub fn fill(&self, disk: usize) {
        let path = self.seen(disk).join(BALLAST);
        let ballast = File::options().write(true).open(&path).unwrap();
        loop {
            let room = statvfs(&path).unwrap();
            let (held, more) = (ballast.metadata().unwrap().len(), room.f_bavail * room.f_frsize);
            // The store may have been faster.
            match fallocate(&ballast, FallocateFlags::empty(), held, more.max(1)) {
                Ok(()) => {}
                Err(Errno::NOSPC) if more == 0 => return,
                Err(Errno::NOSPC | Errno::INTR) => {}
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
    }

    pub fn make_room(&self, disk: usize) {
        File::options()
            .write(true)
            .open(self.seen(disk).join(BALLAST))
            .unwrap()
            .set_len(0)
            .unwrap();
    }

    /// A disk as it is seen from outside.
    pub fn seen(&self, disk: usize) -> PathBuf {
        let inside =
            self.disks[disk].strip_prefix("/").expect("temporary directories have absolute paths");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }

    /// Kernels before 6.3 shift the clocks of children only, and an old `unshare` knows of none.
    fn clocks_can_be_shifted(&self) -> bool {
        let uptime = |text: &str| {
            text.split(['.', ' ']).next().and_then(|seconds| seconds.parse::<u64>().ok())
        };
        let (words, here) = (self.under(100_000), fs::read_to_string("/proc/uptime").unwrap());
        let there = Command::new(&words[0])
            .args(&words[1..])
            .args(["cat", "/proc/uptime"])
            .stderr(Stdio::null())
            .output();
        let there = there.ok().and_then(|output| uptime(&String::from_utf8_lossy(&output.stdout)));
        there.is_some_and(|there| there >= uptime(&here).expect("seconds since boot") + 100_000)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
