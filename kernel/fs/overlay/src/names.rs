//! Making and removing names.
//!
//! ```text
//!                        below: nothing        below: something
//! make over nothing      in place              (cannot be: the name is taken)
//! make over a whiteout   in work, then over it; a directory is opaque
//! remove                 removed in upper      a whiteout takes its place
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::{RenameFlags, S_IFDIR, S_IFMT};
use abi::{Errno, Result};
use security::Cred;
use vfs::{Inode, NewInode, Path, SetAttr, namespace};

use crate::copy_up::Data;
use crate::inode::{OverlayInode, instantiate, kept_below, overlay, refresh};
use crate::layers::{Found, Overlay, Stack};
use crate::rename::Stays;
use crate::work::temporary_name;

impl Overlay {
    /// Copies directory `dir` up; gives its path in the upper layer. `changes` is held.
    pub(crate) fn upper_dir<'a>(&self, dir: &'a Arc<Inode>) -> Result<&'a Path> {
        self.copy_up_locked(dir, Data::All)?;
        overlay(dir)?.upper_path()
    }

    /// The mounter's credentials with the ids that a new file is to have.
    fn cred_as(&self, uid: u32, gid: u32) -> Cred {
        let mut cred = (*self.cred).clone();
        (cred.fsuid, cred.fsgid) = (uid, gid);
        cred
    }

    /// Makes `new` in the upper layer as `name` in `dir`, where nothing or a whiteout is.
    fn make_in(&self, dir: &Path, name: &[u8], new: &NewInode<'_>) -> Result<Path> {
        let cred = self.cred_as(new.uid, new.gid);
        if !matches!(self.child(dir, name)?, Found::Whiteout) {
            return namespace::create_in(dir, name, new.mode, new.rdev, new.target, &cred);
        }
        let work = &self.writable()?.work;
        let temp = temporary_name();
        let made = namespace::create_in(work, temp.as_bytes(), new.mode, new.rdev, new.target, &cred)?;
        let moved =
            self.own(&made, new).and_then(|()| self.replace_whiteout(&made, temp.as_bytes(), dir, name));
        if moved.is_err() {
            self.discard(temp.as_bytes());
        }
        moved.map(|()| made)
    }

    /// Gives `made` the owner that `new` names.
    fn own(&self, made: &Path, new: &NewInode<'_>) -> Result<()> {
        let inode = made.inode().ok_or(Errno::EIO)?;
        let change = SetAttr {
            mode: Some(inode.mode() & S_IFMT | new.mode & !S_IFMT),
            uid: Some(new.uid),
            gid: Some(new.gid),
            ctime: vfs::time::now(),
            ..SetAttr::default()
        };
        let _exclusive = inode.sem.write();
        inode.ops().set_attr(inode, &kept_below(made, &change)?)
    }

    /// Moves `temp`, which is `made`, from the work directory over the whiteout `name` of `dir`.
    fn replace_whiteout(&self, made: &Path, temp: &[u8], dir: &Path, name: &[u8]) -> Result<()> {
        let work = &self.writable()?.work;
        let inode = made.inode().ok_or(Errno::EIO)?;
        if !inode.is_dir() {
            return namespace::rename_in((work, temp), (dir, name), RenameFlags::empty(), &self.cred);
        }
        self.marks.set_opaque(inode)?;
        namespace::rename_in((work, temp), (dir, name), RenameFlags::EXCHANGE, &self.cred)?;
        self.discard(temp);
        Ok(())
    }
}

impl OverlayInode {
    /// Makes `new` as `name` in `dir`, which this is.
    pub(crate) fn make(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let made = {
            let _changes = self.fs.changes.lock();
            let upper = self.fs.upper_dir(dir)?;
            self.fs.make_in(upper, name, new)?
        };
        if new.mode & S_IFMT == S_IFDIR {
            refresh(dir)?;
        }
        let stack = Stack { upper: Some(made), lowers: Vec::new() };
        instantiate(dir.sb(), &self.fs, stack, None)
    }

