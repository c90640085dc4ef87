//! Grants and tokens, as admins change them, and which machines become nodes by one.

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
        access::{Access, Grant, Purpose, Ticket, Token, may_not_join, unknown_join_token},
    },
    net::tls::ticket::{self, Joiner},
    proto::internal::v1::JoinProof,
    wire,
};

/// A token that is to be made.
#[derive(Clone, Debug)]
pub struct TokenAsked {
    pub name: String,
    pub purpose: Purpose,
    pub valid: Duration,
    /// Random.
    pub id: TokenId,
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
            purpose: asked.purpose,
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

    /// Whether machines need a join token from now on. Whether that is news.
    pub async fn set_joins(&self, need_token: bool, wait: Duration) -> Result<bool> {
        self.change(Command::SetJoins { need_token }, wait).await
    }

    /// What lets a machine in that is no node yet; nothing where it needs nothing. Whether the
    /// token lets one more in is decided once more when the node is registered.
    pub(super) async fn ticket(
        &self,
        joiner: &Joiner<'_>,
        proof: Option<&JoinProof>,
        wait: Duration,
    ) -> Result<Option<Ticket>> {
        let node = joiner.node;
        let named = proof.map(|proof| wire::parse_token_id(proof.token_id)).transpose()?;
        let see = move |s: &crate::cluster::State| {
            let needed = s.settings().joins_need_token && s.node(node).is_none();
            let token = named.and_then(|id| s.access().tokens().get(&id).cloned());
            (needed, token, s.settings().lineage)
        };
        let (needed, token, lineage) = self.look(wait, see).await?;
        let (Some(proof), Some(id)) = (proof, named) else {
            return if needed {
                Err(may_not_join("this machine has brought none"))
            } else {
                Ok(None)
            };
        };
        if !needed {
            return Ok(None);
        }
        let token = token.ok_or_else(|| may_not_join(&unknown_join_token(id)))?;
        let shown_ms = self.handle.clock.wall_ms();
        if let Purpose::Joins { key, .. } = &token.purpose
            && !ticket::is_proved(key, proof, joiner)
        {
            return Err(may_not_join(&unknown_join_token(id)));
        }
        match token.lets_nobody_join(shown_ms, lineage) {
            Some(why) => Err(may_not_join(&why)),
            None => Ok(Some(Ticket { token: id, shown_ms })),
        }
    }

    /// Whether it was suspended.
    pub async fn resume_token(&self, id: TokenId, wait: Duration) -> Result<bool> {
        self.change(Command::ResumeToken(id), wait).await
    }
}
