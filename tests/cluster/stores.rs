//! What lies in snapshot stores: who may use it, what is said of it when it is gone or broken, and
//! how it goes.

use std::{fs, path::PathBuf};

use devicedb::proto::v1::{Bucket, Snapshot, SnapshotStatus};

use crate::{
    harness::{Client, Cluster, Node, Options, Port, Ran, SOON, SnapshotStore, eventually, shell},
    members::{id_of, lose},
};

const UNKNOWN: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";

async fn put(client: &Client, site: &str, value: &str) {
    client.add_site(site).await.unwrap();
    for number in 0..20 {
        client
            .put(site, Bucket::Default, format!("k{number}"), format!("{value} {number}"))
            .await
            .unwrap();
    }
}

/// A node's corner of its snapshot store.
fn corner(node: &Node, snapshot: &Snapshot) -> PathBuf {
    let part = snapshot
        .parts
        .iter()
        .find(|p| p.address == node.endpoint())
        .unwrap_or_else(|| panic!("no part of {}: {snapshot:#?}", node.name));
    node.snapshot_store.clone().unwrap().join(format!("node-{}", part.node_id))
}

/// All files of parts in a corner, with what they hold.
async fn parts_in(corner: &std::path::Path) -> String {
    shell(
        &format!(
            "cd {} && find chunks snapshots -type f | sort | xargs -r sha256sum",
            corner.display()
        ),
        SOON,
    )
    .await
    .exits(0)
    .out()
}

/// Waits until no file of any part is left in a corner: who deletes is not told of the last one.
async fn is_emptied(corner: &std::path::Path) {
    eventually("what was deleted takes no room", SOON, async || match parts_in(corner).await {
        none if none.is_empty() => Ok(()),
        left => Err(left),
    })
    .await
}

/// Whether a part can be put together from a corner as the guide says, every byte of it.
async fn lies_whole(corner: &std::path::Path, uuid: &str) -> Ran {
    let line = format!(
        r#"set -e; part=$(mktemp -d); trap 'rm -rf "$part"' EXIT; mkdir "$part/chunks"
        cp {corner}/snapshots/{uuid}/manifest.json "$part/"
        grep -o '"hash":"[0-9a-f]*"' "$part/manifest.json" | cut -d'"' -f4 | while read -r h; do
            cp "{corner}/chunks/$(printf %.2s "$h")/$h" "$part/chunks/"
        done
        ddbctl snapshot verify "$part""#,
        corner = corner.display()
    );
    shell(&line, SOON).await.exits(0)
}

