//! inotify(7): a queue of what happens to watched files and directories.
//!
//! ```text
//!   vfs::notify --> inode's marks --> Mark --> Inotify::queue --> read(2)
//!                                      ^
//!   Inotify::watches [wd] -------------+   (holds the inode, as long as it watches)
//! ```
//!
//! A mark is removed by inotify_rm_watch(2), by the end of the file, after its event when `IN_ONESHOT`, and with the
//! inotify file. Whoever takes it out of `watches` does the rest, so it happens once.
//!
//! Locks: `watches`, then an inode's marks, then `queue`. Events come in without any of them.
//!
//! Sources: inotify(7), inotify_add_watch(2).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::uio::Dest;
use limits::events::{INOTIFY_INSTANCES, INOTIFY_QUEUED, INOTIFY_WATCHES};
use limits::{Charge, UserCounts, UserResource};
use sched::{Interruptible, Mutex, PollTable, WaitQueue};
use security::Cred;
use vfs::notify::{Event, Watch};
use vfs::{File, FileMode, FileOps, Inode, Whence};

use crate::seek_nowhere;

/// `IN_ALL_EVENTS`.
const ALL_EVENTS: u32 = 0xfff;
const IN_UNMOUNT: u32 = 0x2000;
const IN_Q_OVERFLOW: u32 = 0x4000;
const IN_IGNORED: u32 = 0x8000;
/// Only watch a directory.
pub const IN_ONLYDIR: u32 = 0x0100_0000;
/// Do not follow a symbolic link.
pub const IN_DONT_FOLLOW: u32 = 0x0200_0000;
const IN_EXCL_UNLINK: u32 = 0x0400_0000;
/// Fail if there is a watch already.
pub const IN_MASK_CREATE: u32 = 0x1000_0000;
/// Add to the mask of an existing watch.
pub const IN_MASK_ADD: u32 = 0x2000_0000;
const IN_ISDIR: u32 = 0x4000_0000;
const IN_ONESHOT: u32 = 0x8000_0000;
/// Every bit that inotify_add_watch(2) knows.
const KNOWN: u32 = ALL_EVENTS
    | IN_UNMOUNT
    | IN_Q_OVERFLOW
    | IN_IGNORED
    | IN_ONLYDIR
    | IN_DONT_FOLLOW
    | IN_EXCL_UNLINK
    | IN_MASK_CREATE
    | IN_MASK_ADD
    | IN_ISDIR
    | IN_ONESHOT;

/// Size of `struct inotify_event` without a name; names are padded to a multiple of it.
const HEADER: usize = 16;

/// One `struct inotify_event`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Record {
    /// Room for the name with its NUL, padded; 0 without a name.
    fn name_room(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER) }
    }

    fn size(&self) -> usize {
        HEADER + self.name_room()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        for word in [self.wd as u32, self.mask, self.cookie, self.name_room() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.name);
        bytes.resize(self.size(), 0);
        bytes
    }
}

#[derive(Default)]
struct Queue {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Queue {
    /// Appends, merges with an equal last record, or notes the overflow; gives whether there is something new.
    fn push(&mut self, record: Record) -> bool {
        if self.records.back() == Some(&record) {
            return false;
        }
        let is_full = self.records.len() >= INOTIFY_QUEUED.load(Relaxed) as usize;
        let record = if is_full {
            Record { wd: -1, mask: IN_Q_OVERFLOW, cookie: 0, name: Vec::new() }
        } else {
            record
        };
        if is_full && self.records.back() == Some(&record) || self.records.try_reserve(1).is_err() {
            return false;
        }
        self.bytes += record.size();
        self.records.push_back(record);
        true
    }

