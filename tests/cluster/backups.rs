//! `ddbctl backup`: one line for cron, which says nothing when all is well, and removes nothing
//! that is of another cluster or holds more.

use std::{
    fs,
    path::{Path, PathBuf},
};

use devicedb::{base::flock::Flock, proto::v1::Bucket};
use serde_json::Value;

use crate::harness::{Cluster, Options, Ran, SOON, SnapshotStore, eventually, shell};

async fn cluster(nodes: usize) -> Cluster {
    let options = Options {
        snapshot_store: SnapshotStore::Own,
        replication_factor: nodes as u32,
        ..Options::default()
    };
    Cluster::start(nodes, options).await
}

async fn fill(cluster: &Cluster, site: &str, rows: usize) {
    let client = cluster.client();
    client.add_site(site).await.unwrap();
    for number in 0..rows {
        client.put(site, Bucket::Default, format!("key-{number}"), "value").await.unwrap();
    }
}

async fn backup(cluster: &Cluster, to: &Path, words: &[&str]) -> Ran {
    let to = to.display().to_string();
    cluster.ctl(&[&["backup", "--to", &to, "--keep", "2"], words].concat()).await
}

/// The one that has been made, as a document says it.
async fn told(cluster: &Cluster, to: &Path, words: &[&str]) -> Value {
    let ran = backup(cluster, to, &[words, &["-o", "json"]].concat()).await.exits(0);
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.story()))
}

