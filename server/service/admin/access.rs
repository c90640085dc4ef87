//! Grants and tokens, as admins change them.

use std::time::Duration;

use super::Cluster;
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, TokenId},
        limits,
    },
    cluster::{
        Command,
        access::{Access, Grant, Pattern, Role, Token},
    },
};

/// A token that is to be made.
#[derive(Clone, Debug)]
pub struct TokenAsked {
    pub name: String,
    pub role: Role,
    pub sites: Pattern,
    pub valid: Duration,
    /// Random.
    pub id: TokenId,
    pub digest: [u8; 32],
}

impl Cluster {
    /// Whether it is new.
    pub async fn add_grant(&self, grant: Grant, wait: Duration) -> Result<bool> {
        grant.check()?;
        self.change(Command::AddGrant(grant), wait).await
    }

    pub async fn remove_grant(&self, grant: Grant, wait: Duration) -> Result<()> {
        self.change(Command::RemoveGrant(grant), wait).await.map(drop)
    }

    /// By identity.
    pub async fn grants(&self, wait: Duration) -> Result<Vec<Grant>> {
        self.look(wait, |s| s.access().grants().iter().cloned().collect()).await
    }

    /// All that is granted now, and the lineage in which it holds.
    pub async fn access(&self, wait: Duration) -> Result<(Access, Lineage)> {
        self.look(wait, |s| (s.access().clone(), s.settings().lineage)).await
    }

    pub async fn create_token(&self, asked: TokenAsked, wait: Duration) -> Result<Token> {
        if !(limits::TOKEN_VALID_MIN..=limits::TOKEN_VALID_MAX).contains(&asked.valid) {
            return Err(Error::invalid(format!(
                "a token is valid from {} s to {} days, not {} ms",
                limits::TOKEN_VALID_MIN.as_secs(),
                limits::TOKEN_VALID_MAX.as_secs() / (24 * 3600),
                asked.valid.as_millis()
            )));
        }
        let created_ms = self.handle.clock.wall_ms();
        let token = Token {
            id: asked.id,
            name: asked.name,
            role: asked.role,
            sites: asked.sites,
            digest: asked.digest,
            created_ms,
            expires_ms: created_ms + asked.valid.as_millis() as u64,
            lineage: self.look(wait, |s| s.settings().lineage).await?,
        };
        token.check()?;
        self.change(Command::CreateToken(token.clone()), wait).await?;
        Ok(token)
    }

    /// By name, and the history in which they hold.
    pub async fn tokens(&self, wait: Duration) -> Result<(Vec<Token>, Lineage)> {
        let see = |s: &crate::cluster::State| {
            (s.access().tokens().values().cloned().collect(), s.settings().lineage)
        };
        let (mut tokens, lineage): (Vec<Token>, Lineage) = self.look(wait, see).await?;
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((tokens, lineage))
    }

    pub async fn revoke_token(&self, id: TokenId, wait: Duration) -> Result<()> {
        self.change(Command::RevokeToken(id), wait).await.map(drop)
    }

    /// Whether it was suspended.
    pub async fn resume_token(&self, id: TokenId, wait: Duration) -> Result<bool> {
        self.change(Command::ResumeToken(id), wait).await
    }
}
