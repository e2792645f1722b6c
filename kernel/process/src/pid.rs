//! Process and thread ids, and the table that finds tasks and process groups by them.
//!
//! The numbers here are those of the first pid namespace; [`crate::pidns`] has those of the others. Functions without
//! `global` in their name take or give numbers as the caller sees them.
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
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::Release};

use abi::{Errno, Result};
use hal::sync::{ArcCell, Once, SpinLock};
use idalloc::Cyclic;

use crate::Task;
use crate::pgrp::ProcessGroup;
use crate::pidns::{Nested, PidNs};

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
    /// The numbers in namespaces below the first; empty for a process of the first.
    nested: ArcCell<Nested>,
}

/// The entries of [`LEAF`] consecutive numbers.
type Leaf = Box<[Entry]>;

static ROOT: [Once<Option<Leaf>>; PID_MAX_LIMIT as usize / LEAF] =
    [const { Once::new() }; PID_MAX_LIMIT as usize / LEAF];
static NUMBERS: SpinLock<Cyclic> = SpinLock::new("process.pid_numbers", Cyclic::new(RESERVED));
static PID_MAX: AtomicU32 = AtomicU32::new(32768);

/// kernel.pid_max of the first namespace: its numbers stay below it.
pub(crate) fn pid_max() -> &'static AtomicU32 {
    &PID_MAX
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
            nested: ArcCell::empty(),
        });
        Some(leaf.into_boxed_slice())
    });
    leaf.as_ref()?.get(number as usize % LEAF)
}

/// The right to use a number, shared among its uses.
#[derive(Debug)]
pub struct PidRef {
    number: u32,
    nested: Option<Arc<Nested>>,
}

impl PidRef {
    /// Takes numbers for a process of `ns`; `wanted` are demands, the innermost first (`set_tid` of clone3(2)).
    ///
    /// `EAGAIN`: none is free. `EEXIST`: a wanted one is in use. `EINVAL`: it is out of range. `ENOMEM`: the namespace's
    /// init has ended.
    pub(crate) fn alloc(ns: &PidNs, wanted: &[u32]) -> Result<Self> {
        let level = ns.level() as usize;
        let nested = if level == 0 { None } else { Some(Arc::new(Nested::take(ns, wanted)?)) };
        let taken = match wanted.get(level) {
            Some(number) => take_exactly(*number),
            None => NUMBERS.lock().alloc(PID_MAX.load(Relaxed)).map_err(|_| Errno::EAGAIN),
        };
        let begun = taken.and_then(|number| {
            begin(number, nested.clone())?;
            Ok(number)
        });
        match begun {
            Ok(number) => Ok(Self { number, nested }),
            Err(error) => {
                if let Some(nested) = &nested {
                    nested.release();
                }
                Err(error)
            }
        }
    }

    /// Number 0, which nobody can have: the session and process group of the first process, until it makes its own.
    pub(crate) fn zero() -> Self {
        Self { number: 0, nested: None }
    }

    /// The number in the first namespace.
    #[inline]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The innermost namespace that it is of.
    pub(crate) fn ns(&self) -> PidNs {
        self.nested.as_ref().map_or(PidNs::INITIAL, |nested| nested.ns())
    }

    /// The number there.
    pub(crate) fn own_number(&self) -> u32 {
        self.nested.as_ref().and_then(|nested| nested.innermost()).unwrap_or(self.number)
    }
}

/// Takes exactly `number`. `EEXIST`: it is in use. `EINVAL`: out of range.
fn take_exactly(number: u32) -> Result<u32> {
    if number == 0 || number >= PID_MAX.load(Relaxed) {
        return Err(Errno::EINVAL);
    }
    match NUMBERS.lock().take(number) {
        Ok(true) => Ok(number),
        Ok(false) => Err(Errno::EEXIST),
        Err(_) => Err(Errno::ENOMEM),
    }
}

/// Counts the first use of `number`, which the allocator just gave.
fn begin(number: u32, nested: Option<Arc<Nested>>) -> Result<()> {
    let Some(entry) = entry_or_make(number) else {
        NUMBERS.lock().free(number);
        return Err(Errno::ENOMEM);
    };
    entry.uses.store(1, Relaxed);
    if let Some(nested) = nested {
        nested.tie(number);
        drop(entry.nested.swap(Some(nested)));
    }
    Ok(())
}

impl Clone for PidRef {
    fn clone(&self) -> Self {
        if let Some(entry) = entry(self.number) {
            entry.uses.fetch_add(1, Relaxed);
        }
        Self { number: self.number, nested: self.nested.clone() }
    }
}

impl Drop for PidRef {
    fn drop(&mut self) {
        let Some(entry) = entry(self.number) else { return };
        // Release: the lock below then orders everything done under this number before its next use.
        if entry.uses.fetch_sub(1, Release) == 1 {
            if let Some(nested) = &self.nested {
                nested.release();
                drop(entry.nested.swap(None));
            }
            NUMBERS.lock().free(self.number);
        }
    }
}

