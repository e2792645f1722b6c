//! Linux's asynchronous I/O: io_setup(2), io_submit(2), io_getevents(2), io_cancel(2), io_destroy(2).
//!
//! ```text
//! Mm ──companion──▶ Contexts ──▶ Context ◀── Request    one for each request that has no event yet
//!                                  │  └────▶ Poll ──▶ Request, File      those that wait for readiness
//!                                  └── Ring             pages that the process maps
//! ```
//!
//! A [`Request`] takes a place in the ring before anything is done for it, so its event always fits. Reads and writes
//! are done while they are submitted; those past the page cache (`O_DIRECT`) and fsync go to worker threads
//! ([`transfer`]), and poll requests observe their file.
//!
//! A context ends by io_destroy(2) or with the address space: its poll requests are cancelled, which breaks the circle of
//! references above, and other requests finish into a ring that nobody sees.
//!
//! # Locks
//!
//! ```text
//! Contexts::list
//! Context::reading        while events are copied to user memory
//! Context::polls
//!   Poll::request, Poll::handles    leaves
//! Context::state          interrupts off; a leaf, but for the ring's bytes
//! ```
//!
//! Sources: io_setup(2), io_submit(2), io_getevents(2), io_cancel(2), io_destroy(2), proc_sys_fs(5).

mod poll;
mod ring;
pub mod transfer;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::aio::IoEvent;
use abi::{Errno, Result};
use hal::sync::IrqLock;
use limits::events::{AIO_MAX_NR, charge_aio, uncharge_aio};
use mm::Mm;
use sched::workqueue::Late;
use sched::{Interruptible, Mutex, WaitError, WaitQueue};
use vfs::{File, SyncMode};

use crate::eventfd::EventFd;
use poll::Polls;
use ring::Ring;

/// Most places of a ring that may be asked for (Linux: 256 MiB of them).
const MAX_PLACES: u32 = 0x1000_0000 / size_of::<IoEvent>() as u32;

/// Events that are copied to user memory at a time.
const BATCH: usize = 8;

/// The contexts of an address space, by id.
struct Contexts {
    list: Mutex<BTreeMap<u64, Arc<Context>>>,
    next_number: AtomicU32,
}

impl Contexts {
    fn new() -> Self {
        Self { list: Mutex::new("events.aio.contexts", BTreeMap::new()), next_number: AtomicU32::new(0) }
    }
}

impl Drop for Contexts {
    fn drop(&mut self) {
        for context in self.list.get_mut().values() {
            context.end();
        }
    }
}

/// What changes with each request.
struct State {
    /// Where the next event goes.
    tail: u32,
    /// Requests that have no event yet.
    nr_open: u32,
    is_dead: bool,
    /// Threads that wait for events, and the fewest events that one of them waits for, or less.
    nr_waiters: u32,
    wanted: u32,
}

/// A context: requests in flight, and the ring that their events go to.
pub struct Context {
    ring: Ring,
    /// What was charged to `aio-nr`.
    charged: u64,
    state: IrqLock<State>,
    /// Events came, or the context ended.
    wait: WaitQueue,
    reading: Mutex<()>,
    polls: Polls,
}

/// The address space of the caller. `EINVAL`: it has none any more.
fn own_mm() -> Result<Arc<Mm>> {
    process::current().mm().ok_or(Errno::EINVAL)
}

