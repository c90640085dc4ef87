//! Streams between nodes.
//!
//! Every node keeps one stream to each of the others for what it has to say to them; what they say comes on theirs. The first message is a hello: who
//! speaks, to whom, of which cluster and history. The listener answers with its own hello or with a refusal that both sides log. Messages may be lost, as
//! when a stream breaks; nobody relies on a message arriving.
//!
//! Histories never mix. Nodes fresh from a restore have no lineage yet and talk to those that were restored from the same snapshot: with others that have
//! none either they agree on one; a lineage that is there already they adopt, unless that lineage has met this node before. Then the node has come back
//! without what it had acknowledged since, and is refused.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    clock::Chance,
    driver::Handle,
    engine::{Input, RowsToSend},
    entry::Identity,
    error::{Context, Error, Result},
    ids::{GroupId, Lineage, NodeId},
    limits,
    metrics::Metrics,
    proto::internal::v1::{DeliverRequest, DeliverResponse, Hello, PeerMessage, SendRowsRequest, SendRowsResponse, peer_service_client::PeerServiceClient},
    store::transfer,
    wire,
};

/// Version of what nodes say to each other.
pub const PROTOCOL: u32 = 1;

/// What a stream needs to know of its own node.
#[derive(Clone)]
pub struct Me {
    pub identity: watch::Receiver<Identity>,
    pub address: String,
    /// Random, drawn when the process started.
    pub incarnation: u64,
}

impl Me {
    fn hello(&self, to: NodeId) -> Hello {
        let identity = self.identity.borrow();
        Hello {
            protocol: PROTOCOL,
            node_id: identity.node.0,
            to: to.0,
            cluster_id: Bytes::copy_from_slice(identity.cluster.0.as_bytes()),
            lineage: identity.lineage.0,
            restored_from: identity.restored_from.map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes())),
            address: self.address.clone(),
            incarnation: self.incarnation,
        }
    }
}

/// What one hello says of the histories of both sides.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same history, or both on the way to one.
    Welcome,
    /// The other side is fresh from the restore that this side's history began with.
    Newcomer,
    /// This side is fresh from the restore that the other's history began with.
    Adopt(Lineage),
    Refuse(String),
}

/// Judges the hello of another node.
pub fn judge(ours: &Identity, hello: &Hello) -> Verdict {
    let other = NodeId(hello.node_id);
    if hello.protocol != PROTOCOL {
        return Verdict::Refuse(format!(
            "node {other} speaks version {} of the peer protocol, this one {PROTOCOL}; upgrade one release at a time",
            hello.protocol
        ));
    }
    if hello.to != 0 && NodeId(hello.to) != ours.node {
        return Verdict::Refuse(format!("this is node {}, not node {}; its address has changed hands", ours.node, hello.to));
    }
    if other == ours.node {
        return Verdict::Refuse(format!(
            "another process at {} claims to be node {other} too; one of them was started with this node's part or store",
            hello.address
        ));
    }
    if hello.cluster_id != ours.cluster.0.as_bytes()[..] {
        return Verdict::Refuse(format!("node {other} belongs to another cluster than node {} ({})", ours.node, ours.cluster));
    }
    let same_restore = ours.restored_from.map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes())) == hello.restored_from;
    let theirs = Lineage(hello.lineage);
    match (ours.lineage, theirs) {
        (a, b) if a == b && same_restore => Verdict::Welcome,
        (Lineage::PENDING, b) if same_restore => Verdict::Adopt(b),
        (_, Lineage::PENDING) if same_restore => Verdict::Newcomer,
        _ => Verdict::Refuse(format!(
            "node {other} belongs to another history ({}) than node {} ({}): their logs must never mix. Nodes restored from one snapshot belong together; \
             a node of an older history can only come back with an empty store",
            history(theirs, &hello.restored_from),
            ours.node,
            history(ours.lineage, ours.restored_from.as_ref().map_or(&[], |id| id.0.as_bytes()))
        )),
    }
}

fn history(lineage: Lineage, restored_from: &[u8]) -> String {
    match uuid::Uuid::from_slice(restored_from) {
        Ok(id) if lineage == Lineage::PENDING => format!("fresh from a restore of snapshot {id}"),
        Ok(id) => format!("lineage {lineage}, restored from snapshot {id}"),
        Err(_) => format!("lineage {lineage}"),
    }
}

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
    sending: Semaphore,
    /// Which process of each node has a stream to this one.
    speakers: Mutex<BTreeMap<NodeId, (u64, String, u32)>>,
}

