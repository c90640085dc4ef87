//! `ddbctl repository`: backups outside the cluster, in a directory or an object store. Needs no
//! cluster.
//!
//! The library does all of it; here its results become tables, lines and exit codes.

use rustix::{fs::Mode, process::umask};
use serde::Serialize;

use super::{
    args,
    snapshot::{listed, refuse_what_is_no_part},
    term::{
        exit::{self, Failure},
        output::{Console, View},
        table::{Number, Prose, Table, Text},
        text,
    },
};
use crate::{
    base::{
        error::{Error, Kind},
        ids::{NodeId, SnapshotId},
        limits,
    },
    repository::{
        export::{self, Exported},
        import::{self, Imported},
        root::Repository,
        status::{self, Status},
        verify,
    },
};

#[derive(Serialize)]
struct Made {
    repository: String,
    place: String,
}

#[derive(Serialize)]
struct Listed {
    snapshots: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    snapshot: String,
    seq: u64,
    cluster: String,
    lineage: String,
    /// RFC 3339, UTC.
    written: String,
    rows: u64,
    stored_bytes: u64,
    new_bytes: u64,
    /// Nodes whose parts it was made of, as texts.
    nodes: Vec<String>,
    root: String,
}

#[derive(Serialize)]
struct Files {
    parts: Vec<Exported>,
}

impl View for Made {
    fn text(&self, _: Option<usize>) -> String {
        format!("{} is repository {}\n", self.place, self.repository)
    }
}

impl View for Listed {
    fn text(&self, width: Option<usize>) -> String {
        let columns = [
            Text("snapshot"),
            Number("number"),
            Text("written"),
            Number("rows"),
            Number("bytes"),
            Number("new bytes"),
            Prose("cluster and lineage"),
        ];
        let row = |row: &Row| {
            [
                row.snapshot.clone(),
                row.seq.to_string(),
                row.written.clone(),
                row.rows.to_string(),
                row.stored_bytes.to_string(),
                row.new_bytes.to_string(),
                format!("{} {}", row.cluster, row.lineage),
            ]
        };
        Table::new(columns, self.snapshots.iter().map(row)).render(width)
    }
}

impl View for Status {
    fn text(&self, _: Option<usize>) -> String {
        let mut lines = format!(
            "repository  {}\nplace       {}\nbytes       {}\n",
            self.repository, self.place, self.bytes
        );
        for history in &self.histories {
            let status::History { cluster, lineage, snapshots, stored_bytes, .. } = history;
            lines += &format!(
                "history     cluster {cluster}, lineage {lineage}\nsnapshots   {snapshots}, \
                 {stored_bytes} bytes if each stood alone\nnewest      {}, number {}, of {}\n",
                history.newest, history.newest_seq, history.newest_written
            );
        }
        if self.unnamed > 0 {
            lines += &format!(
                "left over   {} bytes in {}, of imports that were interrupted or are under way\n",
                self.unnamed_bytes,
                counted(self.unnamed, "object")
            );
        }
        for unreadable in &self.unreadable {
            lines += &format!("DAMAGED     {unreadable}\n");
        }
        lines
    }
}

impl View for verify::Report {
    fn text(&self, _: Option<usize>) -> String {
        self.to_string()
    }
}

impl View for Imported {
    fn text(&self, _: Option<usize>) -> String {
        let Imported { snapshot, parts, rows, stored_bytes, new_bytes, given_bytes, .. } = self;
        let was = if self.was_there { " was there already" } else { " imported" };
        format!(
            "{snapshot}{was}: {rows} rows of {parts} parts; {given_bytes} bytes given, \
             {stored_bytes} once for all replicas, {new_bytes} of them new\n"
        )
    }
}

impl View for Files {
    fn text(&self, _: Option<usize>) -> String {
        let line = |part: &Exported| {
            format!("{}  {} bytes, node {}\n", part.path.display(), part.bytes, part.node)
        };
        self.parts.iter().map(line).collect()
    }
}

