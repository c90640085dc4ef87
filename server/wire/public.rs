//! The public contract's messages: requests parsed into what cannot be wrong, answers written out.

use bytes::Bytes;

use crate::{
    cluster::{
        State,
        snapshots::{Part, Snapshot, Status},
    },
    data::{Bucket, Context, Key, KeyView, Prefix, Query, Read, Scan, Stamp, Step, Value, Version, Write, WrittenStep},
    error::{Error, Result},
    ids::{GroupId, SiteId},
    proto::v1,
};

/// Whether whatever the node holds is good enough.
pub fn is_stale(consistency: i32) -> Result<bool> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) => Ok(false),
        Ok(v1::Consistency::Stale) => Ok(true),
        Err(_) => Err(Error::invalid(format!("{consistency} is not a consistency; use linearizable or stale"))),
    }
}

pub fn parse_get(request: v1::GetRequest) -> Result<Query> {
    let (site, bucket) = place(request.site, request.bucket)?;
    Ok(Query { site, bucket, read: Read::Get { key: Key::new(request.key)? } })
}

pub fn parse_scan(request: &v1::ScanRequest) -> Result<Query> {
    let (site, bucket) = place(request.site.clone(), request.bucket)?;
    let after = if request.after.is_empty() { None } else { Some(Key::new(request.after.clone())?) };
    let scan = Scan { prefix: Prefix::new(request.prefix.clone())?, after, limit: 0, keys_only: request.keys_only };
    Ok(Query { site, bucket, read: Read::Scan(scan) })
}

/// `now_ms` is what a write of `lww` without a timestamp is at least stamped with.
pub fn parse_put(request: v1::PutRequest, now_ms: u64) -> Result<Write> {
    let (site, bucket) = place(request.site, request.bucket)?;
    let step = step(&site, bucket, request.key, Some(request.value), request.context, request.timestamp_ms, now_ms)?;
    Write::new(site, bucket, vec![step])
}

pub fn parse_delete(request: v1::DeleteRequest, now_ms: u64) -> Result<Write> {
    let (site, bucket) = place(request.site, request.bucket)?;
    let step = step(&site, bucket, request.key, None, request.context, request.timestamp_ms, now_ms)?;
    Write::new(site, bucket, vec![step])
}

pub fn parse_batch(request: v1::BatchRequest, now_ms: u64) -> Result<Write> {
    let (site, bucket) = place(request.site, request.bucket)?;
    let mut steps = Vec::with_capacity(request.operations.len());
    for (number, operation) in request.operations.into_iter().enumerate() {
        let value = match operation.action {
            Some(v1::batch_operation::Action::Put(value)) => Some(value),
            Some(v1::batch_operation::Action::Delete(_)) => None,
            None => return Err(Error::invalid(format!("operation {number} of the batch neither puts nor deletes"))),
        };
        let step = step(&site, bucket, operation.key, value, operation.context, operation.timestamp_ms, now_ms);
        steps.push(step.map_err(|e| e.at(format!("operation {number} of the batch")))?);
    }
    Write::new(site, bucket, steps)
}

fn place(site: String, bucket: i32) -> Result<(SiteId, Bucket)> {
    Ok((SiteId::new(site)?, Bucket::from_number(bucket)?))
}

fn step(site: &SiteId, bucket: Bucket, key: Bytes, value: Option<Bytes>, context: Option<Bytes>, timestamp_ms: Option<u64>, now_ms: u64) -> Result<Step> {
    let key = Key::new(key)?;
    let context = context.map(|c| Context::decode(&c, site, bucket, &key)).transpose()?;
    let stamp = timestamp_ms.map_or(Stamp::Floor(now_ms), Stamp::Chosen);
    Ok(Step { value: value.map(Value::new).transpose()?, key, context, stamp })
}

pub fn siblings(versions: Vec<Version>) -> Vec<v1::Sibling> {
    let sibling = |v: Version| v.value.map(|value| v1::Sibling { value: value.into_bytes(), timestamp_ms: v.timestamp_ms });
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
    }
}

/// A snapshot as the meta state has it.
pub fn snapshot(state: &State, snapshot: &Snapshot) -> v1::Snapshot {
    let overall = state.overall(snapshot);
    v1::Snapshot {
        uuid: snapshot.id.to_string(),
        status: status_number(overall.status) as i32,
        reason: overall.reason,
        parts: snapshot.parts.values().map(|p| part(state, p)).collect(),
        partitions: overall.partitions,
        partitions_covered: overall.partitions_covered,
        copies_min: overall.copies_min,
        created_ms: snapshot.created_ms,
        lineage: snapshot.lineage.to_string(),
    }
}

fn part(state: &State, part: &Part) -> v1::SnapshotPart {
    let topology = state.settings().topology;
    let each = topology.partitions() / topology.groups();
    let partitions = part.groups.iter().filter(|g| **g != GroupId::META).count() as u32 * each;
    v1::SnapshotPart {
        node_id: part.node.0,
        address: state.node(part.node).map_or(String::new(), |n| n.address.clone()),
        status: status_number(part.status) as i32,
        reason: part.reason.clone(),
        partitions,
        partitions_done: partitions,
        rows: part.rows,
        bytes: part.bytes,
        bytes_written: part.bytes_written,
        download_bytes: part.download_bytes,
        manifest_digest: part.manifest_digest.map_or(String::new(), |d| blake3::Hash::from(d).to_string()),
    }
}
