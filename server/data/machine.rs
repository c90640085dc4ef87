//! A group's state machine: commands in log order in, changed rows and replies out.
//!
//! - Pure and deterministic: what it decides follows from its state, its rows and the command, from
//!   nothing else.
//! - A write has all its effect or none: it is worked out beside the rows and set when it has
//!   succeeded as a whole.
//! - A request id has one effect and one answer, for as long as the window remembers it.
//!
//! The engine stores `state`, the window's changed slots and the rows in one transaction, and
//! stands in front of `apply` with the fence of snapshots.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    mem,
};

use super::{
    Row, Rows, SiteRow, SiteStage,
    command::{Command, Reply, Write},
    key::{Key, Place, RowKey, keys_range},
    query::{key_row, site_row, takes_requests},
    siblings::Versions,
    version::Dot,
    window::{Outcomes, Remembered, Verdict, Window},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, Lineage, PartitionId, RequestId, SiteGeneration, SiteId, Topology},
        limits,
    },
    faults::mutation::{Mutation, mutated},
};

/// The part of a group's state that stands in no row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Dots are minted under this lineage. While it is pending, after a restore, nothing is
    /// written.
    pub lineage: Lineage,
    /// The newest dot's counter. Goes on when the lineage changes.
    pub dots: u64,
    /// How many requests were ever remembered.
    pub requests: u64,
}

/// A group. A clone goes its own way; the simulator compares replicas with it.
#[derive(Clone, Debug)]
pub struct Machine {
    topology: Topology,
    group: GroupId,
    lineage: Lineage,
    dots: u64,
    window: Window,
    touched: BTreeSet<PartitionId>,
}

impl Machine {
    /// As stored; `remembered` is each slot of the window that was ever written.
    pub fn open(
        topology: Topology,
        group: GroupId,
        state: State,
        remembered: impl IntoIterator<Item = (u32, Remembered)>,
    ) -> Result<Machine> {
        let window =
            Window::open(state.requests, remembered).map_err(|e| e.at(format!("group {group}")))?;
        Ok(Machine {
            topology,
            group,
            lineage: state.lineage,
            dots: state.dots,
            window,
            touched: BTreeSet::new(),
        })
    }

    pub fn state(&self) -> State {
        State { lineage: self.lineage, dots: self.dots, requests: self.window.requests() }
    }

    /// The window's slots that changed since this was last asked.
    pub fn take_remembered(&mut self) -> Vec<(u32, Remembered)> {
        self.window.take()
    }

    /// The partitions of which rows changed since this was last asked.
    pub fn take_touched(&mut self) -> BTreeSet<PartitionId> {
        mem::take(&mut self.touched)
    }

    /// An error means that the disk failed, and the machine is not to be used any more; a refusal
    /// is a reply.
    pub fn apply(
        &mut self,
        request: Option<RequestId>,
        command: &Command,
        rows: &mut impl Rows,
    ) -> Result<Reply> {
        match command {
            Command::Write(write) => {
                self.at_site(write.site(), |machine, at| machine.write(request, write, at, rows))
            }
            Command::AddSite { site, generation } => {
                self.at_site(site, |machine, at| machine.add_site(at, *generation, rows))
            }
            Command::DropSite { site, generation, rows_max } => self
                .at_site(site, |machine, at| machine.drop_site(at, *generation, *rows_max, rows)),
            Command::SetLineage { lineage } => Ok(self.set_lineage(*lineage)),
        }
    }

    /// Goes on with the row of a site, if the site is this group's.
    fn at_site(
        &mut self,
        site: &SiteId,
        go_on: impl FnOnce(&mut Machine, RowKey) -> Result<Reply>,
    ) -> Result<Reply> {
        let partition = self.topology.partition_of(site);
        let group = self.topology.group_of(partition);
        if group != self.group {
            return Ok(Reply::Refused(Error::invalid(format!(
                "site {:?} lies in group {group}, not in group {}; ask there",
                site.as_str(),
                self.group
            ))));
        }
        go_on(self, RowKey::of_site(partition, site.clone()))
    }

    fn write(
        &mut self,
        request: Option<RequestId>,
        write: &Write,
        at: RowKey,
        rows: &mut impl Rows,
    ) -> Result<Reply> {
        let named = request.map(|request| (request, write.fingerprint()));
        if let Some(reply) =
            named.and_then(|(request, fingerprint)| self.window.recall(request, fingerprint, write))
        {
            return Ok(reply);
        }
        if self.lineage == Lineage::PENDING {
            return Ok(Reply::Refused(Error::unavailable(
                "the nodes restored from a snapshot have not agreed on a lineage yet; retry",
            )));
        }
        let verdict = self.settle(write, at, rows)?;
        let reply = verdict.reply(write);
        if let Some((request, fingerprint)) = named {
            self.window.remember(Remembered { request, fingerprint, verdict });
        }
        Ok(reply)
    }

