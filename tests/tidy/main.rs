//! Keeps the habits that a machine can keep: who imports whom, what a file looks like, which words
//! do not enter the tree.
//!
//! It reads source as text, laid out as rustfmt lays it out; it does not parse Rust. What rustfmt,
//! clippy (`clippy.toml`) and cargo-deny (`deny.toml`) can say is left to them. Every message names
//! the file, the line and what to write instead.

mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use rules::*;

/// A file as the rules see it.
struct Source {
    path: String,
    text: String,
    /// The text without comments and test code, line for line; empty where all of it is test code.
    code: String,
}

impl Source {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Source {
        let (path, text) = (path.into(), text.into());
        let code = if path.starts_with("tests/") {
            String::new()
        } else {
            without_tests(&without_comments(&text))
        };
        Source { path, text, code }
    }

    /// `server/data/key.rs` is the module `data/key`. Tests and build.rs are no modules.
    fn module(&self) -> Option<String> {
        let path = self.path.strip_suffix(".rs")?;
        let module = match (path.strip_prefix("server/"), path.strip_prefix("cli/")) {
            (Some("lib"), _) => String::new(),
            (Some(inside), _) => inside.to_string(),
            (_, Some("lib")) => "ctl".to_string(),
            (_, Some("main")) => "main".to_string(),
            (_, Some(inside)) => format!("ctl/{inside}"),
            _ => return None,
        };
        Some(module.strip_suffix("/mod").unwrap_or(&module).to_string())
    }

    /// The modules that it declares, in order.
    fn declares(&self) -> Vec<&str> {
        self.code.lines().filter_map(declared).collect()
    }

    /// The modules that it declares for tests alone.
    fn declares_for_tests(&self) -> Vec<&str> {
        let lines: Vec<_> = self.text.lines().collect();
        lines
            .windows(2)
            .filter(|pair| pair[0] == "#[cfg(test)]")
            .filter_map(|pair| declared(pair[1]))
            .collect()
    }
}

/// The name in `mod name;`.
fn declared(line: &str) -> Option<&str> {
    let (before, name) = line.strip_suffix(';')?.rsplit_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.find("//").map_or(line, |at| &line[..at]).to_string() + "\n")
        .collect()
}

/// Blanks every item behind `#[cfg(test)]`: up to the line that closes it, which stands as far in
/// as the attribute does.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut inside: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if inside.is_none() && line.trim_start().starts_with("#[cfg(test)]") {
            inside = Some(indent);
        } else if let Some(start) = inside {
            let closes = line.ends_with(';') || line.ends_with('}') || line.ends_with("},");
            if indent == start && closes {
                inside = None;
            }
        } else {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    kept
}

/// Every path in the code with its line: `use a::{b, c::D}` gives `a::b` and `a::c::D`.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_name) {
        let before = code[..code.len() - rest.len() + start].chars().next_back();
        let name_ends = rest[start..].find(|c| !is_name(c)).map_or(rest.len(), |n| start + n);
        if before != Some(':') && before != Some('.') && rest[name_ends..].starts_with("::") {
            rest = tree(code, &rest[start..], "", &mut found);
        } else {
            rest = &rest[name_ends..];
        }
    }
    found
}

