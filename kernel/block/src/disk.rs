//! Disks: what a driver makes.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::sync::IrqLock;
use hal::{PAGE_SIZE, UserAddr};
use sched::WaitQueue;

use crate::bio::{Bio, Most};
use crate::device::BlockDevice;
use crate::elevator::Deadline;
use crate::flush::FlushQueue;
use crate::request::Request;

/// Requests that may wait in one queue before submitters sleep (Linux: `nr_requests`).
pub const MAX_WAITING: usize = 256;

/// What a driver must know of who calls ioctl(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Has it `CAP_SYS_ADMIN`?
    pub is_admin: bool,
    /// Is the device open for writing?
    pub can_write: bool,
}

/// Executes requests.
pub trait Driver: Send + Sync {
    /// Starts `request` on hardware queue `hw`, or gives it back when there is no room; then some request is under
    /// way there, and the driver calls [`Disk::run`] after it completes.
    ///
    /// Called in any context, with no lock of this crate held. The device may be told later, by [`Driver::kick`].
    fn queue(&self, hw: usize, request: Request) -> Result<(), Request>;

    /// Tells the device about the requests queued so far.
    fn kick(&self, hw: usize) {
        let _ = hw;
    }

    /// The disk's serial number.
    fn serial(&self) -> Option<String> {
        None
    }

    /// Attributes that /sys/block/DISK shows in a directory of the driver's own: its name, their names and values.
    fn attributes(&self) -> Option<(&'static str, Vec<(&'static str, String)>)> {
        None
    }

    /// An ioctl(2) on a device of the disk that the block layer does not know. `ENOTTY`: neither does the driver.
    fn ioctl(&self, device: &Arc<BlockDevice>, caller: &Caller, cmd: u32, arg: UserAddr) -> Result<usize> {
        let _ = (device, caller, cmd, arg);
        Err(Errno::ENOTTY)
    }

    /// The last opener of the disk (`whole`) and its partitions goes. May sleep.
    fn closed(&self, whole: &Arc<BlockDevice>) {
        let _ = whole;
    }
}

/// What the hardware can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest unit that can be addressed, a power of two from 512.
    pub logical_block_size: u32,
    /// What addresses and lengths of memory must be multiples of, a power of two.
    pub dma_alignment: u32,
    /// Unit that can be written without reading.
    pub physical_block_size: u32,
    /// Preferred smallest and best size of an access in bytes; 0 when unknown.
    pub io_min: u32,
    /// See `io_min`.
    pub io_opt: u32,
    /// Largest request in sectors.
    pub max_sectors: u32,
    /// Most segments of a request.
    pub max_segments: u16,
    /// Most gaps between the segments of a request: places where not both the end of one and the start of the next are
    /// borders of pages.
    pub max_gaps: u16,
    /// Largest discard in sectors; 0 when there is none.
    pub max_discard_sectors: u32,
    /// Unit of discards in bytes.
    pub discard_granularity: u32,
    /// Largest request of [`Op::WriteZeroes`](crate::Op::WriteZeroes) in sectors; 0 when there is none.
    pub max_write_zeroes_sectors: u32,
    /// Completed writes may be lost until a flush.
    pub has_volatile_cache: bool,
    /// Knows writes that bypass that cache.
    pub has_fua: bool,
    /// Has moving parts.
    pub is_rotational: bool,
}

/// The read-ahead that a disk begins with, in KiB: what makes a request worth its interrupt.
///
/// LINUX: 128, and twice the largest request for disks with moving parts, as most virtual ones seem to be: 8192.
const FIRST_READ_AHEAD: u32 = 2048;
/// Most that comes of a setting.
const MAX_READ_AHEAD: u32 = 64 * 1024;

impl Limits {
    /// The read-ahead that a disk begins with, in KiB.
    fn read_ahead_kb(&self) -> u32 {
        (self.io_opt.saturating_mul(2) / 1024).clamp(FIRST_READ_AHEAD, MAX_READ_AHEAD)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            logical_block_size: 512,
            dma_alignment: 512,
            physical_block_size: 512,
            io_min: 512,
            io_opt: 0,
            max_sectors: 2560,
            max_segments: 128,
            max_gaps: u16::MAX,
            max_discard_sectors: 0,
            discard_granularity: 0,
            max_write_zeroes_sectors: 0,
            has_volatile_cache: false,
            has_fua: false,
            is_rotational: false,
        }
    }
}

/// What identifies a disk.
#[derive(Clone, Debug)]
pub struct DiskInfo {
    /// Name below /dev.
    pub name: String,
    /// Major number.
    pub major: u32,
    /// Number of the whole disk; partition `n` has `first_minor + n` while it is below `minors`.
    pub first_minor: u32,
    /// Minor numbers set aside; 1 when the disk has no partitions.
    pub minors: u32,
    /// Where it is below /sys/devices, such as `pci0000:00/0000:00:02.0/virtio0`, or `virtual`.
    pub parent: String,
    /// Size in sectors.
    pub capacity: u64,
    /// Is writing impossible?
    pub is_read_only: bool,
    /// Number of hardware queues, at least 1.
    pub nr_queues: usize,
    /// What the hardware can take.
    pub limits: Limits,
}

