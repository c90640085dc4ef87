//! What can be asked of a group, and what it answers.
//!
//! Commands go through the group's log and change its rows; queries only look. Whoever holds one of
//! these holds one that is within bounds: doors parse requests into them. What is logged is parsed
//! again when it is read back, so the bounds may grow from version to version and never shrink.

use bytes::Bytes;

use super::{
    bucket::Bucket,
    context::Context,
    key::{Key, Prefix, Value},
    version::Version,
};
use crate::base::{
    error::{Error, Result},
    ids::{Lineage, SiteGeneration, SiteId},
    limits,
};

/// One change of a group's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Change keys of a site. The only command that a request id makes idempotent; the others are
    /// so by themselves.
    Write(Write),
    /// Begin to take writes of a site.
    AddSite { site: SiteId, generation: SiteGeneration },
    /// Stop taking writes of this life of a site and delete at most so many of its rows, at least
    /// one. Any other life stays.
    DropSite { site: SiteId, generation: SiteGeneration, rows_max: u32 },
    /// Mint dots under this lineage from now on.
    SetLineage { lineage: Lineage },
}

/// Steps on keys of one site and bucket that take effect together or not at all.
///
/// - 1 to `BATCH_STEPS_MAX` steps, of at most `BATCH_BYTES_MAX` in keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    site: SiteId,
    bucket: Bucket,
    steps: Vec<Step>,
}

/// What happens to one key. Later steps see what earlier ones did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub key: Key,
    /// `None` deletes.
    pub value: Option<Value>,
    /// What the writer had read of this key; `None` overwrites all that is there. Means nothing in
    /// `lww`.
    pub context: Option<Context>,
    /// Means nothing but in `lww`.
    pub stamp: Stamp,
}

/// A time for `lww`, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// The writer's own; the write loses to a newer one.
    Chosen(u64),
    /// The server's clock; the write is newer than what is there, whatever that clock shows.
    Floor(u64),
}

/// A read of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub site: SiteId,
    pub bucket: Bucket,
    pub read: Read,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Get { key: Key },
    Scan(Scan),
}

/// A page of the keys that begin with `prefix` and stand after `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub prefix: Prefix,
    pub after: Option<Key>,
    /// At most so many keys; 0 for as many as a page takes.
    pub limit: u32,
    /// Leave the values out.
    pub keys_only: bool,
}

/// What a command or a query is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done {
        changed: bool,
    },
    /// One a step, in order.
    Written(Vec<WrittenStep>),
    /// Whether rows are left to delete.
    SiteDropped {
        more: bool,
    },
    /// It had no effect.
    Refused(Error),
    /// A key that does not exist is found without versions.
    Found(KeyView),
    /// Where keys are left, a scan goes on after `resume`. A page may be short, even empty, and not
    /// the last: deleted keys cost work and are not shown.
    Page {
        keys: Vec<KeyView>,
        resume: Option<Key>,
    },
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenStep {
    /// An encoded `Context`: what the writer knows of the key now.
    pub context: Bytes,
    /// A newer value stands and the step changed nothing. Only in `lww`.
    pub superseded: bool,
}

/// What can be seen of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyView {
    pub key: Bytes,
    /// By dot, without tombstones; none where only keys were asked for.
    pub versions: Vec<Version>,
    /// An encoded `Context`.
    pub context: Bytes,
}

impl Write {
    pub fn new(site: SiteId, bucket: Bucket, steps: Vec<Step>) -> Result<Write> {
        if steps.is_empty() || steps.len() > limits::BATCH_STEPS_MAX {
            return Err(Error::invalid(format!(
                "a batch has 1 to {} steps, not {}",
                limits::BATCH_STEPS_MAX,
                steps.len()
            )));
        }
        let bytes: usize = steps
            .iter()
            .map(|step| {
                step.key.as_bytes().len() + step.value.as_ref().map_or(0, |v| v.as_bytes().len())
            })
            .sum();
        if bytes > limits::BATCH_BYTES_MAX {
            return Err(Error::invalid(format!(
                "keys and values of a batch are at most {} bytes, not {bytes}; split it",
                limits::BATCH_BYTES_MAX
            )));
        }
        Ok(Write { site, bucket, steps })
    }
    pub fn site(&self) -> &SiteId {
        &self.site
    }
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Tells this write from another one that came with the same request id; the same on every node
    /// and in every version. A stamp that the writer did not choose is left out: it is drawn anew
    /// for every retry.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut field = |tag: u8, bytes: &[u8]| {
            hasher.update(&[tag]);
            hasher.update(&(bytes.len() as u64).to_be_bytes());
            hasher.update(bytes);
        };
        field(b's', self.site.as_str().as_bytes());
        field(b'b', &[self.bucket.number()]);
        for step in &self.steps {
            field(b'k', step.key.as_bytes());
            if let Some(value) = &step.value {
                field(b'v', value.as_bytes());
            }
            if let Some(context) = &step.context {
                field(b'c', &context.encode());
            }
            if let Stamp::Chosen(ms) = step.stamp {
                field(b't', &ms.to_be_bytes());
            }
        }
        u64::from_be_bytes(
            *hasher.finalize().as_bytes().first_chunk().expect("a hash is longer than eight bytes"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: &str, stamp: Stamp) -> Write {
        let step = Step {
            key: Key::new(key.to_owned()).unwrap(),
            value: Some(Value::new(value.to_owned()).unwrap()),
            context: None,
            stamp,
        };
        Write::new(SiteId::new("shop").unwrap(), Bucket::Lww, vec![step]).unwrap()
    }

    #[test]
    fn a_fingerprint_is_the_same_for_ever_and_blind_to_the_servers_clock() {
        assert_eq!(write("k", "v", Stamp::Floor(5)).fingerprint(), 12_435_105_116_902_260_583);
        assert_eq!(
            write("k", "v", Stamp::Floor(5)).fingerprint(),
            write("k", "v", Stamp::Floor(6)).fingerprint()
        );
        let different = [
            write("kv", "", Stamp::Floor(0)),
            write("k", "w", Stamp::Floor(0)),
            write("k", "v", Stamp::Chosen(5)),
            write("k", "v", Stamp::Chosen(6)),
        ];
        for (at, one) in different.iter().enumerate() {
            assert!(
                different.iter().skip(at + 1).all(|other| other.fingerprint() != one.fingerprint())
            );
        }
    }

    #[test]
    fn batches_have_bounds() {
        let steps =
            |n, bytes| vec![write("k", &"x".repeat(bytes), Stamp::Floor(0)).steps[0].clone(); n];
        let batch = |steps| Write::new(SiteId::new("shop").unwrap(), Bucket::Default, steps);
        assert!(batch(steps(0, 0)).is_err());
        assert!(batch(steps(4096, 1)).is_ok());
        assert!(batch(steps(4097, 1)).is_err());
        assert!(batch(steps(4, (1 << 20) - 1)).is_ok());
        assert!(batch(steps(4, 1 << 20)).unwrap_err().message.contains("split it"));
    }
}
