//! Threads that really wait, on the hosted machine; user memory is a real address space.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use abi::Errno;
use abi::mman::{MapFlags, Prot};
use hal::trap::{self, Access, UserRegs};
use hal::{UserAddr, user};
use mm::{MapRequest, Mm};

use crate::{
    MATCH_ANY, Scope, Two, WaitError, Word, cmp_requeue, exit_robust_list, grow_for_thread, own_slots,
    set_own_slots, wait, wait_multiple, wake, wake_op,
};

/// The floors above hal, as far as these tests need them.
struct Machine;

impl trap::Upcalls for Machine {
    fn syscall(&self, _: &mut UserRegs) {}
    fn page_fault(&self, addr: UserAddr, access: Access, _: Option<&mut UserRegs>) -> Result<(), ()> {
        let table = hal::thread::current().page_table().ok_or(())?;
        let mut found = None;
        mm::registry::for_each(|mm| {
            if Arc::ptr_eq(mm.page_table(), &table) {
                found = Some(mm.clone());
            }
        });
        found.ok_or(())?.handle_fault(addr, access).map(drop).map_err(drop)
    }
    fn user_exception(&self, _: trap::Exception, _: &mut UserRegs) {}
    fn exit_to_user(&self, _: &mut UserRegs) {}
    fn timer_interrupt(&self) {
        sched::timer_interrupt();
    }
    fn reschedule_ipi(&self) {
        sched::reschedule_ipi();
    }
    fn thread_started(&self, prev: Arc<hal::thread::Thread>) {
        sched::thread_started(prev);
    }
    fn thread_exit(&self) -> ! {
        sched::exit_thread()
    }
    fn oops(&self, oops: &trap::Oops<'_>) {
        std::eprintln!("{}", oops.message);
    }
}

/// One test at a time: they share the simulated CPUs.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// An address space with one page at the returned address, loaded for this thread.
fn memory(flags: MapFlags) -> (Arc<Mm>, UserAddr) {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| trap::register(&Machine));
    let mm = Mm::new().unwrap();
    let request = MapRequest {
        flags: flags | MapFlags::ANONYMOUS,
        ..MapRequest::anonymous(8192, Prot::READ | Prot::WRITE)
    };
    let at = mm.map(request).unwrap();
    hal::thread::current().set_page_table(Some(mm.page_table().clone()));
    (mm, UserAddr(at))
}

/// Starts a thread that waits on `addr` and then counts itself.
fn waiter(mm: &Arc<Mm>, addr: UserAddr, scope: Scope, bitset: u32, done: &Arc<AtomicUsize>) {
    let (mm, done) = (mm.clone(), done.clone());
    let run = move || {
        hal::thread::current().set_page_table(Some(mm.page_table().clone()));
        assert_eq!(wait(&mm, addr, scope, 0, bitset, None), Ok(()));
        done.fetch_add(1, Ordering::SeqCst);
    };
    sched::spawn("waiter", run).unwrap();
}

fn until(mut cond: impl FnMut() -> bool) {
    let start = Instant::now();
    while !cond() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
        sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No).unwrap();
    }
}

/// Wakes `max` once that many threads wait.
fn wake_exactly(mm: &Mm, addr: UserAddr, scope: Scope, max: usize, bitset: u32) {
    let mut woken = 0;
    until(|| {
        woken += wake(mm, addr, scope, max - woken, bitset).unwrap();
        woken == max
    });
}

#[test]
fn a_changed_word_or_a_bad_address_does_not_wait() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let try_wait = |addr, value| wait(&mm, addr, Scope::Private, value, MATCH_ANY, None);
    assert_eq!(try_wait(at, 1), Err(WaitError::Errno(Errno::EAGAIN)));
    assert_eq!(try_wait(at.add(2), 0), Err(WaitError::Errno(Errno::EINVAL)));
    assert_eq!(try_wait(UserAddr(0x1000), 0), Err(WaitError::Errno(Errno::EFAULT)));
    assert_eq!(try_wait(UserAddr(u64::MAX - 3), 0), Err(WaitError::Errno(Errno::EFAULT)));
    assert_eq!(wake(&mm, at, Scope::Private, 1, 0), Err(Errno::EINVAL));
    assert_eq!(wake(&mm, at, Scope::Private, 1, MATCH_ANY), Ok(0));
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let deadline = hal::time::now_ns() + 5_000_000;
    let result = wait(&mm, at, Scope::Private, 0, MATCH_ANY, Some(deadline));
    assert_eq!(result, Err(WaitError::Errno(Errno::ETIMEDOUT)));
    assert!(hal::time::now_ns() >= deadline);
    assert_eq!(wake(&mm, at, Scope::Private, 1, MATCH_ANY), Ok(0), "nobody was left behind");
}

