//! The probes that exist, by the byte of the file that they are at.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::SeqCst, fence};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use mm::Mapping;

use super::Probe;

/// How many there are.
static NR: AtomicUsize = AtomicUsize::new(0);

/// In the order of [`Probe::key`].
static PROBES: SpinLock<Vec<Arc<Probe>>> = SpinLock::new("perf.uprobe.probes", Vec::new());

/// Whether there are none. What the caller has mapped before is seen by whoever makes one later.
pub(super) fn is_empty() -> bool {
    fence(SeqCst);
    NR.load(SeqCst) == 0
}

/// Whether there is a probe in the file of `mapping`.
pub(super) fn knows(mapping: &Arc<Mapping>) -> bool {
    let probes = PROBES.lock();
    let at = probes.partition_point(|probe| probe.key() < super::key(mapping, 0));
    probes.get(at).is_some_and(|probe| Arc::ptr_eq(&probe.mapping, mapping))
}

/// The probe at `offset` of `mapping`.
pub(super) fn find(mapping: &Arc<Mapping>, offset: u64) -> Option<Arc<Probe>> {
    let probes = PROBES.lock();
    let at = probes.binary_search_by_key(&super::key(mapping, offset), |probe| probe.key()).ok()?;
    probes.get(at).cloned()
}

/// The probe at `offset` of `mapping`, which is made if there is none, with one more use. `ENOMEM`.
pub(super) fn acquire(mapping: &Arc<Mapping>, offset: u64, awaits_return: bool) -> Result<Arc<Probe>> {
    let new = Arc::new(Probe::new(mapping.clone(), offset));
    // Memory is had without the lock, where others can be made to give some.
    let mut room = Vec::new();
    loop {
        let len = PROBES.lock().len();
        room.try_reserve(len + 4).map_err(|_| Errno::ENOMEM)?;
        let mut probes = PROBES.lock();
        let at = probes.binary_search_by_key(&new.key(), |probe| probe.key());
        if let Some(probe) = at.ok().and_then(|at| probes.get(at)) {
            probe.add_use(awaits_return);
            return Ok(probe.clone());
        }
        if probes.len() == probes.capacity() {
            if room.capacity() <= probes.len() {
                continue;
            }
            room.append(&mut probes);
            core::mem::swap(&mut *probes, &mut room);
        }
        new.add_use(awaits_return);
        probes.insert(at.unwrap_or_else(|at| at), new.clone());
        NR.fetch_add(1, SeqCst);
        return Ok(new);
    }
}

/// Whether `probe` has one use. Uses do not change while the caller holds the lock of changes.
pub(super) fn is_last_use(probe: &Probe) -> bool {
    probe.nr_uses() == 1
}

/// Gives one use back; with the last one the probe is known no longer, unless it `stays`.
pub(super) fn release(probe: &Arc<Probe>, awaits_return: bool, stays: bool) {
    let was_last = {
        let _probes = PROBES.lock();
        probe.remove_use(awaits_return)
    };
    if was_last && !stays {
        forget(probe);
    }
}

/// Lets a probe without uses be known no longer. The caller holds the lock of changes, so it gets none meanwhile.
pub(super) fn forget(probe: &Arc<Probe>) {
    let gone = {
        let mut probes = PROBES.lock();
        let at = probes.iter().position(|other| Arc::ptr_eq(other, probe));
        at.map(|at| probes.remove(at))
    };
    if gone.is_some() {
        NR.fetch_sub(1, SeqCst);
    }
    drop(gone);
}

/// The probes that are `wanted`. `ENOMEM`.
pub(super) fn select(wanted: impl Fn(&Probe) -> bool) -> Result<Vec<Arc<Probe>>> {
    let mut found = Vec::new();
    loop {
        let nr = PROBES.lock().iter().filter(|probe| wanted(probe)).count();
        found.try_reserve(nr).map_err(|_| Errno::ENOMEM)?;
        let probes = PROBES.lock();
        let wanted = || probes.iter().filter(|probe| wanted(probe));
        if wanted().count() <= found.capacity() {
            found.extend(wanted().cloned());
            return Ok(found);
        }
    }
}
