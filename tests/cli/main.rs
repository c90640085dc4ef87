//! `ddbctl` against servers that break off, hang, lie or are not there. What it does against a real
//! cluster is tested with real nodes.

mod contexts;
mod contract;
mod downloads;
mod fake;
mod guide;
mod manual;
mod settings;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use devicedb::proto::v1::{self, SnapshotStatus as State};
use fake::{Download, End, Fake, Flow, NODE, Running, Script, refusal};
use tonic::Code;

const UUID: &str = "19a7e40e-adcc-4cc2-87a7-ae599272b050";

fn ddbctl(endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddbctl"));
    command
        .args(["--endpoint", endpoint])
        .args(args)
        .env_remove("DDBCTL_ENDPOINT")
        .env_remove("DDBCTL_CLUSTER_ID")
        .env_remove("DDBCTL_TIMEOUT")
        .env_remove("DDBCTL_OUTPUT")
        // What the person who runs the tests has written down is not what is tested.
        .env("DDBCTL_CONTEXT", "");
    command
}

fn run(endpoint: &str, args: &[&str]) -> (i32, String, String) {
    told(ddbctl(endpoint, args).stdin(Stdio::null()).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it exits by itself"), text(&output.stdout), text(&output.stderr))
}

fn at(server: &Running) -> String {
    server.address.to_string()
}

/// Bytes that no two places of which look alike.
fn tar() -> Vec<u8> {
    (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

fn downloads(how: impl IntoIterator<Item = Download>) -> Script {
    Script { tar: tar(), downloads: how.into_iter().collect(), ..Default::default() }
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = directory
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// An address where nobody listens.
fn nowhere() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A proxy to a server whose first connection breaks after so many bytes towards the client. Its
/// thread ends with the test's process.
fn fragile_line(to: &Running, bytes_max: usize) -> String {
    let (listener, server) = (TcpListener::bind("127.0.0.1:0").unwrap(), to.address);
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for (nth, client) in listener.incoming().enumerate() {
            let (client, upstream) = (client.unwrap(), TcpStream::connect(server).unwrap());
            let (up, down) =
                ((client.try_clone().unwrap(), upstream.try_clone().unwrap()), (upstream, client));
            thread::spawn(move || pipe(up.0, up.1, usize::MAX));
            let most = if nth == 0 { bytes_max } else { usize::MAX };
            thread::spawn(move || pipe(down.0, down.1, most));
        }
    });
    address
}

fn pipe(mut from: TcpStream, mut to: TcpStream, mut most: usize) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if n > most || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        most -= n;
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn part(node_id: u64, status: State) -> v1::SnapshotPart {
    v1::SnapshotPart {
        node_id,
        status: status.into(),
        address: format!("localhost:{node_id}"),
        ..Default::default()
    }
}

fn snapshot(
    status: State,
    reason: &str,
    parts: &[v1::SnapshotPart],
) -> Result<v1::Snapshot, tonic::Status> {
    Ok(v1::Snapshot {
        uuid: UUID.into(),
        status: status.into(),
        reason: reason.into(),
        parts: parts.to_vec(),
        ..Default::default()
    })
}

#[test]
fn a_snapshot_under_way_or_missing_has_no_set_to_download() {
    let directory = tempfile::tempdir().unwrap();
    let into = directory.path().join("new");
    for state in [State::Processing, State::Missing] {
        let server = Fake::run(Script {
            snapshots: [snapshot(state, "", &[])].into(),
            ..Default::default()
        });
        let (exit, _, words) = run(
            &at(&server),
            &["snapshot", "download", UUID, "--all", "--output", into.to_str().unwrap()],
        );
        assert_eq!(exit, 5, "{words}");
        assert!(!into.exists());
    }
}

#[test]
fn waiting_ends_as_the_snapshot_ends() {
    let under_way = || snapshot(State::Processing, "", &[part(7, State::Processing)]);
    let ends = [
        (
            snapshot(State::Completed, "", &[part(7, State::Completed), part(8, State::Missing)]),
            0,
            "status = completed\n",
        ),
        (
            snapshot(State::Failed, "node 7: disk full", &[]),
            1,
            "status = failed\nreason = node 7: disk full\n",
        ),
        (snapshot(State::Missing, "", &[]), 5, "status = missing\n"),
    ];
    for (end, expected, shown) in ends {
        let server = Fake::run(Script {
            snapshots: [under_way(), under_way(), end].into(),
            ..Default::default()
        });
        let (exit, out, words) = run(&at(&server), &["snapshot", "create", "--wait"]);
        assert_eq!(exit, expected, "{words}");
        let uuid = uuid::Uuid::from_slice(&server.seen.lock().unwrap().request_ids[0]).unwrap();
        assert_eq!(out, format!("uuid = {uuid}\n{shown}"));
        assert_eq!(words.contains("node 8"), expected == 0, "{words}");
    }
}

#[test]
fn a_wait_has_an_end_when_it_is_told_one() {
    let server = Fake::run(Script {
        snapshots: [snapshot(State::Processing, "", &[])].into(),
        ..Default::default()
    });
    let (exit, _, words) =
        run(&at(&server), &["snapshot", "create", "--wait", "--wait-timeout", "300ms"]);
    assert_eq!(exit, 3);
    assert!(words.contains("is still processing") && words.contains("snapshot status"), "{words}");
}

#[test]
fn a_snapshot_that_failed_at_once_exits_1_with_the_reason() {
    let server = Fake::run(Script {
        snapshots: [snapshot(State::Failed, "no node has a snapshot store", &[])].into(),
        ..Default::default()
    });
    let (exit, out, words) = run(&at(&server), &["snapshot", "create"]);
    assert_eq!(exit, 1);
    assert!(out.ends_with("status = failed\nreason = no node has a snapshot store\n"), "{out}");
    assert!(words.contains("failed: no node has a snapshot store"), "{words}");
}

#[test]
fn an_unknown_uuid_exits_5_and_a_malformed_one_2() {
    let server = Fake::run(Script {
        snapshots: [snapshot(State::Missing, "", &[])].into(),
        ..Default::default()
    });
    let (exit, out, _) = run(&at(&server), &["snapshot", "status", UUID]);
    assert_eq!((exit, out), (5, format!("uuid = {UUID}\nstatus = missing\n")));
    let (exit, out, words) = run(&at(&server), &["snapshot", "status", "nonsense"]);
    assert_eq!((exit, out.as_str(), words.lines().count()), (2, "", 1), "{words}");
}

#[test]
fn a_write_is_repeated_under_the_same_name_until_it_is_answered() {
    let puts = [
        Err(refusal(Code::Unavailable, "UNKNOWN_OUTCOME", "the leader went away")),
        Err(refusal(Code::Unavailable, "UNAVAILABLE", "there is no leader")),
        Ok(v1::PutResponse::default()),
    ];
    let server = Fake::run(Script { puts: puts.into(), ..Default::default() });
    let (exit, out, words) =
        run(&format!("{},{}", nowhere(), server.address), &["put", "--site", "s", "k", "v"]);
    assert_eq!((exit, out.as_str(), words.as_str()), (0, "", ""));
    let ids = &server.seen.lock().unwrap().request_ids;
    assert_eq!(ids.len(), 3);
    assert!(ids[0].len() == 16 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn a_server_that_never_answers_ends_a_command_in_time_and_a_write_as_unknown() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let (exit, _, words) = run(&address, &["--timeout", "300ms", "get", "--site", "s", "k"]);
    assert_eq!((exit, words.lines().count()), (3, 1), "{words}");
    assert!(words.contains(&address) && words.contains("no answer within 0.3 s"), "{words}");
    let (exit, _, words) = run(&address, &["--timeout", "300ms", "put", "--site", "s", "k", "v"]);
    assert_eq!(exit, 3);
    assert!(words.contains("it may have taken effect; repeat it with --request-id "), "{words}");
    let (exit, _, words) = run(&address, &["--timeout", "300ms", "snapshot", "create"]);
    assert_eq!(exit, 3);
    assert!(words.contains("look with ddbctl snapshot status "), "{words}");
}

#[test]
fn a_deadline_that_ends_while_it_tries_again_names_the_last_reason_that_the_server_gave() {
    let reason = |words| Err(refusal(Code::Unavailable, "UNAVAILABLE", words));
    let gets = [reason("group 3 is not here"), reason("group 3 has no leader")];
    let server =
        Fake::run(Script { gets: gets.into(), gets_answered: Some(2), ..Default::default() });
    // Long enough for three questions on a busy machine.
    let (exit, out, words) = run(&at(&server), &["--timeout", "3s", "get", "--site", "s", "k"]);
    assert_eq!((exit, out.as_str(), words.lines().count()), (3, "", 1), "{words}");
    assert!(
        words.contains("no answer within ")
            && words.contains("; before that it said: group 3 has no leader)"),
        "{words}"
    );
}

#[test]
fn a_server_that_never_answers_leaves_time_for_one_that_does() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Fake::run(Script { gets: [Ok(one_value(b"v"))].into(), ..Default::default() });
    let endpoints = format!("{},{}", deaf.local_addr().unwrap(), server.address);
    let (exit, out, words) = run(&endpoints, &["--timeout", "6s", "get", "--site", "s", "k"]);
    assert_eq!((exit, out.as_str()), (0, "v\n"), "{words}");
}

#[test]
fn nobody_there_exits_3_and_says_where_nobody_is() {
    let address = nowhere();
    let (exit, out, words) = run(&address, &["cluster", "overview"]);
    assert_eq!((exit, out.as_str(), words.lines().count()), (3, "", 1));
    assert!(words.contains(&format!("{address} (Connection refused")), "{words}");
}

#[test]
fn an_upload_is_waited_for_and_begun_again_where_nobody_drives_it_any_more() {
    let upload = |status: v1::UploadStatus| {
        let mut upload = v1::Upload {
            repository: "s3://b/p".into(),
            bytes: 70,
            new_bytes: 7,
            root: "ab".into(),
            ..Default::default()
        };
        upload.set_status(status);
        upload
    };
    let looked = |status| {
        let upload = Some(upload(status));
        Ok(v1::Snapshot { upload, ..Default::default() })
    };
    use v1::UploadStatus::{Absent, Failed, Running, Stored};
    let server = Fake::run(Script {
        uploads: [Ok(upload(Running)), Ok(upload(Running))].into(),
        snapshots: [looked(Running), looked(Absent), looked(Stored)].into(),
        ..Default::default()
    });
    let (exit, out, words) = run(&at(&server), &["snapshot", "upload", UUID]);
    let told = format!(
        "uuid = {UUID}\nrepository = s3://b/p\nstored = 70 bytes, 7 of them new\nroot = ab\n"
    );
    assert_eq!((exit, out), (0, told), "{words}");
    let mut failed = upload(Failed);
    failed.reason = "nobody could store group 1: node 2: its disk is gone".into();
    let server = Fake::run(Script { uploads: [Ok(failed)].into(), ..Default::default() });
    let (exit, _, words) = run(&at(&server), &["snapshot", "upload", UUID]);
    assert_eq!(exit, 1, "{words}");
    assert!(words.contains("its disk is gone") && words.contains("goes on where"), "{words}");
}

#[test]
fn a_removal_whose_answer_was_lost_is_done_when_nothing_is_left() {
    let lost = || Err(refusal(Code::Unavailable, "UNKNOWN_OUTCOME", "the leader went away"));
    let absent = || Err(refusal(Code::NotFound, "NOT_FOUND", "there is no such snapshot"));
    let server = Fake::run(Script { deletions: [lost(), absent()].into(), ..Default::default() });
    assert_eq!(run(&at(&server), &["snapshot", "delete", UUID]).0, 0);
    assert_eq!(run(&at(&server), &["snapshot", "delete", UUID]).0, 5, "nothing was lost this time");
}

#[test]
fn a_list_that_does_not_end_is_left() {
    let server = Fake::run(Script::default());
    let (exit, _, words) = run(&at(&server), &["snapshot", "list"]);
    assert_eq!(exit, 1);
    assert!(words.contains("the list does not end"), "{words}");
}

#[test]
fn a_scan_that_breaks_goes_on_behind_its_last_key() {
    let page = |keys: &[&'static str]| v1::ScanResponse {
        entries: keys
            .iter()
            .map(|k| v1::ScanEntry {
                key: Bytes::from_static(k.as_bytes()),
                siblings: vec![Default::default()],
                ..Default::default()
            })
            .collect(),
    };
    let broken = Flow {
        pieces: vec![page(&["a", "b"])],
        then: End::Fail(refusal(Code::Unavailable, "UNAVAILABLE", "the leader moved")),
    };
    let rest = Flow { pieces: vec![page(&["c"])], then: End::Close };
    let server = Fake::run(Script { scans: [broken, rest].into(), ..Default::default() });
    let (exit, out, words) = run(&at(&server), &["scan", "--site", "s", "--limit", "9"]);
    assert_eq!((exit, out.as_str(), words.as_str()), (0, "a\t\nb\t\nc\t\n", ""));
    let asked = &server.seen.lock().unwrap().scans;
    assert_eq!((asked[1].after.as_ref(), asked[1].limit), (&b"b"[..], 7));
}

fn one_value(value: &'static [u8]) -> v1::GetResponse {
    v1::GetResponse {
        siblings: vec![v1::Sibling { value: Bytes::from_static(value), timestamp_ms: 0 }],
        context: Bytes::from_static(b"ctx"),
        leader: None,
    }
}

#[test]
fn raw_values_are_their_bytes_and_missing_keys_exit_5() {
    let two = v1::GetResponse { siblings: vec![Default::default(); 2], ..one_value(b"") };
    let gets = [Ok(one_value(b"\0\xff\n")), Ok(v1::GetResponse::default()), Ok(two)];
    let server = Fake::run(Script { gets: gets.into(), ..Default::default() });
    let get = ["get", "--site", "s", "k", "--raw"];
    let output = ddbctl(&at(&server), &get).output().unwrap();
    assert_eq!((output.status.code(), output.stdout), (Some(0), b"\0\xff\n".to_vec()));
    let (exit, out, words) = run(&at(&server), &get);
    assert_eq!((exit, out.as_str()), (5, ""));
    assert!(
        words.starts_with("ddbctl: key \"k\" does not exist: site \"s\", bucket default"),
        "{words}"
    );
    let (exit, _, words) = run(&at(&server), &get);
    assert_eq!(exit, 5);
    assert!(words.contains("holds 2 concurrent values"), "{words}");
}

#[test]
fn what_the_server_refuses_is_said_with_its_exit_code() {
    for (code, reason, expected) in [
        (Code::InvalidArgument, "INVALID", 2),
        (Code::PermissionDenied, "", 4),
        (Code::NotFound, "NOT_FOUND", 5),
        (Code::FailedPrecondition, "CONFLICT", 5),
        (Code::DataLoss, "CORRUPT", 1),
    ] {
        let server = Fake::run(Script {
            gets: [Err(refusal(code, reason, "no, because"))].into(),
            ..Default::default()
        });
        let (exit, out, words) = run(&at(&server), &["get", "--site", "s", "k"]);
        assert_eq!((exit, out.as_str()), (expected, ""));
        assert_eq!(
            words,
            format!("ddbctl: cannot get key \"k\": no, because: {}\n", server.address)
        );
    }
}

#[test]
fn the_environment_says_what_the_command_line_does_not() {
    let server = Fake::run(Script { gets: [Ok(one_value(b"v"))].into(), ..Default::default() });
    let mut command = Command::new(env!("CARGO_BIN_EXE_ddbctl"));
    command
        .args(["get", "--site", "s", "k"])
        .env("DDBCTL_ENDPOINT", at(&server))
        .env("DDBCTL_OUTPUT", "json")
        .env("DDBCTL_TIMEOUT", "5s");
    let (exit, out, _) = told(command.output().unwrap());
    assert_eq!(exit, 0);
    assert!(out.contains("\"utf8\": \"v\""), "{out}");
    let (exit, _, words) = told(command.env("DDBCTL_TIMEOUT", "soon").output().unwrap());
    assert_eq!((exit, words.lines().count()), (2, 1), "{words}");
}

#[test]
fn what_goes_wrong_is_an_object_where_results_are_json_and_a_line_elsewhere() {
    let (exit, out, words) = run(&nowhere(), &["-o", "json", "--timeout", "100ms", "node", "list"]);
    assert_eq!((exit, &*out), (3, ""));
    let said: serde_json::Value =
        serde_json::from_str(&words).unwrap_or_else(|e| panic!("{e}: {words}"));
    assert_eq!(said["error"]["exit"], 3, "{said}");
    for field in ["what", "place", "remedy"] {
        assert!(said["error"][field].is_string(), "{field}: {said}");
    }
    let (exit, _, words) = run(&nowhere(), &["--timeout", "100ms", "node", "list"]);
    assert!(exit == 3 && words.starts_with("ddbctl: "), "{words}");
}

#[test]
fn those_who_know_other_databases_are_told_the_words_of_this_one() {
    for (words, remedy) in [
        (&["snapshot", "save", "all.db"][..], "ddbctl backup --to DIR"),
        (&["snapshot", "restore"], "ddbctl restore PART..."),
        (&["snapshot", "restore", "/does/not/exist.tar"], "there is no such part"),
    ] {
        let (exit, _, said) = run(&nowhere(), words);
        assert!(matches!(exit, 2 | 5) && said.contains(remedy), "{words:?}: {exit} {said}");
    }
    for (words, begins) in [(&["version"][..], "ddbctl "), (&["help", "snapshot"], "Consistent ")] {
        let said = Command::new(env!("CARGO_BIN_EXE_ddbctl")).args(words).output().unwrap();
        let (exit, out, _) = told(said);
        assert!(exit == 0 && out.starts_with(begins), "{words:?}: {exit} {out}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (exit, out, _) = run(&nowhere(), &["completions", shell]);
        assert!(exit == 0 && out.contains("ddbctl"), "{shell}");
    }
}
