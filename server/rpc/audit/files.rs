//! The files of the audit log: `audit.jsonl` grows until it is large enough, and is named after the
//! time then. The oldest goes when there are too many.
//!
//! - Only their owner reads them.
//! - A line is whole or begins a line of its own: after a write that failed, the next one begins
//!   with a new line.
//! - A file that was moved or deleted from outside is noticed, and another one begun: what is
//!   written is to be found.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::base::{
    clock::Clock,
    error::{Error, Result},
    limits,
};

pub const CURRENT: &str = "audit.jsonl";

pub struct Files {
    dir: PathBuf,
    clock: Clock,
    /// None after a write that failed.
    open: Option<File>,
    bytes: u64,
    /// Whether the file may end within a line.
    torn: bool,
}

impl Files {
    pub fn open(dir: &Path, clock: Clock) -> Result<Files> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(dir);
        made.map_err(|e| unusable(dir, &e))?;
        let mut files = Files { dir: dir.to_owned(), clock, open: None, bytes: 0, torn: false };
        files.current().map_err(|e| unusable(dir, &e))?;
        Ok(files)
    }

    /// Writes lines, and has them on disk if `durable`.
    pub fn append(&mut self, lines: &[u8], durable: bool) -> Result<()> {
        let written = self.write(lines, durable);
        if written.is_err() {
            (self.open, self.torn) = (None, true);
        }
        written.map_err(|e| unusable(&self.dir, &e))
    }

    fn write(&mut self, lines: &[u8], durable: bool) -> io::Result<()> {
        if self.bytes >= limits::AUDIT_FILE_BYTES {
            self.turn()?;
        }
        let torn = self.torn;
        let mut file = self.current()?;
        if torn {
            file.write_all(b"\n")?;
        }
        file.write_all(lines)?;
        if durable {
            file.sync_data()?;
        }
        self.bytes += lines.len() as u64;
        self.torn = false;
        Ok(())
    }

    /// The file that is found under its name.
    fn current(&mut self) -> io::Result<&File> {
        let path = self.dir.join(CURRENT);
        let is_there = match (&self.open, fs::symlink_metadata(&path)) {
            (Some(open), Ok(found)) => {
                let ours = open.metadata()?;
                (ours.dev(), ours.ino()) == (found.dev(), found.ino())
            }
            _ => false,
        };
        if !is_there {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            self.bytes = file.metadata()?.len();
            // So that it is found after the machine has lost its power.
            File::open(&self.dir)?.sync_all()?;
            // A process that was killed may have left half a line.
            self.torn = self.torn || self.bytes > 0 && !ends_a_line(&path)?;
            self.open = Some(file);
        }
        self.open.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn turn(&mut self) -> io::Result<()> {
        self.current()?.sync_data()?;
        let name = format!("audit-{:013}.jsonl", self.clock.wall_ms());
        fs::rename(self.dir.join(CURRENT), self.dir.join(name))?;
        self.open = None;
        let mut all: Vec<PathBuf> = fs::read_dir(&self.dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| is_turned(path))
            .collect();
        all.sort();
        let too_many = (all.len() + 1).saturating_sub(limits::AUDIT_FILES);
        all.iter().take(too_many).try_for_each(fs::remove_file)
    }
}

fn is_turned(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("audit-").and_then(|rest| rest.strip_suffix(".jsonl"));
    number.is_some_and(|number| number.len() == 13 && number.bytes().all(|b| b.is_ascii_digit()))
}

fn ends_a_line(path: &Path) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn unusable(dir: &Path, why: &io::Error) -> Error {
    Error::unavailable(format!("the audit log in {}: {why}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn files_are_their_owners_and_begin_a_line_after_half_of_one() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("audit");
        Files::open(&dir, Clock::start()).unwrap().append(b"one\n", true).unwrap();
        let file = dir.join(CURRENT);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"tw").unwrap();
        let mut files = Files::open(&dir, Clock::start()).unwrap();
        files.append(b"three\n", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntw\nthree\n");
        // Moved away by whoever collects logs.
        fs::rename(&file, dir.join("collected")).unwrap();
        files.append(b"four\n", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "four\n");
    }

    #[test]
    fn a_large_file_is_turned_and_the_oldest_goes_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::open(dir.path(), Clock::start()).unwrap();
        for n in 0..limits::AUDIT_FILES {
            let old = format!("audit-{n:013}.jsonl");
            fs::write(dir.path().join(old), "old\n").unwrap();
        }
        fs::write(dir.path().join("audit-mine.jsonl"), "not ours\n").unwrap();
        files.append(b"line\n", false).unwrap();
        // As if so much had been written.
        files.bytes = limits::AUDIT_FILE_BYTES;
        files.append(b"next\n", false).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(CURRENT)).unwrap(), "next\n");
        let left = names(dir.path());
        assert!(left.contains(&"audit-mine.jsonl".to_owned()), "{left:?}");
        assert!(!left.contains(&format!("audit-{:013}.jsonl", 0)), "{left:?}");
        assert_eq!(left.len(), limits::AUDIT_FILES + 1, "{left:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = Files::open(&file, Clock::start()).map(drop).unwrap_err();
        assert!(refused.message.contains("file"), "{refused}");
    }
}
