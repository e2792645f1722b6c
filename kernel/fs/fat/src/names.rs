//! What the VFS asks of inodes: names and attributes.

use alloc::sync::Arc;

use abi::fs::{S_IFDIR, S_IFMT, S_IFREG, Statx};
use abi::{Errno, Result};
use fat_image::dir::{self, Dir, Entry};
use fat_image::name::Spelling;
use fat_image::{Attributes, Record, free_chain, name, time};
use vfs::inode::{Rename, RenameKind, Times};
use vfs::{FileOps, Inode, InodeOps, NewInode, OpenRequest, SetAttr};

use crate::fs::{Meta, errno};
use crate::node::{Node, Ops, node, put_times};
use crate::{dirs, file};

type DiskResult<T> = fat_image::Result<T>;

/// Bits of a mode that go together: all may write, or nobody.
const WRITE_BITS: u32 = 0o222;

impl Node {
    /// The entry `name` of this directory, and where its record is on the volume.
    fn find(&self, meta: &mut Meta, name: &[u8]) -> DiskResult<Option<(Entry, u64)>> {
        let fs = &self.fs;
        self.with_chain(meta, |_, chain| {
            let dir = Dir { layout: &fs.layout, volume: &fs.volume, chain };
            let Some(entry) = dir.find(name)? else { return Ok(None) };
            let at = dir.place(entry.at)?;
            Ok(Some((entry, at)))
        })
    }

    /// Adds a name; gives where its record is on the volume.
    fn add_name(&self, meta: &mut Meta, name: &[u8], record: &Record) -> DiskResult<(Entry, u64)> {
        let fs = &self.fs;
        self.with_chain(meta, |meta, chain| {
            let entry = dir::add(&fs.layout, &fs.volume, &mut meta.table, chain, name, record)?;
            let at = Dir { layout: &fs.layout, volume: &fs.volume, chain }.place(entry.at)?;
            Ok((entry, at))
        })
    }

    /// Removes the name `name`, which is there.
    fn remove_name(&self, meta: &mut Meta, name: &[u8]) -> DiskResult<()> {
        let Some((entry, _)) = self.find(meta, name)? else {
            return Err(fat_image::Error::Corrupt("a name vanished"));
        };
        self.remove_entry(meta, &entry)
    }

    fn remove_entry(&self, meta: &mut Meta, entry: &Entry) -> DiskResult<()> {
        let fs = &self.fs;
        self.with_chain(meta, |_, chain| Dir { layout: &fs.layout, volume: &fs.volume, chain }.remove(entry))
    }

    fn has_no_names(&self, meta: &mut Meta) -> DiskResult<bool> {
        let fs = &self.fs;
        self.with_chain(meta, |_, chain| Dir { layout: &fs.layout, volume: &fs.volume, chain }.has_no_names())
    }

    /// Notes that the directory changed.
    fn names_changed(&self, meta: &mut Meta, inode: &Inode) -> DiskResult<()> {
        inode.touch_mtime();
        round_times(inode);
        let fs = &self.fs;
        let dir_len = |chain: &[u32]| Dir { layout: &fs.layout, volume: &fs.volume, chain }.len();
        let len = self.with_chain(meta, |_, chain| Ok(dir_len(chain)))?;
        inode.set_size(len.into());
        self.store(inode)
    }

    /// `EINVAL`, `ENOENT`, `ENAMETOOLONG`: no file can have this name.
    fn check_name(&self, name: &[u8]) -> Result<()> {
        match self.fs.layout.spelling {
            Spelling::Msdos => name::msdos(name).map(drop).map_err(errno),
            _ => name::check(name).map(drop).map_err(errno),
        }
    }

