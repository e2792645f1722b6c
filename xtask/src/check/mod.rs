//! The verb `check`: what must hold of the source itself.
//!
//! ```text
//!   format   rustfmt --check              layers  edges between crates are those of ARCHITECTURE.md
//!   lints    clippy, warnings denied      unsafe  forbidden outside of hal; hal's size is shown
//!   docs     rustdoc, warnings denied       dependencies, coverage, sysctl: the pages of these names are up to date
//!   stack    no function of the built kernel takes more of a stack than there is to give
//! ```
//! Every check runs, whatever the one before found.

mod dependencies;
mod layers;
mod safety;
mod stack;
mod sysctl;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{coverage, paths, toolchain, ui};

/// One check: a note on success.
type Check = fn() -> Result<String>;

/// Runs all checks; the result is a failure when one failed.
pub fn run() -> Result<ExitCode> {
    let checks: [(&str, Check); 9] = [
        ("format", format),
        ("lints", lints),
        ("docs", docs),
        ("layers", layers::run),
        ("unsafe", safety::run),
        ("dependencies", dependencies::run),
        ("coverage", coverage::check),
        ("sysctl", sysctl::run),
        ("stack", stack::run),
    ];
    let mut failed = 0;
    for (name, check) in checks {
        match check() {
            Ok(note) => println!("ok    {name}{}{note}", if note.is_empty() { "" } else { ": " }),
            Err(error) => {
                failed += 1;
                println!("FAIL  {name}: {error:#}");
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn cargo(name: &str, args: &[&str]) -> Result<String> {
    let step = ui::Step::new(name);
    let mut cargo: Command = toolchain::host_cargo();
    // Pages hold private items, so links to them lead somewhere.
    let rustdoc = "-Dwarnings -Arustdoc::private_intra_doc_links";
    cargo.current_dir(paths::repo()).args(args).env("RUSTDOCFLAGS", rustdoc);
    ui::run(&step, &mut cargo)?;
    step.clear();
    Ok(String::new())
}

fn format() -> Result<String> {
    let files = cargo("checking the format", &["fmt", "--all", "--", "--check", "--files-with-diff"]);
    files.context("run `cargo fmt` on these files")
}

fn lints() -> Result<String> {
    cargo("linting", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-Dwarnings"])
}

fn docs() -> Result<String> {
    cargo(
        "building the documentation",
        &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"],
    )
}

/// The verb `doc`: builds the documentation and says where it is.
pub fn doc() -> Result<()> {
    docs()?;
    println!("{}", paths::target().join("doc/keel/index.html").display());
    Ok(())
}
