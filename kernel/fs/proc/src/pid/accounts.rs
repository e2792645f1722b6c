//! Limits, accounting and identity of a process.

use abi::process::RLIM_INFINITY;
use abi::{Errno, Result};
use limits::Resource;
use process::timer::{Notification, timer_list};
use sched::Attributes;
use security::Cap;
use vfs::put;
use vfs::text::Text;

use super::Subject;
use crate::node::{parse, push_c_string};

/// The name and unit of each limit, by its number (proc_pid_limits(5)).
const LIMITS: [(Resource, &str, &str); 16] = [
    (Resource::Cpu, "Max cpu time", "seconds"),
    (Resource::Fsize, "Max file size", "bytes"),
    (Resource::Data, "Max data size", "bytes"),
    (Resource::Stack, "Max stack size", "bytes"),
    (Resource::Core, "Max core file size", "bytes"),
    (Resource::Rss, "Max resident set", "bytes"),
    (Resource::Nproc, "Max processes", "processes"),
    (Resource::Nofile, "Max open files", "files"),
    (Resource::Memlock, "Max locked memory", "bytes"),
    (Resource::As, "Max address space", "bytes"),
    (Resource::Locks, "Max file locks", "locks"),
    (Resource::Sigpending, "Max pending signals", "signals"),
    (Resource::Msgqueue, "Max msgqueue size", "bytes"),
    (Resource::Nice, "Max nice priority", ""),
    (Resource::Rtprio, "Max realtime priority", ""),
    (Resource::Rttime, "Max realtime timeout", "us"),
];

/// /proc/PID/limits.
pub(super) fn limits(subject: &Subject, out: &mut Text) -> Result<()> {
    let row = |out: &mut Text, name: &str, soft: &str, hard: &str, unit: &str| {
        put!(out, "{name:<25} {soft:<20} {hard:<20} {unit:<10}\n");
    };
    row(out, "Limit", "Soft Limit", "Hard Limit", "Units");
    let number = |limit| match limit {
        RLIM_INFINITY => alloc::string::String::from("unlimited"),
        limit => alloc::format!("{limit}"),
    };
    for (resource, name, unit) in LIMITS {
        let limit = subject.task.group().rlimits().get(resource);
        row(out, name, &number(limit.rlim_cur), &number(limit.rlim_max), unit);
    }
    Ok(())
}

/// /proc/PID/io. Bytes are not counted, so all is 0.
pub(super) fn io(_subject: &Subject, out: &mut Text) -> Result<()> {
    for name in ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"] {
        put!(out, "{name}: 0\n");
    }
    Ok(())
}

/// /proc/PID/schedstat: time on a CPU, time waiting for one (not measured), times that it ran.
pub(super) fn schedstat(subject: &Subject, out: &mut Text) -> Result<()> {
    let usage = subject.task.usage();
    let ran = usage.nvcsw + usage.nivcsw;
    put!(out, "{} 0 {ran}\n", usage.utime_ns + usage.stime_ns);
    Ok(())
}

/// /proc/PID/sched.
pub(super) fn sched(subject: &Subject, out: &mut Text) -> Result<()> {
    const RULE: &str = "-------------------------------------------------------------------";
    let task = &*subject.task;
    push_c_string(out, &task.comm());
    put!(out, " ({}, #threads: {})\n{RULE}\n", subject.number(task.tid()), task.group().nr_threads());
    let usage = task.usage();
    let ran_ns = usage.utime_ns + usage.stime_ns;
    let name = "se.sum_exec_runtime";
    put!(out, "{name:<45}:{:>14}.{:06}\n", ran_ns / 1_000_000, ran_ns % 1_000_000);
    let attributes = task.thread().map_or(Attributes::NORMAL, |thread| thread.attributes());
    let prio = if attributes.policy.is_realtime() {
        99 - i64::from(attributes.priority)
    } else {
        120 + i64::from(attributes.nice)
    };
    for (name, value) in [
        ("nr_switches", (usage.nvcsw + usage.nivcsw) as i64),
        ("nr_voluntary_switches", usage.nvcsw as i64),
        ("nr_involuntary_switches", usage.nivcsw as i64),
        ("policy", attributes.policy as i64),
        ("prio", prio),
    ] {
        put!(out, "{name:<45}:{value:>21}\n");
    }
    Ok(())
}

/// A write that changes nothing.
pub(super) fn ignore(_subject: &Subject, _bytes: &[u8]) -> Result<()> {
    Ok(())
}

/// /proc/PID/oom_score.
pub(super) fn oom_score(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", process::oom::score(subject.task.group()));
    Ok(())
}

/// Range of `oom_score_adj`, and of the older `oom_adj` with its special lowest value.
const SCORE_ADJ_MAX: i64 = 1000;
const OOM_ADJ_MAX: i64 = 15;
const OOM_DISABLE: i64 = -17;

