//! Boots that must go wrong in a clear way, and strange ones that must go right.
//!
//! Each case spoils one thing: the initramfs, the first program, the memory, the parameters. What Keel
//! prints is searched for the words that tell a person what happened; a panic is right where Linux panics.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use regex::Regex;

use super::Platform;
use super::tally::{TRIES, Tally, Verdict};
use crate::guest::Job;
use crate::paths;

/// Time for a boot to end.
const LIMIT: Duration = Duration::from_secs(60);

/// One boot.
struct Case {
    name: &'static str,
    append: &'static str,
    mem: Option<u32>,
    spoil: fn(&Path) -> Result<()>,
    /// Regular expressions, each of which the console must match.
    expect: &'static [&'static str],
}

const CASES: [Case; 8] = [
    Case { name: "an unknown parameter is ignored", append: "nonsense=1 foo.bar quux", ..RIGHT },
    Case {
        name: "an initramfs of garbage is told, then there is no init",
        spoil: |initrd| {
            fs::write(initrd, b"this is no archive at all, whatever its length is").map_err(Into::into)
        },
        expect: &["(?i)initramfs: ", "Kernel panic.*init"],
        ..RIGHT
    },
    Case {
        name: "a truncated initramfs is told",
        // What was unpacked stays; without this a shell of it would wait for input.
        append: "rdinit=/nowhere init=/nowhere",
        spoil: truncate,
        expect: &["(?i)initramfs: ", "Kernel panic.*init"],
        ..RIGHT
    },
    Case {
        name: "an empty initramfs leaves no init",
        spoil: |initrd| fs::write(initrd, []).map_err(Into::into),
        expect: &["Kernel panic.*init"],
        ..RIGHT
    },
    Case {
        name: "an init that is not there",
        append: "rdinit=/nowhere init=/nowhere",
        expect: &["Kernel panic.*init"],
        ..RIGHT
    },
    Case {
        name: "an init that exits",
        append: "rdinit=/bin/true",
        expect: &["Kernel panic.*Attempted to kill init! exitcode=0x00000000"],
        ..RIGHT
    },
    Case {
        name: "an init that is no program",
        append: "rdinit=/etc/passwd init=/etc/passwd",
        expect: &["Kernel panic.*init"],
        ..RIGHT
    },
    Case {
        name: "too little memory",
        // By a parameter: QEMU puts the initramfs over the end of the kernel when the machine itself is that small.
        append: "mem=10M",
        mem: Some(64),
        expect: &["(?i)memory allocation|not enough memory|out of memory|no memory"],
        ..RIGHT
    },
];

/// A boot that is right: init runs its command.
const RIGHT: Case =
    Case { name: "", append: "", mem: None, spoil: |_| Ok(()), expect: &["keel-boot-says-hello"] };

/// Runs the cases on `platform`.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for case in &CASES {
        let name = format!("boot/{platform}/{}", case.name);
        if !tally.wants(&name) {
            continue;
        }
        let mut first = None;
        for left in (0..TRIES).rev() {
            let verdict = Verdict::of(boot(platform, case));
            let expected = tally.expects(&name, &verdict);
            if !expected && left > 0 {
                first.get_or_insert(verdict);
                continue;
            }
            if let Some(first) = first.as_ref().filter(|_| expected) {
                tally.note_flaky(&name, first);
            }
            tally.note(&name, verdict);
            break;
        }
    }
    Ok(())
}

fn boot(platform: &Platform, case: &Case) -> Result<()> {
    let mut args = platform.guest("tiny", case.mem);
    args.append = case.append.to_owned();
    let guest = args.prepare(&Job::Exec("echo keel-boot-says-hello > /dev/console".to_owned()))?;
    (case.spoil)(&guest.machine.initrd).context("the initramfs cannot be spoiled")?;
    let console = paths::logs()?.join(format!("boot-{}-{platform}.log", std::process::id()));
    fs::write(&console, [])?;
    let mut qemu = guest.machine.command();
    qemu.args(["-serial", &format!("file:{}", console.display())]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(OpenOptions::new().append(true).open(&console)?);
    let ended = wait(qemu.spawn().context("cannot start QEMU")?)?;
    let text = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
    let _ = fs::remove_file(&console);
    for pattern in case.expect {
        let found = Regex::new(pattern)?.is_match(&text);
        anyhow::ensure!(found, "nothing matches {pattern}; the console showed:\n{text}");
    }
    anyhow::ensure!(
        ended,
        "the machine did not end within {} s; the console showed:\n{text}",
        LIMIT.as_secs()
    );
    Ok(())
}

/// Waits for the end of QEMU, and ends it when that takes too long.
fn wait(mut child: Child) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    Ok(false)
}

/// Cuts the archive in the midst of a file.
fn truncate(initrd: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).open(initrd)?;
    file.set_len(file.metadata()?.len() / 3 + 1)?;
    Ok(())
}
