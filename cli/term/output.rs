//! The two streams: results on stdout in the form that was asked for, words on stderr.
//!
//! Nothing here panics when a stream is closed: a reader that left is a quiet end, a full disk
//! behind stdout is a failure.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::{
    SCHEMA, colour,
    exit::{self, Failure},
    text,
};
use crate::base::{clock::Clock, locks::lock};

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

/// A result. As a document it is its fields, whose names are stable; for people it is text.
pub trait View: Serialize {
    /// Ends with a line end, or is empty.
    fn text(&self, look: Look) -> String;

    /// Whether the text says how something is, in words that a terminal shows in colour. What users
    /// have stored is shown as it is.
    fn tells_states(&self) -> bool {
        true
    }
}

/// How text is looked at: from where, and when.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// How wide the terminal is that tables have to fit; none where it is a file or a pipe.
    pub columns: Option<usize>,
    /// What ages are counted to: milliseconds since 1970.
    pub now_ms: u64,
}

impl Look {
    /// How long ago that was, as people say it; nothing where it has no time.
    pub fn age(self, at_ms: u64) -> String {
        if at_ms == 0 { "-".into() } else { text::span(self.now_ms.saturating_sub(at_ms) / 1000) }
    }
}

/// A result as it stands in JSON and YAML.
#[derive(Serialize)]
struct Document<'a, V: View> {
    /// First, so that a program can tell what it cannot read.
    schema: u32,
    #[serde(flatten)]
    view: &'a V,
}

type Words = Arc<Mutex<Box<dyn Write + Send>>>;

pub struct Console {
    name: &'static str,
    pub format: Format,
    out: Box<dyn Write + Send>,
    words: Words,
    /// Where bars are drawn that stand below each other.
    bars: Option<MultiProgress>,
    pub stdout_is_terminal: bool,
    /// Whether results have colour.
    paints: bool,
    /// How wide the terminal is that stdout is; none where it is a file or a pipe.
    columns: Option<usize>,
    /// When it is for a console that only keeps what it is told; none where the clock says it.
    now_ms: Option<u64>,
    stderr_is_terminal: bool,
    /// Whether only warnings and failures are said.
    hushed: bool,
    farewell: InterruptMessage,
}

/// What is said when an interrupt ends the program: what is left behind, and how to go on.
#[derive(Clone, Default)]
pub struct InterruptMessage {
    name: &'static str,
    words: Arc<Mutex<String>>,
    tidies: Arc<AtomicBool>,
}

impl Console {
    pub fn open(name: &'static str, format: Format) -> Console {
        Console {
            name,
            format,
            out: stdout(),
            words: Arc::new(Mutex::new(Box::new(io::stderr()))),
            bars: None,
            stdout_is_terminal: io::stdout().is_terminal(),
            paints: io::stdout().is_terminal() && colour::is_wanted(),
            columns: columns(),
            now_ms: None,
            stderr_is_terminal: io::stderr().is_terminal(),
            hushed: false,
            farewell: InterruptMessage { name, ..InterruptMessage::default() },
        }
    }

    /// Consoles for `count` concurrent tasks. They share this one's stderr and stack their progress
    /// bars. They write no results, and only this console handles an interrupt.
    pub fn beside(&self, count: usize) -> Vec<Console> {
        let bars = MultiProgress::with_draw_target(self.target());
        let one = || Console {
            name: self.name,
            format: self.format,
            out: Box::new(io::sink()),
            words: self.words.clone(),
            bars: Some(bars.clone()),
            stdout_is_terminal: false,
            paints: false,
            columns: None,
            now_ms: None,
            stderr_is_terminal: self.stderr_is_terminal,
            hushed: self.hushed,
            farewell: InterruptMessage::default(),
        };
        (0..count).map(|_| one()).collect()
    }

    /// Prints a result.
    pub fn print(&mut self, view: &impl View) -> Result<(), Failure> {
        let document = Document { schema: SCHEMA, view };
        let text = match self.format {
            Format::Table if self.paints && view.tells_states() => {
                colour::painted(&view.text(self.look()))
            }
            Format::Table => view.text(self.look()),
            Format::Json => serde_json::to_string_pretty(&document).map_err(unwritable)? + "\n",
            Format::Yaml => serde_norway::to_string(&document).map_err(unwritable)?,
        };
        self.write(text.as_bytes())
    }

