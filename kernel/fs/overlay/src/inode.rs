//! The overlay's inodes: what they show, and what the VFS asks of them.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::*};

use abi::fs::{OpenFlags, Statx};
use abi::{Errno, Result};
use hal::sync::{Once, SpinLock};
use vfs::dentry::Name;
use vfs::file_attr::FileAttr;
use vfs::inode::{Rename, XattrMode};
use vfs::{
    FileOps, Inode, InodeFlags, InodeInit, InodeOps, Link, NewInode, OpenRequest, Path, SetAttr, SuperBlock,
    xattr,
};

use crate::copy_up::Data;
use crate::dir::Directory;
use crate::file::Regular;
use crate::index::Indexed;
use crate::layers::{Lower, Overlay, Stack};

/// What an inode has as the one in the layer has it.
const KEPT: InodeFlags = InodeFlags::IMMUTABLE
    .union(InodeFlags::APPEND)
    .union(InodeFlags::NOATIME)
    .union(InodeFlags::ACL)
    .union(InodeFlags::DEFAULT_ACL);

/// Where an inode was found.
pub(crate) struct Place {
    /// Weak, so that the end of a deep tree is not a deep recursion. Whoever uses the inode by a path keeps it.
    pub(crate) dir: Weak<Inode>,
    pub(crate) name: Name,
}

/// The overlay's part of an inode.
pub(crate) struct OverlayInode {
    pub(crate) fs: Arc<Overlay>,
    /// Set once: nothing goes back to a lower layer.
    upper: Once<Path>,
    /// Lower directories; of a file the one that it shows, and below it the one with the data, if that is another.
    pub(crate) lowers: Vec<Lower>,
    /// The file in the upper layer has its data, which is else in the last lower one.
    is_whole: AtomicBool,
    /// Where it has to be copied up to. Names change only of what is in the upper layer, so it stays true until then.
    place: SpinLock<Option<Place>>,
    /// What the index has of it, with `index=on`: a file whose names stay together.
    pub(crate) indexed: Option<Indexed>,
    /// Its name was removed: a copy gets none.
    is_removed: AtomicBool,
    /// The inode that it is the part of.
    this: Once<Weak<Inode>>,
}

/// The overlay's part of `inode`. `EINVAL`: it belongs to another file system.
pub(crate) fn overlay(inode: &Inode) -> Result<&OverlayInode> {
    inode.ops_as().ok_or(Errno::EINVAL)
}

impl OverlayInode {
    /// Its path in the upper layer.
    pub(crate) fn upper(&self) -> Option<&Path> {
        self.upper.get()
    }

    /// Its path in the upper layer, where it is known to be. `EROFS`: it is not.
    pub(crate) fn upper_path(&self) -> Result<&Path> {
        self.upper().ok_or(Errno::EROFS)
    }

    /// What it shows.
    pub(crate) fn real(&self) -> Result<&Path> {
        self.upper().or_else(|| self.lowers.first().map(|lower| &lower.path)).ok_or(Errno::EIO)
    }

    /// The file with its data.
    pub(crate) fn data(&self) -> Result<&Path> {
        match (self.upper(), self.lowers.last()) {
            (Some(upper), _) if self.is_whole.load(Acquire) => Ok(upper),
            (_, Some(lower)) => Ok(&lower.path),
            (_, None) => Err(Errno::EIO),
        }
    }

    /// Whether it is in the upper layer, but its data is not.
    pub(crate) fn is_metacopy(&self) -> bool {
        self.upper().is_some() && !self.is_whole.load(Acquire)
    }

    /// Notes that its file in the upper layer has the data.
    pub(crate) fn set_whole(&self) {
        self.is_whole.store(true, Release);
    }

    /// The inode of what it shows.
    pub(crate) fn real_inode(&self) -> Result<&Arc<Inode>> {
        self.real()?.inode().ok_or(Errno::EIO)
    }

    /// Notes that it was copied to `path`.
    pub(crate) fn set_upper(&self, path: Path) {
        self.upper.call_once(|| path);
    }

    /// The inode that it is the part of.
    pub(crate) fn this(&self) -> Option<Arc<Inode>> {
        self.this.get().and_then(Weak::upgrade)
    }

