//! `snapshot keygen`, `seal` and `unseal`: identities, and parts with and without a seal.
//!
//! What is made is readable by its owner alone and never replaces a file. Of several parts all are
//! verified before the first is written, and a run that fails leaves nothing: a part is written
//! beside its place and gets its name when it is whole. A crash leaves that file, `NAME.partial`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use super::{
    download::file_name,
    sink::partial_of,
    verify::{identities, parts_at},
};
use crate::{
    base::error::{Context as _, Error, Kind, Result as Done},
    ctl::{
        cert::{is_free, write_new},
        term::{
            exit::{self, Failure},
            output::{Console, Look, View},
        },
    },
    part::{
        reseal::{self, Refusal, Resealed},
        seal::{Identity, Recipient, Sealing},
    },
};

/// An identity that was made.
#[derive(Debug, Serialize)]
struct Made {
    recipient: Recipient,
    file: PathBuf,
}

impl View for Made {
    fn text(&self, _: Look) -> String {
        format!("{}\n", self.recipient)
    }
}

/// Tars that were written.
#[derive(Debug, Serialize)]
struct Written {
    files: Vec<PathBuf>,
}

impl View for Written {
    fn text(&self, _: Look) -> String {
        self.files.iter().map(|file| format!("{}\n", file.display())).collect()
    }
}

pub fn keygen(output: &Path, console: &mut Console) -> Result<(), Failure> {
    let identity = Identity::draw();
    let recipient = identity.recipient();
    let words = format!("# public key: {recipient}\n{}\n", identity.reveal());
    write_new(output, &words, 0o600)?;
    console.print(&Made { recipient, file: output.to_owned() })
}

pub fn seal(
    paths: &[PathBuf],
    to: &[Recipient],
    output: &Path,
    console: &mut Console,
) -> Result<(), Failure> {
    let (sealing, _) = Sealing::draw(to).map_err(failed)?;
    reseal(paths, output, console, |path| reseal::sealed(path, &sealing))
}

pub fn unseal(
    paths: &[PathBuf],
    identity: &Path,
    output: &Path,
    console: &mut Console,
) -> Result<(), Failure> {
    let identities = identities(identity)?;
    reseal(paths, output, console, |path| reseal::unsealed(path, &identities))
}

fn reseal<'a>(
    paths: &[PathBuf],
    output: &Path,
    console: &mut Console,
    make: impl Fn(&Path) -> Result<Resealed<'a>, Refusal>,
) -> Result<(), Failure> {
    let paths = parts_at(paths)?;
    let into =
        output.is_dir() || paths.len() > 1 || output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !into {
        is_free(output)?;
    }
    let mut parts: Vec<(PathBuf, Resealed)> = Vec::new();
    for path in &paths {
        let part = make(path).map_err(|refusal| refused(path, refusal))?;
        let manifest = part.manifest();
        let place = match into {
            true => output.join(file_name(manifest.snapshot, manifest.node.0)),
            false => output.to_owned(),
        };
        is_free(&place)?;
        is_free(&partial_of(&place))?;
        if parts.iter().any(|(other, _)| *other == place) {
            let what = format!("{} is of a node that another of these parts is of", path.display());
            return Err(Failure::usage(what, "name each part once"));
        }
        parts.push((place, part));
    }
    if into {
        let made = DirBuilder::new().mode(0o700).recursive(true).create(output);
        made.at(output.display()).map_err(failed)?;
    }
    let mut files = Vec::new();
    for (place, part) in &parts {
        let aside = partial_of(place);
        console.on_interrupt(format!("{} is incomplete; remove it", aside.display()));
        match write(place, part) {
            Ok(()) => files.push(place.clone()),
            Err(e) => {
                files.iter().for_each(|file| drop(fs::remove_file(file)));
                return Err(failed(e));
            }
        }
    }
    console.on_interrupt("");
    console.print(&Written { files })
}

fn write(place: &Path, part: &Resealed) -> Done<()> {
    let aside = partial_of(place);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
    let file = made.at(aside.display())?;
    let put = || {
        let mut out = BufWriter::new(&file);
        part.write(&mut out)?;
        out.flush().and_then(|()| file.sync_all()).at(aside.display())?;
        drop(out);
        renameat_with(CWD, &aside, CWD, place, RenameFlags::NOREPLACE)
            .map_err(std::io::Error::from)
            .at(place.display())?;
        let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
        let synced = File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
        synced.at(place.display())
    };
    put().inspect_err(|_| drop(fs::remove_file(&aside)))
}

fn refused(path: &Path, refusal: Refusal) -> Failure {
    let place = path.display();
    match refusal {
        Refusal::Plain => Failure::usage(format!("{place} is not sealed"), "use the part as it is"),
        Refusal::Sealed(seal) => Failure::usage(
            format!("{place} is sealed already, to {}", seal.named()),
            "use it as it is, or unseal it first",
        ),
        Refusal::Closed(e) => Failure::usage(format!("{place} stays closed: {}", e.message), ""),
        Refusal::Unsound(problems) => Failure::new(
            exit::NOT_VERIFIED,
            format!("something is wrong with the part, and nothing was written:\n{problems}"),
            place.to_string(),
            "fetch the part again",
        ),
        Refusal::Failed(e) => failed(e.at(place)),
    }
}

fn failed(e: Error) -> Failure {
    let code = match e.kind {
        Kind::Corrupt => exit::NOT_VERIFIED,
        Kind::Invalid => exit::USAGE,
        _ => exit::FAILED,
    };
    Failure::new(code, e.message, "", "nothing was written")
}
