//! Clocks, sleeping and timers (clock_gettime(2), nanosleep(2), setitimer(2), timer_create(2)).

use alloc::boxed::Box;

use abi::time::{Itimerspec, Itimerval, NSEC_PER_SEC, TIMER_ABSTIME, Timespec, Timeval, clock};
use abi::{Errno, Result};
use hal::time::{now_ns, raw_ns, tai_offset_s, wall_base_ns};
use hal::{UserAddr, user};
use process::nsproxy::{clock_inside, clock_outside};
use process::signal::restart_with;
use process::timer;
use process::timer::{ClockUse, CpuClock, Notification, TimerEvent, Which};
use sched::{Interruptible, Mutex, WaitError, WaitQueue, sleep_until};
use security::Cap;

use crate::{Cx, adjtime};

/// The wall clock, in nanoseconds since the Epoch.
pub(crate) fn wall_ns() -> u64 {
    u64::try_from(wall_base_ns().saturating_add_unsigned(now_ns())).unwrap_or(0)
}

/// CLOCK_TAI minus the wall clock.
fn tai_offset_ns() -> i64 {
    tai_offset_s().saturating_mul(NSEC_PER_SEC as i64)
}

/// CLOCK_BOOTTIME as the caller sees it.
pub(crate) fn boottime_ns() -> u64 {
    clock_inside(clock::BOOTTIME, now_ns())
}

/// The time of clock `id` in nanoseconds. `EINVAL`: there is none.
fn read_clock(id: i32) -> Result<u64> {
    match id {
        clock::MONOTONIC | clock::MONOTONIC_COARSE | clock::BOOTTIME | clock::BOOTTIME_ALARM => {
            Ok(clock_inside(id, now_ns()))
        }
        clock::MONOTONIC_RAW => Ok(clock_inside(id, raw_ns())),
        clock::REALTIME | clock::REALTIME_COARSE | clock::REALTIME_ALARM => Ok(wall_ns()),
        clock::TAI => Ok(wall_ns().saturating_add_signed(tai_offset_ns())),
        clock::PROCESS_CPUTIME_ID => Ok(process::current().group().cpu_ns()),
        clock::THREAD_CPUTIME_ID => {
            let sum = process::current().usage();
            Ok(sum.utime_ns + sum.stime_ns)
        }
        _ => CpuClock::find(id, ClockUse::Read)?.read().ok_or(Errno::EINVAL),
    }
}

/// clock_gettime(2).
pub(crate) fn sys_clock_gettime(_cx: &mut Cx<'_>, id: i32, out: UserAddr) -> Result<usize> {
    user::write(out, &Timespec::from_ns(read_clock(id)?))?;
    Ok(0)
}

/// clock_getres(2): one nanosecond, and a tick for the coarse clocks and those that Linux counts in ticks.
pub(crate) fn sys_clock_getres(_cx: &mut Cx<'_>, id: i32, out: UserAddr) -> Result<usize> {
    /// Linux's tick at 250 Hz.
    const TICK_NS: u64 = 4_000_000;
    /// The kind of a CPU clock that counts nanoseconds.
    const SCHED: i32 = 2;
    let in_ticks = match id {
        clock::REALTIME_COARSE | clock::MONOTONIC_COARSE => true,
        0.. => read_clock(id).map(|_| false)?,
        _ => CpuClock::find(id, ClockUse::Wait).map(|_| id & 3 != SCHED)?,
    };
    if out.0 != 0 {
        user::write(out, &Timespec::from_ns(if in_ticks { TICK_NS } else { 1 }))?;
    }
    Ok(0)
}

