//! Switching, waking and placing threads; the tick; what each CPU counts.
//!
//! # Locks
//!
//! Each CPU's run queue has an interrupt-safe lock, held for a few dozen instructions and never over a
//! switch. Two are held at once only by [`pull`], which *tries* the second. hal waits until the context of a
//! thread that was picked elsewhere is saved.
//!
//! ```text
//!   CPU 0: schedule() in A            CPU 1: wake(A)               CPU 2: schedule()
//!   lock rq0
//!   A.state = S|OFF_RQ  (1)
//!   pick B, unlock rq0                CAS S|OFF_RQ -> WAKING (2)
//!   ... still on A's stack            lock rq2, enqueue A, unlock
//!                                                                  pick A, unlock rq2
//!   switch_to(B): A.on_cpu = 0 (3)                                 switch_to(A): wait for (3)
//! ```
//! Such waits cannot form a circle: the section that picked A came after the one that took A out, so along a
//! chain of waiters the sections lie ever further back in time.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering, fence};

use hal::cpu::{self, CpuId, CpuMask};
use hal::percpu::PerCpu;
use hal::preempt::{self, PreemptGuard};
use hal::sync::IrqLock;
use hal::thread::Work;
use hal::{irq, rcu, time};

use crate::reaper;
use crate::rq::{Arrival, RunQueue, Slice};
use crate::rt::End;
use crate::stats::CpuCounters;
use crate::thread::{
    self, ASLEEP, DEAD, KILLABLE, Notices, OFF_RQ, Placement, RUNNING, Thread, UNINTERRUPTIBLE, WAKING,
};
use crate::timer::Timers;

/// Time between ticks of a CPU that is not idle.
const TICK_NS: u64 = 4_000_000;

/// The scheduler's part of one CPU.
pub(crate) struct Cpu {
    pub(crate) rq: IrqLock<RunQueue>,
    /// A copy of the queue's length for others to read without its lock.
    pub(crate) nr_running: AtomicUsize,
    pub(crate) timers: Timers,
    pub(crate) counters: CpuCounters,
    /// Next tick, `u64::MAX` while there is none.
    tick_ns: AtomicU64,
}

pub(crate) static CPUS: PerCpu<Cpu> = PerCpu::new(|_| Cpu {
    rq: IrqLock::new("sched.rq", RunQueue::new()),
    nr_running: AtomicUsize::new(0),
    timers: Timers::new(),
    counters: CpuCounters::default(),
    tick_ns: AtomicU64::new(u64::MAX),
});

/// CPUs that schedule.
static ACTIVE: AtomicU64 = AtomicU64::new(0);
/// CPUs whose idle thread runs.
static IDLE: AtomicU64 = AtomicU64::new(0);
/// Threads in uninterruptible sleep, for the load average.
pub(crate) static NR_UNINTERRUPTIBLE: AtomicI64 = AtomicI64::new(0);
/// May threads move between CPUs? Not on the hosted machine, where each test has a CPU of its own.
static SHARED: AtomicBool = AtomicBool::new(cfg!(target_os = "none"));

/// Lets threads of the hosted machine move between its CPUs.
#[cfg(not(target_os = "none"))]
pub fn share_cpus() {
    SHARED.store(true, Ordering::Relaxed);
}

/// What a switch is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The thread may have set a sleep state.
    Block,
    /// It goes on as soon as it is its turn.
    Preempt,
    Yield,
    /// It ends.
    Exit,
}

/// Lets another thread run, if the current one set a sleep state or its turn is over. May sleep.
pub fn schedule() {
    hal::sync::might_sleep();
    switch(Why::Block);
}

/// Gives the CPU to others of the same standing (sched_yield(2)).
pub fn yield_now() {
    hal::sync::might_sleep();
    switch(Why::Yield);
}

/// Ends the current thread.
pub fn exit_thread() -> ! {
    thread::current().state.store(DEAD, Ordering::SeqCst);
    switch(Why::Exit);
    unreachable!("a dead thread was scheduled")
}

