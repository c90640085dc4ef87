//! Downloads: streams that break off, lie or go on, and what is left where the file should be.

use super::*;

#[test]
fn a_whole_download_has_its_name_and_its_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::Whole]));
    let path = directory.path().join("part.tar");
    let (exit, out, words) =
        run(&at(&server), &["snapshot", "download", UUID, "--output", path.to_str().unwrap()]);
    assert_eq!(
        (exit, out, words.as_str()),
        (0, format!("{}\n", path.display()), "Downloaded 800000 bytes successfully\n")
    );
    assert_eq!(fs::read(&path).unwrap(), tar());
    assert_eq!(files(directory.path()), ["part.tar"]);
}

#[test]
fn a_download_to_stdout_is_the_tar_and_nothing_else() {
    let server = Fake::run(downloads([Download::Whole]));
    let output = ddbctl(&at(&server), &["snapshot", "download", UUID]).output().unwrap();
    assert_eq!(output.stdout, tar());
    assert_eq!(told(output).2, "Downloaded 800000 bytes successfully\n");
}

#[test]
fn a_stream_without_its_trailer_is_no_download() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::Cut(usize::MAX, End::Close)]));
    let path = directory.path().join("part.tar");
    let (exit, out, words) = run(
        &at(&server),
        &["--timeout", "500ms", "snapshot", "download", UUID, "--output", path.to_str().unwrap()],
    );
    assert_eq!((exit, out.as_str()), (1, ""), "{words}");
    assert!(
        words.contains("part.tar.partial holds 800000 of 800000 bytes: go on with --resume"),
        "{words}"
    );
    assert!(!words.contains("successfully"));
    assert_eq!(files(directory.path()), ["part.tar.partial"]);
}

#[test]
fn bytes_with_another_digest_are_thrown_away() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::WrongDigest]));
    let (exit, out, words) = run(
        &at(&server),
        &["snapshot", "download", UUID, "--output", directory.path().join("p").to_str().unwrap()],
    );
    assert_eq!((exit, out.as_str()), (1, ""));
    assert!(
        words.contains("the bytes are not what was sent")
            && words.contains("the partial file was removed"),
        "{words}"
    );
    assert_eq!(files(directory.path()), [""; 0]);
    let (exit, _, words) = run(&at(&server), &["snapshot", "download", UUID]);
    assert_eq!(exit, 1);
    assert!(words.contains("stdout got 800000 of 800000 bytes: that is no part"), "{words}");
}

#[test]
fn a_connection_that_breaks_is_made_again_and_the_download_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::Whole]));
    let path = directory.path().join("part.tar");
    let line = fragile_line(&server, 300_000);
    let (exit, _, words) =
        run(&line, &["snapshot", "download", UUID, "--output", path.to_str().unwrap()]);
    assert_eq!((exit, words.as_str()), (0, "Downloaded 800000 bytes successfully\n"));
    assert_eq!(fs::read(&path).unwrap(), tar());
    let asked = &server.seen.lock().unwrap().downloads;
    assert_eq!((asked.len(), asked[0].offset, asked[0].node_id, asked[1].node_id), (2, 0, 0, NODE));
    assert!(asked[1].offset > 0 && asked[1].offset < 800_000, "{}", asked[1].offset);
}

#[test]
fn what_a_download_that_failed_left_is_finished_by_resume() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.tar");
    let gone = refusal(Code::Unavailable, "UNAVAILABLE", "the node is shutting down");
    let server = Fake::run(downloads([
        Download::Cut(300_000, End::Fail(gone.clone())),
        Download::Refuse(gone),
    ]));
    let args = [
        "--timeout",
        "500ms",
        "snapshot",
        "download",
        UUID,
        "--resume",
        "--output",
        path.to_str().unwrap(),
    ];
    let (exit, _, words) = run(&at(&server), &args);
    assert_eq!(exit, 3, "{words}");
    assert!(
        words.contains("part.tar.partial holds 300000 of 800000 bytes: go on with --resume"),
        "{words}"
    );

    let server = Fake::run(downloads([Download::Whole]));
    let (exit, _, words) = run(&at(&server), &args);
    assert_eq!((exit, words.as_str()), (0, "Downloaded 800000 bytes successfully\n"));
    assert_eq!(server.seen.lock().unwrap().downloads[0].offset, 300_000);
    assert_eq!(fs::read(&path).unwrap(), tar());

    let (exit, _, words) = run(&at(&server), &args);
    assert_eq!(
        (exit, words.as_str()),
        (0, "Downloaded 800000 bytes successfully\n"),
        "a whole file is compared by its digest"
    );
    assert_eq!(server.seen.lock().unwrap().downloads[1].offset, 800_000);
}

