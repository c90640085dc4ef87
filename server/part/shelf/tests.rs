//! What stands on disk after each deed of the shelf, and after each that failed.

use std::{fs, path::Path, sync::Arc};

use super::{left::Left, *};
use crate::{
    base::{
        clock::Random,
        error::Kind,
        ids::{ClusterId, NodeId},
    },
    part::sample::{LINEAGE, Sample, owner, snapshot},
};

fn chunk_files(store: &Path, node: u64) -> usize {
    let dirs = fs::read_dir(store.join(format!("node-{node}/chunks"))).unwrap();
    dirs.map(|dir| fs::read_dir(dir.unwrap().path()).unwrap().count()).sum()
}

fn files_aside(store: &Path, node: u64) -> usize {
    fs::read_dir(store.join(format!("node-{node}/aside"))).unwrap().count()
}

/// A store with a shelf of node 1.
fn shelf() -> (tempfile::TempDir, Arc<Shelf>) {
    let store = tempfile::tempdir().unwrap();
    let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
    (store, shelf)
}

fn first() -> Sample {
    Sample::new(1)
}

/// Of the next snapshot, with other rows in some partitions.
fn second() -> Sample {
    Sample { snapshot: snapshot(2), seq: 2, seed: 2, ..Sample::new(1) }
}

fn whole(shelf: &Arc<Shelf>, snapshot: SnapshotId) {
    let hold = shelf.hold(snapshot).unwrap();
    for entry in &hold.manifest().chunks {
        hold.open(entry).unwrap();
    }
}

#[test]
fn a_store_that_cannot_be_used_is_refused_by_name() {
    let store = tempfile::tempdir().unwrap();
    let absent = store.path().join("absent");
    let error = Shelf::open(&absent, &owner(1)).unwrap_err();
    assert_eq!(
        (error.kind, error.message),
        (
            Kind::Invalid,
            format!(
                "snapshot store {} does not exist; create the directory first",
                absent.display()
            )
        )
    );
    assert!(!absent.exists(), "it was created");
    let file = store.path().join("file");
    fs::write(&file, b"").unwrap();
    assert!(Shelf::open(&file, &owner(1)).unwrap_err().message.contains("is not a directory"));
    fs::write(store.path().join("node-1"), b"in the way").unwrap();
    assert!(Shelf::open(store.path(), &owner(1)).unwrap_err().message.contains("node-1"));
}

#[test]
fn a_corner_in_use_is_refused_by_name_and_left_as_it_is() {
    let (store, shelf) = shelf();
    first().shelve(&shelf);
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    second().fill(&mut writer);
    let aside = store.path().join("node-1/aside/17");
    fs::write(&aside, b"half a chunk").unwrap();
    let before = chunk_files(store.path(), 1);
    // As a node of a cluster that was restored beside this one.
    let drill = Owner { lineage: Lineage::PENDING, address: "elsewhere:8080".into(), ..owner(1) };
    let error = Shelf::open(store.path(), &drill).unwrap_err();
    let says = |what: &str| assert!(error.message.contains(what), "{what}: {error}");
    [
        store.path().join("node-1").to_str().unwrap(),
        "node-1:8080",
        "lineage 000000000000abcd",
        "another --snapshot-store",
    ]
    .into_iter()
    .for_each(says);
    assert_eq!(error.kind, Kind::Conflict);
    assert!(aside.exists() && chunk_files(store.path(), 1) == before);
    writer.finish(second().part().0).unwrap();
    whole(&shelf, snapshot(2));
    // When it is free, it is taken with all that lies there; another cluster never takes it.
    drop(shelf);
    let stranger = Owner { cluster: ClusterId(Random::seeded(5).uuid()), ..owner(1) };
    let error = Shelf::open(store.path(), &stranger).unwrap_err();
    assert!(
        error.kind == Kind::Conflict && error.message.contains("another --snapshot-store"),
        "{error}"
    );
    let restored = Shelf::open(store.path(), &drill).unwrap();
    restored.set_lineage(Lineage(0xBEEF)).unwrap();
    assert_eq!(restored.list().len(), 2);
    let error = Shelf::open(store.path(), &owner(1)).unwrap_err();
    assert!(
        error.message.contains("elsewhere:8080")
            && error.message.contains("lineage 000000000000beef"),
        "{error}"
    );
}

