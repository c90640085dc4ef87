//! What a new cluster begins with that is made of a snapshot of another one.
//!
//! - It has an id of its own, and a history that has its name from the beginning. So no node of the
//!   old cluster, and none of another one that is made of the same snapshot, is ever taken for one
//!   of this, and no dot of the old history is minted again.
//! - Its nodes are those that begin with it, and hold everything: often one alone, which founds. Of
//!   the old nodes none is a member, and none was removed: that they are of another cluster keeps
//!   them out.
//! - No snapshot and no operation is known; they were about nodes that are not here. Snapshots are
//!   counted from the beginning, as the new logs are.
//! - Sites are as they were, in the lives that they had, since their groups' rows name those. One
//!   that was half added or removed is finished by the meta leader, as ever.
//! - Grants are as they were, and tokens are suspended, as after a restore. Schedules go on where
//!   a node of the new cluster has a repository, and no run of them is under way.
//! - Shape, replication factor and level are as they were. The level goes up as in any cluster.
//!
//! Some sites alone can be taken. Then the others are not there, nor are relays but those of these
//! sites.
//!
//! The same snapshot and the same `Seed` make the same state on every node. Where several nodes
//! begin, nothing else makes their replicas equal.
//!
//! Relies on the caller to bring the groups' rows, and to draw names that nobody else has.

use std::collections::BTreeMap;

use super::{Effects, State, settings::Settings};
use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, Lineage, SiteId, SnapshotId, SnapshotSeq},
        limits,
    },
    cluster::{
        access::Pattern,
        command::{Away, Node},
        level::Level,
        placement::Assignments,
        schedule::Schedule,
        sites::{Relay, Sites},
    },
};

/// What becomes of a snapshot.
#[derive(Clone, Debug)]
pub struct Seed<'a> {
    pub snapshot: SnapshotId,
    /// Of the new cluster.
    pub cluster: ClusterId,
    /// Of the new cluster, and not pending.
    pub lineage: Lineage,
    /// Those that begin with it, the founder first. Their lineage is that of the new history,
    /// whatever stands there.
    pub nodes: &'a [Node],
    /// The sites that are taken; all of them if there is no pattern.
    pub sites: &'a [Pattern],
}

/// What the new cluster does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub sites: Vec<SiteId>,
    pub relays: usize,
}

impl State {
    /// Of the state that was captured by a snapshot.
    pub fn seeded(self, seed: &Seed<'_>) -> Result<(State, LeftOut)> {
        self.captured_by(seed.snapshot)?;
        let (sites, left_out) = self.chosen(seed.sites)?;
        let named = self.settings.level >= Level::ACCESS;
        let nodes = seed.nodes.iter().map(|node| Node {
            lineage: seed.lineage,
            certificate_name: node.certificate_name.clone().filter(|_| named),
            ..node.clone()
        });
        let mut nodes = nodes.collect::<Vec<_>>().into_iter();
        let founder = nodes.next().ok_or_else(|| Error::invalid("no node begins"))?;
        founder.check()?;
        if self.settings.joins_need_token && nodes.len() > 0 {
            return Err(Error::conflict(
                "the cluster of the snapshot takes in machines by join token alone, and nodes that \
                 begin together have none: leave out --expect-nodes. Then one node founds, and the \
                 others join it by a token that is made there",
            ));
        }
        let none = SnapshotSeq(0);
        let settings = Settings {
            cluster: seed.cluster,
            lineage: seed.lineage,
            restored_from: Some(seed.snapshot),
            begun: none,
            resolved: none,
            deleted: Vec::new(),
            ..self.settings
        };
        let mut state = State {
            settings,
            nodes: BTreeMap::from([(founder.id, founder)]),
            sites,
            assignments: Assignments::new(),
            snapshots: BTreeMap::new(),
            removed: BTreeMap::new(),
            operations: BTreeMap::new(),
            access: self.access,
            schedules: self.schedules,
        };
        // As any node that joins, but for the places, which are those of nodes that come at once.
        for node in nodes {
            let id = node.id;
            let known = state.nodes.contains_key(&id);
            state.announce_node(&node, &mut Effects::default())?;
            if known {
                return Err(Error::conflict(format!("node {id} would begin twice")));
            }
        }
        state.schedules.values_mut().for_each(Schedule::into_new_history);
        state.assignments = state.placed(&Assignments::new(), &Away::new());
        state.settings.check()?;
        state.check()?;
        Ok((state, left_out))
    }

