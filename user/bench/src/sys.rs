//! The machine under the benchmarks: all `unsafe` of this crate.
//!
//! As in the tests, the functions are safe to call but can do what the kernel lets a process do to
//! itself; each operation runs in a process of its own.

use std::ffi::{CStr, c_void};

use libc::c_int;
use nix::errno::Errno;
pub use user_sys::{Res, atomic, exit, fork, zero};

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    let mut ts: libc::timespec = zero();
    let _ = user_sys::sys!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &mut ts);
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// The time-stamp counter.
pub fn counter() -> u64 {
    // SAFETY: every x86-64 CPU has it, and nobody forbade its use (prctl(PR_SET_TSC)).
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// clock_gettime as programs call it: through the vDSO when there is one.
pub fn vdso_clock() -> Res {
    let mut ts: libc::timespec = zero();
    // SAFETY: `ts` is valid for the write.
    Errno::result(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) }).map(|r| r as usize)
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
        let _ = user_sys::sys!(libc::SYS_execve, job.0, job.1, 0);
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
