//! The first and last instructions of the kernel: exception and interrupt stubs, SYSCALL entry, return to user mode.
//!
//! Every entry builds a [`UserRegs`] on the kernel stack and calls one Rust function with its address:
//!
//! ```text
//! vector stub i: error code (or 0) and vector into the orig_rax slot
//!   from user mode: swapgs              from the kernel: GS is right already
//!   push the other registers, call trap(&mut regs)
//!   to user mode: leave(&mut regs), swapgs, iretq      to the kernel: iretq
//! SYSCALL: swapgs, take the kernel stack, push everything, call system_call(&mut regs)
//!   no work left, rcx == rip, r11 == rflags and both harmless: swapgs, sysretq; otherwise as above
//! NMI, #DF, #MC: stack of their own, GS base from the word at its top, restored by MSR afterwards
//! interrupt from the kernel: the registers on the thread's stack, the handler on the CPU's interrupt stack
//! #DB: stack of its own; from user mode the frame moves to the thread's stack and goes the way of the stubs,
//!   from the kernel it is treated as the three above
//! ```
//!
//! # Invariants
//!
//! - E1: to user mode goes only what [`super::exception::leave`] sanitised, so that IRET cannot fault, or what the checks
//!   before SYSRET passed: a canonical `rip` in the lower half and `rflags` with only arithmetic bits, AC, DF and ID free.
//! - E2: the instructions between SWAPGS and the kernel stack, and between the user's RSP and SYSRET, run with
//!   interrupts off and touch nothing that can fault; NMI and machine check do not trust GS or RSP.
//! - E3: #DB may strike those instructions (`mov ss` from a watched address delays it past SYSCALL), and user copies:
//!   so it has a stack of its own and trusts neither GS nor RSP when it comes from the kernel. SFMASK and gates clear TF.
//! - E4: a CPU's interrupt stack has one user at a time: handlers run with interrupts off, and what interrupts or faults
//!   there neither lets them in nor switches threads.
//!
//! A panic unwinds through these frames: the CFI below describes them, and [`super::unwind`]'s personality ends the
//! thread at the first frame that user mode entered through.
//!
//! Sources: Intel SDM vol. 2 (SYSCALL, SYSRET, SWAPGS, IRET), vol. 3 ch. 6.14 (64-bit interrupt frames).

use core::arch::global_asm;
use core::mem::offset_of;

use super::cpulocal::{OFFSET_CURRENT, OFFSET_INTERRUPT_SP, OFFSET_KERNEL_SP, OFFSET_USER_SP};
use super::gdt::{USER_CS, USER_DS};
use super::instr::IA32_GS_BASE;
use super::thread::OFFSET_WORK;
use crate::trap::UserRegs;

const _: () = assert!(size_of::<UserRegs>() == 168 && offset_of!(UserRegs, rip) == 128);

/// The bits of RFLAGS that a program may set by itself and that SYSRET may restore unseen: CF PF AF ZF SF DF OF AC ID.
pub(super) const FREE_FLAGS: u64 = 0x24_0cd5;
/// The bits that are always set in user mode: IF and the fixed bit 1.
pub(super) const USER_FLAGS: u64 = 0x202;

unsafe extern "C" {
    /// The 256 stubs, 16 bytes each.
    pub(super) static keel_vector_stubs: [[u8; 16]; 256];
    pub(super) fn keel_debug_entry();
    pub(super) fn keel_nmi_entry();
    pub(super) fn keel_double_fault_entry();
    pub(super) fn keel_machine_check_entry();
    pub(super) fn keel_syscall_entry();
    pub(super) fn keel_syscall32_entry();
}

unsafe extern "C-unwind" {
    fn keel_on_interrupt_stack(vector: u8);
}

