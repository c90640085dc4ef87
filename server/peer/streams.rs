//! The streams that carry messages: one to each of the other nodes, and one from each.
//!
//! Messages may be lost, as when a stream breaks or a queue is full; nobody relies on a message arriving. A stream with nothing to say says so every
//! `limits::PEER_ALIVE`, so that one that is silent is known to be dead: a new process of the same node may then take its place.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

use super::{Me, Verdict, connect, hello::newcomer, judge, rows, status};
use crate::{
    clock::Chance,
    driver::Handle,
    engine::{Input, RowsToSend},
    error::{Error, Result},
    failpoint::{Failpoint, failpoint},
    ids::NodeId,
    limits,
    metrics::Metrics,
    proto::internal::v1::{DeliverRequest, DeliverResponse, PeerMessage},
    room::{Room, Taken},
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
    tasks: Mutex<JoinSet<()>>,
    metrics: Arc<Metrics>,
    spool: PathBuf,
    /// Which process of each node has a stream to this one.
    speakers: Mutex<BTreeMap<NodeId, Speaker>>,
}

struct Line {
    queue: mpsc::Sender<Queued>,
    room: Room,
    address: watch::Sender<String>,
    refusal: Arc<Mutex<Option<String>>>,
    /// Whether what is queued is sent, and not lost.
    open: watch::Receiver<bool>,
}

type Queued = (Vec<PeerMessage>, Taken);

