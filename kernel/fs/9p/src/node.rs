//! An inode in memory: its fids, and its attributes as the server last told them.
//!
//! Which cache modes ask when:
//!
//! ```text
//!   cache=           names                      attributes            pages
//!   none             asked at each use          asked at stat, open   of mappings only
//!   readahead, mmap  asked at each use          asked at stat, open   dropped when the file changed meanwhile
//!   loose            believed                   asked at stat         kept
//! ```
//! Pages that are dirty, and the size that they need, are never given up for what the server says.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use abi::fs::{S_IFDIR, S_IFMT, S_IFREG};
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::sync::{Once, SpinLock};
use mm::Mapping;
use p9_wire::{Attributes, Qid};
use sched::{Interruptible, Mutex};
use vfs::inode::{FileKind, Times};
use vfs::{Inode, InodeFlags, InodeInit, SetAttr};

use crate::fid::{Fid, copy};
use crate::mount::Fs;
use crate::options::Access;

/// Kind of a qid: a directory.
const IS_DIR: u8 = 0x80;
/// Linux adds this to the server's number, so that none is 0.
const INO_OFFSET: u64 = 2;

/// An open file of the server.
pub(crate) struct OpenFid {
    pub(crate) fid: Fid,
    pub(crate) can_read: bool,
    pub(crate) can_write: bool,
}

/// What tells that a file has changed on the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    version: u32,
    size: u64,
    mtime: (i64, u32),
}

impl Seen {
    fn of(attributes: &Attributes) -> Self {
        Self { version: attributes.qid.version, size: attributes.size, mtime: attributes.mtime }
    }
}

/// A name: the number of the directory that it is in, and what it is there.
pub(crate) type Name<'a> = (u64, &'a [u8]);

/// Names whose fids are kept of a file at most.
const MAX_NAMES: usize = 8;

/// A fid, and the name that it was found by.
struct Named {
    dir: u64,
    name: Vec<u8>,
    fid: Arc<Fid>,
}

impl Named {
    fn is(&self, (dir, name): Name<'_>) -> bool {
        self.dir == dir && self.name == name
    }
}

/// See the module's front page.
pub(crate) struct Node {
    pub(crate) fs: Arc<Fs>,
    pub(crate) vfs: Once<Weak<Inode>>,
    pub(crate) qid: Qid,
    /// By its newest name.
    fid: SpinLock<Arc<Fid>>,
    /// All fids by names, of which a server may need one that is still there. The newest is the last; directories have none.
    names: Mutex<Vec<Named>>,
    /// Open files, which pages are read and written through.
    open: SpinLock<Vec<Weak<OpenFid>>>,
    /// The one that dirty pages go through, kept until they are clean.
    pub(crate) writer: SpinLock<Option<Arc<OpenFid>>>,
    /// As it was opened when it was made, for the open(2) that follows.
    pub(crate) made: SpinLock<Option<Arc<OpenFid>>>,
    seen: SpinLock<Seen>,
    /// Counts our own changes: what the server told before the last of them does not count.
    nr_changes: AtomicU64,
    /// Held while mode, owner and links are taken over, so that an older answer does not undo a change.
    owner: Mutex<()>,
    /// It has no name any more.
    is_gone: AtomicBool,
}

/// The VFS's operations on it.
pub(crate) struct Ops(pub(crate) Arc<Node>);

impl Drop for Ops {
    fn drop(&mut self) {
        let mut known = self.0.fs.known.lock();
        if known.get(&self.0.qid.path).is_some_and(|weak| weak.strong_count() == 0) {
            known.remove(&self.0.qid.path);
        }
    }
}

/// The node of an inode. `EXDEV` is what another file system's inode would be.
pub(crate) fn node(inode: &Inode) -> Result<&Arc<Node>> {
    inode.ops_as::<Ops>().map(|ops| &ops.0).ok_or(Errno::EXDEV)
}

/// The inode number that programs see.
pub(crate) fn ino_of(qid: &Qid) -> u64 {
    qid.path.wrapping_add(INO_OFFSET).max(1)
}

