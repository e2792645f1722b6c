//! The local APIC: this CPU's timer, and interrupts to other CPUs.
//!
//! Two ways to its registers: x2APIC (model-specific registers) where the CPU has it, else a page of memory.
//!
//! Source: Intel SDM vol. 3 ch. 11.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::cpu::Feature;
use super::instr::{self, rdmsr, wrmsr};
use super::paging::kernel;
use super::paging::pte::{GLOBAL, NO_CACHE, NO_EXEC, WRITABLE, WRITE_THROUGH};
use crate::addr::PAGE_SIZE;
use crate::cpu::MAX_CPUS;

/// Vectors above those of devices.
pub(crate) const VECTOR_TIMER: u8 = 0xf0;
pub(crate) const VECTOR_RESCHEDULE: u8 = 0xf1;
pub(crate) const VECTOR_CALL: u8 = 0xf2;
pub(crate) const VECTOR_SPURIOUS: u8 = 0xff;

const IA32_APIC_BASE: u32 = 0x1b;
const APIC_BASE_X2: u64 = 1 << 10;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const X2APIC_MSRS: u32 = 0x800;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const DEFAULT_BASE: u64 = 0xfee0_0000;

// Register offsets in memory; the MSR is offset / 16.
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const ICR_LOW: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;
const ICR_BUSY: u32 = 1 << 12;
const DIVIDE_BY_1: u32 = 0b1011;

/// Where the registers are mapped; 0 with x2APIC.
static MAPPED: AtomicU64 = AtomicU64::new(0);
/// Each CPU's APIC id.
static IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Finds the registers. The boot CPU calls it once, before [`init_cpu`].
pub(crate) fn init(address: u64) -> Option<()> {
    if Feature::X2APIC.present() {
        return Some(());
    }
    let address = if address == 0 { DEFAULT_BASE } else { address };
    let vaddr = kernel::reserve(PAGE_SIZE as u64, PAGE_SIZE as u64)?;
    let flags = WRITABLE | NO_EXEC | GLOBAL | NO_CACHE | WRITE_THROUGH;
    // SAFETY: 1. just reserved. 2. the APIC's registers, used by this module only.
    unsafe { kernel::map(vaddr, address, PAGE_SIZE as u64, flags) }.ok()?;
    MAPPED.store(vaddr, Ordering::Relaxed);
    Some(())
}

#[inline]
fn read(register: u32) -> u32 {
    match MAPPED.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on (`init_cpu`), which has all registers that this module reads.
        0 => unsafe { rdmsr(X2APIC_MSRS + register / 16) as u32 },
        // SAFETY: `init` mapped the page for good; offsets are inside and aligned.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

#[inline]
fn write(register: u32, value: u32) {
    match MAPPED.load(Ordering::Relaxed) {
        // SAFETY: as `read`; callers write valid values. The APIC changes no memory.
        0 => unsafe { wrmsr(X2APIC_MSRS + register / 16, u64::from(value)) },
        // SAFETY: as `read`.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Switches this CPU's APIC on: no device lines of its own, NMI at LINT1, timer stopped.
pub(crate) fn init_cpu(cpu: u32) {
    let mode = if MAPPED.load(Ordering::Relaxed) == 0 { APIC_BASE_X2 } else { 0 };
    // SAFETY: every x86-64 CPU has the register; x2APIC was asked for. No memory changes its meaning.
    unsafe { wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | APIC_BASE_ENABLE | mode) };
    write(TASK_PRIORITY, 0);
    write(LVT_TIMER, LVT_MASKED);
    write(LVT_LINT0, LVT_MASKED);
    write(LVT_LINT1, DELIVER_NMI);
    write(LVT_ERROR, LVT_MASKED);
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(VECTOR_SPURIOUS));
    let id = if mode == 0 { read(ID) >> 24 } else { read(ID) };
    IDS[cpu as usize].store(id, Ordering::Relaxed);
}

/// The APIC id of `cpu`.
pub(crate) fn id_of(cpu: u32) -> u32 {
    IDS[cpu as usize].load(Ordering::Relaxed)
}

/// Tells that the handler of the current interrupt is done with it.
#[inline]
pub(crate) fn end_of_interrupt() {
    write(EOI, 0);
}

fn send(id: u32, command: u32) {
    if MAPPED.load(Ordering::Relaxed) == 0 {
        // WRMSR to x2APIC registers does not wait for earlier stores (SDM vol. 3, 11.12.3): the receiver must see
        // what it is called for.
        core::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: x2APIC mode is on; the command is one of this module's.
        unsafe { wrmsr(X2APIC_MSRS + ICR_LOW / 16, u64::from(id) << 32 | u64::from(command)) };
        return;
    }
    // The two halves belong together: no interrupt may send in between.
    let _off = crate::irq::disable();
    while read(ICR_LOW) & ICR_BUSY != 0 {
        instr::pause();
    }
    write(ICR_HIGH, id << 24);
    write(ICR_LOW, command);
}

/// Interrupts `cpu` with `vector`.
pub(crate) fn send_vector(cpu: u32, vector: u8) {
    send(id_of(cpu), u32::from(vector) | LEVEL_ASSERT);
}

/// Interrupts `cpu` even if it masks interrupts.
pub(crate) fn send_nmi(cpu: u32) {
    send(id_of(cpu), DELIVER_NMI | LEVEL_ASSERT);
}

/// Puts the CPU with this APIC id into its wait-for-startup state.
#[inline]
pub(crate) fn send_init(id: u32) {
    send(id, DELIVER_INIT | LEVEL_ASSERT);
}

/// Starts the CPU with this APIC id in real mode at the page `page` (below 1 MiB).
///
/// # Safety
///
/// 1. Code is there that brings the CPU up, and its data is set for this CPU.
#[inline]
pub(crate) unsafe fn send_startup(id: u32, page: u8) {
    send(id, DELIVER_STARTUP | LEVEL_ASSERT | u32::from(page));
}

/// Starts counting down from the largest value, without an interrupt: for calibration.
pub(crate) fn start_counting() {
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, LVT_MASKED | u32::from(VECTOR_TIMER));
    write(TIMER_INITIAL, u32::MAX);
}

/// How far [`start_counting`] has come.
pub(crate) fn counted() -> u32 {
    u32::MAX - read(TIMER_CURRENT)
}

/// Prepares this CPU's timer for one-shot use.
pub(crate) fn init_timer(tsc_deadline: bool) {
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER_INITIAL, 0);
    let mode = if tsc_deadline { LVT_TSC_DEADLINE } else { 0 };
    write(LVT_TIMER, u32::from(VECTOR_TIMER) | mode);
    // SDM vol. 3, 11.5.4.1: the mode change comes before the first deadline.
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// Lets the timer fire after `count` of its ticks; 0 stops it.
#[inline]
pub(crate) fn set_count(count: u32) {
    write(TIMER_INITIAL, count);
}

/// Lets the timer fire when the TSC reaches `tsc`; 0 stops it.
///
/// # Safety
///
/// 1. The CPU has the TSC-deadline mode.
#[inline]
pub(crate) unsafe fn set_deadline(tsc: u64) {
    // SAFETY: 1.
    unsafe { wrmsr(IA32_TSC_DEADLINE, tsc) };
}
