//! io_uring: requests that wait: for files, for time, for each other, and until they are cancelled.
//!
//! io_uring_enter(2).

use crate::prelude::*;
use crate::uringkit::{
    CANCEL, CANCELED, Cqe, DRAIN, ENTER, ETIME_NR, EXT_ARG, GETEVENTS, HARDLINK, LINK, LINK_TIMEOUT, MORE,
    OPENAT, POLL_REMOVE, READ, Ring, SETUP_DEFER_TASKRUN, SETUP_SINGLE_ISSUER, Sqe, TIMEOUT, TIMEOUT_REMOVE,
    WRITE, addr, cqe, err, nop, poll_add, ring, ring_with, rw,
};

tests!(
    "uringwait":
    a_pipe_is_waited_for, what_ends_at_once_passes_what_waits, a_batch_wakes_who_waits, a_pipe_is_filled_by_a_child, what_waits_in_a_call_goes_on,
    polls_end_when_files_are_ready, polls_that_go_on, polls_can_be_removed, a_ring_that_polls_itself,
    a_ring_can_be_polled, eventfds_are_signalled, timeouts_end, timeouts_count_completions,
    timeouts_can_be_removed, waits_have_limits, a_signal_ends_a_wait, chains_are_done_in_order,
    a_failure_ends_a_chain, hard_chains_go_on, a_limit_ends_a_wait, a_limit_without_need,
    draining_waits_for_all_before, a_chain_waits_for_its_drain, what_waits_behind_a_drain_goes_on,
    drained_requests_stay_their_tasks, requests_can_be_cancelled, deferred_work, deferred_work_is_told_of,
);

fn a_pipe_is_waited_for() {
    let ring = ring(4);
    let (r, w) = pipe();
    let back = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(5)]);
    assert!(!ring.has_completions());
    write(w, b"late").unwrap();
    assert_eq!(ring.wait(1), [cqe(5, 4)]);
    assert_eq!(std::hint::black_box(&back)[..4], *b"late");
    // Descriptors that do not wait for their own sake do here.
    let (r, w) = pipe_with(O_NONBLOCK);
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(6)]);
    assert!(!ring.has_completions());
    close(w);
    assert_eq!(ring.wait(1), [cqe(6, 0)]);
}

fn what_ends_at_once_passes_what_waits() {
    let ring = ring(8);
    let (r, w) = pipe();
    let back = [0u8; 8];
    let read = rw(READ, r, addr(&back), 8, 0).tag(2);
    ring.submit(&[nop(1), read, nop(3), rw(READ, -1, addr(&back), 8, 0).tag(4), nop(5)]);
    assert_eq!(ring.take(), [cqe(1, 0), cqe(3, 0), cqe(4, err(EBADF)), cqe(5, 0)]);
    ring.submit(&[rw(WRITE, w, addr(b"two"), 2, 0).tag(6), nop(7)]);
    let mut found = ring.wait(3);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(2, 2), cqe(6, 2), cqe(7, 0)]);
    assert_eq!(std::hint::black_box(&back)[..2], *b"tw");
}

fn a_batch_wakes_who_waits() {
    const NR: usize = 40;
    let ring = ring(64);
    let child = child(|| {
        assert_eq!(ring.enter(0, NR, GETEVENTS), Ok(0));
    });
    let requests: Vec<Sqe> = (0..NR).map(|n| nop(n as u64)).collect();
    ring.submit(&requests);
    assert_eq!(child.wait(), Status::Exit(0));
    assert_eq!(ring.take().len(), NR);
}

fn a_pipe_is_filled_by_a_child() {
    let ring = ring(4);
    let (r, w) = pipe();
    let back = [0u8; 8];
    let child = child(|| {
        settle();
        write(w, b"child").unwrap();
    });
    ring.push(&[rw(READ, r, addr(&back), 8, 0).tag(1)]);
    assert_eq!(ring.enter(1, 1, GETEVENTS), Ok(1));
    assert_eq!(ring.take(), [cqe(1, 5)]);
    assert_eq!(child.wait(), Status::Exit(0));
}

