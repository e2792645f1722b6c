//! The verb `conform`: the same test programs on Keel and on Linux 7.2, compared line by line.
//!
//! ```text
//!   kselftest   Linux's own self-tests                  kselftest.rs   \
//!   user        the project's user/tests                user.rs         > guest.rs runs the programs,
//!   stress      stress-ng's stressors                   stress.rs      /  ktap.rs reads what they print
//!   session.rs  guests side by side, what they find kept at once
//!   results.rs  where the two differ        known.rs  conformance.toml: which of it is known, and why
//! ```
//! Linux's endings are kept in the cache: they change only with its version. A program that differs in a way
//! that the list does not know is run again on Keel before it counts. Guests with one CPU run by `-icount`, so that
//! their time, and with it every time limit, is the same on any machine.

mod guest;
mod known;
mod kselftest;
mod ktap;
pub mod page;
mod results;
mod session;
pub mod short;
mod stress;
mod user;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::guest::Case;
use self::known::Known;
use self::results::Results;
use self::session::Session;
use crate::{paths, ui};

/// Programs that share a guest.
const MOST_CASES: usize = 40;
/// MiB of test programs that share a guest.
const MOST_MIB: u64 = 48;
/// Memory of a guest in MiB.
const MEMORY: u32 = 2048;

/// Options of `conform`.
#[derive(Args)]
pub struct ConformArgs {
    /// What to run, e.g. `kselftest`, `kselftest/pidfd`, `kselftest/pidfd/pidfd_test` [default: everything]
    #[arg(value_name = "SUITE[/TEST]")]
    tests: Vec<String>,
    /// Where to run it
    #[arg(long, value_enum, default_value = "both")]
    kernel: Kernels,
    /// CPUs of the guests
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Write the results there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Bring conformance.toml up to date
    #[arg(long)]
    update: bool,
    /// Run Linux again instead of taking its results from the cache
    #[arg(long)]
    fresh: bool,
    /// Keel built with debug assertions and the lock-order checker
    #[arg(long)]
    debug: bool,
    /// Run this kernel file as Keel instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "debug")]
    image: Option<PathBuf>,
    /// Run nothing: take the results of a run from this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tests", "resume"])]
    from: Option<PathBuf>,
    /// Go on with a run that was interrupted: what target/conform/results.json holds is not run again
    #[arg(long)]
    resume: bool,
    /// Guests at the same time [default: as many as this machine has CPUs, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Only list the tests
    #[arg(long)]
    list: bool,
}

/// The choice of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kernels {
    Keel,
    Linux,
    Both,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Linux,
    Keel,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Linux => "linux",
            Side::Keel => "keel",
        }
    }
}

/// Programs that run in one guest, and the folders they need.
#[derive(Default)]
struct Group {
    cases: Vec<Case>,
    folders: Vec<(String, PathBuf)>,
    mib: u64,
    /// CPUs on Linux and on Keel, where the suite decides.
    smp: Option<(u32, u32)>,
}

/// Runs what was chosen.
pub fn run(args: &ConformArgs) -> Result<ExitCode> {
    if let Some(file) = &args.from {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let results =
            serde_json::from_slice(&text).with_context(|| format!("{} holds no results", file.display()))?;
        return conclude(args, &results);
    }
    let start = Instant::now();
    let mut results = Results { smp: args.smp, is_whole: args.tests.is_empty(), ..Results::default() };
    let groups = collect(args, &mut results)?;
    if args.list {
        groups.iter().flat_map(|g| &g.cases).for_each(|case| println!("{}", case.name));
        return Ok(ExitCode::SUCCESS);
    }
    let known = Known::read()?;
    let (results, problems) = Session::new(args, &known, groups, results).run();
    ui::say(&format!("conform took {:.0} s", start.elapsed().as_secs_f64()));
    let verdict = conclude(args, &results)?;
    problems.iter().for_each(|problem| eprintln!("error: {problem}"));
    Ok(if problems.is_empty() { verdict } else { ExitCode::FAILURE })
}

/// Prints what a run found and holds it against the list, or brings the list up to date.
fn conclude(args: &ConformArgs, results: &Results) -> Result<ExitCode> {
    print_tables(results);
    if args.kernel != Kernels::Both {
        return Ok(ExitCode::SUCCESS);
    }
    let known = Known::read()?;
    if !args.update {
        return Ok(report(&known, results));
    }
    known.update(results)?;
    let is_complete = |dir: &String| {
        args.tests.is_empty() || args.tests.iter().any(|t| is_part(t.trim_end_matches('/'), dir))
    };
    let complete: Vec<String> = results.directories().into_keys().filter(is_complete).collect();
    page::update(results, &complete)?;
    crate::coverage::write()?;
    ui::say(&format!("{} and docs/compatibility.md are up to date", known::PATH));
    Ok(ExitCode::SUCCESS)
}

