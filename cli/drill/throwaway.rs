//! The node of a drill: it hears on the loopback alone, and ends with the drill, whatever ends
//! that.
//!
//! Its standard input is a pipe that nobody writes to, and it was told to end when that ends
//! (`devicedb start --end-with-stdin`). The kernel closes the other end with this process, also
//! when that is killed, so no node is left behind.

use std::{
    env,
    io::Read as _,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use tokio::sync::oneshot;

use super::scratch::Scratch;
use crate::{
    base::{
        clock::Random,
        error::{Error, Result},
        ids::SnapshotId,
        limits,
        locks::lock,
    },
    ctl::{args, term::text},
};

/// A node that ends with this.
pub struct Throwaway {
    child: Child,
    pub address: String,
    words: Words,
}

/// The end of what it says.
struct Words {
    tail: Arc<Mutex<Vec<u8>>>,
    all: oneshot::Receiver<()>,
}

impl Throwaway {
    pub fn start(order: &args::Drill, snapshot: SnapshotId, scratch: &Scratch) -> Result<Self> {
        let program = order.devicedb.clone().unwrap_or_else(program);
        let address = free_address()?;
        let mut command = Command::new(&program);
        command
            .args(["start", "--end-with-stdin", "--store"])
            .arg(scratch.store())
            .arg("--snapshot-store")
            .arg(scratch.snapshots())
            .args(["--listen", &address, "--restore-from", &order.place, "--point"])
            .arg(snapshot.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let said = env::vars_os().map(|(name, _)| name);
        // What opens the repository is all that it shall know.
        let is_for_nodes = |name: &str| {
            name.starts_with("DEVICEDB_") && !name.starts_with("DEVICEDB_REPOSITORY_KEY")
        };
        for name in said.filter(|name| is_for_nodes(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.args(order.key.words());
        let mut child = command.spawn().map_err(|e| no_start(&program, &e.to_string()))?;
        let words = child.stderr.take().expect("it is a pipe");
        match Words::keep(words) {
            Ok(words) => Ok(Throwaway { child, address, words }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(no_start(&program, &e.to_string()))
            }
        }
    }

    /// How it ended, if it has, in its own words.
    pub async fn ended(&mut self) -> Option<String> {
        let status: ExitStatus = self.child.try_wait().ok().flatten()?;
        let said = self.words.last().await;
        Some(format!("the node has ended, {status}, and said: {}", text::line(&said)))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Words {
    /// Reads on a thread, so that the node never waits for somebody to hear it.
    fn keep(mut from: ChildStderr) -> std::io::Result<Words> {
        let tail = Arc::<Mutex<Vec<u8>>>::default();
        let (done, all) = oneshot::channel();
        let kept = tail.clone();
        thread::Builder::new().name("drill-node".into()).spawn(move || {
            let mut piece = vec![0; limits::DRILL_SAID_BYTES];
            while let Ok(read @ 1..) = from.read(&mut piece) {
                let mut kept = lock(&kept);
                kept.extend_from_slice(&piece[..read]);
                let over = kept.len().saturating_sub(limits::DRILL_SAID_BYTES);
                kept.drain(..over);
            }
            // Nobody may wait for it.
            let _ = done.send(());
        })?;
        Ok(Words { tail, all })
    }

    /// The last line, once all is read; a child of the node may have its stderr for longer.
    async fn last(&mut self) -> String {
        let _ = tokio::time::timeout(limits::DRILL_LAST_WORDS, &mut self.all).await;
        let said = String::from_utf8_lossy(&lock(&self.tail)).into_owned();
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or("nothing").to_owned()
    }
}

fn no_start(program: &Path, why: &str) -> Error {
    let program = program.display();
    Error::unavailable(format!("{program} does not start: {why}; name it with --devicedb"))
}

/// Beside this program, as both are installed.
fn program() -> PathBuf {
    let own = env::current_exe().ok();
    own.and_then(|own| Some(own.parent()?.join("devicedb")))
        .filter(|program| program.exists())
        .unwrap_or_else(|| "devicedb".into())
}

/// A port of the loopback at which nobody listens at this moment. Between that and the node's start
/// another drill may be told of the same one: so it is looked for at an address that was drawn,
/// where the whole of 127.0.0.0/8 is this machine, as on Linux.
fn free_address() -> Result<String> {
    let [_, second, third, fourth, ..] = Random::from_entropy().next_u64().to_be_bytes();
    // Neither the network's own address nor that of all.
    let drawn = Ipv4Addr::new(127, second, third, fourth.clamp(1, 254));
    let listener =
        TcpListener::bind((drawn, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let free = listener.and_then(|listener| listener.local_addr());
    let free = free.map_err(|e| Error::unavailable(format!("no port of the loopback: {e}")))?;
    Ok(free.to_string())
}
