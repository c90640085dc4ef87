//! The way back from lost majorities: offline, on the stores of the nodes that are left.
//!
//! 1. [`inspect`] reports what one store holds. It changes nothing that the report names; a store
//!    whose node crashed is repaired as by a start.
//! 2. [`plan`] takes the reports of all stores that are left and decides what is kept ([`choose`]).
//!    It touches no store.
//! 3. [`apply`] makes of one store what the plan says. Then the nodes are started as always.
//!
//! # What becomes of the groups
//!
//! The **meta group** begins anew on all survivors, as after a restore: the plan has its state at
//! the end of the kept log, which `inspect` has replayed (the state machine is pure), cut down to
//! the survivors. Every store gets the same rows, the same members and the same place, one entry
//! behind the kept log; the log is empty behind it. What stood in the kept log is in the rows, so
//! nothing acknowledged that it had is lost, and no change of members in it takes effect.
//!
//! A **data group** begins with the kept replica as its only voter. Rows and log stay, and the
//! engine commits and applies all of the log when the node starts: a majority of one has it.
//! Changes of members in the log would bring lost nodes back as voters, so they are replaced by
//! entries without effect at the same places; nobody else holds a copy of the log, and the group's
//! history is a new one. The other survivors' replicas become empty, but for the term and the vote
//! that they have given, and get their rows again as members that join.
//!
//! A group that was given up begins as in a founding.
//!
//! # Why the lost nodes cannot come back
//!
//! The history of every survivor becomes one that has no name yet and began with the plan's id
//! (`lineage` 0 and `restored_from`), as if the plan were a snapshot. The first meta leader names
//! it. Nodes refuse peers of another history, and the lost ones are also removed by name.
//!
//! # Crashes
//!
//! The store changes in one transaction, with a note that the recovery has begun; then the logs
//! change, all groups in one write; then the note says that it is done. Each step may be done
//! twice. A node does not start from a store whose note says that it has begun only (`noted`), and
//! `apply` with the same plan goes on there.

pub mod choose;
pub mod forms;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use self::{
    choose::{Choice, Copied, Terms},
    forms::{
        Configuration, GroupPlan, History, MembersForm, MetaPlan, NodeForm, Place, Plan,
        ReplicaForm, Report, Survivor,
    },
};
use super::{
    noted::{Noted, refuse_half_recovered},
    restore,
};
use crate::{
    base::{
        disk,
        error::{Error, Kind, Result},
        ids::{GroupId, Lineage, NodeId},
    },
    cluster::{State, reconfigure::Membership},
    data,
    engine::{load_meta, survey},
    entry::{Identity, LOG_BEGIN, Position, Record},
    faults::failpoint::{Failpoint, failpoint},
    log::{Batch, Log},
    store::{Claim, Commit, FORMAT, Store, View, keys},
    wire,
};

/// A store that no node can start from meanwhile.
struct Held {
    _claim: Claim,
    store: Store,
    identity: Identity,
}

impl Held {
    fn on(dir: &Path) -> Result<Held> {
        if !Store::exists(dir) {
            return Err(Error::not_found(format!(
                "{} holds no store: name the directory of a node that is left, as in its --store",
                dir.display()
            )));
        }
        let claim = Claim::on(dir).map_err(|e| match e.kind {
            Kind::Conflict => Error::conflict(format!("{e}: stop the node first")),
            _ => e,
        })?;
        let (store, identity) = restore::read(dir, &disk::Machine)?;
        Ok(Held { _claim: claim, store, identity })
    }

    fn log(&self, dir: &Path) -> Result<Log> {
        if !self.store.has_served()? {
            return Err(Error::conflict(format!(
                "no node has served from {} yet, so it has nothing that the others lack: leave it \
                 out, and start the node with an empty directory and --join later",
                dir.display()
            )));
        }
        restore::open_log(dir, Arc::new(disk::Machine), &self.store)
    }
}

