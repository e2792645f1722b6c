//! User copies: a walk through the current thread's page table, page by page.

use core::mem::MaybeUninit;

use crate::addr::{PAGE_SIZE, UserAddr};
use crate::error::Fault;
use crate::frame::Frame;
use crate::trap::{self, Access};
use crate::{preempt, thread};

/// The frame at `addr`, faulted in when necessary and allowed.
fn frame_at(addr: u64, write: bool) -> Option<Frame> {
    let table = thread::current().page_table()?;
    loop {
        if let Some(frame) = table.access(addr, write) {
            return Some(frame);
        }
        if preempt::is_atomic() {
            return None;
        }
        let access = Access { write, exec: false, user_mode: false, by_key: false };
        trap::upcalls()?.page_fault(UserAddr(addr), access, None).ok()?;
    }
}

/// Walks `len` bytes page by page with `part(frame, offset in it, bytes done, bytes now)`.
fn walk(addr: u64, len: usize, write: bool, mut part: impl FnMut(&Frame, usize, usize, usize)) -> usize {
    let mut done = 0;
    while done < len {
        let at = addr + done as u64;
        let offset = UserAddr(at).page_offset();
        let now = (PAGE_SIZE - offset).min(len - done);
        let Some(frame) = frame_at(at, write) else { break };
        part(&frame, offset, done, now);
        done += now;
    }
    done
}

pub fn copy_in(addr: u64, buf: &mut [u8]) -> usize {
    walk(addr, buf.len(), false, |frame, offset, done, now| frame.read(offset, &mut buf[done..done + now]))
}

/// Copies a string up to its NUL; returns its length, or that of `to` when it is not shorter.
pub fn copy_str(from: u64, to: &mut [MaybeUninit<u8>]) -> Result<usize, Fault> {
    for (done, place) in to.iter_mut().enumerate() {
        let mut byte = [0];
        if copy_in(from + done as u64, &mut byte) == 0 {
            return Err(Fault);
        }
        if byte[0] == 0 {
            return Ok(done);
        }
        place.write(byte[0]);
    }
    Ok(to.len())
}

pub fn copy_out(addr: u64, buf: &[u8]) -> usize {
    walk(addr, buf.len(), true, |frame, offset, done, now| frame.write(offset, &buf[done..done + now]))
}

/// Copies the first two bytes of every `stride` in `from`; whether all arrived.
pub fn put_u16s(to: u64, from: &[u8], stride: usize) -> bool {
    let mut words = (to..).step_by(stride).zip(from.chunks(stride));
    words.all(|(at, record)| record.len() < 2 || copy_out(at, &record[..2]) == 2)
}

/// As [`copy_in`], to a place that is no Rust object.
///
/// # Safety
///
/// 1. `to..to + len` is writable memory.
pub unsafe fn copy_in_raw(addr: u64, to: *mut u8, len: usize) -> usize {
    walk(addr, len, false, |frame, offset, done, now| {
        let mut page = [0; PAGE_SIZE];
        frame.read(offset, &mut page[..now]);
        // SAFETY: 1: `done + now` is at most `len`.
        unsafe { core::ptr::copy_nonoverlapping(page.as_ptr(), to.add(done), now) }
    })
}

/// As [`copy_out`], from a place that is no Rust object.
///
/// # Safety
///
/// 1. `from..from + len` is readable memory.
pub unsafe fn copy_out_raw(addr: u64, from: *const u8, len: usize) -> usize {
    walk(addr, len, true, |frame, offset, done, now| {
        let mut page = [0; PAGE_SIZE];
        // SAFETY: 1: `done + now` is at most `len`.
        unsafe { core::ptr::copy_nonoverlapping(from.add(done), page.as_mut_ptr(), now) }
        frame.write(offset, &page[..now]);
    })
}

pub fn zero(addr: u64, len: usize) -> usize {
    walk(addr, len, true, |frame, offset, _, now| frame.zero(offset..offset + now))
}

/// Serialises the atomic accesses.
static ATOMIC: crate::sync::SpinLock<()> = crate::sync::SpinLock::new("hal.hosted.atomic", ());

fn word(frame: &Frame, addr: u64) -> u32 {
    let mut bytes = [0; 4];
    frame.read(UserAddr(addr).page_offset(), &mut bytes);
    u32::from_le_bytes(bytes)
}

pub fn load_u32(addr: u64) -> Result<u32, Fault> {
    let frame = frame_at(addr, false).ok_or(Fault)?;
    let _atomic = ATOMIC.lock();
    Ok(word(&frame, addr))
}

pub fn cmpxchg_u32(addr: u64, old: u32, new: u32) -> Result<u32, Fault> {
    let frame = frame_at(addr, true).ok_or(Fault)?;
    let _atomic = ATOMIC.lock();
    let seen = word(&frame, addr);
    if seen == old {
        frame.write(UserAddr(addr).page_offset(), &new.to_le_bytes());
    }
    Ok(seen)
}
