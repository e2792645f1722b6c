//! POSIX timers: ids, clocks of CPU time, overruns, and signals that are blocked or ignored (timer_create(2)).

use std::sync::atomic::AtomicBool;
use std::thread::spawn;

use crate::prelude::*;

tests!(
    "ptimer":
    ids_come_in_turn, ids_can_be_chosen, clock_numbers, cpu_clocks_expire, cpu_time_of_a_child,
    signal_goes_to_the_thread_that_used_the_time, no_signal_without_notification,
    setting_again_drops_the_signal, ignored_signals_are_overruns, an_ignored_single_shot_is_over,
    one_signal_for_each_timer, proc_shows_them,
    a_siginfo_that_looks_like_an_expiry,
);

/// `PR_TIMER_CREATE_RESTORE_IDS`.
const RESTORE_IDS: i32 = 77;

/// A timer on `clock` that sends `sig`.
fn create(clock: i32, sig: i32) -> i32 {
    let mut ev: sigevent = zero();
    ev.sigev_signo = sig;
    let mut id = -1i32;
    sys!(SYS_timer_create, clock, &ev, &mut id).unwrap();
    id
}

fn set(id: i32, value_ms: i64, interval_ms: i64) {
    let spec = itimerspec { it_interval: ms(interval_ms), it_value: ms(value_ms) };
    sys!(SYS_timer_settime, id, 0, &spec, 0).unwrap();
}

/// What is left, in nanoseconds.
fn left(id: i32) -> i64 {
    let mut spec: itimerspec = zero();
    sys!(SYS_timer_gettime, id, &mut spec).unwrap();
    spec.it_value.tv_sec * 1_000_000_000 + spec.it_value.tv_nsec
}

fn delete(id: i32) {
    sys!(SYS_timer_delete, id).unwrap();
}

/// Takes a pending SIGUSR1: its code, timer and overruns.
fn take() -> Option<(i32, i32, u32)> {
    let mut info: SigInfo = zero();
    let got = sys!(SYS_rt_sigtimedwait, &mask_of(&[SIGUSR1]), &mut info, &ms(0), 8);
    got.ok().map(|_| (info.code, info.fields[0] as i32, info.fields[1]))
}

/// Uses CPU time until `done`, for 30 seconds at most.
fn burn_until(done: impl Fn() -> bool) -> bool {
    let start = now_ms();
    while !done() {
        if now_ms() - start > 30_000 {
            return false;
        }
        std::hint::black_box((0..1000).sum::<u64>());
    }
    true
}

fn ids_come_in_turn() {
    let first = create(CLOCK_MONOTONIC, SIGUSR1);
    delete(first);
    let next = create(CLOCK_MONOTONIC, SIGUSR1);
    assert_eq!(next, first + 1, "an id is not used again at once");
    assert_eq!(sys!(SYS_timer_gettime, first, BAD), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_delete, -1), Err(EINVAL));
}

fn ids_can_be_chosen() {
    let order = |order: i32| sys!(SYS_prctl, RESTORE_IDS, order, 0, 0, 0);
    assert_eq!(order(2), Ok(0));
    assert_eq!(order(3), Err(EINVAL));
    assert_eq!(sys!(SYS_prctl, RESTORE_IDS, 1, 1, 0, 0), Err(EINVAL));
    order(1).unwrap();
    assert_eq!(order(2), Ok(1));
    let mut id = 1000i32;
    sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id).unwrap();
    assert_eq!(id, 1000);
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id), Err(EBUSY));
    id = -1;
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id), Err(EINVAL));
    assert_eq!(sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, BAD), Err(EFAULT));
    aside(|| assert_eq!(order(2), Ok(0), "a child chooses no ids"));
    order(0).unwrap();
    sys!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id).unwrap();
    assert_eq!(id, 1001);
}

/// The CPU clock of a process (kind 2: nanoseconds) or thread.
fn cpu_clock(pid: i32, is_thread: bool) -> i32 {
    !pid << 3 | if is_thread { 4 } else { 0 } | 2
}

