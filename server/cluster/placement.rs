//! Which nodes should hold which group: evenly, and with as few moves as possible.
//!
//! A node's share of all replicas is proportional to its capacity, but no node holds a group twice:
//! what its share exceeds that by goes to the others. Every node gets its share rounded down or up,
//! and nodes that have more already are the ones rounded up. Then only what is missing or above the
//! share moves. A move that cannot be made directly goes through other nodes, along the cheapest
//! chain.
//!
//! A group's preferred leader stands first in its list. Every node is preferred by its share of the
//! groups, again rounded down or up: a flow with integral bounds has an integral solution, and
//! leaderships move along the shortest path towards it.
//!
//! Relies on the caller for which nodes count. Does not know which of them are alive, nor how
//! members change: see `reconfigure`. It is greedy where a minimum cost flow would be exact; the
//! tests hold it to the exact minimum of moves where capacities are equal, and to a few more where
//! they are not.

mod drained;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

pub use drained::give_nothing;

use crate::{
    base::{
        ids::{GroupId, NodeId},
        limits,
    },
    faults::mutation::{Mutation, mutated},
};

/// The nodes that should hold each group, preferred leader first.
pub type Assignments = BTreeMap<GroupId, Vec<NodeId>>;

/// Places all data groups, starting from where they are.
///
/// - Every group gets min(replication factor, nodes with capacity) different nodes.
/// - A node of capacity 0 holds nothing, unless there are no others: data must be somewhere.
/// - Without nodes everything stays where it was.
pub fn place(
    capacities: &BTreeMap<NodeId, u32>,
    old: &Assignments,
    groups: impl Iterator<Item = GroupId>,
    replication_factor: u32,
) -> Assignments {
    let weights = weights(capacities);
    if weights.is_empty() {
        return old.clone();
    }
    let mut draft = Draft::keep(weights, old, groups, replication_factor);
    draft.fill();
    draft.level();
    let leaders = Leaders::keep(&draft, old).balanced();
    draft
        .replicas
        .iter()
        .map(|(group, replicas)| (*group, ordered(replicas, leaders[group], old.get(group))))
        .collect()
}

/// The nodes to place on: all that are not away, and of those that are as many as it takes to have
/// a node with capacity for each replica of a group, first those that hold most.
pub fn living(
    mut capacities: BTreeMap<NodeId, u32>,
    away: &BTreeSet<NodeId>,
    old: &Assignments,
    replication_factor: u32,
) -> BTreeMap<NodeId, u32> {
    let held = |node: &NodeId| old.values().filter(|nodes| nodes.contains(node)).count();
    let able = |capacities: &BTreeMap<NodeId, u32>| capacities.values().filter(|c| **c > 0).count();
    let mut gone: Vec<NodeId> =
        capacities.keys().copied().filter(|node| away.contains(node)).collect();
    gone.sort_by_key(|node| (held(node), Reverse(*node)));
    if mutated(Mutation::CountsTheDead) {
        return capacities;
    }
    for node in gone {
        let percent = capacities[&node];
        if percent == 0 || able(&capacities) > replication_factor as usize {
            capacities.remove(&node);
        }
    }
    capacities
}

/// The meta group's voters: those that are, as long as they have capacity, then the lowest ids. An
/// odd number, since one more to make it even would have to agree without anybody being spared; but
/// two of two, so that no single disk holds what was acknowledged.
pub fn meta_voters(capacities: &BTreeMap<NodeId, u32>, old: &[NodeId]) -> Vec<NodeId> {
    let weights = weights(capacities);
    let most = weights.len().min(limits::META_VOTERS_MAX);
    let wanted = if most > 2 && most.is_multiple_of(2) { most - 1 } else { most };
    let mut voters: Vec<NodeId> =
        old.iter().copied().filter(|n| weights.contains_key(n)).take(wanted).collect();
    let others: Vec<NodeId> = weights.keys().copied().filter(|n| !voters.contains(n)).collect();
    voters.extend(others.into_iter().take(wanted - voters.len()));
    voters
}

