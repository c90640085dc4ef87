//! Faults on purpose, compiled in only with the feature `fault-injection`: places at which a test
//! kills the process (`failpoint`), and mistakes in the logic that the simulator has to find
//! (`mutation`).
//!
//! Without the feature both are empty functions that the compiler removes.

pub mod mutation;
pub mod failpoint;
