//! Parts that are not what was written: verify names what is wrong and exits 6, and a node refuses
//! to start from them and changes nothing.

use std::{fs, path::PathBuf, time::Duration};

use devicedb::{base::clock::Random, proto::v1::Bucket};
use tar::{Archive, Builder, EntryType, Header};

use crate::harness::{Cluster, Node, Options, Port, Ran, SOON, eventually, shell};

const VERIFICATION_FAILED: i32 = 6;

/// A cluster that has taken one snapshot, with its parts as tars.
struct Parts {
    cluster: Cluster,
    uuid: String,
    tars: Vec<Vec<u8>>,
}

async fn parts(size: usize) -> Parts {
    let cluster = Cluster::start(size, Options::default()).await;
    let client = cluster.client();
    for site in ["shop", "depot", "van"] {
        client.add_site(site).await.unwrap();
        for number in 0..20 {
            client
                .put(site, Bucket::Default, format!("k{number}"), format!("{site} {number}"))
                .await
                .unwrap();
        }
    }
    let mut parts = Parts { cluster, uuid: String::new(), tars: Vec::new() };
    parts.take().await;
    parts
}

impl Parts {
    /// One more snapshot takes the place of the last one.
    async fn take(&mut self) {
        let client = self.cluster.client();
        self.uuid = client.complete_snapshot(SOON).await.uuid;
        self.tars.clear();
        for node in &self.cluster.nodes {
            let (part, outcome) = node.client().download(&self.uuid, 0, 0).await;
            outcome.unwrap();
            self.tars.push(part.data);
        }
    }

    fn file(&self, name: &str, tar: &[u8]) -> PathBuf {
        let path = self.cluster.dir().join(name);
        fs::write(&path, tar).unwrap();
        path
    }

    async fn verify(&self, tars: &[&[u8]]) -> Ran {
        let files: Vec<_> = tars
            .iter()
            .enumerate()
            .map(|(n, tar)| self.file(&format!("verify{n}.tar"), tar).display().to_string())
            .collect();
        let args: Vec<_> =
            ["snapshot", "verify"].into_iter().chain(files.iter().map(String::as_str)).collect();
        self.cluster.ctl(&args).await
    }

    /// A node on an empty store into which `tar` was extracted.
    async fn restored(&self, name: &str, tar: &[u8]) -> Node {
        let file = self.file(&format!("{name}.tar"), tar);
        let store = self.cluster.dir().join(name);
        let extract = format!("mkdir {0} && tar xf {1} -C {0}", store.display(), file.display());
        shell(&extract, SOON).await.exits(0);
        let port = Port::claim();
        let args = ["start", "--store", store.to_str().unwrap(), "--listen", &port.endpoint()]
            .map(str::to_string)
            .to_vec();
        Node::new(name, port, self.cluster.dir(), store, args)
    }
}

/// The entries of a tar, to be put together again with something wrong.
fn entries(tar: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut archive = Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        (entry.header().clone(), data)
    });
    entries.collect()
}

