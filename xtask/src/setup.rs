//! The verb `setup`: installs what is missing, says which toolchain builds the kernel.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::Toolchain;
use crate::ui;

/// A Debian package and what proves that its work can be done without it.
struct Need {
    package: &'static str,
    /// Programs on PATH or absolute paths, each of which must be there.
    proofs: &'static [&'static str],
}

/// What every verb together needs, beside a toolchain for the kernel.
const NEEDS: [Need; 12] = [
    Need { package: "qemu-system-x86", proofs: &["qemu-system-x86_64"] },
    Need { package: "mmdebstrap", proofs: &["mmdebstrap"] },
    Need { package: "e2fsprogs", proofs: &["mke2fs", "e2fsck", "debugfs"] },
    Need { package: "dosfstools", proofs: &["mkfs.fat", "fsck.fat"] },
    Need { package: "busybox-static", proofs: &["/bin/busybox"] },
    Need { package: "debian-archive-keyring", proofs: &["/usr/share/keyrings/debian-archive-keyring.gpg"] },
    Need { package: "ca-certificates", proofs: &["/etc/ssl/certs/ca-certificates.crt"] },
    Need { package: "lld", proofs: &["ld.lld"] },
    Need { package: "gcc", proofs: &["cc"] },
    Need { package: "libc6-dev", proofs: &["/usr/lib/x86_64-linux-gnu/libc.a"] },
    Need { package: "gdb", proofs: &["gdb"] },
    Need { package: "xz-utils", proofs: &["xz"] },
];

/// What `conform` needs beside: to unpack and build Linux's self-tests.
const CONFORM_NEEDS: [Need; 12] = [
    Need { package: "make", proofs: &["make"] },
    Need { package: "rsync", proofs: &["rsync"] },
    Need { package: "python3-minimal", proofs: &["python3"] },
    Need { package: "pkg-config", proofs: &["pkg-config"] },
    Need { package: "libcap-dev", proofs: &["/usr/include/sys/capability.h"] },
    Need { package: "libcap-ng-dev", proofs: &["/usr/include/cap-ng.h"] },
    Need { package: "libfuse-dev", proofs: &["/usr/include/fuse/fuse.h"] },
    Need { package: "libmnl-dev", proofs: &["/usr/include/libmnl/libmnl.h"] },
    Need { package: "libnuma-dev", proofs: &["/usr/include/numa.h"] },
    Need { package: "libpopt-dev", proofs: &["/usr/include/popt.h"] },
    Need { package: "libseccomp-dev", proofs: &["/usr/include/seccomp.h"] },
    Need { package: "liburing-dev", proofs: &["/usr/include/liburing.h"] },
];

/// Debian's toolchain for the kernel.
const DEBIAN_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Installs missing packages when it may, otherwise ends with the line to type.
pub fn run() -> Result<()> {
    let mut missing: Vec<&str> =
        NEEDS.iter().filter(|n| !n.proofs.iter().all(|p| is_there(p))).map(|n| n.package).collect();
    if Toolchain::find().is_err() {
        missing.extend(DEBIAN_RUST);
    }
    // Format and lints are part of `check`; rustup's toolchains bring them along.
    if !is_there("cargo-fmt") {
        missing.push("rustfmt-web");
    }
    if !is_there("cargo-clippy") {
        missing.push("rust-web-clippy");
    }
    if !rustix::process::geteuid().is_root() && !is_there("newuidmap") {
        missing.push("uidmap"); // mmdebstrap without root needs it
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    let toolchain = Toolchain::find()?;
    ui::say(&format!("everything is there; the kernel is built by {toolchain}"));
    Ok(())
}

/// Installs what `conform` needs to build Linux's self-tests.
pub fn for_conform() -> Result<()> {
    let is_missing = |need: &&Need| !need.proofs.iter().all(|proof| is_there(proof));
    let missing: Vec<&str> = CONFORM_NEEDS.iter().filter(is_missing).map(|n| n.package).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !is_there("apt-get") {
        bail!(
            "missing: {list} (names of Debian packages). This machine has no apt: install what they hold by other means"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("missing packages. Type:\n  sudo apt-get install --no-install-recommends {list}");
    }
    let step = ui::Step::new("installing packages");
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]);
        apt
    };
    // Lists may be absent, or so old that they offer an older toolchain than the mirror has. Without a network
    // the packages may still lie on a medium, so only the installation decides.
    let updated = ui::run(&step, apt().arg("update"));
    let mut install = apt();
    install.args(["install", "--no-install-recommends"]).args(packages);
    ui::run(&step, &mut install).with_context(|| match updated {
        Ok(_) => format!("these packages could not be installed: {list}"),
        Err(_) => format!(
            "these packages could not be installed, nor their lists fetched (is there a network?): {list}"
        ),
    })?;
    step.done(&list);
    Ok(())
}

/// Whether a program is on PATH, or an absolute path exists.
fn is_there(name: &str) -> bool {
    if name.starts_with('/') {
        return Path::new(name).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}