#[test]
fn an_owner_that_cannot_be_read_is_as_good_as_none() {
    let (store, shelf) = shelf();
    drop(shelf);
    let file = store.path().join("node-1/owner.json");
    for text in ["", "{", "{\"cluster\":7}", "null"] {
        fs::write(&file, text).unwrap();
        drop(Shelf::open(store.path(), &owner(1)).unwrap());
    }
    assert!(fs::read_to_string(&file).unwrap().contains("\"lineage\":\"000000000000abcd\""));
}

#[test]
fn a_delete_leaves_a_part_of_another_history_and_its_chunks() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    shelf.set_lineage(Lineage(0xBEEF)).unwrap();
    let mut manifest = second().part().0;
    manifest.lineage = Lineage(0xBEEF);
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    second().fill(&mut writer);
    writer.finish(manifest).unwrap();
    assert!(!shelf.delete(snapshot(1), Lineage(0xBEEF)).unwrap());
    // Chunks that both histories name stay when the part of one of them goes.
    assert!(shelf.delete(snapshot(2), Lineage(0xBEEF)).unwrap());
    whole(&shelf, snapshot(1));
    assert_eq!(chunk_files(store.path(), 1), one.manifest.chunks.len());
    let refused = shelf.begin(snapshot(1)).unwrap_err();
    assert!(
        refused.message.contains("of lineage 000000000000abcd")
            && refused.message.contains("under another uuid"),
        "{refused}"
    );
    assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
    assert_eq!(chunk_files(store.path(), 1), 0);
}

#[test]
fn a_look_finds_what_is_missing_or_of_another_size_and_a_delete_waits_for_it() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let path = |i: usize| shelf.chunk_path(one.manifest.chunks[i].hash);
    shelf.hold(snapshot(1)).unwrap().look().unwrap();
    fs::write(path(2), b"short").unwrap();
    let error = shelf.hold(snapshot(1)).unwrap().look().unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(
        error.message.contains(path(2).to_str().unwrap())
            && error.message.ends_with("that were written"),
        "{error}"
    );
    fs::remove_file(path(0)).unwrap();
    let error = shelf.hold(snapshot(1)).unwrap().look().unwrap_err();
    assert!(
        error.message.contains(path(0).to_str().unwrap())
            && error.message.ends_with("is missing; so are 1 more"),
        "{error}"
    );
    fs::remove_file(store.path().join(format!("node-1/snapshots/{}/manifest.json", snapshot(1))))
        .unwrap();
    let error = shelf.hold(snapshot(1)).unwrap_err();
    assert!(
        error.kind == Kind::Corrupt && error.message.ends_with("manifest.json is missing"),
        "{error}"
    );
}

#[test]
fn a_store_that_was_emptied_is_opened_anew_while_the_old_one_is_still_read() {
    let (store, shelf) = shelf();
    first().shelve(&shelf);
    let hold = shelf.hold(snapshot(1)).unwrap();
    fs::remove_dir_all(store.path().join("node-1")).unwrap();
    assert!(!shelf.stands_on_disk());
    let again = shelf.reopen(store.path()).unwrap();
    assert!(again.list().is_empty() && again.stands_on_disk());
    // The directories alone were taken: the lock is still the one that others meet.
    fs::remove_dir_all(store.path().join("node-1/chunks")).unwrap();
    let once_more = again.reopen(store.path()).unwrap();
    drop((hold, shelf, again));
    assert_eq!(Shelf::open(store.path(), &owner(1)).unwrap_err().kind, Kind::Conflict);
    drop(once_more);
    Shelf::open(store.path(), &owner(1)).unwrap();
}

#[test]
fn a_finished_part_is_there_after_a_restart_and_is_never_overwritten() {
    let (store, shelf) = shelf();
    let finished = first().shelve(&shelf);
    assert_eq!(
        finished.manifest,
        first().part().0,
        "the table of chunks was not filled as it should be"
    );
    assert_eq!(finished.bytes_written, finished.info.stored_bytes);
    assert_eq!(shelf.begin(snapshot(1)).unwrap_err().kind, Kind::Conflict);
    drop(shelf);
    let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
    assert_eq!(shelf.list(), std::slice::from_ref(&finished.info));
    assert_eq!(shelf.manifest(snapshot(1)).unwrap(), finished.manifest);
    assert_eq!(shelf.begin(snapshot(1)).unwrap_err().kind, Kind::Conflict);
    assert_eq!(shelf.hold(snapshot(1)).unwrap().digest(), finished.info.digest);
    whole(&shelf, snapshot(1));
    assert_eq!(files_aside(store.path(), 1), 0);
}

