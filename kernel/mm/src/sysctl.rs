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

/// The present limit on the number of VMAs.
pub fn max_map_count() -> usize {
    usize::try_from(MAX_MAP_COUNT.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
}
