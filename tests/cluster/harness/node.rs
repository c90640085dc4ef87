//! One real `devicedb` process with a store of its own.
//!
//! - It is killed when its `Node` is dropped, also while a test fails; then the end of its log is
//!   printed.
//! - Its log goes on over restarts, with a line at each start.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    Certificates, Client, Port, Ran, SOON, eventually, http_get,
    process::{binary, ended, run, written},
};

/// Lines of a node's log that a failing test shows.
const LOG_LINES_SHOWN: usize = 60;
/// How long a client tries to connect.
const CONNECT: Duration = Duration::from_secs(2);

pub struct Node {
    pub name: String,
    pub port: Port,
    /// What stands behind `devicedb`.
    pub args: Vec<String>,
    pub store: PathBuf,
    pub snapshot_store: Option<PathBuf>,
    /// What is run in place of the build's own `devicedb`.
    pub program: Option<PathBuf>,
    /// A command to run the node under, as `unshare -rm sh -c '… exec "$@"' sh`; empty for none.
    pub under: Vec<String>,
    /// Those of a node that speaks TLS and nothing else.
    pub certificates: Option<Arc<Certificates>>,
    log: PathBuf,
    process: Option<Child>,
}

impl Node {
    /// A node that is not started yet; its log is `dir/<name>.log`.
    pub fn new(name: &str, port: Port, dir: &Path, store: PathBuf, args: Vec<String>) -> Node {
        let log = dir.join(format!("{name}.log"));
        Node {
            name: name.to_string(),
            port,
            args,
            store,
            snapshot_store: None,
            program: None,
            under: Vec::new(),
            certificates: None,
            log,
            process: None,
        }
    }

    pub fn endpoint(&self) -> String {
        self.port.endpoint()
    }

    pub fn client(&self) -> Client {
        let endpoint = self.endpoint();
        match &self.certificates {
            None => Client::to(&endpoint),
            Some(held) => Client::through(held.channel(&endpoint, CONNECT), &endpoint),
        }
    }

    /// From its next start on it listens elsewhere, and is told to join these. Gives back the port
    /// where it was.
    pub fn move_to(&mut self, port: Port, join: &[String]) -> Port {
        assert!(self.process.is_none(), "{} runs where it is", self.name);
        let old = self.endpoint();
        while let Some(at) = self.args.iter().position(|word| word == "--join") {
            self.args.drain(at..at + 2);
        }
        // It has founded long ago, or restores.
        self.args.retain(|word| word != "--found");
        let left = std::mem::replace(&mut self.port, port);
        for word in self.args.iter_mut().filter(|word| **word == old) {
            *word = self.port.endpoint();
        }
        self.args.extend(join.iter().flat_map(|address| ["--join".to_string(), address.clone()]));
        left
    }

