//! The end of a process that leaves a core dump: all threads stop and tell their registers, then one of them has the dump
//! written by the crate `coredump`.
//!
//! ```text
//! dying thread                                other threads
//! exit = signal, core = set, KILLED to all ─▶ on their way out: registers into Core::threads, sleep
//! sleeps until all are there           ◀───── the last one wakes it
//! Hooks::dump
//! is_done                              ─────▶ end
//! ```
//!
//! Sources: core(5), signal(7); who takes part as on Linux 7.2.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use abi::signal::SigInfo;
use hal::sync::{Once, SpinLock};
use hal::trap::UserRegs;
use mm::Mm;
use sched::WaitQueue;

use crate::Task;
use crate::group::GroupSig;
use crate::signal::{self, CORE_DUMPED};
use crate::task::{CurrentTask, TaskFlags};
use crate::trace::Bases;

/// A thread of the dying process.
pub struct CoreThread {
    /// The thread.
    pub task: Arc<Task>,
    /// Its registers.
    pub regs: UserRegs,
    /// Its segment bases.
    pub bases: Bases,
    /// Its floating-point state; empty when there was no memory for it.
    pub fpu: Vec<u8>,
}

/// What is dumped.
pub struct CoreDump<'a> {
    /// The thread that dies of the signal.
    pub task: &'a CurrentTask,
    /// The signal.
    pub info: SigInfo,
    /// All threads, the dying one first.
    pub threads: Vec<CoreThread>,
    /// The memory.
    pub mm: Arc<Mm>,
}

impl CoreDump<'_> {
    /// Whether somebody sent `SIGKILL`: then the dump ends.
    pub fn is_killed(&self) -> bool {
        self.task.has(TaskFlags::KILLED)
    }

    /// Notes the dump, for those who ask a pidfd about it.
    pub fn note(&self) {
        let group = self.task.group();
        let record =
            Record { dumpable: group.dumpable(), signal: self.info.signo as u8, code: self.info.code };
        group.core_record.store(record.pack(), Relaxed);
    }
}

/// How a process was dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// `PR_GET_DUMPABLE` then.
    pub dumpable: u8,
    /// The signal that ended it, and its `si_code`.
    pub signal: u8,
    /// See there.
    pub code: i32,
}

impl Record {
    /// As one word, which is not 0.
    fn pack(self) -> u64 {
        u64::from(self.code as u32) << 32 | u64::from(self.dumpable) << 8 | u64::from(self.signal)
    }

    /// From such a word; `None` for 0.
    pub(crate) fn unpack(word: u64) -> Option<Self> {
        let code = (word >> 32) as u32 as i32;
        (word != 0).then_some(Self { dumpable: (word >> 8) as u8, signal: word as u8, code })
    }
}

/// Who writes dumps.
pub trait Hooks: Sync {
    /// Whether limits allow a dump of the process of `task`.
    fn is_wanted(&self, task: &Task) -> bool;

