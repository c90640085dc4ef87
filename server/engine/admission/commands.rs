//! What may be asked of a group, by whom: commands and queries as they come in, from this node's
//! own services and from others.
//!
//! A command that is proposed is in the log for good, so this is the last place to refuse it. Some
//! are nobody's to ask for: a group's leader sets marks and the lineage itself, and the meta
//! group's leader seals, aborts and names a history, each when it has seen for itself that it is
//! time.
//!
//! What a command says of a site is held against the registry: only the registry's word begins or
//! ends a life of a site. The leader here may not have applied that word yet; then whoever asks is
//! told to ask again.

use super::Facts;
use crate::{
    base::{
        error::Error,
        ids::{SiteGeneration, SiteId},
        limits,
    },
    cluster::{
        self,
        level::Level,
        sites::{Site, SiteState},
    },
    data::{self, Query},
    entry::{Action, Command},
};

/// Why a command or a query is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::engine) enum Objection {
    /// The registry here may not have come so far.
    Later,
    /// The field that says what must not be, and what whoever asks is told.
    Wrong(&'static str, Error),
}

/// What may be proposed in the group, for `facts.from`.
pub(in crate::engine) fn command(facts: &Facts<'_>, command: &Command) -> Result<(), Objection> {
    let group = facts.group;
    let not_asked_for = |field, what: &str, who: &str| {
        Err(Objection::Wrong(field, Error::invalid(format!("{what} is not asked for: {who}"))))
    };
    match &command.action {
        Action::Mark(_) => not_asked_for(
            "Command.mark",
            "a mark",
            "the group's leader sets it when the meta group takes a snapshot",
        ),
        Action::Data(data::Command::SetLineage { .. }) => not_asked_for(
            "Command.set_lineage",
            "a lineage",
            "the group's leader brings the meta group's into the log",
        ),
        Action::Meta(_) if !group.is_meta() => Err(Objection::Wrong(
            "Command.meta",
            Error::invalid(format!(
                "group {group} holds sites; the cluster's configuration is changed in the meta \
                 group"
            )),
        )),
        Action::Data(_) if group.is_meta() => Err(Objection::Wrong(
            field_of(command),
            Error::invalid(
                "the meta group holds no data of sites; ask the group that the site lies in",
            ),
        )),
        Action::Meta(command) => meta_command(facts, command),
        Action::Data(command) => data_command(facts, command),
    }
}

/// What may be read in the group.
pub(in crate::engine) fn query(facts: &Facts<'_>, query: &Query) -> Result<(), Objection> {
    lies_here(facts, &query.site, "Query.site")
}

fn field_of(command: &Command) -> &'static str {
    match &command.action {
        Action::Data(data::Command::Write(_)) => "Command.write",
        Action::Data(data::Command::AddSite { .. }) => "Command.add_site_data",
        Action::Data(data::Command::DropSite { .. }) => "Command.drop_site_data",
        Action::Data(data::Command::SetLineage { .. }) => "Command.set_lineage",
        Action::Mark(_) => "Command.mark",
        Action::Meta(_) => "Command.meta",
    }
}

fn data_command(facts: &Facts<'_>, command: &data::Command) -> Result<(), Objection> {
    match command {
        data::Command::Write(write) => lies_here(facts, write.site(), "Write.site"),
        data::Command::AddSite { site, generation } => {
            lies_here(facts, site, "AddSiteData.site")?;
            may_begin(facts, site, *generation)
        }
        data::Command::DropSite { site, generation, rows_max } => {
            lies_here(facts, site, "DropSiteData.site")?;
            if !(1..=limits::SITE_DROP_ROWS).contains(rows_max) {
                let most = limits::SITE_DROP_ROWS;
                return Err(Objection::Wrong(
                    "DropSiteData.rows_max",
                    Error::invalid(format!("1 to {most} rows are deleted at once, not {rows_max}")),
                ));
            }
            may_end(facts, site, *generation)
        }
        // Refused before.
        data::Command::SetLineage { .. } => Ok(()),
    }
}

