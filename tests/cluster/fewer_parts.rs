//! A cluster is lost, and fewer parts are left than most voters of every group have: `devicedb
//! restore --sole-survivor` makes one store of parts that cover every partition, and empty nodes
//! join it. `ddbctl restore` says beforehand which way back the parts at hand allow.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use devicedb::{
    base::ids::{SiteId, Topology},
    proto::v1::Bucket,
};
use serde_json::Value;

use crate::harness::{Client, Cluster, Node, Options, Port, Ran, SOON, Writer, eventually, shell};

/// One in each of the groups.
const SITES: [&str; 8] = ["pier", "depot", "silo", "van", "shop", "yard", "attic", "kiosk"];
const NOT_VERIFIED: i32 = 6;

async fn restore(words: &str) -> Ran {
    shell(&format!("devicedb restore {words}"), SOON).await
}

async fn outlook(words: &str) -> Ran {
    shell(&format!("ddbctl restore {words}"), SOON).await
}

fn json(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap()
}

/// A cluster with all sites and one value in each.
async fn filled(size: usize, options: Options) -> Cluster {
    let cluster = Cluster::start(size, options).await;
    let client = cluster.client();
    for site in SITES {
        client.add_site(site).await.unwrap();
        client.put(site, Bucket::Default, "colour", site).await.unwrap();
    }
    cluster
}

/// The parts of a new snapshot, in the order of the nodes.
async fn parts(cluster: &Cluster) -> Vec<PathBuf> {
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
    cluster.download_all(&uuid).await
}

/// A node on a store that is there, or on none, which is told to join these.
fn node(cluster: &Cluster, name: &str, join: &[String]) -> Node {
    let (port, store) = (Port::claim(), cluster.dir().join(name));
    let snapshots = cluster.dir().join(format!("{name}-snapshots"));
    fs::create_dir_all(&snapshots).unwrap();
    let words = ["start", "--store", store.to_str().unwrap(), "--listen", &port.endpoint()];
    let mut args: Vec<String> = words.map(str::to_owned).into();
    args.extend(["--snapshot-store".to_owned(), snapshots.display().to_string()]);
    args.extend(join.iter().flat_map(|address| ["--join".to_owned(), address.clone()]));
    Node::new(name, port, cluster.dir(), store, args)
}

/// Starts the store of that name, and empty nodes that join it, until the cluster has so many.
async fn started(cluster: &mut Cluster, name: &str, size: usize) {
    cluster.nodes = vec![node(cluster, name, &[])];
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    let join = [cluster.nodes[0].endpoint()];
    for number in 1..size {
        let mut empty = node(cluster, &format!("{name}-{number}"), &join);
        empty.start();
        empty.wait_listening().await;
        cluster.nodes.push(empty);
    }
    cluster.ctl(&["cluster", "health", "--wait", "60s"]).await.exits(0);
}

async fn has_all(client: &Client) {
    for site in SITES {
        let read = client.values(site, Bucket::Default, "colour").await.unwrap();
        assert_eq!(read, [site], "at {}", client.endpoint);
    }
}

