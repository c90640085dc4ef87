//! A bound in bytes on what waits in a queue: bounding its length alone would allow as many of the
//! largest messages.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Room for so many bytes. Clones share it.
#[derive(Clone, Debug)]
pub struct ByteBudget {
    taken: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// Bytes that are taken until it is dropped.
#[derive(Debug)]
pub struct Reservation {
    from: Arc<AtomicUsize>,
    bytes: usize,
}

impl ByteBudget {
    pub fn of(bytes_max: usize) -> ByteBudget {
        ByteBudget { taken: Arc::default(), bytes_max }
    }

    /// None when there is no room left. Whatever is larger than all of it gets in alone, so that
    /// nothing waits for ever.
    pub fn take(&self, bytes: usize) -> Option<Reservation> {
        let fits =
            |taken: usize| (taken == 0 || taken + bytes <= self.bytes_max).then_some(taken + bytes);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).ok()?;
        Some(Reservation { from: self.taken.clone(), bytes })
    }
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.from.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_no_more_than_the_bound_is_given() {
        let room = ByteBudget::of(100);
        let first = room.take(60).unwrap();
        assert!(room.take(41).is_none());
        let second = room.take(40).unwrap();
        assert!(room.take(1).is_none());
        drop(first);
        assert!(room.take(101).is_none());
        drop(second);
        assert_eq!(room.take(101).unwrap().bytes(), 101);
        assert!(room.take(100).is_some());
    }
}
