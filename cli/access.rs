//! `ddbctl whoami`, `ddbctl grant` and `ddbctl token`: who may do what.
//!
//! The secret of a token goes to stdout or to a file, once, and nowhere else.

use std::path::Path;

use serde::Serialize;
use tonic::transport::Channel;

use super::{
    args::{AccessToken as TokenArgs, Grant as GrantArgs, Granted, Held, role_name},
    cert,
    client::{Call, Client},
    term::{
        exit::Failure,
        output::{Console, Look, View},
        table::{Prose, Table, Text},
        text,
    },
};
use crate::proto::v1::{self, access_service_client::AccessServiceClient};

/// Who the caller is.
#[derive(Debug, Serialize)]
struct Me {
    identity: String,
    proof: String,
    roles: Vec<RoleLine>,
}

#[derive(Debug, Serialize)]
struct RoleLine {
    role: String,
    sites: String,
    source: String,
}

impl View for Me {
    fn text(&self, look: Look) -> String {
        let identity = if self.identity.is_empty() { "nobody" } else { &self.identity };
        let head = format!("identity  {identity}\nproof     {}\n", self.proof);
        if self.roles.is_empty() {
            return format!("{head}roles     none: an admin gives them with ddbctl grant add\n");
        }
        let rows = self.roles.iter().map(|r| [r.role.clone(), r.sites.clone(), r.source.clone()]);
        let heads = [Text("ROLE"), Text("SITES"), Prose("BECAUSE OF")];
        format!("{head}\n{}", Table::new(heads, rows).render(look.columns))
    }
}

#[derive(Debug, Serialize)]
struct GrantLine {
    identity: String,
    role: String,
    sites: String,
}

#[derive(Debug, Serialize)]
struct Grants {
    grants: Vec<GrantLine>,
}

impl View for Grants {
    fn text(&self, look: Look) -> String {
        let rows =
            self.grants.iter().map(|g| [g.identity.clone(), g.role.clone(), g.sites.clone()]);
        Table::new([Text("IDENTITY"), Text("ROLE"), Text("SITES")], rows).render(look.columns)
    }
}

/// A change of a grant.
#[derive(Debug, Serialize)]
struct Changed {
    #[serde(flatten)]
    grant: GrantLine,
    changed: bool,
}

