//! Building the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::toolchain::Toolchain;
use crate::{ksyms, paths, ui};

/// The target that the kernel is built for.
const TARGET: &str = "x86_64-unknown-none";

/// Has the compiler note each function's stack frame in a section that is not loaded; the check `stack` reads it.
const STACK_SIZES: &str = "target.x86_64-unknown-none.rustflags=['-Zemit-stack-sizes']";

/// How the kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// Optimised, as users run it.
    Release,
    /// With debug assertions and the lock-order checker.
    Debug,
}

/// A kernel that has been built.
#[derive(Clone)]
pub struct Built {
    /// The ELF file.
    pub elf: PathBuf,
    /// How long the build took.
    pub seconds: f64,
}

/// Kernels that this process has built: guests side by side must not build again what others run.
static BUILT: Mutex<BTreeMap<(Flavour, &str), Built>> = Mutex::new(BTreeMap::new());

/// Builds the kernel; quick when nothing has changed.
pub fn build(flavour: Flavour) -> Result<Built> {
    once(flavour, "", || build_with(flavour, &[]))
}

fn once(flavour: Flavour, kind: &'static str, build: impl FnOnce() -> Result<Built>) -> Result<Built> {
    let mut all = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(built) = all.get(&(flavour, kind)) {
        return Ok(built.clone());
    }
    let built = build()?;
    all.insert((flavour, kind), built.clone());
    Ok(built)
}

/// Builds the kernel that tests hal instead of booting, and puts it where no other build replaces it.
pub fn build_selftest(flavour: Flavour) -> Result<PathBuf> {
    let built = once(flavour, "selftest", || {
        let built = build_with(flavour, &["--features", "selftest"])?;
        let copy = built.elf.with_file_name("keel-selftest");
        std::fs::copy(&built.elf, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        Ok(Built { elf: copy, ..built })
    })?;
    Ok(built.elf)
}

fn build_with(flavour: Flavour, options: &[&str]) -> Result<Built> {
    let toolchain = Toolchain::find()?;
    let step = ui::Step::new("building the kernel");
    let start = Instant::now();
    let target_dir = paths::target().join("kernel");
    let mut cargo = toolchain.cargo();
    cargo.current_dir(paths::repo()).args(["build", "--package", "keel", "--target", TARGET]);
    cargo.args(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"]);
    cargo.args(["--config", STACK_SIZES]).arg("--target-dir").arg(&target_dir).args(options);
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
