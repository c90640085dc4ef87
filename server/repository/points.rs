//! Which snapshot of a repository is meant: the newest, one by its uuid, or the state of some time.
//!
//! The number of a snapshot says what comes after what in its history; times are labels, made by
//! clocks that may have been set. A time stands for the last snapshot that was written by then, and
//! so never for a state that is later than it.
//!
//! A history that was adopted and the one that it goes on in have one answer, the newest (`adopt`).
//! Nothing says which of several others is meant, when more than one has an answer. Then each
//! answer is named, and a uuid decides. A snapshot that is meant and cannot be read is no reason to
//! take an older one in silence: that is an error, and a uuid decides.

use std::{fmt, str::FromStr};

use super::{
    adopt::Line,
    entry::Entry,
    manifest::Snapshot,
    root::{Folder, Kept, Repository},
};
use crate::{
    base::{
        error::{Error, Result},
        ids::SnapshotId,
        limits,
    },
    part::manifest::rfc3339,
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    Latest,
    Snapshot(SnapshotId),
    /// Milliseconds since 1970.
    Time(u64),
}

impl FromStr for Point {
    type Err = Error;

    fn from_str(text: &str) -> Result<Point> {
        if text == "latest" {
            return Ok(Point::Latest);
        }
        if let Ok(id) = text.parse() {
            return Ok(Point::Snapshot(id));
        }
        milliseconds(text).map(Point::Time).ok_or_else(|| {
            Error::invalid(format!(
                "{text:?} is neither latest, nor the uuid of a snapshot, nor a time with its zone \
                 as 2026-01-31T12:00:00Z"
            ))
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Latest => f.write_str("latest"),
            Point::Snapshot(id) => id.fmt(f),
            Point::Time(ms) => f.write_str(&rfc3339(*ms)),
        }
    }
}

/// What was found, and the snapshot of the same history behind it, if that was looked at.
#[derive(Clone, Debug)]
pub struct Found {
    pub kept: Kept,
    pub next: Option<Entry>,
}

/// `NotFound` says what is nearest, `Conflict` what there is to choose from.
pub fn find(repository: &Repository, point: Point) -> Result<Found> {
    let place = repository.store.place();
    let standings = repository.standings()?;
    let all = || standings.iter().flat_map(|standing| &standing.catalogue.snapshots);
    let Some(newest) = all().max_by_key(|entry| entry.written_ms) else {
        return Err(Error::not_found(format!(
            "the repository {place} holds no snapshot yet: ddbctl repository import stores one"
        )));
    };
    let is_meant = |entry: &&Entry| match point {
        Point::Latest => true,
        Point::Time(ms) => entry.written_ms <= ms,
        Point::Snapshot(id) => entry.snapshot == id,
    };
    let mut found = Vec::new();
    let lines = Line::all(standings.clone());
    for line in &lines {
        found.extend(line.0.iter().rev().find_map(|standing| {
            let entries = &standing.catalogue.snapshots;
            let at = entries.iter().rposition(|entry| is_meant(&entry))?;
            Some((standing.folder, &entries[at], entries.get(at + 1)))
        }));
    }
    match (found.as_slice(), point) {
        ([(folder, entry, next)], _) => {
            let kept = repository.kept(*folder, entry).map_err(|e| {
                Error::new(e.kind, format!("{e}. To take another snapshot, name it by its uuid"))
            });
            Ok(Found { kept: kept?, next: next.cloned() })
        }
        ([], Point::Snapshot(id)) => Err(Error::not_found(format!(
            "the repository {place} has no snapshot {id}; the newest is {}",
            newest.named()
        ))),
        ([], _) => {
            let first = all().min_by_key(|entry| entry.written_ms);
            let first = first.map(|first| format!("; the first is {}", first.named()));
            Err(Error::not_found(format!(
                "no snapshot in the repository {place} was written by {point}{}",
                first.unwrap_or_default()
            )))
        }
        (several, _) => {
            let all = several.iter().map(|(Folder { cluster, lineage }, entry, _)| {
                format!("{} of cluster {cluster}, lineage {lineage}", entry.named())
            });
            Err(Error::conflict(format!(
                "the repository {place} has snapshots of {} histories, and nothing says which is \
                 meant: name one by its uuid. For {point} they are {}",
                several.len(),
                listed(all)
            )))
        }
    }
}

/// A snapshot by its uuid and its time.
pub fn named(snapshot: &Snapshot) -> String {
    format!("{}, written {}", snapshot.snapshot, snapshot.written)
}

fn listed(all: impl ExactSizeIterator<Item = String>) -> String {
    let (count, shown) = (all.len(), limits::STRANGERS_TOLD_MAX);
    let text = all.take(shown).collect::<Vec<_>>().join("; ");
    if count > shown { format!("{text}; and {} more", count - shown) } else { text }
}

/// A time as RFC 3339 writes it, from 1970 on, in milliseconds: the way back from `rfc3339`.
fn milliseconds(text: &str) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let part = |text: &str, at: std::ops::Range<usize>| number(text.get(at)?);
    let marks = |text: &str, mark: u8| text.bytes().filter(|b| *b == mark).count() == 2;
    if !(marks(date, b'-') && marks(clock, b':')) {
        return None;
    }
    let (year, month, day) = (part(date, 0..4)?, part(date, 5..7)?, part(date, 8..10)?);
    let (hour, minute, second) = (part(clock, 0..2)?, part(clock, 3..5)?, part(clock, 6..8)?);
    if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Hinnant's count again: years begin in March.
    let since = if month > 2 { month - 3 } else { month + 9 };
    let years = year - u64::from(month <= 2);
    let (era, years) = (years / 400, years % 400);
    let days =
        365 * years + years / 4 - years / 100 + (153 * since + 2) / 5 + day.checked_sub(1)?;
    let days = (era * 146_097 + days).checked_sub(719_468)?;
    // A day or a month that is not there comes back as another one.
    if rfc3339(days * 86_400_000).get(..10)? != date {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            let (digits, zone) = rest.split_at(end);
            let ms = number(format!("{digits:0<3}").get(..3)?).filter(|_| !digits.is_empty())?;
            (ms, zone)
        }
    };
    let ms = ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + fraction;
    if zone == "Z" || zone == "z" {
        return Some(ms);
    }
    let (sign, offset) = zone.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2)?;
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let offset = (hours * 60 + minutes) * 60_000;
    match sign {
        _ if hours > 23 || minutes > 59 => None,
        "+" => ms.checked_sub(offset),
        "-" => ms.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        base::{error::Kind, ids::SnapshotSeq},
        part::{manifest::WRITTEN_MS_MAX, sample},
        repository::commit::Commit,
    };

    #[test]
    fn a_point_is_latest_a_uuid_or_a_time_and_nothing_else() {
        let time = |text: &str| text.parse::<Point>();
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
            ("2023-11-14t22:13:20.1239z", 1_700_000_000_123),
            ("2023-11-14 22:13:20.1Z", 1_700_000_000_100),
            ("2023-11-15T00:13:20+02:00", 1_700_000_000_000),
            ("2023-11-14T16:43:20-05:30", 1_700_000_000_000),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("9999-12-31T23:59:59.999Z", WRITTEN_MS_MAX),
        ] {
            assert_eq!(time(text), Ok(Point::Time(ms)), "{text}");
        }
        let id = sample::snapshot(1);
        assert_eq!(id.to_string().parse(), Ok(Point::Snapshot(id)));
        assert_eq!("latest".parse(), Ok(Point::Latest));
        for text in [
            "",
            "Latest",
            "now",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T22:13Z",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:60:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20+2:00",
            "2023-11-14T22:13:20+02:60",
            "2023-11-14T22:13:20*02:00",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2023-11-14T22:13:20Zulu",
            "2023-1\u{308}-14T22:13:20Z",
            "+023-11-14T22:13:20Z",
        ] {
            let e = time(text).unwrap_err();
            assert!(e.kind == Kind::Invalid && e.message.contains("neither latest"), "{text}: {e}");
        }
    }

    proptest! {
        #[test]
        fn a_time_that_is_written_is_read_as_it_was(ms in 0..=WRITTEN_MS_MAX) {
            prop_assert_eq!(rfc3339(ms).parse(), Ok(Point::Time(ms)));
        }

        #[test]
        fn no_text_is_too_odd(text in "[0-9TZ:+. -]{0,32}", any in any::<String>()) {
            drop((text.parse::<Point>(), any.parse::<Point>()));
        }
    }

    const MINUTE: u64 = 60_000;
    const BEGIN: u64 = 1_700_000_000_000;

    /// A snapshot without rows in them, which nobody looks at here.
    fn put(repository: &Repository, n: u64, lineage: u64, written_ms: u64) -> Kept {
        let text = fs::read_to_string(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/golden/repository/snapshot.json"),
        );
        let golden = Snapshot::parse(text.unwrap().as_bytes()).unwrap();
        let snapshot = Snapshot {
            repository: repository.id,
            snapshot: sample::snapshot(100 * lineage + n),
            seq: SnapshotSeq(n),
            lineage: crate::base::ids::Lineage(lineage),
            written: rfc3339(written_ms),
            written_ms,
            ..golden
        };
        let folder = Folder { cluster: snapshot.cluster, lineage: snapshot.lineage };
        let commit = Commit {
            repository: repository.clone(),
            folder,
            seq: snapshot.seq,
            snapshot: snapshot.snapshot,
            partitions: snapshot.partitions,
            groups: snapshot.groups,
            schedule: None,
        };
        assert!(!commit.list(snapshot, None).unwrap().was_there);
        repository.find(sample::snapshot(100 * lineage + n)).unwrap()
    }

    #[test]
    fn a_time_stands_for_the_last_snapshot_that_was_written_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("repository");
        let repository = Repository::init(path.to_str().unwrap()).unwrap();
        let e = find(&repository, Point::Latest).unwrap_err();
        assert!(e.kind == Kind::NotFound && e.message.contains("holds no snapshot yet"), "{e}");
        let [one, two, three] =
            [1, 2, 3].map(|n| put(&repository, n, 7, BEGIN + n * MINUTE).snapshot);
        let at = |ms| {
            let found = find(&repository, Point::Time(ms)).unwrap();
            (found.kept.snapshot.seq.0, found.next.map(|next| next.seq.0))
        };
        assert_eq!(at(one.written_ms), (1, Some(2)));
        assert_eq!(at(two.written_ms - 1), (1, Some(2)));
        assert_eq!(at(two.written_ms), (2, Some(3)));
        assert_eq!(at(three.written_ms + MINUTE), (3, None));
        assert_eq!(find(&repository, Point::Latest).unwrap().kept.snapshot, three);
        assert_eq!(find(&repository, Point::Snapshot(two.snapshot)).unwrap().kept.snapshot, two);
        let early = find(&repository, Point::Time(BEGIN)).unwrap_err();
        let first = format!("the first is {}", named(&one));
        assert!(early.kind == Kind::NotFound && early.message.contains(&first), "{early}");
        let unknown = find(&repository, Point::Snapshot(sample::snapshot(9))).unwrap_err();
        let newest = format!("the newest is {}", named(&three));
        assert!(unknown.kind == Kind::NotFound && unknown.message.contains(&newest), "{unknown}");

        // What cannot be read may be what is meant.
        let meant = repository.find(three.snapshot).unwrap();
        fs::write(path.join(meant.folder.object(&meant.object)), "{}").unwrap();
        for point in [Point::Latest, Point::Time(three.written_ms)] {
            let e = find(&repository, point).unwrap_err();
            assert_eq!(e.kind, Kind::Corrupt, "{e}");
            assert!(e.message.contains("name it by its uuid"), "{e}");
        }
        assert_eq!(find(&repository, Point::Snapshot(two.snapshot)).unwrap().kept.snapshot, two);
    }

    #[test]
    fn of_several_histories_one_has_to_be_named_unless_one_alone_has_an_answer() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(dir.path().join("repository").to_str().unwrap()).unwrap();
        let old = put(&repository, 5, 7, BEGIN).snapshot;
        let new = put(&repository, 1, 8, BEGIN + MINUTE).snapshot;
        assert_eq!(find(&repository, Point::Time(BEGIN)).unwrap().kept.snapshot, old);
        for point in [Point::Latest, Point::Time(BEGIN + MINUTE)] {
            let e = find(&repository, point).unwrap_err();
            assert_eq!(e.kind, Kind::Conflict, "{e}");
            for snapshot in [&old, &new] {
                assert!(e.message.contains(&named(snapshot)), "{e}");
            }
        }
        assert_eq!(find(&repository, Point::Snapshot(old.snapshot)).unwrap().kept.snapshot, old);
    }
}
