//! Processes of etcd in a temporary directory, on loopback ports. They are killed when they are
//! dropped.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::harness::{Port, SOON, eventually, http_get, shell};

/// Far more than is written: a full quota would end the writes.
const QUOTA_BYTES: u64 = 8 << 30;
const COMMAND: Duration = Duration::from_secs(600);

pub struct Members {
    // Dropped, and so killed, before their directory.
    members: Vec<Member>,
    dir: TempDir,
}

struct Member {
    name: String,
    client: Port,
    peer: Port,
    data: PathBuf,
    process: Option<Child>,
}

impl Members {
    pub async fn start(count: usize) -> Members {
        let dir = TempDir::with_prefix("etcd-").unwrap();
        let member = |n| Member {
            name: format!("m{n}"),
            client: Port::claim(),
            peer: Port::claim(),
            data: dir.path().join(format!("m{n}")),
            process: None,
        };
        let mut members = Members { members: (0..count).map(member).collect(), dir };
        members.run().await;
        members
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.endpoint()).collect()
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.as_ref()).map(Child::id).collect()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A snapshot of the first member into a file.
    pub async fn save(&self, file: &Path) {
        shell(
            &format!(
                "etcdctl --endpoints {} snapshot save {}",
                self.members[0].client.endpoint(),
                file.display()
            ),
            COMMAND,
        )
        .await
        .exits(0);
    }

    pub fn lose_every_disk(&mut self) {
        for member in &mut self.members {
            member.kill();
            std::fs::remove_dir_all(&member.data).unwrap();
        }
    }

    /// Every member's data from the snapshot, then all are started.
    pub async fn restore(&mut self, file: &Path) {
        let cluster = self.initial_cluster();
        for Member { name, peer, data, .. } in &self.members {
            let (peer, data, file) = (peer.endpoint(), data.display(), file.display());
            let line = format!(
                "etcdctl snapshot restore {file} --name {name} --initial-cluster {cluster} \
                 --initial-advertise-peer-urls http://{peer} --data-dir {data}"
            );
            shell(&line, COMMAND).await.exits(0);
        }
        self.run().await;
    }

    fn initial_cluster(&self) -> String {
        let named: Vec<_> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer.endpoint()))
            .collect();
        named.join(",")
    }

    /// Starts every member, and waits until each says that it is healthy, which takes a leader.
    async fn run(&mut self) {
        let cluster = self.initial_cluster();
        for member in &mut self.members {
            member.start(&cluster, self.dir.path());
        }
        for member in &mut self.members {
            let endpoint = member.client.endpoint();
            eventually(&format!("etcd at {endpoint} is healthy"), SOON * 4, async || {
                let ended = member.process.as_mut().and_then(|process| process.try_wait().unwrap());
                assert!(ended.is_none(), "etcd ended by itself: {ended:?}");
                match http_get(&endpoint, "/health").await {
                    Ok((200, _)) => Ok(()),
                    Ok((code, body)) => Err(format!("{code} {body}")),
                    Err(e) => Err(e.to_string()),
                }
            })
            .await;
        }
    }
}

impl Member {
    fn start(&mut self, cluster: &str, dir: &Path) {
        let (client, peer) = (
            format!("http://{}", self.client.endpoint()),
            format!("http://{}", self.peer.endpoint()),
        );
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join(format!("{}.log", self.name)))
            .unwrap();
        let mut command = Command::new("etcd");
        command
            .args([
                "--name",
                &self.name,
                "--initial-cluster",
                cluster,
                "--initial-cluster-state",
                "new",
                "--data-dir",
            ])
            .arg(&self.data);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command
            .arg(format!("--quota-backend-bytes={QUOTA_BYTES}"))
            .arg(format!("--max-txn-ops={}", crate::subject::BATCH_ROWS));
        command.args(["--auto-compaction-mode=periodic", "--auto-compaction-retention=5m"]);
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.process = Some(child.unwrap_or_else(|e| {
            panic!("etcd cannot be started: {e}; Debian's package is etcd-server")
        }));
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
