//! What several parts are together: what they cover, and which do not belong.

use std::fs;

use super::*;
use crate::{
    base::ids::Lineage,
    part::sample::{Sample, snapshot},
};

/// Parts of nodes 1, 2 and u64::MAX, as directories.
fn parts(change: impl Fn(&mut Sample)) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
    for (path, node) in paths.iter().zip([1, 2, u64::MAX]) {
        let mut sample = Sample::new(node);
        change(&mut sample);
        sample.extract(path);
    }
    (dir, paths.to_vec())
}

fn text(report: &Report, dir: &tempfile::TempDir) -> String {
    report.to_string().replace(&format!("{}/", dir.path().display()), "")
}

fn rewrite(path: &Path, change: impl Fn(&mut Manifest)) {
    let mut manifest = Manifest::parse(&fs::read(path.join("manifest.json")).unwrap()).unwrap().0;
    change(&mut manifest);
    fs::write(path.join("manifest.json"), manifest.encode().unwrap().0).unwrap();
}

#[test]
fn parts_of_all_nodes_are_sound_together() {
    let (dir, paths) = parts(|_| {});
    let report = verify_set(&paths, None);
    assert!(report.sound && report.complete);
    assert_eq!((report.partitions_covered, report.copies_min, report.meta_copies), (64, 3, 3));
    assert!(
        text(&report, &dir).ends_with(
            "Sound parts cover all 64 partitions, each at least 3 times.\nThe snapshot is sound, \
             and these parts bring the cluster back."
        ),
        "{report}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["parts"][2]["part"]["node_id"], "18446744073709551615");
    assert_eq!(json["uuid"], snapshot(1).to_string());
}

#[test]
fn one_part_is_judged_by_itself_and_two_by_what_they_bring_back() {
    let (dir, paths) = parts(|_| {});
    let report = verify_set(&paths[..1], None);
    assert!(report.sound && report.complete && !report.restorable);
    assert!(
        text(&report, &dir).ends_with(
            "The part is sound. Alone it does not bring the cluster back: verify it together with \
             the others."
        ),
        "{report}"
    );
    let report = verify_set(&paths[..2], None);
    assert!(report.sound && report.restorable, "two of three voters are a majority: {report}");
}

#[test]
fn a_broken_part_is_told_apart_from_what_the_others_still_cover() {
    let (dir, paths) = parts(|_| {});
    let hash = Sample::new(2).part().0.chunks[0].hash;
    fs::remove_file(paths[1].join(format!("chunks/{hash}"))).unwrap();
    let report = verify_set(&paths, None);
    assert!(!report.sound && report.complete);
    assert_eq!((report.copies_min, report.groups_without_majority.len()), (2, 0));
    assert!(
        text(&report, &dir).contains(
            "Something is wrong, but the other parts still bring the cluster back. Leave out "
        ),
        "{report}"
    );
    fs::write(paths[0].join("manifest.json"), b"{").unwrap();
    let report = verify_set(&paths, None);
    assert!(!report.sound && report.complete && !report.restorable, "one part has everything");
    assert!(
        text(&report, &dir).ends_with(
            "Something is wrong. The sound parts have everything, but DO NOT bring the cluster \
             back."
        ),
        "{report}"
    );
    assert_eq!(report.groups_without_majority, ["0", "1", "2", "3", "4", "5", "6", "7", "meta"]);
    fs::remove_file(paths[2].join(format!("chunks/{hash}"))).unwrap();
    let report = verify_set(&paths, None);
    assert!(!report.complete);
    assert_eq!(
        (report.partitions, report.partitions_covered, report.partitions_missing),
        (64, 0, vec![(0, 63)])
    );
}

#[test]
fn partitions_that_no_part_has_are_named() {
    let (dir, paths) = parts(|sample| {
        sample.groups.retain(|group| ![2, 3, 7].contains(group));
        sample.meta = false;
    });
    let report = verify_set(&paths, None);
    assert!(!report.sound && !report.complete);
    let text = text(&report, &dir);
    let told = text.lines().skip(3).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            "Sound parts cover 40 of 64 partitions; missing are 16-31, 56-63.",
            "No sound part has the meta group.",
            "Groups that a majority of their voters cannot be restored for: 0-7, meta.",
            "Nothing is wrong with the parts, but they DO NOT have everything: others of this \
             snapshot are needed.",
        ]
    );
}