fn what_waits_in_a_call_goes_on() {
    let ring = ring(4);
    let (r, w) = pipe();
    let name = path("fifo");
    sys!(SYS_mknodat, AT_FDCWD, name.as_ptr() as usize, S_IFIFO | 0o600, 0).unwrap();
    let child = child(|| {
        settle();
        write(w, b"x").unwrap();
        settle();
        sys!(SYS_openat, AT_FDCWD, name.as_ptr() as usize, O_WRONLY, 0).unwrap();
    });
    let open = Sqe { op: OPENAT, fd: AT_FDCWD, addr: name.as_ptr() as u64, ..Sqe::default() };
    let mut found = ring.run(&[poll_add(r, POLLIN).tag(1), open.tag(2)]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found[0], cqe(1, i32::from(POLLIN)));
    assert!(found[1].res >= 0, "{found:?}");
    assert_eq!(child.wait(), Status::Exit(0));
}

fn polls_end_when_files_are_ready() {
    let ring = ring(4);
    let (r, w) = pipe();
    assert_eq!(ring.result(poll_add(w, POLLOUT)), i32::from(POLLOUT));
    ring.submit(&[poll_add(r, POLLIN).tag(3)]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    assert_eq!(ring.wait(1), [cqe(3, i32::from(POLLIN))]);
    // A poll with an address, an offset or flags that there are not is refused.
    assert_eq!(ring.result(Sqe { off: 1, ..poll_add(r, POLLIN) }), err(EINVAL));
    assert_eq!(ring.result(Sqe { len: 1 << 20, ..poll_add(r, POLLIN) }), err(EINVAL));
    let (r, w) = pipe();
    ring.submit(&[poll_add(r, POLLIN).tag(4)]);
    close(w);
    assert_eq!(ring.wait(1), [cqe(4, i32::from(POLLHUP))]);
}

fn polls_that_go_on() {
    let ring = ring(4);
    let (r, w) = pipe();
    ring.submit(&[Sqe { len: 1, ..poll_add(r, POLLIN).tag(9) }]);
    for _ in 0..3 {
        write(w, b"x").unwrap();
        let found = ring.wait(1);
        assert_eq!(found, [Cqe { flags: MORE, ..cqe(9, i32::from(POLLIN)) }]);
        read_vec(r, 1).unwrap();
    }
    let mut found = ring.run(&[Sqe { op: POLL_REMOVE, addr: 9, ..nop(1) }]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 0), cqe(9, CANCELED)]);
}

fn polls_can_be_removed() {
    let ring = ring(4);
    let (r, _w) = pipe();
    assert_eq!(ring.result(Sqe { op: POLL_REMOVE, addr: 9, ..nop(1) }), err(ENOENT));
    ring.submit(&[poll_add(r, POLLIN).tag(9)]);
    let mut found = ring.run(&[Sqe { op: POLL_REMOVE, addr: 9, ..nop(1) }]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 0), cqe(9, CANCELED)]);
}

fn a_ring_that_polls_itself() {
    let ring = ring(8);
    ring.submit(&[Sqe { len: 1, ..poll_add(ring.fd, POLLIN).tag(1) }]);
    ring.submit(&[nop(2)]);
    let mut found = ring.wait(2);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, i32::from(POLLIN)), cqe(2, 0)]);
    ring.submit(&[nop(3)]);
    assert_eq!(ring.wait(1), [cqe(3, 0)]);
    assert!(!ring.has_completions());
}

fn a_ring_can_be_polled() {
    let ring = ring(4);
    let (r, w) = pipe();
    assert_eq!(poll1(ring.fd, POLLIN | POLLOUT, 0), POLLOUT);
    ring.submit(&[poll_add(r, POLLIN).tag(1)]);
    assert_eq!(poll1(ring.fd, POLLIN, 0), 0);
    let child = child(|| {
        settle();
        write(w, b"x").unwrap();
    });
    while poll1(ring.fd, POLLIN, 5000) != POLLIN {}
    assert_eq!(ring.take(), [cqe(1, i32::from(POLLIN))]);
    assert_eq!(child.wait(), Status::Exit(0));
    let info = slurp(&format!("/proc/self/fdinfo/{}", ring.fd));
    assert!(info.contains("SqMask:\t0x3\n") && info.contains("CqMask:\t0x7\n"), "{info}");
}

fn eventfds_are_signalled() {
    let ring = ring(4);
    let notify = sys!(SYS_eventfd2, 0, EFD_NONBLOCK).unwrap() as i32;
    let (r, w) = pipe();
    assert_eq!(ring.register(4, &[r], 1), Err(EINVAL));
    assert_eq!(ring.register(4, &[notify], 1), Ok(0));
    assert_eq!(ring.register(4, &[notify], 1), Err(EBUSY));
    ring.submit(&[nop(1)]);
    assert_eq!(read_vec(notify, 8).map(|count| count.len()), Ok(8));
    ring.submit(&[poll_add(r, POLLIN).tag(2)]);
    assert_eq!(read_vec(notify, 8), Err(EAGAIN));
    write(w, b"x").unwrap();
    assert_eq!(poll1(notify, POLLIN, 5000), POLLIN);
    assert_eq!(ring.register(5, 0, 0), Ok(0));
    assert_eq!(ring.register(5, 0, 0), Err(ENXIO));
    assert_eq!(ring.wait(2).len(), 2);
}

