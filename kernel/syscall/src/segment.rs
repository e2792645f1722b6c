//! modify_ldt(2): segments of a process's own.
//!
//! ```text
//! struct user_desc, 16 bytes: entry_number u32, base_addr u32, limit u32, bits
//!   0 32-bit   1-2 contents (data, stack, code, conforming code)   3 read or execute only   4 limit in pages
//!   5 not present   6 useable   7 lm (ignored)
//! ```
//!
//! Source: modify_ldt(2), arch/x86/include/uapi/asm/ldt.h of Linux 7.2.

use abi::Errno;
use hal::segment::{Kind, MAX_SEGMENTS, Segment};
use hal::{NoMemory, UserAddr, user};

use crate::{Cx, Result};

/// What to do.
mod func {
    pub const READ: u32 = 0;
    pub const WRITE_OLD: u32 = 1;
    pub const READ_DEFAULT: u32 = 2;
    pub const WRITE: u32 = 0x11;
}

/// How a slot is set: the first interface knew less.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Old,
    New,
}

/// Size of a descriptor, and of the default table, which is empty.
const DESCRIPTOR_LEN: usize = 8;
const DEFAULT_LEN: usize = 128;

/// modify_ldt(2). The result is an int: errors have the upper half clear, as on Linux.
pub(crate) fn sys_modify_ldt(_cx: &mut Cx<'_>, what: u32, ptr: UserAddr, len: usize) -> Result<usize> {
    let done = match what {
        func::READ => read(ptr, len),
        func::WRITE_OLD => write(ptr, len, Mode::Old),
        func::READ_DEFAULT => {
            let len = len.min(DEFAULT_LEN);
            user::zero(ptr, len).map(|()| len).map_err(Errno::from)
        }
        func::WRITE => write(ptr, len, Mode::New),
        _ => Err(Errno::ENOSYS),
    };
    Ok(done.unwrap_or_else(|error| (error.number() as u32).wrapping_neg() as usize))
}

/// Gives the descriptors, and zeros for the rest of `len`.
fn read(ptr: UserAddr, len: usize) -> Result<usize> {
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    let descriptors = mm.page_table().segment_descriptors().map_err(|NoMemory| Errno::ENOMEM)?;
    if descriptors.is_empty() {
        return Ok(0);
    }
    let len = len.min(MAX_SEGMENTS * DESCRIPTOR_LEN);
    let at = |offset: usize| UserAddr(ptr.0.wrapping_add(offset as u64));
    let mut done = 0;
    for descriptor in descriptors {
        let bytes = descriptor.to_le_bytes();
        let part = &bytes[..DESCRIPTOR_LEN.min(len - done)];
        user::write_bytes(at(done), part)?;
        done += part.len();
        if done == len {
            return Ok(len);
        }
    }
    user::zero(at(done), len - done)?;
    Ok(len)
}

/// Sets a slot. `EINVAL`: another size, no such slot, contents that cannot be. `EFAULT`, `ENOMEM`.
fn write(ptr: UserAddr, len: usize, mode: Mode) -> Result<usize> {
    if len != size_of::<[u32; 4]>() {
        return Err(Errno::EINVAL);
    }
    let [slot, base, limit, bits]: [u32; 4] = user::read(ptr)?;
    let slot = usize::try_from(slot).ok().filter(|slot| *slot < MAX_SEGMENTS).ok_or(Errno::EINVAL)?;
    let segment = describe(base, limit, bits, mode)?;
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    mm.page_table().set_segment(slot, segment.as_ref()).map_err(|NoMemory| Errno::ENOMEM)?;
    Ok(0)
}

/// The segment that is asked for; `None`: the slot is to be cleared.
fn describe(base: u32, limit: u32, bits: u32, mode: Mode) -> Result<Option<Segment>> {
    /// Read-only and not present, nothing else.
    const EMPTY: u32 = 1 << 3 | 1 << 5;
    /// All that counts.
    const KNOWN: u32 = 0x7f;
    let bit = |at: u32| bits >> at & 1 != 0;
    let contents = bits >> 1 & 3;
    if contents == 3 && (mode == Mode::Old || !bit(5)) {
        return Err(Errno::EINVAL);
    }
    if base == 0 && limit == 0 && (mode == Mode::Old || bits & KNOWN == EMPTY) {
        return Ok(None);
    }
    if !bit(0) {
        // As Linux without CONFIG_X86_16BIT, which Debian's is: no segments of 16 bits.
        return Err(Errno::EINVAL);
    }
    Ok(Some(Segment {
        base,
        limit: limit & 0xf_ffff,
        kind: match contents {
            0 => Kind::Data,
            1 => Kind::DataDown,
            2 => Kind::Code,
            _ => Kind::ConformingCode,
        },
        open: !bit(3),
        in_pages: bit(4),
        present: !bit(5),
        available: mode == Mode::New && bit(6),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_becomes_a_segment_or_clears_the_slot() {
        assert_eq!(describe(0, 0, 0x28, Mode::New), Ok(None));
        assert_eq!(describe(0, 0, 0x01, Mode::Old), Ok(None));
        assert_eq!(describe(9, 0, 0x04, Mode::New), Err(Errno::EINVAL));
        let code = describe(9, 0, 0x05, Mode::New).unwrap().unwrap();
        assert!(code.kind == Kind::Code && code.open && code.present);
        let conforming = describe(9, 0, 0x2f, Mode::New).unwrap().unwrap();
        assert!(conforming.kind == Kind::ConformingCode && !conforming.open && !conforming.present);
        assert_eq!(describe(0, 0, 0x06, Mode::New), Err(Errno::EINVAL));
        let data = describe(0x1000, 0xfff_ffff, 0x51, Mode::New).unwrap().unwrap();
        assert_eq!((data.base, data.limit), (0x1000, 0xf_ffff));
        assert!(data.in_pages && data.open && data.kind == Kind::Data && data.present && data.available);
        let old = describe(0x1000, 0xf, 0x49, Mode::Old).unwrap().unwrap();
        assert!(!old.available && !old.open && old.kind == Kind::Data);
    }
}
