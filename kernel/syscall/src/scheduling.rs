//! Scheduling: policies, priorities, affinity (sched(7)).

use alloc::sync::Arc;

use abi::raw::general as raw;
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::cpu::CpuMask;
use hal::{UserAddr, user};
use limits::Resource;
use process::{Task, pid};
use sched::policy::{DEFAULT_SLICE_NS, SLICE_RANGE_NS};
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

/// The task whose affinity a call names; 0 is the caller. `ESRCH`, for a negative number too: only the calls about policies
/// refuse those.
fn find_for_affinity(pid: i32) -> Result<Arc<Task>> {
    if pid < 0 { Err(Errno::ESRCH) } else { find(pid) }
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

/// What a caller wants to change; the rest stays.
struct Change {
    policy: Option<Policy>,
    priority: i32,
    nice: Option<i32>,
    slice_ns: Option<u32>,
    reset_on_fork: Option<bool>,
}

/// Whether `new` needs `CAP_SYS_NICE`, judged from the attributes alone.
fn needs_privilege(task: &Task, old: Attributes, new: Attributes) -> bool {
    let rlimits = task.group().rlimits();
    let lowest_nice = 20 - rlimits.cur(Resource::Nice).min(40) as i32;
    let may_have_nice = |nice: i8| i32::from(nice) >= lowest_nice;
    if new.policy.is_realtime() {
        let limit = rlimits.cur(Resource::Rtprio);
        if new.policy != old.policy && limit == 0
            || new.priority > old.priority && u64::from(new.priority) > limit
        {
            return true;
        }
    } else if new.nice < old.nice && !may_have_nice(new.nice) {
        return true;
    }
    // Leaving SCHED_IDLE is like lowering the nice value.
    old.policy == Policy::Idle && new.policy != Policy::Idle && !may_have_nice(old.nice)
        || old.reset_on_fork && !new.reset_on_fork
}

/// Applies `change` to a task. `ESRCH`, `EINVAL`: the priority does not fit the policy. `EPERM`.
fn apply(task: &Task, change: &Change) -> Result<usize> {
    let thread = thread_of(task)?;
    let old = thread.own_attributes();
    let policy = change.policy.unwrap_or(old.policy);
    let fits = if policy.is_realtime() {
        (1..=MAX_PRIORITY).contains(&change.priority)
    } else {
        change.priority == 0
    };
    if !fits {
        return Err(Errno::EINVAL);
    }
    let new = Attributes {
        policy,
        priority: change.priority as u8,
        nice: change
            .nice
            .filter(|_| !policy.is_realtime())
            .map_or(old.nice, |nice| nice.clamp(-20, 19) as i8),
        reset_on_fork: change.reset_on_fork.unwrap_or(old.reset_on_fork),
        slice_ns: change.slice_ns.filter(|_| !policy.is_realtime()).unwrap_or(old.slice_ns),
    };
    if needs_privilege(task, old, new) {
        crate::require(Cap::SYS_NICE)?;
    }
    may_change(task)?;
    thread.set_attributes(new);
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
    let task = find(pid)?;
    let reset_on_fork = Some(policy as u32 & RESET_ON_FORK != 0);
    let policy = Some(Policy::from_number(policy as u32 & !RESET_ON_FORK).ok_or(Errno::EINVAL)?);
    apply(&task, &Change { policy, priority, nice: None, slice_ns: None, reset_on_fork })
}

/// sched_setparam(2).
pub(crate) fn sys_sched_setparam(_cx: &mut Cx<'_>, pid: i32, param: UserAddr) -> Result<usize> {
    if param.0 == 0 || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = user::read(param)?;
    let change = Change { policy: None, priority, nice: None, slice_ns: None, reset_on_fork: None };
    apply(&*find(pid)?, &change)
}

/// sched_getscheduler(2).
pub(crate) fn sys_sched_getscheduler(_cx: &mut Cx<'_>, pid: i32) -> Result<usize> {
    let attributes = thread_of(&*find(pid)?)?.own_attributes();
    let reset = if attributes.reset_on_fork { RESET_ON_FORK } else { 0 };
    Ok((attributes.policy as u32 | reset) as usize)
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
    let attributes = thread_of(&*find(pid)?)?.own_attributes();
    let ns = match attributes.policy {
        Policy::RoundRobin => sched::policy::turn_ns(),
        Policy::Fifo => 0,
        _ => u64::from(attributes.slice_ns),
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
    let task = find_for_affinity(pid)?;
    may_change(&task)?;
    thread_of(&task)?.set_affinity(CpuMask(u64::from_le_bytes(bytes)))?;
    Ok(0)
}

/// sched_getaffinity(2): returns the size of the kernel's mask.
pub(crate) fn sys_sched_getaffinity(_cx: &mut Cx<'_>, pid: i32, size: u32, mask: UserAddr) -> Result<usize> {
    if u64::from(size) * 8 < hal::cpu::nr_cpus() as u64 || !size.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let allowed = thread_of(&*find_for_affinity(pid)?)?.affinity().and(hal::cpu::online());
    user::write(mask, &allowed.0)?;
    Ok(8)
}

/// `struct sched_attr` as this kernel knows it: size, policy, flags (64 bits), nice, priority, three 64-bit times, two
/// utilisation clamps. The first version had no clamps.
const ATTR_SIZE: usize = 56;
const ATTR_SIZE_FIRST: usize = 48;

/// `sched_flags` (sched_setattr(2)).
mod flag {
    pub const RESET_ON_FORK: u64 = 1;
    pub const KEEP_POLICY: u64 = 8;
    pub const KEEP_PARAMS: u64 = 0x10;
    pub const UTIL_CLAMP: u64 = 0x60;
    /// All that exist; 2 and 4 concern deadline scheduling.
    pub const ALL: u64 = 0x7f;
}

/// Reads `struct sched_attr`. `E2BIG`: it has fields that are not known here; the known size is told in it.
fn read_attr(addr: UserAddr) -> Result<[u8; ATTR_SIZE]> {
    let size: u32 = user::read(addr)?;
    let size = if size == 0 { ATTR_SIZE_FIRST } else { size as usize };
    let mut bytes = [0; ATTR_SIZE];
    let result = if (ATTR_SIZE_FIRST..=hal::PAGE_SIZE).contains(&size) {
        crate::path::read_versioned(addr, size, &mut bytes)
    } else {
        Err(Errno::E2BIG)
    };
    if result == Err(Errno::E2BIG) {
        user::write(addr, &(ATTR_SIZE as u32))?;
    }
    result.map(|()| bytes)
}

/// sched_setattr(2). `EINVAL`: deadline scheduling, unknown flags. `EOPNOTSUPP`: utilisation clamps.
pub(crate) fn sys_sched_setattr(_cx: &mut Cx<'_>, pid: i32, attr: UserAddr, flags: u32) -> Result<usize> {
    if attr.0 == 0 || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = read_attr(attr)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (number, flags) = (word(4), long(8));
    if (number as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let task = find(pid)?;
    let (mut priority, mut nice, mut runtime) = (word(20) as i32, word(16) as i32, long(24));
    if flags & flag::KEEP_PARAMS != 0 {
        let old = thread_of(&task)?.own_attributes();
        (priority, nice, runtime) = (i32::from(old.priority), i32::from(old.nice), u64::from(old.slice_ns));
    }
    let policy = match flags & flag::KEEP_POLICY {
        0 => Some(Policy::from_number(number).ok_or(Errno::EINVAL)?),
        _ => None,
    };
    if flags & !flag::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & flag::UTIL_CLAMP != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let slice_ns = match runtime {
        0 => DEFAULT_SLICE_NS,
        ns => u32::try_from(ns).unwrap_or(u32::MAX).clamp(*SLICE_RANGE_NS.start(), *SLICE_RANGE_NS.end()),
    };
    let reset_on_fork = policy.map(|_| flags & flag::RESET_ON_FORK != 0);
    if flags & flag::KEEP_PARAMS == 0 {
        let (nice, slice_ns) = (Some(nice), Some(slice_ns));
        return apply(&task, &Change { policy, priority, nice, slice_ns, reset_on_fork });
    }
    // The policy is checked, but counts among the parameters that are kept.
    if policy.is_some_and(|policy| policy.is_realtime() != (priority > 0)) {
        return Err(Errno::EINVAL);
    }
    apply(&task, &Change { policy: None, priority, nice: None, slice_ns: None, reset_on_fork })
}

/// sched_getattr(2).
pub(crate) fn sys_sched_getattr(
    _cx: &mut Cx<'_>,
    pid: i32,
    attr: UserAddr,
    size: u32,
    flags: u32,
) -> Result<usize> {
    let is_sane = (ATTR_SIZE_FIRST..=hal::PAGE_SIZE).contains(&(size as usize));
    if attr.0 == 0 || pid < 0 || flags != 0 || !is_sane {
        return Err(Errno::EINVAL);
    }
    let size = (size as usize).min(ATTR_SIZE);
    let attributes = thread_of(&*find(pid)?)?.own_attributes();
    let mut words = [0u32; ATTR_SIZE / 4];
    words[0] = size as u32;
    words[1] = attributes.policy as u32;
    words[2] = u32::from(attributes.reset_on_fork);
    if attributes.policy.is_realtime() {
        words[5] = u32::from(attributes.priority);
    } else {
        words[4] = i32::from(attributes.nice) as u32;
        words[6] = attributes.slice_ns;
    }
    let mut bytes = [0; ATTR_SIZE];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    user::write_bytes(attr, &bytes[..size])?;
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
