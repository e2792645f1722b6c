//! POSIX timers: timer_create(2) and its family.
//!
//! ```text
//! disarmed ─settime▶ armed ─expires▶ signal queued ─signal taken▶ armed again (interval), overruns counted
//!                                      │      ▲
//!                     signal is ignored▼      │sigaction(2) gives it a handler
//!                                      ignored (interval), or disarmed
//! ```
//!
//! A timer has at most one signal queued; expiries meanwhile are overruns (timer_getoverrun(2)), and so are those while
//! its signal is ignored. A timer with `SIGEV_NONE` never expires: what is left is worked out when somebody asks.
//! `expiry` has the edges to the right of "armed".
//!
//! Sources: timer_create(2), timer_settime(2), timer_getoverrun(2), `PR_TIMER_CREATE_RESTORE_IDS` of prctl(2); the choice
//! of ids as on Linux 7.2: each number is handed out before one comes again.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use abi::signal::{SI_TIMER, SIGALRM, SigInfo};
use abi::time::{Itimerspec, TIMER_ABSTIME, Timespec, clock};
use abi::{Errno, Result};
use limits::{Charge, Resource, UserResource};
use sched::Timer;
use security::Cap;

use super::cpu_clock::{ClockUse, CpuClock};
use super::{Timers, expiry, next_expiry, with};
use crate::signal;
use crate::{ThreadGroup, pid, task};

/// Highest overrun count that is reported (`DELAYTIMER_MAX`).
const MAX_OVERRUN: u64 = i32::MAX as u64;
/// Ids are positive `int`s.
const ID_MASK: u32 = i32::MAX as u32;

/// What happens when a timer expires (`sigev_notify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Nothing.
    None,
    /// A signal to the process.
    Signal,
    /// The C library calls a function; for the kernel as `Signal`.
    Function,
    /// A signal to this thread of the process.
    Thread(u32),
}

/// `struct sigevent`.
#[derive(Clone, Copy, Debug)]
pub struct TimerEvent {
    /// Whom to tell.
    pub notification: Notification,
    /// With which signal.
    pub signo: u32,
    /// `sigev_value`; `None` without a sigevent, where it is the timer's id.
    pub value: Option<u64>,
}

impl Default for TimerEvent {
    fn default() -> Self {
        Self { notification: Notification::Signal, signo: SIGALRM, value: None }
    }
}

/// The time that a timer measures.
#[derive(Clone, Debug)]
pub(super) enum Base {
    /// Monotonic time (boot time too: the machine does not sleep).
    Monotonic,
    /// Wall-clock time.
    Realtime,
    /// CPU time.
    Cpu(CpuClock),
}

impl Base {
    /// The base of clock `id`. `EINVAL`: no such clock. `EOPNOTSUPP`: one without timers. `EPERM`: an alarm clock without
    /// `CAP_WAKE_ALARM`.
    fn of(id: i32) -> Result<Self> {
        /// The low bits of a clock that is an open file.
        const FILE_CLOCK: i32 = 3;
        match id {
            clock::MONOTONIC | clock::BOOTTIME => Ok(Self::Monotonic),
            clock::REALTIME | clock::TAI => Ok(Self::Realtime),
            // The machine does not sleep, so these have nothing to wake it from.
            clock::REALTIME_ALARM | clock::BOOTTIME_ALARM => {
                if !task::current().with_cred(|cred| cred.capable(Cap::WAKE_ALARM)) {
                    return Err(Errno::EPERM);
                }
                Ok(if id == clock::REALTIME_ALARM { Self::Realtime } else { Self::Monotonic })
            }
            clock::MONOTONIC_RAW | clock::REALTIME_COARSE | clock::MONOTONIC_COARSE => Err(Errno::EOPNOTSUPP),
            _ if id < 0 && id & 7 == FILE_CLOCK => Err(Errno::EOPNOTSUPP),
            _ => CpuClock::find(id, ClockUse::Wait).map(Self::Cpu),
        }
    }

    /// Time in the numbers that `due_ns` uses; `None` when the task whose time it is has gone.
    pub(super) fn now(&self) -> Option<u64> {
        match self {
            Self::Monotonic | Self::Realtime => Some(hal::time::now_ns()),
            Self::Cpu(clock) => clock.read(),
        }
    }
}

/// Where a timer is in its life; whether it is armed says `due_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody owes it anything.
    Idle,
    /// Its signal is queued, or about to be; it goes on when that is taken.
    Queued,
    /// It expired while its signal was ignored; it goes on when the signal no longer is.
    Ignored,
}

