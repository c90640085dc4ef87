//! What a bench asks of a cluster: puts, gets, scans and batches over keys that are numbered.
//!
//! A request is sent once. Only who fills sites before a measurement repeats it, under the same
//! request id.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tonic::{Request, Status, transport::Channel};

use super::{load::Work, tally::Done};
use crate::{
    base::{
        clock::{Clock, Random},
        limits,
    },
    ctl::fault::Fault,
    proto::v1::{self, kv_service_client::KvServiceClient},
};

pub use crate::ctl::{connection::Access, identity::Meant};

pub const KEY_BYTES: usize = 16;
/// What a row costs in a batch beside its key and value.
const FRAME_BYTES: usize = 32;
/// A log entry takes no more.
const BATCH_BYTES: usize = limits::ENTRY_BYTES_MAX;

/// The sites and the keys in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub sites: Vec<String>,
    pub keys_per_site: u64,
    pub value_bytes: usize,
}

/// Connections to the endpoints, and who led which site last.
pub struct Lines {
    lines: Vec<Line>,
    endpoints: Vec<String>,
    /// By site, an endpoint and one more; 0 for nobody known. None when nobody wants to know.
    leaders: Option<Vec<AtomicUsize>>,
}

#[derive(Clone)]
struct Line {
    endpoint: usize,
    kv: KvServiceClient<Channel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
    Mixed {
        reads_percent: u64,
    },
    Scan {
        rows: u64,
    },
    /// Batch n of the field.
    Batch {
        rows: u64,
    },
}

/// The work of one client.
pub struct Requests {
    pub kind: Kind,
    pub field: Arc<Field>,
    pub lines: Arc<Lines>,
    pub rng: Random,
    pub timeout: Duration,
    pub meant: Meant,
    pub access: Access,
    /// For how long a request that failed is repeated; none for not at all.
    pub persist: Option<Duration>,
    pub clock: Clock,
}

impl Field {
    pub fn of(prefix: &str, sites: u64, keys: u64, value_bytes: usize) -> Field {
        Field {
            sites: (0..sites).map(|n| format!("{prefix}{n}")).collect(),
            keys_per_site: keys.div_ceil(sites),
            value_bytes,
        }
    }

    pub fn keys(&self) -> u64 {
        self.keys_per_site * self.sites.len() as u64
    }

    /// How many rows a batch may have, up to those wanted.
    pub fn rows_a_batch(&self, wanted: u64) -> u64 {
        let fit = BATCH_BYTES / (KEY_BYTES + FRAME_BYTES + self.value_bytes);
        wanted.min(fit as u64).max(1)
    }

    /// How many batches write every key once.
    pub fn batches(&self, rows: u64) -> u64 {
        self.keys_per_site.div_ceil(rows) * self.sites.len() as u64
    }

    /// The site and the keys of the nth batch: sites take turns.
    fn batch(&self, nth: u64, rows: u64) -> (usize, std::ops::Range<u64>) {
        let (turn, site) = (nth / self.sites.len() as u64, nth % self.sites.len() as u64);
        let first = turn * rows;
        (site as usize, first..(first + rows).min(self.keys_per_site))
    }

    pub fn value(&self, rng: &mut Random) -> Bytes {
        let words = self.value_bytes.div_ceil(8);
        let mut value: Vec<u8> = (0..words).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        value.truncate(self.value_bytes);
        value.into()
    }

    pub fn row_bytes(&self) -> u64 {
        (KEY_BYTES + self.value_bytes) as u64
    }
}

pub fn key(number: u64) -> Bytes {
    format!("key-{number:012}").into()
}

impl Lines {
    /// `channels` are connections with the index of the endpoint that each goes to.
    pub fn new(
        channels: Vec<(usize, Channel)>,
        endpoints: Vec<String>,
        sites: NonZeroUsize,
        direct: bool,
    ) -> Lines {
        let line = |(endpoint, channel)| Line {
            endpoint,
            kv: KvServiceClient::new(channel)
                .max_decoding_message_size(limits::CTL_ANSWER_BYTES_MAX),
        };
        let leaders = direct.then(|| (0..sites.get()).map(|_| AtomicUsize::new(0)).collect());
        Lines { lines: channels.into_iter().map(line).collect(), endpoints, leaders }
    }

    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub fn count(&self) -> usize {
        self.lines.len()
    }