    /// Whether directories of more than one layer are merged in it.
    pub(crate) fn is_merged(&self) -> bool {
        self.lowers.len() + usize::from(self.upper().is_some()) > 1
    }

    /// The directory and the name where it is to be copied up to; `None` if it has none. `ESTALE`: its directory was
    /// forgotten, so nobody came here by a path.
    pub(crate) fn place(&self) -> Result<Option<(Arc<Inode>, Name)>> {
        match &*self.place.lock() {
            None => Ok(None),
            Some(place) => Ok(Some((place.dir.upgrade().ok_or(Errno::ESTALE)?, place.name.clone()))),
        }
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Relaxed)
    }

    /// Notes that its name was removed.
    pub(crate) fn set_removed(&self) {
        self.is_removed.store(true, Relaxed);
    }
}

impl Drop for OverlayInode {
    fn drop(&mut self) {
        let upper = self.upper.get().and_then(Path::inode);
        let lower = self.lowers.first().and_then(|lower| lower.path.inode());
        let origin = self.indexed.as_ref().and_then(|indexed| indexed.lower.inode());
        for real in upper.into_iter().chain(lower).chain(origin) {
            self.fs.icache.remove_dead(real);
        }
    }
}

/// The inode that shows `stack`, which nobody else can have copied up.
pub(crate) fn instantiate(
    sb: &Arc<SuperBlock>,
    fs: &Arc<Overlay>,
    stack: Stack,
    place: Option<Place>,
) -> Result<Arc<Inode>> {
    instantiate_if(sb, fs, stack, place, || true)?.ok_or(Errno::EIO)
}

/// The inode that shows `stack`, found at `place`; `None` unless `is_true` of that when it can be found by others.
fn instantiate_if(
    sb: &Arc<SuperBlock>,
    fs: &Arc<Overlay>,
    mut stack: Stack,
    place: Option<Place>,
    is_true: impl Fn() -> bool,
) -> Result<Option<Arc<Inode>>> {
    let indexed = fs.indexed(&mut stack)?;
    let shown = stack.real().ok_or(Errno::EIO)?;
    let real = shown.inode().ok_or(Errno::EIO)?.clone();
    let view = shown.mount.id_view();
    // By the lower file, whichever of its names was looked up, and whether that is copied.
    let key = match &indexed {
        Some(indexed) => indexed.lower.inode().ok_or(Errno::EIO)?.clone(),
        None => real.clone(),
    };
    // The names of a lower file part when one of them is copied up, unless there is an index.
    let is_shared = indexed.is_some() || stack.upper.is_some() || real.is_dir() || real.nlink() == 1;
    if is_shared && let Some(known) = fs.icache.get(&key) {
        if let Some(place) = place {
            *overlay(&known)?.place.lock() = Some(place);
        }
        return Ok(Some(known));
    }
    let upper = Once::new();
    let is_whole = match &stack.upper {
        _ if !real.is_regular() => true,
        Some(_) => stack.lowers.is_empty() || indexed.is_some() && !fs.marks.is_metacopy(&real)?,
        None => false,
    };
    let nlink = match (&indexed, &stack.upper) {
        (Some(indexed), Some(_)) => fs.nr_names(indexed, &real)?,
        _ => real.nlink(),
    };
    if let Some(path) = stack.upper {
        upper.call_once(|| path);
    }
    let ops = OverlayInode {
        fs: fs.clone(),
        upper,
        lowers: stack.lowers,
        indexed,
        is_whole: AtomicBool::new(is_whole),
        place: SpinLock::new("overlay.place", place),
        is_removed: AtomicBool::new(false),
        this: Once::new(),
    };
    let init = InodeInit {
        ino: fs.ino_of(&key),
        mode: real.mode(),
        uid: view.uid(&real),
        gid: view.gid(&real),
        nlink: if real.is_dir() && ops.is_merged() { 1 } else { nlink },
        size: real.size(),
        rdev: real.rdev(),
        times: real.times(),
        flags: real.flags() & KEPT,
    };
    let inode = Inode::new(sb, init, Box::new(ops), None);
    overlay(&inode)?.this.call_once(|| Arc::downgrade(&inode));
    if !is_shared {
        return Ok(is_true().then_some(inode));
    }
    let Some(inode) = fs.icache.insert_if(&key, &inode, is_true) else { return Ok(None) };
    Ok(Some(if Arc::ptr_eq(&key, &real) { inode } else { fs.icache.insert(&real, &inode) }))
}