fn lies_here(facts: &Facts<'_>, site: &SiteId, field: &'static str) -> Result<(), Objection> {
    let group = facts.topology.group_of_site(site);
    if group == facts.group {
        return Ok(());
    }
    Err(Objection::Wrong(
        field,
        Error::invalid(format!(
            "site {:?} lies in group {group}, not in group {}; ask there",
            site.as_str(),
            facts.group
        )),
    ))
}

/// A life of a site begins where the registry lists it; one before that does nothing any more.
fn may_begin(
    facts: &Facts<'_>,
    site: &SiteId,
    generation: SiteGeneration,
) -> Result<(), Objection> {
    match facts.meta.sites().site(site) {
        Some(listed) if generation <= listed.generation => Ok(()),
        None if generation <= facts.meta.settings().site_generations => {
            let gone = Error::conflict(format!(
                "site {:?} was removed meanwhile; add it again",
                site.as_str()
            ));
            Err(Objection::Wrong("AddSiteData.generation", gone))
        }
        _ => numbered("AddSiteData.generation", generation),
    }
}

/// A life of a site ends when the registry says so, or has said so.
fn may_end(facts: &Facts<'_>, site: &SiteId, generation: SiteGeneration) -> Result<(), Objection> {
    let over = match facts.meta.sites().site(site) {
        Some(Site { state: SiteState::Removing, generation: listed }) => generation <= listed,
        Some(listed) => generation < listed.generation,
        None => generation <= facts.meta.settings().site_generations,
    };
    if over { Ok(()) } else { numbered("DropSiteData.generation", generation) }
}

/// A number that the registry has not come to yet, unless it never will.
fn numbered(field: &'static str, generation: SiteGeneration) -> Result<(), Objection> {
    if generation.0 <= limits::COUNT_MAX {
        return Err(Objection::Later);
    }
    Err(Objection::Wrong(field, Error::invalid(format!("no site has lived {generation} times"))))
}

fn meta_command(facts: &Facts<'_>, command: &cluster::Command) -> Result<(), Objection> {
    let own = |field, what: &str| {
        Err(Objection::Wrong(
            field,
            Error::invalid(format!(
                "{what} is not asked for: the meta group's leader sees for itself"
            )),
        ))
    };
    let (needs, level) = (command.level(), facts.meta.settings().level);
    if needs > level {
        // A leader knows; who does not lead may not have heard the latest.
        return if facts.replica.is_some_and(|replica| replica.leads) {
            Err(Objection::Wrong("Command.meta", above(needs, level)))
        } else {
            Err(Objection::Later)
        };
    }
    match command {
        cluster::Command::SealSnapshot { .. } => own("MetaCommand.seal_snapshot", "a seal"),
        cluster::Command::AbortSnapshot { .. } => own("MetaCommand.abort_snapshot", "an abort"),
        cluster::Command::EstablishLineage { .. } => {
            own("MetaCommand.establish_lineage", "a lineage")
        }
        cluster::Command::ReportPart { part, .. } if part.node != facts.from => {
            let told = format!(
                "node {} reports a part of node {}; each node reports its own",
                facts.from, part.node
            );
            Err(Objection::Wrong("MetaCommand.report_part", Error::invalid(told)))
        }
        cluster::Command::ReportDeletion { node, .. } if *node != facts.from => {
            let told = format!(
                "node {} reports that node {node} has deleted its part; each node reports its own",
                facts.from
            );
            Err(Objection::Wrong("MetaCommand.report_deletion", Error::invalid(told)))
        }
        cluster::Command::Decommissioned { node, .. } if *node != facts.from => {
            let told = format!(
                "node {} reports that node {node} has left; each node reports its own leave",
                facts.from
            );
            Err(Objection::Wrong("MetaCommand.decommissioned", Error::invalid(told)))
        }
        // One in another history would keep its node out of this one.
        cluster::Command::AnnounceNode(node) | cluster::Command::JoinNode { node, .. }
            if node.lineage != facts.meta.settings().lineage =>
        {
            Err(Objection::Later)
        }
        cluster::Command::AnnounceNode(node) if node.certificate_name.is_some() => {
            let told = format!(
                "node {} announces the name of a certificate; whoever hears a node notes its name",
                node.id
            );
            Err(Objection::Wrong("MetaCommand.announce_node", Error::invalid(told)))
        }
        cluster::Command::AnnounceNode(_)
        | cluster::Command::SetJoins { .. }
        | cluster::Command::JoinNode { .. }
        | cluster::Command::BindNode { .. }
        | cluster::Command::ReportPart { .. }
        | cluster::Command::ReportDeletion { .. } => Ok(()),
        // What clients ask for and may see, or what the state machine holds against the registry.
        cluster::Command::AddSite(_)
        | cluster::Command::SiteAdded { .. }
        | cluster::Command::RemoveSite(_)
        | cluster::Command::SiteRemoved { .. } => Ok(()),
        cluster::Command::AddRelay(_)
        | cluster::Command::RemoveRelay(_)
        | cluster::Command::MoveRelay(_) => Ok(()),
        cluster::Command::BeginSnapshot { .. }
        | cluster::Command::BeginDeletion { .. }
        | cluster::Command::ForgetSnapshot { .. } => Ok(()),
        cluster::Command::RaiseLevel(_) | cluster::Command::RemoveNode { .. } => Ok(()),
        cluster::Command::Operate { change, .. } => meta_command(facts, change),
        cluster::Command::SetDraining { .. }
        | cluster::Command::FinishOperation { .. }
        | cluster::Command::CancelOperation { .. } => Ok(()),
        cluster::Command::AddGrant(_)
        | cluster::Command::RemoveGrant(_)
        | cluster::Command::CreateToken(_)
        | cluster::Command::RevokeToken(_)
        | cluster::Command::ResumeToken(_) => Ok(()),
        cluster::Command::PutSchedule { .. }
        | cluster::Command::DeleteSchedule(_)
        | cluster::Command::PauseSchedule { .. }
        | cluster::Command::RunSchedule { .. }
        | cluster::Command::DecideRun(_)
        | cluster::Command::EndRun { .. } => Ok(()),
        cluster::Command::Decommission { .. }
        | cluster::Command::CancelDecommission { .. }
        | cluster::Command::Decommissioned { .. }
        | cluster::Command::SetCapacity { .. }
        | cluster::Command::Rebalance { .. } => Ok(()),
    }
}

