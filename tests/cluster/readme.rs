//! The documents, held to what is: their procedures are run from the documents themselves, and
//! their links lead somewhere.
//!
//! Every block of commands in README.md and docs/ is part of a session below, or is named as one
//! that is not run, with the reason. The only words that are changed are addresses and
//! directories, since the machine that runs the tests has ports and files of its own. Of a
//! transcript the answers are compared too, but for ids, sizes and times.

mod page;

use std::{fs, path::Path, time::Duration};

use devicedb::proto::v1::Bucket;
use tempfile::TempDir;

use crate::harness::{Cluster, Options, Port, Ran, shell};
use page::{Block, Page};

/// As long as three nodes of a build without optimisation may take for the longest session on a
/// busy machine.
const SESSION: Duration = Duration::from_secs(180);

/// A block: its document, and a line that no other block there has.
type Named = (&'static str, &'static str);

const FIRST_START: Named = ("README.md", "cargo build --locked --bins");
const FIRST_STEPS: Named = ("README.md", "$ ddbctl site add shop-1");
const SIBLINGS: Named = ("docs/data.md", "$ ddbctl site add shop-2");
const RESULTS: Named = ("docs/scripting.md", "$ ddbctl get --site shop-1 height");
const BACKUP: Named = ("docs/backup-and-restore.md", "--all --output backup ");
const REPOSITORY: Named = ("docs/backup-and-restore.md", "ddbctl repository import");
const COLLECTED: Named = ("docs/backup-and-restore.md", "ddbctl repository hold");
const VERIFIED: Named = ("docs/backup-and-restore.md", "--sample 10");
const DRILL: Named = ("docs/backup-and-restore.md", "--scratch drill");
const GUIDE: Named = ("docs/backup-and-restore.md", "devicedb cluster download_snapshot");
const BY_HAND: Named = ("docs/backup-and-restore.md", "shelf=");
const CRON: Named = ("docs/backup-and-restore.md", "#!/bin/sh");
const RESTORE: Named = ("docs/backup-and-restore.md", "tar xf");
const FEWER: Named = ("docs/backup-and-restore.md", "--sole-survivor");
const SEEDED: Named = ("docs/backup-and-restore.md", "mkdir /tmp/ddb/new-snapshots");
const TOGETHER: Named = ("docs/backup-and-restore.md", "--expect-nodes");

/// From the first start over a backup to the way back on other addresses, in one shell.
const FROM_START_TO_RESTORE: &[Named] = &[
    FIRST_START,
    FIRST_STEPS,
    SIBLINGS,
    RESULTS,
    BACKUP,
    REPOSITORY,
    COLLECTED,
    VERIFIED,
    DRILL,
    GUIDE,
    BY_HAND,
    CRON,
    RESTORE,
    FEWER,
    SEEDED,
    TOGETHER,
];

const UNIT: Named = ("docs/operating.md", "--listen 0.0.0.0:8080");
const FOUNDING: Named = ("docs/operating.md", "ddbctl cluster init");

/// Three machines with the same line each.
const FOUNDED_TOGETHER: &[Named] = &[UNIT, FOUNDING];

const CERTIFICATES: Named = ("docs/security.md", "ddbctl cert init");
const CLOSED: Named = ("docs/security.md", "--tls-cert certs/node-a.crt");
const OPERATED: Named = ("docs/security.md", "export DDBCTL_CA=certs/ca.crt");

const GRANTED: Named = ("docs/security.md", "ddbctl grant add");
const TOKENS: Named = ("docs/security.md", "ddbctl token create nightly");
const JOINS: Named = ("docs/security.md", "ddbctl cluster joins token");

const SEALED_BACKUP: Named = ("docs/security.md", "ddbctl snapshot keygen --output identity.txt");
const UNSEALED: Named = ("docs/security.md", "devicedb restore \"$1\"");

/// A backup that nobody reads who carries it, and the way back.
const SEALED: &[Named] = &[SEALED_BACKUP, UNSEALED];

/// A snapshot that the nodes store in a repository.
const UPLOADED: &[Named] = &[("docs/backup-and-restore.md", "ddbctl repository init repository")];

/// A repository that is sealed, and who opens it.
const VAULT: &[Named] = &[("docs/backup-and-restore.md", "mkdir -p /tmp/ddb-vault")];

/// A repository that is signed, and who reads it.
const SIGNED: Named = ("docs/backup-and-restore.md", "mkdir -p /tmp/ddb-signed");

