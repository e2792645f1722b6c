//! Arguments of fanotify_init(2) and fanotify_mark(2).

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use bitflags::bitflags;
use security::{Cap, Cred};
use vfs::notify::Event;

bitflags! {
    /// Flags of fanotify_init(2), `FAN_CLOEXEC` and `FAN_NONBLOCK` among them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct InitFlags: u32 {
        const CLOEXEC = 0x1;
        const NONBLOCK = 0x2;
        const CLASS_CONTENT = 0x4;
        const CLASS_PRE_CONTENT = 0x8;
        const UNLIMITED_QUEUE = 0x10;
        const UNLIMITED_MARKS = 0x20;
        const REPORT_PIDFD = 0x80;
        const REPORT_TID = 0x100;
        const REPORT_FID = 0x200;
        const REPORT_DIR_FID = 0x400;
        const REPORT_NAME = 0x800;
        const REPORT_TARGET_FID = 0x1000;
        const REPORT_FD_ERROR = 0x2000;
        const REPORT_MNT = 0x4000;
        /// Not of user space's: the group was made without rights over the machine.
        const UNPRIVILEGED = 0x8000_0000;
    }
}

impl InitFlags {
    /// Events are told by handles.
    pub(super) const FID_BITS: Self =
        Self::REPORT_FID.union(Self::REPORT_DIR_FID).union(Self::REPORT_NAME).union(Self::REPORT_TARGET_FID);
    const CLASSES: Self = Self::CLASS_CONTENT.union(Self::CLASS_PRE_CONTENT);
    /// What takes rights over the machine.
    const ADMIN: Self = Self::CLASSES
        .union(Self::UNLIMITED_QUEUE)
        .union(Self::UNLIMITED_MARKS)
        .union(Self::REPORT_TID)
        .union(Self::REPORT_PIDFD)
        .union(Self::REPORT_FD_ERROR);

    /// Checks the arguments of fanotify_init(2) in Linux' order.
    ///
    /// `EPERM`: it takes rights that `cred` has not. `EINVAL`: unknown, or not together.
    pub(super) fn decode(raw: u32, event_flags: u32, cred: &Cred) -> Result<(Self, OpenFlags)> {
        let asked = Self::from_bits_retain(raw);
        let is_admin = cred.capable(Cap::SYS_ADMIN);
        let by_handles = asked.intersects(Self::FID_BITS);
        let has_no_paths = by_handles || asked.contains(Self::REPORT_MNT);
        if !is_admin && (asked.intersects(Self::ADMIN) || !has_no_paths) {
            return Err(Errno::EPERM);
        }
        let known = Self::all() - Self::UNPRIVILEGED;
        if !known.contains(asked) {
            return Err(Errno::EINVAL);
        }
        let class = asked & Self::CLASSES;
        let of_mounts = asked.contains(Self::REPORT_MNT);
        if of_mounts && (!class.is_empty() || by_handles || asked.contains(Self::REPORT_FD_ERROR)) {
            return Err(Errno::EINVAL);
        }
        let opened = check_event_flags(event_flags)?;
        let lacks = |flag, needed| asked.contains(flag) && !asked.contains(needed);
        if by_handles && !class.is_empty()
            || lacks(Self::REPORT_NAME, Self::REPORT_DIR_FID)
            || lacks(Self::REPORT_TARGET_FID, Self::REPORT_NAME | Self::REPORT_FID)
            || class == Self::CLASSES
        {
            return Err(Errno::EINVAL);
        }
        Ok((if is_admin { asked } else { asked | Self::UNPRIVILEGED }, opened))
    }

    /// Whether marks may ask before something is done.
    pub(super) fn may_ask(self) -> bool {
        self.intersects(Self::CLASSES)
    }

    /// Groups with more are asked first.
    pub(super) fn priority(self) -> u8 {
        if self.contains(Self::CLASS_PRE_CONTENT) { 2 } else { u8::from(self.contains(Self::CLASS_CONTENT)) }
    }
}

