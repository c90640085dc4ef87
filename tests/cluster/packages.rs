//! What a machine's service manager hears of a node, and the packages of `deploy/`, installed where
//! nothing of the project is.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::harness::{Node, Port, Ran, SOON, binary, eventually, run};

/// Time for packing binaries that were not made small.
const PACKED: Duration = Duration::from_secs(120);

/// The end of the socket that a service manager has.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    /// Waits for a message with a line that begins so.
    async fn hears(&mut self, begin: &str) {
        eventually(&format!("the manager hears {begin}"), SOON, async || {
            let mut message = [0; 4096];
            while let Ok(size) = self.socket.recv(&mut message) {
                let words = String::from_utf8_lossy(&message[..size]);
                self.heard.extend(words.lines().map(str::to_owned));
            }
            let at = self.heard.iter().position(|line| line.starts_with(begin));
            at.map(|at| drop(self.heard.drain(..=at))).ok_or_else(|| self.heard.join("; "))
        })
        .await;
    }
}

#[tokio::test]
async fn a_service_manager_hears_what_a_node_does_and_that_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let mut manager = Manager::at(&socket);
    let port = Port::claim();
    let (store, at) = (dir.path().join("store"), port.endpoint());
    let args = ["start", "--store", store.to_str().unwrap(), "--listen", &at, "--join", &at];
    let mut node = Node::new("a", port, dir.path(), store.clone(), args.map(String::from).into());
    let told = format!("NOTIFY_SOCKET={}", socket.display());
    node.under = ["env", &told, "WATCHDOG_USEC=400000"].map(String::from).into();

    // It waits, says for what, and asks for time.
    node.start();
    manager.hears("STATUS=the node waits for a cluster").await;
    manager.hears("EXTEND_TIMEOUT_USEC=60000000").await;
    assert!(!manager.heard.iter().any(|line| line == "READY=1"), "{:?}", manager.heard);
    node.ctl(&["cluster", "init"]).await.exits(0);
    manager.hears("READY=1").await;
    manager.hears(&format!("STATUS=serving at {at} as node ")).await;

    // Its loop turns.
    manager.hears("WATCHDOG=1").await;
    manager.hears("WATCHDOG=1").await;

    node.signal_to_stop();
    manager.hears("STOPPING=1").await;
    assert!(node.wait_ended().await.success());

    // Where the manager is gone, a node does not care.
    drop(manager);
    node.start();
    node.wait_ready().await;
}

/// A script of `deploy/`, with the binaries of this build.
async fn script(path: &str, out: &Path, environment: &[(&str, &str)]) -> Ran {
    let binaries = binary("devicedb").parent().unwrap().to_path_buf();
    let mut command = Command::new(format!("{}/deploy/{path}", env!("CARGO_MANIFEST_DIR")));
    command.arg(binaries).arg(out).envs(environment.iter().copied());
    run(command, PACKED).await
}

/// A command in a user namespace, in which whoever runs the tests is root.
async fn as_root(line: &str, environment: &[(&str, &Path)]) -> Ran {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", line]);
    command.envs(environment.iter().copied());
    run(command, PACKED).await
}

