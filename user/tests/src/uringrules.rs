//! io_uring: who may do what with a ring, rings that know of other rings, and how a ring ends.
//!
//! io_uring_register(2).

use crate::prelude::*;
use crate::uringkit::{
    EBADFD_NR, ENTER, GETEVENTS, MSG_RING, NOP, OPENAT, READ, Ring, SETUP_R_DISABLED, Sqe, addr, cqe, err,
    nop, poll_add, ring, ring_with, rw,
};

tests!(
    "uringrules":
    restrictions, credentials_are_kept, credentials_are_not_lent, messages_between_rings,
    rings_can_be_registered, rings_hold_rings, rings_are_not_sent, the_end_cancels,
    who_waits_for_its_turn_can_be_killed,
);

fn restrictions() {
    let ring = ring_with(4, SETUP_R_DISABLED, 0);
    ring.push(&[nop(1)]);
    assert_eq!(ring.enter(1, 0, 0), Err(Errno::EBADFD));
    // Only to do nothing, and to register nothing but an eventfd.
    let allowed = [1u32 | u32::from(NOP) << 16, 0, 0, 0, 4 << 16, 0, 0, 0];
    assert_eq!(ring.register(11, &allowed, 2), Ok(0));
    assert_eq!(ring.register(11, &allowed, 2), Err(EBUSY));
    assert_eq!(ring.register(12, 0, 0), Ok(0));
    assert_eq!(ring.enter(1, 0, 0), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 0)]);
    assert_eq!(ring.result(poll_add(0, POLLIN)), err(EACCES));
    assert_eq!(ring.register(3, 0, 0), Err(EACCES));
    let notify = sys!(SYS_eventfd2, 0, 0).unwrap() as i32;
    assert_eq!(ring.register(4, &[notify], 1), Ok(0));
}

