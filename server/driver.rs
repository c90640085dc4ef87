//! Drives the engine: one OS thread for the loop, one for the store beside it, and the handle through which everyone else on the node talks to it.
//!
//! - The queue to the loop is bounded. When it is full, requests are refused as `Exhausted` and peers' messages count as lost.
//! - A tick is never made up for: after a pause one tick follows, since leases count on the time in between.
//! - If the log or the store fails, both threads end and `Driver::failed` says why. The node stops then; it does not guess.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, PoisonError, RwLock,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use crate::{
    clock::Clock,
    data::Reply,
    engine::{ArrivedRows, Body, Engine, Finished, Host, Input, Job, Look, News, RowsToSend, Sight, Token},
    entry::Identity,
    error::{Error, Result},
    failpoint::{Failpoint, failpoint},
    ids::{GroupId, NodeId, Topology},
    limits,
    log::Log,
    metrics::Metrics,
    proto::internal::v1::PeerMessage,
    room::{Room, Taken},
    store::Store,
    wire,
};

enum Order {
    Input(Box<Input>),
    Peer { from: NodeId, messages: Vec<PeerMessage>, taken: Taken },
    Request { group: GroupId, body: Body, deadline: Duration, reply: oneshot::Sender<Result<Reply>>, taken: Taken },
    Stop,
}

/// What the engine sends to others on the node.
pub struct Outlets {
    /// Messages to a peer; if they do not fit they are lost.
    pub peers: Box<dyn FnMut(NodeId, Vec<PeerMessage>) + Send>,
    pub rows: tokio_mpsc::Sender<RowsToSend>,
    pub news: tokio_mpsc::Sender<News>,
    /// Told when this node belongs to a lineage from now on.
    pub identity: tokio::sync::watch::Sender<Identity>,
}

/// The way into the loop's queue, which counts what waits there.
#[derive(Clone)]
struct Orders {
    queue: SyncSender<Order>,
    metrics: Arc<Metrics>,
}

impl Orders {
    /// Waits for room. A loop that has ended takes nothing any more.
    fn send(&self, order: Order) {
        self.metrics.queued(1);
        if self.queue.send(order).is_err() {
            self.metrics.queued(-1);
        }
    }

    fn try_send(&self, order: Order) -> Result<()> {
        self.metrics.queued(1);
        self.queue.try_send(order).map_err(|e| {
            self.metrics.queued(-1);
            match e {
                TrySendError::Full(_) => Error::exhausted(format!("{} requests already wait on this node; slow down", limits::ENGINE_QUEUE_MAX)),
                TrySendError::Disconnected(_) => stopping(),
            }
        })
    }
}

/// How everyone else talks to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    orders: Orders,
    leaders: Arc<RwLock<BTreeMap<GroupId, NodeId>>>,
    /// Held by writes until they are answered.
    requests: Room,
    /// Held by peers' messages until the engine takes them.
    messages: Room,
    pub clock: Clock,
}

/// The running threads.
pub struct Driver {
    orders: Orders,
    engine: JoinHandle<Result<()>>,
    store: JoinHandle<()>,
}

/// Starts both threads. `failed` receives the reason if the engine ends by itself.
pub fn start(
    engine: Engine,
    store: Store,
    log: Log,
    clock: Clock,
    outlets: Outlets,
    metrics: Arc<Metrics>,
) -> Result<(Driver, Handle, oneshot::Receiver<Error>)> {
    let (queue, inbox) = mpsc::sync_channel(limits::ENGINE_QUEUE_MAX);
    let orders = Orders { queue, metrics: metrics.clone() };
    // A checkpoint at a time and an installation a group: never more, so the loop never waits here.
    let (jobs, work) = mpsc::sync_channel(engine.identity().topology.groups() as usize + 2);
    let (failed_tx, failed) = oneshot::channel();
    let topology = engine.identity().topology;
    let results = orders.clone();
    let keeper = {
        let (store, metrics) = (store.clone(), metrics.clone());
        move || {
            // Without the right to it, the work is done at the usual priority.
            let _ = rustix::process::nice(limits::STORE_NICE);
            keep_store(&store, &log, topology, &work, &results, clock, &metrics);
        }
    };
    let store_thread = spawn("store", keeper)?;
    let leaders = Arc::new(RwLock::default());
    let (leaders_known, said) = (leaders.clone(), BTreeMap::new());
    let shell = Shell { clock, outlets, said, jobs, store, waiting: BTreeMap::new(), last_token: 0, leaders: leaders_known, metrics };
    let run = move || {
        // raft-rs panics where its log cannot be read: that too ends the node with a reason.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_engine(engine, &inbox, shell)));
        let ended = ended.unwrap_or_else(|panicked| Err(Error::unavailable(format!("the engine has panicked: {}", words_of(&*panicked)))));
        if let Err(e) = &ended {
            // Nobody listens any more when the node is already stopping.
            let _ = failed_tx.send(e.clone());
        }
        ended
    };
    let engine_thread = spawn("engine", run)?;
    let room = || Room::of(limits::ENGINE_QUEUE_BYTES_MAX);
    let handle = Handle { orders: orders.clone(), leaders, requests: room(), messages: room(), clock };
    Ok((Driver { orders, engine: engine_thread, store: store_thread }, handle, failed))
}

