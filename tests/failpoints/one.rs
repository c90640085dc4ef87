//! Crashes of a cluster of one node, and of `ddbctl` beside it.

use std::{
    fs,
    path::{Path, PathBuf},
    slice,
};

use bytes::Bytes;
use devicedb::{
    base::limits, faults::failpoint::Failpoint, part::seal::Identity, proto::v1::Bucket,
};

use crate::{
    crash::{
        Books, Crash, Prepared, SITES, Writers, add_sites, ask_for_snapshot, recovers,
        snapshots_work, until_done, verify,
    },
    harness::{Cluster, Options, SOON, eventually, shell},
};

const NAME: Bytes = Bytes::from_static(&[9; 16]);

pub async fn founding(crash: Crash) {
    let mut cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    crash.kills(slice::from_mut(&mut node), async {}).await;
    cluster.nodes.push(node);
    cluster.restart_all().await;
    add_sites(&cluster).await;
    recovers(&mut cluster, Vec::new(), &mut Books::default()).await;
    snapshots_work(&cluster, None).await;
}

pub async fn init(crash: Crash) {
    let mut cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let at = node.args.iter().position(|word| word == "--found").expect("the first node founds");
    node.args.splice(at..=at, ["--join".to_string(), node.endpoint()]);
    let client = node.client();
    crash
        .kills(slice::from_mut(&mut node), async {
            drop(until_done(async || client.init_cluster().await).await)
        })
        .await;
    node.start();
    until_done(async || client.init_cluster().await).await;
    node.wait_ready().await;
    cluster.nodes.push(node);
    add_sites(&cluster).await;
    recovers(&mut cluster, Vec::new(), &mut Books::default()).await;
    snapshots_work(&cluster, None).await;
}

pub async fn start(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    let left =
        leave_unfinished(cluster.nodes[0].snapshot_store.as_deref().expect("it takes snapshots"));
    crash.kills(&mut cluster.nodes, async {}).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    for path in left {
        assert!(!path.exists(), "{} was left behind", path.display());
    }
    snapshots_work(&cluster, Some(&prepared.uuid)).await;
}

/// A start that draws the node's own seal.
pub async fn sealing(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    let recipient = Identity::draw().recipient();
    cluster.nodes[0].args.extend(["--seal-to".into(), recipient.to_string()]);
    crash.kills(&mut cluster.nodes, async {}).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    let store = &cluster.nodes[0].store;
    assert!(store.join("seal.json").exists() && !store.join("seal.json.new").exists());
    snapshots_work(&cluster, Some(&prepared.uuid)).await;
}

/// What a process leaves in its corner of a snapshot store when it dies while it writes a part.
fn leave_unfinished(snapshot_store: &Path) -> [PathBuf; 3] {
    let home = fs::read_dir(snapshot_store)
        .unwrap()
        .next()
        .expect("the node has its corner")
        .unwrap()
        .path();
    let chunks = home.join("chunks").join("00");
    let left = [
        home.join("aside").join("7"),
        chunks.join("00".repeat(32)),
        home.join("snapshots").join("19a7e40e-adcc-4cc2-87a7-ae599272b050"),
    ];
    fs::create_dir_all(chunks).unwrap();
    fs::write(&left[0], "half a chunk").unwrap();
    fs::write(&left[1], "a chunk of no part").unwrap();
    fs::create_dir(&left[2]).unwrap();
    left
}

pub async fn writes(crash: Crash, prepared: &Prepared) {
    let (mut cluster, mut books) = (prepared.copy().await, prepared.books.clone());
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    crash.kills(&mut cluster.nodes, async {}).await;
    recovers(&mut cluster, vec![writers], &mut books).await;
}

/// Large values make a checkpoint begin at once, and what is known of the sites does not change by
/// them: they stand under one key of another bucket.
pub async fn checkpoint(crash: Crash, prepared: &Prepared) {
    let (mut cluster, mut books) = (prepared.copy().await, prepared.books.clone());
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    let (client, value) = (cluster.nodes[0].client(), vec![7; limits::VALUE_BYTES_MAX]);
    let filling = async move {
        for _ in 0..limits::OVERLAY_CHECKPOINT_BYTES / limits::VALUE_BYTES_MAX {
            until_done(async || client.put(SITES[0], Bucket::Lww, "large", &value).await).await;
        }
    };
    crash.kills(&mut cluster.nodes, filling).await;
    recovers(&mut cluster, vec![writers], &mut books).await;
    snapshots_work(&cluster, Some(&prepared.uuid)).await;
}

