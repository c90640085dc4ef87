//! Clients: what they ask of whichever node, how they retry, and what they write down.
//!
//! The workload is the simulator's: registers with many writers, values side by side with contexts
//! that may be stale, pairs of keys that only batches write, and counters with one writer that goes
//! through sites A, B and C in turn. A write is retried with its request id until it is answered or
//! the client has lost its patience; then its outcome is open, unless every attempt was refused
//! with the promise that it had no effect. Writers of counters never lose patience.
//!
//! Nothing is deleted: the checkers know of values that come and are covered, not of ones that go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::clock::{Clock, Random},
    proto::v1::{BatchOperation, BatchRequest, Bucket, PutRequest, batch_operation::Action},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::Status;

use crate::{
    harness::{Client, put_request, reason},
    history::{Counter, Moment, Op, Register, Sibling},
};

const COLUMNS: usize = 3;
/// Those that count, and those that do anything else.
const CLIENTS: usize = COLUMNS + 9;
const REGISTERS: u64 = 4;
const SIBLINGS: u64 = 3;
const PAIRS: u64 = 2;
const THINK: Duration = Duration::from_millis(20);
const PAUSE_MS: u64 = 60;
/// A call that is not over this long after its deadline is given up from outside.
const LATE: Duration = Duration::from_secs(3);

/// A key, and what is promised of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Register(u64),
    Sibling(u64),
    /// One of two keys that batches write together.
    Pair(u64, bool),
    /// Of a column, and its turn there.
    Counter(usize, usize),
}

impl Place {
    pub fn site(self) -> String {
        match self {
            Place::Register(n) => format!("register{}", n % 3),
            Place::Sibling(n) => format!("sibling{}", n % 2),
            Place::Pair(n, _) => format!("pair{n}"),
            Place::Counter(column, turn) => format!("column{column}{}", ["a", "b", "c"][turn]),
        }
    }

    pub fn key(self) -> String {
        match self {
            Place::Register(n) | Place::Sibling(n) => format!("key{n}"),
            Place::Pair(n, second) => format!("pair{n}{}", if second { "y" } else { "x" }),
            Place::Counter(..) => "counter".into(),
        }
    }

    fn bucket(self) -> Bucket {
        match self {
            Place::Register(n) if n % 2 == 0 => Bucket::Lww,
            Place::Sibling(_) => Bucket::Cloud,
            _ => Bucket::Default,
        }
    }

    pub fn all() -> impl Iterator<Item = Place> {
        let pairs = (0..PAIRS).flat_map(|n| [Place::Pair(n, false), Place::Pair(n, true)]);
        (0..REGISTERS)
            .map(Place::Register)
            .chain((0..SIBLINGS).map(Place::Sibling))
            .chain(pairs)
            .chain(Place::counters())
    }

    pub fn counters() -> impl Iterator<Item = Place> {
        (0..COLUMNS).flat_map(|column| (0..3).map(move |turn| Place::Counter(column, turn)))
    }
}

/// All that clients did and saw.
#[derive(Default)]
pub struct History {
    pub registers: BTreeMap<Place, Vec<Op<Register>>>,
    pub siblings: BTreeMap<Place, Vec<Op<Sibling>>>,
    pub counters: BTreeMap<Place, Counter>,
    pub succeeded: u64,
    /// Attempts that failed, for whatever reason.
    pub failed: u64,
    /// Writes whose outcome stayed open.
    pub unknown: u64,
    /// What no checker is needed for.
    pub broken: Vec<String>,
}

/// A write and how it goes down in history.
#[derive(Clone, Debug)]
enum Write {
    Register(Place, u64),
    Sibling { place: Place, value: u64, covers: BTreeSet<u64>, context: Bytes },
    Pair(u64, u64),
    Counter(Place, u64),
}

enum Doing {
    Read(Place),
    Write(Write),
}

/// What every client shares.
#[derive(Clone)]
pub struct Shared {
    pub clock: Clock,
    /// How many of the nodes were ever started; nobody asks the others.
    pub started: Arc<AtomicUsize>,
    history: Arc<Mutex<History>>,
}

