//! A run in progress: guests side by side, and what they find kept at once.
//!
//! ```text
//!   groups ── worker ── Linux (what the cache does not know) ── Keel ── again what differs unexpectedly ──┐
//!        └─── worker ── ...                                                                               ├─ results
//!        ...                                                                                              ┘
//! ```
//! A group that cannot be run (no package, no disk space) costs no other: the run goes on and ends with the error.
//! Each ending is in target/conform/results.json as soon as it is known, so that `--resume` can go on from there.
//!
//! Locks: `results` and `problems`, never both; nothing is run under them.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use super::guest::{self, Case, Ending};
use super::known::Known;
use super::ktap;
use super::results::{Program, Results};
use super::{ConformArgs, Group, Kernels, MEMORY, Side};
use crate::guest::GuestArgs;
use crate::paths::{self, Lock};
use crate::{linux, ui};

/// Guests at the same time, unless `--jobs` says more: each takes a CPU and [`MEMORY`].
const MOST_JOBS: usize = 4;

/// What the workers share.
pub struct Session<'a> {
    args: &'a ConformArgs,
    known: &'a Known,
    todo: Mutex<VecDeque<Group>>,
    results: Mutex<Results>,
    problems: Mutex<Vec<String>>,
    /// Programs that ended, and how many will.
    done: AtomicUsize,
    all: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Session<'a> {
    /// A run of `groups`; `results` holds what is known before it.
    pub fn new(
        args: &'a ConformArgs,
        known: &'a Known,
        groups: Vec<Group>,
        mut results: Results,
    ) -> Session<'a> {
        let names = groups.iter().flat_map(|group| &group.cases).map(|case| case.name.as_str());
        if args.resume {
            results.programs = before(names.clone(), &results);
            ui::say(&format!("{} programs were run before", results.programs.len()));
        }
        let sides = if args.kernel == Kernels::Both { 2 } else { 1 };
        Session {
            args,
            known,
            all: names.count() * sides,
            todo: Mutex::new(groups.into()),
            results: Mutex::new(results),
            problems: Mutex::new(Vec::new()),
            done: AtomicUsize::new(0),
        }
    }

    /// Runs everything; what was found, and what could not be run.
    pub fn run(self) -> (Results, Vec<String>) {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.args.jobs.map_or(cpus.min(MOST_JOBS), |jobs| jobs as usize);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| self.work());
            }
        });
        let take =
            |problems: Mutex<Vec<String>>| problems.into_inner().unwrap_or_else(PoisonError::into_inner);
        (self.results.into_inner().unwrap_or_else(PoisonError::into_inner), take(self.problems))
    }

    /// One worker: groups until none is left.
    fn work(&self) {
        loop {
            let Some(group) = lock(&self.todo).pop_front() else { return };
            if let Err(error) = self.group(&group) {
                let mut problems = lock(&self.problems);
                let text = format!("{error:#}");
                if !problems.contains(&text) {
                    ui::say(&format!("error: {text}"));
                    problems.push(text);
                }
            }
        }
    }

    fn group(&self, group: &Group) -> Result<()> {
        if self.args.kernel != Kernels::Keel {
            self.run_linux(group)?;
        }
        if self.args.kernel == Kernels::Linux {
            return Ok(());
        }
        let is_new = |case: &&Case| {
            lock(&self.results).programs.get(&case.name).is_none_or(|program| program.keel.is_none())
        };
        let cases: Vec<Case> = group.cases.iter().filter(is_new).cloned().collect();
        self.done.fetch_add(group.cases.len() - cases.len(), Ordering::Relaxed);
        self.run_keel(group, &cases)?;
        self.retry(group, &cases)
    }

    fn run_linux(&self, group: &Group) -> Result<()> {
        let tests = lock(&self.results).tests.clone();
        let mut cache = LinuxCache::open(self.args, group, &tests)?;
        let mut todo = Vec::new();
        for case in &group.cases {
            match cache.endings.get(&case.name) {
                Some(ending) if !self.args.fresh && is_cacheable(&case.name) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    self.note(case, Side::Linux, ending.clone())?;
                }
                _ => todo.push(case.clone()),
            }
        }
        let outputs = output_dir(Side::Linux)?;
        let mut saved = Ok(());
        let arguments = guest_args(self.args, group, Side::Linux);
        guest::run(&arguments, &group.folders, &outputs, &todo, &mut |case, ending| {
            self.say(case, Side::Linux, &ending);
            cache.endings.insert(case.name.clone(), ending.clone());
            // At once: a run that is interrupted goes on from there next time.
            saved = cache.save(group).and_then(|()| self.note(case, Side::Linux, ending));
        })?;
        saved
    }

    fn run_keel(&self, group: &Group, cases: &[Case]) -> Result<()> {
        let outputs = output_dir(Side::Keel)?;
        let mut saved = Ok(());
        let arguments = guest_args(self.args, group, Side::Keel);
        guest::run(&arguments, &group.folders, &outputs, cases, &mut |case, ending| {
            self.say(case, Side::Keel, &ending);
            saved = self.note(case, Side::Keel, ending);
        })?;
        saved
    }

    /// Runs again on Keel what differs in a way that the list does not know.
    fn retry(&self, group: &Group, cases: &[Case]) -> Result<()> {
        let new = self.known.judge(&lock(&self.results)).new;
        let again: Vec<Case> = cases.iter().filter(|case| new.contains_key(&case.name)).cloned().collect();
        if again.is_empty() || self.args.update {
            return Ok(());
        }
        ui::say(&format!("{} of these differ in a new way and are run again", again.len()));
        self.done.fetch_sub(again.len(), Ordering::Relaxed);
        self.run_keel(group, &again)
    }

    /// Keeps an ending.
    fn note(&self, case: &Case, side: Side, ending: Ending) -> Result<()> {
        let mut results = lock(&self.results);
        let program = results.programs.entry(case.name.clone()).or_default();
        match side {
            Side::Linux => program.linux = Some(ending),
            Side::Keel => program.keel = Some(ending),
        }
        if let Some(file) = &self.args.json {
            write_json(file, &*results)?;
        }
        write_json(&results_file(), &*results)
    }

    /// Shows how a program ended.
    fn say(&self, case: &Case, side: Side, ending: &Ending) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        ui::say(&format!("[{done:4}/{}] {}", self.all, line_of(&case.name, side, ending)));
    }
}

