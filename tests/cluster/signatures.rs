//! Signed repositories on real processes: nodes sign what they upload, and whoever pins the key is
//! told by name what somebody without it has put there.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use devicedb::{
    proto::v1::Bucket,
    repository::{
        catalogue::Catalogue,
        signature::{PublicKey, SigningKey},
        trust::{VOUCHERS, voucher},
    },
};

use crate::{
    harness::{Node, Ran, SOON, shell},
    seeds::{Place, SITES, USAGE, content, founder, small},
    uploads::{cluster, ctl, json, value},
};

const KEYS: usize = 16;

/// The file of a signing key, and its public key.
async fn keygen(dir: &Path, name: &str) -> (String, String) {
    let file = dir.join(name).display().to_string();
    let ran = shell(&format!("ddbctl repository keygen --output {file}"), SOON).await.exits(0);
    (file, ran.out().trim().to_owned())
}

async fn repository(line: &str) -> Ran {
    shell(&format!("ddbctl repository {line}"), SOON).await
}

/// The catalogues of the only history, oldest first.
fn catalogues(place: &Path) -> Vec<PathBuf> {
    let only = |dir: PathBuf| fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let history = only(only(place.join("k")));
    let mut all: Vec<PathBuf> =
        fs::read_dir(history).unwrap().map(|file| file.unwrap().path()).collect();
    all.sort();
    all
}

