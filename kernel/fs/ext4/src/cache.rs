//! Clean metadata blocks in memory. Changed ones are in [`crate::state`] until they are home.

use alloc::collections::VecDeque;

use ext4_image::BlockRef;
use hal::sync::SpinLock;
use hashbrown::HashMap;

/// Bytes that one file system's cache may hold.
const MAX_BYTES: usize = 32 << 20;

struct Inner {
    blocks: HashMap<u64, BlockRef>,
    /// Numbers in the order in which they came: the oldest go first.
    order: VecDeque<u64>,
}

/// See the module's front page. Its lock is a leaf.
pub(crate) struct Cache {
    inner: SpinLock<Inner>,
    max_blocks: usize,
}

impl Cache {
    pub(crate) fn new(block_size: usize) -> Self {
        let inner = Inner { blocks: HashMap::new(), order: VecDeque::new() };
        Self { inner: SpinLock::new("ext4.cache", inner), max_blocks: MAX_BYTES / block_size }
    }

    pub(crate) fn get(&self, nr: u64) -> Option<BlockRef> {
        self.inner.lock().blocks.get(&nr).cloned()
    }

    /// Keeps `block`, unless there is one; gives the one that is there then. Without memory nothing is kept.
    pub(crate) fn insert(&self, nr: u64, block: BlockRef) -> BlockRef {
        let mut gone = None;
        let mut inner = self.inner.lock();
        if let Some(there) = inner.blocks.get(&nr) {
            return there.clone();
        }
        if inner.blocks.len() >= self.max_blocks {
            gone = inner.order.pop_front().and_then(|oldest| inner.blocks.remove(&oldest));
        }
        if inner.blocks.try_reserve(1).is_ok() && inner.order.try_reserve(1).is_ok() {
            inner.blocks.insert(nr, block.clone());
            inner.order.push_back(nr);
        }
        drop(inner);
        drop(gone);
        block
    }

    /// Forgets a block: it changes, or it is free.
    pub(crate) fn remove(&self, nr: u64) -> Option<BlockRef> {
        let mut inner = self.inner.lock();
        let block = inner.blocks.remove(&nr);
        // The order keeps the number until it comes to the front; keep it from growing without bound.
        if inner.order.len() > 2 * inner.blocks.len() + 64 {
            let Inner { blocks, order } = &mut *inner;
            order.retain(|nr| blocks.contains_key(nr));
        }
        block
    }
}