/// The nodes that may hold something.
fn weights(capacities: &BTreeMap<NodeId, u32>) -> BTreeMap<NodeId, u64> {
    let with_capacity: BTreeMap<NodeId, u64> =
        capacities.iter().filter(|(_, c)| **c > 0).map(|(n, c)| (*n, u64::from(*c))).collect();
    if with_capacity.is_empty() {
        capacities.keys().map(|n| (*n, 1)).collect()
    } else {
        with_capacity
    }
}

/// The leader, then those that were there in their old order, then the new ones.
fn ordered(replicas: &BTreeSet<NodeId>, leader: NodeId, old: Option<&Vec<NodeId>>) -> Vec<NodeId> {
    let mut list = vec![leader];
    for node in old.into_iter().flatten().chain(replicas) {
        if replicas.contains(node) && !list.contains(node) {
            list.push(*node);
        }
    }
    list
}

/// Replica sets on their way from the old ones to the ones that meet every quota.
struct Draft<'a> {
    old: &'a Assignments,
    copies: usize,
    replicas: BTreeMap<GroupId, BTreeSet<NodeId>>,
    held: BTreeMap<NodeId, BTreeSet<GroupId>>,
    /// The groups that each node holds now and did not hold before.
    fresh: BTreeMap<NodeId, BTreeSet<GroupId>>,
    quota: BTreeMap<NodeId, usize>,
    /// The fewest and the most groups that each node should lead.
    leads: BTreeMap<NodeId, (usize, usize)>,
}

