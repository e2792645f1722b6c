//! A mounted file system: what all its inodes share.
//!
//! # Locks
//!
//! ```text
//! vfs Inode::sem
//!   Mapping::writing, filling      I/O on a file's pages; truncation holds both
//!     Fs::committing               one commit or checkpoint at a time
//!       Fs::gate                   operations inside the running transaction; they may do data I/O
//!         Fs::state                metadata: read to look, write to change
//!           cache, icache, dirty, Node::map, Node::reserved     spinlocks, leaves
//! ```
//!
//! Who is inside the gate takes no lock of a mapping and does not begin again: a commit waits for him.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::{Errno, Result};
use block::Claim;
use ext4_image::superblock::{self, Incompat};
use ext4_image::{Error, Layout, Seal};
use hal::sync::{Once, SpinLock};
use sched::{Mutex, RwSem, RwSemWriteGuard};
use vfs::device_mounts::OnError;
use vfs::{Inode, SuperBlock};

use crate::cache::Cache;
use crate::disk::Disk;
use crate::error::errno;
use crate::flight::Landing;
use crate::gate::{Gate, Pass};
use crate::icache::InodeCache;
use crate::journal::Journal;
use crate::options::Options;
use crate::state::{State, Txn, View};

/// Blocks that an operation may change at most; the running transaction has room for that many more.
pub(crate) const CREDITS: usize = 64;

/// See the module's front page.
pub(crate) struct Fs {
    pub(crate) layout: Layout,
    pub(crate) disk: Disk,
    pub(crate) cache: Cache,
    pub(crate) state: RwSem<State>,
    pub(crate) gate: Gate,
    pub(crate) committing: Mutex<Journal>,
    /// The newest transaction that is on disk.
    pub(crate) committed: AtomicU64,
    /// Blocks that the running transaction may have.
    pub(crate) max_running: usize,
    pub(crate) icache: InodeCache,
    /// Inodes with attributes or pages to write; they are kept alive here.
    pub(crate) dirty: SpinLock<BTreeMap<u32, Arc<Inode>>>,
    /// Blocks promised to dirty pages that have none yet.
    pub(crate) reserved: AtomicU64,
    /// Inodes without names that are in use.
    pub(crate) nr_orphans: AtomicU32,
    /// Inodes without names whose blocks are being freed.
    pub(crate) nr_evictions: AtomicU32,
    pub(crate) evicted: sched::WaitQueue,
    pub(crate) options: Mutex<Options>,
    /// Writing stopped after an error.
    pub(crate) is_aborted: AtomicBool,
    /// The device is gone; writing stopped, too.
    is_shut_down: AtomicBool,
    /// Damage was met: the superblock tells it to the next e2fsck.
    has_errors: AtomicBool,
    /// The superblock says that the journal has to be replayed.
    is_active: AtomicBool,
    activating: Mutex<()>,
    pub(crate) landing: Landing,
    pub(crate) generation: AtomicU32,
    pub(crate) sb: Once<Weak<SuperBlock>>,
    _claim: Option<Claim>,
}

/// Inside the running transaction; see [`Fs::begin`].
pub(crate) struct Handle<'a> {
    fs: &'a Fs,
    _pass: Pass<'a>,
}

/// The metadata, locked for a change.
pub(crate) struct Change<'a> {
    fs: &'a Fs,
    state: RwSemWriteGuard<'a, State>,
}

impl Change<'_> {
    pub(crate) fn txn(&mut self) -> Txn<'_> {
        Txn { fs: self.fs, state: &mut self.state }
    }
}

impl<'a> Handle<'a> {
    /// Locks the metadata.
    pub(crate) fn change(&self) -> Change<'a> {
        Change { fs: self.fs, state: self.fs.state.write() }
    }

    /// Changes metadata by `f`; an error that shows damage is handled as the mount options say.
    pub(crate) fn run<R>(&self, f: impl FnOnce(&Layout, &mut Txn<'_>) -> ext4_image::Result<R>) -> Result<R> {
        let mut change = self.change();
        let result = f(&self.fs.layout, &mut change.txn());
        drop(change);
        result.map_err(|error| self.fs.failed(error))
    }
}

