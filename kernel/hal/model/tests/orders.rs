//! Every order in which two or three CPUs can run the cores of hal's locks and of RCU.
//!
//! Unlike on x86, a load here may see an old value wherever the orderings in the code allow it.

use hal_model::protocol::{GracePeriod, OnceState, SeqCount, SpinBit, TryState, Turns, WaiterCount};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use loom::sync::{Arc, Mutex};
use loom::thread;

/// Adds 1 to a number that loom guards against unordered access.
fn add_one(number: &UnsafeCell<u32>) {
    // SAFETY: the caller excludes others; loom reports it if that is not so.
    number.with_mut(|n| unsafe { *n += 1 });
}

fn get(number: &UnsafeCell<u32>) -> u32 {
    // SAFETY: as above.
    number.with(|n| unsafe { *n })
}

struct Shared<S> {
    state: S,
    data: UnsafeCell<u32>,
}

// SAFETY: what the tests are about: `state` orders the accesses to `data`.
unsafe impl<S: Sync> Sync for Shared<S> {}
// SAFETY: as above.
unsafe impl<S: Send> Send for Shared<S> {}

fn shared<S>(state: S) -> Arc<Shared<S>> {
    Arc::new(Shared { state, data: UnsafeCell::new(0) })
}

#[test]
fn a_spinning_lock_excludes_and_publishes() {
    // By tries, and without a look at the bit in the end: loom lets a failed swap come after the unlock that it did not see.
    loom::model(|| {
        let lock = shared(SpinBit::new(AtomicBool::new(false)));
        let add = {
            let lock = lock.clone();
            move || {
                let is_ours = lock.state.try_lock();
                if is_ours {
                    add_one(&lock.data);
                    lock.state.unlock();
                }
                u32::from(is_ours)
            }
        };
        let others = [thread::spawn(add.clone()), thread::spawn(add.clone())];
        let added = add() + others.into_iter().map(|other| other.join().unwrap()).sum::<u32>();
        assert_eq!(get(&lock.data), added);
    });
}

#[test]
fn a_lock_with_turns_excludes_and_publishes() {
    loom::model(|| {
        let lock = shared(Turns::new(AtomicU32::new(0), AtomicU32::new(0)));
        let other = {
            let lock = lock.clone();
            thread::spawn(move || {
                lock.state.lock();
                add_one(&lock.data);
                lock.state.unlock();
            })
        };
        let is_ours = lock.state.try_lock();
        if is_ours {
            add_one(&lock.data);
            lock.state.unlock();
        }
        other.join().unwrap();
        assert_eq!(get(&lock.data), 1 + u32::from(is_ours));
        assert!(!lock.state.is_locked());
    });
}

#[test]
fn a_waiter_sees_the_condition_or_the_waker_sees_the_waiter() {
    loom::model(|| {
        struct Queue {
            count: WaiterCount,
            condition: AtomicBool,
        }
        let queue =
            Arc::new(Queue { count: WaiterCount::new(AtomicU32::new(0)), condition: AtomicBool::new(false) });
        let waiter = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.count.set(1);
                queue.count.entered();
                queue.condition.load(Relaxed)
            })
        };
        queue.condition.store(true, Relaxed);
        let sees_waiter = queue.count.is_any();
        assert!(waiter.join().unwrap() || sees_waiter, "it would sleep for ever");
    });
}

