//! The commands of the guide, `devicedb cluster ...`, with its words: single-dash flags as the Go
//! program took them, and its outputs.
//!
//! A translation and no second implementation: every client command ends in the code of `ddbctl`.
//! What differs is what is printed, and that `-host` and `-port` pick exactly one node. `start` is
//! parsed here and carried out by the server.

use std::{
    env, ffi::OsString, os::unix::ffi::OsStringExt as _, path::PathBuf, process::ExitCode,
    str::FromStr, time::Duration,
};

use bytes::Bytes;

use super::{
    Job,
    args::{self, Bucket, Place, Secured, Span, Token, Write},
    client, cluster,
    connection::Access,
    departure,
    flags::Flags,
    kv, picture, relay, removal, run_job, site,
    snapshot::{self, Brief, download},
    term::{
        exit::{self, Failure},
        output::{Console, Format},
        text,
    },
};
use crate::{
    base::{
        clock::{Clock, Random},
        ids::{ClusterId, SnapshotId},
        limits,
    },
    proto::v1,
};

/// What came of a command of the guide.
#[derive(Debug)]
pub enum Outcome {
    /// It starts a node; the caller does that.
    Start(StartArgs),
    /// It is done.
    Done(ExitCode),
}

/// `devicedb cluster start`. Only its form is checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartArgs {
    pub store: PathBuf,
    pub host: String,
    pub port: u16,
    pub join: Vec<String>,
    pub replication_factor: u32,
    pub partitions: u32,
    pub snapshot_store: Option<PathBuf>,
    pub replacement: bool,
    pub log_level: String,
}

/// A command for a node that runs.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    endpoint: String,
    task: Task,
}

#[derive(Debug, PartialEq, Eq)]
enum Task {
    Overview,
    Snapshot,
    GetSnapshot(SnapshotId),
    DownloadSnapshot(SnapshotId),
    AddSite(String),
    RemoveSite(String),
    AddRelay(String),
    RemoveRelay(String),
    RelayStatus(String),
    MoveRelay(String, Option<String>),
    Get(In, Bytes),
    GetMatches(In, Bytes),
    Put(In, Bytes, Bytes, Option<Vec<u8>>),
    Delete(In, Bytes, Option<Vec<u8>>),
    RemoveNode(u64),
    /// 0 is the node that is asked.
    Decommission(u64),
    /// 0 is the node that is asked; the other one takes its places.
    Replace(u64, u64),
    NotYet(&'static str),
}

impl Client {
    /// The node that it is for.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// A site and a bucket.
#[derive(Debug, PartialEq, Eq)]
struct In {
    site: String,
    bucket: Bucket,
}

/// What the words of a command line say.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Start(StartArgs),
    Client(Client),
    Help,
}

/// Runs a command of the guide. `args` is what stands behind `devicedb cluster`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Outcome {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut console = Console::open("devicedb", Format::Table);
    let set = |command: &Command| {
        let endpoints = match command {
            Command::Client(command) => vec![command.endpoint.clone()],
            _ => Vec::new(),
        };
        Ok((
            timeout(env::var_os("DDBCTL_TIMEOUT"))?,
            pinned(env::var_os("DDBCTL_CLUSTER_ID"))?,
            Access::new(&secured(), &endpoints)?,
        ))
    };
    let parsed = parse(&args).and_then(|command| {
        let set = set(&command)?;
        Ok((command, set))
    });
    match parsed {
        Ok((Command::Start(start), _)) => Outcome::Start(start),
        Ok((Command::Help, _)) => {
            let end = console.write(HELP.as_bytes());
            Outcome::Done(ExitCode::from(console.finish(end)))
        }
        Ok((Command::Client(command), (timeout, pinned, access))) => {
            let client = client::Client::new(
                vec![command.endpoint.clone()],
                access,
                pinned,
                timeout,
                Clock::start(),
                Random::from_entropy(),
            );
            Outcome::Done(run_job(Job::Guide(command), client, console))
        }
        Err(failure) => Outcome::Done(ExitCode::from(console.finish(Err(failure)))),
    }
}

/// The guide has no flags for TLS.
fn secured() -> Secured {
    let file = |name: &str| env::var_os(name).map(PathBuf::from);
    Secured {
        ca: file("DDBCTL_CA"),
        cert: file("DDBCTL_CERT"),
        key: file("DDBCTL_KEY"),
        server_name: env::var("DDBCTL_SERVER_NAME").ok(),
        token_file: file("DDBCTL_TOKEN_FILE"),
    }
}

