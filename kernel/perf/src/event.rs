//! One event: what it counts and of whom, its family and its group.
//!
//! ```text
//! family   the event that was opened ── one more for each descendant of its task (INHERIT), while that lives
//! group    a leader ── its members: they count only while the leader is enabled, and are read together
//! ```

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use abi::perf::AttrFlags;
use abi::{Errno, Result};
use hal::cpu::CpuId;
use hal::sync::{IrqLock, IrqLockGuard, SpinLock};
use hal::time::now_ns;
use process::hooks::FAULT_WATCHERS;

use crate::attr::Attr;
use crate::context::{self, TaskContext};
use crate::counts::{Counts, Totals};
use crate::sources::Source;
use crate::uprobe::Use;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Whose doings are counted.
pub(crate) enum Place {
    /// A task's.
    Task(Weak<TaskContext>),
    /// A CPU's.
    Cpu(CpuId),
}

/// The counts with what they were read from.
pub(crate) struct Meter {
    counts: Counts,
    /// What the scheduler had counted on the CPU of the event at the last look.
    seen: u64,
}

/// The descendants of an event.
struct Family {
    /// Its descriptor is closed: no more come.
    is_closed: bool,
    members: Vec<Weak<Event>>,
    /// What those counted whose tasks have ended.
    ended: Totals,
}

/// Who an event is grouped with.
struct Group {
    /// `None` for a leader.
    leader: Option<Weak<Event>>,
    members: Vec<Weak<Event>>,
}

/// One event.
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) attr: Attr,
    pub(crate) source: Source,
    /// The only CPU on which it counts.
    pub(crate) cpu: Option<CpuId>,
    pub(crate) place: Place,
    /// The event that was opened, for one that was inherited.
    pub(crate) origin: Option<Arc<Event>>,
    /// The next execve(2) enables it.
    pub(crate) starts_on_exec: AtomicBool,
    /// The probe that it counts, until it ends.
    probe: SpinLock<Option<Arc<Use>>>,
    meter: IrqLock<Meter>,
    family: SpinLock<Family>,
    group: SpinLock<Group>,
}

/// What a new event is made of.
pub(crate) struct Init<'a> {
    pub(crate) attr: Attr,
    pub(crate) source: Source,
    pub(crate) cpu: Option<CpuId>,
    pub(crate) place: Place,
    pub(crate) origin: Option<Arc<Event>>,
    pub(crate) leader: Option<&'a Arc<Event>>,
    pub(crate) is_on: bool,
    pub(crate) probe: Option<Arc<Use>>,
}

