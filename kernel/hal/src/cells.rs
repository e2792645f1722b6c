//! One value for each CPU that the CPU itself changes with interrupts off: the cheapest exclusion there is.

use core::cell::UnsafeCell;

use crate::arch;
use crate::cpu::MAX_CPUS;
use crate::irq;

/// A value for each CPU. No lock: its own CPU alone reaches it, and nothing interrupts that.
pub(crate) struct CpuCells<T>([UnsafeCell<T>; MAX_CPUS]);

// SAFETY: `with` gives a value to its own CPU only, which need not be the one that made it, hence `Send`.
unsafe impl<T: Send> Sync for CpuCells<T> {}

impl<T> CpuCells<T> {
    /// One value for each CPU.
    pub(crate) const fn new(cells: [UnsafeCell<T>; MAX_CPUS]) -> Self {
        CpuCells(cells)
    }

    /// Calls `f` with this CPU's value, interrupts off.
    ///
    /// # Safety
    ///
    /// 1. `f` does not come back here for the same cells: neither by a call nor by a panic handler.
    #[inline]
    pub(crate) unsafe fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let _off = irq::disable();
        let cell = &self.0[arch::cpu::current_id() as usize % MAX_CPUS];
        // SAFETY: with interrupts off this code stays on its CPU, and by 1 nothing else on that CPU has the value.
        f(unsafe { &mut *cell.get() })
    }
}
