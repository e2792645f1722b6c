//! PID 1 of every guest that `cargo xtask` boots, on Keel and on Linux alike.
//!
//! It mounts the pseudo file systems, reads its [`Job`] from `/.keel/job` (an archive that xtask appends
//! to the root's), runs it, and powers the machine off. It is a static program that expects almost nothing:
//! a mount, a device or a system call that is missing costs one line on the console, not the run, so that
//! it is also the first program of a kernel that cannot do much yet.
//!
//! ```text
//!   job                  standard output   standard error   result
//!   exec  sh -c COMMAND  ttyS1             ttyS2            "exit N" on ttyS3
//!   shell bash -l        the console, as controlling terminal     none
//! ```
//!
//! # Invariants
//!
//! - I1: the process never returns from `main`: when PID 1 ends, the kernel panics.
//! - I2: orphans are reaped while the job runs.
//!
//! Sources: init conventions of busybox (SIGUSR1 halt, SIGUSR2 power-off, SIGTERM reboot), reboot(2).

mod children;
mod exec;
mod job;
mod modules;
mod mounts;
mod network;
mod power;
mod root;
mod session;

use job::Job;

/// Writes one line to the console, which is standard error of PID 1.
fn complain(what: std::fmt::Arguments<'_>) {
    eprintln!("init: {what}");
}

/// Where the time-stamp counter's value at the start of PID 1 is kept, for `user/bench`.
const STARTED: &str = "/.keel/started";

/// The time-stamp counter.
fn counter() -> u64 {
    // SAFETY: every x86-64 CPU has it, and a kernel lets its first process read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Runs the job and powers off; see the head of the file.
fn main() {
    let started = counter();
    let job = Job::read();
    modules::load_all();
    if let Err(error) = root::switch() {
        complain(format_args!("root file system: {error}"));
    }
    mounts::mount_all();
    mounts::mount_share();
    mounts::open_console();
    network::bring_up();
    power::install_handlers();
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::sethostname(mounts::host_name());
    // A root on a disk has no folder for it.
    let _ = std::fs::create_dir("/.keel");
    let _ = std::fs::write(STARTED, started.to_string());
    match job {
        Ok(Job::Exec(command)) => exec::run(&command),
        Ok(Job::Shell(terminal)) => session::run(&terminal),
        Err(error) => complain(format_args!("no job in {}: {error}", job::PATH)),
    }
    power::off();
}
