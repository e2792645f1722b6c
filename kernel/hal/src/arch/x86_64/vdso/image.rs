//! The vDSO itself: a whole ELF shared object, laid out by the assembler.
//!
//! The C library finds it through AT_SYSINFO_EHDR and looks functions up by name and version (LINUX_2.6). There is one
//! segment, read and execute, of one page; all addresses in it are offsets from its start. The page of clock data,
//! [`Data`], is mapped directly below, so the code reaches it relative to the instruction pointer.
//!
//! ```text
//! -4096  Data (read-only)
//!     0  ELF header, program headers, hash, symbols, strings, versions, dynamic section
//!        clock_gettime, gettimeofday, time, getcpu, clock_getres, getrandom
//! ```
//!
//! A clock read computes `((tsc - tsc_base) * multiplier >> shift) + offset[clock]` with a product of 128 bits, so the
//! numbers stay good for ever and the page changes only when somebody sets the clock. Where the time-stamp counter is
//! no clock (`mode` is 0), and for clocks that are not in `readable`, the code makes the system call.
//!
//! getrandom hands out bytes that the kernel made before, a batch at a time, and wipes each as it goes:
//!
//! ```text
//! state, 1024 bytes, one a thread, in memory that the kernel may wipe at any time and wipes in children (MAP_DROPPABLE)
//!    0 generation u64   of the kernel's generator when the batch was fetched; 0: wiped
//!    8 position   u32   of the first byte that was not given out
//!   12 in_use     u32   a signal handler that finds it set makes the system call
//!   16 batch      1008 bytes
//! ```
//!
//! After each piece the generation is looked at again: if the state was wiped meanwhile, or the kernel's generator was
//! stirred, what was copied is thrown away and fetched anew; after the second time the system call does it.
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
    /// A bit for each clock that the code reads.
    pub(crate) readable: AtomicU32,
    /// Nanoseconds to add to the monotonic clock for each clock.
    pub(crate) offsets_ns: [AtomicI64; NR_CLOCKS],
    /// Generation of the kernel's random numbers; 0: make the system call.
    pub(crate) generation: AtomicU64,
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
    .long   1, 13
    .long   1
    .long   0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0

    .balign 8
vdso_symbols:
    .quad   0, 0, 0
    VDSO_SYM vn_clock_gettime, 0x12, vdso_clock_gettime, vdso_clock_gettime_end - vdso_clock_gettime
    VDSO_SYM vn_gettimeofday, 0x12, vdso_gettimeofday, vdso_gettimeofday_end - vdso_gettimeofday
    VDSO_SYM vn_time, 0x12, vdso_time, vdso_time_end - vdso_time
    VDSO_SYM vn_getcpu, 0x12, vdso_getcpu, vdso_getcpu_end - vdso_getcpu
    VDSO_SYM vn_clock_getres, 0x12, vdso_clock_getres, vdso_clock_getres_end - vdso_clock_getres
    VDSO_SYM vn_getrandom, 0x12, vdso_getrandom, vdso_getrandom_end - vdso_getrandom
    VDSO_SYM vn_clock_gettime + 7, 0x22, vdso_clock_gettime, vdso_clock_gettime_end - vdso_clock_gettime
    VDSO_SYM vn_gettimeofday + 7, 0x22, vdso_gettimeofday, vdso_gettimeofday_end - vdso_gettimeofday
    VDSO_SYM vn_time + 7, 0x22, vdso_time, vdso_time_end - vdso_time
    VDSO_SYM vn_getcpu + 7, 0x22, vdso_getcpu, vdso_getcpu_end - vdso_getcpu
    VDSO_SYM vn_clock_getres + 7, 0x22, vdso_clock_getres, vdso_clock_getres_end - vdso_clock_getres
    VDSO_SYM vn_getrandom + 7, 0x22, vdso_getrandom, vdso_getrandom_end - vdso_getrandom

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
vn_getrandom:
    .asciz  "__vdso_getrandom"
vdso_strings_end:

    .balign 2
vdso_versions:
    .short  0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2

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
    mov     eax, [rip + keel_vdso_start - 4096 + 28]
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

    .balign 32
