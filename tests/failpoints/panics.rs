//! Every thread and task of a node panics once: the node ends with the reason, or the part is
//! `failed`, or the request fails alone.
//!
//! What it has to end with is what its `Role` says (`Takes`); `provoke` brings about that it runs.

use bytes::Bytes;
use devicedb::{
    base::crew::{Role, Takes},
    faults::failpoint::Failpoint,
    proto::v1::{Bucket, SnapshotStatus},
};

use crate::{
    crash::{Crash, Prepared, ask_for_snapshot, until_done},
    harness::{Cluster, Node, SOON, eventually, http_get, shell},
    one::with_repository,
};

const PANICKED: &str = "DEVICEDB_PANIC says so";
const LINES_LOST: &str = "devicedb_stderr_lines_lost_total ";
const SPANS_LOST: &str = "devicedb_trace_spans_total{outcome=\"lost\"} ";
const NAME: Bytes = Bytes::from_static(&[8; 16]);

/// What brings a thread or task about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Start,
    Stop,
    /// A start that is told of another node.
    StartWithJoin,
    /// A start of a node that has certificates.
    StartWithCertificates,
    /// A start of a node that keeps an audit log.
    StartWithAudit,
    /// A start of a node that has a collector of traces.
    StartWithCollector,
    Snapshot,
    /// A start behind a snapshot of whose part the cluster has not heard.
    StartBehindSnapshot,
    Delete,
    Scan,
    Download,
    /// An upload of a snapshot.
    Upload,
    /// A run of a schedule.
    Scheduled,
    /// A start of a node that has a repository.
    StartWithRepository,
    /// A download of another node's part.
    DownloadOfAnother,
    Overview,
    /// A node that joins, and so gets a stream and rows.
    Newcomer,
    /// The same, and it is the newcomer that panics.
    Joining,
}

fn cause(role: Role) -> Cause {
    use Role::*;
    match role {
        Engine | Store | Start | StartingServer | Doors | News | Rows | Announce | Parts
        | Health | Readers | Disk | DiskLook | Journal | Manager | Operations | Schedules => {
            Cause::Start
        }
        Stop => Cause::Stop,
        Meet => Cause::StartWithJoin,
        Certificates => Cause::StartWithCertificates,
        Audit => Cause::StartWithAudit,
        Traces => Cause::StartWithCollector,
        Part | Capture | Finish | Report => Cause::Snapshot,
        Lying => Cause::StartBehindSnapshot,
        Delete | Remove => Cause::Delete,
        Scan => Cause::Scan,
        Download => Cause::Download,
        Upload => Cause::Upload,
        Run => Cause::Scheduled,
        Repository => Cause::StartWithRepository,
        Relay => Cause::DownloadOfAnother,
        Ask => Cause::Overview,
        Speak | Listen | Ship | CopyRows => Cause::Newcomer,
        CheckRows => Cause::Joining,
    }
}

/// How a story is called in what a run prints.
pub fn title(role: Role) -> String {
    format!("{:?}: a panic of `{}` takes the {:?}", cause(role), role.name(), role.takes())
}

pub async fn story(role: Role, prepared: &Prepared) {
    let mut cluster = prepared.copy().await;
    if cause(role) == Cause::StartBehindSnapshot {
        let crash = Crash { point: Failpoint::CaptureInPlace, pass: 1 };
        let asking = ask_for_snapshot(cluster.clients(), NAME);
        crash.kills(&mut cluster.nodes, asking).await;
    }
    if matches!(cause(role), Cause::Upload | Cause::Scheduled | Cause::StartWithRepository) {
        with_repository(&mut cluster).await;
    }
    if cause(role) == Cause::StartWithJoin {
        let nobody = cluster.further().endpoint();
        // It has founded, and is told where others are now.
        cluster.nodes[0].args.retain(|word| word != "--found");
        cluster.nodes[0].args.extend(["--join".to_owned(), nobody]);
    }
    if cause(role) == Cause::StartWithAudit {
        let dir = cluster.dir().join("audit").display().to_string();
        cluster.nodes[0].args.extend(["--audit-log".to_owned(), dir]);
    }
    if cause(role) == Cause::StartWithCollector {
        let nobody = format!("http://{}", cluster.further().endpoint());
        let words = ["--otlp-endpoint", &nobody, "--otlp-share", "100%"];
        cluster.nodes[0].args.extend(words.map(str::to_owned));
    }
    if cause(role) == Cause::StartWithCertificates {
        let dir = cluster.dir().join("certs").display().to_string();
        let make = format!(
            "ddbctl cert init --dir {dir} && ddbctl cert node a --host 127.0.0.1 --dir {dir}"
        );
        shell(&make, SOON).await.exits(0);
        let files = ["cert node-a.crt", "key node-a.key", "ca ca.crt"];
        let words = files
            .iter()
            .filter_map(|file| file.split_once(' '))
            .flat_map(|(flag, file)| [format!("--tls-{flag}"), format!("{dir}/{file}")]);
        cluster.nodes[0].args.extend(words);
    }
    let panics = ["env", &format!("DEVICEDB_PANIC={}", role.name())].map(str::to_string).to_vec();
    if cause(role) == Cause::Joining {
        cluster.nodes[0].start();
        let mut newcomer = cluster.further();
        newcomer.under = panics;
        newcomer.start();
        cluster.nodes.push(newcomer);
    } else {
        cluster.nodes[0].under = panics;
        cluster.nodes[0].start();
    }
    match role.takes() {
        Takes::Node => ends(role, &mut cluster, prepared).await,
        _ => goes_on(role, &mut cluster, prepared).await,
    }
}

