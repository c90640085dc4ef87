//! Loopback ports that no two tests share, whichever processes they run in.
//!
//! A claim is a locked file, so it outlives the node that listens and ends with the process that
//! made it. Ports lie below the range that the kernel draws from for connections: a node that is
//! down finds its own free when it returns.

use std::{
    fs::{self, File},
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

const FIRST: u32 = 20_000;
const COUNT: u32 = 10_000;

pub struct Port {
    pub number: u16,
    _claim: File,
}

impl Port {
    /// A port that nobody else has claimed and nobody listens on.
    pub fn claim() -> Port {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join("devicedb-test-ports");
        fs::create_dir_all(&dir).unwrap();
        for _ in 0..COUNT {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed);
            let number =
                (FIRST + std::process::id().wrapping_mul(37).wrapping_add(turn) % COUNT) as u16;
            let Ok(claim) = File::create(dir.join(number.to_string())) else { continue };
            if claim.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Port { number, _claim: claim };
            }
        }
        panic!("none of {COUNT} ports from {FIRST} is free");
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
