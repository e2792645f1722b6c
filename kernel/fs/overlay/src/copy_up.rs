//! Copying up: what changes moves to the upper layer first.
//!
//! ```text
//!   work/#1f   made, filled, given its attributes, written out
//!      |
//!      +-- rename --> upper/a/b        its directories were copied before
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;

use abi::fs::{OpenFlags, RenameFlags, S_IFLNK, S_IFMT, S_IFREG};
use abi::{Errno, Result};
use hal::uio::{Dest, Src};
use vfs::dentry::Name;
use vfs::inode::XattrMode;
use vfs::open::{self, How};
use vfs::{Inode, Link, Path, SetAttr, SyncMode, Whence, fcntl, namespace, rw, xattr};

use crate::inode::{OverlayInode, kept_below, overlay};
use crate::layers::Overlay;
use crate::work::temporary_name;

/// Whether a file's data is copied too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    /// All of it.
    All,
    /// None: it is about to be cut to nothing.
    None,
    /// None with `metacopy=on`: it is not about to change.
    Stays,
}

/// Whether `this` is as far up as a change of this kind needs it.
fn is_up(this: &OverlayInode, data: Data) -> bool {
    this.upper().is_some() && (data == Data::Stays || !this.is_metacopy())
}

/// Where `this` is to get a name. A file of the index is copied even where its directory was forgotten, as the names lead to it
/// by the index.
fn place_of(this: &OverlayInode) -> Result<Option<(Arc<Inode>, Name)>> {
    match this.place() {
        Err(Errno::ESTALE) if this.indexed.is_some() => Ok(None),
        place => place,
    }
}

/// Bytes that are copied at once.
const CHUNK: usize = 64 * 1024;

impl Overlay {
    /// Copies `inode` up, with its directories, unless it is up already. `EROFS`: there is no upper layer. Takes
    /// `changes`; sleeps.
    pub(crate) fn copy_up(&self, inode: &Inode, data: Data) -> Result<()> {
        if is_up(overlay(inode)?, data) {
            return Ok(());
        }
        let _changes = self.changes.lock();
        self.copy_up_locked(inode, data)
    }

    /// As [`Overlay::copy_up`], with `changes` held.
    pub(crate) fn copy_up_locked(&self, inode: &Inode, data: Data) -> Result<()> {
        let mut above: Vec<Arc<Inode>> = Vec::new();
        let this = overlay(inode)?;
        if is_up(this, data) {
            return Ok(());
        }
        if let Some(upper) = this.upper() {
            return self.complete(this, upper, data);
        }
        let mut next = place_of(this)?;
        while let Some((dir, _)) = next
            && overlay(&dir)?.upper().is_none()
        {
            next = place_of(overlay(&dir)?)?;
            above.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            above.push(dir);
        }
        for dir in above.iter().rev() {
            self.copy_one(dir, data)?;
        }
        self.copy_one(inode, data)
    }

