//! Access to the memory of the current user address space.
//!
//! Nothing is assumed about a [`UserAddr`]: each access is checked and can fail. Except for the `_nofault`
//! variants all may sleep, since a missing page is faulted in through
//! [`crate::trap::Upcalls::page_fault`].

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::addr::{USER_END, UserAddr};
use crate::arch;
use crate::error::{CStrError, Fault};
use crate::preempt;

/// Copies `buf.len()` bytes from user memory, as far as it is accessible; returns how many were copied.
pub fn read_partial(from: UserAddr, buf: &mut [u8]) -> usize {
    if !from.range_ok(buf.len()) {
        return 0;
    }
    crate::sync::might_sleep();
    arch::user::copy_in(from.0, buf)
}

/// Copies `buf` to user memory, as far as it is accessible; returns how many bytes were copied.
pub fn write_partial(to: UserAddr, buf: &[u8]) -> usize {
    if !to.range_ok(buf.len()) {
        return 0;
    }
    crate::sync::might_sleep();
    arch::user::copy_out(to.0, buf)
}

/// Copies bytes from user memory. On `Err` a part of `buf` may have been written.
pub fn read_bytes(from: UserAddr, buf: &mut [u8]) -> Result<(), Fault> {
    if read_partial(from, buf) == buf.len() { Ok(()) } else { Err(Fault) }
}

/// Copies bytes to user memory. On `Err` a part may have been written.
pub fn write_bytes(to: UserAddr, buf: &[u8]) -> Result<(), Fault> {
    if write_partial(to, buf) == buf.len() { Ok(()) } else { Err(Fault) }
}

/// As [`read_bytes`], but a missing page is a fault; for atomic context.
pub fn read_bytes_nofault(from: UserAddr, buf: &mut [u8]) -> Result<(), Fault> {
    let _atomic = preempt::disable();
    if from.range_ok(buf.len()) && arch::user::copy_in(from.0, buf) == buf.len() {
        Ok(())
    } else {
        Err(Fault)
    }
}

/// As [`write_bytes`], but a missing page is a fault; for atomic context.
pub fn write_bytes_nofault(to: UserAddr, buf: &[u8]) -> Result<(), Fault> {
    let _atomic = preempt::disable();
    if to.range_ok(buf.len()) && arch::user::copy_out(to.0, buf) == buf.len() { Ok(()) } else { Err(Fault) }
}

/// Fills `len` bytes with 0 as far as accessible; returns how many were.
pub fn zero_partial(to: UserAddr, len: usize) -> usize {
    if !to.range_ok(len) {
        return 0;
    }
    crate::sync::might_sleep();
    arch::user::zero(to.0, len)
}

/// Fills `len` bytes with 0.
pub fn zero(to: UserAddr, len: usize) -> Result<(), Fault> {
    if zero_partial(to, len) == len { Ok(()) } else { Err(Fault) }
}

/// Reads a value.
#[inline]
pub fn read<T: FromBytes + IntoBytes>(from: UserAddr) -> Result<T, Fault> {
    let mut value = T::new_zeroed();
    read_bytes(from, value.as_mut_bytes())?;
    Ok(value)
}

/// Writes a value.
#[inline]
pub fn write<T: IntoBytes + Immutable + ?Sized>(to: UserAddr, value: &T) -> Result<(), Fault> {
    write_bytes(to, value.as_bytes())
}

/// Writes the 16-bit field at `offset` of each of `records` to that of the user's array of the same records, whose
/// other fields are left alone.
pub fn write_u16_fields<T: IntoBytes + Immutable>(
    to: UserAddr,
    records: &[T],
    offset: usize,
) -> Result<(), Fault> {
    let bytes = records.as_bytes();
    if bytes.is_empty() {
        return Ok(());
    }
    let fields = bytes.get(offset..).ok_or(Fault)?;
    if !to.range_ok(bytes.len()) || offset.saturating_add(2) > size_of::<T>() {
        return Err(Fault);
    }
    crate::sync::might_sleep();
    if arch::user::put_u16s(to.0 + offset as u64, fields, size_of::<T>()) { Ok(()) } else { Err(Fault) }
}

