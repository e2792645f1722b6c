//! Names of kernel functions for backtraces and /proc/kallsyms.
//!
//! The image reserves a section, `.ksyms`, which the build tool fills after linking, when the addresses are known:
//!
//! ```text
//! "KEELSYMS"  u32 count  u32 bytes of names
//! count times: u32 address less the image's start, u32 offset of the name; sorted by address
//! names, each ending in NUL
//! ```
//!
//! An image built without that step has zeros there, and backtraces show offsets into the image, which `addr2line`
//! understands (add the link address).

use core::ffi::CStr;

/// Bytes reserved for the table.
const RESERVED: usize = 512 * 1024;
const MAGIC: [u8; 8] = *b"KEELSYMS";
const HEADER: usize = 16;
const ENTRY: usize = 8;

#[repr(C, align(16))]
struct Table([u8; RESERVED]);

#[used]
#[unsafe(link_section = ".ksyms")]
static TABLE: Table = Table([0; RESERVED]);

unsafe extern "C" {
    static __image_start: u8;
    static __etext: u8;
}

/// How far `addr` is into the image.
pub(crate) fn image_offset(addr: usize) -> usize {
    addr.wrapping_sub((&raw const __image_start) as usize)
}

fn word(table: &[u8], at: usize) -> Option<u32> {
    let bytes = table.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The table, if the build tool has filled it, and how many entries it has.
fn table() -> Option<(&'static [u8], usize)> {
    // The compiler sees zeros; what counts is what the build tool put there.
    let table: &'static [u8] = core::hint::black_box(&TABLE.0);
    if table[..8] != MAGIC {
        return None;
    }
    Some((table, word(table, 8)? as usize))
}

/// The name of entry `entry` of `count`.
fn name(table: &'static [u8], count: usize, entry: usize) -> Option<&'static str> {
    let at = HEADER + count * ENTRY + word(table, HEADER + entry * ENTRY + 4)? as usize;
    CStr::from_bytes_until_nul(table.get(at..)?).ok()?.to_str().ok()
}

/// Address and name of function `idx`, in the order of addresses.
pub(crate) fn nth(idx: usize) -> Option<(usize, &'static str)> {
    let (table, count) = table()?;
    if idx >= count {
        return None;
    }
    let start = word(table, HEADER + idx * ENTRY)? as usize;
    Some(((&raw const __image_start) as usize + start, name(table, count, idx)?))
}

/// The function that holds `addr`, and how far into it that is.
pub(crate) fn lookup(addr: usize) -> Option<(&'static str, usize)> {
    let (table, count) = table()?;
    if addr >= (&raw const __etext) as usize {
        return None;
    }
    let target = u32::try_from(image_offset(addr)).ok()?;
    let start_of = |entry: usize| word(table, HEADER + entry * ENTRY).unwrap_or(u32::MAX);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if start_of(middle) <= target {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let found = low.checked_sub(1)?;
    Some((name(table, count, found)?, (target - start_of(found)) as usize))
}
