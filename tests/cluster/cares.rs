//! A repository that is looked after: verified by shares, rehearsed, and what reports say told by
//! `ddbctl repository status`, `ddbctl backup status` and `/metrics`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use devicedb::{
    base::clock::Clock,
    repository::{
        index::Located,
        root::Repository,
        verify::{Depth, Percent},
    },
};
use serde_json::Value;

use crate::{
    harness::{Cluster, Node, Ran, SOON, http_get, shell},
    uploads::{cluster, ctl, json},
};

const KEYS: usize = 48;
const METRIC: &str = "devicedb_repository_last_";

/// What a snapshot consists of: chunks, and the files in which they lie.
fn chunks(place: &Path, uuid: &str) -> Vec<(PathBuf, Located)> {
    let repository = Repository::open(place).unwrap();
    let kept = repository.find(uuid.parse().unwrap()).unwrap();
    let mut all = Vec::new();
    for held in &kept.snapshot.held {
        let index = repository.index(kept.folder, &held.index).unwrap();
        for at in &index.chunks {
            let name = kept.folder.object(&index.segments[at.segment].name);
            all.push((place.join(name), at.clone()));
        }
    }
    all
}

/// Changes a bit of a chunk; a second time it is as it was.
fn flip((file, at): &(PathBuf, Located)) {
    let mut bytes = fs::read(file).unwrap();
    bytes[(at.offset + at.stored_bytes / 2) as usize] ^= 1;
    fs::write(file, bytes).unwrap();
}

async fn repository(words: &str) -> Ran {
    shell(&format!("ddbctl repository {words}"), 2 * SOON).await
}

/// What `ddbctl backup status` says when this node is asked.
async fn told(node: &Node) -> Value {
    json(&node.ctl(&["-o", "json", "backup", "status"]).await.exits(0))
}

async fn metrics(node: &Node) -> Vec<String> {
    let (_, page) = http_get(&node.endpoint(), "/metrics").await.unwrap();
    let mut shown: Vec<String> =
        page.lines().filter_map(|line| line.strip_prefix(METRIC)).map(str::to_owned).collect();
    shown.retain(|line| line.starts_with("verified") || line.starts_with("drill"));
    shown.sort();
    shown
}

/// On every node, once it has been asked.
async fn everywhere(cluster: &Cluster, wanted: &[String]) {
    for node in &cluster.nodes {
        told(node).await;
        assert_eq!(metrics(node).await, wanted, "{}", node.name);
    }
}

