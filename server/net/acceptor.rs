//! Incoming connections: which ones a node takes, how many, and which of them it closes.
//!
//! - A connection that has not sent one whole request within `limits::FIRST_REQUEST` is closed,
//!   however slowly it goes on sending the beginning of one: bytes, the preface of HTTP/2, headers,
//!   a message. A connection that has sent one may stay idle: clients keep theirs open.
//! - The number of connections is bounded well below the files that the process may open, so that
//!   the log and the store always find one; one address gets half of them. When one more comes, the
//!   oldest connection that has sent nothing is closed, or else the one that has been idle longest.
//!   If all are busy, the new one is closed.
//! - The last eighth is for this machine and for addresses from which nodes of the cluster have
//!   spoken, and no share limits those. So strangers who fill the rest lock out neither operators
//!   nor nodes, and take no place from them.
//! - A failed accept is counted, logged and tried again a little later. Without the pause it would
//!   fail again at once, as fast as the machine can.
//!
//! Each is greeted by `tls` when it is first read, which finds out who calls; what a caller may do
//! is up to `rpc::callers`. `rpc::threshold` says when a request begins and ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Error as IoError, ErrorKind, IoSlice, Result as IoResult},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::oneshot,
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::{
    base::{
        clock::Clock,
        limits,
        locks::lock,
        metrics::{Cut, Metrics, PlainKind},
    },
    net::{
        plain::PlainCallers,
        tls::{Caller, Greeted, Tls},
    },
};

/// How many files this process may open, after it has taken all that it may have without asking.
pub fn open_files() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If it cannot be raised, it stays as it is.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}

/// How many connections leave files enough for everything else.
pub fn connections_of(files: u64) -> usize {
    let left = files - (files / 2).min(limits::FILES_RESERVED);
    usize::try_from(left).unwrap_or(usize::MAX).min(limits::CONNECTIONS_MAX)
}

/// The connections that are here. Cheap to clone.
#[derive(Clone)]
pub struct Guests {
    book: Arc<Mutex<Book>>,
    most: usize,
    clock: Clock,
    metrics: Arc<Metrics>,
    tls: Option<Tls>,
}

#[derive(Default)]
struct Book {
    last: u64,
    /// In the order in which they came.
    all: BTreeMap<u64, Arc<Place>>,
    /// Connections that have not sent a whole request yet.
    silent: BTreeSet<u64>,
    by_address: BTreeMap<IpAddr, usize>,
    /// Addresses from which nodes of the cluster have sent a valid hello.
    friends: BTreeSet<IpAddr>,
    /// Who has come without TLS, and is gone again, since that was told last.
    plain: PlainCallers,
}

/// One connection, as it stands in the book.
pub struct Place {
    number: u64,
    address: IpAddr,
    guests: Guests,
    /// Set before the first request.
    caller: OnceLock<Caller>,
    /// The kinds of calls that came without TLS, a bit each.
    plain: AtomicU8,
    /// Whether the connection has sent a whole request.
    said: AtomicBool,
    /// The time by which it must have sent one, in milliseconds of the clock.
    said_until: AtomicU64,
    /// Requests that are not answered to their end.
    open: AtomicU32,
    /// The time at which its last request ended, in milliseconds of the clock.
    idle_since: AtomicU64,
    /// Tells the connection to close.
    leave: Mutex<Option<oneshot::Sender<()>>>,
}

impl Guests {
    pub fn new(most: usize, clock: Clock, metrics: Arc<Metrics>, tls: Option<Tls>) -> Guests {
        Guests { book: Arc::default(), most, clock, metrics, tls }
    }

    /// The connections that come in, without Nagle's delay.
    pub fn incoming(&self, listener: TcpListener) -> Incoming {
        Incoming { guests: self.clone(), listener, pause: None }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().as_millis() as u64
    }

    /// Says each minute who comes without TLS, where this node has certificates.
    pub async fn tell_plain_callers(self) {
        while self.tls.is_some() {
            sleep(limits::PLAIN_TOLD_EVERY).await;
            if let Some(callers) = self.plain_callers() {
                tracing::warn!("connections without TLS in the last minute: {callers}");
            }
        }
    }

    /// Those of now, and those that have gone since this was asked last.
    fn plain_callers(&self) -> Option<String> {
        let mut book = self.book();
        let mut callers = std::mem::take(&mut book.plain);
        for place in book.all.values() {
            callers.note(place.plain.load(Ordering::Relaxed), place.address);
        }
        callers.told()
    }