impl Fs {
    #[inline(never)]
    pub(crate) fn new(
        layout: Layout,
        disk: Disk,
        journal: Journal,
        options: Options,
        claim: Option<Claim>,
    ) -> Arc<Self> {
        hal::in_place::arc(Self::build(layout, disk, journal, options, claim))
    }

    #[inline(never)]
    fn build(layout: Layout, disk: Disk, journal: Journal, options: Options, claim: Option<Claim>) -> Self {
        let max_running = journal.max_transaction();
        Self {
            cache: Cache::new(layout.block_size),
            layout,
            disk,
            state: RwSem::new("ext4.state", State { tid: 1, ..State::default() }),
            gate: Gate::new(),
            committing: Mutex::new("ext4.committing", journal),
            committed: AtomicU64::new(0),
            max_running,
            icache: InodeCache::new(),
            dirty: SpinLock::new("ext4.dirty", BTreeMap::new()),
            reserved: AtomicU64::new(0),
            nr_orphans: AtomicU32::new(0),
            nr_evictions: AtomicU32::new(0),
            evicted: sched::WaitQueue::new(),
            options: Mutex::new("ext4.options", options),
            is_aborted: AtomicBool::new(false),
            is_shut_down: AtomicBool::new(false),
            has_errors: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
            activating: Mutex::new("ext4.activating", ()),
            landing: Landing::new(),
            generation: AtomicU32::new(hal::time::now_ns() as u32 | 1),
            sb: Once::new(),
            _claim: claim,
        }
    }

