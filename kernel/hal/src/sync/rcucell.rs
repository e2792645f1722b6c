//! Pointers that readers follow without a lock.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::rcu::{self, ReadGuard};

/// An owned value that is replaced as a whole; readers see the old or the new one.
pub struct RcuCell<T: Send + Sync + 'static> {
    /// Null or from `Box::into_raw`.
    value: AtomicPtr<T>,
    owns: PhantomData<T>,
}

impl<T: Send + Sync + 'static> RcuCell<T> {
    /// A cell without a value.
    pub const fn empty() -> Self {
        RcuCell { value: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// A cell that holds `value`.
    pub fn new(value: Box<T>) -> Self {
        RcuCell { value: AtomicPtr::new(Box::into_raw(value)), owns: PhantomData }
    }

    /// The value, valid until the guard is dropped.
    #[inline]
    pub fn get<'a>(&'a self, _guard: &'a ReadGuard) -> Option<&'a T> {
        // Acquire pairs with the exchange in `set`.
        let value = self.value.load(Ordering::Acquire);
        // SAFETY: null or a boxed value; `set` frees it only after a grace period, which the guard holds up.
        unsafe { value.as_ref() }
    }

    /// Replaces the value; the old one is dropped after a grace period. Writers serialise themselves.
    pub fn set(&self, value: Option<Box<T>>) {
        let new = value.map_or(ptr::null_mut(), Box::into_raw);
        let old = self.value.swap(new, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: it came from `Box::into_raw` and the swap made us its only owner.
            rcu::defer_drop(unsafe { Box::from_raw(old) });
        }
    }
}

impl<T: Send + Sync + 'static> Drop for RcuCell<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: ours, and `&mut self` outlives every guard's borrow.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

/// A counted reference that can be loaded without a lock and replaced.
pub struct ArcCell<T: Send + Sync + 'static> {
    /// Null or from `Arc::into_raw`; the cell owns one count.
    value: AtomicPtr<T>,
    owns: PhantomData<Arc<T>>,
}

impl<T: Send + Sync + 'static> ArcCell<T> {
    /// A cell without a value.
    pub const fn empty() -> Self {
        ArcCell { value: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// A cell that holds `value`.
    pub fn new(value: Arc<T>) -> Self {
        ArcCell { value: AtomicPtr::new(Arc::into_raw(value).cast_mut()), owns: PhantomData }
    }

    /// The value, valid until the guard is dropped.
    #[inline]
    pub fn get<'a>(&'a self, _guard: &'a ReadGuard) -> Option<&'a T> {
        let value = self.value.load(Ordering::Acquire);
        // SAFETY: as in `RcuCell::get`.
        unsafe { value.as_ref() }
    }

    /// A counted reference to the value.
    pub fn load(&self) -> Option<Arc<T>> {
        let _guard = rcu::read_lock();
        let value = self.value.load(Ordering::Acquire);
        if value.is_null() {
            return None;
        }
        // SAFETY: from `Arc::into_raw`; the cell's count is given back only after a grace period, so the
        // count is above 0 while the guard lives.
        unsafe {
            Arc::increment_strong_count(value);
            Some(Arc::from_raw(value))
        }
    }

    /// Replaces the value and returns the old one. The cell's own count is given back after a grace period.
    pub fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let new = value.map_or(ptr::null_mut(), |value| Arc::into_raw(value).cast_mut());
        let old = self.value.swap(new, Ordering::AcqRel);
        if old.is_null() {
            return None;
        }
        // SAFETY: the swap made the cell's count ours.
        let old = unsafe { Arc::from_raw(old) };
        rcu::defer_drop_arc(old.clone());
        Some(old)
    }
}

impl<T: Send + Sync + 'static> Drop for ArcCell<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: the cell's own count.
            drop(unsafe { Arc::from_raw(value) });
        }
    }
}

/// A weak reference that can be followed without a lock and replaced; it keeps nothing alive.
pub struct WeakCell<T: Send + Sync + 'static> {
    /// Null or from `Weak::into_raw`; the cell owns one weak count.
    value: AtomicPtr<T>,
    owns: PhantomData<Weak<T>>,
}

impl<T: Send + Sync + 'static> WeakCell<T> {
    /// A cell without a value.
    pub const fn empty() -> Self {
        WeakCell { value: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// A counted reference to the value; `None` when there is none, or nobody holds it any more.
    #[inline]
    pub fn upgrade(&self, _guard: &ReadGuard) -> Option<Arc<T>> {
        // Acquire pairs with the exchange in `set`.
        let value = self.value.load(Ordering::Acquire);
        if value.is_null() {
            return None;
        }
        // SAFETY: `set` stores only what `Arc::downgrade` made, the address of a value, which is not the mark of
        // `Weak::new`: `upgrade` need not look for that.
        unsafe { core::hint::assert_unchecked(value.addr() != usize::MAX) };
        // SAFETY: from `Weak::into_raw`; `set` gives the cell's count back only after a grace period, which the
        // guard holds up. The count stays the cell's: `ManuallyDrop` does not give it back.
        let weak = ManuallyDrop::new(unsafe { Weak::from_raw(value) });
        // SAFETY: `from_raw` undoes `into_raw`, which gave what `as_ptr` gives.
        unsafe { core::hint::assert_unchecked(ptr::eq(weak.as_ptr(), value)) };
        weak.upgrade()
    }

    /// Replaces the value; the old one's weak count is given back after a grace period. Writers serialise themselves.
    pub fn set(&self, value: Option<&Arc<T>>) {
        let new = value.map_or(ptr::null_mut(), |value| Arc::downgrade(value).into_raw().cast_mut());
        let old = self.value.swap(new, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: from `Weak::into_raw`; the swap made the cell's count ours.
            rcu::defer_drop_weak(unsafe { Weak::from_raw(old) });
        }
    }
}

impl<T: Send + Sync + 'static> Drop for WeakCell<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: the cell's own count; `&mut self` outlives every reader's borrow.
            drop(unsafe { Weak::from_raw(value) });
        }
    }
}
