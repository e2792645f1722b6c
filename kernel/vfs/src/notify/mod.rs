//! Hooks for those who watch files: inotify registers a [`Watch`] with an inode's [`Marks`], fanotify a [`GroupMark`] with
//! those of an inode, a mount, a file system or a mount namespace.
//!
//! An event on a file goes to the watches of the file and, with its name, to those of its directory; groups are told once,
//! whatever number of their marks it meets ([`group`]). While nobody in the machine watches anything, an event costs one
//! load.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};
use bitflags::bitflags;
use hal::sync::SpinLock;

use crate::file::{File, FileMode};
use crate::inode::Inode;
use crate::path::Path;

mod group;

pub use group::{Group, GroupMark, MarkFlags, News, Told, ask, asking, mount_event};
use group::{Role, Spot};
pub(crate) use group::{ask_of_file, has_asking};

bitflags! {
    /// What happened, with the numbers of inotify(7) and fanotify(7).
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
        /// It was opened to be executed.
        const OPEN_EXEC = 0x1000;
        /// The file system was unmounted.
        const UNMOUNT = 0x2000;
        /// It is about to be opened.
        const OPEN_PERM = 0x1_0000;
        /// It is about to be read.
        const ACCESS_PERM = 0x2_0000;
        /// It is about to be opened to be executed.
        const OPEN_EXEC_PERM = 0x4_0000;
        /// A mount came into the namespace.
        const MNT_ATTACH = 0x100_0000;
        /// A mount left the namespace.
        const MNT_DETACH = 0x200_0000;
        /// In a mask: what happens to the files in a directory counts, too.
        const ON_CHILD = 0x800_0000;
        /// An entry got another name, or another directory.
        const RENAME = 0x1000_0000;
        /// The subject is a directory; in a mask: events on directories count, too.
        const ISDIR = 0x4000_0000;
    }
}

impl Event {
    /// What inotify(7) tells of.
    const INOTIFY: Self = Self::from_bits_truncate(0x2fff).difference(Self::OPEN_EXEC).union(Self::ISDIR);
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

/// The watches of one object.
pub struct Marks {
    lists: SpinLock<Lists>,
    /// Union of the masks of `watches`.
    mask: AtomicU32,
    /// What some of `groups` has to be asked about.
    group_mask: AtomicU32,
}

struct Lists {
    watches: Vec<Arc<dyn Watch>>,
    groups: Vec<Arc<GroupMark>>,
}

/// How many watches there are, and marks of groups.
static NR_WATCHES: AtomicU32 = AtomicU32::new(0);
/// Ties the halves of renames.
static COOKIE: AtomicU32 = AtomicU32::new(1);

impl Marks {
    pub(crate) const fn new() -> Self {
        Self {
            lists: SpinLock::new("vfs.marks", Lists { watches: Vec::new(), groups: Vec::new() }),
            mask: AtomicU32::new(0),
            group_mask: AtomicU32::new(0),
        }
    }

    /// Adds a watch.
    pub fn add(&self, watch: Arc<dyn Watch>) {
        let mut lists = self.lists.lock();
        lists.watches.push(watch);
        self.refresh(&lists);
        NR_WATCHES.fetch_add(1, Relaxed);
    }

    /// Removes a watch; gives whether it was there.
    pub fn remove(&self, watch: &Arc<dyn Watch>) -> bool {
        let mut lists = self.lists.lock();
        let Some(at) = lists.watches.iter().position(|w| Arc::ptr_eq(w, watch)) else { return false };
        let removed = lists.watches.swap_remove(at);
        self.refresh(&lists);
        drop(lists);
        drop(removed);
        NR_WATCHES.fetch_sub(1, Relaxed);
        true
    }

