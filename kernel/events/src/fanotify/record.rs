//! What is told of one event, and how read(2) shows it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use process::Task;
use process::pidns::PidNs;
use vfs::handle::Handle;
use vfs::notify::{Event, News, Told};
use vfs::{Inode, Path};

use super::ask::Question;
use super::flags::InitFlags;
use crate::pidfd::Subject;

/// `FAN_Q_OVERFLOW`.
pub(super) const OVERFLOW: u32 = 0x4000;
/// Events on entries of directories.
const ENTRIES: Event =
    Event::CREATE.union(Event::DELETE).union(Event::MOVED_FROM).union(Event::MOVED_TO).union(Event::RENAME);

/// Length of `struct fanotify_event_metadata`.
pub(super) const METADATA: usize = 24;
/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// No descriptor.
pub(super) const NOFD: i32 = -1;

/// Types of what follows the metadata (`FAN_EVENT_INFO_TYPE_*`).
mod info {
    pub(super) const FID: u8 = 1;
    pub(super) const DFID_NAME: u8 = 2;
    pub(super) const DFID: u8 = 3;
    pub(super) const PIDFD: u8 = 4;
    pub(super) const MNT: u8 = 7;
    pub(super) const OLD_DFID_NAME: u8 = 10;
    pub(super) const NEW_DFID_NAME: u8 = 12;
}

/// An object by its file system and its handle there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fid {
    fsid: [i32; 2],
    handle: Handle,
}

impl Fid {
    fn of(inode: &Inode) -> Self {
        Self { fsid: inode.sb().fsid(), handle: vfs::handle::identify(inode) }
    }
}

/// A directory and maybe the name of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    dir: Fid,
    name: Option<Vec<u8>>,
}

/// Who did it.
struct Doer {
    /// Process id in the first pid namespace.
    pid: u32,
    tid: u32,
    /// What is told, in the group's pid namespace; 0 where it has no number.
    number: u32,
    /// Kept only for a pidfd: an event must not keep what has exited.
    task: Option<Arc<Task>>,
}

impl Doer {
    /// The current task as a group with `flags` in `ns` is told of it; `None` in a kernel thread.
    fn current(flags: InitFlags, ns: &PidNs) -> Option<Self> {
        let task = process::try_current()?;
        let (pid, tid) = (task.pid(), task.tid());
        let told = if flags.contains(InitFlags::REPORT_TID) { tid } else { pid };
        let number = process::pid::number_in(told, ns);
        let task = flags.contains(InitFlags::REPORT_PIDFD).then(|| task.arc().clone());
        Some(Self { pid, tid, number, task })
    }

    /// The number that the caller is told.
    fn number(&self, flags: InitFlags) -> i32 {
        let is_hidden = flags.contains(InitFlags::UNPRIVILEGED) && self.pid != process::current().pid();
        if is_hidden { 0 } else { self.number as i32 }
    }
}

/// One event, or several that came one after the other and differ in nothing else.
pub(super) struct Record {
    mask: u32,
    doer: Option<Doer>,
    pub(super) path: Option<Path>,
    entry: Option<Entry>,
    moved_to: Option<Entry>,
    object: Option<Fid>,
    mount: Option<u64>,
    pub(super) question: Option<Arc<Question>>,
    /// Length for read(2).
    pub(super) len: usize,
}

fn name_of(name: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(name.len()).ok()?;
    bytes.extend_from_slice(name);
    Some(bytes)
}

impl Record {
    /// What the group is told of that it lost events.
    pub(super) fn overflow(flags: InitFlags) -> Self {
        Self { mask: OVERFLOW, doer: None, ..Self::empty() }.measured(flags)
    }

    fn empty() -> Self {
        Self {
            mask: 0,
            doer: None,
            path: None,
            entry: None,
            moved_to: None,
            object: None,
            mount: None,
            question: None,
            len: 0,
        }
    }

    fn measured(mut self, flags: InitFlags) -> Self {
        self.len = self.encode(flags, NOFD, NOFD).len();
        self
    }

    /// A question about what is at `path`.
    pub(super) fn question(
        path: &Path,
        wanted: Event,
        question: &Arc<Question>,
        flags: InitFlags,
        ns: &PidNs,
    ) -> Self {
        let path = Some(path.clone());
        let mask = (wanted - Event::ISDIR).bits();
        let question = Some(question.clone());
        Self { mask, doer: Doer::current(flags, ns), path, question, ..Self::empty() }.measured(flags)
    }

