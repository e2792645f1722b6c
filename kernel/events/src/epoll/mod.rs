//! epoll(7).
//!
//! ```text
//!   Epoll --items--> Item <--observer-- wait queue of the watched file
//!     |                |                    | wake-up
//!     |                v                    v
//!     +--ready--> Ready { list <------- notify(): list the item, wake one waiter }
//! ```
//!
//! epoll_wait(2) asks only the listed items. A level-triggered item that is ready goes to the end of the list again, so
//! each call starts where the last one stopped and idle items cost nothing.
//!
//! # Invariants
//!
//! - E1: an item has observers only while it is in `items`; taking it out of `items` makes the taker detach it.
//! - E2: the ready list has room for all of `items`.
//! - E3: the graph of sets that contain sets has no cycle and no path longer than [`MAX_NESTS`] edges.
//!
//! # Locks
//!
//! `NESTING` (changes of the graph), `ctl` (changes of the set), `scan` (use of the ready list), `items`. A file may end
//! while any of them but `items` is held: [`Epoll::released`] takes only `items`.
//!
//! `EPOLLEXCLUSIVE` is accepted, and every set is told all the same: the manual promises at least one.
//!
//! Sources: epoll(7), epoll_ctl(2), epoll_wait(2).

mod busy;
mod ready;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::fs::OpenFlags;
use abi::poll::{EpollEvent, PollEvents};
use abi::{Errno, Result};
use hal::UserAddr;
use hal::sync::SpinLock;
use limits::events::EPOLL_WATCHES;
use limits::{Charge, UserCounts, UserResource};
use sched::{Interruptible, Mutex, PollTable, WaitError};
use security::Cred;
use vfs::{File, FileMode, FileOps, ReleaseWatch, Whence};

use self::busy::BusyPoll;
use self::ready::{Item, PRIVATE, Ready};
use crate::poll::ALWAYS;
use crate::seek_nowhere;

/// Longest chain of sets in sets (epoll_ctl(2): "nesting of five").
const MAX_NESTS: usize = 4;

/// Guards the graph of sets against two changes that together close a loop.
static NESTING: Mutex<()> = Mutex::new("events.epoll.nesting", ());

/// What may come with `EPOLLEXCLUSIVE` (epoll_ctl(2)).
const EXCLUSIVE_OK: PollEvents = PollEvents::IN
    .union(PollEvents::OUT)
    .union(PollEvents::ERR)
    .union(PollEvents::HUP)
    .union(PollEvents::WAKEUP)
    .union(PollEvents::ET)
    .union(PollEvents::EXCLUSIVE);

/// A change of a set (epoll_ctl(2)).
#[derive(Clone, Copy, Debug)]
pub enum Ctl {
    /// `EPOLL_CTL_ADD`.
    Add(EpollEvent),
    /// `EPOLL_CTL_MOD`.
    Mod(EpollEvent),
    /// `EPOLL_CTL_DEL`.
    Del,
    /// An operation that does not exist.
    Unknown,
}

type Key = (u64, i32);

/// The operations of an epoll file.
pub struct Epoll {
    me: Weak<Epoll>,
    items: SpinLock<BTreeMap<Key, Arc<Item>>>,
    ready: Arc<Ready>,
    ctl: Mutex<()>,
    scan: Mutex<()>,
    /// Sets that contain this one.
    parents: SpinLock<Vec<Weak<Epoll>>>,
    /// Whose items these are: of the user who made the set.
    user: Arc<UserCounts>,
    busy_poll: BusyPoll,
}

/// The set behind `file`, if it is one.
fn epoll_of(file: &File) -> Option<&Epoll> {
    file.ops_as::<Epoll>()
}

/// The set behind `file`. `EINVAL`: it is something else.
pub fn get(file: &File) -> Result<&Epoll> {
    epoll_of(file).ok_or(Errno::EINVAL)
}

/// epoll_ctl(2): `fd` is the number by which the caller names `target`.
///
/// `EPERM`: `target` is a regular file or directory. `EINVAL`: `epoll` is no set, `target` is the same, an unknown
/// operation, or bits that do not go with `EPOLLEXCLUSIVE`. `ELOOP`: sets would contain each other, or too deep.
/// `EEXIST`, `ENOENT`: there is or is not such an item. `ENOSPC`: the set's user has too many
/// items. `ENOMEM`. May sleep.
pub fn ctl(epoll: &Arc<File>, target: &Arc<File>, fd: i32, op: Ctl) -> Result<()> {
    if !target.ops().can_poll(target) {
        return Err(Errno::EPERM);
    }
    let set = get(epoll)?;
    if Arc::ptr_eq(epoll, target) {
        return Err(Errno::EINVAL);
    }
    let key = (target.id(), fd);
    match op {
        Ctl::Add(event) => {
            let events = PollEvents::from_bits_retain(event.events);
            let is_exclusive = events.contains(PollEvents::EXCLUSIVE);
            if is_exclusive && (epoll_of(target).is_some() || !EXCLUSIVE_OK.contains(events)) {
                return Err(Errno::EINVAL);
            }
            set.add(target, key, events | ALWAYS, event.data)
        }
        Ctl::Mod(event) => {
            let events = PollEvents::from_bits_retain(event.events);
            if events.contains(PollEvents::EXCLUSIVE) {
                return Err(Errno::EINVAL);
            }
            set.modify(target, key, events | ALWAYS, event.data)
        }
        Ctl::Del => set.delete(target, key),
        Ctl::Unknown => Err(Errno::EINVAL),
    }
}

