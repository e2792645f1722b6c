//! The verb `test`: everything that must pass, one line per test, `N passed, N failed` at the end.
//!
//! ```text
//!   host       cargo test of every crate, on this machine                     host.rs
//!   machine    hal's own tests, in a kernel built for them                    machine.rs
//!   boot       Keel given what it cannot use: no init, a broken initramfs     boot.rs
//!   disk       files after the next boot, and what e2fsck says of them       disk.rs
//!              images that Keel and Linux exchange                           exchange.rs
//!              disks with sectors that fail                                 faults.rs
//!              a folder that guest and host share                           share.rs
//!              what a power failure leaves, in short                         power.rs, crash/
//!   user       user/tests in guests: Keel with 1, 2 and 4 CPUs, and Linux     user.rs     \ batch.rs runs the
//!   fuzz       user/fuzz in a guest of Keel with 2 CPUs                         fuzz.rs
//!   scenario   commands of user/scenarios/*.toml, same guests                 scenario.rs / guests of both
//!   programs   debuggers, languages, databases: user/programs/*.toml, only when named     scenario.rs
//!   bench      rows of user/bench, held against docs/benchmarks.json         speed.rs
//!   session    dialogues of user/sessions/*.toml on a pseudo-terminal         session.rs
//!   conform    quick self-tests of Linux, against conformance.toml            conform/short.rs
//! ```
//! [`tally`] counts what became of them and knows which are known to fail ([`known`]).
//! A test's full name begins with these words, e.g. `user/keel-2cpu/fork::reaps`; a filter is any part of it.

pub mod batch;
mod boot;
mod disk;
mod exchange;
mod faults;
mod fuzz;
mod host;
pub mod known;
mod machine;
mod power;
mod scenario;
mod session;
mod share;
mod speed;
pub mod tally;
mod user;
mod vanish;
mod vconsole;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use self::known::Known;
use self::tally::{Tally, Verdict};
use crate::guest::GuestArgs;
use crate::kernel::{self, Flavour};
use crate::{conform, image, linux, ui};

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
    /// Begin nothing new after so many minutes; what is left out counts as skipped
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
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

/// Whether a filter begins with the name of a kind of test.
fn names_a_group(filter: &str) -> bool {
    [
        "host/",
        "machine/",
        "boot/",
        "disk/",
        "user/",
        "fuzz/",
        "scenario/",
        "session/",
        "bench/",
        "programs/",
        "conform/",
    ]
    .iter()
    .any(|group| filter.starts_with(group))
}

/// Runs the chosen tests.
pub fn run(args: &TestArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let tally = Tally::new(args.filter.as_deref().unwrap_or_default(), Known::read()?, limit);
    if !args.guest && tally.may_want("host/") {
        guard(&tally, "host/cargo test", || host::run(&tally));
        say_time("the tests of this machine", start);
    }
    if !args.host {
        run_guests(&tally, chosen_groups(&tally, args));
        run_conform(&tally, args);
    }
    ui::say(&format!("tests took {:.0} s", start.elapsed().as_secs_f64()));
    Ok(tally.finish())
}

fn say_time(what: &str, start: Instant) {
    ui::say(&format!("{what}: {:.0} s", start.elapsed().as_secs_f64()));
}

/// Runs one kind of test on a platform.
type Kind = fn(&Tally, &Platform) -> Result<()>;

/// One kind of test on one platform.
struct Group {
    name: String,
    run: Kind,
    platform: Platform,
    /// The root image that its guests need.
    root: &'static str,
}

