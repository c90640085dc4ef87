//! The public contract's messages: requests parsed into what cannot be wrong, answers written out.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    base::{
        error::{Error, Result},
        ids::{GroupId, Lineage, NodeId, SiteId, Topology},
    },
    cluster::{
        Node,
        snapshots::{Part, Snapshot, Status},
        state::Settings,
    },
    data::{
        Bucket, Context, Key, KeyView, Prefix, Query, Read, Scan, Stamp, Step, Value, Version,
        Write, WrittenStep,
    },
    entry::Identity,
    proto::v1,
};

/// Whether whatever the node holds is good enough.
pub fn is_stale(consistency: i32) -> Result<bool> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => Ok(false),
        Ok(v1::Consistency::Stale) => Ok(true),
        Err(_) => Err(Error::invalid(format!(
            "{consistency} is not a consistency; use linearizable or stale"
        ))),
    }
}

pub fn parse_get(request: v1::GetRequest) -> Result<Query> {
    let (site, bucket) = place(request.site, request.bucket)?;
    Ok(Query { site, bucket, read: Read::Get { key: Key::new(request.key)? } })
}

pub fn parse_scan(request: &v1::ScanRequest) -> Result<Query> {
    let (site, bucket) = place(request.site.clone(), request.bucket)?;
    let after =
        if request.after.is_empty() { None } else { Some(Key::new(request.after.clone())?) };
    let scan = Scan {
        prefix: Prefix::new(request.prefix.clone())?,
        after,
        limit: 0,
        keys_only: request.keys_only,
    };
    Ok(Query { site, bucket, read: Read::Scan(scan) })
}

/// `now_ms` is what a write of `lww` without a timestamp is at least stamped with.
pub fn parse_put(request: v1::PutRequest, now_ms: u64) -> Result<Write> {
    let (site, bucket) = place(request.site, request.bucket)?;
    let step = step(
        &site,
        bucket,
        request.key,
        Some(request.value),
        request.context,
        request.timestamp_ms,
        now_ms,
    )?;
    Write::new(site, bucket, vec![step])
}

pub fn parse_delete(request: v1::DeleteRequest, now_ms: u64) -> Result<Write> {
    let (site, bucket) = place(request.site, request.bucket)?;
    let step =
        step(&site, bucket, request.key, None, request.context, request.timestamp_ms, now_ms)?;
    Write::new(site, bucket, vec![step])
}

pub fn parse_batch(request: v1::BatchRequest, now_ms: u64) -> Result<Write> {
    let (site, bucket) = place(request.site, request.bucket)?;
    let mut steps = Vec::with_capacity(request.operations.len());
    for (number, operation) in request.operations.into_iter().enumerate() {
        let value = match operation.action {
            Some(v1::batch_operation::Action::Put(value)) => Some(value),
            Some(v1::batch_operation::Action::Delete(_)) => None,
            None => {
                return Err(Error::invalid(format!(
                    "operation {number} of the batch neither puts nor deletes"
                )));
            }
        };
        let step = step(
            &site,
            bucket,
            operation.key,
            value,
            operation.context,
            operation.timestamp_ms,
            now_ms,
        );
        steps.push(step.map_err(|e| e.at(format!("operation {number} of the batch")))?);
    }
    Write::new(site, bucket, steps)
}

fn place(site: String, bucket: i32) -> Result<(SiteId, Bucket)> {
    Ok((SiteId::new(site)?, Bucket::from_number(bucket)?))
}

fn step(
    site: &SiteId,
    bucket: Bucket,
    key: Bytes,
    value: Option<Bytes>,
    context: Option<Bytes>,
    timestamp_ms: Option<u64>,
    now_ms: u64,
) -> Result<Step> {
    let key = Key::new(key)?;
    let context = context.map(|c| Context::decode(&c, site, bucket, &key)).transpose()?;
    let stamp = timestamp_ms.map_or(Stamp::Floor(now_ms), Stamp::Chosen);
    Ok(Step { value: value.map(Value::new).transpose()?, key, context, stamp })
}

pub fn siblings(versions: Vec<Version>) -> Vec<v1::Sibling> {
    let sibling = |v: Version| {
        v.value.map(|value| v1::Sibling { value: value.into_bytes(), timestamp_ms: v.timestamp_ms })
    };
    versions.into_iter().filter_map(sibling).collect()
}

