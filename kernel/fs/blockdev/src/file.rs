//! An open block device.

use alloc::sync::Arc;

use abi::fs::OpenFlags;
use abi::{Errno, Result};
use block::{BioFlags, BlockDevice, Claim};
use hal::uio::{Dest, Src};
use mm::Mapping;
use vfs::file::ShowPart;
use vfs::{File, FileMode, FileOps, OpenRequest, RwKind, SyncMode, Whence};

use crate::swap::SwapDisk;
use crate::{direct, ioctl};

// fallocate(2) mode flags.
const KEEP_SIZE: u32 = 1;
const PUNCH_HOLE: u32 = 2;
const ZERO_RANGE: u32 = 0x10;

/// An open block device: counted as an opener from [`BlockFile::open`] until it is dropped.
pub(crate) struct BlockFile {
    device: Arc<BlockDevice>,
    /// With `O_EXCL`.
    _claim: Option<Claim>,
}

impl BlockFile {
    /// Opens `device`. `EBUSY`: `O_EXCL`, and somebody else has it. `EACCES`: write access to what cannot be written.
    pub(crate) fn open(device: &Arc<BlockDevice>, request: &OpenRequest<'_>) -> Result<BlockFile> {
        if request.flags.can_write() && device.disk().info().is_read_only {
            return Err(Errno::EACCES);
        }
        let claim = if request.flags.contains(OpenFlags::EXCL) { Some(device.claim("open")?) } else { None };
        device.open();
        Ok(BlockFile { device: device.clone(), _claim: claim })
    }

    pub(crate) fn device(&self) -> &Arc<BlockDevice> {
        &self.device
    }

    pub(crate) fn mapping(&self) -> Arc<Mapping> {
        self.device.mapping()
    }

    fn is_direct(&self, file: &File) -> bool {
        file.flags().contains(OpenFlags::DIRECT)
    }

    /// Writes out and drops what the cache holds of `start..end`.
    pub(crate) fn drop_cached(&self, start: u64, end: u64) -> Result<()> {
        let page = hal::PAGE_SIZE as u64;
        let range = start / page * page..end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        let mapping = self.mapping();
        mapping.write_back(range.clone())?;
        mapping.punch(range);
        Ok(())
    }

    fn require_alive(&self) -> Result<()> {
        if self.device.is_alive() { Ok(()) } else { Err(Errno::EIO) }
    }
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        self.device.close();
    }
}

impl FileOps for BlockFile {
    fn swap_device(&self, _file: &File) -> Result<Arc<dyn mm::swap::SwapDevice>> {
        // What was written through the cache, such as the header, must be on the device.
        self.mapping().write_back(0..u64::MAX)?;
        Ok(Arc::new(SwapDisk::new(self.device())))
    }

    fn mode(&self) -> FileMode {
        FileMode::SEEK | FileMode::NOWAIT
    }

    fn nowait(&self, file: &File, access: RwKind, pos: u64, len: usize) -> Result<usize> {
        let mapping = self.mapping();
        match access {
            _ if self.is_direct(file) => {
                let page = hal::PAGE_SIZE as u64;
                let cached = mapping.count_pages(pos / page..pos.saturating_add(len as u64).div_ceil(page));
                let in_the_way = if access == RwKind::Read { cached.dirty } else { cached.cached };
                if in_the_way == 0 { Ok(len) } else { Err(Errno::EAGAIN) }
            }
            RwKind::Read => vfs::rw::cached_prefix(&mapping, pos, len),
            RwKind::Write => Err(Errno::EOPNOTSUPP),
        }
    }

    fn read(&self, file: &File, dst: &mut Dest<'_>, pos: u64) -> Result<usize> {
        // A disk that is gone is empty.
        let left = self.device.len_bytes().saturating_sub(pos);
        if left == 0 {
            return Ok(0);
        }
        self.require_alive()?;
        dst.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if self.is_direct(file) {
            return direct::read(self, dst, pos);
        }
        self.mapping().read(pos, dst)
    }

    fn write(&self, file: &File, src: &mut Src<'_>, pos: u64) -> Result<usize> {
        if self.device.is_read_only() {
            return Err(Errno::EPERM);
        }
        if src.remaining() == 0 {
            return Ok(0);
        }
        let left = self.device.len_bytes().saturating_sub(pos);
        if left == 0 {
            return Err(Errno::ENOSPC);
        }
        self.require_alive()?;
        src.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let done = if self.is_direct(file) {
            direct::write(self, src, pos)?
        } else {
            self.mapping().write(pos, src)?
        };
        if file.flags().intersects(OpenFlags::DSYNC) && done > 0 {
            self.mapping().write_back(pos..pos.saturating_add(done as u64))?;
            self.device.flush()?;
        }
        Ok(done)
    }

    fn sync_range(&self, _file: &File, range: core::ops::Range<u64>) -> Result<()> {
        self.mapping().write_back(range)
    }

    fn share(&self, file: &File, pos: u64, len: usize, each: &mut ShowPart<'_>) -> Result<usize> {
        if self.is_direct(file) {
            return Ok(0);
        }
        self.mapping().share(pos, len, each)
    }

    fn ioctl(&self, file: &Arc<File>, cmd: u32, arg: usize) -> Result<usize> {
        ioctl::ioctl(self, file, cmd, hal::UserAddr(arg as u64))
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let size = self.device.len_bytes();
        let from = match whence {
            Whence::Set => 0,
            Whence::Cur => file.pos(),
            Whence::End => size,
            Whence::Data | Whence::Hole => {
                let at = u64::try_from(offset).ok().filter(|at| *at < size).ok_or(Errno::ENXIO)?;
                let to = if whence == Whence::Data { at } else { size };
                file.set_pos(to);
                return Ok(to);
            }
        };
        let to = from.checked_add_signed(offset).filter(|to| *to <= size).ok_or(Errno::EINVAL)?;
        file.set_pos(to);
        Ok(to)
    }

    fn fsync(&self, _file: &File, _mode: SyncMode) -> Result<()> {
        self.device.sync()
    }

    fn fallocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result<()> {
        let flags = match mode {
            m if m == ZERO_RANGE || m == ZERO_RANGE | KEEP_SIZE => BioFlags::NO_UNMAP,
            m if m == PUNCH_HOLE | KEEP_SIZE => BioFlags::empty(),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let mask = u64::from(self.device.logical_block_size()) - 1;
        let size = self.device.len_bytes();
        if offset >= size {
            return Err(Errno::EINVAL);
        }
        let end = offset.saturating_add(len);
        if end > size && mode & KEEP_SIZE == 0 {
            return Err(Errno::EINVAL);
        }
        let end = end.min(size);
        if (offset | end) & mask != 0 {
            return Err(Errno::EINVAL);
        }
        self.drop_cached(offset, end)?;
        let (sector, nr) = (offset >> block::SECTOR_SHIFT, (end - offset) >> block::SECTOR_SHIFT);
        let zeroed = self.device.write_zeroes(sector, nr, flags);
        // What was read meanwhile is old.
        let dropped = self.drop_cached(offset, end);
        zeroed.and(dropped)
    }

    fn check_flags(&self, _file: &File, _flags: OpenFlags) -> Result<()> {
        Ok(())
    }
}
