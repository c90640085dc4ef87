//! `devicedb.v1.AccessService`.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::{Request, Response, Status};

use super::{
    Calls,
    access::{self, Rights},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, TokenId},
    },
    cluster::access::{Grant, Pattern, Purpose, Token},
    net::tls::{self, ticket::JoinToken},
    proto::v1::{self, access_service_server::AccessService},
    service::admin::{Cluster, TokenAsked},
    wire,
};

pub struct AccessApi {
    pub cluster: Cluster,
    pub calls: Calls,
}

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let found = request.extensions().get::<Arc<Rights>>().cloned();
        self.calls
            .call("WhoAmI", request, |_, _| async move {
                let rights = found.ok_or_else(|| Error::denied("nobody has looked who calls"))?;
                let roles = rights.held.iter().map(|held| v1::HeldRole {
                    role: wire::role_number(held.role) as i32,
                    sites: held.sites.to_string(),
                    source: held.source.clone(),
                });
                Ok(v1::WhoAmIResponse {
                    identity: rights.name.clone(),
                    proof: rights.proof.clone(),
                    roles: roles.collect(),
                })
            })
            .await
    }

    async fn add_grant(
        &self,
        request: Request<v1::AddGrantRequest>,
    ) -> Result<Response<v1::AddGrantResponse>, Status> {
        self.calls
            .call("AddGrant", request, |request, wait| async move {
                let created = self.cluster.add_grant(parse_grant(request.grant)?, wait).await?;
                Ok(v1::AddGrantResponse { created })
            })
            .await
    }

    async fn remove_grant(
        &self,
        request: Request<v1::RemoveGrantRequest>,
    ) -> Result<Response<v1::RemoveGrantResponse>, Status> {
        self.calls
            .call("RemoveGrant", request, |request, wait| async move {
                self.cluster.remove_grant(parse_grant(request.grant)?, wait).await?;
                Ok(v1::RemoveGrantResponse {})
            })
            .await
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Result<Response<v1::ListGrantsResponse>, Status> {
        self.calls
            .call("ListGrants", request, |_, wait| async move {
                let grants = self.cluster.grants(wait).await?.into_iter().map(grant_of).collect();
                Ok(v1::ListGrantsResponse { grants })
            })
            .await
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.calls
            .call("CreateToken", request, |request, wait| async move {
                let id = TokenId(u32::from_be_bytes(tls::random()?).max(1));
                let seed = tls::random()?;
                let (purpose, secret) = match request.joins {
                    0 => calls(id, seed, &request)?,
                    joins => joins_by(id, seed, joins, &request)?,
                };
                let valid = Duration::from_millis(request.valid_ms);
                let asked = TokenAsked { name: request.name, purpose, valid, id };
                let token = self.cluster.create_token(asked, wait).await?;
                let token = Some(token_of(&token, token.lineage));
                Ok(v1::CreateTokenResponse { secret, token })
            })
            .await
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.calls
            .call("ListTokens", request, |_, wait| async move {
                let (tokens, lineage) = self.cluster.tokens(wait).await?;
                let tokens = tokens.iter().map(|token| token_of(token, lineage)).collect();
                Ok(v1::ListTokensResponse { tokens })
            })
            .await
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        self.calls
            .call("RevokeToken", request, |request, wait| async move {
                self.cluster.revoke_token(request.id.parse()?, wait).await?;
                Ok(v1::RevokeTokenResponse {})
            })
            .await
    }

    async fn set_joins(
        &self,
        request: Request<v1::SetJoinsRequest>,
    ) -> Result<Response<v1::SetJoinsResponse>, Status> {
        self.calls
            .call("SetJoins", request, |request, wait| async move {
                let changed = self.cluster.set_joins(request.need_token, wait).await?;
                Ok(v1::SetJoinsResponse { changed })
            })
            .await
    }

    async fn resume_token(
        &self,
        request: Request<v1::ResumeTokenRequest>,
    ) -> Result<Response<v1::ResumeTokenResponse>, Status> {
        self.calls
            .call("ResumeToken", request, |request, wait| async move {
                let resumed = self.cluster.resume_token(request.id.parse()?, wait).await?;
                Ok(v1::ResumeTokenResponse { resumed })
            })
            .await
    }
}

/// What a token is that makes calls, and its text.
fn calls(
    id: TokenId,
    seed: [u8; 32],
    request: &v1::CreateTokenRequest,
) -> Result<(Purpose, String)> {
    let secret = URL_SAFE_NO_PAD.encode(seed);
    let purpose = Purpose::Calls {
        role: wire::parse_role(request.role as u32)?,
        sites: parse_sites(request.sites.clone())?,
        digest: *access::digest_of(&secret).as_bytes(),
    };
    Ok((purpose, access::token_text(id, &secret)))
}

/// What a token is by which machines join, and its text.
fn joins_by(
    id: TokenId,
    seed: [u8; 32],
    joins: u32,
    request: &v1::CreateTokenRequest,
) -> Result<(Purpose, String)> {
    if request.role != 0 || !request.sites.is_empty() {
        return Err(Error::invalid(
            "a join token lets machines join and makes no calls: it has no role and no sites",
        ));
    }
    let token = JoinToken::new(id, seed)?;
    Ok((Purpose::Joins { left: joins, key: token.public() }, token.text()))
}

fn parse_sites(sites: String) -> Result<Pattern> {
    if sites.is_empty() { Ok(Pattern::any()) } else { Pattern::new(sites) }
}

fn parse_grant(grant: Option<v1::Grant>) -> Result<Grant> {
    let grant = grant.ok_or_else(|| Error::invalid("the request names no grant"))?;
    Ok(Grant {
        identity: Pattern::new(grant.identity)?,
        role: wire::parse_role(grant.role as u32)?,
        sites: parse_sites(grant.sites)?,
    })
}

fn grant_of(grant: Grant) -> v1::Grant {
    v1::Grant {
        identity: grant.identity.to_string(),
        role: wire::role_number(grant.role) as i32,
        sites: grant.sites.to_string(),
    }
}

fn token_of(token: &Token, lineage: Lineage) -> v1::Token {
    let (role, sites) = match &token.purpose {
        Purpose::Calls { role, sites, .. } => (wire::role_number(*role) as i32, sites.to_string()),
        Purpose::Joins { .. } => Default::default(),
    };
    let joins_left = match token.purpose {
        Purpose::Joins { left, .. } => Some(left),
        Purpose::Calls { .. } => None,
    };
    v1::Token {
        id: token.id.to_string(),
        name: token.name.clone(),
        role,
        sites,
        joins: joins_left.is_some(),
        joins_left: joins_left.unwrap_or_default(),
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        suspended: token.lineage != lineage,
    }
}