#[test]
fn waiters_are_woken_by_number_and_bitset() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let (low, high) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..3 {
        waiter(&mm, at, Scope::Private, 1, &low);
        waiter(&mm, at, Scope::Private, 2, &high);
    }
    wake_exactly(&mm, at, Scope::Private, 3, 2);
    until(|| high.load(Ordering::SeqCst) == 3);
    assert_eq!(low.load(Ordering::SeqCst), 0);
    wake_exactly(&mm, at, Scope::Private, 3, MATCH_ANY);
    until(|| low.load(Ordering::SeqCst) == 3);
}

#[test]
fn shared_words_reach_other_address_spaces() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::SHARED);
    let child = mm.fork().unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    waiter(&child, at, Scope::Shared, MATCH_ANY, &done);
    wake_exactly(&mm, at, Scope::Shared, 1, MATCH_ANY);
    until(|| done.load(Ordering::SeqCst) == 1);
}

#[test]
fn requeued_waiters_wait_on_the_other_word() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        waiter(&mm, at, Scope::Private, MATCH_ANY, &done);
    }
    let other = at.add(4096);
    let two = |nr_wake, nr_other| Two {
        from: at,
        to: other,
        scope: Scope::Private,
        to_scope: Scope::Private,
        nr_wake,
        nr_other,
    };
    assert_eq!(cmp_requeue(&mm, two(1, 9), 7), Err(Errno::EAGAIN));
    let mut moved = 0;
    until(|| {
        moved += cmp_requeue(&mm, two(usize::from(moved == 0), 9), 0).unwrap();
        moved == 4
    });
    until(|| done.load(Ordering::SeqCst) == 1);
    assert_eq!(wake(&mm, at, Scope::Private, 9, MATCH_ANY), Ok(0));
    assert_eq!(wake(&mm, other, Scope::Private, 9, MATCH_ANY), Ok(3));
    until(|| done.load(Ordering::SeqCst) == 4);
}

#[test]
fn wake_op_changes_the_second_word_and_compares_its_old_value() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let other = at.add(4096);
    let two =
        Two { from: at, to: other, scope: Scope::Private, to_scope: Scope::Private, nr_wake: 1, nr_other: 1 };
    user::write(other, &5u32).unwrap();
    // FUTEX_OP_ADD 3, FUTEX_OP_CMP_EQ 5
    assert_eq!(wake_op(&mm, two, 1 << 28 | 3 << 12 | 5), Ok(0));
    assert_eq!(user::load_u32(other), Ok(8));
    // FUTEX_OP_OR with shift: bit 4
    assert_eq!(wake_op(&mm, two, (2 | 8) << 28 | 4 << 12), Ok(0));
    assert_eq!(user::load_u32(other), Ok(24));
    assert_eq!(wake_op(&mm, two, 5 << 28), Err(Errno::ENOSYS));
}

#[test]
fn one_of_several_words_is_enough() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let words = [0, 64, 4096].map(|o| Word { addr: at.add(o), scope: Scope::Private, value: 0 });
    let deadline = Some(hal::time::now_ns() + 2_000_000);
    assert_eq!(wait_multiple(&mm, &words, deadline), Err(WaitError::Errno(Errno::ETIMEDOUT)));
    user::write(at.add(4096), &1u32).unwrap();
    assert_eq!(wait_multiple(&mm, &words, None), Err(WaitError::Errno(Errno::EAGAIN)));
    assert_eq!(wake(&mm, at, Scope::Private, 9, MATCH_ANY), Ok(0), "all were taken out");
    let (mm2, answer) = (mm.clone(), Arc::new(AtomicUsize::new(99)));
    let answer2 = answer.clone();
    sched::spawn("waiter", move || {
        hal::thread::current().set_page_table(Some(mm2.page_table().clone()));
        answer2.store(wait_multiple(&mm2, &words[..2], None).unwrap(), Ordering::SeqCst);
    })
    .unwrap();
    wake_exactly(&mm, at.add(64), Scope::Private, 1, MATCH_ANY);
    until(|| answer.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_dead_owner_is_marked_and_a_waiter_woken() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    // head at 0, one entry at 64 whose word is 16 bytes behind it.
    let (head, entry) = (at, at.add(64));
    user::write(head, &[entry.as_u64(), 16, 0]).unwrap();
    user::write(entry, &head.as_u64()).unwrap();
    let word = entry.add(16);
    user::write(word, &(0x8000_0000u32 | 77)).unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    exit_robust_list(&mm, head, 76);
    assert_eq!(user::load_u32(word), Ok(0x8000_0000 | 77), "somebody else's lock");
    let (mm2, done2) = (mm.clone(), done.clone());
    sched::spawn("waiter", move || {
        hal::thread::current().set_page_table(Some(mm2.page_table().clone()));
        let result = wait(&mm2, word, Scope::Private, 0x8000_0000 | 77, MATCH_ANY, None);
        assert!(matches!(result, Ok(()) | Err(WaitError::Errno(Errno::EAGAIN))));
        done2.fetch_add(1, Ordering::SeqCst);
    })
    .unwrap();
    exit_robust_list(&mm, head, 77);
    assert_eq!(user::load_u32(word), Ok(0xc000_0000));
    until(|| done.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_mutex_of_many_threads_loses_no_wake_up() {
    const ROUNDS: u32 = 300;
    const THREADS: usize = 4;
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let done = Arc::new(AtomicUsize::new(0));
    let counter = at.add(64);
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (mm, done) = (mm.clone(), done.clone());
            sched::spawn("locker", move || {
                hal::thread::current().set_page_table(Some(mm.page_table().clone()));
                for _ in 0..ROUNDS {
                    lock(&mm, at);
                    let n = user::read::<u32>(counter).unwrap();
                    user::write(counter, &(n + 1)).unwrap();
                    unlock(&mm, at);
                }
                done.fetch_add(1, Ordering::SeqCst);
            })
            .unwrap()
        })
        .collect();
    until(|| done.load(Ordering::SeqCst) == THREADS);
    drop(threads);
    assert_eq!(user::read::<u32>(counter), Ok(ROUNDS * THREADS as u32));
}

