//! Where a downloaded part goes: to stdout as it comes, or to a file that has its name only when it
//! is whole.
//!
//! - `PATH.partial` holds what has arrived. It is created when the server has something to send,
//!   locked against a second download, and becomes `PATH` after an fsync, by rename, when the
//!   digest is right.
//! - Resuming hashes what is there, since nothing else knows whether it is the beginning of the
//!   part. A whole `PATH` is checked in the same way and not written.
//! - Only its owner can read the file: it holds all data, unless it is sealed.
//! - A rename would put a regular file in the place of whatever stands there. So where `PATH` is a
//!   link, what it leads to is replaced, beside itself; a device, a FIFO or a socket is written
//!   through as it is, without a partial file, and cannot be resumed.

use std::{
    fs::{self, File, FileType, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use crate::{
    base::{flock::Flock, limits},
    ctl::term::{
        exit::{self, Failure},
        output::Console,
    },
    faults::failpoint::{Failpoint, failpoint},
};

pub enum Sink {
    Stdout,
    File(Partial),
    /// The file is there under its name; it is compared and never touched.
    Whole(PathBuf),
    /// What stands there is no regular file: bytes go through it as they come.
    Through(Through),
}

pub struct Partial {
    /// As it was named.
    path: PathBuf,
    /// What is replaced: where `path` leads, if it is a link.
    target: PathBuf,
    partial: PathBuf,
    file: Option<Flock>,
}

pub struct Through {
    path: PathBuf,
    kind: &'static str,
    file: File,
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
        let there = stands_at(path)?;
        if let Some(kind) = there.and_then(irregular) {
            return through(path, kind, resume).map(|sink| (sink, nothing));
        }
        let target = leads_to(path)?;
        let partial = partial_of(&target);
        let fresh = |file| {
            Sink::File(Partial {
                path: path.to_owned(),
                target: target.clone(),
                partial: partial.clone(),
                file,
            })
        };
        if !resume {
            return Ok((fresh(None), nothing));
        }
        if partial.exists() {
            let mut file = lock(open(&partial)?, &partial)?;
            let left = hash(&mut file, &partial)?;
            return Ok((fresh(Some(file)), left));
        }
        if there.is_some() {
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
                .map_or_else(
                    || Err(io::Error::other("the file was never opened")),
                    |file| file.write_all(bytes),
                )
                .inspect(|()| failpoint(Failpoint::FetchPieceWritten)),
            Sink::Whole(_) => {
                Err(io::Error::other("the file has its name and is not whole; move it away"))
            }
            Sink::Through(to) => to.file.write_all(bytes),
        }
    }

    /// Everything is there and is what was sent: gives it its name.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if let Sink::Through(to) = self {
            // Only a disk has something to sync.
            return match to.file.sync_all() {
                Err(e) if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                    Err(unusable(&to.path, &e))
                }
                _ => Ok(()),
            };
        }
        let Sink::File(to) = self else { return Ok(()) };
        let settle = || {
            to.file.as_ref().map_or(Ok(()), |file| file.sync_all())?;
            failpoint(Failpoint::FetchSynced);
            fs::rename(&to.partial, &to.target)?;
            failpoint(Failpoint::FetchRenamed);
            sync_directory(&to.target)?;
            failpoint(Failpoint::FetchDirSynced);
            Ok(())
        };
        settle().map_err(|e: io::Error| {
            Failure::new(
                exit::FAILED,
                format!("everything came and could not be kept: {e}"),
                place(&to.partial),
                "go on with --resume",
            )
        })
    }

    /// Takes back what can never become the part, or holds nothing of it. Says whether something
    /// was taken back.
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
            Sink::File(Partial { path, .. })
            | Sink::Whole(path)
            | Sink::Through(Through { path, .. }) => Some(path),
        }
    }

    /// What is to be known of where the bytes went, if that is not plainly the file that was named.
    pub fn remark(&self) -> Option<String> {
        match self {
            Sink::Through(Through { path, kind, .. }) => {
                Some(format!("{} is {kind} and was written through", path.display()))
            }
            Sink::File(Partial { path, target, .. }) if path != target => {
                Some(format!("{} is a link; it leads to {}", path.display(), target.display()))
            }
            _ => None,
        }
    }
}

