//! Chunks are read, checked and taken apart on as many threads as the machine has cores, and their
//! results are taken in the order in which the chunks came.
//!
//! Items are dealt to lanes in turn and results are collected in turn, so order needs no
//! bookkeeping. Memory holds a few items a lane, however many there are. The simpler road, a lane
//! for each part, leaves cores idle where there is one part, as in a restore. It has no cancelling:
//! who wants no more results still lets the few that are under way be made.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use crate::base::{error::Result, limits};

/// Does `work` on every item, and hands what comes of it to `take` in the order of the items. An
/// error that `take` returns ends it.
pub fn in_order<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
    take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    on_lanes(cores.min(limits::CHUNK_THREADS_MAX), items, work, take)
}

/// The same on so many threads, for work that waits for something else than a core.
pub fn on_lanes<T: Send, R: Send>(
    lanes: usize,
    items: impl Iterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let lanes: Vec<(SyncSender<T>, Receiver<R>)> = (0..lanes)
            .map(|_| {
                let (give, given) = sync_channel(limits::CHUNKS_UNDER_WAY);
                let (done, results) = sync_channel(limits::CHUNKS_UNDER_WAY);
                scope.spawn(move || {
                    given.into_iter().map(work).try_for_each(|result| done.send(result))
                });
                (give, results)
            })
            .collect();
        let ended = "a lane ends before its items only by a panic";
        let (mut dealt, mut taken) = (0, 0);
        for item in items {
            if dealt - taken == limits::CHUNKS_UNDER_WAY * lanes.len() {
                take(lanes[taken % lanes.len()].1.recv().expect(ended))?;
                taken += 1;
            }
            lanes[dealt % lanes.len()].0.send(item).expect(ended);
            dealt += 1;
        }
        (taken..dealt).try_for_each(|nth| take(lanes[nth % lanes.len()].1.recv().expect(ended)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::error::Error;

    proptest! {
        #[test]
        fn results_come_in_the_order_of_their_items(items: Vec<u32>, lanes in 1..5usize) {
            let mut results = Vec::new();
            on_lanes(
                lanes,
                items.iter(),
                |item| u64::from(*item) + 1,
                |result| {
                    results.push(result);
                    Ok(())
                },
            )
            .unwrap();
            prop_assert_eq!(
                results,
                items.iter().map(|item| u64::from(*item) + 1).collect::<Vec<_>>()
            );
        }

        #[test]
        fn an_error_ends_it_at_its_item(items in 1..40usize, at in 0..40usize, lanes in 1..5usize) {
            let mut taken = Vec::new();
            let end = on_lanes(
                lanes,
                0..items,
                |item| item,
                |item| {
                    taken.push(item);
                    if item == at { Err(Error::corrupt("this one")) } else { Ok(()) }
                },
            );
            prop_assert_eq!(end.is_err(), at < items);
            prop_assert_eq!(taken, (0..items.min(at + 1)).collect::<Vec<_>>());
        }
    }
}
