//! What the VFS asks of the file system as a whole, and the thread that commits every few seconds.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use abi::fs::Statfs;
use abi::{Errno, Result};
use arrayvec::ArrayVec;
use ext4_image::Support;
use sched::Interruptible;
use vfs::handle::Export;
use vfs::{Inode, SuperBlock, SuperOps};

use crate::fs::Fs;
use crate::node::node;

/// ext4's part of a superblock. When it goes, nothing of the file system is in use any more.
pub(crate) struct Super(pub(crate) Arc<Fs>);

impl SuperOps for Super {
    fn uuid(&self) -> [u8; 16] {
        self.0.layout.uuid
    }

    fn export(&self) -> Option<&dyn Export> {
        Some(self)
    }

    fn statfs(&self, _sb: &SuperBlock) -> Result<Statfs> {
        self.0.statfs()
    }

    fn show_options(&self, _sb: &SuperBlock, out: &mut Vec<u8>) {
        self.0.options.lock().show(out);
        if self.0.is_aborted.load(Acquire) {
            let why: &[u8] = if self.0.is_shut_down() { b",shutdown" } else { b",emergency_ro" };
            out.extend_from_slice(why);
        }
    }

    fn remount(&self, _sb: &SuperBlock, data: &[u8]) -> Result<()> {
        let mut options = self.0.options.lock();
        let new = options.parse(data)?;
        if new.data != options.data || new.no_delay != options.no_delay {
            return Err(Errno::EINVAL);
        }
        *options = new;
        Ok(())
    }

    fn set_readonly(&self, _sb: &SuperBlock, readonly: bool) -> Result<()> {
        if readonly {
            return self.0.quiesce();
        }
        let is_possible = matches!(self.0.layout.support(), Support::ReadWrite)
            && !self.0.is_aborted.load(Acquire)
            && !self.0.disk.device().is_read_only();
        if is_possible { Ok(()) } else { Err(Errno::EROFS) }
    }

    fn shutdown(&self, _sb: &SuperBlock) {
        self.0.shut_down();
    }

    fn sync(&self, sb: &SuperBlock) -> Result<()> {
        if sb.is_readonly() {
            return Ok(());
        }
        self.0.finish_evictions();
        self.0.quiesce()
    }
}

impl Drop for Super {
    fn drop(&mut self) {
        let fs = self.0.clone();
        let finish = move || {
            fs.wait_for_evictions();
            if let Err(errno) = fs.quiesce()
                && !fs.is_aborted.load(Acquire)
            {
                log::error!("ext4 ({}): the last write failed: {errno:?}", fs.disk.device().name());
            }
        };
        if self.0.dirty.lock().is_empty() && self.0.nr_evictions.load(Acquire) == 0 {
            finish();
        } else {
            sched::workqueue::queue(Box::new(finish));
        }
    }
}

/// Inodes that are taken from the list under one hold of its lock.
const AT_ONCE: usize = 32;

impl Fs {
    /// Has inodes freed that lost their last name and their last user before: the cache of names lets go of an
    /// inode only after a grace period. Gives whether there was anything to wait for.
    pub(crate) fn finish_evictions(&self) -> bool {
        let has_orphans = self.nr_orphans.load(Acquire) > 0;
        if has_orphans {
            sched::workqueue::await_rcu();
        }
        let has_evictions = self.nr_evictions.load(Acquire) > 0;
        self.wait_for_evictions();
        has_orphans || has_evictions
    }

    /// Waits until inodes without names are freed whose last user is gone.
    pub(crate) fn wait_for_evictions(&self) {
        self.evicted.wait(|| (self.nr_evictions.load(Acquire) == 0).then_some(()));
    }