fn words(paths: &[&Path]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_part_of_three_brings_the_cluster_back_and_empty_nodes_fill_it() {
    let mut cluster = filled(3, Options::default()).await;
    let clients = cluster.clients();
    let start = |site| Writer::start(&clients, site, Bucket::Default, "busy");
    let writers: Vec<Writer> = SITES.into_iter().map(start).collect();
    for writer in &writers {
        writer.goes_on(20, SOON).await;
    }
    let before: Vec<usize> = writers.iter().map(Writer::acknowledged).collect();
    let tars = parts(&cluster).await;
    for writer in writers {
        writer.goes_on(5, SOON).await;
        drop(writer.stop().await);
    }
    cluster.kill9_all();
    let mut lost = std::mem::take(&mut cluster.nodes);
    let (tar, store) = (&tars[1], cluster.dir().join("back"));

    let told = outlook(&format!("{} -o json", tar.display())).await.exits(0);
    let told = json(&told);
    assert_eq!(
        (&told["way"], &told["given_up"]["groups_short"]),
        (&"sole-survivor".into(), &8.into())
    );
    assert_eq!(told["given_up"]["node_ids"].as_array().unwrap().len(), 2);
    let command = format!("devicedb restore {} --store DIR --sole-survivor", tar.display());
    assert_eq!(told["steps"][1]["commands"][0], command);

    let flags = format!("{} --store {} --sole-survivor", tar.display(), store.display());
    let ran = restore(&flags).await.exits(0).says("Given up for good: node ");
    for address in [&lost[0].endpoint(), &lost[2].endpoint()] {
        assert!(ran.stderr.contains(address.as_str()), "{}", ran.story());
    }
    assert!(!ran.stderr.contains(&lost[1].endpoint()), "{}", ran.story());
    ran.says("holds the whole cluster as node ").says("until 3 nodes serve in all");
    restore(&flags).await.exits(1).says("holds a store, and a restore never replaces one");
    started(&mut cluster, "back", 3).await;

    // Of each site the cut has the beginning of what its writer wrote, and at least what was
    // acknowledged before it.
    for client in cluster.clients() {
        has_all(&client).await;
        for (site, before) in SITES.iter().zip(&before) {
            let found = client.scan(site, Bucket::Default, "busy").await.unwrap();
            assert!(found.len() >= *before, "{site}: {} of {before}", found.len());
            let expected = (0..found.len()).map(|number| Bytes::from(format!("busy-{number:06}")));
            assert!(found.into_iter().map(|(key, _)| key).eq(expected), "{site} has a gap");
        }
        client.put("shop", Bucket::Default, "after", "served").await.unwrap();
    }
    let overview = cluster.client().overview().await.unwrap();
    assert_eq!((overview.nodes.len(), overview.groups_under_replicated), (3, 0));

    // Those that were given up cannot come back, neither with their stores nor with their parts.
    let here = cluster.nodes.iter().map(Node::endpoint).collect::<Vec<_>>();
    let own = cluster.dir().join("its-part");
    restore(&format!("{} --store {}", tars[0].display(), own.display())).await.exits(0);
    let mut with_its_part = node(&cluster, "its-part", &here);
    let with_its_store = &mut lost[2];
    let port = Port::claim();
    drop(with_its_store.move_to(port, &here));
    for node in [&mut with_its_part, with_its_store] {
        node.start();
        node.wait_unready("belongs to another history").await;
        node.kill9();
    }
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 3);
    for after in parts(&cluster).await {
        let ran = outlook(&after.display().to_string()).await;
        ran.exits(0).says("one node takes the whole cluster");
    }
}