struct Speaker {
    incarnation: u64,
    address: String,
    streams: u32,
    heard: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    pub fn new(me: Me, spool: PathBuf, metrics: Arc<Metrics>) -> Peers {
        let shared = Shared {
            me,
            handle: tokio::sync::OnceCell::new(),
            lines: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
            metrics,
            spool,
            speakers: Mutex::default(),
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
        let (count, bytes) = (messages.len(), wire::peer_bytes(&messages));
        let queue = |line: &Line| line.room.take(bytes).is_some_and(|taken| line.queue.try_send((messages, taken)).is_ok());
        let sent = lock(&self.shared.lines).get(&to).is_some_and(queue);
        self.shared.metrics.peer_messages(count, sent);
    }

    /// Says where a node is; the newest word counts.
    pub fn learn(&self, node: NodeId, address: &str) {
        let me = self.shared.me.identity.borrow().node;
        if node == me {
            return;
        }
        let mut lines = lock(&self.shared.lines);
        match lines.get(&node) {
            Some(line) => drop(line.address.send_if_modified(|now| {
                let changed = now != address;
                if changed {
                    address.clone_into(now)
                }
                changed
            })),
            None => {
                let (queue, messages) = mpsc::channel(limits::PEER_QUEUE_MAX);
                let (address, at) = watch::channel(address.to_owned());
                let refusal = Arc::new(Mutex::new(None));
                let (opened, open) = watch::channel(false);
                lock(&self.shared.tasks).spawn(speak(self.clone(), node, messages, at, refusal.clone(), opened));
                lines.insert(node, Line { queue, room: Room::of(limits::PEER_QUEUE_BYTES_MAX), address, refusal, open });
            }
        }
    }

    pub fn address(&self, node: NodeId) -> Option<String> {
        lock(&self.shared.lines).get(&node).map(|line| line.address.borrow().clone())
    }

    /// Who has a stream to this node, and where they say they are.
    pub fn heard(&self) -> Vec<(NodeId, String)> {
        lock(&self.shared.speakers).iter().map(|(node, speaker)| (*node, speaker.address.clone())).collect()
    }

    /// Asks the nodes that this one has streams to where a node is that is not where it was.
    async fn ask_around(&self, node: NodeId) {
        let others: Vec<_> = lock(&self.shared.lines).values().filter(|line| *line.open.borrow()).map(|line| line.address.borrow().clone()).collect();
        let mut asked: JoinSet<_> = others.into_iter().map(|address| tokio::time::timeout(limits::PEER_CONNECT, status(address))).collect();
        while let Some(answer) = asked.join_next().await {
            let Ok(Ok(Ok(status))) = answer else { continue };
            if let Some(heard) = status.heard.iter().find(|heard| NodeId(heard.node_id) == node) {
                return self.learn(node, &heard.address);
            }
        }
    }

    /// Why other nodes refuse this one, if they do.
    pub fn refusals(&self) -> Vec<String> {
        lock(&self.shared.lines).values().filter_map(|line| lock(&line.refusal).clone()).collect()
    }

    pub async fn stop(&self) {
        lock(&self.shared.lines).clear();
        let mut tasks = std::mem::take(&mut *lock(&self.shared.tasks));
        tasks.shutdown().await;
    }

    /// Lets a process of a node speak, unless another one that claims to be the same node is speaking.
    fn admit(&self, node: NodeId, incarnation: u64, address: &str, now: Duration) -> Result<(), String> {
        let mut speakers = lock(&self.shared.speakers);
        let fresh = || Speaker { incarnation, address: address.to_owned(), streams: 0, heard: now };
        let speaker = speakers.entry(node).or_insert_with(fresh);
        if speaker.incarnation != incarnation {
            if now.saturating_sub(speaker.heard) < limits::PEER_SILENT {
                let at = &speaker.address;
                return Err(format!("another process at {at} speaks as node {node} already; two were started from one part or store"));
            }
            // Its streams have not ended, but nobody speaks on them: its machine is gone, or cut off.
            *speaker = fresh();
        }
        speaker.streams += 1;
        Ok(())
    }

    /// Notes that a process has spoken. False when another one has taken its place.
    fn hear(&self, node: NodeId, incarnation: u64, now: Duration) -> bool {
        let mut speakers = lock(&self.shared.speakers);
        let speaker = speakers.get_mut(&node).filter(|s| s.incarnation == incarnation);
        speaker.map(|s| s.heard = now).is_some()
    }

    /// A stream of a process has ended. Whether it was its last.
    fn dismiss(&self, node: NodeId, incarnation: u64) -> bool {
        let mut speakers = lock(&self.shared.speakers);
        let Some(speaker) = speakers.get_mut(&node).filter(|s| s.incarnation == incarnation) else { return false };
        speaker.streams -= 1;
        let last = speaker.streams == 0;
        if last {
            speakers.remove(&node);
        }
        last
    }

    /// Sends rows in the background and tells the engine what became of it. Not before the stream to the node is open: what announces them comes by it, and would
    /// be lost, and with it the rows.
    pub fn send_rows(&self, rows: RowsToSend) {
        let shared = self.shared.clone();
        let line = lock(&self.shared.lines).get(&rows.to).map(|line| (line.address.borrow().clone(), line.open.clone()));
        self.spawn(async move {
            let (to, group, announced) = (rows.to, rows.group, rows.announced.clone());
            let sent = match line {
                Some((address, open)) if opens(open.clone()).await => rows::ship(&shared.me, &address, &shared.spool, rows).await,
                Some(_) => Err(Error::unavailable(format!("there is no stream to node {to}"))),
                None => Err(Error::unavailable(format!("the address of node {to} is not known"))),
            };
            if let Err(e) = &sent {
                tracing::debug!(%to, %group, error = %e, "rows of a group could not be sent; the leader will try again");
            }
            if let Some(handle) = shared.handle.get() {
                // The offer expires by itself when the engine has no room for this.
                let _ = handle.input(Input::RowsSent { to, group, announced: sent.ok().map(|()| announced) });
            }
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.shared.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Waits for a stream as long as it takes to try again.
async fn opens(mut open: watch::Receiver<bool>) -> bool {
    tokio::time::timeout(limits::PEER_RETRY_MAX, open.wait_for(|open| *open)).await.is_ok_and(|open| open.is_ok())
}

/// Keeps one stream to one node for as long as the node is known.
async fn speak(
    peers: Peers,
    node: NodeId,
    mut messages: mpsc::Receiver<Queued>,
    mut at: watch::Receiver<String>,
    refusal: Arc<Mutex<Option<String>>>,
    open: watch::Sender<bool>,
) {
    let mut pause = limits::PEER_RETRY_MIN;
    let mut chance = Chance::from_entropy();
    let mut said = String::new();
    loop {
        let address = at.borrow_and_update().clone();
        let began = peers.shared.handle.get().map(|h| h.clock.now());
        let end = stream(&peers, node, &address, &mut messages, &refusal, &open).await;
        open.send_replace(false);
        let why = match end {
            Ok(()) => return,
            Err(e) => e.to_string(),
        };
        if why != said {
            let refused = lock(&refusal).is_some();
            if refused {
                tracing::warn!(%node, %address, %why, "refused by a node")
            } else {
                tracing::info!(%node, %address, %why, "no stream to a node; trying again")
            }
            said = why;
        }
        let held = peers.shared.handle.get().zip(began).is_some_and(|(h, began)| h.clock.now() - began > limits::PEER_RETRY_MAX);
        if held {
            pause = limits::PEER_RETRY_MIN;
            said.clear();
        }
        let jitter = Duration::from_millis(chance.below(pause.as_millis() as u64 + 1));
        let wait = tokio::time::sleep(pause / 2 + jitter);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => {
                    pause = (pause * 2).min(limits::PEER_RETRY_MAX);
                    break;
                }
                Ok(()) = at.changed() => {
                    pause = limits::PEER_RETRY_MIN;
                    break;
                }
                // What was to be sent meanwhile is lost: it would be old news.
                message = messages.recv() => if message.is_none() { return },
            }
        }
    }
}

/// One stream, from the hello to its end. Ok when the node is not known any more.
async fn stream(
    peers: &Peers,
    node: NodeId,
    address: &str,
    messages: &mut mpsc::Receiver<Queued>,
    refusal: &Mutex<Option<String>>,
    open: &watch::Sender<bool>,
) -> Result<()> {
    let shared = &peers.shared;
    let mut client = connect(address).await?;
    let (frames, outgoing) = mpsc::channel(16);
    let hello = DeliverRequest { hello: Some(shared.me.hello(node)), messages: Vec::new() };
    failpoint(Failpoint::HelloSending);
    frames.send(hello).await.map_err(|_| Error::unavailable("the stream closed"))?;
    let answers = tokio::time::timeout(limits::PEER_CONNECT, client.deliver(ReceiverStream::new(outgoing))).await;
    let answers = answers.map_err(|_| Error::unavailable(format!("{address} does not answer the hello")))?;
    let mut answers = answers.map_err(|s| Error::unavailable(format!("{address}: {}", s.message())))?.into_inner();
    let first =
        tokio::time::timeout(limits::PEER_CONNECT, answers.next()).await.map_err(|_| Error::unavailable(format!("{address} does not answer the hello")))?;
    let answer = first.ok_or_else(|| Error::unavailable("the stream closed"))?.map_err(|s| Error::unavailable(s.message().to_owned()))?;
    let judged = answer.hello.as_ref().map(|hello| judge(&shared.me.identity.borrow().clone(), hello));
    if let Some(hello) = answer.hello.as_ref().filter(|hello| NodeId(hello.node_id) != node) {
        // Nodes have changed places, as when parts are restored onto each other's machines. Who stands here now says so at first hand; where the one is that
        // stood here, those know that it speaks to.
        if let Some(Verdict::Welcome | Verdict::Adopt(_)) = judged {
            peers.learn(NodeId(hello.node_id), &hello.address);
        }
        peers.ask_around(node).await;
    }
    let verdict = match judged {
        _ if !answer.refused.is_empty() => Verdict::Refuse(answer.refused),
        Some(verdict) => verdict,
        None => Verdict::Refuse("no hello".into()),
    };
    match verdict {
        Verdict::Refuse(why) => {
            *lock(refusal) = Some(why.clone());
            return Err(Error::conflict(why));
        }
        Verdict::Adopt(lineage) => {
            if let Some(handle) = shared.handle.get() {
                handle.input(Input::Adopt(lineage))?;
            }
        }
        // The other side may be a store that was restored a second time: it is told nothing before that is ruled out.
        Verdict::Newcomer => {
            let handle = shared.handle.get().ok_or_else(|| Error::unavailable("this node is starting"))?;
            let lineage = shared.me.identity.borrow().lineage;
            if let Verdict::Refuse(why) = newcomer(handle, node, lineage).await {
                return Err(Error::conflict(why));
            }
        }
        Verdict::Welcome => {}
    }
    *lock(refusal) = None;
    open.send_replace(true);
    tracing::debug!(%node, %address, "stream to a node is open");
    loop {
        tokio::select! {
            batch = tokio::time::timeout(limits::PEER_ALIVE, gather(messages)) => {
                let Some(batch) = batch.unwrap_or(Some(Vec::new())) else { return Ok(()) };
                failpoint(Failpoint::FrameSending);
                frames.send(DeliverRequest { hello: None, messages: batch }).await.map_err(|_| Error::unavailable("the stream closed"))?;
                failpoint(Failpoint::FrameSent);
            }
            ended = answers.next() => {
                let why = match ended { Some(Err(s)) => s.message().to_owned(), _ => "the node has closed the stream".into() };
                return Err(Error::unavailable(why));
            }
        }
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

/// Listens to one stream of another node.
pub async fn listen(peers: Peers, handle: Handle, mut stream: Streaming<DeliverRequest>, answers: mpsc::Sender<Result<DeliverResponse, Status>>) {
    let hello = match tokio::time::timeout(limits::PEER_CONNECT, stream.next()).await {
        Ok(Some(Ok(DeliverRequest { hello: Some(hello), .. }))) => hello,
        _ => return,
    };
    let (node, me) = (NodeId(hello.node_id), peers.me().clone());
    let identity = me.identity.borrow().clone();
    let verdict = match judge(&identity, &hello) {
        Verdict::Newcomer => newcomer(&handle, node, identity.lineage).await,
        verdict => verdict,
    };
    let verdict = match verdict {
        Verdict::Refuse(why) => Err(why),
        verdict => peers.admit(node, hello.incarnation, &hello.address, handle.clock.now()).map(|()| verdict),
    };
    let _speaking = verdict.is_ok().then(|| Speaking { peers: &peers, handle: &handle, node, incarnation: hello.incarnation });
    let refused = verdict.as_ref().err().cloned().unwrap_or_default();
    let answer = DeliverResponse { hello: Some(me.hello(node)), refused: refused.clone() };
    let answered = answers.send(Ok(answer)).await;
    failpoint(Failpoint::HelloAnswered);
    if answered.is_err() || !refused.is_empty() {
        if !refused.is_empty() {
            tracing::warn!(%node, address = %hello.address, why = %refused, "refused a node");
        }
        return;
    }
    // A lineage is adopted only from whoever has accepted this node's own hello: others may not know yet that they have met it before.
    peers.learn(node, &hello.address);
    while let Some(Ok(request)) = stream.next().await {
        if !peers.hear(node, hello.incarnation, handle.clock.now()) {
            return tracing::info!(%node, "another process of a node has taken the place of this one");
        }
        failpoint(Failpoint::FrameCame);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::Identity,
        ids::{ClusterId, Lineage, Topology},
    };

    fn peers() -> Peers {
        let identity = Identity {
            format: 1,
            node: NodeId(1),
            cluster: ClusterId(uuid::Uuid::nil()),
            lineage: Lineage(1),
            restored_from: None,
            topology: Topology::new(64, 8).unwrap(),
        };
        let me = Me { identity: watch::channel(identity).1, address: "127.0.0.1:1".into(), incarnation: 1 };
        Peers::new(me, PathBuf::new(), Arc::default())
    }

    #[test]
    fn one_process_of_a_node_speaks_and_another_takes_its_place_only_when_it_has_ended_or_gone_silent() {
        let (peers, node, second) = (peers(), NodeId(2), Duration::from_secs(1));
        peers.admit(node, 10, "here", second).unwrap();
        peers.admit(node, 10, "here", second).unwrap();
        assert!(peers.hear(node, 10, 2 * second));
        assert!(peers.admit(node, 20, "there", 3 * second).unwrap_err().contains("here"));

        peers.admit(node, 20, "there", 2 * second + limits::PEER_SILENT).unwrap();
        assert!(!peers.hear(node, 10, 7 * second), "a process that has lost its place is not heard any more");
        assert!(!peers.dismiss(node, 10), "and takes nothing from the other when it ends");
        assert!(peers.hear(node, 20, 7 * second));
        assert!(peers.dismiss(node, 20));

        peers.admit(node, 30, "elsewhere", 7 * second).unwrap();
        peers.admit(node, 30, "elsewhere", 7 * second).unwrap();
        assert!(!peers.dismiss(node, 30), "one of two streams has ended");
        assert!(peers.dismiss(node, 30));
    }
}
