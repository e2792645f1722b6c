//! Open files in flight (`SCM_RIGHTS`), and the search for sockets that only their own messages keep open.
//!
//! ```text
//!   queue of A: [ file of B ]      nobody else has B or A open:
//!   queue of B: [ file of A ]      both are garbage, though both are referenced
//! ```
//!
//! [`INFLIGHT`] counts for each socket the messages that carry its file. A socket is a candidate if its file has no
//! other references. A candidate is alive if a queue of something alive carries it; what is left is garbage, and its
//! messages are thrown away.
//!
//! # Why a racing receiver does no harm
//!
//! Sending counts before the message is queued, receiving uncounts before the file is handed out; so the references of
//! a file are never fewer than its count, and equal only while nobody holds it. A candidate that is in a live queue is
//! counted there and not in any candidate's queue, whatever happens meanwhile.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use hal::sync::SpinLock;
use vfs::File;

use crate::packet::Packet;
use crate::socket::UnixSocket;

struct InFlight {
    socket: Weak<UnixSocket>,
    file: Weak<File>,
    count: usize,
}

/// Files in messages, by the user who sent them. A user with no more than `RLIMIT_NOFILE` of them cannot use messages
/// to hold more open files than that many descriptors would.
static BY_USER: SpinLock<BTreeMap<u32, usize>> = SpinLock::new("unix.rights.user", BTreeMap::new());

/// How many files user `uid` has in messages.
pub fn in_flight_of(uid: u32) -> usize {
    BY_USER.lock().get(&uid).copied().unwrap_or(0)
}

/// Sockets whose files are in messages, by the address of the socket.
static INFLIGHT: SpinLock<BTreeMap<usize, InFlight>> = SpinLock::new("unix.inflight", BTreeMap::new());

/// The socket behind a file, if it is one of this family.
fn unix_socket(file: &File) -> Option<&UnixSocket> {
    let socket: &dyn Any = &**net_core::socket_of(file).ok()?;
    socket.downcast_ref()
}

fn key(socket: &UnixSocket) -> usize {
    core::ptr::from_ref(socket) as usize
}

/// Open files in a message that is under way.
#[derive(Default)]
pub(crate) struct Rights {
    files: Vec<Arc<File>>,
    /// Who sent them.
    uid: u32,
}

impl Rights {
    /// Puts files into a message of user `uid`.
    pub(crate) fn new(files: Vec<Arc<File>>, uid: u32) -> Self {
        if !files.is_empty() {
            *BY_USER.lock().entry(uid).or_default() += files.len();
        }
        for file in &files {
            let Some(socket) = unix_socket(file) else { continue };
            let mut inflight = INFLIGHT.lock();
            let entry = inflight.entry(key(socket)).or_insert_with(|| InFlight {
                socket: socket.me.clone(),
                file: Arc::downgrade(file),
                count: 0,
            });
            entry.count += 1;
        }
        Self { files, uid }
    }

    /// Whether the message carries none.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Takes them out of the message.
    pub(crate) fn take(&mut self) -> Vec<Arc<File>> {
        let files = core::mem::take(&mut self.files);
        if !files.is_empty() {
            let mut by_user = BY_USER.lock();
            let left = by_user.get(&self.uid).map_or(0, |count| count.saturating_sub(files.len()));
            if left > 0 {
                by_user.insert(self.uid, left);
            } else {
                by_user.remove(&self.uid);
            }
        }
        for file in &files {
            let Some(socket) = unix_socket(file) else { continue };
            let mut inflight = INFLIGHT.lock();
            let Some(entry) = inflight.get_mut(&key(socket)) else { continue };
            entry.count -= 1;
            let gone = if entry.count == 0 { inflight.remove(&key(socket)) } else { None };
            drop(inflight);
            drop(gone);
        }
        files
    }

