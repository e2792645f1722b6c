//! Sending signals.
//!
//! A sender that sees a signal as ignored drops it at once. Otherwise it queues it and picks a thread that does not
//! block it:
//!
//! ```text
//!  sender (holds ThreadGroup::sig)            thread that blocks the signal right now
//!  pending_set |= S           (A)             blocked = mask with S           (B)
//!  reads blocked              (B)             reads pending_set in `recalc`   (A)
//! ```
//!
//! Both orders are sequentially consistent, so at least one side sees the other: the sender skips the thread, or the
//! thread finds the signal and passes it to another one (`retarget`).
//!
//! Sources: kill(2), signal(7), rt_sigqueueinfo(2); the choice of thread as on Linux 7.2 (complete_signal).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use abi::signal::{
    NSIG, SI_QUEUE, SI_TKILL, SI_USER, SIG_DFL, SIG_IGN, SIGCONT, SIGKILL, SIGRTMIN, SigInfo, SigSet,
};
use abi::{Errno, Result};
use limits::{Charge, Resource, UserResource};
use security::{Cred, IdKind};

use super::action::{Default, STOPS, default_action};
use super::pending::Pending;
use super::stop;
use crate::group::GroupSig;
use crate::task::{self, CurrentTask, Notify, TaskFlags};
use crate::timer::{self, Expiry};
use crate::{Task, ThreadGroup};
use crate::{coredump, pid};

/// Who shall get a signal.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// Exactly this thread.
    Thread(&'a Arc<Task>),
    /// Any thread of the process.
    Group(&'a Arc<ThreadGroup>),
}

impl<'a> Target<'a> {
    fn group(&self) -> &'a Arc<ThreadGroup> {
        match self {
            Self::Thread(task) => task.group(),
            Self::Group(group) => group,
        }
    }
}

/// How strongly a signal is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    /// The first process is immune.
    No,
    /// Sent by the kernel: `SIGKILL` and `SIGSTOP` reach even the first process.
    Yes,
}

/// Sends `info` on behalf of the kernel. Never fails; usable in interrupts.
pub fn send_kernel(target: Target<'_>, info: SigInfo) {
    // The kernel's signals have no sender whose rights could fall short.
    let _ = send(target, info, Force::Yes);
}

/// Sends `info` for a process that was found to have the right. `EAGAIN`: the queue of real-time signals is full.
pub fn send_user(target: Target<'_>, mut info: SigInfo) -> Result<()> {
    let me = task::current();
    let group = target.group();
    let has_sender = matches!(info.code, SI_USER | SI_TKILL | SI_QUEUE);
    let mut force = Force::No;
    if group.pid_ns() != me.group().pid_ns() && pid::number_in(me.pid(), group.pid_ns()) == 0 {
        // From above: the sender has no number there, and not even an init is safe.
        force = Force::Yes;
        if has_sender {
            info.fields[0] &= !0xffff_ffff;
        }
    }
    if info.code == SI_USER || info.code == SI_TKILL {
        let uid = uid_seen_by(group, info.uid());
        info.fields[0] = info.fields[0] & 0xffff_ffff | u64::from(uid) << 32;
    }
    send(target, info, force)
}

/// What the processes of `group` see for user `uid`.
pub(crate) fn uid_seen_by(group: &ThreadGroup, uid: u32) -> u32 {
    let task = group.live_task();
    task.map_or(uid, |task| task.with_cred(|cred| cred.user_ns.show(IdKind::User, uid)))
}

/// Ends `group` as if by `SIGKILL`; for the OOM killer and others that must.
pub fn kill_process(group: &Arc<ThreadGroup>) {
    send_kernel(Target::Group(group), SigInfo::kernel(SIGKILL));
}

fn send(target: Target<'_>, info: SigInfo, force: Force) -> Result<()> {
    let sig = info.signo as u32;
    let group = target.group();
    let mut state = group.sig.lock();
    if !prepare(group, &mut state, target, sig, force) {
        return Ok(());
    }
    let charge = charge_for(&state, target, &info);
    match target {
        Target::Thread(task) => {
            let mut pending = task.pending.lock();
            enqueue(&mut pending, info, charge)?;
            task.pending_set.store(pending.set().0, SeqCst);
        }
        Target::Group(group) => {
            enqueue(&mut state.shared, info, charge)?;
            group.shared_set.store(state.shared.set().0, SeqCst);
        }
    }
    complete(group, &mut state, target, sig);
    Ok(())
}