/// The programs that `args` choose, built, in groups that fit a guest.
fn collect(args: &ConformArgs, results: &mut Results) -> Result<Vec<Group>> {
    let chosen = |name: &str| {
        args.tests.is_empty() || args.tests.iter().any(|t| is_part(t.trim_end_matches('/'), name))
    };
    let may_hold = |dir: &str| {
        args.tests.is_empty()
            || args.tests.iter().any(|t| is_part(t.trim_end_matches('/'), dir) || is_part(dir, t))
    };
    let mut groups: Vec<Group> = vec![Group::default()];
    let dirs: Vec<&str> =
        kselftest::DIRS.into_iter().filter(|dir| may_hold(&format!("kselftest/{dir}"))).collect();
    if !dirs.is_empty() {
        crate::setup::for_conform()?;
        let sources = kselftest::Sources::open()?;
        results.tests = sources.version().unwrap_or_default();
        for dir in dirs {
            let found = sources.build(dir)?;
            let name = |program: &str| format!("kselftest/{dir}/{program}");
            results.missing.extend(found.missing.into_iter().map(|(program, why)| (name(&program), why)));
            let cases: Vec<Case> = found.cases.into_iter().filter(|case| chosen(&case.name)).collect();
            if !cases.is_empty() {
                add(&mut groups, cases, (format!("kselftest/{dir}"), sources.built(dir)));
            }
        }
    }
    if may_hold("user/tests") {
        let (cases, folder) = user::cases()?;
        let cases = cases.into_iter().filter(|case| chosen(&case.name)).collect();
        groups.push(Group { cases, folders: vec![("user".to_owned(), folder)], ..Group::default() });
    }
    if may_hold("stress/stress-ng") {
        let cases: Vec<Case> = stress::cases().into_iter().filter(|case| chosen(&case.name)).collect();
        let group = |cases: &[Case]| Group {
            cases: cases.to_vec(),
            smp: Some((1, args.smp.max(stress::SMP))),
            ..Group::default()
        };
        groups.extend(cases.chunks(MOST_CASES).map(group));
    }
    groups.retain(|group| !group.cases.is_empty());
    if groups.is_empty() {
        bail!("no test is called {}; `cargo xtask conform --list` shows them", args.tests.join(" or "));
    }
    Ok(groups)
}

/// Whether `name` is `prefix` or lies below it.
fn is_part(prefix: &str, name: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Puts a directory's cases into the last group if they fit there, else into a new one.
fn add(groups: &mut Vec<Group>, cases: Vec<Case>, folder: (String, PathBuf)) {
    let files = walkdir::WalkDir::new(&folder.1).into_iter().flatten();
    let bytes: u64 = files.filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum();
    let mib = bytes >> 20;
    let fits = |g: &Group| g.cases.len() + cases.len() <= MOST_CASES && g.mib + mib <= MOST_MIB;
    if !groups.last().is_some_and(fits) {
        groups.push(Group::default());
    }
    if let Some(group) = groups.last_mut() {
        group.cases.extend(cases);
        group.folders.push(folder);
        group.mib += mib;
    }
}

/// The table of directories, and below it what differs.
fn print_tables(results: &Results) {
    println!("{:40} {:>7} {:>7} {:>7} {:>11}", "directory", "results", "Linux", "Keel", "differences");
    let mut all = results::Counts::default();
    let mut sum = 0;
    for (dir, (counts, differences)) in results.directories() {
        println!("{dir:40} {:7} {:7} {:7} {differences:11}", counts.all, counts.linux, counts.keel);
        all.add(counts);
        sum += differences;
    }
    println!("{:40} {:7} {:7} {:7} {sum:11}", "all", all.all, all.linux, all.keel);
    for (name, why) in &results.missing {
        println!("not built: {name}: {why}");
    }
}

/// Says what the list does not know; fails when there is any.
fn report(known: &Known, results: &Results) -> ExitCode {
    let verdict = known.judge(results);
    for (test, lines) in &verdict.new {
        println!("\n{test} differs:");
        lines.iter().for_each(|line| println!("  {line}"));
    }
    for entry in &verdict.stale {
        println!("\n{} lists a difference that is gone: {entry}", known::PATH);
    }
    let new: usize = verdict.new.values().map(Vec::len).sum();
    println!("\n{} known differences, {new} new, {} gone", verdict.known, verdict.stale.len());
    println!("what the programs printed: {}", paths::target().join("conform").display());
    if new == 0 && verdict.stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::is_part;

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert!(is_part("kselftest/mm", "kselftest/mm/cow") && is_part("a", "a"));
        assert!(!is_part("kselftest/mm", "kselftest/mmx/cow"));
    }
}
