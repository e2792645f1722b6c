//! Registered files and buffers: looked up by index, without descriptors and page tables.
//!
//! A registered buffer's pages are pinned ([`mm::PinnedPage`]), so what the process maps there later changes nothing. They
//! count against `RLIMIT_MEMLOCK` of their user.

use alloc::sync::Arc;
use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::sync::SpinLock;
use hal::uio::FramePart;
use limits::{Resource, UserCounts, UserResource};
use mm::PinnedPage;
use security::Cap;
use vfs::File;

/// Most files of a table (Linux: `IORING_MAX_FIXED_FILES`).
pub(crate) const MAX_FILES: u32 = 1 << 20;
/// Most buffers of a table (Linux: `IORING_MAX_REG_BUFFERS`).
pub(crate) const MAX_BUFFERS: u32 = 1 << 14;
/// Longest buffer.
const MAX_LEN: u64 = 1 << 30;

/// Pages charged to a user, paid back when this ends.
pub(crate) struct PageCharge {
    user: Arc<UserCounts>,
    pages: u64,
}

impl PageCharge {
    /// `ENOMEM`: the caller's `RLIMIT_MEMLOCK`, unless it may lock what it likes.
    pub fn new(pages: u64) -> Result<Option<Self>> {
        let task = process::current();
        if task.with_cred(|cred| security::capable(cred, Cap::IPC_LOCK)) {
            return Ok(None);
        }
        let user = process::cred::user_of(task.with_cred(|cred| cred.uid));
        let limit = task.group().rlimits().cur(Resource::Memlock) / PAGE_SIZE as u64;
        if user.try_charge(UserResource::LockedPages, pages, limit) {
            Ok(Some(Self { user, pages }))
        } else {
            Err(Errno::ENOMEM)
        }
    }
}

impl Drop for PageCharge {
    fn drop(&mut self) {
        self.user.uncharge(UserResource::LockedPages, self.pages);
    }
}

/// A registered buffer.
pub(crate) struct FixedBuffer {
    addr: u64,
    len: u64,
    parts: Vec<FramePart>,
    _pins: Vec<PinnedPage>,
    _charge: Option<PageCharge>,
}

impl FixedBuffer {
    /// Pins the `len` bytes at `addr` of the caller.
    ///
    /// `EFAULT`: they are not there, may not be written, or their file cannot bear it. `ENOMEM`. May sleep.
    pub fn new(addr: u64, len: u64) -> Result<Arc<Self>> {
        let end = addr.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        if addr == 0 || len == 0 || len > MAX_LEN || end > hal::USER_END {
            return Err(Errno::EFAULT);
        }
        let page = PAGE_SIZE as u64;
        let nr = end.div_ceil(page) - addr / page;
        let charge = PageCharge::new(nr)?;
        let pins = process::current().mm().ok_or(Errno::EFAULT)?.pin_for_long(addr..end)?;
        let mut parts = Vec::new();
        parts.try_reserve_exact(pins.len()).map_err(|_| Errno::ENOMEM)?;
        let mut at = addr;
        for pin in &pins {
            let offset = (at % page) as usize;
            let here = (page - at % page).min(end - at);
            parts.push(FramePart { frame: pin.frame().clone(), offset, len: here as usize });
            at += here;
        }
        Ok(Arc::new(Self { addr, len, parts, _pins: pins, _charge: charge }))
    }

    /// Where `len` bytes at `addr` lie in it. `EFAULT`: not all of them do.
    pub fn offset_of(&self, addr: u64, len: usize) -> Result<usize> {
        let offset = addr.checked_sub(self.addr).ok_or(Errno::EFAULT)?;
        let end = offset.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end > self.len { Err(Errno::EFAULT) } else { Ok(offset as usize) }
    }

    /// The parts of frames that `len` bytes from `offset` on lie in, and what is to be skipped of the first. There may be
    /// a part more.
    pub fn parts(&self, offset: usize, len: usize) -> (&[FramePart], usize) {
        let first = self.parts.first().map_or(0, |part| part.len);
        let (idx, skip) = match offset.checked_sub(first) {
            None => (0, offset),
            Some(behind) => (1 + behind / PAGE_SIZE, behind % PAGE_SIZE),
        };
        let parts = self.parts.get(idx..).unwrap_or_default();
        // All but the first and the last of the buffer are whole pages.
        let nr = (skip + len).div_ceil(PAGE_SIZE) + 1;
        (parts.get(..nr).unwrap_or(parts), skip)
    }
}

/// A table with a lock; entries may be empty.
struct Table<T>(SpinLock<Option<Vec<Option<Arc<T>>>>>);

impl<T> Table<T> {
    const fn new(name: &'static str) -> Self {
        Self(SpinLock::new(name, None))
    }

