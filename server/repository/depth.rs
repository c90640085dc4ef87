//! How deep a verification looks, and which chunks are read on which day.
//!
//! A share of `p` percent reads every chunk in turn, and nothing is remembered for that. Every
//! chunk has one of a hundred places, which its name says. A day, counted in UTC, reads `p` of
//! these places, and the next day reads the `p` places behind them, around and around. So:
//!
//! - Of `ceil(100 / p)` days in a row, whichever is the first of them, every place is read on one
//!   at least: with 10 % every chunk within 10 days.
//! - Where `p` divides 100, each is read on exactly one of them. Where it does not, the last day
//!   goes on into the next round, and some are read twice: with 30 % four days read 120 places.
//! - Who looks twice on one day reads the same chunks twice. A day on which nobody looks leaves its
//!   chunks for the next round.
//!
//! Names are hashes, so a place holds about a hundredth of the chunks, and of few chunks sometimes
//! none.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::cluster::extent::{Extent, Percent};
use crate::part::{
    chunk::ChunkHash,
    manifest::{WRITTEN_MS_MAX, rfc3339},
};

/// How deep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "depth", rename_all = "lowercase")]
pub enum Depth {
    /// Whether everything that is named is there, as large as it was made.
    #[default]
    Quick,
    /// And the chunks whose turn it is are opened.
    Share {
        percent: Percent,
        #[serde(with = "date")]
        day: u64,
    },
    /// And all chunks are opened.
    Whole,
}

const DAY_MS: u64 = 86_400_000;
const PLACES: u64 = 100;

impl Depth {
    /// So much, of which a share is the one whose turn it is at a time.
    pub fn of(extent: Extent, now_ms: u64) -> Depth {
        match extent {
            Extent::Quick => Depth::Quick,
            Extent::Share(percent) => Depth::share(percent, now_ms),
            Extent::Whole => Depth::Whole,
        }
    }

    /// The share whose turn it is at a time, in milliseconds since 1970.
    pub fn share(percent: Percent, now_ms: u64) -> Depth {
        Depth::Share { percent, day: now_ms.min(WRITTEN_MS_MAX) / DAY_MS }
    }

    /// Whether a chunk is opened.
    pub fn opens(self, chunk: ChunkHash) -> bool {
        match self {
            Depth::Quick => false,
            Depth::Whole => true,
            Depth::Share { percent, day } => {
                let percent = u64::from(u8::from(percent));
                let begin = (day % PLACES) * percent % PLACES;
                (place(chunk) + PLACES - begin) % PLACES < percent
            }
        }
    }
}

fn place(ChunkHash(hash): ChunkHash) -> u64 {
    let (head, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    u64::from_be_bytes(*head) % PLACES
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Depth::Quick => f.write_str("quick"),
            Depth::Share { percent, .. } => write!(f, "{percent} of the chunks"),
            Depth::Whole => f.write_str("every row"),
        }
    }
}

/// A day as `2026-01-31`.
mod date {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use super::{DAY_MS, rfc3339};
    use crate::repository::points::Point;

    pub fn serialize<S: Serializer>(day: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        let time = rfc3339(day.saturating_mul(DAY_MS));
        serializer.serialize_str(time.split('T').next().unwrap_or_default())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        match format!("{text}T00:00:00Z").parse() {
            Ok(Point::Time(ms)) => Ok(ms / DAY_MS),
            _ => Err(de::Error::custom("it is not a day")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(name: u64) -> ChunkHash {
        ChunkHash(blake3::hash(&name.to_be_bytes()).into())
    }

    fn of_place(place: u64) -> ChunkHash {
        let mut hash = [7; 32];
        hash[..8].copy_from_slice(&place.to_be_bytes());
        ChunkHash(hash)
    }

    fn share(percent: u8, day: u64) -> Depth {
        Depth::share(Percent::try_from(percent).unwrap(), day * DAY_MS)
    }

    proptest! {
        #[test]
        fn within_a_round_of_days_every_chunk_is_opened(
            percent in 1..=100u8,
            first in 0..2_000_000u64,
            name: u64,
        ) {
            let days = 100u64.div_ceil(u64::from(percent));
            let opens = |day: &u64| share(percent, *day).opens(chunk(name));
            let opened = (first..first + days).filter(opens).count();
            let most = if 100 % percent == 0 { 1 } else { 2 };
            prop_assert!((1..=most).contains(&opened), "{} times in {} days", opened, days);
        }

        #[test]
        fn a_day_opens_so_many_places_of_a_hundred(percent in 1..=100u8, day in 0..2_000_000u64) {
            let opened = (0..PLACES).filter(|place| share(percent, day).opens(of_place(*place)));
            prop_assert_eq!(opened.count(), usize::from(percent));
        }

        #[test]
        fn the_hour_changes_nothing(percent in 1..=100u8, day in 0..2_000_000u64, ms in 0..DAY_MS) {
            let percent = Percent::try_from(percent).unwrap();
            let at = |ms: u64| Depth::share(percent, day * DAY_MS + ms);
            prop_assert_eq!(at(0), at(ms));
        }
    }

    #[test]
    fn ten_days_of_ten_percent_open_each_of_many_chunks_once() {
        for first in [0, 7, 20_787] {
            let mut counted = vec![0; 5000];
            for day in first..first + 10 {
                let before: u32 = counted.iter().sum();
                for (name, count) in counted.iter_mut().enumerate() {
                    *count += u32::from(share(10, day).opens(chunk(name as u64)));
                }
                let today = counted.iter().sum::<u32>() - before;
                assert!((350..650).contains(&today), "{today} of 5000 on day {day}");
            }
            assert!(counted.iter().all(|count| *count == 1));
        }
        assert!(!Depth::Quick.opens(chunk(1)) && Depth::Whole.opens(chunk(1)));
    }

    #[test]
    fn depths_are_read_back_as_they_are_written() {
        for (depth, text) in [
            (Depth::Quick, r#"{"depth":"quick"}"#),
            (Depth::Whole, r#"{"depth":"whole"}"#),
            (share(10, 20_787), r#"{"depth":"share","percent":10,"day":"2026-11-30"}"#),
        ] {
            assert_eq!(serde_json::to_string(&depth).unwrap(), text);
            assert_eq!(serde_json::from_str::<Depth>(text).unwrap(), depth);
        }
        for text in [
            r#"{"depth":"deep"}"#,
            r#"{"depth":"share","percent":0,"day":"2026-11-30"}"#,
            r#"{"depth":"share","percent":10,"day":"2026-11-31"}"#,
            r#"{"depth":"share","percent":10,"day":20787}"#,
            r#"{"depth":"share"}"#,
        ] {
            assert!(serde_json::from_str::<Depth>(text).is_err(), "{text}");
        }
    }
}
