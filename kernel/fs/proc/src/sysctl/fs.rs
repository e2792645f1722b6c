//! /proc/sys/fs (proc_sys_fs(5)).

use core::sync::atomic::Ordering::Relaxed;

use abi::{Errno, Result};
use vfs::perm;
use vfs::put;
use vfs::text::Text;

use crate::node::{Entry, Kind, dir, fixed, parse};

/// Smallest and largest /proc/sys/fs/pipe-max-size.
const PIPE_SIZE: core::ops::RangeInclusive<usize> = hal::PAGE_SIZE..=1 << 31;
/// Smallest and largest /proc/sys/fs/nr_open.
const NR_OPEN: core::ops::RangeInclusive<usize> = 64..=1 << 30;

const fn switch(name: &'static str, value: &'static core::sync::atomic::AtomicU32, max: u32) -> Entry {
    Entry { name, kind: Kind::Number32(value, 0..=max) }
}

/// A number of bytes or files. `EINVAL`: out of range.
fn parse_size(bytes: &[u8], range: core::ops::RangeInclusive<usize>) -> Result<usize> {
    usize::try_from(parse(bytes)?).ok().filter(|size| range.contains(size)).ok_or(Errno::EINVAL)
}

/// Open files: there is no limit and no count, so what all tables hold is summed up.
fn file_nr(out: &mut Text) -> Result<()> {
    let tables = process::pid::processes().filter_map(|group| group.live_task()?.files());
    let open: usize = tables.map(|files| files.fds().len()).sum();
    put!(out, "{open}\t0\t{}\n", i64::MAX);
    Ok(())
}

/// The entries.
pub(super) static ENTRIES: &[Entry] = &[
    Entry { name: "aio-max-nr", kind: Kind::Number64(&limits::events::AIO_MAX_NR, 0..=u64::MAX) },
    Entry {
        name: "aio-nr",
        kind: Kind::Shown(|out| {
            put!(out, "{}\n", limits::events::AIO_NR.load(Relaxed));
            Ok(())
        }),
    },
    dir("binfmt_misc", &[]),
    Entry {
        name: "dentry-state",
        kind: Kind::Shown(|out| {
            put!(out, "{0}\t0\t45\t0\t0\t0\n", vfs::nr_dentries());
            Ok(())
        }),
    },
    switch("dir-notify-enable", &vfs::dnotify::ENABLED, i32::MAX as u32),
    dir(
        "epoll",
        &[Entry {
            name: "max_user_watches",
            kind: Kind::Number64(&limits::events::EPOLL_WATCHES, 0..=i64::MAX as u64),
        }],
    ),
    dir(
        "fanotify",
        &[
            switch("max_queued_events", &limits::events::FANOTIFY_QUEUED, i32::MAX as u32),
            switch("max_user_groups", &limits::events::FANOTIFY_GROUPS, i32::MAX as u32),
            switch("max_user_marks", &limits::events::FANOTIFY_MARKS, i32::MAX as u32),
        ],
    ),
    fixed("file-max", "9223372036854775807"),
    Entry { name: "file-nr", kind: Kind::Shown(file_nr) },
    Entry {
        name: "inode-nr",
        kind: Kind::Shown(|out| {
            put!(out, "{}\t0\n", vfs::nr_dentries());
            Ok(())
        }),
    },
    Entry {
        name: "inode-state",
        kind: Kind::Shown(|out| {
            put!(out, "{}\t0\t0\t0\t0\t0\t0\n", vfs::nr_dentries());
            Ok(())
        }),
    },
    dir(
        "inotify",
        &[
            switch("max_queued_events", &limits::events::INOTIFY_QUEUED, i32::MAX as u32),
            switch("max_user_instances", &limits::events::INOTIFY_INSTANCES, i32::MAX as u32),
            switch("max_user_watches", &limits::events::INOTIFY_WATCHES, i32::MAX as u32),
        ],
    ),
    switch("lease-break-time", &vfs::lock::lease::BREAK_TIME, i32::MAX as u32),
    switch("leases-enable", &vfs::lock::lease::ENABLED, i32::MAX as u32),
    fixed("mount-max", "100000"),
    dir("mqueue", super::ipc::MQUEUE),
    Entry {
        name: "nr_open",
        kind: Kind::Tunable(
            |out| {
                put!(out, "{}\n", vfs::fdtable::NR_OPEN.load(Relaxed));
                Ok(())
            },
            |bytes| {
                vfs::fdtable::NR_OPEN.store(parse_size(bytes, NR_OPEN)?, Relaxed);
                Ok(())
            },
        ),
    },
    fixed("overflowgid", "65534"),
    fixed("overflowuid", "65534"),
    Entry {
        name: "pipe-max-size",
        kind: Kind::Tunable(
            |out| {
                put!(out, "{}\n", vfs::pipe::MAX_CAPACITY.load(Relaxed));
                Ok(())
            },
            |bytes| {
                let size = parse_size(bytes, PIPE_SIZE)?.next_power_of_two();
                vfs::pipe::MAX_CAPACITY.store(size, Relaxed);
                Ok(())
            },
        ),
    },
    fixed("pipe-user-pages-hard", "0"),
    fixed("pipe-user-pages-soft", "16384"),
    switch("protected_fifos", &perm::PROTECTED_FIFOS, 2),
    switch("protected_hardlinks", &perm::PROTECTED_HARDLINKS, 1),
    switch("protected_regular", &perm::PROTECTED_REGULAR, 2),
    switch("protected_symlinks", &perm::PROTECTED_SYMLINKS, 1),
    fixed("suid_dumpable", "0"),
];
