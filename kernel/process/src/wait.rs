//! Waiting for children: wait4(2) and waitid(2).
//!
//! One scan looks at all children under the family lock and either takes an event, finds that none can ever come
//! (`ECHILD`), or tells to sleep. The same scan is the sleep's condition, so an event between two looks is not lost.
//!
//! Sources: wait(2), wait4(2); eligibility of clone children as in "Linux notes" there.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use abi::process::{Rusage, WaitOptions};
use abi::signal::{
    CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, CLD_TRAPPED, SIGCHLD, SIGCONT,
};
use abi::{Errno, Result};
use security::IdKind;

use crate::exit::{self, Garbage};
use crate::family::{ExitState, TreeGuard, lock_tree};
use crate::signal::CORE_DUMPED;
use crate::task::{self, TaskFlags};
use crate::{Task, ThreadGroup, pid, trace};

/// Which children are meant.
#[derive(Clone)]
pub enum Who {
    /// All.
    Any,
    /// One process, by its number in the first pid namespace.
    Pid(u32),
    /// The members of a process group, by its number in the first pid namespace.
    Pgid(u32),
    /// The process of a pidfd.
    Process(Arc<ThreadGroup>),
}

/// What happened to a child.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its process id as the caller sees it.
    pub pid: u32,
    /// Its real user id as the caller sees it.
    pub uid: u32,
    /// `CLD_*`.
    pub code: i32,
    /// The wait status of wait4(2).
    pub status: i32,
    /// What it used; for an event other than its end, so far.
    pub rusage: Rusage,
}

impl Event {
    /// `si_status` of waitid(2): the exit code or the signal.
    #[inline]
    pub fn si_status(&self) -> i32 {
        match self.code {
            CLD_EXITED => self.status >> 8 & 0xff,
            CLD_STOPPED => self.status >> 8 & 0xff,
            CLD_TRAPPED => self.status >> 8,
            CLD_CONTINUED => SIGCONT as i32,
            _ => self.status & 0x7f,
        }
    }
}

/// The wait status of a continued child (wait(2), `WIFCONTINUED`).
const CONTINUED_STATUS: i32 = 0xffff;

/// Waits for an event of a child. `None`: nothing yet, and `WNOHANG` was given.
///
/// `ECHILD`: no such child. `ERESTARTSYS`: a signal came first.
pub fn wait(who: &Who, options: WaitOptions) -> Result<Option<Event>> {
    let task = task::current();
    let me = task.group();
    let look = || match scan(me, who, options) {
        Scan::Event(event) => Some(Ok(Some(event))),
        Scan::NoChild => Some(Err(Errno::ECHILD)),
        Scan::NothingYet if options.contains(WaitOptions::NOHANG) => Some(Ok(None)),
        Scan::NothingYet => None,
    };
    match look() {
        Some(found) => found,
        None => me.child_wait.wait_interruptible(look).map_err(|_| Errno::ERESTARTSYS)?,
    }
}

/// What a look at all children gives.
enum Scan {
    Event(Event),
    NoChild,
    NothingYet,
}

/// Looks at all children of `me` once.
fn scan(me: &Arc<ThreadGroup>, who: &Who, options: WaitOptions) -> Scan {
    let tree = lock_tree();
    let mut has_candidate = false;
    if me.nr_tracees.load(Relaxed) > 0
        && let Some(mut found) = scan_tracees(me, who, options, &tree, &mut has_candidate)
    {
        drop(tree);
        drop(found.garbage);
        if let Some(group) = found.living {
            found.event.rusage = group.usage().to_rusage();
        }
        return Scan::Event(found.event);
    }
    let mut found = None;
    {
        let family = me.family.lock();
        for child in family.children.iter().filter(|child| is_eligible(child, who, options)) {
            let tracer = child.leader_tracer.load(Relaxed);
            if tracer == me.pid() {
                continue; // seen above
            }
            has_candidate = true;
            if tracer != 0 && child.exit_state() == ExitState::Zombie {
                continue; // its tracer comes first
            }
            if child.exit_state() == ExitState::Zombie {
                if options.contains(WaitOptions::EXITED) {
                    found = Some((child.clone(), None));
                    break;
                }
                continue;
            }
            if let Some(event) = job_event(child, options) {
                found = Some((child.clone(), Some(event)));
                break;
            }
        }
    }
    match found {
        Some((child, Some((code, status)))) => {
            drop(tree);
            let rusage = child.usage().to_rusage();
            Scan::Event(Event { pid: pid::visible(child.pid()), uid: uid_of(&child), code, status, rusage })
        }
        Some((child, None)) => {
            let event = end_event(&child);
            if !options.contains(WaitOptions::NOWAIT) {
                me.note_reaped(&child);
                let garbage = exit::reap(&child, &tree);
                drop(tree);
                drop(garbage);
            }
            Scan::Event(event)
        }
        None if has_candidate => Scan::NothingYet,
        None => Scan::NoChild,
    }
}

