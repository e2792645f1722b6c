//! Where the parts of a program lie: fixed limits, randomisation, and the addresses exec notes.
//!
//! ```text
//! 0     mmap_min_addr     program, brk ->      <- mmap_base    stack <-      USER_END
//! ```
//!
//! Sources: proc_pid_stat(5), prctl(2) PR_SET_MM; ranges as on Linux x86-64 (arch/x86/mm/mmap.c, fs/binfmt_elf.c).

use core::sync::atomic::Ordering;

use hal::{PAGE_SHIFT, PAGE_SIZE, USER_END};

use crate::sysctl;
use crate::vma::STACK_GUARD_GAP;

/// Pages over which mmap bases and PIE programs are spread: 2^28 (`vm.mmap_rnd_bits`).
const MMAP_RND_PAGES: u64 = 1 << 28;
/// Pages over which stack tops are spread.
const STACK_RND_PAGES: u64 = 1 << 22;
/// Bytes over which the heap's begin is spread.
const BRK_RND: u64 = 1 << 30;
/// Room kept for the stack whatever its limit.
const MIN_STACK_GAP: u64 = 128 << 20;
/// Base of position-independent programs: two thirds of the address space.
pub const PIE_BASE: u64 = (USER_END / 3 * 2) & !(PAGE_SIZE as u64 - 1);
/// Range of `MAP_32BIT`.
pub const MAP_32BIT_RANGE: core::ops::Range<u64> = 0x4000_0000..0x8000_0000;

/// Addresses of an address space that exec decides. /proc/PID/stat and prctl(2) show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of proc_pid_stat(5)")]
pub struct Layout {
    /// Searches for free addresses go down from here.
    pub mmap_base: u64,
    /// Highest address of the stack.
    pub stack_top: u64,
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    /// Present end of the heap.
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
}

/// Random numbers of one exec and the addresses that follow from them.
#[derive(Clone, Copy, Debug)]
pub struct Randomness {
    /// Bytes added to [`PIE_BASE`] for a position-independent program.
    pub pie: u64,
    /// Bytes added to the end of the program's data to begin the heap.
    pub brk: u64,
    mmap: u64,
    stack: u64,
}

impl Randomness {
    /// From four random numbers. Obeys `kernel.randomize_va_space`; `personality` off passes `false`.
    pub fn new(random: [u64; 4], wanted: bool) -> Self {
        let level = if wanted { sysctl::RANDOMIZE_VA_SPACE.load(Ordering::Relaxed) } else { 0 };
        let [pie, brk, mmap, stack] = random;
        let on = |n: u64, min_level: u32| if level >= min_level { n } else { 0 };
        Self {
            pie: on(pie % MMAP_RND_PAGES, 1) << PAGE_SHIFT,
            brk: on(brk % BRK_RND, 2) & !(PAGE_SIZE as u64 - 1),
            mmap: on(mmap % MMAP_RND_PAGES, 1) << PAGE_SHIFT,
            stack: on(stack % STACK_RND_PAGES, 1) << PAGE_SHIFT,
        }
    }

    /// The layout of a fresh address space whose stack may grow to `stack_limit` bytes.
    pub fn layout(&self, stack_limit: u64) -> Layout {
        let max_random = STACK_RND_PAGES << PAGE_SHIFT;
        let gap =
            stack_limit.saturating_add(STACK_GUARD_GAP + max_random).clamp(MIN_STACK_GAP, USER_END / 6 * 5);
        let mmap_base = (USER_END - gap).saturating_sub(self.mmap) & !(PAGE_SIZE as u64 - 1);
        Layout { mmap_base, stack_top: USER_END - self.stack, ..Layout::default() }
    }
}