    fn get(&self, at: u32, errno: Errno) -> Result<Arc<T>> {
        let table = self.0.lock();
        let entry = table.as_ref().and_then(|table| table.get(at as usize));
        entry.cloned().flatten().ok_or(errno)
    }

    /// `EBUSY`: there is one already.
    fn register(&self, new: Vec<Option<Arc<T>>>) -> Result<()> {
        let mut table = self.0.lock();
        if table.is_some() {
            return Err(Errno::EBUSY);
        }
        *table = Some(new);
        Ok(())
    }

    /// `ENXIO`: there is none. The entries end outside of the lock.
    fn unregister(&self) -> Result<()> {
        let old = self.0.lock().take();
        old.map(drop).ok_or(Errno::ENXIO)
    }

    /// How many entries there are; `None` without a table.
    fn len(&self) -> Option<usize> {
        self.0.lock().as_ref().map(Vec::len)
    }

    /// Replaces an entry; gives the old one. `EINVAL`: no such place.
    fn replace(&self, at: u32, new: Option<Arc<T>>) -> Result<Option<Arc<T>>> {
        let mut table = self.0.lock();
        let table = table.as_mut().ok_or(Errno::ENXIO)?;
        let entry = table.get_mut(at as usize).ok_or(Errno::EINVAL)?;
        Ok(core::mem::replace(entry, new))
    }
}

/// The files and buffers of a ring.
pub(crate) struct Fixed {
    files: Table<File>,
    buffers: Table<FixedBuffer>,
    /// Where places for files are looked for: first and end.
    range: SpinLock<(u32, u32)>,
}

impl Fixed {
    pub const fn new() -> Self {
        Self {
            files: Table::new("io_uring.files"),
            buffers: Table::new("io_uring.buffers"),
            range: SpinLock::new("io_uring.range", (0, u32::MAX)),
        }
    }

    /// The fixed file `at`. `EBADF`.
    pub fn file(&self, at: i32) -> Result<Arc<File>> {
        self.files.get(u32::try_from(at).map_err(|_| Errno::EBADF)?, Errno::EBADF)
    }

    /// The fixed buffer `at`. `EFAULT`.
    pub fn buffer(&self, at: u16) -> Result<Arc<FixedBuffer>> {
        self.buffers.get(u32::from(at), Errno::EFAULT)
    }

    pub fn register_files(&self, files: Vec<Option<Arc<File>>>) -> Result<()> {
        let nr = files.len() as u32;
        self.files.register(files)?;
        *self.range.lock() = (0, nr);
        Ok(())
    }

    pub fn register_buffers(&self, buffers: Vec<Option<Arc<FixedBuffer>>>) -> Result<()> {
        self.buffers.register(buffers)
    }

    pub fn unregister_files(&self) -> Result<()> {
        self.files.unregister()
    }

    pub fn unregister_buffers(&self) -> Result<()> {
        self.buffers.unregister()
    }

    pub fn nr_files(&self) -> Option<usize> {
        self.files.len()
    }

    pub fn nr_buffers(&self) -> Option<usize> {
        self.buffers.len()
    }

    pub fn replace_file(&self, at: u32, file: Option<Arc<File>>) -> Result<Option<Arc<File>>> {
        self.files.replace(at, file)
    }

    pub fn replace_buffer(&self, at: u32, buffer: Option<Arc<FixedBuffer>>) -> Result<()> {
        self.buffers.replace(at, buffer).map(drop)
    }

    /// Limits where [`install`](Self::install) looks for places. `EINVAL`, `EOVERFLOW`.
    pub fn set_range(&self, first: u32, len: u32) -> Result<()> {
        let end = first.checked_add(len).ok_or(Errno::EOVERFLOW)?;
        if end as usize > self.files.len().unwrap_or(0) {
            return Err(Errno::EINVAL);
        }
        *self.range.lock() = (first, end);
        Ok(())
    }

    /// Puts `file` into the place `index` - 1 and gives 0, or into any for `u32::MAX` and gives the place.
    ///
    /// `ENXIO`: no table. `EINVAL`: no such place. `ENFILE`: no place is free.
    pub fn install(&self, file: Arc<File>, index: u32) -> Result<usize> {
        if crate::ring::is_ring(&file) {
            return Err(Errno::EBADF);
        }
        if index != u32::MAX {
            let at = index.checked_sub(1).ok_or(Errno::EINVAL)?;
            let old = self.files.replace(at, Some(file))?;
            drop(old);
            return Ok(0);
        }
        let (first, end) = *self.range.lock();
        let mut table = self.files.0.lock();
        let table = table.as_mut().ok_or(Errno::ENXIO)?;
        let end = (end as usize).min(table.len());
        let free = (first as usize..end).find(|at| table.get(*at).is_some_and(Option::is_none));
        let free = free.ok_or(Errno::ENFILE)?;
        if let Some(place) = table.get_mut(free) {
            *place = Some(file);
        }
        Ok(free)
    }
}