#[test]
fn chunks_that_are_there_are_not_written_again() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let before = chunk_files(store.path(), 1);
    let two = second().shelve(&shelf);
    assert!(
        two.bytes_written > 0 && two.bytes_written < one.bytes_written / 4,
        "{} of {}",
        two.bytes_written,
        one.bytes_written
    );
    let new = two.manifest.chunks.iter().filter(|c| one.manifest.entry(c.hash).is_none()).count();
    assert_eq!(chunk_files(store.path(), 1), before + new);
    let same = Sample { snapshot: snapshot(3), seq: 3, ..second() }.shelve(&shelf);
    assert_eq!(same.bytes_written, 0);
}

#[test]
fn a_delete_takes_only_what_no_other_part_names() {
    let (store, shelf) = shelf();
    first().shelve(&shelf);
    let two = second().shelve(&shelf);
    assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
    assert!(!shelf.delete(snapshot(1), LINEAGE).unwrap());
    assert_eq!(chunk_files(store.path(), 1), two.manifest.chunks.len());
    whole(&shelf, snapshot(2));
    assert_eq!(shelf.manifest(snapshot(1)).unwrap_err().kind, Kind::NotFound);
    assert_eq!(shelf.hold(snapshot(1)).unwrap_err().kind, Kind::NotFound);
    assert!(shelf.delete(snapshot(2), LINEAGE).unwrap());
    assert_eq!(chunk_files(store.path(), 1), 0);
    assert!(shelf.list().is_empty());
    first().shelve(&shelf);
    whole(&shelf, snapshot(1));
}

#[test]
fn a_delete_waits_for_whoever_reads_the_part() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let (a, b) = (shelf.hold(snapshot(1)).unwrap(), shelf.hold(snapshot(1)).unwrap());
    assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
    assert!(shelf.list().is_empty());
    drop(a);
    assert_eq!(chunk_files(store.path(), 1), one.manifest.chunks.len());
    b.open(&one.manifest.chunks[0]).unwrap();
    drop(b);
    assert_eq!(chunk_files(store.path(), 1), 0);
}

#[test]
fn a_delete_takes_nothing_that_a_writer_counts_on() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    let (manifest, chunks) = second().part();
    // Half of what is there is counted on by name, the other half by bytes.
    for (i, chunk) in chunks.iter().enumerate() {
        if i % 2 == 0 || !writer.reuse(chunk.hash).unwrap() {
            writer.chunk(chunk).unwrap();
        }
        if i == chunks.len() / 2 {
            assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
        }
    }
    let two = writer.finish(manifest).unwrap();
    whole(&shelf, snapshot(2));
    assert_eq!(chunk_files(store.path(), 1), two.manifest.chunks.len());
    assert!(two.bytes_written < one.bytes_written, "nothing was shared");
}

#[test]
fn deletes_and_writers_on_many_threads_never_lose_a_chunk() {
    let (store, shelf) = shelf();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let shelf = shelf.clone();
            scope.spawn(move || {
                for round in 0..6 {
                    let n = 100 * thread + round;
                    // All share most chunks, so that what one deletes another is just counting on.
                    let sample = Sample {
                        snapshot: snapshot(n),
                        seq: 1 + n,
                        seed: n % 3,
                        rows: 10,
                        ..Sample::new(1)
                    };
                    sample.shelve(&shelf);
                    whole(&shelf, snapshot(n));
                    if round % 3 != 0 {
                        assert!(shelf.delete(snapshot(n), LINEAGE).unwrap());
                    }
                }
            });
        }
    });
    assert_eq!(shelf.list().len(), 8);
    shelf.list().iter().for_each(|part| whole(&shelf, part.snapshot));
    for part in shelf.list() {
        assert!(shelf.delete(part.snapshot, LINEAGE).unwrap());
    }
    assert_eq!((chunk_files(store.path(), 1), files_aside(store.path(), 1)), (0, 0));
}

