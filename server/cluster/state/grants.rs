//! How grants and tokens come and go, and whether machines need one to join: `cluster::access` says
//! what they are.

use super::{Effects, State};
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, TokenId},
    },
    cluster::{
        access::{Grant, Token},
        command::{Changed, Event, Outcome},
    },
};

impl State {
    pub(super) fn add_grant(&mut self, grant: &Grant, effects: &mut Effects) -> Result<Outcome> {
        let news = self.access.add_grant(grant)?;
        Ok(effects.access(Changed::Grant(grant.clone()), news))
    }

    pub(super) fn remove_grant(&mut self, grant: &Grant, effects: &mut Effects) -> Result<Outcome> {
        self.access.remove_grant(grant)?;
        Ok(effects.access(Changed::Grant(grant.clone()), true))
    }

    /// A token of another history than this one would be suspended from the beginning.
    pub(super) fn create_token(&mut self, token: &Token, effects: &mut Effects) -> Result<Outcome> {
        if token.lineage != self.history()? {
            return Err(Error::conflict(
                "the cluster's history has another name since; make the token again",
            ));
        }
        let news = self.access.create_token(token)?;
        Ok(effects.access(Changed::Token(token.id), news))
    }

    pub(super) fn revoke_token(&mut self, id: TokenId, effects: &mut Effects) -> Result<Outcome> {
        self.access.revoke_token(id)?;
        Ok(effects.access(Changed::Token(id), true))
    }

    pub(super) fn resume_token(&mut self, id: TokenId, effects: &mut Effects) -> Result<Outcome> {
        let lineage = self.history()?;
        let news = self.access.resume_token(id, lineage)?;
        Ok(effects.access(Changed::Token(id), news))
    }

    /// Nodes that are members stay what they are.
    pub(super) fn set_joins(&mut self, need_token: bool, effects: &mut Effects) -> Outcome {
        if self.settings.joins_need_token == need_token {
            return Outcome::Done { changed: false };
        }
        self.settings.joins_need_token = need_token;
        effects.row(Changed::Settings)
    }

    fn history(&self) -> Result<Lineage> {
        if self.settings.lineage == Lineage::PENDING {
            return Err(Error::conflict(
                "the restored nodes have not agreed on a lineage yet; try again",
            ));
        }
        Ok(self.settings.lineage)
    }
}

impl Effects {
    fn access(&mut self, row: Changed, changed: bool) -> Outcome {
        if !changed {
            return Outcome::Done { changed };
        }
        self.events.push(Event::AccessChanged);
        self.row(row)
    }
}
