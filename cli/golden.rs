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
}
