//! Threads as the scheduler sees them.
//!
//! ```text
//!             start               picked                 sleep state set, schedule()
//!   New ───────────────▶ RUNNING ◀──────▶ (on a CPU) ───────────────────────────▶ state | OFF_RQ
//!                           ▲                                                        │ wake: one CAS
//!                           └──────────────── enqueued ◀───────── WAKING ◀───────────┘
//!   exit: DEAD | OFF_RQ, never woken
//! ```
//!
//! # Invariants
//!
//! - S1: a thread is in at most one run queue, or current on at most one CPU. `OFF_RQ` is set by the CPU that
//!   takes it out, under the run queue's lock; the one waker whose compare-exchange turns that state into
//!   `WAKING` puts it in again.
//! - S2: `wait_depth` and the setting of bits in `wait_bits` belong to the thread itself.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use hal::NoMemory;
use hal::cpu::{CpuId, CpuMask};
use hal::sync::{IrqLock, RcuCell};
use hal::thread::{Fpu, Slot, Work};
use hal::trap::UserRegs;

use crate::core_sched;
use crate::policy::{Attributes, Policy};
use crate::roster;

/// Runnable.
pub(crate) const RUNNING: u32 = 0;
/// Sleeps until woken or signalled.
pub(crate) const INTERRUPTIBLE: u32 = 1;
/// Sleeps until woken.
pub(crate) const UNINTERRUPTIBLE: u32 = 2;
/// Sleeps until woken or killed.
pub(crate) const KILLABLE: u32 = 4;
/// Any sleep.
pub(crate) const ASLEEP: u32 = INTERRUPTIBLE | UNINTERRUPTIBLE | KILLABLE;
/// Taken out of its run queue.
pub(crate) const OFF_RQ: u32 = 0x100;
/// A waker is about to enqueue it.
pub(crate) const WAKING: u32 = 0x200;
/// Not started yet.
pub(crate) const NEW: u32 = 0x400;
/// Ended.
pub(crate) const DEAD: u32 = 0x800;

/// What may end a sleep early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruptible {
    /// Nothing.
    No,
    /// Any signal.
    Yes,
    /// A fatal signal.
    Killable,
}

impl Interruptible {
    #[inline]
    pub(crate) const fn state(self) -> u32 {
        match self {
            Interruptible::No => UNINTERRUPTIBLE,
            Interruptible::Yes => INTERRUPTIBLE,
            Interruptible::Killable => KILLABLE,
        }
    }
}

/// A sleep ended early because of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl From<Interrupted> for abi::Errno {
    /// `ERESTARTSYS`: signal delivery turns it into a restart or `EINTR`.
    #[inline]
    fn from(_: Interrupted) -> Self {
        abi::Errno::ERESTARTSYS
    }
}

/// What of its switches a thread is told (rseq(2)); each includes those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Notices {
    /// None.
    Nothing,
    /// That it was preempted or came to another CPU.
    Moves,
    /// All.
    Switches,
}

/// What a thread is doing, for /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Runs or waits for a CPU (R).
    Running,
    /// Sleeps interruptibly (S).
    Sleeping,
    /// Sleeps uninterruptibly (D).
    DiskSleep,
    /// Has ended.
    Dead,
}

/// Someone who follows when a thread is on a CPU (perf_event_open(2)).
///
/// Both are called with the lock of a run queue held and interrupts off: they take only locks below that and free
/// nothing.
pub trait SwitchWatcher: Send + Sync {
    /// The thread runs on `cpu` from `now` (nanoseconds since boot) on.
    fn switched_in(&self, cpu: CpuId, now: u64);

    /// It leaves the CPU.
    fn switched_out(&self, now: u64);
}

/// A watcher, sized.
struct Watch(Arc<dyn SwitchWatcher>);

const SIGNAL_PENDING: u8 = 1;
const KILL_PENDING: u8 = 2;

/// CPU time of a thread, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In user mode (sampled; the sum of both is exact).
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
}

