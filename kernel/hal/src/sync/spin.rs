//! Spinning locks. An uncontended lock costs one atomic read-modify-write, an unlock one store.

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32};

use super::lockdep::{self, Class};
use super::protocol::{SpinBit, Turns};
use crate::irq::{self, IrqGuard};
use crate::preempt::{self, PreemptGuard};

macro_rules! lock_type {
    ($(#[$doc:meta])* $Lock:ident, $Guard:ident, $Context:ty, $enter:expr, $Core:ty, $free:expr) => {
        $(#[$doc])*
        pub struct $Lock<T: ?Sized> {
            core: $Core,
            class: Class,
            data: UnsafeCell<T>,
        }

        // SAFETY: the lock hands out `&mut T` to one holder at a time, so it only moves `T` between threads.
        unsafe impl<T: ?Sized + Send> Send for $Lock<T> {}
        // SAFETY: as above.
        unsafe impl<T: ?Sized + Send> Sync for $Lock<T> {}

        impl<T> $Lock<T> {
            /// A lock of the class `name` around `value`.
            #[inline]
            pub const fn new(name: &'static str, value: T) -> Self {
                Self { core: $free, class: Class::new(name), data: UnsafeCell::new(value) }
            }

            /// The value, when nobody can hold the lock.
            pub fn into_inner(self) -> T {
                self.data.into_inner()
            }
        }

        impl<T: ?Sized> $Lock<T> {
            /// Takes the lock, spinning while another CPU has it. Usable in atomic context.
            #[inline]
            #[track_caller]
            pub fn lock(&self) -> $Guard<'_, T> {
                let context = $enter;
                lockdep::acquire(&self.class);
                self.core.lock();
                $Guard { lock: self, _context: context }
            }

            /// Takes the lock if it is free.
            #[inline]
            pub fn try_lock(&self) -> Option<$Guard<'_, T>> {
                let context = $enter;
                if !self.core.try_lock() {
                    return None;
                }
                lockdep::acquire_try(&self.class);
                Some($Guard { lock: self, _context: context })
            }

            /// Does someone hold it?
            pub fn is_locked(&self) -> bool {
                self.core.is_locked()
            }

            /// The value, when nobody can hold the lock.
            pub fn get_mut(&mut self) -> &mut T {
                self.data.get_mut()
            }
        }

        impl<T: Default> Default for $Lock<T> {
            fn default() -> Self {
                Self::new(core::any::type_name::<T>(), T::default())
            }
        }

        impl<T: ?Sized> fmt::Debug for $Lock<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({}, locked: {})", stringify!($Lock), self.class.name(), self.is_locked())
            }
        }

        /// The right to use the value; unlocks when dropped.
        #[must_use]
        pub struct $Guard<'a, T: ?Sized> {
            lock: &'a $Lock<T>,
            // Dropped after `Drop::drop` below, that is after the unlock.
            _context: $Context,
        }

        // SAFETY: a shared guard gives `&T` only.
        unsafe impl<T: ?Sized + Sync> Sync for $Guard<'_, T> {}

        impl<T: ?Sized> Deref for $Guard<'_, T> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                // SAFETY: the lock is held for as long as the guard lives.
                unsafe { &*self.lock.data.get() }
            }
        }

        impl<T: ?Sized> DerefMut for $Guard<'_, T> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: the lock is held, and `&mut self` makes this the only access through the guard.
                unsafe { &mut *self.lock.data.get() }
            }
        }

        impl<T: ?Sized> Drop for $Guard<'_, T> {
            #[inline]
            fn drop(&mut self) {
                lockdep::release(&self.lock.class);
                self.lock.core.unlock();
            }
        }
    };
}

lock_type! {
    /// A spinning lock for data that interrupt handlers never touch. Preemption is off while it is held.
    SpinLock, SpinLockGuard, PreemptGuard, preempt::disable(), SpinBit, SpinBit::new(AtomicBool::new(false))
}

lock_type! {
    /// A spinning lock for data that interrupt handlers touch too. Interrupts are off while it is held.
    IrqLock, IrqLockGuard, IrqGuard, irq::disable(), SpinBit, SpinBit::new(AtomicBool::new(false))
}

lock_type! {
    /// As [`SpinLock`], for what CPUs want again and again: each gets its turn in the order in which they came. With
    /// [`SpinLock`] the one that has just let go is most often the next, and another can wait for ever.
    FairLock, FairLockGuard, PreemptGuard, preempt::disable(), Turns, Turns::new(AtomicU32::new(0), AtomicU32::new(0))
}
