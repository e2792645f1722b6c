//! Keel's host tool, `cargo xtask VERB`: it installs what is missing, builds, boots, tests and checks.
//!
//! Each verb is a module; what boots a guest goes through [`exec::run`] or [`guest::GuestArgs::prepare`].

#![forbid(unsafe_code)]

mod bench;
mod check;
mod conform;
mod coverage;
mod cpio;
mod crash;
mod debian;
mod exec;
mod guest;
mod image;
mod interactive;
mod kernel;
mod ksyms;
mod linux;
mod paths;
mod profile;
mod qemu;
mod setup;
mod stuck;
mod test;
mod toolchain;
mod ui;
mod userland;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::exec::{Outcome, Port};
use crate::guest::GuestArgs;
use crate::kernel::Flavour;

/// The exit status of `exec` when the guest failed rather than the command; ssh and docker use such too.
const GUEST_FAILED: u8 = 125;

/// Builds, boots, tests and measures Keel.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// The verbs.
#[derive(Subcommand)]
enum Verb {
    /// Install missing packages and choose a toolchain
    Setup,
    /// Build the kernel
    Build {
        /// With debug assertions and the lock-order checker
        #[arg(long)]
        debug: bool,
    },
    /// Make the guest's roots, or those named
    Image {
        /// Names of recipes in images/
        names: Vec<String>,
    },
    /// Run one command in a guest and end with its status
    ///
    /// The status is 125 when the guest panicked, hung or ran out of time.
    Exec(ExecArgs),
    /// Boot to a shell on this terminal (Ctrl-A X ends QEMU at once)
    ///
    /// Debian on a disk is the root, in a copy of its own that keeps what one changes: target/disk.ext4.
    #[command(mut_arg("root", |root| root.default_value("disk").default_value_if("kernel", "linux", "debian")))]
    Run(RunArgs),
    /// Run the tests, or those whose name contains FILTER
    Test(test::TestArgs),
    /// Run Linux's self-tests on Keel and on Linux, and compare
    Conform(conform::ConformArgs),
    /// Let the power go at many points of a disk's life, and see what ext4 has kept
    Crash(crash::CrashArgs),
    /// Measure Keel beside Linux 7.2: all operations, or those named
    Bench(bench::BenchArgs),
    /// Show which kernel functions a command's instructions go to
    Profile(profile::ProfileArgs),
    /// Check format, lints, documentation, layers and the unsafe rule
    Check,
    /// Write docs/compatibility.md from the table of system calls
    Coverage,
    /// Build the documentation
    Doc,
    /// Remove what was built
    Clean {
        /// Also the cache of roots and packages
        #[arg(long)]
        all: bool,
    },
    /// Boot stopped, waiting for gdb, and attach it
    Gdb(RunArgs),
}

/// Options of `run` and `gdb`.
#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Show all kernel messages
    #[arg(long, short)]
    verbose: bool,
}

/// Options of `exec`.
#[derive(Args)]
struct ExecArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 600, value_name = "S")]
    timeout: u64,
    /// Show kernel messages on standard error
    #[arg(long, short)]
    verbose: bool,
    /// The command, run as root through `sh -c`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(GUEST_FAILED)
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Build { debug } => {
            kernel::build_and_tell(if debug { Flavour::Debug } else { Flavour::Release })?
        }
        Verb::Image { names } => {
            let names = if names.is_empty() { image::names()? } else { names };
            for name in names {
                println!("{}", image::ensure(&name)?.display());
            }
        }
        Verb::Exec(args) => return exec(&args),
        Verb::Run(args) => return interactive::run(&args.guest, args.verbose),
        Verb::Test(args) => return test::run(&args),
        Verb::Conform(args) => return conform::run(&args),
        Verb::Crash(args) => return crash::run(&args),
        Verb::Bench(args) => return bench::run(&args),
        Verb::Profile(args) => profile::run(&args)?,
        Verb::Setup => setup::run()?,
        Verb::Check => return check::run(),
        Verb::Coverage => coverage::write()?,
        Verb::Doc => check::doc()?,
        Verb::Clean { all } => clean(all)?,
        Verb::Gdb(args) => return interactive::gdb(&args.guest),
    }
    Ok(ExitCode::SUCCESS)
}

fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let mut sink = |port: Port, bytes: &[u8]| {
        let _ = match port {
            Port::Stdout => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
            Port::Stderr => std::io::stderr().write_all(bytes),
            Port::Console if args.verbose => std::io::stderr().write_all(bytes),
            Port::Console | Port::Control => Ok(()),
        };
    };
    let command = args.command.join(" ");
    let report = exec::run(&args.guest, &command, Duration::from_secs(args.timeout), &mut sink)?;
    if args.verbose {
        ui::say(&format!("{:.1} s; kernel messages in {}", report.seconds, report.log.display()));
    }
    Ok(match report.outcome {
        Outcome::Exited(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Outcome::Failed(reason) => {
            eprintln!("error: {reason}");
            ExitCode::from(GUEST_FAILED)
        }
    })
}

/// Removes the build folder, and on demand the cache.
fn clean(all: bool) -> Result<()> {
    let mut folders = vec![paths::target()];
    if all {
        folders.push(paths::cache()?);
    }
    for folder in folders.iter().filter(|f| f.exists()) {
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        ui::say(&format!("removed {}", folder.display()));
    }
    Ok(())
}
