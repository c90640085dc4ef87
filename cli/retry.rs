//! When and where to try again: a pure schedule over the endpoints, with a deadline that progress
//! moves.
//!
//! - Every endpoint is tried once before any is tried again, and gets its share of the time that is
//!   left, so that one that hangs cannot eat it all.
//! - From the second round on attempts wait, doubling, with jitter, and at least as long as a
//!   server has asked for in the round before.
//! - When no endpoint could ever be connected to, it gives up after `limits::CTL_ROUNDS_REFUSED`
//!   rounds: nobody wants to wait ten seconds for "connection refused". A patient schedule goes on
//!   until its deadline.

use std::time::Duration;

use crate::base::{clock::Random, limits};

#[derive(Clone, Debug)]
pub struct Attempts {
    endpoints: usize,
    first: usize,
    tried: usize,
    patience: Duration,
    deadline: Duration,
    patient: bool,
    connected: bool,
    slower: usize,
    /// What servers have asked for since the last round began.
    rest: Duration,
}

/// An attempt: at which endpoint, after which pause, and within which time from its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub endpoint: usize,
    pub after: Duration,
    pub within: Duration,
}

impl Attempts {
    /// Begins at the endpoint `first`, and ends `patience` after `now` or after the last progress.
    pub fn begin(
        endpoints: usize,
        first: usize,
        now: Duration,
        patience: Duration,
        patient: bool,
    ) -> Attempts {
        assert!(endpoints > 0, "the command line names at least one endpoint");
        Attempts {
            endpoints,
            first,
            tried: 0,
            patience,
            deadline: now + patience,
            patient,
            connected: false,
            slower: 0,
            rest: Duration::ZERO,
        }
    }

    /// None when it is time to give up.
    pub fn next(&mut self, now: Duration, rng: &mut Random) -> Option<Attempt> {
        let round = self.tried / self.endpoints;
        let hopeless = !self.connected && !self.patient && round >= limits::CTL_ROUNDS_REFUSED;
        if hopeless || self.slower >= limits::CTL_SLOWER_MAX {
            return None;
        }
        let mut after = delay(round, rng);
        if self.tried.is_multiple_of(self.endpoints) {
            after = after.max(std::mem::take(&mut self.rest));
        }
        let left = self.deadline.checked_sub(now + after).filter(|left| !left.is_zero())?;
        let untried = self.endpoints - self.tried % self.endpoints;
        let within = left / untried as u32;
        if round > 0 && within < limits::CTL_ATTEMPT_MIN {
            return None;
        }
        let attempt =
            Attempt { endpoint: (self.first + self.tried) % self.endpoints, after, within };
        self.tried += 1;
        Some(attempt)
    }

    pub fn connected(&mut self) {
        self.connected = true;
    }

    /// The server asked to slow down, and to come again after so long.
    pub fn slower(&mut self, rest: Duration) {
        self.slower += 1;
        self.rest = self.rest.max(rest);
    }

    /// Something arrived: the deadline moves. Returns how long the endpoint has for the next thing.
    pub fn progress(&mut self, now: Duration) -> Duration {
        self.first = (self.first + self.tried) % self.endpoints;
        self.tried = 0;
        (self.slower, self.rest) = (0, Duration::ZERO);
        self.deadline = now + self.patience;
        self.patience / self.endpoints as u32
    }
}

