//! The last requests of a group, so that a write that is retried has its effect once and gets the
//! same answer again.
//!
//! The window is replicated state: every replica remembers the same requests and forgets them at
//! the same entry. The engine keeps it in a ring of rows beside the group's own, one a slot,
//! written in the same transaction.
//!
//! A node holds a window for each of its groups, 64 x 4096 requests when all are full, so a
//! remembered request is small: not the reply is kept but the verdict that it was made from, two
//! bits a step. The write comes along with its retry, and both together give the reply again, byte
//! for byte. That is some 120 bytes a request with its place in the index, about 30 MB in all. A
//! batch at its largest takes 1 KiB.
//!
//! Refusals are remembered too. They are definite answers: were a copy of the request still on its
//! way (a retry through another node), it must not have an effect after its writer was told that
//! there is none. Who mends what was refused asks again under a new request id. Only a refusal that
//! itself asks for a retry (Unavailable) is not remembered.

use std::collections::BTreeMap;

use super::{
    command::{Reply, Step, Write, WrittenStep},
    context::Context,
    siblings::Outcome,
    version::Dot,
};
use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, RequestId},
        limits,
    },
    faults::mutation::{Mutation, mutated},
};

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    pub request: RequestId,
    pub fingerprint: u64,
    pub verdict: Verdict,
}

/// What became of a write. With the write itself it gives the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its dots are `lineage` with counters from `first`, one for each step that minted one.
    Written { lineage: Lineage, first: u64, outcomes: Outcomes },
    /// The site does not exist or is being removed.
    NoSite,
    /// The key of this step would hold more concurrent values than it may.
    TooManySiblings { step: u32 },
}

/// Outcomes of steps, in order; four a byte, the first lowest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes(Box<[u8]>);

/// The last `REQUESTS_REMEMBERED` requests.
///
/// - Request n, counted from 0, lies in slot n % `REQUESTS_REMEMBERED`.
/// - `slots` holds every request in `ring`, and nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    ring: Vec<Remembered>,
    slots: BTreeMap<RequestId, u32>,
    requests: u64,
    taken: u64,
}

impl Verdict {
    pub(super) fn reply(&self, write: &Write) -> Reply {
        match self {
            Verdict::Written { lineage, first, outcomes } => {
                Reply::Written(written(write, *lineage, *first, outcomes))
            }
            Verdict::NoSite => Reply::Refused(no_site(write.site())),
            Verdict::TooManySiblings { step } => {
                let key = write
                    .steps()
                    .get(*step as usize)
                    .map_or_else(|| "of the batch".to_owned(), |step| step.key.to_string());
                Reply::Refused(Error::conflict(format!(
                    "key {key} of site {:?} in bucket {} would hold more than {} concurrent \
                     values, or more than {} bytes of them; read it, settle them, and write the \
                     result with the context that was read",
                    write.site().as_str(),
                    write.bucket(),
                    limits::SIBLINGS_MAX,
                    limits::SIBLINGS_BYTES_MAX
                )))
            }
        }
    }

    /// Whether the verdict can be one on this write.
    fn fits(&self, write: &Write) -> bool {
        match self {
            Verdict::Written { outcomes, .. } => {
                outcomes.0.len() == write.steps().len().div_ceil(4)
            }
            Verdict::NoSite => true,
            Verdict::TooManySiblings { step } => (*step as usize) < write.steps().len(),
        }
    }
}

pub(super) fn no_site(site: &crate::base::ids::SiteId) -> Error {
    Error::not_found(format!("site {:?} does not exist; add it first", site.as_str()))
}

fn written(write: &Write, lineage: Lineage, first: u64, outcomes: &Outcomes) -> Vec<WrittenStep> {
    let mut counter = first;
    let mut answer = |(step, outcome): (&Step, Outcome)| {
        let dot = Dot { lineage, counter };
        counter += u64::from(outcome.minted());
        let before = step
            .context
            .clone()
            .unwrap_or_else(|| Context::nothing(write.site(), write.bucket(), &step.key));
        let after = match outcome {
            Outcome::Kept | Outcome::Superseded => before,
            Outcome::Sole => before.then_sole(dot),
            Outcome::Beside => before.then_beside(dot),
        };
        WrittenStep { context: after.encode(), superseded: outcome == Outcome::Superseded }
    };
    write.steps().iter().zip(outcomes.iter()).map(&mut answer).collect()
}

