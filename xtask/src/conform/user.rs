//! Suite `user`: the project's own `user/tests`, an area of it at a time.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::guest::Case;
use crate::{paths, ui, userland};

/// Seconds for one area.
const LIMIT: u64 = 300;

/// The areas as cases, and the folder that holds the program.
pub fn cases() -> Result<(Vec<Case>, PathBuf)> {
    let program = userland::program("user-tests")?;
    let list = ui::capture(Command::new(&program).arg("list")).context("user-tests cannot list its tests")?;
    let areas: BTreeSet<&str> =
        list.lines().filter_map(|l| l.split_once("::")).map(|(area, _)| area).collect();
    let folder = paths::make_dir(&paths::target().join("conform/user"))?;
    fs::copy(&program, folder.join("user-tests"))?;
    let case = |area: &str| Case {
        name: format!("user/tests/{area}"),
        folder: "user".to_owned(),
        command: format!("./user-tests --ktap {area}::"),
        seconds: LIMIT,
    };
    Ok((areas.into_iter().map(case).collect(), folder))
}
