//! The watcher behind a descriptor: its messages, and the threads that wait for answers.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::raw::general as raw;
use abi::{Errno, Result};
use hal::sync::IrqLock;
use hal::uio::Dest;
use mm::watch::{WatchEvent, WatchEvents, WatchModes, WatchedFault, Watcher};
use mm::{FaultError, Mm};
use sched::{Interruptible, PollTable, WaitQueue};
use vfs::{FdFlags, File, FileMode, FileOps, Whence};

use crate::device;
use crate::msg::{LEN, Msg};
use crate::requests::{self, ALL_IOCTLS};

/// Set in `features` once `UFFDIO_API` was called.
const INITIALIZED: u64 = 1 << 63;

/// A thread that waits for its fault to be made good.
struct Waiter {
    addr: u64,
    msg: Msg,
    woken: AtomicBool,
    wait: WaitQueue,
}

/// A thread that waits until its event was read.
struct Teller {
    event: WatchEvent,
    done: AtomicBool,
    wait: WaitQueue,
}

impl Teller {
    fn finish(&self) {
        self.done.store(true, SeqCst);
        self.wait.wake_all();
    }
}

#[derive(Default)]
struct State {
    /// Faults that nobody has read of.
    pending: VecDeque<Arc<Waiter>>,
    /// Faults that were read.
    told: Vec<Arc<Waiter>>,
    events: VecDeque<Arc<Teller>>,
    /// The descriptor is closed: nobody waits any more.
    released: bool,
}

/// What is read next.
enum Next {
    Fault(Msg),
    Event(Arc<Teller>),
}

/// See the front page.
pub(crate) struct Userfaultfd {
    mm: IrqLock<Weak<Mm>>,
    /// `UFFD_FEATURE_*` in use, and [`INITIALIZED`].
    features: AtomicU64,
    user_only: bool,
    file_flags: OpenFlags,
    state: IrqLock<State>,
    readers: WaitQueue,
    /// Events that are certain and were not read.
    changing: AtomicU32,
}

impl Userfaultfd {
    pub fn new(mm: Weak<Mm>, user_only: bool, file_flags: OpenFlags) -> Self {
        Self {
            mm: IrqLock::new("userfaultfd.mm", mm),
            features: AtomicU64::new(0),
            user_only,
            file_flags,
            state: IrqLock::new("userfaultfd.state", State::default()),
            readers: WaitQueue::new(),
            changing: AtomicU32::new(0),
        }
    }

    /// The flags that the descriptor of a child's watcher gets, too.
    pub fn file_flags(&self) -> OpenFlags {
        self.file_flags
    }

    /// The address space, while it exists.
    pub fn mm(&self) -> Option<Arc<Mm>> {
        self.mm.lock().upgrade()
    }

    /// The features that were agreed on; `None` before.
    pub fn features(&self) -> Option<u64> {
        let features = self.features.load(SeqCst);
        (features & INITIALIZED != 0).then_some(features & !INITIALIZED)
    }

    /// Agrees on `features`, once. `EINVAL`: again.
    pub fn agree(&self, features: u64) -> Result<()> {
        let set = self.features.compare_exchange(0, features | INITIALIZED, SeqCst, SeqCst);
        set.map(drop).map_err(|_| Errno::EINVAL)
    }

    fn has(&self, feature: u32) -> bool {
        self.features.load(SeqCst) & u64::from(feature) != 0
    }

    /// Whether the memory changes in ways that nobody has read of.
    pub fn is_changing(&self) -> bool {
        self.changing.load(SeqCst) != 0
    }

    /// Lets threads go on whose faults lie in `range`.
    pub fn wake(&self, range: &Range<u64>) {
        let mut state = self.state.lock();
        let wake = |waiter: &Arc<Waiter>| {
            let hit = range.contains(&waiter.addr);
            if hit {
                waiter.woken.store(true, SeqCst);
                waiter.wait.wake_all();
            }
            !hit
        };
        state.pending.retain(wake);
        state.told.retain(wake);
    }

    /// Takes out what is read next. A fault moves to those that were told.
    fn next(&self) -> Option<Next> {
        let mut state = self.state.lock();
        // Reserved first: a fault is in one of the lists at any time.
        if !state.pending.is_empty() && state.told.try_reserve(1).is_ok() {
            let waiter = state.pending.pop_front()?;
            let msg = waiter.msg;
            state.told.push(waiter);
            return Some(Next::Fault(msg));
        }
        state.events.pop_front().map(Next::Event)
    }

