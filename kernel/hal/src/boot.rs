//! What the boot loader and the firmware told.

use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::arch;
use crate::frame::Frame;

/// What a range of physical memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Ordinary memory.
    Ram,
    /// Not to be touched.
    Reserved,
    /// Tables of ACPI, usable once read.
    AcpiReclaimable,
    /// Firmware storage.
    AcpiNvs,
}

/// A range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address.
    pub start: PhysAddr,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// The kernel command line as given; not necessarily UTF-8.
pub fn cmdline() -> &'static [u8] {
    arch::boot::cmdline()
}

/// The firmware's memory map.
pub fn memory_map() -> Vec<MemoryRange> {
    arch::boot::memory_map()
}

/// The end of the addresses that a PC's firmware has its tables and code in.
pub const LOW_END: u64 = 1 << 20;

/// Whether a byte of `range` is ordinary memory. The first page is not: it is the firmware's, and nobody's later.
pub fn is_ram(range: Range<u64>) -> bool {
    memory_map().iter().filter(|part| part.kind == MemoryKind::Ram).any(|part| {
        let (start, end) = (part.start.0.max(PAGE_SIZE as u64), part.start.0.saturating_add(part.len));
        start < range.end && range.start < end
    })
}

/// The end of ordinary memory.
pub fn ram_end() -> u64 {
    let ends = memory_map().into_iter().filter(|part| part.kind == MemoryKind::Ram);
    ends.map(|part| part.start.0.saturating_add(part.len)).max().unwrap_or(0)
}

/// Copies what the firmware left at `paddr`. `None`: not below [`LOW_END`], or a byte of it is memory.
pub fn read_firmware(paddr: PhysAddr, buf: &mut [u8]) -> Option<()> {
    let end = paddr.0.checked_add(buf.len() as u64).filter(|end| *end <= LOW_END)?;
    if is_ram(paddr.0..end) { None } else { arch::boot::read_firmware(paddr, buf) }
}

/// Length of the initial RAM disk in bytes, 0 when there is none (or it was released).
pub fn initrd_len() -> usize {
    arch::boot::initrd_len()
}

/// Copies bytes of the initial RAM disk from offset `pos`; returns how many there were.
pub fn initrd_read(pos: usize, buf: &mut [u8]) -> usize {
    arch::boot::initrd_read(pos, buf)
}

/// Gives the pages of the initial RAM disk that lie wholly below `end` to the frame allocator.
/// They read as absent afterwards.
pub fn initrd_release(end: usize) {
    arch::boot::initrd_release(end);
}

/// Takes the page at offset `pos` of the initial RAM disk out of it, with its bytes; what lies before it is given to
/// the frame allocator.
///
/// `None` when `pos` is not at the start of a page of memory, when less than a page follows, or when that was given
/// away before.
pub fn initrd_take(pos: usize) -> Option<Frame> {
    arch::boot::initrd_take(pos)
}

/// The name of and the offset in the kernel function at `addr`, for backtraces and /proc/kallsyms.
pub fn symbolize(addr: usize) -> Option<(&'static str, usize)> {
    arch::boot::symbolize(addr)
}

/// Address and name of the kernel's function `idx`, in the order of addresses; `None` after the last one.
pub fn symbol(idx: usize) -> Option<(usize, &'static str)> {
    arch::boot::symbol(idx)
}

/// Makes `$main` (a `fn() -> !`) the kernel's entry: hal calls it on the boot CPU once memory, per-CPU data,
/// traps, clocks and the heap work. Interrupts are off.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// The symbol that hal's boot code calls.
        #[expect(unsafe_code, reason = "the one symbol that hal looks for by name")]
        #[unsafe(no_mangle)]
        pub extern "C" fn keel_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}

/// On the hosted machine the kernel does not boot; the binary only says so.
#[cfg(not(target_os = "none"))]
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        fn main() {
            let _entry: fn() -> ! = $main;
        }
    };
}
