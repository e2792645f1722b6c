//! The vDSO itself: a whole ELF shared object, laid out by the assembler.
//!
//! The C library finds it through AT_SYSINFO_EHDR and looks functions up by name and version (LINUX_2.6). There is one
//! segment, read and execute, of one page; all addresses in it are offsets from its start. The page of clock data,
//! [`Data`], is mapped directly below, so the code reaches it relative to the instruction pointer.
//!
//! ```text
//! -4096  Data (read-only)
//!     0  ELF header, program headers, hash, symbols, strings, versions, dynamic section
//!        clock_gettime, gettimeofday, time, getcpu, clock_getres
//! ```
//!
//! A clock read computes `((tsc - tsc_base) * multiplier >> shift) + offset[clock]` with a product of 128 bits, so the
//! numbers stay good for ever and the page changes only when somebody sets the clock. Where the time-stamp counter is
//! no clock (`mode` is 0), and for other clocks (CPU time), the code makes the system call.
//!
//! This file depends on nothing: a host test maps the image and calls it.
//!
//! Sources: vdso(7); System V gABI ch. 5 (dynamic linking, hash table); LSB core 5.0 ch. 10.7 (symbol versions).

use core::arch::global_asm;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// Clocks 0 to 11 (clock_gettime(2)): REALTIME, MONOTONIC, two of CPU time, MONOTONIC_RAW, REALTIME_COARSE,
/// MONOTONIC_COARSE, BOOTTIME, the two alarm clocks, an unused one, TAI.
pub(crate) const NR_CLOCKS: usize = 12;

/// The page that the code reads. Odd `sequence`: being written.
#[repr(C)]
pub(crate) struct Data {
    pub(crate) sequence: AtomicU32,
    /// 1: the fields below are good. 0: use the system call.
    pub(crate) mode: AtomicU32,
    pub(crate) tsc_base: AtomicU64,
    pub(crate) multiplier: AtomicU64,
    pub(crate) shift: AtomicU32,
    pub(crate) reserved: AtomicU32,
    /// Nanoseconds to add to the monotonic clock for each clock.
    pub(crate) offsets_ns: [AtomicI64; NR_CLOCKS],
}

unsafe extern "C" {
    static keel_vdso_start: u8;
    static keel_vdso_end: u8;
}

/// The image: a whole number of pages.
pub(crate) fn bytes() -> &'static [u8] {
    let start = &raw const keel_vdso_start;
    let len = (&raw const keel_vdso_end) as usize - start as usize;
    // SAFETY: the assembler puts the two symbols around the image, which nothing ever writes.
    unsafe { core::slice::from_raw_parts(start, len) }
}

