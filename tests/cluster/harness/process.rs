//! Commands that run to their end, or to a bound.

use std::{
    io::Read,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// One of the project's executables: as cargo names it to tests, or beside an example.
pub fn binary(name: &str) -> PathBuf {
    let told = match name {
        "devicedb" => option_env!("CARGO_BIN_EXE_devicedb"),
        "ddbctl" => option_env!("CARGO_BIN_EXE_ddbctl"),
        _ => panic!("the project has no executable {name}"),
    };
    told.map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a running program has a path");
        let target = own.ancestors().nth(2).expect("examples stand two folders deep");
        target.join(name)
    })
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub command: String,
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Everything it said, for messages.
    pub fn story(&self) -> String {
        let out: String = self.out().chars().take(4000).collect();
        format!("$ {}\nexit {:?}\nstdout: {out}\nstderr: {}", self.command, self.code, self.stderr)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{}", self.story());
        self.has_the_schema();
        self
    }

    /// Documents of `ddbctl` say by what schema they are written, whatever the command.
    #[track_caller]
    fn has_the_schema(&self) {
        if !self.command.contains("-o json") || self.command.contains('|') {
            return;
        }
        let documents = serde_json::Deserializer::from_slice(&self.stdout).into_iter::<Value>();
        for document in documents.map_while(Result::ok).filter(Value::is_object) {
            assert_eq!(document["schema"], 1, "{}", self.story());
        }
    }

    /// It said this, on stdout or stderr, in whatever case, or in a document.
    #[track_caller]
    pub fn says(self, words: &str) -> Ran {
        let said = format!("{}{}", self.out(), self.stderr).to_lowercase().replace("\\\"", "\"");
        assert!(said.contains(&words.to_lowercase()), "does not say {words:?}:\n{}", self.story());
        self
    }
}

/// Runs a command to its end; one that does not end within the bound is killed, and the test fails.
pub async fn run(mut command: Command, bound: Duration) -> Ran {
    let words = written(&command);
    // A group of its own, so that a shell's commands end with it.
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{words}: {e}"));
    let pid = Pid::from_child(&child);
    let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait()));
    let outcome = tokio::task::spawn_blocking(move || ended.recv_timeout(bound))
        .await
        .expect("waiting does not panic");
    if outcome.is_err() {
        // It may end in this very moment; then there is nothing to kill.
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let (stdout, stderr) =
        (out.join().unwrap(), String::from_utf8_lossy(&err.join().unwrap()).into_owned());
    match outcome {
        Ok(status) => Ran { command: words, code: status.unwrap().code(), stdout, stderr },
        Err(_) => panic!(
            "{words}: did not end within {bound:?}\nstdout: {}\nstderr: {stderr}",
            String::from_utf8_lossy(&stdout)
        ),
    }
}

/// Runs a line as a person types it, with `devicedb` and `ddbctl` on the path.
pub async fn shell(line: &str, bound: Duration) -> Ran {
    let beside =
        binary("devicedb").parent().expect("an executable stands in a folder").to_path_buf();
    let path = format!("{}:{}", beside.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.args(["-c", line]).env("PATH", path);
    run(command, bound).await
}

/// Waits for a child without holding up the others.
pub async fn ended(child: &mut Child, what: &str, bound: Duration) -> ExitStatus {
    super::eventually(what, bound, async || child.try_wait().unwrap().ok_or("it still runs")).await
}

pub fn written(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    let mut pipe = pipe.expect("both outputs are piped");
    thread::spawn(move || {
        let mut all = Vec::new();
        // A pipe that breaks ends what can be said of it.
        let _ = pipe.read_to_end(&mut all);
        all
    })
}