    /// The connection for the nth request: one to the site's last known leader, or all in turn.
    fn pick(&self, nth: u64, site: usize) -> usize {
        let turn = nth as usize % self.lines.len();
        let leader =
            self.leaders.as_ref().and_then(|leaders| leaders[site].load(Relaxed).checked_sub(1));
        let mut from_turn = (turn..self.lines.len()).chain(0..turn);
        from_turn.find(|at| Some(self.lines[*at].endpoint) == leader).unwrap_or(turn)
    }

    fn line(&self, nth: u64, site: usize) -> KvServiceClient<Channel> {
        self.lines[self.pick(nth, site)].kv.clone()
    }

    fn learn(&self, site: usize, leader: Option<v1::LeaderHint>) {
        let (Some(leaders), Some(leader)) = (&self.leaders, leader) else { return };
        let known = self.endpoints.iter().position(|endpoint| *endpoint == leader.address);
        leaders[site].store(known.map_or(0, |at| at + 1), Relaxed);
    }
}

impl Work for Requests {
    async fn once(&mut self, nth: u64) -> Result<Done, Status> {
        match self.kind {
            Kind::Put => self.put(nth).await,
            Kind::Get => self.get(nth).await,
            Kind::Mixed { reads_percent } if self.rng.below(100) < reads_percent => {
                self.get(nth).await
            }
            Kind::Mixed { .. } => self.put(nth).await,
            Kind::Scan { rows } => self.scan(nth, rows).await,
            Kind::Batch { rows } => self.batch(nth, rows).await,
        }
    }
}

impl Requests {
    /// A key somewhere: its site and its number there.
    fn anywhere(&mut self) -> (usize, u64) {
        let site = self.rng.below(self.field.sites.len() as u64) as usize;
        (site, self.rng.below(self.field.keys_per_site))
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        self.meant.mark(&mut request);
        self.access.mark(&mut request);
        request.set_timeout(self.timeout);
        request
    }

    fn request_id(&mut self) -> Bytes {
        Bytes::copy_from_slice(self.rng.uuid().as_bytes())
    }

    async fn put(&mut self, nth: u64) -> Result<Done, Status> {
        let (site, number) = self.anywhere();
        let put = v1::PutRequest {
            site: self.field.sites[site].clone(),
            bucket: v1::Bucket::Default.into(),
            key: key(number),
            value: self.field.value(&mut self.rng),
            request_id: self.request_id(),
            ..Default::default()
        };
        let answer = self.lines.line(nth, site).put(self.request(put)).await?.into_inner();
        self.lines.learn(site, answer.leader);
        Ok(Done { verb: "put", rows: 1, bytes: self.field.row_bytes() })
    }

    async fn get(&mut self, nth: u64) -> Result<Done, Status> {
        let (site, number) = self.anywhere();
        let get = v1::GetRequest {
            site: self.field.sites[site].clone(),
            bucket: v1::Bucket::Default.into(),
            key: key(number),
            consistency: v1::Consistency::Linearizable.into(),
        };
        let answer = self.lines.line(nth, site).get(self.request(get)).await?.into_inner();
        self.lines.learn(site, answer.leader);
        match &answer.siblings[..] {
            [] => Err(Status::not_found(format!(
                "site {:?} has no key {number}: another run removed it",
                self.field.sites[site]
            ))),
            siblings => Ok(Done {
                verb: "get",
                rows: 1,
                bytes: siblings.iter().map(|s| s.value.len()).sum::<usize>() as u64
                    + KEY_BYTES as u64,
            }),
        }
    }

    async fn scan(&mut self, nth: u64, rows: u64) -> Result<Done, Status> {
        let (site, number) = self.anywhere();
        let scan = v1::ScanRequest {
            site: self.field.sites[site].clone(),
            bucket: v1::Bucket::Default.into(),
            prefix: Bytes::from_static(b"key-"),
            after: key(number),
            limit: rows,
            consistency: v1::Consistency::Linearizable.into(),
            ..Default::default()
        };
        let mut line = self.lines.line(nth, site);
        let whole = async {
            let mut done = Done { verb: "scan", rows: 0, bytes: 0 };
            let mut pages = line.scan(self.request(scan)).await?.into_inner();
            while let Some(page) = pages.message().await? {
                done.rows += page.entries.len() as u64;
                let values = page
                    .entries
                    .iter()
                    .flat_map(|entry| &entry.siblings)
                    .map(|sibling| sibling.value.len());
                done.bytes += (values.sum::<usize>() + page.entries.len() * KEY_BYTES) as u64;
            }
            Ok(done)
        };
        // A stream's own deadline ends with its first answer.
        tokio::time::timeout(self.timeout, whole)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the scan did not end in time")))
    }

