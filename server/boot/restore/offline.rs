//! `devicedb restore`: a store made of parts while no node runs, in a directory that is empty.
//!
//! [`one`] is a node's share of an ordinary restore: it makes of one part what a start makes of it
//! that finds the part extracted. [`plan`] is for parts that cover every partition and are of fewer
//! nodes than most voters of every group. Its store holds the whole cluster alone:
//!
//! - The node goes on, with its id, whose part has the meta group and most of the other groups
//!   (`part::ways`). Each group's rows come from a part that has it.
//! - Each group begins at its mark with that node as the only voter. The meta group's state is that
//!   of a restore ([`State::restored`]), from which the other nodes are lost
//!   ([`State::recovered`]): they are noted as removed, and the replication factor stays.
//! - The history has no name yet and began with an id that is drawn for it, and not with the
//!   snapshot's as in an ordinary restore. So no node that is restored from a part of the same
//!   snapshot adopts it: that node would count on groups with other members.
//!
//! Parts are refused unless every byte of every one of them is as it was written and all are of one
//! snapshot, each of another node. The store is made aside, in `restoring/`, and put in place by a
//! rename. A crash before the rename leaves a directory that the next attempt takes for empty.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    ASIDE, MANIFEST, captured_state, clear, has_room, identity, index_room, make, make_restored,
    meta_record, moved, opened, put_meta, record, room, rows_room,
};
use crate::{
    base::{
        error::{Error, Kind, Result},
        ids::{GroupId, NodeId, SnapshotId},
        limits, strangers,
    },
    cluster::{
        State,
        reconfigure::Membership,
        snapshots::{Part, Snapshot, Status},
        state::Recovery,
    },
    faults::failpoint::{Failpoint, failpoint},
    part::{
        manifest::{GroupPart, Manifest, MetaPart},
        seal::Identities,
        set,
        source::Source,
        ways::{self, SoleSurvivor},
    },
    store::{Claim, Store},
    wire,
};

/// What is in the way of a restore on this disk.
const ELSEWHERE: &str = "name a directory on a larger disk";

/// What is drawn and measured outside.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Names the restore, as the uuid of a snapshot names an ordinary one.
    pub id: SnapshotId,
    /// Milliseconds since 1970, for people.
    pub at_ms: u64,
}

/// A directory without a store, which no other process uses meanwhile.
struct Empty {
    _claim: Claim,
}

/// A store that would hold the whole cluster alone. Nothing of it is made yet.
pub struct Plan {
    dir: PathBuf,
    _empty: Empty,
    sources: Vec<Source>,
    choice: SoleSurvivor,
    restore: SnapshotId,
    state: State,
    told: String,
}

/// Makes a node's store of its part. Returns the node.
pub fn one(part: &Path, dir: &Path, identities: Option<&Identities>) -> Result<NodeId> {
    refuse_full(dir)?;
    let sources = verified(&[part.to_owned()], identities)?;
    let Some(source) = sources.first() else {
        return Err(Error::invalid("a restore needs a part: name a tar or an extracted directory"));
    };
    let _empty = Empty::on(dir)?;
    has_room(dir, room(source.manifest()), ELSEWHERE)?;
    failpoint(Failpoint::RestoreChecked);
    put(dir, || make_restored(dir, source))?;
    Ok(source.manifest().node)
}

/// What a store would be that is made of these parts and holds the whole cluster alone.
pub fn plan(
    parts: &[PathBuf],
    dir: &Path,
    identities: Option<&Identities>,
    terms: &Terms,
) -> Result<Plan> {
    refuse_full(dir)?;
    let sources = verified(parts, identities)?;
    let manifests: Vec<&Manifest> = sources.iter().map(Source::manifest).collect();
    let choice = ways::sole_survivor(&manifests).map_err(|lacking| {
        let sites = sites_in(&sources, &lacking.partitions);
        Error::conflict(format!(
            "these parts do not bring the cluster back: {lacking}{sites}. Add another part of \
             snapshot {}, or restore another snapshot",
            manifests.first().map(|m| m.snapshot.to_string()).unwrap_or_default()
        ))
    })?;
    let survivor = &sources[choice.part];
    let manifest = survivor.manifest();
    let before = captured_state(survivor, meta(manifest)?)?.restored(manifest.snapshot)?;
    if before.node(manifest.node).is_none() {
        return Err(Error::corrupt(format!(
            "the configuration in the part of node {0} does not have node {0}",
            manifest.node
        )));
    }
    let told = told(dir, manifest, &before);
    let state = before.recovered(&Recovery {
        id: terms.id,
        survivors: &BTreeSet::from([manifest.node]),
        holders: &choice.groups.keys().map(|group| (*group, manifest.node)).collect(),
        unsure: &BTreeSet::new(),
        mark: Default::default(),
        at_ms: terms.at_ms,
    })?;
    let _empty = Empty::on(dir)?;
    has_room(dir, needed(&sources, &choice)?, ELSEWHERE)?;
    failpoint(Failpoint::RestoreChecked);
    let dir = dir.to_owned();
    Ok(Plan { dir, _empty, sources, choice, restore: terms.id, state, told })
}

