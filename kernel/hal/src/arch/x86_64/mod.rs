//! The x86-64 machine.

mod acpi;
mod apic;
mod area;
pub(crate) mod boot;
mod clocksource;
pub(crate) mod console;
pub(crate) mod cpu;
pub(crate) mod cpulocal;
mod debug;
mod entry;
mod exception;
mod fpu;
mod gdt;
mod idt;
pub(crate) mod instr;
pub(crate) mod io;
mod ioapic;
pub(crate) mod ipi;
pub(crate) mod irq;
pub(crate) mod layout;
mod ldt;
pub(crate) mod mem;
pub(crate) mod paging;
pub(crate) mod pci;
mod phys;
pub(crate) mod pku;
mod ports;
pub(crate) mod power;
pub(crate) mod rng;
pub(crate) mod smp;
mod stack;
mod symbols;
pub(crate) mod thread;
pub(crate) mod time;
pub(crate) mod traps;
mod unwind;
pub(crate) mod user;
mod usercopy;
pub(crate) mod vdso;

/// The kernel's heap is the global allocator.
#[global_allocator]
static HEAP: crate::heap::SlabHeap = crate::heap::SlabHeap;
