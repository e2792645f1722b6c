//! Advisory file locks: flock(2), POSIX record locks and open file description locks (fcntl(2)). Leases: [`lease`].
//!
//! An inode gets its [`FileLocks`] with the first lock. flock locks and record locks do not see each other, as on
//! Linux. A waiter sleeps until some lock of the file went away, then tries again.
//!
//! POSIX locks are checked for deadlock: `WAITS` holds who waits for whom; a wait that would close a circle is
//! `EDEADLK`. Open file description locks are not checked (fcntl(2)).
//!
//! # Locks
//!
//! `WAITS` is inside `FileLocks::sets`. Both sleep.

pub mod lease;
mod ranges;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::*};

use abi::fs::Flock;
use abi::{Errno, Result};
use sched::{Mutex, WaitQueue};

use crate::file::{File, FileMode};
use crate::pipe::Blocking;
use ranges::RangeSet;
pub use ranges::{LAST, LockKind, LockOwner, RangeLock};

/// Numbers that identify file tables and open file descriptions as lock owners.
static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

/// Who waits for whom among the holders of POSIX locks.
static WAITS: Mutex<Vec<(LockOwner, LockOwner)>> = Mutex::new("vfs.lock.waits", Vec::new());

/// A number that no other owner has.
pub fn new_owner_id() -> u64 {
    NEXT_OWNER.fetch_add(1, Relaxed)
}

/// What flock(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlockOp {
    /// `LOCK_SH` or `LOCK_EX`.
    Lock(LockKind),
    /// `LOCK_UN`.
    Unlock,
}

struct Sets {
    records: RangeSet,
    flocks: RangeSet,
}

/// All locks on one inode.
pub struct FileLocks {
    sets: Mutex<Sets>,
    /// Counts removals: a waiter looks again when it has changed.
    removals: AtomicU64,
    wait: WaitQueue,
    leases: lease::Leases,
}

/// Which of the two kinds of locks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Record,
    Flock,
}

impl Sets {
    fn of(&mut self, class: Class) -> &mut RangeSet {
        match class {
            Class::Record => &mut self.records,
            Class::Flock => &mut self.flocks,
        }
    }
}

impl FileLocks {
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            sets: Mutex::new("vfs.locks", Sets { records: RangeSet::new(), flocks: RangeSet::new() }),
            removals: AtomicU64::new(0),
            wait: WaitQueue::new(),
            leases: lease::Leases::new(),
        }
    }

    /// Takes `lock`; waits for conflicting ones to go, unless told not to.
    ///
    /// `EAGAIN`: conflict and not waiting. `EDEADLK`: see the front page. `ENOLCK`: no memory. `ERESTARTSYS`.
    fn acquire(&self, class: Class, lock: RangeLock, blocking: Blocking) -> Result<()> {
        let deadlocks = class == Class::Record && matches!(lock.owner, LockOwner::Table(_));
        loop {
            let seen = self.removals.load(Acquire);
            {
                let mut sets = self.sets.lock();
                let set = sets.of(class);
                let Some(other) = set.conflict(&lock) else {
                    set.set(lock)?;
                    drop(sets);
                    // A downgrade may let others in.
                    self.removed();
                    return Ok(());
                };
                if blocking == Blocking::No {
                    return Err(Errno::EAGAIN);
                }
                if deadlocks {
                    note_wait(lock.owner, other.owner)?;
                }
            }
            let changed = || (self.removals.load(Acquire) != seen).then_some(());
            let result = self.wait.wait_interruptible(changed);
            if deadlocks {
                forget_wait(lock.owner);
            }
            result.map_err(|_| Errno::ERESTARTSYS)?;
        }
    }

    fn removed(&self) {
        self.removals.fetch_add(1, Release);
        self.wait.wake_all();
    }

    /// flock(2) for the open file description `owner`.
    ///
    /// A conversion gives up the old lock before it waits for the new one, as on Linux.
    pub fn flock(&self, owner: u64, op: FlockOp, blocking: Blocking, pid: i32) -> Result<()> {
        let owner = LockOwner::File(owner);
        let whole = |kind| RangeLock { start: 0, last: LAST, kind, owner, pid };
        match op {
            FlockOp::Unlock => {
                self.clear_owner(Class::Flock, owner);
                Ok(())
            }
            FlockOp::Lock(kind) => {
                let had = self.sets.lock().flocks.iter().any(|lock| lock.owner == owner && lock.kind != kind);
                if had {
                    self.clear_owner(Class::Flock, owner);
                }
                self.acquire(Class::Flock, whole(kind), blocking)
            }
        }
    }

    /// Takes a record lock (`F_SETLK`, `F_SETLKW` and their OFD forms).
    pub fn lock_range(&self, lock: RangeLock, blocking: Blocking) -> Result<()> {
        self.acquire(Class::Record, lock, blocking)
    }

    /// Gives a range up (`F_UNLCK`).
    pub fn unlock_range(&self, range: RangeLock) -> Result<()> {
        if self.sets.lock().records.clear(&range)? {
            self.removed();
        }
        Ok(())
    }

    /// The lock that stands in the way of `wanted`, if any (`F_GETLK`).
    pub fn conflicting(&self, wanted: &RangeLock) -> Option<RangeLock> {
        self.sets.lock().records.conflict(wanted).copied()
    }

    /// A lock of `asked`'s own owner somewhere in its range (`F_OFD_GETLK` with `F_UNLCK`).
    pub fn own(&self, asked: &RangeLock) -> Option<RangeLock> {
        let sets = self.sets.lock();
        let is_it = |held: &&RangeLock| {
            held.owner == asked.owner && held.start <= asked.last && asked.start <= held.last
        };
        sets.records.iter().find(is_it).copied()
    }

    fn clear_owner(&self, class: Class, owner: LockOwner) {
        if self.sets.lock().of(class).clear_owner(owner) {
            self.removed();
        }
    }

    /// A file table closed a descriptor of this file: its POSIX locks end.
    pub fn table_closed(&self, table: u64) {
        self.clear_owner(Class::Record, LockOwner::Table(table));
    }

    /// An open file description of this file ended: its locks end.
    pub fn file_released(&self, file: u64) {
        self.clear_owner(Class::Record, LockOwner::File(file));
        self.clear_owner(Class::Flock, LockOwner::File(file));
        self.leases.released(file);
    }

    /// All locks, record locks first, for /proc/locks.
    pub fn snapshot(&self) -> (Vec<RangeLock>, Vec<RangeLock>) {
        let sets = self.sets.lock();
        (sets.records.iter().copied().collect(), sets.flocks.iter().copied().collect())
    }
}

