//! Pid namespaces (pid_namespaces(7)): further numbers for the processes in them.
//!
//! Every process has a number of the first namespace; the kernel knows it by that alone. In a namespace below, and in
//! each between, it has one more; [`PidNs`] maps those. Numbers are translated where they come from or go to user space:
//!
//! ```text
//! process      first namespace   namespace A   namespace B (below A)
//! init of B          57               12              1
//! its child          58               13              2
//! ```
//!
//! The first process of a namespace is its init: orphans of the namespace come to it, and when it ends all others are
//! killed and no new ones can be made ([`zap`]).
//!
//! # Locking
//!
//! `Inner::numbers` is a leaf lock, like `pid`'s of the first namespace. `Inner::init` too.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use idalloc::Cyclic;
use sched::{Interruptible, WaitQueue};
use security::{NsId, NsKind, UserNs};

use crate::ThreadGroup;
use crate::task::CurrentTask;
use crate::{exit, family, pid, signal};

/// Namespaces below the first that may nest (Linux: `MAX_PID_NS_LEVEL`).
pub const MAX_LEVEL: u32 = 32;
/// Numbers below this are not used again after the first round.
const RESERVED: u32 = 300;
/// How long the init of a namespace waits before it looks for survivors again.
const ZAP_ROUND_NS: u64 = 50_000_000;

struct Numbers {
    used: Cyclic,
    /// Number here to number of the first namespace.
    global: BTreeMap<u32, u32>,
}

struct Inner {
    id: NsId,
    level: u32,
    parent: PidNs,
    numbers: SpinLock<Numbers>,
    init: SpinLock<Option<Weak<ThreadGroup>>>,
    /// kernel.pid_max here: its numbers stay below it.
    pid_max: AtomicU32,
    /// Its init is gone or going: no new processes.
    is_dead: AtomicBool,
    /// See [`PidNs::memfd_noexec`].
    memfd_noexec: AtomicU32,
    /// Woken when a number is given back.
    freed: WaitQueue,
}

/// A pid namespace: the first one, or one below it.
#[derive(Clone, Default)]
pub struct PidNs(Option<Arc<Inner>>);

static INITIAL_ID: NsId = NsId::initial(NsKind::Pid);
static INITIAL_MEMFD_NOEXEC: AtomicU32 = AtomicU32::new(0);

impl PartialEq for PidNs {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl core::fmt::Debug for PidNs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "pid:[{}]", self.id().ino())
    }
}

impl PidNs {
    /// The first one.
    pub const INITIAL: Self = Self(None);

    /// Makes one below `parent`. `ENOSPC`: too deep, or too many.
    pub fn new_below(parent: &Self, owner: &UserNs) -> Result<Self> {
        let level = parent.level() + 1;
        if level > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        let numbers = Numbers { used: Cyclic::new(RESERVED), global: BTreeMap::new() };
        Ok(Self(Some(Arc::new(Inner {
            id: NsId::new(NsKind::Pid, owner)?,
            level,
            parent: parent.clone(),
            numbers: SpinLock::new("process.pidns_numbers", numbers),
            init: SpinLock::new("process.pidns_init", None),
            pid_max: AtomicU32::new(pid::PID_MAX_LIMIT),
            is_dead: AtomicBool::new(false),
            memfd_noexec: AtomicU32::new(parent.memfd_noexec()),
            freed: WaitQueue::new(),
        }))))
    }

    /// Whether it is the first.
    #[inline]
    pub fn is_initial(&self) -> bool {
        self.0.is_none()
    }

    /// Number and owner.
    pub fn id(&self) -> &NsId {
        self.0.as_ref().map_or(&INITIAL_ID, |inner| &inner.id)
    }

    /// How many are above it.
    pub fn level(&self) -> u32 {
        self.0.as_ref().map_or(0, |inner| inner.level)
    }

    /// The one above it.
    pub fn parent(&self) -> Option<&Self> {
        self.0.as_ref().map(|inner| &inner.parent)
    }