impl Plan {
    /// What people have to know before it is carried out.
    pub fn told(&self) -> &str {
        &self.told
    }

    /// The node that holds everything.
    pub fn node(&self) -> NodeId {
        self.manifest().node
    }

    /// How many nodes the cluster needs so that each group has all its replicas.
    pub fn replication_factor(&self) -> u32 {
        self.state.settings().replication_factor
    }

    /// Makes the store. After an error the directory holds none.
    pub fn carry_out(&self) -> Result<()> {
        put(&self.dir, || self.make())
    }

    fn manifest(&self) -> &Manifest {
        self.sources[self.choice.part].manifest()
    }

    fn make(&self) -> Result<()> {
        let manifest = self.manifest();
        let meta = meta(manifest)?;
        let alone = || Membership { voters: [manifest.node].into(), learners: BTreeSet::new() };
        make(&self.dir, ASIDE, &identity(manifest, self.restore), |commit| {
            put_meta(commit, &self.state)?;
            let meta = wire::encode_record(&meta_record(manifest, meta, alone()));
            commit.group(GroupId::META, &meta)?;
            let groups = copies(&self.sources, &self.choice)?;
            for (_, group) in &groups {
                let record = wire::encode_record(&record(manifest, group, alone()));
                commit.group(group.group, &record)?;
            }
            super::load_rows(commit, &groups)
        })?;
        failpoint(Failpoint::RestoreMade);
        Ok(())
    }
}

fn meta(manifest: &Manifest) -> Result<&MetaPart> {
    let lacks =
        || Error::corrupt(format!("the part of node {} lost its meta group", manifest.node));
    manifest.meta.as_ref().ok_or_else(lacks)
}

/// Each group with the part from which its rows come.
fn copies<'a>(
    sources: &'a [Source],
    choice: &SoleSurvivor,
) -> Result<Vec<(&'a Source, &'a GroupPart)>> {
    let copy = |(group, part): (&GroupId, &usize)| {
        let source = &sources[*part];
        let copy = source.manifest().group(*group);
        let copy = copy.ok_or_else(|| Error::corrupt(format!("group {group} is in no part")))?;
        Ok((source, copy))
    };
    choice.groups.iter().map(copy).collect()
}

/// Every part, if each byte of each is as it was written and they belong together.
fn verified(parts: &[PathBuf], identities: Option<&Identities>) -> Result<Vec<Source>> {
    // What stays closed is told at once; what is no part at all, the verification tells.
    for part in parts.iter().filter(|part| Source::open(part).is_ok()) {
        opened(part, identities).map_err(|e| e.at(part.display()))?;
    }
    let report = set::verify_set(parts, identities);
    if !report.is_whole() {
        return Err(Error::corrupt(format!(
            "nothing is restored, since something is wrong with what was given:\n{}\nName sound \
             parts of one snapshot, each of another node: ddbctl restore says which are",
            report.wrong()
        )));
    }
    let open = |(path, outcome): (&PathBuf, &set::PartOutcome)| {
        let source = opened(path, identities).map_err(|e| e.at(path.display()))?;
        let digest = outcome.part.as_ref().map(|part| part.manifest_digest);
        match digest == Some(source.digest()) {
            true => Ok(source),
            false => Err(Error::conflict(format!(
                "{} has changed since it was verified: leave it alone and try again",
                path.display()
            ))),
        }
    };
    parts.iter().zip(&report.parts).map(open).collect()
}

/// Bytes that the store takes, about.
fn needed(sources: &[Source], choice: &SoleSurvivor) -> Result<u64> {
    let mut needed = limits::RESTORE_ROOM_BYTES;
    let (mut lists, mut partitions) = (Vec::new(), 0);
    for (source, group) in copies(sources, choice)? {
        partitions += group.partitions.len();
        lists.extend(group.partitions.iter().map(|partition| (source, &partition.chunks)));
    }
    let survivor = &sources[choice.part];
    lists.push((survivor, &meta(survivor.manifest())?.chunks));
    for (source, hashes) in lists {
        let manifest = source.manifest();
        needed += rows_room(hashes.iter().filter_map(|hash| manifest.entry(*hash)));
    }
    Ok(needed + index_room(partitions))
}

