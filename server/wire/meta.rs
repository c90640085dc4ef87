//! The meta group's commands and rows.
//!
//! A row's name is a letter for its kind, then the thing's own name: `s` settings, `n` node, `i`
//! site, `r` relay, `a` assignment, `x` snapshot, `d` removed node, `o` operation, `g` grant, `t`
//! token, `h` schedule; numbers are big-endian. A grant's name is all that it says.

use bytes::Bytes;
use prost::Message as _;

use super::{absent, access, as_corrupt, operation, row, schedule, stored};
use crate::{
    base::{
        error::{Error, Result},
        ids::{
            GroupId, Lineage, NodeId, OperationId, RelayId, ScheduleId, SiteGeneration, SiteId,
            SnapshotId, SnapshotSeq, Topology,
        },
    },
    cluster::{
        self, Away, Changed, Command, Etag, Node, Removed, State,
        level::Level,
        sites::{Relay, Site, SiteState},
        snapshots::{Part, Snapshot, Stage, Status},
        state::{Rows, Settings},
    },
    proto::internal::{v1 as internal, v1::meta_command::Action as Wire},
};

pub fn meta_command(command: &Command) -> internal::MetaCommand {
    let action = match command {
        Command::Operate { begin, change } => {
            let operation = Some(operation::begin_record(begin));
            return internal::MetaCommand { operation, ..meta_command(change) };
        }
        Command::FinishOperation { id, ended_ms, seen } => {
            Wire::FinishOperation(internal::FinishOperation {
                id: id.0,
                ended_ms: *ended_ms,
                seen: seen.0,
            })
        }
        Command::CancelOperation { id, ended_ms, .. } => {
            Wire::CancelOperation(internal::CancelOperation { id: id.0, ended_ms: *ended_ms })
        }
        Command::SetDraining { node, draining, at_ms } => {
            Wire::SetDraining(internal::SetDraining {
                node_id: node.0,
                draining: *draining,
                at_ms: *at_ms,
            })
        }
        Command::BindNode { node, name, anew } => {
            Wire::BindNode(internal::BindNode { node_id: node.0, name: name.clone(), anew: *anew })
        }
        Command::AnnounceNode(node) => Wire::AnnounceNode(node_record(node)),
        Command::JoinNode { node, .. } => Wire::JoinNode(node_record(node)),
        Command::AddSite(site) => Wire::AddSite(site.as_str().to_owned()),
        Command::SiteAdded { site, .. } => Wire::SiteAdded(site.as_str().to_owned()),
        Command::RemoveSite(site) => Wire::RemoveSite(site.as_str().to_owned()),
        Command::SiteRemoved { site, .. } => Wire::SiteRemoved(site.as_str().to_owned()),
        Command::AddRelay(relay) => Wire::AddRelay(relay_record(relay)),
        Command::RemoveRelay(relay) => Wire::RemoveRelay(relay.as_str().to_owned()),
        Command::MoveRelay(relay) => Wire::MoveRelay(relay_record(relay)),
        Command::BeginSnapshot { id, created_ms } => Wire::BeginSnapshot(internal::BeginSnapshot {
            uuid: uuid(*id),
            created_ms: *created_ms,
        }),
        Command::SealSnapshot { seq } => Wire::SealSnapshot(internal::SealSnapshot { seq: seq.0 }),
        Command::AbortSnapshot { seq, reason } => {
            Wire::AbortSnapshot(internal::AbortSnapshot { seq: seq.0, reason: reason.clone() })
        }
        Command::ReportPart { id, part } => Wire::ReportPart(internal::ReportPart {
            uuid: uuid(*id),
            part: Some(part_record(part)),
        }),
        Command::ForgetSnapshot { id } => Wire::DeleteSnapshot(uuid(*id)),
        Command::BeginDeletion { id, lineage } => Wire::BeginDeletion(internal::BeginDeletion {
            uuid: uuid(*id),
            lineage: lineage.unwrap_or_default().0,
        }),
        Command::ReportDeletion { id, node, reason } => {
            Wire::ReportDeletion(internal::ReportDeletion {
                uuid: uuid(*id),
                node_id: node.0,
                reason: reason.clone(),
            })
        }
        Command::EstablishLineage { nonce } => {
            Wire::EstablishLineage(internal::EstablishLineage { nonce: *nonce })
        }
        Command::RaiseLevel(level) => Wire::RaiseLevel(level.0),
        Command::RemoveNode { node, removed_ms, seen, by, .. } => {
            Wire::RemoveNode(internal::RemoveNode {
                node_id: node.0,
                removed_ms: *removed_ms,
                seen: seen.0,
                replacement_id: by.map_or(0, |by| by.0),
            })
        }
        Command::Decommission { node, seen, by, .. } => {
            Wire::Decommission(internal::Decommission {
                node_id: node.0,
                seen: seen.0,
                replacement_id: by.map_or(0, |by| by.0),
            })
        }
        Command::CancelDecommission { node, .. } => Wire::CancelDecommission(node.0),
        Command::Decommissioned { node, removed_ms } => {
            Wire::Decommissioned(internal::Decommissioned {
                node_id: node.0,
                removed_ms: *removed_ms,
            })
        }
        Command::SetCapacity { node, percent, .. } => {
            Wire::SetCapacity(internal::SetCapacity { node_id: node.0, percent: *percent })
        }
        Command::Rebalance { seen, .. } => Wire::Rebalance(internal::Rebalance { seen: seen.0 }),
        Command::AddGrant(grant) => Wire::AddGrant(access::grant_record(grant)),
        Command::RemoveGrant(grant) => Wire::RemoveGrant(access::grant_record(grant)),
        Command::CreateToken(token) => Wire::CreateToken(access::token_record(token)),
        Command::RevokeToken(id) => Wire::RevokeToken(id.0),
        Command::ResumeToken(id) => Wire::ResumeToken(id.0),
        Command::SetJoins { need_token } => {
            Wire::SetJoins(internal::SetJoins { need_token: *need_token })
        }
        Command::PutSchedule { id, definition, at_ms, replace } => {
            schedule::put(id, definition, *at_ms, *replace)
        }
        Command::DeleteSchedule(id) => Wire::DeleteSchedule(id.as_str().to_owned()),
        Command::PauseSchedule { id, paused, at_ms } => schedule::pause(id, *paused, *at_ms),
        Command::RunSchedule { id, run } => schedule::run_schedule(id, run),
        Command::DecideRun(decision) => schedule::decide(decision),
        Command::EndRun { id, snapshot, ended_ms, reason } => {
            schedule::end(id, *snapshot, *ended_ms, reason)
        }
    };
    let away = match command {
        Command::JoinNode { away, .. }
        | Command::RemoveNode { away, .. }
        | Command::Decommission { away, .. }
        | Command::CancelDecommission { away, .. }
        | Command::SetCapacity { away, .. }
        | Command::Rebalance { away, .. }
        | Command::CancelOperation { away, .. } => away.iter().map(|node| node.0).collect(),
        _ => Vec::new(),
    };
    let site_generation = match command {
        Command::SiteAdded { generation, .. } | Command::SiteRemoved { generation, .. } => {
            generation.0
        }
        _ => 0,
    };
    let ticket = match command {
        Command::JoinNode { ticket, .. } => ticket.as_ref().map(access::ticket_record),
        _ => None,
    };
    internal::MetaCommand { action: Some(action), site_generation, away, operation: None, ticket }
}