/// `change` with the owner that the file system of `real` keeps for it. `EOVERFLOW`: it cannot.
pub(crate) fn kept_below(real: &Path, change: &SetAttr) -> Result<SetAttr> {
    let view = real.mount.id_view();
    Ok(SetAttr {
        uid: change.uid.map(|uid| view.keep_uid(uid)).transpose()?,
        gid: change.gid.map(|gid| view.keep_gid(gid)).transpose()?,
        ..*change
    })
}

/// Takes the attributes over from what `inode` shows.
pub(crate) fn refresh(inode: &Inode) -> Result<()> {
    let this = overlay(inode)?;
    let real = this.real_inode()?;
    let view = this.real()?.mount.id_view();
    let times = real.times();
    inode.apply(&SetAttr {
        mode: Some(real.mode()),
        uid: Some(view.uid(real)),
        gid: Some(view.gid(real)),
        atime: Some(times.atime),
        mtime: Some(times.mtime),
        ctime: times.ctime,
        ..SetAttr::default()
    });
    inode.set_size(real.size());
    let is_own_count = this.is_removed() || this.indexed.is_some() || real.is_dir() && this.is_merged();
    if !is_own_count {
        inode.set_nlink(real.nlink());
    }
    Ok(())
}

impl InodeOps for OverlayInode {
    fn lookup(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<Option<Arc<Inode>>> {
        let fs = &self.fs;
        loop {
            let seen = fs.nr_copies.load(SeqCst);
            let Some(stack) = fs.lookup(self, name)? else { return Ok(None) };
            // What is copied up between the two, and then forgotten, would be shown as it was before.
            let is_upper = stack.upper.is_some();
            let is_true = || is_upper || fs.nr_copies.load(SeqCst) == seen;
            let place = Place { dir: Arc::downgrade(dir), name: Name::from_slice(name) };
            if let Some(inode) = instantiate_if(dir.sb(), fs, stack, Some(place), is_true)? {
                return Ok(Some(inode));
            }
        }
    }

    fn create(&self, dir: &Arc<Inode>, name: &[u8], new: &NewInode<'_>) -> Result<Arc<Inode>> {
        self.make(dir, name, new)
    }

    fn tmpfile(&self, dir: &Arc<Inode>, new: &NewInode<'_>) -> Result<Arc<Inode>> {
        self.make_unnamed(dir, new)
    }

    fn link(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.add_name(dir, name, inode)
    }

    fn unlink(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.remove(dir, name, inode)
    }

    fn rmdir(&self, dir: &Arc<Inode>, name: &[u8], inode: &Arc<Inode>) -> Result<()> {
        self.remove(dir, name, inode)
    }

    fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        self.move_names(rename)
    }

    fn read_link(&self, _inode: &Arc<Inode>) -> Result<Link> {
        let real = self.real_inode()?;
        real.ops().read_link(real)
    }

    fn link_in_memory(&self) -> Option<&[u8]> {
        self.real_inode().ok()?.ops().link_in_memory()
    }

    fn open(&self, inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        if inode.is_dir() {
            return Ok(Arc::new(Directory::new()));
        }
        let truncates = request.flags.contains(OpenFlags::TRUNC);
        if request.flags.can_write() || truncates {
            if request.path.mount.is_readonly() {
                return Err(Errno::EROFS);
            }
            if truncates {
                // A running program must not lose its data before the open fails.
                inode.get_write_access()?;
                let copied = self.copy_up_at(request.path, inode, Data::None);
                inode.put_write_access();
                copied?;
            } else {
                self.copy_up_at(request.path, inode, Data::All)?;
            }
        }
        refresh(inode)?;
        Ok(Arc::new(Regular::open(self, request.flags)?))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        let data = match change.size {
            None => Data::Stays,
            Some(0) => Data::None,
            Some(_) => Data::All,
        };
        self.fs.copy_up(inode, data)?;
        let real = self.real_inode()?;
        let change = kept_below(self.real()?, change)?;
        {
            let _exclusive = real.sem.write();
            real.ops().set_attr(real, &change)?;
        }
        refresh(inode)
    }