/// What a look at tracees gives.
struct OfTracee {
    event: Event,
    /// The process whose usage belongs into the event, if it lives on: what that looks at needs the locks dropped.
    living: Option<Arc<ThreadGroup>>,
    garbage: Garbage,
}

/// Looks at all tasks that the threads of `me` trace, the caller's alone with `__WNOTHREAD`.
#[inline(never)]
fn scan_tracees(
    me: &Arc<ThreadGroup>,
    who: &Who,
    options: WaitOptions,
    tree: &TreeGuard,
    has_candidate: &mut bool,
) -> Option<OfTracee> {
    let caller = task::current();
    for tracer in me.threads() {
        if options.contains(WaitOptions::NOTHREAD) && !Arc::ptr_eq(&tracer, caller.arc()) {
            continue;
        }
        // Under the family lock the list changes through this function only.
        let mut seen = 0;
        while let some @ [Some(_), ..] = next_tracees(&tracer, &mut seen) {
            for tracee in some.into_iter().flatten() {
                if !is_meant(&tracee, who) {
                    continue;
                }
                *has_candidate = true;
                let found = tracee_event(me, &tracee, options, tree);
                if found.is_some() {
                    return found;
                }
            }
        }
    }
    None
}

/// How many tracees are looked at before the list is walked again.
const AT_ONCE: usize = 16;

/// The tracees of `tracer` after the first `seen`, which then counts them.
fn next_tracees(tracer: &Task, seen: &mut usize) -> [Option<Arc<Task>>; AT_ONCE] {
    let tracees = tracer.tracees.lock();
    let mut rest = tracees.iter().skip(*seen).cloned();
    let found = [(); AT_ONCE].map(|()| rest.next());
    *seen += AT_ONCE;
    found
}

/// Whether the call is about the tracee `task`.
fn is_meant(task: &Arc<Task>, who: &Who) -> bool {
    match who {
        Who::Any => true,
        Who::Pid(pid) => task.tid() == *pid,
        Who::Pgid(pgid) => task.group().pgid() == *pgid,
        Who::Process(group) => task.is_leader() && Arc::ptr_eq(task.group(), group),
    }
}

/// The end or the unreported stop of a tracee.
fn tracee_event(
    me: &Arc<ThreadGroup>,
    task: &Arc<Task>,
    options: WaitOptions,
    tree: &TreeGuard,
) -> Option<OfTracee> {
    let keep = options.contains(WaitOptions::NOWAIT);
    let group = task.group();
    let uid = task.with_cred(|cred| cred.uid);
    let uid = task::current().with_cred(|cred| cred.user_ns.show(IdKind::User, uid));
    let pid = pid::visible(task.tid());
    if !task.has(TaskFlags::DEAD) {
        let code = trace::unreported_stop(task, !keep)?;
        let rusage = Rusage::default();
        let event = Event { pid, uid, code: CLD_TRAPPED, status: code << 8 | 0x7f, rusage };
        return Some(OfTracee { event, living: Some(group.clone()), garbage: Garbage::default() });
    }
    if !options.contains(WaitOptions::EXITED) {
        return None;
    }
    if !task.is_leader() {
        let status = group.sig.lock().exit.unwrap_or_else(|| task.exit_code.load(Relaxed));
        let event = Event { pid, uid, code: end_code(status), status, rusage: Rusage::default() };
        let garbage = if keep { Garbage::default() } else { exit::reap_thread(task, tree) };
        group.exit_wait.wake_all();
        return Some(OfTracee { event, living: Some(group.clone()), garbage });
    }
    if group.exit_state() != ExitState::Zombie {
        return None;
    }
    let event = end_event(group);
    let is_parent = group.parent().is_some_and(|parent| Arc::ptr_eq(&parent, me));
    let garbage = match () {
        () if keep => Garbage::default(),
        () if is_parent => {
            me.note_reaped(group);
            exit::reap(group, tree)
        }
        () => exit::reap_for_tracer(group, task, tree),
    };
    Some(OfTracee { event, living: None, garbage })
}

