//! The machine under the tests: the few operations that need `unsafe`.
//!
//! All `unsafe` of this crate is here, so that the tests read like the man pages they pin. The
//! functions are safe to *call*, not sound in Rust's sense, as those of `user-sys`: every test runs
//! in a process of its own, which may crash without hurting another.

use libc::{c_int, c_long, c_void, clock_gettime, timespec};
use nix::errno::Errno;
pub use user_sys::{Plain, Res, atomic, exit, fork, zero};

/// Reads the byte at `addr`; faults as the hardware does.
pub fn peek(addr: usize) -> u8 {
    // SAFETY: a wild address ends this test's process with a signal, as intended.
    unsafe { std::ptr::read_volatile(addr as *const u8) }
}

/// Writes the byte at `addr`; faults as the hardware does.
pub fn poke(addr: usize, value: u8) {
    // SAFETY: as for `peek`.
    unsafe { std::ptr::write_volatile(addr as *mut u8, value) }
}

/// Reads the 64-bit word at `addr`.
pub fn peek64(addr: usize) -> u64 {
    // SAFETY: as for `peek`.
    unsafe { std::ptr::read_volatile(addr as *const u64) }
}

/// The bytes of `len` at `addr`.
pub fn bytes_at(addr: usize, len: usize) -> &'static [u8] {
    // SAFETY: as for `atomic`.
    unsafe { std::slice::from_raw_parts(addr as *const u8, len) }
}

/// Executes an instruction that raises #UD.
pub fn undefined_instruction() {
    // SAFETY: raises SIGILL and nothing else.
    unsafe { std::arch::asm!("ud2") }
}

/// Divides by zero in hardware: #DE.
pub fn divide_by_zero() {
    // SAFETY: raises SIGFPE; the registers it clobbers are named.
    unsafe {
        std::arch::asm!("div {0:e}", in(reg) 0u32, inout("eax") 1u32 => _, inout("edx") 0u32 => _);
    }
}

/// Executes `int3`: #BP.
pub fn breakpoint() {
    // SAFETY: raises SIGTRAP and nothing else.
    unsafe { std::arch::asm!("int3") }
}

/// Executes a privileged instruction: #GP in user mode.
pub fn privileged_instruction() {
    // SAFETY: raises SIGSEGV in user mode and nothing else.
    unsafe { std::arch::asm!("hlt") }
}

/// Loads XMM7 with `value`, makes system call `nr` without arguments, and returns XMM7 afterwards.
pub fn xmm_across_syscall(value: u64, nr: c_long) -> u64 {
    let out: u64;
    // SAFETY: names all that SYSCALL and the moves clobber; `nr` takes no arguments.
    unsafe {
        std::arch::asm!("movq xmm7, {v}", "syscall", "movq {o}, xmm7", v = in(reg) value, o = lateout(reg) out,
            inout("rax") nr => _, out("rcx") _, out("r11") _, out("xmm7") _);
    }
    out
}

/// Loads XMM7 with `value`, sends signal `sig` to the thread `tid` of `pid`, and returns XMM7 afterwards.
pub fn xmm_across_tgkill(value: u64, pid: i32, tid: i32, sig: i32) -> u64 {
    let out: u64;
    // SAFETY: as above; tgkill takes three numbers.
    unsafe {
        std::arch::asm!("movq xmm7, {v}", "syscall", "movq {o}, xmm7", v = in(reg) value, o = lateout(reg) out,
            inout("rax") libc::SYS_tgkill => _, in("rdi") pid, in("rsi") tid, in("rdx") sig,
            out("rcx") _, out("r11") _, out("xmm7") _);
    }
    out
}

/// Calls the C function at `addr` with two arguments.
pub fn call_function(addr: usize, a: usize, b: usize) -> i64 {
    // SAFETY: the caller found `addr` in an executable mapping (the vDSO, or code it wrote).
    unsafe {
        let f: extern "C" fn(usize, usize) -> i64 = std::mem::transmute(addr);
        f(a, b)
    }
}

/// A value of the auxiliary vector, 0 when absent.
pub fn auxv(key: u64) -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(key) }
}

/// What a three-argument signal handler gets, or `SIG_DFL` and `SIG_IGN`.
pub type Handler = extern "C" fn(c_int, &SigInfo, usize);

/// siginfo_t with the fields that the tests read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pad: i32,
    pub fields: [u32; 28],
}
impl Plain for SigInfo {}

impl SigInfo {
    /// Sender, or child.
    pub fn pid(&self) -> i32 {
        self.fields[0] as i32
    }
    /// Sender's user.
    pub fn uid(&self) -> u32 {
        self.fields[1]
    }
    /// SIGCHLD: exit code or signal; queued signals: the 32-bit value.
    pub fn status(&self) -> i32 {
        self.fields[2] as i32
    }
    /// Faults: the address.
    pub fn addr(&self) -> usize {
        self.fields[0] as usize | (self.fields[1] as usize) << 32
    }
}

fn action(sig: i32, handler: usize, flags: i32, mask: &[i32]) -> Res<i32> {
    // SAFETY: `sa` is a plain structure; handlers given by the tests only touch atomics.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = handler;
        sa.sa_flags = flags;
        for &s in mask {
            libc::sigaddset(&mut sa.sa_mask, s);
        }
        Errno::result(libc::sigaction(sig, &sa, std::ptr::null_mut()))
    }
}

