//! Operations, as commands begin them and as rows keep them.

use crate::{
    base::{
        error::{Error, Result},
        ids::{NodeId, OperationId},
    },
    cluster::{
        Command,
        operations::{Begin, Kind, Operation, Progress},
    },
    proto::internal::v1 as internal,
};

pub(super) fn begin_record(begin: &Begin) -> internal::BeginOperation {
    let Begin { id, began_ms, forced, gives_up } = begin.clone();
    internal::BeginOperation { id: id.0, began_ms, forced, gives_up }
}

/// A command with what is remembered of it.
pub(super) fn operate(begin: internal::BeginOperation, change: Command) -> Result<Command> {
    let internal::BeginOperation { id, began_ms, forced, gives_up } = begin;
    let begin = Begin { id: OperationId(id), began_ms, forced, gives_up };
    begin.check()?;
    if change.operates().is_none() {
        return Err(Error::invalid("an action is remembered as an operation that is none"));
    }
    Ok(Command::Operate { begin, change: Box::new(change) })
}

pub(super) fn operation_record(operation: &Operation) -> internal::OperationRecord {
    internal::OperationRecord {
        id: operation.id.0,
        kind: kind_number(operation.kind),
        state: progress_number(operation.progress),
        node_id: operation.node.map_or(0, |node| node.0),
        replacement_id: operation.by.map_or(0, |by| by.0),
        began_ms: operation.began_ms,
        ended_ms: operation.ended_ms,
        replicas: operation.replicas,
        percent_before: operation.percent_before,
        forced: operation.forced,
        gives_up: operation.gives_up.clone(),
    }
}

pub(super) fn parse_operation(record: internal::OperationRecord) -> Result<Operation> {
    let kinds = [
        Kind::Remove,
        Kind::Decommission,
        Kind::Replace,
        Kind::SetCapacity,
        Kind::Rebalance,
        Kind::Drain,
    ];
    let kind = kinds.into_iter().find(|kind| kind_number(*kind) == record.kind);
    let kind = kind.ok_or_else(|| {
        Error::corrupt(format!("{} is not the kind of an operation", record.kind))
    })?;
    let stages = [Progress::Running, Progress::Done, Progress::Cancelled];
    let progress = stages.into_iter().find(|stage| progress_number(*stage) == record.state);
    let progress = progress.ok_or_else(|| {
        Error::corrupt(format!("{} is not the state of an operation", record.state))
    })?;
    let node = |id: u64| (id != 0).then_some(NodeId(id));
    Ok(Operation {
        id: OperationId(record.id),
        kind,
        progress,
        node: node(record.node_id),
        by: node(record.replacement_id),
        began_ms: record.began_ms,
        ended_ms: record.ended_ms,
        replicas: record.replicas,
        percent_before: record.percent_before,
        forced: record.forced,
        gives_up: record.gives_up,
    })
}

/// As `devicedb.v1.OperationKind`.
pub fn kind_number(kind: Kind) -> u32 {
    match kind {
        Kind::Remove => 1,
        Kind::Decommission => 2,
        Kind::Replace => 3,
        Kind::SetCapacity => 4,
        Kind::Rebalance => 5,
        Kind::Drain => 6,
    }
}

/// As `devicedb.v1.OperationState`.
pub fn progress_number(progress: Progress) -> u32 {
    match progress {
        Progress::Running => 1,
        Progress::Done => 2,
        Progress::Cancelled => 3,
    }
}
