//! Requests in, completions out.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use block::{BioFlags, Driver, Op, Request};
use hal::sync::{IrqLock, Once};
use sched::Timer;

use crate::command::{Command, io};
use crate::controller::Controller;
use crate::disks::Disks;
use crate::identify;
use crate::plan::{self, Piece};
use crate::probe::Number;
use crate::queue::Queue;

/// Completions taken out of a queue at once. They lie on the stack that the interrupt runs on: that of the CPU, or the
/// thread's own when it came from user space.
const BATCH: usize = 8;
/// How often the watchdog looks.
const WATCH_NS: u64 = 5_000_000_000;
/// Silence of the controller after which it is given up (Linux: `nvme_core.io_timeout`).
const SILENT_NS: u64 = 30_000_000_000;
/// How long a controller that is taken away may take for what is under way.
const SETTLE_NS: u64 = 5_000_000_000;

/// What goes with a command.
pub(crate) enum Token {
    /// A request that is one command.
    Whole(Request),
    /// One of several.
    Part(Arc<Parts>),
}

/// A request that became several commands.
pub(crate) struct Parts {
    request: IrqLock<Option<Request>>,
    start_ns: u64,
    left: AtomicU32,
    has_failed: AtomicBool,
}

impl Token {
    fn start_ns(&self) -> u64 {
        match self {
            Self::Whole(request) => request.start_ns(),
            Self::Part(parts) => parts.start_ns,
        }
    }

    /// Its command ended with `result`. No lock is held.
    fn end(self, result: Result<()>) {
        match self {
            Self::Whole(request) => request.complete(result),
            Self::Part(parts) => {
                if result.is_err() {
                    parts.has_failed.store(true, Ordering::Relaxed);
                }
                // AcqRel: the last one sees what the others noted.
                if parts.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let request = parts.request.lock().take();
                    let failed = parts.has_failed.load(Ordering::Relaxed);
                    if let Some(request) = request {
                        request.complete(if failed { Err(Errno::EIO) } else { Ok(()) });
                    }
                }
            }
        }
    }
}

/// A controller with its queues for requests; hardware queue `hw` is the controller's number `hw + 1`.
pub(crate) struct Shared {
    /// `None` once it is gone.
    controller: IrqLock<Option<Arc<Controller>>>,
    pub(crate) about: identify::Controller,
    pub(crate) name: String,
    _number: Number,
    pub(crate) queues: Vec<IrqLock<Queue<Token>>>,
    pub(crate) disks: Disks,
    watchdog: Once<Timer>,
    is_watched: AtomicBool,
    /// It was told to stop; the next look of the watchdog sees whether it did.
    is_stopping: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        controller: Arc<Controller>,
        about: identify::Controller,
        number: Number,
        queues: Vec<IrqLock<Queue<Token>>>,
    ) -> Arc<Self> {
        let shared = Arc::new(Self {
            controller: IrqLock::new("nvme.controller", Some(controller)),
            about,
            name: alloc::format!("nvme{}", number.0),
            _number: number,
            queues,
            disks: Disks::new(),
            watchdog: Once::new(),
            is_watched: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&shared);
        let watch = move || {
            if let Some(shared) = weak.upgrade() {
                shared.watch();
            }
        };
        shared.watchdog.call_once(|| Timer::new(Arc::new(watch)));
        shared
    }

    /// Finishes what the controller is done with in queue `hw`. Runs in its interrupt.
    pub(crate) fn complete(&self, hw: usize) {
        let Some(lock) = self.queues.get(hw) else { return };
        loop {
            let mut done: ArrayVec<(Token, Result<()>), BATCH> = ArrayVec::new();
            {
                let mut queue = lock.lock();
                let (head, tail) = (queue.head(), queue.tail());
                while !done.is_full()
                    && let Some(next) = queue.pop()
                {
                    done.push((next.token, next.status.result()));
                }
                if queue.tail() != tail {
                    queue.ring_submission();
                }
                // Before the lock goes: another CPU must not tell the same head again, nor an older one later.
                if queue.head() != head {
                    queue.ring_completion();
                }
            }
            let is_all = !done.is_full();
            for (token, result) in done.drain(..) {
                token.end(result);
            }
            if is_all {
                break;
            }
        }
        self.disks.run(hw);
    }

    fn start_watch(&self) {
        if let Some(timer) = self.watchdog.get() {
            timer.start(hal::time::now_ns().saturating_add(WATCH_NS));
        }
    }

    /// The watchdog: looks for what no interrupt told, and gives up a controller that is dead or silent.
    fn watch(&self) {
        let is_used = |lock: &IrqLock<Queue<Token>>| !lock.lock().is_idle();
        for hw in 0..self.queues.len() {
            self.complete(hw);
        }
        if !self.queues.iter().any(is_used) {
            self.is_watched.store(false, Ordering::SeqCst);
            return;
        }
        let oldest = |lock: &IrqLock<Queue<Token>>| lock.lock().tokens().map(Token::start_ns).min();
        let oldest_ns = self.queues.iter().filter_map(oldest).min();
        let now_ns = hal::time::now_ns();
        let is_silent = oldest_ns.is_some_and(|start_ns| now_ns.saturating_sub(start_ns) > SILENT_NS);
        let Some(controller) = self.controller.lock().clone() else { return };
        let is_broken = self.queues.iter().any(|lock| lock.lock().is_broken());
        if self.is_stopping.load(Ordering::Relaxed) {
            if controller.has_stopped() {
                self.give_up();
            }
        } else if is_silent || is_broken || controller.is_dead() {
            log::error!("nvme {}: the controller does not answer; it is switched off", self.name);
            self.is_stopping.store(true, Ordering::Relaxed);
            controller.begin_stop();
        }
        self.start_watch();
    }

    /// Waits until nothing is under way, for [`SETTLE_NS`] at most. Nothing new comes. Sleeps.
    pub(crate) fn settle(&self) {
        let deadline_ns = hal::time::now_ns().saturating_add(SETTLE_NS);
        let is_used = |lock: &IrqLock<Queue<Token>>| !lock.lock().is_idle();
        while self.queues.iter().any(is_used) && hal::time::now_ns() < deadline_ns {
            let _ = sched::sleep_until(hal::time::now_ns() + 100_000, sched::Interruptible::No);
        }
    }

    /// The controller was switched off for good: ends everything under way and forgets it.
    pub(crate) fn disconnect(&self) {
        self.give_up();
        let controller = self.controller.lock().take();
        drop(controller);
    }

    /// Ends everything under way with `EIO`: the controller touches no memory any more.
    fn give_up(&self) {
        for lock in &self.queues {
            let tokens = lock.lock().take_all();
            tokens.into_iter().for_each(|token| token.end(Err(Errno::EIO)));
        }
    }
}

