//! Upper and work directories in use: two overlays that write to one make nonsense of each other's work.

use alloc::sync::Arc;

use abi::{Errno, Result};
use hal::sync::SpinLock;
use vfs::{Inode, InodeFlags};

/// Held while a directory is looked at and taken. A leaf.
static TAKING: SpinLock<()> = SpinLock::new("overlay.taking", ());

/// The directories of one overlay, until it is unmounted.
pub(crate) struct Claim(SpinLock<[Option<Arc<Inode>>; 2]>);

/// What to do about a directory that another overlay uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfTaken {
    /// Say so, and use it too. What comes of it is undefined, as on Linux.
    Warn,
    /// `EBUSY`.
    Refuse,
}

impl Claim {
    /// Takes the upper and the work directory. May sleep.
    pub(crate) fn new(upper: &Arc<Inode>, work: &Arc<Inode>, if_taken: IfTaken) -> Result<Claim> {
        let claim = Claim(SpinLock::new("overlay.claim", [None, None]));
        for (nr, (dir, name)) in [(upper, "upperdir"), (work, "workdir")].into_iter().enumerate() {
            if !is_taken_now(dir) {
                if let Some(place) = claim.0.lock().get_mut(nr) {
                    *place = Some(dir.clone());
                }
            } else if if_taken == IfTaken::Refuse {
                log::error!("overlay: {name} is in-use as upperdir/workdir of another mount");
                return Err(Errno::EBUSY);
            } else {
                log::warn!("overlay: {name} is in-use as upperdir/workdir of another mount");
            }
        }
        Ok(claim)
    }

    /// The overlay is not mounted any more.
    pub(crate) fn release(&self) {
        let dirs = core::mem::take(&mut *self.0.lock());
        for dir in dirs.into_iter().flatten() {
            dir.set_flags(InodeFlags::empty(), InodeFlags::CLAIMED);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.release();
    }
}

/// Takes `dir` unless another overlay has it. One that was unmounted a moment ago may have its mount for a grace period still.
fn is_taken_now(dir: &Inode) -> bool {
    is_taken(dir) && {
        sched::workqueue::synchronize_rcu();
        is_taken(dir)
    }
}

/// Takes `dir`; whether another one has it.
fn is_taken(dir: &Inode) -> bool {
    let _taking = TAKING.lock();
    let is_taken = dir.flags().contains(InodeFlags::CLAIMED);
    dir.set_flags(InodeFlags::CLAIMED, InodeFlags::empty());
    is_taken
}
