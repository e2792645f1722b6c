//! Waiting for signals: rt_sigtimedwait(2), rt_sigsuspend(2), pause(2), and timers that send them.

use crate::prelude::*;

tests!(
    "sigwait":
    timedwait_takes_a_pending_signal, timedwait_times_out, timedwait_blocks_until_sent,
    timedwait_is_interrupted_by_others, timedwait_errors, timedwait_lowest_first,
    sigsuspend_opens_the_mask_and_restores_it, ppoll_and_pselect_swap_the_mask, alarm_fires_once,
    itimer_real_repeats, itimer_virtual_and_prof_count_cpu_time, posix_timer_sends_its_signal,
    posix_timer_overrun,
);

fn wait(signals: &[i32], timeout_ms: i64) -> (Result<usize, Errno>, SigInfo) {
    let mut info: SigInfo = zero();
    let r = sys!(SYS_rt_sigtimedwait, &mask_of(signals), &mut info, &ms(timeout_ms), 8);
    (r, info)
}

fn timedwait_takes_a_pending_signal() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let (r, info) = wait(&[SIGUSR1, SIGUSR2], 0);
    assert_eq!(r, Ok(SIGUSR1 as usize));
    assert_eq!((info.signo, info.code, info.pid()), (SIGUSR1, SI_USER, getpid()));
    assert_eq!(pending(), 0);
}

fn timedwait_times_out() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let (took, r) = timed(|| wait(&[SIGUSR1], 60).0);
    assert_eq!(r, Err(EAGAIN));
    assert!(took >= 59);
    assert_eq!(wait(&[SIGUSR1], 0).0, Err(EAGAIN));
}

fn timedwait_blocks_until_sent() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let me = getpid();
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR1).unwrap();
    });
    assert_eq!(sys!(SYS_rt_sigtimedwait, &mask_of(&[SIGUSR1]), 0, 0, 8), Ok(SIGUSR1 as usize));
    c.ok();
}

fn timedwait_is_interrupted_by_others() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    on_signal(SIGUSR2, SA_RESTART, count);
    let me = getpid();
    let c = child(|| {
        settle();
        sys!(SYS_kill, me, SIGUSR2).unwrap();
    });
    assert_eq!(wait(&[SIGUSR1], 5000).0, Err(EINTR));
    c.ok();
}

fn timedwait_errors() {
    assert_eq!(sys!(SYS_rt_sigtimedwait, &[0u64], 0, 0, 4), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigtimedwait, 0, 0, 0, 8), Err(EFAULT));
    let bad = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    assert_eq!(sys!(SYS_rt_sigtimedwait, &[0u64], 0, &bad, 8), Err(EINVAL));
}

fn timedwait_lowest_first() {
    sigmask(SIG_BLOCK, &[SIGUSR1, SIGTERM, 40]);
    for sig in [40, SIGTERM, SIGUSR1] {
        sys!(SYS_kill, getpid(), sig).unwrap();
    }
    for want in [SIGUSR1, SIGTERM, 40] {
        assert_eq!(wait(&[40, SIGTERM, SIGUSR1], 0).0, Ok(want as usize));
    }
}

fn sigsuspend_opens_the_mask_and_restores_it() {
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_SETMASK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    assert_eq!(sys!(SYS_rt_sigsuspend, &[0u64], 8), Err(EINTR));
    assert_eq!(seen(), 1);
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1]));
    assert_eq!(sys!(SYS_rt_sigsuspend, &[0u64], 4), Err(EINVAL));
    assert_eq!(sys!(SYS_rt_sigsuspend, 0, 8), Err(EFAULT));
}

