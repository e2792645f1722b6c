//! The interrupt descriptor table, one for all CPUs, and the registers of SYSCALL.
//!
//! Every gate is an interrupt gate: interrupts are off when its stub starts. User code may raise #BP and #OF itself;
//! `int 0x80`, the way into 32-bit system calls, ends in #GP like every other vector (Linux without IA32 emulation).
//!
//! Source: Intel SDM vol. 3 ch. 6.10, 6.14; vol. 4 (STAR, LSTAR, CSTAR, FMASK).

use core::arch::asm;
use core::cell::UnsafeCell;

use super::entry::{
    keel_debug_entry, keel_double_fault_entry, keel_machine_check_entry, keel_nmi_entry, keel_syscall_entry,
    keel_syscall32_entry, keel_vector_stubs,
};
use super::gdt::{IST_DEBUG, IST_DOUBLE_FAULT, IST_MACHINE_CHECK, IST_NMI, KERNEL_CS, USER32_CS};
use super::instr::{self, IA32_EFER};

const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_SYSENTER_CS: u32 = 0x174;
const EFER_SCE: u64 = 1;
/// Cleared on SYSCALL: CF PF AF ZF SF TF IF DF OF IOPL NT RF AC ID, as Linux does.
const SYSCALL_CLEARS: u64 = 0x25_7fd5;

const BREAKPOINT: usize = 3;
const OVERFLOW: usize = 4;

#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_mid: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const EMPTY: Gate =
        Gate { offset_low: 0, selector: 0, ist: 0, kind: 0, offset_mid: 0, offset_high: 0, reserved: 0 };

    fn new(entry: u64, ist: u8, dpl: u8) -> Gate {
        Gate {
            offset_low: entry as u16,
            selector: KERNEL_CS,
            ist,
            kind: 0x8e | dpl << 5,
            offset_mid: (entry >> 16) as u16,
            offset_high: (entry >> 32) as u32,
            reserved: 0,
        }
    }
}

struct Table(UnsafeCell<[Gate; 256]>);
// SAFETY: written by the boot CPU in `build`, before any other CPU runs; only hardware reads it afterwards.
unsafe impl Sync for Table {}

static IDT: Table = Table(UnsafeCell::new([Gate::EMPTY; 256]));

/// Fills the table.
///
/// # Safety
///
/// 1. Called once, by the boot CPU, before any CPU loads the table.
pub(super) unsafe fn build() {
    // SAFETY: nobody else uses the table yet (1).
    let gates = unsafe { &mut *IDT.0.get() };
    // SAFETY: the symbol is the array of stubs that `entry` lays out; only its addresses are taken.
    let stubs = unsafe { &keel_vector_stubs };
    for (vector, (gate, stub)) in gates.iter_mut().zip(stubs).enumerate() {
        let dpl = if matches!(vector, BREAKPOINT | OVERFLOW) { 3 } else { 0 };
        *gate = Gate::new(stub.as_ptr() as u64, 0, dpl);
    }
    gates[1] = Gate::new(keel_debug_entry as *const () as u64, IST_DEBUG, 0);
    gates[2] = Gate::new(keel_nmi_entry as *const () as u64, IST_NMI, 0);
    gates[8] = Gate::new(keel_double_fault_entry as *const () as u64, IST_DOUBLE_FAULT, 0);
    gates[18] = Gate::new(keel_machine_check_entry as *const () as u64, IST_MACHINE_CHECK, 0);
}

/// Loads the table and the SYSCALL registers on this CPU.
///
/// # Safety
///
/// 1. [`build`] has run, and `gdt::load` on this CPU.
pub(super) unsafe fn load() {
    #[repr(C, packed)]
    struct TablePointer {
        limit: u16,
        base: u64,
    }
    let pointer = TablePointer { limit: size_of::<[Gate; 256]>() as u16 - 1, base: IDT.0.get() as u64 };
    // SAFETY: by 1 the table is filled; it is static.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags)) };
    let star = u64::from(USER32_CS) << 48 | u64::from(KERNEL_CS) << 32;
    // SAFETY: every x86-64 CPU has these registers. They name code that expects exactly this state, and segments
    // that `gdt::load` set up (1). SYSENTER_CS = 0 makes SYSENTER raise #GP.
    unsafe {
        instr::wrmsr(IA32_STAR, star);
        instr::wrmsr(IA32_LSTAR, keel_syscall_entry as *const () as u64);
        instr::wrmsr(IA32_CSTAR, keel_syscall32_entry as *const () as u64);
        instr::wrmsr(IA32_FMASK, SYSCALL_CLEARS);
        instr::wrmsr(IA32_SYSENTER_CS, 0);
        instr::wrmsr(IA32_EFER, instr::rdmsr(IA32_EFER) | EFER_SCE);
    }
}
