//! The reference kernel: Debian's Linux 7.2 for virtual machines, fetched from sid into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::debian::Apt;
use crate::paths::{self, Lock};
use crate::ui;

/// The package that always depends on the newest build.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// The release that Keel is held against.
const RELEASE: &str = "7.2";

/// What Debian builds as modules and guests with disks are tested with. None depends on one with a later name: guests load
/// them in the order of their names.
const MODULES: [&str; 8] =
    ["virtio_blk", "loop", "overlay", "fat", "vfat", "msdos", "nls_ascii", "nls_cp437"];

/// The kernel image, fetched when the cache has none.
pub fn image() -> Result<PathBuf> {
    Ok(fetched()?.join("vmlinuz"))
}

/// The files of [`MODULES`] for the kernel that [`image`] gives.
pub fn modules() -> Result<Vec<PathBuf>> {
    let dir = fetched()?;
    Ok(MODULES.iter().map(|name| dir.join(format!("{name}.ko"))).collect())
}

/// The folder with the kernel image and its modules, which are of one build.
fn fetched() -> Result<PathBuf> {
    let dir = paths::cache()?.join("linux");
    let is_complete =
        || dir.join("vmlinuz").exists() && MODULES.iter().all(|name| dir.join(format!("{name}.ko")).exists());
    if is_complete() {
        return Ok(dir);
    }
    let _lock = Lock::take("linux")?;
    if is_complete() {
        return Ok(dir);
    }
    let step = ui::Step::new(format!("fetching Linux {RELEASE} from Debian sid"));
    let version = fetch(&step, &dir).context(
        "Linux could not be fetched. It needs network access to the mirror of this machine's apt sources; Keel itself does not need it",
    )?;
    step.done(&version);
    Ok(dir)
}

fn fetch(step: &ui::Step, dir: &Path) -> Result<String> {
    let apt = Apt::open("sid")?;
    apt.update(step)?;
    let image = image_package(&apt)?;
    let needs = apt.depends(&image)?;
    let package = pick(&needs, "linux-binary-").unwrap_or_else(|| image.clone());
    let unpacked = dir.with_extension("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    let version = apt.unpack(step, &package, &unpacked)?;
    if let Some(modules) = pick(&needs, "linux-modules-") {
        apt.unpack(step, &modules, &unpacked)?;
    }
    paths::make_dir(dir)?;
    for name in MODULES {
        unpack_module(&find(&unpacked, &format!("{name}.ko"))?, &dir.join(format!("{name}.ko")))?;
    }
    fs::write(dir.join("version"), &version)?;
    fs::rename(find(&unpacked, "vmlinuz")?, dir.join("vmlinuz"))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(version)
}

/// The file below `dir` whose name begins with `prefix`.
fn find(dir: &Path, prefix: &str) -> Result<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .flatten()
        .find(|entry| entry.file_type().is_file() && entry.file_name().to_string_lossy().starts_with(prefix))
        .map(walkdir::DirEntry::into_path)
        .with_context(|| format!("the packages of Linux hold no {prefix}"))
}

/// Writes the module `from`, which Debian compresses, to `to`.
fn unpack_module(from: &Path, to: &Path) -> Result<()> {
    if from.extension().is_none_or(|extension| extension != "xz") {
        return fs::copy(from, to).map(drop).context("a module of Linux");
    }
    let mut xz = Command::new("xz");
    let output =
        xz.arg("-dc").arg(from).output().context("xz is missing: `cargo xtask setup` installs it")?;
    ensure!(output.status.success(), "xz cannot read {}", from.display());
    fs::write(to, output.stdout).with_context(|| format!("cannot write {}", to.display()))
}

/// Follows the dependency of [`META_PACKAGE`] to the package of one build, which depends on the kernel and its modules.
fn image_package(apt: &Apt) -> Result<String> {
    pick(&apt.depends(META_PACKAGE)?, &format!("linux-image-{RELEASE}"))
        .with_context(|| format!("{META_PACKAGE} in Debian sid is no longer Linux {RELEASE}"))
}

fn pick(packages: &[String], prefix: &str) -> Option<String> {
    packages.iter().find(|p| p.starts_with(prefix)).cloned()
}
