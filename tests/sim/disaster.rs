//! The whole cluster is lost, and comes back from the parts of a snapshot.
//!
//! Parts are downloaded, verified as a set, extracted and restored by the product's own code. What
//! `verify` calls restorable has to come back: with exactly the rows of its cut, in a history of
//! its own. On the way, as on a bad night, one part is damaged (it must be refused and nothing may
//! change), a node is given the part of another snapshot, or is restored once more after the others
//! have gone on (it must stay out), and nodes come late.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use devicedb::{
    base::{
        clock::Random,
        disk::Machine,
        ids::{GroupId, NodeId, SnapshotId},
    },
    boot::restore,
    part::{directory::PartSource, manifest::Manifest, set, verify},
    store::{Store, View},
    wire,
};

use crate::{
    clients::{Held, Place},
    parts,
    plot::Moves,
    story::{END_MAX, Story, versions},
};

/// So long after the last start at the most restored nodes are one cluster, wherever they are.
const FOUND_WITHIN: Duration = Duration::from_secs(5);
/// For so long a node that does not belong to the cluster is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// Downloaded parts of one snapshot, by node.
struct Set {
    id: SnapshotId,
    tars: BTreeMap<usize, PathBuf>,
}

/// A node that is started with what it should not have.
struct Stranger {
    node: usize,
    id: NodeId,
    /// What it is started with afterwards.
    right: PathBuf,
}

impl Story {
    /// Loses all nodes and restores them; where no snapshot can be restored, they go on from their
    /// disks. Whether no promise was broken.
    pub fn disaster(&mut self) -> bool {
        self.heal();
        self.world.all_gone();
        self.parts.crash();
        let mut sets = self.sets();
        let again = sets.iter().position(|set| self.restored == Some(set.id));
        if let Some(again) = again.filter(|_| self.plot.same_snapshot) {
            sets.swap(0, again);
        }
        let Some(set) = sets.first() else {
            (0..self.plot.nodes).for_each(|node| self.world.start_again(node));
            return true;
        };
        self.world.clear_alarms();
        self.clients.cut_off();
        self.check_history();
        self.restore(set, sets.get(1));
        self.arm();
        self.is_whole()
    }

    /// Every snapshot that `verify` calls restorable, in any order.
    fn sets(&mut self) -> Vec<Set> {
        let mut sets = Vec::new();
        for (id, nodes) in self.parts.lying(&self.world) {
            let dir = self.fresh_dir("set");
            let tars: BTreeMap<usize, PathBuf> =
                nodes.iter().map(|node| (*node, dir.join(format!("{node}.tar")))).collect();
            for (node, tar) in &tars {
                if let Err(e) = self.parts.download(*node, id, tar, &self.world) {
                    self.broken
                        .push(format!("node {node}: the part of {id} cannot be downloaded: {e}"));
                    return Vec::new();
                }
            }
            let report = set::verify_set(&tars.values().collect::<Vec<_>>(), None);
            if !report.parts.iter().all(|part| part.sound) || !report.problems.is_empty() {
                self.broken.push(format!("parts that were completed are not sound:\n{report}"));
            }
            if report.restorable {
                sets.push(Set { id, tars });
            }
        }
        for at in (1..sets.len()).rev() {
            sets.swap(at, self.rng.below(at as u64 + 1) as usize);
        }
        sets
    }

