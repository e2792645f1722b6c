//! Machine-wide counters behind /proc/meminfo and /proc/vmstat.

use core::sync::atomic::{AtomicI64, Ordering};

/// A number that goes up and down; readers may see it a moment late.
#[derive(Debug, Default)]
pub struct Counter(AtomicI64);

impl Counter {
    /// A counter at 0.
    pub const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    /// Adds `n`, which may be negative.
    #[inline]
    pub fn add(&self, n: i64) {
        if n != 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The value; a sum that is negative for a moment reads as 0.
    pub fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

/// Pages in all page caches, shared memory included.
pub static CACHED: Counter = Counter::new();
/// Pages of tmpfs and shared memory.
pub static SHMEM: Counter = Counter::new();
/// Cached pages that differ from the disk.
pub static DIRTY: Counter = Counter::new();
/// Pages promised to processes (`Committed_AS`).
pub static COMMITTED: Counter = Counter::new();
/// Page faults handled.
pub static PGFAULT: Counter = Counter::new();
/// Page faults that waited for a device.
pub static PGMAJFAULT: Counter = Counter::new();
/// Times the OOM killer was asked.
pub static OOM_KILL: Counter = Counter::new();

/// What /proc/meminfo tells of this crate, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// `MemTotal`.
    pub total: u64,
    /// `MemFree`.
    pub free: u64,
    /// `MemAvailable`: free memory and what could be dropped at once.
    pub available: u64,
    /// `Cached`.
    pub cached: u64,
    /// `Shmem`.
    pub shmem: u64,
    /// `Dirty`.
    pub dirty: u64,
    /// `AnonPages`: the sum over all address spaces.
    pub anon: u64,
    /// `AnonHugePages`: those of `anon` that are mapped in huge pages.
    pub anon_huge: u64,
    /// `ShmemHugePages`.
    pub shmem_huge: u64,
    /// `ShmemPmdMapped`: those of `mapped` that are mapped in huge pages of shared memory.
    pub shmem_huge_mapped: u64,
    /// `Mapped`: the sum over all address spaces.
    pub mapped: u64,
    /// `Mlocked`.
    pub mlocked: u64,
    /// `Committed_AS`.
    pub committed: u64,
    /// `CommitLimit`.
    pub commit_limit: u64,
    /// Bytes of the kernel's heap (`Slab`).
    pub heap_bytes: u64,
}

/// Collects the numbers of [`MemInfo`]. May sleep. Cost: one step per address space.
pub fn collect_meminfo() -> MemInfo {
    let frames = hal::frame::stats();
    let sums = crate::registry::sum();
    let (total, free) = (frames.total as u64, frames.free as u64);
    let (cached, shmem) = (CACHED.get(), SHMEM.get());
    MemInfo {
        total,
        free,
        available: free + cached.saturating_sub(shmem),
        cached,
        shmem,
        dirty: DIRTY.get(),
        anon: sums.anon,
        anon_huge: sums.anon_huge,
        shmem_huge: crate::mapping::whole::NR_WHOLE.get() << hal::frame::HUGE_ORDER,
        shmem_huge_mapped: sums.shmem_huge,
        mapped: sums.mapped,
        mlocked: sums.locked,
        committed: COMMITTED.get(),
        commit_limit: crate::commit::limit(),
        heap_bytes: hal::heap::stats().held as u64,
    }
}
