//! The proof: what a restored cluster must hold, key by key, and what it must not.
//!
//! A key counts rounds or is an event that was written once. Between the call of `create` and the
//! seal a write may be in or not, but never half: that is what the counters show.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use devicedb::proto::v1::Bucket;

use crate::{
    fleet::{BUCKETS, COUNTER, PLACES, Promise, TOWNS, site},
    harness::Client,
};

/// Everything a cluster holds: by site, bucket and key.
type Held = BTreeMap<(String, i32, Bytes), Bytes>;

/// What was found to hold.
pub struct Proof {
    pub keys: usize,
    /// Acknowledged before `create` was called, and there.
    pub before: usize,
    /// Called while the snapshot was taken: there, and not there.
    pub during: (usize, usize),
    /// Called after the seal, and not there.
    pub after: usize,
    pub towns: usize,
}

/// Reads every key of every site from one node.
pub async fn read_all(client: &Client) -> Result<Held, String> {
    let mut held = Held::new();
    for (town, place) in TOWNS.iter().flat_map(|town| PLACES.map(|place| (town, place))) {
        for bucket in BUCKETS {
            let site = site(town, place);
            let rows = client
                .scan(&site, bucket, "")
                .await
                .map_err(|e| format!("{site} cannot be read from {}: {e:?}", client.endpoint))?;
            for (key, mut values) in rows {
                if values.len() != 1 {
                    return Err(format!(
                        "{site} has {} values of {key:?}, and there was one writer",
                        values.len()
                    ));
                }
                held.insert((site.clone(), bucket.into(), key), values.remove(0));
            }
        }
    }
    Ok(held)
}

pub fn prove(
    held: &Held,
    promises: &[Promise],
    create_called: Duration,
    sealed: Duration,
) -> Result<Proof, String> {
    let mut proof = Proof { keys: held.len(), before: 0, during: (0, 0), after: 0, towns: 0 };
    let (counts, events): (Vec<_>, Vec<_>) =
        promises.iter().partition(|promise| promise.key == COUNTER.as_bytes());

    let mut known = BTreeSet::new();
    for event in events {
        let place = (event.site.clone(), event.bucket.into(), event.key.clone());
        let found = held.get(&place);
        if found.is_some_and(|value| *value != event.value) {
            return Err(format!("{event:?} has become {found:?}"));
        }
        match found.is_some() {
            true if event.called > sealed => {
                return Err(format!("written after the seal, and there: {event:?}"));
            }
            false if event.acknowledged < create_called => {
                return Err(format!("acknowledged before the snapshot, and lost: {event:?}"));
            }
            true if event.acknowledged < create_called => proof.before += 1,
            false if event.called > sealed => proof.after += 1,
            true => proof.during.0 += 1,
            false => proof.during.1 += 1,
        }
        known.insert(place);
    }
    let counter = |place: &(String, i32, Bytes)| place.2 == COUNTER.as_bytes();
    if let Some(stranger) = held.keys().find(|place| !counter(place) && !known.contains(*place)) {
        return Err(format!("nobody was promised {stranger:?}, and it is there"));
    }

    for town in TOWNS {
        let rounds = PLACES.map(|place| count(held, &site(town, place)));
        if rounds[0] < rounds[1] || rounds[1] < rounds[2] {
            return Err(format!("{town} is not one instant: {PLACES:?} count {rounds:?}"));
        }
        for (place, found) in PLACES.iter().zip(rounds) {
            let of_place = counts.iter().filter(|count| count.site == site(town, place));
            let floor = of_place
                .filter(|count| count.acknowledged < create_called)
                .filter_map(|count| parsed(&count.value))
                .max()
                .unwrap_or(0);
            if found < floor {
                return Err(format!(
                    "{town}/{place} counts {found} rounds, and {floor} were acknowledged before \
                     the snapshot"
                ));
            }
        }
        proof.towns += 1;
    }
    Ok(proof)
}

fn count(held: &Held, site: &str) -> u64 {
    let place = (site.to_string(), Bucket::Default.into(), Bytes::from_static(COUNTER.as_bytes()));
    held.get(&place).and_then(parsed).unwrap_or(0)
}

fn parsed(value: &Bytes) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
