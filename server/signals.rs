//! What signals do to a node.
//!
//! | signal | what a node does |
//! | --- | --- |
//! | TERM, INT | hands its leadership over and stops; a second one ends it at once, safely |
//! | HUP | reads its certificates again, if it has some, and goes on: a terminal may have closed |
//! | USR1, USR2, ALRM, VTALRM, PROF, IO, PWR | goes on, and says that they mean nothing to it |
//! | PIPE, XFSZ | goes on; the write that caused it fails, and whoever wrote deals with that |
//! | all others | what the system does: QUIT and ABRT end it with a core, KILL without a word |

use std::{future::poll_fn, task::Poll};

use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind},
    sync::watch,
};

use crate::base::error::{Context as _, Result};

const STOPS: [Signal; 2] = [Signal::TERM, Signal::INT];
const PASSES: [Signal; 10] = [
    Signal::HUP,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::PIPE,
    Signal::XFSZ,
];

/// The signals that this process hears from now on, instead of ending.
pub struct Signals {
    heard: Vec<(Signal, unix::Signal)>,
    /// How often SIGHUP has come.
    hangups: watch::Sender<u64>,
}

impl Signals {
    pub fn hear() -> Result<Signals> {
        let listen = |signal: Signal| {
            Ok((
                signal,
                unix::signal(SignalKind::from_raw(signal.as_raw()))
                    .at(format!("listening for {signal:?}"))?,
            ))
        };
        let heard = STOPS.into_iter().chain(PASSES).map(listen).collect::<Result<_>>()?;
        Ok(Signals { heard, hangups: watch::Sender::new(0) })
    }

    /// Changes with every SIGHUP. Whoever keeps it has something to read again.
    pub fn hangups(&self) -> watch::Receiver<u64> {
        self.hangups.subscribe()
    }

    /// Waits until the node is asked to stop. The code that a shell gives to an end by that signal.
    pub async fn asked_to_stop(&mut self) -> u8 {
        loop {
            match self.next().await {
                stop if STOPS.contains(&stop) => return 128 + stop.as_raw() as u8,
                // They say themselves what has happened.
                Signal::PIPE | Signal::XFSZ => {}
                Signal::HUP if self.hangups.receiver_count() > 0 => {
                    tracing::info!("SIGHUP: the certificates are read again");
                    self.hangups.send_modify(|times| *times += 1);
                }
                Signal::HUP => {
                    tracing::info!("SIGHUP: there is nothing to reopen or reload; the node goes on")
                }
                other => {
                    tracing::info!(
                        signal = ?other,
                        "a signal that means nothing to a node; it goes on",
                    )
                }
            }
        }
    }

    async fn next(&mut self) -> Signal {
        poll_fn(|cx| {
            let came = self
                .heard
                .iter_mut()
                .find_map(|(signal, heard)| heard.poll_recv(cx).is_ready().then_some(*signal));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
