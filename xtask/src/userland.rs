//! Building the project's own user programs as static executables, which run on any root.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::{paths, toolchain, ui};

/// The target that user programs are built for; naming it keeps the static flag off build scripts.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// PID 1 of every guest.
pub fn init() -> Result<PathBuf> {
    program("keel-init")
}

/// Builds the package `package`, statically linked and small, and returns the program.
pub fn program(package: &str) -> Result<PathBuf> {
    /// What this process has built: guests side by side must not replace a program that others copy.
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut all = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = all.get(package) {
        return Ok(file.clone());
    }
    let file = build(package)?;
    all.insert(package.to_owned(), file.clone());
    Ok(file)
}

fn build(package: &str) -> Result<PathBuf> {
    let step = ui::Step::new(format!("building {package}"));
    let target_dir = paths::target().join("user");
    let mut cargo = toolchain::host_cargo();
    cargo.current_dir(paths::repo()).args([
        "build",
        "--package",
        package,
        "--profile",
        "user",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(&target_dir);
    cargo.env(
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
        "-Ctarget-feature=+crt-static -Crelocation-model=static",
    );
    ui::run(&step, &mut cargo).with_context(|| format!("the user program {package} does not build"))?;
    step.clear();
    Ok(target_dir.join(TARGET).join("user").join(package))
}