    /// A place for one more connection; `None` when no other connection may lose its place to it.
    fn admit(&self, address: IpAddr, now: u64) -> Option<(Arc<Place>, oneshot::Receiver<()>)> {
        let address = address.to_canonical();
        let mut book = self.book();
        let known = book.knows(address);
        let (share, most) =
            if known { (self.most, self.most) } else { (self.most / 2, self.most - self.most / 8) };
        let has = book.by_address.get(&address).copied().unwrap_or_default();
        let full =
            has >= share && !self.make_room(&mut book, now, |_, place| place.address == address);
        let full = full
            || book.all.len() >= most
                && !self.make_room(&mut book, now, |book, place| !book.knows(place.address));
        if full && !(known && self.make_room(&mut book, now, |_, _| true)) {
            self.metrics.connection_cut(Cut::Full);
            return None;
        }
        book.last += 1;
        let (leave, told) = oneshot::channel();
        let place = Arc::new(Place {
            number: book.last,
            address,
            guests: self.clone(),
            caller: OnceLock::new(),
            plain: AtomicU8::new(0),
            said: AtomicBool::new(false),
            said_until: AtomicU64::new(now + limits::FIRST_REQUEST.as_millis() as u64),
            open: AtomicU32::new(0),
            idle_since: AtomicU64::new(now),
            leave: Mutex::new(Some(leave)),
        });
        book.add(place.clone());
        self.metrics.connections(book.all.len());
        Some((place, told))
    }

    /// Lets one go that may go. Whether there was one.
    fn make_room(&self, book: &mut Book, now: u64, may_go: impl Fn(&Book, &Place) -> bool) -> bool {
        let silent = book.silent.iter().find(|number| may_go(book, &book.all[*number])).copied();
        let spare = now.checked_sub(limits::CONNECTION_SPARE.as_millis() as u64);
        let idle = || {
            let idle = book.all.values().filter(|place| {
                spare.is_some_and(|spare| place.is_idle_since(spare)) && may_go(book, place)
            });
            idle.min_by_key(|place| place.idle_since.load(Ordering::Relaxed))
                .map(|place| place.number)
        };
        let Some(place) = silent.or_else(idle).and_then(|number| book.remove(number)) else {
            return false;
        };
        if let Some(leave) = lock(&place.leave).take() {
            // It may be gone already.
            let _ = leave.send(());
        }
        self.metrics.connection_cut(Cut::Idle);
        true
    }
}

impl Book {
    fn knows(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.friends.contains(&address)
    }

    fn add(&mut self, place: Arc<Place>) {
        *self.by_address.entry(place.address).or_default() += 1;
        self.silent.insert(place.number);
        self.all.insert(place.number, place);
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Place>> {
        let place = self.all.remove(&number)?;
        self.silent.remove(&number);
        self.plain.note(place.plain.load(Ordering::Relaxed), place.address);
        if let Some(count) = self.by_address.get_mut(&place.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&place.address);
            }
        }
        Some(place)
    }
}

impl Place {
    /// Who calls. Nobody, as long as that has not been found out.
    pub fn caller(&self) -> &Caller {
        self.caller.get().unwrap_or(&Caller::Nobody)
    }

    /// From where the connection comes.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether the connection comes from this machine.
    pub fn is_local(&self) -> bool {
        self.address.is_loopback()
    }

    /// Counts the connection once for each kind of call that comes on it without TLS, where this
    /// node has certificates.
    pub fn calls(&self, kind: PlainKind) {
        let plain = matches!(self.caller(), Caller::Anybody | Caller::Plain);
        let bit = kind.bit();
        if plain
            && self.guests.tls.is_some()
            && self.plain.fetch_or(bit, Ordering::Relaxed) & bit == 0
        {
            self.guests.metrics.plain_connection(kind);
        }
    }

    /// Whether the connection has ever sent a whole request.
    pub fn has_said(&self) -> bool {
        self.said.load(Ordering::Relaxed)
    }

    /// Notes that the connection has sent a whole request.
    pub fn says(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            self.guests.book().silent.remove(&self.number);
        }
    }

    /// Notes that so many more bytes of its first request have come, and gives it the time that
    /// they take on a slow line.
    pub fn goes_on(&self, bytes: usize) {
        self.said_until.fetch_add(
            bytes as u64 * 1000 / limits::FIRST_REQUEST_BYTES_A_SECOND,
            Ordering::Relaxed,
        );
    }

    /// Notes that a node of the cluster speaks on this connection.
    pub fn vouch(&self) {
        let mut book = self.guests.book();
        if book.friends.len() < limits::NODES_MAX {
            book.friends.insert(self.address);
        }
    }

    /// Counts a request as open until the returned value is dropped.
    pub fn open(self: &Arc<Place>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    fn is_idle_since(&self, then: u64) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.idle_since.load(Ordering::Relaxed) <= then
    }

    /// How long the connection may still take for its first request.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.said_until.load(Ordering::Relaxed))
            .saturating_sub(self.guests.clock.now())
    }
}

