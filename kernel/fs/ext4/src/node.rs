//! ext4's part of an inode in memory.
//!
//! The attributes that the VFS keeps (mode, owner, links, times, size) are newer there than on disk; [`Node::store`]
//! writes them. An inode whose attributes or pages are to be written is kept alive in `Fs::dirty`. The block map and
//! attributes beyond are not kept here: they are read from the inode's block, which is in the cache.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::fs::{major, makedev, minor};
use abi::time::Timespec;
use abi::{Errno, Result};
use ext4_image::extent::{Extent, Mapping as Found, RemoveOutcome};
use ext4_image::inode::{self as disk, Time, Which, flags};
use ext4_image::{Blocks, Layout, dir, free_inode, inline, xattr};
use hal::sync::{Once, SpinLock};
use mm::Mapping;
use vfs::inode::Times;
use vfs::{Inode, InodeFlags, InodeInit, SuperBlock};

use crate::flight::Flights;
use crate::fs::{Fs, Handle};
use crate::promises::Promises;
use crate::state::Txn;

/// Extents of an inode that are freed under one handle.
pub(crate) const BUDGET: usize = 8;

/// See the module's front page.
pub(crate) struct Node {
    pub(crate) fs: Arc<Fs>,
    pub(crate) ino: u32,
    /// Tells it from earlier inodes with its number.
    pub(crate) generation: u32,
    pub(crate) vfs: Once<Weak<Inode>>,
    /// `i_flags`.
    pub(crate) flags: AtomicU32,
    /// The target of a symbolic link.
    pub(crate) target: Option<Box<[u8]>>,
    /// The last transaction that changed the inode.
    pub(crate) tid: AtomicU64,
    /// The last transaction that changed what is needed to read the data.
    pub(crate) data_tid: AtomicU64,
    /// The file's data is not to go into the inode any more.
    pub(crate) keeps_blocks: AtomicBool,
    is_dirty: AtomicBool,
    /// It has no names: it goes with its last user.
    is_orphan: AtomicBool,
    /// Pages that have a promise of the blocks that they lack.
    pub(crate) reserved: SpinLock<Promises>,
    /// The extent that was looked up last.
    pub(crate) last: SpinLock<Option<Extent>>,
    /// The size on disk.
    pub(crate) disk_size: AtomicU64,
    pub(crate) flights: Flights,
}

/// The VFS's operations on it.
pub(crate) struct Ops(pub(crate) Arc<Node>);

/// The node of an ext4 inode. `EXDEV` is what another file system's inode would be.
pub(crate) fn node(inode: &Inode) -> Result<&Arc<Node>> {
    inode.ops_as::<Ops>().map(|ops| &ops.0).ok_or(Errno::EXDEV)
}

fn to_vfs(time: Time) -> Timespec {
    Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() }
}

pub(crate) fn to_disk(time: Timespec) -> Time {
    Time { sec: time.tv_sec, nsec: u32::try_from(time.tv_nsec).unwrap_or(0) }
}

pub(crate) fn vfs_flags(raw: u32) -> InodeFlags {
    let pairs = [
        (flags::IMMUTABLE, InodeFlags::IMMUTABLE),
        (flags::APPEND, InodeFlags::APPEND),
        (flags::NOATIME, InodeFlags::NOATIME),
    ];
    pairs.into_iter().filter(|(bit, _)| raw & bit != 0).map(|(_, flag)| flag).collect()
}

impl Fs {
    /// Inode `ino`. `EUCLEAN`: there is none, or it is damaged.
    pub(crate) fn iget(self: &Arc<Self>, ino: u32) -> Result<Arc<Inode>> {
        if let Some(inode) = self.icache.get(ino) {
            return Ok(inode);
        }
        let raw = self.look(|layout, view| disk::Inode::load(layout, view, ino))?;
        if raw.nlink() == 0 || raw.mode() == 0 {
            return Err(self.failed(ext4_image::Error::Corrupt("a name leads to a deleted inode")));
        }
        self.instantiate(&raw)
    }

    /// The object for the inode with record `raw`.
    pub(crate) fn instantiate(self: &Arc<Self>, raw: &disk::Inode) -> Result<Arc<Inode>> {
        let sb = self.vfs_sb().ok_or(Errno::ENODEV)?;
        let target = if raw.is_symlink() { Some(self.read_target(raw)?) } else { None };
        let node = Arc::new(Node {
            fs: self.clone(),
            ino: raw.ino(),
            generation: raw.generation(),
            vfs: Once::new(),
            flags: AtomicU32::new(raw.flags()),
            target,
            tid: AtomicU64::new(0),
            data_tid: AtomicU64::new(0),
            keeps_blocks: AtomicBool::new(false),
            is_dirty: AtomicBool::new(false),
            is_orphan: AtomicBool::new(false),
            reserved: SpinLock::new("ext4.node.reserved", Promises::new()),
            last: SpinLock::new("ext4.node.last", None),
            disk_size: AtomicU64::new(raw.size()),
            flights: Flights::new(),
        });
        node.set_orphan(raw.nlink() == 0);
        let inode = make_vfs(&sb, raw, &node);
        inode.set_flags(self.acl_flags(raw)?, InodeFlags::empty());
        node.vfs.call_once(|| Arc::downgrade(&inode));
        Ok(self.icache.insert(raw.ino(), &inode))
    }

