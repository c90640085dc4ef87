//! Contexts: what a reader has seen of one key, handed back with the write that follows. Opaque to
//! clients.
//!
//! A read returns the key's version vector. A write returns what its writer knows afterwards, and
//! that need not be all that is there: who wrote beside a value that they had not read must not get
//! a context that covers it, or their next write would silently remove it. So a context is a vector
//! and at most one dot beyond it, the writer's own: a dotted version vector in the papers' sense.
//!
//! ```text
//! form (1: vector, 2: dot and vector) | check (4 bytes) | [lineage, counter] | (lineage, counter)*
//! all u64, big endian
//! ```
//!
//! The check is a hash of site, bucket and key, so that a context of another key is refused instead
//! of removing the wrong values. It guards against mistakes, not against malice: whoever may write
//! a key may overwrite all of it anyway.

use bytes::Bytes;

use super::{
    bucket::Bucket,
    key::Key,
    version::{Dot, VersionVector},
};
use crate::base::{
    error::{Error, Result},
    ids::{Lineage, SiteId},
    limits,
};

/// What a reader or writer has seen of one key.
///
/// - `vector` holds at most `LINEAGES_MAX` histories and does not cover `dot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    check: [u8; 4],
    vector: VersionVector,
    dot: Option<Dot>,
}

const VECTOR: u8 = 1;
const DOT_AND_VECTOR: u8 = 2;
const HEAD_BYTES: usize = 5;
const PAIR_BYTES: usize = 16;

impl Context {
    /// The context of a key that does not exist. A write with it does not overwrite what others
    /// have written there meanwhile.
    pub fn nothing(site: &SiteId, bucket: Bucket, key: &Key) -> Context {
        Context::of(VersionVector::default(), site, bucket, key)
    }

    pub fn of(vector: VersionVector, site: &SiteId, bucket: Bucket, key: &Key) -> Context {
        Context { check: check(site, bucket, key), vector, dot: None }
    }

    /// Refuses what no read or write of this key has returned.
    pub fn decode(bytes: &[u8], site: &SiteId, bucket: Bucket, key: &Key) -> Result<Context> {
        if bytes.is_empty() {
            return Err(Error::invalid(format!(
                "the context of key {key} is empty; leave it out to overwrite all that is there"
            )));
        }
        if bytes.len() > limits::CONTEXT_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a context is at most {} bytes, not {}",
                limits::CONTEXT_BYTES_MAX,
                bytes.len()
            )));
        }
        let context = parsed(bytes).ok_or_else(|| {
            Error::invalid(format!(
                "the context of key {key} is not one that a read or write returned"
            ))
        })?;
        if context.check != check(site, bucket, key) {
            return Err(Error::invalid(format!(
                "the context was not read from key {key} of site {site:?} in bucket {bucket}; read \
                 that key first",
                site = site.as_str()
            )));
        }
        Ok(context)
    }

    pub fn encode(&self) -> Bytes {
        encoded(self.check, self.dot, &self.vector)
    }

    /// As `Context::of(vector.clone(), ...).encode()`, without the clone.
    pub(super) fn encode_vector(
        vector: &VersionVector,
        site: &SiteId,
        bucket: Bucket,
        key: &Key,
    ) -> Bytes {
        encoded(check(site, bucket, key), None, vector)
    }

    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }
    pub fn dot(&self) -> Option<Dot> {
        self.dot
    }

    pub fn covers(&self, dot: Dot) -> bool {
        self.dot == Some(dot) || self.vector.covers(dot)
    }

    /// After a write that left nothing but itself: all of the key up to `dot` is seen or gone.
    pub(super) fn then_sole(mut self, dot: Dot) -> Context {
        self.dot = None;
        self.vector.see(dot);
        self.vector.forget(|lineage| lineage == dot.lineage);
        self
    }

    /// After a write beside values unseen. The dot carried before needs no place any more: that
    /// write has just been replaced by this one.
    pub(super) fn then_beside(mut self, dot: Dot) -> Context {
        self.dot = Some(dot).filter(|dot| !self.vector.covers(*dot));
        self
    }
}

fn check(site: &SiteId, bucket: Bucket, key: &Key) -> [u8; 4] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(site.as_str().as_bytes());
    hasher.update(&[0, bucket.number()]);
    hasher.update(key.as_bytes());
    *hasher.finalize().as_bytes().first_chunk().expect("a hash is longer than four bytes")
}

fn encoded(check: [u8; 4], dot: Option<Dot>, vector: &VersionVector) -> Bytes {
    let mut bytes = Vec::with_capacity(
        HEAD_BYTES + PAIR_BYTES * (vector.pairs().len() + usize::from(dot.is_some())),
    );
    bytes.push(if dot.is_some() { DOT_AND_VECTOR } else { VECTOR });
    bytes.extend_from_slice(&check);
    for (lineage, counter) in
        dot.map(|dot| (dot.lineage, dot.counter)).into_iter().chain(vector.pairs())
    {
        bytes.extend_from_slice(&lineage.0.to_be_bytes());
        bytes.extend_from_slice(&counter.to_be_bytes());
    }
    bytes.into()
}

