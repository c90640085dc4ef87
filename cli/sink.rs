//! Where a downloaded part goes: to stdout as it comes, or to a file that has its name only when it is whole.
//!
//! - `PATH.partial` holds what has arrived. It is created when the server has something to send, locked against a second download, and becomes `PATH` after
//!   an fsync, by rename, when the digest is right.
//! - Resuming hashes what is there, since nothing else knows whether it is the beginning of the part. A whole `PATH` is checked in the same way and not written.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{
    exit::{self, Failure},
    output::Console,
};
use crate::failpoint::{Failpoint, failpoint};

pub enum Sink {
    Stdout,
    File(Partial),
    /// The file is there under its name; it is compared and never touched.
    Whole(PathBuf),
}

pub struct Partial {
    path: PathBuf,
    partial: PathBuf,
    file: Option<File>,
}

/// What an earlier download left.
pub struct Left {
    pub bytes: u64,
    pub hasher: blake3::Hasher,
}

impl Sink {
    /// A file, and what of it is there already. Nothing is created yet.
    pub fn file(path: &Path, resume: bool) -> Result<(Sink, Left), Failure> {
        let nothing = Left { bytes: 0, hasher: blake3::Hasher::new() };
        let partial = partial_of(path);
        let fresh = |file| Sink::File(Partial { path: path.to_owned(), partial: partial.clone(), file });
        if !resume {
            return Ok((fresh(None), nothing));
        }
        if partial.exists() {
            let mut file = lock(open(&partial)?, &partial)?;
            let left = hash(&mut file, &partial)?;
            return Ok((fresh(Some(file)), left));
        }
        if path.exists() {
            let mut file = File::open(path).map_err(|e| unusable(path, &e))?;
            let left = hash(&mut file, path)?;
            return Ok((Sink::Whole(path.to_owned()), left));
        }
        Ok((fresh(None), nothing))
    }

    /// The server has begun to send.
    pub fn begin(&mut self) -> Result<(), Failure> {
        let Sink::File(to) = self else { return Ok(()) };
        if to.file.is_none() {
            let file = lock(open(&to.partial)?, &to.partial)?;
            failpoint(Failpoint::FetchFileMade);
            file.set_len(0).map_err(|e| unusable(&to.partial, &e))?;
            to.file = Some(file);
        }
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8], console: &mut Console) -> io::Result<()> {
        match self {
            Sink::Stdout => console.try_write(bytes),
            Sink::File(to) => to
                .file
                .as_mut()
                .map_or_else(|| Err(io::Error::other("the file was never opened")), |file| file.write_all(bytes))
                .inspect(|()| failpoint(Failpoint::FetchPieceWritten)),
            Sink::Whole(_) => Err(io::Error::other("the file has its name and is not whole; move it away")),
        }
    }

    /// Everything is there and is what was sent: gives it its name.
    pub fn finish(&mut self) -> Result<(), Failure> {
        let Sink::File(to) = self else { return Ok(()) };
        let settle = || {
            to.file.as_ref().map_or(Ok(()), File::sync_all)?;
            failpoint(Failpoint::FetchSynced);
            fs::rename(&to.partial, &to.path)?;
            failpoint(Failpoint::FetchRenamed);
            sync_directory(&to.path)?;
            failpoint(Failpoint::FetchDirSynced);
            Ok(())
        };
        settle().map_err(|e: io::Error| {
            Failure::new(exit::FAILED, format!("everything came and could not be kept: {e}"), place(&to.partial), "go on with --resume")
        })
    }

    /// Takes back what can never become the part, or holds nothing of it. Says whether something was taken back.
    pub fn discard(&mut self) -> bool {
        match self {
            Sink::File(Partial { partial, file: file @ Some(_), .. }) => {
                *file = None;
                fs::remove_file(partial).is_ok()
            }
            _ => false,
        }
    }

    /// The file that holds part of the tar, once there is one.
    pub fn partial(&self) -> Option<&Path> {
        match self {
            Sink::File(Partial { partial, file: Some(_), .. }) => Some(partial),
            _ => None,
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match self {
            Sink::Stdout => None,
            Sink::File(Partial { path, .. }) | Sink::Whole(path) => Some(path),
        }
    }
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn open(partial: &Path) -> Result<File, Failure> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial).map_err(|e| unusable(partial, &e))
}

fn lock(file: File, path: &Path) -> Result<File, Failure> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::new(exit::FAILED, "another download is writing this file", place(path), "wait for it")),
        Err(TryLockError::Error(e)) => Err(unusable(path, &e)),
    }
}

/// Hashes a file from its beginning and leaves it at its end.
fn hash(file: &mut File, path: &Path) -> Result<Left, Failure> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    file.seek(SeekFrom::Start(0)).map_err(|e| unusable(path, &e))?;
    loop {
        match file.read(&mut buffer).map_err(|e| unusable(path, &e))? {
            0 => return Ok(Left { bytes, hasher }),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn unusable(path: &Path, e: &io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("cannot use the file: {e}"), place(path), "name another with --output")
}

fn place(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::output::Format;

    fn console() -> Console {
        Console::recording(Format::Table).0
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tar");
        let (mut sink, left) = Sink::file(&path, false).unwrap();
        assert_eq!((left.bytes, directory.path().read_dir().unwrap().count()), (0, 0), "nothing is created before something comes");
        sink.begin().unwrap();
        sink.write(b"abc", &mut console()).unwrap();
        assert!(!path.exists());
        sink.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn resuming_hashes_what_is_there_and_goes_on_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tar");
        fs::write(partial_of(&path), b"ab").unwrap();
        let (mut sink, left) = Sink::file(&path, true).unwrap();
        assert_eq!((left.bytes, left.hasher.finalize()), (2, blake3::hash(b"ab")));
        sink.begin().unwrap();
        sink.write(b"c", &mut console()).unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }

    #[test]
    fn starting_over_forgets_what_was_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tar");
        fs::write(partial_of(&path), b"old and long").unwrap();
        let (mut sink, _) = Sink::file(&path, false).unwrap();
        sink.begin().unwrap();
        sink.write(b"new", &mut console()).unwrap();
        sink.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_whole_file_is_compared_and_never_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tar");
        fs::write(&path, b"abc").unwrap();
        let (mut sink, left) = Sink::file(&path, true).unwrap();
        assert_eq!(left.bytes, 3);
        sink.begin().unwrap();
        assert!(sink.write(b"d", &mut console()).is_err());
        assert!(!sink.discard());
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }

    #[test]
    fn two_downloads_do_not_write_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tar");
        let (mut first, _) = Sink::file(&path, false).unwrap();
        first.begin().unwrap();
        first.write(b"abc", &mut console()).unwrap();
        let (mut second, _) = Sink::file(&path, false).unwrap();
        assert!(second.begin().unwrap_err().what.contains("another download"));
        assert!(Sink::file(&path, true).is_err_and(|e| e.what.contains("another download")));
        assert_eq!(fs::read(partial_of(&path)).unwrap(), b"abc");
    }
}
