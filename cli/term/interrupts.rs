//! The signals that end a command: INT from a terminal, TERM from whoever stops it, HUP when its
//! terminal closes. All three do the same: a command that has to take something away does so, and
//! what it leaves behind is said (`output::InterruptMessage`).
//!
//! HUP stays ignored where it was ignored when the program began: that is what `nohup` is for.

use std::{fs, future::poll_fn, task::Poll};

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind};

/// The signals that this process hears from now on, instead of ending.
pub struct Interrupts {
    heard: Vec<(Signal, unix::Signal)>,
}

const ENDS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

impl Interrupts {
    /// On a runtime. One that cannot be heard does what the system does.
    pub fn hear() -> Interrupts {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let wanted = ENDS.into_iter().filter(|s| *s != Signal::HUP || !is_ignored(*s, &status));
        let listen = |signal: Signal| {
            let kind = SignalKind::from_raw(signal.as_raw());
            unix::signal(kind).ok().map(|heard| (signal, heard))
        };
        Interrupts { heard: wanted.filter_map(listen).collect() }
    }

    /// Waits for one of them. The code that a shell gives to an end by it.
    pub async fn next(&mut self) -> u8 {
        poll_fn(|cx| {
            let came = self
                .heard
                .iter_mut()
                .find_map(|(signal, heard)| heard.poll_recv(cx).is_ready().then_some(*signal));
            came.map_or(Poll::Pending, |signal| Poll::Ready(128 + signal.as_raw() as u8))
        })
        .await
    }
}

/// Whether a process ignores a signal, by its `/proc/PID/status`.
fn is_ignored(signal: Signal, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (signal.as_raw() - 1)) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_ignored_if_its_bit_is_set() {
        let status = "Name:\tddbctl\nSigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\n";
        let of = |signal| is_ignored(signal, status);
        assert_eq!(
            [Signal::HUP, Signal::INT, Signal::PIPE, Signal::TERM].map(of),
            [true, false, true, false]
        );
        assert!(!is_ignored(Signal::HUP, ""));
    }
}
