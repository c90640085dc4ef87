//! New clusters that begin with a snapshot in a repository: `devicedb start --restore-from`, of any
//! number of nodes, beside the old cluster or in its place.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use devicedb::{
    base::ids::SiteId,
    cluster::Command,
    part::{
        chunk::{self, Chunker, Digest},
        manifest::ChunkEntry,
        source::Source,
    },
    proto::v1::{Bucket, GetIdentityRequest, GetIdentityResponse, PutRequest},
    repository::root::{Kept, Repository},
    wire,
};

use crate::harness::{
    Client, Cluster, Node, Options, Port, Ran, SOON, eventually, put_request, shell,
};

/// One in each of the groups.
pub const SITES: [&str; 8] = ["pier", "depot", "silo", "van", "shop", "yard", "attic", "kiosk"];
const BUCKETS: [Bucket; 3] = [Bucket::Default, Bucket::Cloud, Bucket::Lww];
const UNKNOWN: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";
pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;

/// All that clients can read: of each site and bucket the keys, each with its siblings.
pub type Content = BTreeMap<(&'static str, i32), Vec<(Bytes, Vec<Bytes>)>>;

pub async fn content(client: &Client, sites: &[&'static str]) -> Content {
    let mut all = Content::new();
    for site in sites {
        for bucket in BUCKETS {
            let found = client.scan(site, bucket, "").await;
            let found = found.unwrap_or_else(|e| panic!("{site} at {}: {e:?}", client.endpoint));
            all.insert((site, bucket.into()), found);
        }
    }
    all
}

/// Every site has keys in all buckets, one of them with siblings, one that was deleted, and some
/// that are not small.
pub async fn fill(client: &Client, round: &str) {
    for site in SITES {
        client.add_site(site).await.unwrap();
        for bucket in BUCKETS {
            for number in 0..12 {
                let value = format!("{round} {site} {number} ").repeat(1 + 200 * (number % 3));
                client.put(site, bucket, format!("{round}/{number:02}"), value).await.unwrap();
            }
            let gone = format!("{round}/gone");
            client.put(site, bucket, &gone, "soon").await.unwrap();
            client.delete(site, bucket, &gone).await.unwrap();
        }
        if round == "first" {
            let begun = client.put(site, Bucket::Default, "siblings", "none").await.unwrap();
            for value in ["one", "other"] {
                put_after(client, site, &begun.context, value).await;
            }
        }
    }
}

pub struct Place {
    pub path: PathBuf,
}

impl Place {
    pub async fn init(cluster: &Cluster) -> Place {
        let path = cluster.dir().join("repository");
        shell(&format!("ddbctl repository init {}", path.display()), SOON).await.exits(0);
        Place { path }
    }

    /// A snapshot of the cluster, brought into the repository. Its uuid.
    pub async fn backup(&self, cluster: &Cluster) -> String {
        let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
        let tars = cluster.download_all(&uuid).await;
        let tars: Vec<_> = tars.iter().map(|tar| tar.display().to_string()).collect();
        let line = format!("ddbctl repository import {} {}", self.path.display(), tars.join(" "));
        shell(&line, SOON).await.exits(0);
        uuid
    }

    pub fn kept(&self, uuid: &str) -> (Repository, Kept) {
        let repository = Repository::open(&self.path).unwrap();
        let kept = repository.find(uuid.parse().unwrap()).unwrap();
        (repository, kept)
    }

    /// Number, rows and digest of every partition of all data groups.
    pub fn partitions(&self, uuid: &str) -> Vec<(u32, u64, Digest)> {
        let (repository, kept) = self.kept(uuid);
        let data = kept.snapshot.held.iter().filter(|held| !held.group.is_meta());
        data.flat_map(|held| repository.index(kept.folder, &held.index).unwrap().partitions)
            .map(|partition| (partition.id.0, partition.rows, partition.digest))
            .collect()
    }

    /// The first object of a kind.
    pub fn object(&self, kind: &str) -> PathBuf {
        let repository = Repository::open(&self.path).unwrap();
        let all = repository.store.list("").unwrap();
        let found = all.into_iter().find(|object| object.name.contains(kind));
        self.path.join(found.unwrap_or_else(|| panic!("there is no {kind}")).name)
    }
}

/// A node with an empty store and a snapshot store of its own, and these words.
pub fn node(dir: &Path, name: &str, words: &[&str]) -> Node {
    let (port, store) = (Port::claim(), dir.join(name));
    let snapshots = dir.join(format!("{name}-snapshots"));
    fs::create_dir_all(&snapshots).unwrap();
    let own = ["start", "--store", store.to_str().unwrap(), "--listen", &port.endpoint()];
    let mut args: Vec<String> = own.map(str::to_owned).into();
    args.extend(["--snapshot-store".to_owned(), snapshots.display().to_string()]);
    args.extend(words.iter().map(|word| word.to_string()));
    Node::new(name, port, dir, store, args)
}

/// A node that founds a cluster of a snapshot, not started.
pub fn founder(dir: &Path, name: &str, place: &Place, words: &[&str]) -> Node {
    let path = place.path.display().to_string();
    node(dir, name, &[&["--restore-from", &path], words].concat())
}

/// The cluster is gone, and one of so many nodes begins with the snapshot.
async fn seeded(cluster: &mut Cluster, place: &Place, name: &str, uuid: &str, size: usize) {
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    cluster.nodes = vec![founder(&dir, name, place, &["--point", uuid])];
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready().await;
    grow(cluster, name, size).await;
}

pub async fn grow(cluster: &mut Cluster, name: &str, size: usize) {
    let (dir, first) = (cluster.dir().to_owned(), cluster.nodes[0].endpoint());
    while cluster.nodes.len() < size {
        let name = format!("{name}-{}", cluster.nodes.len());
        let mut empty = node(&dir, &name, &["--join", &first]);
        empty.start();
        empty.wait_listening().await;
        cluster.nodes.push(empty);
    }
    cluster.settled().await;
}

pub async fn identity(client: &Client) -> GetIdentityResponse {
    client.cluster.clone().get_identity(GetIdentityRequest {}).await.unwrap().into_inner()
}

pub async fn all_read(cluster: &Cluster, expected: &Content) {
    for client in cluster.clients() {
        assert_eq!(&content(&client, &SITES).await, expected, "at {}", client.endpoint);
    }
}

/// Puts what follows from a read. The context that follows from it.
async fn put_after(client: &Client, site: &str, read: &Bytes, value: &str) -> Bytes {
    let put = put_request(site, Bucket::Default, "siblings", value);
    let put = PutRequest { context: Some(read.clone()), ..put };
    client.put_request(put).await.unwrap().context
}

/// A context from before settles siblings, and what follows from the same read stands beside it.
pub async fn writes_go_on(client: &Client, old: &BTreeMap<&'static str, Bytes>, round: &str) {
    for site in SITES {
        let settled = format!("settled in {round}");
        put_after(client, site, &old[site], &settled).await;
        let read = client.values(site, Bucket::Default, "siblings").await.unwrap();
        assert_eq!(read, [settled.as_str()]);
        put_after(client, site, &old[site], &format!("beside, in {round}")).await;
        let read = client.values(site, Bucket::Default, "siblings").await.unwrap();
        assert_eq!(read.len(), 2, "{site}");
    }
}

pub async fn contexts(client: &Client) -> BTreeMap<&'static str, Bytes> {
    let mut all = BTreeMap::new();
    for site in SITES {
        let read = client.get(site, Bucket::Default, "siblings").await.unwrap();
        assert_eq!(read.siblings.len(), 2);
        all.insert(site, read.context);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_become_one_and_three_then_five_then_three_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    fill(&cluster.client(), "first").await;
    let place = Place::init(&cluster).await;
    let (before, old) =
        (content(&cluster.client(), &SITES).await, contexts(&cluster.client()).await);
    let first = place.backup(&cluster).await;
    let production = identity(&cluster.client()).await;

    seeded(&mut cluster, &place, "alone", &first, 1).await;
    all_read(&cluster, &before).await;
    let said = identity(&cluster.client()).await;
    assert_eq!(said.restored_from, first);
    assert_ne!(said.cluster_id, production.cluster_id);
    assert!(![production.lineage.as_str(), ""].contains(&said.lineage.as_str()));
    let log = cluster.nodes[0].log();
    let (_, kept) = place.kept(&first);
    for word in [&first, &kept.snapshot.written, &kept.snapshot.root.to_string(), "took_ms="] {
        assert!(log.contains(word), "{word} is not in\n{log}");
    }
    // Nobody has written yet: a snapshot of it has the very rows.
    let same = place.backup(&cluster).await;
    assert_eq!(place.partitions(&same), place.partitions(&first));
    let (_, own) = place.kept(&same);
    assert_ne!(own.folder, kept.folder, "it lies in a folder of its own");

    grow(&mut cluster, "alone", 3).await;
    all_read(&cluster, &before).await;
    let overview = cluster.client().overview().await.unwrap();
    assert_eq!((overview.nodes.len(), overview.groups_under_replicated), (3, 0));
    writes_go_on(&cluster.client(), &old, "three").await;
    fill(&cluster.clients()[1], "second").await;
    let (before, old) =
        (content(&cluster.client(), &SITES).await, contexts(&cluster.client()).await);
    let second = place.backup(&cluster).await;
    let verified = format!("ddbctl repository verify {}", place.path.display());
    shell(&verified, SOON).await.exits(0);

    seeded(&mut cluster, &place, "five", &second, 5).await;
    all_read(&cluster, &before).await;
    writes_go_on(&cluster.client(), &old, "five").await;
    let (before, old) =
        (content(&cluster.client(), &SITES).await, contexts(&cluster.client()).await);
    let third = place.backup(&cluster).await;

    // All with one list, and the first to have its store comes last.
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    let point = ["--point", third.as_str()];
    cluster.nodes = vec![
        founder(&dir, "again", &place, &point),
        node(&dir, "again-1", &[]),
        node(&dir, "again-2", &[]),
    ];
    let list = cluster.nodes.iter().map(Node::endpoint).collect::<Vec<_>>().join(",");
    for node in cluster.nodes.iter_mut().rev() {
        node.args.extend(["--join".to_owned(), list.clone()]);
        node.start();
        node.wait_alive().await;
    }
    cluster.settled().await;
    all_read(&cluster, &before).await;
    writes_go_on(&cluster.client(), &old, "again").await;
    // Ordinary starts, with the words that they had.
    cluster.kill9_all();
    cluster.restart_all().await;
    assert!(cluster.nodes[0].log().contains("there is a store: --restore-from changes nothing"));
    let status = format!("ddbctl -o json repository status {}", place.path.display());
    let status = shell(&status, SOON).await.exits(0).out();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let histories = status["histories"].as_array().unwrap();
    assert_eq!(histories.len(), 3, "{status}");
    assert!(histories.iter().any(|one| one["lineage"] == production.lineage), "{status}");
}

/// A cluster of one node with all sites, where there may be more, and a snapshot of it in a
/// repository.
pub async fn small(replication_factor: u32) -> (Cluster, Place, String) {
    let cluster = Cluster::start(1, Options { replication_factor, ..Options::default() }).await;
    let client = cluster.client();
    for site in SITES {
        client.add_site(site).await.unwrap();
        client.put(site, Bucket::Default, "colour", site).await.unwrap();
    }
    let place = Place::init(&cluster).await;
    let uuid = place.backup(&cluster).await;
    (cluster, place, uuid)
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_clusters_and_two_of_one_snapshot_never_meet() {
    let (mut cluster, place, uuid) = small(2).await;
    let (dir, client) = (cluster.dir().to_owned(), cluster.client());
    let production = client.endpoint.clone();
    let mut drill = founder(&dir, "drill", &place, &["--join", &production]);
    let ran = drill.start_refused().await.exits(FAILED);
    ran.says(&production).says("belongs to cluster").says("leave --restore-from out");
    assert!(!drill.store.join("state.redb").exists());

    let mut drill = founder(&dir, "drill", &place, &[]);
    let mut twin = founder(&dir, "twin", &place, &["--point", &uuid]);
    for node in [&mut drill, &mut twin] {
        node.start();
        node.wait_ready().await;
    }
    let said = [identity(&drill.client()).await, identity(&twin.client()).await];
    let [one, other] = &said;
    assert_eq!((&one.restored_from, &other.restored_from), (&uuid, &uuid));
    assert!(one.cluster_id != other.cluster_id && one.lineage != other.lineage);

    // Both count on from the cut: what was read in one history covers nothing of the other.
    let mut read = Bytes::new();
    for value in ["red", "green", "blue"] {
        let put = client.put("shop", Bucket::Default, "clash", value).await.unwrap();
        read = put.context;
    }
    for value in ["round", "square"] {
        drill.client().put("shop", Bucket::Default, "clash", value).await.unwrap();
    }
    let put = put_request("shop", Bucket::Default, "clash", "from production");
    let put = PutRequest { context: Some(read), ..put };
    drill.client().put_request(put).await.unwrap();
    let stand = drill.client().values("shop", Bucket::Default, "clash").await.unwrap();
    assert_eq!(stand, ["from production", "square"]);

    // The drill misses a node that votes with it, and so looks for it wherever it is told.
    let mut second = node(&dir, "second", &["--join", &drill.endpoint()]);
    second.start();
    second.wait_ready().await;
    eventually("the drill's groups have two voters", SOON, async || {
        match drill.client().overview().await.map_err(|e| e.to_string())? {
            seen if seen.groups_under_replicated == 0 && !seen.meta_under_replicated => Ok(()),
            seen => Err(format!("{seen:#?}")),
        }
    })
    .await;
    second.kill9();
    let all = [production.clone(), drill.endpoint(), twin.endpoint()];
    cluster.nodes.extend([drill, twin]);
    for node in &mut cluster.nodes {
        node.kill9();
        node.args.extend(["--join".to_owned(), all.join(",")]);
        node.args.retain(|word| word != "--found");
        node.start();
    }
    cluster.nodes[1].wait_unready("belongs to another cluster").await;
    second.start();
    for at in 0..3 {
        cluster.nodes[at].wait_ready().await;
        let client = cluster.nodes[at].client();
        client.put("shop", Bucket::Default, "who", format!("node {at}")).await.unwrap();
    }
    for (at, node) in cluster.nodes.iter().enumerate() {
        let client = node.client();
        let read = client.values("shop", Bucket::Default, "who").await.unwrap();
        assert_eq!(read, [format!("node {at}").as_str()]);
        assert_eq!(client.overview().await.unwrap().nodes.len(), if at == 1 { 2 } else { 1 });
    }
    let mut undecided = node(&dir, "undecided", &["--join", &all.join(",")]);
    undecided.start_refused().await.says("names nodes of different clusters");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_snapshot_some_sites_alone_are_taken_and_the_log_names_the_others() {
    let (mut cluster, place, _) = small(2).await;
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    let mut typo = founder(&dir, "typo", &place, &["--sites", "shp"]);
    typo.start_refused().await.exits(USAGE).says("no site of the snapshot is called shp");
    let mut some = founder(&dir, "some", &place, &["--sites", "shop,s*", "--sites", "pier"]);
    some.start();
    some.wait_ready().await;
    let client = some.client();
    assert_eq!(client.sites().await.unwrap(), ["pier", "shop", "silo"]);
    for site in ["pier", "shop", "silo"] {
        let read = client.values(site, Bucket::Default, "colour").await.unwrap();
        assert_eq!(read, [site]);
    }
    some.says("what --sites does not name is left out").await;
    assert!(some.log().contains("attic, depot, kiosk, van, yard"), "{}", some.log_end());
    // One of the others may come anew, and has nothing.
    client.add_site("van").await.unwrap();
    assert_eq!(client.scan("van", Bucket::Default, "").await.unwrap(), []);
}

/// No store, and nothing of one.
pub fn is_empty(node: &Node) {
    for name in ["state.redb", "restoring", "log"] {
        assert!(!node.store.join(name).exists(), "{name} is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_a_line_and_nothing_is_half_done() {
    let (mut cluster, place, uuid) = small(2).await;
    let tar = cluster.download_all(&uuid).await.remove(0);
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    let refused = async |words: &[&str], code: i32, says: &[&str]| {
        let mut node = founder(&dir, "new", &place, words);
        let mut ran = node.start_refused().await.exits(code);
        for word in says {
            ran = ran.says(word);
        }
        is_empty(&node);
        ran
    };
    let last = |ran: Ran| ran.stderr.lines().filter(|line| line.contains("devicedb: ")).count();

    for (words, says) in [
        (&["--found"][..], "cannot be used with"),
        (&["--replacement", "--join", "127.0.0.1:1"], "cannot be used with"),
        (&["--point", "yesterday"], "neither latest, nor the uuid of a snapshot, nor a time"),
    ] {
        refused(words, USAGE, &[says]).await;
    }
    for words in [["--point", "latest"], ["--sites", "shop"]] {
        let mut node = node(&dir, "new", &words);
        node.start_refused().await.exits(USAGE).says("--restore-from <PLACE>");
    }
    let written = place.kept(&uuid).1.snapshot.written;
    let nearest = format!("{uuid}, written {written}");
    let ran = refused(&["--point", UNKNOWN], FAILED, &["has no snapshot", &nearest]).await;
    assert_eq!(last(ran), 1);
    let early = ["--point", "2020-01-01T00:00:00Z"];
    let says = ["was written by 2020-01-01T00:00:00.000Z", "the first is", &nearest];
    refused(&early, FAILED, &says).await;

    // Damage, by kind of object: flipped, cut short, gone.
    for kind in ["/g/", "/i/", "/s/", "devicedb.json"] {
        let path = place.object(kind);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for bytes in [&flipped[..], &whole[..whole.len() / 2]] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(last(refused(&[], FAILED, &[kind]).await), 1);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(last(refused(&[], FAILED, &[kind]).await), 1);
        fs::write(&path, whole).unwrap();
    }
    let root = place.path.join("devicedb.json");
    let made = fs::read_to_string(&root).unwrap();
    fs::write(&root, made.replace("\"format\":2", "\"format\":4")).unwrap();
    refused(&[], FAILED, &["was made by a newer version: format 4"]).await;
    fs::write(&root, made).unwrap();

    // A disk without room: 2 MiB are less than the smallest store takes.
    let mut full = founder(&dir, "full", &place, &[]);
    fs::create_dir(&full.store).unwrap();
    let mount = r#"mount -t tmpfs -o size=2m small "$0" && exec "$@""#;
    let store = full.store.display().to_string();
    full.under = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, &store]
        .map(str::to_owned)
        .into();
    full.start_refused().await.exits(FAILED).says("bytes, and").says("are free on the disk");

    // Nobody may read it. Root may all the same, unless it gives that up.
    let was = fs::metadata(&place.path).unwrap().permissions();
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o000)).unwrap();
    let mut other = founder(&dir, "other", &place, &[]);
    other.under = ["unshare", "--user", "--map-root-user", "setpriv", "--bounding-set=-all"]
        .map(str::to_owned)
        .into();
    let ran = other.start_refused().await.exits(FAILED).says("Permission denied");
    fs::set_permissions(&place.path, was).unwrap();
    assert_eq!(last(ran), 1);
    is_empty(&other);

    let mut with_part = founder(&dir, "with-part", &place, &[]);
    let extract =
        format!("mkdir {0} && tar xf {1} -C {0}", with_part.store.display(), tar.display());
    shell(&extract, SOON).await.exits(0);
    let ran = with_part.start_refused().await.exits(FAILED);
    ran.says("holds an extracted part").says("leave --restore-from out");
    assert!(with_part.store.join("manifest.json").exists());

    // Parts of a node at this address: a cluster was here, and its disk is lost.
    let at_its_place = &mut cluster.nodes[0];
    let found = at_its_place.args.iter().position(|word| word == "--found").unwrap();
    let place_words = ["--restore-from".to_owned(), place.path.display().to_string()];
    at_its_place.args.splice(found..=found, place_words);
    let ran = at_its_place.start_refused().await.exits(FAILED);
    ran.says("a cluster was here").says("or --snapshot-store names another");
    is_empty(at_its_place);

    // And what was refused so often can be.
    let mut new = founder(&dir, "new", &place, &[]);
    new.start();
    new.wait_ready().await;
    eventually("it reads what was backed up", SOON, async || {
        let read = new.client().values("shop", Bucket::Default, "colour").await;
        match read {
            Ok(values) if values == ["shop"] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The part of a cluster's only node, as if the removal of these sites had just begun at the cut.
fn removing(tar: &Path, sites: &[&str], to: &Path) {
    let source = Source::open(tar).unwrap();
    let mut manifest = source.manifest().clone();
    let mut meta = manifest.meta.take().unwrap();
    let mut rows = Vec::new();
    for name in &meta.chunks {
        let chunk = source.chunk(*name).unwrap();
        rows.extend(chunk.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    let rows = rows.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    let mut state = wire::decode_meta(rows).unwrap();
    for site in sites {
        let remove = Command::RemoveSite(SiteId::new(*site).unwrap());
        state.apply(&remove).reply.unwrap();
    }
    let mut rows: Vec<_> = state
        .all_rows()
        .iter()
        .map(|row| (wire::meta_row_name(row), wire::encode_meta_row(&state, row).unwrap()))
        .collect();
    rows.sort();
    let mut chunker = Chunker::new().unwrap();
    let mut new: Vec<_> =
        rows.iter().filter_map(|(key, value)| chunker.push(key, value).unwrap()).collect();
    new.extend(chunker.finish().unwrap());
    manifest.chunks.retain(|chunk| !meta.chunks.contains(&chunk.hash));
    fs::create_dir_all(to.join("chunks")).unwrap();
    for entry in &manifest.chunks {
        let (mut again, chunk) = (Chunker::new().unwrap(), source.chunk(entry.hash).unwrap());
        assert!(chunk.iter().all(|(key, value)| again.push(key, value).unwrap().is_none()));
        let chunk = again.finish().unwrap().unwrap();
        fs::write(to.join("chunks").join(entry.hash.to_string()), &chunk.data).unwrap();
    }
    for chunk in &new {
        fs::write(to.join("chunks").join(chunk.hash.to_string()), &chunk.data).unwrap();
        manifest.chunks.push(ChunkEntry {
            hash: chunk.hash,
            rows: chunk.rows,
            bytes: chunk.bytes,
            stored_bytes: chunk.data.len() as u64,
            stored_digest: Digest(blake3::hash(&chunk.data).into()),
        });
    }
    manifest.chunks.sort_by_key(|chunk| chunk.hash);
    meta.chunks = new.iter().map(|chunk| chunk.hash).collect();
    (meta.rows, meta.bytes) =
        (new.iter().map(|chunk| chunk.rows).sum(), new.iter().map(|chunk| chunk.bytes).sum());
    meta.digest = chunk::digest(&meta.chunks, meta.rows);
    manifest.meta = Some(meta);
    fs::write(to.join("manifest.json"), manifest.encode().unwrap().0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_that_were_being_removed_at_the_cut_are_removed_by_the_new_cluster() {
    let (mut cluster, _, uuid) = small(2).await;
    let tar = cluster.download_all(&uuid).await.remove(0);
    cluster.lose_every_disk();
    let dir = cluster.dir().to_owned();
    removing(&tar, &["van", "yard"], &dir.join("part"));
    let place = Place { path: dir.join("other") };
    let line = format!(
        "ddbctl repository init {0} && ddbctl repository import {0} {1}/part",
        place.path.display(),
        dir.display()
    );
    shell(&line, SOON).await.exits(0);

    let mut new = founder(&dir, "new", &place, &[]);
    new.start();
    new.wait_ready().await;
    let client = new.client();
    for site in ["van", "yard"] {
        eventually("its group has let go of it", SOON, async || {
            match client.values(site, Bucket::Default, "colour").await {
                Err(e) if e.code() == tonic::Code::NotFound => Ok(()),
                other => Err(format!("{site}: {other:?}")),
            }
        })
        .await;
    }
    assert_eq!(client.sites().await.unwrap().len(), SITES.len() - 2);
    for site in SITES.into_iter().filter(|site| !["van", "yard"].contains(site)) {
        let read = client.values(site, Bucket::Default, "colour").await.unwrap();
        assert_eq!(read, [site]);
    }
    // Its next life knows nothing of the one before.
    eventually("it may come anew", SOON, async || {
        client.add_site("van").await.map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(client.scan("van", Bucket::Default, "").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_cluster_begins_again_with_new_certificates() {
    let options = Options { replication_factor: 2, secured: true, ..Options::default() };
    let mut cluster = Cluster::start(2, options).await;
    cluster.ctl(&["site", "add", "shop"]).await.exits(0);
    cluster.ctl(&["put", "--site", "shop", "colour", "blue"]).await.exits(0);
    let sealed = cluster.ctl(&["-o", "json", "snapshot", "create", "--wait"]).await.exits(0);
    let sealed: serde_json::Value = serde_json::from_str(&sealed.out()).unwrap();
    let uuid = sealed["uuid"].as_str().unwrap().to_owned();
    let tar = cluster.download_all(&uuid).await.remove(0);
    let place = Place::init(&cluster).await;
    let line = format!("ddbctl repository import {} {}", place.path.display(), tar.display());
    shell(&line, SOON).await.exits(0);
    cluster.lose_every_disk();
    let lost = "rm -r snapshots certs/node-*";
    shell(&format!("cd {} && {lost}", cluster.dir().display()), SOON).await.exits(0);

    cluster.nodes.clear();
    for _ in 0..2 {
        let mut node = cluster.further();
        if let Some(found) = node.args.iter().position(|word| word == "--found") {
            let words = ["--restore-from".to_owned(), place.path.display().to_string()];
            node.args.splice(found..=found, words);
        }
        node.start();
        node.wait_listening().await;
        cluster.nodes.push(node);
    }
    let healthy = ["cluster", "health", "--wait", "30s"];
    cluster.ctl(&healthy).await.exits(0).says("2 nodes ready");
    let read = cluster.ctl(&["get", "--site", "shop", "colour"]).await.exits(0);
    assert_eq!(read.out().trim_end(), "blue");
}
