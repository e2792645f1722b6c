//! Groups of marks: what all marks of one listener (fanotify(7)) say together about an event.
//!
//! ```text
//!   event --> marks of the object, its directory, its mount, its file system
//!                |  sorted by group
//!                v
//!             (what the marks want & what happened) - what they ignore  -->  Group::tell, or Group::ask before it happens
//! ```
//!
//! # Locks
//!
//! [`super::Marks`] has a spinlock, a leaf. Groups are told without it.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};
use bitflags::bitflags;
use smallvec::SmallVec;

use super::{Event, Marks, NR_WATCHES, with_dir_bit};
use crate::file::{File, FileMode};
use crate::inode::Inode;
use crate::mount::MountNs;
use crate::path::Path;

bitflags! {
    /// What is special about a mark.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MarkFlags: u32 {
        /// What it ignores stays ignored when the file changes (`FAN_MARK_IGNORED_SURV_MODIFY`).
        const SURVIVES_MODIFY = 1;
        /// `ISDIR` and `ON_CHILD` of what it ignores count by themselves (`FAN_MARK_IGNORE`).
        const HAS_IGNORE_FLAGS = 2;
        /// It does not keep its inode in memory (`FAN_MARK_EVICTABLE`).
        const EVICTABLE = 4;
        /// It is one of an inode.
        const INODE = 8;
    }
}

/// What a group wants to know about one object.
pub struct GroupMark {
    group: Weak<dyn Group>,
    wanted: AtomicU32,
    ignored: AtomicU32,
    flags: AtomicU32,
}

impl GroupMark {
    /// A mark that wants nothing yet.
    pub fn new(group: Weak<dyn Group>, flags: MarkFlags) -> Arc<Self> {
        let flags = AtomicU32::new(flags.bits());
        Arc::new(Self { group, wanted: AtomicU32::new(0), ignored: AtomicU32::new(0), flags })
    }

    /// The events that it wants, with `ISDIR` and `ON_CHILD`.
    pub fn wanted(&self) -> Event {
        Event::from_bits_retain(self.wanted.load(Relaxed))
    }

    /// The events that it does not want, whatever other marks of the group want.
    pub fn ignored(&self) -> Event {
        Event::from_bits_retain(self.ignored.load(Relaxed))
    }

    /// What is special about it.
    pub fn flags(&self) -> MarkFlags {
        MarkFlags::from_bits_retain(self.flags.load(Relaxed))
    }

    /// Changes what it wants; [`Marks::update`] afterwards.
    pub fn set_wanted(&self, events: Event) {
        self.wanted.store(events.bits(), Relaxed);
    }

    /// Changes what it ignores; [`Marks::update`] afterwards.
    pub fn set_ignored(&self, events: Event) {
        self.ignored.store(events.bits(), Relaxed);
    }

    /// Changes what is special about it.
    pub fn set_flags(&self, flags: MarkFlags) {
        self.flags.store(flags.bits(), Relaxed);
    }

    /// On which events it has to be looked at.
    pub(super) fn concerns(&self) -> Event {
        let mut events = (self.wanted() | self.ignored()) - (Event::ISDIR | Event::ON_CHILD);
        if !self.ignored().is_empty() && !self.flags().contains(MarkFlags::SURVIVES_MODIFY) {
            events |= Event::MODIFY;
        }
        if self.flags().contains(MarkFlags::INODE) {
            events |= Event::DELETE_SELF;
        }
        events
    }
}

/// A listener with marks. Both calls may sleep.
pub trait Group: Send + Sync {
    /// Tells that `happened`, a part of what `news` says, has happened.
    fn tell(&self, news: &News<'_>, happened: Event, told: Told);

    /// Asks whether `wanted` may be done to what is at `path`. Its error is that of the one who wants it.
    fn ask(&self, path: &Path, wanted: Event) -> Result<()>;

    /// The inode of `mark` has been deleted: the mark ends.
    fn gone(&self, mark: &Arc<GroupMark>);

    /// Groups with more are asked first.
    fn priority(&self) -> u8;
}

/// What happened.
#[derive(Clone, Copy)]
pub struct News<'a> {
    /// The events; `ISDIR` with them when the subject is a directory.
    pub event: Event,
    /// What it happened to; nothing when it happened to a mount.
    pub subject: Option<&'a Inode>,
    /// The directory and the name there by which it happened.
    pub entry: Option<(&'a Inode, &'a [u8])>,
    /// The directory and the name that it has now, when it was renamed.
    pub moved_to: Option<(&'a Inode, &'a [u8])>,
    /// By which path, where there is one.
    pub path: Option<&'a Path>,
    /// The unique number of the mount that it happened to.
    pub mount: Option<u64>,
}

/// By which marks a group comes to know of a rename.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// One of the old directory.
    pub by_old: bool,
    /// One of the new directory.
    pub by_new: bool,
}

/// What an object is to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The object itself, or the directory whose entry it is about.
    Own,
    /// The directory of the object.
    Directory,
    /// The directory that an entry came to.
    NewDirectory,
    Mount,
    FileSystem,
}

