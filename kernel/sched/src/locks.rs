//! Locks whose waiters sleep. The holder may sleep too; never take one in atomic context.
//!
//! Uncontended, each costs one atomic operation to take and one to release. Contended, a waiter spins for a
//! moment when there are other CPUs (the holder is probably about to finish), then sleeps.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering};

use hal::sync::cells::{Claim, Owner, TryCell, TryGuard, TryReadGuard, TryRwCell, TryWriteGuard};
use hal::sync::lockdep::{self, Class};
use hal::sync::{SpinLock, might_sleep};

use crate::core_sched::nr_active;
use crate::thread::{Interrupted, Interruptible};
use crate::wait::{WaitError, WaitQueue};

/// Rounds of spinning before a waiter sleeps.
const SPINS: u32 = 100;

/// Tries `take` for a moment, if another CPU could make it succeed.
fn spin<G>(take: impl Fn() -> Option<G>) -> Option<G> {
    if nr_active() < 2 {
        return None;
    }
    for _ in 0..SPINS {
        if let Some(guard) = take() {
            return Some(guard);
        }
        hal::cpu::relax();
    }
    None
}

/// What `take` gives within a moment, otherwise what `sleep` gives: the slow way into each lock.
fn spin_then<G, E>(take: impl Fn() -> Option<G>, sleep: impl FnOnce() -> Result<G, E>) -> Result<G, E> {
    spin(take).map_or_else(sleep, Ok)
}

/// Tries before one that waits has been woken: before it enters the queue, and in it.
const TRIES_IN_VAIN: u32 = 2;
/// Tries after which one that waits has been passed by often enough: eight times, each with a try in the queue and one out of
/// it.
const TRIES_OF_THE_STARVED: u32 = TRIES_IN_VAIN + 2 * 8;

/// What the tries of one waiter can claim, first to last.
#[derive(Default)]
struct Claims {
    nr_tries: u32,
}

impl Claims {
    fn next(&mut self) -> Claim {
        self.nr_tries = self.nr_tries.saturating_add(1);
        if self.nr_tries <= TRIES_IN_VAIN {
            Claim::New
        } else if self.nr_tries <= TRIES_OF_THE_STARVED {
            Claim::Waited
        } else {
            Claim::Starved
        }
    }

    /// Has it kept newcomers out?
    fn is_starved(&self) -> bool {
        self.nr_tries > TRIES_OF_THE_STARVED
    }
}

/// Mutual exclusion.
pub struct Mutex<T: ?Sized> {
    queue: WaitQueue,
    class: Class,
    cell: TryCell<T>,
}

/// The right to use a [`Mutex`]'s value.
#[must_use]
pub struct MutexGuard<'a, T: ?Sized>(TryGuard<'a, T, Mutex<T>>);

impl<T: ?Sized> Owner for Mutex<T> {
    #[inline]
    fn letting_go(&self) {
        lockdep::release(&self.class);
    }

    #[cold]
    fn wanted(&self) {
        self.queue.wake_one();
    }
}

impl<T> Mutex<T> {
    /// A mutex of the class `name` around `value`.
    pub const fn new(name: &'static str, value: T) -> Self {
        Mutex { queue: WaitQueue::new(), class: Class::new(name), cell: TryCell::new(value) }
    }

    /// The value, when nobody can hold the mutex.
    pub fn into_inner(self) -> T {
        self.cell.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Takes the mutex; sleeps while another thread has it.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        might_sleep();
        lockdep::acquire(&self.class);
        if let Some(inner) = self.cell.try_lock(self) {
            return MutexGuard(inner);
        }
        match self.lock_slow(Interruptible::No) {
            Ok(guard) => guard,
            Err(_) => unreachable!("an uninterruptible wait"),
        }
    }

    /// As [`Mutex::lock`], but a signal as `kind` says ends the wait.
    pub fn lock_interruptible(&self, kind: Interruptible) -> Result<MutexGuard<'_, T>, Interrupted> {
        might_sleep();
        lockdep::acquire(&self.class);
        match self.cell.try_lock(self) {
            Some(inner) => Ok(MutexGuard(inner)),
            None => self.lock_slow(kind).inspect_err(|_| lockdep::release(&self.class)),
        }
    }

    #[cold]
    fn lock_slow(&self, kind: Interruptible) -> Result<MutexGuard<'_, T>, Interrupted> {
        let sleep = || self.queue.wait_exclusive(|| self.cell.try_lock_or_want(self), None, kind);
        let inner = spin_then(|| self.cell.try_lock(self), sleep);
        // It may have been woken to take the mutex just when it gave up: then it is somebody else's turn.
        inner.map(MutexGuard).map_err(|_| {
            self.queue.wake_one();
            Interrupted
        })
    }

    /// Takes the mutex if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.cell.try_lock(self)?;
        lockdep::acquire_try(&self.class);
        Some(MutexGuard(inner))
    }

    /// Does someone hold it?
    pub fn is_locked(&self) -> bool {
        self.cell.is_locked()
    }

    /// The value, when nobody can hold the mutex.
    pub fn get_mut(&mut self) -> &mut T {
        self.cell.get_mut()
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(core::any::type_name::<T>(), T::default())
    }
}

