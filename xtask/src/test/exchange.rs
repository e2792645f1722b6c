//! File systems that go from Keel to Linux and back: what one wrote the other reads, byte for byte.
//!
//! ```text
//!   writer    fills the disk with user/disk's tree, describes it
//!   reader    mounts it, describes the same; changes it, describes that
//!   writer    describes the same
//!   host      e2fsck -f -n or fsck.fat -n after each
//! ```
//! Each of the two is the writer once, for what Debian makes; for other kinds one of them is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::Platform;
use super::disk::{Fs, boot};
use super::tally::{Tally, Verdict};
use crate::guest::GuestArgs;
use crate::{linux, paths, userland};

/// A kind of file system.
struct Kind {
    name: &'static str,
    fs: Fs,
    /// What the tool that makes it is told.
    options: &'static [&'static str],
    /// Kernels that write first.
    writers: &'static [&'static str],
}

const KINDS: [Kind; 8] = [
    Kind {
        name: "ext4 as Debian makes it",
        fs: Fs::Ext4,
        options: &["-t", "ext4", "-b", "4096"],
        writers: &["keel", "linux"],
    },
    Kind {
        name: "ext4 with small blocks",
        fs: Fs::Ext4,
        options: &["-t", "ext4", "-b", "1024"],
        writers: &["keel"],
    },
    Kind {
        name: "ext4 without checksums",
        fs: Fs::Ext4,
        options: &["-t", "ext4", "-O", "^metadata_csum,^64bit,^dir_index"],
        writers: &["linux"],
    },
    Kind {
        name: "ext4 with data in inodes",
        fs: Fs::Ext4,
        options: &["-t", "ext4", "-I", "256", "-O", "inline_data"],
        writers: &["keel", "linux"],
    },
    Kind { name: "vfat as Debian makes it", fs: Fs::Vfat, options: &[], writers: &["keel", "linux"] },
    Kind {
        name: "vfat with 32 bits",
        fs: Fs::Vfat,
        options: &["-F", "32", "-s", "1"],
        writers: &["keel", "linux"],
    },
    Kind { name: "vfat with 12 bits", fs: Fs::Vfat, options: &["-F", "12", "-s", "64"], writers: &["keel"] },
    Kind {
        name: "vfat with large sectors",
        fs: Fs::Vfat,
        options: &["-F", "16", "-S", "4096"],
        writers: &["linux"],
    },
];

/// Runs the exchanges.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for kind in &KINDS {
        for writer in kind.writers {
            let name = format!("disk/{platform}/{}, written first by {writer}", kind.name);
            if !tally.wants(&name) || platform.smp != 1 {
                continue;
            }
            if let Err(error) = linux::modules() {
                tally.skip(&name, &format!("{error:#}"));
                continue;
            }
            let path = paths::logs()?.join(format!("exchange-{}.img", std::process::id()));
            let verdict = Verdict::of(exchange(platform, kind, writer, &path));
            let _ = fs::remove_file(&path);
            tally.note(&name, verdict);
        }
    }
    Ok(())
}

fn exchange(platform: &Platform, kind: &Kind, writer: &str, path: &Path) -> Result<()> {
    kind.fs.make_empty(path, kind.options)?;
    let share = share()?;
    let guest = |kernel: &str| GuestArgs {
        kernel: kernel.to_owned(),
        debug: platform.debug && kernel == "keel",
        disks: vec![path.to_owned()],
        programs: Some(share.clone()),
        ..platform.guest("tiny", None)
    };
    let reader = if writer == "keel" { "linux" } else { "keel" };
    let mount = format!("mount -t {} /dev/vda /mnt", kind.fs.name());
    let tree = kind.fs.tree();
    let describe = "/share/user-disk describe /mnt && umount /mnt";
    let tell = |kernel: &str, change: &str| -> Result<String> {
        let said = boot(&guest(kernel), &format!("{mount} && {change} {describe}"))
            .with_context(|| format!("{kernel}: {change}"))?;
        kind.fs.check(path).with_context(|| format!("after {kernel}: {change}"))?;
        Ok(said)
    };
    let written = tell(writer, &format!("/share/user-disk fill /mnt 1 {tree} &&"))?;
    let seen = tell(reader, "")?;
    ensure!(written == seen, "{reader} reads other than {writer} wrote:\n{}", difference(&written, &seen));
    let changed = tell(reader, &format!("/share/user-disk change /mnt 2 {tree} &&"))?;
    let seen = tell(writer, "")?;
    ensure!(changed == seen, "{writer} reads other than {reader} wrote:\n{}", difference(&changed, &seen));
    ensure!(written != changed && written.lines().count() > 1000, "the tree is no tree:\n{written}");
    Ok(())
}

/// A folder with the program.
fn share() -> Result<PathBuf> {
    let share = paths::make_dir(&paths::logs()?.join(format!("exchange-{}", std::process::id())))?;
    fs::copy(userland::program("user-disk")?, share.join("user-disk"))?;
    Ok(share)
}

/// The first lines in which two descriptions differ.
pub fn difference(one: &str, other: &str) -> String {
    let differ = |(one, other): &(&str, &str)| one != other;
    let mut lines: Vec<String> = one
        .lines()
        .zip(other.lines())
        .filter(differ)
        .take(5)
        .map(|(one, other)| format!("- {one}\n+ {other}"))
        .collect();
    if one.lines().count() != other.lines().count() {
        lines.push(format!("{} lines and {}", one.lines().count(), other.lines().count()));
    }
    lines.join("\n")
}
