//! A proxy before every node, so that each direction of each link between two nodes can be cut,
//! slowed down and reset by itself.
//!
//! A node advertises the address of its proxy, one for all others. Who has connected is found out
//! from the kernel: the peer's port names a socket in `/proc/net/tcp`, and the process that holds
//! this socket is one of the nodes. Whoever is not is turned away, and has to try again.
//!
//! One HTTP/2 connection carries both directions. A direction that is cut holds its bytes, as a
//! real link that drops packets makes TCP do: the sender fills its buffers, the receiver hears
//! nothing, not even that the other has ended. When it is healed the bytes go on in order, or the
//! connection is reset. A connection is not established while either direction between its ends is
//! cut. Clients do not pass here.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use devicedb::base::clock::Clock;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

const PIECE_BYTES: usize = 16 << 10;
/// Pieces that a direction of a connection takes in before its sender feels that it is slow.
const PIECES: usize = 16;

/// From a node to another, by their places in the cluster.
pub type Way = (usize, usize);

/// How it is on a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    pub cut: bool,
    pub delay: Duration,
    pub bytes_per_second: Option<u64>,
    /// Connections that are older than the last reset are gone.
    resets: u64,
}

/// All links between the nodes of a cluster. The proxies end when it is dropped.
pub struct Links {
    shared: Arc<Shared>,
    /// Where each node listens, and its proxy.
    nodes: Vec<(String, SocketAddr)>,
    proxies: JoinSet<()>,
    each: Vec<AbortHandle>,
}

struct Shared {
    clock: Clock,
    ways: BTreeMap<Way, watch::Sender<Weather>>,
    /// The process of each node that runs.
    processes: Mutex<BTreeMap<usize, u32>>,
}

impl Links {
    /// A proxy for each of the nodes, which listen there.
    pub async fn between(nodes: &[String]) -> Links {
        let ways = (0..nodes.len())
            .flat_map(|from| (0..nodes.len()).map(move |to| (from, to)))
            .filter(|(from, to)| from != to);
        let ways = ways.map(|way| (way, watch::Sender::new(Weather::default()))).collect();
        let shared = Arc::new(Shared { clock: Clock::start(), ways, processes: Mutex::default() });
        let mut links =
            Links { shared, nodes: Vec::new(), proxies: JoinSet::new(), each: Vec::new() };
        for (to, node) in nodes.iter().enumerate() {
            let (address, proxy) = links.proxy(to, node);
            links.nodes.push((node.clone(), address));
            links.each.push(proxy);
        }
        links
    }

    fn proxy(&mut self, to: usize, node: &str) -> (SocketAddr, AbortHandle) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        (
            listener.local_addr().unwrap(),
            self.proxies.spawn(listen(self.shared.clone(), listener, to, node.to_owned())),
        )
    }

    /// From now on a node is at another address, and nobody at the one where it was.
    pub fn move_away(&mut self, node: usize) {
        self.each[node].abort();
        let listens = self.nodes[node].0.clone();
        let (address, proxy) = self.proxy(node, &listens);
        (self.nodes[node].1, self.each[node]) = (address, proxy);
    }

    /// What a node has to advertise.
    pub fn address(&self, node: usize) -> String {
        self.nodes[node].1.to_string()
    }

    /// Says which process a node is from now on.
    pub fn is_process(&self, node: usize, pid: u32) {
        self.shared.processes.lock().unwrap().insert(node, pid);
    }

    pub fn cut(&self, way: Way) {
        self.change(way, |weather| weather.cut = true);
    }

    pub fn slow(&self, way: Way, delay: Duration, bytes_per_second: Option<u64>) {
        self.change(way, |weather| {
            (weather.delay, weather.bytes_per_second) = (delay, bytes_per_second)
        });
    }

    /// Ends all connections that use the way, in both directions.
    pub fn reset(&self, way: Way) {
        self.change(way, |weather| weather.resets += 1);
    }

    pub fn heal(&self, way: Way) {
        self.change(way, |weather| {
            *weather = Weather { resets: weather.resets, ..Weather::default() }
        });
    }

    pub fn ways(&self) -> impl Iterator<Item = Way> {
        self.shared.ways.keys().copied()
    }

    pub fn is_fine(&self, way: Way) -> bool {
        let weather = *self.shared.ways[&way].borrow();
        weather == Weather { resets: weather.resets, ..Weather::default() }
    }

    fn change(&self, way: Way, change: impl FnOnce(&mut Weather)) {
        self.shared.ways[&way].send_modify(change);
    }
}

