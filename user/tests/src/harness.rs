//! Runs tests, each in a process of its own, and reports them.
//!
//! The harness needs little of a young kernel: fork, wait4, kill, alarm, write and exit. A test
//! that hangs is killed by its own alarm, or, if that does not come, by the parent's; its process
//! group dies with it, so that nothing it started stays behind.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::*;
use libtest_mimic::{Arguments, Trial};

use crate::kit::{Status, decode};
use crate::sys;

/// A named test.
#[derive(Clone, Copy)]
pub struct Test {
    pub area: &'static str,
    pub name: &'static str,
    pub run: fn(),
}

/// The tests of a file: `tests!("pipe": eof, epipe);`
#[macro_export]
macro_rules! tests {
    ($area:literal: $($name:ident),* $(,)?) => {
        pub const TESTS: &[$crate::harness::Test] =
            &[$($crate::harness::Test { area: $area, name: stringify!($name), run: $name }),*];
    };
}

/// Exit code of a test that cannot run here; the reason went to standard output.
const SKIPPED: i32 = 77;
/// Exit code of a failed assertion.
const FAILED: i32 = 101;

/// Seconds that a test may take.
static LIMIT: AtomicI32 = AtomicI32::new(20);
static RUNNING: AtomicI32 = AtomicI32::new(0);
static SERIAL: AtomicUsize = AtomicUsize::new(0);
static RUNNER: AtomicI32 = AtomicI32::new(0);

/// Leaves the test: the machine lacks what it needs.
pub fn skip(reason: &str) -> ! {
    println!("# skipped: {reason}");
    sys::exit(SKIPPED)
}

/// A test that needs longer than the usual limit.
pub fn allow_seconds(seconds: u32) {
    let _ = crate::sys!(SYS_alarm, seconds);
}

/// The running test's own folder.
pub fn scratch() -> String {
    let root = std::env::var("KEEL_TEST_DIR").unwrap_or_else(|_| "/tmp".into());
    format!("{root}/user-tests.{}.{}", RUNNER.load(SeqCst), SERIAL.load(SeqCst))
}

extern "C" fn on_alarm(_: i32, _: &sys::SigInfo, _: usize) {
    let pid = RUNNING.load(SeqCst);
    if pid > 0 {
        let _ = crate::sys!(SYS_kill, pid, SIGKILL);
    }
}

fn enter(test: Test) -> ! {
    let _ = crate::sys!(SYS_setpgid, 0, 0);
    let _ = sys::set_action(SIGALRM, SIG_DFL);
    let _ = crate::sys!(SYS_alarm, LIMIT.load(SeqCst));
    let _ = crate::sys!(SYS_umask, 0o022);
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string().replace('\n', "\n#   ");
        let text = format!("# process {}: {text}\n", crate::kit::getpid());
        let _ = crate::kit::write(1, text.as_bytes());
        sys::exit(FAILED);
    }));
    (test.run)();
    sys::exit(0)
}

/// Makes the runner's signals those of a fresh process, whatever its parent left blocked or ignored
/// and Rust's start changed (SIGPIPE, SIGSEGV): tests inherit them.
pub fn reset_signals() {
    let _ = crate::sys!(SYS_rt_sigprocmask, SIG_SETMASK, &0u64, 0, 8);
    for sig in (1..=64).filter(|s| ![SIGKILL, SIGSTOP, 32, 33].contains(s)) {
        let _ = sys::set_action(sig, SIG_DFL);
    }
}

/// How a test ended.
#[derive(PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Skipped,
    Failed(String),
}

/// Runs one test to its end.
pub fn run(test: Test) -> Outcome {
    SERIAL.fetch_add(1, SeqCst);
    RUNNER.store(crate::kit::getpid(), SeqCst);
    let pid = match sys::fork() {
        Ok(0) => enter(test),
        Ok(pid) => pid,
        Err(e) => return Outcome::Failed(format!("fork: {e}")),
    };
    RUNNING.store(pid, SeqCst);
    sys::on_signal(SIGALRM, 0, on_alarm);
    let mut status = 0;
    let end = loop {
        // Longer than any limit that a test may ask for: the test's own alarm comes first.
        let _ = crate::sys!(SYS_alarm, LIMIT.load(SeqCst) * 8);
        match crate::sys!(SYS_wait4, pid, &mut status, 0, 0) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other,
        }
    };
    let _ = crate::sys!(SYS_alarm, 0);
    RUNNING.store(0, SeqCst);
    let _ = crate::sys!(SYS_kill, -pid, SIGKILL);
    // Orphans of the test come to us when we are init or a subreaper.
    while crate::sys!(SYS_wait4, -1, 0, WNOHANG, 0).is_ok_and(|p| p > 0) {}
    let _ = std::fs::remove_dir_all(scratch());
    if let Err(e) = end {
        return Outcome::Failed(format!("wait4: {e}"));
    }
    match decode(status) {
        Status::Exit(0) => Outcome::Passed,
        Status::Exit(SKIPPED) => Outcome::Skipped,
        Status::Exit(FAILED) => Outcome::Failed("assertion failed".into()),
        Status::Signal(SIGALRM | SIGKILL) => Outcome::Failed("took too long".into()),
        other => Outcome::Failed(format!("ended with {other:?}")),
    }
}

fn full_name(test: &Test) -> String {
    format!("{}::{}", test.area, test.name)
}

/// KTAP version 1 on standard output (Documentation/dev-tools/ktap.rst of Linux). Names are
/// prefixes. Returns the exit code.
pub fn ktap(tests: &[Test], prefixes: &[String]) -> i32 {
    let chosen: Vec<_> = tests
        .iter()
        .filter(|t| prefixes.is_empty() || prefixes.iter().any(|p| full_name(t).starts_with(p.as_str())))
        .collect();
    println!("KTAP version 1\n1..{}", chosen.len());
    let mut failed = 0;
    for (i, test) in chosen.iter().enumerate() {
        let (number, name) = (i + 1, full_name(test));
        match run(**test) {
            Outcome::Passed => println!("ok {number} {name}"),
            Outcome::Skipped => println!("ok {number} {name} # SKIP"),
            Outcome::Failed(why) => {
                failed += 1;
                println!("# {why}\nnot ok {number} {name}");
            }
        }
    }
    println!("# {} passed, {failed} failed", chosen.len() - failed);
    i32::from(failed != 0)
}

/// libtest's interface: filters, `--list`, `--exact`, `--skip`, and so on. One test at a time.
pub fn mimic(tests: &[Test], args: impl Iterator<Item = std::ffi::OsString>) -> ! {
    let mut arguments = Arguments::from_iter(args);
    arguments.test_threads = Some(1);
    let trials = tests
        .iter()
        .map(|&test| {
            Trial::test(full_name(&test), move || match run(test) {
                Outcome::Passed | Outcome::Skipped => Ok(()),
                Outcome::Failed(why) => Err(why.into()),
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit()
}

/// Sets the limit for each test.
pub fn set_limit(seconds: i32) {
    LIMIT.store(seconds, SeqCst);
}
