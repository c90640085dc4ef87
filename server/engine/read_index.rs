//! When the reads that wait in a group may be answered.
//!
//! A leader that has applied an entry of its own term may answer a read from what it has applied,
//! if it is certain to be the leader still. It is certain
//! - within its lease: a quorum answered a question that was sent less than `limits::LEASE` ago,
//!   and whoever answered does not vote for another until longer after (Raft thesis 6.4.1). The
//!   lease counts from the sending, on this node's monotonic clock; a leader that has offered its
//!   place to another has none for the rest of its term, since that one may be elected at once; and
//!   a node that has restarted votes only after a promise has passed (see `promise`).
//! - otherwise once a quorum has answered a question that was sent after the read came (ReadIndex,
//!   6.4). One question, a *round*, serves all reads that wait, and renews the lease.
//!
//! The meta state is on every node: a look at it asks the leader for the commit index and waits
//! until that is applied here.
//!
//! Pure: the caller says what is known of the replica and what time it is, sends the questions, and
//! gives the answers.

use std::{collections::VecDeque, time::Duration};

use super::requests::Asker;
use crate::{
    base::limits,
    data,
    faults::mutation::{Mutation, mutated},
};

/// What the reads of a group have to know of its replica here.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub leads: bool,
    /// It leads, and has applied an entry of its own term.
    pub knows_all: bool,
    /// Somebody is known to lead.
    pub knows_leader: bool,
    pub term: u64,
    pub applied: u64,
    pub commit: u64,
}

/// A read that waits until it may be answered.
#[derive(Debug)]
pub struct Read {
    pub asker: Asker,
    pub query: data::Query,
    pub deadline: Duration,
}

/// Reads that the answer to one question allows.
#[derive(Debug)]
struct Round {
    question: u64,
    sent: Duration,
    /// The commit index that the reads have to see; none until a quorum has answered.
    index: Option<u64>,
    reads: Vec<Read>,
    looks: Vec<u64>,
}

/// What waits in a group, and what is certain there.
#[derive(Debug, Default)]
pub struct Reads {
    /// No question is sent for these yet.
    waiting: Vec<Read>,
    /// Looks at the meta state, by number; they wait as reads do.
    looks: Vec<u64>,
    /// Questions that are sent, oldest first.
    rounds: VecDeque<Round>,
    /// The time before which this leader answers reads alone.
    lease_until: Duration,
    /// The term in which leadership was last offered to another node: no lease holds in it.
    no_lease_in: u64,
}

/// What may be answered now.
#[derive(Debug, Default)]
pub struct Ripe {
    pub reads: Vec<Read>,
    pub looks: Vec<u64>,
}

impl Reads {
    pub fn add(&mut self, read: Read) {
        self.waiting.push(read);
    }

    pub fn add_look(&mut self, number: u64) {
        self.looks.push(number);
    }

    pub fn is_empty(&self) -> bool {
        !self.waits_to_ask() && self.rounds.is_empty()
    }

    /// Whether there is something for which no question is sent yet.
    pub fn waits_to_ask(&self) -> bool {
        !(self.waiting.is_empty() && self.looks.is_empty())
    }

    /// Whether nobody else can have been elected.
    fn has_lease(&self, now: Duration) -> bool {
        now < self.lease_until
            || (mutated(Mutation::LeaseForEver) && self.lease_until > Duration::ZERO)
            || mutated(Mutation::ReadsUnasked)
    }

    /// The number of the question that is to be sent for what waits. None if the lease covers it,
    /// or nobody can be asked.
    pub fn ask(&mut self, known: &Known, now: Duration, next: impl FnOnce() -> u64) -> Option<u64> {
        let leased = known.knows_all && self.has_lease(now);
        let may_ask = if known.leads { known.knows_all } else { known.knows_leader };
        if leased || !may_ask || !self.waits_to_ask() {
            return None;
        }
        let question = next();
        self.rounds.push_back(Round {
            question,
            sent: now,
            index: None,
            reads: std::mem::take(&mut self.waiting),
            looks: std::mem::take(&mut self.looks),
        });
        Some(question)
    }

    /// A quorum has answered a leader's question, or the leader a follower's: whoever applies up to
    /// the index sees all that was acknowledged before.
    pub fn answered(&mut self, known: &Known, question: u64, index: u64) {
        let Some(round) = self.rounds.iter_mut().find(|round| round.question == question) else {
            return;
        };
        round.index = Some(index);
        if known.leads && self.no_lease_in != known.term {
            self.lease_until = self.lease_until.max(round.sent + limits::LEASE);
        }
    }

    /// Takes what may be answered now.
    pub fn take_ripe(&mut self, known: &Known, now: Duration) -> Ripe {
        let mut ripe = Ripe::default();
        if known.knows_all && self.has_lease(now) && known.applied >= known.commit {
            ripe.reads.append(&mut self.waiting);
            ripe.looks.append(&mut self.looks);
        }
        self.rounds.retain_mut(|round| {
            let is_ripe = round.index.is_some_and(|index| index <= known.applied);
            if is_ripe {
                ripe.reads.append(&mut round.reads);
                ripe.looks.append(&mut round.looks);
            }
            !is_ripe
        });
        ripe
    }

