//! Sites that were left half added or half removed: the meta leader finishes them.
//!
//! A site comes and goes in two groups: the meta group says that it is being added or removed, the
//! site's own group takes it or drops its rows, and the meta group is told that it is done. Each of
//! these may be lost with its leader, so the meta leader looks for unfinished sites again and
//! again.
//!
//! `Sites` decides, and the engine asks the groups.
//!
//! - One step of a site is under way at a time.
//! - What a step did follows from how the site was when it was asked for, not from how it is now: a
//!   site that has been removed and added again since has another generation.
//! - Rows are dropped a few at a time, one step a tick: a lone voter would commit step after step
//!   within one round.

use std::collections::BTreeSet;

use super::{Engine, Host, requests::For};
use crate::{
    base::{
        error::Result,
        ids::{GroupId, Lineage, SiteId},
        limits,
    },
    cluster::{
        self,
        sites::{Site, SiteState},
    },
    data::{self, Reply},
};

/// Sites that this meta leader is finishing.
#[derive(Debug, Default)]
pub(super) struct Sites {
    /// A step of these is under way.
    under_way: BTreeSet<SiteId>,
    /// These go on at the next tick.
    again: Vec<SiteId>,
}

impl Sites {
    /// An unfinished site is found. Whether its first step is to be taken: none is under way.
    fn begin(&mut self, site: &SiteId) -> bool {
        self.under_way.insert(site.clone())
    }

    /// Sites that go on now.
    fn take_again(&mut self) -> Vec<SiteId> {
        std::mem::take(&mut self.again)
    }

    /// What to ask of a site's group, by how the site is now. None if it is finished or gone.
    fn next(&mut self, site: &SiteId, now: Option<Site>) -> Option<data::Command> {
        let step = match now {
            Some(Site { state: SiteState::Adding, generation }) => {
                Some(data::Command::AddSite { site: site.clone(), generation })
            }
            Some(Site { state: SiteState::Removing, generation }) => {
                let (site, rows_max) = (site.clone(), limits::SITE_DROP_ROWS);
                Some(data::Command::DropSite { site, generation, rows_max })
            }
            Some(Site { state: SiteState::Present, .. }) | None => None,
        };
        if step.is_none() {
            self.under_way.remove(site);
        }
        step
    }

    /// A site's group has answered a step. What the meta group is to be told; nothing where the
    /// step has failed, since the site is found again.
    fn stepped(
        &mut self,
        site: &SiteId,
        was: Site,
        answer: &Result<Reply>,
    ) -> Option<cluster::Command> {
        if let Ok(Reply::SiteDropped { more: true }) = answer {
            self.again.push(site.clone());
            return None;
        }
        self.under_way.remove(site);
        let (site, generation) = (site.clone(), was.generation);
        match (answer, was.state) {
            (Ok(Reply::SiteDropped { .. } | Reply::Done { .. }), SiteState::Removing) => {
                Some(cluster::Command::SiteRemoved { site, generation })
            }
            (Ok(Reply::Done { .. }), SiteState::Adding) => {
                Some(cluster::Command::SiteAdded { site, generation })
            }
            _ => None,
        }
    }
}

impl Engine {
    /// On the meta leader, finishes sites that were left half added or half removed.
    pub(super) fn tick_sites(&mut self, host: &mut dyn Host) -> Result<()> {
        for site in self.sites.take_again() {
            self.site_step(site, host)?;
        }
        if !self.leads_meta()
            || self.identity.lineage == Lineage::PENDING
            || !self.ticks.is_multiple_of(limits::SITE_TICKS)
        {
            return Ok(());
        }
        for (site, _) in self.meta.unfinished_sites(limits::SITES_AT_ONCE) {
            if self.sites.begin(&site) {
                self.site_step(site, host)?;
            }
        }
        Ok(())
    }

    fn site_step(&mut self, site: SiteId, host: &mut dyn Host) -> Result<()> {
        let now = self.meta.sites().site(&site);
        match (self.sites.next(&site, now), now) {
            (Some(command), Some(now)) => {
                let group = self.topology().group_of_site(&site);
                self.ask(group, command, For::Site(site, now), host)
            }
            _ => Ok(()),
        }
    }

    /// A site's group has answered a step.
    pub(super) fn on_site_step(
        &mut self,
        site: SiteId,
        was: Site,
        answer: Result<Reply>,
        host: &mut dyn Host,
    ) -> Result<()> {
        match self.sites.stepped(&site, was, &answer) {
            Some(command) => self.ask(GroupId::META, command, For::Nobody, host),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{
        error::Error,
        golden::{self, number},
        ids::SiteGeneration,
    };

    fn site(id: &str) -> SiteId {
        SiteId::new(id).unwrap()
    }

    fn as_told(state: &str, generation: &str) -> Site {
        let state = match state {
            "adding" => SiteState::Adding,
            "removing" => SiteState::Removing,
            "present" => SiteState::Present,
            _ => panic!("{state} is no state of a site"),
        };
        Site { state, generation: SiteGeneration(number(generation)) }
    }

    fn asked(command: data::Command) -> String {
        match command {
            data::Command::AddSite { site, generation } => {
                format!("its group takes {} in its life {generation}", site.as_str())
            }
            data::Command::DropSite { site, generation, .. } => {
                format!("its group drops rows of {} in its life {generation}", site.as_str())
            }
            other => panic!("{other:?} finishes no site"),
        }
    }

    fn told(command: Option<cluster::Command>) -> String {
        match command {
            Some(cluster::Command::SiteAdded { site, generation }) => {
                format!("the meta group hears that {} is there, life {generation}", site.as_str())
            }
            Some(cluster::Command::SiteRemoved { site, generation }) => {
                format!("the meta group hears that {} is gone, life {generation}", site.as_str())
            }
            Some(other) => panic!("{other:?} finishes no site"),
            None => "the meta group hears nothing".into(),
        }
    }

    fn act(sites: &mut Sites, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let next = |sites: &mut Sites, id: &str, now: Option<Site>| {
            sites.next(&site(id), now).map_or("nothing is left to do".into(), asked)
        };
        match words[..] {
            ["found", id, state, "life", generation] => {
                if !sites.begin(&site(id)) {
                    return "a step is under way".into();
                }
                next(sites, id, Some(as_told(state, generation)))
            }
            ["step", "of", id, state, "life", generation, "ends:", ref answer @ ..] => {
                let answer = match answer {
                    ["done"] => Ok(Reply::Done { changed: true }),
                    ["more"] => Ok(Reply::SiteDropped { more: true }),
                    ["dropped"] => Ok(Reply::SiteDropped { more: false }),
                    ["failed"] => Err(Error::unavailable("no leader")),
                    _ => panic!("{line} is no line of a story"),
                };
                told(sites.stepped(&site(id), as_told(state, generation), &answer))
            }
            ["tick", id, state, "life", generation] => {
                let again = sites.take_again();
                assert!(again.iter().all(|again| *again == site(id)), "the story has one site");
                let step = |_| next(sites, id, Some(as_told(state, generation)));
                again.into_iter().next().map_or("nothing goes on".into(), step)
            }
            _ => panic!("{line} is no line of a story"),
        }
    }

    #[test]
    fn sites_are_finished_as_told() {
        golden::play("engine/sites", || {
            let mut sites = Sites::default();
            move |line| act(&mut sites, line)
        });
    }
}
