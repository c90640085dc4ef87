//! The console in a real browser, before a real cluster: what a person sees of one that is well,
//! and of one that has lost a node. It needs Chromium, which `make console` names, and so is no
//! part of `cargo test` without a word. Pictures are left in `target/console`, for people.

#[allow(dead_code, unused_imports, reason = "the tests of the cluster use the rest of it")]
#[path = "../cluster/harness/mod.rs"]
mod harness;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use harness::{Cluster, Options, SOON, eventually, run};

/// Time for a browser to start and to draw.
const DRAWN: Duration = Duration::from_secs(60);

/// A page as a browser has drawn it after some seconds: its document, with a picture of it kept.
async fn drawn(address: &str, name: &str, dark: bool) -> String {
    let browser = std::env::var_os("DEVICEDB_CHROMIUM").expect("`make console` says where it is");
    let pictures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/console");
    fs::create_dir_all(&pictures).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let browse = |further: &[String]| {
        let mut command = Command::new(&browser);
        let url = format!("http://{address}/console");
        // In a container it is root, and cannot make a sandbox.
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
        command.args(["--disable-dev-shm-usage", "--window-size=1280,1500"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.args(["--timeout=8000", "--virtual-time-budget=6000"]).args(further).arg(url);
        run(command, DRAWN)
    };
    let mut further = vec![format!("--screenshot={}", pictures.join(name).display())];
    if dark {
        further.push("--force-dark-mode".into());
        further.push("--blink-settings=preferredColorScheme=0".into());
    }
    browse(&further).await;
    browse(&["--dump-dom".into()]).await.exits(0).out()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_what_works_and_what_one_more_loss_would_mean() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    cluster.client().add_site("shop").await.unwrap();
    let uuid = cluster.ctl(&["snapshot", "create", "--wait"]).await.exits(0).out();
    let uuid =
        uuid.lines().next().and_then(|line| line.strip_prefix("uuid = ")).unwrap().to_owned();
    let at = cluster.nodes[0].endpoint();

    let well = drawn(&at, "well.png", false).await;
    drawn(&at, "dark.png", true).await;
    for words in [
        "groups take reads and writes.",
        "would stop nothing.",
        "live",
        &uuid,
        "completed",
        "1 site",
    ] {
        assert!(well.contains(words), "{words:?} is not in\n{well}");
    }
    for node in &cluster.nodes {
        assert!(well.contains(&node.endpoint()), "{} is not in\n{well}", node.endpoint());
    }
    assert!(!well.contains("unreachable"), "{well}");

    let lost = cluster.nodes[2].endpoint();
    cluster.nodes[2].kill9();
    eventually("the loss is known", SOON, async || {
        let health = cluster.nodes[0].ctl(&["cluster", "health"]).await;
        if health.code == Some(1) { Ok(()) } else { Err(health.story()) }
    })
    .await;
    let hurt = drawn(&at, "hurt.png", false).await;
    for words in ["unreachable", "does not answer.", "whichever, would stop up to 8 groups."] {
        assert!(hurt.contains(words), "{words:?} is not in\n{hurt}");
    }
    assert!(hurt.contains(&format!("{lost} does not answer")), "{hurt}");
}
