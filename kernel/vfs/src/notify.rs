//! Hooks for those who watch files: inotify registers a [`Watch`] with an inode's [`Marks`].
//!
//! An event on a file goes to the watches of the file and, with its name, to those of its directory. While nobody
//! in the machine watches anything, an event costs one load.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use bitflags::bitflags;
use hal::sync::SpinLock;

use crate::inode::Inode;
use crate::path::Path;

bitflags! {
    /// What happened, with the numbers of inotify(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Event: u32 {
        /// Data was read.
        const ACCESS = 0x1;
        /// Data was changed.
        const MODIFY = 0x2;
        /// Attributes were changed.
        const ATTRIB = 0x4;
        /// A description open for writing was closed.
        const CLOSE_WRITE = 0x8;
        /// A description not open for writing was closed.
        const CLOSE_NOWRITE = 0x10;
        /// It was opened.
        const OPEN = 0x20;
        /// An entry left the watched directory.
        const MOVED_FROM = 0x40;
        /// An entry came into the watched directory.
        const MOVED_TO = 0x80;
        /// An entry was made in the watched directory.
        const CREATE = 0x100;
        /// An entry of the watched directory was removed.
        const DELETE = 0x200;
        /// The watched object itself was removed.
        const DELETE_SELF = 0x400;
        /// The watched object itself was renamed.
        const MOVE_SELF = 0x800;
        /// The file system was unmounted.
        const UNMOUNT = 0x2000;
        /// The subject is a directory.
        const ISDIR = 0x4000_0000;
    }
}

/// Someone who watches an inode.
pub trait Watch: Send + Sync {
    /// Tells of an event. `name` is the entry's if the inode is a directory and the event is about an entry;
    /// `cookie` ties the two halves of a rename. May sleep.
    fn event(&self, event: Event, cookie: u32, name: Option<&[u8]>);

    /// The events that it wants.
    fn mask(&self) -> Event;

    /// Whether it does without events on entries of its directory that have lost their names (`IN_EXCL_UNLINK`).
    fn skips_unlinked(&self) -> bool {
        false
    }
}

/// The watches of one inode.
pub struct Marks {
    list: SpinLock<Vec<Arc<dyn Watch>>>,
    /// Union of the masks.
    mask: AtomicU32,
}

/// How many watches there are.
static NR_WATCHES: AtomicU32 = AtomicU32::new(0);
/// Ties the halves of renames.
static COOKIE: AtomicU32 = AtomicU32::new(1);

impl Marks {
    pub(crate) const fn new() -> Self {
        Self { list: SpinLock::new("vfs.marks", Vec::new()), mask: AtomicU32::new(0) }
    }

    /// Adds a watch.
    pub fn add(&self, watch: Arc<dyn Watch>) {
        let mut list = self.list.lock();
        list.push(watch);
        self.refresh(&list);
        NR_WATCHES.fetch_add(1, Relaxed);
    }

    /// Removes a watch; gives whether it was there.
    pub fn remove(&self, watch: &Arc<dyn Watch>) -> bool {
        let mut list = self.list.lock();
        let Some(at) = list.iter().position(|w| Arc::ptr_eq(w, watch)) else { return false };
        let removed = list.swap_remove(at);
        self.refresh(&list);
        drop(list);
        drop(removed);
        NR_WATCHES.fetch_sub(1, Relaxed);
        true
    }

    /// Takes the masks into account after one has changed.
    pub fn update(&self) {
        let list = self.list.lock();
        self.refresh(&list);
    }

    fn refresh(&self, list: &[Arc<dyn Watch>]) {
        self.mask.store(list.iter().fold(0, |mask, watch| mask | watch.mask().bits()), Relaxed);
    }

    fn tell(&self, event: Event, cookie: u32, name: Option<&[u8]>) {
        self.tell_if(event, cookie, name, |_| true);
    }

    /// Tells the watches of an event that `is_for` picks.
    fn tell_if(&self, event: Event, cookie: u32, name: Option<&[u8]>, is_for: impl Fn(&dyn Watch) -> bool) {
        let kinds = event - Event::ISDIR;
        if self.mask.load(Relaxed) & kinds.bits() == 0 {
            return;
        }
        let watches = self.list.lock().clone();
        for watch in watches.iter().filter(|watch| watch.mask().intersects(kinds) && is_for(&***watch)) {
            watch.event(event, cookie, name);
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        NR_WATCHES.fetch_sub(self.list.get_mut().len() as u32, Relaxed);
    }
}

fn with_dir_bit(event: Event, subject: &Inode) -> Event {
    if subject.is_dir() { event | Event::ISDIR } else { event }
}

/// Whether anybody in the machine watches anything.
pub fn is_used() -> bool {
    NR_WATCHES.load(Relaxed) != 0
}

/// An event on the object at `path`: tells its own watches and its directory's.
#[inline]
pub fn path_event(path: &Path, event: Event) {
    if NR_WATCHES.load(Relaxed) != 0 {
        path_event_slow(path, event);
    }
}

#[cold]
fn path_event_slow(path: &Path, event: Event) {
    let Some(inode) = path.inode() else { return };
    let event = with_dir_bit(event, inode);
    if let (Some(parent), name) = path.dentry.parent_and_name()
        && let Some(dir) = parent.inode()
    {
        dir.marks()
            .tell_if(event, 0, Some(&name), |watch| path.dentry.is_hashed() || !watch.skips_unlinked());
    }
    inode.marks().tell(event, 0, None);
}

/// An event on `inode` alone, by whatever name.
#[inline]
pub fn inode_event(inode: &Inode, event: Event) {
    if NR_WATCHES.load(Relaxed) != 0 {
        inode.marks().tell(with_dir_bit(event, inode), 0, None);
    }
}

/// An event on entry `name` of `dir`, which leads or led to `subject`.
#[inline]
pub fn entry_event(dir: &Inode, name: &[u8], subject: &Inode, event: Event) {
    if NR_WATCHES.load(Relaxed) != 0 {
        dir.marks().tell(with_dir_bit(event, subject), 0, Some(name));
    }
}

/// The two events of a rename in the directories, and the one on the subject.
pub fn rename_event(from: (&Inode, &[u8]), to: (&Inode, &[u8]), subject: &Inode) {
    if NR_WATCHES.load(Relaxed) == 0 {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Relaxed);
    from.0.marks().tell(with_dir_bit(Event::MOVED_FROM, subject), cookie, Some(from.1));
    to.0.marks().tell(with_dir_bit(Event::MOVED_TO, subject), cookie, Some(to.1));
    subject.marks().tell(with_dir_bit(Event::MOVE_SELF, subject), 0, None);
}