    /// The message of an event; a fork makes the descriptor for the child. `EMFILE`, `ENOMEM`.
    fn message_of(&self, event: &WatchEvent) -> Result<Msg> {
        Ok(match event {
            WatchEvent::Fork(child) => {
                let child = child.clone().into_any().downcast::<Userfaultfd>().map_err(|_| Errno::EINVAL)?;
                let cloexec = self.file_flags.contains(OpenFlags::CLOEXEC);
                let file = crate::file_of(child, &process::current().cred())?;
                let flags = if cloexec { FdFlags::CLOEXEC } else { FdFlags::empty() };
                Msg::fork(device::install(file, flags)? as u32)
            }
            WatchEvent::Remap { from, to, len } => Msg::remap(*from, *to, *len),
            WatchEvent::Remove(range) => Msg::remove(range),
            WatchEvent::Unmap(range) => Msg::unmap(range),
        })
    }

    fn readiness(&self) -> PollEvents {
        if self.features().is_none() {
            return PollEvents::ERR;
        }
        let state = self.state.lock();
        if state.pending.is_empty() && state.events.is_empty() { PollEvents::empty() } else { PollEvents::IN }
    }

    /// Ends the watch: all threads go on, and find their memory as any other.
    fn release(&self) {
        self.state.lock().released = true;
        if let Some(mm) = self.mm() {
            mm.unwatch_all(self);
        }
        self.wake(&(0..u64::MAX));
        let events = core::mem::take(&mut self.state.lock().events);
        for teller in events {
            abandon(&teller.event);
            teller.finish();
        }
        self.readers.wake_events((PollEvents::IN | PollEvents::HUP).bits());
    }
}

/// Nobody reads `event`: a child's watcher that it brings has no descriptor, and ends.
fn abandon(event: &WatchEvent) {
    if let WatchEvent::Fork(child) = event
        && let Ok(child) = child.clone().into_any().downcast::<Userfaultfd>()
    {
        child.release();
    }
}

impl Watcher for Userfaultfd {
    fn fault(
        &self,
        fault: &WatchedFault,
        still: &mut dyn FnMut() -> bool,
    ) -> core::result::Result<(), FaultError> {
        if self.has(raw::UFFD_FEATURE_SIGBUS) || (self.user_only && !fault.user_mode) {
            return Err(FaultError::Bus);
        }
        let page = fault.addr & !(fault.page_size - 1);
        let shown = if self.has(raw::UFFD_FEATURE_EXACT_ADDRESS) { fault.addr } else { page };
        let wants_tid = self.has(raw::UFFD_FEATURE_THREAD_ID);
        let tid = process::try_current().filter(|_| wants_tid).map_or(0, |task| task.own_tid());
        let msg = Msg::fault(fault, shown, tid);
        let waiter =
            Arc::new(Waiter { addr: page, msg, woken: AtomicBool::new(false), wait: WaitQueue::new() });
        {
            let mut state = self.state.lock();
            if state.released {
                return Ok(());
            }
            state.pending.try_reserve(1).map_err(|_| FaultError::Oom)?;
            state.pending.push_back(waiter.clone());
        }
        self.readers.wake_events(PollEvents::IN.bits());
        let kind = if fault.user_mode { Interruptible::Yes } else { Interruptible::Killable };
        let result = if still() {
            waiter.wait.wait_deadline(|| waiter.woken.load(SeqCst).then_some(()), None, kind)
        } else {
            Ok(())
        };
        let mut state = self.state.lock();
        let other = |each: &Arc<Waiter>| !Arc::ptr_eq(each, &waiter);
        state.pending.retain(other);
        state.told.retain(other);
        drop(state);
        result.map_err(|_| FaultError::Interrupted)
    }

    fn events(&self) -> WatchEvents {
        let pairs = [
            (raw::UFFD_FEATURE_EVENT_FORK, WatchEvents::FORK),
            (raw::UFFD_FEATURE_EVENT_REMAP, WatchEvents::REMAP),
            (raw::UFFD_FEATURE_EVENT_REMOVE, WatchEvents::REMOVE),
            (raw::UFFD_FEATURE_EVENT_UNMAP, WatchEvents::UNMAP),
        ];
        pairs.into_iter().filter(|(feature, _)| self.has(*feature)).map(|(_, event)| event).collect()
    }