/// Adds a catalogue that says the same as the newest, as somebody does who may write to the place.
fn add(place: &Path, key: Option<&SigningKey>) -> PathBuf {
    let newest = catalogues(place).pop().unwrap();
    let text = fs::read(&newest).unwrap();
    let read = Catalogue::parse(&text).unwrap();
    let next = Catalogue {
        format: 1,
        number: read.number + 1,
        before: Some(devicedb::part::chunk::Digest(blake3::hash(&text).into())),
        signer: None,
        signature: None,
        ..read
    };
    let next = match key {
        Some(key) => next.signed(key),
        None => next,
    };
    let path = newest.with_file_name(format!("{:016x}", next.number));
    fs::write(&path, next.encode().unwrap()).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_sign_what_they_upload_and_a_new_cluster_begins_with_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("backups");
    let place = at.display().to_string();
    let (file, key) = keygen(dir.path(), "signing.key").await;
    let (_, strange) = keygen(dir.path(), "strange.key").await;
    repository(&format!("init {place}")).await.exits(0);
    let signed = repository(&format!("sign {place} --signing-key-file {file}")).await.exits(0);
    signed.says(&format!("is signed by {key}"));
    let mut cluster = cluster(&place, &["--repository-signing-key-file", &file], None, KEYS).await;

    let taken = json(&ctl(&cluster, "snapshot create --upload --format json").await.exits(0));
    let uuid = taken["uuid"].as_str().unwrap().to_owned();
    let mark = taken["upload"]["catalogue"].as_str().unwrap().to_owned();
    assert!(mark.ends_with("/1"), "{taken}");
    let status = repository(&format!("status {place} --trusted-key {key}")).await.exits(0);
    status.says(&format!("signed by   {key}")).says(&format!("catalogue   {mark}"));
    let verified = format!("verify {place} --trusted-key {key} --at-least-catalogue {mark}");
    repository(&verified).await.exits(0).says("sound");

    // A node without the key stores nothing and drives nothing, and the others do without it.
    let change = |node: &mut Node, words: &[&str]| {
        node.kill9();
        let at = node.args.iter().position(|word| word == "--repository-signing-key-file");
        if let Some(at) = at {
            node.args.drain(at..at + 2);
        }
        node.args.extend(words.iter().map(|word| word.to_string()));
        node.start();
    };
    change(&mut cluster.nodes[0], &["--trusted-key", &key]);
    cluster.settled().await;
    let second = cluster.client().complete_snapshot(SOON).await.uuid;
    let no = cluster.nodes[0].ctl(&["snapshot", "upload", &second]).await.exits(1);
    no.says("nobody adds to it without the signing key").says("--repository-signing-key-file");
    let stored = cluster.nodes[1].ctl(&["snapshot", "upload", &second]).await.exits(0);
    let newest = mark.replace("/1", "/2");
    stored.says(&format!("catalogue = {newest}"));

    // Another repository where the nodes' own was, which stores what a stranger wants to read.
    let aside = dir.path().join("aside");
    fs::rename(&at, &aside).unwrap();
    repository(&format!("init {place}")).await.exits(0);
    let third = cluster.client().complete_snapshot(SOON).await.uuid;
    let no = cluster.nodes[1].ctl(&["snapshot", "upload", &third]).await.exits(1);
    no.says("another repository").says(&key);
    assert!(!at.join("k").exists(), "nothing was stored there");
    fs::remove_dir_all(&at).unwrap();
    fs::rename(&aside, &at).unwrap();

    // The cluster is gone, and somebody has damaged the newest catalogue.
    cluster.lose_every_disk();
    let seeds = Place { path: at.clone() };
    let mut other = founder(dir.path(), "other", &seeds, &["--trusted-key", &strange]);
    let refused = other.start_refused().await;
    assert!(refused.stderr.contains("has not signed that it is"), "{}", refused.story());
    let path = catalogues(&at).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let words = ["--trusted-key", &key];
    let refused = founder(dir.path(), "damaged", &seeds, &words).start_refused().await;
    assert!(refused.stderr.contains("cut short"), "{}", refused.story());
    assert!(refused.stderr.contains("--older-catalogue"), "{}", refused.story());
    fs::remove_file(&path).unwrap();
    let words = ["--trusted-key", &key, "--at-least-catalogue", &newest];
    let refused = founder(dir.path(), "removed", &seeds, &words).start_refused().await;
    assert!(refused.stderr.contains("is number 1, and --at-least"), "{}", refused.story());

    // It is known by then what is there, and what is not.
    fs::write(&path, "").unwrap();
    let words = ["--trusted-key", &key, "--at-least-catalogue", &mark, "--older-catalogue"];
    let mut first = founder(dir.path(), "first", &seeds, &words);
    first.start();
    first.wait_ready().await;
    assert!(first.log().contains(&uuid), "the second one is in the lost catalogue alone");
    let client = first.client();
    for n in 0..KEYS {
        let (site, key) = (format!("shop-{}", n % 8), format!("key-{n}"));
        let read = client.values(&site, Bucket::Default, key).await.unwrap();
        assert_eq!(read, [value(n)], "key-{n} of {site}");
    }
    let secret = fs::read_to_string(&file).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    for node in cluster.nodes.iter().chain([&first]) {
        assert!(!node.log().contains(secret), "the log has the key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_pins_a_key_is_told_by_name_what_is_not_signed_by_it() {
    let (cluster, at, uuid) = small(2).await;
    let (dir, place) = (cluster.dir().to_owned(), at.path.display().to_string());
    let (file, key) = keygen(&dir, "signing.key").await;
    let sign = format!("--signing-key-file {file}");
    let pin = format!("--trusted-key {key}");
    let run = repository;

    // What is there becomes signed, from the newest catalogue on.
    run(&format!("verify {place} {pin}")).await.exits(4).says("has not signed that it is");
    run(&format!("hold {place} {uuid} --reason x {sign}")).await.exits(4).says("repository sign");
    let signed = run(&format!("-o json sign {place} {sign}")).await.exits(0);
    let mark = json(&signed)["catalogues"][0].as_str().unwrap().to_owned();
    run(&format!("sign {place} {sign}")).await.exits(0).says("was signed already");

    // Who has no key changes nothing, whatever it is.
    let keyless = [
        format!("hold {place} {uuid} --reason x"),
        format!("release {place} {uuid}"),
        format!("drop {place} {uuid}"),
        format!("collect {place} --keep last=1"),
        format!("repair {place}"),
    ];
    for line in &keyless {
        let no = run(line).await.exits(4);
        no.says("nobody adds to it without the signing key").says("--signing-key-file FILE");
        run(&format!("{line} {pin}")).await.exits(4).says("without the signing key");
    }
    let second = cluster.client().complete_snapshot(SOON).await.uuid;
    let tars = cluster.download_all(&second).await;
    let tars = tars.iter().map(|tar| tar.display().to_string()).collect::<Vec<_>>().join(" ");
    let import = format!("import {place} {tars}");
    run(&import).await.exits(4).says("without the signing key");
    assert_eq!(catalogues(&at.path).len(), 2, "nothing has changed");

    // With it all of it is signed: holds, imports, drops, collections.
    run(&format!("hold {place} {uuid} --reason audit {sign}")).await.exits(0);
    let imported = run(&format!("{import} {sign}")).await.exits(0);
    // A hold stands in two.
    let history = mark.strip_suffix("/2").unwrap();
    imported.says(&format!("catalogue {history}/5"));
    run(&format!("drop {place} {uuid} {sign}")).await.exits(5).says("is held: audit");
    run(&format!("release {place} {uuid} {sign}")).await.exits(0);
    run(&format!("drop {place} {uuid} {sign}")).await.exits(0);
    let public: PublicKey = key.parse().unwrap();
    for path in &catalogues(&at.path)[1..] {
        let read = Catalogue::parse(&fs::read(path).unwrap()).unwrap();
        assert_eq!((read.format, read.signer), (2, Some(public)), "{path:?}");
    }
    run(&format!("verify {place} {pin}")).await.exits(0).says("sound");
    run(&format!("list {place} {pin}")).await.exits(0).says(&second);
    let out = dir.join("out");
    fs::create_dir(&out).unwrap();
    let export = format!("export {place} {second} --output {}", out.display());
    run(&format!("{export} {pin}")).await.exits(0);

    // A restore is rehearsed with it, and the node of the drill pins it too.
    let before = content(&cluster.client(), &SITES).await;
    let drill = format!("drill {place} --scratch {}", dir.join("scratch").display());
    run(&format!("{drill} {pin}")).await.exits(0).says("PASSED");
    assert_eq!(content(&cluster.client(), &SITES).await, before);
    let (_, strange) = keygen(&dir, "strange.key").await;
    let no = run(&format!("{drill} --trusted-key {strange}")).await.exits(4);
    no.says("has not signed that it is");

    // Somebody who may write there, and what each command says of it.
    let reading = [
        format!("status {place}"),
        format!("list {place}"),
        format!("verify {place} --quick"),
        drill.clone(),
        format!("export {place} {second} --output {}", dir.join("scratch").display()),
    ];
    let newest = catalogues(&at.path).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    let strange = SigningKey::of([9; 32]);
    let attacks: [(&str, &dyn Fn() -> PathBuf); 4] = [
        ("is not signed, and only", &|| add(&at.path, None)),
        ("is signed by ed25519-", &|| add(&at.path, Some(&strange))),
        ("it was changed or cut short", &|| {
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 1;
            fs::write(&newest, flipped).unwrap();
            newest.clone()
        }),
        ("it says of itself that it is catalogue", &|| {
            let before = &catalogues(&at.path)[3];
            fs::copy(before, &newest).unwrap();
            newest.clone()
        }),
    ];
    for (said, attack) in attacks {
        let changed = attack();
        for line in &reading {
            let no = run(&format!("{line} {pin}")).await.exits(4);
            no.says(said).says("--older-catalogue");
        }
        run(&format!("{import} {sign}")).await.exits(4).says(said);
        let listed = run(&format!("list {place} {pin} --older-catalogue")).await;
        listed.exits(6).says(said).says(&second);
        fs::remove_file(changed).unwrap();
        fs::write(&newest, &whole).unwrap();
    }

    // A voucher of somebody else's repository, and none.
    let own = at.path.join(voucher(&public));
    let text = fs::read(&own).unwrap();
    let other = dir.join("other").display().to_string();
    run(&format!("init {other}")).await.exits(0);
    run(&format!("sign {other} {sign}")).await.exits(0);
    fs::copy(dir.join("other").join(voucher(&public)), &own).unwrap();
    let no = run(&format!("list {place} {pin}")).await.exits(4);
    no.says("its devicedb.json is not the one that was signed");
    fs::remove_dir_all(at.path.join(VOUCHERS)).unwrap();
    run(&format!("list {place} {pin}")).await.exits(4).says("has not signed that it is");
    fs::create_dir(at.path.join(VOUCHERS)).unwrap();
    fs::write(&own, text).unwrap();
    run(&format!("list {place} {pin}")).await.exits(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_that_are_absent_wrong_or_open_to_others_are_said_by_line_and_code() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (file, key) = keygen(dir.path(), "signing.key").await;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = fs::read(&file).unwrap();
    let again = repository(&format!("keygen --output {file}")).await.exits(2);
    again.says("is there already, and is not overwritten");
    assert_eq!(fs::read(&file).unwrap(), before);
    let place = at("place");
    repository(&format!("init {place}")).await.exits(0);
    let sign = |words: &str| format!("sign {place} {words}");
    repository(&sign("")).await.exits(4).says("--signing-key-file FILE");
    repository(&sign(&format!("--signing-key-file {}", at("none")))).await.exits(2);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let open = repository(&sign(&format!("--signing-key-file {file}"))).await.exits(2);
    open.says("others can read the file, and sign in your name").says("chmod 600");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let public = at("public");
    fs::write(&public, &key).unwrap();
    fs::set_permissions(&public, fs::Permissions::from_mode(0o600)).unwrap();
    let no = repository(&sign(&format!("--signing-key-file {public}"))).await.exits(2);
    no.says("it is no signing key");

    // By the environment, as all of them.
    let secret = String::from_utf8(before).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let by = |variable: &str, value: &str, line: &str| {
        let line = format!("{variable}={value} ddbctl repository {line}");
        async move { shell(&line, SOON).await }
    };
    let signing = "DEVICEDB_REPOSITORY_SIGNING_KEY";
    by(signing, "nonsense", &sign("")).await.exits(2).says(signing);
    by(signing, secret, &sign("")).await.exits(0).says(&key);
    by("DEVICEDB_REPOSITORY_SIGNING_KEY_FILE", &file, &sign("")).await.exits(0).says("already");
    let list = format!("list {place}");
    let trusted = "DEVICEDB_REPOSITORY_TRUSTED_KEYS";
    by(trusted, &key, &list).await.exits(0);
    let (next, new) = keygen(dir.path(), "next.key").await;
    by(trusted, &new, &list).await.exits(4).says(&new);
    by(trusted, &format!("{new},{key}"), &list).await.exits(0);
    by(trusted, secret, &list).await.exits(2).says("is no public key");
    repository(&format!("{list} --trusted-key {}", &key[..70])).await.exits(2);
    repository(&format!("{list} --at-least-catalogue 7")).await.exits(2).says("CLUSTER/LINEAGE/N");

    // One key takes the place of another only by whoever trusts that.
    let turn = sign(&format!("--signing-key-file {next}"));
    repository(&turn).await.exits(4).says("name one of them with --trusted-key");
    repository(&format!("{turn} --trusted-key {key}")).await.exits(0).says(&new);
    by(trusted, &new, &list).await.exits(0);

    // A node says it before it begins, or in its log.
    let mut node = crate::seeds::node(dir.path(), "node", &["--found", "--repository", &place]);
    node.args.extend(["--repository-signing-key-file".into(), public.clone()]);
    node.start_refused().await.exits(USAGE).says("it is no signing key");
    *node.args.last_mut().unwrap() = next;
    node.start();
    node.wait_ready().await;
    node.says("snapshots can be uploaded").await;
}
