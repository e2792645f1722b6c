//! Single instructions as functions: the only inline assembly outside entry and switch code.
//!
//! A function is safe when no argument can break memory safety (reading the clock, the CPU's identity, a hint);
//! everything else is `unsafe` with a numbered contract. Instructions that change what memory means or hand memory
//! over to a device are not `nomem`: the compiler must not move memory accesses across them.
//!
//! Sources: Intel SDM vol. 2 (one page an instruction), vol. 4 (registers).

use core::arch::asm;
pub(crate) use core::arch::x86_64::CpuidResult;

/// IA32_EFER: long mode, SYSCALL, no-execute.
pub(crate) const IA32_EFER: u32 = 0xc000_0080;
/// IA32_FS_BASE.
pub(crate) const IA32_FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE: this CPU's per-CPU area while in the kernel.
pub(crate) const IA32_GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE: what SWAPGS exchanges with the GS base.
pub(crate) const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Reads model-specific register `msr`.
///
/// # Safety
///
/// 1. This CPU has `msr`; RDMSR raises #GP otherwise.
#[inline]
pub(crate) unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: 1 is the caller's. Reading changes nothing that Rust knows of.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes `value` to model-specific register `msr` of this CPU.
///
/// # Safety
///
/// 1. This CPU has `msr` and accepts `value`; WRMSR raises #GP otherwise.
/// 2. With the new value, every address the kernel may still use means what it meant before.
#[inline]
pub(crate) unsafe fn wrmsr(msr: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: 1 and 2 are the caller's.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags)) }
}

/// Reads CPUID leaf `leaf`, sub-leaf `subleaf`. A leaf above the CPU's highest gives another leaf's values.
#[inline]
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// Reads the time-stamp counter, not ordered with other instructions.
#[inline]
pub(crate) fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every x86-64 CPU has RDTSC and the kernel never sets CR4.TSD for itself.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Reads the time-stamp counter after all earlier loads have completed.
#[inline]
pub(crate) fn rdtsc_ordered() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: as `rdtsc`; LFENCE (SSE2, in every x86-64 CPU) only orders.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Tells the CPU that this is a spin loop.
#[inline]
pub(crate) fn pause() {
    core::hint::spin_loop();
}

/// Reads one byte from I/O port `port`.
///
/// # Safety
///
/// 1. Reading `port` has no effect that breaks what its owner relies on.
#[inline]
pub(crate) unsafe fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: 1 is the caller's.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Reads two bytes from I/O port `port`.
///
/// # Safety
///
/// 1. As [`inb`].
#[inline]
pub(crate) unsafe fn inw(port: u16) -> u16 {
    let value: u16;
    // SAFETY: 1 is the caller's.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags)) };
    value
}

