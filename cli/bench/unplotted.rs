//! What stands in for `plot.rs` in a build without the feature `plot`: it refuses to draw, before
//! anything is measured.

use std::path::Path;

use super::report::Point;
use crate::ctl::term::exit::{self, Failure};

/// Whether a plot can be drawn there.
pub fn check(path: &Path) -> Result<(), Failure> {
    Err(Failure::new(
        exit::USAGE,
        "this build draws no plots".to_owned(),
        path.display().to_string(),
        "leave out --plot, or build ddbctl with the feature `plot`, which is on by default",
    ))
}

pub fn draw(_title: &str, _points: &[Point], path: &Path) -> Result<(), Failure> {
    check(path)
}
