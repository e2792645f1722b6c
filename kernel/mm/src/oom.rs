//! What happens when no frame is left.
//!
//! ```text
//! alloc fails -> reclaim's thread makes pages free -> retry
//!             -> it gave up: OOM killer picks a victim -> wait a little -> retry
//!             -> the caller itself must die, or nobody can: Oom
//! ```

use abi::Errno;
use hal::NoMemory;
use hal::frame::Frame;
use hal::sync::{Once, SpinLock};

use core::sync::atomic::Ordering;

use crate::{counters, reclaim, sysctl};

/// No frame could be had; the caller's page fault or system call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oom;

impl From<Oom> for Errno {
    fn from(_: Oom) -> Self {
        Errno::ENOMEM
    }
}

/// What the OOM killer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another process dies; memory will come back, so try again.
    Retry,
    /// The caller dies, or there is nobody to kill: give up.
    GiveUp,
}

/// The floor that knows processes and what they may do.
pub trait Killer: Send + Sync {
    /// Chooses and kills a process. May sleep, also to give the victim time to die.
    fn out_of_memory(&self) -> Verdict;
    /// Whether the calling thread has `CAP_SYS_ADMIN` over the machine. Takes no lock that this crate holds.
    fn is_administrator(&self) -> bool;
    /// Whether it has `CAP_SYS_RAWIO` over the machine. Takes no lock that this crate holds.
    fn has_raw_io(&self) -> bool;
}

static KILLER: Once<&'static dyn Killer> = Once::new();

/// Something that can give memory back: returns how many pages it freed.
pub type Reclaim = fn(wanted: usize) -> usize;

/// Most reclaim hooks.
const MAX_HOOKS: usize = 8;
static HOOKS: SpinLock<[Option<Reclaim>; MAX_HOOKS]> = SpinLock::new("mm.oom.hooks", [None; MAX_HOOKS]);

/// Attempts that find the freed memory taken by others.
const RETRIES: usize = 256;

/// Registers the OOM killer; only the first call counts.
pub fn register_killer(killer: &'static dyn Killer) {
    KILLER.call_once(|| killer);
}

/// Whether the calling thread has `CAP_SYS_ADMIN`.
pub(crate) fn is_administrator() -> bool {
    KILLER.get().is_some_and(|killer| killer.is_administrator())
}

/// Whether the calling thread may map memory at `addr`: below `vm.mmap_min_addr` only with `CAP_SYS_RAWIO`.
pub(crate) fn may_map_at(addr: u64) -> bool {
    addr >= sysctl::MMAP_MIN_ADDR.load(Ordering::Relaxed)
        || KILLER.get().is_some_and(|killer| killer.has_raw_io())
}

/// Registers a reclaim hook, which may sleep. Hooks beyond the eighth are ignored.
pub fn register_reclaim(hook: Reclaim) {
    if let Some(slot) = HOOKS.lock().iter_mut().find(|s| s.is_none()) {
        *slot = Some(hook);
    }
}

/// Asks all hooks for `wanted` pages; returns how many came.
pub(crate) fn reclaim(wanted: usize) -> usize {
    let hooks = *HOOKS.lock();
    let mut freed = 0;
    for hook in hooks.iter().flatten() {
        if freed < wanted {
            freed += hook(wanted - freed);
        }
    }
    freed
}

/// A frame with arbitrary contents. May sleep and kill a process.
#[inline]
pub fn alloc() -> Result<Frame, Oom> {
    match Frame::alloc_user() {
        Some(frame) => Ok(frame),
        None => alloc_slow(Frame::alloc_user, Frame::alloc),
    }
}

/// A frame of zeroes. May sleep and kill a process.
#[inline]
pub fn alloc_zeroed() -> Result<Frame, Oom> {
    match Frame::alloc_user_zeroed() {
        Some(frame) => Ok(frame),
        None => alloc_slow(Frame::alloc_user_zeroed, Frame::alloc_zeroed),
    }
}

#[cold]
fn alloc_slow(above: fn() -> Option<Frame>, reserved: fn() -> Option<Frame>) -> Result<Frame, Oom> {
    if reclaim::may_use_reserve() {
        return reserved().ok_or(Oom);
    }
    for _ in 0..RETRIES {
        relieve()?;
        if let Some(frame) = above() {
            return Ok(frame);
        }
    }
    Err(Oom)
}

/// Makes memory free after an allocation failed; the caller holds no spinlock and tries again. May sleep.
#[cold]
pub fn relieve() -> Result<(), Oom> {
    if reclaim::is_started() && reclaim::wait_for_memory() {
        return Ok(());
    }
    counters::OOM_KILL.add(1);
    match KILLER.get().map(|k| k.out_of_memory()) {
        Some(Verdict::Retry) => Ok(()),
        Some(Verdict::GiveUp) | None => Err(Oom),
    }
}

/// Repeats `attempt`, which needs a few frames for page tables, until it succeeds: for pages of somebody else that are in
/// no page table just now, and would be lost. Unlike with [`relieve`] alone a thread that is to die goes on, too; what
/// it waits for is the reserve, which others fill again. May sleep.
pub(crate) fn insist(mut attempt: impl FnMut() -> Result<(), NoMemory>) {
    while attempt().is_err() {
        if relieve().is_err() {
            sched::yield_now();
        }
    }
}
