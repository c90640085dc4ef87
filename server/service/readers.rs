//! Clients that read, and those that do not: how much of their answers may wait here, and for how
//! long.
//!
//! An HTTP/2 client may stop reading at any time, and then its answer stays in memory: a page of a
//! scan, a piece of a download, a large value. So every outgoing body passes through `Outgoing`. It
//! hands on a large answer in pieces, each a copy that is counted until the connection has written
//! it, with at most `limits::READER_PIECES` of one stream under way. The rest stays here, where it
//! can be dropped.
//!
//! - A stream takes a `Seat`, of which there are only so many, and waits for a `turn` before it
//!   makes its next piece. No turn is given while clients have left more than
//!   `limits::READERS_BYTES_MAX` untaken. A stream that waits too long for a turn is refused.
//! - A stream whose client has taken nothing for `limits::READER_STALL` is ended: its source and
//!   its rest are dropped, and a client that reads it again learns how to go on. While others wait
//!   for room, `limits::READER_STALL_PRESSED` is enough. A client that takes a piece now and then,
//!   however slowly, keeps its stream.
//! - What the connection holds cannot be taken back: at most `limits::READER_PIECES`, and the one
//!   that waits for the client's window to open. It stays counted until the client takes it or the
//!   connection ends.
//!
//! Small answers, such as a put's, pass untouched. Streams between nodes consist of small answers
//! too, and nobody ends those.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, Response, header::CONTENT_TYPE},
};

use crate::{
    base::{
        clock::Clock,
        error::{Error, Result},
        limits,
        locks::lock,
    },
    wire,
};

/// What is streamed to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Scan,
    Download,
}

/// All readers of a node. Cheap to clone.
#[derive(Clone)]
pub struct Readers {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    /// Bytes of answers that no client has taken yet.
    bytes: AtomicUsize,
    /// Told when there is room again.
    room: Notify,
    /// Somebody was refused, or waits for room.
    pressed: AtomicBool,
    scans: Desk,
    downloads: Desk,
    /// The last number given to a stream, and the open streams by number.
    watched: Mutex<(u64, BTreeMap<u64, Arc<Reader>>)>,
}

/// Where streams of one kind are counted.
struct Desk {
    seats: Arc<AtomicUsize>,
    turns: Semaphore,
}

/// A stream that is open. It goes with the response, and is free again when its last clone is
/// dropped.
#[derive(Clone, Debug)]
pub struct Seat(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Reservation>);

#[derive(Debug)]
struct Reservation(Arc<AtomicUsize>);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Scan => "scans",
            Kind::Download => "downloads",
        }
    }

    fn seats(self) -> usize {
        match self {
            Kind::Scan => limits::SCANS_MAX,
            Kind::Download => limits::DOWNLOADS_MAX,
        }
    }
}

impl Readers {
    pub fn new(clock: Clock) -> Readers {
        let desk = || Desk { seats: Arc::default(), turns: Semaphore::new(limits::READER_TURNS) };
        let (bytes, room, pressed, watched) =
            (AtomicUsize::new(0), Notify::new(), AtomicBool::new(false), Mutex::default());
        Readers {
            shared: Arc::new(Shared {
                clock,
                bytes,
                room,
                pressed,
                scans: desk(),
                downloads: desk(),
                watched,
            }),
        }
    }

    fn desk(&self, kind: Kind) -> &Desk {
        match kind {
            Kind::Scan => &self.shared.scans,
            Kind::Download => &self.shared.downloads,
        }
    }

    /// A place for one more stream.
    pub fn seat(&self, kind: Kind) -> Result<Seat> {
        let seats = &self.desk(kind).seats;
        let fits = |taken: usize| (taken < kind.seats()).then_some(taken + 1);
        if seats.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err() {
            self.shared.pressed.store(true, Ordering::Release);
            let (count, name) = (kind.seats(), kind.name());
            return Err(Error::exhausted(format!(
                "{count} {name} are open on this node already; read those that you have open to \
                 their end, or ask another node"
            )));
        }
        Ok(Seat(Arc::new(Reservation(seats.clone()))))
    }

