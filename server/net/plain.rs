//! Who still comes without TLS to a node that has certificates: a line of the log each minute for
//! as long as anybody does, so that whoever closes a cluster sees who would be locked out.
//!
//! A connection counts in every minute in which it was open, once for each kind of call that has
//! ever come on it. Some addresses are named, those with most connections first, and of the rest it
//! is said how many there are.

use std::{collections::BTreeMap, net::IpAddr};

use crate::base::{limits, metrics::PlainKind};

/// Connections by the kind of calls on them and by address.
#[derive(Debug, Default)]
pub struct PlainCallers {
    by_address: BTreeMap<(PlainKind, IpAddr), usize>,
    /// Of addresses that there was no room to remember.
    others: BTreeMap<PlainKind, usize>,
}

impl PlainCallers {
    /// Counts a connection; `bits` has one for each kind of call that came on it.
    pub fn note(&mut self, bits: u8, address: IpAddr) {
        for kind in PlainKind::ALL.into_iter().filter(|kind| bits & kind.bit() != 0) {
            let room = self.by_address.len() < limits::PLAIN_ADDRESSES_REMEMBERED;
            let key = (kind, address);
            let count = match room || self.by_address.contains_key(&key) {
                true => self.by_address.entry(key).or_default(),
                false => self.others.entry(kind).or_default(),
            };
            *count += 1;
        }
    }

    /// All of it in words; None where there was nobody.
    pub fn told(&self) -> Option<String> {
        let told: Vec<String> =
            PlainKind::ALL.into_iter().filter_map(|kind| self.told_of(kind)).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn told_of(&self, kind: PlainKind) -> Option<String> {
        let of_kind = self.by_address.iter().filter(|((of, _), _)| *of == kind);
        let mut all: Vec<(usize, IpAddr)> = of_kind.map(|((_, at), n)| (*n, *at)).collect();
        all.sort_by_key(|(count, address)| (std::cmp::Reverse(*count), *address));
        let rest: usize = all.iter().skip(limits::PLAIN_ADDRESSES_NAMED).map(|(n, _)| n).sum();
        let rest = rest + self.others.get(&kind).copied().unwrap_or_default();
        let mut named: Vec<String> = all
            .iter()
            .take(limits::PLAIN_ADDRESSES_NAMED)
            .map(|(count, address)| format!("{count} from {address}"))
            .collect();
        if rest > 0 {
            named.push(format!("{rest} from other addresses"));
        }
        let who = match kind {
            PlainKind::Client => "clients",
            PlainKind::Node => "nodes",
            PlainKind::Page => "probes and scrapers",
        };
        (!named.is_empty()).then(|| format!("{who}: {}", named.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(number: u8) -> IpAddr {
        [198, 51, 100, number].into()
    }

    #[test]
    fn who_comes_most_is_named_first_and_the_rest_is_counted() {
        let mut callers = PlainCallers::default();
        assert_eq!(callers.told(), None);
        callers.note(0, from(1));
        assert_eq!(callers.told(), None, "no call came without TLS");
        callers.note(PlainKind::Client.bit() | PlainKind::Page.bit(), from(2));
        callers.note(PlainKind::Client.bit(), from(3));
        callers.note(PlainKind::Client.bit(), from(3));
        assert_eq!(
            callers.told().unwrap(),
            "clients: 2 from 198.51.100.3, 1 from 198.51.100.2; probes and scrapers: 1 from \
             198.51.100.2"
        );
        let most = limits::PLAIN_ADDRESSES_REMEMBERED as u32;
        for number in 0..most {
            callers.note(PlainKind::Client.bit(), number.to_be_bytes().into());
        }
        let told = callers.told().unwrap();
        let rest = most as usize + 3 - 2 - (limits::PLAIN_ADDRESSES_NAMED - 1);
        assert!(told.contains(&format!(", {rest} from other addresses;")), "{told}");
    }
}