fn chosen_groups(tally: &Tally, args: &TestArgs) -> VecDeque<Group> {
    let kinds: [(&str, Kind, &str); 9] = [
        ("machine", machine::run, "tiny"),
        ("boot", boot::run, "tiny"),
        ("disk", disk::run, "tiny"),
        ("user", user::run, "tiny"),
        ("fuzz", fuzz::run, "tiny"),
        ("scenario", scenario::run, "debian"),
        ("session", session::run, "debian"),
        ("bench", speed::run, "tiny"),
        ("programs", scenario::run_programs, "programs"),
    ];
    let mut groups = VecDeque::new();
    for (kernel, smp) in PLATFORMS {
        let platform = Platform { kernel, smp, debug: args.debug };
        if args.kernel.as_deref().is_some_and(|k| k != kernel) || args.smp.is_some_and(|n| n != smp) {
            continue;
        }
        for (kind, run, root) in kinds {
            let name = format!("{kind}/{platform}");
            let is_for_keel = ["machine", "boot", "disk", "fuzz"].contains(&kind);
            // Both kernels run in it; what is counted is optimised code on one CPU.
            if kind == "bench" && (kernel != "keel" || smp != 1 || args.debug) {
                continue;
            }
            // An hour, and a root of gigabytes: only when asked for.
            if kind == "programs" && !args.filter.as_deref().is_some_and(|f| f.starts_with("programs/")) {
                continue;
            }
            if tally.may_want(&format!("{name}/")) && !(is_for_keel && kernel == "linux") {
                groups.push_back(Group { name, run, platform: platform.clone(), root });
            }
        }
    }
    groups
}

/// Runs the groups: two at a time while their guests have one CPU, one at a time after that.
fn run_guests(tally: &Tally, groups: VecDeque<Group>) {
    let start = Instant::now();
    let groups: VecDeque<Group> = groups.into_iter().filter(|group| prepare(tally, group)).collect();
    say_time("building and fetching for the guests", start);
    let (single, several): (VecDeque<_>, VecDeque<_>) = groups.into_iter().partition(|g| g.platform.smp == 1);
    for (queue, at_once) in [(single, 2), (several, 1)] {
        let queue = Mutex::new(queue);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(group) = next() {
                        run_group(tally, &group);
                    }
                });
            }
        });
    }
}

/// Linux's self-tests in their short form.
fn run_conform(tally: &Tally, args: &TestArgs) {
    let is_other = args.kernel.as_deref().is_some_and(|k| k != "keel") || args.smp.is_some_and(|n| n != 1);
    if is_other || !tally.may_want("conform/") {
        return;
    }
    let start = Instant::now();
    if tally.is_out_of_time() {
        tally.skip_group("conform", "the time for all tests was over");
        return;
    }
    guard(tally, "conform", || conform::short::run(tally));
    say_time("conform", start);
}

fn run_group(tally: &Tally, group: &Group) {
    let start = Instant::now();
    if tally.is_out_of_time() {
        tally.skip_group(&group.name, "the time for all tests was over");
        return;
    }
    guard(tally, &group.name, || (group.run)(tally, &group.platform));
    say_time(&group.name, start);
}

/// Fetches or makes the thing of a name.
type Fetch = fn(&str) -> Result<PathBuf>;

/// Builds and fetches what the group needs, before guests run side by side.
///
/// What only the network could give, and did not, is no failure of Keel: the group is left out, and the
/// report says so.
fn prepare(tally: &Tally, group: &Group) -> bool {
    static MISSING: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let flavour = if group.platform.debug { Flavour::Debug } else { Flavour::Release };
    if group.platform.kernel == "keel" {
        // The self-test first: both kernels are linked to the same file.
        let selftest = if group.name.starts_with("machine/") {
            kernel::build_selftest(flavour).map(drop)
        } else {
            Ok(())
        };
        let built = selftest.and_then(|()| kernel::build(flavour)).map(drop);
        if let Err(error) = built {
            tally.note(&group.name, Verdict::Failed(format!("{error:#}")));
            return false;
        }
    }
    let mut missing = MISSING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut needs: Vec<(&str, Fetch)> = vec![(group.root, image::ensure)];
    if group.platform.kernel == "linux" || group.name.starts_with("bench/") {
        needs.push(("linux", |_| linux::image()));
    }
    for (name, fetch) in needs {
        let why = match missing.get(name) {
            Some(why) => why.clone(),
            None => match fetch(name).or_else(|_| fetch(name)) {
                Ok(_) => continue,
                Err(error) => format!("{error:#}"),
            },
        };
        let line = why.lines().next().unwrap_or_default().to_owned();
        missing.entry(name.to_owned()).or_insert_with(|| {
            ui::say(&why);
            why
        });
        tally.skip_group(&group.name, &line);
        return false;
    }
    true
}

/// Runs a group; what keeps it from running at all counts as one failed test, and the rest goes on.
fn guard(tally: &Tally, name: &str, run: impl FnOnce() -> Result<()>) {
    if let Err(error) = run() {
        tally.note(name, Verdict::Failed(format!("{error:#}")));
    }
}
