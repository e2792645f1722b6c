//! Tests of the scheduler that need the real machine: `--features schedtest` makes a kernel that runs them on
//! all its CPUs and powers off. The report is KTAP.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hal::cpu::{CpuId, CpuMask};
use hal::klog::{self, Level};
use hal::time::now_ns;
use hal::trap::{self, Access, Exception, Oops, Upcalls, UserRegs};
use sched::{Attributes, Completion, Interruptible, Mutex, Policy, RwSem, Semaphore, Timer, WaitQueue};

const MS: u64 = 1_000_000;

struct Floors;

impl Upcalls for Floors {
    fn syscall(&self, _regs: &mut UserRegs) {}

    fn page_fault(&self, _: hal::UserAddr, _: Access, _: Option<&mut UserRegs>) -> Result<(), ()> {
        Err(())
    }

    fn user_exception(&self, _: Exception, _: &mut UserRegs) {}

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

    fn oops(&self, oops: &Oops<'_>) {
        klog::print(Level::Error, format_args!("# oops: {}", oops.message));
    }
}

static TEST_NO: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

fn check(name: &str, passed: bool) {
    let number = TEST_NO.fetch_add(1, Ordering::Relaxed) + 1;
    if !passed {
        FAILED.store(true, Ordering::Relaxed);
    }
    klog::print(Level::Info, format_args!("{}ok {number} {name}", if passed { "" } else { "not " }));
}

/// Runs the tests; hal calls it on the boot CPU.
pub fn main() -> ! {
    trap::register(&Floors);
    let cpus = hal::smp::start_all(hal::cpu::MAX_CPUS, || sched::run_idle());
    klog::print(Level::Info, format_args!("# {cpus} CPUs"));
    if sched::spawn("tests", tests).is_err() {
        hal::power::power_off();
    }
    sched::run_idle()
}

/// Prints what one call of `f` takes; exact under -icount.
fn cost(name: &str, mut f: impl FnMut()) {
    const ROUNDS: u64 = 1000;
    let start = now_ns();
    for _ in 0..ROUNDS {
        f();
    }
    klog::print(Level::Info, format_args!("# {name}: {} ns", (now_ns() - start) / ROUNDS));
}

fn costs() {
    cost("now_ns", || {
        core::hint::black_box(now_ns());
    });
    let queue = WaitQueue::new();
    cost("wake without waiters", || queue.wake_all());
    let lock = hal::sync::SpinLock::new("test.spin", 0);
    cost("spin lock", || *core::hint::black_box(&lock).lock() += 1);
    let lock = hal::sync::IrqLock::new("test.irq", 0);
    cost("irq lock", || *core::hint::black_box(&lock).lock() += 1);
    let lock = Mutex::new("test.mutex", 0);
    cost("mutex", || *core::hint::black_box(&lock).lock() += 1);
    cost("current", || {
        core::hint::black_box(sched::current().id());
    });
    cost("yield, alone", sched::yield_now);
    let stop = Arc::new(AtomicBool::new(false));
    let theirs = stop.clone();
    spawn(move || {
        while !theirs.load(Ordering::Relaxed) {
            sched::yield_now();
        }
    });
    cost("yield to another and back", sched::yield_now);
    stop.store(true, Ordering::Relaxed);
    sched::yield_now();
    cost("alarm", || {
        let _late = queue.wait_deadline(|| None::<()>, Some(0), Interruptible::Yes);
    });
}

fn tests() {
    costs();
    ping_pong();
    many_threads();
    sleeping();
    mutex();
    rwsem();
    affinity();
    sharing();
    realtime();
    timers();
    rcu();
    ends();
    let total = TEST_NO.load(Ordering::Relaxed);
    klog::print(Level::Info, format_args!("1..{total}"));
    let verdict = if FAILED.load(Ordering::Relaxed) { "FAILED" } else { "passed" };
    klog::print(Level::Info, format_args!("# {verdict}"));
    hal::power::power_off()
}

fn spawn(f: impl FnOnce() + Send + 'static) -> Arc<sched::Thread> {
    sched::spawn("test", f).expect("memory for a thread")
}

