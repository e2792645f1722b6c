//! epoll(7).

use crate::prelude::*;

tests!(
    "epoll":
    level_triggered, edge_triggered, oneshot, ctl_errors, create_and_wait_errors, wakes_a_sleeper,
    adding_while_someone_sleeps, closing_removes_when_the_last_reference_goes, same_file_twice_by_duplicate,
    nested, too_deep_nesting, round_robin_over_many, epoll_pwait2, rdhup_of_a_stream_socket, exclusive,
    wishes_for_busy_polling,
);

fn create() -> i32 {
    sys!(SYS_epoll_create1, EPOLL_CLOEXEC).unwrap() as i32
}

fn ctl(ep: i32, op: i32, fd: i32, events: i32) -> Result<usize, Errno> {
    sys!(SYS_epoll_ctl, ep, op, fd, &epoll_event { events: events as u32, u64: fd as u64 })
}

fn add(ep: i32, fd: i32, events: i32) {
    ctl(ep, EPOLL_CTL_ADD, fd, events).unwrap();
}

/// (events, fd) of what is ready.
fn ready(ep: i32, timeout_ms: i32) -> Vec<(i32, i32)> {
    let mut evs: [epoll_event; 32] = zero();
    let n = sys!(SYS_epoll_wait, ep, &mut evs, 32, timeout_ms).unwrap();
    evs[..n].iter().map(|e| (e.events as i32, e.u64 as i32)).collect()
}

fn level_triggered() {
    let ep = create();
    let (r, w) = pipe();
    add(ep, r, EPOLLIN);
    assert_eq!(ready(ep, 0), []);
    write(w, b"xy").unwrap();
    for _ in 0..3 {
        assert_eq!(ready(ep, 0), [(EPOLLIN, r)]);
    }
    read_vec(r, 2).unwrap();
    assert_eq!(ready(ep, 0), []);
    close(w);
    assert_eq!(ready(ep, 0), [(EPOLLHUP, r)]);
}

fn edge_triggered() {
    let ep = create();
    let (r, w) = pipe();
    add(ep, r, EPOLLIN | EPOLLET);
    write(w, b"x").unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)]);
    assert_eq!(ready(ep, 0), []);
    write(w, b"y").unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)]);
    ctl(ep, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLET).unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)], "MOD looks again");
}

fn oneshot() {
    let ep = create();
    let (r, w) = pipe();
    add(ep, r, EPOLLIN | EPOLLONESHOT);
    write(w, b"x").unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)]);
    write(w, b"x").unwrap();
    assert_eq!(ready(ep, 0), []);
    ctl(ep, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLONESHOT).unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)]);
}

fn ctl_errors() {
    let ep = create();
    let (r, _w) = pipe();
    add(ep, r, EPOLLIN);
    assert_eq!(ctl(ep, EPOLL_CTL_ADD, r, EPOLLIN), Err(EEXIST));
    assert_eq!(ctl(ep, EPOLL_CTL_DEL, _w, 0), Err(ENOENT));
    assert_eq!(ctl(ep, EPOLL_CTL_MOD, _w, EPOLLIN), Err(ENOENT));
    assert_eq!(ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN), Err(EINVAL));
    assert_eq!(ctl(ep, EPOLL_CTL_ADD, 999, EPOLLIN), Err(EBADF));
    assert_eq!(ctl(999, EPOLL_CTL_ADD, r, EPOLLIN), Err(EBADF));
    assert_eq!(ctl(r, EPOLL_CTL_ADD, _w, EPOLLIN), Err(EINVAL));
    assert_eq!(ctl(ep, 9, _w, EPOLLIN), Err(EINVAL));
    assert_eq!(ctl(ep, EPOLL_CTL_ADD, new_file("f"), EPOLLIN), Err(EPERM));
    assert_eq!(sys!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, _w, 0), Err(EFAULT));
    assert_eq!(sys!(SYS_epoll_ctl, ep, EPOLL_CTL_DEL, r, 0), Ok(0), "DEL needs no event");
}

fn create_and_wait_errors() {
    assert_eq!(sys!(SYS_epoll_create, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_create, -1), Err(EINVAL));
    assert!(sys!(SYS_epoll_create, 1).is_ok());
    assert_eq!(sys!(SYS_epoll_create1, 1), Err(EINVAL));
    let ep = create();
    let mut ev: epoll_event = zero();
    assert_eq!(sys!(SYS_epoll_wait, ep, &mut ev, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_wait, ep, &mut ev, -1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_wait, 1, &mut ev, 1, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_epoll_wait, 999, &mut ev, 1, 0), Err(EBADF));
    assert_eq!(sys!(SYS_fcntl, ep, F_GETFD), Ok(1));
}

fn wakes_a_sleeper() {
    let ep = create();
    let (r, w) = pipe();
    add(ep, r, EPOLLIN);
    let c = child(|| {
        settle();
        write(w, b"x").unwrap();
    });
    assert_eq!(ready(ep, 10_000), [(EPOLLIN, r)]);
    c.ok();
    let (took, _) = timed(|| ready(create(), 40));
    assert!(took >= 39);
}

fn adding_while_someone_sleeps() {
    let ep = create();
    let (r, w) = pipe();
    write(w, b"x").unwrap();
    let t = std::thread::spawn(move || ready(ep, 10_000));
    settle();
    add(ep, r, EPOLLIN);
    assert_eq!(t.join().unwrap(), [(EPOLLIN, r)]);
}

