//! Which caller may make which call, decided before any door sees it.
//!
//! | caller | may call |
//! | --- | --- |
//! | without TLS, where it is off or optional | everything |
//! | without TLS, where it is required | nothing |
//! | that has not proved to be anybody | whether the node lives: health and readiness |
//! | a node | other nodes' service, a part of a snapshot to pass it on, health and readiness |
//! | a client, by its certificate or a token | what its roles allow (`roles`), and who it is |
//!
//! What is left to the doors is whether a role holds for the site of a request: they parse it.

use std::sync::{Arc, LazyLock};

use axum::{
    http::{HeaderMap, Response, StatusCode},
    response::IntoResponse as _,
};
use tonic::body::Body;

use super::{
    access::{self, Access, Rights},
    roles::{self, Whom},
};
use crate::{
    base::{error::Error, metrics::PlainKind},
    net::tls::Caller,
    wire,
};

/// Where a node fetches another's part for a client.
const PART_OF_A_SNAPSHOT: &str = "/devicedb.v1.SnapshotService/DownloadSnapshot";

static ANYBODY: LazyLock<Arc<Rights>> = LazyLock::new(|| Arc::new(Rights::of_anybody()));
static NOBODY: LazyLock<Arc<Rights>> = LazyLock::new(|| Arc::new(Rights::none("")));

/// A call, as far as it decides who may make it.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub caller: &'a Caller,
    /// Whether it comes from this machine.
    pub is_local: bool,
    pub headers: &'a HeaderMap,
    pub path: &'a str,
}

/// Why a call goes no further.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The caller, if it is known, and may not do this.
    who: Option<String>,
    http: StatusCode,
    message: String,
}

impl Refusal {
    fn unknown(message: impl Into<String>) -> Refusal {
        Refusal { who: None, http: StatusCode::UNAUTHORIZED, message: message.into() }
    }

    fn denied(who: &str, message: impl Into<String>) -> Refusal {
        let who = Some(who.to_owned());
        Refusal { who, http: StatusCode::FORBIDDEN, message: message.into() }
    }

    /// Not refused for good: this node does not know yet.
    fn not_yet(name: &str) -> Refusal {
        let http = StatusCode::SERVICE_UNAVAILABLE;
        Refusal { who: None, http, message: access::not_known_yet(name) }
    }

    /// Whether the caller may not, and not only not yet.
    pub fn is_denial(&self) -> bool {
        self.http != StatusCode::SERVICE_UNAVAILABLE
    }

    pub fn who(&self) -> Option<&str> {
        self.who.as_deref()
    }

    pub fn why(&self) -> &str {
        &self.message
    }

    pub fn to_grpc(&self) -> Response<Body> {
        if !self.is_denial() {
            return wire::status_of(&Error::unavailable(&*self.message)).into_http();
        }
        wire::not_permitted(self.who.is_some(), &self.message).into_http()
    }

    pub fn to_http(&self) -> Response<Body> {
        (self.http, format!("{}\n", self.message)).into_response().map(Body::new)
    }
}

/// Whether a call goes on, and what its caller may do.
pub fn may_call(access: &Access, call: Call<'_>) -> Result<Arc<Rights>, Refusal> {
    let whom = roles::whom(call.path);
    match call.caller {
        Caller::Plain => {
            return Err(Refusal {
                http: StatusCode::BAD_REQUEST,
                ..Refusal::unknown(
                    "this node speaks TLS and nothing else: ddbctl needs --ca, and --cert and \
                     --key or a token, a browser https, another node --tls-cert, --tls-key and \
                     --tls-ca",
                )
            });
        }
        _ if whom == Whom::Everybody => return Ok(NOBODY.clone()),
        Caller::Known(bearer) if bearer.is_node => {
            return if whom == Whom::Nodes || call.path == PART_OF_A_SNAPSHOT {
                Ok(Arc::new(Rights::none(&bearer.name)))
            } else {
                Err(Refusal::denied(
                    &bearer.name,
                    format!(
                        "{} is a node, and no client: a node's certificate is for other nodes \
                         alone",
                        bearer.name
                    ),
                ))
            };
        }
        _ => {}
    }
    let rights = rights(access, call)?;
    match whom {
        Whom::Everybody | Whom::Known => Ok(rights),
        Whom::Nodes if *call.caller == Caller::Anybody => Ok(rights),
        Whom::Nodes => Err(Refusal::denied(
            &rights.name,
            format!(
                "{} is no node: a node's certificate holds the URI \
                 spiffe://DOMAIN/devicedb/node/NAME",
                rights.name
            ),
        )),
        Whom::Roles(roles) if rights.has(roles) => Ok(rights),
        Whom::Roles(_) if !rights.is_current => Err(Refusal::not_yet(&rights.name)),
        Whom::Roles(roles) => {
            let method = call.path.rsplit('/').next().unwrap_or_default();
            Err(Refusal::denied(&rights.name, rights.refusal(method, roles, None)))
        }
    }
}

