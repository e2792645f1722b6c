//! Leases: a process is told before another opens or truncates a file (fcntl(2) `F_SETLEASE`).
//!
//! ```text
//!            open for reading             open for writing, truncate(2)
//!   READ     nothing                      to be removed
//!   WRITE    to become READ               to be removed
//! ```
//! Whoever opens signals the holder and waits until the lease is what it may be. When the holder has not answered after
//! [`BREAK_TIME`], the lease becomes that by itself. With `O_NONBLOCK` the open fails at once, and the break goes on.
//!
//! # Locks
//!
//! `Leases::list` is a spinlock: a leaf but for the signal's sender.
//!
//! Source: fcntl(2).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use sched::{Interruptible, WaitError, WaitQueue};
use security::{Cap, Cred};

use super::LockKind;
use crate::file::{File, FileMode};
use crate::inode::Inode;
use crate::pipe::Blocking;
use crate::sigio::{self, Reason};

/// Seconds that a holder has (/proc/sys/fs/lease-break-time).
pub static BREAK_TIME: AtomicU32 = AtomicU32::new(45);
/// Whether there are leases at all (/proc/sys/fs/leases-enable).
pub static ENABLED: AtomicU32 = AtomicU32::new(1);

const NS_PER_SECOND: u64 = 1_000_000_000;

struct Lease {
    /// The description that holds it: [`File::id`].
    holder: u64,
    file: Weak<File>,
    /// The descriptor by which it was taken.
    fd: i32,
    kind: LockKind,
    /// Until when it must be removed, in nanoseconds since boot; `u64::MAX`: for ever.
    removal: Option<u64>,
    /// As `removal`, to become [`LockKind::Read`].
    downgrade: Option<u64>,
}

impl Lease {
    /// What it will be when the breaks are over; `None`: nothing.
    fn target(&self) -> Option<LockKind> {
        match (self.removal, self.downgrade) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(LockKind::Read),
            (None, None) => Some(self.kind),
        }
    }

    fn is_in_the_way(&self, wanted: LockKind) -> bool {
        wanted == LockKind::Write || self.kind == LockKind::Write
    }

    /// Notes that it is to be broken for `wanted`; says whether that is news.
    fn begin_break(&mut self, wanted: LockKind, until: u64) -> bool {
        match wanted {
            LockKind::Write if self.removal.is_none() => self.removal = Some(until),
            LockKind::Read if self.target() == Some(LockKind::Write) => self.downgrade = Some(until),
            _ => return false,
        }
        true
    }

    /// When the first of its breaks is over.
    fn deadline(&self) -> u64 {
        self.removal.unwrap_or(u64::MAX).min(self.downgrade.unwrap_or(u64::MAX))
    }
}

/// The leases on one inode.
pub(super) struct Leases {
    list: SpinLock<Vec<Lease>>,
    /// How many, for those who only look.
    nr: AtomicU32,
    /// Counts changes: a waiter looks again.
    changes: AtomicU32,
    wait: WaitQueue,
}

impl Leases {
    pub(super) const fn new() -> Self {
        Self {
            list: SpinLock::new("vfs.leases", Vec::new()),
            nr: AtomicU32::new(0),
            changes: AtomicU32::new(0),
            wait: WaitQueue::new(),
        }
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Release);
        self.wait.wake_all();
    }

    fn is_empty(&self) -> bool {
        self.nr.load(Acquire) == 0
    }

    /// Removes the lease of `holder`. `EAGAIN`: it has none.
    fn remove(&self, holder: u64) -> Result<()> {
        let removed = {
            let mut list = self.list.lock();
            let at = list.iter().position(|lease| lease.holder == holder).ok_or(Errno::EAGAIN)?;
            let removed = list.swap_remove(at);
            self.nr.store(list.len() as u32, Release);
            removed
        };
        drop(removed);
        self.changed();
        Ok(())
    }

    /// The description `holder` ends.
    pub(super) fn released(&self, holder: u64) {
        if !self.is_empty() {
            let _ = self.remove(holder);
        }
    }

    /// Carries out the breaks whose time is over.
    fn time_out(&self) {
        let now = hal::time::now_ns();
        let mut gone = Vec::new();
        let mut is_changed = false;
        {
            let mut list = self.list.lock();
            for lease in list.iter_mut().filter(|lease| lease.downgrade.is_some_and(|until| until <= now)) {
                (lease.kind, lease.downgrade) = (LockKind::Read, None);
                is_changed = true;
            }
            let is_over = |lease: &Lease| lease.removal.is_some_and(|until| until <= now);
            while let Some(at) = list.iter().position(is_over) {
                let lease = list.swap_remove(at);
                // Without memory it is dropped here: it holds no file, so that takes nothing.
                if gone.try_reserve(1).is_ok() {
                    gone.push(lease);
                }
                is_changed = true;
            }
            self.nr.store(list.len() as u32, Release);
        }
        drop(gone);
        if is_changed {
            self.changed();
        }
    }

    /// Waits until an open for `wanted` meets no lease; see the module's front page.
    fn break_for(&self, wanted: LockKind, blocking: Blocking) -> Result<()> {
        self.time_out();
        let seconds = u64::from(BREAK_TIME.load(Relaxed));
        let until = match seconds {
            0 => u64::MAX,
            _ => hal::time::now_ns().saturating_add(seconds * NS_PER_SECOND),
        };
        let mut told: Vec<(Arc<File>, i32)> = Vec::new();
        {
            let mut list = self.list.lock();
            for lease in list.iter_mut().filter(|lease| lease.is_in_the_way(wanted)) {
                if lease.begin_break(wanted, until)
                    && told.try_reserve(1).is_ok()
                    && let Some(file) = lease.file.upgrade()
                {
                    told.push((file, lease.fd));
                }
            }
        }
        for (file, fd) in told {
            sigio::send(&file, fd, Reason::Message);
        }
        loop {
            let seen = self.changes.load(Acquire);
            let deadline = {
                let list = self.list.lock();
                let blockers = list.iter().filter(|lease| lease.is_in_the_way(wanted));
                match blockers.map(Lease::deadline).min() {
                    None => return Ok(()),
                    Some(deadline) => deadline,
                }
            };
            if blocking == Blocking::No {
                return Err(Errno::EAGAIN);
            }
            let is_changed = || (self.changes.load(Acquire) != seen).then_some(());
            let deadline = Some(deadline).filter(|&deadline| deadline != u64::MAX);
            match self.wait.wait_deadline(is_changed, deadline, Interruptible::Yes) {
                Ok(()) => {}
                Err(WaitError::TimedOut) => self.time_out(),
                Err(_) => return Err(Errno::ERESTARTSYS),
            }
        }
    }
}

