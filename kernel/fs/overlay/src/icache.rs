//! Inodes in memory, by the inode that they show: one object for each file, however many names lead to it.

use alloc::sync::{Arc, Weak};

use hal::sync::SpinLock;
use hashbrown::HashMap;
use vfs::Inode;

/// See the module's front page. Its lock is a leaf. A key stays true because an overlay's inode keeps what it shows.
pub(crate) struct InodeCache(SpinLock<HashMap<usize, Weak<Inode>>>);

fn key(real: &Arc<Inode>) -> usize {
    Arc::as_ptr(real) as usize
}

impl InodeCache {
    pub(crate) fn new() -> Self {
        Self(SpinLock::new("overlay.icache", HashMap::new()))
    }

    /// The overlay's inode that shows `real`.
    pub(crate) fn get(&self, real: &Arc<Inode>) -> Option<Arc<Inode>> {
        self.0.lock().get(&key(real)).and_then(Weak::upgrade)
    }

    /// Notes that `inode` shows `real`, unless another one does, which is given then.
    pub(crate) fn insert(&self, real: &Arc<Inode>, inode: &Arc<Inode>) -> Arc<Inode> {
        self.insert_if(real, inode, || true).unwrap_or_else(|| inode.clone())
    }

    /// As [`InodeCache::insert`]; `None` if `is_true` of what `inode` shows is not when it is to be noted.
    pub(crate) fn insert_if(
        &self,
        real: &Arc<Inode>,
        inode: &Arc<Inode>,
        is_true: impl FnOnce() -> bool,
    ) -> Option<Arc<Inode>> {
        let mut map = self.0.lock();
        if let Some(there) = map.get(&key(real)).and_then(Weak::upgrade) {
            return Some(there);
        }
        if !is_true() {
            return None;
        }
        map.insert(key(real), Arc::downgrade(inode));
        Some(inode.clone())
    }

    /// Takes `real` out: it is shown no more.
    pub(crate) fn forget(&self, real: &Arc<Inode>) {
        self.0.lock().remove(&key(real));
    }

    /// Takes what showed `real` out if it is dead.
    pub(crate) fn remove_dead(&self, real: &Arc<Inode>) {
        let mut map = self.0.lock();
        if map.get(&key(real)).is_some_and(|known| known.strong_count() == 0) {
            map.remove(&key(real));
        }
    }
}
