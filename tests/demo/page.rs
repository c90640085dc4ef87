//! How the story looks: numbered chapters, commands as typed, facts that were checked. Colours only
//! on a terminal, and never against NO_COLOR.

use std::{
    cell::Cell,
    fmt::Display,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";

pub struct Page {
    colours: bool,
    chapter: Cell<usize>,
}

impl Page {
    pub fn open() -> Page {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var("TERM").is_ok_and(|term| term == "dumb");
        Page { colours: stdout().is_terminal() && !unwanted, chapter: Cell::new(0) }
    }

    fn painted(&self, colour: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub fn title(&self, text: &str) {
        println!("\n{}", self.painted(BOLD, text));
    }

    pub fn chapter(&self, text: &str) {
        self.chapter.set(self.chapter.get() + 1);
        println!("\n{}", self.painted(BOLD, format!("{}. {text}", self.chapter.get())));
    }

    pub fn says(&self, text: impl Display) {
        println!("   {text}");
    }

    /// A command as one would type it.
    pub fn types(&self, command: impl Display) {
        println!("   {}", self.painted(DIM, format!("$ {command}")));
    }

    /// A fact that was checked and holds.
    pub fn holds(&self, fact: impl Display) {
        println!("   {} {fact}", self.painted(GREEN, "✓"));
    }

    pub fn failed(&self, what: impl Display) {
        println!("\n{}\n", self.painted(RED, format!("The demo stopped: {what}")));
    }
}

/// 1234567 as 1,234,567.
pub fn number(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 950 ms, or 2.4 s.
pub fn time(took: Duration) -> String {
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}
