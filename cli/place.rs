//! Repositories as `ddbctl` opens them, and what it says where that fails.

use super::term::{
    exit::{self, Failure},
    output::Console,
    text,
};
use crate::{
    base::{
        error::{Error, Kind},
        limits,
    },
    repository::{root::Repository, trust::Access},
};

pub fn open(place: &str, access: impl Into<Access>) -> Result<Repository, Failure> {
    Repository::at(place, limits::OBJECT_PATIENCE_COMMAND, &access.into())
        .map_err(|e| failed("it cannot be opened", place, &e))
}

/// The same where the key may be absent.
pub fn look(place: &str, access: impl Into<Access>) -> Result<Repository, Failure> {
    Repository::seen(place, limits::OBJECT_PATIENCE_COMMAND, &access.into())
        .map_err(|e| failed("it cannot be opened", place, &e))
}

/// A verdict that was told, and what became of its report: the verdict counts, also where the
/// report cannot be kept, and a good one without its report is a failure.
pub fn with_report(
    place: &str,
    kept: Option<Result<String, Error>>,
    verdict: Result<(), Failure>,
    console: &mut Console,
) -> Result<(), Failure> {
    match kept {
        None => verdict,
        Some(Ok(name)) => {
            console.confirm(&format!("the report is kept as {name}"));
            verdict
        }
        Some(Err(e)) => {
            verdict.inspect_err(|_| {
                console.warn(&format!("its report is not kept: {}", text::line(&e.message)));
            })?;
            Err(failed("its report is not kept", place, &e))
        }
    }
}

pub fn failed(what: &str, place: &str, e: &Error) -> Failure {
    let exit = match e.kind {
        Kind::NotFound | Kind::Conflict => exit::NOT_FOUND,
        Kind::Corrupt => exit::NOT_VERIFIED,
        Kind::Invalid => exit::USAGE,
        Kind::Denied => exit::NOT_PERMITTED,
        _ => exit::FAILED,
    };
    let remedy = match e.kind {
        Kind::Exhausted => "make room, and say it again",
        Kind::Corrupt => "restore from another snapshot, or another repository",
        Kind::Unavailable => "look at the disk, or the object store, and at who may write there",
        Kind::Denied => "give it the keys or the credentials that it needs, or ask who may do that",
        _ => "see ddbctl repository --help",
    };
    let (told, place) = (text::line(&e.message), place.to_owned());
    // Most messages say where, and a place that is none may hold a secret.
    let said = told.contains(&place) || e.kind == Kind::Invalid;
    let place = if said { String::new() } else { place };
    Failure::new(exit, format!("{what}: {told}"), place, remedy)
}