    /// Makes a file without a name in `dir`, which this is.
    pub(crate) fn make_unnamed(&self, dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        let upper = {
            let _changes = self.fs.changes.lock();
            self.fs.upper_dir(dir)?
        };
        let real = upper.inode().ok_or(Errno::EIO)?;
        let view = upper.mount.id_view();
        let new = NewInode { uid: view.keep_uid(new.uid)?, gid: view.keep_gid(new.gid)?, ..*new };
        let made = real.ops().tmpfile(real, &new)?;
        let dentry = namespace::unnamed_dentry(&upper.dentry, made, namespace::Linkable::Yes);
        let stack = Stack { upper: Some(Path { mount: upper.mount.clone(), dentry }), lowers: Vec::new() };
        instantiate(dir.sb(), &self.fs, stack, None)
    }

    /// Gives `inode` the further name `name` in `dir`, which this is.
    pub(crate) fn add_name(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let _changes = self.fs.changes.lock();
        let upper = self.fs.upper_dir(dir)?;
        self.fs.copy_up_locked(inode, Data::Stays)?;
        let subject = overlay(inode)?.upper_path()?;
        self.fs.redirect_data(overlay(inode)?, Stays::No)?;
        self.fs.begin_names(inode)?;
        let cred = &self.fs.cred;
        if matches!(self.fs.child(upper, name)?, Found::Whiteout) {
            let work = &self.fs.writable()?.work;
            let temp = temporary_name();
            namespace::link_in(subject, work, temp.as_bytes(), cred)?;
            let flags = RenameFlags::empty();
            let moved = namespace::rename_in((work, temp.as_bytes()), (upper, name), flags, cred);
            if moved.is_err() {
                self.fs.discard(temp.as_bytes());
            }
            moved?;
        } else {
            namespace::link_in(subject, upper, name, cred)?;
        }
        if overlay(inode)?.indexed.is_some() {
            inode.add_nlink(1);
        }
        refresh(inode)
    }

    /// Removes `name`, which is `inode`, from `dir`, which this is. `ENOTEMPTY`: a directory that shows something.
    pub(crate) fn remove(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        let fs = &self.fs;
        let _changes = fs.changes.lock();
        let victim = overlay(inode)?;
        if inode.is_dir() && !fs.is_empty(victim)? {
            return Err(Errno::ENOTEMPTY);
        }
        let is_below = fs.is_in_lower(self, name)?;
        let upper = fs.upper_dir(dir)?;
        fs.prepare_removal(self, name, inode)?;
        if is_below {
            fs.put_whiteout(upper, name)?;
        } else if inode.is_dir() {
            // What shows nothing may still hold whiteouts.
            fs.remove_children(victim.upper_path()?, 0)?;
            namespace::rmdir_in(upper, name, &fs.cred)?;
        } else {
            namespace::unlink_in(upper, name, &fs.cred)?;
        }
        removed(inode)?;
        refresh(dir)
    }
}

impl Overlay {
    /// Before `name` in `dir`, which is up, ceases to lead to `inode`: a file of the index is copied up with that name, as it
    /// is the copy that counts the names. `changes` is held.
    pub(crate) fn prepare_removal(&self, dir: &OverlayInode, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        if overlay(inode)?.indexed.is_some() {
            self.copy_up_locked(inode, Data::Stays)?;
            self.raise_name(dir, name, inode)?;
            self.begin_names(inode)?;
        }
        Ok(())
    }
}

/// Notes that `inode` lost a name: its only one, if it is a directory or in a lower layer.
pub(crate) fn removed(inode: &Arc<Inode>) -> Result<()> {
    let this = overlay(inode)?;
    let left = match this.upper().and_then(Path::inode) {
        Some(_) if this.indexed.is_some() => inode.nlink().saturating_sub(1),
        Some(real) if !inode.is_dir() => real.nlink(),
        _ => 0,
    };
    inode.set_nlink(left);
    if left == 0 {
        this.fs.leave_index(this);
        this.set_removed();
    }
    Ok(())
}