fn above(needs: Level, level: Level) -> Error {
    Error::conflict(format!(
        "this needs level {needs}, and the cluster is at level {level}, which an older version can \
         still read: once every node runs a version that knows level {needs}, say ddbctl cluster \
         upgrade finalize"
    ))
}

/// Fields of commands and queries that the functions above look at: the field, and the rule.
#[cfg(test)]
pub(super) const RULES: &[(&str, &str)] = &[
    ("Command.write", "in the data group that its site lies in"),
    ("Command.add_site_data", "in the data group that its site lies in"),
    ("Command.drop_site_data", "in the data group that its site lies in"),
    ("Command.mark", "by nobody: a leader sets its own"),
    ("Command.set_lineage", "by nobody: a leader sets its own"),
    ("Command.meta", "in the meta group"),
    ("AddSiteData.site", "lies in the group"),
    ("AddSiteData.generation", "a life that the registry lists, or one before it"),
    ("DropSiteData.site", "lies in the group"),
    ("DropSiteData.generation", "a life that the registry is ending or has ended"),
    ("DropSiteData.rows_max", "1 to SITE_DROP_ROWS"),
    ("SetLineage.lineage", "by nobody: a leader sets its own"),
    (
        "MetaCommand.announce_node",
        "in the cluster's present lineage, and without the name of a certificate",
    ),
    ("MetaCommand.join_node", "in the cluster's present lineage"),
    ("MetaCommand.seal_snapshot", "by nobody: the meta leader's own"),
    ("MetaCommand.abort_snapshot", "by nobody: the meta leader's own"),
    ("MetaCommand.establish_lineage", "by nobody: the meta leader's own"),
    ("MetaCommand.report_part", "by the node whose part it is"),
    ("MetaCommand.report_deletion", "by the node whose part it is"),
    ("MetaCommand.decommissioned", "by the node that has left"),
    ("Query.site", "lies in the group"),
];
