//! Locks with priority inheritance: `FUTEX_LOCK_PI` and its relatives.
//!
//! The word holds the owner's thread id, so the kernel knows who keeps others waiting and lends that thread the
//! priority of the first of them, and further along if the owner waits for a lock itself. Unlocking hands the lock to
//! the waiter of the highest priority: there is no moment in which somebody else could take it.
//!
//! ```text
//! word: 0                         free; taken and given in user space
//!       tid                       owned; given in user space
//!       tid | WAITERS             owned, somebody waits: given in the kernel
//!       tid | OWNER_DIED          the owner before died with it (robust lists)
//! ```
//!
//! All PI locks with waiters are in one table under one lock. Only threads that must wait, and those who unlock for
//! them, come here; a chain of owners can then be followed without taking locks in changing order.
//!
//! Sources: futex(2) "Priority-inheritance futexes", Documentation/locking/pi-futex.rst, rt-mutex-design.rst.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use hal::{UserAddr, user};
use mm::Mm;
use sched::{Interruptible, Thread, WaitQueue};

use crate::bucket;
use crate::key::{Key, KeyId, Scope};
use crate::wait::WaitError;

/// Somebody waits in the kernel.
const WAITERS: u32 = 0x8000_0000;
/// The owner died without unlocking.
const OWNER_DIED: u32 = 0x4000_0000;
/// The part of the word that is a thread id.
const TID_MASK: u32 = 0x3fff_ffff;
/// Longest chain of owners that is followed (kernel.max_lock_depth).
const MAX_CHAIN: usize = 1024;
/// How long to let an ending owner finish.
const OWNER_EXIT_NS: u64 = 1_000_000;

/// A thread that takes part.
#[derive(Clone)]
pub struct Party {
    /// Its thread id as the word shows it.
    pub tid: u32,
    /// A number that tells it from all other threads.
    pub id: u32,
    /// What gets the priority.
    pub thread: Arc<Thread>,
}

/// What is known of the thread with an id.
pub enum Owner {
    /// It lives.
    Alive(Party),
    /// It is about to end: its locks will be given up soon.
    Ending,
    /// There is none.
    Missing,
}

/// Finds the thread whose id is in a word.
pub type FindOwner<'a> = &'a dyn Fn(u32) -> Owner;

/// Whether to wait for the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Until a deadline of the monotonic clock, if one is given.
    Wait(Option<u64>),
    /// Not at all.
    Try,
}

/// Waiting.
const PENDING: u32 = 0;
/// The lock is the waiter's, and the word says so.
const GRANTED: u32 = 1;
/// The owner died: the lock is the waiter's, who writes the word itself.
const INHERITED: u32 = 2;

struct Waiter {
    who: Party,
    queue: WaitQueue,
    state: AtomicU32,
}

impl Waiter {
    fn new(who: &Party) -> Arc<Self> {
        Arc::new(Self { who: who.clone(), queue: WaitQueue::new(), state: AtomicU32::new(PENDING) })
    }

    fn outcome(&self) -> Option<u32> {
        let state = self.state.load(Ordering::Acquire);
        (state != PENDING).then_some(state)
    }

    fn finish(&self, state: u32) {
        self.state.store(state, Ordering::Release);
        self.queue.wake_all();
    }

    /// Its real-time priority, 0 for none.
    fn rank(&self) -> u8 {
        let attributes = self.who.thread.attributes();
        if attributes.policy.is_realtime() { attributes.priority } else { 0 }
    }
}

/// A lock that somebody waits for.
struct Lock {
    owner: Party,
    /// Oldest first.
    waiters: Vec<Arc<Waiter>>,
    /// Keeps the identity of the word from being used again.
    _key: Key,
}

impl Lock {
    /// The place of the waiter that is next: of the highest priority, the oldest.
    fn next(&self) -> Option<usize> {
        let ranked = self.waiters.iter().enumerate();
        ranked.rev().max_by_key(|(_, waiter)| waiter.rank()).map(|(place, _)| place)
    }
}

/// A thread in `FUTEX_WAIT_REQUEUE_PI` that was not moved to its lock yet.
struct Parked {
    from: KeyId,
    to: KeyId,
    waiter: Arc<Waiter>,
    _key: Key,
}