    /// Waits until a stream may make its next piece: what it becomes until it is handed out is
    /// bounded by the number of turns.
    pub async fn turn(&self, kind: Kind) -> Result<SemaphorePermit<'_>> {
        let turn = async {
            let turn = self
                .desk(kind)
                .turns
                .acquire()
                .await
                .map_err(|_| Error::unavailable("this node is stopping"));
            self.shared.room().await;
            turn
        };
        tokio::time::timeout(limits::READER_WAIT, turn)
            .await
            .unwrap_or_else(|_| Err(self.shared.full()))
    }

    /// Waits until there is room for an answer that may be large, for so long.
    pub async fn room(&self, wait: Duration) -> Result<()> {
        if self.shared.has_room() {
            return Ok(());
        }
        tokio::time::timeout(wait.min(limits::READER_WAIT), self.shared.room())
            .await
            .map_err(|_| self.shared.full())
    }

    /// Looks after what goes out with a response.
    pub fn watch(&self, response: Response<Body>) -> Response<Outgoing> {
        let (mut parts, body) = response.into_parts();
        let grpc = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let mut outgoing =
            Outgoing { readers: self.clone(), grpc, inner: Some(body), watched: None };
        if let Some(seat) = parts.extensions.remove::<Seat>() {
            outgoing.begin(Some(seat));
        }
        Response::from_parts(parts, outgoing)
    }

    /// Ends streams that nobody reads, until it is dropped.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(limits::READERS_LOOK).await;
            self.look();
        }
    }

    fn look(&self) {
        let pressed = self.shared.pressed.swap(false, Ordering::AcqRel);
        let patience = if pressed { limits::READER_STALL_PRESSED } else { limits::READER_STALL };
        let now = self.shared.clock.now();
        let watched: Vec<_> = lock(&self.shared.watched).1.values().cloned().collect();
        let ended = watched.iter().filter(|reader| reader.end_if_stalled(now, patience)).count();
        if ended > 0 {
            tracing::warn!(
                ended,
                pressed,
                "streams have been ended whose clients had taken nothing of them for {} s",
                patience.as_secs()
            );
        }
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Acquire) <= limits::READERS_BYTES_MAX
    }

    async fn room(&self) {
        loop {
            let told = self.room.notified();
            if self.has_room() {
                return;
            }
            self.pressed.store(true, Ordering::Release);
            told.await;
        }
    }

    fn full(&self) -> Error {
        self.pressed.store(true, Ordering::Release);
        let bytes = self.bytes.load(Ordering::Acquire);
        Error::exhausted(format!(
            "{bytes} bytes of answers lie on this node, untaken by those who asked for them; slow \
             down, or ask another node"
        ))
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn uncount(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before > limits::READERS_BYTES_MAX && before - bytes <= limits::READERS_BYTES_MAX {
            self.room.notify_waiters();
        }
    }
}

/// A stream that is looked after.
struct Reader {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    /// What makes the frames; none while it is asked for one, and when the stream is over.
    source: Option<Body>,
    /// The bytes of the last frame that are not handed on yet.
    rest: Bytes,
    /// Pieces that the connection has not written yet.
    under_way: usize,
    /// When the client last took something.
    moved: Duration,
    ended: Option<Status>,
    waker: Option<Waker>,
    seat: Option<Seat>,
}

