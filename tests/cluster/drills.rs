//! Rehearsed restores: `ddbctl repository drill`.

use std::fs;

use crate::{
    harness::{SOON, shell},
    seeds::{FAILED, SITES, content, small},
};

const UNKNOWN: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";

/// A drill is said as an operator says it, and its verdict is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_passes_where_a_restore_would_and_says_what_a_restore_would_meet() {
    let (cluster, place, uuid) = small(2).await;
    let scratch = cluster.dir().join("scratch");
    let drill = |words: &str| {
        let (place, scratch) = (place.path.display(), scratch.display());
        let line = format!("ddbctl -o json repository drill {place} --scratch {scratch} {words}");
        async move { shell(&line, SOON).await }
    };
    let client = cluster.client();
    let before = content(&client, &SITES).await;
    let check = "--check 'ddbctl get --site pier colour' --keep-report --rto 5m --rpo 1h";
    // What nodes are told by their environment does not reach the node of a drill.
    let line = format!("export DEVICEDB_JOIN={}; ", client.endpoint);
    let words =
        format!("repository drill {} --scratch {}", place.path.display(), scratch.display());
    let ran = shell(&format!("{line}ddbctl -o json {words} {check}"), SOON).await.exits(0);
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["snapshot"], uuid, "{report}");
    assert_eq!((&report["sites"], &report["partitions"]), (&8.into(), &64.into()), "{report}");
    let wanted: u64 = place.partitions(&uuid).iter().map(|(_, rows, _)| rows).sum();
    assert_eq!(report["rows"], wanted, "{report}");
    assert!(report["phases"]["check_s"].as_f64() >= report["phases"]["compare_s"].as_f64());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "nothing stays");
    let status = shell(&format!("ddbctl repository status {}", place.path.display()), SOON).await;
    status.exits(0).says("last drill  passed at");
    assert_eq!(content(&client, &SITES).await, before, "production knows nothing of it");

    // What does not pass is no error of the program, and says why.
    let no = drill("--rpo 1ms --check 'exit 3'").await.exits(6);
    no.says("the objective").says("exit status: 3").says("has not passed");
    let segment = place.object("/g/");
    let whole = fs::read(&segment).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&segment, flipped).unwrap();
    drill("").await.exits(6).says("the node has ended").says("/g/");
    fs::write(&segment, whole).unwrap();
    drill("--devicedb /nowhere/devicedb").await.exits(6).says("name it with --devicedb");
    drill(&format!("--point {UNKNOWN}")).await.exits(5).says("has no snapshot");
    fs::write(scratch.join("letter.txt"), "x").unwrap();
    drill("").await.exits(FAILED).says("is not empty");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1, "what was there stays");
}
