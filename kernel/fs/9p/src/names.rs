//! What the VFS asks of inodes: names and attributes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{OpenFlags, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, Statx, major, minor};
use abi::time::Timespec;
use abi::{Errno, Result};
use p9_wire::{Change, Request};
use sched::Interruptible;
use security::{Access as Wanted, Cred};
use vfs::inode::{Link, Rename, RenameKind, XattrMode};
use vfs::{FileOps, Inode, InodeOps, NewInode, OpenRequest, SetAttr};

use crate::dirs::Directory;
use crate::fid::Fid;
use crate::file::{Regular, mapping};
use crate::node::{Node, OpenFid, Ops, node};
use crate::options::Access;
use crate::xattrs;

/// `AT_REMOVEDIR`.
const REMOVE_DIR: u32 = 0x200;
/// `AT_SYMLINK_NOFOLLOW` is of no use to the server: it never follows.
const PERMISSIONS: u32 = 0o7777;
/// Flags of open(2) that mean the same on every server.
const PASSED: OpenFlags = OpenFlags::SYNC.union(OpenFlags::DSYNC).union(OpenFlags::NONBLOCK);

fn seconds(time: Timespec) -> (u64, u64) {
    (time.tv_sec as u64, time.tv_nsec as u64)
}

impl Node {
    /// The inode of the entry `name`; `None`: there is none.
    fn find(&self, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let Some((fid, _)) = self.fid().walk(name)? else { return Ok(None) };
        match fid.attributes() {
            Ok(attributes) => {
                let name = Some((self.qid.path, name));
                self.fs.instantiate(Arc::new(fid), name, &attributes).map(Some)
            }
            // It went between the two.
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the regular file `name` and opens it for what comes.
    fn create_file(&self, name: &[u8], new: &NewInode<'_>) -> Result<Fid> {
        let fid = self.fid().duplicate(Interruptible::Killable)?;
        let flags = OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::LARGEFILE;
        fid.create(name, flags.bits(), new.mode & PERMISSIONS, new.gid)?;
        Ok(fid)
    }

    /// Makes something else.
    fn create_other(&self, name: &[u8], new: &NewInode<'_>) -> Result<()> {
        let fid = self.fid();
        let (dir, gid) = (fid.id(), new.gid);
        fid.tell(&match new.mode & S_IFMT {
            S_IFDIR => Request::MakeDir { dir, name, mode: new.mode & PERMISSIONS, gid },
            S_IFLNK => Request::Symlink { dir, name, target: new.target, gid },
            _ => {
                let (major, minor) = (major(new.rdev), minor(new.rdev));
                Request::MakeNode { dir, name, mode: new.mode, major, minor, gid }
            }
        })
    }

    /// Removes the entry `name`, which leads to `inode`.
    fn remove(&self, name: &[u8], inode: &Arc<Inode>, flags: u32) -> Result<()> {
        let fid = self.fid();
        match fid.tell(&Request::UnlinkAt { dir: fid.id(), name, flags }) {
            // An older server removes by fid, and the fid goes with it.
            Err(Errno::EOPNOTSUPP) => {
                let (victim, _) = fid.walk(name)?.ok_or(Errno::ENOENT)?;
                victim.tell(&Request::Remove { fid: victim.id() })?;
            }
            told => told?,
        }
        node(inode)?.lost_name(inode, (self.qid.path, name));
        Ok(())
    }

    fn move_name(&self, rename: &Rename<'_>) -> Result<()> {
        let (old, new) = (node(rename.old_dir)?.fid(), node(rename.new_dir)?.fid());
        let request = Request::RenameAt {
            old_dir: old.id(),
            old_name: rename.old_name,
            new_dir: new.id(),
            new_name: rename.new_name,
        };
        match old.tell(&request) {
            Err(Errno::EOPNOTSUPP) => {
                let fid = node(rename.inode)?.fid();
                fid.tell(&Request::Rename { fid: fid.id(), dir: new.id(), name: rename.new_name })?;
            }
            told => told?,
        }
        let new_name = (node(rename.new_dir)?.qid.path, rename.new_name);
        if let Some(target) = rename.target.filter(|target| !Arc::ptr_eq(target, rename.inode)) {
            node(target)?.lost_name(target, new_name);
            if target.is_dir() {
                rename.new_dir.add_nlink(-1);
            }
        }
        if rename.inode.is_dir() && !Arc::ptr_eq(rename.old_dir, rename.new_dir) {
            rename.old_dir.add_nlink(-1);
            rename.new_dir.add_nlink(1);
        }
        // By its new name from now on, for servers whose fids are names.
        let moved = node(rename.inode)?;
        moved.moved_name((node(rename.old_dir)?.qid.path, rename.old_name), new_name);
        if !moved.is_gone() {
            rename.inode.touch_ctime();
        }
        Ok(())
    }

    /// Opens a regular file: for reading, too, where the page cache has to read what is written in parts.
    fn open_regular(self: &Arc<Self>, inode: &Arc<Inode>, flags: OpenFlags) -> Result<Regular> {
        let is_cached = self.fs.options.cache.keeps_pages() && !self.fs.options.is_direct;
        let appends = !is_cached && flags.can_write() && flags.contains(OpenFlags::APPEND);
        let made = self.made.lock().take();
        if let Some(open) = &made
            && !appends
        {
            return Ok(Regular { node: self.clone(), open: open.clone() });
        }
        if !self.fs.options.cache.keeps_names() {
            self.refresh(inode)?;
        }
        let (can_read, can_write) = (flags.can_read(), flags.can_write());
        let mut passed = flags & PASSED | OpenFlags::LARGEFILE;
        if appends {
            passed |= OpenFlags::APPEND;
        }
        if can_write && !can_read && is_cached {
            let both =
                self.open_again((passed | OpenFlags::RDWR).bits(), true, true, Interruptible::Killable);
            if !matches!(both, Err(Errno::EACCES)) {
                return both.map(|open| Regular { node: self.clone(), open });
            }
        }
        let access = flags & (OpenFlags::WRONLY | OpenFlags::RDWR);
        let open = self.open_again((passed | access).bits(), can_read, can_write, Interruptible::Killable);
        // Who has made a file may write to it, whatever its mode says to others, with the server's file of that time.
        let open = match (open, made) {
            (Err(Errno::EACCES), Some(made)) => made,
            (open, _) => open?,
        };
        Ok(Regular { node: self.clone(), open })
    }

    /// Has the pages that wait on the server; their file may have been closed.
    fn write_back(&self, inode: &Inode) -> Result<()> {
        match inode.mapping() {
            // Also waits for pages that are being written, which are not dirty any more.
            Some(mapping) if mapping.nr_pages() > 0 => mapping.write_back(0..u64::MAX),
            _ => Ok(()),
        }
    }
}

impl InodeOps for Ops {
    fn lookup(&self, _dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        self.0.find(name)
    }

    fn revalidate(&self, _dir: &Arc<Inode>, name: &[u8], inode: Option<&Arc<Inode>>) -> bool {
        // What was not there may be by now.
        let Some(inode) = inode else { return false };
        let Ok(child) = node(inode) else { return false };
        if inode.nlink() > 1 && !inode.is_dir() {
            // Its fid may be by another of its names.
            match self.0.fid().walk(name) {
                Ok(Some((fid, qid))) if qid.path == child.qid.path => {
                    child.note_name((self.0.qid.path, name), Arc::new(fid), true);
                }
                _ => return false,
            }
        }
        child.refresh(inode).is_ok()
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let made = match new.mode & S_IFMT {
            S_IFREG => Some(self.0.create_file(name, new)?),
            _ => {
                self.0.create_other(name, new)?;
                None
            }
        };
        let inode = self.0.find(name)?.ok_or(Errno::ENOENT)?;
        let child = node(&inode)?;
        if let Some(fid) = made {
            let open = child.opened(OpenFid { fid, can_read: true, can_write: true })?;
            let old = child.made.lock().replace(open);
            drop(old);
        }
        if inode.is_dir() {
            dir.add_nlink(1);
        }
        if inode.uid() != new.uid || inode.gid() != new.gid {
            // The server made it for whom it runs as. It may not be allowed to give it away.
            let change = Change { uid: Some(new.uid), gid: Some(new.gid), ..Change::default() };
            if child.fid().change(&change).is_ok() {
                child.refresh(&inode)?;
            }
        }
        Ok(inode)
    }

    fn link(&self, _dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let (dir, fid) = (self.0.fid(), node(inode)?.fid());
        dir.tell(&Request::Link { dir: dir.id(), fid: fid.id(), name })?;
        inode.add_nlink(1);
        // By either name, should the other one go.
        if let Ok(Some((fid, qid))) = dir.walk(name)
            && let Ok(node) = node(inode)
            && qid.path == node.qid.path
        {
            node.note_name((self.0.qid.path, name), Arc::new(fid), true);
        }
        Ok(())
    }

    fn unlink(&self, _dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.0.remove(name, inode, 0)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.0.remove(name, inode, REMOVE_DIR)?;
        dir.add_nlink(-1);
        Ok(())
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        match rename.kind {
            RenameKind::Move => self.0.move_name(rename),
            RenameKind::Exchange | RenameKind::Whiteout => Err(Errno::EINVAL),
        }
    }

    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        self.0.fid().read_link().map(Link::Target)
    }

    fn open(&self, inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        if inode.is_dir() {
            let fid = self.0.fid().duplicate(Interruptible::Killable)?;
            fid.open((OpenFlags::DIRECTORY | OpenFlags::LARGEFILE).bits(), Interruptible::Killable)?;
            return Ok(Arc::new(Directory(fid)));
        }
        Ok(Arc::new(self.0.open_regular(inode, request.flags)?))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        // What is written later would change the times.
        self.0.write_back(inode)?;
        let asked = Change {
            mode: change.mode.map(|mode| mode & PERMISSIONS),
            uid: change.uid,
            gid: change.gid,
            size: change.size,
            atime: change.atime.map(seconds),
            mtime: change.mtime.map(seconds),
        };
        let open = if self.0.is_gone() { self.0.open_fid(|open| open.can_write) } else { None };
        // A page that is being written must not come to the server after the new size.
        let frozen = match change.size {
            Some(size) => Some((mapping(inode)?.freeze(), size)),
            None => None,
        };
        match open {
            Some(open) => open.fid.change(&asked)?,
            None => self.0.fid().change(&asked)?,
        }
        if let Some((frozen, size)) = frozen {
            frozen.truncate(size);
        }
        self.0.change(inode, change);
        Ok(())
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        // LINUX: `loose` believes the attributes it has, though its own writes and names change them on the server.
        let attributes = match self.0.refresh(inode) {
            Ok(attributes) => attributes,
            Err(_) if self.0.is_gone() => {
                (stat.stx_nlink, stat.stx_blocks) = (0, inode.size().div_ceil(512));
                return Ok(());
            }
            Err(errno) => return Err(errno),
        };
        let times = inode.times();
        stat.stx_mode = inode.mode() as u16;
        (stat.stx_uid, stat.stx_gid, stat.stx_nlink) = (inode.uid(), inode.gid(), inode.nlink());
        (stat.stx_size, stat.stx_blocks) = (inode.size(), attributes.blocks);
        stat.stx_blksize = u32::try_from(attributes.block_size).unwrap_or(stat.stx_blksize).max(1);
        stat.stx_atime = times.atime.into();
        stat.stx_mtime = times.mtime.into();
        stat.stx_ctime = times.ctime.into();
        Ok(())
    }

    fn permission(&self, inode: &Inode, cred: &Cred, wanted: Wanted) -> Result<()> {
        match self.0.fs.options.access {
            Access::Single(uid) if cred.fsuid != uid => Err(Errno::EPERM),
            _ => security::inode_permission(cred, &inode.ids(), wanted),
        }
    }

    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        xattrs::get(&self.0, name)
    }

    fn set_xattr(&self, _inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        xattrs::set(&self.0, name, value, mode)
    }

    fn remove_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<()> {
        xattrs::remove(&self.0, name)
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        xattrs::list(&self.0)
    }
}
