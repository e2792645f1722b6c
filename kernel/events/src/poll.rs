//! poll(2) and ppoll(2), and the wait that select(2) shares.
//!
//! Files are asked once without registering anything; only if none is ready does the call become an observer.
//! Nothing is allocated for up to [`INLINE`] descriptors that are ready.
//!
//! Sources: poll(2), POSIX.1-2024 poll().

use alloc::sync::Arc;

use abi::poll::{PollEvents, PollFd};
use abi::{Errno, Result};
use sched::{Interruptible, PollTable, Poller, WaitError};
use smallvec::SmallVec;
use vfs::{FdTable, File};

/// Descriptors that need no allocation.
pub const INLINE: usize = 8;

/// Reported whether asked for or not.
pub(crate) const ALWAYS: PollEvents = PollEvents::ERR.union(PollEvents::HUP);

/// Asks until something is ready or the time is over (`None`: never), and gives what `ask` gave last.
///
/// `ERESTARTNOHAND`: a signal came first. May sleep.
pub(crate) fn wait_ready(
    deadline_ns: Option<u64>,
    mut ask: impl FnMut(&mut PollTable) -> usize,
) -> Result<usize> {
    let ready = ask(&mut PollTable::query());
    if ready > 0 || deadline_ns.is_some_and(|at| hal::time::now_ns() >= at) {
        return Ok(ready);
    }
    let mut poller = Poller::new();
    let mut ready = ask(poller.table());
    while ready == 0 {
        let waited = poller.wait(deadline_ns, Interruptible::Yes);
        ready = ask(poller.table());
        match waited {
            Err(WaitError::TimedOut) => break,
            Err(WaitError::Interrupted) if ready == 0 => return Err(Errno::ERESTARTNOHAND),
            _ => {}
        }
    }
    Ok(ready)
}

/// poll(2): fills in `revents` of each entry and counts those that are not zero.
///
/// `ERESTARTNOHAND`: a signal came first. `ENOMEM`. May sleep.
pub fn poll(files: &FdTable, fds: &mut [PollFd], deadline_ns: Option<u64>) -> Result<usize> {
    // Held to the end: a descriptor closed meanwhile must not take its wait queue away.
    let mut open: SmallVec<[Option<Arc<File>>; INLINE]> = SmallVec::new();
    open.try_reserve(fds.len()).map_err(|_| Errno::ENOMEM)?;
    open.extend(fds.iter().map(|entry| if entry.fd < 0 { None } else { files.get(entry.fd).ok() }));
    wait_ready(deadline_ns, |table| {
        let mut ready = 0;
        for (entry, file) in fds.iter_mut().zip(&open) {
            entry.revents = match file {
                Some(file) => {
                    let wanted = PollEvents::from_bits_retain(u32::from(entry.events)) | ALWAYS;
                    (file.poll(table) & wanted).bits() as u16
                }
                None if entry.fd < 0 => 0,
                None => PollEvents::NVAL.bits() as u16,
            };
            if entry.revents != 0 {
                ready += 1;
                // The call will not sleep, so the others need not wake it.
                table.stop_watching();
            }
        }
        ready
    })
}
