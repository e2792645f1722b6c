//! select(2) and pselect(2).
//!
//! Sources: select(2), POSIX.1-2024 select().

use alloc::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, Result};
use smallvec::SmallVec;
use vfs::{FdTable, File};

use crate::poll::{INLINE, wait_ready};

/// A set of descriptors: bit `fd % 64` of word `fd / 64`.
pub type FdSet = SmallVec<[u64; 4]>;

/// What makes a descriptor readable, writable and exceptional.
const MEANINGS: [PollEvents; 3] = [
    PollEvents::IN
        .union(PollEvents::RDNORM)
        .union(PollEvents::RDBAND)
        .union(PollEvents::HUP)
        .union(PollEvents::ERR),
    PollEvents::OUT.union(PollEvents::WRNORM).union(PollEvents::WRBAND).union(PollEvents::ERR),
    PollEvents::PRI,
];

fn has(set: &Option<FdSet>, fd: usize) -> bool {
    set.as_ref().and_then(|set| set.get(fd / 64)).is_some_and(|word| word & (1 << (fd % 64)) != 0)
}

/// A descriptor in any of the sets: its number, its file, what is asked of it.
struct Asked {
    fd: usize,
    file: Arc<File>,
    wanted: [bool; 3],
}

/// select(2): replaces the sets (to read, to write, exceptional) of descriptors below `nfds` by those that are ready
/// and counts them.
///
/// `EBADF`: a descriptor in a set is not open. `ERESTARTNOHAND`: a signal came first. `ENOMEM`. On an error the sets
/// are as they were. May sleep.
pub fn select(
    files: &FdTable,
    nfds: usize,
    sets: &mut [Option<FdSet>; 3],
    deadline_ns: Option<u64>,
) -> Result<usize> {
    let mut asked: SmallVec<[Asked; INLINE]> = SmallVec::new();
    for fd in 0..nfds {
        let wanted = [0, 1, 2].map(|at: usize| has(&sets[at], fd));
        if wanted.contains(&true) {
            asked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            asked.push(Asked { fd, file: files.get(fd as i32)?, wanted });
        }
    }
    let mut results: SmallVec<[[bool; 3]; INLINE]> = SmallVec::new();
    results.try_reserve(asked.len()).map_err(|_| Errno::ENOMEM)?;
    let count = wait_ready(deadline_ns, |table| {
        let mut count = 0;
        results.clear();
        for one in &asked {
            let events = one.file.poll(table);
            let is_ready = [0, 1, 2].map(|at: usize| one.wanted[at] && events.intersects(MEANINGS[at]));
            let hits = is_ready.iter().filter(|&&hit| hit).count();
            if hits > 0 {
                table.stop_watching();
            }
            count += hits;
            results.push(is_ready);
        }
        count
    })?;
    for set in sets.iter_mut().flatten() {
        set.fill(0);
    }
    for (one, is_ready) in asked.iter().zip(&results) {
        for (set, _) in sets.iter_mut().zip(is_ready).filter(|(_, hit)| **hit) {
            if let Some(word) = set.as_mut().and_then(|set| set.get_mut(one.fd / 64)) {
                *word |= 1 << (one.fd % 64);
            }
        }
    }
    Ok(count)
}