/// Every group that the store or the log knows.
fn records(view: &View, log: &Log) -> Result<BTreeMap<GroupId, Record>> {
    let mut records = BTreeMap::new();
    for (group, bytes) in view.groups()? {
        let record = wire::decode_record(&bytes);
        records.insert(group, record.map_err(|e| e.at(format!("record of group {group}")))?);
    }
    for group in log.groups() {
        records.entry(group).or_default();
    }
    Ok(records)
}

/// What a store holds.
pub fn inspect(dir: &Path) -> Result<Report> {
    let held = Held::on(dir)?;
    refuse_half_recovered(dir, &held.store)?;
    report(&held, &held.log(dir)?)
}

fn report(held: &Held, log: &Log) -> Result<Report> {
    let view = held.store.view()?;
    let (mut replicas, mut applied, mut meta) = (Vec::new(), None, None);
    for (group, record) in records(&view, log)? {
        let mut form = form(group, &record);
        if record.applied.index == 0 {
            form.unfit = Some("it has not received anything yet".into());
            replicas.push(form);
            continue;
        }
        let state = match group.is_meta() {
            true => Some(load_meta(&view, &held.identity)?),
            false => None,
        };
        match survey::survey(log, group, &record, state.clone()) {
            Ok(found) => {
                form.last = Place::of(found.last);
                (form.commit, form.term) = (found.commit, found.term);
                form.mark = found.mark.0;
                form.members = found.members.iter().map(MembersForm::of).collect();
                if let (Some(now), Some(end)) = (&state, &found.meta) {
                    meta = Some(Configuration::of(now, end));
                }
            }
            Err(e) if e.kind == Kind::Corrupt => form.unfit = Some(e.message),
            Err(e) => return Err(e.at(format!("group {group}"))),
        }
        applied = applied.or(state);
        replicas.push(form);
    }
    view.whole()?;
    Ok(Report { meta, ..Report::of(&held.identity, applied.as_ref(), replicas) })
}

fn form(group: GroupId, record: &Record) -> ReplicaForm {
    ReplicaForm {
        group,
        applied: Place::of(record.applied),
        last: Place::of(record.applied),
        commit: record.applied.index,
        term: record.applied.term,
        mark: record.mark.0,
        members: vec![MembersForm::of(&record.members)],
        unfit: None,
    }
}

/// The plan for all stores that are left, and what people have to know of it.
pub fn plan(reports: &[Report], terms: &Terms) -> Result<(Plan, String)> {
    let copies: Vec<Copied> = reports.iter().map(Report::copied).collect::<Result<_>>()?;
    let choice = choose::choose(&copies, terms)?;
    let told = choice.told();
    let plan = written(reports, terms, &choice)?.sealed()?;
    Ok((plan, told))
}

fn written(reports: &[Report], terms: &Terms, choice: &Choice) -> Result<Plan> {
    let survivor = |report: &Report| {
        Ok(Survivor {
            node: report.node,
            address: report.address.clone(),
            report: report.digest()?,
            logs: report.logs(),
        })
    };
    let group = |(group, fate): (&GroupId, &choose::Fate)| GroupPlan {
        group: *group,
        on: fate.on,
        kept: fate.kept.map(Place::of),
        may_lack: fate.may_lack,
        lost: forms::texts(&fate.lost),
        sites: fate.sites.iter().map(|site| site.as_str().to_owned()).collect(),
    };
    let end = choice.meta.kept.unwrap_or_default();
    Ok(Plan {
        format: forms::PLAN_FORMAT,
        id: terms.id,
        made_ms: terms.at_ms,
        history: reports
            .first()
            .map(|report| report.history.clone())
            .ok_or_else(|| Error::invalid("a plan needs a report"))?,
        survivors: reports.iter().map(survivor).collect::<Result<_>>()?,
        lost: choice.lost.iter().map(|(node, address)| NodeForm::of(*node, address)).collect(),
        meta: MetaPlan {
            kept_from: choice.meta.on,
            may_lack: choice.meta.may_lack,
            at: Place { term: end.term, index: end.index + 1 },
            members: MembersForm::of(&meta_members(&choice.state)),
            rows: forms::encode_rows(&choice.state),
        },
        groups: choice.groups.iter().map(group).collect(),
        digest: String::new(),
    })
}