/// Calls `f` with the pid namespace of the caller; the first one in a kernel thread.
fn with_own_ns<R>(f: impl FnOnce(&PidNs) -> R) -> R {
    match crate::task::try_current() {
        Some(task) => f(task.group().pid_ns()),
        None => f(&PidNs::INITIAL),
    }
}

/// The number of the first namespace for one that the caller means.
pub fn to_global(number: u32) -> Option<u32> {
    with_own_ns(|ns| to_global_in(number, ns))
}

/// The number of the first namespace for `number` of `ns`.
pub fn to_global_in(number: u32, ns: &PidNs) -> Option<u32> {
    if ns.is_initial() {
        return Some(number);
    }
    // A number may be given to another process between the two looks: then it is not there any more.
    ns.to_global(number).filter(|global| number_in(*global, ns) == number)
}

/// The number that `global` has in `ns`; 0 where it has none.
pub fn number_in(global: u32, ns: &PidNs) -> u32 {
    if ns.is_initial() {
        return global;
    }
    let guard = hal::rcu::read_lock();
    let nested = entry(global).and_then(|entry| entry.nested.get(&guard));
    nested.and_then(|nested| nested.number_in(ns)).unwrap_or(0)
}

/// The number that the caller sees for `global`; 0 where it sees none.
#[inline]
pub fn visible(global: u32) -> u32 {
    with_own_ns(|ns| number_in(global, ns))
}

/// The numbers that `global` has in `ns` and below, outermost first (`NSpid` of /proc/PID/status).
pub fn numbers_from(global: u32, ns: &PidNs) -> Vec<u32> {
    let mut numbers = Vec::from([number_in(global, ns)]);
    if let Some(nested) = entry(global).and_then(|entry| entry.nested.load()) {
        numbers.extend(nested.numbers_below(ns));
    }
    numbers
}

/// The thread that the caller knows as `tid`. Takes no lock in the first namespace. Finds zombies that nobody has
/// waited for.
pub fn find_task(tid: u32) -> Option<Arc<Task>> {
    find_task_global(to_global(tid)?)
}

/// The process that the caller knows as `pid`.
pub fn find_process(pid: u32) -> Option<Arc<crate::ThreadGroup>> {
    find_process_global(to_global(pid)?)
}

/// The process group that the caller knows as `pgid`.
pub fn find_pgrp(pgid: u32) -> Option<Arc<ProcessGroup>> {
    find_pgrp_global(to_global(pgid)?)
}

/// The thread with id `tid` in the first namespace. Takes no lock. Finds zombies that nobody has waited for.
pub fn find_task_global(tid: u32) -> Option<Arc<Task>> {
    entry(tid)?.task.load()
}

/// The process with id `pid` in the first namespace: the group whose leader has this tid.
pub fn find_process_global(pid: u32) -> Option<Arc<crate::ThreadGroup>> {
    let task = find_task_global(pid)?;
    (task.group().pid() == pid).then(|| task.group().clone())
}

/// The process group with id `pgid` in the first namespace.
pub fn find_pgrp_global(pgid: u32) -> Option<Arc<ProcessGroup>> {
    entry(pgid)?.pgrp.load()
}

/// The lowest number in use from `from` on.
pub(crate) fn next_used(from: u32) -> Option<u32> {
    NUMBERS.lock().next_used(from)
}

/// The process with the lowest number in `ns` from `from` on, with that number; for walks such as /proc and kill(-1).
pub fn next_process_in(ns: &PidNs, from: u32) -> Option<(u32, Arc<crate::ThreadGroup>)> {
    let mut number = from;
    loop {
        let (found, global) = ns.next_used(number)?;
        if let Some(group) = find_process_global(global) {
            return Some((found, group));
        }
        number = found.checked_add(1)?;
    }
}

/// All processes of `ns` by ascending number. Ones that start or end meanwhile may be missed.
pub fn processes_in(ns: &PidNs) -> impl Iterator<Item = (u32, Arc<crate::ThreadGroup>)> {
    let mut from = Some(1);
    core::iter::from_fn(move || {
        let (number, group) = next_process_in(ns, from?)?;
        from = number.checked_add(1);
        Some((number, group))
    })
}

/// All processes of the machine by ascending id. Ones that start or end meanwhile may be missed.
pub fn processes() -> impl Iterator<Item = Arc<crate::ThreadGroup>> {
    processes_in(&PidNs::INITIAL).map(|(_, group)| group)
}

static NEXT_UNIQUE: AtomicU64 = AtomicU64::new(1);

/// The number in `place`, given at the first question.
pub(crate) fn unique_id(place: &AtomicU64) -> u64 {
    let new = NEXT_UNIQUE.fetch_add(1, Relaxed);
    match place.compare_exchange(0, new, Relaxed, Relaxed) {
        Ok(_) => new,
        Err(old) => old,
    }
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
