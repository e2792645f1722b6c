//! A sequence lock: readers never wait for each other and never write.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use super::SpinLock;

/// Small `Copy` data that is read often and written seldom.
///
/// ```text
///   writer                          reader
///   seq: even -> odd   (A)          s1 = seq, wait until even   (B)
///   write data                      read data (may be torn)
///   seq: odd -> even   (C)          s2 = seq; s1 != s2: again   (D)
/// ```
/// (C) releases to (B) acquires; the fences of (A) and (D) keep the data accesses inside.
pub struct SeqLock<T: Copy> {
    seq: AtomicU32,
    writer: SpinLock<()>,
    data: UnsafeCell<T>,
}

// SAFETY: data is only copied out, and a copy is used only if no write happened meanwhile.
unsafe impl<T: Copy + Send> Sync for SeqLock<T> {}

impl<T: Copy> SeqLock<T> {
    /// A lock of the class `name` around `value`.
    pub const fn new(name: &'static str, value: T) -> Self {
        SeqLock { seq: AtomicU32::new(0), writer: SpinLock::new(name, ()), data: UnsafeCell::new(value) }
    }

    /// A consistent copy. Spins while a write is going on.
    #[inline]
    pub fn read(&self) -> T {
        loop {
            let before = self.seq.load(Ordering::Acquire); // (B)
            if before & 1 == 0 {
                // SAFETY: the pointer is valid; the bytes may be torn, so they stay `MaybeUninit` until the
                // sequence shows that no writer touched them.
                let copy = unsafe { self.data.get().cast::<MaybeUninit<T>>().read_volatile() };
                fence(Ordering::Acquire); // (D)
                if self.seq.load(Ordering::Relaxed) == before {
                    // SAFETY: no write between the two loads: a whole `T` was copied.
                    return unsafe { copy.assume_init() };
                }
            }
            crate::cpu::relax();
        }
    }

    /// Changes the value.
    ///
    /// A reader in an interrupt handler on this CPU would spin for ever: such users disable interrupts here.
    pub fn write(&self, change: impl FnOnce(&mut T)) {
        let _writer = self.writer.lock();
        // SAFETY: writers exclude each other, and readers only copy.
        let mut value = unsafe { *self.data.get() };
        change(&mut value);
        let seq = self.seq.load(Ordering::Relaxed);
        self.seq.store(seq.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release); // (A)
        // SAFETY: as above.
        unsafe { self.data.get().write_volatile(value) };
        self.seq.store(seq.wrapping_add(2), Ordering::Release); // (C)
    }
}
