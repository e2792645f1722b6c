//! Semaphore sets (semget(2), semop(2), semctl(2)).
//!
//! ```text
//! caller: operations can all happen ──▶ they do ──▶ waiting calls that became possible happen, in order; wake them
//!         one cannot ──▶ enter `waiting`, sleep until someone performs the call, removes the set, or a signal comes
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering::*};

use abi::{Errno, Result};
use hal::sync::SpinLock;
use process::pid;
use sched::{Interruptible, WaitError, WaitQueue};

use crate::perm::{Found, IPC_CREAT, IPC_NOWAIT, Object, Perm, PermDs, READ, WRITE, now_s};
use crate::state::{Ipc, current};
use crate::undo::{self, OwnerId};

/// Largest value of a semaphore (`SEMVMX`), and of an adjustment (`SEMAEM`).
const VALUE_MAX: i32 = 32767;
/// `SEM_UNDO`: take the operation back when the process ends.
pub const SEM_UNDO: i16 = 0x1000;

/// `struct sembuf`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SemOp {
    /// Which semaphore.
    pub num: u16,
    /// What to add; 0 waits for zero.
    pub op: i16,
    /// `IPC_NOWAIT`, `SEM_UNDO`.
    pub flags: i16,
}

impl SemOp {
    /// From the six bytes of `struct sembuf`, as three words.
    pub fn from_words(words: [u16; 3]) -> Self {
        Self { num: words[0], op: words[1] as i16, flags: words[2] as i16 }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sem {
    value: i32,
    /// Who changed it last.
    pid: u32,
}

/// Not yet decided.
const WAITING: i32 = 1;

/// A call that waits.
struct Waiter {
    ops: Vec<SemOp>,
    owner: OwnerId,
    pid: u32,
    /// [`WAITING`], then 0 or a negative errno.
    result: AtomicI32,
    queue: WaitQueue,
}

/// Adjustments of one process for one set.
struct Undo {
    owner: OwnerId,
    adjust: Vec<i16>,
}

struct State {
    perm: Perm,
    sems: Vec<Sem>,
    /// Calls that wait, each with the operation that cannot happen.
    waiting: Vec<(Arc<Waiter>, SemOp)>,
    undos: Vec<Undo>,
    otime: i64,
    ctime: i64,
    is_removed: bool,
}

/// A semaphore set.
pub struct SemSet {
    state: SpinLock<State>,
}

impl Object for SemSet {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// What trying a call gives.
enum Tried {
    Done,
    /// This operation cannot happen now.
    Blocked(SemOp),
}

impl State {
    fn undo_of(&mut self, owner: OwnerId) -> Result<&mut Vec<i16>> {
        let len = self.sems.len();
        let at = match self.undos.iter().position(|undo| undo.owner == owner) {
            Some(at) => at,
            None => {
                let mut adjust = Vec::new();
                adjust.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
                adjust.resize(len, 0);
                self.undos.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.undos.push(Undo { owner, adjust });
                self.undos.len() - 1
            }
        };
        self.undos.get_mut(at).map(|undo| &mut undo.adjust).ok_or(Errno::ENOMEM)
    }

    /// Performs all of `ops` or none. `EAGAIN`: one that must not wait would. `ERANGE`: a value or adjustment too large.
    fn try_ops(&mut self, ops: &[SemOp], owner: OwnerId, pid: u32) -> Result<Tried> {
        let mut done = 0;
        let mut outcome = Ok(Tried::Done);
        for (at, op) in ops.iter().enumerate() {
            let Some(sem) = self.sems.get_mut(usize::from(op.num)) else { return Err(Errno::EFBIG) };
            let value = sem.value + i32::from(op.op);
            let is_blocked = if op.op == 0 { sem.value != 0 } else { value < 0 };
            if is_blocked {
                let nowait = i32::from(op.flags) & IPC_NOWAIT != 0;
                outcome = if nowait { Err(Errno::EAGAIN) } else { Ok(Tried::Blocked(*op)) };
                break;
            }
            if value > VALUE_MAX {
                outcome = Err(Errno::ERANGE);
                break;
            }
            if op.flags & SEM_UNDO != 0
                && let Err(error) = self.adjust(op, owner)
            {
                outcome = Err(error);
                break;
            }
            if let Some(sem) = self.sems.get_mut(usize::from(op.num)) {
                sem.value = value;
            }
            done = at + 1;
        }
        if matches!(outcome, Ok(Tried::Done)) {
            for op in ops {
                if let Some(sem) = self.sems.get_mut(usize::from(op.num)) {
                    sem.pid = pid;
                }
            }
            return outcome;
        }
        for op in ops.iter().take(done).rev() {
            if let Some(sem) = self.sems.get_mut(usize::from(op.num)) {
                sem.value -= i32::from(op.op);
            }
            if op.flags & SEM_UNDO != 0
                && let Ok(adjust) = self.undo_of(owner)
                && let Some(adjust) = adjust.get_mut(usize::from(op.num))
            {
                *adjust = adjust.wrapping_add(op.op);
            }
        }
        outcome
    }

    /// Notes that `op` will be taken back.
    fn adjust(&mut self, op: &SemOp, owner: OwnerId) -> Result<()> {
        let adjust = self.undo_of(owner)?.get_mut(usize::from(op.num)).ok_or(Errno::EFBIG)?;
        let new = i32::from(*adjust) - i32::from(op.op);
        if !(-VALUE_MAX - 1..=VALUE_MAX).contains(&new) {
            return Err(Errno::ERANGE);
        }
        *adjust = new as i16;
        Ok(())
    }

    /// Performs waiting calls that have become possible, until none is.
    fn update(&mut self) {
        let mut at = 0;
        while let Some((waiter, _)) = self.waiting.get(at) {
            let waiter = waiter.clone();
            match self.try_ops(&waiter.ops, waiter.owner, waiter.pid) {
                Ok(Tried::Blocked(op)) => {
                    if let Some(entry) = self.waiting.get_mut(at) {
                        entry.1 = op;
                    }
                    at += 1;
                }
                Ok(Tried::Done) => {
                    self.waiting.remove(at);
                    self.otime = now_s();
                    waiter.finish(0);
                    // It may have made one possible that was passed over.
                    at = 0;
                }
                Err(error) => {
                    self.waiting.remove(at);
                    waiter.finish(error.to_return() as i32);
                }
            }
        }
    }

    /// How many calls wait for semaphore `num` to grow, or to become zero.
    fn count(&self, num: usize, wants_zero: bool) -> usize {
        let is_meant =
            |op: &SemOp| usize::from(op.num) == num && if wants_zero { op.op == 0 } else { op.op < 0 };
        self.waiting.iter().filter(|(_, op)| is_meant(op)).count()
    }
}

impl Waiter {
    fn finish(&self, result: i32) {
        // Release pairs with the sleeper's acquire.
        self.result.store(result, Release);
        self.queue.wake_all();
    }

    fn outcome(&self) -> Option<i32> {
        let result = self.result.load(Acquire);
        (result != WAITING).then_some(result)
    }
}

/// semget(2).
///
/// `EINVAL`: too many semaphores, or more than the set has. `ENOSPC`: too many sets or semaphores in all.
pub fn semget(key: i32, count: i32, flags: i32) -> Result<i32> {
    let (ns, ipc) = current()?;
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    if count > ipc.sem_limits[0].load(Relaxed) as usize {
        return Err(Errno::EINVAL);
    }
    let cred = process::current().cred();
    loop {
        match ipc.sems.find(key, flags)? {
            Found::Old(set) => {
                let state = set.state.lock();
                if count > state.sems.len() {
                    return Err(Errno::EINVAL);
                }
                state.perm.check(&cred, ns.id().owner(), flags as u32 & 0o777)?;
                return Ok(state.perm.id);
            }
            Found::Missing => match make(&ipc, key, count, flags, &cred) {
                Err(Errno::EEXIST) if flags & IPC_CREAT != 0 => {}
                made => return made,
            },
        }
    }
}

fn make(ipc: &Ipc, key: i32, count: usize, flags: i32, cred: &security::Cred) -> Result<i32> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    let total: usize = ipc.sems.all().iter().map(|set| set.state.lock().sems.len()).sum();
    if total + count > ipc.sem_limits[1].load(Relaxed) as usize {
        return Err(Errno::ENOSPC);
    }
    let mut sems = Vec::new();
    sems.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    sems.resize(count, Sem::default());
    let made = ipc.sems.add(key, ipc.sem_limits[3].load(Relaxed), |id| {
        let state = State {
            perm: Perm::new(key, id, flags as u32, cred),
            sems,
            waiting: Vec::new(),
            undos: Vec::new(),
            otime: 0,
            ctime: now_s(),
            is_removed: false,
        };
        Ok(SemSet { state: SpinLock::new("ipc.sem", state) })
    })?;
    Ok(made.perm().id)
}

/// semop(2) and semtimedop(2); `deadline_ns` on the monotonic clock.
///
/// `EINVAL`, `E2BIG`, `EFBIG`, `EACCES`, `EAGAIN`, `ERANGE`, `EIDRM`, `EINTR`: as semop(2) has them.
pub fn semop(id: i32, ops: Vec<SemOp>, deadline_ns: Option<u64>) -> Result<()> {
    let (ns, ipc) = current()?;
    let task = process::current();
    let cred = task.cred();
    let set = ipc.sems.get(id)?;
    let wants_undo = ops.iter().any(|op| op.flags & SEM_UNDO != 0);
    let owner = if wants_undo { undo::remember(&task, &set)? } else { OwnerId::of(&task) };
    let waiter = {
        let mut state = set.state.lock();
        if ops.iter().any(|op| usize::from(op.num) >= state.sems.len()) {
            return Err(Errno::EFBIG);
        }
        let changes = ops.iter().any(|op| op.op != 0);
        state.perm.check(&cred, ns.id().owner(), if changes { WRITE } else { READ })?;
        if state.is_removed {
            return Err(Errno::EIDRM);
        }
        match state.try_ops(&ops, owner, task.pid())? {
            Tried::Done => {
                state.otime = now_s();
                if changes && !state.waiting.is_empty() {
                    state.update();
                }
                return Ok(());
            }
            Tried::Blocked(op) => {
                let waiter = Arc::new(Waiter {
                    ops,
                    owner,
                    pid: task.pid(),
                    result: AtomicI32::new(WAITING),
                    queue: WaitQueue::new(),
                });
                state.waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                state.waiting.push((waiter.clone(), op));
                waiter
            }
        }
    };
    sleep(&set, &waiter, deadline_ns)
}

/// Waits until someone performs the call.
fn sleep(set: &SemSet, waiter: &Arc<Waiter>, deadline_ns: Option<u64>) -> Result<()> {
    let slept = waiter.queue.wait_deadline(|| waiter.outcome(), deadline_ns, Interruptible::Yes);
    let result = match slept {
        Ok(result) => Some(result),
        Err(_) => {
            let mut state = set.state.lock();
            state.waiting.retain(|(other, _)| !Arc::ptr_eq(other, waiter));
            // Performed while this thread woke up for another reason: then it happened.
            waiter.outcome()
        }
    };
    match (result, slept) {
        (Some(0), _) => Ok(()),
        (Some(errno), _) => Err(errno_of(errno)),
        (None, Err(WaitError::TimedOut)) => Err(Errno::EAGAIN),
        (None, _) => Err(Errno::EINTR),
    }
}

/// The few errors that a performed call ends with.
fn errno_of(result: i32) -> Errno {
    [Errno::EIDRM, Errno::ERANGE, Errno::EAGAIN, Errno::ENOMEM]
        .into_iter()
        .find(|errno| errno.to_return() as i32 == result)
        .unwrap_or(Errno::EINTR)
}

/// A set as `IPC_STAT` shows it.
pub struct SetInfo {
    /// Identifier.
    pub id: i32,
    /// Owner and mode.
    pub perm: PermDs,
    /// When an operation last happened.
    pub otime: i64,
    /// When it was made or changed.
    pub ctime: i64,
    /// How many semaphores.
    pub count: usize,
}

/// Which set a command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By identifier.
    Id(i32),
    /// By index, checking the right to read (`SEM_STAT`).
    Index(i32),
    /// By index, without a check (`SEM_STAT_ANY`).
    AnyIndex(i32),
}

fn find(named: Named, wanted: u32) -> Result<Arc<SemSet>> {
    let (ns, ipc) = current()?;
    let set = match named {
        Named::Id(id) => ipc.sems.get(id)?,
        Named::Index(index) | Named::AnyIndex(index) => ipc.sems.at(index)?,
    };
    if !matches!(named, Named::AnyIndex(_)) {
        let cred = process::current().cred();
        set.perm().check(&cred, ns.id().owner(), wanted)?;
    }
    Ok(set)
}

impl SemSet {
    pub(crate) fn info(&self, reader: &security::UserNs) -> SetInfo {
        let state = self.state.lock();
        SetInfo {
            id: state.perm.id,
            perm: state.perm.show(reader),
            otime: state.otime,
            ctime: state.ctime,
            count: state.sems.len(),
        }
    }