impl Draft<'_> {
    /// What can stay where it is, and the quotas.
    fn keep(
        weights: BTreeMap<NodeId, u64>,
        old: &Assignments,
        groups: impl Iterator<Item = GroupId>,
        replication_factor: u32,
    ) -> Draft<'_> {
        let copies = weights.len().min(replication_factor as usize);
        let kept = |g: GroupId| {
            old.get(&g).into_iter().flatten().copied().filter(|n| weights.contains_key(n)).collect()
        };
        let replicas: BTreeMap<GroupId, BTreeSet<NodeId>> = groups.map(|g| (g, kept(g))).collect();
        let held: BTreeMap<NodeId, BTreeSet<GroupId>> =
            weights.keys().map(|n| (*n, BTreeSet::new())).collect();
        let mut draft = Draft {
            old,
            copies,
            replicas: BTreeMap::new(),
            fresh: held.clone(),
            held,
            quota: BTreeMap::new(),
            leads: BTreeMap::new(),
        };
        for (group, nodes) in replicas {
            draft.replicas.insert(group, BTreeSet::new());
            nodes.into_iter().for_each(|node| draft.add(group, node));
        }
        let shares = Shares::of(&weights, draft.replicas.len(), copies);
        draft.trim(&shares);
        draft.quota = shares.quotas(|n| draft.held[&n].len());
        draft.leads = shares
            .shares
            .keys()
            .map(|n| (*n, (shares.floor(*n) / copies, shares.ceil(*n).div_ceil(copies))))
            .collect();
        draft
    }

    fn add(&mut self, group: GroupId, node: NodeId) {
        self.replicas.entry(group).or_default().insert(node);
        self.held.entry(node).or_default().insert(group);
        if !self.stays(group, node) {
            self.fresh.entry(node).or_default().insert(group);
        }
    }

    fn drop(&mut self, group: GroupId, node: NodeId) {
        self.replicas.entry(group).or_default().remove(&node);
        self.held.entry(node).or_default().remove(&group);
        self.fresh.entry(node).or_default().remove(&group);
    }

    fn shift(&mut self, group: GroupId, from: NodeId, to: NodeId) {
        self.drop(group, from);
        self.add(group, to);
    }

    /// Groups with more copies than wanted lose them where there is most above the share.
    fn trim(&mut self, shares: &Shares) {
        let groups: Vec<GroupId> = self.replicas.keys().copied().collect();
        for group in groups {
            while self.replicas[&group].len() > self.copies {
                let above = |n: &NodeId| self.held[n].len() as i64 - shares.floor(*n) as i64;
                let most = *self.replicas[&group]
                    .iter()
                    .max_by_key(|n| above(n))
                    .expect("it has more copies than wanted, so it has one");
                self.drop(group, most);
            }
        }
    }

    fn missing(&self, node: NodeId) -> i64 {
        self.quota[&node] as i64 - self.held[&node].len() as i64
    }

    /// The node that misses most among those that miss any; the lowest id of equals.
    fn neediest(&self, may: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let needy = self.quota.keys().copied().filter(|n| self.missing(*n) > 0 && may(*n));
        needy.min_by_key(|n| (-self.missing(*n), *n))
    }

    /// Gives every group as many copies as wanted: directly as long as that is possible, then along
    /// chains.
    fn fill(&mut self) {
        let groups: Vec<GroupId> = self.replicas.keys().copied().collect();
        for group in &groups {
            while self.replicas[group].len() < self.copies {
                let Some(node) = self.neediest(|n| !self.replicas[group].contains(&n)) else {
                    break;
                };
                self.add(*group, node);
            }
        }
        for group in groups {
            while self.replicas[&group].len() < self.copies {
                let starts = self
                    .held
                    .keys()
                    .copied()
                    .filter(|n| !self.replicas[&group].contains(n))
                    .collect();
                let node = self.make_room(starts);
                self.add(group, node);
            }
        }
    }

    /// Moves what nodes hold above their quota to those that hold less.
    fn level(&mut self) {
        while let Some(to) = self.neediest(|_| true) {
            let mut givers: Vec<NodeId> =
                self.quota.keys().copied().filter(|n| self.missing(*n) < 0).collect();
            givers.sort_by_key(|n| (self.missing(*n), *n));
            match givers.iter().find_map(|from| Some((self.movable(*from, to)?, *from))) {
                Some((group, from)) => self.shift(group, from, to),
                None => drop(self.make_room(givers)),
            }
        }
    }

    /// A group that one node holds and the other does not. One that moves anyway costs nothing, so
    /// it goes first; one that the node leads goes last.
    fn movable(&self, from: NodeId, to: NodeId) -> Option<GroupId> {
        let led = |g: &GroupId| self.old.get(g).and_then(|old| old.first()) == Some(&from);
        let fresh = || self.fresh[&from].difference(&self.held[&to]);
        let any = || self.held[&from].difference(&self.held[&to]);
        fresh().next().or_else(|| any().find(|g| !led(g))).or_else(|| any().next()).copied()
    }

    fn stays(&self, group: GroupId, node: NodeId) -> bool {
        self.old.get(&group).is_some_and(|old| old.contains(&node))
    }

    /// Takes one replica from one of these nodes, and gives one to a node that misses one, along
    /// the cheapest chain of moves. Which node has room now.
    ///
    /// There is always a chain, of two moves at most. Let d be who misses one. It does not hold
    /// every group; a group that it does not hold is complete, or it would have been given that. A
    /// group that looks for room has fewer holders than that one, d among them, so somebody holds
    /// that one and not the other, and can pass it to d. And where one who gives holds only what d
    /// holds: of its groups' holders two are itself and d, so not all holders of the group that d
    /// lacks hold them; one who does not takes the one and passes on the other.
    fn make_room(&mut self, starts: Vec<NodeId>) -> NodeId {
        let (costs, came) = self.cheapest(&starts);
        let ends = costs.iter().filter(|(n, _)| self.missing(**n) > 0);
        let (_, end) = ends
            .map(|(n, cost)| (*cost, *n))
            .min()
            .expect("a chain leads to a node that misses a replica");
        let mut at = end;
        while let Some((from, group)) = came.get(&at) {
            self.shift(*group, *from, at);
            at = *from;
        }
        at
    }

    /// What it costs to bring one replica more to each node, and where it comes from (Bellman and
    /// Ford). Moving what moves anyway is free.
    fn cheapest(
        &self,
        starts: &[NodeId],
    ) -> (BTreeMap<NodeId, usize>, BTreeMap<NodeId, (NodeId, GroupId)>) {
        let mut costs: BTreeMap<NodeId, usize> = starts.iter().map(|n| (*n, 0)).collect();
        let mut came = BTreeMap::new();
        let mut queue: VecDeque<NodeId> = starts.iter().copied().collect();
        while let Some(from) = queue.pop_front() {
            for to in self.held.keys().copied().filter(|n| *n != from) {
                let Some(group) = self.movable(from, to) else { continue };
                let cost = costs[&from] + usize::from(self.stays(group, from));
                if costs.get(&to).is_none_or(|known| cost < *known) {
                    costs.insert(to, cost);
                    came.insert(to, (from, group));
                    queue.push_back(to);
                }
            }
        }
        (costs, came)
    }
}

