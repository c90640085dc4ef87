//! Where a repository lies: names, bytes, and one promise: of all who make a name, one does.
//!
//! What was made is never changed, and is on disk when `create` returns. A name that is half
//! written is never seen.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use uuid::Uuid;

use crate::base::{
    clock::Random,
    error::{Context as _, Error, Kind, Result},
};

/// Whether a name was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Now,
    /// It was there.
    Before,
}

/// A name, and how many bytes lie under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub bytes: u64,
}

/// A name that is made while somebody else makes it has the bytes of one of both. `create` may say
/// `Now` to several who store the very same bytes.
///
/// Names are words of letters, digits, `-` and `.`, divided by `/`.
pub trait Store: Send + Sync {
    /// In words, for people.
    fn place(&self) -> String;
    fn create(&self, name: &str, bytes: Bytes) -> Result<Made>;
    /// How many bytes lie under a name.
    fn bytes(&self, name: &str) -> Result<u64>;
    /// All bytes under a name; `Corrupt` if there are more than `bytes_max`.
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>>;
    /// `Corrupt` if there are fewer.
    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>>;
    /// Everything that is named below, in order of the names.
    fn list(&self, below: &str) -> Result<Vec<Object>>;
    /// Whatever is found first, if anything is there.
    fn any(&self) -> Result<Option<Object>> {
        Ok(found(self.list(""))?.and_then(|there| there.into_iter().next()))
    }
    /// What writers have begun and given no name yet, as they last wrote to it by this time, in
    /// milliseconds since 1970. A store that makes a name at once has none.
    fn unfinished(&self, until_ms: u64) -> Result<Vec<Object>> {
        let _ = until_ms;
        Ok(Vec::new())
    }
    fn delete(&self, name: &str) -> Result<()>;
    /// Each of them, and what became of it.
    fn delete_all(&self, names: &[String]) -> Vec<Result<()>> {
        names.iter().map(|name| self.delete(name)).collect()
    }
}

/// A directory, of a file system with hard links.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// What is being written, under names of its own.
const UNFINISHED: &str = "unfinished";
/// What a file system keeps in its own root.
const TOLERATED: &str = "lost+found";

impl Directory {
    pub fn new(path: impl Into<PathBuf>) -> Directory {
        Directory { path: path.into() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn make(&self, name: &str, bytes: &[u8], unfinished: &Path) -> Result<Made> {
        let file = self.file(name);
        let mut options = OpenOptions::new();
        let mut written = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(unfinished)
            .at(unfinished.display())?;
        written.write_all(bytes).at(unfinished.display())?;
        written.sync_all().at(unfinished.display())?;
        match fs::hard_link(unfinished, &file) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Made::Before),
            Err(e)
                if e.kind() == io::ErrorKind::PermissionDenied
                    || e.kind() == io::ErrorKind::Unsupported =>
            {
                return Err(Error::unavailable(format!(
                    "{}: the file system makes no hard links ({e}), and a repository needs them: \
                     without them two writers could make the same name",
                    file.display()
                )));
            }
            Err(e) => return Err(e).at(file.display()),
        }
        sync(parent(&file))?;
        Ok(Made::Now)
    }
}

impl Store for Directory {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn create(&self, name: &str, bytes: Bytes) -> Result<Made> {
        directories(&self.path, parent(&self.file(name)))?;
        let aside = self.path.join(UNFINISHED);
        directories(&self.path, &aside)?;
        let unfinished = aside.join(Random::from_entropy().uuid().to_string());
        let made = self.make(name, &bytes, &unfinished);
        // If it stays, it harms nobody until a collection takes it away.
        let _ = fs::remove_file(&unfinished);
        made
    }

    fn bytes(&self, name: &str) -> Result<u64> {
        let path = self.file(name);
        Ok(fs::metadata(&path).at(path.display())?.len())
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let path = self.file(name);
        let file = File::open(&path).at(path.display())?;
        let bytes = file.metadata().at(path.display())?.len();
        if bytes > bytes_max {
            return Err(Error::corrupt(format!(
                "{}: it has {bytes} bytes, more than {bytes_max}",
                path.display()
            )));
        }
        read_at(&file, &path, 0, bytes)
    }

    fn read_range(&self, name: &str, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        let path = self.file(name);
        let file = File::open(&path).at(path.display())?;
        let there = file.metadata().at(path.display())?.len();
        if offset.checked_add(bytes).is_none_or(|end| end > there) {
            return Err(Error::corrupt(format!(
                "{}: it has {there} bytes, and {bytes} are asked for at byte {offset}",
                path.display()
            )));
        }
        read_at(&file, &path, offset, bytes)
    }