/// Records that `waiter` waits for `holder`. `EDEADLK` if `holder` already waits for `waiter`, however indirectly.
fn note_wait(waiter: LockOwner, holder: LockOwner) -> Result<()> {
    let mut waits = WAITS.lock();
    let mut at = holder;
    // A chain longer than the number of waits must be a circle among others; that is not ours to report.
    for _ in 0..=waits.len() {
        if at == waiter {
            return Err(Errno::EDEADLK);
        }
        match waits.iter().find(|(from, _)| *from == at) {
            Some((_, to)) => at = *to,
            None => break,
        }
    }
    waits.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
    waits.push((waiter, holder));
    Ok(())
}

fn forget_wait(waiter: LockOwner) {
    let mut waits = WAITS.lock();
    if let Some(at) = waits.iter().position(|(from, _)| *from == waiter) {
        waits.swap_remove(at);
    }
}

/// Which owner an fcntl(2) lock command speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordOwner {
    /// The process: file table id and process id.
    Process {
        /// [`crate::fdtable::FdTable::id`].
        table: u64,
        /// Process id.
        pid: i32,
    },
    /// The open file description (`F_OFD_*`).
    File,
}

const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// fcntl(2) `F_GETLK` and `F_OFD_GETLK`: replaces `flock` by the lock in the way, or by `F_UNLCK`. `F_OFD_GETLK` with
/// `F_UNLCK` asks for a lock of the description itself.
pub fn fcntl_getlk(file: &File, owner: RecordOwner, flock: &mut Flock) -> Result<()> {
    let asks_own = flock.l_type == F_UNLCK && owner == RecordOwner::File;
    let kind = match flock.l_type {
        F_UNLCK if asks_own => LockKind::Read,
        F_RDLCK => LockKind::Read,
        F_WRLCK => LockKind::Write,
        _ => return Err(Errno::EINVAL),
    };
    let wanted = range_of(file, owner, flock, kind)?;
    match file
        .inode()
        .locks_if_any()
        .and_then(|locks| if asks_own { locks.own(&wanted) } else { locks.conflicting(&wanted) })
    {
        None => flock.l_type = F_UNLCK,
        Some(lock) => {
            flock.l_type = if lock.kind == LockKind::Read { F_RDLCK } else { F_WRLCK };
            flock.l_whence = 0;
            flock.l_start = lock.start as i64;
            flock.l_len = if lock.last == LAST { 0 } else { (lock.last - lock.start + 1) as i64 };
            flock.l_pid = lock.pid;
        }
    }
    Ok(())
}

/// fcntl(2) `F_SETLK`, `F_SETLKW`, `F_OFD_SETLK` and `F_OFD_SETLKW`.
///
/// `EBADF`: the description is not open for what the lock protects. Further errors: [`FileLocks::lock_range`].
pub fn fcntl_setlk(file: &File, owner: RecordOwner, flock: &Flock, blocking: Blocking) -> Result<()> {
    let kind = match flock.l_type {
        F_RDLCK | F_UNLCK => LockKind::Read,
        F_WRLCK => LockKind::Write,
        _ => return Err(Errno::EINVAL),
    };
    let range = range_of(file, owner, flock, kind)?;
    let needed = match flock.l_type {
        F_RDLCK => FileMode::READ,
        F_WRLCK => FileMode::WRITE,
        _ => FileMode::empty(),
    };
    if !file.mode().contains(needed) {
        return Err(Errno::EBADF);
    }
    if flock.l_type == F_UNLCK {
        return file.inode().locks_if_any().map_or(Ok(()), |locks| locks.unlock_range(range));
    }
    file.inode().locks().lock_range(range, blocking)
}

/// The bytes that `flock` means. `EINVAL`: before the start of the file. `EOVERFLOW`: beyond what can be.
fn range_of(file: &File, owner: RecordOwner, flock: &Flock, kind: LockKind) -> Result<RangeLock> {
    let base = match flock.l_whence {
        0 => 0,
        1 => file.pos() as i64,
        2 => file.inode().size() as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.l_start).ok_or(Errno::EOVERFLOW)?;
    let (start, last) = match flock.l_len {
        0 => (start, i64::MAX),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    if start < 0 || last < start {
        return Err(Errno::EINVAL);
    }
    let (owner, pid) = match owner {
        RecordOwner::Process { table, pid } => (LockOwner::Table(table), pid),
        // OFD commands want l_pid to be 0 (fcntl(2)).
        RecordOwner::File if flock.l_pid != 0 => return Err(Errno::EINVAL),
        RecordOwner::File => (LockOwner::File(file.id()), -1),
    };
    Ok(RangeLock { start: start as u64, last: last as u64, kind, owner, pid })
}