/// What each node should hold, as an exact fraction.
struct Shares {
    /// The whole part, and the numerator of the rest.
    shares: BTreeMap<NodeId, (usize, u128)>,
    total: usize,
}

impl Shares {
    fn of(weights: &BTreeMap<NodeId, u64>, groups: usize, copies: usize) -> Shares {
        let total = groups * copies;
        let mut shares = BTreeMap::new();
        let mut open = weights.clone();
        // Whoever would hold every group and more holds every group; the others share what is left,
        // which may bring the next one there.
        loop {
            let left =
                ((total - shares.len() * groups) as u128, u128::from(open.values().sum::<u64>()));
            let full: Vec<NodeId> = open
                .iter()
                .filter(|(_, w)| left.0 * u128::from(**w) >= groups as u128 * left.1)
                .map(|(n, _)| *n)
                .collect();
            if full.is_empty() {
                let share = |w: u64| {
                    ((left.0 * u128::from(w) / left.1) as usize, left.0 * u128::from(w) % left.1)
                };
                shares.extend(open.iter().map(|(n, w)| (*n, share(*w))));
                return Shares { shares, total };
            }
            for node in full {
                open.remove(&node);
                shares.insert(node, (groups, 0));
            }
            if open.is_empty() {
                return Shares { shares, total };
            }
        }
    }

    fn floor(&self, node: NodeId) -> usize {
        self.shares[&node].0
    }

    fn ceil(&self, node: NodeId) -> usize {
        let (floor, rest) = self.shares[&node];
        floor + usize::from(rest > 0)
    }

    /// Whole numbers that add up to the total. What is left over goes to those that hold more than
    /// their share already, then to the largest rests.
    fn quotas(&self, held: impl Fn(NodeId) -> usize) -> BTreeMap<NodeId, usize> {
        let mut quotas: BTreeMap<NodeId, usize> =
            self.shares.iter().map(|(n, (floor, _))| (*n, *floor)).collect();
        let over = self.total - quotas.values().sum::<usize>();
        let mut candidates: Vec<(NodeId, u128)> = self
            .shares
            .iter()
            .filter(|(_, (_, rest))| *rest > 0)
            .map(|(n, (_, rest))| (*n, *rest))
            .collect();
        candidates
            .sort_by_key(|(n, rest)| (held(*n) <= self.floor(*n), std::cmp::Reverse(*rest), *n));
        for (node, _) in candidates.into_iter().take(over) {
            *quotas.entry(node).or_default() += 1;
        }
        quotas
    }
}

