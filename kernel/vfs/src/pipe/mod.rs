//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is the object; its ends are open file descriptions with [`PipeEnd`] as their operations. A FIFO's
//! inode keeps one `Pipe` for all who open it.
//!
//! ```text
//!   write(2) -> PipeEnd{WRITE} --+                       +--> PipeEnd{READ} -> read(2)
//!                                +--> Pipe { ring } -----+
//!   write(2) -> PipeEnd{WRITE} --+                       +--> PipeEnd{READ} -> read(2)
//! ```
//!
//! # Locks
//!
//! `ring` is a sleeping lock, as user memory is copied under it. What waiters ask (`len`, `free`, `readers`,
//! `writers`) is mirrored in atomics, so that a wait condition takes no lock. Wake-ups happen after the unlock.
//!
//! A woken reader that leaves bytes behind wakes the next one, so one wake-up a write is enough; writers likewise.
//!
//! Sources: pipe(7), fcntl(2) `F_SETPIPE_SZ`, POSIX.1-2024 write().

mod end;
mod ring;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::uio::{Dest, Src};
use mm::PagePart;
use sched::{Interruptible, Mutex, WaitQueue};
use security::{Cap, Cred};

pub use end::{PipeEnd, create};
use ring::{Mode, Ring};

/// Capacity of a new pipe: 16 pages (pipe(7)).
pub const DEFAULT_CAPACITY: usize = 16 * PAGE_SIZE;
/// Writes of up to this many bytes are not mixed with others (limits.h).
pub const PIPE_BUF: usize = 4096;
/// The largest capacity that needs no privilege (/proc/sys/fs/pipe-max-size).
pub static MAX_CAPACITY: AtomicUsize = AtomicUsize::new(1 << 20);
/// No capacity beyond this, whoever asks.
const LIMIT: usize = 1 << 31;

/// The buffer between writers and readers.
pub struct Pipe {
    ring: Mutex<Ring>,
    /// Mirror of `ring.len()`.
    len: AtomicUsize,
    /// Mirror of `ring.free()`.
    free: AtomicUsize,
    /// Open descriptions that read.
    readers: AtomicU32,
    /// Open descriptions that write.
    writers: AtomicU32,
    /// How often it was ever opened for reading; FIFO openers wait for a change.
    reader_opens: AtomicU32,
    /// How often it was ever opened for writing.
    writer_opens: AtomicU32,
    /// Waiting for bytes, or for a writer to come.
    read_wait: WaitQueue,
    /// Waiting for room, or for a reader to come.
    write_wait: WaitQueue,
}

/// Whether an operation waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocking {
    /// It waits, and a signal interrupts it.
    Yes,
    /// It fails with `EAGAIN` instead.
    No,
}

impl Blocking {
    /// What open file description flags say.
    pub fn from_flags(flags: OpenFlags) -> Self {
        if flags.contains(OpenFlags::NONBLOCK) { Self::No } else { Self::Yes }
    }
}

impl Pipe {
    fn new() -> Self {
        Self {
            ring: Mutex::new("vfs.pipe", Ring::new(DEFAULT_CAPACITY)),
            len: AtomicUsize::new(0),
            free: AtomicUsize::new(DEFAULT_CAPACITY),
            readers: AtomicU32::new(0),
            writers: AtomicU32::new(0),
            reader_opens: AtomicU32::new(0),
            writer_opens: AtomicU32::new(0),
            read_wait: WaitQueue::new(),
            write_wait: WaitQueue::new(),
        }
    }

    /// The pipe of a FIFO, open nowhere yet.
    pub(crate) fn new_fifo() -> Arc<Self> {
        Arc::new(Self::new())
    }

    /// Bytes that wait to be read (`FIONREAD`).
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether nothing waits to be read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Capacity in bytes (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.ring.lock().capacity()
    }

