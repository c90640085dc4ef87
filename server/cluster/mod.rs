//! What the cluster consists of and what it should look like: the meta group's state machine, and
//! the plans that follow from its state.
//!
//! All of it is pure: commands and states go in; states, rows to store and steps to take come out.
//! The same commands in the same order give the same state on every node. Nothing here knows logs,
//! stores, networks or time, and nothing here carries out a plan: the leader of each group changes
//! the group's members into those that `state` wants, one step of `reconfigure` at a time.
//!
//! - `level`: what a cluster may put into its logs, as long as not all members know all of it.
//! - `sites`: the sites and relays, and which sites are half added or half removed.
//! - `snapshots`: what the cluster remembers of a snapshot, and when the snapshot is completed.
//! - `operations`: what operators have asked of the members, until it is true and for some time
//!   afterwards.
//! - `access`: who may do what, as far as the cluster says it itself.
//! - `cron`: when something recurs.
//! - `retention`: which snapshots rules keep in a repository, and why.
//! - `extent`: how much of a repository a verification reads.
//! - `schedule`: when the cluster takes snapshots by itself, or verifies the repository, and what
//!   has become of that.
//! - `command`: every change that can be asked of the meta group.
//! - `placement`: which nodes should hold which group.
//! - `reconfigure`: the next single step from a group's present members to the wanted ones.
//! - `state`: the state machine that ties them together.
//! - `fulfilled`: whether operations have come true, by what the groups' leaders have.

pub mod level;
pub mod sites;
pub mod snapshots;
pub mod operations;
pub mod access;
pub mod cron;
pub mod retention;
pub mod extent;
pub mod schedule;
pub mod command;
pub mod placement;
pub mod reconfigure;
pub mod state;
pub mod fulfilled;

pub use command::{Applied, Away, Changed, Command, Etag, Event, Node, Outcome, Removed};
pub use state::State;

#[cfg(test)]
mod stories;
