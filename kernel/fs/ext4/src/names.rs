//! What the VFS asks of inodes: names, links, attributes.
//!
//! Each change of names is one transaction: entries, link counts, orphans and times of all inodes it touches.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use abi::fs::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, Statx};
use abi::{Errno, Result};
use ext4_image::block::Freed;
use ext4_image::extent::{self, Extent};
use ext4_image::inode::{self as disk, MAP_LEN, flags};
use ext4_image::superblock::{Incompat, RoCompat};
use ext4_image::{
    Edit, Error, Layout, NewInode as NewDiskInode, Seal, alloc_inode, alloc_unpromised, dir, free_blocks,
    free_inode,
};
use vfs::dev::DirectAlign;
use vfs::file_attr::FileAttr;
use vfs::inode::{Rename, RenameKind, XattrMode};
use vfs::{FileOps, Inode, InodeOps, Link, NewInode, OpenRequest, SetAttr};

use crate::node::{Node, Ops, node, set_device, to_disk};
use crate::state::Txn;
use crate::{dirops, file, xattrs};

/// Links of anything but a directory.
const LINK_MAX: u32 = 65000;

type DiskResult<T> = ext4_image::Result<T>;

impl Node {
    /// Makes an inode in directory `dir`. What was done is undone when that fails for want of space.
    fn make(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        new: &NewInode<'_>,
        nlink: u32,
    ) -> DiskResult<disk::Inode> {
        let parent = self.load(layout, txn)?;
        let what = NewDiskInode {
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            nlink,
            time: to_disk(vfs::time::now()),
            generation: self.fs.generation.fetch_add(1, Relaxed),
        };
        let mut raw = alloc_inode(layout, txn, &parent, &what)?;
        match self.fill(layout, txn, &mut raw, new) {
            Ok(()) => Ok(raw),
            Err(error) => {
                self.unmake(layout, txn, raw)?;
                Err(error)
            }
        }
    }

    /// Gives a new inode what its kind needs: the first block, the target, the device.
    fn fill(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        raw: &mut disk::Inode,
        new: &NewInode<'_>,
    ) -> DiskResult<()> {
        match new.mode & S_IFMT {
            S_IFDIR => dir::init(layout, txn, raw, self.ino),
            S_IFCHR | S_IFBLK => {
                set_device(raw, new.rdev);
                raw.store(layout, txn)
            }
            S_IFLNK => write_target(layout, txn, raw, new.target),
            _ => Ok(()),
        }
    }

