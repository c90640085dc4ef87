//! `ddbctl repository`: backups outside the cluster, in a directory or an object store. Needs no
//! cluster.
//!
//! The library does all of it; here its results become tables, lines and exit codes.

mod keys;

use indicatif::HumanBytes;
use rustix::{fs::Mode, process::umask};
use serde::Serialize;

use super::{
    args, care, drill,
    place::{failed, look, open, with_report},
    snapshot::{listed, parts_at},
    term::{
        exit::{self, Failure},
        output::{Console, Look, View},
        table::{Number, Prose, Table, Text},
        text::{self, counted},
    },
};
use crate::{
    base::{
        clock::Clock,
        error::{Error, Kind},
        ids::{NodeId, SnapshotId},
        limits,
    },
    part::chunk::Digest,
    repository::{
        adopt::{self, Adoption},
        collect::{self, Collected, Keep, Order, Unfinished},
        cover::Cover,
        entry::{Entry, Hold},
        export::{self, Exported},
        import::{self, Imported},
        repair::{self, Repaired},
        reports::{self, Verification},
        root::{Folder, Repository},
        sign::{self, Signed},
        status::{self, Status},
        trust::Access,
        verify::{self, Depth},
    },
};

#[derive(Serialize)]
struct Made {
    repository: String,
    place: String,
    sealed: bool,
}

#[derive(Serialize)]
struct Listed {
    snapshots: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    #[serde(rename = "uuid")]
    snapshot: String,
    seq: u64,
    #[serde(rename = "cluster_id")]
    cluster: String,
    lineage: String,
    /// Since 1970.
    written_ms: u64,
    rows: u64,
    stored_bytes: u64,
    new_bytes: u64,
    /// Nodes whose parts it was made of, as texts.
    #[serde(rename = "node_ids")]
    nodes: Vec<String>,
    /// Absent without the key of a sealed one.
    root: Option<String>,
    /// The schedule that it was taken for.
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<String>,
    /// Why it is held, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
}

impl Row {
    fn of(entry: &Entry, cover: Cover, root: Option<Digest>) -> Row {
        Row {
            snapshot: cover.snapshot.to_string(),
            seq: cover.seq.0,
            cluster: cover.cluster.to_string(),
            lineage: cover.lineage.to_string(),
            written_ms: cover.written_ms,
            rows: cover.rows,
            stored_bytes: cover.stored_bytes,
            new_bytes: cover.new_bytes,
            nodes: cover.nodes.iter().map(NodeId::to_string).collect(),
            root: root.map(|root| root.to_string()),
            schedule: entry.schedule.clone(),
            hold: entry.hold.as_ref().map(|hold| hold.reason.clone()),
        }
    }
}

/// What was taken out, in each history.
#[derive(Serialize)]
struct Taken {
    dry_run: bool,
    histories: Vec<Collected>,
    /// What killed writers have left without a name, of no history.
    unfinished: Unfinished,
}

/// Histories that were taken over.
#[derive(Serialize)]
struct TakenOver {
    histories: Vec<Adoption>,
}

impl View for TakenOver {
    fn text(&self, _: Look) -> String {
        let line = |one: &Adoption| {
            let Adoption { cluster, lineage, by, was_adopted, snapshots, held, catalogue } = one;
            let was = if *was_adopted { "was adopted before" } else { "is adopted" };
            format!(
                "cluster {cluster}, lineage {lineage}, {was} by {by}: {}, {held} of them held\n\
                 catalogue {catalogue}\n",
                counted(*snapshots, "snapshot")
            )
        };
        self.histories.iter().map(line).collect()
    }
}

#[derive(Serialize)]
struct Held {
    #[serde(rename = "uuid")]
    snapshot: String,
    /// Without one nobody holds it.
    reason: Option<String>,
    /// RFC 3339, UTC.
    until_ms: Option<u64>,
}