pub fn parse_meta_command(mut command: internal::MetaCommand) -> Result<Command> {
    let operation = command.operation.take();
    let command = parse_action(command)?;
    let command = match operation {
        None => command,
        Some(begin) => operation::operate(begin, command)?,
    };
    let needs = command.level();
    if needs > Level::own() {
        return Err(Error::conflict(format!(
            "it is of level {needs}, and this version knows only those up to {}",
            Level::own()
        )));
    }
    Ok(command)
}

fn parse_action(command: internal::MetaCommand) -> Result<Command> {
    let generation = SiteGeneration(command.site_generation);
    let away: Away = command.away.into_iter().map(NodeId).collect();
    let replacement = |id: u64| Some(NodeId(id)).filter(|by| *by != NodeId(0));
    Ok(match command.action.ok_or_else(|| absent("a meta command's action"))? {
        Wire::AnnounceNode(node) => Command::AnnounceNode(parse_node(node)?),
        Wire::JoinNode(node) => {
            let ticket = command.ticket.map(access::parse_ticket).transpose()?;
            Command::JoinNode { node: parse_node(node)?, away, ticket }
        }
        Wire::AddSite(site) => Command::AddSite(SiteId::new(site)?),
        Wire::SiteAdded(site) => Command::SiteAdded { site: SiteId::new(site)?, generation },
        Wire::RemoveSite(site) => Command::RemoveSite(SiteId::new(site)?),
        Wire::SiteRemoved(site) => Command::SiteRemoved { site: SiteId::new(site)?, generation },
        Wire::AddRelay(relay) => Command::AddRelay(parse_relay(relay)?),
        Wire::RemoveRelay(relay) => Command::RemoveRelay(RelayId::new(relay)?),
        Wire::MoveRelay(relay) => Command::MoveRelay(parse_relay(relay)?),
        Wire::BeginSnapshot(begin) => Command::BeginSnapshot {
            id: SnapshotId::from_slice(&begin.uuid)?,
            created_ms: begin.created_ms,
        },
        Wire::SealSnapshot(seal) => Command::SealSnapshot { seq: SnapshotSeq(seal.seq) },
        Wire::AbortSnapshot(abort) => {
            Command::AbortSnapshot { seq: SnapshotSeq(abort.seq), reason: abort.reason }
        }
        Wire::ReportPart(report) => {
            let part = parse_part(report.part.ok_or_else(|| absent("a reported part"))?)?;
            Command::ReportPart { id: SnapshotId::from_slice(&report.uuid)?, part }
        }
        Wire::DeleteSnapshot(id) => Command::ForgetSnapshot { id: SnapshotId::from_slice(&id)? },
        Wire::BeginDeletion(begin) => {
            let lineage = Some(Lineage(begin.lineage)).filter(|named| *named != Lineage::PENDING);
            Command::BeginDeletion { id: SnapshotId::from_slice(&begin.uuid)?, lineage }
        }
        Wire::ReportDeletion(report) => Command::ReportDeletion {
            id: SnapshotId::from_slice(&report.uuid)?,
            node: NodeId(report.node_id),
            reason: report.reason,
        },
        Wire::EstablishLineage(establish) => Command::EstablishLineage { nonce: establish.nonce },
        Wire::RaiseLevel(level) => Command::RaiseLevel(Level(level)),
        Wire::RemoveNode(remove) => Command::RemoveNode {
            node: NodeId(remove.node_id),
            removed_ms: remove.removed_ms,
            seen: Etag(remove.seen),
            by: replacement(remove.replacement_id),
            away,
        },
        Wire::Decommission(leave) => Command::Decommission {
            node: NodeId(leave.node_id),
            seen: Etag(leave.seen),
            by: replacement(leave.replacement_id),
            away,
        },
        Wire::CancelDecommission(node) => Command::CancelDecommission { node: NodeId(node), away },
        Wire::Decommissioned(left) => {
            Command::Decommissioned { node: NodeId(left.node_id), removed_ms: left.removed_ms }
        }
        Wire::SetCapacity(set) => {
            Command::SetCapacity { node: NodeId(set.node_id), percent: set.percent, away }
        }
        Wire::Rebalance(rebalance) => Command::Rebalance { seen: Etag(rebalance.seen), away },
        Wire::SetDraining(set) => Command::SetDraining {
            node: NodeId(set.node_id),
            draining: set.draining,
            at_ms: set.at_ms,
        },
        Wire::FinishOperation(finish) => Command::FinishOperation {
            id: OperationId(finish.id),
            ended_ms: finish.ended_ms,
            seen: Etag(finish.seen),
        },
        Wire::CancelOperation(cancel) => {
            Command::CancelOperation { id: OperationId(cancel.id), ended_ms: cancel.ended_ms, away }
        }
        Wire::AddGrant(grant) => Command::AddGrant(access::parse_grant(grant)?),
        Wire::RemoveGrant(grant) => Command::RemoveGrant(access::parse_grant(grant)?),
        Wire::CreateToken(token) => Command::CreateToken(access::parse_token(token)?),
        Wire::RevokeToken(id) => Command::RevokeToken(access::parse_token_id(id)?),
        Wire::ResumeToken(id) => Command::ResumeToken(access::parse_token_id(id)?),
        Wire::BindNode(bind) => {
            Command::BindNode { node: NodeId(bind.node_id), name: bind.name, anew: bind.anew }
        }
        Wire::SetJoins(set) => Command::SetJoins { need_token: set.need_token },
        Wire::PutSchedule(put) => schedule::parse_put(put)?,
        Wire::DeleteSchedule(name) => Command::DeleteSchedule(ScheduleId::new(name)?),
        Wire::PauseSchedule(pause) => schedule::parse_pause(pause)?,
        Wire::RunSchedule(run) => schedule::parse_run_schedule(run)?,
        Wire::DecideRun(decide) => schedule::parse_decide(decide)?,
        Wire::EndRun(end) => schedule::parse_end(end)?,
    })
}