struct Line {
    queue: mpsc::Sender<PeerMessage>,
    address: watch::Sender<String>,
    refusal: Arc<Mutex<Option<String>>>,
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
            sending: Semaphore::new(2),
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

    /// Queues a message; it is lost when the queue is full or the node unknown.
    pub fn send(&self, to: NodeId, message: PeerMessage) {
        let sent = lock(&self.shared.lines).get(&to).is_some_and(|line| line.queue.try_send(message).is_ok());
        self.shared.metrics.peer_message(sent);
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
                lock(&self.shared.tasks).spawn(speak(self.shared.clone(), node, messages, at, refusal.clone()));
                lines.insert(node, Line { queue, address, refusal });
            }
        }
    }

    pub fn address(&self, node: NodeId) -> Option<String> {
        lock(&self.shared.lines).get(&node).map(|line| line.address.borrow().clone())
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
    fn admit(&self, node: NodeId, incarnation: u64, address: &str) -> Result<(), String> {
        let mut speakers = lock(&self.shared.speakers);
        let (speaking, at, streams) = speakers.entry(node).or_insert_with(|| (incarnation, address.to_owned(), 0));
        if *speaking != incarnation {
            return Err(format!("another process at {at} speaks as node {node} already; two were started from one part or store"));
        }
        *streams += 1;
        Ok(())
    }

    fn dismiss(&self, node: NodeId) {
        let mut speakers = lock(&self.shared.speakers);
        if let Some((.., streams)) = speakers.get_mut(&node) {
            *streams -= 1;
            if *streams == 0 {
                speakers.remove(&node);
            }
        }
    }

    // ---- Rows for Raft snapshots. ----

    /// Sends rows in the background and tells the engine what became of it.
    pub fn send_rows(&self, rows: RowsToSend) {
        let shared = self.shared.clone();
        lock(&self.shared.tasks).spawn(async move {
            let (to, group) = (rows.to, rows.group);
            let announced = rows.announced.clone();
            let sent = shared.ship(rows).await;
            if let Err(e) = &sent {
                tracing::debug!(%to, %group, error = %e, "rows of a group could not be sent; the leader will try again");
            }
            if let Some(handle) = shared.handle.get() {
                // The offer expires by itself when the engine has no room for this.
                let _ = handle.input(Input::RowsSent { to, group, announced: sent.ok().map(|()| announced) });
            }
        });
    }
}

impl Shared {
    async fn ship(&self, rows: RowsToSend) -> Result<()> {
        let _turn = self.sending.acquire().await.map_err(|_| Error::unavailable("the node is stopping"))?;
        let RowsToSend { to, group, name, record, view, .. } = rows;
        let address = lock(&self.lines).get(&to).map(|line| line.address.borrow().clone());
        let address = address.ok_or_else(|| Error::unavailable(format!("the address of node {to} is not known")))?;
        let path = self.spool.join(format!("outgoing-{group}-{to}.rows"));
        let topology = self.me.identity.borrow().topology;
        let digest = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || transfer::write(&path, &record, &view, topology, group))
                .await
                .map_err(|e| Error::unavailable(e.to_string()))??
        };
        let head = SendRowsRequest { hello: Some(self.me.hello(to)), group: group.0, name, ..SendRowsRequest::default() };
        let sent = tokio::time::timeout(limits::SEND_ROWS, ship_file(&address, head, &path, digest)).await;
        // A spool file that stays is overwritten by the next one.
        let _ = tokio::fs::remove_file(&path).await;
        sent.map_err(|_| Error::unavailable(format!("sending rows to node {to} took longer than {:?}", limits::SEND_ROWS)))?
    }
}

async fn ship_file(address: &str, head: SendRowsRequest, path: &Path, digest: [u8; 32]) -> Result<()> {
    let mut client = connect(address).await?;
    let mut file = File::open(path).await.at(path.display())?;
    let (queue, pieces) = mpsc::channel(4);
    let feed = async move {
        let gone = || Error::unavailable("the receiver has gone");
        queue.send(head).await.map_err(|_| gone())?;
        loop {
            let mut piece = Vec::with_capacity(1 << 20);
            if (&mut file).take(1 << 20).read_to_end(&mut piece).await.at("reading spooled rows")? == 0 {
                break;
            }
            queue.send(SendRowsRequest { rows: piece.into(), ..SendRowsRequest::default() }).await.map_err(|_| gone())?;
        }
        queue.send(SendRowsRequest { digest: digest.to_vec().into(), ..SendRowsRequest::default() }).await.map_err(|_| gone())
    };
    let (fed, answered) = tokio::join!(feed, client.send_rows(ReceiverStream::new(pieces)));
    answered.map_err(|s| Error::unavailable(format!("{address} did not take rows: {}", s.message())))?;
    fed
}