/// [`preempt::set_resched_hook`] ends here.
fn preempted(pinned: &PreemptGuard) {
    switch_pinned(Why::Preempt, pinned);
    call_reaper();
}

fn switch(why: Why) {
    switch_pinned(why, &preempt::disable());
    call_reaper();
    reaper::start_if_needed();
}

/// Switches to the best thread of this CPU. `pinned` is the only guard.
#[inline]
fn switch_pinned(why: Why, pinned: &PreemptGuard) {
    let _off = irq::disable();
    let this = CPUS.get(pinned);
    if let Some(next) = choose(this, pinned, why) {
        rcu::quiescent();
        if why == Why::Exit {
            hal::thread::switch_to_last(next);
        }
        finish(hal::thread::switch_to(next));
    } else {
        rcu::quiescent();
    }
}

/// Picks the next thread; `None` when the current one goes on.
fn choose(this: &Cpu, pinned: &PreemptGuard, why: Why) -> Option<Arc<hal::thread::Thread>> {
    preempt::clear_need_resched();
    let now = time::now_ns();
    let mut rq = this.rq.lock();
    rq.charge(now);
    let prev = rq.current.clone()?;
    if prev.hal().work().contains(Work::RESCHED) {
        prev.hal().clear_work(Work::RESCHED);
    }
    let me = cpu::current_id(pinned);
    let blocks = why != Why::Preempt && deactivate(&prev);
    let misplaced = !blocks && is_misplaced(&prev, me);
    if blocks || misplaced {
        drop(rq.take_current());
    } else {
        if why == Why::Yield {
            rq.yield_current();
        }
        rq.put_current(if why == Why::Yield { End::Back } else { End::Front });
    }
    rq.pick(now);
    if rq.is_idle() {
        rq = pull(this, rq, pinned, now);
    }
    let nr_running = rq.nr_running();
    this.nr_running.store(nr_running, Ordering::Relaxed);
    let next = rq.current.clone()?;
    if Arc::ptr_eq(&prev, &next) {
        return None;
    }
    this.counters.switched(&prev, blocks);
    if prev.notices(if why == Why::Preempt { Notices::Moves } else { Notices::Switches }) {
        prev.hal().set_work(Work::NOTIFY);
    }
    if next.ran_on.load(Ordering::Relaxed) != me.0 {
        next.ran_on.store(me.0, Ordering::Relaxed);
        if next.notices(Notices::Moves) {
            next.hal().set_work(Work::NOTIFY);
        }
    }
    next.cpu.store(me.0, Ordering::Relaxed);
    if prev.is_watched() || next.is_watched() {
        tell_watchers(&prev, &next, me, now);
    }
    if nr_running > 0 && this.tick_ns.load(Ordering::Relaxed) == u64::MAX {
        start_tick(this, now);
    }
    drop(rq);
    if misplaced {
        // Still on its stack: hal makes the other CPU wait for the switch.
        enqueue(&prev, place_woken(&prev, pinned), Arrival::Moved, pinned);
    }
    Some(next.hal().clone())
}

/// Tells who follows the switches of `prev` and `next` of this one. The queue of `me` is locked.
#[cold]
fn tell_watchers(prev: &Thread, next: &Thread, me: CpuId, now: u64) {
    prev.tell_watcher(|watcher| watcher.switched_out(now));
    next.tell_watcher(|watcher| watcher.switched_in(me, now));
}

/// Does its affinity forbid the CPU it runs on, while another one would do?
fn is_misplaced(current: &Thread, me: CpuId) -> bool {
    !current.affinity().contains(me)
        && !current.is_idle.load(Ordering::Relaxed)
        && !allowed_cpus(current).contains(me)
}