    fn expect(&self) {
        self.changing.fetch_add(1, SeqCst);
    }

    fn tell(&self, event: WatchEvent) {
        let teller = Arc::new(Teller { event, done: AtomicBool::new(false), wait: WaitQueue::new() });
        let queued = {
            let mut state = self.state.lock();
            let can = !state.released && state.events.try_reserve(1).is_ok();
            if can {
                state.events.push_back(teller.clone());
            }
            can
        };
        self.readers.wake_events(PollEvents::IN.bits());
        let is_done = || teller.done.load(SeqCst).then_some(());
        if !queued || teller.wait.wait_deadline(is_done, None, Interruptible::Killable).is_err() {
            let mut state = self.state.lock();
            let before = state.events.len();
            state.events.retain(|each| !Arc::ptr_eq(each, &teller));
            let unread = !queued || state.events.len() < before;
            drop(state);
            if unread {
                abandon(&teller.event);
            }
        }
        self.changing.fetch_sub(1, SeqCst);
    }

    fn for_child(&self) -> Result<Arc<dyn Watcher>> {
        let child = Self::new(Weak::new(), self.user_only, self.file_flags);
        child.features.store(self.features.load(SeqCst), SeqCst);
        Ok(Arc::new(child))
    }

    fn attach(&self, mm: &Arc<Mm>) {
        *self.mm.lock() = Arc::downgrade(mm);
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// The open file.
pub(crate) struct Handle(pub Arc<Userfaultfd>);

impl FileOps for Handle {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(file.pos())
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        self.0.features().ok_or(Errno::EINVAL)?;
        let mut done = 0;
        loop {
            if dst.remaining() < LEN {
                return if done > 0 { Ok(done) } else { Err(Errno::EINVAL) };
            }
            let next = match self.0.next() {
                Some(next) => next,
                None if done > 0 => return Ok(done),
                None if file.is_nonblocking() => return Err(Errno::EAGAIN),
                None => self.0.readers.wait_deadline(|| self.0.next(), None, Interruptible::Yes)?,
            };
            let msg = match &next {
                Next::Fault(msg) => Ok(*msg),
                Next::Event(teller) => self.0.message_of(&teller.event),
            };
            if let Next::Event(teller) = &next {
                if msg.is_err() {
                    abandon(&teller.event);
                }
                teller.finish();
            }
            if dst.put_bytes(&msg?.0)? < LEN {
                return Err(Errno::EFAULT);
            }
            done += LEN;
        }
    }

    fn poll(&self, file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.0.readers);
        // LINUX: a read after poll could block, so only descriptors that do not block can be polled.
        if file.is_nonblocking() { self.0.readiness() } else { PollEvents::ERR }
    }

    fn ioctl(&self, _file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        requests::handle(&self.0, cmd, arg)
    }

    fn release(&self, _file: &File) {
        self.0.release();
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let (pending, total) = {
            let state = self.0.state.lock();
            (state.pending.len(), state.pending.len() + state.told.len())
        };
        let features = self.0.features.load(SeqCst) & !INITIALIZED;
        let text = format!(
            "pending:\t{pending}\ntotal:\t{total}\nAPI:\t{:x}:{features:x}:{ALL_IOCTLS:x}\n",
            raw::UFFD_API
        );
        out.extend_from_slice(text.as_bytes());
    }
}

/// The watch modes for `UFFDIO_REGISTER_MODE_*` bits under `features`. `EINVAL`: none, or unknown ones.
pub(crate) fn modes_of(mode: u64, features: u64) -> Result<WatchModes> {
    let known = WatchModes::MISSING | WatchModes::WP | WatchModes::MINOR;
    let mut modes =
        u8::try_from(mode).ok().and_then(WatchModes::from_bits).filter(|modes| known.contains(*modes));
    if let Some(modes) = modes.as_mut().filter(|modes| modes.contains(WatchModes::WP)) {
        modes.set(WatchModes::ASYNC, features & u64::from(raw::UFFD_FEATURE_WP_ASYNC) != 0);
        modes.set(WatchModes::UNPOPULATED, features & u64::from(raw::UFFD_FEATURE_WP_UNPOPULATED) != 0);
    }
    modes.filter(|modes| !modes.is_empty()).ok_or(Errno::EINVAL)
}
