//! The line of a terminal: output in frames of its own, so that nothing is allocated where it must not be.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use hal::sync::IrqLock;
use tty::line::Line;

use crate::hub::{self, Frames, Hub};

/// Frames for output under way.
const FRAMES: usize = 16;
/// Those of them that a terminal does not count on, as the kernel's log takes some at any time.
const SPARE: usize = 4;

/// See the module's front page.
pub(crate) struct Console {
    hub: Weak<Hub>,
    id: u32,
    free: IrqLock<Vec<Frames>>,
}

impl Console {
    /// `ENOMEM`.
    pub(crate) fn new(hub: Weak<Hub>, id: u32) -> Result<Arc<Console>> {
        let mut free = Vec::new();
        for _ in 0..FRAMES {
            free.push(Vec::from([Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?]));
        }
        Ok(Arc::new(Console { hub, id, free: IrqLock::new("virtio.console.free", free) }))
    }

    /// Takes back what the device has sent.
    pub(crate) fn reclaim(&self) {
        let Some(hub) = self.hub.upgrade() else { return };
        let Some(lanes) = hub.lanes(self.id) else { return };
        while let Some((frames, _)) = hub::take(&lanes.tx) {
            // As many as were made.
            self.free.lock().push(frames);
        }
    }

    /// Sends at most a page. `None`: no room.
    fn send(&self, bytes: &[u8]) -> Option<usize> {
        let hub = self.hub.upgrade()?;
        let lanes = hub.lanes(self.id)?;
        let frames = self.free.lock().pop()?;
        let len = bytes.len().min(PAGE_SIZE);
        if let Some(frame) = frames.first() {
            frame.write(0, &bytes[..len]);
        }
        match hub::add(&lanes.tx, frames, len, false) {
            Ok(()) => Some(len),
            Err(back) => {
                self.free.lock().push(back);
                None
            }
        }
    }
}

impl Line for Console {
    fn write(&self, bytes: &[u8]) -> usize {
        if self.free.lock().len() < FRAMES {
            self.reclaim();
        }
        let mut done = 0;
        while done < bytes.len()
            && let Some(len) = self.send(&bytes[done..])
        {
            done += len;
        }
        done
    }

    fn write_room(&self) -> usize {
        if self.free.lock().len() <= SPARE {
            self.reclaim();
        }
        self.free.lock().len().saturating_sub(SPARE) * PAGE_SIZE
    }

    fn pending_output(&self) -> usize {
        self.reclaim();
        (FRAMES - self.free.lock().len().min(FRAMES)) * PAGE_SIZE
    }

    fn flush_output(&self) {
        // What the device has cannot be taken back.
    }
}