    /// Prints one of many results: a line of JSON, a document of YAML.
    pub fn print_each<V: View>(&mut self, views: &[V]) -> Result<(), Failure> {
        let mut text = String::new();
        for view in views {
            let document = Document { schema: SCHEMA, view };
            text += &match self.format {
                Format::Table => view.text(self.look()),
                Format::Json => serde_json::to_string(&document).map_err(unwritable)? + "\n",
                Format::Yaml => {
                    "---\n".to_owned() + &serde_norway::to_string(&document).map_err(unwritable)?
                }
            };
        }
        self.write(text.as_bytes())
    }

    fn look(&self) -> Look {
        let now_ms = self.now_ms.unwrap_or_else(|| Clock::start().wall_ms());
        Look { columns: self.columns, now_ms }
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.try_write(bytes).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::reader_left(),
            _ => Failure::new(
                exit::FAILED,
                format!("cannot write the result: {e}"),
                "stdout",
                "see where it is redirected to",
            ),
        })
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// From now on nothing is said or drawn but warnings and failures.
    pub fn hush(&mut self) {
        self.hushed = true;
    }

    /// Words for a person. When nobody can hear them, that is no failure.
    pub fn say(&mut self, words: &str) {
        if !self.hushed {
            self.speak(words);
        }
    }

    fn speak(&self, words: &str) {
        let mut to = lock(&self.words);
        let mut write = || drop(writeln!(to, "{words}"));
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// Words for a person about what a document says by itself.
    pub fn confirm(&mut self, words: &str) {
        if self.format == Format::Table {
            self.say(words);
        }
    }

    pub fn warn(&mut self, words: &str) {
        let line = format!("{}: warning: {}", self.name, text::line(words));
        self.speak(&line);
    }

    /// Says how it ended, if there is anything to say, and returns the exit code.
    pub fn finish(self, end: Result<(), Failure>) -> u8 {
        let Err(failure) = end else { return exit::OK };
        if !failure.is_silent() {
            self.complain(&failure);
        }
        failure.exit
    }

    /// Says what went wrong: a line for people, an object on a line where results are JSON.
    pub fn complain(&self, failure: &Failure) {
        match self.format {
            Format::Json => self.speak(&failure.document()),
            Format::Table | Format::Yaml => self.speak(&format!("{}: {failure}", self.name)),
        }
    }

    pub fn farewell(&self) -> InterruptMessage {
        self.farewell.clone()
    }

    /// Sets what an interrupt from now on leaves behind.
    pub fn on_interrupt(&self, words: impl Into<String>) {
        *lock(&self.farewell.words) = words.into();
    }

    /// Whether an interrupt from now on drops what the command is doing and waits until all is
    /// taken away that it has made, before it ends the program.
    pub fn tidy_on_interrupt(&self, tidy: bool) {
        self.farewell.tidies.store(tidy, Ordering::Relaxed);
    }

    /// A bar on a terminal; nothing at all in a pipe.
    pub fn bar(&self, of: u64, bytes: bool) -> ProgressBar {
        let template = if bytes {
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
        } else {
            "{msg} [{bar:30}] {pos}/{len} partitions"
        };
        let style =
            ProgressStyle::with_template(template).expect("the templates above are well formed");
        match &self.bars {
            Some(bars) => bars.add(ProgressBar::new(of)).with_style(style),
            None => ProgressBar::with_draw_target(Some(of), self.target()).with_style(style),
        }
    }

    fn target(&self) -> ProgressDrawTarget {
        if self.draws() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
    }

    /// Whether somebody is there who can be asked.
    pub fn asks(&self) -> bool {
        self.stderr_is_terminal && io::stdin().is_terminal()
    }

    /// Asks, and returns the line that is typed; an end of input is an empty one.
    pub fn ask(&self, question: &str) -> Result<String, Failure> {
        let typed =
            |e| Failure::new(exit::FAILED, format!("cannot read what is typed: {e}"), "", "");
        let _ = write!(lock(&self.words), "{question}");
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(typed)?;
        Ok(line)
    }

    pub fn draws(&self) -> bool {
        self.stderr_is_terminal && !self.hushed
    }

    /// A console that keeps results and words as they come, in the form in which this one would
    /// have written them, with what it has kept.
    pub fn aside(&self) -> (Console, Record) {
        let kept = Record::default();
        let console = Console {
            name: self.name,
            stdout_is_terminal: self.stdout_is_terminal,
            paints: self.paints,
            columns: self.columns,
            hushed: self.hushed,
            ..Console::keeping(self.format, &kept, &kept)
        };
        (console, kept)
    }

    fn keeping(format: Format, out: &Record, words: &Record) -> Console {
        Console {
            name: "ddbctl",
            format,
            out: Box::new(out.clone()),
            words: Arc::new(Mutex::new(Box::new(words.clone()))),
            bars: None,
            stdout_is_terminal: false,
            paints: false,
            columns: None,
            now_ms: None,
            stderr_is_terminal: false,
            hushed: false,
            farewell: InterruptMessage::default(),
        }
    }

    /// Draws one of several pictures of the same: over the last one and below a heading on a
    /// terminal, behind it elsewhere.
    pub fn draw(&mut self, heading: &str, picture: &str) -> Result<(), Failure> {
        let drawn = match (self.stdout_is_terminal, self.format) {
            (true, _) => over_the_last(heading, picture, rows()),
            (false, Format::Table) => format!("{picture}\n"),
            (false, Format::Json) => picture.to_owned(),
            (false, Format::Yaml) => format!("---\n{picture}"),
        };
        self.write(drawn.as_bytes())
    }

    /// A console that keeps what it is told, with what it has kept.
    #[cfg(test)]
    pub fn recording(format: Format) -> (Console, Record, Record) {
        let (out, words) = (Record::default(), Record::default());
        let now_ms = Some(text::tests::NOW_MS);
        (Console { now_ms, ..Console::keeping(format, &out, &words) }, out, words)
    }
}