    /// Sets the capacity (`F_SETPIPE_SZ`) to `size` rounded up; gives what it became.
    ///
    /// `EINVAL`: too large. `EPERM`: more than an unprivileged process may have. `EBUSY`: the content does not fit.
    pub fn set_capacity(&self, size: usize, cred: &Cred) -> Result<usize> {
        if size > LIMIT {
            return Err(Errno::EINVAL);
        }
        let capacity = size.max(PAGE_SIZE).next_power_of_two();
        if capacity > MAX_CAPACITY.load(Relaxed) && !cred.capable(Cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        let mut ring = self.ring.lock();
        let was_full = ring.free() == 0;
        ring.set_capacity(capacity)?;
        self.mirror(&ring);
        drop(ring);
        if was_full {
            self.write_wait.wake_all();
        }
        Ok(capacity)
    }

    fn mirror(&self, ring: &Ring) {
        // Waiters read these after they queued; the queue orders that against the wake-up that follows.
        self.len.store(ring.len(), Release);
        self.free.store(ring.free(), Release);
    }

    fn has_readers(&self) -> bool {
        self.readers.load(Acquire) > 0
    }

    fn has_writers(&self) -> bool {
        self.writers.load(Acquire) > 0
    }

    /// Reads into `dst`. 0: at the end, as no writer is left.
    ///
    /// `EAGAIN`: nothing there and `blocking` is `No`. `ERESTARTSYS`: a signal came. May sleep.
    pub fn read(&self, dst: &mut Dest<'_>, blocking: Blocking) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        loop {
            let mut ring = self.ring.lock();
            let was_full = ring.free() == 0;
            let done = ring.read(dst)?;
            let left = ring.len();
            let has_room = was_full && ring.free() > 0;
            self.mirror(&ring);
            drop(ring);
            if done > 0 {
                if has_room {
                    self.write_wait.wake_one();
                }
                if left > 0 {
                    self.read_wait.wake_one();
                }
                return Ok(done);
            }
            if !self.has_writers() && self.is_empty() {
                return Ok(0);
            }
            self.wait_readable(blocking)?;
        }
    }

    fn wait_readable(&self, blocking: Blocking) -> Result<()> {
        if blocking == Blocking::No {
            return Err(Errno::EAGAIN);
        }
        let is_ready = || (self.len.load(Acquire) > 0 || !self.has_writers()).then_some(());
        let waited = self.read_wait.wait_exclusive(is_ready, None, Interruptible::Yes);
        waited.map_err(|_| Errno::ERESTARTSYS)
    }

