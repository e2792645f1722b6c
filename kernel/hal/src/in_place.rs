//! Large values on their way to where they stay.
//!
//! `Arc::new(value)` copies the value to beside the counters, on the stack, before both go to the heap: for what is a
//! kilobyte large that is much of a kernel stack.

use alloc::sync::Arc;

/// As `Arc::new(value)`, with one copy of the value less on the stack. May sleep, as all allocation.
#[inline]
pub fn arc<T>(value: T) -> Arc<T> {
    let mut place = Arc::<T>::new_uninit();
    Arc::get_mut(&mut place).unwrap_or_else(|| unreachable!("nobody else has it")).write(value);
    // SAFETY: the value was written just above.
    unsafe { place.assume_init() }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    #[test]
    fn a_value_is_there_and_dropped_once() {
        let held = Arc::new(());
        let made = super::arc((held.clone(), [7u8; 2000]));
        assert_eq!((Arc::strong_count(&held), made.1[1999]), (2, 7));
        drop(made);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
