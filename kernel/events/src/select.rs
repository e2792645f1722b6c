//! select(2) and pselect(2).
//!
//! Sources: select(2), POSIX.1-2024 select().

use alloc::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, Result};
use sched::PollTable;
use smallvec::SmallVec;
use vfs::{FdTable, File};

use crate::poll::{INLINE, is_over, wait_ready};

/// A set of descriptors: bit `fd % 64` of word `fd / 64`.
pub type FdSet = SmallVec<[u64; 16]>;

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

/// The word `at` of a set.
fn word(set: &Option<FdSet>, at: usize) -> u64 {
    set.as_ref().and_then(|set| set.get(at)).copied().unwrap_or(0)
}

/// Asks the descriptors in `all`, the union of `asked`, of which `first` is that of bit 0; what is ready of each.
///
/// `EBADF`: one is not open.
fn ask_word(files: &FdTable, first: usize, all: u64, asked: [u64; 3]) -> Result<[u64; 3]> {
    let mut ready = [0; 3];
    let mut note = |bit: u64, events: PollEvents| {
        for (ready, meaning) in ready.iter_mut().zip(MEANINGS) {
            if events.intersects(meaning) {
                *ready |= bit;
            }
        }
    };
    let fd_of = |bits: u64| (first + bits.trailing_zeros() as usize) as i32;
    let (mut left, mut late) = (all, 0);
    let held = files.hold();
    while left != 0 {
        let (fd, bit) = (fd_of(left), left & left.wrapping_neg());
        left ^= bit;
        match held.get(fd).ok_or(Errno::EBADF)?.ready() {
            Some(events) if events.is_empty() => {}
            Some(events) => note(bit, events),
            None => late |= bit,
        }
    }
    drop(held);
    while late != 0 {
        let (fd, bit) = (fd_of(late), late & late.wrapping_neg());
        late ^= bit;
        note(bit, files.get(fd)?.poll(&mut PollTable::query()));
    }
    Ok([0, 1, 2].map(|at: usize| ready[at] & asked[at]))
}

/// Asks all descriptors once, 64 at a time, without waiting. If any is ready, or `last` says that it is the only
/// time, replaces the sets; the count.
fn ask(files: &FdTable, nfds: usize, sets: &mut [Option<FdSet>; 3], last: bool) -> Result<usize> {
    let mut found = [FdSet::new(), FdSet::new(), FdSet::new()];
    let mut count = 0;
    let words = nfds.div_ceil(64);
    for found in &mut found {
        found.try_reserve(words).map_err(|_| Errno::ENOMEM)?;
    }
    for at in 0..words {
        let asked = [0, 1, 2].map(|set: usize| word(&sets[set], at));
        let below = if nfds - at * 64 < 64 { (1 << (nfds - at * 64)) - 1 } else { u64::MAX };
        let all = (asked[0] | asked[1] | asked[2]) & below;
        let ready = if all == 0 { [0; 3] } else { ask_word(files, at * 64, all, asked)? };
        for (found, ready) in found.iter_mut().zip(ready) {
            count += ready.count_ones() as usize;
            found.push(ready);
        }
    }
    if count > 0 || last {
        for (set, found) in sets.iter_mut().zip(found) {
            if set.is_some() {
                *set = Some(found);
            }
        }
    }
    Ok(count)
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
    let last = is_over(deadline_ns);
    let count = ask(files, nfds, sets, last)?;
    if count > 0 || last { Ok(count) } else { wait(files, nfds, sets, deadline_ns) }
}

/// As [`select`], when nothing is ready yet.
fn wait(
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
