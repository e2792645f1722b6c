//! Transfers past the page cache that end by the disk's interrupt ([`vfs::direct`]): between blocks that the file has and the
//! caller's own memory.
//!
//! ```text
//! thread                                              interrupt                       sem held for writing
//!   sem for reading: count, find the blocks,
//!     write back or drop pages, ask the disk
//!   sem let go                                          done
//!                                                       (pages came: a worker drops them)
//!                                                       count back, wake              wait for the count to be 0: `settle`
//!                                                                                     free, move blocks
//! ```
//! The count says what `sem` says of transfers that their thread waits for: no block changes its owner meanwhile, and nobody
//! writes to pages of the cache, if who holds `sem` for writing waits for the count to be 0 first. He meets no new ones.
//! Stores through mappings, and write-back, go on. Who changes pages only, and no blocks, waits for writes (`settle_writes`): a
//! read that is under way gives what was there before.
//!
//! # The page cache
//!
//! Before a read what is dirty is written back. Before a write no page of the range is cached, none is being read, and nobody
//! writes any back. Pages that come in while it is under way may hold what was there before: each of them is counted
//! (`Node::nr_comings`) before its bytes are read, so an equal count at the end says that there are none. Otherwise they are
//! dropped, before the caller hears that the write is over.
//!
//! ```text
//!   page comes in                              write
//!     (A) count                                  (C) the device has it
//!     (B) read from the device                   (D) look at the count
//! ```
//! If D misses A, then C is before B: the page holds what was written.
//!
//! # The worker
//!
//! Each file system has one of its own ([`Landing`]), from the first such write on: it waits for write-back, which of a file
//! system on a loop device waits for transfers of the one below, and those for their worker.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

use abi::Result;
use block::{Bio, BioFlags, FirstError, SECTOR_SHIFT, SECTOR_SIZE};
use ext4_image::Error;
use ext4_image::extent::Mapping as Found;
use ext4_image::inode::flags;
use hal::sync::IrqLock;
use hal::uio::FramePart;
use sched::{Mutex, WaitQueue};
use smallvec::SmallVec;
use vfs::direct::{Begun, Direct, DirectJob};
use vfs::{Inode, RwKind};

use crate::direct::has_dropped;
use crate::file::mapping;
use crate::node::Node;

/// The transfers of a file that are under way.
pub(crate) struct Flights {
    nr: AtomicU32,
    /// Those of them that are writes.
    nr_writes: AtomicU32,
    landed: WaitQueue,
    /// Pages that were about to come into the cache, or to become dirty.
    nr_comings: AtomicU64,
}

impl Flights {
    pub(crate) const fn new() -> Self {
        let (nr, nr_writes) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { nr, nr_writes, landed: WaitQueue::new(), nr_comings: AtomicU64::new(0) }
    }

    /// Waits until none is under way. The inode's `sem` is held for writing, so that none begins.
    pub(crate) fn settle(&self) {
        if self.nr.load(SeqCst) > 0 {
            self.landed.wait(|| (self.nr.load(SeqCst) == 0).then_some(()));
        }
    }

    /// As [`settle`](Self::settle) for writes only: for who moves and frees no blocks.
    pub(crate) fn settle_writes(&self) {
        if self.nr_writes.load(SeqCst) > 0 {
            self.landed.wait(|| (self.nr_writes.load(SeqCst) == 0).then_some(()));
        }
    }

    /// Pages are about to come into the cache, or to become dirty.
    pub(crate) fn note_coming(&self) {
        self.nr_comings.fetch_add(1, SeqCst);
    }
}

/// A place in the counts.
struct Counted(Arc<Node>, RwKind);

impl Counted {
    fn new(node: &Arc<Node>, kind: RwKind) -> Self {
        node.flights.nr.fetch_add(1, SeqCst);
        if kind == RwKind::Write {
            node.flights.nr_writes.fetch_add(1, SeqCst);
        }
        Self(node.clone(), kind)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let flights = &self.0.flights;
        let is_last_write = self.1 == RwKind::Write && flights.nr_writes.fetch_sub(1, SeqCst) == 1;
        if flights.nr.fetch_sub(1, SeqCst) == 1 || is_last_write {
            flights.landed.wake_all();
        }
    }
}

/// Writes that a worker ends.
pub(crate) struct Landing {
    queue: Arc<LandingQueue>,
    has_worker: Mutex<bool>,
}

struct LandingQueue {
    /// The last that came leads to the one before.
    last: IrqLock<Option<Box<Slot>>>,
    came: WaitQueue,
    is_over: AtomicBool,
}

/// The place of a flight in the queue, made before it begins: an interrupt has no memory to take.
struct Slot {
    flight: Option<Flight>,
    before: Option<Box<Slot>>,
}

