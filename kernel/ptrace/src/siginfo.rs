//! Signals of the tracee: the one it stopped for, those that wait, and its mask.

use alloc::sync::Arc;

use abi::signal::{SigInfo, SigSet};
use abi::{Errno, Result};
use hal::{UserAddr, user};
use process::Task;
use process::trace;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `PTRACE_GETEVENTMSG`.
pub(crate) fn get_event_message(task: &Arc<Task>, data: u64) -> Result<()> {
    let message = trace::with_stop(task, |stop| Ok(stop.message))?;
    Ok(user::write(UserAddr(data), &message)?)
}

/// `PTRACE_GETSIGINFO`. `EINVAL`: a group stop has none.
pub(crate) fn get(task: &Arc<Task>, data: u64) -> Result<()> {
    let info = trace::with_stop(task, |stop| stop.info.ok_or(Errno::EINVAL))?;
    Ok(user::write(UserAddr(data), &info)?)
}

/// `PTRACE_SETSIGINFO`. `EINVAL` as above.
pub(crate) fn set(task: &Arc<Task>, data: u64) -> Result<()> {
    let new: SigInfo = user::read(UserAddr(data))?;
    trace::with_stop(task, |stop| {
        *stop.info.as_mut().ok_or(Errno::EINVAL)? = new;
        Ok(())
    })
}

/// `struct __ptrace_peeksiginfo_args`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PeekArgs {
    offset: u64,
    flags: u32,
    count: i32,
}

/// `PTRACE_PEEKSIGINFO`: pending signals from a place in the queue on, which stay pending. Gives how many.
pub(crate) fn peek(task: &Arc<Task>, addr: u64, data: u64) -> Result<usize> {
    /// The queue of the process, not that of the thread.
    const SHARED: u32 = 1;
    let args: PeekArgs = user::read(UserAddr(addr))?;
    if args.flags & !SHARED != 0 || args.count < 0 {
        return Err(Errno::EINVAL);
    }
    let is_shared = args.flags & SHARED != 0;
    let mut done = 0;
    while done < args.count as u64 {
        let Some(at) = args.offset.checked_add(done).and_then(|at| usize::try_from(at).ok()) else { break };
        let Some(info) = process::signal::peek_pending(task, is_shared, at) else { break };
        let place = data.wrapping_add(done.wrapping_mul(size_of::<SigInfo>() as u64));
        if let Err(fault) = user::write(UserAddr(place), &info) {
            return if done > 0 { Ok(done as usize) } else { Err(fault.into()) };
        }
        done += 1;
    }
    Ok(done as usize)
}

/// `PTRACE_GETSIGMASK`. `EINVAL`: `len` is not that of a set.
pub(crate) fn get_mask(task: &Arc<Task>, len: u64, data: u64) -> Result<()> {
    if len != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(user::write(UserAddr(data), &process::signal::mask_of(task))?)
}

/// `PTRACE_SETSIGMASK`. `EINVAL` as above.
pub(crate) fn set_mask(task: &Arc<Task>, len: u64, data: u64) -> Result<()> {
    if len != size_of::<SigSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    let mask: SigSet = user::read(UserAddr(data))?;
    process::signal::set_mask_of(task, mask);
    Ok(())
}
