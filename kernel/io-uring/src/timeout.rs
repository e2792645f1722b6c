//! Times: requests that end by themselves, after some completions, or that limit another one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering::SeqCst;

use abi::io_uring::{CqeFlags, Sqe, TimeoutFlags};
use abi::time::Timespec;
use abi::{Errno, Result};
use hal::time::now_ns;
use hal::{UserAddr, user};

use crate::call::calls;
use crate::job::Op;
use crate::request::{self, Request};
use crate::ring::Ring;
use crate::waiting::{Kind, Waiting};

/// A time to wait for.
pub(crate) struct Timeout {
    flags: TimeoutFlags,
    ns: u64,
    /// Completions after which it is over; 0: none. With `MULTISHOT` how often it comes; 0: without end.
    count: u32,
    deadline_ns: u64,
    /// `ETIME` is no failure, so a chain goes on.
    pub is_success: bool,
    /// The completions came.
    pub is_over: bool,
}

const CLOCKS: TimeoutFlags = TimeoutFlags::BOOTTIME.union(TimeoutFlags::REALTIME);

/// Reads a time. `EFAULT`; `EINVAL`: it is negative.
pub(crate) fn read_ns(addr: u64) -> Result<u64> {
    let Timespec { tv_sec, tv_nsec } = user::read(UserAddr(addr))?;
    let (sec, nsec) = (u64::try_from(tv_sec), u64::try_from(tv_nsec));
    let (Ok(sec), Ok(nsec)) = (sec, nsec) else { return Err(Errno::EINVAL) };
    Ok(sec.saturating_mul(1_000_000_000).saturating_add(nsec))
}

/// When `ns` of the clock and kind in `flags` is, on the monotonic clock. `EINVAL`: two clocks.
pub(crate) fn deadline(ns: u64, flags: TimeoutFlags) -> Result<u64> {
    if flags.contains(CLOCKS) {
        return Err(Errno::EINVAL);
    }
    if !flags.contains(TimeoutFlags::ABS) {
        return Ok(now_ns().saturating_add(ns));
    }
    if flags.contains(TimeoutFlags::REALTIME) {
        let left = ns.saturating_sub(calls()?.wall_ns());
        return Ok(now_ns().saturating_add(left));
    }
    Ok(ns)
}

impl Timeout {
    /// `EINVAL`: fields or flags that cannot be. `EFAULT`: no time is there.
    pub fn prepare(sqe: &Sqe, is_limit: bool) -> Result<Self> {
        let flags = TimeoutFlags::from_bits(sqe.op_flags).ok_or(Errno::EINVAL)?;
        let allowed = CLOCKS | TimeoutFlags::ABS | TimeoutFlags::ETIME_SUCCESS | TimeoutFlags::MULTISHOT;
        let count = u32::try_from(sqe.off).unwrap_or(u32::MAX);
        let is_odd =
            flags.contains(TimeoutFlags::MULTISHOT) && (is_limit || flags.contains(TimeoutFlags::ABS));
        if sqe.buf_index != 0
            || sqe.len != 1
            || sqe.file_index != 0
            || (is_limit && sqe.off != 0)
            || !allowed.contains(flags)
            || is_odd
        {
            return Err(Errno::EINVAL);
        }
        let ns = read_ns(sqe.addr)?;
        let is_success = flags.contains(TimeoutFlags::ETIME_SUCCESS);
        Ok(Self { flags, ns, count, deadline_ns: deadline(ns, flags)?, is_success, is_over: false })
    }

    /// After it was over once: when it comes next, if it does.
    pub fn next_round(&mut self) -> Option<u64> {
        if !self.flags.contains(TimeoutFlags::MULTISHOT) {
            return None;
        }
        if self.count > 0 {
            self.count -= 1;
            if self.count == 0 {
                return None;
            }
        }
        // The shortest round is one that others get a turn in.
        self.deadline_ns = self.deadline_ns.max(now_ns()).saturating_add(self.ns.max(1_000));
        Some(self.deadline_ns)
    }

    fn waits_for(&self) -> u32 {
        if self.flags.contains(TimeoutFlags::MULTISHOT) { 0 } else { self.count }
    }
}

