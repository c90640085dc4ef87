//! Which caller may make which call, decided before any door sees it.
//!
//! | caller | may call |
//! | --- | --- |
//! | without TLS, where it is off or optional | everything |
//! | without TLS, where it is required | nothing |
//! | without a certificate that is believed | whether the node lives: health and readiness |
//! | a node | other nodes' service, a part of a snapshot to pass it on, health and readiness |
//! | a client | everything but the service between nodes |
//!
//! Clients are not told apart: whoever has a client's certificate may do all that clients may.

use axum::{
    http::{Response, StatusCode},
    response::IntoResponse as _,
};
use tonic::body::Body;

use crate::{base::metrics::PlainKind, net::tls::Caller, wire};

const BETWEEN_NODES: &str = "/devicedb.internal.";
/// Where a node fetches another's part for a client.
const PART_OF_A_SNAPSHOT: &str = "/devicedb.v1.SnapshotService/DownloadSnapshot";
const SIGNS_OF_LIFE: [&str; 2] = ["/healthz", "/readyz"];
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Why a call goes no further.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whether the caller is known, and may not do this.
    known: bool,
    http: StatusCode,
    message: String,
}

impl Refusal {
    fn unknown(message: impl Into<String>) -> Refusal {
        Refusal { known: false, http: StatusCode::UNAUTHORIZED, message: message.into() }
    }

    fn denied(message: impl Into<String>) -> Refusal {
        Refusal { known: true, http: StatusCode::FORBIDDEN, message: message.into() }
    }

    pub fn to_grpc(&self) -> Response<Body> {
        wire::not_permitted(self.known, &self.message).into_http()
    }

    pub fn to_http(&self) -> Response<Body> {
        (self.http, format!("{}\n", self.message)).into_response().map(Body::new)
    }
}

/// Whether a call goes on.
pub fn may_call(caller: &Caller, path: &str) -> Result<(), Refusal> {
    let between_nodes = path.starts_with(BETWEEN_NODES);
    match caller {
        Caller::Anybody => Ok(()),
        Caller::Plain => Err(Refusal {
            http: StatusCode::BAD_REQUEST,
            ..Refusal::unknown(
                "this node speaks TLS and nothing else: ddbctl needs --ca, --cert and --key, a \
                 browser https, another node --tls-cert, --tls-key and --tls-ca",
            )
        }),
        Caller::Nobody | Caller::Refused(_) if shows_life(path) => Ok(()),
        Caller::Nobody => Err(Refusal::unknown(
            "no certificate was given, and this node asks for one: ddbctl needs --cert and --key",
        )),
        Caller::Refused(why) => Err(Refusal::unknown(format!("the caller is not believed: {why}"))),
        Caller::Known(bearer) if bearer.is_node => {
            if between_nodes || path == PART_OF_A_SNAPSHOT || shows_life(path) {
                return Ok(());
            }
            Err(Refusal::denied(format!(
                "{} is a node, and no client: a node's certificate is for other nodes alone",
                bearer.name
            )))
        }
        Caller::Known(bearer) if between_nodes => Err(Refusal::denied(format!(
            "{} is no node: a node's certificate holds the URI spiffe://DOMAIN/devicedb/node/NAME",
            bearer.name
        ))),
        Caller::Known(_) => Ok(()),
    }
}

fn shows_life(path: &str) -> bool {
    SIGNS_OF_LIFE.contains(&path) || path.starts_with(HEALTH)
}

/// Who makes such calls, for counting.
pub fn kind(path: &str) -> PlainKind {
    if path.starts_with(BETWEEN_NODES) {
        PlainKind::Node
    } else if shows_life(path) || path == "/metrics" {
        PlainKind::Page
    } else {
        PlainKind::Client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::tls::Bearer, proto};

    fn callers() -> Vec<(&'static str, Caller)> {
        let known = |name: &str, is_node| {
            Caller::Known(Bearer { name: name.into(), is_node, until: i64::MAX })
        };
        vec![
            ("anybody", Caller::Anybody),
            ("plain", Caller::Plain),
            ("nobody", Caller::Nobody),
            ("refused", Caller::Refused("the certificate has expired".into())),
            ("node", known("spiffe://d/devicedb/node/a", true)),
            ("client", known("spiffe://d/devicedb/client/a", false)),
        ]
    }

    /// Every method of the contract, and the pages.
    fn paths() -> Vec<String> {
        let all = <prost_types::FileDescriptorSet as prost::Message>::decode(proto::DESCRIPTORS);
        let mut paths: Vec<String> =
            ["/healthz", "/readyz", "/metrics", "/grpc.health.v1.Health/Check", "/other"]
                .map(str::to_owned)
                .into();
        for file in all.expect("the contract is compiled in").file {
            for service in &file.service {
                let name = format!("/{}.{}", file.package(), service.name());
                paths.extend(service.method.iter().map(|m| format!("{name}/{}", m.name())));
            }
        }
        paths
    }

    #[test]
    fn every_method_of_the_contract_is_for_nodes_or_for_clients_and_nothing_is_for_nobody() {
        let (mut nodes, mut clients) = (0, 0);
        for path in paths() {
            let between_nodes = path.starts_with("/devicedb.internal.v1.PeerService/");
            let life = path.contains("healthz") || path.contains("readyz") || path.contains("grpc");
            let part = path.ends_with("/DownloadSnapshot");
            for (name, caller) in callers() {
                let wanted = match name {
                    "anybody" => true,
                    "plain" => false,
                    "nobody" | "refused" => life,
                    "node" => between_nodes || life || part,
                    _ => !between_nodes,
                };
                let goes_on = may_call(&caller, &path).is_ok();
                assert_eq!(goes_on, wanted, "{name} calls {path}");
                nodes += u32::from(name == "node" && goes_on);
                clients += u32::from(name == "client" && goes_on);
            }
        }
        assert!(nodes > 5 && clients > 20, "{nodes} for nodes, {clients} for clients");
    }

    #[test]
    fn a_refusal_has_its_code_and_says_what_to_do() {
        let told = |caller: &Caller| {
            let refusal = may_call(caller, "/devicedb.v1.KvService/Put").unwrap_err();
            let status = tonic::Status::from_header_map(refusal.to_grpc().headers()).unwrap();
            (status.code(), refusal.to_http().status().as_u16(), status.message().to_owned())
        };
        let all = callers();
        let (code, http, words) = told(&all[1].1);
        assert_eq!((code, http), (tonic::Code::Unauthenticated, 400));
        assert!(words.contains("speaks TLS") && words.contains("--ca"), "{words}");
        let (code, http, words) = told(&all[2].1);
        assert_eq!((code, http), (tonic::Code::Unauthenticated, 401));
        assert!(words.contains("--cert"), "{words}");
        let (code, _, words) = told(&all[3].1);
        assert_eq!(code, tonic::Code::Unauthenticated);
        assert!(words.contains("expired"), "{words}");
        let (code, http, words) = told(&all[4].1);
        assert_eq!((code, http), (tonic::Code::PermissionDenied, 403));
        assert!(words.contains("spiffe://d/devicedb/node/a"), "{words}");
    }
}
