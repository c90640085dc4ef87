//! The store against crashes, rot, large rows and a second process.

use super::*;
use crate::base::disk;

/// Makes a store as programs of format 2 did: every row lies whole in one table, however large.
pub fn write_format_2(dir: &Path, identity: &[u8], rows: &[(&[u8], Vec<u8>)]) {
    let store = Store::create(dir, &disk::Machine, identity).unwrap();
    let commit = store.begin().unwrap();
    {
        let mut table = commit.txn.open_table(ROWS).unwrap();
        for (key, row) in rows {
            table.insert(*key, row.as_slice()).unwrap();
        }
    }
    commit.finish().unwrap();
    assert!(store.view().unwrap().pieces.is_none(), "format 2 had no pieces");
}

#[test]
fn rows_and_group_records_are_committed_together_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
        let mut commit = store.begin().unwrap();
        commit
            .rows([(&b"da"[..], Some(&b"1"[..])), (b"db", Some(b"2")), (b"da", None)].into_iter())
            .unwrap();
        commit.group(GroupId(3), b"three").unwrap();
        commit.finish().unwrap();
    }
    let store = Store::open(dir.path(), &disk::Machine).unwrap();
    let view = store.view().unwrap();
    assert_eq!(store.identity().unwrap(), "me");
    assert_eq!(view.get(b"da").unwrap(), None);
    assert_eq!(view.get(b"db").unwrap().unwrap(), "2");
    assert_eq!(view.group(GroupId(3)).unwrap().unwrap(), "three");
    let all: Vec<_> =
        view.range(&(b"d".to_vec()..b"e".to_vec())).unwrap().map(Result::unwrap).collect();
    assert_eq!(all, [(b"db".to_vec(), Bytes::from("2"))]);
}

#[test]
fn a_store_takes_about_the_room_that_was_foreseen_whatever_its_rows_are_like() {
    use std::os::unix::fs::MetadataExt as _;
    for (rows, value) in [
        (50_000u32, 10),
        (20_000, 100),
        (5000, 1000),
        (5000, 2100),
        (3000, 3900),
        (1000, 5000),
        (300, 20_000),
        (60, 100_000),
        (9, 1 << 20),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
        let value = vec![7; value];
        let keys: Vec<[u8; 4]> = (0..rows).map(u32::to_be_bytes).collect();
        let mut commit = store.begin().unwrap();
        for some in keys.chunks(1 + (1 << 20) / value.len()) {
            commit.load(keys::DATA, some.iter().map(|key| (&key[..], &value[..]))).unwrap();
        }
        commit.finish().unwrap();
        let (taken, foreseen) = (
            fs::metadata(Store::path_in(dir.path())).unwrap().blocks() * 512,
            room(rows.into(), u64::from(rows) * (5 + value.len() as u64)),
        );
        assert!(
            taken < foreseen + (1 << 20) && foreseen < taken + taken / 10,
            "{rows} rows of {}: {taken} bytes, and {foreseen} foreseen",
            value.len()
        );
    }
}

#[test]
fn rows_that_are_loaded_lie_where_inserted_ones_would_and_must_come_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
    let keys: Vec<Vec<u8>> = (0..5000u32).map(|n| n.to_be_bytes().to_vec()).collect();
    let some = |range: Range<usize>| keys[range].iter().map(|k| (k.as_slice(), &b"v"[..]));
    let mut commit = store.begin().unwrap();
    commit.rows([(&b"c"[..], Some(&b"1"[..])), (b"m", Some(b"2"))].into_iter()).unwrap();
    commit.load(keys::DATA, some(0..3000)).unwrap();
    commit.load(keys::DATA, some(3000..5000)).unwrap();
    commit.load(keys::DATA, some(0..0)).unwrap();
    assert_eq!(commit.load(keys::DATA, some(4999..5000)).unwrap_err().kind, Kind::Corrupt);
    assert_eq!(
        commit.load(keys::DATA, some(7..8).chain(some(6..7))).unwrap_err().kind,
        Kind::Corrupt
    );
    commit.finish().unwrap();
    let all: Vec<Vec<u8>> = store
        .view()
        .unwrap()
        .range(&(vec![0]..vec![255]))
        .unwrap()
        .map(|row| row.unwrap().0)
        .collect();
    let expected = [b"c".to_vec()]
        .into_iter()
        .chain(keys.iter().map(|k| self::keys::data(k)))
        .chain([b"m".to_vec()]);
    assert_eq!(all, expected.collect::<Vec<_>>());
}

