//! Writers that go on through faults, and remember what they were promised.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{base::clock::Clock, proto::v1::Bucket};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    Client, SOON,
    client::{may_be_retried, put_request},
    eventually,
};

const CALL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

/// What a writer knows: every key that was acknowledged, with the value it must have.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub acknowledged: BTreeMap<Bytes, Bytes>,
    /// The longest time from one acknowledgement to the next.
    pub longest_pause: Duration,
    /// How many requests failed and were repeated.
    pub failed: usize,
}

/// Writes one key after another to one site until it is stopped. Each write is retried with its
/// request id, at the next node, until it is acknowledged.
pub struct Writer {
    pub site: String,
    pub bucket: Bucket,
    stop: watch::Sender<bool>,
    ledger: Arc<Mutex<Ledger>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Its keys are `<name>-000000` and so on; the value is the number.
    pub fn start(clients: &[Client], site: &str, bucket: Bucket, name: &str) -> Writer {
        let (stop, stopped) = watch::channel(false);
        let clients: Vec<_> =
            clients.iter().map(|client| client.clone().with_deadline(CALL)).collect();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let task = tokio::spawn(write(
            clients,
            site.to_string(),
            bucket,
            name.to_string(),
            ledger.clone(),
            stopped,
        ));
        Writer { site: site.to_string(), bucket, stop, ledger, task }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("the writer does not panic while it holds the lock")
    }

    pub fn acknowledged(&self) -> usize {
        self.ledger().acknowledged.len()
    }

    /// Waits until so many more writes than now are acknowledged.
    pub async fn goes_on(&self, more: usize, bound: Duration) {
        let goal = self.acknowledged() + more;
        eventually(
            &format!("{more} more writes of {} are acknowledged", self.site),
            bound,
            async || match self.acknowledged() {
                count if count >= goal => Ok(()),
                count => Err(format!(
                    "{count} of {goal}, and the writer {}",
                    if self.task.is_finished() { "has failed" } else { "is at work" }
                )),
            },
        )
        .await;
    }

    /// Lets the write under way finish, and tells what was promised.
    pub async fn stop(self) -> Ledger {
        self.stop.send_replace(true);
        timeout(SOON, self.task)
            .await
            .expect("a write ends within its retries")
            .expect("the writer has failed");
        self.ledger.lock().expect("the writer is gone").clone()
    }

    /// Stops at once, whatever is under way: for when no node is left to answer.
    pub fn abandon(self) -> Ledger {
        self.task.abort();
        self.ledger().clone()
    }
}

async fn write(
    clients: Vec<Client>,
    site: String,
    bucket: Bucket,
    name: String,
    ledger: Arc<Mutex<Ledger>>,
    stopped: watch::Receiver<bool>,
) {
    let clock = Clock::start();
    let mut last = clock.now();
    let mut turn = 0;
    for number in 0.. {
        if *stopped.borrow() {
            return;
        }
        let put = put_request(&site, bucket, format!("{name}-{number:06}"), number.to_string());
        while let Err(status) = clients[turn % clients.len()].put_request(put.clone()).await {
            assert!(may_be_retried(&status), "a write of {site} was refused: {status:?}");
            ledger.lock().expect("nobody panics while they hold the lock").failed += 1;
            turn += 1;
            sleep(RETRY).await;
        }
        let now = clock.now();
        let mut ledger = ledger.lock().expect("nobody panics while they hold the lock");
        ledger.longest_pause = ledger.longest_pause.max(now - last);
        ledger.acknowledged.insert(put.key, put.value);
        last = now;
    }
}

impl Ledger {
    /// Every acknowledged key is there with its value, as `client` reads it.
    pub async fn check(&self, client: &Client, site: &str, bucket: Bucket) {
        let found: BTreeMap<_, _> =
            client.scan(site, bucket, "").await.unwrap().into_iter().collect();
        for (key, value) in &self.acknowledged {
            let held = found.get(key);
            assert_eq!(
                held,
                Some(&vec![value.clone()]),
                "{site}: key {key:?} was acknowledged and is not as it should be at {}",
                client.endpoint
            );
        }
    }
}
