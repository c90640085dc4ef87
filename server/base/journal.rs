//! What a node says of itself, so that saying it never holds the node up and never ends it.
//!
//! - Lines wait in a bounded queue for a thread that writes them to stderr. Code that logs never
//!   waits for a reader: where a pipe is full, broken or closed, lines are lost and counted,
//!   and the next one that gets through says how many.
//! - Strangers cannot fill a disk with lines: each place in the code says so many a second at the
//!   most, and one line a second says how many more there were. That covers foreign crates too,
//!   which log what a client does wrong.
//!
//! It deliberately knows no files: who wants the log in one redirects stderr, and rotates by
//! copying and truncating, or through a pipe to a program for that.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    io::{self, ErrorKind, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::MakeWriter,
    layer::{Context, Layer},
};

use crate::base::{
    budget::{ByteBudget, Reservation},
    clock::Clock,
    crew::{self, Role},
    error::Result,
    limits,
    locks::lock,
};

/// Lines that were lost on the way to stderr, of which a process has one.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that nobody took in time, or that could not be written.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

enum Note {
    Line(Vec<u8>, Reservation),
    /// Answered once everything before it is written.
    Flush(SyncSender<()>),
}

/// Where lines are handed over. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    notes: SyncSender<Note>,
    room: ByteBudget,
    lost: &'static AtomicU64,
}

impl Journal {
    /// Writes to stderr from now on.
    pub fn start(seldom: Seldom) -> Result<Journal> {
        Journal::on(io::stderr(), seldom, &LOST)
    }

    /// Counts in `lost` what does not get through.
    fn on(
        out: impl Write + Send + 'static,
        seldom: Seldom,
        lost: &'static AtomicU64,
    ) -> Result<Journal> {
        let (notes, lines) = mpsc::sync_channel(limits::LOG_LINES_MAX);
        let keep = move || {
            if crew::caught(Role::Journal, || keep(&lines, out, &seldom, lost)).is_err() {
                // What waits and what comes is counted, also while a backtrace is being drawn.
                for _line in lines.iter().filter(|note| matches!(note, Note::Line(..))) {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        drop(crew::thread(Role::Journal, keep)?);
        Ok(Journal { notes, room: ByteBudget::of(limits::LOG_LINES_BYTES_MAX), lost })
    }

    /// Says a line that is no event: the reason for which the process ends.
    pub fn say(&self, line: &str) {
        self.hand_over([line.as_bytes(), b"\n"].concat());
    }

    fn hand_over(&self, line: Vec<u8>) {
        let taken = self.room.take(line.len());
        if taken.is_none_or(|taken| self.notes.try_send(Note::Line(line, taken)).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was said is written, for as long as `limits::LOG_LAST_WORDS` at the
    /// most.
    pub fn flush(&self) {
        let (done, written) = mpsc::sync_channel(limits::LOG_FLUSH_ANSWERS);
        if self.notes.try_send(Note::Flush(done)).is_ok() {
            // Whoever does not read is not waited for.
            let _ = written.recv_timeout(limits::LOG_LAST_WORDS);
        }
    }
}

/// Makes panics events like others, which do not wait for a reader either.
pub fn tell_of_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let (words, place) = (
            crew::words_of(panic.payload()),
            panic.location().map(ToString::to_string).unwrap_or_default(),
        );
        // Empty unless RUST_BACKTRACE asks for it.
        let trace = Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured {
            trace.to_string()
        } else {
            String::new()
        };
        tracing::error!(
            %place,
            thread = thread::current().name().unwrap_or_default(),
            "panicked: {words}{trace}",
        );
    }));
}

/// One line on its way.
pub struct Pen<'a>(&'a Journal);

impl Write for Pen<'_> {
    /// Takes everything: what cannot be kept is lost and counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.hand_over(line.to_vec());
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Pen<'a>;

    fn make_writer(&'a self) -> Pen<'a> {
        Pen(self)
    }
}