    /// Copies one file whose directory is up.
    fn copy_one(&self, inode: &Inode, data: Data) -> Result<()> {
        let this = overlay(inode)?;
        let real = this.real_inode()?;
        let data = if data == Data::Stays && !self.options.metacopy { Data::All } else { data };
        let work = &self.writable()?.work;
        let target = match real.is_symlink().then(|| real.ops().read_link(real)).transpose()? {
            Some(Link::Target(text)) => text,
            Some(Link::Magic(_)) => return Err(Errno::EINVAL),
            None => Vec::new(),
        };
        let mode = if real.is_regular() { S_IFREG | 0o600 } else { real.mode() };
        let name = temporary_name();
        let copy = namespace::create_in(work, name.as_bytes(), mode, real.rdev(), &target, &self.cred)?;
        let made = copy.inode().ok_or(Errno::EIO)?;
        // Known before it can be found, so that a lookup meanwhile makes no second inode.
        if let Some(known) = this.this() {
            self.icache.insert(made, &known);
        }
        let filled = self.fill(real, &copy, data, this);
        let published = filled.and_then(|()| self.publish(this, name.as_bytes()));
        let indexed = match published {
            Ok(indexed) => indexed,
            Err(errno) => {
                self.icache.forget(made);
                self.discard(name.as_bytes());
                return Err(errno);
            }
        };
        if data != Data::Stays {
            this.set_whole();
        }
        this.set_upper(indexed.unwrap_or(copy));
        // After it is known, and before it can be forgotten.
        self.nr_copies.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Gives the file `upper`, which has attributes only, the data of `this`. A crash leaves it with or without.
    fn complete(&self, this: &OverlayInode, upper: &Path, data: Data) -> Result<()> {
        let real = upper.inode().ok_or(Errno::EIO)?;
        if data == Data::All {
            // The time of change moves with it, as on Linux.
            self.copy_data(this.data()?, upper)?;
        } else {
            let to = open::open_path(upper, &How::new(OpenFlags::WRONLY.bits(), 0)?, &self.cred)?;
            vfs::attr::ftruncate(&to, 0, u64::MAX)?;
        }
        self.marks.clear_metacopy(real)?;
        this.set_whole();
        Ok(())
    }

    /// Gives `copy` what `real` has, and the data of `this`.
    fn fill(&self, real: &Arc<Inode>, copy: &Path, data: Data, this: &OverlayInode) -> Result<()> {
        let made = copy.inode().ok_or(Errno::EIO)?;
        match data {
            _ if !real.is_regular() => {}
            Data::All if real.size() > 0 => self.copy_data(this.data()?, copy)?,
            Data::Stays => {
                let to = open::open_path(copy, &How::new(OpenFlags::WRONLY.bits(), 0)?, &self.cred)?;
                vfs::attr::ftruncate(&to, real.size() as i64, u64::MAX)?;
                self.marks.set_metacopy(made)?;
            }
            Data::All | Data::None => {}
        }
        let source = this.real()?;
        self.copy_xattrs(source, copy)?;
        let view = source.mount.id_view();
        let times = real.times();
        let is_link = real.mode() & S_IFMT == S_IFLNK;
        let change = SetAttr {
            mode: (!is_link).then(|| real.mode()),
            uid: Some(view.uid(real)),
            gid: Some(view.gid(real)),
            size: None,
            atime: Some(times.atime),
            mtime: Some(times.mtime),
            ctime: times.ctime,
        };
        self.note_origin(source, made, this)?;
        let change = kept_below(copy, &change)?;
        let _exclusive = made.sem.write();
        made.ops().set_attr(made, &change)
    }

    fn copy_data(&self, source: &Path, copy: &Path) -> Result<()> {
        let from = open::open_path(source, &How::new(0, 0)?, &self.cred)?;
        let to = open::open_path(copy, &How::new(OpenFlags::WRONLY.bits(), 0)?, &self.cred)?;
        let size = from.inode().size();
        let mut buf = Vec::new();
        buf.try_reserve_exact(CHUNK).map_err(|_| Errno::ENOMEM)?;
        buf.resize(CHUNK, 0);
        let mut pos = 0;
        while pos < size {
            // Holes stay holes.
            pos = match from.ops().seek(&from, pos as i64, Whence::Data) {
                Ok(data) => data,
                Err(Errno::ENXIO) => break,
                Err(_) => pos,
            };
            let len = from.ops().read(&from, &mut Dest::kernel(&mut buf), pos)?;
            if len == 0 {
                break;
            }
            let mut done = 0;
            while done < len {
                let at = (pos + done as u64) as i64;
                done += rw::pwrite(&to, &mut Src::kernel(&buf[done..len]), at, u64::MAX)?;
            }
            pos += len as u64;
        }
        if to.inode().size() < size {
            vfs::attr::ftruncate(&to, size as i64, u64::MAX)?;
        }
        if !self.options.volatile {
            fcntl::fsync(&to, SyncMode::Full)?;
        }
        Ok(())
    }

    fn copy_xattrs(&self, source: &Path, copy: &Path) -> Result<()> {
        let from = source.inode().ok_or(Errno::EIO)?;
        let to = copy.inode().ok_or(Errno::EIO)?;
        let names = from.ops().list_xattr(from)?;
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            // Marks tell of the layer that they are in; an inner overlay's are copied.
            if name.strip_prefix(self.marks.prefix()).is_some_and(|rest| !rest.starts_with(b"overlay.")) {
                continue;
            }
            let value = xattr::get_below(source, name, &self.cred)?;
            let _exclusive = to.sem.write();
            match xattr::set_below(copy, name, &value, XattrMode::Any, &self.cred) {
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Moves the finished copy `name` to the place of what it is of. Gives its path in the index, if it is there.
    fn publish(&self, this: &OverlayInode, name: &[u8]) -> Result<Option<Path>> {
        let work = &self.writable()?.work;
        let target = place_of(this)?;
        if let (None, Some(indexed), false) = (&target, &this.indexed, this.is_removed()) {
            return self.enter_index(indexed, name).map(Some);
        }
        let Some((place, place_name)) = target.filter(|_| !this.is_removed()) else {
            // It has no name any more, so the copy loses its own; who has it open keeps it.
            let is_dir = this.real_inode()?.is_dir();
            let remove = if is_dir { namespace::rmdir_in } else { namespace::unlink_in };
            return remove(work, name, &self.cred).map(|()| None);
        };
        let dir = overlay(&place)?.upper_path()?;
        let indexed = match &this.indexed {
            None => {
                namespace::rename_in((work, name), (dir, &place_name), RenameFlags::NOREPLACE, &self.cred)?;
                None
            }
            Some(indexed) => {
                let entry = self.enter_index(indexed, name)?;
                // It is found by the index from now on. A name that cannot be made now is made by the next open.
                if let Err(errno) = namespace::link_in(&entry, dir, &place_name, &self.cred) {
                    log::warn!("overlay: a name of a copied file is not in the upper layer yet: {errno}");
                }
                Some(entry)
            }
        };
        // A copy is no change of the directory. LINUX: as well as it goes.
        let Some(real) = dir.inode() else { return Ok(indexed) };
        let times = place.times();
        let change = SetAttr {
            atime: Some(times.atime),
            mtime: Some(times.mtime),
            ctime: times.ctime,
            ..SetAttr::default()
        };
        let _exclusive = real.sem.write();
        if let Err(errno) = real.ops().set_attr(real, &change) {
            log::warn!("overlay: the times of a directory could not be kept: {errno}");
        }
        Ok(indexed)
    }
}