/// The flags with which files of events are opened. `EINVAL`.
fn check_event_flags(raw: u32) -> Result<OpenFlags> {
    const ACCESS_MODE: u32 = 3;
    let known = OpenFlags::APPEND
        | OpenFlags::NONBLOCK
        | OpenFlags::SYNC
        | OpenFlags::DSYNC
        | OpenFlags::CLOEXEC
        | OpenFlags::LARGEFILE
        | OpenFlags::NOATIME;
    if raw & !(known.bits() | ACCESS_MODE) != 0 || raw & ACCESS_MODE == ACCESS_MODE {
        return Err(Errno::EINVAL);
    }
    Ok(OpenFlags::from_bits_truncate(raw) | OpenFlags::LARGEFILE)
}

/// What a mark is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Inode,
    Mount,
    FileSystem,
    MountNs,
}

/// What fanotify_mark(2) is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Remove,
    Flush,
}

/// Which of a mark's masks is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ignore {
    /// What it wants.
    No,
    /// What it ignores, with the old meaning (`FAN_MARK_IGNORED_MASK`).
    Old,
    /// What it ignores (`FAN_MARK_IGNORE`).
    New,
}

/// A request of fanotify_mark(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub(super) command: Command,
    pub(super) on: On,
    pub(super) ignore: Ignore,
    pub(super) survives_modify: bool,
    pub(super) is_evictable: bool,
    /// The events, with `ISDIR` and `ON_CHILD`.
    pub(super) events: Event,
    /// A symbolic link is not followed.
    pub dont_follow: bool,
    /// Only directories.
    pub only_dir: bool,
}

/// Events that go with a descriptor.
const FD_EVENTS: Event = Event::ACCESS
    .union(Event::MODIFY)
    .union(Event::CLOSE_WRITE)
    .union(Event::CLOSE_NOWRITE)
    .union(Event::OPEN)
    .union(Event::OPEN_EXEC)
    .union(PERMISSIONS);
/// Questions.
const PERMISSIONS: Event = Event::OPEN_PERM.union(Event::ACCESS_PERM).union(Event::OPEN_EXEC_PERM);
/// Events that only handles can tell of.
const FID_EVENTS: Event = Event::ATTRIB
    .union(Event::MOVED_FROM)
    .union(Event::MOVED_TO)
    .union(Event::CREATE)
    .union(Event::DELETE)
    .union(Event::DELETE_SELF)
    .union(Event::MOVE_SELF)
    .union(Event::RENAME);
const MOUNT_EVENTS: Event = Event::MNT_ATTACH.union(Event::MNT_DETACH);
/// What is said of events in a mask.
pub(super) const EVENT_FLAGS: Event = Event::ISDIR.union(Event::ON_CHILD);
/// What has no meaning for an object that is no directory.
pub(super) const ONLY_OF_DIRS: Event = Event::MOVED_FROM
    .union(Event::MOVED_TO)
    .union(Event::CREATE)
    .union(Event::DELETE)
    .union(Event::RENAME)
    .union(EVENT_FLAGS);

