//! Names, arguments, mounts and kin of a process.

use alloc::vec::Vec;

use abi::{Errno, Result};
use hal::trap::UserRegs;
use mm::{Mm, Rights};
use process::Task;
use sched::State;
use vfs::mountinfo::{self, Format};
use vfs::put;
use vfs::text::Text;

use super::Subject;
use crate::node::push_c_string;

/// The most that is shown of a program's title when it was changed in place.
const TITLE_MAX: u64 = hal::PAGE_SIZE as u64;

/// An empty file.
pub(super) fn nothing(_subject: &Subject, _out: &mut Text) -> Result<()> {
    Ok(())
}

/// `EINVAL`: there is no security module that would know the attribute.
pub(super) fn no_module(_subject: &Subject, _out: &mut Text) -> Result<()> {
    Err(Errno::EINVAL)
}

/// Appends the memory from `start` to `end`, as far as it can be read.
fn push_memory(mm: &Mm, start: u64, end: u64, out: &mut Text) -> Result<()> {
    let mut buf = Vec::new();
    buf.try_reserve_exact(hal::PAGE_SIZE).map_err(|_| Errno::ENOMEM)?;
    buf.resize(hal::PAGE_SIZE, 0);
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
        let Some(part) = buf.get_mut(..want) else { break };
        let got = mm.read_remote(at, part, Rights::Force);
        out.push(part.get(..got).unwrap_or(&[]));
        if got < want {
            break;
        }
        at += got as u64;
    }
    Ok(())
}

/// /proc/PID/environ.
pub(super) fn environ(mm: &Mm, out: &mut Text) -> Result<()> {
    let layout = mm.layout();
    push_memory(mm, layout.env_start, layout.env_end, out)
}

/// /proc/PID/auxv.
pub(super) fn auxv(mm: &Mm, out: &mut Text) -> Result<()> {
    mm.auxv().iter().for_each(|word| out.push(&word.to_ne_bytes()));
    Ok(())
}

/// /proc/PID/ksm_merging_pages: pages merged with equal ones.
pub(super) fn ksm_merging_pages(mm: &Mm, out: &mut Text) -> Result<()> {
    put!(out, "{}\n", mm.ksm_stats().merging_pages);
    Ok(())
}

/// /proc/PID/ksm_stat (Documentation/admin-guide/mm/ksm.rst).
pub(super) fn ksm_stat(mm: &Mm, out: &mut Text) -> Result<()> {
    let stats = mm.ksm_stats();
    let yes = |is_so: bool| if is_so { "yes" } else { "no" };
    put!(out, "ksm_rmap_items {}\nksm_zero_pages {}\n", stats.rmap_items, stats.zero_pages);
    put!(out, "ksm_merging_pages {}\nksm_process_profit {}\n", stats.merging_pages, stats.profit);
    put!(out, "ksm_merge_any: {}\nksm_mergeable: {}\n", yes(stats.merges_all), yes(stats.merges_some));
    Ok(())
}

/// /proc/PID/cmdline: the arguments, or the title that the program wrote over them (setproctitle(3)).
pub(super) fn cmdline(subject: &Subject, out: &mut Text) -> Result<()> {
    let Some(mm) = subject.task.mm() else { return Ok(()) };
    let layout = mm.layout();
    let (start, end) = (layout.arg_start, layout.arg_end);
    if start >= end {
        return Ok(());
    }
    let mut last = [0];
    let has_last = mm.read_remote(end - 1, &mut last, Rights::Force) == 1;
    if !has_last || last == [0] {
        return push_memory(&mm, start, end, out);
    }
    // The NUL after the last argument is gone: a title, which may run on into the environment.
    let title_end = layout.env_end.max(end).min(start.saturating_add(TITLE_MAX));
    let mut title = Text::new();
    push_memory(&mm, start, title_end, &mut title)?;
    let title = title.finish()?;
    let len = title.iter().position(|&byte| byte == 0).map_or(title.len(), |at| at + 1);
    out.push(title.get(..len).unwrap_or(&[]));
    Ok(())
}

/// /proc/PID/comm.
pub(super) fn comm(subject: &Subject, out: &mut Text) -> Result<()> {
    push_c_string(out, &subject.task.comm());
    out.push(b"\n");
    Ok(())
}

