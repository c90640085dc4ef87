//! The streams that carry messages: one to each of the other nodes, and one from each.
//!
//! Messages may be lost, as when a stream breaks or a queue is full; nobody relies on a message
//! arriving. A stream with nothing to say says so every `limits::PEER_ALIVE`, so that one that is
//! silent is known to be dead: a new process of the same node may then take its place.
//!
//! Beside messages a stream carries news of who speaks to its sender: from these a node learns
//! where others are. Where it looks is up to `Whereabouts`.

mod removed;
mod sought;
mod speakers;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{Me, Verdict, Whereabouts, Word, heard_nodes, judge, rows, word_of, words};
use crate::{
    base::{
        budget::{ByteBudget, Reservation},
        clock::Random,
        crew::{Crew, Role},
        error::{Error, Kind, Result},
        ids::NodeId,
        limits,
        locks::lock,
        metrics::Metrics,
        pace::Paced,
    },
    cluster::Removed,
    engine::{Announced, Input, RowsToSend, driver::Handle},
    faults::failpoint::{Failpoint, failpoint},
    net::{
        handshake::{belongs, newcomer},
        tls::Shown,
    },
    proto::internal::v1::{DeliverRequest, DeliverResponse, HeardNode, Hello, PeerMessage},
    wire,
};

/// The streams to all other nodes.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    me: Me,
    handle: tokio::sync::OnceCell<Handle>,
    lines: Mutex<BTreeMap<NodeId, Line>>,
    whereabouts: Mutex<Whereabouts>,
    /// Told when a node speaks that has not spoken before, or elsewhere: streams pass it on.
    news: watch::Sender<()>,
    crew: Crew,
    metrics: Arc<Metrics>,
    spool: PathBuf,
    /// How fast rows are sent.
    pace: Paced,
    /// Which process of each node has a stream to this one.
    speakers: Mutex<BTreeMap<NodeId, speakers::Speaker>>,
    /// What is known of this node's own end as a member.
    departure: Mutex<removed::Departure>,
    /// Whom another cluster has looked for here.
    sought: Mutex<Option<sought::Sought>>,
}

struct Line {
    queue: mpsc::Sender<Queued>,
    room: ByteBudget,
    /// There is word of where the node is, or that another process of it speaks.
    again: Arc<Notify>,
    /// Whether what is queued is sent, and not lost.
    open: watch::Receiver<bool>,
}

type Queued = (Vec<PeerMessage>, Reservation);

impl Peers {
    pub fn new(me: Me, spool: PathBuf, pace: Paced, metrics: Arc<Metrics>, crew: Crew) -> Peers {
        let whereabouts = Mutex::new(Whereabouts::new(me.identity.borrow().node, &me.address));
        let shared = Shared {
            me,
            handle: tokio::sync::OnceCell::new(),
            lines: Mutex::default(),
            whereabouts,
            news: watch::Sender::new(()),
            crew,
            metrics,
            spool,
            pace,
            speakers: Mutex::default(),
            departure: Mutex::default(),
            sought: Mutex::default(),
        };
        Peers { shared: Arc::new(shared) }
    }

    /// Where results go; the engine is started after the peers are there.
    pub fn connect(&self, handle: Handle) {
        // Called once, by the node that builds both.
        let _ = self.shared.handle.set(handle);
    }

    pub fn me(&self) -> &Me {
        &self.shared.me
    }

