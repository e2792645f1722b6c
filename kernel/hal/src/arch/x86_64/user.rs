//! What `crate::user` asks of the machine: the functions of [`super::usercopy`] with checked arguments.
//!
//! Every range is checked again here, so that these functions are safe whatever the caller did.

use core::mem::MaybeUninit;

use super::usercopy;
use crate::addr::USER_END;
use crate::error::Fault;

fn below_user_end(addr: u64, len: usize) -> bool {
    addr.checked_add(len as u64).is_some_and(|end| end <= USER_END)
}

/// Copies from user memory; returns how many bytes arrived.
#[inline]
pub(crate) fn copy_in(from: u64, buf: &mut [u8]) -> usize {
    if !below_user_end(from, buf.len()) {
        return 0;
    }
    // SAFETY: 1. checked. 2. `buf` is writable for its length.
    unsafe { usercopy::copy_from(buf.as_mut_ptr(), from, buf.len()) }
}

/// Copies a string from user memory up to its NUL; returns its length, or that of `to` when it is not shorter. That many
/// bytes of `to` are written.
#[inline]
pub(crate) fn copy_str(from: u64, to: &mut [MaybeUninit<u8>]) -> Result<usize, Fault> {
    if !below_user_end(from, to.len()) {
        return Err(Fault);
    }
    // SAFETY: 1. checked. 2. `to` is writable for its length.
    unsafe { usercopy::copy_str(to.as_mut_ptr().cast(), from, to.len()) }.ok_or(Fault)
}

/// Copies to user memory; returns how many bytes arrived.
#[inline]
pub(crate) fn copy_out(to: u64, buf: &[u8]) -> usize {
    if !below_user_end(to, buf.len()) {
        return 0;
    }
    // SAFETY: 1. checked. 2. `buf` is readable for its length.
    unsafe { usercopy::copy_to(to, buf.as_ptr(), buf.len()) }
}

/// Copies the first two bytes of every `stride` in `from` to the same place of user memory at `to`; whether all
/// arrived.
pub(crate) fn put_u16s(to: u64, from: &[u8], stride: usize) -> bool {
    let count = if stride < 2 { 0 } else { from.len().saturating_add(stride - 2) / stride };
    if !below_user_end(to, from.len()) {
        return false;
    }
    // SAFETY: 1. checked: the last word ends within `from.len()`. 2. so does it in `from`.
    unsafe { usercopy::put_u16s(to, from.as_ptr(), count, stride) }
}

/// Copies from user memory to a place that is no Rust object; returns how many bytes arrived.
///
/// # Safety
///
/// 1. `to..to + len` is writable memory; others may access it meanwhile as bytes.
#[inline]
pub(crate) unsafe fn copy_in_raw(from: u64, to: *mut u8, len: usize) -> usize {
    if !below_user_end(from, len) {
        return 0;
    }
    // SAFETY: 1. checked. 2. by our own 1.
    unsafe { usercopy::copy_from(to, from, len) }
}

/// Copies to user memory from a place that is no Rust object; returns how many bytes arrived.
///
/// # Safety
///
/// 1. `from..from + len` is readable memory; others may access it meanwhile as bytes.
#[inline]
pub(crate) unsafe fn copy_out_raw(to: u64, from: *const u8, len: usize) -> usize {
    if !below_user_end(to, len) {
        return 0;
    }
    // SAFETY: 1. checked. 2. by our own 1.
    unsafe { usercopy::copy_to(to, from, len) }
}

/// Zeroes user memory; returns how many bytes.
#[inline]
pub(crate) fn zero(to: u64, len: usize) -> usize {
    if !below_user_end(to, len) {
        return 0;
    }
    // SAFETY: 1. checked.
    unsafe { usercopy::zero(to, len) }
}

/// Loads a word.
pub(crate) fn load_u32(addr: u64) -> Result<u32, Fault> {
    if !below_user_end(addr, 4) {
        return Err(Fault);
    }
    // SAFETY: 1. checked.
    unsafe { usercopy::load_u32(addr) }.ok_or(Fault)
}

/// Puts `new` where `old` is; the word that was there.
pub(crate) fn cmpxchg_u32(addr: u64, old: u32, new: u32) -> Result<u32, Fault> {
    if !below_user_end(addr, 4) {
        return Err(Fault);
    }
    // SAFETY: 1. checked.
    unsafe { usercopy::cmpxchg_u32(addr, old, new) }.ok_or(Fault)
}