/// Changes the name of a thread of the caller's process. `EINVAL`: it is another's.
pub(super) fn set_comm(subject: &Subject, bytes: &[u8]) -> Result<()> {
    let me = process::try_current().ok_or(Errno::EINVAL)?;
    if !alloc::sync::Arc::ptr_eq(me.group(), subject.task.group()) {
        return Err(Errno::EINVAL);
    }
    subject.task.set_comm(bytes);
    Ok(())
}

/// /proc/PID/cgroup: the path as the reader's cgroup namespace shows it. Nothing before cgroup2 was mounted. `ENAMETOOLONG`.
pub(super) fn cgroup(subject: &Subject, out: &mut Text) -> Result<()> {
    if !cgroup::control::was_mounted() {
        return Ok(());
    }
    let group = subject.task.cgroup();
    let reader = process::try_current().and_then(|me| me.nsproxy());
    let root = reader.as_ref().map_or_else(|| cgroup::Cgroup::root(), |proxy| proxy.cgroup.root());
    out.push(b"0::");
    out.push(&group.path_from(root)?);
    out.push(if group.is_dead() { b" (deleted)\n" } else { b"\n" });
    Ok(())
}

fn show_mounts(subject: &Subject, format: Format, out: &mut Text) -> Result<()> {
    let fs = subject.task.fs().ok_or(Errno::EINVAL)?;
    out.push(&mountinfo::show(&fs, format)?);
    Ok(())
}

/// /proc/PID/mounts.
pub(super) fn mounts(subject: &Subject, out: &mut Text) -> Result<()> {
    show_mounts(subject, Format::Mounts, out)
}

/// /proc/PID/mountinfo.
pub(super) fn mountinfo(subject: &Subject, out: &mut Text) -> Result<()> {
    show_mounts(subject, Format::MountInfo, out)
}

/// /proc/PID/mountstats.
pub(super) fn mountstats(subject: &Subject, out: &mut Text) -> Result<()> {
    let fs = subject.task.fs().ok_or(Errno::EINVAL)?;
    let root = fs.root();
    for mount in fs.ns().map_or(Vec::new(), |ns| ns.mounts()) {
        let spelled = vfs::Path::root_of(&mount).spell(Some(&root));
        if !spelled.is_reachable {
            continue;
        }
        out.push(b"device ");
        out.push_escaped(mount.source(), b" \t\n");
        out.push(b" mounted on ");
        out.push_escaped(&spelled.text, b" \t\n");
        put!(out, " with fstype {}\n", mount.sb().fs_type().name());
    }
    Ok(())
}

/// /proc/PID/task/TID/children. Children belong to the process here, so the leader shows them all.
pub(super) fn children(subject: &Subject, out: &mut Text) -> Result<()> {
    if subject.task.is_leader() {
        subject
            .task
            .group()
            .children()
            .iter()
            .for_each(|child| put!(out, "{} ", subject.number(child.pid())));
    }
    Ok(())
}

/// /proc/PID/wchan. There are no symbols for places where threads sleep, which Linux shows as 0.
pub(super) fn wchan(_subject: &Subject, out: &mut Text) -> Result<()> {
    out.push(b"0");
    Ok(())
}

/// The registers of a task that sleeps, of a traced one that is stopped, or of the caller.
fn quiet_regs(task: &Task) -> Option<UserRegs> {
    if let Some(regs) = process::trace::stopped_regs(task) {
        return Some(regs);
    }
    let thread = task.thread()?;
    if process::try_current().is_some_and(|me| core::ptr::eq(&raw const *me, task)) {
        return thread.hal().peek_user_regs();
    }
    let sleep = || {
        let sleeps =
            matches!(thread.state(), State::Sleeping | State::DiskSleep) && !thread.hal().is_on_cpu();
        sleeps.then(|| thread.switches().0)
    };
    let before = sleep()?;
    let regs = thread.hal().peek_user_regs()?;
    // The same sleep still, so nothing has changed them.
    (sleep() == Some(before)).then_some(regs)
}

/// /proc/PID/syscall. What runs does not tell.
pub(super) fn syscall(subject: &Subject, out: &mut Text) -> Result<()> {
    let Some(regs) = quiet_regs(&subject.task) else {
        out.push(b"running\n");
        return Ok(());
    };
    let nr = regs.orig_rax as i64;
    put!(out, "{nr}");
    if nr >= 0 {
        for arg in [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] {
            put!(out, " {arg:#x}");
        }
    }
    put!(out, " {:#x} {:#x}\n", regs.rsp, regs.rip);
    Ok(())
}
