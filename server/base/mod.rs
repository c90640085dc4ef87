//! What everything else stands on, none of it about databases: bounds, errors, locks, ids, time and
//! chance, files, threads and the log.
//!
//! Nothing here knows a group, a row or a part, and nothing here imports from another folder.

pub mod limits;
pub mod error;
pub mod locks;
pub mod clock;
pub mod ids;
pub mod budget;
pub mod disk;
pub mod space;
pub mod strangers;
pub mod flock;
pub mod pace;
pub mod crew;
pub mod journal;
pub mod metrics;
#[cfg(test)]
pub mod golden;
#[cfg(test)]
pub mod polled;
