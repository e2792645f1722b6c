//! Futexes with priority inheritance (futex(2), "Priority-inheritance futexes").

use crate::prelude::*;

tests!(
    "futexpi":
    lock_and_unlock_without_contention, contended_lock_is_handed_over, timeouts_and_try, bad_owners,
    owner_that_dies_passes_it_on, deadlock_is_refused, owner_gets_the_waiters_priority, requeue_to_a_lock,
    highest_priority_goes_first, signal_after_a_requeue,
);

const LOCK_PI: i32 = 6;
const UNLOCK_PI: i32 = 7;
const TRYLOCK_PI: i32 = 8;
const WAIT_REQUEUE_PI: i32 = 11;
const CMP_REQUEUE_PI: i32 = 12;
const LOCK_PI2: i32 = 13;
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;

fn op(word: usize, op: i32) -> Result<usize, Errno> {
    sys!(SYS_futex, word, op, 0, 0, 0, 0)
}

fn value(word: usize) -> u32 {
    atomic(word).load(SeqCst)
}

fn await_waiters(word: usize) {
    while value(word) & WAITERS == 0 {
        nap(1);
    }
}

fn lock_and_unlock_without_contention() {
    let word = shared(PAGE);
    let tid = gettid() as u32;
    op(word, LOCK_PI).unwrap();
    assert_eq!(value(word), tid);
    assert_eq!(op(word, LOCK_PI), Err(EDEADLK));
    assert_eq!(op(word, TRYLOCK_PI), Err(EDEADLK));
    op(word, UNLOCK_PI).unwrap();
    assert_eq!(value(word), 0);
    assert_eq!(op(word, UNLOCK_PI), Err(EPERM));
    assert_eq!(op(word + 1, LOCK_PI), Err(EINVAL));
    assert_eq!(op(8, LOCK_PI), Err(EFAULT));
}

fn contended_lock_is_handed_over() {
    let word = shared(PAGE);
    op(word, LOCK_PI).unwrap();
    let c = child(|| {
        op(word, LOCK_PI).unwrap();
        assert_eq!(value(word) & !WAITERS, gettid() as u32);
        op(word, UNLOCK_PI).unwrap();
    });
    await_waiters(word);
    assert_eq!(value(word), gettid() as u32 | WAITERS);
    op(word, UNLOCK_PI).unwrap();
    assert_ne!(value(word) & !WAITERS, gettid() as u32);
    c.ok();
    assert_eq!(value(word), 0);
}

fn timeouts_and_try() {
    let word = shared(PAGE);
    let c = child(|| {
        op(word, LOCK_PI).unwrap();
        nap(20_000);
    });
    while value(word) == 0 {
        nap(1);
    }
    assert_eq!(op(word, TRYLOCK_PI), Err(EAGAIN));
    let past: timespec = zero();
    assert_eq!(sys!(SYS_futex, word, LOCK_PI, 0, &past, 0, 0), Err(ETIMEDOUT));
    let mut soon: timespec = zero();
    sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut soon).unwrap();
    soon.tv_sec += 1;
    assert_eq!(sys!(SYS_futex, word, LOCK_PI2, 0, &soon, 0, 0), Err(ETIMEDOUT));
    c.kill(SIGKILL);
    c.wait();
}

fn bad_owners() {
    let word = shared(PAGE);
    let gone = child(|| {});
    let tid = gone.0 as u32;
    gone.ok();
    atomic(word).store(tid, SeqCst);
    assert_eq!(op(word, LOCK_PI), Err(ESRCH));
    assert_eq!(op(word, UNLOCK_PI), Err(EPERM));
}

fn owner_that_dies_passes_it_on() {
    let word = shared(PAGE);
    let owner = child(|| {
        op(word, LOCK_PI).unwrap();
        await_waiters(word);
        nap(20);
    });
    while value(word) == 0 {
        nap(1);
    }
    op(word, LOCK_PI).unwrap();
    assert_eq!(value(word) & !WAITERS, gettid() as u32 | OWNER_DIED);
    owner.ok();
    op(word, UNLOCK_PI).unwrap();
}

fn deadlock_is_refused() {
    let (one, two) = (shared(PAGE), shared(PAGE));
    op(one, LOCK_PI).unwrap();
    let c = child(|| {
        op(two, LOCK_PI).unwrap();
        op(one, LOCK_PI).unwrap();
        op(one, UNLOCK_PI).unwrap();
        op(two, UNLOCK_PI).unwrap();
    });
    await_waiters(one);
    nap(20);
    assert_eq!(op(two, LOCK_PI), Err(EDEADLK));
    op(one, UNLOCK_PI).unwrap();
    c.ok();
}