fn tree<'a>(code: &str, text: &'a str, prefix: &str, found: &mut Vec<(usize, String)>) -> &'a str {
    if let Some(mut branches) = text.strip_prefix('{') {
        while let Some(start) = branches.find(|c| is_name(c) || c == '{' || c == '}' || c == ';') {
            match branches.as_bytes()[start] {
                b'}' => return &branches[start + 1..],
                b';' => return &branches[start..],
                _ => branches = tree(code, &branches[start..], prefix, found),
            }
            if let Some(alias) = branches.strip_prefix(" as ") {
                branches = alias.trim_start_matches(is_name);
            }
        }
        return "";
    }
    let name_ends = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let path = format!("{prefix}{}", &text[..name_ends]);
    match text[name_ends..].strip_prefix("::") {
        Some(below) if below.starts_with(|c| is_name(c) || c == '{') => {
            tree(code, below, &format!("{path}::"), found)
        }
        _ => {
            let line = code[..code.len() - text.len()].matches('\n').count() + 1;
            found.push((line, path.trim_end_matches("::self").to_string()));
            &text[name_ends..]
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The module that a path of ours leads to, seen from `module`; none for a path into another crate.
fn target(module: &str, path: &str) -> Option<String> {
    let mut names: Vec<&str> = path.split("::").collect();
    let mut base: Vec<&str> = Vec::new();
    match names[0] {
        "crate" | "devicedb" => drop(names.remove(0)),
        "self" | "super" => {
            base = module.split('/').filter(|name| !name.is_empty()).collect();
            while names.first().is_some_and(|name| *name == "self" || *name == "super") {
                if names.remove(0) == "super" {
                    base.pop();
                }
            }
        }
        _ => return None,
    }
    base.extend(names);
    Some(base.join("/"))
}

/// The module written out in the file that a line lies in.
fn enclosing(code: &str, line: usize) -> Option<&str> {
    let opens = |text: &'_ str| {
        text.strip_suffix(" {").is_some_and(|head| {
            head.starts_with("mod ") || head.starts_with("pub") && head.contains(" mod ")
        })
    };
    let last = code.lines().take(line).filter(|text| opens(text) || *text == "}").last()?;
    opens(last).then(|| last.trim_end_matches(" {").rsplit(' ').next()).flatten()
}

/// The layer that a module or an item of it belongs to, with its place in the order.
fn layer(module: &str) -> Option<(usize, &'static str)> {
    let mut named = LAYERS.iter().flat_map(|row| row.split(' ')).enumerate();
    named.find(|(_, layer)| {
        module == *layer || module.strip_prefix(layer).is_some_and(|rest| rest.starts_with('/'))
    })
}

fn among(list: &str, layer: &str) -> bool {
    list.split(' ').any(|name| name == layer)
}

/// Everything that is not as it should be: `file:line: what, and what instead`.
fn complaints(mut sources: Vec<Source>) -> Vec<String> {
    let for_tests: BTreeSet<String> = sources
        .iter()
        .flat_map(|s| {
            s.declares_for_tests()
                .into_iter()
                .map(|name| join(&s.module().unwrap_or_default(), name))
        })
        .collect();
    let is_test = |module: &str| {
        module
            .match_indices('/')
            .map(|(at, _)| &module[..at])
            .chain([module])
            .any(|outer| for_tests.contains(outer))
    };
    for source in &mut sources {
        if source.module().is_some_and(|module| is_test(&module)) {
            source.code.clear();
        }
    }
    let order: BTreeMap<String, Vec<&str>> =
        sources.iter().filter_map(|s| Some((s.module()?, s.declares()))).collect();
    let mut all = Vec::new();
    for source in &sources {
        shape(source, &mut all);
        words(source, &mut all);
        if let Some(module) = source.module().filter(|module| !is_test(module)) {
            imports(source, &module, &order, &mut all);
        }
    }
    all
}

fn shape(source: &Source, all: &mut Vec<String>) {
    let path = &source.path;
    if !source.text.starts_with("//!") {
        all.push(format!(
            "{path}:1: does not open with `//!`: say what it is for, what it relies on, what it \
             does not do"
        ));
    }
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        all.push(format!(
            "{path}:{FILE_LINES_MAX}: goes on to line {lines}: past {FILE_LINES_MAX} the idea has \
             parts, make it a folder"
        ));
    }
    for (number, line) in source.text.lines().enumerate() {
        let width = line.chars().count();
        if width > LINE_WIDTH_MAX {
            all.push(format!(
                "{path}:{}: is {width} characters wide: past {LINE_WIDTH_MAX} nobody reads it",
                number + 1
            ));
        }
    }
    for name in path.trim_end_matches(".rs").split('/').filter(|name| EMPTY_NAMES.contains(name)) {
        all.push(format!(
            "{path}:1: {name:?} fits everything and tells nothing: name it by its idea, with a noun"
        ));
    }
}

