//! Process accounting: a record of each process that ends, appended to a file (acct(2), acct(5)).
//!
//! Each pid namespace has its own file, if any; a process is noted in that of its namespace and in those above.
//!
//! Locks: `ACCOUNTS` sleeps and is held while a record is written, so that records come whole; nothing of this crate is
//! locked meanwhile.
//!
//! LINUX: the file keeps its mount busy, where there umount(2) ends the accounting; and the flag for a use of root's
//! rights is never set.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::uio::Src;
use sched::Mutex;
use security::IdKind;
use vfs::File;

use crate::pid::number_in;
use crate::signal::CORE_DUMPED;
use crate::task::{CurrentTask, TaskFlags};
use crate::usage::ticks;
use crate::{PidNs, usage};

/// Accounting of one namespace.
struct Account {
    ns: PidNs,
    file: Arc<File>,
    /// Whether the file system had room when it was last looked at.
    has_room: bool,
    /// When to look again.
    look_at_ns: u64,
}

static ACCOUNTS: Mutex<Vec<Account>> = Mutex::new("process.accounts", Vec::new());
/// How many there are: the end of a process looks at this alone as a rule.
static NR_ACCOUNTS: AtomicU32 = AtomicU32::new(0);

/// Accounting goes on from so many per cent of free blocks, pauses at so many, and looks every so many seconds (the
/// defaults of kernel.acct, which cannot be changed here).
const ROOM: [u64; 3] = [4, 2, 30];

/// Appends records of the processes of the caller's namespace to `file`, instead of where they went before.
pub fn start(file: Arc<File>) -> Result<()> {
    let ns = crate::current().group().pid_ns().clone();
    let new = Account { ns, file, has_room: true, look_at_ns: 0 };
    let mut accounts = ACCOUNTS.lock();
    let old = match accounts.iter_mut().find(|account| account.ns == new.ns) {
        Some(account) => Some(core::mem::replace(account, new)),
        None => {
            accounts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            accounts.push(new);
            NR_ACCOUNTS.fetch_add(1, Relaxed);
            None
        }
    };
    drop(accounts);
    drop(old);
    Ok(())
}

/// Ends the accounting of `ns`.
pub fn stop(ns: &PidNs) {
    if NR_ACCOUNTS.load(Relaxed) == 0 {
        return;
    }
    let mut accounts = ACCOUNTS.lock();
    let place = accounts.iter().position(|account| account.ns == *ns);
    let old = place.map(|place| accounts.swap_remove(place));
    drop(accounts);
    if old.is_some() {
        NR_ACCOUNTS.fetch_sub(1, Relaxed);
    }
}

/// A number as `comp_t`: 13 bits, and above them how often it was divided by 8.
fn compact(value: u64) -> u16 {
    const MOST: u64 = (1 << 13) - 1;
    let (mut value, mut exponent, mut rounds_up) = (value, 0u64, false);
    while value > MOST {
        rounds_up = value & 4 != 0;
        value >>= 3;
        exponent += 1;
    }
    if rounds_up {
        value += 1;
        if value > MOST {
            value >>= 3;
            exponent += 1;
        }
    }
    if exponent > 7 { u16::MAX } else { (exponent << 13 | value) as u16 }
}

/// A number as an IEEE 754 float of 32 bits, cut instead of rounded.
fn float(value: u64) -> u32 {
    let Some(highest) = value.checked_ilog2() else { return 0 };
    let fraction = (value << (63 - highest) << 1 >> 41) as u32;
    (127 + highest) << 23 | fraction
}

/// What is known before the process gives up its memory.
pub(crate) struct Ending {
    /// Size of its address space in KiB.
    size_kb: u64,
}

/// Looks at the process of `task`, whose last thread that is, if somebody keeps accounts.
pub(crate) fn look(task: &CurrentTask) -> Option<Ending> {
    if NR_ACCOUNTS.load(Relaxed) == 0 {
        return None;
    }
    let pages = task.mm().map_or(0, |mm| mm.sizes_now()[0]);
    Some(Ending { size_kb: pages * (PAGE_SIZE as u64 / 1024) })
}

/// `struct acct_v3`, 64 bytes.
type Record = [u8; 64];

