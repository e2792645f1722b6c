//! How long a call on a socket waits.

use abi::{Errno, Result};
use sched::{Interruptible, WaitError, WaitQueue};

use crate::MsgFlags;

/// How long a call waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    nonblocking: bool,
    deadline_ns: Option<u64>,
}

impl Patience {
    /// That of a call with `flags` on a socket with this timeout.
    pub fn new(flags: MsgFlags, timeout_ns: Option<u64>) -> Self {
        let nonblocking = flags.contains(MsgFlags::DONTWAIT);
        let deadline_ns =
            timeout_ns.filter(|_| !nonblocking).map(|ns| hal::time::now_ns().saturating_add(ns));
        Self { nonblocking, deadline_ns }
    }

    /// Whether it does not wait at all.
    pub fn is_none(self) -> bool {
        self.nonblocking
    }

    /// Waits in `queue` until `cond` holds. `EAGAIN`: not now. `ERESTARTSYS`, `EINTR`: a signal came.
    pub fn wait<T>(self, queue: &WaitQueue, mut cond: impl FnMut() -> Option<T>) -> Result<T> {
        if let Some(value) = cond() {
            return Ok(value);
        }
        if self.nonblocking {
            return Err(Errno::EAGAIN);
        }
        queue.wait_deadline(cond, self.deadline_ns, Interruptible::Yes).map_err(|error| match error {
            WaitError::TimedOut => Errno::EAGAIN,
            // A call with a timeout must not start over with all of it.
            WaitError::Interrupted if self.deadline_ns.is_some() => Errno::EINTR,
            WaitError::Interrupted => Errno::ERESTARTSYS,
        })
    }
}
