//! Disks that fail: single sectors that QEMU's driver blkdebug refuses to read or to write.
//!
//! The same commands run on Keel and, where it can be had, on Linux: both must say what is written here.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::Platform;
use super::disk::{boot, check, make_empty};
use super::tally::{Tally, Verdict};
use crate::guest::GuestArgs;
use crate::{linux, paths, qemu, ui};

/// What cannot be done with the sectors.
#[derive(Clone, Copy)]
enum Fault {
    Read,
    Write,
}

/// Which sector fails, found by debugfs.
#[derive(Clone, Copy)]
enum Place {
    /// The third block of the file /f.
    Data,
    /// The journal's second block, where the first transaction goes.
    Journal,
    /// The block of the inode table with the inode of /f.
    Inode,
}

struct Case {
    name: &'static str,
    place: Place,
    fault: Fault,
    command: &'static str,
    expected: &'static str,
    /// Whether e2fsck finds nothing afterwards.
    is_sound: bool,
}

/// Shows how /mnt is mounted.
const SHOW: &str = "grep /mnt /proc/mounts | grep -o '/mnt ext4 r[ow]\\|emergency_ro'";

const CASES: [Case; 5] = [
    Case {
        name: "a block that cannot be read is EIO, and nothing else is",
        place: Place::Data,
        fault: Fault::Read,
        command: "mount -t ext4 /dev/vda /mnt; cat /mnt/f > /tmp/f; cat /mnt/g | wc -c; echo more > /mnt/h && sync && ",
        expected: "cat: read error: Input/output error\n40000\n/mnt ext4 rw\n",
        is_sound: true,
    },
    Case {
        name: "a block that cannot be written fails the fsync, and nothing else",
        place: Place::Data,
        fault: Fault::Write,
        command: "mount -t ext4 /dev/vda /mnt; dd if=/mnt/g of=/mnt/f bs=40000 count=1 conv=notrunc,fsync 2>&1 | grep -o 'Input.*'; \
                  dd if=/mnt/f of=/mnt/g bs=40000 count=1 conv=notrunc,fsync 2> /dev/null; echo $?; ",
        expected: "Input/output error\n0\n/mnt ext4 rw\n",
        is_sound: true,
    },
    Case {
        name: "a journal that cannot be written makes the file system read-only",
        place: Place::Journal,
        fault: Fault::Write,
        command: "mount -t ext4 /dev/vda /mnt; dd if=/mnt/g of=/mnt/new bs=4000 conv=fsync 2>&1 | grep -o 'Input.*\\|Read-only.*'; \
                  touch /mnt/more; cat /mnt/g | wc -c; ",
        expected: "Input/output error\ntouch: /mnt/more: Read-only file system\n40000\n/mnt ext4 rw\nemergency_ro\n",
        is_sound: true,
    },
    Case {
        name: "metadata that cannot be read: errors=continue",
        place: Place::Inode,
        fault: Fault::Read,
        command: "mount -t ext4 -o errors=continue /dev/vda /mnt; cat /mnt/f; ",
        expected: "cat: can't open '/mnt/f': Input/output error\n/mnt ext4 rw\n",
        is_sound: false,
    },
    Case {
        name: "metadata that cannot be read: errors=remount-ro",
        place: Place::Inode,
        fault: Fault::Read,
        command: "mount -t ext4 -o errors=remount-ro /dev/vda /mnt; cat /mnt/f; touch /mnt/lost+found/x; ",
        expected: "cat: can't open '/mnt/f': Input/output error\ntouch: /mnt/lost+found/x: Read-only file system\n/mnt ext4 rw\nemergency_ro\n",
        is_sound: false,
    },
];

/// Runs the cases.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for case in &CASES {
        let name = format!("disk/{platform}/{}", case.name);
        if !tally.wants(&name) || platform.smp != 1 {
            continue;
        }
        let path = paths::logs()?.join(format!("faults-{}.ext4", std::process::id()));
        let verdict = Verdict::of(tell(case, platform, &path));
        let _ = fs::remove_file(&path);
        tally.note(&name, verdict);
    }
    Ok(())
}

fn tell(case: &Case, platform: &Platform, path: &Path) -> Result<()> {
    let kernels = if linux::modules().is_ok() { &["linux", "keel"][..] } else { &["keel"] };
    for kernel in kernels {
        fill(path)?;
        let guest = GuestArgs {
            kernel: (*kernel).to_owned(),
            debug: platform.debug && *kernel == "keel",
            faulty: Some(qemu::Faulty {
                image: path.to_owned(),
                sector: find(path, case.place)?,
                kind: match case.fault {
                    Fault::Read => "read",
                    Fault::Write => "write",
                },
            }),
            ..platform.guest("tiny", None)
        };
        let command = format!("{{ {} {SHOW}; umount /mnt; }} 2>&1", case.command);
        let said = boot(&guest, &command)?;
        ensure!(said == case.expected, "{kernel} said:\n{said}instead of:\n{}", case.expected);
        if case.is_sound {
            check(path).with_context(|| format!("after {kernel}"))?;
        }
    }
    Ok(())
}

/// A file system with two files, /f and /g, whose inodes are in blocks of their own.
fn fill(path: &Path) -> Result<()> {
    make_empty(path, &["-t", "ext4", "-b", "4096", "-I", "4096", "-N", "64"])?;
    let contents = path.with_extension("contents");
    fs::write(&contents, vec![b'x'; 40_000])?;
    // Linux reads 32 blocks of inodes at once: /f must not be among those that are needed to mount.
    let others: String = (0..40).map(|nr| format!("symlink s{nr} x\n")).collect();
    let script = path.with_extension("script");
    fs::write(&script, format!("{others}write {at} f\nwrite {at} g\n", at = contents.display()))?;
    ui::capture(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(path))?;
    fs::remove_file(script)?;
    fs::remove_file(contents)?;
    Ok(())
}

fn debugfs(path: &Path, request: &str) -> Result<String> {
    ui::capture(Command::new("debugfs").args(["-R", request]).arg(path))
}

/// The sector, of 512 bytes.
fn find(path: &Path, place: Place) -> Result<u64> {
    let blocks = |file: &str, nr: usize| -> Result<u64> {
        let list = debugfs(path, &format!("blocks {file}"))?;
        let block = list.split_whitespace().nth(nr).with_context(|| format!("{file} has few blocks"))?;
        Ok(block.parse()?)
    };
    let block = match place {
        Place::Data => blocks("/f", 2)?,
        Place::Journal => blocks("<8>", 1)?,
        Place::Inode => {
            let text = debugfs(path, "imap /f")?;
            let Some(number) = text.split("located at block ").nth(1).and_then(|rest| rest.split(',').next())
            else {
                bail!("debugfs tells no block: {text}")
            };
            number.trim().parse()?
        }
    };
    Ok(block * 8)
}