#[test]
fn a_part_given_up_leaves_nothing() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    assert_eq!(shelf.begin(snapshot(2)).unwrap_err().kind, Kind::Conflict);
    second().fill(&mut writer);
    assert!(chunk_files(store.path(), 1) > one.manifest.chunks.len());
    writer.abandon();
    assert_eq!(chunk_files(store.path(), 1), one.manifest.chunks.len());
    whole(&shelf, snapshot(1));
    second().shelve(&shelf);
    whole(&shelf, snapshot(2));
}

#[test]
fn a_part_deleted_while_it_is_written_does_not_appear() {
    let (store, shelf) = shelf();
    let mut writer = shelf.begin(snapshot(1)).unwrap();
    first().fill(&mut writer);
    assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
    assert_eq!(writer.reuse(ChunkHash([0; 32])).unwrap_err().kind, Kind::Conflict);
    assert_eq!(writer.finish(first().part().0).unwrap_err().kind, Kind::Conflict);
    assert!(shelf.list().is_empty());
    assert_eq!((chunk_files(store.path(), 1), files_aside(store.path(), 1)), (0, 0));
}

#[test]
fn a_manifest_that_names_other_chunks_than_were_written_is_refused() {
    let (store, shelf) = shelf();
    let mut writer = shelf.begin(snapshot(1)).unwrap();
    for chunk in &first().part().1[1..] {
        writer.chunk(chunk).unwrap();
    }
    let error = writer.finish(first().part().0).unwrap_err();
    assert!(error.message.contains("is not in the table of chunks"), "{error}");
    assert_eq!(
        shelf.begin(snapshot(1)).unwrap().finish(second().part().0).unwrap_err().kind,
        Kind::Invalid
    );
    assert_eq!((chunk_files(store.path(), 1), files_aside(store.path(), 1)), (0, 0));
    // Chunks of a group that is left out in the end are given back.
    let mut writer = shelf.begin(snapshot(1)).unwrap();
    first().fill(&mut writer);
    let fewer = Sample { groups: vec![3], ..first() }.part().0;
    let finished = writer.finish(fewer.clone()).unwrap();
    assert_eq!(
        (finished.manifest, chunk_files(store.path(), 1)),
        (fewer.clone(), fewer.chunks.len())
    );
}

#[test]
fn what_a_crash_leaves_is_taken_away_and_nothing_else() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    second().fill(&mut writer);
    // What stands on disk while it is written is what a crash leaves, but for the lock.
    let crashed = tempfile::tempdir().unwrap();
    assert!(
        std::process::Command::new("cp")
            .arg("-r")
            .arg(store.path().join("node-1"))
            .arg(crashed.path())
            .status()
            .unwrap()
            .success()
    );
    drop((writer, shelf));
    let store = crashed;
    let home = store.path().join("node-1");
    fs::write(home.join("aside/17"), b"half a chunk").unwrap();
    fs::create_dir(home.join(format!("snapshots/{}", snapshot(2)))).unwrap();
    fs::create_dir(home.join("snapshots/notes")).unwrap();
    let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
    assert_eq!(
        (chunk_files(store.path(), 1), files_aside(store.path(), 1)),
        (one.manifest.chunks.len(), 0)
    );
    assert!(!home.join(format!("snapshots/{}", snapshot(2))).exists());
    assert!(home.join("snapshots/notes").exists());
    whole(&shelf, snapshot(1));
    second().shelve(&shelf);
}

#[test]
fn nodes_that_use_the_same_directory_share_nothing() {
    let store = tempfile::tempdir().unwrap();
    let (a, b) = (
        Shelf::open(store.path(), &owner(1)).unwrap(),
        Shelf::open(store.path(), &owner(2)).unwrap(),
    );
    let one = first().shelve(&a);
    let mut writer = a.begin(snapshot(2)).unwrap();
    second().fill(&mut writer);
    let two = Sample::new(2).shelve(&b);
    assert_eq!(two.bytes_written, one.bytes_written, "it counts on another node's chunks");
    assert!(b.delete(snapshot(1), LINEAGE).unwrap());
    drop(b);
    drop(Shelf::open(store.path(), &owner(2)).unwrap());
    whole(&a, snapshot(1));
    writer.finish(second().part().0).unwrap();
    whole(&a, snapshot(2));
    assert_eq!(chunk_files(store.path(), 2), 0);
}