fn delay(round: usize, rng: &mut Random) -> Duration {
    if round == 0 {
        return Duration::ZERO;
    }
    let most =
        limits::CTL_RETRY_MIN.saturating_mul(1 << (round - 1).min(16)).min(limits::CTL_RETRY_MAX);
    most / 2 + Duration::from_micros(rng.below(most.as_micros() as u64 / 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_hanging_endpoint_leaves_time_for_the_others() {
        let mut rng = Random::seeded(1);
        let mut attempts = Attempts::begin(3, 1, Duration::ZERO, 9 * S, false);
        let first = attempts.next(Duration::ZERO, &mut rng).unwrap();
        assert_eq!(first, Attempt { endpoint: 1, after: Duration::ZERO, within: 3 * S });
        let second = attempts.next(3 * S, &mut rng).unwrap();
        assert_eq!((second.endpoint, second.within), (2, 3 * S));
        let third = attempts.next(6 * S, &mut rng).unwrap();
        assert_eq!((third.endpoint, third.within), (0, 3 * S));
        assert_eq!(attempts.next(9 * S, &mut rng), None);
    }

    #[test]
    fn nobody_waits_for_connection_refused_unless_asked_to() {
        let tries = |patient| {
            let (mut rng, mut now) = (Random::seeded(1), Duration::ZERO);
            let mut attempts = Attempts::begin(2, 0, now, 10 * S, patient);
            let mut tries = 0;
            while let Some(attempt) = attempts.next(now, &mut rng) {
                now += attempt.after;
                tries += 1;
            }
            (tries, now)
        };
        let (eager, eager_took) = tries(false);
        assert_eq!(eager, 2 * limits::CTL_ROUNDS_REFUSED);
        assert!(eager_took < S, "{eager_took:?}");
        let (patient, patient_took) = tries(true);
        assert!(patient > eager && patient_took > 8 * S, "{patient} {patient_took:?}");
    }

    #[test]
    fn what_is_left_at_the_end_is_not_spent_on_an_attempt_that_cannot_be_answered() {
        let mut rng = Random::seeded(1);
        let mut attempts = Attempts::begin(2, 0, Duration::ZERO, S, false);
        let short = Duration::from_millis(950);
        assert!(
            attempts.next(short, &mut rng).is_some() && attempts.next(short, &mut rng).is_some(),
            "each is asked once, however late"
        );
        attempts.connected();
        assert_eq!(attempts.next(S - limits::CTL_ATTEMPT_MIN, &mut rng), None);
    }

    #[test]
    fn progress_moves_the_deadline_and_forgives_the_past() {
        let mut rng = Random::seeded(1);
        let mut attempts = Attempts::begin(1, 0, Duration::ZERO, 2 * S, false);
        attempts.next(Duration::ZERO, &mut rng).unwrap();
        assert_eq!(attempts.progress(Duration::from_millis(1900)), 2 * S);
        let next = attempts.next(Duration::from_millis(3800), &mut rng).unwrap();
        assert_eq!((next.after, next.within), (Duration::ZERO, Duration::from_millis(100)));
        assert_eq!(attempts.next(4 * S, &mut rng), None);
    }

    #[test]
    fn a_busy_server_is_asked_a_few_times_and_no_more() {
        let mut rng = Random::seeded(1);
        let mut attempts = Attempts::begin(1, 0, Duration::ZERO, 100 * S, false);
        let mut asked = 0;
        while attempts.next(Duration::ZERO, &mut rng).is_some() {
            attempts.connected();
            attempts.slower(Duration::ZERO);
            asked += 1;
        }
        assert_eq!(asked, limits::CTL_SLOWER_MAX);
    }

    #[test]
    fn a_server_that_says_how_long_to_wait_is_asked_again_no_earlier() {
        let mut rng = Random::seeded(1);
        let mut attempts = Attempts::begin(2, 0, Duration::ZERO, 10 * S, false);
        attempts.next(Duration::ZERO, &mut rng).unwrap();
        attempts.connected();
        attempts.slower(3 * S);
        let other = attempts.next(Duration::ZERO, &mut rng).unwrap();
        assert_eq!((other.endpoint, other.after), (1, Duration::ZERO), "it has not said so");
        let again = attempts.next(Duration::ZERO, &mut rng).unwrap();
        assert_eq!((again.endpoint, again.after), (0, 3 * S));
        attempts.next(3 * S, &mut rng).unwrap();
        attempts.slower(20 * S);
        assert_eq!(attempts.next(3 * S, &mut rng), None, "nobody waits past the deadline");
    }

    proptest! {
        #[test]
        fn no_attempt_passes_the_deadline(
            endpoints in 1..5usize,
            first in 0..5usize,
            seed: u64,
            patience_ms in 1..20_000u64,
        ) {
            let (mut rng, mut now) = (Random::seeded(seed), 7 * S);
            let deadline = now + Duration::from_millis(patience_ms);
            let mut attempts = Attempts::begin(
                endpoints,
                first % endpoints,
                now,
                Duration::from_millis(patience_ms),
                true,
            );
            while let Some(attempt) = attempts.next(now, &mut rng) {
                prop_assert!(attempt.endpoint < endpoints && !attempt.within.is_zero());
                prop_assert!(now + attempt.after + attempt.within <= deadline);
                now += attempt.after + attempt.within / 2;
            }
        }
    }
}