/// Writes what comes until nobody can say anything any more.
fn keep(lines: &Receiver<Note>, mut out: impl Write, seldom: &Seldom, lost: &AtomicU64) {
    let (mut told, mut through) = (0, true);
    let mut tell_at = limits::LOG_TOLD_EVERY;
    loop {
        match lines.recv_timeout(tell_at.saturating_sub(seldom.clock.now())) {
            Ok(Note::Line(line, _taken)) => {
                through = write_all(&mut out, &line).is_ok();
                if !through {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            // Whoever waited may have gone.
            Ok(Note::Flush(done)) => drop(done.try_send(())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if seldom.clock.now() >= tell_at {
            tell_at = seldom.clock.now() + limits::LOG_TOLD_EVERY;
            let more = lost.load(Ordering::Relaxed) - told;
            // Not before one gets through again: this would be one more.
            if more > 0 && through {
                told += more;
                tracing::warn!(
                    lost = more,
                    "lines of the log were lost: nobody has read them in time"
                );
            }
            for (target, left_out) in seldom.left_out() {
                tracing::warn!(left_out, %target, "more lines like those were left out");
            }
        }
    }
}

/// A pipe that is set not to block is asked again until there is room.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::park_timeout(limits::LOG_AGAIN),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Lets each place in the code say only so many lines a second. Debugging is left alone: somebody
/// has asked for it.
#[derive(Clone)]
pub struct Seldom {
    clock: Clock,
    said: Arc<Mutex<BTreeMap<Place, Said>>>,
}

type Place = (&'static str, u32);

#[derive(Default)]
struct Said {
    second: u64,
    lines: u32,
    left_out: u64,
}

impl Seldom {
    pub fn by(clock: Clock) -> Seldom {
        Seldom { clock, said: Arc::default() }
    }

    /// Whether a place may say a line now.
    fn may_say(&self, place: Place, now: Duration) -> bool {
        let mut all = lock(&self.said);
        let said = all.entry(place).or_default();
        if said.second != now.as_secs() {
            (said.second, said.lines) = (now.as_secs(), 0);
        }
        // What strangers do, foreign crates say, and the module that accepts connections. `log` is
        // the bridge by which the log's engine speaks.
        let own = match place.0.strip_prefix("devicedb") {
            Some(module) => !module.starts_with("::net::acceptor"),
            None => place.0 == "log",
        };
        let most = if own { limits::LOG_LINES_A_SECOND } else { limits::LOG_LINES_OF_STRANGERS };
        let may = said.lines < most;
        if may {
            said.lines += 1;
        } else {
            said.left_out += 1;
        }
        may
    }

    /// How many lines were not said since the last time, by the target of the place.
    fn left_out(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        let mut all = lock(&self.said);
        for ((target, _), said) in all.iter_mut().filter(|(_, said)| said.left_out > 0) {
            *sums.entry(*target).or_default() += std::mem::take(&mut said.left_out);
        }
        sums
    }
}

impl<S: Subscriber> Layer<S> for Seldom {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let what = event.metadata();
        *what.level() > Level::INFO
            || self.may_say((what.target(), what.line().unwrap_or_default()), self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Until a thread that this test does not wait for has counted so many.
    fn counts(lost: &AtomicU64, expected: u64) {
        let clock = Clock::start();
        while lost.load(Ordering::Relaxed) < expected && clock.now() < SOON {
            thread::yield_now();
        }
        assert_eq!(lost.load(Ordering::Relaxed), expected);
    }

    /// Takes the first lines and no more, until it is let go on.
    struct Stuck {
        lines: SyncSender<String>,
        until: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.lines.send(String::from_utf8_lossy(bytes).into_owned()).unwrap();
            self.until.recv_timeout(SOON).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_logs_never_waits_for_whoever_reads_and_what_is_lost_is_counted() {
        static LOST_HERE: AtomicU64 = AtomicU64::new(0);
        let (lines, seen) = mpsc::sync_channel(2 * limits::LOG_LINES_MAX);
        let (go_on, until) = mpsc::sync_channel(2 * limits::LOG_LINES_MAX);
        let journal = Journal::on(Stuck { lines, until }, Seldom::by(Clock::start()), &LOST_HERE);
        let journal = journal.unwrap();
        journal.say("first");
        assert_eq!(seen.recv_timeout(SOON).unwrap(), "first\n");
        let more = 10;
        (0..limits::LOG_LINES_MAX + more).for_each(|_| Pen(&journal).write_all(b"next\n").unwrap());
        assert_eq!(LOST_HERE.load(Ordering::Relaxed), more as u64);
        // The queue is full: nobody waits for it to be written.
        journal.flush();
        drop(go_on);
        assert!(seen.recv_timeout(SOON).is_ok(), "an error ends nothing: the next line is tried");
    }

    /// Lets lines wait behind it, and panics then.
    struct Panics(Receiver<()>);

    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.recv_timeout(SOON).unwrap();
            panic!("the writer has a fault");
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_wait_for_a_writer_that_panics_are_counted_and_whoever_flushes_is_not_held_up() {
        static LOST_HERE: AtomicU64 = AtomicU64::new(0);
        let (go_on, until) = mpsc::sync_channel(1);
        let journal = Journal::on(Panics(until), Seldom::by(Clock::start()), &LOST_HERE).unwrap();
        journal.say("the one that it panics with");
        journal.say("one that waits");
        go_on.send(()).unwrap();
        journal.flush();
        journal.say("one that comes later");
        journal.flush();
        counts(&LOST_HERE, 2);
    }

    #[test]
    fn a_place_says_so_many_lines_a_second_and_the_rest_is_counted() {
        let seldom = Seldom::by(Clock::start());
        let at = Duration::from_millis;
        // The module's path as it is now, so that moving it does not change whose lines they are.
        let acceptor = std::any::type_name::<crate::net::acceptor::Guests>();
        let acceptor = acceptor.strip_suffix("::Guests").unwrap();
        let says = |place: Place, from: u64| {
            (0..100).filter(|n| seldom.may_say(place, at(from + n))).count() as u32
        };
        assert_eq!(says(("h2::proto", 7), 1000), limits::LOG_LINES_OF_STRANGERS);
        assert_eq!(says((acceptor, 7), 1000), limits::LOG_LINES_OF_STRANGERS);
        assert_eq!(says(("devicedb::net::streams", 7), 1000), limits::LOG_LINES_A_SECOND);
        assert_eq!(says(("devicedb::net::streams", 8), 1000), limits::LOG_LINES_A_SECOND);
        assert_eq!(says(("h2::proto", 7), 2000), limits::LOG_LINES_OF_STRANGERS);
        let own = 2 * u64::from(100 - limits::LOG_LINES_A_SECOND);
        assert_eq!(
            seldom.left_out().into_iter().collect::<Vec<_>>(),
            [(acceptor, 99), ("devicedb::net::streams", own), ("h2::proto", 198)]
        );
        assert!(seldom.left_out().is_empty());
    }
}