    /// All it logged, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let devicedb = self.program.clone().unwrap_or_else(|| binary("devicedb"));
        let mut command = match self.under.split_first() {
            None => Command::new(devicedb),
            Some((outer, rest)) => {
                let mut command = Command::new(outer);
                command.args(rest).arg(devicedb);
                command
            }
        };
        command.args(&self.args).stdin(Stdio::null());
        command
    }

    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = self.command();
        let mut log = File::options().create(true).append(true).open(&self.log).unwrap();
        writeln!(log, "---- {}", written(&command)).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.process = Some(child.unwrap_or_else(|e| panic!("{}: {e}", written(&command))));
    }

    /// Starts it where it must not come up: how it ended and what it said.
    pub async fn start_refused(&mut self) -> Ran {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let ran = run(self.command(), SOON).await;
        assert!(
            ran.code.is_some_and(|code| code != 0),
            "{} should refuse to start:\n{}",
            self.name,
            ran.story()
        );
        ran
    }

    /// Waits until it answers at all.
    pub async fn wait_alive(&mut self) {
        self.wait_for("/healthz").await;
    }

    /// Waits until its doors are open: it has its store, and speaks to other nodes.
    pub async fn wait_listening(&mut self) {
        self.wait_for("/metrics").await;
    }

    /// Waits until it says that it can serve all it holds.
    pub async fn wait_ready(&mut self) {
        self.wait_for("/readyz").await;
    }

    /// Waits until it says that it cannot serve yet, and why.
    pub async fn wait_unready(&self, why: &str) {
        let endpoint = self.endpoint();
        eventually(
            &format!("{} says that it is not ready, and {why}", self.name),
            SOON,
            async || match http_get(&endpoint, "/readyz").await {
                Ok((503, body)) if body.contains(why) => Ok(()),
                Ok((code, body)) => Err(format!("{code} {body}")),
                Err(e) => Err(e.to_string()),
            },
        )
        .await;
    }

    async fn wait_for(&mut self, path: &str) {
        let endpoint = self.endpoint();
        let what = format!("{} at {endpoint} answers GET {path} with 200", self.name);
        eventually(&what, SOON, async || {
            if let Some(status) = self.ended_by_itself() {
                panic!("{} ended by itself: {status}\n{}", self.name, self.log_end());
            }
            let answer = match &self.certificates {
                None => http_get(&endpoint, path).await,
                Some(held) => held.http_get(&endpoint, path).await,
            };
            match answer {
                Ok((200, _)) => Ok(()),
                Ok((code, body)) => Err(format!("{code} {body}")),
                Err(e) => Err(e.to_string()),
            }
        })
        .await;
    }

    /// How it ended without being told to; none while it runs or was not started.
    pub fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().unwrap()
    }

    /// Waits until it ends without being told to.
    pub async fn wait_ended(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("only a running node ends");
        let status = ended(&mut child, &format!("{} ends by itself", self.name), SOON).await;
        drop(child);
        status
    }

    /// As a power cut for the process: nothing is written any more.
    pub fn kill9(&mut self) {
        let mut child = self.process.take().expect("only a running node is killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it in the middle of whatever it does, with its connections open. Returns when all its
    /// threads stand: the signal only asks for that.
    pub async fn pause(&self) {
        self.signal_to_pause();
        let threads = format!("/proc/{}/task", self.pid());
        eventually("all threads stand", SOON, async || {
            for thread in fs::read_dir(&threads).expect("the process is there") {
                let path = thread.expect("it can be listed").path().join("stat");
                // One that has just ended is gone.
                let Ok(stat) = fs::read_to_string(path) else { continue };
                let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
                if state != Some("T") {
                    return Err(stat);
                }
            }
            Ok(())
        })
        .await;
    }

    pub fn signal_to_pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    pub fn signal_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to end, and waits for it.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal_to_stop();
        self.wait_ended().await
    }

    /// Leaves it running for good; its process id.
    #[allow(dead_code, reason = "only the demo leaves nodes behind")]
    pub fn leave(mut self) -> u32 {
        let pid = self.pid();
        drop(self.process.take());
        pid
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("only a running node has one").id()
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.process.as_ref().expect("only a running node takes signals");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// `ddbctl` against this node alone.
    pub async fn ctl(&self, args: &[&str]) -> Ran {
        secured_ddbctl(self.certificates.as_deref(), &self.endpoint(), args).await
    }

    /// Waits until its log says so: it writes lines on a thread of their own.
    pub async fn says(&self, words: &str) {
        self.says_times(words, 1).await;
    }

    pub async fn says_times(&self, words: &str, times: usize) {
        eventually(
            &format!("{} says {words:?} {times} times", self.name),
            SOON,
            async || match self.log().matches(words).count() {
                found if found == times => Ok(()),
                found => Err(format!("{found} times:\n{}", self.log_end())),
            },
        )
        .await;
    }

    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let shown = lines.len().saturating_sub(LOG_LINES_SHOWN);
        format!("==== end of the log of {} ====\n{}\n", self.name, lines[shown..].join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_end());
        }
    }
}

/// `ddbctl` with the certificates of those endpoints, if they have any.
pub async fn secured_ddbctl(
    certificates: Option<&Certificates>,
    endpoints: &str,
    args: &[&str],
) -> Ran {
    let words = certificates.map(Certificates::ctl_words).unwrap_or_default();
    let all: Vec<&str> = words.iter().map(String::as_str).chain(args.iter().copied()).collect();
    ddbctl(endpoints, &all).await
}

/// `ddbctl` against one or more endpoints.
pub async fn ddbctl(endpoints: &str, args: &[&str]) -> Ran {
    let mut command = Command::new(binary("ddbctl"));
    command.args(["--endpoint", endpoints]).args(args);
    // What the person who runs the tests has set is not what is tested.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DDBCTL_")) {
        command.env_remove(name);
    }
    command.env("DDBCTL_CONTEXT", "");
    run(command, Duration::from_secs(120)).await
}