/// Breaks the leases on `inode` that an access of `wanted` kind must not meet.
///
/// `EAGAIN`: there are some, and the caller does not wait. `ERESTARTSYS`.
pub fn break_leases(inode: &Inode, wanted: LockKind, blocking: Blocking) -> Result<()> {
    match inode.locks_if_any().map(|locks| &locks.leases) {
        Some(leases) if !leases.is_empty() => leases.break_for(wanted, blocking),
        _ => Ok(()),
    }
}

/// fcntl(2) `F_GETLEASE`: what the description holds, or will when breaks are over.
pub fn get(file: &File) -> Option<LockKind> {
    let leases = &file.inode().locks_if_any()?.leases;
    leases.time_out();
    let list = leases.list.lock();
    list.iter().find(|lease| lease.holder == file.id()).and_then(Lease::target)
}

/// fcntl(2) `F_SETLEASE` by descriptor `fd` on behalf of `cred`; `None` removes.
///
/// `EACCES`: not the owner's file, and no `CAP_LEASE`. `EINVAL`: not a regular file, or no leases at all. `EAGAIN`: others
/// have it open, or a lease of another description is there; or nothing to remove. `ENOMEM`.
pub fn set(file: &Arc<File>, fd: i32, kind: Option<LockKind>, cred: &Cred) -> Result<()> {
    let inode = file.inode();
    if cred.fsuid != file.path().mount.id_view().uid(inode) && !cred.capable(Cap::LEASE) {
        return Err(Errno::EACCES);
    }
    if !inode.is_regular() {
        return Err(Errno::EINVAL);
    }
    let Some(kind) = kind else {
        let leases = inode.locks_if_any().map(|locks| &locks.leases).ok_or(Errno::EAGAIN)?;
        return leases.remove(file.id());
    };
    if ENABLED.load(Relaxed) == 0 {
        return Err(Errno::EINVAL);
    }
    let leases = &inode.locks().leases;
    leases.time_out();
    let mut list = leases.list.lock();
    list.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    // Counted before the look at who has it open: an open that this does not see sees the lease.
    leases.nr.store(list.len() as u32 + 1, SeqCst);
    let result = take(inode, file, fd, kind, &mut list);
    leases.nr.store(list.len() as u32, Release);
    drop(list);
    let is_new = result?;
    leases.changed();
    if is_new {
        sigio::own(file, cred);
    }
    Ok(())
}

/// Adds a lease or changes that of `file`; says whether it is a new one.
fn take(inode: &Inode, file: &Arc<File>, fd: i32, kind: LockKind, list: &mut Vec<Lease>) -> Result<bool> {
    let is_mine = |lease: &Lease| lease.holder == file.id();
    let is_writer = file.mode().contains(FileMode::WRITE);
    let is_conflicting = match kind {
        LockKind::Read => inode.nr_writers() > 0,
        LockKind::Write => {
            inode.nr_writers() != u32::from(is_writer) || inode.nr_readers() != u32::from(!is_writer)
        }
    };
    let mut others = list.iter().filter(|lease| !is_mine(lease));
    if is_conflicting || others.any(|other| kind == LockKind::Write || other.removal.is_some()) {
        return Err(Errno::EAGAIN);
    }
    if let Some(lease) = list.iter_mut().find(|lease| is_mine(lease)) {
        // A break to nothing is not answered by less.
        lease.kind = kind;
        lease.downgrade = if kind == LockKind::Read { None } else { lease.downgrade };
        return Ok(false);
    }
    let (holder, file) = (file.id(), Arc::downgrade(file));
    list.push(Lease { holder, file, fd, kind, removal: None, downgrade: None });
    Ok(true)
}