#[test]
fn a_sequence_lock_gives_no_torn_copy() {
    loom::model(|| {
        struct Pair {
            seq: SeqCount,
            halves: [AtomicUsize; 2],
        }
        let pair = Arc::new(Pair {
            seq: SeqCount::new(AtomicU32::new(0)),
            halves: [AtomicUsize::new(0), AtomicUsize::new(0)],
        });
        let writer = {
            let pair = pair.clone();
            thread::spawn(move || {
                for n in 1..=2 {
                    pair.seq.begin_write();
                    pair.halves.iter().for_each(|half| half.store(n, Relaxed));
                    pair.seq.end_write();
                }
            })
        };
        // One look: a retry would add orders, not cases.
        if let Some(seq) = pair.seq.begin_read() {
            let [a, b] = [0, 1].map(|i| pair.halves[i].load(Relaxed));
            if pair.seq.is_same(seq) {
                assert_eq!(a, b);
                assert_eq!(a, seq as usize / 2, "an older copy than the count promises");
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_value_is_made_once_and_whole() {
    loom::model(|| {
        let once = shared(OnceState::new(AtomicU8::new(0)));
        let made = Arc::new(AtomicUsize::new(0));
        let user = {
            let (once, made) = (once.clone(), made.clone());
            move || {
                while !once.state.is_ready() {
                    if once.state.try_begin() {
                        add_one(&once.data);
                        made.fetch_add(1, Relaxed);
                        once.state.finish();
                    } else {
                        hal_model::atomic::relax();
                    }
                }
                assert_eq!(get(&once.data), 1);
            }
        };
        let other = thread::spawn(user.clone());
        user();
        other.join().unwrap();
        assert_eq!(made.load(Relaxed), 1);
    });
}

#[test]
fn a_value_that_failed_is_made_by_the_next() {
    loom::model(|| {
        let once = shared(OnceState::new(AtomicU8::new(0)));
        let other = {
            let once = once.clone();
            thread::spawn(move || {
                if once.state.try_begin() {
                    add_one(&once.data);
                    once.state.give_up();
                }
            })
        };
        if once.state.try_begin() {
            add_one(&once.data);
            once.state.finish();
        }
        other.join().unwrap();
        assert!(once.state.is_ready() || once.state.try_begin());
        assert!((1..=2).contains(&get(&once.data)));
    });
}

/// An updater replaces a value and frees the old one after a grace period, as `hal::rcu` does.
struct Rcu {
    period: GracePeriod,
    /// Which of two values is current.
    current: AtomicUsize,
    /// Accesses to the first value: readers read, freeing writes.
    old: UnsafeCell<u32>,
    /// The lock of the queues: whether a grace period is going on.
    is_active: Mutex<bool>,
}

// SAFETY: as for `Shared`.
unsafe impl Sync for Rcu {}
// SAFETY: as for `Shared`.
unsafe impl Send for Rcu {}

/// The only CPU that reads.
const READER: u64 = 1 << 1;

impl Rcu {
    fn new(idle: u64) -> Arc<Self> {
        Arc::new(Rcu {
            period: GracePeriod::new(AtomicU64::new(0), AtomicU64::new(idle)),
            current: AtomicUsize::new(0),
            old: UnsafeCell::new(0),
            is_active: Mutex::new(false),
        })
    }

    /// A read section.
    fn read(&self) {
        if self.current.load(Acquire) == 0 {
            assert_eq!(get(&self.old), 0, "used after it was freed");
        }
    }

    fn quiescent(&self) {
        if self.period.waits_for(READER) && self.period.report(READER) {
            let mut is_active = self.is_active.lock().unwrap();
            if *is_active && self.period.is_over() {
                self.finish(&mut is_active);
            }
        }
    }

    fn finish(&self, is_active: &mut bool) {
        add_one(&self.old);
        *is_active = false;
    }

    fn enter_idle(&self) {
        self.period.enter_idle(READER);
        self.quiescent();
    }

    fn replace(&self) {
        self.current.store(1, Release);
        let mut is_active = self.is_active.lock().unwrap();
        *is_active = true;
        if self.period.start(READER) {
            self.finish(&mut is_active);
        }
    }

    /// Replaces the value while another CPU does `what`; then the old value must have been freed, once.
    fn race(idle: u64, what: fn(&Rcu)) {
        loom::model(move || {
            let rcu = Rcu::new(idle);
            let reader = {
                let rcu = rcu.clone();
                thread::spawn(move || what(&rcu))
            };
            rcu.replace();
            reader.join().unwrap();
            assert!(!*rcu.is_active.lock().unwrap(), "the grace period does not end");
            assert_eq!(get(&rcu.old), 1);
        });
    }
}

#[test]
fn a_grace_period_outlasts_running_sections() {
    Rcu::race(0, |rcu| {
        rcu.read();
        rcu.quiescent();
        rcu.read();
        // Whatever the first look missed, the CPU idles in the end.
        rcu.enter_idle();
    });
}

#[test]
fn a_grace_period_does_not_wait_for_a_cpu_that_goes_idle_meanwhile() {
    Rcu::race(0, Rcu::enter_idle);
}

#[test]
fn a_cpu_that_wakes_meanwhile_sees_the_new_value_or_is_waited_for() {
    Rcu::race(READER, |rcu| {
        rcu.period.leave_idle(READER);
        rcu.read();
        rcu.enter_idle();
    });
}

#[test]
fn a_sleeping_lock_loses_no_wake_up() {
    loom::model(|| {
        struct Sleeping {
            lock: Shared<TryState>,
            /// The wait queue: whether the waiter is queued, and whether it was woken.
            queue: Mutex<(bool, bool)>,
        }
        let all = Arc::new(Sleeping {
            lock: Shared { state: TryState::new(AtomicU32::new(0)), data: UnsafeCell::new(0) },
            queue: Mutex::new((false, false)),
        });
        let release = |all: &Sleeping| {
            if all.lock.state.release() {
                let mut queue = all.queue.lock().unwrap();
                queue.1 = queue.0;
            }
        };
        assert!(all.lock.state.try_take());
        let waiter = {
            let all = all.clone();
            thread::spawn(move || {
                if !all.lock.state.try_take() {
                    all.queue.lock().unwrap().0 = true;
                    while !all.lock.state.take_or_want() {
                        // Asleep until woken; a wake-up that never comes is a deadlock that loom reports.
                        while !core::mem::take(&mut all.queue.lock().unwrap().1) {
                            hal_model::atomic::relax();
                        }
                    }
                }
                add_one(&all.lock.data);
                release(&all);
            })
        };
        add_one(&all.lock.data);
        release(&all);
        waiter.join().unwrap();
        assert!(all.lock.state.try_take());
        assert_eq!(get(&all.lock.data), 2);
    });
}
