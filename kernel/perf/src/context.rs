//! The events of a task, and those of each CPU.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering::Relaxed;

use abi::perf::AttrFlags;
use abi::{Errno, Result};
use hal::cpu::{self, CpuId};
use hal::percpu::PerCpu;
use hal::sync::IrqLock;
use hal::time::now_ns;
use hal::trap::UserRegs;
use hal::{UserAddr, preempt};
use mm::FaultKind;
use process::{CurrentTask, Task, TaskFlags, TaskWatcher};
use sched::{Mutex, SwitchWatcher};

use crate::event::{Event, Init, Place};
use crate::sources::Source;

struct Inner {
    events: Vec<Arc<Event>>,
    /// The CPU that the task is on.
    on: Option<CpuId>,
    /// The one it was on last.
    last: Option<CpuId>,
    /// The task has ended.
    is_over: bool,
}

/// The events of one task.
pub(crate) struct TaskContext {
    inner: IrqLock<Inner>,
}

/// The events of each CPU.
static CPU_EVENTS: PerCpu<IrqLock<Vec<Arc<Event>>>> =
    PerCpu::new(|_| IrqLock::new("perf.cpu_events", Vec::new()));

/// What [`process::ThreadGroup::dumpable`] is of a program that its user may look into.
const DUMPABLE: u8 = 1;

/// Held while a task gets its context, so that it gets one. Memory is had below it, so it may sleep.
static MAKING: Mutex<()> = Mutex::new("perf.making", ());

/// The context of `task`, if it has one.
fn existing(task: &Task) -> Option<Arc<TaskContext>> {
    let watcher: Arc<dyn Any + Send + Sync> = task.watcher()?;
    watcher.downcast().ok()
}

/// The context of `task`, made if there is none. May sleep. `ESRCH`: it ends.
pub(crate) fn of(task: &Task) -> Result<Arc<TaskContext>> {
    let _making = MAKING.lock();
    if task.has(TaskFlags::EXITING) {
        return Err(Errno::ESRCH);
    }
    if let Some(context) = existing(task) {
        return Ok(context);
    }
    let thread = task.thread().ok_or(Errno::ESRCH)?;
    let inner = Inner { events: Vec::new(), on: None, last: None, is_over: false };
    let context = Arc::new(TaskContext { inner: IrqLock::new("perf.context", inner) });
    thread.watch_switches(context.clone());
    task.watch(context.clone());
    Ok(context)
}

/// Makes room for one more in `events`, without memory being asked for under the lock.
fn push(events: &IrqLock<Vec<Arc<Event>>>, event: &Arc<Event>) -> Result<()> {
    let mut room = Vec::new();
    loop {
        let len = events.lock().len();
        room.try_reserve(len + 4).map_err(|_| Errno::ENOMEM)?;
        let mut list = events.lock();
        if list.len() < list.capacity() {
            list.push(event.clone());
            return Ok(());
        }
        if room.capacity() > list.len() {
            room.append(&mut list);
            core::mem::swap(&mut *list, &mut room);
            list.push(event.clone());
            return Ok(());
        }
    }
}

/// Puts `event` where it counts from now on. `ENOMEM`. `ESRCH`: its task has ended.
pub(crate) fn attach(event: &Arc<Event>) -> Result<()> {
    match &event.place {
        Place::Cpu(cpu) => {
            event.start(*cpu, now_ns(), false);
            push(CPU_EVENTS.get_on(*cpu), event)
        }
        Place::Task(context) => context.upgrade().ok_or(Errno::ESRCH)?.attach(event),
    }
}

/// Takes `event` out again.
pub(crate) fn detach(event: &Arc<Event>) {
    match &event.place {
        Place::Cpu(cpu) => drop(take(&mut CPU_EVENTS.get_on(*cpu).lock(), event)),
        Place::Task(context) => {
            if let Some(context) = context.upgrade() {
                drop(take(&mut context.inner.lock().events, event));
            }
        }
    }
    event.stop(now_ns());
}

/// Takes `event` out of `events`. The caller holds another reference: nothing is freed here.
fn take(events: &mut Vec<Arc<Event>>, event: &Arc<Event>) -> Option<Arc<Event>> {
    let at = events.iter().position(|other| Arc::ptr_eq(other, event))?;
    Some(events.remove(at))
}

impl TaskContext {
    fn attach(&self, event: &Arc<Event>) -> Result<()> {
        let mut room = Vec::new();
        loop {
            let len = self.inner.lock().events.len();
            room.try_reserve(len + 4).map_err(|_| Errno::ENOMEM)?;
            let mut inner = self.inner.lock();
            if inner.is_over {
                return Err(Errno::ESRCH);
            }
            if inner.events.len() == inner.events.capacity() {
                if room.capacity() <= inner.events.len() {
                    continue;
                }
                room.append(&mut inner.events);
                core::mem::swap(&mut inner.events, &mut room);
            }
            if let Some(cpu) = inner.on {
                event.start(cpu, now_ns(), false);
            }
            inner.events.push(event.clone());
            return Ok(());
        }
    }

    /// Its events, copied. `ENOMEM`.
    fn events(&self) -> Result<Vec<Arc<Event>>> {
        let mut copy = Vec::new();
        loop {
            let len = self.inner.lock().events.len();
            copy.try_reserve(len).map_err(|_| Errno::ENOMEM)?;
            let inner = self.inner.lock();
            if inner.events.len() <= copy.capacity() {
                copy.extend(inner.events.iter().cloned());
                return Ok(copy);
            }
        }
    }

