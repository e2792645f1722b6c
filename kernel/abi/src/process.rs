//! Processes: clone flags, resource usage and limits, wait options (clone(2), getrusage(2), waitid(2)).

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::time::Timeval;

bitflags! {
    /// `CLONE_*` flags of clone(2), clone3(2) and unshare(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CloneFlags: u64 {
        const NEWTIME = 0x80;
        const VM = 0x100;
        const FS = 0x200;
        const FILES = 0x400;
        const SIGHAND = 0x800;
        const PIDFD = 0x1000;
        const PTRACE = 0x2000;
        const VFORK = 0x4000;
        const PARENT = 0x8000;
        const THREAD = 0x1_0000;
        const NEWNS = 0x2_0000;
        const SYSVSEM = 0x4_0000;
        const SETTLS = 0x8_0000;
        const PARENT_SETTID = 0x10_0000;
        const CHILD_CLEARTID = 0x20_0000;
        const DETACHED = 0x40_0000;
        const UNTRACED = 0x80_0000;
        const CHILD_SETTID = 0x100_0000;
        const NEWCGROUP = 0x200_0000;
        const NEWUTS = 0x400_0000;
        const NEWIPC = 0x800_0000;
        const NEWUSER = 0x1000_0000;
        const NEWPID = 0x2000_0000;
        const NEWNET = 0x4000_0000;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;
        const AUTOREAP = 0x4_0000_0000;
        const NNP = 0x8_0000_0000;
        const PIDFD_AUTOKILL = 0x10_0000_0000;
        const EMPTY_MNTNS = 0x20_0000_0000;
    }

    /// Options of wait4(2) and waitid(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WaitOptions: u32 {
        const NOHANG = 1;
        const UNTRACED = 2;
        const STOPPED = 2;
        const EXITED = 4;
        const CONTINUED = 8;
        const NOWAIT = 0x0100_0000;
        const NOTHREAD = 0x2000_0000;
        const ALL = 0x4000_0000;
        const CLONE = 0x8000_0000;
    }
}

/// `struct clone_args` of clone3(2), version 2 (88 bytes).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// `struct rusage` of getrusage(2), 144 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rusage {
    pub ru_utime: Timeval,
    pub ru_stime: Timeval,
    pub ru_maxrss: i64,
    pub ru_ixrss: i64,
    pub ru_idrss: i64,
    pub ru_isrss: i64,
    pub ru_minflt: i64,
    pub ru_majflt: i64,
    pub ru_nswap: i64,
    pub ru_inblock: i64,
    pub ru_oublock: i64,
    pub ru_msgsnd: i64,
    pub ru_msgrcv: i64,
    pub ru_nsignals: i64,
    pub ru_nvcsw: i64,
    pub ru_nivcsw: i64,
}

/// `struct rlimit64` of prlimit(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rlimit {
    /// Soft limit; [`RLIM_INFINITY`] for none.
    pub rlim_cur: u64,
    /// Hard limit; [`RLIM_INFINITY`] for none.
    pub rlim_max: u64,
}

/// No limit (getrlimit(2)).
pub const RLIM_INFINITY: u64 = u64::MAX;

/// `struct robust_list_head` (get_robust_list(2)), 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RobustListHead {
    /// First entry, or the head's own address when empty; bit 0 marks a PI futex.
    pub list: u64,
    /// Offset from an entry to its futex word.
    pub futex_offset: i64,
    /// The entry being added or removed at this moment.
    pub list_op_pending: u64,
}

const _: () = assert!(size_of::<Rusage>() == 144 && size_of::<CloneArgs>() == 88);
