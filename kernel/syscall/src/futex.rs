//! Futexes (futex(2)).

use alloc::boxed::Box;

use abi::time::Timespec;
use abi::{Errno, Result};
use futex::{MATCH_ANY, Scope, Two, WaitError};
use hal::time::{now_ns, wall_base_ns};
use hal::{UserAddr, user};
use process::signal::restart_with;

use crate::Cx;

/// Operations of futex(2).
mod op {
    pub const WAIT: u32 = 0;
    pub const WAKE: u32 = 1;
    pub const REQUEUE: u32 = 3;
    pub const CMP_REQUEUE: u32 = 4;
    pub const WAKE_OP: u32 = 5;
    pub const WAIT_BITSET: u32 = 9;
    pub const WAKE_BITSET: u32 = 10;
}
/// `FUTEX_PRIVATE_FLAG`.
const PRIVATE: u32 = 128;
/// `FUTEX_CLOCK_REALTIME`.
const CLOCK_REALTIME: u32 = 256;

/// A wait that can go on after a stop.
#[derive(Clone, Copy)]
struct Wait {
    addr: UserAddr,
    scope: Scope,
    value: u32,
    bitset: u32,
    deadline_ns: Option<u64>,
}

impl Wait {
    fn run(self) -> Result<usize> {
        let mm = process::current().mm().ok_or(Errno::EFAULT)?;
        match futex::wait(&mm, self.addr, self.scope, self.value, self.bitset, self.deadline_ns) {
            Ok(()) => Ok(0),
            Err(WaitError::Errno(errno)) => Err(errno),
            // Without a deadline the call can simply run again; with one, the same deadline must hold.
            Err(WaitError::Interrupted) if self.deadline_ns.is_none() => Err(Errno::ERESTARTSYS),
            Err(WaitError::Interrupted) => Err(restart_with(Box::new(move || self.run()))),
        }
    }
}

/// The deadline that `timeout` means: relative for FUTEX_WAIT, absolute for the others.
fn deadline(timeout: UserAddr, op: u32, flags: u32) -> Result<Option<u64>> {
    if timeout.0 == 0 {
        return Ok(None);
    }
    let ns = user::read::<Timespec>(timeout)?.to_ns()?;
    Ok(Some(if op == op::WAIT {
        now_ns().saturating_add(ns)
    } else if flags & CLOCK_REALTIME != 0 {
        ns.saturating_sub(u64::try_from(wall_base_ns()).unwrap_or(0))
    } else {
        ns
    }))
}

/// futex(2). `ENOSYS`: priority inheritance and other operations that are not there.
pub(crate) fn sys_futex(
    _cx: &mut Cx<'_>,
    addr: UserAddr,
    op: u32,
    value: u32,
    timeout: UserAddr,
    addr2: UserAddr,
    value3: u32,
) -> Result<usize> {
    let (flags, op) = (op & (PRIVATE | CLOCK_REALTIME), op & !(PRIVATE | CLOCK_REALTIME));
    let scope = if flags & PRIVATE != 0 { Scope::Private } else { Scope::Shared };
    if flags & CLOCK_REALTIME != 0 && !matches!(op, op::WAIT_BITSET | op::WAIT) {
        return Err(Errno::ENOSYS);
    }
    let count = |n: u32| if n as i32 <= 0 { 1 } else { n as usize };
    match op {
        op::WAIT | op::WAIT_BITSET => {
            let bitset = if op == op::WAIT { MATCH_ANY } else { value3 };
            let deadline_ns = deadline(timeout, op, flags)?;
            return Wait { addr, scope, value, bitset, deadline_ns }.run();
        }
        _ => {}
    }
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    // What is a timeout elsewhere is a count here.
    let value2 = timeout.0 as u32;
    let two = Two { from: addr, to: addr2, scope, nr_wake: count(value), nr_other: value2 as usize };
    match op {
        op::WAKE => futex::wake(&mm, addr, scope, count(value), MATCH_ANY),
        op::WAKE_BITSET => futex::wake(&mm, addr, scope, count(value), value3),
        op::REQUEUE | op::CMP_REQUEUE if (value as i32) < 0 || (value2 as i32) < 0 => Err(Errno::EINVAL),
        op::REQUEUE => futex::requeue(&mm, Two { nr_wake: value as usize, ..two }),
        op::CMP_REQUEUE => futex::cmp_requeue(&mm, Two { nr_wake: value as usize, ..two }, value3),
        op::WAKE_OP => futex::wake_op(&mm, two, value3),
        _ => Err(Errno::ENOSYS),
    }
}
