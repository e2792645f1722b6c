//! The ends of children: PID 1 inherits every orphan, and each may end in any way that wait(2) can tell.
//!
//! `nix::sys::wait` has no name for a death by a real-time signal and answers EINVAL after the child is gone, so the raw
//! call is used here.

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

/// What one look at the children found.
pub enum Look {
    /// This child has ended and is reaped: its exit status, or 128 plus the number of the signal that ended it.
    Ended(Pid, i32),
    /// Children are there, but none has ended.
    Nobody,
}

/// Reaps one child that has ended; with `may_sleep`, waits for one until a signal arrives.
///
/// # Errors
/// `ECHILD` without children, `EINTR` when a signal came first.
pub fn reap(may_sleep: bool) -> Result<Look, Errno> {
    let mut status = 0;
    // SAFETY: wait4(2) writes one `int` to `status`, which lives until the call returns.
    let pid = Errno::result(unsafe {
        libc::waitpid(-1, &raw mut status, if may_sleep { 0 } else { libc::WNOHANG })
    })?;
    Ok(if pid == 0 { Look::Nobody } else { Look::Ended(Pid::from_raw(pid), code(status)) })
}

/// The status as sh(1) counts it.
fn code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_time_signal_has_a_code() {
        assert_eq!(code(34), 162);
        assert_eq!(code(0x80 | 11), 139);
        assert_eq!(code(3 << 8), 3);
    }
}