#[test]
fn large_rows_come_and_go_with_all_their_pieces_and_take_little_more_than_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let topology = Topology::new(64, 32).unwrap();
    let key = |p: u16| keys::data(&[&p.to_be_bytes()[..], b"site\0\x01k"].concat());
    let large = |byte: u8, bytes: usize| {
        Bytes::from((0..bytes).map(|at| byte.wrapping_add((at / 251) as u8)).collect::<Vec<_>>())
    };
    let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
    let write = |rows: &[(Vec<u8>, Option<Bytes>)]| {
        let mut commit = store.begin().unwrap();
        commit.rows(rows.iter().map(|(k, v)| (k.as_slice(), v.as_deref()))).unwrap();
        commit.finish().unwrap();
    };
    let pieces = || {
        let view = store.view().unwrap();
        view.pieces.map_or(0, |pieces| redb::ReadableTableMetadata::len(&*pieces).unwrap())
    };
    let all = || {
        let view = store.view().unwrap();
        let range = vec![keys::DATA]..vec![keys::DATA + 1];
        let rows: Vec<_> = view.range(&range).unwrap().map(|row| row.unwrap()).collect();
        let mut seen = Vec::new();
        let mut see = |key: &[u8], row: &[u8]| {
            seen.push((key.to_vec(), Bytes::copy_from_slice(row)));
            Ok(())
        };
        view.each(&range, &mut see).unwrap();
        assert_eq!(rows, seen);
        assert!(rows.iter().all(|(key, row)| view.get(key).unwrap().as_ref() == Some(row)));
        rows
    };
    write(&[
        (key(0), Some(large(1, 300_000))),
        (key(1), Some(large(2, 1 << 20))),
        (key(2), Some(Bytes::from("small"))),
    ]);
    assert_eq!(
        all(),
        [(key(0), large(1, 300_000)), (key(1), large(2, 1 << 20)), (key(2), Bytes::from("small"))]
    );
    // Shorter, longer, small and gone: no piece stays behind.
    write(&[
        (key(0), Some(large(3, 70_000))),
        (key(1), Some(Bytes::from("small"))),
        (key(2), Some(large(4, 400_000))),
    ]);
    assert_eq!(
        all(),
        [(key(0), large(3, 70_000)), (key(1), Bytes::from("small")), (key(2), large(4, 400_000))]
    );
    write(&[(key(0), None), (key(1), Some(large(5, 33_000)))]);
    let mut commit = store.begin().unwrap();
    commit.load(keys::DATA, [(&key(3)[1..], &large(6, 90_000)[..])].into_iter()).unwrap();
    commit.finish().unwrap();
    assert_eq!(
        all(),
        [(key(1), large(5, 33_000)), (key(2), large(4, 400_000)), (key(3), large(6, 90_000))]
    );
    let mut commit = store.begin().unwrap();
    (0..2).for_each(|group| commit.clear_group(topology, GroupId(group)).unwrap());
    commit.finish().unwrap();
    assert_eq!((all(), pieces()), (Vec::new(), 0));
    let rows: Vec<_> = (0..48u16)
        .map(|n| {
            (keys::data(&[&n.to_be_bytes()[..], b"k"].concat()), Some(large(7, (1 << 20) + 70)))
        })
        .collect();
    rows.chunks(8).for_each(&write);
    let file = fs::metadata(Store::path_in(dir.path())).unwrap().len();
    assert!(file < 48 * (1 << 20) * 3 / 2, "48 MiB of rows take {file} bytes");
}

#[test]
fn a_second_process_on_a_store_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Claim::on(dir.path()).unwrap();
    let second = Claim::on(dir.path()).unwrap_err();
    assert_eq!(second.kind, Kind::Conflict);
    assert!(second.message.contains("in use by another devicedb process"), "{second}");
}