#[test]
fn resuming_what_is_not_the_beginning_of_the_part_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.tar");
    let partial = directory.path().join("part.tar.partial");
    let args = ["snapshot", "download", UUID, "--resume", "--output", path.to_str().unwrap()];
    let server = Fake::run(downloads([Download::Whole]));
    fs::write(&partial, vec![0; 1000]).unwrap();
    let (exit, _, words) = run(&at(&server), &args);
    assert_eq!(exit, 1);
    assert!(words.contains("the partial file was removed"), "{words}");
    assert_eq!(files(directory.path()), [""; 0]);

    fs::write(&partial, vec![0; 900_000]).unwrap();
    let (exit, _, words) = run(&at(&server), &args);
    assert_eq!(exit, 1);
    assert!(
        words.contains("900000 bytes were here before, and the part has 800000")
            && words.contains("move it away"),
        "{words}"
    );
    assert_eq!(
        files(directory.path()),
        ["part.tar.partial"],
        "it may be a beginning of something else"
    );
}

#[test]
fn a_part_that_is_not_there_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::Refuse(refusal(
        Code::NotFound,
        "NOT_FOUND",
        "there is no such snapshot",
    ))]));
    let (exit, out, words) = run(
        &at(&server),
        &["snapshot", "download", UUID, "--output", directory.path().join("p").to_str().unwrap()],
    );
    assert_eq!((exit, out.as_str()), (5, ""));
    assert_eq!(
        words,
        format!(
            "ddbctl: cannot download snapshot {UUID}: there is no such snapshot: {}\n",
            server.address
        )
    );
    assert_eq!(files(directory.path()), [""; 0]);
}

#[test]
fn a_full_disk_is_never_a_success() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::Whole]));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (exit, _, words) =
        told(ddbctl(&at(&server), &["snapshot", "download", UUID]).stdout(full).output().unwrap());
    assert_eq!(exit, 1);
    assert!(
        words.contains("No space left on device") && !words.contains("successfully"),
        "{words}"
    );

    std::os::unix::fs::symlink("/dev/full", directory.path().join("p.partial")).unwrap();
    let (exit, _, words) = run(
        &at(&server),
        &["snapshot", "download", UUID, "--output", directory.path().join("p").to_str().unwrap()],
    );
    assert_eq!(exit, 1, "{words}");
    assert!(!words.contains("successfully"), "{words}");
    assert!(!directory.path().join("p").exists());
}

#[test]
fn a_reader_that_leaves_ends_a_list_quietly_and_fails_a_download() {
    let entry = |n: u32| v1::ScanEntry {
        key: Bytes::from(format!("key{n:08}").repeat(100)),
        siblings: vec![Default::default()],
        ..Default::default()
    };
    let pages = (0..200)
        .map(|page| v1::ScanResponse { entries: (page * 50..page * 50 + 50).map(entry).collect() })
        .collect();
    let script = Script {
        scans: [Flow { pieces: pages, then: End::Close }].into(),
        ..downloads([Download::Whole])
    };
    let server = Fake::run(script);
    for (args, expected) in
        [(&["scan", "--site", "s"][..], 0), (&["snapshot", "download", UUID][..], 1)]
    {
        let mut child = ddbctl(&at(&server), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 10];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut first).unwrap();
        drop(out);
        let (exit, _, words) = told(child.wait_with_output().unwrap());
        assert_eq!(exit, expected, "{words}");
        assert!(!words.contains("panicked") && !words.contains("successfully"), "{words}");
    }
}

#[test]
fn an_interrupt_names_the_partial_file() {
    let directory = tempfile::tempdir().unwrap();
    let server = Fake::run(downloads([Download::Cut(1000, End::Hang)]));
    let partial = directory.path().join("p.partial");
    let mut command = ddbctl(
        &at(&server),
        &[
            "--timeout",
            "60s",
            "snapshot",
            "download",
            UUID,
            "--output",
            directory.path().join("p").to_str().unwrap(),
        ],
    );
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| fs::metadata(&partial).is_ok_and(|file| file.len() == 1000));
    interrupt(&child);
    let (exit, _, words) = told(child.wait_with_output().unwrap());
    assert_eq!(
        (exit, words),
        (
            130,
            format!(
                "ddbctl: interrupted: {} is incomplete; go on with --resume\n",
                partial.display()
            )
        )
    );
}

fn interrupt(child: &Child) {
    rustix::process::kill_process(
        rustix::process::Pid::from_child(child),
        rustix::process::Signal::INT,
    )
    .unwrap();
}

fn wait_for(mut fact: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if fact() {
            return;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
    panic!("it did not come about within 10 s");
}

#[test]
fn all_parts_are_fetched_each_to_its_name_and_the_missing_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let parts = [part(7, State::Completed), part(8, State::Missing), part(9, State::Completed)];
    let server = Fake::run(Script {
        snapshots: [snapshot(State::Completed, "", &parts)].into(),
        ..downloads([Download::Whole])
    });
    let into = directory.path().join("new");
    let (exit, out, words) = run(
        &at(&server),
        &["snapshot", "download", UUID, "--all", "--output", into.to_str().unwrap()],
    );
    assert_eq!(exit, 0, "{words}");
    assert!(words.contains("warning: the part of node 8 is missing and not downloaded"), "{words}");
    assert_eq!(files(&into), [format!("snapshot-{UUID}-7.tar"), format!("snapshot-{UUID}-9.tar")]);
    assert_eq!(out.lines().count(), 2);
}