    /// Adds a mark of a group. `ENOMEM`.
    pub fn add_group(&self, mark: Arc<GroupMark>) -> Result<()> {
        let mut lists = self.lists.lock();
        lists.groups.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        lists.groups.push(mark);
        self.refresh(&lists);
        NR_WATCHES.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Removes a mark of a group; gives whether it was there.
    pub fn remove_group(&self, mark: &Arc<GroupMark>) -> bool {
        let mut lists = self.lists.lock();
        let Some(at) = lists.groups.iter().position(|m| Arc::ptr_eq(m, mark)) else { return false };
        let removed = lists.groups.swap_remove(at);
        self.refresh(&lists);
        drop(lists);
        drop(removed);
        NR_WATCHES.fetch_sub(1, Relaxed);
        true
    }

    /// Takes the masks into account after one has changed.
    pub fn update(&self) {
        let lists = self.lists.lock();
        self.refresh(&lists);
    }

    /// Whether a group has a mark here.
    pub(crate) fn has_groups(&self) -> bool {
        self.group_mask.load(Relaxed) != 0
    }

    fn refresh(&self, lists: &Lists) {
        self.mask.store(lists.watches.iter().fold(0, |mask, watch| mask | watch.mask().bits()), Relaxed);
        let groups = lists.groups.iter().fold(Event::empty(), |mask, mark| mask | mark.concerns());
        self.group_mask.store(groups.bits(), Relaxed);
    }

    fn tell(&self, event: Event, cookie: u32, name: Option<&[u8]>) {
        self.tell_if(event, cookie, name, |_| true);
    }

    /// Tells the watches of an event that `is_for` picks.
    fn tell_if(&self, event: Event, cookie: u32, name: Option<&[u8]>, is_for: impl Fn(&dyn Watch) -> bool) {
        let event = event & Event::INOTIFY;
        let kinds = event - Event::ISDIR;
        if self.mask.load(Relaxed) & kinds.bits() == 0 {
            return;
        }
        let watches = self.lists.lock().watches.clone();
        for watch in watches.iter().filter(|watch| watch.mask().intersects(kinds) && is_for(&***watch)) {
            watch.event(event, cookie, name);
        }
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        let lists = self.lists.get_mut();
        NR_WATCHES.fetch_sub((lists.watches.len() + lists.groups.len()) as u32, Relaxed);
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

/// As [`path_event`] of what `file` has open; nobody is told what those do who watch.
#[inline]
pub fn file_event(file: &File, event: Event) {
    if NR_WATCHES.load(Relaxed) != 0 && !file.mode().contains(FileMode::UNTOLD) {
        path_event_slow(file.path(), event);
    }
}

#[cold]
fn path_event_slow(path: &Path, event: Event) {
    let Some(inode) = path.inode() else { return };
    let event = with_dir_bit(event, inode);
    let (parent, name) = path.dentry.parent_and_name();
    let dir = parent.as_ref().and_then(|parent| parent.inode());
    if let Some(dir) = dir {
        dir.marks()
            .tell_if(event, 0, Some(&name), |watch| path.dentry.is_hashed() || !watch.skips_unlinked());
    }
    inode.marks().tell(event, 0, None);
    let news = News {
        event,
        subject: Some(inode),
        entry: dir.map(|dir| (&**dir, &name[..])),
        moved_to: None,
        path: Some(path),
        mount: None,
    };
    group::tell(
        &news,
        &[
            Spot(Role::Own, inode.marks()),
            Spot(Role::Mount, path.mount.marks()),
            Spot(Role::FileSystem, inode.sb().marks()),
        ],
        dir.map(|dir| Spot(Role::Directory, dir.marks())),
    );
}

/// An event on `inode` alone, by whatever name.
#[inline]
pub fn inode_event(inode: &Inode, event: Event) {
    if NR_WATCHES.load(Relaxed) != 0 {
        inode_event_slow(inode, with_dir_bit(event, inode));
    }
}

#[cold]
fn inode_event_slow(inode: &Inode, event: Event) {
    inode.marks().tell(event, 0, None);
    let news = News { event, subject: Some(inode), entry: None, moved_to: None, path: None, mount: None };
    let spots = [Spot(Role::Own, inode.marks()), Spot(Role::FileSystem, inode.sb().marks())];
    group::tell(&news, &spots, None);
}

/// An event on entry `name` of `dir`, which leads or led to `subject`.
#[inline]
pub fn entry_event(dir: &Inode, name: &[u8], subject: &Inode, event: Event) {
    if NR_WATCHES.load(Relaxed) != 0 {
        entry_event_slow(dir, name, subject, with_dir_bit(event, subject), 0);
    }
}

#[cold]
fn entry_event_slow(dir: &Inode, name: &[u8], subject: &Inode, event: Event, cookie: u32) {
    dir.marks().tell(event, cookie, Some(name));
    let entry = Some((dir, name));
    let news = News { event, subject: Some(subject), entry, moved_to: None, path: None, mount: None };
    let spots = [Spot(Role::Own, dir.marks()), Spot(Role::FileSystem, dir.sb().marks())];
    group::tell(&news, &spots, None);
}

/// The events of a rename in the directories, and the one on the subject.
pub fn rename_event(from: (&Inode, &[u8]), to: (&Inode, &[u8]), subject: &Inode) {
    if NR_WATCHES.load(Relaxed) == 0 {
        return;
    }
    let cookie = COOKIE.fetch_add(1, Relaxed);
    let news = News {
        event: with_dir_bit(Event::RENAME, subject),
        subject: Some(subject),
        entry: Some(from),
        moved_to: Some(to),
        path: None,
        mount: None,
    };
    let spots = [Spot(Role::Own, from.0.marks()), Spot(Role::FileSystem, from.0.sb().marks())];
    group::tell(&news, &spots, Some(Spot(Role::NewDirectory, to.0.marks())));
    entry_event_slow(from.0, from.1, subject, with_dir_bit(Event::MOVED_FROM, subject), cookie);
    entry_event_slow(to.0, to.1, subject, with_dir_bit(Event::MOVED_TO, subject), cookie);
    inode_event_slow(subject, with_dir_bit(Event::MOVE_SELF, subject));
}
