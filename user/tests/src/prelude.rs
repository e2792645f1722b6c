//! What every area uses.

pub use std::sync::atomic::Ordering::SeqCst;

pub use libc::*;
pub use nix::errno::Errno::{
    self, E2BIG, EACCES, EADDRINUSE, EAFNOSUPPORT, EAGAIN, EBADF, EBUSY, ECHILD, ECONNREFUSED, ECONNRESET,
    EDEADLK, EEXIST, EFAULT, EFBIG, EINPROGRESS, EINTR, EINVAL, EIO, EISCONN, EISDIR, ELOOP, EMFILE,
    EMSGSIZE, ENAMETOOLONG, ENODATA, ENODEV, ENOENT, ENOEXEC, ENOMEM, ENOPROTOOPT, ENOSPC, ENOSYS, ENOTCONN,
    ENOTDIR, ENOTEMPTY, ENOTSOCK, ENOTTY, ENXIO, EOPNOTSUPP, EOVERFLOW, EPERM, EPIPE, EPROTONOSUPPORT,
    EPROTOTYPE, ERANGE, EROFS, ESOCKTNOSUPPORT, ESPIPE, ESRCH, ETIMEDOUT, ETXTBSY, EXDEV,
};

pub use crate::harness::{allow_seconds, skip};
pub use crate::helper::{MARK, me};
pub use crate::kit::{
    BAD, Child, LAST, LAST_CODE, LAST_PID, LAST_VALUE, PAGE, Random, SEEN, Status, anon, aside, child,
    child_code, close, count, cstr, dir, drop_root, fate, file, fstat, getpid, gettid, ignore, lstat_path,
    map, mask_of, mkdir, ms, nap, new_file, now_ms, open, path, pending, pipe, pipe_with, poll1, pread,
    proc_status, pwrite, read_vec, seek, seen, settle, shared, sigmask, slurp, socketpair, stat_path, timed,
    wait_state, write, write_file,
};
pub use crate::sys::{
    SigInfo, atomic, bytes_at, exit, on_signal, on_signal_masking, peek, poke, set_action, zero,
};
pub use crate::{sys, tests};