/// The charge for a queued signal, or why it goes uncharged.
enum Paid {
    Charge(Charge),
    /// The limit does not count it.
    Free,
    /// The user has too many queued.
    OverLimit,
}

/// Charges the receiver's user.
fn charge_for(state: &GroupSig, target: Target<'_>, info: &SigInfo) -> Paid {
    let sig = info.signo as u32;
    if sig == SIGKILL || info.code == abi::signal::SI_TIMER {
        return Paid::Free;
    }
    let task = match target {
        Target::Thread(task) => Some(task),
        Target::Group(_) => state.threads.first(),
    };
    // Standard signals that the kernel or kill(2) sends pass the limit, as on Linux.
    let limit = if sig < SIGRTMIN && info.code >= 0 {
        u64::MAX
    } else {
        target.group().rlimits().cur(Resource::Sigpending)
    };
    match task
        .and_then(|task| task.user())
        .and_then(|user| Charge::new(&user, UserResource::Sigpending, limit))
    {
        Some(charge) => Paid::Charge(charge),
        None => Paid::OverLimit,
    }
}

/// Adds `info` to `pending`.
fn enqueue(pending: &mut Pending, info: SigInfo, paid: Paid) -> Result<()> {
    let sig = info.signo as u32;
    if pending.is_duplicate(sig) {
        return Ok(());
    }
    if sig == SIGKILL {
        pending.raise(sig);
        return Ok(());
    }
    let charge = match paid {
        Paid::Charge(charge) => Some(charge),
        Paid::Free => None,
        // sigqueue(3) of a real-time signal must not lose it silently.
        Paid::OverLimit if sig >= SIGRTMIN && info.code != SI_USER => return Err(Errno::EAGAIN),
        Paid::OverLimit => {
            pending.raise(sig);
            return Ok(());
        }
    };
    if !pending.push(info, charge) {
        if sig >= SIGRTMIN && info.code != SI_USER {
            return Err(Errno::EAGAIN);
        }
        pending.raise(sig);
    }
    Ok(())
}

/// Does what a signal does on being sent: stop signals and `SIGCONT` cancel each other. False: drop it.
fn prepare(
    group: &Arc<ThreadGroup>,
    state: &mut GroupSig,
    target: Target<'_>,
    sig: u32,
    force: Force,
) -> bool {
    if state.exit.is_some() {
        if sig == SIGKILL {
            coredump::interrupt(state);
        }
        return false;
    }
    if STOPS.has(sig) {
        flush_everywhere(group, state, SigSet::of(SIGCONT));
    } else if sig == SIGCONT {
        flush_everywhere(group, state, STOPS);
        stop::continue_group(group, state);
    }
    !is_ignored(group, state, target, sig, force)
}

/// Drops all pending instances of `which` in the process.
pub(super) fn flush_everywhere(group: &ThreadGroup, state: &mut GroupSig, which: SigSet) {
    state.shared.flush(which);
    group.shared_set.store(state.shared.set().0, SeqCst);
    for task in &state.threads {
        let mut pending = task.pending.lock();
        pending.flush(which);
        task.pending_set.store(pending.set().0, SeqCst);
    }
    timer::signals_dropped(group, which);
}

/// Whether nobody would notice `sig`.
fn is_ignored(group: &ThreadGroup, state: &GroupSig, target: Target<'_>, sig: u32, force: Force) -> bool {
    let task = match target {
        Target::Thread(task) => Some(task),
        Target::Group(_) => state.threads.first(),
    };
    // A tracer sees every signal.
    if sig != SIGKILL && task.is_some_and(|task| task.has(TaskFlags::TRACED)) {
        return false;
    }
    // A blocked signal stays pending whatever the action is now: that may change before it is unblocked.
    if task
        .is_some_and(|task| task.blocked().has(sig) || task.waited_for.load(Relaxed) & SigSet::of(sig).0 != 0)
    {
        return false;
    }
    let handler = group.with_hand(|hand| hand.get(sig).handler);
    if group.is_unkillable.load(Relaxed) && handler == SIG_DFL {
        return !(force == Force::Yes && SigSet::UNBLOCKABLE.has(sig));
    }
    handler == SIG_IGN || (handler == SIG_DFL && default_action(sig) == Default::Ignore)
}

