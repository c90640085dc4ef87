//! How a node gets its store, and what it answers until it has one.
//!
//! `arrival` looks at the directories and the flags and decides: resume, `restore` a part, found a
//! cluster, or stay `waiting` until one takes the node in. Meanwhile `starting` answers on the
//! node's port, so that a starting node is not taken for a dead one.

pub mod restore;
pub mod waiting;
pub mod starting;
pub mod arrival;