/// A secured cluster, from nothing to what was put into it and who may read it.
const SECURED: &[Named] = &[CERTIFICATES, CLOSED, OPERATED, GRANTED, TOKENS, JOINS];

const INSPECT: Named = ("docs/operating.md", "devicedb recover inspect");
const PLAN: Named = ("docs/operating.md", "devicedb recover plan");
const APPLY: Named = ("docs/operating.md", "devicedb recover apply");

/// The way back from a lost majority: the first and the last on every machine that is left.
const RECOVERY: &[Named] = &[INSPECT, PLAN, APPLY];

const NOT_RUN: &[(Named, &str)] = &[
    (("README.md", "make demo "), "the demo has a test of its own, and make test runs this one"),
    (("docs/scripting.md", "curl --json"), "documents.rs makes these calls without curl"),
    (("docs/packages.md", "sudo apt install"), "packages.rs installs and starts what it makes"),
    (("docs/packages.md", "helm install"), "charts.rs runs what the chart renders"),
    (("docs/packages.md", "kubectl create secret"), "it needs Kubernetes"),
    (("docs/packages.md", "docker load"), "packages.rs unpacks and starts what it makes"),
    (("docs/measuring.md", "ddbctl bench put"), "load of 30 s each; bench.rs has them shorter"),
    (("docs/backup-and-restore.md", "with devicedb.Client("), "the Python client's tests run it"),
];

const MANUAL: &str = "docs/ddbctl.md";

fn find(pages: &[Page], (path, line): Named) -> Block {
    let page = pages.iter().find(|page| page.path == path);
    let page = page.unwrap_or_else(|| panic!("{path} is gone, and this test runs a block of it"));
    let mut found = page.commands();
    found.retain(|block| block.text.contains(line));
    assert_eq!(found.len(), 1, "{path}: {} blocks have {line:?}; one is meant", found.len());
    found.remove(0)
}

