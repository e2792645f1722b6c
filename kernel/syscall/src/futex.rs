//! Futexes (futex(2)).

use alloc::boxed::Box;
use alloc::vec::Vec;

use abi::time::Timespec;
use abi::{Errno, Result};
use futex::{MATCH_ANY, Owner, Party, Patience, PendingSlot, Scope, Two, WaitError, Word};
use hal::time::{now_ns, wall_base_ns};
use hal::{UserAddr, user};
use process::TaskFlags;
use process::signal::restart_with;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Cx;

/// Operations of futex(2).
mod op {
    pub const WAIT: u32 = 0;
    pub const WAKE: u32 = 1;
    pub const REQUEUE: u32 = 3;
    pub const CMP_REQUEUE: u32 = 4;
    pub const WAKE_OP: u32 = 5;
    pub const LOCK_PI: u32 = 6;
    pub const UNLOCK_PI: u32 = 7;
    pub const TRYLOCK_PI: u32 = 8;
    pub const WAIT_BITSET: u32 = 9;
    pub const WAKE_BITSET: u32 = 10;
    pub const WAIT_REQUEUE_PI: u32 = 11;
    pub const CMP_REQUEUE_PI: u32 = 12;
    pub const LOCK_PI2: u32 = 13;
}
/// `FUTEX_PRIVATE_FLAG`.
const PRIVATE: u32 = 128;
/// `FUTEX_CLOCK_REALTIME`.
const CLOCK_REALTIME: u32 = 256;
/// `FUTEX_ROBUST_UNLOCK`.
const ROBUST_UNLOCK: u32 = 512;
/// `FUTEX_ROBUST_LIST32`.
const ROBUST_LIST32: u32 = 1024;

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
        process::nsproxy::clock_outside(abi::time::clock::MONOTONIC, ns)
    }))
}

/// The caller, as a taker of PI locks.
fn party(task: &process::Task) -> Result<Party> {
    let thread = task.thread().ok_or(Errno::ESRCH)?;
    Ok(Party { tid: task.own_tid(), id: task.tid(), thread })
}

/// The owner that a word names.
fn find_owner(tid: u32) -> Owner {
    let Some(task) = process::pid::find_task(tid) else { return Owner::Missing };
    if task.has(TaskFlags::DEAD) {
        return Owner::Missing;
    }
    if task.has(TaskFlags::EXITING) {
        return Owner::Ending;
    }
    party(&task).map_or(Owner::Missing, Owner::Alive)
}

/// The operations on PI locks.
fn pi(op: u32, addr: UserAddr, scope: Scope, patience: Patience) -> Result<usize> {
    let task = process::current();
    let mm = task.mm().ok_or(Errno::EFAULT)?;
    let me = party(&task)?;
    if op == op::UNLOCK_PI {
        return futex::unlock_pi(&mm, addr, scope, &me).map(|()| 0);
    }
    pi_result(futex::lock_pi(&mm, addr, scope, &me, &find_owner, patience))
}

/// A signal makes the call run again: its deadline is absolute.
fn pi_result(result: Result<(), WaitError>) -> Result<usize> {
    match result {
        Ok(()) => Ok(0),
        Err(WaitError::Errno(errno)) => Err(errno),
        Err(WaitError::Interrupted) => Err(Errno::ERESTARTNOINTR),
    }
}

/// When `timeout` ends for `FUTEX_LOCK_PI` (always the wall clock) and `FUTEX_LOCK_PI2`.
fn pi_patience(timeout: UserAddr, op: u32, flags: u32) -> Result<Patience> {
    Ok(match op {
        op::LOCK_PI => Patience::Wait(deadline(timeout, op, CLOCK_REALTIME)?),
        op::LOCK_PI2 => Patience::Wait(deadline(timeout, op, flags)?),
        _ => Patience::Try,
    })
}