fn timeout(ms: i64) -> (Box<timespec>, Sqe) {
    let time = Box::new(self::ms(ms));
    let sqe = Sqe { op: TIMEOUT, addr: &raw const *time as u64, len: 1, ..Sqe::default() };
    (time, sqe)
}

fn timeouts_end() {
    let ring = ring(4);
    let (_time, sqe) = timeout(20);
    let (took, found) = timed(|| ring.run(&[sqe.tag(4)]));
    assert_eq!(found, [cqe(4, -ETIME_NR)]);
    assert!(took >= 19, "{took}");
    assert_eq!(ring.result(Sqe { len: 2, ..sqe }), err(EINVAL));
    assert_eq!(ring.result(Sqe { addr: BAD as u64, ..sqe }), err(EFAULT));
    assert_eq!(ring.result(Sqe { op_flags: 1 << 20, ..sqe }), err(EINVAL));
    let (_bad, negative) = timeout(-1000);
    assert_eq!(ring.result(negative), err(EINVAL));
}

fn timeouts_count_completions() {
    let ring = ring(8);
    let (_time, sqe) = timeout(1_000_000);
    ring.submit(&[Sqe { off: 2, ..sqe.tag(4) }]);
    ring.submit(&[nop(1)]);
    assert_eq!(ring.take(), [cqe(1, 0)]);
    ring.submit(&[nop(2)]);
    assert_eq!(ring.wait(2), [cqe(2, 0), cqe(4, 0)]);
}

fn timeouts_can_be_removed() {
    let ring = ring(4);
    let (_time, sqe) = timeout(1_000_000);
    assert_eq!(ring.result(Sqe { op: TIMEOUT_REMOVE, addr: 4, ..nop(1) }), err(ENOENT));
    ring.submit(&[sqe.tag(4)]);
    let mut found = ring.run(&[Sqe { op: TIMEOUT_REMOVE, addr: 4, ..nop(1) }]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 0), cqe(4, CANCELED)]);
    // Another time makes it end soon.
    let soon = ms(10);
    ring.submit(&[sqe.tag(5)]);
    let update = Sqe { op: TIMEOUT_REMOVE, addr: 5, off: &raw const soon as u64, op_flags: 2, ..nop(6) };
    ring.submit(&[update]);
    assert_eq!(ring.wait(2), [cqe(6, 0), cqe(5, -ETIME_NR)]);
}

fn wait_ext(ring: &Ring, min: usize, time: usize, mask: usize) -> Result<usize, Errno> {
    let arg = [mask as u64, 8, time as u64];
    sys!(ENTER, ring.fd, 0, min, GETEVENTS | EXT_ARG, &arg, 24)
}

fn waits_have_limits() {
    let ring = ring(4);
    let time = ms(20);
    let at = &raw const time as usize;
    let (took, result) = timed(|| wait_ext(&ring, 1, at, 0));
    assert_eq!(result, Err(Errno::ETIME));
    assert!(took >= 19, "{took}");
    assert_eq!(sys!(ENTER, ring.fd, 0, 1, GETEVENTS | EXT_ARG, &[0u64; 3], 16), Err(EINVAL));
    assert_eq!(wait_ext(&ring, 1, BAD, 0), Err(EFAULT));
    assert_eq!(ring.enter(0, 0, GETEVENTS), Ok(0));
    // What came counts, though it is fewer than wanted.
    ring.submit(&[nop(1)]);
    assert_eq!(wait_ext(&ring, 2, at, 0), Ok(0));
    assert_eq!(ring.take(), [cqe(1, 0)]);
}

fn a_signal_ends_a_wait() {
    let ring = ring(4);
    on_signal(SIGALRM, 0, count);
    let often = timeval { tv_sec: 0, tv_usec: 20_000 };
    let timer = itimerval { it_interval: often, it_value: often };
    sys!(SYS_setitimer, ITIMER_REAL, &timer, 0).unwrap();
    assert_eq!(ring.enter(0, 1, GETEVENTS), Err(EINTR));
    assert!(seen() > 0);
    sys!(SYS_setitimer, ITIMER_REAL, &zero::<itimerval>(), 0).unwrap();
    // A mask holds for the wait.
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let open = 0u64;
    assert_eq!(wait_ext(&ring, 1, 0, &raw const open as usize), Err(EINTR));
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1]));
}

