//! Requests of clients, from the bytes of a message to what the engine is handed; and the contexts
//! that come back with them.

use bytes::Bytes;
use devicedb::{
    base::{
        error::{Kind, Result},
        ids::{RelayId, RequestId, SiteId, SnapshotId},
        limits,
    },
    data::{self, Bucket, Context, Key, Query, Write},
    entry::Command,
    proto::v1,
    rpc,
    wire::{self, public},
};
use prost::Message;

/// The first byte chooses the method.
pub fn request(input: &[u8]) -> bool {
    let Some((method, bytes)) = input.split_first() else { return false };
    match method % 13 {
        0 => taken::<v1::GetRequest>(bytes, |r| {
            public::is_stale(r.consistency).and(public::parse_get(r)).map(|q| query(&q))
        }),
        1 => taken::<v1::ScanRequest>(bytes, |r| {
            public::is_stale(r.consistency).and(public::parse_scan(&r)).map(|q| query(&q))
        }),
        2 => taken::<v1::PutRequest>(bytes, |r| {
            RequestId::from_slice(&r.request_id).and(public::parse_put(r, 1)).map(write)
        }),
        3 => taken::<v1::DeleteRequest>(bytes, |r| {
            RequestId::from_slice(&r.request_id).and(public::parse_delete(r, 1)).map(write)
        }),
        4 => taken::<v1::BatchRequest>(bytes, |r| {
            RequestId::from_slice(&r.request_id).and(public::parse_batch(r, 1)).map(write)
        }),
        5 => taken::<v1::ListNodesRequest>(bytes, |r| number_token(&r.page_token)),
        6 => taken::<v1::ListSnapshotsRequest>(bytes, |r| number_token(&r.page_token)),
        7 => taken::<v1::ListSitesRequest>(bytes, |r| {
            SiteId::new(r.page_token).map(|site| named(site.as_str()))
        }),
        8 => taken::<v1::ListRelaysRequest>(bytes, |r| {
            SiteId::new(r.site).and(RelayId::new(r.page_token)).map(|relay| named(relay.as_str()))
        }),
        9 => taken::<v1::AddRelayRequest>(bytes, |r| {
            SiteId::new(r.site).and(RelayId::new(r.relay)).map(|relay| named(relay.as_str()))
        }),
        10 => taken::<v1::CreateSnapshotRequest>(bytes, |r| {
            SnapshotId::from_slice(&r.request_id).map(snapshot)
        }),
        11 => taken::<v1::DownloadSnapshotRequest>(bytes, |r| r.uuid.parse().map(snapshot)),
        _ => taken::<v1::GetSnapshotRequest>(bytes, |r| r.uuid.parse().map(snapshot)),
    }
}

/// Nothing that a client sends is anything but taken or invalid.
fn taken<M: Message + Default>(bytes: &[u8], parse: impl FnOnce(M) -> Result<()>) -> bool {
    let Ok(request) = M::decode(Bytes::copy_from_slice(bytes)) else { return false };
    let parsed = parse(request);
    assert!(
        parsed.as_ref().err().is_none_or(|e| e.kind == Kind::Invalid),
        "a client's mistake is called {parsed:?}"
    );
    parsed.is_ok()
}

fn query(query: &Query) {
    for stale in [false, true] {
        assert_eq!(
            wire::parse_query(wire::query(query, stale)).as_ref(),
            Ok(&(query.clone(), stale)),
            "it reaches the leader changed"
        );
    }
}

fn write(write: Write) {
    let keys = write.steps().iter().map(|s| s.key.as_bytes().len());
    let values = write.steps().iter().map(|s| s.value.as_ref().map_or(0, |v| v.as_bytes().len()));
    assert!(
        keys.clone().all(|n| (1..=limits::KEY_BYTES_MAX).contains(&n))
            && values.clone().all(|n| n <= limits::VALUE_BYTES_MAX)
    );
    assert!(
        (1..=limits::BATCH_STEPS_MAX).contains(&write.steps().len())
            && keys.sum::<usize>() + values.sum::<usize>() <= limits::BATCH_BYTES_MAX
    );
    let fingerprint = write.fingerprint();
    let command = Command::from(data::Command::Write(write));
    let again = wire::parse_command(wire::command(&command))
        .expect("what a door lets in can be logged and read back");
    assert_eq!(again, command);
    let devicedb::entry::Action::Data(data::Command::Write(again)) = again.action else {
        panic!("it is a write")
    };
    assert_eq!(again.fingerprint(), fingerprint, "a retry would not be known again");
}

fn number_token(token: &str) -> Result<()> {
    let number = rpc::parse_number_token(token)?;
    assert_eq!(number.is_none(), token.is_empty());
    assert_eq!(
        rpc::parse_number_token(&number.map_or(String::new(), |n| n.to_string())),
        Ok(number)
    );
    Ok(())
}

fn named(id: &str) {
    assert!((1..=limits::ID_BYTES_MAX).contains(&id.len()) && !id.contains(char::is_control));
}

fn snapshot(id: SnapshotId) {
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(SnapshotId::from_slice(id.0.as_bytes()), Ok(id));
}

/// A context of the key that the input names; the check of four bytes is put right, or no mutation
/// would ever come past it.
pub fn context(input: &[u8]) -> bool {
    let mut feed = super::Feed(input);
    let bucket = Bucket::ALL[feed.below(3)];
    let (Ok(key), site) = (
        Key::new(Bytes::copy_from_slice(feed.piece())),
        SiteId::new("shop").expect("a plain name"),
    ) else {
        return false;
    };
    let mut bytes = feed.0.to_vec();
    let check = &Context::nothing(&site, bucket, &key).encode()[1..5];
    if let Some(own) = bytes.get_mut(1..5) {
        own.copy_from_slice(check);
    }
    match Context::decode(&bytes, &site, bucket, &key) {
        Ok(context) => {
            assert_eq!(context.encode(), bytes, "two spellings of one context");
            assert!(
                context.vector().pairs().len() <= limits::LINEAGES_MAX
                    && bytes.len() <= limits::CONTEXT_BYTES_MAX
            );
            assert!(
                context
                    .dot()
                    .is_none_or(|dot| context.covers(dot) && !context.vector().covers(dot))
            );
            let elsewhere = SiteId::new("shed").expect("a plain name");
            assert!(
                Context::decode(&bytes, &elsewhere, bucket, &key).is_err(),
                "the context of another site"
            );
            true
        }
        Err(e) => {
            assert_eq!(e.kind, Kind::Invalid);
            false
        }
    }
}
