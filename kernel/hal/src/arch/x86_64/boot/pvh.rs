//! The PVH boot information: `hvm_start_info` and what it points to.
//!
//! All of it is the loader's word. It is copied field by field through volatile-free byte reads of identity-mapped
//! memory, lengths are bounded, and nothing points into it afterwards: its memory may be reused.
//!
//! Source: Xen public/arch-x86/hvm/start_info.h.

use super::memory::{Kind, MemoryMap, Region};
use crate::addr::{PAGE_SIZE, PhysAddr};

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// Longest command line kept (Linux: COMMAND_LINE_SIZE).
pub(crate) const MAX_CMDLINE: usize = 2048;
/// What the boot tables map: nothing beyond may be read here.
const IDENTITY_END: u64 = 1 << 30;
/// More memory-map entries than any firmware has.
const MAX_ENTRIES: u32 = 256;

/// What the loader told, with all pointers followed.
pub(crate) struct StartInfo {
    /// The kernel command line and its length.
    pub(crate) cmdline: [u8; MAX_CMDLINE],
    pub(crate) cmdline_len: usize,
    /// Physical range of the first module, the initramfs.
    pub(crate) initrd: Option<(PhysAddr, u64)>,
    /// Where the part of it begins that the firmware reserved, or its end.
    pub(crate) initrd_usable_end: u64,
    /// Physical address of the ACPI root pointer, if the loader knows it.
    pub(crate) rsdp: Option<PhysAddr>,
    /// Memory as the firmware describes it.
    pub(crate) map: MemoryMap,
}

/// Reads a little-endian word of identity-mapped memory, or 0 outside it.
fn peek<const N: usize>(paddr: u64) -> u64 {
    let mut bytes = [0; 8];
    if paddr < 0x10 || paddr.checked_add(N as u64).is_none_or(|end| end > IDENTITY_END) {
        return 0;
    }
    for (at, byte) in bytes.iter_mut().take(N).enumerate() {
        // SAFETY: the boot tables map physical 0x10..1 GiB at their own address, as plain memory; no Rust object
        // lives at these addresses, and a byte read of memory without a device behind it changes nothing.
        *byte = unsafe { core::ptr::read_volatile((paddr as usize + at) as *const u8) };
    }
    u64::from_le_bytes(bytes)
}

/// Whether the command line holds the word `nokaslr`: asked before anything else is set up.
pub(crate) fn has_nokaslr(info: u64) -> bool {
    let mut cmdline = [0; MAX_CMDLINE];
    let len = read_cmdline(info, &mut cmdline);
    cmdline[..len].split(|byte| *byte == b' ').any(|word| word == b"nokaslr")
}

fn read_cmdline(info: u64, into: &mut [u8; MAX_CMDLINE]) -> usize {
    let start = peek::<8>(info + 24);
    for (at, slot) in into.iter_mut().enumerate() {
        let byte = if start == 0 { 0 } else { peek::<1>(start + at as u64) as u8 };
        if byte == 0 {
            return at;
        }
        *slot = byte;
    }
    into.len()
}

/// Reads the start info at physical address `info`. `None`: it lacks the magic number.
pub(crate) fn read(info: u64) -> Option<StartInfo> {
    if peek::<4>(info) as u32 != MAGIC {
        return None;
    }
    let version = peek::<4>(info + 4);
    let mut start = StartInfo {
        cmdline: [0; MAX_CMDLINE],
        cmdline_len: 0,
        initrd: None,
        initrd_usable_end: 0,
        rsdp: None,
        map: MemoryMap::new(),
    };
    start.cmdline_len = read_cmdline(info, &mut start.cmdline);
    if peek::<4>(info + 12) > 0 {
        let module = peek::<8>(info + 16);
        let (paddr, len) = (peek::<8>(module), peek::<8>(module + 8));
        start.initrd = (paddr != 0 && len != 0).then_some((PhysAddr(paddr), len));
    }
    let rsdp = peek::<8>(info + 32);
    start.rsdp = (rsdp != 0).then_some(PhysAddr(rsdp));
    if version >= 1 {
        let (table, count) = (peek::<8>(info + 40), peek::<4>(info + 48) as u32);
        for idx in 0..u64::from(count.min(MAX_ENTRIES)) {
            let entry = table + idx * 24;
            let (paddr, len, kind) = (peek::<8>(entry), peek::<8>(entry + 8), peek::<4>(entry + 16));
            let kind = match kind {
                1 => Kind::Usable,
                3 => Kind::AcpiTables,
                4 => Kind::AcpiNvs,
                _ => Kind::Reserved,
            };
            start.map.push(Region { start: paddr, end: paddr.saturating_add(len), kind });
        }
    }
    if let Some((paddr, len)) = start.initrd
        && let Some(end) =
            paddr.0.checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE_SIZE as u64))
    {
        start.initrd_usable_end = start.map.extend(paddr.0, end);
    }
    Some(start)
}