fn chains_are_done_in_order() {
    let ring = ring(8);
    let (r, w) = pipe();
    let (out, back) = (b"link".to_vec(), [0u8; 8]);
    // The read waits for the write of another chain, and its follower for it.
    ring.submit(&[rw(READ, r, addr(&back), 4, 0).tag(1).with(LINK), nop(2)]);
    assert!(!ring.has_completions());
    ring.submit(&[rw(WRITE, w, addr(&out), 4, 0).tag(3)]);
    assert_eq!(ring.wait(3), [cqe(3, 4), cqe(1, 4), cqe(2, 0)]);
}

fn a_failure_ends_a_chain() {
    let (ring, fd) = (ring(8), new_file("f"));
    let buf = [0u8; 8];
    let bad = rw(READ, -1, addr(&buf), 8, 0).tag(1).with(LINK);
    let mut found = ring.run(&[bad, nop(2).with(LINK), nop(3), nop(4)]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, err(EBADF)), cqe(2, CANCELED), cqe(3, CANCELED), cqe(4, 0)]);
    // Less than was asked for is a failure here.
    let short = rw(READ, fd, addr(&buf), 8, 0).tag(5).with(LINK);
    assert_eq!(ring.run(&[short, nop(6)]), [cqe(5, 0), cqe(6, CANCELED)]);
}

fn hard_chains_go_on() {
    let ring = ring(8);
    let bad = rw(READ, -1, 0, 8, 0).tag(1).with(HARDLINK);
    assert_eq!(ring.run(&[bad, nop(2)]), [cqe(1, err(EBADF)), cqe(2, 0)]);
}

fn a_limit_ends_a_wait() {
    let ring = ring(8);
    let (r, _w) = pipe();
    let buf = [0u8; 8];
    let (_time, limit) = timeout(20);
    let limit = Sqe { op: LINK_TIMEOUT, ..limit.tag(2) };
    let mut found = ring.run(&[rw(READ, r, addr(&buf), 8, 0).tag(1).with(LINK), limit]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, CANCELED), cqe(2, -ETIME_NR)]);
}

fn a_limit_without_need() {
    let ring = ring(8);
    let (_time, limit) = timeout(1_000_000);
    let limit = Sqe { op: LINK_TIMEOUT, ..limit.tag(2) };
    assert_eq!(ring.run(&[nop(1).with(LINK), limit]), [cqe(1, 0), cqe(2, CANCELED)]);
    assert_eq!(ring.result(limit), err(EINVAL));
    let (r, w) = pipe();
    let buf = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&buf), 8, 0).tag(1).with(LINK), limit]);
    write(w, b"in time").unwrap();
    let mut found = ring.wait(2);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, 7), cqe(2, CANCELED)]);
}

fn draining_waits_for_all_before() {
    let ring = ring(8);
    let (r, w) = pipe();
    let buf = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&buf), 8, 0).tag(1), nop(2).with(DRAIN), nop(3)]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    assert_eq!(ring.wait(3), [cqe(1, 1), cqe(2, 0), cqe(3, 0)]);
}

fn a_chain_waits_for_its_drain() {
    let (ring, back) = (ring(8), [0u8; 8]);
    let (r, w) = pipe();
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(1), nop(2).with(LINK), nop(3).with(DRAIN)]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    assert_eq!(ring.wait(3), [cqe(1, 1), cqe(2, 0), cqe(3, 0)]);
}

fn what_waits_behind_a_drain_goes_on() {
    let (ring, back) = (ring(8), [0u8; 8]);
    let ((r, w), (r2, w2)) = (pipe(), pipe());
    // The last one brings what the one before waits for.
    ring.submit(&[
        rw(READ, r, addr(&back), 8, 0).tag(1),
        nop(2).with(DRAIN),
        rw(READ, r2, addr(&back), 8, 0).tag(3),
        rw(WRITE, w2, addr(b"ab"), 2, 0).tag(4),
    ]);
    assert!(!ring.has_completions());
    write(w, b"x").unwrap();
    let mut found = ring.wait(4);
    assert_eq!(found[..2], [cqe(1, 1), cqe(2, 0)]);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found[2..], [cqe(3, 2), cqe(4, 2)]);
}

