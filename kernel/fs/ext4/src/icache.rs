//! Inodes in memory, by number: one object for each file, however many names lead to it.

use alloc::sync::{Arc, Weak};

use hal::sync::SpinLock;
use hashbrown::HashMap;
use vfs::Inode;

/// See the module's front page. Its lock is a leaf.
pub(crate) struct InodeCache(SpinLock<HashMap<u32, Weak<Inode>>>);

impl InodeCache {
    pub(crate) fn new() -> Self {
        Self(SpinLock::new("ext4.icache", HashMap::new()))
    }

    pub(crate) fn get(&self, ino: u32) -> Option<Arc<Inode>> {
        self.0.lock().get(&ino).and_then(Weak::upgrade)
    }

    /// Puts `inode` in, unless there is one that lives; gives the one that is there then.
    pub(crate) fn insert(&self, ino: u32, inode: &Arc<Inode>) -> Arc<Inode> {
        let mut map = self.0.lock();
        if let Some(there) = map.get(&ino).and_then(Weak::upgrade) {
            return there;
        }
        map.insert(ino, Arc::downgrade(inode));
        inode.clone()
    }

    /// Takes the inode out if it is dead.
    pub(crate) fn remove_dead(&self, ino: u32) {
        let mut map = self.0.lock();
        if map.get(&ino).is_some_and(|known| known.strong_count() == 0) {
            map.remove(&ino);
        }
    }
}
