//! What a snapshot store says of its past: whether it is one at all, and whether a node that was
//! reached at some address has left parts there. It is for a start that is about to begin
//! something; it reads no more than the head of each manifest, and changes nothing.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::base::{
    error::{Context as _, Error, Result},
    limits, strangers,
};

/// `Invalid` if the directory holds something, and nothing of a snapshot store. Where it has been
/// used before, what else lies there is only named in the log.
pub fn check(store: &Path) -> Result<()> {
    let strangers = strangers::in_directory(store, is_corner)?;
    if strangers.is_empty() {
        return Ok(());
    }
    let place = format!("snapshot store {}", store.display());
    if corners(store)?.is_empty() {
        return Err(Error::invalid(format!(
            "{place} holds {}, and nothing that a node keeps in a snapshot store: say a directory \
             of its own",
            strangers::named(&strangers)
        )));
    }
    tracing::warn!("{place} holds {} besides the parts of nodes", strangers::named(&strangers));
    Ok(())
}

/// The manifest of a part of a node that was reached at this address, if there is one.
pub fn part_of(store: &Path, address: &str) -> Result<Option<PathBuf>> {
    for corner in corners(store)? {
        for snapshot in entries(&corner.join("snapshots"))? {
            let manifest = snapshot.join("manifest.json");
            if address_in(&manifest).is_some_and(|theirs| same_place(&theirs, address)) {
                return Ok(Some(manifest));
            }
        }
    }
    Ok(None)
}

fn is_corner(name: &str) -> bool {
    name.strip_prefix("node-").is_some_and(|id| id.parse::<u64>().is_ok())
}

/// The directories of nodes.
fn corners(store: &Path) -> Result<Vec<PathBuf>> {
    let mut corners = entries(store)?;
    corners.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_corner));
    Ok(corners)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.at(dir.display())?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .at(dir.display())?;
    paths.sort();
    Ok(paths)
}

/// Where the node of a manifest was reached. None where it cannot be told: `verify` says what is
/// wrong with it.
fn address_in(manifest: &Path) -> Option<String> {
    let mut head = Vec::new();
    fs::File::open(manifest).ok()?.take(limits::TRACE_BYTES).read_to_end(&mut head).ok()?;
    const FIELD: &[u8] = b"\"address\":";
    let at = head.windows(FIELD.len()).position(|bytes| bytes == FIELD)?;
    serde_json::Deserializer::from_slice(&head[at + FIELD.len()..])
        .into_iter::<String>()
        .next()?
        .ok()
}

/// The guide says localhost where a listening address says 127.0.0.1.
fn same_place(one: &str, other: &str) -> bool {
    let parts = |address: &str| {
        address.rsplit_once(':').map(|(host, port)| (host.to_ascii_lowercase(), port.to_owned()))
    };
    let loopback = |host: &str| host == "localhost" || host == "[::1]" || host.starts_with("127.");
    match (parts(one), parts(other)) {
        (Some((one, port)), Some((other, theirs))) => {
            port == theirs && (one == other || loopback(&one) && loopback(&other))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_by_the_address_of_its_node_however_that_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let golden = fs::read(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/snapshot/manifest-1.json"),
        )
        .unwrap();
        let text = String::from_utf8(golden.clone()).unwrap();
        let address = text
            .split("\"address\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap()
            .to_owned();
        let snapshot = dir.path().join("node-7/snapshots/00000000-0000-0000-0000-000000000001");
        fs::create_dir_all(&snapshot).unwrap();
        assert_eq!(part_of(dir.path(), &address), Ok(None), "there is no manifest yet");
        fs::write(snapshot.join("manifest.json"), golden).unwrap();
        assert_eq!(part_of(dir.path(), &address), Ok(Some(snapshot.join("manifest.json"))));
        assert_eq!(part_of(dir.path(), "elsewhere:1"), Ok(None));
        assert!(
            same_place("localhost:8080", "127.0.0.1:8080")
                && !same_place("localhost:8080", "127.0.0.1:8081")
                && !same_place("a:1", "localhost:1")
        );
        fs::write(snapshot.join("manifest.json"), "not a manifest").unwrap();
        assert_eq!(part_of(dir.path(), &address), Ok(None));
    }

    #[test]
    fn a_directory_of_something_else_is_no_snapshot_store_and_one_that_was_used_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path()), Ok(()));
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        assert_eq!(check(dir.path()), Ok(()));
        fs::create_dir(dir.path().join("node-x")).unwrap();
        assert!(check(dir.path()).unwrap_err().message.contains("\"node-x\""));
        fs::create_dir(dir.path().join("node-7")).unwrap();
        assert_eq!(check(dir.path()), Ok(()));
    }
}
