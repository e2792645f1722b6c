//! Reads and writes past the page cache that go on while the process does something else.
//!
//! Their memory is lent when they are submitted. Most of them the file system begins at once, and the disk's interrupt ends them
//! ([`vfs::direct`]). The others, which have to wait for more than one transfer, are given to workers: threads of their own, made
//! when requests wait and gone a while after the last, as each of them waits for a device.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::frame::Frame;
use hal::uio::{Dest, FramePart, Src, UserBuf};
use hal::{PAGE_SIZE, UserAddr};
use mm::{Lend, LentMemory, Mm, Rights};
use sched::workqueue::Late;
use sched::{Interruptible, Mutex, WaitQueue};
use vfs::rw::{self, RwFlags};
use vfs::{Direct, DirectJob, File, RwKind};

use super::Request;

/// The longest request that is done aside, in bytes: longer ones are done while they are submitted.
const MAX_LEN: usize = 1 << 20;
/// Most workers at one time.
const MAX_WORKERS: usize = 16;
/// How long a worker waits for more to do.
const IDLE_NS: u64 = 1_000_000_000;

/// A read or write that was submitted.
pub struct Transfer {
    /// From or to the file.
    pub kind: RwKind,
    /// The file.
    pub file: Late<File>,
    /// Where in it, not negative.
    pub pos: i64,
    /// Flags of a write.
    pub flags: RwFlags,
    /// The caller's `RLIMIT_FSIZE`.
    pub fsize: u64,
}

/// One with its memory.
struct Job {
    request: Request,
    transfer: Transfer,
    memory: Memory,
}

enum Memory {
    Lent(LentMemory),
    /// To be filled, and some of it belongs to a file: who stores to that at the end makes it dirty.
    OfFile(Arc<Mm>, Vec<UserBuf>),
}

struct Jobs {
    waiting: VecDeque<Box<Job>>,
    nr_workers: usize,
    /// Those of them that wait.
    nr_idle: usize,
}

static JOBS: Mutex<Jobs> =
    Mutex::new("events.aio.jobs", Jobs { waiting: VecDeque::new(), nr_workers: 0, nr_idle: 0 });
/// Jobs that wait, for workers to look at while they go to sleep.
static NR_WAITING: AtomicUsize = AtomicUsize::new(0);
/// A job came.
static ARRIVED: WaitQueue = WaitQueue::new();

/// Whether a request of `len` bytes is one that is done aside.
pub fn is_worthwhile(file: &File, len: usize) -> bool {
    use abi::fs::OpenFlags;
    use vfs::FileMode;
    (1..=MAX_LEN).contains(&len)
        && file.flags().contains(OpenFlags::DIRECT)
        && file.mode().contains(FileMode::NOWAIT | FileMode::SEEK)
}

impl Request {
    /// Begins `transfer` of the `len` bytes of the caller's memory `bufs`; its result comes as an event. May sleep.
    ///
    /// `EAGAIN`: no memory for one more. `EINVAL`: the caller has no address space.
    pub fn transfer(self, transfer: Transfer, bufs: Vec<UserBuf>, len: usize) -> Result<()> {
        let lend = if transfer.kind == RwKind::Read { Lend::ToFill } else { Lend::ToRead };
        let mm = super::own_mm()?;
        let memory = match mm.lend(&bufs, lend) {
            Ok(Some(memory)) => Memory::Lent(memory),
            Ok(None) => {
                if let Err(errno) = touch(&bufs) {
                    self.finish(Err(errno));
                    return Ok(());
                }
                let memory = Memory::OfFile(mm, bufs);
                return Box::new(Job { request: self, transfer, memory }).give_to_worker();
            }
            Err(errno) => {
                self.finish(Err(errno));
                return Ok(());
            }
        };
        let Transfer { kind, pos, flags, fsize, .. } = transfer;
        let file = transfer.file.clone();
        let job = Box::new(Job { request: self, transfer, memory });
        let direct = Direct { kind, pos: u64::try_from(pos).map_err(|_| Errno::EINVAL)?, len, job };
        match vfs::direct::begin(&file, direct, flags, fsize) {
            Ok(()) => Ok(()),
            Err(Direct { job, .. }) => {
                let job: Box<dyn Any> = job;
                job.downcast::<Job>().map_err(|_| Errno::EINVAL)?.give_to_worker()
            }
        }
    }
}

fn next() -> Option<Box<Job>> {
    let mut jobs = JOBS.lock();
    let job = jobs.waiting.pop_front();
    NR_WAITING.store(jobs.waiting.len(), Ordering::SeqCst);
    job
}