/// Takes the sleep state that the current thread set into effect (S1). `false`: it was woken meanwhile.
fn deactivate(current: &Thread) -> bool {
    let state = current.state.load(Ordering::Relaxed);
    if state == RUNNING {
        return false;
    }
    if state == DEAD {
        current.state.store(DEAD | OFF_RQ, Ordering::Relaxed);
        return true;
    }
    let counts = state & (UNINTERRUPTIBLE | KILLABLE) != 0;
    if counts {
        NR_UNINTERRUPTIBLE.fetch_add(1, Ordering::Relaxed);
    }
    // Release (1): a waker that takes it from here sees all that the thread did.
    let slept =
        current.state.compare_exchange(state, state | OFF_RQ, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if counts && !slept {
        NR_UNINTERRUPTIBLE.fetch_sub(1, Ordering::Relaxed);
    }
    slept
}

/// After a switch: deals with the thread that ran before on this CPU.
fn finish(prev: Arc<hal::thread::Thread>) {
    if prev.is_dead() {
        reaper::bury(prev);
    }
}

/// After a switch.
#[inline]
fn call_reaper() {
    if rcu::has_work() {
        reaper::wake();
    }
}

/// [`hal::trap::Upcalls::thread_started`] ends here.
pub fn thread_started(prev: Arc<hal::thread::Thread>) {
    finish(prev);
}

/// Wakes a thread that sleeps in one of `states`; `false` if it did not.
pub(crate) fn wake_states(thread: &Arc<Thread>, states: u32) -> bool {
    let mut state = thread.state.load(Ordering::SeqCst);
    loop {
        if state & states == 0 || state & (DEAD | thread::NEW) != 0 {
            return false;
        }
        let asleep = state & OFF_RQ != 0;
        let new = if asleep { WAKING } else { RUNNING };
        // Acquire (2) pairs with (1); release: what the waker did before is seen by the woken thread.
        match thread.state.compare_exchange(state, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) if !asleep => return true,
            Ok(_) => break,
            Err(seen) => state = seen,
        }
    }
    if state & (UNINTERRUPTIBLE | KILLABLE) != 0 {
        NR_UNINTERRUPTIBLE.fetch_sub(1, Ordering::Relaxed);
    }
    let pinned = preempt::disable();
    let cpu = place_woken(thread, &pinned);
    enqueue(thread, cpu, Arrival::Woken, &pinned);
    true
}

/// Wakes a thread from any sleep.
pub(crate) fn wake(thread: &Arc<Thread>) -> bool {
    wake_states(thread, ASLEEP)
}

/// First run of a thread.
pub(crate) fn start(thread: &Arc<Thread>, placement: Placement) {
    let pinned = preempt::disable();
    join_if_needed(&pinned);
    crate::stats::count_created();
    let me = cpu::current_id(&pinned);
    let allowed = allowed_cpus(thread);
    let cpu = match placement {
        Placement::Here if allowed.contains(me) => me,
        _ => idle_cpu(allowed, me).unwrap_or_else(|| nearest(allowed, me)),
    };
    thread.turn_left_ns.store(crate::policy::turn_ns(), Ordering::Relaxed);
    enqueue(thread, cpu, Arrival::New, &pinned);
}

/// Active CPUs that `thread` may use; never empty.
fn allowed_cpus(thread: &Thread) -> CpuMask {
    let active = CpuMask(ACTIVE.load(Ordering::Relaxed));
    let allowed = active.and(thread.affinity());
    if allowed.is_empty() { active } else { allowed }
}

fn nearest(allowed: CpuMask, me: CpuId) -> CpuId {
    if allowed.contains(me) { me } else { allowed.iter().next().unwrap_or(me) }
}

/// An idle CPU of `allowed`, this one by preference.
fn idle_cpu(allowed: CpuMask, me: CpuId) -> Option<CpuId> {
    if !SHARED.load(Ordering::Relaxed) {
        return Some(me);
    }
    let idle = allowed.and(CpuMask(IDLE.load(Ordering::Relaxed)));
    if idle.contains(me) { Some(me) } else { idle.iter().next() }
}