    /// Writes a dump; false: there is none.
    fn dump(&self, dump: &CoreDump<'_>) -> bool;
}

static HOOKS: Once<&'static dyn Hooks> = Once::new();

/// Registers the crate that writes dumps.
pub fn register(hooks: &'static dyn Hooks) {
    HOOKS.call_once(|| hooks);
}

/// The meeting of the threads of a process that is being dumped.
pub(crate) struct Core {
    /// Threads that are to come, the dying one aside.
    expected: usize,
    arrived: AtomicUsize,
    threads: SpinLock<Vec<CoreThread>>,
    /// Where the threads are: the programs that handle a dump look into /proc meanwhile.
    places: SpinLock<Vec<Place>>,
    is_done: AtomicBool,
    /// Both sides sleep here.
    wait: WaitQueue,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    tid: u32,
    /// Its stack pointer in user mode.
    pub sp: u64,
    /// Its instruction pointer in user mode.
    pub ip: u64,
}

impl Core {
    /// Notes where the caller is. A thread for which there is no room is left out.
    fn note_place(&self, task: &CurrentTask, regs: &UserRegs) {
        let mut places = self.places.lock();
        if places.try_reserve(1).is_ok() {
            places.push(Place { tid: task.tid(), sp: regs.rsp, ip: regs.rip });
        }
    }
}

/// Where `task` is, while its process is being dumped.
pub fn place_of(task: &Task) -> Option<Place> {
    let core = task.group().sig.lock().core.clone()?;
    let places = core.places.lock();
    places.iter().find(|place| place.tid == task.tid()).copied()
}

/// The registers of the caller.
fn snapshot(task: &CurrentTask, regs: &UserRegs) -> CoreThread {
    CoreThread {
        task: task.arc().clone(),
        regs: *regs,
        bases: Bases::current(task.hal()),
        fpu: task.hal().fpu_bytes().unwrap_or_default(),
    }
}

/// Ends the process of `task`, the caller, by the signal of `info`, with a dump if one is wanted. Gives the wait status.
pub(crate) fn end_with_dump(task: &CurrentTask, regs: &UserRegs, info: SigInfo) -> i32 {
    let sig = info.signo;
    let hooks = HOOKS.get().filter(|hooks| task.group().dumpable() == 1 && hooks.is_wanted(task));
    let (Some(hooks), Some(mm)) = (hooks, task.mm()) else {
        return crate::exit::begin_group_exit(task, sig);
    };
    let core = match begin(task, sig) {
        Ok(core) => core,
        Err(status) => return status,
    };
    core.note_place(task, regs);
    let all_there = || (core.arrived.load(SeqCst) >= core.expected).then_some(());
    core.wait.wait(all_there);
    let mut threads = Vec::new();
    if threads.try_reserve_exact(core.expected + 1).is_ok() {
        threads.push(snapshot(task, regs));
        threads.append(&mut core.threads.lock());
    }
    // From here on nothing but SIGKILL interrupts: other signals are dropped.
    if !task.has(TaskFlags::KILLED) {
        sched::current().clear_signal();
    }
    let dump = CoreDump { task, info, threads, mm };
    let is_dumped = !dump.threads.is_empty() && hooks.dump(&dump);
    let status = if is_dumped { sig | CORE_DUMPED } else { sig };
    if is_dumped {
        dump.note();
    }
    drop(dump);
    {
        let mut state = task.group().sig.lock();
        state.core = None;
        state.exit = Some(status);
    }
    core.is_done.store(true, SeqCst);
    core.wait.wake_all();
    status
}

/// Makes all other threads come. `Err`: the process ends already, with this status.
fn begin(task: &CurrentTask, sig: i32) -> Result<Arc<Core>, i32> {
    let mut state = task.group().sig.lock();
    if let Some(earlier) = state.exit {
        return Err(earlier);
    }
    let is_other = |other: &&Arc<Task>| !Arc::ptr_eq(other, task.arc()) && !other.has(TaskFlags::EXITING);
    let core = Arc::new(Core {
        expected: state.threads.iter().filter(is_other).count(),
        arrived: AtomicUsize::new(0),
        threads: SpinLock::new("process.core_threads", Vec::new()),
        places: SpinLock::new("process.core_places", Vec::new()),
        is_done: AtomicBool::new(false),
        wait: WaitQueue::new(),
    });
    state.exit = Some(sig);
    state.core = Some(core.clone());
    signal::kill_all_threads(&mut state, Some(&**task));
    Ok(core)
}

/// `SIGKILL` came while a dump is written: it ends. `sig` is held.
pub(crate) fn interrupt(state: &mut GroupSig) {
    if state.core.is_some() {
        signal::kill_all_threads(state, None);
    }
}

/// The caller has begun to end while `core` waited for it: it tells its registers and sleeps until the dump is written.
pub(crate) fn take_part(task: &CurrentTask, core: &Core, regs: Option<&UserRegs>) {
    if let Some(regs) = regs {
        core.note_place(task, regs);
        let thread = snapshot(task, regs);
        let mut threads = core.threads.lock();
        // A thread for which there is no room is left out.
        if threads.try_reserve(1).is_ok() {
            threads.push(thread);
        }
    }
    core.arrived.fetch_add(1, SeqCst);
    core.wait.wake_all();
    core.wait.wait(|| core.is_done.load(SeqCst).then_some(()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_their_packing() {
        for code in [1, -6, 0x80] {
            let record = Record { dumpable: 1, signal: 6, code };
            assert_eq!(Record::unpack(record.pack()), Some(record));
        }
        assert_eq!(Record::unpack(0), None);
    }
}