    fn chosen(&self, patterns: &[Pattern]) -> Result<(Sites, LeftOut)> {
        if patterns.is_empty() {
            return Ok((self.sites.clone(), LeftOut::default()));
        }
        let all = self.sites.sites();
        let fits = |site: &SiteId| patterns.iter().any(|pattern| pattern.fits(site.as_str()));
        if let Some(idle) =
            patterns.iter().find(|pattern| !all.keys().any(|site| pattern.fits(site.as_str())))
        {
            return Err(Error::invalid(format!(
                "no site of the snapshot is called {idle}; it has {}",
                listed(all.keys())
            )));
        }
        let (taken, others): (Vec<_>, Vec<_>) = all.iter().partition(|(site, _)| fits(site));
        let relays = self.sites.relays();
        let with_them: Vec<Relay> = relays
            .iter()
            .filter(|(_, site)| site.as_ref().is_some_and(fits))
            .map(|(id, site)| Relay { id: id.clone(), site: site.clone() })
            .collect();
        let left_out = LeftOut {
            sites: others.into_iter().map(|(site, _)| site.clone()).collect(),
            relays: relays.len() - with_them.len(),
        };
        let taken = taken.into_iter().map(|(site, how)| (site.clone(), *how));
        Ok((Sites::from_rows(taken, with_them)?, left_out))
    }
}