impl Shared {
    pub fn new(clock: Clock, started: Arc<AtomicUsize>) -> Shared {
        Shared { clock, started, history: Arc::default() }
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("nobody panics while they hold the history")
    }
}

/// Clients at work.
pub struct Crowd {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Each has connections of its own.
    pub fn start(connect: impl Fn() -> Vec<Client>, shared: Shared, rng: &mut Random) -> Crowd {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..CLIENTS {
            let one = One {
                number,
                nodes: connect(),
                shared: shared.clone(),
                rng: Random::seeded(rng.next_u64()),
                seen: BTreeMap::new(),
                written: 0,
            };
            let turn = (number < COLUMNS).then_some((number, 0));
            tasks.spawn(one.work(turn, stopped.clone()));
        }
        Crowd { stop, tasks }
    }

    /// Lets each have its last answer. Ends only when all have.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client has failed");
        }
    }
}

impl Shared {
    /// Reads every key from every node, until all have answered.
    pub async fn read_all(&self, nodes: Vec<Client>) {
        for node in nodes {
            let rng = Random::seeded(0);
            let mut last = One {
                number: CLIENTS,
                nodes: vec![node],
                shared: self.clone(),
                rng,
                seen: BTreeMap::new(),
                written: 0,
            };
            for place in Place::all() {
                while !last.read(place).await {}
            }
        }
    }
}

struct One {
    number: usize,
    nodes: Vec<Client>,
    shared: Shared,
    rng: Random,
    /// What was last seen of each key with siblings.
    seen: BTreeMap<Place, (BTreeSet<u64>, Bytes)>,
    written: u64,
}