fn ppoll_and_pselect_swap_the_mask() {
    on_signal(SIGUSR1, 0, count);
    sigmask(SIG_SETMASK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    assert_eq!(sys!(SYS_ppoll, 0, 0, &ms(3000), &[0u64], 8), Err(EINTR));
    assert_eq!(seen(), 1);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let mask = 0u64;
    let pack = [std::ptr::from_ref(&mask) as usize, 8];
    assert_eq!(sys!(SYS_pselect6, 0, 0, 0, 0, &ms(3000), &pack), Err(EINTR));
    assert_eq!(seen(), 2);
    assert_eq!(sigmask(SIG_BLOCK, &[]), mask_of(&[SIGUSR1]));
}

fn alarm_fires_once() {
    on_signal(SIGALRM, 0, count);
    assert!(sys!(SYS_alarm, 1).is_ok());
    let (took, r) = timed(|| sys!(SYS_pause));
    assert_eq!((r, seen()), (Err(EINTR), 1));
    assert!((900..5000).contains(&took), "{took} ms");
    assert_eq!(sys!(SYS_alarm, 20), Ok(0));
}

fn itimer_real_repeats() {
    on_signal(SIGALRM, 0, count);
    let t = |ms: i64| timeval { tv_sec: 0, tv_usec: ms * 1000 };
    let timer = itimerval { it_interval: t(20), it_value: t(10) };
    sys!(SYS_setitimer, ITIMER_REAL, &timer, 0).unwrap();
    while seen() < 5 {
        let _ = sys!(SYS_pause);
    }
    let mut old: itimerval = zero();
    sys!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: t(0), it_value: t(0) }, &mut old).unwrap();
    assert_eq!(old.it_interval.tv_usec, 20_000);
    assert_eq!(sys!(SYS_setitimer, 9, &timer, 0), Err(EINVAL));
    let bad = itimerval { it_interval: t(0), it_value: timeval { tv_sec: 0, tv_usec: 1_000_000 } };
    assert_eq!(sys!(SYS_setitimer, ITIMER_REAL, &bad, 0), Err(EINVAL));
}

fn itimer_virtual_and_prof_count_cpu_time() {
    for (which, sig) in [(ITIMER_VIRTUAL, SIGVTALRM), (ITIMER_PROF, SIGPROF)] {
        on_signal(sig, 0, count);
        let before = seen();
        let t = timeval { tv_sec: 0, tv_usec: 30_000 };
        sys!(SYS_setitimer, which, &itimerval { it_interval: zero(), it_value: t }, 0).unwrap();
        nap(60);
        assert_eq!(seen(), before, "sleeping is no work");
        let start = now_ms();
        while seen() == before && now_ms() - start < 5000 {
            std::hint::black_box((0..1000).sum::<u64>());
        }
        assert_eq!((seen(), LAST.load(SeqCst)), (before + 1, sig));
    }
}

fn posix_timer_sends_its_signal() {
    on_signal(SIGUSR1, 0, count);
    let mut ev: sigevent = zero();
    ev.sigev_notify = SIGEV_SIGNAL;
    ev.sigev_signo = SIGUSR1;
    ev.sigev_value.sival_ptr = 77 as *mut c_void;
    let mut id = -1i32;
    sys!(SYS_timer_create, CLOCK_MONOTONIC, &ev, &mut id).unwrap();
    let far = itimerspec { it_interval: ms(0), it_value: ms(900_000) };
    sys!(SYS_timer_settime, id, 0, &far, 0).unwrap();
    let mut left: itimerspec = zero();
    sys!(SYS_timer_gettime, id, &mut left).unwrap();
    assert!((1..=900).contains(&left.it_value.tv_sec));
    let before = seen();
    let spec = itimerspec { it_interval: ms(0), it_value: ms(30) };
    sys!(SYS_timer_settime, id, 0, &spec, 0).unwrap();
    while seen() == before {
        nap(1);
    }
    assert_eq!((LAST.load(SeqCst), LAST_CODE.load(SeqCst), LAST_VALUE.load(SeqCst)), (SIGUSR1, SI_TIMER, 77));
    assert_eq!(sys!(SYS_timer_getoverrun, id), Ok(0));
    sys!(SYS_timer_delete, id).unwrap();
    assert_eq!(sys!(SYS_timer_delete, id), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_create, 99, &ev, &mut id), Err(EINVAL));
}

fn posix_timer_overrun() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let mut ev: sigevent = zero();
    ev.sigev_signo = SIGUSR1;
    let mut id = -1i32;
    sys!(SYS_timer_create, CLOCK_MONOTONIC, &ev, &mut id).unwrap();
    let spec = itimerspec { it_interval: ms(5), it_value: ms(5) };
    sys!(SYS_timer_settime, id, 0, &spec, 0).unwrap();
    nap(80);
    assert_eq!(wait(&[SIGUSR1], 0).0, Ok(SIGUSR1 as usize));
    assert!(sys!(SYS_timer_getoverrun, id).unwrap() >= 5);
}
