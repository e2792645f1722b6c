//! Cells that are locked by trying only: what sleeping locks are built from, above hal.
//!
//! A failed try leaves a mark, so that the holder knows at release that somebody waits.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use super::protocol::TryState;

/// What a cell belongs to: a lock, which knows who waits for the cell.
pub trait Owner {
    /// The holder is about to let go.
    fn letting_go(&self);

    /// The holder has let go, and somebody may wait.
    fn wanted(&self);
}

/// A value that one holder at a time can use.
pub struct TryCell<T: ?Sized> {
    state: TryState,
    data: UnsafeCell<T>,
}

// SAFETY: `&mut T` goes to one holder at a time.
unsafe impl<T: ?Sized + Send> Send for TryCell<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for TryCell<T> {}

/// The right to use a [`TryCell`]'s value, until it is dropped.
#[must_use]
pub struct TryGuard<'a, T: ?Sized, O: Owner + ?Sized> {
    cell: &'a TryCell<T>,
    owner: &'a O,
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
    /// Takes the cell for `owner` if it is free.
    #[inline]
    pub fn try_lock<'a, O: Owner + ?Sized>(&'a self, owner: &'a O) -> Option<TryGuard<'a, T, O>> {
        self.state.try_take().then(|| TryGuard { cell: self, owner })
    }

    /// Takes the cell for `owner` if it is free, else marks it as wanted. A cell taken so counts as wanted: others
    /// may wait too.
    pub fn try_lock_or_want<'a, O: Owner + ?Sized>(&'a self, owner: &'a O) -> Option<TryGuard<'a, T, O>> {
        self.state.take_or_want().then(|| TryGuard { cell: self, owner })
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

impl<T: ?Sized, O: Owner + ?Sized> Drop for TryGuard<'_, T, O> {
    #[inline]
    fn drop(&mut self) {
        self.owner.letting_go();
        if self.cell.state.release() {
            self.owner.wanted();
        }
    }
}

// SAFETY: a shared guard gives `&T` only.
unsafe impl<T: ?Sized + Sync, O: Owner + Sync + ?Sized> Sync for TryGuard<'_, T, O> {}

impl<T: ?Sized, O: Owner + ?Sized> Deref for TryGuard<'_, T, O> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the cell is held while the guard lives.
        unsafe { &*self.cell.data.get() }
    }
}

impl<T: ?Sized, O: Owner + ?Sized> DerefMut for TryGuard<'_, T, O> {
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
/// Somebody has waited for a [`TryRwCell`] for long: those who have not waited yet must.
const STARVED: u32 = 1 << 29;
const READERS: u32 = STARVED - 1;
/// Neither says that anybody is inside.
const MARKS: u32 = WAITING | STARVED;

/// A value that one writer or many readers can use.
pub struct TryRwCell<T: ?Sized> {
    state: AtomicU32,
    data: UnsafeCell<T>,
}

// SAFETY: `&mut T` goes to one writer alone, `&T` to readers on several threads.
unsafe impl<T: ?Sized + Send> Send for TryRwCell<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for TryRwCell<T> {}

/// The right to read a [`TryRwCell`], until it is dropped.
#[must_use]
pub struct TryReadGuard<'a, T: ?Sized, O: Owner + ?Sized> {
    cell: &'a TryRwCell<T>,
    owner: &'a O,
}

/// The right to change a [`TryRwCell`], until it is dropped.
#[must_use]
pub struct TryWriteGuard<'a, T: ?Sized, O: Owner + ?Sized> {
    cell: &'a TryRwCell<T>,
    owner: &'a O,
}

/// How long one has waited for a [`TryRwCell`] that tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Not at all: it waits behind the starved.
    New,
    /// It was woken before.
    Waited,
    /// It was woken many times, and others were always faster: a failure bars newcomers until it has been inside, or
    /// says [`TryRwCell::give_up`].
    Starved,
}

impl Claim {
    /// The marks that are no obstacle.
    #[inline]
    fn passes(self) -> u32 {
        if self == Claim::New { WAITING } else { MARKS }
    }

