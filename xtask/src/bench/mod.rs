//! The verb `bench`: the same operations on two kernels, as a table, JSON, a chart and docs/benchmarks.md.
//!
//! ```text
//!   plan       which operations, counted how           report    the values, means, JSON
//!   measure    guests, one after another               table     for the terminal
//!   programs   whole programs from Debian packages     chart     SVG; page  docs/benchmarks.md
//!   fio        fio on a disk
//! ```
//! Both kernels get the same root, QEMU flags and program. Counts of instructions do not depend on what else this
//! machine does, so both guests run side by side; where time is measured, they take turns. What has been measured is
//! in the JSON file at once, whatever happens next.

mod chart;
mod fio;
mod measure;
mod page;
mod plan;
mod programs;
pub mod report;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use self::measure::{Event, Job};
use self::plan::{Part, Source};
use self::report::{Clock, Lack, Report, Row};
use crate::exec::Limits;
use crate::{paths, qemu, ui, userland};

pub use self::measure::guest_choices;
pub use self::page::data;

/// For all rows of a guest, and for one.
const LIMITS: Limits = Limits { total: Duration::from_secs(3600), idle: Some(Duration::from_secs(400)) };
/// The same for whole programs. They have an alarm of their own after two minutes of the guest, which takes up to half an
/// hour to count on a busy machine.
const PROGRAM_LIMITS: Limits =
    Limits { total: Duration::from_secs(4 * 3600), idle: Some(Duration::from_secs(1800)) };

/// Options of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Only operations whose name begins so, e.g. `syscall` or `file/read`; all when none is given
    names: Vec<String>,
    /// Numbers of CPUs; with several only time can be measured
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: Vec<u32>,
    /// Runs of each kernel [default: 1 when instructions are counted, 3 by time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Measure time only: the kernels take turns, medians count
    #[arg(long, conflicts_with = "icount")]
    time: bool,
    /// Count instructions only
    #[arg(long)]
    icount: bool,
    /// The two kernels, as for `exec --kernel`; the same one twice shows how far values repeat
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1, default_value = "linux,keel")]
    kernels: Vec<String>,
    /// Where the values go [default: target/bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the chart goes [default: target/bench.svg]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// End with an error when the second kernel is slower in any row
    #[arg(long)]
    check: bool,
    /// Write docs/benchmarks.md, with its data and chart; the rows of a partial run take their places in it
    #[arg(long)]
    page: bool,
    /// Go on with a run that was interrupted: what its JSON file holds is not measured again
    #[arg(long, conflicts_with = "from")]
    resume: bool,
    /// Show values measured before, from such a JSON file
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// Measures, or reads what was measured, and shows it.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let json = args.json.clone().unwrap_or_else(|| paths::target().join("bench.json"));
    let svg = args.svg.clone().unwrap_or_else(|| paths::target().join("bench.svg"));
    let report = match &args.from {
        Some(file) => Report::read(file)?,
        None => {
            let [a, b] = &args.kernels[..] else { bail!("--kernels takes two names, e.g. linux,keel") };
            let parts = plan::parts(args, &plan::operations()?)?;
            let before = if args.resume { Some(Report::read(&json)?) } else { None };
            measure_all([a.clone(), b.clone()], &parts, Some(&json), before)?
        }
    };
    print!("{}", table::render(&report));
    fs::write(&svg, chart::render(&report)).with_context(|| format!("cannot write {}", svg.display()))?;
    if args.from.is_none() {
        ui::say(&format!("values in {}, chart in {}", json.display(), svg.display()));
    }
    if args.page {
        let is_whole = args.names.is_empty() && args.smp == [1] && !args.time && !args.icount;
        page::write(&report, is_whole && args.from.is_none())?;
    }
    Ok(verdict(&report, args.check))
}