    /// What a group with `flags` is told of `happened`; `None`: nothing, as it cannot be shown.
    pub(super) fn new(
        news: &News<'_>,
        happened: Event,
        told: Told,
        flags: InitFlags,
        ns: &PidNs,
    ) -> Option<Self> {
        let mut record = Self { mask: happened.bits(), doer: Doer::current(flags, ns), ..Self::empty() };
        if let Some(mount) = news.mount {
            record.mount = Some(mount);
        } else if flags.intersects(InitFlags::FID_BITS) {
            record.mask |= (news.event & Event::ISDIR).bits();
            record.identify(news, happened, told, flags)?;
        } else {
            // The listener opens what it is told of, so pipes and devices are left out.
            news.subject.filter(|inode| inode.is_regular() || inode.is_dir())?;
            record.path = Some(news.path?.clone());
        }
        Some(record.measured(flags))
    }

    /// Fills in what it happened to by handles.
    fn identify(&mut self, news: &News<'_>, happened: Event, told: Told, flags: InitFlags) -> Option<()> {
        let subject = news.subject?;
        let is_entry = happened.intersects(ENTRIES);
        let by_name = news.entry;
        let object = match by_name {
            Some((dir, _)) if is_entry && !flags.contains(InitFlags::REPORT_TARGET_FID) => dir,
            _ => subject,
        };
        let dir = match by_name {
            Some((dir, _)) if is_entry || !subject.is_dir() => Some(dir),
            _ if subject.is_dir() => Some(subject),
            _ => None,
        };
        if dir.is_none() && !flags.contains(InitFlags::REPORT_FID) {
            return None;
        }
        let Some(dir) = dir.filter(|_| flags.contains(InitFlags::REPORT_DIR_FID)) else {
            self.object = Some(Fid::of(object));
            return Some(());
        };
        let wants_child = flags.contains(InitFlags::REPORT_FID) && !core::ptr::eq(object, dir);
        let has_name =
            flags.contains(InitFlags::REPORT_NAME) && (is_entry || !news.event.contains(Event::ISDIR));
        if !wants_child && !has_name {
            self.object = Some(Fid::of(dir));
            return Some(());
        }
        self.object = wants_child.then(|| Fid::of(object));
        let name = match by_name.filter(|_| has_name) {
            Some((_, name)) => Some(name_of(name)?),
            None => None,
        };
        let is_rename = happened.contains(Event::RENAME);
        if !is_rename || told.by_old {
            self.entry = Some(Entry { dir: Fid::of(dir), name });
        }
        if let Some((dir, name)) = news.moved_to.filter(|_| is_rename && told.by_new) {
            self.moved_to = Some(Entry { dir: Fid::of(dir), name: Some(name_of(name)?) });
        }
        Some(())
    }