    /// `state` once the claimant is inside.
    #[inline]
    fn satisfied(self, state: u32) -> u32 {
        if self == Claim::Starved { state & !STARVED } else { state }
    }
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
    /// Enters as a reader for `owner` if no writer is inside and nobody waits.
    #[inline]
    pub fn try_read<'a, O: Owner + ?Sized>(&'a self, owner: &'a O) -> Option<TryReadGuard<'a, T, O>> {
        self.try_read_past(WRITER | MARKS, Claim::New, owner)
    }

    /// Enters as a reader if `blocked` has none of the bits that are set.
    #[inline]
    fn try_read_past<'a, O: Owner + ?Sized>(
        &'a self,
        blocked: u32,
        claim: Claim,
        owner: &'a O,
    ) -> Option<TryReadGuard<'a, T, O>> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & blocked == 0 && state & READERS != READERS {
            let inside = claim.satisfied(state) + 1;
            match self.state.compare_exchange_weak(state, inside, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(TryReadGuard { cell: self, owner }),
                Err(seen) => state = seen,
            }
        }
        None
    }

    /// Enters as the writer for `owner` if nobody is inside, and nobody starves.
    #[inline]
    pub fn try_write<'a, O: Owner + ?Sized>(&'a self, owner: &'a O) -> Option<TryWriteGuard<'a, T, O>> {
        self.try_write_as(Claim::New, owner)
    }

    #[inline]
    fn try_write_as<'a, O: Owner + ?Sized>(
        &'a self,
        claim: Claim,
        owner: &'a O,
    ) -> Option<TryWriteGuard<'a, T, O>> {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & !claim.passes() == 0 {
            let inside = claim.satisfied(state) | WRITER;
            match self.state.compare_exchange_weak(state, inside, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(TryWriteGuard { cell: self, owner }),
                Err(seen) => state = seen,
            }
        }
        None
    }

    /// Marks that somebody waits; `false` when a try with `claim` may succeed, as the cell is free.
    fn want(&self, claim: Claim) -> bool {
        let mark = if claim == Claim::Starved { MARKS } else { WAITING };
        let mut state = self.state.load(Ordering::SeqCst);
        loop {
            if state & !claim.passes() == 0 {
                return false;
            }
            match self.state.compare_exchange_weak(state, state | mark, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(seen) => state = seen,
            }
        }
    }

    /// Enters as a reader, past others who wait but not past the starved; a failure leaves a mark.
    pub fn try_read_or_want<'a, O: Owner + ?Sized>(
        &'a self,
        claim: Claim,
        owner: &'a O,
    ) -> Option<TryReadGuard<'a, T, O>> {
        let blocked = WRITER | MARKS & !claim.passes();
        loop {
            if let Some(guard) = self.try_read_past(blocked, claim, owner) {
                return Some(guard);
            }
            if self.want(claim) {
                // Others may be inside who are readers too.
                return self.try_read_past(blocked, claim, owner);
            }
        }
    }

    /// As [`TryRwCell::try_write`]; a failure leaves a mark.
    pub fn try_write_or_want<'a, O: Owner + ?Sized>(
        &'a self,
        claim: Claim,
        owner: &'a O,
    ) -> Option<TryWriteGuard<'a, T, O>> {
        loop {
            if let Some(guard) = self.try_write_as(claim, owner) {
                return Some(guard);
            }
            if self.want(claim) {
                return None;
            }
        }
    }

    /// One who was [`Claim::Starved`] waits no more: newcomers may enter. Another who is starved bars them again.
    pub fn give_up(&self) {
        self.state.fetch_and(!STARVED, Ordering::SeqCst);
    }

    /// Is anyone inside?
    pub fn is_locked(&self) -> bool {
        self.state.load(Ordering::Relaxed) & !MARKS != 0
    }

    /// The value, when nobody can be inside.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    #[inline]
    fn leave<O: Owner + ?Sized>(&self, own: u32, owner: &O) {
        owner.letting_go();
        // SeqCst pairs with `want`: either it sees the cell free, or we see the mark.
        let left = self.state.fetch_sub(own, Ordering::SeqCst) - own;
        if left != 0 && left & !MARKS == 0 {
            owner.wanted();
        }
    }

    /// Removes the mark of waiters that turned out not to be there; `true` if it was set on a free cell. Look
    /// for waiters once more then: one may have come just before.
    pub fn forget_waiters(&self) -> bool {
        self.state.compare_exchange(WAITING, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }
}

