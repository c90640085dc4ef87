//! Time and chance, the only two doors to them. Whatever decides is handed a time and a `Random`,
//! so that the same seed gives the same story.
//!
//! `Clock::now` is monotonic and starts at zero; correctness may use it only for leases and
//! deadlines. `Clock::wall_ms` is data for people and for `lww`.

#![allow(clippy::disallowed_methods)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use uuid::Uuid;

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Duration,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { origin: since_boot() }
    }

    /// Since the process started; never goes back, and goes on while the machine is suspended, so
    /// that a lease ends there too.
    pub fn now(&self) -> Duration {
        since_boot().saturating_sub(self.origin)
    }

    /// Milliseconds since 1970 as the machine believes; may jump.
    pub fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}

/// How long the calling thread has had a processor, to be told to people.
pub fn busy() -> Duration {
    since_origin(ClockId::ThreadCPUTime)
}

fn since_boot() -> Duration {
    since_origin(ClockId::Boottime)
}

fn since_origin(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// A generator of chance: SplitMix64 (Steele, Lea and Flood 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn seeded(seed: u64) -> Random {
        Random { state: seed }
    }

    /// Seeded by the operating system.
    pub fn from_entropy() -> Random {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        Random { state: high ^ low.rotate_left(32) }
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly from `0..n`, as evenly as 64 bits allow.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing lies below zero");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Never 0.
    pub fn nonzero(&mut self) -> u64 {
        self.next_u64().max(1)
    }

    /// A name, formed as a random (version 4) UUID.
    pub fn uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(
            (u128::from(self.next_u64()) << 64 | u128::from(self.next_u64())).to_be_bytes(),
        )
        .into_uuid()
    }
}