fn timespec((tv_sec, nsec): (i64, u32)) -> Timespec {
    Timespec { tv_sec, tv_nsec: nsec.into() }
}

/// A device number as the server's machine writes it.
fn device_of(raw: u64) -> u64 {
    let major = (raw >> 8 & 0xfff) | (raw >> 32 & !0xfff);
    let minor = (raw & 0xff) | (raw >> 12 & !0xff);
    abi::fs::makedev(major as u32, minor as u32)
}

fn nlink_of(attributes: &Attributes) -> u32 {
    u32::try_from(attributes.nlink).unwrap_or(u32::MAX)
}

impl Fs {
    /// The inode of the file that `fid` names, which was found by `name`. `EIO`: the server makes no sense.
    pub(crate) fn instantiate(
        self: &Arc<Self>,
        fid: Arc<Fid>,
        name: Option<Name<'_>>,
        attributes: &Attributes,
    ) -> Result<Arc<Inode>> {
        let kind = FileKind::from_mode(attributes.mode);
        if kind == FileKind::Other || (kind == FileKind::Directory) != (attributes.qid.kind & IS_DIR != 0) {
            return Err(Errno::EIO);
        }
        if let Some(inode) = self.known(attributes, kind) {
            let node = node(&inode)?;
            match name {
                Some(name) => node.note_name(name, fid, attributes.nlink > 1),
                None => node.set_fid(fid),
            }
            // What the caller was told may be older than what is here.
            node.refresh(&inode)?;
            return Ok(inode);
        }
        let inode = self.make(fid.clone(), attributes)?;
        if let Some(name) = name {
            node(&inode)?.note_name(name, fid, false);
        }
        let mut known = self.known.lock();
        let there = known.get(&attributes.qid.path).and_then(Weak::upgrade);
        let is_same = there.as_ref().is_some_and(|there| there.kind() == kind && !is_gone(there));
        if let (Some(there), true) = (&there, is_same) {
            let there = there.clone();
            drop(known);
            return Ok(there);
        }
        known.insert(attributes.qid.path, Arc::downgrade(&inode));
        drop(known);
        Ok(inode)
    }

    /// The inode that is in memory for the same file.
    fn known(&self, attributes: &Attributes, kind: FileKind) -> Option<Arc<Inode>> {
        let there = self.known.lock().get(&attributes.qid.path).and_then(Weak::upgrade);
        there.filter(|inode| inode.kind() == kind && !is_gone(inode))
    }

    fn make(self: &Arc<Self>, fid: Arc<Fid>, attributes: &Attributes) -> Result<Arc<Inode>> {
        let sb = self.sb.get().and_then(Weak::upgrade).ok_or(Errno::ENODEV)?;
        let node = Arc::new(Node {
            fs: self.clone(),
            vfs: Once::new(),
            qid: attributes.qid,
            fid: SpinLock::new("p9.node.fid", fid),
            names: Mutex::new("p9.node.names", Vec::new()),
            open: SpinLock::new("p9.node.open", Vec::new()),
            writer: SpinLock::new("p9.node.writer", None),
            made: SpinLock::new("p9.node.made", None),
            seen: SpinLock::new("p9.node.seen", Seen::of(attributes)),
            nr_changes: AtomicU64::new(0),
            owner: Mutex::new("p9.node.owner", ()),
            is_gone: AtomicBool::new(false),
        });
        let mut flags = InodeFlags::empty();
        let is_dir = attributes.mode & S_IFMT == S_IFDIR;
        flags.set(InodeFlags::VOLATILE, is_dir && !self.options.cache.keeps_names());
        flags.set(InodeFlags::OWN_PERMISSION, matches!(self.options.access, Access::Single(_)));
        let ctime = timespec(attributes.ctime);
        let init = InodeInit {
            ino: ino_of(&attributes.qid),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            nlink: nlink_of(attributes),
            size: attributes.size.min(sb.max_bytes()),
            rdev: device_of(attributes.rdev),
            times: Times {
                atime: timespec(attributes.atime),
                mtime: timespec(attributes.mtime),
                ctime,
                btime: Timespec::default(),
            },
            flags,
        };
        let is_regular = attributes.mode & S_IFMT == S_IFREG;
        let mapping = is_regular.then(|| Mapping::with_source(node.clone(), init.size));
        let inode = Inode::new(&sb, init, Box::new(Ops(node.clone())), mapping);
        node.vfs.call_once(|| Arc::downgrade(&inode));
        Ok(inode)
    }
}