fn clock_numbers() {
    let sleeper = child(|| nap(60_000));
    let mut ts: timespec = zero();
    let mut read = |clock: i32| sys!(SYS_clock_gettime, clock, &mut ts).map(ignore);
    let mut id = 0;
    let mut timer = |clock: i32| sys!(SYS_timer_create, clock, 0, &mut id).map(ignore);
    assert_eq!(read(cpu_clock(sleeper.0, false)), Ok(()));
    assert_eq!(read(cpu_clock(sleeper.0, true)), Err(EINVAL), "a thread of another process");
    assert_eq!(timer(cpu_clock(sleeper.0, true)), Err(EINVAL));
    assert_eq!(timer(cpu_clock(i32::MAX >> 3, false)), Err(EINVAL), "nobody");
    assert_eq!(timer(cpu_clock(getpid(), true)), Ok(()));
    assert_eq!(timer(cpu_clock(0, false) | 3), Err(EOPNOTSUPP), "the clock of a file");
    assert_eq!(timer(cpu_clock(0, true) | 3), Err(EINVAL));
    assert_eq!(read(cpu_clock(0, true) | 3), Err(EINVAL));
    spawn(|| {
        let mut ts: timespec = zero();
        let mut id = 0;
        let clock = cpu_clock(gettid(), false);
        sys!(SYS_clock_gettime, clock, &mut ts).expect("the caller's tid stands for its process");
        assert_eq!(sys!(SYS_timer_create, clock, 0, &mut id), Err(EINVAL), "but not for a timer");
    })
    .join()
    .unwrap();
    let mut resolution = |clock: i32| sys!(SYS_clock_getres, clock, &mut ts).map(|_| ts.tv_nsec);
    assert_eq!(resolution(cpu_clock(0, false)), Ok(1));
    assert!(resolution(cpu_clock(0, false) & !3).unwrap() >= 1_000_000, "ticks");
    assert_eq!(sys!(SYS_clock_nanosleep, cpu_clock(0, true), 0, &ms(1), 0), Err(EINVAL), "it would stand still");
    sleeper.kill(SIGKILL);
}

fn cpu_clocks_expire() {
    on_signal(SIGUSR1, 0, count);
    let clocks = [
        CLOCK_PROCESS_CPUTIME_ID,
        CLOCK_THREAD_CPUTIME_ID,
        cpu_clock(0, false),
        cpu_clock(0, true),
        cpu_clock(getpid(), false),
        cpu_clock(gettid(), true),
        cpu_clock(0, false) & !3 | 1,
    ];
    for clock in clocks {
        let id = create(clock, SIGUSR1);
        let before = seen();
        set(id, 20, 10);
        assert!(left(id) > 0 && left(id) <= 20_000_000);
        nap(60);
        assert_eq!(seen(), before, "sleeping is no work");
        assert!(burn_until(|| seen() > before + 1), "clock {clock}");
        delete(id);
    }
}

fn cpu_time_of_a_child() {
    let stop = shared(PAGE);
    let worker = child(|| ignore(burn_until(|| atomic(stop).load(SeqCst) != 0)));
    on_signal(SIGUSR1, 0, count);
    let id = create(cpu_clock(worker.0, false), SIGUSR1);
    set(id, 20, 0);
    let start = now_ms();
    while seen() == 0 && now_ms() - start < 30_000 {
        nap(10);
    }
    assert_eq!(seen(), 1);
    assert_eq!(left(id), 0);
    // It goes on only once its signal was taken.
    set(id, 10, 10);
    while seen() < 5 && now_ms() - start < 30_000 {
        nap(10);
    }
    assert!(seen() >= 5);
    set(id, 1_000_000, 0);
    assert!(left(id) > 0);
    atomic(stop).store(1, SeqCst);
    worker.ok();
    assert_eq!(left(id), 0, "the process has gone");
    let spec = itimerspec { it_interval: ms(0), it_value: ms(10) };
    assert_eq!(sys!(SYS_timer_settime, id, 0, &spec, 0), Err(ESRCH));
}

/// The thread that uses CPU time, and whether another one was interrupted.
static WORKER: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);
static STRAYED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_thread(_sig: i32, _info: &SigInfo, _context: usize) {
    if gettid() != WORKER.load(SeqCst) {
        STRAYED.store(true, SeqCst);
    }
    SEEN.fetch_add(1, SeqCst);
}

fn signal_goes_to_the_thread_that_used_the_time() {
    on_signal(SIGUSR1, 0, note_thread);
    let worker = spawn(|| {
        // The leader waits for this thread's end.
        nap(10);
        WORKER.store(gettid(), SeqCst);
        let id = create(CLOCK_PROCESS_CPUTIME_ID, SIGUSR1);
        set(id, 1, 1);
        assert!(burn_until(|| seen() >= 10));
        delete(id);
    });
    worker.join().unwrap();
    assert!(!STRAYED.load(SeqCst));
}

fn no_signal_without_notification() {
    let mut ev: sigevent = zero();
    ev.sigev_notify = SIGEV_NONE;
    let mut id = 0i32;
    sys!(SYS_timer_create, CLOCK_MONOTONIC, &ev, &mut id).unwrap();
    set(id, 10, 0);
    assert!(left(id) > 0);
    nap(20);
    assert_eq!(left(id), 0);
    set(id, 10, 1_000_000);
    nap(20);
    assert!(left(id) > 0);
    assert_eq!(pending(), 0);
}

