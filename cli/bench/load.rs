//! Drives requests: so many clients at a time, until a time or a number is reached.
//!
//! - *Closed loop*: a client asks again when it has its answer. A slow server is asked less, and
//!   its slowness counts once.
//! - *Open loop*: requests are due at fixed times, and latency counts from when a request was due,
//!   whether or not a client was free to send it. That is what users see who come when they come,
//!   and what a closed loop leaves out ("coordinated omission", Gil Tene).
//!
//! It knows nothing of what is asked: `Work` does. It repeats nothing; what fails is counted.

use std::{
    future::Future,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet};
use tonic::Status;

use super::tally::{Done, Meter, Tally};
use crate::base::clock::Clock;

/// How long a client whose request failed keeps from asking again, so that a server that is down is
/// not asked a million times.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How often who says what is due looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// One kind of request, as one client makes it again and again.
pub trait Work: Send + 'static {
    /// The nth request of all clients, from 0.
    fn once(&mut self, nth: u64) -> impl Future<Output = Result<Done, Status>> + Send;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub clients: usize,
    pub lasts: Lasts,
    /// Requests a second that are due; none for a closed loop.
    pub rate: Option<NonZeroU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    For(Duration),
    Requests(u64),
    UntilStopped,
}

/// A load that runs.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    clock: Clock,
    began: Duration,
    plan: Plan,
    next: AtomicU64,
    sent: AtomicU64,
    stopped: AtomicBool,
    /// One for every request that is due and not taken.
    due: Semaphore,
    meter: Mutex<Meter>,
}

impl Load {
    /// Starts it; `work` makes the work of each client.
    pub fn start<W: Work>(plan: Plan, clock: Clock, work: impl FnMut(usize) -> W) -> Load {
        let began = clock.now();
        let until = if let Lasts::For(window) = plan.lasts { Some(began + window) } else { None };
        let shared = Arc::new(Shared {
            clock,
            began,
            plan,
            next: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            due: Semaphore::new(0),
            meter: Mutex::new(Meter::begin(began, until)),
        });
        let mut clients = JoinSet::new();
        for work in (0..plan.clients).map(work) {
            clients.spawn(ask(shared.clone(), work));
        }
        if let Some(rate) = plan.rate {
            // A thread of its own: tokio's timers are as coarse as many an answer is slow.
            let shared = shared.clone();
            thread::spawn(move || shared.pace(rate));
        }
        Load { shared, clients }
    }

    /// Runs one to its end.
    pub async fn run<W: Work>(plan: Plan, clock: Clock, work: impl FnMut(usize) -> W) -> Tally {
        let mut load = Load::start(plan, clock, work);
        load.wait().await;
        load.end()
    }

    /// Waits for every client. Giving up the wait gives up nothing else.
    pub async fn wait(&mut self) {
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic and is not aborted");
        }
    }

    /// From now on nothing more is asked.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Relaxed);
    }

    /// What was counted so far; counting begins anew.
    pub fn split(&self) -> Tally {
        self.shared.meter().split(self.shared.clock.now())
    }

    /// Of a load that was waited for.
    pub fn end(self) -> Tally {
        let mut tally = self.split();
        if let Lasts::For(window) = self.shared.plan.lasts {
            tally.unsent =
                self.shared.plan.due_in_all(window).saturating_sub(self.shared.sent.load(Relaxed));
        }
        tally
    }

    /// A look at what is counted, while it is.
    pub fn glance<T>(&self, look: impl FnOnce(&Tally, Duration) -> T) -> T {
        let since = self.shared.clock.now().saturating_sub(self.shared.began);
        look(self.shared.meter().so_far(), since)
    }
}

