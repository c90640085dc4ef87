//! Sites and relays, with the indexes that keep every change cheap in a cluster of a million sites.
//!
//! A site comes and goes in two steps, because its group has to begin or stop taking its writes in
//! between: `Adding`, then `Present`, then `Removing`, then gone. The node that was asked drives
//! the steps; `unfinished` finds what a crash left half done. Each step names the life of the site
//! that it means by its generation, so a late step does nothing to a site that was removed and
//! added again.
//!
//! Relies on nothing but ids. Does not know the data of a site, nor which group holds it.
//!
//! - Every change costs O(log n), except that removing a site takes its relays from it: at most
//!   `SITE_RELAYS_MAX`.
//! - A relay belongs to a site that is present or being added, or to none.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{
    error::{Error, Result},
    ids::{RelayId, SiteGeneration, SiteId},
    limits,
};

/// How far a site is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteState {
    /// Its group may not take its writes yet.
    Adding,
    Present,
    /// Its group may still hold some of its rows.
    Removing,
}

/// A site in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub state: SiteState,
    pub generation: SiteGeneration,
}

/// An edge gateway and the site it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    pub id: RelayId,
    pub site: Option<SiteId>,
}

/// All sites and relays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sites {
    sites: BTreeMap<SiteId, Site>,
    unfinished: BTreeSet<SiteId>,
    relays: BTreeMap<RelayId, Option<SiteId>>,
    relays_of: BTreeMap<SiteId, BTreeSet<RelayId>>,
}

impl Sites {
    /// Rows that contradict each other are `Corrupt`.
    pub fn from_rows(
        sites: impl IntoIterator<Item = (SiteId, Site)>,
        relays: impl IntoIterator<Item = Relay>,
    ) -> Result<Sites> {
        let mut all = Sites { sites: sites.into_iter().collect(), ..Sites::default() };
        all.unfinished = all
            .sites
            .iter()
            .filter(|(_, s)| s.state != SiteState::Present)
            .map(|(site, _)| site.clone())
            .collect();
        for relay in relays {
            if let Some(site) = relay.site.as_ref().filter(|site| !all.takes_relays(site)) {
                return Err(Error::corrupt(format!(
                    "relay {} belongs to site {site}, which is not there",
                    relay.id
                )));
            }
            all.attach(relay.id, relay.site);
        }
        Ok(all)
    }

    pub fn site(&self, site: &SiteId) -> Option<Site> {
        self.sites.get(site).copied()
    }
    /// By id; pages are ranges of it.
    pub fn sites(&self) -> &BTreeMap<SiteId, Site> {
        &self.sites
    }
    pub fn relay(&self, relay: &RelayId) -> Option<Relay> {
        self.relays.get(relay).map(|site| Relay { id: relay.clone(), site: site.clone() })
    }
    /// By id; pages are ranges of it.
    pub fn relays(&self) -> &BTreeMap<RelayId, Option<SiteId>> {
        &self.relays
    }
    /// The relays of one site, by id; None stands for none at all.
    pub fn relays_of(&self, site: &SiteId) -> Option<&BTreeSet<RelayId>> {
        self.relays_of.get(site)
    }
    pub fn relay_count(&self, site: &SiteId) -> usize {
        self.relays_of.get(site).map_or(0, BTreeSet::len)
    }
    /// Sites that are half added or half removed, at most `limit` of them, by id.
    pub fn unfinished(&self, limit: usize) -> Vec<(SiteId, Site)> {
        self.unfinished.iter().take(limit).map(|site| (site.clone(), self.sites[site])).collect()
    }

    /// Adds a site under a generation, which must be greater than all before, and says whether the
    /// site is new.
    pub fn add_site(&mut self, site: &SiteId, generation: SiteGeneration) -> Result<bool> {
        match self.state(site) {
            None => self.set(site, Site { state: SiteState::Adding, generation }),
            Some(SiteState::Adding | SiteState::Present) => return Ok(false),
            Some(SiteState::Removing) => {
                return Err(Error::conflict(format!(
                    "site {site} is being removed; try again when it is gone"
                )));
            }
        }
        Ok(true)
    }

    /// Its group takes its writes. Whether that is news; another life of the site stays as it is.
    pub fn site_added(&mut self, site: &SiteId, generation: SiteGeneration) -> bool {
        let news = self.site(site) == Some(Site { state: SiteState::Adding, generation });
        if news {
            self.set(site, Site { state: SiteState::Present, generation });
        }
        news
    }

    /// None where its removal has begun before; otherwise the relays that belong to no site now.
    pub fn remove_site(&mut self, site: &SiteId) -> Result<Option<BTreeSet<RelayId>>> {
        match self.site(site) {
            None => return Err(no_site(site)),
            Some(Site { state: SiteState::Removing, .. }) => return Ok(None),
            Some(Site { generation, .. }) => {
                self.set(site, Site { state: SiteState::Removing, generation })
            }
        }
        let relays = self.relays_of.remove(site).unwrap_or_default();
        for relay in &relays {
            self.relays.insert(relay.clone(), None);
        }
        Ok(Some(relays))
    }

    /// Its data is gone, and so is it. Whether that is news; a site that is not being removed
    /// stays, and so does another life of it.
    pub fn site_removed(&mut self, site: &SiteId, generation: SiteGeneration) -> bool {
        let news = self.site(site) == Some(Site { state: SiteState::Removing, generation });
        if news {
            self.sites.remove(site);
            self.unfinished.remove(site);
        }
        news
    }