async fn ends(role: Role, cluster: &mut Cluster, prepared: &Prepared) {
    let client = cluster.client();
    match cause(role) {
        Cause::Stop => {
            cluster.nodes[0].wait_ready().await;
            cluster.nodes[0].signal_to_stop();
        }
        Cause::Snapshot => ask_for_snapshot(cluster.clients(), NAME).await,
        // It ends before it answers, or after.
        Cause::Delete => drop({
            cluster.nodes[0].wait_ready().await;
            client.delete_snapshot(&prepared.uuid).await
        }),
        Cause::Newcomer => {
            let mut newcomer = cluster.further();
            newcomer.start();
            cluster.nodes.push(newcomer);
        }
        _ => {}
    }
    let node = &mut cluster.nodes[0];
    let status = node.wait_ended().await;
    assert_eq!(status.code(), Some(1), "{}", node.log_end());
    let last = node.log().lines().last().unwrap_or_default().to_owned();
    assert!(
        last.starts_with(&format!("devicedb: `{}` has panicked: {PANICKED}", role.name())),
        "the last line is not the reason: {last}"
    );
}

async fn goes_on(role: Role, cluster: &mut Cluster, prepared: &Prepared) {
    cluster.nodes[0].wait_ready().await;
    let client = cluster.client();
    match cause(role) {
        Cause::Snapshot | Cause::StartBehindSnapshot => {
            let uuid = until_done(async || client.create_snapshot_named(NAME).await).await.uuid;
            let part = client.snapshot_resolved(&uuid, SOON).await.parts.remove(0);
            assert_eq!(part.status(), SnapshotStatus::Failed, "{part:#?}");
            assert!(part.reason.contains(&format!("`{}` has panicked", role.name())), "{part:#?}");
        }
        Cause::Delete => {
            // Whether the request removes the files or what follows it, the other one does it then.
            let _ = client.delete_snapshot(&prepared.uuid).await;
            eventually("the part is gone", SOON, async || {
                match client.download(&prepared.uuid, 0, 0).await.1 {
                    Err(e) if e.code() == tonic::Code::NotFound => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        Cause::Scan => {
            let broken = client
                .scan("pier", Bucket::Default, "")
                .await
                .expect_err("an end would look like all there is");
            assert!(broken.message().contains("`scan` has panicked"), "{broken:?}");
            assert!(!client.scan("pier", Bucket::Default, "").await.unwrap().is_empty());
        }
        Cause::Download => {
            let broken =
                client.download(&prepared.uuid, 0, 0).await.1.expect_err("the first one panics");
            assert!(broken.message().contains("`download` has panicked"), "{broken:?}");
            client.download(&prepared.uuid, 0, 0).await.1.unwrap();
        }
        Cause::Upload => {
            let panicked = "`upload` has panicked";
            let (ctl, uuid) = (&cluster.nodes[0], &prepared.uuid);
            ctl.ctl(&["snapshot", "upload", uuid]).await.exits(1).says(panicked);
            ctl.ctl(&["snapshot", "upload", uuid]).await.exits(0).says("stored = ");
        }
        Cause::Scheduled => {
            let ctl = &cluster.nodes[0];
            ctl.ctl(&["schedule", "create", "monthly", "--cron", "@monthly"]).await.exits(0);
            let run = ["schedule", "run", "monthly", "--wait"];
            ctl.ctl(&run).await.exits(1).says("`run` has panicked");
            ctl.ctl(&run).await.exits(0).says("is in the repository");
        }
        Cause::StartWithRepository => {
            let ctl = &cluster.nodes[0];
            ctl.says(PANICKED).await;
            ctl.ctl(&["snapshot", "upload", &prepared.uuid]).await.exits(0).says("stored = ");
        }
        Cause::DownloadOfAnother => {
            cluster.nodes.push(joined(cluster).await);
            cluster.settled().await;
            let snapshot = client.complete_snapshot(SOON).await;
            let other = snapshot
                .parts
                .iter()
                .find(|part| part.address != client.endpoint)
                .expect("the newcomer has a part");
            let broken = client
                .download(&snapshot.uuid, other.node_id, 0)
                .await
                .1
                .expect_err("the first one panics");
            assert!(broken.message().contains("`relay` has panicked"), "{broken:?}");
            client.download(&snapshot.uuid, other.node_id, 0).await.1.unwrap();
        }
        Cause::Overview => {
            assert!(!client.overview().await.unwrap().nodes[0].reachable, "it was not heard of");
            assert!(client.overview().await.unwrap().nodes[0].reachable);
        }
        Cause::Newcomer => cluster.nodes.push(joined(cluster).await),
        Cause::Start | Cause::StartWithCollector | Cause::Joining => {}
        other => unreachable!("{other:?} ends the node"),
    }
    cluster.settled().await;
    client.put("pier", Bucket::Default, "after", "the panic").await.unwrap();
    client.complete_snapshot(SOON).await;
    if role.takes() == Takes::Lines {
        // A backtrace may have to be drawn first.
        let lost = if role == Role::Traces { SPANS_LOST } else { LINES_LOST };
        return eventually("what is lost is counted", SOON, async || {
            let (_, metrics) = http_get(&client.endpoint, "/metrics").await.unwrap();
            match metrics.lines().find(|line| line.starts_with(lost)) {
                Some(line) if !line.ends_with(" 0") => Ok(()),
                line => Err(format!("{line:?}")),
            }
        })
        .await;
    }
    let at = if cause(role) == Cause::Joining { 1 } else { 0 };
    eventually("the log tells of the panic", SOON, async || {
        if cluster.nodes[at].log().contains(PANICKED) { Ok(()) } else { Err("not yet") }
    })
    .await;
}

async fn joined(cluster: &Cluster) -> Node {
    let mut newcomer = cluster.further();
    newcomer.start();
    newcomer.wait_ready().await;
    newcomer
}
