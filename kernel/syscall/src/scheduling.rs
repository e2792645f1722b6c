//! Scheduling: policies, priorities, affinity (sched(7)).

use alloc::sync::Arc;

use abi::raw::general as raw;
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::cpu::CpuMask;
use hal::{UserAddr, user};
use limits::Resource;
use process::{Task, pid};
use sched::{Attributes, Policy, Thread};
use security::Cap;

use crate::Cx;

/// `SCHED_RESET_ON_FORK` in a policy.
const RESET_ON_FORK: u32 = 0x4000_0000;
/// Highest real-time priority.
const MAX_PRIORITY: i32 = 99;

/// sched_yield(2).
pub(crate) fn sys_sched_yield(_cx: &mut Cx<'_>) -> Result<usize> {
    sched::yield_now();
    Ok(0)
}

/// The task that `pid` names; 0 is the caller. `EINVAL`: negative. `ESRCH`.
fn find(pid: i32) -> Result<Arc<Task>> {
    match u32::try_from(pid).map_err(|_| Errno::EINVAL)? {
        0 => Ok(process::current().arc().clone()),
        tid => pid::find_task(tid).ok_or(Errno::ESRCH),
    }
}

fn thread_of(task: &Task) -> Result<Arc<Thread>> {
    task.thread().ok_or(Errno::ESRCH)
}

/// Only the owner's processes, or `CAP_SYS_NICE`. `EPERM`.
fn may_change(task: &Task) -> Result<()> {
    let me = process::current();
    let (own, other) = (me.cred(), task.cred());
    if own.euid == other.uid || own.euid == other.euid || own.ns_capable(&other.user_ns, Cap::SYS_NICE) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn set_policy(pid: i32, policy: Option<Policy>, priority: i32) -> Result<usize> {
    let task = find(pid)?;
    let thread = thread_of(&task)?;
    let old = thread.own_attributes();
    let policy = policy.unwrap_or(old.policy);
    let fits = if policy.is_realtime() { (1..=MAX_PRIORITY).contains(&priority) } else { priority == 0 };
    if !fits {
        return Err(Errno::EINVAL);
    }
    may_change(&task)?;
    let is_admin = process::current().with_cred(|cred| security::capable(cred, Cap::SYS_NICE));
    if policy.is_realtime() && !is_admin {
        let limit = task.group().rlimits().cur(Resource::Rtprio);
        let raises = priority > i32::from(old.priority) || policy != old.policy;
        if raises && priority as u64 > limit {
            return Err(Errno::EPERM);
        }
    }
    thread.set_attributes(Attributes { policy, priority: priority as u8, nice: old.nice });
    Ok(0)
}

/// sched_setscheduler(2).
pub(crate) fn sys_sched_setscheduler(
    _cx: &mut Cx<'_>,
    pid: i32,
    policy: i32,
    param: UserAddr,
) -> Result<usize> {
    if param.0 == 0 || pid < 0 || policy < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = user::read(param)?;
    let policy = Policy::from_number(policy as u32 & !RESET_ON_FORK).ok_or(Errno::EINVAL)?;
    set_policy(pid, Some(policy), priority)
}

/// sched_setparam(2).
pub(crate) fn sys_sched_setparam(_cx: &mut Cx<'_>, pid: i32, param: UserAddr) -> Result<usize> {
    if param.0 == 0 || pid < 0 {
        return Err(Errno::EINVAL);
    }
    set_policy(pid, None, user::read(param)?)
}

/// sched_getscheduler(2).
pub(crate) fn sys_sched_getscheduler(_cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    Ok(thread_of(&*find(pid)?)?.own_attributes().policy as usize)
}

/// sched_getparam(2).
pub(crate) fn sys_sched_getparam(_cx: &mut Cx<'_>, pid: i32, param: UserAddr) -> Result<usize> {
    if param.0 == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = thread_of(&*find(pid)?)?.own_attributes().priority;
    user::write(param, &i32::from(priority))?;
    Ok(0)
}

fn priority_range(policy: u32) -> Result<(usize, usize)> {
    /// `SCHED_DEADLINE` and `SCHED_EXT` have no priorities.
    const WITHOUT: [u32; 2] = [6, 7];
    match Policy::from_number(policy) {
        Some(policy) if policy.is_realtime() => Ok((1, MAX_PRIORITY as usize)),
        Some(_) => Ok((0, 0)),
        None if WITHOUT.contains(&policy) => Ok((0, 0)),
        None => Err(Errno::EINVAL),
    }
}

/// sched_get_priority_max(2).
pub(crate) fn sys_sched_get_priority_max(_cx: &mut Cx<'_>, policy: u32) -> Result<usize> {
    priority_range(policy).map(|range| range.1)
}

/// sched_get_priority_min(2).
pub(crate) fn sys_sched_get_priority_min(_cx: &mut Cx<'_>, policy: u32) -> Result<usize> {
    priority_range(policy).map(|range| range.0)
}

/// sched_rr_get_interval(2).
pub(crate) fn sys_sched_rr_get_interval(_cx: &mut Cx<'_>, pid: i32, out: UserAddr) -> Result<usize> {
    /// Turn of SCHED_RR threads (Linux: `RR_TIMESLICE`).
    const RR_NS: u64 = 100_000_000;
    /// Slice of fair threads.
    const FAIR_NS: u64 = 3_000_000;
    let ns = match thread_of(&*find(pid)?)?.attributes().policy {
        Policy::RoundRobin => RR_NS,
        Policy::Fifo => 0,
        _ => FAIR_NS,
    };
    user::write(out, &Timespec::from_ns(ns))?;
    Ok(0)
}

/// sched_setaffinity(2).
pub(crate) fn sys_sched_setaffinity(
    _cx: &mut Cx<'_>,
    pid: i32,
    size: usize,
    mask: UserAddr,
) -> Result<usize> {
    let mut bytes = [0; 8];
    let len = size.min(bytes.len());
    user::read_bytes(mask, &mut bytes[..len])?;
    let task = find(pid)?;
    may_change(&task)?;
    thread_of(&task)?.set_affinity(CpuMask(u64::from_le_bytes(bytes)))?;
    Ok(0)
}

/// sched_getaffinity(2): returns the size of the kernel's mask.
pub(crate) fn sys_sched_getaffinity(_cx: &mut Cx<'_>, pid: i32, size: u32, mask: UserAddr) -> Result<usize> {
    if u64::from(size) * 8 < hal::cpu::nr_cpus() as u64 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let allowed = thread_of(&*find(pid)?)?.affinity().and(hal::cpu::online());
    user::write(mask, &allowed.0)?;
    Ok(8)
}

/// `struct sched_attr`: size, policy, flags, nice, priority, then three times of deadline scheduling.
const ATTR_SIZE: usize = 48;

/// sched_setattr(2). `EINVAL`: deadline scheduling, unknown flags.
pub(crate) fn sys_sched_setattr(_cx: &mut Cx<'_>, pid: i32, attr: UserAddr, flags: u32) -> Result<usize> {
    if attr.0 == 0 || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size: u32 = user::read(attr)?;
    let size = if size == 0 { ATTR_SIZE } else { size as usize };
    if !(ATTR_SIZE..=hal::PAGE_SIZE).contains(&size) {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; ATTR_SIZE];
    crate::path::read_versioned(attr, size, &mut bytes)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let policy = Policy::from_number(word(4)).ok_or(Errno::EINVAL)?;
    let nice = word(16) as i32;
    if !policy.is_realtime() {
        set_nice(&*find(pid)?, nice)?;
    }
    set_policy(pid, Some(policy), word(20) as i32)
}

/// sched_getattr(2).
pub(crate) fn sys_sched_getattr(
    _cx: &mut Cx<'_>,
    pid: i32,
    attr: UserAddr,
    size: u32,
    flags: u32,
) -> Result<usize> {
    if attr.0 == 0 || pid < 0 || flags != 0 || (size as usize) < ATTR_SIZE {
        return Err(Errno::EINVAL);
    }
    let attributes = thread_of(&*find(pid)?)?.attributes();
    let mut words = [0u32; ATTR_SIZE / 4];
    words[0] = ATTR_SIZE as u32;
    words[1] = attributes.policy as u32;
    words[4] = i32::from(attributes.nice) as u32;
    words[5] = u32::from(attributes.priority);
    user::write(attr, &words)?;
    Ok(0)
}

/// Sets the nice value, cut to its range. `EACCES`: a lower one than RLIMIT_NICE allows. `EPERM`.
fn set_nice(task: &Task, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19);
    may_change(task)?;
    let thread = thread_of(task)?;
    let old = thread.own_attributes();
    let is_admin = process::current().with_cred(|cred| security::capable(cred, Cap::SYS_NICE));
    let lowest = 20 - task.group().rlimits().cur(Resource::Nice).min(40) as i32;
    if nice < i32::from(old.nice) && nice < lowest && !is_admin {
        return Err(Errno::EACCES);
    }
    thread.set_attributes(Attributes { nice: nice as i8, ..old });
    Ok(())
}