impl View for Taken {
    fn text(&self, look: Look) -> String {
        let histories = self.histories.iter().map(|history| taken(history, look));
        let left = match self.unfinished {
            Unfinished { files: 0, .. } => String::new(),
            Unfinished { files, bytes } => {
                let would = if self.dry_run { "would be " } else { "" };
                let files = counted(files, "file");
                format!("{would}deleted {files} that interrupted imports left, {bytes} bytes\n")
            }
        };
        histories.chain([left]).collect()
    }
}

fn taken(history: &Collected, look: Look) -> String {
    let columns = [Text("snapshot"), Text("written"), Text("age"), Text("stays"), Prose("why")];
    let row = |verdict: &collect::Verdict| {
        let why = match verdict.stays {
            true => verdict.reasons.join("; "),
            false => "no rule keeps it, or it was named".to_owned(),
        };
        let stays = if verdict.stays { "yes" } else { "no" };
        let (when, age) = (text::when(verdict.written_ms), look.age(verdict.written_ms));
        [verdict.snapshot.clone(), when, age, stays.to_owned(), why]
    };
    let mut text =
        format!("history     cluster {}, lineage {}\n", history.cluster, history.lineage);
    text += &Table::new(columns, history.snapshots.iter().map(row)).render(look.columns);
    let would = if history.dry_run { "would be " } else { "" };
    text += &format!(
        "{would}dropped {}, {} bytes; deleted {}, {} bytes; {} wait\n",
        counted(history.dropped, "object"),
        history.dropped_bytes,
        history.deleted,
        history.deleted_bytes,
        history.waiting,
    );
    if let Some(next_ms) = history.next_ms {
        text += &format!("the next can be deleted at {}\n", text::when(next_ms));
    }
    history.refused.iter().for_each(|refused| text += &format!("REFUSED     {refused}\n"));
    text
}

impl View for Repaired {
    fn text(&self, _: Look) -> String {
        let lines = |what: &str, all: &[String]| -> String {
            all.iter().map(|one| format!("{what}{one}\n")).collect()
        };
        let text = lines("was damaged  ", &self.damaged)
            + &lines("listed       ", &self.listed)
            + &lines("not listed   ", &self.refused);
        if text.is_empty() { "nothing is to be repaired\n".to_owned() } else { text }
    }
}

impl View for Held {
    fn text(&self, _: Look) -> String {
        match (&self.reason, self.until_ms.map(text::when)) {
            (None, _) => format!("{} is held by nobody\n", self.snapshot),
            (Some(reason), None) => format!("{} is held: {reason}\n", self.snapshot),
            (Some(reason), Some(until)) => {
                format!("{} is held until {until}: {reason}\n", self.snapshot)
            }
        }
    }
}

#[derive(Serialize)]
struct Files {
    parts: Vec<Exported>,
}

impl View for Made {
    fn text(&self, _: Look) -> String {
        let sealed = match self.sealed {
            true => ", and sealed: nobody reads it without its key, so keep that elsewhere",
            false => "",
        };
        format!("{} is repository {}{sealed}\n", self.place, self.repository)
    }
}

impl View for Listed {
    fn text(&self, look: Look) -> String {
        let columns = [
            Text("snapshot"),
            Number("number"),
            Text("written"),
            Text("age"),
            Number("rows"),
            Number("bytes"),
            Number("new bytes"),
            Prose("cluster and lineage"),
        ];
        let row = |row: &Row| {
            [
                row.snapshot.clone(),
                row.seq.to_string(),
                text::when(row.written_ms),
                look.age(row.written_ms),
                row.rows.to_string(),
                HumanBytes(row.stored_bytes).to_string(),
                HumanBytes(row.new_bytes).to_string(),
                format!("{} {}", row.cluster, row.lineage),
            ]
        };
        Table::new(columns, self.snapshots.iter().map(row)).render(look.columns)
    }
}