    /// Reads metadata by `f`.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&Layout, &View<'_>) -> ext4_image::Result<R>) -> Result<R> {
        let state = self.state.read();
        let result = f(&self.layout, &View { fs: self, state: &state });
        drop(state);
        result.map_err(|error| self.failed(error))
    }

    /// `EIO`: the device is gone.
    #[inline]
    pub(crate) fn check_there(&self) -> Result<()> {
        // Relaxed: what is read just before the end may be read.
        if self.is_shut_down.load(Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Whether the device is gone.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.is_shut_down.load(Acquire)
    }

    /// `EROFS`: writing stopped after an error. `EIO`: the device is gone.
    pub(crate) fn check_writing(&self) -> Result<()> {
        if !self.is_aborted.load(Acquire) {
            return Ok(());
        }
        self.check_there().and(Err(Errno::EROFS))
    }

    /// The device goes: from here on nothing is read or written.
    pub(crate) fn shut_down(&self) {
        if !self.is_shut_down.swap(true, AcqRel) {
            log::error!("ext4 ({}): shut down", self.disk.device().name());
        }
        self.is_aborted.store(true, Release);
        self.forget_dirty();
    }

    /// The superblock of the VFS, while it is mounted.
    pub(crate) fn vfs_sb(&self) -> Option<Arc<SuperBlock>> {
        self.sb.get().and_then(Weak::upgrade)
    }

    /// Whether anything was changed since the file system was last quiet.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Acquire)
    }

    fn is_readonly(&self) -> bool {
        self.vfs_sb().is_some_and(|sb| sb.is_readonly())
    }

    /// Enters the running transaction. May wait for a commit; see the module's front page for what must not be held.
    ///
    /// `EROFS`: writing stopped after an error, or the file system is read-only. `EIO`: the device is gone.
    pub(crate) fn begin(&self) -> Result<Handle<'_>> {
        loop {
            self.check_writing()?;
            if !self.is_active.load(Acquire) {
                self.activate()?;
            }
            let pass = self.gate.enter();
            if !self.is_active.load(Acquire) {
                continue;
            }
            let (nr_running, tid) = {
                let state = self.state.read();
                (state.nr_running, state.tid)
            };
            if nr_running + CREDITS <= self.max_running {
                return Ok(Handle { fs: self, _pass: pass });
            }
            drop(pass);
            self.commit(tid)?;
        }
    }

    /// Notes in the superblock that the journal is in use, before the first change.
    fn activate(&self) -> Result<()> {
        let _one = self.activating.lock();
        if self.is_active.load(Acquire) {
            return Ok(());
        }
        if self.is_readonly() {
            return Err(Errno::EROFS);
        }
        // In this order: a log that is not empty is never without the flag.
        self.mark(Mark::InUse)?;
        self.committing.lock().mark_in_use(self)?;
        self.is_active.store(true, Release);
        Ok(())
    }

    /// Writes everything home and notes in the superblock that nothing has to be replayed.
    pub(crate) fn quiesce(&self) -> Result<()> {
        if !self.is_active.load(Acquire) && self.dirty.lock().is_empty() {
            return Ok(());
        }
        self.sync()?;
        let _one = self.activating.lock();
        if !self.is_active.load(Acquire) || self.is_aborted.load(Acquire) {
            return Ok(());
        }
        let journal = self.committing.lock();
        let _closed = self.gate.close();
        if !self.state.read().live.is_empty() {
            // Somebody was faster; the next sync will do it.
            return Ok(());
        }
        journal.mark_empty(self)?;
        self.mark(Mark::Clean)?;
        self.is_active.store(false, Release);
        Ok(())
    }

    /// Rewrites the superblock outside of transactions; nothing is running then that has it.
    fn mark(&self, mark: Mark) -> Result<()> {
        let mut state = self.state.write();
        let (nr, _) = self.layout.super_place();
        let mut txn = Txn { fs: self, state: &mut state };
        let has_journal = self.layout.journal_ino != 0;
        let has_errors = self.has_errors.load(Acquire);
        superblock::change(&self.layout, &mut txn, |sb| match mark {
            Mark::InUse if has_journal => sb.change_incompat(Incompat::RECOVER, Incompat::empty()),
            Mark::InUse => sb.state.set(sb.state.get() & !superblock::STATE_CLEAN),
            Mark::Clean => {
                sb.change_incompat(Incompat::empty(), Incompat::RECOVER);
                let errors = if has_errors { superblock::STATE_ERRORS } else { 0 };
                sb.state.set(sb.state.get() | superblock::STATE_CLEAN | errors);
                sb.wtime.set(vfs::time::now().tv_sec as u32);
            }
        })
        .and_then(|()| ext4_image::seal(&self.layout, &mut txn, nr, Seal::Super))
        .map_err(errno)?;
        let live = state.live.get(&nr).ok_or(Errno::EIO)?;
        self.disk.write_blocks(&[(nr, live.data.clone())], block::BioFlags::FUA)?;
        // It is home, unless an earlier transaction has it, too.
        if let Some(live) = state.live.remove(&nr) {
            state.nr_running -= usize::from(live.in_running);
            match live.committed {
                Some(committed) => {
                    let kept = crate::state::Live { committed: Some(committed), in_running: false, ..live };
                    state.live.insert(nr, kept);
                }
                None => drop(self.cache.insert(nr, live.data)),
            }
        }
        self.disk.flush()
    }

    /// What a program sees of `error`; damage, and metadata that cannot be read, are handled as the mount options say.
    pub(crate) fn failed(&self, error: Error) -> Errno {
        // What a device that is gone does not give is no damage.
        let is_gone = self.is_shut_down() || !self.disk.device().disk().is_alive();
        if is_gone && matches!(error, Error::Io | Error::Corrupt(_)) {
            return Errno::EIO;
        }
        let what = match error {
            Error::Corrupt(what) => what,
            Error::Io => "metadata cannot be read",
            _ => return errno(error),
        };
        log::error!("ext4 ({}): {what}", self.disk.device().name());
        self.has_errors.store(true, Release);
        match self.options.lock().on_error {
            OnError::Continue => {}
            OnError::RemountReadOnly => self.stop_writing(),
            OnError::Panic => {
                let name = self.disk.device().name();
                hal::power::stop(&format!("ext4 ({name}): panic forced after error: {what}"))
            }
        }
        errno(error)
    }

    /// Refuses all changes after an error. The mount stays one for writing; its options tell ("emergency_ro").
    fn stop_writing(&self) {
        if !self.is_aborted.swap(true, AcqRel) {
            log::error!("ext4 ({}): remounting read-only", self.disk.device().name());
        }
    }

    /// The journal cannot be written: nothing may change any more.
    pub(crate) fn abort(&self, why: Errno) {
        log::error!("ext4 ({}): the journal failed: {why:?}", self.disk.device().name());
        self.stop_writing();
    }
}

enum Mark {
    InUse,
    Clean,
}
