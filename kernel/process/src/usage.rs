//! Resource usage: times, faults and switches of threads, processes and their children (getrusage(2), times(2)).
//!
//! A running thread's numbers live in its task and its `sched::Thread`. When it ends they are added to its process's
//! `dead`; when a process is reaped, its totals are added to the parent's `children`.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::process::Rusage;
use abi::time::Timeval;

use crate::task::TaskFlags;
use crate::{Task, ThreadGroup};

/// Nanoseconds in a clock tick of user space (`USER_HZ` is 100).
const NS_PER_TICK: u64 = 10_000_000;
/// Kilobytes in a page.
const KB_PER_PAGE: u64 = hal::PAGE_SIZE as u64 / 1024;

/// Sums of what was used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// CPU time in user mode, in nanoseconds.
    pub utime_ns: u64,
    /// CPU time in the kernel, in nanoseconds.
    pub stime_ns: u64,
    /// Page faults without I/O.
    pub min_flt: u64,
    /// Page faults that waited for I/O.
    pub maj_flt: u64,
    /// Times the CPU was given up.
    pub nvcsw: u64,
    /// Times the CPU was taken away.
    pub nivcsw: u64,
    /// Highest resident set in pages.
    pub max_rss: u64,
}

impl Sum {
    /// Adds `other`; peaks are compared instead.
    pub fn add(&mut self, other: &Self) {
        self.utime_ns += other.utime_ns;
        self.stime_ns += other.stime_ns;
        self.min_flt += other.min_flt;
        self.maj_flt += other.maj_flt;
        self.nvcsw += other.nvcsw;
        self.nivcsw += other.nivcsw;
        self.max_rss = self.max_rss.max(other.max_rss);
    }

    /// As user space sees it.
    #[inline]
    pub fn to_rusage(&self) -> Rusage {
        Rusage {
            ru_utime: Timeval::from_ns(self.utime_ns),
            ru_stime: Timeval::from_ns(self.stime_ns),
            ru_maxrss: (self.max_rss * KB_PER_PAGE) as i64,
            ru_minflt: self.min_flt as i64,
            ru_majflt: self.maj_flt as i64,
            ru_nvcsw: self.nvcsw as i64,
            ru_nivcsw: self.nivcsw as i64,
            ..Rusage::default()
        }
    }
}

/// What a process keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Of its threads that have ended.
    pub(crate) dead: Sum,
    /// Of its children that were waited for, and theirs.
    pub(crate) children: Sum,
}

/// Nanoseconds as clock ticks of user space.
#[inline]
pub fn ticks(ns: u64) -> u64 {
    ns / NS_PER_TICK
}

impl Task {
    /// What this thread has used.
    pub fn usage(&self) -> Sum {
        let mut sum = Sum {
            min_flt: self.min_flt.load(Relaxed),
            maj_flt: self.maj_flt.load(Relaxed),
            ..Sum::default()
        };
        if let Some(thread) = self.thread() {
            let times = thread.cpu_times();
            (sum.utime_ns, sum.stime_ns) = (times.user_ns, times.system_ns);
            (sum.nvcsw, sum.nivcsw) = thread.switches();
        }
        sum
    }
}

impl ThreadGroup {
    /// What all threads have used, those that have ended included. Not under a spinning lock: it may turn out to be the
    /// last user of the address space.
    pub fn usage(&self) -> Sum {
        let mut sum = self.usage.lock().dead;
        for task in self.threads().iter().filter(|task| !task.has(TaskFlags::DEAD)) {
            sum.add(&task.usage());
        }
        if let Some(mm) = self.live_task().and_then(|task| task.mm()) {
            sum.max_rss = sum.max_rss.max(mm.hiwater_rss());
        }
        sum
    }

    /// What children that were waited for have used.
    pub fn children_usage(&self) -> Sum {
        self.usage.lock().children
    }

    /// CPU time in user mode and in the kernel, in clock ticks, without looking at the address space.
    pub(crate) fn cpu_ticks(&self) -> (u64, u64) {
        let sum = self.cpu_times();
        (ticks(sum.utime_ns), ticks(sum.stime_ns))
    }

    /// CPU times in nanoseconds; the other numbers are not filled in.
    pub fn cpu_times(&self) -> Sum {
        let mut sum = self.usage.lock().dead;
        for task in self.threads().iter().filter(|task| !task.has(TaskFlags::DEAD)) {
            sum.add(&task.usage());
        }
        sum
    }

    /// CPU time of the process in nanoseconds (`CLOCK_PROCESS_CPUTIME_ID`).
    pub fn cpu_ns(&self) -> u64 {
        let sum = self.cpu_times();
        sum.utime_ns + sum.stime_ns
    }

    /// Adds the numbers of `task`, which ends.
    pub(crate) fn note_dead(&self, task: &Task) {
        let sum = task.usage();
        self.usage.lock().dead.add(&sum);
    }

    /// Adds a reaped child's numbers.
    pub(crate) fn note_reaped(&self, child: &Arc<ThreadGroup>) {
        let used = *child.usage.lock();
        let mut usage = self.usage.lock();
        usage.children.add(&used.dead);
        usage.children.add(&used.children);
    }
}