impl One {
    async fn work(mut self, mut turn: Option<(usize, usize)>, stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            match &mut turn {
                Some((column, turn)) => {
                    let place = Place::Counter(*column, *turn);
                    *turn = (*turn + 1) % 3;
                    let number = self
                        .shared
                        .history()
                        .counters
                        .entry(place)
                        .or_default()
                        .call(self.shared.clock.now());
                    self.write(Write::Counter(place, number)).await;
                }
                None => match self.choose() {
                    Doing::Read(place) => drop(self.read(place).await),
                    Doing::Write(write) => self.write(write).await,
                },
            }
            sleep(Duration::from_micros(self.rng.below(2 * THINK.as_micros() as u64))).await;
        }
    }

    fn choose(&mut self) -> Doing {
        self.written += 1;
        let value = (self.number as u64) << 32 | self.written;
        let rng = &mut self.rng;
        match rng.below(100) {
            0..25 => Doing::Write(Write::Register(Place::Register(rng.below(REGISTERS)), value)),
            25..50 => Doing::Read(Place::Register(rng.below(REGISTERS))),
            50..65 => Doing::Read(Place::Sibling(rng.below(SIBLINGS))),
            65..80 => {
                let place = Place::Sibling(rng.below(SIBLINGS));
                let stale = rng.below(4) == 0;
                let seen =
                    if stale { self.seen.get(&place).cloned() } else { self.seen.remove(&place) };
                seen.map_or(Doing::Read(place), |(covers, context)| {
                    Doing::Write(Write::Sibling { place, value, covers, context })
                })
            }
            80..87 => Doing::Write(Write::Pair(rng.below(PAIRS), value)),
            87..94 => Doing::Read(Place::Pair(rng.below(PAIRS), false)),
            _ => Doing::Read(Place::Counter(
                rng.below(COLUMNS as u64) as usize,
                rng.below(3) as usize,
            )),
        }
    }

    /// Whichever node, with the deadline of one call.
    fn any(&mut self) -> (Client, Duration) {
        // Whoever waits long at a node that is away asks nobody else meanwhile, who might answer
        // what is old.
        let most_ms = if self.rng.below(5) == 0 { 4000 } else { 600 };
        let deadline = Duration::from_millis(200 + self.rng.below(most_ms));
        let started = self.shared.started.load(Ordering::SeqCst).min(self.nodes.len());
        let node = self.nodes[self.rng.below(started as u64) as usize].clone();
        (node.with_deadline(deadline), deadline)
    }

    /// Whether it was answered. A read that was not says nothing.
    async fn read(&mut self, place: Place) -> bool {
        let called = self.shared.clock.now();
        let (site, bucket, key) = (place.site(), place.bucket(), place.key());
        let (node, deadline) = self.any();
        if let Place::Pair(pair, _) = place {
            let found = by(deadline, node.scan(&site, bucket, "")).await;
            return self.note(called, found, |found, answered, history| {
                let values = [false, true].map(|second| {
                    let row = found
                        .iter()
                        .find(|(key, _)| key == Place::Pair(pair, second).key().as_bytes());
                    row.and_then(|(_, values)| values.first()).map(number)
                });
                if values[0] != values[1] {
                    history
                        .broken
                        .push(format!("a batch was seen in part at {answered:?}: {values:?}"));
                }
                for (second, value) in [false, true].into_iter().zip(values) {
                    history.register(
                        Place::Pair(pair, second),
                        called,
                        Some(answered),
                        Register::Read(value),
                    );
                }
            });
        }
        let found = by(deadline, node.get(&site, bucket, &key)).await;
        let values = |siblings: &[devicedb::proto::v1::Sibling]| {
            siblings.iter().map(|s| number(&s.value)).collect::<BTreeSet<_>>()
        };
        if let (Place::Sibling(_), Ok(found)) = (place, &found) {
            self.seen.insert(place, (values(&found.siblings), found.context.clone()));
        }
        self.note(called, found, |found, answered, history| {
            let values = values(&found.siblings);
            let single = values.first().copied();
            if values.len() > 1 && !matches!(place, Place::Sibling(_)) {
                history.broken.push(format!(
                    "{place:?} was only ever overwritten and has siblings: {values:?}"
                ));
            }
            match (place, single) {
                (Place::Sibling(_), _) => {
                    history.siblings.entry(place).or_default().push(Op {
                        called,
                        answered: Some(answered),
                        kind: Sibling::Read(values),
                    });
                }
                (Place::Counter(..), Some(number)) => history.knows(place, number, answered),
                (Place::Counter(..), None) => {}
                _ => history.register(place, called, Some(answered), Register::Read(single)),
            }
        })
    }

    fn note<T>(
        &self,
        called: Moment,
        found: Result<T, Status>,
        note: impl FnOnce(T, Moment, &mut History),
    ) -> bool {
        let answered = self.shared.clock.now();
        let mut history = self.shared.history();
        match found {
            Ok(found) => {
                history.succeeded += 1;
                note(found, answered, &mut history);
                true
            }
            Err(status) => {
                history.failed += 1;
                if is_refusal(&status) {
                    history
                        .broken
                        .push(format!("a read called at {called:?} was refused: {status:?}"));
                }
                false
            }
        }
    }

    async fn write(&mut self, write: Write) {
        let called = self.shared.clock.now();
        let until = called + Duration::from_millis(500 + self.rng.below(6000));
        let request = write.request(&mut self.rng);
        let mut maybe = false;
        loop {
            let (node, deadline) = self.any();
            let outcome = by(deadline, request.send(&node)).await;
            if self.is_over(&write, called, until, outcome, &mut maybe) {
                return;
            }
            sleep(Duration::from_millis(5 + self.rng.below(PAUSE_MS))).await;
        }
    }

    /// Whether nothing more is to be tried. `maybe`: an attempt may have had its effect.
    fn is_over(
        &self,
        write: &Write,
        called: Moment,
        until: Moment,
        outcome: Result<(), Status>,
        maybe: &mut bool,
    ) -> bool {
        let now = self.shared.clock.now();
        let mut history = self.shared.history();
        let Err(status) = outcome else {
            history.succeeded += 1;
            history.wrote(write, called, Some(now));
            return true;
        };
        history.failed += 1;
        match reason(&status).as_str() {
            "UNAVAILABLE" | "EXHAUSTED" => {}
            // The only refusal there is for what these clients ask: too many siblings.
            "CONFLICT" if matches!(write, Write::Sibling { .. }) => return true,
            _ if is_refusal(&status) => {
                history.broken.push(format!("{write:?} was refused: {status:?}"));
                return true;
            }
            _ => *maybe = true,
        }
        let gives_up = now >= until && !matches!(write, Write::Counter(..));
        if gives_up && *maybe {
            history.unknown += 1;
            history.wrote(write, called, None);
        }
        gives_up
    }
}