/// Picks a thread for `sig` and wakes it; a signal that ends the process ends all threads now.
fn complete(group: &Arc<ThreadGroup>, state: &mut GroupSig, target: Target<'_>, sig: u32) {
    group.signal_wait.wake_all();
    let chosen = match target {
        Target::Thread(task) => wants(task, sig).then(|| task.clone()),
        Target::Group(_) => choose(state, sig),
    };
    let Some(task) = chosen else { return };
    if is_fatal_now(group, &task, sig) {
        state.exit = Some(sig as i32);
        kill_all_threads(state, None);
        return;
    }
    let kind = if sig == SIGKILL { Notify::Kill } else { Notify::Signal };
    task.notify(kind);
}

/// Whether `task` would take `sig` now.
fn wants(task: &Task, sig: u32) -> bool {
    if task.blocked().has(sig) || task.has(TaskFlags::EXITING) {
        return false;
    }
    sig == SIGKILL || !task.flags().intersects(TaskFlags::STOPPED | TaskFlags::TRACE_STOPPED)
}

/// The thread that takes a shared signal: the first one if it can, else the next in turn.
fn choose(state: &mut GroupSig, sig: u32) -> Option<Arc<Task>> {
    let nr = state.threads.len();
    if let Some(first) = state.threads.first().filter(|task| wants(task, sig)) {
        return Some(first.clone());
    }
    for step in 0..nr {
        let idx = state.next_target.wrapping_add(step) % nr;
        if let Some(task) = state.threads.get(idx).filter(|task| wants(task, sig)) {
            state.next_target = idx;
            return Some(task.clone());
        }
    }
    None
}

/// Whether the arrival of `sig` ends the process at once, without a core dump to be made first.
fn is_fatal_now(group: &ThreadGroup, task: &Task, sig: u32) -> bool {
    if sig == SIGKILL {
        return true;
    }
    default_action(sig) == Default::Terminate
        && !task.has(TaskFlags::TRACED)
        && !group.is_unkillable.load(Relaxed)
        && task.waited_for.load(Relaxed) & SigSet::of(sig).0 == 0
        && group.with_hand(|hand| hand.get(sig).handler) == SIG_DFL
}

/// Tells all threads but `except` to end. `state.exit` or `state.exec` says why.
pub(crate) fn kill_all_threads(state: &mut GroupSig, except: Option<&Task>) {
    state.stop_count = 0;
    for task in &state.threads {
        task.clear_flags(TaskFlags::STOP_PENDING | TaskFlags::STOP_COUNTED);
        if except.is_some_and(|except| core::ptr::eq(except, &**task)) || task.has(TaskFlags::DEAD) {
            continue;
        }
        task.set_flags(TaskFlags::KILLED);
        task.notify(Notify::Kill);
    }
}

/// Sends the signal of a POSIX timer, if [`timer::settle`] still wants it. It queues beside others of its number. Usable in
/// interrupts.
///
/// Of a process, the thread that runs here takes it if it can: it used the time that ran out.
pub(crate) fn send_timer(target: Target<'_>, info: SigInfo, expiry: Expiry) {
    let sig = info.signo as u32;
    let group = target.group();
    let current = task::try_current();
    let is_near = |task: &&Arc<Task>| Arc::ptr_eq(task.group(), group) && !task.has(TaskFlags::EXITING);
    let near = match target {
        Target::Group(_) => current.as_ref().map(CurrentTask::arc).filter(is_near),
        Target::Thread(_) => None,
    };
    let likely = near.map_or(target, Target::Thread);
    let mut state = group.sig.lock();
    // First of all: what belongs to a setting that is no more must not even continue a stopped process.
    if !timer::settle(group, expiry) {
        return;
    }
    if !prepare(group, &mut state, likely, sig, Force::No) {
        timer::ignored(group, expiry);
        return;
    }
    match target {
        Target::Thread(task) => {
            let mut pending = task.pending.lock();
            pending.push_timer(info, expiry);
            task.pending_set.store(pending.set().0, SeqCst);
        }
        Target::Group(group) => {
            state.shared.push_timer(info, expiry);
            group.shared_set.store(state.shared.set().0, SeqCst);
        }
    }
    let near = near.filter(|task| wants(task, sig));
    complete(group, &mut state, near.map_or(target, Target::Thread), sig);
}

/// Drops pending expiries of timer `id`.
pub(crate) fn flush_timer(group: &ThreadGroup, sig: u32, id: u32) {
    let mut state = group.sig.lock();
    state.shared.flush_timer(sig, id);
    group.shared_set.store(state.shared.set().0, SeqCst);
    for task in &state.threads {
        let mut pending = task.pending.lock();
        pending.flush_timer(sig, id);
        task.pending_set.store(pending.set().0, SeqCst);
    }
}

