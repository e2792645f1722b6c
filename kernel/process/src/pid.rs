//! Process and thread ids, and the table that finds tasks and process groups by them.
//!
//! A number stays taken while anything uses it: a task as its tid, a process group, a session. Each use holds a
//! [`PidRef`]; the last one to go gives the number back.
//!
//! ```text
//! ROOT [ . . ]        4096 places, one per 1024 numbers, filled on first use and never freed
//!        |
//!        +-> leaf [ Entry ... ]   task, process group, count of uses
//! ```
//!
//! # Locking
//!
//! Lookups take no lock: the leaf is found through `Once`, the task through an RCU cell. `NUMBERS` is a leaf lock held
//! while a number is handed out or given back. Who publishes or removes a task holds the family lock or owns the
//! number alone (a new task).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::Release};

use abi::{Errno, Result};
use hal::sync::{ArcCell, Once, SpinLock};
use idalloc::Cyclic;

use crate::Task;
use crate::pgrp::ProcessGroup;

/// Highest value of kernel.pid_max (proc(5)).
pub const PID_MAX_LIMIT: u32 = 4 << 20;
/// Lowest value that kernel.pid_max accepts.
pub const PID_MAX_MIN: u32 = 301;
/// Numbers below this are not used again after the first round.
const RESERVED: u32 = 300;
/// Numbers per leaf.
const LEAF: usize = 1024;

/// What is known under one number.
struct Entry {
    task: ArcCell<Task>,
    pgrp: ArcCell<ProcessGroup>,
    uses: AtomicU32,
}

/// The entries of [`LEAF`] consecutive numbers.
type Leaf = Box<[Entry]>;

static ROOT: [Once<Option<Leaf>>; PID_MAX_LIMIT as usize / LEAF] =
    [const { Once::new() }; PID_MAX_LIMIT as usize / LEAF];
static NUMBERS: SpinLock<Cyclic> = SpinLock::new("process.pid_numbers", Cyclic::new(RESERVED));
static PID_MAX: AtomicU32 = AtomicU32::new(32768);

/// kernel.pid_max: numbers stay below it.
pub fn pid_max() -> u32 {
    PID_MAX.load(Relaxed)
}

/// Sets kernel.pid_max. `EINVAL` outside [`PID_MAX_MIN`] to [`PID_MAX_LIMIT`].
pub fn set_pid_max(max: u32) -> Result<()> {
    if !(PID_MAX_MIN..=PID_MAX_LIMIT).contains(&max) {
        return Err(Errno::EINVAL);
    }
    PID_MAX.store(max, Relaxed);
    Ok(())
}

/// The number handed out last, for /proc/loadavg.
pub fn last_pid() -> u32 {
    NUMBERS.lock().last()
}

/// The entry of `number`, if its leaf exists.
fn entry(number: u32) -> Option<&'static Entry> {
    let leaf = ROOT.get(number as usize / LEAF)?.get()?.as_ref()?;
    leaf.get(number as usize % LEAF)
}

/// The entry of `number`; makes its leaf. `None`: no memory (kept in mind, as numbers of that leaf stay unusable).
fn entry_or_make(number: u32) -> Option<&'static Entry> {
    let leaf = ROOT.get(number as usize / LEAF)?.call_once(|| {
        let mut leaf = Vec::new();
        leaf.try_reserve_exact(LEAF).ok()?;
        leaf.resize_with(LEAF, || Entry {
            task: ArcCell::empty(),
            pgrp: ArcCell::empty(),
            uses: AtomicU32::new(0),
        });
        Some(leaf.into_boxed_slice())
    });
    leaf.as_ref()?.get(number as usize % LEAF)
}

/// The right to use a number, shared among its uses.
#[derive(Debug)]
pub struct PidRef(u32);

impl PidRef {
    /// Takes a fresh number. `EAGAIN`: none is free.
    pub(crate) fn alloc() -> Result<Self> {
        let number = NUMBERS.lock().alloc(pid_max()).map_err(|_| Errno::EAGAIN)?;
        Self::begin(number)
    }

    /// Number 0, which nobody can have: the session and process group of the first process, until it makes its own.
    pub(crate) fn zero() -> Self {
        Self(0)
    }

    /// Takes exactly `number` (`set_tid` of clone3(2)). `EEXIST`: it is in use. `EINVAL`: out of range.
    pub(crate) fn take(number: u32) -> Result<Self> {
        if number == 0 || number >= pid_max() {
            return Err(Errno::EINVAL);
        }
        match NUMBERS.lock().take(number) {
            Ok(true) => {}
            Ok(false) => return Err(Errno::EEXIST),
            Err(_) => return Err(Errno::ENOMEM),
        }
        Self::begin(number)
    }

    /// Counts the first use of `number`, which the allocator just gave.
    fn begin(number: u32) -> Result<Self> {
        let Some(entry) = entry_or_make(number) else {
            NUMBERS.lock().free(number);
            return Err(Errno::ENOMEM);
        };
        entry.uses.store(1, Relaxed);
        Ok(Self(number))
    }

    /// The number.
    #[inline]
    pub fn number(&self) -> u32 {
        self.0
    }
}

impl Clone for PidRef {
    fn clone(&self) -> Self {
        if let Some(entry) = entry(self.0) {
            entry.uses.fetch_add(1, Relaxed);
        }
        Self(self.0)
    }
}

impl Drop for PidRef {
    fn drop(&mut self) {
        // Release: the lock below then orders everything done under this number before its next use.
        if entry(self.0).is_some_and(|entry| entry.uses.fetch_sub(1, Release) == 1) {
            NUMBERS.lock().free(self.0);
        }
    }
}

/// The thread with id `tid`. Takes no lock. Finds zombies that nobody has waited for.
pub fn find_task(tid: u32) -> Option<Arc<Task>> {
    entry(tid)?.task.load()
}

/// The process with id `pid`: the group whose leader has this tid.
pub fn find_process(pid: u32) -> Option<Arc<crate::ThreadGroup>> {
    let task = find_task(pid)?;
    (task.group().pid() == pid).then(|| task.group().clone())
}

/// The process group with id `pgid`.
pub fn find_pgrp(pgid: u32) -> Option<Arc<ProcessGroup>> {
    entry(pgid)?.pgrp.load()
}

/// The process with the lowest id from `from` on, for walks such as /proc and kill(-1).
pub fn next_process(from: u32) -> Option<Arc<crate::ThreadGroup>> {
    let mut number = from;
    loop {
        // Bound before the loop body: the lock must not be held while the table is searched.
        let found = NUMBERS.lock().next_used(number)?;
        if let Some(group) = find_process(found) {
            return Some(group);
        }
        number = found.checked_add(1)?;
    }
}

/// All processes by ascending id. Ones that start or end meanwhile may be missed.
pub fn processes() -> impl Iterator<Item = Arc<crate::ThreadGroup>> {
    let mut from = Some(1);
    core::iter::from_fn(move || {
        let group = next_process(from?)?;
        from = group.pid().checked_add(1);
        Some(group)
    })
}

/// Publishes `task` under `tid`, or removes what is there.
pub(crate) fn set_task(tid: u32, task: Option<Arc<Task>>) {
    if let Some(entry) = entry(tid) {
        drop(entry.task.swap(task));
    }
}

/// Publishes `pgrp` under `pgid`, or removes what is there.
pub(crate) fn set_pgrp(pgid: u32, pgrp: Option<Arc<ProcessGroup>>) {
    if let Some(entry) = entry(pgid) {
        drop(entry.pgrp.swap(pgrp));
    }
}
