//! What clients did and saw, and whether a database that keeps its promises could have answered so.
//!
//! Every checker takes a plain history and gives back what is wrong with it, so that each is tested
//! with histories that are. An operation whose outcome is unknown may have happened at any time
//! after its call, or never.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Since the beginning of the history, by one clock for all clients.
pub type Moment = Duration;

/// One operation on one key, as a client saw it. Values are unique: no two writes of a history
/// write the same one.
#[derive(Clone, Debug)]
pub struct Op<K> {
    pub called: Moment,
    /// None for a write whose outcome is unknown.
    pub answered: Option<Moment>,
    pub kind: K,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Write(u64),
    /// What it found; none before the first write.
    Read(Option<u64>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sibling {
    /// Writes a value in the place of all values that its context knew of, or only removes those.
    Write {
        value: Option<u64>,
        covers: BTreeSet<u64>,
    },
    Read(BTreeSet<u64>),
}

/// On a key whose writers choose the timestamps. No two of them choose the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// A value, or a deletion.
    Write { stamp: u64, value: Option<u64> },
    /// The timestamp and the value that it found.
    Read(Option<(u64, u64)>),
}

const FOR_EVER: Moment = Moment::MAX;

// ---- Registers. ----

/// Whether there is one order of the operations that respects time and in which each read finds the
/// write before it.
///
/// With unique values that is decided by comparing zones (Gibbons and Korach, Testing shared
/// memories, 1997): a value's zone lies between the first answer and the last call of the
/// operations that wrote or read it. A zone whose answer comes first is forward: the value
/// certainly stood all that time, so two forward zones must not meet. Otherwise it is backward, and
/// the value needs only a moment, which must not be wholly inside a forward zone of another.
pub fn linearizable(history: &[Op<Register>]) -> Result<(), String> {
    let mut values: BTreeMap<Option<u64>, Cluster> = BTreeMap::new();
    values.insert(
        None,
        Cluster {
            written: Some((Moment::ZERO, Moment::ZERO)),
            first_answer: Moment::ZERO,
            last_call: Moment::ZERO,
            read: false,
        },
    );
    for op in history {
        let (value, is_read) = match op.kind {
            Register::Write(value) => (Some(value), false),
            Register::Read(value) => (value, true),
        };
        let answered = op.answered.unwrap_or(FOR_EVER);
        let cluster = values.entry(value).or_default();
        if is_read {
            cluster.read = true;
        } else if cluster.written.replace((op.called, answered)).is_some() {
            return Err(format!("the value {value:?} was written twice: the history is no test"));
        }
        cluster.first_answer = cluster.first_answer.min(answered);
        cluster.last_call = cluster.last_call.max(op.called);
    }
    let mut forward = Vec::new();
    let mut backward = Vec::new();
    for (value, cluster) in values {
        let Some((called, answered)) = cluster.written else {
            return Err(format!("a read found {value:?}, which nobody wrote"));
        };
        if answered == FOR_EVER && !cluster.read {
            continue;
        }
        if cluster.first_answer < called {
            return Err(format!("{value:?} was read before its write was called at {called:?}"));
        }
        if cluster.first_answer < cluster.last_call {
            forward.push((cluster.first_answer, cluster.last_call, value));
        } else {
            backward.push((cluster.last_call, cluster.first_answer, value));
        }
    }
    forward.sort();
    for pair in forward.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(format!(
                "{:?} stood from {:?} to {:?}, and {:?} from {:?} to {:?}",
                pair[0].2, pair[0].0, pair[0].1, pair[1].2, pair[1].0, pair[1].1
            ));
        }
    }
    for (from, to, value) in backward {
        // The last forward zone that begins before this one.
        let at = forward.partition_point(|(begins, ..)| *begins < from);
        if let Some((begins, ends, other)) = at.checked_sub(1).map(|at| forward[at])
            && to < ends
        {
            return Err(format!(
                "{value:?} has its moment between {from:?} and {to:?}, while {other:?} stood from \
                 {begins:?} to {ends:?}"
            ));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Cluster {
    written: Option<(Moment, Moment)>,
    first_answer: Moment,
    last_call: Moment,
    read: bool,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster { written: None, first_answer: FOR_EVER, last_call: Moment::ZERO, read: false }
    }
}

// ---- Siblings. ----

/// Whether every read finds exactly the values that nobody has covered: a value that was
/// acknowledged before the read was called, unless a write that covers it was called before the
/// read was answered; and no value that was covered by a write acknowledged before the read was
/// called.
pub fn obey_contexts(history: &[Op<Sibling>]) -> Result<(), String> {
    let mut covers: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    // A write covers what its reader saw, and what those values had covered.
    let mut writes: Vec<&Op<Sibling>> =
        history.iter().filter(|op| matches!(op.kind, Sibling::Write { .. })).collect();
    writes.sort_by_key(|op| op.called);
    let mut covered_by: BTreeMap<u64, Vec<&Op<Sibling>>> = BTreeMap::new();
    let mut written: BTreeMap<u64, &Op<Sibling>> = BTreeMap::new();
    for op in writes {
        let Sibling::Write { value, covers: seen } = &op.kind else { continue };
        let all: BTreeSet<u64> = seen
            .iter()
            .flat_map(|v| covers.get(v).into_iter().flatten().copied().chain([*v]))
            .collect();
        for old in &all {
            covered_by.entry(*old).or_default().push(op);
        }
        if let Some(value) = value {
            covers.insert(*value, all);
            written.insert(*value, op);
        }
    }
    for read in history {
        let (Sibling::Read(found), Some(answered)) = (&read.kind, read.answered) else { continue };
        for value in found {
            match written.get(value) {
                None => {
                    return Err(format!(
                        "a read at {answered:?} found {value}, which nobody wrote"
                    ));
                }
                Some(write) if write.called > answered => {
                    return Err(format!(
                        "{value} was read at {answered:?}, before its write was called"
                    ));
                }
                Some(_) => {}
            }
            let over = covered_by
                .get(value)
                .into_iter()
                .flatten()
                .find(|w| w.answered.is_some_and(|at| at < read.called));
            if let Some(over) = over {
                return Err(format!(
                    "a read called at {:?} found {value}, which {:?} had covered by {:?}",
                    read.called, over.kind, over.answered
                ));
            }
        }
        for (value, write) in &written {
            let stands = write.answered.is_some_and(|at| at < read.called);
            let covered = covered_by.get(value).into_iter().flatten().any(|w| w.called < answered);
            if stands && !covered && !found.contains(value) {
                return Err(format!(
                    "a read from {:?} to {answered:?} found {found:?} and not {value}, \
                     acknowledged at {:?}",
                    read.called, write.answered
                ));
            }
        }
    }
    Ok(())
}

// ---- The newest timestamp. ----

/// Whether every read finds the newest of all writes that were acknowledged before it was called,
/// or a newer one that had been called by then; and nothing older than an earlier read has found. A
/// read that finds nothing has found a deletion, or the time before every write.
pub fn newest_stands(history: &[Op<Newest>]) -> Result<(), String> {
    // Called, answered, stamp, value; the first stands for the time before.
    let mut writes = vec![(Moment::ZERO, Moment::ZERO, 0, None)];
    let mut reads = Vec::new();
    for op in history {
        let answered = op.answered.unwrap_or(FOR_EVER);
        match op.kind {
            Newest::Write { stamp, value } => writes.push((op.called, answered, stamp, value)),
            Newest::Read(found) => reads.push((answered, op.called, found)),
        }
    }
    writes.sort_by_key(|(.., stamp, _)| *stamp);
    reads.sort();
    // When a read was answered that had found a stamp.
    let mut known: Vec<(Moment, u64)> = Vec::new();
    for (answered, called, found) in reads {
        let acknowledged =
            writes.iter().filter(|(_, at, ..)| *at < called).map(|(.., stamp, _)| *stamp);
        let floor = acknowledged
            .chain(known.iter().filter(|(at, _)| *at < called).map(|(_, stamp)| *stamp))
            .max()
            .unwrap_or(0);
        let fits = |(begun, _, stamp, value): &&(Moment, Moment, u64, Option<u64>)| {
            *begun <= answered
                && *stamp >= floor
                && found.map_or(value.is_none(), |(at, read)| at == *stamp && *value == Some(read))
        };
        let Some((.., stamp, _)) = writes.iter().find(fits) else {
            return Err(format!(
                "a read from {called:?} to {answered:?} found {found:?}, and the timestamp {floor} \
                 had been written or read before"
            ));
        };
        known.push((answered, *stamp));
    }
    Ok(())
}

// ---- Cuts. ----

/// A counter with one writer: what happened to each number, from 1.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    pub called: Vec<Moment>,
    pub answered: Vec<Option<Moment>>,
    /// When a number, or a later one, was first known to be there: acknowledged, or read by anyone.
    pub known: Vec<Option<Moment>>,
}