/// Words of the documents and what stands for them here.
type Here = Vec<(&'static str, String)>;

fn here(text: &str, words: &Here) -> String {
    words.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
}

/// What is said must not be left to chance: a failing command ends the session, and the nodes end
/// with it.
fn session(steps: &[String], dir: &Path) -> String {
    let dir = dir.display();
    let mut script = format!(
        "set -eu -o pipefail\ncd {dir}\ntrap 'kill -9 $(jobs -p) 2>/dev/null || true' EXIT\n"
    );
    for (at, step) in steps.iter().enumerate() {
        script += &format!("echo '==== {at}'\n{step}\n");
    }
    script
}

/// A block as the shell gets it. Before each command of a transcript a line says which one it is.
fn script(block: &Block, words: &Here) -> String {
    let commands: String = match block.language.as_str() {
        "console" => {
            let typed = block.exchanges().into_iter().map(|exchange| exchange.typed);
            typed.map(|typed| format!("echo '----'\n{{ {typed}; }} 2>&1\n")).collect()
        }
        _ => block.text.clone(),
    };
    here(&commands, words)
}

/// What differs from one run to the next, made the same: ids, sizes, times, ports. Small numbers
/// are facts.
fn alike(text: &str) -> String {
    let mut alike = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let part_of_a_word = |c: char| c.is_ascii_alphanumeric() || "+/=-_".contains(c);
        let ends = rest.find(|c| !part_of_a_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(ends);
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let drawn = digits >= 4 || digits > 0 && word.len() >= 16 || word.len() >= 24;
        alike += if drawn { "…" } else { word };
        let next = after.find(part_of_a_word).unwrap_or(after.len());
        alike += &after[..next];
        rest = &after[next..];
    }
    alike
}

/// A transcript beside what its commands have printed.
fn compare(block: &Block, words: &Here, printed: &str) {
    let printed = printed.split("----\n").skip(1);
    let exchanges = block.exchanges();
    assert_eq!(printed.clone().count(), exchanges.len(), "{}: {:?}", block.page, block.text);
    for (exchange, printed) in exchanges.iter().zip(printed) {
        let (shown, printed) = (alike(&here(&exchange.printed, words)), alike(printed));
        assert_eq!(printed, shown, "{}: what is printed by {}", block.page, exchange.typed);
    }
}

fn endpoints(ports: &[Port]) -> Vec<String> {
    ports.iter().map(Port::endpoint).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_procedures_of_the_documents_run_as_they_are_written() {
    let pages = Page::all();
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let ports: Vec<Port> = (0..6).map(|_| Port::claim()).collect();
    let at = endpoints(&ports);
    let beside = |name: &str| dir.path().join(name).display().to_string();
    let words: Here = vec![
        ("127.0.0.1:8080", at[0].clone()),
        ("127.0.0.1:8181", at[1].clone()),
        ("127.0.0.1:8282", at[2].clone()),
        ("127.0.0.1:9080", at[3].clone()),
        ("127.0.0.1:9181", at[4].clone()),
        ("127.0.0.1:9282", at[5].clone()),
        ("node1:8080,node2:8080,node3:8080", at[..3].join(",")),
        ("-port 8080", format!("-port {}", ports[0].number)),
        ("/tmp/ddb", beside("ddb")),
        ("/var/backups/devicedb-parts", beside("cron-parts")),
        ("/var/backups/devicedb-repository", beside("repository")),
        (
            "/var/backups/devicedb/node-...",
            format!("$(ls -d {}/node-* | head -1)", beside("ddb/snapshots")),
        ),
        (
            "5f1c8a9e-0b1d-4a53-9a29-6d4a3f5f0c11",
            r#"$(ddbctl -o json cluster health | sed -n 's/.*"cluster_id": "\(.*\)".*/\1/p')"#
                .into(),
        ),
        ("uuid=...", "uuid=$(ls $shelf/snapshots | head -1)".into()),
    ];
    let blocks: Vec<Block> = FROM_START_TO_RESTORE.iter().map(|name| find(&pages, *name)).collect();
    for (there, _) in &words {
        let said = blocks.iter().any(|block| block.text.contains(there));
        assert!(said, "no block that is run has {there:?} any more");
    }

    let steps: Vec<String> = FROM_START_TO_RESTORE
        .iter()
        .zip(&blocks)
        .map(|(name, block)| match *name {
            // Whoever runs tests has built already, and the shell has both programs on its path.
            FIRST_START => {
                let lines = block.text.lines();
                let (built, start): (Vec<_>, Vec<_>) =
                    lines.partition(|l| l.starts_with("cargo ") || l.starts_with("export PATH="));
                assert_eq!(
                    built,
                    ["cargo build --locked --bins", "export PATH=$PWD/target/debug:$PATH"]
                );
                here(&start.join("\n"), &words)
            }
            // A file of its own, as it would be there. Cron sends a mail for every word.
            CRON => {
                fs::write(dir.path().join("backup.sh"), script(block, &words)).unwrap();
                "sh backup.sh >mail 2>&1 || { cat mail; exit 1; }\ntest ! -s mail\n\
                 ddbctl snapshot verify cron-parts/*/*.tar"
                    .into()
            }
            _ => script(block, &words),
        })
        .collect();

    let ran: Ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    let out = ran.out();
    let during = |name: Named| {
        let step = FROM_START_TO_RESTORE.iter().position(|step| *step == name).unwrap();
        let since = out
            .split_once(&format!("==== {step}\n"))
            .unwrap_or_else(|| panic!("{name:?} did not run:\n{}", ran.story()))
            .1;
        since.split("==== ").next().unwrap_or_default()
    };
    for (name, block) in FROM_START_TO_RESTORE.iter().zip(&blocks) {
        if block.language == "console" {
            compare(block, &words, during(*name));
        }
    }
    for name in [BACKUP, BY_HAND, CRON, RESTORE, FEWER] {
        assert!(during(name).contains("sound"), "{name:?}: {}", ran.story());
    }
    for name in [RESTORE, FEWER, SEEDED] {
        assert!(during(name).contains("healthy: 3 nodes ready"), "{name:?}: {}", ran.story());
        assert_eq!(during(name).lines().last(), Some("blue"), "{name:?}: {}", ran.story());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_with_the_line_of_the_unit_file_found_one_cluster() {
    let pages = Page::all();
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let ports: Vec<Port> = (0..3).map(|_| Port::claim()).collect();
    let at = endpoints(&ports);
    let [unit, founding] = [UNIT, FOUNDING].map(|name| find(&pages, name));
    let hosts = ["node1.example:8080", "node2.example:8080", "node3.example:8080"];
    let hosts: Here = hosts.into_iter().zip(at.clone()).collect();

    let mut steps = vec!["mkdir snapshots".to_owned()];
    for own in &at {
        let store = dir.path().join(own.replace(':', "-"));
        let mut words: Here = vec![
            ("--advertise node1.example:8080", format!("--advertise {own}")),
            ("0.0.0.0:8080", own.clone()),
            ("/var/lib/devicedb", store.display().to_string()),
            ("/var/backups/devicedb", dir.path().join("snapshots").display().to_string()),
        ];
        words.extend(hosts.clone());
        steps.push(format!("{} &", script(&unit, &words).trim_end()));
    }
    steps.push(script(&founding, &hosts));
    let ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    ran.says("the cluster is founded").says("healthy: 3 nodes ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secured_cluster_comes_from_nothing_as_it_is_written() {
    let pages = Page::all();
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let ports: Vec<Port> = (0..3).map(|_| Port::claim()).collect();
    let at = endpoints(&ports);
    let words: Here = vec![
        ("127.0.0.1:8080", at[0].clone()),
        ("127.0.0.1:8181", at[1].clone()),
        ("127.0.0.1:8282", at[2].clone()),
        ("/tmp/ddb-secured", dir.path().join("secured").display().to_string()),
    ];
    let steps: Vec<String> =
        SECURED.iter().map(|name| script(&find(&pages, *name), &words)).collect();
    let ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    assert!(ran.out().lines().any(|line| line == "blue"), "{}", ran.story());
    let ran = ran.says("healthy: 3 nodes ready").says("spiffe://acme/ns/backup/*");
    let ran = ran.says("devicedb/admin/ops").says("the certificate says so");
    ran.says("nightly").says("holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_backup_is_taken_and_comes_back_as_it_is_written() {
    let pages = Page::all();
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let ports: Vec<Port> = (0..3).map(|_| Port::claim()).collect();
    let at = endpoints(&ports);
    let words: Here = vec![
        ("127.0.0.1:8080", at[0].clone()),
        ("127.0.0.1:8181", at[1].clone()),
        ("127.0.0.1:8282", at[2].clone()),
        ("/tmp/ddb-sealed", dir.path().join("sealed").display().to_string()),
    ];
    let steps: Vec<String> =
        SEALED.iter().map(|name| script(&find(&pages, *name), &words)).collect();
    let ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    let (taken, back) = ran
        .out()
        .split_once("==== 1\n")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("both blocks run");
    assert!(taken.contains("NOT opened") && taken.contains("and opened"), "{}", ran.story());
    assert!(back.lines().any(|line| line == "blue"), "{}", ran.story());
    assert!(back.contains("these parts bring the cluster back"), "{}", ran.story());
    assert!(!back.contains("sealed to"), "{}", ran.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_uploaded_as_it_is_written() {
    let pages = Page::all();
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let ports: Vec<Port> = (0..3).map(|_| Port::claim()).collect();
    let at = endpoints(&ports);
    let words: Here = vec![
        ("127.0.0.1:8080", at[0].clone()),
        ("127.0.0.1:8181", at[1].clone()),
        ("127.0.0.1:8282", at[2].clone()),
        ("/tmp/ddb-uploads", dir.path().join("uploads").display().to_string()),
    ];
    let steps: Vec<String> =
        UPLOADED.iter().map(|name| script(&find(&pages, *name), &words)).collect();
    let ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    ran.says("repository = repository").says("of them new").says(": sound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_sealed_and_opened_as_it_is_written() {
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let words: Here = vec![("/tmp/ddb-vault", dir.path().join("vault").display().to_string())];
    let pages = Page::all();
    let steps: Vec<String> =
        VAULT.iter().map(|name| script(&find(&pages, *name), &words)).collect();
    let ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    ran.says("and sealed").says("age1").says("key.hex holds the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_signed_and_trusted_as_it_is_written() {
    let dir = TempDir::with_prefix("devicedb-readme-").unwrap();
    let words: Here = vec![("/tmp/ddb-signed", dir.path().join("signed").display().to_string())];
    let steps = [script(&find(&Page::all(), SIGNED), &words)];
    let ran = shell(&session(&steps, dir.path()), SESSION).await.exits(0);
    ran.says("is signed by ed25519-").says("signed by   ed25519-");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_commands_of_a_recovery_bring_two_of_four_nodes_back() {
    let pages = Page::all();
    let [inspect, plan, apply] = [INSPECT, PLAN, APPLY].map(|name| find(&pages, name));
    let options = Options { replication_factor: 4, ..Options::default() };
    let mut cluster = Cluster::start(4, options).await;
    let client = cluster.client();
    client.add_site("shop").await.unwrap();
    client.put("shop", Bucket::Default, "colour", "blue").await.unwrap();
    let id = client.overview().await.unwrap().cluster_id;
    cluster.kill9_all();
    cluster.nodes.drain(2..);
    let on = |node: usize| -> Here {
        vec![
            ("/var/lib/devicedb", cluster.nodes[node].store.display().to_string()),
            ("> node1.json", format!("> node{}.json", node + 1)),
            ("5f1c8a9e", id[..8].to_owned()),
        ]
    };
    let steps = [
        script(&inspect, &on(0)),
        script(&inspect, &on(1)),
        script(&plan, &Vec::new()),
        script(&apply, &on(0)),
        script(&apply, &on(1)),
    ];
    let ran = shell(&session(&steps, cluster.dir()), SESSION).await.exits(0);
    ran.says("may lack acknowledged writes: yes; sites: shop").says("start their nodes");
    cluster.restart_all().await;
    let client = cluster.client();
    client.put("shop", Bucket::Default, "size", "small").await.unwrap();
    assert_eq!(client.values("shop", Bucket::Default, "size").await.unwrap(), ["small"]);
    assert_eq!(client.overview().await.unwrap().cluster_id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flag_of_start_stands_in_the_document_for_operators() {
    let page = Page::read("docs/operating.md");
    let help = shell("devicedb start --help", SESSION).await.exits(0).out();
    let told = help
        .lines()
        .filter_map(|line| line.trim_start().split(' ').find(|word| word.starts_with("--")));
    let flags: Vec<_> = told.filter(|flag| *flag != "--help").collect();
    assert!(flags.len() > 5, "{help}");
    for flag in flags {
        assert!(
            page.text.contains(&format!("| `{flag}")),
            "docs/operating.md has no row for {flag}"
        );
    }
}

#[test]
fn every_block_of_commands_is_run_or_says_why_it_is_not() {
    let pages = Page::all();
    let alone = FOUNDED_TOGETHER.iter().chain(SECURED).chain(SEALED).chain(UPLOADED);
    let alone = alone.chain(RECOVERY).chain(VAULT).chain([&SIGNED]);
    let run = FROM_START_TO_RESTORE.iter().chain(alone);
    let known: Vec<Named> = run.chain(NOT_RUN.iter().map(|(name, _)| name)).copied().collect();
    known.iter().for_each(|name| drop(find(&pages, *name)));
    // The reference page is written from clap, whose examples `tests/cli/manual.rs` parses.
    let others = pages.iter().filter(|page| page.path != MANUAL);
    let blocks = others.flat_map(Page::commands);
    let strange = blocks.filter(|block| {
        !known.iter().any(|(page, line)| block.page == *page && block.text.contains(line))
    });
    let strange: Vec<_> = strange.map(|block| format!("{}:\n{}", block.page, block.text)).collect();
    assert!(
        strange.is_empty(),
        "blocks of commands that nobody tries: put them into a session of tests/cluster/readme.rs \
         or into NOT_RUN with the reason; what is no command is a block of ```text\n\n{}",
        strange.join("\n")
    );
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let others = ["CHANGELOG.md", "clients/README.md", "tests/compare/README.md"];
    let pages = Page::all().into_iter().chain(others.map(Page::read));
    let broken: Vec<_> = pages.flat_map(|page| page.broken_links()).collect();
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// README.md is the page that one reads first.
#[test]
fn the_readme_is_short_and_compares_what_was_measured() {
    const LINES_MAX: usize = 150;
    let readme = Page::read("README.md");
    let lines = readme.text.lines().count();
    assert!(
        lines <= LINES_MAX,
        "README.md has {lines} lines, and {LINES_MAX} are enough: move what is more to docs/"
    );

    let measured = Page::read("tests/compare/README.md");
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = readme.text.lines().filter(|line| line.starts_with("| 3 | "));
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(rows.len() >= 3, "README.md compares DeviceDB with etcd in three rows at least");
    for row in rows {
        let same = |line: &Vec<String>| line.len() == 9 && line[1..3] == row[1..3];
        let line = measured
            .text
            .lines()
            .map(cells)
            .find(same)
            .unwrap_or_else(|| panic!("nothing measured is called {row:?}"));
        assert_eq!(
            row[3..6],
            [&line[3], &line[6], &line[7]].map(String::clone),
            "README.md: {}",
            row[2]
        );
    }
}
