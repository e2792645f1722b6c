//! pidfd_open(2), pidfd_send_signal(2) and what an open pidfd tells.

use crate::prelude::*;

tests!(
    "pidfd":
    signals_and_scopes, polls_and_waits, thread_pidfds, info_of_the_living_and_the_dead, inode_is_the_process,
    namespaces_by_ioctl, self_descriptors, getfd, epoll_watches, children_that_nobody_reaps,
    attributes_stay, opened_again, extended_attributes, directories_of_proc, leader_that_ends_first,
);

const GET_INFO: u32 = 0xc040_ff0b;
const THREAD: i32 = O_EXCL;

fn pidfd(pid: i32, flags: i32) -> Result<i32, Errno> {
    sys!(SYS_pidfd_open, pid, flags).map(|fd| fd as i32)
}

fn signal(fd: i32, sig: i32, flags: i32) -> Result<usize, Errno> {
    sys!(SYS_pidfd_send_signal, fd, sig, 0, flags)
}

fn signals_and_scopes() {
    let c = child(|| {
        sys!(SYS_setpgid, 0, 0).unwrap();
        nap(20_000);
    });
    nap(20);
    let fd = pidfd(c.0, 0).unwrap();
    assert_eq!(signal(fd, 0, 0), Ok(0));
    assert_eq!(signal(fd, 65, 0), Err(EINVAL));
    assert_eq!(signal(fd, 0, 8), Err(EINVAL));
    assert_eq!(signal(fd, 0, 3), Err(EINVAL));
    assert_eq!(signal(pipe().0, 0, 0), Err(EBADF));
    assert_eq!(signal(fd, 0, 1), Ok(0), "its first thread");
    assert_eq!(signal(fd, SIGTERM, 4), Ok(0), "its process group");
    assert_eq!(c.wait(), Status::Signal(SIGTERM));
    assert_eq!(signal(fd, 0, 0), Err(ESRCH));
}

fn polls_and_waits() {
    let c = child(|| nap(30));
    let fd = pidfd(c.0, 0).unwrap();
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    assert_eq!(poll1(fd, POLLIN, 5000), POLLIN);
    assert_eq!(signal(fd, 0, 0), Ok(0), "a zombie is still there");
    c.ok();
    assert_eq!(poll1(fd, POLLIN, 0), POLLIN | POLLHUP);
    assert_eq!(pidfd(c.0, 0), Err(ESRCH));
    assert_eq!(pidfd(-1, 0), Err(EINVAL));
    assert_eq!(pidfd(getpid(), 1), Err(EINVAL));
}

fn thread_pidfds() {
    let (tx, rx) = std::sync::mpsc::channel();
    let (done_tx, done_rx) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tx.send(gettid()).unwrap();
        ignore(done_rx.recv());
    });
    let tid = rx.recv().unwrap();
    assert_eq!(pidfd(tid, 0), Err(ENOENT));
    let fd = pidfd(tid, THREAD).unwrap();
    assert_eq!(signal(fd, 0, 0), Ok(0));
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    drop(done_tx);
    thread.join().unwrap();
    assert!(poll1(fd, POLLIN, 5000) & POLLIN != 0);
    // A thread that has ended is still there for a moment.
    let is_gone = (0..100).any(|_| {
        nap(10);
        signal(fd, 0, 0) == Err(ESRCH)
    });
    assert!(is_gone);
}

fn info_of_the_living_and_the_dead() {
    let c = child_code(|| {
        nap(30);
        7
    });
    let fd = pidfd(c.0, 0).unwrap();
    let mut info = [0u32; 16];
    sys!(SYS_ioctl, fd, GET_INFO, &mut info).unwrap();
    assert_eq!(info[0] & 3, 3, "ids and credentials");
    assert_eq!(info[4..7], [c.0 as u32, c.0 as u32, getpid() as u32]);
    assert_eq!(info[7..15], [0; 8]);
    c.wait();
    info = [0; 16];
    assert_eq!(sys!(SYS_ioctl, fd, GET_INFO, &mut info), Err(ESRCH));
    info[0] = 8;
    sys!(SYS_ioctl, fd, GET_INFO, &mut info).unwrap();
    assert_eq!((info[0] & 8, info[15]), (8, 7 << 8));
    assert_eq!(sys!(SYS_ioctl, fd, 0xc010_ff0bu32, &mut info), Err(ENOTTY), "too small");
}

fn inode_is_the_process() {
    let c = child(|| nap(20_000));
    let (one, two, own) =
        (pidfd(c.0, 0).unwrap(), pidfd(c.0, 0).unwrap(), pidfd(getpid(), 0).unwrap());
    assert_eq!(fstat(one).st_ino, fstat(two).st_ino);
    assert_ne!(fstat(one).st_ino, fstat(own).st_ino);
    let mut fs: statfs = zero();
    sys!(SYS_fstatfs, one, &mut fs).unwrap();
    assert_eq!(fs.f_type, 0x5049_4446);
    let link = std::fs::read_link(format!("/proc/self/fd/{one}")).unwrap();
    assert_eq!(link.to_str(), Some("anon_inode:[pidfd]"));
    c.kill(SIGKILL);
    c.wait();
}