fn timeout(set: Option<OsString>) -> Result<Duration, Failure> {
    let Some(set) = set else { return Ok(limits::GUIDE_TIMEOUT) };
    let span = Span::from_str(&set.to_string_lossy())
        .map_err(|e| Failure::new(exit::USAGE, e, "DDBCTL_TIMEOUT", "mend or unset it"))?;
    Ok(span.0)
}

fn pinned(set: Option<OsString>) -> Result<Option<ClusterId>, Failure> {
    let parse = |set: OsString| {
        args::cluster_id(&set.to_string_lossy())
            .map_err(|e| Failure::new(exit::USAGE, e, "DDBCTL_CLUSTER_ID", "mend or unset it"))
    };
    set.map(parse).transpose()
}

const HELP: &str = "\
devicedb cluster COMMAND [-flag value ...]: the commands of the disaster recovery guide.
ddbctl does more.

  start              -store DIR [-host localhost] [-port 8080] [-join HOST:PORT,...]
                     [-replication_factor 3] [-partitions 1024] [-snapshot_store DIR]
                     [-log_level info]. An empty store without -join founds a cluster, unless
                     something says that there was one
  overview           the nodes
  snapshot           take a snapshot of the cluster
  get_snapshot       -uuid UUID: how far the part of the contacted node is
  download_snapshot  -uuid UUID: the part of the contacted node as a tar on stdout
  add_site           -site SITE
  remove_site        -site SITE
  add_relay          -relay RELAY
  remove_relay       -relay RELAY
  relay_status       -relay RELAY
  move_relay         -relay RELAY [-site SITE]
  get                -site SITE [-bucket default] -key KEY
  get_matches        -site SITE [-bucket default] -prefix PREFIX
  put                -site SITE [-bucket default] -key KEY -value VALUE [-context CONTEXT]
  delete             -site SITE [-bucket default] -key KEY [-context CONTEXT]
  remove             -node ID: remove a node for good, whether it answers or not
  decommission       [-node ID]: have a node, or the one that is asked, give away what it holds
                     and leave
  replace            [-node ID] -replacement_node ID: have a node, or the one that is asked, be
                     replaced by one that was started with -replacement

Every command but start takes -host localhost and -port 8080: the node to speak to.
Not available yet: log_dump.
";

const START: &[&str] = &[
    "store",
    "host",
    "port",
    "join",
    "replication_factor",
    "partitions",
    "snapshot_store",
    "log_level",
];

/// Each client command with its flags, besides -host and -port.
const CLIENT: &[(&str, &[&str])] = &[
    ("overview", &[]),
    ("snapshot", &[]),
    ("get_snapshot", &["uuid"]),
    ("download_snapshot", &["uuid"]),
    ("add_site", &["site"]),
    ("remove_site", &["site"]),
    ("add_relay", &["relay"]),
    ("remove_relay", &["relay"]),
    ("relay_status", &["relay"]),
    ("move_relay", &["relay", "site"]),
    ("get", &["site", "bucket", "key"]),
    ("get_matches", &["site", "bucket", "prefix"]),
    ("put", &["site", "bucket", "key", "value", "context"]),
    ("delete", &["site", "bucket", "key", "value", "context"]),
    ("log_dump", &[]),
    ("remove", &["node"]),
    ("decommission", &["node"]),
    ("replace", &["node", "replacement_node"]),
];

/// Only understands; `main` carries out.
pub fn parse(args: &[OsString]) -> Result<Command, Failure> {
    let Some((name, rest)) = args.split_first() else {
        return Err(Failure::usage("a command is missing", "see devicedb cluster -help"));
    };
    let name = name.to_string_lossy();
    match name.as_ref() {
        "start" => Flags::parse(&name, rest, START, &["replacement"])?
            .map_or(Ok(Command::Help), |flags| start(&flags).map(Command::Start)),
        "-h" | "-help" | "--help" | "help" => Ok(Command::Help),
        name => {
            let Some((name, known)) = CLIENT.iter().find(|(known, _)| *known == name) else {
                return Err(Failure::usage(
                    format!("{name:?} is not a command"),
                    "see devicedb cluster -help",
                ));
            };
            let known: Vec<&'static str> =
                ["host", "port"].into_iter().chain(known.iter().copied()).collect();
            Flags::parse(name, rest, &known, &[])?.map_or(Ok(Command::Help), |flags| {
                client_command(name, &flags).map(Command::Client)
            })
        }
    }
}