/// io_setup(2): makes a context for `nr` requests in the caller's address space and gives its id. May sleep.
///
/// `EINVAL`: none or too many. `EAGAIN`: more than `aio-max-nr` allows. `ENOMEM`.
pub fn setup(nr: u32) -> Result<u64> {
    if nr == 0 {
        return Err(Errno::EINVAL);
    }
    // Linux keeps some places for each CPU, and doubles what was asked for.
    let places = nr.max(hal::cpu::nr_cpus() as u32 * 4).wrapping_mul(2);
    if places > MAX_PLACES {
        return Err(Errno::EINVAL);
    }
    if places == 0 || u64::from(nr) > AIO_MAX_NR.load(Relaxed) || !charge_aio(u64::from(nr)) {
        return Err(Errno::EAGAIN);
    }
    let mm = own_mm()?;
    let context = Context::new(places, u64::from(nr)).inspect_err(|_| uncharge_aio(u64::from(nr)))?;
    let id = context.ring.map(&mm).inspect_err(|_| {
        context.end();
    })?;
    let Some(contexts) = mm.companion(Contexts::new) else {
        context.end();
        return Err(Errno::ENOMEM);
    };
    context.ring.set_id(contexts.next_number.fetch_add(1, Relaxed));
    let old = contexts.list.lock().insert(id, Arc::new(context));
    // The process unmapped the ring of an older one itself, and its place was free again.
    if let Some(old) = old {
        old.end();
    }
    Ok(id)
}

/// The context `id` of the caller. `EINVAL`: there is none.
pub fn find(id: u64) -> Result<Arc<Context>> {
    let mm = own_mm()?;
    let contexts = mm.known_companion::<Contexts>().ok_or(Errno::EINVAL)?;
    if let Some(context) = contexts.list.lock().get(&id) {
        return Ok(context.clone());
    }
    contexts.find_moved(&mm, id).ok_or(Errno::EINVAL)
}

impl Contexts {
    /// The context whose ring was moved to `id` by mremap(2), which gives it its new id.
    ///
    /// LINUX: the old id ends with the mremap(2), here with the first use of the new one.
    fn find_moved(&self, mm: &Mm, id: u64) -> Option<Arc<Context>> {
        let mut list = self.list.lock();
        let mut old = None;
        mm.for_each_raw(id, |vma| {
            if vma.start == id
                && let Some(object) = vma.attr.backing.object().and_then(|object| object.as_any())
            {
                old = list.iter().find(|(_, context)| context.ring.is_mapped_by(object)).map(|(id, _)| *id);
            }
            ControlFlow::Break(())
        });
        let context = list.remove(&old?)?;
        list.insert(id, context.clone());
        Some(context)
    }
}

/// io_destroy(2): ends a context, and waits for its requests. `EINVAL`: there is none.
pub fn destroy(id: u64) -> Result<()> {
    let context = find(id)?;
    let mm = own_mm()?;
    let contexts = mm.known_companion::<Contexts>().ok_or(Errno::EINVAL)?;
    if contexts.list.lock().remove(&id).is_none() || !context.end() {
        return Err(Errno::EINVAL);
    }
    // What the process put at the same place meanwhile is lost, as on Linux.
    let _ = mm.unmap(id, context.ring.len());
    let is_idle = || (context.state.lock().nr_open == 0).then_some(());
    // Only a kill ends the wait sooner.
    let _ = context.wait.wait_deadline(is_idle, None, Interruptible::Killable);
    Ok(())
}

impl Drop for Context {
    /// The charge lasts as long as the last request, which may outlive the process.
    fn drop(&mut self) {
        uncharge_aio(self.charged);
    }
}

impl Context {
    fn new(places: u32, charged: u64) -> Result<Self> {
        let ring = Ring::new(places)?;
        let state = State { tail: 0, nr_open: 0, is_dead: false, nr_waiters: 0, wanted: 1 };
        Ok(Self {
            ring,
            charged,
            state: IrqLock::new("events.aio.state", state),
            wait: WaitQueue::new(),
            reading: Mutex::new("events.aio.reading", ()),
            polls: Polls::new(),
        })
    }

    /// Ends it, once; says whether it did. May sleep.
    fn end(&self) -> bool {
        if core::mem::replace(&mut self.state.lock().is_dead, true) {
            return false;
        }
        self.polls.cancel_all();
        self.wait.wake_all();
        true
    }

    fn is_dead(&self) -> bool {
        self.state.lock().is_dead
    }

    /// The most requests of one io_submit(2).
    pub fn max_batch(&self) -> usize {
        self.ring.nr() as usize
    }