/// The groups whose rows are in a part.
fn groups(tar: &Path) -> BTreeSet<u32> {
    let source = devicedb::part::source::Source::open(tar).unwrap();
    source.manifest().group_ids().map(|group| group.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_cover_everything_together_that_lack_some_partitions_alone() {
    let options = Options { replication_factor: 2, ..Options::default() };
    let mut cluster = filled(3, options).await;
    // A node that is to give a group up may still have it.
    let tars = eventually("two of three nodes hold each group", SOON, async || {
        let tars = parts(&cluster).await;
        match tars.iter().map(|tar| groups(tar).len()).sum::<usize>() {
            16 => Ok(tars),
            copies => Err(format!("there are {copies} copies of 8 groups")),
        }
    })
    .await;
    cluster.kill9_all();
    let store = cluster.dir().join("back");
    let flags = format!("--store {} --sole-survivor", store.display());

    let topology = Topology::new(64, 8).unwrap();
    let missing = |tar: &Path| (0..8).filter(|g| !groups(tar).contains(g)).collect::<Vec<u32>>();
    let lacking = missing(&tars[0]);
    assert!(!lacking.is_empty() && lacking.len() < 8, "{lacking:?}");
    let ran = restore(&format!("{} {flags}", tars[0].display())).await.exits(1);
    let ran = ran.says("are in none of these parts").says("Add another part of snapshot");
    for site in SITES {
        let group = topology.group_of_site(&SiteId::new(site).unwrap());
        let named =
            ran.stderr.contains(&format!("{site}, ")) || ran.stderr.contains(&format!("{site}. "));
        assert_eq!(named, lacking.contains(&group.0), "{site} in {}", ran.story());
    }
    assert!(!store.exists(), "nothing was made");
    let ran = outlook(&format!("{} -o json", tars[0].display())).await.exits(NOT_VERIFIED);
    let told = json(&ran);
    let runs: Vec<(u32, u32)> =
        serde_json::from_value(told["verification"]["partitions_missing"].clone()).unwrap();
    let count: u32 = runs.iter().map(|(first, last)| last - first + 1).sum();
    assert_eq!((&told["way"], count), (&"none".into(), 8 * lacking.len() as u32));

    // A tar and an extracted directory.
    let extracted = cluster.dir().join("extracted");
    shell(&format!("mkdir {0} && tar xf {1} -C {0}", extracted.display(), tars[2].display()), SOON)
        .await
        .exits(0);
    let both = words(&[&tars[0], &extracted]);
    outlook(&both).await.exits(0).says(&format!("devicedb restore {both} --store DIR"));
    restore(&format!("{both} {flags}")).await.exits(0).says("Given up for good");
    // The replication factor stays, so two nodes are enough.
    started(&mut cluster, "back", 2).await;
    for client in cluster.clients() {
        has_all(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_brings_its_own_node_back_without_being_extracted() {
    let mut cluster = filled(3, Options::default()).await;
    let tars = parts(&cluster).await;
    cluster.kill9_all();
    let all = words(&[&tars[0], &tars[1]]);
    let ran = outlook(&all).await.exits(0);
    let ran = ran.says("each part brings its own node back").says("--join ADDRESS,...");
    ran.says("ddbctl node remove ")
        .says(&format!("devicedb restore {} --store", tars[1].display()));

    let names = ["one", "two"];
    let mut nodes: Vec<Node> = names.iter().map(|name| node(&cluster, name, &[])).collect();
    let here: Vec<String> = nodes.iter().map(Node::endpoint).collect();
    for (node, tar) in nodes.iter_mut().zip(&tars) {
        node.args.extend(here.iter().flat_map(|at| ["--join".to_owned(), at.clone()]));
        let ran = restore(&format!("{} --store {}", tar.display(), node.store.display())).await;
        ran.exits(0).says("holds what node ").says("--join ADDRESS,...");
        node.start();
    }
    for node in &mut nodes {
        node.wait_ready().await;
    }
    for node in &nodes {
        has_all(&node.client()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_directories_that_do_not_fit_are_refused_and_nothing_changes() {
    let cluster = filled(2, Options::default()).await;
    let (older, newer) = (parts(&cluster).await, parts(&cluster).await);
    let mut strange = Cluster::start(1, Options::default()).await;
    let strangers = parts(&strange).await;
    strange.kill9_all();
    let at = |name: &str| cluster.dir().join(name);
    let (copy, broken, absent) = (at("copy.tar"), at("broken.tar"), at("absent.tar"));
    fs::copy(&newer[0], &copy).unwrap();
    let mut bytes = fs::read(&newer[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&broken, bytes).unwrap();

    let wrong: [(&[&Path], &str); 5] = [
        (&[&newer[0], &older[1]], "and most parts are of snapshot"),
        (&[&newer[0], &strangers[0]], "and most parts are of snapshot"),
        (&[&newer[0], &copy], "as is "),
        (&[&newer[0], &broken], "broken.tar"),
        (&[&newer[0], &absent], "absent.tar: it cannot be read"),
    ];
    let empty = at("empty");
    for (parts, says) in wrong {
        let parts = words(parts);
        let flags = format!("{parts} --store {} --sole-survivor", empty.display());
        restore(&flags).await.exits(1).says("nothing is restored").says(says);
        assert!(!empty.exists(), "{parts}");
        let ran = outlook(&parts).await;
        let code = if parts.contains("absent") { 5 } else { NOT_VERIFIED };
        ran.exits(code);
    }
    // A directory stands for all tars in it, and these are of two snapshots.
    let all = outlook(cluster.dir().to_str().unwrap()).await.exits(NOT_VERIFIED);
    all.says("the parts do not fit together");

    // Several parts and no word of what to make of them; one that lies nowhere.
    let both = words(&[&newer[0], &newer[1]]);
    let ran = restore(&format!("{both} --store {}", empty.display())).await.exits(2);
    ran.says("--sole-survivor makes one store of them all").says("ddbctl restore PART...");
    restore(&format!("{} --store {}", broken.display(), empty.display()))
        .await
        .exits(1)
        .says("broken.tar");
    assert!(!empty.exists());

    // Directories with something in them, and one that a node runs on.
    let (full, extracted) = (at("full"), at("extracted"));
    fs::create_dir(&full).unwrap();
    fs::write(full.join("notes.txt"), "mine").unwrap();
    shell(
        &format!("mkdir {0} && tar xf {1} -C {0}", extracted.display(), newer[0].display()),
        SOON,
    )
    .await
    .exits(0);
    let running = cluster.nodes[0].store.clone();
    let waiting = at("waiting");
    let mut waits = node(&cluster, "waiting", &[Port::claim().endpoint()]);
    waits.start();
    waits.wait_alive().await;
    let taken: [(&Path, &str); 4] = [
        (&full, "it holds \"notes.txt\""),
        (&extracted, "holds an extracted part: devicedb start --store"),
        (&running, "holds a store, and a restore never replaces one"),
        (&waiting, "name an empty directory"),
    ];
    for (dir, says) in taken {
        for flag in ["", "--sole-survivor"] {
            let flags = format!("{} --store {} {flag}", newer[1].display(), dir.display());
            restore(&flags).await.exits(1).says(says);
        }
    }
    assert_eq!(fs::read(full.join("notes.txt")).unwrap(), b"mine");
    has_all(&cluster.client()).await;

    // The directory is a small disk of its own.
    fs::create_dir(&empty).unwrap();
    let small = format!(
        "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=2m small {0} && \
         devicedb restore {1} --store {0} --sole-survivor; code=$?; ls -A {0}; exit $code'",
        empty.display(),
        newer[0].display()
    );
    let ran = shell(&small, SOON).await.exits(1);
    assert_eq!(ran.out(), "", "the directory is empty");
    ran.says("its store takes about ").says("name a directory on a larger disk");
}

/// Every place at which half of something could be left.
const CRASHES: [&str; 8] = [
    "restore.checked",
    "aside.dir-made",
    "aside.store-created",
    "aside.rows-written",
    "aside.committed",
    "restore.made",
    "store.renamed",
    "restore.in-place",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_anywhere_leaves_nothing_or_a_store() {
    let mut cluster = filled(1, Options::default()).await;
    let tar = parts(&cluster).await.remove(0);
    cluster.kill9_all();
    for (number, flag) in ["", "--sole-survivor"].into_iter().enumerate() {
        for crash in CRASHES {
            let name = format!("{}-{number}", crash.replace('.', "-"));
            let dir = cluster.dir().join(&name);
            let flags = format!("{} --store {} {flag}", tar.display(), dir.display());
            let line = format!("DEVICEDB_FAILPOINT={crash} devicedb restore {flags}");
            let ran = shell(&line, SOON).await;
            assert!(ran.stderr.contains(&format!("failpoint {crash}")), "{}", ran.story());
            assert_ne!(ran.code, Some(0), "{}", ran.story());
            if dir.join("state.redb").exists() {
                assert!(["store.renamed", "restore.in-place"].contains(&crash), "{crash}");
            } else {
                let mut alone = node(&cluster, &name, &[]);
                alone.start_refused().await.exits(2).says("holds no store");
                restore(&flags).await.exits(0);
            }
            let mut alone = node(&cluster, &name, &[]);
            alone.start();
            alone.wait_ready().await;
            has_all(&alone.client()).await;
            assert!(!dir.join("restoring").exists(), "{crash}");
            alone.kill9();
        }
    }
}
