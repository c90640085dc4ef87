//! New clusters of several nodes that begin together with a snapshot in a repository: `devicedb
//! start --restore-from --expect-nodes`, whoever dies meanwhile, and whatever they were told wrong.

use std::{fs, os::unix::process::ExitStatusExt as _, path::Path};

use devicedb::proto::v1::Bucket;

use crate::{
    harness::{Client, Cluster, Node, Options, SOON, eventually, shell},
    seeds::{
        FAILED, Place, SITES, USAGE, all_read, content, contexts, fill, founder, identity,
        is_empty, node, small, writes_go_on,
    },
};

const ABORTED: i32 = 6;
const BEGUN: &str = "began a cluster of a snapshot together with others";

/// Nodes that are to begin together, not started. The first one founds.
fn beginners(dir: &Path, name: &str, place: &Place, size: usize, words: &[&str]) -> Vec<Node> {
    let count = size.to_string();
    let words = [&["--expect-nodes", &count], words].concat();
    let mut nodes = vec![founder(dir, &format!("{name}-0"), place, &words)];
    let first = nodes[0].endpoint();
    let words = [&words[..], &["--join", &first]].concat();
    while nodes.len() < size {
        nodes.push(founder(dir, &format!("{name}-{}", nodes.len()), place, &words));
    }
    nodes
}

/// The cluster is gone, and so many nodes begin another one with the snapshot, one after the other.
async fn begun(cluster: &mut Cluster, place: &Place, name: &str, uuid: &str, size: usize) {
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    cluster.nodes = beginners(&dir, name, place, size, &["--point", uuid]);
    for at in 0..size {
        cluster.nodes[at].start();
        if at + 1 < size {
            let (here, are) = (at + 1, if at == 0 { "is" } else { "are" });
            let missing = format!("{here} of {size} nodes {are} here; waiting for {}", size - here);
            cluster.nodes[0].wait_unready(&missing).await;
            cluster.nodes[0].says(&missing).await;
            cluster.nodes[at].wait_alive().await;
        }
    }
    cluster.settled().await;
}