impl Event {
    /// Makes an event and joins it to its leader. It counts nothing until its context has it. `ENOMEM`.
    pub(crate) fn new(init: Init<'_>) -> Result<Arc<Self>> {
        let is_led = init.leader.is_none_or(|leader| leader.is_on());
        let event = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            starts_on_exec: AtomicBool::new(init.attr.has(AttrFlags::ENABLE_ON_EXEC)),
            attr: init.attr,
            source: init.source,
            cpu: init.cpu,
            place: init.place,
            origin: init.origin,
            probe: SpinLock::new("perf.probe", init.probe),
            meter: IrqLock::new(
                "perf.meter",
                Meter { counts: Counts::new(init.source, init.is_on, is_led), seen: 0 },
            ),
            family: SpinLock::new(
                "perf.family",
                Family { is_closed: false, members: Vec::new(), ended: Totals::default() },
            ),
            group: SpinLock::new(
                "perf.group",
                Group { leader: init.leader.map(Arc::downgrade), members: Vec::new() },
            ),
        });
        if event.source.wants_faults() {
            FAULT_WATCHERS.fetch_add(1, Relaxed);
        }
        if let Some(leader) = init.leader {
            let mut group = leader.group.lock();
            group.members.retain(|member| member.strong_count() > 0);
            group.members.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            group.members.push(Arc::downgrade(&event));
            // Who turns the leader from now on meets this member; what it was before the member is told here.
            event.meter().counts.lead(now_ns(), leader.is_on());
        }
        Ok(event)
    }

    /// Whether user code, or the kernel, is left out.
    pub(crate) fn excludes(&self, user_mode: bool) -> bool {
        self.attr.has(if user_mode { AttrFlags::EXCLUDE_USER } else { AttrFlags::EXCLUDE_KERNEL })
    }

    /// The counts, brought up to what the scheduler has counted on its CPU. Interrupts are off while they are held.
    fn meter(&self) -> IrqLockGuard<'_, Meter> {
        let mut meter = self.meter.lock();
        if let Place::Cpu(cpu) = self.place
            && !self.excludes(false)
        {
            let stat = || sched::stats::cpu_stat(cpu);
            let seen = match self.source {
                Source::Switches => stat().switches,
                Source::Migrations => stat().migrations,
                _ => 0,
            };
            let nr = seen.wrapping_sub(meter.seen);
            meter.counts.add(nr);
            meter.seen = seen;
        }
        meter
    }

    /// Whether it is enabled, whatever its leader is.
    pub(crate) fn is_on(&self) -> bool {
        self.meter.lock().counts.is_on
    }

    /// Its task comes to `cpu`, from another one if it `moved`.
    pub(crate) fn start(&self, cpu: CpuId, now: u64, moved: bool) {
        let mut meter = self.meter();
        meter.counts.start(now, self.cpu.is_none_or(|wanted| wanted == cpu));
        if moved && self.source == Source::Migrations && !self.excludes(false) {
            meter.counts.add(1);
        }
    }

    /// Its task is switched away.
    pub(crate) fn switch_out(&self, now: u64) {
        let mut meter = self.meter();
        if self.source == Source::Switches && !self.excludes(false) {
            meter.counts.add(1);
        }
        meter.counts.stop(now);
    }

    /// It counts no longer: its task ended, or it was closed.
    pub(crate) fn stop(&self, now: u64) {
        self.meter().counts.stop(now);
    }

    /// One event happened.
    pub(crate) fn hit(&self) {
        self.meter.lock().counts.add(1);
    }

    /// The probe that it counts.
    pub(crate) fn probe(&self) -> Option<Arc<Use>> {
        self.probe.lock().clone()
    }

    /// Gives its probe up. May sleep.
    pub(crate) fn release_probe(&self) {
        let probe = self.probe.lock().take();
        drop(probe);
    }

    /// What it alone has counted.
    fn own(&self, now: u64) -> Totals {
        self.meter().counts.read(now)
    }

    /// What it and its family have counted.
    pub(crate) fn totals(&self) -> Totals {
        let now = now_ns();
        let family = self.family.lock();
        let mut sum = self.own(now);
        sum.add(&family.ended);
        for member in family.members.iter().filter_map(Weak::upgrade) {
            sum.add(&member.own(now));
        }
        sum
    }

    /// Enables it, or disables it, for its own task.
    fn turn(&self, now: u64, is_on: bool) {
        self.meter().counts.turn(now, is_on);
        let group = self.group.lock();
        for member in group.members.iter().filter_map(Weak::upgrade) {
            member.meter().counts.lead(now, is_on);
        }
    }

    /// Enables it and its family, or disables them.
    pub(crate) fn set_on(&self, is_on: bool) {
        self.for_family(|event| event.turn(now_ns(), is_on));
    }

    /// Enables it alone, at execve(2).
    pub(crate) fn start_at_exec(&self) {
        if self.starts_on_exec.swap(false, Relaxed) {
            self.turn(now_ns(), true);
        }
    }

    /// It and its family count from 0 again.
    pub(crate) fn reset(&self) {
        self.for_family(|event| event.meter().counts.reset(now_ns()));
    }

    fn for_family(&self, mut act: impl FnMut(&Event)) {
        let family = self.family.lock();
        act(self);
        for member in family.members.iter().filter_map(Weak::upgrade) {
            act(&member);
        }
    }

    /// Its leader; itself when it has none.
    pub(crate) fn leader(self: &Arc<Self>) -> Arc<Event> {
        let leader = self.group.lock().leader.as_ref().and_then(Weak::upgrade);
        leader.unwrap_or_else(|| self.clone())
    }

    /// The living members of the group that it leads. `ENOMEM`.
    pub(crate) fn members(&self) -> Result<Vec<Arc<Event>>> {
        let group = self.group.lock();
        let mut members = Vec::new();
        members.try_reserve_exact(group.members.len()).map_err(|_| Errno::ENOMEM)?;
        members.extend(group.members.iter().filter_map(Weak::upgrade));
        Ok(members)
    }

    /// How many events a read of its group gives.
    pub(crate) fn group_len(&self) -> usize {
        1 + self.group.lock().members.iter().filter(|member| member.strong_count() > 0).count()
    }

    /// Takes `child` into the family of the event that was opened. `false`: that is closed.
    pub(crate) fn adopt(&self, child: &Arc<Event>) -> bool {
        let mut family = self.family.lock();
        family.members.retain(|member| member.strong_count() > 0);
        if family.is_closed || family.members.try_reserve(1).is_err() {
            return false;
        }
        family.members.push(Arc::downgrade(child));
        true
    }

    /// Its task ended: what it counted goes to the event that it was inherited from.
    pub(crate) fn end(self: &Arc<Self>) {
        let now = now_ns();
        self.stop(now);
        self.release_probe();
        let Some(origin) = &self.origin else { return };
        let mut family = origin.family.lock();
        let own = self.own(now);
        let this = Arc::as_ptr(self);
        let before = family.members.len();
        family.members.retain(|member| member.as_ptr() != this);
        if family.members.len() < before {
            family.ended.add(&own);
        }
    }

    /// Its descriptor is closed: it and its family end, and its group goes on without it.
    pub(crate) fn close(self: &Arc<Self>) {
        let members = {
            let mut family = self.family.lock();
            family.is_closed = true;
            core::mem::take(&mut family.members)
        };
        for member in members.iter().filter_map(Weak::upgrade) {
            context::detach(&member);
            member.leave_group();
            member.release_probe();
        }
        context::detach(self);
        self.release_probe();
        self.leave_group();
    }

    /// Leaves its group; what it led is led by nobody.
    fn leave_group(self: &Arc<Self>) {
        let (leader, members) = {
            let mut group = self.group.lock();
            (group.leader.take(), core::mem::take(&mut group.members))
        };
        if let Some(leader) = leader.and_then(|leader| leader.upgrade()) {
            let this = Arc::as_ptr(self);
            leader.group.lock().members.retain(|member| member.as_ptr() != this);
        }
        for member in members.iter().filter_map(Weak::upgrade) {
            member.group.lock().leader = None;
            member.meter().counts.lead(now_ns(), true);
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.source.wants_faults() {
            FAULT_WATCHERS.fetch_sub(1, Relaxed);
        }
    }
}
