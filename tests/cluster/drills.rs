//! Rehearsed restores: `ddbctl repository drill`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    harness::{SOON, binary, ended, eventually, shell},
    seeds::{FAILED, Place, SITES, content, small},
};

const UNKNOWN: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";

/// A drill is said as an operator says it, and its verdict is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_passes_where_a_restore_would_and_says_what_a_restore_would_meet() {
    let (cluster, place, uuid) = small(2).await;
    let scratch = cluster.dir().join("scratch");
    let drill = |words: &str| {
        let (place, scratch) = (place.path.display(), scratch.display());
        let line = format!("ddbctl -o json repository drill {place} --scratch {scratch} {words}");
        async move { shell(&line, SOON).await }
    };
    let client = cluster.client();
    let before = content(&client, &SITES).await;
    let check = "--check 'ddbctl get --site pier colour' --keep-report --rto 5m --rpo 1h";
    // What nodes are told by their environment does not reach the node of a drill.
    let line = format!("export DEVICEDB_JOIN={}; ", client.endpoint);
    let words =
        format!("repository drill {} --scratch {}", place.path.display(), scratch.display());
    let ran = shell(&format!("{line}ddbctl -o json {words} {check}"), SOON).await.exits(0);
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["snapshot"], uuid, "{report}");
    assert_eq!((&report["sites"], &report["partitions"]), (&8.into(), &64.into()), "{report}");
    let wanted: u64 = place.partitions(&uuid).iter().map(|(_, rows, _)| rows).sum();
    assert_eq!(report["rows"], wanted, "{report}");
    assert!(report["phases"]["check_s"].as_f64() >= report["phases"]["compare_s"].as_f64());
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "nothing stays");
    let status = shell(&format!("ddbctl repository status {}", place.path.display()), SOON).await;
    status.exits(0).says("last drill  passed at");
    assert_eq!(content(&client, &SITES).await, before, "production knows nothing of it");

    // What does not pass is no error of the program, and says why.
    let no = drill("--rpo 1ms --check 'exit 3'").await.exits(6);
    no.says("the objective").says("exit status: 3").says("has not passed");
    let segment = place.object("/g/");
    let whole = fs::read(&segment).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&segment, flipped).unwrap();
    drill("").await.exits(6).says("the node has ended").says("/g/");
    fs::write(&segment, whole).unwrap();
    drill("--devicedb /nowhere/devicedb").await.exits(6).says("name it with --devicedb");
    drill(&format!("--point {UNKNOWN}")).await.exits(5).says("has no snapshot");
    fs::write(scratch.join("letter.txt"), "x").unwrap();
    drill("").await.exits(FAILED).says("is not empty");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 1, "what was there stays");
}

/// A drill that stands in its middle until it is let go: its `--check` waits for a word.
struct Midway {
    child: Child,
    /// Where its node is.
    endpoint: String,
    word: PathBuf,
    said: PathBuf,
}

