//! Which snapshots rules keep, and why: a pure function of what there is.
//!
//! A rule keeps the newest snapshot of each of the last so many hours, days, ISO weeks, months or
//! years, in UTC, in which there is one; or the last so many; or what was written within some time
//! before the newest. A snapshot stays when any rule keeps it. The rules are those that restic
//! made familiar.
//!
//! - Numbers say what is newer, times only label. The newest stays under every rule, and so does
//!   what is held.
//! - No clock is read: ages count from the newest snapshot. A cluster that takes no snapshots any
//!   more loses none, and a clock that jumps drops nothing.
//! - Rules that are longer never keep less.
//! - Without any rule everything stays.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::base::{
    error::{Error, Result},
    ids::SnapshotSeq,
    limits,
};

/// How much is kept. Zero says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    pub within_s: u64,
}

/// A snapshot, as far as rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    pub seq: SnapshotSeq,
    pub written_ms: u64,
    /// Why somebody holds it, if somebody does.
    pub hold: Option<String>,
}

/// What the rules say of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub seq: SnapshotSeq,
    /// Why it stays, in words; without a reason it goes.
    pub reasons: Vec<String>,
}

/// How a time is written: RFC 3339 in UTC.
pub type Written = fn(u64) -> String;

const DAY_MS: u64 = 86_400_000;

impl Judged {
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty()
    }
}

impl Keep {
    pub fn is_empty(&self) -> bool {
        *self == Keep::default()
    }

    /// How many hours, days and so on, what they are called, and which one a time lies in.
    fn buckets(&self, ms: u64, written: Written) -> [(u32, &'static str, String); 5] {
        let text = written(ms);
        [
            (self.hourly, "hourly", format!("{}:00", &text[..13])),
            (self.daily, "daily", text[..10].to_owned()),
            (self.weekly, "weekly", format!("from {}", &written(monday(ms))[..10])),
            (self.monthly, "monthly", text[..7].to_owned()),
            (self.yearly, "yearly", text[..4].to_owned()),
        ]
    }
}

/// When the week of a time began. 1970 began on a Thursday; its first days are their own week.
fn monday(ms: u64) -> u64 {
    let day = ms / DAY_MS;
    day.saturating_sub((day + 3) % 7) * DAY_MS
}

/// The rules' word on each snapshot, newest first.
pub fn judge(snapshots: &[Dated], keep: &Keep, written: Written) -> Vec<Judged> {
    let mut all: Vec<&Dated> = snapshots.iter().collect();
    all.sort_by_key(|dated| std::cmp::Reverse(dated.seq));
    let newest_ms = all.first().map_or(0, |newest| newest.written_ms);
    let mut seen: [BTreeSet<String>; 5] = Default::default();
    let mut judged = Vec::with_capacity(all.len());
    for (nth, dated) in (1u64..).zip(all) {
        let mut reasons = Vec::new();
        if nth == 1 {
            reasons.push("newest".to_owned());
        }
        if let Some(hold) = &dated.hold {
            reasons.push(format!("held: {hold}"));
        }
        if keep.is_empty() {
            reasons.push("there are no rules".to_owned());
        }
        if nth <= u64::from(keep.last) {
            reasons.push(format!("last {nth} of {}", keep.last));
        }
        let buckets = keep.buckets(dated.written_ms, written);
        for ((count, name, bucket), seen) in buckets.into_iter().zip(&mut seen) {
            if seen.len() < count as usize && seen.insert(bucket.clone()) {
                reasons.push(format!("{name} {bucket}"));
            }
        }
        let age_ms = newest_ms.saturating_sub(dated.written_ms);
        if keep.within_s > 0 && age_ms <= keep.within_s.saturating_mul(1000) {
            reasons.push(format!("within {}", duration(keep.within_s)));
        }
        judged.push(Judged { seq: dated.seq, reasons });
    }
    judged
}

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

fn duration(seconds: u64) -> String {
    let unit = UNITS.iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
    unit.map_or_else(|| "0s".to_owned(), |(name, unit)| format!("{}{name}", seconds / unit))
}

fn seconds(text: &str) -> Option<u64> {
    let (name, unit) = UNITS.iter().find(|(name, _)| text.ends_with(name))?;
    let digits = text.strip_suffix(name)?;
    let count: u64 = digits.bytes().all(|b| b.is_ascii_digit()).then_some(digits)?.parse().ok()?;
    count.checked_mul(*unit)
}

/// `last=24,daily=30,within=7d`.
impl FromStr for Keep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Keep> {
        let mut keep = Keep::default();
        let mut said = BTreeSet::new();
        for rule in text.split(',').map(str::trim) {
            let Some((name, value)) = rule.split_once('=') else {
                return Err(wrong(rule, "a rule is a name, = and a number"));
            };
            if !said.insert(name) {
                return Err(wrong(rule, "it was said before"));
            }
            let number = || match value.parse::<u32>() {
                Ok(number)
                    if (1..=limits::KEEP_MAX).contains(&number)
                        && value.bytes().all(|b| b.is_ascii_digit()) =>
                {
                    Ok(number)
                }
                _ => Err(wrong(rule, &format!("its number goes from 1 to {}", limits::KEEP_MAX))),
            };
            match name {
                "last" => keep.last = number()?,
                "hourly" => keep.hourly = number()?,
                "daily" => keep.daily = number()?,
                "weekly" => keep.weekly = number()?,
                "monthly" => keep.monthly = number()?,
                "yearly" => keep.yearly = number()?,
                "within" => {
                    let most = limits::KEEP_WITHIN_MAX.as_secs();
                    let within = seconds(value).filter(|seconds| (1..=most).contains(seconds));
                    keep.within_s = within.ok_or_else(|| {
                        let most = most / 86_400;
                        wrong(rule, &format!("its time is 1s to {most}d, in s, m, h or d, as 7d"))
                    })?;
                }
                _ => {
                    return Err(wrong(
                        rule,
                        "the rules are last, hourly, daily, weekly, monthly, yearly and within",
                    ));
                }
            }
        }
        Ok(keep)
    }
}