fn results_file() -> PathBuf {
    paths::target().join("conform/results.json")
}

/// What the last run found out about the programs `names`, if it was one of the same kind.
fn before<'a>(names: impl Iterator<Item = &'a str>, results: &Results) -> BTreeMap<String, Program> {
    let text = fs::read(results_file()).unwrap_or_default();
    let Ok(mut last) = serde_json::from_slice::<Results>(&text) else { return BTreeMap::new() };
    if last.smp != results.smp || !(last.tests == results.tests || results.tests.is_empty()) {
        return BTreeMap::new();
    }
    names.filter_map(|name| last.programs.remove_entry(name)).collect()
}

/// Whether Linux's ending may come from the cache: the project's own tests change with the repository.
fn is_cacheable(name: &str) -> bool {
    !name.starts_with("user/")
}

fn guest_args(args: &ConformArgs, group: &Group, side: Side) -> GuestArgs {
    let smp = match (group.smp, side) {
        (None, _) => args.smp,
        (Some((linux, _)), Side::Linux) => linux,
        (Some((_, keel)), Side::Keel) => keel,
    };
    let kernel = match (&args.image, side) {
        (Some(file), Side::Keel) => file.display().to_string(),
        _ => side.name().to_owned(),
    };
    GuestArgs {
        kernel,
        root: guest::ROOT.to_owned(),
        smp,
        // Sleeping costs nothing, and how fast or busy this machine is decides no result. Stressors never sleep.
        icount: smp == 1 && group.smp.is_none(),
        mem: Some(MEMORY),
        debug: args.debug && side == Side::Keel,
        ..GuestArgs::default()
    }
}

/// Where the outputs of a kernel's programs are kept.
fn output_dir(side: Side) -> Result<PathBuf> {
    paths::make_dir(&paths::target().join("conform").join(side.name()))
}

/// Grows when results are read otherwise than before: what was kept then does not count.
const READING: u32 = 2;

/// What Linux did before, by program.
struct LinuxCache {
    file: PathBuf,
    endings: BTreeMap<String, Ending>,
}

impl LinuxCache {
    /// The file depends on what decides the endings of this group, and not on what else is run: only Linux's own
    /// tests have a version.
    fn open(args: &ConformArgs, group: &Group, tests: &str) -> Result<LinuxCache> {
        let version = fs::read_to_string(linux::image()?.with_file_name("version")).unwrap_or_default();
        let is_linux_own = group.cases.iter().any(|case| case.name.starts_with("kselftest/"));
        let tests = if is_linux_own { tests } else { "" };
        let name =
            format!("{} {tests} {} reading-{READING}", version.trim(), args.smp).replace(['/', ' '], "_");
        let file = paths::make_dir(&paths::cache()?.join("conform"))?.join(format!("{name}.json"));
        let endings = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(LinuxCache { file, endings: endings.unwrap_or_default() })
    }

    /// Adds the endings of `group` to what the file holds by now: another run may have written it.
    fn save(&self, group: &Group) -> Result<()> {
        let _lock = Lock::take("conform")?;
        let mut all: BTreeMap<String, Ending> =
            fs::read(&self.file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let ours = group.cases.iter().filter_map(|case| self.endings.get_key_value(&case.name));
        all.extend(ours.map(|(name, ending)| (name.clone(), ending.clone())));
        write_json(&self.file, &all)
    }
}

/// One program on one kernel, in a line.
fn line_of(name: &str, side: Side, ending: &Ending) -> String {
    let passed = ending.lines.values().filter(|m| **m == ktap::Mark::Pass).count();
    let lines =
        if ending.lines.is_empty() { String::new() } else { format!(" {passed}/{}", ending.lines.len()) };
    let mark = ending.mark.map(|m| m.to_string()).unwrap_or_default();
    let mut text = format!("{:5} {mark:7}{lines:>9} {:5.1} s  {name}", side.name(), ending.seconds);
    for warning in &ending.kernel {
        text.push_str(&format!("\n        {warning}"));
    }
    text
}

fn write_json(file: &Path, value: &impl serde::Serialize) -> Result<()> {
    if let Some(dir) = file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        paths::make_dir(dir)?;
    }
    let part = file.with_extension("part");
    fs::write(&part, serde_json::to_vec_pretty(value)?)
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_written_where_there_was_no_folder() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("keel-conform-{}", std::process::id()));
        let file = dir.join("deeper/results.json");
        write_json(&file, &[1, 2])?;
        assert_eq!(serde_json::from_slice::<Vec<u32>>(&fs::read(&file)?)?, [1, 2]);
        fs::remove_dir_all(dir)?;
        Ok(())
    }
}
