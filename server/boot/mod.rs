//! How a node gets its store, and what it answers until it has one.
//!
//! `arrival` looks at the directories and the flags and decides: resume, `restore` a part, found a
//! cluster, or stay `waiting` until one takes the node in; or begin one `together` with others, who
//! are `gathering` first. Meanwhile `starting` answers on the node's port, so that a starting node
//! is not taken for a dead one.
//!
//! Offline, `restore::offline` makes a store of parts, also of fewer than a restore by majorities
//! needs. `recover` is for when most nodes are lost for good: offline, it makes of the stores that
//! are left those of a smaller cluster. `noted` is the note that it leaves in each of them.

mod noted;
pub mod restore;
pub mod recover;
pub mod gathering;
pub mod waiting;
pub mod starting;
pub mod arrival;
pub mod together;
