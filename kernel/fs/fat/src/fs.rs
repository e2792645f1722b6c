//! A mounted volume: what all its inodes share.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::{Errno, Result};
use block::{BlockDevice, Claim};
use fat_image::{Error, Layout, Table};
use hal::sync::{Once, SpinLock};
use sched::{Mutex, MutexGuard, WaitQueue};
use vfs::device_mounts::OnError;
use vfs::{Inode, SuperBlock};

use crate::cache::Cache;
use crate::options::Options;

/// What [`Fs::meta`] guards: the table, and by it directories and the clusters of all inodes.
pub(crate) struct Meta {
    pub(crate) table: Table,
}

/// See the module's front page.
pub(crate) struct Fs {
    pub(crate) layout: Layout,
    pub(crate) device: Arc<BlockDevice>,
    pub(crate) volume: Cache,
    pub(crate) meta: Mutex<Meta>,
    /// Inodes in memory, by the place of their records.
    pub(crate) known: SpinLock<BTreeMap<u64, Weak<Inode>>>,
    /// The number of the next inode.
    pub(crate) next_ino: AtomicU64,
    /// Of this mount, in handles: the numbers begin anew with each.
    pub(crate) generation: u32,
    /// Inodes with dirty pages; they are kept alive here.
    pub(crate) dirty: SpinLock<BTreeMap<usize, Arc<Inode>>>,
    /// Inodes without names whose clusters are being freed.
    pub(crate) nr_evictions: AtomicU32,
    pub(crate) evicted: WaitQueue,
    pub(crate) options: Mutex<Options>,
    pub(crate) sb: Once<Weak<SuperBlock>>,
    /// The volume is noted to be in use.
    pub(crate) is_marked: AtomicBool,
    /// It was in use when it was mounted, or damage was found: it stays noted so until fsck.fat has seen it.
    pub(crate) is_damaged: AtomicBool,
    pub(crate) _claim: Option<Claim>,
}

/// What a program sees of `error`.
pub(crate) fn errno(error: Error) -> Errno {
    match error {
        Error::Corrupt(_) | Error::Io => Errno::EIO,
        Error::Unsupported(_) => Errno::EINVAL,
        Error::NoSpace => Errno::ENOSPC,
        Error::NoMemory => Errno::ENOMEM,
        Error::NoName => Errno::ENOENT,
        Error::BadName => Errno::EINVAL,
        Error::NameTooLong => Errno::ENAMETOOLONG,
    }
}

impl Fs {
    /// Runs `f` on the metadata; damage is reported, and stops all writing.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Meta) -> fat_image::Result<R>) -> Result<R> {
        let mut meta = self.meta.lock();
        let result = f(&mut meta);
        drop(meta);
        result.map_err(|error| self.failed(error))
    }

    /// Locks the metadata.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock()
    }

    /// What a program sees of `error`; damage has the consequences that were asked for when mounting.
    pub(crate) fn failed(&self, error: Error) -> Errno {
        if let Error::Corrupt(what) = error {
            self.is_damaged.store(true, Relaxed);
            let name = self.device.name();
            log::error!("FAT-fs ({name}): error, {what}");
            let on_error = self.options.lock().on_error;
            match on_error {
                OnError::Continue => {}
                OnError::Panic => {
                    hal::power::stop(&format!("FAT-fs ({name}): panic forced after error: {what}"))
                }
                OnError::RemountReadOnly => self.set_read_only(),
            }
        }
        errno(error)
    }

    fn set_read_only(&self) {
        if let Some(sb) = self.sb.get().and_then(Weak::upgrade)
            && !sb.is_readonly()
        {
            log::error!("FAT-fs ({}): Filesystem has been set read-only", self.device.name());
            sb.set_flags(sb.flags() | vfs::superblock::SbFlags::RDONLY);
        }
        self.forget_dirty();
    }

    /// The device goes: from here on nothing is read or written.
    pub(crate) fn shut_down(&self) {
        if self.volume.stop() {
            log::error!("FAT-fs ({}): shut down", self.device.name());
        }
        self.forget_dirty();
    }

    /// Lets go of inodes whose pages will not be written any more: they keep the superblock, and that keeps this.
    pub(crate) fn forget_dirty(&self) {
        let gone = core::mem::take(&mut *self.dirty.lock());
        drop(gone);
    }

    /// Notes on the volume that it is in use, or is not any more.
    pub(crate) fn mark(&self, is_used: bool) -> Result<()> {
        if self.is_damaged.load(Relaxed) || self.is_marked.load(Acquire) == is_used {
            return Ok(());
        }
        self.layout.set_dirty(&self.volume, is_used).map_err(errno)?;
        self.is_marked.store(is_used, Release);
        Ok(())
    }

    /// Has all of it durable, and only then noted to be clean.
    pub(crate) fn close(&self) -> Result<()> {
        self.sync()?;
        self.mark(false)?;
        self.flush()
    }

    /// Writes dirty files, then the metadata, and has them durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let mut result = Ok(());
        let dirty = core::mem::take(&mut *self.dirty.lock());
        for inode in dirty.values() {
            if let Some(mapping) = inode.mapping() {
                result = result.and(mapping.write_back(0..u64::MAX));
            }
        }
        drop(dirty);
        self.wait_for_evictions();
        let stored = self.with(|meta| meta.table.store(&self.layout, &self.volume));
        result.and(stored).and(self.flush())
    }

    /// Has the metadata durable.
    pub(crate) fn flush(&self) -> Result<()> {
        // No change of names is written in halves.
        let meta = self.lock();
        let written = self.volume.flush();
        drop(meta);
        written.and(self.device.flush())
    }

    /// Waits until clusters of files without names are free.
    pub(crate) fn wait_for_evictions(&self) {
        self.evicted.wait(|| (self.nr_evictions.load(SeqCst) == 0).then_some(()));
    }
}
