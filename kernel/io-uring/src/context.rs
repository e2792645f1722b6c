//! A task's side of its rings: what became ready for it, and where it has requests.
//!
//! ```text
//! any context                                   the task
//!   push: into `ready`                            enters the wait: is_watching = true   (A)
//!   is_watching? wake it : make it run its work   `ready`? otherwise sleep              (B)
//! ```
//! A push that the look at (B) misses sees `is_watching` of (A): both are behind a full barrier.
//!
//! Requests go on in the task that submitted them, as on Linux: with its memory, files and credentials. With
//! `IORING_SETUP_DEFER_TASKRUN` they wait until it comes for events; who polls the ring or its eventfd is told that it
//! should.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::*};

use abi::io_uring::{SetupFlags, SqFlags};
use abi::{Errno, Result};
use hal::sync::IrqLock;
use hal::thread::Slot;
use process::{CurrentTask, Task};
use sched::Mutex;
use vfs::File;

use crate::ring::Ring;
use crate::waiting::Waiting;

/// Rings that a task may register to use them without their descriptors (Linux: `IO_RINGFD_REG_MAX`).
pub(crate) const MAX_REGISTERED: usize = 16;

static CONTEXT: Slot<Arc<Context>> = Slot::new();

/// What became ready for a task.
struct Ready {
    /// Linked by `next`, the last one first.
    list: Option<Arc<Waiting>>,
    /// Counts the programs that the task has executed, and its end: what was submitted before goes on no more.
    life: u32,
}

/// What the calls of one task share.
pub(crate) struct Context {
    task: Weak<Task>,
    /// A leaf, taken in any context.
    ready: IrqLock<Ready>,
    is_watching: AtomicBool,
    /// Where it has submitted.
    rings: Mutex<Vec<Weak<Ring>>>,
    registered: Mutex<[Option<Arc<File>>; MAX_REGISTERED]>,
}

impl Context {
    /// That of the calling task, made at its first use.
    pub fn current() -> Arc<Self> {
        let task = process::current();
        if let Some(context) = task.hal().slot(&CONTEXT) {
            return context.clone();
        }
        let context = Arc::new(Self {
            task: Arc::downgrade(task.arc()),
            ready: IrqLock::new("io_uring.ready", Ready { list: None, life: 0 }),
            is_watching: AtomicBool::new(false),
            rings: Mutex::new("io_uring.rings", Vec::new()),
            registered: Mutex::new("io_uring.registered", [const { None }; MAX_REGISTERED]),
        });
        // Only the thread itself fills its slot, and it was empty.
        let _ = task.hal().set_slot(&CONTEXT, context.clone());
        context
    }

    /// That of `task`, the caller, if it has one.
    pub fn of(task: &CurrentTask) -> Option<&Arc<Self>> {
        task.hal().slot(&CONTEXT)
    }

    /// Notes that the task submits to `ring`. `ENOMEM`.
    pub fn note(&self, ring: &Arc<Ring>) -> Result<()> {
        let mut rings = self.rings.lock();
        let weak = Arc::downgrade(ring);
        if rings.iter().any(|known| known.ptr_eq(&weak)) {
            return Ok(());
        }
        rings.retain(|known| known.strong_count() > 0);
        rings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        rings.push(weak);
        Ok(())
    }

    /// The life that requests which the task submits now are of.
    pub fn life(&self) -> u32 {
        self.ready.lock().life
    }

