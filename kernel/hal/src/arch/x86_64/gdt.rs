//! Segments, the task-state segment and the stacks that entry code must find whatever happened.
//!
//! The selectors are Linux's, because user space sees them (signal frames, ptrace, `mov ax, cs`): user code 0x33,
//! user data 0x2b, and 0x23 for 32-bit user code, which a 64-bit program reaches by a far jump. There are no 32-bit
//! system calls: `int 0x80` and SYSENTER are #GP, SYSCALL is #UD or ENOSYS. A process's own segments are in `ldt`.
//!
//! Interrupt stacks: NMI, double fault, machine check and #DB may strike while RSP or GS is not the kernel's (the first
//! instructions of SYSCALL entry, a kernel stack that ran into its guard page), so each has a stack of its own. The
//! word at a stack's top holds the address of the [`CpuLocal`] it belongs to, which is how the entry code of these
//! four finds it.
//!
//! Source: Intel SDM vol. 3, ch. 3.4.5 (descriptors), 8.2.3 (TSS), 7.14.5 (IST).

use core::arch::asm;
use core::mem::size_of;

use super::cpulocal::CpuLocal;
use super::instr::{self, IA32_GS_BASE, IA32_KERNEL_GS_BASE};
use crate::descriptor::Descriptor;
use crate::ports::MAP_WORDS;

/// Kernel code.
pub(super) const KERNEL_CS: u16 = 0x10;
/// Kernel data and stack.
pub(super) const KERNEL_DS: u16 = 0x18;
/// User data and stack, with RPL 3.
pub(super) const USER_DS: u16 = 0x2b;
/// User 64-bit code, with RPL 3.
pub(super) const USER_CS: u16 = 0x33;
/// User 32-bit code, with RPL 3. What SYSRET adds to: +8 is user data, +16 is user code.
pub(super) const USER32_CS: u16 = 0x23;
const TSS: u16 = 0x40;
/// The descriptor of the local table; see `ldt`.
const LDT: u16 = 0x50;
/// A data segment whose limit is this CPU's number: the vDSO's getcpu reads it with LSL.
pub(super) const CPU_NUMBER: u16 = 0x7b;

/// Entry of the TSS's stack table, counted from 1 as gates do.
pub(super) const IST_NMI: u8 = 1;
pub(super) const IST_DOUBLE_FAULT: u8 = 2;
pub(super) const IST_MACHINE_CHECK: u8 = 3;
pub(super) const IST_DEBUG: u8 = 4;

const IST_BYTES: usize = 8192;

#[repr(C, align(16))]
struct IstStack {
    room: [u8; IST_BYTES - 16],
    cpu: *const CpuLocal,
    pad: u64,
}

/// The 64-bit task-state segment; the words are not aligned to 8.
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

/// Where the map of ports begins in the segment.
const PORTS_AT: u16 = size_of::<TaskState>() as u16;
/// The segment with that map, and the ones that the CPU wants behind it.
const TSS_BYTES: usize = size_of::<TaskState>() + (MAP_WORDS + 1) * 8;
/// Beyond the segment: there is no map, and all ports fault in user mode.
const NO_PORTS: u16 = TSS_BYTES as u16;

const USER32_CODE: u64 = 0x00cf_fb00_0000_ffff;
const USER_DATA: u64 = 0x00cf_f300_0000_ffff;
const USER_CODE: u64 = 0x00af_fb00_0000_ffff;
/// Limit in bytes, DPL 3, read-only data; the limit is added.
const CPU_NUMBER_DATA: u64 = 0x0040_f100_0000_0000;

/// What user code finds at `selector`, a global one with RPL 3; of what is not for it, nothing.
pub(super) fn user_descriptor(selector: u16) -> Descriptor {
    Descriptor(match selector {
        USER32_CS => USER32_CODE,
        USER_DS => USER_DATA,
        USER_CS => USER_CODE,
        CPU_NUMBER => CPU_NUMBER_DATA,
        _ => 0,
    })
}

