//! An open file of a group.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use abi::poll::PollEvents;
use abi::{Errno, Result};
use cgroup::{Cgroup, Options};
use hal::uio::{Dest, Src};
use ns::CgroupNs;
use sched::PollTable;
use security::Cred;
use vfs::text::{Content, STORE_MAX, Text, TextFile};
use vfs::xattr::Store;
use vfs::{File, FileOps, Inode, InodeOps, OpenRequest, Whence};

use crate::part::Part;
use crate::table::{Entry, Flags};

/// The operations of its inode.
pub(crate) struct FileNode {
    group: Arc<Cgroup>,
    entry: &'static Entry,
    xattrs: Store,
    /// The file was removed, for good: should the controller be turned on again, there is another in its place.
    is_gone: Arc<AtomicBool>,
}

impl FileNode {
    pub(crate) fn new(group: &Arc<Cgroup>, entry: &'static Entry) -> Self {
        let is_gone = Arc::new(AtomicBool::new(false));
        Self { group: group.clone(), entry, xattrs: Store::new(), is_gone }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(SeqCst)
    }

    /// Notes that it was removed.
    pub(crate) fn note_gone(&self) {
        self.is_gone.store(true, SeqCst);
    }
}

impl InodeOps for FileNode {
    fn open(&self, _inode: &Arc<Inode>, request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let ns = process::current().nsproxy().ok_or(Errno::ESRCH)?.cgroup.clone();
        let opened = Arc::new(Opened {
            group: self.group.clone(),
            entry: self.entry,
            is_gone: self.is_gone.clone(),
            cred: request.cred.clone(),
            ns,
            seen: AtomicU64::new(0),
        });
        opened.look();
        Ok(Arc::new(OpenFile { text: TextFile::open(Shared(opened.clone())), opened }))
    }

    fn set_attr(&self, inode: &Arc<Inode>, change: &vfs::SetAttr) -> Result<()> {
        // Truncating is no error, so that a shell's `>` works.
        inode.apply(change);
        Ok(())
    }

    fn xattr_store(&self) -> Option<&Store> {
        Some(&self.xattrs)
    }
}

/// What was opened, by whom.
pub(crate) struct Opened {
    pub(crate) group: Arc<Cgroup>,
    entry: &'static Entry,
    /// That of its [`FileNode`].
    is_gone: Arc<AtomicBool>,
    pub(crate) cred: Arc<Cred>,
    /// The cgroup namespace of who opened it.
    pub(crate) ns: Arc<CgroupNs>,
    /// Changes of the content up to the last read.
    seen: AtomicU64,
}

impl Opened {
    /// `ENODEV`: the file is not there any more.
    pub(crate) fn check(&self) -> Result<()> {
        let is_there = !self.group.is_dead() && self.entry.is_in(&self.group) && !self.is_gone.load(SeqCst);
        if is_there { Ok(()) } else { Err(Errno::ENODEV) }
    }

    fn nr_changes(&self) -> u64 {
        Part::of(&self.group).changes(self.entry.name).map_or(0, |changes| changes.count.load(SeqCst))
    }

    /// Notes that all changes until now were seen.
    fn look(&self) {
        self.seen.store(self.nr_changes(), SeqCst);
    }

    /// Whether a border of delegation forbids to write: from inside a namespace, its root is managed from outside.
    fn is_beyond_border(&self) -> bool {
        Options::current().contains(Options::NSDELEGATE)
            && !self.entry.flags.contains(Flags::DELEGATABLE)
            && !self.ns.is_initial()
            && Arc::ptr_eq(self.ns.root(), &self.group)
    }
}

struct Shared(Arc<Opened>);

impl Content for Shared {
    fn show(&self, out: &mut Text) -> Result<()> {
        let opened = &self.0;
        opened.check()?;
        opened.look();
        (opened.entry.show.ok_or(Errno::EINVAL)?)(&opened.group, out)
    }

    fn store(&self, bytes: &[u8]) -> Result<()> {
        let opened = &self.0;
        if opened.is_beyond_border() {
            return Err(Errno::EPERM);
        }
        let store = opened.entry.store.ok_or(Errno::EINVAL)?;
        opened.check()?;
        store(opened, bytes)
    }
}

struct OpenFile {
    opened: Arc<Opened>,
    text: Arc<dyn FileOps>,
}

impl FileOps for OpenFile {
    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        self.opened.check()?;
        self.text.read(file, dst, pos)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        if src.remaining() > STORE_MAX {
            return Err(Errno::E2BIG);
        }
        self.opened.check()?;
        self.text.write(file, src, pos)
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        self.text.seek(file, offset, whence)
    }

    fn can_poll(&self, _file: &File) -> bool {
        true
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        let always = PollEvents::IN | PollEvents::OUT | PollEvents::RDNORM | PollEvents::WRNORM;
        if let Some(changes) = Part::of(&self.opened.group).changes(self.opened.entry.name) {
            table.register(&changes.queue);
        }
        let is_new = self.opened.nr_changes() != self.opened.seen.load(SeqCst);
        if is_new || self.opened.check().is_err() {
            always | PollEvents::ERR | PollEvents::PRI
        } else {
            always
        }
    }
}

/// Makes a file's text.
pub(crate) type Show = fn(&Arc<Cgroup>, &mut Text) -> Result<()>;
/// Takes what was written to a file.
pub(crate) type Write = fn(&Opened, &[u8]) -> Result<()>;
