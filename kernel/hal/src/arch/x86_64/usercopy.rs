//! Copies between kernel and user memory that survive a bad address.
//!
//! Each instruction here that touches user memory has an entry in the exception table: (instruction, where to go on).
//! A page fault there first asks the floor above for the page, which may sleep; if there is none, the trap handler
//! continues at the second address with the registers as they were, and the function returns how many bytes are left.
//!
//! Copies move 8 bytes at a time: a loop for short ones, REP MOVSQ from [`REP_MIN`] bytes on. CPUs with ERMS or FSRM
//! run REP MOVSQ with the same microcode as REP MOVSB, CPUs without run it eight times as fast, so there is one path
//! and no choice at run time. After a fault the rest is tried byte by byte, which makes the count exact.
//!
//! The callers checked the range (`crate::user`): below `USER_END`, so an address is never the kernel's.
//!
//! Source: Intel Optimization Reference Manual, ch. 3.7.6 (REP string operations).

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, Ordering};

use super::cpu::Feature;

/// From this many bytes on, the start-up cost of REP MOVSQ pays.
const REP_MIN: usize = 128;

/// Whether this machine has SMAP, so that STAC and CLAC exist and are needed.
pub(super) static HAS_SMAP: AtomicBool = AtomicBool::new(false);

/// Looks for SMAP. The boot CPU calls it before the first copy.
pub(super) fn init() {
    HAS_SMAP.store(Feature::SMAP.present(), Ordering::Relaxed);
}

unsafe extern "C" {
    static __ex_table_start: [i32; 2];
    static __ex_table_end: [i32; 2];
}

unsafe extern "C-unwind" {
    /// Copies `len` bytes from `src` to `dst`, one of them in user memory; returns the bytes that were not copied.
    fn keel_user_copy(dst: u64, src: u64, len: usize) -> usize;
    /// Zeroes `len` bytes at user address `dst`; returns the bytes that were not zeroed.
    fn keel_user_zero(dst: u64, len: usize) -> usize;
    /// Copies bytes from user address `src` to `dst` up to a NUL, at most `len`; returns how many came before the NUL.
    /// The highest bit of the result is set after a fault.
    fn keel_user_copy_str(dst: u64, src: u64, len: usize) -> u64;
    /// Copies `count` 16-bit words, each `stride` bytes after the last on both sides, to user address `dst`; returns
    /// how many were not copied.
    fn keel_user_put_u16s(dst: u64, src: u64, count: usize, stride: usize) -> usize;
    /// Loads a word. The upper half of the result is all ones after a fault, else 0.
    fn keel_user_load_u32(addr: u64) -> u64;
    /// Writes the state components `features` of this CPU's registers to user address `dst`; whether it faulted.
    fn keel_user_xsave(dst: u64, features: u64) -> u64;
    /// Compares and exchanges; the old word as `keel_user_load_u32` gives it.
    fn keel_user_cmpxchg_u32(addr: u64, old: u32, new: u32) -> u64;
}

