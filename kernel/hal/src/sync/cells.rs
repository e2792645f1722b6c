//! Cells that are locked by trying only: what sleeping locks are built from, above hal.
//!
//! A failed try leaves a mark, so that the holder knows at release that somebody waits.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use super::protocol::TryState;

/// A value that one holder at a time can use.
pub struct TryCell<T: ?Sized> {
    state: TryState,
    data: UnsafeCell<T>,
}

// SAFETY: `&mut T` goes to one holder at a time.
unsafe impl<T: ?Sized + Send> Send for TryCell<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for TryCell<T> {}

/// The right to use a [`TryCell`]'s value. Released by [`TryGuard::release`] or when dropped.
#[must_use]
pub struct TryGuard<'a, T: ?Sized> {
    cell: &'a TryCell<T>,
}

impl<T> TryCell<T> {
    /// A free cell.
    pub const fn new(value: T) -> Self {
        TryCell { state: TryState::new(AtomicU32::new(0)), data: UnsafeCell::new(value) }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> TryCell<T> {
    /// Takes the cell if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<TryGuard<'_, T>> {
        self.state.try_take().then(|| TryGuard { cell: self })
    }

    /// Takes the cell if it is free, else marks it as wanted. A cell taken so counts as wanted: others may
    /// wait too.
    pub fn try_lock_or_want(&self) -> Option<TryGuard<'_, T>> {
        self.state.take_or_want().then(|| TryGuard { cell: self })
    }

    /// Does someone hold it?
    pub fn is_locked(&self) -> bool {
        self.state.is_taken()
    }

    /// The value, when nobody can hold the cell.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl<T: ?Sized> TryGuard<'_, T> {
    /// Releases the cell; `true` if somebody waits for it.
    #[inline]
    pub fn release(self) -> bool {
        let wanted = self.cell.state.release();
        core::mem::forget(self);
        wanted
    }
}

impl<T: ?Sized> Drop for TryGuard<'_, T> {
    fn drop(&mut self) {
        self.cell.state.release();
    }
}

// SAFETY: a shared guard gives `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for TryGuard<'_, T> {}

impl<T: ?Sized> Deref for TryGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the cell is held while the guard lives.
        unsafe { &*self.cell.data.get() }
    }
}

impl<T: ?Sized> DerefMut for TryGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.cell.data.get() }
    }
}

/// A writer holds a [`TryRwCell`].
const WRITER: u32 = 1 << 31;
/// Somebody waits for a [`TryRwCell`].
const WAITING: u32 = 1 << 30;
const READERS: u32 = WAITING - 1;

/// A value that one writer or many readers can use.
pub struct TryRwCell<T: ?Sized> {
    state: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: `&mut T` goes to one writer alone, `&T` to readers on several threads.
unsafe impl<T: ?Sized + Send> Send for TryRwCell<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for TryRwCell<T> {}

/// The right to read a [`TryRwCell`].
#[must_use]
pub struct TryReadGuard<'a, T: ?Sized> {
    cell: &'a TryRwCell<T>,
}

/// The right to change a [`TryRwCell`].
#[must_use]
pub struct TryWriteGuard<'a, T: ?Sized> {
    cell: &'a TryRwCell<T>,
}

/// May a new reader pass waiters?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiters {
    /// No: it waits behind them, so that writers get their turn.
    Respect,
    /// Yes: it has waited.
    Pass,
}

impl<T> TryRwCell<T> {
    /// A free cell.
    pub const fn new(value: T) -> Self {
        TryRwCell { state: AtomicU32::new(0), data: UnsafeCell::new(value) }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

impl<T: ?Sized> TryRwCell<T> {
    /// Enters as a reader if no writer is inside (nor, with [`Waiters::Respect`], anyone waits).
    #[inline]
    pub fn try_read(&self, waiters: Waiters) -> Option<TryReadGuard<'_, T>> {
        let blocked = if waiters == Waiters::Respect { WRITER | WAITING } else { WRITER };
        let mut state = self.state.load(Ordering::Relaxed);
        while state & blocked == 0 && state & READERS != READERS {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(TryReadGuard { cell: self }),
                Err(seen) => state = seen,
            }
        }
        None
    }

