//! What rows are called, and the one order that they have everywhere: in the store, in chunks, in
//! scans.
//!
//! A row key is encoded as
//!
//! ```text
//! partition (u16, big endian) | site id | 0x00 | bucket (one byte, 0 for the site's own row) | key
//! ```
//!
//! Site ids hold no NUL, so the encoding has one reading, and bytes compare as (partition, site,
//! place) do. A partition, a site, and the keys with a prefix are each one range of bytes.

use std::{fmt, ops::Range};

use bytes::Bytes;

use super::bucket::Bucket;
use crate::base::{
    error::{Error, Result},
    ids::{PartitionId, SiteId},
    limits,
};

/// A key: 1 to 1024 bytes of any kind.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

/// A value: at most 1 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(Bytes);

/// What keys begin with; may be empty, which is how every key begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(Bytes);

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    pub partition: PartitionId,
    pub site: SiteId,
    pub place: Place,
}

/// Where a row stands within its site. The site's own row is the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Site,
    Key { bucket: Bucket, key: Key },
}

impl Key {
    pub fn new(bytes: impl Into<Bytes>) -> Result<Key> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(Error::invalid("a key must not be empty")),
            n if n > limits::KEY_BYTES_MAX => Err(Error::invalid(format!(
                "a key is at most {} bytes, not {n}",
                limits::KEY_BYTES_MAX
            ))),
            _ => Ok(Key(bytes)),
        }
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Value {
    pub fn new(bytes: impl Into<Bytes>) -> Result<Value> {
        let bytes = bytes.into();
        if bytes.len() > limits::VALUE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a value is at most {} bytes, not {}",
                limits::VALUE_BYTES_MAX,
                bytes.len()
            )));
        }
        Ok(Value(bytes))
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Prefix {
    pub fn new(bytes: impl Into<Bytes>) -> Result<Prefix> {
        let bytes = bytes.into();
        if bytes.len() > limits::KEY_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a prefix is at most {} bytes, as keys are, not {}",
                limits::KEY_BYTES_MAX,
                bytes.len()
            )));
        }
        Ok(Prefix(bytes))
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// For messages: quoted, escaped, and cut after 48 bytes.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(48)];
        let more = if shown.len() < self.0.len() { "..." } else { "" };
        write!(f, "\"{}\"{more}", shown.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl RowKey {
    /// The row of the site itself.
    pub fn of_site(partition: PartitionId, site: SiteId) -> RowKey {
        RowKey { partition, site, place: Place::Site }
    }

    pub fn encode(&self) -> Vec<u8> {
        match &self.place {
            Place::Site => encoded(self.partition, &self.site, 0, &[]),
            Place::Key { bucket, key } => {
                encoded(self.partition, &self.site, bucket.number(), key.as_bytes())
            }
        }
    }

    /// Anything that `encode` would not have written is corrupt.
    pub fn decode(bytes: &[u8]) -> Result<RowKey> {
        decoded(bytes).map_err(|what| {
            Error::corrupt(format!("a row key is damaged, {what}: {}", bytes.escape_ascii()))
        })
    }
}

fn encoded(partition: PartitionId, site: &SiteId, bucket: u8, key: &[u8]) -> Vec<u8> {
    let partition = u16::try_from(partition.0).expect("a topology has at most 65536 partitions");
    let mut bytes = Vec::with_capacity(2 + site.as_str().len() + 2 + key.len() + 1);
    bytes.extend_from_slice(&partition.to_be_bytes());
    bytes.extend_from_slice(site.as_str().as_bytes());
    bytes.extend_from_slice(&[0, bucket]);
    bytes.extend_from_slice(key);
    bytes
}

fn decoded(bytes: &[u8]) -> Result<RowKey, String> {
    let (partition, rest) = bytes.split_first_chunk::<2>().ok_or("shorter than a partition")?;
    let end = rest.iter().position(|b| *b == 0).ok_or("its site has no end")?;
    let site = std::str::from_utf8(&rest[..end]).map_err(|e| e.to_string())?;
    let site = SiteId::new(site).map_err(|e| e.message)?;
    let place = match rest[end + 1..].split_first().ok_or("it names no bucket")? {
        (0, []) => Place::Site,
        (0, _) => return Err("bytes follow a site's own row".into()),
        (number, key) => {
            let bucket = Bucket::from_number(*number).map_err(|e| e.message)?;
            Place::Key {
                bucket,
                key: Key::new(Bytes::copy_from_slice(key)).map_err(|e| e.message)?,
            }
        }
    };
    Ok(RowKey { partition: PartitionId(u16::from_be_bytes(*partition).into()), site, place })
}

/// All rows of a partition. A site id is UTF-8, so that none begins with 0xFF.
pub fn partition_range(partition: PartitionId) -> Range<Vec<u8>> {
    let [high, low] =
        u16::try_from(partition.0).expect("a topology has at most 65536 partitions").to_be_bytes();
    vec![high, low]..vec![high, low, 0xFF]
}

/// The rows of a site's keys in all buckets, without the site's own row.
pub(super) fn keys_range(partition: PartitionId, site: &SiteId) -> Range<Vec<u8>> {
    encoded(partition, site, 1, &[])..encoded(partition, site, 0xFF, &[])
}

/// The keys of one bucket that begin with `prefix` and stand after `after`. May be empty.
pub(super) fn prefix_range(
    partition: PartitionId,
    site: &SiteId,
    bucket: Bucket,
    prefix: &Prefix,
    after: Option<&Key>,
) -> Range<Vec<u8>> {
    let from = encoded(partition, site, bucket.number(), prefix.as_bytes());
    let to = successor(&from);
    let from = match after.map(|key| encoded(partition, site, bucket.number(), key.as_bytes())) {
        // The least key after another is that key with a NUL behind it.
        Some(mut after) if after >= from => {
            after.push(0);
            after
        }
        _ => from,
    };
    from.min(to.clone())..to
}

/// The least string of bytes behind all that begin with `bytes`.
fn successor(bytes: &[u8]) -> Vec<u8> {
    let last =
        bytes.iter().rposition(|b| *b != 0xFF).expect("the NUL behind the site can be counted up");
    let mut next = bytes[..=last].to_vec();
    next[last] += 1;
    next
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn row_keys() -> impl Strategy<Value = RowKey> {
        // Few letters, so that ids are often each other's beginning.
        let key = vec(prop_oneof![Just(0u8), Just(1), Just(b'a'), Just(0xFE), Just(0xFF)], 1..5);
        let place = prop_oneof![
            Just(Place::Site),
            (0..3usize, key).prop_map(|(b, k)| Place::Key {
                bucket: Bucket::ALL[b],
                key: Key::new(k).unwrap()
            })
        ];
        let partition = prop_oneof![Just(0), Just(1), Just(255), Just(256), Just(65_535)];
        (partition, "[ aé\u{10FFFF}]{1,3}", place).prop_map(|(p, s, place)| RowKey {
            partition: PartitionId(p),
            site: SiteId::new(s).unwrap(),
            place,
        })
    }

    proptest! {
        #[test]
        fn a_row_key_reads_back_as_it_was_written(key in row_keys()) {
            prop_assert_eq!(RowKey::decode(&key.encode()).unwrap(), key);
        }

        #[test]
        fn encoded_row_keys_stand_in_the_order_of_partition_site_and_place(
            a in row_keys(),
            b in row_keys(),
        ) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn what_decodes_is_what_would_be_written(
            bytes in vec(prop_oneof![Just(0u8), Just(1), Just(3), Just(4), any::<u8>()], 0..12),
        ) {
            if let Ok(key) = RowKey::decode(&bytes) {
                prop_assert_eq!(key.encode(), bytes);
            }
        }

        #[test]
        fn ranges_hold_what_they_are_named_for_and_nothing_else(
            row in row_keys(),
            of in row_keys(),
            prefix in vec(prop_oneof![Just(0u8), Just(b'a'), Just(0xFF)], 0..3),
        ) {
            let bytes = row.encode();
            prop_assert_eq!(
                partition_range(of.partition).contains(&bytes),
                row.partition == of.partition
            );
            let same_site = row.partition == of.partition && row.site == of.site;
            prop_assert_eq!(
                keys_range(of.partition, &of.site).contains(&bytes),
                same_site && row.place != Place::Site
            );
            let Place::Key { bucket, key: after } = &of.place else { return Ok(()) };
            let prefix = Prefix::new(prefix).unwrap();
            let (whole, rest) = (
                prefix_range(of.partition, &of.site, *bucket, &prefix, None),
                prefix_range(of.partition, &of.site, *bucket, &prefix, Some(after)),
            );
            let Place::Key { bucket: b, key } = &row.place else {
                prop_assert!(!whole.contains(&bytes));
                return Ok(());
            };
            let begins = same_site && b == bucket && key.as_bytes().starts_with(prefix.as_bytes());
            prop_assert_eq!(whole.contains(&bytes), begins);
            prop_assert_eq!(rest.contains(&bytes), begins && key > after);
            prop_assert!(rest.start <= rest.end);
        }
    }

    #[test]
    fn keys_and_values_have_bounds() {
        assert!(Key::new("").is_err());
        assert!(Key::new(vec![0; 1024]).is_ok());
        assert!(Key::new(vec![0; 1025]).is_err());
        assert!(Value::new("").is_ok());
        assert!(Value::new(vec![0; (1 << 20) + 1]).is_err());
        assert!(Prefix::new("").is_ok());
    }
}
