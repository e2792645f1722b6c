//! The bytes of the volume that are metadata, in pages of memory: read once, written by [`Cache::flush`].
//!
//! The page cache of the device is not used: it is filled under the same kind of lock as those of files, whose pages cannot
//! be found without metadata. So who reads the device itself sees what was flushed, as with ext4 here.
//!
//! A cluster can be smaller than a page, so a page of a directory can hold the place of a file's data, too, which goes to
//! the device past this cache. Therefore a flush writes blocks, not pages:
//!
//! ```text
//!   page     [directory][file   ][file   ][directory] ..    8 sectors
//!   dirty     1          0        0        1                what a flush writes
//! ```
//! What is stale in a page is never read: a cluster that a directory gets is filled with zeroes first.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering::*};

use abi::{Errno, Result};
use block::{Bio, BioFlags, BlockDevice, SECTOR_SIZE};
use fat_image::{Error, Volume};
use hal::PAGE_SIZE;
use hal::frame::Frame;
use sched::Mutex;

/// Sectors of a page.
const SECTORS: usize = PAGE_SIZE / SECTOR_SIZE;
/// Clean pages that are kept.
const MAX_CLEAN: usize = 1024;
/// Dirty pages that may wait for a flush.
const MAX_DIRTY: usize = 1024;

struct Page {
    frame: Frame,
    /// Bytes that the device has of it.
    len: usize,
    /// A bit for each sector that differs from the device's.
    dirty: u8,
}

#[derive(Default)]
struct Pages {
    all: BTreeMap<u64, Page>,
    nr_dirty: usize,
}

/// See the module's front page.
pub(crate) struct Cache {
    device: Arc<BlockDevice>,
    pages: Mutex<Pages>,
    /// The device is gone: nothing is read or written any more, not even in memory.
    is_stopped: AtomicBool,
}

fn from_device(errno: Errno) -> Error {
    if errno == Errno::ENOMEM { Error::NoMemory } else { Error::Io }
}

impl Cache {
    pub(crate) fn new(device: &Arc<BlockDevice>) -> Self {
        Self {
            device: device.clone(),
            pages: Mutex::new("fat.cache", Pages::default()),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// The device goes: everything is `EIO` from here on. `false`: it was so already.
    pub(crate) fn stop(&self) -> bool {
        !self.is_stopped.swap(true, AcqRel)
    }

    /// `EIO`: the device is gone.
    pub(crate) fn check_there(&self) -> Result<()> {
        if self.is_stopped.load(Acquire) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Reads or writes the bytes `range` of page `idx`.
    fn transfer(&self, page: &Page, range: Range<usize>, mut bio: Bio) -> Result<()> {
        bio.add(page.frame.clone(), range.start, range.len())?;
        self.device.submit_and_wait(bio.with_flags(BioFlags::META))
    }

    /// Writes the sectors of page `idx` that are dirty, a run of them at a time.
    fn write(&self, idx: u64, page: &Page) -> Result<()> {
        let mut at = 0;
        while at < SECTORS {
            let len = (at..SECTORS).take_while(|nr| page.dirty & 1 << nr != 0).count();
            if len > 0 {
                let bio = Bio::write(idx * SECTORS as u64 + at as u64);
                self.transfer(page, at * SECTOR_SIZE..((at + len) * SECTOR_SIZE).min(page.len), bio)?;
            }
            at += len.max(1);
        }
        Ok(())
    }

    /// The bits of the sectors that bytes `range` of a page touch; whole blocks of the device.
    fn bits(&self, range: Range<usize>) -> u8 {
        let block = (self.device.logical_block_size() as usize).clamp(SECTOR_SIZE, PAGE_SIZE);
        let first = range.start / block * block / SECTOR_SIZE;
        let end = range.end.next_multiple_of(block).min(PAGE_SIZE) / SECTOR_SIZE;
        (first..end).fold(0, |bits, nr| bits | 1 << nr)
    }

    /// Page `idx`, read if it is not there.
    fn page<'a>(&self, pages: &'a mut Pages, idx: u64) -> Result<&'a mut Page> {
        if !pages.all.contains_key(&idx) {
            let left = self.device.len_bytes().saturating_sub(idx * PAGE_SIZE as u64);
            let len = left.min(PAGE_SIZE as u64) as usize;
            if len == 0 {
                return Err(Errno::EIO);
            }
            let page = Page { frame: mm::oom::alloc()?, len, dirty: 0 };
            self.transfer(&page, 0..len, Bio::read(idx * SECTORS as u64))?;
            if pages.all.len() - pages.nr_dirty >= MAX_CLEAN {
                pages.all.retain(|_, page| page.dirty != 0);
            }
            pages.all.insert(idx, page);
        }
        pages.all.get_mut(&idx).ok_or(Errno::EIO)
    }

    fn flush_pages(&self, pages: &mut Pages) -> Result<()> {
        let mut result = Ok(());
        let Pages { all, nr_dirty } = pages;
        for (&idx, page) in all.iter_mut().filter(|(_, page)| page.dirty != 0) {
            match self.write(idx, page) {
                Ok(()) => {
                    page.dirty = 0;
                    *nr_dirty -= 1;
                }
                Err(errno) => result = Err(errno),
            }
        }
        result
    }

    /// Writes what is dirty. It is durable after the device's next flush.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_there()?;
        self.flush_pages(&mut self.pages.lock())
    }