/// One timer.
pub(crate) struct PosixTimer {
    pub(super) id: u32,
    clock_id: i32,
    pub(super) base: Base,
    /// Set to a time of the wall clock: it moves when that is set.
    is_wall: bool,
    pub(super) event: TimerEvent,
    timer: Option<Timer>,
    /// Expiry in monotonic or CPU time; 0 when disarmed.
    pub(super) due_ns: u64,
    pub(super) interval_ns: u64,
    pub(super) state: State,
    /// Counts settings and signals taken, so that an expiry is known that belongs to an earlier one.
    pub(super) seq: u64,
    /// What timer_getoverrun(2) tells: overruns of the signal taken last.
    pub(super) last_overrun: u64,
    /// A timer counts as a queued signal, whether one is queued or not.
    _charge: Charge,
    /// Where its machine timer finds the id, which is chosen last.
    shown_id: Arc<AtomicU32>,
}

impl Drop for PosixTimer {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.cancel();
        }
    }
}

impl PosixTimer {
    /// Whether it is armed on CPU time.
    pub(crate) fn is_on_cpu_time(&self) -> bool {
        self.due_ns != 0 && self.expires() && matches!(self.base, Base::Cpu(_))
    }

    /// Whether it ever does anything.
    pub(super) fn expires(&self) -> bool {
        self.event.notification != Notification::None
    }

    /// What user space sees; nothing of a timer on the time of a task that has gone.
    fn show(&self, now_ns: Option<u64>) -> Itimerspec {
        let Some(now_ns) = now_ns else { return Itimerspec::default() };
        let mut due_ns = self.due_ns;
        if due_ns != 0 && due_ns <= now_ns && self.interval_ns != 0 {
            due_ns = next_expiry(due_ns, self.interval_ns, now_ns).0;
        }
        let is_over = due_ns <= now_ns && !self.expires();
        let left_ns = if due_ns == 0 || is_over { 0 } else { due_ns.saturating_sub(now_ns).max(1) };
        Itimerspec { it_interval: Timespec::from_ns(self.interval_ns), it_value: Timespec::from_ns(left_ns) }
    }

    /// The siginfo of an expiry.
    pub(super) fn info(&self) -> SigInfo {
        let mut info = SigInfo::new(self.event.signo, SI_TIMER);
        info.fields[0] = u64::from(self.id);
        info.fields[1] = self.event.value.unwrap_or(u64::from(self.id));
        info
    }

    /// Enters `overrun` in the siginfo of an expiry.
    pub(super) fn set_overrun(&self, info: &mut SigInfo) {
        info.fields[0] = u64::from(self.id) | self.last_overrun.min(MAX_OVERRUN) << 32;
    }

    /// Disarms it; a signal that is on its way counts no longer.
    fn disarm(&mut self) {
        if let Some(machine) = &self.timer {
            machine.cancel();
        }
        self.due_ns = 0;
        self.interval_ns = 0;
        self.state = State::Idle;
        self.seq += 1;
        self.last_overrun = 0;
    }

    /// Arms it for `due_ns`, 0 for never.
    pub(super) fn arm(&mut self, due_ns: u64) {
        self.due_ns = due_ns;
        if let Some(machine) = self.timer.as_ref().filter(|_| due_ns != 0 && self.expires()) {
            machine.start(due_ns);
        }
    }
}

impl Timers {
    /// The place of timer `id`, or where it would be.
    fn place(&self, id: u32) -> core::result::Result<usize, usize> {
        self.posix.binary_search_by_key(&id, |timer| timer.id)
    }

    /// The timer with this id.
    pub(super) fn find(&mut self, id: u32) -> Option<&mut PosixTimer> {
        let place = self.place(id).ok()?;
        self.posix.get_mut(place).map(|timer| &mut **timer)
    }

    /// The first timer with an id of at least `from` that `wanted` wants.
    pub(super) fn find_from(
        &mut self,
        from: u32,
        mut wanted: impl FnMut(&PosixTimer) -> bool,
    ) -> Option<&mut PosixTimer> {
        let first = self.place(from).unwrap_or_else(|place| place);
        let rest = self.posix.get_mut(first..)?;
        rest.iter_mut().map(|timer| &mut **timer).find(|timer| wanted(timer))
    }

