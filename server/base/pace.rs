//! How fast this node sends or takes something.
//!
//! Bytes are paid for before they are sent, each by the time that it takes at the rate, and one
//! sender after the other. So what has been sent by any moment is never more than the rate allows
//! since the first of it, however little it is.

use std::{sync::Mutex, time::Duration};

use super::{clock::Clock, locks::lock};

/// When the bytes that are paid for or wait to be will all have been.
#[derive(Default)]
pub struct Pace {
    until: Mutex<Duration>,
}

/// What some bytes cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// How long they have to wait.
    pub wait: Duration,
    takes: Duration,
}

impl Pace {
    /// Takes the next time that is free.
    pub fn pay(&self, now: Duration, bytes: u64, bytes_per_second: u64) -> Price {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut until = lock(&self.until);
        *until = now.max(*until).saturating_add(takes);
        Price { wait: until.saturating_sub(now), takes }
    }

    /// What was paid for is not sent: whoever comes next need not wait for it.
    pub fn give_back(&self, price: Price) {
        let mut until = lock(&self.until);
        *until = until.saturating_sub(price.takes);
    }
}

/// A pace at one rate, for tasks that wait until their bytes are paid for.
pub struct Paced {
    pace: Pace,
    bytes_per_second: u64,
    clock: Clock,
}

/// What a task has paid and waits for. Dropped before that, it is given back.
struct Turn<'a> {
    of: &'a Pace,
    price: Option<Price>,
}

impl Paced {
    pub fn new(bytes_per_second: u64, clock: Clock) -> Paced {
        Paced { pace: Pace::default(), bytes_per_second, clock }
    }

    /// Waits until these bytes may go.
    pub async fn pay(&self, bytes: u64) {
        let price = self.pace.pay(self.clock.now(), bytes, self.bytes_per_second);
        let mut turn = Turn { of: &self.pace, price: Some(price) };
        tokio::time::sleep(price.wait).await;
        turn.price = None;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(price) = self.price {
            self.of.give_back(price);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::polled::Polled;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_bytes_wait_like_all_others() {
        let pace = Pace::default();
        assert_eq!(pace.pay(SECOND, 500, 1000).wait, SECOND / 2);
        assert_eq!(pace.pay(SECOND, 500, 1000).wait, SECOND);
        assert_eq!(pace.pay(3 * SECOND, 500, 1000).wait, SECOND / 2, "idle time is not saved up");
        let long = pace.pay(3 * SECOND, u64::MAX, 1);
        assert!(long.wait > 1_000_000 * SECOND);
        pace.give_back(long);
        assert_eq!(pace.pay(3 * SECOND, 500, 1000).wait, SECOND);
    }

    #[test]
    fn whoever_no_longer_waits_gives_the_time_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let paced = Paced::new(1, Clock::start());
        let mut waits = Polled::new(paced.pay(1_000_000));
        assert!(waits.poll().is_pending());
        let until = *lock(&paced.pace.until);
        assert!(until >= 1_000_000 * SECOND);
        drop(waits);
        assert_eq!(*lock(&paced.pace.until), until - 1_000_000 * SECOND);
    }

    proptest! {
        #[test]
        fn no_more_is_sent_than_the_rate_allows(
            rate in 1..100_000u64,
            sends in proptest::collection::vec((0..2_000_000u64, 0..5_000u64), 1..30),
        ) {
            let (pace, mut now, mut sent) = (Pace::default(), Duration::ZERO, 0);
            for (bytes, pause_ms) in sends {
                now += Duration::from_millis(pause_ms);
                let price = pace.pay(now, bytes, rate);
                sent += bytes;
                let allowed = (now + price.wait).as_secs_f64() * rate as f64;
                // Each is rounded by less than a nanosecond.
                prop_assert!(sent as f64 <= allowed + 1.0 + rate as f64 * 1e-6, "{sent} {allowed}");
            }
        }
    }
}