fn credentials_are_kept() {
    let ring = ring(4);
    let name = file("mine", b"data");
    sys!(SYS_chmod, name.as_ptr() as usize, 0o600).unwrap();
    let id = ring.register(9, 0, 0).unwrap() as u16;
    assert!(id > 0);
    let code = child_code(|| {
        sys!(SYS_chmod, cstr(dir()).as_ptr() as usize, 0o755).unwrap();
        sys!(SYS_setresuid, 31_337, 31_337, 31_337).unwrap();
        let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
        assert_eq!(ring.result(open), err(EACCES));
        assert!(ring.result(Sqe { personality: id, ..open }) >= 0);
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
    assert_eq!(ring.register(10, 0, usize::from(id)), Ok(0));
    assert_eq!(ring.register(10, 0, usize::from(id)), Err(EINVAL));
}

fn credentials_are_not_lent() {
    const USER: i32 = 31_337;
    let ring = ring(4);
    let name = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, name.as_ptr() as usize, S_IFIFO, 0).unwrap();
    sys!(SYS_chmod, name.as_ptr() as usize, 0o666).unwrap();
    sys!(SYS_chmod, cstr(dir()).as_ptr() as usize, 0o755).unwrap();
    let code = child_code(|| {
        sys!(SYS_setresuid, USER, USER, 0).unwrap();
        let id = ring.register(9, 0, 0).unwrap() as u16;
        sys!(SYS_setresuid, 0, 0, 0).unwrap();
        let me = sys!(SYS_getpid).unwrap();
        // Whose rights a request has may not signal the process, neither while the request goes on.
        let user = child_code(|| {
            sys!(SYS_setresuid, USER, USER, USER).unwrap();
            for _ in 0..20 {
                assert_eq!(sys!(SYS_kill, me, 0), Err(EPERM));
                nap(5);
            }
            sys!(SYS_openat, AT_FDCWD, name.as_ptr() as usize, O_WRONLY, 0).unwrap();
            0
        });
        let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
        assert!(ring.result(Sqe { personality: id, ..open }) >= 0);
        assert_eq!(user.wait(), Status::Exit(0));
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
}

fn messages_between_rings() {
    let (from, to) = (ring(4), ring(4));
    let send = Sqe { op: MSG_RING, fd: to.fd, len: 44, off: 77, ..nop(1) };
    assert_eq!(from.run(&[send]), [cqe(1, 0)]);
    assert_eq!(to.wait(1), [cqe(77, 44)]);
    let (r, _w) = pipe();
    assert_eq!(from.result(Sqe { fd: r, ..send }), -EBADFD_NR);
    assert_eq!(from.result(Sqe { fd: -1, ..send }), err(EBADF));
}

fn rings_can_be_registered() {
    let ring = ring(4);
    let mut place = [u64::from(u32::MAX), ring.fd as u64];
    assert_eq!(ring.register(20, &mut place, 1), Ok(1));
    let at = std::hint::black_box(&place)[0] as u32;
    ring.push(&[nop(1)]);
    assert_eq!(sys!(ENTER, at, 1, 1, GETEVENTS | 1 << 4, 0, 0), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 0)]);
    assert_eq!(sys!(ENTER, 99, 1, 1, GETEVENTS | 1 << 4, 0, 0), Err(EINVAL));
    assert_eq!(ring.register(21, &[u64::from(at), 0], 1), Ok(1));
    assert_eq!(sys!(ENTER, at, 0, 0, 1 << 4, 0, 0), Err(EBADF));
}

/// A row of `nr` rings, each of which waits for the next one.
fn row_of_rings(nr: usize) -> Vec<i32> {
    let rings: Vec<Ring> = (0..nr).map(|_| ring(1)).collect();
    for pair in rings.windows(2) {
        pair[0].submit(&[poll_add(pair[1].fd, POLLIN)]);
    }
    for ring in &rings {
        sys!(SYS_munmap, ring.rings, 1).unwrap();
        sys!(SYS_munmap, ring.sqes, 1).unwrap();
    }
    rings.iter().map(|ring| ring.fd).collect()
}

fn rings_hold_rings() {
    const NR: usize = 200;
    drop(ring(1));
    // All go with the first, which is closed last, or with the process.
    let code = child_code(|| {
        let rings = row_of_rings(NR);
        for fd in rings.into_iter().rev() {
            close(fd);
        }
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
    let code = child_code(|| {
        row_of_rings(NR);
        0
    });
    assert_eq!(code.wait(), Status::Exit(0));
}

fn rings_are_not_sent() {
    let ring = ring(1);
    let (a, b) = socketpair(SOCK_DGRAM);
    let send = |fd: i32| {
        let control = [20, SOL_SOCKET as usize | (SCM_RIGHTS as usize) << 32, fd as usize];
        let iov = [c"x".as_ptr() as usize, 1];
        let msg = [0, 0, iov.as_ptr() as usize, 1, control.as_ptr() as usize, 24, 0];
        sys!(SYS_sendmsg, a, &msg, 0)
    };
    assert_eq!(send(b), Ok(1));
    assert_eq!(send(ring.fd), Err(EINVAL));
    assert_eq!(send(-1), Err(EBADF));
}

fn the_end_cancels() {
    let (r, w) = pipe();
    let buf = [0u8; 8];
    // With the process, with a program that it executes, and with the descriptor.
    aside(|| {
        let ring = ring(4);
        ring.submit(&[rw(READ, r, addr(&buf), 8, 0), poll_add(r, POLLIN)]);
    });
    let one = ring(4);
    one.submit(&[rw(READ, r, addr(&buf), 8, 0), poll_add(r, POLLIN)]);
    close(one.fd);
    // Nobody reads any more.
    close(r);
    set_action(SIGPIPE, SIG_IGN).unwrap();
    let mut result = write(w, b"x");
    // On Linux the file ends a little after the ring.
    for _ in 0..500 {
        if result == Err(EPIPE) {
            break;
        }
        nap(10);
        result = write(w, b"x");
    }
    assert_eq!(result, Err(EPIPE));
}

fn who_waits_for_its_turn_can_be_killed() {
    let ring = ring(4);
    let name = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, name.as_ptr() as usize, S_IFIFO | 0o600, 0).unwrap();
    let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
    // Nobody opens the other side: the first may keep the ring, and the second waits for it or for its own.
    ring.push(&[open, open]);
    let one = child(|| _ = ring.enter(1, 1, GETEVENTS));
    settle();
    let two = child(|| _ = ring.enter(1, 1, GETEVENTS));
    settle();
    for child in [two, one] {
        sys!(SYS_kill, child.0, SIGKILL).unwrap();
        // A Linux that could open it without waiting had let it go on.
        assert!(matches!(child.wait(), Status::Signal(SIGKILL) | Status::Exit(0)));
    }
}
