//! A ring of io_uring(7) in the first pages of the arena, where every stray write hits it as well.

use libc::*;
use linux_raw_sys::io_uring::*;
use user_sys::sys;

use crate::values::Values;

/// Where its descriptor is, out of the way of the others.
pub const DESCRIPTOR: i32 = 62;

/// Requests that it holds.
const ENTRIES: usize = 16;
const PAGE: usize = 4096;
/// What some children choose: the array, submission to the end, one submitter, late work.
const FLAGS: [u32; 6] = [
    0,
    IORING_SETUP_NO_SQARRAY,
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_NO_SQARRAY,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_NO_SQARRAY,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
];

/// Makes the ring. Without one the calls hit whatever has its number.
pub fn make(seed: u64, arena: usize) {
    let mut params = [0u32; 30];
    params[2] = FLAGS[seed as usize % FLAGS.len()];
    let Ok(fd) = sys!(SYS_io_uring_setup, ENTRIES, &mut params) else { return };
    let _ = sys!(SYS_dup2, fd, DESCRIPTOR);
    let _ = sys!(SYS_close, fd);
    let prot = PROT_READ | PROT_WRITE;
    for (page, offset) in [(0, 0), (1, IORING_OFF_SQES)] {
        let _ = sys!(SYS_mmap, arena + page * PAGE, PAGE, prot, MAP_SHARED | MAP_FIXED, DESCRIPTOR, offset);
    }
}

/// Writes some requests: a kind that there is, with arguments of any kind, and the tail behind them.
pub fn fill(values: &mut Values, arena: usize) {
    // Other calls may have unmapped the pages: written by the kernel, none is missed.
    let own = std::process::id();
    let put = |at: usize, words: &[u64]| {
        let len = words.len() * 8;
        let from = [words.as_ptr() as usize, len];
        sys!(SYS_process_vm_writev, own, &from, 1, &[at, len], 1, 0).is_ok()
    };
    for place in 0..ENTRIES {
        if values.rng.one_in(2) {
            continue;
        }
        let flags = if values.rng.one_in(2) { 0 } else { values.rng.below(256) as u64 };
        let fd = values.argument(b'f') as u64 & 0xffff_ffff;
        let head = values.rng.below(64) as u64 | flags << 8 | fd << 32;
        let small = |values: &mut Values| values.rng.below(64) as u64;
        let (off, addr) = (values.word(), values.address() as u64);
        let len = small(values) | values.argument(b'g') as u64 & 0xffff_ffff << 32;
        let rest = if values.rng.one_in(4) { values.word() } else { 0 };
        let words = [head, if values.rng.one_in(2) { 0 } else { off }, addr, len, small(values), rest, 0, 0];
        if !put(arena + PAGE + 64 * place, &words) {
            return;
        }
    }
    // On Linux and on Keel the first word holds the head, and the tail in its upper half.
    let mut tail = [0u64];
    let at = [tail.as_mut_ptr() as usize, 8];
    if sys!(SYS_process_vm_readv, own, &at, 1, &[arena, 8], 1, 0).is_ok() {
        let word = std::hint::black_box(tail)[0];
        let next = (word >> 32).wrapping_add(values.rng.below(ENTRIES + 2) as u64) as u32;
        put(arena, &[word & 0xffff_ffff | u64::from(next) << 32]);
    }
}