    /// Makes an inode with the name `name` in `dir`, this directory. `ENOSPC`: nothing has changed.
    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let is_dir = new.mode & S_IFMT == S_IFDIR;
        let needs_block = is_dir || new.target.len() >= MAP_LEN;
        if needs_block && self.fs.available_to_root()? == 0 {
            return Err(Errno::ENOSPC);
        }
        let handle = self.fs.begin()?;
        let raw = handle.run(|layout, txn| {
            if is_dir {
                self.check_subdirs(dir)?;
            }
            let raw = self.make(layout, txn, new, if is_dir { 2 } else { 1 })?;
            if let Err(error) = self.add_name(layout, txn, dir, name, raw.ino(), new.mode) {
                self.unmake(layout, txn, raw)?;
                return Err(error);
            }
            if is_dir {
                self.subdirs_changed(layout, txn, dir, 1)?;
            }
            Ok(raw)
        })?;
        let tid = self.tid.load(Acquire);
        drop(handle);
        self.made(&raw, tid)
    }

    /// Frees an inode that was made in this transaction.
    fn unmake(&self, layout: &Layout, txn: &mut Txn<'_>, mut raw: disk::Inode) -> DiskResult<()> {
        if !raw.has_flags(flags::INLINE_DATA) && (raw.is_dir() || raw.has_flags(flags::EXTENTS)) {
            while dir::unmap(layout, txn, &mut raw, 0, 1 << 32, 4)? == extent::RemoveOutcome::More {}
        }
        free_inode(layout, txn, raw)
    }

    /// Adds the entry `name` for `ino` to `dir`, this directory.
    fn add_name(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        dir: &Inode,
        name: &[u8],
        ino: u32,
        mode: u32,
    ) -> DiskResult<()> {
        let mut raw = self.load(layout, txn)?;
        dir::add(layout, txn, &mut raw, name, ino, dir::kind_of_mode(mode))?;
        self.flags.store(raw.flags(), Relaxed);
        self.names_changed(layout, txn, dir, raw)
    }

    fn remove_name(&self, layout: &Layout, txn: &mut Txn<'_>, dir: &Inode, name: &[u8]) -> DiskResult<()> {
        let mut raw = self.load(layout, txn)?;
        dir::remove(layout, txn, &mut raw, name)?;
        self.names_changed(layout, txn, dir, raw)
    }

    fn set_name(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        dir: &Inode,
        name: &[u8],
        ino: u32,
        mode: u32,
    ) -> DiskResult<()> {
        let mut raw = self.load(layout, txn)?;
        dir::set(layout, txn, &mut raw, name, ino, dir::kind_of_mode(mode))?;
        self.names_changed(layout, txn, dir, raw)
    }

    /// Has ".." of this directory lead to `parent`.
    fn set_parent(&self, layout: &Layout, txn: &mut Txn<'_>, parent: u32) -> DiskResult<()> {
        let mut raw = self.load(layout, txn)?;
        dir::set(layout, txn, &mut raw, b"..", parent, dir::kind_of_mode(S_IFDIR))?;
        self.changed(txn);
        Ok(())
    }

    /// Writes `dir`, this directory, whose entries and perhaps subdirectories changed; `raw` is its record.
    fn names_changed(
        &self,
        layout: &Layout,
        txn: &mut Txn<'_>,
        dir: &Inode,
        mut raw: disk::Inode,
    ) -> DiskResult<()> {
        dir.touch_mtime();
        self.put_attributes(&mut raw, dir);
        raw.store(layout, txn)?;
        dir.set_size(raw.size());
        self.changed(txn);
        Ok(())
    }

    /// Writes the number of links of `dir`, this directory, whose subdirectories changed.
    fn subdirs_changed(&self, layout: &Layout, txn: &mut Txn<'_>, dir: &Inode, delta: i32) -> DiskResult<()> {
        add_subdirs(dir, delta);
        self.store(layout, txn, dir)
    }

    /// Whether the directory may have one more subdirectory.
    fn check_subdirs(&self, dir: &Inode) -> DiskResult<()> {
        let is_unlimited = self.fs.layout.ro_compat.contains(RoCompat::DIR_NLINK);
        if dir.nlink() >= dir::LINK_MAX && !is_unlimited { Err(Error::TooManyLinks) } else { Ok(()) }
    }

    /// Takes a name's count off `inode`, which is this one; with the last it goes on the list of orphans.
    fn drop_link(&self, layout: &Layout, txn: &mut Txn<'_>, inode: &Inode) -> DiskResult<()> {
        if inode.is_dir() {
            inode.set_nlink(0);
        } else {
            inode.add_nlink(-1);
        }
        inode.touch_ctime();
        let mut raw = self.load(layout, txn)?;
        self.put_attributes(&mut raw, inode);
        if inode.nlink() == 0 {
            txn.add_orphan(layout, &mut raw)?;
            self.set_orphan(true);
        } else {
            raw.store(layout, txn)?;
        }
        self.changed(txn);
        Ok(())
    }

    /// Removes a name of `inode` from `dir`, this directory.
    fn unlink_name(&self, dir: &Inode, name: &[u8], inode: &Inode) -> Result<()> {
        let child = node(inode)?;
        self.fs.begin()?.run(|layout, txn| {
            if inode.is_dir() && !dir::is_empty(layout, txn, &child.load(layout, txn)?)? {
                return Err(Error::NotEmpty);
            }
            self.remove_name(layout, txn, dir, name)?;
            child.drop_link(layout, txn, inode)?;
            if inode.is_dir() { self.subdirs_changed(layout, txn, dir, -1) } else { Ok(()) }
        })?;
        if inode.nlink() == 0 && self.fs.dirty.lock().remove(&child.ino).is_some() {
            child.mark_clean();
        }
        Ok(())
    }

    fn move_name(&self, rename: &Rename<'_>) -> Result<()> {
        let (old_dir, new_dir) = (node(rename.old_dir)?, node(rename.new_dir)?);
        let moved = node(rename.inode)?;
        let target = rename.target.map(|target| node(target).map(|node| (target, node))).transpose()?;
        let (is_dir, is_across) = (rename.inode.is_dir(), old_dir.ino != new_dir.ino);
        self.fs.begin()?.run(|layout, txn| {
            if let Some((target, target_node)) = target
                && target.is_dir()
                && !dir::is_empty(layout, txn, &target_node.load(layout, txn)?)?
            {
                return Err(Error::NotEmpty);
            }
            if is_dir && is_across && target.is_none() {
                new_dir.check_subdirs(rename.new_dir)?;
            }
            let whiteout = match rename.kind {
                RenameKind::Whiteout => {
                    let what = NewInode { mode: S_IFCHR, uid: 0, gid: 0, rdev: 0, target: &[] };
                    Some(old_dir.make(layout, txn, &what, 1)?)
                }
                _ => None,
            };
            let (ino, mode) = (moved.ino, rename.inode.mode());
            let placed = match target {
                Some(_) => new_dir.set_name(layout, txn, rename.new_dir, rename.new_name, ino, mode),
                None => new_dir.add_name(layout, txn, rename.new_dir, rename.new_name, ino, mode),
            };
            if let Err(error) = placed {
                if let Some(whiteout) = whiteout {
                    old_dir.unmake(layout, txn, whiteout)?;
                }
                return Err(error);
            }
            match whiteout {
                Some(raw) => {
                    old_dir.set_name(layout, txn, rename.old_dir, rename.old_name, raw.ino(), S_IFCHR)?;
                }
                None => old_dir.remove_name(layout, txn, rename.old_dir, rename.old_name)?,
            }
            if let Some((target, target_node)) = target {
                target_node.drop_link(layout, txn, target)?;
            }
            if is_dir {
                if is_across {
                    moved.set_parent(layout, txn, new_dir.ino)?;
                }
                old_dir.subdirs_changed(layout, txn, rename.old_dir, -1)?;
                if target.is_none() {
                    new_dir.subdirs_changed(layout, txn, rename.new_dir, 1)?;
                }
            }
            rename.inode.touch_ctime();
            moved.store(layout, txn, rename.inode)
        })
    }

    fn exchange(&self, rename: &Rename<'_>) -> Result<()> {
        let target = rename.target.ok_or(Errno::ENOENT)?;
        let (old_dir, new_dir) = (node(rename.old_dir)?, node(rename.new_dir)?);
        let (a, b) = (node(rename.inode)?, node(target)?);
        let is_across = old_dir.ino != new_dir.ino;
        self.fs.begin()?.run(|layout, txn| {
            old_dir.set_name(layout, txn, rename.old_dir, rename.old_name, b.ino, target.mode())?;
            new_dir.set_name(layout, txn, rename.new_dir, rename.new_name, a.ino, rename.inode.mode())?;
            let moves = [(rename.inode, a, new_dir, -1), (target, b, old_dir, 1)];
            for (inode, child, home, delta) in
                moves.into_iter().filter(|(inode, ..)| inode.is_dir() && is_across)
            {
                debug_assert!(inode.is_dir());
                child.set_parent(layout, txn, home.ino)?;
                old_dir.subdirs_changed(layout, txn, rename.old_dir, delta)?;
                new_dir.subdirs_changed(layout, txn, rename.new_dir, -delta)?;
            }
            for (inode, child) in [(rename.inode, a), (target, b)] {
                inode.touch_ctime();
                child.store(layout, txn, inode)?;
            }
            Ok(())
        })
    }
}

