//! futex(2): wait, wake, requeue, bitsets, robust lists.

use std::sync::atomic::AtomicU32;

use crate::prelude::*;

tests!(
    "futex":
    value_mismatch_is_eagain, errors, wake_without_waiters, timeout, absolute_timeout, wakes_as_many_as_asked,
    shared_key_is_the_page_not_the_address, private_memory_is_not_shared_with_a_child, requeue_moves_waiters,
    bitsets_select, wake_op_changes_and_wakes, signal_interrupts_and_restarts, ping_pong,
    robust_list_marks_the_dead_owner, robust_list_garbage_is_harmless, waitv, robust_unlock, words_with_a_node,
    own_hash_table,
);

const WAIT: i32 = 0;
const WAKE: i32 = 1;
const REQUEUE: i32 = 3;
const CMP_REQUEUE: i32 = 4;
const WAKE_OP: i32 = 5;
const WAIT_BITSET: i32 = 9;
const WAKE_BITSET: i32 = 10;
const PRIVATE: i32 = 128;
const REALTIME: i32 = 256;

fn futex(addr: usize, op: i32, val: u32, timeout: usize, addr2: usize, val3: u32) -> Result<usize, Errno> {
    sys!(SYS_futex, addr, op, val, timeout, addr2, val3)
}

fn wake(addr: usize, n: u32) -> usize {
    futex(addr, WAKE, n, 0, 0, 0).unwrap()
}

/// Starts `n` children that wait on `addr` until woken.
fn sleepers(addr: usize, n: usize) -> Vec<Child> {
    let kids: Vec<_> =
        (0..n).map(|_| child(|| while futex(addr, WAIT, 0, 0, 0, 0) == Err(EINTR) {})).collect();
    for k in &kids {
        wait_state(k.0, "S");
    }
    settle();
    kids
}

fn value_mismatch_is_eagain() {
    let a = shared(PAGE);
    atomic(a).store(5, SeqCst);
    assert_eq!(futex(a, WAIT, 4, 0, 0, 0), Err(EAGAIN));
    assert_eq!(futex(a, WAIT | PRIVATE, 4, 0, 0, 0), Err(EAGAIN));
}

