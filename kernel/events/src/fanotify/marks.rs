//! The marks of one fanotify file.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use limits::events::FANOTIFY_MARKS;
use limits::{Charge, UserResource};
use security::{Cap, Cred};
use vfs::mount::{Mount, MountNs};
use vfs::notify::{Event, Group, GroupMark, MarkFlags, Marks};
use vfs::superblock::SuperBlock;
use vfs::{Inode, Path};

use super::Fanotify;
use super::flags::{Command, EVENT_FLAGS, Ignore, InitFlags, ONLY_OF_DIRS, On, Request};

/// What fanotify_mark(2) names.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// What a path leads to, with its mount and its file system.
    Path(&'a Path),
    /// A mount namespace.
    MountNs(&'a Arc<MountNs>),
}

/// What a mark is on. Only inodes are kept by it.
#[derive(Clone)]
pub(super) enum Place {
    Inode(Arc<Inode>),
    Evictable(Weak<Inode>),
    Mount(Weak<Mount>),
    FileSystem(Weak<SuperBlock>),
    MountNs(Weak<MountNs>),
}

impl Place {
    fn of(on: On, subject: Subject<'_>, is_evictable: bool) -> Result<Self> {
        Ok(match (on, subject) {
            (On::MountNs, Subject::MountNs(ns)) => Self::MountNs(Arc::downgrade(ns)),
            (On::Inode, Subject::Path(path)) => {
                let inode = path.inode().ok_or(Errno::ENOENT)?;
                if is_evictable { Self::Evictable(Arc::downgrade(inode)) } else { Self::Inode(inode.clone()) }
            }
            (On::Mount, Subject::Path(path)) => Self::Mount(Arc::downgrade(&path.mount)),
            (On::FileSystem, Subject::Path(path)) => Self::FileSystem(Arc::downgrade(path.mount.sb())),
            _ => return Err(Errno::EINVAL),
        })
    }

    fn on(&self) -> On {
        match self {
            Self::Inode(_) | Self::Evictable(_) => On::Inode,
            Self::Mount(_) => On::Mount,
            Self::FileSystem(_) => On::FileSystem,
            Self::MountNs(_) => On::MountNs,
        }
    }

    fn address(&self) -> *const () {
        match self {
            Self::Inode(inode) => Arc::as_ptr(inode).cast(),
            Self::Evictable(inode) => inode.as_ptr().cast(),
            Self::Mount(mount) => mount.as_ptr().cast(),
            Self::FileSystem(sb) => sb.as_ptr().cast(),
            Self::MountNs(ns) => ns.as_ptr().cast(),
        }
    }

    /// Does something with the marks of the object, if that is still there.
    fn with<R>(&self, f: impl FnOnce(&Marks) -> R) -> Option<R> {
        match self {
            Self::Inode(inode) => Some(f(inode.marks())),
            Self::Evictable(inode) => inode.upgrade().map(|inode| f(inode.marks())),
            Self::Mount(mount) => mount.upgrade().map(|mount| f(mount.marks())),
            Self::FileSystem(sb) => sb.upgrade().map(|sb| f(sb.marks())),
            Self::MountNs(ns) => ns.upgrade().map(|ns| f(ns.marks())),
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Inode(_) => false,
            Self::Evictable(inode) => inode.strong_count() == 0,
            Self::Mount(mount) => mount.strong_count() == 0,
            Self::FileSystem(sb) => sb.strong_count() == 0,
            Self::MountNs(ns) => ns.strong_count() == 0,
        }
    }
}

/// A mark; it leaves its object when it is dropped.
pub(super) struct Placed {
    place: Place,
    mark: Arc<GroupMark>,
    _charge: Option<Charge>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.place.with(|marks| marks.remove_group(&self.mark));
    }
}

/// All marks of a group.
#[derive(Default)]
pub(super) struct Registry(Vec<Placed>);

impl Request {
    pub(super) fn is_of_inode(&self) -> bool {
        self.on == On::Inode
    }

