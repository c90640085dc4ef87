//! `devicedb start --config FILE`, up to what clap and the start make of it.

use std::{fs, path::Path, process::Command};

/// How a start ends that cannot work, and what it says.
fn starts(directory: &Path, settings: &str, words: &[&str], variables: &[(&str, &str)]) -> String {
    let file = directory.join("devicedb.toml");
    fs::write(&file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_devicedb"));
    command.args(["start", "--config"]).arg(&file).args(words).envs(variables.iter().copied());
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    said
}

#[test]
fn a_setting_is_the_flag_that_it_names_and_gives_way_to_what_is_said_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    let store = format!("store = \"{}\"\n", dir.join("store").display());
    // Each is refused, with the value that counts.
    let bad = format!("{store}listen = \"here\"\n");
    assert!(starts(dir, &bad, &[], &[]).contains("'here' for '--listen"));
    let by_variable = starts(dir, &bad, &[], &[("DEVICEDB_LISTEN", "there")]);
    assert!(by_variable.contains("'there' for '--listen"), "{by_variable}");
    let by_both = starts(dir, &bad, &["--listen=away"], &[("DEVICEDB_LISTEN", "there")]);
    assert!(by_both.contains("'away' for '--listen"), "{by_both}");
    // What excludes what is as on the command line, also between the two.
    let both = starts(dir, &format!("{store}found = true\n"), &["--join", "db1:1"], &[]);
    assert!(both.contains("cannot be used with"), "{both}");
    let list = format!("{store}join = [\"db1:1\", \"no address\"]\nfound = false\n");
    assert!(starts(dir, &list, &[], &[]).contains("no address"));
    assert!(!dir.join("store").exists(), "nothing was made of any of it");
}

#[test]
fn what_is_wrong_with_the_file_is_said_by_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path();
    for (settings, said) in [
        (
            "stroe = \"/x\"\n",
            "devicedb.toml:1: there is no setting \"stroe\": did you mean \"store\"?",
        ),
        ("store = \"/x\"\nnothing-like-it = 1\n", "devicedb.toml:2: there is no setting"),
        ("config = \"other.toml\"\n", "devicedb.toml:1: there is no setting \"config\""),
        ("store = \"/x\"\nfound = \"yes\"\n", "devicedb.toml:2: found is true or false"),
        ("store = [\"/x\"]\n", "devicedb.toml:1: store is array"),
        ("\n[store]\npath = \"/x\"\n", "devicedb.toml:2: store is table"),
        ("store = \"/x\ngroups = 8\n", "devicedb.toml:1: "),
    ] {
        let found = starts(dir, settings, &[], &[]);
        assert!(found.contains(said), "{settings}{found}");
    }
    let absent = Command::new(env!("CARGO_BIN_EXE_devicedb"))
        .args(["start", "--config=/does/not/exist.toml"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&absent.stderr);
    assert!(absent.status.code() == Some(2) && said.contains("/does/not/exist.toml"), "{said}");
}
