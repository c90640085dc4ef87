//! A cluster takes over what a lost one has stored: its history goes on as part of the adopter's.
//!
//! The next catalogue of the lost history says who has adopted it (`Catalogue::adopted`). There is
//! one next catalogue, so of two who would adopt, one does, and the other is told by whom it was.
//! From then on nothing is stored for that history any more (`commit`): a lost cluster that comes
//! back after all is refused by the name of its adopter, whatever it has begun before. What it left
//! unlisted is never listed, and goes.
//!
//! Nothing is copied and no object is named anew. The snapshots stay in the folder of their history
//! and are restored from there as before; holds stay with them. What changes is who answers for
//! them: rules that keep the adopter's snapshots go on into those of the histories that it has
//! adopted, as if all were one (`Line`, `collect`), and the newest of the line is the newest that a
//! restore finds (`points`). The adopter's own first snapshot is a whole copy, since names in a
//! folder lead nowhere else.
//!
//! - That a history was adopted stands in two catalogues, as holds do: damage to one does not give
//!   it back.
//! - Adoption is for good. Nobody adopts from an adopter, and no history that was itself adopted
//!   adopts another one. Of two that adopt each other in the same moment both are closed.
//! - Programs before this version refuse the catalogues of an adopted history as newer ones.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use serde::Serialize;

use super::{
    catalogue::{Adopted, Catalogue, Standing, Step},
    root::{Folder, Repository},
};
use crate::base::{
    error::{Error, Result},
    ids::{ClusterId, Lineage},
};

/// A cluster, or one of its histories, as operators name it: `CLUSTER` or `CLUSTER/LINEAGE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    pub cluster: ClusterId,
    pub lineage: Option<Lineage>,
}

/// What an adoption came to, of one history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adoption {
    #[serde(rename = "cluster_id")]
    pub cluster: String,
    pub lineage: String,
    /// Whose it is from now on, as CLUSTER/LINEAGE.
    pub by: String,
    /// It was before.
    pub was_adopted: bool,
    pub snapshots: u64,
    pub held: u64,
    /// The newest catalogue, as CLUSTER/LINEAGE/N.
    pub catalogue: String,
}

/// Histories that go on in one: the oldest first, and last the one that has adopted all others, if
/// that has any catalogue.
#[derive(Clone, Debug)]
pub struct Line(pub Vec<Standing>);

impl FromStr for Named {
    type Err = Error;

    fn from_str(text: &str) -> Result<Named> {
        let named = match text.split_once('/') {
            None => text.parse().ok().map(|cluster| (ClusterId(cluster), None)),
            Some(_) => Folder::parse(text).map(|of| (of.cluster, Some(of.lineage))),
        };
        let named = named.map(|(cluster, lineage)| Named { cluster, lineage });
        named.ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} names no cluster: CLUSTER or CLUSTER/LINEAGE, as ddbctl repository \
                 status prints them"
            ))
        })
    }
}

impl Named {
    fn names(&self, folder: Folder) -> bool {
        folder.cluster == self.cluster && self.lineage.is_none_or(|is| folder.lineage == is)
    }

    /// The history that adopts. It need not have stored anything, if its lineage is said.
    fn adopter(&self, standings: &[Standing]) -> Result<Folder> {
        let Named { cluster, lineage } = *self;
        if let Some(lineage) = lineage {
            return Ok(Folder { cluster, lineage });
        }
        let own = standings.iter().filter(|standing| self.names(standing.folder));
        let open: Vec<Folder> =
            own.filter(|s| s.catalogue.adopted.is_none()).map(|s| s.folder).collect();
        match open[..] {
            [one] => Ok(one),
            [] => Err(Error::not_found(format!(
                "cluster {cluster} has no snapshot in the repository that goes on: have it store \
                 one first, or name its lineage too, as CLUSTER/LINEAGE"
            ))),
            _ => {
                let all: Vec<String> = open.iter().map(Folder::name).collect();
                Err(Error::conflict(format!(
                    "cluster {cluster} has several histories here, and one of them adopts: say \
                     which, {}",
                    all.join(" or ")
                )))
            }
        }
    }
}