fn packed(entries: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (header, data) in entries {
        tar.append(header, &data[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An entry that a part must not hold; the name is written as it is, however bad.
fn stranger(name: &str, kind: EntryType, link: &str) -> (Header, Vec<u8>) {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    (header, Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_set_of_parts_verifies_and_any_byte_flipped_does_not() {
    let parts = parts(3).await;
    let [a, b, c] = &parts.tars[..] else { panic!("three nodes have three parts") };
    parts.verify(&[a]).await.exits(0);
    parts.verify(&[a, b, c]).await.exits(0);

    let mut rng = Random::seeded(11);
    for _ in 0..40 {
        let mut flipped = a.clone();
        let at = rng.below(a.len() as u64) as usize;
        flipped[at] ^= 1 << rng.below(8);
        let ran = parts.verify(&[&flipped]).await;
        assert_eq!(
            ran.code,
            Some(VERIFICATION_FAILED),
            "byte {at} of {} was flipped:\n{}",
            a.len(),
            ran.story()
        );
    }
    for length in [0, 1, 511, 512, 513, a.len() / 2, a.len() - 1025, a.len() - 1] {
        let ran = parts.verify(&[&a[..length]]).await;
        assert_eq!(
            ran.code,
            Some(VERIFICATION_FAILED),
            "cut to {length} of {}:\n{}",
            a.len(),
            ran.story()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_a_chunk_too_few_or_an_entry_too_many_is_refused_and_named() {
    let parts = parts(1).await;
    let good = entries(&parts.tars[0]);
    let chunk = good[1].0.path().unwrap().display().to_string();

    let mut missing = good.clone();
    missing.remove(1);
    let hash = chunk.rsplit('/').next().unwrap();
    parts.verify(&[&packed(&missing)]).await.exits(VERIFICATION_FAILED).says(hash);
    parts.restored("missing", &packed(&missing)).await.start_refused().await.says(hash);

    for (name, kind, link) in [
        ("chunks/extra", EntryType::Regular, ""),
        ("/etc/devicedb-absolute", EntryType::Regular, ""),
        ("../devicedb-outside", EntryType::Regular, ""),
        ("chunks/../../devicedb-outside", EntryType::Regular, ""),
        ("symlink", EntryType::Symlink, "/etc/passwd"),
        ("hardlink", EntryType::Link, "manifest.json"),
        ("folder", EntryType::Directory, ""),
    ] {
        let mut more = good.clone();
        more.push(stranger(name, kind, link));
        parts
            .verify(&[&packed(&more)])
            .await
            .exits(VERIFICATION_FAILED)
            .says(name.rsplit('/').next().unwrap());
    }
    let extra = [good.clone(), vec![stranger("chunks/extra", EntryType::Regular, "")]].concat();
    parts.restored("extra", &packed(&extra)).await.start_refused().await.says("extra");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_refuses_a_changed_part_and_leaves_it_as_it_was() {
    let parts = parts(1).await;
    let mut node = parts.restored("flipped", &parts.tars[0]).await;
    let listed = shell(
        &format!("find {} -type f | grep chunks | sort | head -1", node.store.display()),
        SOON,
    )
    .await
    .exits(0)
    .out();
    let chunk = PathBuf::from(listed.trim());
    let mut bytes = fs::read(&chunk).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&chunk, &bytes).unwrap();
    let listing = format!("cd {} && find . -type f | sort | xargs sha256sum", node.store.display());
    let before = shell(&listing, SOON).await.exits(0).out();
    node.start_refused().await.says(chunk.file_name().unwrap().to_str().unwrap());
    assert_eq!(
        shell(&listing, SOON).await.exits(0).out(),
        before,
        "a refused start has changed the part"
    );
    // The directory itself is what the operator brings to verify.
    parts
        .cluster
        .ctl(&["snapshot", "verify", node.store.to_str().unwrap()])
        .await
        .exits(VERIFICATION_FAILED);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_two_snapshots_and_one_part_twice_are_no_set() {
    let mut parts = parts(2).await;
    let (first, uuid) = (parts.tars.clone(), parts.uuid.clone());
    parts.cluster.client().put("shop", Bucket::Default, "k0", "between").await.unwrap();
    parts.take().await;
    parts
        .verify(&[&first[0], &parts.tars[1]])
        .await
        .exits(VERIFICATION_FAILED)
        .says(&uuid)
        .says(&parts.uuid);
    parts
        .verify(&[&first[0], &first[0]])
        .await
        .exits(VERIFICATION_FAILED)
        .says("verify1.tar: it is of node")
        .says("as is");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_part_started_beside_live_nodes_is_refused_and_they_serve_on() {
    let mut parts = parts(3).await;
    parts.cluster.client().put("shop", Bucket::Default, "k0", "newer").await.unwrap();
    parts.cluster.nodes[2].kill9();
    let tar = parts.tars[2].clone();
    let mut old = parts.restored("old", &tar).await;
    // It comes back at the address of the node that it was.
    let address = parts.cluster.nodes[2].endpoint();
    old.args.last_mut().expect("the last word is where it listens").clone_from(&address);
    old.port = std::mem::replace(&mut parts.cluster.nodes[2].port, Port::claim());
    old.start();
    let live = parts.cluster.nodes[0].client();
    eventually("the old part is refused, and says why", SOON, async || {
        let log = old.log().to_lowercase();
        if log.contains("lineage") || log.contains("history") { Ok(()) } else { Err(old.log_end()) }
    })
    .await;
    assert_eq!(live.values("shop", Bucket::Default, "k0").await.unwrap(), ["newer"]);
    live.put("shop", Bucket::Default, "k1", "served on").await.unwrap();
    assert_eq!(live.values("shop", Bucket::Default, "k1").await.unwrap(), ["served on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_extracted_a_second_time_is_refused_and_nothing_acknowledged_since_is_lost() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.client().add_site("shop").await.unwrap();
    let snapshot = cluster.client().complete_snapshot(SOON).await;
    let tars = cluster.download_all(&snapshot.uuid).await;
    cluster.lose_every_disk();
    cluster.restore(&tars).await;
    cluster.settled().await;
    // Acknowledged by the first and the third node; then the third loses its disk, and the first is
    // away.
    cluster.nodes[1].kill9();
    cluster.nodes[0].client().put("shop", Bucket::Default, "precious", "kept").await.unwrap();
    cluster.nodes[0].kill9();
    cluster.nodes[2].kill9();
    std::fs::remove_dir_all(&cluster.nodes[2].store).unwrap();
    std::fs::create_dir(&cluster.nodes[2].store).unwrap();
    shell(&format!("tar xf {} -C {}", tars[2].display(), cluster.nodes[2].store.display()), SOON)
        .await
        .exits(0);
    for node in [1, 2] {
        cluster.nodes[node].start();
        cluster.nodes[node].wait_listening().await;
    }
    // The two alone would be a majority without the write.
    let denied = cluster.nodes[1]
        .client()
        .with_deadline(Duration::from_secs(5))
        .get("shop", Bucket::Default, "precious")
        .await;
    assert!(denied.is_err(), "a majority without what was acknowledged has answered: {denied:?}");
    cluster.nodes[0].start();
    for node in [0, 1] {
        cluster.nodes[node].wait_ready().await;
        let client = cluster.nodes[node].client();
        assert_eq!(
            client.values("shop", Bucket::Default, "precious").await.unwrap(),
            ["kept"],
            "on node {node}"
        );
    }
    let again = &cluster.nodes[2];
    eventually("the node that was restored twice says why it is refused", SOON, async || {
        let log = again.log();
        if log.contains("restored once more") { Ok(()) } else { Err(log) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_verify_says_of_parts_is_what_its_exit_code_says() {
    // The meta group has four voters: two parts are no majority of it, whatever else they hold.
    let options = Options { replication_factor: 2, ..Options::default() };
    let cluster = Cluster::start(4, options).await;
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
    let tars = cluster.download_all(&uuid).await;
    let verify = async |count: usize| {
        let paths: Vec<_> = tars[..count].iter().map(|tar| tar.display().to_string()).collect();
        let args: Vec<_> = ["-o", "json", "snapshot", "verify"]
            .into_iter()
            .chain(paths.iter().map(String::as_str))
            .collect();
        let (document, text) = (cluster.ctl(&args).await, cluster.ctl(&args[2..]).await);
        assert_eq!(document.code, text.code);
        let parsed: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
        assert_eq!(parsed["sound"].as_bool(), Some(text.code == Some(0)), "{}", document.story());
        text
    };
    verify(1).await.exits(0).says("The part is sound. Alone it does not bring the cluster back");
    let two = verify(2)
        .await
        .exits(VERIFICATION_FAILED)
        .says("Nothing is wrong with the parts, but they DO NOT");
    assert!(!two.out().contains("snapshot is sound"), "{}", two.story());
    verify(4).await.exits(0).says("The snapshot is sound, and these parts bring the cluster back.");
}