    /// Takes the adjustments of `owner` back.
    pub(crate) fn apply_undo(&self, owner: OwnerId, pid: u32) {
        let mut state = self.state.lock();
        let Some(at) = state.undos.iter().position(|undo| undo.owner == owner) else { return };
        let undo = state.undos.swap_remove(at);
        for (sem, adjust) in state.sems.iter_mut().zip(&undo.adjust).filter(|(_, adjust)| **adjust != 0) {
            sem.value = (sem.value + i32::from(*adjust)).clamp(0, VALUE_MAX);
            sem.pid = pid;
        }
        state.otime = now_s();
        state.update();
    }
}

/// `IPC_STAT`, `SEM_STAT`, `SEM_STAT_ANY`.
pub fn stat(named: Named) -> Result<SetInfo> {
    let set = find(named, READ)?;
    Ok(set.info(&process::current().cred().user_ns))
}

/// What one semaphore tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Its value.
    Value,
    /// Who changed it last.
    Pid,
    /// Calls that wait for it to grow.
    WaitingToGrow,
    /// Calls that wait for it to become zero.
    WaitingForZero,
}

/// `GETVAL`, `GETPID`, `GETNCNT`, `GETZCNT`.
pub fn query(id: i32, num: i32, what: Query) -> Result<usize> {
    let set = find(Named::Id(id), READ)?;
    let state = set.state.lock();
    let num = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
    let sem = state.sems.get(num).copied().ok_or(Errno::EINVAL)?;
    if state.is_removed {
        return Err(Errno::EIDRM);
    }
    Ok(match what {
        Query::Value => sem.value as usize,
        Query::WaitingToGrow => state.count(num, false),
        Query::WaitingForZero => state.count(num, true),
        Query::Pid => {
            drop(state);
            pid::visible(sem.pid) as usize
        }
    })
}

