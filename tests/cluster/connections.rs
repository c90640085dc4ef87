//! Clients that misuse a connection: each is held to the server's limits, and others are served
//! meanwhile.
//!
//! Frames are written by hand (RFC 9113, and RFC 7541 without compression): a client library keeps
//! the limits that it is told, so none could break them.

use std::{fs, time::Duration};

use devicedb::{
    base::{
        clock::{Clock, Random},
        limits,
    },
    net::acceptor,
    proto::v1::{Bucket, DownloadSnapshotRequest, ScanRequest},
};
use prost::Message;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Client, Cluster, Node, Options, SOON, SnapshotStore, eventually, http_get};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
/// `:status` by its place in the static table, and "431" in Huffman's code: the request's headers
/// are too large.
const STATUS_431: [u8; 5] = [0x48, 0x83, 0x69, 0x90, 0xff];

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()[..], payload]
        .concat()
}

/// The beginning of a call that waits for its message, and further headers.
pub fn call(stream: u32, more: usize) -> Vec<u8> {
    call_of("/devicedb.v1.KvService/Get", stream, more)
}

fn call_of(path: &str, stream: u32, more: usize) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "node"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block: Vec<u8> = usual.iter().flat_map(|(name, value)| literal(name, value)).collect();
    (0..more).for_each(|_| block.extend(literal("x", "y")));
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A whole call of one message.
fn asked(path: &str, stream: u32, message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    [call_of(path, stream, 0), frame(DATA, END_STREAM, stream, &framed)].concat()
}

/// Streams of a client have odd numbers.
pub fn stream(nth: u32) -> u32 {
    2 * nth + 1
}

pub struct Connection {
    socket: TcpStream,
    /// What the server announced, by its number.
    settings: Vec<(u16, u32)>,
}

impl Connection {
    pub async fn to(client: &Client) -> Connection {
        Connection::with(client, &[]).await
    }

    /// A connection whose client takes no byte of an answer.
    async fn that_does_not_read(client: &Client) -> Connection {
        Connection::with(
            client,
            &[&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &0u32.to_be_bytes()].concat(),
        )
        .await
    }

    async fn with(client: &Client, settings: &[u8]) -> Connection {
        let mut connection = Connection {
            socket: TcpStream::connect(&client.endpoint).await.unwrap(),
            settings: Vec::new(),
        };
        connection
            .write(
                &[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, settings)]
                    .concat(),
            )
            .await;
        let announced =
            connection.until(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0).await;
        let pairs = announced.payload.chunks_exact(6);
        let number = |pair: &[u8]| {
            (
                u16::from_be_bytes([pair[0], pair[1]]),
                u32::from_be_bytes(pair[2..].try_into().unwrap()),
            )
        };
        connection.settings = pairs.map(number).collect();
        connection.write(&frame(SETTINGS, ACK, 0, &[])).await;
        connection
    }

    fn setting(&self, number: u16) -> Option<u32> {
        self.settings.iter().find(|(n, _)| *n == number).map(|(_, value)| *value)
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Waits until the server has taken in all that was written.
    pub async fn taken_in(&mut self) {
        self.write(&frame(PING, 0, 0, &[7; 8])).await;
        self.until(|frame| frame.kind == PING && frame.flags & ACK != 0).await;
    }

    /// The next frame; none when the server has closed the connection.
    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        timeout(SOON, self.socket.read_exact(&mut head))
            .await
            .expect("the server says something, or hangs up")
            .ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()),
            payload,
        })
    }

    async fn until(&mut self, found: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.read().await.expect("the connection ended before the frame came");
            if found(&frame) {
                return frame;
            }
        }
    }
}

async fn node() -> (Cluster, Client) {
    let cluster =
        Cluster::start(1, Options { snapshot_store: SnapshotStore::None, ..Options::default() })
            .await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    (cluster, client)
}