    /// Takes all steps of a write, or none.
    fn settle(&mut self, write: &Write, mut at: RowKey, rows: &mut impl Rows) -> Result<Verdict> {
        if !takes_requests(rows, &at)? {
            return Ok(Verdict::NoSite);
        }
        let conflicts = write.bucket().conflicts();
        let mut scratch: BTreeMap<&Key, Scratch> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(write.steps().len());
        let mut dots = self.dots;
        for (number, step) in write.steps().iter().enumerate() {
            let entry = match scratch.entry(&step.key) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    at.place = Place::Key { bucket: write.bucket(), key: step.key.clone() };
                    entry.insert(Scratch {
                        versions: key_row(rows, &at)?.unwrap_or_default(),
                        changed: false,
                    })
                }
            };
            let count = entry.versions.versions().len();
            let Ok(outcome) = entry.versions.take(
                conflicts,
                step,
                Dot { lineage: self.lineage, counter: dots + 1 },
            ) else {
                return Ok(Verdict::TooManySiblings { step: number as u32 });
            };
            entry.changed |= outcome.minted() || entry.versions.versions().len() != count;
            dots += u64::from(outcome.minted());
            outcomes.push(outcome);
        }
        let written = if mutated(Mutation::BatchInPart) { 1 } else { usize::MAX };
        for (key, Scratch { versions, .. }) in
            scratch.into_iter().filter(|(_, scratch)| scratch.changed).take(written)
        {
            at.place = Place::Key { bucket: write.bucket(), key: key.clone() };
            let dropped = mutated(Mutation::TombstoneDropped) && versions.is_deleted();
            rows.set(&at, (!dropped).then_some(Row::Key(versions)))?;
            self.touched.insert(at.partition);
        }
        let first = mem::replace(&mut self.dots, dots) + 1;
        Ok(Verdict::Written { lineage: self.lineage, first, outcomes: Outcomes::pack(&outcomes) })
    }

    fn add_site(
        &mut self,
        at: RowKey,
        generation: SiteGeneration,
        rows: &mut impl Rows,
    ) -> Result<Reply> {
        match site_row(rows, &at)? {
            // This life, or a later one, has begun already or is over.
            Some(site) if site.generation >= generation => Ok(Reply::Done { changed: false }),
            Some(SiteRow { stage: SiteStage::Removing, .. }) => {
                Ok(Reply::Refused(Error::unavailable(format!(
                    "site {:?} is still being removed; retry when that is done",
                    at.site.as_str()
                ))))
            }
            _ => {
                self.set_site(&at, SiteStage::Present, generation, rows)?;
                Ok(Reply::Done { changed: true })
            }
        }
    }

    /// Ends a life of a site and all before it, whether it has begun here or not: if its beginning
    /// comes late, it does nothing any more.
    fn drop_site(
        &mut self,
        at: RowKey,
        generation: SiteGeneration,
        rows_max: u32,
        rows: &mut impl Rows,
    ) -> Result<Reply> {
        let stands = site_row(rows, &at)?;
        if stands.is_some_and(|site| {
            site.generation > generation
                || (site.generation == generation && site.stage == SiteStage::Removed)
        }) {
            return Ok(Reply::Done { changed: false });
        }
        let rows_max = rows_max.max(1) as usize;
        let range = keys_range(at.partition, &at.site);
        let (mut doomed, mut bytes, mut more) = (Vec::new(), 0, false);
        rows.visit(&range.start, &range.end, &mut |key, row| {
            more = doomed.len() == rows_max || bytes >= limits::SITE_DROP_BYTES;
            if !more {
                bytes += row_bytes(&row);
                doomed.push(key);
            }
            Ok(!more)
        })?;
        for key in &doomed {
            rows.set(key, None)?;
        }
        self.set_site(
            &at,
            if more { SiteStage::Removing } else { SiteStage::Removed },
            generation,
            rows,
        )?;
        Ok(Reply::SiteDropped { more })
    }

    fn set_site(
        &mut self,
        at: &RowKey,
        stage: SiteStage,
        generation: SiteGeneration,
        rows: &mut impl Rows,
    ) -> Result<()> {
        rows.set(at, Some(Row::Site(SiteRow { stage, generation })))?;
        self.touched.insert(at.partition);
        Ok(())
    }

    fn set_lineage(&mut self, lineage: Lineage) -> Reply {
        if lineage == Lineage::PENDING {
            return Reply::Refused(Error::invalid("lineage 0 stands for none and cannot be set"));
        }
        Reply::Done { changed: mem::replace(&mut self.lineage, lineage) != lineage }
    }
}

/// Bytes of values, about.
fn row_bytes(row: &Row) -> usize {
    match row {
        Row::Site(_) => 0,
        Row::Key(versions) => versions
            .versions()
            .iter()
            .map(|v| v.value.as_ref().map_or(0, |v| v.as_bytes().len()))
            .sum(),
    }
}

/// A key while a write is worked out.
struct Scratch {
    versions: Versions,
    changed: bool,
}
