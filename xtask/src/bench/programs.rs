//! Whole programs: scripts of `user/bench/programs.toml`, on the root `bench`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::plan::{Operation, Source};
use crate::paths;

/// The list.
const LIST: &str = "user/bench/programs.toml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    program: Vec<Program>,
}

/// One program; see the file for what its fields mean.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Program {
    name: String,
    #[serde(default)]
    setup: String,
    run: String,
    #[serde(default)]
    after: String,
}

fn read() -> Result<Vec<Program>> {
    let path = paths::repo().join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let list: List = toml::from_str(&text).with_context(|| format!("{LIST} is not valid"))?;
    for program in &list.program {
        ensure!(
            program.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "{LIST}: the name {:?} holds more than letters, digits and hyphens",
            program.name
        );
    }
    Ok(list.program)
}

/// The rows of the group `program`.
pub fn operations() -> Result<Vec<Operation>> {
    let row = |program: Program| Operation {
        name: format!("program/{}", program.name),
        unit: "ns".to_owned(),
        bulk: false,
        source: Source::Programs,
    };
    Ok(read()?.into_iter().map(row).collect())
}

/// Writes the scripts to the folder `to`: NAME.setup, NAME.run and NAME.after.
pub fn write_scripts(to: &Path) -> Result<()> {
    paths::make_dir(to)?;
    for program in read()? {
        for (kind, script) in [("setup", &program.setup), ("run", &program.run), ("after", &program.after)] {
            let path = to.join(format!("{}.{kind}", program.name));
            fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}
