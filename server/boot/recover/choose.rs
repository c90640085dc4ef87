//! Which copy of each group a recovery keeps.
//!
//! Pure: copies go in, a choice comes out, whatever order they come in. A copy is what one node has
//! left.
//!
//! Of each group the replica with the largest (last log term, last log index) is kept, with its
//! whole log and not only with what it knew to be committed. What the leader of term t has
//! acknowledged is in the log of every leader after t, before the leader's own first entry. A log
//! that ends in term t or later came from such a leader and has it; of two logs that end in one
//! term, the longer one has all that the shorter one has (Ongaro 2014, section 3.6). That holds for
//! learners' logs too.
//!
//! So an acknowledged entry is kept that any survivor has, if any survivor has an entry of the term
//! in which it was acknowledged. A leader's first entry is one of its own term, so none has only if
//! that leader was lost before it had brought a survivor up to there: it may have repeated older
//! entries to one, and another may end with what a leader of some time before had left alone. Their
//! logs do not tell which of the two was acknowledged.
//!
//! Whether the lost nodes had acknowledged more is decided by members: a group lacks nothing if a
//! majority of its voters is left, in the membership that the kept replica knows to be committed
//! and in each that stands behind it in its log. A membership that no survivor knows was agreed on
//! by a majority of one that is known, and one of those has it in its log. A leader that had not
//! applied the newest change yet counted by the membership before it, which is one node away; two
//! such majorities share a node.
//!
//! - Copies of different clusters or histories are refused, and so are two copies of one node, and
//!   nodes that are no members or were removed.
//! - A replica that is not whole, or that never received anything, is not kept and counts as lost.
//! - A group of which nothing is left begins empty, if whoever asks gives it up by name. Without a
//!   copy of the meta group there is nothing to go on with.
//! - Where a majority of every group is left, there is nothing to recover.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{
        error::{Error, Result},
        ids::{ClusterId, GroupId, Lineage, NodeId, SiteId, SnapshotId, SnapshotSeq, Topology},
    },
    cluster::{State, reconfigure::Membership, snapshots::named_groups, state::Recovery},
    entry::Position,
};

/// What one node has left.
#[derive(Clone, Debug)]
pub struct Copied {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub restored_from: Option<SnapshotId>,
    pub topology: Topology,
    /// The meta group's state at the end of this node's log.
    pub meta: Option<State>,
    pub replicas: BTreeMap<GroupId, Replica>,
}

/// What it has of one group.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The end of its log.
    pub last: Position,
    /// The members by what it knew to be committed, then after each change behind that.
    pub members: Vec<Membership>,
    /// Its newest mark.
    pub mark: SnapshotSeq,
    /// Why it cannot be kept.
    pub unfit: Option<String>,
}

/// What whoever asks has decided.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Groups that may begin empty.
    pub give_up: BTreeSet<GroupId>,
    pub id: SnapshotId,
    /// Milliseconds since 1970, for people.
    pub at_ms: u64,
}

/// What is kept, and what the cluster becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub meta: Fate,
    pub groups: BTreeMap<GroupId, Fate>,
    /// Lost nodes with their addresses.
    pub lost: BTreeMap<NodeId, String>,
    /// The meta group's state to begin with.
    pub state: State,
}

/// What becomes of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The survivor with which it begins.
    pub on: NodeId,
    /// The end of the log that is kept; none where the group begins empty.
    pub kept: Option<Position>,
    /// Whether entries that clients were told of may be missing.
    pub may_lack: bool,
    /// Whether the copy is of a node that was not to hold the group any more: it may lack all that
    /// came since.
    pub old: bool,
    /// Its members that are lost, as far as they are known.
    pub lost: BTreeSet<NodeId>,
    /// Its sites.
    pub sites: Vec<SiteId>,
}

pub fn choose(copies: &[Copied], terms: &Terms) -> Result<Choice> {
    let first = copies.first().ok_or_else(|| {
        Error::invalid("a plan needs the reports of all nodes that are left: name their files")
    })?;
    let survivors = one_history(copies, first)?;
    let (meta, state) = chosen_meta(copies)?;
    members(&state, &survivors)?;
    let mut groups = BTreeMap::new();
    let mut nothing_left = BTreeSet::new();
    for group in first.topology.group_ids() {
        match best(copies, group) {
            Some(fate) => drop(groups.insert(group, fate)),
            None => drop(nothing_left.insert(group)),
        }
    }
    let mut sites = sites_of(&state);
    given_up(&nothing_left, &sites, terms)?;
    if !meta.may_lack && nothing_left.is_empty() && groups.values().all(|fate| !fate.may_lack) {
        return Err(Error::conflict(
            "recover is not needed: a majority of every group is left. Start these nodes, and the \
             cluster serves",
        ));
    }
    begin_empty(&mut groups, &nothing_left, &survivors, &state);
    for (group, fate) in &mut groups {
        fate.sites = sites.remove(group).unwrap_or_default();
        let assigned = state.assignments().get(group).is_some_and(|to| to.contains(&fate.on));
        fate.old = fate.kept.is_some() && fate.may_lack && !assigned;
    }
    let lost = state.nodes().values().filter(|node| !survivors.contains(&node.id));
    let lost = lost.map(|node| (node.id, node.address.clone())).collect();
    let marks = copies.iter().flat_map(|copy| copy.replicas.values().map(|r| r.mark));
    let state = state.recovered(&Recovery {
        id: terms.id,
        survivors: &survivors,
        holders: &groups.iter().map(|(group, fate)| (*group, fate.on)).collect(),
        unsure: &groups.iter().filter(|(_, f)| f.may_lack).map(|(group, _)| *group).collect(),
        mark: marks.max().unwrap_or_default(),
        at_ms: terms.at_ms,
    })?;
    Ok(Choice { meta, groups, lost, state })
}

