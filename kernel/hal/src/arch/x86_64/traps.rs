//! Switching traps on: what boot code calls on each CPU.

use super::cpulocal::{self, CpuLocal};
use super::stack::KernelStack;
use super::{fpu, gdt, idt, pku, thread, usercopy};
use core::sync::atomic::Ordering;

pub(crate) use super::symbols::{lookup as symbolize, nth as symbol};

/// Gives this CPU its per-CPU area, segments and exception handlers. The boot CPU calls it as early as it can, so
/// that faults are reported; it needs no memory.
///
/// # Safety
///
/// 1. Called once per CPU, on that CPU, with interrupts off; the first call is the boot CPU's and ends before another
///    CPU starts.
/// 2. `cpu` belongs to this CPU alone.
pub(crate) unsafe fn init_cpu(cpu: &'static CpuLocal) {
    if cpu.id == 0 {
        // SAFETY: 1: the boot CPU, once, before the others.
        unsafe { idt::build() };
        usercopy::init();
        thread::init();
    }
    // SAFETY: 1 and 2 are the caller's; the table was built above or by the boot CPU.
    unsafe {
        gdt::load(cpu);
        idt::load();
    }
}

/// The rest, once the CPU's features are on (`cpu::enable_features`) and the heap works: vector registers, and the
/// running code becomes the CPU's first thread. Interrupts get their stack.
pub(crate) fn init_thread() {
    pku::init();
    fpu::init_cpu();
    let thread = crate::thread::adopt();
    let cpu = cpulocal::this();
    cpu.current.store(thread.cast_mut(), Ordering::Relaxed);
    match KernelStack::new() {
        Ok(stack) => {
            cpu.interrupt_sp.store(stack.top(), Ordering::Relaxed);
            // The CPU keeps it for ever.
            core::mem::forget(stack);
        }
        Err(_) => log::warn!("no memory for the interrupt stack of CPU {}", cpu.id),
    }
}