/// Has the histories of a cluster, or one that is named, taken over by another history.
pub fn adopt(
    repository: &Repository,
    lost: Named,
    by: Named,
    now_ms: u64,
) -> Result<Vec<Adoption>> {
    let standings = repository.standings()?;
    let by = by.adopter(&standings)?;
    let own = standings.iter().find(|standing| standing.folder == by);
    if let Some(adopted) = own.and_then(|standing| standing.catalogue.adopted) {
        return Err(adopted.refusal(by));
    }
    if lost.lineage.is_some() && lost.names(by) {
        return Err(Error::invalid("a history does not adopt itself"));
    }
    let named = standings.iter().filter(|s| lost.names(s.folder) && s.folder != by);
    let mut named: Vec<&Standing> = named.collect();
    // Where no history is named, those that others have are not meant.
    if lost.lineage.is_none() {
        let others = |s: &&Standing| s.catalogue.adopted.is_none_or(|known| known.by() == by);
        let left: Vec<&Standing> = named.iter().copied().filter(others).collect();
        if let (true, Some(first)) = (left.is_empty(), named.first())
            && let Some(adopted) = first.catalogue.adopted
        {
            return Err(adopted.refusal(first.folder));
        }
        named = left;
    }
    if named.is_empty() {
        return Err(Error::not_found(format!(
            "the repository {} has nothing of cluster {} that could be adopted",
            repository.store.place(),
            lost.cluster
        )));
    }
    named.into_iter().map(|standing| adopt_one(repository, standing.folder, by, now_ms)).collect()
}

fn adopt_one(repository: &Repository, lost: Folder, by: Folder, now_ms: u64) -> Result<Adoption> {
    let Folder { cluster, lineage } = by;
    let mut was_adopted = true;
    let change = |next: &mut Catalogue| match next.adopted {
        Some(known) if known.by() == by => Ok(Step::Is(())),
        Some(known) => Err(known.refusal(lost)),
        None => {
            was_adopted = false;
            next.adopted = Some(Adopted { cluster, lineage, at_ms: now_ms });
            Ok(Step::Becomes(()))
        }
    };
    let is_so = |catalogue: &Catalogue| catalogue.adopted.is_some_and(|known| known.by() == by);
    repository.amend_twice(lost, change, is_so)?;
    let standing = repository.standing(lost)?;
    let snapshots = &standing.catalogue.snapshots;
    Ok(Adoption {
        cluster: lost.cluster.to_string(),
        lineage: lost.lineage.to_string(),
        by: by.name(),
        was_adopted,
        snapshots: snapshots.len() as u64,
        held: snapshots.iter().filter(|entry| entry.hold.is_some()).count() as u64,
        catalogue: standing.mark().to_string(),
    })
}

impl Line {
    /// Every history in one line.
    pub fn all(standings: Vec<Standing>) -> Vec<Line> {
        let adopters: BTreeMap<Folder, Adopted> =
            standings.iter().filter_map(|s| Some((s.folder, s.catalogue.adopted?))).collect();
        let mut lines: BTreeMap<Folder, Vec<(usize, u64, Standing)>> = BTreeMap::new();
        for standing in standings {
            let (head, steps) = head(standing.folder, &adopters);
            let at_ms = standing.catalogue.adopted.map_or(u64::MAX, |adopted| adopted.at_ms);
            lines.entry(head).or_default().push((steps, at_ms, standing));
        }
        let in_order = |mut line: Vec<(usize, u64, Standing)>| {
            line.sort_by_key(|(steps, at_ms, s)| (Reverse(*steps), *at_ms, s.folder));
            Line(line.into_iter().map(|(_, _, standing)| standing).collect())
        };
        lines.into_values().map(in_order).collect()
    }

    /// The line of one history.
    pub fn of(folder: Folder, standings: Vec<Standing>) -> Option<Line> {
        let has = |line: &Line| line.0.iter().any(|standing| standing.folder == folder);
        Line::all(standings).into_iter().find(has)
    }
}

/// The history in which one goes on, and how many adoptions lie between. Where histories have
/// adopted each other in a circle, the first of them by name.
fn head(folder: Folder, adopters: &BTreeMap<Folder, Adopted>) -> (Folder, usize) {
    let (mut at, mut seen) = (folder, BTreeSet::from([folder]));
    while let Some(adopted) = adopters.get(&at) {
        at = adopted.by();
        if !seen.insert(at) {
            let first = seen.first().copied();
            return (first.expect("one was put in"), 0);
        }
    }
    (at, seen.len() - 1)
}
