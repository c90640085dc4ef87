//! Where the key of a sealed repository is found, and the slots that hold it in the repository.
//!
//! A node or a command names one of three places: a file, which holds the key itself or an age
//! identity that opens one of the slots; a command that prints the key; or the environment. It is
//! never an argument, since everybody on a machine sees those, and no message repeats it.
//!
//! A slot is an object `keys/RECIPIENT`: an age file, as the `age` tool makes and opens them, whose
//! content is the key as a file of it has it. Slots come and go and nothing else changes: whoever
//! has had the key goes on to have it.
//!
//! The repository says by a check value whether a key is its own, so a wrong one is told before
//! anything is read or stored. A key for a repository that is not sealed is an error too: somebody
//! may have put another repository in the place of the sealed one.

use std::{
    env, fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use uuid::Uuid;

use super::{
    store::{Made, Store, found},
    vault::{Scheme, Secret, Vault},
};
use crate::{
    base::{
        crew::{self, Role},
        error::{Context as _, Error, Kind, Result},
        limits,
        locks::lock,
    },
    part::seal::{Identities, Recipient, named, wrap},
};

/// Where a key is found. Cheap to clone; what was found is kept.
#[derive(Clone, Default)]
pub struct KeySource {
    way: Way,
    known: Arc<Mutex<Option<Secret>>>,
}

#[derive(Clone, Default)]
enum Way {
    #[default]
    Nowhere,
    File(PathBuf),
    Command(String),
    /// What stands in the environment.
    Text(String),
}

/// What a file holds.
enum Held {
    Key(Secret),
    Identities(Identities),
}

/// The variable of the environment that may hold a key.
pub const VARIABLE: &str = "DEVICEDB_REPOSITORY_KEY";
/// The folder of the slots.
pub const SLOTS: &str = "keys";
/// How a key can be named.
const WAYS: &str = "--repository-key-file FILE, --repository-key-command COMMAND, or the variable \
                    DEVICEDB_REPOSITORY_KEY";

impl KeySource {
    /// As a command line names it, or else the environment.
    pub fn named(file: Option<PathBuf>, command: Option<String>) -> KeySource {
        let text = || env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned());
        let way = match (file, command) {
            (Some(file), _) => Way::File(file),
            (None, Some(command)) => Way::Command(command),
            (None, None) => text().map_or(Way::Nowhere, Way::Text),
        };
        KeySource { way, known: Arc::default() }
    }

    /// No key.
    pub fn none() -> KeySource {
        KeySource::default()
    }

    pub fn file(path: impl Into<PathBuf>) -> KeySource {
        KeySource { way: Way::File(path.into()), known: Arc::default() }
    }

    pub fn is_named(&self) -> bool {
        !matches!(self.way, Way::Nowhere)
    }

    /// Refuses what can never be a key. Commands are not run.
    pub fn check(&self) -> Result<()> {
        match &self.way {
            Way::File(path) => read(path).map(drop),
            Way::Text(_) => self.own().map(drop),
            Way::Nowhere | Way::Command(_) => Ok(()),
        }
    }

    /// The key without any slot; none where there is no key, or where a slot is needed.
    pub fn own(&self) -> Result<Option<Secret>> {
        match &self.way {
            Way::Nowhere => Ok(None),
            Way::Text(text) => Secret::parse(text).map(Some).ok_or_else(|| {
                Error::invalid(format!(
                    "what stands in {VARIABLE} is no key: a key has 64 hex digits"
                ))
            }),
            Way::Command(command) => printed(command, limits::REPOSITORY_KEY_COMMAND).map(Some),
            Way::File(path) => match read(path)? {
                Held::Key(key) => Ok(Some(key)),
                Held::Identities(_) => Ok(None),
            },
        }
    }

    /// What opens a repository that is sealed so. `Denied` if no key is named, or another one's.
    pub fn vault(&self, store: &dyn Store, scheme: &Scheme, id: Uuid) -> Result<Vault> {
        scheme.check().map_err(|e| e.at(store.place()))?;
        if let Some(vault) = self.found().and_then(|key| scheme.vault(&key, id)) {
            return Ok(vault);
        }
        let (key, slot) = match (self.own()?, &self.way) {
            (Some(key), _) => (key, None),
            (None, Way::File(path)) => {
                let (key, slot) = from_slot(store, path)?;
                (key, Some(slot))
            }
            (None, _) => {
                return Err(Error::denied(format!(
                    "{} is sealed, and no key is named: say {WAYS}",
                    store.place()
                )));
            }
        };
        let vault = scheme.vault(&key, id).ok_or_else(|| match slot {
            None => Error::denied(format!(
                "{self} is not the key of {}, which is repository {id}",
                store.place()
            )),
            Some(slot) => Error::corrupt(format!(
                "{}: {slot} holds the key of another repository than {id}",
                store.place()
            )),
        })?;
        *lock(&self.known) = Some(key);
        Ok(vault)
    }

    /// The key that has opened a repository.
    pub fn found(&self) -> Option<Secret> {
        lock(&self.known).clone()
    }

    /// Refuses a key where nothing is sealed.
    pub fn is_not_needed(&self, place: &str) -> Result<()> {
        if !self.is_named() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "{place} is not sealed, and {self} is named as its key: leave the key out if it shall \
             not be sealed; if it was, this is another repository, and nothing is stored in it"
        )))
    }
}