/// Reads `count` values into a vector. `Err(CStrError::NoMemory)` when it cannot be allocated.
pub fn read_vec<T: FromBytes + IntoBytes>(from: UserAddr, count: usize) -> Result<Vec<T>, CStrError> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| CStrError::NoMemory)?;
    values.resize_with(count, T::new_zeroed);
    read_bytes(from, values.as_mut_slice().as_mut_bytes())?;
    Ok(values)
}

/// Reads a NUL-terminated string (without its NUL) of at most `max` bytes, the NUL included.
pub fn read_cstr(from: UserAddr, max: usize) -> Result<Vec<u8>, CStrError> {
    /// Room for most path names; longer strings are read in pieces of twice what there is.
    const FIRST: usize = 64;
    crate::sync::might_sleep();
    let mut text: Vec<u8> = Vec::new();
    while text.len() < max {
        let at = from.0.checked_add(text.len() as u64).ok_or(CStrError::Fault)?;
        let below_end = usize::try_from(USER_END.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = FIRST.max(2 * text.len()).min(max - text.len()).min(below_end);
        text.try_reserve(len).map_err(|_| CStrError::NoMemory)?;
        let got = match text.spare_capacity_mut().get_mut(..len) {
            Some(room) if len > 0 => arch::user::copy_str(at, room).map_err(|_| CStrError::Fault)?,
            _ => return Err(CStrError::Fault),
        };
        // SAFETY: there is room for `len` bytes, of which `copy_str` has written the first `got`.
        unsafe { text.set_len(text.len() + got) };
        if got < len {
            return Ok(text);
        }
    }
    Err(CStrError::TooLong)
}

fn check_u32(addr: UserAddr) -> Result<(), Fault> {
    if addr.0.is_multiple_of(4) && addr.range_ok(4) { Ok(()) } else { Err(Fault) }
}

/// Loads an aligned word atomically.
pub fn load_u32(addr: UserAddr) -> Result<u32, Fault> {
    check_u32(addr)?;
    crate::sync::might_sleep();
    arch::user::load_u32(addr.0)
}

/// As [`load_u32`], but a missing page is a fault; for atomic context.
pub fn load_u32_nofault(addr: UserAddr) -> Result<u32, Fault> {
    check_u32(addr)?;
    let _atomic = preempt::disable();
    arch::user::load_u32(addr.0)
}

/// Stores `new` if the aligned word holds `old`; returns what it held.
pub fn cmpxchg_u32(addr: UserAddr, old: u32, new: u32) -> Result<u32, Fault> {
    check_u32(addr)?;
    crate::sync::might_sleep();
    arch::user::cmpxchg_u32(addr.0, old, new)
}

/// As [`cmpxchg_u32`], but a missing page is a fault; for atomic context.
pub fn cmpxchg_u32_nofault(addr: UserAddr, old: u32, new: u32) -> Result<u32, Fault> {
    check_u32(addr)?;
    let _atomic = preempt::disable();
    arch::user::cmpxchg_u32(addr.0, old, new)
}

/// Replaces the aligned word by `f(word)` atomically; returns the old word.
pub fn fetch_op_u32(addr: UserAddr, f: impl Fn(u32) -> u32) -> Result<u32, Fault> {
    let mut old = load_u32(addr)?;
    loop {
        let seen = cmpxchg_u32(addr, old, f(old))?;
        if seen == old {
            return Ok(old);
        }
        old = seen;
    }
}

/// As [`fetch_op_u32`], but a missing page is a fault; for atomic context.
pub fn fetch_op_u32_nofault(addr: UserAddr, f: impl Fn(u32) -> u32) -> Result<u32, Fault> {
    let mut old = load_u32_nofault(addr)?;
    loop {
        let seen = cmpxchg_u32_nofault(addr, old, f(old))?;
        if seen == old {
            return Ok(old);
        }
        old = seen;
    }
}
