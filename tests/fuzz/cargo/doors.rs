//! cargo-fuzz on the same targets as the driver, one of them a process: `DEVICEDB_FUZZ_TARGET`
//! names it.
//!
//! Before it begins it writes the target's valid inputs to `DEVICEDB_FUZZ_CORPUS`, for libFuzzer to
//! begin with. What it finds belongs into `../found/<target>/`.

#![no_main]

#[path = "../corpus.rs"]
mod corpus;
#[path = "../targets/mod.rs"]
mod targets;

use std::{env, fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::{Corpus, fuzz_target};
use targets::{TARGETS, Target};

static CHOSEN: OnceLock<Target> = OnceLock::new();

fn choose() {
    let name = env::var("DEVICEDB_FUZZ_TARGET").unwrap_or_default();
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| name).collect();
        panic!("DEVICEDB_FUZZ_TARGET is one of {names:?}");
    };
    CHOSEN.get_or_init(|| *target);
    if let Some(dir) = env::var_os("DEVICEDB_FUZZ_CORPUS").map(PathBuf::from) {
        fs::create_dir_all(&dir).expect("the corpus can be written");
        for input in corpus::of(&name) {
            let path = dir.join(&blake3::hash(&input).to_hex()[..12]);
            fs::write(path, input).expect("the corpus can be written");
        }
    }
}

fuzz_target!(
    init: choose(),
    |input: &[u8]| -> Corpus {
        CHOSEN.get().expect("it was chosen before the first input")(input);
        Corpus::Keep
    }
);