    /// Runs `f` on the pieces of `len` bytes at `pos`: the page, the offset in it, the offset in the bytes, the length.
    fn pieces(
        &self,
        pos: u64,
        len: usize,
        mut f: impl FnMut(&mut Page, usize, usize, usize),
    ) -> fat_image::Result<()> {
        self.check_there().map_err(from_device)?;
        let mut pages = self.pages.lock();
        let mut done = 0;
        while done < len {
            let at = pos.checked_add(done as u64).ok_or(Error::Io)?;
            let offset = (at % PAGE_SIZE as u64) as usize;
            let part = (PAGE_SIZE - offset).min(len - done);
            let page = self.page(&mut pages, at / PAGE_SIZE as u64).map_err(from_device)?;
            if offset + part > page.len {
                return Err(Error::Io);
            }
            let was_dirty = page.dirty != 0;
            f(page, offset, done, part);
            let is_new = page.dirty != 0 && !was_dirty;
            pages.nr_dirty += usize::from(is_new);
            done += part;
        }
        if pages.nr_dirty > MAX_DIRTY {
            self.flush_pages(&mut pages).map_err(from_device)?;
        }
        Ok(())
    }
}

impl Volume for Cache {
    fn read(&self, pos: u64, buf: &mut [u8]) -> fat_image::Result<()> {
        self.pieces(pos, buf.len(), |page, offset, done, part| {
            if let Some(buf) = buf.get_mut(done..done + part) {
                page.frame.read(offset, buf);
            }
        })
    }

    fn write(&self, pos: u64, bytes: &[u8]) -> fat_image::Result<()> {
        self.pieces(pos, bytes.len(), |page, offset, done, part| {
            if let Some(bytes) = bytes.get(done..done + part) {
                page.frame.write(offset, bytes);
                page.dirty |= self.bits(offset..offset + part);
            }
        })
    }

    fn forget(&self, pos: u64, len: u32) {
        let mut pages = self.pages.lock();
        let Pages { all, nr_dirty } = &mut *pages;
        let end = pos.saturating_add(len.into());
        for (&idx, page) in all.range_mut(pos / PAGE_SIZE as u64..end.div_ceil(PAGE_SIZE as u64)) {
            let base = idx * PAGE_SIZE as u64;
            let range = pos.saturating_sub(base) as usize..(end - base).min(PAGE_SIZE as u64) as usize;
            let was_dirty = page.dirty != 0;
            page.dirty &= !self.bits(range);
            *nr_dirty -= usize::from(was_dirty && page.dirty == 0);
        }
    }
}
