//! What works now, what one more loss would stop, and what one return would bring back: sentences
//! for whoever is called at night, from who votes in which groups and which nodes answer.
//!
//! - A group works while an answering node leads it and a majority of its voters answers. Without a
//!   majority it cannot work. With one and no leader it is about to elect one, or its voters do not
//!   reach each other.
//! - A node is critical when the loss of it alone would take the majority of a group that has one.
//!   Nodes that would stop the same are named together, the worst first.
//! - "Stop" means: the sites of those groups take neither reads nor writes, but for stale reads. Of
//!   the meta group it means that no node, site, relay or snapshot can be added or removed.
//!
//! Pure, and about votes only: it does not say whether a lost disk held the last copy of anything,
//! nor how long a node that has come back needs to catch up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::Serialize;

use crate::{base::limits, proto::v1};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// What works now.
    pub now: String,
    /// What the loss of one more node would stop.
    pub one_more_loss: String,
    /// What would work again if one node came back; empty where every group has its majority.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub one_return: String,
    pub groups_working: u32,
    pub meta_works: bool,
    /// The nodes whose loss would stop something. Ids are text, as everywhere in documents.
    #[serde(rename = "critical_node_ids")]
    pub critical_nodes: Vec<String>,
}

/// Groups that work, wait or stop together; `meta` counts the meta group, the others are data
/// groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Share {
    groups: u32,
    meta: u32,
}

/// Groups by what they can do.
#[derive(Debug, Default)]
struct Standing {
    all: Share,
    working: Share,
    /// A majority of their voters does not answer.
    without_majority: Share,
    without_leader: Share,
}

impl Outlook {
    pub fn of(seen: &v1::GetOverviewResponse) -> Outlook {
        let answering: BTreeSet<u64> =
            seen.nodes.iter().filter(|n| n.reachable).map(|n| n.id).collect();
        let standing = Standing::of(&seen.voter_sets, &answering);
        if standing.all == Share::default() {
            return Outlook {
                now: "It is not known which groups work: no node that was asked knows them.".into(),
                ..Outlook::default()
            };
        }
        let losses = changes(&seen.voter_sets, &answering, Change::Loss);
        let returns = changes(&seen.voter_sets, &answering, Change::Return);
        let addresses: BTreeMap<u64, &str> =
            seen.nodes.iter().map(|n| (n.id, n.address.as_str())).collect();
        let names = Names { addresses, all: standing.all };
        let silent = seen.nodes.iter().any(|node| !node.reachable);
        Outlook {
            now: standing.now(),
            one_more_loss: names.one_more_loss(&losses, &standing, answering.len(), silent),
            one_return: names.one_return(&returns, &standing),
            groups_working: standing.working.groups,
            meta_works: standing.working.meta > 0,
            critical_nodes: losses.values().flatten().map(u64::to_string).collect(),
        }
    }

    /// A line for each sentence.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        let all = [&self.now, &self.one_more_loss, &self.one_return];
        all.into_iter().map(String::as_str).filter(|line| !line.is_empty())
    }
}

impl Standing {
    fn of(sets: &[v1::VoterSet], answering: &BTreeSet<u64>) -> Standing {
        let mut standing = Standing::default();
        for set in sets {
            let led = set.groups_led.min(set.groups);
            standing.all.add(set, set.groups);
            if present(set, answering) < majority(set) {
                standing.without_majority.add(set, set.groups);
            } else {
                standing.working.add(set, led);
                standing.without_leader.add(set, set.groups - led);
            }
        }
        standing
    }

    fn now(&self) -> String {
        let all = self.all.groups;
        let mut said = match self.working.groups {
            n if n == all && all == 1 => "The one group takes reads and writes".to_owned(),
            n if n == all => format!("All {all} groups take reads and writes"),
            0 => "No group takes reads or writes".to_owned(),
            n => format!("{n} of {all} groups take reads and writes"),
        };
        let why = [
            (self.without_majority.groups, "without a majority of their voters"),
            (self.without_leader.groups, "without a leader"),
        ];
        let why: Vec<String> =
            why.iter().filter(|(n, _)| *n > 0).map(|(n, how)| format!("{n} {how}")).collect();
        if !why.is_empty() {
            said += &format!(" ({})", why.join(", "));
        }
        said += ", and nodes, sites and snapshots ";
        said += match self {
            Standing { working: Share { meta: 1.., .. }, .. } => "can change.",
            Standing { without_majority: Share { meta: 1.., .. }, .. } => {
                "cannot change (the meta group is without a majority of its voters)."
            }
            _ => "cannot change (the meta group is without a leader).",
        };
        said
    }
}

