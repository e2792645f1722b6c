//! The page cache of a block device: what read(2) and write(2) on /dev/vda and file systems' metadata go through.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::{Mapping, PageSource, Reading};
use sched::Completion;

use crate::SECTOR_SHIFT;
use crate::bio::Bio;
use crate::device::BlockDevice;
use crate::outcome::FirstError;

struct DevicePages {
    device: Weak<BlockDevice>,
}

impl DevicePages {
    /// The device, and how many bytes it has of the `nr` pages from `first` on. `EIO`: nothing of one of them.
    fn locate(&self, first: u64, nr: usize) -> Result<(Arc<BlockDevice>, usize)> {
        let device = self.device.upgrade().ok_or(Errno::EIO)?;
        let left = device.len_bytes().saturating_sub(first << PAGE_SHIFT);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(nr * PAGE_SIZE);
        if len.div_ceil(PAGE_SIZE) < nr.max(1) { Err(Errno::EIO) } else { Ok((device, len)) }
    }

    /// A read of the pages from `first` on into `frames`, which are zeroed where the device ends before them.
    fn read(&self, first: u64, frames: &[Frame]) -> Result<(Arc<BlockDevice>, Bio)> {
        let (device, len) = self.locate(first, frames.len())?;
        for (frame, start) in frames.iter().zip((0..).step_by(PAGE_SIZE)).skip(len / PAGE_SIZE) {
            frame.zero(len.saturating_sub(start).min(PAGE_SIZE)..PAGE_SIZE);
        }
        let mut bio = Bio::read(first << (PAGE_SHIFT - SECTOR_SHIFT));
        bio.add_frames(frames, 0, len)?;
        Ok((device, bio))
    }

    /// Writes `frames` as the pages from `first` on.
    fn write(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let (device, len) = self.locate(first, frames.len())?;
        let mut bio = Bio::write(first << (PAGE_SHIFT - SECTOR_SHIFT));
        bio.add_frames(frames, 0, len)?;
        device.submit_and_wait(bio)
    }
}

/// A read that its reader does not wait for yet.
struct Ahead(Arc<Outcome>);

/// How it ends.
struct Outcome {
    error: FirstError,
    done: Completion,
}

impl Reading for Ahead {
    fn wait(self: Box<Self>) -> Result<()> {
        self.0.done.wait();
        self.0.error.outcome()
    }
}

impl PageSource for DevicePages {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.read_pages(idx, core::slice::from_ref(frame))
    }

    fn read_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let (device, bio) = self.read(first, frames)?;
        device.submit_and_wait(bio)
    }

    fn can_begin(&self) -> bool {
        true
    }

    fn begin_read(&self, first: u64, frames: &[Frame]) -> Result<Option<Box<dyn Reading>>> {
        let (device, bio) = self.read(first, frames)?;
        let outcome = Arc::new(Outcome { error: FirstError::new(), done: Completion::new() });
        let reading = Ahead(outcome.clone());
        device.submit(bio.on_done(move |result, _| {
            outcome.error.note(result);
            outcome.done.complete();
        }));
        Ok(Some(Box::new(reading)))
    }

    fn max_ahead(&self) -> usize {
        self.device.upgrade().map_or(1, |device| device.disk().read_ahead_pages())
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        self.write_pages(idx, core::slice::from_ref(frame))
    }

    fn write_pages(&self, first: u64, frames: &[Frame]) -> Result<()> {
        let result = self.write(first, frames);
        if result.is_ok() || frames.len() == 1 {
            return result;
        }
        // One of them, or the memory for all at once: each is tried, whatever becomes of the others.
        let mut result = Ok(());
        for (idx, frame) in (first..).zip(frames) {
            result = result.and(self.write(idx, core::slice::from_ref(frame)));
        }
        result
    }
}

impl BlockDevice {
    /// The page cache of the device, which lives while somebody has it open. Its size is the device's when the first
    /// opener asked for it.
    pub fn mapping(self: &Arc<Self>) -> Arc<Mapping> {
        let make = || {
            let source = Arc::new(DevicePages { device: Arc::downgrade(self) });
            Mapping::with_source(source, self.len_bytes())
        };
        if let Some(mapping) = self.cache.lock().as_ref() {
            return mapping.clone();
        }
        let new = make();
        self.cache.lock().get_or_insert(new).clone()
    }

    fn cached(&self) -> Option<Arc<Mapping>> {
        self.cache.lock().clone()
    }

    /// Writes out what is dirty in the cache and flushes the disk (fsync(2) on the device). May sleep.
    pub fn sync(self: &Arc<Self>) -> Result<()> {
        let written = match self.cached() {
            Some(mapping) => mapping.write_back(0..u64::MAX),
            None => Ok(()),
        };
        written.and(self.flush())
    }

    /// Writes the cache out and forgets it: nobody has the device open any more.
    pub(crate) fn drop_cache(self: &Arc<Self>) {
        let Some(mapping) = self.cached() else { return };
        if let Err(errno) = mapping.write_back(0..u64::MAX) {
            log::error!("{}: lost what was written: {errno}", self.name());
        }
        mapping.punch(0..u64::MAX);
        let mut cache = self.cache.lock();
        if cache.as_ref().is_some_and(|cached| Arc::ptr_eq(cached, &mapping)) {
            *cache = None;
        }
    }
}