/// What a caller that is no node has proved to be.
fn rights(access: &Access, call: Call<'_>) -> Result<Arc<Rights>, Refusal> {
    let token = access::shown(call.headers).map_err(Refusal::unknown)?;
    let Some(token) = token else {
        return match call.caller {
            Caller::Anybody => Ok(ANYBODY.clone()),
            Caller::Known(bearer) => Ok(access.of_bearer(bearer)),
            Caller::Refused(why) => {
                Err(Refusal::unknown(format!("the caller is not believed: {why}")))
            }
            Caller::Nobody | Caller::Plain => Err(Refusal::unknown(
                "neither a certificate nor a token was given, and this node asks for one: ddbctl \
                 needs --cert and --key, or --token-file",
            )),
        };
    };
    match call.caller {
        Caller::Known(bearer) => Err(Refusal::unknown(format!(
            "the caller is {} by its certificate, and somebody else by its token: bring one of \
             the two",
            bearer.name
        ))),
        Caller::Refused(why) => Err(Refusal::unknown(format!(
            "the caller brings a certificate beside its token, which is not believed: {why}"
        ))),
        Caller::Anybody if !call.is_local => Err(Refusal::unknown(
            "the token has come over a network without TLS, where others may have read it: revoke \
             it (ddbctl token revoke), and speak TLS with the next one",
        )),
        Caller::Nobody | Caller::Anybody | Caller::Plain => {
            access.of_token(token).map_err(|why| match access.is_current() {
                true => Refusal::unknown(format!("the token is not believed: {why}")),
                false => Refusal::not_yet("the token"),
            })
        }
    }
}

