//! Disks that are too small, or belong to somebody else.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use devicedb::{
    base::{clock::Random, space::Space},
    proto::v1::{Bucket, SnapshotStatus},
};

use crate::{
    departures::ends_well,
    harness::{
        Client, Cluster, Node, Options, SOON, SnapshotStore, binary, eventually, http_get, shell,
    },
    members::id_of,
    starts::contents,
};

/// Somebody else than whoever runs the tests.
const STRANGER: u32 = 12_345;

/// Values that no compression makes small.
async fn fill(client: &Client, site: &str, values: usize, bytes: usize) {
    client.add_site(site).await.unwrap();
    let mut rng = Random::seeded(7);
    for number in 0..values {
        let value: Vec<u8> = (0..bytes / 8).flat_map(|_| rng.next_u64().to_be_bytes()).collect();
        client.put(site, Bucket::Default, format!("{number:04}"), value).await.unwrap();
    }
}

/// A cluster of one node that has lost its disk, and its part.
async fn lost(mebibytes: usize) -> (Cluster, PathBuf) {
    let mut cluster = Cluster::start(1, Options::default()).await;
    fill(&cluster.client(), "shop", mebibytes, 1 << 20).await;
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
    let tar = cluster.download_all(&uuid).await.remove(0);
    cluster.lose_every_disk();
    fs::create_dir(&cluster.nodes[0].store).unwrap();
    (cluster, tar)
}

async fn extract(tar: &Path, into: &Path) {
    shell(&format!("tar xf {} -C {}", tar.display(), into.display()), SOON).await.exits(0);
}

