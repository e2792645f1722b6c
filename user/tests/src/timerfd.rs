//! timerfd_create(2).

use crate::prelude::*;

tests!(
    "timerfd":
    fires_once, repeats_and_counts, disarm_and_gettime, absolute_in_the_past_fires_at_once, errors,
    realtime_clock,
);

fn timerfd(flags: i32) -> i32 {
    sys!(SYS_timerfd_create, CLOCK_MONOTONIC, flags).unwrap() as i32
}

fn arm(fd: i32, value_ms: i64, interval_ms: i64) {
    let spec = itimerspec { it_interval: ms(interval_ms), it_value: ms(value_ms) };
    sys!(SYS_timerfd_settime, fd, 0, &spec, 0).unwrap();
}

fn expirations(fd: i32) -> Result<u64, Errno> {
    read_vec(fd, 8).map(|b| u64::from_ne_bytes(b.try_into().unwrap()))
}

fn fires_once() {
    let fd = timerfd(0);
    let (took, n) = timed(|| {
        arm(fd, 40, 0);
        expirations(fd)
    });
    assert_eq!(n, Ok(1));
    assert!(took >= 39, "{took}"); // both ends are rounded down
    sys!(SYS_fcntl, fd, F_SETFL, O_NONBLOCK).unwrap();
    assert_eq!(expirations(fd), Err(EAGAIN));
}

fn repeats_and_counts() {
    let fd = timerfd(TFD_NONBLOCK);
    arm(fd, 10, 10);
    nap(75);
    let n = expirations(fd).unwrap();
    assert!((7..=60).contains(&n), "{n} expirations");
    assert_eq!(poll1(fd, POLLIN, 1000), POLLIN);
}

fn disarm_and_gettime() {
    let fd = timerfd(TFD_NONBLOCK);
    arm(fd, 5000, 3000);
    let mut now: itimerspec = zero();
    sys!(SYS_timerfd_gettime, fd, &mut now).unwrap();
    assert_eq!(now.it_interval.tv_sec, 3);
    assert_eq!(now.it_value.tv_sec, 4);
    let spec: itimerspec = zero();
    let mut old: itimerspec = zero();
    sys!(SYS_timerfd_settime, fd, 0, &spec, &mut old).unwrap();
    assert_eq!(old.it_value.tv_sec, 4);
    sys!(SYS_timerfd_gettime, fd, &mut now).unwrap();
    assert_eq!((now.it_value.tv_sec, now.it_value.tv_nsec), (0, 0));
    assert_eq!(poll1(fd, POLLIN, 0), 0);
}

fn absolute_in_the_past_fires_at_once() {
    let fd = timerfd(TFD_NONBLOCK);
    let spec = itimerspec { it_interval: ms(0), it_value: timespec { tv_sec: 0, tv_nsec: 1 } };
    sys!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &spec, 0).unwrap();
    assert_eq!(poll1(fd, POLLIN, 1000), POLLIN);
    assert_eq!(expirations(fd), Ok(1));
}

fn errors() {
    assert_eq!(sys!(SYS_timerfd_create, 99, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_create, CLOCK_MONOTONIC, 1), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_create, CLOCK_PROCESS_CPUTIME_ID, 0), Err(EINVAL));
    let fd = timerfd(TFD_NONBLOCK);
    let spec = itimerspec { it_interval: ms(0), it_value: timespec { tv_sec: 0, tv_nsec: 1_000_000_000 } };
    assert_eq!(sys!(SYS_timerfd_settime, fd, 0, &spec, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_settime, fd, 64, &spec, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_settime, 1, 0, &zero::<itimerspec>(), 0), Err(EINVAL));
    assert_eq!(sys!(SYS_timerfd_settime, fd, 0, 0, 0), Err(EFAULT));
    assert_eq!(read_vec(fd, 7), Err(EINVAL));
    assert_eq!(write(fd, &[0; 8]), Err(EINVAL));
}

fn realtime_clock() {
    let fd = sys!(SYS_timerfd_create, CLOCK_REALTIME, 0).unwrap() as i32;
    let mut now: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut now).unwrap();
    now.tv_nsec += 30_000_000;
    now.tv_sec += now.tv_nsec / 1_000_000_000;
    now.tv_nsec %= 1_000_000_000;
    let spec = itimerspec { it_interval: ms(0), it_value: now };
    sys!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &spec, 0).unwrap();
    assert_eq!(expirations(fd), Ok(1));
    let mut later: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut later).unwrap();
    assert!((later.tv_sec, later.tv_nsec) >= (now.tv_sec, now.tv_nsec), "it fired early");
}