#[test]
fn waiters_go_along_when_the_table_changes() {
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let done = Arc::new(AtomicUsize::new(0));
    let listed = |n: usize| {
        let two = Two {
            from: at,
            to: at,
            scope: Scope::Private,
            to_scope: Scope::Private,
            nr_wake: 0,
            nr_other: usize::MAX,
        };
        until(|| cmp_requeue(&mm, two, 0).unwrap() == n);
    };
    assert_eq!(own_slots(&mm), 0);
    for (round, slots) in [16, 2, 64, 0].into_iter().enumerate() {
        waiter(&mm, at, Scope::Private, MATCH_ANY, &done);
        waiter(&mm, at.add(4), Scope::Private, MATCH_ANY, &done);
        listed(1);
        if round == 0 {
            grow_for_thread(&mm, 1).unwrap();
        } else {
            set_own_slots(&mm, slots).unwrap();
        }
        assert_eq!(own_slots(&mm), slots);
        wake_exactly(&mm, at, Scope::Private, 1, MATCH_ANY);
        wake_exactly(&mm, at.add(4), Scope::Private, 1, MATCH_ANY);
        until(|| done.load(Ordering::SeqCst) == 2 * (round + 1));
    }
    let deadline = hal::time::now_ns() + 1_000_000;
    let result = wait(&mm, at, Scope::Private, 0, MATCH_ANY, Some(deadline));
    assert_eq!(result, Err(WaitError::Errno(Errno::ETIMEDOUT)));
}

#[test]
fn a_table_has_a_power_of_two_and_none_is_for_good() {
    let _alone = alone();
    let (mm, _) = memory(MapFlags::PRIVATE);
    for bad in [1, 3, 15, usize::MAX] {
        assert_eq!(set_own_slots(&mm, bad), Err(Errno::EINVAL));
    }
    assert_eq!(set_own_slots(&mm, 1 << 29), Err(Errno::ENOMEM));
    set_own_slots(&mm, 4).unwrap();
    grow_for_thread(&mm, 100).unwrap();
    assert_eq!(own_slots(&mm), 4, "what was asked for stays");
    set_own_slots(&mm, 0).unwrap();
    assert_eq!(set_own_slots(&mm, 0), Err(Errno::EBUSY));
    grow_for_thread(&mm, 100).unwrap();
    assert_eq!(own_slots(&mm), 0);
}

#[test]
fn no_wake_up_is_lost_while_the_table_changes() {
    const ROUNDS: u32 = 300;
    const THREADS: usize = 3;
    let _alone = alone();
    let (mm, at) = memory(MapFlags::PRIVATE);
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..THREADS {
        let (mm, done) = (mm.clone(), done.clone());
        sched::spawn("locker", move || {
            hal::thread::current().set_page_table(Some(mm.page_table().clone()));
            for _ in 0..ROUNDS {
                lock(&mm, at);
                unlock(&mm, at);
            }
            done.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
    }
    let mut slots = 2;
    until(|| {
        set_own_slots(&mm, slots).unwrap();
        slots = if slots == 64 { 2 } else { slots * 2 };
        done.load(Ordering::SeqCst) == THREADS
    });
}

/// The usual lock: 0 free, 1 held, 2 held and waited for.
fn lock(mm: &Mm, at: UserAddr) {
    if user::cmpxchg_u32(at, 0, 1) == Ok(0) {
        return;
    }
    loop {
        let seen = user::load_u32(at).unwrap();
        if seen == 0 {
            if user::cmpxchg_u32(at, 0, 2) == Ok(0) {
                return;
            }
        } else if seen == 2 || user::cmpxchg_u32(at, 1, 2) == Ok(1) {
            let _ = wait(mm, at, Scope::Private, 2, MATCH_ANY, None);
        }
    }
}

fn unlock(mm: &Mm, at: UserAddr) {
    let old = if user::cmpxchg_u32(at, 1, 0) == Ok(1) { 1 } else { user::cmpxchg_u32(at, 2, 0).unwrap() };
    if old == 2 {
        wake(mm, at, Scope::Private, 1, MATCH_ANY).unwrap();
    }
}