fn meta_members(state: &State) -> Membership {
    let wanted = state.wanted(GroupId::META);
    Membership { voters: wanted.voters.into_iter().collect(), learners: wanted.learners }
}

/// What `apply` has found or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Now,
    /// An earlier run had done it.
    Before,
}

/// Makes of a store what the plan says. `confirm` is asked once all checks have passed and before
/// anything changes.
pub fn apply(plan: &Plan, dir: &Path, confirm: impl FnOnce() -> Result<()>) -> Result<Applied> {
    let held = Held::on(dir)?;
    let log = held.log(dir)?;
    let begun = Noted { plan: plan.id, done: false };
    match Noted::of(&held.store)? {
        Some(noted) if noted == (Noted { done: true, ..begun }) => return Ok(Applied::Before),
        Some(noted) if noted == begun => {}
        Some(noted) if !noted.done => return Err(noted.unfinished(dir)),
        noted => {
            fits(plan, dir, &held, &log, noted)?;
            confirm()?;
            failpoint(Failpoint::RecoverChecked);
            change_store(plan, &held, &log, begun)?;
            failpoint(Failpoint::RecoverStored);
        }
    }
    change_logs(plan, &held, &log)?;
    failpoint(Failpoint::RecoverLogged);
    held.store.set_recovery(&Noted { done: true, ..begun }.encode())?;
    failpoint(Failpoint::RecoverDone);
    Ok(Applied::Now)
}

/// Refuses a plan that was not made for this store as it is now.
fn fits(plan: &Plan, dir: &Path, held: &Held, log: &Log, noted: Option<Noted>) -> Result<()> {
    let (identity, dir) = (&held.identity, dir.display());
    let own = History::of(identity);
    if own.cluster != plan.history.cluster {
        return Err(Error::conflict(format!(
            "{dir} is of cluster {}, and the plan is for cluster {}",
            own.cluster, plan.history.cluster
        )));
    }
    let survivor = plan.survivors.iter().find(|survivor| survivor.node == identity.node);
    let survivor = survivor.ok_or_else(|| {
        Error::conflict(format!(
            "{dir} is the store of node {}, whose report was not among those that the plan was \
             made of. Make a plan of the reports of all nodes that are left, or start this node \
             with an empty store and --join when the others serve",
            identity.node
        ))
    })?;
    if let Some(other) = noted.filter(|noted| own.restored_from == Some(noted.plan))
        && own != plan.history
    {
        return Err(Error::conflict(format!(
            "{dir} was recovered by plan {} already, and this is plan {}: stores of two plans do \
             not come together. Apply plan {0} to the others",
            other.plan, plan.id
        )));
    }
    if own != plan.history {
        return Err(Error::conflict(format!(
            "{dir} is of another history of the cluster (lineage {}) than the plan (lineage {})",
            own.lineage, plan.history.lineage
        )));
    }
    let now = report(held, log)?;
    if now.digest()? == survivor.report {
        return Ok(());
    }
    let ends = now.logs();
    let groups = ends.keys().chain(survivor.logs.keys()).collect::<BTreeSet<_>>();
    let differs = groups.into_iter().find(|group| ends.get(*group) != survivor.logs.get(*group));
    let end = |place: Option<&Place>| place.map_or("nowhere".to_owned(), Place::to_string);
    let what = match differs {
        Some(group) => format!(
            "the log of group {group} ended at {} when it was inspected, and ends at {} now",
            end(survivor.logs.get(group)),
            end(ends.get(group))
        ),
        None => "it has changed since it was inspected".to_owned(),
    };
    Err(Error::conflict(format!(
        "{dir} is not as the plan knows it: {what}. Stop the nodes that are left, inspect all of \
         them again and make a new plan"
    )))
}

