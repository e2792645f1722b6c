//! The limits of one process.
//!
//! # Invariants
//!
//! - L1: the soft limit never exceeds the hard one, except for a reader between the two stores of [`Rlimits::set`].
//!
//! # Locking
//!
//! None: each number is an atomic. Two racing prlimit(2) calls on one resource may mix; both were allowed.
//!
//! Sources: getrlimit(2); defaults from include/asm-generic/resource.h of Linux 7.2.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use abi::process::{RLIM_INFINITY, Rlimit};
use abi::{Errno, Result};

/// The highest value of `RLIMIT_NOFILE` (/proc/sys/fs/nr_open).
pub const NR_OPEN: u64 = 1 << 20;

/// A resource of getrlimit(2); its number is the discriminant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// CPU time in seconds.
    Cpu,
    /// Size of a file in bytes.
    Fsize,
    /// Data segment in bytes.
    Data,
    /// Stack in bytes.
    Stack,
    /// Core dump in bytes.
    Core,
    /// Resident memory (without effect on Linux).
    Rss,
    /// Processes of the user.
    Nproc,
    /// One more than the highest file descriptor.
    Nofile,
    /// Locked memory in bytes.
    Memlock,
    /// Address space in bytes.
    As,
    /// File locks (without effect on Linux).
    Locks,
    /// Queued signals of the user.
    Sigpending,
    /// Bytes in POSIX message queues of the user.
    Msgqueue,
    /// Ceiling of the nice value, as 20 - nice.
    Nice,
    /// Ceiling of the real-time priority.
    Rtprio,
    /// CPU time in microseconds without a blocking call, for real-time threads.
    Rttime,
}

impl Resource {
    /// All of them, by number.
    pub const ALL: [Self; 16] = [
        Self::Cpu,
        Self::Fsize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::Rss,
        Self::Nproc,
        Self::Nofile,
        Self::Memlock,
        Self::As,
        Self::Locks,
        Self::Sigpending,
        Self::Msgqueue,
        Self::Nice,
        Self::Rtprio,
        Self::Rttime,
    ];

    /// The resource with this number. `EINVAL`: there is none.
    #[inline]
    pub fn from_number(number: u32) -> Result<Self> {
        Self::ALL.get(number as usize).copied().ok_or(Errno::EINVAL)
    }
}

/// Soft and hard limit as atomics.
#[derive(Debug)]
struct Pair {
    cur: AtomicU64,
    max: AtomicU64,
}

/// The 16 limits of one process.
#[derive(Debug)]
pub struct Rlimits([Pair; 16]);

impl Rlimits {
    /// The limits of the first process. `max_threads` is how many threads the memory allows.
    pub fn for_init(max_threads: u64) -> Self {
        const MIB: u64 = 1 << 20;
        let half = max_threads / 2;
        Self(Resource::ALL.map(|resource| {
            let (cur, max) = match resource {
                Resource::Stack => (8 * MIB, RLIM_INFINITY),
                Resource::Core => (0, RLIM_INFINITY),
                Resource::Nproc | Resource::Sigpending => (half, half),
                Resource::Nofile => (1024, 4096),
                Resource::Memlock => (8 * MIB, 8 * MIB),
                Resource::Msgqueue => (819_200, 819_200),
                Resource::Nice | Resource::Rtprio => (0, 0),
                _ => (RLIM_INFINITY, RLIM_INFINITY),
            };
            Pair { cur: AtomicU64::new(cur), max: AtomicU64::new(max) }
        }))
    }

    /// A copy for a child process.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(core::array::from_fn(|idx| {
            let pair = &self.0[idx];
            Pair { cur: AtomicU64::new(pair.cur.load(Relaxed)), max: AtomicU64::new(pair.max.load(Relaxed)) }
        }))
    }

    /// The soft limit.
    #[inline]
    pub fn cur(&self, resource: Resource) -> u64 {
        self.0[resource as usize].cur.load(Relaxed)
    }

    /// The hard limit.
    #[inline]
    pub fn max(&self, resource: Resource) -> u64 {
        self.0[resource as usize].max.load(Relaxed)
    }

    /// Both limits.
    pub fn get(&self, resource: Resource) -> Rlimit {
        Rlimit { rlim_cur: self.cur(resource), rlim_max: self.max(resource) }
    }

    /// Sets both limits. `may_raise`: the caller has `CAP_SYS_RESOURCE`.
    ///
    /// `EINVAL`: the soft limit exceeds the hard one. `EPERM`: the hard limit would rise without the capability, or
    /// `RLIMIT_NOFILE` pass [`NR_OPEN`].
    pub fn set(&self, resource: Resource, new: Rlimit, may_raise: bool) -> Result<()> {
        if new.rlim_cur > new.rlim_max {
            return Err(Errno::EINVAL);
        }
        if resource == Resource::Nofile && new.rlim_max > NR_OPEN {
            return Err(Errno::EPERM);
        }
        if new.rlim_max > self.max(resource) && !may_raise {
            return Err(Errno::EPERM);
        }
        self.0[resource as usize].cur.store(new.rlim_cur, Relaxed);
        self.0[resource as usize].max.store(new.rlim_max, Relaxed);
        Ok(())
    }

    /// Lowers the soft limit to at most `cur`, unchecked otherwise (execve(2) of a privileged file).
    #[inline]
    pub fn clamp(&self, resource: Resource, cur: u64) {
        self.0[resource as usize].cur.fetch_min(cur, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_abi() {
        assert_eq!(Resource::Nofile as u32, 7);
        assert_eq!(Resource::Rttime as u32, 15);
        assert_eq!(Resource::from_number(3), Ok(Resource::Stack));
        assert_eq!(Resource::from_number(16), Err(Errno::EINVAL));
        assert!(Resource::ALL.iter().enumerate().all(|(idx, resource)| *resource as usize == idx));
    }

    #[test]
    fn only_the_privileged_raise_a_hard_limit() {
        let limits = Rlimits::for_init(1000);
        let new = Rlimit { rlim_cur: 5, rlim_max: 9000 };
        assert_eq!(limits.set(Resource::Nofile, new, false), Err(Errno::EPERM));
        assert_eq!(limits.set(Resource::Nofile, new, true), Ok(()));
        assert_eq!(limits.fork().get(Resource::Nofile), new);
        let crossed = Rlimit { rlim_cur: 2, rlim_max: 1 };
        assert_eq!(limits.set(Resource::Cpu, crossed, true), Err(Errno::EINVAL));
        let huge = Rlimit { rlim_cur: 2, rlim_max: NR_OPEN + 1 };
        assert_eq!(limits.set(Resource::Nofile, huge, true), Err(Errno::EPERM));
    }
}
