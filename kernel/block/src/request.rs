//! Requests: one or more merged bios on their way through a driver.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};

use crate::bio::{Bio, BioFlags, Op, Segment};
use crate::device::BlockDevice;
use crate::disk::Limits;
use crate::elevator::Item;

/// What a driver executes: an operation on consecutive sectors of the disk. Ends by [`Request::complete`].
pub struct Request {
    device: Arc<BlockDevice>,
    op: Op,
    flags: BioFlags,
    sector: u64,
    nr_sectors: u64,
    nr_segments: usize,
    nr_gaps: usize,
    start_ns: u64,
    /// Empty only when completed.
    bios: Vec<Bio>,
}

impl Request {
    /// A request of one bio, whose sectors count from the start of the disk. Its clock starts.
    pub(crate) fn new(device: &Arc<BlockDevice>, bio: Bio) -> Request {
        let start_ns = hal::time::now_ns();
        device.stats.start(bio.op, start_ns);
        Request {
            device: device.clone(),
            op: bio.op,
            flags: bio.flags,
            sector: bio.sector,
            nr_sectors: bio.nr_sectors,
            nr_segments: bio.segments.len(),
            nr_gaps: bio.nr_gaps,
            start_ns,
            bios: Vec::from([bio]),
        }
    }

    /// The operation.
    pub fn op(&self) -> Op {
        self.op
    }

    /// How to do it; all bios of a request agree.
    pub fn flags(&self) -> BioFlags {
        self.flags
    }

    /// The first sector, from the start of the disk.
    pub fn sector(&self) -> u64 {
        self.sector
    }

    /// How many sectors.
    pub fn nr_sectors(&self) -> u64 {
        self.nr_sectors
    }

    /// When it was made, on the monotonic clock.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// Where the data is, in the order of the sectors.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> + Clone {
        self.bios.iter().flat_map(|bio| bio.segments.iter())
    }

    /// Number of segments.
    pub fn nr_segments(&self) -> usize {
        self.nr_segments
    }

    /// Appends `bio` if it continues this request and fits.
    pub(crate) fn try_merge(
        &mut self,
        device: &Arc<BlockDevice>,
        bio: Bio,
        limits: &Limits,
    ) -> Result<(), Bio> {
        let nr_gaps = self.nr_gaps + self.bios.last().map_or(0, |last| bio.nr_gaps_after(last));
        let fits = self.op.has_data()
            && self.op == bio.op
            && self.flags.difference(BioFlags::SYNC) == bio.flags.difference(BioFlags::SYNC)
            && !self.flags.contains(BioFlags::NO_MERGE)
            && self.sector.checked_add(self.nr_sectors) == Some(bio.sector)
            && self.nr_sectors + bio.nr_sectors <= u64::from(limits.max_sectors)
            && self.nr_segments + bio.segments.len() <= usize::from(limits.max_segments)
            && nr_gaps <= usize::from(limits.max_gaps)
            && Arc::ptr_eq(&self.device, device)
            && self.bios.try_reserve(1).is_ok();
        if !fits {
            return Err(bio);
        }
        device.stats.merged(bio.op);
        self.nr_sectors += bio.nr_sectors;
        self.nr_segments += bio.segments.len();
        self.nr_gaps = nr_gaps;
        self.bios.push(bio);
        Ok(())
    }

    /// The device finished it. Runs the bios' `done`; usable in interrupt context, with no lock held.
    pub fn complete(mut self, result: Result<()>) {
        self.finish(result);
    }

    fn finish(&mut self, result: Result<()>) {
        let bios = core::mem::take(&mut self.bios);
        if bios.is_empty() {
            return;
        }
        let now_ns = hal::time::now_ns();
        self.device.stats.end(self.op, self.nr_sectors, self.start_ns, now_ns);
        let retry = result == Err(Errno::EIO) && bios.len() > 1 && self.device.disk().is_alive();
        for mut bio in bios {
            if retry {
                bio.flags |= BioFlags::NO_MERGE;
                self.device.disk().issue(Request::new(&self.device, bio));
            } else {
                bio.complete(result);
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.finish(Err(Errno::EIO));
    }
}

impl Item for Request {
    fn sector(&self) -> u64 {
        self.sector
    }

    fn end_sector(&self) -> u64 {
        self.sector + self.nr_sectors
    }

    fn is_read(&self) -> bool {
        self.op == Op::Read
    }

    fn start_ns(&self) -> u64 {
        self.start_ns
    }
}

impl core::fmt::Debug for Request {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Request({:?} {}+{} {:?})", self.op, self.sector, self.nr_sectors, self.flags)
    }
}