#[test]
fn a_damaged_chunk_is_written_anew_when_its_rows_come_again() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let damage = |i: usize, data: Option<&[u8]>| {
        let path = shelf.chunk_path(one.manifest.chunks[i].hash);
        match data {
            Some(data) => fs::write(path, data).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    };
    damage(0, Some(b"short"));
    damage(1, None);
    damage(2, Some(&vec![0; one.manifest.chunks[2].stored_bytes as usize]));
    let hold = shelf.hold(snapshot(1)).unwrap();
    let error = hold.open(&one.manifest.chunks[0]).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(
        error.message.contains(&one.manifest.chunks[0].hash.to_string())
            && error.message.contains("5 bytes"),
        "{error}"
    );
    assert!(hold.open(&one.manifest.chunks[1]).unwrap_err().message.contains("is missing"));
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    assert!(!writer.reuse(one.manifest.chunks[0].hash).unwrap());
    assert!(!writer.reuse(one.manifest.chunks[1].hash).unwrap());
    for chunk in first().part().1 {
        let written = writer.chunk(&chunk).unwrap();
        let damaged = one.manifest.position(chunk.hash).unwrap() < 3;
        assert_eq!(written > 0, damaged);
    }
    writer.abandon();
    drop(hold);
    for entry in &one.manifest.chunks {
        entry.open(&fs::read(shelf.chunk_path(entry.hash)).unwrap(), None).unwrap();
    }
    drop(store);
}

#[test]
fn no_chunk_is_removed_while_a_manifest_cannot_be_read() {
    let (store, shelf) = shelf();
    let one = first().shelve(&shelf);
    let two = second().shelve(&shelf);
    let both = chunk_files(store.path(), 1);
    drop(shelf);
    let manifest = store.path().join(format!("node-1/snapshots/{}/manifest.json", snapshot(1)));
    let text = fs::read(&manifest).unwrap();
    fs::write(&manifest, &text[..text.len() - 1]).unwrap();
    let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
    assert_eq!(
        (shelf.damaged()[0].0, shelf.damaged().len(), shelf.list().len()),
        (snapshot(1), 1, 1)
    );
    assert_eq!(shelf.hold(snapshot(1)).unwrap_err().kind, Kind::Corrupt);
    assert_eq!(shelf.begin(snapshot(1)).unwrap_err().kind, Kind::Conflict);
    assert!(shelf.delete(snapshot(2), LINEAGE).unwrap());
    assert_eq!(
        chunk_files(store.path(), 1),
        both,
        "chunks went that the unreadable manifest may name"
    );
    drop(shelf);
    fs::write(&manifest, &text).unwrap();
    let again = Shelf::open(store.path(), &owner(1)).unwrap();
    whole(&again, snapshot(1));
    assert_eq!(chunk_files(store.path(), 1), one.manifest.chunks.len());
    drop(again);
    fs::write(&manifest, b"").unwrap();
    let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
    second().shelve(&shelf);
    assert!(shelf.delete(snapshot(1), LINEAGE).unwrap());
    assert!(shelf.damaged().is_empty());
    assert_eq!(chunk_files(store.path(), 1), two.manifest.chunks.len());
}

#[test]
fn a_write_that_fails_says_where_and_gives_its_space_back() {
    let (store, shelf) = shelf();
    let chunks = first().part().1;
    let blocked = shelf.chunk_path(chunks[5].hash).parent().unwrap().to_owned();
    fs::write(&blocked, b"a file where a directory should be").unwrap();
    let mut writer = shelf.begin(snapshot(1)).unwrap();
    let error = chunks
        .iter()
        .map(|chunk| writer.chunk(chunk))
        .find_map(Result::err)
        .expect("the disk is in the way");
    assert!(error.message.contains(blocked.to_str().unwrap()), "{error}");
    drop(writer);
    fs::remove_file(blocked).unwrap();
    assert_eq!((chunk_files(store.path(), 1), files_aside(store.path(), 1)), (0, 0));
    first().shelve(&shelf);
    // A manifest that cannot be put in place.
    fs::write(shelf.snapshots_dir().join(snapshot(2).to_string()), b"in the way").unwrap();
    let mut writer = shelf.begin(snapshot(2)).unwrap();
    second().fill(&mut writer);
    assert!(writer.finish(second().part().0).is_err());
    assert_eq!((shelf.list().len(), files_aside(store.path(), 1)), (1, 0));
    assert_eq!(chunk_files(store.path(), 1), shelf.manifest(snapshot(1)).unwrap().chunks.len());
}