    fn times_changed(&self, inode: &Arc<Inode>) {
        let Some(real) = self.upper().and_then(Path::inode) else { return };
        let times = inode.times();
        real.update_times(|t| (t.atime, t.mtime, t.ctime) = (times.atime, times.mtime, times.ctime));
        real.ops().times_changed(real);
    }

    fn get_attr(&self, inode: &Arc<Inode>, stat: &mut Statx) -> Result<()> {
        refresh(inode)?;
        let real = self.real_inode()?;
        let times = real.times();
        stat.stx_size = real.size();
        stat.stx_mode = inode.mode() as u16;
        stat.stx_nlink = inode.nlink();
        stat.stx_atime = times.atime.into();
        stat.stx_mtime = times.mtime.into();
        stat.stx_ctime = times.ctime.into();
        real.ops().get_attr(real, stat)?;
        if self.is_metacopy() {
            let mut below = Statx::default();
            let data = self.data()?.inode().ok_or(Errno::EIO)?;
            data.ops().get_attr(data, &mut below)?;
            stat.stx_blocks = below.stx_blocks;
        }
        Ok(())
    }

    fn get_xattr(&self, _inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        xattr::get_below(self.real()?, &self.fs.marks.escape(name), &self.fs.cred)
    }

    fn set_xattr(&self, inode: &Inode, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let real = self.writable(inode)?;
        let _exclusive = real.sem.write();
        xattr::set_below(self.upper_path()?, &self.fs.marks.escape(name), value, mode, &self.fs.cred)
    }

    fn remove_xattr(&self, inode: &Inode, name: &[u8]) -> Result<()> {
        let name = self.fs.marks.escape(name);
        // Nothing is copied for an attribute that is not there.
        let real = self.real_inode()?;
        real.ops().get_xattr(real, &name)?;
        let real = self.writable(inode)?;
        let _exclusive = real.sem.write();
        xattr::remove_below(self.upper_path()?, &name, &self.fs.cred)
    }

    fn list_xattr(&self, _inode: &Inode) -> Result<Vec<u8>> {
        let real = self.real_inode()?;
        Ok(self.fs.marks.visible(&real.ops().list_xattr(real)?))
    }

    fn file_attr(&self, _inode: &Inode) -> Result<FileAttr> {
        let real = self.real_inode()?;
        real.ops().file_attr(real)
    }

    fn set_file_attr(&self, inode: &Inode, attr: &FileAttr) -> Result<()> {
        let real = self.writable(inode)?;
        let _exclusive = real.sem.write();
        real.ops().set_file_attr(real, attr)?;
        inode.set_flags(real.flags() & KEPT, KEPT - real.flags());
        Ok(())
    }
}

impl OverlayInode {
    /// Copies `inode`, which this is, up; a file of the index by the name of `path`.
    fn copy_up_at(&self, path: &Path, inode: &Arc<Inode>, data: Data) -> Result<()> {
        if self.indexed.is_none() || path.dentry.is_deleted() {
            return self.fs.copy_up(inode, data);
        }
        let (parent, name) = path.dentry.parent_and_name();
        let Some(dir) = parent.as_ref().and_then(|parent| parent.inode()) else {
            return self.fs.copy_up(inode, data);
        };
        *self.place.lock() = Some(Place { dir: Arc::downgrade(dir), name: name.clone() });
        let _changes = self.fs.changes.lock();
        self.fs.copy_up_locked(inode, data)?;
        self.fs.upper_dir(dir)?;
        self.fs.raise_name(overlay(dir)?, &name, inode)
    }

    /// The inode in the upper layer, copied up if need be: for changes of attributes.
    fn writable(&self, inode: &Inode) -> Result<&Arc<Inode>> {
        self.fs.copy_up(inode, Data::Stays)?;
        self.upper_path()?.inode().ok_or(Errno::EIO)
    }
}