    /// The same files for one who only looks.
    pub(crate) fn peek(&self) -> Vec<Arc<File>> {
        self.files.clone()
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Messages to be dropped: their files may be sockets whose end drops more.
static DISCARDED: SpinLock<Vec<Vec<Packet>>> = SpinLock::new("unix.discarded", Vec::new());
static IS_DISCARDING: AtomicBool = AtomicBool::new(false);

/// Drops packets, one level at a time: however deep sockets lie in messages in sockets, the stack does not grow.
pub(crate) fn discard(packets: Vec<Packet>) {
    if packets.is_empty() {
        return;
    }
    DISCARDED.lock().push(packets);
    while !DISCARDED.lock().is_empty() {
        if IS_DISCARDING.swap(true, SeqCst) {
            return; // whoever is at it looks again
        }
        loop {
            let next = DISCARDED.lock().pop();
            let Some(next) = next else { break };
            drop(next);
        }
        IS_DISCARDING.store(false, SeqCst);
    }
}

struct Candidate {
    socket: Arc<UnixSocket>,
    count: usize,
    /// How many of the messages that carry it are in queues of candidates.
    inside: usize,
    carries: Vec<usize>,
}

/// How many entries are looked at while the lock is held.
const AT_ONCE: usize = 128;

/// Sockets whose files nobody holds but messages.
fn candidates() -> BTreeMap<usize, Candidate> {
    let mut found = BTreeMap::new();
    let mut from = 0;
    loop {
        let inflight = INFLIGHT.lock();
        let mut last = None;
        for (key, entry) in inflight.range(from..).take(AT_ONCE) {
            last = Some(*key);
            if entry.file.strong_count() == entry.count
                && let Some(socket) = entry.socket.upgrade()
            {
                found.insert(*key, Candidate { socket, count: entry.count, inside: 0, carries: Vec::new() });
            }
        }
        drop(inflight);
        let Some(last) = last else { return found };
        from = last.saturating_add(1);
    }
}

/// The sockets that messages in `socket`'s queue, or in those of connections it has not accepted, carry.
fn carried_by(socket: &UnixSocket) -> Vec<usize> {
    let mut carried = Vec::new();
    let embryos: Vec<Arc<UnixSocket>> = {
        let inner = socket.inner.lock();
        collect_keys(inner.queue.iter(), &mut carried);
        inner.embryos.iter().cloned().collect()
    };
    for embryo in &embryos {
        collect_keys(embryo.inner.lock().queue.iter(), &mut carried);
    }
    carried
}

fn collect_keys<'a>(packets: impl Iterator<Item = &'a Packet>, keys: &mut Vec<usize>) {
    keys.extend(
        packets.flat_map(|packet| packet.rights.files.iter()).filter_map(|file| unix_socket(file)).map(key),
    );
}

/// The candidates that nothing alive carries.
fn garbage(mut all: BTreeMap<usize, Candidate>) -> Vec<Arc<UnixSocket>> {
    let keys: Vec<usize> = all.keys().copied().collect();
    for key in &keys {
        let carries = all.get(key).map(|candidate| carried_by(&candidate.socket)).unwrap_or_default();
        for carried in &carries {
            if let Some(candidate) = all.get_mut(carried) {
                candidate.inside += 1;
            }
        }
        if let Some(candidate) = all.get_mut(key) {
            candidate.carries = carries;
        }
    }
    let mut live: Vec<usize> =
        all.iter().filter(|(_, candidate)| candidate.count > candidate.inside).map(|(key, _)| *key).collect();
    let mut seen = BTreeSet::new();
    seen.extend(live.iter().copied());
    while let Some(key) = live.pop() {
        let Some(candidate) = all.get(&key) else { continue };
        live.extend(candidate.carries.iter().copied().filter(|carried| seen.insert(*carried)));
    }
    all.into_iter().filter(|(key, _)| !seen.contains(key)).map(|(_, candidate)| candidate.socket).collect()
}

static IS_COLLECTING: AtomicBool = AtomicBool::new(false);
/// A collection is wanted, or wanted again while one is under way.
static IS_WANTED: AtomicBool = AtomicBool::new(false);
/// Sockets that have ended since the last collection.
static ENDED: AtomicUsize = AtomicUsize::new(0);
static IS_QUEUED: AtomicBool = AtomicBool::new(false);

/// A socket's file has ended: what only it held may be garbage.
///
/// Looks at once if few sockets are in messages, compared with those that have ended since the last look; else a work
/// queue does. So the ends of n sockets cost n steps, not n times what is in messages.
pub(crate) fn file_ended() {
    let in_flight = INFLIGHT.lock().len();
    if in_flight == 0 {
        return;
    }
    let ended = ENDED.fetch_add(1, SeqCst) + 1;
    if ended.saturating_mul(4) >= in_flight {
        collect();
    } else if !IS_QUEUED.swap(true, SeqCst) {
        sched::workqueue::queue(Box::new(|| {
            IS_QUEUED.store(false, SeqCst);
            collect();
        }));
    }
}

/// Throws away the messages of sockets that only messages keep open.
fn collect() {
    IS_WANTED.store(true, SeqCst);
    while IS_WANTED.load(SeqCst) {
        if IS_COLLECTING.swap(true, SeqCst) {
            return; // whoever is at it looks again
        }
        IS_WANTED.store(false, SeqCst);
        ENDED.store(0, SeqCst);
        let dead = garbage(candidates());
        let mut messages = Vec::new();
        for socket in &dead {
            take_messages(socket, &mut messages);
        }
        IS_COLLECTING.store(false, SeqCst);
        discard(messages);
        drop(dead);
    }
}

/// Takes the messages that carry files out of the queues of `socket`.
fn take_messages(socket: &UnixSocket, taken: &mut Vec<Packet>) {
    let embryos: Vec<Arc<UnixSocket>> = {
        let mut inner = socket.inner.lock();
        let (with, without): (VecDeque<_>, _) =
            core::mem::take(&mut inner.queue).into_iter().partition(|packet| !packet.rights.is_empty());
        inner.queue = without;
        taken.extend(with);
        inner.embryos.iter().cloned().collect()
    };
    for embryo in &embryos {
        take_messages(embryo, taken);
    }
}