impl Outcomes {
    pub fn pack(outcomes: &[Outcome]) -> Outcomes {
        let byte = |four: &[Outcome]| {
            four.iter().rev().fold(0, |byte, outcome| byte << 2 | *outcome as u8)
        };
        Outcomes(outcomes.chunks(4).map(byte).collect())
    }
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Outcomes {
        Outcomes(bytes.into())
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As many as were packed, and up to three more.
    fn iter(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.0
            .iter()
            .flat_map(|byte| [0, 2, 4, 6].map(|shift| Outcome::ALL[usize::from(byte >> shift & 3)]))
    }
}

impl Window {
    /// As it was when `requests` had been remembered; each of `rows` is one slot.
    pub fn open(
        requests: u64,
        rows: impl IntoIterator<Item = (u32, Remembered)>,
    ) -> Result<Window> {
        let rows: BTreeMap<u32, Remembered> = rows.into_iter().collect();
        let wanted = requests.min(limits::REQUESTS_REMEMBERED);
        if rows.len() as u64 != wanted || rows.keys().zip(0..).any(|(slot, at)| *slot != at) {
            return Err(Error::corrupt(format!(
                "a group that remembered {requests} requests has rows for {} instead of {wanted}",
                rows.len()
            )));
        }
        let slots = rows.iter().map(|(slot, remembered)| (remembered.request, *slot)).collect();
        Ok(Window { ring: rows.into_values().collect(), slots, requests, taken: requests })
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The reply to a request that was answered before; a refusal when another write came with its
    /// id.
    pub fn recall(&self, request: RequestId, fingerprint: u64, write: &Write) -> Option<Reply> {
        let remembered = &self.ring
            [*self.slots.get(&request).filter(|_| !mutated(Mutation::RetriedTwice))? as usize];
        if remembered.fingerprint == fingerprint && remembered.verdict.fits(write) {
            return Some(remembered.verdict.reply(write));
        }
        let message = format!(
            "request id {request} was used for another write; draw a new one for each write and \
             keep it only for its retries"
        );
        Some(Reply::Refused(Error::invalid(message)))
    }

    pub fn remember(&mut self, remembered: Remembered) {
        let slot = slot(self.requests);
        self.slots.insert(remembered.request, slot);
        match self.ring.get_mut(slot as usize) {
            Some(old) => {
                self.slots.remove(&old.request);
                *old = remembered;
            }
            None => self.ring.push(remembered),
        }
        self.requests += 1;
    }

    /// The slots that changed since this was last asked.
    pub fn take(&mut self) -> Vec<(u32, Remembered)> {
        let oldest = self.requests.saturating_sub(limits::REQUESTS_REMEMBERED);
        let changed = self.taken.max(oldest)..self.requests;
        self.taken = self.requests;
        changed.map(slot).map(|slot| (slot, self.ring[slot as usize].clone())).collect()
    }
}

fn slot(request: u64) -> u32 {
    (request % limits::REQUESTS_REMEMBERED) as u32
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn remembered(n: u64) -> Remembered {
        let mut request = [0; 16];
        request[..8].copy_from_slice(&n.to_be_bytes());
        Remembered { request: RequestId(request), fingerprint: n, verdict: Verdict::NoSite }
    }

    proptest! {
        #[test]
        fn packed_outcomes_read_back_in_order(picked in vec(0..4usize, 1..20)) {
            let outcomes: Vec<_> = picked.into_iter().map(|at| Outcome::ALL[at]).collect();
            let packed = Outcomes::pack(&outcomes);
            prop_assert_eq!(packed.iter().take(outcomes.len()).collect::<Vec<_>>(), outcomes);
        }
    }

    #[test]
    fn a_remembered_request_is_small() {
        assert!(size_of::<Remembered>() <= 64, "{}", size_of::<Remembered>());
    }

    #[test]
    fn the_window_holds_the_newest_requests_and_opens_from_the_slots_it_gave() {
        let mut window = Window::default();
        let mut stored = BTreeMap::new();
        for n in 0..limits::REQUESTS_REMEMBERED + 100 {
            window.remember(remembered(n));
            if n % 1000 == 0 {
                stored.extend(window.take());
            }
        }
        stored.extend(window.take());
        assert!(window.take().is_empty());
        let opened = Window::open(window.requests(), stored.clone()).unwrap();
        for window in [&window, &opened] {
            assert_eq!(window.ring.len() as u64, limits::REQUESTS_REMEMBERED);
            assert_eq!(window.slots.len() as u64, limits::REQUESTS_REMEMBERED);
            assert!(!window.slots.contains_key(&remembered(99).request));
            assert!(window.slots.contains_key(&remembered(100).request));
        }
        assert_eq!(opened.ring, window.ring);
        stored.remove(&7);
        assert!(Window::open(window.requests(), stored).is_err());
    }
}