fn words(source: &Source, all: &mut Vec<String>) {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| source.path.starts_with(prefix));
    for ban in BANS.iter().filter(|ban| begins(ban.within) && !begins(ban.except)) {
        let text = if ban.everywhere { &source.text } else { &source.code };
        for (at, line) in text.lines().enumerate() {
            for word in ban.words.iter().filter(|word| holds(line, word)) {
                all.push(format!(
                    "{}:{}: {word:?} does not belong here: {}",
                    source.path,
                    at + 1,
                    ban.instead
                ));
            }
        }
    }
}

fn holds(line: &str, word: &str) -> bool {
    match word.strip_suffix('#') {
        Some(before) => line
            .match_indices(before)
            .any(|(at, _)| line[at + before.len()..].starts_with(|c: char| c.is_ascii_digit())),
        None => line.contains(word),
    }
}

fn imports(
    source: &Source,
    module: &str,
    declared: &BTreeMap<String, Vec<&str>>,
    all: &mut Vec<String>,
) {
    let Some((own_place, own)) = layer(module) else {
        // lib.rs and a mod.rs whose children are layers of their own are maps: they declare and do
        // nothing.
        let order: Vec<_> = source
            .declares()
            .into_iter()
            .map(|name| (first_place(&join(module, name)), name))
            .collect();
        for (place, name) in &order {
            if place.is_none() {
                all.push(format!(
                    "{}:1: declares {name}, which has no place in the order: give it one in LAYERS \
                     of tests/tidy/rules.rs",
                    source.path
                ));
            }
        }
        if let Some(pair) = order.windows(2).find(|pair| pair[0].0 > pair[1].0) {
            all.push(format!(
                "{}:1: declares {} before {}: LAYERS has them the other way round",
                source.path, pair[0].1, pair[1].1
            ));
        }
        if order.is_empty() {
            all.push(format!(
                "{}:1: has no place in the order: give it one in LAYERS of tests/tidy/rules.rs",
                source.path
            ));
        }
        return;
    };
    for (line, path) in paths(&source.code) {
        let mut complain = |what: String| all.push(format!("{}:{line}: {what}", source.path));
        let from = enclosing(&source.code, line)
            .map_or(module.to_string(), |inline| format!("{module}/{inline}"));
        let Some(target) = target(&from, &path) else {
            let reaches = |outer: &str| path == outer || path.starts_with(&format!("{outer}::"));
            if let Some((name, _, instead)) =
                DOORS.iter().find(|(name, doors, _)| reaches(name) && !among(doors, own))
            {
                complain(format!("{own} does not speak to the crate {name}: {instead}"));
            }
            if among(PURE, own) && DEEDS.iter().any(|deed| reaches(deed)) {
                complain(format!(
                    "{own} decides and does nothing, so {path} is out of reach: take what it needs \
                     as an argument, return what to do"
                ));
            }
            continue;
        };
        let Some((place, theirs)) = layer(&target) else {
            complain(format!(
                "{path} names no module of LAYERS: name a thing by the module it stands in"
            ));
            continue;
        };
        if place > own_place {
            complain(format!(
                "{own} imports {path}, which stands below it: move what both need up, or hand it \
                 in as an argument"
            ));
        } else if own == "ctl" && !among(CTL, theirs) {
            complain(format!(
                "ddbctl imports {path}: it speaks only the contract ({CTL}), ask the server instead"
            ));
        } else if own == theirs && below_its_sibling(module, &target, declared) {
            complain(format!(
                "{module} imports {path}, which its folder declares below it: move what both need \
                 up, or turn the order of the `mod` lines"
            ));
        }
    }
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_string() } else { format!("{module}/{name}") }
}

/// Where a module, or the first layer inside it, stands.
fn first_place(module: &str) -> Option<usize> {
    layer(module).map(|(place, _)| place).or_else(|| {
        let inside = format!("{module}/");
        LAYERS.iter().flat_map(|row| row.split(' ')).position(|layer| layer.starts_with(&inside))
    })
}