fn parsed(bytes: &[u8]) -> Option<Context> {
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    let [form, check @ ..] = *head;
    let (pairs, odd) = rest.as_chunks::<PAIR_BYTES>();
    let mut pairs = pairs.iter().map(pair);
    let dot = match form {
        VECTOR => None,
        DOT_AND_VECTOR => Some(pairs.next()?).map(|(lineage, counter)| Dot { lineage, counter }),
        _ => return None,
    };
    let vector = VersionVector::from_sorted(pairs)?;
    let sound = odd.is_empty()
        && vector.pairs().len() <= limits::LINEAGES_MAX
        && dot.is_none_or(|dot| dot.counter > 0 && !vector.covers(dot));
    sound.then_some(Context { check, vector, dot })
}

fn pair(bytes: &[u8; PAIR_BYTES]) -> (Lineage, u64) {
    let both = u128::from_be_bytes(*bytes);
    (Lineage((both >> 64) as u64), both as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{
        collection::{btree_map, vec},
        prelude::*,
    };

    use super::*;

    fn of(vector: BTreeMap<u64, u64>, dot: Option<(u64, u64)>) -> Context {
        let vector =
            VersionVector::from_sorted(vector.into_iter().map(|(l, c)| (Lineage(l), c))).unwrap();
        let context = Context::of(vector, &site("shop"), Bucket::Default, &key("door"));
        dot.map_or(context.clone(), |(lineage, counter)| {
            context.then_beside(Dot { lineage: Lineage(lineage), counter })
        })
    }

    fn site(id: &str) -> SiteId {
        SiteId::new(id).unwrap()
    }

    fn key(key: &str) -> Key {
        Key::new(key.to_owned()).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Context> {
        Context::decode(bytes, &site("shop"), Bucket::Default, &key("door"))
    }

    proptest! {
        #[test]
        fn a_context_reads_back_as_it_was_handed_out(
            vector in btree_map(0..9u64, 1..u64::MAX, 0..9),
            dot in proptest::option::of((0..9u64, 1..u64::MAX)),
        ) {
            let context = of(vector, dot);
            prop_assert_eq!(decode(&context.encode()).unwrap(), context);
        }

        #[test]
        fn what_decodes_is_what_would_be_handed_out(mut bytes in vec(0..3u8, 0..60)) {
            let check = check(&site("shop"), Bucket::Default, &key("door"));
            bytes.splice(1.min(bytes.len())..5.min(bytes.len()), check);
            if let Ok(context) = decode(&bytes) {
                prop_assert_eq!(context.encode(), bytes);
            }
        }

        #[test]
        fn a_context_never_outgrows_what_is_accepted_back(
            vector in btree_map(any::<u64>(), 1..u64::MAX, 64),
            lineage in any::<u64>(),
        ) {
            let dot = Dot { lineage: Lineage(lineage), counter: 1 };
            let context = of(vector, None).then_sole(dot);
            prop_assert!(context.covers(dot));
            prop_assert_eq!(decode(&context.encode()).unwrap(), context);
        }
    }

    #[test]
    fn the_context_of_another_key_bucket_or_site_is_refused() {
        let read = of([(7, 3)].into(), None).encode();
        for (at, bucket, k) in [
            ("shop", Bucket::Default, "window"),
            ("shop", Bucket::Cloud, "door"),
            ("shed", Bucket::Default, "door"),
        ] {
            let error = Context::decode(&read, &site(at), bucket, &key(k)).unwrap_err();
            assert!(error.message.contains("was not read from key"), "{error}");
        }
        assert!(decode(&read).is_ok());
    }

    #[test]
    fn bytes_that_are_no_context_are_refused() {
        let good = of([(7, 3)].into(), Some((7, 9))).encode();
        assert!(decode(&[]).unwrap_err().message.contains("leave it out"));
        assert!(decode(&good[..good.len() - 1]).is_err());
        assert!(decode(&[&good[..], &[0]].concat()).is_err());
        assert!(decode(&[&[9], &good[1..]].concat()).is_err());
        assert!(
            decode(&vec![1; limits::CONTEXT_BYTES_MAX + 1])
                .unwrap_err()
                .message
                .contains("at most 4096")
        );
    }

    #[test]
    fn the_context_of_a_missing_key_is_not_empty() {
        let bytes = Context::nothing(&site("shop"), Bucket::Default, &key("door")).encode();
        assert_eq!(bytes.len(), HEAD_BYTES);
        assert!(!decode(&bytes).unwrap().covers(Dot { lineage: Lineage(1), counter: 1 }));
    }
}
