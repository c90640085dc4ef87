//! Rows that come to this node: how many transfers at once, how far each is, how fast all of them
//! are, and which were refused for want of room.
//!
//! A transfer that is one too many waits here, before its first row: the sender has its file
//! already, and the connection holds it back. So it does with every message that comes sooner than
//! the node's rate allows. What is told of a transfer is for people and for estimates; nothing
//! depends on it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    base::{clock::Clock, ids::GroupId, limits, locks::lock, pace::Paced},
    proto::{internal::v1::IncomingRows, v1::WaitReason},
};

/// What comes to a node. Cheap to clone.
#[derive(Clone)]
pub struct Arrivals {
    places: Arc<Semaphore>,
    pace: Arc<Paced>,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    next: u64,
    transfers: BTreeMap<u64, IncomingRows>,
    /// Groups that there was no room for, and when that was.
    refused: BTreeMap<GroupId, Duration>,
    rate: Rate,
}

/// A transfer, from its head to its end.
pub(super) struct Transfer {
    of: Arrivals,
    number: u64,
    group: GroupId,
    place: Option<OwnedSemaphorePermit>,
}

/// Bytes of the last seconds, a number for each of them.
#[derive(Default)]
struct Rate {
    second: u64,
    bytes: [u64; SECONDS],
}

/// Long enough to even out how pieces come, short enough to show a transfer that has come to a
/// halt.
const SECONDS: usize = 5;

impl Arrivals {
    pub fn new(bytes_per_second: u64, clock: Clock) -> Arrivals {
        Arrivals {
            places: Arc::new(Semaphore::new(limits::ROWS_IN_AT_ONCE)),
            pace: Arc::new(Paced::new(bytes_per_second, clock)),
            told: Arc::default(),
        }
    }

    /// A transfer that waits for its place.
    pub(super) fn begin(&self, group: GroupId, bytes_total: u64) -> Transfer {
        let mut told = lock(&self.told);
        told.next += 1;
        let number = told.next;
        let reason = WaitReason::Throttled as u32;
        let rows = IncomingRows { group: group.0, bytes: 0, bytes_total, reason };
        told.transfers.insert(number, rows);
        Transfer { of: self.clone(), number, group, place: None }
    }

    /// What comes, what waits and what was refused a moment ago; and bytes a second.
    pub fn tell(&self, now: Duration) -> (Vec<IncomingRows>, u64) {
        let mut told = lock(&self.told);
        told.refused.retain(|_, at| now.saturating_sub(*at) < limits::ROWS_REFUSED_TOLD);
        let refused = told.refused.keys().map(|group| IncomingRows {
            group: group.0,
            reason: WaitReason::NoRoom as u32,
            ..IncomingRows::default()
        });
        let rows = told.transfers.values().cloned().chain(refused).collect();
        (rows, told.rate.per_second(now))
    }
}

impl Transfer {
    /// Waits until few enough others come.
    pub(super) async fn take_place(&mut self) {
        // It is never closed.
        self.place = self.of.places.clone().acquire_owned().await.ok();
        if let Some(rows) = lock(&self.of.told).transfers.get_mut(&self.number) {
            rows.reason = 0;
        }
    }

    /// Waits until this node may take so many bytes.
    pub(super) async fn may_take(&self, bytes: u64) {
        self.of.pace.pay(bytes).await;
    }

    pub(super) fn came(&self, bytes: u64, now: Duration) {
        let mut told = lock(&self.of.told);
        told.rate.add(bytes, now);
        told.refused.remove(&self.group);
        if let Some(rows) = told.transfers.get_mut(&self.number) {
            rows.bytes += bytes;
        }
    }

    pub(super) fn has_no_room(&self, now: Duration) {
        lock(&self.of.told).refused.insert(self.group, now);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        lock(&self.of.told).transfers.remove(&self.number);
    }
}

impl Rate {
    fn add(&mut self, bytes: u64, now: Duration) {
        self.go_to(now);
        self.bytes[self.second as usize % SECONDS] += bytes;
    }

    /// Of whole seconds: the present one has only begun.
    fn per_second(&mut self, now: Duration) -> u64 {
        self.go_to(now);
        let present = self.bytes[self.second as usize % SECONDS];
        (self.bytes.iter().sum::<u64>() - present) / (SECONDS as u64 - 1)
    }

    fn go_to(&mut self, now: Duration) {
        let passed = now.as_secs().saturating_sub(self.second).min(SECONDS as u64);
        self.second = self.second.max(now.as_secs());
        for ago in 0..passed {
            self.bytes[(self.second - ago) as usize % SECONDS] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn arrivals() -> Arrivals {
        Arrivals::new(limits::MOVE_BYTES_A_SECOND, Clock::start())
    }

    #[tokio::test]
    async fn one_transfer_too_many_waits_and_says_so_until_another_one_has_ended() {
        let arrivals = arrivals();
        let mut taken = Vec::new();
        for group in 0..limits::ROWS_IN_AT_ONCE as u32 {
            let mut transfer = arrivals.begin(GroupId(group), 100);
            transfer.take_place().await;
            taken.push(transfer);
        }
        let mut late = arrivals.begin(GroupId(9), 100);
        let waiting = || {
            let (rows, _) = arrivals.tell(at(1));
            rows.iter().filter(|r| r.reason != 0).map(|r| (r.group, r.reason)).collect::<Vec<_>>()
        };
        let throttled = WaitReason::Throttled as u32;
        assert!(tokio::time::timeout(Duration::ZERO, late.take_place()).await.is_err());
        assert_eq!(waiting(), [(9, throttled)]);
        taken.pop();
        late.take_place().await;
        assert_eq!(waiting(), []);
        drop((late, taken));
        assert_eq!(arrivals.tell(at(1)), (vec![], 0));
    }

    #[test]
    fn want_of_room_is_told_until_rows_come_or_for_some_time() {
        let arrivals = arrivals();
        let transfer = arrivals.begin(GroupId(3), 0);
        transfer.has_no_room(at(7));
        drop(transfer);
        let told = |now| arrivals.tell(now).0.iter().map(|r| r.reason).collect::<Vec<_>>();
        assert_eq!(told(at(8)), [WaitReason::NoRoom as u32]);
        assert!(told(at(8) + limits::ROWS_REFUSED_TOLD).is_empty());
        arrivals.begin(GroupId(3), 0).has_no_room(at(90));
        arrivals.begin(GroupId(3), 0).came(5, at(91));
        assert!(told(at(91)).is_empty());
    }

    #[test]
    fn the_rate_is_that_of_the_last_whole_seconds() {
        let mut rate = Rate::default();
        (10..14).for_each(|second| rate.add(1000, at(second)));
        assert_eq!(rate.per_second(at(14)), 1000);
        assert_eq!(rate.per_second(at(16)), 500);
        assert_eq!(rate.per_second(at(60)), 0);
    }
}