fn start(flags: &Flags) -> Result<StartArgs, Failure> {
    let replacement = flags.is_on("replacement")?;
    if replacement && flags.text("join", "")?.is_empty() {
        return Err(flags.wrong("flag -replacement needs -join: it joins a cluster"));
    }
    Ok(StartArgs {
        replacement,
        store: flags.required("store")?.into(),
        host: flags.text("host", "localhost")?,
        port: flags.number("port", 8080)?,
        join: match flags.text("join", "")? {
            none if none.is_empty() => Vec::new(),
            join => join
                .split(',')
                .map(|address| args::endpoint(address).map_err(|e| Failure::usage(e, "see -join")))
                .collect::<Result<_, _>>()?,
        },
        replication_factor: flags.number("replication_factor", 3)?,
        partitions: flags.number("partitions", 1024)?,
        snapshot_store: flags
            .get("snapshot_store")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        log_level: flags.text("log_level", "info")?,
    })
}

fn client_command(name: &'static str, flags: &Flags) -> Result<Client, Failure> {
    let host = flags.text("host", "localhost")?;
    let host =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    let endpoint = args::endpoint(&format!("{host}:{}", flags.text("port", "8080")?))
        .map_err(|e| Failure::usage(e, "see -host and -port"))?;
    let task = match name {
        "overview" => Task::Overview,
        "snapshot" => Task::Snapshot,
        "get_snapshot" => Task::GetSnapshot(flags.uuid()?),
        "download_snapshot" => Task::DownloadSnapshot(flags.uuid()?),
        "add_site" => Task::AddSite(flags.required_text("site")?),
        "remove_site" => Task::RemoveSite(flags.required_text("site")?),
        "add_relay" => Task::AddRelay(flags.required_text("relay")?),
        "remove_relay" => Task::RemoveRelay(flags.required_text("relay")?),
        "relay_status" => Task::RelayStatus(flags.required_text("relay")?),
        "move_relay" => Task::MoveRelay(
            flags.required_text("relay")?,
            Some(flags.text("site", "")?).filter(|site| !site.is_empty()),
        ),
        "get" => Task::Get(flags.place()?, flags.key()?),
        "get_matches" => Task::GetMatches(
            flags.place()?,
            bytes(flags.get("prefix").cloned().unwrap_or_default()),
        ),
        "put" => Task::Put(flags.place()?, flags.key()?, flags.value()?, flags.context()?),
        "delete" => Task::Delete(flags.place()?, flags.key()?, flags.context()?),
        "remove" => Task::RemoveNode(flags.node()?),
        "decommission" => Task::Decommission(flags.number("node", 0)?),
        "replace" => {
            let by = flags.number("replacement_node", 0)?;
            if by == 0 {
                return Err(flags.wrong(
                    "flag -replacement_node is required: the id of a node that was started with \
                     -replacement",
                ));
            }
            Task::Replace(flags.number("node", 0)?, by)
        }
        name => Task::NotYet(name),
    };
    Ok(Client { endpoint, task })
}

impl Flags {
    fn uuid(&self) -> Result<SnapshotId, Failure> {
        self.required_text("uuid")?.parse().map_err(|e| self.wrong(format!("{e}")))
    }

    /// 0, which the guide's program took for the node that is asked, is refused: no node is asked
    /// for its own removal.
    fn node(&self) -> Result<u64, Failure> {
        match self.number("node", 0)? {
            0 => Err(self.wrong("flag -node is required: the id of the node, not 0")),
            node => Ok(node),
        }
    }

    fn place(&self) -> Result<In, Failure> {
        let bucket = self.text("bucket", "default")?;
        let bucket = <Bucket as clap::ValueEnum>::from_str(&bucket, false).map_err(|_| {
            self.wrong(format!(
                "{bucket:?} is not a bucket: there are default, lww, cloud and local"
            ))
        })?;
        Ok(In { site: self.required_text("site")?, bucket })
    }

    fn key(&self) -> Result<Bytes, Failure> {
        kv::key(self.required("key")?, false)
    }

    fn value(&self) -> Result<Bytes, Failure> {
        let value =
            self.get("value").cloned().ok_or_else(|| self.wrong("flag -value is required"))?;
        kv::within_bound(bytes(value))
    }

    fn context(&self) -> Result<Option<Vec<u8>>, Failure> {
        match self.text("context", "")?.as_str() {
            "" => Ok(None),
            text => text::from_base64(text).map(Some).map_err(|e| self.wrong(e)),
        }
    }
}

fn bytes(value: OsString) -> Bytes {
    value.into_vec().into()
}

fn not_yet(command: &str) -> Failure {
    Failure::new(
        exit::FAILED,
        "not available yet",
        format!("devicedb cluster {command}"),
        "see devicedb cluster -help for what is",
    )
}