async fn is_restored(cluster: &mut Cluster, mebibytes: usize) {
    cluster.settled().await;
    assert_eq!(cluster.client().scan("shop", Bucket::Default, "").await.unwrap().len(), mebibytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_a_node_may_not_move_stays_as_it_is_and_is_restored_once_it_may() {
    let (mut cluster, tar) = lost(1).await;
    let store = cluster.nodes[0].store.clone();
    extract(&tar, &store).await;
    let chunks = store.join("chunks");
    // Root without its rights is a user like others, and what another user owns is what root
    // extracted.
    cluster.nodes[0].under =
        ["unshare", "--user", "--map-root-user", "setpriv", "--bounding-set=-all"]
            .map(str::to_string)
            .to_vec();
    let others = rustix::process::geteuid().is_root();
    match others {
        true => chown(&chunks, Some(STRANGER), None).unwrap(),
        false => fs::set_permissions(&chunks, fs::Permissions::from_mode(0o555)).unwrap(),
    }
    let before = contents(&store);
    for _ in 0..2 {
        let refused = cluster.nodes[0].start_refused().await.exits(1).says("stays as it was");
        let refused =
            refused.says(&format!("{} cannot be moved: Permission denied", chunks.display()));
        refused.says(if others { "belongs to user" } else { "See to its permissions" });
        assert!(contents(&store) == before, "a refused start has changed the part");
    }
    cluster.ctl(&["snapshot", "verify", store.to_str().unwrap()]).await.exits(0);
    // The store directory itself: nothing can be made in it.
    fs::set_permissions(&store, fs::Permissions::from_mode(0o555)).unwrap();
    cluster.nodes[0]
        .start_refused()
        .await
        .exits(1)
        .says("restoring cannot be made: Permission denied");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();

    match others {
        true => chown(&chunks, Some(0), None).unwrap(),
        false => fs::set_permissions(&chunks, fs::Permissions::from_mode(0o755)).unwrap(),
    }
    cluster.nodes[0].start();
    is_restored(&mut cluster, 1).await;
    for left in ["manifest.json", "chunks", "restoring"] {
        assert!(!store.join(left).exists(), "{left} was left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_whose_store_has_no_room_stays_as_it_is_and_is_restored_once_there_is() {
    let (mut cluster, tar) = lost(4).await;
    let store = cluster.nodes[0].store.display().to_string();
    // Its directory is a small disk of its own, which grows after two starts.
    let story = format!(
        r#"mount -t tmpfs -o size=8m small "$0" && tar xof {tar} -C "$0" || exit 9
        for start in 1 2; do "$@"; echo "exit $?, and there are" $(ls "$0"); done
        {ddbctl} snapshot verify "$0" && mount -o remount,size=128m "$0" && exec "$@""#,
        tar = tar.display(),
        ddbctl = binary("ddbctl").display(),
    );
    cluster.nodes[0].under =
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &story, &store]
            .map(str::to_string)
            .to_vec();
    cluster.nodes[0].start();
    is_restored(&mut cluster, 4).await;
    let log = cluster.nodes[0].log();
    for said in
        ["stays as it was: its store takes about ", "exit 1, and there are chunks manifest.json"]
    {
        assert_eq!(log.matches(said).count(), 2, "{said:?} in\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_halfway_leaves_the_part_as_it_was() {
    let (mut cluster, tar) = lost(4).await;
    let store = cluster.nodes[0].store.clone();
    extract(&tar, &store).await;
    let before = contents(&store);
    // No file may become as large as the store has to.
    let small_files = r#"trap "" XFSZ; exec prlimit --fsize=4194304 "$@""#;
    cluster.nodes[0].under = ["sh", "-c", small_files, "sh"].map(str::to_string).to_vec();
    for _ in 0..2 {
        cluster.nodes[0]
            .start_refused()
            .await
            .exits(1)
            .says("stays as it was")
            .says("File too large");
        assert!(contents(&store) == before, "a restore that failed has changed the part");
    }
    cluster.ctl(&["snapshot", "verify", store.to_str().unwrap()]).await.exits(0);
    cluster.nodes[0].under.clear();
    cluster.nodes[0].start();
    is_restored(&mut cluster, 4).await;
}

/// Moves a node's directories onto one small disk of its own, and starts it there. Where the disk
/// is seen from outside.
fn start_on_a_small_disk(node: &mut Node, dir: &Path, mebibytes: u32) -> PathBuf {
    let disk = dir.join(format!("{}-disk", node.name));
    fs::create_dir(&disk).unwrap();
    let mount = format!(
        r#"mount -t tmpfs -o size={mebibytes}m small "$0" && mkdir "$0/snapshots" && exec "$@""#
    );
    let snapshot_store =
        node.snapshot_store.replace(disk.join("snapshots")).unwrap().display().to_string();
    let store = std::mem::replace(&mut node.store, disk.join("store")).display().to_string();
    for word in &mut node.args {
        if *word == store {
            *word = node.store.display().to_string();
        } else if *word == snapshot_store {
            *word = disk.join("snapshots").display().to_string();
        }
    }
    node.under = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        &mount,
        disk.to_str().unwrap(),
    ]
    .map(str::to_string)
    .to_vec();
    node.start();
    PathBuf::from(format!("/proc/{}/root{}", node.pid(), disk.display()))
}

/// Takes room from a disk until so many bytes are free. What takes it.
fn leave_free(disk: &Path, bytes: u64) -> PathBuf {
    let ballast = disk.join("ballast");
    let takes = Space::of(disk).unwrap().free - bytes;
    let file = fs::File::create(&ballast).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, takes).unwrap();
    ballast
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_would_fill_the_disk_of_the_store_fails_and_writes_go_on() {
    let mut cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let disk = start_on_a_small_disk(&mut node, cluster.dir(), 256);
    node.wait_ready().await;
    cluster.nodes.push(node);
    let client = cluster.client();
    cluster.nodes[0].says("store and snapshot store lie on one file system").await;
    fill(&client, "shop", 240, 100 << 10).await;

    // All rows go to the store, so that it takes no more room; the part of them does not stay.
    let first = client.complete_snapshot(SOON).await;
    client.delete_snapshot(&first.uuid).await.unwrap();
    let listing = format!("find {} -type f ! -name owner.json", disk.join("snapshots").display());
    eventually("the first part is gone", SOON, async || {
        let files = shell(&listing, SOON).await.out();
        if files.is_empty() { Ok(()) } else { Err(files) }
    })
    .await;

    let floor = Space::of(&disk).unwrap().floor();
    let ballast = leave_free(&disk, floor + (6 << 20));
    let begun = client.create_snapshot().await.unwrap();
    for number in 0..20 {
        client.put("shop", Bucket::Default, format!("meanwhile-{number}"), "v").await.unwrap();
    }
    let snapshot = client.snapshot_resolved(&begun.uuid, SOON).await;
    assert_eq!(snapshot.status(), SnapshotStatus::Failed, "{snapshot:#?}");
    let dir = cluster.nodes[0].snapshot_store.clone().unwrap();
    for said in [
        dir.to_str().unwrap(),
        " bytes are free, ",
        &format!(" more are to be written, and {floor} are kept free for the stores of nodes"),
    ] {
        assert!(snapshot.reason.contains(said), "{said:?} in {:?}", snapshot.reason);
    }
    for number in 0..20 {
        client.put("shop", Bucket::Default, format!("afterwards-{number}"), "v").await.unwrap();
    }
    let metrics = http_get(&cluster.nodes[0].endpoint(), "/metrics").await.unwrap().1;
    for directory in ["store", "snapshot_store"] {
        assert!(
            metrics.contains(&format!(
                "devicedb_disk_floor_bytes{{directory=\"{directory}\"}} {floor}\n"
            )),
            "{metrics}"
        );
        assert!(
            metrics.contains(&format!("devicedb_disk_free_bytes{{directory=\"{directory}\"}} ")),
            "{metrics}"
        );
    }
    // Below the floor the store is not even looked at for long: meanwhile it could not use space
    // again.
    fs::remove_file(&ballast).unwrap();
    leave_free(&disk, floor - (1 << 20));
    let begun = client.create_snapshot().await.unwrap();
    let reason = client.snapshot_resolved(&begun.uuid, SOON).await.reason;
    let said = format!("its disk is nearly full: {}: ", cluster.nodes[0].store.display());
    assert!(reason.contains(&said), "{said:?} in {reason:?}");
    client.put("shop", Bucket::Default, "below the floor", "v").await.unwrap();
    // What snapshots had written is given back, and with some room the next one works.
    fs::remove_file(&ballast).unwrap();
    client.complete_snapshot(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_for_a_new_node_never_take_the_last_room_of_its_disk() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    fill(&cluster.client(), "shop", 80, 100 << 10).await;
    let mut node = cluster.further();
    // All rows are of one group, and come to more than half of this disk.
    let disk = start_on_a_small_disk(&mut node, cluster.dir(), 16);
    eventually("the new node says that it has no room", SOON, async || {
        if node.log().contains("no room for its rows") { Ok(()) } else { Err(node.log_end()) }
    })
    .await;
    let space = Space::of(&disk).unwrap();
    assert!(space.free >= space.floor(), "{space:?}");
    cluster.client().put("shop", Bucket::Default, "meanwhile", "v").await.unwrap();
    let grow = format!(
        "nsenter --target {} --user --preserve-credentials --mount mount -o remount,size=128m {}",
        node.pid(),
        node.store.parent().unwrap().display()
    );
    shell(&grow, SOON).await.exits(0);
    cluster.nodes.push(node);
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_without_room_is_refused_until_there_is_room() {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut cluster = Cluster::start(2, options).await;
    fill(&cluster.client(), "shop", 160, 100 << 10).await;
    let old = id_of(&cluster, &cluster.nodes[1]).await.to_string();
    let mut node = cluster.further();
    node.args.push("--replacement".into());
    start_on_a_small_disk(&mut node, cluster.dir(), 16);
    node.wait_ready().await;
    let by = id_of(&cluster, &node).await.to_string();
    let replace = ["node", "replace", &old, &by];
    let plan = cluster.ctl(&["node", "replace", &old, &by, "--dry-run"]).await.exits(1);
    plan.says(&format!("NO_ROOM refuses, unless forced: node {by} has room for"));
    cluster.ctl(&replace).await.exits(5).says("and gets about");
    // Nor does it get there by another way.
    let set = ["node", "set", &by, "--capacity", "100"];
    let plan = cluster.ctl(&[&set[..], &["--dry-run"]].concat()).await.exits(1);
    plan.says(&format!("NO_ROOM refuses, unless forced: node {by} has room for"));
    cluster.ctl(&set).await.exits(5).says("does not get a capacity of 100 %: node");
    cluster.ctl(&["cluster", "rebalance", "--dry-run"]).await.exits(0);
    // Somebody goes over that: then it waits, says why, and remembers what it was forced over.
    let forced = [&replace[..], &["--force"]].concat();
    cluster.ctl(&forced).await.exits(0).says("is leaving");
    let list = ["-o", "json", "operation", "list", "--running"];
    eventually("the operation says that there is no room", SOON, async || {
        let seen = cluster.ctl(&list).await;
        if seen.out().contains("\"reason\": \"no room\"") { Ok(()) } else { Err(seen.story()) }
    })
    .await;
    cluster.ctl(&list).await.exits(0).says(&format!("node {by} has room for"));
    let grow = format!(
        "nsenter --target {} --user --preserve-credentials --mount mount -o remount,size=256m {}",
        node.pid(),
        node.store.parent().unwrap().display()
    );
    shell(&grow, SOON).await.exits(0);
    cluster.ctl(&[&replace[..], &["--wait"]].concat()).await.exits(0).says("is decommissioned");
    ends_well(&mut cluster.nodes[1]).await;
    cluster.nodes[1] = node;
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_onto_a_node_without_room_is_refused_until_there_is_room() {
    let mut cluster = Cluster::start(2, Options::default()).await;
    let mut small = cluster.further();
    start_on_a_small_disk(&mut small, cluster.dir(), 16);
    small.wait_ready().await;
    let id = id_of(&cluster, &small).await;
    cluster.nodes.push(small);
    cluster.settled().await;
    // Others take its places while it is away, and it comes back to a cluster that has grown.
    cluster.nodes[2].pause().await;
    let mut fourth = cluster.further();
    fourth.start();
    fourth.wait_ready().await;
    cluster.nodes.push(fourth);
    fill(&cluster.client(), "shop", 160, 100 << 10).await;
    cluster.nodes[2].resume();
    cluster.settled().await;
    let told = format!("NO_ROOM refuses, unless forced: node {id} has room for");
    let plan = ["cluster", "rebalance", "--dry-run"];
    eventually("it has no room for what it would get", SOON, async || {
        let ran = cluster.ctl(&plan).await;
        if ran.story().contains(&told) { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    cluster.ctl(&plan).await.exits(1);
    cluster.ctl(&["cluster", "rebalance"]).await.exits(5).says("the groups stay where they are");
    let small = &cluster.nodes[2];
    let grow = format!(
        "nsenter --target {} --user --preserve-credentials --mount mount -o remount,size=256m {}",
        small.pid(),
        small.store.parent().unwrap().display()
    );
    shell(&grow, SOON).await.exits(0);
    cluster.ctl(&plan).await.exits(0);
    cluster.ctl(&["cluster", "rebalance", "--wait"]).await.exits(0);
    cluster.settled().await;
    let holds = cluster.client().overview().await.unwrap();
    let held = holds.nodes.iter().find(|node| node.id == id).unwrap().groups_wanted;
    assert!(held > 0, "{holds:#?}");
}
