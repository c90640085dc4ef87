//! `ddbctl repository key`, and how `init` comes to the key of what it seals.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::super::{
    args::{Reading, Slots},
    cert::write_new,
    place::failed,
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
    },
};
use crate::{
    base::{
        error::{Context as _, Error, Result},
        limits,
    },
    part::seal::{Recipient, in_order},
    repository::{
        key::{self, KeySource, VARIABLE},
        root::{Repository, Sealed},
        signature::{PublicKey, SigningKey},
        store::Made,
        trust::Access,
        vault::Secret,
    },
};

#[derive(Serialize)]
struct Listed {
    recipients: Vec<Recipient>,
}

#[derive(Serialize)]
struct Changed {
    recipient: Recipient,
    /// It can open the repository now.
    opens: bool,
    /// It was so before.
    was_so: bool,
}

#[derive(Serialize)]
struct Written {
    file: PathBuf,
}

impl View for Listed {
    fn text(&self, _: Look) -> String {
        self.recipients.iter().map(|recipient| format!("{recipient}\n")).collect()
    }
}

impl View for Changed {
    fn text(&self, _: Look) -> String {
        let Changed { recipient, opens, was_so } = self;
        match (opens, was_so) {
            (true, false) => format!("{recipient} can open it\n"),
            (true, true) => format!("{recipient} has had a slot already\n"),
            (false, _) => format!("the slot of {recipient} is gone\n"),
        }
    }
}

impl View for Written {
    fn text(&self, _: Look) -> String {
        format!("{} holds the key: keep it where the repository is not\n", self.file.display())
    }
}

/// How a new repository is sealed, if it is.
pub fn sealed(
    mut recipients: Vec<Recipient>,
    more: Option<&Path>,
    own: Option<&Path>,
) -> Result<Option<Sealed>> {
    if let Some(path) = more {
        recipients.extend(read_recipients(path)?);
    }
    let own = match own {
        Some(path) => Some(key::read_own(path)?),
        None if env::var_os(VARIABLE).is_some() => KeySource::named(None, None).own()?,
        None => None,
    };
    let recipients = match recipients.is_empty() {
        true => Vec::new(),
        false => in_order(&recipients)?,
    };
    match own {
        None if recipients.is_empty() => Ok(None),
        Some(key) => Ok(Some(Sealed { key, recipients })),
        None => Ok(Some(Sealed { key: Secret::draw()?, recipients })),
    }
}

/// One a line; what begins with # is for people.
fn read_recipients(path: &Path) -> Result<Vec<Recipient>> {
    let place = path.display();
    let unusable = |what: String| Error::invalid(format!("recipients file {place} {what}"));
    let bytes = fs::metadata(path).map(|file| file.len()).unwrap_or_default();
    if bytes > limits::IDENTITY_FILE_BYTES_MAX {
        return Err(unusable(format!("has {bytes} bytes: it is none")));
    }
    let text = fs::read_to_string(path).map_err(|e| unusable(format!("cannot be read: {e}")))?;
    let lines = text.lines().enumerate().map(|(nth, line)| (nth + 1, line.trim()));
    let recipients = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(nth, line)| {
            // It may be an identity, which no message repeats.
            line.parse().map_err(|_: Error| unusable(format!("has no recipient in line {nth}")))
        })
        .collect::<Result<Vec<Recipient>>>()?;
    match recipients.is_empty() {
        true => Err(unusable("names nobody".into())),
        false => Ok(recipients),
    }
}

/// A signing key that was made.
#[derive(Serialize)]
struct Signing {
    /// The public key.
    key: PublicKey,
    file: PathBuf,
}

impl View for Signing {
    fn text(&self, _: Look) -> String {
        format!("{}\n", self.key)
    }
}

/// Makes a key that signs.
pub fn keygen(output: &Path, console: &mut Console) -> Result<(), Failure> {
    let drawn = SigningKey::draw().map_err(|e| {
        Failure::new(exit::FAILED, e.message, output.display().to_string(), "say it again")
    })?;
    write_new(output, &drawn.reveal(), 0o600)?;
    console.print(&Signing { key: drawn.public(), file: output.to_owned() })
}

pub fn run(command: Slots, console: &mut Console) -> Result<(), Failure> {
    match command {
        Slots::List { place } => {
            let patience = limits::OBJECT_PATIENCE_COMMAND;
            let there =
                Repository::seen(&place, patience, &Access::none()).and_then(|repository| {
                    is_sealed(&repository)?;
                    key::slots(&*repository.store)
                });
            let recipients = there.map_err(|e| failed("nobody is listed", &place, &e))?;
            console.print(&Listed { recipients })
        }
        Slots::AddRecipient { place, recipient, key } => {
            let added = open(&place, key).and_then(|(repository, secret)| {
                key::add_slot(&*repository.store, &secret, &recipient)
            });
            let made = added.map_err(|e| failed("nobody is added", &place, &e))?;
            console.print(&Changed { recipient, opens: true, was_so: made == Made::Before })
        }
        Slots::RemoveRecipient { place, recipient, key } => {
            let removed = open(&place, key)
                .and_then(|(repository, _)| key::remove_slot(&*repository.store, &recipient));
            removed.map_err(|e| failed("nobody is removed", &place, &e))?;
            console.print(&Changed { recipient, opens: false, was_so: false })?;
            console.warn(
                "whoever has opened that slot may have kept the key, which stays the same: what \
                 shall be closed to them belongs into a new repository",
            );
            Ok(())
        }
        Slots::Export { place, output, key } => {
            let written = open(&place, key).and_then(|(_, secret)| write(&output, &secret));
            written.map_err(|e| failed("the key is not written", &place, &e))?;
            console.print(&Written { file: output })
        }
    }
}

/// The repository, and its key.
fn open(place: &str, reading: Reading) -> Result<(Repository, Secret)> {
    let access = Access::from(reading);
    let repository = Repository::at(place, limits::OBJECT_PATIENCE_COMMAND, &access)?;
    is_sealed(&repository)?;
    let secret = access.key.found().ok_or_else(|| Error::not_found("its key was not asked for"))?;
    Ok((repository, secret))
}

fn is_sealed(repository: &Repository) -> Result<()> {
    if repository.is_sealed() {
        return Ok(());
    }
    let place = repository.store.place();
    Err(Error::conflict(format!("{place} is not sealed: it has no key, and anybody can read it")))
}

fn write(path: &Path, key: &Secret) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::conflict(format!(
                "{} is there already, and nothing is overwritten: name another file",
                path.display()
            )));
        }
        file => file.at(path.display())?,
    };
    file.write_all(key.reveal().as_bytes()).and_then(|()| file.sync_all()).at(path.display())?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).at(dir.display())
}