/// Begins the timeout `request`.
pub(crate) fn begin(request: Box<Request>) {
    let Op::Timeout(timeout) = &request.job.op else { return request.cancel() };
    let (deadline_ns, count) = (timeout.deadline_ns, timeout.waits_for());
    let ring = request.ring.clone();
    let waiting = match Waiting::new(request, Kind::Time) {
        Ok(waiting) => waiting,
        Err(request) => return request.fail(Errno::ENOMEM),
    };
    if count > 0 {
        let target = ring.cq.posted().wrapping_add(count);
        let mut counted = ring.counted.lock();
        if counted.try_reserve(1).is_err() {
            drop(counted);
            return waiting.take().map_or((), |request| request.fail(Errno::ENOMEM));
        }
        counted.push((target, Arc::downgrade(&waiting)));
        drop(counted);
        ring.nr_counted.fetch_add(1, SeqCst);
        // One that came in between saw nothing to count for.
        count_completions(&ring);
    }
    waiting.start_timer(deadline_ns);
    if ring.is_dead()
        && let Some(request) = waiting.take()
    {
        request.cancel();
    }
}

/// Lets `limit` end what `target` waits for when its time is over.
pub(crate) fn limit(limit: Box<Request>, target: &Arc<Waiting>) {
    let Op::LinkTimeout(timeout) = &limit.job.op else { return limit.cancel() };
    let deadline_ns = timeout.deadline_ns;
    let waiting = match Waiting::new(limit, Kind::Limit(Arc::downgrade(target))) {
        Ok(waiting) => waiting,
        Err(limit) => return limit.fail(Errno::ENOMEM),
    };
    target.edit(|request| request.limit = Some(waiting.clone()));
    waiting.start_timer(deadline_ns);
}

/// Ends the timeouts of `ring` that waited for the completions there are now.
pub(crate) fn count_completions(ring: &Ring) {
    if ring.nr_counted.load(SeqCst) == 0 {
        return;
    }
    let posted = ring.cq.posted();
    loop {
        let over = {
            let mut counted = ring.counted.lock();
            let at = counted.iter().position(|(target, waiting)| {
                posted.wrapping_sub(*target) < 1 << 31 || waiting.strong_count() == 0
            });
            at.map(|at| counted.swap_remove(at).1)
        };
        let Some(over) = over else { return };
        ring.nr_counted.fetch_sub(1, SeqCst);
        if let Some(waiting) = over.upgrade() {
            waiting.edit(|request| {
                if let Op::Timeout(timeout) = &mut request.job.op {
                    timeout.is_over = true;
                }
            });
            waiting.queue();
        }
    }
}

/// Ends the timeout whose request has `user_data`. `ENOENT`: there is none. May sleep.
pub(crate) fn remove(ring: &Arc<Ring>, user_data: u64) -> Result<()> {
    let found = ring.find(|job| job.user_data == user_data && matches!(job.op, Op::Timeout(_)));
    let request = found.and_then(|waiting| waiting.take()).ok_or(Errno::ENOENT)?;
    request::finish_later(request, request::canceled(), CqeFlags::empty());
    Ok(())
}

/// Gives the timeout, or with `LINK_UPDATE` the limit, of `user_data` another time.
///
/// `ENOENT`: there is none. `EINVAL`.
pub(crate) fn update(ring: &Arc<Ring>, user_data: u64, ns: u64, flags: TimeoutFlags) -> Result<()> {
    let is_limit = flags.contains(TimeoutFlags::LINK_UPDATE);
    let deadline_ns = deadline(ns, flags & (CLOCKS | TimeoutFlags::ABS))?;
    let found = ring.find(|job| {
        let fits = match job.op {
            Op::Timeout(_) => !is_limit,
            Op::LinkTimeout(_) => is_limit,
            _ => false,
        };
        fits && job.user_data == user_data
    });
    let waiting = found.ok_or(Errno::ENOENT)?;
    waiting.edit(|request| {
        if let Op::Timeout(timeout) | Op::LinkTimeout(timeout) = &mut request.job.op {
            (timeout.ns, timeout.deadline_ns) = (ns, deadline_ns);
        }
    });
    waiting.start_timer(deadline_ns);
    Ok(())
}
