//! The note that a recovery leaves in a store: which plan was carried out, and whether to its end.
//!
//! A recovery changes the store in one transaction and the logs after it. Between the two, neither
//! is what a node may serve from: the note says so, and the start refuses the store until the
//! recovery has come to its end.

use std::path::Path;

use crate::{
    base::{
        error::{Error, Result},
        ids::SnapshotId,
    },
    store::Store,
};

/// A plan and how far it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    pub plan: SnapshotId,
    pub done: bool,
}

const BEGUN: &str = "begun";
const DONE: &str = "done";

impl Noted {
    pub fn encode(self) -> Vec<u8> {
        format!("{} {}", self.plan, if self.done { DONE } else { BEGUN }).into_bytes()
    }

    /// The note of the last recovery; none where there was none.
    pub fn of(store: &Store) -> Result<Option<Noted>> {
        store.recovery()?.map(|note| Noted::parse(&note)).transpose()
    }

    fn parse(note: &[u8]) -> Result<Noted> {
        let parsed = std::str::from_utf8(note).ok().and_then(|text| {
            let (plan, stage) = text.split_once(' ')?;
            let done = [BEGUN, DONE].iter().position(|word| *word == stage)? == 1;
            Some(Noted { plan: plan.parse().ok()?, done })
        });
        parsed.ok_or_else(|| {
            Error::corrupt("the store's note of its recovery names no plan: it is damaged")
        })
    }

    pub fn unfinished(self, dir: &Path) -> Error {
        let dir = dir.display();
        Error::conflict(format!(
            "the recovery of {dir} by plan {0} was interrupted. Finish it first: devicedb recover \
             apply PLAN --store {dir}, with the file of plan {0}",
            self.plan
        ))
    }
}

/// Refuses a store whose recovery has not come to its end.
pub fn refuse_half_recovered(dir: &Path, store: &Store) -> Result<()> {
    match Noted::of(store)? {
        Some(noted) if !noted.done => Err(noted.unfinished(dir)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{clock::Random, error::Kind};

    #[test]
    fn a_note_is_read_as_it_was_written_and_any_other_is_damaged() {
        let plan = SnapshotId(Random::seeded(1).uuid());
        for done in [true, false] {
            let noted = Noted { plan, done };
            assert_eq!(Noted::parse(&noted.encode()), Ok(noted));
        }
        for damaged in ["", "begun", &format!("{plan}"), &format!("{plan} over"), "x done"] {
            let refused = Noted::parse(damaged.as_bytes()).unwrap_err();
            assert_eq!(refused.kind, Kind::Corrupt, "{damaged:?}");
        }
    }
}
