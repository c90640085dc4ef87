//! What is compared: a cluster of each kind, and the same four pieces of work on each.
//!
//! Both are asked by the generator of `ddbctl bench`, over as many connections, with the same keys
//! and values. What differs stands in `Work`.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use devicedb::{
    base::clock::{Clock, Random},
    ctl::bench::{
        load::{Lasts, Load, Plan, Work},
        requests::{Access, Field, Kind, Lines, Meant, Requests, key},
        tally::{Done, Tally},
    },
    net::{
        cork,
        tls::{self, Trust},
    },
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    etcd::Members,
    harness::{Cluster, Options, SOON},
    wire,
};

/// Divisible by one and by three, so that every node gets as many; of three each gets one, as from
/// clients of both.
const CONNECTIONS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(10);
pub const BATCH_ROWS: u64 = 500;
const FILLERS: usize = 8;

/// A cluster that is measured.
pub enum Subject {
    Ours(Cluster),
    Etcd(Members),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Ours,
    Etcd,
}

/// Open connections to a subject, each with the index of its endpoint.
pub type Connections = Vec<(usize, Channel)>;

impl Subject {
    pub async fn start(which: Which, nodes: usize) -> Subject {
        match which {
            Which::Ours => Subject::Ours(Cluster::start(nodes, Options::product()).await),
            Which::Etcd => Subject::Etcd(Members::start(nodes).await),
        }
    }

    fn endpoints(&self) -> Vec<String> {
        match self {
            Subject::Ours(cluster) => cluster.nodes.iter().map(|node| node.endpoint()).collect(),
            Subject::Etcd(members) => members.endpoints(),
        }
    }

    pub fn pids(&self) -> Vec<u32> {
        match self {
            Subject::Ours(cluster) => cluster.nodes.iter().map(|node| node.pid()).collect(),
            Subject::Etcd(members) => members.pids(),
        }
    }

    pub async fn connect(&self) -> Connections {
        let endpoints = self.endpoints();
        let certificates = match self {
            Subject::Ours(cluster) => cluster.nodes[0].certificates.as_ref(),
            Subject::Etcd(_) => None,
        };
        let mut connections = Vec::new();
        for at in (0..endpoints.len()).cycle().take(CONNECTIONS) {
            let endpoint = Endpoint::from_shared(format!("http://{}", endpoints[at]))
                .unwrap()
                .connect_timeout(SOON);
            let opened = match certificates {
                Some(held) => {
                    tls::connect(&endpoint, Trust { config: held.config(), name: None, node: None })
                        .await
                }
                None => cork::connect(&endpoint).await,
            };
            connections.push((at, opened.unwrap()));
        }
        connections
    }

    /// Makes the sites of a field where there are such, and writes every key.
    pub async fn fill(&self, field: &Field, connections: &Connections) -> Tally {
        if let Subject::Ours(cluster) = self {
            for site in &field.sites {
                cluster.client().add_site(site).await.unwrap();
            }
        }
        let rows = field.rows_a_batch(BATCH_ROWS);
        let plan =
            Plan { clients: FILLERS, lasts: Lasts::Requests(field.batches(rows)), rate: None };
        let tally = self.load(Kind::Batch { rows }, plan, field, true, connections).await;
        assert_eq!(tally.failed(), 0, "not all keys were written: {:?}", tally.failures);
        tally
    }

    pub async fn load(
        &self,
        kind: Kind,
        plan: Plan,
        field: &Field,
        direct: bool,
        connections: &Connections,
    ) -> Tally {
        let (clock, field) = (Clock::start(), Arc::new(field.clone()));
        match self {
            Subject::Ours(_) => {
                let sites = NonZeroUsize::new(field.sites.len()).unwrap();
                let lines =
                    Arc::new(Lines::new(connections.clone(), self.endpoints(), sites, direct));
                let work = |_| {
                    let (field, lines, rng) =
                        (field.clone(), lines.clone(), Random::from_entropy());
                    Requests {
                        kind,
                        field,
                        lines,
                        rng,
                        timeout: TIMEOUT,
                        meant: Meant::Any,
                        access: Access::default(),
                        persist: None,
                        clock,
                    }
                };
                Load::run(plan, clock, work).await
            }
            Subject::Etcd(_) => {
                let channels: Arc<Vec<Channel>> =
                    Arc::new(connections.iter().map(|(_, channel)| channel.clone()).collect());
                let work = |_| EtcdRequests {
                    kind,
                    field: field.clone(),
                    channels: channels.clone(),
                    rng: Random::from_entropy(),
                };
                Load::run(plan, clock, work).await
            }
        }
    }
}

/// What `Requests` asks of a cluster of ours, asked of etcd. It has no sites: its field is one site
/// that it never names.
struct EtcdRequests {
    kind: Kind,
    field: Arc<Field>,
    channels: Arc<Vec<Channel>>,
    rng: Random,
}

impl Work for EtcdRequests {
    async fn once(&mut self, nth: u64) -> Result<Done, Status> {
        let channel = self.channels[nth as usize % self.channels.len()].clone();
        let anywhere = key(self.rng.below(self.field.keys_per_site));
        let done = |verb, rows| Done { verb, rows, bytes: rows * self.field.row_bytes() };
        match self.kind {
            Kind::Put => {
                let value = self.field.value(&mut self.rng);
                wire::put(channel, within(wire::PutRequest { key: anywhere, value })).await?;
                Ok(done("put", 1))
            }
            Kind::Get => {
                let found = wire::range(
                    channel,
                    within(wire::RangeRequest { key: anywhere, serializable: false }),
                )
                .await?;
                if found.kvs.len() == 1 {
                    Ok(done("get", 1))
                } else {
                    Err(Status::not_found("a key that was written is not there"))
                }
            }
            Kind::Batch { rows } => {
                let first = nth * rows;
                let numbers = first..(first + rows).min(self.field.keys());
                let rows = numbers.end - numbers.start;
                let put = |number| wire::PutRequest {
                    key: key(number),
                    value: self.field.value(&mut self.rng),
                };
                let success = numbers
                    .map(put)
                    .map(|put| wire::RequestOp { request_put: Some(put) })
                    .collect();
                let answer = wire::txn(channel, within(wire::TxnRequest { success })).await?;
                assert!(answer.succeeded, "a transaction without a condition succeeds");
                Ok(Done { verb: "batch", rows, bytes: rows * self.field.row_bytes() })
            }
            Kind::Mixed { .. } | Kind::Scan { .. } => Err(Status::unimplemented("not compared")),
        }
    }
}

fn within<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(TIMEOUT);
    request
}