/// What lies in a directory, but the lock.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| !path.ends_with(".lock")).collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_for_cron_is_silent_keeps_the_last_and_removes_the_others_in_the_cluster_too() {
    let mut cluster = cluster(3).await;
    fill(&cluster, "shop", 20).await;
    let to = cluster.dir().join("backups");
    for _ in 0..2 {
        let ran = backup(&cluster, &to, &[]).await.exits(0);
        assert_eq!((&*ran.out(), &*ran.stderr), ("", ""), "cron writes no mail");
    }
    let third = told(&cluster, &to, &[]).await;
    let kept = listed(&to);
    assert_eq!(kept.len(), 2);
    // Backups of one second stand in no order by their names.
    let second = kept.iter().find(|path| third["directory"] != path.to_str().unwrap()).unwrap();
    let snapshots = cluster.ctl(&["-o", "json", "snapshot", "list"]).await.exits(0);
    let snapshots: Value = serde_json::from_slice(&snapshots.stdout).unwrap();
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 2, "{snapshots}");
    for one in &kept {
        let verify = format!("ddbctl snapshot verify {}/*.tar", one.display());
        shell(&verify, SOON).await.exits(0);
        assert_eq!(listed(one).len(), 3, "a tar for each node");
    }

    // What an interrupted run has left goes; what is of nobody, or a link, stays.
    let left = to.join("20200101T000000Z-5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11.partial");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("snapshot.tar.part"), "half").unwrap();
    fs::create_dir(to.join("notes")).unwrap();
    let link = to.join("20200101T000000Z-5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c12");
    std::os::unix::fs::symlink(cluster.dir(), &link).unwrap();
    let done = told(&cluster, &to, &[]).await;
    assert_eq!((&done["parts"], &done["absent"]), (&3.into(), &Value::Array(vec![])), "{done}");
    assert_eq!(done["rows"], 21, "the keys and their site, each counted once: {done}");
    let removed: Vec<&str> =
        done["removed"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(removed, [second.to_str().unwrap(), left.to_str().unwrap()]);
    assert!(!left.exists() && to.join("notes").exists() && link.exists());

    // Said again, the same snapshot is the same backup.
    let uuid = done["uuid"].as_str().unwrap();
    let again = told(&cluster, &to, &["--uuid", uuid]).await;
    assert_eq!(again["directory"], done["directory"]);
    assert_eq!(again["removed"], Value::Array(vec![]));

    // Without a node the others bring the cluster back, and it is said who has no part. Without two
    // there is no backup, and what there was stays.
    cluster.nodes[2].kill9();
    let ran = backup(&cluster, &to, &["--wait-timeout", "60s"]).await.exits(0);
    ran.says("warning: the part of node");
    let before = listed(&to);
    cluster.nodes[1].kill9();
    let ran = backup(&cluster, &to, &["--wait-timeout", "2s", "--timeout", "2s"]).await;
    assert_ne!(ran.code, Some(0), "{}", ran.story());
    assert!(before.iter().all(|path| path.exists()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_into_a_repository_as_it_goes_into_a_directory() {
    let cluster = cluster(3).await;
    fill(&cluster, "shop", 40).await;
    let (place, scratch) = (cluster.dir().join("repository"), cluster.dir().join("scratch"));
    let at = place.display().to_string();
    let repository = async |words: &str| shell(&format!("ddbctl repository {words}"), SOON).await;
    repository(&format!("init {at}")).await.exits(0);
    let scratch_words = ["--scratch", scratch.to_str().unwrap()];
    let mut made = Vec::new();
    for round in 0..3 {
        fill(&cluster, "yard", round).await;
        let done = told(&cluster, &place, &scratch_words).await;
        assert_eq!((&done["parts"], &done["absent"]), (&3.into(), &Value::Array(vec![])), "{done}");
        assert_eq!(done["directory"], at.as_str());
        made.push(done["uuid"].as_str().unwrap().to_owned());
        let removed = if round == 2 { vec![Value::from(made[0].as_str())] } else { Vec::new() };
        assert_eq!(done["removed"], Value::Array(removed), "{done}");
    }
    assert_eq!(listed(&scratch), Vec::<std::path::PathBuf>::new(), "nothing is left behind");
    let listed = repository(&format!("list {at} -o json")).await.exits(0);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let kept: Vec<&str> = listed["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["uuid"].as_str().unwrap())
        .collect();
    assert_eq!(kept, made[1..]);
    repository(&format!("verify {at}")).await.exits(0).says("sound");
    let snapshots = cluster.ctl(&["-o", "json", "snapshot", "list"]).await.exits(0);
    let snapshots: Value = serde_json::from_slice(&snapshots.stdout).unwrap();
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 2, "{snapshots}");

    // For cron it says nothing; and much less than before is refused, here too.
    let ran = backup(&cluster, &place, &scratch_words).await.exits(0);
    assert_eq!((ran.out().as_str(), ran.stderr.as_str()), ("", ""));
    cluster.ctl(&["site", "remove", "shop"]).await.exits(0);
    eventually("its rows are gone", SOON, async || {
        let sites = cluster.client().sites().await.unwrap();
        if sites.iter().any(|site| site == "shop") { Err(format!("{sites:?}")) } else { Ok(()) }
    })
    .await;
    let ran = backup(&cluster, &place, &scratch_words).await.exits(5);
    ran.says("the backup is whole, and nothing was removed").says("--accept-smaller");
    let accepts = [&scratch_words[..], &["--accept-smaller"]].concat();
    let done = told(&cluster, &place, &accepts).await;
    assert_eq!(done["removed"].as_array().unwrap().len(), 2, "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_that_is_of_another_cluster_or_holds_much_more() {
    let (full, other) = (cluster(1).await, cluster(1).await);
    fill(&full, "shop", 40).await;
    fill(&full, "yard", 10).await;
    let to = full.dir().join("backups");
    let theirs = told(&other, &to, &[]).await;
    let first = told(&full, &to, &[]).await;
    told(&full, &to, &[]).await;
    assert_eq!(first["others"], Value::Array(vec![theirs["directory"].clone()]));
    assert_ne!(first["cluster_id"], theirs["cluster_id"]);

    // The site with most rows is gone, but for the word that it was there: is it meant to be?
    full.ctl(&["site", "remove", "shop"]).await.exits(0);
    eventually("its rows are gone", SOON, async || {
        let sites = full.client().sites().await.unwrap();
        if sites.iter().any(|site| site == "shop") { Err(format!("{sites:?}")) } else { Ok(()) }
    })
    .await;
    let before = listed(&to);
    let ran = backup(&full, &to, &[]).await.exits(5);
    let ran = ran.says("the backup is whole, and nothing was removed").says("holds 12 rows");
    ran.says("run it once with --accept-smaller");
    assert!(before.iter().all(|path| path.exists()));
    let done = told(&full, &to, &["--accept-smaller"]).await;
    assert_eq!(done["removed"].as_array().unwrap().len(), 2, "{done}");
    assert!(Path::new(theirs["directory"].as_str().unwrap()).exists());
    backup(&full, &to, &[]).await.exits(0);

    // One at a time; and what is a repository is no directory of backups.
    let lock = fs::File::options().write(true).open(to.join(".lock")).unwrap();
    let held = Flock::try_on(lock).unwrap();
    backup(&full, &to, &[]).await.exits(5).says("another backup is being written there");
    drop(held);
    let place = full.dir().join("repository");
    shell(&format!("ddbctl repository init {}", place.display()), SOON).await.exits(0);
    let nowhere = full.dir().join("nowhere").display().to_string();
    let ran =
        backup(&full, &place, &["--scratch", &nowhere, "--repository-key-file", "none"]).await;
    ran.exits(5).says("is not sealed");
    backup(&full, Path::new("nothing://bucket/prefix"), &[]).await.exits(2).says("nothing://");
    assert!(!Path::new(&nowhere).exists());
    full.ctl(&["backup"]).await.exits(2).says("--to");
    full.ctl(&["backup", "--to", "x", "--keep", "0"]).await.exits(2).says("from 1 on");
}