    /// Enters as the writer if nobody is inside.
    #[inline]
    pub fn try_write(&self) -> Option<TryWriteGuard<'_, T>> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & !WAITING == 0 {
            match self.state.compare_exchange_weak(
                state,
                state | WRITER,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(TryWriteGuard { cell: self }),
                Err(seen) => state = seen,
            }
        }
        None
    }

    /// Marks that somebody waits; `false` when the cell is free, so that a try may succeed.
    fn want(&self) -> bool {
        let mut state = self.state.load(Ordering::SeqCst);
        loop {
            if state & !WAITING == 0 {
                return false;
            }
            match self.state.compare_exchange_weak(state, state | WAITING, Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => return true,
                Err(seen) => state = seen,
            }
        }
    }

    /// As [`TryRwCell::try_read`] for one who has waited; a failure leaves the mark.
    pub fn try_read_or_want(&self) -> Option<TryReadGuard<'_, T>> {
        loop {
            if let Some(guard) = self.try_read(Waiters::Pass) {
                return Some(guard);
            }
            if self.want() {
                // Readers may be let in although others are inside: only a writer is a reason to wait.
                return self.try_read(Waiters::Pass);
            }
        }
    }

    /// As [`TryRwCell::try_write`]; a failure leaves the mark.
    pub fn try_write_or_want(&self) -> Option<TryWriteGuard<'_, T>> {
        loop {
            if let Some(guard) = self.try_write() {
                return Some(guard);
            }
            if self.want() {
                return None;
            }
        }
    }

    /// Is anyone inside?
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) & !WAITING != 0
    }

    /// The value, when nobody can be inside.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    fn leave(&self, own: u32) -> bool {
        // SeqCst pairs with `want`: either it sees the cell free, or we see the mark.
        self.state.fetch_sub(own, Ordering::SeqCst) - own == WAITING
    }

    /// Removes the mark of waiters that turned out not to be there; `true` if it was set on a free cell. Look
    /// for waiters once more then: one may have come just before.
    pub fn forget_waiters(&self) -> bool {
        self.state.compare_exchange(WAITING, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }
}

impl<T: ?Sized> TryReadGuard<'_, T> {
    /// Leaves; `true` if waiters should be woken.
    #[inline]
    pub fn release(self) -> bool {
        let wake = self.cell.leave(1);
        core::mem::forget(self);
        wake
    }
}

impl<'a, T: ?Sized> TryWriteGuard<'a, T> {
    /// Leaves; `true` if waiters should be woken.
    #[inline]
    pub fn release(self) -> bool {
        let wake = self.cell.leave(WRITER);
        core::mem::forget(self);
        wake
    }

    /// Becomes a reader without letting another writer in; `true` if waiters (readers) should be woken.
    pub fn downgrade(self) -> (TryReadGuard<'a, T>, bool) {
        let cell = self.cell;
        core::mem::forget(self);
        let old = cell.state.fetch_sub(WRITER - 1, Ordering::SeqCst);
        (TryReadGuard { cell }, old & WAITING != 0)
    }
}

impl<T: ?Sized> Drop for TryReadGuard<'_, T> {
    fn drop(&mut self) {
        self.cell.leave(1);
    }
}

impl<T: ?Sized> Drop for TryWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.cell.leave(WRITER);
    }
}

impl<T: ?Sized> Deref for TryReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: readers are inside: no writer.
        unsafe { &*self.cell.data.get() }
    }
}

// SAFETY: a shared guard gives `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for TryWriteGuard<'_, T> {}

impl<T: ?Sized> Deref for TryWriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the writer is alone inside.
        unsafe { &*self.cell.data.get() }
    }
}

impl<T: ?Sized> DerefMut for TryWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.cell.data.get() }
    }
}
