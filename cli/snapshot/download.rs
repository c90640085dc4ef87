//! `snapshot download`: fetches parts, and says that they are here only when they are.
//!
//! A stream that breaks is opened again at the byte where it broke, at any node, for as long as
//! bytes keep coming. What then still lacks its end exits non-zero, and the message names the
//! partial file and how to go on.
//!
//! It needs no quorum: a node sends its own part whatever has become of the others, and which parts
//! there are is told by whoever answers.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use indicatif::ProgressBar;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{
    receive::{Flaw, Receiver, Step},
    sink::{Left, Sink},
    status::{self, service, status_word},
};
use crate::{
    base::ids::SnapshotId,
    ctl::{
        args,
        client::{Call, Client, Feed, Taken},
        term::{
            exit::{self, Failure},
            output::{Console, Look, View},
        },
    },
    proto::v1::{self, SnapshotStatus as Status},
};

/// A part that is here, whole.
#[derive(Debug, Serialize)]
pub struct Fetched {
    pub path: String,
    node_id: String,
    bytes: u64,
    /// Blake3 of the tar.
    digest: String,
}

#[derive(Debug, Serialize)]
struct Downloads {
    uuid: String,
    files: Vec<Fetched>,
}

impl View for Downloads {
    fn text(&self, _: Look) -> String {
        self.files.iter().map(|file| format!("{}\n", file.path)).collect()
    }
}

pub async fn run(
    args: args::Download,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let to_stdout = match args.output.as_deref() {
        Some(path) => path == Path::new("-"),
        None => !args.all,
    };
    match (args.all, to_stdout) {
        (true, true) => Err(Failure::usage(
            "several parts do not fit into one stream",
            "name a directory with --output",
        )),
        (true, false) => all(args, client, console).await,
        (false, true) if args.resume => {
            Err(Failure::usage("stdout cannot be resumed", "name the file with --output"))
        }
        (false, true) => stream_out(args.uuid, args.node.unwrap_or(0), client, console).await,
        (false, false) => one(args, client, console).await,
    }
}

/// One part to stdout: the tar and nothing else.
pub async fn stream_out(
    uuid: SnapshotId,
    node: u64,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    if console.stdout_is_terminal {
        return Err(Failure::usage(
            "a tar does not belong on a terminal",
            "redirect stdout to a file, or name one with --output",
        ));
    }
    fetch(
        uuid,
        node,
        false,
        Sink::Stdout,
        Left { bytes: 0, hasher: blake3::Hasher::new() },
        client,
        console,
    )
    .await
    .map(drop)
}

/// The part of the node that answers, to a file that is not there.
pub async fn to_file(
    uuid: SnapshotId,
    path: &Path,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let (sink, left) = Sink::file(path, false)?;
    fetch(uuid, 0, false, sink, left, client, console).await.map(drop)
}

async fn one(
    args: args::Download,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let output = args.output.unwrap_or_default();
    let mut node = args.node.unwrap_or(0);
    let path = if output.is_dir() {
        if node == 0 {
            node = status::seen(args.uuid, client).await?.answered_by;
        }
        output.join(file_name(args.uuid, node))
    } else {
        output
    };
    let (sink, left) = Sink::file(&path, args.resume)?;
    let fetched = fetch(args.uuid, node, false, sink, left, client, console).await?;
    console.print(&Downloads { uuid: args.uuid.to_string(), files: vec![fetched] })
}