/// The CPU for a thread that wakes: where its cache is warm if that is idle, else an idle one, else the
/// less loaded of its last and the waker's.
fn place_woken(thread: &Thread, pinned: &PreemptGuard) -> CpuId {
    join_if_needed(pinned);
    let me = cpu::current_id(pinned);
    let last = thread.cpu();
    if !SHARED.load(Ordering::Relaxed) {
        // Home, where its idle thread keeps the CPU for it; or else here, since who holds another CPU may be
        // waiting for something of the host.
        let idle = ACTIVE.load(Ordering::Relaxed) & IDLE.load(Ordering::Relaxed);
        return if CpuMask(idle).contains(last) { last } else { me };
    }
    let allowed = allowed_cpus(thread);
    if !allowed.contains(last) {
        return idle_cpu(allowed, me).unwrap_or_else(|| nearest(allowed, me));
    }
    let idle = CpuMask(IDLE.load(Ordering::Relaxed));
    if last == me || idle.contains(last) {
        // The waker's own CPU is not idle; but often the waker is about to sleep, and an idle CPU further
        // away costs an interrupt. Take one only if more than the waker runs here.
        let busy = last == me && CPUS.get(pinned).nr_running.load(Ordering::Relaxed) > 1;
        return if busy { idle_cpu(allowed, me).unwrap_or(last) } else { last };
    }
    if let Some(idle) = idle_cpu(allowed, me) {
        return idle;
    }
    let load = |cpu| CPUS.get_on(cpu).nr_running.load(Ordering::Relaxed);
    if allowed.contains(me) && load(me) < load(last) { me } else { last }
}

/// Puts a thread in state `WAKING` into the queue of `cpu`.
fn enqueue(thread: &Arc<Thread>, cpu: CpuId, arrival: Arrival, pinned: &PreemptGuard) {
    let target = CPUS.get_on(cpu);
    let wins = {
        let mut rq = target.rq.lock();
        #[cfg(not(target_os = "none"))]
        if hosted_hooks::has_left(cpu) && cpu != cpu::current_id(pinned) {
            drop(rq);
            return enqueue(thread, cpu::current_id(pinned), arrival, pinned);
        }
        let now = time::now_ns();
        let over = rq.charge(now) == Slice::Over;
        thread.cpu.store(cpu.0, Ordering::Relaxed);
        thread.state.store(RUNNING, Ordering::Release);
        let wins = rq.enqueue(thread.clone(), arrival, now) || over;
        target.nr_running.store(rq.nr_running(), Ordering::Relaxed);
        wins
    };
    if wins {
        want_resched(cpu, pinned);
    }
}

/// Makes `cpu` call the scheduler soon.
#[inline]
fn want_resched(cpu: CpuId, pinned: &PreemptGuard) {
    if cpu == cpu::current_id(pinned) {
        resched_here();
    } else {
        hal::ipi::kick(cpu);
    }
}

fn resched_here() {
    let _off = irq::disable();
    preempt::set_need_resched();
    // For the way out to user mode.
    hal::thread::current().set_work(Work::RESCHED);
}

/// Charges `thread` for what it ran since it was charged last, if it is running.
pub(crate) fn charge(thread: &Thread) {
    if thread.hal().is_on_cpu() {
        let mut rq = CPUS.get_on(thread.cpu()).rq.lock();
        rq.charge(time::now_ns());
    }
}

/// Makes a running thread notice its work flags.
pub(crate) fn kick_if_running(thread: &Arc<Thread>) {
    if thread.hal().is_on_cpu() {
        let pinned = preempt::disable();
        if thread.cpu() != cpu::current_id(&pinned) {
            hal::ipi::kick(thread.cpu());
        }
    }
}

/// [`hal::trap::Upcalls::reschedule_ipi`] ends here. Interrupts are off.
pub fn reschedule_ipi() {
    resched_here();
}

