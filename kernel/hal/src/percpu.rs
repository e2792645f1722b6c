//! Per-CPU variables.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::arch;
use crate::cpu::{CpuId, MAX_CPUS};
use crate::preempt::PreemptGuard;

/// One `T` for each CPU, made at its first use. Needs the heap.
///
/// `T` must be `Sync`: other CPUs reach it by [`PerCpu::get_on`], interrupts by [`PerCpu::get`].
pub struct PerCpu<T: 'static> {
    /// Null, or from `Box::into_raw` and never changed again.
    slots: [AtomicPtr<T>; MAX_CPUS],
    init: fn(CpuId) -> T,
}

impl<T: Send + Sync> PerCpu<T> {
    /// A variable whose copy for each CPU will be `init(cpu)`.
    pub const fn new(init: fn(CpuId) -> T) -> Self {
        PerCpu { slots: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS], init }
    }

    /// This CPU's copy.
    #[inline]
    pub fn get<'a>(&'a self, _pinned: &'a PreemptGuard) -> &'a T {
        self.get_on(CpuId(arch::cpu::current_id()))
    }

    /// Some CPU's copy, for code that does not mind moving away from it.
    #[inline]
    pub fn get_raw(&self) -> &T {
        self.get_on(CpuId(arch::cpu::current_id()))
    }

    /// The copy of `cpu`.
    #[inline]
    pub fn get_on(&self, cpu: CpuId) -> &T {
        // Acquire pairs with the exchange in `fill`.
        let copy = self.slots[cpu.index()].load(Ordering::Acquire);
        if copy.is_null() {
            return self.fill(cpu);
        }
        // SAFETY: not null, so it came from `Box::into_raw` in `fill` and lives as long as `self`.
        unsafe { &*copy }
    }

    #[cold]
    fn fill(&self, cpu: CpuId) -> &T {
        let new = Box::into_raw(Box::new((self.init)(cpu)));
        let slot = &self.slots[cpu.index()];
        let copy = match slot.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(winner) => {
                // SAFETY: `new` came from `Box::into_raw` just above and was not published.
                drop(unsafe { Box::from_raw(new) });
                winner
            }
        };
        // SAFETY: as in `get_on`.
        unsafe { &*copy }
    }
}

impl<T> Drop for PerCpu<T> {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            let copy = *slot.get_mut();
            if !copy.is_null() {
                // SAFETY: from `Box::into_raw` in `fill`; `&mut self` shows that nobody uses it any more.
                drop(unsafe { Box::from_raw(copy) });
            }
        }
    }
}