async fn listen(shared: Arc<Shared>, listener: TcpListener, to: usize, node: String) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                // A caller that is gone already is none.
                let Ok((near, peer)) = accepted else { continue };
                connections.spawn(carry(shared.clone(), near, peer, to, node.clone()));
            }
        }
    }
}

/// One connection, from its acceptance to its end. Its end is a reset where one was asked for or
/// nobody is there.
async fn carry(shared: Arc<Shared>, near: TcpStream, peer: SocketAddr, to: usize, node: String) {
    // Whatever is dropped from here on without having been shut down is reset.
    let _ = near.set_zero_linger();
    let processes = shared.processes.lock().unwrap().clone();
    let local = near.local_addr();
    let found = tokio::task::spawn_blocking(move || {
        local.and_then(|local| who_holds(peer, local, &processes))
    })
    .await;
    let Ok(Ok(Some(from))) = found else { return };
    let (Some(there), Some(back)) = (shared.ways.get(&(from, to)), shared.ways.get(&(to, from)))
    else {
        return;
    };
    let (there, back) = (there.subscribe(), back.subscribe());
    tokio::select! {
        () = reset(there.clone()) => {}
        () = reset(back.clone()) => {}
        _ = join(shared.clock, near, node, there, back) => {}
    }
}

async fn join(
    clock: Clock,
    mut near: TcpStream,
    node: String,
    mut there: watch::Receiver<Weather>,
    mut back: watch::Receiver<Weather>,
) -> io::Result<()> {
    open(&mut there).await;
    open(&mut back).await;
    let mut far = TcpStream::connect(node).await?;
    far.set_zero_linger()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
    }
    let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
    tokio::join!(pump(clock, near_read, far_write, there), pump(clock, far_read, near_write, back));
    Ok(())
}

