//! Rows in place of entries: which members of a group this leader sends rows, and which of them may
//! be told to begin behind those rows.
//!
//! raft-rs asks for a Raft snapshot for a member whose entries the log no longer has. The rows go
//! another way than messages do, so the wish is kept here, the rows are sent, and only when they
//! have arrived is the snapshot announced.
//!
//! Pure: the caller says what was asked, sent and acknowledged, and when, and carries out what is
//! decided.
//!
//! - Rows are sent as the store has them. The store has to know the last change of members, or it
//!   would bring back those of before; and it may not end before the log begins.
//! - An offer ends when the member has the rows or does not get them, when it does not follow the
//!   snapshot in time, when its process is gone, and when it is no member any more. If that was too
//!   early, raft-rs asks again.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{
    base::{ids::NodeId, limits},
    cluster::reconfigure::Membership,
    entry::Position,
};

/// What raft-rs announces when rows have arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced {
    pub at: Position,
    pub members: Membership,
    pub name: Bytes,
}

/// How far rows for one member are.
#[derive(Debug, PartialEq)]
enum Offer {
    /// raft-rs has asked for them.
    Wanted,
    /// They are on their way.
    Sending { at: Position },
    /// They are there; they may be announced.
    Delivered { announced: Announced, since: Duration },
}

/// What the store has of a group, beside what its log has.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub at: Position,
    pub members: &'a Membership,
    /// The last change of members that is applied.
    pub changed_at: u64,
    /// Where the log begins.
    pub log_begins: u64,
}

/// The members of a group that are offered rows.
#[derive(Debug, Default)]
pub struct Offers(BTreeMap<NodeId, Offer>);

impl Offers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// raft-rs asks for a snapshot that ends at `needed` or later. None until rows like that have
    /// arrived.
    pub fn ask(&mut self, member: NodeId, needed: u64) -> Option<&Announced> {
        let offer = self.0.entry(member).or_insert(Offer::Wanted);
        if matches!(offer, Offer::Delivered { announced, .. } if announced.at.index < needed) {
            *offer = Offer::Wanted;
        }
        match offer {
            Offer::Delivered { announced, .. } => Some(announced),
            Offer::Wanted | Offer::Sending { .. } => None,
        }
    }

    /// Whether a member is offered rows.
    pub fn has(&self, member: NodeId) -> bool {
        self.0.contains_key(&member)
    }

    /// Members that wait for rows, while nobody sends them any.
    pub fn wanted(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().filter(|(_, offer)| **offer == Offer::Wanted).map(|(member, _)| *member)
    }

    /// How many members are being sent rows.
    pub fn under_way(&self) -> usize {
        self.0.values().filter(|offer| matches!(offer, Offer::Sending { .. })).count()
    }

    /// Whether rows as the store has them would do for a member. If not, the store has to get
    /// further first.
    pub fn would_do(stored: &Stored<'_>, member: NodeId) -> bool {
        stored.members.has(member)
            && stored.at.index >= stored.changed_at
            && stored.at.index >= stored.log_begins
    }

    /// Rows of this place are on their way to a member.
    pub fn send(&mut self, member: NodeId, at: Position) {
        self.0.insert(member, Offer::Sending { at });
    }

    /// They have arrived. Whether anybody still waits for them.
    pub fn arrived(&mut self, member: NodeId, announced: Announced, now: Duration) -> bool {
        let sending = matches!(self.0.get(&member), Some(Offer::Sending { .. }));
        if sending {
            self.0.insert(member, Offer::Delivered { announced, since: now });
        }
        sending
    }

    /// They have not arrived; raft-rs asks again with the next heartbeat. Whether anybody waited.
    pub fn failed(&mut self, member: NodeId) -> bool {
        let sending = matches!(self.0.get(&member), Some(Offer::Sending { .. }));
        if sending {
            self.0.remove(&member);
        }
        sending
    }

    /// A member's process has ended, or it is none any more: rows that it had are gone. Whether
    /// there was an offer.
    pub fn take_back(&mut self, member: NodeId) -> bool {
        self.0.remove(&member).is_some()
    }

    /// This replica does not lead any more.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn keep_members(&mut self, members: &Membership) {
        self.0.retain(|member, _| members.has(*member));
    }

    /// Drops offers that have done their work, and those that have not within their time. Members
    /// whose snapshot was announced and not followed: raft-rs is told that it failed.
    pub fn review(&mut self, now: Duration, matched: impl Fn(NodeId) -> u64) -> Vec<NodeId> {
        let mut failed = Vec::new();
        self.0.retain(|member, offer| match offer {
            // Of rows that are on their way it is told how they end.
            Offer::Wanted | Offer::Sending { .. } => true,
            Offer::Delivered { announced, since } => {
                let late = now.saturating_sub(*since) > limits::SNAPSHOT_FOLLOWED;
                let has = matched(*member) >= announced.at.index;
                if late && !has {
                    failed.push(*member);
                }
                !late && !has
            }
        });
        failed
    }

    /// The first entry that some member needs behind its rows; the log keeps it.
    pub fn lowest(&self) -> Option<u64> {
        let begins = |offer: &Offer| match offer {
            Offer::Wanted => None,
            Offer::Sending { at } => Some(at.index),
            Offer::Delivered { announced, .. } => Some(announced.at.index),
        };
        self.0.values().filter_map(begins).min()
    }
}