    /// Which access-control lists the inode with record `raw` has.
    fn acl_flags(&self, raw: &disk::Inode) -> Result<InodeFlags> {
        self.look(|layout, view| {
            let has = |index| Ok(xattr::get(layout, view, raw, index, b"")?.is_some());
            let mut flags = InodeFlags::empty();
            flags.set(InodeFlags::ACL, has(xattr::index::ACL_ACCESS)?);
            flags.set(InodeFlags::DEFAULT_ACL, raw.is_dir() && has(xattr::index::ACL_DEFAULT)?);
            Ok(flags)
        })
    }

    fn read_target(&self, raw: &disk::Inode) -> Result<Box<[u8]>> {
        self.look(|layout, view| {
            let len = usize::try_from(raw.size()).unwrap_or(usize::MAX);
            if raw.has_flags(flags::INLINE_DATA) {
                return Ok(inline::file(raw)?.into());
            }
            if raw.is_short_link(layout) {
                return Ok(raw.map().get(..len).unwrap_or_default().into());
            }
            if len == 0 || len > layout.block_size {
                return Err(ext4_image::Error::Corrupt("length of a symbolic link"));
            }
            match dir::map(layout, view, raw, 0)? {
                Found::Extent(extent) => {
                    let block = view.read(extent.physical)?;
                    Ok(block.bytes().get(..len).unwrap_or_default().into())
                }
                Found::Hole(_) => Err(ext4_image::Error::Corrupt("symbolic link without a block")),
            }
        })
    }

    /// Frees inode `ino`, which nobody uses and no name leads to.
    ///
    /// The record is loaded anew under each handle: the list of orphans goes through it, and its neighbours there
    /// come and go meanwhile.
    pub(crate) fn delete_inode(&self, ino: u32) -> Result<()> {
        let free_rest = |layout: &Layout, txn: &mut Txn<'_>, mut raw: disk::Inode| {
            xattr::release_block(layout, txn, &mut raw)?;
            txn.remove_orphan(layout, &mut raw)?;
            free_inode(layout, txn, raw)
        };
        loop {
            let outcome = self.begin()?.run(|layout, txn| {
                let mut raw = disk::Inode::load(layout, txn, ino)?;
                if has_blocks(layout, &raw) {
                    // What is left then fits into a handle together with this, if all of this did.
                    let outcome = dir::unmap(layout, txn, &mut raw, 0, 1 << 32, BUDGET)?;
                    if outcome != RemoveOutcome::Done {
                        return Ok(outcome);
                    }
                }
                free_rest(layout, txn, raw)?;
                Ok(RemoveOutcome::Done)
            })?;
            if outcome == RemoveOutcome::Done {
                return Ok(());
            }
        }
    }
}

/// Whether the inode with record `raw` may have blocks in its map.
pub(crate) fn has_blocks(layout: &Layout, raw: &disk::Inode) -> bool {
    !raw.has_flags(flags::INLINE_DATA)
        && !raw.is_short_link(layout)
        && (raw.is_regular() || raw.is_dir() || raw.is_symlink())
        && raw.sectors(layout) > 0
}

fn make_vfs(sb: &Arc<SuperBlock>, raw: &disk::Inode, node: &Arc<Node>) -> Arc<Inode> {
    let (major, minor) = raw.device();
    let is_device = matches!(raw.mode() & abi::fs::S_IFMT, abi::fs::S_IFCHR | abi::fs::S_IFBLK);
    let init = InodeInit {
        ino: raw.ino().into(),
        mode: raw.mode(),
        uid: raw.uid(),
        gid: raw.gid(),
        nlink: raw.nlink(),
        size: raw.size(),
        rdev: if is_device { makedev(major, minor) } else { 0 },
        times: Times {
            atime: to_vfs(raw.time(Which::Access)),
            mtime: to_vfs(raw.time(Which::Modify)),
            ctime: to_vfs(raw.time(Which::Change)),
            btime: to_vfs(raw.time(Which::Birth)),
        },
        flags: vfs_flags(raw.flags()),
    };
    let mapping =
        raw.is_regular().then(|| Mapping::with_source(node.clone(), raw.size().min(i64::MAX as u64)));
    Inode::new(sb, init, Box::new(Ops(node.clone())), mapping)
}

impl Node {
    /// Its record.
    pub(crate) fn load(&self, layout: &Layout, blocks: &dyn Blocks) -> ext4_image::Result<disk::Inode> {
        disk::Inode::load(layout, blocks, self.ino)
    }

    /// Writes the VFS's attributes to disk, the size excepted.
    pub(crate) fn store(&self, layout: &Layout, txn: &mut Txn<'_>, inode: &Inode) -> ext4_image::Result<()> {
        let mut raw = self.load(layout, txn)?;
        self.put_attributes(&mut raw, inode);
        if raw.is_dir() {
            raw.set_nlink(inode.nlink());
        }
        raw.store(layout, txn)?;
        self.changed(txn);
        Ok(())
    }

