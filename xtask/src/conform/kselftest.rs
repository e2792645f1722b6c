//! Suite `kselftest`: the self-tests of Linux 7.2, fetched from Debian sid and built in the cache.
//!
//! ```text
//!   linux-source-7.2 (Debian sid) ── make headers ── make -i install, one directory at a time
//!        CACHE/kselftest/source                          CACHE/kselftest/built/DIR
//! ```
//! `make -i` goes on after an error, so one test that Debian 12 cannot compile costs no other; what is missing
//! afterwards is listed with the compiler's first error. Nothing of it enters the repository.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::guest::Case;
use crate::debian::Apt;
use crate::paths::{self, Lock};
use crate::ui;

/// The package of sources.
const PACKAGE: &str = "linux-source-7.2";
/// Goes up when everything must be built anew.
const FORMAT: u32 = 1;
/// Parts of the sources that no self-test needs: two thirds of them.
const LEFT_OUT: [&str; 5] = ["drivers", "sound", "Documentation", "fs", "rust"];

/// The directories, below tools/testing/selftests.
pub const DIRS: [&str; 69] = [
    "acct",
    "breakpoints",
    "cachestat",
    "capabilities",
    "cgroup",
    "clone3",
    "coredump",
    "exec",
    "fchmodat2",
    "filelock",
    "filesystems",
    "filesystems/binderfs",
    "filesystems/empty_mntns",
    "filesystems/epoll",
    "filesystems/eventfd",
    "filesystems/fat",
    "filesystems/fscontext_ns",
    "filesystems/fsmount_ns",
    "filesystems/fuse",
    "filesystems/mount-notify",
    "filesystems/move_mount",
    "filesystems/nsfs",
    "filesystems/open_tree_ns",
    "filesystems/openat2",
    "filesystems/overlayfs",
    "filesystems/statmount",
    "filesystems/xattr",
    "futex/functional",
    "ipc",
    "kcmp",
    "landlock",
    "lsm",
    "membarrier",
    "memfd",
    "mincore",
    "mm",
    "mount",
    "mount_setattr",
    "move_mount_set_group",
    "mqueue",
    "mseal_system_mappings",
    "namespaces",
    "net",
    "net/af_unix",
    "nolibc",
    "pid_namespace",
    "pidfd",
    "pipe",
    "prctl",
    "proc",
    "ptrace",
    "rlimits",
    "rseq",
    "sched",
    "seccomp",
    "signal",
    "splice",
    "sync",
    "syscall_user_dispatch",
    "sysctl",
    "timens",
    "timers",
    "tmpfs",
    "tty",
    "uevent",
    "user_events",
    "vDSO",
    "vsock",
    "x86",
];

/// Directories whose list of tests is not what is wanted here: their programs are run one by one, without
/// the scripts that run several (`mm`), or that set up more than one machine (`net`), or where it is empty.
const PROGRAMS_ONLY: [&str; 3] = ["mm", "move_mount_set_group", "net"];

/// Programs that are no tests but helpers of scripts, or benchmarks without an end.
const NOT_TESTS: [&str; 12] = [
    "mm/write_to_hugetlbfs",
    "mm/transhuge-stress",
    "mm/uffd-stress",
    "mm/gup_test",
    "mm/thuge-gen",
    "mm/test_vmalloc",
    "timers/rtcpie",
    "breakpoints/step_after_suspend_test",
    "rseq/param_test_benchmark",
    "rseq/param_test_mm_cid_benchmark",
    "seccomp/seccomp_benchmark",
    "syscall_user_dispatch/sud_benchmark",
];

/// Arguments that make needs beside in some directories: Debian 12's headers do not bring in `offsetof`; what links
/// against YNL needs Linux's documentation, a generator and more than these few programs are worth.
const MAKE_ARGUMENTS: [(&str, &[&str]); 2] =
    [("coredump", &["CC=gcc -include stddef.h"]), ("net", &["YNL_GEN_FILES=", "YNL_GEN_PROGS="])];

/// Arguments of programs that would take minutes without them.
const ARGUMENTS: [(&str, &str); 3] = [
    ("pipe/pipe_bench", "-w 2 -r 1 -d 1"),
    ("timers/inconsistency-check", "-t 1"),
    ("timers/threadtest", "-t 3"),
];