/// /proc/PID/oom_score_adj.
pub(super) fn oom_score_adj(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", subject.task.group().oom_score_adj());
    Ok(())
}

/// Sets it. `EINVAL`: out of range. `EACCES`: lower than before, without `CAP_SYS_RESOURCE`.
pub(super) fn set_oom_score_adj(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let adj = parse(bytes)?;
    if !(-SCORE_ADJ_MAX..=SCORE_ADJ_MAX).contains(&adj) {
        return Err(Errno::EINVAL);
    }
    store_adj(subject, adj)
}

fn store_adj(subject: &Subject, adj: i64) -> Result<()> {
    let group = subject.task.group();
    let me = process::try_current().ok_or(Errno::EACCES)?;
    if adj < i64::from(group.oom_score_adj()) && !me.with_cred(|cred| cred.capable(Cap::SYS_RESOURCE)) {
        return Err(Errno::EACCES);
    }
    group.set_oom_score_adj(i32::try_from(adj).map_err(|_| Errno::EINVAL)?);
    Ok(())
}

/// /proc/PID/oom_adj: the same on the older scale.
pub(super) fn oom_adj(subject: &Subject, out: &mut Text) -> Result<()> {
    let adj = i64::from(subject.task.group().oom_score_adj());
    let old = if adj == SCORE_ADJ_MAX { OOM_ADJ_MAX } else { adj * -OOM_DISABLE / SCORE_ADJ_MAX };
    put!(out, "{old}\n");
    Ok(())
}

/// Sets it on the older scale.
pub(super) fn set_oom_adj(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let old = parse(bytes)?;
    if !(OOM_DISABLE..=OOM_ADJ_MAX).contains(&old) {
        return Err(Errno::EINVAL);
    }
    store_adj(subject, if old == OOM_ADJ_MAX { SCORE_ADJ_MAX } else { old * SCORE_ADJ_MAX / -OOM_DISABLE })
}

/// /proc/PID/loginuid and sessionid: never set, as there is no audit.
pub(super) fn no_id(_subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}", u32::MAX);
    Ok(())
}

/// `EPERM`: there is no audit that would keep it.
pub(super) fn set_no_id(_subject: &Subject, _bytes: &[u8]) -> Result<()> {
    Err(Errno::EPERM)
}

/// /proc/PID/coredump_filter.
pub(super) fn coredump_filter(subject: &Subject, out: &mut Text) -> Result<()> {
    if subject.task.mm().is_some() {
        put!(out, "{:08x}\n", subject.task.group().coredump_filter());
    }
    Ok(())
}

/// Sets it. `EINVAL`: no number. `ESRCH`: the memory is gone.
pub(super) fn set_coredump_filter(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
    let filter = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    subject.task.mm().ok_or(Errno::ESRCH)?;
    subject.task.group().set_coredump_filter(filter.map_err(|_| Errno::EINVAL)?);
    Ok(())
}

/// /proc/PID/timers: the POSIX timers, the newest first (proc_pid_timers(5)).
pub(super) fn timers(subject: &Subject, out: &mut Text) -> Result<()> {
    let group = subject.task.group();
    for timer in timer_list(group).iter().rev() {
        let event = timer.event;
        put!(
            out,
            "ID: {}\nsignal: {}/{:016x}\n",
            timer.id,
            event.signo,
            event.value.unwrap_or(timer.id as u64)
        );
        let (how, whom, id) = match event.notification {
            Notification::None => ("none", "pid", group.pid()),
            Notification::Signal => ("signal", "pid", group.pid()),
            Notification::Function => ("thread", "pid", group.pid()),
            Notification::Thread(tid) => ("signal", "tid", tid),
        };
        put!(out, "notify: {how}/{whom}.{}\nClockID: {}\n", subject.number(id), timer.clock_id);
    }
    Ok(())
}

/// /proc/PID/timerslack_ns.
pub(super) fn timer_slack(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", subject.task.timer_slack_ns());
    Ok(())
}

/// /proc/PID/fail-nth.
pub(super) fn fail_nth(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", subject.task.fail_nth());
    Ok(())
}

/// `EPERM`: the caller has no `CAP_SYS_RESOURCE`. LINUX: whoever may write the file does; there it is only in kernels
/// made for tests.
pub(super) fn set_fail_nth(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let me = process::try_current().ok_or(Errno::EPERM)?;
    if !me.with_cred(|cred| cred.capable(Cap::SYS_RESOURCE)) {
        return Err(Errno::EPERM);
    }
    let nth = u32::try_from(parse(bytes)?).map_err(|_| Errno::EINVAL)?;
    subject.task.set_fail_nth(nth);
    Ok(())
}

/// /proc/PID/personality.
pub(super) fn personality(subject: &Subject, out: &mut Text) -> Result<()> {
    put!(out, "{:08x}\n", subject.task.personality());
    Ok(())
}