    /// Queues messages in their order; they are lost when the queue is full or the node unknown.
    pub fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        let bytes = wire::peer_bytes(&messages);
        if bytes <= limits::PEER_FRAME_BYTES {
            return self.queue(to, messages, bytes);
        }
        for (batch, bytes) in wire::frames(messages) {
            self.queue(to, batch, bytes);
        }
    }

    fn queue(&self, to: NodeId, messages: Vec<PeerMessage>, bytes: usize) {
        let count = messages.len();
        let queue = |line: &Line| {
            line.room
                .take(bytes)
                .is_some_and(|taken| line.queue.try_send((messages, taken)).is_ok())
        };
        let sent = lock(&self.shared.lines).get(&to).is_some_and(queue);
        self.shared.metrics.peer_messages(count, sent);
    }

    fn whereabouts(&self) -> std::sync::MutexGuard<'_, Whereabouts> {
        lock(&self.shared.whereabouts)
    }

    /// Says where the registry lists a node.
    pub fn listed(&self, node: NodeId, address: &str) {
        if self.whereabouts().listed(node, address) {
            self.look_again(node);
        }
    }

    /// Says what others have heard.
    fn told(&self, heard: Vec<HeardNode>) {
        for (node, word) in words(heard) {
            if self.whereabouts().told(node, &word) {
                self.look_again(node);
            }
        }
    }

    /// A node says itself where it is: it is passed on.
    fn heard(&self, node: NodeId, word: Word) {
        if self.whereabouts().heard(node, word) {
            self.look_again(node);
        }
        self.shared.news.send_replace(());
    }

    /// Has a node dialled, for which there is a place.
    fn look_again(&self, node: NodeId) {
        let mut lines = lock(&self.shared.lines);
        if let Some(line) = lines.get(&node) {
            return line.again.notify_one();
        }
        let (queue, messages) = mpsc::channel(limits::PEER_QUEUE_MAX);
        let again = Arc::new(Notify::new());
        let (opened, open) = watch::channel(false);
        self.shared
            .crew
            .spawn(Role::Speak, speak(self.clone(), node, messages, again.clone(), opened));
        lines.insert(
            node,
            Line { queue, room: ByteBudget::of(limits::PEER_QUEUE_BYTES_MAX), again, open },
        );
    }

    pub fn address(&self, node: NodeId) -> Option<String> {
        self.whereabouts().place(node).map(str::to_owned)
    }

    /// Who has a stream to this node, and where they say they are.
    pub fn speaking(&self) -> Vec<HeardNode> {
        heard_nodes(self.whereabouts().passed_on(0).0)
    }

    /// Finds out who is at an address that an operator gave, and whom that node has heard, whenever
    /// there is no stream to it: so nodes find each other after all addresses have changed.
    pub async fn meet(&self, target: String) {
        self.whereabouts().aim(&target);
        loop {
            if self.whereabouts().is_unmet(&target)
                && let Err(e) = self.ask_who_is_at(&target).await
            {
                self.whereabouts().missed(&target, e.message);
            }
            tokio::time::sleep(limits::MEET_AGAIN).await;
        }
    }

    async fn ask_who_is_at(&self, target: &str) -> Result<()> {
        let asked = self.me().dialler.status_at(target);
        let asked = tokio::time::timeout(limits::PEER_CONNECT, asked).await;
        let (status, name) =
            asked.map_err(|_| Error::unavailable(format!("{target} does not answer")))??;
        let hello = status.hello.ok_or_else(|| {
            Error::unavailable("the node there does not say which cluster it belongs to")
        })?;
        let node = NodeId(hello.node_id);
        let identity = self.me().identity.borrow().clone();
        let verdict =
            if node == identity.node { Verdict::Welcome } else { judge(&identity, &hello) };
        if let Verdict::Refuse(why) = verdict {
            return Err(Error::conflict(why));
        }
        if name.is_some()
            && node != identity.node
            && let Some(handle) = self.shared.handle.get()
        {
            belongs(handle, node, name.as_deref()).await.map_err(Error::conflict)?;
        }
        if self.whereabouts().met(target, node, &word_of(&hello)) {
            self.look_again(node);
        }
        self.told(status.heard);
        Ok(())
    }

    /// Takes note that a node refuses this one.
    fn refused(&self, node: NodeId, address: &str, why: String) -> Error {
        self.whereabouts().refused(node, address, &why);
        Error::conflict(why)
    }

    /// Whom this node misses and where it has looked, and who refuses it and why; none where nobody
    /// is missing.
    pub fn missing(&self) -> Option<String> {
        let whereabouts = self.whereabouts();
        let refusals = whereabouts.refusals().join("; ");
        let refused = (!refusals.is_empty()).then(|| format!("refused by other nodes: {refusals}"));
        let told: Vec<String> = whereabouts.missing().into_iter().chain(refused).collect();
        if told.is_empty() { None } else { Some(told.join("; ")) }
    }

    /// Forgets everybody: what is still said to them is lost.
    pub fn stop(&self) {
        lock(&self.shared.lines).clear();
    }

    /// Sends rows in the background and tells the engine what became of it. Not before the stream
    /// to the node is open: what announces them comes by it, and would be lost, and with it the
    /// rows.
    pub fn send_rows(&self, rows: RowsToSend) {
        let shared = self.shared.clone();
        let (peers, open) =
            (self.clone(), lock(&self.shared.lines).get(&rows.to).map(|line| line.open.clone()));
        let (to, group, announced) = (rows.to, rows.group, rows.announced.clone());
        let tell = {
            let shared = self.shared.clone();
            async move |announced: Option<Announced>| {
                let Some(handle) = shared.handle.get() else { return };
                let sent = || Input::RowsSent { to, group, announced: announced.clone() };
                // Before it hears of the end the engine sends no other rows of the group there.
                while handle.input(sent()).is_err_and(|e| e.kind == Kind::Exhausted) {
                    tokio::time::sleep(limits::ROWS_SENT_AGAIN).await;
                }
            }
        };
        let tell_of_panic = tell.clone();
        let work = async move {
            let is_open = if let Some(open) = open { opens(open).await } else { false };
            let sent = match peers.address(to).filter(|_| is_open) {
                Some(address) => {
                    let Shared { me, spool, pace, .. } = &*shared;
                    rows::send_rows_to(me, &address, spool, pace, rows).await
                }
                None => Err(Error::unavailable(format!("there is no stream to node {to}"))),
            };
            if let Err(e) = &sent {
                tracing::debug!(
                    %to,
                    %group,
                    error = %e,
                    "rows of a group could not be sent; the leader will try again",
                );
            }
            tell(sent.ok().map(|()| announced)).await;
        };
        self.shared.crew.spawn_or(Role::Ship, work, async move |_| tell_of_panic(None).await);
    }
}