/// [`hal::trap::Upcalls::timer_interrupt`] ends here. Interrupts are off.
pub fn timer_interrupt() {
    let pinned = preempt::disable();
    let this = CPUS.get(&pinned);
    let now = time::now_ns();
    this.timers.expire(now);
    if now >= this.tick_ns.load(Ordering::Relaxed) {
        tick(this, now, &pinned);
    }
    program(this);
}

/// The tick of a CPU that is not idle: samples, ends slices, balances.
fn tick(this: &Cpu, now: u64, pinned: &PreemptGuard) {
    let mut rq = this.rq.lock();
    let over = rq.charge(now) == Slice::Over;
    this.counters.tick(rq.current.as_deref(), now);
    let idle = rq.is_idle();
    let overloaded = rq.nr_running() > 1;
    this.tick_ns.store(if idle { u64::MAX } else { now + TICK_NS }, Ordering::Relaxed);
    drop(rq);
    crate::stats::update_load(now);
    if over || rcu::holdouts().contains(cpu::current_id(pinned)) {
        resched_here();
    }
    if this.counters.is_time_to_balance() {
        balance(this, pinned, now);
    }
    if overloaded && SHARED.load(Ordering::Relaxed) {
        // An idle CPU has no tick: it must be told that there is something to pull.
        if let Some(idle) = CpuMask(IDLE.load(Ordering::Relaxed)).iter().next() {
            hal::ipi::kick(idle);
        }
    }
}

fn start_tick(this: &Cpu, now: u64) {
    this.tick_ns.store(now + TICK_NS, Ordering::Relaxed);
    program(this);
}

/// Programs the timer of this CPU for what comes next.
pub(crate) fn program(this: &Cpu) {
    let next = this.timers.first_ns().min(this.tick_ns.load(Ordering::Relaxed));
    this.timers.program(next);
}

/// Takes a thread from the busiest other CPU if this one has nothing to do. `rq` is this CPU's, idle.
fn pull<'a>(
    this: &'a Cpu,
    mut rq: hal::sync::IrqLockGuard<'a, RunQueue>,
    pinned: &PreemptGuard,
    now: u64,
) -> hal::sync::IrqLockGuard<'a, RunQueue> {
    let me = cpu::current_id(pinned);
    if let Some(thread) = steal(me, 2) {
        this.counters.migrated();
        thread.cpu.store(me.0, Ordering::Relaxed);
        rq.enqueue(thread, Arrival::Moved, now);
        rq.put_current(End::Back);
        rq.pick(now);
    }
    rq
}

/// Takes a waiting thread from the CPU that has most, if it has at least `least`.
fn steal(me: CpuId, least: usize) -> Option<Arc<Thread>> {
    if !SHARED.load(Ordering::Relaxed) {
        return None;
    }
    let mut others = CpuMask(ACTIVE.load(Ordering::Relaxed));
    others.remove(me);
    let load = |cpu: &CpuId| CPUS.get_on(*cpu).nr_running.load(Ordering::Relaxed);
    let busiest = others.iter().max_by_key(load).filter(|cpu| load(cpu) >= least)?;
    let other = CPUS.get_on(busiest);
    // Only tried: its CPU may be here for our queue at the same time.
    let mut rq = other.rq.try_lock()?;
    let thread = rq.steal_for(me)?;
    other.nr_running.store(rq.nr_running(), Ordering::Relaxed);
    Some(thread)
}

/// Evens the queues out now and then.
fn balance(this: &Cpu, pinned: &PreemptGuard, now: u64) {
    let me = cpu::current_id(pinned);
    let own = this.nr_running.load(Ordering::Relaxed);
    if let Some(thread) = steal(me, own + 2) {
        this.counters.migrated();
        thread.cpu.store(me.0, Ordering::Relaxed);
        let mut rq = this.rq.lock();
        let wins = rq.enqueue(thread, Arrival::Moved, now);
        this.nr_running.store(rq.nr_running(), Ordering::Relaxed);
        drop(rq);
        if wins {
            resched_here();
        }
    }
}

