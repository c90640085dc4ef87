//! The fleet that writes: for every town a writer that goes from shop to depot to van, again and
//! again, and remembers every promise with its times.
//!
//! Each round writes a new event in one of the buckets, and counts the round, in each of the three
//! sites in turn. So at any one instant the shop's counter is at least the depot's, and the depot's
//! at least the van's.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{base::clock::Clock, proto::v1::Bucket};
use tokio::{task::JoinHandle, time::sleep};

use crate::harness::{Client, put_request};

pub const TOWNS: [&str; 6] = ["bergen", "gdańsk", "lisboa", "oslo", "porto", "tallinn"];
pub const PLACES: [&str; 3] = ["shop", "depot", "van"];
pub const BUCKETS: [Bucket; 3] = [Bucket::Default, Bucket::Lww, Bucket::Cloud];
pub const COUNTER: &str = "rounds";

const CALL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(20);

pub fn site(town: &str, place: &str) -> String {
    format!("{town}/{place}")
}

/// A write that was acknowledged.
#[derive(Clone, Debug)]
pub struct Promise {
    pub site: String,
    pub bucket: Bucket,
    pub key: Bytes,
    pub value: Bytes,
    /// When it was called and when it was acknowledged, by the demo's clock.
    pub called: Duration,
    pub acknowledged: Duration,
}

/// All writers and what they were promised.
pub struct Fleet {
    promises: Arc<Mutex<Vec<Promise>>>,
    writers: Vec<JoinHandle<()>>,
}

impl Fleet {
    pub fn start(clients: &[Client], clock: Clock) -> Fleet {
        let promises = Arc::new(Mutex::new(Vec::new()));
        let clients: Vec<_> =
            clients.iter().map(|client| client.clone().with_deadline(CALL)).collect();
        let writers = TOWNS.iter().enumerate().map(|(turn, town)| {
            let mut clients = clients.clone();
            let first = turn % clients.len();
            clients.rotate_left(first);
            tokio::spawn(write(clients, clock, town, promises.clone()))
        });
        Fleet { writers: writers.collect(), promises: promises.clone() }
    }

    pub fn promised(&self) -> usize {
        self.promises.lock().expect("a writer has failed").len()
    }

    /// Whether a writer gave up, which none ever should.
    pub fn has_failed(&self) -> bool {
        self.writers.iter().any(JoinHandle::is_finished)
    }

    /// Silences the writers at once, with writes under way.
    pub fn silence(self) -> Vec<Promise> {
        for writer in &self.writers {
            writer.abort();
        }
        self.promises.lock().expect("a writer has failed").clone()
    }
}

async fn write(
    clients: Vec<Client>,
    clock: Clock,
    town: &'static str,
    promises: Arc<Mutex<Vec<Promise>>>,
) {
    let mut nodes = clients.iter().cycle();
    for round in 1_u64.. {
        let bucket = BUCKETS[round as usize % BUCKETS.len()];
        for place in PLACES {
            for (bucket, key) in
                [(bucket, format!("event-{round:06}")), (Bucket::Default, COUNTER.to_string())]
            {
                let put = put_request(&site(town, place), bucket, key, round.to_string());
                let called = clock.now();
                // The same request id each time: however often it is sent, it has its effect once.
                while nodes
                    .next()
                    .expect("a cycle has no end")
                    .put_request(put.clone())
                    .await
                    .is_err()
                {
                    sleep(RETRY).await;
                }
                let promise = Promise {
                    site: put.site,
                    bucket,
                    key: put.key,
                    value: put.value,
                    called,
                    acknowledged: clock.now(),
                };
                promises.lock().expect("nobody panics while they hold the lock").push(promise);
            }
        }
    }
}