global_asm!(
    r#"
    .macro  KEEL_EX fault, fixup
    .pushsection .ex_table, "a", @progbits
    .balign 4
    .long   \fault - .
    .long   \fixup - .
    .popsection
    .endm
    .macro  KEEL_STAC
    cmp     byte ptr [rip + {smap}], 0
    je      90f
    stac
90:
    .endm
    .macro  KEEL_CLAC
    cmp     byte ptr [rip + {smap}], 0
    je      91f
    clac
91:
    .endm
    .macro  KEEL_FN name
    .section .text.\name, "ax", @progbits
    .balign 16
    .globl  \name
    .type   \name, @function
\name:
    .cfi_startproc
    .endm
    .macro  KEEL_FN_END name
    .cfi_endproc
    .size   \name, . - \name
    .endm

    KEEL_FN keel_user_copy
    KEEL_STAC
    mov     rcx, rdx
    cmp     rdx, {rep_min}
    jae     5f
    shr     ecx, 3
    jz      2f
1:  mov     rax, [rsi]
11: mov     [rdi], rax
    add     rsi, 8
    add     rdi, 8
    dec     ecx
    jnz     1b
2:  and     edx, 7
    jz      4f
    test    dl, 4
    jz      3f
20: mov     eax, [rsi]
21: mov     [rdi], eax
    add     rsi, 4
    add     rdi, 4
    and     edx, 3
    jz      4f
3:  mov     al, [rsi]
31: mov     [rdi], al
    inc     rsi
    inc     rdi
    dec     edx
    jnz     3b
4:  KEEL_CLAC
    mov     rax, rdx
    ret
5:  shr     rcx, 3
    and     edx, 7
6:  rep     movsq
    jmp     2b
7:  and     edx, 7                          # a fault among whole words: rcx of them are left, and rdx bytes
8:  lea     rcx, [rcx * 8 + rdx]
9:  rep     movsb
10: mov     rdx, rcx
    jmp     4b
    KEEL_EX 1b, 7b
    KEEL_EX 11b, 7b
    KEEL_EX 20b, 7b                         # rcx is 0 there
    KEEL_EX 21b, 7b
    KEEL_EX 3b, 4b
    KEEL_EX 31b, 4b
    KEEL_EX 6b, 8b
    KEEL_EX 9b, 10b
    KEEL_FN_END keel_user_copy

    KEEL_FN keel_user_copy_str
    KEEL_STAC
    mov     r8, rdi
    mov     rcx, rdx
    and     edx, 7
    movabs  r9, 0x0101010101010101
    mov     r10, r9
    shl     r10, 7
    shr     rcx, 3
    jz      3f
1:  mov     rax, [rsi]
    mov     [rdi], rax
    mov     r11, rax                        # a byte that is 0 borrows into its highest bit
    not     r11
    sub     rax, r9
    and     rax, r11
    and     rax, r10
    jnz     2f
    add     rsi, 8
    add     rdi, 8
    dec     rcx
    jnz     1b
3:  test    rdx, rdx
    jz      5f
4:  mov     al, [rsi]
    mov     [rdi], al
    test    al, al
    jz      5f
    inc     rsi
    inc     rdi
    dec     rdx
    jnz     4b
5:  KEEL_CLAC
    mov     rax, rdi
    sub     rax, r8
    ret
2:  bsf     rax, rax                        # the lowest such bit is of the first byte that is 0
    shr     eax, 3
    add     rdi, rax
    jmp     5b
6:  lea     rdx, [rcx * 8 + rdx]            # a fault in a word: it may lie behind the NUL, so byte by byte
    jmp     4b
7:  KEEL_CLAC
    mov     rax, rdi
    sub     rax, r8
    bts     rax, 63
    ret
    KEEL_EX 1b, 6b
    KEEL_EX 4b, 7b
    KEEL_FN_END keel_user_copy_str

    KEEL_FN keel_user_zero
    KEEL_STAC
    xor     eax, eax
    mov     rcx, rsi
    shr     rcx, 3
    and     esi, 7
1:  rep     stosq
    mov     ecx, esi
2:  rep     stosb
3:  KEEL_CLAC
    mov     rax, rcx
    ret
4:  lea     rcx, [rcx * 8 + rsi]
    jmp     2b
    KEEL_EX 1b, 4b
    KEEL_EX 2b, 3b
    KEEL_FN_END keel_user_zero

    KEEL_FN keel_user_put_u16s
    KEEL_STAC
    test    rdx, rdx
    jz      3f
1:  movzx   eax, word ptr [rsi]
2:  mov     [rdi], ax
    add     rsi, rcx
    add     rdi, rcx
    dec     rdx
    jnz     1b
3:  KEEL_CLAC
    mov     rax, rdx
    ret
    KEEL_EX 2b, 3b
    KEEL_FN_END keel_user_put_u16s

    KEEL_FN keel_user_load_u32
    KEEL_STAC
1:  mov     eax, [rdi]
2:  KEEL_CLAC
    ret
3:  mov     rax, -1
    jmp     2b
    KEEL_EX 1b, 3b
    KEEL_FN_END keel_user_load_u32

    KEEL_FN keel_user_xsave
    KEEL_STAC
    mov     eax, esi
    mov     rdx, rsi
    shr     rdx, 32
1:  xsave64 [rdi]
    xor     eax, eax
2:  KEEL_CLAC
    ret
3:  mov     eax, 1
    jmp     2b
    KEEL_EX 1b, 3b
    KEEL_FN_END keel_user_xsave

    KEEL_FN keel_user_cmpxchg_u32
    KEEL_STAC
    mov     eax, esi
1:  lock    cmpxchg [rdi], edx
    mov     eax, eax                        # on success the upper half was left alone
2:  KEEL_CLAC
    ret
3:  mov     rax, -1
    jmp     2b
    KEEL_EX 1b, 3b
    KEEL_FN_END keel_user_cmpxchg_u32
    .text
    "#,
    smap = sym HAS_SMAP,
    rep_min = const REP_MIN,
);