    fn list(&self, below: &str) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let mut folders = vec![below.trim_end_matches('/').to_owned()];
        while let Some(folder) = folders.pop() {
            let path = if folder.is_empty() { self.path.clone() } else { self.file(&folder) };
            let entries = match fs::read_dir(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !folder.is_empty() => continue,
                entries => entries.at(path.display())?,
            };
            for entry in entries {
                let entry = entry.at(path.display())?;
                let Ok(word) = entry.file_name().into_string() else { continue };
                if folder.is_empty() && [UNFINISHED, TOLERATED].contains(&word.as_str()) {
                    continue;
                }
                let name = if folder.is_empty() { word } else { format!("{folder}/{word}") };
                let kind = entry.file_type().at(path.display())?;
                if kind.is_dir() {
                    folders.push(name);
                } else if kind.is_file() {
                    let bytes = entry.metadata().at(path.display())?.len();
                    found.push(Object { name, bytes });
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn unfinished(&self, until_ms: u64) -> Result<Vec<Object>> {
        let aside = self.file(UNFINISHED);
        let entries = match fs::read_dir(&aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at(aside.display())?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.at(aside.display())?;
            let metadata = match entry.metadata() {
                // It has just got its name.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.at(aside.display())?,
            };
            // Whoever put something else there has to take it away.
            let Some(uuid) = entry.file_name().to_str().and_then(|word| word.parse::<Uuid>().ok())
            else {
                continue;
            };
            let written = metadata.modified().at(aside.display())?;
            let since_1970 = written.duration_since(UNIX_EPOCH).unwrap_or_default();
            if metadata.is_file() && since_1970.as_millis() <= until_ms.into() {
                let (name, bytes) = (format!("{UNFINISHED}/{uuid}"), metadata.len());
                found.push(Object { name, bytes });
            }
        }
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.at(path.display()),
        }
    }
}

/// A relative name of one word lies in the working directory.
fn parent(file: &Path) -> &Path {
    file.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read_at(file: &File, path: &Path, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut data, offset).at(path.display())?;
    Ok(data)
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).at(dir.display())
}

/// Makes what is missing from the root down to a directory, each on disk before the next.
fn directories(root: &Path, dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if dir != root {
        directories(root, parent(dir))?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.at(dir.display())?,
    }
    sync(parent(dir))
}

/// `NotFound` as nothing.
pub fn found<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(e) if e.kind == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn of_many_who_make_a_name_one_does_and_its_bytes_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::new(dir.path().join("repository"));
        let made: Vec<Made> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0u8..16)
                .map(|n| {
                    let store = &store;
                    scope.spawn(move || {
                        store.create("a/b/name", Bytes::from(vec![n; 1000])).unwrap()
                    })
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| **made == Made::Now).count(), 1);
        let winner = made.iter().position(|made| *made == Made::Now).unwrap();
        assert_eq!(store.read("a/b/name", 1000).unwrap(), [winner as u8; 1000]);
        assert_eq!(
            store.list("").unwrap(),
            [Object { name: "a/b/name".into(), bytes: 1000 }],
            "what was unfinished is gone"
        );
    }

    #[test]
    fn a_relative_name_lies_in_the_working_directory() {
        assert_eq!(parent(Path::new("repository")), Path::new("."));
        assert_eq!(parent(Path::new("a/repository")), Path::new("a"));
        assert_eq!(parent(Path::new("/repository")), Path::new("/"));
    }

    #[test]
    fn only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::new(dir.path().join("repository"));
        store.create("a/name", Bytes::from_static(b"x")).unwrap();
        for (path, wanted) in [("", 0o700), ("a", 0o700), ("a/name", 0o600)] {
            assert_eq!(mode(&dir.path().join("repository").join(path)), wanted, "{path}");
        }
    }

    #[test]
    fn what_is_not_there_or_too_short_is_said_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::new(dir.path());
        store.create("a/name", Bytes::from_static(b"12345")).unwrap();
        assert_eq!(store.read_range("a/name", 1, 3).unwrap(), b"234");
        for (offset, bytes) in [(3, 3), (6, 0), (u64::MAX, 1)] {
            let e = store.read_range("a/name", offset, bytes).unwrap_err();
            assert!(e.kind == Kind::Corrupt && e.message.contains("it has 5 bytes"), "{e}");
        }
        assert_eq!(store.read("a/name", 4).unwrap_err().kind, Kind::Corrupt);
        let e = store.read("a/other", 9).unwrap_err();
        assert!(e.kind == Kind::NotFound && e.message.contains("a/other"), "{e}");
        assert_eq!(found(Err::<(), _>(e)), Ok(None));
        assert_eq!(store.list("nowhere").unwrap(), []);
        store.delete("a/name").unwrap();
        store.delete("a/name").unwrap();
        assert_eq!(store.list("a").unwrap(), []);
    }
}
