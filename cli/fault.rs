//! What one attempt came to when it was not an answer: what to say, whether to try again, and how
//! the program ends if it is not tried again.
//!
//! A server of ours says its reason in `google.rpc.ErrorInfo`; a proxy or another server says only
//! a code; a broken connection says nothing, and then the request may have had its effect.

use std::{error::Error as _, time::Duration};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

use super::term::exit;
use crate::{net::tls, proto::OTHER_CLUSTER};

/// The domain of our reasons.
const DOMAIN: &str = "devicedb";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub message: String,
    pub then: Then,
    pub exit: u8,
    /// The server's own words, and not ours about its silence.
    pub told: bool,
    /// How long to wait at least before it is asked again.
    pub rest: Duration,
}

/// What the caller may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Asking again gives the same answer.
    Stop,
    /// The thing that the request names does not exist; asking again gives the same answer.
    Absent,
    /// It had no effect; ask again.
    Again,
    /// It had no effect; ask again a few times, slower.
    Slower,
    /// It may have had its effect; ask again under the same name.
    AgainUnsure,
}

impl Fault {
    fn new(message: impl Into<String>, then: Then, exit: u8) -> Fault {
        Fault { message: message.into(), then, exit, told: false, rest: Duration::ZERO }
    }

    /// The connection was not made, so nothing was asked.
    pub fn refused(why: impl Into<String>) -> Fault {
        Fault::new(why, Then::Again, exit::UNREACHABLE)
    }

    /// The other side is not believed, or is spoken to in the wrong way: nothing was asked, and
    /// another endpoint may do.
    pub fn not_trusted(why: impl Into<String>) -> Fault {
        Fault::new(why, Then::Again, exit::NOT_PERMITTED)
    }

    /// Nothing came in time.
    pub fn late(seconds: f64) -> Fault {
        Fault::new(format!("no answer within {seconds:.1} s"), Then::AgainUnsure, exit::UNREACHABLE)
    }

    /// The connection broke under what was begun.
    pub fn broken(why: impl Into<String>) -> Fault {
        Fault::new(why, Then::AgainUnsure, exit::UNREACHABLE)
    }

    /// The server is there and ended a stream before its end.
    pub fn cut_short() -> Fault {
        Fault::new("the stream ended before its end", Then::AgainUnsure, exit::FAILED)
    }

    pub fn of(status: &Status) -> Fault {
        let reason = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN)
            .map(|info| info.reason);
        let rest = status.get_details_retry_info().and_then(|info| info.retry_delay);
        if let Some(fault) = reason.and_then(|reason| Fault::of_reason(&reason, status.message())) {
            return Fault { rest: rest.unwrap_or_default(), ..fault };
        }
        match status.source() {
            Some(source) => Fault::of_connection(innermost(source)),
            None => Fault::of_code(status.code(), status.message()),
        }
    }

    fn of_connection(why: String) -> Fault {
        if tls::is_refusal(&why) {
            let told = "the certificate of this side, or that there is none, is refused where TLS \
                        ends: see --cert, and what a proxy before the nodes asks for";
            return Fault::new(format!("{told} ({why})"), Then::Stop, exit::NOT_PERMITTED);
        }
        Fault::broken(why)
    }

    fn of_reason(reason: &str, message: &str) -> Option<Fault> {
        let (then, exit) = match reason {
            "INVALID" => (Then::Stop, exit::USAGE),
            "NOT_FOUND" => (Then::Absent, exit::NOT_FOUND),
            "CONFLICT" => (Then::Stop, exit::NOT_FOUND),
            "UNAVAILABLE" => (Then::Again, exit::UNREACHABLE),
            "UNKNOWN_OUTCOME" => (Then::AgainUnsure, exit::UNREACHABLE),
            "EXHAUSTED" => (Then::Slower, exit::FAILED),
            "CORRUPT" => (Then::Stop, exit::FAILED),
            // The endpoints, or the cluster that was named, are not those that were meant.
            OTHER_CLUSTER => (Then::Stop, exit::USAGE),
            _ => return None,
        };
        Some(Fault { told: true, ..Fault::new(message, then, exit) })
    }

    fn of_code(code: Code, message: &str) -> Fault {
        let (then, exit) = match code {
            Code::InvalidArgument | Code::OutOfRange => (Then::Stop, exit::USAGE),
            Code::NotFound => (Then::Absent, exit::NOT_FOUND),
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => {
                (Then::Stop, exit::NOT_FOUND)
            }
            Code::PermissionDenied | Code::Unauthenticated => (Then::Stop, exit::NOT_PERMITTED),
            // Also what a proxy says when a node broke off after it had the request.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                (Then::AgainUnsure, exit::UNREACHABLE)
            }
            Code::ResourceExhausted => (Then::Slower, exit::FAILED),
            Code::Ok | Code::Internal | Code::Unimplemented | Code::DataLoss => {
                (Then::Stop, exit::FAILED)
            }
        };
        let message = if message.is_empty() { code.description() } else { message };
        Fault { told: true, ..Fault::new(message, then, exit) }
    }

    /// As it is, of a question that changes nothing.
    pub fn without_effect(mut self) -> Fault {
        if self.then == Then::AgainUnsure {
            self.then = Then::Again;
        }
        self
    }

    pub fn is_final(&self) -> bool {
        matches!(self.then, Then::Stop | Then::Absent)
    }

    pub fn may_have_effect(&self) -> bool {
        self.then == Then::AgainUnsure
    }
}

