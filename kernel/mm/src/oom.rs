//! What happens when no frame is left.
//!
//! ```text
//! alloc fails -> reclaim hooks (drop what can be made again) -> retry
//!             -> OOM killer picks a victim -> wait a little -> retry
//!             -> the caller itself must die, or nobody can: Oom
//! ```

use core::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;
use hal::frame::Frame;
use hal::sync::{Once, SpinLock};

use crate::counters;

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

/// The floor that knows processes.
pub trait Killer: Send + Sync {
    /// Chooses and kills a process. May sleep, also to give the victim time to die.
    fn out_of_memory(&self) -> Verdict;
}

static KILLER: Once<&'static dyn Killer> = Once::new();

/// Something that can give memory back: returns how many pages it freed.
pub type Reclaim = fn(wanted: usize) -> usize;

/// Most reclaim hooks.
const MAX_HOOKS: usize = 8;
static HOOKS: SpinLock<[Option<Reclaim>; MAX_HOOKS]> = SpinLock::new("mm.oom.hooks", [None; MAX_HOOKS]);

/// Frames that only allocations on behalf of the kernel may take, so that an OOM kill can proceed.
const RETRIES: usize = 16;

static FAILURES: AtomicUsize = AtomicUsize::new(0);

/// Registers the OOM killer; only the first call counts.
pub fn register_killer(killer: &'static dyn Killer) {
    KILLER.call_once(|| killer);
}

/// Registers a reclaim hook, which may sleep. Hooks beyond the eighth are ignored.
pub fn register_reclaim(hook: Reclaim) {
    if let Some(slot) = HOOKS.lock().iter_mut().find(|s| s.is_none()) {
        *slot = Some(hook);
    }
}

/// Asks all hooks for `wanted` pages; returns how many came.
pub fn reclaim(wanted: usize) -> usize {
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
    match Frame::alloc() {
        Some(frame) => Ok(frame),
        None => alloc_slow(Frame::alloc),
    }
}

/// A frame of zeroes. May sleep and kill a process.
#[inline]
pub fn alloc_zeroed() -> Result<Frame, Oom> {
    match Frame::alloc_zeroed() {
        Some(frame) => Ok(frame),
        None => alloc_slow(Frame::alloc_zeroed),
    }
}

#[cold]
fn alloc_slow(try_alloc: fn() -> Option<Frame>) -> Result<Frame, Oom> {
    for _ in 0..RETRIES {
        relieve()?;
        if let Some(frame) = try_alloc() {
            return Ok(frame);
        }
    }
    Err(Oom)
}

/// Makes memory free after an allocation failed; the caller holds no spinlock and tries again. May sleep.
#[cold]
pub fn relieve() -> Result<(), Oom> {
    FAILURES.fetch_add(1, Ordering::Relaxed);
    if reclaim(32) > 0 {
        return Ok(());
    }
    counters::OOM_KILL.add(1);
    match KILLER.get().map(|k| k.out_of_memory()) {
        Some(Verdict::Retry) => Ok(()),
        Some(Verdict::GiveUp) | None => Err(Oom),
    }
}
