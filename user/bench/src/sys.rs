//! The machine under the benchmarks: raw system calls and all `unsafe` of this crate.
//!
//! As in the tests, the functions are safe to call but can do what the kernel lets a process do to
//! itself; each operation runs in a process of its own.

use std::ffi::{CStr, CString, c_void};

use libc::{c_int, c_long};
use nix::errno::Errno;

/// What a system call returns.
pub type Res<T = usize> = Result<T, Errno>;

/// A value that fits in a system-call register.
pub trait Arg {
    /// The register's contents.
    fn word(self) -> usize;
}

macro_rules! int_args {
    ($($t:ty)*) => { $(impl Arg for $t { #[inline] fn word(self) -> usize { self as usize } })* };
}
int_args!(i32 u32 i64 u64 usize isize);

/// Plain data that the kernel may read or write.
pub trait Plain: Copy {}
macro_rules! plain {
    ($($t:ty)*) => { $(impl Plain for $t {})* };
}
plain!(u8 u16 u32 i32 u64 i64 usize libc::stat libc::timespec libc::timeval libc::pollfd libc::epoll_event libc::sockaddr_un);
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

/// System call `nr` straight by SYSCALL: no wrapper is measured with it.
#[inline(always)]
pub fn call(nr: c_long, a: [usize; 6]) -> Res {
    let r: isize;
    // SAFETY: names all that SYSCALL clobbers; what the call does to memory is the caller's wish.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") nr as isize => r, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&r) { Err(Errno::from_raw(-r as i32)) } else { Ok(r as usize) }
}

/// What is missing of the six arguments is 0.
#[inline(always)]
pub fn six<const N: usize>(words: [usize; N]) -> [usize; 6] {
    std::array::from_fn(|i| words.get(i).copied().unwrap_or(0))
}

/// `sys!(SYS_read, fd, &mut buf, 1)`: a raw system call with arguments of any [`Arg`] type.
#[macro_export]
macro_rules! sys {
    // One expression: what the arguments borrow lives until the call is over.
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        $crate::sys::call($nr, $crate::sys::six([$($crate::sys::Arg::word($arg)),*]))
    };
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    let mut ts: libc::timespec = zero();
    let _ = sys!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut ts);
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// clock_gettime as programs call it: through the vDSO when there is one.
pub fn vdso_clock() -> Res {
    let mut ts: libc::timespec = zero();
    // SAFETY: `ts` is valid for the write.
    Errno::result(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) }).map(|r| r as usize)
}

/// fork(2) through the C library: 0 in the child.
pub fn fork() -> Res<i32> {
    // SAFETY: the caller is single-threaded, or its child only makes system calls.
    Errno::result(unsafe { libc::fork() })
}

/// Ends the process at once.
pub fn exit(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Writes a byte to each page of a range.
pub fn touch(addr: usize, len: usize) {
    for at in (addr..addr + len).step_by(4096) {
        // SAFETY: the caller mapped the range for writing.
        unsafe { std::ptr::write_volatile(at as *mut u8, 1) };
    }
}

/// Reads a byte of each page of a range.
pub fn look(addr: usize, len: usize) {
    for at in (addr..addr + len).step_by(4096) {
        // SAFETY: the caller mapped the range for reading.
        unsafe { std::ptr::read_volatile(at as *const u8) };
    }
}

/// The word at `addr`, shared with other threads or processes.
pub fn atomic(addr: usize) -> &'static std::sync::atomic::AtomicU32 {
    // SAFETY: callers pass mappings that stay until the process ends.
    unsafe { &*(addr as *const std::sync::atomic::AtomicU32) }
}

/// Installs a handler that takes the signal, its information and the context.
pub fn on_signal(sig: c_int, handler: extern "C" fn(c_int, usize, usize)) -> Res<i32> {
    // SAFETY: `sa` is a plain structure; the handlers only touch atomics and make system calls.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = handler as *const () as usize;
        sa.sa_flags = libc::SA_SIGINFO;
        Errno::result(libc::sigaction(sig, &sa, std::ptr::null_mut()))
    }
}

/// The faulting address in a handler's siginfo.
pub fn fault_address(info: usize) -> usize {
    // SAFETY: `info` is the siginfo_t that the kernel passed to the handler.
    unsafe { (*(info as *const libc::siginfo_t)).si_addr() as usize }
}

/// vfork(2) whose child executes `program` with `argv`, or exits with 127.
pub fn vfork_exec(program: &CStr, argv: &[usize]) -> Res<i32> {
    struct Job<'a>(&'a CStr, &'a [usize]);
    extern "C" fn enter(job: *mut c_void) -> c_int {
        // SAFETY: the parent's stack, which waits until the child has executed or exited.
        let job = unsafe { &*(job as *const Job<'_>) };
        let _ = sys!(libc::SYS_execve, job.0, job.1, 0);
        exit(127)
    }
    let job = Job(program, argv);
    let stack = vec![0u8; 64 << 10];
    let top = (stack.as_ptr() as usize + stack.len()) & !15;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: `stack` and `job` live until the child has left them, as CLONE_VFORK waits.
    Errno::result(unsafe { libc::clone(enter, top as *mut c_void, flags, (&raw const job) as *mut c_void) })
}

/// posix_spawn(3).
pub fn spawn(program: &CStr, argv: &[usize]) -> Res<i32> {
    let mut pid = 0;
    let env = [0usize];
    // SAFETY: `argv` and `env` end with a null pointer and hold C strings.
    let e = unsafe {
        libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            argv.as_ptr() as *const _,
            env.as_ptr() as *const _,
        )
    };
    if e == 0 { Ok(pid) } else { Err(Errno::from_raw(e)) }
}
