//! Every tunable of /proc/sys has its place in docs/sysctl.md, and every name there its tunable.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::paths;

/// The tables of tunables.
const TABLES: &str = "kernel/fs/proc/src/sysctl";
/// What says what they mean.
const PAGE: &str = "docs/sysctl.md";

/// Fails with what is missing on either side.
pub fn run() -> Result<String> {
    let mut known = BTreeSet::new();
    for entry in
        fs::read_dir(paths::repo().join(TABLES)).with_context(|| format!("{TABLES} cannot be read"))?
    {
        known.extend(tunables(&fs::read_to_string(entry?.path())?)?);
    }
    let page =
        fs::read_to_string(paths::repo().join(PAGE)).with_context(|| format!("{PAGE} cannot be read"))?;
    let told = told(&page)?;
    let untold: Vec<&str> = known.difference(&told).map(String::as_str).collect();
    let gone: Vec<&str> = told.difference(&known).map(String::as_str).collect();
    if !untold.is_empty() || !gone.is_empty() {
        bail!("{PAGE} lacks [{}] and lists in vain [{}]", untold.join(", "), gone.join(", "));
    }
    Ok(format!("{} names, each with its meaning", known.len()))
}

/// The last parts of the names of a file's entries.
fn tunables(source: &str) -> Result<Vec<String>> {
    let entry = Regex::new(
        r#"\b(?:fixed|shown|tunable|switch|max|limit!|next_id!|number\w*)\(\s*"([^"]+)"|\bname: "([^"]+)""#,
    )?;
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let name = |found: regex::Captures<'_>| {
        let groups = found.iter().skip(1).flatten();
        groups.map(|group| group.as_str().to_owned()).next().unwrap_or_default()
    };
    Ok(entry.captures_iter(source).map(name).collect())
}

/// The last parts of the names in the first columns of the page.
fn told(page: &str) -> Result<BTreeSet<String>> {
    let name = Regex::new(r"`[\w.-]*\.([\w-]+)`")?;
    let columns = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let columns: Vec<String> = columns.map(|column| format!("`{column}")).collect();
    let names = columns.iter().flat_map(|column| name.captures_iter(column).map(|found| found[1].to_owned()));
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn entries_are_found_however_they_are_made() {
        let source = r#"fixed("a", "0"), Entry { name: "b", kind: X }, tunable(
            "c", x), number32("d", &V)"#;
        assert_eq!(super::tunables(source).unwrap(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn names_stand_in_the_first_column() {
        let names = super::told("| `vm.a`, `vm.b-c` | 1 | as `vm.d` |\n|---|\n| name | |\n").unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b-c"]);
    }
}