    /// Writes attributes of dirty inodes; those without dirty pages are let go.
    ///
    /// Until then they stay among the dirty ones: who syncs meanwhile must meet them.
    pub(crate) fn write_inodes(&self, pages: Pages) -> Result<()> {
        let (mut next, mut result) = (0, Ok(()));
        loop {
            // Few at a time: the list is as long as there are dirty inodes, and locked.
            let some: ArrayVec<(u32, Arc<Inode>), AT_ONCE> = {
                let dirty = self.dirty.lock();
                dirty.range(next..).take(AT_ONCE).map(|(ino, inode)| (*ino, inode.clone())).collect()
            };
            let last = some.last().map(|(ino, _)| *ino);
            for (ino, inode) in some {
                result = result.and(self.write_inode(ino, &inode, pages));
            }
            match last.and_then(|last| last.checked_add(1)) {
                Some(after) => next = after,
                None => break,
            }
        }
        if self.is_aborted.load(Acquire) {
            self.forget_dirty();
        }
        result
    }

    /// Writes one of the dirty inodes, and lets go of it unless it became dirty meanwhile.
    ///
    /// ```text
    ///   here                                     who makes a page dirty
    ///   (A) note it clean                        (C) count the page
    ///   (B) look for dirty pages; let go         (D) look whether it is noted dirty, else note and list it
    /// ```
    /// If B does not find the page, B is before C, so D sees A.
    fn write_inode(&self, ino: u32, inode: &Arc<Inode>, pages: Pages) -> Result<()> {
        let Ok(node) = node(inode) else { return Ok(()) };
        let mapping = inode.mapping();
        let mut result = Ok(());
        if pages == Pages::Write
            && let Some(mapping) = mapping
        {
            result = mapping.write_back(0..u64::MAX);
        }
        node.mark_clean();
        // Inodes without names go with their last user.
        if inode.nlink() > 0 || Arc::strong_count(inode) > 2 {
            result = result.and(node.write_attributes(inode));
        }
        let let_go = || {
            let mut dirty = self.dirty.lock();
            // A number may be another inode's by now.
            if !node.is_dirty() && dirty.get(&ino).is_some_and(|now| Arc::ptr_eq(now, inode)) {
                dirty.remove(&ino);
            }
        };
        match mapping {
            Some(mapping) => mapping.if_clean(pages == Pages::Write, let_go),
            None => let_go(),
        }
        result
    }

    /// Lets go of what cannot be written any more, so that it does not keep the file system in use.
    pub(crate) fn forget_dirty(&self) {
        let dirty = core::mem::take(&mut *self.dirty.lock());
        dirty.values().filter_map(|inode| node(inode).ok()).for_each(|node| node.mark_clean());
    }

    /// Writes out everything: pages, inodes, the journal, and the journal's blocks home.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.is_aborted.load(Acquire) {
            self.forget_dirty();
            return self.check_writing();
        }
        let has_dirty = !self.dirty.lock().is_empty();
        let written = if has_dirty { self.write_inodes(Pages::Write) } else { Ok(()) };
        if written.is_ok() && !self.is_active() {
            return Ok(());
        }
        written.and(self.commit_and_checkpoint())
    }

    /// Starts the thread that commits every few seconds while the file system is mounted.
    pub(crate) fn start_committer(self: &Arc<Self>) -> Result<()> {
        let fs = Arc::downgrade(self);
        sched::spawn("jbd2", move || committer(&fs)).map(drop).map_err(|_| Errno::ENOMEM)
    }
}

/// Whether pages are written with the inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    Write,
    Leave,
}

const NS_PER_SECOND: u64 = 1_000_000_000;

fn committer(fs: &Weak<Fs>) {
    let mut slept = 0;
    loop {
        // Short sleeps, so that the thread ends soon after the file system.
        let _ = sched::sleep_until(hal::time::now_ns() + NS_PER_SECOND, Interruptible::No);
        let Some(fs) = fs.upgrade() else { return };
        if fs.is_aborted.load(Acquire) {
            // Nothing is written any more.
            return;
        }
        slept += 1;
        if slept < fs.options.lock().commit_seconds {
            continue;
        }
        slept = 0;
        let has_dirty = !fs.dirty.lock().is_empty();
        let has_changes = !fs.state.read().is_clean();
        if has_dirty || has_changes {
            let written = fs.write_inodes(Pages::Leave).and(fs.commit(fs.running()));
            if let Err(errno) = written
                && !fs.is_aborted.load(Acquire)
            {
                log::error!("ext4 ({}): write-back failed: {errno:?}", fs.disk.device().name());
            }
        }
    }
}
