//! `snapshot verify`: prints what the offline verification of parts found, and turns it into an
//! exit code.
//!
//! The checks themselves are the server library's; nothing is checked here.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};

use crate::{
    ctl::term::{
        exit::{self, Failure},
        output::{Console, View},
    },
    part::{seal::Identities, set},
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
    fn text(&self, _: Option<usize>) -> String {
        format!("{}\n", self.text.trim_end())
    }
}

/// Refuses paths that name no part at all, before anything is read.
pub fn refuse_what_is_no_part(paths: &[PathBuf]) -> Result<(), Failure> {
    if let Some(absent) = paths.iter().find(|path| !path.exists()) {
        return Err(Failure::new(
            exit::NOT_FOUND,
            "there is no such part",
            absent.display().to_string(),
            "name downloaded tars or extracted directories",
        ));
    }
    if let Some(heap) = paths.iter().find(|path| holds_tars(path)) {
        let what = "the directory holds tars, and is no extracted part";
        return Err(Failure::new(
            exit::USAGE,
            what,
            heap.display().to_string(),
            format!("name the tars: {}", heap.join("*.tar").display()),
        ));
    }
    Ok(())
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
    refuse_what_is_no_part(paths)?;
    let identities = identity.map(identities).transpose()?;
    let report = set::verify_set(paths, identities.as_ref());
    let finding = Finding::of(&report, report.sound);
    console.print(&finding)?;
    if finding.ok {
        Ok(())
    } else {
        Err(Failure::new(
            exit::NOT_VERIFIED,
            "verification failed",
            listed(paths),
            "see above; do not restore from this as it is",
        ))
    }
}

/// A directory into which parts were downloaded, and not one that a part was extracted to.
fn holds_tars(path: &Path) -> bool {
    let is_tar =
        |entry: fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "tar");
    !path.join("manifest.json").exists()
        && path.read_dir().is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_tar)))
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
        assert_eq!(shown(Format::Json), "{\n  \"parts\": 3\n}\n");
        assert_eq!(shown(Format::Yaml), "parts: 3\n");
    }

    #[test]
    fn a_directory_of_tars_is_told_apart_from_a_broken_part() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.tar"), "").unwrap();
        let (mut console, ..) = Console::recording(Format::Table);
        let failure = run(&[directory.path().to_owned()], None, &mut console).unwrap_err();
        assert_eq!(
            (failure.exit, failure.remedy),
            (exit::USAGE, format!("name the tars: {}/*.tar", directory.path().display()))
        );
        std::fs::write(directory.path().join("manifest.json"), "{").unwrap();
        assert_eq!(
            run(&[directory.path().to_owned()], None, &mut console).unwrap_err().exit,
            exit::NOT_VERIFIED
        );
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