impl Counter {
    pub fn call(&mut self, at: Moment) -> u64 {
        self.called.push(at);
        self.answered.push(None);
        self.known.push(None);
        self.called.len() as u64
    }

    pub fn answer(&mut self, number: u64, at: Moment) {
        self.answered[number as usize - 1] = Some(at);
        self.know(number, at);
    }

    pub fn know(&mut self, number: u64, at: Moment) {
        for known in
            self.known[..number as usize].iter_mut().rev().take_while(|k| k.is_none_or(|k| k > at))
        {
            *known = Some(at);
        }
    }
}

/// What is known of a snapshot from outside.
#[derive(Clone, Debug)]
pub struct CutTimes {
    pub called: Moment,
    /// When somebody learned that it is sealed.
    pub sealed: Moment,
}

/// Whether counters as a snapshot holds them are one instant: nothing in it was called after
/// something that is not in it was known, everything that was acknowledged before the snapshot was
/// called is in it, and nothing that was called after its seal was known.
pub fn one_instant<'a>(
    times: &CutTimes,
    held: impl IntoIterator<Item = (&'a Counter, u64)>,
) -> Result<(), String> {
    let mut first_left_out = (FOR_EVER, 0, 0);
    let mut last_called = (Moment::ZERO, 0, 0);
    for (which, (counter, number)) in held.into_iter().enumerate() {
        let at = number as usize;
        if at > counter.called.len() {
            return Err(format!("counter {which} holds {number}, which nobody wrote"));
        }
        if let Some(Some(known)) = counter.known.get(at) {
            first_left_out = first_left_out.min((*known, which, number + 1));
        }
        if let Some(called) = at.checked_sub(1).map(|at| counter.called[at]) {
            last_called = last_called.max((called, which, number));
        }
        if let Some(answered) = counter.answered.get(at).copied().flatten()
            && answered < times.called
        {
            return Err(format!(
                "{} of counter {which} was acknowledged at {answered:?}, the snapshot called at \
                 {:?}, and holds {number}",
                number + 1,
                times.called
            ));
        }
    }
    if last_called.0 > times.sealed {
        return Err(format!(
            "{} of counter {} was called at {:?}, after the seal was known at {:?}",
            last_called.2, last_called.1, last_called.0, times.sealed
        ));
    }
    if first_left_out.0 < last_called.0 {
        let ((known, a, lacks), (called, b, holds)) = (first_left_out, last_called);
        return Err(format!(
            "it holds {holds} of counter {b}, called at {called:?}, and not {lacks} of counter \
             {a}, known at {known:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_millis(ms)
    }
    fn write(value: u64, called: u64, answered: impl Into<Option<u64>>) -> Op<Register> {
        Op { called: at(called), answered: answered.into().map(at), kind: Register::Write(value) }
    }
    fn read(value: impl Into<Option<u64>>, called: u64, answered: u64) -> Op<Register> {
        Op { called: at(called), answered: Some(at(answered)), kind: Register::Read(value.into()) }
    }

    #[test]
    fn histories_of_a_register_are_told_apart() {
        let fine: &[&[Op<Register>]] = &[
            &[],
            &[read(None, 1, 2), write(1, 3, 6), read(None, 4, 5), read(1, 7, 8)],
            &[write(1, 1, 10), write(2, 2, 9), read(1, 11, 12)],
            &[write(1, 1, 10), write(2, 2, 9), read(2, 3, 4), read(1, 11, 12)],
            &[write(1, 1, None), read(None, 2, 3), read(1, 100, 101)],
            &[write(1, 1, None), write(2, 2, 3), read(2, 4, 5), read(1, 6, 7)],
        ];
        let wrong: &[&[Op<Register>]] = &[
            &[write(1, 1, 2), read(None, 3, 4)],
            &[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)],
            &[read(1, 1, 2), write(1, 3, 4)],
            &[read(7, 1, 2)],
            // The new value is read, then the old one.
            &[write(1, 1, 2), write(2, 3, 20), read(2, 4, 5), read(1, 6, 7)],
            // An unknown write is seen, gone, and seen again.
            &[write(1, 1, 2), write(2, 3, None), read(2, 4, 5), read(1, 6, 7)],
            &[write(1, 1, 2), write(2, 3, 4), write(3, 5, 6), read(2, 7, 8)],
        ];
        for history in fine {
            linearizable(history).unwrap();
        }
        for history in wrong {
            assert!(linearizable(history).is_err(), "{history:?}");
        }
    }

    fn put(
        value: u64,
        covers: &[u64],
        called: u64,
        answered: impl Into<Option<u64>>,
    ) -> Op<Sibling> {
        let kind = Sibling::Write { value: Some(value), covers: covers.iter().copied().collect() };
        Op { called: at(called), answered: answered.into().map(at), kind }
    }
    fn delete(covers: &[u64], called: u64, answered: u64) -> Op<Sibling> {
        Op {
            called: at(called),
            answered: Some(at(answered)),
            kind: Sibling::Write { value: None, covers: covers.iter().copied().collect() },
        }
    }
    fn found(values: &[u64], called: u64, answered: u64) -> Op<Sibling> {
        Op {
            called: at(called),
            answered: Some(at(answered)),
            kind: Sibling::Read(values.iter().copied().collect()),
        }
    }

    #[test]
    fn histories_of_siblings_are_told_apart() {
        let fine: &[&[Op<Sibling>]] = &[
            &[
                put(1, &[], 1, 2),
                put(2, &[], 3, 4),
                found(&[1, 2], 5, 6),
                put(3, &[1, 2], 7, 8),
                found(&[3], 9, 10),
            ],
            &[put(1, &[], 1, 2), put(2, &[1], 3, None), found(&[1], 5, 6), found(&[2], 7, 8)],
            &[put(1, &[], 1, 2), put(2, &[1], 3, 4), put(3, &[1], 5, 6), found(&[2, 3], 7, 8)],
            &[put(1, &[], 1, 2), put(2, &[], 3, 4), delete(&[1], 5, 6), found(&[2], 7, 8)],
        ];
        let wrong: &[&[Op<Sibling>]] = &[
            &[put(1, &[], 1, 2), put(2, &[], 3, 4), found(&[2], 5, 6)],
            &[put(1, &[], 1, 2), put(2, &[1], 3, 4), found(&[1, 2], 5, 6)],
            &[put(1, &[], 1, 2), put(2, &[1], 3, 4), put(3, &[2], 5, 6), found(&[1, 3], 7, 8)],
            &[found(&[1], 1, 2), put(1, &[], 3, 4)],
            &[found(&[9], 1, 2)],
            &[put(1, &[], 1, 2), delete(&[1], 3, 4), found(&[1], 5, 6)],
            &[put(1, &[], 1, 2), put(2, &[], 3, 4), delete(&[1], 5, 6), found(&[], 7, 8)],
        ];
        for history in fine {
            obey_contexts(history).unwrap();
        }
        for history in wrong {
            assert!(obey_contexts(history).is_err(), "{history:?}");
        }
    }

    #[test]
    fn histories_of_timestamps_are_told_apart() {
        let write = |stamp, value: Option<u64>, called, answered: Option<u64>| Op {
            called: at(called),
            answered: answered.map(at),
            kind: Newest::Write { stamp, value },
        };
        let read = |found, called, answered| Op {
            called: at(called),
            answered: Some(at(answered)),
            kind: Newest::Read(found),
        };
        let fine = [
            vec![
                read(None, 1, 2),
                write(20, Some(1), 3, Some(4)),
                write(10, Some(2), 5, Some(6)),
                read(Some((20, 1)), 7, 8),
            ],
            vec![write(20, None, 1, Some(2)), write(10, Some(2), 3, Some(4)), read(None, 5, 6)],
            vec![write(10, Some(1), 1, None), read(None, 2, 3), read(Some((10, 1)), 4, 5)],
            vec![
                write(10, Some(1), 1, Some(2)),
                write(20, None, 3, Some(9)),
                read(Some((10, 1)), 4, 5),
                read(None, 6, 7),
            ],
        ];
        let wrong = [
            vec![
                write(20, Some(1), 1, Some(2)),
                write(10, Some(2), 3, Some(4)),
                read(Some((10, 2)), 5, 6),
            ],
            // A deletion was forgotten, and an older write came late.
            vec![
                write(20, None, 1, Some(2)),
                write(10, Some(2), 3, Some(4)),
                read(Some((10, 2)), 5, 6),
            ],
            vec![write(10, Some(1), 1, Some(2)), read(None, 3, 4)],
            vec![write(10, Some(1), 1, None), read(Some((10, 1)), 2, 3), read(None, 4, 5)],
            vec![read(Some((10, 1)), 1, 2), write(10, Some(1), 3, Some(4))],
        ];
        for history in fine {
            newest_stands(&history).unwrap();
        }
        for history in wrong {
            assert!(newest_stands(&history).is_err(), "{history:?}");
        }
    }

    #[test]
    fn cuts_are_told_from_torn_ones() {
        let counter = |times: &[(u64, u64)]| {
            let mut counter = Counter::default();
            for (called, answered) in times {
                let number = counter.call(at(*called));
                counter.answer(number, at(*answered));
            }
            counter
        };
        let (a, b) = (counter(&[(1, 2), (5, 6), (9, 10)]), counter(&[(3, 4), (7, 8), (11, 12)]));
        let times = CutTimes { called: at(7), sealed: at(20) };
        let check = |a_holds, b_holds| one_instant(&times, [(&a, a_holds), (&b, b_holds)]);
        check(2, 1).unwrap();
        check(2, 2).unwrap();
        check(3, 2).unwrap();
        assert!(check(1, 1).is_err(), "2 of a was acknowledged before the snapshot was called");
        assert!(check(2, 3).is_err(), "3 of b was called after 3 of a was acknowledged");
        assert!(check(4, 1).is_err());
        assert!(
            one_instant(&CutTimes { called: at(0), sealed: at(6) }, [(&a, 2), (&b, 2)]).is_err(),
            "called after the seal"
        );
        // Only read, never acknowledged.
        let mut read = Counter::default();
        read.call(at(1));
        read.know(1, at(3));
        assert!(
            one_instant(&CutTimes { called: at(0), sealed: at(20) }, [(&read, 0), (&b, 2)])
                .is_err()
        );
    }
}