    /// Takes in `newer` if it differs only in what happened; gives whether it did.
    pub(super) fn merge(&mut self, newer: &Self, flags: InitFlags) -> bool {
        let dir_bit = Event::ISDIR.bits();
        let is_same_doer = match (&self.doer, &newer.doer) {
            (Some(a), Some(b)) if flags.contains(InitFlags::REPORT_TID) => a.tid == b.tid,
            (Some(a), Some(b)) => a.pid == b.pid,
            (None, None) => true,
            _ => false,
        };
        let is_same_path = match (&self.path, &newer.path) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.mount, &b.mount) && Arc::ptr_eq(&a.dentry, &b.dentry),
            (None, None) => true,
            _ => false,
        };
        let is_same = self.question.is_none()
            && newer.question.is_none()
            // Coming and going is not the same as moving.
            && self.mount.is_none()
            && (self.mask == OVERFLOW) == (newer.mask == OVERFLOW)
            && self.mask & dir_bit == newer.mask & dir_bit
            && is_same_doer
            && is_same_path
            && self.entry == newer.entry
            && self.moved_to == newer.moved_to
            && self.object == newer.object
            && newer.mount.is_none()
            && self.len == newer.len;
        if is_same {
            self.mask |= newer.mask;
        }
        is_same
    }

    /// Who did it: the thread if the group is told of threads, else the process.
    pub(super) fn doer(&self, flags: InitFlags) -> Option<Subject> {
        let task = self.doer.as_ref()?.task.as_ref()?;
        Some(match flags.contains(InitFlags::REPORT_TID) {
            true => Subject::of_thread(task),
            false => Subject::Process(task.group().clone()),
        })
    }

    /// The bytes that read(2) gives, with the descriptors that were made for them.
    pub(super) fn encode(&self, flags: InitFlags, fd: i32, pidfd: i32) -> Vec<u8> {
        let mut bytes = alloc::vec![0; METADATA];
        self.put_handles(&mut bytes, flags);
        if flags.contains(InitFlags::REPORT_PIDFD) {
            put_header(&mut bytes, info::PIDFD, 8);
            bytes.extend_from_slice(&pidfd.to_ne_bytes());
        }
        if let Some(mount) = self.mount {
            put_header(&mut bytes, info::MNT, 16);
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&mount.to_ne_bytes());
        }
        let len = bytes.len() as u32;
        // While it is only measured nobody is there to see numbers.
        let pid = match &self.doer {
            Some(doer) if self.len != 0 => doer.number(flags),
            _ => 0,
        };
        let mut head = Vec::with_capacity(METADATA);
        head.extend_from_slice(&len.to_ne_bytes());
        head.extend_from_slice(&[VERSION, 0]);
        head.extend_from_slice(&(METADATA as u16).to_ne_bytes());
        head.extend_from_slice(&u64::from(self.mask).to_ne_bytes());
        head.extend_from_slice(&fd.to_ne_bytes());
        head.extend_from_slice(&pid.to_ne_bytes());
        bytes.splice(..METADATA, head);
        bytes
    }

    fn put_handles(&self, bytes: &mut Vec<u8>, flags: InitFlags) {
        let happened = Event::from_bits_retain(self.mask);
        let is_rename = happened.contains(Event::RENAME);
        if let Some(entry) = &self.entry {
            let kind = match &entry.name {
                Some(_) if is_rename => info::OLD_DFID_NAME,
                Some(_) => info::DFID_NAME,
                None => info::DFID,
            };
            put_fid(bytes, kind, &entry.dir, entry.name.as_deref());
        }
        if let Some(entry) = &self.moved_to {
            put_fid(bytes, info::NEW_DFID_NAME, &entry.dir, entry.name.as_deref());
        }
        let Some(object) = &self.object else { return };
        let only_fid = flags & InitFlags::FID_BITS == InitFlags::REPORT_FID;
        let is_dir = happened.contains(Event::ISDIR);
        if only_fid || self.entry.is_some() || self.moved_to.is_some() {
            put_fid(bytes, info::FID, object, None);
        } else if flags.contains(InitFlags::REPORT_NAME) && is_dir {
            put_fid(bytes, info::DFID_NAME, object, Some(b"."));
        } else if happened.intersects(ENTRIES) || is_dir {
            put_fid(bytes, info::DFID, object, None);
        } else {
            put_fid(bytes, info::FID, object, None);
        }
    }
}

fn put_header(bytes: &mut Vec<u8>, kind: u8, len: usize) {
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(&(len as u16).to_ne_bytes());
}

/// `struct fanotify_event_info_fid`, with a `struct file_handle` and a name behind it, padded.
fn put_fid(bytes: &mut Vec<u8>, kind: u8, fid: &Fid, name: Option<&[u8]>) {
    let raw = &fid.handle.bytes;
    let name_len = name.map_or(0, |name| name.len() + 1);
    let len = (4 + 8 + 8 + raw.len() + name_len).next_multiple_of(4);
    let start = bytes.len();
    put_header(bytes, kind, len);
    fid.fsid.iter().for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
    bytes.extend_from_slice(&(raw.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&fid.handle.kind.to_ne_bytes());
    bytes.extend_from_slice(raw);
    bytes.extend_from_slice(name.unwrap_or_default());
    bytes.resize(start + len, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_with_names_are_padded_and_terminated() {
        let handle = Handle::of_words(1, &[7, 8]);
        let mut bytes = Vec::new();
        put_fid(&mut bytes, info::DFID_NAME, &Fid { fsid: [1, 2], handle }, Some(b"name"));
        assert_eq!(bytes.len(), 4 + 8 + 8 + 8 + 8);
        assert_eq!((bytes[0], bytes[2]), (info::DFID_NAME, 36));
        assert_eq!(&bytes[28..], b"name\0\0\0\0");
    }

    #[test]
    fn overflows_have_no_descriptor_and_merge_with_nothing_else() {
        let mut overflow = Record::overflow(InitFlags::empty());
        let bytes = overflow.encode(InitFlags::empty(), NOFD, NOFD);
        assert_eq!((bytes.len(), bytes[4], bytes[6]), (METADATA, VERSION, METADATA as u8));
        assert_eq!(&bytes[8..20], [0, 0x40, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(overflow.merge(&Record::overflow(InitFlags::empty()), InitFlags::empty()));
        let other = Record { mask: 1, ..Record::empty() }.measured(InitFlags::empty());
        assert!(!overflow.merge(&other, InitFlags::empty()));
    }
}
