//! The whole story that DeviceDB is built for, on real processes: three nodes, a fleet that writes,
//! a snapshot while it does, the loss of every disk, the way back, and a proof key by key. `make
//! demo` runs it.
//!
//! Everything stands in a temporary directory on loopback ports, and is gone afterwards: also when
//! it fails or is interrupted. With `--keep` the cluster stays once everything was proved. With
//! `--secure` all of it goes over TLS, with certificates that `ddbctl cert` makes. It exits with 0
//! only if everything was proved.

#[allow(dead_code, unused_imports, reason = "the tests use the rest of it")]
#[path = "../cluster/harness/mod.rs"]
mod harness;

mod fleet;
mod page;
mod proof;

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, time::Duration};

use devicedb::{
    base::clock::Clock,
    proto::v1::{Bucket, SnapshotStatus},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use fleet::{Fleet, PLACES, Promise, TOWNS, site};
use harness::{Cluster, Options, SOON, binary, eventually};
use page::{Page, number, time};

const INTERRUPTED: u8 = 130;
/// However slow the machine is, a person does not wait longer for a story.
const STORY_MAX: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    let page = Page::open();
    std::panic::set_hook(Box::new(|panic| {
        let said = panic.payload();
        let what = said
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(said.downcast_ref::<&str>().copied());
        Page::open().failed(what.unwrap_or("it does not say why"));
    }));
    let mut terminate =
        signal(SignalKind::terminate()).expect("this process may listen to signals");
    // Whichever way it ends, the story is dropped here, and with it its nodes and its directory.
    let ended = tokio::select! {
        ended = timeout(STORY_MAX, story(&page)) => {
            ended.unwrap_or_else(|_| Err(format!("it took more than {STORY_MAX:?}")))
        }
        _ = tokio::signal::ctrl_c() => return interrupted(&page),
        _ = terminate.recv() => return interrupted(&page),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            page.failed(why);
            ExitCode::FAILURE
        }
    }
}

fn interrupted(page: &Page) -> ExitCode {
    page.failed("interrupted; its nodes are stopped and its directory is gone");
    ExitCode::from(INTERRUPTED)
}

async fn story(page: &Page) -> Result<(), String> {
    page.title("DeviceDB: a disaster, and the way back");
    let clock = Clock::start();
    let secured = std::env::args().any(|word| word == "--secure");
    let mut cluster = three_nodes(page, clock, secured).await?;
    let identity = identity(&cluster).await?;
    let fleet = writes(page, &cluster, clock).await?;
    let snapshot = snapshot(page, &cluster, &fleet, clock).await?;
    let tars = life_goes_on(page, &cluster, &fleet, &snapshot).await?;
    let promises = disaster(page, &mut cluster, fleet);
    let recovery = the_way_back(page, &mut cluster, &tars, clock).await;
    page.chapter("Every key is checked");
    let keys = check(page, &cluster, &promises, &snapshot).await?;
    if secured {
        refused(page, &cluster).await?;
    }
    if self::identity(&cluster).await? != identity {
        return Err("the nodes that came back are not the ones that were lost".to_string());
    }
    page.holds(
        "node ids, addresses and sites are those of the snapshot; a site added later is gone",
    );
    let keep = std::env::args().any(|word| word == "--keep");
    page.title(&format!(
        "Recovered: {} keys on three nodes, {} from empty disks to serving.",
        number(keys),
        time(recovery)
    ));
    if keep {
        leave(page, cluster);
    }
    println!();
    Ok(())
}

/// Leaves the cluster to whoever wants to look around in it.
fn leave(page: &Page, cluster: Cluster) {
    page.chapter("The cluster stays");
    let secured = cluster.options.secured;
    let (dir, nodes) = cluster.leave();
    let (endpoints, pids): (Vec<_>, Vec<_>) =
        nodes.into_iter().map(|(endpoint, pid)| (endpoint, pid.to_string())).unzip();
    page.says("look around:");
    let programs = binary("ddbctl");
    let programs = programs.parent().expect("a program stands in a folder");
    page.types(format!("export PATH={}:$PATH", programs.display()));
    page.types(format!("export DDBCTL_ENDPOINT={}", endpoints.join(",")));
    if secured {
        let [_, named] = harness::Certificates::typed(&dir.join("certs").display().to_string());
        page.types(named);
    }
    page.types("ddbctl cluster health");
    page.says("and stop it:");
    page.types(format!("kill {}; sleep 1; rm -r {}", pids.join(" "), dir.display()));
}

/// Who the nodes are.
async fn identity(cluster: &Cluster) -> Result<BTreeSet<(u64, String)>, String> {
    let overview = cluster.client().overview().await.map_err(|e| format!("no overview: {e:?}"))?;
    Ok(overview.nodes.into_iter().map(|node| (node.id, node.address)).collect())
}

