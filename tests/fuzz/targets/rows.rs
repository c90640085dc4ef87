//! Files that a node finds again: rows that another node has sent for a group, and the id that was
//! drawn for a join.

use std::{fs, path::PathBuf};

use devicedb::{
    base::{
        error::Kind,
        ids::{GroupId, NodeId, Topology},
    },
    boot::restore,
    engine,
    store::{Store, keys, transfer},
};
use tempfile::TempDir;

use super::disk;

thread_local! {
    static DIR: TempDir = super::directory();
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    DIR.with(|dir| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("the temporary directory takes files");
        path
    })
}

pub const GROUPS: [GroupId; 3] = [GroupId(0), GroupId(3), GroupId::META];

pub fn topology() -> Topology {
    Topology::new(64, 4).expect("a shape that can be")
}

/// Rows that are taken for a group replace that group's and no other's, and go on to the next node
/// as they came.
pub fn rows(input: &[u8]) -> bool {
    let Some((chosen, bytes)) = input.split_first() else { return false };
    let group = GROUPS[usize::from(*chosen) % GROUPS.len()];
    let path = file("incoming.rows", bytes);
    let record = match transfer::check(&path, topology(), group, |_, _| Ok(())) {
        Ok(record) => record,
        Err(e) => {
            assert_eq!(e.kind, Kind::Corrupt, "{e:?}");
            return false;
        }
    };
    if let Err(e) = engine::check_rows(&path, topology(), group) {
        assert_eq!(e.kind, Kind::Corrupt, "{e:?}");
    }
    let store = Store::create(&path, &disk::Memory, b"me").expect("memory takes a store");
    let before: Vec<Vec<u8>> = GROUPS
        .iter()
        .map(|g| [&keys::group(topology(), *g)[0].start[..], b"old"].concat())
        .collect();
    let mut commit = store.begin().expect("memory takes a commit");
    commit
        .rows(before.iter().map(|key| (key.as_slice(), Some(&b"old"[..]))))
        .expect("memory takes rows");
    transfer::install(&path, &mut commit, topology(), group)
        .expect("what was taken can be put in place");
    commit.finish().expect("memory takes a commit");
    let view = store.view().expect("it is there");
    for (other, key) in GROUPS.iter().zip(&before).filter(|(other, _)| **other != group) {
        assert_eq!(
            view.get(key).expect("it is there").as_deref(),
            Some(&b"old"[..]),
            "rows of group {group} replaced one of group {other}"
        );
    }
    let on = file("outgoing.rows", &[]);
    let digest = transfer::write(&on, &record, &view, topology(), group)
        .expect("the temporary directory takes files");
    assert_eq!(
        fs::read(&on).expect("it was just written"),
        bytes,
        "rows go on as others than they came"
    );
    assert_eq!(digest, *blake3::hash(bytes).as_bytes());
    true
}

/// Whatever stands in the file, a node that goes on to join has one id, and the same one at its
/// next start.
pub fn node_id(input: &[u8]) -> bool {
    let path = file("node-id", input);
    let dir = path.parent().expect("it is in a directory");
    match restore::node_id(dir, || NodeId(7)) {
        Ok(id) => {
            assert_ne!(id, NodeId(0), "0 is no node");
            assert_eq!(restore::node_id(dir, || panic!("an id was drawn a second time")), Ok(id));
            fs::read(&path).is_ok_and(|now| now == input)
        }
        Err(e) => {
            assert_eq!(e.kind, Kind::Corrupt, "{e:?}");
            false
        }
    }
}
