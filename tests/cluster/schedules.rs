//! Backups on a schedule: what is due is taken and stored by the cluster itself, whoever dies, and
//! what keeps it from that is said.

use devicedb::{base::clock::Random, proto::v1::Bucket};
use serde_json::Value;

use crate::harness::{
    Cluster, Node, Options, Ran, SOON, SnapshotStore, eventually, http_get, shell,
};

const VALUE_BYTES: usize = 256 << 10;

/// Nodes with snapshot stores, and those of these numbers with a repository.
async fn cluster(nodes: usize, place: &str, with: &[usize], more: &[&str]) -> Cluster {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut cluster = Cluster::empty(options);
    for nth in 0..nodes {
        let mut node = cluster.further();
        if with.contains(&nth) {
            let words = ["--repository", place].into_iter().chain(more.iter().copied());
            node.args.extend(words.map(str::to_owned));
        }
        node.start();
        node.wait_listening().await;
        cluster.nodes.push(node);
    }
    cluster.settled().await;
    cluster.client().add_site("shop").await.unwrap();
    cluster
}

async fn put(cluster: &Cluster, keys: std::ops::Range<usize>, bytes: usize) {
    let client = cluster.client();
    for n in keys {
        let mut noise = Random::seeded(n as u64 + 1);
        let value: Vec<u8> = (0..bytes / 8).flat_map(|_| noise.next_u64().to_be_bytes()).collect();
        client.put("shop", Bucket::Default, format!("key-{n}"), value).await.unwrap();
    }
}

fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.story()))
}

async fn ctl(cluster: &Cluster, words: &str) -> Ran {
    let running = cluster.nodes.iter().filter(|node| node.is_running());
    let endpoints = running.map(Node::endpoint).collect::<Vec<_>>().join(",");
    shell(&format!("ddbctl --endpoint {endpoints} {words}"), SOON).await
}

async fn schedule(cluster: &Cluster, name: &str) -> Value {
    json(&ctl(cluster, &format!("schedule get {name} -o json")).await.exits(0))
}

/// The number of the node that leads the meta group.
async fn leader(cluster: &Cluster) -> usize {
    let overview = cluster.client().overview().await.unwrap();
    let leads = |node: &Node| {
        let of = |n: &&devicedb::proto::v1::Node| n.address == node.endpoint();
        let known = overview.nodes.iter().find(of);
        known.is_some_and(|known| known.id == overview.meta_leader)
    };
    cluster.nodes.iter().position(leads).expect("somebody leads")
}

