//! The whole story of a repository in an object store that keeps what it promises and loses every
//! fourth answer: `make test-stores` plays it in others than the one that tests use.

use std::time::Duration;

use devicedb::proto::v1::UploadStatus;

use crate::{
    harness::{ObjectStore, SOON, eventually},
    uploads::{cluster, ctl_within, json, put},
};

const KEYS: usize = 192;
const MORE: usize = 8;
/// Uploads that have to ask again for much of what they do, at stores that are not all quick.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_filled_verified_rehearsed_and_thinned_in_an_object_store() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = ObjectStore::chosen(dir.path()).await;
    let place = store.place("of/devices");

    // Of two who make it at a time one does.
    let init = format!("ddbctl repository init {place}");
    let (one, other) = tokio::join!(store.shell(&init), store.shell(&init));
    let mut codes = [one.code, other.code];
    codes.sort();
    assert_eq!(codes, [Some(0), Some(5)], "{}\n{}", one.story(), other.story());

    // Nodes store a snapshot while answers are lost and the store falls in the middle. Slowly
    // enough for that.
    let cluster = cluster(&place, &["--repository-rate", "12000000"], Some(&store), KEYS).await;
    let client = cluster.client();
    let first = client.complete_snapshot(SOON).await.uuid;
    store.lose_every(4);
    client.upload_snapshot(&first).await.unwrap();
    let upload = eventually("something is stored", SOON, async || {
        let upload = client.snapshot(&first).await.unwrap().upload.unwrap();
        if upload.bytes_done > 0 { Ok(upload) } else { Err(format!("{upload:?}")) }
    })
    .await;
    assert_eq!(upload.status(), UploadStatus::Running, "it is in the middle: {upload:?}");
    store.fall().await;
    store.restart().await;
    let upload = format!("snapshot upload {first} --format json");
    let stored = ctl_within(&cluster, &upload, LONG).await.exits(0);
    assert_eq!(json(&stored)["upload"]["status"], "stored");
    let lost = store.lost();
    assert!(lost > 5, "only {lost} answers were lost");

    // A second one, of which most is there.
    put(&cluster, KEYS..KEYS + MORE).await;
    let create = "snapshot create --upload --format json";
    let taken = ctl_within(&cluster, create, LONG).await.exits(0);
    let taken = json(&taken);
    let second = taken["uuid"].as_str().unwrap().to_owned();
    let [new, bytes] = ["new_bytes", "bytes"].map(|name| taken["upload"][name].as_u64().unwrap());
    assert!(new > 0 && new < bytes / 2, "{taken}");
    assert!(store.lost() > lost, "no answer to the second was lost");
    store.lose_every(0);
    let run = async |words: &str| store.shell(&format!("ddbctl -o json repository {words}")).await;
    let status = json(&run(&format!("status {place}")).await.exits(0));
    assert_eq!((&status["unnamed"], &status["histories"][0]["snapshots"]), (&0.into(), &2.into()));
    let report = json(&run(&format!("verify {place}")).await.exits(0));
    assert_eq!(report["sound"], true, "{report}");

    // It restores.
    let scratch = dir.path().join("scratch").display().to_string();
    let drill = format!("drill {place} --scratch {scratch} --point {first} --keep-report");
    let report = json(&run(&drill).await.exits(0));
    assert_eq!((&report["passed"], &report["snapshot"]), (&true.into(), &first.clone().into()));

    // What somebody holds stays, and what is dropped goes for good.
    let held = format!("hold {place} {first} --reason audit");
    run(&held).await.exits(0);
    let drop = format!("drop {place} {first} --grace 1ms");
    run(&drop).await.exits(5).says("is held: audit");
    run(&format!("release {place} {first}")).await.exits(0);
    // The answer to a change may be lost as well as any other.
    store.lose_every(4);
    let taken_out = json(&run(&drop).await.exits(0));
    let dropped = taken_out["histories"][0]["dropped"].as_u64().unwrap();
    assert!(dropped > 1, "{taken_out}");
    let versions = store.old_versions();
    let collected = json(&run(&format!("collect {place} --grace 1ms")).await.exits(0));
    assert_eq!(collected["histories"][0]["deleted"], dropped, "{collected}");
    store.lose_every(0);
    if let Some((before, after)) = versions.zip(store.old_versions()) {
        assert!(before < after, "the store keeps versions: {before}, then {after}");
    }
    let status = json(&run(&format!("status {place}")).await.exits(0));
    let history = &status["histories"][0];
    assert_eq!((&history["snapshots"], &history["newest_uuid"]), (&1.into(), &second.into()));
    assert_eq!((&status["unnamed"], &status["dropped"]), (&0.into(), &0.into()), "{status}");
    assert_eq!(status["drill"]["passed"], true, "{status}");
    let report = json(&run(&format!("verify {place}")).await.exits(0));
    assert_eq!(report["sound"], true, "{report}");
}
