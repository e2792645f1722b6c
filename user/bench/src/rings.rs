//! io_uring: requests in batches of 32, whose entries are written once.

use std::sync::atomic::{AtomicU32, Ordering::*};

use libc::*;
use linux_raw_sys::io_uring::{IORING_OFF_SQES, io_uring_op};
use user_sys::atomic;

use crate::file::fill;
use crate::sys::{Res, now};
use crate::{Op, Unit, sys};

const fn op(name: &'static str, rounds: u64, run: crate::Run) -> Op {
    Op { group: "rings", name, unit: Unit::Ns, rounds, run }
}

pub const OPS: &[Op] = &[
    op("nop", 3_200, |n| batches(n, |_| [0; 8])),
    op("read-4k", 3_200, |n| {
        let fd = sys!(SYS_open, &fill("read", 32 * 4096)?, O_RDONLY)?;
        let buf = vec![0u8; 4096];
        let at = buf.as_ptr() as u64;
        // The kind and the descriptor; the position; the buffer and its length.
        let result = batches(n, |k| {
            [io_uring_op::IORING_OP_READ as u64 | (fd as u64) << 32, k * 4096, at, 4096, 0, 0, 0, 0]
        });
        sys!(SYS_close, fd)?;
        result
    }),
];

const BATCH: u32 = 32;

/// Submits the requests that `entry` makes, again and again; each counts.
fn batches(rounds: u64, entry: impl Fn(u64) -> [u64; 8]) -> Res<u64> {
    let mut params = [0u32; 30];
    let fd = sys!(SYS_io_uring_setup, BATCH, &mut params)?;
    let params = std::hint::black_box(params);
    let map = |len: usize, offset: u64| {
        sys!(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset)
    };
    let rings = map(4096, 0)?;
    let sqes = map(BATCH as usize * 64, u64::from(IORING_OFF_SQES))?;
    for k in 0..BATCH as usize {
        atomic(rings + params[16] as usize + 4 * k).store(k as u32, Relaxed);
        for (n, word) in entry(k as u64).into_iter().enumerate() {
            atomic(sqes + 64 * k + 8 * n).store(word as u32, Relaxed);
            atomic(sqes + 64 * k + 8 * n + 4).store((word >> 32) as u32, Relaxed);
        }
    }
    let word = |n: usize| -> &AtomicU32 { atomic(rings + params[n] as usize) };
    let (sq_tail, cq_head, cq_tail) = (word(11), word(20), word(21));
    let once = || -> Res {
        sq_tail.store(sq_tail.load(Relaxed).wrapping_add(BATCH), Release);
        let done = sys!(SYS_io_uring_enter, fd, BATCH, 0, 0, 0, 0)?;
        cq_head.store(cq_tail.load(Acquire), Release);
        Ok(done)
    };
    once()?;
    let start = now();
    for _ in 0..rounds / u64::from(BATCH) {
        once()?;
    }
    let took = now() - start;
    sys!(SYS_munmap, rings, 4096)?;
    sys!(SYS_munmap, sqes, BATCH as usize * 64)?;
    sys!(SYS_close, fd)?;
    Ok(took)
}
