//! Golden stories: a text file holds a scenario and what came of it, and the test fails when
//! something else comes of it now.
//!
//! Lines that begin with `> ` are the scenario, `#` and blank lines are for the reader, everything
//! else is the story. `UPDATE_GOLDEN=1` writes the stories anew; the scenario and the comments
//! stay.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

/// Plays every story in `tests/golden/<folder>`, each with an actor of its own. The actor is given
/// one line of the scenario and returns what it did.
pub fn play<A: FnMut(&str) -> String>(folder: &str, actor: impl Fn() -> A) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} holds no story", folder.display());
    for file in files {
        let old = fs::read_to_string(&file).unwrap();
        let new = told(&old, actor());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &new).unwrap();
        } else {
            let line = old.lines().zip(new.lines()).take_while(|(a, b)| a == b).count();
            assert!(
                old == new,
                "{}:{}: the story is another one now (UPDATE_GOLDEN=1 writes it):\n{new}",
                file.display(),
                line + 1
            );
        }
    }
}

/// Looks that a table which a document shows is the one that the code has.
pub fn table(document: &str, name: &str, expected: &str) {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(document);
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(&begin).expect("it marks where the table begins");
    let (table, after) = rest.split_once(&end).expect("it marks where the table ends");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).unwrap();
    } else {
        assert_eq!(
            table, expected,
            "the table of {name} in {document} is old: UPDATE_GOLDEN=1 cargo test --lib"
        );
    }
}

/// A number in a line of a scenario.
pub fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}

/// Milliseconds in a line of a scenario.
pub fn ms(word: &str) -> Duration {
    Duration::from_millis(number(word))
}

fn told(old: &str, mut actor: impl FnMut(&str) -> String) -> String {
    let mut new = String::new();
    for line in old.lines() {
        if let Some(input) = line.strip_prefix("> ") {
            writeln!(new, "{line}").unwrap();
            for said in actor(input).lines() {
                writeln!(new, "{said}").unwrap();
            }
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(new, "{line}").unwrap();
        }
    }
    new
}