    /// Takes a name of `inode` away; `true`: it was a directory.
    fn unlink_name(&self, dir: &Inode, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let child = node(inode)?;
        let mut meta = self.fs.lock();
        let empty = if child.is_dir { child.has_no_names(&mut meta) } else { Ok(true) };
        if !empty.map_err(|error| self.fs.failed(error))? {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove_name(&mut meta, name).map_err(|error| self.fs.failed(error))?;
        child.lost_name(inode);
        if child.is_dir {
            dir.add_nlink(-1);
        }
        let changed = self.names_changed(&mut meta, dir);
        drop(meta);
        child.forget_pages(inode);
        child.free_if_unused();
        changed.map_err(|error| self.fs.failed(error))
    }

    /// It has no name any more.
    fn lost_name(&self, inode: &Inode) {
        inode.set_nlink(0);
        inode.touch_ctime();
        self.set_gone();
    }

    fn move_name(&self, rename: &Rename<'_>) -> Result<()> {
        let (old_dir, new_dir) = (node(rename.old_dir)?, node(rename.new_dir)?);
        let moved = node(rename.inode)?;
        let target = rename.target.map(|target| node(target).map(|node| (target, node))).transpose()?;
        if target.is_some_and(|(_, target)| Arc::ptr_eq(target, moved)) {
            return Ok(());
        }
        new_dir.check_name(rename.new_name)?;
        let fs = &self.fs;
        let fail = |error| fs.failed(error);
        let mut meta = fs.lock();
        if let Some((_, target)) = target
            && target.is_dir
            && !target.has_no_names(&mut meta).map_err(fail)?
        {
            return Err(Errno::ENOTEMPTY);
        }
        moved.store(rename.inode).map_err(fail)?;
        let Some((entry, _)) = old_dir.find(&mut meta, rename.old_name).map_err(fail)? else {
            return Err(Errno::ENOENT);
        };
        // The new name leads to the file before the old one goes: a crash may leave both, not none.
        if let Some((target, target_node)) = target {
            // The target's record keeps its name and gets the rest.
            let at = target_node.record_at().ok_or(Errno::ENOENT)?;
            moved.store_at(rename.inode, at).map_err(fail)?;
            target_node.lost_name(target);
            moved.set_record_at(Some(at));
            moved.set_parent_node(new_dir);
            if target_node.is_dir {
                rename.new_dir.add_nlink(-1);
            }
            old_dir.remove_entry(&mut meta, &entry).map_err(fail)?;
        } else {
            let (added, at) = new_dir.add_name(&mut meta, rename.new_name, &entry.record).map_err(fail)?;
            if let Err(error) = old_dir.remove_entry(&mut meta, &entry) {
                let _ = new_dir.remove_entry(&mut meta, &added);
                return Err(fail(error));
            }
            moved.set_record_at(Some(at));
            moved.set_parent_node(new_dir);
        }
        if moved.is_dir && !Arc::ptr_eq(old_dir, new_dir) {
            moved.set_parent(&mut meta, new_dir.named_cluster()).map_err(fail)?;
            rename.old_dir.add_nlink(-1);
            rename.new_dir.add_nlink(1);
        }
        old_dir.names_changed(&mut meta, rename.old_dir).map_err(fail)?;
        new_dir.names_changed(&mut meta, rename.new_dir).map_err(fail)?;
        drop(meta);
        if let Some((target, target_node)) = target {
            target_node.forget_pages(target);
            target_node.free_if_unused();
        }
        Ok(())
    }

    /// Has two names swap what they lead to: each record keeps its name and gets the rest of the other's.
    fn exchange(&self, rename: &Rename<'_>) -> Result<()> {
        let (old_dir, new_dir) = (node(rename.old_dir)?, node(rename.new_dir)?);
        let target = rename.target.ok_or(Errno::ENOENT)?;
        let (one, other) = (node(rename.inode)?, node(target)?);
        if Arc::ptr_eq(one, other) {
            return Ok(());
        }
        let fs = &self.fs;
        let fail = |error| fs.failed(error);
        let mut meta = fs.lock();
        let (Some(here), Some(there)) = (one.record_at(), other.record_at()) else {
            return Err(Errno::ENOENT);
        };
        one.set_record_at(None);
        other.set_record_at(Some(here));
        one.set_record_at(Some(there));
        other.set_parent_node(old_dir);
        one.set_parent_node(new_dir);
        for (node, inode) in [(one, rename.inode), (other, target)] {
            node.store(inode).map_err(fail)?;
        }
        if !Arc::ptr_eq(old_dir, new_dir) {
            for (node, from, to, parent) in [
                (one, rename.old_dir, rename.new_dir, new_dir.named_cluster()),
                (other, rename.new_dir, rename.old_dir, old_dir.named_cluster()),
            ] {
                if node.is_dir {
                    node.set_parent(&mut meta, parent).map_err(fail)?;
                    from.add_nlink(-1);
                    to.add_nlink(1);
                }
            }
        }
        old_dir.names_changed(&mut meta, rename.old_dir).map_err(fail)?;
        new_dir.names_changed(&mut meta, rename.new_dir).map_err(fail)
    }

    /// Has ".." lead to the directory that begins with `parent`.
    fn set_parent(&self, meta: &mut Meta, parent: u32) -> DiskResult<()> {
        let fs = &self.fs;
        self.with_chain(meta, |_, chain| {
            Dir { layout: &fs.layout, volume: &fs.volume, chain }.set_parent(parent)
        })
    }

    /// The mode that is kept of `mode`: that of the mount, and whether it can be written. `EPERM`: another one.
    fn kept_mode(&self, inode: &Inode, mode: u32) -> Result<u32> {
        let options = *self.fs.options.lock();
        let mask = if self.is_dir { options.dmask } else { options.fmask };
        let old = inode.mode();
        if (mode ^ old) & 0o555 & !mask != 0 {
            return Err(Errno::EPERM);
        }
        let writable = mode & WRITE_BITS & !mask;
        let all = WRITE_BITS & !mask;
        let can_be_read_only = all != 0 && (!self.is_dir || options.has_read_only_dirs);
        if writable != all && (writable != 0 || !can_be_read_only) {
            return Err(Errno::EPERM);
        }
        Ok(old & !WRITE_BITS | writable)
    }
}

/// Times as the volume keeps them.
fn round_times(inode: &Inode) {
    inode.update_times(|times| {
        times.mtime = round(times.mtime.tv_sec);
        times.ctime = times.mtime;
        times.atime.tv_sec = time::rounded_to_day(times.atime.tv_sec);
        times.atime.tv_nsec = 0;
    });
}

fn round(seconds: i64) -> abi::time::Timespec {
    abi::time::Timespec { tv_sec: time::rounded(seconds), tv_nsec: 0 }
}

impl InodeOps for Ops {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let fs = &self.0.fs;
        let mut meta = fs.lock();
        let Some((entry, at)) = self.0.find(&mut meta, name).map_err(|error| fs.failed(error))? else {
            return Ok(None);
        };
        fs.inode(at, &entry.record, &self.0, &mut meta).map(Some)
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        let mut meta = self.0.fs.lock();
        let found = self.0.find(&mut meta, name).ok().flatten();
        drop(meta);
        match (inode, found) {
            (None, None) => true,
            (Some(inode), Some((_, at))) => node(inode).is_ok_and(|node| node.record_at() == Some(at)),
            _ => false,
        }
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let is_dir = match new.mode & S_IFMT {
            S_IFREG => false,
            S_IFDIR => true,
            _ => return Err(Errno::EPERM),
        };
        self.0.check_name(name)?;
        let fs = &self.0.fs;
        let fail = |error| fs.failed(error);
        let now = vfs::time::now();
        let times = Times { atime: now, mtime: now, ctime: now, btime: now };
        let mut record = Record::empty();
        put_times(&mut record, &times);
        record.attributes = if is_dir { Attributes::DIRECTORY } else { Attributes::ARCHIVE };
        let mut meta = fs.lock();
        let mut made = alloc::vec::Vec::new();
        if is_dir {
            let parent = self.0.named_cluster();
            made = dir::make(&fs.layout, &fs.volume, &mut meta.table, parent, &record).map_err(fail)?;
            record.set_cluster(made.first().copied().unwrap_or(0));
        }
        let (entry, at) = match self.0.add_name(&mut meta, name, &record) {
            Ok(added) => added,
            Err(error) => {
                free_chain(&fs.layout, &fs.volume, &mut meta.table, &mut made, 0).map_err(fail)?;
                return Err(fail(error));
            }
        };
        if is_dir {
            dir.add_nlink(1);
        }
        self.0.names_changed(&mut meta, dir).map_err(fail)?;
        fs.inode(at, &entry.record, &self.0, &mut meta)
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.0.unlink_name(dir, name, inode)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.0.unlink_name(dir, name, inode)
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        match rename.kind {
            RenameKind::Move => self.0.move_name(rename),
            RenameKind::Exchange if self.0.fs.layout.spelling != Spelling::Msdos => self.0.exchange(rename),
            RenameKind::Exchange | RenameKind::Whiteout => Err(Errno::EINVAL),
        }
    }

