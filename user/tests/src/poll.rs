//! poll(2), select(2) and their siblings.

use crate::prelude::*;

tests!(
    "poll":
    counts_and_fills, timeout_is_kept, wakes_when_data_comes, wakes_when_the_other_end_closes,
    regular_files_are_always_ready, errors, ppoll_writes_the_rest_back, select_sets, select_errors,
    select_sleeps_and_writes_time_left, pselect_wakes, many_descriptors,
);

fn pf(fd: i32, events: i16) -> pollfd {
    pollfd { fd, events, revents: 99 }
}

fn counts_and_fills() {
    let (r, w) = pipe();
    let mut set = [pf(r, POLLIN), pf(w, POLLOUT), pf(-1, POLLIN), pf(999, POLLIN)];
    assert_eq!(sys!(SYS_poll, &mut set, 4, 0), Ok(2));
    assert_eq!(set.map(|p| p.revents), [0, POLLOUT, 0, POLLNVAL]);
    write(w, b"x").unwrap();
    assert_eq!(sys!(SYS_poll, &mut set, 2, -1), Ok(2));
    assert_eq!(set[0].revents, POLLIN);
}

fn timeout_is_kept() {
    let (r, _w) = pipe();
    let mut p = pf(r, POLLIN);
    let (took, n) = timed(|| sys!(SYS_poll, &mut p, 1, 60));
    assert_eq!((n, p.revents), (Ok(0), 0));
    assert!(took >= 59);
    let (took, _) = timed(|| sys!(SYS_poll, 0, 0, 30));
    assert!(took >= 29);
}

fn wakes_when_data_comes() {
    let (r, w) = pipe();
    let c = child(|| {
        settle();
        write(w, b"x").unwrap();
    });
    let (took, ev) = timed(|| poll1(r, POLLIN, 10_000));
    assert_eq!(ev, POLLIN);
    assert!(took < 8000);
    c.ok();
}

fn wakes_when_the_other_end_closes() {
    let (r, w) = pipe();
    let c = child(|| {
        close(r);
        settle();
    });
    close(w);
    assert_eq!(poll1(r, 0, 10_000), POLLHUP, "POLLHUP needs no asking");
    c.ok();
}

fn regular_files_are_always_ready() {
    let fd = new_file("f");
    assert_eq!(poll1(fd, POLLIN | POLLOUT | POLLPRI, 0), POLLIN | POLLOUT);
    let null = open(&cstr("/dev/null"), O_RDWR).unwrap();
    assert_eq!(poll1(null, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
}

fn errors() {
    assert_eq!(sys!(SYS_poll, 8, 1, 0), Err(EFAULT));
    aside(|| {
        let r = rlimit { rlim_cur: 4, rlim_max: 4 };
        sys!(SYS_setrlimit, RLIMIT_NOFILE, &r).unwrap();
        let mut set = [pf(-1, 0); 5];
        assert_eq!(sys!(SYS_poll, &mut set, 5, 0), Err(EINVAL));
    });
    let bad = timespec { tv_sec: -1, tv_nsec: 0 };
    assert_eq!(sys!(SYS_ppoll, 0, 0, &bad, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_ppoll, 0, 0, &ms(0), &[0u64], 4), Err(EINVAL));
}

fn ppoll_writes_the_rest_back() {
    let (r, w) = pipe();
    write(w, b"x").unwrap();
    let mut ts = ms(5000);
    let mut p = pf(r, POLLIN);
    assert_eq!(sys!(SYS_ppoll, &mut p, 1, &mut ts, 0, 8), Ok(1));
    assert!(ts.tv_sec == 4 && ts.tv_nsec > 0);
}

fn bits(fds: &[i32]) -> [u64; 16] {
    let mut set = [0; 16];
    for fd in fds {
        set[*fd as usize / 64] |= 1 << (fd % 64);
    }
    set
}

fn select_sets() {
    let (r, w) = pipe();
    let (mut rd, mut wr) = (bits(&[r]), bits(&[w]));
    let mut tv = timeval { tv_sec: 0, tv_usec: 0 };
    assert_eq!(sys!(SYS_select, w + 1, &mut rd, &mut wr, 0, &mut tv), Ok(1));
    assert_eq!((rd, wr), (bits(&[]), bits(&[w])));
    write(w, b"x").unwrap();
    let (mut rd, mut wr) = (bits(&[r]), bits(&[w]));
    assert_eq!(sys!(SYS_select, w + 1, &mut rd, &mut wr, 0, 0), Ok(2));
    close(w);
    read_vec(r, 1).unwrap();
    let mut rd = bits(&[r]);
    assert_eq!(sys!(SYS_select, r + 1, &mut rd, 0, 0, 0), Ok(1), "end of file is readable");
}

fn select_errors() {
    assert_eq!(sys!(SYS_select, -1, 0, 0, 0, 0), Err(EINVAL));
    let mut rd = bits(&[500]);
    let mut tv = timeval { tv_sec: 0, tv_usec: 0 };
    assert_eq!(sys!(SYS_select, 40, &mut rd, 0, 0, &mut tv), Ok(0), "beyond nfds: not looked at");
    let mut rd = bits(&[60]);
    assert_eq!(sys!(SYS_select, 61, &mut rd, 0, 0, &mut tv), Err(EBADF));
    assert_eq!(sys!(SYS_select, 10, 8, 0, 0, &mut tv), Err(EFAULT));
    tv.tv_sec = -1;
    assert_eq!(sys!(SYS_select, 0, 0, 0, 0, &mut tv), Err(EINVAL));
}

fn select_sleeps_and_writes_time_left() {
    let mut tv = timeval { tv_sec: 0, tv_usec: 50_000 };
    let (took, r) = timed(|| sys!(SYS_select, 0, 0, 0, 0, &mut tv));
    assert_eq!(r, Ok(0));
    assert!(took >= 49);
    assert_eq!((tv.tv_sec, tv.tv_usec), (0, 0));
}

fn pselect_wakes() {
    let (r, w) = pipe();
    let c = child(|| {
        settle();
        write(w, b"x").unwrap();
    });
    let mut rd = bits(&[r]);
    assert_eq!(sys!(SYS_pselect6, r + 1, &mut rd, 0, 0, &ms(10_000), 0), Ok(1));
    assert_eq!(rd, bits(&[r]));
    c.ok();
}

fn many_descriptors() {
    let pairs: Vec<_> = (0..200).map(|_| pipe()).collect();
    let mut set: Vec<pollfd> = pairs.iter().map(|p| pf(p.0, POLLIN)).collect();
    assert_eq!(sys!(SYS_poll, &mut set[..], set.len(), 0), Ok(0));
    for i in [0, 77, 199] {
        write(pairs[i].1, b"x").unwrap();
    }
    assert_eq!(sys!(SYS_poll, &mut set[..], set.len(), 0), Ok(3));
    assert!(set.iter().enumerate().all(|(i, p)| (p.revents == POLLIN) == [0, 77, 199].contains(&i)));
}