/// Who is preferred to lead what.
struct Leaders<'a> {
    replicas: &'a BTreeMap<GroupId, BTreeSet<NodeId>>,
    leader: BTreeMap<GroupId, NodeId>,
    led: BTreeMap<NodeId, BTreeSet<GroupId>>,
    /// The fewest and the most groups that each node should lead.
    bounds: &'a BTreeMap<NodeId, (usize, usize)>,
}

impl<'a> Leaders<'a> {
    /// Keeps the leaders that can stay. A group without one gets as leader the replica whose node
    /// is furthest below its share.
    fn keep(draft: &'a Draft<'_>, old: &Assignments) -> Leaders<'a> {
        let led = draft.held.keys().map(|n| (*n, BTreeSet::new())).collect();
        let mut leaders = Leaders {
            replicas: &draft.replicas,
            leader: BTreeMap::new(),
            led,
            bounds: &draft.leads,
        };
        for (group, replicas) in &draft.replicas {
            if let Some(first) =
                old.get(group).and_then(|old| old.first()).filter(|n| replicas.contains(n))
            {
                leaders.set(*group, *first);
            }
        }
        for (group, replicas) in &draft.replicas {
            if !leaders.leader.contains_key(group) {
                let below = |n: &NodeId| {
                    draft.held[n].len() as i64 - (leaders.led[n].len() * draft.copies) as i64
                };
                let node = *replicas
                    .iter()
                    .min_by_key(|n| (-below(n), **n))
                    .expect("every group has a replica");
                leaders.set(*group, node);
            }
        }
        leaders
    }

    fn set(&mut self, group: GroupId, node: NodeId) {
        if let Some(before) = self.leader.insert(group, node) {
            self.led.entry(before).or_default().remove(&group);
        }
        self.led.entry(node).or_default().insert(group);
    }

    fn balanced(mut self) -> BTreeMap<GroupId, NodeId> {
        let excess = |l: &Leaders<'_>, n: NodeId| l.led[&n].len() > l.bounds[&n].1;
        let spare = |l: &Leaders<'_>, n: NodeId| l.led[&n].len() > l.bounds[&n].0;
        let room = |l: &Leaders<'_>, n: NodeId| l.led[&n].len() < l.bounds[&n].1;
        let lack = |l: &Leaders<'_>, n: NodeId| l.led[&n].len() < l.bounds[&n].0;
        // First to those that lack one, so that one move mends two nodes.
        while self.pass_on(excess, lack) || self.pass_on(excess, room) || self.pass_on(spare, lack)
        {
        }
        self.leader
    }

    /// Moves one leadership along the shortest path of groups from a node that may give to one that
    /// may take. Whether there is a path.
    fn pass_on(
        &mut self,
        gives: impl Fn(&Self, NodeId) -> bool,
        takes: impl Fn(&Self, NodeId) -> bool,
    ) -> bool {
        let mut queue: VecDeque<NodeId> =
            self.led.keys().copied().filter(|n| gives(self, *n)).collect();
        let mut reached: BTreeMap<NodeId, Option<(NodeId, GroupId)>> =
            queue.iter().map(|n| (*n, None)).collect();
        while let Some(node) = queue.pop_front() {
            for group in &self.led[&node] {
                for next in self.replicas[group].iter().copied() {
                    if reached.contains_key(&next) {
                        continue;
                    }
                    reached.insert(next, Some((node, *group)));
                    queue.push_back(next);
                    if takes(self, next) {
                        self.pass_along(next, &reached);
                        return true;
                    }
                }
            }
        }
        false
    }

    fn pass_along(&mut self, end: NodeId, reached: &BTreeMap<NodeId, Option<(NodeId, GroupId)>>) {
        let mut at = end;
        while let Some((before, group)) = reached[&at] {
            self.set(group, at);
            at = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUPS: u32 = 64;
    /// Moves above the least there could be, where capacities differ: some of them no placement can
    /// save, a few a minimum cost flow would.
    const SLACK: usize = 24;

    fn groups() -> impl Iterator<Item = GroupId> {
        (0..GROUPS).map(GroupId)
    }

    fn counts<'a>(
        nodes: impl Iterator<Item = &'a NodeId>,
        of: impl Fn(NodeId) -> usize,
    ) -> BTreeMap<NodeId, usize> {
        nodes.map(|n| (*n, of(*n))).collect()
    }
    fn held(of: &Assignments, node: NodeId) -> usize {
        of.values().filter(|r| r.contains(&node)).count()
    }
    fn led(of: &Assignments, node: NodeId) -> usize {
        of.values().filter(|r| r[0] == node).count()
    }
    fn moves(old: &Assignments, new: &Assignments) -> usize {
        new.iter()
            .map(|(g, r)| {
                r.iter().filter(|n| !old.get(g).is_some_and(|old| old.contains(n))).count()
            })
            .sum()
    }

    /// What is missing from the quotas has to come, so no placement moves less than this. Not
    /// always is so little enough.
    fn moves_at_least(weights: &BTreeMap<NodeId, u64>, old: &Assignments, copies: usize) -> usize {
        let shares = Shares::of(weights, GROUPS as usize, copies);
        let kept = counts(weights.keys(), |n| held(old, n));
        let quotas = shares.quotas(|n| kept[&n]);
        weights.keys().map(|n| quotas[n].saturating_sub(kept[n])).sum()
    }

    /// Whether replicas could be passed round in a circle, which leaves every count as it is, so
    /// that fewer have moved in the end. Where there is no such circle the moves are the fewest
    /// possible (Klein 1967). All shortest ways by Floyd and Warshall.
    fn could_be_fewer(
        weights: &BTreeMap<NodeId, u64>,
        old: &Assignments,
        new: &Assignments,
    ) -> bool {
        let ids: Vec<NodeId> = weights.keys().copied().collect();
        let mut ways = vec![vec![i64::from(u32::MAX); ids.len()]; ids.len()];
        for (a, from) in ids.iter().enumerate() {
            for (b, to) in ids.iter().enumerate() {
                for (group, _) in new.iter().filter(|(_, r)| r.contains(from) && !r.contains(to)) {
                    let moved =
                        |n: &NodeId| i64::from(!old.get(group).is_some_and(|old| old.contains(n)));
                    ways[a][b] = ways[a][b].min(moved(to) - moved(from));
                }
            }
        }
        for over in 0..ids.len() {
            for a in 0..ids.len() {
                for b in 0..ids.len() {
                    ways[a][b] = ways[a][b].min(ways[a][over] + ways[over][b]);
                }
            }
        }
        (0..ids.len()).any(|n| ways[n][n] < 0)
    }

    fn check(
        capacities: &BTreeMap<NodeId, u32>,
        old: &Assignments,
        rf: u32,
    ) -> Result<Assignments, TestCaseError> {
        let new = place(capacities, old, groups(), rf);
        let weights = weights(capacities);
        let copies = weights.len().min(rf as usize);
        prop_assert!(new.keys().copied().eq(groups()));
        for replicas in new.values() {
            prop_assert_eq!(replicas.len(), copies);
            prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), copies);
            prop_assert!(replicas.iter().all(|n| weights.contains_key(n)));
        }
        let shares = Shares::of(&weights, GROUPS as usize, copies);
        for (node, (floor, rest)) in &shares.shares {
            let count = held(&new, *node);
            prop_assert!(
                count == *floor || (*rest > 0 && count == floor + 1),
                "node {node} holds {count}, its share is {floor} and a bit"
            );
            let led = led(&new, *node);
            prop_assert!(
                (floor / copies..=shares.ceil(*node).div_ceil(copies)).contains(&led),
                "node {node} leads {led} of {count}"
            );
        }
        if weights.values().all(|w| *w == 100) {
            prop_assert!(!could_be_fewer(&weights, old, &new), "fewer moves would do");
        } else {
            let (made, least) = (moves(old, &new), moves_at_least(&weights, old, copies));
            prop_assert!(made <= least + SLACK, "{made} moves where {least} might do");
        }
        prop_assert_eq!(
            &place(capacities, &new, groups(), rf),
            &new,
            "placing again changes something"
        );
        Ok(new)
    }

    fn equal(nodes: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, u32> {
        nodes.into_iter().map(|n| (NodeId(n), 100)).collect()
    }

    #[test]
    fn sixty_nodes_join_one_by_one_and_leave_again_with_not_one_move_too_many() {
        for rf in [1, 2, 3, 5] {
            let mut placed = Assignments::new();
            // Ids in no order of joining.
            let ids: Vec<u64> = (1..=60).map(|n| n * 37 % 61).collect();
            for n in 1..=60 {
                let old = placed;
                placed = check(&equal(ids[..n].to_vec()), &old, rf).unwrap();
                if n > rf as usize {
                    let newcomer = NodeId(ids[n - 1]);
                    assert_eq!(
                        moves(&old, &placed),
                        held(&placed, newcomer),
                        "only the newcomer receives"
                    );
                    let changed = placed.iter().filter(|(g, r)| r[0] != old[*g][0]).count();
                    let received = held(&placed, newcomer);
                    assert!(
                        changed <= 3 * received,
                        "{changed} leaders changed for a newcomer that holds {received} groups"
                    );
                }
            }
            for n in 1..60 {
                placed = check(&equal(ids[n..].to_vec()), &placed, rf).unwrap();
            }
        }
    }

    proptest! {
        #[test]
        fn nodes_of_equal_capacity_come_and_go_without_a_move_too_many(
            steps in prop::collection::vec(1..20u64, 1..40),
            rf in 1..5u32,
        ) {
            let mut capacities = equal([1]);
            let mut placed = Assignments::new();
            for node in steps {
                if capacities.remove(&NodeId(node)).is_none() {
                    capacities.insert(NodeId(node), 100);
                }
                if !capacities.is_empty() {
                    placed = check(&capacities, &placed, rf)?;
                }
            }
        }

        #[test]
        fn nodes_of_any_capacity_hold_their_share(
            steps in prop::collection::vec(
                (1..12u64, prop_oneof![Just(0), Just(100), 1..1000u32]),
                1..30,
            ),
            rf in 1..5u32,
        ) {
            let mut capacities = equal([1]);
            let mut placed = Assignments::new();
            for (node, capacity) in steps {
                capacities.insert(NodeId(node), capacity);
                placed = check(&capacities, &placed, rf)?;
            }
        }
    }

    #[test]
    fn a_node_of_capacity_0_holds_nothing_unless_there_is_no_other() {
        let both = BTreeMap::from([(NodeId(1), 100), (NodeId(2), 0)]);
        assert!(place(&both, &Assignments::new(), groups(), 3).values().all(|r| *r == [NodeId(1)]));
        let none = BTreeMap::from([(NodeId(1), 0)]);
        assert!(place(&none, &Assignments::new(), groups(), 3).values().all(|r| *r == [NodeId(1)]));
        let old = place(&both, &Assignments::new(), groups(), 3);
        assert_eq!(place(&BTreeMap::new(), &old, groups(), 3), old);
    }

    #[test]
    fn the_meta_group_has_an_odd_number_of_voters_and_keeps_those_it_has() {
        let count = |n: u64| meta_voters(&equal(1..=n), &[]).len();
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8, 60].map(count), [1, 2, 3, 3, 5, 5, 7, 7, 7]);
        assert_eq!(
            meta_voters(&equal(1..=4), &[NodeId(4), NodeId(2)]),
            [NodeId(4), NodeId(2), NodeId(1)]
        );
        assert_eq!(
            meta_voters(&BTreeMap::from([(NodeId(1), 0), (NodeId(2), 100)]), &[NodeId(1)]),
            [NodeId(2)]
        );
    }
}
