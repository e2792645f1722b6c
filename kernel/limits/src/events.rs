//! How much of inotify(7), fanotify(7) and epoll(7) one user may have, how many events wait, and how much asynchronous I/O all
//! have together (proc_sys_fs(5)).

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

/// /proc/sys/fs/inotify/max_user_instances.
pub static INOTIFY_INSTANCES: AtomicU32 = AtomicU32::new(128);
/// /proc/sys/fs/inotify/max_user_watches.
pub static INOTIFY_WATCHES: AtomicU32 = AtomicU32::new(INOTIFY_WATCHES_MAX);
/// /proc/sys/fs/inotify/max_queued_events: how many events wait in one instance.
pub static INOTIFY_QUEUED: AtomicU32 = AtomicU32::new(16384);
/// /proc/sys/fs/fanotify/max_user_groups.
pub static FANOTIFY_GROUPS: AtomicU32 = AtomicU32::new(128);
/// /proc/sys/fs/fanotify/max_user_marks.
pub static FANOTIFY_MARKS: AtomicU32 = AtomicU32::new(INOTIFY_WATCHES_MAX);
/// /proc/sys/fs/fanotify/max_queued_events: how many events wait in one group.
pub static FANOTIFY_QUEUED: AtomicU32 = AtomicU32::new(16384);
/// /proc/sys/fs/epoll/max_user_watches.
pub static EPOLL_WATCHES: AtomicU64 = AtomicU64::new(1 << 20);
/// How many requests of io_uring wait for a user at most.
///
/// LINUX: only memory bounds them, charged to the control group; here one eighth of it may go to each user's.
pub static IO_URING_REQUESTS: AtomicU64 = AtomicU64::new(1 << 16);

/// What an inotify watch costs with the inode that it holds, and what an item of epoll costs, in bytes.
const INOTIFY_WATCH_COST: u64 = 1200;
const EPOLL_WATCH_COST: u64 = 192;
/// What a request of io_uring costs that waits for a file, with its timer and its places in lists, in bytes.
const IO_URING_REQUEST_COST: u64 = 1024;
const INOTIFY_WATCHES_MIN: u32 = 8192;
const INOTIFY_WATCHES_MAX: u32 = 1 << 20;

/// Sets what depends on the memory that the machine has, in bytes: one hundredth for watches of inotify, one
/// twenty-fifth for items of epoll, one eighth for requests of io_uring.
pub fn init(memory: u64) {
    let watches = u32::try_from(memory / 100 / INOTIFY_WATCH_COST).unwrap_or(u32::MAX);
    let watches = watches.clamp(INOTIFY_WATCHES_MIN, INOTIFY_WATCHES_MAX);
    INOTIFY_WATCHES.store(watches, Relaxed);
    FANOTIFY_MARKS.store(watches, Relaxed);
    EPOLL_WATCHES.store(memory / 25 / EPOLL_WATCH_COST, Relaxed);
    IO_URING_REQUESTS.store(memory / 8 / IO_URING_REQUEST_COST, Relaxed);
}

/// /proc/sys/kernel/io_uring_disabled: 1 for all but the privileged and [`IO_URING_GROUP`], 2 for all.
pub static IO_URING_DISABLED: AtomicU32 = AtomicU32::new(0);
/// /proc/sys/kernel/io_uring_group: a group, or a negative number for none.
pub static IO_URING_GROUP: AtomicI32 = AtomicI32::new(-1);

/// /proc/sys/fs/aio-max-nr: how many requests all contexts of asynchronous I/O may have asked for together.
pub static AIO_MAX_NR: AtomicU64 = AtomicU64::new(0x1_0000);
/// /proc/sys/fs/aio-nr: how many they have.
pub static AIO_NR: AtomicU64 = AtomicU64::new(0);

/// Counts `nr` more requests, unless that would pass the limit; says whether it did.
pub fn charge_aio(nr: u64) -> bool {
    let max = AIO_MAX_NR.load(Relaxed);
    let add = |now: u64| now.checked_add(nr).filter(|&sum| sum <= max);
    AIO_NR.fetch_update(Relaxed, Relaxed, add).is_ok()
}

/// Gives `nr` requests back.
pub fn uncharge_aio(nr: u64) {
    AIO_NR.fetch_sub(nr, Relaxed);
}
