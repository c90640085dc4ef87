//! An S3 server with its bucket on disk, and a network before it that fails on purpose.
//!
//! The server is gofakes3, which Go builds under `target/tools` the first time. What stands between
//! it and its clients is bytes: an answer can be lost after the server has done what was asked.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::AbortHandle,
};

use super::{Port, Ran, SOON, eventually, shell};

const MODULE: &str = "github.com/johannesboyne/gofakes3/cmd/gofakes3";
const VERSION: &str = "v1.2.0";

pub struct S3 {
    port: Port,
    dir: PathBuf,
    process: Option<Child>,
    faults: Arc<Faults>,
    door: Port,
    network: AbortHandle,
}

/// What the network does next.
#[derive(Default)]
struct Faults {
    /// Every so many answers one is lost; 0 for none.
    lose_every: AtomicU32,
    answers: AtomicU32,
    lost: AtomicU32,
}

/// The server's executable.
fn server() -> PathBuf {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/gofakes3").join(VERSION);
    let path = bin.join("gofakes3");
    // Tests of several processes may want it at the same time.
    fs::create_dir_all(&bin).unwrap();
    let lock = File::create(bin.join("lock")).unwrap();
    lock.lock().unwrap();
    if !path.exists() {
        let built = Command::new("go")
            .args(["install", &format!("{MODULE}@{VERSION}")])
            .env("GOBIN", &bin)
            .env("GOFLAGS", "-mod=mod")
            .output();
        let built = built.expect("Go is missing: install Go 1.26 or later, https://go.dev/dl");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    path
}

impl S3 {
    /// A server with an empty bucket, which is called `backups`.
    pub async fn start(dir: &Path) -> S3 {
        let (port, door) = (Port::claim(), Port::claim());
        let faults = Arc::new(Faults::default());
        let listener = TcpListener::bind(door.endpoint()).await.unwrap();
        let network = tokio::spawn(carry(listener, port.endpoint(), faults.clone()));
        let network = network.abort_handle();
        let mut s3 = S3 { port, dir: dir.to_owned(), process: None, faults, door, network };
        s3.restart().await;
        s3
    }

    /// Starts it again where it was killed.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.dir.join("s3.log")).unwrap();
        let started = Command::new(server())
            .args(["-host", &self.port.endpoint(), "-backend", "bolt", "-initialbucket", "backups"])
            .arg("-bolt.db")
            .arg(self.dir.join("s3.db"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(started.unwrap());
        eventually("the S3 server answers", SOON, async || {
            TcpStream::connect(self.port.endpoint()).await.map(drop)
        })
        .await;
    }

    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// From now on every so many answers one is lost, after it was given.
    pub fn lose_every(&self, answers: u32) {
        self.faults.lose_every.store(answers, Ordering::SeqCst);
    }

    /// Answers that were lost so far.
    pub fn lost(&self) -> u32 {
        self.faults.lost.load(Ordering::SeqCst)
    }

    /// What the environment of its clients says.
    pub fn environment(&self) -> [String; 5] {
        [
            format!("AWS_ENDPOINT_URL=http://{}", self.door.endpoint()),
            "AWS_ALLOW_HTTP=true".into(),
            "AWS_ACCESS_KEY_ID=key".into(),
            "AWS_SECRET_ACCESS_KEY=secret".into(),
            "AWS_REGION=us-east-1".into(),
        ]
    }

    /// A command for a node to run under.
    pub fn under(&self) -> Vec<String> {
        ["env".to_owned()].into_iter().chain(self.environment()).collect()
    }

    /// Runs a line of a shell that has its credentials.
    pub async fn shell(&self, line: &str) -> Ran {
        shell(&format!("export {}; {line}", self.environment().join(" ")), SOON).await
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.network.abort();
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

async fn carry(listener: TcpListener, to: String, faults: Arc<Faults>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (to, faults) = (to.clone(), faults.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(&to).await else { return };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            // Whichever ends first ends both.
            tokio::select! {
                () = pass_on(from_client, to_server) => {}
                () = answer(from_server, to_client, &faults) => {}
            }
        });
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// The beginning of an answer is a piece that begins as HTTP does.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if piece[..read].starts_with(b"HTTP/1.1 ") {
            let nth = faults.answers.fetch_add(1, Ordering::SeqCst);
            let every = faults.lose_every.load(Ordering::SeqCst);
            if every > 0 && nth.is_multiple_of(every) {
                faults.lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
