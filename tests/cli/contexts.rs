//! Clusters by name: what the configuration file says, what is said instead, and what is refused.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::Command,
};

use tempfile::TempDir;

use crate::{
    at,
    fake::{Fake, Running, Script},
    nowhere, one_value, told,
};

/// A person's files.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new(config: &str) -> Home {
        let home = Home { dir: TempDir::with_prefix("devicedb-home-").unwrap() };
        home.write("config.toml", config, 0o600);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("devicedb").join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn config(&self) -> String {
        fs::read_to_string(self.path("config.toml")).unwrap()
    }

    fn ctl(&self, args: Words, environment: Environment) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddbctl"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DDBCTL_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.dir.path());
        command.env("DDBCTL_TIMEOUT", "2s").envs(environment.iter().copied()).args(args);
        told(command.output().unwrap())
    }

    /// Every path of this home as if it lay at one place.
    fn plain(&self, words: &str) -> String {
        words.replace(&self.dir.path().display().to_string(), "HOME")
    }
}

type Words<'a> = &'a [&'a str];
type Environment<'a> = &'a [(&'a str, &'a str)];

const GET: [&str; 4] = ["get", "--site", "s", "k"];

fn server() -> Running {
    Fake::run(Script { gets: [Ok(one_value(b"v"))].into(), ..Default::default() })
}

fn gets(server: &Running) -> usize {
    server.seen.lock().unwrap().gets
}

fn two(first: &Running, second: &Running) -> String {
    format!(
        "# Mine.\ncurrent = \"first\"\n\n[contexts.first]\nendpoints = [\"{}\"]\n\n\
         [contexts.second] # The other one.\nendpoints = [\"{}\"]\n",
        at(first),
        at(second)
    )
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_context() {
    let servers = [server(), server(), server(), server()];
    let home = Home::new(&two(&servers[0], &servers[1]));
    let (third, fourth) = (at(&servers[2]), at(&servers[3]));
    let environment = [("DDBCTL_CONTEXT", "second")];
    let cases: [(Words, Environment, usize); 5] = [
        (&[], &[], 0),
        (&[], &environment, 1),
        (&["--context", "first"], &environment, 0),
        (&[], &[("DDBCTL_CONTEXT", "second"), ("DDBCTL_ENDPOINT", &third)], 2),
        (&["--endpoint", &fourth], &[("DDBCTL_ENDPOINT", &third)], 3),
    ];
    for (flags, environment, asked) in cases {
        let before: Vec<usize> = servers.iter().map(gets).collect();
        let (exit, _, words) = home.ctl(&[flags, &GET].concat(), environment);
        assert_eq!(exit, 0, "{flags:?} {environment:?}: {words}");
        let more: Vec<usize> = servers.iter().map(gets).zip(before).map(|(a, b)| a - b).collect();
        let wanted: Vec<usize> = (0..4).map(|at| usize::from(at == asked)).collect();
        assert_eq!(more, wanted, "{flags:?} {environment:?}");
    }
    // An empty name is no context, whatever is current: the node that is asked then is at home.
    let (exit, _, words) = home.ctl(&[&["--context", ""], &GET[..]].concat(), &[]);
    assert!(exit == 0 || words.contains("127.0.0.1:8080"), "{words}");
    assert_eq!(servers.iter().map(gets).sum::<usize>(), 5);
}

#[test]
fn contexts_are_listed_shown_and_chosen_and_the_file_stays_as_it_is_written() {
    let (first, second) = (server(), server());
    let home = Home::new(&two(&first, &second));
    let (exit, out, _) = home.ctl(&["context", "list"], &[]);
    let rows: Vec<&str> = out.lines().filter(|line| line.contains("without TLS")).collect();
    assert_eq!((exit, rows.len()), (0, 2), "{out}");
    assert!(rows[0].contains("first") && rows[0].contains('*') && !rows[1].contains('*'), "{out}");

    let before = home.config();
    let (exit, out, words) = home.ctl(&["context", "use", "second"], &[]);
    assert_eq!((exit, out.as_str(), words.as_str()), (0, "", "second is used from now on\n"));
    assert_eq!(home.config(), before.replace("\"first\"", "\"second\""));
    let mode = fs::metadata(home.path("config.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (exit, out, _) = home.ctl(&["context", "show"], &[]);
    let wanted = format!("name         second  (in use)\nendpoints    {}\n", at(&second));
    assert_eq!((exit, out), (0, wanted));
    let (_, out, _) = home.ctl(&["context", "show", "first", "-o", "json"], &[]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["name"], &shown["current"]), (&"first".into(), &false.into()));
    assert_eq!(home.ctl(&GET, &[]).0, 0);
    assert_eq!((gets(&first), gets(&second)), (0, 1));

    let (_, _, words) = home.ctl(&["context", "use", "first"], &[("DDBCTL_CONTEXT", "second")]);
    assert!(words.contains("names \"second\" instead"), "{words}");

    // Without a current one yet, and where the file is a link to one that is kept elsewhere.
    let kept = home.path("kept.toml");
    fs::write(&kept, before.replace("current = \"first\"\n", "")).unwrap();
    fs::remove_file(home.path("config.toml")).unwrap();
    symlink(&kept, home.path("config.toml")).unwrap();
    let (exit, _, words) = home.ctl(&["context", "show"], &[]);
    assert!(exit == 2 && words.contains("no context is in use"), "{words}");
    assert_eq!(home.ctl(&["context", "use", "first"], &[]).0, 0);
    assert!(fs::read_to_string(&kept).unwrap().starts_with("current = \"first\"\n# Mine.\n"));
    assert!(home.path("config.toml").symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_context_that_is_not_there_or_a_file_that_is_wrong_is_told_before_anything_is_asked() {
    let server = server();
    let home = Home::new(&two(&server, &server));
    let none = Home { dir: TempDir::with_prefix("devicedb-home-").unwrap() };
    let told = |home: &Home, args: &[&str], says: &str| {
        let (exit, out, words) = home.ctl(args, &[]);
        assert_eq!((exit, out.as_str(), words.lines().count()), (2, "", 1), "{args:?}: {words}");
        assert!(home.plain(&words).contains(says), "{says}: {}", home.plain(&words));
    };
    told(&home, &["--context", "frist", "node", "list"], "did you mean \"first\"?");
    told(&home, &["context", "use", "thrid"], "there is no context \"thrid\"");
    told(&none, &["--context", "prod", "node", "list"], "there is no HOME/devicedb/config.toml");
    told(&none, &["context", "show"], "there is no HOME/devicedb/config.toml");
    let (exit, out, _) = none.ctl(&["context", "list", "-o", "json"], &[]);
    assert_eq!((exit, out.contains("\"contexts\": []")), (0, true), "{out}");

    home.write("config.toml", "[contexts.prod]\nendpoint = [\"a:1\"]\n", 0o600);
    told(&home, &["node", "list"], "HOME/devicedb/config.toml:2: did you mean \"endpoints\"?");
    // What speaks to no cluster does not ask how.
    assert_eq!(home.ctl(&["completions", "bash"], &[]).0, 0);
    assert_eq!(gets(&server), 0);
}

#[test]
fn a_token_is_sent_from_a_file_that_nobody_else_can_read_and_never_in_the_open() {
    let server = server();
    let secret = "ddb_0123abcd_a-secret-of-43-characters";
    let line = |rest: &str| {
        format!("current = \"c\"\n[contexts.c]\nendpoints = [\"{}\"]\n{rest}", at(&server))
    };
    let home = Home::new(&line("token_file = \"token\"\n"));
    let refused = |says: &str, environment: Environment| {
        let (exit, _, words) = home.ctl(&GET, environment);
        assert_eq!((exit, words.lines().count()), (2, 1), "{words}");
        assert!(home.plain(&words).contains(says), "{says}: {words}");
        assert!(!words.contains(secret), "{words}");
    };
    refused("HOME/devicedb/token", &[]);
    home.write("token", "", 0o600);
    refused("it holds no token: HOME/devicedb/token", &[]);
    home.write("token", "two words", 0o600);
    refused("it holds no token", &[]);
    home.write("token", &format!("{secret}\n"), 0o640);
    refused("others can read the file, and it holds a token: HOME/devicedb/token: chmod 600", &[]);
    home.write("token", &format!("{secret}\n"), 0o600);
    home.write("config.toml", &home.config(), 0o644);
    refused("which token goes to which cluster: HOME/devicedb/config.toml: chmod 600", &[]);
    home.write("config.toml", &home.config(), 0o600);
    let elsewhere = [("DDBCTL_ENDPOINT", "db.example:8080")];
    refused("not sent without TLS, and db.example:8080 is another machine", &elsewhere);
    assert_eq!(gets(&server), 0, "nobody was asked");

    let (exit, _, words) = home.ctl(&GET, &[]);
    assert_eq!(exit, 0, "{words}");
    // Relative to where one stands, as any flag.
    let token = home.path("token").display().to_string();
    home.write("config.toml", &line(""), 0o644);
    assert_eq!(home.ctl(&GET, &[("DDBCTL_TOKEN_FILE", &token)]).0, 0);
    assert_eq!(home.ctl(&GET, &[]).0, 0);
    let seen = server.seen.lock().unwrap().callers.clone();
    let bearer = Some(format!("Bearer {secret}"));
    assert_eq!(seen, [bearer.clone(), bearer, None]);

    home.write("config.toml", &line(&format!("token = \"{secret}\"\n")), 0o600);
    refused("a token does not stand here", &[]);
    let (_, out, _) = home.ctl(&["context", "list"], &[]);
    assert!(!out.contains(secret), "{out}");
}

#[test]
fn what_belongs_together_is_named_together() {
    let home = Home::new("");
    let endpoint = nowhere();
    for (flags, says) in [
        (&["--cert", "c.crt", "--ca", "ca.crt"][..], "c.crt has no key: name its key with --key"),
        (&["--key", "c.key", "--ca", "ca.crt"], "c.key has no certificate"),
        (&["--cert", "c.crt", "--key", "c.key"], "a certificate is named, and no CA"),
        (&["--server-name", "db"], "a server's name is named, and no CA"),
        (
            &["--ca", "ca.crt", "--cert", "c.crt", "--key", "c.key", "--token-file", "t"],
            "c.crt and t are two callers: leave out",
        ),
        (&["--ca", "none.crt"], "none.crt: No such file"),
    ] {
        let args = [&["--endpoint", &endpoint], flags, &GET[..]].concat();
        let (exit, _, words) = home.ctl(&args, &[]);
        assert_eq!((exit, words.lines().count()), (2, 1), "{words}");
        assert!(words.contains(says), "{says}: {words}");
    }
}
