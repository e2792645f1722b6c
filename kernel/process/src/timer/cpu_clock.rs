//! Clocks of CPU time: of the caller, of its threads and of other processes.
//!
//! A negative clock number names a task and a kind: `!pid << 3 | thread << 2 | kind`, where pid 0 is the caller.
//! `CLOCK_PROCESS_CPUTIME_ID` and `CLOCK_THREAD_CPUTIME_ID` are the caller's own.
//!
//! Sources: clock_getcpuclockid(3), pthread_getcpuclockid(3); which tasks a number may name as on Linux 7.2.

use alloc::sync::{Arc, Weak};

use abi::time::clock;
use abi::{Errno, Result};

use crate::task::TaskFlags;
use crate::{Task, ThreadGroup, pid, task};

/// Bits of a clock number.
const KIND: i32 = 3;
const THREAD: i32 = 4;

/// What a clock number is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockUse {
    /// To read it: the caller's tid may stand for its process.
    Read,
    /// To wait for a time of it.
    Wait,
}

/// Which part of the CPU time counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// That in user mode and that in the kernel.
    All,
    /// That in user mode.
    User,
}

/// Whose CPU time it is.
#[derive(Clone, Debug)]
enum Whose {
    Process(Weak<ThreadGroup>),
    Thread(Weak<Task>),
}

/// A clock of CPU time.
#[derive(Clone, Debug)]
pub struct CpuClock {
    kind: Kind,
    whose: Whose,
}

/// CPU times of the calling thread and its process, read once for all timers.
pub(super) struct CpuTimes {
    pub(super) process: Used,
    pub(super) thread: Used,
}

/// CPU time in nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Used {
    pub(super) user_ns: u64,
    pub(super) all_ns: u64,
}

impl Kind {
    pub(super) fn of(self, used: Used) -> u64 {
        match self {
            Self::All => used.all_ns,
            Self::User => used.user_ns,
        }
    }
}

impl From<crate::usage::Sum> for Used {
    fn from(sum: crate::usage::Sum) -> Self {
        Self { user_ns: sum.utime_ns, all_ns: sum.utime_ns + sum.stime_ns }
    }
}

impl CpuClock {
    /// The clock with number `id`. `EINVAL`: it names no clock of CPU time, no task, a thread of another process, or (but
    /// for reading the caller's) a thread where it should name a process.
    pub fn find(id: i32, wanted: ClockUse) -> Result<Self> {
        let me = task::current();
        let own_process = || Whose::Process(Arc::downgrade(me.group()));
        let own_thread = || Whose::Thread(Arc::downgrade(me.arc()));
        let whose = match id {
            clock::PROCESS_CPUTIME_ID => own_process(),
            clock::THREAD_CPUTIME_ID => own_thread(),
            0.. => return Err(Errno::EINVAL),
            _ if id & KIND == KIND => return Err(Errno::EINVAL),
            _ => {
                let number = !(id >> 3) as u32;
                match (number, id & THREAD != 0) {
                    (0, true) => own_thread(),
                    (0, false) => own_process(),
                    (_, is_thread) => {
                        let task = pid::find_task(number).ok_or(Errno::EINVAL)?;
                        let is_mine = Arc::ptr_eq(task.group(), me.group());
                        let is_me = Arc::ptr_eq(&task, me.arc());
                        let is_leader = task.tid() == task.group().pid();
                        if is_thread && is_mine {
                            Whose::Thread(Arc::downgrade(&task))
                        } else if !is_thread && (is_leader || (is_me && wanted == ClockUse::Read)) {
                            Whose::Process(Arc::downgrade(task.group()))
                        } else {
                            return Err(Errno::EINVAL);
                        }
                    }
                }
            }
        };
        // Kinds 0 and 2 count all, but the first in ticks on Linux.
        let kind = if id < 0 && id & KIND == 1 { Kind::User } else { Kind::All };
        Ok(Self { kind, whose })
    }

    /// What of the time it counts.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its time in nanoseconds; `None` once the task is gone. Not under a spinning lock: it takes those of the process.
    pub fn read(&self) -> Option<u64> {
        let used: Used = match &self.whose {
            Whose::Process(group) => group.upgrade().filter(|group| group.pgid() != 0)?.cpu_times().into(),
            Whose::Thread(task) => task.upgrade().filter(|task| !task.has(TaskFlags::DEAD))?.usage().into(),
        };
        Some(self.kind.of(used))
    }

    /// Its time when it is one of `group` or of `task`, the caller's, whose times are `times`.
    pub(super) fn among(&self, group: &ThreadGroup, task: &Task, times: &CpuTimes) -> Option<u64> {
        let used = match &self.whose {
            Whose::Process(whose) => core::ptr::eq(whose.as_ptr(), group).then_some(times.process),
            Whose::Thread(whose) => core::ptr::eq(whose.as_ptr(), task).then_some(times.thread),
        };
        used.map(|used| self.kind.of(used))
    }

    /// The process whose time it is, when that is not `group`.
    pub(super) fn process_other_than(&self, group: &ThreadGroup) -> Option<Arc<ThreadGroup>> {
        match &self.whose {
            Whose::Process(whose) if !core::ptr::eq(whose.as_ptr(), group) => whose.upgrade(),
            _ => None,
        }
    }

    /// Whether it is the caller's own thread's.
    pub fn is_own_thread(&self) -> bool {
        matches!(&self.whose, Whose::Thread(task) if core::ptr::eq(task.as_ptr(), &**task::current().arc()))
    }
}
