//! Every crate from outside has its row in docs/dependencies.md, and every row its crate.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;

use crate::paths;

/// Where the reasons are.
const PAGE: &str = "docs/dependencies.md";

/// Fails with what is missing on either side.
pub fn run() -> Result<String> {
    let page =
        fs::read_to_string(paths::repo().join(PAGE)).with_context(|| format!("{PAGE} cannot be read"))?;
    let metadata =
        MetadataCommand::new().current_dir(paths::repo()).no_deps().exec().context("cargo metadata")?;
    let used: BTreeSet<String> = metadata
        .packages
        .iter()
        .flat_map(|p| &p.dependencies)
        .filter(|d| d.path.is_none())
        .map(|d| d.name.clone())
        .collect();
    let told = rows(&page);
    let untold: Vec<&str> = used.difference(&told).map(String::as_str).collect();
    let unused: Vec<&str> = told.difference(&used).map(String::as_str).collect();
    if !untold.is_empty() || !unused.is_empty() {
        bail!("{PAGE} lacks [{}] and lists in vain [{}]", untold.join(", "), unused.join(", "));
    }
    Ok(format!("{} crates from outside, each with its reason", used.len()))
}

/// The names in the first column of the page's tables.
fn rows(page: &str) -> BTreeSet<String> {
    let names = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    names.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_stand_in_the_first_column() {
        let names = super::rows("| Crate | Why |\n|---|---|\n| `log` | the `log` facade |\n");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["log"]);
    }
}
