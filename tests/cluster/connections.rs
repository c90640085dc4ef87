//! Clients that misuse a connection: each is held to the server's limits, and others are served meanwhile.
//!
//! Frames are written by hand (RFC 9113, and RFC 7541 without compression): a client library keeps the limits that it is told, so none could break them.

use devicedb::{limits, proto::v1::Bucket};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{Client, Cluster, Options, SOON, SnapshotStore};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
/// `:status` by its place in the static table, and "431" in Huffman's code: the request's headers are too large.
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
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// The beginning of a call that waits for its message, and further headers.
fn call(stream: u32, more: usize) -> Vec<u8> {
    let literal = |name: &str, value: &str| [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat();
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/devicedb.v1.KvService/Get"),
        (":authority", "node"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block: Vec<u8> = usual.iter().flat_map(|(name, value)| literal(name, value)).collect();
    (0..more).for_each(|_| block.extend(literal("x", "y")));
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Streams of a client have odd numbers.
fn stream(nth: u32) -> u32 {
    2 * nth + 1
}

struct Connection {
    socket: TcpStream,
    /// What the server announced, by its number.
    settings: Vec<(u16, u32)>,
}

impl Connection {
    async fn to(client: &Client) -> Connection {
        let mut connection = Connection { socket: TcpStream::connect(&client.endpoint).await.unwrap(), settings: Vec::new() };
        connection.write(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat()).await;
        let announced = connection.until(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0).await;
        let pairs = announced.payload.chunks_exact(6);
        let number = |pair: &[u8]| (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes(pair[2..].try_into().unwrap()));
        connection.settings = pairs.map(number).collect();
        connection.write(&frame(SETTINGS, ACK, 0, &[])).await;
        connection
    }

    fn setting(&self, number: u16) -> Option<u32> {
        self.settings.iter().find(|(n, _)| *n == number).map(|(_, value)| *value)
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// The next frame; none when the server has closed the connection.
    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        timeout(SOON, self.socket.read_exact(&mut head)).await.expect("the server says something, or hangs up").ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream: u32::from_be_bytes(head[5..9].try_into().unwrap()), payload })
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
    let cluster = Cluster::start(1, Options { snapshot_store: SnapshotStore::None, ..Options::default() }).await;
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
    assert_eq!((refused.stream, refused.number(0)), (stream(limits::CONCURRENT_STREAMS_MAX), REFUSED_STREAM));
    is_served(&other).await;
    // Once one of them is given up there is room for another: an empty message ends it, and the server answers.
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
        (from..to).map(stream).flat_map(|n| [call(n, 0), frame(RST_STREAM, 0, n, &CANCEL.to_be_bytes())].concat()).collect()
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