/// Whether two modules part in a folder that declares the second one later.
fn below_its_sibling(module: &str, target: &str, declared: &BTreeMap<String, Vec<&str>>) -> bool {
    let shared = module.split('/').zip(target.split('/')).take_while(|(a, b)| a == b).count();
    let folder = module.split('/').take(shared).collect::<Vec<_>>().join("/");
    let place = |path: &str| {
        declared.get(&folder)?.iter().position(|name| Some(*name) == path.split('/').nth(shared))
    };
    matches!((place(module), place(target)), (Some(own), Some(theirs)) if theirs > own)
}

fn read(dir: &Path, root: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            read(&path, root, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(Source::new(
                path.strip_prefix(root).unwrap().to_str().unwrap(),
                fs::read_to_string(&path).unwrap(),
            ));
        }
    }
}

fn all_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources =
        vec![Source::new("build.rs", fs::read_to_string(root.join("build.rs")).unwrap())];
    for folder in ["server", "cli", "tests"] {
        read(&root.join(folder), root, &mut sources);
    }
    assert!(sources.len() > 5, "only {} files were found under {}", sources.len(), root.display());
    sources
}

#[test]
fn the_tree_keeps_its_habits() {
    let complaints = complaints(all_sources());
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_limit_is_kept_somewhere() {
    let (limits, others): (Vec<_>, Vec<_>) =
        all_sources().into_iter().partition(|source| source.path.starts_with(LIMITS));
    let names: Vec<_> = limits
        .iter()
        .flat_map(|source| source.code.lines())
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert!(names.len() > 50, "only {names:?} were found");
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let kept: BTreeSet<&str> =
        others.iter().flat_map(|source| source.code.split(|c| !word(c))).collect();
    let unkept: Vec<_> = names.into_iter().filter(|name| !kept.contains(name)).collect();
    assert!(unkept.is_empty(), "{LIMITS} promises {unkept:?}, and nothing keeps them");
}

#[test]
fn every_dependency_is_used() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let sections = manifest
        .split("\n[")
        .filter(|section| section.split(']').next().unwrap().ends_with("dependencies"));
    let names: Vec<_> = sections
        .flat_map(|section| section.lines().skip(1).filter_map(|line| line.split_once(" = ")))
        .map(|(name, _)| name)
        .collect();
    assert!(names.len() > 10, "only {names:?} were found");
    let mut sources = all_sources();
    // The rules name crates that they ban.
    sources.retain(|source| !source.path.starts_with("tests/tidy/"));
    let used = |name: &&str| {
        NAMED_ELSEWHERE.contains(name)
            || sources.iter().any(|s| s.text.contains(&format!("{}::", name.replace('-', "_"))))
    };
    let unused: Vec<_> = names.into_iter().filter(|name| !used(name)).collect();
    assert!(unused.is_empty(), "Cargo.toml names {unused:?}, and no file does");
}