/// Says what went wrong; an error when something did, or when `check` and a row is slower.
fn verdict(report: &Report, check: bool) -> ExitCode {
    let mut is_good = report.problems.is_empty();
    report.problems.iter().for_each(|problem| eprintln!("error: {problem}"));
    for row in report.broken() {
        is_good = false;
        for (kernel, side) in report.kernels.iter().zip(&row.sides) {
            if let Some(Lack::Failed(why)) = &side.lack {
                eprintln!("error: {} on {kernel}: {why}", row.title());
            }
        }
    }
    if check {
        for row in report.slower() {
            is_good = false;
            eprintln!(
                "slower: {} takes {:.2} of {}",
                row.title(),
                row.ratio().unwrap_or_default(),
                report.kernels[0]
            );
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the tests measure: rows that take Linux under emulation seconds, not minutes.
fn is_quick(operation: &plan::Operation) -> bool {
    let groups = ["syscall/", "memory/", "file/", "local/"];
    let is_slow = operation.bulk || operation.name.starts_with("memory/fork");
    !is_slow && groups.iter().any(|group| operation.name.starts_with(group))
}

/// Quick rows by instructions on both kernels, for the tests.
pub fn measure_quick(wants: &dyn Fn(&str) -> bool) -> Result<Report> {
    let is_chosen = |o: &plan::Operation| is_quick(o) && wants(&o.name);
    let operations = plan::operations()?.into_iter().filter(is_chosen).collect();
    let part = Part { smp: 1, clock: Clock::Icount, runs: 1, source: Source::Operations, operations };
    measure_all(["linux".to_owned(), "keel".to_owned()], &[part], None, None)
}

/// Measures all parts but what `before` holds; each value is in `json` at once.
fn measure_all(
    kernels: [String; 2],
    parts: &[Part],
    json: Option<&Path>,
    before: Option<Report>,
) -> Result<Report> {
    qemu::check_installed()?;
    let share = Share::make()?;
    let machine = ui::capture(Command::new(qemu::PROGRAM).arg("--version"))?;
    let machine = machine.lines().next().unwrap_or_default().to_owned();
    let state = State {
        report: Mutex::new(Report { kernels, machine, ..Report::default() }),
        bar: progress(parts),
        json: json.map(Path::to_owned),
    };
    state.add_rows(parts);
    if let Some(before) = before {
        let kept = state.report.lock().unwrap_or_else(PoisonError::into_inner).take_values(before);
        state.bar.inc(kept as u64);
        ui::say(&format!("{kept} values were measured before"));
    }
    for part in parts {
        for run in 0..part.runs as usize {
            if part.clock == Clock::Icount {
                std::thread::scope(|scope| {
                    for side in 0..2 {
                        let (state, share) = (&state, &share);
                        scope.spawn(move || state.measure(part, side, run, share));
                    }
                });
            } else {
                (0..2).for_each(|side| state.measure(part, side, run, &share));
            }
        }
    }
    state.bar.finish_and_clear();
    Ok(state.report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn progress(parts: &[Part]) -> ProgressBar {
    let total: usize = parts.iter().map(|part| part.operations.len() * 2 * part.runs as usize).sum();
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// The folder that guests see at /share, removed on drop.
struct Share(PathBuf);

impl Share {
    fn make() -> Result<Share> {
        let dir = paths::make_dir(&paths::logs()?.join(format!("share-bench-{}", std::process::id())))?;
        let share = Share(dir);
        fs::copy(userland::program("user-bench")?, share.0.join("user-bench"))?;
        let scripts = share.0.join("programs");
        programs::write_scripts(&scripts)?;
        fio::write_scripts(&scripts)?;
        Ok(share)
    }
}

impl Share {
    /// A fresh disk with an empty ext4 for the guest of `side`; sparse, so it takes little room.
    fn disk(&self, side: usize) -> Result<PathBuf> {
        const SIZE: u64 = 256 << 20;
        let path = self.0.with_extension(format!("disk{side}"));
        let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.set_len(SIZE)?;
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args([
            "-q",
            "-F",
            "-U",
            "00000000-0000-0000-0000-000000000001",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,hash_seed=00000000-0000-0000-0000-000000000001",
        ])
        .arg(&path);
        ui::capture(&mut mkfs)
            .context("no disk for the groups ext4 and fio (Debian's package e2fsprogs has mkfs.ext4)")?;
        Ok(path)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        for side in 0..2 {
            let _ = fs::remove_file(self.0.with_extension(format!("disk{side}")));
        }
    }
}

/// A measurement in progress; the two sides share it.
struct State {
    report: Mutex<Report>,
    bar: ProgressBar,
    json: Option<PathBuf>,
}

impl State {
    /// An empty row for each that will be measured, so that none can be missing silently.
    fn add_rows(&self, parts: &[Part]) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        for part in parts {
            report.rows.extend(part.operations.iter().map(|operation| Row {
                name: operation.name.clone(),
                smp: part.smp,
                clock: part.clock,
                unit: operation.unit.clone(),
                bulk: operation.bulk,
                sides: Default::default(),
            }));
        }
    }

    /// The operations of a part that have no value yet of this side's run number `run`.
    fn left(&self, part: &Part, side: usize, run: usize) -> Vec<String> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = |name: &str| {
            let row = report.find(name, part.smp, part.clock);
            row.is_none_or(|row| row.sides[side].values.len() <= run)
        };
        part.operations.iter().map(|operation| operation.name.clone()).filter(|name| is_left(name)).collect()
    }

    /// Measures a part on one kernel, for the time number `run`.
    fn measure(&self, part: &Part, side: usize, run: usize, share: &Share) {
        let names = self.left(part, side, run);
        if names.is_empty() {
            return;
        }
        let kernel = self.report.lock().unwrap_or_else(PoisonError::into_inner).kernels[side].clone();
        let (root, command) = match part.source {
            Source::Operations | Source::Disk => ("tiny", "/share/user-bench --exact"),
            Source::Programs | Source::Fio => ("bench", "/share/user-bench --programs /share/programs"),
        };
        let what = if part.clock == Clock::Icount { "instructions" } else { "time" };
        let label = format!("{kernel}, {} CPU, {what}", part.smp);
        if self.bar.is_hidden() {
            ui::say(&format!("{label}: {} rows", names.len()));
        }
        let disk = if part.source.needs_disk() { share.disk(side).map(Some) } else { Ok(None) };
        let disks = match disk {
            Ok(disk) => disk.into_iter().collect(),
            Err(error) => return self.give_up(part, side, &format!("{label}: {error:#}")),
        };
        let job = Job {
            kernel,
            smp: part.smp,
            icount: part.clock == Clock::Icount,
            root,
            share: share.0.clone(),
            disks,
            command: command.to_owned(),
            limits: if root == "bench" { PROGRAM_LIMITS } else { LIMITS },
            names,
        };
        let result = job.run(&mut |event| match event {
            Event::Begin(name) => self.bar.set_message(format!("{label}: {name}")),
            Event::Kernel(version) => {
                self.report.lock().unwrap_or_else(PoisonError::into_inner).versions[side] = version;
            }
            Event::Answer(name, answer) => {
                self.bar.inc(1);
                if self.bar.is_hidden() {
                    let text = answer.as_ref().map_or_else(Lack::summary, |value| format!("{value:.1}"));
                    ui::say(&format!("[{}/{}] {label}: {name} {text}", self.bar.position(), self.length()));
                }
                self.note(part, side, &name, answer);
                self.save();
            }
        });
        if let Err(error) = result {
            self.give_up(part, side, &format!("{label}: {error:#}"));
        }
    }

    fn length(&self) -> u64 {
        self.bar.length().unwrap_or_default()
    }

    fn note(&self, part: &Part, side: usize, name: &str, answer: measure::Answer) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = report.find_mut(name, part.smp, part.clock) else { return };
        match answer {
            Ok(value) => row.sides[side].values.push(value),
            Err(lack) => row.sides[side].lack = Some(lack),
        }
    }

    /// No guest could be started: the rows that have no answer say so, the error is said once.
    fn give_up(&self, part: &Part, side: usize, why: &str) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if !report.problems.iter().any(|problem| problem == why) {
            report.problems.push(why.to_owned());
        }
        let lack = Lack::Unsupported("no guest could be started".to_owned());
        for row in report.rows.iter_mut().filter(|r| r.smp == part.smp && r.clock == part.clock) {
            let is_of_part = part.operations.iter().any(|operation| operation.name == row.name);
            let side = &mut row.sides[side];
            if is_of_part && side.values.is_empty() {
                side.lack.get_or_insert(lack.clone());
            }
        }
        drop(report);
        self.save();
    }

    fn save(&self) {
        let Some(json) = &self.json else { return };
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = report.write(json) {
            ui::say(&format!("warning: {error:#}"));
        }
    }
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;

    use super::*;

    /// The options of a command line.
    pub fn parse(args: &[&str]) -> BenchArgs {
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: BenchArgs,
        }
        Line::parse_from(["bench"].iter().chain(args)).args
    }

    #[test]
    fn a_row_that_broke_or_is_slower_fails() {
        let mut report = Report::default();
        report.rows.push(report::tests::row("a/x", Clock::Icount, false, [1.0, 2.0]));
        assert_eq!(verdict(&report, false), ExitCode::SUCCESS);
        assert_eq!(verdict(&report, true), ExitCode::FAILURE);
        report.rows[0].sides[0].lack = Some(Lack::Unsupported("ENOSYS".into()));
        assert_eq!(verdict(&report, false), ExitCode::SUCCESS);
        report.rows[0].sides[0].lack = Some(Lack::Failed("the kernel panicked".into()));
        assert_eq!(verdict(&report, false), ExitCode::FAILURE);
    }
}