/// Gives the next event to the caller; `Err` when it could not take it.
pub type Emit<'a> = dyn FnMut(EpollEvent) -> Result<()> + 'a;

impl Epoll {
    /// epoll_wait(2): gives at most `max` events to `emit`, waiting for the first until `deadline_ns` (`None`: for
    /// ever).
    ///
    /// `EINTR`: a signal came first. What `emit` refuses first is the error; refused later, it stays ready. May sleep.
    pub fn wait(&self, max: usize, deadline_ns: Option<u64>, emit: &mut Emit<'_>) -> Result<usize> {
        loop {
            let is_over = crate::poll::is_over(deadline_ns);
            if !self.ready.is_empty() {
                let count = self.send(max, emit)?;
                if count > 0 {
                    return Ok(count);
                }
            }
            if is_over {
                return Ok(0);
            }
            let is_listed = || (!self.ready.is_empty()).then_some(());
            match self.ready.wait.wait_exclusive(is_listed, deadline_ns, Interruptible::Yes) {
                Ok(()) => {}
                Err(WaitError::TimedOut) => return Ok(0),
                Err(WaitError::Interrupted) => return Err(Errno::EINTR),
            }
        }
    }

    /// Asks each listed item once and gives the ready ones to `emit`.
    fn send(&self, max: usize, emit: &mut Emit<'_>) -> Result<usize> {
        let _scan = self.scan.lock();
        let mut count = 0;
        let mut result = Ok(());
        for _ in 0..self.ready.len() {
            if count == max {
                break;
            }
            let Some(item) = self.ready.pop() else { break };
            let Some((file, revents)) = ask(&item) else { continue };
            if let Err(error) = emit(EpollEvent { events: revents.bits(), data: item.data() }) {
                self.ready.unpop(&item);
                result = Err(error);
                break;
            }
            count += 1;
            let events = item.events();
            if events.contains(PollEvents::ONESHOT) {
                item.disarm();
            } else if !events.contains(PollEvents::ET) {
                self.ready.relist(item);
            }
            drop(file);
        }
        if !self.ready.is_empty() {
            // A thread that looked while the list was short must look again.
            self.ready.wait.wake(u32::MAX, 1);
        }
        if count > 0 { Ok(count) } else { result.map(|()| 0) }
    }

    /// Whether some item is ready; forgets listed ones that are not.
    fn is_ready(&self) -> bool {
        let _scan = self.scan.lock();
        for _ in 0..self.ready.len() {
            let Some(item) = self.ready.pop() else { break };
            if ask(&item).is_some() {
                self.ready.unpop(&item);
                return true;
            }
        }
        false
    }

    fn find(&self, key: Key) -> Option<Arc<Item>> {
        self.items.lock().get(&key).cloned()
    }

    fn add(&self, target: &Arc<File>, key: Key, events: PollEvents, data: u64) -> Result<()> {
        let nested = epoll_of(target);
        let _nesting = nested.map(|_| NESTING.lock());
        if let Some(inner) = nested {
            self.check_nesting(inner)?;
        }
        let _ctl = self.ctl.lock();
        let limit = EPOLL_WATCHES.load(core::sync::atomic::Ordering::Relaxed);
        let charge = Charge::new(&self.user, UserResource::EpollWatches, limit).ok_or(Errno::ENOSPC)?;
        let item = Item::new(key, target, events, data, (&self.ready, charge));
        {
            let count = self.items.lock().len();
            self.ready.reserve(count + 1)?;
            let mut items = self.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            items.insert(key, item.clone());
        }
        if let Some(inner) = nested {
            inner.parents.lock().push(self.me.clone());
        }
        let watch: Weak<dyn ReleaseWatch> = self.me.clone();
        target.watch_release(&watch);
        let mut table = PollTable::watch(item.clone());
        let revents = target.poll(&mut table);
        *item.handles.lock() = table.into_handles();
        if revents.intersects(events - PRIVATE) {
            self.ready.add(&item);
        }
        Ok(())
    }

    fn modify(&self, target: &Arc<File>, key: Key, events: PollEvents, data: u64) -> Result<()> {
        let _ctl = self.ctl.lock();
        let item = self.find(key).ok_or(Errno::ENOENT)?;
        // Linux ignores a change of an exclusive item without an error.
        if item.events().contains(PollEvents::EXCLUSIVE) {
            return Ok(());
        }
        item.modify(events, data);
        if target.poll(&mut PollTable::query()).intersects(events - PRIVATE) {
            self.ready.add(&item);
        }
        Ok(())
    }