/// Waits for a stream as long as it takes to try again.
async fn opens(mut open: watch::Receiver<bool>) -> bool {
    tokio::time::timeout(limits::PEER_RETRY_MAX, open.wait_for(|open| *open))
        .await
        .is_ok_and(|open| open.is_ok())
}

/// Keeps one stream to one node, wherever it is, for as long as the node is known.
async fn speak(
    peers: Peers,
    node: NodeId,
    mut messages: mpsc::Receiver<Queued>,
    again: Arc<Notify>,
    open: watch::Sender<bool>,
) {
    let mut pause = limits::PEER_RETRY_MIN;
    let mut rng = Random::from_entropy();
    let mut said = String::new();
    while let Some(address) = peers.address(node) {
        let began = peers.shared.handle.get().map(|h| h.clock.now());
        let ended = stream(&peers, node, &address, &mut messages, &again, &open).await;
        let was_open = open.send_replace(false);
        let Err(e) = ended else { return };
        if e.message != said {
            if e.kind == Kind::Conflict {
                tracing::warn!(%node, %address, why = %e, "refused by a node")
            } else {
                tracing::info!(%node, %address, why = %e, "no stream to a node; looking for it")
            }
            said = e.message;
        }
        let held = was_open
            && peers
                .shared
                .handle
                .get()
                .zip(began)
                .is_some_and(|(h, began)| h.clock.now() - began > limits::PEER_RETRY_MAX);
        // Where it has not been looked for yet nobody has to be spared.
        if held || peers.whereabouts().is_fresh(node) {
            pause = limits::PEER_RETRY_MIN;
        }
        if held {
            said.clear();
        }
        let jitter = Duration::from_millis(rng.below(pause.as_millis() as u64 + 1));
        let wait = tokio::time::sleep(pause / 2 + jitter);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => {
                    pause = (pause * 2).min(limits::PEER_RETRY_MAX);
                    break;
                }
                () = again.notified() => {
                    pause = limits::PEER_RETRY_MIN;
                    break;
                }
                // What was to be sent meanwhile is lost: it would be old news.
                message = messages.recv() => if message.is_none() { return },
            }
        }
    }
}

/// One stream, from the dialling to its end. Ok when the node is not known any more.
async fn stream(
    peers: &Peers,
    node: NodeId,
    address: &str,
    messages: &mut mpsc::Receiver<Queued>,
    again: &Notify,
    open: &watch::Sender<bool>,
) -> Result<()> {
    let dialled = tokio::select! {
        dialled = dial(peers, node, address) => dialled,
        () = elsewhere(peers, node, address, again) => {
            return Err(Error::unavailable("there is word that it is elsewhere"));
        }
    };
    let (frames, answers, hello) =
        dialled.inspect_err(|e| peers.whereabouts().failed(node, address, &e.message))?;
    peers
        .whereabouts()
        .answered(node, Word { address: address.to_owned(), incarnation: hello.incarnation });
    open.send_replace(true);
    tracing::debug!(%node, %address, "stream to a node is open");
    let ended = keep(peers, node, messages, again, frames, answers).await;
    peers.whereabouts().closed(node);
    ended
}

/// Waits until the node is to be looked for at another place first.
async fn elsewhere(peers: &Peers, node: NodeId, address: &str, again: &Notify) {
    while peers.address(node).is_some_and(|first| first == address) {
        again.notified().await;
    }
}

