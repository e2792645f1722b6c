//! docs/compatibility.md: every system call and how much of it Keel has, from the kernel's own table; then what
//! became of Linux's self-tests (`conform::page`).
//!
//! The verb `coverage` writes the page; the check of the same name fails when it is out of date.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use regex::Regex;

use crate::{conform, paths};

/// The table, one row a call.
const TABLE: &str = "kernel/syscall/src/table.rs";
/// The page.
const PAGE: &str = "docs/compatibility.md";

/// One system call.
struct Call {
    number: u32,
    name: String,
    support: Support,
}

/// What the table says of it.
#[derive(PartialEq)]
enum Support {
    Full,
    Partial(String),
    Absent,
}

/// Writes the page.
pub fn write() -> Result<()> {
    fs::write(paths::repo().join(PAGE), page()?).with_context(|| format!("{PAGE} cannot be written"))
}

/// Fails when the page is not what the table gives.
pub fn check() -> Result<String> {
    let old = fs::read_to_string(paths::repo().join(PAGE)).unwrap_or_default();
    ensure!(old == page()?, "{PAGE} is out of date: run `cargo xtask coverage`");
    Ok(String::new())
}

fn page() -> Result<String> {
    let text =
        fs::read_to_string(paths::repo().join(TABLE)).with_context(|| format!("{TABLE} cannot be read"))?;
    Ok(render(&parse(&text)?)? + &conform::page::render()?)
}

fn parse(text: &str) -> Result<Vec<Call>> {
    let (_, rows) = text.split_once("\nsyscalls! {").context("the table does not begin with syscalls!")?;
    let (rows, absent) = rows.split_once("absent {").context("the table has no list of absent calls")?;
    let absent = absent.split_once('}').map_or(absent, |(list, _)| list);
    let row = Regex::new(
        r#"(?s)(\d+) (\w+)\s*\([^)]*\)\s*=>\s*[\w:]+,\s*Support::(Full|Partial\(\s*"((?:[^"\\]|\\.)*)"\s*\))\s*;"#,
    )?;
    let mut calls = Vec::new();
    for found in row.captures_iter(rows) {
        let support = match found.get(4) {
            Some(what) => Support::Partial(what.as_str().to_owned()),
            None => Support::Full,
        };
        calls.push(Call { number: found[1].parse()?, name: found[2].to_owned(), support });
    }
    let written = rows.matches("Support::").count();
    ensure!(calls.len() == written, "{written} rows in {TABLE}, of which {} were understood", calls.len());
    for entry in absent.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let (number, name) = entry.split_once(' ').with_context(|| format!("no name in `{entry}`"))?;
        calls.push(Call { number: number.parse()?, name: name.to_owned(), support: Support::Absent });
    }
    calls.sort_by_key(|call| call.number);
    Ok(calls)
}

fn render(calls: &[Call]) -> Result<String> {
    let absent = calls.iter().filter(|c| c.support == Support::Absent).count();
    let partial = calls.iter().filter(|c| matches!(c.support, Support::Partial(_))).count();
    let full = calls.len() - absent - partial;
    let mut page = format!(
        "# System calls\n\n\
         Made from `{TABLE}` by `cargo xtask coverage`. Of Linux's {} calls on x86-64, {full} are complete,\n\
         {partial} lack something, and {absent} are absent: those return `ENOSYS`, and the kernel logs the name once for\n\
         each program that tries.\n\n\
         | Number | Call | State |\n|---:|---|---|\n",
        calls.len()
    );
    for Call { number, name, support } in calls {
        let state = match support {
            Support::Full => "full".to_owned(),
            Support::Partial(what) => format!("partial: {}", what.replace('|', "\\|")),
            Support::Absent => "absent".to_owned(),
        };
        writeln!(page, "| {number} | `{name}` | {state} |")?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::{parse, render};

    #[test]
    fn rows_of_each_kind_are_understood() {
        let table = "\nsyscalls! {\n    0 read(fd: i32, buf: UserAddr)\n        => file::sys_read, Support::Full;\n    \
                     9 mmap(a: u64) => mem::sys_mmap, Support::Partial(\"no huge pages: EINVAL\");\n    \
                     absent {\n        101 ptrace,\n    }\n}\n";
        let page = render(&parse(table).unwrap()).unwrap();
        assert!(page.contains("| 0 | `read` | full |\n| 9 | `mmap` | partial: no huge pages: EINVAL |\n| 101 | `ptrace` | absent |"));
    }
}