impl CpuTimes {
    /// Both together.
    pub fn total_ns(&self) -> u64 {
        self.user_ns + self.system_ns
    }
}

/// A name of at most 15 bytes, as the kernel shows it (prctl(2), PR_SET_NAME).
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; 15],
    len: usize,
}

impl Name {
    fn new(name: &str) -> Name {
        let mut bytes = [0; 15];
        let len = name.len().min(bytes.len());
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        Name { bytes, len }
    }
}

/// A thread of execution.
pub struct Thread {
    id: u64,
    name: IrqLock<Name>,
    hal: Arc<hal::thread::Thread>,
    pub(crate) is_idle: AtomicBool,
    /// It enters user mode: where the kernel works for it, it holds nothing that a destructor could wait for.
    pub(crate) is_user: AtomicBool,
    pub(crate) state: AtomicU32,
    /// Bit d is set while the wait at depth d has not been woken.
    pub(crate) wait_bits: AtomicU64,
    pub(crate) wait_depth: AtomicU32,
    interrupts: AtomicU8,
    /// See [`without_waiting`].
    never_waits: AtomicBool,
    /// The CPU it runs on, waits on, or ran on last.
    pub(crate) cpu: AtomicU32,
    /// The CPU it really ran on last, and whether user code must be told of moves and preemptions (rseq(2)).
    pub(crate) ran_on: AtomicU32,
    notices: AtomicU8,
    /// There is a `watcher`.
    is_watched: AtomicBool,
    watcher: RcuCell<Watch>,
    attributes: AtomicU64,
    /// What it was given; `attributes` is more while `boost` is.
    own_attributes: AtomicU64,
    boost: AtomicU8,
    /// CPUs it may run on.
    affinity: AtomicU64,
    /// Virtual time owed to it when it last left the fair queue.
    pub(crate) lag: AtomicI64,
    /// Time that it ran.
    pub(crate) exec_ns: AtomicU64,
    pub(crate) user_ticks: AtomicU64,
    pub(crate) system_ticks: AtomicU64,
    pub(crate) voluntary_switches: AtomicU64,
    pub(crate) involuntary_switches: AtomicU64,
    /// Real time left of its round-robin turn.
    pub(crate) turn_left_ns: AtomicU64,
    start_ns: u64,
}

/// Where hal keeps the scheduler's part of a thread.
pub(crate) static SELF: Slot<Arc<Thread>> = Slot::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Attributes as one word, so that they change at once.
fn encode(attributes: Attributes) -> u64 {
    let Attributes { policy, nice, priority, reset_on_fork, slice_ns } = attributes;
    let low = u32::from_le_bytes([policy as u8, nice as u8, priority, u8::from(reset_on_fork)]);
    u64::from(slice_ns) << 32 | u64::from(low)
}

#[inline]
fn decode(word: u64) -> Attributes {
    let [policy, nice, priority, reset_on_fork] = (word as u32).to_le_bytes();
    let policy = Policy::from_number(u32::from(policy)).unwrap_or_default();
    let (reset_on_fork, slice_ns) = (reset_on_fork != 0, (word >> 32) as u32);
    Attributes { policy, nice: nice as i8, priority, reset_on_fork, slice_ns }
}

