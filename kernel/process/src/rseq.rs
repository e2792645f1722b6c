//! Restartable sequences (rseq(2)).
//!
//! Not there yet: registration fails with `ENOSYS`, which C libraries accept. The auxiliary vector then announces nothing.

use abi::{Errno, Result};

/// `AT_RSEQ_FEATURE_SIZE`.
pub(crate) const FEATURE_SIZE: u64 = 20;
/// `AT_RSEQ_ALIGN`.
pub(crate) const ALIGN: u64 = 32;

/// rseq(2).
pub fn register() -> Result<()> {
    Err(Errno::ENOSYS)
}
