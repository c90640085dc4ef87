//! A future that a test polls by hand, and whether anything has asked for its next poll.
//!
//! A crate of such helpers would have tokio compiled with features that only tests have, and with
//! it everything that stands on tokio: once for tests and once more for the binaries.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

pub struct Polled<F> {
    future: Pin<Box<F>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.store(true, Ordering::Release);
    }
}

impl<F: Future> Polled<F> {
    pub fn new(future: F) -> Polled<F> {
        Polled { future: Box::pin(future), woken: Arc::default() }
    }

    /// Polls the future once. Until something wakes it again it is not woken.
    pub fn poll(&mut self) -> Poll<F::Output> {
        self.woken.0.store(false, Ordering::Release);
        let waker = Waker::from(self.woken.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Whether the future has been woken since it was last polled.
    pub fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::Acquire)
    }
}
