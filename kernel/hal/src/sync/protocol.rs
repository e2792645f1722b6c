//! The cores of what CPUs share without a lock: each is a few atomic words and the order of their accesses.
//!
//! They know nothing of the machine, so `hal/model` runs this very file through loom, which tries the orders in which
//! two or three CPUs can run and what each may see of the others' writes. `super::atomic` is core's atomics here and
//! loom's there.

use super::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence, relax};

/// The bit of a spinning lock. Waiters spin on a load, so that the cache line stays shared until the lock is free.
pub struct SpinBit(AtomicBool);

impl SpinBit {
    /// A free lock; `bit` is false.
    #[inline]
    pub const fn new(bit: AtomicBool) -> Self {
        SpinBit(bit)
    }

    /// Takes the lock.
    #[inline]
    pub fn lock(&self) {
        // Acquire pairs with the release in `unlock`.
        while self.0.swap(true, Ordering::Acquire) {
            self.wait();
        }
    }

    #[cold]
    fn wait(&self) {
        while self.0.load(Ordering::Relaxed) {
            relax();
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    /// Gives the lock back.
    #[inline]
    pub fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Does someone hold it?
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Turns at a lock: who came first is next, however fast another comes back.
pub struct Turns {
    /// The turn that the next one to come gets.
    next: AtomicU32,
    /// Whose turn it is; equal to `next` while the lock is free.
    now: AtomicU32,
}

impl Turns {
    /// A free lock; both words are equal.
    #[inline]
    pub const fn new(next: AtomicU32, now: AtomicU32) -> Self {
        Turns { next, now }
    }

    /// Takes the lock when all who came before have given it back.
    #[inline]
    pub fn lock(&self) {
        let own = self.next.fetch_add(1, Ordering::Relaxed);
        // Acquire pairs with the release in `unlock`.
        while self.now.load(Ordering::Acquire) != own {
            relax();
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        let now = self.now.load(Ordering::Acquire);
        self.next.compare_exchange(now, now.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Gives the lock to the next.
    #[inline]
    pub fn unlock(&self) {
        let now = self.now.load(Ordering::Relaxed);
        self.now.store(now.wrapping_add(1), Ordering::Release);
    }

    /// Does someone hold it?
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.now.load(Ordering::Relaxed) != self.next.load(Ordering::Relaxed)
    }
}

/// The count of a sequence lock.
///
/// ```text
///   writer                          reader
///   seq: even -> odd   (A)          s1 = seq, wait until even   (B)
///   write data                      read data (may be torn)
///   seq: odd -> even   (C)          s2 = seq; s1 != s2: again   (D)
/// ```
/// (C) releases to (B) acquires; the fences of (A) and (D) keep the data accesses inside.
pub struct SeqCount(AtomicU32);

impl SeqCount {
    /// A count at rest; `seq` is even.
    #[inline]
    pub const fn new(seq: AtomicU32) -> Self {
        SeqCount(seq)
    }

    /// (B): what [`SeqCount::is_same`] wants to know. `None`: a write is going on.
    #[inline]
    pub fn begin_read(&self) -> Option<u32> {
        let seq = self.0.load(Ordering::Acquire);
        (seq & 1 == 0).then_some(seq)
    }

    /// (D): whether what was read since `begin_read` gave `seq` is whole.
    #[inline]
    pub fn is_same(&self, seq: u32) -> bool {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) == seq
    }

    /// (A). Writers exclude each other.
    #[inline]
    pub fn begin_write(&self) {
        let seq = self.0.load(Ordering::Relaxed);
        self.0.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// (C).
    #[inline]
    pub fn end_write(&self) {
        let seq = self.0.load(Ordering::Relaxed);
        self.0.store(seq.wrapping_add(1), Ordering::Release);
    }
}

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const READY: u8 = 2;

/// The state of a value that is made once.
pub struct OnceState(AtomicU8);

impl OnceState {
    /// Nothing was made; `state` is 0.
    pub const fn new(state: AtomicU8) -> Self {
        OnceState(state)
    }

    /// Whether the value is there, visible to this CPU.
    #[inline]
    pub fn is_ready(&self) -> bool {
        // Acquire pairs with the release in `finish`.
        self.0.load(Ordering::Acquire) == READY
    }

    /// Whether the caller is to make the value, and to say [`OnceState::finish`] or [`OnceState::give_up`] then.
    pub fn try_begin(&self) -> bool {
        self.0.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The value is made.
    pub fn finish(&self) {
        self.0.store(READY, Ordering::Release);
    }

    /// It could not be made: the next one tries.
    pub fn give_up(&self) {
        self.0.store(EMPTY, Ordering::Release);
    }
}

/// Whom the current grace period of RCU waits for, one bit a CPU.
///
/// ```text
///   updater                                  CPU that goes idle          CPU that wakes
///   replace pointers                         leave the last section      IDLE: clear my bit
///   HOLDOUTS = online                        IDLE: set my bit            fence (C)
///   fence (A)                                fence (B)                   read pointers
///   HOLDOUTS: clear the bits of IDLE         HOLDOUTS: clear my bit
/// ```
/// Of (A) and (B) the later one sees the other's write: the bit of a CPU that idles is always cleared by one of them.
/// Of (A) and (C): either the updater sees that the CPU is awake, or the CPU sees the new pointers.
pub struct GracePeriod {
    holdouts: AtomicU64,
    idle: AtomicU64,
}

impl GracePeriod {
    /// No grace period and no idle CPU; both words are 0.
    pub const fn new(holdouts: AtomicU64, idle: AtomicU64) -> Self {
        GracePeriod { holdouts, idle }
    }

    /// Begins a grace period that waits for `online`. One at a time. True: it is over already.
    pub fn start(&self, online: u64) -> bool {
        // Release: a CPU that sees its bit, and reports, sees the new pointers in its next section.
        self.holdouts.store(online, Ordering::Release);
        fence(Ordering::SeqCst); // (A)
        let idle = self.idle.load(Ordering::Acquire);
        self.holdouts.fetch_and(!idle, Ordering::AcqRel) & !idle == 0
    }

    /// Whether the grace period waits for one of `bits`.
    #[inline]
    pub fn waits_for(&self, bits: u64) -> bool {
        self.holdouts.load(Ordering::Relaxed) & bits != 0
    }

    /// The CPU of `bit` is in no section. True: it was the last, and the grace period is over.
    pub fn report(&self, bit: u64) -> bool {
        self.holdouts.fetch_and(!bit, Ordering::AcqRel) == bit
    }

    /// Whether nobody is waited for, and what they did in their sections is visible.
    pub fn is_over(&self) -> bool {
        self.holdouts.load(Ordering::Acquire) == 0
    }

    /// CPUs that are waited for.
    pub fn holdouts(&self) -> u64 {
        self.holdouts.load(Ordering::Relaxed)
    }

    /// The CPU of `bit` idles from now on: it enters no section. [`GracePeriod::waits_for`] is to be asked next.
    pub fn enter_idle(&self, bit: u64) {
        self.idle.fetch_or(bit, Ordering::AcqRel);
        fence(Ordering::SeqCst); // (B)
    }

    /// The CPU of `bit` idles no more.
    pub fn leave_idle(&self, bit: u64) {
        self.idle.fetch_and(!bit, Ordering::AcqRel);
        fence(Ordering::SeqCst); // (C)
    }

    /// Whether the CPU of `bit` idles.
    #[inline]
    pub fn is_idle(&self, bit: u64) -> bool {
        self.idle.load(Ordering::Relaxed) & bit != 0
    }
}

/// How many wait for something, so that who makes it happen takes no lock when nobody does.
///
/// ```text
///   waiter                          waker
///   set(1), under a lock            make the condition true
///   fence (A)                       fence (B)
///   condition?                      count?
/// ```
/// Of (A) and (B) the later one sees the other's write: the waiter sees the condition, or the waker sees the waiter.
pub struct WaiterCount(AtomicU32);

impl WaiterCount {
    /// Nobody waits; `count` is 0.
    #[inline]
    pub const fn new(count: AtomicU32) -> Self {
        WaiterCount(count)
    }

    /// Notes that `count` wait; those who change it exclude each other.
    #[inline]
    pub fn set(&self, count: u32) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// (A): the waiter was counted and is about to look at its condition.
    #[inline]
    pub fn entered(&self) {
        fence(Ordering::SeqCst);
    }

    /// (B): whether somebody waits that may not have seen what the caller has just done.
    #[inline]
    pub fn is_any(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) != 0
    }
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const WANTED: u32 = 2;

/// The state of a lock whose waiters sleep: free, held, or held and wanted.
///
/// A failed try leaves a mark, so that the holder knows at release that somebody waits. Who has marked looks once
/// more after it has queued itself for the wake-up, so that no release is missed.
pub struct TryState(AtomicU32);

impl TryState {
    /// Free; `state` is 0.
    pub const fn new(state: AtomicU32) -> Self {
        TryState(state)
    }

    /// Takes it if it is free.
    #[inline]
    pub fn try_take(&self) -> bool {
        // Acquire pairs with the release in `release`.
        self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes it if it is free, else marks it as wanted. Taken so, it counts as wanted: others may wait too.
    #[inline]
    pub fn take_or_want(&self) -> bool {
        // SeqCst: the mark comes before the waiter's sleep for the holder that releases.
        self.0.swap(WANTED, Ordering::SeqCst) == FREE
    }

    /// Gives it back. True: somebody may wait.
    #[inline]
    pub fn release(&self) -> bool {
        self.0.swap(FREE, Ordering::SeqCst) == WANTED
    }

    /// Does someone hold it?
    #[inline]
    pub fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed) != FREE
    }
}