/// A part of a disk, as its partition table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// From 1.
    pub index: u32,
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub len: u64,
    /// `PARTUUID`.
    pub uuid: Option<String>,
    /// `PARTLABEL`.
    pub label: Option<String>,
}

/// The software side of one hardware queue.
struct Queue {
    state: IrqLock<State>,
    /// `state.waiting.len()`, readable without the lock.
    nr_waiting: AtomicUsize,
}

struct State {
    waiting: Deadline<Request>,
    /// Someone hands requests to the driver.
    is_running: bool,
    /// Something changed meanwhile: look again.
    again: bool,
}

static NEXT_SEQUENCE: AtomicU64 = AtomicU64::new(1);

/// A disk.
pub struct Disk {
    info: DiskInfo,
    driver: Arc<dyn Driver>,
    queues: Box<[Queue]>,
    capacity: AtomicU64,
    has_volatile_cache: AtomicBool,
    /// In KiB.
    read_ahead: AtomicU32,
    is_alive: AtomicBool,
    /// Are partitions looked for?
    has_partscan: AtomicBool,
    /// A number that no other disk ever has (`diskseq`).
    sequence: u64,
    /// Opens of the disk and its partitions.
    pub(crate) openers: AtomicU32,
    pub(crate) flush: FlushQueue,
    /// Submitters that wait for room.
    room: WaitQueue,
}

impl Disk {
    /// A disk on top of `driver`; [`add_disk`](crate::add_disk) makes it known.
    pub fn new(info: DiskInfo, driver: Arc<dyn Driver>) -> Arc<Disk> {
        let queue = || Queue {
            state: IrqLock::new(
                "block.queue",
                State { waiting: Deadline::new(), is_running: false, again: false },
            ),
            nr_waiting: AtomicUsize::new(0),
        };
        let queues: Vec<Queue> = (0..info.nr_queues.max(1)).map(|_| queue()).collect();
        Arc::new(Disk {
            capacity: AtomicU64::new(info.capacity),
            has_volatile_cache: AtomicBool::new(info.limits.has_volatile_cache),
            read_ahead: AtomicU32::new(info.limits.read_ahead_kb()),
            is_alive: AtomicBool::new(true),
            has_partscan: AtomicBool::new(info.minors > 1),
            sequence: NEXT_SEQUENCE.fetch_add(1, Ordering::Relaxed),
            openers: AtomicU32::new(0),
            flush: FlushQueue::new(),
            room: WaitQueue::new(),
            queues: queues.into_boxed_slice(),
            info,
            driver,
        })
    }

    /// What identifies it.
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// What the hardware can take.
    pub fn limits(&self) -> &Limits {
        &self.info.limits
    }

    /// Its driver.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// A number that no other disk ever has.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Are partitions looked for?
    pub fn has_partscan(&self) -> bool {
        self.has_partscan.load(Ordering::Relaxed)
    }

    /// Lets partitions be looked for, or not.
    pub fn set_partscan(&self, on: bool) {
        self.has_partscan.store(on, Ordering::Relaxed);
    }

    /// Openers of the disk and its partitions.
    pub fn nr_openers(&self) -> u32 {
        self.openers.load(Ordering::Acquire)
    }

    /// Size in sectors.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    /// The driver learned of another size. That of a disk that is gone stays 0.
    pub fn set_capacity(&self, sectors: u64) {
        self.capacity.store(sectors, Ordering::SeqCst);
        // In this order: whoever stores later, this or `kill`, finds the disk dead.
        if !self.is_alive.load(Ordering::SeqCst) {
            self.capacity.store(0, Ordering::SeqCst);
        }
    }

    /// May completed writes be lost until a flush?
    pub fn has_volatile_cache(&self) -> bool {
        self.has_volatile_cache.load(Ordering::Relaxed)
    }

    /// Corrects what is believed about the write cache (/sys/block/*/queue/write_cache).
    pub fn set_volatile_cache(&self, has: bool) {
        self.has_volatile_cache.store(has, Ordering::Relaxed);
    }

    /// Most KiB that are read at once ahead of who reads in order (/sys/block/*/queue/read_ahead_kb).
    pub fn read_ahead_kb(&self) -> u32 {
        self.read_ahead.load(Ordering::Relaxed)
    }

    /// Sets it, to 64 MiB at most; of parts of a page nothing comes.
    pub fn set_read_ahead_kb(&self, kib: u32) {
        self.read_ahead.store(kib.min(MAX_READ_AHEAD) & !(PAGE_SIZE as u32 / 1024 - 1), Ordering::Relaxed);
    }

