//! The kernel's half of the address space.
//!
//! ```text
//! ffff_8880_0000_0000  direct map of physical memory (64 TiB)          rw-, 1 GiB and 2 MiB pages
//! ffff_c900_0000_0000  vmap area: stacks, device windows (512 GiB)      rw-, 4 KiB pages, holes are guards
//! ffff_ea00_0000_0000  frame metadata, 32 bytes a frame (512 GiB)       rw-, only where there is memory
//! ffff_ffff_8000_0000  the image, plus 2 MiB, plus the KASLR slide      each section its own rights
//! ```
//!
//! The areas other than the image start where Linux's do (Documentation/arch/x86/x86_64/mm.rst), which makes a
//! dump familiar to read. Each lies in top-level entries of its own, and every top-level entry in use is filled at
//! boot, before the first user page table copies it: the kernel's half never changes at the top level afterwards.

use crate::addr::PhysAddr;

/// Start of the direct map.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Start of the vmap area.
pub(crate) const VMAP: u64 = 0xffff_c900_0000_0000;
/// End of the vmap area.
pub(crate) const VMAP_END: u64 = VMAP + (512 << 30);
/// Start of the frame metadata.
pub(crate) const FRAME_META: u64 = 0xffff_ea00_0000_0000;
/// Where the loader puts the image (`KERNEL_PHYS` of the linker script).
pub(crate) const KERNEL_PHYS: u64 = 0x20_0000;

/// The direct-map address of `paddr`.
///
/// Plain arithmetic: whether anything is mapped there is the caller's to know.
#[inline]
pub(crate) const fn direct(paddr: PhysAddr) -> *mut u8 {
    (DIRECT_MAP + paddr.0) as *mut u8
}
