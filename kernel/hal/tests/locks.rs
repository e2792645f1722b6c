//! Locks, the lock checker and RCU on the hosted machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hal::sync::{IrqLock, LazyLock, Once, RcuCell, SeqLock, SpinLock};
use hal::{preempt, rcu};

#[test]
fn a_spin_lock_excludes_host_threads() {
    let sum = Arc::new(SpinLock::new("test.sum", 0u64));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let sum = sum.clone();
            std::thread::spawn(move || {
                for _ in 0..10_000 {
                    *sum.lock() += 1;
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*sum.lock(), 40_000);
}

#[test]
fn guards_say_what_is_forbidden_while_they_live() {
    assert!(!preempt::is_atomic());
    let (spin, irq) = (SpinLock::new("test.spin", ()), IrqLock::new("test.irq", ()));
    let outer = spin.lock();
    assert!(preempt::is_atomic() && hal::irq::enabled());
    let inner = irq.lock();
    assert!(!hal::irq::enabled());
    drop(inner);
    drop(outer);
    assert!(!preempt::is_atomic());
}

#[cfg(debug_assertions)]
fn report(f: impl FnOnce()) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(()) => String::from("nothing"),
        Err(payload) => payload.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

#[cfg(debug_assertions)]
#[test]
fn an_order_that_closes_a_circle_is_reported() {
    let (a, b, c) = (SpinLock::new("test.a", ()), SpinLock::new("test.b", ()), SpinLock::new("test.c", ()));
    drop((a.lock(), b.lock()));
    drop((b.lock(), c.lock()));
    let text = report(|| {
        let _c = c.lock();
        let _a = a.lock();
    });
    assert!(text.contains("test.a") && text.contains("test.c"), "{text}");
}

#[cfg(debug_assertions)]
#[test]
fn taking_one_lock_twice_is_reported() {
    let lock = SpinLock::new("test.twice", ());
    let text = report(|| {
        let _first = lock.lock();
        let _second = lock.lock();
    });
    assert!(text.contains("taken twice"), "{text}");
}

#[test]
fn two_locks_of_one_class_are_no_circle() {
    let make = || SpinLock::new("test.same", ());
    let (a, b) = (make(), make());
    drop((a.lock(), b.lock()));
    drop((b.lock(), a.lock()));
}

#[test]
fn a_value_is_made_once() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    static LAZY: LazyLock<usize> = LazyLock::new(|| MADE.fetch_add(1, Ordering::SeqCst) + 41);
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| *LAZY)).collect();
    threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 41));
    assert_eq!(MADE.load(Ordering::SeqCst), 1);
    let once = Once::new();
    let failed = catch_unwind(AssertUnwindSafe(|| once.call_once(|| panic!("no value")) == &0));
    assert!(failed.is_err() && once.get().is_none());
    assert_eq!(once.call_once(|| 7), &7);
}

#[test]
fn a_sequence_lock_never_shows_half_a_write() {
    let lock = Arc::new(SeqLock::new("test.seq", [0u64; 4]));
    let theirs = lock.clone();
    let writer = std::thread::spawn(move || {
        for n in 1..20_000 {
            theirs.write(|value| *value = [n; 4]);
        }
    });
    while !writer.is_finished() {
        let [a, b, c, d] = lock.read();
        assert!(a == b && b == c && c == d);
    }
    writer.join().unwrap();
}

#[test]
fn an_old_version_lives_until_its_readers_are_gone() {
    struct Counted(u32, Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let cell = RcuCell::new(Box::new(Counted(1, drops.clone())));
    let guard = rcu::read_lock();
    let old = cell.get(&guard).unwrap();
    cell.set(Some(Box::new(Counted(2, drops.clone()))));
    rcu::process();
    assert_eq!((old.0, drops.load(Ordering::SeqCst)), (1, 0));
    assert_eq!(cell.get(&guard).unwrap().0, 2);
    drop(guard);
    // Other tests' CPUs are holdouts too; they are asked in vain, so only ours is checked.
    rcu::quiescent();
    assert!(!rcu::holdouts().contains(hal::cpu::raw_current_id()));
}
