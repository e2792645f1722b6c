//! Where things lie: the repository, what is built in it, and the cache of what was fetched.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root folder.
pub fn repo() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds; follows `CARGO_TARGET_DIR`.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo().join("target"), |dir| repo().join(dir))
}

/// Images and packages that are costly to get again, shared by all clones of a user: the folder that
/// `KEEL_CACHE` names, else `keel` in `XDG_CACHE_HOME` or `~/.cache`, else `build/cache` of the repository.
pub fn cache() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = set("KEEL_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("keel")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/keel")))
        .unwrap_or_else(|| repo().join("build/cache"));
    make_dir(&dir)
}

/// Logs of guests: `target/log`.
pub fn logs() -> Result<PathBuf> {
    make_dir(&target().join("log"))
}

/// Makes `dir` with its parents and returns it.
pub fn make_dir(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    Ok(dir.to_owned())
}

/// An exclusive lock between processes, released when dropped.
///
/// Two commands that need the same cached thing would otherwise make it twice, one over the other.
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

impl Lock {
    /// Waits for the lock named `name` in the cache folder.
    pub fn take(name: &str) -> Result<Lock> {
        let path = cache()?.join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Lock(file))
    }
}