/// A request that is under way.
pub struct Open(Arc<Place>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.guests.now_ms(), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections as they come in. It never ends and never fails.
pub struct Incoming {
    guests: Guests,
    listener: TcpListener,
    /// Until accepting is tried again.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream for Incoming {
    type Item = IoResult<Guest<Greeted>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, from)) => {
                    let Some((place, leave)) = self.guests.admit(from.ip(), self.guests.now_ms())
                    else {
                        tracing::warn!(
                            from = %from.ip(),
                            most = self.guests.most,
                            "a connection was closed at once: there are too many",
                        );
                        continue;
                    };
                    // Without it, an answer of several writes waits for a delayed ACK; a connection
                    // that has broken already says so when it is read.
                    let _ = stream.set_nodelay(true);
                    let found = {
                        let place = place.clone();
                        // A connection is greeted once.
                        move |caller| drop(place.caller.set(caller))
                    };
                    let greeted = Greeted::new(stream, self.guests.tls.clone(), found);
                    return Poll::Ready(Some(Ok(Guest::new(greeted, place, leave))));
                }
                // The other side has gone before it was accepted: that is no trouble of ours.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::ConnectionAborted
                            | ErrorKind::ConnectionReset
                            | ErrorKind::Interrupted
                    ) => {}
                Err(e) => {
                    self.guests.metrics.accept_failed();
                    tracing::error!(error = %e, "a connection cannot be accepted; trying again");
                    self.pause = Some(Box::pin(sleep(limits::ACCEPT_AGAIN)));
                }
            }
        }
    }
}

/// A connection that keeps to the rules, or ends.
pub struct Guest<S> {
    stream: S,
    place: Arc<Place>,
    /// Ends when the first request must have come; `None` once it has.
    patience: Option<Pin<Box<Sleep>>>,
    /// Whether that time is over.
    overdue: bool,
    leave: oneshot::Receiver<()>,
}

impl<S> Guest<S> {
    fn new(stream: S, place: Arc<Place>, leave: oneshot::Receiver<()>) -> Guest<S> {
        let patience = Some(Box::pin(sleep(place.patience())));
        Guest { stream, place, patience, overdue: false, leave }
    }

    /// Looks whether the time for its first request is over.
    fn has_time(&mut self, cx: &mut Context<'_>) -> IoResult<()> {
        while let Some(patience) = &mut self.patience {
            if self.place.has_said() {
                self.patience = None;
            } else if patience.as_mut().poll(cx).is_pending() {
                break;
            } else if self.place.patience().is_zero() {
                if !std::mem::replace(&mut self.overdue, true) {
                    self.place.guests.metrics.connection_cut(Cut::Silent);
                }
                return Err(IoError::new(ErrorKind::TimedOut, "no whole request has come in time"));
            } else {
                *patience = Box::pin(sleep(self.place.patience()));
            }
        }
        Ok(())
    }

    /// Looks, where there is nothing to do, whether another one needs its place.
    fn may_stay(&mut self, cx: &mut Context<'_>) -> IoResult<()> {
        let told = !matches!(Pin::new(&mut self.leave).poll(cx), Poll::Pending);
        if told {
            Err(IoError::new(ErrorKind::ConnectionAborted, "another connection needs the place"))
        } else {
            Ok(())
        }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, poll: Poll<IoResult<T>>) -> Poll<IoResult<T>> {
        if poll.is_pending() {
            self.may_stay(cx)?;
        }
        poll
    }
}

impl<S> Drop for Guest<S> {
    fn drop(&mut self) {
        let guests = &self.place.guests;
        let mut book = guests.book();
        book.remove(self.place.number);
        guests.metrics.connections(book.all.len());
    }
}

impl<S> Connected for Guest<S> {
    type ConnectInfo = Arc<Place>;