#[test]
fn every_rule_catches_what_it_is_for() {
    let todo = concat!("//! x\n// TO", "DO later\n");
    let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
    let wide = format!("//! {}\n", "x".repeat(LINE_WIDTH_MAX));
    let planted: &[(&str, &str, &str)] = &[
        // Who imports whom.
        (
            "server/data/key.rs",
            "//! x\nuse crate::{\n    base::error::Error,\n    store::Store,\n};\n",
            "server/data/key.rs:4: data imports crate::store::Store",
        ),
        (
            "server/base/error.rs",
            "//! x\nfn f() { super::super::node::run() }\n",
            "error.rs:2: base imports super::super::node::run, which stands below",
        ),
        (
            "server/service/kv.rs",
            "//! x\nuse crate::part::{manifest::Manifest, Part};\n",
            "kv.rs:2: crate::part::Part names no module",
        ),
        (
            "server/part/chunk.rs",
            "//! x\nuse super::verify::Set;\n",
            "chunk.rs:2: part/chunk imports super::verify::Set",
        ),
        ("server/stray.rs", "//! x\n", "stray.rs:1: has no place in the order"),
        (
            "server/lib.rs",
            "//! x\npub mod data;\npub mod base;\n",
            "lib.rs:1: declares data before base",
        ),
        ("server/lib.rs", "//! x\nmod stray;\n", "lib.rs:1: declares stray, which has no place"),
        (
            "cli/get.rs",
            "//! x\nuse crate::store::Store;\n",
            "cli/get.rs:2: ddbctl imports crate::store::Store",
        ),
        // Who speaks to which crate.
        (
            "server/service/kv.rs",
            "//! x\nuse redb::Database;\n",
            "kv.rs:2: service does not speak to the crate redb: ask `store`",
        ),
        (
            "server/store/mod.rs",
            "//! x\nuse raft_engine::Engine;\n",
            "mod.rs:2: store does not speak to the crate raft_engine",
        ),
        (
            "server/net/streams.rs",
            "//! x\nfn f(m: &raft::eraftpb::Message) {}\n",
            "streams.rs:2: net does not speak to the crate raft:",
        ),
        (
            "server/net/streams.rs",
            "//! x\nuse protobuf::Message;\n",
            "streams.rs:2: net does not speak to the crate protobuf",
        ),
        (
            "server/data/key.rs",
            "//! x\nuse std::{collections::BTreeMap, fs};\n",
            "key.rs:2: data decides and does nothing, so std::fs is out of reach",
        ),
        (
            "server/cluster/state.rs",
            "//! x\nuse std::time::{Duration, Instant};\n",
            "state.rs:2: cluster decides and does nothing, so std::time::Instant",
        ),
        (
            "server/part/chunk.rs",
            "//! x\nuse tokio::sync::mpsc;\n",
            "chunk.rs:2: part/chunk decides and does nothing",
        ),
        (
            "server/data/key.rs",
            "//! x\nuse crate::proto::v1;\n",
            "key.rs:2: data imports crate::proto::v1, which stands below",
        ),
        // What a file looks like.
        ("server/service/kv.rs", "use crate::base::limits;\n", "kv.rs:1: does not open with `//!`"),
        ("server/service/kv.rs", &long, "goes on to line 701"),
        ("server/service/kv.rs", &wide, "kv.rs:1: is 104 characters wide"),
        ("server/rpc/utils.rs", "//! x\n", "rpc/utils.rs:1: \"utils\" fits everything"),
        ("tests/common/mod.rs", "//! x\n", "\"common\" fits everything"),
        // Words.
        ("server/service/kv.rs", todo, "kv.rs:2"),
        ("tests/x.rs", concat!("//! x\n", "#[ign", "ore]\n"), "tests/x.rs:2"),
        ("tests/x.rs", concat!("//! x\nd", "bg!(1);\n"), "tests/x.rs:2"),
        ("build.rs", concat!("//! x\nto", "do!()\n"), "build.rs:2"),
        ("build.rs", "//! x\n\tlet a;\n", "build.rs:2"),
        (
            "server/service/kv.rs",
            "//! x\nfn f() {\n    g().unwrap();\n}\n",
            "kv.rs:3: \".unwrap()\" does not belong here: `?`",
        ),
        (
            "cli/get.rs",
            "//! x\n#[cfg(test)]\nmod tests {\n}\nfn f() { g().unwrap(); }\n",
            "cli/get.rs:5",
        ),
        (
            "server/service/kv.rs",
            "//! x\nfn f() { tokio::sync::mpsc::unbounded_channel() }\n",
            "kv.rs:2: \"unbounded_channel\"",
        ),
        (
            "server/service/kv.rs",
            "//! x\nfn f() { tokio::spawn(g()); }\n",
            "kv.rs:2: \"tokio::spawn(\" does not belong here: a Role",
        ),
        ("server/service/kv.rs", "//! x\nfn f() { eprintln!(\"\"); }\n", "kv.rs:2: \"println!(\""),
        (
            "server/service/kv.rs",
            "//! x\nconst W: Duration = Duration::from_secs(10);\n",
            "kv.rs:2: \"from_secs(#\"",
        ),
        (
            "server/service/kv.rs",
            "//! x\nfn f() { tokio::sync::mpsc::channel(16) }\n",
            "kv.rs:2: \"channel(#\" does not belong here: a named bound in base/limits",
        ),
        ("cli/get.rs", "//! x\nconst BYTES: usize = 4 << 20;\n", "get.rs:2: \"<< 20\""),
        ("server/net/rows.rs", "//! x\nlet buffer = [0; 64 << 10];\n", "rows.rs:2: \"<< 10\""),
    ];
    for (path, text, expected) in planted {
        let found = complaints(vec![Source::new(*path, *text)]);
        assert!(
            found.iter().any(|complaint| complaint.contains(expected)),
            "planted in {path}:\n{text}\nexpected {expected:?}, found {found:#?}"
        );
    }
}

