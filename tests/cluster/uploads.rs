//! Snapshots into a repository by the nodes themselves: each group once, whoever dies, and whatever
//! the store does.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use devicedb::{
    base::clock::Random,
    proto::v1::{Bucket, UploadStatus},
};
use tonic::Code;

use crate::harness::{
    Cluster, Node, ObjectStore, Options, Ran, SOON, SnapshotStore, eventually, http_get, shell,
};

const SITES: usize = 8;
/// Of a value that nothing compresses.
const VALUE_BYTES: usize = 256 << 10;

pub fn value(n: usize) -> Vec<u8> {
    let mut noise = Random::seeded(n as u64 + 1);
    (0..VALUE_BYTES / 8).flat_map(|_| noise.next_u64().to_be_bytes()).collect()
}

pub async fn put(cluster: &Cluster, keys: std::ops::Range<usize>) {
    let client = cluster.client();
    for n in keys {
        let site = format!("shop-{}", n % SITES);
        client.put(&site, Bucket::Default, format!("key-{n}"), value(n)).await.unwrap();
    }
}

/// Three nodes with a repository, and values of so many keys.
pub async fn cluster(
    place: &str,
    more: &[&str],
    store: Option<&ObjectStore>,
    keys: usize,
) -> Cluster {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut cluster = Cluster::empty(options);
    let words = ["--repository", place].into_iter().chain(more.iter().copied());
    cluster.options.extra = words.map(str::to_owned).collect();
    for _ in 0..3 {
        let mut node = cluster.further();
        node.under = store.map_or(Vec::new(), ObjectStore::under);
        node.start();
        node.wait_listening().await;
        cluster.nodes.push(node);
    }
    cluster.settled().await;
    let client = cluster.client();
    for site in 0..SITES {
        client.add_site(&format!("shop-{site}")).await.unwrap();
    }
    put(&cluster, 0..keys).await;
    cluster
}

async fn sent_bytes(cluster: &Cluster) -> u64 {
    let mut sum = 0;
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let (_, page) = http_get(&node.endpoint(), "/metrics").await.unwrap();
        let line = page.lines().find_map(|l| l.strip_prefix("devicedb_upload_sent_bytes_total "));
        sum += line.expect("it is counted").parse::<u64>().unwrap();
    }
    sum
}

/// Of a repository with one history.
fn newest_catalogue(place: &Path) -> PathBuf {
    let mut folder = place.join("k");
    while folder.is_dir() {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folder = entries.max().unwrap();
    }
    folder
}

pub fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.story()))
}

fn endpoints(cluster: &Cluster) -> String {
    cluster.nodes.iter().map(Node::endpoint).collect::<Vec<_>>().join(",")
}

pub async fn ctl(cluster: &Cluster, words: &str) -> Ran {
    ctl_within(cluster, words, SOON).await
}