pub async fn snapshot(crash: Crash, prepared: &Prepared) {
    let (mut cluster, mut books) = (prepared.copy().await, prepared.books.clone());
    let writers = Writers::start(&cluster.clients(), "meanwhile");
    let asking = ask_for_snapshot(cluster.clients(), NAME);
    crash.kills(&mut cluster.nodes, asking).await;
    recovers(&mut cluster, vec![writers], &mut books).await;
    // Whether it was begun before the crash or not, it is the same snapshot.
    let interrupted = cluster.client().create_snapshot_named(NAME).await.unwrap();
    snapshots_work(&cluster, Some(&interrupted.uuid)).await;
    snapshots_work(&cluster, Some(&prepared.uuid)).await;
}

pub async fn delete(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    let (client, uuid) = (cluster.nodes[0].client(), prepared.uuid.clone());
    crash
        .kills(&mut cluster.nodes, async move {
            until_done(async || client.delete_snapshot(&uuid).await).await
        })
        .await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    let again = cluster.client().delete_snapshot(&prepared.uuid).await;
    assert!(
        again.is_ok() || again.as_ref().is_err_and(|e| e.code() == tonic::Code::NotFound),
        "{again:?}"
    );
    cluster.client().snapshot_deleted(&prepared.uuid, SOON).await;
    let store = cluster.nodes[0].snapshot_store.clone().expect("it takes snapshots");
    assert_eq!(files(&store), 0, "a deleted part takes room in {}", store.display());
    snapshots_work(&cluster, None).await;
}

/// Files of parts.
fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("owner.json"));
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

pub async fn upload(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    let place = with_repository(&mut cluster).await;
    let (client, uuid) = (cluster.nodes[0].client(), prepared.uuid.clone());
    let asking = async move {
        until_done(async || client.upload_snapshot(&uuid).await.map(drop)).await;
    };
    crash.kills(&mut cluster.nodes, asking).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    let upload = cluster.ctl(&["snapshot", "upload", &prepared.uuid]).await.exits(0);
    upload.says("stored = ");
    shell(&format!("ddbctl repository verify {place}"), SOON).await.exits(0).says("sound");
    let status = shell(&format!("ddbctl repository status {place}"), SOON).await.exits(0);
    assert!(!status.out().contains("left over"), "{}", status.story());
    snapshots_work(&cluster, Some(&prepared.uuid)).await;
}

/// The run is in its schedule's row, so it goes on after the restart, with the same snapshot.
pub async fn scheduled(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    let place = with_repository(&mut cluster).await;
    let endpoint = cluster.nodes[0].endpoint();
    let asking = async move {
        let ctl = format!("ddbctl --timeout 2s --endpoint {endpoint} schedule");
        let line = format!("{ctl} create monthly --cron @monthly && {ctl} run monthly");
        until_done(async || shell(&line, SOON).await.code.filter(|code| *code == 0).ok_or(()))
            .await;
    };
    crash.kills(&mut cluster.nodes, asking).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    let uuid = eventually("a run has ended well", SOON, async || {
        let ran = cluster.ctl(&["schedule", "get", "monthly", "-o", "json"]).await.exits(0);
        let seen: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        let stored = seen["stored"]["uuid"].as_str().map(str::to_owned);
        assert!([&seen["missed"], &seen["skipped"]].iter().all(|n| **n == 0), "{seen}");
        if stored.is_none() && seen["failures"] != 0 {
            // Its node died while the snapshot was being taken, so that has failed, and is said.
            assert!(seen["problem"].as_str().unwrap().contains("is not completed"), "{seen}");
            // The next run is another one. It is refused while one is under way.
            cluster.ctl(&["schedule", "run", "monthly"]).await;
        }
        stored.ok_or(seen.to_string())
    })
    .await;
    shell(&format!("ddbctl repository verify {place}"), SOON).await.exits(0).says("sound");
    let list = shell(&format!("ddbctl repository list {place}"), SOON).await.exits(0);
    assert_eq!(list.out().matches(&uuid).count(), 1, "{}", list.story());
    snapshots_work(&cluster, Some(&prepared.uuid)).await;
}

