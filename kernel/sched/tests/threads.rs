//! The scheduler with real switches, on the hosted machine: each test is a machine of one CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hal::time::now_ns;
use sched::{
    Completion, Interrupted, Interruptible, Kill, Mutex, Observer, Poller, RwSem, Semaphore, Timer,
    WaitError, WaitQueue,
};

const MS: u64 = 1_000_000;

#[test]
fn a_spawned_thread_runs_when_its_maker_waits() {
    let done = Arc::new(Completion::new());
    let theirs = done.clone();
    sched::spawn("child", move || theirs.complete()).unwrap();
    done.wait();
    assert!(done.is_done());
}

#[test]
fn two_threads_take_turns_through_wait_queues() {
    struct Ball {
        side: AtomicU32,
        moved: WaitQueue,
    }
    const ROUNDS: u32 = 500;
    let ball = Arc::new(Ball { side: AtomicU32::new(0), moved: WaitQueue::new() });
    let theirs = ball.clone();
    let play = |ball: &Ball, me: u32| {
        for round in 0..ROUNDS {
            let turn = round * 2 + me;
            ball.moved.wait(|| (ball.side.load(Ordering::SeqCst) == turn).then_some(()));
            ball.side.store(turn + 1, Ordering::SeqCst);
            ball.moved.wake_all();
        }
    };
    sched::spawn("other", move || play(&theirs, 1)).unwrap();
    play(&ball, 0);
    ball.moved.wait(|| (ball.side.load(Ordering::SeqCst) == 2 * ROUNDS).then_some(()));
}

#[test]
fn a_sleep_ends_at_its_deadline() {
    let start = now_ns();
    sched::sleep_until(start + 20 * MS, Interruptible::No).unwrap();
    let slept = now_ns() - start;
    assert!(slept >= 20 * MS, "{slept}");
    assert!(slept < 2000 * MS, "{slept}");
}

#[test]
fn a_signal_ends_an_interruptible_wait_only() {
    let queue = Arc::new(WaitQueue::new());
    let result = Arc::new(AtomicUsize::new(0));
    let (theirs, out) = (queue.clone(), result.clone());
    let sleeper = sched::spawn("sleeper", move || {
        let ended = theirs.wait_interruptible(|| None::<()>);
        assert_eq!(ended, Err(Interrupted));
        sched::current().clear_signal();
        let kind = Interruptible::Killable;
        let ended = theirs.wait_deadline(|| None::<()>, None, kind);
        assert_eq!(ended, Err(WaitError::Interrupted));
        out.store(1, Ordering::SeqCst);
    })
    .unwrap();
    sched::yield_now();
    sleeper.notify_signal(Kill::No);
    sched::yield_now();
    sleeper.notify_signal(Kill::No);
    sched::yield_now();
    assert_eq!(result.load(Ordering::SeqCst), 0, "a mere signal does not end a killable wait");
    sleeper.notify_signal(Kill::Yes);
    while result.load(Ordering::SeqCst) == 0 {
        sched::yield_now();
    }
}

#[test]
fn a_wait_times_out() {
    let queue = WaitQueue::new();
    let ended = queue.wait_deadline(|| None::<()>, Some(now_ns() + 5 * MS), Interruptible::Yes);
    assert_eq!(ended, Err(WaitError::TimedOut));
}

#[test]
fn a_mutex_excludes_across_sleeps() {
    let counter = Arc::new(Mutex::new("test.counter", (0u32, false)));
    let done = Arc::new(Semaphore::new(0));
    for _ in 0..4 {
        let (counter, done) = (counter.clone(), done.clone());
        sched::spawn("adder", move || {
            for _ in 0..50 {
                let mut guard = counter.lock();
                assert!(!guard.1, "two holders");
                guard.1 = true;
                sched::yield_now();
                guard.0 += 1;
                guard.1 = false;
            }
            done.release();
        })
        .unwrap();
    }
    for _ in 0..4 {
        done.acquire(Interruptible::No).unwrap();
    }
    assert_eq!(counter.lock().0, 200);
}

#[test]
fn a_writer_gets_in_between_readers() {
    let sem = Arc::new(RwSem::new("test.rwsem", 0u32));
    let done = Arc::new(Semaphore::new(0));
    for writer in [false, true, false, true, false] {
        let (sem, done) = (sem.clone(), done.clone());
        sched::spawn("user", move || {
            for _ in 0..50 {
                if writer {
                    let mut guard = sem.write();
                    let before = *guard;
                    sched::yield_now();
                    *guard = before + 1;
                } else {
                    let guard = sem.read();
                    let before = *guard;
                    sched::yield_now();
                    assert_eq!(*guard, before);
                }
                sched::yield_now();
            }
            done.release();
        })
        .unwrap();
    }
    for _ in 0..5 {
        done.acquire(Interruptible::No).unwrap();
    }
    assert_eq!(*sem.read(), 100);
}

