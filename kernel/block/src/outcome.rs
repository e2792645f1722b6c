//! How operations in several parts end.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::{Errno, Result};

/// The first error of several parts, which end in any context.
#[derive(Debug, Default)]
pub struct FirstError {
    /// Its number, or 0.
    number: AtomicU32,
}

impl FirstError {
    /// None yet.
    pub const fn new() -> Self {
        Self { number: AtomicU32::new(0) }
    }

    /// A part has ended so.
    pub fn note(&self, result: Result<()>) {
        if let Err(errno) = result {
            let number = errno.number().unsigned_abs();
            let _ = self.number.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// How all of them ended, to who knows that they have.
    pub fn outcome(&self) -> Result<()> {
        match self.number.load(Ordering::Acquire) {
            0 => Ok(()),
            number => Err(Errno::new(number as i32).unwrap_or(Errno::EIO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_stays() {
        let error = FirstError::new();
        error.note(Ok(()));
        assert_eq!(error.outcome(), Ok(()));
        error.note(Err(Errno::ENOSPC));
        error.note(Err(Errno::EIO));
        error.note(Ok(()));
        assert_eq!(error.outcome(), Err(Errno::ENOSPC));
    }
}
