//! `docs/ddbctl.md` is what clap knows of the command line, as a page: written by
//! `UPDATE_GOLDEN=1 cargo test --test cli manual`, and compared by `cargo test`.
//!
//! Flags that several commands below one noun take in the same words stand once, with the noun.

use std::{fmt::Write as _, fs, process::Command as Process};

use clap::{Arg, Command, CommandFactory as _, Parser as _};
use devicedb::ctl;

/// A binary's own arguments are in no library.
#[allow(dead_code)]
#[path = "../../server/main.rs"]
mod server;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ddbctl.md");

const OPENING: &str = "\
# Command line

Every command of `ddbctl` with what it takes, and what `devicedb` takes. This page is written from \
the program, so it is not edited: `UPDATE_GOLDEN=1 cargo test --test cli manual` writes it anew. \
`--help` behind a command says the same.

";

#[test]
fn the_manual_is_what_the_program_says() {
    let page = manual();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(PATH, &page).unwrap();
    }
    let held = fs::read_to_string(PATH).unwrap_or_default();
    let line = held.lines().zip(page.lines()).take_while(|(a, b)| a == b).count() + 1;
    assert!(
        held == page,
        "docs/ddbctl.md:{line}: the program says something else: UPDATE_GOLDEN=1 cargo test --test \
         cli manual\n{}",
        page.lines().nth(line - 1).unwrap_or_default()
    );
}

#[test]
fn the_manual_leaves_nothing_unsaid() {
    let mut silent = Vec::new();
    for root in [ctl::Args::command(), server::Args::command()] {
        for command in all(&built(root)) {
            if command.get_about().is_none() {
                silent.push(name(command));
            }
            let args = own(command).filter(|arg| arg.get_help().is_none());
            silent.extend(args.map(|arg| format!("{} {}", name(command), arg.get_id())));
        }
    }
    assert!(silent.is_empty(), "nothing is said of {silent:#?}");
}

const RECIPIENT: &str = include_str!("../golden/snapshot/age-recipient.txt");

