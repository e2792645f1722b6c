//! Requests in, completions out.

use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::{Errno, Result};
use arrayvec::ArrayVec;
use block::{Disk, Driver, Request};
use hal::frame::Frame;
use hal::sync::{IrqLock, Once};
use sched::{Timer, WaitQueue};
use virtio::{Device, Piece, Queue};

use crate::request::{Header, ID_LEN, pieces, result_of};

/// Completions taken out of a queue at once. They lie on the stack that the interrupt runs on: that of the CPU, or the
/// thread's own when it came from user space.
const BATCH: usize = 8;
/// How often the watchdog looks.
const WATCH_NS: u64 = 5_000_000_000;
/// Silence of the device that is worth a message (Linux: the request timeout).
const SILENT_NS: u64 = 30_000_000_000;

/// What goes with a descriptor chain.
pub(crate) enum Token {
    /// A request of the block layer.
    Io(Request),
    /// The question for the serial number.
    Id(Arc<Question>),
}

/// Where an answer goes, and who waits for it.
pub(crate) struct Question {
    answer: Frame,
    is_done: AtomicBool,
    waiter: WaitQueue,
}

/// A virtqueue; `None` before it is set up and after the device is gone.
type Hw = IrqLock<Option<Queue<Token>>>;

/// A virtio disk.
pub(crate) struct VirtioBlk {
    pub queues: Vec<Hw>,
    pub may_unmap: bool,
    pub disk: Once<Weak<Disk>>,
    pub serial: Once<String>,
    watchdog: Once<Timer>,
    is_watched: AtomicBool,
    is_reported: AtomicBool,
}