impl View for Changed {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

#[derive(Debug, Serialize)]
struct TokenLine {
    id: String,
    name: String,
    role: String,
    sites: String,
    /// Of a join token.
    #[serde(skip_serializing_if = "Option::is_none")]
    joins_left: Option<u32>,
    created_ms: u64,
    expires_ms: u64,
    suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl View for TokenLine {
    fn text(&self, _: Look) -> String {
        self.secret.as_ref().map_or(String::new(), |secret| format!("{secret}\n"))
    }
}

#[derive(Debug, Serialize)]
struct Tokens {
    tokens: Vec<TokenLine>,
}

impl View for Tokens {
    fn text(&self, look: Look) -> String {
        let rows = self.tokens.iter().map(|t| {
            let state = match () {
                () if t.expires_ms <= look.now_ms => "expired",
                () if t.suspended => "suspended",
                () if t.joins_left == Some(0) => "used up",
                () => "holds",
            };
            [
                t.id.clone(),
                t.name.clone(),
                t.joins_left.map_or(t.role.clone(), |left| format!("join, {left} left")),
                t.sites.clone(),
                text::when(t.created_ms),
                look.age(t.created_ms),
                text::when(t.expires_ms),
                state.to_owned(),
            ]
        });
        let heads = [
            Text("TOKEN ID"),
            Text("NAME"),
            Text("ROLE"),
            Text("SITES"),
            Text("MADE"),
            Text("AGE"),
            Text("EXPIRES"),
            Text("STATE"),
        ];
        Table::new(heads, rows).render(look.columns)
    }
}

#[derive(Debug, Serialize)]
struct Ids {
    #[serde(rename = "token_ids")]
    tokens: Vec<String>,
}

impl View for Ids {
    fn text(&self, _: Look) -> String {
        String::new()
    }
}

fn service(channel: Channel) -> AccessServiceClient<Channel> {
    AccessServiceClient::new(channel)
}

/// A newer version may know more of them.
fn named(number: i32) -> String {
    v1::Role::try_from(number).map_or_else(|_| format!("role {number}"), role_name)
}

fn grant(granted: &Granted) -> v1::Grant {
    let Granted { identity, held: Held { role, sites } } = granted;
    v1::Grant { identity: identity.clone(), role: *role as i32, sites: sites.clone() }
}

fn grant_line(grant: v1::Grant) -> GrantLine {
    GrantLine { identity: grant.identity, role: named(grant.role), sites: grant.sites }
}

fn of_sites(sites: &str) -> String {
    if sites == "*" { String::new() } else { format!(" of the sites {sites}") }
}

pub async fn whoami(client: &mut Client, console: &mut Console) -> Result<(), Failure> {
    let call = Call::new("ask who you are");
    let answer = client
        .call(&call, v1::WhoAmIRequest {}, |channel, request| async move {
            service(channel).who_am_i(request).await
        })
        .await?;
    let v1::WhoAmIResponse { identity, proof, roles } = answer.body;
    let roles = roles.into_iter().map(|held| RoleLine {
        role: named(held.role),
        sites: held.sites,
        source: held.source,
    });
    console.print(&Me { identity, proof, roles: roles.collect() })
}

pub async fn grants(
    command: GrantArgs,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        GrantArgs::Add(granted) => {
            let Granted { identity, held } = &granted;
            let what = format!("{}{} to {identity}", role_name(held.role), of_sites(&held.sites));
            let call = Call::new(format!("grant {what}"));
            let request = v1::AddGrantRequest { grant: Some(grant(&granted)) };
            let answer = client
                .call(&call, request, |channel, request| async move {
                    service(channel).add_grant(request).await
                })
                .await?;
            let changed = answer.body.created || answer.repeated;
            let how = if changed { "granted" } else { "was granted before" };
            console.confirm(&format!("{what} {how}"));
            console.print(&Changed { grant: grant_line(grant(&granted)), changed })
        }
        GrantArgs::Remove(granted) => {
            let Granted { identity, held } = &granted;
            let what = format!("{}{} from {identity}", role_name(held.role), of_sites(&held.sites));
            let call = Call { what: format!("take {what}"), again: "repeat it".into() };
            let request = v1::RemoveGrantRequest { grant: Some(grant(&granted)) };
            client
                .remove(&call, request, |channel, request| async move {
                    service(channel).remove_grant(request).await
                })
                .await?;
            console.confirm(&format!("{what} taken"));
            console.print(&Changed { grant: grant_line(grant(&granted)), changed: true })
        }
        GrantArgs::List => {
            let call = Call::new("list the grants");
            let answer = client
                .call(&call, v1::ListGrantsRequest {}, |channel, request| async move {
                    service(channel).list_grants(request).await
                })
                .await?;
            let grants = answer.body.grants.into_iter().map(grant_line).collect();
            console.print(&Grants { grants })
        }
    }
}

pub async fn tokens(
    command: TokenArgs,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command {
        TokenArgs::Create { name, role, sites, uses, days, expires, file, join: _ } => {
            let asked = Asked::new(name, role.map(|role| Held { role, sites }), uses);
            let valid_ms = match (days, expires) {
                (Some(days), _) => days * DAY_MS,
                (None, Some(span)) => span.0.as_millis() as u64,
                (None, None) => asked.usual_ms(),
            };
            create(asked, valid_ms, file.as_deref(), client, console).await
        }
        TokenArgs::List => {
            let tokens = list(client).await?.into_iter().map(|token| line(token, None)).collect();
            console.print(&Tokens { tokens })
        }
        TokenArgs::Revoke { id } => {
            let call = Call { what: format!("revoke token {id}"), again: "repeat it".into() };
            let request = v1::RevokeTokenRequest { id: id.to_string() };
            client
                .remove(&call, request, |channel, request| async move {
                    service(channel).revoke_token(request).await
                })
                .await?;
            console.confirm(&format!("token {id} revoked"));
            console.print(&Ids { tokens: vec![id.to_string()] })
        }
        TokenArgs::Resume { id: Some(id), .. } => {
            resume(vec![id.to_string()], client, console).await
        }
        TokenArgs::Resume { id: None, .. } => {
            let suspended = list(client).await?.into_iter().filter(|token| token.suspended);
            resume(suspended.map(|token| token.id).collect(), client, console).await
        }
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;
/// For how long a token is valid of which nobody says it.
const USUAL_DAYS: u64 = 90;
const USUAL_JOIN_MS: u64 = 3600 * 1000;

/// A token that is to be made: for calls, or for so many machines that join.
struct Asked {
    name: String,
    held: Option<Held>,
    joins: u32,
}

impl Asked {
    fn new(name: String, held: Option<Held>, uses: u32) -> Asked {
        let joins = if held.is_some() { 0 } else { uses };
        Asked { name, held, joins }
    }

    fn usual_ms(&self) -> u64 {
        if self.held.is_some() { USUAL_DAYS * DAY_MS } else { USUAL_JOIN_MS }
    }

    fn purpose(&self) -> String {
        match &self.held {
            Some(held) => format!("{}{}", role_name(held.role), of_sites(&held.sites)),
            None if self.joins == 1 => "by which 1 machine joins".to_owned(),
            None => format!("by which {} machines join", self.joins),
        }
    }
}

async fn create(
    asked: Asked,
    valid_ms: u64,
    file: Option<&Path>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    // Before there is a secret that is kept nowhere.
    if let Some(file) = file {
        cert::is_free(file)?;
    }
    let call = Call {
        what: format!("make token {:?}", asked.name),
        again: "look at ddbctl token list, and revoke it there before it is made again".into(),
    };
    let request = v1::CreateTokenRequest {
        name: asked.name.clone(),
        role: asked.held.as_ref().map_or(0, |held| held.role as i32),
        sites: asked.held.as_ref().map_or(String::new(), |held| held.sites.clone()),
        joins: asked.joins,
        valid_ms,
    };
    let answer = client
        .call(&call, request, |channel, request| async move {
            service(channel).create_token(request).await
        })
        .await?;
    let v1::CreateTokenResponse { token, secret } = answer.body;
    let token = token.unwrap_or_default();
    let what = format!("token {} made, {}", asked.name, asked.purpose());
    let until = text::when(token.expires_ms);
    let secret = match file {
        None => {
            console.confirm(&format!("{what} until {until}; it is not shown again"));
            Some(secret)
        }
        Some(file) => {
            cert::write_new(file, &format!("{secret}\n"), 0o600)?;
            console.confirm(&format!("{what} until {until}, in {}", file.display()));
            None
        }
    };
    console.print(&line(token, secret))
}

async fn resume(
    ids: Vec<String>,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    for id in &ids {
        let call = Call::new(format!("resume token {id}"));
        let request = v1::ResumeTokenRequest { id: id.clone() };
        let answer = client
            .call(&call, request, |channel, request| async move {
                service(channel).resume_token(request).await
            })
            .await?;
        let how =
            if answer.body.resumed || answer.repeated { "holds again" } else { "held before" };
        console.confirm(&format!("token {id} {how}"));
    }
    if ids.is_empty() {
        console.confirm("no token is suspended");
    }
    console.print(&Ids { tokens: ids })
}

async fn list(client: &mut Client) -> Result<Vec<v1::Token>, Failure> {
    let call = Call::new("list the tokens");
    let answer = client
        .call(&call, v1::ListTokensRequest {}, |channel, request| async move {
            service(channel).list_tokens(request).await
        })
        .await?;
    Ok(answer.body.tokens)
}

fn line(token: v1::Token, secret: Option<String>) -> TokenLine {
    TokenLine {
        id: token.id,
        name: token.name,
        role: if token.joins { "join".to_owned() } else { named(token.role) },
        joins_left: token.joins.then_some(token.joins_left),
        sites: token.sites,
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        suspended: token.suspended,
        secret,
    }
}