    fn pop(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        self.bytes -= record.size();
        Some(record)
    }
}

/// One watch of one inode.
struct Mark {
    wd: i32,
    inode: Arc<Inode>,
    /// Events wanted, and the flags that stay with the watch.
    mask: AtomicU32,
    /// An event of an `IN_ONESHOT` watch has come.
    is_spent: AtomicBool,
    owner: Weak<Inotify>,
    _charge: Charge,
}

impl Watch for Mark {
    fn event(&self, event: Event, cookie: u32, name: Option<&[u8]>) {
        let Some(owner) = self.owner.upgrade() else { return };
        let mask = self.mask.load(Relaxed);
        let is_wanted = event.bits() & (mask & ALL_EVENTS | IN_UNMOUNT) != 0;
        let is_last = is_wanted && mask & IN_ONESHOT != 0;
        if is_last && self.is_spent.swap(true, Relaxed) {
            return;
        }
        if is_wanted {
            let mut bytes = Vec::new();
            if bytes.try_reserve_exact(name.map_or(0, <[u8]>::len)).is_err() {
                return;
            }
            bytes.extend_from_slice(name.unwrap_or_default());
            owner.push(Record { wd: self.wd, mask: event.bits(), cookie, name: bytes });
        }
        if is_last || name.is_none() && event.intersects(Event::DELETE_SELF | Event::UNMOUNT) {
            owner.remove_watch(self.wd);
        }
    }

    fn skips_unlinked(&self) -> bool {
        self.mask.load(Relaxed) & IN_EXCL_UNLINK != 0
    }

    fn mask(&self) -> Event {
        // The end of the file ends the watch, wanted or not.
        Event::from_bits_truncate(self.mask.load(Relaxed) & (ALL_EVENTS | IN_UNMOUNT)) | Event::DELETE_SELF
    }
}

#[derive(Default)]
struct Watches {
    by_wd: BTreeMap<i32, Arc<Mark>>,
    /// The watch of the inode at an address, which the mark holds.
    by_inode: BTreeMap<usize, i32>,
    last_wd: i32,
}

fn address(inode: &Arc<Inode>) -> usize {
    Arc::as_ptr(inode) as usize
}

/// The operations of an inotify file.
pub struct Inotify {
    me: Weak<Inotify>,
    watches: Mutex<Watches>,
    queue: SpinLock<Queue>,
    wait: WaitQueue,
    user: Arc<UserCounts>,
    _charge: Charge,
}

impl Inotify {
    fn push(&self, record: Record) {
        let is_new = self.queue.lock().push(record);
        if is_new {
            self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
        }
    }

    /// inotify_add_watch(2) for an inode that the caller may read; gives the watch's number.
    ///
    /// `EEXIST`: `IN_MASK_CREATE`, and there is a watch. `ENOSPC`: the user has too many, or no number is left.
    pub fn add_watch(&self, inode: &Arc<Inode>, mask: u32) -> Result<i32> {
        let kept = mask & (ALL_EVENTS | IN_UNMOUNT | IN_EXCL_UNLINK | IN_ONESHOT);
        let mut watches = self.watches.lock();
        let there = watches.by_inode.get(&address(inode)).and_then(|wd| watches.by_wd.get(wd));
        if let Some(mark) = there {
            if mask & IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            let old = if mask & IN_MASK_ADD != 0 { mark.mask.load(Relaxed) } else { 0 };
            mark.mask.store(old | kept, Relaxed);
            inode.marks().update();
            return Ok(mark.wd);
        }
        let limit = u64::from(INOTIFY_WATCHES.load(Relaxed));
        let charge = Charge::new(&self.user, UserResource::InotifyWatches, limit).ok_or(Errno::ENOSPC)?;
        let wd = watches.last_wd.checked_add(1).ok_or(Errno::ENOSPC)?;
        watches.last_wd = wd;
        let mark = Arc::new(Mark {
            wd,
            inode: inode.clone(),
            mask: AtomicU32::new(kept),
            is_spent: AtomicBool::new(false),
            owner: self.me.clone(),
            _charge: charge,
        });
        watches.by_inode.insert(address(inode), wd);
        watches.by_wd.insert(wd, mark.clone());
        inode.marks().add(mark);
        Ok(wd)
    }

    /// inotify_rm_watch(2); the watch ends with `IN_IGNORED`. Gives whether there was one.
    pub fn remove_watch(&self, wd: i32) -> bool {
        let mut watches = self.watches.lock();
        let Some(mark) = watches.by_wd.remove(&wd) else { return false };
        watches.by_inode.remove(&address(&mark.inode));
        drop(watches);
        detach(&mark);
        self.push(Record { wd, mask: IN_IGNORED, cookie: 0, name: Vec::new() });
        true
    }