/// Limits in seconds of programs that are busy all the time: of that, a minute of guest time takes ten of ours.
const LIMITS: [(&str, u64); 3] = [
    ("filesystems/epoll/epoll_wakeup_test", 10),
    ("filesystems/file_stressor", 5),
    ("filesystems/openat2/rename_attack_test", 5),
];

/// What a directory became when it was built.
pub struct Directory {
    /// Its tests, in the order of its Makefile.
    pub cases: Vec<Case>,
    /// What could not be built, each with why.
    pub missing: BTreeMap<String, String>,
}

/// Where everything is.
pub struct Sources {
    root: PathBuf,
}

impl Sources {
    /// The unpacked sources, fetched when the cache has none.
    pub fn open() -> Result<Sources> {
        let root = paths::cache()?.join("kselftest");
        let sources = Sources { root };
        if sources.version().is_some() {
            return Ok(sources);
        }
        let _lock = Lock::take("kselftest")?;
        if sources.version().is_some() {
            return Ok(sources);
        }
        let step = ui::Step::new(format!("fetching {PACKAGE} from Debian sid"));
        let version = sources.fetch(&step).context(
            "the self-tests of Linux could not be fetched. They need network access to the mirror of this machine's apt sources",
        )?;
        step.done(&version);
        Ok(sources)
    }

    /// The version of the package and of the way it was unpacked.
    pub fn version(&self) -> Option<String> {
        let text = fs::read_to_string(self.root.join("version")).ok()?;
        text.strip_suffix(&format!(" {FORMAT}\n")).map(str::to_owned)
    }

    fn fetch(&self, step: &ui::Step) -> Result<String> {
        let apt = Apt::open("sid")?;
        apt.update(step)?;
        let _ = fs::remove_dir_all(&self.root);
        let package = paths::make_dir(&self.root.join("package"))?;
        let file = apt.unpack(step, PACKAGE, &package)?;
        let source = paths::make_dir(&self.root.join("source"))?;
        step.news("unpacking");
        let mut tar = Command::new("tar");
        tar.arg("-xJf").arg(package.join(format!("usr/src/{PACKAGE}.tar.xz")));
        tar.arg("-C").arg(&source).arg("--strip-components=1");
        tar.args(LEFT_OUT.iter().map(|dir| format!("--exclude={PACKAGE}/{dir}")));
        ui::run(step, &mut tar)?;
        fs::remove_dir_all(&package)?;
        step.news("make headers");
        ui::run(step, Command::new("make").args(["-s", "headers"]).current_dir(&source))?;
        fs::write(self.root.join("version"), format!("{file} {FORMAT}\n"))?;
        Ok(file)
    }

    /// The folder of a directory's built tests.
    pub fn built(&self, dir: &str) -> PathBuf {
        self.root.join("built").join(dir)
    }

    /// Builds `dir` unless the cache has it, and lists its tests.
    pub fn build(&self, dir: &str) -> Result<Directory> {
        let list = self.root.join("lists").join(dir.replace('/', "."));
        if !list.exists() {
            let _lock = Lock::take("kselftest")?;
            if !list.exists() {
                let step = ui::Step::new(format!("building the self-tests in {dir}"));
                let text = self.make(&step, dir)?;
                paths::make_dir(&self.root.join("lists"))?;
                fs::write(&list, text)?;
                step.clear();
            }
        }
        self.list(dir, &fs::read_to_string(&list)?)
    }

