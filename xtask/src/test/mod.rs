//! The verb `test`: everything that must pass, one line per test, `N passed, N failed` at the end.
//!
//! ```text
//!   host       cargo test of every crate, on this machine                     host.rs
//!   machine    hal's own tests, in a kernel built for them                    machine.rs
//!   user       user/tests in guests: Keel with 1, 2 and 4 CPUs, and Linux     user.rs     \ batch.rs runs the
//!   scenario   commands of user/scenarios/*.toml, same guests                 scenario.rs / guests of both
//!   session    dialogues of user/sessions/*.toml on a pseudo-terminal         session.rs
//! ```
//! A test's full name begins with these words, e.g. `user/keel-2cpu/fork::reaps`; a filter is any part of it.

mod batch;
mod host;
mod machine;
mod scenario;
mod session;
mod user;

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::guest::GuestArgs;
use crate::ui;

/// Options of `test`.
#[derive(Args)]
pub struct TestArgs {
    /// Only tests whose full name contains this, e.g. `user/keel-2cpu/fork`
    filter: Option<String>,
    /// Only tests on this machine
    #[arg(long, conflicts_with = "guest")]
    host: bool,
    /// Only tests in guests
    #[arg(long)]
    guest: bool,
    /// Only guests of this kernel
    #[arg(long, value_name = "keel|linux")]
    kernel: Option<String>,
    /// Only guests with so many CPUs
    #[arg(long, value_name = "N")]
    smp: Option<u32>,
    /// Keel built with debug assertions and the lock-order checker
    #[arg(long)]
    debug: bool,
}

/// How one test ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// It cannot run here.
    Skipped,
    /// What went wrong, in any number of lines.
    Failed(String),
}

/// The guests that tests run in.
///
/// Linux has one CPU here: with several, QEMU's translation loses races against its self-modifying code.
const PLATFORMS: [(&str, u32); 4] = [("linux", 1), ("keel", 1), ("keel", 2), ("keel", 4)];

/// One kernel with a number of CPUs.
#[derive(Clone, Debug)]
pub struct Platform {
    kernel: &'static str,
    smp: u32,
    debug: bool,
}

impl Platform {
    /// A guest on this platform.
    fn guest(&self, root: &str, mem: Option<u32>) -> GuestArgs {
        GuestArgs {
            kernel: self.kernel.to_owned(),
            root: root.to_owned(),
            smp: self.smp,
            debug: self.debug,
            mem,
            ..GuestArgs::default()
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}cpu", self.kernel, self.smp)
    }
}

/// Collects verdicts, prints each as it comes, and knows which tests are wanted.
pub struct Tally {
    filter: String,
    passed: usize,
    skipped: usize,
    failures: Vec<(String, String)>,
}

impl Tally {
    /// Whether the test is to run.
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Whether some test whose name begins with `group` may be wanted.
    fn may_want(&self, group: &str) -> bool {
        self.filter.is_empty()
            || group.contains(&self.filter)
            || !names_a_group(&self.filter)
            || self.filter.starts_with(group)
    }

    /// Notes how `name` ended.
    fn note(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Verdict::Passed => {
                self.passed += 1;
                println!("ok    {name}");
            }
            Verdict::Skipped => {
                self.skipped += 1;
                println!("skip  {name}");
            }
            Verdict::Failed(why) => {
                println!("FAIL  {name}: {}", why.lines().next().unwrap_or_default());
                self.failures.push((name.to_owned(), why));
            }
        }
    }

    fn finish(&self) -> ExitCode {
        for (name, why) in &self.failures {
            println!("\n---- {name} ----\n{}", why.trim_end());
        }
        if !self.failures.is_empty() {
            println!("\nfailed:");
            self.failures.iter().for_each(|(name, _)| println!("  {name}"));
        }
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        println!("\n{} passed, {} failed{skipped}", self.passed, self.failures.len());
        if self.failures.is_empty() && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Whether a filter begins with the name of a kind of test.
fn names_a_group(filter: &str) -> bool {
    ["host/", "machine/", "user/", "scenario/", "session/"].iter().any(|group| filter.starts_with(group))
}

/// Runs the chosen tests.
pub fn run(args: &TestArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let mut tally = Tally {
        filter: args.filter.clone().unwrap_or_default(),
        passed: 0,
        skipped: 0,
        failures: Vec::new(),
    };
    if !args.guest && tally.may_want("host/") {
        guard(&mut tally, "host/cargo test", host::run);
    }
    if !args.host {
        for (kernel, smp) in PLATFORMS {
            let platform = Platform { kernel, smp, debug: args.debug };
            if args.kernel.as_deref().is_none_or(|k| k == kernel) && args.smp.is_none_or(|n| n == smp) {
                run_guests(&mut tally, &platform);
            }
        }
    }
    ui::say(&format!("tests took {:.0} s", start.elapsed().as_secs_f64()));
    Ok(tally.finish())
}

/// Runs one kind of test on a platform.
type Kind = fn(&mut Tally, &Platform) -> Result<()>;

fn run_guests(tally: &mut Tally, platform: &Platform) {
    let kinds: [(&str, Kind); 4] = [
        ("machine", machine::run),
        ("user", user::run),
        ("scenario", scenario::run),
        ("session", session::run),
    ];
    for (kind, run) in kinds {
        let group = format!("{kind}/{platform}/");
        if tally.may_want(&group) {
            guard(tally, &format!("{kind}/{platform}"), |tally| run(tally, platform));
        }
    }
}

/// Runs a group; what keeps it from running at all counts as one failed test, and the rest goes on.
fn guard(tally: &mut Tally, name: &str, run: impl FnOnce(&mut Tally) -> Result<()>) {
    if let Err(error) = run(tally) {
        tally.note(name, Verdict::Failed(format!("{error:#}")));
    }
}
