//! What is on a disk after the machine is off: files of an earlier boot, and no complaint of e2fsck.
//!
//! ```text
//!   boot 1    writes, syncs or not, powers off (or QEMU is killed)
//!   boot 2    reads what must be there
//!   host      e2fsck -f -n of the image
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Platform;
use super::tally::{Tally, Verdict};
use crate::exec::{self, Outcome, Port};
use crate::guest::GuestArgs;
use crate::{image, linux, paths, ui, userland};

/// Time for one boot.
const LIMIT: Duration = Duration::from_secs(120);

/// One story: what each boot does, and what it says.
struct Case {
    name: &'static str,
    /// The disk: an empty file system beside the root `tiny`, or Debian's root itself.
    disk: Disk,
    boots: &'static [(&'static str, &'static str)],
    /// Debian's root is large: once is enough.
    once: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Disk {
    /// Empty, made by mke2fs with these arguments.
    Empty(&'static [&'static str]),
    Root,
}

const WRITE: &str = "mount -t ext4 /dev/vda /mnt && cd /mnt && mkdir d && seq 100000 > d/n && cp d/n m && mv m d/m && \
    ln d/n h && ln -s d/n s && seq 9 > gone && rm gone && cd / && umount /mnt && echo written";
const READ: &str = "mount -t ext4 /dev/vda /mnt && cmp /mnt/d/n /mnt/d/m && wc -l < /mnt/s && stat -c %h /mnt/h && \
    ls /mnt && umount /mnt";
const FOUND: &str = "100000\n2\nd\nh\nlost+found\ns\n";

const CASES: [Case; 5] = [
    Case {
        name: "files are there after the next boot",
        disk: Disk::Empty(&["-t", "ext4"]),
        boots: &[(WRITE, "written\n"), (READ, FOUND)],
        once: false,
    },
    Case {
        name: "ext4 with small blocks and no checksums",
        disk: Disk::Empty(&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"]),
        boots: &[(WRITE, "written\n"), (READ, FOUND)],
        once: true,
    },
    Case {
        name: "a sudden end keeps what was synced",
        disk: Disk::Empty(&["-t", "ext4"]),
        boots: &[
            (
                "mount -t ext4 /dev/vda /mnt && cd /mnt && seq 50000 > kept && sync && seq 9999 > lost && \
                 (mkdir -p x/y; cp kept x/y; rm kept; mv x/y/kept .) && dd if=/dev/null of=kept conv=notrunc,fsync 2>/dev/null && echo synced && sleep 1 && reboot -nf",
                "synced\n",
            ),
            ("mount -t ext4 /dev/vda /mnt && wc -l < /mnt/kept && umount /mnt", "50000\n"),
        ],
        once: false,
    },
    Case {
        name: "power-off with the file system mounted loses nothing",
        disk: Disk::Empty(&["-t", "ext4"]),
        boots: &[
            ("mount -t ext4 /dev/vda /mnt && seq 70000 > /mnt/f && echo written", "written\n"),
            ("mount -t ext4 /dev/vda /mnt && wc -l < /mnt/f && umount /mnt", "70000\n"),
        ],
        once: false,
    },
    Case {
        name: "Debian's root keeps what is written",
        disk: Disk::Root,
        boots: &[
            (
                "seq 30000 > /root/kept && mkdir -p /srv/a/b && cp -a /etc /srv/a/b && echo written",
                "written\n",
            ),
            (
                "wc -l < /root/kept && diff -r --no-dereference /etc /srv/a/b/etc && echo same",
                "30000\nsame\n",
            ),
        ],
        once: true,
    },
];

/// Runs the cases on `platform`.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for case in &CASES {
        let name = format!("disk/{platform}/{}", case.name);
        if !tally.wants(&name) || (case.once && platform.smp != 1) {
            continue;
        }
        let path = paths::logs()?.join(format!("disk-{}-{platform}.ext4", std::process::id()));
        let verdict = Verdict::of(tell(platform, case, &path));
        let _ = fs::remove_file(&path);
        tally.note(&name, verdict);
    }
    programs(tally, platform)?;
    super::power::run(tally, platform)?;
    super::exchange::run(tally, platform)?;
    super::share::run(tally, platform)?;
    super::faults::run(tally, platform)?;
    super::vanish::run(tally, platform)?;
    super::vconsole::run(tally, platform)
}

/// Areas of user/tests that want their folder on a disk, with what makes that.
const ON_DISKS: [(&str, Fs, &[&str], &str); 3] = [
    ("files on ext4", Fs::Ext4, &["-t", "ext4", "-b", "4096"], "ext4::"),
    ("files on vfat", Fs::Vfat, &["-F", "32", "-s", "1"], "fat::"),
    ("a full ext4", Fs::Ext4, &["-t", "ext4", "-b", "4096", "-N", "2048"], "full::"),
];

