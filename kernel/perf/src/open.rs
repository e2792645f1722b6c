//! perf_event_open(2): from arguments to an event.
//!
//! The order of the checks is Linux's, so that a program that does several things wrong is told the same.

use alloc::sync::Arc;

use abi::perf::{AttrFlags, OpenFlags};
use abi::{Errno, Result};
use hal::UserAddr;
use hal::cpu::CpuId;
use process::prctl::may_observe;
use process::{CurrentTask, Task};
use security::{Cred, ObserveIdentity};
use vfs::File;

use crate::attr::{self, Attr};
use crate::event::{Event, Init, Place};
use crate::file::{self, EventFile};
use crate::sources::Source;
use crate::{context, settings, uprobe};

/// The arguments of perf_event_open(2).
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Where `struct perf_event_attr` is.
    pub attr: UserAddr,
    /// Whom to measure: a thread, 0 for the caller, -1 for all on a CPU.
    pub pid: i32,
    /// On which CPU, -1 for any.
    pub cpu: i32,
    /// A leader, or -1.
    pub group_fd: i32,
    /// `PERF_FLAG_*`.
    pub flags: u64,
}

/// Opens an event for `me`, the caller.
///
/// The errors are those of perf_event_open(2): `E2BIG`, `EACCES`, `EBADF`, `EFAULT`, `EINVAL`, `ENODEV`, `ENOENT`,
/// `ENOMEM`, `EOPNOTSUPP` (samples, control groups), `ESRCH`.
pub fn open(me: &CurrentTask, request: &Request) -> Result<Arc<File>> {
    let flags = OpenFlags::from_bits(request.flags).ok_or(Errno::EINVAL)?;
    let attr = attr::check(&attr::read(request.attr)?)?;
    let cred = me.cred();
    attr::check_rights(&attr, &cred)?;
    if flags.contains(OpenFlags::PID_CGROUP) {
        let bad = request.pid == -1 || request.cpu == -1;
        return Err(if bad { Errno::EINVAL } else { Errno::EOPNOTSUPP });
    }
    let given = if request.group_fd == -1 { None } else { Some(event_of(me, request.group_fd)?) };
    let leader = given.filter(|_| !flags.contains(OpenFlags::FD_NO_GROUP));
    let task = if request.pid == -1 { None } else { Some(find(me, request.pid)?) };
    if leader
        .as_ref()
        .is_some_and(|leader| leader.attr.has(AttrFlags::INHERIT) != attr.has(AttrFlags::INHERIT))
    {
        return Err(Errno::EINVAL);
    }
    let cpu = wanted_cpu(request.cpu, task.is_some())?;
    if attr.has(AttrFlags::SIGTRAP) && task.is_none() {
        return Err(Errno::EINVAL);
    }
    let probe = if attr.raw.kind == uprobe::KIND { Some(Arc::new(uprobe::open(me, &attr)?)) } else { None };
    let source = match &probe {
        Some(probe) => Source::Probe(probe.id(), probe.is_return),
        None => Source::of(&attr.raw)?,
    };
    if attr.is_sampling() {
        return Err(Errno::EOPNOTSUPP);
    }
    let place = place(&cred, task.as_deref(), cpu)?;
    if let Some(leader) = &leader {
        check_group(leader, &place, cpu, &attr)?;
    }
    let is_on = !attr.has(AttrFlags::DISABLED);
    let init =
        Init { attr, source, cpu, place, origin: None, leader: leader.as_ref(), is_on, probe: probe.clone() };
    let event = Event::new(init)?;
    // The file closes the event should its task be gone by now.
    let file = file::create(event.clone(), &cred);
    // Its group knows it by now, and may let go of it where nothing sleeps.
    let file = file.inspect_err(|_| event.release_probe())?;
    context::attach(&event)?;
    // Once more: it may have executed a program of more rights before it could take the event away.
    if let Some(task) = &task {
        check_observable(&cred, task)?;
    }
    if let Some(probe) = probe {
        let mm = task.as_deref().and_then(Task::mm);
        // Of a task that has no memory any more nothing will be counted.
        if task.is_none() || mm.is_some() {
            probe.set(mm.as_deref())?;
        }
    }
    Ok(file)
}

/// The event of descriptor `fd`. `EBADF`: it is none of an event.
fn event_of(me: &CurrentTask, fd: i32) -> Result<Arc<Event>> {
    let file = me.file(fd)?;
    file.ops_as::<EventFile>().map(|ops| ops.event().clone()).ok_or(Errno::EBADF)
}

/// The thread to measure. `ESRCH`.
fn find(me: &CurrentTask, pid: i32) -> Result<Arc<Task>> {
    if pid == 0 {
        return Ok(me.arc().clone());
    }
    u32::try_from(pid).ok().and_then(process::pid::find_task).ok_or(Errno::ESRCH)
}

/// The CPU of an event. `EINVAL`: there is none of that number, or neither task nor CPU is given.
fn wanted_cpu(cpu: i32, has_task: bool) -> Result<Option<CpuId>> {
    match u32::try_from(cpu) {
        Ok(cpu) if (cpu as usize) < hal::cpu::nr_cpus() => Ok(Some(CpuId(cpu))),
        Err(_) if cpu == -1 && has_task => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

/// `EACCES`: `task` is not for the caller to measure.
fn check_observable(cred: &Cred, task: &Task) -> Result<()> {
    let may = settings::is_privileged(cred) || may_observe(task, ObserveIdentity::Real);
    if may { Ok(()) } else { Err(Errno::EACCES) }
}

/// Where an event counts. `EACCES`: not for the caller. `ENODEV`: the CPU is off. `ESRCH`: the task ends.
fn place(cred: &Cred, task: Option<&Task>, cpu: Option<CpuId>) -> Result<Place> {
    if let Some(task) = task {
        check_observable(cred, task)?;
        return Ok(Place::Task(context::place(&context::of(task)?)));
    }
    settings::require(cred, settings::CPUS)?;
    let cpu = cpu.ok_or(Errno::EINVAL)?;
    if hal::cpu::online().contains(cpu) { Ok(Place::Cpu(cpu)) } else { Err(Errno::ENODEV) }
}

/// `EINVAL`: `leader` leads nobody, or measures others, elsewhere or by another clock; or the new event wants to be alone.
fn check_group(leader: &Arc<Event>, place: &Place, cpu: Option<CpuId>, attr: &Attr) -> Result<()> {
    let clock = |attr: &Attr| attr.has(AttrFlags::USE_CLOCKID).then_some(attr.raw.clockid);
    let is_same_place = match (&leader.place, place) {
        (Place::Task(a), Place::Task(b)) => a.ptr_eq(b),
        (Place::Cpu(a), Place::Cpu(b)) => a == b,
        _ => false,
    };
    let bad = !Arc::ptr_eq(&leader.leader(), leader)
        || clock(&leader.attr) != clock(attr)
        || leader.cpu != cpu
        || !is_same_place
        || attr.flags.intersects(AttrFlags::EXCLUSIVE | AttrFlags::PINNED);
    if bad { Err(Errno::EINVAL) } else { Ok(()) }
}