impl Thread {
    pub(crate) fn wrap(hal: Arc<hal::thread::Thread>, name: &str, state: u32) -> Arc<Thread> {
        let thread = Arc::new(Thread {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: IrqLock::new("sched.name", Name::new(name)),
            hal,
            is_idle: AtomicBool::new(false),
            is_user: AtomicBool::new(false),
            state: AtomicU32::new(state),
            wait_bits: AtomicU64::new(0),
            wait_depth: AtomicU32::new(0),
            interrupts: AtomicU8::new(0),
            never_waits: AtomicBool::new(false),
            cpu: AtomicU32::new(hal::cpu::raw_current_id().0),
            ran_on: AtomicU32::new(u32::MAX),
            notices: AtomicU8::new(Notices::Nothing as u8),
            is_watched: AtomicBool::new(false),
            watcher: RcuCell::empty(),
            attributes: AtomicU64::new(encode(Attributes::NORMAL)),
            own_attributes: AtomicU64::new(encode(Attributes::NORMAL)),
            boost: AtomicU8::new(0),
            affinity: AtomicU64::new(CpuMask::ALL.0),
            lag: AtomicI64::new(0),
            exec_ns: AtomicU64::new(0),
            user_ticks: AtomicU64::new(0),
            system_ticks: AtomicU64::new(0),
            voluntary_switches: AtomicU64::new(0),
            involuntary_switches: AtomicU64::new(0),
            turn_left_ns: AtomicU64::new(0),
            start_ns: hal::time::now_ns(),
        });
        // A fresh hal thread has an empty slot.
        let _filled = thread.hal.set_slot(&SELF, thread.clone());
        thread
    }