impl<'a, T: ?Sized, O: Owner + ?Sized> TryWriteGuard<'a, T, O> {
    /// What the cell belongs to.
    #[inline]
    pub fn owner(&self) -> &'a O {
        self.owner
    }

    /// Becomes a reader without letting another writer in; `true` if waiters (readers) should be woken. The owner is
    /// not told: the holder stays one.
    pub fn downgrade(self) -> (TryReadGuard<'a, T, O>, bool) {
        let (cell, owner) = (self.cell, self.owner);
        core::mem::forget(self);
        let old = cell.state.fetch_sub(WRITER - 1, Ordering::SeqCst);
        (TryReadGuard { cell, owner }, old & WAITING != 0)
    }
}

impl<T: ?Sized, O: Owner + ?Sized> Drop for TryReadGuard<'_, T, O> {
    #[inline]
    fn drop(&mut self) {
        self.cell.leave(1, self.owner);
    }
}

impl<T: ?Sized, O: Owner + ?Sized> Drop for TryWriteGuard<'_, T, O> {
    #[inline]
    fn drop(&mut self) {
        self.cell.leave(WRITER, self.owner);
    }
}

impl<T: ?Sized, O: Owner + ?Sized> Deref for TryReadGuard<'_, T, O> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: readers are inside: no writer.
        unsafe { &*self.cell.data.get() }
    }
}

// SAFETY: a shared guard gives `&T` only.
unsafe impl<T: ?Sized + Sync, O: Owner + Sync + ?Sized> Sync for TryWriteGuard<'_, T, O> {}

impl<T: ?Sized, O: Owner + ?Sized> Deref for TryWriteGuard<'_, T, O> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the writer is alone inside.
        unsafe { &*self.cell.data.get() }
    }
}

impl<T: ?Sized, O: Owner + ?Sized> DerefMut for TryWriteGuard<'_, T, O> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.cell.data.get() }
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// Counts how often waiters were to be woken.
    #[derive(Default)]
    struct Wakes(Cell<u32>);

    impl Owner for Wakes {
        fn letting_go(&self) {}

        fn wanted(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn newcomers_wait_behind_the_starved() {
        let (cell, owner) = (TryRwCell::new(0), Wakes::default());
        let writer = cell.try_write(&owner).unwrap();
        assert!(cell.try_read_or_want(Claim::New, &owner).is_none());
        drop(writer);
        assert_eq!(owner.0.get(), 1);
        let writer = cell.try_write(&owner).expect("a writer may be faster than one who waits");
        assert!(cell.try_read_or_want(Claim::Starved, &owner).is_none());
        drop(writer);
        assert_eq!(owner.0.get(), 2);
        assert!(!cell.is_locked());
        assert!(cell.try_write(&owner).is_none() && cell.try_read(&owner).is_none());
        assert!(cell.try_write_or_want(Claim::New, &owner).is_none());
        assert!(cell.try_read_or_want(Claim::New, &owner).is_none());
        drop(cell.try_write_or_want(Claim::Waited, &owner).expect("others that were woken may enter"));
        assert_eq!(owner.0.get(), 3);
        let reader = cell.try_read_or_want(Claim::Starved, &owner).unwrap();
        assert!(cell.try_read(&owner).is_none(), "those who wait come first");
        drop(cell.try_read_or_want(Claim::New, &owner).unwrap());
        drop(reader);
        assert_eq!(owner.0.get(), 4, "the last one out wakes");
        drop(cell.try_write(&owner).expect("nobody starves any more"));
    }

    #[test]
    fn a_starved_writer_that_gives_up_bars_nobody() {
        let (cell, owner) = (TryRwCell::new(0), Wakes::default());
        let reader = cell.try_read(&owner).unwrap();
        assert!(cell.try_write_or_want(Claim::Starved, &owner).is_none());
        assert!(cell.try_read_or_want(Claim::New, &owner).is_none());
        cell.give_up();
        drop(cell.try_read_or_want(Claim::New, &owner).unwrap());
        drop(reader);
        assert!(cell.forget_waiters());
        drop(cell.try_write(&owner).unwrap());
        assert_eq!(owner.0.get(), 1);
    }
}