#[test]
fn partitions_are_covered_by_different_parts_together() {
    let (_dir, paths) = parts(|sample| {
        let odd = sample.node.0 % 2 == 1;
        sample.groups.retain(|group| (group % 2 == 1) == odd);
        sample.meta = !odd;
    });
    let report = verify_set(&paths, None);
    assert!(!report.sound && report.complete && !report.restorable, "{report}");
    assert!(
        report.to_string().ends_with(
            "Nothing is wrong with the parts, but they DO NOT bring the cluster back: others of \
             this snapshot are needed."
        ),
        "{report}"
    );
    assert_eq!((report.copies_min, report.meta_copies), (1, 1));
    assert_eq!(report.groups_without_majority, ["0", "1", "2", "3", "4", "5", "6", "7", "meta"]);
}

#[test]
fn a_node_whose_part_lacks_the_meta_group_does_not_count_for_a_majority() {
    let (dir, paths) = parts(|sample| sample.meta = sample.node.0 == 1);
    let report = verify_set(&paths, None);
    assert!(!report.sound && report.complete && !report.restorable, "{report}");
    assert!(
        text(&report, &dir).contains(
            "c lacks the meta group: its node cannot be restored, and comes back with an empty \
             store and --join"
        ),
        "{report}"
    );
    let (_dir, paths) = parts(|sample| sample.meta = sample.node.0 != 2);
    let report = verify_set(&paths, None);
    assert!(report.sound && report.restorable, "{report}");
}

#[test]
fn parts_that_do_not_belong_together_are_named_and_do_not_count() {
    let (dir, paths) = parts(|_| {});
    type Change = fn(&mut Manifest);
    let changes: [Change; 4] = [
        |m| m.snapshot = snapshot(2),
        |m| m.lineage = Lineage(7),
        |m| m.cluster.0 = snapshot(3).0,
        |m| m.seq.0 = 9,
    ];
    for change in changes {
        let original = fs::read(paths[0].join("manifest.json")).unwrap();
        rewrite(&paths[0], change);
        let report = verify_set(&paths, None);
        assert!(!report.sound && report.complete && !report.parts[0].sound);
        assert_eq!((report.copies_min, report.problems.count()), (2, 1));
        assert!(text(&report, &dir).contains("  a: it is of snapshot "), "{report}");
        fs::write(paths[0].join("manifest.json"), original).unwrap();
    }
    let report = verify_set(&[&paths[0], &paths[1], &paths[0]], None);
    assert!(!report.sound && report.complete);
    assert!(report.problems.list[0].what.starts_with("it is of node 1, as is "));
    assert_eq!(report.copies_min, 2);
}

#[test]
fn replicas_that_differ_are_named() {
    let (dir, paths) = parts(|sample| sample.seed = sample.node.0 % 2);
    let report = verify_set(&paths, None);
    assert!(!report.sound, "{report}");
    let text = text(&report, &dir);
    assert!(text.contains("\nThe parts do not fit together:\n  b: partition 0 is of "), "{text}");
    rewrite(&paths[0], |m| m.groups[5].mark_index += 1);
    rewrite(&paths[0], |m| m.meta.as_mut().unwrap().mark_term += 1);
    rewrite(&paths[0], |m| m.groups[6].voters.truncate(2));
    rewrite(&paths[0], |m| m.groups[4].dots += 1);
    let text = verify_set(&paths, None).to_string();
    for what in [
        "group 5 is marked at 105 in term 2",
        "the meta group is marked at 50 in term 3",
        "group 6 is marked at 106 in term 2, voters 1 2 18446744073709551615",
        "the newest dot of group 4 is 1004 here, and 1005 in ",
    ] {
        assert!(text.contains(what), "{what}: {text}");
    }
}

#[test]
fn nothing_is_known_without_a_manifest() {
    let report = verify_set::<&str>(&[], None);
    assert!(!report.sound && !report.complete);
    let report = verify_set(&["/nowhere"], None);
    assert!(!report.sound && !report.complete);
    assert_eq!(
        report.to_string(),
        "/nowhere: NOT SOUND\n  /nowhere: it cannot be read: No such file or directory (os error \
         2)\nNo manifest can be read, so nothing is known of the snapshot.\n\
         Something is wrong, and the sound parts DO NOT have everything."
    );
}
