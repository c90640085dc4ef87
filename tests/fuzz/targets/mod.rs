//! What may come from outside, each door as a function of bytes: the driver beside it and
//! cargo-fuzz (`cargo/`) call the same table.
//!
//! A target panics when a promise is broken: something was taken that does not come out as it went
//! in, breaks a bound, or is refused as what it is not. It answers whether the input was taken for
//! valid, so that somebody notices when a target has come to refuse everything.
//!
//! Whole processes, sockets and time are not here; `tests/cluster` and `tests/sim` have those.

pub mod disk;
pub mod engine;
pub mod greeting;
mod merge;
pub mod meta;
pub mod part;
mod peer;
mod repository;
mod request;
pub mod rows;
mod stored;
pub mod tls;
pub mod words;

use tempfile::TempDir;

pub type Target = fn(&[u8]) -> bool;

pub const TARGETS: &[(&str, Target)] = &[
    ("request", request::request),
    ("context", request::context),
    ("peer", peer::message),
    ("engine", engine::engine),
    ("hello", peer::hello),
    ("status", peer::status),
    ("stored", stored::stored),
    ("meta_rows", meta::rows),
    ("meta_commands", meta::commands),
    ("merge", merge::merge),
    ("manifest", part::manifest),
    ("chunk", part::chunk),
    ("tar", part::tar),
    ("seal", part::seal),
    ("repository", repository::repository),
    ("rows", rows::rows),
    ("node_id", rows::node_id),
    ("certificate", tls::certificate),
    ("greeting", greeting::greeting),
    ("start", words::start),
    ("ctl", words::ctl),
    ("guide", words::guide),
];

/// A directory in memory where there is one: a file and its sync cost a hundredth of what they cost
/// on a disk.
pub fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a temporary directory can be made")
}

/// Takes choices from an input; behind its end all are 0.
pub struct Feed<'a>(pub &'a [u8]);

impl<'a> Feed<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Evenly enough from `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// A piece behind its length, two bytes with the big end first.
    pub fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) << 8 | usize::from(self.byte());
        self.take(length)
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = left;
        taken
    }
}

/// Pieces as `Feed::piece` takes them.
pub fn pieces<B: AsRef<[u8]>>(pieces: impl IntoIterator<Item = B>) -> Vec<u8> {
    let piece = |piece: B| {
        let bytes = piece.as_ref();
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    };
    pieces.into_iter().flat_map(piece).collect()
}
