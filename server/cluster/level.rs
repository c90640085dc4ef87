//! Levels: what a cluster may put into its logs.
//!
//! A node ends over a log entry that its version does not understand: a replica that passed over it
//! would become another one than those that apply it. So what a newer version adds to the logs, a
//! command or a field, has a level, and a cluster asks for it only when all of its members know
//! that level.
//!
//! - Every version knows the levels up to `Level::own`, and a node announces it with its address.
//! - Raising the level is of the first level itself: every version takes part in deciding whether
//!   it is refused. A node that does not know the new level ends there, and says why.
//! - The cluster's own level is one of its settings. A new cluster begins at the level of its
//!   founder. From then on it rises by one command, which is said when all members run the newer
//!   version (`ddbctl cluster upgrade finalize`), and is refused while one of them does not know
//!   the level. It never falls.
//! - What is above the cluster's level is refused before it is proposed. So until the level rises
//!   every member may go back to the older version. After that none may, and none of an older
//!   version may join.
//!
//! Does not know what is said between nodes, whose range of versions is `net::PROTOCOLS`, nor the
//! formats of stores and parts, which have numbers of their own.

use std::fmt;

/// A level. Each names the version that brought it, and what it added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(pub u32);

impl Level {
    /// All that clusters could do before there were levels.
    pub const FIRST: Level = Level(1);
    /// Nodes leave or are removed, and are remembered; replicas that are not needed any more end.
    pub const DEPARTURE: Level = Level(2);
    /// What operators ask of the members is remembered as operations; nodes are drained.
    pub const OPERATIONS: Level = Level(3);
    /// Grants and tokens; a node has the name of its certificate.
    pub const ACCESS: Level = Level(4);
    /// Machines may need a token to join.
    pub const JOINS: Level = Level(5);
    /// Snapshots are taken and stored on schedules.
    pub const SCHEDULES: Level = Level(6);
    /// Schedules have the repository verified.
    pub const VERIFICATIONS: Level = Level(7);
    /// The newest that this version knows.
    const NEWEST: Level = Level::VERIFICATIONS;

    /// The newest level that this node knows: that of its version, or an older one that a test
    /// names.
    pub fn own() -> Level {
        pretended().unwrap_or(Level::NEWEST)
    }

    /// From a record, where an absent one is the first.
    pub fn from_number(number: u32) -> Level {
        Level(number.max(Level::FIRST.0))
    }

    /// For a record, where the first is absent.
    pub fn number(self) -> u32 {
        if self == Level::FIRST { 0 } else { self.0 }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(not(feature = "fault-injection"))]
fn pretended() -> Option<Level> {
    None
}

/// A test makes an older version of this one: `DEVICEDB_LEVEL=1`.
#[cfg(feature = "fault-injection")]
fn pretended() -> Option<Level> {
    use std::sync::OnceLock;
    static TOLD: OnceLock<Option<Level>> = OnceLock::new();
    *TOLD.get_or_init(|| std::env::var("DEVICEDB_LEVEL").ok()?.parse().ok().map(Level))
}