    pub fn fresh_dir(&mut self, what: &str) -> PathBuf {
        let dir = self.world.root.join(format!("{what}-{:016x}", self.rng.next_u64()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn restore(&mut self, set: &Set, other: Option<&Set>) {
        let topology = self.world.topology;
        let keeps_shelves = self.rng.below(2) == 0 || self.plot.same_snapshot;
        let mut held: BTreeMap<Place, Held> = BTreeMap::new();
        let mut ids = BTreeMap::new();
        let mut stranger = None;
        let mut last = self.world.now;
        if self.plot.moves == Moves::About {
            self.move_about();
        }
        for node in 0..self.plot.nodes {
            let dir = self.fresh_dir("machine");
            if !keeps_shelves {
                let shelf = self.fresh_dir("shelf");
                self.parts.set_shelf(node, shelf);
            }
            let Some(tar) = set.tars.get(&node).filter(|tar| has_meta(tar)) else {
                // It comes with an empty store, as the guide says, when the others are there.
                self.world.replace(node, dir, None);
                self.world.start_later(node, Duration::from_millis(10));
                continue;
            };
            let Some((id, store)) = self.restore_part(tar, &dir) else { return };
            let view = store.view().unwrap();
            let groups = self.compare(set.id, node, &view);
            for place in Place::all()
                .into_iter()
                .filter(|p| groups.contains(&topology.group_of_site(&p.site())))
            {
                held.extend(
                    versions(|key| view.get(key), topology, place)
                        .unwrap()
                        .map(|versions| (place, Held { place, versions })),
                );
            }
            drop((view, store));
            ids.insert(node, id);
            self.world.replace(node, dir.clone(), Some(id));
            let strange = other
                .and_then(|other| other.tars.get(&node))
                .filter(|tar| stranger.is_none() && has_meta(tar) && self.spares(set, node));
            if let Some(tar) = strange.filter(|_| self.rng.below(2) == 0) {
                let wrong = self.fresh_dir("machine");
                let Some((wrong_id, _)) = self.restore_part(tar, &wrong) else { return };
                self.world.replace(node, wrong, Some(wrong_id));
                stranger = Some(Stranger { node, id, right: dir });
            }
            let most = [1, 500, 8000][self.rng.below(3) as usize];
            let after = Duration::from_millis(self.rng.below(most));
            self.world.start_later(node, after);
            last = last.max(self.world.now + after);
        }
        if self.plot.moves == Moves::Away {
            let strange = stranger.as_ref().map(|s: &Stranger| s.node);
            self.move_away(&ids, strange);
        } else if self.world.anybody_has_moved() {
            // Machines have moved, perhaps since the cut, and whoever was named to them before may
            // have no part.
            let named =
                ids.keys().copied().find(|node| stranger.as_ref().is_none_or(|s| s.node != *node));
            let address = self.world.address(named.expect("a set has parts"));
            (0..self.plot.nodes).for_each(|node| self.world.aim(node, vec![address.clone()]));
        }
        self.restores += 1;
        self.restored = Some(set.id);
        self.clients.go_on_from(&held.into_values().collect::<Vec<_>>(), self.world.now);
        let restored: Vec<usize> = ids.keys().copied().collect();
        let strange = stranger.as_ref().map(|s| s.node);
        self.until("the restored nodes are one cluster", END_MAX, |story| {
            restored
                .iter()
                .filter(|node| Some(**node) != strange)
                .all(|node| story.world.look(*node, |sight| sight.unready()) == Some(None))
        });
        if stranger.is_none() && self.is_whole() && self.world.now > last + FOUND_WITHIN {
            self.broken.push(format!(
                "the restored nodes took {:?} from the last start to find each other",
                self.world.now - last
            ));
        }
        if stranger.is_none() {
            stranger = self.restored_again(set, &ids);
        }
        if let Some(stranger) = stranger {
            self.watch(stranger);
        }
    }

    /// All machines change places.
    fn move_about(&mut self) {
        let mut ports: Vec<usize> = self.world.nodes.iter().map(|node| node.port).collect();
        for at in (1..ports.len()).rev() {
            ports.swap(at, self.rng.below(at as u64 + 1) as usize);
        }
        for (node, port) in self.world.nodes.iter_mut().zip(ports) {
            node.port = port;
        }
    }

    /// Restored nodes are where nobody was. Each but the first is told of the first, of the one
    /// before it, or of any before it; nobody of one that does not belong to them.
    fn move_away(&mut self, ids: &BTreeMap<usize, NodeId>, stranger: Option<usize>) {
        let mut nodes: Vec<usize> =
            ids.keys().copied().filter(|node| Some(*node) != stranger).collect();
        for at in (1..nodes.len()).rev() {
            nodes.swap(at, self.rng.below(at as u64 + 1) as usize);
        }
        nodes.extend(stranger);
        for node in &nodes {
            self.world.moves_away(*node);
            self.world.aim(*node, Vec::new());
        }
        let how = self.rng.below(3);
        for at in 1..nodes.len() {
            let told_of = match how {
                0 => 0,
                1 => at - 1,
                _ => self.rng.below(at as u64) as usize,
            };
            let address = self.world.address(nodes[told_of]);
            self.world.aim(nodes[at], vec![address]);
        }
    }

    /// A restored node that is taken out and restored from its part once more; its store is kept.
    fn restored_again(&mut self, set: &Set, ids: &BTreeMap<usize, NodeId>) -> Option<Stranger> {
        let nodes: Vec<usize> =
            ids.keys().copied().filter(|node| self.spares(set, *node)).collect();
        if nodes.is_empty() || self.rng.below(2) == 0 || !self.is_whole() {
            return None;
        }
        let node = nodes[self.rng.below(nodes.len() as u64) as usize];
        let known = |story: &Story| {
            let lineage = story.world.engine(node).map(|e| e.identity().lineage);
            lineage.is_some_and(|l| {
                story.world.up().iter().all(|n| {
                    story
                        .world
                        .engine(*n)
                        .is_some_and(|e| e.meta().node(ids[&node]).is_some_and(|n| n.lineage == l))
                })
            })
        };
        self.until("all know the restored node", END_MAX, |story| known(story));
        let right = self.world.nodes[node].dir.clone();
        self.world.stop(node);
        let wrong = self.fresh_dir("machine");
        let (id, _) = self.restore_part(&set.tars[&node], &wrong)?;
        self.world.replace(node, wrong, Some(id));
        self.world.start_later(node, Duration::from_millis(1));
        Some(Stranger { node, id, right })
    }

    /// Whether the others are a majority of every group without this one.
    fn spares(&self, set: &Set, node: usize) -> bool {
        let others: Vec<&PathBuf> =
            set.tars.iter().filter(|(n, _)| **n != node).map(|(_, tar)| tar).collect();
        !others.is_empty() && set::verify_set(&others, None).restorable
    }

    /// A node that does not belong to this history takes no part in it; then it comes back with
    /// what it should have.
    fn watch(&mut self, Stranger { node, id, right }: Stranger) {
        let until = self.world.now + WATCHED;
        while self.is_whole() && self.world.now < until {
            self.step();
            let lineage = (0..self.plot.nodes)
                .filter(|n| *n != node)
                .find_map(|n| self.world.engine(n))
                .map(|e| e.identity().lineage);
            if self.world.engine(node).is_some_and(|e| Some(e.identity().lineage) == lineage) {
                self.broken.push(format!("node {node} was let into a history that is not its own"));
            }
        }
        self.world.stop(node);
        self.world.replace(node, right, Some(id));
        self.world.start_later(node, Duration::from_millis(1));
    }

    /// Extracts and restores a part; now and then it is damaged at first.
    fn restore_part(&mut self, tar: &Path, dir: &Path) -> Option<(NodeId, Store)> {
        parts::extract(tar, dir);
        if self.rng.below(4) == 0 {
            let how = damage(dir, &mut self.rng);
            let before = listing(dir);
            match restore::restore(dir, None) {
                Ok(()) => self.broken.push(format!("a damaged part was restored: {how}")),
                Err(_) if listing(dir) != before => {
                    self.broken.push(format!("a part was refused, and changed: {how}"))
                }
                Err(_) => self.refused_parts += 1,
            }
            fs::remove_dir_all(dir).unwrap();
            parts::extract(tar, dir);
        }
        let manifest: Manifest = PartSource::open(dir).expect("it was verified").into_manifest();
        let restored = restore::look(dir)
            .and_then(|_| restore::restore(dir, None))
            .and_then(|()| restore::open(dir, &Machine));
        restored
            .map_err(|e| self.broken.push(format!("a sound part is not restored: {e}")))
            .ok()
            .map(|(store, _)| (manifest.node, store))
    }

    /// The groups that a restored store holds, which are those of the cut.
    fn compare(&mut self, id: SnapshotId, node: usize, view: &View) -> Vec<GroupId> {
        let records = view.groups().unwrap().into_iter().filter(|(group, _)| !group.is_meta());
        let dots: BTreeMap<GroupId, u64> = records
            .map(|(group, record)| (group, wire::decode_record(&record).unwrap().data.dots))
            .collect();
        for (group, rows) in parts::rows(view, self.world.topology, dots.keys().copied()).unwrap() {
            let (cut, dots) =
                (self.cuts.get(&id).and_then(|cut| cut.groups.get(&group)), dots[&group]);
            if cut.is_none_or(|cut| {
                !cut.iter().any(|(.., counter, digest)| (*counter, digest) == (dots, &rows))
            }) {
                self.broken.push(format!(
                    "node {node} restored from {id} holds {rows} of group {group} and counts dots \
                     from {dots}, and the cut is {cut:?}"
                ));
            }
        }
        dots.into_keys().collect()
    }
}

/// Whether a node can be restored from its part.
fn has_meta(tar: &Path) -> bool {
    verify::verify_part(tar, None).is_ok_and(|report| report.meta)
}

/// Damages a file of an extracted part, in one of the ways in which that happens.
fn damage(dir: &Path, rng: &mut Random) -> String {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("chunks"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.push(dir.join("manifest.json"));
    files.sort();
    let file = &files[rng.below(files.len() as u64) as usize];
    let mut bytes = fs::read(file).unwrap();
    let at = rng.below(bytes.len() as u64) as usize;
    let how = match rng.below(4) {
        0 => {
            bytes[at] ^= 1 << rng.below(8);
            "a bit flipped"
        }
        1 => {
            bytes.truncate(at);
            "cut off"
        }
        2 => {
            bytes.push(0);
            "a byte too much"
        }
        _ => {
            fs::remove_file(file).unwrap();
            return format!("{} removed", file.display());
        }
    };
    fs::write(file, bytes).unwrap();
    format!("{}: {how} at {at}", file.display())
}

/// All that lies in a directory.
fn listing(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => {
                all.extend(listing(&path));
                all.insert(path, None);
            }
            false => drop(all.insert(path.clone(), Some(fs::read(&path).unwrap()))),
        }
    }
    all
}