impl View for Status {
    fn text(&self, _: Look) -> String {
        let mut lines = format!(
            "repository  {}\nplace       {}\nbytes       {}\n",
            self.repository, self.place, self.bytes
        );
        self.signed.iter().for_each(|key| lines += &format!("signed by   {key}\n"));
        for history in &self.histories {
            let status::History { cluster, lineage, snapshots, stored_bytes, .. } = history;
            lines += &format!(
                "history     cluster {cluster}, lineage {lineage}\nsnapshots   {snapshots}, \
                 {stored_bytes} bytes if each stood alone\nnewest      {}, number {}, of {}\n",
                history.newest,
                history.newest_seq,
                text::when(history.newest_written_ms)
            );
            lines += &format!("catalogue   {}\n", history.catalogue);
            if let Some(by) = &history.adopted_by {
                lines += &format!("adopted by  {by}\n");
            }
        }
        lines += &care::told(&self.care);
        if self.dropped > 0 {
            lines += &format!(
                "dropped     {} bytes in {}, which a collection deletes after their grace\n",
                self.dropped_bytes,
                counted(self.dropped, "object")
            );
        }
        if self.unnamed > 0 {
            lines += &format!(
                "left over   {} bytes in {}, of imports that were interrupted or are under way\n",
                self.unnamed_bytes,
                counted(self.unnamed, "object")
            );
        }
        if self.closed {
            lines += "sealed      what is left over is told with the key\n";
        }
        for unreadable in &self.unreadable {
            lines += &format!("DAMAGED     {unreadable}\n");
        }
        lines
    }
}

impl View for verify::Report {
    fn text(&self, _: Look) -> String {
        self.to_string()
    }
}

impl View for Signed {
    fn text(&self, _: Look) -> String {
        let Signed { repository, place, key, was_signed, catalogues } = self;
        let was = if *was_signed { "was signed already" } else { "is signed" };
        let mut lines = format!("{place}, repository {repository}, {was} by {key}\n");
        catalogues.iter().for_each(|catalogue| lines += &format!("catalogue {catalogue}\n"));
        lines
    }
}

impl View for Imported {
    fn text(&self, _: Look) -> String {
        let Imported { snapshot, parts, rows, stored_bytes, new_bytes, given_bytes, .. } = self;
        let was = if self.was_there { " was there already" } else { " imported" };
        format!(
            "{snapshot}{was}: {rows} rows of {parts} parts; {given_bytes} bytes given, \
             {stored_bytes} once for all replicas, {new_bytes} of them new\ncatalogue {}\n",
            self.catalogue
        )
    }
}

impl View for Files {
    fn text(&self, _: Look) -> String {
        let line = |part: &Exported| {
            format!("{}  {} bytes, node {}\n", part.path.display(), part.bytes, part.node)
        };
        self.parts.iter().map(line).collect()
    }
}

