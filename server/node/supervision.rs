//! What the machine's service manager hears of a node: the words of `sd_notify(3)`, where systemd
//! or another that speaks them has set NOTIFY_SOCKET. Without it nobody is told anything.
//!
//! - A node that starts says what it does, and asks for time while it does so: one that restores
//!   or waits for `ddbctl cluster init` is not stuck.
//! - READY=1 comes when the services are open. Whether every group has a leader is another matter,
//!   which `/readyz` answers.
//! - WATCHDOG=1 comes several times within the time that the manager gives (`WatchdogSec=`), each
//!   time the engine's loop has answered: a loop that stands still is ended and started again.

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::{base::limits, boot::starting::Doing, engine::driver::Handle};

/// Tells what a node does until it serves, which is when `doing` has no sender any more.
pub async fn starting(mut doing: watch::Receiver<Doing>) {
    loop {
        let words = doing.borrow_and_update().words.clone();
        let longer = limits::MANAGER_PATIENCE.as_micros() as u32;
        tell(&[NotifyState::Status(&words), NotifyState::ExtendTimeoutUsec(longer)]);
        tokio::select! {
            changed = doing.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(limits::MANAGER_PATIENCE / 3) => {}
        }
    }
}

/// Tells that a node serves, and that it lives.
pub async fn serving(handle: Handle, words: String) {
    tell(&[NotifyState::Ready, NotifyState::Status(&words)]);
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    loop {
        if handle.look(false, patience, |_| ()).await.is_ok() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(patience / 4).await;
    }
}

/// Tells that a node stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(error = %e, "the service manager cannot be told anything");
    }
}
