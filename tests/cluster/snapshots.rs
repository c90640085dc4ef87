//! Snapshots in bad times: no store, no space, no node, no end of the stream.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use devicedb::{
    base::clock::{Clock, Random},
    proto::v1::{Bucket, Snapshot, SnapshotPart, SnapshotStatus},
};
use tokio::{
    io::{self, AsyncReadExt as _},
    net::{TcpListener, TcpStream},
};

use crate::harness::{Client, Cluster, Options, SOON, SnapshotStore, binary, eventually, shell};

/// The original stood still for 5.6 s; a change of configuration waits for the cut, and for no
/// copy.
const CONFIGURATION_WAITS_MAX: Duration = Duration::from_secs(2);
const UNKNOWN: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";

/// Values that no compression makes small.
async fn fill(client: &Client, site: &str, mebibytes: usize) {
    client.add_site(site).await.unwrap();
    let mut rng = Random::seeded(7);
    for number in 0..mebibytes {
        let value: Vec<u8> =
            (0..(1 << 20) / 8).flat_map(|_| rng.next_u64().to_be_bytes()).collect();
        client.put(site, Bucket::Default, format!("{number:04}"), value).await.unwrap();
    }
}

fn part<'a>(snapshot: &'a Snapshot, address: &str) -> &'a SnapshotPart {
    snapshot
        .parts
        .iter()
        .find(|part| part.address == address)
        .unwrap_or_else(|| panic!("no part of {address}: {snapshot:#?}"))
}

/// A snapshot that must fail, and with it the reason.
async fn failed(client: &Client) -> String {
    let begun = client.create_snapshot().await.unwrap();
    let snapshot = client.snapshot_resolved(&begun.uuid, SOON).await;
    assert_eq!(snapshot.status(), SnapshotStatus::Failed, "{snapshot:#?}");
    snapshot.reason
}

