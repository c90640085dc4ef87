//! The guide's client commands, as a script would run them.

use std::{net::TcpListener, process::Command};

use bytes::Bytes;
use devicedb::proto::v1::{self, SnapshotStatus as State};

use crate::{
    UUID, downloads,
    fake::{Download, End, Fake, Flow, NODE, Running, Script},
    one_value, part, snapshot, tar, told,
};

fn cluster(server: &Running, line: &str) -> (i32, String, String) {
    let port = server.address.port().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_devicedb"));
    command
        .arg("cluster")
        .args(line.split_whitespace())
        .args(["-host", "127.0.0.1", "-port", &port])
        .env_remove("DDBCTL_TIMEOUT");
    told(command.output().unwrap())
}

#[test]
fn snapshot_prints_its_two_lines_on_stdout() {
    let server = Fake::run(Script {
        snapshots: [snapshot(State::Processing, "", &[])].into(),
        ..Default::default()
    });
    let (exit, out, words) = cluster(&server, "snapshot");
    let uuid = uuid::Uuid::from_slice(&server.seen.lock().unwrap().request_ids[0]).unwrap();
    assert_eq!(
        (exit, out, words.as_str()),
        (0, format!("uuid = {uuid}\nstatus = processing\n"), "")
    );
}

#[test]
fn get_snapshot_tells_of_the_part_of_the_contacted_node() {
    let failed = v1::SnapshotPart { reason: "disk full".into(), ..part(NODE, State::Failed) };
    let cases = [
        (
            snapshot(
                State::Processing,
                "",
                &[part(NODE, State::Completed), part(7, State::Processing)],
            ),
            0,
            "status = completed\n",
        ),
        (
            snapshot(
                State::Completed,
                "",
                &[part(NODE, State::Processing), part(7, State::Completed)],
            ),
            0,
            "status = processing\n",
        ),
        (snapshot(State::Completed, "", &[part(7, State::Completed)]), 5, "status = missing\n"),
        (snapshot(State::Missing, "", &[]), 5, "status = missing\n"),
        (snapshot(State::Completed, "", &[failed]), 1, "status = failed\nreason = disk full\n"),
    ];
    for (found, expected, shown) in cases {
        let server = Fake::run(Script { snapshots: [found].into(), ..Default::default() });
        let (exit, out, words) = cluster(&server, &format!("get_snapshot -uuid {UUID}"));
        assert_eq!((exit, out), (expected, format!("uuid = {UUID}\n{shown}")), "{words}");
    }
}

#[test]
fn download_snapshot_writes_the_tar_and_counts_its_bytes() {
    let server = Fake::run(downloads([Download::Whole]));
    let port = server.address.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_devicedb"))
        .args(["cluster", "download_snapshot", "-uuid", UUID, "-port", &port])
        .output()
        .unwrap();
    assert_eq!(output.stdout, tar());
    assert_eq!(
        told(output),
        (
            0,
            String::from_utf8_lossy(&tar()).into_owned(),
            "Downloaded 800000 bytes successfully\n".to_owned()
        )
    );
}

#[test]
fn get_and_get_matches_print_values_and_contexts() {
    let entry = |key: &'static str| v1::ScanEntry {
        key: Bytes::from_static(key.as_bytes()),
        siblings: one_value(b"v").siblings,
        context: Bytes::from_static(b"ctx"),
    };
    let pages = [
        Flow {
            pieces: vec![v1::ScanResponse { entries: vec![entry("k1"), entry("k2")] }],
            then: End::Close,
        },
        Flow { pieces: vec![], then: End::Close },
    ];
    let gets = [Ok(one_value(b"v")), Ok(v1::GetResponse::default())];
    let server = Fake::run(Script { gets: gets.into(), scans: pages.into(), ..Default::default() });
    assert_eq!(
        cluster(&server, "get -site s -key k"),
        (0, "Values: [v]\nContext: Y3R4\n".into(), "".into())
    );
    let (exit, out, words) = cluster(&server, "get -site s -key k");
    assert_eq!((exit, out.as_str()), (5, "Values: []\nContext: \n"));
    assert!(words.starts_with("devicedb: key \"k\" does not exist"), "{words}");
    let blocks = "Key: k1\nValues: [v]\nContext: Y3R4\n\nKey: k2\nValues: [v]\nContext: Y3R4\n";
    assert_eq!(cluster(&server, "get_matches -site s -prefix k"), (0, blocks.into(), "".into()));
    assert_eq!(
        cluster(&server, "get_matches -site s -prefix x"),
        (0, "No keys returned\n".into(), "".into())
    );
}

#[test]
fn what_does_not_work_says_so_with_its_exit_code() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = |args: &[&str]| {
        told(
            Command::new(env!("CARGO_BIN_EXE_devicedb"))
                .arg("cluster")
                .args(args)
                .output()
                .unwrap(),
        )
    };
    let (exit, _, words) =
        run(&["overview", "-host", "127.0.0.1", "-port", &nobody.port().to_string()]);
    assert_eq!((exit, words.lines().count()), (3, 1), "{words}");
    assert_eq!((run(&["log_dump"]).0, run(&["replace"]).0), (1, 2));
    assert_eq!(run(&["get_snapshot", "-uuid", "nonsense"]).0, 2);
    assert_eq!(run(&["overvieww"]).0, 2);
    assert_eq!(run(&["-help"]).0, 0);
}
