//! How a cluster begins, and who may be one of it: it is founded when somebody says so, once, and
//! by nobody who has only lost a disk.

use std::{collections::BTreeSet, fs, net::TcpListener, time::Duration};

use devicedb::{
    base::limits,
    net,
    proto::{
        internal::v1::{Founder, JoinRequest, NodeRecord},
        v1::Bucket,
    },
};

use crate::harness::{
    Cluster, Node, Options, Port, SOON, SnapshotStore, eventually, http_get, shell,
};

const AGAIN: Duration = Duration::from_millis(20);

/// Nodes of which each is started with the same words, but for its own address and directory.
fn with_one_line(size: usize) -> Cluster {
    let options = Options { snapshot_store: SnapshotStore::Own, ..Options::default() };
    let mut cluster = Cluster::empty(options);
    for _ in 0..size {
        let node = cluster.further();
        cluster.nodes.push(node);
    }
    let join = cluster.nodes.iter().map(Node::endpoint).collect::<Vec<_>>().join(",");
    for node in &mut cluster.nodes {
        told_to_join(node, &join);
    }
    cluster
}

/// Such a node may found, and so knows the shape of a cluster.
pub fn told_to_join(node: &mut Node, join: &str) {
    let options = Options::default();
    node.args.retain(|word| {
        word != "--found"
            && !["--partitions=", "--groups=", "--replication-factor="]
                .iter()
                .any(|flag| word.starts_with(flag))
    });
    if let Some(at) = node.args.iter().position(|word| word == "--join") {
        node.args.drain(at..at + 2);
    }
    let shape =
        [format!("--partitions={}", options.partitions), format!("--groups={}", options.groups)];
    node.args.extend(["--join".to_string(), join.to_string()].into_iter().chain(shape));
}

async fn all_wait(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        if !node.is_running() {
            node.start();
        }
    }
    for node in &cluster.nodes {
        node.wait_unready("nodes of --join wait").await;
    }
}

/// The nodes that say that they have founded a cluster, once one does.
async fn founders(cluster: &Cluster) -> Vec<usize> {
    eventually("a node says that it has founded a cluster", SOON, async || {
        let founded = |at: &usize| cluster.nodes[*at].log().contains("founded a cluster");
        let founders: Vec<usize> = (0..cluster.nodes.len()).filter(founded).collect();
        if founders.is_empty() { Err("none does") } else { Ok(founders) }
    })
    .await
}