/// futex(2). `ENOSYS`: an unknown operation.
pub(crate) fn sys_futex(
    _cx: &mut Cx<'_>,
    addr: UserAddr,
    op: u32,
    value: u32,
    timeout: UserAddr,
    addr2: UserAddr,
    value3: u32,
) -> Result<usize> {
    const MODIFIERS: u32 = PRIVATE | CLOCK_REALTIME | ROBUST_UNLOCK | ROBUST_LIST32;
    let (flags, op) = (op & MODIFIERS, op & !MODIFIERS);
    let scope = if flags & PRIVATE != 0 { Scope::Private } else { Scope::Shared };
    if flags & CLOCK_REALTIME != 0
        && !matches!(op, op::WAIT_BITSET | op::WAIT | op::WAIT_REQUEUE_PI | op::LOCK_PI2)
    {
        return Err(Errno::ENOSYS);
    }
    if flags & ROBUST_UNLOCK != 0 {
        let slot = PendingSlot { addr: addr2, is_narrow: flags & ROBUST_LIST32 != 0 };
        match op {
            op::WAKE | op::WAKE_BITSET => futex::robust_unlock(addr, slot)?,
            op::UNLOCK_PI => {
                pi(op, addr, scope, Patience::Try)?;
                return slot.clear().map(|()| 0);
            }
            _ => return Err(Errno::ENOSYS),
        }
    }
    let count = |n: u32| if n as i32 <= 0 { 1 } else { n as usize };
    match op {
        op::WAIT | op::WAIT_BITSET => {
            let bitset = if op == op::WAIT { MATCH_ANY } else { value3 };
            let deadline_ns = deadline(timeout, op, flags)?;
            return Wait { addr, scope, value, bitset, deadline_ns }.run();
        }
        op::LOCK_PI | op::LOCK_PI2 | op::TRYLOCK_PI | op::UNLOCK_PI => {
            return pi(op, addr, scope, pi_patience(timeout, op, flags)?);
        }
        op::WAIT_REQUEUE_PI => {
            // The sixth argument, a bit mask elsewhere, is ignored.
            let deadline_ns = deadline(timeout, op, flags)?;
            let task = process::current();
            let mm = task.mm().ok_or(Errno::EFAULT)?;
            let me = party(&task)?;
            return pi_result(futex::wait_requeue_pi(&mm, (addr, addr2), scope, value, &me, deadline_ns));
        }
        _ => {}
    }
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    // What is a timeout elsewhere is a count here.
    let value2 = timeout.0 as u32;
    let two = Two {
        from: addr,
        to: addr2,
        scope,
        to_scope: scope,
        nr_wake: count(value),
        nr_other: value2 as usize,
    };
    match op {
        op::WAKE => futex::wake(&mm, addr, scope, count(value), MATCH_ANY),
        op::WAKE_BITSET => futex::wake(&mm, addr, scope, count(value), value3),
        op::REQUEUE | op::CMP_REQUEUE if (value as i32) < 0 || (value2 as i32) < 0 => Err(Errno::EINVAL),
        op::REQUEUE => futex::requeue(&mm, Two { nr_wake: value as usize, ..two }),
        op::CMP_REQUEUE => futex::cmp_requeue(&mm, Two { nr_wake: value as usize, ..two }, value3),
        op::WAKE_OP => futex::wake_op(&mm, two, value3),
        op::CMP_REQUEUE_PI if value != 1 || (value2 as i32) < 0 => Err(Errno::EINVAL),
        op::CMP_REQUEUE_PI => {
            futex::cmp_requeue_pi(&mm, (addr, addr2), scope, value3, value2 as usize, &find_owner)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// The option of prctl(2) for a process's own hash table of waiters.
pub(crate) const PR_FUTEX_HASH: u32 = 78;

/// `PR_FUTEX_HASH`: sets or tells the number of buckets. `EINVAL`: another command, or flags. Errors of setting:
/// [`futex::set_own_slots`].
pub(crate) fn prctl_hash(command: u64, slots: u64, flags: u64) -> Result<usize> {
    const SET_SLOTS: u64 = 1;
    const GET_SLOTS: u64 = 2;
    let mm = process::current().mm().ok_or(Errno::EINVAL)?;
    match command {
        // The number has 32 bits.
        SET_SLOTS if flags == 0 => futex::set_own_slots(&mm, slots as u32 as usize).map(|()| 0),
        GET_SLOTS => Ok(futex::own_slots(&mm)),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct futex_waitv` (linux/futex.h).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct WaitvEntry {
    value: u64,
    addr: u64,
    flags: u32,
    reserved: u32,
}

impl WaitvEntry {
    /// `EINVAL`: unknown flags, or a value that does not fit the word.
    fn word(&self) -> Result<Word> {
        let value = u32::try_from(self.value).map_err(|_| Errno::EINVAL)?;
        if self.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        let addr = UserAddr(self.addr);
        Ok(Word { addr, scope: Futex2::new(self.flags)?.settle_node(addr)?, value })
    }
}

/// Most words of one futex_waitv(2): `FUTEX_WAITV_MAX`.
const WAITV_MAX: u32 = 128;

/// What the flags of a futex2 call say of its word.
#[derive(Clone, Copy)]
struct Futex2 {
    scope: Scope,
    has_node: bool,
}

impl Futex2 {
    /// `EINVAL`: unknown flags, or a size other than 32 bits.
    fn new(flags: u32) -> Result<Self> {
        /// `FUTEX2_SIZE_U32`, `FUTEX2_NUMA`, `FUTEX2_MPOL`.
        const SIZE_U32: u32 = 2;
        const NUMA: u32 = 4;
        const MPOL: u32 = 8;
        if flags & !(PRIVATE | NUMA | MPOL) != SIZE_U32 {
            return Err(Errno::EINVAL);
        }
        let scope = if flags & PRIVATE != 0 { Scope::Private } else { Scope::Shared };
        Ok(Self { scope, has_node: flags & NUMA != 0 })
    }

    /// Looks at the node's number behind the word, and fills it in where it is left open. There is one node, 0.
    ///
    /// `EINVAL`: not aligned to both, or another node. `EFAULT`.
    fn settle_node(self, addr: UserAddr) -> Result<Scope> {
        /// `FUTEX_NO_NODE`.
        const OPEN: u32 = u32::MAX;
        if self.has_node {
            if !addr.0.is_multiple_of(8) {
                return Err(Errno::EINVAL);
            }
            let place = UserAddr(addr.0.wrapping_add(4));
            match user::read(place).map_err(|_| Errno::EFAULT)? {
                0 => {}
                OPEN => user::write(place, &0u32).map_err(|_| Errno::EFAULT)?,
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(self.scope)
    }
}

/// An absolute deadline on `clock`. `EINVAL`: neither CLOCK_MONOTONIC nor CLOCK_REALTIME.
fn futex2_deadline(timeout: UserAddr, clock: i32) -> Result<Option<u64>> {
    if timeout.0 == 0 {
        return Ok(None);
    }
    let flags = match clock {
        0 => CLOCK_REALTIME,
        1 => 0,
        _ => return Err(Errno::EINVAL),
    };
    deadline(timeout, op::WAIT_BITSET, flags)
}

/// futex_waitv(2).
pub(crate) fn sys_futex_waitv(
    _cx: &mut Cx<'_>,
    list: UserAddr,
    nr: u32,
    flags: u32,
    timeout: UserAddr,
    clock: i32,
) -> Result<usize> {
    if flags != 0 || nr == 0 || nr > WAITV_MAX || list.0 == 0 {
        return Err(Errno::EINVAL);
    }
    let deadline_ns = futex2_deadline(timeout, clock)?;
    let entries = user::read_vec::<WaitvEntry>(list, nr as usize).map_err(|_| Errno::EFAULT)?;
    let words = entries.iter().map(WaitvEntry::word).collect::<Result<Vec<_>>>()?;
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    match futex::wait_multiple(&mm, &words, deadline_ns) {
        Ok(index) => Ok(index),
        Err(WaitError::Errno(errno)) => Err(errno),
        // The deadline is absolute: the call can run again as it is.
        Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
    }
}

/// futex_wake(2).
pub(crate) fn sys_futex_wake(
    _cx: &mut Cx<'_>,
    addr: UserAddr,
    mask: u64,
    nr: i32,
    flags: u32,
) -> Result<usize> {
    let word = Futex2::new(flags)?;
    let mask = u32::try_from(mask).map_err(|_| Errno::EINVAL)?;
    let scope = word.settle_node(addr)?;
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    futex::wake(&mm, addr, scope, usize::try_from(nr).unwrap_or(0), mask)
}

/// futex_wait(2).
pub(crate) fn sys_futex_wait(
    _cx: &mut Cx<'_>,
    addr: UserAddr,
    value: u64,
    mask: u64,
    flags: u32,
    timeout: UserAddr,
    clock: i32,
) -> Result<usize> {
    let word = Futex2::new(flags)?;
    let bitset = u32::try_from(mask).map_err(|_| Errno::EINVAL)?;
    let value = u32::try_from(value).map_err(|_| Errno::EINVAL)?;
    let deadline_ns = futex2_deadline(timeout, clock)?;
    let scope = word.settle_node(addr)?;
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    match futex::wait(&mm, addr, scope, value, bitset, deadline_ns) {
        Ok(()) => Ok(0),
        Err(WaitError::Errno(errno)) => Err(errno),
        Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
    }
}

/// futex_requeue(2).
pub(crate) fn sys_futex_requeue(
    _cx: &mut Cx<'_>,
    list: UserAddr,
    flags: u32,
    nr_wake: i32,
    nr_requeue: i32,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let entries = user::read_vec::<WaitvEntry>(list, 2).map_err(|_| Errno::EFAULT)?;
    let [from, to] = entries.as_slice() else { return Err(Errno::EFAULT) };
    let (from, to) = (from.word()?, to.word()?);
    let number = |n: i32| usize::try_from(n).map_err(|_| Errno::EINVAL);
    let two = Two {
        from: from.addr,
        to: to.addr,
        scope: from.scope,
        to_scope: to.scope,
        nr_wake: number(nr_wake)?,
        nr_other: number(nr_requeue)?,
    };
    let mm = process::current().mm().ok_or(Errno::EFAULT)?;
    futex::cmp_requeue(&mm, two, from.value)
}