    /// Enters `timer` with id `wanted`, or with the next free one. `EBUSY`: that id is taken. `EAGAIN`: no memory, no id.
    fn insert(&mut self, mut timer: Box<PosixTimer>, wanted: Option<u32>) -> Result<u32> {
        self.posix.try_reserve(1).map_err(|_| Errno::EAGAIN)?;
        let (id, place) = match wanted {
            Some(id) => (id, self.place(id).err().ok_or(Errno::EBUSY)?),
            None => self.next_free().ok_or(Errno::EAGAIN)?,
        };
        self.next_id = id.wrapping_add(1);
        timer.id = id;
        timer.shown_id.store(id, Relaxed);
        self.posix.insert(place, timer);
        Ok(id)
    }

    /// The next id that is free, and its place.
    fn next_free(&self) -> Option<(u32, usize)> {
        // One of as many ids as there are timers, and one, is free.
        (0..=self.posix.len() as u32).find_map(|step| {
            let id = self.next_id.wrapping_add(step) & ID_MASK;
            self.place(id).err().map(|place| (id, place))
        })
    }
}

/// The id that user space passed. `EINVAL`: it cannot be one.
fn checked_id(id: i32) -> Result<u32> {
    u32::try_from(id).map_err(|_| Errno::EINVAL)
}

/// Calls `f` with the timer `id` of `group`. `EINVAL`: there is none.
pub(super) fn with_timer<R>(group: &ThreadGroup, id: u32, f: impl FnOnce(&mut PosixTimer) -> R) -> Result<R> {
    with(group, |timers| timers.find(id).map(f)).ok_or(Errno::EINVAL)
}

/// timer_create(2): gives the new timer's id, which is `wanted` if that is given.
///
/// `EINVAL`: bad clock, signal, thread or id. `EAGAIN`: as many timers and signals as the user may have, or no memory.
/// `EBUSY`: the id is taken. `EOPNOTSUPP`, `EPERM`: see the clocks.
pub fn timer_create(clock_id: i32, event: TimerEvent, wanted: Option<i32>) -> Result<i32> {
    let base = Base::of(clock_id)?;
    let task = task::current();
    let group = task.group();
    let wanted = wanted.map(checked_id).transpose()?;
    let limit = group.rlimits().cur(Resource::Sigpending);
    let user = task.user().ok_or(Errno::EAGAIN)?;
    let charge = Charge::new(&user, UserResource::Sigpending, limit).ok_or(Errno::EAGAIN)?;
    if event.notification != Notification::None && !(1..=abi::signal::NSIG).contains(&event.signo) {
        return Err(Errno::EINVAL);
    }
    let mut event = event;
    if let Notification::Thread(tid) = event.notification {
        let thread = pid::find_task(tid).filter(|thread| Arc::ptr_eq(thread.group(), group));
        event.notification = Notification::Thread(thread.ok_or(Errno::EINVAL)?.tid());
    }
    let shown_id = Arc::new(AtomicU32::new(0));
    let on_real_time = matches!(base, Base::Monotonic | Base::Realtime);
    // Made before the timer can be found by its id, which may be guessed.
    let machine = on_real_time.then(|| {
        let (weak, id) = (Arc::downgrade(group), shown_id.clone());
        Timer::new(Arc::new(move || {
            if let Some(group) = weak.upgrade() {
                expiry::notify(&group, id.load(Relaxed), hal::time::now_ns());
            }
        }))
    });
    let timer = Box::new(PosixTimer {
        id: 0,
        clock_id,
        base,
        is_wall: false,
        event,
        timer: machine,
        due_ns: 0,
        interval_ns: 0,
        state: State::Idle,
        seq: 0,
        last_overrun: 0,
        _charge: charge,
        shown_id,
    });
    with(group, |timers| timers.insert(timer, wanted)).map(|id| id as i32)
}

