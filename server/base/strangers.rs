//! What lies in a directory that this program keeps for itself, and is not its own: a mistyped
//! path, a disk that is not mounted, a part that was copied and not extracted. It is named, so that
//! the operator sees which of these it is.

use std::{fs, path::Path};

use crate::base::{
    error::{Context as _, Result},
    limits,
};

/// What a file system keeps in its own root.
const TOLERATED: &str = "lost+found";

/// What of a directory's content is not its own, by name. Nothing where there is no directory.
pub fn in_directory(dir: &Path, own: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at(dir.display())?,
    };
    let mut strangers = Vec::new();
    for entry in entries {
        let name = entry.at(dir.display())?.file_name();
        if !name.to_str().is_some_and(|name| name == TOLERATED || own(name)) {
            strangers.push(name.to_string_lossy().into_owned());
        }
    }
    strangers.sort();
    Ok(strangers)
}

/// The first of them, for a message.
pub fn named(strangers: &[String]) -> String {
    let shown: Vec<_> =
        strangers.iter().take(limits::STRANGERS_TOLD_MAX).map(|name| format!("{name:?}")).collect();
    match strangers.len().saturating_sub(limits::STRANGERS_TOLD_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_directorys_own_is_named_in_order_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["state.redb", "lost+found", "usr", "home", "bin", "etc", "b\nc", "var", "tmp"]
        {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let strangers = in_directory(dir.path(), |name| name == "state.redb").unwrap();
        assert_eq!(named(&strangers), r#""b\nc", "bin", "etc", "home", "tmp" and 2 more"#);
        assert_eq!(in_directory(&dir.path().join("nowhere"), |_| false), Ok(Vec::new()));
    }
}