pub fn node_record(node: &Node) -> internal::NodeRecord {
    internal::NodeRecord {
        id: node.id.0,
        address: node.address.clone(),
        capacity_percent: node.capacity_percent,
        version: node.version.clone(),
        snapshot_store: node.snapshot_store,
        lineage: node.lineage.0,
        level: node.level.number(),
        leaving: node.leaving,
        draining: node.draining,
        certificate_name: node.certificate_name.clone().unwrap_or_default(),
    }
}

pub fn parse_node(node: internal::NodeRecord) -> Result<Node> {
    let node = Node {
        id: NodeId(node.id),
        address: node.address,
        capacity_percent: node.capacity_percent,
        version: node.version,
        snapshot_store: node.snapshot_store,
        lineage: Lineage(node.lineage),
        level: Level::from_number(node.level),
        leaving: node.leaving,
        draining: node.draining,
        certificate_name: Some(node.certificate_name).filter(|name| !name.is_empty()),
    };
    node.check()?;
    Ok(node)
}

pub fn settings_record(settings: &Settings) -> internal::SettingsRecord {
    internal::SettingsRecord {
        cluster_id: Bytes::copy_from_slice(settings.cluster.0.as_bytes()),
        replication_factor: settings.replication_factor,
        partitions: settings.topology.partitions(),
        groups: settings.topology.groups(),
        lineage: settings.lineage.0,
        restored_from: settings.restored_from.map_or(Bytes::new(), uuid),
        begun: settings.begun.0,
        resolved: settings.resolved.0,
        site_generations: settings.site_generations.0,
        deleted: settings.deleted.iter().map(|id| uuid(*id)).collect(),
        level: settings.level.number(),
        joins_need_token: settings.joins_need_token,
    }
}