fn namespaces_by_ioctl() {
    let own = pidfd(getpid(), 0).unwrap();
    for (number, name) in [(2, "ipc"), (3, "mnt"), (5, "pid"), (7, "time"), (9, "user"), (10, "uts")] {
        let ns = sys!(SYS_ioctl, own, 0xff00 | number, 0).unwrap() as i32;
        let path = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(path.to_str().unwrap(), format!("{name}:[{}]", fstat(ns).st_ino));
    }
    assert_eq!(sys!(SYS_ioctl, own, 0xff0a, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_ioctl, own, 0xff40, 0), Err(ENOTTY));
}

fn self_descriptors() {
    on_signal(SIGUSR1, 0, count);
    signal(-10000, SIGUSR1, 0).unwrap();
    signal(-10001, SIGUSR1, 0).unwrap();
    settle();
    assert_eq!(seen(), 2);
    assert_eq!(signal(-20000, SIGUSR1, 0), Err(EBADF));
}

fn getfd() {
    let (reader, writer) = pipe();
    let c = child(|| nap(20_000));
    let fd = pidfd(c.0, 0).unwrap();
    let copy = sys!(SYS_pidfd_getfd, fd, writer, 0).unwrap() as i32;
    write(copy, b"x").unwrap();
    assert_eq!(read_vec(reader, 1), Ok(b"x".to_vec()));
    assert_eq!(sys!(SYS_pidfd_getfd, fd, 999, 0), Err(EBADF));
    assert_eq!(sys!(SYS_pidfd_getfd, fd, writer, 1), Err(EINVAL));
    c.kill(SIGKILL);
    c.wait();
    assert_eq!(sys!(SYS_pidfd_getfd, fd, writer, 0), Err(ESRCH));
}

fn epoll_watches() {
    let c = child(|| nap(30));
    let fd = pidfd(c.0, 0).unwrap();
    let set = sys!(SYS_epoll_create1, 0).unwrap();
    let mut event = epoll_event { events: EPOLLIN as u32, u64: 7 };
    assert_eq!(sys!(SYS_epoll_ctl, set, EPOLL_CTL_ADD, fd, &event), Ok(0));
    assert_eq!(sys!(SYS_epoll_wait, set, &mut event, 1, 5000), Ok(1));
    c.ok();
}

fn children_that_nobody_reaps() {
    const AUTOREAP: u64 = 1 << 34;
    const NNP: u64 = 1 << 35;
    const AUTOKILL: u64 = 1 << 36;
    let clone3 = |flags: u64, sig: i32, fd: &mut i32, f: &dyn Fn()| {
        let mut args: clone_args = zero();
        (args.flags, args.exit_signal, args.pidfd) = (flags, sig as u64, fd as *mut i32 as u64);
        let result = sys!(SYS_clone3, &args, size_of::<clone_args>());
        if result == Ok(0) {
            f();
            exit(0);
        }
        result
    };
    let pidfd_flag = CLONE_PIDFD as u64;
    let mut fd = -1;
    assert_eq!(clone3(AUTOREAP, SIGCHLD, &mut fd, &|| {}), Err(EINVAL), "a signal and nobody who waits");
    assert_eq!(clone3(AUTOREAP | AUTOKILL, 0, &mut fd, &|| {}), Err(EINVAL), "no pidfd");
    assert_eq!(clone3(pidfd_flag | AUTOKILL, 0, &mut fd, &|| {}), Err(EINVAL), "somebody waits");
    let nnp = || assert_eq!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), Ok(1));
    clone3(pidfd_flag | AUTOREAP | NNP, 0, &mut fd, &nnp).unwrap();
    assert_eq!(poll1(fd, POLLIN, 5000) & POLLIN, POLLIN);
    assert_eq!(sys!(SYS_wait4, -1, 0, 0, 0), Err(ECHILD));
    close(fd);
    let pid = clone3(pidfd_flag | AUTOREAP | NNP | AUTOKILL, 0, &mut fd, &|| nap(20_000)).unwrap();
    let other = pidfd(pid as i32, 0).unwrap();
    close(fd);
    assert_eq!(poll1(other, POLLIN, 5000) & POLLIN, POLLIN, "killed with its pidfd");
}

fn attributes_stay() {
    let fd = pidfd(getpid(), 0).unwrap();
    assert_eq!(sys!(SYS_fchmod, fd, 0o777), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_fchown, fd, 1, 1), Err(EOPNOTSUPP));
    let (socket, _) = socketpair(SOCK_STREAM);
    assert_eq!(sys!(SYS_fchmod, socket, 0o600), Ok(0));
    assert_eq!(sys!(SYS_fsetxattr, socket, c"user.a", b"v", 1, 0), Ok(0));
    let mut value = [0u8; 4];
    assert_eq!(sys!(SYS_fgetxattr, socket, c"user.a", &mut value, 4), Ok(1));
    assert_eq!(sys!(SYS_fgetxattr, socket, c"user.b", &mut value, 4), Err(ENODATA));
}

