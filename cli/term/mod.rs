//! What stands between a command and who runs it: the two streams, the exit code, and how bytes and
//! tables are written.

pub mod text;
pub mod exit;
pub mod table;
mod colour;
pub mod output;
pub mod interrupts;

/// The schema of documents. It rises when a field changes its meaning or goes, and not when one
/// comes.
pub const SCHEMA: u32 = 1;
