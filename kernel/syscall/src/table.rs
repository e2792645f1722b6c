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
use crate::{
    Cx, Result, aio, cred, eventfiles, fd, file, futex, handle, ioprio, ipc, mem, mounts, net, numa, path,
    poll, ports, range, scheduling, segment, signal, swap, system, task, time, trace, uring, xattr,
};

/// One past the highest system-call number that has a row.
pub const NR_SYSCALLS: usize = 472;

/// Decodes the arguments and runs a handler.
pub type Call = fn(&mut Cx<'_>) -> Result<usize>;

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
                    call: Some(|cx| {
                        let registers = &mut (0..6);
                        $(let $arg = <$ty as Arg>::decode(cx.register(registers.next().unwrap_or(5)))?;)*
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
    7 poll(fds: UserAddr, count: u32, timeout: i32) => poll::sys_poll, Support::Full;
    8 lseek(fd: i32, offset: i64, whence: u32) => file::sys_lseek, Support::Full;
    9 mmap(addr: u64, len: u64, prot: u32, raw_flags: u32, fd: i32, offset: u64)
        => mem::sys_mmap, Support::Partial("huge pages of 1 GiB: EINVAL, as on a machine without them");
    10 mprotect(addr: u64, len: u64, prot: u32) => mem::sys_mprotect, Support::Full;
    11 munmap(addr: u64, len: u64) => mem::sys_munmap, Support::Full;
    12 brk(brk: u64) => mem::sys_brk, Support::Full;
    13 rt_sigaction(sig: i32, new: UserAddr, old: UserAddr, size: usize)
        => signal::sys_rt_sigaction, Support::Full;
    14 rt_sigprocmask(how: i32, set: UserAddr, old: UserAddr, size: usize)
        => signal::sys_rt_sigprocmask, Support::Full;
    15 rt_sigreturn() => signal::sys_rt_sigreturn, Support::Full;
    16 ioctl(fd: i32, cmd: u32, arg: usize) => fd::sys_ioctl, Support::Full;
    17 pread64(fd: i32, buf: UserAddr, count: usize, pos: i64) => file::sys_pread64, Support::Full;
    18 pwrite64(fd: i32, buf: UserAddr, count: usize, pos: i64) => file::sys_pwrite64, Support::Full;
    19 readv(fd: i32, iov: UserAddr, count: usize) => file::sys_readv, Support::Full;
    20 writev(fd: i32, iov: UserAddr, count: usize) => file::sys_writev, Support::Full;
    21 access(name: UserAddr, mode: u32) => path::sys_access, Support::Full;
    22 pipe(fds: UserAddr) => fd::sys_pipe, Support::Full;
    23 select(nfds: i32, read: UserAddr, write: UserAddr, except: UserAddr, timeout: UserAddr)
        => poll::sys_select, Support::Full;
    24 sched_yield() => scheduling::sys_sched_yield, Support::Full;
    25 mremap(addr: u64, old_len: u64, new_len: u64, flags: u32, new_addr: u64)
        => mem::sys_mremap, Support::Full;
    26 msync(addr: u64, len: u64, flags: u32) => mem::sys_msync, Support::Full;
    27 mincore(addr: u64, len: u64, vec: UserAddr) => mem::sys_mincore, Support::Full;
    28 madvise(addr: u64, len: u64, advice: u32)
        => mem::sys_madvise, Support::Partial("MADV_HWPOISON of shared memory, merged pages and hugetlb: EBUSY");
    29 shmget(key: i32, size: u64, flags: i32) => ipc::sys_shmget, Support::Full;
    30 shmat(id: i32, addr: u64, flags: i32) => ipc::sys_shmat, Support::Full;
    31 shmctl(id: i32, command: i32, buf: UserAddr) => ipc::sys_shmctl, Support::Full;
    32 dup(fd: i32) => fd::sys_dup, Support::Full;
    33 dup2(old: i32, new: i32) => fd::sys_dup2, Support::Full;
    34 pause() => signal::sys_pause, Support::Full;
    35 nanosleep(time: UserAddr, left: UserAddr) => time::sys_nanosleep, Support::Full;
    36 getitimer(which: i32, out: UserAddr) => time::sys_getitimer, Support::Full;
    37 alarm(seconds: u32) => time::sys_alarm, Support::Full;
    38 setitimer(which: i32, new: UserAddr, old: UserAddr) => time::sys_setitimer, Support::Full;
    39 getpid() => task::sys_getpid, Support::Full;
    40 sendfile(out_fd: i32, in_fd: i32, offset: UserAddr, count: usize) => file::sys_sendfile, Support::Full;
    41 socket(family: i32, kind: i32, protocol: i32)
        => net::sys_socket, Support::Partial("AF_UNIX, AF_INET, AF_INET6 (TCP, UDP), AF_NETLINK and AF_PACKET only: EAFNOSUPPORT");
    42 connect(fd: i32, addr: UserAddr, len: i32) => net::sys_connect, Support::Full;
    43 accept(fd: i32, addr: UserAddr, len: UserAddr) => net::sys_accept, Support::Full;
    44 sendto(fd: i32, buf: UserAddr, len: usize, flags: u32, addr: UserAddr, addr_len: i32)
        => net::sys_sendto, Support::Partial("MSG_OOB raises no SIGURG; MSG_MORE is ignored by UDP");
    45 recvfrom(fd: i32, buf: UserAddr, len: usize, flags: u32, addr: UserAddr, addr_len: UserAddr)
        => net::sys_recvfrom, Support::Full;
    46 sendmsg(fd: i32, message: UserAddr, flags: u32)
        => net::sys_sendmsg, Support::Partial("MSG_OOB raises no SIGURG; MSG_MORE is ignored by UDP");
    47 recvmsg(fd: i32, message: UserAddr, flags: u32)
        => net::sys_recvmsg, Support::Full;
    48 shutdown(fd: i32, how: i32) => net::sys_shutdown, Support::Full;
    49 bind(fd: i32, addr: UserAddr, len: i32) => net::sys_bind, Support::Full;
    50 listen(fd: i32, backlog: i32) => net::sys_listen, Support::Full;
    51 getsockname(fd: i32, addr: UserAddr, len: UserAddr) => net::sys_getsockname, Support::Full;
    52 getpeername(fd: i32, addr: UserAddr, len: UserAddr) => net::sys_getpeername, Support::Full;
    53 socketpair(family: i32, kind: i32, protocol: i32, fds: UserAddr)
        => net::sys_socketpair, Support::Full;
    54 setsockopt(fd: i32, level: i32, name: i32, value: UserAddr, len: i32)
        => net::sys_setsockopt, Support::Partial("no filters, no time stamps: ENOPROTOOPT");
    55 getsockopt(fd: i32, level: i32, name: i32, value: UserAddr, len: UserAddr)
        => net::sys_getsockopt, Support::Partial("no SO_PEERGROUPS, SO_PEERSEC: ENOPROTOOPT");
    56 clone(flags: u64, stack: u64, parent_tid: UserAddr, child_tid: UserAddr, tls: u64)
        => task::sys_clone, Support::Full;
    57 fork() => task::sys_fork, Support::Full;
    58 vfork() => task::sys_vfork, Support::Full;
    59 execve(path: UserAddr, argv: UserAddr, envp: UserAddr) => task::sys_execve, Support::Full;
    60 exit(code: i32) => task::sys_exit, Support::Full;
    61 wait4(pid: i32, status: UserAddr, options: u32, rusage: UserAddr) => task::sys_wait4, Support::Full;
    62 kill(pid: i32, sig: i32) => signal::sys_kill, Support::Full;
    63 uname(buf: UserAddr) => system::sys_uname, Support::Full;
    64 semget(key: i32, count: i32, flags: i32) => ipc::sys_semget, Support::Full;
    65 semop(id: i32, ops: UserAddr, count: u32) => ipc::sys_semop, Support::Full;
    66 semctl(id: i32, num: i32, command: i32, arg: u64) => ipc::sys_semctl, Support::Full;
    67 shmdt(addr: u64) => ipc::sys_shmdt, Support::Full;
    68 msgget(key: i32, flags: i32) => ipc::sys_msgget, Support::Full;
    69 msgsnd(id: i32, message: UserAddr, len: usize, flags: i32) => ipc::sys_msgsnd, Support::Full;
    70 msgrcv(id: i32, message: UserAddr, len: usize, kind: i64, flags: i32) => ipc::sys_msgrcv, Support::Full;
    71 msgctl(id: i32, command: i32, buf: UserAddr) => ipc::sys_msgctl, Support::Full;
    72 fcntl(fd: i32, cmd: u32, arg: u64)
        => fd::sys_fcntl, Support::Full;
    73 flock(fd: i32, operation: u32) => fd::sys_flock, Support::Full;
    74 fsync(fd: i32) => file::sys_fsync, Support::Full;
    75 fdatasync(fd: i32) => file::sys_fdatasync, Support::Full;
    76 truncate(name: UserAddr, size: i64) => path::sys_truncate, Support::Full;
    77 ftruncate(fd: i32, size: i64) => file::sys_ftruncate, Support::Full;
    78 getdents(fd: i32, buf: UserAddr, count: u32) => file::sys_getdents, Support::Full;
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
    96 gettimeofday(time: UserAddr, zone: UserAddr) => time::sys_gettimeofday, Support::Full;
    97 getrlimit(resource: u32, out: UserAddr) => task::sys_getrlimit, Support::Full;
    98 getrusage(who: i32, usage: UserAddr) => task::sys_getrusage, Support::Full;
    99 sysinfo(out: UserAddr) => system::sys_sysinfo, Support::Full;
    100 times(buf: UserAddr) => task::sys_times, Support::Full;
    101 ptrace(request: i64, pid: i64, addr: u64, data: u64)
        => trace::sys_ptrace, Support::Partial("no PTRACE_SINGLEBLOCK, no 32-bit programs: EIO");
    102 getuid() => cred::sys_getuid, Support::Full;
    103 syslog(action: i32, buf: UserAddr, len: i32) => system::sys_syslog, Support::Full;
    104 getgid() => cred::sys_getgid, Support::Full;
    105 setuid(uid: u32) => cred::sys_setuid, Support::Full;
    106 setgid(gid: u32) => cred::sys_setgid, Support::Full;
    107 geteuid() => cred::sys_geteuid, Support::Full;
    108 getegid() => cred::sys_getegid, Support::Full;
    109 setpgid(pid: i32, pgid: i32) => task::sys_setpgid, Support::Full;
    110 getppid() => task::sys_getppid, Support::Full;
    111 getpgrp() => task::sys_getpgrp, Support::Full;
    112 setsid() => task::sys_setsid, Support::Full;
    113 setreuid(real: u32, effective: u32) => cred::sys_setreuid, Support::Full;
    114 setregid(real: u32, effective: u32) => cred::sys_setregid, Support::Full;
    115 getgroups(size: i32, list: UserAddr) => task::sys_getgroups, Support::Full;
    116 setgroups(size: usize, list: UserAddr) => task::sys_setgroups, Support::Full;
    117 setresuid(real: u32, effective: u32, saved: u32) => cred::sys_setresuid, Support::Full;
    118 getresuid(r: UserAddr, e: UserAddr, s: UserAddr) => cred::sys_getresuid, Support::Full;
    119 setresgid(real: u32, effective: u32, saved: u32) => cred::sys_setresgid, Support::Full;
    120 getresgid(r: UserAddr, e: UserAddr, s: UserAddr) => cred::sys_getresgid, Support::Full;
    121 getpgid(pid: i32) => task::sys_getpgid, Support::Full;
    122 setfsuid(uid: u32) => cred::sys_setfsuid, Support::Full;
    123 setfsgid(gid: u32) => cred::sys_setfsgid, Support::Full;
    124 getsid(pid: i32) => task::sys_getsid, Support::Full;
    125 capget(header: UserAddr, data: UserAddr) => cred::sys_capget, Support::Full;
    126 capset(header: UserAddr, data: UserAddr) => cred::sys_capset, Support::Full;
    127 rt_sigpending(set: UserAddr, size: usize) => signal::sys_rt_sigpending, Support::Full;
    128 rt_sigtimedwait(set: UserAddr, info: UserAddr, timeout: UserAddr, size: usize)
        => signal::sys_rt_sigtimedwait, Support::Full;
    129 rt_sigqueueinfo(pid: i32, sig: i32, info: UserAddr) => signal::sys_rt_sigqueueinfo, Support::Full;
    130 rt_sigsuspend(mask: UserAddr, size: usize) => signal::sys_rt_sigsuspend, Support::Full;
    131 sigaltstack(new: UserAddr, old: UserAddr) => signal::sys_sigaltstack, Support::Full;
    132 utime(name: UserAddr, times: UserAddr) => path::sys_utime, Support::Full;
    133 mknod(name: UserAddr, mode: u32, dev: u32) => path::sys_mknod, Support::Full;
    135 personality(persona: u32) => task::sys_personality, Support::Full;
    137 statfs(name: UserAddr, buf: UserAddr) => path::sys_statfs, Support::Full;
    138 fstatfs(fd: i32, buf: UserAddr) => path::sys_fstatfs, Support::Full;
    140 getpriority(which: u32, who: i32) => scheduling::sys_getpriority, Support::Full;
    141 setpriority(which: u32, who: i32, nice: i32) => scheduling::sys_setpriority, Support::Full;
    142 sched_setparam(pid: i32, param: UserAddr) => scheduling::sys_sched_setparam, Support::Full;
    143 sched_getparam(pid: i32, param: UserAddr) => scheduling::sys_sched_getparam, Support::Full;
    144 sched_setscheduler(pid: i32, policy: i32, param: UserAddr)
        => scheduling::sys_sched_setscheduler, Support::Full;
    145 sched_getscheduler(pid: i32) => scheduling::sys_sched_getscheduler, Support::Full;
    146 sched_get_priority_max(policy: u32) => scheduling::sys_sched_get_priority_max, Support::Full;
    147 sched_get_priority_min(policy: u32) => scheduling::sys_sched_get_priority_min, Support::Full;
    148 sched_rr_get_interval(pid: i32, out: UserAddr)
        => scheduling::sys_sched_rr_get_interval, Support::Full;
    149 mlock(addr: u64, len: u64) => mem::sys_mlock, Support::Full;
    150 munlock(addr: u64, len: u64) => mem::sys_munlock, Support::Full;
    151 mlockall(flags: u32) => mem::sys_mlockall, Support::Full;
    152 munlockall() => mem::sys_munlockall, Support::Full;
    153 vhangup() => path::sys_vhangup, Support::Full;
    154 modify_ldt(func: u32, ptr: UserAddr, len: usize) => segment::sys_modify_ldt, Support::Full;
    155 pivot_root(new_root: UserAddr, put_old: UserAddr) => path::sys_pivot_root, Support::Full;
    157 prctl(option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) => cred::sys_prctl, Support::Full;
    158 arch_prctl(code: u32, addr: u64) => cred::sys_arch_prctl, Support::Full;
    159 adjtimex(buf: UserAddr) => time::sys_adjtimex, Support::Full;
    160 setrlimit(resource: u32, new: UserAddr) => task::sys_setrlimit, Support::Full;
    161 chroot(name: UserAddr) => path::sys_chroot, Support::Full;
    162 sync() => path::sys_sync, Support::Full;
    164 settimeofday(time: UserAddr, zone: UserAddr) => time::sys_settimeofday, Support::Full;
    163 acct(name: UserAddr) => system::sys_acct, Support::Full;
    165 mount(source: UserAddr, target: UserAddr, fs_type: UserAddr, flags: u64, data: UserAddr)
        => path::sys_mount, Support::Full;
    166 umount2(name: UserAddr, flags: u32) => path::sys_umount2, Support::Full;
    167 swapon(path: UserAddr, flags: u32)
        => swap::sys_swapon, Support::Partial("no areas with bad pages: EINVAL");
    168 swapoff(path: UserAddr) => swap::sys_swapoff, Support::Full;
    169 reboot(magic1: u32, magic2: u32, command: u32, arg: u64) => system::sys_reboot, Support::Full;
    170 sethostname(name: UserAddr, len: i32) => system::sys_sethostname, Support::Full;
    171 setdomainname(name: UserAddr, len: i32) => system::sys_setdomainname, Support::Full;
    172 iopl(level: u32) => ports::sys_iopl, Support::Full;
    173 ioperm(from: usize, count: usize, allow: i32) => ports::sys_ioperm, Support::Full;
    186 gettid() => task::sys_gettid, Support::Full;
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
    200 tkill(tid: i32, sig: i32) => signal::sys_tkill, Support::Full;
    201 time(out: UserAddr) => time::sys_time, Support::Full;
    202 futex(addr: UserAddr, op: u32, value: u32, timeout: UserAddr, addr2: UserAddr, value3: u32)
        => futex::sys_futex, Support::Full;
    203 sched_setaffinity(pid: i32, size: usize, mask: UserAddr)
        => scheduling::sys_sched_setaffinity, Support::Full;
    204 sched_getaffinity(pid: i32, size: u32, mask: UserAddr)
        => scheduling::sys_sched_getaffinity, Support::Full;
    206 io_setup(nr: u32, place: UserAddr) => aio::sys_io_setup, Support::Full;
    207 io_destroy(id: u64) => aio::sys_io_destroy, Support::Full;
    208 io_getevents(id: u64, min: i64, nr: i64, events: UserAddr, timeout: UserAddr)
        => aio::sys_io_getevents, Support::Full;
    209 io_submit(id: u64, nr: i64, list: UserAddr) => aio::sys_io_submit, Support::Full;
    210 io_cancel(id: u64, iocb: UserAddr, result: UserAddr) => aio::sys_io_cancel, Support::Full;
    213 epoll_create(size: i32) => poll::sys_epoll_create, Support::Full;
    216 remap_file_pages(addr: u64, size: u64, prot: u64, offset: u64, flags: u32)
        => range::sys_remap_file_pages, Support::Full;
    217 getdents64(fd: i32, buf: UserAddr, count: u32) => file::sys_getdents64, Support::Full;
    218 set_tid_address(addr: UserAddr) => task::sys_set_tid_address, Support::Full;
    219 restart_syscall() => signal::sys_restart_syscall, Support::Full;
    220 semtimedop(id: i32, ops: UserAddr, count: u32, timeout: UserAddr) => ipc::sys_semtimedop, Support::Full;
    221 fadvise64(fd: i32, offset: i64, len: i64, advice: i32) => file::sys_fadvise64, Support::Full;
    222 timer_create(id: i32, event: UserAddr, out: UserAddr) => time::sys_timer_create, Support::Full;
    223 timer_settime(id: i32, flags: u32, new: UserAddr, old: UserAddr)
        => time::sys_timer_settime, Support::Full;
    224 timer_gettime(id: i32, out: UserAddr) => time::sys_timer_gettime, Support::Full;
    225 timer_getoverrun(id: i32) => time::sys_timer_getoverrun, Support::Full;
    226 timer_delete(id: i32) => time::sys_timer_delete, Support::Full;
    227 clock_settime(id: i32, time: UserAddr) => time::sys_clock_settime, Support::Full;
    228 clock_gettime(id: i32, out: UserAddr) => time::sys_clock_gettime, Support::Full;
    229 clock_getres(id: i32, out: UserAddr) => time::sys_clock_getres, Support::Full;
    230 clock_nanosleep(id: i32, flags: u32, time: UserAddr, left: UserAddr)
        => time::sys_clock_nanosleep, Support::Full;
    231 exit_group(code: i32) => task::sys_exit_group, Support::Full;
    232 epoll_wait(ep: i32, events: UserAddr, max: i32, timeout: i32) => poll::sys_epoll_wait, Support::Full;
    233 epoll_ctl(ep: i32, op: i32, fd: i32, event: UserAddr) => poll::sys_epoll_ctl, Support::Full;
    234 tgkill(tgid: i32, tid: i32, sig: i32) => signal::sys_tgkill, Support::Full;
    235 utimes(name: UserAddr, times: UserAddr) => path::sys_utimes, Support::Full;
    237 mbind(addr: u64, len: u64, mode: u32, mask: UserAddr, max: u64, flags: u32)
        => numa::sys_mbind, Support::Full;
    238 set_mempolicy(mode: u32, mask: UserAddr, max: u64) => numa::sys_set_mempolicy, Support::Full;
    239 get_mempolicy(out: UserAddr, mask: UserAddr, max: u64, addr: u64, flags: u64)
        => numa::sys_get_mempolicy, Support::Full;
    240 mq_open(name: UserAddr, flags: u32, mode: u32, attr: UserAddr) => ipc::sys_mq_open, Support::Full;
    241 mq_unlink(name: UserAddr) => ipc::sys_mq_unlink, Support::Full;
    242 mq_timedsend(fd: i32, text: UserAddr, len: usize, priority: u32, timeout: UserAddr)
        => ipc::sys_mq_timedsend, Support::Full;
    243 mq_timedreceive(fd: i32, text: UserAddr, len: usize, priority: UserAddr, timeout: UserAddr)
        => ipc::sys_mq_timedreceive, Support::Full;
    244 mq_notify(fd: i32, event: UserAddr) => ipc::sys_mq_notify, Support::Full;
    245 mq_getsetattr(fd: i32, new: UserAddr, old: UserAddr) => ipc::sys_mq_getsetattr, Support::Full;
    247 waitid(kind: u32, id: i32, info: UserAddr, options: u32, rusage: UserAddr)
        => task::sys_waitid, Support::Full;
    251 ioprio_set(which: u32, who: i32, priority: u32) => ioprio::sys_ioprio_set, Support::Full;
    252 ioprio_get(which: u32, who: i32) => ioprio::sys_ioprio_get, Support::Full;
    253 inotify_init() => eventfiles::sys_inotify_init, Support::Full;
    254 inotify_add_watch(fd: i32, name: UserAddr, mask: u32)
        => eventfiles::sys_inotify_add_watch, Support::Full;
    255 inotify_rm_watch(fd: i32, wd: i32) => eventfiles::sys_inotify_rm_watch, Support::Full;
    256 migrate_pages(pid: i32, max: u64, old: UserAddr, new: UserAddr)
        => numa::sys_migrate_pages, Support::Full;
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
    270 pselect6(nfds: i32, read: UserAddr, write: UserAddr, except: UserAddr, timeout: UserAddr, mask: UserAddr)
        => poll::sys_pselect6, Support::Full;
    271 ppoll(fds: UserAddr, count: u32, timeout: UserAddr, mask: UserAddr, size: usize)
        => poll::sys_ppoll, Support::Full;
    272 unshare(flags: u64) => task::sys_unshare, Support::Full;
    273 set_robust_list(head: UserAddr, len: usize) => task::sys_set_robust_list, Support::Full;
    274 get_robust_list(pid: i32, head: UserAddr, len: UserAddr) => task::sys_get_robust_list, Support::Full;
    275 splice(in_fd: i32, in_offset: UserAddr, out_fd: i32, out_offset: UserAddr, count: usize, flags: u32)
        => file::sys_splice, Support::Full;
    276 tee(in_fd: i32, out_fd: i32, count: usize, flags: u32) => file::sys_tee, Support::Full;
    277 sync_file_range(fd: i32, offset: i64, len: i64, flags: u32)
        => file::sys_sync_file_range, Support::Full;
    278 vmsplice(fd: i32, iov: UserAddr, count: usize, flags: u32)
        => file::sys_vmsplice, Support::Partial("SPLICE_F_NONBLOCK is the descriptor's");
    279 move_pages(pid: i32, count: u64, pages: UserAddr, nodes: UserAddr, status: UserAddr, flags: u32)
        => numa::sys_move_pages, Support::Full;
    280 utimensat(dirfd: i32, name: UserAddr, times: UserAddr, flags: u32)
        => path::sys_utimensat, Support::Full;
    281 epoll_pwait(ep: i32, events: UserAddr, max: i32, timeout: i32, mask: UserAddr, size: usize)
        => poll::sys_epoll_pwait, Support::Full;
    282 signalfd(fd: i32, mask: UserAddr, size: usize) => eventfiles::sys_signalfd, Support::Full;
    283 timerfd_create(clock: i32, flags: u32) => eventfiles::sys_timerfd_create, Support::Full;
    284 eventfd(start: u32) => eventfiles::sys_eventfd, Support::Full;
    285 fallocate(fd: i32, mode: u32, offset: i64, len: i64) => file::sys_fallocate, Support::Full;
    286 timerfd_settime(fd: i32, flags: u32, new: UserAddr, old: UserAddr)
        => eventfiles::sys_timerfd_settime, Support::Full;
    287 timerfd_gettime(fd: i32, now: UserAddr) => eventfiles::sys_timerfd_gettime, Support::Full;
    288 accept4(fd: i32, addr: UserAddr, len: UserAddr, flags: u32) => net::sys_accept4, Support::Full;
    289 signalfd4(fd: i32, mask: UserAddr, size: usize, flags: u32) => eventfiles::sys_signalfd4, Support::Full;
    290 eventfd2(start: u32, flags: u32) => eventfiles::sys_eventfd2, Support::Full;
    291 epoll_create1(flags: u32) => poll::sys_epoll_create1, Support::Full;
    292 dup3(old: i32, new: i32, flags: u32) => fd::sys_dup3, Support::Full;
    293 pipe2(fds: UserAddr, flags: u32) => fd::sys_pipe2, Support::Full;
    294 inotify_init1(flags: u32) => eventfiles::sys_inotify_init1, Support::Full;
    295 preadv(fd: i32, iov: UserAddr, count: usize, pos: i64) => file::sys_preadv, Support::Full;
    296 pwritev(fd: i32, iov: UserAddr, count: usize, pos: i64) => file::sys_pwritev, Support::Full;
    297 rt_tgsigqueueinfo(tgid: i32, tid: i32, sig: i32, info: UserAddr)
        => signal::sys_rt_tgsigqueueinfo, Support::Full;
    298 perf_event_open(attr: UserAddr, pid: i32, cpu: i32, group_fd: i32, flags: u64)
        => eventfiles::sys_perf_event_open, Support::Partial("software events and uprobes are counted; no samples (EOPNOTSUPP), breakpoints or tracepoints (ENOENT)");
    299 recvmmsg(fd: i32, messages: UserAddr, count: u32, flags: u32, timeout: UserAddr)
        => net::sys_recvmmsg, Support::Full;
    300 fanotify_init(flags: u32, event_flags: u32)
        => eventfiles::sys_fanotify_init, Support::Partial("FAN_ENABLE_AUDIT: EINVAL");
    301 fanotify_mark(fd: i32, flags: u32, mask: u64, dirfd: i32, name: UserAddr)
        => eventfiles::sys_fanotify_mark, Support::Partial("FAN_PRE_ACCESS, FAN_FS_ERROR: EINVAL");
    302 prlimit64(pid: i32, resource: u32, new: UserAddr, old: UserAddr)
        => task::sys_prlimit64, Support::Full;
    305 clock_adjtime(id: i32, buf: UserAddr) => time::sys_clock_adjtime, Support::Full;
    306 syncfs(fd: i32) => path::sys_syncfs, Support::Full;
    307 sendmmsg(fd: i32, messages: UserAddr, count: u32, flags: u32) => net::sys_sendmmsg, Support::Full;
    308 setns(fd: i32, nstype: u32) => task::sys_setns, Support::Full;
    309 getcpu(cpu: UserAddr, node: UserAddr, cache: u64) => system::sys_getcpu, Support::Full;
    310 process_vm_readv(pid: i32, local: UserAddr, nr_local: usize, remote: UserAddr, nr_remote: usize, flags: u64)
        => mem::sys_process_vm_readv, Support::Full;
    311 process_vm_writev(pid: i32, local: UserAddr, nr_local: usize, remote: UserAddr, nr_remote: usize, flags: u64)
        => mem::sys_process_vm_writev, Support::Full;
    312 kcmp(first: i32, second: i32, kind: u32, a: u64, b: u64) => task::sys_kcmp, Support::Full;
    314 sched_setattr(pid: i32, attr: UserAddr, flags: u32) => scheduling::sys_sched_setattr, Support::Full;
    315 sched_getattr(pid: i32, attr: UserAddr, size: u32, flags: u32)
        => scheduling::sys_sched_getattr, Support::Full;
    316 renameat2(old_fd: i32, old: UserAddr, new_fd: i32, new: UserAddr, flags: u32)
        => path::sys_renameat2, Support::Full;
    317 seccomp(op: u32, flags: u32, args: UserAddr) => trace::sys_seccomp, Support::Full;
    318 getrandom(buf: UserAddr, len: usize, flags: u32) => system::sys_getrandom, Support::Full;
    319 memfd_create(name: UserAddr, flags: u32)
        => mem::sys_memfd_create, Support::Full;
    322 execveat(dirfd: i32, path: UserAddr, argv: UserAddr, envp: UserAddr, flags: u32)
        => task::sys_execveat, Support::Full;
    323 userfaultfd(flags: u32) => eventfiles::sys_userfaultfd,
        Support::Full;
    324 membarrier(command: i32, flags: u32, cpu: i32) => range::sys_membarrier, Support::Full;
    325 mlock2(addr: u64, len: u64, flags: u32) => mem::sys_mlock2, Support::Full;
    326 copy_file_range(in_fd: i32, in_offset: UserAddr, out_fd: i32, out_offset: UserAddr, count: usize, flags: u32)
        => file::sys_copy_file_range, Support::Full;
    327 preadv2(fd: i32, iov: UserAddr, count: usize, pos: i64, pos_high: u64, flags: u32)
        => file::sys_preadv2, Support::Partial("RWF_NOWAIT: only files on ext4 and disks, else EOPNOTSUPP");
    328 pwritev2(fd: i32, iov: UserAddr, count: usize, pos: i64, pos_high: u64, flags: u32)
        => file::sys_pwritev2, Support::Partial("RWF_NOWAIT: only files on ext4 and disks, else EOPNOTSUPP");
    329 pkey_mprotect(addr: u64, len: u64, prot: u32, key: i32)
        => mem::sys_pkey_mprotect, Support::Full;
    330 pkey_alloc(flags: u64, rights: u64)
        => mem::sys_pkey_alloc, Support::Full;
    331 pkey_free(key: i32) => mem::sys_pkey_free, Support::Full;
    332 statx(dirfd: i32, name: UserAddr, flags: u32, mask: u32, buf: UserAddr)
        => path::sys_statx, Support::Full;
    333 io_pgetevents(id: u64, min: i64, nr: i64, events: UserAddr, timeout: UserAddr, mask: UserAddr)
        => aio::sys_io_pgetevents, Support::Full;
    334 rseq(area: UserAddr, len: u32, flags: u32, signature: u32) => cred::sys_rseq, Support::Full;
    335 uretprobe() => trace::sys_uretprobe, Support::Full;
    336 uprobe() => trace::sys_uprobe, Support::Full;
    303 name_to_handle_at(dirfd: i32, name: UserAddr, out: UserAddr, mount_id: UserAddr, flags: u32)
        => handle::sys_name_to_handle_at, Support::Full;
    304 open_by_handle_at(dirfd: i32, handle: UserAddr, flags: u32)
        => handle::sys_open_by_handle_at,
        Support::Partial("tmpfs, ext4, namespaces and processes; only CAP_DAC_READ_SEARCH of the first user namespace counts");
    424 pidfd_send_signal(fd: i32, sig: i32, info: UserAddr, flags: u32)
        => eventfiles::sys_pidfd_send_signal, Support::Full;
    425 io_uring_setup(entries: u32, params: UserAddr) => uring::sys_io_uring_setup,
        Support::Partial("IORING_SETUP_IOPOLL, SQPOLL and NO_MMAP: EINVAL");
    426 io_uring_enter(fd: i32, to_submit: u32, min_complete: u32, flags: u32, arg: UserAddr, size: usize)
        => uring::sys_io_uring_enter,
        Support::Partial("zero-copy sends, futex, waitid and device requests: EINVAL; no worker threads");
    427 io_uring_register(fd: i32, opcode: u32, arg: UserAddr, count: u32) => uring::sys_io_uring_register,
        Support::Partial("tags, worker limits, IOU_PBUF_RING_MMAP, clone and resize: EINVAL");
    428 open_tree(dirfd: i32, name: UserAddr, flags: u32) => mounts::sys_open_tree, Support::Full;
    429 move_mount(from_fd: i32, from: UserAddr, to_fd: i32, to: UserAddr, flags: u32)
        => mounts::sys_move_mount, Support::Full;
    430 fsopen(name: UserAddr, flags: u32) => mounts::sys_fsopen, Support::Full;
    431 fsconfig(fd: i32, cmd: u32, key: UserAddr, value: UserAddr, aux: i32)
        => mounts::sys_fsconfig, Support::Partial("binary values: EINVAL");
    432 fsmount(fd: i32, flags: u32, attributes: u32) => mounts::sys_fsmount, Support::Full;
    433 fspick(dirfd: i32, name: UserAddr, flags: u32) => mounts::sys_fspick, Support::Full;
    434 pidfd_open(pid: i32, flags: u32) => eventfiles::sys_pidfd_open, Support::Full;
    435 clone3(args: UserAddr, size: usize) => task::sys_clone3, Support::Full;
    436 close_range(first: u32, last: u32, flags: u32) => fd::sys_close_range, Support::Full;
    437 openat2(dirfd: i32, name: UserAddr, how: UserAddr, size: usize) => path::sys_openat2, Support::Full;
    438 pidfd_getfd(fd: i32, target: i32, flags: u32) => eventfiles::sys_pidfd_getfd, Support::Full;
    439 faccessat2(dirfd: i32, name: UserAddr, mode: u32, flags: u32) => path::sys_faccessat2, Support::Full;
    440 process_madvise(fd: i32, vec: UserAddr, count: usize, advice: u32, flags: u32)
        => range::sys_process_madvise, Support::Full;
    441 epoll_pwait2(ep: i32, events: UserAddr, max: i32, timeout: UserAddr, mask: UserAddr, size: usize)
        => poll::sys_epoll_pwait2, Support::Full;
    442 mount_setattr(dirfd: i32, name: UserAddr, flags: u32, attr: UserAddr, size: usize)
        => mounts::sys_mount_setattr, Support::Full;
    447 memfd_secret(flags: u32) => range::sys_memfd_secret, Support::Full;
    448 process_mrelease(fd: i32, flags: u32) => range::sys_process_mrelease, Support::Full;
    449 futex_waitv(list: UserAddr, nr: u32, flags: u32, timeout: UserAddr, clock: i32)
        => futex::sys_futex_waitv, Support::Full;
    450 set_mempolicy_home_node(addr: u64, len: u64, node: u64, flags: u64)
        => numa::sys_set_mempolicy_home_node, Support::Full;
    451 cachestat(fd: i32, range: UserAddr, out: UserAddr, flags: u32)
        => range::sys_cachestat, Support::Partial("evicted pages: only those of shared memory");
    452 fchmodat2(dirfd: i32, name: UserAddr, mode: u32, flags: u32) => path::sys_fchmodat2, Support::Full;
    454 futex_wake(addr: UserAddr, mask: u64, nr: i32, flags: u32) => futex::sys_futex_wake, Support::Full;
    455 futex_wait(addr: UserAddr, value: u64, mask: u64, flags: u32, timeout: UserAddr, clock: i32)
        => futex::sys_futex_wait, Support::Full;
    456 futex_requeue(list: UserAddr, flags: u32, nr_wake: i32, nr_requeue: i32)
        => futex::sys_futex_requeue, Support::Full;
    457 statmount(request: UserAddr, buf: UserAddr, size: usize, flags: u32)
        => mounts::sys_statmount, Support::Full;
    458 listmount(request: UserAddr, ids: UserAddr, max: usize, flags: u32)
        => mounts::sys_listmount, Support::Full;
    462 mseal(addr: u64, len: u64, flags: u64) => range::sys_mseal, Support::Full;
    463 setxattrat(dirfd: i32, path: UserAddr, flags: u32, name: UserAddr, args: UserAddr, size: usize)
        => xattr::sys_setxattrat, Support::Full;
    464 getxattrat(dirfd: i32, path: UserAddr, flags: u32, name: UserAddr, args: UserAddr, size: usize)
        => xattr::sys_getxattrat, Support::Full;
    465 listxattrat(dirfd: i32, path: UserAddr, flags: u32, buf: UserAddr, size: usize)
        => xattr::sys_listxattrat, Support::Full;
    466 removexattrat(dirfd: i32, path: UserAddr, flags: u32, name: UserAddr)
        => xattr::sys_removexattrat, Support::Full;
    467 open_tree_attr(dirfd: i32, name: UserAddr, flags: u32, attr: UserAddr, size: usize)
        => mounts::sys_open_tree_attr, Support::Full;
    468 file_getattr(dirfd: i32, name: UserAddr, attr: UserAddr, size: usize, flags: u32)
        => path::sys_file_getattr, Support::Full;
    469 file_setattr(dirfd: i32, name: UserAddr, attr: UserAddr, size: usize, flags: u32)
        => path::sys_file_setattr, Support::Full;
    470 listns(request: UserAddr, ids: UserAddr, max: usize, flags: u32)
        => handle::sys_listns, Support::Full;

    absent {
        134 uselib,
        136 ustat,
        139 sysfs,
        156 _sysctl,
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
        205 set_thread_area,
        211 get_thread_area,
        212 lookup_dcookie,
        214 epoll_ctl_old,
        215 epoll_wait_old,
        236 vserver,
        246 kexec_load,
        248 add_key,
        249 request_key,
        250 keyctl,
        313 finit_module,
        320 kexec_file_load,
        321 bpf,
        443 quotactl_fd,
        444 landlock_create_ruleset,
        445 landlock_add_rule,
        446 landlock_restrict_self,
        453 map_shadow_stack,
        459 lsm_get_self_attr,
        460 lsm_set_self_attr,
        461 lsm_list_modules,
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
        let gap = 337..424;
        for (nr, row) in TABLE.iter().enumerate() {
            assert_eq!(row.name.is_empty(), gap.contains(&nr), "row {nr}");
        }
    }
}
