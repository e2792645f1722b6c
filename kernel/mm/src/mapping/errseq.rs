//! Errors of write-back, told once to each open file.
//!
//! The value holds the last error, a mark whether somebody has seen it, and a count of errors. An open file keeps
//! the value that it saw last; fsync(2) reports the error when the value has changed since. An error that nobody has
//! seen yet is reported to files that are opened after it, too.
//!
//! Source: Documentation/core-api/errseq.rst (Linux 7.2).

use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;

const ERRNO: u32 = 0xfff;
const SEEN: u32 = 1 << 12;
const ONE: u32 = 1 << 13;

/// See the module's front page.
#[derive(Debug, Default)]
pub struct ErrSeq(AtomicU32);

impl ErrSeq {
    /// No error so far.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Notes an error.
    pub fn set(&self, errno: Errno) {
        let number = errno.number().unsigned_abs() & ERRNO;
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            let base = old & !(ERRNO | SEEN);
            Some(number | if old & SEEN != 0 { base.wrapping_add(ONE) } else { base })
        });
    }

    /// What a file that is opened now has seen.
    pub fn sample(&self) -> u32 {
        let value = self.0.load(Ordering::Acquire);
        if value & SEEN == 0 { 0 } else { value }
    }

    /// The error since `since`, which is moved on. `Ok`: none.
    pub fn check(&self, since: &AtomicU32) -> Result<(), Errno> {
        let value = self.0.load(Ordering::Acquire);
        if value | SEEN == since.load(Ordering::Relaxed) | SEEN {
            return Ok(());
        }
        let value = self.0.fetch_or(SEEN, Ordering::AcqRel) | SEEN;
        since.store(value, Ordering::Relaxed);
        match value & ERRNO {
            0 => Ok(()),
            number => Err(Errno::new(number as i32).unwrap_or(Errno::EIO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_hears_of_each_error_once() {
        let errors = ErrSeq::new();
        let file = AtomicU32::new(errors.sample());
        assert_eq!(errors.check(&file), Ok(()));
        errors.set(Errno::EIO);
        let later = AtomicU32::new(errors.sample());
        assert_eq!(errors.check(&file), Err(Errno::EIO));
        assert_eq!(errors.check(&file), Ok(()));
        assert_eq!(errors.check(&later), Err(Errno::EIO), "opened before anybody saw it");
        let last = AtomicU32::new(errors.sample());
        assert_eq!(errors.check(&last), Ok(()), "opened after it was seen");
        errors.set(Errno::ENOSPC);
        assert_eq!(errors.check(&last), Err(Errno::ENOSPC));
        assert_eq!(errors.check(&file), Err(Errno::ENOSPC));
    }
}