/// Whether a member that is to follow a Raft snapshot of `pending` has come past it another way.
/// raft-rs goes on only when an answer is news, and such a member has nothing new to say: it would
/// wait for ever unless raft-rs is told that the snapshot is there.
pub fn has_passed(matched: u64, pending: Option<u64>) -> bool {
    pending.is_some_and(|pending| matched >= pending)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::golden::{self, ms, number};

    /// A leader, and how far its members are.
    #[derive(Default)]
    struct Leader {
        offers: Offers,
        stored: u64,
        stored_members: Membership,
        changed_at: u64,
        log_begins: u64,
        matched: BTreeMap<NodeId, u64>,
        now: Duration,
    }

    fn node(word: &str) -> NodeId {
        NodeId(number(word))
    }

    impl Leader {
        fn announced(&self) -> Announced {
            let at = Position { index: self.stored, term: 1 };
            Announced { at, members: self.stored_members.clone(), name: Bytes::new() }
        }

        fn tick(&mut self) -> String {
            let matched = |member| self.matched.get(&member).copied().unwrap_or_default();
            let failed = self.offers.review(self.now, matched);
            let mut told: Vec<String> = failed
                .iter()
                .map(|member| format!("the snapshot for node {member} has failed"))
                .collect();
            let stored = Stored {
                at: Position { index: self.stored, term: 1 },
                members: &self.stored_members,
                changed_at: self.changed_at,
                log_begins: self.log_begins,
            };
            for member in self.offers.wanted().collect::<Vec<_>>() {
                if Offers::would_do(&stored, member) {
                    self.offers.send(member, stored.at);
                    told.push(format!("sends node {member} the rows of {}", stored.at.index));
                } else {
                    told.push(format!("node {member} waits for a checkpoint"));
                }
            }
            let log = self.offers.lowest();
            told.extend(log.map(|index| format!("keeps the log behind {index}")));
            if told.is_empty() { "rests".into() } else { told.join("\n") }
        }

        fn act(&mut self, line: &str) -> String {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["at", now] => self.now = ms(now),
                ["the", "store", "has", stored, "with", ref members @ ..] => {
                    self.stored = number(stored);
                    let learners: BTreeSet<_> = members.iter().map(|word| node(word)).collect();
                    self.stored_members = Membership { learners, ..Membership::default() };
                }
                ["the", "log", "begins", "behind", index] => self.log_begins = number(index),
                ["members", "change", "at", index] => self.changed_at = number(index),
                ["raft", "asks", "for", member, "from", index] => {
                    let asked = self.offers.ask(node(member), number(index));
                    return match asked {
                        Some(announced) => format!("announces the rows of {}", announced.at.index),
                        None => "later".into(),
                    };
                }
                ["tick"] => return self.tick(),
                ["rows", "for", member, "arrive"] => {
                    let announced = self.announced();
                    let waited = self.offers.arrived(node(member), announced, self.now);
                    return if waited { "node may be told" } else { "nobody waits" }.into();
                }
                ["rows", "for", member, "are", "lost"] => {
                    let waited = self.offers.failed(node(member));
                    return if waited { "raft asks again" } else { "nobody waits" }.into();
                }
                ["node", member, "has", index] => {
                    self.matched.insert(node(member), number(index));
                }
                ["node", member, "stops"] => {
                    let had = self.offers.take_back(node(member));
                    return if had { "its offer is over" } else { "it had none" }.into();
                }
                ["members", "are", ref members @ ..] => {
                    let learners: BTreeSet<_> = members.iter().map(|word| node(word)).collect();
                    self.offers.keep_members(&Membership { learners, ..Membership::default() });
                }
                ["raft", "waits", "until", member, "follows", "a", "snapshot", "of", pending] => {
                    let matched = self.matched.get(&node(member)).copied().unwrap_or_default();
                    let passed = has_passed(matched, Some(number(pending)));
                    return if passed { "told that it is there" } else { "waits" }.into();
                }
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }
    }

    #[test]
    fn rows_are_offered_as_told() {
        golden::play("engine/offers", || {
            let mut leader = Leader::default();
            move |line| leader.act(line)
        });
    }
}