fn words_of(panicked: &(dyn std::any::Any + Send)) -> &str {
    panicked.downcast_ref::<String>().map(String::as_str).or_else(|| panicked.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(|e| Error::unavailable(format!("starting the {name} thread: {e}")))
}

impl Driver {
    /// Ends the loop after what it has taken, and waits for both threads. What is applied and not checkpointed is in the log.
    pub fn stop(self) -> Result<()> {
        self.orders.send(Order::Stop);
        let ended = self.engine.join().map_err(|_| Error::unavailable("the engine thread has panicked"))?;
        self.store.join().map_err(|_| Error::unavailable("the store thread has panicked"))?;
        ended
    }
}

impl Handle {
    /// Asks a group for something and waits for the answer, until `wait` is over at the longest.
    pub async fn request(&self, group: GroupId, body: Body, wait: Duration) -> Result<Reply> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.clock.now() + wait.min(limits::REQUEST_DEADLINE_MAX);
        let changes = matches!(body, Body::Propose(_));
        let bytes = if let Body::Propose(command) = &body { wire::command_bytes(command) } else { 0 };
        let full = || Error::exhausted(format!("{} bytes of writes already wait on this node; slow down", limits::ENGINE_QUEUE_BYTES_MAX));
        let taken = self.requests.take(bytes).ok_or_else(full)?;
        self.orders.try_send(Order::Request { group, body, deadline, reply, taken })?;
        let unknown = "this node stops; the write may have its effect, retry it with the same request id at another node";
        answer.await.unwrap_or_else(|_| Err(if changes { Error::unknown(unknown) } else { stopping() }))
    }

    /// Looks at the engine from outside. A linearizable look sees all that was acknowledged in the meta group before.
    pub async fn look<T: Send + 'static>(&self, linearizable: bool, wait: Duration, see: impl FnOnce(Sight<'_>) -> T + Send + 'static) -> Result<T> {
        let (seen, answer) = oneshot::channel();
        let deadline = self.clock.now() + wait.min(limits::REQUEST_DEADLINE_MAX);
        let see = Box::new(move |sight: Result<Sight<'_>>| {
            // Whoever asked may have gone.
            let _ = seen.send(sight.map(see));
        });
        self.orders.try_send(Order::Input(Box::new(Input::Look(Look { linearizable, deadline, see }))))?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Who leads a group, as the local replica knows it.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.read().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }

    /// Hands messages of another node to the engine, in their order; all are refused when too many wait.
    pub fn peer_messages(&self, from: NodeId, messages: Vec<PeerMessage>) -> Result<()> {
        let full = || Error::exhausted("messages of other nodes wait already");
        let taken = self.messages.take(wire::peer_bytes(&messages)).ok_or_else(full)?;
        self.orders.try_send(Order::Peer { from, messages, taken })
    }

    /// Hands something to the engine; refused when its queue is full.
    pub fn input(&self, input: Input) -> Result<()> {
        self.orders.try_send(Order::Input(Box::new(input)))
    }
}

fn stopping() -> Error {
    Error::unavailable("this node is stopping; ask another one")
}

/// What the engine's words do in production.
struct Shell {
    clock: Clock,
    outlets: Outlets,
    /// What is said to each peer until the next flush.
    said: BTreeMap<NodeId, Vec<PeerMessage>>,
    jobs: SyncSender<Job>,
    store: Store,
    waiting: BTreeMap<Token, (oneshot::Sender<Result<Reply>>, Taken)>,
    last_token: u64,
    leaders: Arc<RwLock<BTreeMap<GroupId, NodeId>>>,
    metrics: Arc<Metrics>,
}