/// A picture from the first line of a terminal on, as far as it is high, with the control sequences
/// of ECMA-48: from where it begins, to the end of each line, and below it.
fn over_the_last(heading: &str, picture: &str, rows: Option<usize>) -> String {
    let lines: Vec<&str> = heading.lines().chain(picture.lines()).collect();
    let shown = rows.map_or(lines.len(), |rows| lines.len().min(rows.saturating_sub(1)));
    let mut drawn = String::from("\x1b[H");
    for line in &lines[..shown] {
        drawn += &format!("{line}\x1b[K\n");
    }
    let left = lines.len() - shown;
    if left > 0 {
        drawn += &format!("... and {left} more lines");
    }
    drawn + "\x1b[J"
}

impl InterruptMessage {
    /// Whether the command has something to take away.
    pub fn tidies(&self) -> bool {
        self.tidies.load(Ordering::Relaxed)
    }

    pub fn speak(&self) {
        let words = lock(&self.words);
        let tail = if words.is_empty() { String::new() } else { format!(": {words}") };
        let _ = writeln!(io::stderr(), "{}: interrupted{tail}", self.name);
    }
}

/// Without the line buffer of `io::stdout`, which would hold back the end of a tar and its error.
fn stdout() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::stdout()),
    }
}

/// Terminals that do not know their width say 0.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_row.into()).filter(|rows| *rows > 0)
}

fn unwritable(e: impl std::fmt::Display) -> Failure {
    Failure::new(
        exit::FAILED,
        format!("cannot form the result: {e}"),
        "stdout",
        "ask for another format with -o",
    )
}

/// What a console was told that keeps it.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<u8>>>);

impl Record {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0)).into_owned()
    }
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_drawn_over_the_last_as_far_as_the_terminal_is_high() {
        let drawn = over_the_last("now\n\n", "a\nb\n", Some(10));
        assert_eq!(drawn, "\x1b[Hnow\x1b[K\n\x1b[K\na\x1b[K\nb\x1b[K\n\x1b[J");
        let drawn = over_the_last("now\n", "a\nb\nc\n", Some(3));
        assert_eq!(drawn, "\x1b[Hnow\x1b[K\na\x1b[K\n... and 2 more lines\x1b[J");
        assert!(over_the_last("now\n", "a\nb\nc\n", None).contains("c\x1b[K"));
    }

    #[test]
    fn elsewhere_pictures_stand_behind_each_other() {
        for (format, wanted) in [
            (Format::Table, "a\n\nb\n\n"),
            (Format::Json, "a\nb\n"),
            (Format::Yaml, "---\na\n---\nb\n"),
        ] {
            let (mut console, out, _) = Console::recording(format);
            for picture in ["a\n", "b\n"] {
                console.draw("heading\n", picture).unwrap();
            }
            assert_eq!(out.text(), wanted);
        }
    }

    #[test]
    fn what_is_kept_aside_has_results_and_words_in_turn() {
        let (console, out, words) = Console::recording(Format::Table);
        let (mut aside, kept) = console.aside();
        aside.say("first");
        aside.write(b"then\n").unwrap();
        aside.complain(&Failure::usage("what", "remedy"));
        assert!(kept.text().starts_with("first\nthen\nddbctl: what"), "{}", kept.text());
        assert_eq!(out.text() + &words.text(), "");
    }
}