impl Reader {
    fn end_if_stalled(&self, now: Duration, patience: Duration) -> bool {
        let mut state = lock(&self.state);
        let waits_for_client = state.under_way > 0 || !state.rest.is_empty();
        if !waits_for_client || state.ended.is_some() || now.saturating_sub(state.moved) < patience
        {
            return false;
        }
        let why = format!(
            "nothing of this answer was read for {} s, so it was ended; ask again for what is \
             missing: a scan after its last key, a download from the byte that it has come to",
            patience.as_secs()
        );
        state.ended = Some(wire::status_of(&Error::unavailable(why)));
        self.shared.uncount(state.rest.len());
        state.rest = Bytes::new();
        let dropped = (state.source.take(), state.seat.take());
        let waker = state.waker.take();
        drop(state);
        drop(dropped);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// The next piece of the rest. Copied, so that what it was a part of can go.
    fn piece(self: &Arc<Reader>, state: &mut State) -> Bytes {
        let bytes = if state.rest.len() <= limits::READER_PIECE_BYTES && state.rest.is_unique() {
            std::mem::take(&mut state.rest)
        } else {
            let piece = Bytes::copy_from_slice(
                &state.rest[..state.rest.len().min(limits::READER_PIECE_BYTES)],
            );
            state.rest.advance(piece.len());
            piece
        };
        state.under_way += 1;
        Bytes::from_owner(Piece { bytes, reader: self.clone() })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let state = lock(&self.state);
        self.shared.uncount(state.rest.len());
    }
}

/// A piece on its way. It is dropped when the connection has written it.
struct Piece {
    bytes: Bytes,
    reader: Arc<Reader>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.reader.shared.uncount(self.bytes.len());
        let mut state = lock(&self.reader.state);
        state.under_way -= 1;
        state.moved = self.reader.shared.clock.now();
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// The body of a response; see the module.
pub struct Outgoing {
    readers: Readers,
    /// Its status goes in trailers.
    grpc: bool,
    /// What makes the frames, as long as nobody looks after it.
    inner: Option<Body>,
    watched: Option<(u64, Arc<Reader>)>,
}

impl Outgoing {
    fn begin(&mut self, seat: Option<Seat>) -> Arc<Reader> {
        let shared = &self.readers.shared;
        let (source, moved) = (self.inner.take(), shared.clock.now());
        let state = State {
            source,
            rest: Bytes::new(),
            under_way: 0,
            moved,
            ended: None,
            waker: None,
            seat,
        };
        let reader = Arc::new(Reader { shared: shared.clone(), state: Mutex::new(state) });
        let mut watched = lock(&shared.watched);
        watched.0 += 1;
        let number = watched.0;
        watched.1.insert(number, reader.clone());
        self.watched = Some((number, reader.clone()));
        reader
    }

    fn poll_watched(
        reader: &Arc<Reader>,
        grpc: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = lock(&reader.state);
        loop {
            if let Some(status) = &state.ended {
                let told =
                    if grpc { trailers(status).map(Frame::trailers) } else { Err(status.clone()) };
                return Poll::Ready(Some(told));
            }
            if state.under_way >= limits::READER_PIECES {
                state.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if !state.rest.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(reader.piece(&mut state)))));
            }
            let Some(mut source) = state.source.take() else { return Poll::Ready(None) };
            // Not under the lock: what makes a frame may take its time.
            drop(state);
            let polled = Pin::new(&mut source).poll_frame(cx);
            state = lock(&reader.state);
            let over = !matches!(&polled, Poll::Pending | Poll::Ready(Some(Ok(_))));
            if state.ended.is_none() && !over {
                state.source = Some(source);
            }
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => {
                        reader.shared.count(data.len());
                        if state.under_way == 0 {
                            state.moved = reader.shared.clock.now();
                        }
                        state.rest = data;
                    }
                    Ok(_) => {}
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(end) => return Poll::Ready(end),
            }
        }
    }
}