/// The tables of one CPU.
#[repr(C, align(16))]
pub(super) struct Descriptors {
    gdt: [u64; 16],
    tss: TaskState,
    /// Directly behind `tss`; a set bit forbids a port. The last word is all ones.
    ports: [u64; MAP_WORDS + 1],
    /// Which map that is.
    ports_id: u64,
    stacks: [IstStack; 4],
}

const _: () = assert!(
    core::mem::offset_of!(Descriptors, ports) - core::mem::offset_of!(Descriptors, tss) == PORTS_AT as usize
);

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

impl Descriptors {
    pub(super) const fn new() -> Descriptors {
        const EMPTY: IstStack = IstStack { room: [0; IST_BYTES - 16], cpu: core::ptr::null(), pad: 0 };
        let mut gdt = [0; 16];
        gdt[KERNEL_CS as usize / 8] = 0x00af_9b00_0000_ffff;
        gdt[KERNEL_DS as usize / 8] = 0x00cf_9300_0000_ffff;
        gdt[USER32_CS as usize / 8] = USER32_CODE;
        gdt[USER_DS as usize / 8] = USER_DATA;
        gdt[USER_CS as usize / 8] = USER_CODE;
        Descriptors {
            gdt,
            tss: TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: 0,
                reserved3: 0,
                io_map_base: NO_PORTS,
            },
            ports: [u64::MAX; MAP_WORDS + 1],
            ports_id: 0,
            stacks: [EMPTY; 4],
        }
    }
}

/// Loads this CPU's GDT, TSS and segment registers, and its GS base with `cpu`.
///
/// # Safety
///
/// 1. Called once per CPU, on that CPU, with interrupts off, before anything reads per-CPU data.
/// 2. `cpu` belongs to this CPU alone.
pub(super) unsafe fn load(cpu: &'static CpuLocal) {
    let tables = cpu.descriptors.get();
    // SAFETY: by 1 and 2 nobody else reads or writes the tables now.
    let tables = unsafe { &mut *tables };
    for (stack, slot) in tables.stacks.iter_mut().zip(0..) {
        stack.cpu = cpu;
        stack.pad = 0;
        let top = core::ptr::from_ref(&stack.cpu) as u64;
        debug_assert!(!stack.room.is_empty());
        let mut ist = tables.tss.ist;
        ist[slot] = top;
        tables.tss.ist = ist;
    }
    let base = core::ptr::from_ref(&tables.tss) as u64;
    let limit = TSS_BYTES as u64 - 1;
    tables.gdt[TSS as usize / 8] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    tables.gdt[TSS as usize / 8 + 1] = base >> 32;
    // Linux keeps the node number above bit 12; here it is always 0.
    tables.gdt[CPU_NUMBER as usize / 8] = CPU_NUMBER_DATA | u64::from(cpu.id & 0xfff);

    let pointer = TablePointer { limit: size_of::<[u64; 16]>() as u16 - 1, base: tables.gdt.as_ptr() as u64 };
    // SAFETY: the table lives as long as the kernel and holds the selectors loaded here. Reloading CS by a far
    // return to the next instruction keeps control where it is. FS and GS get null: their bases come from MSRs.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {cs}",
            "lea {tmp}, [rip + 2f]",
            "push {tmp}",
            "retfq",
            "2:",
            "mov ds, {zero:e}",
            "mov es, {zero:e}",
            "mov fs, {zero:e}",
            "mov gs, {zero:e}",
            "mov ss, {ds:e}",
            "ltr {tr:x}",
            pointer = in(reg) &raw const pointer,
            cs = const KERNEL_CS,
            tmp = out(reg) _,
            zero = in(reg) 0,
            ds = in(reg) u32::from(KERNEL_DS),
            tr = in(reg) TSS,
        );
    }
    // SAFETY: every x86-64 CPU has both registers; nothing has read per-CPU data yet (1).
    unsafe {
        instr::wrmsr(IA32_GS_BASE, cpu.address());
        instr::wrmsr(IA32_KERNEL_GS_BASE, 0);
    }
}