/// Every completed part of a completed snapshot. One that fails does not keep the others from being
/// fetched.
async fn all(
    args: args::Download,
    client: &mut Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let status::Seen { snapshot: found, stale, .. } = status::seen(args.uuid, client).await?;
    if let Some(stale) = &stale {
        stale.warn(console);
    }
    if found.status() == Status::Processing {
        let what = format!("snapshot {} is still processing", args.uuid);
        return Err(Failure::new(
            exit::NOT_FOUND,
            what,
            "",
            "wait until it is completed; ddbctl snapshot status tells",
        ));
    }
    status::judge(&status::Snapshot::new(found.clone()))?;
    let directory = args.output.unwrap_or_else(|| PathBuf::from("."));
    if directory.exists() && !directory.is_dir() {
        let what = format!("{} is no directory, and several parts want one", directory.display());
        return Err(Failure::usage(what, "name another with --output, or one part with --node"));
    }
    let made = DirBuilder::new().mode(0o700).recursive(true).create(&directory);
    made.map_err(|e| {
        Failure::new(
            exit::FAILED,
            format!("cannot make the directory: {e}"),
            directory.display().to_string(),
            "name another with --output",
        )
    })?;
    let mut parts = Vec::new();
    for part in found.parts {
        if part.status() != Status::Completed {
            console.warn(&format!(
                "the part of node {} is {} and not downloaded",
                part.node_id,
                status_word(part.status())
            ));
            continue;
        }
        parts.push(part);
    }
    console.on_interrupt(format!(
        "what {} holds may be incomplete; go on with --resume",
        directory.display()
    ));
    let ends =
        at_once(args.parallel.into(), args.uuid, parts, &directory, args.resume, client, console)
            .await;
    console.on_interrupt("");
    let mut files = Vec::new();
    let mut first_failure = None;
    for end in ends {
        match (end, &first_failure) {
            (Ok(file), _) => files.push(file),
            (Err(failure), None) => first_failure = Some(failure),
            (Err(failure), Some(_)) => console.complain(&failure),
        }
    }
    console.print(&Downloads { uuid: args.uuid.to_string(), files })?;
    first_failure.map_or(Ok(()), Err)
}

/// Fetches so many parts at the same time, each from its own node where that is among the
/// endpoints. How each ended, in the order of the parts.
pub async fn at_once(
    parallel: usize,
    uuid: SnapshotId,
    parts: Vec<v1::SnapshotPart>,
    directory: &Path,
    resume: bool,
    client: &mut Client,
    console: &mut Console,
) -> Vec<Result<Fetched, Failure>> {
    let turns = Arc::new(Semaphore::new(parallel));
    let consoles = console.beside(parts.len());
    let mut fetches = Vec::new();
    for (part, mut console) in parts.into_iter().zip(consoles) {
        let turn = turns.clone().acquire_owned().await.expect("it is never closed");
        let mut client = client.beside(&part.address);
        let path = directory.join(file_name(uuid, part.node_id));
        fetches.push(tokio::spawn(async move {
            let _turn = turn;
            let (sink, left) = Sink::file(&path, resume)?;
            fetch(uuid, part.node_id, true, sink, left, &mut client, &mut console).await
        }));
    }
    let mut ends = Vec::new();
    for fetch in fetches {
        ends.push(fetch.await.expect("a download does not panic and is not aborted"));
    }
    ends
}

/// The name of a part's tar.
pub fn file_name(uuid: SnapshotId, node: u64) -> String {
    format!("snapshot-{uuid}-{node}.tar")
}

/// Fetches one part, perhaps one of `several`, after what is left of an earlier try.
async fn fetch(
    uuid: SnapshotId,
    node: u64,
    several: bool,
    sink: Sink,
    left: Left,
    client: &mut Client,
    console: &mut Console,
) -> Result<Fetched, Failure> {
    let receiver = Receiver::new(node, left.bytes, left.hasher);
    let mut fetch =
        Fetch { uuid, receiver, sink, console, bar: ProgressBar::hidden(), digest: String::new() };
    let part = if node == 0 { String::new() } else { format!("the part of node {node} of ") };
    let call = Call::new(format!("download {part}snapshot {uuid}"));
    let end = client
        .stream(&call, &mut fetch, |channel, request| async move {
            service(channel).download_snapshot(request).await
        })
        .await;
    fetch.bar.finish_and_clear();
    fetch.console.on_interrupt("");
    end.and_then(|()| fetch.sink.finish()).map_err(|failure| fetch.cut_short(failure))?;
    let Fetch { receiver, sink, console, digest, .. } = fetch;
    // The words of the guide, and where several parts come, of which.
    let of = match sink.path() {
        Some(path) if several => format!(": {}", path.display()),
        _ => String::new(),
    };
    console.say(&format!("Downloaded {} bytes successfully{of}", receiver.received()));
    if let Some(remark) = sink.remark() {
        console.say(&remark);
    }
    let path = sink.path().map(|path| path.display().to_string()).unwrap_or_default();
    Ok(Fetched {
        path,
        node_id: receiver.node_id().to_string(),
        bytes: receiver.received(),
        digest,
    })
}

