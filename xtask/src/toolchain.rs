//! The two toolchains that can build the kernel, and the choice between them.
//!
//! The kernel needs `core` and `alloc` built from source, so either Debian's `rustc-web` with
//! `RUSTC_BOOTSTRAP=1`, or rustup's nightly with `rust-src`. Host tools use whatever cargo is on PATH.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The oldest release that is known to build the kernel.
const OLDEST: (u32, u32) = (1, 96);

/// A toolchain that can build the kernel.
pub enum Toolchain {
    /// Debian's packages rustc-web, cargo-web and rust-web-src; the version is kept for display.
    Debian(String),
    /// rustup's nightly with the component rust-src.
    Nightly(String),
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Toolchain::Debian(version) => write!(f, "Debian's {version} with RUSTC_BOOTSTRAP=1"),
            Toolchain::Nightly(version) => write!(f, "rustup's nightly, {version}"),
        }
    }
}

impl Toolchain {
    /// Finds a toolchain, Debian's first: it is one version for everybody.
    pub fn find() -> Result<Toolchain> {
        if let Some(version) = debian() {
            return Ok(Toolchain::Debian(version));
        }
        if let Some(version) = nightly() {
            return Ok(Toolchain::Nightly(version));
        }
        bail!(
            "no toolchain can build the kernel. Either install Debian's, version {}.{} or later:\n  \
             apt-get install rustc-web cargo-web rust-web-src lld\n\
             or rustup's nightly:\n  \
             rustup toolchain install nightly --component rust-src",
            OLDEST.0,
            OLDEST.1
        )
    }

    /// A call of this toolchain's cargo, free of what the calling cargo left in the environment.
    pub fn cargo(&self) -> Command {
        let mut command = match self {
            Toolchain::Debian(_) => {
                let mut command = Command::new("/usr/bin/cargo");
                let path = env::var("PATH").unwrap_or_default();
                command
                    .env("RUSTC", "/usr/bin/rustc")
                    .env("RUSTDOC", "/usr/bin/rustdoc")
                    .env("RUSTC_BOOTSTRAP", "1");
                command.env("PATH", format!("/usr/bin:{path}"));
                command
            }
            Toolchain::Nightly(_) => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command.env_remove("RUSTC").env_remove("RUSTDOC");
                command
            }
        };
        for name in [
            "CARGO",
            "RUSTUP_TOOLCHAIN",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_INCREMENTAL",
        ] {
            command.env_remove(name);
        }
        // What the kernel is measured and tested as is what Cargo.toml says.
        let names = env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.to_string_lossy().starts_with("CARGO_PROFILE_RELEASE_")) {
            command.env_remove(name);
        }
        command
    }
}

/// A call of the cargo that runs this program, for host code.
pub fn host_cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command
}

fn debian() -> Option<String> {
    let sources = Path::new("/usr/lib/rustlib/src/rust/library/core");
    if !sources.is_dir() || !Path::new("/usr/bin/cargo").exists() {
        return None;
    }
    let version = version_of(Command::new("/usr/bin/rustc"))?;
    is_new_enough(&version).then_some(version)
}

fn nightly() -> Option<String> {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc"]);
    let version = version_of(rustc)?;
    let mut sysroot = Command::new("rustup");
    sysroot.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    let output = sysroot.output().ok()?;
    let root = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let sources = root.join("lib/rustlib/src/rust/library/core");
    (sources.is_dir() && is_new_enough(&version)).then_some(version)
}

fn version_of(mut rustc: Command) -> Option<String> {
    let output = rustc.arg("--version").env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Judges the output of `rustc --version`.
fn is_new_enough(version: &str) -> bool {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split(['.', '-']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_new_enough("rustc 1.96.0 (ac68faa20 2026-05-25)"));
        assert!(is_new_enough("rustc 1.100.0-nightly (0 2027-01-01)"));
        assert!(!is_new_enough("rustc 1.85.1"));
        assert!(!is_new_enough(""));
    }
}
