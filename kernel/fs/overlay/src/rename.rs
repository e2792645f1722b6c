//! Renaming.
//!
//! Everything that moves is copied up first; then the upper layer's own rename does it in one step, leaving a whiteout
//! where something below would come to light.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::RenameFlags;
use abi::{Errno, Result};
use vfs::inode::{Rename, RenameKind};
use vfs::{Inode, namespace};

use crate::copy_up::Data;
use crate::inode::{OverlayInode, overlay, refresh};
use crate::layers::{Found, Overlay};
use crate::marks::Redirect;
use crate::names::removed;
use crate::options::RedirectDir;

/// Whether what gets a name stays in its directory, and in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stays {
    Yes,
    No,
}

/// One of the two inodes that a rename moves, and where it goes.
struct Move<'a> {
    inode: &'a Arc<Inode>,
    from: &'a Arc<Inode>,
    to: &'a Arc<Inode>,
    new_name: &'a [u8],
}

impl OverlayInode {
    /// Does what `rename` says. `EXDEV`: a directory with lower ones, without `redirect_dir=on`. `EINVAL`: a whiteout
    /// is asked for.
    pub(crate) fn move_names(&self, rename: &Rename<'_>) -> Result<()> {
        let fs = &self.fs;
        if rename.kind == RenameKind::Whiteout {
            return Err(Errno::EINVAL);
        }
        let _changes = fs.changes.lock();
        let exchanged = rename.target.filter(|_| rename.kind == RenameKind::Exchange);
        let there =
            Move { inode: rename.inode, from: rename.old_dir, to: rename.new_dir, new_name: rename.new_name };
        let back = exchanged.map(|inode| Move {
            inode,
            from: rename.new_dir,
            to: rename.old_dir,
            new_name: rename.old_name,
        });
        for step in core::iter::once(&there).chain(&back) {
            fs.check_move(step)?;
        }
        fs.upper_dir(rename.old_dir)?;
        fs.upper_dir(rename.new_dir)?;
        for step in core::iter::once(&there).chain(&back) {
            fs.prepare_move(step)?;
        }
        fs.raise_name(self, rename.old_name, rename.inode)?;
        if let Some(target) = rename.target {
            fs.prepare_removal(overlay(rename.new_dir)?, rename.new_name, target)?;
        }
        match exchanged {
            Some(_) => fs.rename(rename, RenameFlags::EXCHANGE)?,
            None => fs.replace(rename)?,
        }
        if exchanged.is_none()
            && let Some(target) = rename.target
        {
            removed(target)?;
        }
        refresh(rename.old_dir)?;
        refresh(rename.new_dir)
    }
}

impl Overlay {
    fn check_move(&self, step: &Move<'_>) -> Result<()> {
        let has_lower = step.inode.is_dir() && !overlay(step.inode)?.lowers.is_empty();
        if has_lower && self.options.redirect_dir != RedirectDir::On { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// Copies what moves up and marks it so that it is found right in its new place.
    fn prepare_move(&self, step: &Move<'_>) -> Result<()> {
        self.copy_up_locked(step.inode, Data::Stays)?;
        let this = overlay(step.inode)?;
        let real = this.real_inode()?;
        let stays = if Arc::ptr_eq(step.from, step.to) { Stays::Yes } else { Stays::No };
        if !real.is_dir() {
            return self.redirect_data(this, stays);
        }
        if this.lowers.is_empty() {
            // Nothing was below it; what is below its new name stays hidden.
            let is_below = self.is_in_lower(overlay(step.to)?, step.new_name)?;
            return if is_below { self.marks.set_opaque(real) } else { Ok(()) };
        }
        self.set_redirect(this, stays)
    }

    /// Marks the file `this`, which gets another name, so that its data is found, if that is in another layer.
    pub(crate) fn redirect_data(&self, this: &OverlayInode, stays: Stays) -> Result<()> {
        if this.is_metacopy() { self.set_redirect(this, stays) } else { Ok(()) }
    }

    /// Marks `this` with where it is below.
    fn set_redirect(&self, this: &OverlayInode, stays: Stays) -> Result<()> {
        let real = this.real_inode()?;
        if matches!(self.marks.redirect(real)?, Some(Redirect::Path(_))) {
            // What is below is where it was.
            return Ok(());
        }
        let redirect = self.redirect_of(this, stays)?;
        self.marks.set_redirect(real, &redirect)
    }

    /// Where `this` is below: its name, or its path where it leaves its directory.
    fn redirect_of(&self, this: &OverlayInode, stays: Stays) -> Result<Vec<u8>> {
        let lower = this.lowers.first().ok_or(Errno::EIO)?;
        let name = lower.path.dentry.name();
        if stays == Stays::Yes {
            return Ok(name.to_vec());
        }
        let root = self.lowers.get(lower.layer).ok_or(Errno::EIO)?;
        let mut names = Vec::new();
        let mut at = lower.path.dentry.clone();
        while !Arc::ptr_eq(&at, &root.dentry) {
            let (parent, name) = at.parent_and_name();
            names.push(name);
            at = parent.ok_or(Errno::EIO)?;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Ok(path)
    }

    fn rename(&self, rename: &Rename<'_>, flags: RenameFlags) -> Result<()> {
        let old = (overlay(rename.old_dir)?.upper_path()?, rename.old_name);
        let new = (overlay(rename.new_dir)?.upper_path()?, rename.new_name);
        namespace::rename_in(old, new, flags, &self.cred)
    }

    /// A rename that ends what the new name led to.
    fn replace(&self, rename: &Rename<'_>) -> Result<()> {
        if let Some(target) = rename.target.filter(|target| target.is_dir()) {
            let target = overlay(target)?;
            if !self.is_empty(target)? {
                return Err(Errno::ENOTEMPTY);
            }
            if let Some(path) = target.upper() {
                self.remove_children(path, 0)?;
            }
        }
        let new_dir = overlay(rename.new_dir)?.upper_path()?;
        let leaves_whiteout = self.is_in_lower(overlay(rename.old_dir)?, rename.old_name)?;
        let meets_whiteout = matches!(self.child(new_dir, rename.new_name)?, Found::Whiteout);
        if meets_whiteout && rename.inode.is_dir() {
            // A directory does not replace a whiteout: they change places, and that may be the one to be left.
            self.rename(rename, RenameFlags::EXCHANGE)?;
            if !leaves_whiteout {
                let old_dir = overlay(rename.old_dir)?.upper_path()?;
                namespace::unlink_in(old_dir, rename.old_name, &self.cred)?;
            }
            return Ok(());
        }
        let flags = if leaves_whiteout { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
        self.rename(rename, flags)
    }
}
