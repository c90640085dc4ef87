//! Errors on the wire: one table from kinds to gRPC codes, with `google.rpc.ErrorInfo` for
//! programs.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    base::{
        error::{Error, Kind},
        ids::ClusterId,
    },
    proto::OTHER_CLUSTER,
};

const DOMAIN: &str = "devicedb";
const ACCEPTS: &str = "grpc-accept-encoding";

/// Kind, code, reason. One code may stand for several kinds; the reason tells them apart.
const TABLE: &[(Kind, Code, &str)] = &[
    (Kind::Invalid, Code::InvalidArgument, "INVALID"),
    (Kind::NotFound, Code::NotFound, "NOT_FOUND"),
    (Kind::Conflict, Code::FailedPrecondition, "CONFLICT"),
    (Kind::Unavailable, Code::Unavailable, "UNAVAILABLE"),
    (Kind::Unknown, Code::Unknown, "UNKNOWN_OUTCOME"),
    (Kind::Exhausted, Code::ResourceExhausted, "EXHAUSTED"),
    (Kind::Corrupt, Code::DataLoss, "CORRUPT"),
    (Kind::Denied, Code::PermissionDenied, "PERMISSION_DENIED"),
];

/// What a client is told.
pub fn status_of(e: &Error) -> Status {
    let (_, code, reason) =
        TABLE.iter().find(|(kind, ..)| *kind == e.kind).expect("the table has every kind");
    let details = ErrorDetails::with_error_info(*reason, DOMAIN, HashMap::new());
    Status::with_error_details(*code, e.message.clone(), details)
}

/// What a call is told that is meant for another cluster: both ids, in words and for programs.
pub fn other_cluster(wanted: ClusterId, here: ClusterId) -> Status {
    let message = format!(
        "this node belongs to cluster {here}, and the call is for cluster {wanted}: name its \
         nodes, or the id of the cluster that you mean"
    );
    let ids = HashMap::from([
        ("wanted".to_owned(), wanted.to_string()),
        ("here".to_owned(), here.to_string()),
    ]);
    Status::with_error_details(
        Code::FailedPrecondition,
        message,
        ErrorDetails::with_error_info(OTHER_CLUSTER, DOMAIN, ids),
    )
}

/// What a caller is told that may not call: `UNAUTHENTICATED` to one that is not known, and
/// `PERMISSION_DENIED` to one that is.
pub fn not_permitted(known: bool, message: &str) -> Status {
    let (code, reason) = match known {
        false => (Code::Unauthenticated, "UNAUTHENTICATED"),
        true => (Code::PermissionDenied, "PERMISSION_DENIED"),
    };
    let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

/// What a client is told that is over a limit of its own, and after which time it may come again.
pub fn slow_down(message: &str, after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("EXHAUSTED", DOMAIN, HashMap::new());
    details.set_retry_info(Some(after));
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The status that a client gets instead of one with which tonic itself has refused: every refusal
/// of a node carries an `ErrorInfo`. `None` if the status has details already, or says enough.
pub fn explained(status: &Status) -> Option<Status> {
    if !status.details().is_empty() {
        return None;
    }
    let (code, message) = match (status.code(), status.message()) {
        // Each of these is the caller's mistake, and none is one of ours.
        (Code::Internal | Code::OutOfRange | Code::ResourceExhausted, why) => {
            (Code::InvalidArgument, format!("the request cannot be read: {why}"))
        }
        (Code::Unimplemented, "") => (
            Code::Unimplemented,
            "this node has no such service or method; a newer one may".to_owned(),
        ),
        (Code::Unimplemented, why) => {
            (Code::Unimplemented, format!("the request cannot be read: {why}"))
        }
        _ => return None,
    };
    let details = ErrorDetails::with_error_info("INVALID", DOMAIN, HashMap::new());
    let mut explained = Status::with_error_details(code, message, details);
    // As tonic names what it speaks instead of a compression that it does not.
    if let Some(spoken) = status.metadata().get(ACCEPTS) {
        explained.metadata_mut().insert(ACCEPTS, spoken.clone());
    }
    Some(explained)
}

/// What another node has told. A call that broke may have had its effect.
pub fn error_of(status: &Status) -> Error {
    let reason = status.get_details_error_info().filter(|i| i.domain == DOMAIN).map(|i| i.reason);
    let by_reason = TABLE.iter().find(|(.., r)| reason.as_deref() == Some(*r));
    let row = by_reason.or_else(|| TABLE.iter().find(|(_, code, _)| *code == status.code()));
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
            assert_eq!(
                code_name(code).replace('_', "").to_lowercase(),
                format!("{code:?}").to_lowercase()
            );
        }
    }

    #[test]
    fn every_kind_comes_back_as_itself() {
        for kind in Kind::ALL {
            let error = Error::new(kind, "what, where, what to do");
            assert_eq!(error_of(&status_of(&error)), error);
        }
    }

    #[test]
    fn a_call_for_another_cluster_conflicts_and_names_both() {
        let [wanted, here] = [1, 2].map(|n| ClusterId(uuid::Uuid::from_u128(n)));
        let status = other_cluster(wanted, here);
        assert_eq!(error_of(&status).kind, Kind::Conflict);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (OTHER_CLUSTER, DOMAIN));
        assert_eq!(
            (&info.metadata["wanted"], &info.metadata["here"]),
            (&wanted.to_string(), &here.to_string())
        );
    }
}
