//! The guest's roots: made from recipes in `images/`, packed as cpio or as a disk with ext4, kept in the cache.
//!
//! An image is named after a hash of its recipe, so a changed recipe makes a new image and the old one is
//! removed. Images are not compressed: without hardware virtualisation unpacking costs more than reading.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::cpio::{Meta, Writer, mode};
use crate::debian::Mirrors;
use crate::paths::{self, Lock};
use crate::ui;

/// Goes up when images of an unchanged recipe must be made anew.
const FORMAT: u32 = 1;

/// One file of `images/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    base: Base,
    suite: Option<String>,
    /// The size of the disk in MiB, for a root that is a disk with ext4.
    disk_mib: Option<u32>,
    #[serde(default)]
    packages: Vec<String>,
    /// Patterns of paths that dpkg does not unpack.
    #[serde(default)]
    exclude: Vec<String>,
    /// Folders that are emptied after the installation; each ends in a slash.
    #[serde(default)]
    drop: Vec<String>,
    #[serde(default)]
    dirs: Vec<String>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
}

/// Where the bulk of an image comes from.
#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Base {
    /// The machine's busybox-static with a link for each of its programs.
    Busybox,
    /// Packages, by mmdebstrap.
    Debian,
}

/// The names of all recipes.
pub fn names() -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(paths::repo().join("images"))
        .context("the folder images/ cannot be read")?
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The recipe `name` with its text.
fn read_recipe(name: &str) -> Result<(Recipe, String)> {
    let path = paths::repo().join("images").join(format!("{name}.toml"));
    let text = fs::read_to_string(&path).with_context(|| {
        format!("there is no root called {name}; images/ has {}", names().unwrap_or_default().join(", "))
    })?;
    let recipe =
        toml::from_str(&text).with_context(|| format!("{} is not a valid recipe", path.display()))?;
    Ok((recipe, text))
}

/// Whether `name` is a recipe for a disk.
pub fn is_disk(name: &str) -> bool {
    read_recipe(name).is_ok_and(|(recipe, _)| recipe.disk_mib.is_some())
}

/// This clone's own copy of the disk `name`, which keeps what guests write to it; made now when there is none.
pub fn kept_disk(name: &str) -> Result<PathBuf> {
    let path = paths::make_dir(&paths::target())?.join(format!("{name}.ext4"));
    let fresh = ensure(name)?;
    let _lock = Lock::take(&format!("kept-{name}"))?;
    if !path.exists() {
        let part = path.with_extension("part");
        let mut copy = Command::new("cp");
        ui::capture(copy.args(["--sparse=always", "--reflink=auto"]).arg(&fresh).arg(&part))?;
        fs::rename(&part, &path)?;
        ui::say(&format!("changes are kept in {}; without that file a run begins anew", path.display()));
    }
    Ok(path)
}

/// The image made by the recipe `name`, made now when the cache has none.
pub fn ensure(name: &str) -> Result<PathBuf> {
    let (recipe, text) = read_recipe(name)?;
    let kind = if recipe.disk_mib.is_some() { "ext4" } else { "cpio" };
    let path = paths::cache()?.join(format!("root-{name}-{}.{kind}", hash(&text)));
    if path.exists() {
        return Ok(path);
    }
    let _lock = Lock::take(&format!("root-{name}"))?;
    if path.exists() {
        return Ok(path);
    }
    let step = ui::Step::new(format!("making the root {name}"));
    let part = path.with_extension("part");
    let made = match recipe.disk_mib {
        None => make(&recipe, &step, &part),
        Some(mib) => make_disk(&recipe, &step, mib, &part),
    };
    made.with_context(|| format!("the root {name} could not be made"))?;
    remove_old(name)?;
    fs::rename(&part, &path)?;
    let size = fs::metadata(&path)?.len() >> 20;
    step.done(&format!("{} ({size} MiB)", path.display()));
    Ok(path)
}