/// Flags that need the slow way to user mode.
const WORK: TaskFlags = TaskFlags::KILLED
    .union(TaskFlags::STOP_PENDING)
    .union(TaskFlags::EXIT_REQUESTED)
    .union(TaskFlags::FREEZE)
    .union(TaskFlags::TRAP_STOP)
    .union(TaskFlags::TRAP_NOTIFY)
    .union(TaskFlags::TASK_WORK);

/// Sets or clears the caller's `Work::SIGNAL` by what is pending and not blocked.
pub(crate) fn recalc(task: &CurrentTask) {
    let open = |task: &CurrentTask| {
        let pending = task.pending_set().union(task.group().shared_set());
        !pending.minus(task.blocked()).is_empty() || task.flags().intersects(WORK)
    };
    let is_set = task.signal_pending();
    if open(task) {
        if !is_set {
            task.arc().notify(Notify::Signal);
        }
        return;
    }
    if !is_set {
        return;
    }
    sched::current().clear_signal();
    // A sender that came between the look and the clear has set the flag for nothing: look again.
    if open(task) {
        let kind = if task.has(TaskFlags::KILLED) { Notify::Kill } else { Notify::Signal };
        task.arc().notify(kind);
    }
}

/// Passes shared signals that `task` has just blocked, or leaves behind, to other threads.
pub(crate) fn retarget(task: &Task, newly_blocked: SigSet) {
    let group = task.group();
    let orphaned = group.shared_set().intersection(newly_blocked);
    if orphaned.is_empty() || group.nr_threads() == 0 {
        return;
    }
    let state = group.sig.lock();
    let mut rest = orphaned;
    for other in state.threads.iter().filter(|other| !core::ptr::eq(&***other, task)) {
        let takes = rest.minus(other.blocked());
        if takes.is_empty() || other.has(TaskFlags::EXITING) {
            continue;
        }
        other.notify(Notify::Signal);
        rest = rest.minus(takes);
        if rest.is_empty() {
            break;
        }
    }
}

/// The `siginfo` of kill(2) or tkill(2) from the caller.
fn own_info(sig: u32, code: i32) -> SigInfo {
    let task = task::current();
    SigInfo::user(sig, code, task.own_pid() as i32, task.with_cred(|cred| cred.uid))
}

/// A signal number from user space; 0 only asks for permission. `EINVAL`: not a signal.
fn checked(sig: i32) -> Result<u32> {
    u32::try_from(sig).ok().filter(|sig| *sig <= NSIG).ok_or(Errno::EINVAL)
}

/// Whether the caller may signal `target`. `EPERM`: not.
fn may_signal(target: &Task, sig: u32) -> Result<()> {
    let me = task::current();
    if Arc::ptr_eq(me.group(), target.group()) {
        return Ok(());
    }
    let theirs = target.cred();
    let allowed = me.with_cred(|mine: &Cred| security::may_kill(mine, &theirs));
    let same_session = || sig == SIGCONT && me.group().sid() == target.group().sid();
    if allowed || same_session() { Ok(()) } else { Err(Errno::EPERM) }
}

/// Checks the right to signal `group`, and sends unless `sig` is 0.
fn kill_group(group: &Arc<ThreadGroup>, info: SigInfo) -> Result<()> {
    let sig = info.signo as u32;
    if let Some(task) = group.leader().or_else(|| group.live_task()) {
        may_signal(&task, sig)?;
    }
    if sig == 0 { Ok(()) } else { send_user(Target::Group(group), info) }
}

/// kill(2) with its four kinds of `pid`.
pub fn kill(pid: i32, sig: i32) -> Result<()> {
    let sig = checked(sig)?;
    let info = own_info(sig, SI_USER);
    match pid {
        1.. => {
            let group = pid::find_task(pid as u32).ok_or(Errno::ESRCH)?.group().clone();
            kill_group(&group, info)
        }
        0 => {
            let me = task::current();
            let pgrp = me.group().pgrp().ok_or(Errno::ESRCH)?;
            kill_each(pgrp.members().into_iter(), info)
        }
        -1 => {
            let me = task::current().group().clone();
            let others = pid::processes_in(me.pid_ns())
                .filter(|(number, group)| *number > 1 && !Arc::ptr_eq(group, &me));
            kill_each(others.map(|(_, group)| group), info)
        }
        _ => {
            let pgid = pid.checked_neg().and_then(|pgid| u32::try_from(pgid).ok()).ok_or(Errno::ESRCH)?;
            let pgrp = pid::find_pgrp(pgid).ok_or(Errno::ESRCH)?;
            kill_each(pgrp.members().into_iter(), info)
        }
    }
}