pub fn run(command: args::Repository, console: &mut Console) -> Result<(), Failure> {
    // What is stored holds all data: it is for its owner alone.
    umask(Mode::RWXG | Mode::RWXO);
    match command {
        args::Repository::Init { place } => {
            let made =
                Repository::init(&place).map_err(|e| failed("it is not made", &place, &e))?;
            console.print(&Made { repository: made.id.to_string(), place: made.store.place() })
        }
        args::Repository::Status { place } => {
            let repository = open(&place)?;
            let status = status::status(&repository);
            let status = status.map_err(|e| failed("it cannot be looked at", &place, &e))?;
            console.print(&status)?;
            if status.unreadable.is_empty() { Ok(()) } else { Err(damaged(&place)) }
        }
        args::Repository::List { place } => list(&place, console),
        args::Repository::Verify { place, snapshots, quick } => {
            check(&place, &snapshots, !quick, console)
        }
        args::Repository::Import { place, parts } => {
            refuse_what_is_no_part(&parts)?;
            let repository = open(&place)?;
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
            console.print(&imported)
        }
        args::Repository::Export { place, snapshot, node, output } => {
            let repository = open(&place)?;
            let kept = repository.find(snapshot);
            let kept = kept.map_err(|e| failed("there is no such snapshot", &place, &e))?;
            let parts = export::export(&repository, &kept, node.map(NodeId), &output);
            let parts = parts.map_err(|e| failed("it is not exported", &place, &e))?;
            console.print(&Files { parts })
        }
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(place: &str, console: &mut Console) -> Result<(), Failure> {
    let repository = open(place)?;
    let (mut snapshots, mut unreadable) = (Vec::new(), false);
    let all = repository.snapshots().map_err(|e| failed("it cannot be listed", place, &e))?;
    for kept in all {
        let snapshot = match kept {
            Ok(kept) => kept.snapshot,
            Err(e) => {
                console.warn(&e.message);
                unreadable = true;
                continue;
            }
        };
        snapshots.push(Row {
            snapshot: snapshot.snapshot.to_string(),
            seq: snapshot.seq.0,
            cluster: snapshot.cluster.to_string(),
            lineage: snapshot.lineage.to_string(),
            written: snapshot.written,
            rows: snapshot.rows,
            stored_bytes: snapshot.stored_bytes,
            new_bytes: snapshot.new_bytes,
            nodes: snapshot.parts.iter().map(|part| part.node.to_string()).collect(),
            root: snapshot.root.to_string(),
        });
    }
    console.print(&Listed { snapshots })?;
    if unreadable { Err(damaged(place)) } else { Ok(()) }
}

fn check(
    place: &str,
    snapshots: &[SnapshotId],
    whole: bool,
    console: &mut Console,
) -> Result<(), Failure> {
    let repository = open(place)?;
    for id in snapshots {
        let found = repository.find(*id);
        found.map_err(|e| failed("it cannot be verified", place, &e))?;
    }
    let report = verify::verify(&repository, snapshots, whole);
    let report = report.map_err(|e| failed("it cannot be verified", place, &e))?;
    console.print(&report)?;
    if report.sound { Ok(()) } else { Err(damaged(place)) }
}

fn open(place: &str) -> Result<Repository, Failure> {
    Repository::at(place, limits::OBJECT_PATIENCE_COMMAND)
        .map_err(|e| failed("it cannot be opened", place, &e))
}

fn damaged(place: &str) -> Failure {
    Failure::new(
        exit::NOT_VERIFIED,
        "something is damaged",
        place.to_owned(),
        "see above; restore from another snapshot, or import its parts into another repository",
    )
}

fn failed(what: &str, place: &str, e: &Error) -> Failure {
    let exit = match e.kind {
        Kind::NotFound | Kind::Conflict => exit::NOT_FOUND,
        Kind::Corrupt => exit::NOT_VERIFIED,
        Kind::Invalid => exit::USAGE,
        Kind::Denied => exit::NOT_PERMITTED,
        _ => exit::FAILED,
    };
    let remedy = match e.kind {
        Kind::Exhausted => "make room, and say it again",
        Kind::Corrupt => "restore from another snapshot, or another repository",
        Kind::Unavailable => "look at the disk, or the object store, and at who may write there",
        Kind::Denied => "give the environment credentials that may read and write there",
        _ => "see ddbctl repository --help",
    };
    let (told, place) = (text::line(&e.message), place.to_owned());
    // Most messages say where, and a place that is none may hold a secret.
    let said = told.contains(&place) || e.kind == Kind::Invalid;
    let place = if said { String::new() } else { place };
    Failure::new(exit, format!("{what}: {told}"), place, remedy)
}