pub fn parse_settings(settings: internal::SettingsRecord) -> Result<Settings> {
    let settings = Settings {
        cluster: row::parse_cluster(&settings.cluster_id)?,
        replication_factor: settings.replication_factor,
        topology: Topology::new(settings.partitions, settings.groups)?,
        lineage: Lineage(settings.lineage),
        restored_from: row::parse_restored_from(&settings.restored_from)?,
        begun: SnapshotSeq(settings.begun),
        resolved: SnapshotSeq(settings.resolved),
        site_generations: SiteGeneration(settings.site_generations),
        deleted: settings
            .deleted
            .iter()
            .map(|id| SnapshotId::from_slice(id))
            .collect::<Result<_>>()?,
        level: Level::from_number(settings.level),
        joins_need_token: settings.joins_need_token,
    };
    settings.check()?;
    Ok(settings)
}

fn relay_record(relay: &Relay) -> internal::RelayRecord {
    internal::RelayRecord {
        id: relay.id.as_str().to_owned(),
        site: relay.site.as_ref().map_or(String::new(), |s| s.as_str().to_owned()),
    }
}

fn parse_relay(relay: internal::RelayRecord) -> Result<Relay> {
    let site = if relay.site.is_empty() { None } else { Some(SiteId::new(relay.site)?) };
    Ok(Relay { id: RelayId::new(relay.id)?, site })
}