fn closing_removes_when_the_last_reference_goes() {
    let ep = create();
    let (r, w) = pipe();
    add(ep, r, EPOLLIN);
    let r2 = sys!(SYS_dup, r).unwrap() as i32;
    write(w, b"x").unwrap();
    close(r);
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)], "the open file lives on in the duplicate");
    close(r2);
    assert_eq!(ready(ep, 0), []);
}

fn same_file_twice_by_duplicate() {
    let ep = create();
    let (r, w) = pipe();
    let r2 = sys!(SYS_dup, r).unwrap() as i32;
    add(ep, r, EPOLLIN);
    add(ep, r2, EPOLLIN);
    write(w, b"x").unwrap();
    let mut got = ready(ep, 0);
    got.sort_unstable();
    assert_eq!(got, [(EPOLLIN, r), (EPOLLIN, r2)]);
}

fn nested() {
    let (inner, outer) = (create(), create());
    let (r, w) = pipe();
    add(outer, inner, EPOLLIN);
    add(inner, r, EPOLLIN);
    assert_eq!(ready(outer, 0), []);
    write(w, b"x").unwrap();
    assert_eq!(ready(outer, 100), [(EPOLLIN, inner)]);
    assert_eq!(poll1(outer, POLLIN, 0), POLLIN);
    assert_eq!(ctl(inner, EPOLL_CTL_ADD, outer, EPOLLIN), Err(ELOOP));
}

fn too_deep_nesting() {
    let all: Vec<_> = (0..7).map(|_| create()).collect();
    let mut last = Ok(0);
    for pair in all.windows(2) {
        last = ctl(pair[1], EPOLL_CTL_ADD, pair[0], EPOLLIN);
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last, Err(ELOOP));
}

fn round_robin_over_many() {
    let ep = create();
    let pairs: Vec<_> = (0..10).map(|_| pipe()).collect();
    for (r, w) in &pairs {
        add(ep, *r, EPOLLIN);
        write(*w, b"x").unwrap();
    }
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let mut evs: [epoll_event; 2] = zero();
        assert_eq!(sys!(SYS_epoll_wait, ep, &mut evs, 2, 0), Ok(2));
        found.extend(evs.map(|e| e.u64));
    }
    assert_eq!(found.len(), 10, "none starves");
}

fn epoll_pwait2() {
    let ep = create();
    let mut ev: epoll_event = zero();
    let (took, r) = timed(|| sys!(SYS_epoll_pwait2, ep, &mut ev, 1, &ms(40), 0, 0));
    assert_eq!(r, Ok(0));
    assert!(took >= 39);
    let bad = timespec { tv_sec: 0, tv_nsec: -1 };
    assert_eq!(sys!(SYS_epoll_pwait2, ep, &mut ev, 1, &bad, 0, 0), Err(EINVAL));
}

fn rdhup_of_a_stream_socket() {
    let ep = create();
    let (a, b) = socketpair(SOCK_STREAM);
    add(ep, a, EPOLLIN | EPOLLRDHUP);
    sys!(SYS_shutdown, b, SHUT_WR).unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN | EPOLLRDHUP, a)]);
    close(b);
    assert_eq!(ready(ep, 0), [(EPOLLIN | EPOLLRDHUP | EPOLLHUP, a)]);
}

fn exclusive() {
    let ep = create();
    let (r, w) = pipe();
    add(ep, r, EPOLLIN | EPOLLEXCLUSIVE);
    assert_eq!(ctl(ep, EPOLL_CTL_MOD, r, EPOLLIN | EPOLLEXCLUSIVE), Err(EINVAL));
    assert_eq!(ctl(ep, EPOLL_CTL_ADD, w, EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT), Err(EINVAL));
    write(w, b"x").unwrap();
    assert_eq!(ready(ep, 0), [(EPOLLIN, r)]);
}

/// `EPIOCSPARAMS` and `EPIOCGPARAMS` (linux/eventpoll.h).
fn wishes_for_busy_polling() {
    const SET: u32 = 0x4008_8a01;
    const GET: u32 = 0x8008_8a02;
    /// Microseconds, budget, preference and padding.
    fn params(usecs: u32, budget: u16, prefer: u8, pad: u8) -> u64 {
        u64::from(usecs) | u64::from(budget) << 32 | u64::from(prefer) << 48 | u64::from(pad) << 56
    }
    let ep = create();
    let get = || {
        let mut params = u64::MAX;
        sys!(SYS_ioctl, ep, GET, &mut params).map(|_| params)
    };
    let set = |params: u64| sys!(SYS_ioctl, ep, SET, &params);
    assert_eq!(get(), Ok(0));
    assert_eq!(set(params(25, 16, 1, 0)), Ok(0));
    assert_eq!(get(), Ok(params(25, 16, 1, 0)));
    for wrong in [params(1 << 31, 0, 0, 0), params(0, 0, 2, 0), params(0, 0, 0, 1), params(0, u16::MAX, 0, 1)] {
        assert_eq!(set(wrong), Err(EINVAL));
    }
    assert_eq!(set(params(0, 65, 0, 0)), Ok(0));
    assert_eq!(sys!(SYS_ioctl, ep, SET, BAD), Err(EFAULT));
    assert_eq!(sys!(SYS_ioctl, ep, GET, BAD), Err(EFAULT));
    assert_eq!(sys!(SYS_ioctl, ep, GET + 1, BAD), Err(EINVAL));
    // What a forked child sets is the set's.
    aside(|| {
        drop_root();
        assert_eq!(set(params(0, 65, 0, 0)), Err(EPERM));
        assert_eq!(set(params(1, 64, 0, 0)), Ok(0));
    });
    assert_eq!(get(), Ok(params(1, 64, 0, 0)));
}