vdso_getrandom:                             # (void *buf, size_t len, unsigned flags, void *state, size_t state_len)
    cmp     r8, -1
    jne     1f
    mov     rax, rdi
    or      rax, rsi
    jnz     1f
    test    edx, edx
    jnz     1f
    lea     rdi, [rcx + 12]                 # what is asked: struct vgetrandom_opaque_params
    mov     dword ptr [rcx], {state}
    mov     dword ptr [rcx + 4], 3          # PROT_READ, PROT_WRITE
    mov     dword ptr [rcx + 8], 0x28       # MAP_DROPPABLE, MAP_ANONYMOUS
    mov     ecx, 13                         # eax is 0
    rep     stosd
    ret
1:  mov     eax, ecx
    and     eax, 4095
    cmp     eax, 4096 - {state}
    ja      8f
    cmp     r8, {state}
    jne     9f
    test    edx, -8                         # GRND_NONBLOCK, GRND_RANDOM, GRND_INSECURE
    jnz     9f
    cmp     rsi, {most}
    ja      9f
    cmp     qword ptr [rip + keel_vdso_start - 4096 + 128], 0
    je      9f
    xor     eax, eax
    test    rsi, rsi
    jz      7f
    cmp     [rcx + 12], eax
    jne     9f
    inc     eax
    mov     [rcx + 12], eax
    push    rbx
    push    rdi
    push    rsi
    push    rdx
    mov     r10, rcx                        # the state
    mov     ebx, 2                          # attempts
2:  mov     rdi, [rsp + 16]
    mov     rsi, [rsp + 8]                  # bytes to go
    mov     r9, [rip + keel_vdso_start - 4096 + 128]
    cmp     [r10], r9
    je      3f
    mov     [r10], r9                       # before the batch is fetched, so that a wipe meanwhile is seen
    mov     dword ptr [r10 + 8], {batch}
3:  mov     edx, [r10 + 8]
    mov     ecx, {batch}
    sub     ecx, edx
    jbe     6f                              # all given out
    cmp     rcx, rsi
    cmova   rcx, rsi
    lea     r8, [r10 + rdx + 16]
    add     edx, ecx
    mov     [r10 + 8], edx
    sub     rsi, rcx
    xor     edx, edx
    jmp     5f
4:  mov     rax, [r8]
    mov     [r8], rdx
    mov     [rdi], rax
    add     r8, 8
    add     rdi, 8
    sub     ecx, 8
5:  cmp     ecx, 8
    jae     4b
    test    ecx, ecx
    jz      52f
51: mov     al, [r8]
    mov     [r8], dl
    mov     [rdi], al
    inc     r8
    inc     rdi
    dec     ecx
    jnz     51b
52: cmp     [r10], r9                       # wiped?
    jne     53f
    test    rsi, rsi
    jnz     3b
    cmp     r9, [rip + keel_vdso_start - 4096 + 128]
    jne     53f
    mov     rax, [rsp + 8]
    mov     dword ptr [r10 + 12], 0
    add     rsp, 24
    pop     rbx
    ret
53: dec     ebx
    jnz     2b
54: mov     qword ptr [r10], 0
    mov     dword ptr [r10 + 12], 0
    pop     rdx
    pop     rsi
    pop     rdi
    pop     rbx
    jmp     9f
6:  push    rdi
    push    rsi
    lea     rdi, [r10 + 16]
    mov     esi, {batch}
    xor     edx, edx
    mov     eax, 318
    syscall
    pop     rsi
    pop     rdi
    cmp     rax, {batch}
    jne     54b
    mov     dword ptr [r10 + 8], 0
    jmp     3b
7:  ret
8:  mov     rax, -14
    ret
9:  mov     eax, 318
    syscall
    ret
vdso_getrandom_end:
vdso_file_end:
    .org    keel_vdso_start + 4096, 0xcc    # an error when the code has outgrown its page
    .globl  keel_vdso_end
keel_vdso_end:
    .text
    "#,
    fine = const FINE,
    state = const STATE,
    batch = const STATE - 16,
    most = const MOST_RANDOM,
);

/// Size of a state of getrandom.
const STATE: usize = 1024;
/// More random bytes than this come from the system call: it costs less than the copying.
const MOST_RANDOM: usize = 4096;

/// Clocks that the code reads: all but CPU time, the alarm clocks and the unused one.
pub(crate) const READABLE: u32 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 11;
/// The one of these that is not an offset from the monotonic clock any more once a time daemon has changed the rate.
pub(crate) const RAW: u32 = 1 << 4;
/// Of these, the ones with a resolution of 1 ns.
const FINE: u32 = READABLE & !(1 << 5 | 1 << 6);