#[test]
fn a_part_that_fails_does_not_keep_the_others_from_being_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let parts = [part(7, State::Completed), part(9, State::Completed)];
    let how = [
        Download::Refuse(refusal(Code::DataLoss, "CORRUPT", "chunk ab12 is not what was written")),
        Download::Whole,
    ];
    let server = Fake::run(Script {
        snapshots: [snapshot(State::Completed, "", &parts)].into(),
        ..downloads(how)
    });
    // One after the other, since the server's answers are in the order of the parts.
    let to = directory.path().to_str().unwrap();
    let (exit, _, words) = run(
        &at(&server),
        &["snapshot", "download", UUID, "--all", "--parallel", "1", "--output", to],
    );
    assert_eq!(exit, 1);
    assert!(
        words.contains(&format!(
            "cannot download the part of node 7 of snapshot {UUID}: chunk ab12 is not what was \
             written"
        )),
        "{words}"
    );
    assert_eq!(files(directory.path()), [format!("snapshot-{UUID}-9.tar")]);
}

/// Reads all that comes through a FIFO, beside the test.
fn reader(fifo: &Path) -> thread::JoinHandle<Vec<u8>> {
    let fifo = fifo.to_owned();
    thread::spawn(move || fs::read(fifo).unwrap())
}

fn makes(command: &str, args: &[&str]) -> bool {
    Command::new(command).args(args).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn a_download_replaces_what_a_link_leads_to_and_writes_through_what_is_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let named = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let kind = |name: &str| fs::symlink_metadata(named(name)).unwrap().file_type();
    let server = Fake::run(downloads([Download::Whole]));
    let download = |to: &str, more: &[&str]| {
        run(
            &at(&server),
            &[&["--timeout", "2s", "snapshot", "download", UUID, "--output", to], more].concat(),
        )
    };

    fs::write(named("old.tar"), "old").unwrap();
    std::os::unix::fs::symlink("old.tar", named("link.tar")).unwrap();
    let (exit, out, words) = download(&named("link.tar"), &[]);
    assert_eq!((exit, out), (0, format!("{}\n", named("link.tar"))), "{words}");
    assert!(
        words.contains(&format!(
            "{} is a link; it leads to {}",
            named("link.tar"),
            named("old.tar")
        )),
        "{words}"
    );
    assert!(kind("link.tar").is_symlink() && kind("old.tar").is_file());
    assert_eq!(fs::read(named("old.tar")).unwrap(), tar());

    assert!(makes("mkfifo", &[&named("fifo")]));
    let read = reader(Path::new(&named("fifo")));
    let (exit, _, words) = download(&named("fifo"), &[]);
    assert_eq!((exit, read.join().unwrap()), (0, tar()), "{words}");
    assert!(words.contains("is a FIFO and was written through"), "{words}");
    let (exit, _, words) = download(&named("fifo"), &["--resume"]);
    assert!(
        exit == 2 && words.contains("is a FIFO: what went through it before cannot be looked at"),
        "{words}"
    );
    let cut = Fake::run(downloads([Download::Cut(usize::MAX, End::Close)]));
    let read = reader(Path::new(&named("fifo")));
    let (exit, _, words) = run(
        &at(&cut),
        &["--timeout", "500ms", "snapshot", "download", UUID, "--output", &named("fifo")],
    );
    assert!(
        exit == 1
            && words.contains("fifo got 800000 of 800000 bytes: that is no part: throw it away"),
        "{words}"
    );
    read.join().unwrap();

    // A null device of our own, where that is allowed.
    let device = makes("mknod", &[&named("null"), "c", "1", "3"])
        && File::options().write(true).open(named("null")).is_ok();
    if device {
        let (exit, _, words) = download(&named("null"), &[]);
        assert!(exit == 0 && words.contains("is a device and was written through"), "{words}");
    }
    let kinds = [kind("fifo"), kind("link.tar")];
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&kinds[0]) && kinds[1].is_symlink());
    assert!(!device || std::os::unix::fs::FileTypeExt::is_char_device(&kind("null")));

    let (exit, _, words) = download(&named("none/"), &[]);
    assert!(exit == 2 && words.contains("there is no directory"), "{words}");
    let all = Fake::run(Script {
        snapshots: [snapshot(State::Completed, "", &[part(7, State::Completed)])].into(),
        ..downloads([Download::Whole])
    });
    let (exit, _, words) =
        run(&at(&all), &["snapshot", "download", UUID, "--all", "--output", &named("fifo")]);
    assert!(exit == 2 && words.contains("is no directory, and several parts want one"), "{words}");
    assert_eq!(files(directory.path()).iter().filter(|name| name.ends_with(".partial")).count(), 0);
}