    /// Begins a request of which `obj` is the address and `data` the caller's word.
    ///
    /// `EAGAIN`: all places are taken. `EINVAL`: the context ended.
    pub fn begin(self: &Arc<Self>, obj: u64, data: u64) -> Result<Request> {
        let mut state = self.state.lock();
        if state.is_dead {
            return Err(Errno::EINVAL);
        }
        let waiting = ring::waiting(self.ring.head(), state.tail, self.ring.nr());
        if state.nr_open + waiting >= self.ring.nr() - 1 {
            return Err(Errno::EAGAIN);
        }
        state.nr_open += 1;
        Ok(Request { context: self.clone().into(), obj, data, notify: None, is_done: false })
    }

    /// io_cancel(2): ends the request at `obj`, which then has an event. `EINVAL`: it has one already, or cannot be
    /// cancelled. May sleep.
    pub fn cancel(&self, obj: u64) -> Result<()> {
        if self.polls.cancel(obj) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Events that were not taken.
    fn nr_waiting(&self) -> u32 {
        let tail = self.state.lock().tail;
        ring::waiting(self.ring.head(), tail, self.ring.nr())
    }

    /// Takes up to `max` events and gives them to `put`, which may sleep. What `put` refuses stays.
    fn take(&self, max: usize, put: &mut dyn FnMut(&[IoEvent]) -> Result<()>) -> Result<usize> {
        let _reading = self.reading.lock();
        let nr = self.ring.nr();
        let tail = self.state.lock().tail;
        let mut head = self.ring.head();
        let total = (ring::waiting(head, tail, nr) as usize).min(max);
        let mut done = 0;
        while done < total {
            let mut batch = [IoEvent::default(); BATCH];
            let len = BATCH.min(total - done);
            let Some(part) = batch.get_mut(..len) else { break };
            for event in &mut *part {
                *event = self.ring.load(head);
                head = (head + 1) % nr;
            }
            put(part)?;
            done += len;
        }
        if done > 0 {
            self.ring.set_head(head);
        }
        Ok(done)
    }

    /// io_getevents(2): gives up to `max` events to `put`, and waits until these are `min` or `deadline_ns` (0: does not
    /// wait).
    ///
    /// `EINVAL`: the context ended. `EINTR`: a signal came before the first event. Those of `put`.
    pub fn wait(
        &self,
        min: usize,
        max: usize,
        deadline_ns: Option<u64>,
        put: &mut dyn FnMut(&[IoEvent]) -> Result<()>,
    ) -> Result<usize> {
        let mut done = 0;
        loop {
            match self.take(max - done, put) {
                Ok(n) => done += n,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
            }
            if done == 0 && self.is_dead() {
                return Err(Errno::EINVAL);
            }
            if done >= min || self.is_dead() || crate::poll::is_over(deadline_ns) {
                return Ok(done);
            }
            // No more than that ever waits at the same time.
            let wanted = u32::try_from(min - done).unwrap_or(u32::MAX).min(self.ring.nr() - 1);
            let is_ready = || (self.nr_waiting() >= wanted || self.is_dead()).then_some(());
            let waiting = Waiting::new(self, wanted);
            let waited = self.wait.wait_deadline(is_ready, deadline_ns, Interruptible::Yes);
            drop(waiting);
            match waited {
                Ok(()) => {}
                // Once more for those that came, though fewer than wanted.
                Err(WaitError::TimedOut) if self.nr_waiting() > 0 => {}
                Err(WaitError::Interrupted) if self.nr_waiting() == 0 && done == 0 => {
                    return Err(Errno::EINTR);
                }
                Err(_) => {
                    let rest = self.take(max - done, put).unwrap_or(0);
                    return Ok(done + rest);
                }
            }
        }
    }
}

/// A thread that waits for events; known before it looks for them, so that whoever brings enough wakes it.
struct Waiting<'a>(&'a Context);

impl<'a> Waiting<'a> {
    fn new(context: &'a Context, wanted: u32) -> Self {
        let mut state = context.state.lock();
        state.wanted = if state.nr_waiters == 0 { wanted } else { state.wanted.min(wanted) };
        state.nr_waiters += 1;
        Self(context)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.nr_waiters -= 1;
        // What the others want is not known any more.
        state.wanted = 1;
    }
}

