//! Disks that are taken away while they are used, through /sys/bus/pci, and come back.
//!
//! The same commands run on Keel and, where it can be had, on Linux: both must say what is written here.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Platform;
use super::disk::{boot, check, make_empty};
use super::tally::{TRIES, Tally, Verdict};
use crate::guest::GuestArgs;
use crate::{linux, paths};

/// What the disk hangs on.
#[derive(Clone, Copy)]
enum Bus {
    Virtio,
    Nvme,
}

struct Case {
    name: &'static str,
    bus: Bus,
    command: &'static str,
    expected: &'static str,
}

/// Where the PCI function of the disk $D is.
const FIND: &str = "A=$(readlink -f /sys/block/$D/device); while [ ! -e $A/remove ]; do A=${A%/*}; done; \
    uevent sh -c 'echo $ACTION $DEVNAME >> /tmp/events' & U=$!; sleep 0.3; ";

/// Files are open, dirty, mapped, read and written when the disk goes; each says what became of it.
const IN_USE: &str = "mount -t ext4 /dev/$D /mnt; seq 100000 > /mnt/big; echo x > /mnt/kept; sync; \
    echo 3 > /proc/sys/vm/drop_caches; \
    exec 5< /mnt/big 6>> /mnt/log 7< /dev/$D 8<> /dev/$D; echo dirty >&6; \
    (while cat /mnt/big > /dev/null; do :; done) 2> /dev/null & R=$!; \
    (while echo more > /mnt/busy && sync /mnt/busy; do :; done) 2> /dev/null & W=$!; \
    (sleep 1000 < /mnt/kept) & S=$!; \
    sleep 0.3; echo 1 > $A/remove; wait $R $W; echo gone; \
    ls -d /dev/$D /sys/block/$D $A 2> /dev/null; grep -c $D /proc/partitions; \
    head -c 10 <&5 2>&1 | grep -o 'Input.*'; cat /mnt/big 2>&1 | grep -o 'Input.*'; \
    (echo more >&6) 2>&1 | grep -o 'Input.*'; (echo new > /mnt/new) 2>&1 | grep -o 'Input.*'; \
    mkdir /mnt/d 2>&1 | grep -o 'Input.*'; rm /mnt/kept 2>&1 | grep -o 'Input.*'; \
    head -c 10 <&7 | wc -c; dd bs=512 count=1 if=/dev/zero 2>&1 >&8 | grep -o 'No space.*'; \
    grep -o ' /mnt ext4 rw\\|shutdown' /proc/mounts; \
    kill $S; wait $S; echo $?; exec 5<&- 6>&- 7<&- 8<&-; umount /mnt; echo $?; ";
const IN_USE_SAYS: &str = "gone\n0\nInput/output error\nInput/output error\nInput/output error\nInput/output error\n\
    Input/output error\nInput/output error\n0\nNo space left on device\n /mnt ext4 rw\nshutdown\n143\n0\n";

/// It comes back with what was there. The file that was rewritten all the time is whole, or just cut.
const BACK: &str = "echo 1 > /sys/bus/pci/rescan; sleep 0.3; mount -t ext4 /dev/$D /mnt; tail -n 1 /mnt/big; \
    [ $D = vda ] && cat /mnt/log; cat /mnt/kept; wc -c < /mnt/busy | grep -c '^[05]$'; echo again > /mnt/again; umount /mnt; \
    kill $U; grep $D /tmp/events; ";
const BACK_SAYS: &str = "x\n1\n";

/// A raw writer loses its disk, many times.
const RAW: &str = "for n in 1 2 3 4 5 6 7 8; do exec 7< /dev/$D 8<> /dev/$D; \
    (while dd if=/dev/zero bs=64k count=8 seek=$n conv=notrunc,fsync >&8; do :; done) 2> /dev/null & P=$!; \
    (while dd if=/dev/zero bs=4k seek=4000 count=50 conv=notrunc,fsync >&8; do :; done) 2> /dev/null & Q=$!; \
    (while [ $(dd bs=64k count=8 < /dev/$D | wc -c) -gt 0 ]; do echo 1 > /proc/sys/vm/drop_caches; done) 2> /dev/null & R=$!; \
    sleep 0.2; echo 1 > $A/remove; wait $P $Q $R; exec 7<&- 8<&-; echo 1 > /sys/bus/pci/rescan; \
    for m in 1 2 3 4 5 6 7 8 9; do [ -b /dev/$D ] || sleep 0.2; done; blockdev --getsz /dev/$D; done; kill $U; ";

