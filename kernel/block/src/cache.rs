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
        let device = self.device.upgrade().ok_or(Errno::ENODEV)?;
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
    /// The page cache of the device. Its size is the device's when it was first asked for.
    pub fn mapping(self: &Arc<Self>) -> &Arc<Mapping> {
        self.cache.call_once(|| {
            let source = Arc::new(DevicePages { device: Arc::downgrade(self) });
            Arc::new(Mapping::new_source(source, self.len_bytes()))
        })
    }

    /// Writes out what is dirty in the cache and flushes the disk (fsync(2) on the device). May sleep.
    pub fn sync(self: &Arc<Self>) -> Result<()> {
        let written = match self.cache.get() {
            Some(mapping) => mapping.write_back(0..u64::MAX),
            None => Ok(()),
        };
        written.and(self.flush())
    }
}
