//! `SEM_UNDO`: what a process has done to semaphores is taken back when it ends.
//!
//! The adjustments are kept in the sets; here is which sets a process has to visit. Most processes never use it: then
//! their end costs one look at a counter.
//!
//! Locks: one leaf lock around the map, never held with a set's.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use process::hooks::ExitHook;
use process::{Task, TaskFlags};

use crate::sem::SemSet;

/// Whose adjustments: a process, or several that share them (`CLONE_SYSVSEM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerId(u64);

/// The sets that the processes of one owner have adjustments in.
struct Owner {
    id: OwnerId,
    /// Processes that share it.
    users: usize,
    sets: Vec<Weak<SemSet>>,
}

struct Owners {
    /// Process to owner.
    of: BTreeMap<u32, u64>,
    owners: BTreeMap<u64, Owner>,
}

static OWNERS: SpinLock<Owners> =
    SpinLock::new("ipc.undo", Owners { of: BTreeMap::new(), owners: BTreeMap::new() });
/// How many processes are in the map.
static NR_PROCESSES: AtomicUsize = AtomicUsize::new(0);
static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

impl OwnerId {
    /// That of `task`'s process; 0 for one without adjustments.
    pub(crate) fn of(task: &Task) -> Self {
        if NR_PROCESSES.load(Relaxed) == 0 {
            return Self(0);
        }
        Self(OWNERS.lock().of.get(&task.pid()).copied().unwrap_or(0))
    }

    #[cfg(test)]
    pub(crate) const fn for_test(number: u64) -> Self {
        Self(number)
    }
}

/// A number that processes with the same adjustments (`CLONE_SYSVSEM`) have in common; 0: none yet (kcmp(2)).
pub fn undo_owner(task: &Task) -> u64 {
    OwnerId::of(task).0
}

impl Owners {
    fn owner_of(&mut self, pid: u32) -> Option<&mut Owner> {
        let number = match self.of.get(&pid) {
            Some(number) => *number,
            None => {
                let number = NEXT_OWNER.fetch_add(1, Relaxed);
                self.of.insert(pid, number);
                NR_PROCESSES.fetch_add(1, Relaxed);
                self.owners.insert(number, Owner { id: OwnerId(number), users: 1, sets: Vec::new() });
                number
            }
        };
        self.owners.get_mut(&number)
    }
}

/// Notes that `task`'s process will have adjustments in `set`.
pub(crate) fn remember(task: &Task, set: &Arc<SemSet>) -> Result<OwnerId> {
    let mut owners = OWNERS.lock();
    let owner = owners.owner_of(task.pid()).ok_or(Errno::ENOMEM)?;
    let weak = Arc::downgrade(set);
    if !owner.sets.iter().any(|known| known.ptr_eq(&weak)) {
        owner.sets.retain(|known| known.strong_count() > 0);
        owner.sets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        owner.sets.push(weak);
    }
    Ok(owner.id)
}

/// Takes back all adjustments of process `pid`, unless others share them.
fn leave(pid: u32) {
    if NR_PROCESSES.load(Relaxed) == 0 {
        return;
    }
    let gone = {
        let mut owners = OWNERS.lock();
        let Some(number) = owners.of.remove(&pid) else { return };
        NR_PROCESSES.fetch_sub(1, Relaxed);
        let Some(owner) = owners.owners.get_mut(&number) else { return };
        owner.users -= 1;
        if owner.users > 0 {
            return;
        }
        owners.owners.remove(&number)
    };
    let Some(owner) = gone else { return };
    for set in owner.sets.iter().filter_map(Weak::upgrade) {
        set.apply_undo(owner.id, pid);
    }
}

/// The end of tasks, as `process` tells of it.
pub struct Hooks;

impl ExitHook for Hooks {
    fn task_exit(&self, task: &Task) {
        let group = task.group();
        // At an exit the thread is no longer counted.
        let others = if task.has(TaskFlags::EXITING) { group.nr_threads() } else { group.nr_threads() - 1 };
        if others == 0 {
            leave(task.pid());
            if task.has(TaskFlags::EXITING) {
                crate::shm::process_exit(group);
            }
        }
    }

    fn task_clone(&self, parent: &Task, child: &Task) {
        if parent.pid() == child.pid() {
            return;
        }
        let mut owners = OWNERS.lock();
        let Some(owner) = owners.owner_of(parent.pid()) else { return };
        owner.users += 1;
        let number = owner.id.0;
        owners.of.insert(child.pid(), number);
        NR_PROCESSES.fetch_add(1, Relaxed);
    }
}