/// Calls `f` with the CPU that runs `thread`, if one does, and the time, while that cannot change.
pub(crate) fn if_current(thread: &Arc<Thread>, f: impl FnOnce(Option<CpuId>, u64)) {
    let _pinned = preempt::disable();
    loop {
        let cpu = thread.cpu();
        let rq = CPUS.get_on(cpu).rq.lock();
        if thread.cpu() == cpu {
            let runs = rq.is_current(thread).then_some(cpu);
            return f(runs, time::now_ns());
        }
    }
}

/// Runs `change` on the attributes of `thread` while no queue depends on them.
pub(crate) fn change(thread: &Arc<Thread>, change: impl FnOnce()) {
    let pinned = preempt::disable();
    loop {
        let cpu = thread.cpu();
        let target = CPUS.get_on(cpu);
        let mut rq = target.rq.lock();
        if thread.cpu() != cpu {
            continue; // it moved
        }
        rq.charge(time::now_ns());
        if rq.is_current(thread) {
            rq.change_current(change);
        } else if let Some(own) = rq.remove(thread) {
            change();
            rq.enqueue(own, Arrival::Moved, time::now_ns());
        } else {
            change();
        }
        drop(rq);
        want_resched(cpu, &pinned);
        return;
    }
}

/// Moves `thread` away from a CPU that its affinity does not allow any more.
pub(crate) fn leave_forbidden_cpu(thread: &Arc<Thread>) {
    let cpu = thread.cpu();
    if thread.affinity().contains(cpu) {
        return;
    }
    if Arc::ptr_eq(thread, thread::current().shared()) {
        return switch(Why::Preempt);
    }
    let pinned = preempt::disable();
    let waiting = CPUS.get_on(cpu).rq.lock().remove(thread);
    match waiting {
        Some(thread) => enqueue(&thread, place_woken(&thread, &pinned), Arrival::Moved, &pinned),
        // It runs: `choose` looks at the affinity when it is preempted.
        None => want_resched(cpu, &pinned),
    }
}

/// The number of CPUs that schedule.
pub fn nr_active() -> usize {
    ACTIVE.load(Ordering::Relaxed).count_ones() as usize
}

/// Makes the current thread of this CPU known to the scheduler; the hosted machine and the boot code have
/// threads that were not made here.
#[cold]
pub(crate) fn adopt(hal: &hal::thread::Current) {
    preempt::set_resched_hook(preempted);
    let name = if cfg!(target_os = "none") { "idle" } else { "host" };
    let thread = Thread::wrap(hal.arc(), name, RUNNING);
    let pinned = preempt::disable();
    let me = cpu::current_id(&pinned);
    thread.cpu.store(me.0, Ordering::Relaxed);
    thread.is_idle.store(cfg!(target_os = "none"), Ordering::Relaxed);
    if cfg!(target_os = "none") {
        CPUS.get(&pinned).rq.lock().idle = Some(thread.clone());
    }
    join(&thread, me);
    drop(pinned);
    #[cfg(not(target_os = "none"))]
    crate::hosted::adopted();
}

fn join(thread: &Arc<Thread>, me: CpuId) {
    let this = CPUS.get_on(me);
    let mut rq = this.rq.lock();
    rq.join(thread.clone(), time::now_ns());
    this.nr_running.store(rq.nr_running(), Ordering::Relaxed);
    drop(rq);
    ACTIVE.fetch_or(1 << me.0, Ordering::SeqCst);
    // On the hosted machine the CPU may have had an earlier life.
    this.timers.forget_programmed();
    this.tick_ns.store(time::now_ns() + TICK_NS, Ordering::Relaxed);
    program(this);
}

fn join_if_needed(pinned: &PreemptGuard) {
    if ACTIVE.load(Ordering::Relaxed) & 1 << cpu::current_id(pinned).0 == 0 {
        let _joined = thread::current();
    }
}