impl Share {
    fn add(&mut self, set: &v1::VoterSet, groups: u32) {
        if set.meta {
            self.meta += groups;
        } else {
            self.groups += groups;
        }
    }
}

fn present(set: &v1::VoterSet, answering: &BTreeSet<u64>) -> usize {
    set.voters.iter().filter(|n| answering.contains(n)).count()
}

fn majority(set: &v1::VoterSet) -> usize {
    set.voters.len() / 2 + 1
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A node that answers is lost.
    Loss,
    /// A node that does not answer comes back.
    Return,
}

/// The nodes of which each alone would change something, by what that is, the most first.
fn changes(
    sets: &[v1::VoterSet],
    answering: &BTreeSet<u64>,
    change: Change,
) -> BTreeMap<Reverse<Share>, Vec<u64>> {
    let mut by_node: BTreeMap<u64, Share> = BTreeMap::new();
    for set in sets {
        let (present, majority) = (present(set, answering), majority(set));
        let turns = match change {
            Change::Loss => present == majority,
            Change::Return => present + 1 == majority,
        };
        let who = set.voters.iter().filter(|n| answering.contains(n) == (change == Change::Loss));
        if turns {
            who.for_each(|node| by_node.entry(*node).or_default().add(set, set.groups));
        }
    }
    let mut by_share: BTreeMap<Reverse<Share>, Vec<u64>> = BTreeMap::new();
    for (node, share) in by_node {
        by_share.entry(Reverse(share)).or_default().push(node);
    }
    by_share
}

/// What the sentences call nodes and groups.
struct Names<'a> {
    addresses: BTreeMap<u64, &'a str>,
    all: Share,
}

impl Names<'_> {
    fn one_more_loss(
        &self,
        losses: &BTreeMap<Reverse<Share>, Vec<u64>>,
        standing: &Standing,
        answering: usize,
        silent: bool,
    ) -> String {
        let critical: usize = losses.values().map(Vec::len).sum();
        if critical == 0 {
            if standing.without_majority == standing.all {
                return "No further loss can stop anything.".into();
            }
            return match (standing.working == Share::default(), silent) {
                (true, _) => "Any one node may be lost, and each majority stays one.".into(),
                (false, false) => "Any one node may be lost, and nothing stops.".into(),
                (false, true) => "Any one more node may be lost, and nothing else stops.".into(),
            };
        }
        let too = if silent { " too" } else { "" };
        let clauses = losses.iter().take(limits::CTL_OUTLOOK_CLAUSES).map(|(share, nodes)| {
            let verb = if share.0.is_one() { "stops" } else { "stop" };
            format!("if {} is lost{too}, {} {verb}", self.nodes(nodes), self.share(share.0))
        });
        let mut said = sentence(&clauses.collect::<Vec<_>>().join("; "));
        let unnamed: usize = losses.values().skip(limits::CTL_OUTLOOK_CLAUSES).map(Vec::len).sum();
        if unnamed > 0 {
            said += &format!(" The loss of one of {unnamed} others stops less.");
        }
        if critical < answering {
            said += " Any other node may be lost, and nothing else stops.";
        }
        said
    }

    fn one_return(
        &self,
        returns: &BTreeMap<Reverse<Share>, Vec<u64>>,
        standing: &Standing,
    ) -> String {
        if standing.without_majority == Share::default() {
            return String::new();
        }
        if returns.is_empty() {
            return "No single node brings a majority back: start several.".into();
        }
        let clauses = returns.iter().take(limits::CTL_OUTLOOK_CLAUSES).map(|(share, nodes)| {
            let verb = if share.0.is_one() { "works" } else { "work" };
            format!("when {} is back, {} {verb} again", self.nodes(nodes), self.share(share.0))
        });
        sentence(&clauses.collect::<Vec<_>>().join("; "))
    }

    fn nodes(&self, nodes: &[u64]) -> String {
        let shown = nodes.iter().take(limits::CTL_OUTLOOK_NODES);
        let mut names: Vec<String> = shown
            .map(|id| match self.addresses.get(id) {
                Some(address) => format!("node {id} ({address})"),
                None => format!("node {id}"),
            })
            .collect();
        let left = nodes.len() - names.len();
        if left > 0 {
            names.push(format!("one of {left} others"));
        }
        let last = names.pop().unwrap_or_default();
        if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) }
    }

    fn share(&self, share: Share) -> String {
        let all = self.all.groups;
        let groups = match share.groups {
            0 => return "the meta group".into(),
            n if n == all && all == 1 => "the one group".to_owned(),
            n if n == all => format!("all {all} groups"),
            n => format!("{n} of {all} groups"),
        };
        if share.meta > 0 { groups + " and the meta group" } else { groups }
    }
}