/// Where to go on after a fault of the instruction at `rip`, if it may fault.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let start = (&raw const __ex_table_start) as usize;
    let len = ((&raw const __ex_table_end) as usize - start) / size_of::<[i32; 2]>();
    // SAFETY: the linker script puts the two symbols around the table, which is read-only.
    let table = unsafe { core::slice::from_raw_parts(&raw const __ex_table_start, len) };
    // A word holds the distance from itself to its target.
    let target = |word: &i32| (core::ptr::from_ref(word) as u64).wrapping_add_signed(i64::from(*word));
    table.iter().find(|entry| target(&entry[0]) == rip).map(|entry| target(&entry[1]))
}

/// Copies `dst.len()` bytes from user address `src`; returns how many arrived.
///
/// # Safety
///
/// 1. `src..src + len` lies below `USER_END`.
/// 2. `dst..dst + len` is kernel memory that the caller may write.
#[inline]
pub(crate) unsafe fn copy_from(dst: *mut u8, src: u64, len: usize) -> usize {
    // SAFETY: by 1 and 2 the asm writes only the caller's memory; reads of user memory may fault safely.
    len - unsafe { keel_user_copy(dst as u64, src, len) }
}

/// Copies `len` bytes to user address `dst`; returns how many arrived.
///
/// # Safety
///
/// 1. `dst..dst + len` lies below `USER_END`: Rust owns nothing there.
/// 2. `src..src + len` is kernel memory that the caller may read.
#[inline]
pub(crate) unsafe fn copy_to(dst: u64, src: *const u8, len: usize) -> usize {
    // SAFETY: by 1 and 2, as in `copy_from`.
    len - unsafe { keel_user_copy(dst, src as u64, len) }
}

/// Copies bytes from user address `src` up to a NUL, at most `len`; returns how many came before it, or `len` when there
/// is none among them. `None`: a fault came before the NUL.
///
/// # Safety
///
/// 1. `src..src + len` lies below `USER_END`.
/// 2. `dst..dst + len` is kernel memory that the caller may write.
#[inline]
pub(crate) unsafe fn copy_str(dst: *mut u8, src: u64, len: usize) -> Option<usize> {
    // SAFETY: by 1 and 2, as in `copy_from`.
    let result = unsafe { keel_user_copy_str(dst as u64, src, len) };
    (result >> 63 == 0).then_some(result as usize)
}

/// Zeroes `len` bytes at user address `dst`; returns how many.
///
/// # Safety
///
/// 1. `dst..dst + len` lies below `USER_END`.
#[inline]
pub(crate) unsafe fn zero(dst: u64, len: usize) -> usize {
    // SAFETY: 1.
    len - unsafe { keel_user_zero(dst, len) }
}

/// Copies `count` 16-bit words that are `stride` bytes apart from `src` to user address `dst`, equally far apart;
/// whether all arrived.
///
/// # Safety
///
/// 1. The words at `dst` lie below `USER_END`.
/// 2. The words at `src` are kernel memory that the caller may read.
#[inline]
pub(crate) unsafe fn put_u16s(dst: u64, src: *const u8, count: usize, stride: usize) -> bool {
    // SAFETY: by 1 and 2, as in `copy_from`.
    unsafe { keel_user_put_u16s(dst, src as u64, count, stride) == 0 }
}

fn word(result: u64) -> Option<u32> {
    (result >> 32 == 0).then_some(result as u32)
}

/// Loads the word at user address `addr`, aligned to 4; `None` on a fault.
///
/// # Safety
///
/// 1. The word lies below `USER_END`.
pub(crate) unsafe fn load_u32(addr: u64) -> Option<u32> {
    // SAFETY: 1.
    word(unsafe { keel_user_load_u32(addr) })
}

/// Writes the state components `features` of this CPU's registers to user address `dst` in the standard format of
/// XSAVE, but no byte that this leaves to software; whether all arrived.
///
/// # Safety
///
/// 1. `dst` is aligned to 64, and the area that the components take lies below `USER_END`.
/// 2. The CPU has XSAVE, and XCR0 has `features`.
/// 3. Preemption is off, so that a fault does not sleep, and the registers are the current thread's to show.
pub(super) unsafe fn xsave(dst: u64, features: u64) -> bool {
    // SAFETY: by 1 and 2 the instruction writes user memory only, and by 3 what it writes is no one else's.
    unsafe { keel_user_xsave(dst, features) == 0 }
}

/// Puts `new` at user address `addr` if `old` is there; the word that was there, or `None` on a fault.
///
/// # Safety
///
/// 1. The word lies below `USER_END`.
pub(crate) unsafe fn cmpxchg_u32(addr: u64, old: u32, new: u32) -> Option<u32> {
    // SAFETY: 1.
    word(unsafe { keel_user_cmpxchg_u32(addr, old, new) })
}