async fn still_serves(client: &Client) {
    client.add_site("still").await.unwrap();
    client.put("still", Bucket::Default, "k", "v").await.unwrap();
    assert_eq!(client.values("still", Bucket::Default, "k").await.unwrap(), ["v"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_malformed_uuids_are_told_apart_and_leave_no_file() {
    let cluster = Cluster::start(1, Options::default()).await;
    let file = cluster.dir().join("part.tar");
    let output = file.display().to_string();
    cluster.ctl(&["snapshot", "status", UNKNOWN]).await.exits(5).says("missing");
    cluster.ctl(&["snapshot", "status", "not-a-uuid"]).await.exits(2).says("not-a-uuid");
    cluster
        .ctl(&["snapshot", "download", UNKNOWN, "--output", &output])
        .await
        .exits(5)
        .says(UNKNOWN);
    cluster
        .ctl(&["snapshot", "download", "not-a-uuid", "--output", &output])
        .await
        .exits(2)
        .says("not-a-uuid");
    cluster.ctl(&["snapshot", "delete", UNKNOWN]).await.exits(5).says(UNKNOWN);
    let left: Vec<_> = fs::read_dir(cluster.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().contains("part"))
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_snapshot_store_a_snapshot_fails_with_the_reason_and_the_nodes_serve_on() {
    let cluster =
        Cluster::start(3, Options { snapshot_store: SnapshotStore::None, ..Options::default() })
            .await;
    let reason = failed(&cluster.client()).await;
    assert!(reason.contains("--snapshot-store"), "{reason}");
    cluster.ctl(&["snapshot", "create", "--wait"]).await.exits(1).says("--snapshot-store");
    still_serves(&cluster.client()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_store_that_cannot_be_written_fails_the_snapshot_with_the_reason() {
    let cluster = Cluster::start(1, Options::default()).await;
    // A file where the directory was: not even root can write below it.
    let dir = cluster.nodes[0].snapshot_store.clone().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "in the way").unwrap();
    let reason = failed(&cluster.client()).await;
    assert!(reason.contains(dir.to_str().unwrap()), "{reason}");
    still_serves(&cluster.client()).await;
    // Once it can be written again, snapshots work again.
    fs::remove_file(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    cluster.client().complete_snapshot(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_during_capture_fails_the_snapshot_and_gives_the_space_back() {
    let mut cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    // The node sees a small disk of its own in place of its snapshot store.
    let dir = node.snapshot_store.clone().unwrap().display().to_string();
    let on_a_small_disk = r#"mount -t tmpfs -o size=4m small "$0" && exec "$@""#;
    node.under =
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", on_a_small_disk, &dir]
            .map(str::to_string)
            .to_vec();
    node.start();
    node.wait_ready().await;
    let pid = node.pid();
    cluster.nodes.push(node);
    let client = cluster.client();
    fill(&client, "full", 8).await;

    let reason = failed(&client).await;
    assert!(
        reason.contains(&format!("snapshot store {dir} is full: "))
            && reason.contains("kept free for the stores of nodes"),
        "{reason}"
    );
    assert!(
        reason.contains(
            "free space there or start the node with another --snapshot-store, then run create \
             again"
        ),
        "{reason}"
    );
    let inside = format!("/proc/{pid}/root{dir}");
    eventually("the space is given back", SOON, async || {
        let used = shell(&format!("du -sb {inside} | cut -f1"), SOON)
            .await
            .out()
            .trim()
            .parse::<u64>()
            .unwrap_or(u64::MAX);
        if used < 64 << 10 { Ok(()) } else { Err(format!("{used} bytes")) }
    })
    .await;
    still_serves(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_a_node_that_was_down_is_missing_for_good() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    fill(&client, "shop", 1).await;
    let away = cluster.nodes[2].endpoint();
    cluster.nodes[2].kill9();
    cluster.settled().await;

    let begun = client.create_snapshot().await.unwrap();
    let snapshot = client.snapshot_resolved(&begun.uuid, SOON * 2).await;
    assert_eq!(
        snapshot.status(),
        SnapshotStatus::Completed,
        "two nodes of three cover every partition: {snapshot:#?}"
    );
    assert_eq!(
        (snapshot.partitions_covered, snapshot.copies_min),
        (snapshot.partitions, 2),
        "{snapshot:#?}"
    );
    assert_eq!(part(&snapshot, &away).status(), SnapshotStatus::Missing);
    assert!(!part(&snapshot, &away).reason.is_empty());

    cluster.restart_all().await;
    client.put("shop", Bucket::Default, "later", "v").await.unwrap();
    for client in cluster.clients() {
        let seen = client.snapshot(&begun.uuid).await.unwrap();
        assert_eq!(
            part(&seen, &away).status(),
            SnapshotStatus::Missing,
            "it was away and must never take it late: {seen:#?}"
        );
    }
    let later = client.complete_snapshot(SOON).await;
    assert_ne!(later.uuid, begun.uuid);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_of_a_partition_have_the_same_digest() {
    let cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    fill(&client, "shop", 3).await;
    let snapshot = client.complete_snapshot(SOON).await;
    let mut tars = Vec::new();
    for part in &snapshot.parts {
        let (downloaded, outcome) = client.download(&snapshot.uuid, part.node_id, 0).await;
        outcome.unwrap();
        assert_eq!(downloaded.data.len() as u64, part.download_bytes, "its size is known before");
        assert_eq!(
            downloaded.trailer.expect("a whole stream ends with its digest").digest,
            blake3::hash(&downloaded.data).to_hex().to_string()
        );
        let tar = cluster.dir().join(format!("{}.tar", part.node_id));
        fs::write(&tar, downloaded.data).unwrap();
        tars.push(tar.display().to_string());
    }
    let verify: Vec<_> =
        ["snapshot", "verify"].into_iter().chain(tars.iter().map(String::as_str)).collect();
    cluster.ctl(&verify).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_server_dies_fails_and_resume_finishes_it() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let client = cluster.client();
    fill(&client, "shop", 24).await;
    let uuid = client.complete_snapshot(SOON).await.uuid;
    let whole = client.download(&uuid, 0, 0).await.0.data;

    // Into a pipe that nobody reads: it stands still in the middle until its server is gone.
    let endpoint = cluster.nodes[0].endpoint();
    let mut download = Command::new(binary("ddbctl"));
    download.args([
        "--endpoint",
        &endpoint,
        "--timeout",
        "3s",
        "snapshot",
        "download",
        &uuid,
        "--output",
        "-",
    ]);
    let mut download = download.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = download.stdout.take().unwrap();
    let mut came = vec![0; 4096];
    pipe.read_exact(&mut came).unwrap();
    cluster.nodes[0].kill9();
    pipe.read_to_end(&mut came).unwrap();
    let ended = download.wait_with_output().unwrap();
    assert!(
        !ended.status.success(),
        "it lacks {} bytes and exits with 0",
        whole.len() - came.len()
    );
    assert!(whole.starts_with(&came), "what came is not the beginning of the part");

    // Into a file: the partial one is named as partial, and --resume finishes it.
    cluster.restart_all().await;
    let file = cluster.dir().join("part.tar");
    let (download, partial) = stands_still(&cluster, &uuid, &file).await;
    cluster.nodes[0].kill9();
    let ended = download.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "a download without its end exits with 0: {said}");
    assert!(said.contains(partial.to_str().unwrap()), "it does not name the partial file: {said}");
    cluster.restart_all().await;
    resume_finishes(&cluster, &uuid, &file, &partial, &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_client_is_killed_leaves_a_partial_file_and_resume_finishes_it() {
    let cluster = Cluster::start(1, Options::default()).await;
    let client = cluster.client();
    fill(&client, "shop", 8).await;
    let uuid = client.complete_snapshot(SOON).await.uuid;
    let (whole, _) = client.download(&uuid, 0, 0).await;
    let file = cluster.dir().join("part.tar");
    let (mut download, partial) = stands_still(&cluster, &uuid, &file).await;
    download.kill().unwrap();
    download.wait().unwrap();
    resume_finishes(&cluster, &uuid, &file, &partial, &whole.data).await;
    assert_eq!(
        blake3::hash(&fs::read(&file).unwrap()).to_hex().to_string(),
        whole.trailer.unwrap().digest
    );
}

/// A line to a server on which 4 MiB come through from it, and no more until it hangs up.
async fn narrow_line(server: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&server).await else { continue };
            let ((mut from_client, mut to_client), (from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut some = from_server.take(4 << 20);
                let _ = io::copy(&mut some, &mut to_client).await;
                io::copy(&mut some.into_inner(), &mut io::sink()).await
            });
        }
    });
    address
}

/// A download into a file that stands still in its middle, and where what came of it lies.
async fn stands_still(cluster: &Cluster, uuid: &str, file: &Path) -> (Child, PathBuf) {
    let line = narrow_line(cluster.nodes[0].endpoint()).await;
    let mut download = Command::new(binary("ddbctl"));
    download.args([
        "--endpoint",
        &line,
        "--timeout",
        "3s",
        "snapshot",
        "download",
        uuid,
        "--output",
        file.to_str().unwrap(),
    ]);
    let child = download.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let partial = PathBuf::from(format!("{}.partial", file.display()));
    eventually("the download has begun", SOON, async || match fs::metadata(&partial) {
        Ok(found) if found.len() > 0 => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
    (child, partial)
}

async fn resume_finishes(cluster: &Cluster, uuid: &str, file: &Path, partial: &Path, whole: &[u8]) {
    let came = fs::read(partial).unwrap();
    assert!(
        !came.is_empty() && came.len() < whole.len() && whole.starts_with(&came),
        "{} bytes of {}",
        came.len(),
        whole.len()
    );
    assert!(!file.exists(), "a partial file must not have the name of a whole one");
    cluster
        .ctl(&["snapshot", "download", uuid, "--output", file.to_str().unwrap(), "--resume"])
        .await
        .exits(0);
    assert!(fs::read(file).unwrap() == whole, "the resumed file is not the part");
    assert!(!partial.exists());
}

/// Large values fill what waits in memory again and again, while a snapshot still holds what it has
/// frozen of it.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_complete_while_large_values_come_as_fast_as_they_can() {
    let options = Options { replication_factor: 1, ..Options::default() };
    let cluster = Cluster::start(1, options).await;
    let client = cluster.client();
    client.add_site("films").await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let value = vec![writer; devicedb::base::limits::VALUE_BYTES_MAX];
                for turn in 0..10_000 {
                    let key = format!("{writer}-{}", turn % 8);
                    // Nodes that hold writes back say so; that is no fault here.
                    let _ = client.put("films", Bucket::Lww, key, &value).await;
                }
            })
        })
        .collect();
    for _ in 0..4 {
        client.complete_snapshot(2 * SOON).await;
    }
    assert!(writers.iter().all(|writer| !writer.is_finished()), "a writer has ended");
    writers.iter().for_each(|writer| writer.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_create_is_the_same_snapshot_and_changes_no_part() {
    let cluster =
        Cluster::start(3, Options { snapshot_store: SnapshotStore::Own, ..Options::default() })
            .await;
    let client = cluster.client();
    fill(&client, "shop", 1).await;
    let name = Bytes::from_static(&[7; 16]);
    let begun = client.create_snapshot_named(name.clone()).await.unwrap();
    let first = client.snapshot_resolved(&begun.uuid, SOON).await;
    client.put("shop", Bucket::Default, "later", "v").await.unwrap();
    assert_eq!(
        cluster.nodes[1].client().create_snapshot_named(name).await.unwrap().uuid,
        begun.uuid
    );
    let second = client.snapshot_resolved(&begun.uuid, SOON).await;
    let digests = |snapshot: &Snapshot| {
        snapshot.parts.iter().map(|part| part.manifest_digest.clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(&first), digests(&second));
    assert_eq!(client.snapshots().await.unwrap().len(), 1);
    client.delete_snapshot(&begun.uuid).await.unwrap();
    client.snapshot_deleted(&begun.uuid, SOON).await;
    assert_eq!(client.snapshots().await.unwrap(), Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_leaves_newer_snapshots_as_they_are() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    fill(&client, "shop", 1).await;
    let older = client.complete_snapshot(SOON).await;
    fill(&client, "depot", 1).await;
    let newer = client.complete_snapshot(SOON).await;
    let tars = cluster.download_all(&older.uuid).await;
    let store = cluster.nodes[0].snapshot_store.clone().unwrap();
    let listing = format!(
        "cd {} && find . -path '*{}*' -type f | sort | xargs sha256sum",
        store.display(),
        newer.uuid
    );
    let before = shell(&listing, SOON).await.exits(0).out();

    cluster.lose_every_disk();
    cluster.restore(&tars).await;
    assert_eq!(shell(&listing, SOON).await.exits(0).out(), before);
    cluster.client().complete_snapshot(SOON).await;
    assert_eq!(shell(&listing, SOON).await.exits(0).out(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_changes_on_while_a_snapshot_is_captured() {
    let cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    fill(&client, "shop", 32).await;
    let clock = Clock::start();
    let uuid = client.create_snapshot().await.unwrap().uuid;
    let mut longest = Duration::ZERO;
    for number in 0.. {
        let began = clock.now();
        client.add_site(&format!("during{number}")).await.unwrap();
        longest = longest.max(clock.now() - began);
        if client.snapshot(&uuid).await.unwrap().status() != SnapshotStatus::Processing {
            break;
        }
    }
    assert!(longest < CONFIGURATION_WAITS_MAX, "adding a site took {longest:?} during a snapshot");
}