pub async fn ctl_within(cluster: &Cluster, words: &str, bound: Duration) -> Ran {
    shell(&format!("ddbctl --endpoint {} {words}", endpoints(cluster)), bound).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_store_every_group_once_and_the_parts_come_back_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("backups").display().to_string();
    shell(&format!("ddbctl repository init {place}"), SOON).await.exits(0);
    let cluster = cluster(&place, &[], None, 96).await;
    let ran = ctl(&cluster, "snapshot create --upload --format json").await.exits(0);
    let taken = json(&ran);
    let (uuid, upload) = (taken["uuid"].as_str().unwrap(), &taken["upload"]);
    assert_eq!(
        (&upload["status"], &upload["repository"]),
        (&"stored".into(), &place.clone().into())
    );
    // 24 MiB of values, and a little.
    let bytes = upload["bytes"].as_u64().unwrap();
    assert!(bytes > 96 * VALUE_BYTES as u64 && bytes < 97 * VALUE_BYTES as u64, "{ran:?}");
    assert_eq!(upload["new_bytes"], bytes, "nothing was there");
    assert_eq!(sent_bytes(&cluster).await, bytes, "no group is stored by two nodes");

    // Again, and by another node.
    let again =
        json(&ctl(&cluster, &format!("snapshot upload {uuid} --format json")).await.exits(0));
    assert_eq!(again["upload"]["root"], upload["root"]);
    assert_eq!(sent_bytes(&cluster).await, bytes, "what is stored is not stored again");
    for node in &cluster.nodes {
        let seen = node.ctl(&["snapshot", "status", uuid]).await.exits(0);
        seen.says(&format!("stored = {bytes} bytes, {bytes} of them new"));
    }

    // A little that is new.
    put(&cluster, 96..98).await;
    let second = json(&ctl(&cluster, "snapshot create --upload --format json").await.exits(0));
    let new = second["upload"]["new_bytes"].as_u64().unwrap();
    assert!(new > 2 * VALUE_BYTES as u64 && new < bytes / 2, "{second}");
    assert_eq!(sent_bytes(&cluster).await, bytes + new);

    shell(&format!("ddbctl repository verify {place}"), SOON).await.exits(0).says("sound");
    let status = shell(&format!("ddbctl repository status {place} --format json"), SOON).await;
    assert_eq!(json(&status.exits(0))["unnamed"], 0);

    // The newest catalogue is damaged: an upload says so, and makes it again.
    let newest = newest_catalogue(Path::new(&place));
    fs::write(&newest, "{}").unwrap();
    let second = second["uuid"].as_str().unwrap();
    let seen = cluster.nodes[1].ctl(&["snapshot", "status", second]).await.exits(0);
    seen.says("a catalogue of the repository is damaged");
    let again = ctl(&cluster, &format!("snapshot upload {second}")).await.exits(0);
    let name = newest.file_name().unwrap().to_str().unwrap();
    again.says("was damaged, and is made again").says(name);
    assert_ne!(newest_catalogue(Path::new(&place)), newest);
    assert_eq!(sent_bytes(&cluster).await, bytes + new);
    // The damaged one stays in the chain until it is old, and is reported until then.
    shell(&format!("ddbctl repository verify {place} {second}"), SOON).await.exits(0);
    let (tars, out) = (cluster.download_all(uuid).await, dir.path().join("out"));
    fs::create_dir(&out).unwrap();
    let line = format!("ddbctl repository export {place} {uuid} --output {}", out.display());
    shell(&line, SOON).await.exits(0);
    assert_eq!(tars.len(), 3);
    let same = |tar: &Path| {
        let from = fs::read(tar).unwrap();
        fs::read_dir(&out).unwrap().any(|to| fs::read(to.unwrap().path()).unwrap() == from)
    };
    assert!(tars.iter().all(|tar| same(tar)), "each part is the one that its node sends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_answers_and_dies_gets_every_object_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut s3 = ObjectStore::start(dir.path()).await;
    let place = "s3://backups/of/devices";
    s3.shell(&format!("ddbctl repository init {place}")).await.exits(0);
    // Slow enough to die in the middle.
    let cluster = cluster(place, &["--repository-rate", "12000000"], Some(&s3), 192).await;
    let client = cluster.client();
    let uuid = client.complete_snapshot(SOON).await.uuid;
    s3.lose_every(3);
    client.upload_snapshot(&uuid).await.unwrap();
    eventually("something is stored", SOON, async || {
        let upload = client.snapshot(&uuid).await.unwrap().upload.unwrap();
        if upload.bytes_done > 0 { Ok(()) } else { Err(format!("{upload:?}")) }
    })
    .await;
    s3.kill9();
    s3.restart().await;
    let upload = ctl(&cluster, &format!("snapshot upload {uuid} --format json")).await.exits(0);
    assert!(s3.lost() > 5, "only {} answers were lost", s3.lost());
    s3.lose_every(0);
    assert_eq!(json(&upload)["upload"]["status"], "stored");
    let verified = s3.shell(&format!("ddbctl repository verify {place}")).await.exits(0);
    verified.says("sound");
    let status = s3.shell(&format!("ddbctl repository status {place} --format json")).await;
    let status = json(&status.exits(0));
    assert_eq!((&status["unnamed"], &status["histories"][0]["snapshots"]), (&0.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_leaves_others_store_and_whoever_drives_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("backups").display().to_string();
    shell(&format!("ddbctl repository init {place}"), SOON).await.exits(0);
    let mut cluster = cluster(&place, &["--repository-rate", "8000000"], None, 256).await;
    let client = cluster.nodes[1].client();
    let uuid = client.complete_snapshot(SOON).await.uuid;
    // The third of the nodes drives it, and the first stores some.
    let driver = cluster.nodes[2].client();
    assert_eq!(driver.upload_snapshot(&uuid).await.unwrap().status(), UploadStatus::Running);
    eventually("something is stored", SOON, async || {
        let upload = client.snapshot(&uuid).await.unwrap().upload.unwrap();
        let driven = upload.node_id != 0 && upload.bytes_done > 0;
        if driven { Ok(()) } else { Err(format!("{upload:?}")) }
    })
    .await;
    cluster.nodes[0].kill9();
    let stored = eventually("others have stored it", SOON, async || {
        let upload = client.snapshot(&uuid).await.unwrap().upload.unwrap();
        if upload.status() == UploadStatus::Stored {
            Ok(upload)
        } else {
            Err(format!("{upload:?}"))
        }
    })
    .await;
    assert_eq!(stored.bytes_done, stored.bytes);
    cluster.nodes[0].start();
    cluster.settled().await;

    // Another one, and who drives it dies. ddbctl is told of all nodes, and asks another.
    put(&cluster, 256..448).await;
    let uuid = client.complete_snapshot(SOON).await.uuid;
    let line = format!("ddbctl --endpoint {} snapshot upload {uuid}", endpoints(&cluster));
    let waiting = tokio::spawn(async move { shell(&line, 2 * SOON).await });
    let driver = eventually("somebody drives it", SOON, async || {
        let upload = client.snapshot(&uuid).await.unwrap().upload.unwrap();
        let node = upload.node_id;
        if node != 0 && upload.bytes_done > 0 { Ok(node) } else { Err(format!("{upload:?}")) }
    })
    .await;
    let nodes = client.overview().await.unwrap().nodes;
    let address = nodes.iter().find(|node| node.id == driver).unwrap().address.clone();
    let victim = cluster.nodes.iter().position(|node| node.endpoint() == address).unwrap();
    cluster.nodes[victim].kill9();
    waiting.await.unwrap().exits(0).says("stored = ");
    shell(&format!("ddbctl repository verify {place}"), SOON).await.exits(0).says("sound");
    let status = shell(&format!("ddbctl repository status {place} --format json"), SOON).await;
    let status = json(&status.exits(0));
    assert_eq!((&status["unnamed"], &status["histories"][0]["snapshots"]), (&0.into(), &2.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_an_upload_from_its_end_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("backups").display().to_string();
    let other = dir.path().join("other").display().to_string();
    shell(&format!("ddbctl repository init {place}; ddbctl repository init {other}"), SOON)
        .await
        .exits(0);
    let mut cluster = cluster(&place, &[], None, 8).await;
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;

    // One of three without a repository: the others have everything.
    let change = |node: &mut Node, to: Option<&str>| {
        node.kill9();
        let at = node.args.iter().position(|word| word == "--repository");
        if let Some(at) = at {
            node.args.drain(at..at + 2);
        }
        node.args.extend(to.into_iter().flat_map(|to| ["--repository".into(), to.to_owned()]));
        node.start();
    };
    change(&mut cluster.nodes[0], None);
    cluster.settled().await;
    let no = cluster.nodes[0].ctl(&["snapshot", "upload", &uuid]).await.exits(5);
    no.says("has no repository: start it with --repository PLACE");
    cluster.nodes[0].ctl(&["snapshot", "status", &uuid]).await.exits(0);
    cluster.nodes[1].ctl(&["snapshot", "upload", &uuid]).await.exits(0).says("stored = ");

    // One that names another one.
    change(&mut cluster.nodes[0], Some(&other));
    cluster.settled().await;
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
    let no = cluster.nodes[1].ctl(&["snapshot", "upload", &uuid]).await.exits(1);
    no.says("names another repository than node").says("the same --repository");

    // A repository that is gone, as one that is not mounted any more: nothing is made in its place.
    change(&mut cluster.nodes[0], Some(&place));
    cluster.settled().await;
    fs::remove_dir_all(&place).unwrap();
    fs::create_dir(&place).unwrap();
    let no = cluster.nodes[1].ctl(&["snapshot", "upload", &uuid]).await.exits(1);
    no.says("has no devicedb.json");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    // What a start refuses, and what it does not.
    let mut node = cluster.further();
    node.args.extend(["--repository".into(), "ftp://there".into()]);
    node.args.retain(|word| word != &place);
    let at = node.args.iter().position(|word| word == "--repository").unwrap();
    node.args.remove(at);
    let refused = node.start_refused().await;
    assert!(refused.stderr.contains("s3://BUCKET/PREFIX"), "{}", refused.story());
    let unknown = ctl(&cluster, "snapshot upload 00000000-0000-4000-8000-000000000001").await;
    unknown.exits(5).says("the cluster does not know snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_drives_four_uploads_at_a_time_and_says_so_of_a_fifth() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("backups").display().to_string();
    shell(&format!("ddbctl repository init {place}"), SOON).await.exits(0);
    // So slow that none ends.
    let cluster = cluster(&place, &["--repository-rate", "1000"], None, 8).await;
    let client = cluster.client();
    let mut uuids = Vec::new();
    for _ in 0..5 {
        uuids.push(client.complete_snapshot(SOON).await.uuid);
    }
    let (fifth, four) = uuids.split_last().unwrap();
    let driver = cluster.nodes[0].client();
    for uuid in four.iter().chain(four) {
        assert_eq!(driver.upload_snapshot(uuid).await.unwrap().status(), UploadStatus::Running);
    }
    let e = driver.upload_snapshot(fifth).await.unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    assert!(e.message().contains("drives 4 uploads already"), "{e}");
    assert!(e.message().contains("ask another node"), "{e}");
    let other = cluster.nodes[1].client().upload_snapshot(fifth).await.unwrap();
    assert_eq!(other.status(), UploadStatus::Running);
}