/// Takes rows that another node sends, whole or not at all.
pub async fn receive_rows(me: &Me, handle: &Handle, spool: &Path, mut stream: Streaming<SendRowsRequest>) -> Result<SendRowsResponse> {
    let broken = |s: Status| Error::unavailable(format!("the stream of rows broke: {}", s.message()));
    let head = stream.message().await.map_err(broken)?.ok_or_else(|| Error::invalid("a stream of rows without a first message"))?;
    let hello = head.hello.ok_or_else(|| Error::invalid("a stream of rows without a hello"))?;
    if let Verdict::Refuse(why) = judge(&me.identity.borrow().clone(), &hello) {
        return Err(Error::conflict(why));
    }
    let group = GroupId(head.group);
    let name: String = head.name.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let path = spool.join(format!("incoming-{group}-{name}.rows"));
    let mut file = File::create(&path).await.at(path.display())?;
    let mut hash = blake3::Hasher::new();
    loop {
        let piece = stream.message().await.map_err(broken)?.ok_or_else(|| Error::invalid("a stream of rows ended without its digest"))?;
        if !piece.digest.is_empty() {
            if piece.digest != hash.finalize().as_bytes()[..] {
                return Err(Error::corrupt(format!("rows of group {group} were changed on the way from node {}", hello.node_id)));
            }
            break;
        }
        hash.update(&piece.rows);
        file.write_all(&piece.rows).await.at(path.display())?;
    }
    file.flush().await.at(path.display())?;
    handle.input(Input::RowsArrived { group, name: head.name, path })?;
    Ok(SendRowsResponse {})
}

/// Opens a connection to a node's peer service.
pub async fn connect(address: &str) -> Result<PeerServiceClient<Channel>> {
    let client = PeerServiceClient::new(channel(address).await?);
    Ok(client.max_decoding_message_size(limits::PEER_MESSAGE_BYTES_MAX).max_encoding_message_size(limits::PEER_MESSAGE_BYTES_MAX))
}

/// Opens a connection to a node.
pub async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| Error::invalid(format!("{address} is not host:port: {e}")))?;
    let channel = endpoint.connect_timeout(limits::PEER_CONNECT).tcp_nodelay(true).http2_keep_alive_interval(limits::PEER_KEEPALIVE);
    let channel = channel.keep_alive_timeout(limits::PEER_KEEPALIVE).initial_stream_window_size(4 << 20).initial_connection_window_size(8 << 20);
    let channel = tokio::time::timeout(limits::PEER_CONNECT, channel.connect()).await.map_err(|_| Error::unavailable(format!("{address} does not answer")))?;
    channel.map_err(|e| Error::unavailable(format!("{address} cannot be reached: {}", root_cause(&e))))
}

fn root_cause(e: &dyn std::error::Error) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Keeps one stream to one node for as long as the node is known.
async fn speak(shared: Arc<Shared>, node: NodeId, mut messages: mpsc::Receiver<PeerMessage>, at: watch::Receiver<String>, refusal: Arc<Mutex<Option<String>>>) {
    let mut pause = limits::PEER_RETRY_MIN;
    let mut chance = Chance::from_entropy();
    let mut said = String::new();
    loop {
        let address = at.borrow().clone();
        let began = shared.handle.get().map(|h| h.clock.now());
        let end = stream(&shared, node, &address, &mut messages, &refusal).await;
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
        let held = shared.handle.get().zip(began).is_some_and(|(h, began)| h.clock.now() - began > limits::PEER_RETRY_MAX);
        if held {
            pause = limits::PEER_RETRY_MIN;
            said.clear();
        }
        let jitter = Duration::from_millis(chance.below(pause.as_millis() as u64 + 1));
        let wait = tokio::time::sleep(pause / 2 + jitter);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                // What was to be sent meanwhile is lost: it would be old news.
                message = messages.recv() => if message.is_none() { return },
            }
        }
        pause = (pause * 2).min(limits::PEER_RETRY_MAX);
    }
}