/// The first of some sites, and how many more there are.
pub fn listed<'a>(sites: impl ExactSizeIterator<Item = &'a SiteId>) -> String {
    let (count, shown) = (sites.len(), limits::STRANGERS_TOLD_MAX);
    let first: Vec<&str> = sites.take(shown).map(SiteId::as_str).collect();
    match count {
        0 => "no sites".to_owned(),
        _ if count > shown => format!("{} and {} more", first.join(", "), count - shown),
        _ => first.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::{
        base::{
            clock::Random,
            error::Kind,
            ids::{GroupId, NodeId, SiteGeneration, TokenId, Topology},
        },
        cluster::{
            access::{Grant, Purpose, Role, Token},
            command::{Command, Etag},
            sites::{Site, SiteState},
        },
    };

    fn cluster(n: u64) -> ClusterId {
        ClusterId(Random::seeded(n).uuid())
    }

    fn snapshot(n: u64) -> SnapshotId {
        SnapshotId(Random::seeded(n).uuid())
    }

    fn site(id: &str) -> SiteId {
        SiteId::new(id).unwrap()
    }

    fn node(id: u64, lineage: Lineage) -> Node {
        Node {
            id: NodeId(id),
            address: format!("node-{id}:1"),
            capacity_percent: 100,
            version: "1.0".into(),
            snapshot_store: true,
            lineage,
            level: Level::own(),
            leaving: false,
            draining: false,
            certificate_name: Some(format!("node-{id}.example")),
        }
    }

    const OLD: Lineage = Lineage(7);
    const NEW: Lineage = Lineage(9);

    fn relay(id: &str, site: Option<&str>) -> Command {
        let site = site.map(|id| SiteId::new(id).unwrap());
        Command::AddRelay(Relay { id: crate::base::ids::RelayId::new(id).unwrap(), site })
    }

    /// Three nodes and one that was removed, with a site in each stage, at a snapshot.
    fn captured() -> State {
        let topology = Topology::new(64, 8).unwrap();
        let settings = Settings::founding(cluster(1), OLD, 3, topology).unwrap();
        let mut state = State::found(settings, node(1, OLD)).unwrap();
        let any = Pattern::any;
        let token = Token {
            id: TokenId(5),
            name: "nightly".into(),
            purpose: Purpose::Calls { role: Role::Backup, sites: any(), digest: [1; 32] },
            created_ms: 1,
            expires_ms: 2,
            lineage: OLD,
        };
        let grant = Grant { identity: any(), role: Role::Reader, sites: any() };
        let added = |id: &str, generation| Command::SiteAdded {
            site: site(id),
            generation: SiteGeneration(generation),
        };
        for command in [
            Command::AnnounceNode(node(2, OLD)),
            Command::AnnounceNode(node(3, OLD)),
            Command::AnnounceNode(node(4, OLD)),
            Command::AddSite(site("shop-1")),
            added("shop-1", 1),
            Command::AddSite(site("shop-2")),
            added("shop-2", 2),
            Command::AddSite(site("yard")),
            added("yard", 3),
            Command::AddSite(site("half")),
            relay("of-shop", Some("shop-1")),
            relay("of-yard", Some("yard")),
            relay("of-nobody", None),
            Command::RemoveSite(site("shop-2")),
            Command::AddGrant(grant),
            Command::CreateToken(token),
            Command::BeginSnapshot { id: snapshot(1), created_ms: 0 },
            Command::SealSnapshot { seq: SnapshotSeq(1) },
        ] {
            state.apply(&command).reply.unwrap();
        }
        let seen: Etag = state.etag();
        let remove = Command::RemoveNode {
            node: NodeId(4),
            removed_ms: 1,
            seen,
            by: None,
            away: Away::new(),
        };
        state.apply(&remove).reply.unwrap();
        state.apply(&Command::BeginSnapshot { id: snapshot(2), created_ms: 0 }).reply.unwrap();
        assert_eq!((state.nodes().len(), state.removed().len()), (3, 1));
        state
    }

    static FOUNDER: LazyLock<[Node; 1]> = LazyLock::new(|| [node(11, NEW)]);

    fn seed(sites: &[Pattern]) -> Seed<'_> {
        Seed { snapshot: snapshot(2), cluster: cluster(2), lineage: NEW, nodes: &*FOUNDER, sites }
    }

    #[test]
    fn a_seeded_cluster_has_the_sites_and_nothing_that_was_about_the_old_nodes() {
        let before = captured();
        let (state, left_out) = before.clone().seeded(&seed(&[])).unwrap();
        assert_eq!(left_out, LeftOut::default());
        let settings = state.settings();
        assert_eq!((settings.cluster, settings.lineage), (cluster(2), NEW));
        assert_eq!(settings.restored_from, Some(snapshot(2)));
        assert_eq!((settings.begun, settings.resolved), (SnapshotSeq(0), SnapshotSeq(0)));
        assert_eq!(settings.site_generations, SiteGeneration(4), "no life of a site comes twice");
        assert_eq!(settings.replication_factor, 3);
        assert_eq!(state.nodes().keys().collect::<Vec<_>>(), [&NodeId(11)]);
        assert!(state.removed().is_empty() && state.snapshots().is_empty());
        assert!(state.operations().is_empty());
        let groups = settings.topology.group_ids().chain([GroupId::META]);
        for group in groups {
            assert_eq!(state.assignments()[&group], [NodeId(11)]);
        }
        assert_eq!(state.sites().sites(), before.sites().sites());
        assert_eq!(state.sites().relays(), before.sites().relays());
        let unfinished: Vec<_> =
            state.unfinished_sites(9).into_iter().map(|(id, how)| (id, how.state)).collect();
        assert_eq!(
            unfinished,
            [(site("half"), SiteState::Adding), (site("shop-2"), SiteState::Removing)]
        );
        assert_eq!(state.access().grants(), before.access().grants());
        let token = &state.access().tokens()[&TokenId(5)];
        assert_ne!(token.lineage, settings.lineage, "it is suspended");
        let nothing = snapshot(3);
        let e = before.seeded(&Seed { snapshot: nothing, ..seed(&[]) }).unwrap_err();
        assert_eq!(e.kind, Kind::Corrupt, "{e}");
    }

    #[test]
    fn nodes_that_begin_together_share_everything_and_whoever_computes_it_comes_to_the_same() {
        let nodes = [11, 3, 7, 20].map(|id| node(id, OLD));
        let begun = || captured().seeded(&Seed { nodes: &nodes, ..seed(&[]) }).unwrap().0;
        let state = begun();
        assert_eq!(state, begun());
        assert_eq!(state.nodes().len(), 4);
        assert!(state.nodes().values().all(|node| node.lineage == NEW));
        let mut shares = BTreeMap::<NodeId, usize>::new();
        for group in state.settings().topology.group_ids() {
            let voters = &state.assignments()[&group];
            assert_eq!(voters.len(), 3, "{group}");
            voters.iter().for_each(|node| *shares.entry(*node).or_default() += 1);
        }
        assert!(shares.len() == 4 && shares.values().all(|share| *share == 6), "{shares:?}");
        let meta = state.wanted(GroupId::META);
        assert_eq!(meta.voters.len() + meta.learners.len(), 4, "all follow it");

        let refused = |nodes: &[Node], captured: State, says: &str| {
            let e = captured.seeded(&Seed { nodes, ..seed(&[]) }).unwrap_err();
            assert!(e.message.contains(says), "{e}");
        };
        refused(&[], captured(), "no node begins");
        refused(
            &[node(3, NEW), node(4, NEW), node(3, NEW)],
            captured(),
            "node 3 would begin twice",
        );
        let mut strict = captured();
        strict.apply(&Command::SetJoins { need_token: true }).reply.unwrap();
        refused(&nodes, strict.clone(), "leave out --expect-nodes");
        strict.seeded(&seed(&[])).unwrap();
    }

    #[test]
    fn sites_that_are_not_taken_are_left_out_with_their_relays() {
        let patterns = ["shop-*", "half"].map(|text| Pattern::new(text).unwrap());
        let (state, left_out) = captured().seeded(&seed(&patterns)).unwrap();
        let there: Vec<_> = state.sites().sites().keys().map(SiteId::as_str).collect();
        assert_eq!(there, ["half", "shop-1", "shop-2"]);
        assert_eq!(left_out, LeftOut { sites: vec![site("yard")], relays: 2 });
        assert_eq!(state.sites().relays().len(), 1);
        // The next site is newer than any that the groups' rows know.
        let mut state = state;
        state.apply(&Command::AddSite(site("yard"))).reply.unwrap();
        let yard = Site { state: SiteState::Adding, generation: SiteGeneration(5) };
        assert_eq!(state.sites().site(&site("yard")), Some(yard));

        let typo = [Pattern::new("shop-*").unwrap(), Pattern::new("yrad").unwrap()];
        let e = captured().seeded(&seed(&typo)).unwrap_err();
        assert_eq!(
            (e.kind, e.message.as_str()),
            (
                Kind::Invalid,
                "no site of the snapshot is called yrad; it has half, shop-1, shop-2, yard"
            )
        );
    }
}