fn is_gone(inode: &Inode) -> bool {
    node(inode).is_ok_and(|node| node.is_gone())
}

impl Node {
    /// The fid that names it.
    pub(crate) fn fid(&self) -> Arc<Fid> {
        self.fid.lock().clone()
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    fn set_fid(&self, fid: Arc<Fid>) {
        let old = core::mem::replace(&mut *self.fid.lock(), fid);
        drop(old);
    }

    /// `fid` was found by `name`, and is the newest; `has_others` keeps those by other names. Without memory it is forgotten as
    /// soon as a newer one comes.
    pub(crate) fn note_name(&self, (dir, name): Name<'_>, fid: Arc<Fid>, has_others: bool) {
        self.set_fid(fid.clone());
        if self.qid.kind & IS_DIR != 0 {
            return;
        }
        let Ok(owned) = copy(name) else { return };
        let mut names = self.names.lock();
        names.retain(|named| has_others && !named.is((dir, name)));
        if names.len() == MAX_NAMES {
            names.remove(0);
        }
        if names.try_reserve(1).is_ok() {
            names.push(Named { dir, name: owned, fid });
        }
    }

    /// Goes on with the fid of another name than those that `is_gone` tells. `false`: none is left.
    fn drop_names(&self, is_gone: impl Fn(&Named) -> bool) -> bool {
        let mut names = self.names.lock();
        names.retain(|named| !is_gone(named));
        let Some(last) = names.last() else { return false };
        self.set_fid(last.fid.clone());
        true
    }

    /// The name `old` is `new` now; servers take their fids with it.
    pub(crate) fn moved_name(&self, old: Name<'_>, new: Name<'_>) {
        let Ok(owned) = copy(new.1) else { return };
        if let Some(named) = self.names.lock().iter_mut().find(|named| named.is(old)) {
            (named.dir, named.name) = (new.0, owned);
        }
    }

    /// It has lost `name`; with the last it is not found by its number any more.
    pub(crate) fn lost_name(&self, inode: &Inode, name: Name<'_>) {
        if inode.nlink() > 1 && !inode.is_dir() {
            inode.add_nlink(-1);
            self.drop_names(|named| named.is(name));
            return;
        }
        inode.set_nlink(0);
        self.is_gone.store(true, Relaxed);
        let made = self.made.lock().take();
        drop(made);
        let mut known = self.fs.known.lock();
        let is_own = known
            .get(&self.qid.path)
            .zip(self.vfs.get())
            .is_some_and(|(there, own)| Weak::ptr_eq(there, own));
        if is_own {
            known.remove(&self.qid.path);
        }
    }

    /// An open file that `fits`.
    pub(crate) fn open_fid(&self, fits: impl Fn(&OpenFid) -> bool) -> Option<Arc<OpenFid>> {
        let mut open = self.open.lock();
        open.retain(|fid| fid.strong_count() > 0);
        let found = open.iter().filter_map(Weak::upgrade).find(|fid| fits(fid));
        drop(open);
        found
    }

    /// Opens it once more, with the flags of open(2); `kind` tells which signals end the wait.
    pub(crate) fn open_again(
        &self,
        flags: u32,
        can_read: bool,
        can_write: bool,
        kind: Interruptible,
    ) -> Result<Arc<OpenFid>> {
        let fid = self.fid().duplicate(kind)?;
        fid.open(flags, kind)?;
        self.opened(OpenFid { fid, can_read, can_write })
    }

    /// Notes an open file, so that pages can go through it.
    pub(crate) fn opened(&self, fid: OpenFid) -> Result<Arc<OpenFid>> {
        let fid = Arc::new(fid);
        let mut open = self.open.lock();
        open.retain(|fid| fid.strong_count() > 0);
        open.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        open.push(Arc::downgrade(&fid));
        drop(open);
        Ok(fid)
    }

    /// Asks the server for the attributes and takes them over.
    ///
    /// `ESTALE`: the name leads to another file now. Errors of the server; a file without a name is asked for by an open
    /// file, and stays as it is when that has no answer. Sleeps.
    pub(crate) fn refresh(&self, inode: &Inode) -> Result<Attributes> {
        let nr_changes = self.nr_changes.load(SeqCst);
        let attributes = if self.is_gone() {
            let Some(open) = self.open_fid(|_| true) else { return Err(Errno::ENOENT) };
            open.fid.attributes()?
        } else {
            self.attributes()?
        };
        let is_same_kind = FileKind::from_mode(attributes.mode) == inode.kind();
        if attributes.qid.path != self.qid.path || !is_same_kind {
            return Err(Errno::ESTALE);
        }
        self.apply(inode, &attributes, nr_changes);
        Ok(attributes)
    }

    /// The attributes by any name that still leads there. Others may have removed the newest.
    fn attributes(&self) -> Result<Attributes> {
        loop {
            let fid = self.fid();
            let told = fid.attributes();
            let is_elsewhere = match &told {
                Ok(attributes) => attributes.qid.path != self.qid.path,
                Err(errno) => *errno == Errno::ENOENT,
            };
            if !is_elsewhere || !self.drop_names(|named| Arc::ptr_eq(&named.fid, &fid)) {
                return told;
            }
        }
    }

    /// Takes over what the server told after `nr_changes` changes of ours.
    fn apply(&self, inode: &Inode, attributes: &Attributes, nr_changes: u64) {
        let owner = self.owner.lock();
        if self.nr_changes.load(SeqCst) != nr_changes {
            // What is here is newer.
            return;
        }
        inode.apply(&SetAttr {
            mode: Some(attributes.mode),
            uid: Some(attributes.uid),
            gid: Some(attributes.gid),
            ctime: inode.times().ctime,
            ..SetAttr::default()
        });
        if !self.is_gone() {
            inode.set_nlink(nlink_of(attributes));
        }
        drop(owner);
        let has_dirty = inode.mapping().is_some_and(|mapping| mapping.nr_dirty() > 0);
        if !has_dirty {
            let (atime, mtime, ctime) = (attributes.atime, attributes.mtime, attributes.ctime);
            inode.update_times(|times| {
                (times.atime, times.mtime, times.ctime) = (timespec(atime), timespec(mtime), timespec(ctime));
            });
        }
        match inode.mapping() {
            Some(mapping) => self.apply_size(inode, mapping, attributes, nr_changes),
            None => inode.set_size(attributes.size),
        }
    }

    /// Takes over the size, and gives pages up that the server has other bytes for. Not while somebody writes, has pages
    /// to write or has written since the server was asked: then what is here is newer.
    fn apply_size(&self, inode: &Inode, mapping: &Arc<Mapping>, attributes: &Attributes, nr_changes: u64) {
        let size = attributes.size.min(inode.sb().max_bytes());
        let now = Seen::of(attributes);
        if *self.seen.lock() == now && mapping.size() == size {
            return;
        }
        let Some(_exclusive) = inode.sem.try_write() else { return };
        // Write-back marks pages clean before it writes them: none is under way while this is held.
        let frozen = mapping.freeze();
        if mapping.nr_dirty() > 0 || self.nr_changes.load(SeqCst) != nr_changes {
            return;
        }
        let has_changed = core::mem::replace(&mut *self.seen.lock(), now) != now;
        if has_changed && mapping.nr_pages() > 0 {
            frozen.punch(0..mapping.size().next_multiple_of(hal::PAGE_SIZE as u64));
        }
        if size < mapping.size() {
            frozen.truncate(size);
        } else {
            mapping.set_size(size);
        }
    }

    /// Takes over `change`, which the server has made.
    pub(crate) fn change(&self, inode: &Inode, change: &SetAttr) {
        let _owner = self.owner.lock();
        self.changed();
        inode.apply(change);
    }

    /// Notes a change of ours, when it is made.
    pub(crate) fn changed(&self) {
        self.nr_changes.fetch_add(1, SeqCst);
    }
}