/// A namespace of a controller: a disk.
pub(crate) struct Drive {
    pub(crate) shared: Arc<Shared>,
    pub(crate) nsid: u32,
    /// Sectors of a block, as a shift.
    pub(crate) sector_shift: u32,
}

/// Where the data of `request` is.
fn pieces(request: &Request) -> impl Iterator<Item = Piece> + Clone {
    request.segments().flat_map(|segment| plan::pages(segment.paddr().0, segment.len()))
}

impl Drive {
    /// How many commands `request` needs.
    fn nr_commands(request: &Request) -> usize {
        if request.op().has_data() { plan::nr_runs(pieces(request)) } else { 1 }
    }

    /// Whether each command for `request` moves whole blocks.
    fn is_whole(&self, request: &Request) -> bool {
        self.sector_shift == 0 || plan::is_whole(pieces(request), 512 << self.sector_shift)
    }

    /// The command for a request without data. `None`: no memory for its range.
    fn command(&self, queue: &mut Queue<Token>, request: &Request) -> Option<Command> {
        let block = request.sector() >> self.sector_shift;
        let count = request.nr_sectors() >> self.sector_shift;
        match request.op() {
            Op::Discard => {
                let page = queue.next_page()?;
                page.write_u64(0, count.min(u64::from(u32::MAX)) << 32);
                page.write_u64(8, block);
                let command = Command::new(io::DATASET_MANAGEMENT, self.nsid).with_data(page.paddr().0, 0);
                Some(command.with::<10>(0).with::<11>(io::ATTRIBUTE_DEALLOCATE))
            }
            Op::WriteZeroes => {
                let keeps = request.flags().contains(BioFlags::NO_UNMAP);
                let flags = if keeps { 0 } else { io::DEALLOCATE };
                Some(Command::new(io::WRITE_ZEROES, self.nsid).with_blocks(block, count as u32, flags))
            }
            _ => Some(Command::new(io::FLUSH, self.nsid)),
        }
    }

