//! The table of directories in docs/compatibility.md, from `docs/conformance.json`, the summary of runs.
//!
//! `--update` replaces the rows of the directories that a run had in full; the page is rendered from the file, so
//! that it can be checked without running anything.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::known::Known;
use super::results::{Counts, Results};
use crate::paths;

/// The summary, relative to the repository.
const SUMMARY: &str = "docs/conformance.json";

/// All rows.
#[derive(Default, Deserialize, Serialize)]
pub struct Summary {
    /// Version of the self-tests.
    tests: String,
    /// By `suite/directory`.
    directories: BTreeMap<String, Row>,
    /// Programs that Debian 12 cannot build, with the compiler's first error.
    not_built: BTreeMap<String, String>,
}

/// One directory.
#[derive(Default, Deserialize, Serialize)]
struct Row {
    programs: usize,
    results: usize,
    linux: usize,
    keel: usize,
    only_keel: usize,
    differences: usize,
}

impl Summary {
    fn read() -> Result<Summary> {
        match fs::read_to_string(paths::repo().join(SUMMARY)) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{SUMMARY} is not valid")),
            Err(_) => Ok(Summary::default()),
        }
    }
}

/// Puts the directories in `complete` of a run on both kernels into the summary.
pub fn update(results: &Results, complete: &[String]) -> Result<()> {
    let mut summary = Summary::read()?;
    if !results.tests.is_empty() {
        summary.tests.clone_from(&results.tests);
    }
    for (dir, (counts, differences)) in results.directories() {
        if complete.contains(&dir) {
            let programs = results.programs.keys().filter(|name| is_in(name, &dir)).count();
            summary.directories.insert(dir, row(programs, counts, differences));
        }
    }
    summary.not_built.retain(|name, _| !complete.iter().any(|dir| is_in(name, dir)));
    let missing = results.missing.iter().filter(|(name, _)| complete.iter().any(|dir| is_in(name, dir)));
    summary.not_built.extend(missing.map(|(name, why)| (name.clone(), why.clone())));
    let text = serde_json::to_string_pretty(&summary)? + "\n";
    fs::write(paths::repo().join(SUMMARY), text).with_context(|| format!("{SUMMARY} cannot be written"))
}

fn row(programs: usize, counts: Counts, differences: usize) -> Row {
    Row {
        programs,
        results: counts.all,
        linux: counts.linux,
        keel: counts.keel,
        only_keel: counts.only_keel,
        differences,
    }
}

fn is_in(name: &str, dir: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(parent, _)| parent == dir)
}

/// The part of the page about test programs; empty when nothing was measured.
pub fn render() -> Result<String> {
    let summary = Summary::read()?;
    if summary.directories.is_empty() {
        return Ok(String::new());
    }
    render_summary(&summary, &Known::read()?)
}

fn render_summary(summary: &Summary, known: &Known) -> Result<String> {
    let mut page = format!(
        "\n# Test programs\n\n\
         Made from `{SUMMARY}`, which `cargo xtask conform --update` writes. Each program ran on Linux 7.2 and on Keel, and\n\
         their results were compared line by line; a program that prints none counts by its exit status. `kselftest` are\n\
         Linux's own self-tests of the same version, `user` Keel's tests, `stress` the stressors of stress-ng. What Linux\n\
         does not pass in this virtual machine either (no module is loaded there) is counted in the first column alone.\n\n\
         | Directory | Programs | Results | Linux passes | of these Keel | Keel alone | Differences |\n\
         |---|---:|---:|---:|---:|---:|---:|\n"
    );
    let mut sum = Row::default();
    for (dir, row) in &summary.directories {
        write_row(&mut page, &format!("`{dir}`"), row)?;
        sum.programs += row.programs;
        sum.results += row.results;
        sum.linux += row.linux;
        sum.keel += row.keel;
        sum.only_keel += row.only_keel;
        sum.differences += row.differences;
    }
    write_row(&mut page, "all", &sum)?;
    page.push_str("\n## Known differences\n\n| Program | Why |\n|---|---|\n");
    for (test, reason) in known.entries() {
        writeln!(page, "| `{test}` | {} |", reason.replace('|', "\\|"))?;
    }
    if !summary.not_built.is_empty() {
        page.push_str("\n## Not built on Debian 12\n\n| Program | Why |\n|---|---|\n");
        for (name, why) in &summary.not_built {
            writeln!(page, "| `{name}` | {} |", why.replace('|', "\\|"))?;
        }
    }
    Ok(page)
}

fn write_row(page: &mut String, name: &str, row: &Row) -> Result<()> {
    let Row { programs, results, linux, keel, only_keel, differences } = row;
    writeln!(page, "| {name} | {programs} | {results} | {linux} | {keel} | {only_keel} | {differences} |")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_row_for_each_directory_and_their_sum() {
        let row = |n| Row { programs: 1, results: n, linux: n, keel: n - 1, only_keel: 0, differences: 1 };
        let mut summary = Summary::default();
        summary.directories.insert("k/a".to_owned(), row(2));
        summary.directories.insert("k/b".to_owned(), row(3));
        let page = render_summary(&summary, &Known::default()).unwrap();
        assert!(page.contains("| `k/a` | 1 | 2 | 2 | 1 | 0 | 1 |\n"));
        assert!(page.contains("| all | 2 | 5 | 5 | 3 | 0 | 2 |\n"));
    }
}