fn part_record(part: &Part) -> internal::PartRecord {
    internal::PartRecord {
        node_id: part.node.0,
        status: match part.status {
            Status::Processing => 1,
            Status::Completed => 2,
            Status::Missing => 3,
            Status::Failed => 4,
            Status::Damaged => 5,
            Status::Deleting => 6,
        },
        reason: part.reason.clone(),
        groups: part.groups.iter().map(|g| g.0).collect(),
        rows: part.rows,
        bytes: part.bytes,
        bytes_written: part.bytes_written,
        download_bytes: part.download_bytes,
        manifest_digest: part.manifest_digest.map_or(Bytes::new(), |d| Bytes::copy_from_slice(&d)),
    }
}

fn parse_part(part: internal::PartRecord) -> Result<Part> {
    let status = match part.status {
        1 => Status::Processing,
        2 => Status::Completed,
        3 => Status::Missing,
        4 => Status::Failed,
        other => return Err(Error::invalid(format!("{other} is not the status of a part"))),
    };
    let digest = part.manifest_digest.as_ref();
    let manifest_digest = match digest.len() {
        0 => None,
        32 => digest.try_into().ok(),
        n => return Err(Error::invalid(format!("a manifest's digest is 32 bytes, not {n}"))),
    };
    Ok(Part {
        node: NodeId(part.node_id),
        status,
        reason: part.reason,
        groups: part.groups.into_iter().map(GroupId).collect(),
        rows: part.rows,
        bytes: part.bytes,
        bytes_written: part.bytes_written,
        download_bytes: part.download_bytes,
        manifest_digest,
    })
}

fn snapshot_record(snapshot: &Snapshot) -> internal::SnapshotRecord {
    internal::SnapshotRecord {
        uuid: uuid(snapshot.id),
        seq: snapshot.seq.0,
        state: match snapshot.stage {
            Stage::Begun => 1,
            Stage::Sealed => 2,
            Stage::Aborted => 3,
        },
        reason: snapshot.reason.clone(),
        parts: snapshot.parts.values().map(part_record).collect(),
        created_ms: snapshot.created_ms,
        lineage: snapshot.lineage.0,
        deleting: snapshot.deleting.is_some(),
        deletions: snapshot
            .deleting
            .iter()
            .flatten()
            .map(|(node, reason)| internal::DeletionRecord {
                node_id: node.0,
                reason: reason.clone(),
            })
            .collect(),
    }
}

fn parse_snapshot(snapshot: internal::SnapshotRecord) -> Result<Snapshot> {
    let stage = match snapshot.state {
        1 => Stage::Begun,
        2 => Stage::Sealed,
        3 => Stage::Aborted,
        other => return Err(Error::corrupt(format!("{other} is not the stage of a snapshot"))),
    };
    let parts = snapshot
        .parts
        .into_iter()
        .map(|p| parse_part(p).map(|p| (p.node, p)))
        .collect::<Result<_>>()?;
    Ok(Snapshot {
        id: SnapshotId::from_slice(&snapshot.uuid)?,
        seq: SnapshotSeq(snapshot.seq),
        stage,
        reason: snapshot.reason,
        parts,
        created_ms: snapshot.created_ms,
        lineage: Lineage(snapshot.lineage),
        deleting: snapshot.deleting.then(|| {
            snapshot.deletions.into_iter().map(|d| (NodeId(d.node_id), d.reason)).collect()
        }),
    })
}

