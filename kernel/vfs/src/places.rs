//! What is mounted on a directory or file, in all namespaces.
//!
//! Who removes a name need not know what others have mounted there: only a mount in the namespace that the removal goes
//! through is in the way (`EBUSY`). Mounts elsewhere go with the name ([`OnVictim`]).
//!
//! # Locks
//!
//! `ON` is a leaf lock. [`OnVictim`] takes [`lock_trees`] when it is dropped: declare it before any other lock is taken.
//!
//! Sources: mount_namespaces(7), "Restrictions on mount namespaces"; rmdir(2), unlink(2), rename(2).

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::sync::SpinLock;

use crate::dentry::Dentry;
use crate::mount::{self, Mount, lock_trees};

/// Mounts by the address of what they are on; a place keeps its dentry, so the address is not used again meanwhile.
static ON: SpinLock<BTreeMap<usize, Vec<Weak<Mount>>>> = SpinLock::new("vfs.places", BTreeMap::new());

fn key(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

/// `mount` is on `dentry` from now on. With `LOCK` held.
pub(crate) fn add(dentry: &Arc<Dentry>, mount: &Arc<Mount>) {
    dentry.add_mount();
    ON.lock().entry(key(dentry)).or_default().push(Arc::downgrade(mount));
}

/// `mount` is on `dentry` no more. With `LOCK` held.
pub(crate) fn remove(dentry: &Arc<Dentry>, mount: &Arc<Mount>) {
    dentry.remove_mount();
    let mut on = ON.lock();
    if let Some(mounts) = on.get_mut(&key(dentry)) {
        mounts.retain(|known| known.as_ptr() != Arc::as_ptr(mount));
        if mounts.is_empty() {
            on.remove(&key(dentry));
        }
    }
}

/// What is mounted on `dentry` just now.
fn mounts_on(dentry: &Arc<Dentry>) -> Vec<Arc<Mount>> {
    let count = ON.lock().get(&key(dentry)).map_or(0, Vec::len);
    let mut mounts = Vec::with_capacity(count);
    if let Some(on) = ON.lock().get(&key(dentry)) {
        // Within what there is room for: the lock spins.
        mounts.extend(on.iter().filter_map(Weak::upgrade).take(count));
    }
    mounts
}

/// What other namespaces have mounted on a name that is being removed.
#[derive(Default)]
pub(crate) struct OnVictim {
    victim: Option<Arc<Dentry>>,
    is_removed: bool,
}

impl OnVictim {
    /// Looks at `dentry`, which is to be removed through `through`. `EBUSY`: something is mounted there in the namespace of
    /// `through`, or at all if that is in none that tasks live in.
    pub(crate) fn look(&mut self, dentry: &Arc<Dentry>, through: &Mount) -> Result<()> {
        if !dentry.is_mountpoint() {
            return Ok(());
        }
        self.victim = Some(dentry.clone());
        match through.ns() {
            Some(ns) if !ns.is_detached() && mounts_on(dentry).iter().all(|mount| !mount.is_in(&ns)) => {
                Ok(())
            }
            _ => Err(Errno::EBUSY),
        }
    }

    /// The name is gone: so will be what was mounted there.
    pub(crate) fn removed(&mut self) {
        self.is_removed = true;
    }
}

impl Drop for OnVictim {
    fn drop(&mut self) {
        if let Some(victim) = self.victim.take().filter(|_| self.is_removed) {
            // What goes is given up after the lock, and is what is there by now.
            let gone;
            {
                let _locked = lock_trees();
                gone = mounts_on(&victim);
                gone.iter().for_each(mount::dissolve);
            }
            drop(gone);
        }
    }
}