    /// The command that moves `count` pieces, `skip` pieces from the start of `request`. `None`: no memory for its list.
    fn transfer(
        &self,
        queue: &mut Queue<Token>,
        request: &Request,
        skip: usize,
        run: (usize, u64),
        done: u64,
    ) -> Option<Command> {
        let (count, bytes) = run;
        let mut run = pieces(request).skip(skip).take(count);
        let first = run.next()?.paddr;
        let second = match count {
            1 => 0,
            2 => run.next()?.paddr,
            _ => {
                let list = queue.next_page()?;
                run.enumerate().for_each(|(at, piece)| list.write_u64(at * 8, piece.paddr));
                list.paddr().0
            }
        };
        let block = (request.sector() + done / 512) >> self.sector_shift;
        let nr_blocks = bytes >> (9 + self.sector_shift);
        let (opcode, flags) = match request.op() {
            Op::Write if request.flags().contains(BioFlags::FUA) => (io::WRITE, io::FORCE_UNIT_ACCESS),
            Op::Write => (io::WRITE, 0),
            _ => (io::READ, 0),
        };
        let command = Command::new(opcode, self.nsid).with_data(first, second);
        Some(command.with_blocks(block, nr_blocks as u32, flags))
    }

    /// Sends a request that is one command. Gives it back when there is no memory.
    fn send_whole(&self, queue: &mut Queue<Token>, request: Request) -> Result<(), Request> {
        let command = if request.op().has_data() {
            let run = plan::next_run(pieces(&request));
            self.transfer(queue, &request, 0, run, 0)
        } else {
            self.command(queue, &request)
        };
        let Some(command) = command else { return Err(request) };
        match queue.push(command, Token::Whole(request)) {
            Ok(()) | Err(Token::Part(_)) => Ok(()),
            Err(Token::Whole(request)) => Err(request),
        }
    }

    /// Sends a request as `nr` commands, for which there is room. What cannot be sent for want of memory fails alone.
    fn send_parts(&self, queue: &mut Queue<Token>, request: Request, nr: usize) -> Vec<Token> {
        let parts = Arc::new(Parts {
            start_ns: request.start_ns(),
            request: IrqLock::new("nvme.parts", None),
            left: AtomicU32::new(nr as u32),
            has_failed: AtomicBool::new(false),
        });
        let (mut skip, mut done, mut failed) = (0, 0, Vec::new());
        for _ in 0..nr {
            let run = plan::next_run(pieces(&request).skip(skip));
            let token = Token::Part(parts.clone());
            let unsent = match self.transfer(queue, &request, skip, run, done) {
                Some(command) => queue.push(command, token).err(),
                None => Some(token),
            };
            failed.extend(unsent);
            skip += run.0;
            done += run.1;
        }
        // The queue's lock is held: no completion comes before this.
        *parts.request.lock() = Some(request);
        failed
    }
}

impl Driver for Drive {
    fn queue(&self, hw: usize, request: Request) -> Result<(), Request> {
        let Some(lock) = self.shared.queues.get(hw) else {
            request.complete(Err(Errno::EIO));
            return Ok(());
        };
        if !self.is_whole(&request) {
            request.complete(Err(Errno::EINVAL));
            return Ok(());
        }
        let nr = Self::nr_commands(&request);
        let mut queue = lock.lock();
        if queue.is_broken() || nr > queue.capacity() {
            drop(queue);
            request.complete(Err(Errno::EIO));
            return Ok(());
        }
        if nr > queue.room() {
            return Err(request);
        }
        let failed = match nr {
            0 | 1 => match self.send_whole(&mut queue, request) {
                Ok(()) => Vec::new(),
                Err(request) => {
                    let is_idle = queue.is_idle();
                    drop(queue);
                    if is_idle {
                        // Nothing is under way that would make room: it would wait for ever.
                        request.complete(Err(Errno::ENOMEM));
                        return Ok(());
                    }
                    return Err(request);
                }
            },
            _ => self.send_parts(&mut queue, request, nr),
        };
        drop(queue);
        failed.into_iter().for_each(|token| token.end(Err(Errno::ENOMEM)));
        let shared = &self.shared;
        if !shared.is_watched.load(Ordering::Relaxed) && !shared.is_watched.swap(true, Ordering::SeqCst) {
            shared.start_watch();
        }
        Ok(())
    }

    fn kick(&self, hw: usize) {
        if let Some(lock) = self.shared.queues.get(hw) {
            lock.lock().ring_submission();
        }
    }

    fn serial(&self) -> Option<String> {
        Some(self.shared.about.serial.clone())
    }
}
