//! signalfd(2).

use crate::prelude::*;

tests!(
    "signalfd":
    reads_a_signal, several_at_once, blocks_until_one_comes, mask_can_change, errors, epoll_sees_it,
);

fn signalfd(fd: i32, signals: &[i32], flags: i32) -> Result<i32, Errno> {
    sys!(SYS_signalfd4, fd, &mask_of(signals), 8, flags).map(|fd| fd as i32)
}

fn get(fd: i32) -> Result<signalfd_siginfo, Errno> {
    let mut info: signalfd_siginfo = zero();
    sys!(SYS_read, fd, &mut info, 128).map(|n| {
        assert_eq!(n, 128);
        info
    })
}

fn reads_a_signal() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let fd = signalfd(-1, &[SIGUSR1], SFD_NONBLOCK).unwrap();
    assert_eq!(get(fd).err(), Some(EAGAIN));
    assert_eq!(poll1(fd, POLLIN, 0), 0);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    assert_eq!(poll1(fd, POLLIN, 0), POLLIN);
    let info = get(fd).unwrap();
    assert_eq!((info.ssi_signo, info.ssi_code, info.ssi_pid), (SIGUSR1 as u32, SI_USER, getpid() as u32));
    assert_eq!(pending(), 0);
}

fn several_at_once() {
    sigmask(SIG_BLOCK, &[SIGUSR1, SIGUSR2, 40]);
    let fd = signalfd(-1, &[SIGUSR1, SIGUSR2, 40], 0).unwrap();
    for sig in [40, 40, SIGUSR2, SIGUSR1] {
        sys!(SYS_kill, getpid(), sig).unwrap();
    }
    assert_eq!(read_vec(fd, 128 * 3 + 50).unwrap().len(), 128 * 3);
    assert_eq!(get(fd).unwrap().ssi_signo, 40);
}

fn blocks_until_one_comes() {
    sigmask(SIG_BLOCK, &[SIGCHLD]);
    let fd = signalfd(-1, &[SIGCHLD], 0).unwrap();
    let c = child_code(|| {
        settle();
        3
    });
    let info = get(fd).unwrap();
    assert_eq!((info.ssi_pid, info.ssi_status, info.ssi_code), (c.0 as u32, 3, CLD_EXITED));
    c.wait();
}

fn mask_can_change() {
    sigmask(SIG_BLOCK, &[SIGUSR1, SIGUSR2]);
    let fd = signalfd(-1, &[SIGUSR1], SFD_NONBLOCK).unwrap();
    sys!(SYS_kill, getpid(), SIGUSR2).unwrap();
    assert_eq!(get(fd).err(), Some(EAGAIN));
    assert_eq!(signalfd(fd, &[SIGUSR2], 0), Ok(fd));
    assert_eq!(get(fd).unwrap().ssi_signo, SIGUSR2 as u32);
}

fn errors() {
    assert_eq!(signalfd(-1, &[], 1), Err(EINVAL));
    assert_eq!(sys!(SYS_signalfd4, -1, &[0u64], 4, 0), Err(EINVAL));
    assert_eq!(signalfd(999, &[], 0), Err(EBADF));
    assert_eq!(signalfd(1, &[], 0), Err(EINVAL));
    assert_eq!(sys!(SYS_signalfd4, -1, 0, 8, 0), Err(EFAULT));
    let fd = signalfd(-1, &[SIGUSR1], SFD_NONBLOCK).unwrap();
    assert_eq!(read_vec(fd, 127), Err(EINVAL));
    assert_eq!(write(fd, &[0; 128]), Err(EINVAL));
}

fn epoll_sees_it() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let fd = signalfd(-1, &[SIGUSR1], 0).unwrap();
    let ep = sys!(SYS_epoll_create1, 0).unwrap();
    let mut ev = epoll_event { events: EPOLLIN as u32, u64: 1 };
    sys!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, fd, &ev).unwrap();
    let me = getpid();
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
    });
    assert_eq!(sys!(SYS_epoll_wait, ep, &mut ev, 1, 10_000), Ok(1));
    c.ok();
}