/// Installs `handler` for `sig` with SA_SIGINFO and `flags`.
pub fn on_signal(sig: i32, flags: i32, handler: Handler) {
    action(sig, handler as usize, flags | libc::SA_SIGINFO, &[]).unwrap();
}

/// As [`on_signal`], with signals that are blocked while the handler runs.
pub fn on_signal_masking(sig: i32, flags: i32, mask: &[i32], handler: Handler) {
    action(sig, handler as usize, flags | libc::SA_SIGINFO, mask).unwrap();
}

/// Sets `sig` to SIG_DFL or SIG_IGN.
pub fn set_action(sig: i32, action_value: usize) -> Res<i32> {
    action(sig, action_value, 0, &[])
}

/// The handler word that `sig` has now.
pub fn current_action(sig: i32) -> usize {
    // SAFETY: `sa` is a plain structure that sigaction fills.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        libc::sigaction(sig, std::ptr::null(), &mut sa);
        sa.sa_sigaction
    }
}

/// clone(2) with a new stack: runs `f(arg)` in the child, which ends with its result.
pub fn clone_with(
    flags: c_int,
    stack_top: usize,
    f: extern "C" fn(*mut c_void) -> c_int,
    arg: usize,
    tid: &mut i32,
) -> Res<i32> {
    // SAFETY: the caller gives the top of a mapped stack that outlives the child.
    Errno::result(unsafe {
        libc::clone(
            f,
            stack_top as *mut c_void,
            flags,
            arg as *mut c_void,
            tid as *mut i32,
            0usize,
            tid as *mut i32,
        )
    })
}

/// vfork(2) whose child runs `f` and exits with its result; `f` shares the parent's memory.
pub fn vfork_with(f: fn() -> i32) -> Res<i32> {
    let mut tid = 0;
    extern "C" fn enter(f: *mut c_void) -> c_int {
        // SAFETY: the argument is the function pointer that `vfork_with` passed.
        let f: fn() -> i32 = unsafe { std::mem::transmute(f) };
        exit(f())
    }
    let stack = vec![0u8; 256 << 10];
    let top = (stack.as_ptr() as usize + stack.len()) & !15;
    clone_with(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, top, enter, f as usize, &mut tid)
}

/// CPUID's answer is no business of the kernel, RDTSC's permission is: the time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no preconditions; prctl(PR_SET_TSC) may turn it into SIGSEGV.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The rights over protection keys: the register PKRU, which must exist.
pub fn rdpkru() -> u32 {
    let rights;
    // SAFETY: the caller found "pku" in /proc/cpuinfo.
    unsafe { std::arch::asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _) };
    rights
}

/// Sets PKRU.
pub fn wrpkru(rights: u32) {
    // SAFETY: as for `rdpkru`; what the test forbids itself it does not need.
    unsafe { std::arch::asm!("wrpkru", in("ecx") 0, in("eax") rights, in("edx") 0) };
}

/// Where PKRU lies in an XSAVE area.
pub fn pkru_offset() -> usize {
    std::arch::x86_64::__cpuid_count(0xd, 9).ebx as usize
}

/// Writes a byte to an I/O port; `SIGSEGV` without the right to it.
pub fn out_byte(port: u16, value: u8) {
    // SAFETY: the tests use ports that no device has.
    unsafe { std::arch::asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

/// Writes two bytes to a port and the next.
pub fn out_word(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { std::arch::asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
}

/// CLI: user mode may not, and gets `SIGSEGV`.
pub fn clear_interrupts() {
    // SAFETY: it has no effect in user mode.
    unsafe { std::arch::asm!("cli", options(nostack)) };
}

/// CLI, what the flags are then, and STI.
pub fn clear_interrupts_and_read_flags() -> u64 {
    let flags;
    // SAFETY: as above; the stack is as before.
    unsafe { std::arch::asm!("cli", "pushfq", "pop {}", "sti", out(reg) flags) };
    flags
}

/// A clock as the C library reads it, without a system call if it can; in nanoseconds.
pub fn vdso_clock(id: i32) -> i64 {
    let mut now: timespec = zero();
    // SAFETY: the place of the result is ours.
    assert_eq!(unsafe { clock_gettime(id, &raw mut now) }, 0);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Writes the 32-bit word at `addr`.
pub fn poke32(addr: usize, value: u32) {
    // SAFETY: as for `peek`.
    unsafe { std::ptr::write_volatile(addr as *mut u32, value) }
}

/// The selector in GS.
pub fn gs() -> u16 {
    let selector: u16;
    // SAFETY: reading a segment register has no effect.
    unsafe { std::arch::asm!("mov {:x}, gs", out(reg) selector, options(nomem, nostack)) };
    selector
}

/// The selector in SS.
pub fn ss() -> u16 {
    let selector: u16;
    // SAFETY: reading a segment register has no effect.
    unsafe { std::arch::asm!("mov {:x}, ss", out(reg) selector, options(nomem, nostack)) };
    selector
}

/// Loads GS; a selector that leads nowhere is a `SIGSEGV`.
pub fn set_gs(selector: u16) {
    // SAFETY: nothing in these programs uses GS.
    unsafe { std::arch::asm!("mov gs, {:x}", in(reg) selector, options(nostack)) }
}

/// The word at `offset` of the segment in GS.
pub fn peek_gs(offset: u64) -> u64 {
    let word: u64;
    // SAFETY: a read; a bad address ends the process, which the tests expect or avoid.
    unsafe { std::arch::asm!("mov {}, gs:[{}]", out(reg) word, in(reg) offset, options(nostack, readonly)) };
    word
}
