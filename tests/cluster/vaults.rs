//! Sealed repositories on real nodes: the store sees no row and no name, and a new cluster begins
//! with what is there, by the key.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use devicedb::{proto::v1::Bucket, repository::key::SLOTS};

use crate::{
    harness::{Node, ObjectStore, Port, SOON, shell},
    uploads::{cluster, ctl, json, value},
};

const KEYS: usize = 48;
const PLACE: &str = "s3://backups/sealed";

/// An identity file and its recipient.
async fn keygen(dir: &Path, name: &str) -> (String, String) {
    let file = dir.join(name).display().to_string();
    let ran = shell(&format!("ddbctl snapshot keygen --output {file}"), SOON).await.exits(0);
    (file, ran.out().trim().to_owned())
}

/// The founder of a new cluster of what is in the repository, not started.
fn founder(dir: &Path, name: &str, s3: &ObjectStore, words: &[&str]) -> Node {
    let (port, store) = (Port::claim(), dir.join(name));
    let own = ["start", "--store", store.to_str().unwrap(), "--listen", &port.endpoint()];
    let seed = ["--restore-from", PLACE];
    let all = own.iter().chain(&seed).chain(words);
    let args = all.map(|word| word.to_string()).collect();
    let mut node = Node::new(name, port, dir, store, args);
    node.under = s3.under();
    node
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_seal_what_they_store_and_a_new_cluster_begins_with_it_by_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = ObjectStore::start(dir.path()).await;
    let (identity, recipient) = keygen(dir.path(), "identity.txt").await;
    let made = format!("ddbctl repository init {PLACE} --recipient {recipient}");
    s3.shell(&made).await.exits(0).says("and sealed");
    let key = dir.path().join("key.hex").display().to_string();
    let by_identity = format!("--repository-key-file {identity}");
    let exported = format!("ddbctl repository key export {PLACE} --output {key} {by_identity}");
    s3.shell(&exported).await.exits(0);

    // One node has the key itself, the others have an identity.
    let words = ["--repository-key-file", &identity];
    let mut cluster = cluster(PLACE, &words, Some(&s3), KEYS).await;
    let change = |node: &mut Node, words: &[&str]| {
        node.kill9();
        let at = node.args.iter().position(|word| word == "--repository-key-file");
        if let Some(at) = at {
            node.args.drain(at..at + 2);
        }
        node.args.extend(words.iter().map(|word| word.to_string()));
        node.start();
    };
    change(&mut cluster.nodes[0], &["--repository-key-file", &key]);
    cluster.settled().await;
    let taken = ctl(&cluster, "snapshot create --upload --format json").await.exits(0);
    let uuid = json(&taken)["uuid"].as_str().unwrap().to_owned();

    // All that the store has, and what is on its disk.
    let seen = fs::read(dir.path().join("s3.db")).unwrap();
    assert!(holds(&seen, b"devicedb.json") && holds(&seen, uuid.as_bytes()));
    let endpoints = cluster.nodes.iter().map(Node::endpoint);
    for word in ["shop-0", "shop-7", "key-1"].map(str::to_owned).into_iter().chain(endpoints) {
        assert!(!holds(&seen, word.as_bytes()), "{word} is in the store");
    }
    for n in 0..KEYS {
        let value = value(n);
        assert!(!holds(&seen, &value[..12]), "value {n} is in the store");
        assert!(!holds(&seen, &blake3::hash(&value).as_bytes()[..12]), "the hash of {n} is");
    }

    // A node without the key plans and stores nothing, and the others do without it.
    change(&mut cluster.nodes[0], &[]);
    cluster.settled().await;
    let second = cluster.client().complete_snapshot(SOON).await.uuid;
    let no = cluster.nodes[0].ctl(&["snapshot", "upload", &second]).await.exits(1);
    no.says("is sealed, and no key is named: say --repository-key-file FILE");
    cluster.nodes[1].ctl(&["snapshot", "upload", &second]).await.exits(0).says("stored = ");
    let verified = format!("ddbctl repository verify {PLACE} {by_identity}");
    s3.shell(&verified).await.exits(0).says("sound");

    // The cluster is gone. What there is, is its repository and the key.
    let before = cluster.client().values("shop-1", Bucket::Default, "key-1").await.unwrap();
    cluster.lose_every_disk();
    let mut keyless = founder(dir.path(), "keyless", &s3, &[]);
    let refused = keyless.start_refused().await;
    assert!(refused.stderr.contains("is sealed, and no key is named"), "{}", refused.story());
    assert!(!dir.path().join("keyless/store").exists());
    let (other, _) = keygen(dir.path(), "other.txt").await;
    let mut wrong = founder(dir.path(), "wrong", &s3, &["--repository-key-file", &other]);
    let refused = wrong.start_refused().await;
    assert!(refused.stderr.contains("has no slot for"), "{}", refused.story());
    let command = format!("cat {key}");
    let words = ["--point", &uuid, "--repository-key-command", &command];
    let mut first = founder(dir.path(), "first", &s3, &words);
    first.start();
    first.wait_ready().await;
    let client = first.client();
    assert_eq!(before, [value(1)]);
    for n in 0..KEYS {
        let (site, key) = (format!("shop-{}", n % 8), format!("key-{n}"));
        let read = client.values(&site, Bucket::Default, key).await.unwrap();
        assert_eq!(read, [value(n)], "key-{n} of {site}");
    }
    assert!(!first.log().contains(fs::read_to_string(&key).unwrap().trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_absent_wrong_or_open_to_others_is_said_by_line_and_code() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (identity, recipient) = keygen(dir.path(), "identity.txt").await;
    let (other, stranger) = keygen(dir.path(), "other.txt").await;
    let (place, open) = (at("sealed"), at("open"));
    let run = async |line: &str| shell(&format!("ddbctl repository {line}"), SOON).await;
    run(&format!("init {open}")).await.exits(0);
    let no = run(&format!("init {place} --recipients-file {identity}")).await.exits(2);
    assert!(!no.says("has no recipient in line").story().contains("AGE-SECRET-KEY"));
    fs::write(at("recipients"), format!("# who restores\n{recipient}\n")).unwrap();
    let made = format!("init {place} --recipients-file {}", at("recipients"));
    run(&made).await.exits(0).says("and sealed");
    run(&made).await.exits(5).says("is a repository already");
    assert_eq!(run(&format!("key list {place}")).await.exits(0).out().trim(), recipient);
    run(&format!("key list {open}")).await.exits(5).says("is not sealed");

    // What everybody sees, and what nobody sees.
    run(&format!("status {place}")).await.exits(0).says("is told with the key");
    run(&format!("list {place}")).await.exits(0);
    run(&format!("verify {place}")).await.exits(4).says("is sealed, and no key is named");
    let with = |file: &str| format!("verify {place} --repository-key-file {file}");
    run(&with(&identity)).await.exits(0);
    run(&with(&other)).await.exits(4).says(&format!("has no slot for {stranger}"));
    let wrong = at("wrong.hex");
    fs::write(&wrong, "00".repeat(32)).unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
    run(&with(&wrong)).await.exits(2).says("others can read the file").says("chmod 600");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o600)).unwrap();
    run(&with(&wrong)).await.exits(4).says("is not the key of");
    let unsealed = format!("verify {open} --repository-key-file {identity}");
    run(&unsealed).await.exits(5).says("is not sealed, and");
    let command = |command: &str| format!("verify {place} --repository-key-command '{command}'");
    run(&command("echo the vault is shut >&2; exit 9")).await.exits(1).says("the vault is shut");

    // Slots come and go, and the key stays.
    let change = |what: &str, who: &str, file: &str| {
        format!("key {what} {place} {who} --repository-key-file {file}")
    };
    let last = run(&change("remove-recipient", &recipient, &identity)).await;
    last.exits(5).says("has the last slot");
    run(&change("add-recipient", &stranger, &identity)).await.exits(0).says("can open it");
    run(&with(&other)).await.exits(0);
    let key = at("key.hex");
    let export = format!("key export {place} --output {key} --repository-key-file {other}");
    run(&export).await.exits(0);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    run(&export).await.exits(5).says("nothing is overwritten");
    run(&change("remove-recipient", &recipient, &other)).await.exits(0).says("kept the key");
    run(&with(&identity)).await.exits(4);
    run(&with(&key)).await.exits(0);
    let line = format!("DEVICEDB_REPOSITORY_KEY=$(cat {key}) ddbctl repository verify {place}");
    shell(&line, SOON).await.exits(0);
    let slot = PathBuf::from(&place).join(SLOTS).join(&stranger);
    let mut bytes = fs::read(&slot).unwrap();
    bytes[100] ^= 1;
    fs::write(&slot, bytes).unwrap();
    run(&with(&other)).await.exits(6).says(&stranger);

    // A key of one's own, and no slot.
    let own = at("own");
    run(&format!("init {own} --key-file {key}")).await.exits(0).says("and sealed");
    assert_eq!(run(&format!("key list {own}")).await.exits(0).out(), "");
    run(&format!("verify {own} --repository-key-file {key}")).await.exits(0);
}