/// Every node has loaded rows by itself, all of them as often as there are replicas, and nobody has
/// sent any to another one.
fn each_has_loaded_its_share(cluster: &Cluster, rows: u64, replicas: u64) {
    let mut all = 0;
    for node in &cluster.nodes {
        let log = node.log();
        let line = log.lines().find(|line| line.contains(BEGUN));
        let line = line.unwrap_or_else(|| panic!("{}:\n{}", node.name, node.log_end()));
        let loaded = line.split_once(" rows=").unwrap().1.split_once(' ').unwrap().0;
        all += loaded.parse::<u64>().unwrap();
    }
    assert_eq!(all, replicas * rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_nodes_three_and_of_these_five_begin_together_and_of_five_one() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    fill(&cluster.client(), "first").await;
    let place = Place::init(&cluster).await;
    let (before, old) =
        (content(&cluster.client(), &SITES).await, contexts(&cluster.client()).await);
    let first = place.backup(&cluster).await;
    let rows_of = |uuid: &str| place.partitions(uuid).iter().map(|(_, rows, _)| rows).sum::<u64>();

    begun(&mut cluster, &place, "three", &first, 3).await;
    all_read(&cluster, &before).await;
    let overview = cluster.client().overview().await.unwrap();
    assert_eq!((overview.nodes.len(), overview.groups_under_replicated), (3, 0));
    each_has_loaded_its_share(&cluster, rows_of(&first), 3);
    let said = identity(&cluster.client()).await;
    for client in cluster.clients() {
        assert_eq!(identity(&client).await.lineage, said.lineage);
    }
    // Nobody has written yet. The import compares the replicas of all nodes with each other.
    let same = place.backup(&cluster).await;
    assert_eq!(place.partitions(&same), place.partitions(&first));
    writes_go_on(&cluster.client(), &old, "three").await;
    fill(&cluster.clients()[1], "second").await;
    let (before, old) =
        (content(&cluster.client(), &SITES).await, contexts(&cluster.client()).await);
    let second = place.backup(&cluster).await;

    begun(&mut cluster, &place, "five", &second, 5).await;
    all_read(&cluster, &before).await;
    each_has_loaded_its_share(&cluster, rows_of(&second), 3);
    let same = place.backup(&cluster).await;
    assert_eq!(place.partitions(&same), place.partitions(&second));
    writes_go_on(&cluster.client(), &old, "five").await;
    let (before, old) =
        (content(&cluster.client(), &SITES).await, contexts(&cluster.client()).await);
    let third = place.backup(&cluster).await;
    // Ordinary starts, with the words that they had.
    cluster.kill9_all();
    cluster.restart_all().await;
    all_read(&cluster, &before).await;

    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    let words = ["--point", &third, "--expect-nodes", "1"];
    cluster.nodes = vec![founder(&dir, "one", &place, &words)];
    cluster.nodes[0].start();
    cluster.settled().await;
    all_read(&cluster, &before).await;
    let same = place.backup(&cluster).await;
    assert_eq!(place.partitions(&same), place.partitions(&third));
    writes_go_on(&cluster.client(), &old, "one").await;
}

async fn reads_all_sites(client: &Client) {
    for site in SITES {
        let read = client.values(site, Bucket::Default, "colour").await.unwrap();
        assert_eq!(read, [site], "at {}", client.endpoint);
    }
}

/// Dies at its next pass of a failpoint.
fn doomed(node: &mut Node, at: &str) {
    let script = r#"ulimit -c 0; DEVICEDB_FAILPOINT="$0" exec "$@""#;
    node.under = ["sh", "-c", script, at].map(str::to_owned).into();
}

async fn dies(node: &mut Node) {
    assert_eq!(node.wait_ended().await.signal(), Some(ABORTED), "{}", node.log_end());
    node.under.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_half_way_begins_again_with_the_plan_that_it_has() {
    let (mut cluster, place, _) = small(2).await;
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    let points = [
        "seed.plan-written",
        "seed.plan-kept",
        "seed.checked",
        "seed.chunk-loaded:2",
        "seed.made",
        "seed.in-place",
    ];
    for (number, point) in points.into_iter().enumerate() {
        for victim in [0, 1] {
            let name = format!("{number}-{victim}");
            cluster.nodes = beginners(&dir, &name, &place, 2, &[]);
            doomed(&mut cluster.nodes[victim], point);
            cluster.nodes.iter_mut().for_each(Node::start);
            dies(&mut cluster.nodes[victim]).await;
            let has_plan = cluster.nodes[victim].store.join("seed-plan").exists();
            assert_eq!(has_plan, point != "seed.plan-written", "{point}");
            cluster.nodes[victim].start();
            cluster.settled().await;
            for client in cluster.clients() {
                reads_all_sites(&client).await;
                assert_eq!(client.overview().await.unwrap().nodes.len(), 2, "{point}, {victim}");
            }
            for node in &cluster.nodes {
                for left in ["restoring", "node-id", "seed-plan.new"] {
                    assert!(!node.store.join(left).exists(), "{left} was left behind");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_late_begins_with_the_plan_of_the_others_and_who_is_lost_is_replaced() {
    let (mut cluster, place, _) = small(3).await;
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    cluster.nodes = beginners(&dir, "new", &place, 3, &[]);
    // It has heard the plan, and forgets it: the others serve without it.
    doomed(&mut cluster.nodes[2], "seed.plan-written");
    cluster.nodes.iter_mut().for_each(Node::start);
    dies(&mut cluster.nodes[2]).await;
    for at in [0, 1] {
        cluster.nodes[at].wait_ready().await;
    }
    cluster.client().put("shop", Bucket::Default, "meanwhile", "yes").await.unwrap();
    cluster.nodes[2].start();
    cluster.settled().await;
    // It was named, and had not voted: it still begins with the snapshot.
    cluster.nodes[2].says(BEGUN).await;
    reads_all_sites(&cluster.nodes[2].client()).await;
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 3, "it kept its id");

    // One loses its disk, and is started with the words that it had: it is another node.
    let lost = identity(&cluster.nodes[1].client()).await.node_id.to_string();
    cluster.nodes[1].kill9();
    fs::remove_dir_all(&cluster.nodes[1].store).unwrap();
    cluster.nodes[1].start();
    cluster.nodes[1].says("the cluster serves by now, and takes this node in").await;
    cluster.nodes[1].wait_listening().await;
    cluster.ctl(&["node", "remove", &lost]).await.exits(0);
    cluster.settled().await;
    // So does the one that has founded. It joins as any node: as the founder it would wait for two
    // others, which do not come.
    let lost = identity(&cluster.nodes[0].client()).await.node_id.to_string();
    cluster.nodes[0].kill9();
    fs::remove_dir_all(&cluster.nodes[0].store).unwrap();
    cluster.nodes[0].start();
    cluster.nodes[0].wait_unready("1 of 3 nodes is here; waiting for 2").await;
    cluster.nodes[0].kill9();
    let others = cluster.nodes[1].endpoint();
    cluster.nodes[0] = node(&dir, "instead", &["--join", &others]);
    cluster.nodes[0].start();
    cluster.nodes[0].wait_listening().await;
    cluster.ctl(&["node", "remove", &lost]).await.exits(0);
    cluster.settled().await;
    for client in cluster.clients() {
        reads_all_sites(&client).await;
        let read = client.values("shop", Bucket::Default, "meanwhile").await.unwrap();
        assert_eq!(read, ["yes"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_wrong_is_said_in_a_line() {
    let (mut cluster, place, uuid) = small(3).await;
    let dir = cluster.dir().to_owned();
    let tar = cluster.download_all(&uuid).await.remove(0);
    let other = Place { path: dir.join("other") };
    let line = format!(
        "ddbctl repository init {0} && ddbctl repository import {0} {1}",
        other.path.display(),
        tar.display()
    );
    shell(&line, SOON).await.exits(0);
    let later = place.backup(&cluster).await;

    // Nothing of that kind can be, whoever comes.
    for (words, says) in [
        (&["--expect-nodes", "3"][..], "--restore-from <PLACE>"),
        (&["--expect-nodes", "0", "--restore-from", "somewhere"], "1 to 1024, and not 0"),
        (&["--expect-nodes", "1025", "--restore-from", "somewhere"], "1 to 1024, and not 1025"),
    ] {
        node(&dir, "odd", words).start_refused().await.exits(USAGE).says(says);
    }
    let three = ["--expect-nodes", "3"];
    for (words, code, says) in [
        (["--sites", "shp"], USAGE, "no site of the snapshot is called shp"),
        (["--point", "2020-01-01T00:00:00Z"], FAILED, "the first is"),
    ] {
        let mut founds = founder(&dir, "odd", &place, &[&three[..], &words].concat());
        founds.start_refused().await.exits(code).says(says).says("nothing is restored from");
        is_empty(&founds);
    }
    // A cluster that serves already.
    let production = cluster.nodes[0].endpoint();
    let join = ["--join", production.as_str()];
    let mut astray = founder(&dir, "astray", &place, &[&three[..], &join].concat());
    astray.start_refused().await.exits(FAILED).says("was made of none").says("--expect-nodes");
    is_empty(&astray);
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 1);

    // One that founds, and others that were told something else.
    cluster.lose_every_disk();
    cluster.nodes = beginners(&dir, "new", &place, 3, &["--point", &later]);
    cluster.nodes[0].start();
    cluster.nodes[0].wait_unready("1 of 3 nodes is here; waiting for 2").await;
    let first = cluster.nodes[0].endpoint();
    let join = ["--join", first.as_str()];
    let point = ["--point", later.as_str()];
    for (at, words, says) in [
        (&place, &["--expect-nodes", "2"][..], "--expect-nodes 2, and the node that founds"),
        (&place, &["--expect-nodes", "3", "--point", &uuid], &format!("--point {uuid}, and")),
        (&place, &["--expect-nodes", "3", "--sites", "shop"], "--sites shop, and"),
        (&other, &three, "--restore-from with repository"),
    ] {
        let more =
            if words.contains(&"--point") || at.path == other.path { &[][..] } else { &point };
        let mut astray = founder(&dir, "astray", at, &[words, &join, more].concat());
        let ran = astray.start_refused().await.exits(FAILED);
        ran.says(says).says(&first).says("say the same on every node");
        is_empty(&astray);
    }
    // Without a word of it, a node waits until there is a cluster. So does one that names nobody
    // who founds.
    let mut plain = node(&dir, "plain", &join);
    plain.start();
    plain.wait_unready("gathers the nodes that begin a cluster").await;
    let at = plain.endpoint();
    let words = [&three[..], &["--join", &at]].concat();
    let mut lonely = founder(&dir, "lonely", &place, &words);
    lonely.start();
    lonely.wait_unready("founds the cluster that this one is to begin with others").await;
    lonely.kill9();
    plain.kill9();
    // Two that found.
    let mut twin = founder(&dir, "twin", &place, &three);
    twin.start();
    twin.wait_unready("1 of 3 nodes is here; waiting for 2").await;
    let both = format!("{first},{}", twin.endpoint());
    let words = [&three[..], &["--join", &both]].concat();
    let mut torn = founder(&dir, "torn", &place, &words);
    torn.start_refused().await.exits(FAILED).says("each found a cluster, and there shall be one");
    is_empty(&torn);
    twin.kill9();

    // Somebody comes, and goes again.
    cluster.nodes[1].start();
    cluster.nodes[0].wait_unready("2 of 3 nodes are here; waiting for 1").await;
    cluster.nodes[1].kill9();
    cluster.nodes[0].wait_unready("1 of 3 nodes is here; waiting for 2").await;

    // A plan is for what it was made for.
    doomed(&mut cluster.nodes[1], "seed.checked");
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    dies(&mut cluster.nodes[1]).await;
    let was = cluster.nodes[1].args.clone();
    for (from, to, says) in [
        ("3", "2", "--expect-nodes 2"),
        (later.as_str(), uuid.as_str(), "this node was told --point"),
    ] {
        let changed =
            was.iter().map(|word| if word == from { to.to_owned() } else { word.clone() });
        cluster.nodes[1].args = changed.collect();
        let ran = cluster.nodes[1].start_refused().await.exits(FAILED);
        ran.says(says).says("has the plan of a beginning that was interrupted").says("seed-plan");
    }
    cluster.nodes[1].args = was.iter().take(7).cloned().chain(["--found".to_owned()]).collect();
    let ran = cluster.nodes[1].start_refused().await.exits(FAILED);
    ran.says("has the plan of a beginning together with other nodes that was interrupted");
    cluster.nodes[1].args = was;
    cluster.nodes[1].start();
    cluster.settled().await;
    for client in cluster.clients() {
        eventually("it reads what was backed up", SOON, async || {
            let read = client.values("shop", Bucket::Default, "colour").await;
            if read.as_ref().is_ok_and(|read| read == &["shop"]) {
                Ok(())
            } else {
                Err(format!("{read:?}"))
            }
        })
        .await;
    }
}
