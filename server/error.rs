//! The one error of DeviceDB, its kinds by what the caller does next.
//!
//! A message says what is wrong, where, and what to do. Facts are added where they are known; `rpc` maps the kinds to gRPC codes in one table.

use std::fmt;

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
}

impl Kind {
    pub const ALL: [Kind; 7] = [Kind::Invalid, Kind::NotFound, Kind::Conflict, Kind::Unavailable, Kind::Unknown, Kind::Exhausted, Kind::Corrupt];
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    pub message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
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
    /// A full disk is `Exhausted`, a missing file `NotFound`, garbled data `Corrupt`, anything else `Unavailable`.
    fn at(self, place: impl fmt::Display) -> Result<T> {
        self.map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::Exhausted,
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => Kind::Corrupt,
                _ => Kind::Unavailable,
            };
            Error::new(kind, format!("{place}: {e}"))
        })
    }
}