pub async fn run(command: args::Repository, console: &mut Console) -> Result<(), Failure> {
    // What is stored holds all data: it is for its owner alone.
    umask(Mode::RWXG | Mode::RWXO);
    match command {
        args::Repository::Init { place, recipient, recipients_file, key_file } => {
            let sealed = keys::sealed(recipient, recipients_file.as_deref(), key_file.as_deref());
            let made = sealed.and_then(|sealed| match &sealed {
                Some(sealed) => Repository::init_sealed(&place, sealed),
                None => Repository::init(&place),
            });
            let made = made.map_err(|e| failed("it is not made", &place, &e))?;
            let sealed = made.is_sealed();
            let (repository, place) = (made.id.to_string(), made.store.place());
            console.print(&Made { repository, place, sealed })
        }
        args::Repository::Key(command) => keys::run(command, console),
        args::Repository::Keygen { output } => keys::keygen(&output, console),
        args::Repository::Sign { place, key } => {
            let signed = sign::sign(&place, limits::OBJECT_PATIENCE_COMMAND, &key.into());
            console.print(&signed.map_err(|e| failed("it is not signed", &place, &e))?)
        }
        args::Repository::Status { place, key } => {
            let repository = look(&place, key)?;
            let status = status::status(&repository);
            let status = status.map_err(|e| failed("it cannot be looked at", &place, &e))?;
            console.print(&status)?;
            if status.unreadable.is_empty() { Ok(()) } else { Err(damaged(&place)) }
        }
        args::Repository::List { place, key } => list(&place, key, console),
        args::Repository::Verify { place, key, order } => check(&place, key, &order, console),
        args::Repository::Import { place, key, parts } => {
            let parts = parts_at(&parts)?;
            let repository = open(&place, key)?;
            let imported = import::import(&repository, &parts).map_err(|e| match e.kind {
                Kind::Corrupt => Failure::new(
                    exit::NOT_VERIFIED,
                    text::line(&e.message),
                    listed(&parts),
                    "see ddbctl snapshot verify; fetch the parts again",
                ),
                _ => failed("it is not imported", &place, &e),
            });
            let imported = imported?;
            for lost in &imported.lost {
                console.warn(&format!(
                    "{lost}; its rows were stored again: see ddbctl repository verify"
                ));
            }
            for damaged in &imported.damaged {
                console.warn(&format!(
                    "a catalogue was damaged, and is made again of the one before and of the \
                     snapshots that stand there: {damaged}"
                ));
            }
            console.print(&imported)
        }
        args::Repository::Collect { place, key, keep, schedule, how } => {
            let order =
                Order { keep: keep.unwrap_or_default(), schedule, ..order(how, Vec::new()) };
            take_out(&place, key, &order, console)
        }
        args::Repository::Drop { place, key, snapshots, how } => {
            take_out(&place, key, &order(how, snapshots), console)
        }
        args::Repository::Hold { place, key, snapshot, reason, until } => {
            let held = Hold { reason, until_ms: until };
            hold(&place, key, snapshot, Some(held), console)
        }
        args::Repository::Release { place, key, snapshot } => {
            hold(&place, key, snapshot, None, console)
        }
        args::Repository::Adopt { place, key, lost, by } => {
            let adopted = adopt::adopt(&open(&place, key)?, lost, by, Clock::start().wall_ms());
            let histories = adopted.map_err(|e| failed("it is not adopted", &place, &e))?;
            console.print(&TakenOver { histories })
        }
        args::Repository::Drill(order) => drill::run(order, console).await,
        args::Repository::Repair { place, key } => {
            let repaired = repair::repair(&open(&place, key)?);
            console.print(&repaired.map_err(|e| failed("it is not repaired", &place, &e))?)
        }
        args::Repository::Export { place, key, snapshot, node, output } => {
            let repository = open(&place, key)?;
            let kept = repository.find(snapshot);
            let kept = kept.map_err(|e| failed("there is no such snapshot", &place, &e))?;
            let parts = export::export(&repository, &kept, node.map(NodeId), &output);
            let parts = parts.map_err(|e| failed("it is not exported", &place, &e))?;
            console.print(&Files { parts })
        }
    }
}

fn list(place: &str, key: impl Into<Access>, console: &mut Console) -> Result<(), Failure> {
    let repository = look(place, key)?;
    let (mut snapshots, mut unreadable) = (Vec::new(), false);
    let failed = |e: Error| failed("it cannot be listed", place, &e);
    for standing in repository.standings().map_err(failed)? {
        for damaged in &standing.damaged {
            console.warn(damaged);
            unreadable = true;
        }
        for entry in &standing.catalogue.snapshots {
            match seen(&repository, standing.folder, entry) {
                Ok((cover, root)) => snapshots.push(Row::of(entry, cover, root)),
                Err(e) => {
                    console.warn(&e.message);
                    unreadable = true;
                }
            }
        }
    }
    console.print(&Listed { snapshots })?;
    if unreadable { Err(damaged(place)) } else { Ok(()) }
}