/// clock_settime(2): the wall clock only. `EPERM`: no `CAP_SYS_TIME`, or the CPU clock of a task. `EINVAL`.
pub(crate) fn sys_clock_settime(_cx: &mut Cx<'_>, id: i32, time: UserAddr) -> Result<usize> {
    match id {
        clock::REALTIME => {}
        id if id < 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    let time: Timespec = user::read(time)?;
    if id != clock::REALTIME {
        read_clock(id)?;
        return Err(Errno::EPERM);
    }
    set_wall(time.to_ns()?)
}

/// Sleepers until a time of the wall clock: they look again when it was set.
static CLOCK_SET: WaitQueue = WaitQueue::new();
/// Serialises settings of the wall clock.
static SETTING: Mutex<()> = Mutex::new("syscall.wall_clock", ());
/// The last second that the wall clock can be set to: what is set must last 30 years (Linux: `TIME_SETTOD_SEC_MAX`).
const LAST_SETTABLE_SEC: u64 = i64::MAX as u64 / NSEC_PER_SEC - 30 * 365 * 24 * 3600;

/// Sets the wall clock, and whatever waits for a time of it. `EINVAL`: too late, or before the boot would be 1970.
/// `EPERM`.
pub(crate) fn set_wall(ns: u64) -> Result<usize> {
    if ns / NSEC_PER_SEC >= LAST_SETTABLE_SEC {
        return Err(Errno::EINVAL);
    }
    crate::require(Cap::SYS_TIME)?;
    {
        let _setting = SETTING.lock();
        check_settable(ns)?;
        move_wall(|| hal::time::set_wall_ns(ns as i64));
    }
    adjtime::clock_was_set();
    Ok(0)
}

/// Sets the wall clock `by_ns` on or back, and whatever waits for a time of it. `EINVAL`: as for [`set_wall`].
pub(crate) fn offset_wall(by_ns: i128) -> Result<()> {
    {
        let _setting = SETTING.lock();
        let ns = u64::try_from(i128::from(wall_ns()).saturating_add(by_ns)).map_err(|_| Errno::EINVAL)?;
        check_settable(ns)?;
        let by_ns = i64::try_from(by_ns).map_err(|_| Errno::EINVAL)?;
        move_wall(|| hal::time::step_wall_ns(by_ns));
    }
    adjtime::clock_was_set();
    Ok(())
}

/// Whether the wall clock can be set to `ns`. `EINVAL`.
fn check_settable(ns: u64) -> Result<()> {
    if ns / NSEC_PER_SEC >= LAST_SETTABLE_SEC || ns < now_ns() { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Moves the wall clock by `by_ns`, for a leap second.
pub(crate) fn step_wall(by_ns: i64) {
    let _setting = SETTING.lock();
    move_wall(|| hal::time::step_wall_ns(by_ns));
}

/// Sets the wall clock by `change`, with [`SETTING`] held.
fn move_wall(change: impl FnOnce()) {
    let before = wall_base_ns();
    change();
    let moved_ns = wall_base_ns().saturating_sub(before);
    timer::clock_was_set(moved_ns);
    events::timerfd::clock_was_set(moved_ns);
    CLOCK_SET.wake_all();
}

/// adjtimex(2).
pub(crate) fn sys_adjtimex(_cx: &mut Cx<'_>, buf: UserAddr) -> Result<usize> {
    let mut timex: adjtime::Timex = user::read(buf)?;
    let state = adjtime::adjust(&mut timex)?;
    user::write(buf, &timex)?;
    Ok(state)
}

/// clock_adjtime(2). `EOPNOTSUPP`: not the wall clock. `EINVAL`: no such clock.
pub(crate) fn sys_clock_adjtime(cx: &mut Cx<'_>, id: i32, buf: UserAddr) -> Result<usize> {
    let _readable: adjtime::Timex = user::read(buf)?;
    match id {
        clock::REALTIME => sys_adjtimex(cx, buf),
        id => read_clock(id).and(Err(Errno::EOPNOTSUPP)),
    }
}

/// gettimeofday(2).
pub(crate) fn sys_gettimeofday(_cx: &mut Cx<'_>, time: UserAddr, zone: UserAddr) -> Result<usize> {
    if time.0 != 0 {
        user::write(time, &Timeval::from_ns(wall_ns()))?;
    }
    if zone.0 != 0 {
        user::write(zone, &[0i32; 2])?;
    }
    Ok(0)
}

/// settimeofday(2): a time zone is read and ignored.
pub(crate) fn sys_settimeofday(_cx: &mut Cx<'_>, time: UserAddr, _zone: UserAddr) -> Result<usize> {
    if time.0 == 0 {
        return crate::require(Cap::SYS_TIME).map(|()| 0);
    }
    let time: Timeval = user::read(time)?;
    set_wall(time.to_ns()?)
}

/// time(2).
pub(crate) fn sys_time(_cx: &mut Cx<'_>, out: UserAddr) -> Result<usize> {
    let seconds = wall_ns() / NSEC_PER_SEC;
    if out.0 != 0 {
        user::write(out, &seconds)?;
    }
    Ok(seconds as usize)
}

/// Sleeps until `deadline_ns`; an interrupted sleep tells the rest at `left`, and a stop lets it go on.
fn sleep_relative(deadline_ns: u64, left: UserAddr) -> Result<usize> {
    if sleep_until(deadline_ns, Interruptible::Yes).is_ok() {
        return Ok(0);
    }
    if left.0 != 0 {
        let rest = deadline_ns.saturating_sub(now_ns());
        user::write(left, &Timespec::from_ns(rest))?;
    }
    Err(restart_with(Box::new(move || sleep_relative(deadline_ns, left))))
}

/// nanosleep(2).
pub(crate) fn sys_nanosleep(_cx: &mut Cx<'_>, time: UserAddr, left: UserAddr) -> Result<usize> {
    let time: Timespec = user::read(time)?;
    sleep_relative(now_ns().saturating_add(time.to_ns()?), left)
}

/// clock_nanosleep(2).
pub(crate) fn sys_clock_nanosleep(
    _cx: &mut Cx<'_>,
    id: i32,
    flags: u32,
    time: UserAddr,
    left: UserAddr,
) -> Result<usize> {
    match id {
        clock::MONOTONIC | clock::BOOTTIME | clock::REALTIME | clock::TAI | clock::PROCESS_CPUTIME_ID => {}
        // The machine does not sleep, so these have nothing to wake it from.
        clock::REALTIME_ALARM | clock::BOOTTIME_ALARM => {
            if flags & !TIMER_ABSTIME != 0 {
                return Err(Errno::EINVAL);
            }
            crate::require(Cap::WAKE_ALARM)?;
        }
        clock::THREAD_CPUTIME_ID
        | clock::MONOTONIC_RAW
        | clock::REALTIME_COARSE
        | clock::MONOTONIC_COARSE => {
            return Err(Errno::EOPNOTSUPP);
        }
        // An open file as a clock: none has one.
        id if id < 0 && id & 7 == 3 => return Err(Errno::EOPNOTSUPP),
        id if id < 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    let time: Timespec = user::read(time)?;
    let ns = time.to_ns()?;
    if id == clock::PROCESS_CPUTIME_ID || id < 0 {
        return sleep_cpu_from(id, flags, ns, left);
    }
    if flags & TIMER_ABSTIME == 0 {
        return sleep_relative(now_ns().saturating_add(ns), left);
    }
    if !matches!(id, clock::REALTIME | clock::TAI | clock::REALTIME_ALARM) {
        return sleep_until(clock_outside(id, ns), Interruptible::Yes)
            .map(|()| 0)
            .map_err(|_| Errno::ERESTARTNOHAND);
    }
    let tai_ns = if id == clock::TAI { tai_offset_ns() } else { 0 };
    sleep_until_wall(ns.saturating_add_signed(tai_ns.saturating_neg()))
}

/// Sleeps until the wall clock shows `until_ns`, whoever sets it meanwhile.
fn sleep_until_wall(until_ns: u64) -> Result<usize> {
    loop {
        let base = wall_base_ns();
        let left = until_ns.saturating_sub(wall_ns());
        if left == 0 {
            return Ok(0);
        }
        let was_set = || (wall_base_ns() != base).then_some(());
        let deadline = now_ns().saturating_add(left);
        if let Err(WaitError::Interrupted) =
            CLOCK_SET.wait_deadline(was_set, Some(deadline), Interruptible::Yes)
        {
            return Err(Errno::ERESTARTNOHAND);
        }
    }
}

/// Sleeps on the CPU clock `id` for `ns`, or until it shows `ns`. `EINVAL`: no such clock, or the caller's own, which
/// does not go on meanwhile.
fn sleep_cpu_from(id: i32, flags: u32, ns: u64, left: UserAddr) -> Result<usize> {
    let clock = CpuClock::find(id, ClockUse::Wait)?;
    if clock.is_own_thread() {
        return Err(Errno::EINVAL);
    }
    if flags & TIMER_ABSTIME != 0 {
        return sleep_cpu(&clock, ns).map(|()| 0).map_err(|_| Errno::ERESTARTNOHAND);
    }
    let until_ns = clock.read().ok_or(Errno::ESRCH)?.saturating_add(ns);
    sleep_cpu_relative(clock, until_ns, left)
}

/// Sleeps until `clock` shows `until_ns`; an interrupted sleep tells the rest at `left`, and a stop lets it go on.
fn sleep_cpu_relative(clock: CpuClock, until_ns: u64, left: UserAddr) -> Result<usize> {
    if sleep_cpu(&clock, until_ns).is_ok() {
        return Ok(0);
    }
    if left.0 != 0 {
        let rest = until_ns.saturating_sub(clock.read().unwrap_or(until_ns));
        user::write(left, &Timespec::from_ns(rest))?;
    }
    Err(restart_with(Box::new(move || sleep_cpu_relative(clock, until_ns, left))))
}

/// Sleeps until `clock` shows `until_ns`, or its task has gone.
fn sleep_cpu(clock: &CpuClock, until_ns: u64) -> core::result::Result<(), WaitError> {
    while let Some(used) = clock.read().filter(|used| *used < until_ns) {
        // At most one thread a CPU can use time: it cannot come earlier than this.
        let step = (until_ns - used) / hal::cpu::nr_cpus().max(1) as u64;
        let deadline = now_ns().saturating_add(step.max(1_000_000));
        sleep_until(deadline, Interruptible::Yes)?;
    }
    Ok(())
}

/// getitimer(2).
pub(crate) fn sys_getitimer(_cx: &mut Cx<'_>, which: i32, out: UserAddr) -> Result<usize> {
    user::write(out, &timer::getitimer(Which::from_number(which)?))?;
    Ok(0)
}

/// setitimer(2).
pub(crate) fn sys_setitimer(_cx: &mut Cx<'_>, which: i32, new: UserAddr, old: UserAddr) -> Result<usize> {
    let new = if new.0 == 0 { Itimerval::default() } else { user::read(new)? };
    let before = timer::setitimer(Which::from_number(which)?, &new)?;
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// alarm(2).
pub(crate) fn sys_alarm(_cx: &mut Cx<'_>, seconds: u32) -> Result<usize> {
    Ok(timer::alarm(seconds) as usize)
}

/// Values of `sigev_notify` (sigevent(3type)).
mod sigev {
    pub const SIGNAL: i32 = 0;
    pub const NONE: i32 = 1;
    pub const THREAD: i32 = 2;
    pub const THREAD_ID: i32 = 4;
}

/// Reads the parts of `struct sigevent` that count: value, signal, notification, thread id.
fn read_event(addr: UserAddr) -> Result<TimerEvent> {
    if addr.0 == 0 {
        return Ok(TimerEvent::default());
    }
    let value: u64 = user::read(addr)?;
    let [signo, notify, tid]: [i32; 3] = user::read(UserAddr(addr.0.wrapping_add(8)))?;
    let notification = match notify {
        sigev::SIGNAL => Notification::Signal,
        sigev::THREAD => Notification::Function,
        sigev::NONE => Notification::None,
        sigev::THREAD_ID => Notification::Thread(u32::try_from(tid).map_err(|_| Errno::EINVAL)?),
        _ => return Err(Errno::EINVAL),
    };
    let signo = if notify == sigev::NONE { 0 } else { u32::try_from(signo).map_err(|_| Errno::EINVAL)? };
    Ok(TimerEvent { notification, signo, value: Some(value) })
}

/// timer_create(2); the id is read from `out` first if the caller has asked to choose ids.
pub(crate) fn sys_timer_create(_cx: &mut Cx<'_>, id: i32, event: UserAddr, out: UserAddr) -> Result<usize> {
    let event = read_event(event)?;
    let wanted: Option<i32> = if timer::restores_ids() { Some(user::read(out)?) } else { None };
    let timer_id = timer::timer_create(id, event, wanted)?;
    if let Err(fault) = user::write(out, &timer_id) {
        timer::timer_delete(timer_id)?;
        return Err(fault.into());
    }
    Ok(0)
}

/// `PR_TIMER_CREATE_RESTORE_IDS`. `EINVAL`: an unknown order, or arguments beside it.
pub(crate) fn restore_ids(order: u64, rest: [u64; 3]) -> Result<usize> {
    const OFF: u64 = 0;
    const ON: u64 = 1;
    const GET: u64 = 2;
    match order {
        _ if rest != [0; 3] => Err(Errno::EINVAL),
        GET => Ok(usize::from(timer::restores_ids())),
        OFF | ON => {
            timer::set_restore_ids(order == ON);
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// timer_settime(2).
pub(crate) fn sys_timer_settime(
    _cx: &mut Cx<'_>,
    id: i32,
    flags: u32,
    new: UserAddr,
    old: UserAddr,
) -> Result<usize> {
    if new.0 == 0 {
        return Err(Errno::EINVAL);
    }
    let new: Itimerspec = user::read(new)?;
    let before = timer::timer_settime(id, flags, &new)?;
    if old.0 != 0 {
        user::write(old, &before)?;
    }
    Ok(0)
}

/// timer_gettime(2).
pub(crate) fn sys_timer_gettime(_cx: &mut Cx<'_>, id: i32, out: UserAddr) -> Result<usize> {
    user::write(out, &timer::timer_gettime(id)?)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub(crate) fn sys_timer_getoverrun(_cx: &mut Cx<'_>, id: i32) -> Result<usize> {
    timer::timer_getoverrun(id).map(|count| count as usize)
}

/// timer_delete(2).
pub(crate) fn sys_timer_delete(_cx: &mut Cx<'_>, id: i32) -> Result<usize> {
    timer::timer_delete(id).map(|()| 0)
}