    /// Whether `subject` can have such a mark, and what it is to want or ignore there.
    fn check_subject(&self, flags: InitFlags, subject: Subject<'_>, cred: &Cred) -> Result<Event> {
        let path = match subject {
            Subject::MountNs(ns) => {
                let is_allowed = cred.ns_capable(ns.id().owner(), Cap::SYS_ADMIN);
                return if is_allowed { Ok(self.events - EVENT_FLAGS) } else { Err(Errno::EPERM) };
            }
            Subject::Path(path) => path,
        };
        let inode = path.inode().ok_or(Errno::ENOENT)?;
        if self.on != On::Inode && !cred.ns_capable(path.mount.sb().owner(), Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let is_dir = self.on == On::Inode && inode.is_dir();
        if self.command == Command::Add {
            if self.on != On::Inode && path.mount.is_internal() {
                return Err(Errno::EINVAL);
            }
            let is_strict = flags.contains(InitFlags::REPORT_TARGET_FID)
                || self.events.contains(Event::RENAME)
                || self.ignore == Ignore::New;
            if is_strict && self.on == On::Inode && !is_dir && self.events.intersects(ONLY_OF_DIRS) {
                return Err(Errno::ENOTDIR);
            }
        }
        let by_handles = flags.intersects(InitFlags::FID_BITS);
        if by_handles && self.on != On::Inode && path.mount.sb().ops().export().is_none() {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(if is_dir { self.events } else { self.events - Event::ON_CHILD })
    }
}

impl Registry {
    /// Does what fanotify_mark(2) asks for; gives the mark that ended by it, to be dropped without the lock.
    pub(super) fn change(
        &mut self,
        group: &Fanotify,
        request: &Request,
        subject: Subject<'_>,
        cred: &Cred,
    ) -> Result<Option<Placed>> {
        let events = request.check_subject(group.flags, subject, cred)?;
        let place = Place::of(request.on, subject, request.is_evictable)?;
        let (on, address) = (place.on(), place.address());
        let known =
            self.0.iter().position(|placed| placed.place.on() == on && placed.place.address() == address);
        match (request.command, known) {
            (Command::Add, Some(at)) => {
                let placed = self.0.get_mut(at).ok_or(Errno::ENOENT)?;
                check_update(&placed.mark, request, subject)?;
                if !request.is_evictable && matches!(placed.place, Place::Evictable(_)) {
                    placed.place = place;
                    placed.mark.set_flags(placed.mark.flags() - MarkFlags::EVICTABLE);
                }
                add_to(&placed.mark, request, events);
                placed.place.with(Marks::update);
                Ok(None)
            }
            (Command::Add, None) => self.add(group, request, subject, place, events).map(|()| None),
            (_, None) => Err(Errno::ENOENT),
            (_, Some(at)) => Ok(self.remove_from(at, request, events)),
        }
    }

    fn add(
        &mut self,
        group: &Fanotify,
        request: &Request,
        subject: Subject<'_>,
        place: Place,
        events: Event,
    ) -> Result<()> {
        // What went away with its object is no longer counted.
        self.0.retain(|placed| !placed.place.is_gone());
        let charge = if group.flags.contains(InitFlags::UNLIMITED_MARKS) {
            None
        } else {
            let limit = u64::from(FANOTIFY_MARKS.load(Relaxed));
            Some(Charge::new(&group.user, UserResource::FanotifyMarks, limit).ok_or(Errno::ENOSPC)?)
        };
        let mut flags = MarkFlags::empty();
        flags.set(MarkFlags::EVICTABLE, request.is_evictable);
        flags.set(MarkFlags::INODE, request.on == On::Inode);
        let owner: Weak<dyn Group> = group.me.clone();
        let mark = GroupMark::new(owner, flags);
        check_update(&mark, request, subject)?;
        add_to(&mark, request, events);
        self.0.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        place.with(|marks| marks.add_group(mark.clone())).ok_or(Errno::ENOENT)??;
        self.0.push(Placed { place, mark, _charge: charge });
        Ok(())
    }

    fn remove_from(&mut self, at: usize, request: &Request, events: Event) -> Option<Placed> {
        let placed = self.0.get(at)?;
        let mark = &placed.mark;
        match request.ignore {
            Ignore::No => mark.set_wanted(mark.wanted() - events),
            Ignore::Old | Ignore::New => mark.set_ignored(mark.ignored() - events),
        }
        if (mark.wanted() | mark.ignored()) - EVENT_FLAGS == Event::empty() {
            return Some(self.0.swap_remove(at));
        }
        placed.place.with(Marks::update);
        None
    }

    /// Takes out `mark`, whose object goes.
    pub(super) fn take(&mut self, mark: &Arc<GroupMark>) -> Option<Placed> {
        let at = self.0.iter().position(|placed| Arc::ptr_eq(&placed.mark, mark))?;
        Some(self.0.swap_remove(at))
    }

    /// Takes out all marks of the kind that is named.
    pub(super) fn flush(&mut self, request: &Request) -> Vec<Placed> {
        self.0.extract_if(.., |placed| placed.place.on() == request.on).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<Placed> {
        core::mem::take(&mut self.0)
    }

    /// What /proc/PID/fdinfo shows; less where memory is short.
    pub(super) fn snapshot(&self) -> Vec<Shown> {
        let mut shown = Vec::new();
        if shown.try_reserve_exact(self.0.len()).is_ok() {
            shown.extend(self.0.iter().map(|placed| (placed.place.clone(), placed.mark.clone())));
        }
        shown
    }
}

/// A mark as /proc/PID/fdinfo shows it.
pub(super) type Shown = (Place, Arc<GroupMark>);

/// Appends the lines of /proc/PID/fdinfo.
pub(super) fn show(all: &[Shown], out: &mut Vec<u8>) {
    for (place, mark) in all {
        let line = line_of(place, mark).unwrap_or_default();
        if out.try_reserve(line.len()).is_err() {
            return;
        }
        out.extend_from_slice(line.as_bytes());
    }
}

fn line_of(place: &Place, mark: &GroupMark) -> Option<String> {
    let mut flags = 0;
    flags |= if mark.flags().contains(MarkFlags::SURVIVES_MODIFY) { 0x40 } else { 0 };
    flags |= if mark.flags().contains(MarkFlags::EVICTABLE) { 0x200 } else { 0 };
    flags |= if mark.flags().contains(MarkFlags::HAS_IGNORE_FLAGS) { 0x400 } else { 0 };
    let (wanted, ignored) = (mark.wanted().bits(), mark.ignored().bits());
    let masks = format!("mflags:{flags:x} mask:{wanted:x} ignored_mask:{ignored:x}");
    let of_inode = |inode: &Inode| {
        let handle = vfs::handle::identify(inode);
        let hex: String = handle.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (ino, dev, len) = (inode.ino(), inode.sb().dev(), handle.bytes.len());
        let kind = handle.kind;
        format!(
            "fanotify ino:{ino:x} sdev:{dev:x} {masks} fhandle-bytes:{len:x} fhandle-type:{kind:x} f_handle:{hex}\n"
        )
    };
    Some(match place {
        Place::Inode(inode) => of_inode(inode),
        Place::Evictable(inode) => of_inode(&*inode.upgrade()?),
        Place::Mount(mount) => format!("fanotify mnt_id:{:x} {masks}\n", mount.upgrade()?.id()),
        Place::FileSystem(sb) => format!("fanotify sdev:{:x} {masks}\n", sb.upgrade()?.dev()),
        Place::MountNs(ns) => format!("fanotify mnt_ns:{} {masks}\n", ns.upgrade()?.id().ino()),
    })
}

/// Whether `mark` can become what is asked for.
///
/// `EEXIST`: it would become evictable, or its ignored events would get their old meaning. `EINVAL`, `EISDIR`: what ignores
/// more than a file must survive changes.
fn check_update(mark: &GroupMark, request: &Request, subject: Subject<'_>) -> Result<()> {
    let flags = mark.flags();
    if request.is_evictable && !flags.contains(MarkFlags::EVICTABLE) {
        return Err(Errno::EEXIST);
    }
    if request.ignore == Ignore::Old && flags.contains(MarkFlags::HAS_IGNORE_FLAGS) {
        return Err(Errno::EEXIST);
    }
    if request.ignore == Ignore::New && !request.survives_modify {
        if request.on != On::Inode {
            return Err(Errno::EINVAL);
        }
        if matches!(subject, Subject::Path(path) if path.inode().is_some_and(|inode| inode.is_dir())) {
            return Err(Errno::EISDIR);
        }
        if flags.contains(MarkFlags::SURVIVES_MODIFY) {
            return Err(Errno::EEXIST);
        }
    }
    Ok(())
}

fn add_to(mark: &GroupMark, request: &Request, events: Event) {
    if request.ignore == Ignore::No {
        mark.set_wanted(mark.wanted() | events);
        return;
    }
    let mut flags = mark.flags();
    flags |= if request.ignore == Ignore::New { MarkFlags::HAS_IGNORE_FLAGS } else { MarkFlags::empty() };
    flags |= if request.survives_modify { MarkFlags::SURVIVES_MODIFY } else { MarkFlags::empty() };
    mark.set_flags(flags);
    mark.set_ignored(mark.ignored() | events);
}