/// What becomes of one group on this node.
enum Part {
    Kept,
    /// Everything goes, and the log begins there.
    Begins(Position, Record),
}

fn part(plan: &Plan, identity: &Identity, group: GroupId) -> Result<Part> {
    if group.is_meta() {
        let members = plan.meta.members.parse()?;
        let applied = plan.meta.at.position();
        return Ok(Part::Begins(applied, Record { applied, members, ..Record::default() }));
    }
    let planned = plan.groups.iter().find(|planned| planned.group == group);
    Ok(match planned.filter(|planned| planned.on == identity.node) {
        Some(GroupPlan { kept: Some(_), .. }) => Part::Kept,
        Some(_) => {
            let data = data::State { lineage: plan.history.lineage, ..data::State::default() };
            let members = alone(identity.node);
            let record = Record { applied: LOG_BEGIN, members, data, ..Record::default() };
            Part::Begins(LOG_BEGIN, record)
        }
        None => Part::Begins(Position::default(), Record::default()),
    })
}

fn alone(node: NodeId) -> Membership {
    Membership { voters: [node].into(), learners: BTreeSet::new() }
}

/// The groups that this node has or begins with.
fn groups_here(plan: &Plan, held: &Held, log: &Log) -> Result<BTreeMap<GroupId, Record>> {
    let mut here = records(&held.store.view()?, log)?;
    here.entry(GroupId::META).or_default();
    for planned in plan.groups.iter().filter(|planned| planned.on == held.identity.node) {
        here.entry(planned.group).or_default();
    }
    Ok(here)
}

fn change_store(plan: &Plan, held: &Held, log: &Log, begun: Noted) -> Result<()> {
    let identity = Identity {
        format: FORMAT,
        lineage: Lineage::PENDING,
        restored_from: Some(plan.id),
        ..held.identity.clone()
    };
    let here = groups_here(plan, held, log)?;
    let mut commit = held.store.begin()?;
    commit.identity(&wire::encode_identity(&identity))?;
    commit.recovery(&begun.encode())?;
    for (group, record) in here {
        let record = match part(plan, &identity, group)? {
            Part::Kept => Record { members: alone(identity.node), ..record },
            Part::Begins(_, record) => {
                commit.clear_group(identity.topology, group)?;
                record
            }
        };
        commit.group(group, &wire::encode_record(&record))?;
    }
    put_meta(&mut commit, plan)?;
    failpoint(Failpoint::RecoverWritten);
    commit.finish()
}

fn put_meta(commit: &mut Commit, plan: &Plan) -> Result<()> {
    // Rows that contradict each other would end the node at each start.
    forms::decode_rows(&plan.meta.rows)?;
    let rows = forms::rows_in_bytes(&plan.meta.rows)?;
    let rows: Vec<_> = rows.iter().map(|(name, row)| (keys::meta(name), row)).collect();
    commit.rows(rows.iter().map(|(key, row)| (key.as_slice(), Some(row.as_slice()))))
}

/// Terms and votes stay: whoever has voted in a term does not vote in it once more.
fn change_logs(plan: &Plan, held: &Held, log: &Log) -> Result<()> {
    let mut batch = Batch::default();
    let known: BTreeSet<GroupId> = log.groups().into_iter().collect();
    for (group, record) in groups_here(plan, held, log)? {
        match part(plan, &held.identity, group)? {
            Part::Kept => survey::without_changes(log, group, record.applied, &mut batch)?,
            Part::Begins(at, _) if at != Position::default() || known.contains(&group) => {
                batch.restart(group, at, log.find(group)?.last_index)?;
            }
            Part::Begins(..) => {}
        }
    }
    log.write(&mut batch, true)
}