#[test]
fn siblings_import_in_the_order_their_folder_declares_them() {
    let folder = || Source::new("server/engine/mod.rs", "//! x\nmod round;\npub mod apply;\n");
    let upward = Source::new("server/engine/apply.rs", "//! x\nuse super::round::Round;\n");
    let downward = Source::new("server/engine/round.rs", "//! x\nuse super::apply::Apply;\n");
    assert_eq!(complaints(vec![folder(), upward]), Vec::<String>::new());
    assert!(
        complaints(vec![folder(), downward])[0]
            .starts_with("server/engine/round.rs:2: engine/round imports super::apply::Apply")
    );
}

#[test]
fn what_keeps_the_rules_is_left_alone() {
    let fine: &[(&str, &str)] = &[
        (
            "server/lib.rs",
            "//! x\npub mod base;\npub mod data;\npub mod part;\npub mod \
             proto;\n#[path = \"../cli/lib.rs\"]\npub mod ctl;\n",
        ),
        (
            "server/part/mod.rs",
            "//! x\npub mod chunk;\npub mod verify;\n#[cfg(test)]\nmod sample;\n",
        ),
        (
            "server/part/sample.rs",
            "//! Only tests use it.\nuse crate::node::Node;\nfn f() { g().unwrap() }\n",
        ),
        (
            "server/part/manifest.rs",
            "//! x\nmod text {\n    pub fn f() {}\n}\nmod other \
             {\n    fn g() {\n        super::text::f()\n    }\n}\n",
        ),
        (
            "server/data/key.rs",
            "//! See [`crate::node`].\nuse crate::base::{error::Error, limits};\nuse \
             super::version::Dot as D;\n// crate::store is below.\n",
        ),
        (
            "server/store/mod.rs",
            "//! x\nuse redb::Database;\n#[cfg(test)]\nmod tests \
             {\n    use super::*;\n    use crate::node::Node;\n    fn f() { g().unwrap() }\n}\n",
        ),
        (
            "server/wire.rs",
            "//! x\nuse raft::eraftpb;\nuse crate::proto::internal::v1::PeerMessage;\n",
        ),
        ("server/main.rs", "//! x\nuse devicedb::{ctl, node::Node};\n"),
        ("cli/main.rs", "//! x\nfn main() {\n    devicedb::ctl::main()\n}\n"),
        ("cli/lib.rs", "//! x\nmod get;\nuse crate::{proto::v1, part::verify};\n"),
        (
            "server/base/limits/peers.rs",
            "//! x\npub const BYTES: usize = 4 << 20;\npub const WAIT: Duration = \
             Duration::from_secs(10);\n",
        ),
        (
            "server/net/rows.rs",
            "//! x\nlet (a, b) = oneshot::channel();\nlet c = channel(address);\n",
        ),
        ("cli/get.rs", "//! x\nuse super::print;\nuse crate::ctl::output;\n"),
        ("tests/cluster/node.rs", "//! x\nuse devicedb::node::Node;\nfn f() { g().unwrap() }\n"),
    ];
    let sources: Vec<_> = fine.iter().map(|(path, text)| Source::new(*path, *text)).collect();
    assert_eq!(complaints(sources), Vec::<String>::new());
}
