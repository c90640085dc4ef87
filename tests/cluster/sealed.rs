//! Sealed parts on real nodes: who carries them reads no row, and who has the identity file has
//! everything back.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use devicedb::{
    base::clock::Random,
    part::{
        chunk::ChunkHash,
        manifest::{ChunkEntry, Owner},
        source::Source,
    },
    proto::v1::Bucket,
};

use crate::harness::{Cluster, Node, Options, Ran, SOON, SnapshotStore, eventually, shell};

/// A word of every value, which nobody must find where it is sealed.
const WORD: &str = "cornflower-blue";
const KEYS: usize = 40;
/// In partitions of their own, most of them.
const SITES: usize = 8;

fn site(n: usize) -> String {
    format!("shop-{}", n % SITES)
}

/// Not to be compressed away.
fn value(n: usize) -> String {
    let mut noise = Random::seeded(n as u64);
    let noise: String = (0..60).map(|_| format!("{:016x}", noise.next_u64())).collect();
    format!("{WORD} {n} {noise}")
}

async fn keygen(dir: &Path, name: &str) -> (PathBuf, String) {
    let file = dir.join(name);
    let line = format!("ddbctl snapshot keygen --output {}", file.display());
    let ran = shell(&line, SOON).await.exits(0);
    assert_eq!(mode(&file), 0o600);
    (file, ran.out().trim().to_owned())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn run(line: &str) -> Ran {
    shell(line, SOON).await
}

async fn put_all(cluster: &Cluster) {
    let client = cluster.client();
    for site in 0..SITES {
        client.add_site(&format!("shop-{site}")).await.unwrap();
    }
    for n in 0..KEYS {
        client.put(&site(n), Bucket::Default, format!("key-{n}"), value(n)).await.unwrap();
    }
}

async fn all_are_back(cluster: &Cluster) {
    let client = cluster.client();
    for n in 0..KEYS {
        let found = client.values(&site(n), Bucket::Default, format!("key-{n}")).await.unwrap();
        assert_eq!(found, [value(n)], "key-{n}");
    }
}

/// Every file below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn holds(file: &Path, word: &str) -> bool {
    fs::read(file).unwrap().windows(word.len()).any(|bytes| bytes == word.as_bytes())
}

/// Chunks in the snapshot store of a node.
fn chunks(node: &Node) -> Vec<PathBuf> {
    let store = node.snapshot_store.as_ref().expect("it takes snapshots");
    let mut chunks: Vec<PathBuf> = files(store)
        .into_iter()
        .filter(|file| file.components().any(|c| c.as_os_str() == "chunks"))
        .collect();
    chunks.sort();
    chunks
}

