//! The table of system calls: one row a call, which feeds dispatch, logs and the coverage page.
//!
//! A row gives the number, the name with its typed arguments, the handler and the support level.
//! Arguments decode and check themselves ([`Arg`]), so a handler never sees a raw register. Calls of
//! Linux 7.2 that Keel lacks are listed under `absent`: they return `ENOSYS`, as a Linux built
//! without them does.
//!
//! Source: syscalls(2) and the x86-64 numbers of Linux 7.2.

use hal::UserAddr;

use crate::arg::{Arg, Support};
use crate::{Cx, Result, fd, file, mem, path, system, xattr};

/// One past the highest system-call number that has a row.
pub const NR_SYSCALLS: usize = 472;

/// Decodes the six argument registers and runs a handler.
pub type Call = fn(&mut Cx<'_>, &[u64; 6]) -> Result<usize>;

/// What the kernel knows about one system call.
#[derive(Clone, Copy)]
pub struct Row {
    /// The name of the manual page, or empty for a number that Linux does not use.
    pub name: &'static str,
    /// Names and types of the arguments.
    pub args: &'static [(&'static str, &'static str)],
    /// The decoder and handler; `None` answers `ENOSYS`.
    pub call: Option<Call>,
    /// How much of the call is there.
    pub support: Support,
}

const UNUSED: Row = Row { name: "", args: &[], call: None, support: Support::Absent };

macro_rules! syscalls {
    (
        $($nr:literal $name:ident ($($arg:ident: $ty:ty),* $(,)?) => $handler:path, $support:expr;)*
        absent { $($absent_nr:literal $absent_name:ident),* $(,)? }
    ) => {
        const fn build() -> [Row; NR_SYSCALLS] {
            let mut table = [UNUSED; NR_SYSCALLS];
            $(
                assert!(table[$nr].name.is_empty(), "two rows have the same number");
                table[$nr] = Row {
                    name: stringify!($name),
                    args: &[$((stringify!($arg), stringify!($ty))),*],
                    call: Some(|cx, regs| {
                        let registers = &mut regs.iter().copied();
                        $(let $arg = <$ty as Arg>::decode(registers.next().unwrap_or(0))?;)*
                        let _ = registers;
                        $handler(cx, $($arg),*)
                    }),
                    support: $support,
                };
            )*
            $(
                assert!(table[$absent_nr].name.is_empty(), "two rows have the same number");
                table[$absent_nr] = Row { name: stringify!($absent_name), args: &[], call: None, support: Support::Absent };
            )*
            table
        }
    };
}

syscalls! {
    0 read(fd: i32, buf: UserAddr, count: usize) => file::sys_read, Support::Full;
    1 write(fd: i32, buf: UserAddr, count: usize) => file::sys_write, Support::Full;
    2 open(name: UserAddr, flags: u32, mode: u32) => path::sys_open, Support::Full;
    3 close(fd: i32) => fd::sys_close, Support::Full;
    4 stat(name: UserAddr, buf: UserAddr) => path::sys_stat, Support::Full;
    5 fstat(fd: i32, buf: UserAddr) => path::sys_fstat, Support::Full;
    6 lstat(name: UserAddr, buf: UserAddr) => path::sys_lstat, Support::Full;
    8 lseek(fd: i32, offset: i64, whence: u32) => file::sys_lseek, Support::Full;
    9 mmap(addr: u64, len: u64, prot: u32, raw_flags: u32, fd: i32, offset: u64)
        => mem::sys_mmap, Support::Partial("no huge pages: EINVAL");
    10 mprotect(addr: u64, len: u64, prot: u32) => mem::sys_mprotect, Support::Full;
    11 munmap(addr: u64, len: u64) => mem::sys_munmap, Support::Full;
    12 brk(brk: u64) => mem::sys_brk, Support::Full;
    16 ioctl(fd: i32, cmd: u32, arg: usize) => fd::sys_ioctl, Support::Full;
    17 pread64(fd: i32, buf: UserAddr, count: usize, pos: i64) => file::sys_pread64, Support::Full;
    18 pwrite64(fd: i32, buf: UserAddr, count: usize, pos: i64) => file::sys_pwrite64, Support::Full;
    19 readv(fd: i32, iov: UserAddr, count: usize) => file::sys_readv, Support::Full;
    20 writev(fd: i32, iov: UserAddr, count: usize) => file::sys_writev, Support::Full;
    21 access(name: UserAddr, mode: u32) => path::sys_access, Support::Full;
    22 pipe(fds: UserAddr) => fd::sys_pipe, Support::Full;
    25 mremap(addr: u64, old_len: u64, new_len: u64, flags: u32, new_addr: u64)
        => mem::sys_mremap, Support::Full;
    26 msync(addr: u64, len: u64, flags: u32) => mem::sys_msync, Support::Full;
    27 mincore(addr: u64, len: u64, vec: UserAddr) => mem::sys_mincore, Support::Full;
    28 madvise(addr: u64, len: u64, advice: u32) => mem::sys_madvise, Support::Partial("see mm");
    32 dup(fd: i32) => fd::sys_dup, Support::Full;
    33 dup2(old: i32, new: i32) => fd::sys_dup2, Support::Full;
    40 sendfile(out_fd: i32, in_fd: i32, offset: UserAddr, count: usize) => file::sys_sendfile, Support::Full;
    63 uname(buf: UserAddr) => system::sys_uname, Support::Full;
    72 fcntl(fd: i32, cmd: u32, arg: u64)
        => fd::sys_fcntl, Support::Partial("no leases, no F_NOTIFY: EINVAL");
    73 flock(fd: i32, operation: u32) => fd::sys_flock, Support::Full;
    74 fsync(fd: i32) => file::sys_fsync, Support::Full;
    75 fdatasync(fd: i32) => file::sys_fdatasync, Support::Full;
    76 truncate(name: UserAddr, size: i64) => path::sys_truncate, Support::Full;
    77 ftruncate(fd: i32, size: i64) => file::sys_ftruncate, Support::Full;
    79 getcwd(buf: UserAddr, size: usize) => path::sys_getcwd, Support::Full;
    80 chdir(name: UserAddr) => path::sys_chdir, Support::Full;
    81 fchdir(fd: i32) => path::sys_fchdir, Support::Full;
    82 rename(old: UserAddr, new: UserAddr) => path::sys_rename, Support::Full;
    83 mkdir(name: UserAddr, mode: u32) => path::sys_mkdir, Support::Full;
    84 rmdir(name: UserAddr) => path::sys_rmdir, Support::Full;
    85 creat(name: UserAddr, mode: u32) => path::sys_creat, Support::Full;
    86 link(old: UserAddr, new: UserAddr) => path::sys_link, Support::Full;
    87 unlink(name: UserAddr) => path::sys_unlink, Support::Full;
    88 symlink(target: UserAddr, name: UserAddr) => path::sys_symlink, Support::Full;
    89 readlink(name: UserAddr, buf: UserAddr, size: i32) => path::sys_readlink, Support::Full;
    90 chmod(name: UserAddr, mode: u32) => path::sys_chmod, Support::Full;
    91 fchmod(fd: i32, mode: u32) => path::sys_fchmod, Support::Full;
    92 chown(name: UserAddr, uid: u32, gid: u32) => path::sys_chown, Support::Full;
    93 fchown(fd: i32, uid: u32, gid: u32) => path::sys_fchown, Support::Full;
    94 lchown(name: UserAddr, uid: u32, gid: u32) => path::sys_lchown, Support::Full;
    95 umask(mask: u32) => path::sys_umask, Support::Full;
    132 utime(name: UserAddr, times: UserAddr) => path::sys_utime, Support::Full;
    133 mknod(name: UserAddr, mode: u32, dev: u32) => path::sys_mknod, Support::Full;
    137 statfs(name: UserAddr, buf: UserAddr) => path::sys_statfs, Support::Full;
    138 fstatfs(fd: i32, buf: UserAddr) => path::sys_fstatfs, Support::Full;
    149 mlock(addr: u64, len: u64) => mem::sys_mlock, Support::Full;
    150 munlock(addr: u64, len: u64) => mem::sys_munlock, Support::Full;
    151 mlockall(flags: u32) => mem::sys_mlockall, Support::Full;
    152 munlockall() => mem::sys_munlockall, Support::Full;
    153 vhangup() => path::sys_vhangup, Support::Full;
    155 pivot_root(new_root: UserAddr, put_old: UserAddr) => path::sys_pivot_root, Support::Full;
    161 chroot(name: UserAddr) => path::sys_chroot, Support::Full;
    162 sync() => path::sys_sync, Support::Full;
    165 mount(source: UserAddr, target: UserAddr, fs_type: UserAddr, flags: u64, data: UserAddr)
        => path::sys_mount, Support::Full;
    166 umount2(name: UserAddr, flags: u32) => path::sys_umount2, Support::Full;
    169 reboot(magic1: u32, magic2: u32, command: u32, arg: u64) => system::sys_reboot, Support::Full;
    170 sethostname(name: UserAddr, len: i32) => system::sys_sethostname, Support::Full;
    171 setdomainname(name: UserAddr, len: i32) => system::sys_setdomainname, Support::Full;
    187 readahead(fd: i32, offset: i64, count: usize) => file::sys_readahead, Support::Full;
    188 setxattr(path: UserAddr, name: UserAddr, buf: UserAddr, size: usize, flags: u32)
        => xattr::sys_setxattr, Support::Full;
    189 lsetxattr(path: UserAddr, name: UserAddr, buf: UserAddr, size: usize, flags: u32)
        => xattr::sys_lsetxattr, Support::Full;
    190 fsetxattr(fd: i32, name: UserAddr, buf: UserAddr, size: usize, flags: u32)
        => xattr::sys_fsetxattr, Support::Full;
    191 getxattr(path: UserAddr, name: UserAddr, buf: UserAddr, size: usize)
        => xattr::sys_getxattr, Support::Full;
    192 lgetxattr(path: UserAddr, name: UserAddr, buf: UserAddr, size: usize)
        => xattr::sys_lgetxattr, Support::Full;
    193 fgetxattr(fd: i32, name: UserAddr, buf: UserAddr, size: usize) => xattr::sys_fgetxattr, Support::Full;
    194 listxattr(path: UserAddr, buf: UserAddr, size: usize) => xattr::sys_listxattr, Support::Full;
    195 llistxattr(path: UserAddr, buf: UserAddr, size: usize) => xattr::sys_llistxattr, Support::Full;
    196 flistxattr(fd: i32, buf: UserAddr, size: usize) => xattr::sys_flistxattr, Support::Full;
    197 removexattr(path: UserAddr, name: UserAddr) => xattr::sys_removexattr, Support::Full;
    198 lremovexattr(path: UserAddr, name: UserAddr) => xattr::sys_lremovexattr, Support::Full;
    199 fremovexattr(fd: i32, name: UserAddr) => xattr::sys_fremovexattr, Support::Full;
    217 getdents64(fd: i32, buf: UserAddr, count: u32) => file::sys_getdents64, Support::Full;
    221 fadvise64(fd: i32, offset: i64, len: i64, advice: i32) => file::sys_fadvise64, Support::Full;
    235 utimes(name: UserAddr, times: UserAddr) => path::sys_utimes, Support::Full;
    257 openat(dirfd: i32, name: UserAddr, flags: u32, mode: u32) => path::sys_openat, Support::Full;
    258 mkdirat(dirfd: i32, name: UserAddr, mode: u32) => path::sys_mkdirat, Support::Full;
    259 mknodat(dirfd: i32, name: UserAddr, mode: u32, dev: u32) => path::sys_mknodat, Support::Full;
    260 fchownat(dirfd: i32, name: UserAddr, uid: u32, gid: u32, flags: u32)
        => path::sys_fchownat, Support::Full;
    261 futimesat(dirfd: i32, name: UserAddr, times: UserAddr) => path::sys_futimesat, Support::Full;
    262 newfstatat(dirfd: i32, name: UserAddr, buf: UserAddr, flags: u32)
        => path::sys_newfstatat, Support::Full;
    263 unlinkat(dirfd: i32, name: UserAddr, flags: u32) => path::sys_unlinkat, Support::Full;
    264 renameat(old_fd: i32, old: UserAddr, new_fd: i32, new: UserAddr) => path::sys_renameat, Support::Full;
    265 linkat(old_fd: i32, old: UserAddr, new_fd: i32, new: UserAddr, flags: u32)
        => path::sys_linkat, Support::Full;
    266 symlinkat(target: UserAddr, dirfd: i32, name: UserAddr) => path::sys_symlinkat, Support::Full;
    267 readlinkat(dirfd: i32, name: UserAddr, buf: UserAddr, size: i32)
        => path::sys_readlinkat, Support::Full;
    268 fchmodat(dirfd: i32, name: UserAddr, mode: u32) => path::sys_fchmodat, Support::Full;
    269 faccessat(dirfd: i32, name: UserAddr, mode: u32) => path::sys_faccessat, Support::Full;
    275 splice(in_fd: i32, in_offset: UserAddr, out_fd: i32, out_offset: UserAddr, count: usize, flags: u32)
        => file::sys_splice, Support::Full;
    276 tee(in_fd: i32, out_fd: i32, count: usize, flags: u32) => file::sys_tee, Support::Full;
    277 sync_file_range(fd: i32, offset: i64, len: i64, flags: u32)
        => file::sys_sync_file_range, Support::Full;
    280 utimensat(dirfd: i32, name: UserAddr, times: UserAddr, flags: u32)
        => path::sys_utimensat, Support::Full;
    285 fallocate(fd: i32, mode: u32, offset: i64, len: i64) => file::sys_fallocate, Support::Full;
    292 dup3(old: i32, new: i32, flags: u32) => fd::sys_dup3, Support::Full;
    293 pipe2(fds: UserAddr, flags: u32) => fd::sys_pipe2, Support::Full;
    295 preadv(fd: i32, iov: UserAddr, count: usize, pos: i64) => file::sys_preadv, Support::Full;
    296 pwritev(fd: i32, iov: UserAddr, count: usize, pos: i64) => file::sys_pwritev, Support::Full;
    306 syncfs(fd: i32) => path::sys_syncfs, Support::Full;
    309 getcpu(cpu: UserAddr, node: UserAddr, cache: u64) => system::sys_getcpu, Support::Full;
    310 process_vm_readv(pid: i32, local: UserAddr, nr_local: usize, remote: UserAddr, nr_remote: usize, flags: u64)
        => mem::sys_process_vm_readv, Support::Full;
    311 process_vm_writev(pid: i32, local: UserAddr, nr_local: usize, remote: UserAddr, nr_remote: usize, flags: u64)
        => mem::sys_process_vm_writev, Support::Full;
    316 renameat2(old_fd: i32, old: UserAddr, new_fd: i32, new: UserAddr, flags: u32)
        => path::sys_renameat2, Support::Full;
    318 getrandom(buf: UserAddr, len: usize, flags: u32) => system::sys_getrandom, Support::Full;
    324 membarrier(command: i32, flags: u32, cpu: i32)
        => mem::sys_membarrier, Support::Partial("no sync-core, no rseq: EINVAL");
    325 mlock2(addr: u64, len: u64, flags: u32) => mem::sys_mlock2, Support::Full;
    326 copy_file_range(in_fd: i32, in_offset: UserAddr, out_fd: i32, out_offset: UserAddr, count: usize, flags: u32)
        => file::sys_copy_file_range, Support::Full;
    327 preadv2(fd: i32, iov: UserAddr, count: usize, pos: i64, pos_high: u64, flags: u32)
        => file::sys_preadv2, Support::Partial("flags: EOPNOTSUPP");
    328 pwritev2(fd: i32, iov: UserAddr, count: usize, pos: i64, pos_high: u64, flags: u32)
        => file::sys_pwritev2, Support::Partial("flags: EOPNOTSUPP");
    332 statx(dirfd: i32, name: UserAddr, flags: u32, mask: u32, buf: UserAddr)
        => path::sys_statx, Support::Full;
    436 close_range(first: u32, last: u32, flags: u32) => fd::sys_close_range, Support::Full;
    437 openat2(dirfd: i32, name: UserAddr, how: UserAddr, size: usize) => path::sys_openat2, Support::Full;
    439 faccessat2(dirfd: i32, name: UserAddr, mode: u32, flags: u32) => path::sys_faccessat2, Support::Full;
    452 fchmodat2(dirfd: i32, name: UserAddr, mode: u32, flags: u32) => path::sys_fchmodat2, Support::Full;

    absent {
        319 memfd_create,
        7 poll,
        13 rt_sigaction,
        14 rt_sigprocmask,
        15 rt_sigreturn,
        23 select,
        24 sched_yield,
        29 shmget,
        30 shmat,
        31 shmctl,
        34 pause,
        35 nanosleep,
        36 getitimer,
        37 alarm,
        38 setitimer,
        39 getpid,
        41 socket,
        42 connect,
        43 accept,
        44 sendto,
        45 recvfrom,
        46 sendmsg,
        47 recvmsg,
        48 shutdown,
        49 bind,
        50 listen,
        51 getsockname,
        52 getpeername,
        53 socketpair,
        54 setsockopt,
        55 getsockopt,
        56 clone,
        57 fork,
        58 vfork,
        59 execve,
        60 exit,
        61 wait4,
        62 kill,
        64 semget,
        65 semop,
        66 semctl,
        67 shmdt,
        68 msgget,
        69 msgsnd,
        70 msgrcv,
        71 msgctl,
        78 getdents,
        96 gettimeofday,
        97 getrlimit,
        98 getrusage,
        99 sysinfo,
        100 times,
        101 ptrace,
        102 getuid,
        103 syslog,
        104 getgid,
        105 setuid,
        106 setgid,
        107 geteuid,
        108 getegid,
        109 setpgid,
        110 getppid,
        111 getpgrp,
        112 setsid,
        113 setreuid,
        114 setregid,
        115 getgroups,
        116 setgroups,
        117 setresuid,
        118 getresuid,
        119 setresgid,
        120 getresgid,
        121 getpgid,
        122 setfsuid,
        123 setfsgid,
        124 getsid,
        125 capget,
        126 capset,
        127 rt_sigpending,
        128 rt_sigtimedwait,
        129 rt_sigqueueinfo,
        130 rt_sigsuspend,
        131 sigaltstack,
        134 uselib,
        135 personality,
        136 ustat,
        139 sysfs,
        140 getpriority,
        141 setpriority,
        142 sched_setparam,
        143 sched_getparam,
        144 sched_setscheduler,
        145 sched_getscheduler,
        146 sched_get_priority_max,
        147 sched_get_priority_min,
        148 sched_rr_get_interval,
        154 modify_ldt,
        156 _sysctl,
        157 prctl,
        158 arch_prctl,
        159 adjtimex,
        160 setrlimit,
        163 acct,
        164 settimeofday,
        167 swapon,
        168 swapoff,
        172 iopl,
        173 ioperm,
        174 create_module,
        175 init_module,
        176 delete_module,
        177 get_kernel_syms,
        178 query_module,
        179 quotactl,
        180 nfsservctl,
        181 getpmsg,
        182 putpmsg,
        183 afs_syscall,
        184 tuxcall,
        185 security,
        186 gettid,
        200 tkill,
        201 time,
        202 futex,
        203 sched_setaffinity,
        204 sched_getaffinity,
        205 set_thread_area,
        206 io_setup,
        207 io_destroy,
        208 io_getevents,
        209 io_submit,
        210 io_cancel,
        211 get_thread_area,
        212 lookup_dcookie,
        213 epoll_create,
        214 epoll_ctl_old,
        215 epoll_wait_old,
        216 remap_file_pages,
        218 set_tid_address,
        219 restart_syscall,
        220 semtimedop,
        222 timer_create,
        223 timer_settime,
        224 timer_gettime,
        225 timer_getoverrun,
        226 timer_delete,
        227 clock_settime,
        228 clock_gettime,
        229 clock_getres,
        230 clock_nanosleep,
        231 exit_group,
        232 epoll_wait,
        233 epoll_ctl,
        234 tgkill,
        236 vserver,
        237 mbind,
        238 set_mempolicy,
        239 get_mempolicy,
        240 mq_open,
        241 mq_unlink,
        242 mq_timedsend,
        243 mq_timedreceive,
        244 mq_notify,
        245 mq_getsetattr,
        246 kexec_load,
        247 waitid,
        248 add_key,
        249 request_key,
        250 keyctl,
        251 ioprio_set,
        252 ioprio_get,
        253 inotify_init,
        254 inotify_add_watch,
        255 inotify_rm_watch,
        256 migrate_pages,
        270 pselect6,
        271 ppoll,
        272 unshare,
        273 set_robust_list,
        274 get_robust_list,
        278 vmsplice,
        279 move_pages,
        281 epoll_pwait,
        282 signalfd,
        283 timerfd_create,
        284 eventfd,
        286 timerfd_settime,
        287 timerfd_gettime,
        288 accept4,
        289 signalfd4,
        290 eventfd2,
        291 epoll_create1,
        294 inotify_init1,
        297 rt_tgsigqueueinfo,
        298 perf_event_open,
        299 recvmmsg,
        300 fanotify_init,
        301 fanotify_mark,
        302 prlimit64,
        303 name_to_handle_at,
        304 open_by_handle_at,
        305 clock_adjtime,
        307 sendmmsg,
        308 setns,
        312 kcmp,
        313 finit_module,
        314 sched_setattr,
        315 sched_getattr,
        317 seccomp,
        320 kexec_file_load,
        321 bpf,
        322 execveat,
        323 userfaultfd,
        329 pkey_mprotect,
        330 pkey_alloc,
        331 pkey_free,
        333 io_pgetevents,
        334 rseq,
        335 uretprobe,
        424 pidfd_send_signal,
        425 io_uring_setup,
        426 io_uring_enter,
        427 io_uring_register,
        428 open_tree,
        429 move_mount,
        430 fsopen,
        431 fsconfig,
        432 fsmount,
        433 fspick,
        434 pidfd_open,
        435 clone3,
        438 pidfd_getfd,
        440 process_madvise,
        441 epoll_pwait2,
        442 mount_setattr,
        443 quotactl_fd,
        444 landlock_create_ruleset,
        445 landlock_add_rule,
        446 landlock_restrict_self,
        447 memfd_secret,
        448 process_mrelease,
        449 futex_waitv,
        450 set_mempolicy_home_node,
        451 cachestat,
        453 map_shadow_stack,
        454 futex_wake,
        455 futex_wait,
        456 futex_requeue,
        457 statmount,
        458 listmount,
        459 lsm_get_self_attr,
        460 lsm_set_self_attr,
        461 lsm_list_modules,
        462 mseal,
        463 setxattrat,
        464 getxattrat,
        465 listxattrat,
        466 removexattrat,
        467 open_tree_attr,
        468 file_getattr,
        469 file_setattr,
        470 listns,
        471 rseq_slice_yield,
    }
}

/// Every row, indexed by system-call number.
pub static TABLE: [Row; NR_SYSCALLS] = build();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_linux_uses_has_a_row() {
        let gap = 336..424;
        for (nr, row) in TABLE.iter().enumerate() {
            assert_eq!(row.name.is_empty(), gap.contains(&nr), "row {nr}");
        }
    }
}
