//! An object store with its objects on disk, and a network before it that fails on purpose.
//!
//! Most tests take gofakes3, which Go builds under `target/tools` the first time. One story is for
//! whichever store is chosen (`ObjectStore::chosen`): `make test-stores` plays it in versitygw,
//! with versions of every object, and in Azurite. What stands between a store and its clients is
//! bytes: an answer can be lost after the store has done what was asked.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::AbortHandle,
};

use super::{Port, Ran, SOON, eventually, process::ended, shell};

const MODULE: &str = "github.com/johannesboyne/gofakes3/cmd/gofakes3";
const VERSION: &str = "v1.2.0";

/// Which program it is. The last two are named by the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Gofakes3,
    Versitygw(PathBuf),
    Azurite(PathBuf),
}

/// One with an empty bucket, or container, that is called `backups`.
pub struct ObjectStore {
    kind: Kind,
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

const KEY: &str = "key";
const SECRET: &str = "secretsecret";
/// The one account that Azurite has unless it is told otherwise, and its key, as its manual says.
const ACCOUNT: &str = "devstoreaccount1";
const ACCOUNT_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq\
                           /K1SZFPTOtr/KBHBeksoGMGw==";

/// gofakes3.
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

impl Kind {
    fn chosen() -> Kind {
        let Ok(name) = env::var("DEVICEDB_OBJECT_STORE") else { return Kind::Gofakes3 };
        let program = env::var_os("DEVICEDB_OBJECT_STORE_BIN");
        let program = program.expect("DEVICEDB_OBJECT_STORE_BIN names it: make test-stores");
        match name.as_str() {
            "versitygw" => Kind::Versitygw(program.into()),
            "azurite" => Kind::Azurite(program.into()),
            _ => panic!("DEVICEDB_OBJECT_STORE={name}: it is versitygw or azurite"),
        }
    }

    fn command(&self, port: &Port, dir: &Path) -> Command {
        let made = |name: &str| {
            let path = dir.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        match self {
            Kind::Gofakes3 => {
                let mut command = Command::new(server());
                let words = ["-backend", "bolt", "-initialbucket", "backups", "-host"];
                command.args(words).arg(port.endpoint()).arg("-bolt.db").arg(dir.join("s3.db"));
                command
            }
            Kind::Versitygw(program) => {
                let mut command = Command::new(program);
                command.env("ROOT_ACCESS_KEY", KEY).env("ROOT_SECRET_KEY", SECRET);
                command.args(["--port", &port.endpoint(), "-q", "posix", "--versioning-dir"]);
                command.arg(made("versions")).arg(made("objects"));
                command
            }
            Kind::Azurite(program) => {
                let mut command = Command::new("node");
                command.arg(program).args(["--silent", "--disableTelemetry"]);
                command.args(["--skipApiVersionCheck", "--blobHost", "127.0.0.1"]);
                command.args(["--blobPort", &port.number.to_string(), "--location"]);
                command.arg(made("objects"));
                command
            }
        }
    }
}

impl ObjectStore {
    /// gofakes3.
    pub async fn start(dir: &Path) -> ObjectStore {
        ObjectStore::of(Kind::Gofakes3, dir).await
    }

    /// The one that the environment names, or gofakes3.
    pub async fn chosen(dir: &Path) -> ObjectStore {
        ObjectStore::of(Kind::chosen(), dir).await
    }

    async fn of(kind: Kind, dir: &Path) -> ObjectStore {
        let (port, door) = (Port::claim(), Port::claim());
        let faults = Arc::new(Faults::default());
        let listener = TcpListener::bind(door.endpoint()).await.unwrap();
        let network = tokio::spawn(carry(listener, port.endpoint(), faults.clone()));
        let network = network.abort_handle();
        let dir = dir.to_owned();
        let mut store = ObjectStore { kind, port, dir, process: None, faults, door, network };
        store.restart().await;
        store.make_bucket().await;
        store
    }

