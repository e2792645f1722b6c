//! From the loader to the binary's `main`: entry, address-space slide, memory, page tables.
//!
//! ```text
//! entry     32-bit to 64-bit, at the link address
//! early     slide (KASLR), then the order of everything below
//! pvh       the loader's boot information, read into `crate::boot::Info`
//! memory    which physical memory is free; hands it out until the frame allocator takes over
//! ```

pub(crate) mod early;
pub(crate) mod entry;
pub(crate) mod memory;
pub(crate) mod pvh;

pub(crate) use super::layout::KERNEL_PHYS;

use self::memory::BootMemory;
use self::pvh::StartInfo;
use crate::addr::PhysAddr;
use crate::arch::console::Console;

/// The `mem=` parameter in bytes, or no limit.
pub(crate) fn memory_limit(cmdline: &[u8]) -> u64 {
    let words = cmdline.split(|byte| *byte == b' ');
    words.filter_map(|word| parse_bytes(word.strip_prefix(b"mem=")?)).last().unwrap_or(u64::MAX)
}

/// Reads a decimal number with an optional K, M, G or T (Linux: memparse()).
fn parse_bytes(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number: u64 = core::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    let shift = match text[digits..].first().map(u8::to_ascii_lowercase) {
        None => 0,
        Some(b'k') => 10,
        Some(b'm') => 20,
        Some(b'g') => 30,
        Some(b't') => 40,
        Some(_) => return None,
    };
    number.checked_mul(1 << shift)
}

/// Goes on with the final page tables.
fn on_tables(start: StartInfo, memory: BootMemory, root: PhysAddr) -> ! {
    use core::fmt::Write;
    let _ = writeln!(Console, "keel: booting, image at {:#x}, root {root:?}", early::image_start());
    let _ = writeln!(Console, "cmdline: {}", core::str::from_utf8(&start.cmdline[..start.cmdline_len]).unwrap_or("?"));
    for span in memory.spans() {
        let _ = writeln!(Console, "free: {:#x}..{:#x}", span.0, span.1);
    }
    super::power::halt_forever()
}
