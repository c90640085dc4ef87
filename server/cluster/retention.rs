//! How many snapshots of a repository are kept: what a schedule says of it.
//!
//! It is written as `last=24,hourly=48,daily=30,weekly=8,monthly=12,yearly=3,within=7d`, in any
//! order, and what is not said is nothing. What says nothing at all is refused: it would keep no
//! snapshot.
//!
//! Drops nothing, and knows no snapshot.

use std::{fmt, str::FromStr};

use crate::base::{
    error::{Error, Result},
    limits,
};

/// The snapshots that are kept; a snapshot that any of these keeps stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// One an hour, of so many hours that have one. So it is with the others.
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// All of the last so many seconds.
    pub within_s: u64,
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

impl Keep {
    fn named(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "last" => &mut self.last,
            "hourly" => &mut self.hourly,
            "daily" => &mut self.daily,
            "weekly" => &mut self.weekly,
            "monthly" => &mut self.monthly,
            "yearly" => &mut self.yearly,
            _ => return None,
        })
    }
}

fn number(name: &str, text: &str) -> Result<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|n| digits && (1..=limits::KEEP_MAX).contains(n));
    number.ok_or_else(|| {
        Error::invalid(format!("{name} keeps 1 to {} snapshots, not {text:?}", limits::KEEP_MAX))
    })
}

fn seconds(text: &str) -> Result<u64> {
    let found = UNITS.iter().find_map(|(unit, seconds)| {
        let digits = text.strip_suffix(unit)?;
        let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)?;
        digits.parse::<u64>().ok()?.checked_mul(*seconds)
    });
    let most = limits::KEEP_WITHIN_MAX.as_secs();
    found.filter(|seconds| (1..=most).contains(seconds)).ok_or_else(|| {
        Error::invalid(format!(
            "within is a time from 1s to {}d, as in within=7d, and not {text:?}",
            most / UNITS[0].1
        ))
    })
}

impl FromStr for Keep {
    type Err = Error;
    fn from_str(text: &str) -> Result<Keep> {
        let mut keep = Keep::default();
        let mut said: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                Error::invalid(format!(
                    "{part:?} does not say what is kept: write last=24,daily=30"
                ))
            })?;
            if said.contains(&name) {
                return Err(Error::invalid(format!("{text:?} says {name} twice")));
            }
            said.push(name);
            if name == "within" {
                keep.within_s = seconds(value)?;
                continue;
            }
            let rule = keep.named(name).ok_or_else(|| {
                Error::invalid(format!(
                    "there is no {name:?} to keep: there are last, hourly, daily, weekly, \
                     monthly, yearly and within"
                ))
            })?;
            *rule = number(name, value)?;
        }
        Ok(keep)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Keep { last, hourly, daily, weekly, monthly, yearly, within_s } = *self;
        let rules = [
            ("last", last),
            ("hourly", hourly),
            ("daily", daily),
            ("weekly", weekly),
            ("monthly", monthly),
            ("yearly", yearly),
        ];
        let said = rules.into_iter().filter(|(_, n)| *n > 0);
        let mut parts: Vec<String> = said.map(|(name, n)| format!("{name}={n}")).collect();
        let unit = UNITS.iter().find(|(_, seconds)| within_s.is_multiple_of(*seconds));
        if let Some((unit, seconds)) = unit.filter(|_| within_s > 0) {
            parts.push(format!("within={}{unit}", within_s / seconds));
        }
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_kept_is_read_as_people_write_it() {
        let text = "last=24,hourly=48,daily=30,weekly=8,monthly=12,yearly=3,within=7d";
        let keep: Keep = text.parse().unwrap();
        let Keep { last, hourly, daily, weekly, monthly, yearly, within_s } = keep;
        assert_eq!((last, hourly, daily, weekly, monthly, yearly), (24, 48, 30, 8, 12, 3));
        assert_eq!(within_s, 7 * 86_400);
        assert_eq!(keep.to_string(), text);
        assert_eq!("daily=3, last=1".parse::<Keep>().unwrap().to_string(), "last=1,daily=3");
        for (text, why) in [
            ("", "does not say what is kept"),
            ("last", "does not say what is kept"),
            ("last=0", "1 to 100000"),
            ("last=+1", "1 to 100000"),
            ("last=100001", "1 to 100000"),
            ("last=1,last=2", "says last twice"),
            ("nightly=3", "there is no \"nightly\""),
            ("within=7", "within=7d"),
            ("within=0d", "within=7d"),
            ("within=99999999999999999999d", "within=7d"),
            ("last=1,", "does not say what is kept"),
        ] {
            let e = text.parse::<Keep>().unwrap_err();
            assert!(e.message.contains(why), "{text:?}: {e}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(
            (last, hourly, daily) in (1..99u32, 0..99u32, 0..99u32),
            (weekly, monthly, yearly) in (0..99u32, 0..99u32, 0..99u32),
            within_s in 0..limits::KEEP_WITHIN_MAX.as_secs(),
        ) {
            let keep = Keep { last, hourly, daily, weekly, monthly, yearly, within_s };
            prop_assert_eq!(keep.to_string().parse::<Keep>().unwrap(), keep);
        }
    }
}
