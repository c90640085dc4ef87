//! Drives the engine: one OS thread for the loop, one for the store beside it, and the handle
//! through which everyone else on the node talks to it.
//!
//! - The queue to the loop is bounded. When it is full, requests are refused as `Exhausted` and
//!   peers' messages count as lost.
//! - A tick is never made up for: after a pause one tick follows, since leases count on the time in
//!   between.
//! - If the log or the store fails, both threads end and `Crew::failed` says why. The node stops
//!   then; it does not guess.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, RwLock,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc as tokio_mpsc, oneshot};

use crate::{
    base::{
        budget::{ByteBudget, Reservation},
        clock::Clock,
        crew::{Crew, Role},
        error::{Error, Result},
        ids::{GroupId, NodeId, Topology},
        limits, locks,
        metrics::Metrics,
    },
    data::Reply,
    engine::{
        ArrivedRows, Body, Engine, EngineView, Finished, Host, Input, Inspection, Job, News,
        RowsToSend, Token,
    },
    entry::Identity,
    faults::failpoint::{Failpoint, failpoint},
    log::Log,
    proto::internal::v1::PeerMessage,
    store::Store,
    wire,
};

enum Order {
    Input(Box<Input>),
    Peer {
        from: NodeId,
        messages: Vec<PeerMessage>,
        taken: Reservation,
    },
    Request {
        group: GroupId,
        body: Body,
        deadline: Duration,
        reply: oneshot::Sender<Result<Reply>>,
        taken: Reservation,
    },
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
                TrySendError::Full(_) => Error::exhausted(format!(
                    "{} requests already wait on this node; slow down",
                    limits::ENGINE_QUEUE_MAX
                )),
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
    requests: ByteBudget,
    /// Held by peers' messages until the engine takes them.
    messages: ByteBudget,
    pub clock: Clock,
}

/// The running threads.
pub struct Driver {
    orders: Orders,
    engine: JoinHandle<Result<()>>,
    store: JoinHandle<Result<()>>,
}

/// Starts both threads. If one of them ends by itself, the crew knows the reason: raft-rs panics
/// where its log cannot be read.
pub fn start(
    engine: Engine,
    store: Store,
    log: Log,
    clock: Clock,
    outlets: Outlets,
    metrics: Arc<Metrics>,
    crew: &Crew,
) -> Result<(Driver, Handle)> {
    let (queue, inbox) = mpsc::sync_channel(limits::ENGINE_QUEUE_MAX);
    let orders = Orders { queue, metrics: metrics.clone() };
    let topology = engine.identity().topology;
    let (jobs, work) = mpsc::sync_channel(topology.groups() as usize + limits::STORE_JOBS);
    let results = orders.clone();
    let keeper = {
        let (store, metrics) = (store.clone(), metrics.clone());
        move || {
            // Without the right to it, the work is done at the usual priority.
            let _ = rustix::process::nice(limits::STORE_NICE);
            keep_store(&store, &log, topology, &work, &results, clock, &metrics);
            Ok(())
        }
    };
    let store_thread = crew.thread(Role::Store, keeper)?;
    let leaders = Arc::new(RwLock::default());
    let (leaders_known, said) = (leaders.clone(), BTreeMap::new());
    let shell = Shell {
        clock,
        outlets,
        said,
        jobs,
        store,
        waiting: BTreeMap::new(),
        last_token: 0,
        leaders: leaders_known,
        metrics,
        told: None,
        untold: 0,
    };
    let engine_thread = crew.thread(Role::Engine, move || run_engine(engine, &inbox, shell))?;
    let room = || ByteBudget::of(limits::ENGINE_QUEUE_BYTES_MAX);
    let handle =
        Handle { orders: orders.clone(), leaders, requests: room(), messages: room(), clock };
    Ok((Driver { orders, engine: engine_thread, store: store_thread }, handle))
}

impl Driver {
    /// Ends the loop after what it has taken, and waits for both threads. What is applied and not
    /// checkpointed is in the log.
    pub fn stop(self) -> Result<()> {
        self.orders.send(Order::Stop);
        let ended = self.engine.join().expect("its panics are caught");
        ended.and(self.store.join().expect("its panics are caught"))
    }
}

