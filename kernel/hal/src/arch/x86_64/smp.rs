//! Starting the other CPUs.
//!
//! ```text
//! boot CPU                                     other CPU
//!   copies the trampoline to page 8
//!   per CPU: area, stack → parameters
//!   INIT, STARTUP                               real mode at 8000: protected mode, long mode,
//!                                               the kernel's tables, its stack, ap_main
//!   waits for its bit in ONLINE                 traps, features, APIC; sets its bit
//!   next CPU                                    calls `entry`
//! ```
//!
//! The trampoline's tables map the first 2 MiB at their own address beside the kernel's half; they are used for a
//! few instructions. CPUs start one after another, so one set of parameters is enough.
//!
//! Source: Intel SDM vol. 3 ch. 9.4.4 (MP initialisation), 11.6.1 (ICR).

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::boot::early::TRAMPOLINE;
use super::cpulocal::CpuLocal;
use super::paging::pte::{self, PRESENT, WRITABLE};
use super::stack::KernelStack;
use super::{acpi, apic, clocksource, cpu, mem, time, traps};
use crate::addr::PAGE_SHIFT;
use crate::cpu::MAX_CPUS;

/// How long a CPU may take to come up.
const START_TIMEOUT_NS: u64 = 1_000_000_000;
/// After this long without a sign the startup message is repeated once, as the manual says.
const REPEAT_NS: u64 = 10_000_000;
/// Pages behind the trampoline that hold its tables.
const TABLES: [u64; 3] = [TRAMPOLINE + 0x1000, TRAMPOLINE + 0x2000, TRAMPOLINE + 0x3000];

/// What the other CPUs call when they are up; the address of a `fn() -> !`.
static ENTRY: AtomicUsize = AtomicUsize::new(0);

global_asm!(
    r#"
    .section .rodata.trampoline, "a", @progbits
    .balign 16
    .globl  keel_trampoline
    .globl  keel_trampoline_end
    .globl  keel_trampoline_params
    # Runs at {base}: real mode, CS = {base} / 16, IP = 0. Addresses are offsets from keel_trampoline plus {base}.
    .code16
keel_trampoline:
    cli
    cld
    xorw    %ax, %ax
    movw    %ax, %ds
    lgdtl   {base} + 100f - keel_trampoline
    movl    $0x11, %eax                     # PE, ET
    movl    %eax, %cr0
    ljmpl   $0x08, ${base} + 101f - keel_trampoline
    .code32
101:
    movw    $0x18, %ax
    movw    %ax, %ds
    movw    %ax, %ss
    movl    $0x20, %eax                     # PAE
    movl    %eax, %cr4
    movl    ${tables}, %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx               # IA32_EFER
    rdmsr
    orl     $0x900, %eax                    # LME, NXE
    wrmsr
    movl    $0x80010011, %eax               # PG, WP, ET, PE
    movl    %eax, %cr0
    ljmpl   $0x10, ${base} + 102f - keel_trampoline
    .code64
102:
    movq    {base} + keel_trampoline_params - keel_trampoline, %rax
    movq    {base} + keel_trampoline_params - keel_trampoline + 8, %rsp
    movq    {base} + keel_trampoline_params - keel_trampoline + 16, %rdi
    movq    {base} + keel_trampoline_params - keel_trampoline + 24, %rdx
    xorl    %ebp, %ebp
    jmpq    *%rdx
    .balign 8
103:
    .quad   0
    .quad   0x00cf9a000000ffff              # 08: 32-bit code
    .quad   0x00af9a000000ffff              # 10: 64-bit code
    .quad   0x00cf92000000ffff              # 18: data
100:
    .word   31
    .long   {base} + 103b - keel_trampoline
    .balign 8
keel_trampoline_params:
    .skip   32
keel_trampoline_end:
    .text

    # In the kernel's half: rax = its top table, rdi = per-CPU area, rsp = stack.
    .globl  keel_ap_start
keel_ap_start:
    movq    %rax, %cr3
    call    {main}
    ud2
    "#,
    base = const TRAMPOLINE,
    tables = const TABLES[0],
    main = sym ap_main,
    options(att_syntax),
);

unsafe extern "C" {
    static keel_trampoline: u8;
    static keel_trampoline_end: u8;
    static keel_trampoline_params: u8;
    fn keel_ap_start();
}

/// Where physical address `paddr` of the trampoline's pages can be written.
fn low(paddr: u64) -> *mut u64 {
    mem::frame_ptr(paddr >> PAGE_SHIFT).wrapping_add(paddr as usize & 0xfff).cast()
}

