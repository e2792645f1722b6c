//! The probes that exist, by the byte of the file that they are at.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use mm::Mapping;

use super::Probe;

/// In the order of [`Probe::key`].
static PROBES: SpinLock<Vec<Arc<Probe>>> = SpinLock::new("perf.uprobe.probes", Vec::new());

/// The probe at `offset` of `mapping`.
pub(super) fn find(mapping: &Arc<Mapping>, offset: u64) -> Option<Arc<Probe>> {
    let probes = PROBES.lock();
    let at = probes.binary_search_by_key(&super::key(mapping, offset), |probe| probe.key()).ok()?;
    probes.get(at).cloned()
}

/// The probe at `offset` of `mapping`, which is made if there is none, with one more use. `ENOMEM`.
pub(super) fn acquire(mapping: &Arc<Mapping>, offset: u64, awaits_return: bool) -> Result<Arc<Probe>> {
    let new = Arc::new(Probe::new(mapping.clone(), offset));
    let mut probes = PROBES.lock();
    let probe = match probes.binary_search_by_key(&new.key(), |probe| probe.key()) {
        Ok(at) => probes.get(at).cloned().ok_or(Errno::ENOENT)?,
        Err(at) => {
            probes.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            probes.insert(at, new.clone());
            new
        }
    };
    probe.add_use(awaits_return);
    Ok(probe)
}

/// Whether `probe` has one use. Uses do not change while the caller holds the lock of changes.
pub(super) fn is_last_use(probe: &Probe) -> bool {
    probe.nr_uses() == 1
}

/// Gives one use back; with the last one the probe is known no longer.
pub(super) fn release(probe: &Arc<Probe>, awaits_return: bool) {
    let gone = {
        let mut probes = PROBES.lock();
        if !probe.remove_use(awaits_return) {
            return;
        }
        let at = probes.iter().position(|other| Arc::ptr_eq(other, probe));
        at.map(|at| probes.remove(at))
    };
    drop(gone);
}

/// Calls `visit` for each probe. `ENOMEM`.
pub(super) fn for_each(mut visit: impl FnMut(&Arc<Probe>)) -> Result<()> {
    let mut copy = Vec::new();
    loop {
        let len = PROBES.lock().len();
        copy.try_reserve(len).map_err(|_| Errno::ENOMEM)?;
        let probes = PROBES.lock();
        if probes.len() <= copy.capacity() {
            copy.extend(probes.iter().cloned());
            break;
        }
    }
    copy.iter().for_each(&mut visit);
    Ok(())
}