impl Handle {
    /// Asks a group for something and waits for the answer, until `wait` is over at the longest.
    pub async fn request(&self, group: GroupId, body: Body, wait: Duration) -> Result<Reply> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.clock.now() + wait.min(limits::REQUEST_DEADLINE_MAX);
        let changes = matches!(body, Body::Propose(_));
        let bytes =
            if let Body::Propose(command) = &body { wire::command_bytes(command) } else { 0 };
        let full = || {
            Error::exhausted(format!(
                "{} bytes of writes already wait on this node; slow down",
                limits::ENGINE_QUEUE_BYTES_MAX
            ))
        };
        let taken = self.requests.take(bytes).ok_or_else(full)?;
        self.orders.try_send(Order::Request { group, body, deadline, reply, taken })?;
        let unknown = "this node stops; the write may have its effect, retry it with the same \
                       request id at another node";
        answer
            .await
            .unwrap_or_else(|_| Err(if changes { Error::unknown(unknown) } else { stopping() }))
    }

    /// Looks at the engine from outside. A linearizable look sees all that was acknowledged in the
    /// meta group before.
    pub async fn look<T: Send + 'static>(
        &self,
        linearizable: bool,
        wait: Duration,
        see: impl FnOnce(EngineView<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        let (seen, answer) = oneshot::channel();
        let deadline = self.clock.now() + wait.min(limits::REQUEST_DEADLINE_MAX);
        let see = Box::new(move |sight: Result<EngineView<'_>>| {
            // Whoever asked may have gone.
            let _ = seen.send(sight.map(see));
        });
        self.orders.try_send(Order::Input(Box::new(Input::Inspection(Inspection {
            linearizable,
            deadline,
            see,
        }))))?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Who leads a group, as the local replica knows it.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        locks::read(&self.leaders).get(&group).copied()
    }

    /// Hands messages of another node to the engine, in their order; all are refused when too many
    /// wait.
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
    waiting: BTreeMap<Token, (oneshot::Sender<Result<Reply>>, Reservation)>,
    last_token: u64,
    leaders: Arc<RwLock<BTreeMap<GroupId, NodeId>>>,
    metrics: Arc<Metrics>,
    /// When a refused message was told about last, and how many were not since.
    told: Option<Duration>,
    untold: u64,
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
            let mut leaders = locks::write(&self.leaders);
            match leader {
                Some(leader) => leaders.insert(*group, *leader),
                None => leaders.remove(group),
            };
        }
        if matches!(
            news,
            News::Nodes(_)
                | News::Removed(_)
                | News::Access(..)
                | News::Departs
                | News::Snapshot(_)
        ) {
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
    fn note(&mut self, news: &News) {
        match news {
            News::Held(time) => self.metrics.held(*time),
            News::Leader { leader: Some(leader), .. } => {
                self.metrics.leader_changed(*leader == self.outlets.identity.borrow().node)
            }
            News::Logged { entries, synced, took } => {
                self.metrics.logged(*entries, synced.then_some(*took))
            }
            News::InVain { group } => {
                self.metrics.offered_in_vain();
                tracing::debug!(%group, "leadership was offered and not taken in time");
            }
            News::Refused { from, group, field } => self.refused(*from, *group, field),
            News::Skipped { group, at, why } => {
                self.metrics.entry_skipped();
                tracing::error!(
                    %group, index = at.index, term = at.term, %why,
                    "an entry of a group's log cannot be applied by any version and was passed \
                     over, as on every replica; nothing of it has had an effect. Please report it"
                );
            }
            News::Ended { group } => {
                self.metrics.replica_ended();
                tracing::info!(%group, "a replica that is not needed here any more is deleted");
            }
            News::Leader { leader: None, .. }
            | News::Departs
            | News::Nodes(_)
            | News::Removed(_)
            | News::Access(..)
            | News::Snapshot(_) => {}
        }
    }

    /// A flood of messages that are refused is a line now and then.
    fn refused(&mut self, node: NodeId, group: GroupId, field: &'static str) {
        self.metrics.peer_message_refused(field);
        let now = self.clock.now();
        if self.told.is_some_and(|told| now.saturating_sub(told) < limits::REFUSALS_TOLD_EVERY) {
            self.untold += 1;
            return;
        }
        tracing::warn!(
            %node,
            %group,
            field,
            more = self.untold,
            "refused a message of a node: no node that is well says this",
        );
        (self.told, self.untold) = (Some(now), 0);
    }

    /// Adds what an order brings. False for the last one.
    fn take(&mut self, order: Order, inputs: &mut Vec<Input>) -> bool {
        match order {
            Order::Input(input) => inputs.push(*input),
            Order::Peer { from, messages, taken } => {
                drop(taken);
                inputs.extend(
                    messages
                        .into_iter()
                        .map(|message| Input::Peer { from, message: Box::new(message) }),
                );
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
fn keep_store(
    store: &Store,
    log: &Log,
    topology: Topology,
    work: &Receiver<Job>,
    results: &Orders,
    clock: Clock,
    metrics: &Metrics,
) {
    while let Ok(job) = work.recv() {
        // A panic here ends the node, and does not leave it leading with a store that nobody
        // writes.
        let finished = do_job(store, log, topology, job, clock, metrics);
        results.send(Order::Input(Box::new(Input::Finished(finished))));
    }
}

fn do_job(
    store: &Store,
    log: &Log,
    topology: Topology,
    job: Job,
    clock: Clock,
    metrics: &Metrics,
) -> Finished {
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