/// Whether the call is about `child`.
fn is_eligible(child: &Arc<ThreadGroup>, who: &Who, options: WaitOptions) -> bool {
    let is_meant = match who {
        Who::Any => true,
        Who::Pid(pid) => child.pid() == *pid,
        Who::Pgid(pgid) => child.pgid() == *pgid,
        Who::Process(group) => Arc::ptr_eq(group, child),
    };
    let is_clone = child.exit_signal.load(Relaxed) != SIGCHLD;
    is_meant && (options.contains(WaitOptions::ALL) || is_clone == options.contains(WaitOptions::CLONE))
}

/// The real user id of the child, dead or alive.
fn uid_of(child: &ThreadGroup) -> u32 {
    let uid = child.live_task().map_or(0, |task| task.with_cred(|cred| cred.uid));
    task::current().with_cred(|cred| cred.user_ns.show(IdKind::User, uid))
}

/// The `CLD_*` of an end with `status`.
fn end_code(status: i32) -> i32 {
    match status & 0x7f {
        0 => CLD_EXITED,
        _ if status & CORE_DUMPED != 0 => CLD_DUMPED,
        _ => CLD_KILLED,
    }
}

/// The event of a zombie.
fn end_event(child: &Arc<ThreadGroup>) -> Event {
    let status = child.exit_status();
    let code = end_code(status);
    let used = *child.usage.lock();
    let mut sum = used.dead;
    sum.add(&used.children);
    Event { pid: pid::visible(child.pid()), uid: uid_of(child), code, status, rusage: sum.to_rusage() }
}

/// A stop or continuation that was not reported yet: code and wait status. Consumes it unless `WNOWAIT`.
fn job_event(child: &ThreadGroup, options: WaitOptions) -> Option<(i32, i32)> {
    if !options.intersects(WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return None;
    }
    let keep = options.contains(WaitOptions::NOWAIT);
    let mut sig = child.sig.lock();
    if options.contains(WaitOptions::STOPPED) && sig.is_stopped && sig.stop_signal != 0 {
        let status = (sig.stop_signal as i32) << 8 | 0x7f;
        if !keep {
            sig.stop_signal = 0;
        }
        return Some((CLD_STOPPED, status));
    }
    if options.contains(WaitOptions::CONTINUED) && sig.is_continued {
        if !keep {
            sig.is_continued = false;
        }
        return Some((CLD_CONTINUED, CONTINUED_STATUS));
    }
    None
}

/// Who wait4(2) means by `pid`. `ESRCH`: a group that cannot be.
pub fn who_of_wait4(pid: i32) -> Result<Who> {
    Ok(match pid {
        -1 => Who::Any,
        0 => Who::Pgid(task::current().group().pgid()),
        1.. => who_of_pid(pid as u32),
        i32::MIN => return Err(Errno::ESRCH),
        _ => who_of_pgid(pid.unsigned_abs()),
    })
}

/// The child that the caller knows as `pid`; nobody if it knows none.
pub fn who_of_pid(pid: u32) -> Who {
    Who::Pid(pid::to_global(pid).unwrap_or(u32::MAX))
}

/// The members of the process group that the caller knows as `pgid`.
pub fn who_of_pgid(pgid: u32) -> Who {
    Who::Pgid(pid::to_global(pgid).unwrap_or(u32::MAX))
}