/// Flags of a record: no program executed since fork, a core dump was made, ended by a signal.
mod flag {
    pub(super) const FORKED: u8 = 1;
    pub(super) const CORE: u8 = 8;
    pub(super) const SIGNAL: u8 = 16;
}

fn flags_of(task: &CurrentTask, status: i32) -> u8 {
    let mut flags = 0;
    if task.has(TaskFlags::FORKNOEXEC) {
        flags |= flag::FORKED;
    }
    if status & CORE_DUMPED != 0 {
        flags |= flag::CORE;
    }
    if status & 0x7f != 0 {
        flags |= flag::SIGNAL;
    }
    flags
}

/// The record of the process of `task`, with ids as `account` shows them.
fn record(task: &CurrentTask, ending: &Ending, account: &Account) -> Record {
    const VERSION: u8 = 3;
    let group = task.group();
    let status = group.exit_status();
    let mut used = group.usage.lock().dead;
    used.add(&task.usage());
    let now = hal::time::now_ns();
    let started_s = hal::time::wall_base_ns().saturating_add_unsigned(group.start_ns()) / 1_000_000_000;
    let (cred, reader) = (task.cred(), &account.file.cred().user_ns);
    let tty = group.pgrp().and_then(|pgrp| pgrp.session().tty());
    let tty = tty.map_or(0, |tty| abi::fs::major(tty.device()) << 8 | abi::fs::minor(tty.device()) & 0xff);
    let words = [
        status as u32,
        reader.show(IdKind::User, cred.uid),
        reader.show(IdKind::Group, cred.gid),
        number_in(group.pid(), &account.ns),
        number_in(group.ppid(), &account.ns),
        started_s as u32,
        float(usage::ticks(now.saturating_sub(group.start_ns()))),
    ];
    let halves = [
        compact(ticks(used.utime_ns)),
        compact(ticks(used.stime_ns)),
        compact(ending.size_kb),
        0,
        0,
        compact(used.min_flt),
        compact(used.maj_flt),
        0,
    ];
    let head = [flags_of(task, status), VERSION].into_iter().chain((tty as u16).to_ne_bytes());
    let bytes = head
        .chain(words.into_iter().flat_map(u32::to_ne_bytes))
        .chain(halves.into_iter().flat_map(u16::to_ne_bytes))
        .chain(task.comm());
    let mut record = [0; 64];
    record.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    record
}

impl Account {
    /// Whether there is room for records; looks at the file system now and then.
    fn check_room(&mut self) -> bool {
        let now = hal::time::now_ns();
        if now < self.look_at_ns {
            return self.has_room;
        }
        self.look_at_ns = now.saturating_add(ROOM[2] * 1_000_000_000);
        if let Ok(stat) = self.file.inode().sb().statfs() {
            let percent = |share: u64| stat.f_blocks / 100 * share;
            self.has_room = if self.has_room {
                stat.f_blocks == 0 || stat.f_bavail > percent(ROOM[1])
            } else {
                stat.f_bavail >= percent(ROOM[0])
            };
        }
        self.has_room
    }
}

/// Notes the end of the process of `task`, the caller and last thread. May sleep.
pub(crate) fn note(task: &CurrentTask, ending: &Ending) {
    let mut accounts = ACCOUNTS.lock();
    let own = task.group().pid_ns();
    for account in accounts.iter_mut().filter(|account| account.ns.contains(own)) {
        if account.check_room() {
            let record = record(task, ending, account);
            // Nobody could be told of an error.
            let _ = vfs::rw::write(&account.file, &mut Src::kernel(&record), u64::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compacted_as_on_linux() {
        assert_eq!([0, 1, 8191].map(compact), [0, 1, 8191]);
        assert_eq!(compact(8192), 1 << 13 | 1024);
        assert_eq!(compact(8196), 1 << 13 | 1025, "rounded up");
        assert_eq!(compact(u64::MAX), u16::MAX);
    }

    #[test]
    fn floats_are_those_of_the_machine() {
        for value in [0, 1, 2, 3, 100, 65535, 1 << 23, 1 << 40, (1 << 24) - 1] {
            assert_eq!(float(value), (value as f32).to_bits(), "{value}");
        }
    }
}