impl<T: ?Sized> core::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mutex({}, locked: {})", self.class.name(), self.is_locked())
    }
}

/// One writer or many readers (Linux: `rw_semaphore`). Readers wait behind a waiting writer, so a thread must not read-lock
/// twice, nor wait inside for another that is to read-lock: with a writer between them that ends never. One who was woken often and found others inside each time keeps newcomers out until it was in.
pub struct RwSem<T: ?Sized> {
    queue: WaitQueue,
    class: Class,
    cell: TryRwCell<T>,
}

/// The right to read a [`RwSem`]'s value.
#[must_use]
pub struct RwSemReadGuard<'a, T: ?Sized>(TryReadGuard<'a, T, RwSem<T>>);

/// The right to change a [`RwSem`]'s value.
#[must_use]
pub struct RwSemWriteGuard<'a, T: ?Sized>(TryWriteGuard<'a, T, RwSem<T>>);

impl<T: ?Sized> Owner for RwSem<T> {
    #[inline]
    fn letting_go(&self) {
        lockdep::release(&self.class);
    }

    /// Lets waiters try. The mark that there are some stays while there are, so that who gets in wakes the
    /// next; it goes when nobody was found.
    #[cold]
    fn wanted(&self) {
        if self.queue.wake(u32::MAX, 1) == 0 && self.cell.forget_waiters() {
            self.queue.wake_one();
        }
    }
}

impl<T> RwSem<T> {
    /// A semaphore of the class `name` around `value`.
    pub const fn new(name: &'static str, value: T) -> Self {
        RwSem { queue: WaitQueue::new(), class: Class::new(name), cell: TryRwCell::new(value) }
    }

    /// The value, when nobody can be inside.
    pub fn into_inner(self) -> T {
        self.cell.into_inner()
    }
}

impl<T: ?Sized> RwSem<T> {
    /// Enters as a reader; sleeps while a writer is inside or waits.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> RwSemReadGuard<'_, T> {
        match self.read_interruptible(Interruptible::No) {
            Ok(guard) => guard,
            Err(_) => unreachable!("an uninterruptible wait"),
        }
    }

    /// Enters as the writer; sleeps while anyone is inside.
    #[inline]
    #[track_caller]
    pub fn write(&self) -> RwSemWriteGuard<'_, T> {
        match self.write_interruptible(Interruptible::No) {
            Ok(guard) => guard,
            Err(_) => unreachable!("an uninterruptible wait"),
        }
    }

    /// As [`RwSem::read`], but a signal as `kind` says ends the wait.
    #[inline]
    pub fn read_interruptible(&self, kind: Interruptible) -> Result<RwSemReadGuard<'_, T>, Interrupted> {
        might_sleep();
        lockdep::acquire(&self.class);
        match self.cell.try_read(self) {
            Some(inner) => Ok(RwSemReadGuard(inner)),
            None => self.read_slow(kind),
        }
    }

    /// As [`RwSem::write`], but a signal as `kind` says ends the wait.
    #[inline]
    pub fn write_interruptible(&self, kind: Interruptible) -> Result<RwSemWriteGuard<'_, T>, Interrupted> {
        might_sleep();
        lockdep::acquire(&self.class);
        match self.cell.try_write(self) {
            Some(inner) => Ok(RwSemWriteGuard(inner)),
            None => self.write_slow(kind),
        }
    }

    #[cold]
    fn read_slow(&self, kind: Interruptible) -> Result<RwSemReadGuard<'_, T>, Interrupted> {
        let mut claims = Claims::default();
        let enter = || self.cell.try_read_or_want(claims.next(), self);
        let inner = spin_then(|| self.cell.try_read(self), || self.queue.wait_deadline(enter, None, kind));
        inner.map(RwSemReadGuard).map_err(|error| self.gave_up(&claims, error))
    }

    #[cold]
    fn write_slow(&self, kind: Interruptible) -> Result<RwSemWriteGuard<'_, T>, Interrupted> {
        let mut claims = Claims::default();
        let enter = || self.cell.try_write_or_want(claims.next(), self);
        let inner = spin_then(|| self.cell.try_write(self), || self.queue.wait_exclusive(enter, None, kind));
        inner.map(RwSemWriteGuard).map_err(|error| self.gave_up(&claims, error))
    }

    /// A waiter that leaves may have been what others wait behind.
    fn gave_up(&self, claims: &Claims, _error: WaitError) -> Interrupted {
        lockdep::release(&self.class);
        if claims.is_starved() {
            self.cell.give_up();
        }
        self.queue.wake_one();
        Interrupted
    }

    /// Enters as a reader if that needs no waiting.
    pub fn try_read(&self) -> Option<RwSemReadGuard<'_, T>> {
        let inner = self.cell.try_read(self)?;
        lockdep::acquire_try(&self.class);
        Some(RwSemReadGuard(inner))
    }

    /// Enters as the writer if that needs no waiting.
    pub fn try_write(&self) -> Option<RwSemWriteGuard<'_, T>> {
        let inner = self.cell.try_write(self)?;
        lockdep::acquire_try(&self.class);
        Some(RwSemWriteGuard(inner))
    }

    /// Is anyone inside?
    pub fn is_locked(&self) -> bool {
        self.cell.is_locked()
    }

    /// The value, when nobody can be inside.
    pub fn get_mut(&mut self) -> &mut T {
        self.cell.get_mut()
    }
}