/// All nodes, if their copies belong together.
fn one_history(copies: &[Copied], first: &Copied) -> Result<BTreeSet<NodeId>> {
    let mut nodes = BTreeSet::new();
    for copy in copies {
        let (node, other) = (copy.node, first.node);
        if !nodes.insert(node) {
            return Err(Error::invalid(format!(
                "node {node} is there twice: name the report of each store once"
            )));
        }
        if copy.cluster != first.cluster {
            return Err(Error::conflict(format!(
                "node {node} belongs to cluster {} and node {other} to cluster {}: a plan is for \
                 one cluster",
                copy.cluster, first.cluster
            )));
        }
        let history = |copy: &Copied| (copy.lineage, copy.restored_from);
        if history(copy) != history(first) {
            return Err(Error::conflict(format!(
                "node {node} is of history {} and node {other} of history {}: their logs must \
                 never mix. Name the reports of one history; a node of another one comes back with \
                 an empty store and --join",
                named(copy),
                named(first)
            )));
        }
        if copy.topology != first.topology {
            return Err(Error::corrupt(format!(
                "node {node} and node {other} differ in their numbers of partitions and groups"
            )));
        }
    }
    Ok(nodes)
}

fn named(copy: &Copied) -> String {
    match copy.restored_from {
        Some(from) => format!("{} (restored from {from})", copy.lineage),
        None => copy.lineage.to_string(),
    }
}

fn chosen_meta(copies: &[Copied]) -> Result<(Fate, State)> {
    let fate = best(copies, GroupId::META).ok_or_else(|| {
        let why = copies.iter().filter_map(|copy| {
            let unfit = copy.replicas.get(&GroupId::META).and_then(|r| r.unfit.clone());
            unfit.map(|why| format!("; node {}: {why}", copy.node))
        });
        Error::conflict(format!(
            "none of these stores has a copy of the meta group, which says what the cluster \
             consists of{}. Add the report of one that has, or restore a snapshot",
            why.collect::<String>()
        ))
    })?;
    let keeper = copies.iter().find(|copy| copy.node == fate.on);
    let state = keeper.and_then(|copy| copy.meta.clone()).ok_or_else(|| {
        Error::invalid(format!("the report of node {} lacks the configuration's rows", fate.on))
    })?;
    Ok((fate, state))
}

/// Refuses nodes that the kept configuration does not have.
fn members(state: &State, survivors: &BTreeSet<NodeId>) -> Result<()> {
    for node in survivors {
        if state.removed().contains_key(node) {
            return Err(Error::conflict(format!(
                "node {node} was removed from the cluster: what it holds is old. Leave its report \
                 out, and start it with an empty store and --join when the cluster serves"
            )));
        }
        if state.node(*node).is_none() {
            return Err(Error::conflict(format!(
                "node {node} joined after all that is left of the configuration. Leave its report \
                 out, and start it with an empty store and --join when the cluster serves"
            )));
        }
    }
    Ok(())
}

fn fit(copies: &[Copied], group: GroupId) -> impl Iterator<Item = (NodeId, &Replica)> {
    let replicas = copies
        .iter()
        .filter_map(move |copy| copy.replicas.get(&group).map(|replica| (copy.node, replica)));
    replicas.filter(|(_, replica)| replica.unfit.is_none())
}

/// The replica to keep. Where several end at one place they are equal, and the lowest id is taken.
fn best(copies: &[Copied], group: GroupId) -> Option<Fate> {
    let end = |(node, replica): &(NodeId, &Replica)| {
        (replica.last.term, replica.last.index, std::cmp::Reverse(*node))
    };
    let (on, kept) = fit(copies, group).max_by_key(end)?;
    let left: BTreeSet<NodeId> = fit(copies, group).map(|(node, _)| node).collect();
    let decides = |members: &Membership| {
        members.voters.iter().filter(|node| left.contains(node)).count() * 2 > members.voters.len()
    };
    let newest = kept.members.last().cloned().unwrap_or_default();
    let members = newest.voters.iter().chain(&newest.learners);
    Some(Fate {
        on,
        kept: Some(kept.last),
        may_lack: kept.members.is_empty() || !kept.members.iter().all(decides),
        old: false,
        lost: members.filter(|node| !left.contains(node)).copied().collect(),
        sites: Vec::new(),
    })
}