const CASES: [Case; 4] = [
    Case {
        name: "a virtio disk in use is removed and comes back",
        bus: Bus::Virtio,
        command: "",
        expected: "",
    },
    Case { name: "an NVMe disk in use is removed and comes back", bus: Bus::Nvme, command: "", expected: "" },
    Case { name: "a virtio disk is removed under load", bus: Bus::Virtio, command: RAW, expected: RAW_SAYS },
    Case { name: "an NVMe disk is removed under load", bus: Bus::Nvme, command: RAW, expected: RAW_SAYS },
];
const RAW_SAYS: &str = "131072\n131072\n131072\n131072\n131072\n131072\n131072\n131072\n";

/// Runs the cases.
pub fn run(tally: &Tally, platform: &Platform) -> Result<()> {
    for case in &CASES {
        let name = format!("disk/{platform}/{}", case.name);
        if !tally.wants(&name) {
            continue;
        }
        let path = paths::logs()?.join(format!("vanish-{}-{platform}.ext4", std::process::id()));
        if platform.smp == 1 && linux::modules().is_ok() {
            try_linux(tally, &name, case, platform, &path);
        }
        let verdict = Verdict::of(tell(case, "keel", platform, &path));
        let _ = fs::remove_file(&path);
        tally.note(&name, verdict);
    }
    Ok(())
}

/// Linux is asked for what is expected of both, up to [`TRIES`] times: now and then the guest ends in the removal of an NVMe
/// controller that is at work, as QEMU 7.2 crashes.
fn try_linux(tally: &Tally, name: &str, case: &Case, platform: &Platform, path: &Path) {
    let name = format!("{name}, on Linux");
    let mut before = None;
    for _ in 0..TRIES {
        let verdict = Verdict::of(tell(case, "linux", platform, path));
        if verdict == Verdict::Passed {
            if let Some(before) = &before {
                tally.note_flaky(&name, before);
            }
            return;
        }
        before = Some(verdict);
    }
    if let Some(verdict) = before {
        tally.note(&name, verdict);
    }
}

/// Runs the case on `kernel`, and compares.
fn tell(case: &Case, kernel: &str, platform: &Platform, path: &Path) -> Result<()> {
    make_empty(path, &["-t", "ext4"])?;
    let mut guest = GuestArgs {
        kernel: kernel.to_owned(),
        debug: platform.debug && kernel == "keel",
        ..platform.guest("tiny", None)
    };
    let disk = match case.bus {
        Bus::Virtio => {
            guest.disks = vec![path.to_owned()];
            "vda"
        }
        Bus::Nvme => {
            guest.nvme_disks = vec![path.to_owned()];
            "nvme0n1"
        }
    };
    // Linux stops an NVMe controller before it writes what is dirty.
    let synced = if matches!(case.bus, Bus::Virtio) { "dirty\n" } else { "" };
    let (command, expected) = match case.command {
        "" => (
            format!("{IN_USE}{BACK}"),
            format!("{IN_USE_SAYS}100000\n{synced}{BACK_SAYS}remove {disk}\nadd {disk}\n"),
        ),
        command => (command.to_owned(), case.expected.to_owned()),
    };
    let said = boot(&guest, &format!("D={disk}; {FIND}{{ {command} }} 2>&1 | grep -v Terminated"))?;
    ensure!(said == expected, "{kernel} said:\n{said}instead of:\n{expected}");
    if case.command.is_empty() {
        check(path).with_context(|| format!("after {kernel}"))?;
    }
    Ok(())
}
