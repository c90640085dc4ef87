//! Where a drill lies on disk, and how it goes whatever ends the drill.
//!
//! Each drill makes a directory of its own, with a name that nobody else has, in the one that is
//! named for drills, and removes it at its end. In it is a file that it holds locked for as long as
//! it lives. The kernel lets go of the lock when the process ends, however it ends: so whoever gets
//! the lock of another drill's directory knows that its drill was killed, and removes what it left.
//! Drills that live are left alone, and several may share the directory they lie in.
//!
//! Nothing is removed but what a drill makes, by its name, in a directory that a drill of the same
//! user made. Whatever else lies there is said, and stays.
//!
//! A drill has no lock in the moment after it has made its directory. If another one takes it for
//! left behind and removes it, the first sees that by the lock or by the file, and makes another.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    base::{clock::Random, flock::Flock, limits, space::Space},
    ctl::term::exit::{self, Failure},
};

/// A directory that goes with this.
pub struct Scratch {
    path: PathBuf,
    _lock: Flock,
}

/// What names of a drill's directories begin with.
const OWN: &str = "devicedb-drill-";
const LOCK: &str = "lock";
const STORE: &str = "store";
const SNAPSHOTS: &str = "snapshots";
const PART: &str = "part.tar";
/// All that a drill makes beside its lock.
const MADE: [&str; 4] = [STORE, SNAPSHOTS, PART, "part.tar.partial"];
/// What a file system keeps in its own root.
const TOLERATED: &str = "lost+found";

impl Scratch {
    /// A new one, with room for so many bytes. What killed drills have left is removed first.
    pub fn make(within: &Path, bytes: u64) -> Result<Scratch, Failure> {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(within);
        made.map_err(|e| failed(within, format!("cannot make the directory: {e}")))?;
        tidy(within)?;
        let space = Space::of(within).map_err(|e| failed(within, e.message))?;
        if space.free < bytes {
            let free = space.free;
            return Err(Failure::new(
                exit::FAILED,
                format!("{free} bytes are free, and the rows take {bytes}"),
                within.display().to_string(),
                "make room, or name a directory of another disk with --scratch",
            ));
        }
        for _ in 0..limits::DRILL_NAMES {
            let path = within.join(format!("{OWN}{}", Random::from_entropy().uuid()));
            let made = DirBuilder::new().mode(0o700).create(&path);
            made.map_err(|e| failed(within, format!("cannot make a directory in it: {e}")))?;
            match locked(&path) {
                Ok(Some(lock)) => {
                    let scratch = Scratch { path, _lock: lock };
                    let made = DirBuilder::new().mode(0o700).create(scratch.snapshots());
                    made.map_err(|e| {
                        failed(within, format!("cannot make a directory in it: {e}"))
                    })?;
                    return Ok(scratch);
                }
                // Another drill has taken it for left behind.
                Ok(None) => {}
                Err(e) => {
                    let _ = fs::remove_dir(&path);
                    return Err(failed(within, format!("cannot lock a file in it: {e}")));
                }
            }
        }
        Err(failed(within, "other drills remove whatever is made in it".to_owned()))
    }

    pub fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    pub fn part(&self) -> PathBuf {
        self.path.join(PART)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays goes with the next drill, or that says why not.
        let _ = remove(&self.path);
    }
}

fn failed(within: &Path, what: String) -> Failure {
    let remedy = "name a directory with --scratch that is yours and empty, or is not there";
    Failure::new(exit::FAILED, what, within.display().to_string(), remedy)
}

/// The lock of a directory that was just made; nothing where another drill has removed it, or is
/// about to.
fn locked(path: &Path) -> io::Result<Option<Flock>> {
    let file = path.join(LOCK);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
    let opened = match opened {
        Err(e) if [ErrorKind::NotFound, ErrorKind::AlreadyExists].contains(&e.kind()) => {
            return Ok(None);
        }
        opened => opened?,
    };
    match Flock::try_on(opened) {
        Ok(lock) => Ok(is_at(&lock, &file).then_some(lock)),
        Err((_, TryLockError::WouldBlock)) => Ok(None),
        Err((_, TryLockError::Error(e))) => {
            let _ = fs::remove_file(&file);
            Err(e)
        }
    }
}

/// Whether a file is the one that lies there now.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::symlink_metadata(path).map(id);
    file.metadata().map(id).is_ok_and(|own| there.is_ok_and(|there| there == own))
}

/// Removes what killed drills have left. Refuses a directory that holds anything else.
fn tidy(within: &Path) -> Result<(), Failure> {
    let unread = |e: io::Error| failed(within, format!("cannot read the directory: {e}"));
    let mut others = Vec::new();
    for entry in fs::read_dir(within).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name();
        let path = within.join(&name);
        let shown = name.to_string_lossy();
        let of_drill = shown.strip_prefix(OWN).is_some_and(|uuid| uuid.parse::<Uuid>().is_ok());
        let metadata = match fs::symlink_metadata(&path) {
            // Its drill has just ended.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.map_err(unread)?,
        };
        match of_drill && metadata.is_dir() {
            true if metadata.uid() == rustix::process::geteuid().as_raw() => {
                others.extend(take_over(&path)?.map(|other| format!("{shown}/{other}")));
            }
            // Whether another user's drill lives, that user's next one will know.
            true => {}
            false if shown == TOLERATED => {}
            false => others.push(shown.into_owned()),
        }
    }
    match others.first() {
        None => Ok(()),
        Some(other) => Err(failed(within, format!("the directory is not empty: it has {other:?}"))),
    }
}