/// Who makes such calls, for counting.
pub fn kind(path: &str) -> PlainKind {
    match roles::whom(path) {
        Whom::Nodes => PlainKind::Node,
        Whom::Everybody => PlainKind::Page,
        _ if path == "/metrics" => PlainKind::Page,
        _ => PlainKind::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            clock::Clock,
            error::Kind,
            ids::{Lineage, SiteId, TokenId},
        },
        cluster::access::{Access as Granted, Grant, Pattern, Purpose, Role, Token},
        net::tls::Bearer,
        proto,
    };

    const LINEAGE: Lineage = Lineage(5);

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn known(name: &str) -> Caller {
        Caller::Known(Bearer::of(name, i64::MAX))
    }

    /// A cluster in which `x/ROLE` has each role, readers and writers that of shops, and in which
    /// there is a token for each role but an admin's.
    fn access() -> Access {
        let access = started();
        assert!(access.confirm(&granted(LINEAGE, u64::MAX), LINEAGE));
        access
    }

    /// The same, on a node that has just been started.
    fn started() -> Access {
        let access = Access::new(Clock::start(), vec![pattern("x/admin"), pattern("ops/*")]);
        access.granted(granted(LINEAGE, u64::MAX), LINEAGE);
        access
    }

    fn granted(lineage: Lineage, expires_ms: u64) -> Granted {
        let mut granted = Granted::default();
        for (id, role) in (1..).zip(Role::ALL).filter(|(_, role)| *role != Role::Admin) {
            let sites = if role.is_of_sites() { pattern("shop-*") } else { Pattern::any() };
            let identity = pattern(&format!("x/{role}"));
            granted.add_grant(&Grant { identity, role, sites: sites.clone() }).unwrap();
            let token = Token {
                id: TokenId(id),
                name: role.name().to_owned(),
                purpose: Purpose::Calls {
                    role,
                    sites,
                    digest: *access::digest_of("s3cret").as_bytes(),
                },
                created_ms: 0,
                expires_ms,
                lineage,
            };
            granted.create_token(&token).unwrap();
        }
        granted
    }

    fn bearing(token: &str) -> HeaderMap {
        HeaderMap::from_iter([("authorization".parse().unwrap(), token.parse().unwrap())])
    }

    fn of_role(role: Role) -> HeaderMap {
        let id = Role::ALL.iter().position(|r| *r == role).unwrap() as u32 + 1;
        bearing(&format!("Bearer {}", access::token_text(TokenId(id), "s3cret")))
    }

    fn call<'a>(caller: &'a Caller, headers: &'a HeaderMap, path: &'a str) -> Call<'a> {
        Call { caller, is_local: true, headers, path }
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

    fn shows_life(path: &str) -> bool {
        ["/healthz", "/readyz"].contains(&path) || path.contains("grpc.health")
    }

    /// Every method x role x certificate or token x own and other site, against what the design
    /// says in words.
    #[test]
    fn every_role_may_call_what_it_is_for_and_nothing_else() {
        let (access, mut cells) = (access(), 0);
        let no_headers = HeaderMap::new();
        let [own, other] = ["shop-1", "store-1"].map(|site| SiteId::new(site).unwrap());
        for path in paths() {
            let method = path.rsplit('/').next().unwrap();
            let of_data = path.contains(".KvService/");
            let reads = ["Get", "Scan"].contains(&method);
            let looks = path == "/metrics"
                || ["GetOverview", "GetUpgrade", "ListPartitions", "GetSnapshot", "ListSnapshots"]
                    .contains(&method)
                || ["ListOrphans", "ListNodes", "ListSites", "ListRelays"].contains(&method)
                || ["GetOperation", "ListOperations", "WaitOperation"].contains(&method)
                || ["GetSchedule", "ListSchedules"].contains(&method);
            let of_all = shows_life(&path) || ["WhoAmI", "GetIdentity"].contains(&method);
            let guards = path.contains(".AccessService/") || path == "/other";
            for role in Role::ALL {
                let wanted = match role {
                    _ if path.contains(".internal.") => false,
                    _ if of_all => true,
                    Role::Admin => true,
                    _ if guards => false,
                    Role::Reader => of_data && reads,
                    Role::Writer => of_data,
                    Role::Viewer => looks,
                    Role::Backup => {
                        looks
                            || ["CreateSnapshot", "UploadSnapshot", "DownloadSnapshot"]
                                .contains(&method)
                    }
                    Role::Pruner => looks || method == "DeleteSnapshot",
                    Role::Operator => {
                        !of_data && !["DownloadSnapshot", "DeleteSnapshot"].contains(&method)
                    }
                };
                let bearer = known(&format!("x/{role}"));
                let by_certificate = may_call(&access, call(&bearer, &no_headers, &path));
                assert_eq!(by_certificate.is_ok(), wanted, "{role} calls {path}");
                if role != Role::Admin {
                    let headers = of_role(role);
                    let by_token = may_call(&access, call(&Caller::Nobody, &headers, &path));
                    assert_eq!(by_token.is_ok(), wanted, "{role} calls {path} with a token");
                }
                if let Ok(rights) = by_certificate.as_ref()
                    && of_data
                {
                    let at = |site| rights.check_site(method, access::roles_of(&path), site);
                    assert_eq!(at(&own), Ok(()), "{role} calls {path} on its own site");
                    assert_eq!(at(&other).is_ok(), role == Role::Admin, "{role}, another's site");
                }
                cells += 1;
            }
        }
        assert!(cells > 7 * 40, "{cells}");
    }

    #[test]
    fn nodes_clients_and_nobody_are_kept_apart() {
        let (access, headers) = (access(), HeaderMap::new());
        let refused = Caller::Refused("the certificate has expired".into());
        let callers = [
            ("anybody", Caller::Anybody),
            ("plain", Caller::Plain),
            ("nobody", Caller::Nobody),
            ("refused", refused),
            ("node", known("spiffe://d/devicedb/node/a")),
            ("admin", known("spiffe://d/devicedb/admin/a")),
            ("client", known("spiffe://d/devicedb/client/a")),
        ];
        for path in paths() {
            let between_nodes = path.starts_with("/devicedb.internal.v1.PeerService/");
            let life = shows_life(&path);
            let part = path.ends_with("/DownloadSnapshot");
            for (name, caller) in &callers {
                let wanted = match *name {
                    "anybody" => true,
                    "plain" => false,
                    "nobody" | "refused" => life,
                    "node" => between_nodes || life || part,
                    "admin" => !between_nodes,
                    _ => life || path.ends_with("/WhoAmI") || path.ends_with("/GetIdentity"),
                };
                let goes_on = may_call(&access, call(caller, &headers, &path)).is_ok();
                assert_eq!(goes_on, wanted, "{name} calls {path}");
            }
        }
    }

    const PUT: &str = "/devicedb.v1.KvService/Put";
    const BETWEEN_NODES: &str = "/devicedb.internal.v1.PeerService/GetNodeStatus";

    fn told(access: &Access, call: Call<'_>) -> (tonic::Code, u16, String) {
        let refusal = may_call(access, call).unwrap_err();
        let status = tonic::Status::from_header_map(refusal.to_grpc().headers()).unwrap();
        (status.code(), refusal.to_http().status().as_u16(), status.message().to_owned())
    }

    #[test]
    fn a_refusal_has_its_code_and_says_what_to_do() {
        use tonic::Code::{PermissionDenied, Unauthenticated};
        let (access, none) = (access(), HeaderMap::new());
        let expired = Caller::Refused("the certificate has expired".into());
        let node = known("spiffe://d/devicedb/node/a");
        let viewer = known("x/viewer");
        let (writer, stranger) = (of_role(Role::Viewer), known("somebody"));
        let list = "/devicedb.v1.AccessService/ListGrants";
        for (call, code, http, words) in [
            (call(&Caller::Plain, &none, PUT), Unauthenticated, 400, "speaks TLS"),
            (call(&Caller::Nobody, &none, PUT), Unauthenticated, 401, "--cert"),
            (call(&expired, &none, PUT), Unauthenticated, 401, "expired"),
            (call(&node, &none, PUT), PermissionDenied, 403, "spiffe://d/devicedb/node/a"),
            (
                call(&viewer, &none, PUT),
                PermissionDenied,
                403,
                "x/viewer may not call Put, which is for writer, and is viewer: an admin changes \
                 that with ddbctl grant add x/viewer writer",
            ),
            (
                call(&Caller::Nobody, &writer, PUT),
                PermissionDenied,
                403,
                "ddbctl token create NAME writer",
            ),
            (call(&stranger, &none, PUT), PermissionDenied, 403, "has no role"),
            (call(&stranger, &none, list), PermissionDenied, 403, "which is for admins"),
        ] {
            let (said, page, message) = told(&access, call);
            assert_eq!((said, page), (code, http), "{message}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_token_is_believed_while_it_holds_where_nobody_else_can_have_read_it() {
        let access = access();
        let fine = of_role(Role::Writer);
        assert!(may_call(&access, call(&Caller::Nobody, &fine, PUT)).is_ok());
        assert!(may_call(&access, call(&Caller::Anybody, &fine, PUT)).is_ok());
        let far = Call { is_local: false, ..call(&Caller::Anybody, &fine, PUT) };
        assert!(told(&access, far).2.contains("without TLS"));
        let far = Call { is_local: false, ..call(&Caller::Nobody, &fine, PUT) };
        assert!(may_call(&access, far).is_ok(), "over TLS from anywhere");
        let both = known("x/writer");
        assert!(told(&access, call(&both, &fine, PUT)).2.contains("bring one"));
        for (wrong, words) in [
            ("Bearer ddb_00000002_other", "no token 00000002, or its secret"),
            ("Bearer ddb_000000ff_s3cret", "no token 000000ff"),
            ("Bearer ddb_00000002_", "is none"),
            ("Bearer ddb_2_s3cret", "is none"),
            ("Bearer ddb_", "is none"),
        ] {
            let headers = bearing(wrong);
            let (code, _, message) = told(&access, call(&Caller::Nobody, &headers, PUT));
            assert_eq!(code, tonic::Code::Unauthenticated, "{wrong}");
            assert!(message.contains(words) && !message.contains("s3cret"), "{wrong}: {message}");
        }
        for foreign in ["Bearer eyJhbGciOi", "Basic YTpi", "ddb_00000002_s3cret"] {
            let headers = bearing(foreign);
            let somebody = known("x/writer");
            assert!(may_call(&access, call(&somebody, &headers, PUT)).is_ok(), "{foreign}");
            let (_, _, message) = told(&access, call(&Caller::Nobody, &headers, PUT));
            assert!(message.contains("neither a certificate nor a token"), "{message}");
        }
        let mut two = of_role(Role::Writer);
        two.append("authorization", "Bearer ddb_00000003_s3cret".parse().unwrap());
        assert!(told(&access, call(&Caller::Nobody, &two, PUT)).2.contains("several values"));
        access.granted(granted(LINEAGE, u64::MAX), Lineage(6));
        let suspended = told(&access, call(&Caller::Nobody, &fine, PUT)).2;
        assert!(suspended.contains("ddbctl token resume 00000002"), "{suspended}");
        access.granted(granted(LINEAGE, 1), LINEAGE);
        assert!(told(&access, call(&Caller::Nobody, &fine, PUT)).2.contains("has expired"));
    }

    #[test]
    fn a_node_that_was_just_started_refuses_nobody_for_what_it_may_not_know_yet() {
        let (access, none) = (started(), HeaderMap::new());
        let stranger = known("x/stranger");
        let shop = SiteId::new("shop-1").unwrap();
        let site = SiteId::new("store-1").unwrap();
        let put = |access: &Access, caller: &Caller| may_call(access, call(caller, &none, PUT));
        let token = bearing("Bearer ddb_000000ff_s3cret");
        let rights = put(&access, &known("x/writer")).unwrap();
        rights.check_site("Put", &[Role::Writer], &shop).unwrap();
        let e = rights.check_site("Put", &[Role::Writer], &site).unwrap_err();
        assert_eq!(e.kind, Kind::Unavailable, "{e}");
        for call in [call(&stranger, &none, PUT), call(&Caller::Nobody, &token, PUT)] {
            let (code, http, message) = told(&access, call);
            assert_eq!((code, http), (tonic::Code::Unavailable, 503), "{message}");
            assert!(message.contains("just been started"), "{message}");
        }
        assert_eq!(
            told(&access, call(&stranger, &none, BETWEEN_NODES)).0,
            tonic::Code::PermissionDenied
        );
        assert!(!access.confirm(&Granted::default(), LINEAGE), "news of it is on its way");
        assert!(!access.confirm(&granted(LINEAGE, u64::MAX), Lineage(6)));
        assert_eq!(told(&access, call(&stranger, &none, PUT)).0, tonic::Code::Unavailable);

        assert!(access.confirm(&granted(LINEAGE, u64::MAX), LINEAGE));
        assert_eq!(told(&access, call(&stranger, &none, PUT)).0, tonic::Code::PermissionDenied);
        let refused = told(&access, call(&Caller::Nobody, &token, PUT));
        assert_eq!(refused.0, tonic::Code::Unauthenticated);
        let rights = put(&access, &known("x/writer")).unwrap();
        let e = rights.check_site("Put", &[Role::Writer], &site).unwrap_err();
        assert_eq!(e.kind, Kind::Denied, "{e}");
        // What changes from then on is known as it changes.
        access.granted(Granted::default(), LINEAGE);
        let refused = told(&access, call(&known("x/writer"), &none, PUT));
        assert_eq!(refused.0, tonic::Code::PermissionDenied);
    }

    #[test]
    fn what_is_granted_counts_at_once_and_admins_do_not_depend_on_it() {
        let (access, none) = (access(), HeaderMap::new());
        let writer = known("x/writer");
        assert!(may_call(&access, call(&writer, &none, PUT)).is_ok());
        access.granted(Granted::default(), LINEAGE);
        assert!(may_call(&access, call(&writer, &none, PUT)).is_err());
        for admin in ["x/admin", "ops/anna", "spiffe://d/devicedb/admin/a"] {
            assert!(may_call(&access, call(&known(admin), &none, PUT)).is_ok(), "{admin}");
        }
    }
}
