//! Documents as tests see them: their headings, their blocks of commands, and where links lead.
//!
//! It reads the few forms of Markdown that the documents use: headings with `#`, fences of three
//! backticks, and links as `[words](target)`, of which the words may go over two lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Languages of blocks that somebody may type or run, and that therefore have to be tried. A fence
/// without a word counts as one of them.
const COMMANDS: &[&str] = &["", "sh", "bash", "shell", "console", "python", "go"];

/// A document, by its path from the root of the repository.
pub struct Page {
    pub path: String,
    pub text: String,
}

/// A fenced block of commands.
pub struct Block {
    /// The document that it stands in.
    pub page: String,
    /// What stands behind the fence; `console` is a transcript.
    pub language: String,
    pub text: String,
}

/// A command of a transcript, and the lines that it prints.
pub struct Exchange {
    pub typed: String,
    pub printed: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Page {
    pub fn read(path: impl Into<String>) -> Page {
        let path = path.into();
        let text = fs::read_to_string(root().join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        Page { path, text }
    }

    /// README.md and what lies in docs/.
    pub fn all() -> Vec<Page> {
        let entries = fs::read_dir(root().join("docs")).expect("docs/ is there");
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let docs: BTreeSet<_> = names.filter(|name| name.ends_with(".md")).collect();
        let docs = docs.into_iter().map(|name| Page::read(format!("docs/{name}")));
        [Page::read("README.md")].into_iter().chain(docs).collect()
    }

    pub fn commands(&self) -> Vec<Block> {
        let (mut blocks, mut open) = (Vec::new(), None::<Block>);
        for line in self.text.lines() {
            open = match (open, line.trim_start().strip_prefix("```")) {
                (None, Some(word)) => {
                    let language = word.trim().to_owned();
                    Some(Block { page: self.path.clone(), language, text: String::new() })
                }
                (None, None) => None,
                (Some(block), Some(_)) => {
                    blocks.push(block);
                    None
                }
                (Some(block), None) => Some(Block { text: block.text + line + "\n", ..block }),
            };
        }
        assert!(open.is_none(), "{}: its last block is not closed", self.path);
        blocks.retain(|block| COMMANDS.contains(&block.language.as_str()));
        blocks
    }

    /// Links into the repository that lead nowhere, each with where it was meant to lead.
    pub fn broken_links(&self) -> Vec<String> {
        let folder = Path::new(&self.path).parent().expect("a file stands in a folder");
        let broken = |target: &&str| {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { PathBuf::from(&self.path) } else { folder.join(file) };
            let there = root().join(&path);
            let leads = there.exists()
                && (anchor.is_empty()
                    || fs::read_to_string(there).is_ok_and(|text| anchors(&text).contains(anchor)));
            !leads
        };
        let prose = self.prose();
        let targets = prose.match_indices("](").map(|(at, _)| &prose[at + 2..]);
        let targets = targets.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let ours = targets.filter(|target| !target.contains("://"));
        ours.filter(broken).map(|target| format!("{}: {target}", self.path)).collect()
    }

    /// The text without its blocks.
    fn prose(&self) -> String {
        outside_of_blocks(&self.text).map(|line| line.to_owned() + "\n").collect()
    }
}

impl Block {
    /// The commands of a transcript, each behind a `$`, and what it shows that they print.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let mut all: Vec<Exchange> = Vec::new();
        for line in self.text.lines() {
            match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(typed), _) => {
                    all.push(Exchange { typed: typed.to_owned(), printed: String::new() });
                }
                (None, Some(last)) => last.printed += &(line.to_owned() + "\n"),
                (None, None) => panic!("{}: a transcript begins with {line:?}", self.page),
            }
        }
        all
    }
}

fn outside_of_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The names of a document's headings in links, as GitHub gives them: small letters, digits and
/// hyphens for blanks; a name that is there already gets a number.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = outside_of_blocks(text).filter(|line| line.starts_with('#'));
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    let named = headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = times.entry(name.clone()).or_default();
        *before += 1;
        if *before == 1 { name } else { format!("{name}-{}", *before - 1) }
    });
    named.collect()
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# One\n[a](#one-1) and [b\nc](#two)\n```sh\n# no heading\nls\n```\n\
                ```text\n[x](y)\n```\n```console\n$ ls\na\nb\n$ cd\n```\n## `One`\n";
    let page = Page { path: "README.md".into(), text: text.into() };
    let commands: Vec<_> = page.commands().into_iter().map(|block| block.text).collect();
    assert_eq!(commands, ["# no heading\nls\n", "$ ls\na\nb\n$ cd\n"]);
    let exchanges = page.commands()[1].exchanges();
    let told: Vec<_> = exchanges.iter().map(|e| (e.typed.as_str(), e.printed.as_str())).collect();
    assert_eq!(told, [("ls", "a\nb\n"), ("cd", "")]);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["one", "one-1"]);
}