/// What stands under a name, links followed; none where nothing does.
fn stands_at(path: &Path) -> Result<Option<FileType>, Failure> {
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => Err(Failure::usage(
            format!("{} is a directory, and the part wants a file", place(path)),
            "name a file in it",
        )),
        Ok(there) => Ok(Some(there.file_type())),
        Err(e)
            if e.kind() == ErrorKind::NotFound && path.as_os_str().as_bytes().ends_with(b"/") =>
        {
            Err(Failure::usage(
                format!("there is no directory {}", place(path)),
                "make it, or name a file",
            ))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(path, &e)),
    }
}

fn irregular(there: FileType) -> Option<&'static str> {
    let kinds = [
        (there.is_fifo(), "a FIFO"),
        (there.is_char_device(), "a device"),
        (there.is_block_device(), "a block device"),
        (there.is_socket(), "a socket"),
    ];
    kinds.into_iter().find_map(|(is, kind)| is.then_some(kind))
}

/// Opens what is no regular file, as a shell's `>` does: a FIFO waits for its reader.
fn through(path: &Path, kind: &'static str, resume: bool) -> Result<Sink, Failure> {
    if resume {
        let what =
            format!("{} is {kind}: what went through it before cannot be looked at", place(path));
        return Err(Failure::usage(what, "download without --resume, or name a file"));
    }
    let file = OpenOptions::new().write(true).open(path).map_err(|e| unusable(path, &e))?;
    Ok(Sink::Through(Through { path: path.to_owned(), kind, file }))
}

/// The file that a name means, which need not be there yet: links are followed, whatever they lead
/// to.
fn leads_to(path: &Path) -> Result<PathBuf, Failure> {
    let mut path = path.to_owned();
    for _ in 0..limits::CTL_LINKS_MAX {
        match fs::read_link(&path) {
            // Relative to the directory of the link; an absolute one replaces all.
            Ok(next) => path = path.parent().unwrap_or(Path::new("")).join(next),
            // Whatever else is wrong will be told when the file is made.
            Err(_) => return Ok(path),
        }
    }
    Err(Failure::new(
        exit::FAILED,
        "the link leads nowhere but to further links",
        place(&path),
        "name a file with --output",
    ))
}

/// Where a file lies until it is whole.
pub fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Opens what an earlier download left, or makes it: nothing but a file of its own, since it is cut
/// short, renamed and removed.
fn open(partial: &Path) -> Result<File, Failure> {
    if fs::symlink_metadata(partial).is_ok_and(|there| !there.is_file()) {
        return Err(Failure::new(
            exit::FAILED,
            "what stands here is no file that a download left",
            place(partial),
            "move it away",
        ));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(partial)
        .map_err(|e| unusable(partial, &e))
}

fn lock(file: File, path: &Path) -> Result<Flock, Failure> {
    match Flock::try_on(file) {
        Ok(file) => Ok(file),
        Err((_, TryLockError::WouldBlock)) => Err(Failure::new(
            exit::FAILED,
            "another download is writing this file",
            place(path),
            "wait for it",
        )),
        Err((_, TryLockError::Error(e))) => Err(unusable(path, &e)),
    }
}

/// Hashes a file from its beginning and leaves it at its end.
fn hash(file: &mut File, path: &Path) -> Result<Left, Failure> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; limits::CTL_HASH_BYTES];
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
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn unusable(path: &Path, e: &io::Error) -> Failure {
    Failure::new(
        exit::FAILED,
        format!("cannot use the file: {e}"),
        place(path),
        "name another with --output",
    )
}

