//! Reports: what verifications and drills came to, as texts in the repository under the time at
//! which they began. They are for people and for whoever watches; nothing that is stored or deleted
//! relies on them.
//!
//! A report is made once and never changed. That of a run of a schedule has a name of its own, so
//! that a run which two nodes carry out has one report. A report may be damaged, cut, or made by a
//! newer version like anything else there: whoever wants the newest gets the newest that can be
//! read, and is told of those that cannot.
//!
//! A report is never sealed: it says of a sealed repository what everybody sees who reads the
//! place. What is wrong is told there by the names of objects alone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    catalogue::number_of,
    manifest::of_format,
    points::Point,
    root::{Folder, Repository},
    send,
    store::{Object, found},
    verify::{self, Covered, Depth, Looked, Problem, Read},
};
use crate::{
    base::{
        clock::Random,
        error::{Error, Kind, Result},
        limits,
    },
    part::manifest::rfc3339,
};

/// What can be reported.
pub trait Report: Serialize + DeserializeOwned {
    /// Where reports of this kind lie.
    const FOLDER: &'static str;
    /// RFC 3339, UTC.
    fn began(&self) -> &str;
    /// Whether it says something of the repository, and not of a part that somebody has named.
    fn is_of_all(&self) -> bool {
        true
    }
    /// Why it cannot be what was made, if it cannot.
    fn flaw(&self) -> Option<&'static str>;
    /// What is wrong, to be put into other words.
    fn told(&mut self) -> Vec<&mut String>;
}

/// What a verification came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Nothing is wrong with what was looked at.
    pub sound: bool,
    /// When it began and ended: RFC 3339, UTC.
    pub began: String,
    pub ended: String,
    pub took_s: f64,
    #[serde(flatten)]
    pub depth: Depth,
    /// All snapshots were looked at, and not some that were named.
    pub all: bool,
    pub histories: Vec<Covered>,
    /// Those that were looked at last.
    pub snapshots: Vec<Looked>,
    /// How many more were looked at.
    pub more_snapshots: u64,
    pub read: Read,
    pub problems: Vec<Problem>,
    /// How many more there were.
    pub more_problems: u64,
}

/// A report with what all of them say.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    /// First, so that a program can tell what it cannot read before it reads it.
    format: u32,
    product: String,
    repository: Uuid,
    #[serde(flatten)]
    report: T,
}

/// Of which repository it is, where it says so.
#[derive(Deserialize)]
struct AnyReport {
    repository: Option<Uuid>,
}

/// A report that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    pub name: String,
    pub began_ms: u64,
    pub report: T,
}

const FORMAT: u32 = 1;
/// What is said of a newer one.
const WHAT: &str = "made this report";
/// Where all reports lie.
pub const FOLDERS: [&str; 2] = [Verification::FOLDER, DRILLS];
pub const DRILLS: &str = "drills";

impl Verification {
    pub fn new(report: &verify::Report, all: bool, began_ms: u64, ended_ms: u64) -> Verification {
        let more = report.snapshots.len().saturating_sub(limits::REPORT_SNAPSHOTS_MAX);
        Verification {
            sound: report.sound,
            began: rfc3339(began_ms),
            ended: rfc3339(ended_ms),
            took_s: ended_ms.saturating_sub(began_ms) as f64 / 1000.0,
            depth: report.depth,
            all,
            histories: report.histories.clone(),
            snapshots: report.snapshots[more..].to_vec(),
            more_snapshots: more as u64,
            read: report.read,
            problems: report.problems.clone(),
            more_problems: report.more,
        }
    }
}

impl Report for Verification {
    const FOLDER: &'static str = "verifies";

    fn began(&self) -> &str {
        &self.began
    }

    fn is_of_all(&self) -> bool {
        self.all
    }

    fn flaw(&self) -> Option<&'static str> {
        let faults = !self.problems.is_empty() || self.more_problems > 0;
        if self.sound == faults {
            return Some("it calls itself sound and names problems, or neither");
        }
        (self.took_s < 0.0).then_some("it took less than no time")
    }

    fn told(&mut self) -> Vec<&mut String> {
        self.problems.iter_mut().map(|problem| &mut problem.what).collect()
    }
}

/// Keeps a report; its name.
pub fn keep<T: Report + Clone>(
    repository: &Repository,
    report: &T,
    began_ms: u64,
) -> Result<String> {
    let name = named::<T>(began_ms, Random::from_entropy().next_u64());
    send::put(repository, &name, text(repository, report)?)?;
    Ok(name)
}

/// Where the report lies of a run that began then. Whoever carries the run out, and however often,
/// it is the same name.
pub fn of_run<T: Report>(began_ms: u64, run: Uuid) -> String {
    named::<T>(began_ms, run.as_u64_pair().0)
}

/// Keeps the report of a run, unless one is there: the first counts. It is given back as it is
/// stored, so that of a sealed repository nobody is told more by it.
pub fn keep_once<T: Report + Clone>(
    repository: &Repository,
    report: &T,
    began_ms: u64,
    run: Uuid,
) -> Result<T> {
    repository.is_open_to_additions()?;
    let name = of_run::<T>(began_ms, run);
    repository.store.create(&name, text(repository, report)?.into())?;
    read(repository, &name, began_ms).map_err(|e| e.at(&name))
}

/// The report of a run, if there is one.
pub fn kept<T: Report>(repository: &Repository, began_ms: u64, run: Uuid) -> Result<Option<T>> {
    let name = of_run::<T>(began_ms, run);
    found(read(repository, &name, began_ms).map_err(|e| e.at(&name)))
}

fn named<T: Report>(began_ms: u64, nonce: u64) -> String {
    format!("{}/{}-{nonce:016x}.json", T::FOLDER, digits(&rfc3339(began_ms)))
}