impl Share {
    /// Whether its name is in the singular.
    fn is_one(self) -> bool {
        self.groups + self.meta == 1
    }
}

fn sentence(clauses: &str) -> String {
    let mut letters = clauses.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(std::iter::once('.')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes 1 to `nodes`; those in `silent` do not answer. A set: voters, groups, groups led; the
    /// first one is the meta group's.
    fn told(nodes: u64, silent: &[u64], sets: &[(&[u64], u32, u32)]) -> String {
        let node = |id: u64| v1::Node {
            id,
            address: format!("10.0.0.{id}:8080"),
            reachable: !silent.contains(&id),
            ..v1::Node::default()
        };
        let set = |(number, (voters, groups, led)): (usize, &(&[u64], u32, u32))| v1::VoterSet {
            voters: voters.to_vec(),
            groups: *groups,
            groups_led: *led,
            meta: number == 0,
        };
        let outlook = Outlook::of(&v1::GetOverviewResponse {
            nodes: (1..=nodes).map(node).collect(),
            voter_sets: sets.iter().enumerate().map(set).collect(),
            ..Default::default()
        });
        let mut story = String::new();
        outlook.lines().for_each(|line| story += &format!("  {line}\n"));
        let critical = outlook.critical_nodes.join(" ");
        let (groups, meta) = (outlook.groups_working, outlook.meta_works);
        story + &format!("  = {groups} groups work, meta {meta}, critical: {critical}\n\n")
    }

    /// Five nodes, three replicas: a meta group of five, and ten sets of data groups.
    fn spread(led: bool) -> Vec<(&'static [u64], u32, u32)> {
        let trios: [&[u64]; 10] = [
            &[1, 2, 3],
            &[1, 2, 4],
            &[1, 2, 5],
            &[1, 3, 4],
            &[1, 3, 5],
            &[1, 4, 5],
            &[2, 3, 4],
            &[2, 3, 5],
            &[2, 4, 5],
            &[3, 4, 5],
        ];
        let sets = trios.into_iter().enumerate().map(|(nth, trio)| {
            let groups = 6 + u32::from(nth < 4);
            (trio, groups, if led { groups } else { 0 })
        });
        std::iter::once((&[1, 2, 3, 4, 5][..], 1, u32::from(led))).chain(sets).collect()
    }

    #[test]
    fn voters_and_answers_make_sentences() {
        let three: &[(&[u64], u32, u32)] = &[(&[1, 2, 3], 1, 1), (&[1, 2, 3], 64, 64)];
        let leaderless: &[(&[u64], u32, u32)] = &[(&[1, 2, 3], 1, 0), (&[1, 2, 3], 64, 0)];
        let single: &[(&[u64], u32, u32)] =
            &[(&[1, 2, 3], 1, 1), (&[1], 22, 22), (&[2], 21, 21), (&[3], 21, 21)];
        let repaired: &[(&[u64], u32, u32)] = &[(&[1, 2, 3], 1, 1), (&[1, 2, 3], 64, 64)];
        let mut unled = spread(true);
        unled[0].2 = 0;
        unled[3].2 -= 2;
        let one = [(&[1][..], 1, 1), (&[1][..], 64, 64)];
        let smallest = [(&[1][..], 1, 1), (&[1][..], 1, 1)];
        let two = [(&[1, 2][..], 1, 1), (&[1, 2][..], 64, 64)];
        let stranger = [(&[1, 2, 9][..], 1, 1), (&[1, 2, 9][..], 8, 8)];
        let all = &[1, 2, 3, 4, 5, 6, 7][..];
        let wide = [(all, 1, 1), (all, 8, 8)];
        let story = [
            ("one node", told(1, &[], &one)),
            ("one node that does not answer whoever was asked", told(1, &[1], &one)),
            ("one node with one group", told(1, &[], &smallest)),
            ("two nodes", told(2, &[], &two)),
            ("two nodes, one is lost", told(2, &[2], &[(&[1, 2], 1, 0), (&[1, 2], 64, 0)])),
            ("three nodes", told(3, &[], three)),
            ("three nodes, one is lost", told(3, &[3], three)),
            ("three nodes, two are lost", told(3, &[2, 3], leaderless)),
            ("three nodes, two are lost a moment ago", told(3, &[2, 3], three)),
            ("three nodes, all answer, none leads", told(3, &[], leaderless)),
            ("three nodes, one replica", told(3, &[], single)),
            ("three nodes, one replica, one node is lost", told(3, &[3], &single_lost())),
            ("a fourth node after a lost disk", told(4, &[3], repaired)),
            ("five nodes", told(5, &[], &spread(true))),
            ("five nodes, one is lost", told(5, &[5], &spread(true))),
            ("five nodes, two are lost", told(5, &[4, 5], &spread(true))),
            ("five nodes, three are lost", told(5, &[3, 4, 5], &spread(false))),
            ("five nodes, all are lost but one", told(5, &[2, 3, 4, 5], &spread(false))),
            ("five nodes, meta and two groups elect", told(5, &[], &unled)),
            ("a voter that the registry does not know", told(2, &[], &stranger)),
            ("seven nodes in one set, two are lost", told(7, &[1, 2], &wide)),
            ("seven nodes in one set, three are lost", told(7, &[1, 2, 3], &wide)),
            ("seven nodes in one set, four are lost", told(7, &[1, 2, 3, 4], &wide)),
            ("many critical nodes", told(7, &[], &many())),
            ("nothing is known", told(1, &[], &[])),
        ];
        let story: String =
            story.into_iter().map(|(name, told)| format!("{name}:\n{told}")).collect();
        crate::ctl::golden::check("outlook.txt", &story);
    }

    fn single_lost() -> [(&'static [u64], u32, u32); 4] {
        [(&[1, 2, 3], 1, 1), (&[1], 22, 22), (&[2], 21, 21), (&[3], 21, 0)]
    }

    /// One replica each, of more groups from node to node.
    fn many() -> Vec<(&'static [u64], u32, u32)> {
        let nodes: [&[u64]; 6] = [&[1], &[2], &[3], &[4], &[5], &[6]];
        let sets = nodes.into_iter().zip(1..).map(|(node, groups)| (node, groups, groups));
        std::iter::once((&[1, 2, 3, 4, 5, 6, 7][..], 1, 1)).chain(sets).collect()
    }

    #[test]
    fn whoever_is_not_critical_may_be_lost_and_whoever_is_may_not() {
        let sets = spread(true);
        let works = |answering: &BTreeSet<u64>, sets: &[v1::VoterSet]| {
            Standing::of(sets, answering).working
        };
        let sets: Vec<v1::VoterSet> = sets
            .iter()
            .enumerate()
            .map(|(nth, (voters, groups, led))| v1::VoterSet {
                voters: voters.to_vec(),
                groups: *groups,
                groups_led: *led,
                meta: nth == 0,
            })
            .collect();
        for bits in 0..32u32 {
            let answering: BTreeSet<u64> = (1..=5).filter(|n| bits >> (n - 1) & 1 == 1).collect();
            let before = works(&answering, &sets);
            let losses = changes(&sets, &answering, Change::Loss);
            for node in &answering {
                let mut without = answering.clone();
                without.remove(node);
                let after = works(&without, &sets);
                let stopped =
                    Share { groups: before.groups - after.groups, meta: before.meta - after.meta };
                let said = losses.iter().find(|(_, nodes)| nodes.contains(node));
                assert_eq!(said.map_or(Share::default(), |(share, _)| share.0), stopped);
            }
        }
    }
}