fn trailers(status: &Status) -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(trailers)
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some((_, reader)) = &self.watched {
            return Outgoing::poll_watched(reader, self.grpc, cx);
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(cx);
        match polled {
            Poll::Ready(Some(Ok(frame)))
                if frame.data_ref().is_some_and(|data| data.len() > limits::READER_PIECE_BYTES) =>
            {
                let reader = self.begin(None);
                let mut state = lock(&reader.state);
                state.rest = frame.into_data().unwrap_or_default();
                reader.shared.count(state.rest.len());
                Poll::Ready(Some(Ok(Frame::data(reader.piece(&mut state)))))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some((number, reader)) = self.watched.take() {
            lock(&self.readers.shared.watched).1.remove(&number);
            let mut state = lock(&reader.state);
            let dropped = (state.source.take(), state.seat.take());
            self.readers.shared.uncount(state.rest.len());
            state.rest = Bytes::new();
            drop(state);
            drop(dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as AxumBody;

    use super::*;
    use crate::base::polled::Polled;

    const PIECE: usize = limits::READER_PIECE_BYTES;

    fn readers() -> Readers {
        Readers::new(Clock::start())
    }

    fn outgoing(readers: &Readers, bytes: usize, seat: Option<Seat>) -> Outgoing {
        let content: Vec<u8> = (0..bytes).map(|at| (at / 7) as u8).collect();
        let mut response = Response::new(Body::new(AxumBody::from(content)));
        response.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
        if let Some(seat) = seat {
            response.extensions_mut().insert(seat);
        }
        readers.watch(response).into_body()
    }

    /// What the body gives out now.
    fn next(body: &mut Outgoing) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Polled::new(std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).poll()
    }

    fn data(body: &mut Outgoing) -> Bytes {
        match next(body) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap(),
            other => panic!("no data: {other:?}"),
        }
    }

    fn lying(readers: &Readers) -> usize {
        readers.shared.bytes.load(Ordering::Acquire)
    }

    #[test]
    fn a_large_answer_goes_out_in_pieces_of_which_few_are_under_way_and_all_are_counted() {
        let readers = readers();
        let mut body = outgoing(&readers, limits::READER_PIECES * PIECE + 5, None);
        let mut under_way: Vec<_> = (0..limits::READER_PIECES).map(|_| data(&mut body)).collect();
        assert!(under_way.iter().all(|piece| piece.len() == PIECE));
        assert_eq!(lying(&readers), limits::READER_PIECES * PIECE + 5);
        assert!(next(&mut body).is_pending());
        under_way.pop();
        let last = data(&mut body);
        assert_eq!((last.len(), lying(&readers)), (5, (limits::READER_PIECES - 1) * PIECE + 5));
        drop((last, under_way));
        assert_eq!(lying(&readers), 0);
        assert!(matches!(next(&mut body), Poll::Ready(None)));
    }

    #[test]
    fn a_small_answer_passes_and_is_nobodys_business() {
        let readers = readers();
        let mut body = outgoing(&readers, PIECE, None);
        assert_eq!(HttpBody::size_hint(&body).exact(), Some(PIECE as u64));
        assert_eq!(
            (data(&mut body).len(), lying(&readers), body.watched.is_none()),
            (PIECE, 0, true)
        );
    }

    #[test]
    fn a_stream_that_nobody_reads_is_ended_with_the_way_to_go_on_and_gives_its_seat_back() {
        let readers = readers();
        let seat = readers.seat(Kind::Scan).unwrap();
        let mut body = outgoing(&readers, 10 * PIECE, Some(seat));
        let piece = data(&mut body);
        let reader = body.watched.as_ref().unwrap().1.clone();
        let soon = readers.shared.clock.now() + limits::READER_STALL / 2;
        assert!(
            !reader.end_if_stalled(soon, limits::READER_STALL),
            "it has taken something lately"
        );
        assert!(reader.end_if_stalled(soon + limits::READER_STALL, limits::READER_STALL));
        assert_eq!(
            (lying(&readers), readers.shared.scans.seats.load(Ordering::Acquire)),
            (PIECE, 0)
        );
        let Poll::Ready(Some(Ok(last))) = next(&mut body) else { panic!("it says why") };
        let trailers = last.into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert!(
            status.code() == tonic::Code::Unavailable
                && status.message().contains("a scan after its last key"),
            "{status:?}"
        );
        drop((piece, body, reader));
        assert_eq!(lying(&readers), 0);
    }

    #[test]
    fn a_stream_that_waits_for_the_node_is_not_ended() {
        let readers = readers();
        let mut body = outgoing(&readers, PIECE, Some(readers.seat(Kind::Download).unwrap()));
        drop(data(&mut body));
        let reader = body.watched.as_ref().unwrap().1.clone();
        assert!(
            !reader.end_if_stalled(limits::READER_STALL * 10, limits::READER_STALL),
            "everything was taken"
        );
    }

    #[test]
    fn seats_are_so_many_and_come_back() {
        let readers = readers();
        let mut seats: Vec<_> =
            (0..limits::DOWNLOADS_MAX).map(|_| readers.seat(Kind::Download).unwrap()).collect();
        let refused = readers.seat(Kind::Download).unwrap_err();
        assert!(
            refused.kind == crate::base::error::Kind::Exhausted
                && refused.message.contains("downloads are open"),
            "{refused}"
        );
        readers.seat(Kind::Scan).unwrap();
        seats.pop();
        readers.seat(Kind::Download).unwrap();
    }

    #[tokio::test]
    async fn whoever_makes_answers_waits_until_others_have_been_taken() {
        let readers = readers();
        let piece = limits::READERS_BYTES_MAX / 2 + PIECE;
        let (mut first, second) =
            (outgoing(&readers, piece, None), outgoing(&readers, piece, None));
        let mut both = (data(&mut first), second);
        data(&mut both.1);
        let mut turn = Polled::new(readers.turn(Kind::Scan));
        assert!(turn.poll().is_pending());
        drop(both.1);
        assert!(turn.is_woken());
        assert!(matches!(turn.poll(), Poll::Ready(Ok(_))));
    }
}