fn place(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    fn console() -> Console {
        Console::recording(Format::Table).0
    }

    /// Downloads `bytes` to a path.
    fn put(path: &Path, bytes: &[u8]) -> Result<Sink, Failure> {
        let (mut sink, _) = Sink::file(path, false)?;
        sink.begin()?;
        sink.write(bytes, &mut console()).unwrap();
        sink.finish()?;
        Ok(sink)
    }

    fn make(command: &str, path: &Path, more: &[&str]) -> bool {
        std::process::Command::new(command)
            .arg(path)
            .args(more)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_replaced_beside_itself() {
        let directory = tempfile::tempdir().unwrap();
        let (here, there) = (directory.path().join("here"), directory.path().join("there"));
        fs::create_dir(&here).unwrap();
        fs::create_dir(&there).unwrap();
        for (name, old) in [("part.tar", Some("old")), ("absent.tar", None)] {
            let (link, target) = (here.join(name), there.join(name));
            if let Some(old) = old {
                fs::write(&target, old).unwrap();
            }
            std::os::unix::fs::symlink(format!("../there/{name}"), &link).unwrap();
            let remark = put(&link, b"abc").unwrap().remark().unwrap();
            assert!(
                remark.contains("is a link; it leads to")
                    && remark.ends_with(&format!("/there/{name}")),
                "{remark}"
            );
            assert!(
                fs::symlink_metadata(&link).unwrap().is_symlink()
                    && !fs::symlink_metadata(&target).unwrap().is_symlink()
            );
            assert_eq!(fs::read(&target).unwrap(), b"abc");
            let (sink, left) = Sink::file(&link, true).unwrap();
            assert!(
                matches!(sink, Sink::Whole(_)) && left.bytes == 3,
                "it is found again by its link"
            );
        }
        std::os::unix::fs::symlink("loop", here.join("loop")).unwrap();
        assert!(Sink::file(&here.join("loop"), false).is_err());
        assert_eq!(
            [&here, &there].map(|d| d.read_dir().unwrap().count()),
            [3, 2],
            "nothing else is left"
        );
    }

    #[test]
    fn what_is_no_file_is_written_through_and_stays_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(make("mkfifo", &fifo, &[]));
        let reader = std::thread::spawn({
            let fifo = fifo.clone();
            move || fs::read(fifo).unwrap()
        });
        let sink = put(&fifo, b"abc").unwrap();
        assert!(
            sink.remark().unwrap().ends_with("is a FIFO and was written through")
                && sink.partial().is_none()
        );
        drop(sink);
        assert_eq!(reader.join().unwrap(), b"abc");
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
        assert!(
            Sink::file(&fifo, true)
                .is_err_and(|e| e.exit == exit::USAGE && e.what.contains("FIFO")),
            "it cannot be resumed"
        );
        assert_eq!(directory.path().read_dir().unwrap().count(), 1, "no partial file was made");

        // A null device of our own, where that is allowed.
        let null = directory.path().join("null");
        if make("mknod", &null, &["c", "1", "3"])
            && OpenOptions::new().write(true).open(&null).is_ok()
        {
            assert!(
                put(&null, b"abc")
                    .unwrap()
                    .remark()
                    .unwrap()
                    .ends_with("is a device and was written through")
            );
            assert!(fs::symlink_metadata(&null).unwrap().file_type().is_char_device());
            assert!(Sink::file(&null, true).is_err_and(|e| e.exit == exit::USAGE));
        }
    }

    #[test]
    fn a_directory_is_no_file_and_what_stands_where_the_partial_file_would_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("part.tar"), directory.path().join("victim"));
        assert!(
            Sink::file(directory.path(), false)
                .is_err_and(|e| e.exit == exit::USAGE && e.what.contains("is a directory"))
        );
        assert!(
            Sink::file(&directory.path().join("none/"), false)
                .is_err_and(|e| e.exit == exit::USAGE && e.what.contains("there is no directory"))
        );
        fs::write(&victim, "victim").unwrap();
        std::os::unix::fs::symlink("victim", partial_of(&path)).unwrap();
        let (mut sink, _) = Sink::file(&path, false).unwrap();
        assert!(sink.begin().is_err_and(|e| e.what.contains("no file that a download left")));
        assert!(Sink::file(&path, true).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"victim");
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.tar");
        let (mut sink, left) = Sink::file(&path, false).unwrap();
        assert_eq!(
            (left.bytes, directory.path().read_dir().unwrap().count()),
            (0, 0),
            "nothing is created before something comes"
        );
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