/// What a row of the meta group is stored under.
pub fn meta_row_name(row: &Changed) -> Vec<u8> {
    match row {
        Changed::Settings => b"s".to_vec(),
        Changed::Node(node) => named(b'n', &node.0.to_be_bytes()),
        Changed::Site(site) => named(b'i', site.as_str().as_bytes()),
        Changed::Relay(relay) => named(b'r', relay.as_str().as_bytes()),
        Changed::Assignment(group) => named(b'a', &group.0.to_be_bytes()),
        Changed::Snapshot(seq) => named(b'x', &seq.0.to_be_bytes()),
        Changed::Removed(node) => named(b'd', &node.0.to_be_bytes()),
        Changed::Operation(id) => named(b'o', &id.0.to_be_bytes()),
        Changed::Grant(grant) => named(b'g', &access::grant_record(grant).encode_to_vec()),
        Changed::Token(id) => named(b't', &id.0.to_be_bytes()),
        Changed::Schedule(id) => named(b'h', id.as_str().as_bytes()),
    }
}

fn named(kind: u8, name: &[u8]) -> Vec<u8> {
    [&[kind], name].concat()
}

/// A row as it stands in the state; None when it is gone.
pub fn encode_meta_row(state: &State, row: &Changed) -> Option<Bytes> {
    let bytes = match row {
        Changed::Settings => settings_record(state.settings()).encode_to_vec(),
        Changed::Node(node) => node_record(state.node(*node)?).encode_to_vec(),
        Changed::Site(site) => {
            let stands = state.sites().site(site)?;
            let number = match stands.state {
                SiteState::Adding => 1,
                SiteState::Present => 2,
                SiteState::Removing => 3,
            };
            internal::SiteRecord {
                id: site.as_str().to_owned(),
                state: number,
                generation: stands.generation.0,
            }
            .encode_to_vec()
        }
        Changed::Relay(relay) => relay_record(&state.sites().relay(relay)?).encode_to_vec(),
        Changed::Assignment(group) => {
            let replicas = state.assignments().get(group)?.iter().map(|n| n.0).collect();
            internal::AssignmentRecord { group: group.0, replicas }.encode_to_vec()
        }
        Changed::Snapshot(seq) => snapshot_record(state.snapshot(*seq)?).encode_to_vec(),
        Changed::Removed(node) => {
            let removed = state.removed().get(node)?;
            internal::RemovedRecord {
                id: removed.id.0,
                address: removed.address.clone(),
                removed_ms: removed.removed_ms,
                decommissioned: removed.decommissioned,
            }
            .encode_to_vec()
        }
        Changed::Operation(id) => {
            operation::operation_record(state.operations().get(id)?).encode_to_vec()
        }
        Changed::Grant(grant) => {
            access::grant_record(state.access().grants().get(grant)?).encode_to_vec()
        }
        Changed::Token(id) => {
            access::token_record(state.access().tokens().get(id)?).encode_to_vec()
        }
        Changed::Schedule(id) => {
            schedule::schedule_record(state.schedules().get(id)?).encode_to_vec()
        }
    };
    Some(bytes.into())
}

/// The whole state from its rows.
pub fn decode_meta<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<State> {
    parse_rows(rows).map_err(as_corrupt)
}

