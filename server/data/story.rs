//! Stories: scenarios under `tests/golden/data/` whose outcomes are written into the same files.
//! UPDATE_GOLDEN=1 rewrites them.
//!
//! A line that begins with `>` is told to the machine, the lines below it are what came of it, `#`
//! speaks to the reader.
//!
//! ```text
//! add SITE GENERATION | drop SITE GENERATION ROWS_MAX | lineage N
//! restart | snapshot NAME | restore NAME | rows
//! put|delete SITE BUCKET KEY [VALUE] [with CONTEXT] [at MS | from MS] [as CONTEXT] [request N]
//! batch SITE BUCKET put KEY VALUE ... ; delete KEY ... [request N]
//! get SITE BUCKET KEY [as CONTEXT]        scan SITE BUCKET [prefix P] [after KEY] [limit N] [keys]
//! ```

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path};

use super::{memory::Memory, *};
use crate::base::{
    error::Error,
    ids::{GroupId, Lineage, RequestId, SiteGeneration, SiteId, Topology},
};

#[test]
fn the_stories_go_as_they_are_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data");
    let mut paths: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no story in {}", folder.display());
    for path in paths {
        let told = fs::read_to_string(&path).unwrap();
        let went = tell(&told);
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, went).unwrap();
        } else if told != went {
            let differs = told
                .lines()
                .zip(went.lines())
                .position(|(a, b)| a != b)
                .map_or(told.lines().count().min(went.lines().count()), |at| at)
                + 1;
            panic!(
                "{} goes otherwise from line {differs} on; UPDATE_GOLDEN=1 rewrites it. It \
                 went:\n{went}",
                path.display()
            );
        }
    }
}