    fn for_each(&self, mut f: impl FnMut(&Event)) {
        self.inner.lock().events.iter().for_each(|event| f(event));
    }

    /// Gives `child` what it inherits of `parents`. `ENOMEM`, `ESRCH`.
    fn inherit(child: &Task, parents: &[Arc<Event>]) -> Result<()> {
        let context = of(child)?;
        let mut made: Vec<(u64, Arc<Event>)> = Vec::new();
        made.try_reserve_exact(parents.len()).map_err(|_| Errno::ENOMEM)?;
        for parent in parents {
            let origin = parent.origin.as_ref().unwrap_or(parent);
            let leads = parent.leader().id;
            let leader = made.iter().find(|(id, _)| *id == leads).map(|(_, event)| event);
            let event = Event::new(Init {
                attr: parent.attr,
                source: parent.source,
                cpu: parent.cpu,
                place: Place::Task(Arc::downgrade(&context)),
                origin: Some(origin.clone()),
                leader,
                is_on: parent.is_on(),
                probe: parent.probe(),
            })?;
            event.starts_on_exec.store(parent.starts_on_exec.load(Relaxed), Relaxed);
            context.attach(&event)?;
            // Who closes the family detaches its members: they are attached before.
            if origin.adopt(&event) {
                made.push((parent.id, event));
            } else {
                detach(&event);
            }
        }
        Ok(())
    }
}

impl SwitchWatcher for TaskContext {
    fn switched_in(&self, cpu: CpuId, now: u64) {
        let mut inner = self.inner.lock();
        let moved = inner.last.replace(cpu).is_some_and(|last| last != cpu);
        inner.on = Some(cpu);
        inner.events.iter().for_each(|event| event.start(cpu, now, moved));
    }

    fn switched_out(&self, now: u64) {
        let mut inner = self.inner.lock();
        inner.on = None;
        inner.events.iter().for_each(|event| event.switch_out(now));
    }
}

impl TaskWatcher for TaskContext {
    fn forked(&self, task: &Task, child: &Arc<Task>) {
        let is_thread = Arc::ptr_eq(task.group(), child.group());
        let Ok(mut events) = self.events() else { return };
        events.retain(|event| {
            event.attr.has(AttrFlags::INHERIT) && (is_thread || !event.attr.has(AttrFlags::INHERIT_THREAD))
        });
        if events.is_empty() {
            return;
        }
        if let Err(error) = Self::inherit(child, &events) {
            log::debug!("a child inherits not all events of its parent: {error:?}");
        }
    }

    fn executed(&self, task: &Task) {
        // Nobody watches what became of a program that others may not look into (set-user-ID). As at the end of the task.
        if task.group().dumpable() != DUMPABLE {
            let events = core::mem::take(&mut self.inner.lock().events);
            events.iter().for_each(Event::end);
            return;
        }
        let Ok(events) = self.events() else { return };
        for event in events {
            if event.attr.has(AttrFlags::REMOVE_ON_EXEC) {
                detach(&event);
                event.end();
                continue;
            }
            event.start_at_exec();
            // Who attached it after the new program was mapped may have put its probe into the old one.
            if let (Some(probe), Some(mm)) = (event.probe(), task.mm())
                && let Err(error) = probe.set(Some(&mm))
            {
                log::debug!("a probe is not in a new program: {error:?}");
            }
        }
    }

    fn exits(&self, _task: &Task) {
        let events = {
            let mut inner = self.inner.lock();
            inner.is_over = true;
            core::mem::take(&mut inner.events)
        };
        events.iter().for_each(Event::end);
    }
}

/// Counts a page fault of `task`, the caller: [`process::hooks::FaultWatch`].
pub(crate) fn fault(task: &CurrentTask, _addr: UserAddr, kind: FaultKind, regs: Option<&UserRegs>) {
    let count = |event: &Event| {
        let is_wanted = match event.source {
            Source::Faults => true,
            Source::MinorFaults => kind == FaultKind::Minor,
            Source::MajorFaults => kind == FaultKind::Major,
            _ => false,
        };
        if is_wanted && !event.excludes(regs.is_some()) {
            event.hit();
        }
    };
    if let Some(context) = existing(task) {
        context.for_each(count);
    }
    let pinned = preempt::disable();
    let cpu = cpu::current_id(&pinned);
    CPU_EVENTS.get_on(cpu).lock().iter().for_each(|event| count(event));
}

/// Counts an execution of a probe by `task`, the caller, or a return of its function.
pub(crate) fn probe_hit(task: &CurrentTask, probe: u64, is_return: bool) {
    let count = |event: &Event| {
        if event.source == Source::Probe(probe, is_return) && !event.excludes(true) {
            event.hit();
        }
    };
    if let Some(context) = existing(task) {
        context.for_each(count);
    }
    let pinned = preempt::disable();
    let cpu = cpu::current_id(&pinned);
    CPU_EVENTS.get_on(cpu).lock().iter().for_each(|event| count(event));
}

/// Whether what `task`, the caller, does at a probe is counted by anyone.
pub(crate) fn concerns(task: &CurrentTask, probe: u64) -> bool {
    let is_it = |event: &Arc<Event>| matches!(event.source, Source::Probe(id, _) if id == probe);
    existing(task).is_some_and(|context| context.inner.lock().events.iter().any(is_it))
        || hal::cpu::online().iter().any(|cpu| CPU_EVENTS.get_on(cpu).lock().iter().any(is_it))
}

/// A weak reference to the context, for events.
pub(crate) fn place(context: &Arc<TaskContext>) -> Weak<TaskContext> {
    Arc::downgrade(context)
}