/// Where a waiter was that gave up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cancelled {
    /// In `FUTEX_WAIT_REQUEUE_PI`, not moved yet.
    Parked,
    /// Waiting for a lock.
    Queued,
    /// It has the lock already.
    HasLock,
}

struct Table {
    locks: BTreeMap<KeyId, Lock>,
    parked: Vec<Parked>,
}

static TABLE: SpinLock<Table> =
    SpinLock::new("futex.pi", Table { locks: BTreeMap::new(), parked: Vec::new() });
/// Locks in the table: the end of most threads has nothing to do with it.
static NR_LOCKS: AtomicUsize = AtomicUsize::new(0);

impl Table {
    /// Gives `thread` the priority of the first who waits for one of its locks, and goes on with whom it waits for.
    fn rebalance(&mut self, owner: &Party) {
        let mut owner = owner.clone();
        for _ in 0..MAX_CHAIN {
            let owned = self.locks.values().filter(|lock| lock.owner.id == owner.id);
            let rank = owned.flat_map(|lock| lock.waiters.iter()).map(|waiter| waiter.rank()).max();
            owner.thread.set_boost(rank.unwrap_or(0));
            match self.owner_waited_for(owner.id) {
                Some(next) => owner = next,
                None => return,
            }
        }
    }

    /// The owner of the lock that thread `id` waits for.
    fn owner_waited_for(&self, id: u32) -> Option<Party> {
        let waits = |lock: &&Lock| lock.waiters.iter().any(|waiter| waiter.who.id == id);
        self.locks.values().find(waits).map(|lock| lock.owner.clone())
    }

    /// Whether thread `id` would, through others, wait for itself if it waited for `owner`.
    fn would_deadlock(&self, owner: &Party, id: u32) -> bool {
        let mut at = Some(owner.clone());
        for _ in 0..MAX_CHAIN {
            match at {
                Some(party) if party.id == id => return true,
                Some(party) => at = self.owner_waited_for(party.id),
                None => return false,
            }
        }
        true
    }

    /// Adds `waiter` to the lock `key`, which `owner` has if it is not known yet.
    fn add_waiter(&mut self, key: &Key, owner: impl FnOnce() -> Party, waiter: Arc<Waiter>) -> Result<()> {
        let id = key.id();
        let lock = self.locks.entry(id).or_insert_with(|| {
            NR_LOCKS.fetch_add(1, Ordering::SeqCst);
            Lock { owner: owner(), waiters: Vec::new(), _key: key.clone() }
        });
        let owner = lock.owner.clone();
        let reserved = lock.waiters.try_reserve(1).is_ok();
        if !reserved || self.would_deadlock(&owner, waiter.who.id) {
            self.forget_if_unused(id);
            return Err(if reserved { Errno::EDEADLK } else { Errno::ENOMEM });
        }
        if let Some(lock) = self.locks.get_mut(&id) {
            lock.waiters.push(waiter);
        }
        self.rebalance(&owner);
        Ok(())
    }