/// A request in flight: a place in the ring. Dropped without [`complete`](Self::complete) it never was. Both in any context.
pub struct Request {
    context: Late<Context>,
    obj: u64,
    data: u64,
    notify: Option<Late<File>>,
    is_done: bool,
}

impl Request {
    /// Lets the event signal the eventfd `file` too (`IOCB_FLAG_RESFD`). `EINVAL`: it is none.
    pub fn notify(&mut self, file: Arc<File>) -> Result<()> {
        file.ops_as::<EventFd>().ok_or(Errno::EINVAL)?;
        self.notify = Some(file.into());
        Ok(())
    }

    /// Ends it with the event `res`: a result or a negative errno.
    pub fn complete(mut self, res: i64) {
        let event = IoEvent { data: self.data, obj: self.obj, res, res2: 0 };
        let is_enough = {
            let ring = &self.context.ring;
            let mut state = self.context.state.lock();
            state.tail = ring.store(state.tail, &event);
            ring.publish(state.tail);
            state.nr_open -= 1;
            // The end of a context waits for its requests.
            ring::waiting(ring.head(), state.tail, ring.nr()) >= state.wanted || state.is_dead
        };
        self.is_done = true;
        if let Some(eventfd) = self.notify.as_ref().and_then(|file| file.ops_as::<EventFd>()) {
            eventfd.signal(1);
        }
        if is_enough {
            self.context.wait.wake_all();
        }
    }

    /// As [`complete`](Self::complete) with what a call returned. A call that a signal interrupted is not begun anew.
    pub fn finish(self, result: Result<usize>) {
        let seen = |errno: Errno| if errno.is_internal() { Errno::EINTR } else { errno };
        self.complete(match result {
            Ok(done) => done as i64,
            Err(errno) => -i64::from(seen(errno).number()),
        });
    }

    /// Writes out what is dirty in `file`, on a worker thread. May sleep.
    ///
    /// `EINVAL`: that has no meaning for it. `EAGAIN`: no memory.
    pub fn sync(self, file: Arc<File>, mode: SyncMode) -> Result<()> {
        if file.mapping().is_some() {
            return Syncs::add((self, file, mode));
        }
        // Nothing is cached, so nothing takes long.
        match vfs::fcntl::fsync(&file, mode) {
            Err(Errno::EINVAL) => Err(Errno::EINVAL),
            result => {
                self.finish(result.map(|()| 0));
                Ok(())
            }
        }
    }
}

type Sync = (Request, Arc<File>, SyncMode);

/// Files to be written out. They take turns on a few workers, so that slow disks leave some to the rest of the kernel.
struct Syncs {
    waiting: VecDeque<Sync>,
    nr_workers: usize,
}

/// Most workers that write out files at one time.
const MAX_SYNCING: usize = 2;

static SYNCS: Mutex<Syncs> =
    Mutex::new("events.aio.syncs", Syncs { waiting: VecDeque::new(), nr_workers: 0 });

impl Syncs {
    fn add(sync: Sync) -> Result<()> {
        let mut syncs = SYNCS.lock();
        syncs.waiting.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        syncs.waiting.push_back(sync);
        if syncs.nr_workers < MAX_SYNCING {
            syncs.nr_workers += 1;
            sched::workqueue::queue(Box::new(Syncs::work));
        }
        Ok(())
    }

    fn next() -> Option<Sync> {
        let mut syncs = SYNCS.lock();
        let next = syncs.waiting.pop_front();
        syncs.nr_workers -= usize::from(next.is_none());
        next
    }

    fn work() {
        while let Some((request, file, mode)) = Syncs::next() {
            request.finish(vfs::fcntl::fsync(&file, mode).map(|()| 0));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_done {
            self.context.state.lock().nr_open -= 1;
            self.context.wait.wake_all();
        }
    }
}

#[cfg(test)]
mod tests;