    async fn batch(&mut self, nth: u64, rows: u64) -> Result<Done, Status> {
        let (site, numbers) = self.field.batch(nth, rows);
        let rows = numbers.end.saturating_sub(numbers.start);
        let operation = |number| v1::BatchOperation {
            key: key(number),
            action: Some(v1::batch_operation::Action::Put(self.field.value(&mut self.rng))),
            ..Default::default()
        };
        let batch = v1::BatchRequest {
            operations: numbers.map(operation).collect(),
            site: self.field.sites[site].clone(),
            bucket: v1::Bucket::Default.into(),
            request_id: self.request_id(),
        };
        let began = self.clock.now();
        for attempt in nth.. {
            match self.lines.line(attempt, site).batch(self.request(batch.clone())).await {
                Ok(answer) => {
                    self.lines.learn(site, answer.into_inner().leader);
                    break;
                }
                Err(status) if self.may_repeat(&status, began) => {
                    tokio::time::sleep(limits::BENCH_AGAIN).await
                }
                Err(status) => return Err(status),
            }
        }
        Ok(Done { verb: "batch", rows, bytes: rows * self.field.row_bytes() })
    }

    fn may_repeat(&self, status: &Status, began: Duration) -> bool {
        !Fault::of(status).is_final()
            && self.persist.is_some_and(|most| self.clock.now().saturating_sub(began) < most)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn batches_write_every_key_once_and_sites_take_turns() {
        for (sites, keys, rows) in [(1, 1, 500), (3, 10, 2), (4, 1000, 7), (16, 10_000, 500)] {
            let field = Field::of("s", sites, keys, 100);
            let batches: Vec<_> =
                (0..field.batches(rows)).map(|nth| field.batch(nth, rows)).collect();
            let written: Vec<_> = batches
                .iter()
                .flat_map(|(site, numbers)| numbers.clone().map(move |n| (*site, n)))
                .collect();
            assert_eq!(written.len() as u64, field.keys());
            assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), written.len());
            assert!(field.keys() >= keys && field.keys() < keys + sites);
            assert!(
                batches.iter().take(sites as usize).map(|(site, _)| *site).eq(0..sites as usize)
            );
        }
    }

    #[test]
    fn a_batch_of_large_values_has_fewer_rows_and_never_none() {
        let rows = |value_bytes| Field::of("s", 1, 10, value_bytes).rows_a_batch(500);
        assert_eq!((rows(100), rows(10_000), rows(1 << 20)), (500, 104, 1));
    }

    #[test]
    fn values_have_their_length_and_are_not_alike() {
        let mut rng = Random::seeded(1);
        let values: BTreeSet<_> =
            (0..20).map(|_| Field::of("s", 1, 1, 13).value(&mut rng)).collect();
        assert!(values.len() == 20 && values.iter().all(|value| value.len() == 13));
    }

    #[tokio::test]
    async fn a_request_goes_to_who_led_last_and_to_all_in_turn_where_that_is_unknown() {
        let channel =
            || tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let endpoints = vec!["a:1".to_owned(), "b:1".to_owned()];
        let channels = vec![(0, channel()), (1, channel()), (0, channel()), (1, channel())];
        let lines = Lines::new(channels, endpoints, NonZeroUsize::new(2).unwrap(), true);
        let picked = |site| [0, 1, 2, 3, 4].map(|nth| lines.pick(nth, site));
        assert_eq!(picked(0), [0, 1, 2, 3, 0]);
        lines.learn(0, Some(v1::LeaderHint { node_id: 2, address: "b:1".into() }));
        lines.learn(1, Some(v1::LeaderHint { node_id: 3, address: "behind a proxy:1".into() }));
        assert_eq!((picked(0), picked(1)), ([1, 1, 3, 3, 1], [0, 1, 2, 3, 0]));
    }
}