/// Sets the stack that interrupts and exceptions from user mode start on.
///
/// # Safety
///
/// 1. Interrupts are off and `cpu` is this CPU's area.
/// 2. `top`, a multiple of 16, is the top of a kernel stack that stays allocated until another one is set.
#[inline]
pub(super) unsafe fn set_kernel_stack(cpu: &CpuLocal, top: u64) {
    // Eight bytes down, so that the stack is aligned to 16 after SYSCALL entry's 21 pushes.
    cpu.kernel_sp.store(top.wrapping_sub(8), core::sync::atomic::Ordering::Relaxed);
    let tables = cpu.descriptors.get();
    // SAFETY: by 1 only this CPU touches the table, and its hardware reads it only on entry from user mode.
    unsafe { (&raw mut (*tables).tss.rsp).cast::<u64>().write_unaligned(top) };
}

/// Lets user code on this CPU use the ports whose bits are clear in `words`, which are the map `id`.
///
/// # Safety
///
/// 1. Interrupts are off and `cpu` is this CPU's area.
#[cold]
pub(super) unsafe fn open_ports(cpu: &CpuLocal, words: &[u64], id: u64) {
    let tables = cpu.descriptors.get();
    // SAFETY: by 1 only this CPU touches the tables, and its hardware reads the map only in user mode. The last word
    // stays as it is.
    unsafe {
        if (*tables).ports_id != id {
            let ports = &mut (*tables).ports;
            ports[..MAP_WORDS].copy_from_slice(&words[..MAP_WORDS]);
            (*tables).ports_id = id;
        }
        (&raw mut (*tables).tss.io_map_base).write_unaligned(PORTS_AT);
    }
}

/// Keeps user code on this CPU from all ports.
///
/// # Safety
///
/// 1. Interrupts are off and `cpu` is this CPU's area.
#[cold]
pub(super) unsafe fn close_ports(cpu: &CpuLocal) {
    let tables = cpu.descriptors.get();
    // SAFETY: as in `open_ports`.
    unsafe { (&raw mut (*tables).tss.io_map_base).write_unaligned(NO_PORTS) };
}

/// Loads the kernel's stack segment if an interrupt from user mode has put null there. It makes no difference in the kernel,
/// but AMD's SYSRET leaves the attributes of a null segment in SS, which 32-bit code would meet (AMD64 manual vol. 3,
/// SYSRET). Only a switch from a thread that came by an interrupt to one that leaves by SYSRET can show it.
#[inline]
pub(super) fn keep_kernel_ss() {
    let ss: u16;
    // SAFETY: reading a segment register has no effect.
    unsafe { asm!("mov {:x}, ss", out(reg) ss, options(nomem, nostack, preserves_flags)) };
    if ss != KERNEL_DS {
        // SAFETY: the segment that `load` has put there.
        unsafe { asm!("mov ss, {:x}", in(reg) KERNEL_DS, options(nostack, preserves_flags)) };
    }
}

/// Makes `range` (address and length in bytes) this CPU's local descriptor table; `None`: it has none.
///
/// # Safety
///
/// 1. Interrupts are off.
/// 2. The memory holds descriptors of user segments with the accessed bit (L2 of `ldt`), and stays so until another
///    table is loaded. It is 1 to 8192 descriptors long.
pub(super) unsafe fn load_ldt(range: Option<(u64, usize)>) {
    let selector = match range {
        None => 0,
        Some((base, len)) => {
            let tables = super::cpulocal::this().descriptors.get();
            let limit = len as u64 - 1;
            let low = limit & 0xffff | (base & 0xff_ffff) << 16 | 0x82 << 40 | (base >> 24 & 0xff) << 56;
            // SAFETY: by 1 only this CPU touches its tables now; its hardware reads the entry in LLDT only.
            unsafe {
                (*tables).gdt[LDT as usize / 8] = low;
                (*tables).gdt[LDT as usize / 8 + 1] = base >> 32;
            }
            LDT
        }
    };
    // SAFETY: the selector is null or that of a descriptor just made, of memory that is good by 2.
    unsafe { asm!("lldt {:x}", in(reg) selector, options(nostack, preserves_flags)) };
}