    /// A number that no other thread had or will have (not a pid).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> String {
        let name = *self.name.lock();
        String::from_utf8_lossy(&name.bytes[..name.len]).into_owned()
    }

    /// Changes its name.
    pub fn set_name(&self, name: &str) {
        *self.name.lock() = Name::new(name);
    }

    /// The machine's part, for slots and work flags.
    #[inline]
    pub fn hal(&self) -> &Arc<hal::thread::Thread> {
        &self.hal
    }

    /// Policy, nice value and priority that it runs with now: its own, or what [`Thread::set_boost`] lends it.
    pub fn attributes(&self) -> Attributes {
        decode(self.attributes.load(Ordering::Relaxed))
    }

    /// Policy, nice value and priority that it was given.
    pub fn own_attributes(&self) -> Attributes {
        decode(self.own_attributes.load(Ordering::Relaxed))
    }

    /// Changes policy, nice value and priority.
    pub fn set_attributes(self: &Arc<Self>, attributes: Attributes) {
        self.own_attributes.store(encode(attributes), Ordering::Relaxed);
        self.apply_attributes();
    }

    /// Lends it the real-time priority `priority` of one who waits for it; 0 takes that back.
    pub fn set_boost(self: &Arc<Self>, priority: u8) {
        if self.boost.swap(priority, Ordering::Relaxed) != priority {
            self.apply_attributes();
        }
    }

    fn apply_attributes(self: &Arc<Self>) {
        core_sched::change(self, || {
            let own = self.own_attributes();
            let boost = self.boost.load(Ordering::Relaxed);
            let now = if boost > own.priority {
                Attributes { policy: Policy::Fifo, priority: boost, ..own }
            } else {
                own
            };
            self.attributes.store(encode(now), Ordering::Relaxed);
        });
    }

    /// The CPUs it may run on.
    pub fn affinity(&self) -> CpuMask {
        CpuMask(self.affinity.load(Ordering::Relaxed))
    }

    /// Restricts it to `mask`; it moves if it has to. `Err`: no CPU of the mask is online.
    pub fn set_affinity(self: &Arc<Self>, mask: CpuMask) -> Result<(), abi::Errno> {
        if mask.and(hal::cpu::online()).is_empty() {
            return Err(abi::Errno::EINVAL);
        }
        self.affinity.store(mask.0, Ordering::Relaxed);
        core_sched::leave_forbidden_cpu(self);
        Ok(())
    }

    /// Sets of what the thread is told by [`hal::thread::Work::NOTIFY`].
    pub fn set_notices(&self, what: Notices) {
        self.notices.store(what as u8, Ordering::Relaxed);
    }

    /// Whether it is told of at least `what`.
    #[inline]
    pub(crate) fn notices(&self, what: Notices) -> bool {
        self.notices.load(Ordering::Relaxed) >= what as u8
    }

    /// Lets `watcher` follow its switches for the rest of its life; a later one takes the place of the first. If the
    /// thread runs, the watcher is told so before this returns.
    pub fn watch_switches(self: &Arc<Self>, watcher: Arc<dyn SwitchWatcher>) {
        let told = watcher.clone();
        self.watcher.set(Some(Box::new(Watch(watcher))));
        core_sched::if_current(self, |cpu, now| {
            self.is_watched.store(true, Ordering::Relaxed);
            if let Some(cpu) = cpu {
                told.switched_in(cpu, now);
            }
        });
    }

    /// Whether somebody follows its switches.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Calls `tell` with who follows its switches. Preemption is off.
    pub(crate) fn tell_watcher(&self, tell: impl FnOnce(&dyn SwitchWatcher)) {
        let guard = hal::rcu::read_lock();
        if let Some(watch) = self.watcher.get(&guard).filter(|_| self.is_watched()) {
            tell(&*watch.0);
        }
    }

    /// The CPU it runs on or ran on last.
    pub fn cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Ordering::Relaxed))
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            s if s & DEAD != 0 => State::Dead,
            s if s & OFF_RQ == 0 => State::Running,
            s if s & INTERRUPTIBLE != 0 => State::Sleeping,
            s if s & NEW != 0 => State::Sleeping,
            _ => State::DiskSleep,
        }
    }

    /// CPU time that it used until now. The sum is exact, the division into user and system time is sampled.
    pub fn cpu_times(&self) -> CpuTimes {
        core_sched::charge(self);
        let total = self.exec_ns.load(Ordering::Relaxed);
        let user = self.user_ticks.load(Ordering::Relaxed);
        let system = self.system_ticks.load(Ordering::Relaxed);
        let user_ns = match (user, system) {
            (_, 0) => total,
            (0, _) => 0,
            _ => (u128::from(total) * u128::from(user) / u128::from(user + system)) as u64,
        };
        CpuTimes { user_ns, system_ns: total - user_ns }
    }

    /// When it was made, in nanoseconds since boot.
    #[inline]
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// How often it gave the CPU up, and how often it was taken away.
    pub fn switches(&self) -> (u64, u64) {
        (self.voluntary_switches.load(Ordering::Relaxed), self.involuntary_switches.load(Ordering::Relaxed))
    }

    /// Tells it that a signal is pending (a fatal one with `kill`): interruptible sleeps end, and it takes the
    /// slow way out to user mode.
    pub fn notify_signal(self: &Arc<Self>, kill: Kill) {
        let (bits, wakes) = match kill {
            Kill::No => (SIGNAL_PENDING, INTERRUPTIBLE),
            Kill::Yes => (SIGNAL_PENDING | KILL_PENDING, INTERRUPTIBLE | KILLABLE),
        };
        self.interrupts.fetch_or(bits, Ordering::SeqCst);
        self.hal.set_work(Work::SIGNAL);
        fence(Ordering::SeqCst);
        if !core_sched::wake_states(self, wakes) {
            core_sched::kick_if_running(self);
        }
    }

    /// No signal is pending any more. Called by the thread itself once it has looked at its signals.
    pub fn clear_signal(&self) {
        self.interrupts.store(0, Ordering::SeqCst);
        self.hal.clear_work(Work::SIGNAL);
    }

    /// Would a sleep of this kind end at once?
    pub fn is_interrupted(&self, kind: Interruptible) -> bool {
        let bits = self.interrupts.load(Ordering::SeqCst);
        match kind {
            Interruptible::No => false,
            Interruptible::Yes => bits != 0 || self.never_waits.load(Ordering::Relaxed),
            Interruptible::Killable => bits & KILL_PENDING != 0,
        }
    }

    /// Ends its sleep, whatever it sleeps for: waits check their condition again. `true` if it slept.
    pub fn wake(self: &Arc<Self>) -> bool {
        core_sched::wake_states(self, ASLEEP)
    }

    /// Gives up a thread that was never started.
    pub fn discard(self: Arc<Self>) {
        if self.hal.discard() {
            hal::thread::reap(self.hal.clone());
        }
    }
}

