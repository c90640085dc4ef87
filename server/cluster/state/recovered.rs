//! What a cluster begins with whose other nodes are lost for good.
//!
//! It is the state at the end of the chosen replica's log, cut down to the nodes that are left. As
//! after a restore, its history has no name until the meta group's first leader gives it one; then
//! the lost nodes belong to another history and cannot come back.
//!
//! - No snapshot is open: the one that was is aborted. Numbers go on behind the newest mark of any
//!   data group, since a survivor may have applied a mark whose `Begin` was lost with the meta
//!   group's other replicas. So no fence holds writes back for ever, and no mark is taken for one
//!   of a later snapshot.
//! - A group may have lost the entry that added a site, or a later life of the site. The sites of
//!   such groups are added once more, under generations above all that the lost nodes can have
//!   drawn. The meta leader does that as for every site that was left half added; what the group
//!   has of the site stays.
//! - A site that is being removed goes on being removed.
//! - Operations that run are cancelled, and nodes that were leaving or drained are as any other:
//!   everything is placed anew, and whoever recovers a cluster looks at it next.
//! - Schedules go on, and no run of them is under way, as after a restore.
//! - No node has the name of a certificate, as after a restore.
//!
//! Relies on the caller to know which replicas are kept and where. Decides nothing about them.

use std::collections::{BTreeMap, BTreeSet};

use super::{State, settings::Settings};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, Lineage, NodeId, SiteGeneration, SnapshotId, SnapshotSeq},
        limits,
    },
    cluster::{
        command::{Away, Removed},
        level::Level,
        operations::Progress,
        placement::Assignments,
        schedule::Schedule,
        sites::{Relay, Site, SiteState, Sites},
        snapshots::Part,
    },
};

/// What is known of the loss.
#[derive(Clone, Debug)]
pub struct Recovery<'a> {
    /// Names the recovery, as the uuid of a snapshot names a restore.
    pub id: SnapshotId,
    /// The nodes that are left, all of them members.
    pub survivors: &'a BTreeSet<NodeId>,
    /// The survivor with which each data group begins.
    pub holders: &'a BTreeMap<GroupId, NodeId>,
    /// The data groups that may lack entries which the lost nodes had.
    pub unsure: &'a BTreeSet<GroupId>,
    /// The newest mark in any replica that is left.
    pub mark: SnapshotSeq,
    /// Milliseconds since 1970, for people.
    pub at_ms: u64,
}

impl State {
    pub fn recovered(mut self, recovery: &Recovery<'_>) -> Result<State> {
        self.lose_nodes(recovery);
        self.end_snapshots(recovery);
        let (sites, site_generations) = self.sites_added_again(recovery)?;
        let begun = self.settings.begun.max(recovery.mark);
        self.sites = sites;
        self.settings = Settings {
            lineage: Lineage::PENDING,
            restored_from: Some(recovery.id),
            begun,
            resolved: begun,
            site_generations,
            ..self.settings
        };
        self.settings.check()?;
        // A group stays where its rows are, as far as that leaves every node its share.
        let kept: Assignments = self
            .assignments
            .iter()
            .map(|(group, nodes)| {
                let holder = recovery.holders.get(group);
                let others = nodes.iter().filter(|node| Some(*node) != holder);
                (*group, holder.into_iter().chain(others).copied().collect())
            })
            .collect();
        self.assignments = self.placed(&kept, &Away::new());
        self.check()?;
        Ok(self)
    }

    /// The lost nodes are remembered as removed, and none of the others leaves. A cluster at a
    /// level without removals only forgets them; their history keeps them out there as well.
    fn lose_nodes(&mut self, recovery: &Recovery<'_>) {
        let lost: Vec<NodeId> =
            self.nodes.keys().copied().filter(|id| !recovery.survivors.contains(id)).collect();
        for id in lost {
            let Some(node) = self.nodes.remove(&id) else { continue };
            if self.settings.level >= Level::DEPARTURE {
                let (address, removed_ms) = (node.address, recovery.at_ms);
                let lost = Removed { id, address, removed_ms, decommissioned: false };
                self.removed.insert(id, lost);
            }
            for snapshot in self.snapshots.values_mut() {
                if snapshot.parts.get(&id).is_some_and(|part| !part.is_final()) {
                    snapshot.report(&Part::missing(id, "the node was lost"));
                }
            }
        }
        for node in self.nodes.values_mut() {
            (node.leaving, node.draining, node.certificate_name) = (false, false, None);
        }
        for running in self.operations.values_mut().filter(|o| o.is_running()) {
            (running.progress, running.ended_ms) = (Progress::Cancelled, recovery.at_ms);
        }
    }

    /// Deletions go on with the nodes that are left, if any of them has something to delete.
    fn end_snapshots(&mut self, recovery: &Recovery<'_>) {
        let why = format!("most nodes were lost while it was taken (recovery {})", recovery.id);
        for snapshot in self.snapshots.values_mut() {
            snapshot.abort(&why);
        }
        self.schedules.values_mut().for_each(Schedule::into_new_history);
        let gone: Vec<SnapshotSeq> = self
            .snapshots
            .values()
            .filter(|snapshot| snapshot.deleting.is_some() && self.is_gone(snapshot.seq))
            .map(|snapshot| snapshot.seq)
            .collect();
        for seq in gone {
            let id = self.snapshots[&seq].id;
            self.forget(seq, id, &mut super::Effects::default());
        }
    }

    fn sites_added_again(&self, recovery: &Recovery<'_>) -> Result<(Sites, SiteGeneration)> {
        let (topology, before) = (self.settings.topology, self.settings.site_generations);
        let mut newest = before.0.checked_add(limits::RECOVERY_GENERATIONS).ok_or_else(|| {
            Error::invalid("no number is left for the sites of a recovered cluster")
        })?;
        let mut sites = Vec::new();
        for (id, site) in self.sites.sites() {
            let unsure = recovery.unsure.contains(&topology.group_of_site(id));
            let again = unsure && site.state != SiteState::Removing;
            let site = if again {
                newest += 1;
                Site { state: SiteState::Adding, generation: SiteGeneration(newest) }
            } else {
                *site
            };
            sites.push((id.clone(), site));
        }
        let relays = self.sites.relays().iter();
        let relays = relays.map(|(id, site)| Relay { id: id.clone(), site: site.clone() });
        Ok((Sites::from_rows(sites, relays)?, SiteGeneration(newest)))
    }
}