/// One stream, from the hello to its end. Ok when the node is not known any more.
async fn stream(shared: &Shared, node: NodeId, address: &str, messages: &mut mpsc::Receiver<PeerMessage>, refusal: &Mutex<Option<String>>) -> Result<()> {
    let mut client = connect(address).await?;
    let (frames, outgoing) = mpsc::channel(16);
    let hello = DeliverRequest { hello: Some(shared.me.hello(node)), messages: Vec::new() };
    frames.send(hello).await.map_err(|_| Error::unavailable("the stream closed"))?;
    let answers = tokio::time::timeout(limits::PEER_CONNECT, client.deliver(ReceiverStream::new(outgoing))).await;
    let answers = answers.map_err(|_| Error::unavailable(format!("{address} does not answer the hello")))?;
    let mut answers = answers.map_err(|s| Error::unavailable(format!("{address}: {}", s.message())))?.into_inner();
    let first =
        tokio::time::timeout(limits::PEER_CONNECT, answers.next()).await.map_err(|_| Error::unavailable(format!("{address} does not answer the hello")))?;
    let answer = first.ok_or_else(|| Error::unavailable("the stream closed"))?.map_err(|s| Error::unavailable(s.message().to_owned()))?;
    let verdict = if answer.refused.is_empty() {
        answer.hello.as_ref().map_or(Verdict::Refuse("no hello".into()), |hello| judge(&shared.me.identity.borrow().clone(), hello))
    } else {
        Verdict::Refuse(answer.refused)
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
    tracing::debug!(%node, %address, "stream to a node is open");
    loop {
        tokio::select! {
            batch = gather(messages) => {
                let Some(batch) = batch else { return Ok(()) };
                frames.send(DeliverRequest { hello: None, messages: batch }).await.map_err(|_| Error::unavailable("the stream closed"))?;
            }
            ended = answers.next() => {
                let why = match ended { Some(Err(s)) => s.message().to_owned(), _ => "the node has closed the stream".into() };
                return Err(Error::unavailable(why));
            }
        }
    }
}

/// The messages that are there, up to a frame's bytes; waits for the first.
async fn gather(messages: &mut mpsc::Receiver<PeerMessage>) -> Option<Vec<PeerMessage>> {
    let first = messages.recv().await?;
    let mut bytes = prost::Message::encoded_len(&first);
    let mut batch = vec![first];
    while bytes < limits::PEER_FRAME_BYTES
        && batch.len() < 1024
        && let Ok(message) = messages.try_recv()
    {
        bytes += prost::Message::encoded_len(&message);
        batch.push(message);
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
        verdict => peers.admit(node, hello.incarnation, &hello.address).map(|()| verdict),
    };
    let _speaking = verdict.is_ok().then(|| Speaking { peers: &peers, node });
    let refused = verdict.as_ref().err().cloned().unwrap_or_default();
    let answer = DeliverResponse { hello: Some(me.hello(node)), refused: refused.clone() };
    if answers.send(Ok(answer)).await.is_err() || !refused.is_empty() {
        if !refused.is_empty() {
            tracing::warn!(%node, address = %hello.address, why = %refused, "refused a node");
        }
        return;
    }
    // A lineage is adopted only from whoever has accepted this node's own hello: others may not know yet that they have met it before.
    peers.learn(node, &hello.address);
    while let Some(Ok(request)) = stream.next().await {
        for message in request.messages {
            let taken = handle.input(Input::Peer { from: node, message: Box::new(message) }).is_ok();
            peers.shared.metrics.peer_message_received(taken);
        }
    }
}

/// A stream that was admitted, until it ends.
struct Speaking<'a> {
    peers: &'a Peers,
    node: NodeId,
}

impl Drop for Speaking<'_> {
    fn drop(&mut self) {
        self.peers.dismiss(self.node);
    }
}

/// Whether a node fresh from a restore may come into the lineage that this node is in already.
async fn newcomer(handle: &Handle, node: NodeId, lineage: Lineage) -> Verdict {
    let known = handle.look(true, limits::PEER_CONNECT, move |s| s.meta().node(node).is_some_and(|n| n.lineage == lineage)).await;
    match known {
        Ok(false) => Verdict::Newcomer,
        Ok(true) => Verdict::Refuse(format!(
            "node {node} has taken part in lineage {lineage} already and comes back without what it acknowledged since: its store was restored once more. \
             Start it with the store it had, or with an empty one and --join"
        )),
        Err(e) => Verdict::Refuse(format!("this node cannot tell yet: {e}")),
    }
}

/// Sends a request to join to a node.
pub async fn join(address: &str, request: crate::proto::internal::v1::JoinRequest) -> Result<crate::proto::internal::v1::JoinResponse> {
    let mut client = connect(address).await?;
    let mut request = Request::new(request);
    request.set_timeout(limits::REQUEST_DEADLINE);
    client.join(request).await.map(Response::into_inner).map_err(|s| wire::error_of(&s).at(address))
}