/// timer_settime(2); gives the old setting. `EINVAL`: no such timer, or a time that is none. `ESRCH`: the task whose time
/// it measures has gone.
pub fn timer_settime(id: i32, flags: u32, new: &Itimerspec) -> Result<Itimerspec> {
    let (value_ns, interval_ns) = (new.it_value.to_ns()?, new.it_interval.to_ns()?);
    let id = checked_id(id)?;
    let task = task::current();
    let group = task.group();
    let base = with_timer(group, id, |timer| timer.base.clone())?;
    let now = base.now().ok_or(Errno::ESRCH)?;
    let is_absolute = flags & TIMER_ABSTIME != 0;
    let (old, signo) = with_timer(group, id, |timer| {
        let old = timer.show(Some(now));
        timer.disarm();
        (old, timer.event.signo)
    })?;
    // Between the two: an expiry of the new setting must not be dropped with those of the old one.
    signal::flush_timer(group, signo, id);
    if value_ns == 0 {
        return Ok(old);
    }
    let due_ns = with_timer(group, id, |timer| {
        timer.interval_ns = interval_ns;
        timer.is_wall = is_absolute && matches!(timer.base, Base::Realtime);
        // LINUX: a timer of CLOCK_TAI goes on as it was set when the offset of that clock changes.
        let tai_s = if timer.clock_id == clock::TAI { hal::time::tai_offset_s() } else { 0 };
        let tai_ns = tai_s.saturating_mul(1_000_000_000);
        let offset_ns = if timer.is_wall { hal::time::wall_base_ns().saturating_add(tai_ns) } else { 0 };
        let due_ns = if is_absolute {
            let due_ns = value_ns.saturating_sub(u64::try_from(offset_ns).unwrap_or(0));
            crate::nsproxy::clock_outside(timer.clock_id, due_ns).max(1)
        } else {
            now.saturating_add(value_ns)
        };
        timer.arm(due_ns);
        due_ns
    })?;
    if let Base::Cpu(clock) = &base {
        expiry::watch(group, id, clock, due_ns)?;
        if due_ns <= now {
            expiry::notify(group, id, now);
        }
    }
    Ok(old)
}

/// timer_gettime(2). `EINVAL`: no such timer.
pub fn timer_gettime(id: i32) -> Result<Itimerspec> {
    let id = checked_id(id)?;
    let task = task::current();
    // The time is read without the lock, which that of CPU clocks cannot be read under.
    let base = with_timer(task.group(), id, |timer| timer.base.clone())?;
    let now = base.now();
    with_timer(task.group(), id, |timer| timer.show(now))
}

/// timer_getoverrun(2). `EINVAL`: no such timer.
pub fn timer_getoverrun(id: i32) -> Result<i32> {
    let id = checked_id(id)?;
    with_timer(task::current().group(), id, |timer| timer.last_overrun.min(MAX_OVERRUN) as i32)
}

/// timer_delete(2). `EINVAL`: no such timer.
pub fn timer_delete(id: i32) -> Result<()> {
    let id = checked_id(id)?;
    let task = task::current();
    let group = task.group();
    let taken = with(group, |timers| timers.place(id).ok().map(|place| timers.posix.remove(place)));
    let gone = taken.ok_or(Errno::EINVAL)?;
    signal::flush_timer(group, gone.event.signo, id);
    expiry::unwatch(group, &gone);
    Ok(())
}

/// `PR_TIMER_CREATE_RESTORE_IDS`: whether timer_create(2) takes the ids of new timers from the caller.
pub fn set_restore_ids(on: bool) {
    with(task::current().group(), |timers| timers.restores_ids = on);
}

/// Whether timer_create(2) takes ids from the caller.
pub fn restores_ids() -> bool {
    task::current().group().timers.lock().as_ref().is_some_and(|timers| timers.restores_ids)
}

/// The wall clock was set forward by `moved_ns`: timers that wait for a time of it follow.
pub fn clock_was_set(moved_ns: i64) {
    for group in pid::processes() {
        let mut timers = group.timers.lock();
        let Some(timers) = timers.as_mut() else { continue };
        for timer in timers.posix.iter_mut().filter(|timer| timer.is_wall && timer.due_ns != 0) {
            let due_ns = timer.due_ns.saturating_add_signed(moved_ns.saturating_neg()).max(1);
            if timer.state == State::Idle {
                if let Some(machine) = &timer.timer {
                    machine.cancel();
                }
                timer.arm(due_ns);
            } else {
                timer.due_ns = due_ns;
            }
        }
    }
}

/// A timer as /proc/PID/timers shows it.
#[derive(Clone, Copy, Debug)]
pub struct TimerInfo {
    /// Its id.
    pub id: i32,
    /// Its clock.
    pub clock_id: i32,
    /// What it does.
    pub event: TimerEvent,
}

/// All POSIX timers of `group`, by id.
pub fn timer_list(group: &ThreadGroup) -> Vec<TimerInfo> {
    let mut list = Vec::new();
    // Copied under the lock, so room is made before: again if a timer came meanwhile.
    loop {
        let timers = group.timers.lock();
        let posix = timers.as_ref().map_or(&[][..], |timers| &timers.posix);
        if list.capacity() >= posix.len() {
            list.extend(posix.iter().map(|timer| TimerInfo {
                id: timer.id as i32,
                clock_id: timer.clock_id,
                event: timer.event,
            }));
            return list;
        }
        let wanted = posix.len();
        drop(timers);
        list.reserve(wanted);
    }
}