/// Field 18 of /proc/PID/stat: 20 for a normal thread, -1 - n for one of real-time priority n.
fn priority_of(pid: i32) -> i32 {
    let stat = slurp(&format!("/proc/{pid}/stat"));
    stat.rsplit(')').next().unwrap().split_whitespace().nth(15).unwrap().parse().unwrap()
}

fn become_fifo(priority: i32) {
    sys!(SYS_sched_setscheduler, 0, SCHED_FIFO, &priority).unwrap();
}

fn owner_gets_the_waiters_priority() {
    let word = shared(PAGE);
    op(word, LOCK_PI).unwrap();
    let me = getpid();
    assert_eq!(priority_of(me), 20);
    let c = child(|| {
        become_fifo(10);
        op(word, LOCK_PI).unwrap();
        op(word, UNLOCK_PI).unwrap();
    });
    await_waiters(word);
    while priority_of(me) == 20 {
        nap(1);
    }
    assert_eq!(priority_of(me), -11);
    assert_eq!(sys!(SYS_sched_getscheduler, 0), Ok(SCHED_OTHER as usize), "what it was given stays");
    op(word, UNLOCK_PI).unwrap();
    assert_eq!(priority_of(me), 20);
    c.ok();
}

fn highest_priority_goes_first() {
    let (word, order) = (shared(PAGE), shared(PAGE));
    op(word, LOCK_PI).unwrap();
    let mut children = Vec::new();
    for priority in [5, 20, 10] {
        children.push(child(|| {
            become_fifo(priority);
            atomic(order + 64).fetch_add(1, SeqCst);
            op(word, LOCK_PI).unwrap();
            let place = atomic(order).fetch_add(1, SeqCst) as usize;
            atomic(order + 4 + 4 * place).store(priority as u32, SeqCst);
            op(word, UNLOCK_PI).unwrap();
        }));
        while (atomic(order + 64).load(SeqCst) as usize) < children.len() {
            nap(1);
        }
        nap(20);
    }
    op(word, UNLOCK_PI).unwrap();
    children.into_iter().for_each(Child::ok);
    let got = [0, 1, 2].map(|place| atomic(order + 4 + 4 * place).load(SeqCst));
    assert_eq!(got, [20, 10, 5]);
}

fn requeue_to_a_lock() {
    let (cond, lock) = (shared(PAGE), shared(PAGE));
    let c = child(|| {
        assert_eq!(sys!(SYS_futex, cond, WAIT_REQUEUE_PI, 1, 0, lock, -1), Err(EAGAIN), "another value");
        sys!(SYS_futex, cond, WAIT_REQUEUE_PI, 0, 0, lock, -1).unwrap();
        assert_eq!(value(lock) & !WAITERS, gettid() as u32);
        op(lock, UNLOCK_PI).unwrap();
    });
    op(lock, LOCK_PI).unwrap();
    let requeue = |from: usize, count: i32, expected: u32| {
        sys!(SYS_futex, from, CMP_REQUEUE_PI, count, 0, lock, expected)
    };
    assert_eq!(requeue(cond, 2, 0), Err(EINVAL), "exactly one is woken");
    assert_eq!(requeue(cond, 1, 5), Err(EAGAIN));
    while requeue(cond, 1, 0) == Ok(0) {
        nap(1);
    }
    await_waiters(lock);
    op(lock, UNLOCK_PI).unwrap();
    c.ok();
    assert_eq!(sys!(SYS_futex, cond, WAIT_REQUEUE_PI, 0, 0, cond, -1), Err(EINVAL));
}

fn signal_after_a_requeue() {
    let (cond, lock) = (shared(PAGE), shared(PAGE));
    let c = child(|| {
        on_signal(SIGUSR1, SA_RESTART, count);
        assert_eq!(sys!(SYS_futex, cond, WAIT_REQUEUE_PI, 0, 0, lock, -1), Err(EAGAIN));
        assert_eq!(seen(), 2, "the first signal let it wait on");
    });
    op(lock, LOCK_PI).unwrap();
    nap(50);
    sys!(SYS_kill, c.0, SIGUSR1).unwrap();
    nap(50);
    while sys!(SYS_futex, cond, CMP_REQUEUE_PI, 1, 0, lock, 0) == Ok(0) {
        nap(1);
    }
    await_waiters(lock);
    nap(50);
    sys!(SYS_kill, c.0, SIGUSR1).unwrap();
    c.ok();
}
