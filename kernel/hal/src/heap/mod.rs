//! The kernel's heap: the global allocator of the crates above.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::Once;

static RECLAIM: Once<fn(usize) -> bool> = Once::new();
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Numbers about the heap, for /proc/meminfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Bytes of frames that the heap holds.
    pub held: usize,
    /// Bytes that are allocated.
    pub used: usize,
    /// Allocations that failed.
    pub failed: usize,
}

/// Registers what to do when memory runs short: free about `pages` pages, return whether any were freed.
/// Called only where sleeping is allowed. Once only.
pub fn set_reclaim(reclaim: fn(usize) -> bool) {
    RECLAIM.call_once(|| reclaim);
}

/// Runs the reclaim hook where that is allowed; `true` when a retry may succeed.
pub fn try_reclaim(pages: usize) -> bool {
    if crate::preempt::is_atomic() {
        return false;
    }
    RECLAIM.get().is_some_and(|reclaim| reclaim(pages))
}

/// Numbers about the heap.
pub fn stats() -> HeapStats {
    HeapStats { held: 0, used: 0, failed: FAILED.load(Ordering::Relaxed) }
}
