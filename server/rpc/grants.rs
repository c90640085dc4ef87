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
    cluster::access::{Grant, Pattern, Token},
    net::tls,
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
                let random = tls::random::<36>()?;
                let (id, secret) = random.split_at(4);
                let secret = URL_SAFE_NO_PAD.encode(secret);
                let asked = TokenAsked {
                    name: request.name,
                    role: wire::parse_role(request.role as u32)?,
                    sites: parse_sites(request.sites)?,
                    valid: Duration::from_millis(request.valid_ms),
                    id: TokenId(id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)).max(1)),
                    digest: *access::digest_of(&secret).as_bytes(),
                };
                let token = self.cluster.create_token(asked, wait).await?;
                Ok(v1::CreateTokenResponse {
                    secret: access::token_text(token.id, &secret),
                    token: Some(token_of(&token, token.lineage)),
                })
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
    v1::Token {
        id: token.id.to_string(),
        name: token.name.clone(),
        role: wire::role_number(token.role) as i32,
        sites: token.sites.to_string(),
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        suspended: token.lineage != lineage,
    }
}