fn work() {
    loop {
        while let Some(job) = next() {
            job.run();
        }
        JOBS.lock().nr_idle += 1;
        let deadline = hal::time::now_ns() + IDLE_NS;
        let has_come = || (NR_WAITING.load(Ordering::SeqCst) > 0).then_some(());
        let came = ARRIVED.wait_exclusive(has_come, Some(deadline), Interruptible::No).is_ok();
        let mut jobs = JOBS.lock();
        jobs.nr_idle -= 1;
        if !came && jobs.waiting.is_empty() {
            jobs.nr_workers -= 1;
            return;
        }
    }
}

impl Job {
    /// Has a worker do it. `EAGAIN`: no memory for one more. May sleep.
    fn give_to_worker(self: Box<Self>) -> Result<()> {
        let mut jobs = JOBS.lock();
        jobs.waiting.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        jobs.waiting.push_back(self);
        NR_WAITING.store(jobs.waiting.len(), Ordering::SeqCst);
        let is_short = jobs.waiting.len() > jobs.nr_idle && jobs.nr_workers < MAX_WORKERS;
        if is_short && sched::spawn("aio", work).is_ok() {
            jobs.nr_workers += 1;
        }
        let is_alone = jobs.nr_workers == 0;
        drop(jobs);
        ARRIVED.wake(u32::MAX, 1);
        // Without memory for a worker the submitter is one.
        while is_alone && let Some(job) = next() {
            job.run();
        }
        Ok(())
    }

    fn run(self: Box<Self>) {
        let Transfer { kind, file, pos, flags, fsize } = &self.transfer;
        let read = |parts: &[FramePart]| rw::pread_with(file, &mut Dest::parts(parts), *pos, *flags);
        let result = match (kind, &self.memory) {
            (RwKind::Read, Memory::Lent(memory)) => read(memory.parts()),
            (RwKind::Read, Memory::OfFile(mm, bufs)) => fill(mm, bufs, read),
            (RwKind::Write, _) => rw::pwrite_with(file, &mut Src::parts(self.memory()), *pos, *fsize, *flags),
        };
        self.done(result);
    }
}

/// Has `read` fill memory of the kernel's, and stores that to the memory `bufs` of `mm`; how many bytes. May sleep.
fn fill(mm: &Mm, bufs: &[UserBuf], read: impl FnOnce(&[FramePart]) -> Result<usize>) -> Result<usize> {
    // Pages that lie as those of the caller: what a device cannot address stays so.
    let mut parts = Vec::new();
    for (addr, len) in bufs.iter().flat_map(pieces) {
        let frame = Frame::alloc().ok_or(Errno::ENOMEM)?;
        parts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        parts.push(FramePart { frame, offset: UserAddr(addr).page_offset(), len });
    }
    let done = read(&parts)?;
    let (mut stored, mut bytes) = (0, alloc::vec![0; PAGE_SIZE]);
    for ((addr, len), part) in bufs.iter().flat_map(pieces).zip(&parts) {
        let len = len.min(done - stored);
        let Some(bytes) = bytes.get_mut(..len).filter(|_| len > 0) else { break };
        part.frame.read(part.offset, bytes);
        let now = mm.write_remote(addr, bytes, Rights::Unwatched);
        stored += now;
        if now < len {
            break;
        }
    }
    if stored == 0 && done > 0 { Err(Errno::EFAULT) } else { Ok(stored) }
}

/// Has the pages of `bufs` there to be written: a worker could not wait for who watches them (userfaultfd(2)). `EFAULT`. May
/// sleep.
fn touch(bufs: &[UserBuf]) -> Result<()> {
    for (addr, _) in bufs.iter().flat_map(pieces) {
        // Stores what is there.
        hal::user::fetch_op_u32(UserAddr(addr & !3), |value| value)?;
    }
    Ok(())
}

/// The parts of `buf` that lie in a page each: address and length.
fn pieces(buf: &UserBuf) -> impl Iterator<Item = (u64, usize)> {
    let (mut at, end) = (buf.addr.as_u64(), buf.addr.as_u64().saturating_add(buf.len as u64));
    core::iter::from_fn(move || {
        let now = at;
        let len = (end - now).min((PAGE_SIZE - UserAddr(now).page_offset()) as u64);
        at += len;
        (len > 0).then_some((now, len as usize))
    })
}

impl DirectJob for Job {
    fn memory(&self) -> &[FramePart] {
        match &self.memory {
            Memory::Lent(memory) => memory.parts(),
            Memory::OfFile(..) => &[],
        }
    }

    fn done(self: Box<Self>, result: Result<usize>) {
        let Self { request, transfer, memory } = *self;
        drop(memory);
        request.finish(result);
        drop(transfer);
    }
}
