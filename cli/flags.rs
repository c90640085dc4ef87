//! Flags as Go's package `flag` takes them, for the commands that were a Go program's: `-name
//! value`, `-name=value`, one dash or two, the last one counts.
//!
//! Stricter in one thing: a word that is no flag is refused, where Go ends there and ignores the
//! rest.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStringExt as _,
    str::FromStr,
};

use super::term::{
    exit::{self, Failure},
    text,
};

/// What a command was given.
#[derive(Debug)]
pub struct Flags {
    command: String,
    set: Vec<(&'static str, OsString)>,
}

impl Flags {
    /// None where help is asked for.
    pub fn parse(
        command: &str,
        args: &[OsString],
        known: &[&'static str],
        switches: &[&'static str],
    ) -> Result<Option<Flags>, Failure> {
        let mut flags = Flags { command: command.to_owned(), set: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let bytes = arg.as_encoded_bytes();
            let Some(bare) = bytes
                .strip_prefix(b"--")
                .or_else(|| bytes.strip_prefix(b"-"))
                .filter(|bare| !bare.is_empty())
            else {
                return Err(flags.wrong(format!("{:?} is not a flag", arg.to_string_lossy())));
            };
            let (name, value) = match bare.iter().position(|b| *b == b'=') {
                Some(at) => (&bare[..at], Some(OsString::from_vec(bare[at + 1..].to_vec()))),
                None => (bare, None),
            };
            if matches!(name, b"h" | b"help") {
                return Ok(None);
            }
            let find =
                |names: &[&'static str]| names.iter().copied().find(|n| n.as_bytes() == name);
            let (name, value) = if let Some(switch) = find(switches) {
                (switch, value.unwrap_or_else(|| "true".into()))
            } else if let Some(name) = find(known) {
                let value = value.or_else(|| args.next().cloned());
                (name, value.ok_or_else(|| flags.wrong(format!("flag -{name} needs a value")))?)
            } else {
                return Err(flags.wrong(format!("flag -{} is not known", text::escape(name))));
            };
            flags.set.push((name, value));
        }
        Ok(Some(flags))
    }

    pub fn wrong(&self, what: impl Into<String>) -> Failure {
        Failure::new(
            exit::USAGE,
            what,
            format!("devicedb cluster {}", self.command),
            "see devicedb cluster -help",
        )
    }

    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.set.iter().rev().find(|(set, _)| *set == name).map(|(_, value)| value)
    }

    pub fn required(&self, name: &str) -> Result<OsString, Failure> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .cloned()
            .ok_or_else(|| self.wrong(format!("flag -{name} is required")))
    }

    pub fn utf8(&self, name: &str, value: &OsStr) -> Result<String, Failure> {
        value
            .to_str()
            .map(str::to_owned)
            .ok_or_else(|| self.wrong(format!("the value of -{name} is not UTF-8")))
    }

    pub fn text(&self, name: &str, default: &str) -> Result<String, Failure> {
        self.get(name).map_or(Ok(default.to_owned()), |value| self.utf8(name, value))
    }

    pub fn required_text(&self, name: &str) -> Result<String, Failure> {
        self.utf8(name, &self.required(name)?)
    }

    pub fn number<N: FromStr>(&self, name: &str, default: N) -> Result<N, Failure> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let text = self.utf8(name, value)?;
        text.parse().map_err(|_| self.wrong(format!("{text:?} is not a number that -{name} takes")))
    }

    pub fn is_on(&self, name: &str) -> Result<bool, Failure> {
        match self.text(name, "false")?.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            other => Err(self.wrong(format!("{other:?} is not true or false, as -{name} takes"))),
        }
    }
}