    /// Runs make; the names that the Makefile calls tests, one a line.
    fn make(&self, step: &ui::Step, dir: &str) -> Result<String> {
        let source = self.root.join("source");
        let from = source.join("tools/testing/selftests").join(dir);
        if !from.join("Makefile").exists() {
            bail!("the self-tests of Linux 7.2 have no directory {dir}");
        }
        let objects = paths::make_dir(&self.root.join("objects").join(dir))?;
        let built = paths::make_dir(&self.built(dir))?;
        let log = fs::File::create(self.log(dir))?;
        let make = |arguments: &[&str]| {
            let mut make = Command::new("make");
            make.current_dir(&from).args(arguments).arg("O=").arg("SRC_PATH=.");
            for (name, path) in [("OUTPUT", &objects), ("INSTALL_PATH", &built), ("top_srcdir", &source)] {
                make.arg(format!("{name}={}", path.display()));
            }
            make.arg(format!("KHDR_INCLUDES=-isystem {}/usr/include", source.display()));
            let more = MAKE_ARGUMENTS.iter().filter(|(of, _)| *of == dir).flat_map(|(_, more)| more.iter());
            make.args(more);
            make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").stdin(Stdio::null());
            make
        };
        step.news("make");
        let mut install = make(&["-i", "install"]);
        install.stdout(log.try_clone()?).stderr(log);
        install.status().context("cannot run make: `cargo xtask setup` installs it")?;
        let mut emit = make(&["-s", "--no-print-directory", "emit_tests", "COLLECTION=-"]);
        let names = ui::capture(&mut emit).unwrap_or_default();
        Ok(names.lines().filter_map(|l| l.strip_prefix("-:")).map(|n| format!("{n}\n")).collect())
    }

    fn log(&self, dir: &str) -> PathBuf {
        self.root.join("objects").join(format!("{}.log", dir.replace('/', ".")))
    }

    fn list(&self, dir: &str, names: &str) -> Result<Directory> {
        let built = self.built(dir);
        let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
        if PROGRAMS_ONLY.contains(&dir) {
            names = programs(&built)?;
        }
        let log = fs::read_to_string(self.log(dir)).unwrap_or_default();
        let seconds = timeout(&built);
        let mut found = Directory { cases: Vec::new(), missing: BTreeMap::new() };
        for name in names {
            let full = format!("{dir}/{name}");
            if NOT_TESTS.contains(&full.as_str()) {
                continue;
            }
            let arguments =
                ARGUMENTS.iter().find(|(of, _)| *of == full).map_or("", |(_, arguments)| arguments);
            if built.join(&name).exists() {
                found.cases.push(Case {
                    name: format!("kselftest/{dir}/{name}"),
                    folder: format!("kselftest/{dir}"),
                    command: format!("./{name} {arguments}").trim_end().to_owned(),
                    seconds: LIMITS.iter().find(|(of, _)| *of == full).map_or(seconds, |(_, limit)| *limit),
                });
            } else {
                found.missing.insert(name.clone(), why(&log, &name));
            }
        }
        Ok(found)
    }
}

/// The programs in a folder: ELF files that may be executed.
fn programs(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)?.flatten() {
        let executable = entry.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let is_elf = fs::read(entry.path()).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF"));
        if executable && is_elf {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Seconds for one test: what the directory's `settings` say, within reason.
fn timeout(dir: &Path) -> u64 {
    const DEFAULT: u64 = 60;
    const MOST: u64 = 120;
    let settings = fs::read_to_string(dir.join("settings")).unwrap_or_default();
    match settings.lines().find_map(|l| l.strip_prefix("timeout=")).and_then(|n| n.trim().parse().ok()) {
        Some(0) => MOST,
        Some(seconds) => u64::clamp(seconds, DEFAULT, MOST),
        None => DEFAULT,
    }
}

/// The first error that make's log has about `name`.
fn why(log: &str, name: &str) -> String {
    let stem = name.split('.').next().unwrap_or(name);
    let about = |line: &&str| line.contains(&format!("{stem}.c:")) && line.contains("error:");
    let any = |line: &&str| line.contains("error:") || line.contains("cannot find");
    let line = log.lines().find(about).or_else(|| log.lines().find(any));
    match line.and_then(|l| l.split_once("error: ")) {
        Some((_, text)) => text.trim().to_owned(),
        None => "it was not built".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::why;

    #[test]
    fn the_reason_is_the_first_error_of_that_test() {
        let log = "a.c:1:2: error: other\nb.c:3:4: warning: x\nb.c:5:6: error: unknown type name 'T'\n";
        assert_eq!(why(log, "b"), "unknown type name 'T'");
        assert_eq!(why(log, "c"), "other");
        assert_eq!(why("", "c"), "it was not built");
    }
}
