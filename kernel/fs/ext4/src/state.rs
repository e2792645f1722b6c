//! The metadata that differs from the device, and the two ways to it: [`View`] reads, [`Txn`] changes.
//!
//! ```text
//!   live block:   data (newest)          in the running transaction, if `in_running`
//!                 committed (frozen)     in the journal, not yet home
//! ```
//!
//! A commit freezes `data` by sharing it as `committed`; the next change copies it ([`Block::make_unique`]).
//! A checkpoint writes `committed` home; a block that is in neither state any more moves to the clean cache.

use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use ext4_image::block::Freed;
use ext4_image::inode::Inode;
use ext4_image::{Block, BlockRef, Blocks, Edit, Error, Layout, Result, Seal, orphan};

use crate::error::from_device;
use crate::fs::Fs;
use crate::ranges::Ranges;

/// A metadata block that is not home yet.
pub(crate) struct Live {
    pub(crate) data: BlockRef,
    pub(crate) seal: Seal,
    pub(crate) in_running: bool,
    pub(crate) committed: Option<BlockRef>,
}

/// See the module's front page. Guarded by `Fs::state`.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) live: BTreeMap<u64, Live>,
    /// Blocks of `live` in the running transaction.
    pub(crate) nr_running: usize,
    /// Metadata blocks that the running transaction freed.
    pub(crate) revoked: BTreeSet<u64>,
    /// All blocks that it freed.
    pub(crate) freed: Ranges,
    /// Those of the transaction that is being committed.
    pub(crate) freed_before: Ranges,
    /// Number of the running transaction.
    pub(crate) tid: u64,
    /// Orphans, and the one that leads to each on the list on disk; 0: the list's head does.
    pub(crate) orphans: BTreeMap<u32, u32>,
    pub(crate) newest_orphan: u32,
}

impl State {
    /// The blocks of the running transaction.
    pub(crate) fn running(&self) -> Vec<(u64, Seal)> {
        let is_running = |(_, live): &(&u64, &Live)| live.in_running;
        self.live.iter().filter(is_running).map(|(&nr, live)| (nr, live.seal)).collect()
    }

    /// Whether blocks were freed that cannot be had before a commit.
    pub(crate) fn holds_freed(&self) -> bool {
        !self.freed.is_empty() || !self.freed_before.is_empty()
    }

    /// Whether the running transaction has anything in it.
    pub(crate) fn is_clean(&self) -> bool {
        self.nr_running == 0 && self.revoked.is_empty() && self.freed.is_empty()
    }
}

/// Reads metadata.
pub(crate) struct View<'a> {
    pub(crate) fs: &'a Fs,
    pub(crate) state: &'a State,
}

fn read(fs: &Fs, state: &State, nr: u64) -> Result<BlockRef> {
    if let Some(live) = state.live.get(&nr) {
        return Ok(live.data.clone());
    }
    if let Some(block) = fs.cache.get(nr) {
        return Ok(block);
    }
    let block = fs.disk.read_block(nr).map_err(from_device)?;
    Ok(fs.cache.insert(nr, Arc::new(block)))
}

impl Blocks for View<'_> {
    fn read(&self, nr: u64) -> Result<BlockRef> {
        read(self.fs, self.state, nr)
    }
}

/// Changes metadata.
pub(crate) struct Txn<'a> {
    pub(crate) fs: &'a Fs,
    pub(crate) state: &'a mut State,
}