#[tokio::test]
async fn the_package_for_debian_is_installed_started_updated_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (package, root) = (dir.path().join("devicedb.deb"), dir.path().join("root"));
    script("deb/build.sh", &package, &[("COMPRESSION", "none")]).await.exits(0).says("glibc");

    // A system without users of its own, and with nothing in it but what dpkg needs.
    for made in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        fs::create_dir_all(root.join(made)).unwrap();
    }
    for (file, words) in
        [("var/lib/dpkg/status", ""), ("etc/passwd", "root:x:0:0::/root:/bin/sh\n")]
    {
        fs::write(root.join(file), words).unwrap();
    }
    for file in ["group", "shadow", "gshadow"] {
        fs::write(root.join("etc").join(file), "").unwrap();
    }
    let places: [(&str, &Path); 2] = [("ROOT", &root), ("PACKAGE", &package)];
    let dpkg = "dpkg --root=\"$ROOT\" --force-depends --force-script-chrootless --log=/dev/null";

    let installed = as_root(&format!("{dpkg} -i \"$PACKAGE\""), &places).await.exits(0);
    installed.says("edit /etc/devicedb/devicedb.toml");
    let users = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(users.contains("devicedb:x:") && users.contains("/usr/sbin/nologin"), "{users}");
    for page in ["devicedb.1", "devicedb-start.1", "ddbctl.1", "ddbctl-snapshot-create.1"] {
        assert!(root.join("usr/share/man/man1").join(format!("{page}.gz")).is_file(), "{page}");
    }
    let completions = root.join("usr/share/bash-completion/completions");
    for program in ["devicedb", "ddbctl"] {
        let script = fs::read_to_string(completions.join(program)).unwrap();
        assert!(script.contains(&format!("complete -F _{program}")), "{program}");
    }

    // The unit starts what is installed, with the settings that are installed.
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/devicedb.service")).unwrap();
    let starts = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = starts.split(' ').collect();
    assert_eq!(words, ["/usr/bin/devicedb", "start", "--config", "/etc/devicedb/devicedb.toml"]);
    let (settings, port) = (root.join(&words[3][1..]), Port::claim());
    let (store, at) = (dir.path().join("data/store"), port.endpoint());
    let given = fs::read_to_string(&settings).unwrap();
    let edited = given
        .replace("/var/lib/devicedb/store", store.to_str().unwrap())
        .replace("# listen = \"0.0.0.0:8080\"", &format!("listen = \"{at}\""))
        .replace(
            "# join = [\"db1.example.com:8080\", \"db2.example.com:8080\", \
             \"db3.example.com:8080\"]",
            &format!("join = [\"{at}\"]"),
        );
    fs::write(&settings, &edited).unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let mut node = Node::new("packaged", port, dir.path(), store.clone(), Vec::new());
    let in_root = |word: &str| match word.strip_prefix('/') {
        Some(path) => root.join(path).display().to_string(),
        None => word.to_owned(),
    };
    let started: Vec<String> = words.iter().map(|word| in_root(word)).collect();
    let started: Vec<&str> = started.iter().map(String::as_str).collect();
    node.program = Some(started[0].into());
    node.args = started[1..].iter().map(|word| (*word).to_owned()).collect();
    node.start();
    node.wait_unready("cluster init").await;
    node.ctl(&["cluster", "init"]).await.exits(0);
    node.wait_ready().await;

    // An update leaves the node and what its operator has written alone, and so does removing.
    let updated = as_root(&format!("{dpkg} -i \"$PACKAGE\""), &places).await.exits(0);
    updated.says("one node after the other");
    assert_eq!(fs::read_to_string(&settings).unwrap(), edited);
    node.wait_ready().await;
    assert!(node.terminate().await.success());
    let data = root.join("var/lib/devicedb/store");
    fs::create_dir_all(&data).unwrap();
    as_root(&format!("{dpkg} -r devicedb"), &places).await.exits(0);
    assert!(!root.join("usr/bin/devicedb").exists() && settings.is_file());
    let purged = as_root(&format!("{dpkg} -P devicedb"), &places).await.exits(0);
    purged.says("stays in /var/lib/devicedb");
    assert!(!settings.exists() && data.is_dir());
}

#[tokio::test]
async fn an_image_holds_all_that_a_node_needs_and_is_the_same_again() {
    let dir = tempfile::tempdir().unwrap();
    let images = ["one.tar", "two.tar"].map(|name| dir.path().join(name));
    for image in &images {
        let made = script("image/build.sh", image, &[("SOURCE_DATE_EPOCH", "1700000000")]).await;
        made.exits(0).says("linux/");
    }
    let [one, two] = images.map(|image| fs::read(image).unwrap());
    assert!(one == two, "the same binaries make the same image");

    let layout = dir.path().join("layout");
    tar::Archive::new(&one[..]).unpack(&layout).unwrap();
    let json = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let size = fs::metadata(layout.join(&path)).unwrap().len();
        assert_eq!(descriptor["size"], size, "{digest}");
        path
    };
    let manifest = json(&blob(&json("index.json")["manifests"][0]));
    let (config, layer) = (json(&blob(&manifest["config"])), blob(&manifest["layers"][0]));
    assert_eq!(config["config"]["User"], "65532:65532");
    let old = json("manifest.json");
    assert_eq!(old[0]["Layers"][0], layer.as_str());

    // Unpacked by whoever is root there, and run as a container is: with that directory for all
    // there is.
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let layer = layout.join(layer);
    let places: [(&str, &Path); 2] = [("ROOT", &root), ("LAYER", &layer)];
    as_root("tar -xzf \"$LAYER\" -C \"$ROOT\" --no-same-owner", &places).await.exits(0);
    let mode = fs::metadata(root.join("var/lib/devicedb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let found: BTreeSet<String> = fs::read_dir(root.join("usr/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, ["ddbctl", "devicedb"].map(String::from).into(), "and no shell");
    let entry = config["config"]["Entrypoint"][0].as_str().unwrap();
    let store = config["config"]["Env"][1].as_str().unwrap().strip_prefix("DEVICEDB_STORE=");
    let (store, port) = (store.unwrap(), Port::claim());
    let at = port.endpoint();
    let args = ["start", "--store", store, "--listen", &at, "--found"].map(String::from);
    let mut node = Node::new("contained", port, dir.path(), root.join(&store[1..]), args.into());
    let (inside, chroot) = (root.to_str().unwrap(), "exec chroot \"$0\" \"$@\"");
    node.under = ["unshare", "--user", "--map-root-user", "sh", "-c", chroot, inside]
        .map(String::from)
        .into();
    node.program = Some(entry.into());
    node.start();
    node.wait_ready().await;
    let asks = format!("chroot \"$ROOT\" /usr/bin/ddbctl --endpoint {at} node list");
    as_root(&asks, &places).await.exits(0).says(&at);
    assert!(root.join(&store[1..]).join("state.redb").is_file());
    assert!(node.terminate().await.success());
}