/// Copies the trampoline and fills its tables.
fn prepare() {
    let start = &raw const keel_trampoline;
    let len = &raw const keel_trampoline_end as usize - start as usize;
    // SAFETY: `early` reserved the four pages at `TRAMPOLINE`, which nothing else uses; the direct map covers them.
    // The kernel's root is a table that lives for ever.
    unsafe {
        core::ptr::copy_nonoverlapping(start, low(TRAMPOLINE).cast(), len);
        let kernel = mem::frame_ptr(mem::kernel_root() >> PAGE_SHIFT).cast::<u64>();
        core::ptr::copy_nonoverlapping(kernel, low(TABLES[0]), pte::ENTRIES);
        low(TABLES[1]).write_bytes(0, pte::ENTRIES);
        low(TABLES[2]).write_bytes(0, pte::ENTRIES);
        low(TABLES[0]).write(TABLES[1] | PRESENT | WRITABLE);
        low(TABLES[1]).write(TABLES[2] | PRESENT | WRITABLE);
        low(TABLES[2]).write(PRESENT | WRITABLE | pte::LARGE);
    }
}

/// Starts CPUs until `max` run; see the front.
pub(crate) fn start_all(max: usize, entry: fn() -> !) -> usize {
    let own = apic::id_of(0);
    let others: alloc::vec::Vec<u32> =
        acpi::platform().apic_ids.iter().copied().filter(|id| *id != own).collect();
    let max = max.min(MAX_CPUS);
    if max <= 1 || others.is_empty() {
        return cpu::nr_online();
    }
    prepare();
    ENTRY.store(entry as *const () as usize, Ordering::Release);
    for id in others {
        let next = cpu::nr_online();
        if next >= max {
            break;
        }
        if let Err(reason) = start(next as u32, id) {
            log::error!("CPU with APIC id {id} does not start: {reason}");
            break;
        }
    }
    cpu::nr_online()
}

fn start(number: u32, apic_id: u32) -> Result<(), &'static str> {
    let stack = KernelStack::new().map_err(|_| "no memory for its stack")?;
    let local = CpuLocal::allocate(number).ok_or("no memory for its area")?;
    let params = &raw const keel_trampoline_params as u64 - &raw const keel_trampoline as u64;
    let values = [
        mem::kernel_root(),
        stack.top(),
        core::ptr::from_ref(local) as u64,
        keel_ap_start as *const () as u64,
    ];
    // SAFETY: the parameters lie in the copied trampoline; no CPU is starting now.
    unsafe { low(TRAMPOLINE + params).cast::<[u64; 4]>().write_volatile(values) };
    // The CPU keeps its stack for ever: it is the stack of its idle thread.
    core::mem::forget(stack);
    apic::send_init(apic_id);
    crate::time::delay_ns(10_000);
    // SAFETY: the trampoline is in place, its parameters are this CPU's.
    unsafe { apic::send_startup(apic_id, (TRAMPOLINE >> PAGE_SHIFT) as u8) };
    let started = time::now_ns();
    let mut repeated = false;
    while cpu::online_mask().0 & 1 << number == 0 {
        clocksource::meet_new_cpu();
        let waited = time::now_ns().saturating_sub(started);
        if waited > REPEAT_NS && !repeated {
            repeated = true;
            // SAFETY: as above; a CPU that has started ignores it.
            unsafe { apic::send_startup(apic_id, (TRAMPOLINE >> PAGE_SHIFT) as u8) };
        }
        if waited > START_TIMEOUT_NS {
            return Err("no answer");
        }
        crate::cpu::relax();
    }
    Ok(())
}

/// First Rust code of another CPU, with the kernel's tables loaded.
extern "C" fn ap_main(local: &'static CpuLocal) -> ! {
    cpu::enable_paging_features();
    // SAFETY: 1. once for this CPU, by itself, interrupts off, after the boot CPU's call. 2. `start` made it for us.
    unsafe { traps::init_cpu(local) };
    cpu::enable_features();
    apic::init_cpu(local.id);
    time::init_cpu();
    traps::init_thread();
    clocksource::meet_boot_cpu();
    cpu::set_online(local.id);
    let entry = ENTRY.load(Ordering::Acquire) as *const ();
    // SAFETY: `start_all` stored a `fn() -> !` before it started us.
    let entry: fn() -> ! = unsafe { core::mem::transmute(entry) };
    cpu::preempt_dec();
    entry()
}