pub(super) async fn perform(
    command: Client,
    client: &mut client::Client,
    console: &mut Console,
) -> Result<(), Failure> {
    match command.task {
        Task::Overview => console.write(cluster::look(client).await?.node_table().as_bytes()),
        Task::Snapshot => {
            let (snapshot, warning) = snapshot::create(None, client).await?;
            if !warning.is_empty() {
                console.warn(&warning);
            }
            console.print(&snapshot.brief())?;
            snapshot::judge(&snapshot)
        }
        Task::GetSnapshot(uuid) => get_snapshot(uuid, client, console).await,
        Task::DownloadSnapshot(uuid) => download::stream_out(uuid, 0, client, console).await,
        Task::AddSite(site) => site::add(site, client, console).await,
        Task::RemoveSite(site) => site::remove(site, client, console).await,
        Task::AddRelay(relay) => relay::add(relay, None, client, console).await,
        Task::RemoveRelay(relay) => relay::remove(relay, client, console).await,
        Task::RelayStatus(relay) => {
            let relay = relay::find(&relay, client).await?;
            console.write(format!("relay = {}\nsite = {}\n", relay.id, relay.site).as_bytes())
        }
        Task::MoveRelay(relay, site) => relay::give(relay, site, client, console).await,
        Task::Get(place, key) => get(place.into(), key, client, console).await,
        Task::GetMatches(place, prefix) => get_matches(place.into(), prefix, client, console).await,
        Task::Put(place, key, value, context) => {
            kv::write(&place.into(), key, Some(value), with(context), client, console).await
        }
        Task::Delete(place, key, context) => {
            kv::write(&place.into(), key, None, with(context), client, console).await
        }
        Task::RemoveNode(node_id) => {
            // As the guide's program removed: whether the node answers or not.
            let request =
                v1::RemoveNodeRequest { node_id, force: true, ..v1::RemoveNodeRequest::default() };
            removal::run(request, None, client, console).await
        }
        Task::Decommission(node) => {
            let node = if node == 0 { who(client).await? } else { node };
            let asked = departure::Asked { node, ..departure::Asked::default() };
            departure::decommission(asked, client, console).await
        }
        Task::Replace(node, by) => {
            let node = if node == 0 { who(client).await? } else { node };
            let asked = departure::Asked { node, replacement: by, ..departure::Asked::default() };
            departure::replace(asked, client, console).await
        }
        Task::NotYet(command) => Err(not_yet(command)),
    }
}

/// The node that answers.
async fn who(client: &mut client::Client) -> Result<u64, Failure> {
    let call = client::Call::new("ask the node who it is");
    let answer = client
        .call(&call, v1::GetIdentityRequest {}, |channel, request| async move {
            picture::service(channel).get_identity(request).await
        })
        .await?;
    Ok(answer.body.node_id)
}

/// The part of the node that answers.
async fn get_snapshot(
    uuid: SnapshotId,
    client: &mut client::Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let (found, node) = snapshot::find(uuid, client).await?;
    let part = snapshot::part_of(&found, node);
    let reason = if part.status == "failed" { part.reason.clone() } else { String::new() };
    console.print(&Brief { uuid: uuid.to_string(), status: part.status, reason })?;
    snapshot::judge_part(&uuid.to_string(), &part)
}

async fn get(
    place: Place,
    key: Bytes,
    client: &mut client::Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let found = kv::read(&place, key.clone(), false, client).await?;
    console.write(values(found.values(), &found.context).as_bytes())?;
    if found.siblings.is_empty() {
        let what = format!("key \"{}\" does not exist", text::escape(&key));
        return Err(Failure::new(
            exit::NOT_FOUND,
            what,
            format!("site {:?}", place.site),
            "list what does with get_matches",
        ));
    }
    Ok(())
}

async fn get_matches(
    place: Place,
    prefix: Bytes,
    client: &mut client::Client,
    console: &mut Console,
) -> Result<(), Failure> {
    let request = v1::ScanRequest {
        site: place.site.clone(),
        bucket: place.bucket.proto(),
        prefix,
        ..Default::default()
    };
    let mut found = false;
    kv::walk(request, client, |entries| {
        let mut blocks = String::new();
        for entry in entries {
            let held = entry.siblings.iter().map(|sibling| &sibling.value);
            let gap = if found { "\n" } else { "" };
            blocks += &format!(
                "{gap}Key: {}\n{}",
                text::escape(&entry.key),
                values(held, &entry.context)
            );
            found = true;
        }
        console.write(blocks.as_bytes())
    })
    .await?;
    if found { Ok(()) } else { console.write(b"No keys returned\n") }
}

