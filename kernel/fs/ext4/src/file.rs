//! Open regular files.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::*;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use ext4_image::extent::Mapping as Found;
use ext4_image::extent::RemoveOutcome;
use ext4_image::inode::flags;
use ext4_image::{Error, Layout, dir, extent};
use hal::sync::LazyLock;
use hal::uio::{Dest, Src};
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::Mapping;
use security::Cap;
use vfs::direct::{Begun, Direct};
use vfs::file_attr::{FileAttr, FsFlags};
use vfs::{File, FileMode, FileOps, Inode, InodeFlags, RwKind, ShowPart, SyncMode, Whence};

use crate::direct;
use crate::flight;
use crate::node::{BUDGET, Node, node};
use crate::pages::{New, Room, State};
use crate::state::Txn;
use crate::swap::SwapFile;

/// The operations have no state, so one object serves all open files.
pub(crate) static REGULAR: LazyLock<Arc<dyn FileOps>> = LazyLock::new(|| Arc::new(Regular));

struct Regular;

const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const COLLAPSE_RANGE: u32 = 8;
const ZERO_RANGE: u32 = 16;
const INSERT_RANGE: u32 = 32;

/// What becomes of the blocks that are kept for the privileged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    Leave,
    Use,
}

/// Blocks that fallocate(2) asks for under one handle.
const ALLOCATE_STEP: u32 = 8192;

pub(crate) fn mapping(inode: &Inode) -> Result<&Arc<Mapping>> {
    inode.mapping().ok_or(Errno::EINVAL)
}

impl FileOps for Regular {
    fn mode(&self) -> FileMode {
        FileMode::SEEK | FileMode::NOWAIT | FileMode::DONTCACHE | FileMode::FLIES
    }

    fn nowait(&self, file: &File, access: RwKind, pos: u64, len: usize) -> Result<usize> {
        node(file.inode())?.nowait(file, access, pos, len)
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        let inode = file.inode();
        let node = node(inode)?;
        node.fs.check_there()?;
        if file.flags().contains(OpenFlags::DIRECT) && node.can_direct() {
            return direct::read(node, inode, dst, pos);
        }
        mapping(inode)?.read(pos, dst)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        let inode = file.inode();
        check_unswapped(inode)?;
        let node = node(inode)?;
        node.fs.check_there()?;
        if node.fs.layout.reserved_blocks > 0 && !file.cred().capable(Cap::SYS_RESOURCE) {
            node.fs.with_space(|| node.leave_reserve(pos, src))?;
        }
        let mapping = mapping(inode)?;
        let done = if direct::is_direct(file, node) {
            direct::write(node, inode, src, pos)?
        } else {
            // A page must not come in with what a transfer under way is about to replace, and become dirty; nor be dropped at
            // the end of one while bytes are copied into it.
            node.flights.settle_writes();
            mapping.zero_gap(pos)?;
            match mapping.write(pos, src) {
                Err(Errno::ENOSPC) if node.fs.finish_evictions() => mapping.write(pos, src)?,
                result => result?,
            }
        };
        let is_sync = file.flags().intersects(OpenFlags::SYNC | OpenFlags::DSYNC)
            || node.flags.load(Relaxed) & flags::SYNC != 0;
        if is_sync && done > 0 {
            inode.touch_mtime();
            mapping.write_back(pos..pos + done as u64)?;
            node.sync(inode, SyncMode::Full)?;
        }
        Ok(done)
    }

    fn overwrite(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<Option<usize>> {
        let inode = file.inode();
        let node = node(inode)?;
        let is_sync = file.flags().intersects(OpenFlags::SYNC | OpenFlags::DSYNC)
            || node.flags.load(Relaxed) & flags::SYNC != 0;
        if is_sync || !direct::is_direct(file, node) {
            return Ok(None);
        }
        direct::overwrite(node, inode, src, pos)
    }

    fn begin_direct(&self, file: &File, direct: Direct) -> Begun {
        let inode = file.inode();
        let Ok(node) = node(inode) else { return Err(direct) };
        let writes_through = file.flags().intersects(OpenFlags::SYNC | OpenFlags::DSYNC)
            || node.flags.load(Relaxed) & flags::SYNC != 0;
        if !direct::is_direct(file, node) || direct.kind == RwKind::Write && writes_through {
            return Err(direct);
        }
        flight::begin(node, inode, direct)
    }

    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        if file.flags().contains(OpenFlags::DIRECT) {
            return Ok(0);
        }
        mapping(file.inode())?.share(pos, len, each)
    }