impl<'a, T: ?Sized> RwSemWriteGuard<'a, T> {
    /// Becomes a reader without letting another writer in between.
    pub fn downgrade(self) -> RwSemReadGuard<'a, T> {
        let sem = self.0.owner();
        let (inner, wake) = self.0.downgrade();
        if wake {
            sem.queue.wake_n(0);
        }
        RwSemReadGuard(inner)
    }
}

impl<T: ?Sized> Deref for RwSemReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Deref for RwSemWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for RwSemWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: Default> Default for RwSem<T> {
    fn default() -> Self {
        RwSem::new(core::any::type_name::<T>(), T::default())
    }
}

impl<T: ?Sized> core::fmt::Debug for RwSem<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RwSem({}, locked: {})", self.class.name(), self.is_locked())
    }
}

/// Something that happens once and can be waited for. It may happen in an interrupt, so no lock that threads spin
/// on is in it.
pub struct Completion {
    done: AtomicBool,
    queue: WaitQueue,
}

impl Completion {
    /// Not done yet.
    pub const fn new() -> Completion {
        Completion { done: AtomicBool::new(false), queue: WaitQueue::new() }
    }

    /// It happened: all waiters go on, now and later.
    pub fn complete(&self) {
        // SeqCst: before the look at who waits (`WaitQueue::wake`).
        self.done.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }

    /// Did it happen?
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// Waits until it happened.
    pub fn wait(&self) {
        self.queue.wait(|| self.is_done().then_some(()));
    }

    /// Waits until it happened, or a signal or a deadline comes first.
    pub fn wait_deadline(&self, deadline_ns: Option<u64>, kind: Interruptible) -> Result<(), WaitError> {
        self.queue.wait_deadline(|| self.is_done().then_some(()), deadline_ns, kind)
    }
}

impl Default for Completion {
    fn default() -> Self {
        Completion::new()
    }
}

/// A counter of permits.
pub struct Semaphore {
    permits: SpinLock<usize>,
    queue: WaitQueue,
}

impl Semaphore {
    /// A semaphore with `permits` permits.
    pub const fn new(permits: usize) -> Semaphore {
        Semaphore { permits: SpinLock::new("sched.semaphore", permits), queue: WaitQueue::new() }
    }

    /// Takes a permit if there is one.
    pub fn try_acquire(&self) -> bool {
        let mut permits = self.permits.lock();
        match permits.checked_sub(1) {
            Some(left) => {
                *permits = left;
                true
            }
            None => false,
        }
    }

    /// Takes a permit; sleeps until there is one.
    pub fn acquire(&self, kind: Interruptible) -> Result<(), Interrupted> {
        let result = self.queue.wait_exclusive(|| self.try_acquire().then_some(()), None, kind);
        result.map_err(|_| Interrupted)
    }

    /// Gives a permit (back).
    pub fn release(&self) {
        *self.permits.lock() += 1;
        self.queue.wake_one();
    }
}