fn opened_again() {
    let fd = pidfd(getpid(), 0).unwrap();
    let again = open(&cstr(format!("/proc/self/fd/{fd}")), O_RDONLY).unwrap();
    assert_eq!(fstat(again).st_ino, fstat(fd).st_ino);
    assert_eq!(signal(again, 0, 0), Ok(0));
    let program = cstr(format!("/proc/self/fd/{fd}"));
    assert_eq!(sys!(SYS_execve, &program, 0, 0), Err(EACCES));
    let mut version = 0u32;
    assert_eq!(sys!(SYS_ioctl, fd, 0x8008_7601u32, &mut version), Ok(0));
    aside(|| {
        sys!(SYS_unshare, CLONE_NEWNS).unwrap();
        let at = file("bound", b"");
        assert_eq!(sys!(SYS_mount, &program, &at, 0, MS_BIND, 0), Err(EINVAL));
        let tree = sys!(SYS_open_tree, fd, c"", 1 | AT_EMPTY_PATH).unwrap();
        sys!(SYS_move_mount, tree, c"", AT_FDCWD, &at, 4).unwrap();
        let bound = open(&at, O_RDONLY).unwrap();
        assert_eq!(fstat(bound).st_ino, fstat(fd).st_ino);
        assert_eq!(signal(bound, 0, 0), Ok(0));
    });
}

fn extended_attributes() {
    let c = child(|| nap(20_000));
    let fd = pidfd(c.0, 0).unwrap();
    assert_eq!(sys!(SYS_fsetxattr, fd, c"trusted.a", b"v", 1, 0), Ok(0));
    close(fd);
    let fd = pidfd(c.0, 0).unwrap();
    let mut value = [0u8; 16];
    assert_eq!(sys!(SYS_fgetxattr, fd, c"trusted.a", &mut value, 16), Ok(1), "kept by the process");
    assert_eq!(sys!(SYS_flistxattr, fd, &mut value, 16), Ok(10));
    assert_eq!(&value[..10], b"trusted.a\0");
    assert_eq!(sys!(SYS_fsetxattr, fd, c"user.a", b"v", 1, 0), Err(EOPNOTSUPP));
    assert_eq!(sys!(SYS_fremovexattr, fd, c"trusted.a"), Ok(0));
    assert_eq!(sys!(SYS_fgetxattr, fd, c"trusted.a", &mut value, 16), Err(ENODATA));
    c.kill(SIGKILL);
    c.wait();
}

fn directories_of_proc() {
    let c = child(|| nap(20_000));
    let dir = open(&cstr(format!("/proc/{}", c.0)), O_RDONLY | O_DIRECTORY).unwrap();
    assert_eq!(signal(dir, 0, 0), Ok(0));
    let thread = open(&cstr(format!("/proc/{0}/task/{0}", c.0)), O_RDONLY | O_DIRECTORY).unwrap();
    assert_eq!(signal(thread, 0, 0), Err(EBADF));
    assert_eq!(signal(open(&cstr("/proc"), O_RDONLY).unwrap(), 0, 0), Err(EBADF));
    assert_eq!(sys!(SYS_pidfd_getfd, dir, 0, 0), Err(EBADF));
    signal(dir, SIGKILL, 0).unwrap();
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
    assert_eq!(signal(dir, 0, 0), Err(ESRCH));
}

fn leader_that_ends_first() {
    let c = child(|| {
        std::thread::spawn(|| nap(20_000));
        nap(20);
        sys!(SYS_exit, 3).unwrap();
    });
    let (process, leader) = (pidfd(c.0, 0).unwrap(), pidfd(c.0, THREAD).unwrap());
    assert_eq!(sys!(SYS_fcntl, leader, F_GETFL), Ok((O_RDWR | THREAD) as usize));
    nap(200);
    assert_eq!((poll1(process, POLLIN, 0), poll1(leader, POLLIN, 0)), (0, 0), "a thread goes on");
    let mut info = [0u64; 8];
    info[0] = 8;
    assert_eq!(sys!(SYS_ioctl, leader, GET_INFO, &mut info), Ok(0));
    assert_eq!((info[0] & 8, info[2] as i32), (0, c.0));
    signal(process, SIGKILL, 0).unwrap();
    assert_eq!(c.wait(), Status::Signal(SIGKILL));
    info[0] = 8;
    assert_eq!(sys!(SYS_ioctl, leader, GET_INFO, &mut info), Ok(0));
    assert_eq!((info[0] & 8, info[7] >> 32), (8, SIGKILL as u64));
}