/// Removes the directory of a drill, unless that lives. What else it holds.
fn take_over(path: &Path) -> Result<Option<String>, Failure> {
    let file = path.join(LOCK);
    // Where there is none its drill was killed before it had one, or has not come to it yet.
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file);
    let opened = match opened {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| failed(path, format!("cannot open its lock: {e}")))?,
    };
    let _lock = match Flock::try_on(opened) {
        Ok(lock) => lock,
        Err((_, TryLockError::WouldBlock)) => return Ok(None),
        Err((_, TryLockError::Error(e))) => {
            return Err(failed(path, format!("cannot lock a file in it: {e}")));
        }
    };
    let unread = |e: io::Error| failed(path, format!("cannot read the directory: {e}"));
    for entry in fs::read_dir(path).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name().to_string_lossy().into_owned();
        if name != LOCK && !MADE.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    remove(path).map(|()| None).map_err(|e| {
        failed(path, format!("what a drill that was killed has left in it cannot be removed: {e}"))
    })
}

/// Removes what a drill has made, its lock last. That it is gone already is as good.
fn remove(path: &Path) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    for name in MADE {
        let made = path.join(name);
        gone(match made.is_dir() && !made.is_symlink() {
            true => fs::remove_dir_all(&made),
            false => fs::remove_file(&made),
        })?;
    }
    gone(fs::remove_file(path.join(LOCK)))?;
    gone(fs::remove_dir(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(within: &Path) -> Vec<String> {
        let entries = fs::read_dir(within).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// As a drill leaves it that is killed.
    fn killed(within: &Path) -> PathBuf {
        let path = within.join(format!("{OWN}{}", Random::from_entropy().uuid()));
        fs::create_dir_all(path.join(STORE).join("log")).unwrap();
        fs::create_dir(path.join(SNAPSHOTS)).unwrap();
        fs::write(path.join(STORE).join("state.redb"), "rows").unwrap();
        fs::write(path.join(PART), "rows").unwrap();
        fs::write(path.join(LOCK), "").unwrap();
        path
    }

    #[test]
    fn drills_lie_beside_each_other_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path().join("not/there/yet");
        let first = Scratch::make(&within, 0).unwrap();
        let second = Scratch::make(&within, 0).unwrap();
        assert_ne!(first.store(), second.store());
        fs::write(first.part(), "rows").unwrap();
        drop(second);
        assert!(first.part().exists() && names(&within).len() == 1);
        drop(first);
        assert_eq!(names(&within), [""; 0]);
    }

    #[test]
    fn what_a_killed_drill_has_left_goes_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let within = dir.path();
        killed(within);
        // Before it had its lock, and while it removed what it had made.
        fs::create_dir(within.join(format!("{OWN}{}", Random::from_entropy().uuid()))).unwrap();
        let emptied = killed(within);
        fs::remove_dir_all(emptied.join(STORE)).unwrap();
        fs::create_dir(within.join(TOLERATED)).unwrap();
        let next = Scratch::make(within, 0).unwrap();
        assert_eq!(names(within).len(), 2);
        drop(next);
        assert_eq!(names(within), [TOLERATED]);
    }

    #[test]
    fn what_no_drill_has_made_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |within: &Path, says: &str| {
            let failure = Scratch::make(within, 0).map(drop).unwrap_err().to_string();
            assert!(failure.contains(says), "{failure}");
        };
        for other in ["letter.txt", "store", "devicedb-drill-", "devicedb-drill-9"] {
            let within = dir.path().join(format!("beside-{other}"));
            fs::create_dir_all(within.join(other).join("x")).unwrap();
            refused(&within, &format!("is not empty: it has {other:?}"));
            assert!(within.join(other).join("x").exists());
        }
        // Where a link leads to is not the drill's.
        let within = dir.path().join("links");
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("letter.txt"), "x").unwrap();
        let left = killed(&within);
        fs::remove_dir_all(left.join(STORE)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, left.join(STORE)).unwrap();
        drop(Scratch::make(&within, 0).unwrap());
        assert_eq!((names(&within), names(&elsewhere)), (vec![], vec!["letter.txt".to_owned()]));
        let link = within.join(format!("{OWN}{}", Random::from_entropy().uuid()));
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        refused(&within, "is not empty");
        fs::remove_file(link).unwrap();

        let left = killed(&within);
        fs::write(left.join("letter.txt"), "x").unwrap();
        refused(&within, "letter.txt");
        assert!(left.join(STORE).join("state.redb").exists(), "nothing goes without all");
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_before_anything_begins() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Scratch::make(dir.path(), u64::MAX).map(drop).unwrap_err();
        assert!(failure.what.contains("bytes are free, and the rows take"), "{failure}");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
