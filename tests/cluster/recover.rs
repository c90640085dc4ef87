//! Most nodes are lost for good, and what is left becomes a cluster again: `devicedb recover`
//! inspects the stores that are left, plans, and applies the plan; then the nodes are started.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use devicedb::proto::v1::{Bucket, Consistency, ScanRequest};
use serde_json::Value;

use crate::harness::{
    Client, Cluster, Ledger, Node, Options, Port, Ran, SOON, Writer, eventually, shell,
};

/// One in each of the groups.
const SITES: [&str; 8] = ["pier", "depot", "silo", "van", "shop", "yard", "attic", "kiosk"];

async fn recover(words: String) -> Ran {
    shell(&format!("devicedb recover {words}"), SOON).await
}

/// A report of a store, in a file beside it.
async fn inspect(node: &Node) -> PathBuf {
    let file = node.store.with_extension("json");
    let ran = recover(format!("inspect --store {}", node.store.display())).await.exits(0);
    fs::write(&file, &ran.stdout).unwrap();
    file
}

async fn inspect_all(nodes: &[Node]) -> Vec<PathBuf> {
    let mut reports = Vec::new();
    for node in nodes {
        reports.push(inspect(node).await);
    }
    reports
}

fn words(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The plan in a file, and what was said of it.
async fn planned(reports: &[PathBuf], flags: &str, file: &Path) -> Ran {
    let ran = recover(format!("plan {} {flags}", words(reports))).await.exits(0);
    fs::write(file, &ran.stdout).unwrap();
    ran
}

async fn apply(plan: &Path, node: &Node) -> Ran {
    let short = json(plan)["history"]["cluster"].as_str().unwrap()[..8].to_owned();
    let (plan, store) = (plan.display(), node.store.display());
    recover(format!("apply {plan} --store {store} --confirm {short}")).await
}

/// The three commands, as the manual has them, and the start. What was said of the plan.
async fn recovered(cluster: &mut Cluster, flags: &str) -> Ran {
    let (reports, plan) = (inspect_all(&cluster.nodes).await, cluster.dir().join("plan.json"));
    let told = planned(&reports, flags, &plan).await;
    for node in &cluster.nodes {
        apply(&plan, node).await.exits(0).says("is recovered by plan");
    }
    cluster.nodes.iter_mut().for_each(Node::start);
    for node in &mut cluster.nodes {
        node.wait_ready().await;
    }
    told
}

/// Nodes that are lost for good, with a copy of what they had.
fn lose(cluster: &mut Cluster, lost: &BTreeSet<usize>) -> Vec<Node> {
    cluster.kill9_all();
    let nodes = std::mem::take(&mut cluster.nodes).into_iter().enumerate();
    let (lost, left): (Vec<_>, Vec<_>) = nodes.partition(|(at, _)| lost.contains(at));
    cluster.nodes = left.into_iter().map(|(_, node)| node).collect();
    lost.into_iter().map(|(_, node)| node).collect()
}

/// An empty node that joins by one that runs.
fn newcomer(cluster: &Cluster, name: &str) -> Node {
    let like = cluster.further();
    let (port, store) = (Port::claim(), cluster.dir().join(name));
    let instead = |word: &String| match word {
        word if *word == like.endpoint() => port.endpoint(),
        word if *word == like.store.display().to_string() => store.display().to_string(),
        word => word.clone(),
    };
    let args = like.args.iter().map(instead).collect();
    let mut node = Node::new(name, port, cluster.dir(), store, args);
    node.snapshot_store = like.snapshot_store.clone();
    node
}

async fn sites(client: &Client) {
    for site in SITES {
        client.add_site(site).await.unwrap();
    }
}

fn writers(clients: &[Client], name: &str) -> Vec<Writer> {
    SITES.iter().map(|site| Writer::start(clients, site, Bucket::Default, name)).collect()
}

/// So many writes of each site, all of them acknowledged and none under way.
async fn written(cluster: &Cluster, name: &str) -> Vec<(&'static str, Ledger)> {
    let mut ledgers = Vec::new();
    for (site, writer) in SITES.into_iter().zip(writers(&cluster.clients(), name)) {
        writer.goes_on(10, SOON).await;
        ledgers.push((site, writer.stop().await));
    }
    ledgers
}

async fn held(client: &Client, site: &str, name: &str) -> BTreeSet<Bytes> {
    let found = client.scan(site, Bucket::Default, name).await.unwrap();
    found.into_iter().map(|(key, _)| key).collect()
}

/// Waits until a node has by itself all that was acknowledged.
async fn has_all(node: &Node, ledgers: &[(&str, Ledger)]) {
    for (site, ledger) in ledgers {
        eventually(&format!("{} has all of {site}", node.name), SOON, async || {
            let scan = ScanRequest {
                site: (*site).into(),
                bucket: Bucket::Default.into(),
                consistency: Consistency::Stale.into(),
                ..ScanRequest::default()
            };
            let found = node.client().scan_request(scan).await.map_err(|e| e.to_string())?;
            let found: BTreeSet<Bytes> = found.into_iter().map(|(key, _)| key).collect();
            match ledger.acknowledged.keys().filter(|key| !found.contains(*key)).count() {
                0 => Ok(()),
                lacking => Err(format!("{lacking} keys are not there")),
            }
        })
        .await;
    }
}

async fn check_all(client: &Client, ledgers: &[(&str, Ledger)]) {
    for (site, ledger) in ledgers {
        ledger.check(client, site, Bucket::Default).await;
    }
}

/// The cluster takes writes in all sites, new nodes get everything, and snapshots are complete.
async fn lives_on(cluster: &mut Cluster, kept: &[(&'static str, Ledger)], size: usize) {
    let client = cluster.client();
    for site in SITES {
        eventually(&format!("{site} takes a write"), SOON, async || {
            client.put(site, Bucket::Default, "after", "served").await
        })
        .await;
    }
    for number in cluster.nodes.len()..size {
        let mut node = newcomer(cluster, &format!("new{number}"));
        node.start();
        node.wait_listening().await;
        cluster.nodes.push(node);
    }
    cluster.ctl(&["cluster", "health", "--wait", "60s"]).await.exits(0);
    cluster.client().complete_snapshot(SOON).await;
    for client in cluster.clients() {
        check_all(&client, kept).await;
        for site in SITES {
            let read = client.values(site, Bucket::Default, "after").await.unwrap();
            assert_eq!(read, ["served"], "{site} at {}", client.endpoint);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_nodes_goes_on_with_all_that_it_has_and_new_ones_join() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    sites(&cluster.client()).await;
    let quiet = written(&cluster, "quiet").await;
    has_all(&cluster.nodes[2], &quiet).await;
    // Two nodes die under load, so that acknowledged writes may be missing on the third.
    let busy = writers(&cluster.clients(), "busy");
    for writer in &busy {
        writer.goes_on(20, SOON).await;
    }
    let mut lost = lose(&mut cluster, &[0, 1].into());
    let busy: Vec<Ledger> = busy.into_iter().map(Writer::abandon).collect();

    let told = recovered(&mut cluster, "").await;
    told.says("may lack acknowledged writes: yes").says("kept from node").says("8 of 8 groups");
    let client = cluster.client();
    check_all(&client, &quiet).await;
    // What is kept of a site is the beginning of its log: nothing is missing in between.
    let (mut kept, mut all) = (0, 0);
    for (site, ledger) in SITES.into_iter().zip(&busy) {
        let found = held(&client, site, "busy").await;
        let missing = ledger.acknowledged.keys().position(|key| !found.contains(key));
        let behind = ledger.acknowledged.keys().skip(missing.unwrap_or(usize::MAX));
        let late: Vec<_> = behind.filter(|key| found.contains(*key)).collect();
        assert!(late.is_empty(), "{site} has {late:?} and not all that came before");
        kept += ledger.acknowledged.keys().filter(|key| found.contains(*key)).count();
        all += ledger.acknowledged.len();
    }
    println!("{kept} of {all} writes that were acknowledged under load are kept");
    assert!(kept > 0, "nothing of {all} writes is kept");

    lives_on(&mut cluster, &quiet, 3).await;
    // The lost ones cannot come back: nobody speaks to them.
    for node in &mut lost {
        node.start();
        node.says("belongs to another history").await;
        node.kill9();
    }
    assert_eq!(cluster.client().overview().await.unwrap().nodes.len(), 3);

    // And once more: the note of the first recovery is in the store that is left.
    has_all(&cluster.nodes[0], &quiet).await;
    lose(&mut cluster, &[1, 2].into());
    recovered(&mut cluster, "").await.says("8 of 8 groups");
    check_all(&cluster.client(), &quiet).await;
}

/// The places of the nodes that hold each group.
async fn holders(cluster: &Cluster) -> Vec<BTreeSet<usize>> {
    // Where groups still move, others vote in them than should.
    let overview = eventually("every group is where it should be", SOON, async || {
        let client = cluster.client();
        let seen = client.overview().await.map_err(|e| e.to_string())?;
        let (mut wanted, mut voting) = (BTreeMap::new(), BTreeMap::new());
        for partition in client.partitions().await.map_err(|e| e.to_string())? {
            let nodes: BTreeSet<u64> = partition.replicas.into_iter().collect();
            wanted.insert(partition.group, nodes);
        }
        let mut sets: BTreeMap<BTreeSet<u64>, u32> = BTreeMap::new();
        wanted.into_values().for_each(|nodes| *sets.entry(nodes).or_default() += 1);
        for set in seen.voter_sets.iter().filter(|set| !set.meta) {
            voting.insert(set.voters.iter().copied().collect::<BTreeSet<u64>>(), set.groups);
        }
        if sets == voting { Ok(seen) } else { Err(format!("{voting:?} instead of {sets:?}")) }
    })
    .await;
    let place = |id: u64| {
        let node = overview.nodes.iter().find(|node| node.id == id).unwrap();
        cluster.nodes.iter().position(|own| own.endpoint() == node.address).unwrap()
    };
    let mut groups = vec![BTreeSet::new(); 8];
    for partition in cluster.client().partitions().await.unwrap() {
        groups[partition.group as usize] = partition.replicas.iter().map(|id| place(*id)).collect();
    }
    groups
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_five_nodes_are_lost_with_all_of_some_groups_which_begin_empty_when_given_up() {
    // Two nodes together hold at most seven of the eight groups.
    let options = Options { replication_factor: 2, ..Options::default() };
    let mut cluster = Cluster::start(5, options).await;
    sites(&cluster.client()).await;
    let written = written(&cluster, "before").await;
    let groups = holders(&cluster).await;
    have_all(&cluster, &groups, &written).await;
    lose(&mut cluster, &[0, 1, 2].into());

    let reports = inspect_all(&cluster.nodes).await;
    // A node that gave a group up still has what it had then, which is old and better than nothing.
    let copies: BTreeSet<usize> = reports.iter().flat_map(|report| copies(report)).collect();
    let gone: Vec<usize> = (0..8).filter(|group| !copies.contains(group)).collect();
    let refused = recover(format!("plan {}", words(&reports))).await.exits(1);
    let list = gone.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    refused
        .says("none of these stores has a copy of group")
        .says(&format!("--give-up-groups {list}"))
        .says("restore a snapshot");
    let wrong = copies.first().unwrap();
    recover(format!("plan {} --give-up-groups {list},{wrong}", words(&reports)))
        .await
        .exits(2)
        .says(&format!("group {wrong} is to be given up, and one of these stores has a copy"));

    let told = recovered(&mut cluster, &format!("--give-up-groups {list}")).await;
    told.says("begins empty on node").says("the configuration may lack changes");
    let on_survivor = |group: usize| groups[group].iter().any(|node| *node > 2);
    let kept: Vec<_> =
        written.iter().filter(|(site, _)| on_survivor(group_of(site))).cloned().collect();
    assert!(!kept.is_empty());
    lives_on(&mut cluster, &kept, 3).await;
    for (site, _) in written.iter().filter(|(site, _)| gone.contains(&group_of(site))) {
        let found = held(&cluster.client(), site, "before").await;
        assert!(found.is_empty(), "{site} was given up and has {found:?}");
    }
    assert_eq!(cluster.client().sites().await.unwrap().len(), SITES.len());
}

/// The data groups of which a store has a copy, by its report.
fn copies(report: &Path) -> Vec<usize> {
    let report = json(report);
    let fit = report["replicas"].as_array().unwrap().iter().filter(|r| r["unfit"].is_null());
    fit.filter_map(|replica| replica["group"].as_str().unwrap().parse().ok()).collect()
}

/// Waits until each node has by itself all that was acknowledged in the groups that it holds: then
/// it is known exactly what has to be kept.
async fn have_all(cluster: &Cluster, groups: &[BTreeSet<usize>], written: &[(&str, Ledger)]) {
    for (at, node) in cluster.nodes.iter().enumerate() {
        let its = written.iter().filter(|(site, _)| groups[group_of(site)].contains(&at));
        has_all(node, &its.cloned().collect::<Vec<_>>()).await;
    }
}

/// With 64 partitions in 8 groups, as `Options::default` has it.
fn group_of(site: &str) -> usize {
    let topology = devicedb::base::ids::Topology::new(64, 8).unwrap();
    topology.group_of_site(&devicedb::base::ids::SiteId::new(site).unwrap()).0 as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_nodes_are_lost_and_only_some_groups_with_their_majority() {
    let mut cluster = Cluster::start(5, Options::default()).await;
    sites(&cluster.client()).await;
    let written = written(&cluster, "before").await;
    let groups = holders(&cluster).await;
    let lost: BTreeSet<usize> = groups[0].iter().copied().take(2).collect();
    let lacking = |group: &BTreeSet<usize>| group.intersection(&lost).count() == 2;
    let expected = groups.iter().filter(|group| lacking(group)).count();
    assert!((1..8).contains(&expected), "{groups:?}");
    have_all(&cluster, &groups, &written).await;
    lose(&mut cluster, &lost);
    let told = recovered(&mut cluster, "").await;
    let line = |group: &str| {
        let begins = format!("group {group}: ");
        let line = told.stderr.lines().find(|line| line.starts_with(&begins));
        line.unwrap_or_else(|| panic!("nothing is said of group {group}: {}", told.story()))
    };
    assert!(line("meta").ends_with("may lack acknowledged writes: no"), "{}", told.story());
    for group in (0..8).filter(|group| lacking(&groups[*group])) {
        let line = line(&group.to_string());
        assert!(line.contains("may lack acknowledged writes: yes"), "{}", told.story());
    }
    lives_on(&mut cluster, &written, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_being_taken_holds_nothing_back_after_a_recovery() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    sites(&cluster.client()).await;
    let written = written(&cluster, "before").await;
    has_all(&cluster.nodes[2], &written).await;
    cluster.kill9_all();
    // Whoever leads the meta group dies when all groups stand at their marks, and the others before
    // another one can seal.
    for node in &mut cluster.nodes {
        node.under = ["env", "DEVICEDB_FAILPOINT=cut.seal-proposed"].map(str::to_owned).to_vec();
    }
    cluster.restart_all().await;
    let client = cluster.client();
    let asking = tokio::spawn(async move { client.create_snapshot().await });
    let died = eventually("the meta leader dies at the cut", SOON, async || {
        cluster.nodes.iter_mut().position(|node| node.ended_by_itself().is_some()).ok_or("all live")
    })
    .await;
    asking.abort();
    let (left, dead) = ((died + 1) % 3, (died + 2) % 3);
    cluster.nodes[died].wait_ended().await;
    lose(&mut cluster, &[died, dead].into());
    assert_eq!(cluster.nodes.len(), 1, "node {left} is left");
    cluster.nodes[0].under.clear();
    let report = json(&inspect(&cluster.nodes[0]).await);
    let marks = report["replicas"].as_array().unwrap().iter().map(|r| r["mark"].as_u64().unwrap());
    assert!(marks.max() > Some(0), "no group stands at its mark");
    recovered(&mut cluster, "").await;
    lives_on(&mut cluster, &written, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_and_plans_that_do_not_fit_are_refused_and_nothing_changes() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    sites(&cluster.client()).await;
    let written = written(&cluster, "before").await;
    has_all(&cluster.nodes[2], &written).await;
    let dir = cluster.dir().to_owned();
    let at = |name: &str| dir.join(name);
    let (plan, other, late) = (at("plan.json"), at("other.json"), at("late.json"));

    // A store that runs, and none at all.
    let store = cluster.nodes[2].store.display().to_string();
    recover(format!("inspect --store {store}")).await.exits(1).says("stop the node first");
    let nothing = at("nothing");
    let ran = recover(format!("inspect --store {}", nothing.display())).await.exits(1);
    ran.says("holds no store");
    assert!(!nothing.exists());

    // Where a majority is left there is nothing to recover.
    cluster.kill9_all();
    let all = inspect_all(&cluster.nodes).await;
    for enough in [&all[..], &all[1..]] {
        recover(format!("plan {}", words(enough))).await.exits(1).says("recover is not needed");
    }

    // An inspection changes nothing that another one sees.
    let first = fs::read(&all[2]).unwrap();
    assert_eq!(fs::read(inspect(&cluster.nodes[2]).await).unwrap(), first);
    let twice = [all[2].clone(), all[2].clone()];
    recover(format!("plan {}", words(&twice))).await.exits(2).says("is there twice");
    fs::write(at("cut.json"), &first[..first.len() / 2]).unwrap();
    recover(format!("plan {}", at("cut.json").display())).await.exits(2).says("is the file whole?");

    // Another cluster.
    let mut strange = Cluster::start(1, Options::default()).await;
    strange.kill9_all();
    let mixed = [all[2].clone(), inspect(&strange.nodes[0]).await];
    recover(format!("plan {}", words(&mixed))).await.exits(1).says("a plan is for one cluster");

    planned(&all[2..], "", &plan).await;
    planned(&all[2..], "", &other).await;
    apply(&plan, &strange.nodes[0]).await.exits(1).says("and the plan is for cluster");
    apply(&plan, &cluster.nodes[1]).await.exits(1).says("whose report was not among those");

    // Nobody to ask, somebody who says something else, and a plan that was edited.
    let words_of = format!("apply {} --store {store}", plan.display());
    recover(words_of.clone()).await.exits(2).says("nothing was changed").says("--confirm");
    recover(format!("{words_of} --confirm 12345678")).await.exits(2).says("nothing was changed");
    let edited =
        fs::read_to_string(&plan).unwrap().replacen("\"may_lack\": true", "\"may_lack\": false", 1);
    fs::write(at("edited.json"), edited).unwrap();
    apply(&at("edited.json"), &cluster.nodes[2]).await.exits(2).says("its digest does not fit");

    // A plan that is older than the store.
    cluster.restart_all().await;
    cluster.client().put("shop", Bucket::Default, "later", "kept").await.unwrap();
    cluster.kill9_all();
    apply(&plan, &cluster.nodes[2]).await.exits(1).says("is not as the plan knows it");
    assert_ne!(fs::read(inspect(&cluster.nodes[2]).await).unwrap(), first);

    // Once more is once; another plan is none. A store of the old history is no store of the new.
    let report = inspect(&cluster.nodes[2]).await;
    planned(std::slice::from_ref(&report), "", &late).await;
    planned(std::slice::from_ref(&report), "", &other).await;
    apply(&late, &cluster.nodes[2]).await.exits(0).says("is recovered by plan");
    apply(&late, &cluster.nodes[2]).await.exits(0).says("was recovered by plan");
    apply(&other, &cluster.nodes[2]).await.exits(1).says("two plans do not come together");
    apply(&plan, &cluster.nodes[2]).await.exits(1).says("two plans do not come together");
    let mixed = [inspect(&cluster.nodes[1]).await, inspect(&cluster.nodes[2]).await];
    recover(format!("plan {}", words(&mixed))).await.exits(1).says("their logs must never mix");

    // A store without its log has forgotten what it acknowledged.
    fs::remove_dir_all(cluster.nodes[1].store.join("log")).unwrap();
    let ran = recover(format!("inspect --store {}", cluster.nodes[1].store.display())).await;
    ran.exits(1).says("has lost its Raft log");

    lose(&mut cluster, &[0, 1].into());
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    lives_on(&mut cluster, &written, 3).await;
    cluster.kill9_all();
    apply(&late, &cluster.nodes[0]).await.exits(0).says("was recovered by plan");
}
