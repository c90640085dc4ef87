//! Who a caller is and what it may do, on this node, now.
//!
//! - An identity is one name: what the certificate of the connection says, or the token of the
//!   call. A caller that brings both would be two, and is refused.
//! - A token is taken over TLS, or from this machine. One that came over a network without TLS is
//!   refused and said to be lost, since others may have read it.
//! - What an identity may do is what all grants that fit it add up to. Admins are those whose
//!   certificate says so, and whom the settings of this node name.
//! - The node that a client speaks to decides, for all that follows: nodes that pass a call on to
//!   each other do not ask again.
//!
//! Every node follows the meta group, and looks at its own copy: no call waits for this. A change
//! counts here as soon as it is applied here. A node that is cut off goes on with what it knew.
//!
//! A node that has just been started knows what it knew when it stopped, or less. Until the meta
//! group has told it once what holds now, it lets in whom it knows, and says of others that it does
//! not know yet: a refusal would be believed, and a call fail that another node would have served.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
};

use axum::http::{HeaderMap, header::AUTHORIZATION};

use super::roles::{self, Whom};
use crate::{
    base::{
        clock::Clock,
        error::{Error, Result},
        ids::{Lineage, SiteId, TokenId},
        limits,
        locks::{lock, read, write},
    },
    cluster::access::{Access as Granted, Pattern, Purpose, Role, Token},
    net::tls::Bearer,
    service::admin::Cluster,
};

/// What a token begins with, so that whoever finds one knows what it is.
pub const TOKEN_PREFIX: &str = "ddb_";
const SCHEME: &str = "Bearer ";

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    clock: Clock,
    /// Whom the settings of this node name as admins.
    admins: Vec<Pattern>,
    now: RwLock<Arc<Table>>,
}

/// What holds between two changes.
#[derive(Default)]
struct Table {
    /// Whether the cluster has confirmed, since the start, what this node knows.
    is_current: bool,
    granted: Granted,
    lineage: Lineage,
    /// What was worked out for identities of certificates.
    known: Mutex<HashMap<String, Arc<Rights>>>,
}

/// What one caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Empty for one that did not have to prove anything.
    pub name: String,
    /// In words, how the caller has proved it.
    pub proof: String,
    pub held: Vec<Held>,
    /// Whether nothing may be missing among what is held.
    pub is_current: bool,
}

/// A role, for which sites, and in words where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub role: Role,
    pub sites: Pattern,
    pub source: String,
}

/// A token as a call brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    id: TokenId,
    secret: &'a str,
}

impl Access {
    pub fn new(clock: Clock, admins: Vec<Pattern>) -> Access {
        Access(Arc::new(Inner { clock, admins, now: RwLock::default() }))
    }

    /// What the cluster says from now on.
    pub fn granted(&self, granted: Granted, lineage: Lineage) {
        let mut now = write(&self.0.now);
        let is_current = now.is_current;
        *now = Arc::new(Table { is_current, granted, lineage, known: Mutex::default() });
    }

    /// Whether the cluster grants this now, as it has just said; from then on this node knows. It
    /// does not where the news of a change is still on its way from the engine.
    pub fn confirm(&self, granted: &Granted, lineage: Lineage) -> bool {
        let mut now = write(&self.0.now);
        let is_current = now.granted == *granted && now.lineage == lineage;
        if is_current && !now.is_current {
            let granted = now.granted.clone();
            *now = Arc::new(Table { is_current, granted, lineage, known: Mutex::default() });
        }
        is_current
    }

    pub fn is_current(&self) -> bool {
        self.now().is_current
    }