/// Runs them on Keel and on Linux; the tool that looks for damage must be content afterwards.
fn programs(tally: &Tally, platform: &Platform) -> Result<()> {
    let kernels: &[&str] = if platform.smp == 1 { &["keel", "linux"] } else { &["keel"] };
    for (kernel, disk) in kernels.iter().flat_map(|kernel| ON_DISKS.iter().map(move |disk| (kernel, disk))) {
        let name = format!("disk/{platform}/{}, tested on {kernel}", disk.0);
        if !tally.wants(&name) {
            continue;
        }
        if let (&"linux", Err(error)) = (kernel, linux::modules()) {
            tally.skip(&name, &format!("{error:#}"));
            continue;
        }
        let path = paths::logs()?.join(format!("disk-tests-{}-{kernel}-{platform}", std::process::id()));
        let verdict = Verdict::of(test_on(platform, kernel, disk, &path));
        let _ = fs::remove_file(&path);
        tally.note(&name, verdict);
    }
    Ok(())
}

fn test_on(
    platform: &Platform,
    kernel: &str,
    (_, fs, options, area): &(&str, Fs, &[&str], &str),
    path: &Path,
) -> Result<()> {
    fs.make_empty(path, options)?;
    let share = paths::make_dir(&paths::logs()?.join(format!("disk-tests-{}", std::process::id())))?;
    std::fs::copy(userland::program("user-tests")?, share.join("user-tests"))?;
    let guest = GuestArgs {
        kernel: kernel.to_owned(),
        debug: platform.debug && kernel == "keel",
        disks: vec![path.to_owned()],
        programs: Some(share),
        ..platform.guest("tiny", None)
    };
    let name = fs.name();
    boot(
        &guest,
        &format!(
            "mount -t {name} /dev/vda /mnt && KEEL_TEST_DIR=/mnt /share/user-tests --ktap {area} >/tmp/said 2>&1 || \
             {{ cat /tmp/said; exit 1; }}; umount /mnt"
        ),
    )?;
    fs.check(path)
}

fn tell(platform: &Platform, case: &Case, path: &Path) -> Result<()> {
    make(case.disk, path)?;
    let mut guest = platform.guest("tiny", None);
    match case.disk {
        Disk::Empty(_) => guest.disks = vec![path.to_owned()],
        Disk::Root => {
            guest.root = path.display().to_string();
            guest.keep = true;
            guest.mem = Some(1024);
        }
    }
    for (nr, (command, expected)) in case.boots.iter().enumerate() {
        let output = boot(&guest, command).with_context(|| format!("boot {}", nr + 1))?;
        ensure!(output == *expected, "boot {} said:\n{output}instead of:\n{expected}", nr + 1);
    }
    check(path)
}

fn make(disk: Disk, path: &Path) -> Result<()> {
    let _ = fs::remove_file(path);
    match disk {
        Disk::Empty(arguments) => make_empty(path, arguments),
        Disk::Root => {
            let fresh: PathBuf = image::ensure("disk")?;
            ui::capture(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(fresh).arg(path))
                .map(drop)
        }
    }
}

/// A file system that disks are made with and looked over.
#[derive(Clone, Copy, PartialEq)]
pub enum Fs {
    Ext4,
    Vfat,
}

impl Fs {
    /// As mount(8) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Vfat => "vfat",
        }
    }

    /// What user-disk calls the tree that it can hold.
    pub fn tree(self) -> &'static str {
        match self {
            Self::Ext4 => "full",
            Self::Vfat => "plain",
        }
    }

    /// An empty one in a file of 64 MiB.
    pub fn make_empty(self, path: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = match self {
            Self::Ext4 => Command::new("mke2fs"),
            Self::Vfat => Command::new("mkfs.fat"),
        };
        if self == Self::Ext4 {
            command.arg("-q");
        }
        File::create(path)?.set_len(64 << 20)?;
        ui::capture(command.args(arguments).arg(path)).map(drop)
    }

    /// The tool that looks for damage must find none.
    pub fn check(self, path: &Path) -> Result<()> {
        let (tool, arguments): (&str, &[&str]) = match self {
            Self::Ext4 => ("e2fsck", &["-f", "-n"]),
            Self::Vfat => ("fsck.fat", &["-n", "-v"]),
        };
        let output = Command::new(tool).args(arguments).arg(path).output().context(tool)?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && !said.contains("Dirty bit"), "{tool} complains:\n{said}");
        Ok(())
    }
}

/// An empty ext4, made by mke2fs.
pub fn make_empty(path: &Path, arguments: &[&str]) -> Result<()> {
    Fs::Ext4.make_empty(path, arguments)
}

/// What `command` writes. A guest that ends early has said all, too: it may have been told to.
pub fn boot(guest: &GuestArgs, command: &str) -> Result<String> {
    let mut output = Vec::new();
    let mut sink = |port: Port, bytes: &[u8]| {
        if matches!(port, Port::Stdout | Port::Stderr) {
            output.extend_from_slice(bytes);
        }
    };
    let report = exec::run(guest, command, LIMIT, &mut sink)?;
    let output = String::from_utf8_lossy(&output).into_owned();
    match report.outcome {
        Outcome::Exited(0) => Ok(output),
        Outcome::Failed(why) if command.ends_with("reboot -nf") && why.starts_with("the guest ended") => {
            Ok(output)
        }
        Outcome::Exited(status) => bail!("status {status}; it said:\n{output}"),
        Outcome::Failed(why) => bail!("{why}\nit said:\n{output}"),
    }
}

/// `e2fsck` must find nothing.
pub fn check(path: &Path) -> Result<()> {
    Fs::Ext4.check(path)
}