    fn connect_info(&self) -> Arc<Place> {
        self.place.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guest<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        self.has_time(cx)?;
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        self.watched(cx, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guest<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        self.has_time(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        self.has_time(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.watched(cx, written)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watched(cx, flushed)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        self.has_time(cx)?;
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watched(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::base::polled::Polled;

    fn guests(most: usize) -> Guests {
        Guests::new(most, Clock::start(), Arc::default(), None)
    }

    fn stranger(number: u8) -> IpAddr {
        [198, 51, 100, number].into()
    }

    type Held = (Arc<Place>, oneshot::Receiver<()>);

    fn must_go(held: &mut Held) -> bool {
        held.1.try_recv().is_ok()
    }

    #[test]
    fn connections_leave_half_of_the_files_or_as_many_as_are_needed() {
        assert_eq!(connections_of(64), 32);
        assert_eq!(connections_of(1024), 512);
        assert_eq!(connections_of(1 << 14), (1 << 14) - limits::FILES_RESERVED as usize);
        assert_eq!(connections_of(u64::MAX), limits::CONNECTIONS_MAX);
    }

    #[test]
    fn the_oldest_silent_connection_makes_room_then_the_longest_idle_and_the_busy_stay() {
        let guests = guests(4);
        let admit = |now: u64| guests.admit([127, 0, 0, 1].into(), now);
        let mut held: Vec<Held> = (0..4).map(|_| admit(0).unwrap()).collect();
        held[0].0.says();
        let mut next = admit(0).unwrap();
        assert_eq!(
            held.iter_mut().map(must_go).collect::<Vec<_>>(),
            [false, true, false, false],
            "the oldest silent one"
        );
        held.remove(1);
        let _busy: Vec<Open> = held.iter().map(|(place, _)| place.open()).collect();
        held.iter().for_each(|(place, _)| place.says());
        next.0.says();
        let spare = limits::CONNECTION_SPARE.as_millis() as u64;
        assert!(admit(spare - 1).is_none(), "three are busy, and one has only just said something");
        assert!(admit(spare).is_some() && must_go(&mut next));
        assert!(held.iter_mut().all(|held| !must_go(held)));
    }

    #[test]
    fn who_comes_without_tls_is_told_while_it_is_here_and_once_more_when_it_is_gone() {
        let guests = guests(16);
        let here = guests.admit(stranger(1), 0).unwrap();
        let gone = guests.admit(stranger(2), 0).unwrap();
        assert_eq!(guests.plain_callers(), None);
        for (place, _) in [&here, &gone] {
            place.plain.fetch_or(PlainKind::Client.bit(), Ordering::Relaxed);
        }
        guests.book().remove(gone.0.number);
        let both = "clients: 1 from 198.51.100.1, 1 from 198.51.100.2";
        assert_eq!(guests.plain_callers().as_deref(), Some(both));
        let one = "clients: 1 from 198.51.100.1";
        assert_eq!(guests.plain_callers().as_deref(), Some(one), "an open one counts each time");
    }

    #[test]
    fn strangers_have_a_share_and_take_no_place_from_this_machine_and_from_nodes() {
        let guests = guests(16);
        let admit = |address: IpAddr| guests.admit(address, 0);
        let mut one: Vec<Held> = (0..8).map(|_| admit(stranger(1)).unwrap()).collect();
        let opened: Vec<Open> = one.iter().map(|(place, _)| place.open()).collect();
        one.iter().for_each(|(place, _)| place.says());
        assert!(admit(stranger(1)).is_none(), "half of all is its share");
        let node = admit(stranger(2)).unwrap();
        node.0.vouch();
        let mut others: Vec<Held> = (0..5).map(|n| admit(stranger(10 + n)).unwrap()).collect();
        let mut last = admit(stranger(20)).unwrap();
        assert!(must_go(&mut others[0]), "the oldest silent one, and not the node");
        let mut operator = admit([127, 0, 0, 1].into()).unwrap();
        let mut second = admit(stranger(2)).unwrap();
        assert!(!must_go(&mut others[1]), "there was room for those that are known");
        assert!(admit([127, 0, 0, 2].into()).is_some() && must_go(&mut others[1]));
        let more: Vec<Held> = (0..5).map(|n| admit(stranger(30 + n)).unwrap()).collect();
        assert!(must_go(&mut last) && !must_go(&mut operator) && !must_go(&mut second));
        drop((opened, more));
        assert!(one.iter_mut().all(|held| !must_go(held)));
    }

    #[tokio::test]
    async fn who_says_no_whole_request_in_time_is_cut_off_and_who_has_said_one_may_be_silent() {
        let (near, _far) = tokio::io::duplex(64);
        let guests = guests(4);
        let (place, leave) = guests.admit(stranger(1), 0).unwrap();
        place.said_until.store(guests.now_ms() + 20, Ordering::Relaxed);
        let mut guest = Guest::new(near, place.clone(), leave);
        let cut = guest.read_u8().await.unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::TimedOut);
        place.says();
        assert!(Polled::new(guest.read_u8()).poll().is_pending());
        assert!(guest.patience.is_none(), "nothing ends it any more");
        drop(guest);
        assert!(guests.book().all.is_empty() && guests.book().by_address.is_empty());
    }
}
