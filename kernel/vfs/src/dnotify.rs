//! Signals about changes in directories: fcntl(2) `F_NOTIFY`, the forerunner of inotify(7).
//!
//! A request belongs to a description and the table of descriptors through which it was made; it ends when that table
//! closes the description, and, without `DN_MULTISHOT`, with its first signal.
//!
//! # Locks
//!
//! `Directory::requests` is a spinlock, a leaf but for the signal's sender. `ALL` is outside of it, and sleeps.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::*};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use sched::Mutex;
use security::Cred;

use crate::file::File;
use crate::inode::Inode;
use crate::notify::{Event, Watch};
use crate::sigio::{self, Reason};

/// Whether there is such a thing (/proc/sys/fs/dir-notify-enable).
pub static ENABLED: AtomicU32 = AtomicU32::new(1);

const MULTISHOT: u32 = 0x8000_0000;
/// `DN_*` and what they stand for.
const KINDS: [(u32, Event); 6] = [
    (0x01, Event::ACCESS),
    (0x02, Event::MODIFY),
    (0x04, Event::CREATE.union(Event::MOVED_TO)),
    (0x08, Event::DELETE.union(Event::MOVED_FROM)),
    (0x10, Event::MOVED_FROM),
    (0x20, Event::ATTRIB),
];

/// One request.
struct Request {
    file: Weak<File>,
    holder: u64,
    table: u64,
    fd: i32,
    events: Event,
    is_multishot: bool,
}

/// A directory with requests.
struct Directory {
    inode: Arc<Inode>,
    requests: SpinLock<Vec<Request>>,
}

/// All of them.
static ALL: Mutex<Vec<Arc<Directory>>> = Mutex::new("vfs.dnotify", Vec::new());
/// How many, for those who close.
static NR: AtomicU32 = AtomicU32::new(0);

impl Watch for Directory {
    fn event(&self, event: Event, _cookie: u32, name: Option<&[u8]>) {
        // What happens to the directory itself counts where it can be asked for.
        if name.is_none() && !event.intersects(Event::ATTRIB | Event::ACCESS) {
            return;
        }
        let mut told: Vec<(Arc<File>, i32)> = Vec::new();
        self.requests.lock().retain(|request| {
            if !request.events.intersects(event - Event::ISDIR) {
                return true;
            }
            if told.try_reserve(1).is_ok()
                && let Some(file) = request.file.upgrade()
            {
                told.push((file, request.fd));
            }
            request.is_multishot
        });
        for (file, fd) in told {
            sigio::send(&file, fd, Reason::Message);
        }
    }

    fn mask(&self) -> Event {
        self.requests.lock().iter().fold(Event::empty(), |mask, request| mask | request.events)
    }
}

/// fcntl(2) `F_NOTIFY` by descriptor `fd` of table `table`. An empty `arg` ends the description's requests.
///
/// `EINVAL`: switched off. `ENOTDIR`. `ENOMEM`.
pub fn request(file: &Arc<File>, fd: i32, table: u64, arg: u32, cred: &Cred) -> Result<()> {
    if ENABLED.load(Relaxed) == 0 {
        return Err(Errno::EINVAL);
    }
    if arg & !MULTISHOT == 0 {
        closed(file, table);
        return Ok(());
    }
    let inode = file.inode();
    if !inode.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let named = KINDS.iter().filter(|(bit, _)| arg & bit != 0);
    let events = named.fold(Event::empty(), |events, (_, event)| events | *event);
    let is_multishot = arg & MULTISHOT != 0;
    let new = Request { file: Arc::downgrade(file), holder: file.id(), table, fd, events, is_multishot };
    let mut all = ALL.lock();
    let directory = match all.iter().find(|known| Arc::ptr_eq(&known.inode, inode)) {
        Some(known) => known.clone(),
        None => {
            all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            let directory = Arc::new(Directory {
                inode: inode.clone(),
                requests: SpinLock::new("vfs.dnotify.dir", Vec::new()),
            });
            all.push(directory.clone());
            NR.store(all.len() as u32, Release);
            inode.marks().add(directory.clone());
            directory
        }
    };
    add(&directory, new)?;
    inode.marks().update();
    drop(all);
    sigio::own(file, cred);
    Ok(())
}

/// Adds a request, or joins it to the one that its description has.
fn add(directory: &Directory, new: Request) -> Result<()> {
    let mut requests = directory.requests.lock();
    let is_it = |request: &&mut Request| request.holder == new.holder && request.table == new.table;
    if let Some(known) = requests.iter_mut().find(is_it) {
        known.events |= new.events;
        known.is_multishot |= new.is_multishot;
        known.fd = new.fd;
        return Ok(());
    }
    requests.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    requests.push(new);
    Ok(())
}

/// Table `table` closed a descriptor of `file`: its requests end.
#[inline]
pub(crate) fn closed(file: &File, table: u64) {
    if NR.load(Acquire) != 0 && file.inode().is_dir() {
        closed_slow(file, table);
    }
}

#[cold]
fn closed_slow(file: &File, table: u64) {
    let mut all = ALL.lock();
    let Some(at) = all.iter().position(|known| Arc::ptr_eq(&known.inode, file.inode())) else { return };
    let Some(directory) = all.get(at).cloned() else { return };
    let mut gone = Vec::new();
    let is_empty = {
        let mut requests = directory.requests.lock();
        while let Some(at) =
            requests.iter().position(|request| request.holder == file.id() && request.table == table)
        {
            gone.push(requests.swap_remove(at));
        }
        requests.is_empty()
    };
    if is_empty {
        let removed = all.swap_remove(at);
        NR.store(all.len() as u32, Release);
        let watch: Arc<dyn Watch> = removed.clone();
        directory.inode.marks().remove(&watch);
    } else {
        directory.inode.marks().update();
    }
}