global_asm!(
    r#"
    # rsp points at a whole UserRegs; the entry has aligned it so that rsp + 8 is a multiple of 16.
    .macro  KEEL_PUSH_REGS
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    push    rax
    push    r8
    push    r9
    push    r10
    push    r11
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    .endm
    .macro  KEEL_POP_REGS
    pop     r15
    pop     r14
    pop     r13
    pop     r12
    pop     rbp
    pop     rbx
    pop     r11
    pop     r10
    pop     r9
    pop     r8
    pop     rax
    pop     rcx
    pop     rdx
    pop     rsi
    pop     rdi
    .endm
    # Where the unwinder finds the interrupted registers; \extra bytes lie below the UserRegs.
    .macro  KEEL_CFI_FRAME extra
    .cfi_def_cfa rsp, 168 + \extra
    .cfi_offset r15, -168
    .cfi_offset r14, -160
    .cfi_offset r13, -152
    .cfi_offset r12, -144
    .cfi_offset rbp, -136
    .cfi_offset rbx, -128
    .cfi_offset rip, -40
    .cfi_offset rsp, -16
    .endm

    .section .text.entry, "ax", @progbits
    .balign 16
    .globl  keel_vector_stubs
keel_vector_stubs:
    vector = 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push    0
    .endif
    mov     dword ptr [rsp + 4], vector
    jmp     keel_trap_entry
    vector = vector + 1
    .endr

    .balign 16
    .globl  keel_trap_entry
    .type   keel_trap_entry, @function
keel_trap_entry:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_personality 0x1b, {personality}
    .cfi_lsda 0x1b, keel_lsda
    KEEL_CFI_FRAME -120
    cld
    cmp     byte ptr [rip + {smap}], 0      # the interrupted code, user or kernel, may have AC set
    je      2f
    clac
2:  test    byte ptr [rsp + 16], 3
    jz      1f
    swapgs
1:  KEEL_PUSH_REGS
    sub     rsp, 8
    KEEL_CFI_FRAME 8
    lea     rdi, [rsp + 8]
    call    {trap}
    add     rsp, 8
    KEEL_CFI_FRAME 0
    test    byte ptr [rsp + 136], 3
    jnz     keel_iret_to_user
    KEEL_POP_REGS
    add     rsp, 8
    iretq
    .cfi_endproc
    .size   keel_trap_entry, . - keel_trap_entry

    # dil = vector. The frame pointer leads the unwinder back to the thread's stack.
    .balign 16
    .globl  keel_on_interrupt_stack
    .type   keel_on_interrupt_stack, @function
keel_on_interrupt_stack:
    .cfi_startproc
    push    rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov     rbp, rsp
    .cfi_def_cfa_register rbp
    mov     rax, gs:[{interrupt_sp}]
    test    rax, rax
    cmovnz  rsp, rax
    call    {kernel_interrupt}
    mov     rsp, rbp
    pop     rbp
    .cfi_def_cfa rsp, 8
    ret
    .cfi_endproc
    .size   keel_on_interrupt_stack, . - keel_on_interrupt_stack

    # Interrupts may be on or off here; rsp is at a UserRegs.
    .balign 16
    .globl  keel_iret_to_user
    .type   keel_iret_to_user, @function
keel_iret_to_user:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_personality 0x1b, {personality}
    .cfi_lsda 0x1b, keel_lsda
    mov     rdi, rsp
    test    rsp, 8                          # traps leave 8 mod 16, SYSCALL 0: align and remember
    jz      1f
    sub     rsp, 8
    KEEL_CFI_FRAME 8
    call    {leave}
    add     rsp, 8
    jmp     2f
1:  KEEL_CFI_FRAME 0
    call    {leave}
2:  KEEL_POP_REGS
    add     rsp, 8
    swapgs
    iretq
    .cfi_endproc
    .size   keel_iret_to_user, . - keel_iret_to_user

    .balign 16
    .globl  keel_syscall_entry
    .type   keel_syscall_entry, @function
keel_syscall_entry:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_personality 0x1b, {personality}
    .cfi_lsda 0x1b, keel_lsda
    swapgs
    mov     gs:[{user_sp}], rsp
    mov     rsp, gs:[{kernel_sp}]
    push    {user_ds}
    push    qword ptr gs:[{user_sp}]
    push    r11
    push    {user_cs}
    push    rcx
    push    rax
    push    rdi
    push    rsi
    push    rdx
    push    rcx
    push    -38                             # rax: -ENOSYS unless the handler says otherwise
    push    r8
    push    r9
    push    r10
    push    r11
    push    rbx
    push    rbp
    push    r12
    push    r13
    push    r14
    push    r15
    KEEL_CFI_FRAME 0
    mov     rdi, rsp
    sti
    call    {system_call}
    cli
    mov     rax, gs:[{current}]
    cmp     dword ptr [rax + {work}], 0
    jne     3f
2:  mov     rcx, [rsp + 128]
    mov     r11, [rsp + 144]
    cmp     rcx, [rsp + 88]                 # programs know that SYSCALL leaves rip in rcx ...
    jne     keel_iret_to_user
    cmp     r11, [rsp + 48]                 # ... and rflags in r11; anything else was put there on purpose
    jne     keel_iret_to_user
    mov     rax, rcx
    shr     rax, 47
    jnz     keel_iret_to_user
    mov     rax, r11
    xor     rax, {user_flags}
    test    rax, {not_free_flags}
    jnz     keel_iret_to_user
    KEEL_POP_REGS
    mov     rsp, [rsp + 32]
    swapgs
    sysretq
    KEEL_CFI_FRAME 0
3:  mov     rdi, rsp
    call    {exit_work}
    test    al, al
    jnz     keel_iret_to_user
    jmp     2b
    .cfi_endproc
    .size   keel_syscall_entry, . - keel_syscall_entry

    # SYSCALL from 32-bit code, on CPUs that have it there: no such calls.
    .globl  keel_syscall32_entry
keel_syscall32_entry:
    mov     eax, -38
    .byte   0x0f, 0x07                      # SYSRET to 32-bit mode

    # Where the personality sends a panic that nobody caught: rax = the exception, rsp = the entry's frame.
    .type   keel_unwound, @function
keel_unwound:
    .cfi_startproc
    .globl  keel_unwound
    and     rsp, -16
    push    0                               # no return address: backtraces end here
    push    0
    .cfi_def_cfa rsp, 8
    .cfi_offset rip, -8
    mov     rdi, rax
    call    {unwound}
    ud2
    .cfi_endproc

    .macro  KEEL_IST_ENTRY name, vector, has_error
    .balign 16
    .globl  \name
    .type   \name, @function
\name:
    .cfi_startproc
    .cfi_signal_frame
    KEEL_CFI_FRAME -120
    .if \has_error
    .else
    push    0
    .endif
    mov     dword ptr [rsp + 4], \vector
    cld
    cmp     byte ptr [rip + {smap}], 0
    je      1f
    clac
1:  KEEL_PUSH_REGS
    KEEL_CFI_FRAME 0
    mov     ecx, {gs_base_msr}
    rdmsr
    shl     rdx, 32
    or      rax, rdx
    mov     rbx, rax                        # the interrupted GS base
    mov     rax, [rsp + 168]                # the word at the stack's top: this CPU's area
    mov     rdx, rax
    shr     rdx, 32
    wrmsr
    mov     rdi, rsp
    sub     rsp, 8
    KEEL_CFI_FRAME 8
    call    {ist_trap}
    add     rsp, 8
    KEEL_CFI_FRAME 0
    mov     ecx, {gs_base_msr}
    mov     rax, rbx
    mov     rdx, rax
    shr     rdx, 32
    wrmsr
    KEEL_POP_REGS
    add     rsp, 8
    iretq
    .cfi_endproc
    .size   \name, . - \name
    .endm

    KEEL_IST_ENTRY keel_debug_from_kernel, 1, 0
    KEEL_IST_ENTRY keel_nmi_entry, 2, 0
    KEEL_IST_ENTRY keel_double_fault_entry, 8, 1
    KEEL_IST_ENTRY keel_machine_check_entry, 18, 0

    .balign 16
    .globl  keel_debug_entry
    .type   keel_debug_entry, @function
keel_debug_entry:
    test    byte ptr [rsp + 8], 3
    jz      keel_debug_from_kernel
    push    rax                             # [rdi] rdi, rax, rip, cs, rflags, rsp, ss
    push    rdi
    mov     rdi, rsp
    swapgs
    mov     rsp, gs:[{kernel_sp}]
    swapgs
    add     rsp, 8                          # where the CPU itself would have begun: a multiple of 16
    push    qword ptr [rdi + 48]
    push    qword ptr [rdi + 40]
    push    qword ptr [rdi + 32]
    push    qword ptr [rdi + 24]
    push    qword ptr [rdi + 16]
    mov     rax, [rdi + 8]
    mov     rdi, [rdi]
    push    0
    mov     dword ptr [rsp + 4], 1
    jmp     keel_trap_entry
    .size   keel_debug_entry, . - keel_debug_entry

    .section .rodata.keel_lsda, "a", @progbits
keel_lsda:
    .byte   0
    .text
    "#,
    trap = sym super::exception::trap,
    kernel_interrupt = sym super::exception::kernel_interrupt,
    ist_trap = sym super::exception::ist_trap,
    leave = sym super::exception::leave,
    exit_work = sym super::exception::exit_work,
    system_call = sym super::exception::system_call,
    personality = sym super::unwind::entry_personality,
    unwound = sym super::unwind::unwound,
    smap = sym super::usercopy::HAS_SMAP,
    user_sp = const OFFSET_USER_SP,
    kernel_sp = const OFFSET_KERNEL_SP,
    interrupt_sp = const OFFSET_INTERRUPT_SP,
    current = const OFFSET_CURRENT,
    work = const OFFSET_WORK,
    user_cs = const USER_CS,
    user_ds = const USER_DS,
    user_flags = const USER_FLAGS,
    not_free_flags = const !(FREE_FLAGS as i64),
    gs_base_msr = const IA32_GS_BASE,
);

/// Handles an interrupt that came while the kernel ran, on this CPU's interrupt stack.
///
/// # Safety
///
/// 1. Interrupts are off.
/// 2. Not called from a handler: nobody uses that stack (E4).
#[inline]
pub(super) unsafe fn on_interrupt_stack(vector: u8) {
    // SAFETY: the CPU's own stack, by 1 and 2 ours alone, or where there is none yet, the current one. The function keeps
    // what the calling convention says.
    unsafe { keel_on_interrupt_stack(vector) };
}
