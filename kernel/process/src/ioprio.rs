//! I/O priorities: what ioprio_set(2) sets.
//!
//! A priority is a class (the top three bits), hints and a level. It belongs to an I/O context, which a thread has once a
//! priority was set; a child gets a copy of its own, or the same one with `CLONE_IO`.
//!
//! LINUX: which class goes first is the block scheduler's choice, and there are schedulers that look at none. Keel's is
//! such a one.
//!
//! Sources: ioprio_set(2), Documentation/block/ioprio.rst.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

use abi::{Errno, Result};
use sched::{Attributes, Policy};
use security::{Cap, Cred};

use crate::Task;

const CLASS_SHIFT: u32 = 13;
const CLASS_NONE: u16 = 0;
const CLASS_RT: u16 = 1;
const CLASS_BE: u16 = 2;
const CLASS_IDLE: u16 = 3;
/// Bits of a level.
const LEVEL: u16 = 7;

/// The I/O context of threads.
pub(crate) type IoContext = Arc<AtomicU16>;

fn class(priority: u16) -> u16 {
    priority >> CLASS_SHIFT
}

/// Checks a priority that `cred` wants to use. `EINVAL`: no such class, or a level without a class. `EPERM`: the real-time
/// class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
pub fn check(priority: u32, cred: &Cred) -> Result<u16> {
    // Linux looks at the low 16 bits only.
    let priority = priority as u16;
    match class(priority) {
        CLASS_RT if !cred.capable(Cap::SYS_ADMIN) && !cred.capable(Cap::SYS_NICE) => Err(Errno::EPERM),
        CLASS_NONE if priority & LEVEL != 0 => Err(Errno::EINVAL),
        CLASS_NONE | CLASS_RT | CLASS_BE | CLASS_IDLE => Ok(priority),
        _ => Err(Errno::EINVAL),
    }
}

/// The priority that follows from how a thread is scheduled.
fn of_scheduling(attributes: Attributes) -> u16 {
    let class = match attributes.policy {
        Policy::Idle => CLASS_IDLE,
        Policy::Fifo | Policy::RoundRobin => CLASS_RT,
        Policy::Normal | Policy::Batch => CLASS_BE,
    };
    let level = (i32::from(attributes.nice) + 20) / 5;
    class << CLASS_SHIFT | level as u16 & LEVEL
}

impl Task {
    /// The priority that was set; 0 when none was.
    pub fn ioprio(&self) -> u16 {
        self.io_context.lock().as_ref().map_or(0, |context| context.load(Relaxed))
    }

    /// The priority that counts: when none was set, that of its scheduling.
    pub fn effective_ioprio(&self) -> u16 {
        match self.ioprio() {
            set if class(set) != CLASS_NONE => set,
            _ => self.thread().map_or(0, |thread| of_scheduling(thread.own_attributes())),
        }
    }

    /// Sets its priority, and that of all who share its I/O context.
    pub fn set_ioprio(&self, priority: u16) {
        let new = Arc::new(AtomicU16::new(priority)); // before the lock, under which nothing is allocated
        let mut context = self.io_context.lock();
        match &*context {
            Some(known) => known.store(priority, Relaxed),
            None => *context = Some(new),
        }
    }

    /// The I/O context of a new child: the same one, or one with the same priority.
    pub(crate) fn io_context_for_child(&self, shares: bool) -> Option<IoContext> {
        let context = self.io_context.lock().clone()?;
        if shares {
            return Some(context);
        }
        let priority = context.load(Relaxed);
        (class(priority) != CLASS_NONE).then(|| Arc::new(AtomicU16::new(priority)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Cred {
        let mut cred = Cred::root();
        cred.effective = security::CapSet::EMPTY;
        cred
    }

    #[test]
    fn classes_and_levels_are_checked() {
        let prio = |class: u16, level: u16| u32::from(class << CLASS_SHIFT | level);
        let (root, nobody) = (Cred::root(), nobody());
        assert_eq!(check(prio(CLASS_RT, 7), &root), Ok(0x2007));
        assert_eq!(check(prio(CLASS_RT, 7), &nobody), Err(Errno::EPERM));
        assert_eq!(check(prio(CLASS_BE, 0), &nobody), Ok(0x4000));
        assert_eq!(check(prio(CLASS_IDLE, 5), &nobody), Ok(0x6005));
        assert_eq!(check(prio(CLASS_NONE, 0), &nobody), Ok(0));
        assert_eq!(check(prio(CLASS_NONE, 1), &nobody), Err(Errno::EINVAL));
        assert_eq!(check(prio(4, 0), &nobody), Err(Errno::EINVAL));
        assert_eq!(check(prio(7, 0), &root), Err(Errno::EINVAL));
    }

    #[test]
    fn niceness_gives_a_level() {
        let of = |policy, nice| of_scheduling(Attributes { policy, nice, ..Attributes::NORMAL });
        assert_eq!(of(Policy::Normal, 0), 0x4004);
        assert_eq!(of(Policy::Batch, -20), 0x4000);
        assert_eq!(of(Policy::Normal, 19), 0x4007);
        assert_eq!(of(Policy::Idle, 0), 0x6004);
        assert_eq!(of(Policy::Fifo, 0), 0x2004);
    }
}
