//! Building the kernel.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::toolchain::Toolchain;
use crate::{ksyms, paths, ui};

/// The target that the kernel is built for.
const TARGET: &str = "x86_64-unknown-none";

/// How the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// Optimised, as users run it.
    Release,
    /// With debug assertions and the lock-order checker.
    Debug,
}

/// A kernel that has been built.
pub struct Built {
    /// The ELF file.
    pub elf: PathBuf,
    /// How long the build took.
    pub seconds: f64,
}

/// Builds the kernel; quick when nothing has changed.
pub fn build(flavour: Flavour) -> Result<Built> {
    build_with(flavour, &[])
}

/// Builds the kernel that tests hal instead of booting, and puts it where no other build replaces it.
pub fn build_selftest(flavour: Flavour) -> Result<PathBuf> {
    let built = build_with(flavour, &["--features", "selftest"])?;
    let copy = built.elf.with_file_name("keel-selftest");
    std::fs::copy(&built.elf, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
    Ok(copy)
}

fn build_with(flavour: Flavour, options: &[&str]) -> Result<Built> {
    let toolchain = Toolchain::find()?;
    let step = ui::Step::new("building the kernel");
    let start = Instant::now();
    let target_dir = paths::target().join("kernel");
    let mut cargo = toolchain.cargo();
    cargo.current_dir(paths::repo()).args(["build", "--package", "keel", "--target", TARGET]);
    cargo.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
    cargo.arg("--target-dir").arg(&target_dir).args(options);
    if flavour == Flavour::Release {
        cargo.arg("--release");
    }
    ui::run(&step, &mut cargo).context("the kernel does not build")?;
    step.clear();
    let profile = if flavour == Flavour::Release { "release" } else { "debug" };
    let elf = target_dir.join(TARGET).join(profile).join("keel");
    ksyms::fill(&elf).context("the kernel cannot be given its symbols")?;
    Ok(Built { elf, seconds: start.elapsed().as_secs_f64() })
}

/// Builds the kernel and tells where it is; the verb `build`.
pub fn build_and_tell(flavour: Flavour) -> Result<()> {
    let built = build(flavour)?;
    let size = built.elf.metadata().map(|m| m.len()).unwrap_or(0);
    println!("{} ({} KiB, {:.1} s)", show(&built.elf), size / 1024, built.seconds);
    Ok(())
}

/// `path` relative to the repository where that is shorter.
fn show(path: &Path) -> String {
    path.strip_prefix(paths::repo()).unwrap_or(path).display().to_string()
}
