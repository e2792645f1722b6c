//! Reading physical memory that is no frame: what the firmware left.
//!
//! A page of the vmap area serves as a window: it is pointed at the page wanted, read, and closed again. Slow;
//! used at boot, at power-off and for /dev/mem. Nothing keeps a reference into firmware memory.

use alloc::vec::Vec;

use super::instr;
use super::paging::kernel;
use super::paging::pte::NO_EXEC;
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::sync::IrqLock;

/// Address of the window page; 0 before its first use.
static WINDOW: IrqLock<u64> = IrqLock::new("hal.phys.window", 0);
/// The highest physical address that the architecture can have (52 bits).
const MAX_PHYS: u64 = 1 << 52;

/// Copies memory from `paddr` on into `buf`. `None`: no such address, or no memory for the window.
///
/// Memory that is not there reads as all ones, as the bus gives it.
pub(crate) fn read(paddr: u64, buf: &mut [u8]) -> Option<()> {
    let end = paddr.checked_add(buf.len() as u64)?;
    if end > MAX_PHYS {
        return None;
    }
    let mut window = WINDOW.lock();
    if *window == 0 {
        *window = kernel::reserve(PAGE_SIZE as u64, PAGE_SIZE as u64)?;
    }
    let mut done = 0;
    while done < buf.len() {
        let at = paddr + done as u64;
        let offset = (at & (PAGE_SIZE as u64 - 1)) as usize;
        let len = (buf.len() - done).min(PAGE_SIZE - offset);
        // SAFETY: 1. the window is ours under the lock. 2. it is only read, and as bytes. Then closed again, which
        // needs this CPU's TLB only: no other CPU reads the window without the lock, and each maps it anew.
        unsafe {
            kernel::map(*window, at >> PAGE_SHIFT << PAGE_SHIFT, PAGE_SIZE as u64, NO_EXEC).ok()?;
            instr::invlpg(*window);
            let from = (*window as usize + offset) as *const u8;
            core::ptr::copy_nonoverlapping(from, buf[done..].as_mut_ptr(), len);
            kernel::unmap_page(*window);
            instr::invlpg(*window);
        }
        done += len;
    }
    Some(())
}

/// Copies `len` bytes from `paddr` on into a new vector.
#[inline]
pub(crate) fn read_vec(paddr: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).ok()?;
    bytes.resize(len, 0);
    read(paddr, &mut bytes)?;
    Some(bytes)
}