async fn three_nodes(page: &Page, clock: Clock, secured: bool) -> Result<Cluster, String> {
    page.chapter(if secured {
        "Three nodes become a cluster that speaks TLS and nothing else"
    } else {
        "Three nodes become a cluster"
    });
    let mut cluster = Cluster::empty(Options { secured, ..Options::product() });
    if secured {
        let [made, named] = harness::Certificates::typed("certs");
        page.types(made);
        page.types("ddbctl cert node node1 node2 node3 --host 127.0.0.1");
        page.types(named);
    }
    let began = clock.now();
    for number in 0..3 {
        let node = cluster.add().await;
        let join = node
            .args
            .iter()
            .position(|word| word == "--join")
            .map_or(" --found".to_owned(), |at| format!(" --join {}", node.args[at + 1]));
        let tls = node.certificates.as_ref().map_or(String::new(), |_| {
            let stem = format!("certs/node-{}", node.name);
            format!(" --tls-ca certs/ca.crt --tls-cert {stem}.crt --tls-key {stem}.key")
        });
        page.types(format!(
            "devicedb start --store {} --listen {}{join} --snapshot-store snapshots{tls}",
            node.name,
            node.endpoint()
        ));
        if number == 0 {
            let client = cluster.client();
            for (town, place) in TOWNS.iter().flat_map(|town| PLACES.map(|place| (town, place))) {
                client
                    .add_site(&site(town, place))
                    .await
                    .map_err(|e| format!("no site could be added: {e:?}"))?;
            }
            client
                .put(&site(TOWNS[0], PLACES[0]), Bucket::Default, fleet::COUNTER, "0")
                .await
                .map_err(|e| format!("no first write: {e:?}"))?;
            page.says(format!(
                "the first node had {} sites and took its first write {} after it was called",
                3 * TOWNS.len(),
                time(clock.now() - began)
            ));
        }
    }
    cluster.settled().await;
    let options = &cluster.options;
    page.says(format!(
        "{} partitions in {} groups, each on three nodes and with a leader, after {}",
        number(options.partitions),
        options.groups,
        time(clock.now() - began)
    ));
    Ok(cluster)
}

async fn writes(page: &Page, cluster: &Cluster, clock: Clock) -> Result<Fleet, String> {
    page.chapter("A fleet writes");
    page.says(format!(
        "{} towns write to their shop, then their depot, then their van: an event, and how many \
         rounds they made,",
        TOWNS.len()
    ));
    page.says("in every bucket that a cluster takes, through whichever node comes next");
    let began = clock.now();
    let fleet = Fleet::start(&cluster.clients(), clock);
    goes_on(&fleet, 2000).await?;
    page.says(format!(
        "{} writes acknowledged in {}, each on disk on a majority of nodes",
        number(fleet.promised()),
        time(clock.now() - began)
    ));
    Ok(fleet)
}

/// Waits until so many more writes are acknowledged.
async fn goes_on(fleet: &Fleet, more: usize) -> Result<(), String> {
    let goal = fleet.promised() + more;
    eventually(&format!("{more} more writes"), SOON * 4, async || match fleet.promised() {
        promised if promised >= goal || fleet.has_failed() => Ok(()),
        promised => Err(format!("{promised} of {goal}")),
    })
    .await;
    if fleet.has_failed() { Err("a writer has failed".to_string()) } else { Ok(()) }
}

/// A snapshot and the times between which it was taken.
struct Taken {
    uuid: String,
    create_called: Duration,
    sealed: Duration,
}

async fn snapshot(
    page: &Page,
    cluster: &Cluster,
    fleet: &Fleet,
    clock: Clock,
) -> Result<Taken, String> {
    page.chapter("A snapshot of the whole cluster, while it writes");
    let (before, create_called) = (fleet.promised(), clock.now());
    page.types("ddbctl snapshot create --wait");
    let ran = cluster.ctl(&["-o", "json", "snapshot", "create", "--wait"]).await.exits(0);
    let sealed = clock.now();
    let told = serde_json::from_slice(&ran.stdout)
        .map_err(|e| format!("no JSON: {e}\n{}", ran.story()))?;
    let uuid = uuid_in(&told).ok_or_else(|| format!("no uuid:\n{}", ran.story()))?;
    let snapshot =
        cluster.client().snapshot(&uuid).await.map_err(|e| format!("no status: {e:?}"))?;
    if snapshot.status() != SnapshotStatus::Completed || snapshot.parts.len() != 3 {
        return Err(format!("the snapshot is not complete: {snapshot:#?}"));
    }
    page.says(format!(
        "{uuid}: completed after {}, {} copies of each partition",
        time(sealed - create_called),
        snapshot.copies_min
    ));
    page.says(format!(
        "{} writes were acknowledged before it was asked for, {} more while it was taken",
        number(before),
        number(fleet.promised() - before)
    ));
    Ok(Taken { uuid, create_called, sealed })
}