/// A node on a part of another one, as in a drill: the same node id, another address, another
/// store.
async fn drill(cluster: &Cluster, tar: &std::path::Path, snapshot_store: &std::path::Path) -> Node {
    let store = cluster.dir().join("drill");
    shell(&format!("mkdir {0} && tar xf {1} -C {0}", store.display(), tar.display()), SOON)
        .await
        .exits(0);
    let port = Port::claim();
    let words = [
        "start",
        "--store",
        store.to_str().unwrap(),
        "--listen",
        &port.endpoint(),
        "--snapshot-store",
        snapshot_store.to_str().unwrap(),
    ];
    let args = words.map(str::to_string).to_vec();
    Node::new("drill", port, cluster.dir(), store, args)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_beside_production_is_refused_its_snapshot_store_and_harms_nothing() {
    let production = Cluster::start(1, Options::default()).await;
    let client = production.client();
    put(&client, "shop", "old").await;
    let first = client.complete_snapshot(SOON).await;
    let tars = production.download_all(&first.uuid).await;
    let corner = corner(&production.nodes[0], &first);
    // Something that a capture is just writing: a start of another process used to take it away.
    let aside = corner.join("aside/7");
    fs::write(&aside, "half a chunk").unwrap();

    let mut drill =
        drill(&production, &tars[0], production.nodes[0].snapshot_store.as_ref().unwrap()).await;
    let refused = drill
        .start_refused()
        .await
        .says(corner.to_str().unwrap())
        .says("is in use by node")
        .says("another --snapshot-store");
    refused.says(&production.nodes[0].endpoint()).says(&first.lineage);
    assert!(
        aside.exists(),
        "a start that was refused has emptied aside/ under the one that holds it"
    );
    fs::remove_file(aside).unwrap();

    // With a snapshot store of its own it lives, and cannot delete what it does not own.
    put(&client, "shop", "new").await;
    let second = client.complete_snapshot(SOON).await;
    let own = production.dir().join("drill-snapshots");
    fs::create_dir(&own).unwrap();
    drill.args.last_mut().unwrap().clone_from(&own.display().to_string());
    drill.start();
    drill.wait_ready().await;
    let before = parts_in(&corner).await;
    drill.client().complete_snapshot(SOON).await;
    drill
        .ctl(&["snapshot", "delete", &first.uuid])
        .await
        .exits(5)
        .says(&format!("--lineage {}", first.lineage));
    drill.ctl(&["snapshot", "delete", &first.uuid, "--lineage", &first.lineage]).await.exits(0);
    drill.ctl(&["snapshot", "delete", &second.uuid]).await.exits(5);
    assert_eq!(parts_in(&corner).await, before);
    for snapshot in [&first, &second] {
        production.ctl(&["snapshot", "status", &snapshot.uuid]).await.exits(0).says("completed");
        lies_whole(&corner, &snapshot.uuid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_uses_its_snapshot_stores_and_touches_nothing_of_the_old_one() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    put(&client, "shop", "old").await;
    let older = client.complete_snapshot(SOON).await;
    put(&client, "shop", "new").await;
    let newer = client.complete_snapshot(SOON).await;
    let tars = cluster.download_all(&older.uuid).await;
    let corners: Vec<PathBuf> = cluster.nodes.iter().map(|node| corner(node, &older)).collect();
    cluster.ctl(&["snapshot", "orphans"]).await.exits(0);
    cluster.lose_every_disk();
    cluster.restore(&tars).await;
    let (client, lineage) = (cluster.client(), older.lineage.as_str());

    // What was taken after the cut is unknown now: it is listed on every node, and deleted only
    // when its history is named.
    let listed = cluster.ctl(&["-o", "json", "snapshot", "orphans"]).await.exits(0);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let orphans = listed["orphans"].as_array().unwrap();
    let is_newer = |o: &serde_json::Value| {
        o["uuid"] == newer.uuid.as_str()
            && o["lineage"] == lineage
            && o["stored_bytes"].as_u64() > Some(0)
    };
    assert!(orphans.len() == 3 && orphans.iter().all(is_newer), "{listed:#}");
    cluster
        .ctl(&["snapshot", "delete", &newer.uuid])
        .await
        .exits(5)
        .says(&format!("--lineage {lineage}"));
    cluster
        .ctl(&["snapshot", "delete", &older.uuid])
        .await
        .exits(5)
        .says(&format!("--lineage {lineage}"));
    cluster
        .ctl(&["snapshot", "create", "--wait", "--uuid", &newer.uuid])
        .await
        .exits(1)
        .says("under another uuid");

    // The new history shares the chunks of the old one, and leaves them when its own parts go.
    let mine = client.complete_snapshot(SOON).await;
    assert!(
        mine.parts.iter().all(|part| part.bytes_written < part.bytes / 2),
        "nothing was shared: {mine:#?}"
    );
    cluster.ctl(&["snapshot", "delete", &mine.uuid]).await.exits(0).says("deleted");
    for corner in &corners {
        lies_whole(corner, &newer.uuid).await;
        lies_whole(corner, &older.uuid).await;
    }

    cluster
        .ctl(&["snapshot", "delete", &newer.uuid, "--lineage", lineage])
        .await
        .exits(0)
        .says("deleted what lay of it on");
    assert!(corners.iter().all(|corner| !corner.join("snapshots").join(&newer.uuid).exists()));
    cluster
        .ctl(&["snapshot", "delete", &newer.uuid, "--lineage", lineage])
        .await
        .exits(5)
        .says("no node has a part of it");
    cluster.ctl(&["snapshot", "delete", UNKNOWN]).await.exits(5).says("no node has a part of it");
    cluster.ctl(&["snapshot", "delete", &older.uuid, "--lineage", lineage]).await.exits(0);
    for corner in &corners {
        is_emptied(corner).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_snapshot_store_that_is_read_only_and_ends_when_it_can_be_written() {
    let mut cluster =
        Cluster::start(2, Options { snapshot_store: SnapshotStore::Own, ..Options::default() })
            .await;
    let mut third = cluster.further();
    let dir = third.snapshot_store.clone().unwrap().display().to_string();
    // The node sees its snapshot store through a mount of its own, which can be made read-only
    // under it.
    let on_a_mount = r#"mount --bind "$0" "$0" && exec "$@""#;
    third.under = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", on_a_mount, &dir]
        .map(str::to_string)
        .to_vec();
    third.start();
    third.wait_listening().await;
    let pid = third.pid();
    cluster.nodes.push(third);
    cluster.settled().await;
    let remount = async |how: &str| {
        let line = format!(
            "nsenter --target {pid} --user --mount --preserve-credentials mount -o \
             remount,bind,{how} {dir}"
        );
        shell(&line, SOON).await.exits(0);
    };
    let client = cluster.client();
    put(&client, "shop", "v").await;
    let snapshot = client.complete_snapshot(SOON).await;
    let corners: Vec<PathBuf> = cluster.nodes.iter().map(|node| corner(node, &snapshot)).collect();

    remount("ro").await;
    let address = cluster.nodes[2].endpoint();
    // A node that is busy has not said within the answer's time why it cannot.
    eventually("the deletion fails", SOON, async || {
        let ran = cluster.ctl(&["snapshot", "delete", &snapshot.uuid]).await;
        let ended = ran.code == Some(1)
            && [&address, "Read-only file system"].iter().all(|words| ran.stderr.contains(*words));
        if ended { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    cluster.ctl(&["snapshot", "list"]).await.exits(0).says(&snapshot.uuid).says("deleting");
    cluster
        .ctl(&["snapshot", "status", &snapshot.uuid])
        .await
        .exits(5)
        .says("is being deleted")
        .says("Read-only file system");
    cluster
        .ctl(&["snapshot", "create", "--uuid", &snapshot.uuid])
        .await
        .exits(5)
        .says("another one under a new uuid");
    // A node that can delete waits for none that cannot.
    is_emptied(&corners[0]).await;
    let left = parts_in(&corners[2]).await;
    assert!(left.contains("manifest.json"), "{left}");
    // The others go on: the snapshot in the way is none.
    let later = client.create_snapshot().await.unwrap();
    client.snapshot_resolved(&later.uuid, SOON).await;

    remount("rw").await;
    eventually("the snapshot is deleted everywhere", SOON, async || {
        let seen = client.snapshot(&snapshot.uuid).await.unwrap();
        if seen.status() == SnapshotStatus::Missing { Ok(()) } else { Err(format!("{seen:#?}")) }
    })
    .await;
    cluster.ctl(&["snapshot", "delete", &later.uuid]).await.exits(0);
    is_emptied(&corners[2]).await;
    client.snapshot_deleted(&later.uuid, SOON).await;
    assert_eq!(client.snapshots().await.unwrap(), Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_node_that_is_away_and_ends_when_it_is_back() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    put(&client, "shop", "v").await;
    let snapshot = client.complete_snapshot(SOON).await;
    let corners: Vec<PathBuf> = cluster.nodes.iter().map(|node| corner(node, &snapshot)).collect();
    cluster.nodes[2].kill9();
    cluster.settled().await;
    let away = cluster.nodes[2].endpoint();
    cluster
        .ctl(&["snapshot", "delete", &snapshot.uuid])
        .await
        .exits(0)
        .says("is being deleted")
        .says(&away)
        .says("when it is up");
    eventually("only the node that is away is waited for", SOON, async || {
        let pending = client.snapshot(&snapshot.uuid).await.unwrap();
        let waited_for: Vec<_> =
            pending.parts.iter().map(|part| (part.address.as_str(), part.status())).collect();
        let deleting = SnapshotStatus::Deleting;
        if (pending.status(), waited_for) == (deleting, vec![(away.as_str(), deleting)]) {
            Ok(())
        } else {
            Err(format!("{pending:#?}"))
        }
    })
    .await;
    is_emptied(&corners[0]).await;
    is_emptied(&corners[1]).await;
    assert!(parts_in(&corners[2]).await.contains("manifest.json"));
    // Nobody forgets it over a restart of all.
    cluster.kill9_all();
    cluster.restart_all().await;
    let client = cluster.client();
    eventually("the snapshot is deleted everywhere", SOON, async || {
        match client.snapshots().await {
            Ok(none) if none.is_empty() => Ok(()),
            seen => Err(format!("{seen:#?}")),
        }
    })
    .await;
    is_emptied(&corners[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_not_whole_on_disk_is_said_to_be_damaged_by_whichever_node_is_asked() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    let client = cluster.client();
    put(&client, "shop", "v").await;
    let snapshot = client.complete_snapshot(SOON).await;
    let corners: Vec<PathBuf> = cluster.nodes.iter().map(|node| corner(node, &snapshot)).collect();
    let chunk = |corner: &PathBuf| {
        let dirs = fs::read_dir(corner.join("chunks")).unwrap().map(|dir| dir.unwrap().path());
        dirs.flat_map(|dir| fs::read_dir(dir).unwrap())
            .next()
            .expect("a part has chunks")
            .unwrap()
            .path()
    };
    let damaged = async |clients: &[Client], node: usize, why: &str| {
        let address = cluster.nodes[node].endpoint();
        for client in clients {
            eventually(&format!("the part of {address} is damaged: {why}"), SOON, async || {
                let seen = client.snapshot(&snapshot.uuid).await.unwrap();
                let found = seen.parts.iter().find(|p| p.address == address).unwrap();
                if found.status() == SnapshotStatus::Damaged && found.reason.contains(why) {
                    Ok(())
                } else {
                    Err(format!("{seen:#?}"))
                }
            })
            .await;
        }
    };

    // Later snapshots have chunks of their own.
    let [gone, cut] = [chunk(&corners[0]), chunk(&corners[1])];
    fs::remove_file(&gone).unwrap();
    damaged(&cluster.clients(), 0, &format!("chunk {} is missing", gone.display())).await;
    let seen = client.snapshot(&snapshot.uuid).await.unwrap();
    assert_eq!(
        (seen.status(), seen.copies_min),
        (SnapshotStatus::Completed, 2),
        "the others hold everything: {seen:#?}"
    );
    let node = seen
        .parts
        .iter()
        .find(|p| p.status() == SnapshotStatus::Damaged)
        .unwrap()
        .node_id
        .to_string();
    cluster
        .ctl(&["snapshot", "status", &snapshot.uuid, "--node", &node])
        .await
        .exits(6)
        .says("is damaged")
        .says(gone.to_str().unwrap());
    cluster.ctl(&["snapshot", "status", &snapshot.uuid]).await.exits(0);

    // The next snapshot counts on no chunk that is not there.
    let next = client.complete_snapshot(SOON).await;
    lies_whole(&corners[0], &next.uuid).await;

    fs::write(&cut, "short").unwrap();
    damaged(&cluster.clients(), 1, &format!("chunk {} is damaged: it has 5 bytes", cut.display()))
        .await;
    for corner in &corners {
        fs::remove_dir_all(corner.join("snapshots").join(&snapshot.uuid)).unwrap();
    }
    for node in 0..3 {
        damaged(std::slice::from_ref(&client), node, "manifest.json is missing").await;
    }
    cluster
        .ctl(&["snapshot", "status", &snapshot.uuid])
        .await
        .exits(6)
        .says("no completed part holds")
        .says("manifest.json is missing");
    // After a restart nothing of it is known to the disks; the registry is not believed all the
    // same.
    cluster.kill9_all();
    cluster.restart_all().await;
    cluster
        .ctl(&["snapshot", "status", &snapshot.uuid])
        .await
        .exits(6)
        .says("has no part of it any more");
    cluster.ctl(&["snapshot", "delete", &snapshot.uuid]).await.exits(0);
}

/// A node that comes back with an empty store is another node, and uses another directory of the
/// same snapshot store. What the former one has left there is seen and removed through it.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_a_former_node_has_left_in_a_snapshot_store_are_listed_and_removed() {
    let mut cluster =
        Cluster::start(3, Options { snapshot_store: SnapshotStore::Own, ..Options::default() })
            .await;
    put(&cluster.client(), "shop", "v").await;
    let snapshot = cluster.client().complete_snapshot(SOON).await;
    let left = corner(&cluster.nodes[2], &snapshot);
    let former = id_of(&cluster, &cluster.nodes[2]).await.to_string();
    lose(&mut cluster.nodes[2]);
    cluster.nodes[2].start();
    cluster.nodes[2].wait_ready().await;
    let orphans = async |code| {
        let listed = cluster.ctl(&["-o", "json", "snapshot", "orphans"]).await.exits(code);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
        listed["orphans"].as_array().unwrap().clone()
    };
    assert_eq!(orphans(3).await, [] as [serde_json::Value; 0], "the snapshot is known");

    cluster.ctl(&["node", "remove", &former]).await.exits(0).says("is removed");
    cluster.ctl(&["snapshot", "delete", &snapshot.uuid]).await.exits(0);
    eventually("the deletion ends", SOON, async || {
        let status = cluster.ctl(&["snapshot", "status", &snapshot.uuid]).await;
        if status.stderr.contains("is being deleted") { Err(status.story()) } else { Ok(()) }
    })
    .await;
    lies_whole(&left, &snapshot.uuid).await;
    let listed = orphans(0).await;
    let now = id_of(&cluster, &cluster.nodes[2]).await.to_string();
    assert_eq!(listed.len(), 1, "{listed:#?}");
    assert_eq!(
        ["uuid", "lineage", "node_id", "left_by"].map(|field| listed[0][field].as_str().unwrap()),
        [snapshot.uuid.as_str(), snapshot.lineage.as_str(), now.as_str(), former.as_str()]
    );
    // Asked of another node than the one that has it.
    cluster.nodes[0]
        .ctl(&["snapshot", "delete", &snapshot.uuid])
        .await
        .exits(0)
        .says("deleted what lay of it on");
    is_emptied(&left).await;
    assert_eq!(orphans(0).await, [] as [serde_json::Value; 0]);
}