/// Says where it is found, and never what it is.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Nowhere => f.write_str("no key"),
            Way::File(path) => write!(f, "{}", path.display()),
            Way::Command(_) => f.write_str("what the key command prints"),
            Way::Text(_) => write!(f, "what stands in {VARIABLE}"),
        }
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({self})")
    }
}

// ---- Files. ----

/// A file with the key, or with identities. It is a secret: others must not be able to read it.
fn read(path: &Path) -> Result<Held> {
    let place = format!("the repository key in {}", path.display());
    let text = private(path, &place, "read with it all that is stored")?;
    if let Some(key) = Secret::parse(&text) {
        return Ok(Held::Key(key));
    }
    let identities = Identities::parse(path.display().to_string(), &text);
    identities.map(Held::Identities).map_err(|_| {
        Error::invalid(format!(
            "{place}: it is neither a key, 64 hex digits on one line, nor an age identity file \
             without a passphrase"
        ))
    })
}

/// A key that an operator brings.
pub fn read_own(path: &Path) -> Result<Secret> {
    match read(path)? {
        Held::Key(key) => Ok(key),
        Held::Identities(_) => Err(Error::invalid(format!(
            "{} is an age identity file, which opens a key, and a key is wanted: 64 hex digits on \
             one line",
            path.display()
        ))),
    }
}

