//! Colour for the words that say how something is: green where it is as it should be, yellow where
//! it is on its way, red where something is wrong.
//!
//! Only for a person at a terminal who has not said otherwise: with `NO_COLOR`
//! (<https://no-color.org>) or a terminal that is called `dumb` there is none. Colour repeats what
//! the word says and never says anything alone. It is put on what is drawn, so that no table is
//! measured with it, and only on a whole cell, a whole value behind `=`, or the first words of a
//! line: not on what somebody has called something.

use std::{env, ffi::OsStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colour {
    Green,
    Yellow,
    Red,
}

/// What is as it should be, what is on its way, and what is wrong, in all that a command says.
const WORDS: [(Colour, &[&str]); 3] = [
    (
        Colour::Green,
        &["completed", "done", "healthy", "holds", "passed", "ready", "sound", "stored"],
    ),
    (
        Colour::Yellow,
        &[
            "cancelled",
            "deleting",
            "drained",
            "leaving",
            "never",
            "not ready",
            "paused",
            "processing",
            "running",
            "suspended",
            "unknown",
        ],
    ),
    (
        Colour::Red,
        &[
            "DAMAGED",
            "FAILED",
            "NOT SOUND",
            "damaged",
            "expired",
            "failed",
            "missing",
            "unhealthy",
            "unreachable",
            "used up",
        ],
    ),
];

impl Colour {
    /// Set Graphics Rendition of ECMA-48: the foreground, and its default again.
    fn on(self, words: &str) -> String {
        let code = match self {
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
        };
        format!("\x1b[{code}m{words}\x1b[39m")
    }

    /// Of words that stand alone.
    fn of(words: &str) -> Option<Colour> {
        WORDS.iter().find(|(_, all)| all.contains(&words)).map(|(colour, _)| *colour)
    }
}

/// Whether whoever has started the program wants colour on a terminal.
pub fn is_wanted() -> bool {
    let asks_for_none = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !asks_for_none && env::var_os("TERM").as_deref().is_some_and(|term| term != OsStr::new("dumb"))
}

/// A result with colour on the words that say how something is.
pub fn painted(text: &str) -> String {
    text.split_inclusive('\n').map(line).collect()
}

fn line(line: &str) -> String {
    if line.starts_with('|') {
        return line.split('|').map(cell).collect::<Vec<_>>().join("|");
    }
    match line.split_once(" = ") {
        Some((name, value)) => format!("{name} = {}", first_words(value)),
        None => first_words(line),
    }
}

/// A cell with the blanks around it.
fn cell(cell: &str) -> String {
    let words = cell.trim();
    Colour::of(words).map_or(cell.to_owned(), |colour| cell.replacen(words, &colour.on(words), 1))
}

/// The words before the first mark of punctuation, where they are such words.
fn first_words(text: &str) -> String {
    let end = text.find([':', ',', ';', '.', '(', '\n']).unwrap_or(text.len());
    let words = text[..end].trim_end();
    match Colour::of(words) {
        Some(colour) => colour.on(words) + &text[words.len()..],
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_say_how_something_is_have_a_colour_and_others_have_none() {
        for (text, shown) in [
            ("status = completed\n", "status = \x1b[32mcompleted\x1b[39m\n"),
            ("healthy: 3 nodes ready\n", "\x1b[32mhealthy\x1b[39m: 3 nodes ready\n"),
            ("last drill = FAILED (x)\n", "last drill = \x1b[31mFAILED\x1b[39m (x)\n"),
            (
                "|  7 | failed  | failed twice |\n",
                "|  7 | \x1b[31mfailed\x1b[39m  | failed twice |\n",
            ),
            ("| NODE ID | not ready |\n", "| NODE ID | \x1b[33mnot ready\x1b[39m |\n"),
            ("completed by hand: no\n", "completed by hand: no\n"),
            ("a\nunhealthy: b\n", "a\n\x1b[31munhealthy\x1b[39m: b\n"),
            ("", ""),
            ("ready", "\x1b[32mready\x1b[39m"),
        ] {
            assert_eq!(painted(text), shown);
        }
    }

    #[test]
    fn what_is_painted_is_otherwise_what_it_was() {
        let text = "| größe | 完了 | ready |\nname = done, ready\nready.\n| | |\n = \n";
        let painted = painted(text);
        let bare = ["\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[39m"];
        assert_ne!(painted, text);
        assert_eq!(bare.iter().fold(painted, |text, code| text.replace(code, "")), text);
    }
}