#[test]
fn writers_that_come_back_at_once_starve_nobody() {
    const ROUNDS: u32 = 1000;
    let sem = Arc::new(RwSem::new("test.rwsem.starved", 0u32));
    let stop = Arc::new(AtomicU32::new(0));
    let done = Arc::new(Semaphore::new(0));
    for _ in 0..3 {
        let (sem, stop, done) = (sem.clone(), stop.clone(), done.clone());
        sched::spawn("writer", move || {
            for _ in 0..ROUNDS {
                if stop.load(Ordering::SeqCst) != 0 {
                    break;
                }
                let mut guard = sem.write();
                // The others run only while the semaphore is taken.
                sched::yield_now();
                *guard += 1;
            }
            done.release();
        })
        .unwrap();
    }
    sched::yield_now();
    let reader = || *sem.read();
    let writer = || *sem.write();
    let seen = [reader(), writer(), reader()];
    stop.store(1, Ordering::SeqCst);
    for _ in 0..3 {
        done.acquire(Interruptible::No).unwrap();
    }
    assert!(seen.iter().all(|seen| *seen < ROUNDS), "{seen:?}");
}

#[test]
fn a_timer_fires_once_and_can_be_cancelled() {
    let fired = Arc::new(AtomicUsize::new(0));
    let theirs = fired.clone();
    let timer = Timer::new(Arc::new(move || {
        theirs.fetch_add(1, Ordering::SeqCst);
    }));
    timer.start(now_ns() + 2 * MS);
    sched::sleep_until(now_ns() + 10 * MS, Interruptible::No).unwrap();
    assert_eq!(fired.load(Ordering::SeqCst), 1);
    timer.start(now_ns() + 5 * MS);
    assert!(timer.cancel());
    sched::sleep_until(now_ns() + 10 * MS, Interruptible::No).unwrap();
    assert_eq!(fired.load(Ordering::SeqCst), 1);
}

#[test]
fn a_poller_is_woken_by_any_of_its_queues() {
    let queues = Arc::new([WaitQueue::new(), WaitQueue::new()]);
    let theirs = queues.clone();
    let mut poller = Poller::new();
    for queue in queues.iter() {
        poller.table().register(queue);
    }
    let timed_out = poller.wait(Some(now_ns() + 2 * MS), Interruptible::Yes);
    assert_eq!(timed_out, Err(WaitError::TimedOut));
    sched::spawn("writer", move || theirs[1].wake_all()).unwrap();
    poller.wait(None, Interruptible::Yes).unwrap();
    drop(poller);
    assert!(queues.iter().all(WaitQueue::is_unused));
}

#[test]
fn an_observer_hears_nothing_after_its_handle_is_gone() {
    struct Count(AtomicUsize);
    impl Observer for Count {
        fn notify(&self, events: u32) {
            self.0.fetch_add(events as usize, Ordering::SeqCst);
        }
    }
    let queue = WaitQueue::new();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let handle = queue.add_observer(count.clone());
    queue.wake_events(4);
    drop(handle);
    queue.wake_events(4);
    assert_eq!(count.0.load(Ordering::SeqCst), 4);
}

#[test]
fn one_exclusive_waiter_is_woken_at_a_time() {
    let queue = Arc::new(WaitQueue::new());
    let tickets = Arc::new(AtomicUsize::new(0));
    let passed = Arc::new(AtomicUsize::new(0));
    for _ in 0..5 {
        let (queue, tickets, passed) = (queue.clone(), tickets.clone(), passed.clone());
        sched::spawn("waiter", move || {
            let take = || tickets.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).ok();
            queue.wait_exclusive(take, None, Interruptible::No).unwrap();
            passed.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
    }
    for _ in 0..10 {
        sched::yield_now();
    }
    for n in 1..=5 {
        tickets.fetch_add(1, Ordering::SeqCst);
        assert_eq!(queue.wake(u32::MAX, 1), 1);
        for _ in 0..10 {
            sched::yield_now();
        }
        assert_eq!(passed.load(Ordering::SeqCst), n);
    }
}

#[test]
fn queued_work_runs() {
    let done = Arc::new(Semaphore::new(0));
    for _ in 0..20 {
        let done = done.clone();
        sched::workqueue::queue(Box::new(move || done.release()));
    }
    for _ in 0..20 {
        done.acquire(Interruptible::No).unwrap();
    }
}

#[test]
fn conditions_may_wait_themselves() {
    let outer = Arc::new(WaitQueue::new());
    let inner = Arc::new(Mutex::new("test.inner", 0u32));
    let (theirs, value) = (outer.clone(), inner.clone());
    sched::spawn("changer", move || {
        for _ in 0..20 {
            let mut guard = value.lock();
            sched::yield_now();
            *guard += 1;
            drop(guard);
            theirs.wake_all();
            sched::yield_now();
        }
    })
    .unwrap();
    outer.wait(|| (*inner.lock() == 20).then_some(()));
}

#[test]
fn what_atomic_context_gives_up_a_worker_drops() {
    struct Told(std::sync::mpsc::Sender<bool>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(hal::preempt::is_atomic());
        }
    }
    sched::workqueue::init();
    let (tell, told) = std::sync::mpsc::channel();
    for nr in 0..3 {
        let late =
            sched::workqueue::Late::from(std::sync::Arc::new(std::sync::Mutex::new(Told(tell.clone()))));
        let atomic = hal::preempt::disable();
        drop(late);
        assert!(told.try_recv().is_err(), "{nr}");
        drop(atomic);
        while told.try_recv().map(|is_atomic| assert!(!is_atomic)).is_err() {
            sched::sleep_until(hal::time::now_ns() + 1_000_000, sched::Interruptible::No).unwrap();
        }
    }
}
