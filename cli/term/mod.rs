//! What stands between a command and who runs it: the two streams, the exit code, and how bytes and
//! tables are written.

pub mod text;
pub mod exit;
pub mod table;
pub mod output;
pub mod interrupts;