fn sites_of(state: &State) -> BTreeMap<GroupId, Vec<SiteId>> {
    let mut sites: BTreeMap<GroupId, Vec<SiteId>> = BTreeMap::new();
    for site in state.sites().sites().keys() {
        let group = state.settings().topology.group_of_site(site);
        sites.entry(group).or_default().push(site.clone());
    }
    sites
}

fn given_up(
    nothing_left: &BTreeSet<GroupId>,
    sites: &BTreeMap<GroupId, Vec<SiteId>>,
    terms: &Terms,
) -> Result<()> {
    if let Some(group) = terms.give_up.difference(nothing_left).next() {
        return Err(Error::invalid(format!(
            "group {group} is to be given up, and one of these stores has a copy of it: take it \
             out of --give-up-groups"
        )));
    }
    let asked: Vec<GroupId> = nothing_left.difference(&terms.give_up).copied().collect();
    if asked.is_empty() {
        return Ok(());
    }
    let numbers = |groups: &mut dyn Iterator<Item = &GroupId>| {
        groups.map(GroupId::to_string).collect::<Vec<_>>().join(",")
    };
    let lost: Vec<&str> =
        asked.iter().filter_map(|g| sites.get(g)).flatten().map(SiteId::as_str).collect();
    let (named, all) = (named_groups(&asked), numbers(&mut nothing_left.iter()));
    let of_sites = match lost[..] {
        [] => "No site is in them".to_owned(),
        _ => format!("All data of these sites is in them: {}", lost.join(", ")),
    };
    Err(Error::conflict(format!(
        "none of these stores has a copy of {named}. {of_sites}. Add the report of a store that \
         has one; or restore a snapshot; or give them up, and they begin empty: --give-up-groups \
         {all}"
    )))
}

/// Puts each group of which nothing is left on a survivor that is to hold it, or on the one that
/// holds the fewest.
fn begin_empty(
    groups: &mut BTreeMap<GroupId, Fate>,
    nothing_left: &BTreeSet<GroupId>,
    survivors: &BTreeSet<NodeId>,
    state: &State,
) {
    for group in nothing_left {
        let assigned = state.assignments().get(group).into_iter().flatten();
        let count = |node: &NodeId| groups.values().filter(|fate| fate.on == *node).count();
        let Some(on) = assigned
            .clone()
            .find(|node| survivors.contains(node))
            .or_else(|| survivors.iter().min_by_key(|node| count(node)))
        else {
            continue;
        };
        let lost = assigned.filter(|node| !survivors.contains(node)).copied().collect();
        let (kept, sites) = (None, Vec::new());
        let fate = Fate { on: *on, kept, may_lack: true, old: false, lost, sites };
        groups.insert(*group, fate);
    }
}

impl Choice {
    /// What people have to know before they carry it out.
    pub fn told(&self) -> String {
        let mut lines = Vec::new();
        let lost = self.lost.iter().map(|(node, address)| format!("node {node} at {address}"));
        lines.push(format!(
            "Lost for good: {}. None of them can come back.",
            lost.collect::<Vec<_>>().join(", ")
        ));
        let all = [(GroupId::META, &self.meta)].into_iter();
        for (group, fate) in all.chain(self.groups.iter().map(|(group, fate)| (*group, fate))) {
            lines.push(line(group, fate));
        }
        let lacking = self.groups.values().filter(|fate| fate.may_lack).count();
        lines.push(match lacking {
            0 if !self.meta.may_lack => "No acknowledged write is missing.".to_owned(),
            _ => format!(
                "{lacking} of {} groups may lack acknowledged writes{}.",
                self.groups.len(),
                if self.meta.may_lack {
                    ", and the configuration may lack changes of nodes, sites and relays"
                } else {
                    ""
                }
            ),
        });
        lines.join("\n")
    }
}

fn line(group: GroupId, fate: &Fate) -> String {
    let what = match fate.kept {
        Some(at) => {
            format!("kept from node {} up to entry {} of term {}", fate.on, at.index, at.term)
        }
        None => format!("begins empty on node {}", fate.on),
    };
    let lost = match fate.lost.is_empty() {
        true => "none".to_owned(),
        false => fate.lost.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", "),
    };
    let lack = if fate.may_lack { "yes" } else { "no" };
    let old = match fate.old {
        true => ", which was to give it up: all that came since may be missing",
        false => "",
    };
    let sites: Vec<&str> = fate.sites.iter().map(SiteId::as_str).collect();
    let sites = match sites[..] {
        [] => String::new(),
        _ => format!("; sites: {}", sites.join(", ")),
    };
    format!(
        "group {group}: {what}{old}; members lost: {lost}; may lack acknowledged writes: \
         {lack}{sites}"
    )
}

#[cfg(test)]
mod tests;
