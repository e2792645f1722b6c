//! docs/benchmarks.md: written from the JSON, around what a person wrote in docs/benchmarks-notes.md.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::chart;
use super::report::{Clock, Lack, Report, Row};
use super::table::{number, value};
use crate::paths;

/// The data that the page is made of; tests hold measurements against it.
pub fn data() -> PathBuf {
    paths::repo().join("docs/benchmarks.json")
}

/// Writes the page, its data and its chart. The rows of a run that is not `whole` join those of the last.
pub fn write(report: &Report, whole: bool) -> Result<()> {
    let docs = paths::repo().join("docs");
    let mut all = report.clone();
    if !whole && data().exists() {
        all = Report::read(&data())?;
        all.merge(report);
    }
    let report = &all;
    report.write(&data())?;
    let notes = fs::read_to_string(docs.join("benchmarks-notes.md")).unwrap_or_default();
    for (name, text) in [("benchmarks.svg", chart::render(report)), ("benchmarks.md", render(report, &notes))]
    {
        fs::write(docs.join(name), text).with_context(|| format!("docs/{name} cannot be written"))?;
    }
    Ok(())
}

fn render(report: &Report, notes: &str) -> String {
    let mut page = format!(
        "# Speed and size beside Linux 7.2\n\n\
         Written by `cargo xtask bench --page` from docs/benchmarks.json, with the notes of docs/benchmarks-notes.md;\n\
         change those, not this page. As a chart: [benchmarks.svg](benchmarks.svg).\n\n\
         Both kernels run with the same root, QEMU flags and programs, and with the same choices (`mitigations=off`,\n\
         `init_on_alloc=0`). Below 1 is faster than {}. A row counts guest instructions, exactly repeatable, unless it says\n\
         `by time`: those are medians of runs that took turns, with half the distance from the lowest to the highest. Rows\n\
         marked `*` clear or copy much memory: QEMU counts each repetition of a string instruction as an instruction, which\n\
         no CPU does, so their time is what counts.\n\n\
         | | |\n|---|---|\n| {} | {} |\n| {} | {} |\n| machine | {} |\n\n",
        report.kernels[0],
        report.kernels[0],
        report.versions[0],
        report.kernels[1],
        report.versions[1],
        report.machine
    );
    page.push_str("## Geometric means\n\n| group | rows | ratio |\n|---|---:|---:|\n");
    for (group, count, mean) in report.means() {
        let _ = writeln!(page, "| {group} | {count} | {mean:.2} |");
    }
    let _ = write!(
        page,
        "\n## Every row\n\n| operation | unit | {} | {} | ratio |\n|---|---|---:|---:|---:|\n",
        report.kernels[0], report.kernels[1]
    );
    report.rows.iter().for_each(|row| page.push_str(&line(row)));
    lacks(&mut page, report);
    if !notes.trim().is_empty() {
        let _ = write!(page, "\n{}\n", notes.trim());
    }
    page
}

fn line(row: &Row) -> String {
    let clock = if row.clock == Clock::Time { ", by time" } else { "" };
    let mark = if row.bulk && row.clock == Clock::Icount { "*" } else { "" };
    let ratio = row.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}{mark}"));
    let cell = |idx: usize| match (&row.sides[idx].lack, row.sides[idx].median()) {
        (Some(Lack::Unsupported(_)), None) => "not there".to_owned(),
        (Some(Lack::Failed(_)), None) => "failed".to_owned(),
        (None, None) => "-".to_owned(),
        _ => value(row, &row.sides[idx]),
    };
    format!("| {}{clock} | {} | {} | {} | {ratio} |\n", row.title(), row.unit, cell(0), cell(1))
}

/// What could not be measured, each reason once.
fn lacks(page: &mut String, report: &Report) {
    let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
    for row in &report.rows {
        for (kernel, side) in report.kernels.iter().zip(&row.sides) {
            let Some(lack) = &side.lack else { continue };
            let reason = format!("{kernel}: {}", lack.summary().replace('|', "\\|"));
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, rows)) => rows.push(row.title()),
                None => reasons.push((reason, vec![row.title()])),
            }
        }
    }
    if !reasons.is_empty() {
        page.push_str("\n## What has no value, and why\n\n");
    }
    for (reason, rows) in reasons {
        let _ = writeln!(
            page,
            "- {reason} ({} rows): `{}`",
            number(rows.len() as f64).trim_end_matches(".0"),
            rows.join("`, `")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Side, tests::row};
    use super::*;

    #[test]
    fn the_page_names_what_is_missing() {
        let mut report = Report { kernels: ["linux".into(), "keel".into()], ..Report::default() };
        report.rows.push(row("a/x", Clock::Icount, true, [100.0, 50.0]));
        report.rows.push(row("a/y", Clock::Icount, false, [100.0, 50.0]));
        report.rows[1].sides[1] = Side { values: vec![], lack: Some(Lack::Unsupported("ENOSYS".into())) };
        let page = render(&report, "## Causes\n\nNone.\n");
        assert!(page.contains("| a/x | ns | 100 | 50.0 | 0.50* |"));
        assert!(page.contains("| a/y | ns | 100 | not there | - |"));
        assert!(page.contains("- keel: not there: ENOSYS (1 rows): `a/y`\n\n## Causes\n\nNone.\n"));
    }
}