async fn repository(dir: &std::path::Path) -> String {
    let place = dir.join("backups").display().to_string();
    shell(&format!("ddbctl repository init {place}"), SOON).await.exits(0);
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_stored_by_itself_and_the_shelves_keep_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let place = repository(dir.path()).await;
    let cluster = cluster(3, &place, &[0, 1, 2], &[]).await;
    put(&cluster, 0..8, 1024).await;
    let made = "schedule create often --cron 'every 2s' --keep last=3,within=1d";
    ctl(&cluster, made).await.exits(0).says("schedule \"often\" is there; it is due next at");
    ctl(&cluster, made).await.exits(0).says("was there before, and is the same");
    let mut seen = std::collections::BTreeSet::new();
    let due = eventually("three runs are stored", 2 * SOON, async || {
        let now = schedule(&cluster, "often").await;
        seen.extend(now["stored"]["uuid"].as_str().map(str::to_owned));
        if seen.len() >= 3 { Ok(now) } else { Err(now.to_string()) }
    })
    .await;
    let (planned, began) = (&due["stored"]["planned_ms"], &due["stored"]["began_ms"]);
    let late = began.as_u64().unwrap() - planned.as_u64().unwrap();
    assert!(planned.as_u64().unwrap().is_multiple_of(2000) && late <= 1000, "{due}");
    ctl(&cluster, "schedule pause often").await.exits(0);
    // Also while it is paused, out of turn.
    ctl(&cluster, "schedule run often --wait").await.exits(0).says("is in the repository");
    let stored = eventually("nothing runs any more, and one snapshot is left", SOON, async || {
        let now = schedule(&cluster, "often").await;
        let listed = json(&ctl(&cluster, "snapshot list -o json").await.exits(0));
        let left: Vec<&Value> =
            listed["snapshots"].as_array().unwrap().iter().map(|one| &one["uuid"]).collect();
        let is_over = now.get("running").is_none() && left == [&now["stored"]["uuid"]];
        if is_over { Ok(now) } else { Err(format!("{now} {left:?}")) }
    })
    .await;
    let uuid = stored["stored"]["uuid"].as_str().unwrap();
    let parts = cluster.download_all(uuid).await;
    assert_eq!(parts.len(), 3, "every node keeps its part of the newest");
    shell(&format!("ddbctl repository verify {place}"), SOON).await.exits(0).says("sound");

    ctl(&cluster, "schedule list").await.exits(0).says("often").says("paused");
    let status = ctl(&cluster, "backup status").await.exits(0);
    status.says(&format!("repository = {place}")).says(uuid).says("it is paused");
    let nodes = &cluster.nodes;
    let committed = stored["stored"]["ended_ms"].as_u64().unwrap() / 1000;
    eventually("all nodes show it", SOON, async || {
        for node in nodes {
            let (_, page) = http_get(&node.endpoint(), "/metrics").await.unwrap();
            let lines = [
                "devicedb_schedule_next_timestamp_seconds{schedule=\"often\"} 0".to_owned(),
                "devicedb_schedule_failures{schedule=\"often\"} 0".to_owned(),
                "devicedb_schedule_missed_total{schedule=\"often\"} ".to_owned(),
                format!("devicedb_repository_last_committed_timestamp_seconds {committed}"),
            ];
            if let Some(line) = lines.iter().find(|line| !page.contains(line.as_str())) {
                return Err(format!("{} lacks {line}", node.name));
            }
        }
        Ok(())
    })
    .await;
    ctl(&cluster, "schedule delete often").await.exits(0).says("its snapshots stay");
    ctl(&cluster, "schedule delete often").await.exits(5).says("there is no schedule \"often\"");
    ctl(&cluster, "backup status").await.exits(0).says("schedules = none");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_the_next_one_stores_the_same_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let place = repository(dir.path()).await;
    let mut cluster = cluster(3, &place, &[0, 1, 2], &["--repository-rate", "4000000"]).await;
    put(&cluster, 0..128, VALUE_BYTES).await;
    ctl(&cluster, "schedule create monthly --cron @monthly").await.exits(0);
    ctl(&cluster, "schedule run monthly").await.exits(0).says("has begun");
    let run = schedule(&cluster, "monthly").await["running"].clone();
    let (uuid, victim) = (run["uuid"].as_str().unwrap().to_owned(), leader(&cluster).await);
    let client = cluster.nodes[(victim + 1) % 3].client();
    eventually("some of it is stored", SOON, async || {
        let upload = client.snapshot(&uuid).await.unwrap().upload.unwrap_or_default();
        let begun = upload.bytes_done > 0 && upload.bytes_done < upload.bytes;
        if begun { Ok(()) } else { Err(format!("{upload:?}")) }
    })
    .await;
    cluster.nodes[victim].kill9();
    // Who asks for a run meanwhile is told of this one.
    let asked = ctl(&cluster, "schedule run monthly --wait").await.exits(0);
    asked.says("was under way already").says(&format!("snapshot {uuid} is in the repository"));
    let ended = schedule(&cluster, "monthly").await;
    assert_eq!(ended["stored"]["uuid"], uuid, "{ended}");
    assert_eq!((&ended["failures"], ended.get("failed")), (&0.into(), None));
    shell(&format!("ddbctl repository verify {place}"), SOON).await.exits(0).says("sound");
    let status = shell(&format!("ddbctl repository status {place} --format json"), SOON).await;
    assert_eq!(json(&status.exits(0))["histories"][0]["snapshots"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_repository_has_another_node_store_it() {
    let dir = tempfile::tempdir().unwrap();
    let place = repository(dir.path()).await;
    let mut cluster = cluster(3, &place, &[], &[]).await;
    put(&cluster, 0..8, 1024).await;
    ctl(&cluster, "schedule create daily --cron @daily").await.exits(0);
    let failed = ctl(&cluster, "schedule run daily --wait").await.exits(1);
    failed.says("no node that answers has a repository: start the nodes with --repository PLACE");
    let listed = json(&ctl(&cluster, "snapshot list -o json").await.exits(0));
    assert_eq!(listed["snapshots"], Value::Array(vec![]), "it would fill the shelves");
    ctl(&cluster, "backup status").await.exits(0).says("repository = none");
    let problem = schedule(&cluster, "daily").await;
    assert_eq!(problem["failures"], 1, "{problem}");

    let other = (leader(&cluster).await + 1) % 3;
    let node = &mut cluster.nodes[other];
    node.kill9();
    node.args.extend(["--repository".to_owned(), place.clone()]);
    node.start();
    cluster.settled().await;
    assert_ne!(leader(&cluster).await, other, "nobody else had to lead");
    let ran = ctl(&cluster, "schedule run daily --wait").await.exits(0);
    ran.says("is in the repository");
    assert_eq!(schedule(&cluster, "daily").await["failures"], 0);

    // A repository that is gone is said, and the two newest snapshots stay on the shelves.
    std::fs::rename(&place, format!("{place}-away")).unwrap();
    for nth in 1..=3 {
        let failed = ctl(&cluster, "schedule run daily --wait").await.exits(1);
        failed.says("the run of schedule \"daily\" failed");
        let now = schedule(&cluster, "daily").await;
        assert_eq!(now["failures"], nth, "{now}");
    }
    eventually("the stored one and two others are left", SOON, async || {
        let listed = json(&ctl(&cluster, "snapshot list -o json").await.exits(0));
        let left = listed["snapshots"].as_array().unwrap().len();
        if left == 3 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    std::fs::rename(format!("{place}-away"), &place).unwrap();
    ctl(&cluster, "schedule run daily --wait").await.exits(0).says("is in the repository");
    eventually("the stored one is left", SOON, async || {
        let listed = json(&ctl(&cluster, "snapshot list -o json").await.exits(0));
        let left = listed["snapshots"].as_array().unwrap().len();
        if left == 1 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
}

/// The reports of verifications, by their names.
fn reports(place: &str) -> Vec<String> {
    let names = std::fs::read_dir(format!("{place}/verifies")).into_iter().flatten();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_schedule_has_verified_is_verified_once_whoever_dies() {
    let dir = tempfile::tempdir().unwrap();
    let place = repository(dir.path()).await;
    // Storing the 4 MiB takes seconds at this rate, and so does reading them.
    let rate = ["--repository-rate", "1000000"];
    let mut cluster = cluster(3, &place, &[0, 1, 2], &rate).await;
    put(&cluster, 0..16, VALUE_BYTES).await;
    ctl(&cluster, "snapshot create --upload").await.exits(0);
    let made = "schedule create checked --cron @monthly --verify whole";
    ctl(&cluster, made).await.exits(0).says("verifies = whole").says("last good = never");
    ctl(&cluster, "schedule run checked").await.exits(0).says("the run of verification");
    let run = schedule(&cluster, "checked").await["running"].clone();
    // Whoever leads has a repository, and so reads it itself.
    let victim = leader(&cluster).await;
    let node = &cluster.nodes[victim];
    eventually("it reads", SOON, async || {
        let log = node.log();
        if log.contains("verifies the repository") { Ok(()) } else { Err(node.log_end()) }
    })
    .await;
    assert_eq!(reports(&place), Vec::<String>::new(), "it is under way");
    cluster.nodes[victim].kill9();
    let ran = ctl(&cluster, "schedule run checked --wait").await.exits(0);
    ran.says("was under way already").says("the repository was verified, and nothing is wrong");
    let ended = schedule(&cluster, "checked").await;
    assert_eq!(ended["stored"]["uuid"], run["uuid"], "{ended}");
    assert_eq!(reports(&place).len(), 1);
    let own = run["uuid"].as_str().unwrap().replace('-', "");
    assert!(reports(&place)[0].ends_with(&format!("-{}.json", &own[..16])), "{own}");
    let status = ctl(&cluster, "backup status").await.exits(0);
    status.says("last verified = sound").says("every row, of 1 snapshot; 0 snapshots since");
    let client = cluster.nodes[(victim + 1) % 3].client();
    let (_, page) = http_get(&client.endpoint, "/metrics").await.unwrap();
    let committed = "devicedb_repository_last_committed_timestamp_seconds 0";
    assert!(page.contains(committed), "a verification stores no snapshot");
    let snapshots = json(&ctl(&cluster, "snapshot list -o json").await.exits(0));
    assert_eq!(snapshots["snapshots"].as_array().unwrap().len(), 1, "and takes none");

    // Damage fails the run, in words that name the report; it is not begun again.
    let uploaded = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
    let mut folder = uploaded.filter(|path| path.join("").is_dir()).find_map(|cluster| {
        let lineage = std::fs::read_dir(cluster).unwrap().next()?.unwrap().path();
        lineage.join("g").is_dir().then(|| lineage.join("g"))
    });
    let segments = std::fs::read_dir(folder.take().expect("there are segments")).unwrap();
    let segment = segments.map(|entry| entry.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let failed = ctl(&cluster, "schedule run checked --wait").await.exits(1);
    failed.says("the repository is damaged, with 1 problem; the report is verifies/");
    assert_eq!(reports(&place).len(), 2);
    ctl(&cluster, "backup status").await.exits(0).says("last verified = DAMAGED (1 problem)");

    // A repository that is gone is no damage, and there is no report of it.
    std::fs::rename(&place, format!("{place}-away")).unwrap();
    let failed = ctl(&cluster, "schedule run checked --wait").await.exits(1);
    assert!(!failed.story().contains("damaged"), "{}", failed.story());
    std::fs::rename(format!("{place}-away"), &place).unwrap();
    assert_eq!(reports(&place).len(), 2);
    let other = ctl(&cluster, "schedule create checked --cron @daily --replace").await.exits(5);
    other.says("one that takes snapshots becomes none that verifies");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_scheduled_is_refused_by_what_is_wrong() {
    let mut cluster = cluster(1, "", &[], &[]).await;
    for (words, why) in [
        ("create x --cron '* * *'", "it has 3 fields"),
        ("create x --cron '0 0 30 2 *'", "never comes true"),
        ("create x --cron 'every 500d'", "is not a time from 1m to 366d"),
        ("create x --cron @daily --keep last=0", "its number goes from 1 to 100000"),
        ("create x --cron @daily --keep some", "is no rule of what is kept"),
        ("create x --cron @daily --verify 0", "write quick, whole, or a whole number"),
        ("create x --cron @daily --verify 10% --keep last=1", "cannot be used with"),
        ("create x --cron @daily --start-deadline 10ms", "a start deadline is 1 s to 7 days"),
        ("create '' --cron @daily", "must not be empty"),
    ] {
        ctl(&cluster, &format!("schedule {words}")).await.exits(2).says(why);
    }
    for words in ["get", "pause", "resume", "run", "delete"] {
        let ran = ctl(&cluster, &format!("schedule {words} nothing")).await.exits(5);
        ran.says("there is no schedule \"nothing\"; see ddbctl schedule list");
    }
    for n in 0..64 {
        ctl(&cluster, &format!("schedule create plan-{n} --cron @monthly")).await.exits(0);
    }
    let many = ctl(&cluster, "schedule create one-more --cron @daily").await.exits(5);
    many.says("there are 64 schedules, and no more are kept");
    let other = ctl(&cluster, "schedule create plan-7 --cron @daily").await.exits(5);
    other.says("there is a schedule \"plan-7\" already, and it is another one (\"@monthly\")");
    ctl(&cluster, "schedule create plan-7 --cron @daily --replace").await.exits(0);
    let all = json(&ctl(&cluster, "schedule list -o json").await.exits(0));
    assert_eq!(all["schedules"].as_array().unwrap().len(), 64);

    // They are there after a restart, as they were.
    let before = schedule(&cluster, "plan-7").await;
    cluster.nodes[0].kill9();
    cluster.nodes[0].start();
    cluster.settled().await;
    assert_eq!(schedule(&cluster, "plan-7").await, before);
}

/// Of one node, which knows no newer level.
async fn older(level: &str) -> Cluster {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut cluster = Cluster::empty(options);
    let mut node = cluster.further();
    node.under = ["env".to_owned(), format!("DEVICEDB_LEVEL={level}")].to_vec();
    node.start();
    cluster.nodes.push(node);
    cluster.settled().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_an_older_version_can_still_read_has_no_schedules() {
    let cluster = older("6").await;
    let refused = ctl(&cluster, "schedule create x --cron @daily --verify 10%").await.exits(5);
    refused.says("this needs level 7, and the cluster is at level 6");
    ctl(&cluster, "schedule create x --cron @daily").await.exits(0);
    let cluster = older("5").await;
    let refused = ctl(&cluster, "schedule create x --cron @daily").await.exits(5);
    refused.says("this needs level 6, and the cluster is at level 5");
    let none = json(&ctl(&cluster, "schedule list -o json").await.exits(0));
    assert_eq!(none["schedules"], Value::Array(vec![]));
}