/// `GETALL`.
pub fn values(id: i32) -> Result<Vec<u16>> {
    let set = find(Named::Id(id), READ)?;
    let state = set.state.lock();
    let mut values = Vec::new();
    values.try_reserve_exact(state.sems.len()).map_err(|_| Errno::ENOMEM)?;
    values.extend(state.sems.iter().map(|sem| sem.value as u16));
    Ok(values)
}

/// How many semaphores a set has, for `SETALL`, which needs the right to change it.
pub fn len_for_change(id: i32) -> Result<usize> {
    Ok(find(Named::Id(id), WRITE)?.state.lock().sems.len())
}

/// `SETALL`. `ERANGE`: a value too large.
pub fn set_values(id: i32, values: &[u16]) -> Result<()> {
    if values.iter().any(|value| i32::from(*value) > VALUE_MAX) {
        return Err(Errno::ERANGE);
    }
    let set = find(Named::Id(id), WRITE)?;
    let pid = process::current().pid();
    let mut state = set.state.lock();
    if state.is_removed {
        return Err(Errno::EIDRM);
    }
    for (sem, value) in state.sems.iter_mut().zip(values) {
        *sem = Sem { value: i32::from(*value), pid };
    }
    state.undos.iter_mut().for_each(|undo| undo.adjust.fill(0));
    state.ctime = now_s();
    state.update();
    Ok(())
}

