//! Exit codes by meaning, and the failure that carries one to the end of the program.
//!
//! A failure is one line: what happened, where, what to do. Scripts read the code, people read the
//! line.

use std::fmt;

use serde::Serialize;

use super::SCHEMA;

pub const OK: u8 = 0;
/// It was understood and did not work.
pub const FAILED: u8 = 1;
/// The command line, or what it asks of the server, can never work as it stands; or it names nodes
/// of another cluster than is meant.
pub const USAGE: u8 = 2;
/// No node answered in time, or none could.
pub const UNREACHABLE: u8 = 3;
pub const NOT_PERMITTED: u8 = 4;
/// What was named does not exist, or is not in a state that allows it.
pub const NOT_FOUND: u8 = 5;
pub const NOT_VERIFIED: u8 = 6;
/// As shells count an end by SIGINT; those by SIGHUP and SIGTERM are counted in the same way.
pub const INTERRUPTED: u8 = 130;

/// Every code, its name in the help, and what it means.
pub const CODES: [(u8, &str, &str); 8] = [
    (OK, "ok", "It is done"),
    (
        FAILED,
        "failed",
        "It was understood and did not work: a snapshot failed, a disk is full, the cluster is not \
         healthy, a node is too busy",
    ),
    (
        USAGE,
        "usage or another cluster than meant",
        "The command line or the request can never work as it stands; or the endpoints belong to \
         different clusters, or not to the one that is named",
    ),
    (
        UNREACHABLE,
        "unreachable or timed out",
        "No node answered in time, or none could. A write may have had its effect; the message \
         says how to repeat it",
    ),
    (
        NOT_PERMITTED,
        "not permitted",
        "It is not permitted: a certificate is missing, is not believed, or may not do this; or \
         one side speaks TLS and the other does not",
    ),
    (
        NOT_FOUND,
        "not found or precondition",
        "What was named does not exist, or is not in a state that allows it",
    ),
    (
        NOT_VERIFIED,
        "verification failed",
        "What was verified is not whole, or a snapshot is damaged",
    ),
    (INTERRUPTED, "interrupted", "It was interrupted; 143 by SIGTERM, 129 by SIGHUP"),
];

/// The codes as one sentence.
pub fn help() -> String {
    let codes: Vec<String> = CODES.iter().map(|(code, name, _)| format!("{code} {name}")).collect();
    format!("Exit codes: {}.", codes.join(", "))
}

/// The end of a command that did not go well. An empty `what` ends it without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: u8,
    pub what: String,
    pub place: String,
    pub remedy: String,
}

/// A failure as an object on a line.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    error: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    exit: u8,
    what: &'a str,
    place: &'a str,
    remedy: &'a str,
}

impl Failure {
    /// For programs: the exit code, and what, where and what to do.
    pub fn document(&self) -> String {
        let Failure { exit, what, place, remedy } = self;
        let error = Told { exit: *exit, what, place, remedy };
        let document = Document { schema: SCHEMA, error };
        serde_json::to_string(&document).expect("texts and numbers are JSON")
    }

    pub fn new(
        exit: u8,
        what: impl Into<String>,
        place: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Failure {
        Failure { exit, what: what.into(), place: place.into(), remedy: remedy.into() }
    }

    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure::new(USAGE, what, "", remedy)
    }

    /// The reader of stdout, such as `head`, has closed it. That is no error.
    pub fn reader_left() -> Failure {
        Failure::new(OK, "", "", "")
    }

    pub fn is_silent(&self) -> bool {
        self.what.is_empty()
    }
}

/// One line, whatever a server wrote into its message.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<&str> = [&self.what, &self.place, &self.remedy]
            .into_iter()
            .map(String::as_str)
            .filter(|s| !s.is_empty())
            .collect();
        f.write_str(&super::text::line(&parts.join(": ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_even_when_its_parts_are_not() {
        let failure = Failure::new(FAILED, "no\nluck", "", "try\x1b[31m again");
        assert_eq!(failure.to_string(), "no luck: try\\x1b[31m again");
    }
}