impl Host for Shell {
    fn now(&self) -> Duration {
        self.clock.now()
    }
    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.said.entry(to).or_default().push(message);
    }
    fn flush(&mut self) {
        for (to, messages) in self.said.iter_mut().filter(|(_, messages)| !messages.is_empty()) {
            (self.outlets.peers)(*to, std::mem::take(messages));
        }
    }
    fn answer(&mut self, token: Token, answer: Result<Reply>) {
        if let Some((reply, _taken)) = self.waiting.remove(&token) {
            failpoint(Failpoint::Answering);
            // Whoever asked may have gone.
            let _ = reply.send(answer);
            failpoint(Failpoint::Answered);
        }
    }
    fn start(&mut self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| Error::unavailable("the store thread has ended"))
    }
    fn send_rows(&mut self, rows: RowsToSend) {
        // Whoever takes these does nothing but hand them on; if the node is stopping, nobody does.
        let _ = self.outlets.rows.blocking_send(rows);
    }
    fn discard(&mut self, rows: ArrivedRows) {
        remove_rows(&rows.path);
    }
    fn tell(&mut self, news: News) {
        self.note(&news);
        if let News::Leader { group, leader } = &news {
            let mut leaders = self.leaders.write().unwrap_or_else(PoisonError::into_inner);
            match leader {
                Some(leader) => leaders.insert(*group, *leader),
                None => leaders.remove(group),
            };
        }
        if matches!(news, News::Nodes(_) | News::Snapshot(_)) {
            let _ = self.outlets.news.blocking_send(news);
        }
    }
    fn adopt(&mut self, identity: &Identity) -> Result<()> {
        self.store.set_identity(&wire::encode_identity(identity))?;
        failpoint(Failpoint::LineageStored);
        self.outlets.identity.send_replace(identity.clone());
        Ok(())
    }
}

/// A file that cannot be removed now is removed at the next start.
fn remove_rows(path: &Path) {
    let _ = std::fs::remove_file(path);
}

impl Shell {
    fn note(&self, news: &News) {
        match news {
            News::Held(time) => self.metrics.held(*time),
            News::Leader { leader: Some(leader), .. } => self.metrics.leader_changed(*leader == self.outlets.identity.borrow().node),
            News::Logged { entries, synced, took } => self.metrics.logged(*entries, synced.then_some(*took)),
            News::Leader { leader: None, .. } | News::Nodes(_) | News::Snapshot(_) => {}
        }
    }

    /// Adds what an order brings. False for the last one.
    fn take(&mut self, order: Order, inputs: &mut Vec<Input>) -> bool {
        match order {
            Order::Input(input) => inputs.push(*input),
            Order::Peer { from, messages, taken } => {
                drop(taken);
                inputs.extend(messages.into_iter().map(|message| Input::Peer { from, message: Box::new(message) }));
            }
            Order::Request { group, body, deadline, reply, taken } => {
                self.last_token += 1;
                let token = Token(self.last_token);
                self.waiting.insert(token, (reply, taken));
                inputs.push(Input::Request { token, group, body, deadline });
            }
            Order::Stop => return false,
        }
        true
    }
}

fn run_engine(mut engine: Engine, inbox: &Receiver<Order>, mut shell: Shell) -> Result<()> {
    let mut next_tick = shell.clock.now() + limits::TICK;
    engine.round([], &mut shell)?;
    loop {
        let mut inputs = Vec::new();
        let mut stop = false;
        let patience = next_tick.saturating_sub(shell.clock.now());
        let mut next = match inbox.recv_timeout(patience) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        while let Some(order) = next.take() {
            shell.metrics.queued(-1);
            stop |= !shell.take(order, &mut inputs);
            if inputs.len() < limits::ROUND_INPUTS_MAX && !stop {
                next = inbox.try_recv().ok();
            }
        }
        let began = shell.clock.now();
        if began >= next_tick {
            inputs.push(Input::Tick);
            next_tick = began + limits::TICK;
        }
        let count = inputs.len();
        engine.round(inputs, &mut shell)?;
        shell.metrics.round(shell.clock.now() - began, count);
        if stop {
            return Ok(());
        }
    }
}

/// Does the engine's jobs in order, until the engine has ended.
fn keep_store(store: &Store, log: &Log, topology: Topology, work: &Receiver<Job>, results: &Orders, clock: Clock, metrics: &Metrics) {
    while let Ok(job) = work.recv() {
        let group = if let Job::Install { group, .. } = &job { Some(*group) } else { None };
        // A panic here must end the node, not leave it leading with a store that nobody writes.
        let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| do_job(store, log, topology, job, clock, metrics)));
        let finished = finished.unwrap_or_else(|_| {
            let panicked = Error::unavailable("the store thread has panicked");
            group.map_or(Finished::Checkpoint(Err(panicked.clone())), |group| Finished::Installed { group, view: Err(panicked) })
        });
        results.send(Order::Input(Box::new(Input::Finished(finished))));
    }
}

fn do_job(store: &Store, log: &Log, topology: Topology, job: Job, clock: Clock, metrics: &Metrics) -> Finished {
    let (began, bytes) = (clock.now(), job.bytes());
    let rows = if let Job::Install { path, .. } = &job { Some(path.clone()) } else { None };
    let finished = job.run(store, log, topology);
    if let Some(path) = rows {
        remove_rows(&path);
        failpoint(Failpoint::InstallFileRemoved);
    }
    if let Finished::Checkpoint(_) = finished {
        metrics.checkpoint(clock.now() - began, bytes);
    }
    finished
}
