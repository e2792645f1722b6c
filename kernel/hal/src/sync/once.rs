//! Values made once.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::sync::atomic::AtomicU8;

use super::protocol::OnceState;

/// A cell that is filled at most once and read without a lock afterwards.
///
/// Racing fillers spin until the first is done, so the function that makes the value must not sleep where
/// interrupts could call the same cell.
pub struct Once<T> {
    state: OnceState,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written once, before READY, and only shared afterwards.
unsafe impl<T: Send> Send for Once<T> {}
// SAFETY: as above; filling through `&self` moves a `T` to other threads, hence `Send`.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Once { state: OnceState::new(AtomicU8::new(0)), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The value, if it was made.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        if !self.state.is_ready() {
            return None;
        }
        // SAFETY: ready: the value is written and will not change.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The value; the first caller makes it.
    pub fn call_once(&self, make: impl FnOnce() -> T) -> &T {
        let mut make = Some(make);
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            if !self.state.try_begin() {
                crate::cpu::relax();
                continue;
            }
            if let Some(make) = make.take() {
                struct Reset<'a>(&'a OnceState);
                impl Drop for Reset<'_> {
                    fn drop(&mut self) {
                        self.0.give_up();
                    }
                }
                let reset = Reset(&self.state); // should `make` panic
                let value = make();
                core::mem::forget(reset);
                // SAFETY: begun and not finished: ours alone.
                unsafe { (*self.value.get()).write(value) };
                self.state.finish();
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
        if self.state.is_ready() {
            // SAFETY: ready: there is a value, and nobody else can see it any more.
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