    fn fsync(&self, file: &File, mode: SyncMode) -> Result<()> {
        let inode = file.inode();
        node(inode)?.fs.check_there()?;
        let written = mapping(inode)?.write_back(0..u64::MAX);
        written.and(node(inode)?.sync(inode, mode))
    }

    fn fallocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let inode = file.inode();
        check_unswapped(inode)?;
        let node = node(inode)?;
        node.flights.settle();
        node.fs.with_space(|| node.leave_inode())?;
        let has_extents = node.flags.load(Relaxed) & flags::EXTENTS != 0;
        let end = offset + len;
        let reserve = if file.cred().capable(Cap::SYS_RESOURCE) { Reserve::Use } else { Reserve::Leave };
        match mode {
            COLLAPSE_RANGE if has_extents => node.collapse(inode, offset..end)?,
            INSERT_RANGE if has_extents => node.insert_range(inode, offset..end)?,
            m if m == PUNCH_HOLE | KEEP_SIZE => node.punch(inode, offset, end)?,
            m if has_extents && (m == ZERO_RANGE || m == ZERO_RANGE | KEEP_SIZE) => {
                node.punch(inode, offset, end)?;
                node.preallocate(inode, offset..end, reserve)?;
            }
            0 | KEEP_SIZE if has_extents => node.preallocate(inode, offset..end, reserve)?,
            _ => return Err(Errno::EOPNOTSUPP),
        }
        if (mode == 0 || mode == ZERO_RANGE) && end > inode.size() {
            mapping(inode)?.truncate(end);
        }
        inode.touch_mtime();
        node.write_size(inode)
    }

    fn swap_device(&self, file: &File) -> Result<Arc<dyn mm::swap::SwapDevice>> {
        Ok(Arc::new(SwapFile::new(file.inode())?))
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        match whence {
            Whence::Data | Whence::Hole => node(file.inode())?.seek(file.inode(), offset, whence),
            _ => vfs::rw::generic_seek(file, offset, whence),
        }
    }

    fn check_flags(&self, _file: &File, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }
}

/// `ETXTBSY`: swap goes to the blocks of `inode`. Asked here, by each change of data or blocks, as not all of them come by the
/// VFS's own calls: an upper file of overlayfs, say. The caller holds `sem`, so the answer stays (`SwapUse::begin`).
pub(crate) fn check_unswapped(inode: &Inode) -> Result<()> {
    if inode.flags().contains(InodeFlags::SWAPFILE) { Err(Errno::ETXTBSY) } else { Ok(()) }
}

/// What chattr(1) shows of `inode`.
pub(crate) fn attr(inode: &Inode) -> Result<FileAttr> {
    let raw = node(inode)?.flags.load(Relaxed) & !flags::HUGE_FILE;
    Ok(FileAttr::of_flags(FsFlags::from_bits_retain(raw)))
}

/// Sets what chattr(1) can change. The inode's `sem` is held for writing.
///
/// `EOPNOTSUPP`: a flag that its kind has not, or that is a fact about it.
pub(crate) fn set_attr(inode: &Inode, attr: &FileAttr) -> Result<()> {
    let node = node(inode)?;
    if attr.needs_extended() {
        return Err(Errno::EOPNOTSUPP);
    }
    let modifiable = flags::USER_MODIFIABLE | if inode.is_dir() { flags::DIR_ONLY } else { 0 };
    let old = node.flags.load(Relaxed);
    let wanted = attr.flags.bits() | old & flags::HUGE_FILE;
    if (old ^ wanted) & !(modifiable | flags::IGNORED) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let new = old & !modifiable | wanted & modifiable;
    if (old ^ new) & flags::JOURNAL_DATA != 0 && inode.is_regular() {
        node.flights.settle();
        node.leave_journal(inode)?;
    }
    inode.touch_ctime();
    node.fs.begin()?.run(|layout, txn| {
        let mut raw = node.load(layout, txn)?;
        raw.set_flags(raw.flags() & !modifiable | new & modifiable);
        node.put_attributes(&mut raw, inode);
        raw.store(layout, txn)?;
        // Not `new`: write-back may have put the file into its inode, which is in the flags, too.
        node.flags.store(raw.flags(), Release);
        node.changed(txn);
        Ok(())
    })?;
    let all = vfs::InodeFlags::IMMUTABLE | vfs::InodeFlags::APPEND | vfs::InodeFlags::NOATIME;
    let set = crate::node::vfs_flags(new);
    inode.set_flags(set, all - set);
    Ok(())
}