    /// Starts it again where it was killed.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let path = self.dir.join("store.log");
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = self.kind.command(&self.port, &self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
        eventually("the object store answers", SOON, async || {
            TcpStream::connect(self.port.endpoint()).await.map(drop)
        })
        .await;
    }

    async fn make_bucket(&self) {
        let at = self.port.endpoint();
        let line = match &self.kind {
            // It has made it when it was started.
            Kind::Gofakes3 => return,
            Kind::Versitygw(_) => {
                let put = format!(
                    "curl -sSf --aws-sigv4 aws:amz:us-east-1:s3 --user {KEY}:{SECRET} -X PUT -H \
                     x-amz-content-sha256:UNSIGNED-PAYLOAD"
                );
                let versions =
                    "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
                let bucket = format!("http://{at}/backups");
                format!("{put} {bucket} && {put} '{bucket}?versioning=' -d '{versions}'")
            }
            Kind::Azurite(_) => format!("node -e '{}' {at} {ACCOUNT} {ACCOUNT_KEY}", CONTAINER),
        };
        shell(&line, SOON).await.exits(0);
    }

    /// Where a repository lies in it.
    pub fn place(&self, prefix: &str) -> String {
        let scheme = if let Kind::Azurite(_) = self.kind { "az" } else { "s3" };
        format!("{scheme}://backups/{prefix}")
    }

    /// Ends it in the middle of what it does. Azurite is asked to: after a kill it has forgotten
    /// what it acknowledged within the last seconds.
    pub async fn fall(&mut self) {
        if !matches!(self.kind, Kind::Azurite(_)) {
            return self.kill9();
        }
        let mut process = self.process.take().expect("it runs");
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        ended(&mut process, "Azurite ends", SOON).await;
    }

    /// How many versions of objects that were deleted or written again it has kept.
    pub fn old_versions(&self) -> Option<usize> {
        let Kind::Versitygw(_) = self.kind else { return None };
        let (mut files, mut folders) = (0, vec![self.dir.join("versions")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => files += 1,
                }
            }
        }
        Some(files)
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
    pub fn environment(&self) -> Vec<String> {
        let door = self.door.endpoint();
        match self.kind {
            Kind::Azurite(_) => vec![
                "AZURE_STORAGE_USE_EMULATOR=true".into(),
                "AZURE_ALLOW_HTTP=true".into(),
                format!("AZURITE_BLOB_STORAGE_URL=http://{door}"),
            ],
            _ => vec![
                format!("AWS_ENDPOINT_URL=http://{door}"),
                "AWS_ALLOW_HTTP=true".into(),
                format!("AWS_ACCESS_KEY_ID={KEY}"),
                format!("AWS_SECRET_ACCESS_KEY={SECRET}"),
                "AWS_REGION=us-east-1".into(),
            ],
        }
    }

    /// A command for a node to run under.
    pub fn under(&self) -> Vec<String> {
        ["env".to_owned()].into_iter().chain(self.environment()).collect()
    }

    /// Runs a line of a shell that has its credentials. What loses answers is asked again.
    pub async fn shell(&self, line: &str) -> Ran {
        shell(&format!("export {}; {line}", self.environment().join(" ")), 4 * SOON).await
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.network.abort();
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Makes a container: the request is signed as Azure wants it.
const CONTAINER: &str = r#"
    const [at, account, key] = process.argv.slice(1), path = `/${account}/backups`;
    const named = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-08-06" };
    const names = Object.entries(named).map(([name, is]) => `${name}:${is}\n`).join("");
    const text = "PUT" + "\n".repeat(12) + names + `/${account}${path}\nrestype:container`;
    const hmac = require("crypto").createHmac("sha256", Buffer.from(key, "base64"));
    named.Authorization = `SharedKey ${account}:${hmac.update(text, "utf8").digest("base64")}`;
    fetch(`http://${at}${path}?restype=container`, { method: "PUT", headers: named })
        .then(async answer => {
            if (answer.status !== 201) throw `${answer.status} ${await answer.text()}`;
        });
"#;

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
