//! Values made once.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const READY: u8 = 2;

/// A cell that is filled at most once and read without a lock afterwards.
///
/// Racing fillers spin until the first is done, so the function that makes the value must not sleep where
/// interrupts could call the same cell.
pub struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written once, before READY, and only shared afterwards.
unsafe impl<T: Send> Send for Once<T> {}
// SAFETY: as above; filling through `&self` moves a `T` to other threads, hence `Send`.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Once { state: AtomicU8::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The value, if it was made.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // Acquire pairs with the release in `call_once`.
        if self.state.load(Ordering::Acquire) != READY {
            return None;
        }
        // SAFETY: READY: the value is written and will not change.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value; the first caller makes it.
    pub fn call_once(&self, make: impl FnOnce() -> T) -> &T {
        let mut make = Some(make);
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            if self.state.compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Relaxed).is_err() {
                crate::cpu::relax();
                continue;
            }
            if let Some(make) = make.take() {
                struct Reset<'a>(&'a AtomicU8);
                impl Drop for Reset<'_> {
                    fn drop(&mut self) {
                        self.0.store(EMPTY, Ordering::Release);
                    }
                }
                let reset = Reset(&self.state); // should `make` panic
                let value = make();
                core::mem::forget(reset);
                // SAFETY: BUSY is ours alone.
                unsafe { (*self.value.get()).write(value) };
                self.state.store(READY, Ordering::Release);
            }
        }
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Once<T> {
    fn drop(&mut self) {
        if *self.state.get_mut() == READY {
            // SAFETY: READY: there is a value, and nobody else can see it any more.
            unsafe { self.value.get_mut().assume_init_drop() };
        }
    }
}

/// A value made at its first use.
pub struct LazyLock<T> {
    once: Once<T>,
    make: fn() -> T,
}

impl<T> LazyLock<T> {
    /// A value that `make` will make.
    pub const fn new(make: fn() -> T) -> Self {
        LazyLock { once: Once::new(), make }
    }
}

impl<T> Deref for LazyLock<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match self.once.get() {
            Some(value) => value,
            None => self.once.call_once(self.make),
        }
    }
}