fn values<'a>(values: impl Iterator<Item = &'a Bytes>, context: &[u8]) -> String {
    let values: Vec<String> = values.map(|value| text::escape(value)).collect();
    format!("Values: [{}]\nContext: {}\n", values.join(" "), text::base64(context))
}

fn with(context: Option<Vec<u8>>) -> Write {
    Write { context: context.map(Token), ..Default::default() }
}

impl From<In> for Place {
    fn from(place: In) -> Place {
        Place { site: place.site, bucket: place.bucket, hex: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn start_args(line: &str) -> StartArgs {
        match parse(&words(line)).unwrap() {
            Command::Start(start) => start,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_guides_starts_are_understood() {
        let first = start_args(
            "start -replication_factor 3 -store /var/lib/devicedb/ddb1 -port 8080 -snapshot_store \
             /var/lib/devicedb/snapshots",
        );
        let expected = StartArgs {
            store: "/var/lib/devicedb/ddb1".into(),
            host: "localhost".into(),
            port: 8080,
            join: Vec::new(),
            replication_factor: 3,
            partitions: 1024,
            snapshot_store: Some("/var/lib/devicedb/snapshots".into()),
            replacement: false,
            log_level: "info".into(),
        };
        assert_eq!(first, expected);
        let second = start_args(
            "start -store=/s --port=8181 -join localhost:8080 -snapshot_store= -replacement=false \
             -partitions 64 -partitions 128",
        );
        assert_eq!(
            (
                second.port,
                second.join.first().map(String::as_str),
                second.snapshot_store,
                second.partitions
            ),
            (8181, Some("localhost:8080"), None, 128)
        );
    }

    #[test]
    fn every_command_is_understood_or_refused_in_one_line() {
        let mut story = String::new();
        for line in [
            "overview -port 8181",
            "overview -host ::1 --port=8282",
            "snapshot",
            "get_snapshot -port 8080 -uuid b54a61d9-b64c-45e0-94b7-80c9e36b86fa",
            "download_snapshot -uuid 19a7e40e-adcc-4cc2-87a7-ae599272b050 -port 8080",
            "add_site -site shop-1",
            "remove_site -site shop-1",
            "add_relay -relay r1",
            "remove_relay -relay r1",
            "relay_status -relay r1",
            "move_relay -relay r1 -site shop-1",
            "move_relay -relay r1",
            "get -site s -key k",
            "get -site s -bucket lww -key -dashed",
            "get_matches -site s -prefix p",
            "put -site s -key k -value=",
            "put -site s -key k -value v -context YWI=",
            "delete -site s -key k",
            "log_dump",
            "remove -node 5",
            "remove",
            "remove -node five",
            "decommission",
            "replace -replacement_node 7",
            "replace -node 5 -replacement_node 7",
            "replace -node 5",
            "help",
            "overview -help",
            "",
            "overviw",
            "overview -porrt 5",
            "overview -port",
            "overview -port zero",
            "overview -port 0",
            "overview -host a/b",
            "overview extra",
            "overview --",
            "get_snapshot",
            "get_snapshot -uuid nonsense",
            "add_site",
            "get -site s",
            "get -key k",
            "get -site s -bucket x -key k",
            "put -site s -key k",
            "put -site s -key k -value v -context *",
            "start",
            "start -store /s -port 99999",
            "start -store /s -replacement",
            "start -store /s -join localhost:8080 -replacement",
            "start -store /s -replacement=maybe",
        ] {
            let told = match parse(&words(line)) {
                Ok(Command::Client(Client { endpoint, task })) => format!("{task:?} at {endpoint}"),
                Ok(other) => format!("{other:?}"),
                Err(failure) => format!("exit {}: {failure}", failure.exit),
            };
            story += &format!("{line}\n  {told}\n");
        }
        crate::ctl::golden::check("guide.txt", &story);
    }

    #[test]
    fn values_are_shown_as_the_guide_shows_them() {
        assert_eq!(
            values([Bytes::from_static(b"a"), Bytes::from_static(b"b\n")].iter(), b"ctx"),
            "Values: [a b\\n]\nContext: Y3R4\n"
        );
        assert_eq!(values([].iter(), b""), "Values: []\nContext: \n");
    }

    #[test]
    fn what_the_environment_says_must_be_what_it_is_for() {
        assert_eq!(timeout(None).unwrap(), limits::GUIDE_TIMEOUT);
        assert_eq!(timeout(Some("500ms".into())).unwrap(), Duration::from_millis(500));
        assert_eq!(timeout(Some("soon".into())).unwrap_err().exit, exit::USAGE);
        assert_eq!(pinned(None).unwrap(), None);
        assert_eq!(pinned(Some("".into())).unwrap_err().exit, exit::USAGE);
    }
}