/// What can be seen of a snapshot, and its root where the key is here.
fn seen(
    repository: &Repository,
    folder: Folder,
    entry: &Entry,
) -> Result<(Cover, Option<Digest>), Error> {
    if repository.is_closed() {
        return Ok((repository.cover(folder, entry)?, None));
    }
    let snapshot = repository.kept(folder, entry)?.snapshot;
    Ok((Cover::of(&snapshot), Some(snapshot.root)))
}

/// In every history; what is named has to be in one.
fn take_out(
    place: &str,
    key: impl Into<Access>,
    order: &Order,
    console: &mut Console,
) -> Result<(), Failure> {
    let repository = open(place, key)?;
    let failed = |e: Error| failed("nothing is taken out", place, &e);
    for id in &order.named {
        repository.find_entry(*id).map_err(failed)?;
    }
    let histories = collect::all(&repository, order).map_err(failed)?;
    let refused = histories.iter().any(|collected| !collected.refused.is_empty());
    let unfinished = collect::unfinished(&repository, order).map_err(failed)?;
    console.print(&Taken { dry_run: order.dry_run, histories, unfinished })?;
    match refused {
        true => Err(Failure::new(
            exit::FAILED,
            "not all was done",
            place.to_owned(),
            "see what is refused above; what was done stays done",
        )),
        false => Ok(()),
    }
}

fn order(how: args::Collecting, named: Vec<SnapshotId>) -> Order {
    Order {
        keep: Keep::default(),
        schedule: None,
        named: named.into_iter().collect(),
        grace_ms: how.grace.0.as_millis() as u64,
        now_ms: Clock::start().wall_ms(),
        own: None,
        trust_clock: how.trust_clock,
        dry_run: how.dry_run,
    }
}

fn hold(
    place: &str,
    key: impl Into<Access>,
    snapshot: SnapshotId,
    hold: Option<Hold>,
    console: &mut Console,
) -> Result<(), Failure> {
    let held = collect::hold(&look(place, key)?, snapshot, hold);
    let entry = held.map_err(|e| failed("its hold is what it was", place, &e))?;
    console.print(&Held {
        snapshot: entry.snapshot.to_string(),
        reason: entry.hold.as_ref().map(|hold| hold.reason.clone()),
        until_ms: entry.hold.and_then(|hold| hold.until_ms),
    })
}

/// The verdict is told and is the exit code, also where the report cannot be kept.
fn check(
    place: &str,
    key: impl Into<Access>,
    order: &args::Verifying,
    console: &mut Console,
) -> Result<(), Failure> {
    let clock = Clock::start();
    let (began, began_ms) = (clock.now(), clock.wall_ms());
    let repository = open(place, key)?;
    for id in &order.snapshots {
        let found = repository.find(*id);
        found.map_err(|e| failed("it cannot be verified", place, &e))?;
    }
    let depth = match order.sample {
        Some(percent) => Depth::share(percent, began_ms),
        None if order.quick => Depth::Quick,
        None => Depth::Whole,
    };
    let report = verify::verify(&repository, &order.snapshots, depth);
    let report = report.map_err(|e| failed("it cannot be verified", place, &e))?;
    console.print(&report)?;
    let kept = order.keep_report.then(|| {
        // By the clock that began, whatever was set meanwhile.
        let ended_ms = began_ms + (clock.now() - began).as_millis() as u64;
        let all = order.snapshots.is_empty();
        let kept = Verification::new(&report, all, began_ms, ended_ms);
        reports::keep(&repository, &kept, began_ms)
    });
    let verdict = if report.sound { Ok(()) } else { Err(damaged(place)) };
    with_report(place, kept, verdict, console)
}

fn damaged(place: &str) -> Failure {
    Failure::new(
        exit::NOT_VERIFIED,
        "something is damaged",
        place.to_owned(),
        "see above; restore from another snapshot, or import its parts into another repository",
    )
}