    /// Puts the VFS's attributes into the record.
    pub(crate) fn put_attributes(&self, raw: &mut disk::Inode, inode: &Inode) {
        raw.set_mode(inode.mode());
        raw.set_owner(inode.uid(), inode.gid());
        raw.set_nlink(inode.nlink());
        let times = inode.times();
        raw.set_time(Which::Access, to_disk(times.atime));
        raw.set_time(Which::Modify, to_disk(times.mtime));
        raw.set_time(Which::Change, to_disk(times.ctime));
    }

    /// Notes whether it is without names; gives whether it was.
    pub(crate) fn set_orphan(&self, is_orphan: bool) -> bool {
        let was = self.is_orphan.swap(is_orphan, AcqRel);
        match (was, is_orphan) {
            (false, true) => drop(self.fs.nr_orphans.fetch_add(1, AcqRel)),
            (true, false) => drop(self.fs.nr_orphans.fetch_sub(1, AcqRel)),
            _ => {}
        }
        was
    }

    /// Notes that the running transaction changed the inode.
    pub(crate) fn changed(&self, txn: &Txn<'_>) {
        self.tid.store(txn.state.tid, Release);
    }

    /// Notes that the running transaction changed what is needed to read the data.
    pub(crate) fn data_changed(&self, txn: &Txn<'_>) {
        self.changed(txn);
        self.data_tid.store(txn.state.tid, Release);
    }

    /// Has the inode written soon, and kept until then; not when nothing is written any more.
    pub(crate) fn mark_dirty(&self, inode: &Arc<Inode>) {
        if self.fs.is_aborted.load(Acquire) {
            return;
        }
        if !self.is_dirty.load(SeqCst) && !self.is_dirty.swap(true, SeqCst) {
            let mut dirty = self.fs.dirty.lock();
            // Asked again: nobody looks here any more when `Fs::forget_dirty` has.
            if !self.fs.is_aborted.load(Acquire) {
                dirty.insert(self.ino, inode.clone());
            }
        }
    }

    /// As [`Node::mark_dirty`], from the page cache.
    pub(crate) fn pages_dirty(&self) {
        if !self.is_dirty.load(SeqCst)
            && let Some(inode) = self.vfs.get().and_then(Weak::upgrade)
        {
            self.mark_dirty(&inode);
        }
    }

    /// From here on [`Node::mark_dirty`] lists it again, if it is not listed still.
    pub(crate) fn mark_clean(&self) {
        self.is_dirty.store(false, SeqCst);
    }

    /// Whether it was marked dirty since.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty.load(SeqCst)
    }

    /// Writes the attributes in a transaction of their own.
    pub(crate) fn write_attributes(&self, inode: &Inode) -> Result<()> {
        let handle = self.fs.begin()?;
        self.write_attributes_in(&handle, inode)
    }

    pub(crate) fn write_attributes_in(&self, handle: &Handle<'_>, inode: &Inode) -> Result<()> {
        handle.run(|layout, txn| self.store(layout, txn, inode))
    }

    /// Frees the file's blocks in `from..to` in as many transactions as it takes.
    pub(crate) fn unmap(&self, from: u32, to: u64) -> Result<()> {
        loop {
            let handle = self.fs.begin()?;
            let outcome = handle.run(|layout, txn| {
                self.promise_edges(layout, txn, u64::from(from)..to)?;
                let mut raw = self.load(layout, txn)?;
                let outcome = dir::unmap(layout, txn, &mut raw, from, to, BUDGET);
                *self.last.lock() = None;
                self.data_changed(txn);
                outcome
            })?;
            if outcome == RemoveOutcome::Done {
                return Ok(());
            }
        }
    }
}

impl Drop for Ops {
    fn drop(&mut self) {
        let node = self.0.clone();
        node.fs.icache.remove_dead(node.ino);
        if node.is_orphan.load(Acquire) && !node.fs.is_aborted.load(Acquire) {
            let fs = node.fs.clone();
            let ino = node.ino;
            // In this order: whoever sees no orphan sees the eviction (`Fs::finish_evictions`).
            fs.nr_evictions.fetch_add(1, AcqRel);
            node.set_orphan(false);
            // Freeing blocks does I/O; the last user may hold locks.
            sched::workqueue::queue(Box::new(move || {
                if let Err(errno) = fs.delete_inode(ino)
                    && !fs.is_aborted.load(Acquire)
                {
                    log::error!("ext4 ({}): inode {ino} is not freed: {errno:?}", fs.disk.device().name());
                }
                fs.nr_evictions.fetch_sub(1, AcqRel);
                fs.evicted.wake_all();
            }));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.fs.unreserve(self.reserved.get_mut().len());
    }
}

/// Device number of `rdev` as the record keeps it.
pub(crate) fn set_device(raw: &mut disk::Inode, rdev: u64) {
    raw.set_device(major(rdev), minor(rdev));
}