async fn is_served(client: &Client) {
    client.put("shop", Bucket::Default, "k", "v").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_so_many_streams_and_one_more_is_refused() {
    let (_cluster, other) = node().await;
    let mut greedy = Connection::to(&other).await;
    assert_eq!(greedy.setting(MAX_CONCURRENT_STREAMS), Some(limits::CONCURRENT_STREAMS_MAX));
    for nth in 0..=limits::CONCURRENT_STREAMS_MAX {
        greedy.write(&call(stream(nth), 0)).await;
    }
    let refused = greedy.until(|frame| frame.kind == RST_STREAM).await;
    assert_eq!(
        (refused.stream, refused.number(0)),
        (stream(limits::CONCURRENT_STREAMS_MAX), REFUSED_STREAM)
    );
    is_served(&other).await;
    // Once one of them is given up there is room for another: an empty message ends it, and the
    // server answers.
    greedy.write(&frame(RST_STREAM, 0, stream(0), &CANCEL.to_be_bytes())).await;
    let next = stream(limits::CONCURRENT_STREAMS_MAX + 1);
    greedy.write(&call(next, 0)).await;
    greedy.write(&frame(DATA, END_STREAM, next, &[0; 5])).await;
    greedy.until(|frame| frame.kind == HEADERS && frame.stream == next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_resets_streams_as_fast_as_it_opens_them_is_cut_off_and_others_are_served() {
    let (_cluster, other) = node().await;
    let mut rapid = Connection::to(&other).await;
    let most = limits::RESET_STREAMS_MAX as u32;
    // All at once, so that the server has no time to take one before the next is reset.
    let burst = |from: u32, to: u32| -> Vec<u8> {
        (from..to)
            .map(stream)
            .flat_map(|n| [call(n, 0), frame(RST_STREAM, 0, n, &CANCEL.to_be_bytes())].concat())
            .collect()
    };
    // A client that changes its mind now and then is served.
    rapid.write(&burst(0, most / 2)).await;
    rapid.write(&call(stream(most), 0)).await;
    rapid.write(&frame(DATA, END_STREAM, stream(most), &[0; 5])).await;
    rapid.until(|frame| frame.kind == HEADERS && frame.stream == stream(most)).await;
    // It may be cut off before all is written.
    let _ = rapid.socket.write_all(&burst(most + 1, 10 * most)).await;
    let away = rapid.until(|frame| frame.kind == GOAWAY).await;
    assert_eq!(away.number(4), ENHANCE_YOUR_CALM, "{away:?}");
    while rapid.read().await.is_some() {}
    is_served(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_more_headers_than_allowed_is_refused_and_its_connection_serves_on() {
    let (_cluster, other) = node().await;
    let mut wordy = Connection::to(&other).await;
    assert_eq!(wordy.setting(MAX_HEADER_LIST_SIZE), Some(limits::HEADER_LIST_BYTES_MAX));
    // A header counts as 32 bytes more than its name and value.
    let fitting = limits::HEADER_LIST_BYTES_MAX as usize / 34;
    wordy.write(&call(stream(0), fitting)).await;
    let answer = wordy.until(|frame| frame.stream == stream(0)).await;
    assert!(answer.kind == HEADERS && answer.payload.starts_with(&STATUS_431), "{answer:?}");
    wordy.write(&call(stream(1), fitting / 2)).await;
    wordy.write(&frame(DATA, END_STREAM, stream(1), &[0; 5])).await;
    let answer = wordy.until(|frame| frame.kind == HEADERS && frame.stream == stream(1)).await;
    assert!(!answer.payload.starts_with(&STATUS_431), "{answer:?}");
    is_served(&other).await;
}

/// A node that may open so many files; `which` is a word for the shell's `ulimit`.
async fn node_with_files(which: &str) -> (Cluster, Client) {
    // As many as the test itself opens towards it.
    assert!(acceptor::open_files() > 2048, "this test opens more files than it may");
    let mut cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    node.under =
        ["sh", "-c", &format!(r#"ulimit {which} && exec "$0" "$@""#)].map(str::to_string).to_vec();
    node.start();
    node.wait_ready().await;
    cluster.nodes.push(node);
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    (cluster, client)
}

async fn silent(client: &Client, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(&client.endpoint).await.unwrap());
    }
    all
}

pub fn number(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse().unwrap()
}

pub async fn metrics(client: &Client) -> String {
    http_get(&client.endpoint, "/metrics").await.unwrap().1
}

/// It takes a write over a connection of its own, and a snapshot, which syncs and notes what there
/// is.
async fn works(node: &mut Node) {
    let newcomer = node.client();
    newcomer.put("shop", Bucket::Default, "k", "v").await.unwrap();
    newcomer.complete_snapshot(SOON).await;
    assert!(node.ended_by_itself().is_none(), "{}", node.log_end());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_all_the_files_it_may_have_and_serves_beside_a_thousand_silent_connections() {
    let (mut cluster, client) = node_with_files("-S -n 1024").await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", cluster.nodes[0].pid())).unwrap();
    let files: Vec<_> = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap()
        .split_whitespace()
        .skip(3)
        .take(2)
        .collect();
    assert_eq!(files[0], files[1], "the soft limit is the hard one");
    let _silent = silent(&client, 1100).await;
    works(&mut cluster.nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_files_are_few_silent_connections_make_room_and_the_node_serves_on() {
    let (mut cluster, client) = node_with_files("-n 1024").await;
    let _silent = silent(&client, 1100).await;
    works(&mut cluster.nodes[0]).await;
    eventually("all were accepted, and no more than there are places for stay", SOON, async || {
        let metrics = metrics(&client).await;
        let cut = |why: &str| {
            number(&metrics, &format!(r#"devicedb_connections_cut_total{{why="{why}"}}"#))
        };
        let whole = number(&metrics, "devicedb_connections") <= 512
            && cut("room") > 0
            && cut("room") + cut("silent") >= 1100 - 512;
        if whole { Ok(()) } else { Err(metrics) }
    })
    .await;
    assert_eq!(number(&metrics(&client).await, "devicedb_accept_errors_total"), 0);
    client.put("shop", Bucket::Default, "k", "an old connection stays").await.unwrap();
}

/// One answer on a connection that stays open.
async fn get_again(kept: &mut TcpStream, path: &str) -> String {
    kept.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let all = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head
            .to_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())?;
        (body.len() >= length).then(|| body.to_owned())
    };
    loop {
        if let Some(body) = all(&answer) {
            return body;
        }
        let read = timeout(SOON, kept.read_buf(&mut answer)).await.expect("it answers").unwrap();
        assert!(read > 0, "the connection has ended: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_can_open_no_file_keeps_its_promises_and_accepts_again_when_it_can() {
    let (mut cluster, client) = node_with_files("-n 1024").await;
    let node = &mut cluster.nodes[0];
    let mut kept = TcpStream::connect(&client.endpoint).await.unwrap();
    get_again(&mut kept, "/healthz").await;
    client.put("shop", Bucket::Default, "k", "before").await.unwrap();
    let pid = Pid::from_raw(node.pid() as i32);
    let open = fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count() as u64;
    let few = |current: u64| Rlimit { current: Some(current), maximum: Some(1024) };
    prlimit(pid, Resource::Nofile, few(1)).unwrap();

    let _waiting = TcpStream::connect(&client.endpoint).await.unwrap();
    let failures = "devicedb_accept_errors_total";
    let clock = Clock::start();
    eventually("accepts fail", SOON, async || {
        match number(&get_again(&mut kept, "/metrics").await, failures) {
            0..5 => Err("not yet"),
            _ => Ok(()),
        }
    })
    .await;
    let (failed, took) = (number(&get_again(&mut kept, "/metrics").await, failures), clock.now());
    assert!(
        u128::from(failed) <= 2 + took.as_millis() / limits::ACCEPT_AGAIN.as_millis(),
        "{failed} in {took:?}: it spins"
    );
    // What is acknowledged meanwhile is as durable as ever: the log notes how far it is synced.
    let extent = node.store.join("log/extent");
    let before = fs::read(&extent).unwrap();
    client.put("shop", Bucket::Default, "k", "meanwhile").await.unwrap();
    eventually("the log notes its extent", SOON, async || {
        if fs::read(&extent).unwrap() == before { Err("not yet") } else { Ok(()) }
    })
    .await;
    let lines = node.log().matches("cannot be accepted").count() as u64;
    assert!((1..=clock.now().as_secs() + 2).contains(&lines), "{lines} lines in {:?}", clock.now());

    prlimit(pid, Resource::Nofile, few(open + 100)).unwrap();
    works(node).await;
}

/// Says one after the other, and a little at a time, until the server hangs up; how long that took.
async fn hung_up_on(client: &Client, beginning: Vec<u8>, then: Vec<Vec<u8>>) -> Duration {
    let clock = Clock::start();
    let mut socket = TcpStream::connect(&client.endpoint).await.unwrap();
    socket.write_all(&beginning).await.unwrap();
    let mut more = then.into_iter();
    let mut said = [0; 1024];
    loop {
        assert!(clock.now() < SOON, "it may say anything for ever");
        match timeout(Duration::from_millis(300), socket.read(&mut said)).await {
            Ok(Ok(0) | Err(_)) => return clock.now(),
            Ok(Ok(_)) => {}
            // The server may hang up between the two.
            Err(_) => drop(socket.write_all(&more.next().unwrap_or_default()).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_say_a_whole_request_in_time_is_hung_up_on_and_who_has_said_one_may_be_silent()
{
    let (_cluster, client) = node().await;
    let mut idle = TcpStream::connect(&client.endpoint).await.unwrap();
    get_again(&mut idle, "/healthz").await;
    let mut quiet = Connection::to(&client).await;
    quiet.write(&call(stream(0), 0)).await;
    quiet.write(&frame(DATA, END_STREAM, stream(0), &[0; 5])).await;
    quiet.until(|frame| frame.kind == HEADERS && frame.stream == stream(0)).await;

    let bytes = |text: &[u8]| text.iter().map(|byte| vec![*byte]).collect::<Vec<_>>();
    let preface = &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..];
    let greeting = [preface, &frame(SETTINGS, 0, 0, &[])].concat();
    let pings = vec![frame(PING, 0, 0, &[7; 8]); 100];
    let half = [&greeting[..], &call(stream(0), 0), &frame(DATA, 0, stream(0), &[0, 0, 0, 0, 200])]
        .concat();
    let rest = vec![frame(DATA, 0, stream(0), &[0]); 100];
    let all = tokio::join!(
        hung_up_on(&client, Vec::new(), Vec::new()),
        hung_up_on(&client, Vec::new(), bytes(preface)),
        hung_up_on(
            &client,
            b"GET /healthz HTTP/1.1\r\n".to_vec(),
            bytes(b"Host: somebody who takes a very long time to say so\r\n")
        ),
        hung_up_on(&client, greeting.clone(), pings),
        hung_up_on(&client, half, rest),
    );
    for took in [all.0, all.1, all.2, all.3, all.4] {
        assert!(
            took + Duration::from_secs(1) > limits::FIRST_REQUEST,
            "{took:?} is no time to say something"
        );
    }
    get_again(&mut idle, "/healthz").await;
    quiet.write(&call(stream(1), 0)).await;
    quiet.write(&frame(DATA, END_STREAM, stream(1), &[0; 5])).await;
    quiet.until(|frame| frame.kind == HEADERS && frame.stream == stream(1)).await;
    is_served(&client).await;
    assert_eq!(
        number(&metrics(&client).await, r#"devicedb_connections_cut_total{why="silent"}"#),
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_do_is_logged_once_a_second_with_a_count() {
    let (cluster, other) = node().await;
    let (clock, floods) = (Clock::start(), 20);
    for _ in 0..floods {
        let mut rapid = Connection::to(&other).await;
        let reset = |n: u32| {
            [call(stream(n), 0), frame(RST_STREAM, 0, stream(n), &CANCEL.to_be_bytes())].concat()
        };
        let _ = rapid
            .socket
            .write_all(
                &(0..10 * limits::RESET_STREAMS_MAX as u32).flat_map(reset).collect::<Vec<_>>(),
            )
            .await;
        rapid.until(|frame| frame.kind == GOAWAY).await;
    }
    let log = || cluster.nodes[0].log();
    let counted =
        |line: &str| line.split("left_out=").nth(1)?.split(' ').next()?.parse::<u64>().ok();
    let left_out = || log().lines().filter_map(counted).sum::<u64>();
    let lines = || log().matches("pending-accept streams reached limit").count() as u64;
    eventually("all are counted", SOON, async || {
        if lines() + left_out() >= floods {
            Ok(())
        } else {
            Err(format!("{} and {}", lines(), left_out()))
        }
    })
    .await;
    assert!((1..=clock.now().as_secs() + 2).contains(&lines()), "{} lines:\n{}", lines(), log());
    is_served(&other).await;
}

/// What a node may ever have had in memory, whoever does not read.
const MEMORY_MAX_MIB: u64 = 512;
const KEYS: usize = 128;
const VALUE_BYTES: usize = 64 << 10;

/// Values that do not compress; a page holds only a few.
async fn fill(client: &Client) {
    client.add_site("shop").await.unwrap();
    let mut rng = Random::seeded(7);
    for number in 0..KEYS {
        let value: Vec<u8> =
            (0..VALUE_BYTES / 8).flat_map(|_| rng.next_u64().to_be_bytes()).collect();
        client.put("shop", Bucket::Default, format!("k{number:03}"), value).await.unwrap();
    }
}

fn peak_memory_mib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("Linux says what a process has had at most");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB")
        / 1024
}

/// Asks so often on one connection and reads no answer. How many were refused at once.
async fn ask_and_do_not_read(
    client: &Client,
    path: &str,
    message: &impl Message,
    count: u32,
) -> (Connection, u32) {
    let mut connection = Connection::that_does_not_read(client).await;
    for nth in 0..count {
        connection.write(&asked(path, stream(nth), message)).await;
    }
    let (mut answered, mut refused) = (0, 0);
    while answered < count {
        let frame = connection.until(|frame| frame.kind == HEADERS).await;
        answered += 1;
        refused += u32::from(frame.flags & END_STREAM > 0);
    }
    (connection, refused)
}

/// Whatever others do not read: writes, reads and snapshots go on, and no node has taken more
/// memory than it may.
async fn go_on(cluster: &Cluster) {
    for node in &cluster.nodes {
        for number in 0..10 {
            node.client().put("shop", Bucket::Lww, format!("during {number}"), "v").await.unwrap();
        }
    }
    cluster.client().complete_snapshot(SOON).await;
    assert_eq!(
        cluster.client().get("shop", Bucket::Default, "k001").await.unwrap().siblings[0]
            .value
            .len(),
        VALUE_BYTES
    );
    for node in &cluster.nodes {
        let peak = peak_memory_mib(node);
        assert!(peak <= MEMORY_MAX_MIB, "{} has had {peak} MiB in memory", node.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_scans_that_nobody_reads_take_little_memory_and_everything_goes_on() {
    // One node asks the other for what it scans.
    let cluster = Cluster::start(2, Options { replication_factor: 1, ..Options::default() }).await;
    fill(&cluster.client()).await;
    let scan = ScanRequest {
        site: "shop".into(),
        bucket: Bucket::Default.into(),
        ..ScanRequest::default()
    };
    let mut silent = Vec::new();
    for client in cluster.clients() {
        silent.push(ask_and_do_not_read(&client, "/devicedb.v1.KvService/Scan", &scan, 1000).await);
    }
    go_on(&cluster).await;
    assert!(silent.iter().all(|(_, refused)| *refused as usize == 1000 - limits::SCANS_MAX));
    for client in cluster.clients() {
        let denied = client.scan("shop", Bucket::Default, "").await.unwrap_err();
        assert!(
            denied
                .message()
                .contains(&format!("{} scans are open on this node", limits::SCANS_MAX)),
            "{denied:?}"
        );
    }
    drop(silent);
    for client in cluster.clients() {
        let scanned = eventually("there is room for a scan again", SOON, async || {
            client.scan("shop", Bucket::Default, "").await
        })
        .await;
        assert_eq!(scanned.len(), KEYS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_downloads_that_nobody_reads_keep_no_snapshot_from_completing() {
    let cluster = Cluster::start(2, Options { replication_factor: 1, ..Options::default() }).await;
    let client = cluster.client();
    fill(&client).await;
    let snapshot = client.complete_snapshot(SOON).await;
    let largest =
        snapshot.parts.iter().max_by_key(|part| part.bytes).expect("a snapshot has parts").node_id;
    let download =
        DownloadSnapshotRequest { uuid: snapshot.uuid.clone(), node_id: largest, offset: 0 };
    let mut silent = Vec::new();
    for client in cluster.clients() {
        let (connection, _) = ask_and_do_not_read(
            &client,
            "/devicedb.v1.SnapshotService/DownloadSnapshot",
            &download,
            600,
        )
        .await;
        silent.push(connection);
    }
    go_on(&cluster).await;
    drop(silent);
    let whole = eventually("there is room for a download again", SOON, async || {
        let (downloaded, outcome) = client.download(&snapshot.uuid, largest, 0).await;
        outcome.map(|()| downloaded)
    });
    assert!(
        whole
            .await
            .trailer
            .is_some_and(|trailer| trailer.total_bytes > (KEYS * VALUE_BYTES) as u64)
    );
}