fn drained_requests_stay_their_tasks() {
    let (ring, buf) = (ring(8), [0u8; 8]);
    let (r, w) = pipe();
    let (told, tell) = pipe();
    // A descriptor that the two have for different files.
    let fd = new_file("parents");
    ring.submit(&[rw(READ, r, addr(&buf), 8, 0).tag(1)]);
    let child = child_code(|| {
        close(fd);
        assert_eq!(new_file("childs"), fd);
        ring.submit(&[rw(WRITE, fd, addr(b"child"), 5, 0).tag(2).with(DRAIN)]);
        write(tell, b"x").unwrap();
        // It comes for the completion, which the parent's end of the first lets be.
        while ring.word(21).load(SeqCst) < 2 {
            ring.enter(0, 2, GETEVENTS).unwrap();
        }
        i32::from(pread(fd, 8, 0) == Ok(b"child".to_vec()))
    });
    read_vec(told, 1).unwrap();
    write(w, b"x").unwrap();
    while ring.word(21).load(SeqCst) < 1 {
        ring.enter(0, 1, GETEVENTS).unwrap();
    }
    assert_eq!(child.wait(), Status::Exit(1));
    assert_eq!(pread(fd, 8, 0), Ok(vec![]));
    assert_eq!(ring.take(), [cqe(1, 1), cqe(2, 5)]);
}

fn requests_can_be_cancelled() {
    let ring = ring(8);
    let (r, _w) = pipe();
    let buf = [0u8; 8];
    let cancel = |addr: u64, op_flags: u32| Sqe { op: CANCEL, addr, op_flags, ..nop(100) };
    assert_eq!(ring.result(cancel(1, 0)), err(ENOENT));
    let read = |tag| rw(READ, r, addr(&buf), 8, 0).tag(tag);
    ring.submit(&[read(1)]);
    let mut found = ring.run(&[cancel(1, 0)]);
    found.extend(ring.wait(1));
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, CANCELED), cqe(100, 0)]);
    // All of a file; then any.
    ring.submit(&[read(1), read(2)]);
    ring.submit(&[Sqe { fd: r, ..cancel(0, 3) }]);
    let mut found = ring.wait(3);
    found.sort_by_key(|cqe| cqe.data);
    assert_eq!(found, [cqe(1, CANCELED), cqe(2, CANCELED), cqe(100, 2)]);
    ring.submit(&[read(1), read(2)]);
    ring.submit(&[cancel(0, 4)]);
    assert_eq!(ring.wait(3).iter().filter(|cqe| cqe.res == CANCELED).count(), 2);
    // By a call.
    let arg = [7u64, u64::from(u32::MAX), u64::MAX, u64::MAX, 0, 0, 0, 0];
    assert_eq!(ring.register(24, &arg, 1), Err(ENOENT));
    ring.submit(&[read(7)]);
    assert_eq!(ring.register(24, &arg, 1), Ok(0));
    assert_eq!(ring.wait(1), [cqe(7, CANCELED)]);
}

fn deferred_work() {
    let ring = ring_with(4, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, 0);
    let (r, w) = pipe();
    let back = [0u8; 8];
    ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(1)]);
    write(w, b"x").unwrap();
    assert!(!ring.has_completions());
    assert_eq!(ring.wait(1), [cqe(1, 1)]);
    // Only the maker may submit.
    assert_eq!(child_code(|| i32::from(ring.enter(1, 0, 0) == Err(EEXIST))).wait(), Status::Exit(1));
    // Nor would another's wait bring anything.
    let wait = || ring.enter(0, 1, GETEVENTS) == Err(EEXIST);
    assert_eq!(child_code(|| i32::from(wait())).wait(), Status::Exit(1));
}

fn deferred_work_is_told_of() {
    for by_eventfd in [false, true] {
        let ring = ring_with(4, SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN, 0);
        let eventfd = sys!(SYS_eventfd2, 0, EFD_NONBLOCK).unwrap() as i32;
        let fd = if by_eventfd {
            ring.register(4, &[eventfd], 1).unwrap();
            eventfd
        } else {
            ring.fd
        };
        let ((r, w), back) = (pipe(), [0u8; 8]);
        ring.submit(&[rw(READ, r, addr(&back), 8, 0).tag(1)]);
        assert_eq!(poll1(fd, POLLIN, 0), 0);
        let child = child(|| {
            settle();
            write(w, b"x").unwrap();
        });
        while poll1(fd, POLLIN, 5000) != POLLIN {}
        assert_eq!(ring.wait(1), [cqe(1, 1)]);
        assert_eq!(child.wait(), Status::Exit(0));
    }
}