/// One word for counting: our reason, or what became of the connection, or the code.
pub fn kind(status: &Status) -> String {
    let reason = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .map(|info| info.reason);
    let silent = || match status.source() {
        _ if timed_out(status) => "TIMEOUT".to_owned(),
        Some(_) => "CONNECTION".to_owned(),
        None => format!("{:?}", status.code()),
    };
    reason.unwrap_or_else(silent)
}

/// The channel keeps the deadline that it tells the server, too, and may be the first of us to
/// notice that it has passed.
pub fn timed_out(status: &Status) -> bool {
    std::iter::successors(status.source(), |e: &&(dyn std::error::Error + 'static)| (*e).source())
        .any(|e| e.is::<TimeoutExpired>())
}

/// A server or a proxy that keeps the deadline, too, and is the first to notice that it has passed,
/// says so by a code alone.
pub fn may_be_the_deadline(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
        && status.get_details_error_info().is_none()
}

/// What is behind a transport's error: "Connection refused" and not "transport error".
pub fn innermost(e: &(dyn std::error::Error + 'static)) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn ours(code: Code, reason: &str) -> Status {
        Status::with_error_details(code, "told", ErrorDetails::with_error_info(reason, DOMAIN, []))
    }

    #[test]
    fn every_reason_and_code_has_its_consequence() {
        let mut story = String::new();
        for reason in [
            "INVALID",
            "NOT_FOUND",
            "CONFLICT",
            "UNAVAILABLE",
            "UNKNOWN_OUTCOME",
            "EXHAUSTED",
            "CORRUPT",
            OTHER_CLUSTER,
            "NEWER_REASON",
        ] {
            let fault = Fault::of(&ours(Code::Internal, reason));
            story += &format!("{reason}: {:?}, exit {}\n", fault.then, fault.exit);
        }
        for code in (1..=16).map(Code::from_i32) {
            let fault = Fault::of(&Status::new(code, "told"));
            story += &format!("{code:?} without a reason: {:?}, exit {}\n", fault.then, fault.exit);
        }
        crate::ctl::golden::check("faults.txt", &story);
    }

    #[test]
    fn a_deadline_that_the_other_side_noticed_is_told_by_a_code_alone() {
        assert!(may_be_the_deadline(&Status::cancelled("Timeout expired")));
        assert!(may_be_the_deadline(&Status::deadline_exceeded("upstream request timeout")));
        assert!(!may_be_the_deadline(&ours(Code::DeadlineExceeded, "UNKNOWN_OUTCOME")));
        assert!(!may_be_the_deadline(&Status::unavailable("Timeout expired")));
    }

    #[test]
    fn a_broken_connection_is_unsure_and_says_what_broke() {
        let status = Status::from_error(Box::new(std::io::Error::other("cable cut")));
        let fault = Fault::of(&status);
        assert_eq!(fault, Fault::broken("cable cut"));
        assert_eq!(kind(&status), "CONNECTION");
        assert!(fault.may_have_effect());
    }

    #[test]
    fn a_certificate_that_a_proxy_refuses_is_asked_for_nothing_again() {
        let alert = "received fatal alert: CertificateRequired";
        let fault = Fault::of(&Status::from_error(Box::new(std::io::Error::other(alert))));
        assert_eq!((fault.then, fault.exit), (Then::Stop, exit::NOT_PERMITTED), "{fault:?}");
        assert!(fault.message.contains("--cert"), "{fault:?}");
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let status = Status::with_error_details(
            Code::PermissionDenied,
            "no",
            ErrorDetails::with_error_info("INVALID", "proxy.example", []),
        );
        assert_eq!(Fault::of(&status).exit, exit::NOT_PERMITTED);
        assert_eq!(kind(&status), "PermissionDenied");
        assert_eq!(kind(&ours(Code::PermissionDenied, "INVALID")), "INVALID");
    }
}
