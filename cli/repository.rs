//! `ddbctl repository`: backups outside the cluster, in a directory or an object store. Needs no
//! cluster.
//!
//! The library does all of it; here its results become tables, lines and exit codes.

mod keys;

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
        ids::{NodeId, SnapshotId, SnapshotSeq},
        limits,
    },
    part::chunk::Digest,
    repository::{
        cover::Cover,
        export::{self, Exported},
        import::{self, Imported},
        root::{Folder, Repository},
        status::{self, Status},
        verify,
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
    /// Absent without the key of a sealed one.
    root: Option<String>,
}

#[derive(Serialize)]
struct Files {
    parts: Vec<Exported>,
}

impl View for Made {
    fn text(&self, _: Option<usize>) -> String {
        let sealed = match self.sealed {
            true => ", and sealed: nobody reads it without its key, so keep that elsewhere",
            false => "",
        };
        format!("{} is repository {}{sealed}\n", self.place, self.repository)
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
        args::Repository::Status { place, key } => {
            let repository = look(&place, key)?;
            let status = status::status(&repository);
            let status = status.map_err(|e| failed("it cannot be looked at", &place, &e))?;
            console.print(&status)?;
            if status.unreadable.is_empty() { Ok(()) } else { Err(damaged(&place)) }
        }
        args::Repository::List { place, key } => list(&place, key, console),
        args::Repository::Verify { place, key, snapshots, quick } => {
            check(&place, key, &snapshots, !quick, console)
        }
        args::Repository::Import { place, key, parts } => {
            refuse_what_is_no_part(&parts)?;
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
            console.print(&imported)
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

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(place: &str, key: args::RepositoryKey, console: &mut Console) -> Result<(), Failure> {
    let repository = look(place, key)?;
    let (mut snapshots, mut unreadable) = (Vec::new(), false);
    let names = repository.names().map_err(|e| failed("it cannot be listed", place, &e))?;
    for (folder, seq) in names {
        let (cover, root) = match seen(&repository, folder, seq) {
            Ok(read) => read,
            Err(e) => {
                console.warn(&e.message);
                unreadable = true;
                continue;
            }
        };
        snapshots.push(Row {
            snapshot: cover.snapshot.to_string(),
            seq: cover.seq.0,
            cluster: cover.cluster.to_string(),
            lineage: cover.lineage.to_string(),
            written: cover.written,
            rows: cover.rows,
            stored_bytes: cover.stored_bytes,
            new_bytes: cover.new_bytes,
            nodes: cover.nodes.iter().map(NodeId::to_string).collect(),
            root: root.map(|root| root.to_string()),
        });
    }
    console.print(&Listed { snapshots })?;
    if unreadable { Err(damaged(place)) } else { Ok(()) }
}

/// What can be seen of a snapshot, and its root where the key is here.
fn seen(
    repository: &Repository,
    folder: Folder,
    seq: SnapshotSeq,
) -> Result<(Cover, Option<Digest>), Error> {
    let gone = || Error::not_found(format!("{} has just gone", folder.snapshot(seq)));
    if repository.is_closed() {
        return Ok((repository.cover(folder, seq)?.ok_or_else(gone)?, None));
    }
    let snapshot = repository.snapshot(folder, seq)?.ok_or_else(gone)?;
    Ok((Cover::of(&snapshot), Some(snapshot.root)))
}

fn check(
    place: &str,
    key: args::RepositoryKey,
    snapshots: &[SnapshotId],
    whole: bool,
    console: &mut Console,
) -> Result<(), Failure> {
    let repository = open(place, key)?;
    for id in snapshots {
        let found = repository.find(*id);
        found.map_err(|e| failed("it cannot be verified", place, &e))?;
    }
    let report = verify::verify(&repository, snapshots, whole);
    let report = report.map_err(|e| failed("it cannot be verified", place, &e))?;
    console.print(&report)?;
    if report.sound { Ok(()) } else { Err(damaged(place)) }
}

fn open(place: &str, key: args::RepositoryKey) -> Result<Repository, Failure> {
    Repository::at(place, limits::OBJECT_PATIENCE_COMMAND, &key.key())
        .map_err(|e| failed("it cannot be opened", place, &e))
}

/// The same where the key may be absent.
fn look(place: &str, key: args::RepositoryKey) -> Result<Repository, Failure> {
    Repository::seen(place, limits::OBJECT_PATIENCE_COMMAND, &key.key())
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
        Kind::Denied => "give it the key or the credentials that it needs",
        _ => "see ddbctl repository --help",
    };
    let (told, place) = (text::line(&e.message), place.to_owned());
    // Most messages say where, and a place that is none may hold a secret.
    let said = told.contains(&place) || e.kind == Kind::Invalid;
    let place = if said { String::new() } else { place };
    Failure::new(exit, format!("{what}: {told}"), place, remedy)
}