impl Landing {
    pub(crate) fn new() -> Self {
        let queue = Arc::new(LandingQueue {
            last: IrqLock::new("ext4.landing", None),
            came: WaitQueue::new(),
            is_over: AtomicBool::new(false),
        });
        Self { queue, has_worker: Mutex::new("ext4.landing_worker", false) }
    }

    /// A place for a flight, and a worker who looks after it. `None`: no memory. May sleep.
    fn slot(&self) -> Option<Box<Slot>> {
        let mut has_worker = self.has_worker.lock();
        if !*has_worker {
            let queue = self.queue.clone();
            sched::spawn("ext4-direct", move || queue.work()).ok()?;
            *has_worker = true;
        }
        drop(has_worker);
        Some(Box::new(Slot { flight: None, before: None }))
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.queue.is_over.store(true, SeqCst);
        self.queue.came.wake_all();
    }
}

impl LandingQueue {
    /// In any context.
    fn put(&self, mut slot: Box<Slot>) {
        let mut last = self.last.lock();
        slot.before = last.take();
        *last = Some(slot);
        drop(last);
        self.came.wake_all();
    }

    /// Ends flights as they come, until the file system has gone.
    fn work(&self) {
        while let Some(all) = self.came.wait(|| self.take()) {
            let mut next = Some(all);
            // The order does not matter: each has its own pages to see to.
            while let Some(mut slot) = next {
                next = slot.before.take();
                if let Some(flight) = slot.flight.take() {
                    flight.drop_pages();
                }
            }
        }
    }

    /// All that came; `Some(None)`: the file system has gone.
    fn take(&self) -> Option<Option<Box<Slot>>> {
        let all = self.last.lock().take();
        (all.is_some() || self.is_over.load(SeqCst)).then_some(all)
    }
}

/// A transfer under way. Each of its bios has a reference; with the last one it ends.
struct Flight {
    node: Counted,
    range: Range<u64>,
    /// [`Flights::nr_comings`] before pages were dropped.
    nr_comings: u64,
    /// A write's place with the worker.
    slot: Option<Box<Slot>>,
    error: FirstError,
    job: Box<dyn DirectJob>,
}

impl Flight {
    /// One of its bios is over, or its beginning.
    fn part_done(self: Arc<Self>, result: Result<()>) {
        self.error.note(result);
        if let Some(all) = Arc::into_inner(self) {
            all.end();
        }
    }

    fn end(mut self) {
        let is_alone = self.node.0.flights.nr_comings.load(SeqCst) == self.nr_comings;
        match self.slot.take() {
            Some(mut slot) if !is_alone => {
                let queue = self.node.0.fs.landing.queue.clone();
                slot.flight = Some(self);
                queue.put(slot);
            }
            _ => self.land(),
        }
    }

    /// Drops pages that came while it was under way, and ends it. May sleep.
    fn drop_pages(self) {
        if let Some(inode) = self.node.0.vfs.get().and_then(Weak::upgrade)
            && let Ok(mapping) = mapping(&inode)
            // Most pages that came are others of the file.
            && mapping.has_cached(self.range.clone())
        {
            // The bytes are written, whatever becomes of pages that others have stored to meanwhile.
            let _ = has_dropped(mapping, &self.range);
        }
        self.land();
    }

    fn land(self) {
        let Self { node, range, error, job, .. } = self;
        // The job holds the file and with it the node, until it is done.
        drop(node);
        job.done(error.outcome().map(|()| (range.end - range.start) as usize));
    }
}

/// Bytes of the file that lie together on the device.
struct Run {
    range: Range<u64>,
    /// Where on the device, in bytes; `None`: nowhere, they are zeroes.
    at: Option<u64>,
}

type Runs = SmallVec<[Run; 2]>;

/// Begins `direct`; see [`vfs::FileOps::begin_direct`].
pub(crate) fn begin(node: &Arc<Node>, inode: &Arc<Inode>, direct: Direct) -> Begun {
    let Some(range) = node.flying_range(inode, &direct) else { return Err(direct) };
    // From here on no block is taken away.
    let counted = Counted::new(node, direct.kind);
    let nr_comings = node.flights.nr_comings.load(SeqCst);
    let Ok(mapping) = mapping(inode) else { return Err(direct) };
    let is_ready = match direct.kind {
        RwKind::Read => mapping.write_back(range.clone()).is_ok(),
        RwKind::Write => has_dropped(mapping, &range) == Ok(true),
    };
    // Who waits for it hears of an error.
    let Some(runs) = is_ready.then(|| node.runs(range.clone(), direct.kind)).flatten() else {
        return Err(direct);
    };
    let Some(bios) = bios(direct.kind, &runs, direct.job.memory()) else { return Err(direct) };
    let slot = match direct.kind {
        RwKind::Read => None,
        RwKind::Write => match node.fs.landing.slot() {
            Some(slot) => Some(slot),
            None => return Err(direct),
        },
    };
    let (job, error) = (direct.job, FirstError::new());
    let flight = Arc::new(Flight { node: counted, range, nr_comings, slot, error, job });
    for bio in bios {
        let part = flight.clone();
        node.fs.disk.device().submit(bio.on_done(move |result, _| part.part_done(result)));
    }
    flight.part_done(Ok(()));
    Ok(())
}

