//! What the cluster consists of and what it should look like: the meta group's state machine and the plans that follow from it.
//!
//! All of it is pure: commands and states in, states, rows to store and steps to take out. The same commands in the same order give the same state on
//! every node. Nothing here knows logs, stores, networks or time, and nothing here carries a plan out: the leader of each group walks its own members
//! towards what `state` wants, one step of `walk` at a time.
//!
//! - `sites`: which sites and relays there are, and which sites are half added or half removed.
//! - `snapshots`: what is remembered of a snapshot, and when it may be called completed.
//! - `command`: everything that can be asked of the meta group.
//! - `placement`: which nodes should hold which group.
//! - `walk`: the next single step from the members a group has to the ones it should have.
//! - `state`: the state machine that ties them together.

pub mod sites;
pub mod snapshots;
pub mod command;
pub mod placement;
pub mod walk;
pub mod state;

pub use command::{Applied, Changed, Command, Event, Node, Outcome};
pub use state::State;

#[cfg(test)]
mod stories;