impl Request {
    /// Decodes `flags` and `mask`. `EINVAL`: unknown, or not together.
    pub fn decode(flags: u32, mask: u64) -> Result<Self> {
        const ON: u32 = 0x110;
        const IGNORED_MASK: u32 = 0x20;
        const SURVIVES: u32 = 0x40;
        const EVICTABLE: u32 = 0x200;
        const IGNORE: u32 = 0x400;
        const COMMANDS: u32 = 0x83;
        let mask = u32::try_from(mask).map_err(|_| Errno::EINVAL)?;
        if flags & !(COMMANDS | 0x4 | 0x8 | ON | IGNORED_MASK | SURVIVES | EVICTABLE | IGNORE) != 0 {
            return Err(Errno::EINVAL);
        }
        let on = match flags & ON {
            0 => On::Inode,
            0x10 => On::Mount,
            0x100 => On::FileSystem,
            _ => On::MountNs,
        };
        let command = match flags & COMMANDS {
            1 | 2 if mask == 0 => return Err(Errno::EINVAL),
            1 => Command::Add,
            2 => Command::Remove,
            0x80 if flags & !(ON | 0x80) == 0 => Command::Flush,
            _ => return Err(Errno::EINVAL),
        };
        let known = FD_EVENTS | FID_EVENTS | MOUNT_EVENTS | EVENT_FLAGS;
        let mut events =
            Event::from_bits(mask).filter(|events| known.contains(*events)).ok_or(Errno::EINVAL)?;
        let ignore = match flags & (IGNORED_MASK | IGNORE) {
            0 => Ignore::No,
            IGNORED_MASK => Ignore::Old,
            IGNORE => Ignore::New,
            _ => return Err(Errno::EINVAL),
        };
        if ignore == Ignore::Old {
            events -= EVENT_FLAGS;
        }
        Ok(Self {
            command,
            on,
            ignore,
            survives_modify: flags & SURVIVES != 0,
            is_evictable: flags & EVICTABLE != 0,
            events,
            dont_follow: flags & 0x4 != 0,
            only_dir: flags & 0x8 != 0,
        })
    }

    /// Whether it is about a mount namespace, which the path or descriptor is to lead to.
    pub fn is_of_mount_ns(&self) -> bool {
        self.on == On::MountNs
    }

    /// Whether it names no object: all marks of a kind go.
    pub fn is_flush(&self) -> bool {
        self.command == Command::Flush
    }

    /// Whether a group with `flags` takes it. `EINVAL`.
    pub(super) fn check(&self, flags: InitFlags) -> Result<()> {
        let events = self.events - EVENT_FLAGS;
        let by_handles = flags.intersects(InitFlags::FID_BITS);
        let of_mounts = flags.contains(InitFlags::REPORT_MNT);
        let is_wrong = if self.on == On::MountNs || of_mounts {
            !MOUNT_EVENTS.contains(events) || self.on != On::MountNs || !of_mounts
        } else {
            events.intersects(MOUNT_EVENTS)
        };
        if is_wrong
            || events.intersects(PERMISSIONS) && !flags.may_ask()
            || self.is_evictable && self.on != On::Inode
            || events.intersects(FID_EVENTS) && (!by_handles || self.on == On::Mount)
            || events.contains(Event::RENAME) && !flags.contains(InitFlags::REPORT_NAME)
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked_as_linux_does() {
        assert_eq!(Request::decode(1, 0), Err(Errno::EINVAL));
        assert_eq!(Request::decode(3, 0x20), Err(Errno::EINVAL));
        assert_eq!(Request::decode(1, 1 << 32), Err(Errno::EINVAL));
        assert_eq!(Request::decode(1 | 0x420, 0x20), Err(Errno::EINVAL));
        assert_eq!(Request::decode(0x80 | 4, 0), Err(Errno::EINVAL));
        let flush = Request::decode(0x80 | 0x10, 0).unwrap();
        assert_eq!((flush.command, flush.on), (Command::Flush, On::Mount));
        let old = Request::decode(1 | 0x20, 0x4800_0020).unwrap();
        assert_eq!((old.ignore, old.events), (Ignore::Old, Event::OPEN));
        let create = Request::decode(1, 0x100).unwrap();
        assert_eq!(create.check(InitFlags::empty()), Err(Errno::EINVAL));
        assert_eq!(create.check(InitFlags::REPORT_FID), Ok(()));
        let ask = Request::decode(1, 0x1_0000).unwrap();
        assert_eq!(ask.check(InitFlags::empty()), Err(Errno::EINVAL));
        assert_eq!(ask.check(InitFlags::CLASS_CONTENT), Ok(()));
    }
}
