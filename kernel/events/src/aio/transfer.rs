//! Reads and writes past the page cache that go on while the process does something else.
//!
//! Their memory is pinned when they are submitted: a worker has another address space. Workers are threads of their own,
//! made when requests wait and gone a while after the last, as each of them waits for a device.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::PAGE_SIZE;
use hal::uio::{Dest, FramePart, Src, UserBuf};
use mm::Mm;
use sched::{Interruptible, Mutex, WaitQueue};
use vfs::rw::{self, RwFlags};
use vfs::{File, RwKind};

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
    pub file: Arc<File>,
    /// Where in it.
    pub pos: i64,
    /// Flags of a write.
    pub flags: RwFlags,
    /// The caller's `RLIMIT_FSIZE`.
    pub fsize: u64,
}

struct Job {
    request: Request,
    transfer: Transfer,
    memory: Vec<FramePart>,
}

struct Jobs {
    waiting: VecDeque<Job>,
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

/// The pages behind `bufs`. `EFAULT`, `ENOMEM`.
fn pin(mm: &Mm, bufs: &[UserBuf], kind: RwKind) -> Result<Vec<FramePart>> {
    let mut parts = Vec::new();
    for buf in bufs {
        let mut done = 0;
        while done < buf.len {
            let at = buf.addr.add(done as u64);
            let offset = at.page_offset();
            let len = (PAGE_SIZE - offset).min(buf.len - done);
            let frame = mm.pin_page(at, kind == RwKind::Read).map_err(|errno| match errno {
                Errno::ENOMEM => Errno::ENOMEM,
                _ => Errno::EFAULT,
            })?;
            parts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            parts.push(FramePart { frame, offset, len });
            done += len;
        }
    }
    Ok(parts)
}

impl Request {
    /// Begins `transfer` with the caller's memory `bufs`; its result comes as an event. May sleep.
    ///
    /// `EAGAIN`: no memory for one more. `EINVAL`: the caller has no address space.
    pub fn transfer(self, transfer: Transfer, bufs: &[UserBuf]) -> Result<()> {
        let mm = super::own_mm()?;
        let memory = match pin(&mm, bufs, transfer.kind) {
            Ok(memory) => memory,
            Err(errno) => {
                self.finish(Err(errno));
                return Ok(());
            }
        };
        let mut jobs = JOBS.lock();
        jobs.waiting.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        jobs.waiting.push_back(Job { request: self, transfer, memory });
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
}

fn next() -> Option<Job> {
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
    fn run(self) {
        let Transfer { kind, file, pos, flags, fsize } = &self.transfer;
        let result = match kind {
            RwKind::Read => rw::pread_with(file, &mut Dest::parts(&self.memory), *pos, *flags),
            RwKind::Write => rw::pwrite_with(file, &mut Src::parts(&self.memory), *pos, *fsize, *flags),
        };
        drop(self.memory);
        self.request.finish(result);
    }
}
