//! The keys that clients use, and what is promised of each.

use devicedb::{
    base::ids::SiteId,
    data::{Bucket, Key},
};

pub const COLUMNS: usize = 3;
pub const REGISTERS: u64 = 4;
pub const SIBLINGS: u64 = 3;
pub const PAIRS: u64 = 2;
pub const NEWEST: u64 = 2;
/// A key, and what is promised of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Register(u64),
    Sibling(u64),
    /// One of two keys that batches write together.
    Pair(u64, bool),
    Counter(usize, usize),
    /// The newest timestamp stands.
    Newest(u64),
    /// The key of one life of the site that comes and goes.
    Life(u64),
}

impl Place {
    pub fn site(self) -> SiteId {
        let name = match self {
            Place::Register(n) => format!("register{}", n % 3),
            Place::Sibling(n) => format!("sibling{}", n % 2),
            Place::Pair(n, _) => format!("pair{n}"),
            Place::Counter(column, turn) => format!("column{column}{}", ["a", "b", "c"][turn]),
            Place::Newest(n) => format!("newest{n}"),
            Place::Life(_) => "comes-and-goes".into(),
        };
        SiteId::new(name).unwrap()
    }
    pub fn key(self) -> Key {
        let name = match self {
            Place::Register(n) | Place::Sibling(n) => format!("key{n}"),
            Place::Pair(n, second) => format!("pair{n}{}", if second { "y" } else { "x" }),
            Place::Counter(..) => "counter".into(),
            Place::Newest(n) => format!("key{n}"),
            Place::Life(life) => format!("life{life}"),
        };
        Key::new(name).unwrap()
    }
    pub fn bucket(self) -> Bucket {
        match self {
            Place::Register(n) if n % 2 == 0 => Bucket::Lww,
            Place::Newest(_) => Bucket::Lww,
            Place::Sibling(_) => Bucket::Cloud,
            _ => Bucket::Default,
        }
    }

    /// Those whose sites are always there.
    pub fn all() -> Vec<Place> {
        let mut all: Vec<Place> = (0..REGISTERS).map(Place::Register).collect();
        all.extend((0..SIBLINGS).map(Place::Sibling));
        all.extend((0..PAIRS).flat_map(|n| [Place::Pair(n, false), Place::Pair(n, true)]));
        all.extend(
            (0..COLUMNS).flat_map(|column| (0..3).map(move |turn| Place::Counter(column, turn))),
        );
        all.extend((0..NEWEST).map(Place::Newest));
        all
    }
}
