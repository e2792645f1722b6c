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

/// The function that holds `addr`, and how far into it that is.
pub(crate) fn lookup(addr: usize) -> Option<(&'static str, usize)> {
    // The compiler sees zeros; what counts is what the build tool put there.
    let table: &'static [u8] = core::hint::black_box(&TABLE.0);
    if table[..8] != MAGIC {
        return None;
    }
    if addr >= (&raw const __etext) as usize {
        return None;
    }
    let count = word(table, 8)? as usize;
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
    let name = HEADER + count * ENTRY + word(table, HEADER + found * ENTRY + 4)? as usize;
    let name = CStr::from_bytes_until_nul(table.get(name..)?).ok()?.to_str().ok()?;
    Some((name, (target - start_of(found)) as usize))
}
