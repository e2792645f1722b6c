//! Block devices as places for swap.

use alloc::sync::Arc;

use abi::Result;
use block::{Bio, BlockDevice, SECTOR_SHIFT};
use hal::frame::Frame;
use hal::{PAGE_SHIFT, PAGE_SIZE};
use mm::swap::SwapDevice;

/// Pages of a bio at most.
const MAX_RUN: usize = 32;

pub(crate) struct SwapDisk {
    device: Arc<BlockDevice>,
}

impl SwapDisk {
    pub(crate) fn new(device: &Arc<BlockDevice>) -> Self {
        Self { device: device.clone() }
    }

    /// Moves `pages`, sorted by their slots: a request for each run of neighbours.
    fn transfer(&self, pages: &[(u64, Frame)], begin: fn(u64) -> Bio) -> Result<()> {
        for run in pages.chunk_by(|(a, _), (b, _)| a + 1 == *b).flat_map(|run| run.chunks(MAX_RUN)) {
            let Some((first, _)) = run.first() else { continue };
            let mut bio = begin(sector(*first));
            for (_, frame) in run {
                bio.add(frame.clone(), 0, PAGE_SIZE)?;
            }
            self.device.submit_and_wait(bio)?;
        }
        Ok(())
    }
}

fn sector(slot: u64) -> u64 {
    slot << (PAGE_SHIFT - SECTOR_SHIFT)
}

impl SwapDevice for SwapDisk {
    fn nr_pages(&self) -> u64 {
        self.device.len_bytes() >> PAGE_SHIFT
    }

    fn read(&self, slot: u64, frame: &Frame) -> Result<()> {
        let mut bio = Bio::read(sector(slot));
        bio.add(frame.clone(), 0, PAGE_SIZE)?;
        self.device.submit_and_wait(bio)
    }

    fn read_many(&self, pages: &[(u64, Frame)]) -> Result<()> {
        self.transfer(pages, Bio::read)
    }

    fn write(&self, pages: &[(u64, Frame)]) -> Result<()> {
        self.transfer(pages, Bio::write)
    }

    fn is_partition(&self) -> bool {
        true
    }
}
