//! The chart of `deploy/helm`, run: what it renders is read as Kubernetes reads it, and its pods,
//! jobs and volumes become processes and directories of this machine.
//!
//! `make chart` renders the manifests of `tests/golden/helm/` and checks them against Kubernetes'
//! own schemas. The only words that are changed here are addresses and directories.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_norway::Value;
use tempfile::TempDir;

use crate::harness::{Node, Port, Ran, binary, run};

/// As long as a job of the chart may take here.
const JOB: Duration = Duration::from_secs(120);

struct Manifests(Vec<Value>);

impl Manifests {
    fn read(name: &str) -> Manifests {
        let path = format!("{}/tests/golden/helm/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let documents = text.split("\n---").map(|one| serde_norway::from_str(one).unwrap());
        Manifests(documents.filter(|one| *one != Value::Null).collect())
    }

    fn find(&self, kind: &str, end: &str) -> &Value {
        let named = |one: &&Value| {
            one["kind"] == *kind && one["metadata"]["name"].as_str().unwrap().ends_with(end)
        };
        self.0.iter().find(named).unwrap_or_else(|| panic!("there is no {kind} {end}"))
    }
}

fn words(value: &Value) -> Vec<String> {
    let list = value.as_sequence().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The machines that pods run on: each with a port and two volumes.
struct Machines {
    dir: TempDir,
    /// By the name by which other pods reach them.
    ports: BTreeMap<String, String>,
    nodes: Vec<Node>,
}

impl Machines {
    fn for_pods_of(set: &Value) -> Machines {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (name, service) = (text(&set["metadata"]["name"]), text(&set["spec"]["serviceName"]));
        let replicas = set["spec"]["replicas"].as_u64().unwrap();
        let mut machines =
            Machines { dir: tempfile::tempdir().unwrap(), ports: BTreeMap::new(), nodes: vec![] };
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        let pods: Vec<(String, Port)> =
            (0..replicas).map(|number| (format!("{name}-{number}"), Port::claim())).collect();
        for (pod, port) in &pods {
            let known = format!("{pod}.{service}.default.svc.cluster.local:8080");
            machines.ports.insert(known, port.endpoint());
        }
        for (pod, port) in pods {
            let home = machines.dir.path().join(&pod);
            for volume in ["data", "snapshots"] {
                fs::create_dir_all(home.join(volume)).unwrap();
            }
            let args: Vec<String> = words(&container["args"])
                .iter()
                .map(|word| {
                    let word = word
                        .replace("$(POD)", &pod)
                        .replace("0.0.0.0:8080", &port.endpoint())
                        .replace("/var/lib/devicedb", home.join("data").to_str().unwrap())
                        .replace("/var/lib/snapshots", home.join("snapshots").to_str().unwrap());
                    machines.here(&word)
                })
                .collect();
            let (dir, store) = (machines.dir.path(), home.join("data/store"));
            machines.nodes.push(Node::new(&pod, port, dir, store, args));
        }
        machines
    }

    /// Words with the addresses of this machine.
    fn here(&self, words: &str) -> String {
        self.ports.iter().fold(words.to_owned(), |words, (known, here)| words.replace(known, here))
    }

    /// Runs a container of a job to its end.
    async fn contained(&self, container: &Value) -> Ran {
        assert_eq!(words(&container["command"]), ["/usr/bin/ddbctl"]);
        let mut command = std::process::Command::new(binary("ddbctl"));
        command.args(words(&container["args"]).iter().map(|word| self.here(word)));
        for variable in container["env"].as_sequence().unwrap() {
            let [name, value] = ["name", "value"].map(|field| variable[field].as_str().unwrap());
            command.env(name, self.here(value));
        }
        run(command, JOB).await
    }

    /// Runs a job: one container after the other, each until it succeeds.
    async fn job(&self, job: &Value) {
        let pod = &job["spec"]["template"]["spec"];
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_sequence().unwrap() {
                self.contained(container).await.exits(0);
            }
        }
    }
}

/// What a container asks to know whether the node is ready.
fn probe<'a>(set: &'a Value, name: &str) -> &'a str {
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    container[name]["httpGet"]["path"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_chart_renders_founds_survives_pods_and_volumes_and_shrinks() {
    let four = Manifests::read("four");
    let set = four.find("StatefulSet", "devicedb");
    assert_eq!(probe(set, "livenessProbe"), "/healthz");
    assert_eq!(probe(set, "readinessProbe"), "/readyz");
    let mut machines = Machines::for_pods_of(set);
    for node in &mut machines.nodes {
        node.start();
    }
    // They wait for the job, which founds once, however often it runs.
    for node in &machines.nodes {
        node.wait_unready("cluster init").await;
    }
    for _ in 0..2 {
        machines.job(four.find("Job", "-found")).await;
    }
    for node in &mut machines.nodes {
        node.wait_ready().await;
    }

    // A pod is killed and started again.
    machines.nodes[1].kill9();
    machines.nodes[1].start();
    machines.nodes[1].wait_ready().await;

    // A volume is lost: the pod joins as a new node, and the old one is removed by its id.
    let listed = machines.nodes[0].ctl(&["-o", "json", "node", "list"]).await.exits(0);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let at = machines.nodes[2].endpoint();
    let lost = listed["nodes"].as_array().unwrap().iter().find(|node| node["address"] == at);
    let lost = lost.unwrap()["id"].as_str().unwrap().to_owned();
    machines.nodes[2].kill9();
    fs::remove_dir_all(&machines.nodes[2].store).unwrap();
    machines.nodes[2].start();
    machines.nodes[2].wait_listening().await;
    let removed = ["node", "remove", &lost, "--wait", "--wait-timeout", "60s"];
    machines.nodes[0].ctl(&removed).await.exits(0);
    machines.nodes[0].ctl(&["cluster", "health", "--wait", "60s"]).await.exits(0);

    // Three in place of four: the last one gives away what it holds, and its process ends.
    let three = Manifests::read("three-of-four");
    machines.job(three.find("Job", "-leave")).await;
    assert!(machines.nodes[3].wait_ended().await.success());
    let replicas = three.find("StatefulSet", "devicedb")["spec"]["replicas"].as_u64();
    assert_eq!(replicas, Some(3));
    machines.nodes[0].ctl(&["cluster", "health", "--wait", "60s"]).await.exits(0);
}