impl core::fmt::Debug for Thread {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Thread({} {:?}, state {:#x})", self.id, self.name(), self.state.load(Ordering::Relaxed))
    }
}

/// Is a notified signal fatal?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Not necessarily.
    No,
    /// The thread will die of it.
    Yes,
}

/// The current thread; cannot be sent to another.
pub struct Current {
    hal: hal::thread::Current,
}

/// The current thread.
#[inline]
pub fn current() -> Current {
    let hal = hal::thread::current();
    if hal.slot(&SELF).is_none() {
        core_sched::adopt(&hal);
    }
    Current { hal }
}

impl Current {
    /// A reference that may be kept and sent.
    pub fn arc(&self) -> Arc<Thread> {
        self.shared().clone()
    }

    /// The shared reference that the thread itself holds.
    #[inline]
    pub fn shared(&self) -> &Arc<Thread> {
        match self.hal.slot(&SELF) {
            Some(thread) => thread,
            None => unreachable!("`current` fills the slot"),
        }
    }

    /// The machine's part.
    pub fn machine(&self) -> &hal::thread::Current {
        &self.hal
    }
}

impl Deref for Current {
    type Target = Thread;

    #[inline]
    fn deref(&self) -> &Thread {
        self.shared()
    }
}

/// Makes a kernel thread that does not run yet; see [`start`].
pub fn new_kernel_thread(name: &str, f: impl FnOnce() + Send + 'static) -> Result<Arc<Thread>, NoMemory> {
    let hal = hal::thread::Thread::new(Box::new(f))?;
    Ok(Thread::wrap(hal, name, NEW | OFF_RQ))
}

/// Makes and starts a kernel thread.
pub fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> Result<Arc<Thread>, NoMemory> {
    let run = move || {
        let _leaving = roster::Leaving;
        f();
    };
    let thread = new_kernel_thread(name, run)?;
    roster::enter(&thread);
    start(&thread, Placement::Fork);
    Ok(thread)
}

/// Makes a thread that runs `first` and then enters user mode with `regs`; see [`start`]. It inherits
/// attributes and affinity from the current thread. Give it its page table with
/// [`hal::thread::Thread::set_first_page_table`].
pub fn new_user_thread(
    name: &str,
    regs: UserRegs,
    fpu: Fpu,
    first: impl FnOnce() + Send + 'static,
) -> Result<Arc<Thread>, NoMemory> {
    let hal = hal::thread::Thread::new_user(regs, fpu, Box::new(first))?;
    let thread = Thread::wrap(hal, name, NEW | OFF_RQ);
    thread.is_user.store(true, Ordering::Relaxed);
    let parent = current();
    // What is lent to the parent is not the child's.
    let own = encode(parent.own_attributes().inherited());
    thread.own_attributes.store(own, Ordering::Relaxed);
    thread.attributes.store(own, Ordering::Relaxed);
    thread.affinity.store(parent.affinity.load(Ordering::Relaxed), Ordering::Relaxed);
    Ok(thread)
}

/// Runs `f` so that the current thread's interruptible sleeps end at once, as if a signal had come: what would wait for
/// others gives up, and sleeps for disks and locks go on as ever.
pub fn without_waiting<T>(f: impl FnOnce() -> T) -> T {
    struct Guard(bool);
    impl Drop for Guard {
        fn drop(&mut self) {
            current().never_waits.store(self.0, Ordering::Relaxed);
        }
    }
    let _guard = Guard(current().never_waits.swap(true, Ordering::Relaxed));
    f()
}

/// Which CPU a new thread should start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// An idle one if there is any, else this one.
    Fork,
    /// This one, if allowed: the parent is about to wait for it (vfork).
    Here,
}

/// Makes a new thread runnable. Only the first call counts.
pub fn start(thread: &Arc<Thread>, placement: Placement) {
    let new = NEW | OFF_RQ;
    if thread.state.compare_exchange(new, WAKING, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        core_sched::start(thread, placement);
    }
}
