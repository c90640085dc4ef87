//! What a load came to: how many requests, how fast, how slow the slowest, what went wrong.
//!
//! Latencies stand in HDR histograms (Gil Tene): three digits of every latency are right, and no
//! percentile is an average of percentiles. Failures are counted by kind and stand beside the
//! latencies, which are of answers alone.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tonic::Status;

use crate::ctl::fault::{self, Fault};

const DIGITS: u8 = 3;
/// For the picture two digits do.
const MOMENT_DIGITS: u8 = 2;
const MOMENT: Duration = Duration::from_millis(100);
/// What a histogram holds; far beyond any deadline.
const LATENCY_MIN: Duration = Duration::from_micros(1);
const LATENCY_MAX: Duration = Duration::from_secs(7 * 86_400);
const GROWS: &str = "a histogram grows to what it has to hold";
/// When there are more, two become one.
const MOMENTS_MAX: usize = 200;

/// An answer: what was asked, and what it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub verb: &'static str,
    pub rows: u64,
    /// Of keys and values.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub requests: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    pub count: u64,
    /// The first one's words.
    pub example: String,
    pub exit: u8,
}

/// A short stretch of a load.
#[derive(Clone, Debug)]
pub struct Moment {
    pub sum: Sum,
    pub failures: u64,
    /// Microseconds.
    pub latency: Histogram<u32>,
}

#[derive(Clone, Debug)]
pub struct Tally {
    /// The time that rates are of.
    pub took: Duration,
    /// Every answer.
    pub all: Sum,
    /// The answers within `took`.
    pub in_time: Sum,
    /// Microseconds, by verb.
    pub latency: BTreeMap<&'static str, Histogram<u64>>,
    pub failures: BTreeMap<String, Failures>,
    /// Requests that were due and never sent.
    pub unsent: u64,
    /// The longest time without an answer.
    pub longest_silence: Duration,
    pub step: Duration,
    pub moments: Vec<Moment>,
}

/// Counts while a load runs. Times are those of one clock.
#[derive(Debug)]
pub struct Meter {
    began: Duration,
    /// Answers after this do not count for the rate.
    until: Option<Duration>,
    answered: Duration,
    tally: Tally,
}

impl Meter {
    pub fn begin(began: Duration, until: Option<Duration>) -> Meter {
        Meter { began, until, answered: began, tally: Tally::default() }
    }

    /// Takes the end of a request, `latency` after it began or was due.
    pub fn note(&mut self, now: Duration, latency: Duration, outcome: &Result<Done, Status>) {
        let micros = latency.clamp(LATENCY_MIN, LATENCY_MAX).as_micros() as u64;
        let until = self.until;
        let moment = self.moment(now);
        match outcome {
            Err(status) => {
                moment.failures += 1;
                self.tally.fail(status);
            }
            Ok(done) => {
                moment.latency.record(micros).expect(GROWS);
                moment.sum.add(done);
                let histogram = self.tally.latency.entry(done.verb).or_insert_with(histogram);
                histogram.record(micros).expect(GROWS);
                self.tally.all.add(done);
                if until.is_none_or(|until| now <= until) {
                    self.tally.in_time.add(done);
                }
                self.fall_silent_until(now);
            }
        }
    }

    /// What was counted so far; counting begins anew.
    pub fn split(&mut self, now: Duration) -> Tally {
        let end = self.until.unwrap_or(now);
        self.fall_silent_until(end);
        self.tally.took = end.saturating_sub(self.began);
        std::mem::replace(self, Meter::begin(now, None)).tally
    }

    pub fn so_far(&self) -> &Tally {
        &self.tally
    }

    fn fall_silent_until(&mut self, now: Duration) {
        self.tally.longest_silence =
            self.tally.longest_silence.max(now.saturating_sub(self.answered));
        self.answered = self.answered.max(now);
    }

    fn moment(&mut self, now: Duration) -> &mut Moment {
        let since = now.saturating_sub(self.began);
        while since.as_nanos() / self.tally.step.as_nanos() >= MOMENTS_MAX as u128 {
            self.tally.halve();
        }
        let at = (since.as_nanos() / self.tally.step.as_nanos()) as usize;
        let moments = &mut self.tally.moments;
        moments.resize_with(moments.len().max(at + 1), Moment::default);
        &mut moments[at]
    }
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            took: Duration::ZERO,
            all: Sum::default(),
            in_time: Sum::default(),
            latency: BTreeMap::new(),
            failures: BTreeMap::new(),
            unsent: 0,
            longest_silence: Duration::ZERO,
            step: MOMENT,
            moments: Vec::new(),
        }
    }
}

