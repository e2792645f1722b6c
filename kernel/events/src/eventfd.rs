//! eventfd(2): a counter as a file.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::fs::OpenFlags;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::sync::IrqLock;
use hal::uio::{Dest, Src};
use sched::{Interruptible, PollTable, WaitQueue};
use security::Cred;
use vfs::{File, FileMode, FileOps, Whence};

use crate::seek_nowhere;

/// How a read takes from the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of it.
    Counter,
    /// One (`EFD_SEMAPHORE`).
    Semaphore,
}

/// The highest value of a counter.
const MAX: u64 = u64::MAX - 1;

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// The operations of an eventfd.
pub struct EventFd {
    count: IrqLock<u64>,
    wait: WaitQueue,
    kind: Kind,
    id: u32,
}

impl EventFd {
    /// Adds to the counter without waiting, for events that the kernel itself reports; it stays at its maximum.
    pub fn signal(&self, value: u64) {
        {
            let mut count = self.count.lock();
            *count = count.saturating_add(value).min(MAX);
        }
        self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
    }

    fn take(&self) -> Option<u64> {
        let mut count = self.count.lock();
        if *count == 0 {
            return None;
        }
        let taken = if self.kind == Kind::Semaphore { 1 } else { *count };
        *count -= taken;
        Some(taken)
    }

    fn add(&self, value: u64) -> Option<()> {
        let mut count = self.count.lock();
        *count = count.checked_add(value).filter(|&sum| sum <= MAX)?;
        Some(())
    }

    fn readiness(&self) -> PollEvents {
        let count = *self.count.lock();
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN | PollEvents::RDNORM, count > 0);
        events.set(PollEvents::OUT | PollEvents::WRNORM, count < MAX);
        events
    }

    /// Runs `step` until it succeeds. `EAGAIN`, `ERESTARTSYS`.
    fn wait_for<T>(&self, file: &File, mut step: impl FnMut() -> Option<T>) -> Result<T> {
        if let Some(value) = step() {
            return Ok(value);
        }
        if file.is_nonblocking() {
            return Err(Errno::EAGAIN);
        }
        Ok(self.wait.wait_deadline(step, None, Interruptible::Yes)?)
    }
}

impl FileOps for EventFd {
    fn mode(&self) -> FileMode {
        FileMode::STREAM | FileMode::SEEK
    }

    fn seek(&self, file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        seek_nowhere(file)
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = self.wait_for(file, || self.take())?;
        self.wait.wake_events((PollEvents::OUT | PollEvents::WRNORM).bits());
        if dst.put_bytes(&value.to_ne_bytes())? < 8 {
            return Err(Errno::EFAULT);
        }
        Ok(8)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        if src.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if src.take_bytes(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return Err(Errno::EINVAL);
        }
        self.wait_for(file, || self.add(value))?;
        self.wait.wake_events((PollEvents::IN | PollEvents::RDNORM).bits());
        Ok(8)
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.wait);
        self.readiness()
    }

    fn ready(&self, _file: &File) -> Option<PollEvents> {
        Some(self.readiness())
    }

    fn show_fdinfo(&self, _file: &File, out: &mut Vec<u8>) {
        let is_semaphore = u8::from(self.kind == Kind::Semaphore);
        let count = *self.count.lock();
        out.extend_from_slice(
            format!(
                "eventfd-count: {count:16x}\neventfd-id: {}\neventfd-semaphore: {is_semaphore}\n",
                self.id
            )
            .as_bytes(),
        );
    }
}

/// Makes an eventfd with counter `start`; of `flags`, `O_NONBLOCK` counts.
pub fn create(start: u32, kind: Kind, flags: OpenFlags, cred: &Arc<Cred>) -> Result<Arc<File>> {
    let ops = EventFd {
        count: IrqLock::new("events.eventfd", u64::from(start)),
        wait: WaitQueue::new(),
        kind,
        id: NEXT_ID.fetch_add(1, Relaxed),
    };
    vfs::anon::file("[eventfd]", Arc::new(ops), OpenFlags::RDWR | flags & OpenFlags::NONBLOCK, cred)
}