/// Dials an address and says hello, until the node itself has answered there and accepts.
async fn dial(
    peers: &Peers,
    node: NodeId,
    address: &str,
) -> Result<(mpsc::Sender<DeliverRequest>, Streaming<DeliverResponse>, Hello)> {
    let shared = &peers.shared;
    let silent = |_| Error::unavailable(format!("{address} does not answer the hello"));
    let (mut client, name) = shared.me.dialler.connect_to_named(address).await?;
    let (frames, outgoing) = mpsc::channel(limits::PEER_FRAMES_QUEUED);
    let hello = DeliverRequest { hello: Some(shared.me.hello(node)), ..DeliverRequest::default() };
    failpoint(Failpoint::HelloSending);
    frames.send(hello).await.map_err(|_| Error::unavailable("the stream closed"))?;
    let answers =
        tokio::time::timeout(limits::PEER_CONNECT, client.deliver(ReceiverStream::new(outgoing)))
            .await
            .map_err(silent)?;
    let mut answers = answers
        .map_err(|s| Error::unavailable(format!("{address}: {}", s.message())))?
        .into_inner();
    let first = tokio::time::timeout(limits::PEER_CONNECT, answers.next()).await.map_err(silent)?;
    let answer = first
        .ok_or_else(|| Error::unavailable("the stream closed"))?
        .map_err(|s| Error::unavailable(s.message().to_owned()))?;
    let hello = answer
        .hello
        .ok_or_else(|| Error::unavailable(format!("{address} answers without a hello")))?;
    let (there, judged) =
        (NodeId(hello.node_id), judge(&shared.me.identity.borrow().clone(), &hello));
    let is_ours = !matches!(judged, Verdict::Refuse(_));
    if is_ours {
        peers.told(answer.heard);
    }
    if there != node {
        // Nodes have changed places, as when parts are restored onto each other's machines. Who
        // stands here now says so itself.
        if is_ours && peers.whereabouts().told(there, &word_of(&hello)) {
            peers.look_again(there);
        }
        let whose = match is_ours {
            _ if there == shared.me.identity.borrow().node => ", which is this one,",
            true => "",
            false => " of another cluster or history",
        };
        return Err(Error::unavailable(format!("node {there}{whose} is there now")));
    }
    match judged {
        _ if !answer.refused.is_empty() => {
            if is_ours && answer.removed {
                peers.told_removed_by(node).await;
            }
            return Err(peers.refused(node, address, answer.refused));
        }
        Verdict::Refuse(why) => return Err(peers.refused(node, address, why)),
        _ if let Some(why) = unlike(shared, node, &name).await => {
            return Err(peers.refused(node, address, why));
        }
        Verdict::Adopt(lineage) => {
            if let Some(handle) = shared.handle.get() {
                handle.input(Input::Adopt(lineage))?;
            }
        }
        // The other side may be a store that was restored a second time: it is told nothing before
        // that is ruled out.
        Verdict::Newcomer => {
            let handle =
                shared.handle.get().ok_or_else(|| Error::unavailable("this node is starting"))?;
            let lineage = shared.me.identity.borrow().lineage;
            if let Verdict::Refuse(why) = newcomer(handle, node, lineage).await {
                return Err(Error::unavailable(why));
            }
        }
        Verdict::Welcome => {}
    }
    Ok((frames, answers, hello))
}

/// Why the node that has answered is not believed to be the one that was dialled.
async fn unlike(shared: &Shared, node: NodeId, shown: &Shown) -> Option<String> {
    // Without TLS nothing was proved.
    let name = lock(shown).clone()?;
    belongs(shared.handle.get()?, node, Some(&name)).await.err()
}

/// Sends what there is to say, until the stream ends. Ok when the node is not known any more.
async fn keep(
    peers: &Peers,
    node: NodeId,
    messages: &mut mpsc::Receiver<Queued>,
    again: &Notify,
    frames: mpsc::Sender<DeliverRequest>,
    mut answers: Streaming<DeliverResponse>,
) -> Result<()> {
    let (mut news, mut told) = (peers.shared.news.subscribe(), 0);
    // At first all is news.
    news.mark_changed();
    loop {
        let batch = tokio::select! {
            batch = tokio::time::timeout(limits::PEER_ALIVE, gather(messages)) => {
                let Some(batch) = batch.unwrap_or(Some(Vec::new())) else { return Ok(()) };
                batch
            }
            Ok(()) = news.changed() => Vec::new(),
            () = again.notified() => {
                if peers.whereabouts().is_superseded(node) {
                    return Err(Error::unavailable("another process of the node speaks now"));
                }
                continue;
            }
            ended = answers.next() => {
                let why = match ended {
                    Some(Err(s)) => s.message().to_owned(),
                    _ => "the node has closed the stream".into(),
                };
                return Err(Error::unavailable(why));
            }
        };
        let (heard, now) = peers.whereabouts().passed_on(told);
        told = now;
        failpoint(Failpoint::FrameSending);
        let frame = DeliverRequest { hello: None, messages: batch, heard: heard_nodes(heard) };
        frames.send(frame).await.map_err(|_| Error::unavailable("the stream closed"))?;
        failpoint(Failpoint::FrameSent);
    }
}