fn errors() {
    let a = shared(PAGE);
    assert_eq!(futex(a + 1, WAIT, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(futex(a + 2, WAKE, 1, 0, 0, 0), Err(EINVAL));
    assert_eq!(futex(8, WAIT, 0, 0, 0, 0), Err(EFAULT));
    assert_eq!(futex(8, WAKE, 1, 0, 0, 0), Err(EFAULT));
    assert_eq!(futex(8, WAKE | PRIVATE, 1, 0, 0, 0), Ok(0), "a private wake reads nothing");
    assert_eq!(futex(a, 99, 0, 0, 0, 0), Err(ENOSYS));
    assert_eq!(futex(a, WAKE_BITSET, 1, 0, 0, 0), Err(EINVAL));
    assert_eq!(futex(a, WAIT_BITSET, 0, 0, 0, 0), Err(EINVAL));
    let bad = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    assert_eq!(futex(a, WAIT, 0, std::ptr::from_ref(&bad) as usize, 0, 0), Err(EINVAL));
    assert_eq!(futex(a, WAIT, 0, BAD, 0, 0), Err(EFAULT));
    assert_eq!(futex(a, WAKE | REALTIME, 1, 0, 0, 0), Err(ENOSYS));
}

fn wake_without_waiters() {
    assert_eq!(wake(shared(PAGE), 1), 0);
    assert_eq!(wake(anon(PAGE), 100), 0);
}

fn timeout() {
    let a = anon(PAGE);
    let ts = ms(50);
    let at = std::ptr::from_ref(&ts) as usize;
    let (took, r) = timed(|| futex(a, WAIT, 0, at, 0, 0));
    assert_eq!(r, Err(ETIMEDOUT));
    assert!(took >= 49, "{took}");
}

fn absolute_timeout() {
    let a = anon(PAGE);
    for (clock, flag) in [(CLOCK_MONOTONIC, 0), (CLOCK_REALTIME, REALTIME)] {
        let mut ts: timespec = zero();
        sys!(SYS_clock_gettime, clock, &mut ts).unwrap();
        let at = std::ptr::from_ref(&ts) as usize;
        assert_eq!(futex(a, WAIT_BITSET | flag, 0, at, 0, u32::MAX), Err(ETIMEDOUT));
        ts.tv_nsec += 40_000_000;
        ts.tv_sec += ts.tv_nsec / 1_000_000_000;
        ts.tv_nsec %= 1_000_000_000;
        assert_eq!(futex(a, WAIT_BITSET | flag, 0, at, 0, u32::MAX), Err(ETIMEDOUT));
        let mut now: timespec = zero();
        sys!(SYS_clock_gettime, clock, &mut now).unwrap();
        assert!((now.tv_sec, now.tv_nsec) >= (ts.tv_sec, ts.tv_nsec), "it woke early");
    }
}

fn wakes_as_many_as_asked() {
    let a = shared(PAGE);
    let kids = sleepers(a, 4);
    assert_eq!(wake(a, 1), 1);
    assert_eq!(wake(a, 2), 2);
    assert_eq!(wake(a, u32::MAX >> 1), 1);
    assert_eq!(wake(a, 10), 0);
    kids.into_iter().for_each(Child::ok);
}

fn shared_key_is_the_page_not_the_address() {
    let fd = sys!(SYS_memfd_create, c"f", 0).unwrap() as i32;
    sys!(SYS_ftruncate, fd, PAGE).unwrap();
    let a = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    let b = map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd).unwrap();
    let kids = sleepers(a + 64, 1);
    assert_eq!(wake(a, 1), 0);
    assert_eq!(wake(b + 64, 1), 1);
    kids[0].ok();
}

fn private_memory_is_not_shared_with_a_child() {
    let a = anon(PAGE);
    let c = child(|| {
        let ts = ms(150);
        assert_eq!(futex(a, WAIT, 0, std::ptr::from_ref(&ts) as usize, 0, 0), Err(ETIMEDOUT));
    });
    wait_state(c.0, "S");
    assert_eq!(wake(a, 1), 0);
    c.ok();
}

fn requeue_moves_waiters() {
    let a = shared(PAGE);
    let b = a + 128;
    let kids = sleepers(a, 3);
    assert_eq!(futex(a, CMP_REQUEUE, 1, 10, b, 7), Err(EAGAIN));
    assert_eq!(futex(a, CMP_REQUEUE, 1, 10, b, 0), Ok(3));
    assert_eq!((wake(a, 10), wake(b, 10)), (0, 2));
    kids.into_iter().for_each(Child::ok);
    let kids = sleepers(a, 2);
    assert_eq!(futex(a, REQUEUE, 0, 1, b, 0), Ok(1));
    assert_eq!((wake(b, 10), wake(a, 10)), (1, 1));
    kids.into_iter().for_each(Child::ok);
    assert_eq!(futex(a, CMP_REQUEUE, u32::MAX, 0, b, 0), Err(EINVAL));
}

fn bitsets_select() {
    let a = shared(PAGE);
    let kids: Vec<_> =
        [1u32, 2].map(|bits| child(move || ignore(futex(a, WAIT_BITSET, 0, 0, 0, bits).unwrap()))).into();
    for k in &kids {
        wait_state(k.0, "S");
    }
    settle();
    assert_eq!(futex(a, WAKE_BITSET, 10, 0, 0, 4), Ok(0));
    assert_eq!(futex(a, WAKE_BITSET, 10, 0, 0, 2), Ok(1));
    kids[1].ok();
    assert_eq!(wake(a, 10), 1);
    kids[0].ok();
}

fn wake_op_changes_and_wakes() {
    let a = shared(PAGE);
    let b = a + 64;
    let kids = sleepers(a, 1);
    atomic(b).store(5, SeqCst);
    // FUTEX_OP_ADD 3; wake b's waiters if the old value == 5
    let op = 1 << 28 | 3 << 12 | 5;
    assert_eq!(futex(a, WAKE_OP, 1, 1, b, op), Ok(1));
    assert_eq!(atomic(b).load(SeqCst), 8);
    kids[0].ok();
    assert_eq!(futex(a, WAKE_OP, 1, 1, b, 15 << 28), Err(ENOSYS));
}

fn signal_interrupts_and_restarts() {
    let a = shared(PAGE);
    on_signal(SIGUSR1, 0, count);
    let me = getpid();
    let poke_me = || {
        child(|| {
            settle();
            sys!(SYS_kill, me, SIGUSR1).unwrap();
            settle();
            atomic(a).store(1, SeqCst);
            wake(a, 1);
        })
    };
    let c = poke_me();
    assert_eq!(futex(a, WAIT, 0, 0, 0, 0), Err(EINTR));
    c.ok();
    atomic(a).store(0, SeqCst);
    on_signal(SIGUSR1, SA_RESTART, count);
    let c = poke_me();
    assert_eq!(futex(a, WAIT, 0, 0, 0, 0), Ok(0));
    c.ok();
    assert_eq!(seen(), 2);
}

fn ping_pong() {
    let a = shared(PAGE);
    let turn = |mine: u32, other: u32| {
        for _ in 0..500 {
            while atomic(a).load(SeqCst) != mine {
                let _ = futex(a, WAIT, other, 0, 0, 0);
            }
            atomic(a).store(other, SeqCst);
            wake(a, 1);
        }
    };
    let c = child(|| turn(1, 0));
    turn(0, 1);
    c.ok();
}

fn robust_list_marks_the_dead_owner() {
    let a = shared(PAGE);
    // list head: next, offset of the futex word in an entry, pending entry
    let c = child(|| {
        let entry = a + 256;
        let head = [entry, 16, 0usize];
        let write_word = |at: usize, v: usize| {
            for (i, b) in v.to_ne_bytes().into_iter().enumerate() {
                poke(at + i, b);
            }
        };
        write_word(entry, std::ptr::from_ref(&head) as usize);
        atomic(entry + 16).store(gettid() as u32, SeqCst);
        sys!(SYS_set_robust_list, &head, 24).unwrap();
        let (mut got, mut len) = (0usize, 0usize);
        sys!(SYS_get_robust_list, 0, &mut got, &mut len).unwrap();
        assert_eq!((got, len), (std::ptr::from_ref(&head) as usize, 24));
        exit(0);
    });
    c.ok();
    assert_eq!(atomic(a + 256 + 16).load(SeqCst), 0x4000_0000, "FUTEX_OWNER_DIED");
    assert_eq!(sys!(SYS_set_robust_list, 0, 23), Err(EINVAL));
    assert_eq!(sys!(SYS_get_robust_list, 0x3fff_fff0, a, a), Err(ESRCH));
}

fn robust_list_garbage_is_harmless() {
    for head in [8usize, BAD, anon(PAGE)] {
        aside(|| ignore(sys!(SYS_set_robust_list, head, 24).unwrap()));
    }
    aside(|| {
        let mut head = [0usize, 0, 0];
        head[0] = std::ptr::from_ref(&head) as usize + 8;
        head[1] = usize::MAX / 2;
        head[2] = 0x7fff_ffff_f000;
        sys!(SYS_set_robust_list, &head, 24).unwrap();
        exit(0);
    });
}

fn waitv() {
    let a = shared(PAGE);
    // struct futex_waitv: val, uaddr, flags, reserved
    let flags = 2u64;
    let list = [0u64, a as u64, flags, 0, a as u64 + 64, flags];
    let now = |plus: i64| {
        let mut ts: timespec = zero();
        sys!(SYS_clock_gettime, CLOCK_MONOTONIC, &mut ts).unwrap();
        ts.tv_sec += plus;
        ts
    };
    assert_eq!(sys!(SYS_futex_waitv, &list, 2, 0, &now(0), CLOCK_MONOTONIC), Err(ETIMEDOUT));
    let c = child(|| {
        settle();
        settle();
        wake(a + 64, 1);
    });
    assert_eq!(sys!(SYS_futex_waitv, &list, 2, 0, &now(5), CLOCK_MONOTONIC), Ok(1));
    c.ok();
    assert_eq!(sys!(SYS_futex_waitv, &list, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(sys!(SYS_futex_waitv, &list, 129, 0, 0, 0), Err(EINVAL));
}

fn put(at: usize, value: u32) {
    atomic(at).store(value, SeqCst);
}

fn value(at: usize) -> u32 {
    atomic(at).load(SeqCst)
}

fn robust_unlock() {
    const ROBUST_UNLOCK: i32 = 512;
    const LIST32: i32 = 1024;
    const WAKE_BITSET: i32 = 10;
    const UNLOCK_PI: i32 = 7;
    let at = shared(PAGE);
    let slot = at + 64;
    let fill = |word: u32| {
        put(at, word);
        put(slot, 0x3333_4444);
        put(slot + 4, 0x1111_2222);
    };
    let mine = gettid() as u32 | 0x8000_0000;
    for op in [WAKE, WAKE_BITSET, UNLOCK_PI] {
        for (flags, left) in [(ROBUST_UNLOCK, 0), (ROBUST_UNLOCK | LIST32, 0x1111_2222)] {
            fill(mine);
            assert_eq!(sys!(SYS_futex, at, op | flags, 1, 0, slot, -1), Ok(0), "{op} {flags}");
            assert_eq!((value(at), value(slot), value(slot + 4)), (0, 0, left), "{op} {flags}");
        }
    }
    fill(mine);
    let c = child(|| {
        assert_eq!(sys!(SYS_futex, at, WAIT, mine, 0, 0, 0), Ok(0));
    });
    nap(50);
    while sys!(SYS_futex, at, WAKE | ROBUST_UNLOCK, 1, 0, slot, 0) == Ok(0) {
        put(at, mine);
        nap(5);
    }
    c.ok();
    assert_eq!(sys!(SYS_futex, at, WAIT | ROBUST_UNLOCK, 0, 0, slot, 0), Err(ENOSYS));
    fill(1);
    assert_eq!(sys!(SYS_futex, at, UNLOCK_PI | ROBUST_UNLOCK, 0, 0, slot, 0), Err(EPERM));
    assert_eq!(value(slot), 0x3333_4444);
    assert_eq!(sys!(SYS_futex, at, WAKE | ROBUST_UNLOCK, 1, 0, BAD, 0), Err(EFAULT));
}

fn words_with_a_node() {
    const SYS_FUTEX_WAKE: c_long = 454;
    const SYS_FUTEX_WAIT: c_long = 455;
    const FLAGS: i32 = 2 | 4 | 128;
    let at = anon(PAGE);
    let wake = |at: usize, flags: i32| sys!(SYS_FUTEX_WAKE, at, -1i64 as u32, 1, flags);
    put(at + 4, u32::MAX);
    assert_eq!(wake(at, FLAGS), Ok(0));
    assert_eq!(value(at + 4), 0, "the node was filled in");
    assert_eq!(wake(at, FLAGS | 8), Ok(0));
    assert_eq!(wake(at + 4, FLAGS), Err(EINVAL));
    assert_eq!(wake(at + 4, FLAGS & !4), Ok(0));
    put(at + 4, 999);
    assert_eq!(wake(at, FLAGS), Err(EINVAL), "no such node");
    assert_eq!(wake(at, FLAGS | 64), Err(EINVAL));
    put(at + 4, 0);
    assert_eq!(sys!(SYS_FUTEX_WAIT, at, 1, -1i64 as u32, FLAGS, 0, 0), Err(EAGAIN));
}

/// `PR_FUTEX_HASH` of prctl(2), its commands, and how a Linux before 6.17 answers.
fn hash(command: i32, slots: usize, flags: usize) -> Result<usize, Errno> {
    const PR_FUTEX_HASH: i32 = 78;
    sys!(SYS_prctl, PR_FUTEX_HASH, command, slots, flags)
}

fn own_hash_table() {
    const SET: i32 = 1;
    const GET: i32 = 2;
    match hash(GET, 0, 0) {
        Err(EINVAL) => skip("no tables of processes"),
        slots => assert_eq!(slots, Ok(0), "one thread needs none"),
    }
    let word: &AtomicU32 = Box::leak(Box::default());
    let at = std::ptr::from_ref(word) as usize;
    let sleeper = std::thread::spawn(move || {
        while word.load(SeqCst) == 0 {
            ignore(futex(at, WAIT | PRIVATE, 0, 0, 0, 0));
        }
    });
    assert_eq!(hash(GET, 0, 0), Ok(16), "it came with the second thread");
    for bad in [1, 3, 15] {
        assert_eq!(hash(SET, bad, 0), Err(EINVAL));
    }
    assert_eq!(hash(SET, 4, 1), Err(EINVAL), "there are no flags");
    assert_eq!(hash(3, 0, 0), Err(EINVAL));
    assert_eq!(hash(SET, 1 << 29, 0), Err(ENOMEM));
    // Waiters come along, and what was asked for stays.
    assert_eq!(hash(SET, 2, 0), Ok(0));
    std::thread::spawn(|| ()).join().unwrap();
    assert_eq!(hash(GET, 0, 0), Ok(2));
    child(|| assert_eq!(hash(GET, 0, 0), Ok(0), "a child of fork has none")).ok();
    word.store(1, SeqCst);
    futex(at, WAKE | PRIVATE, 1, 0, 0, 0).unwrap();
    sleeper.join().unwrap();
    assert_eq!(hash(SET, 0, 0), Ok(0));
    assert_eq!((hash(GET, 0, 0), hash(SET, 4, 0)), (Ok(0), Err(EBUSY)), "the table for all is for good");
    std::thread::spawn(|| ()).join().unwrap();
    assert_eq!(hash(GET, 0, 0), Ok(0));
}