struct Fetch<'a> {
    uuid: SnapshotId,
    receiver: Receiver,
    sink: Sink,
    console: &'a mut Console,
    bar: ProgressBar,
    digest: String,
}

impl Feed for Fetch<'_> {
    type Request = v1::DownloadSnapshotRequest;
    type Piece = v1::DownloadSnapshotResponse;

    fn request(&mut self) -> v1::DownloadSnapshotRequest {
        self.receiver.begin();
        v1::DownloadSnapshotRequest {
            uuid: self.uuid.to_string(),
            node_id: self.receiver.node_id(),
            offset: self.receiver.received(),
        }
    }

    fn take(&mut self, piece: v1::DownloadSnapshotResponse) -> Result<Taken, Failure> {
        match self.receiver.take(piece).map_err(|flaw| self.flawed(&flaw))? {
            Step::Begin => {
                self.sink.begin()?;
                self.begin_bar();
                Ok(Taken::Nothing)
            }
            Step::Write(bytes) => {
                self.sink.write(&bytes, self.console).map_err(|e| {
                    Failure::new(exit::FAILED, format!("cannot write what comes: {e}"), "", "")
                })?;
                self.bar.set_position(self.receiver.received());
                Ok(if bytes.is_empty() { Taken::Nothing } else { Taken::Progress })
            }
            Step::Finish { digest } => {
                self.digest = digest;
                Ok(Taken::Done)
            }
        }
    }

    fn ended(&mut self) -> bool {
        false
    }
}

impl Fetch<'_> {
    fn begin_bar(&mut self) {
        if self.bar.length().is_none() {
            self.bar = self.console.bar(self.receiver.total_bytes().unwrap_or(0), true);
            self.bar.set_message(format!("node {}", self.receiver.node_id()));
        }
        self.bar.set_position(self.receiver.received());
        self.console.on_interrupt(match self.sink.partial() {
            Some(partial) => format!("{} is incomplete; go on with --resume", partial.display()),
            None => format!(
                "what {} got is incomplete; throw it away",
                self.sink.path().map_or("stdout".to_owned(), |path| path.display().to_string())
            ),
        });
    }

    fn flawed(&mut self, flaw: &Flaw) -> Failure {
        let ruined = flaw.ruins_what_was_received() && self.sink.discard();
        let remedy = match (flaw, ruined) {
            (_, true) => {
                "the partial file was removed, since it can never become the part; download it \
                 again"
            }
            (Flaw::TooMuchBefore { .. }, _) => "the file is from something else; move it away",
            _ => "",
        };
        Failure::new(exit::FAILED, flaw.to_string(), "", remedy)
    }

    /// Says what is left, and how to go on.
    fn cut_short(&mut self, failure: Failure) -> Failure {
        let (node, received, total) =
            (self.receiver.node_id(), self.receiver.received(), self.receiver.total_bytes());
        if received == 0 {
            self.sink.discard();
        }
        let of_total = total.map_or(String::new(), |total| format!(" of {total}"));
        let (place, remedy) = match (&self.sink, self.sink.partial()) {
            (Sink::File(_), Some(partial)) => {
                let holds = fs::metadata(partial).map_or(received, |file| file.len());
                (
                    format!("{} holds {holds}{of_total} bytes", partial.display()),
                    "go on with --resume",
                )
            }
            (Sink::Whole(path), _) => (
                format!("{} could not be compared", path.display()),
                "if it is not this part, move it away",
            ),
            (Sink::Stdout | Sink::Through(_), _) if total.is_some() => {
                let to =
                    self.sink.path().map_or("stdout".to_owned(), |path| path.display().to_string());
                (
                    format!("{to} got {received}{of_total} bytes"),
                    "that is no part: throw it away and download again",
                )
            }
            _ => return failure,
        };
        let remedy = match failure.exit {
            exit::UNREACHABLE => remedy,
            exit::FAILED if failure.remedy.is_empty() => remedy,
            _ => &failure.remedy,
        };
        let whose =
            if node == 0 { "the part".to_owned() } else { format!("the part of node {node}") };
        let cause = [failure.what.as_str(), &failure.place]
            .into_iter()
            .filter(|s| !s.is_empty())
            .collect::<Vec<_>>()
            .join(": ");
        Failure::new(
            failure.exit,
            format!("the download of {whose} is incomplete: {cause}"),
            place,
            remedy,
        )
    }
}
