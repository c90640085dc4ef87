//! Rows and records: what a store file and a chunk hold.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use super::{absent, as_corrupt, stored};
use crate::{
    base::{
        error::{Error, Result},
        ids::{
            ClusterId, Lineage, NodeId, RequestId, SiteGeneration, SnapshotId, SnapshotSeq,
            Topology,
        },
    },
    cluster::reconfigure::Membership,
    data::{
        self, Dot, Outcomes, Place, Remembered, Row, SiteRow, SiteStage, Value, Verdict, Version,
        VersionVector, Versions,
    },
    entry::{Identity, Position, Record},
    proto::internal::v1 as internal,
};

pub fn encode_row(row: &Row) -> Bytes {
    match row {
        Row::Site(SiteRow { stage, generation }) => {
            let (removing, removed) = (*stage == SiteStage::Removing, *stage == SiteStage::Removed);
            internal::SiteRow { removing, generation: generation.0, removed }.encode_to_vec().into()
        }
        Row::Key(versions) => {
            let clock = versions
                .clock()
                .pairs()
                .map(|(lineage, counter)| internal::Dot { lineage: lineage.0, counter })
                .collect();
            internal::Row { versions: versions.versions().iter().map(version).collect(), clock }
                .encode_to_vec()
                .into()
        }
    }
}

/// `place` says which kind of row it is.
pub fn decode_row(place: &Place, bytes: &Bytes) -> Result<Row> {
    match place {
        Place::Site => {
            let row: internal::SiteRow = stored(bytes, "a site's row")?;
            let stage = match (row.removing, row.removed) {
                (false, false) => SiteStage::Present,
                (true, false) => SiteStage::Removing,
                (false, true) => SiteStage::Removed,
                (true, true) => {
                    return Err(Error::corrupt(
                        "a site's row says that it is being removed and is removed",
                    ));
                }
            };
            Ok(Row::Site(SiteRow { stage, generation: SiteGeneration(row.generation) }))
        }
        Place::Key { .. } => {
            let row = internal::Row::decode(bytes.clone()).map_err(|e| {
                Error::corrupt(format!("a key's row cannot be read: {e}")).with_source(e)
            })?;
            let versions = row
                .versions
                .into_iter()
                .map(parse_version)
                .collect::<Result<Vec<_>>>()
                .map_err(as_corrupt)?;
            let clock = VersionVector::from_sorted(
                row.clock.into_iter().map(|d| (Lineage(d.lineage), d.counter)),
            );
            let clock = clock.ok_or_else(|| Error::corrupt("a key's clock is not sorted"))?;
            Versions::from_parts(versions, clock).map(Row::Key)
        }
    }
}

pub(super) fn version(version: &Version) -> internal::Version {
    internal::Version {
        dot: Some(internal::Dot { lineage: version.dot.lineage.0, counter: version.dot.counter }),
        value: version.value.clone().map(Value::into_bytes),
        timestamp_ms: version.timestamp_ms,
    }
}

pub(super) fn parse_version(version: internal::Version) -> Result<Version> {
    let dot = version.dot.ok_or_else(|| absent("a version's dot"))?;
    Ok(Version {
        dot: Dot { lineage: Lineage(dot.lineage), counter: dot.counter },
        value: version.value.map(Value::new).transpose()?,
        timestamp_ms: version.timestamp_ms,
    })
}

pub fn encode_remembered(remembered: &Remembered) -> Bytes {
    use internal::request_row::Verdict as Wire;
    let verdict = match &remembered.verdict {
        Verdict::Written { lineage, first, outcomes } => Wire::Written(internal::WrittenVerdict {
            lineage: lineage.0,
            first: *first,
            outcomes: Bytes::copy_from_slice(outcomes.as_bytes()),
        }),
        Verdict::NoSite => Wire::NoSite(true),
        Verdict::TooManySiblings { step } => Wire::TooManySiblings(*step),
    };
    let row = internal::RequestRow {
        request_id: Bytes::copy_from_slice(&remembered.request.0),
        fingerprint: remembered.fingerprint,
        verdict: Some(verdict),
    };
    row.encode_to_vec().into()
}