async fn backup(cluster: &Cluster) -> String {
    let taken = ctl(cluster, "snapshot create --upload -o json").await.exits(0);
    json(&taken)["uuid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_find_damage_and_reports_are_told_by_the_repository_and_by_the_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backups");
    let place = path.display().to_string();
    repository(&format!("init {place}")).await.exits(0);
    let mut cluster = cluster(&place, &[], None, KEYS).await;
    let status = async || json(&repository(&format!("status {place} -o json")).await.exits(0));

    // Nobody has looked.
    let before = status().await;
    assert_eq!((&before["verification"], &before["drill"]), (&Value::Null, &Value::Null));
    repository(&format!("status {place}")).await.exits(0).says("verified    -");
    let before = told(&cluster.nodes[0]).await;
    assert_eq!((&before["verification"], &before["drill"]), (&Value::Null, &Value::Null));
    ctl(&cluster, "backup status").await.exits(0).says("last verified = -");
    everywhere(&cluster, &[]).await;

    // All of it, on one day, and then one more snapshot.
    let uuid = backup(&cluster).await;
    let kept = repository(&format!("verify {place} --sample 100% --keep-report")).await.exits(0);
    kept.says("the report is kept as verifies/").says("sound as far as it was read");
    let after = status().await;
    let last = &after["verification"];
    assert_eq!((&last["depth"], &last["percent"]), (&"share".into(), &100.into()), "{after}");
    assert_eq!((&last["sound"], &last["snapshots_since"]), (&true.into(), &0.into()), "{after}");
    let second = backup(&cluster).await;
    assert_eq!(status().await["verification"]["snapshots_since"], 1);
    let scratch = dir.path().join("scratch").display().to_string();
    let drill = format!("drill {place} --scratch {scratch} --point {second} --keep-report");
    repository(&drill).await.exits(0).says("PASSED");
    let shown = told(&cluster.nodes[1]).await;
    let (verified, drilled) = (&shown["verification"], &shown["drill"]);
    assert_eq!((&verified["sound"], &verified["snapshots_since"]), (&true.into(), &1.into()));
    assert_eq!((&drilled["passed"], &drilled["uuid"]), (&true.into(), &second.into()));
    assert_eq!(drilled["snapshots_since"], 0, "{shown}");
    let seconds = |of: &Value| of["began_ms"].as_u64().unwrap() / 1000;
    let passed = format!("drill_timestamp_seconds{{outcome=\"passed\"}} {}", seconds(drilled));
    let sound = format!("verified_timestamp_seconds{{outcome=\"sound\"}} {}", seconds(verified));
    everywhere(&cluster, &[passed.clone(), sound.clone()]).await;
    let said = ctl(&cluster, "backup status").await.exits(0);
    let said = said.says("last verified = sound, ").says("last drill = passed, ");
    said.says("100 % of the chunks, of 1 snapshot; 1 snapshot since");

    // A chunk whose turn it is today, and one whose turn it is not.
    let half = Percent::try_from(50).unwrap();
    let (clock, all) = (Clock::start(), chunks(&path, &uuid));
    let verify = format!("verify {place} --sample 50");
    loop {
        let today = Depth::share(half, clock.wall_ms());
        let of = |is_today: bool| all.iter().find(|(_, at)| today.opens(at.hash) == is_today);
        let (now, later) = (of(true).unwrap(), of(false).unwrap());
        flip(later);
        let unseen = repository(&verify).await;
        flip(now);
        let seen = repository(&format!("{verify} --keep-report")).await;
        if today != Depth::share(half, clock.wall_ms()) {
            // The day has ended meanwhile: as it was, and again.
            flip(later);
            flip(now);
            continue;
        }
        unseen.exits(0);
        let own = now.0.file_name().unwrap().to_str().unwrap();
        let seen = seen.exits(6);
        seen.says("DAMAGED").says(own).says("the report is kept as verifies/");
        break;
    }
    let worse = status().await;
    assert_eq!(worse["verification"]["sound"], false, "{worse}");
    repository(&format!("status {place}")).await.exits(0).says("verified    DAMAGED (");
    let shown = told(&cluster.nodes[2]).await;
    let damaged = format!(
        "verified_timestamp_seconds{{outcome=\"damaged\"}} {}",
        seconds(&shown["verification"])
    );
    everywhere(&cluster, &[passed.clone(), damaged]).await;

    // The newest report is damaged: it is named, and the one before counts.
    let name = worse["verification"]["report"].as_str().unwrap();
    fs::write(path.join(name), "{\"format\":2}").unwrap();
    let left = status().await;
    let last = &left["verification"];
    assert_eq!((&last["sound"], &last["percent"]), (&true.into(), &100.into()), "{left}");
    assert!(left["unreadable_reports"][0].as_str().unwrap().starts_with(name), "{left}");
    repository(&format!("status {place}")).await.exits(0).says("a newer version made this report");
    ctl(&cluster, "backup status").await.exits(0).says(name).says("last verified = sound");
    everywhere(&cluster, &[passed, sound]).await;

    // A node that has no repository tells what the others know, and shows nothing itself.
    let node = &mut cluster.nodes[0];
    node.kill9();
    let at = node.args.iter().position(|word| word == "--repository").unwrap();
    node.args.drain(at..at + 2);
    node.start();
    cluster.settled().await;
    let shown = told(&cluster.nodes[0]).await;
    assert_eq!(
        (&shown["verification"]["sound"], &shown["drill"]["passed"]),
        (&true.into(), &true.into()),
        "{shown}"
    );
    assert_eq!(metrics(&cluster.nodes[0]).await, Vec::<String>::new());
}

/// What was found is told and is the exit code, whether or not its report can be kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_takes_no_report_takes_no_verdict_away() {
    let (cluster, place, uuid) = crate::seeds::small(1).await;
    let at = place.path.display();
    // Where the folder should be.
    fs::write(place.path.join("verifies"), "in the way").unwrap();
    let verify = format!("verify {at} --keep-report");
    let sound = repository(&verify).await.exits(1);
    sound.says(&uuid).says("sound").says("its report is not kept");
    // A drill's report neither.
    fs::write(place.path.join("drills"), "in the way").unwrap();
    let scratch = place.path.with_file_name("scratch");
    let drill = format!("drill {at} --scratch {} --keep-report", scratch.display());
    let passed = repository(&drill).await.exits(1);
    passed.says("PASSED").says(&uuid).says("its report is not kept");
    let failed = repository(&format!("{drill} --rpo 1ms")).await.exits(6);
    failed.says("FAILED").says("its report is not kept").says("the drill has not passed");
    let all = chunks(&place.path, &uuid);
    flip(&all[0]);
    let damaged = repository(&verify).await.exits(6);
    damaged.says("DAMAGED").says("its report is not kept").says("something is damaged");
    for (words, says) in [
        ("--sample 0", "from 1 to 100"),
        ("--sample ten", "from 1 to 100"),
        ("--sample 10 --quick", "cannot be used with"),
    ] {
        repository(&format!("verify {at} {words}")).await.exits(2).says(says);
    }
    drop(cluster);
}