/// Reads four bytes from I/O port `port`.
///
/// # Safety
///
/// 1. As [`inb`].
#[inline]
pub(crate) unsafe fn inl(port: u16) -> u32 {
    let value: u32;
    // SAFETY: 1 is the caller's.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes one byte to I/O port `port`.
///
/// # Safety
///
/// 1. The device behind `port` touches no memory of the kernel because of this write, unless that memory was given
///    to it, and no other driver owns the port.
#[inline]
pub(crate) unsafe fn outb(port: u16, value: u8) {
    // SAFETY: 1 is the caller's.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

/// Writes two bytes to I/O port `port`.
///
/// # Safety
///
/// 1. As [`outb`].
#[inline]
pub(crate) unsafe fn outw(port: u16, value: u16) {
    // SAFETY: 1 is the caller's.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) }
}

/// Writes four bytes to I/O port `port`.
///
/// # Safety
///
/// 1. As [`outb`].
#[inline]
pub(crate) unsafe fn outl(port: u16, value: u32) {
    // SAFETY: 1 is the caller's.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Reads CR0.
#[inline]
pub(crate) fn read_cr0() -> u64 {
    let value: u64;
    // SAFETY: reading a control register at CPL 0 has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CR2, the address of the last page fault.
#[inline]
pub(crate) fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: as `read_cr0`.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads DR6, the cause of the last debug exception.
#[inline]
pub(crate) fn read_dr6() -> u64 {
    let value: u64;
    // SAFETY: as `read_cr0`.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets DR6, which the CPU only ever adds to; bits that must be 0 or 1 are the caller's care.
#[inline]
pub(crate) fn write_dr6(value: u64) {
    // SAFETY: a record of what happened; its upper half is 0 in every caller's constant, else this raises #GP.
    unsafe { asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nomem, nostack, preserves_flags)) };
}

/// Sets DR7, which breakpoints are on and what they wait for.
///
/// # Safety
///
/// 1. The upper half is 0, and what is switched on cannot strike kernel code outside user copies.
#[inline]
pub(crate) unsafe fn write_dr7(value: u64) {
    // SAFETY: 1.
    unsafe { asm!("mov dr7, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Sets the four breakpoint addresses, DR0 to DR3.
///
/// # Safety
///
/// 1. As for [`write_dr7`]: the addresses are user addresses, hence canonical.
#[inline]
pub(crate) unsafe fn write_breakpoints([a, b, c, d]: [u64; 4]) {
    // SAFETY: 1.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
             options(nostack, preserves_flags));
    }
}

/// Reads CR3, the physical address of the top page table and its flags.
#[inline]
pub(crate) fn read_cr3() -> u64 {
    let value: u64;
    // SAFETY: as `read_cr0`.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads CR4.
#[inline]
pub(crate) fn read_cr4() -> u64 {
    let value: u64;
    // SAFETY: as `read_cr0`.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes CR0.
///
/// # Safety
///
/// 1. Paging, protection and write protection stay on, and reserved bits stay as they are.
#[inline]
pub(crate) unsafe fn write_cr0(value: u64) {
    // SAFETY: 1 is the caller's.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Writes CR3, which also drops this CPU's non-global TLB entries.
///
/// # Safety
///
/// 1. `value` is the physical address of a top page table that maps the kernel's half as every other one does.
/// 2. That table stays allocated until another one is loaded on this CPU.
#[inline]
pub(crate) unsafe fn write_cr3(value: u64) {
    // SAFETY: 1 and 2 are the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Writes CR4. Changing PGE drops all TLB entries of this CPU.
///
/// # Safety
///
/// 1. The CPU has each feature whose bit is set.
/// 2. No address the kernel may still use changes its meaning.
#[inline]
pub(crate) unsafe fn write_cr4(value: u64) {
    // SAFETY: 1 and 2 are the caller's.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Drops this CPU's TLB entry for the page that holds `addr` (global or not).
#[inline]
pub(crate) fn invlpg(addr: u64) {
    // SAFETY: dropping a TLB entry only makes the CPU read the page table again. Not `nomem`: earlier writes to the
    // table must come first.
    unsafe { asm!("invlpg [{}]", in(reg) addr, options(nostack, preserves_flags)) }
}

/// Reads RFLAGS.
#[inline]
pub(crate) fn read_rflags() -> u64 {
    let value: u64;
    // SAFETY: pushes and pops one word of our own stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) value, options(nomem, preserves_flags)) };
    value
}

/// Masks interrupts on this CPU.
#[inline]
pub(crate) fn cli() {
    // SAFETY: masking interrupts is always sound. Not `nomem`: it opens a critical section.
    unsafe { asm!("cli", options(nostack)) }
}

/// Lets interrupts in on this CPU.
///
/// # Safety
///
/// 1. The IDT and this CPU's per-CPU area are loaded, and no guard that relies on masked interrupts is alive.
#[inline]
pub(crate) unsafe fn sti() {
    // SAFETY: 1 is the caller's.
    unsafe { asm!("sti", options(nostack)) }
}

/// Lets interrupts in and sleeps until one came; no interrupt can slip in between.
///
/// # Safety
///
/// 1. As [`sti`].
#[inline]
pub(crate) unsafe fn sti_hlt() {
    // SAFETY: 1 is the caller's.
    unsafe { asm!("sti", "hlt", options(nostack)) }
}

/// Sleeps until an interrupt; for ever when they are masked (an NMI still wakes it).
#[inline]
pub(crate) fn hlt() {
    // SAFETY: HLT changes no memory; handlers that run meanwhile keep their own contracts.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) }
}

/// A hardware random number by RDRAND, if the CPU gives one within ten tries.
///
/// # Safety
///
/// 1. CPUID.1:ECX.RDRAND[30] is set.
pub(crate) unsafe fn rdrand() -> Option<u64> {
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: 1 is the caller's.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
        if ok != 0 {
            return Some(value);
        }
    }
    None
}

/// A hardware random seed by RDSEED, if the CPU gives one within ten tries.
///
/// # Safety
///
/// 1. CPUID.7.0:EBX.RDSEED[18] is set.
pub(crate) unsafe fn rdseed() -> Option<u64> {
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: 1 is the caller's.
        unsafe { asm!("rdseed {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
        if ok != 0 {
            return Some(value);
        }
    }
    None
}
