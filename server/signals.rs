//! What signals do to a node.
//!
//! | signal | what a node does |
//! | --- | --- |
//! | TERM, INT | hands its leadership over and stops; a second one ends it at once, safely |
//! | HUP | reads its certificates again, if it has some, and goes on: a terminal may have closed |
//! | USR1, USR2, ALRM, VTALRM, PROF, IO, PWR | goes on, and says that they mean nothing to it |
//! | PIPE, XFSZ | goes on; the write that caused it fails, and whoever wrote deals with that |
//! | all others | what the system does: QUIT and ABRT end it with a core, KILL without a word |
//!
//! A node that another program has started for itself alone, as a drill does, may be told to end
//! with its standard input: a pipe that nobody writes to. Its end is the other program's, however
//! that ended, and counts as TERM.

use std::{future::poll_fn, io, os::fd::AsFd as _, task::Poll};

use rustix::process::Signal;
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    signal::unix::{self, SignalKind},
    sync::watch,
};

use crate::base::error::{Context as _, Error, Result};

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
    /// Whose end is heard as TERM.
    stdin: Option<pipe::Receiver>,
    /// How often SIGHUP has come.
    hangups: watch::Sender<u64>,
}

impl Signals {
    /// With the end of standard input, which has to be a pipe then.
    pub fn hear(with_stdin: bool) -> Result<Signals> {
        let listen = |signal: Signal| {
            Ok((
                signal,
                unix::signal(SignalKind::from_raw(signal.as_raw()))
                    .at(format!("listening for {signal:?}"))?,
            ))
        };
        let heard = STOPS.into_iter().chain(PASSES).map(listen).collect::<Result<_>>()?;
        let stdin = if with_stdin { Some(stdin()?) } else { None };
        Ok(Signals { heard, stdin, hangups: watch::Sender::new(0) })
    }

    /// Changes with every SIGHUP. Whoever keeps it has something to read again.
    pub fn hangups(&self) -> watch::Receiver<u64> {
        self.hangups.subscribe()
    }

    /// Waits until the node is asked to stop. The code that a shell gives to an end by that signal.
    pub async fn asked_to_stop(&mut self) -> u8 {
        loop {
            let next = tokio::select! {
                signal = next(&mut self.heard) => signal,
                () = end_of(&mut self.stdin) => {
                    // Once is enough: the end of a pipe stays.
                    self.stdin = None;
                    tracing::info!("standard input has ended, and this node with it");
                    Signal::TERM
                }
            };
            match next {
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
}

async fn next(all: &mut [(Signal, unix::Signal)]) -> Signal {
    poll_fn(|cx| {
        let came = all
            .iter_mut()
            .find_map(|(signal, heard)| heard.poll_recv(cx).is_ready().then_some(*signal));
        came.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

fn stdin() -> Result<pipe::Receiver> {
    let own = io::stdin().as_fd().try_clone_to_owned().at("standard input")?;
    pipe::Receiver::from_owned_fd(own).map_err(|e| {
        Error::invalid(format!(
            "standard input is no pipe ({e}), so --end-with-stdin would never end this node: leave \
             it out, or give the node a pipe"
        ))
    })
}

/// Waits until nothing can come from it any more.
async fn end_of(stdin: &mut Option<pipe::Receiver>) {
    let Some(stdin) = stdin else { return std::future::pending().await };
    let mut piece = [0; 64];
    // What is written to it means nothing.
    while let Ok(1..) = stdin.read(&mut piece).await {}
}
