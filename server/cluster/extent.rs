//! How much of a repository is read when the cluster verifies it on a schedule, as operators write
//! it: `quick`, `10%` or `whole`.
//!
//! Which chunks a share has on which day is `repository::depth`'s.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::base::error::{Error, Result};

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Whether everything that is named is there.
    Quick,
    /// Also the rows of so many chunks.
    Share(Percent),
    /// Every row.
    Whole,
}

/// From 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(u8);

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::Quick => f.write_str("quick"),
            Extent::Share(Percent(percent)) => write!(f, "{percent}%"),
            Extent::Whole => f.write_str("whole"),
        }
    }
}

impl FromStr for Extent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Extent> {
        match text {
            "quick" => Ok(Extent::Quick),
            "whole" => Ok(Extent::Whole),
            share => share.parse().map(Extent::Share).map_err(|_| {
                Error::invalid(format!(
                    "{text:?} is not how much is verified: write quick, whole, or a whole number \
                     of percent from 1 to 100, as in 10%"
                ))
            }),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

impl TryFrom<u8> for Percent {
    type Error = Error;

    fn try_from(percent: u8) -> Result<Percent> {
        match percent {
            1..=100 => Ok(Percent(percent)),
            _ => Err(Error::invalid(format!("{percent} is not a percentage from 1 to 100"))),
        }
    }
}

impl FromStr for Percent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Percent> {
        let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
        let number = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let percent = number.and_then(|digits| digits.parse::<u8>().ok());
        percent.and_then(|percent| Percent::try_from(percent).ok()).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is not a share: write a whole number of percent from 1 to 100, as in 10"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_whole_number_of_percent() {
        for (text, percent) in [("1", 1), ("10", 10), ("10%", 10), ("10 %", 10), ("100", 100)] {
            assert_eq!(text.parse::<Percent>().map(u8::from), Ok(percent), "{text}");
        }
        for text in ["", "0", "101", "256", "-1", "+5", "0.5", "ten", "%", "1e1", "10%%"] {
            let e = text.parse::<Percent>().unwrap_err();
            assert!(e.message.contains("from 1 to 100"), "{text}: {e}");
        }
    }

    #[test]
    fn an_extent_is_read_back_as_it_is_written() {
        for text in ["quick", "1%", "10%", "100%", "whole"] {
            assert_eq!(text.parse::<Extent>().unwrap().to_string(), text);
        }
        assert_eq!("10".parse::<Extent>().unwrap().to_string(), "10%");
        for text in ["", "0", "all", "Quick", "101%", "10%%"] {
            let e = text.parse::<Extent>().unwrap_err();
            assert!(e.message.contains("write quick, whole, or a whole number"), "{text}: {e}");
        }
    }
}
