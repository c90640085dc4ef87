//! The one error of DeviceDB, its kinds by what the caller does next.
//!
//! A message says what is wrong, where, and what to do. Facts are added where they are known, and
//! the foreign error behind it stays its source. `wire` maps the kinds to gRPC codes in one table.

use std::{fmt, sync::Arc};

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Mend the request.
    Invalid,
    /// What was asked for does not exist.
    NotFound,
    /// The state does not allow it; look, then decide.
    Conflict,
    /// It had no effect; retry later.
    Unavailable,
    /// It may have had its effect; retry with the same request id.
    Unknown,
    /// It had no effect; slow down.
    Exhausted,
    /// Stored bytes are not what was written; restore or replace.
    Corrupt,
    /// Ask somebody who may.
    Denied,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Invalid,
        Kind::NotFound,
        Kind::Conflict,
        Kind::Unavailable,
        Kind::Unknown,
        Kind::Exhausted,
        Kind::Corrupt,
        Kind::Denied,
    ];
}

/// What went wrong.
///
/// - `message` is whole without the source: it names the cause in words, so that nobody has to walk
///   the sources to show it.
/// - Two errors are equal if their kind and message are.
#[derive(Clone)]
pub struct Error {
    pub kind: Kind,
    pub message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Error");
        all.field("kind", &self.kind).field("message", &self.message);
        if let Some(source) = &self.source {
            all.field("source", source);
        }
        all.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Error) -> bool {
        (self.kind, &self.message) == (other.kind, &other.message)
    }
}

impl Eq for Error {}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, message)
    }
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Kind::NotFound, message)
    }
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Kind::Conflict, message)
    }
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Kind::Unavailable, message)
    }
    pub fn unknown(message: impl Into<String>) -> Error {
        Error::new(Kind::Unknown, message)
    }
    pub fn exhausted(message: impl Into<String>) -> Error {
        Error::new(Kind::Exhausted, message)
    }
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    pub fn denied(message: impl Into<String>) -> Error {
        Error::new(Kind::Denied, message)
    }

    /// Keeps the foreign error that led to this one; the message already says it in words.
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same error of another kind.
    pub fn of_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// Says where it happened, in front of what happened.
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// Says where a foreign error happened while it becomes ours.
pub trait Context<T> {
    fn at(self, place: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for Result<T, std::io::Error> {
    /// A full disk is `Exhausted`, a missing file `NotFound`, garbled data `Corrupt`, anything else
    /// `Unavailable`.
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Kind::Exhausted
                }
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                    Kind::Corrupt
                }
                _ => Kind::Unavailable,
            };
            Error::new(kind, format!("{place}: {e}")).with_source(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, io};

    use super::*;

    #[test]
    fn an_error_keeps_its_source_however_often_it_is_placed_and_cloned() {
        let failed: Result<()> =
            Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full")).at("the store");
        let error = failed.unwrap_err().at("node 1").clone();
        assert_eq!(error.kind, Kind::Exhausted);
        assert_eq!(error.to_string(), "node 1: the store: the disk is full");
        let source = error.source().expect("at keeps the source");
        let source: &io::Error = source.downcast_ref().expect("the source is what it was");
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(error, Error::exhausted("node 1: the store: the disk is full"));
    }
}