fn tell(story: &str) -> String {
    let mut world = World::found();
    let mut went = String::new();
    for line in story.lines() {
        match line.strip_prefix("> ") {
            Some(told) => writeln!(went, "{line}\n{}", world.tell(told).trim_end()).unwrap(),
            None if line.is_empty() || line.starts_with('#') => writeln!(went, "{line}").unwrap(),
            None => {}
        }
    }
    went
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

#[derive(Clone)]
struct Disk {
    rows: Memory,
    slots: BTreeMap<u32, Remembered>,
    state: State,
}

struct World {
    topology: Topology,
    machine: Machine,
    disk: Disk,
    contexts: BTreeMap<String, (Bucket, Key, bytes::Bytes)>,
    snapshots: BTreeMap<String, Disk>,
}

/// The words that follow a step or a read.
#[derive(Default)]
struct Options {
    with: Option<String>,
    name: Option<String>,
    stamp: Option<Stamp>,
    request: Option<RequestId>,
}

impl World {
    fn found() -> World {
        let topology = Topology::new(64, 1).unwrap();
        let state = State { lineage: Lineage(1), ..State::default() };
        let machine = Machine::open(topology, GroupId(0), state, []).unwrap();
        World {
            topology,
            machine,
            disk: Disk { rows: Memory::default(), slots: BTreeMap::new(), state },
            contexts: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        }
    }

    fn tell(&mut self, told: &str) -> String {
        let mut words = told.split_whitespace().peekable();
        let verb = words.next().unwrap();
        match verb {
            "add" => {
                let site = site(&mut words);
                self.apply(Command::AddSite {
                    site,
                    generation: SiteGeneration(number(&mut words)),
                })
            }
            "drop" => {
                let (site, generation) = (site(&mut words), SiteGeneration(number(&mut words)));
                self.apply(Command::DropSite {
                    site,
                    generation,
                    rows_max: number(&mut words) as u32,
                })
            }
            "lineage" => self.apply(Command::SetLineage { lineage: Lineage(number(&mut words)) }),
            "restart" => self.start(self.disk.clone()),
            "snapshot" => {
                self.snapshots.insert(words.next().unwrap().to_owned(), self.disk.clone());
                "taken".to_owned()
            }
            "restore" => {
                let mut disk = self.snapshots[words.next().unwrap()].clone();
                disk.state.lineage = Lineage::PENDING;
                self.start(disk)
            }
            "rows" => self
                .disk
                .rows
                .rows
                .iter()
                .map(|(key, row)| row_line(&RowKey::decode(key).unwrap(), row))
                .collect(),
            "put" | "delete" | "batch" => self.write(told, verb),
            "get" | "scan" => self.read(verb, words),
            _ => panic!("what does {told:?} mean?"),
        }
    }

    fn start(&mut self, disk: Disk) -> String {
        self.machine =
            Machine::open(self.topology, GroupId(0), disk.state, disk.slots.clone()).unwrap();
        self.disk = disk;
        "started".to_owned()
    }

    fn apply(&mut self, command: Command) -> String {
        reply_lines(&self.applied(None, &command))
    }

    fn applied(&mut self, request: Option<RequestId>, command: &Command) -> Reply {
        let reply = self.machine.apply(request, command, &mut self.disk.rows).unwrap();
        self.disk.slots.extend(self.machine.take_remembered());
        self.disk.state = self.machine.state();
        reply
    }

    fn write(&mut self, told: &str, verb: &str) -> String {
        let told = told.strip_prefix("batch").unwrap_or(told);
        let mut parts = told.split(" ; ");
        let mut words = parts.next().unwrap().split_whitespace().peekable();
        let mut first = if verb == "batch" { None } else { words.next() };
        let (site, bucket) = (site(&mut words), bucket(&mut words));
        let (mut steps, mut names, mut request) = (Vec::new(), Vec::new(), None);
        for mut words in
            std::iter::once(words).chain(parts.map(|part| part.split_whitespace().peekable()))
        {
            let verb = first.take().unwrap_or_else(|| words.next().unwrap());
            let key = key(&mut words);
            let value =
                (verb == "put").then(|| Value::new(words.next().unwrap().to_owned()).unwrap());
            let options = options(words);
            let context = match options.with.map(|name| &self.contexts[&name].2) {
                None => None,
                Some(bytes) => match Context::decode(bytes, &site, bucket, &key) {
                    Ok(context) => Some(context),
                    Err(error) => return refused_line(&error),
                },
            };
            steps.push(Step {
                key: key.clone(),
                value,
                context,
                stamp: options.stamp.unwrap_or(Stamp::Floor(0)),
            });
            names.push((options.name, key));
            request = request.or(options.request);
        }
        let command = Command::Write(Write::new(site.clone(), bucket, steps).unwrap());
        let reply = self.applied(request, &command);
        let Reply::Written(written) = reply else { return reply_lines(&reply) };
        let mut lines = String::new();
        for (step, (name, key)) in written.into_iter().zip(names) {
            let superseded = if step.superseded { ", superseded" } else { "" };
            writeln!(
                lines,
                "{key} written{superseded}, context {}",
                context_text(&step.context, &site, bucket, &key)
            )
            .unwrap();
            if let Some(name) = name {
                self.contexts.insert(name, (bucket, key, step.context));
            }
        }
        lines
    }

    fn read(&mut self, verb: &str, mut words: Words) -> String {
        let (site, bucket) = (site(&mut words), bucket(&mut words));
        if verb == "get" {
            let key = key(&mut words);
            let reply = Query { site: site.clone(), bucket, read: Read::Get { key: key.clone() } }
                .answer(self.topology, &self.disk.rows)
                .unwrap();
            let Reply::Found(found) = reply else { return reply_lines(&reply) };
            let line = view_line(&found, &site, bucket);
            if let Some(name) = options(words).name {
                self.contexts.insert(name, (bucket, key, found.context));
            }
            return line;
        }
        let mut scan = Scan { prefix: Prefix::default(), after: None, limit: 0, keys_only: false };
        while let Some(word) = words.next() {
            match word {
                "prefix" => scan.prefix = Prefix::new(words.next().unwrap().to_owned()).unwrap(),
                "after" => scan.after = Some(key(&mut words)),
                "limit" => scan.limit = number(&mut words) as u32,
                "keys" => scan.keys_only = true,
                _ => panic!("what does {word} mean in a scan?"),
            }
        }
        let reply = Query { site: site.clone(), bucket, read: Read::Scan(scan) }
            .answer(self.topology, &self.disk.rows)
            .unwrap();
        let Reply::Page { keys, resume } = reply else { return reply_lines(&reply) };
        let lines: String = keys.iter().map(|key| view_line(key, &site, bucket)).collect();
        lines + &resume.map_or("no more".to_owned(), |key| format!("more after {key}"))
    }
}

fn site(words: &mut Words) -> SiteId {
    SiteId::new(words.next().expect("a site")).unwrap()
}

fn bucket(words: &mut Words) -> Bucket {
    words.next().expect("a bucket").parse().unwrap()
}

fn key(words: &mut Words) -> Key {
    Key::new(words.next().expect("a key").to_owned()).unwrap()
}

fn number(words: &mut Words) -> u64 {
    words.next().expect("a number").parse().unwrap()
}

fn options(mut words: Words) -> Options {
    let mut options = Options::default();
    while let Some(word) = words.next() {
        match word {
            "with" => options.with = words.next().map(str::to_owned),
            "as" => options.name = words.next().map(str::to_owned),
            "at" => options.stamp = Some(Stamp::Chosen(number(&mut words))),
            "from" => options.stamp = Some(Stamp::Floor(number(&mut words))),
            "request" => {
                options.request = Some(RequestId(u128::from(number(&mut words)).to_be_bytes()))
            }
            _ => panic!("what does {word} mean here?"),
        }
    }
    options
}

fn reply_lines(reply: &Reply) -> String {
    match reply {
        Reply::Done { changed: true } => "done".to_owned(),
        Reply::Done { changed: false } => "done, nothing changed".to_owned(),
        Reply::SiteDropped { more } => format!("dropped, more left: {more}"),
        Reply::Refused(error) => refused_line(error),
        other => panic!("{other:?} is written elsewhere"),
    }
}

fn refused_line(error: &Error) -> String {
    format!("refused, {:?}: {error}", error.kind)
}

fn view_line(view: &KeyView, site: &SiteId, bucket: Bucket) -> String {
    let key = Key::new(view.key.clone()).unwrap();
    let versions: Vec<_> = view.versions.iter().map(version_text).collect();
    format!(
        "{key} holds [{}], context {}\n",
        versions.join(", "),
        context_text(&view.context, site, bucket, &key)
    )
}

fn row_line(key: &RowKey, row: &Row) -> String {
    match (&key.place, row) {
        (Place::Site, Row::Site(row)) => {
            format!("{}: site, generation {}, {:?}\n", key.site, row.generation, row.stage)
        }
        (Place::Key { bucket, key: k }, Row::Key(row)) => {
            let versions: Vec<_> = row.versions().iter().map(version_text).collect();
            format!(
                "{}: {bucket} {k} [{}] clock {}\n",
                key.site,
                versions.join(", "),
                vector_text(row.clock())
            )
        }
        _ => panic!("{key:?} holds {row:?}"),
    }
}

fn version_text(version: &Version) -> String {
    let value = version
        .value
        .as_ref()
        .map_or("tombstone".to_owned(), |v| v.as_bytes().escape_ascii().to_string());
    let at = if version.timestamp_ms > 0 {
        format!(" at {}", version.timestamp_ms)
    } else {
        String::new()
    };
    format!("{value} ({}){at}", dot_text((version.dot.lineage, version.dot.counter)))
}

fn context_text(bytes: &[u8], site: &SiteId, bucket: Bucket, key: &Key) -> String {
    let context = Context::decode(bytes, site, bucket, key).unwrap();
    let dot = context
        .dot()
        .map_or(String::new(), |dot| format!(" and {}", dot_text((dot.lineage, dot.counter))));
    vector_text(context.vector()) + &dot
}

fn vector_text(vector: &VersionVector) -> String {
    let dots: Vec<_> = vector.pairs().map(dot_text).collect();
    format!("{{{}}}", dots.join(", "))
}

/// History 2, dot 7: `2.7`.
fn dot_text((lineage, counter): (Lineage, u64)) -> String {
    format!("{}.{counter}", lineage.0)
}