/// `SETVAL`. `ERANGE`: too large or negative.
pub fn set_value(id: i32, num: i32, value: i32) -> Result<()> {
    if !(0..=VALUE_MAX).contains(&value) {
        return Err(Errno::ERANGE);
    }
    let set = find(Named::Id(id), WRITE)?;
    let pid = process::current().pid();
    let mut state = set.state.lock();
    if state.is_removed {
        return Err(Errno::EIDRM);
    }
    let num = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
    *state.sems.get_mut(num).ok_or(Errno::EINVAL)? = Sem { value, pid };
    for undo in &mut state.undos {
        if let Some(adjust) = undo.adjust.get_mut(num) {
            *adjust = 0;
        }
    }
    state.ctime = now_s();
    state.update();
    Ok(())
}

/// `IPC_SET`. `EPERM`: not the owner.
pub fn set_perm(id: i32, perm: &PermDs) -> Result<()> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    let set = ipc.sems.get(id)?;
    let mut state = set.state.lock();
    state.perm.check_owner(&cred, ns.id().owner())?;
    state.perm.set(perm, &cred)?;
    state.ctime = now_s();
    Ok(())
}

/// `IPC_RMID`: waiting calls end with `EIDRM`. `EPERM`: not the owner.
pub fn remove(id: i32) -> Result<()> {
    let (ns, ipc) = current()?;
    let cred = process::current().cred();
    let set = ipc.sems.get(id)?;
    set.perm().check_owner(&cred, ns.id().owner())?;
    if !ipc.sems.remove(id) {
        return Err(Errno::EIDRM);
    }
    let (waiting, undos) = {
        let mut state = set.state.lock();
        state.is_removed = true;
        (core::mem::take(&mut state.waiting), core::mem::take(&mut state.undos))
    };
    for (waiter, _) in &waiting {
        waiter.finish(Errno::EIDRM.to_return() as i32);
    }
    drop(undos);
    Ok(())
}