/// Signals each process; success if one took it. `ESRCH`: none there. `EPERM`: none may be signalled.
fn kill_each(groups: impl Iterator<Item = Arc<ThreadGroup>>, info: SigInfo) -> Result<()> {
    let mut result = Err(Errno::ESRCH);
    for group in groups {
        match kill_group(&group, info) {
            Ok(()) => result = Ok(()),
            Err(error) if result.is_err() => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

/// The `siginfo` that the caller sends to `to`: its own, or `info` if it may. `EPERM`: that pretends to come from the
/// kernel or kill(2).
fn checked_info(sig: i32, code: i32, info: Option<SigInfo>, is_self: bool) -> Result<SigInfo> {
    let sig = checked(sig)?;
    match info {
        None => Ok(own_info(sig, code)),
        Some(info) if (info.code >= 0 || info.code == SI_TKILL) && !is_self => Err(Errno::EPERM),
        Some(mut info) => {
            info.signo = sig as i32;
            Ok(info)
        }
    }
}

/// Sends `sig` on behalf of the caller, who must have the right; 0 only asks for it (pidfd_send_signal(2)).
pub fn send_checked(target: Target<'_>, sig: i32, info: Option<SigInfo>) -> Result<()> {
    let me = task::current();
    let is_self = Arc::ptr_eq(me.group(), target.group());
    match target {
        Target::Group(group) => kill_group(group, checked_info(sig, SI_USER, info, is_self)?),
        Target::Thread(task) => {
            let info = checked_info(sig, SI_TKILL, info, is_self)?;
            may_signal(task, info.signo as u32)?;
            if info.signo == 0 || task.has(TaskFlags::DEAD) { Ok(()) } else { send_user(target, info) }
        }
    }
}

/// As [`send_checked`] for all members of a process group.
pub fn send_checked_pgrp(pgrp: &crate::pgrp::ProcessGroup, sig: i32, info: Option<SigInfo>) -> Result<()> {
    kill_each(pgrp.members().into_iter(), checked_info(sig, SI_USER, info, false)?)
}

/// Finds the thread of tkill(2) and tgkill(2); `tgid` 0 means any process.
fn find_thread(tgid: i32, tid: i32) -> Result<Arc<Task>> {
    let task = u32::try_from(tid).ok().and_then(pid::find_task).ok_or(Errno::ESRCH)?;
    if tgid != 0 && pid::visible(task.pid()) as i32 != tgid { Err(Errno::ESRCH) } else { Ok(task) }
}

/// Signals one thread.
fn kill_thread(tgid: i32, tid: i32, info: SigInfo) -> Result<()> {
    let task = find_thread(tgid, tid)?;
    may_signal(&task, info.signo as u32)?;
    if info.signo == 0 || task.has(TaskFlags::DEAD) {
        return Ok(());
    }
    send_user(Target::Thread(&task), info)
}

/// tgkill(2).
pub fn tgkill(tgid: i32, tid: i32, sig: i32) -> Result<()> {
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    kill_thread(tgid, tid, own_info(checked(sig)?, SI_TKILL))
}

/// tkill(2).
pub fn tkill(tid: i32, sig: i32) -> Result<()> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    kill_thread(0, tid, own_info(checked(sig)?, SI_TKILL))
}

/// rt_sigqueueinfo(2), and with `tid` rt_tgsigqueueinfo(2). `EPERM`: `info` pretends to come from the kernel or kill(2).
pub fn sigqueue(pid: i32, tid: Option<i32>, sig: i32, mut info: SigInfo) -> Result<()> {
    let sig = checked(sig)?;
    if pid <= 0 || tid.is_some_and(|tid| tid <= 0) {
        return Err(if tid.is_some() { Errno::EINVAL } else { Errno::ESRCH });
    }
    info.signo = sig as i32;
    let target = tid.unwrap_or(pid);
    if (info.code >= 0 || info.code == SI_TKILL) && task::current().own_pid() as i32 != pid {
        return Err(Errno::EPERM);
    }
    match tid {
        Some(_) => kill_thread(pid, target, info),
        None => {
            let group = pid::find_task(pid as u32).ok_or(Errno::ESRCH)?.group().clone();
            kill_group(&group, info)
        }
    }
}