impl Midway {
    async fn start(dir: &Path, name: &str, place: &Place, scratch: &Path) -> Midway {
        let at = |kind: &str| dir.join(format!("{name}.{kind}"));
        let (word, told, said) = (at("word"), at("told"), at("said"));
        shell(&format!("mkfifo {}", word.display()), SOON).await.exits(0);
        let check = format!(
            "echo $DDBCTL_ENDPOINT > {0}.new && mv {0}.new {0} && read word < {1}",
            told.display(),
            word.display()
        );
        let child = spawn(place, scratch, &["--check", &check], &said);
        let mut drill = Midway { child, endpoint: String::new(), word, said };
        drill.endpoint = eventually("the drill has come to its check", SOON, async || {
            let ended = drill.child.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended: {}", drill.said());
            fs::read_to_string(&told).map(|told| told.trim().to_owned())
        })
        .await;
        drill
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Says the word that the check waits for.
    fn let_go(&self) {
        fs::write(&self.word, "on\n").unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        ended(&mut self.child, "the drill ends", SOON).await
    }
}

impl Drop for Midway {
    fn drop(&mut self) {
        // It waits for a word, also where the test has failed. It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A drill that has just begun.
fn spawn(place: &Place, scratch: &Path, words: &[&str], said: &Path) -> Child {
    // Below nohup nobody would hear a hangup.
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP").arg(binary("ddbctl")).args(["repository", "drill"]);
    command.arg(&place.path).arg("--scratch").arg(scratch).args(words);
    let said = File::create(said).unwrap();
    command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap()
}

/// The processes that have all these words in their command line.
fn processes(words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().map(Result::unwrap) {
        // One that has just ended is gone.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if words.iter().all(|word| line.contains(word)) {
            found.push(line);
        }
    }
    found
}

fn nodes(scratch: &Path) -> Vec<String> {
    processes(&["--end-with-stdin", scratch.to_str().unwrap()])
}

fn left(scratch: &Path) -> usize {
    fs::read_dir(scratch).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_told_to_end_takes_its_node_and_its_directory_with_it() {
    let (cluster, place, _) = small(1).await;
    let scratch = cluster.dir().join("scratch");
    for (name, signal) in [("term", Signal::TERM), ("hup", Signal::HUP), ("int", Signal::INT)] {
        let mut drill = Midway::start(cluster.dir(), name, &place, &scratch).await;
        assert_eq!((nodes(&scratch).len(), left(&scratch)), (1, 1), "{signal:?}");
        kill_process(Pid::from_child(&drill.child), signal).unwrap();
        let code = drill.ended().await.code();
        assert_eq!(code, Some(128 + signal.as_raw()), "{signal:?}: {}", drill.said());
        assert!(drill.said().contains("interrupted: the drill is given up"), "{}", drill.said());
        // At once: it has waited for all of it.
        assert_eq!(nodes(&scratch), [""; 0], "{signal:?}");
        assert_eq!(left(&scratch), 0, "{signal:?}");
        assert_eq!(processes(&[drill.word.to_str().unwrap()]), [""; 0], "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_that_is_killed_leaves_no_node_and_its_directory_goes_with_the_next() {
    let (cluster, place, _) = small(1).await;
    let scratch = cluster.dir().join("scratch");
    let no_node = async || {
        eventually("the node ends with the drill", SOON, async || match &nodes(&scratch)[..] {
            [] => Ok(()),
            left => Err(left.join("\n")),
        })
        .await
    };
    // When its node has just begun.
    let said = cluster.dir().join("early.said");
    let mut early = spawn(&place, &scratch, &[], &said);
    eventually("the node of the drill is started", SOON, async || {
        let said = fs::read_to_string(&said).unwrap();
        if said.contains("restoring snapshot") { Ok(()) } else { Err(said) }
    })
    .await;
    early.kill().unwrap();
    early.wait().unwrap();
    no_node().await;
    assert_eq!(left(&scratch), 1);

    // When all is restored. What the killed one has left goes, and what lives stays.
    let mut killed = Midway::start(cluster.dir(), "killed", &place, &scratch).await;
    assert_eq!((nodes(&scratch).len(), left(&scratch)), (1, 1));
    let mut lives = Midway::start(cluster.dir(), "lives", &place, &scratch).await;
    assert_ne!(killed.endpoint, lives.endpoint);
    assert_eq!((nodes(&scratch).len(), left(&scratch)), (2, 2), "both live");
    killed.child.kill().unwrap();
    killed.ended().await;
    // Its command is the operator's, and nothing ends it but what it waits for.
    killed.let_go();
    eventually("its node ends", SOON, async || match &nodes(&scratch)[..] {
        [_] => Ok(()),
        nodes => Err(nodes.join("\n")),
    })
    .await;
    assert_eq!(left(&scratch), 2);
    let line = format!(
        "ddbctl -o json repository drill {} --scratch {}",
        place.path.display(),
        scratch.display()
    );
    let report: serde_json::Value =
        serde_json::from_slice(&shell(&line, SOON).await.exits(0).stdout).unwrap();
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!((nodes(&scratch).len(), left(&scratch)), (1, 1), "one drill lives");
    lives.let_go();
    assert_eq!(lives.ended().await.code(), Some(0), "{}", lives.said());
    assert!(lives.said().contains("PASSED"), "{}", lives.said());
    no_node().await;
    assert_eq!(left(&scratch), 0);
}

/// The disk is its own, in a namespace of mounts, and has room for the rows and for little else.
#[tokio::test(flavor = "multi_thread")]
async fn a_drill_on_a_disk_that_is_full_says_so_and_leaves_nothing() {
    let (cluster, place, _) = small(1).await;
    let scratch = cluster.dir().join("scratch").display().to_string();
    fs::create_dir(&scratch).unwrap();
    let inner = r#"mount -t tmpfs -o size=512k none "$0"; "$@"; code=$?; ls "$0"; exit $code"#;
    let line = format!(
        "unshare --user --map-root-user --mount sh -c '{inner}' {scratch} ddbctl -o json \
         repository drill {} --scratch {scratch}",
        place.path.display()
    );
    let ran = shell(&line, SOON).await.exits(6);
    let text = ran.out();
    let ran = ran.says("the node has ended").says("are free on the disk: make room");
    assert!(text.trim_end().ends_with('}'), "something is left: {}", ran.story());
}