/// Carries bytes one way until their source ends, and tells the other end, all as the weather
/// allows.
async fn pump(
    clock: Clock,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
) {
    let (queue, mut pieces) = mpsc::channel(PIECES);
    let read = async move {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(bytes @ 1..) = from.read(&mut piece).await {
            if queue.send((clock.now(), piece[..bytes].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((came, piece)) = pieces.recv().await {
            passes(clock, came, &mut weather).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            let rate = weather.borrow().bytes_per_second;
            if let Some(rate) = rate {
                sleep(Duration::from_secs_f64(piece.len() as f64 / rate as f64)).await;
            }
        }
        open(&mut weather).await;
        // Who does not listen any more needs no word.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// Waits until what came at a time may pass.
async fn passes(clock: Clock, came: Duration, weather: &mut watch::Receiver<Weather>) {
    loop {
        open(weather).await;
        let due = came + weather.borrow_and_update().delay;
        let left = due.saturating_sub(clock.now());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(left) => {}
            _ = weather.changed() => {}
        }
    }
}

async fn open(weather: &mut watch::Receiver<Weather>) {
    let _ = weather.wait_for(|weather| !weather.cut).await.map(|_| ());
}

async fn reset(mut weather: watch::Receiver<Weather>) {
    let before = weather.borrow().resets;
    let _ = weather.wait_for(|weather| weather.resets != before).await.map(|_| ());
}

/// Which of the processes holds the other end of a connection that was accepted here; none when it
/// is gone, or somebody else's.
fn who_holds(
    peer: SocketAddr,
    local: SocketAddr,
    processes: &BTreeMap<usize, u32>,
) -> io::Result<Option<usize>> {
    let port = |address: &str| {
        address.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok())
    };
    let table = fs::read_to_string("/proc/net/tcp")?;
    let inode = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it =
            port(fields.get(1)?) == Some(peer.port()) && port(fields.get(2)?) == Some(local.port());
        is_it.then(|| fields.get(9).copied())?
    });
    let Some(socket) = inode.map(|inode| format!("socket:[{inode}]")) else { return Ok(None) };
    let holds = |pid: u32| {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        open.flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))
    };
    Ok(processes.iter().find(|(_, pid)| holds(**pid)).map(|(node, _)| *node))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection of node 0, which is this process, to node 1, which is too: both its ends.
    async fn connected() -> (Links, TcpStream, TcpStream) {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let links =
            Links::between(&["127.0.0.1:1".into(), node.local_addr().unwrap().to_string()]).await;
        links.is_process(0, std::process::id());
        let near = TcpStream::connect(links.address(1)).await.unwrap();
        let (far, _) = node.accept().await.unwrap();
        (links, near, far)
    }

    async fn said(from: &mut TcpStream, words: &str) {
        let mut heard = vec![0; words.len()];
        from.read_exact(&mut heard).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), words);
    }

    #[tokio::test]
    async fn a_way_that_is_cut_carries_nothing_until_healed_then_everything_in_order() {
        let (links, mut near, mut far) = connected().await;
        near.write_all(b"one ").await.unwrap();
        said(&mut far, "one ").await;
        for (from, to, cut) in [(0, 1, (0, 1)), (1, 0, (1, 0))] {
            let (talks, hears) =
                if from == 0 { (&mut near, &mut far) } else { (&mut far, &mut near) };
            links.cut(cut);
            for word in 0..200 {
                talks.write_all(format!("{word:03} ").as_bytes()).await.unwrap();
                hears.write_all(b"and you? ").await.unwrap();
                said(talks, "and you? ").await;
                assert_eq!(
                    hears.try_read(&mut [0; 4]).unwrap_err().kind(),
                    io::ErrorKind::WouldBlock,
                    "node {to} hears node {from} through a cut"
                );
            }
            links.heal(cut);
            said(hears, &(0..200).map(|word| format!("{word:03} ")).collect::<String>()).await;
        }
    }

    #[tokio::test]
    async fn nobody_hears_through_a_cut_that_the_other_has_ended() {
        let (links, mut near, mut far) = connected().await;
        links.cut((0, 1));
        near.write_all(b"last words").await.unwrap();
        near.shutdown().await.unwrap();
        far.write_all(b"hello?").await.unwrap();
        said(&mut near, "hello?").await;
        assert_eq!(far.try_read(&mut [0; 4]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        links.heal((0, 1));
        let mut heard = String::new();
        far.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "last words");
    }

    #[tokio::test]
    async fn a_reset_ends_a_connection_at_both_ends_and_a_slow_way_only_takes_its_time() {
        let (links, mut near, mut far) = connected().await;
        links.slow((0, 1), Duration::from_millis(5), Some(1 << 20));
        near.write_all(&[7; 40_000]).await.unwrap();
        let mut heard = vec![0; 40_000];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, [7; 40_000]);
        links.reset((1, 0));
        for end in [&mut near, &mut far] {
            assert_eq!(
                end.read(&mut [0; 4]).await.unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
        }
    }

    #[tokio::test]
    async fn nobody_is_where_a_node_has_moved_away_from_and_whoever_was_connected_there_is_cut_off()
    {
        let (mut links, mut near, mut far) = connected().await;
        let old = links.address(1);
        links.move_away(1);
        for end in [&mut near, &mut far] {
            assert_eq!(
                end.read(&mut [0; 4]).await.unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
        }
        assert_eq!(
            TcpStream::connect(old).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(TcpStream::connect(links.address(1)).await.is_ok());
    }

    #[tokio::test]
    async fn whoever_is_no_node_is_turned_away() {
        let (links, ..) = connected().await;
        links.is_process(0, 1);
        let mut stranger = TcpStream::connect(links.address(1)).await.unwrap();
        assert_eq!(
            stranger.read(&mut [0; 4]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}
