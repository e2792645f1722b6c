//! Tunables of /proc/sys/vm and /proc/sys/kernel that this crate obeys. Each is read once per check.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A tunable number.
pub type Tunable = AtomicU64;

/// `vm.max_map_count`: most VMAs of a process.
pub static MAX_MAP_COUNT: Tunable = Tunable::new(65530);
/// `vm.mmap_min_addr`: lowest address that may be mapped without `CAP_SYS_RAWIO`.
pub static MMAP_MIN_ADDR: Tunable = Tunable::new(65536);
/// `vm.overcommit_memory`: 0 heuristic, 1 always, 2 never.
pub static OVERCOMMIT_MEMORY: AtomicU32 = AtomicU32::new(0);
/// `vm.overcommit_ratio`: percent of memory in the commit limit.
pub static OVERCOMMIT_RATIO: Tunable = Tunable::new(50);
/// `vm.overcommit_kbytes`: the commit limit when not 0.
pub static OVERCOMMIT_KBYTES: Tunable = Tunable::new(0);
/// `kernel.randomize_va_space`: 0 none, 1 without the heap, 2 all.
pub static RANDOMIZE_VA_SPACE: AtomicU32 = AtomicU32::new(2);
/// `vm.oom_kill_allocating_task`: the OOM killer takes whoever asks.
pub static OOM_KILL_ALLOCATING_TASK: AtomicU32 = AtomicU32::new(0);
/// `vm.oom_dump_tasks`: the OOM killer's report lists all processes.
pub static OOM_DUMP_TASKS: AtomicU32 = AtomicU32::new(1);

/// `vm.panic_on_oom`: without memory the machine stops (1, 2) instead of killing a process.
pub static PANIC_ON_OOM: AtomicU32 = AtomicU32::new(0);
/// `vm.admin_reserve_kbytes`, or [`BY_MEMORY`].
pub static ADMIN_RESERVE_KBYTES: Tunable = Tunable::new(BY_MEMORY);
/// `vm.user_reserve_kbytes`, or [`BY_MEMORY`].
pub static USER_RESERVE_KBYTES: Tunable = Tunable::new(BY_MEMORY);

/// Nobody has set it: 3 % of memory, up to a bound.
pub const BY_MEMORY: u64 = u64::MAX;

/// A reserve in KiB; `most` bounds what it is by itself.
pub fn reserve_kbytes(reserve: &Tunable, most: u64) -> u64 {
    match reserve.load(Ordering::Relaxed) {
        BY_MEMORY => (hal::frame::stats().total as u64 * 4 / 32).min(most),
        set => set,
    }
}

/// The present limit on the number of VMAs.
pub fn max_map_count() -> usize {
    usize::try_from(MAX_MAP_COUNT.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}
