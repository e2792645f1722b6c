//! Block devices: whole disks and partitions, as file systems and /dev see them.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use mm::Mapping;

use crate::bio::{Bio, BioFlags, Most, Op};
use crate::disk::{Disk, Limits, Partition};
use crate::request::Request;
use crate::stats::{Snapshot, Stats};
use crate::{SECTOR_SHIFT, flush};

/// A disk or a partition.
pub struct BlockDevice {
    name: String,
    number: (u32, u32),
    disk: Arc<Disk>,
    /// The part of the disk that it is; `None` for all of it.
    partition: Option<Partition>,
    /// Length of the partition; it may be resized while in use.
    len: AtomicU64,
    is_read_only: AtomicBool,
    is_gone: AtomicBool,
    pub(crate) stats: Stats,
    /// Who uses it exclusively.
    holder: SpinLock<Option<&'static str>>,
    /// Open descriptions of /dev nodes and mounts.
    openers: AtomicU32,
    /// What user space set as its block size (`BLKBSZSET`).
    block_size: AtomicU32,
    pub(crate) cache: SpinLock<Option<Arc<Mapping>>>,
}

impl BlockDevice {
    pub(crate) fn new(
        disk: &Arc<Disk>,
        partition: Option<Partition>,
        number: (u32, u32),
    ) -> Arc<BlockDevice> {
        let base = &disk.info().name;
        let name = match &partition {
            None => base.clone(),
            // Names that end in a digit get a `p`: nvme0n1p1, loop0p1.
            Some(part) if base.ends_with(|c: char| c.is_ascii_digit()) => {
                alloc::format!("{base}p{}", part.index)
            }
            Some(part) => alloc::format!("{base}{}", part.index),
        };
        Arc::new(BlockDevice {
            name,
            number,
            disk: disk.clone(),
            len: AtomicU64::new(partition.as_ref().map_or(0, |part| part.len)),
            partition,
            is_read_only: AtomicBool::new(disk.info().is_read_only),
            is_gone: AtomicBool::new(false),
            stats: Stats::default(),
            holder: SpinLock::new("block.holder", None),
            openers: AtomicU32::new(0),
            block_size: AtomicU32::new(disk.limits().logical_block_size.max(512)),
            cache: SpinLock::new("block.cache", None),
        })
    }

    /// Name below /dev.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Major and minor number.
    pub fn number(&self) -> (u32, u32) {
        self.number
    }