fn ping_pong() {
    const ROUNDS: u32 = 10_000;
    struct Ball {
        side: AtomicU32,
        moved: [WaitQueue; 2],
    }
    fn play(ball: &Ball, me: u32) {
        for round in 0..ROUNDS {
            let turn = round * 2 + me;
            ball.moved[me as usize].wait(|| (ball.side.load(Ordering::SeqCst) == turn).then_some(()));
            ball.side.store(turn + 1, Ordering::SeqCst);
            ball.moved[1 - me as usize].wake_all();
        }
    }
    let ball = Arc::new(Ball { side: AtomicU32::new(0), moved: [WaitQueue::new(), WaitQueue::new()] });
    let theirs = ball.clone();
    let start = now_ns();
    spawn(move || play(&theirs, 1));
    play(&ball, 0);
    ball.moved[0].wait(|| (ball.side.load(Ordering::SeqCst) == 2 * ROUNDS).then_some(()));
    let per_switch = (now_ns() - start) / u64::from(2 * ROUNDS);
    check("two threads pass a ball", true);
    klog::print(Level::Info, format_args!("# {per_switch} ns per wake-up and switch"));
}

fn many_threads() {
    const THREADS: usize = 500;
    let free = hal::frame::stats().free;
    for round in 0..3 {
        let done = Arc::new(Semaphore::new(0));
        for _ in 0..THREADS {
            let done = done.clone();
            spawn(move || {
                sched::yield_now();
                done.release();
            });
        }
        for _ in 0..THREADS {
            let _never = done.acquire(Interruptible::No);
        }
        // Others reap the dead when they switch.
        let lost = || free.saturating_sub(hal::frame::stats().free);
        let end = now_ns() + 2000 * MS;
        while lost() >= 600 && now_ns() < end {
            let _slept = sched::sleep_until(now_ns() + 10 * MS, Interruptible::No);
            // Stacks beyond those kept for reuse are freed when a thread is made.
            spawn(|| {});
        }
        let lost = lost();
        klog::print(Level::Info, format_args!("# round {round}: {lost} pages not free"));
        if round == 2 {
            check("dead threads give their memory back", lost < 600);
        }
    }
}

fn sleeping() {
    let mut worst = 0;
    for _ in 0..20 {
        let deadline = now_ns() + 2 * MS;
        let _slept = sched::sleep_until(deadline, Interruptible::No);
        worst = worst.max(now_ns().saturating_sub(deadline));
    }
    klog::print(Level::Info, format_args!("# woke at most {} us late", worst / 1000));
    check("sleeps end in time", worst < 50 * MS);
}

fn in_threads(n: usize, f: impl Fn(usize) + Send + Sync + 'static) {
    let done = Arc::new(Semaphore::new(0));
    let f = Arc::new(f);
    for i in 0..n {
        let (f, done) = (f.clone(), done.clone());
        spawn(move || {
            f(i);
            done.release();
        });
    }
    for _ in 0..n {
        let _never = done.acquire(Interruptible::No);
    }
}

fn mutex() {
    let value = Arc::new(Mutex::new("test.value", 0u64));
    let theirs = value.clone();
    in_threads(8, move |_| {
        for i in 0..2000 {
            let mut guard = theirs.lock();
            let old = *guard;
            if i % 64 == 0 {
                sched::yield_now();
            }
            *guard = old + 1;
        }
    });
    check("a mutex excludes", *value.lock() == 16_000);
}

fn rwsem() {
    let value = Arc::new(RwSem::new("test.rw", (0u64, 0u64)));
    let theirs = value.clone();
    let torn = Arc::new(AtomicBool::new(false));
    let seen = torn.clone();
    in_threads(6, move |id| {
        for i in 0..1000 {
            if id < 2 {
                let mut guard = theirs.write();
                guard.0 += 1;
                if i % 50 == 0 {
                    sched::yield_now();
                }
                guard.1 += 1;
            } else {
                let guard = theirs.read();
                if guard.0 != guard.1 {
                    seen.store(true, Ordering::Relaxed);
                }
                if i % 50 == 0 {
                    sched::yield_now();
                }
            }
        }
    });
    check("readers never see half a write", !torn.load(Ordering::Relaxed) && value.read().0 == 2000);
}