/// The value of the first field named `uuid`, wherever the answer has it.
fn uuid_in(told: &serde_json::Value) -> Option<String> {
    match told {
        serde_json::Value::Object(fields) => {
            let own = fields.get("uuid").and_then(|uuid| uuid.as_str()).map(str::to_string);
            own.or_else(|| fields.values().find_map(uuid_in))
        }
        serde_json::Value::Array(all) => all.iter().find_map(uuid_in),
        _ => None,
    }
}

async fn life_goes_on(
    page: &Page,
    cluster: &Cluster,
    fleet: &Fleet,
    snapshot: &Taken,
) -> Result<Vec<PathBuf>, String> {
    page.chapter("The parts are streamed away and verified, and life goes on");
    cluster.client().add_site("later/shop").await.map_err(|e| format!("no later site: {e:?}"))?;
    goes_on(fleet, 500).await?;
    let tars = cluster.download_all(&snapshot.uuid).await;
    for (tar, node) in tars.iter().zip(&cluster.nodes) {
        let bytes = std::fs::metadata(tar).map_err(|e| format!("{}: {e}", tar.display()))?.len();
        page.types(format!(
            "ddbctl --endpoint {} snapshot download {} --output {}.tar",
            node.endpoint(),
            snapshot.uuid,
            node.name
        ));
        page.says(format!("{} bytes", number(bytes)));
    }
    let paths: Vec<_> = tars.iter().map(|tar| tar.display().to_string()).collect();
    page.types("ddbctl snapshot verify *.tar");
    let verify: Vec<_> =
        ["snapshot", "verify"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    cluster.ctl(&verify).await.exits(0);
    page.holds("one snapshot, three nodes, every partition, every byte as it was written");
    Ok(tars)
}

fn disaster(page: &Page, cluster: &mut Cluster, fleet: Fleet) -> Vec<Promise> {
    page.chapter("Disaster");
    page.types("kill -9 node1 node2 node3; rm -rf node1 node2 node3");
    cluster.lose_every_disk();
    let promises = fleet.silence();
    page.says(format!(
        "every process killed in the middle of writing, every store deleted; {} writes had been \
         acknowledged",
        number(promises.len())
    ));
    promises
}

async fn the_way_back(
    page: &Page,
    cluster: &mut Cluster,
    tars: &[PathBuf],
    clock: Clock,
) -> Duration {
    page.chapter("The way back");
    page.types("for n in node1 node2 node3; do mkdir $n && tar xf $n.tar -C $n; done");
    let began = clock.now();
    cluster.restore(tars).await;
    let took = clock.now() - began;
    page.says(format!(
        "three nodes started as ever; each checked every byte of its part; all ready after {}",
        time(took)
    ));
    took
}

/// Nobody without a certificate is served, also after the way back.
async fn refused(page: &Page, cluster: &Cluster) -> Result<(), String> {
    for node in &cluster.nodes {
        let ran = harness::ddbctl(&node.endpoint(), &["node", "list"]).await;
        if ran.code != Some(4) || !ran.stderr.contains("speaks TLS") {
            return Err(format!("{} serves whoever asks:\n{}", node.name, ran.story()));
        }
    }
    page.holds("whoever comes without a certificate is refused by every node");
    Ok(())
}

async fn check(
    page: &Page,
    cluster: &Cluster,
    promises: &[Promise],
    snapshot: &Taken,
) -> Result<usize, String> {
    let held = proof::read_all(&cluster.nodes[0].client()).await?;
    for node in &cluster.nodes[1..] {
        if proof::read_all(&node.client()).await? != held {
            return Err(format!(
                "{} does not read what {} reads",
                node.name, cluster.nodes[0].name
            ));
        }
    }
    page.holds(format!("all three nodes read the same {} keys", number(held.len())));
    let proof = proof::prove(&held, promises, snapshot.create_called, snapshot.sealed)?;
    page.holds(format!(
        "all {} events acknowledged before `create` was called are there",
        number(proof.before)
    ));
    page.holds(format!(
        "none of the {} events written after the snapshot is there",
        number(proof.after)
    ));
    let (there, not) = proof.during;
    page.holds(format!(
        "of those written while it was taken {} are there and {} not, and it is one instant:",
        number(there),
        number(not)
    ));
    page.says(format!(
        "  in each of {} towns the shop has counted at least what the depot has, and the depot \
         what the van has",
        proof.towns
    ));
    let sites = cluster.client().sites().await.map_err(|e| format!("no sites: {e:?}"))?;
    let expected: BTreeSet<_> =
        TOWNS.iter().flat_map(|town| PLACES.map(|place| site(town, place))).collect();
    if sites.into_iter().collect::<BTreeSet<_>>() != expected {
        return Err("the sites are not those of the snapshot".to_string());
    }
    Ok(proof.keys)
}