/// Counts subdirectories; a directory with more than can be counted has 1 link for good.
fn add_subdirs(dir: &Inode, delta: i32) {
    if dir.nlink() == 1 {
        return;
    }
    dir.add_nlink(delta);
    if dir.nlink() >= dir::LINK_MAX {
        dir.set_nlink(1);
    }
}

/// Stores the target of a symbolic link: in the inode, or in a block.
fn write_target(layout: &Layout, txn: &mut Txn<'_>, raw: &mut disk::Inode, target: &[u8]) -> DiskResult<()> {
    if target.len() >= layout.block_size {
        return Err(Error::TooBig);
    }
    raw.set_size(target.len() as u64);
    if target.len() < MAP_LEN {
        raw.set_short_target(target);
        return raw.store(layout, txn);
    }
    if layout.incompat.contains(Incompat::EXTENTS) {
        raw.init_extents();
    }
    let (physical, _) = alloc_unpromised(layout, txn, layout.inode_goal(raw.ino()), 1)?;
    let new = Extent { logical: 0, len: 1, physical, is_unwritten: false };
    if let Err(error) = dir::insert_run(layout, txn, raw, new) {
        free_blocks(layout, txn, physical, 1, Freed::Data)?;
        return Err(error);
    }
    let bytes = txn.create(physical, Seal::None)?;
    bytes.get_mut(..target.len()).ok_or(Error::TooBig)?.copy_from_slice(target);
    Ok(())
}

