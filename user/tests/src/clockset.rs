//! clock_settime(2) and adjtimex(2), and what follows when the wall clock jumps. Each test puts the clock back.

use crate::prelude::*;

tests!(
    "clockset":
    errors, timerfd_is_cancelled_once, timers_follow_the_clock, a_sleeper_until_a_date_wakes, adjtimex_reads_and_steps,
    alarm_clocks,
);

/// Moves the wall clock by `seconds`.
fn step(seconds: i64) {
    let mut now: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut now).unwrap();
    now.tv_sec += seconds;
    sys!(SYS_clock_settime, CLOCK_REALTIME, &now).unwrap();
}

/// The date in `seconds`.
fn date_in(seconds: i64) -> timespec {
    let mut now: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_REALTIME, &mut now).unwrap();
    timespec { tv_sec: now.tv_sec + seconds, tv_nsec: 0 }
}

fn errors() {
    let now = date_in(0);
    assert_eq!(sys!(SYS_clock_settime, CLOCK_MONOTONIC, &now), Err(EINVAL));
    assert_eq!(sys!(SYS_clock_settime, CLOCK_PROCESS_CPUTIME_ID, &now), Err(EINVAL));
    let cpu_clock_of_caller = -6;
    assert_eq!(sys!(SYS_clock_settime, cpu_clock_of_caller, &now), Err(EPERM));
    assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, BAD), Err(EFAULT));
    for bad in [timespec { tv_sec: -1, tv_nsec: 0 }, timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }] {
        assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, &bad), Err(EINVAL));
    }
    assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, &timespec { tv_sec: i64::MAX, tv_nsec: 0 }), Err(EINVAL));
    aside(|| {
        drop_root();
        assert_eq!(sys!(SYS_clock_settime, CLOCK_REALTIME, &now), Err(EPERM));
        let mut timex: timex = zero();
        assert!(sys!(SYS_adjtimex, &mut timex).is_ok());
        timex.modes = ADJ_STATUS;
        assert_eq!(sys!(SYS_adjtimex, &mut timex), Err(EPERM));
    });
}

const ABSTIME_CANCEL: i32 = 3;

fn timerfd_is_cancelled_once() {
    let fd = sys!(SYS_timerfd_create, CLOCK_REALTIME, O_NONBLOCK).unwrap() as i32;
    let spec = itimerspec { it_interval: zero(), it_value: date_in(1000) };
    sys!(SYS_timerfd_settime, fd, ABSTIME_CANCEL, &spec, 0).unwrap();
    assert_eq!(read_vec(fd, 8), Err(EAGAIN));
    step(5);
    assert_eq!(poll1(fd, POLLIN, 0), POLLIN);
    assert_eq!(read_vec(fd, 8), Err(Errno::ECANCELED));
    assert_eq!(read_vec(fd, 8), Err(EAGAIN));
    step(-5);
    assert_eq!(read_vec(fd, 8), Err(Errno::ECANCELED));
    // A relative one does not care.
    let spec = itimerspec { it_interval: zero(), it_value: ms(1_000_000) };
    sys!(SYS_timerfd_settime, fd, 0, &spec, 0).unwrap();
    step(5);
    step(-5);
    assert_eq!(read_vec(fd, 8), Err(EAGAIN));
}

fn timers_follow_the_clock() {
    let fd = sys!(SYS_timerfd_create, CLOCK_REALTIME, O_NONBLOCK).unwrap() as i32;
    let spec = itimerspec { it_interval: zero(), it_value: date_in(100) };
    sys!(SYS_timerfd_settime, fd, 1, &spec, 0).unwrap();
    on_signal(SIGALRM, 0, count);
    let mut timer = 0i32;
    sys!(SYS_timer_create, CLOCK_REALTIME, 0, &mut timer).unwrap();
    sys!(SYS_timer_settime, timer, TIMER_ABSTIME, &spec, 0).unwrap();
    assert_eq!((poll1(fd, POLLIN, 20), seen()), (0, 0));
    step(101);
    assert_eq!(poll1(fd, POLLIN, 1000), POLLIN);
    assert_eq!(read_vec(fd, 8), Ok(1u64.to_ne_bytes().to_vec()));
    assert_eq!(seen(), 1);
    step(-101);
}

fn a_sleeper_until_a_date_wakes() {
    let until = date_in(100);
    let sleeper = child(|| {
        sys!(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &until, 0).unwrap();
    });
    settle();
    step(101);
    let (took, ()) = timed(|| sleeper.ok());
    step(-101);
    assert!(took < 5000, "{took} ms");
}

fn adjtimex_reads_and_steps() {
    let mut timex: timex = zero();
    let state = sys!(SYS_adjtimex, &mut timex).unwrap();
    assert!(state <= 5);
    assert_eq!(timex.tick, 10_000);
    assert!(timex.time.tv_sec - date_in(0).tv_sec <= 1);
    assert_eq!(sys!(SYS_clock_adjtime, CLOCK_MONOTONIC, &mut timex), Err(EOPNOTSUPP));
    timex.modes = ADJ_TICK;
    timex.tick = 1;
    assert_eq!(sys!(SYS_adjtimex, &mut timex), Err(EINVAL));
    timex.modes = ADJ_SETOFFSET;
    timex.time = timeval { tv_sec: 0, tv_usec: 1_000_000 };
    assert_eq!(sys!(SYS_adjtimex, &mut timex), Err(EINVAL));
    let before = date_in(0).tv_sec;
    timex.time = timeval { tv_sec: 50, tv_usec: 0 };
    assert!(sys!(SYS_clock_adjtime, CLOCK_REALTIME, &mut timex).is_ok());
    assert!((50..53).contains(&(date_in(0).tv_sec - before)));
    step(-50);
    assert_eq!(sys!(SYS_adjtimex, BAD), Err(EFAULT));
}

fn alarm_clocks() {
    aside(|| {
        drop_root();
        let mut timer = 0i32;
        let denied = |r: Result<usize, Errno>| assert!(r == Err(EPERM) || r == Err(EOPNOTSUPP), "{r:?}");
        denied(sys!(SYS_timer_create, CLOCK_BOOTTIME_ALARM, 0, &mut timer));
        denied(sys!(SYS_clock_nanosleep, CLOCK_REALTIME_ALARM, 0, &ms(1), 0));
    });
    // Linux wants a real-time clock that wakes the machine; Keel never sleeps.
    match sys!(SYS_clock_nanosleep, CLOCK_BOOTTIME_ALARM, 0, &ms(1), 0) {
        Ok(_) | Err(EOPNOTSUPP) => {}
        other => panic!("{other:?}"),
    }
}
