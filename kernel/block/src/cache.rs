//! The page cache of a block device: what read(2) and write(2) on /dev/vda and file systems' metadata go through.

use alloc::sync::{Arc, Weak};

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::{Mapping, PageSource};

use crate::SECTOR_SHIFT;
use crate::bio::Bio;
use crate::device::BlockDevice;

struct DevicePages {
    device: Weak<BlockDevice>,
}

impl DevicePages {
    /// The device, and how many bytes of page `idx` it has.
    fn locate(&self, idx: u64) -> Result<(Arc<BlockDevice>, usize)> {
        let device = self.device.upgrade().ok_or(Errno::EIO)?;
        let left = device.len_bytes().saturating_sub(idx << PAGE_SHIFT);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(PAGE_SIZE);
        if len == 0 { Err(Errno::EIO) } else { Ok((device, len)) }
    }
}

impl PageSource for DevicePages {
    fn read_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        let (device, len) = self.locate(idx)?;
        frame.zero(len..PAGE_SIZE);
        let mut bio = Bio::read(idx << (PAGE_SHIFT - SECTOR_SHIFT));
        bio.add(frame.clone(), 0, len)?;
        device.submit_and_wait(bio)
    }

    fn write_page(&self, idx: u64, frame: &Frame) -> Result<()> {
        let (device, len) = self.locate(idx)?;
        let mut bio = Bio::write(idx << (PAGE_SHIFT - SECTOR_SHIFT));
        bio.add(frame.clone(), 0, len)?;
        device.submit_and_wait(bio)
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
