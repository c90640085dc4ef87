//! A node's own seal: `seal.json` in its store directory, readable by its owner alone.
//!
//! It holds the key itself, beside the rows that the key seals: who reads the one reads the other.
//! One seal serves all parts of a node, so that what did not change between two snapshots has the
//! same names and is stored once. It is made at the first start that names recipients; other
//! recipients get a new key, so that whom they replace reads nothing new. It stays when the node is
//! started without recipients, and is used again when they are named again.
//!
//! It is not restored with a part: the restored node draws another.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{Keys, Recipient, Seal, Sealing, in_order};
use crate::{
    base::{
        error::{Context as _, Error, Result},
        limits,
    },
    faults::failpoint::{Failpoint, failpoint},
};

/// The file, and the same while it is written.
pub const FILE: &str = "seal.json";
pub const ASIDE: &str = "seal.json.new";
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    key: String,
    seal: Seal,
}

/// The seal of the node whose store lies in `dir`, for these recipients; none if there are none.
pub fn seal(dir: &Path, recipients: &[Recipient]) -> Result<Option<Sealing>> {
    if recipients.is_empty() {
        return Ok(None);
    }
    let recipients = in_order(recipients)?;
    let kept = read(dir)?.filter(|kept| kept.seal.recipients == recipients);
    let drawn = kept.is_none();
    let sealing = match kept {
        Some(kept) => kept,
        None => {
            let (sealing, key) = Sealing::draw(&recipients)?;
            write(dir, &sealing.seal, &key)?;
            sealing
        }
    };
    tracing::info!(to = sealing.seal.named(), new_key = drawn, "parts of snapshots are sealed");
    Ok(Some(sealing))
}

fn read(dir: &Path) -> Result<Option<Sealing>> {
    let path = dir.join(FILE);
    let text = match fs::metadata(&path).map(|file| file.len()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(bytes) if bytes <= limits::SEAL_FILE_BYTES_MAX => fs::read(&path),
        Ok(_) => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    let text = text.at(path.display())?;
    let kept = serde_json::from_slice(&text).ok().and_then(|text: Text| {
        let key = blake3::Hash::from_hex(&text.key).ok()?;
        text.seal.check().ok()?;
        let keys = Keys::of(key.as_bytes()).into();
        (text.format == FORMAT).then_some(Sealing { seal: text.seal, keys })
    });
    kept.map(Some).ok_or_else(|| {
        Error::corrupt(format!(
            "{} is not what this program writes: restore it, or remove it, and the node draws a \
             new key; parts that are sealed already need only their recipients' identities",
            path.display()
        ))
    })
}

fn write(dir: &Path, seal: &Seal, key: &[u8; 32]) -> Result<()> {
    let (path, aside) = (dir.join(FILE), dir.join(ASIDE));
    let key = blake3::Hash::from_bytes(*key).to_hex().to_string();
    let text = Text { format: FORMAT, key, seal: seal.clone() };
    let line = serde_json::to_string(&text).expect("texts and numbers are always JSON") + "\n";
    let put = || {
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        failpoint(Failpoint::SealWritten);
        fs::rename(&aside, &path)?;
        failpoint(Failpoint::SealInPlace);
        fs::File::open(dir)?.sync_all()
    };
    put().at(path.display())
}