fn setting_again_drops_the_signal() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    let id = create(CLOCK_MONOTONIC, SIGUSR1);
    set(id, 1, 1);
    nap(30);
    assert_eq!(pending(), mask_of(&[SIGUSR1]));
    set(id, 1_000_000, 0);
    assert_eq!(take(), None);
    set(id, 1, 0);
    nap(30);
    assert_eq!((pending(), left(id)), (mask_of(&[SIGUSR1]), 0));
    set(id, 0, 0);
    assert_eq!(take(), None);
    set(id, 1, 0);
    nap(30);
    delete(id);
    assert_eq!(take(), None);
}

fn ignored_signals_are_overruns() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    on_signal(SIGUSR1, 0, count);
    let id = create(CLOCK_MONOTONIC, SIGUSR1);
    set(id, 5, 5);
    nap(30);
    assert_eq!(pending(), mask_of(&[SIGUSR1]));
    set_action(SIGUSR1, SIG_IGN).unwrap();
    nap(50);
    assert_eq!(pending(), 0);
    assert!(left(id) > 0, "it goes on");
    on_signal(SIGUSR1, 0, count);
    assert_eq!(pending(), mask_of(&[SIGUSR1]), "the handler gets what came meanwhile");
    let (code, timer, overruns) = take().unwrap();
    assert_eq!((code, timer), (SI_TIMER, id));
    assert!(overruns >= 10, "{overruns}");
    assert_eq!(sys!(SYS_timer_getoverrun, id), Ok(overruns as usize));
    delete(id);
    // Not blocked: an ignored signal never gets into the queue.
    while take().is_some() {}
    sigmask(SIG_UNBLOCK, &[SIGUSR1]);
    set_action(SIGUSR1, SIG_IGN).unwrap();
    let id = create(CLOCK_MONOTONIC, SIGUSR1);
    set(id, 1, 100_000);
    nap(30);
    let before = seen();
    on_signal(SIGUSR1, 0, count);
    assert_eq!(seen(), before + 1);
    delete(id);
}

fn an_ignored_single_shot_is_over() {
    set_action(SIGUSR1, SIG_IGN).unwrap();
    let id = create(CLOCK_MONOTONIC, SIGUSR1);
    set(id, 1, 0);
    nap(30);
    on_signal(SIGUSR1, 0, count);
    assert_eq!((seen(), pending(), left(id)), (0, 0, 0));
}

fn one_signal_for_each_timer() {
    sigmask(SIG_BLOCK, &[SIGUSR1]);
    sys!(SYS_kill, getpid(), SIGUSR1).unwrap();
    let timers = [create(CLOCK_MONOTONIC, SIGUSR1), create(CLOCK_MONOTONIC, SIGUSR1)];
    for id in timers {
        set(id, 1, 0);
        nap(20);
    }
    assert_eq!(take().unwrap().0, SI_USER);
    assert_eq!(take(), Some((SI_TIMER, timers[0], 0)));
    assert_eq!(take(), Some((SI_TIMER, timers[1], 0)));
    assert_eq!(take(), None);
}

fn proc_shows_them() {
    let id = create(CLOCK_MONOTONIC, SIGUSR1);
    let mut ev: sigevent = zero();
    ev.sigev_notify = SIGEV_THREAD_ID;
    ev.sigev_signo = SIGUSR2;
    ev.sigev_value.sival_ptr = 0x1234 as *mut c_void;
    ev.sigev_notify_thread_id = gettid();
    let mut second = 0i32;
    sys!(SYS_timer_create, CLOCK_BOOTTIME, &ev, &mut second).unwrap();
    let pid = getpid();
    // The newest first.
    let want = format!(
        "ID: {second}\nsignal: {SIGUSR2}/{:016x}\nnotify: signal/tid.{}\nClockID: 7\n\
         ID: {id}\nsignal: {SIGUSR1}/{:016x}\nnotify: signal/pid.{pid}\nClockID: 1\n",
        0x1234,
        gettid(),
        0,
    );
    assert_eq!(slurp("/proc/self/timers"), want);
}

/// What a program says itself is not the timer's: setting and deleting that one drops only its own signals.
fn a_siginfo_that_looks_like_an_expiry() {
    let sig = SIGRTMIN();
    sigmask(SIG_BLOCK, &[sig]);
    let id = create(CLOCK_MONOTONIC, sig);
    let mut info = [0u64; 16];
    info[0] = sig as u64;
    info[1] = u64::from(SI_TIMER as u32);
    info[2] = id as u64 | 7 << 32;
    info[3] = 0x1234;
    sys!(SYS_rt_sigqueueinfo, getpid(), sig, &info).unwrap();
    set(id, 0, 0);
    delete(id);
    let mut got = [0u64; 16];
    let set = mask_of(&[sig]);
    assert_eq!(sys!(SYS_rt_sigtimedwait, &set, &mut got, &ms(0), 8), Ok(sig as usize));
    assert_eq!(got[..4], info[..4]);
}