impl Txn<'_> {
    /// Puts `inode` on the list of orphans, unless it is there. It is stored.
    pub(crate) fn add_orphan(&mut self, layout: &Layout, inode: &mut Inode) -> Result<()> {
        if self.state.orphans.contains_key(&inode.ino()) {
            return inode.store(layout, self);
        }
        orphan::add(layout, self, inode)?;
        let state = &mut *self.state;
        let older = core::mem::replace(&mut state.newest_orphan, inode.ino());
        if let Some(before) = state.orphans.get_mut(&older) {
            *before = inode.ino();
        }
        state.orphans.insert(inode.ino(), 0);
        Ok(())
    }

    /// Takes `inode` off the list of orphans, if it is there. It is stored.
    pub(crate) fn remove_orphan(&mut self, layout: &Layout, inode: &mut Inode) -> Result<()> {
        let (ino, older) = (inode.ino(), inode.dtime());
        let before = self.state.orphans.remove(&ino);
        match orphan::remove(layout, self, inode, before) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        let state = &mut *self.state;
        if state.newest_orphan == ino {
            state.newest_orphan = older;
        }
        if let (Some(before), Some(of_older)) = (before, state.orphans.get_mut(&older)) {
            *of_older = before;
        }
        Ok(())
    }
}

impl Live {
    /// Makes it part of the running transaction, to be sealed by `seal`.
    fn enlist(&mut self, nr: u64, seal: Seal, nr_running: &mut usize, revoked: &mut BTreeSet<u64>) {
        if self.in_running {
            self.seal = self.seal.and(seal);
            return;
        }
        self.in_running = true;
        self.seal = seal;
        *nr_running += 1;
        if !revoked.is_empty() {
            revoked.remove(&nr);
        }
    }
}

impl Blocks for Txn<'_> {
    fn read(&self, nr: u64) -> Result<BlockRef> {
        read(self.fs, self.state, nr)
    }
}

impl Edit for Txn<'_> {
    fn write_block(&mut self, nr: u64, seal: Seal) -> Result<&mut Block> {
        let State { live, nr_running, revoked, .. } = &mut *self.state;
        let live = match live.entry(nr) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                let data = match self.fs.cache.remove(nr) {
                    Some(block) => block,
                    None => Arc::new(self.fs.disk.read_block(nr).map_err(from_device)?),
                };
                place.insert(Live { data, seal, in_running: false, committed: None })
            }
        };
        live.enlist(nr, seal, nr_running, revoked);
        Block::make_unique(&mut live.data)
    }

    fn create(&mut self, nr: u64, seal: Seal) -> Result<&mut [u8]> {
        self.fs.cache.remove(nr);
        let block = Block::zeroed(self.fs.layout.block_size)?;
        block.set_checked();
        let data = Arc::new(block);
        let State { live, nr_running, revoked, .. } = &mut *self.state;
        let live = match live.entry(nr) {
            Entry::Occupied(found) => {
                let live = found.into_mut();
                live.data = data;
                live
            }
            Entry::Vacant(place) => place.insert(Live { data, seal, in_running: false, committed: None }),
        };
        live.enlist(nr, seal, nr_running, revoked);
        Block::make_unique(&mut live.data).map(Block::bytes_mut)
    }

    fn is_at_hand(&self, nr: u64) -> bool {
        self.state.live.contains_key(&nr) || self.fs.cache.get(nr).is_some()
    }

    fn freed(&mut self, start: u64, count: u64, what: Freed) {
        let state = &mut *self.state;
        state.freed.insert(start..start + count);
        if what == Freed::Data {
            return;
        }
        for nr in start..start + count {
            self.fs.cache.remove(nr);
            if let Some(live) = state.live.get_mut(&nr) {
                if live.in_running {
                    live.in_running = false;
                    state.nr_running -= 1;
                }
                // What the journal has of it must get home until this transaction is in the journal, too.
                if let Some(committed) = &live.committed {
                    live.data = committed.clone();
                } else {
                    state.live.remove(&nr);
                }
            }
            state.revoked.insert(nr);
        }
    }

    fn first_held(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let parts = [&self.state.freed, &self.state.freed_before].map(|set| set.first_in(start..end));
        parts.into_iter().flatten().map(|part| (part.start, part.end)).min()
    }

    fn promised(&self) -> u64 {
        self.fs.promised()
    }

    fn now(&self) -> u64 {
        u64::try_from(vfs::time::now().tv_sec).unwrap_or(0)
    }
}
