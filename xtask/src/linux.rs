//! The reference kernel: Debian's Linux 7.2 for virtual machines, fetched from sid into the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::debian::Apt;
use crate::paths::{self, Lock};
use crate::ui;

/// The package that always depends on the newest build.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// The release that Keel is held against.
const RELEASE: &str = "7.2";

/// The kernel image, fetched when the cache has none.
pub fn image() -> Result<PathBuf> {
    let dir = paths::cache()?.join("linux");
    let image = dir.join("vmlinuz");
    if image.exists() {
        return Ok(image);
    }
    let _lock = Lock::take("linux")?;
    if image.exists() {
        return Ok(image);
    }
    let step = ui::Step::new(format!("fetching Linux {RELEASE} from Debian sid"));
    let version = fetch(&step, &dir).context(
        "Linux could not be fetched. It needs network access to the mirror of this machine's apt sources; Keel itself does not need it",
    )?;
    step.done(&version);
    Ok(image)
}

fn fetch(step: &ui::Step, dir: &Path) -> Result<String> {
    let apt = Apt::open("sid")?;
    apt.update(step)?;
    let package = binary_package(&apt)?;
    let unpacked = dir.with_extension("unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    let version = apt.unpack(step, &package, &unpacked)?;
    let found = walkdir::WalkDir::new(&unpacked)
        .into_iter()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().starts_with("vmlinuz"));
    let Some(found) = found else { bail!("the package {package} holds no vmlinuz") };
    paths::make_dir(dir)?;
    fs::write(dir.join("version"), &version)?;
    fs::rename(found.path(), dir.join("vmlinuz"))?;
    fs::remove_dir_all(&unpacked)?;
    Ok(version)
}

/// Follows the dependencies of [`META_PACKAGE`] to the package that holds the kernel file.
fn binary_package(apt: &Apt) -> Result<String> {
    let image = pick(&apt.depends(META_PACKAGE)?, &format!("linux-image-{RELEASE}"))
        .with_context(|| format!("{META_PACKAGE} in Debian sid is no longer Linux {RELEASE}"))?;
    pick(&apt.depends(&image)?, "linux-binary-").map_or(Ok(image), Ok)
}

fn pick(packages: &[String], prefix: &str) -> Option<String> {
    packages.iter().find(|p| p.starts_with(prefix)).cloned()
}