#[test]
fn every_example_is_understood() {
    let mut found = 0;
    for command in all(&built(ctl::Args::command())) {
        for example in examples(command).lines() {
            let words = example.split(' ').take_while(|word| !matches!(*word, ">" | "|" | "#"));
            let words = words.map(|word| word.replace("$uuid", crate::UUID));
            let words = words.map(|word| word.replace("$recipient", RECIPIENT.trim()));
            let parsed = ctl::Args::try_parse_from(words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            found += 1;
        }
    }
    assert!(found > 10, "only {found} examples were found");
}

fn manual() -> String {
    let ctl = built(ctl::Args::command());
    let node = built(server::Args::command());
    let mut page = String::from(OPENING);
    page += "## Contents\n\n";
    contents(&ctl, &mut page);
    page += "- [Exit codes](#exit-codes) of `ddbctl`\n";
    let start = node.find_subcommand("start").expect("devicedb starts nodes");
    writeln!(page, "- {}: {}", link(start), about(start)).unwrap();
    let restore = node.find_subcommand("restore").expect("devicedb restores parts");
    writeln!(page, "- {}: {}", link(restore), about(restore)).unwrap();
    let recover = node.find_subcommand("recover").expect("devicedb recovers lost majorities");
    writeln!(page, "- {}: {}", link(recover), about(recover)).unwrap();
    let guide = node.find_subcommand("cluster").expect("devicedb has the guide's commands");
    writeln!(page, "- {}: {}\n", link(guide), about(guide)).unwrap();
    root(&ctl, &mut page);
    for command in visible(&ctl) {
        section(command, 3, &[], &mut page);
    }
    page += "## Exit codes\n\n| code | meaning |\n| --- | --- |\n";
    for (code, _, meaning) in ctl::EXIT_CODES {
        writeln!(page, "| {code} | {meaning} |").unwrap();
    }
    page += "\n";
    section(start, 2, &[], &mut page);
    section(restore, 2, &[], &mut page);
    section(recover, 2, &[], &mut page);
    section(guide, 2, &[], &mut page);
    let help = Process::new(env!("CARGO_BIN_EXE_devicedb")).args(["cluster", "-help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    page + "```text\n" + help.trim_end() + "\n```\n"
}

fn contents(ctl: &Command, page: &mut String) {
    writeln!(page, "- {}", link(ctl)).unwrap();
    for noun in visible(ctl) {
        writeln!(page, "  - {}: {}", link(noun), about(noun)).unwrap();
        for verb in visible(noun) {
            writeln!(page, "    - {}: {}", link(verb), about(verb)).unwrap();
        }
    }
}

fn root(ctl: &Command, page: &mut String) {
    writeln!(page, "## `{}`\n\n{}.\n", name(ctl), about(ctl)).unwrap();
    usage(ctl, page);
    page.push_str("Every command takes these, before or behind its own words:\n\n");
    table(&own(ctl).collect::<Vec<_>>(), page);
}

/// A command, its examples and what is below it. `known` are arguments that were told further up.
fn section(command: &Command, level: usize, known: &[&Arg], page: &mut String) {
    writeln!(page, "{} `{}`\n\n{}.\n", "#".repeat(level), name(command), about(command)).unwrap();
    let aliases: Vec<String> =
        command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        writeln!(page, "It may also be said as {}.\n", aliases.join(", ")).unwrap();
    }
    if command.has_subcommands() {
        let alone: Vec<&Arg> = own(command).collect();
        if !alone.is_empty() {
            usage(command, page);
            table(&alone, page);
            writeln!(page, "```sh\n{}```\n", examples(command)).unwrap();
        }
        let shared = shared(command);
        for (verbs, args) in &shared {
            writeln!(page, "{} take:\n", verbs.join(", ")).unwrap();
            table(args, page);
        }
        let shared: Vec<&Arg> = shared.into_iter().flat_map(|(_, args)| args).collect();
        for verb in visible(command) {
            section(verb, level + 1, &shared, page);
        }
        return;
    }
    let full = name(command);
    let (above, here): (Vec<&Arg>, Vec<&Arg>) =
        own(command).partition(|arg| known.iter().any(|known| alike(known, arg)));
    if own(command).next().is_some() {
        usage(command, page);
    }
    table(&here, page);
    if !above.is_empty() {
        let (noun, verb) = full.rsplit_once(' ').unwrap_or_default();
        writeln!(page, "And the flags that {} lists for `{verb}`.\n", anchor(noun)).unwrap();
    }
    let examples = examples(command);
    if !examples.is_empty() {
        writeln!(page, "```sh\n{examples}```\n").unwrap();
    } else if let Some(more) = command.get_after_help() {
        writeln!(page, "{more}\n").unwrap();
    }
}

fn usage(command: &Command, page: &mut String) {
    let usage = command.clone().render_usage().to_string();
    let lines: Vec<&str> = usage.trim_start_matches("Usage:").lines().map(str::trim).collect();
    writeln!(page, "```text\n{}\n```\n", lines.join("\n").trim()).unwrap();
}

/// A row an argument; a column only where some argument fills it.
fn table(args: &[&Arg], page: &mut String) {
    if args.is_empty() {
        return;
    }
    let rows = args.iter().map(|arg| {
        let default: Vec<_> =
            arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
        let default = match default.join(",") {
            some if !some.is_empty() && takes_value(arg) => format!("`{some}`"),
            _ if arg.is_required_set() => "required".to_owned(),
            _ => String::new(),
        };
        let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
        [format!("`{}`", spelled(arg)), variable.unwrap_or_default(), default, meaning(arg)]
    });
    let mut rows: Vec<[String; 4]> = rows.collect();
    rows.insert(0, ["argument", "variable", "default", "what it does"].map(str::to_owned));
    let filled: Vec<usize> =
        (0..4).filter(|at| rows[1..].iter().any(|row| !row[*at].is_empty())).collect();
    for (nth, row) in rows.iter().enumerate() {
        for cell in filled.iter().map(|at| row[*at].as_str()) {
            *page += &if cell.is_empty() { "| ".to_owned() } else { format!("| {cell} ") };
        }
        page.push_str("|\n");
        if nth == 0 {
            writeln!(page, "| {} |", vec!["---"; filled.len()].join(" | ")).unwrap();
        }
    }
    page.push('\n');
}

fn meaning(arg: &Arg) -> String {
    let help = prose(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| takes_value(arg))
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if values.is_empty() { help } else { format!("{help}: {}", values.join(", ")) }
}

/// As it is written on the command line.
fn spelled(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    let many = arg.get_num_args().is_some_and(|range| range.max_values() > 1);
    let value = if many { format!("{value}...") } else { value };
    let optional = arg.get_num_args().is_some_and(|range| range.min_values() == 0);
    let value = if optional && takes_value(arg) { format!("[{value}]") } else { value };
    let flags = [
        arg.get_short().map(|short| format!("-{short}")),
        arg.get_long().map(|long| format!("--{long}")),
    ];
    let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(", ");
    match (flags.is_empty(), takes_value(arg)) {
        (true, _) => value,
        (false, true) => format!("{flags} {value}"),
        (false, false) => flags,
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// What several commands below take in the same words, by who takes it.
fn shared(noun: &Command) -> Vec<(Vec<String>, Vec<&Arg>)> {
    let mut found: Vec<(Vec<String>, Vec<&Arg>)> = Vec::new();
    let mut seen: Vec<&Arg> = Vec::new();
    for arg in visible(noun).flat_map(own).filter(|arg| arg.get_long().is_some()) {
        if seen.iter().any(|seen| alike(seen, arg)) {
            continue;
        }
        seen.push(arg);
        let takers: Vec<String> = visible(noun)
            .filter(|verb| own(verb).any(|other| alike(arg, other)))
            .map(|verb| format!("`{}`", verb.get_name()))
            .collect();
        match found.iter_mut().find(|(who, _)| *who == takers) {
            Some((_, args)) => args.push(arg),
            None if takers.len() > 1 => found.push((takers, vec![arg])),
            None => {}
        }
    }
    found
}

fn alike(a: &Arg, b: &Arg) -> bool {
    spelled(a) == spelled(b)
        && meaning(a) == meaning(b)
        && a.get_default_values() == b.get_default_values()
}

/// Words before flags. What every command takes is told of once, with the root.
fn own(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_root = !name(command).contains(' ');
    let flags = command.get_arguments().filter(|arg| !arg.is_positional());
    command
        .get_positionals()
        .chain(flags)
        .filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str()))
        .filter(move |arg| is_root || !arg.is_global_set())
}

/// What stands behind the word Examples, a command a line.
fn examples(command: &Command) -> String {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = help.strip_prefix("Examples:\n").unwrap_or_default().lines();
    lines.map(|line| format!("{}\n", line.trim())).collect()
}

fn built(mut root: Command) -> Command {
    root.build();
    root
}

fn all(root: &Command) -> Vec<&Command> {
    std::iter::once(root).chain(visible(root).flat_map(all)).collect()
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

fn name(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}

fn about(command: &Command) -> String {
    prose(&command.get_about().map(ToString::to_string).unwrap_or_default())
}

/// Help as Markdown, without the full stop: flags are code.
fn prose(help: &str) -> String {
    let help = help.trim().trim_end_matches('.').replace('|', "\\|").replace('<', "&lt;");
    let words = help.split(' ').map(|word| {
        let flag = word.trim_end_matches([',', ';', ':', '.']);
        if flag.starts_with("--") {
            format!("`{flag}`{}", &word[flag.len()..])
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn link(command: &Command) -> String {
    anchor(&name(command))
}

fn anchor(name: &str) -> String {
    format!("[`{name}`](#{})", name.replace(' ', "-"))
}
