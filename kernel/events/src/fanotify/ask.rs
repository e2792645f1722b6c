//! Questions to those who may forbid: what waits for the answer, and the answer.

use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};

const ALLOW: u32 = 1;
const DENY: u32 = 2;
const OPEN: u32 = 0;

/// One question.
pub(super) struct Question(AtomicU32);

impl Question {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(OPEN))
    }

    /// Answers it, unless that was done.
    pub(super) fn answer(&self, is_allowed: bool) {
        let answer = if is_allowed { ALLOW } else { DENY };
        let _ = self.0.compare_exchange(OPEN, answer, AcqRel, Relaxed);
    }

    /// The answer. `EPERM`: no.
    pub(super) fn answered(&self) -> Option<Result<()>> {
        match self.0.load(Acquire) {
            OPEN => None,
            ALLOW => Some(Ok(())),
            _ => Some(Err(Errno::EPERM)),
        }
    }
}

/// Decodes `response` of a `struct fanotify_response`. `EINVAL`: neither yes nor no, or with what needs auditing.
pub(super) fn decode(response: u32) -> Result<bool> {
    match response {
        ALLOW => Ok(true),
        DENY => Ok(false),
        _ => Err(Errno::EINVAL),
    }
}
