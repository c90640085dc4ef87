//! The judgement of a history, and of one that breaks a promise the few operations that show it.

use std::fmt::Debug;

use crate::{
    clients::{History, Place},
    history::{Moment, Op, Register, Sibling, linearizable, obey_contexts},
};

/// Operations before the one that broke it.
const SHOWN: usize = 40;

/// Everything that is wrong.
pub fn of(history: &History) -> Vec<String> {
    let registers = history.registers.iter().filter_map(|(place, ops)| {
        judged(*place, ops, |op| matches!(op.kind, Register::Write(_)), linearizable)
    });
    let siblings = history.siblings.iter().filter_map(|(place, ops)| {
        judged(*place, ops, |op| matches!(op.kind, Sibling::Write { .. }), obey_contexts)
    });
    history.broken.iter().cloned().chain(registers).chain(siblings).collect()
}

fn judged<K: Clone + Debug>(
    place: Place,
    history: &[Op<K>],
    is_write: impl Fn(&Op<K>) -> bool,
    check: impl Fn(&[Op<K>]) -> Result<(), String>,
) -> Option<String> {
    check(history).err()?;
    // The shortest beginning that is wrong already: what was known when the last of its answers
    // came.
    let mut answers: Vec<Moment> = history.iter().filter_map(|op| op.answered).collect();
    answers.sort();
    let known_at = |at: Moment| -> Vec<Op<K>> {
        let begun = history.iter().filter(|op| op.called <= at).cloned();
        let seen =
            begun.map(|op| Op { answered: op.answered.filter(|answered| *answered <= at), ..op });
        seen.filter(|op| op.answered.is_some() || is_write(op)).collect()
    };
    let first = answers
        .partition_point(|at| check(&known_at(*at)).is_ok())
        .min(answers.len().checked_sub(1)?);
    let mut shown = known_at(answers[first]);
    let why = check(&shown).err()?;
    shown.sort_by_key(|op| op.answered.unwrap_or(Moment::MAX));
    let open = shown.iter().filter(|op| op.answered.is_none()).count();
    let from = shown.len().saturating_sub(SHOWN + open);
    let told: Vec<_> = shown[from..]
        .iter()
        .map(|op| format!("  {:?} to {:?}: {:?}", op.called, op.answered, op.kind))
        .collect();
    Some(format!(
        "{place:?}: {why}\nthe last of {} operations until then:\n{}",
        shown.len(),
        told.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_history_is_told_up_to_the_operation_that_broke_it() {
        let at = Moment::from_millis;
        let op =
            |called, answered, kind| Op { called: at(called), answered: Some(at(answered)), kind };
        let mut ops: Vec<_> =
            (1..100).map(|n| op(10 * n, 10 * n + 5, Register::Write(n))).collect();
        let mut history = History::default();
        history.registers.insert(Place::Register(0), ops.clone());
        assert_eq!(of(&history), Vec::<String>::new());
        ops.insert(50, op(506, 509, Register::Read(Some(49))));
        history.registers.insert(Place::Register(0), ops);
        let broken = of(&history);
        let told = broken[0].lines().last().unwrap();
        assert!(
            broken.len() == 1 && told == "  506ms to Some(509ms): Read(Some(49))",
            "{broken:?}"
        );
    }
}