/// A load that is dropped before its end, ends.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn ask<W: Work>(shared: Arc<Shared>, mut work: W) {
    while let Some((nth, from)) = shared.turn().await {
        let outcome = work.once(nth).await;
        let now = shared.clock.now();
        shared.meter().note(now, now.saturating_sub(from), &outcome);
        if outcome.is_err() {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

impl Shared {
    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().expect("nobody panics while they count")
    }

    /// The next request, and when its latency begins. None when there is nothing more to ask.
    async fn turn(&self) -> Option<(u64, Duration)> {
        if self.plan.rate.is_some() {
            self.due.acquire().await.expect("it is never closed").forget();
        }
        let nth = self.next.fetch_add(1, Relaxed);
        if self.is_over() || self.plan.requests_max().is_some_and(|most| nth >= most) {
            return None;
        }
        self.sent.fetch_add(1, Relaxed);
        Some((
            nth,
            self.plan
                .rate
                .map_or_else(|| self.clock.now(), |rate| self.began + due_after(nth, rate)),
        ))
    }

    fn is_over(&self) -> bool {
        let since = self.clock.now().saturating_sub(self.began);
        self.stopped.load(Relaxed)
            || matches!(self.plan.lasts, Lasts::For(window) if since >= window)
    }

    /// Says what is due when it is due, to the end; then lets every client see that it is the end.
    fn pace(&self, rate: NonZeroU64) {
        let mut said = 0;
        while !self.is_over() && self.plan.requests_max().is_none_or(|most| said < most) {
            let since = self.clock.now().saturating_sub(self.began);
            let due = self.plan.due_in_all(since);
            self.due.add_permits((due - said) as usize);
            said = due;
            thread::park_timeout(due_after(said, rate).saturating_sub(since).min(LOOK));
        }
        self.due.add_permits(self.plan.clients);
    }
}

impl Plan {
    fn requests_max(&self) -> Option<u64> {
        if let Lasts::Requests(most) = self.lasts { Some(most) } else { None }
    }

    /// How many requests are due within so much time; none in a closed loop.
    fn due_in_all(&self, since: Duration) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        // The nth is due when n/rate seconds have passed, so the first at once.
        let due = (since.as_nanos() * u128::from(rate.get())).div_ceil(SECOND.as_nanos());
        u64::try_from(due).unwrap_or(u64::MAX).min(self.requests_max().unwrap_or(u64::MAX))
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn due_after(nth: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(nth) * SECOND.as_nanos() / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Done = Done { verb: "put", rows: 1, bytes: 1 };

    /// Its first request takes long.
    struct Stalls(Duration);

    impl Work for Stalls {
        async fn once(&mut self, nth: u64) -> Result<Done, Status> {
            if nth == 0 {
                tokio::time::sleep(self.0).await;
            }
            Ok(DONE)
        }
    }

    struct FailsEveryThird;

    impl Work for FailsEveryThird {
        async fn once(&mut self, nth: u64) -> Result<Done, Status> {
            if nth.is_multiple_of(3) { Err(Status::unavailable("not now")) } else { Ok(DONE) }
        }
    }

    fn plan(clients: usize, lasts: Lasts, rate: Option<u64>) -> Plan {
        Plan { clients, lasts, rate: rate.and_then(NonZeroU64::new) }
    }

    #[tokio::test]
    async fn in_an_open_loop_a_stall_counts_for_all_who_were_due_meanwhile() {
        // Twenty are due in the 200 ms for which the only client waits for the first of them.
        let tally = Load::run(plan(1, Lasts::Requests(20), Some(100)), Clock::start(), |_| {
            Stalls(Duration::from_millis(200))
        })
        .await;
        assert_eq!((tally.all.requests, tally.unsent), (20, 0));
        assert!(
            tally.latency().value_at_quantile(0.5) >= 90_000,
            "half of them waited 100 ms: {}",
            tally.latency().value_at_quantile(0.5)
        );
    }

    #[tokio::test]
    async fn what_was_due_and_could_not_be_sent_is_said() {
        let window = Duration::from_millis(100);
        let tally = Load::run(plan(1, Lasts::For(window), Some(1000)), Clock::start(), |_| {
            Stalls(2 * window)
        })
        .await;
        assert_eq!((tally.all.requests, tally.in_time.requests, tally.unsent), (1, 0, 99));
    }

    #[tokio::test]
    async fn every_request_is_made_once_and_failures_are_counted() {
        let tally =
            Load::run(plan(7, Lasts::Requests(300), None), Clock::start(), |_| FailsEveryThird)
                .await;
        assert_eq!(
            (tally.all.requests, tally.failed(), tally.failures["Unavailable"].count),
            (200, 100, 100)
        );
    }

    #[tokio::test]
    async fn a_load_without_an_end_goes_on_until_it_is_stopped() {
        for rate in [None, Some(1000)] {
            let mut load = Load::start(plan(3, Lasts::UntilStopped, rate), Clock::start(), |_| {
                FailsEveryThird
            });
            while load.glance(|tally, _| tally.all.requests) < 10 {
                tokio::task::yield_now().await;
            }
            let before = load.split();
            load.stop();
            load.wait().await;
            assert!(before.all.requests >= 10);
        }
    }

    #[test]
    fn the_nth_request_is_due_when_its_time_has_come() {
        let plan = plan(1, Lasts::UntilStopped, Some(3));
        assert_eq!(
            [0, 1, 333, 334, 1000, 1001].map(|ms| plan.due_in_all(Duration::from_millis(ms))),
            [0, 1, 1, 2, 3, 4]
        );
        let rate = NonZeroU64::new(3).unwrap();
        assert_eq!([0, 1, 3].map(|nth| due_after(nth, rate).as_micros()), [0, 333_333, 1_000_000]);
    }
}