/// Whom getpriority(2) and setpriority(2) mean.
fn each_target(which: u32, who: i32, mut visit: impl FnMut(&Task) -> Result<()>) -> Result<()> {
    let mut found = false;
    let mut visit_group = |group: &Arc<process::ThreadGroup>| -> Result<()> {
        for task in group.threads() {
            found = true;
            visit(&task)?;
        }
        Ok(())
    };
    let me = process::current();
    match which {
        raw::PRIO_PROCESS => return visit(&*find(who)?),
        raw::PRIO_PGRP => {
            let pgid = if who == 0 { Some(me.group().pgid()) } else { pid::to_global(who as u32) };
            let members = pgid.and_then(pid::find_pgrp_global).map(|pgrp| pgrp.members()).unwrap_or_default();
            members.iter().try_for_each(&mut visit_group)?;
        }
        raw::PRIO_USER => {
            let uid = if who == 0 {
                me.with_cred(|cred| cred.uid)
            } else {
                crate::caller::global_id(security::IdKind::User, who as u32)?
            };
            let is_theirs = |group: &Arc<process::ThreadGroup>| {
                group.leader().is_some_and(|task| task.with_cred(|cred| cred.uid) == uid)
            };
            pid::processes().filter(is_theirs).try_for_each(|group| visit_group(&group))?;
        }
        _ => return Err(Errno::EINVAL),
    }
    if found { Ok(()) } else { Err(Errno::ESRCH) }
}

/// getpriority(2): 20 minus the lowest nice value.
pub(crate) fn sys_getpriority(_cx: &mut Cx<'_>, which: u32, who: i32) -> Result<usize> {
    let mut best = 0;
    each_target(which, who, |task| {
        best = best.max(20 - i32::from(thread_of(task)?.attributes().nice));
        Ok(())
    })?;
    Ok(best as usize)
}

/// setpriority(2).
pub(crate) fn sys_setpriority(_cx: &mut Cx<'_>, which: u32, who: i32, nice: i32) -> Result<usize> {
    each_target(which, who, |task| set_nice(task, nice)).map(|()| 0)
}