    /// Writes from `src`, all of it unless a signal, a fault or a leaving reader cuts it short.
    ///
    /// Up to [`PIPE_BUF`] bytes go in one piece. `EPIPE`: no reader; the caller sends `SIGPIPE`.
    /// `EAGAIN`: no room and `blocking` is `No`. `ERESTARTSYS`: a signal came first. May sleep.
    pub fn write(&self, src: &mut Src<'_>, blocking: Blocking, is_packet: bool) -> Result<usize> {
        let total = src.remaining();
        let mut done = 0;
        while done < total {
            if !self.has_readers() {
                return if done > 0 { Ok(done) } else { Err(Errno::EPIPE) };
            }
            let mode = match (is_packet, done) {
                (true, _) => Mode::Packet,
                (false, 0) => Mode::Start,
                (false, _) => Mode::Continued,
            };
            match self.write_some(src, mode) {
                Ok(0) => {}
                Ok(len) => {
                    done += len;
                    continue;
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
            match self.wait_writable(blocking) {
                Err(_) if done > 0 => return Ok(done),
                result => result?,
            }
        }
        Ok(done)
    }

    /// Puts in what fits. Up to [`PIPE_BUF`] bytes fit whole or not at all, as that is the size of a slot.
    fn write_some(&self, src: &mut Src<'_>, mode: Mode) -> Result<usize> {
        let mut ring = self.ring.lock();
        let was_empty = ring.len() == 0;
        let done = ring.write(src, mode)?;
        let room = ring.free();
        self.mirror(&ring);
        drop(ring);
        self.wake_after_write(was_empty, done, room);
        Ok(done)
    }

    /// Queues parts of pages by reference; gives the number of bytes. 0: they have to be copied. May sleep.
    pub(crate) fn put_pages(&self, parts: impl IntoIterator<Item = PagePart>) -> Result<usize> {
        let mut ring = self.ring.lock();
        let was_empty = ring.len() == 0;
        let done = ring.put_pages(parts)?;
        let room = ring.free();
        self.mirror(&ring);
        drop(ring);
        self.wake_after_write(was_empty, done, room);
        Ok(done)
    }

    /// Wakes whom a write of `done` bytes concerns; `room` is left.
    fn wake_after_write(&self, was_empty: bool, done: usize, room: usize) {
        if was_empty && done > 0 {
            self.read_wait.wake_one();
        } else if done > 0 {
            // Edge-triggered epoll sets want to hear of every write; readers have been woken before.
            self.read_wait.wake((PollEvents::IN | PollEvents::RDNORM).bits(), 0);
        }
        if room > 0 {
            self.write_wait.wake_one();
        }
    }

    fn wait_writable(&self, blocking: Blocking) -> Result<()> {
        if blocking == Blocking::No {
            return Err(Errno::EAGAIN);
        }
        let is_ready = || (self.free.load(Acquire) > 0 || !self.has_readers()).then_some(());
        self.write_wait.wait_interruptible(is_ready).map_err(|_| Errno::ERESTARTSYS)
    }

    /// Waits until there is something to read, or the end; tells which (`true`: bytes).
    pub fn wait_for_bytes(&self, blocking: Blocking) -> Result<bool> {
        while self.is_empty() {
            if !self.has_writers() {
                return Ok(false);
            }
            self.wait_readable(blocking)?;
        }
        Ok(true)
    }

    /// Waits until a slot is free; gives how many bytes fit. `EPIPE`: no reader.
    pub fn wait_for_room(&self, blocking: Blocking) -> Result<usize> {
        loop {
            if !self.has_readers() {
                return Err(Errno::EPIPE);
            }
            let free = self.free.load(Acquire);
            if free > 0 {
                return Ok(free);
            }
            self.wait_writable(blocking)?;
        }
    }

    /// Copies bytes of the front without taking them (tee(2)); gives how many.
    pub fn peek(&self, out: &mut [u8]) -> usize {
        self.ring.lock().peek(out)
    }

    /// Drops `count` bytes of the front, or what there is of them.
    pub fn discard(&self, count: usize) {
        let mut ring = self.ring.lock();
        let count = count.min(ring.len());
        if count > 0 {
            ring.drop_front(count);
        }
        self.mirror(&ring);
        drop(ring);
        self.write_wait.wake_one();
    }

    /// What poll(2) sees at an end that may read or write as told.
    fn readiness(&self, reads: bool, writes: bool, had_writer: bool) -> PollEvents {
        let mut events = PollEvents::empty();
        if reads {
            if !self.is_empty() {
                events |= PollEvents::IN | PollEvents::RDNORM;
            }
            if !self.has_writers() && had_writer {
                events |= PollEvents::HUP;
            }
        }
        if writes {
            if self.free.load(Acquire) > 0 {
                events |= PollEvents::OUT | PollEvents::WRNORM;
            }
            if !self.has_readers() {
                events |= PollEvents::ERR;
            }
        }
        events
    }

    fn attach(&self, reads: bool, writes: bool) {
        if reads {
            self.readers.fetch_add(1, AcqRel);
            self.reader_opens.fetch_add(1, AcqRel);
            self.write_wait.wake_all();
        }
        if writes {
            self.writers.fetch_add(1, AcqRel);
            self.writer_opens.fetch_add(1, AcqRel);
            self.read_wait.wake_all();
        }
    }

    fn detach(&self, reads: bool, writes: bool) {
        let last_reader = reads && self.readers.fetch_sub(1, AcqRel) == 1;
        let last_writer = writes && self.writers.fetch_sub(1, AcqRel) == 1;
        if last_reader {
            self.write_wait.wake_all();
        }
        if last_writer {
            self.read_wait.wake_all();
        }
        if (last_reader || last_writer) && !self.has_readers() && !self.has_writers() {
            // A FIFO that nobody has open forgets what it held (fifo(7)).
            let mut ring = self.ring.lock();
            let capacity = ring.capacity();
            *ring = Ring::new(capacity);
            self.mirror(&ring);
        }
    }
}