fn wrong(rule: &str, why: &str) -> Error {
    Error::invalid(format!("{rule:?} is no rule of what is kept: {why}; as last=24,daily=30"))
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Keep { last, hourly, daily, weekly, monthly, yearly, within_s } = *self;
        let counts = [
            ("last", last),
            ("hourly", hourly),
            ("daily", daily),
            ("weekly", weekly),
            ("monthly", monthly),
            ("yearly", yearly),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        let mut rules: Vec<String> = counts.map(|(name, n)| format!("{name}={n}")).collect();
        if within_s > 0 {
            rules.push(format!("within={}", duration(within_s)));
        }
        f.write_str(&rules.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{base::error::Kind, part::manifest::rfc3339};

    const HOUR_MS: u64 = 3_600_000;
    /// 2023-11-13, a Monday, 0:00.
    const BEGIN: u64 = 1_699_833_600_000;

    fn dated(seq: u64, written_ms: u64) -> Dated {
        Dated { seq: SnapshotSeq(seq), written_ms, hold: None }
    }

    fn kept(snapshots: &[Dated], rules: &str) -> Vec<u64> {
        let keep = rules.parse().unwrap();
        let judged = judge(snapshots, &keep, rfc3339);
        judged.iter().filter(|judged| judged.stays()).map(|judged| judged.seq.0).collect()
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_times() {
        // One an hour for 60 days, at a quarter past.
        let hourly: Vec<Dated> =
            (1..=60 * 24).map(|n| dated(n, BEGIN + (n - 1) * HOUR_MS + 900_000)).collect();
        assert_eq!(kept(&hourly, "last=3"), [1440, 1439, 1438]);
        assert_eq!(kept(&hourly, "hourly=2"), [1440, 1439]);
        assert_eq!(kept(&hourly, "daily=3"), [1440, 1416, 1392]);
        // The last day, 2024-01-11, is a Thursday.
        assert_eq!(kept(&hourly, "weekly=3"), [1440, 1440 - 4 * 24, 1440 - 11 * 24]);
        assert_eq!(kept(&hourly, "monthly=12"), [1440, 1440 - 11 * 24, 18 * 24]);
        assert_eq!(kept(&hourly, "yearly=9"), [1440, 1440 - 11 * 24]);
        assert_eq!(kept(&hourly, "within=2h"), [1440, 1439, 1438]);
        assert_eq!(kept(&hourly, "last=1,daily=2"), [1440, 1416]);
    }

    #[test]
    fn every_snapshot_that_stays_has_its_reasons() {
        let mut three =
            [dated(1, BEGIN), dated(2, BEGIN + HOUR_MS), dated(3, BEGIN + 25 * HOUR_MS)];
        three[0].hold = Some("the audit".into());
        let judged = judge(&three, &"daily=1,within=30h".parse().unwrap(), rfc3339);
        let reasons: Vec<String> = judged.iter().map(|judged| judged.reasons.join("; ")).collect();
        assert_eq!(
            reasons,
            ["newest; daily 2023-11-14; within 30h", "within 30h", "held: the audit; within 30h"]
        );
        let judged = judge(&three, &"last=1".parse().unwrap(), rfc3339);
        assert!(!judged[1].stays() && judged[2].stays(), "{judged:?}");
        assert!(judge(&three, &Keep::default(), rfc3339).iter().all(Judged::stays));
        assert_eq!(judge(&[], &Keep::default(), rfc3339), []);
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        let all = "last=24,hourly=48,daily=30,weekly=8,monthly=12,yearly=3,within=7d";
        assert_eq!(all.parse::<Keep>().unwrap().to_string(), all);
        assert_eq!("within=90m, last=1".parse::<Keep>().unwrap().to_string(), "last=1,within=90m");
        for (text, says) in [
            ("", "a name, = and a number"),
            ("last", "a name, = and a number"),
            ("last=0", "from 1 to"),
            ("last=+1", "from 1 to"),
            ("last=99999999999", "from 1 to"),
            ("minutely=1", "the rules are last"),
            ("last=1,last=2", "said before"),
            ("within=7", "its time is 1s to"),
            ("within=0d", "its time is 1s to"),
            ("within=+1d", "its time is 1s to"),
            ("within=36526d", "its time is 1s to"),
            ("within=99999999999999999999d", "its time is 1s to"),
            ("within=9999999999999999999d", "its time is 1s to"),
            ("last=100001", "from 1 to"),
            ("last=1,", "a name, = and a number"),
        ] {
            let e = text.parse::<Keep>().unwrap_err();
            assert!(e.kind == Kind::Invalid && e.message.contains(says), "{text}: {e}");
        }
    }

    fn any_keep() -> impl Strategy<Value = Keep> {
        let count = || 0u32..6;
        (count(), count(), count(), count(), count(), count(), 0u64..400_000).prop_map(
            |(last, hourly, daily, weekly, monthly, yearly, within_s)| Keep {
                last,
                hourly,
                daily,
                weekly,
                monthly,
                yearly,
                within_s,
            },
        )
    }

    /// In order of numbers, whose clocks may jump either way.
    fn any_snapshots() -> impl Strategy<Value = Vec<Dated>> {
        let moment = prop_oneof![0..90 * DAY_MS, 0..400 * DAY_MS, Just(0)];
        prop::collection::vec((moment, prop::bool::weighted(0.1)), 0..40).prop_map(|moments| {
            let one = |(seq, (ms, held)): (u64, (u64, bool))| Dated {
                hold: held.then(|| "so".to_owned()),
                ..dated(seq, BEGIN + ms)
            };
            (1..).zip(moments).map(one).collect()
        })
    }

    proptest! {
        #[test]
        fn the_newest_and_the_held_stay_and_longer_rules_keep_more(
            snapshots in any_snapshots(), keep in any_keep(), more in any_keep(),
        ) {
            let judged = judge(&snapshots, &keep, rfc3339);
            prop_assert_eq!(judged.len(), snapshots.len());
            prop_assert!(judged.first().is_none_or(Judged::stays));
            let longer = Keep {
                last: keep.last + more.last,
                hourly: keep.hourly + more.hourly,
                daily: keep.daily + more.daily,
                weekly: keep.weekly + more.weekly,
                monthly: keep.monthly + more.monthly,
                yearly: keep.yearly + more.yearly,
                within_s: keep.within_s + more.within_s,
            };
            let stays = |of: &Keep| -> BTreeSet<SnapshotSeq> {
                judge(&snapshots, of, rfc3339).iter().filter(|j| j.stays()).map(|j| j.seq).collect()
            };
            prop_assert!(keep.is_empty() || stays(&keep).is_subset(&stays(&longer)));
            for dated in snapshots.iter().filter(|dated| dated.hold.is_some()) {
                prop_assert!(stays(&keep).contains(&dated.seq));
            }
            // What stays stays when the rules are asked again, of what is left.
            let left: Vec<Dated> =
                snapshots.iter().filter(|d| stays(&keep).contains(&d.seq)).cloned().collect();
            prop_assert!(judge(&left, &keep, rfc3339).iter().all(Judged::stays));
        }

        #[test]
        fn every_set_of_rules_is_read_as_it_is_written(keep in any_keep()) {
            prop_assume!(!keep.is_empty());
            prop_assert_eq!(keep.to_string().parse::<Keep>().unwrap(), keep);
        }

        #[test]
        fn no_text_is_too_odd(text in "[a-z0-9=,]{0,24}", any in any::<String>()) {
            drop((text.parse::<Keep>(), any.parse::<Keep>()));
        }
    }
}