    /// Takes records for `room` bytes; `Err(EINVAL)` if not even the first fits.
    fn take(&self, room: usize) -> Option<Result<Vec<u8>>> {
        let mut queue = self.queue.lock();
        if queue.records.front()?.size() > room {
            return Some(Err(Errno::EINVAL));
        }
        let mut bytes = Vec::new();
        while queue.records.front().is_some_and(|record| bytes.len() + record.size() <= room) {
            if let Some(record) = queue.pop() {
                bytes.extend_from_slice(&record.to_bytes());
            }
        }
        Some(Ok(bytes))
    }
}

/// Takes the mark from its inode.
#[inline]
fn detach(mark: &Arc<Mark>) {
    let watch: Arc<dyn Watch> = mark.clone();
    mark.inode.marks().remove(&watch);
}

impl Drop for Inotify {
    fn drop(&mut self) {
        let watches = core::mem::take(&mut self.watches.get_mut().by_wd);
        for mark in watches.values() {
            detach(mark);
        }
    }
}

impl FileOps for Inotify {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        seek_nowhere(file)
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        // A page at a time is enough for the largest event, and bounds what a read copies at once.
        const CHUNK: usize = 4096;
        let room = dst.remaining();
        let first = match self.take(room.min(CHUNK)) {
            Some(taken) => taken?,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.wait.wait_deadline(|| self.take(room.min(CHUNK)), None, Interruptible::Yes)??,
        };
        let mut done = dst.put_bytes(&first)?;
        let mut is_whole = done == first.len();
        while is_whole && let Some(Ok(more)) = self.take((room - done).min(CHUNK)) {
            match dst.put_bytes(&more) {
                Ok(len) => {
                    done += len;
                    is_whole = len == more.len();
                }
                Err(_) => is_whole = false,
            }
        }
        Ok(done)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.wait);
        let is_empty = self.queue.lock().records.is_empty();
        if is_empty { PollEvents::empty() } else { PollEvents::IN | PollEvents::RDNORM }
    }

    fn readable_bytes(&self, _file: &File) -> Result<usize> {
        Ok(self.queue.lock().bytes)
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        for mark in self.watches.lock().by_wd.values() {
            let (wd, ino, dev) = (mark.wd, mark.inode.ino(), mark.inode.sb().dev());
            let mask = mark.mask.load(Relaxed) & ALL_EVENTS;
            let line = format!("inotify wd:{wd:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0\n");
            out.extend_from_slice(line.as_bytes());
        }
    }
}

/// Checks the mask of inotify_add_watch(2) as far as Linux does before it looks at the descriptor. `EINVAL`.
#[inline]
pub fn check_mask(mask: u32) -> Result<()> {
    if mask & !KNOWN != 0 || mask & KNOWN == 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Makes an inotify file; of `flags`, `O_NONBLOCK` counts. `EMFILE`: the user has too many.
pub fn create(flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let user = process::cred::user_of(cred.uid);
    let limit = u64::from(INOTIFY_INSTANCES.load(Relaxed));
    let charge = Charge::new(&user, UserResource::InotifyInstances, limit).ok_or(Errno::EMFILE)?;
    let ops = Arc::new_cyclic(|me| Inotify {
        me: me.clone(),
        watches: Mutex::new("events.inotify", Watches::default()),
        queue: SpinLock::new("events.inotify.queue", Queue::default()),
        wait: WaitQueue::new(),
        user,
        _charge: charge,
    });
    vfs::anon::file("inotify", ops, flags & OpenFlags::NONBLOCK, cred)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(wd: i32, name: &[u8]) -> Record {
        Record { wd, mask: 2, cookie: 0, name: name.to_vec() }
    }

    #[test]
    fn names_are_padded_to_whole_headers() {
        assert_eq!(record(1, b"").size(), 16);
        assert_eq!(record(1, &[b'x'; 15]).size(), 32);
        assert_eq!(record(1, &[b'x'; 16]).size(), 48);
        let bytes = record(1, b"late").to_bytes();
        assert_eq!((bytes.len(), bytes[12], &bytes[16..21]), (32, 16, &b"late\0"[..]));
    }

    #[test]
    fn equal_neighbours_merge_and_bytes_are_counted() {
        let mut queue = Queue::default();
        assert!(queue.push(record(1, b"a")) && !queue.push(record(1, b"a")) && queue.push(record(2, b"a")));
        assert_eq!(queue.bytes, 64);
        queue.pop();
        assert_eq!((queue.bytes, queue.records.len()), (32, 1));
    }
}