/// Gives a node that is to start a repository, and says where.
pub async fn with_repository(cluster: &mut Cluster) -> String {
    let place = cluster.dir().join("repository").display().to_string();
    shell(&format!("ddbctl repository init {place}"), SOON).await.exits(0);
    cluster.nodes[0].args.extend(["--repository".to_owned(), place.clone()]);
    place
}

pub async fn download(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    let tar = cluster.dir().join("part.tar");
    let (node, words) = (
        cluster.nodes[0].endpoint(),
        format!("--timeout 2s snapshot download {} --output {}", prepared.uuid, tar.display()),
    );
    let line = format!("ddbctl --endpoint {node} {words} --resume");
    let deed = async move {
        let begun = |line: String| async move {
            shell(&line, SOON).await.code.filter(|code| *code == 0).ok_or(())
        };
        until_done(async || begun(line.clone()).await).await;
    };
    crash.kills(&mut cluster.nodes, deed).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    resumes(&cluster, &prepared.uuid, &tar, &prepared.tar).await;
}

/// A download that was cut short goes on, and gives the very part.
async fn resumes(cluster: &Cluster, uuid: &str, tar: &Path, whole: &Path) {
    let output = tar.display().to_string();
    cluster.ctl(&["snapshot", "download", uuid, "--output", &output, "--resume"]).await.exits(0);
    assert!(fs::read(tar).unwrap() == fs::read(whole).unwrap(), "{output} is not the part");
    assert!(!Path::new(&format!("{output}.partial")).exists());
    verify(cluster, &[tar.to_owned()]).await;
}

pub async fn fetch(crashes: &[Crash], prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    cluster.restart_all().await;
    for crash in crashes {
        let tar = cluster.dir().join(format!("{}.tar", crash.point.name()));
        let line = format!(
            "ddbctl --endpoint {} snapshot download {} --output {}",
            cluster.nodes[0].endpoint(),
            prepared.uuid,
            tar.display()
        );
        crash.kills_command(&line).await;
        let whole = fs::read(&prepared.tar).unwrap();
        assert!(
            !tar.exists() || fs::read(&tar).unwrap() == whole,
            "half a part has the name of a whole one"
        );
        resumes(&cluster, &prepared.uuid, &tar, &prepared.tar).await;
    }
}

pub async fn restore(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.extracted().await;
    crash.kills(&mut cluster.nodes, async {}).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    let store = cluster.nodes[0].store.clone();
    for left in ["manifest.json", "chunks", "restoring"] {
        assert!(!store.join(left).exists(), "{left} was left behind");
    }
    snapshots_work(&cluster, None).await;
}

/// A cluster that is made of a snapshot in a repository.
pub async fn seed(crash: Crash, prepared: &Prepared) {
    let mut cluster = prepared.seeded();
    crash.kills(&mut cluster.nodes, async {}).await;
    recovers(&mut cluster, Vec::new(), &mut prepared.books.clone()).await;
    let node = &cluster.nodes[0];
    for left in ["restoring", "founding", "node-id"] {
        assert!(!node.store.join(left).exists(), "{left} was left behind");
    }
    let again = node.log().contains("there is a store: --restore-from changes nothing");
    assert_eq!(again, crash.point == Failpoint::SeedInPlace, "{}", node.log_end());
    snapshots_work(&cluster, None).await;
}

pub async fn site(crash: Crash, prepared: &Prepared) {
    let (mut cluster, mut books) = (prepared.copy().await, prepared.books.clone());
    let client = cluster.nodes[0].client();
    let deed = async move {
        until_done(async || client.add_site("new").await).await;
        until_done(async || client.put("new", Bucket::Default, "k", "v").await).await;
        until_done(async || client.remove_site("new").await).await;
    };
    crash.kills(&mut cluster.nodes, deed).await;
    recovers(&mut cluster, Vec::new(), &mut books).await;
    let client = cluster.client();
    let again = client.remove_site("new").await;
    assert!(
        again.is_ok() || again.as_ref().is_err_and(|e| e.code() == tonic::Code::NotFound),
        "{again:?}"
    );
    client.add_site("new").await.unwrap();
    assert_eq!(client.scan("new", Bucket::Default, "").await.unwrap(), []);
    recovers(&mut cluster, Vec::new(), &mut books).await;
}