    fn forget_if_unused(&mut self, id: KeyId) {
        if self.locks.get(&id).is_some_and(|lock| lock.waiters.is_empty()) {
            self.locks.remove(&id);
            NR_LOCKS.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Takes `waiter` out, wherever it is.
    fn cancel(&mut self, waiter: &Arc<Waiter>) -> Cancelled {
        if waiter.outcome().is_some() {
            return Cancelled::HasLock;
        }
        if let Some(place) = self.parked.iter().position(|parked| Arc::ptr_eq(&parked.waiter, waiter)) {
            self.parked.remove(place);
            return Cancelled::Parked;
        }
        let found = self.locks.iter_mut().find_map(|(id, lock)| {
            let place = lock.waiters.iter().position(|other| Arc::ptr_eq(other, waiter))?;
            lock.waiters.remove(place);
            Some((*id, lock.owner.clone()))
        });
        if let Some((id, owner)) = found {
            self.forget_if_unused(id);
            self.rebalance(&owner);
        }
        Cancelled::Queued
    }

    /// Hands the lock `id` to the waiter at `place`.
    fn grant(&mut self, id: KeyId, place: usize, state: u32) {
        let Some(lock) = self.locks.get_mut(&id) else { return };
        if place >= lock.waiters.len() {
            return;
        }
        let waiter = lock.waiters.remove(place);
        let old = core::mem::replace(&mut lock.owner, waiter.who.clone());
        self.forget_if_unused(id);
        self.rebalance(&old);
        self.rebalance(&waiter.who);
        waiter.finish(state);
    }
}

/// What an attempt under the table's lock came to.
enum Attempt {
    Taken,
    /// The page is not there, or not writable yet.
    Fault,
    /// The owner is ending.
    Again,
    Wait(Arc<Waiter>),
}

/// Fetches the page of the word at `addr` for writing.
fn fault_in(addr: UserAddr) -> Result<()> {
    let now = user::load_u32(addr).map_err(|_| Errno::EFAULT)?;
    user::cmpxchg_u32(addr, now, now).map_err(|_| Errno::EFAULT)?;
    Ok(())
}

/// Changes the word from `old` to `new`. `Ok(false)`: it had changed meanwhile.
fn exchange(addr: UserAddr, old: u32, new: u32) -> Result<bool, hal::Fault> {
    Ok(user::cmpxchg_u32_nofault(addr, old, new)? == old)
}

/// `FUTEX_LOCK_PI`, `FUTEX_LOCK_PI2` and `FUTEX_TRYLOCK_PI`.
///
/// `EDEADLK`: the caller has it, or waits for itself through others. `ESRCH`: the word names no thread. `EAGAIN`:
/// [`Patience::Try`], and it is taken.
pub fn lock_pi(
    mm: &Mm,
    addr: UserAddr,
    scope: Scope,
    me: &Party,
    find: FindOwner<'_>,
    patience: Patience,
) -> Result<(), WaitError> {
    let key = Key::new(mm, addr, scope)?;
    loop {
        match attempt(&key, addr, me, find, patience)? {
            Attempt::Taken => return Ok(()),
            Attempt::Fault => fault_in(addr)?,
            Attempt::Again => {
                let soon = hal::time::now_ns().saturating_add(OWNER_EXIT_NS);
                sched::sleep_until(soon, Interruptible::Yes).map_err(|_| WaitError::Interrupted)?;
            }
            Attempt::Wait(waiter) => {
                let Patience::Wait(deadline_ns) = patience else { return Err(Errno::EAGAIN.into()) };
                return sleep(&waiter, &key, addr, deadline_ns, Origin::Asked);
            }
        }
    }
}

fn attempt(
    key: &Key,
    addr: UserAddr,
    me: &Party,
    find: FindOwner<'_>,
    patience: Patience,
) -> Result<Attempt> {
    let mut table = TABLE.lock();
    loop {
        let Ok(word) = user::load_u32_nofault(addr) else { return Ok(Attempt::Fault) };
        let owner_tid = word & TID_MASK;
        if owner_tid == me.tid {
            return Err(Errno::EDEADLK);
        }
        let is_known = table.locks.contains_key(&key.id());
        if !is_known && owner_tid == 0 {
            match exchange(addr, word, word & OWNER_DIED | me.tid) {
                Err(_) => return Ok(Attempt::Fault),
                Ok(true) => return Ok(Attempt::Taken),
                Ok(false) => continue,
            }
        }
        if patience == Patience::Try {
            return Err(Errno::EAGAIN);
        }
        let owner = if is_known { None } else { Some(find(owner_tid)) };
        match owner {
            Some(Owner::Missing) => return Err(Errno::ESRCH),
            Some(Owner::Ending) => return Ok(Attempt::Again),
            _ => {}
        }
        if word & WAITERS == 0 {
            match exchange(addr, word, word | WAITERS) {
                Err(_) => return Ok(Attempt::Fault),
                Ok(true) => {}
                Ok(false) => continue,
            }
        }
        let waiter = Waiter::new(me);
        let owner = match owner {
            Some(Owner::Alive(party)) => party,
            // Known: what is given here is not looked at.
            _ => me.clone(),
        };
        table.add_waiter(key, || owner, waiter.clone())?;
        return Ok(Attempt::Wait(waiter));
    }
}

/// How a waiter came to a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// By asking for it.
    Asked,
    /// By being moved from another word, or that is still to come.
    Requeued,
}

/// Waits until the lock is handed over. `EAGAIN`: a signal came after the waiter was moved to this lock.
fn sleep(
    waiter: &Arc<Waiter>,
    key: &Key,
    addr: UserAddr,
    deadline_ns: Option<u64>,
    origin: Origin,
) -> Result<(), WaitError> {
    let slept = waiter.queue.wait_deadline(|| waiter.outcome(), deadline_ns, Interruptible::Yes);
    let state = match slept {
        Ok(state) => state,
        Err(error) => {
            match TABLE.lock().cancel(waiter) {
                Cancelled::Queued if origin == Origin::Requeued && error == sched::WaitError::Interrupted => {
                    // The word that it waited on has changed since, so waiting again would say the same.
                    return Err(Errno::EAGAIN.into());
                }
                Cancelled::Queued | Cancelled::Parked => return Err(error.into()),
                // Handed over in the same moment.
                Cancelled::HasLock => waiter.outcome().unwrap_or(GRANTED),
            }
        }
    };
    if state == INHERITED {
        write_inherited(waiter, key, addr)?;
    }
    Ok(())
}

/// Writes the new owner into the word of a lock whose owner has died.
fn write_inherited(waiter: &Waiter, key: &Key, addr: UserAddr) -> Result<()> {
    loop {
        {
            let table = TABLE.lock();
            let waiters = if table.locks.contains_key(&key.id()) { WAITERS } else { 0 };
            let word = user::load_u32_nofault(addr);
            let new = waiter.who.tid | OWNER_DIED | waiters;
            match word.and_then(|word| exchange(addr, word, new)) {
                Ok(true) => return Ok(()),
                Ok(false) => continue,
                Err(_) => {}
            }
        }
        fault_in(addr)?;
    }
}

/// `FUTEX_UNLOCK_PI`. `EPERM`: the caller does not have it. `EINVAL`: the word and the kernel disagree.
pub fn unlock_pi(mm: &Mm, addr: UserAddr, scope: Scope, me: &Party) -> Result<()> {
    let key = Key::new(mm, addr, scope)?;
    loop {
        let word = user::load_u32(addr).map_err(|_| Errno::EFAULT)?;
        if word & TID_MASK != me.tid {
            return Err(Errno::EPERM);
        }
        let mut table = TABLE.lock();
        let result = match table.locks.get(&key.id()) {
            None => exchange(addr, word, 0).map(|done| (done, None)),
            Some(lock) if lock.owner.id != me.id => return Err(Errno::EINVAL),
            Some(lock) => {
                let place = lock.next().ok_or(Errno::EINVAL)?;
                let tid = lock.waiters.get(place).map_or(0, |waiter| waiter.who.tid);
                let waiters = if lock.waiters.len() > 1 { WAITERS } else { 0 };
                exchange(addr, word, tid | waiters).map(|done| (done, Some(place)))
            }
        };
        match result {
            Ok((true, Some(place))) => {
                table.grant(key.id(), place, GRANTED);
                return Ok(());
            }
            Ok((true, None)) => return Ok(()),
            Ok((false, _)) => {}
            Err(_) => {
                drop(table);
                fault_in(addr)?;
            }
        }
    }
}

/// The thread `me` ends: each lock that it has, and somebody waits for, goes to the first of them.
pub fn exit_pi(id: u32) {
    if NR_LOCKS.load(Ordering::SeqCst) == 0 {
        return;
    }
    let mut table = TABLE.lock();
    loop {
        let owned = table.locks.iter().find(|(_, lock)| lock.owner.id == id);
        let Some((key, place)) = owned.and_then(|(key, lock)| Some((*key, lock.next()?))) else { return };
        table.grant(key, place, INHERITED);
    }
}

/// `FUTEX_WAIT_REQUEUE_PI`: waits on the word at `from`, and then for the lock at `to`.
///
/// `EAGAIN`: the word at `from` is not `value`, or a signal came after the waiter was moved. `EINVAL`: both are the same.
pub fn wait_requeue_pi(
    mm: &Mm,
    (from, to): (UserAddr, UserAddr),
    scope: Scope,
    value: u32,
    me: &Party,
    deadline_ns: Option<u64>,
) -> Result<(), WaitError> {
    if from == to {
        return Err(Errno::EINVAL.into());
    }
    let from_key = Key::new(mm, from, scope)?;
    let to_key = Key::new(mm, to, scope)?;
    let waiter = Waiter::new(me);
    loop {
        {
            let mut table = TABLE.lock();
            match user::load_u32_nofault(from) {
                Ok(word) if word != value => return Err(Errno::EAGAIN.into()),
                Ok(_) => {
                    table.parked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                    let (from, to) = (from_key.id(), to_key.id());
                    table.parked.push(Parked { from, to, waiter: waiter.clone(), _key: from_key });
                    break;
                }
                Err(_) => {}
            }
        }
        user::load_u32(from).map_err(|_| Errno::EFAULT)?;
    }
    sleep(&waiter, &to_key, to, deadline_ns, Origin::Requeued)
}

/// `FUTEX_CMP_REQUEUE_PI`: gives the lock at `to` to the first waiter of `from` if it is free, and makes the others, at
/// most `max`, wait for it. Returns how many of both.
///
/// `EAGAIN`: the word at `from` is not `value`. `EINVAL`: waiters that wait for something else.
pub fn cmp_requeue_pi(
    mm: &Mm,
    (from, to): (UserAddr, UserAddr),
    scope: Scope,
    value: u32,
    max: usize,
    find: FindOwner<'_>,
) -> Result<usize> {
    if from == to {
        return Err(Errno::EINVAL);
    }
    let from_key = Key::new(mm, from, scope)?;
    let to_key = Key::new(mm, to, scope)?;
    if bucket::has_waiter(mm, &from_key) {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    loop {
        match requeue_one(&from_key, &to_key, (from, to), value, find, done) {
            Ok(Some(true)) => done += 1,
            Ok(Some(false)) => return Ok(done),
            Ok(None) => {
                user::load_u32(from).map_err(|_| Errno::EFAULT)?;
                fault_in(to)?;
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
        // One is woken or waits; `max` more may wait.
        if done > max {
            return Ok(done);
        }
    }
}

/// Moves the oldest waiter of `from`. `None`: a page is not there. `false`: nobody waits.
fn requeue_one(
    from_key: &Key,
    to_key: &Key,
    (from, to): (UserAddr, UserAddr),
    value: u32,
    find: FindOwner<'_>,
    done: usize,
) -> Result<Option<bool>> {
    let mut table = TABLE.lock();
    loop {
        let (Ok(now), Ok(word)) = (user::load_u32_nofault(from), user::load_u32_nofault(to)) else {
            return Ok(None);
        };
        if done == 0 && now != value {
            return Err(Errno::EAGAIN);
        }
        let Some(place) = table.parked.iter().position(|parked| parked.from == from_key.id()) else {
            return Ok(Some(false));
        };
        let Some(parked) = table.parked.get(place) else { return Ok(Some(false)) };
        if parked.to != to_key.id() {
            return Err(Errno::EINVAL);
        }
        let waiter = parked.waiter.clone();
        let is_known = table.locks.contains_key(&to_key.id());
        let is_free = !is_known && word & TID_MASK == 0;
        let new = if is_free { word & OWNER_DIED | waiter.who.tid } else { word | WAITERS };
        match exchange(to, word, new) {
            Err(_) => return Ok(None),
            Ok(false) => continue,
            Ok(true) => {}
        }
        if is_free {
            table.parked.remove(place);
            waiter.finish(GRANTED);
            return Ok(Some(true));
        }
        let owner = match find(word & TID_MASK) {
            Owner::Alive(party) => party,
            _ if is_known => waiter.who.clone(),
            _ => return Err(Errno::ESRCH),
        };
        table.parked.remove(place);
        table.add_waiter(to_key, || owner, waiter)?;
        return Ok(Some(true));
    }
}