fn affinity() {
    let cpus = hal::cpu::nr_cpus() as u32;
    let me = sched::current().arc();
    let mut right = true;
    for round in 0..50 {
        let cpu = CpuId(round % cpus);
        right &= me.set_affinity(CpuMask::single(cpu)).is_ok();
        right &= hal::cpu::raw_current_id() == cpu;
    }
    let _all = me.set_affinity(CpuMask::ALL);
    check("a thread moves to where it must run", right);
}

fn spin_ns(ns: u64) {
    let end = now_ns() + ns;
    while now_ns() < end {
        core::hint::spin_loop();
    }
}

fn sharing() {
    let cpus = hal::cpu::nr_cpus();
    let stop = Arc::new(AtomicBool::new(false));
    let hogs: Vec<_> = (0..2 * cpus)
        .map(|_| {
            let stop = stop.clone();
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            })
        })
        .collect();
    let _slept = sched::sleep_until(now_ns() + 400 * MS, Interruptible::No);
    let times: Vec<u64> = hogs.iter().map(|t| t.cpu_times().total_ns() / MS).collect();
    stop.store(true, Ordering::Relaxed);
    klog::print(Level::Info, format_args!("# {times:?} ms of 200 each"));
    check("equal threads share the CPUs", times.iter().all(|&t| t > 80));
}

fn realtime() {
    let order = Arc::new(Mutex::new("test.order", Vec::new()));
    let done = Arc::new(Semaphore::new(0));
    let go = Arc::new(Completion::new());
    for (id, priority) in [(1, 10u8), (2, 50), (3, 0)] {
        let (order, done, go) = (order.clone(), done.clone(), go.clone());
        let thread = sched::new_kernel_thread("rt", move || {
            go.wait();
            spin_ns(5 * MS);
            order.lock().push(id);
            done.release();
        })
        .expect("memory for a thread");
        let _one = thread.set_affinity(CpuMask::single(CpuId::BOOT));
        if priority > 0 {
            thread.set_attributes(Attributes { policy: Policy::Fifo, priority, ..Attributes::NORMAL });
        }
        sched::start(&thread, sched::Placement::Fork);
    }
    let _slept = sched::sleep_until(now_ns() + 10 * MS, Interruptible::No);
    go.complete();
    for _ in 0..3 {
        let _never = done.acquire(Interruptible::No);
    }
    check("higher priorities come first", *order.lock() == [2, 1, 3]);
}

fn timers() {
    let fired = Arc::new(AtomicU64::new(0));
    let timers: Vec<Timer> = (0..100)
        .map(|_| {
            let fired = fired.clone();
            Timer::new(Arc::new(move || {
                fired.fetch_add(1, Ordering::Relaxed);
            }))
        })
        .collect();
    let now = now_ns();
    for (i, timer) in timers.iter().enumerate() {
        timer.start(now + 30 * MS + (i as u64 * 7919 % 100) * MS / 5);
    }
    for timer in timers.iter().step_by(2) {
        timer.cancel();
    }
    let _slept = sched::sleep_until(now + 80 * MS, Interruptible::No);
    check("timers fire unless cancelled", fired.load(Ordering::Relaxed) == 50);
}

fn rcu() {
    let called = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        let called = called.clone();
        hal::rcu::call(Box::new(move || {
            called.fetch_add(1, Ordering::Relaxed);
        }));
    }
    let start = now_ns();
    for _ in 0..10 {
        sched::workqueue::synchronize_rcu();
    }
    klog::print(Level::Info, format_args!("# {} us per grace period", (now_ns() - start) / 10_000));
    check("grace periods end", called.load(Ordering::Relaxed) == 100);
}

fn ends() {
    struct Tell(Arc<AtomicBool>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let tell = Tell(dropped.clone());
    spawn(move || {
        let _tell = tell;
        panic!("on purpose");
    });
    let _slept = sched::sleep_until(now_ns() + 50 * MS, Interruptible::No);
    check("a panic ends its thread only, and unwinds", dropped.load(Ordering::SeqCst));
}
