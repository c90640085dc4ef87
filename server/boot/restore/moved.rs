//! The files of an extracted part on their way out of a store directory, and back.
//!
//! A restore comes to its end by three renames: `chunks/` and `manifest.json` go to
//! `restoring/part/`, then the store takes its name. The last one decides. While the directory has
//! no store, what lies in `restoring/part/` is put back: by `undo` after a failure, by the next
//! start after a crash. Once it has one, `restoring/` is removed with all that is in it.
//!
//! Both moves are tried, and taken back, before a store is made, which may take long and a disk's
//! last room. The kernel moves a directory only for those who may write to it, so what can be moved
//! can be removed later.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{ASIDE, FOUNDER, FOUNDER_ASIDE, FOUNDING, MANIFEST, NODE, PLAN_ASIDE, clear};
use crate::{
    base::error::{Context as _, Error, Result},
    faults::failpoint::{Failpoint, failpoint},
    store::{self, Store},
};

const CHUNKS: &str = "chunks";

/// Shows that a restore will be able to end: moves the part's files out of the way and back.
pub(super) fn try_out(dir: &Path) -> Result<()> {
    set_aside(dir)?;
    failpoint(Failpoint::RestoreTried);
    put_back(dir)
}

/// Moves the part's files out of the way, durably. After an error some may have moved.
pub(super) fn set_aside(dir: &Path) -> Result<()> {
    let (aside, moved) = (dir.join(ASIDE), moved(dir));
    for made in [&aside, &moved] {
        match fs::create_dir(made) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(stuck(dir, made, "made", &e));
            }
            _ => {}
        }
    }
    move_file(dir, &dir.join(CHUNKS), &moved.join(CHUNKS))?;
    failpoint(Failpoint::RestoreChunksMoved);
    move_file(dir, &dir.join(MANIFEST), &moved.join(MANIFEST))?;
    [&moved, &aside, dir].into_iter().try_for_each(store::sync_dir)
}

/// Moves back what an earlier start or an attempt has moved and not used. What has been extracted
/// anew meanwhile stands.
pub(super) fn put_back(dir: &Path) -> Result<()> {
    // An earlier version moved the manifest alone, to `restoring/` itself.
    for from in [moved(dir).join(CHUNKS), moved(dir).join(MANIFEST), dir.join(ASIDE).join(MANIFEST)]
    {
        let to = dir.join(from.file_name().expect("each has a name"));
        if !to.try_exists().at(to.display())? {
            move_file(dir, &from, &to)?;
        }
    }
    Ok(())
}

/// Makes a directory what it was before a restore that has failed. `why` it did; what it could not
/// make good is said beside it.
pub(super) fn undo(dir: &Path, why: Error) -> Error {
    let undone =
        take_store_out(dir).and_then(|()| put_back(dir)).and_then(|()| clear(&dir.join(ASIDE)));
    match undone {
        Ok(()) => why,
        Err(e) => Error::new(
            why.kind,
            format!(
                "{why}; and the directory is not yet as it was, which the next start tries again: \
                 {e}"
            ),
        ),
    }
}

/// Only a store that nobody has been told of is taken out again.
fn take_store_out(dir: &Path) -> Result<()> {
    match Store::exists(dir) {
        true => Store::put_in_place(dir, &dir.join(ASIDE)),
        false => Ok(()),
    }
}

/// Removes what is of no use beside a store in its place. That it is there costs room and nothing
/// else, so it is tried again by every start.
pub(super) fn clean_up(dir: &Path) {
    let mut left = [ASIDE, FOUNDING, NODE, FOUNDER, FOUNDER_ASIDE, PLAN_ASIDE]
        .map(|name| dir.join(name))
        .to_vec();
    if dir.join(ASIDE).join(MANIFEST).exists() {
        // An earlier version moved the manifest alone.
        left.insert(0, dir.join(CHUNKS));
    }
    left.retain(|path| fs::symlink_metadata(path).is_ok());
    if left.is_empty() {
        return;
    }
    let cleared = left.iter().try_for_each(|path| clear(path));
    failpoint(Failpoint::RestoreAsideRemoved);
    if let Err(e) = cleared.and_then(|()| store::sync_dir(dir)) {
        tracing::warn!(error = %e, "the store is in its place; what it was made of cannot be \
                                    removed and takes room until a start can");
    }
}

/// Whether a part lies aside that an interrupted restore has moved there.
pub(super) fn holds_part(dir: &Path) -> bool {
    moved(dir).exists() || dir.join(ASIDE).join(MANIFEST).exists()
}

fn moved(dir: &Path) -> PathBuf {
    dir.join(ASIDE).join("part")
}