fn listed(tars: &[PathBuf]) -> String {
    tars.iter().map(|tar| tar.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn set_words(cluster: &mut Cluster, flag: &str, word: Option<&str>) {
    for node in &mut cluster.nodes {
        if let Some(at) = node.args.iter().position(|arg| arg == flag) {
            node.args.drain(at..at + 2);
        }
        node.args.extend(word.into_iter().flat_map(|word| [flag.to_owned(), word.to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_carries_sealed_parts_reads_no_row_and_who_has_the_identity_has_all_of_them_back() {
    let options =
        Options { snapshot_store: SnapshotStore::Own, secured: true, ..Options::default() };
    let mut cluster = Cluster::empty(options);
    let (identity, recipient) = keygen(cluster.dir(), "identity.txt").await;
    let (wrong, _) = keygen(cluster.dir(), "wrong.txt").await;
    cluster.options.extra = vec!["--seal-to".into(), recipient.clone()];
    for _ in 0..3 {
        cluster.add().await;
    }
    cluster.settled().await;
    put_all(&cluster).await;
    let first = cluster.client().complete_snapshot(SOON).await.uuid;
    let words = format!("sealed = to {recipient}\n");
    eventually("every node has looked at its part", SOON, async || {
        let ran = cluster.ctl(&["snapshot", "status", &first]).await.exits(0);
        if ran.out().contains(&words) { Ok(()) } else { Err(ran.story()) }
    })
    .await;

    // A script that may take backups, and nothing else.
    let (token, dir) = (cluster.dir().join("nightly.token"), cluster.dir().join("carried"));
    let file = token.display().to_string();
    cluster.ctl(&["token", "create", "nightly", "backup", "--file", &file]).await.exits(0);
    let nightly = format!(
        "ddbctl --endpoint {} --ca {} --token-file {file}",
        cluster.nodes[0].endpoint(),
        cluster.dir().join("certs/ca.crt").display()
    );
    let fetch = format!("{nightly} snapshot download {first} --all --output {}", dir.display());
    eventually("the token holds", SOON, async || {
        let ran = run(&fetch).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    run(&format!("{nightly} get --site shop-1 key-1")).await.exits(4);
    assert_eq!(mode(&dir), 0o700);
    let tars = files(&dir);
    assert_eq!(tars.len(), 3);

    // Nothing of a row lies anywhere but in the stores, and others cannot look.
    for node in &cluster.nodes {
        let store = node.snapshot_store.as_ref().unwrap();
        let corner = fs::read_dir(store).unwrap().next().unwrap().unwrap().path();
        assert_eq!((mode(&corner), mode(&node.store)), (0o700, 0o700));
        assert_eq!(mode(&node.store.join("seal.json")), 0o600);
        for file in files(&corner) {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
            assert!(!holds(&file, WORD) && !holds(&file, "shop"), "{}", file.display());
        }
    }
    for tar in &tars {
        assert_eq!(mode(tar), 0o600, "{}", tar.display());
        assert!(!holds(tar, WORD) && !holds(tar, "shop"), "{}", tar.display());
    }

    // Verified without a key, with the right one and with a wrong one.
    let parts = listed(&tars);
    run(&format!("ddbctl snapshot verify {parts}"))
        .await
        .exits(0)
        .says(&format!("sealed to {recipient} and NOT opened"))
        .says("what is in them is not known")
        .says("these parts bring the cluster back");
    let opens = format!("ddbctl snapshot verify {parts} --identity {}", identity.display());
    let ran =
        run(&opens).await.exits(0).says("and opened").says("these parts bring the cluster back");
    assert!(!ran.out().contains("not known"), "{}", ran.story());
    run(&format!("ddbctl snapshot verify {parts} --identity {}", wrong.display()))
        .await
        .exits(6)
        .says(&format!("sealed to {recipient}"));

    // What has not changed is stored once.
    let before: Vec<Vec<PathBuf>> = cluster.nodes.iter().map(chunks).collect();
    cluster.client().put("shop-0", Bucket::Default, "key-0", value(0)).await.unwrap();
    let second = cluster.client().complete_snapshot(SOON).await.uuid;
    for (node, before) in cluster.nodes.iter().zip(&before) {
        let after = chunks(node);
        assert!(before.iter().all(|chunk| after.contains(chunk)));
        let new = after.len() - before.len();
        assert!(new <= 2 && before.len() > 4, "{new} of {} chunks are new", after.len());
    }
    cluster.download_all(&second).await;

    // Back from the first, only with the identity.
    cluster.lose_every_disk();
    cluster.extract(&tars).await;
    for node in &mut cluster.nodes {
        let ran = node.start_refused().await;
        ran.says(&format!("sealed to {recipient}")).says("--unseal-with FILE");
    }
    set_words(&mut cluster, "--unseal-with", Some(&wrong.display().to_string()));
    for node in &mut cluster.nodes {
        node.start_refused().await.says(&format!("it is sealed to {recipient}, and "));
    }
    set_words(&mut cluster, "--unseal-with", Some(&identity.display().to_string()));
    cluster.restart_all().await;
    all_are_back(&cluster).await;

    // The file is not needed any more, and what the node seals now it seals with another key.
    set_words(&mut cluster, "--unseal-with", None);
    cluster.kill9_all();
    let kept = fs::read_to_string(&identity).unwrap();
    let secret = kept.lines().last().unwrap();
    for node in &cluster.nodes {
        for file in files(&node.store) {
            assert!(!holds(&file, secret), "{}", file.display());
        }
    }
    fs::remove_file(&identity).unwrap();
    cluster.restart_all().await;
    let third = cluster.client().complete_snapshot(SOON).await.uuid;
    let again = listed(&cluster.download_all(&third).await);
    run(&format!("ddbctl snapshot verify {again}")).await.exits(0).says(&recipient);
    fs::write(&identity, kept).unwrap();
    run(&format!("ddbctl snapshot verify {again} --identity {}", identity.display()))
        .await
        .exits(0)
        .says("and opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_unsealed_is_the_one_that_the_node_writes_without_a_seal() {
    let alone = Options { replication_factor: 1, ..Options::default() };
    let mut cluster = Cluster::start(1, alone).await;
    put_all(&cluster).await;
    let dir = cluster.dir().to_owned();
    let (identity, recipient) = keygen(&dir, "identity.txt").await;
    let (second, others) = keygen(&dir, "second.txt").await;

    // Plain, sealed, for others, and plain again: each restart decides for new parts alone.
    let mut tars = Vec::new();
    for to in [None, Some(recipient.as_str()), Some(others.as_str()), None] {
        cluster.kill9_all();
        set_words(&mut cluster, "--seal-to", to);
        cluster.restart_all().await;
        let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
        tars.push(cluster.download_all(&uuid).await.remove(0));
    }
    let [plain, sealed, for_others, again] = &tars[..] else { panic!("four were made") };
    let verify = |tar: &Path, identity: &Path| {
        format!("ddbctl snapshot verify {} --identity {}", tar.display(), identity.display())
    };
    for tar in [plain, again] {
        let ran = run(&verify(tar, &identity)).await.exits(0);
        assert!(!ran.out().contains("sealed"), "{}", ran.story());
    }
    run(&verify(sealed, &identity)).await.exits(0).says("and opened");
    run(&verify(for_others, &identity)).await.exits(6).says(&format!("sealed to {others}"));
    run(&verify(for_others, &second)).await.exits(0).says("and opened");

    let unseal = |from: &Path, to: &Path| {
        let (from, identity) = (from.display(), identity.display());
        format!("ddbctl snapshot unseal {from} --identity {identity} --output {}", to.display())
    };
    let open = dir.join("open.tar");
    run(&unseal(sealed, &open)).await.exits(0).says(&open.display().to_string());
    assert_eq!(mode(&open), 0o600);
    assert!(!holds(&open, &recipient));
    // The two snapshots differ by their uuid, their number and their time, and so do the parts.
    // The two snapshots differ by their names, their times and the cluster's configuration, which
    // knows the one. All rows of the site are the same, and so are their names and their files.
    let rows = |tar: &Path| {
        let source = Source::open(tar).unwrap();
        let manifest = source.manifest();
        let of_site = |hash: &ChunkHash| *manifest.entry(*hash).unwrap();
        let lists = manifest.lists().filter(|(owner, _)| *owner != Owner::Meta);
        lists.flat_map(|(_, chunks)| chunks.iter().map(of_site)).collect::<Vec<ChunkEntry>>()
    };
    assert!(!rows(plain).is_empty() && rows(plain) == rows(&open));
    assert!(rows(sealed) != rows(&open));
    run(&verify(&open, &identity)).await.exits(0).says("is sound");

    // Nothing is overwritten, and what fails leaves nothing.
    run(&unseal(sealed, &open)).await.exits(2).says("is there already");
    let none = dir.join("none.tar");
    run(&unseal(plain, &none)).await.exits(2).says("is not sealed");
    run(&unseal(for_others, &none)).await.exits(2).says(&format!("sealed to {others}"));
    let mut damaged = fs::read(sealed).unwrap();
    let at = damaged.len() - 3000;
    damaged[at] ^= 1;
    let damaged_tar = dir.join("damaged.tar");
    fs::write(&damaged_tar, damaged).unwrap();
    run(&unseal(&damaged_tar, &none)).await.exits(6).says("nothing was written");
    let left: Vec<_> = files(&dir).into_iter().filter(|f| f.ends_with("none.tar")).collect();
    assert!(left.is_empty() && !dir.join("none.tar.partial").exists(), "{left:?}");

    // Sealed here and opened again, it is the same file.
    let line = format!(
        "ddbctl snapshot seal {} --to {recipient},{others} --output {}/",
        plain.display(),
        dir.join("sealed").display()
    );
    let made = run(&line).await.exits(0).out();
    let made = Path::new(made.trim());
    assert_eq!((mode(made), mode(made.parent().unwrap())), (0o600, 0o700));
    assert!(!holds(made, WORD));
    let back = dir.join("back.tar");
    run(&unseal(made, &back)).await.exits(0);
    assert!(fs::read(&back).unwrap() == fs::read(plain).unwrap(), "it is another part now");

    // `devicedb restore` takes a sealed tar too, and the identity.
    let ran = run(&format!("ddbctl restore {}", made.display())).await.exits(0);
    ran.says("--unseal-with IDENTITY");
    let restore =
        format!("devicedb restore {} --store {}", made.display(), dir.join("r").display());
    run(&restore).await.exits(1).says("--unseal-with FILE");
    assert!(!dir.join("r").exists());
    run(&format!("{restore} --unseal-with {}", identity.display())).await.exits(0);
    assert!(dir.join("r/state.redb").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_and_files_that_cannot_work_end_a_start_by_name() {
    let alone = Options { replication_factor: 1, ..Options::default() };
    let mut cluster = Cluster::start(1, alone).await;
    let (identity, recipient) = keygen(cluster.dir(), "identity.txt").await;
    put_all(&cluster).await;
    set_words(&mut cluster, "--seal-to", Some(&recipient));
    cluster.kill9_all();
    cluster.restart_all().await;
    let uuid = cluster.client().complete_snapshot(SOON).await.uuid;
    let tars = cluster.download_all(&uuid).await;
    cluster.kill9_all();

    set_words(&mut cluster, "--seal-to", Some("age1nobody"));
    cluster.nodes[0].start_refused().await.exits(2).says("\"age1nobody\" is no recipient");
    set_words(&mut cluster, "--seal-to", Some(&recipient));
    let kept = cluster.nodes[0].store.join("seal.json");
    let seal = fs::read(&kept).unwrap();
    fs::write(&kept, "{}").unwrap();
    let ran = cluster.nodes[0].start_refused().await;
    ran.says("seal.json is not what this program writes").says("or remove it");
    fs::write(&kept, seal).unwrap();
    assert!(cluster.nodes[0].log().contains("parts of snapshots are sealed"));
    // A store needs no identity, and says so.
    cluster.nodes[0].args.retain(|word| word != "--found");
    let gone = cluster.dir().join("gone.txt").display().to_string();
    set_words(&mut cluster, "--unseal-with", Some(&gone));
    cluster.restart_all().await;
    assert!(cluster.nodes[0].log().contains("--unseal-with changes nothing"));

    cluster.lose_every_disk();
    cluster.extract(&tars).await;
    cluster.nodes[0].start_refused().await.says("gone.txt cannot be read");
    let no_identity = cluster.dir().join("words.txt");
    fs::write(&no_identity, "hello\n").unwrap();
    set_words(&mut cluster, "--unseal-with", Some(&no_identity.display().to_string()));
    let ran = cluster.nodes[0].start_refused().await;
    ran.says("has no X25519 identity, AGE-SECRET-KEY-1..., in line 1");
    set_words(&mut cluster, "--unseal-with", Some(&identity.display().to_string()));
    cluster.restart_all().await;
    all_are_back(&cluster).await;
    assert!(!cluster.nodes[0].log().contains("are not sealed"));
    cluster.lose_every_disk();
    cluster.extract(&tars).await;
    set_words(&mut cluster, "--seal-to", None);
    cluster.restart_all().await;
    assert!(cluster.nodes[0].log().contains("the parts that this node writes are not sealed"));

    // `ddbctl` says the same of its own files.
    let tar = tars[0].display();
    let verify = format!("ddbctl snapshot verify {tar} --identity");
    run(&format!("{verify} {gone}")).await.exits(2).says("gone.txt cannot be read");
    run(&format!("{verify} {}", no_identity.display())).await.exits(2).says("in line 1");
    let again = format!("ddbctl snapshot keygen --output {}", identity.display());
    run(&again).await.exits(2).says("is there already");
    let to = format!("ddbctl snapshot seal {tar} --to age1x --output x.tar");
    run(&to).await.exits(2).says("\"age1x\" is no recipient");
}