/// What becomes of a call by its deadline.
async fn by<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let answer = timeout(deadline + LATE, call).await;
    answer.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded("no answer, not even that there is none"))
    })
}

/// Whether a status says that the request itself can never work. None of these clients asks for
/// such.
fn is_refusal(status: &Status) -> bool {
    ["INVALID", "NOT_FOUND", "CONFLICT", "CORRUPT"].contains(&reason(status).as_str())
}

fn number(value: &Bytes) -> u64 {
    u64::from_be_bytes(value[..].try_into().expect("clients write numbers"))
}

#[derive(Clone)]
enum Request {
    Put(PutRequest),
    Batch(BatchRequest),
}

impl Request {
    async fn send(&self, node: &Client) -> Result<(), Status> {
        match self {
            Request::Put(put) => node.put_request(put.clone()).await.map(drop),
            Request::Batch(batch) => node.batch_request(batch.clone()).await.map(drop),
        }
    }
}

impl Write {
    fn request(&self, rng: &mut Random) -> Request {
        let put = |place: Place, value: u64| {
            put_request(&place.site(), place.bucket(), place.key(), value.to_be_bytes())
        };
        match self {
            Write::Register(place, value) | Write::Counter(place, value) => {
                Request::Put(put(*place, *value))
            }
            Write::Sibling { place, value, context, .. } => {
                Request::Put(PutRequest { context: Some(context.clone()), ..put(*place, *value) })
            }
            Write::Pair(pair, value) => {
                let step = |second| BatchOperation {
                    key: Place::Pair(*pair, second).key().into(),
                    action: Some(Action::Put(Bytes::copy_from_slice(&value.to_be_bytes()))),
                    ..BatchOperation::default()
                };
                let place = Place::Pair(*pair, false);
                let operations = [false, true].map(step).into();
                Request::Batch(BatchRequest {
                    site: place.site(),
                    bucket: place.bucket().into(),
                    operations,
                    request_id: Bytes::copy_from_slice(rng.uuid().as_bytes()),
                })
            }
        }
    }
}

impl History {
    fn register(&mut self, place: Place, called: Moment, answered: Option<Moment>, kind: Register) {
        self.registers.entry(place).or_default().push(Op { called, answered, kind });
    }

    fn knows(&mut self, place: Place, number: u64, at: Moment) {
        let counter = self.counters.entry(place).or_default();
        if number as usize <= counter.called.len() {
            counter.know(number, at);
        } else {
            self.broken.push(format!("{place:?} held {number} at {at:?}, which nobody wrote yet"));
        }
    }

    fn wrote(&mut self, write: &Write, called: Moment, answered: Option<Moment>) {
        match write {
            Write::Register(place, value) => {
                self.register(*place, called, answered, Register::Write(*value))
            }
            Write::Sibling { place, value, covers, .. } => {
                let kind = Sibling::Write { value: Some(*value), covers: covers.clone() };
                self.siblings.entry(*place).or_default().push(Op { called, answered, kind });
            }
            Write::Pair(pair, value) => {
                for second in [false, true] {
                    self.register(
                        Place::Pair(*pair, second),
                        called,
                        answered,
                        Register::Write(*value),
                    );
                }
            }
            Write::Counter(place, number) => {
                if let Some(at) = answered {
                    self.counters.entry(*place).or_default().answer(*number, at);
                }
            }
        }
    }
}
