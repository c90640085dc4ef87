//! Golden texts of the command line: `UPDATE_GOLDEN=1 cargo test` writes them anew, and the
//! difference is what a reviewer reads.

use std::{env, fs, path::PathBuf};

pub fn check(name: &str, story: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cli").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, story).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(story, golden, "{} tells another story", path.display());
    let stray = story.lines().find(|line| STRAYS.contains(&name_of(line)));
    assert_eq!(stray, None, "{}: docs/scripting.md has another name for it", path.display());
}

/// Names that fields of documents do not have, since what they are about has one name in all of
/// them: `node_id`, `cluster_id`, `uuid`, `operation_id`, and times that end in `_ms`.
const STRAYS: [&str; 10] = [
    "node",
    "cluster",
    "snapshot",
    "operation",
    "written",
    "began",
    "ended",
    "created",
    "until",
    "expires",
];

/// The name of the field that a line of JSON has, where that is a text or a number.
fn name_of(line: &str) -> &str {
    let field = line.trim_start().strip_prefix('"').and_then(|rest| rest.split_once("\": "));
    let told = field.filter(|(_, value)| {
        value.starts_with('"') || value.trim_end_matches(',').parse::<f64>().is_ok()
    });
    told.map_or("", |(name, _)| name)
}
