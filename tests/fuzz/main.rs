//! Every door that takes bytes from outside, under inputs that follow from a seed; `targets/` says
//! what each must hold to, `corpus` what valid inputs look like.
//!
//! Inputs are counted, not timed, so a run can be repeated. For long ones: `DEVICEDB_FUZZ_INPUTS=n`
//! for each target, `DEVICEDB_FUZZ_TARGET=name` for one of them, `DEVICEDB_FUZZ_SEED=s`. An input
//! that breaks something is made small and kept in `found/<target>/`, which is played first in
//! every run from then on. `cargo/` leads cargo-fuzz to the same targets, which learns from the
//! code's paths what to try next; this here does not.

mod corpus;
mod mutate;
mod targets;

use std::{
    cell::Cell,
    env, fs,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    sync::Once,
};

use devicedb::base::clock::Random;
use targets::{TARGETS, Target};

/// Inputs of each target ...
const INPUTS: u64 = 8000;
/// ... and twenty times as many of those that decode a message and do no more: it is the same to
/// the clock.
const QUICK: [&str; 6] = ["request", "context", "peer", "hello", "status", "stored"];
/// ... and a tenth of those that begin with two nodes which elect each other and end with a
/// snapshot.
const SLOW: [&str; 1] = ["engine"];

fn usual(name: &str) -> u64 {
    match name {
        _ if QUICK.contains(&name) => 20 * INPUTS,
        _ if SLOW.contains(&name) => INPUTS / 10,
        _ => INPUTS,
    }
}

fn setting<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    let Ok(text) = env::var(name) else { return otherwise };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is not understood"))
}

/// The targets that are asked for.
fn chosen() -> Vec<(&'static str, Target)> {
    let Ok(name) = env::var("DEVICEDB_FUZZ_TARGET") else { return TARGETS.to_vec() };
    let found: Vec<_> = TARGETS.iter().copied().filter(|(target, _)| *target == name).collect();
    assert!(
        !found.is_empty(),
        "there is no target {name}; there are {:?}",
        TARGETS.iter().map(|(target, _)| target).collect::<Vec<_>>()
    );
    found
}

fn found_dir(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/found").join(target)
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What a target panics with on an input. It is not shown: shrinking panics hundreds of times.
fn broken(target: Target, input: &[u8]) -> Result<bool, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                shown(info)
            }
        }));
    });
    QUIET.set(true);
    let end = panic::catch_unwind(AssertUnwindSafe(|| target(input)));
    QUIET.set(false);
    end.map_err(|words| {
        words
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| words.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_default()
    })
}

/// The first input that breaks the target, with what it breaks, and how many of all were taken for
/// valid.
fn fuzz(
    target: Target,
    corpus: &[Vec<u8>],
    seed: u64,
    inputs: u64,
) -> (u64, Option<(Vec<u8>, String)>) {
    let (mut rng, mut taken) = (Random::seeded(seed), 0);
    for _ in 0..inputs {
        let input = mutate::input(corpus, &mut rng);
        match broken(target, &input) {
            Ok(valid) => taken += u64::from(valid),
            Err(_) => {
                let small = mutate::shrink(input, |smaller| broken(target, smaller).is_err());
                let words = broken(target, &small).expect_err("it was shrunk while it failed");
                return (taken, Some((small, words)));
            }
        }
    }
    (taken, None)
}

#[test]
fn no_input_breaks_a_door() {
    let seed = setting("DEVICEDB_FUZZ_SEED", 1);
    let mut failures = Vec::new();
    for (name, target) in chosen() {
        let inputs = setting("DEVICEDB_FUZZ_INPUTS", usual(name));
        let began = devicedb::base::clock::Clock::start();
        let (taken, failure) = fuzz(target, &corpus::of(name), seed, inputs);
        println!("{name}: {taken} of {inputs} inputs were taken for valid, {:?}", began.now());
        let Some((input, words)) = failure else { continue };
        let path = found_dir(name).join(&blake3::hash(&input).to_hex()[..12]);
        fs::create_dir_all(found_dir(name))
            .and_then(|()| fs::write(&path, &input))
            .expect("the tree can be written to");
        let again = format!(
            "DEVICEDB_FUZZ_TARGET={name} DEVICEDB_FUZZ_SEED={seed} DEVICEDB_FUZZ_INPUTS={inputs} \
             cargo test --test fuzz no_input"
        );
        failures.push(format!("{name}: {words}\n  kept as {}\n  again: {again}", path.display()));
    }
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

#[test]
fn what_was_found_once_breaks_nothing_any_more() {
    for (name, target) in TARGETS {
        let Ok(files) = fs::read_dir(found_dir(name)) else { continue };
        for file in files {
            let path = file.expect("the folder can be read").path();
            let input = fs::read(&path).expect("the file can be read");
            if let Err(words) = broken(*target, &input) {
                panic!("{} breaks {name} again: {words}", path.display());
            }
        }
    }
}

#[test]
fn every_target_takes_what_the_product_itself_writes() {
    for (name, target) in TARGETS {
        let corpus = corpus::of(name);
        assert!(!corpus.is_empty(), "{name} has no valid input to begin with");
        for (number, input) in corpus.iter().enumerate() {
            assert_eq!(
                broken(*target, input),
                Ok(true),
                "{name}, input {number}: {}",
                input.escape_ascii()
            );
        }
    }
}

#[test]
fn a_mistake_is_found_and_its_input_made_small() {
    fn mistaken(input: &[u8]) -> bool {
        assert!(!input.windows(2).any(|pair| pair == [7, 7]), "two sevens");
        true
    }
    let corpus = [vec![0, 7, 0, 7, 0], vec![1; 100]];
    let (_, failure) = fuzz(mistaken, &corpus, 1, 10_000);
    assert_eq!(failure, Some((vec![7, 7], "two sevens".to_owned())));
    assert_eq!(
        fuzz(mistaken, &corpus, 1, 10_000).1,
        failure,
        "the same seed tries the same inputs"
    );
}
