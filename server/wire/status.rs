//! Errors on the wire: one table from kinds to gRPC codes, with `google.rpc.ErrorInfo` for programs.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::{Error, Kind};

const DOMAIN: &str = "devicedb";

/// Kind, code, reason. One code may stand for several kinds; the reason tells them apart.
const TABLE: &[(Kind, Code, &str)] = &[
    (Kind::Invalid, Code::InvalidArgument, "INVALID"),
    (Kind::NotFound, Code::NotFound, "NOT_FOUND"),
    (Kind::Conflict, Code::FailedPrecondition, "CONFLICT"),
    (Kind::Unavailable, Code::Unavailable, "UNAVAILABLE"),
    (Kind::Unknown, Code::Unknown, "UNKNOWN_OUTCOME"),
    (Kind::Exhausted, Code::ResourceExhausted, "EXHAUSTED"),
    (Kind::Corrupt, Code::DataLoss, "CORRUPT"),
];

/// What a client is told.
pub fn status_of(e: &Error) -> Status {
    let (_, code, reason) = TABLE.iter().find(|(kind, ..)| *kind == e.kind).expect("the table has every kind");
    let details = ErrorDetails::with_error_info(*reason, DOMAIN, HashMap::new());
    Status::with_error_details(*code, e.message.clone(), details)
}

/// What another node has told. A call that broke may have had its effect.
pub fn error_of(status: &Status) -> Error {
    let reason = status.get_details_error_info().filter(|i| i.domain == DOMAIN).map(|i| i.reason);
    let row = TABLE.iter().find(|(_, code, r)| reason.as_deref().map_or(*code == status.code(), |reason| reason == *r));
    Error::new(row.map_or(Kind::Unavailable, |(kind, ..)| *kind), status.message())
}

/// A code as gRPC's documents and every other tool write it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_called_what_rust_calls_it_in_the_words_of_grpc() {
        for code in (0..=16).map(Code::from_i32) {
            assert_eq!(code_name(code).replace('_', "").to_lowercase(), format!("{code:?}").to_lowercase());
        }
    }

    #[test]
    fn every_kind_comes_back_as_itself() {
        for kind in Kind::ALL {
            let error = Error::new(kind, "what, where, what to do");
            assert_eq!(error_of(&status_of(&error)), error);
        }
    }
}
