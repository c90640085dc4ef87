//! The audit log of real nodes.

use std::{fs, path::Path, time::Duration};

use devicedb::proto::v1::Bucket;

use super::{Leaf, Secured};
use crate::harness::{Node, Options, SOON, eventually};

fn lines(dir: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(dir.join("audit.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The lines of a method, as `event identity subject outcome`.
pub fn told(dir: &Path, method: &str) -> Vec<String> {
    let of = lines(dir).into_iter().filter(|line| line["method"] == method);
    let text = |line: &serde_json::Value, name: &str| {
        line[name].as_str().unwrap_or("-").rsplit('/').next().unwrap_or_default().to_owned()
    };
    of.map(|line| {
        ["event", "identity", "subject", "outcome"].map(|name| text(&line, name)).join(" ")
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changed_what_and_who_was_not_let_is_noted_and_without_that_nothing_is_changed() {
    let mut secured = Secured::prepared(1, Options::default());
    let dir = secured.cluster.dir().join("audit");
    let words = ["--audit-log".to_owned(), dir.display().to_string()];
    secured.cluster.nodes[0].args.extend(words);
    secured.cluster.nodes[0].start();
    secured.answers(0, "/readyz", 200).await;
    secured.settled().await;
    let till = secured.authority.issue("till", &Leaf::client("till"));

    secured.ctl(&["site", "add", "shop"]).await.exits(0);
    assert_eq!(
        told(&dir, "AddSite"),
        ["begins ops site shop -", "ended ops site shop OK"],
        "{:#?}",
        lines(&dir)
    );
    secured.ctl(&["put", "--site", "shop", "the-key", "the-value"]).await.exits(0);
    secured.ctl(&["get", "--site", "shop", "the-key"]).await.exits(0);
    secured.ctl(&["put", "--site", "nowhere", "k", "v"]).await.exits(5);
    secured.ctl_as(0, &till, "put --site shop k v").await.exits(4);
    secured.ctl(&["grant", "add", "*", "reader", "--sites", "a*"]).await.exits(0);
    eventually("what was granted is known", SOON, async || {
        let ran = secured.ctl_as(0, &till, "get --site shop k").await;
        if ran.stderr.contains("on site") { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    let bare = devicedb::net::tls::material::client(&secured.authority.ca_path, None).unwrap();
    let nobody = super::channel(&secured.node(0).endpoint(), &bare).await.unwrap();
    super::doors::public(nobody).await;
    eventually("everything is noted", SOON, async || {
        let puts = told(&dir, "Put");
        let wanted = [
            "ended ops site shop OK".to_owned(),
            "ended ops site nowhere NOT_FOUND".to_owned(),
            "denied till - PERMISSION_DENIED".to_owned(),
        ];
        let nobody = told(&dir, "GetIdentity");
        if puts == wanted && nobody == ["denied - - UNAUTHENTICATED"] {
            Ok(())
        } else {
            Err(format!("{puts:#?} {nobody:#?}"))
        }
    })
    .await;
    assert!(told(&dir, "Get").iter().all(|line| line.starts_with("denied till")));
    assert!(told(&dir, "Get").contains(&"denied till site shop PERMISSION_DENIED".to_owned()));
    let all = fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    assert!(!all.contains("the-key") && !all.contains("the-value"), "{all}");
    assert!(all.contains(r#""from":"127.0.0.1""#) && all.contains(r#""proof":"a certificate""#));

    // No place for it: the cluster stays as it is, and serves on.
    fs::rename(&dir, dir.with_extension("away")).unwrap();
    secured
        .ctl(&["site", "add", "more", "--timeout", "3s"])
        .await
        .exits(3)
        .says("audit log")
        .says("nothing has changed");
    secured.ctl(&["put", "--site", "shop", "k", "v"]).await.exits(0);
    secured.ctl(&["site", "list"]).await.exits(0);
    let page = secured.metrics(0).await;
    assert_eq!(super::number(&page, "devicedb_audit_failed"), 1, "{page}");
    assert!(super::number(&page, "devicedb_audit_lines_lost_total") > 0, "{page}");
    fs::create_dir(&dir).unwrap();
    secured.ctl(&["site", "add", "more"]).await.exits(0);
    assert_eq!(super::number(&secured.metrics(0).await, "devicedb_audit_failed"), 0);

    let mut refused: Node = secured.cluster.further();
    let file = secured.cluster.dir().join("file");
    fs::write(&file, "").unwrap();
    refused.args.extend(["--audit-log".to_owned(), file.display().to_string()]);
    refused.start_refused().await.says("the audit log in").says("file");
}

fn noting(node: &mut Node, dir: &Path) {
    node.args.extend(["--audit-log".to_owned(), dir.display().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founding_is_noted_and_so_is_a_write_whose_caller_does_not_wait() {
    let mut secured = Secured::prepared(2, Options { replication_factor: 2, ..Options::default() });
    let dir = secured.cluster.dir().join("audit");
    let both: Vec<String> = secured.cluster.nodes.iter().map(Node::endpoint).collect();
    for node in &mut secured.cluster.nodes {
        crate::founding::told_to_join(node, &both.join(","));
        node.args.push("--replication-factor=2".into());
    }
    noting(&mut secured.cluster.nodes[0], &dir);
    for node in &mut secured.cluster.nodes {
        node.start();
    }
    let ops = secured.ops.clone();
    eventually("both wait for somebody to found", SOON, async || {
        let ran = secured.ctl_as(0, &ops, "cluster init").await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.story()) }
    })
    .await;
    let founded = told(&dir, "InitCluster");
    assert!(founded.contains(&"ended ops - OK".to_owned()), "{founded:#?}");
    assert!(founded[0].starts_with("begins ops"), "{founded:#?}");
    secured.settled().await;

    let client = secured.client(0).await;
    client.add_site("shop").await.unwrap();
    secured.cluster.nodes[1].pause().await;
    eventually("a write that nobody waited for is noted", SOON, async || {
        let put = client.put("shop", Bucket::Default, "k", "v");
        let left = tokio::time::timeout(Duration::from_millis(200), put).await;
        let puts = told(&dir, "Put");
        if left.is_err() && puts.contains(&"ended ops site shop CALLER_GONE".to_owned()) {
            Ok(())
        } else {
            Err(format!("{puts:#?}"))
        }
    })
    .await;
    secured.cluster.nodes[1].resume();
}