/// Needs the right to mount; says so where it has none.
#[test]
fn a_full_disk_is_exhausted_and_its_space_comes_back() {
    let store = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        std::process::Command::new(args[0])
            .args(&args[1..])
            .arg(store.path())
            .output()
            .is_ok_and(|o| o.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs"]) {
        eprintln!("not shown here: a tmpfs cannot be mounted");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let shelf = Shelf::open(store.path(), &owner(1)).unwrap();
        let mut writer = shelf.begin(snapshot(1)).unwrap();
        let mut error = None;
        for n in 0..10_000u32 {
            let row =
                (n.to_be_bytes().to_vec(), blake3::hash(&n.to_be_bytes()).as_bytes().repeat(10));
            error = crate::part::sample::chunks_of(&[row])
                .iter()
                .find_map(|chunk| writer.chunk(chunk).err());
            if error.is_some() {
                break;
            }
        }
        let error = error.expect("the disk is small");
        assert_eq!(error.kind, Kind::Exhausted);
        assert!(error.message.contains(store.path().to_str().unwrap()), "{error}");
        writer.abandon();
        assert_eq!((chunk_files(store.path(), 1), files_aside(store.path(), 1)), (0, 0));
        Sample { groups: vec![0], rows: 3, ..Sample::new(1) }.shelve(&shelf);
        whole(&shelf, snapshot(1));
    });
    assert!(mount(&["umount"]));
    outcome.unwrap();
}

#[test]
fn what_a_former_node_has_left_is_found_and_removed_and_nothing_of_anybody_else() {
    let store = tempfile::tempdir().unwrap();
    let path = store.path();
    for node in [1, 2, 3] {
        let shelf = Shelf::open(path, &owner(node)).unwrap();
        Sample { node: NodeId(node), ..first() }.shelve(&shelf);
        Sample { node: NodeId(node), ..second() }.shelve(&shelf);
    }
    let stranger = Owner { cluster: ClusterId(uuid::Uuid::from_u128(9)), ..owner(4) };
    Sample { node: NodeId(4), ..first() }.shelve(&Shelf::open(path, &stranger).unwrap());
    fs::create_dir(path.join("node-5")).unwrap();
    let members = [NodeId(1)].into();
    let left = Left { store: path, cluster: owner(1).cluster, members: &members };
    let found = |only| -> Vec<(u64, SnapshotId)> {
        let parts = left.parts(only).unwrap();
        parts.into_iter().map(|part| (part.node.0, part.snapshot)).collect()
    };
    let [one, two] = [1, 2].map(snapshot);
    assert_eq!(found(None), [(2, one), (2, two), (3, one), (3, two)]);
    assert_eq!(found(Some(two)), [(2, two), (3, two)]);
    let info = left.parts(Some(one)).unwrap().remove(0).found.unwrap();
    assert_eq!((info.lineage, info.snapshot), (LINEAGE, one));

    let other = Lineage(LINEAGE.0 + 1);
    assert_eq!(left.remove(NodeId(2), one, other), Ok(false), "another history wrote it");
    assert_eq!(left.remove(NodeId(1), one, LINEAGE), Ok(false), "its node is a member");
    assert_eq!(left.remove(NodeId(4), one, LINEAGE), Ok(false), "it is of another cluster");
    let (chunks, user) = (chunk_files(path, 3), Shelf::open(path, &owner(3)).unwrap());
    let refused = left.remove(NodeId(3), one, LINEAGE).unwrap_err();
    assert!(refused.kind == Kind::Conflict && refused.message.contains("is in use by node 3"));
    drop(user);
    assert_eq!(found(None).len(), 4);
    assert_eq!(left.remove(NodeId(3), one, LINEAGE), Ok(true));
    assert!(chunk_files(path, 3) < chunks, "chunks of the other part stay");
    whole(&Shelf::open(path, &owner(3)).unwrap(), two);
    fs::write(path.join(format!("node-2/snapshots/{two}/manifest.json")), "{").unwrap();
    assert_eq!(left.parts(Some(two)).unwrap()[0].found.clone().unwrap_err().kind, Kind::Corrupt);
    assert_eq!(left.remove(NodeId(2), two, Lineage::PENDING), Ok(true));
    assert_eq!(found(None), [(2, one), (3, two)]);
}