global_asm!(
    r#"
    .macro  VDSO_SYM name, info, label, size
    .long   \name - vdso_strings
    .byte   \info, 0
    .short  1
    .quad   \label - keel_vdso_start, \size
    .endm

    .section .vdso_image, "a", @progbits
    .balign 16
    .globl  keel_vdso_start
keel_vdso_start:
    .byte   0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0
    .quad   0
    .short  3, 62                           # ET_DYN, EM_X86_64
    .long   1
    .quad   0                               # no entry point
    .quad   vdso_segments - keel_vdso_start
    .quad   0                               # no sections
    .long   0
    .short  64, 56, 2, 64, 0, 0

vdso_segments:
    .long   1, 5                            # PT_LOAD, read and execute
    .quad   0, 0, 0, vdso_file_end - keel_vdso_start, vdso_file_end - keel_vdso_start, 4096
    .long   2, 4                            # PT_DYNAMIC, read
    .quad   vdso_dynamic - keel_vdso_start, vdso_dynamic - keel_vdso_start, vdso_dynamic - keel_vdso_start
    .quad   vdso_dynamic_end - vdso_dynamic, vdso_dynamic_end - vdso_dynamic, 8

    # One bucket, whose chain visits every symbol: no need to know any hash value.
    .balign 8
vdso_hash:
    .long   1, 11
    .long   1
    .long   0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0

    .balign 8
vdso_symbols:
    .quad   0, 0, 0
    VDSO_SYM vn_clock_gettime, 0x12, vdso_clock_gettime, vdso_clock_gettime_end - vdso_clock_gettime
    VDSO_SYM vn_gettimeofday, 0x12, vdso_gettimeofday, vdso_gettimeofday_end - vdso_gettimeofday
    VDSO_SYM vn_time, 0x12, vdso_time, vdso_time_end - vdso_time
    VDSO_SYM vn_getcpu, 0x12, vdso_getcpu, vdso_getcpu_end - vdso_getcpu
    VDSO_SYM vn_clock_getres, 0x12, vdso_clock_getres, vdso_clock_getres_end - vdso_clock_getres
    VDSO_SYM vn_clock_gettime + 7, 0x22, vdso_clock_gettime, vdso_clock_gettime_end - vdso_clock_gettime
    VDSO_SYM vn_gettimeofday + 7, 0x22, vdso_gettimeofday, vdso_gettimeofday_end - vdso_gettimeofday
    VDSO_SYM vn_time + 7, 0x22, vdso_time, vdso_time_end - vdso_time
    VDSO_SYM vn_getcpu + 7, 0x22, vdso_getcpu, vdso_getcpu_end - vdso_getcpu
    VDSO_SYM vn_clock_getres + 7, 0x22, vdso_clock_getres, vdso_clock_getres_end - vdso_clock_getres

vdso_strings:
    .byte   0
vn_soname:
    .asciz  "linux-vdso.so.1"
vn_version:
    .asciz  "LINUX_2.6"
vn_clock_gettime:
    .asciz  "__vdso_clock_gettime"
vn_gettimeofday:
    .asciz  "__vdso_gettimeofday"
vn_time:
    .asciz  "__vdso_time"
vn_getcpu:
    .asciz  "__vdso_getcpu"
vn_clock_getres:
    .asciz  "__vdso_clock_getres"
vdso_strings_end:

    .balign 2
vdso_versions:
    .short  0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2

    .balign 8
vdso_definitions:
    .short  1, 1, 1, 1                      # the object's own name (VER_FLG_BASE), index 1
    .long   0x0deebfa1                      # its ELF hash
    .long   20, 28
    .long   vn_soname - vdso_strings, 0
    .short  1, 0, 2, 1                      # LINUX_2.6, index 2
    .long   0x03ae75f6
    .long   20, 0
    .long   vn_version - vdso_strings, 0

    .balign 8
vdso_dynamic:
    .quad   14, vn_soname - vdso_strings            # DT_SONAME
    .quad   4, vdso_hash - keel_vdso_start          # DT_HASH
    .quad   5, vdso_strings - keel_vdso_start       # DT_STRTAB
    .quad   6, vdso_symbols - keel_vdso_start       # DT_SYMTAB
    .quad   10, vdso_strings_end - vdso_strings     # DT_STRSZ
    .quad   11, 24                                  # DT_SYMENT
    .quad   0x6ffffffc, vdso_definitions - keel_vdso_start  # DT_VERDEF
    .quad   0x6ffffffd, 2                           # DT_VERDEFNUM
    .quad   0x6ffffff0, vdso_versions - keel_vdso_start     # DT_VERSYM
    .quad   0, 0
vdso_dynamic_end:

    # rax = nanoseconds of clock \clock (a register or 0); goes to \fallback when the counter is no clock.
    # Changes rcx, rdx, r8, r9. x86 keeps loads in order, so reading the sequence twice is enough.
    .macro  VDSO_READ clock, fallback
    lea     r8, [rip + keel_vdso_start - 4096]
81: mov     r9d, [r8]
    test    r9d, 1
    jnz     82f
    cmp     dword ptr [r8 + 4], 1
    jne     \fallback
    lfence
    rdtsc
    shl     rdx, 32
    or      rax, rdx
    mov     ecx, [r8 + 24]
    sub     rax, [r8 + 8]
    mul     qword ptr [r8 + 16]
    shrd    rax, rdx, cl
    add     rax, [r8 + \clock * 8 + 32]
    cmp     r9d, [r8]
    je      83f
82: pause
    jmp     81b
83:
    .endm
    # rax = seconds, rdx = nanoseconds of rax nanoseconds.
    .macro  VDSO_SPLIT
    xor     edx, edx
    mov     ecx, 1000000000
    div     rcx
    .endm

    .balign 32
vdso_clock_gettime:                         # (clockid_t, struct timespec *)
    cmp     edi, 11
    ja      1f
    mov     eax, {readable}
    bt      eax, edi
    jnc     1f
    mov     edi, edi
    VDSO_READ rdi, 1f
    VDSO_SPLIT
    mov     [rsi], rax
    mov     [rsi + 8], rdx
    xor     eax, eax
    ret
1:  mov     eax, 228
    syscall
    ret
vdso_clock_gettime_end:

    .balign 32
vdso_gettimeofday:                          # (struct timeval *, struct timezone *)
    test    rdi, rdi
    jz      2f
    xor     eax, eax
    VDSO_READ 0, 1f
    VDSO_SPLIT
    mov     [rdi], rax
    mov     eax, edx
    xor     edx, edx
    mov     ecx, 1000
    div     ecx
    mov     [rdi + 8], rax
2:  test    rsi, rsi
    jz      3f
    mov     qword ptr [rsi], 0              # the kernel knows no time zone
3:  xor     eax, eax
    ret
1:  mov     eax, 96
    syscall
    ret
vdso_gettimeofday_end:

    .balign 32
vdso_time:                                  # (time_t *)
    VDSO_READ 0, 1f
    VDSO_SPLIT
    test    rdi, rdi
    jz      2f
    mov     [rdi], rax
2:  ret
1:  mov     eax, 201
    syscall
    ret
vdso_time_end:

    .balign 32
vdso_getcpu:                                # (unsigned *cpu, unsigned *node, void *unused)
    mov     eax, 0x7b                       # the segment whose limit is the CPU's number
    lsl     eax, eax
    test    rdi, rdi
    jz      1f
    mov     edx, eax
    and     edx, 0xfff
    mov     [rdi], edx
1:  test    rsi, rsi
    jz      2f
    shr     eax, 12
    mov     [rsi], eax
2:  xor     eax, eax
    ret
vdso_getcpu_end:

    .balign 32
vdso_clock_getres:                          # (clockid_t, struct timespec *)
    cmp     edi, 11
    ja      1f
    mov     eax, {fine}
    bt      eax, edi
    jnc     1f
    test    rsi, rsi
    jz      2f
    mov     qword ptr [rsi], 0
    mov     qword ptr [rsi + 8], 1
2:  xor     eax, eax
    ret
1:  mov     eax, 229
    syscall
    ret
vdso_clock_getres_end:
vdso_file_end:
    .org    keel_vdso_start + 4096, 0xcc    # an error when the code has outgrown its page
    .globl  keel_vdso_end
keel_vdso_end:
    .text
    "#,
    readable = const READABLE,
    fine = const FINE,
);

/// Clocks that the code reads: all but CPU time, the alarm clocks and the unused one.
const READABLE: u32 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11;
/// Of these, the ones with a resolution of 1 ns.
const FINE: u32 = READABLE & !(1 << 5 | 1 << 6);