impl Node {
    /// Cuts a write so that blocks of the privileged stay. `ENOSPC`: none but those are left.
    fn leave_reserve(&self, pos: u64, src: &Src<'_>) -> Result<()> {
        let blocks = self.fs.available()?;
        if (blocks << self.fs.layout.block_bits) > src.remaining() as u64 * 2 + (PAGE_SIZE as u64 * 2) {
            return Ok(());
        }
        // Near the end only what is there already may be overwritten.
        let size = self.vfs.get().and_then(alloc::sync::Weak::upgrade).map_or(0, |inode| inode.size());
        if blocks == 0 && pos.saturating_add(src.remaining() as u64) > size.next_multiple_of(PAGE_SIZE as u64)
        {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Makes the inode, and the transactions that its data needs, durable. Its pages are on the device.
    pub(crate) fn sync(&self, inode: &Arc<Inode>, mode: SyncMode) -> Result<()> {
        if inode.sb().is_readonly() && !self.fs.is_aborted.load(Acquire) {
            return Ok(());
        }
        if mode == SyncMode::Full {
            self.write_attributes(inode)?;
        }
        let tid = if mode == SyncMode::Full { self.tid.load(Acquire) } else { self.data_tid.load(Acquire) };
        self.fs.commit_or_flush(tid)
    }

    /// Writes the size and the attributes to disk.
    pub(crate) fn write_size(&self, inode: &Arc<Inode>) -> Result<()> {
        self.fs.begin()?.run(|layout, txn| {
            let mut raw = self.load(layout, txn)?;
            raw.set_size(inode.size());
            self.disk_size.store(inode.size(), Release);
            self.put_attributes(&mut raw, inode);
            raw.store(layout, txn)?;
            self.data_changed(txn);
            Ok(())
        })
    }

    /// Sets the size: pages and blocks beyond go, and what is left of the last page is zeroed on disk, too.
    pub(crate) fn set_size(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        let mapping = mapping(inode)?;
        self.fs.check_writing()?;
        self.flights.settle();
        self.fs.with_space(|| self.leave_inode())?;
        let old = inode.size();
        let edge = size.min(old);
        self.dirty_edge(inode, edge)?;
        if size <= old {
            let frozen = mapping.freeze();
            frozen.truncate(size);
            self.release_range(size.div_ceil(PAGE_SIZE as u64)..u64::MAX);
            self.cut(inode)?;
        } else {
            mapping.truncate(size);
            self.write_size(inode)?;
        }
        Ok(())
    }

    /// Writes the size to disk and frees the blocks behind it, in as many transactions as it takes.
    ///
    /// The inode's `sem` is held for writing, so that its links do not change.
    pub(crate) fn cut(&self, inode: &Inode) -> Result<()> {
        let first = inode.size().div_ceil(1 << self.fs.layout.block_bits);
        let first = u32::try_from(first).map_err(|_| Errno::EFBIG)?;
        let cut_some = |layout: &Layout, txn: &mut Txn<'_>| self.cut_some(layout, txn, inode, first);
        while self.fs.begin()?.run(cut_some)? != RemoveOutcome::Done {}
        Ok(())
    }

    /// One transaction's part of [`Node::cut`]: frees blocks from `first` on.
    ///
    /// As long as some are left the file is on the list of orphans, so that recovery frees the rest after a crash: no
    /// check of the file system finds blocks behind the end.
    pub(crate) fn cut_some(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        inode: &Inode,
        first: u32,
    ) -> ext4_image::Result<RemoveOutcome> {
        let mut raw = self.load(layout, txn)?;
        raw.set_size(inode.size());
        self.disk_size.store(inode.size(), Release);
        self.put_attributes(&mut raw, inode);
        raw.store(layout, txn)?;
        self.data_changed(txn);
        self.promise_edges(layout, txn, u64::from(first)..1 << 32)?;
        let outcome = dir::unmap(layout, txn, &mut raw, first, 1 << 32, BUDGET);
        *self.last.lock() = None;
        let is_done = outcome.as_ref().is_ok_and(|outcome| *outcome == RemoveOutcome::Done);
        // What was read before may not be what an error left.
        let mut raw = self.load(layout, txn)?;
        if !is_done {
            txn.add_orphan(layout, &mut raw)?;
        } else if raw.nlink() > 0 && txn.state.orphans.contains_key(&self.ino) {
            txn.remove_orphan(layout, &mut raw)?;
        }
        outcome
    }

    /// Has the page that byte `pos` is in the middle of cached and dirty, so that a cut in it reaches the disk.
    fn dirty_edge(&self, inode: &Arc<Inode>, pos: u64) -> Result<()> {
        let mapping = mapping(inode)?;
        if pos.is_multiple_of(PAGE_SIZE as u64) || pos >= inode.size() {
            return Ok(());
        }
        let idx = pos >> PAGE_SHIFT;
        if mapping.get(idx).is_none() {
            let block = u32::try_from(pos >> self.fs.layout.block_bits).map_err(|_| Errno::EFBIG)?;
            let found = self.fs.look(|layout, view| self.find(layout, view, &mut None, block))?;
            if matches!(found, Found::Hole(_)) {
                return Ok(());
            }
        }
        let frame = mapping.get_or_fill(idx)?;
        mapping.mark_dirty(idx, &frame)
    }

    /// Makes bytes `start..end` a hole.
    fn punch(&self, inode: &Arc<Inode>, start: u64, end: u64) -> Result<()> {
        let end = end.min(inode.size().next_multiple_of(PAGE_SIZE as u64).max(start));
        let mapping = mapping(inode)?;
        self.dirty_edge(inode, start)?;
        self.dirty_edge(inode, end)?;
        let bits = self.fs.layout.block_bits;
        let (first, last) = (start.div_ceil(1 << bits), end >> bits);
        let frozen = mapping.freeze();
        frozen.punch(start..end);
        self.release_range(start.div_ceil(PAGE_SIZE as u64)..end >> PAGE_SHIFT);
        if first < last {
            self.unmap(u32::try_from(first).map_err(|_| Errno::EFBIG)?, last)?;
        }
        Ok(())
    }

    /// Gives `bytes` blocks where they have none; those read as zeroes.
    fn preallocate(&self, inode: &Arc<Inode>, bytes: core::ops::Range<u64>, reserve: Reserve) -> Result<()> {
        let bits = self.fs.layout.block_bits;
        mapping(inode)?.write_back(bytes.clone())?;
        let (mut at, to) = (bytes.start >> bits, bytes.end.div_ceil(1 << bits));
        let mut has_waited = false;
        while at < to {
            let logical = u32::try_from(at).map_err(|_| Errno::EFBIG)?;
            let handle = self.fs.begin()?;
            let step = handle.run(|layout, txn| {
                let raw = self.load(layout, txn)?;
                let room = match reserve {
                    Reserve::Leave => self.fs.available_in(layout, txn)?,
                    // Those that others were promised stay anyway.
                    Reserve::Use => u64::MAX,
                };
                match dir::map(layout, txn, &raw, logical)? {
                    Found::Extent(extent) => Ok(extent.len),
                    Found::Hole(_) if room == 0 => Err(Error::NoSpace),
                    Found::Hole(len) => {
                        let how = New { state: State::Unwritten, room: Room::Free };
                        let want = u64::from(len).min(to - at).min(room).min(ALLOCATE_STEP.into()) as u32;
                        let want = want.min(extent::MAX_LEN - 1);
                        self.allocate(layout, txn, logical, want, None, how).map(|(_, len)| len)
                    }
                }
            });
            drop(handle);
            match step {
                Ok(len) => at += u64::from(len),
                Err(Errno::ENOSPC) if !has_waited => {
                    has_waited = true;
                    self.fs.regain_all()?;
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`: blocks that were written and pages that will be are data.
    fn seek(&self, inode: &Arc<Inode>, offset: i64, whence: Whence) -> Result<u64> {
        let size = inode.size();
        let pos = u64::try_from(offset).ok().filter(|&pos| pos < size).ok_or(Errno::ENXIO)?;
        let bits = self.fs.layout.block_bits;
        // So that all data has a place.
        mapping(inode)?.write_back(0..u64::MAX)?;
        let mut at = pos >> bits;
        while at << bits < size {
            let logical = u32::try_from(at).map_err(|_| Errno::EFBIG)?;
            let found = self.look_at_blocks(|layout, view| {
                let raw = self.load(layout, view)?;
                dir::map(layout, view, &raw, logical)
            });
            let (is_data, len) = match found? {
                Some(Found::Extent(extent)) => (!extent.is_unwritten, extent.len),
                Some(Found::Hole(len)) => (false, len),
                // All of it is in the inode.
                None => return Ok(if whence == Whence::Data { pos } else { size }),
            };
            if is_data == (whence == Whence::Data) {
                return Ok((at << bits).max(pos));
            }
            at += u64::from(len);
        }
        if whence == Whence::Hole { Ok(size) } else { Err(Errno::ENXIO) }
    }
}
