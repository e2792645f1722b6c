//! poll(2) and ppoll(2), and the wait that select(2) shares.
//!
//! ```text
//! ask     up to 64 files at a time, borrowed from the descriptor table; nothing is allocated or counted
//! wait    only if none was ready: holds the files and becomes an observer of each
//! ```
//!
//! Sources: poll(2), POSIX.1-2024 poll().

use alloc::sync::Arc;

use abi::poll::{PollEvents, PollFd};
use abi::{Errno, Result};
use sched::{Interruptible, PollTable, Poller, WaitError};
use smallvec::SmallVec;
use vfs::{FdTable, File};

/// Descriptors that need no allocation to wait for.
pub const INLINE: usize = 8;

/// Most entries that [`ask`] takes: their files are looked at under a spinlock.
pub const BLOCK: usize = 64;

/// Reported whether asked for or not.
pub(crate) const ALWAYS: PollEvents = PollEvents::ERR.union(PollEvents::HUP);

/// Whether a wait until `deadline_ns` (`None`: for ever) is over.
pub fn is_over(deadline_ns: Option<u64>) -> bool {
    deadline_ns.is_some_and(|at| at == 0 || hal::time::now_ns() >= at)
}

/// Asks until something is ready or the time is over (`None`: never), and gives what `ask` gave last.
///
/// `ERESTARTNOHAND`: a signal came first. May sleep.
pub(crate) fn wait_ready(
    deadline_ns: Option<u64>,
    mut ask: impl FnMut(&mut PollTable) -> usize,
) -> Result<usize> {
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

/// What an entry reports when its file tells `events`.
fn reported(entry: &PollFd, events: PollEvents) -> u16 {
    (events & (PollEvents::from_bits_retain(u32::from(entry.events)) | ALWAYS)).bits() as u16
}

/// Asks the first [`BLOCK`] of `fds` what is ready at the moment: fills in `revents` and counts those not zero.
///
/// May sleep for a lock, but does not wait for events.
pub fn ask(files: &FdTable, fds: &mut [PollFd]) -> usize {
    let fds = fds.get_mut(..BLOCK.min(fds.len())).unwrap_or_default();
    let mut ready = 0;
    // A bit for each entry whose file can be asked only without the spinlock.
    let mut late = 0u64;
    let held = files.hold();
    for (at, entry) in fds.iter_mut().enumerate() {
        entry.revents = match held.get(entry.fd) {
            Some(file) => match file.ready() {
                Some(events) => reported(entry, events),
                None => {
                    late |= 1 << at;
                    0
                }
            },
            None if entry.fd < 0 => 0,
            None => PollEvents::NVAL.bits() as u16,
        };
        ready += usize::from(entry.revents != 0);
    }
    drop(held);
    while late != 0 {
        let at = late.trailing_zeros() as usize;
        late &= late - 1;
        if let Some(entry) = fds.get_mut(at) {
            let events =
                files.get(entry.fd).map_or(PollEvents::NVAL, |file| file.poll(&mut PollTable::query()));
            entry.revents = reported(entry, events) | (events & PollEvents::NVAL).bits() as u16;
            ready += usize::from(entry.revents != 0);
        }
    }
    ready
}

/// poll(2): fills in `revents` of each entry and counts those that are not zero.
///
/// `ERESTARTNOHAND`: a signal came first. `ENOMEM`. May sleep.
pub fn poll(files: &FdTable, fds: &mut [PollFd], deadline_ns: Option<u64>) -> Result<usize> {
    let ready = fds.chunks_mut(BLOCK).map(|block| ask(files, block)).sum();
    if ready > 0 || is_over(deadline_ns) { Ok(ready) } else { wait(files, fds, deadline_ns) }
}

/// As [`poll`], once [`ask`] has found nothing.
pub fn wait(files: &FdTable, fds: &mut [PollFd], deadline_ns: Option<u64>) -> Result<usize> {
    // Held to the end: a descriptor closed meanwhile must not take its wait queue away.
    let mut open: SmallVec<[Option<Arc<File>>; INLINE]> = SmallVec::new();
    open.try_reserve(fds.len()).map_err(|_| Errno::ENOMEM)?;
    open.extend(fds.iter().map(|entry| if entry.fd < 0 { None } else { files.get(entry.fd).ok() }));
    wait_ready(deadline_ns, |table| {
        let mut ready = 0;
        for (entry, file) in fds.iter_mut().zip(&open) {
            entry.revents = match file {
                Some(file) => reported(entry, file.poll(table)),
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
