//! The machine under the tests: raw system calls and the few operations that need `unsafe`.
//!
//! All `unsafe` of this crate is here, so that the tests read like the man pages they pin. The
//! functions are safe to *call*, not sound in Rust's sense: [`call`] can unmap the stack if it is
//! told to. That is the point of a kernel test, and every test runs in a process of its own, which
//! may crash without hurting another.

use std::ffi::{CStr, CString};

use libc::{c_int, c_long, c_void};
use nix::errno::Errno;

/// What a system call returns.
pub type Res<T = usize> = Result<T, Errno>;

/// A value that fits in a system-call register.
pub trait Arg {
    /// The register's contents.
    fn word(self) -> usize;
}

macro_rules! int_args {
    ($($t:ty)*) => { $(impl Arg for $t { fn word(self) -> usize { self as usize } })* };
}
int_args!(i32 u32 i64 u64 usize isize u16);

/// Plain data that may be all zeroes and that the kernel may read or write.
pub trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty)*) => { $(impl Plain for $t {})* };
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 usize isize);
plain!(libc::stat libc::statx libc::statfs libc::timespec libc::timeval libc::itimerval libc::itimerspec);
plain!(libc::rlimit libc::rlimit64 libc::rusage libc::sysinfo libc::utsname libc::winsize libc::pollfd libc::epoll_event);
plain!(libc::sockaddr_un libc::msghdr libc::iovec libc::ucred libc::flock libc::stack_t libc::sigset_t libc::tms);
plain!(libc::signalfd_siginfo libc::sigevent libc::timezone libc::clone_args libc::open_how libc::fd_set libc::timex);
impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The all-zeroes value of a kernel structure.
pub fn zero<T: Plain>() -> T {
    // SAFETY: `Plain` is implemented only for C structures of integers and pointers.
    unsafe { std::mem::zeroed() }
}

impl<T: Plain> Arg for &T {
    fn word(self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}
impl<T: Plain> Arg for &mut T {
    fn word(self) -> usize {
        std::ptr::from_mut(self) as usize
    }
}
impl<T: Plain> Arg for &[T] {
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}
impl<T: Plain> Arg for &mut [T] {
    fn word(self) -> usize {
        self.as_mut_ptr() as usize
    }
}
impl Arg for &CStr {
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}
impl Arg for &CString {
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}

/// Makes system call `nr`; what is missing of the six arguments is 0.
pub fn call(nr: c_long, args: &[usize]) -> Res {
    let mut a = [0; 6];
    a[..args.len()].copy_from_slice(args);
    // SAFETY: see the module's head: the caller's process is expendable.
    let r = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if r == -1 { Err(Errno::last()) } else { Ok(r as usize) }
}

/// `sys!(SYS_read, fd, &mut buf, 1)`: a raw system call with arguments of any [`Arg`] type.
#[macro_export]
macro_rules! sys {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        $crate::sys::call($nr, &[$($crate::sys::Arg::word($arg)),*])
    };
}

/// fork(2) through the C library: 0 in the child.
pub fn fork() -> Res<i32> {
    // SAFETY: the test process is single-threaded here, or its child only makes system calls.
    Errno::result(unsafe { libc::fork() })
}

/// Ends the process at once, without destructors or flushing.
pub fn exit(code: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

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

/// The 32-bit word at `addr` as an atomic shared with other processes or threads.
pub fn atomic(addr: usize) -> &'static std::sync::atomic::AtomicU32 {
    // SAFETY: callers pass addresses of mappings that stay until the process ends.
    unsafe { &*(addr as *const std::sync::atomic::AtomicU32) }
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