    /// Gives `waiting` to the task to be looked at, unless its life is over: nobody would, and the two held each other.
    /// Usable in any context, under the locks of any waker.
    pub fn push(&self, waiting: Arc<Waiting>) {
        let ring = waiting.ring();
        let defers = ring.flags.contains(SetupFlags::DEFER_TASKRUN);
        let tells = ring.flags.contains(SetupFlags::TASKRUN_FLAG);
        if tells {
            ring.cq.change_flags(SqFlags::empty(), SqFlags::TASKRUN);
        }
        let mut note = None;
        {
            let mut ready = self.ready.lock();
            if ready.life != waiting.life() {
                return; // `waiting` ends behind the lock
            }
            if defers {
                ring.nr_deferred.fetch_add(1, SeqCst);
                // One that watches comes anyway.
                note = if self.is_watching.load(SeqCst) { None } else { ring.note() };
            }
            waiting.set_next(ready.list.take());
            ready.list = Some(waiting);
        }
        if let Some(note) = note {
            note.send();
        }
        let Some(task) = self.task.upgrade() else { return };
        if self.is_watching.load(SeqCst) {
            if let Some(thread) = task.thread() {
                thread.wake();
            }
        } else if !defers {
            task.request_work();
        }
    }

    /// Whether something waits to be looked at.
    pub fn has_ready(&self) -> bool {
        self.ready.lock().list.is_some()
    }

    /// Says whether the task is about to sleep and looks at what is ready by itself.
    pub fn watch(&self, is_watching: bool) {
        self.is_watching.store(is_watching, SeqCst);
    }

    /// Looks at what is ready now, the oldest first. May sleep.
    pub fn run_ready(&self) {
        if !self.has_ready() {
            return;
        }
        let mut newest_first = self.ready.lock().list.take();
        let mut first = None;
        while let Some(waiting) = newest_first {
            newest_first = waiting.set_next(first);
            first = Some(waiting);
        }
        while let Some(waiting) = first {
            first = waiting.set_next(None);
            waiting.ring().was_looked_at();
            if waiting.ring().flags.contains(SetupFlags::TASKRUN_FLAG) {
                waiting.ring().cq.change_flags(SqFlags::TASKRUN, SqFlags::empty());
            }
            waiting.look();
        }
    }

    /// The task ends or executes a program: cancels all that it waits for, and forgets its registered rings.
    ///
    /// The life ends first: what others queue later they end themselves, and what they queued before is found in its ring.
    pub fn leave(self: &Arc<Self>) {
        let mut left = {
            let mut ready = self.ready.lock();
            ready.life = ready.life.wrapping_add(1);
            ready.list.take()
        };
        let rings = core::mem::take(&mut *self.rings.lock());
        for ring in rings.iter().filter_map(Weak::upgrade) {
            ring.cancel_of(self);
        }
        // One by one: a long list would end each other on the stack.
        while let Some(waiting) = left {
            left = waiting.set_next(None);
            waiting.ring().was_looked_at();
        }
        let registered = core::mem::replace(&mut *self.registered.lock(), [const { None }; MAX_REGISTERED]);
        drop(registered);
    }

    /// The ring registered at `at`. `EINVAL`: no such place. `EBADF`: none is there.
    pub fn registered(&self, at: u32) -> Result<Arc<File>> {
        let registered = self.registered.lock();
        registered.get(at as usize).ok_or(Errno::EINVAL)?.clone().ok_or(Errno::EBADF)
    }

    /// Registers `file` at `at`, or anywhere for `u32::MAX`; gives the place. `EINVAL`, `EBUSY`.
    pub fn register(&self, at: u32, file: Arc<File>) -> Result<u32> {
        let mut registered = self.registered.lock();
        let at = if at == u32::MAX {
            registered.iter().position(Option::is_none).ok_or(Errno::EBUSY)?
        } else {
            at as usize
        };
        let place = registered.get_mut(at).ok_or(Errno::EINVAL)?;
        if place.is_some() {
            return Err(Errno::EBUSY);
        }
        *place = Some(file);
        Ok(at as u32)
    }

    /// Empties the place `at`. `EINVAL`.
    pub fn unregister(&self, at: u32) -> Result<()> {
        let old = self.registered.lock().get_mut(at as usize).ok_or(Errno::EINVAL)?.take();
        drop(old);
        Ok(())
    }
}
