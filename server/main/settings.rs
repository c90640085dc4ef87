//! A file of settings for `devicedb start`: TOML whose keys are the names of its flags.
//!
//! ```toml
//! store = "/var/lib/devicedb"
//! listen = "0.0.0.0:8080"
//! join = ["db1.example:8080", "db2.example:8080", "db3.example:8080"]
//! insecure = true
//! ```
//!
//! - What the command line says wins over the environment, and both over the file.
//! - What the file says is put behind the command line as the flag that it names, so whatever holds
//!   for flags holds for settings: what excludes what, what needs what, what a value looks like.
//! - A key that is not known is refused, with the known one that is most like it: what is misspelt
//!   must not be as if it were not there.
//! - No secret stands in it, as none stands on a command line: they have files of their own.

use std::{
    env,
    ffi::OsString,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use devicedb::{
    base::error::{Error, Result},
    ctl::nearest,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

const FLAG: &str = "--config";
const VARIABLE: &str = "DEVICEDB_CONFIG";

/// The command line of a process, its own name first, with what the file of settings says that it
/// names, if it starts a node and names one.
pub fn beside(devicedb: &Command, mut words: Vec<OsString>) -> Result<Vec<OsString>> {
    let is_start = words.get(1).is_some_and(|word| word == "start");
    let Some(start) = devicedb.find_subcommand("start").filter(|_| is_start) else {
        return Ok(words);
    };
    let Some(path) = named(&words) else { return Ok(words) };
    let text = fs::read_to_string(&path)
        .map_err(|e| Error::invalid(format!("{}: {e}", path.display())).with_source(e))?;
    let said = |arg: &Arg| {
        let flag = format!("--{}", arg.get_long().unwrap_or_default());
        let begins = format!("{flag}=");
        words.iter().filter_map(|word| word.to_str()).any(|w| w == flag || w.starts_with(&begins))
            || arg.get_env().and_then(env::var_os).is_some_and(|value| !value.is_empty())
    };
    let further = File { path: &path, text: &text }.words(start, said)?;
    words.extend(further);
    Ok(words)
}

/// The file that the command line names, or else the environment.
fn named(words: &[OsString]) -> Option<PathBuf> {
    let behind = |(at, word): (usize, &OsString)| match word.to_str()? {
        FLAG => words.get(at + 1).cloned(),
        word => word.strip_prefix("--config=").map(OsString::from),
    };
    let said = words.iter().enumerate().find_map(behind);
    said.or_else(|| env::var_os(VARIABLE)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    /// What it says of all that is not said elsewhere, as words of the command line.
    fn words(&self, start: &Command, said: impl Fn(&Arg) -> bool) -> Result<Vec<OsString>> {
        let parsed = DeTable::parse(self.text)
            .map_err(|e| self.wrong(e.span().unwrap_or(0..0), e.message()))?;
        let named = |arg: &&Arg| !arg.is_hide_set() && arg.get_long() != Some("config");
        let known: Vec<&Arg> = start.get_arguments().filter(named).collect();
        let mut words = Vec::new();
        for (key, value) in parsed.get_ref() {
            let name = key.get_ref().as_ref();
            let Some(arg) = known.iter().find(|arg| arg.get_long() == Some(name)) else {
                let names: Vec<&str> = known.iter().filter_map(|arg| arg.get_long()).collect();
                let what = format!("there is no setting {name:?}: {}", nearest(name, &names));
                return Err(self.wrong(key.span(), &what));
            };
            if !said(arg) {
                words.extend(self.flags(name, arg, value)?);
            }
        }
        Ok(words)
    }

    fn flags(&self, name: &str, arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<OsString>> {
        let one = |value: &Spanned<DeValue<'_>>| {
            Ok(OsString::from(format!("--{name}={}", self.scalar(name, value)?)))
        };
        let takes_value = arg.get_action().takes_values();
        match value.get_ref() {
            DeValue::Boolean(true) if !takes_value => Ok(vec![format!("--{name}").into()]),
            DeValue::Boolean(false) if !takes_value => Ok(Vec::new()),
            _ if !takes_value => {
                let what = format!("{name} is true or false");
                Err(self.wrong(value.span(), &what))
            }
            DeValue::Array(all) if matches!(arg.get_action(), ArgAction::Append) => {
                all.iter().map(one).collect()
            }
            _ => Ok(vec![one(value)?]),
        }
    }

    fn scalar(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<String> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => {
                Ok(number.as_str().replace('_', ""))
            }
            other => {
                let what = format!("{name} is {}, and takes a text or a number", other.type_str());
                Err(self.wrong(value.span(), &what))
            }
        }
    }

    fn wrong(&self, at: Range<usize>, what: &str) -> Error {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        Error::invalid(format!("{}:{line}: {what}", self.path.display()))
    }
}
