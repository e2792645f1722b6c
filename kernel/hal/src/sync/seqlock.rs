//! A sequence lock: readers never wait for each other and never write.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU32;

use super::SpinLock;
use super::protocol::SeqCount;

/// Small `Copy` data that is read often and written seldom.
pub struct SeqLock<T: Copy> {
    seq: SeqCount,
    writer: SpinLock<()>,
    data: UnsafeCell<T>,
}

// SAFETY: data is only copied out, and a copy is used only if no write happened meanwhile.
unsafe impl<T: Copy + Send> Sync for SeqLock<T> {}

impl<T: Copy> SeqLock<T> {
    /// A lock of the class `name` around `value`.
    pub const fn new(name: &'static str, value: T) -> Self {
        SeqLock {
            seq: SeqCount::new(AtomicU32::new(0)),
            writer: SpinLock::new(name, ()),
            data: UnsafeCell::new(value),
        }
    }

    /// A consistent copy. Spins while a write is going on.
    #[inline]
    pub fn read(&self) -> T {
        loop {
            if let Some(before) = self.seq.begin_read() {
                // SAFETY: the pointer is valid; the bytes may be torn, so they stay `MaybeUninit` until the
                // sequence shows that no writer touched them.
                let copy = unsafe { self.data.get().cast::<MaybeUninit<T>>().read_volatile() };
                if self.seq.is_same(before) {
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
        self.seq.begin_write();
        // SAFETY: as above.
        unsafe { self.data.get().write_volatile(value) };
        self.seq.end_write();
    }
}