    fn delete(&self, target: &File, key: Key) -> Result<()> {
        let _ctl = self.ctl.lock();
        let item = self.items.lock().remove(&key).ok_or(Errno::ENOENT)?;
        item.detach();
        if let Some(inner) = epoll_of(target) {
            let mut parents = inner.parents.lock();
            if let Some(at) = parents.iter().position(|parent| parent.ptr_eq(&self.me)) {
                parents.swap_remove(at);
            }
        }
        Ok(())
    }

    /// E3: whether `inner` may become an item of this set. `ELOOP`.
    fn check_nesting(&self, inner: &Epoll) -> Result<()> {
        let down = self.depth_below(inner).ok_or(Errno::ELOOP)?;
        let up = self.height_above();
        if down + 1 + up > MAX_NESTS { Err(Errno::ELOOP) } else { Ok(()) }
    }

    /// Its items that are sets, by address. The last reference to a file may be among those that are let go here, so
    /// none is let go under the lock.
    fn sets(&self) -> BTreeMap<usize, Arc<File>> {
        let files: Vec<Arc<File>> = {
            let items = self.items.lock();
            items.values().filter_map(|item| item.file.upgrade()).collect()
        };
        let mut sets = BTreeMap::new();
        sets.extend(files.into_iter().filter_map(|file| Some((epoll_of(&file)?.address(), file))));
        sets
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// Levels of sets under `inner`; `None` if this set is among them, or they are too many.
    ///
    /// Goes level by level and looks at each set once a level: the number of ways down may be huge.
    fn depth_below(&self, inner: &Epoll) -> Option<usize> {
        if core::ptr::eq(self, inner) {
            return None;
        }
        let mut level = inner.sets();
        let mut depth = 0;
        while !level.is_empty() {
            depth += 1;
            if depth > MAX_NESTS || level.contains_key(&self.address()) {
                return None;
            }
            let mut below = BTreeMap::new();
            below.extend(level.values().filter_map(|file| epoll_of(file)).flat_map(Epoll::sets));
            level = below;
        }
        Some(depth)
    }

    /// Levels of sets that contain this one, more than `MAX_NESTS` of them counted no further.
    fn height_above(&self) -> usize {
        let parents = |set: &Epoll| -> Vec<Arc<Epoll>> {
            set.parents.lock().iter().filter_map(Weak::upgrade).collect()
        };
        let by_address = |sets: Vec<Arc<Epoll>>| -> BTreeMap<usize, Arc<Epoll>> {
            let mut found = BTreeMap::new();
            found.extend(sets.into_iter().map(|set| (set.address(), set)));
            found
        };
        let mut level = by_address(parents(self));
        let mut height = 0;
        while !level.is_empty() && height <= MAX_NESTS {
            height += 1;
            level = by_address(level.values().flat_map(|set| parents(set)).collect());
        }
        height
    }
}

/// Asks an item's file; `None` if nothing that the item wants is ready, or the file has ended.
fn ask(item: &Item) -> Option<(Arc<File>, PollEvents)> {
    let wanted = item.events() - PRIVATE;
    if wanted.is_empty() {
        return None;
    }
    let file = item.file.upgrade()?;
    let revents = file.ready().unwrap_or_else(|| file.poll(&mut PollTable::query())) & wanted;
    (!revents.is_empty()).then_some((file, revents))
}

impl ReleaseWatch for Epoll {
    fn released(&self, file_id: u64) {
        loop {
            let gone = {
                let mut items = self.items.lock();
                let first =
                    items.range((file_id, i32::MIN)..=(file_id, i32::MAX)).next().map(|(key, _)| *key);
                first.and_then(|key| items.remove(&key))
            };
            let Some(item) = gone else { break };
            item.detach();
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        for item in core::mem::take(self.items.get_mut()).into_values() {
            item.detach();
        }
    }
}

impl FileOps for Epoll {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        seek_nowhere(file)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.ready.poll_wait);
        if self.is_ready() { PollEvents::IN | PollEvents::RDNORM } else { PollEvents::empty() }
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        self.busy_poll.ioctl(cmd, UserAddr(arg as u64))
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let items: Vec<Arc<Item>> = self.items.lock().values().cloned().collect();
        for item in items {
            let Some(file) = item.file.upgrade() else { continue };
            let line = format!(
                "tfd: {:8} events: {:8x} data: {:16x}  pos:{} ino:{:x} sdev:{:x}\n",
                item.key.1,
                item.events().bits(),
                item.data(),
                file.pos(),
                file.inode().ino(),
                file.inode().sb().dev(),
            );
            out.extend_from_slice(line.as_bytes());
        }
    }
}

/// Makes an empty set.
pub fn create(cred: &Arc<Cred>) -> Result<Arc<File>> {
    let user = process::cred::user_of(cred.uid);
    let ops = Arc::new_cyclic(|me| Epoll {
        me: me.clone(),
        items: SpinLock::new("events.epoll.items", BTreeMap::new()),
        ready: Arc::new(Ready::new()),
        ctl: Mutex::new("events.epoll.ctl", ()),
        scan: Mutex::new("events.epoll.scan", ()),
        parents: SpinLock::new("events.epoll.parents", Vec::new()),
        user,
        busy_poll: BusyPoll::new(),
    });
    vfs::anon::file("[eventpoll]", ops, OpenFlags::RDWR, cred)
}