fn parse_rows<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<State> {
    let (mut settings, mut nodes, mut sites, mut relays, mut assignments, mut snapshots) =
        (None, vec![], vec![], vec![], vec![], vec![]);
    let (mut removed, mut operations) = (Vec::new(), Vec::new());
    let (mut grants, mut tokens, mut schedules) = (Vec::new(), Vec::new(), Vec::new());
    for (name, bytes) in rows {
        let row = match name.first() {
            Some(b's') => {
                settings = Some(parse_settings(stored(bytes, "the cluster's settings")?)?);
                Changed::Settings
            }
            Some(b'n') => {
                added(&mut nodes, parse_node(stored(bytes, "a node's record")?)?, |node| {
                    Changed::Node(node.id)
                })
            }
            Some(b'i') => {
                added(&mut sites, parse_site(stored(bytes, "a site's record")?)?, |(site, _)| {
                    Changed::Site(site.clone())
                })
            }
            Some(b'r') => {
                added(&mut relays, parse_relay(stored(bytes, "a relay's record")?)?, |relay| {
                    Changed::Relay(relay.id.clone())
                })
            }
            Some(b'a') => {
                let assignment: internal::AssignmentRecord = stored(bytes, "an assignment")?;
                let replicas = assignment.replicas.into_iter().map(NodeId).collect();
                added(&mut assignments, (GroupId(assignment.group), replicas), |(group, _)| {
                    Changed::Assignment(*group)
                })
            }
            Some(b'x') => added(
                &mut snapshots,
                parse_snapshot(stored(bytes, "a snapshot's record")?)?,
                |snapshot| Changed::Snapshot(snapshot.seq),
            ),
            Some(b'd') => {
                let record: internal::RemovedRecord = stored(bytes, "a removed node's record")?;
                let one = Removed {
                    id: NodeId(record.id),
                    address: record.address,
                    removed_ms: record.removed_ms,
                    decommissioned: record.decommissioned,
                };
                added(&mut removed, one, |removed| Changed::Removed(removed.id))
            }
            Some(b'o') => added(
                &mut operations,
                operation::parse_operation(stored(bytes, "an operation's record")?)?,
                |operation| Changed::Operation(operation.id),
            ),
            Some(b'g') => {
                added(&mut grants, access::parse_grant(stored(bytes, "a grant")?)?, |grant| {
                    Changed::Grant(grant.clone())
                })
            }
            Some(b't') => {
                added(&mut tokens, access::parse_token(stored(bytes, "a token")?)?, |token| {
                    Changed::Token(token.id)
                })
            }
            Some(b'h') => added(
                &mut schedules,
                schedule::parse_schedule(stored(bytes, "a schedule's record")?)?,
                |schedule| Changed::Schedule(schedule.id.clone()),
            ),
            _ => {
                return Err(Error::corrupt(format!(
                    "the meta group has a row of an unknown kind, named {name:?}; a newer version \
                     has written it"
                )));
            }
        };
        // So no two rows are of one thing.
        if meta_row_name(&row) != name {
            return Err(Error::corrupt(format!(
                "the meta group has a row named \"{}\" which is that of {row:?}",
                name.escape_ascii()
            )));
        }
    }
    let settings = settings.ok_or_else(|| Error::corrupt("the meta group has no settings"))?;
    cluster::State::from_rows(Rows {
        settings,
        nodes,
        sites,
        relays,
        assignments,
        snapshots,
        removed,
        operations,
        grants,
        tokens,
        schedules,
    })
}

/// Adds what a row holds, and says which row that is.
fn added<T>(all: &mut Vec<T>, one: T, row: impl FnOnce(&T) -> Changed) -> Changed {
    let row = row(&one);
    all.push(one);
    row
}

fn parse_site(site: internal::SiteRecord) -> Result<(SiteId, Site)> {
    let state = match site.state {
        1 => SiteState::Adding,
        2 => SiteState::Present,
        3 => SiteState::Removing,
        other => return Err(Error::corrupt(format!("{other} is not the state of a site"))),
    };
    Ok((SiteId::new(site.id)?, Site { state, generation: SiteGeneration(site.generation) }))
}

fn uuid(id: SnapshotId) -> Bytes {
    Bytes::copy_from_slice(id.0.as_bytes())
}
