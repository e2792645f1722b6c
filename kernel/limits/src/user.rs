//! What one user has in use, counted across its processes.
//!
//! # Invariants
//!
//! - U1: each successful charge is paid back once by `uncharge`, so a count never falls below zero.
//!
//! Counts are relaxed atomics: they guard no other memory.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// What is counted per user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UserResource {
    /// Threads (`RLIMIT_NPROC`).
    Processes,
    /// Queued signals (`RLIMIT_SIGPENDING`).
    Sigpending,
    /// Locked shared memory in pages (`RLIMIT_MEMLOCK`).
    LockedPages,
    /// Bytes of POSIX message queues (`RLIMIT_MSGQUEUE`).
    MqueueBytes,
    /// inotify instances.
    InotifyInstances,
    /// inotify watches.
    InotifyWatches,
    /// fanotify groups.
    FanotifyGroups,
    /// fanotify marks.
    FanotifyMarks,
    /// epoll entries.
    EpollWatches,
    /// Pages in pipe buffers beyond the default size.
    PipePages,
    /// Requests of io_uring that wait, or wait for their turn.
    IoUringRequests,
}

/// The counts of one user.
#[derive(Debug)]
pub struct UserCounts {
    uid: u32,
    counts: [AtomicU64; 11],
}

impl UserCounts {
    /// No use so far.
    pub const fn new(uid: u32) -> Self {
        Self { uid, counts: [const { AtomicU64::new(0) }; 11] }
    }

    /// Whose counts these are.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The present use.
    pub fn get(&self, what: UserResource) -> u64 {
        self.counts[what as usize].load(Relaxed)
    }

    /// Adds `amount`, whatever the limit.
    #[inline]
    pub fn charge(&self, what: UserResource, amount: u64) {
        self.counts[what as usize].fetch_add(amount, Relaxed);
    }

    /// Adds `amount` unless the sum would pass `limit`; whether it was added.
    #[must_use]
    #[inline]
    pub fn try_charge(&self, what: UserResource, amount: u64, limit: u64) -> bool {
        let count = &self.counts[what as usize];
        let old = count.fetch_add(amount, Relaxed);
        let fits = old.checked_add(amount).is_some_and(|sum| sum <= limit);
        if !fits {
            count.fetch_sub(amount, Relaxed);
        }
        fits
    }

    /// Pays back `amount` of an earlier charge.
    #[inline]
    pub fn uncharge(&self, what: UserResource, amount: u64) {
        self.counts[what as usize].fetch_sub(amount, Relaxed);
    }
}

/// Part of a user's count, paid back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    user: Arc<UserCounts>,
    what: UserResource,
}

impl Charge {
    /// Charges one of `what` to `user` unless that would pass `limit`.
    #[inline]
    pub fn new(user: &Arc<UserCounts>, what: UserResource, limit: u64) -> Option<Self> {
        user.try_charge(what, 1, limit).then(|| Self { user: user.clone(), what })
    }
}

impl Drop for Charge {
    #[inline]
    fn drop(&mut self) {
        self.user.uncharge(self.what, 1);
    }
}

/// The counts of all users that have processes. The owner wraps it in a lock.
#[derive(Debug, Default)]
pub struct Users(BTreeMap<u32, Arc<UserCounts>>);

impl Users {
    /// No users.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The counts of `uid`, made on first use. Users that nobody refers to any more are dropped now and then.
    pub fn get(&mut self, uid: u32) -> Arc<UserCounts> {
        if let Some(counts) = self.0.get(&uid) {
            return counts.clone();
        }
        if self.0.len() % 64 == 63 {
            self.0.retain(|_, counts| Arc::strong_count(counts) > 1);
        }
        self.0.entry(uid).or_insert_with(|| Arc::new(UserCounts::new(uid))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_beyond_the_limit_leaves_no_trace() {
        let user = UserCounts::new(7);
        assert!(user.try_charge(UserResource::Processes, 2, 2));
        assert!(!user.try_charge(UserResource::Processes, 1, 2));
        assert_eq!(user.get(UserResource::Processes), 2);
        user.uncharge(UserResource::Processes, 1);
        assert!(user.try_charge(UserResource::Processes, 1, 2));
        assert_eq!(user.get(UserResource::Sigpending), 0);
    }

    #[test]
    fn one_user_has_one_account() {
        let mut users = Users::new();
        users.get(5).charge(UserResource::Sigpending, 3);
        assert_eq!(users.get(5).get(UserResource::Sigpending), 3);
        let kept = users.get(1);
        (1000..2000).for_each(|uid| drop(users.get(uid)));
        assert!(users.0.len() < 200);
        assert!(Arc::ptr_eq(&kept, &users.get(1)));
    }
}