    /// The number as `st_rdev` shows it.
    pub fn rdev(&self) -> u64 {
        abi::fs::makedev(self.number.0, self.number.1)
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The partition that it is; `None` for a whole disk.
    pub fn partition(&self) -> Option<&Partition> {
        self.partition.as_ref()
    }

    /// What the hardware can take.
    pub fn limits(&self) -> &Limits {
        self.disk.limits()
    }

    /// Bytes of a logical block.
    pub fn logical_block_size(&self) -> u32 {
        self.limits().logical_block_size
    }

    /// Checks an access past the caches: `len` bytes at byte `pos`, in memory whose addresses and lengths, or-ed, are
    /// `memory`. `EINVAL`: not whole logical blocks, or memory that the hardware cannot address.
    pub fn check_direct(&self, pos: u64, len: usize, memory: u64) -> Result<()> {
        let limits = self.limits();
        let blocks = u64::from(limits.logical_block_size).wrapping_sub(1);
        let bytes = u64::from(limits.dma_alignment).wrapping_sub(1);
        if (pos | len as u64) & blocks == 0 && memory & bytes == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Where it begins on the disk, in sectors.
    pub fn start(&self) -> u64 {
        self.partition.as_ref().map_or(0, |part| part.start)
    }

    /// Size in sectors.
    pub fn nr_sectors(&self) -> u64 {
        if self.partition.is_some() { self.len.load(Ordering::Acquire) } else { self.disk.capacity() }
    }

    /// Size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.nr_sectors().saturating_mul(1 << SECTOR_SHIFT)
    }

    /// Changes the size of a whole disk. Its cache is written out and made anew. May sleep.
    pub fn resize(self: &Arc<Self>, sectors: u64) {
        self.drop_cache();
        self.disk.set_capacity(sectors);
    }

    /// Changes a partition's length (`BLKPG_RESIZE_PARTITION`).
    pub(crate) fn set_nr_sectors(&self, sectors: u64) {
        self.len.store(sectors, Ordering::Release);
    }

    /// Is writing refused?
    pub fn is_read_only(&self) -> bool {
        self.is_read_only.load(Ordering::Relaxed)
    }

    /// Refuses writing, or allows it where the hardware does (`BLKROSET`). `EACCES`: the disk cannot be written.
    pub fn set_read_only(&self, on: bool) -> Result<()> {
        if !on && self.disk.info().is_read_only {
            return Err(Errno::EACCES);
        }
        self.is_read_only.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// The block size that user space sees and sets (`BLKBSZGET`, `st_blksize`).
    pub fn block_size(&self) -> u32 {
        self.block_size.load(Ordering::Relaxed)
    }

    /// Sets it. `EINVAL`: no power of two between the logical block size and a page.
    pub fn set_block_size(&self, size: u32) -> Result<()> {
        let range = self.logical_block_size()..=hal::PAGE_SIZE as u32;
        if !size.is_power_of_two() || !range.contains(&size) {
            return Err(Errno::EINVAL);
        }
        self.block_size.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Is it still there? A partition that was deleted or a removed disk is not.
    pub fn is_alive(&self) -> bool {
        !self.is_gone.load(Ordering::Acquire) && self.disk.is_alive()
    }

    pub(crate) fn set_gone(&self) {
        self.is_gone.store(true, Ordering::Release);
    }

    /// The counters.
    pub fn stats(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// Counts an opener; [`BlockDevice::close`] goes with it.
    pub fn open(&self) {
        self.openers.fetch_add(1, Ordering::AcqRel);
        self.disk.openers.fetch_add(1, Ordering::AcqRel);
    }

    /// An opener leaves. With the last one the cache is written out and dropped. May sleep.
    pub fn close(self: &Arc<Self>) {
        if self.nr_openers() == 1 {
            self.drop_cache();
        }
        self.openers.fetch_sub(1, Ordering::AcqRel);
        if self.disk.openers.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(whole) = crate::registry::whole_of(&self.disk)
        {
            self.disk.driver().closed(&whole);
        }
    }

    /// Number of openers.
    pub fn nr_openers(&self) -> u32 {
        self.openers.load(Ordering::Acquire)
    }

    /// Makes it the caller's alone until the claim is dropped: mounts and `O_EXCL`. Plain opens stay possible.
    /// `EBUSY`: someone has it, or the disk that it is part of.
    pub fn claim(self: &Arc<Self>, holder: &'static str) -> Result<Claim> {
        if crate::registry::is_claimed_elsewhere(self) {
            return Err(Errno::EBUSY);
        }
        let mut slot = self.holder.lock();
        if slot.is_some() {
            return Err(Errno::EBUSY);
        }
        *slot = Some(holder);
        drop(slot);
        self.open();
        Ok(Claim { device: self.clone() })
    }

    /// Who claimed it.
    pub fn holder(&self) -> Option<&'static str> {
        *self.holder.lock()
    }

    /// Starts `bio`, whose sectors count from the start of this device. It completes with the result; see the
    /// crate's front page. Sleeps while the device's queue is full, unless in atomic context.
    ///
    /// Results: `EIO`: beyond the end, or the hardware failed. `EROFS`: a write to a read-only device. `EOPNOTSUPP`:
    /// the device cannot discard or zero. `EINVAL`: not whole logical blocks. `EIO` too: it is gone.
    pub fn submit(self: &Arc<Self>, bio: Bio) {
        if let Some(bio) = self.prepare(bio) {
            self.start_bio(bio);
        }
    }

    /// Checks `bio`, moves it to its place on the disk, and puts flushes around it; `None`: it is under way.
    pub(crate) fn prepare(self: &Arc<Self>, mut bio: Bio) -> Option<Bio> {
        if let Err(errno) = self.check(&bio) {
            bio.complete(Err(errno));
            return None;
        }
        let needs_flush = self.disk.has_volatile_cache();
        if bio.op == Op::Write && bio.nr_sectors == 0 && bio.flags.contains(BioFlags::PREFLUSH) {
            bio.op = Op::Flush;
        }
        if bio.op == Op::Flush {
            if needs_flush {
                flush::submit(self, bio);
            } else {
                bio.complete(Ok(()));
            }
            return None;
        }
        if bio.nr_sectors == 0 {
            bio.complete(Ok(()));
            return None;
        }
        bio.sector += self.start();
        if bio.flags.contains(BioFlags::FUA) && !(needs_flush && self.limits().has_fua) {
            bio.flags -= BioFlags::FUA;
            if needs_flush {
                self.flush_after(&mut bio);
            }
        }
        if bio.flags.contains(BioFlags::PREFLUSH) {
            bio.flags -= BioFlags::PREFLUSH;
            if needs_flush {
                self.flush_before(bio);
                return None;
            }
        }
        Some(bio)
    }

    fn check(&self, bio: &Bio) -> Result<()> {
        if !self.is_alive() {
            return Err(Errno::EIO);
        }
        if bio.op.is_write() && self.is_read_only() {
            return Err(Errno::EROFS);
        }
        if bio.end_sector() > self.nr_sectors() {
            return Err(Errno::EIO);
        }
        let limits = self.limits();
        match bio.op {
            Op::Discard if limits.max_discard_sectors == 0 => return Err(Errno::EOPNOTSUPP),
            Op::WriteZeroes if limits.max_write_zeroes_sectors == 0 => return Err(Errno::EOPNOTSUPP),
            _ => {}
        }
        let mask = u64::from(limits.logical_block_size >> SECTOR_SHIFT).saturating_sub(1);
        if (bio.sector | bio.nr_sectors) & mask != 0 { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// `bio` completes when a flush after it did.
    fn flush_after(self: &Arc<Self>, bio: &mut Bio) {
        let device = self.clone();
        bio.wrap_done(move |result, done, segments| {
            let Some(done) = done else { return };
            if result.is_err() {
                return done(result, segments);
            }
            let segments: crate::bio::Segments = segments.iter().cloned().collect();
            flush::submit(&device, Bio::flush().on_done(move |result, _| done(result, &segments)));
        });
    }

    /// Starts `bio` when a flush has completed.
    fn flush_before(self: &Arc<Self>, bio: Bio) {
        let device = self.clone();
        flush::submit(
            self,
            Bio::flush().on_done(move |result, _| match result {
                Ok(()) => device.start_bio(bio),
                Err(errno) => bio.complete(Err(errno)),
            }),
        );
    }

    /// Starts a bio that [`BlockDevice::prepare`] gave.
    pub(crate) fn start_bio(self: &Arc<Self>, bio: Bio) {
        let most = self.disk.max_of(&bio);
        if bio.fits(most) {
            return self.start_piece(bio);
        }
        self.start_pieces(bio, most);
    }

    /// Starts the pieces of a bio that is too large for one request. Apart, as they take much of the stack.
    #[cold]
    #[inline(never)]
    fn start_pieces(self: &Arc<Self>, bio: Bio, most: Most) {
        for piece in bio.split(most) {
            self.start_piece(piece);
        }
    }

    fn start_piece(self: &Arc<Self>, bio: Bio) {
        if let Err(bio) = self.disk.merge(self, bio) {
            self.disk.issue(Request::new(self, bio));
        }
    }
}

impl core::fmt::Debug for BlockDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "BlockDevice({} {}:{})", self.name, self.number.0, self.number.1)
    }
}

/// Exclusive use of a device.
#[derive(Debug)]
pub struct Claim {
    device: Arc<BlockDevice>,
}

impl Claim {
    /// The device.
    pub fn device(&self) -> &Arc<BlockDevice> {
        &self.device
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.device.holder.lock() = None;
        self.device.close();
    }
}