fn hash(recipe: &str) -> String {
    let digest = Sha256::new().chain_update(FORMAT.to_le_bytes()).chain_update(recipe).finalize();
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes images of older recipes. Another clone may still use one: they are kept for a week.
fn remove_old(name: &str) -> Result<()> {
    const WEEK: Duration = Duration::from_secs(7 * 86400);
    for entry in fs::read_dir(paths::cache()?)?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        let is_old = age.is_some_and(|age| age > WEEK);
        if is_old
            && file.starts_with(&format!("root-{name}-"))
            && (file.ends_with(".cpio") || file.ends_with(".ext4"))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make(recipe: &Recipe, step: &ui::Step, to: &Path) -> Result<()> {
    let out = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut writer = Writer::new(BufWriter::with_capacity(1 << 20, out));
    match recipe.base {
        Base::Busybox => add_busybox(&mut writer)?,
        Base::Debian => add_debian(&mut writer, recipe, step, &to.with_extension("tar"))?,
    }
    for dir in &recipe.dirs {
        let permissions = if dir.ends_with("tmp") { 0o1777 } else { 0o755 };
        for (slash, _) in dir.match_indices('/') {
            writer.add_dir(&dir[..slash], 0o755)?;
        }
        writer.add_dir(dir, permissions)?;
    }
    for (name, target) in &recipe.links {
        writer.add_link(name, target)?;
    }
    for (name, text) in &recipe.files {
        writer.add_bytes(name, 0o644, text.as_bytes())?;
    }
    if recipe.disk_mib.is_none() {
        writer.add_char_device("dev/console", 0o600, (5, 1))?;
        writer.add_char_device("dev/null", 0o666, (1, 3))?;
    }
    writer.finish()?.flush()?;
    Ok(())
}

/// A disk with one file system, ext4 as mke2fs makes it, which holds the root.
fn make_disk(recipe: &Recipe, step: &ui::Step, mib: u32, to: &Path) -> Result<()> {
    let cpio = to.with_extension("cpio");
    make(recipe, step, &cpio)?;
    step.news("writing the disk");
    let tree = to.with_extension("tree");
    let _ = fs::remove_dir_all(&tree);
    paths::make_dir(&tree)?;
    let script = r#"set -e; trap 'rm -rf "$2"' EXIT
        (cd "$2" && /bin/busybox cpio -idmu --quiet) < "$1"
        rm -f "$3"; mke2fs -q -t ext4 -L keel-root -d "$2" "$3" "$4M""#;
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else {
        // The files' owners need a range of users, which mmdebstrap needed, too.
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--map-auto", "--", "sh"]);
        command
    };
    command.args(["-c", script, "sh"]).arg(&cpio).arg(&tree).arg(to).arg(mib.to_string());
    let result = ui::run(step, &mut command);
    let _ = fs::remove_file(cpio);
    result.map(drop)
}

/// Debian's static busybox and a link for each program in it.
fn add_busybox(writer: &mut Writer<impl Write>) -> Result<()> {
    let busybox = Path::new("/bin/busybox");
    let list = ui::capture(Command::new(busybox).arg("--list-full"))
        .context("busybox is missing: `apt-get install busybox-static`, or `cargo xtask setup`")?;
    for dir in ["bin", "sbin", "usr", "usr/bin", "usr/sbin"] {
        writer.add_dir(dir, 0o755)?;
    }
    writer.add_tree("bin/busybox", busybox)?;
    for applet in list.lines().filter(|a| *a != "bin/busybox" && a.contains('/')) {
        writer.add_link(applet, "/bin/busybox")?;
    }
    Ok(())
}

/// Packages installed by mmdebstrap into a tar archive, turned into entries of the image.
fn add_debian(writer: &mut Writer<impl Write>, recipe: &Recipe, step: &ui::Step, tar: &Path) -> Result<()> {
    let Some(suite) = &recipe.suite else { bail!("the recipe names no suite") };
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--variant=essential", "--architectures=amd64", "--format=tar"]);
    mmdebstrap.arg(format!("--include={}", recipe.packages.join(",")));
    // Nothing of an installation that was cut short is used: no file needs to be on the disk before the next.
    mmdebstrap.arg("--dpkgopt=force-unsafe-io");
    for pattern in &recipe.exclude {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for option in host_apt_options()? {
        mmdebstrap.arg(format!("--aptopt={option}"));
    }
    mmdebstrap.arg(suite).arg(tar).args(Mirrors::find()?.sources(suite));
    ui::run(step, &mut mmdebstrap)?;
    step.news("packing");
    add_tar(writer, tar, &recipe.drop)?;
    fs::remove_file(tar)?;
    Ok(())
}

/// How this machine's apt reaches its mirror: what is set beyond the sources themselves.
fn host_apt_options() -> Result<Vec<String>> {
    let mut apt_config = Command::new("apt-config");
    apt_config.args([
        "dump",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
        "Acquire::http::Proxy",
        "Acquire::https::Proxy",
    ]);
    let dump = ui::capture(&mut apt_config)?;
    Ok(dump.lines().filter(|l| !l.contains("\"\"")).map(str::to_owned).collect())
}

/// Copies a tar archive's entries, hard links included.
fn add_tar(writer: &mut Writer<impl Write>, tar: &Path, drop: &[String]) -> Result<()> {
    let links = hard_links(tar)?;
    let mut inodes: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, File::open(tar)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = plain_name(&entry.path_bytes());
        let text = String::from_utf8_lossy(&name).into_owned();
        if drop.iter().any(|prefix| text.starts_with(prefix.as_str())) {
            continue;
        }
        let header = entry.header().clone();
        let mut meta = Meta {
            uid: u32::try_from(header.uid()?)?,
            gid: u32::try_from(header.gid()?)?,
            mtime: u32::try_from(header.mtime()?).unwrap_or(0),
            ..Meta::new(header.mode()? & 0o7777)
        };
        let target = entry.link_name_bytes().map(|t| t.into_owned());
        let kind = header.entry_type();
        meta.mode |= match kind {
            tar::EntryType::Directory => mode::DIR,
            tar::EntryType::Symlink => mode::LINK,
            tar::EntryType::Char => mode::CHAR,
            tar::EntryType::Block => mode::BLOCK,
            tar::EntryType::Fifo => mode::FIFO,
            _ => mode::FILE,
        };
        meta.rdev = (
            header.device_major().ok().flatten().unwrap_or(0),
            header.device_minor().ok().flatten().unwrap_or(0),
        );
        let file = if kind == tar::EntryType::Link {
            plain_name(target.as_deref().unwrap_or_default())
        } else {
            name.clone()
        };
        if let Some(&nlink) = links.get(&file) {
            meta.nlink = nlink;
            meta.ino = *inodes.entry(file).or_insert_with(|| writer.fresh_ino());
        }
        if name.is_empty() {
            continue;
        }
        match target {
            Some(target) if kind == tar::EntryType::Symlink => {
                writer.add(&name, meta, &mut &target[..], target.len() as u64)?
            }
            _ => {
                let len = if kind == tar::EntryType::Link { 0 } else { entry.size() };
                writer.add(&name, meta, &mut entry as &mut dyn Read, len)?;
            }
        }
    }
    Ok(())
}

/// Files with several names, each with the number of its names: cpio tells it with the first.
fn hard_links(tar: &Path) -> Result<BTreeMap<Vec<u8>, u32>> {
    let mut links = BTreeMap::new();
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, File::open(tar)?));
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.header().entry_type() == tar::EntryType::Link
            && let Some(target) = entry.link_name_bytes()
        {
            *links.entry(plain_name(&target)).or_insert(1) += 1;
        }
    }
    Ok(links)
}

/// A tar name without leading `./` and trailing slash.
fn plain_name(name: &[u8]) -> Vec<u8> {
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let path = path.strip_prefix(".").unwrap_or(path);
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_suffix(b"/").unwrap_or(bytes).to_vec()
}