    /// A follower's question to the leader may be lost without a trace: what waits for its answer
    /// waits for the next question. Looks that nobody waits for any more are dropped.
    pub fn ask_again(&mut self, now: Duration, is_open: impl Fn(u64) -> bool) {
        let again = limits::READ_AGAIN_TICKS * limits::TICK;
        let lost = |round: &Round| round.index.is_none() && now.saturating_sub(round.sent) >= again;
        let count = self.rounds.iter().take_while(|round| lost(round)).count();
        for round in self.rounds.drain(..count) {
            self.looks.extend(round.looks.into_iter().filter(|number| is_open(*number)));
            self.waiting.extend(round.reads);
        }
    }

    /// Leadership was offered to another node.
    pub fn offered(&mut self, term: u64) {
        self.no_lease_in = term;
        self.lease_until = Duration::ZERO;
    }

    /// This replica leads no more. Looks wait for the next leader.
    pub fn lose_leadership(&mut self) {
        self.lease_until = Duration::ZERO;
        for round in &mut self.rounds {
            self.looks.append(&mut round.looks);
        }
    }

    /// Everyone whose read waits, to be asked elsewhere.
    pub fn give_back(&mut self) -> impl Iterator<Item = Asker> {
        let asked = self.rounds.drain(..).flat_map(|round| round.reads);
        self.waiting.drain(..).chain(asked).map(|read| read.asker)
    }

    /// Drops reads whose time is over, and adds who asked for them.
    pub fn expire(&mut self, now: Duration, gone: &mut Vec<Asker>) {
        let mut drop_late = |reads: &mut Vec<Read>| {
            reads.retain(|read| {
                read.deadline > now || {
                    gone.push(read.asker);
                    false
                }
            });
        };
        drop_late(&mut self.waiting);
        self.rounds.iter_mut().for_each(|round| drop_late(&mut round.reads));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            golden::{self, ms, number},
            ids::SiteId,
        },
        data::{Bucket, Key},
    };

    /// One replica, and the reads that wait there.
    struct Replica {
        reads: Reads,
        known: Known,
        questions: u64,
        now: Duration,
    }

    fn list<T: std::fmt::Display>(list: impl IntoIterator<Item = T>) -> String {
        list.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
    }

    fn name(asker: Asker) -> String {
        match asker {
            Asker::Mine(number) => number.to_string(),
            Asker::Theirs(node, number) => format!("{number} of node {node}"),
            Asker::Nobody => "nobody".into(),
        }
    }

    impl Replica {
        fn new() -> Replica {
            let known = Known {
                leads: false,
                knows_all: false,
                knows_leader: false,
                term: 1,
                applied: 0,
                commit: 0,
            };
            Replica { reads: Reads::default(), known, questions: 0, now: Duration::ZERO }
        }

        /// What a round of the engine does with what waits.
        fn round(&mut self) -> String {
            let mut told = Vec::new();
            let asked = self.reads.ask(&self.known, self.now, || {
                self.questions += 1;
                self.questions
            });
            told.extend(asked.map(|question| format!("asks question {question}")));
            let Ripe { reads, looks } = self.reads.take_ripe(&self.known, self.now);
            if !reads.is_empty() {
                told.push(format!("answers reads {}", list(reads.iter().map(|r| name(r.asker)))));
            }
            if !looks.is_empty() {
                told.push(format!("answers looks {}", list(looks)));
            }
            if told.is_empty() {
                told.push(if self.reads.is_empty() { "rests" } else { "waits" }.into());
            }
            told.join("\n")
        }

        fn read(&mut self, number: u64, until: &str) {
            let query = data::Query {
                site: SiteId::new("shop").unwrap(),
                bucket: Bucket::Default,
                read: data::Read::Get { key: Key::new("k").unwrap() },
            };
            self.reads.add(Read { asker: Asker::Mine(number), query, deadline: ms(until) });
        }

        fn act(&mut self, line: &str) -> String {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["at", now] => self.now = ms(now),
                ["leads", "in", "term", term] => {
                    (self.known.leads, self.known.knows_all) = (true, false);
                    (self.known.knows_leader, self.known.term) = (true, number(term));
                }
                ["has", "applied", "an", "entry", "of", "its", "own", "term"] => {
                    self.known.knows_all = true;
                }
                ["follows", leader] => {
                    (self.known.leads, self.known.knows_all) = (false, false);
                    self.known.knows_leader = leader != "nobody";
                }
                ["committed", commit, "applied", applied] => {
                    (self.known.commit, self.known.applied) = (number(commit), number(applied));
                }
                ["read", name, "until", until] => self.read(number(name), until),
                ["look", name] => self.reads.add_look(number(name)),
                ["round"] => return self.round(),
                ["question", question, "is", "answered", "with", index] => {
                    self.reads.answered(&self.known, number(question), number(index));
                }
                ["offers", "its", "place"] => self.reads.offered(self.known.term),
                ["no", "answer", "comes"] => self.reads.ask_again(self.now, |_| true),
                ["loses", "its", "place"] => {
                    (self.known.leads, self.known.knows_all) = (false, false);
                    self.known.knows_leader = false;
                    self.reads.lose_leadership();
                    let askers: Vec<String> = self.reads.give_back().map(name).collect();
                    return if askers.is_empty() {
                        "gives back nothing".into()
                    } else {
                        format!("gives back reads {}", list(askers))
                    };
                }
                ["tick"] => {
                    let mut gone = Vec::new();
                    self.reads.expire(self.now, &mut gone);
                    return format!("drops reads {}", list(gone.into_iter().map(name)));
                }
                _ => panic!("{line} is no line of a story"),
            }
            String::new()
        }
    }

    #[test]
    fn reads_are_answered_when_the_stories_say() {
        golden::play("engine/reads", || {
            let mut replica = Replica::new();
            move |line| replica.act(line)
        });
    }
}