/// A part without rows has no chunks, so what is not there needs no move.
fn move_file(dir: &Path, from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        moved => moved.map_err(|e| stuck(dir, from, "moved", &e)),
    }
}

/// What an operator has to know of a file that cannot be touched: whose it is, who tried, and what
/// to do.
fn stuck(dir: &Path, path: &Path, deed: &str, e: &io::Error) -> Error {
    let what = format!("{} cannot be {deed}: {e}", path.display());
    if e.kind() != io::ErrorKind::PermissionDenied {
        return Error::unavailable(what);
    }
    let me = rustix::process::geteuid().as_raw();
    let not_mine = [path, dir].into_iter().find_map(|path| {
        fs::symlink_metadata(path).ok().map(|m| (path, m.uid())).filter(|(_, owner)| *owner != me)
    });
    Error::conflict(match not_mine {
        Some((path, owner)) => {
            let (path, dir) = (path.display(), dir.display());
            format!(
                "{what}. {path} belongs to user {owner} and this process runs as user {me}: give \
                 it the whole directory, as in chown -R {me} {dir}"
            )
        }
        None => format!(
            "{what}. See to its permissions and those of {}: this process runs as user {me} and \
             has to write to both",
            dir.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A directory with the files of a part, and what lies in it.
    fn part() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(CHUNKS)).unwrap();
        fs::write(dir.path().join(CHUNKS).join("00"), "chunk").unwrap();
        fs::write(dir.path().join(MANIFEST), "manifest").unwrap();
        dir
    }

    fn listing(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
        let mut all = BTreeMap::new();
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                all.append(&mut listing(&path));
            }
            all.insert(path.clone(), fs::read(&path).ok());
        }
        all
    }

    #[test]
    fn what_was_set_aside_comes_back_whole_wherever_it_was_interrupted() {
        let dir = part();
        let (dir, before) = (dir.path(), listing(dir.path()));
        try_out(dir).unwrap();
        clear(&dir.join(ASIDE)).unwrap();
        assert_eq!(listing(dir), before);

        set_aside(dir).unwrap();
        assert!(!dir.join(CHUNKS).exists() && !dir.join(MANIFEST).exists());
        // A crash between the two moves.
        fs::rename(moved(dir).join(MANIFEST), dir.join(MANIFEST)).unwrap();
        put_back(dir).unwrap();
        clear(&dir.join(ASIDE)).unwrap();
        assert_eq!(listing(dir), before);

        // As an earlier version left it.
        fs::create_dir(dir.join(ASIDE)).unwrap();
        fs::rename(dir.join(MANIFEST), dir.join(ASIDE).join(MANIFEST)).unwrap();
        put_back(dir).unwrap();
        clear(&dir.join(ASIDE)).unwrap();
        assert_eq!(listing(dir), before);
    }

    #[test]
    fn a_restore_that_fails_at_its_last_step_leaves_the_directory_as_it_was() {
        let dir = part();
        let (dir, before) = (dir.path(), listing(dir.path()));
        set_aside(dir).unwrap();
        // The store's directory could not be synced after its rename.
        fs::write(Store::path_in(dir), "store").unwrap();
        let why = undo(dir, Error::unavailable("the disk is gone"));
        assert_eq!(why.message, "the disk is gone");
        assert_eq!(listing(dir), before);
    }

    #[test]
    fn a_part_that_was_extracted_once_more_stands() {
        let dir = part();
        set_aside(dir.path()).unwrap();
        fs::create_dir(dir.path().join(CHUNKS)).unwrap();
        fs::write(dir.path().join(MANIFEST), "newer").unwrap();
        put_back(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join(MANIFEST)).unwrap(), b"newer");
    }

    #[test]
    fn what_a_store_was_made_of_goes_once_it_is_in_place() {
        let dir = part();
        let dir = dir.path();
        set_aside(dir).unwrap();
        fs::create_dir(dir.join(FOUNDING)).unwrap();
        fs::write(Store::path_in(dir), "store").unwrap();
        clean_up(dir);
        assert_eq!(listing(dir).into_keys().collect::<Vec<_>>(), [Store::path_in(dir)]);

        // As an earlier version left it.
        fs::create_dir_all(dir.join(CHUNKS)).unwrap();
        fs::create_dir_all(dir.join(ASIDE)).unwrap();
        fs::write(dir.join(ASIDE).join(MANIFEST), "manifest").unwrap();
        clean_up(dir);
        assert_eq!(listing(dir).into_keys().collect::<Vec<_>>(), [Store::path_in(dir)]);
    }
}