/// The bios for `runs`, whose bytes are in `memory` one after another; holes are zeroed there. `None`: no memory.
fn bios(kind: RwKind, runs: &[Run], memory: &[FramePart]) -> Option<SmallVec<[Bio; 2]>> {
    let mut bios = SmallVec::new();
    let (mut parts, mut part, mut used) = (memory.iter(), None::<&FramePart>, 0);
    for run in runs {
        let mut left = (run.range.end - run.range.start) as usize;
        let mut bio = run.at.map(|at| match kind {
            RwKind::Read => Bio::read(at >> SECTOR_SHIFT),
            RwKind::Write => Bio::write(at >> SECTOR_SHIFT),
        });
        while left > 0 {
            let now = match part.filter(|part| used < part.len) {
                Some(now) => now,
                None => {
                    used = 0;
                    let next = parts.next()?;
                    part = Some(next);
                    next
                }
            };
            let len = left.min(now.len - used);
            match &mut bio {
                Some(bio) => bio.add(now.frame.clone(), now.offset + used, len).ok()?,
                None => now.frame.zero(now.offset + used..now.offset + used + len),
            }
            (used, left) = (used + len, left - len);
        }
        if let Some(bio) = bio {
            bios.try_reserve(1).ok()?;
            bios.push(bio.with_flags(BioFlags::SYNC));
        }
    }
    Some(bios)
}

impl Node {
    /// The bytes of the file that `direct` is about, if that can be a transfer of its own.
    ///
    /// A map of blocks does not tell of new ones that nothing is written to yet, as extents do.
    fn flying_range(&self, inode: &Inode, direct: &Direct) -> Option<Range<u64>> {
        let has_extents = self.flags.load(Acquire) & flags::EXTENTS != 0;
        // Writing has stopped: no handle would tell, as none is needed.
        let is_over = direct.kind == RwKind::Write && self.fs.is_aborted.load(Acquire);
        if !has_extents || !self.can_direct() || is_over {
            return None;
        }
        let (pos, alignment) = (direct.pos, direct.alignment());
        let end = direct.end().ok()?;
        let end = if direct.kind == RwKind::Read { end.min(inode.size()) } else { end };
        let len = usize::try_from(end.checked_sub(pos)?).ok()?;
        let device = self.fs.disk.device();
        // Each piece of memory is whole blocks, as a request may be cut between any two.
        let block = u64::from(device.logical_block_size()).max(SECTOR_SIZE as u64);
        let is_aligned = alignment.is_multiple_of(block)
            && device.check_direct(pos, direct.len, alignment).is_ok()
            && device.check_direct(pos, len, 0).is_ok();
        (len > 0 && is_aligned).then_some(pos..end)
    }

    /// Where the bytes `range` lie. `None`: a write meets some that are not written yet, or it cannot be told.
    fn runs(&self, range: Range<u64>, kind: RwKind) -> Option<Runs> {
        let bits = self.fs.layout.block_bits;
        let runs = self.look_at_blocks(|layout, view| {
            let (mut runs, mut at, mut raw) = (Runs::new(), range.start, None);
            while at < range.end {
                let block = at >> bits;
                let logical = u32::try_from(block).map_err(|_| Error::TooBig)?;
                let (len, physical) = match self.find(layout, view, &mut raw, logical)? {
                    Found::Extent(extent) => (extent.len, (!extent.is_unwritten).then_some(extent.physical)),
                    Found::Hole(len) => (len, None),
                };
                let end = ((block + u64::from(len)) << bits).min(range.end);
                if (kind == RwKind::Write && physical.is_none()) || end <= at {
                    return Ok(None);
                }
                runs.try_reserve(1).map_err(|_| Error::NoMemory)?;
                let on_device = physical.map(|physical| (physical << bits) + (at - (block << bits)));
                runs.push(Run { range: at..end, at: on_device });
                at = end;
            }
            Ok(Some(runs))
        });
        runs.ok().flatten().flatten()
    }
}