    /// Adds a relay, and says whether it is new. A relay that exists stays as it is, even if the
    /// command names another site: a retry must not move a relay that was moved since.
    pub fn add_relay(&mut self, relay: &Relay) -> Result<bool> {
        if self.relays.contains_key(&relay.id) {
            return Ok(false);
        }
        self.check_room(relay.site.as_ref())?;
        self.attach(relay.id.clone(), relay.site.clone());
        Ok(true)
    }

    pub fn remove_relay(&mut self, relay: &RelayId) -> Result<()> {
        let site = self.relays.remove(relay).ok_or_else(|| no_relay(relay))?;
        self.detach(relay, site.as_ref());
        Ok(())
    }

    /// Moves a relay to a site or to none, and says whether that changed anything.
    pub fn move_relay(&mut self, relay: &Relay) -> Result<bool> {
        let from = self.relays.get(&relay.id).ok_or_else(|| no_relay(&relay.id))?.clone();
        if from == relay.site {
            return Ok(false);
        }
        self.check_room(relay.site.as_ref())?;
        self.detach(&relay.id, from.as_ref());
        self.attach(relay.id.clone(), relay.site.clone());
        Ok(true)
    }

    fn state(&self, site: &SiteId) -> Option<SiteState> {
        self.site(site).map(|s| s.state)
    }

    fn set(&mut self, site: &SiteId, now: Site) {
        self.sites.insert(site.clone(), now);
        if now.state == SiteState::Present {
            self.unfinished.remove(site);
        } else {
            self.unfinished.insert(site.clone());
        }
    }

    fn takes_relays(&self, site: &SiteId) -> bool {
        matches!(self.state(site), Some(SiteState::Adding | SiteState::Present))
    }

    fn check_room(&self, site: Option<&SiteId>) -> Result<()> {
        let Some(site) = site else { return Ok(()) };
        if !self.takes_relays(site) {
            return Err(no_site(site));
        }
        if self.relay_count(site) >= limits::SITE_RELAYS_MAX {
            return Err(Error::conflict(format!(
                "site {site} has {} relays already, and a site takes no more",
                limits::SITE_RELAYS_MAX
            )));
        }
        Ok(())
    }

    fn attach(&mut self, relay: RelayId, site: Option<SiteId>) {
        if let Some(site) = &site {
            self.relays_of.entry(site.clone()).or_default().insert(relay.clone());
        }
        self.relays.insert(relay, site);
    }

    /// Takes it out of the index; its row is the caller's.
    fn detach(&mut self, relay: &RelayId, site: Option<&SiteId>) {
        let Some(site) = site else { return };
        if let Some(relays) = self.relays_of.get_mut(site) {
            relays.remove(relay);
            if relays.is_empty() {
                self.relays_of.remove(site);
            }
        }
    }
}

fn no_site(site: &SiteId) -> Error {
    Error::not_found(format!("there is no site {site}"))
}

fn no_relay(relay: &RelayId) -> Error {
    Error::not_found(format!("there is no relay {relay}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(n: u8) -> SiteId {
        SiteId::new(format!("site-{n}")).unwrap()
    }
    fn relay(n: u8, at: Option<u8>) -> Relay {
        Relay { id: RelayId::new(format!("relay-{n}")).unwrap(), site: at.map(site) }
    }

    proptest! {
        #[test]
        fn the_indexes_are_what_the_rows_say(
            steps in prop::collection::vec((0..7u8, 0..4u8, 0..6u8, any::<bool>(), 0..4u64), 1..80),
        ) {
            let mut sites = Sites::default();
            for (what, s, r, to_site, generation) in steps {
                let (relay, generation) =
                    (relay(r, to_site.then_some(s)), SiteGeneration(generation));
                match what {
                    0 => drop(sites.add_site(&site(s), generation)),
                    1 => drop(sites.site_added(&site(s), generation)),
                    2 => drop(sites.remove_site(&site(s))),
                    3 => drop(sites.site_removed(&site(s), generation)),
                    4 => drop(sites.add_relay(&relay)),
                    5 => drop(sites.remove_relay(&relay.id)),
                    _ => drop(sites.move_relay(&relay)),
                }
                let rows = sites.relays().keys().map(|id| sites.relay(id).unwrap());
                prop_assert_eq!(&Sites::from_rows(sites.sites().clone(), rows).unwrap(), &sites);
            }
        }
    }

    #[test]
    fn a_site_takes_only_so_many_relays() {
        let mut sites = Sites::default();
        sites.add_site(&site(0), SiteGeneration(1)).unwrap();
        for n in 0..limits::SITE_RELAYS_MAX {
            sites.attach(RelayId::new(format!("r{n}")).unwrap(), Some(site(0)));
        }
        assert!(sites.add_relay(&relay(1, Some(0))).is_err());
        assert!(sites.add_relay(&relay(1, None)).unwrap());
        assert!(sites.move_relay(&relay(1, Some(0))).is_err());
        assert_eq!(sites.remove_site(&site(0)).unwrap().unwrap().len(), limits::SITE_RELAYS_MAX);
        assert_eq!(sites.relay_count(&site(0)), 0);
    }
}