impl Tally {
    pub fn per_second(&self) -> f64 {
        self.in_time.requests as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    pub fn failed(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }

    /// Of all verbs.
    pub fn latency(&self) -> Histogram<u64> {
        self.latency.values().fold(histogram(), |mut all, one| {
            all.add(one).expect(GROWS);
            all
        })
    }

    fn fail(&mut self, status: &Status) {
        let new = || {
            let fault = Fault::of(status);
            Failures { count: 0, example: fault.message, exit: fault.exit }
        };
        self.failures.entry(fault::kind(status)).or_insert_with(new).count += 1;
    }

    fn halve(&mut self) {
        self.step *= 2;
        let pairs = self.moments.chunks(2);
        self.moments =
            pairs.map(|pair| pair[1..].iter().fold(pair[0].clone(), Moment::joined)).collect();
    }
}

impl Default for Moment {
    fn default() -> Moment {
        let latency =
            Histogram::new(MOMENT_DIGITS).expect("the digits are within what a histogram can");
        Moment { sum: Sum::default(), failures: 0, latency }
    }
}

impl Moment {
    fn joined(mut self, other: &Moment) -> Moment {
        let Sum { requests, rows, bytes } = other.sum;
        self.sum = Sum {
            requests: self.sum.requests + requests,
            rows: self.sum.rows + rows,
            bytes: self.sum.bytes + bytes,
        };
        self.failures += other.failures;
        self.latency.add(&other.latency).expect(GROWS);
        self
    }
}

impl Sum {
    fn add(&mut self, done: &Done) {
        self.requests += 1;
        self.rows += done.rows;
        self.bytes += done.bytes;
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(DIGITS).expect("the digits are within what a histogram can")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUT: Done = Done { verb: "put", rows: 1, bytes: 10 };

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let mut meter = Meter::begin(ms(0), None);
        for n in 1..=1000 {
            meter.note(ms(n), ms(n), &Ok(PUT));
        }
        let tally = meter.split(ms(1000));
        let latency = &tally.latency["put"];
        for (quantile, expected) in
            [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000), (0.999, 999_000)]
        {
            let found = latency.value_at_quantile(quantile);
            assert!(found.abs_diff(expected) * 1000 <= expected, "p{quantile}: {found}");
        }
        assert_eq!((tally.all.requests, tally.per_second()), (1000, 1000.0));
    }

    #[test]
    fn what_comes_after_the_end_counts_as_latency_and_not_as_rate() {
        let mut meter = Meter::begin(ms(0), Some(ms(1000)));
        meter.note(ms(900), ms(5), &Ok(PUT));
        meter.note(ms(3000), ms(2500), &Ok(PUT));
        let tally = meter.split(ms(3000));
        assert_eq!((tally.all.requests, tally.in_time.requests, tally.took), (2, 1, ms(1000)));
        assert!(tally.latency().max() >= 2_500_000);
    }

    #[test]
    fn failures_are_counted_by_kind_and_are_no_latencies() {
        let mut meter = Meter::begin(ms(0), None);
        meter.note(ms(1), ms(1), &Err(Status::unavailable("no leader")));
        meter.note(ms(2), ms(1), &Err(Status::unavailable("still none")));
        meter.note(ms(3), ms(1), &Err(Status::internal("odd")));
        let tally = meter.split(ms(10));
        let counted: Vec<_> = tally
            .failures
            .iter()
            .map(|(kind, failures)| (kind.as_str(), failures.count, failures.example.as_str()))
            .collect();
        assert_eq!(counted, [("Internal", 1, "odd"), ("Unavailable", 2, "no leader")]);
        assert_eq!((tally.all.requests, tally.failed(), tally.latency().len()), (0, 3, 0));
        assert_eq!(tally.longest_silence, ms(10));
    }

    #[test]
    fn a_long_load_has_no_more_moments_than_a_picture_needs() {
        let mut meter = Meter::begin(ms(0), None);
        for n in 0..100_000 {
            meter.note(ms(n), ms(1), &Ok(PUT));
        }
        let tally = meter.split(ms(100_000));
        assert_eq!((tally.step, tally.moments.len()), (ms(800), 125));
        assert!(
            tally
                .moments
                .iter()
                .all(|moment| moment.sum.requests == 800 && moment.latency.len() == 800)
        );
    }

    #[test]
    fn a_split_begins_anew() {
        let mut meter = Meter::begin(ms(0), None);
        meter.note(ms(10), ms(1), &Ok(PUT));
        assert_eq!(meter.split(ms(50)).longest_silence, ms(40));
        meter.note(ms(60), ms(1), &Ok(PUT));
        let second = meter.split(ms(70));
        assert_eq!((second.all.requests, second.took, second.moments.len()), (1, ms(20), 1));
    }
}