/// Marks that an event may meet.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a>(pub(super) Role, pub(super) &'a Marks);

struct Found {
    mark: Arc<GroupMark>,
    role: Role,
}

/// Mostly an event meets one or two marks.
type AllFound = SmallVec<[Found; 4]>;

/// Puts the marks in `spots` that have to be looked at when `event` happens into `found`. `ENOMEM`: not all are there.
fn collect<'a>(event: Event, spots: impl Iterator<Item = Spot<'a>>, found: &mut AllFound) -> Result<()> {
    for Spot(role, marks) in spots {
        if marks.group_mask.load(Relaxed) & (event - Event::ISDIR).bits() == 0 {
            continue;
        }
        // Allocates in the spinlock, but only where more than four marks meet.
        for mark in &marks.lists.lock().groups {
            found.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            found.push(Found { mark: mark.clone(), role });
        }
    }
    Ok(())
}

/// The part of `mask` that counts for what happened to an object of a mark's in `role`.
fn applicable(mask: Event, event: Event, role: Role) -> Event {
    let is_deaf = event.contains(Event::ISDIR) && !mask.contains(Event::ISDIR)
        || role == Role::Directory && !mask.contains(Event::ON_CHILD);
    if is_deaf { Event::empty() } else { mask }
}

/// As [`applicable`] for what a mark ignores.
fn applicable_ignored(mark: &GroupMark, event: Event, role: Role) -> Event {
    let ignored = mark.ignored();
    if ignored.is_empty() || mark.flags().contains(MarkFlags::HAS_IGNORE_FLAGS) {
        return applicable(ignored, event, role);
    }
    // The old kind: directories always, files in it when the mark wants to know of them at all.
    let of_children = mark.wanted() & Event::ON_CHILD;
    applicable(ignored | Event::ISDIR | of_children, event, role)
}

/// What the marks of one group make of `event`.
fn judge<'f>(event: Event, marks: impl Iterator<Item = &'f Found>) -> (Event, Told) {
    let (mut wanted, mut ignored, mut told) = (Event::empty(), Event::empty(), Told::default());
    for Found { mark, role } in marks {
        if event.contains(Event::MODIFY) && !mark.flags().contains(MarkFlags::SURVIVES_MODIFY) {
            mark.set_ignored(Event::empty());
        }
        let wants = applicable(mark.wanted(), event, *role);
        ignored |= applicable_ignored(mark, event, *role);
        wanted |= wants;
        if wants.contains(Event::RENAME) {
            told.by_old |= matches!(role, Role::Own | Role::FileSystem);
            told.by_new |= matches!(role, Role::NewDirectory | Role::FileSystem);
        }
    }
    ((event & wanted) - (ignored | Event::ISDIR | Event::ON_CHILD), told)
}

/// Each group among `found` once.
fn groups(found: &AllFound) -> impl Iterator<Item = &Weak<dyn Group>> {
    found.iter().enumerate().filter_map(|(at, one)| {
        let group = &one.mark.group;
        let is_first = !found.iter().take(at).any(|before| before.mark.group.ptr_eq(group));
        is_first.then_some(group)
    })
}

/// Tells the groups with marks in `spots` and `beside`.
pub(super) fn tell(news: &News<'_>, spots: &[Spot<'_>], beside: Option<Spot<'_>>) {
    let mut found = AllFound::new();
    // What cannot be noted is not told.
    let _ = collect(news.event, spots.iter().copied().chain(beside), &mut found);
    for group in groups(&found) {
        let Some(alive) = group.upgrade() else { continue };
        let own = || found.iter().filter(|one| one.mark.group.ptr_eq(group));
        let (happened, told) = judge(news.event, own());
        if !happened.is_empty() {
            alive.tell(news, happened, told);
        }
        if news.event.contains(Event::DELETE_SELF) {
            for one in own().filter(|one| one.mark.flags().contains(MarkFlags::INODE)) {
                alive.gone(&one.mark);
            }
        }
    }
}

/// How many groups there are that may be asked.
static NR_ASKING: AtomicU32 = AtomicU32::new(0);

/// A group that may be asked has come; it has gone when the result is dropped.
pub fn asking() -> impl Send + Sync {
    struct Asking;
    impl Drop for Asking {
        fn drop(&mut self) {
            NR_ASKING.fetch_sub(1, Relaxed);
        }
    }
    NR_ASKING.fetch_add(1, Relaxed);
    Asking
}

/// Asks whether `wanted` may be done to what is at `path`. Waits for those who watch it; a fatal signal ends that.
#[inline]
pub fn ask(path: &Path, wanted: Event) -> Result<()> {
    if NR_ASKING.load(Relaxed) == 0 { Ok(()) } else { ask_slow(path, wanted) }
}

/// Does anybody want to be asked of anything?
#[inline]
pub(crate) fn has_asking() -> bool {
    NR_ASKING.load(Relaxed) != 0
}