    /// The same in pages.
    pub fn read_ahead_pages(&self) -> usize {
        self.read_ahead_kb() as usize * 1024 / PAGE_SIZE
    }

    /// Is the hardware still there?
    pub fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::Acquire)
    }

    /// The hardware is gone: what waits and what comes fails with `EIO`, and the size is 0.
    pub fn kill(&self) {
        self.is_alive.store(false, Ordering::SeqCst);
        self.set_capacity(0);
        for (hw, _) in self.queues.iter().enumerate() {
            self.run(hw);
        }
        self.room.wake_all();
    }

    /// How large a request for `bio` may be.
    pub(crate) fn max_of(&self, bio: &Bio) -> Most {
        let limits = &self.info.limits;
        let sectors = match bio.op {
            crate::Op::Discard => limits.max_discard_sectors,
            crate::Op::WriteZeroes => limits.max_write_zeroes_sectors,
            _ => limits.max_sectors,
        };
        let unit = (limits.logical_block_size >> crate::SECTOR_SHIFT).max(1);
        Most {
            sectors: u64::from((sectors / unit * unit).max(unit)),
            segments: limits.max_segments.max(1).into(),
            gaps: limits.max_gaps.into(),
        }
    }

    fn queue_here(&self) -> (usize, &Queue) {
        let hw = hal::cpu::raw_current_id().index() % self.queues.len();
        (hw, &self.queues[hw])
    }

    /// Merges `bio` into a waiting request, if it continues one.
    pub(crate) fn merge(&self, device: &Arc<BlockDevice>, bio: Bio) -> Result<(), Bio> {
        let (_, queue) = self.queue_here();
        if queue.nr_waiting.load(Ordering::Relaxed) == 0 {
            return Err(bio);
        }
        let mut state = queue.state.lock();
        match state.waiting.find_before(bio.op == crate::Op::Read, bio.sector) {
            Some(request) => request.try_merge(device, bio, &self.info.limits),
            None => Err(bio),
        }
    }

    /// Hands `request` to the driver, now or when it has room, and tells the device.
    ///
    /// Sleeps while too many wait, where that is allowed.
    pub(crate) fn issue(&self, request: Request) {
        let (hw, queue) = self.queue_here();
        self.issue_on(hw, queue, request);
        self.driver.kick(hw);
    }

    /// As [`Disk::issue`] for several.
    pub(crate) fn issue_all(&self, requests: impl Iterator<Item = Request>) {
        let (hw, queue) = self.queue_here();
        for request in requests {
            self.issue_on(hw, queue, request);
        }
        self.driver.kick(hw);
    }

    fn issue_on(&self, hw: usize, queue: &Queue, request: Request) {
        if !self.is_alive() {
            return drop(request);
        }
        let request = if queue.nr_waiting.load(Ordering::Relaxed) == 0 {
            match self.driver.queue(hw, request) {
                Ok(()) => return,
                Err(request) => request,
            }
        } else {
            request
        };
        if queue.nr_waiting.load(Ordering::Relaxed) >= MAX_WAITING && !hal::preempt::is_atomic() {
            self.driver.kick(hw);
            let has_room =
                || (queue.nr_waiting.load(Ordering::SeqCst) < MAX_WAITING || !self.is_alive()).then_some(());
            self.room.wait(has_room);
        }
        {
            let mut state = queue.state.lock();
            state.waiting.insert(request);
            queue.nr_waiting.store(state.waiting.len(), Ordering::SeqCst);
        }
        self.run(hw);
    }

    /// Hands waiting requests of queue `hw` to the driver while it has room. Drivers call it after completions.
    pub fn run(&self, hw: usize) {
        let Some(queue) = self.queues.get(hw) else { return };
        if queue.nr_waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        {
            let mut state = queue.state.lock();
            if core::mem::replace(&mut state.is_running, true) {
                state.again = true;
                return;
            }
        }
        let was_full = queue.nr_waiting.load(Ordering::Relaxed) >= MAX_WAITING;
        let mut back = None;
        loop {
            let mut state = queue.state.lock();
            if let Some(request) = back.take() {
                // No room; only if something completed since is it worth another try.
                state.waiting.put_back(request);
                queue.nr_waiting.store(state.waiting.len(), Ordering::SeqCst);
                if !core::mem::take(&mut state.again) {
                    state.is_running = false;
                    break;
                }
            }
            let Some(request) = state.waiting.take_next(hal::time::now_ns()) else {
                state.again = false;
                state.is_running = false;
                break;
            };
            queue.nr_waiting.store(state.waiting.len(), Ordering::SeqCst);
            drop(state);
            if self.is_alive() {
                back = self.driver.queue(hw, request).err();
            }
        }
        self.driver.kick(hw);
        if was_full {
            self.room.wake_all();
        }
    }
}

impl core::fmt::Debug for Disk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Disk({}, {} sectors)", self.info.name, self.capacity())
    }
}
