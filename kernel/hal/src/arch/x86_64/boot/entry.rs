//! The first instructions: from the loader's 32-bit world to Rust at the link address.
//!
//! ```text
//! keel_pvh_start   32-bit, paging off, EBX = hvm_start_info (Xen public/arch-x86/hvm/start_info.h)
//!   clear .bss, build boot tables, enable long mode
//! keel_start64     64-bit, running in the identity map. Another loader (a bzImage or EFI stub) joins here with
//!                  RDI = kind of boot information, RSI = its physical address, and the boot tables loaded.
//!   jump to the link address, take the boot stack
//! early::start     Rust
//! ```
//!
//! Boot tables: physical 0..1 GiB mapped twice by 2 MiB pages, at 0 (dropped with these tables) and at -2 GiB.
//! `keel_boot_pd_high` is a table of its own so that KASLR can add the second place of the image to it.
//!
//! Everything here addresses memory relative to the instruction pointer or to EBP, the load address: a
//! position-independent image has no absolute 32-bit relocations.
//!
//! Sources: Intel SDM vol. 3 ch. 10.8.5 (initialising IA-32e mode), Xen docs/misc/pvh.pandoc.

use core::arch::global_asm;

/// Bytes of the stack that the boot CPU uses until the first thread exists.
pub(crate) const BOOT_STACK_BYTES: usize = 64 * 1024;

global_asm!(
    r#"
    # \reg = physical address of \symbol, by its distance to the first byte of the image.
    .macro  PHYS symbol, reg
    leal    (\symbol - keel_pvh_start)(%ebp), %\reg
    .endm

    .section .text.boot, "ax", @progbits
    .code32
    .globl keel_pvh_start
keel_pvh_start:
    cld
    cli
    movl    %ebx, %esi                      # kept through the clearing below
    movl    ${phys}, %ebp                   # where keel_pvh_start, the first byte of the image, was loaded

    PHYS    __bss_start, edi
    PHYS    __bss_end, ecx
    subl    %edi, %ecx
    shrl    $2, %ecx
    xorl    %eax, %eax
    rep stosl
    PHYS    keel_boot_stack_end, esp

    # PML4[0] and PML4[511]; 3 is present, writable
    PHYS    keel_boot_pml4, edi
    PHYS    keel_boot_pdpt_low, eax
    orl     $3, %eax
    movl    %eax, (%edi)
    PHYS    keel_boot_pdpt_high, eax
    orl     $3, %eax
    movl    %eax, 511 * 8(%edi)
    movl    %edi, %cr3
    # PDPT_LOW[0] and PDPT_HIGH[510] (-2 GiB)
    PHYS    keel_boot_pdpt_low, edi
    PHYS    keel_boot_pd_low, eax
    orl     $3, %eax
    movl    %eax, (%edi)
    PHYS    keel_boot_pdpt_high, edi
    PHYS    keel_boot_pd_high, eax
    orl     $3, %eax
    movl    %eax, 510 * 8(%edi)
    # Both page directories: 512 * 2 MiB, present, writable, large
    PHYS    keel_boot_pd_low, edi
    PHYS    keel_boot_pd_high, edx
    movl    $0x83, %eax
    xorl    %ecx, %ecx
2:  movl    %eax, (%edi, %ecx, 8)
    movl    %eax, (%edx, %ecx, 8)
    addl    $0x200000, %eax
    incl    %ecx
    cmpl    $512, %ecx
    jne     2b

    movl    %cr4, %eax
    orl     $0x20, %eax                     # PAE
    movl    %eax, %cr4
    movl    $0xc0000080, %ecx               # IA32_EFER
    rdmsr
    orl     $0x100, %eax                    # LME
    wrmsr
    movl    %cr0, %eax
    orl     $0x80000001, %eax               # PG, PE
    movl    %eax, %cr0

    # A far return to 64-bit code through our own GDT.
    PHYS    keel_boot_gdt, eax
    subl    $16, %esp
    movw    $23, (%esp)
    movl    %eax, 2(%esp)
    lgdt    (%esp)
    addl    $16, %esp
    pushl   $0x08
    PHYS    keel_pvh_start64, eax
    pushl   %eax
    lretl
    .code64
    .text
    "#,
    phys = const super::KERNEL_PHYS,
    options(att_syntax),
);

global_asm!(
    r#"
    .section .text.boot, "ax", @progbits
    .code64
keel_pvh_start64:
    mov     edi, 0                          # BootKind::Pvh
    mov     esi, esi                        # the upper half is undefined after the mode switch
    .globl keel_start64
keel_start64:
    xor     eax, eax
    mov     ss, eax
    mov     ds, eax
    mov     es, eax
    mov     fs, eax
    mov     gs, eax
    movabs  rax, 0xffffffff80000000
    lea     rcx, [rip + 4f]
    add     rax, rcx
    jmp     rax
4:  lea     rsp, [rip + keel_boot_stack_end]
    xor     ebp, ebp
    call    {start}
    ud2

    .balign 8
keel_boot_gdt:
    .quad   0
    .quad   0x00af9a000000ffff              # 64-bit code
    .quad   0x00cf92000000ffff              # data

    # Continues at `rdi` with stack and frame moved up by `rsi` bytes: the same physical memory, another address.
    .globl keel_slide_and_call
keel_slide_and_call:
    add     rsp, rsi
    and     rsp, -16                        # as the ABI wants it before a call
    xor     ebp, ebp
    mov     rax, rdi
    mov     rdi, rdx
    mov     rsi, rcx
    call    rax
    ud2

    .section .bss.boot, "aw", @nobits
    .balign 4096
keel_boot_pml4:      .skip 4096
keel_boot_pdpt_low:  .skip 4096
keel_boot_pdpt_high: .skip 4096
keel_boot_pd_low:    .skip 4096
    .globl keel_boot_pd_high
keel_boot_pd_high:   .skip 4096
    .globl keel_boot_stack
keel_boot_stack:     .skip {stack_bytes}
    .globl keel_boot_stack_end
keel_boot_stack_end:
    .text
    "#,
    start = sym super::early::start,
    stack_bytes = const BOOT_STACK_BYTES,
);