    fn open(&self, inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        if inode.is_dir() {
            return Ok(dirs::DIRECTORY.clone());
        }
        self.0.fs.volume.check_there()?;
        self.0.opened();
        Ok(file::REGULAR.clone())
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        let options = *self.0.fs.options.lock();
        let is_other = |new: Option<u32>, kept: u32| new.is_some_and(|new| new != kept);
        let mut change = *change;
        let has_more = change.mode.is_some_and(|mode| mode & 0o7000 != 0);
        if is_other(change.uid, options.uid) || is_other(change.gid, options.gid) || has_more {
            return if options.is_quiet { Ok(()) } else { Err(Errno::EPERM) };
        }
        if let Some(size) = change.size {
            self.0.set_size(inode, size)?;
        }
        // What cannot be kept of a mode is left out without a word, as on Linux.
        change.mode = change.mode.and_then(|mode| self.0.kept_mode(inode, mode).ok());
        inode.apply(&change);
        round_times(inode);
        let can_be_read_only = !self.0.is_dir || options.has_read_only_dirs;
        if change.mode.is_some() && can_be_read_only {
            let mask = if self.0.is_dir { options.dmask } else { options.fmask };
            let is_read_only = inode.mode() & WRITE_BITS & !mask == 0;
            let others = self.0.attributes() & !Attributes::READ_ONLY;
            self.0.set_attributes(others | if is_read_only { Attributes::READ_ONLY } else { 0 });
        }
        self.0.write_record(inode)
    }

    fn times_changed(&self, inode: &Arc<Inode>) {
        round_times(inode);
        // An error is told by the next sync(2).
        let _ = self.0.write_record(inode);
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        let size = u64::from(self.0.fs.layout.cluster_size);
        stat.stx_blksize = size as u32;
        let shown = inode.size().next_multiple_of(size);
        // Clusters behind the end count, as far as they are known. A root that is not in clusters has a chain of one.
        stat.stx_blocks = if inode.is_dir() { shown } else { shown.max(self.0.known_len()) } / 512;
        // The VFS notes changes to the nanosecond.
        round_times(inode);
        let times = inode.times();
        stat.stx_atime = times.atime.into();
        stat.stx_mtime = times.mtime.into();
        stat.stx_ctime = times.ctime.into();
        Ok(())
    }
}
