//! The CPU time of a group: of the tasks that ended in it or moved out. Those that are in it count their own.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// In user mode with a nice value above 0.
    pub nice_ns: u64,
}

impl Times {
    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            user_ns: self.user_ns.saturating_add(other.user_ns),
            system_ns: self.system_ns.saturating_add(other.system_ns),
            nice_ns: self.nice_ns.saturating_add(other.nice_ns),
        }
    }

    /// What is more in it than in `earlier`. The division into user and system time is an estimate that may go back a
    /// little, so the sum of both is kept.
    pub fn since(self, earlier: Self) -> Self {
        let total = (self.user_ns + self.system_ns).saturating_sub(earlier.user_ns + earlier.system_ns);
        let user_ns = self.user_ns.saturating_sub(earlier.user_ns).min(total);
        let nice_ns = self.nice_ns.saturating_sub(earlier.nice_ns).min(user_ns);
        Self { user_ns, system_ns: total - user_ns, nice_ns }
    }
}

/// [`Times`] that many add to.
pub(crate) struct CpuTime {
    user_ns: AtomicU64,
    system_ns: AtomicU64,
    nice_ns: AtomicU64,
}

impl CpuTime {
    pub(crate) const fn new() -> Self {
        Self { user_ns: AtomicU64::new(0), system_ns: AtomicU64::new(0), nice_ns: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, times: Times) {
        self.user_ns.fetch_add(times.user_ns, Relaxed);
        self.system_ns.fetch_add(times.system_ns, Relaxed);
        self.nice_ns.fetch_add(times.nice_ns, Relaxed);
    }

    pub(crate) fn get(&self) -> Times {
        Times {
            user_ns: self.user_ns.load(Relaxed),
            system_ns: self.system_ns.load(Relaxed),
            nice_ns: self.nice_ns.load(Relaxed),
        }
    }
}

impl crate::Cgroup {
    /// Adds what a task used that ends in it or leaves it.
    pub fn add_times(&self, times: Times) {
        self.cpu_time.add(times);
    }

    /// What tasks used that ended in it or left it, and those of groups below that were removed.
    pub fn past_times(&self) -> Times {
        self.cpu_time.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_keeps_the_sum() {
        let at = |user_ns, system_ns| Times { user_ns, system_ns, nice_ns: 0 };
        assert_eq!(at(7, 5).since(at(3, 2)), at(4, 3));
        assert_eq!(at(2, 10).since(at(3, 2)), at(0, 7));
        assert_eq!(at(9, 1).since(at(3, 2)), at(5, 0));
        assert_eq!(at(1, 1).plus(at(2, 3)), at(3, 4));
    }
}