#[test]
fn clearing_a_group_leaves_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let topology = Topology::new(64, 32).unwrap();
    let store = Store::create(dir.path(), &disk::Machine, b"me").unwrap();
    let row = |p: u16| keys::data(&[&p.to_be_bytes()[..], b"site\0\x01k"].concat());
    let mut commit = store.begin().unwrap();
    let rows: Vec<_> = (0..6).map(row).collect();
    commit.rows(rows.iter().map(|k| (k.as_slice(), Some(&b"v"[..])))).unwrap();
    commit.clear_group(topology, GroupId(1)).unwrap();
    commit.finish().unwrap();
    let view = store.view().unwrap();
    let left: Vec<bool> = rows.iter().map(|k| view.get(k).unwrap().is_some()).collect();
    assert_eq!(left, [true, true, false, false, true, true]);
}

/// A store of some rows, closed as a node that stops closes it, or left as one that is killed
/// leaves it; and its rows after each commit.
fn filled(dir: &Path, killed: bool) -> Vec<Vec<(Vec<u8>, Bytes)>> {
    let store = Store::create(dir, &disk::Machine, b"me").unwrap();
    let row = |n: u32| {
        (
            keys::data(format!("{:05}", n * 7919 % 10_000).as_bytes()),
            Bytes::from(vec![n as u8; (n * 13 % 700) as usize]),
        )
    };
    let mut rows: Vec<_> = (0..600).map(row).collect();
    rows.push((keys::data(b"large"), Bytes::from(vec![9; 20_000])));
    rows.push((keys::data(b"larger"), Bytes::from(vec![8; 150_000])));
    let mut after = Vec::new();
    for (turn, some) in rows.chunks(200).enumerate() {
        let mut commit = store.begin().unwrap();
        commit
            .rows(some.iter().map(|(key, value)| (key.as_slice(), Some(value.as_ref()))))
            .unwrap();
        commit.group(GroupId(3), b"three").unwrap();
        commit.finish().unwrap();
        let mut so_far = rows[..turn * 200 + some.len()].to_vec();
        so_far.sort();
        after.push(so_far);
    }
    if killed {
        std::fs::copy(Store::path_in(dir), dir.join("killed")).unwrap();
        drop(store);
        std::fs::rename(dir.join("killed"), Store::path_in(dir)).unwrap();
    }
    after
}

fn all_of(dir: &Path) -> Result<Vec<(Vec<u8>, Bytes)>> {
    let store = Store::open(dir, &disk::Machine)?;
    let view = store.view()?;
    assert_eq!(store.identity()?, "me");
    assert_eq!(view.group(GroupId(3))?.unwrap(), "three");
    let rows = view.range(&(vec![keys::DATA]..vec![keys::DATA + 1]))?.collect::<Result<Vec<_>>>();
    assert_eq!(rows.is_err(), view.whole().is_err());
    rows
}

#[test]
fn a_bit_that_rots_in_any_page_is_noticed_or_of_no_account() {
    for killed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (after, path) = (filled(dir.path(), killed), Store::path_in(dir.path()));
        let whole = std::fs::read(&path).unwrap();
        let used: Vec<usize> = (0..whole.len() / 4096)
            .filter(|block| {
                *block != 1 && whole[block * 4096..][..4096].iter().any(|byte| *byte != 0)
            })
            .collect();
        let mut noticed = 0;
        for (turn, block) in used.iter().enumerate() {
            let mut rotten = whole.clone();
            rotten[block * 4096 + turn * 1237 % 4096] ^= 1 << (turn % 8);
            std::fs::write(&path, rotten).unwrap();
            match all_of(dir.path()) {
                // A repair that finds the last commit damaged takes it for one that the crash
                // tore, and goes back to the one before.
                Ok(read) => assert!(
                    after[after.len() - 1 - usize::from(killed)..].contains(&read),
                    "block {block}"
                ),
                Err(e) => {
                    assert_eq!(e.kind, Kind::Corrupt, "block {block}: {e}");
                    assert!(e.message.contains(&path.display().to_string()), "{e}");
                    noticed += 1;
                }
            }
        }
        assert!(noticed > used.len() / 4, "{noticed} of {}", used.len());
    }
}
