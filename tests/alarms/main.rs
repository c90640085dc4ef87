//! The alarms and the dashboard that are shipped, in a real Prometheus server that scrapes a real
//! cluster. It needs Prometheus' programs, which `make alarms` gets, and so is no part of `cargo
//! test` without a word. What each alarm does minute by minute is in
//! `deploy/prometheus/tests.yaml`.

#[allow(dead_code, unused_imports, reason = "the tests of the cluster use the rest of it")]
#[path = "../cluster/harness/mod.rs"]
mod harness;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use harness::{Cluster, Options, Port, SOON, eventually, shell};

/// A GET over HTTP/1.0, whose answer comes in one piece: its body.
async fn get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: text/plain\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok(body.to_owned())
}

/// Where `make alarms` has put Prometheus' programs.
fn programs() -> PathBuf {
    let at = std::env::var_os("DEVICEDB_PROMETHEUS").expect("`make alarms` says where they are");
    PathBuf::from(at)
}

/// A server that is killed with the test.
struct Prometheus {
    process: Child,
    port: Port,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// With the configuration that the document shows, but for addresses and how often it looks.
    fn start(dir: &Path, targets: &[String]) -> Prometheus {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = fs::read_to_string(home.join("docs/metrics.md")).unwrap();
        let (_, rest) = page.split_once("```yaml\n").unwrap();
        let (config, _) = rest.split_once("```").unwrap();
        let shown = config.lines().find(|line| line.contains("targets:")).unwrap();
        let (before, _) = shown.split_once('[').unwrap();
        let config = config.replace(shown, &format!("{before}{targets:?}"));
        let config = config.replace(": 15s", ": 1s");
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        fs::copy(home.join("deploy/prometheus/rules.yaml"), dir.join("rules.yaml")).unwrap();
        let (port, log) = (Port::claim(), File::create(dir.join("prometheus.log")).unwrap());
        let process = Command::new(programs().join("prometheus"))
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address={}", port.endpoint()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Prometheus { process: process.unwrap(), port }
    }

    async fn ask(&self, path: &str) -> Result<Value, String> {
        let body = get(&self.port.endpoint(), path).await.map_err(|e| e.to_string())?;
        let answer: Value = serde_json::from_str(&body).map_err(|e| format!("{e}: {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(body) }
    }

    /// Of all alarms the health, and which of them wait or fire.
    async fn alarms(&self) -> Result<(Vec<String>, BTreeSet<String>), String> {
        let groups = self.ask("/api/v1/rules").await?;
        let rules = groups["groups"][0]["rules"].as_array().ok_or("no rules")?.clone();
        let health = rules.iter().map(|rule| rule["health"].as_str().unwrap().to_owned());
        let active = rules.iter().filter(|rule| rule["state"] != "inactive");
        let active = active.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect();
        Ok((health.collect(), active))
    }
}

/// What the panels of the dashboard ask, for the job and the time that Grafana would put in.
fn every_question() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/devicedb.json");
    let board: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let asked = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    asked.map(|expr| expr.replace("$job", "devicedb").replace("$__rate_interval", "10s")).collect()
}

/// As a value in the query of a URL.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_server_reads_everything_and_sounds_the_alarms() {
    let mut cluster = Cluster::start(3, Options::default()).await;
    for node in &cluster.nodes {
        let check = programs().join("promtool");
        let page = get(&node.endpoint(), "/metrics").await.unwrap();
        let file = cluster.dir().join("page.txt");
        fs::write(&file, page).unwrap();
        shell(&format!("{} check metrics <{}", check.display(), file.display()), SOON)
            .await
            .exits(0);
    }
    let client = cluster.client();
    client.add_site("pier").await.unwrap();
    client.complete_snapshot(SOON).await;
    let targets: Vec<_> = cluster.nodes.iter().map(|node| node.endpoint()).collect();
    let prometheus = Prometheus::start(cluster.dir(), &targets);
    eventually("all three are scraped", SOON, async || {
        let up = prometheus.ask("/api/v1/query?query=up").await?;
        let results = up["result"].as_array().ok_or("no result")?;
        let here = results.iter().filter(|result| result["value"][1] == "1").count();
        if here == 3 { Ok(()) } else { Err(up.to_string()) }
    })
    .await;
    eventually("all alarms are evaluated, and none is raised", SOON, async || {
        let (health, active) = prometheus.alarms().await?;
        let fine = health.len() > 20 && health.iter().all(|health| health == "ok");
        if fine && active.is_empty() { Ok(()) } else { Err(format!("{health:?} {active:?}")) }
    })
    .await;
    // All that has happened at least once is known by the name that the table gives it.
    let names = prometheus.ask("/api/v1/label/__name__/values").await.unwrap();
    for name in [
        "devicedb_build_info",
        "devicedb_groups_led",
        "devicedb_log_entries_total",
        "devicedb_log_sync_duration_seconds_bucket",
        "devicedb_node_silent_seconds",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ] {
        assert!(names.as_array().unwrap().contains(&name.into()), "no {name} in {names}");
    }

    let every = every_question();
    assert!(every.len() > 20, "{every:?}");
    for asked in every {
        let path = format!("/api/v1/query?query={}", escaped(&asked));
        // Nobody has been refused, and no schedule is there.
        let nothing = ["!=", "schedule", "repository_last"].iter().any(|word| asked.contains(word));
        eventually(&format!("an answer to {asked}"), SOON, async || {
            let answer = prometheus.ask(&path).await?;
            let some = answer["result"].as_array().is_some_and(|result| !result.is_empty());
            if some != nothing { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    }

    cluster.nodes[2].kill9();
    eventually("the lost node is seen", SOON, async || {
        let (_, active) = prometheus.alarms().await?;
        let wanted = ["DeviceDBNodeDown", "DeviceDBGroupsUnderReplicated"];
        if wanted.iter().all(|name| active.contains(*name)) {
            Ok(())
        } else {
            Err(format!("{active:?}"))
        }
    })
    .await;
}