impl VirtioBlk {
    pub fn new(nr_queues: usize, may_unmap: bool) -> Arc<VirtioBlk> {
        let queue = || IrqLock::new("virtio.blk.queue", None);
        let disk = Arc::new(VirtioBlk {
            queues: (0..nr_queues).map(|_| queue()).collect(),
            may_unmap,
            disk: Once::new(),
            serial: Once::new(),
            watchdog: Once::new(),
            is_watched: AtomicBool::new(false),
            is_reported: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&disk);
        let watch = move || {
            if let Some(disk) = weak.upgrade() {
                disk.watch();
            }
        };
        disk.watchdog.call_once(|| Timer::new(Arc::new(watch)));
        disk
    }

    /// Finishes what the device is done with in queue `hw`. Runs in its interrupt.
    pub fn complete(&self, hw: usize) {
        let Some(lock) = self.queues.get(hw) else { return };
        loop {
            let mut done: ArrayVec<(Token, u8), BATCH> = ArrayVec::new();
            let more = {
                let mut queue = lock.lock();
                let Some(queue) = queue.as_mut() else { return };
                queue.disable_interrupt();
                while !done.is_full()
                    && let Some(next) = queue.pop()
                {
                    done.push((next.token, next.tail[0]));
                }
                done.is_full() || queue.enable_interrupt()
            };
            for (token, status) in done.drain(..) {
                match token {
                    Token::Io(request) => request.complete(result_of(status)),
                    Token::Id(question) => {
                        question.is_done.store(true, Ordering::SeqCst);
                        question.waiter.wake_all();
                    }
                }
            }
            if !more {
                break;
            }
        }
        if let Some(disk) = self.disk.get().and_then(Weak::upgrade) {
            disk.run(hw);
        }
    }

    /// The watchdog: looks for what no interrupt told, and for requests that take too long.
    fn watch(&self) {
        let mut is_idle = true;
        for (hw, lock) in self.queues.iter().enumerate() {
            let is_used = lock.lock().as_ref().is_some_and(|queue| !queue.is_idle());
            if is_used {
                self.complete(hw);
                is_idle = false;
            }
        }
        if is_idle {
            self.is_watched.store(false, Ordering::SeqCst);
            return;
        }
        let now_ns = hal::time::now_ns();
        if self.oldest_ns().is_some_and(|start_ns| now_ns.saturating_sub(start_ns) > SILENT_NS)
            && !self.is_reported.swap(true, Ordering::Relaxed)
        {
            log::warn!("virtio-blk: {}: a request has taken more than 30 s", self.name());
        }
        self.start_watch();
    }

    fn start_watch(&self) {
        if let Some(timer) = self.watchdog.get() {
            timer.start(hal::time::now_ns().saturating_add(WATCH_NS));
        }
    }

    /// When the oldest request began.
    fn oldest_ns(&self) -> Option<u64> {
        let start = |token: &Token| match token {
            Token::Io(request) => Some(request.start_ns()),
            Token::Id(_) => None,
        };
        let oldest =
            |lock: &Hw| lock.lock().as_ref().and_then(|queue| queue.tokens().filter_map(start).min());
        self.queues.iter().filter_map(oldest).min()
    }

    /// The device, while it is there.
    pub fn device(&self) -> Option<Arc<Device>> {
        self.queues.first()?.lock().as_ref()?.device().cloned()
    }

    /// The device was reset: ends what was under way with `EIO` and forgets the queues.
    pub fn give_up(&self) {
        for lock in &self.queues {
            let Some(mut queue) = lock.lock().take() else { continue };
            let tokens: Vec<Token> = queue.drain().collect();
            for token in tokens {
                match token {
                    Token::Io(request) => request.complete(Err(Errno::EIO)),
                    Token::Id(question) => question.waiter.wake_all(),
                }
            }
        }
    }

    fn name(&self) -> String {
        let disk = self.disk.get().and_then(Weak::upgrade);
        disk.map_or_else(String::new, |disk| disk.info().name.clone())
    }

    /// Asks for the serial number and waits for the answer.
    pub fn read_serial(&self) -> Result<String> {
        let answer = Frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
        let question =
            Arc::new(Question { answer, is_done: AtomicBool::new(false), waiter: WaitQueue::new() });
        {
            let mut queue = self.queues.first().ok_or(Errno::ENODEV)?.lock();
            let queue = queue.as_mut().ok_or(Errno::ENODEV)?;
            let piece = Piece { paddr: question.answer.paddr(), len: ID_LEN as u32, is_written: true };
            let token = Token::Id(question.clone());
            queue.add(Header::get_id().bytes(), core::iter::once(piece), 1, token).map_err(|_| Errno::EIO)?;
        }
        self.kick(0);
        let deadline_ns = hal::time::now_ns() + 2_000_000_000;
        let is_done = || question.is_done.load(Ordering::SeqCst).then_some(());
        let waited = question.waiter.wait_deadline(is_done, Some(deadline_ns), sched::Interruptible::No);
        waited.map_err(|_| Errno::ETIMEDOUT)?;
        let mut bytes = [0; ID_LEN];
        question.answer.read(0, &mut bytes);
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(ID_LEN);
        Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }
}

impl Driver for VirtioBlk {
    fn queue(&self, hw: usize, request: Request) -> Result<(), Request> {
        let Some(lock) = self.queues.get(hw) else {
            request.complete(Err(Errno::EIO));
            return Ok(());
        };
        let header = Header::of(&request, self.may_unmap);
        let mut guard = lock.lock();
        let Some(queue) = guard.as_mut().filter(|queue| !queue.is_broken()) else {
            drop(guard);
            request.complete(Err(Errno::EIO));
            return Ok(());
        };
        if let Some(prepared) = queue.prepare(header.bytes(), pieces(&request), 1) {
            queue.publish(prepared, Token::Io(request));
            drop(guard);
            if !self.is_watched.load(Ordering::Relaxed) && !self.is_watched.swap(true, Ordering::SeqCst) {
                self.start_watch();
            }
            return Ok(());
        }
        let is_idle = queue.is_idle();
        drop(guard);
        if is_idle {
            // Nothing is under way that would make room: it can never be queued.
            request.complete(Err(Errno::ENOMEM));
            return Ok(());
        }
        Err(request)
    }

    fn kick(&self, hw: usize) {
        let Some(lock) = self.queues.get(hw) else { return };
        // The device is told without the lock: that takes long in a virtual machine.
        let told = {
            let mut queue = lock.lock();
            queue.as_mut().and_then(
                |queue| {
                    if queue.should_notify() { queue.device().cloned() } else { None }
                },
            )
        };
        if let Some(device) = told {
            device.notify(hw as u16);
        }
    }

    fn serial(&self) -> Option<String> {
        self.serial.get().cloned()
    }
}
