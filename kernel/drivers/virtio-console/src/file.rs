//! /dev/vportNpM: a channel to the host.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::fs::minor;
use abi::poll::PollEvents;
use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::uio::{Dest, Src};
use sched::{Interruptible, PollTable};
use vfs::dev::DeviceDriver;
use vfs::{File, FileMode, FileOps, Inode, OpenRequest};

use crate::port::Port;
use crate::probe;

/// Bytes of a write at most (as Linux).
const MAX_WRITE: usize = 32 << 10;

pub(crate) struct Driver;

impl DeviceDriver for Driver {
    fn open(&self, rdev: u64, _inode: &Arc<Inode>, _request: &OpenRequest<'_>) -> Result<Arc<dyn FileOps>> {
        let port = probe::find(minor(rdev)).ok_or(Errno::ENXIO)?;
        port.open()?;
        Ok(Arc::new(PortFile(port)))
    }
}

/// The one opener of a port.
struct PortFile(Arc<Port>);

impl Drop for PortFile {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl PortFile {
    /// Waits until `is_ready`. `EAGAIN`: the file does not wait. `ERESTARTSYS`: a signal came.
    fn wait(&self, file: &File, is_ready: impl Fn() -> bool) -> Result<()> {
        if is_ready() {
            return Ok(());
        }
        if file.is_nonblocking() {
            return Err(Errno::EAGAIN);
        }
        let waited = self.0.changed.wait_deadline(|| is_ready().then_some(()), None, Interruptible::Yes);
        waited.map_err(|_| Errno::ERESTARTSYS)
    }
}

impl FileOps for PortFile {
    fn mode(&self) -> FileMode {
        FileMode::STREAM
    }

    /// 0: the host has it closed, and all was read. `ENODEV`: the device has it no more.
    fn read(&self, file: &File, dst: &mut Dest<'_>, _pos: u64) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        loop {
            match self.0.readiness() {
                Some(true) => match self.0.read(dst)? {
                    0 => {}
                    len => return Ok(len),
                },
                Some(false) if self.0.is_gone() => return Err(Errno::ENODEV),
                Some(false) => return Ok(0),
                None => self.wait(file, || self.0.readiness().is_some())?,
            }
        }
    }

    /// Waits while the host has it closed. `ENODEV`: the device has it no more. `ENOMEM`.
    fn write(&self, file: &File, src: &mut Src<'_>, _pos: u64) -> Result<usize> {
        if src.remaining() == 0 {
            return Ok(0);
        }
        self.wait(file, || !self.0.is_stuck())?;
        let len = src.remaining().min(MAX_WRITE);
        let mut frames: Vec<Frame> = Vec::new();
        let mut copied = 0;
        while copied < len {
            let frame = Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
            match src.take_into_frame(&frame, 0, (len - copied).min(PAGE_SIZE)) {
                Ok(0) => break,
                Ok(len) => copied += len,
                Err(_) if copied == 0 => return Err(Errno::EFAULT),
                Err(_) => break,
            }
            frames.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            frames.push(frame);
        }
        loop {
            if self.0.is_gone() {
                return Err(Errno::ENODEV);
            }
            match self.0.send(frames, copied) {
                Ok(()) => return Ok(copied),
                Err(Some(back)) => frames = back,
                Err(None) => return Err(if self.0.is_gone() { Errno::ENODEV } else { Errno::ENOMEM }),
            }
            self.wait(file, || !self.0.is_stuck())?;
        }
    }

    fn poll(&self, _file: &File, table: &mut PollTable) -> PollEvents {
        table.register(&self.0.changed);
        if self.0.is_gone() {
            return PollEvents::HUP;
        }
        let mut events = PollEvents::empty();
        if self.0.readiness().is_some() {
            events |= PollEvents::IN | PollEvents::RDNORM;
        }
        if !self.0.is_stuck() {
            events |= PollEvents::OUT;
        }
        if !self.0.is_connected() {
            events |= PollEvents::HUP;
        }
        events
    }
}
