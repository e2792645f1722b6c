//! The kernel and what is registered with it.

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::boot::MemoryKind;
use security::Cap;
use vfs::dev::{self, DeviceKind};
use vfs::lock::{LockKind, RangeLock};
use vfs::put;
use vfs::text::Text;

/// /proc/cmdline.
pub(super) fn cmdline(out: &mut Text) -> Result<()> {
    let line = hal::boot::cmdline();
    out.push(line.split(|&byte| byte == 0).next().unwrap_or(&[]));
    out.push(b"\n");
    Ok(())
}

/// /proc/version.
pub(super) fn version(out: &mut Text) -> Result<()> {
    const COMPILER: &str = env!("KEEL_COMPILER");
    put!(out, "Linux version {} (keel@keel) ({COMPILER}) {}\n", ns::uts::RELEASE, ns::uts::VERSION);
    Ok(())
}

/// /proc/filesystems.
pub(super) fn filesystems(out: &mut Text) -> Result<()> {
    for fs_type in vfs::superblock::fs_types() {
        let mark = if fs_type.needs_device() { "" } else { "nodev" };
        put!(out, "{mark}\t{}\n", fs_type.name());
    }
    Ok(())
}

/// /proc/devices.
pub(super) fn devices(out: &mut Text) -> Result<()> {
    for (headline, kind) in
        [("Character devices:", DeviceKind::Char), ("\nBlock devices:", DeviceKind::Block)]
    {
        put!(out, "{headline}\n");
        dev::majors(kind).iter().for_each(|(major, name)| put!(out, "{major:3} {name}\n"));
    }
    Ok(())
}

/// /proc/consoles: the serial port that the command line names.
pub(super) fn consoles(out: &mut Text) -> Result<()> {
    let line = core::str::from_utf8(hal::boot::cmdline()).unwrap_or("");
    for name in line.split_whitespace().filter_map(|word| word.strip_prefix("console=")) {
        let name = name.split(',').next().unwrap_or(name);
        let Some(port) = name.strip_prefix("ttyS").and_then(|n| n.parse::<u32>().ok()) else { continue };
        put!(out, "{name:<21}-W- (EC  p a){:5}:{}\n", 4, port.saturating_add(64));
    }
    Ok(())
}

/// /proc/execdomains.
pub(super) fn execdomains(out: &mut Text) -> Result<()> {
    out.push(b"0-0\tLinux           \t[kernel]\n");
    Ok(())
}

/// /proc/iomem. The addresses are for administrators only.
pub(super) fn iomem(out: &mut Text) -> Result<()> {
    let me = process::try_current().ok_or(Errno::ESRCH)?;
    let may_see = me.with_cred(|cred| cred.capable(Cap::SYS_ADMIN));
    for range in hal::boot::memory_map() {
        let name = match range.kind {
            MemoryKind::Ram => "System RAM",
            MemoryKind::Reserved => "Reserved",
            MemoryKind::AcpiReclaimable => "ACPI Tables",
            MemoryKind::AcpiNvs => "ACPI Non-volatile Storage",
        };
        let (mut start, end) = (range.start.0, range.start.0.saturating_add(range.len));
        let mut line = |from: u64, to: u64, name: &str| {
            let (from, last) = if may_see { (from, to.saturating_sub(1)) } else { (0, 0) };
            put!(out, "{from:08x}-{last:08x} : {name}\n");
        };
        // Nobody is given the first page, whatever it is.
        if start == 0 && range.kind == MemoryKind::Ram {
            start = end.min(hal::PAGE_SIZE as u64);
            line(0, start, "Reserved");
        }
        if start < end {
            line(start, end, name);
        }
    }
    Ok(())
}

/// /proc/tty/drivers.
pub(super) fn tty_drivers(out: &mut Text) -> Result<()> {
    out.push(
        b"/dev/tty             /dev/tty        5       0 system:/dev/tty\n\
          /dev/console         /dev/console    5       1 system:console\n\
          /dev/ptmx            /dev/ptmx       5       2 system\n\
          serial_8250          /dev/ttyS       4 64-95 serial\n\
          pty_slave            /dev/pts      136 0-2047 pty:slave\n",
    );
    Ok(())
}

/// /proc/locks: found through the open files of all processes.
pub(super) fn locks(out: &mut Text) -> Result<()> {
    let mut seen: Vec<u64> = Vec::new();
    let mut number = 0;
    for group in process::pid::processes() {
        let Some(files) = group.live_task().and_then(|task| task.files()) else { continue };
        for fd in files.fds() {
            let Ok(file) = files.get_any(fd) else { continue };
            let inode = file.inode();
            let Some(locks) = inode.locks_if_any() else { continue };
            let address = alloc::sync::Arc::as_ptr(inode) as u64;
            if seen.contains(&address) {
                continue;
            }
            seen.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            seen.push(address);
            let (records, flocks) = locks.snapshot();
            for (class, locks) in [("POSIX", records), ("FLOCK", flocks)] {
                for lock in locks {
                    number += 1;
                    put_lock(out, number, class, &lock, inode);
                }
            }
        }
    }
    Ok(())
}

fn put_lock(out: &mut Text, number: u32, class: &str, lock: &RangeLock, inode: &vfs::Inode) {
    let class = if class == "POSIX" && lock.pid == -1 { "OFDLCK" } else { class };
    let kind = if lock.kind == LockKind::Read { "READ" } else { "WRITE" };
    let dev = inode.sb().dev();
    put!(out, "{number}: {class:<6} ADVISORY  {kind:<5} {} ", lock.pid);
    put!(out, "{:02x}:{:02x}:{} {} ", abi::fs::major(dev), abi::fs::minor(dev), inode.ino(), lock.start);
    if lock.last == vfs::lock::LAST {
        out.push(b"EOF\n");
    } else {
        put!(out, "{}\n", lock.last);
    }
}

/// /proc/kallsyms: the kernel's functions by address. Who may not know where the kernel is sees zeroes (proc_sys_kernel(5),
/// `kptr_restrict` 0): without CAP_SYSLOG, while perf_event_paranoid is above 1.
pub(super) fn kallsyms(out: &mut Text) -> Result<()> {
    let is_privileged =
        || process::try_current().is_some_and(|me| me.with_cred(|cred| cred.capable(Cap::SYSLOG)));
    let shows = perf::settings::paranoid() <= 1 || is_privileged();
    for (addr, name) in (0..).map_while(hal::boot::symbol) {
        put!(out, "{:016x} t ", if shows { addr } else { 0 });
        // Names of generic functions have spaces, which would end them here.
        for (at, part) in name.split(' ').enumerate() {
            out.push(if at == 0 { b"" } else { b"_" });
            out.push(part.as_bytes());
        }
        out.push(b"\n");
    }
    Ok(())
}
