//! Raw system calls with typed arguments: what the tests, the benchmarks and the fuzzer share.
//!
//! The functions are safe to *call*, not sound in Rust's sense: [`call`] can unmap the stack if it is told
//! to. That is the point of programs that try a kernel: what they do with memory is the kernel's business,
//! and each of them does it in a process of its own, which may crash without hurting another.

use std::ffi::{CStr, CString};

use libc::c_long;
use nix::errno::Errno;

/// What a system call returns.
pub type Res<T = usize> = Result<T, Errno>;

/// A value that fits in a system-call register.
pub trait Arg {
    /// The register's contents.
    fn word(self) -> usize;
}

macro_rules! int_args {
    ($($t:ty)*) => { $(impl Arg for $t { #[inline(always)] fn word(self) -> usize { self as usize } })* };
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
    #[inline(always)]
    fn word(self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}
impl<T: Plain> Arg for &mut T {
    #[inline(always)]
    fn word(self) -> usize {
        std::ptr::from_mut(self) as usize
    }
}
impl<T: Plain> Arg for &[T] {
    #[inline(always)]
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}
impl<T: Plain> Arg for &mut [T] {
    #[inline(always)]
    fn word(self) -> usize {
        self.as_mut_ptr() as usize
    }
}
impl Arg for &CStr {
    #[inline(always)]
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}
impl Arg for &CString {
    #[inline(always)]
    fn word(self) -> usize {
        self.as_ptr() as usize
    }
}

/// Makes system call `nr` straight by SYSCALL: no wrapper is measured with it.
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
        $crate::call($nr, $crate::six([$($crate::Arg::word($arg)),*]))
    };
}

/// fork(2) through the C library: 0 in the child.
pub fn fork() -> Res<i32> {
    // SAFETY: the caller is single-threaded, or its child only makes system calls.
    Errno::result(unsafe { libc::fork() })
}

/// Ends the process at once, without destructors or flushing.
pub fn exit(code: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// The 32-bit word at `addr` as an atomic, shared with other threads or processes.
pub fn atomic(addr: usize) -> &'static std::sync::atomic::AtomicU32 {
    // SAFETY: callers pass addresses of mappings that stay until the process ends.
    unsafe { &*(addr as *const std::sync::atomic::AtomicU32) }
}