/// The messages that are there, up to a frame's bytes; waits for the first.
async fn gather(messages: &mut mpsc::Receiver<Queued>) -> Option<Vec<PeerMessage>> {
    let (mut batch, taken) = messages.recv().await?;
    let mut bytes = taken.bytes();
    while bytes < limits::PEER_FRAME_BYTES
        && batch.len() < limits::PEER_FRAME_MESSAGES_MAX
        && let Ok((more, taken)) = messages.try_recv()
    {
        bytes += taken.bytes();
        batch.extend(more);
    }
    Some(batch)
}

/// Listens to one stream of another node, which has proved this name. `welcomed` is told that it
/// may speak here.
pub async fn listen(
    peers: Peers,
    handle: Handle,
    mut stream: Streaming<DeliverRequest>,
    answers: mpsc::Sender<Result<DeliverResponse, Status>>,
    name: Option<String>,
    welcomed: impl FnOnce(),
) {
    let hello = match tokio::time::timeout(limits::PEER_CONNECT, stream.next()).await {
        Ok(Some(Ok(DeliverRequest { hello: Some(hello), .. }))) => hello,
        _ => return,
    };
    let (node, me) = (NodeId(hello.node_id), peers.me().clone());
    let identity = me.identity.borrow().clone();
    let removed = peers.whereabouts().is_removed(node);
    let verdict = match judge(&identity, &hello) {
        Verdict::Refuse(why) => Verdict::Refuse(why),
        _ if removed => Verdict::Refuse(Removed::refusal(node)),
        Verdict::Newcomer => newcomer(&handle, node, identity.lineage).await,
        verdict => verdict,
    };
    let process = (hello.incarnation, &hello.address[..]);
    let verdict = match verdict {
        Verdict::Refuse(why) => Err(why),
        verdict => belongs(&handle, node, name.as_deref())
            .await
            .and_then(|()| peers.admit(node, process, name.as_deref(), handle.clock.now()))
            .map(|()| verdict),
    };
    let _speaking = verdict.is_ok().then(|| Speaking {
        peers: &peers,
        handle: &handle,
        node,
        incarnation: hello.incarnation,
    });
    let refused = verdict.as_ref().err().cloned().unwrap_or_default();
    let answer = DeliverResponse {
        hello: Some(me.hello(node)),
        refused: refused.clone(),
        heard: peers.speaking(),
        removed,
    };
    let answered = answers.send(Ok(answer)).await;
    failpoint(Failpoint::HelloAnswered);
    if answered.is_err() || !refused.is_empty() {
        peers.note_sought(&identity, &hello, handle.clock.now());
        // Whoever looks for another node here finds out by itself where that is.
        if !refused.is_empty() && [0, identity.node.0].contains(&hello.to) {
            tracing::warn!(%node, address = %hello.address, why = %refused, "refused a node");
        }
        return;
    }
    welcomed();
    // A lineage is adopted only from whoever has accepted this node's own hello: others may not
    // know yet that they have met it before.
    peers.heard(node, word_of(&hello));
    while let Some(Ok(request)) = stream.next().await {
        if !peers.hear(node, hello.incarnation, handle.clock.now()) {
            return tracing::info!(%node, "another process of a node has taken the place of this \
                                          one");
        }
        failpoint(Failpoint::FrameCame);
        peers.told(request.heard);
        if request.messages.is_empty() {
            // A full queue knows that there is life.
            let _ = handle.input(Input::Heard(node));
            continue;
        }
        let count = request.messages.len();
        let taken = handle.peer_messages(node, request.messages).is_ok();
        peers.shared.metrics.peer_messages_received(count, taken);
    }
}

/// A stream that was admitted, until it ends.
struct Speaking<'a> {
    peers: &'a Peers,
    handle: &'a Handle,
    node: NodeId,
    incarnation: u64,
}

impl Drop for Speaking<'_> {
    fn drop(&mut self) {
        if self.peers.dismiss(self.node, self.incarnation) {
            // Only a hint, which saves time.
            let _ = self.handle.input(Input::Gone(self.node));
        }
    }
}