    /// Whether `self` is `other` or above it.
    pub fn contains(&self, other: &Self) -> bool {
        let mut at = other;
        loop {
            if at == self {
                return true;
            }
            match at.parent() {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    }

    /// What memfd_create(2) makes here when nothing is said about execution (/proc/sys/vm/memfd_noexec): 0 programs,
    /// 1 none, 2 none whatever is said. At least what holds above.
    pub fn memfd_noexec(&self) -> u32 {
        match &self.0 {
            None => INITIAL_MEMFD_NOEXEC.load(Relaxed),
            Some(inner) => inner.memfd_noexec.load(Relaxed).max(inner.parent.memfd_noexec()),
        }
    }

    /// Changes it. `EINVAL`: not 0 to 2, or less than what holds above.
    pub fn set_memfd_noexec(&self, value: u32) -> Result<()> {
        let least = self.parent().map_or(0, Self::memfd_noexec);
        if !(least..=2).contains(&value) {
            return Err(Errno::EINVAL);
        }
        self.0.as_ref().map_or(&INITIAL_MEMFD_NOEXEC, |inner| &inner.memfd_noexec).store(value, Relaxed);
        Ok(())
    }

    /// Its init, while that lives.
    pub fn init(&self) -> Option<Arc<ThreadGroup>> {
        match &self.0 {
            None => family::init().cloned(),
            Some(inner) => inner.init.lock().as_ref().and_then(Weak::upgrade),
        }
    }

    /// Notes its init.
    pub(crate) fn set_init(&self, group: &Arc<ThreadGroup>) {
        if let Some(inner) = &self.0 {
            *inner.init.lock() = Some(Arc::downgrade(group));
        }
    }

    /// The number of the first namespace for `number` here.
    pub(crate) fn to_global(&self, number: u32) -> Option<u32> {
        match &self.0 {
            None => Some(number),
            Some(inner) => inner.numbers.lock().global.get(&number).copied(),
        }
    }

    /// The lowest number here from `from` on, and the one of the first namespace.
    pub(crate) fn next_used(&self, from: u32) -> Option<(u32, u32)> {
        match &self.0 {
            None => pid::next_used(from).map(|number| (number, number)),
            Some(inner) => {
                let numbers = inner.numbers.lock();
                numbers.global.range(from..).next().map(|(local, global)| (*local, *global))
            }
        }
    }

    /// The number handed out last.
    pub fn last(&self) -> u32 {
        match &self.0 {
            None => pid::last_pid(),
            Some(inner) => inner.numbers.lock().used.last(),
        }
    }

    fn max_cell(&self) -> &AtomicU32 {
        self.0.as_ref().map_or_else(|| pid::pid_max(), |inner| &inner.pid_max)
    }

    /// kernel.pid_max: numbers here stay below it. Those above may have a lower one, which limits processes all the same.
    pub fn pid_max(&self) -> u32 {
        self.max_cell().load(Relaxed)
    }

    /// Sets kernel.pid_max. `EINVAL` outside [`pid::PID_MAX_MIN`] to [`pid::PID_MAX_LIMIT`].
    pub fn set_pid_max(&self, max: u32) -> Result<()> {
        if !(pid::PID_MAX_MIN..=pid::PID_MAX_LIMIT).contains(&max) {
            return Err(Errno::EINVAL);
        }
        self.max_cell().store(max, Relaxed);
        Ok(())
    }

    /// How many numbers are in use here.
    fn nr_used(&self) -> usize {
        self.0.as_ref().map_or(usize::MAX, |inner| inner.numbers.lock().global.len())
    }
}

/// The numbers that a process has beside that of the first namespace, from the outermost to its own.
#[derive(Debug, Default)]
pub(crate) struct Nested(Vec<(PidNs, u32)>);

impl Nested {
    /// Takes a number in each namespace from `ns` up to below the first; `wanted` are demands, the innermost first.
    ///
    /// `ENOMEM`: the namespace's init has ended. `EAGAIN`: no number is free. `EEXIST`, `EINVAL`: a demand cannot be
    /// met.
    pub(crate) fn take(ns: &PidNs, wanted: &[u32]) -> Result<Self> {
        let mut taken = Self(Vec::with_capacity(ns.level() as usize));
        let mut at = ns;
        let mut wanted = wanted.iter();
        while let Some(inner) = &at.0 {
            let number = inner.take(wanted.next().copied());
            match number {
                Ok(number) => taken.0.push((at.clone(), number)),
                Err(error) => {
                    taken.release();
                    return Err(error);
                }
            }
            at = &inner.parent;
        }
        taken.0.reverse();
        Ok(taken)
    }

    /// Ties the numbers to `global`.
    pub(crate) fn tie(&self, global: u32) {
        for (ns, number) in &self.0 {
            if let Some(inner) = &ns.0 {
                inner.numbers.lock().global.insert(*number, global);
            }
        }
    }

    /// Gives the numbers back.
    pub(crate) fn release(&self) {
        for (ns, number) in &self.0 {
            let Some(inner) = &ns.0 else { continue };
            let mut numbers = inner.numbers.lock();
            numbers.used.free(*number);
            numbers.global.remove(number);
            if *number == 1 {
                inner.is_dead.store(true, Relaxed);
            }
            drop(numbers);
            inner.freed.wake_all();
        }
    }

    /// The innermost namespace.
    pub(crate) fn ns(&self) -> PidNs {
        self.0.last().map_or(PidNs::INITIAL, |(ns, _)| ns.clone())
    }

    /// The number in `ns`, if the process is in it.
    pub(crate) fn number_in(&self, ns: &PidNs) -> Option<u32> {
        let place = (ns.level() as usize).checked_sub(1)?;
        self.0.get(place).filter(|(own, _)| own == ns).map(|(_, number)| *number)
    }

    /// The number in the innermost namespace.
    pub(crate) fn innermost(&self) -> Option<u32> {
        self.0.last().map(|(_, number)| *number)
    }

    /// The numbers below `ns`, outermost first.
    pub(crate) fn numbers_below(&self, ns: &PidNs) -> impl Iterator<Item = u32> {
        self.0.iter().skip(ns.level() as usize).map(|(_, number)| *number)
    }
}

impl Inner {
    /// Takes the number `wanted`, or the next. Errors as [`Nested::take`].
    fn take(&self, wanted: Option<u32>) -> Result<u32> {
        let max = self.pid_max.load(Relaxed);
        let mut numbers = self.numbers.lock();
        if self.is_dead.load(Relaxed) {
            return Err(Errno::ENOMEM);
        }
        let Some(number) = wanted else { return numbers.used.alloc(max).map_err(|_| Errno::EAGAIN) };
        if number == 0 || number >= max || (number != 1 && numbers.used.is_empty()) {
            return Err(Errno::EINVAL);
        }
        match numbers.used.take(number) {
            Ok(true) => Ok(number),
            Ok(false) => Err(Errno::EEXIST),
            Err(_) => Err(Errno::ENOMEM),
        }
    }
}

/// The init of a namespace ends: all others in it are killed, and it waits until they are gone.
///
/// Called by its last thread. Processes of the namespace that others are parents of end too; those others reap them.
pub(crate) fn zap(me: &CurrentTask) {
    let group = me.group();
    let ns = group.pid_ns();
    let Some(inner) = &ns.0 else { return };
    {
        let _numbers = inner.numbers.lock();
        inner.is_dead.store(true, Relaxed);
    }
    crate::acct::stop(ns);
    group.reaps_all.store(true, Relaxed);
    // Its own number, and that of the leader when another thread is the last.
    let own = if me.is_leader() { 1 } else { 2 };
    while ns.nr_used() > own {
        kill_others(ns, group);
        exit::reap_zombies(group);
        let is_empty = || (ns.nr_used() <= own).then_some(());
        let deadline = hal::time::now_ns().saturating_add(ZAP_ROUND_NS);
        let _ = inner.freed.wait_deadline(is_empty, Some(deadline), Interruptible::No);
    }
}

/// Kills all processes of `ns` but `init`.
fn kill_others(ns: &PidNs, init: &Arc<ThreadGroup>) {
    let mut from = Some(1);
    while let Some((local, global)) = from.and_then(|from| ns.next_used(from)) {
        from = local.checked_add(1);
        if let Some(group) = pid::find_process_global(global)
            && !Arc::ptr_eq(&group, init)
        {
            signal::kill_process(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_number_at_each_level() {
        let outer = PidNs::new_below(&PidNs::INITIAL, &UserNs::INITIAL).unwrap();
        let inner = PidNs::new_below(&outer, &UserNs::INITIAL).unwrap();
        let first = Nested::take(&outer, &[]).unwrap();
        first.tie(100);
        let second = Nested::take(&inner, &[]).unwrap();
        second.tie(101);
        assert_eq!((first.number_in(&outer), first.number_in(&inner)), (Some(1), None));
        assert_eq!((second.number_in(&outer), second.number_in(&inner)), (Some(2), Some(1)));
        assert_eq!(
            (outer.to_global(2), inner.to_global(1), inner.to_global(2)),
            (Some(101), Some(101), None)
        );
        assert_eq!(second.numbers_below(&PidNs::INITIAL).collect::<Vec<_>>(), [2, 1]);
        second.release();
        assert_eq!(outer.to_global(2), None);
        assert_eq!(Nested::take(&inner, &[]).unwrap_err(), Errno::ENOMEM, "its init is gone");
        assert_eq!(outer.next_used(1), Some((1, 100)), "a failure takes nothing");
    }

    #[test]
    fn demands_are_met_or_refused() {
        let ns = PidNs::new_below(&PidNs::INITIAL, &UserNs::INITIAL).unwrap();
        assert_eq!(Nested::take(&ns, &[5]).unwrap_err(), Errno::EINVAL, "the first must be 1");
        Nested::take(&ns, &[1]).unwrap();
        assert_eq!(Nested::take(&ns, &[5]).unwrap().innermost(), Some(5));
        assert_eq!(Nested::take(&ns, &[5]).unwrap_err(), Errno::EEXIST);
    }
}