/// The idle loop. The boot thread of each CPU ends in it; it never returns.
pub fn run_idle() -> ! {
    let me = thread::current();
    me.is_idle.store(true, Ordering::Relaxed);
    loop {
        switch(Why::Block);
        let pinned = preempt::disable();
        let off = irq::disable();
        if !preempt::need_resched() {
            idle(&pinned);
        }
        drop(off);
        drop(pinned);
    }
}

/// Sleeps until an interrupt. Interrupts are off at the call and on afterwards.
fn idle(pinned: &PreemptGuard) {
    let this = CPUS.get(pinned);
    let bit = 1u64 << cpu::current_id(pinned).0;
    this.tick_ns.store(u64::MAX, Ordering::Relaxed);
    program(this);
    IDLE.fetch_or(bit, Ordering::SeqCst);
    rcu::idle_enter();
    let start = time::now_ns();
    // Idle time is when the dead are buried; and our going idle may have ended a grace period.
    if !(rcu::has_work() || reaper::has_dead()) || !reaper::wake() {
        cpu::idle_wait();
    }
    rcu::idle_exit();
    IDLE.fetch_and(!bit, Ordering::SeqCst);
    this.counters.idled(time::now_ns().saturating_sub(start));
}

/// Prepares the current thread to sleep: [`schedule`] will take it off the CPU unless a wake comes first.
/// The order with what the waker does first is sequential.
pub(crate) fn set_sleep_state(current: &Thread, state: u32) {
    current.state.store(state, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

/// Takes [`set_sleep_state`] back.
pub(crate) fn set_running(current: &Thread) {
    current.state.store(RUNNING, Ordering::SeqCst);
}

/// Threads that want this CPU, the current one included.
#[cfg(not(target_os = "none"))]
pub(crate) fn nr_running_here() -> usize {
    CPUS.get_raw().rq.lock().nr_running()
}

#[cfg(not(target_os = "none"))]
pub(crate) mod hosted_hooks {
    use super::*;

    /// Is there an idle thread for this CPU?
    pub(crate) fn set_idle_thread(cpu: CpuId, idle: Arc<Thread>) {
        idle.is_idle.store(true, Ordering::Relaxed);
        CPUS.get_on(cpu).rq.lock().idle = Some(idle);
    }

    pub(crate) fn has_idle_thread(cpu: CpuId) -> bool {
        CPUS.get_on(cpu).rq.lock().idle.is_some()
    }

    /// Nobody schedules on `cpu`, whose queue is locked.
    pub(crate) fn has_left(cpu: CpuId) -> bool {
        ACTIVE.load(Ordering::SeqCst) & 1 << cpu.0 == 0
    }

    /// The host thread that holds this CPU ends: it is no longer current, and nothing may be placed here. What
    /// still waits goes to another CPU, best an idle one; it stays for who takes this one next if there is none.
    pub(crate) fn leave(pinned: &PreemptGuard) {
        let cpu = cpu::current_id(pinned);
        let this = CPUS.get(pinned);
        {
            let mut rq = this.rq.lock();
            ACTIVE.fetch_and(!(1 << cpu.0), Ordering::SeqCst);
            drop(rq.take_current());
            this.nr_running.store(rq.nr_running(), Ordering::Relaxed);
        }
        let active = CpuMask(ACTIVE.load(Ordering::SeqCst));
        let idle = active.and(CpuMask(IDLE.load(Ordering::SeqCst)));
        let Some(other) = idle.iter().next().or_else(|| active.iter().next()) else { return };
        loop {
            let stranded = this.rq.lock().steal_for(other);
            let Some(thread) = stranded else { break };
            enqueue(&thread, other, Arrival::Moved, pinned);
        }
        this.nr_running.store(this.rq.lock().nr_running(), Ordering::Relaxed);
    }
}
