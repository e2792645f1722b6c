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
pub(crate) const BOOT_STACK_BYTES: usize = 32 * 1024;

global_asm!(
    r#"
    # \reg = physical address of \symbol. AT&T syntax has this form of address, Intel syntax does not.
    .macro phys reg, symbol
    .att_syntax
    leal (\symbol - keel_pvh_start)(%ebp), %\reg
    .intel_syntax noprefix
    .endm

    .section .text.boot, "ax", @progbits
    .code32
    .globl keel_pvh_start
keel_pvh_start:
    cld
    cli
    mov     esi, ebx                        # kept through the clearing below
    mov     ebp, {phys}                     # where keel_pvh_start, the first byte of the image, was loaded

    phys    edi, __bss_start
    phys    ecx, __bss_end
    sub     ecx, edi
    shr     ecx, 2
    xor     eax, eax
    rep     stosd
    phys    esp, keel_boot_stack_end

    # PML4[0] and PML4[511]
    phys    edi, keel_boot_pml4
    phys    eax, keel_boot_pdpt_low
    or      eax, 3
    mov     [edi], eax
    phys    eax, keel_boot_pdpt_high
    or      eax, 3
    mov     [edi + 511 * 8], eax
    mov     cr3, edi
    # PDPT_LOW[0] and PDPT_HIGH[510] (-2 GiB)
    phys    edi, keel_boot_pdpt_low
    phys    eax, keel_boot_pd_low
    or      eax, 3
    mov     [edi], eax
    phys    edi, keel_boot_pdpt_high
    phys    eax, keel_boot_pd_high
    or      eax, 3
    mov     [edi + 510 * 8], eax
    # Both page directories: 512 * 2 MiB, present, writable, large
    phys    edi, keel_boot_pd_low
    phys    edx, keel_boot_pd_high
    mov     eax, 0x83
    xor     ecx, ecx
2:  mov     [edi + ecx * 8], eax
    mov     [edx + ecx * 8], eax
    add     eax, 0x200000
    inc     ecx
    cmp     ecx, 512
    jne     2b

    mov     eax, cr4
    or      eax, 0x20                       # PAE
    mov     cr4, eax
    mov     ecx, 0xc0000080                 # IA32_EFER
    rdmsr
    or      eax, 0x100                      # LME
    wrmsr
    mov     eax, cr0
    or      eax, 0x80000001                 # PG, PE
    mov     cr0, eax

    # A far return to 64-bit code through our own GDT.
    phys    eax, keel_boot_gdt
    sub     esp, 16
    mov     word ptr [esp], 23
    mov     [esp + 2], eax
    lgdt    [esp]
    add     esp, 16
    push    0x08
    phys    eax, 3f
    push    eax
    retf

    .code64
3:  mov     edi, 0                          # BootKind::Pvh
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
    phys = const super::KERNEL_PHYS,
    stack_bytes = const BOOT_STACK_BYTES,
);