/// A secret in a file, where nobody but its owner can read it. `does` says what others could do.
pub(super) fn private(path: &Path, place: &str, does: &str) -> Result<String> {
    let unreadable =
        |e: io::Error| Error::invalid(format!("{place} cannot be read: {e}")).with_source(e);
    let file = File::open(path).map_err(unreadable)?;
    let about = file.metadata().map_err(unreadable)?;
    if about.is_file() && about.permissions().mode() & 0o077 != 0 {
        return Err(Error::invalid(format!(
            "{place}: others can read the file, and {does}: chmod 600 {}",
            path.display()
        )));
    }
    let mut text = String::new();
    let mut file = file.take(limits::IDENTITY_FILE_BYTES_MAX);
    file.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

// ---- Slots. ----

/// The object that holds the key for a recipient.
pub fn slot(recipient: &Recipient) -> String {
    format!("{SLOTS}/{recipient}")
}

/// Wraps the key for a recipient.
pub fn add_slot(store: &dyn Store, key: &Secret, recipient: &Recipient) -> Result<Made> {
    let wrapped = wrap(key.reveal().as_bytes(), std::slice::from_ref(recipient))?;
    store.create(&slot(recipient), wrapped.into())
}

/// `NotFound` if there is none, `Conflict` if it is the last one.
pub fn remove_slot(store: &dyn Store, recipient: &Recipient) -> Result<()> {
    let there = slots(store)?;
    if !there.contains(recipient) {
        return Err(Error::not_found(format!(
            "{} has no slot for {recipient}; {}",
            store.place(),
            told(&there)
        )));
    }
    if there.len() == 1 {
        return Err(Error::conflict(format!(
            "{recipient} has the last slot of {}, and without one nobody can open it who has not \
             kept the key: add another one first",
            store.place()
        )));
    }
    store.delete(&slot(recipient))
}

/// Who can open the repository with an identity file, in order. What is no slot is passed over.
pub fn slots(store: &dyn Store) -> Result<Vec<Recipient>> {
    let there = found(store.list(SLOTS))?.unwrap_or_default();
    let recipient = |name: &str| name.strip_prefix(SLOTS)?.strip_prefix('/')?.parse().ok();
    Ok(there.iter().filter_map(|object| recipient(&object.name)).collect())
}

fn told(slots: &[Recipient]) -> String {
    match slots.is_empty() {
        true => "it has no slots: its key is kept by whoever made it".into(),
        false => format!("its slots are those of {}", named(slots)),
    }
}

/// The key in the slot of one of a file's identities, and that slot's name.
fn from_slot(store: &dyn Store, path: &Path) -> Result<(Secret, String)> {
    let Held::Identities(identities) = read(path)? else {
        return Err(Error::invalid(format!("{} has just changed", path.display())));
    };
    let at = |name: &str| format!("{}: {name}", store.place());
    let mut damaged = None;
    for recipient in identities.recipients() {
        let name = slot(&recipient);
        let read = match found(store.read(&name, limits::REPOSITORY_SLOT_BYTES_MAX)) {
            Ok(None) => continue,
            Err(e) if e.kind == Kind::Corrupt => Err(e),
            Err(e) => return Err(e),
            Ok(Some(file)) => match identities.unwrap(&file) {
                Ok(key) => key.ok_or_else(|| Error::corrupt("it is wrapped for somebody else")),
                Err(e) => Err(e),
            },
        };
        let parsed = read.and_then(|text| {
            let key = String::from_utf8(text).ok().and_then(|text| Secret::parse(&text));
            key.ok_or_else(|| Error::corrupt("what is wrapped in it is no key"))
        });
        match parsed {
            Ok(key) => return Ok((key, name)),
            Err(e) => damaged = Some(e.at(at(&name))),
        }
    }
    match damaged {
        Some(e) => Err(e),
        None => Err(Error::denied(format!(
            "{} has no slot for {}, whose identities {} holds; {}",
            store.place(),
            named(&identities.recipients()),
            path.display(),
            told(&slots(store)?)
        ))),
    }
}

// ---- Commands. ----

/// The key that a command prints within a time. It runs in a shell, reads nothing, and what it
/// leaves behind in its process group is killed.
fn printed(command: &str, within: Duration) -> Result<Secret> {
    let failed = |what: String| Error::unavailable(format!("the repository key command {what}"));
    let begun = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = begun.map_err(|e| failed(format!("does not start: {e}")).with_source(e))?;
    let (ended, words) = match (ends(&mut child), hears(&mut child)) {
        (Ok(ended), Ok(words)) => (ended, words),
        (Err(e), _) | (_, Err(e)) => {
            // The error is the first one; this is only to leave nothing behind.
            let _ = reap(&mut child);
            return Err(e);
        }
    };
    let text = ended.recv_timeout(within);
    let status = reap(&mut child).at("waiting for the repository key command")?;
    let said = words.recv_timeout(limits::REPOSITORY_KEY_COMMAND_WORDS).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = said.trim().chars().take(limits::OBJECT_ERROR_CHARS_MAX).collect::<String>();
    let said = if said.is_empty() { "it said nothing".into() } else { format!("it said: {said}") };
    let Ok(text) = text else {
        let waited = within.as_secs();
        return Err(failed(format!("did not end within {waited} s and was stopped; {said}")));
    };
    if !status.success() {
        return Err(failed(format!("failed, {status}; {said}")));
    }
    let key = String::from_utf8(text).ok().and_then(|text| Secret::parse(&text));
    key.ok_or_else(|| failed(format!("printed no key, which is 64 hex digits; {said}")))
}

/// What it prints, once it has ended.
fn ends(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let (tell, told) = sync_channel(limits::REPOSITORY_KEY_COMMAND_ANSWERS);
    let pid = pid(child);
    let mut out = child.stdout.take().expect("it is piped");
    let listen = move || {
        let mut text = Vec::new();
        // What cannot be read is no key.
        let _ = out.by_ref().take(limits::SEALED_SECRET_BYTES_MAX).read_to_end(&mut text);
        drop(out);
        // It stays a zombie, so that its number is not given to another one before it is reaped.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = waitid(WaitId::Pid(pid), ended);
        let _ = tell.send(text);
    };
    crew::thread(Role::Repository, listen).map(|_: thread::JoinHandle<()>| told)
}

/// The beginning of what it says on stderr.
fn hears(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let (tell, told) = sync_channel(limits::REPOSITORY_KEY_COMMAND_ANSWERS);
    let mut err = child.stderr.take().expect("it is piped");
    let listen = move || {
        let mut words = Vec::new();
        let _ = err.by_ref().take(limits::SEALED_SECRET_BYTES_MAX).read_to_end(&mut words);
        let _ = tell.send(words);
        let _ = io::copy(&mut err, &mut io::sink());
    };
    crew::thread(Role::Repository, listen).map(|_: thread::JoinHandle<()>| told)
}

/// Ends it and its process group, if it has not ended, and says how it did.
fn reap(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    // It was not waited for yet, so this is nobody else's group.
    let _ = kill_process_group(pid(child), Signal::KILL);
    child.wait()
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        part::seal::{Identity, unwrap},
        repository::root::{Repository, Sealed},
    };

    fn secret(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    struct Stage {
        dir: tempfile::TempDir,
        key: Secret,
        anna: Identity,
        place: String,
        repository: Repository,
    }

    impl Stage {
        fn new() -> Stage {
            let (dir, anna) = (tempfile::tempdir().unwrap(), Identity::draw());
            let place = dir.path().join("repository").display().to_string();
            let key = Secret::draw().unwrap();
            let sealed = Sealed { key: key.clone(), recipients: vec![anna.recipient()] };
            let repository = Repository::init_sealed(&place, &sealed).unwrap();
            Stage { dir, key, anna, place, repository }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.dir.path().join(name);
            secret(&path, text);
            path
        }

        fn open(&self, key: &KeySource) -> Result<Repository> {
            Repository::at(&self.place, limits::OBJECT_PATIENCE_COMMAND, &key.clone().into())
        }

        fn refused(&self, key: &KeySource) -> Error {
            self.open(key).map(|repository| repository.id).unwrap_err()
        }
    }

    #[test]
    fn the_key_itself_an_identity_and_a_command_open_what_is_sealed() {
        let stage = Stage::new();
        let hex = stage.file("key.hex", &stage.key.reveal());
        let identity = format!("# mine\n{}\n", stage.anna.reveal());
        let identity = stage.file("identity.txt", &identity);
        let command = Way::Command(format!("cat {}", hex.display()));
        let text = Way::Text(stage.key.reveal());
        for way in [Way::File(hex), Way::File(identity), command, text] {
            let key = KeySource { way, known: Arc::default() };
            key.check().unwrap();
            assert_eq!(stage.open(&key).unwrap().id, stage.repository.id);
            assert_eq!(key.found(), Some(stage.key.clone()));
            let shown = format!("{key:?} {key}");
            assert!(!shown.contains(stage.key.reveal().trim()), "{shown}");
        }
    }

    #[test]
    fn what_does_not_open_it_is_said_in_one_line_by_what_is_wrong() {
        let stage = Stage::new();
        let other = Identity::draw();
        let file = |name: &str, text: &str| KeySource::file(stage.file(name, text));
        let wrong = Secret::draw().unwrap().reveal();
        let text = |text: &str| KeySource { way: Way::Text(text.into()), known: Arc::default() };
        let open = stage.file("open.hex", &stage.key.reveal());
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
        let (recipient, stranger) = (stage.anna.recipient(), other.recipient());
        for (key, kind, says) in [
            (
                KeySource::none(),
                Kind::Denied,
                "is sealed, and no key is named: say --repository-key-file",
            ),
            (file("wrong.hex", &wrong), Kind::Denied, "wrong.hex is not the key of"),
            (text(&wrong), Kind::Denied, "DEVICEDB_REPOSITORY_KEY is not the key of"),
            (text("1234"), Kind::Invalid, "is no key: a key has 64 hex digits"),
            (file("letter.txt", "hello"), Kind::Invalid, "neither a key, 64 hex digits"),
            (file("empty.txt", ""), Kind::Invalid, "neither a key, 64 hex digits"),
            (KeySource::file(open), Kind::Invalid, "others can read the file"),
            (KeySource::file(stage.dir.path().join("gone")), Kind::Invalid, "cannot be read"),
            (file("other.txt", &other.reveal()), Kind::Denied, &format!("no slot for {stranger}")),
            (file("other.txt", &other.reveal()), Kind::Denied, &format!("those of {recipient}")),
        ] {
            let e = stage.refused(&key);
            assert!(e.kind == kind && e.message.contains(says), "{e:?} does not say {says}");
            assert_eq!(e.message.lines().count(), 1, "{e}");
            for secret in [wrong.trim(), &other.reveal(), stage.key.reveal().trim()] {
                assert!(!e.message.contains(secret), "{e}");
            }
        }
        // Somebody may have put another repository in its place.
        let open = stage.dir.path().join("open").display().to_string();
        Repository::init(&open).unwrap();
        let key = file("key.hex", &stage.key.reveal());
        let e = Repository::at(&open, limits::OBJECT_PATIENCE_COMMAND, &key.into()).map(|r| r.id);
        let e = e.unwrap_err();
        assert!(e.kind == Kind::Conflict && e.message.contains("is not sealed, and"), "{e}");
    }

    #[test]
    fn slots_are_age_files_that_come_and_go_and_a_damaged_one_is_named() {
        let stage = Stage::new();
        let store = &*stage.repository.store;
        let (anna, bert) = (stage.anna.recipient(), Identity::draw());
        let both = {
            let mut both = vec![anna.clone(), bert.recipient()];
            both.sort();
            both
        };
        let e = remove_slot(store, &anna).unwrap_err();
        assert!(e.kind == Kind::Conflict && e.message.contains("has the last slot"), "{e}");
        assert_eq!(add_slot(store, &stage.key, &bert.recipient()), Ok(Made::Now));
        assert_eq!(add_slot(store, &stage.key, &bert.recipient()), Ok(Made::Before));
        assert_eq!(slots(store).unwrap(), both);
        // As `age -d -i identity.txt` opens it, into a file that is a key again.
        let slot = Path::new(&stage.place).join(slot(&bert.recipient()));
        let wrapped = fs::read(&slot).unwrap();
        assert!(wrapped.starts_with(b"age-encryption.org/v1\n-> X25519 "));
        assert!(wrapped.len() as u64 <= limits::REPOSITORY_SLOT_BYTES_MAX / 4, "{}", wrapped.len());
        let identity = bert.reveal().parse().unwrap();
        let opened = unwrap(&wrapped, &[identity]).unwrap().unwrap();
        assert_eq!(opened, stage.key.reveal().as_bytes());
        let key = || KeySource::file(stage.file("bert.txt", &bert.reveal()));
        stage.open(&key()).unwrap();
        for at in 0..wrapped.len() {
            let mut flipped = wrapped.clone();
            flipped[at] ^= 1;
            fs::write(&slot, flipped).unwrap();
            let e = stage.refused(&key());
            let named = e.message.contains(&bert.recipient().to_string());
            assert!(e.kind == Kind::Corrupt && named, "a flip at byte {at}: {e}");
            fs::write(&slot, &wrapped[..at]).unwrap();
            assert_eq!(stage.refused(&key()).kind, Kind::Corrupt, "a cut at byte {at}");
        }
        fs::write(&slot, vec![b'x'; limits::REPOSITORY_SLOT_BYTES_MAX as usize + 1]).unwrap();
        assert_eq!(stage.refused(&key()).kind, Kind::Corrupt);
        // A slot of another repository, and one that was wrapped for somebody else.
        let strange = wrap(Secret::draw().unwrap().reveal().as_bytes(), &[bert.recipient()]);
        fs::write(&slot, strange.unwrap()).unwrap();
        let e = stage.refused(&key());
        assert!(e.kind == Kind::Corrupt && e.message.contains("of another repository"), "{e}");
        fs::write(&slot, wrap(stage.key.reveal().as_bytes(), std::slice::from_ref(&anna)).unwrap())
            .unwrap();
        let e = stage.refused(&key());
        assert!(e.kind == Kind::Corrupt && e.message.contains("for somebody else"), "{e}");
        remove_slot(store, &bert.recipient()).unwrap();
        assert_eq!(slots(store).unwrap(), [anna]);
        let e = remove_slot(store, &bert.recipient()).unwrap_err();
        assert!(e.kind == Kind::NotFound, "{e}");
        assert_eq!(stage.refused(&key()).kind, Kind::Denied);
    }

    #[test]
    fn a_command_that_fails_hangs_or_prints_no_key_is_said_and_nothing_of_it_stays() {
        let soon = Duration::from_secs(20);
        let key = Secret::draw().unwrap();
        let good = format!("echo working >&2; printf %s {}", key.reveal().trim());
        assert_eq!(printed(&good, soon), Ok(key.clone()));
        for (command, says) in [
            ("echo sealed vault >&2; exit 3", "failed, exit status: 3; it said: sealed vault"),
            ("no-such-command-at-all", "failed, exit status: 127"),
            ("true", "printed no key, which is 64 hex digits; it said nothing"),
            ("echo 1234", "printed no key"),
            ("kill -9 $$", "failed, signal: 9"),
            ("yes", "failed, "),
            ("yes >&2", "did not end within"),
        ] {
            let within = if command == "yes >&2" { Duration::from_millis(100) } else { soon };
            let e = printed(command, within).unwrap_err();
            assert!(e.kind == Kind::Unavailable && e.message.contains(says), "{command}: {e}");
        }
        // What hangs is ended with all that it has begun: the pipe closes when nobody has it.
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let hangs = format!("(exec sleep 1000 > {0}) & echo begun >&2; wait", pipe.display());
        let (tell, told) = sync_channel(1);
        let reader = thread::spawn(move || tell.send(fs::read(pipe).unwrap()).unwrap());
        let ended = (0..8).any(|tries| {
            let within = Duration::from_millis(50 << tries);
            let e = printed(&hangs, within).unwrap_err();
            assert!(e.message.contains("did not end within"), "{e}");
            told.recv_timeout(within).is_ok_and(|read| read.is_empty())
        });
        assert!(ended, "something of it has the pipe still");
        reader.join().unwrap();
        // Whoever leaves something behind that holds the pipe is not waited for.
        assert_eq!(printed(&format!("{good}; sleep 1000 2> /dev/null >&2 &"), soon), Ok(key));
    }
}