pub fn decode_remembered(bytes: &[u8]) -> Result<Remembered> {
    use internal::request_row::Verdict as Wire;
    let row: internal::RequestRow = stored(bytes, "a remembered request")?;
    let request = RequestId::from_slice(&row.request_id)
        .map_err(as_corrupt)?
        .ok_or_else(|| Error::corrupt("a remembered request has no id"))?;
    let verdict =
        match row.verdict.ok_or_else(|| Error::corrupt("a remembered request has no verdict"))? {
            Wire::Written(w) => Verdict::Written {
                lineage: Lineage(w.lineage),
                first: w.first,
                outcomes: Outcomes::from_bytes(w.outcomes.to_vec()),
            },
            Wire::NoSite(_) => Verdict::NoSite,
            Wire::TooManySiblings(step) => Verdict::TooManySiblings { step },
        };
    Ok(Remembered { request, fingerprint: row.fingerprint, verdict })
}

pub fn encode_record(record: &Record) -> Vec<u8> {
    let ids = |set: &std::collections::BTreeSet<NodeId>| set.iter().map(|n| n.0).collect();
    internal::GroupRecord {
        applied_index: record.applied.index,
        applied_term: record.applied.term,
        voters: ids(&record.members.voters),
        learners: ids(&record.members.learners),
        mark: record.mark.0,
        mark_index: record.mark_at.index,
        mark_term: record.mark_at.term,
        lineage: record.data.lineage.0,
        dots: record.data.dots,
        requests: record.data.requests,
    }
    .encode_to_vec()
}

pub fn decode_record(bytes: &[u8]) -> Result<Record> {
    let r: internal::GroupRecord = stored(bytes, "a group's record")?;
    let ids = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    Ok(Record {
        applied: Position { index: r.applied_index, term: r.applied_term },
        members: Membership { voters: ids(r.voters), learners: ids(r.learners) },
        mark: SnapshotSeq(r.mark),
        mark_at: Position { index: r.mark_index, term: r.mark_term },
        data: data::State { lineage: Lineage(r.lineage), dots: r.dots, requests: r.requests },
    })
}

pub fn encode_identity(identity: &Identity) -> Vec<u8> {
    internal::IdentityRecord {
        format: identity.format,
        node_id: identity.node.0,
        cluster_id: Bytes::copy_from_slice(identity.cluster.0.as_bytes()),
        lineage: identity.lineage.0,
        restored_from: identity
            .restored_from
            .map_or(Bytes::new(), |id| Bytes::copy_from_slice(id.0.as_bytes())),
        partitions: identity.topology.partitions(),
        groups: identity.topology.groups(),
    }
    .encode_to_vec()
}

pub fn decode_identity(bytes: &[u8]) -> Result<Identity> {
    parse_identity(stored(bytes, "the store's identity")?).map_err(as_corrupt)
}

fn parse_identity(r: internal::IdentityRecord) -> Result<Identity> {
    Ok(Identity {
        format: r.format,
        node: NodeId(r.node_id),
        cluster: parse_cluster(&r.cluster_id)?,
        lineage: Lineage(r.lineage),
        restored_from: parse_restored_from(&r.restored_from)?,
        topology: Topology::new(r.partitions, r.groups)?,
    })
}

pub(super) fn parse_cluster(bytes: &[u8]) -> Result<ClusterId> {
    Uuid::from_slice(bytes)
        .map(ClusterId)
        .map_err(|_| Error::invalid(format!("a cluster id is 16 bytes, not {}", bytes.len())))
}

pub(super) fn parse_restored_from(bytes: &[u8]) -> Result<Option<SnapshotId>> {
    if bytes.is_empty() { Ok(None) } else { SnapshotId::from_slice(bytes).map(Some) }
}