/// The id that every running node gives its cluster.
async fn one_cluster(cluster: &Cluster) -> String {
    let mut ids = BTreeSet::new();
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let client = node.client();
        ids.insert(
            eventually("it knows its cluster", SOON, async || {
                client.overview().await.map(|seen| seen.cluster_id).map_err(|e| e.to_string())
            })
            .await,
        );
    }
    assert_eq!(ids.len(), 1, "there are several clusters: {ids:?}");
    ids.pop_first().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_one_line_found_when_it_is_said_once_and_a_lost_disk_founds_nothing() {
    let mut cluster = with_one_line(3);
    all_wait(&mut cluster).await;
    let ran = cluster.nodes[1].ctl(&["cluster", "init"]).await.exits(0).says("founded");
    cluster.settled().await;
    let id = one_cluster(&cluster).await;
    assert_eq!(ran.out(), format!("cluster = {id}\n"));
    for node in &cluster.nodes {
        assert_eq!(
            node.ctl(&["cluster", "init"]).await.exits(0).says("already").out(),
            format!("cluster = {id}\n")
        );
    }
    let overview = cluster.client().overview().await.unwrap();
    assert_eq!(overview.nodes.len(), 3);

    // The disk of whoever founded is lost, and its unit starts it again as ever.
    let [founder] = founders(&cluster).await[..] else { panic!("several have founded") };
    let lost = &mut cluster.nodes[founder];
    lost.kill9();
    fs::remove_dir_all(&lost.store).unwrap();
    lost.start();
    lost.wait_listening().await;
    assert_eq!(one_cluster(&cluster).await, id);
    assert_eq!(
        cluster.client().overview().await.unwrap().nodes.len(),
        4,
        "it has become one more node"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_are_told_to_found_at_once_one_cluster_comes_of_it() {
    for size in [2, 3] {
        let mut cluster = with_one_line(size);
        for node in &mut cluster.nodes {
            node.start();
        }
        // From the first moment on, when not all of them listen yet.
        let clients = cluster.clients();
        let mut told = tokio::task::JoinSet::new();
        for client in clients.iter().cycle().take(2 * size) {
            let client = client.clone();
            told.spawn(tokio::time::timeout(SOON, async move {
                loop {
                    match client.init_cluster().await {
                        Ok(there) => return there.cluster_id,
                        Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                }
            }));
        }
        let ids: BTreeSet<_> = told
            .join_all()
            .await
            .into_iter()
            .map(|id| id.expect("there is a cluster in time"))
            .collect();
        cluster.settled().await;
        assert_eq!(ids, BTreeSet::from([one_cluster(&cluster).await]));
        assert_eq!(founders(&cluster).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_founded_while_a_node_of_the_list_is_not_there_and_it_is_named() {
    let mut cluster = with_one_line(3);
    let missing = cluster.nodes[2].endpoint();
    for node in &mut cluster.nodes[..2] {
        node.start();
    }
    for node in &cluster.nodes[..2] {
        node.wait_unready(&missing).await;
        node.ctl(&["--timeout", "1s", "cluster", "init"])
            .await
            .exits(3)
            .says(&missing)
            .says("may belong to a cluster");
    }
    // It was told too early: it is waited for.
    let [first, _, third] = &mut cluster.nodes[..] else { panic!("there are three") };
    third.start();
    first.ctl(&["cluster", "init"]).await.exits(0);
    cluster.settled().await;
    one_cluster(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_lists_differ_do_not_found_and_say_so() {
    let mut cluster = with_one_line(2);
    let (a, b) = (cluster.nodes[0].endpoint(), cluster.nodes[1].endpoint());
    told_to_join(&mut cluster.nodes[1], &b);
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.nodes[1].wait_unready("--join names this node and no other").await;
    cluster.nodes[0].wait_unready("say the same on every node").await;
    cluster.nodes[0]
        .ctl(&["cluster", "init"])
        .await
        .exits(5)
        .says(&format!("--join {a},{b}"))
        .says(&format!("--join {b}:"));
    // Alone in its list, a node founds alone; the other one joins it unasked.
    cluster.nodes[1].ctl(&["cluster", "init"]).await.exits(0);
    for node in &mut cluster.nodes {
        node.wait_listening().await;
    }
    one_cluster(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_list_that_belongs_to_a_cluster_takes_the_others_in() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let id = one_cluster(&cluster).await;
    let mut lines = with_one_line(2);
    let join =
        cluster.nodes.iter().chain(&lines.nodes).map(Node::endpoint).collect::<Vec<_>>().join(",");
    // While it is down, nobody founds without it.
    cluster.kill9_all();
    for node in &mut lines.nodes {
        told_to_join(node, &join);
        node.start();
    }
    lines.nodes[0]
        .ctl(&["--timeout", "1s", "cluster", "init"])
        .await
        .exits(3)
        .says(&cluster.nodes[0].endpoint());
    cluster.nodes.append(&mut lines.nodes);
    cluster.restart_all().await;
    assert_eq!(one_cluster(&cluster).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_to_a_node_that_never_founded_outlives_a_restart_and_is_explained() {
    let mut cluster = with_one_line(2);
    all_wait(&mut cluster).await;
    let list: Vec<_> =
        cluster.nodes.iter().map(Node::endpoint).collect::<BTreeSet<_>>().into_iter().collect();
    let bound = cluster.nodes[0].endpoint();
    let lost = Founder { node_id: 99, address: "127.0.0.1:1".into() };
    net::Dialler::default().promise(&bound, lost.clone(), list.clone()).await.unwrap();
    net::Dialler::default()
        .promise(&bound, lost, list.clone())
        .await
        .expect("it is the same promise");
    let other = Founder { node_id: 98, address: "127.0.0.1:1".into() };
    let refused = net::Dialler::default().promise(&bound, other.clone(), list).await.unwrap_err();
    assert!(refused.message.contains("to node 99 at 127.0.0.1:1, and not to node 98"), "{refused}");
    assert!(
        net::Dialler::default()
            .promise(&bound, other, vec![bound.clone()])
            .await
            .unwrap_err()
            .message
            .contains("say the same on every node")
    );
    cluster.kill9_all();
    all_wait_or_say(&mut cluster, "node 99").await;
    for node in &cluster.nodes {
        node.ctl(&["cluster", "init"])
            .await
            .exits(5)
            .says("node 99 at 127.0.0.1:1")
            .says("remove the file founder");
    }
    let promise = cluster.nodes[0].store.join("founder");
    cluster.nodes[0].kill9();
    let usual = cluster.nodes[0].args.clone();
    let at = usual.iter().position(|word| word == "--join").unwrap();
    cluster.nodes[0].args.splice(at..at + 2, ["--found".to_string()]);
    cluster.nodes[0]
        .start_refused()
        .await
        .says("node 99 at 127.0.0.1:1")
        .says(&promise.display().to_string());
    fs::remove_file(promise).unwrap();
    cluster.nodes[0].args = usual;
    all_wait(&mut cluster).await;
    cluster.nodes[1].ctl(&["cluster", "init"]).await.exits(0);
    cluster.settled().await;
    one_cluster(&cluster).await;
    for node in &cluster.nodes {
        assert!(
            !node.store.join("founder").exists() && !node.store.join("node-id").exists(),
            "what it kept while it waited is still there"
        );
    }
}

async fn all_wait_or_say(cluster: &mut Cluster, words: &str) {
    for node in &mut cluster.nodes {
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_unready(words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_to_join_itself_says_so_once_and_founds_when_it_is_told() {
    let mut cluster = with_one_line(1);
    let node = &mut cluster.nodes[0];
    node.start();
    node.wait_unready("--join names this node and no other").await;
    // So many rounds that a line for each would show.
    for _ in 0..20 {
        let page = http_get(&node.endpoint(), "/readyz").await.unwrap().1;
        assert!(page.len() < 400, "it grows: {page}");
        tokio::time::sleep(2 * AGAIN).await;
    }
    let log = node.log();
    assert_eq!(log.matches("no cluster yet").count(), 1, "{log}");
    node.ctl(&["cluster", "init"]).await.exits(0);
    cluster.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_nothing_is_said_to_founds_nothing_and_names_the_ways_on() {
    let cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let store = node.store.clone();
    node.args.retain(|word| word != "--found");
    let ways = ["--found", "--join", "cluster init", "part of a snapshot", "mount its disk"];
    let ran =
        node.start_refused().await.exits(2).says(&format!("{} does not exist", store.display()));
    ways.iter().fold(ran, |ran, way| ran.says(way));
    assert!(!store.exists());
    // As a disk that is not mounted looks.
    fs::create_dir_all(store.join("lost+found")).unwrap();
    let ran =
        node.start_refused().await.exits(2).says(&format!("{} holds no store", store.display()));
    ways.iter().fold(ran, |ran, way| ran.says(way));
    assert!(!store.join("state.redb").exists());
    node.args.push("--found".into());
    node.args.extend(["--join".into(), "127.0.0.1:1".into()]);
    node.start_refused().await.exits(2).says("--found").says("--join");
    node.args.truncate(node.args.len() - 2);
    node.start();
    node.wait_ready().await;
    // Said again, it changes nothing, and is warned of.
    node.kill9();
    node.start();
    node.wait_ready().await;
    node.says("there is a store: --found changes nothing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_holds_something_else_is_refused_by_name_and_stays_as_it_is() {
    let cluster = Cluster::empty(Options::default());
    let mut node = cluster.further();
    let store = node.store.clone();
    let guide = [
        "cluster",
        "start",
        "-store",
        store.to_str().unwrap(),
        "-port",
        &node.port.number.to_string(),
    ]
    .map(str::to_string)
    .to_vec();
    let joins = [
        "start",
        "--store",
        store.to_str().unwrap(),
        "--listen",
        &node.endpoint(),
        "--join",
        "127.0.0.1:1",
    ]
    .map(str::to_string)
    .to_vec();
    let founds = node.args.clone();
    fs::create_dir(&store).unwrap();
    for strange in ["snapshot-19a7e40e-adcc-4cc2-87a7-ae599272b050-ddb1.tar", ".bashrc", "vmlinuz"]
    {
        fs::write(store.join(strange), "what it was").unwrap();
        for args in [&founds, &guide, &joins] {
            node.args.clone_from(args);
            node.start_refused()
                .await
                .exits(2)
                .says(strange)
                .says("is its disk mounted")
                .says("tar xf");
        }
        let left: Vec<_> =
            fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [strange]);
        fs::remove_file(store.join(strange)).unwrap();
    }
    let snapshots = node.snapshot_store.clone().unwrap();
    fs::write(snapshots.join("holiday.jpg"), "sun").unwrap();
    node.args.clone_from(&founds);
    node.start_refused().await.exits(2).says("holiday.jpg").says(&snapshots.display().to_string());
    assert!(!store.join("state.redb").exists());
    fs::remove_file(snapshots.join("holiday.jpg")).unwrap();
    node.start();
    node.wait_ready().await;
    // What a crash has left beside a store does not keep it from coming back.
    node.kill9();
    fs::write(store.join("core.4711"), "").unwrap();
    fs::write(snapshots.join("core.4711"), "").unwrap();
    node.start();
    node.wait_ready().await;
    node.says_times("core.4711", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_snapshot_store_has_parts_of_this_address_nothing_is_founded() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    cluster.client().complete_snapshot(SOON).await;
    let tar =
        cluster.download_all(&cluster.client().complete_snapshot(SOON).await.uuid).await.remove(0);
    cluster.kill9_all();
    let node = &mut cluster.nodes[0];
    fs::remove_dir_all(&node.store).unwrap();
    let (store, snapshots, port) = (
        node.store.display().to_string(),
        node.snapshot_store.clone().unwrap(),
        node.port.number.to_string(),
    );
    let by_flag = node.args.clone();
    let guide = [
        "cluster",
        "start",
        "-store",
        &store,
        "-port",
        &port,
        "-partitions",
        "64",
        "-snapshot_store",
        snapshots.to_str().unwrap(),
    ];
    let by_guide: Vec<_> = guide.map(str::to_string).to_vec();
    for args in [&by_flag, &by_guide] {
        node.args.clone_from(args);
        let ran =
            node.start_refused().await.exits(2).says("a cluster was here").says("manifest.json");
        ["--found", "--join", "mount its disk", "part of a snapshot"]
            .iter()
            .fold(ran, |ran, way| ran.says(way));
        assert!(!node.store.join("state.redb").exists());
    }
    // Nor when it is told to, while it waits.
    let endpoint = node.endpoint();
    node.args = by_flag.clone();
    told_to_join(node, &endpoint);
    node.start();
    node.wait_unready("a cluster was here").await;
    node.ctl(&["cluster", "init"]).await.exits(5).says("a cluster was here");
    node.kill9();
    // A part is the way back, into the directory in which the node has waited.
    shell(&format!("tar xf {} -C {store}", tar.display()), SOON).await.exits(0);
    node.start();
    node.wait_ready().await;
    node.kill9();
    // Another address is no trace of this one.
    fs::remove_dir_all(&node.store).unwrap();
    let port = Port::claim();
    node.args = by_guide
        .iter()
        .map(|word| {
            if *word == node.port.number.to_string() {
                port.number.to_string()
            } else {
                word.clone()
            }
        })
        .collect();
    let mut elsewhere = Node::new(
        "elsewhere",
        port,
        node.store.parent().unwrap(),
        node.store.clone(),
        node.args.clone(),
    );
    elsewhere.start();
    elsewhere.wait_ready().await;
}

fn stranger(node_id: u64, address: &str) -> JoinRequest {
    let node = NodeRecord {
        id: node_id,
        address: address.into(),
        capacity_percent: 100,
        version: "0".into(),
        snapshot_store: false,
        lineage: 0,
        level: 0,
        leaving: false,
        draining: false,
        certificate_name: String::new(),
    };
    JoinRequest {
        node: Some(node),
        protocol: *net::PROTOCOLS.end(),
        incarnation: 7,
        protocol_min: 0,
        proof: None,
        seed: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_nobody_reaches_where_they_say_do_not_join() {
    let mut cluster = Cluster::start(1, Options::default()).await;
    let target = cluster.nodes[0].endpoint();
    let refused = async |address: &str| {
        net::Dialler::default().join(&target, stranger(1000, address)).await.unwrap_err().message
    };
    let nowhere = Port::claim().endpoint();
    let told = refused(&nowhere).await;
    assert!(told.contains(&format!("reached at {nowhere}, where it does not answer")), "{told}");
    let told = refused(&target).await;
    assert!(told.contains("--advertise is wrong"), "{told}");
    // Whoever answers nothing is hung up on, and meanwhile only so many are called.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..4 * limits::JOINS_AT_ONCE as u64 {
        let (target, address) = (target.clone(), address.clone());
        asked.spawn(async move {
            net::Dialler::default()
                .join(&target, stranger(1000 + number, &address))
                .await
                .unwrap_err()
                .message
        });
    }
    let told = asked.join_all().await;
    let count = |words: &str| told.iter().filter(|told| told.contains(words)).count();
    assert_eq!(
        count("where it does not answer") + count("are being taken in here already"),
        told.len(),
        "{told:#?}"
    );
    assert!(count("are being taken in here already") > 0, "{told:#?}");
    drop(silent);
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 1);
    cluster.add().await;
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_advertise_is_told_to_the_node_that_joins_and_makes_it_no_member() {
    let cluster = Cluster::start(1, Options::default()).await;
    let member = cluster.nodes[0].endpoint();
    // The address of another node can never become its own.
    let mut node = cluster.further();
    let usual = node.args.clone();
    node.args.extend(["--advertise".to_string(), member.clone()]);
    node.start_refused().await.exits(1).says("--advertise is wrong").says(&member);
    // One where nobody answers may be reached later: it says so and goes on asking.
    let nobody = Port::claim();
    node.args =
        usual.iter().cloned().chain(["--advertise".to_string(), nobody.endpoint()]).collect();
    node.start();
    node.wait_unready(&format!("it is reached at {}", nobody.endpoint())).await;
    node.wait_unready("See its --advertise").await;
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 1);
    node.kill9();
    node.args = usual;
    node.start();
    node.wait_listening().await;
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 2);
}

/// Nothing on its machine says that its disk is lost, and its unit says `--found`.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_cluster_in_the_place_of_a_member_hears_of_the_first_and_is_not_ready() {
    let options = Options { snapshot_store: SnapshotStore::None, ..Options::default() };
    let mut cluster = Cluster::start(3, options).await;
    let founder = cluster.nodes.iter().position(|n| n.args.contains(&"--found".to_owned()));
    let lost = founder.expect("one of them was started so");
    let others: Vec<usize> = (0..3).filter(|at| *at != lost).collect();
    let first = cluster.nodes[others[0]].client().overview().await.unwrap();
    let endpoint = cluster.nodes[lost].endpoint();
    let id = first.nodes.iter().find(|node| node.address == endpoint).unwrap().id;

    cluster.nodes[lost].kill9();
    fs::remove_dir_all(&cluster.nodes[lost].store).unwrap();
    cluster.nodes[lost].start();
    let second = &cluster.nodes[lost];
    second.wait_unready(&format!("looks for node {id} here")).await;
    second.wait_unready(&format!("of cluster {}", first.cluster_id)).await;
    assert!(second.log().contains("has founded a second cluster"), "{}", second.log_end());
    let health = second.ctl(&["cluster", "health"]).await.exits(1);
    health.says(&format!("looks for node {id} here"));

    // As the message says.
    let join = cluster.nodes[others[0]].endpoint();
    let second = &mut cluster.nodes[lost];
    second.terminate().await;
    fs::remove_dir_all(&second.store).unwrap();
    told_to_join(second, &join);
    second.start();
    second.wait_ready().await;
    assert_eq!(second.client().overview().await.unwrap().cluster_id, first.cluster_id);
}

/// Has a node take its words from a file of settings.
fn by_file(node: &mut Node) {
    let mut settings = String::new();
    let mut words = node.args.drain(1..).peekable();
    while let Some(word) = words.next() {
        let flag = word.strip_prefix("--").unwrap_or_else(|| panic!("{word} is no flag"));
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, words.next_if(|next| !next.starts_with("--"))),
        };
        let value = match value {
            Some(value) if value.bytes().all(|byte| byte.is_ascii_digit()) => value,
            Some(value) => format!("{value:?}"),
            None => "true".to_owned(),
        };
        settings += &format!("{name} = {value}\n");
    }
    drop(words);
    let file = node.store.with_extension("toml");
    fs::write(&file, settings).unwrap();
    node.args.extend(["--config".to_owned(), file.display().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_take_their_words_from_files() {
    let options = Options { replication_factor: 2, ..Options::default() };
    let mut cluster = Cluster::empty(options);
    for _ in 0..2 {
        let mut node = cluster.further();
        by_file(&mut node);
        assert_eq!(node.args.len(), 3, "{:?}", node.args);
        node.start();
        node.wait_listening().await;
        cluster.nodes.push(node);
    }
    cluster.settled().await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    client.put("shop", Bucket::Default, "key", "value").await.unwrap();
    assert_eq!(client.values("shop", Bucket::Default, "key").await.unwrap(), ["value"]);
}
