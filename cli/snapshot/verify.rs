//! `snapshot verify`: prints what the offline verification of parts found, and turns it into an
//! exit code.
//!
//! The checks themselves are the server library's; nothing is checked here.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use crate::{
    ctl::term::{
        exit::{self, Failure},
        output::{Console, Look, View},
    },
    part::{directory::MANIFEST, seal::Identities, set},
};

/// What a verification found: whether all is well, the report for people, and the report as a
/// document.
pub struct Finding {
    ok: bool,
    text: String,
    document: serde_json::Value,
}

impl Finding {
    pub fn of(report: &(impl Serialize + fmt::Display), ok: bool) -> Finding {
        let document = serde_json::to_value(report).unwrap_or_default();
        Finding { ok, text: report.to_string(), document }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document.serialize(serializer)
    }
}

impl View for Finding {
    fn text(&self, _: Look) -> String {
        format!("{}\n", self.text.trim_end())
    }
}

/// The parts that paths name, before anything is read: tars, extracted directories, and all tars in
/// a directory into which parts were downloaded.
pub fn parts_at(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    if let Some(absent) = paths.iter().find(|path| !path.exists()) {
        return Err(Failure::new(
            exit::NOT_FOUND,
            "there is no such part",
            absent.display().to_string(),
            "name downloaded tars, the directory they are in, or extracted directories",
        ));
    }
    let parts = paths.iter().flat_map(|path| match tars_in(path) {
        tars if tars.is_empty() => vec![path.clone()],
        tars => tars,
    });
    Ok(parts.collect())
}

/// The tars in a directory into which parts were downloaded; none in one that a part was extracted
/// to.
fn tars_in(path: &Path) -> Vec<PathBuf> {
    if path.join(MANIFEST).exists() {
        return Vec::new();
    }
    let entries = path.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let is_tar = |entry: &PathBuf| entry.extension().is_some_and(|extension| extension == "tar");
    let mut tars: Vec<PathBuf> = entries.filter(is_tar).collect();
    tars.sort();
    tars
}

/// What stands in an identity file.
pub fn identities(file: &Path) -> Result<Identities, Failure> {
    Identities::read(file).map_err(|e| Failure::usage(e.message, "name an age identity file"))
}

pub fn run(
    paths: &[PathBuf],
    identity: Option<&Path>,
    console: &mut Console,
) -> Result<(), Failure> {
    let paths = parts_at(paths)?;
    let identities = identity.map(identities).transpose()?;
    let report = set::verify_set(&paths, identities.as_ref());
    let finding = Finding::of(&report, report.sound);
    console.print(&finding)?;
    if finding.ok {
        Ok(())
    } else {
        let (place, remedy) = match report.restorable && !report.unsound().is_empty() {
            true => (report.unsound().join(", "), "restore without it, or fetch it again"),
            false => (listed(&paths), "see above; do not restore from this as it is"),
        };
        Err(Failure::new(exit::NOT_VERIFIED, "verification failed", place, remedy))
    }
}

pub fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| Path::display(path).to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::term::output::Format;

    #[derive(Serialize)]
    struct Report {
        parts: u32,
    }

    impl fmt::Display for Report {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} parts, all well", self.parts)
        }
    }

    #[test]
    fn a_report_is_printed_as_it_describes_itself() {
        let shown = |format| {
            let (mut console, out, _) = Console::recording(format);
            console.print(&Finding::of(&Report { parts: 3 }, true)).unwrap();
            out.text()
        };
        assert_eq!(shown(Format::Table), "3 parts, all well\n");
        assert_eq!(shown(Format::Json), "{\n  \"schema\": 1,\n  \"parts\": 3\n}\n");
        assert_eq!(shown(Format::Yaml), "schema: 1\nparts: 3\n");
    }

    #[test]
    fn a_directory_of_tars_stands_for_them_and_one_that_a_part_was_extracted_to_for_itself() {
        let directory = tempfile::tempdir().unwrap();
        let [b, a, other] =
            ["b.tar", "a.tar", "SHA256SUMS"].map(|name| directory.path().join(name));
        for file in [&b, &a, &other] {
            std::fs::write(file, "").unwrap();
        }
        let paths = [directory.path().to_owned(), b.clone()];
        assert_eq!(parts_at(&paths).unwrap(), [a, b.clone(), b]);
        std::fs::write(directory.path().join(MANIFEST), "{").unwrap();
        assert_eq!(parts_at(&paths[..1]).unwrap(), paths[..1]);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(parts_at(&[empty.path().to_owned()]).unwrap(), [empty.path()]);
    }

    #[test]
    fn a_path_that_is_not_there_is_named() {
        let (mut console, ..) = Console::recording(Format::Table);
        let failure = run(&["/does/not/exist.tar".into()], None, &mut console).unwrap_err();
        assert_eq!(
            (failure.exit, failure.place.as_str()),
            (exit::NOT_FOUND, "/does/not/exist.tar")
        );
    }
}