pub fn scan_entry(view: KeyView) -> v1::ScanEntry {
    v1::ScanEntry { key: view.key, siblings: siblings(view.versions), context: view.context }
}

pub fn batch_result(step: WrittenStep) -> v1::BatchResult {
    v1::BatchResult { context: step.context, superseded: step.superseded }
}

pub fn status_number(status: Status) -> v1::SnapshotStatus {
    match status {
        Status::Processing => v1::SnapshotStatus::Processing,
        Status::Completed => v1::SnapshotStatus::Completed,
        Status::Missing => v1::SnapshotStatus::Missing,
        Status::Failed => v1::SnapshotStatus::Failed,
        Status::Damaged => v1::SnapshotStatus::Damaged,
        Status::Deleting => v1::SnapshotStatus::Deleting,
    }
}

/// Who a node is; `identity` is there as soon as it belongs to a cluster. `doing` is empty when it
/// serves.
pub fn identity(
    identity: Option<&Identity>,
    address: &str,
    state: v1::NodeState,
    doing: &str,
) -> v1::GetIdentityResponse {
    v1::GetIdentityResponse {
        cluster_id: identity.map_or(String::new(), |i| i.cluster.to_string()),
        lineage: identity
            .filter(|i| i.lineage != Lineage::PENDING)
            .map_or(String::new(), |i| i.lineage.to_string()),
        node_id: identity.map_or(0, |i| i.node.0),
        address: address.to_owned(),
        restored_from: identity
            .and_then(|i| i.restored_from)
            .map_or(String::new(), |id| id.to_string()),
        state: state.into(),
        doing: doing.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// A snapshot as the registry has it. Of one that is being deleted, the parts that are still waited
/// for.
pub fn snapshot(
    settings: &Settings,
    nodes: &BTreeMap<NodeId, Node>,
    snapshot: &Snapshot,
) -> v1::Snapshot {
    let overall = snapshot.overall(settings.topology);
    let parts = match &snapshot.deleting {
        None => snapshot.parts.values().map(|p| part(settings.topology, nodes, p)).collect(),
        Some(waited_for) => {
            waited_for.iter().map(|(node, reason)| part_to_go(nodes, *node, reason)).collect()
        }
    };
    v1::Snapshot {
        uuid: snapshot.id.to_string(),
        status: status_number(overall.status) as i32,
        reason: overall.reason,
        parts,
        partitions: overall.partitions,
        partitions_covered: overall.partitions_covered,
        copies_min: overall.copies_min,
        created_ms: snapshot.created_ms,
        lineage: snapshot.lineage.to_string(),
        cluster_id: settings.cluster.to_string(),
        upload: None,
    }
}

pub fn address_of(nodes: &BTreeMap<NodeId, Node>, node: NodeId) -> String {
    nodes.get(&node).map_or(String::new(), |n| n.address.clone())
}

fn part_to_go(nodes: &BTreeMap<NodeId, Node>, node: NodeId, reason: &str) -> v1::SnapshotPart {
    let status = v1::SnapshotStatus::Deleting as i32;
    v1::SnapshotPart {
        node_id: node.0,
        address: address_of(nodes, node),
        status,
        reason: reason.to_owned(),
        ..v1::SnapshotPart::default()
    }
}

fn part(topology: Topology, nodes: &BTreeMap<NodeId, Node>, part: &Part) -> v1::SnapshotPart {
    let each = topology.partitions() / topology.groups();
    let partitions = part.groups.iter().filter(|g| **g != GroupId::META).count() as u32 * each;
    v1::SnapshotPart {
        node_id: part.node.0,
        address: address_of(nodes, part.node),
        status: status_number(part.status) as i32,
        reason: part.reason.clone(),
        partitions,
        partitions_done: partitions,
        rows: part.rows,
        bytes: part.bytes,
        bytes_written: part.bytes_written,
        download_bytes: part.download_bytes,
        manifest_digest: part
            .manifest_digest
            .map_or(String::new(), |d| blake3::Hash::from(d).to_string()),
        // Whoever looks at its disk says so.
        seal: None,
    }
}