/// As [`ask`] of what `file` has open; what those do who watch is not asked about.
#[inline]
pub(crate) fn ask_of_file(file: &File, wanted: Event) -> Result<()> {
    if NR_ASKING.load(Relaxed) == 0 || file.mode().contains(FileMode::UNTOLD) {
        return Ok(());
    }
    ask_slow(file.path(), wanted)
}

#[cold]
fn ask_slow(path: &Path, wanted: Event) -> Result<()> {
    let Some(inode) = path.inode() else { return Ok(()) };
    let event = with_dir_bit(wanted, inode);
    let parent = path.dentry.parent();
    let dir = parent.as_ref().and_then(|parent| parent.inode());
    let spots = [
        Spot(Role::Own, inode.marks()),
        Spot(Role::Mount, path.mount.marks()),
        Spot(Role::FileSystem, inode.sb().marks()),
    ];
    let beside = dir.map(|dir| Spot(Role::Directory, dir.marks()));
    let mut found = AllFound::new();
    // Who cannot be asked must not be passed by.
    collect(event, spots.into_iter().chain(beside), &mut found)?;
    let mut asked: Vec<(Arc<dyn Group>, Event)> = Vec::new();
    for group in groups(&found) {
        let (wanted, _) = judge(event, found.iter().filter(|one| one.mark.group.ptr_eq(group)));
        if wanted.is_empty() {
            continue;
        }
        let Some(alive) = group.upgrade() else { continue };
        asked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        // The highest priority first.
        let at = asked.partition_point(|(before, _)| before.priority() >= alive.priority());
        asked.insert(at, (alive, wanted));
    }
    asked.iter().try_for_each(|(group, wanted)| group.ask(path, *wanted | event & Event::ISDIR))
}

/// An event on the mount with the unique number `mount` in `ns`.
pub fn mount_event(ns: &MountNs, mount: u64, event: Event) {
    if NR_WATCHES.load(Relaxed) == 0 {
        return;
    }
    let news = News { event, subject: None, entry: None, moved_to: None, path: None, mount: Some(mount) };
    tell(&news, &[Spot(Role::Own, ns.marks())], None);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Group for Nobody {
        fn tell(&self, _news: &News<'_>, _happened: Event, _told: Told) {}

        fn ask(&self, _path: &Path, _wanted: Event) -> Result<()> {
            Ok(())
        }

        fn gone(&self, _mark: &Arc<GroupMark>) {}

        fn priority(&self) -> u8 {
            0
        }
    }

    fn found(role: Role, wanted: Event, ignored: Event, flags: MarkFlags) -> Found {
        let group: Weak<dyn Group> = Weak::<Nobody>::new();
        let mark = GroupMark::new(group, flags);
        mark.set_wanted(wanted);
        mark.set_ignored(ignored);
        Found { mark, role }
    }

    #[test]
    fn directories_and_children_count_when_they_are_asked_for() {
        let plain = [found(Role::Own, Event::OPEN, Event::empty(), MarkFlags::empty())];
        assert_eq!(judge(Event::OPEN, plain.iter()).0, Event::OPEN);
        assert_eq!(judge(Event::OPEN | Event::ISDIR, plain.iter()).0, Event::empty());
        let with_dirs = [found(Role::Own, Event::OPEN | Event::ISDIR, Event::empty(), MarkFlags::empty())];
        assert_eq!(judge(Event::OPEN | Event::ISDIR, with_dirs.iter()).0, Event::OPEN);
        let parent = [found(Role::Directory, Event::OPEN, Event::empty(), MarkFlags::empty())];
        assert_eq!(judge(Event::OPEN, parent.iter()).0, Event::empty());
        let parent =
            [found(Role::Directory, Event::OPEN | Event::ON_CHILD, Event::empty(), MarkFlags::empty())];
        assert_eq!(judge(Event::OPEN, parent.iter()).0, Event::OPEN);
    }

    #[test]
    fn what_one_mark_ignores_no_other_wants_until_the_file_changes() {
        let marks = [
            found(Role::Mount, Event::OPEN | Event::MODIFY, Event::empty(), MarkFlags::empty()),
            found(Role::Own, Event::empty(), Event::OPEN, MarkFlags::empty()),
        ];
        assert_eq!(judge(Event::OPEN, marks.iter()).0, Event::empty());
        assert_eq!(judge(Event::MODIFY, marks.iter()).0, Event::MODIFY);
        assert_eq!(judge(Event::OPEN, marks.iter()).0, Event::OPEN);
        let lasting = [
            found(Role::Mount, Event::OPEN | Event::MODIFY, Event::empty(), MarkFlags::empty()),
            found(Role::Own, Event::empty(), Event::OPEN, MarkFlags::SURVIVES_MODIFY),
        ];
        assert_eq!(judge(Event::MODIFY, lasting.iter()).0, Event::MODIFY);
        assert_eq!(judge(Event::OPEN, lasting.iter()).0, Event::empty());
    }
}