impl InodeOps for Ops {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let found = self.0.fs.look(|layout, view| {
            let raw = self.0.load(layout, view)?;
            dir::lookup(layout, view, &raw, name)
        })?;
        found.map(|(ino, _)| self.0.fs.iget(ino)).transpose()
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        if new.mode & S_IFMT == S_IFLNK && new.target.len() >= self.0.fs.layout.block_size {
            return Err(Errno::ENAMETOOLONG);
        }
        self.0.fs.with_space(|| self.0.create(dir, name, new))
    }

    fn tmpfile(&self, _dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let (raw, tid) = self.0.fs.with_space(|| {
            self.0.fs.begin()?.run(|layout, txn| {
                let mut raw = self.0.make(layout, txn, new, 0)?;
                txn.add_orphan(layout, &mut raw)?;
                Ok((raw, txn.state.tid))
            })
        })?;
        self.0.made(&raw, tid)
    }

    fn link(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let child = node(inode)?;
        if inode.nlink() >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        let add = |layout: &Layout, txn: &mut Txn<'_>| {
            self.0.add_name(layout, txn, dir, name, child.ino, inode.mode())?;
            if child.set_orphan(false) {
                let mut raw = child.load(layout, txn)?;
                txn.remove_orphan(layout, &mut raw)?;
            }
            inode.add_nlink(1);
            inode.touch_ctime();
            child.store(layout, txn, inode)
        };
        self.0.fs.with_space(|| self.0.fs.begin()?.run(add))
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.0.unlink_name(dir, name, inode)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.0.unlink_name(dir, name, inode)
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        match rename.kind {
            RenameKind::Exchange => self.0.exchange(rename),
            RenameKind::Move | RenameKind::Whiteout => {
                // A file that replaces another has its data on disk first: programs that write a new file and
                // rename it over the old one without fsync(2) lose neither (Linux: auto_da_alloc).
                if rename.target.is_some()
                    && let Some(mapping) = rename.inode.mapping()
                {
                    mapping.write_back(0..u64::MAX)?;
                }
                self.0.fs.with_space(|| self.0.move_name(rename))
            }
        }
    }

    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        match &self.0.target {
            Some(target) => Ok(Link::Target(target.to_vec())),
            None => Err(Errno::EINVAL),
        }
    }

    fn link_in_memory(&self) -> Option<&[u8]> {
        self.0.target.as_deref()
    }

    fn open(&self, inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        if inode.is_dir() {
            return Ok(dirops::DIRECTORY.clone());
        }
        self.0.fs.check_there()?;
        Ok(file::REGULAR.clone())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        if let Some(size) = change.size {
            if size <= inode.size() {
                file::check_unswapped(inode)?;
            }
            self.0.set_size(inode, size)?;
        }
        let handle = self.0.fs.begin()?;
        inode.apply(change);
        self.0.write_attributes_in(&handle, inode)
    }

    fn times_changed(&self, inode: &Arc<Inode>) {
        self.0.mark_dirty(inode);
    }

    fn get_attr(&self, _inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        let fs = &self.0.fs;
        let sectors = fs.look(|layout, view| disk::sectors_of(layout, view, self.0.ino))?;
        let promised = self.0.reserved.lock().len();
        stat.stx_blocks = sectors + promised * (hal::PAGE_SIZE as u64 / 512);
        Ok(())
    }

    fn direct_align(&self, _inode: &Inode) -> Option<DirectAlign> {
        let limits = *self.0.fs.disk.device().limits();
        self.0
            .can_direct()
            .then_some(DirectAlign { memory: limits.dma_alignment, offset: limits.logical_block_size })
    }

    fn file_attr(&self, inode: &Inode) -> Result<FileAttr> {
        file::attr(inode)
    }

    fn set_file_attr(&self, inode: &Inode, attr: &FileAttr) -> Result<()> {
        file::set_attr(inode, attr)
    }

    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        xattrs::get(&self.0, name)
    }

    fn set_xattr(&self, inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        xattrs::set(&self.0, inode, name, Some(value), mode)
    }

    fn remove_xattr(&self, inode: &Inode, name: &[u8]) -> Result<()> {
        xattrs::set(&self.0, inode, name, None, XattrMode::Any)
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        xattrs::list(&self.0)
    }
}

impl Node {
    /// The object for an inode that transaction `tid` made.
    fn made(&self, raw: &disk::Inode, tid: u64) -> Result<Arc<Inode>> {
        let inode = self.fs.instantiate(raw)?;
        let child = node(&inode)?;
        child.tid.store(tid, Release);
        child.data_tid.store(tid, Release);
        Ok(inode)
    }
}
