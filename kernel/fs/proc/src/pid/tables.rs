//! The names in the directories of processes and threads (proc_pid(5)).

use abi::{Errno, Result};
use process::Task;
use vfs::Path;

use super::Kind::{Dir, Guarded, Link, Memory, Name, Special, Text, Tunable};
use super::{DirKind, Entry, Kind, accounts, maps, mem, smaps, stat, status, text};

const fn entry(name: &'static str, mode: u32, kind: Kind) -> Entry {
    Entry { name, mode, kind }
}

fn exe(task: &Task) -> Result<Path> {
    // A process that has ended has no program any more.
    task.mm().ok_or(Errno::ENOENT)?;
    Ok(task.group().exe().ok_or(Errno::ENOENT)?.path().clone())
}

fn cwd(task: &Task) -> Result<Path> {
    task.fs().map(|fs| fs.cwd()).ok_or(Errno::ENOENT)
}

fn root(task: &Task) -> Result<Path> {
    task.fs().map(|fs| fs.root()).ok_or(Errno::ENOENT)
}

/// Inode numbers of the first namespace of each kind on Linux (include/uapi/linux/nsfs.h).
const NS_ENTRIES: &[Entry] = &[
    entry("cgroup", 0o777, Name("cgroup", 0xefff_fffb)),
    entry("ipc", 0o777, Name("ipc", 0xefff_ffff)),
    entry("mnt", 0o777, Name("mnt", 0xefff_fff8)),
    entry("net", 0o777, Name("net", 0xefff_fff9)),
    entry("pid", 0o777, Name("pid", 0xefff_fffc)),
    entry("pid_for_children", 0o777, Name("pid", 0xefff_fffc)),
    entry("time", 0o777, Name("time", 0xefff_fffa)),
    entry("time_for_children", 0o777, Name("time", 0xefff_fffa)),
    entry("user", 0o777, Name("user", 0xefff_fffd)),
    entry("uts", 0o777, Name("uts", 0xefff_fffe)),
];

/// Attributes of security modules; without one, reading them is an error.
const ATTR_ENTRIES: &[Entry] = &[
    entry("current", 0o444, Text(text::no_module)),
    entry("exec", 0o444, Text(text::no_module)),
    entry("fscreate", 0o444, Text(text::no_module)),
    entry("keycreate", 0o444, Text(text::no_module)),
    entry("prev", 0o444, Text(text::no_module)),
    entry("sockcreate", 0o444, Text(text::no_module)),
];

/// The names that processes and threads share; `process` and `thread` add theirs.
macro_rules! common {
    ($($own:expr,)*) => {
        &[
            $($own,)*
            entry("fd", 0o500, Dir(DirKind::Fd)),
            entry("fdinfo", 0o555, Dir(DirKind::FdInfo)),
            entry("ns", 0o511, Dir(DirKind::Table(NS_ENTRIES))),
            entry("environ", 0o400, Memory(text::environ)),
            entry("auxv", 0o400, Memory(text::auxv)),
            entry("status", 0o444, Text(status::show)),
            entry("personality", 0o400, Guarded(accounts::personality)),
            entry("limits", 0o444, Text(accounts::limits)),
            entry("sched", 0o644, Tunable(accounts::sched, accounts::ignore)),
            entry("comm", 0o644, Tunable(text::comm, text::set_comm)),
            entry("syscall", 0o400, Guarded(text::syscall)),
            entry("cmdline", 0o444, Text(text::cmdline)),
            entry("stat", 0o444, Text(stat::show)),
            entry("statm", 0o444, Text(stat::statm)),
            entry("maps", 0o444, Memory(maps::show)),
            entry("mem", 0o600, Special(mem::open)),
            entry("cwd", 0o777, Link(cwd)),
            entry("root", 0o777, Link(root)),
            entry("exe", 0o777, Link(exe)),
            entry("mounts", 0o444, Text(text::mounts)),
            entry("mountinfo", 0o444, Text(text::mountinfo)),
            entry("smaps", 0o444, Memory(smaps::show)),
            entry("smaps_rollup", 0o444, Memory(smaps::show_rollup)),
            entry("pagemap", 0o400, Special(mem::open_pagemap)),
            entry("attr", 0o555, Dir(DirKind::Table(ATTR_ENTRIES))),
            entry("wchan", 0o444, Text(text::wchan)),
            entry("stack", 0o400, Guarded(text::nothing)),
            entry("schedstat", 0o444, Text(accounts::schedstat)),
            entry("cgroup", 0o444, Text(text::nothing)),
            entry("oom_score", 0o444, Text(accounts::oom_score)),
            entry("oom_adj", 0o644, Tunable(accounts::oom_adj, accounts::set_oom_adj)),
            entry("oom_score_adj", 0o644, Tunable(accounts::oom_score_adj, accounts::set_oom_score_adj)),
            entry("loginuid", 0o644, Tunable(accounts::no_id, accounts::set_no_id)),
            entry("sessionid", 0o444, Text(accounts::no_id)),
            entry("io", 0o400, Guarded(accounts::io)),
            entry("uid_map", 0o644, Tunable(accounts::id_map, accounts::set_id_map)),
            entry("gid_map", 0o644, Tunable(accounts::id_map, accounts::set_id_map)),
            entry("projid_map", 0o644, Tunable(accounts::id_map, accounts::set_id_map)),
            entry("setgroups", 0o644, Tunable(accounts::setgroups, accounts::set_id_map)),
        ]
    };
}

/// What is in the directory of a process.
pub(crate) const PROCESS_ENTRIES: &[Entry] = common![
    entry("task", 0o555, Dir(DirKind::Task)),
    entry("net", 0o555, Dir(DirKind::Net)),
    entry("mountstats", 0o400, Guarded(text::mountstats)),
    entry("coredump_filter", 0o444, Text(accounts::coredump_filter)),
    entry("timers", 0o444, Text(text::nothing)),
    entry("timerslack_ns", 0o444, Text(accounts::timer_slack)),
];

/// What is in the directory of a thread.
pub(super) const THREAD_ENTRIES: &[Entry] = common![entry("children", 0o444, Text(text::children)),];
