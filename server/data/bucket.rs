//! Buckets: how the concurrent writes of one key are settled. The policy is data; what follows from
//! it stands in `siblings`.
//!
//! The bucket `local` has a name and a number in the contract but no value here, so that no code
//! behind the doors can meet it.

use std::{fmt, str::FromStr};

use crate::base::error::{Error, Result};

/// The buckets a cluster keeps. The numbers are those of `devicedb.v1.Bucket`; rows are stored
/// under them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Bucket {
    #[default]
    Default = 1,
    Lww = 2,
    Cloud = 3,
}

/// How concurrent writes are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflicts {
    /// Values that did not know of each other stand side by side.
    Siblings,
    /// One value stands: that with the newest timestamp.
    LastWriterWins,
}

const LOCAL: i64 = 4;

impl Bucket {
    pub const ALL: [Bucket; 3] = [Bucket::Default, Bucket::Lww, Bucket::Cloud];

    pub fn conflicts(self) -> Conflicts {
        match self {
            Bucket::Default | Bucket::Cloud => Conflicts::Siblings,
            Bucket::Lww => Conflicts::LastWriterWins,
        }
    }

    /// As in `devicedb.v1.Bucket`; 0, which a client sends that names no bucket, is `default`.
    pub fn from_number(number: impl Into<i64>) -> Result<Bucket> {
        match number.into() {
            0 => Ok(Bucket::Default),
            LOCAL => Err(local()),
            number => {
                Bucket::ALL.into_iter().find(|b| i64::from(b.number()) == number).ok_or_else(|| {
                    Error::invalid(format!(
                        "there is no bucket number {number}; \
                         the cluster keeps default (1), lww (2) and cloud (3)"
                    ))
                })
            }
        }
    }

    /// Never 0, which stands for a site's own row.
    pub fn number(self) -> u8 {
        self as u8
    }

    pub fn name(self) -> &'static str {
        match self {
            Bucket::Default => "default",
            Bucket::Lww => "lww",
            Bucket::Cloud => "cloud",
        }
    }
}

fn local() -> Error {
    Error::invalid(
        "bucket local is a relay's own; the cluster refuses it. Use default, lww or cloud",
    )
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Bucket {
    type Err = Error;
    fn from_str(name: &str) -> Result<Bucket> {
        match name {
            "local" => Err(local()),
            name => Bucket::ALL.into_iter().find(|b| b.name() == name).ok_or_else(|| {
                Error::invalid(format!(
                    "there is no bucket {name:?}; the cluster keeps default, lww and cloud"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_goes_by_the_contracts_number_and_by_its_name() {
        use crate::proto::v1;
        for (bucket, number) in [
            (Bucket::Default, v1::Bucket::Default),
            (Bucket::Lww, v1::Bucket::Lww),
            (Bucket::Cloud, v1::Bucket::Cloud),
        ] {
            assert_eq!(Bucket::from_number(number as i32).unwrap(), bucket);
            assert_eq!(Bucket::from_number(u32::from(bucket.number())).unwrap(), bucket);
            assert_eq!(bucket.to_string().parse::<Bucket>().unwrap(), bucket);
        }
        assert_eq!(Bucket::from_number(0).unwrap(), Bucket::Default);
    }

    #[test]
    fn local_and_unknown_buckets_are_refused_by_name_and_by_number() {
        assert!(Bucket::from_number(4).unwrap_err().message.contains("a relay's own"));
        assert!("local".parse::<Bucket>().unwrap_err().message.contains("a relay's own"));
        assert!(Bucket::from_number(5).unwrap_err().message.contains("no bucket number 5"));
        assert!(Bucket::from_number(-1).is_err());
        assert!("LWW".parse::<Bucket>().unwrap_err().message.contains("default, lww and cloud"));
    }
}