/// As it is stored.
fn text<T: Report + Clone>(repository: &Repository, report: &T) -> Result<Vec<u8>> {
    let mut report = report.clone();
    if repository.is_sealed() {
        report.told().into_iter().for_each(|what| *what = outside(what));
    }
    let product = env!("CARGO_PKG_VERSION").to_owned();
    let kept = Kept { format: FORMAT, product, repository: repository.id, report };
    let mut text = serde_json::to_vec_pretty(&kept).expect("texts and numbers are JSON");
    text.push(b'\n');
    if text.len() as u64 > limits::REPORT_BYTES_MAX {
        return Err(Error::exhausted(format!(
            "the report would have {} bytes, and {} is the most",
            text.len(),
            limits::REPORT_BYTES_MAX
        )));
    }
    Ok(text)
}

/// As names have a time.
fn digits(time: &str) -> String {
    time.replace([':', '-', '.'], "")
}

/// The time in the name of a report, in milliseconds since 1970.
fn began_of(name: &str, folder: &str) -> Option<u64> {
    let rest = name.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".json")?;
    let (time, nonce) = rest.split_once('-')?;
    let part = |from: usize, to: usize| time.get(from..to);
    let (date, clock) =
        (part(0, 4)?.to_owned() + "-" + part(4, 6)? + "-" + part(6, 8)?, part(8, 9)?);
    let told = format!(
        "{date}{clock}{}:{}:{}.{}",
        part(9, 11)?,
        part(11, 13)?,
        part(13, 15)?,
        time.get(15..)?
    );
    let is_nonce = nonce.len() == 16 && nonce.bytes().all(|b| b.is_ascii_hexdigit());
    match told.parse() {
        Ok(Point::Time(ms)) if is_nonce && digits(&rfc3339(ms)) == time => Some(ms),
        _ => None,
    }
}

/// The newest report that can be read and is of the repository, and of those behind it that cannot
/// be read, why.
///
/// What a clock has dated far ahead of `now_ms` does not count as the newest for all the time until
/// then.
pub fn newest<T: Report>(
    repository: &Repository,
    now_ms: u64,
    unreadable: &mut Vec<String>,
) -> Result<Option<Found<T>>> {
    let (mut tries, before) = (0, unreadable.len());
    let mut note = |name: &str, what: &str| {
        let named = unreadable.len() - before;
        match if what.contains(name) { what.to_owned() } else { format!("{name}: {what}") } {
            told if named < limits::REPORTS_NAMED_MAX => unreadable.push(told),
            _ if named == limits::REPORTS_NAMED_MAX => {
                unreadable.push(format!("{}: further ones are not named", T::FOLDER));
            }
            _ => {}
        }
    };
    for Object { name, .. } in repository.store.list(T::FOLDER)?.into_iter().rev() {
        let Some(began_ms) = began_of(&name, T::FOLDER) else {
            note(&name, "it is not named as a report");
            continue;
        };
        if began_ms > now_ms.saturating_add(limits::REPORT_AHEAD_MAX_MS) {
            note(&name, "it is of a time that lies ahead of this machine's clock");
            continue;
        }
        if tries >= limits::REPORTS_TRIED {
            note(T::FOLDER, "older ones are not looked at");
            break;
        }
        match read::<T>(repository, &name, began_ms) {
            Ok(report) if report.is_of_all() => return Ok(Some(Found { name, began_ms, report })),
            Ok(_) => tries += 1,
            Err(e) => {
                // A store that does not answer is not asked thirty times.
                let weight =
                    if e.kind == Kind::Unavailable { limits::REPORTS_TRIED / 4 } else { 1 };
                tries += weight;
                note(&name, &e.message);
            }
        }
    }
    Ok(None)
}

/// `Conflict` if a newer version made it, `Corrupt` if it is not what was made.
fn read<T: Report>(repository: &Repository, name: &str, began_ms: u64) -> Result<T> {
    let text = repository.store.read(name, limits::REPORT_BYTES_MAX)?;
    let AnyReport { repository: of } = of_format(&text, WHAT, FORMAT)?;
    if of.is_some_and(|of| of != repository.id) {
        return Err(Error::corrupt("it is of another repository"));
    }
    let report: T = of_format(&text, WHAT, FORMAT)?;
    if report.began() != rfc3339(began_ms) {
        return Err(Error::corrupt("it says another time than its name"));
    }
    match report.flaw() {
        Some(flaw) => Err(Error::corrupt(flaw)),
        None => Ok(report),
    }
}

/// What is wrong, in words that tell no content: errors may quote what they stumble over.
fn outside(what: &str) -> String {
    let words = what.split(|c: char| c.is_whitespace() || "\"'`()[],;".contains(c));
    let names: BTreeSet<String> =
        words.filter_map(|word| object_of(word.trim_end_matches([':', '.']))).collect();
    let names: Vec<String> = names.into_iter().collect();
    let told = if names.is_empty() { "something is wrong".to_owned() } else { names.join(", ") };
    format!("{told}: what it is is told to who has the key")
}

/// The name of an object of a history, or of a catalogue, at the end of a path.
fn object_of(path: &str) -> Option<String> {
    let words: Vec<&str> = path.split('/').collect();
    let name = words.get(words.len().checked_sub(4)?..)?.join("/");
    let is_object = Folder::split(&name).is_some_and(|(_, relative)| number_of(relative).is_some());
    let is_catalogue = || {
        let (folder, number) = name.strip_prefix("k/")?.rsplit_once('/')?;
        (Folder::parse(folder).is_some() && u64::from_str_radix(number, 16).is_ok()).then_some(())
    };
    (is_object || is_catalogue().is_some()).then_some(name)
}
