//! The names in the directories of processes and threads (proc_pid(5)).

use abi::{Errno, Result};
use nsfs::Which;
use process::Task;
use security::NsKind;
use vfs::Path;

use super::Kind::{Dir, Guarded, Link, Memory, Ns, Special, Text, Tunable};
use super::{DirKind, Entry, Kind, accounts, idmap, maps, mem, pagemap, smaps, stat, status, text};

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

/// Namespaces.
const NS_ENTRIES: &[Entry] = &[
    entry("cgroup", 0o777, Ns(Which::Own(NsKind::Cgroup))),
    entry("ipc", 0o777, Ns(Which::Own(NsKind::Ipc))),
    entry("mnt", 0o777, Ns(Which::Own(NsKind::Mnt))),
    entry("net", 0o777, Ns(Which::Own(NsKind::Net))),
    entry("pid", 0o777, Ns(Which::Own(NsKind::Pid))),
    entry("pid_for_children", 0o777, Ns(Which::ForChildren(NsKind::Pid))),
    entry("time", 0o777, Ns(Which::Own(NsKind::Time))),
    entry("time_for_children", 0o777, Ns(Which::ForChildren(NsKind::Time))),
    entry("user", 0o777, Ns(Which::Own(NsKind::User))),
    entry("uts", 0o777, Ns(Which::Own(NsKind::Uts))),
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
            entry("cmdline", 0o444, Text(text::cmdline)),
            entry("stat", 0o444, Text(stat::show)),
            entry("statm", 0o444, Text(stat::statm)),
            entry("maps", 0o444, Special(maps::open)),
            entry("numa_maps", 0o444, Memory(maps::numa_maps)),
            entry("mem", 0o600, Special(mem::open)),
            entry("cwd", 0o777, Link(cwd)),
            entry("root", 0o777, Link(root)),
            entry("exe", 0o777, Link(exe)),
            entry("mounts", 0o444, Text(text::mounts)),
            entry("mountinfo", 0o444, Text(text::mountinfo)),
            entry("smaps", 0o444, Memory(smaps::show)),
            entry("smaps_rollup", 0o444, Memory(smaps::show_rollup)),
            entry("ksm_merging_pages", 0o400, Memory(text::ksm_merging_pages)),
            entry("ksm_stat", 0o400, Memory(text::ksm_stat)),
            entry("pagemap", 0o400, Special(pagemap::open)),
            entry("clear_refs", 0o200, Tunable(text::nothing, pagemap::clear_refs)),
            entry("attr", 0o555, Dir(DirKind::Table(ATTR_ENTRIES))),
            entry("wchan", 0o444, Text(text::wchan)),
            entry("stack", 0o400, Guarded(text::nothing)),
            entry("syscall", 0o400, Guarded(text::syscall)),
            entry("schedstat", 0o444, Text(accounts::schedstat)),
            entry("cgroup", 0o444, Text(text::cgroup)),
            entry("oom_score", 0o444, Text(accounts::oom_score)),
            entry("oom_adj", 0o644, Tunable(accounts::oom_adj, accounts::set_oom_adj)),
            entry("oom_score_adj", 0o644, Tunable(accounts::oom_score_adj, accounts::set_oom_score_adj)),
            entry("loginuid", 0o644, Tunable(accounts::no_id, accounts::set_no_id)),
            entry("sessionid", 0o444, Text(accounts::no_id)),
            entry("io", 0o400, Guarded(accounts::io)),
            entry("fail-nth", 0o644, Tunable(accounts::fail_nth, accounts::set_fail_nth)),
            entry("uid_map", 0o644, Special(idmap::open_users)),
            entry("gid_map", 0o644, Special(idmap::open_groups)),
            entry("projid_map", 0o644, Special(idmap::open_projects)),
            entry("setgroups", 0o644, Tunable(idmap::setgroups, idmap::set_setgroups)),
        ]
    };
}

/// What is in the directory of a process.
pub(crate) static PROCESS_ENTRIES: &[Entry] = common![
    entry("task", 0o555, Dir(DirKind::Task)),
    entry("map_files", 0o500, Dir(DirKind::MapFiles)),
    entry("net", 0o555, Dir(DirKind::Net)),
    entry("mountstats", 0o400, Guarded(text::mountstats)),
    entry("coredump_filter", 0o644, Tunable(accounts::coredump_filter, accounts::set_coredump_filter)),
    entry("timers", 0o444, Text(accounts::timers)),
    entry("timens_offsets", 0o644, Tunable(idmap::time_offsets, idmap::set_time_offsets)),
    entry("timerslack_ns", 0o444, Text(accounts::timer_slack)),
];

/// What is in the directory of a thread.
pub(super) const THREAD_ENTRIES: &[Entry] = common![entry("children", 0o444, Text(text::children)),];