/// The sites in partitions that no part has, if a part knows the configuration.
fn sites_in(sources: &[Source], partitions: &[(u32, u32)]) -> String {
    let state = sources.iter().find_map(|source| {
        let meta = source.manifest().meta.as_ref()?;
        captured_state(source, meta).ok()
    });
    let Some(state) = state.filter(|_| !partitions.is_empty()) else { return String::new() };
    let topology = state.settings().topology;
    let missing = |id: u32| partitions.iter().any(|(first, last)| (*first..=*last).contains(&id));
    let sites = state.sites().sites().keys().filter(|site| missing(topology.partition_of(site).0));
    let sites: Vec<&str> = sites.map(|site| site.as_str()).collect();
    match sites[..] {
        [] => ". No site is in them".to_owned(),
        _ => format!(". All data of these sites is in them: {}", sites.join(", ")),
    }
}

fn told(dir: &Path, manifest: &Manifest, before: &State) -> String {
    let me = manifest.node;
    let (nodes, settings) = (before.nodes(), before.settings());
    let lost: Vec<String> = nodes
        .values()
        .filter(|node| node.id != me)
        .map(|node| format!("node {} at {}", node.id, node.address))
        .collect();
    let mut lines = vec![
        format!(
            "Snapshot {} of cluster {}: {} nodes, replication factor {}.",
            manifest.snapshot,
            manifest.cluster,
            nodes.len(),
            settings.replication_factor
        ),
        format!("{} becomes the store of node {me}, which holds the whole cluster.", dir.display()),
        "Nothing is missing that was acknowledged up to the cut; what came later is.".to_owned(),
    ];
    if !lost.is_empty() {
        lines.push(format!(
            "Given up for good: {}. Their ids are removed: neither their stores nor their parts \
             bring them back.",
            lost.join(", ")
        ));
    }
    lines.push(format!(
        "All {} groups begin with one copy, on this node. Empty nodes that join get the others.",
        settings.topology.groups()
    ));
    let gone: Vec<String> = before
        .snapshots()
        .values()
        .filter(|known| known.id != manifest.snapshot && needs_others(me, known, before))
        .map(|known| known.id.to_string())
        .collect();
    if !gone.is_empty() {
        let shown = &gone[..gone.len().min(limits::STRANGERS_TOLD_MAX)];
        let more = match gone.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(format!(
            "Snapshots that are not whole without the parts of those nodes: {}{more}. Keep their \
             tars.",
            shown.join(", ")
        ));
    }
    lines.join("\n")
}

/// Whether other nodes have parts of a snapshot without which a node's own does not have every
/// group.
fn needs_others(node: NodeId, snapshot: &Snapshot, state: &State) -> bool {
    let completed = |part: &&Part| part.status == Status::Completed;
    let mut groups = state.settings().topology.group_ids().chain([GroupId::META]);
    let own = snapshot.parts.get(&node).filter(completed);
    let whole = own.is_some_and(|part| groups.all(|group| part.groups.contains(&group)));
    let others = snapshot.parts.values().filter(completed).any(|part| part.node != node);
    others && !whole
}

impl Empty {
    fn on(dir: &Path) -> Result<Empty> {
        let claim = claim(dir)?;
        // Nobody else fills it from now on.
        refuse_full(dir)?;
        clear(&dir.join(ASIDE))?;
        Ok(Empty { _claim: claim })
    }
}

fn claim(dir: &Path) -> Result<Claim> {
    Claim::on(dir).map_err(|e| match e.kind {
        Kind::Conflict => Error::conflict(format!("{e}: name an empty directory")),
        _ => e,
    })
}

/// Refuses a directory that holds anything but what an interrupted attempt has left.
fn refuse_full(dir: &Path) -> Result<()> {
    let shown = dir.display();
    if dir.join(MANIFEST).exists() || moved::holds_part(dir) {
        return Err(Error::conflict(format!(
            "{shown} holds an extracted part: devicedb start --store {shown} restores it. To make \
             a store of other parts, name an empty directory"
        )));
    }
    if Store::exists(dir) {
        return Err(Error::conflict(format!(
            "{shown} holds a store, and a restore never replaces one: name an empty directory, or \
             move this one away"
        )));
    }
    let held = strangers::in_directory(dir, |name| name == ASIDE)?;
    if !held.is_empty() {
        return Err(Error::conflict(format!(
            "{shown} is not empty, it holds {}: name an empty directory, or one that is not there",
            strangers::named(&held)
        )));
    }
    Ok(())
}

/// Makes a store aside and puts it in place. After an error nothing of it is left.
fn put(dir: &Path, make: impl FnOnce() -> Result<()>) -> Result<()> {
    let made = make().and_then(|()| Store::put_in_place(&dir.join(ASIDE), dir));
    made.map_err(|e| {
        moved::undo(dir, e).at(format!("{} holds no store, since that failed", dir.display()))
    })?;
    failpoint(Failpoint::RestoreInPlace);
    moved::clean_up(dir);
    Ok(())
}