/// `IPC_INFO` (`usage` false) and `SEM_INFO`: the ten numbers of `struct seminfo`, and the highest index in use.
pub fn info(usage: Usage) -> Result<([i32; 10], i32)> {
    let (_, ipc) = current()?;
    let [per_set, in_all, per_call, sets] = [0, 1, 2, 3].map(|at| ipc.sem_limits[at].load(Relaxed) as i32);
    let (used, highest) = ipc.sems.usage();
    let (size, adjust) = match usage {
        Usage::Limits => (20, VALUE_MAX),
        Usage::Now => {
            let total: usize = ipc.sems.all().iter().map(|set| set.state.lock().sems.len()).sum();
            (used as i32, total as i32)
        }
    };
    let info = [in_all, sets, in_all, in_all, per_set, per_call, per_call, size, VALUE_MAX, adjust];
    Ok((info, highest))
}

/// What the `*_INFO` commands tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The limits.
    Limits,
    /// What is in use.
    Now,
}

/// Most operations of one call (kernel.sem).
pub fn max_ops() -> Result<usize> {
    Ok(current()?.1.sem_limits[2].load(Relaxed) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use security::Cred;

    fn state(values: &[i32]) -> State {
        State {
            perm: Perm::new(1, 0, 0o600, &Cred::root()),
            sems: values.iter().map(|&value| Sem { value, pid: 0 }).collect(),
            waiting: Vec::new(),
            undos: Vec::new(),
            otime: 0,
            ctime: 0,
            is_removed: false,
        }
    }

    fn op(num: u16, op: i16, flags: i16) -> SemOp {
        SemOp { num, op, flags }
    }

    fn values(state: &State) -> Vec<i32> {
        state.sems.iter().map(|sem| sem.value).collect()
    }

    const ME: OwnerId = OwnerId::for_test(7);

    #[test]
    fn all_operations_happen_or_none() {
        let mut set = state(&[1, 0]);
        assert!(
            matches!(set.try_ops(&[op(0, -1, 0), op(1, -1, 0)], ME, 1), Ok(Tried::Blocked(o)) if o.num == 1)
        );
        assert_eq!(values(&set), [1, 0]);
        assert_eq!(set.try_ops(&[op(0, 1, 0), op(1, -1, 0o4000)], ME, 1).err(), Some(Errno::EAGAIN));
        assert_eq!(set.try_ops(&[op(1, 5, 0), op(0, 32767, 0)], ME, 1).err(), Some(Errno::ERANGE));
        assert_eq!(values(&set), [1, 0]);
        assert!(matches!(set.try_ops(&[op(0, -1, 0), op(0, 0, 0), op(1, 3, 0)], ME, 1), Ok(Tried::Done)));
        assert_eq!(values(&set), [0, 3]);
    }

    #[test]
    fn adjustments_follow_what_happened_only() {
        let mut set = state(&[5, 0]);
        set.try_ops(&[op(0, -2, SEM_UNDO)], ME, 1).unwrap();
        assert_eq!(set.undos[0].adjust, [2, 0]);
        assert!(matches!(set.try_ops(&[op(0, -1, SEM_UNDO), op(1, -1, 0)], ME, 1), Ok(Tried::Blocked(_))));
        assert_eq!((values(&set), &set.undos[0].adjust[..]), (vec![3, 0], &[2, 0][..]));
    }

    #[test]
    fn a_change_performs_waiting_calls_in_order() {
        let mut set = state(&[0]);
        let waiter = |amount| {
            Arc::new(Waiter {
                ops: vec![op(0, amount, 0)],
                owner: ME,
                pid: 9,
                result: AtomicI32::new(WAITING),
                queue: WaitQueue::new(),
            })
        };
        let (first, second, third) = (waiter(-2), waiter(-1), waiter(-1));
        for waiter in [&first, &second, &third] {
            set.waiting.push((waiter.clone(), waiter.ops[0]));
        }
        assert_eq!((set.count(0, false), set.count(0, true)), (3, 0));
        set.sems[0].value = 1;
        set.update();
        assert_eq!((first.outcome(), second.outcome(), third.outcome()), (None, Some(0), None));
        set.sems[0].value = 3;
        set.update();
        assert_eq!((first.outcome(), third.outcome(), values(&set)), (Some(0), Some(0), vec![0]));
    }
}
