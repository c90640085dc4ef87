//! What a node says of itself on stderr, to the service manager and to a collector of traces, and
//! what its audit log takes.

use std::time::Duration;

/// Lines of the log that wait for the thread that writes them. Further ones are lost and counted.
pub const LOG_LINES_MAX: usize = 4096;
/// Bytes of the lines that wait for the thread that writes them. Further ones are lost and counted.
pub const LOG_LINES_BYTES_MAX: usize = 4 << 20;
/// How often the log says how many lines were lost or left out, if any were.
pub const LOG_TOLD_EVERY: Duration = Duration::from_secs(1);
/// Lines that one place in the code may write in a second. Further ones are left out and counted.
pub const LOG_LINES_A_SECOND: u32 = 16;
/// Lines that one place may write in a second when strangers can cause them: in the acceptor, and
/// in foreign crates.
pub const LOG_LINES_OF_STRANGERS: u32 = 1;
/// How long a process that ends waits for its last lines to be written.
pub const LOG_LAST_WORDS: Duration = Duration::from_millis(500);
/// Answers that a request to write the last lines may get.
pub const LOG_FLUSH_ANSWERS: usize = 1;
/// Pause before writing again to a stderr that does not block and takes nothing.
pub const LOG_AGAIN: Duration = Duration::from_millis(10);

/// Time that a node which starts asks a service manager for, again and again.
pub const MANAGER_PATIENCE: Duration = Duration::from_secs(60);

/// Lines of the audit log that wait for the thread that writes them. Calls wait for a place.
pub const AUDIT_LINES_MAX: usize = 1024;
/// How long a call waits for its line. One that has to be noted first is refused then; of others
/// the line is lost and counted.
pub const AUDIT_WAIT: Duration = Duration::from_secs(5);
/// Bytes of one file of the audit log. Then the next one begins.
pub const AUDIT_FILE_BYTES: u64 = 64 << 20;
/// Files of the audit log, the one that grows included. The oldest is deleted for a new one.
pub const AUDIT_FILES: usize = 16;
/// Lines a second of callers that nobody knows. Further ones are counted.
pub const AUDIT_STRANGERS_A_SECOND: u32 = 16;

/// Spans that wait for the task that hands them on. Further ones are lost and counted.
pub const TRACE_SPANS_MAX: usize = 8192;
/// Spans that are sent together at most.
pub const TRACE_BATCH_SPANS: usize = 2048;
/// How long the first of them waits for others.
pub const TRACE_LINGER: Duration = Duration::from_secs(1);
/// How long a collector has to take them.
pub const TRACE_PATIENCE: Duration = Duration::from_secs(10);
/// How often the log says that the collector takes none.
pub const TRACE_TOLD_EVERY: Duration = Duration::from_secs(60);

const _: () = assert!(TRACE_BATCH_SPANS <= TRACE_SPANS_MAX);
const _: () = assert!(LOG_LINES_OF_STRANGERS <= LOG_LINES_A_SECOND);
const _: () = assert!(LOG_AGAIN.as_millis() < LOG_LAST_WORDS.as_millis());