    /// Asks the cluster until it has confirmed what this node knows.
    pub async fn become_current(self, cluster: Cluster) {
        let mut pause = limits::PEER_RETRY_MIN;
        loop {
            match cluster.access(limits::REQUEST_DEADLINE).await {
                Ok((granted, lineage)) if self.confirm(&granted, lineage) => return,
                Ok(_) => {}
                Err(e) => tracing::debug!(error = %e, "what is granted is not known yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::PEER_RETRY_MAX);
        }
    }

    fn now(&self) -> Arc<Table> {
        read(&self.0.now).clone()
    }

    /// Of whoever has a certificate.
    pub fn of_bearer(&self, bearer: &Bearer) -> Arc<Rights> {
        let table = self.now();
        if let Some(known) = lock(&table.known).get(&bearer.name) {
            return known.clone();
        }
        let rights = Arc::new(self.worked_out(bearer, &table));
        let mut known = lock(&table.known);
        if known.len() >= limits::IDENTITIES_REMEMBERED {
            known.clear();
        }
        known.insert(bearer.name.clone(), rights.clone());
        rights
    }

    fn worked_out(&self, bearer: &Bearer, table: &Table) -> Rights {
        let admin = |source: String| Held { role: Role::Admin, sites: Pattern::any(), source };
        let mut held = Vec::new();
        if bearer.is_admin {
            held.push(admin("the certificate says so".to_owned()));
        }
        let named = self.0.admins.iter().find(|pattern| pattern.fits(&bearer.name));
        held.extend(named.map(|pattern| admin(format!("--admin {pattern} of this node"))));
        let fits = table.granted.grants().iter().filter(|grant| grant.identity.fits(&bearer.name));
        held.extend(fits.map(|grant| Held {
            role: grant.role,
            sites: grant.sites.clone(),
            source: format!("a grant to {}", grant.identity),
        }));
        let (name, is_current) = (bearer.name.clone(), table.is_current);
        Rights { name, proof: "a certificate".to_owned(), held, is_current }
    }

    /// Of whoever shows a token. The error says why it proves nothing.
    pub fn of_token(&self, shown: Shown<'_>) -> Result<Arc<Rights>, String> {
        let table = self.now();
        let Shown { id, secret } = shown;
        // Compared in constant time, as digests are.
        let digest = digest_of(secret);
        let found = table.granted.tokens().get(&id);
        let known = found.and_then(|token| match &token.purpose {
            Purpose::Calls { role, sites, digest } => Some((token, *role, sites, *digest)),
            Purpose::Joins { .. } => None,
        });
        let Some((token, role, sites, _)) =
            known.filter(|(.., known)| digest == blake3::Hash::from(*known))
        else {
            return Err(format!(
                "this cluster has no token {id}, or its secret is another one: it may have been \
                 revoked, or be another cluster's"
            ));
        };
        let Token { name, expires_ms, lineage, .. } = token;
        if self.0.clock.wall_ms() >= *expires_ms {
            return Err(format!("the token {name} has expired: make another one"));
        }
        if *lineage != table.lineage {
            return Err(format!(
                "the token {name} is suspended, since the cluster was restored after it was made: \
                 an admin has it hold again with ddbctl token resume {id}"
            ));
        }
        let (proof, source) = (format!("token {id}"), "the token".to_owned());
        let held = vec![Held { role, sites: sites.clone(), source }];
        Ok(Arc::new(Rights { name: format!("token:{name}"), proof, held, is_current: true }))
    }
}

impl Rights {
    /// Of whoever comes without TLS where that is let in: they do as they like.
    pub fn of_anybody() -> Rights {
        let source = "this node takes calls without TLS".to_owned();
        Rights {
            name: String::new(),
            proof: "none: this node takes calls without TLS".to_owned(),
            held: vec![Held { role: Role::Admin, sites: Pattern::any(), source }],
            is_current: true,
        }
    }

    /// Of callers that are let through for what they are, and have no roles.
    pub fn none(name: &str) -> Rights {
        let (name, proof) = (name.to_owned(), "a certificate".to_owned());
        Rights { name, proof, held: Vec::new(), is_current: true }
    }

    /// Whether the caller has one of the roles, for whatever sites, or is an admin.
    pub fn has(&self, roles: &[Role]) -> bool {
        self.held.iter().any(|held| held.role == Role::Admin || roles.contains(&held.role))
    }

    /// Refuses a method on data of a site that the caller may not touch so.
    pub fn check_site(&self, method: &str, roles: &[Role], site: &SiteId) -> Result<()> {
        let fits = |held: &Held| {
            held.role == Role::Admin || roles.contains(&held.role) && held.sites.fits(site.as_str())
        };
        if self.held.iter().any(fits) {
            return Ok(());
        }
        if !self.is_current {
            return Err(Error::unavailable(not_known_yet(&self.name)));
        }
        Err(Error::denied(self.refusal(method, roles, Some(site))))
    }

    /// What is said to a caller that lacks a role, and which would do.
    pub fn refusal(&self, method: &str, roles: &[Role], site: Option<&SiteId>) -> String {
        let Rights { name, held, .. } = self;
        let of = site.map_or(String::new(), |site| format!(" on site {:?}", site.as_str()));
        let has = held.iter().map(|held| match held.sites.as_str() {
            "*" => held.role.to_string(),
            sites => format!("{} of {sites}", held.role),
        });
        let has = has.collect::<Vec<_>>().join(", ");
        let has = if has.is_empty() { "has no role".to_owned() } else { format!("is {has}") };
        let Some(least) = roles.first() else {
            return format!(
                "{name} may not call {method}, which is for admins, and {has}: use the \
                 certificate of one (ddbctl cert client NAME --admin)"
            );
        };
        let all = roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(" or ");
        let sites = site.map_or(String::new(), |site| format!(" --sites {}", site.as_str()));
        let way = match name.strip_prefix("token:") {
            Some(_) => format!("ddbctl token create NAME {least}{sites}"),
            None => format!("ddbctl grant add {name} {least}{sites}"),
        };
        format!(
            "{name} may not call {method}{of}, which is for {all}, and {has}: an admin changes \
             that with {way}"
        )
    }
}

/// What is said in place of a refusal for what may be missing only here.
pub fn not_known_yet(name: &str) -> String {
    format!(
        "this node has just been started, and does not know yet all that the cluster grants \
         {name}; retry, or ask another node"
    )
}

/// What a token's secret is kept and compared as.
pub fn digest_of(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

/// A token in a call's metadata. `Bearer` of somebody else's making is none, and says nothing here;
/// the error says what is wrong with one of ours.
pub fn shown(headers: &HeaderMap) -> Result<Option<Shown<'_>>, String> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), more) = (all.next(), all.next()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let Some(token) = text.strip_prefix(SCHEME).map(str::trim_start) else { return Ok(None) };
    let Some(rest) = token.strip_prefix(TOKEN_PREFIX) else { return Ok(None) };
    if more.is_some() {
        return Err("the call brings several values for \"authorization\": bring one".to_owned());
    }
    let parsed = rest.split_once('_').and_then(|(id, secret)| {
        let id = id.parse().ok()?;
        (!secret.is_empty() && secret.len() <= limits::TOKEN_SECRET_BYTES_MAX)
            .then_some(Shown { id, secret })
    });
    parsed.map(Some).ok_or_else(|| {
        "what the call brings as a token is none: it is ddb_, 8 digits, _ and a secret".to_owned()
    })
}

/// What a token looks like that is handed out.
pub fn token_text(id: TokenId, secret: &str) -> String {
    format!("{TOKEN_PREFIX}{id}_{secret}")
}

/// The roles that may read or write data of sites by a method.
pub fn roles_of(path: &str) -> &'static [Role] {
    match roles::whom(path) {
        Whom::Roles(roles) => roles,
        _ => &[],
    }
}
