//! Notifications: calls that another process answers.
//!
//! ```text
//! Waiting ──SECCOMP_IOCTL_NOTIF_RECV──▶ Received ──SECCOMP_IOCTL_NOTIF_SEND──▶ Answered, taken by the caller
//!    ▲                                     │
//!    └──── the receiver could not read ────┘        a signal takes the notification away in any state
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

use abi::{Errno, Result};
use cbpf::Data;
use hal::sync::SpinLock;
use hal::trap::UserRegs;
use process::CurrentTask;
use process::trace::Enter;
use sched::{Interruptible, WaitError, WaitQueue};
use vfs::{FdFlags, File};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::filter::Filter;

/// `struct seccomp_notif`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Notif {
    pub id: u64,
    /// In the first pid namespace until it is read.
    pub pid: u32,
    pub flags: u32,
    pub nr: u32,
    pub arch: u32,
    pub instruction_pointer: u64,
    pub args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Response {
    pub id: u64,
    pub val: i64,
    pub error: i32,
    pub flags: u32,
}

pub(crate) const NOTIF_LEN: usize = size_of::<Notif>();
pub(crate) const RESPONSE_LEN: usize = size_of::<Response>();
const _: () = assert!(NOTIF_LEN == 80 && RESPONSE_LEN == 24);

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`: the call is made after all.
pub(crate) const CONTINUE: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Received,
    Answered(Answer),
}

/// What the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    val: i64,
    error: i32,
    flags: u32,
}

/// A descriptor to be put into the caller's table.
pub(crate) struct NewFd {
    pub file: Arc<File>,
    /// The number it shall have.
    pub at: Option<i32>,
    pub flags: FdFlags,
    /// Its number is the answer to the call.
    pub answers: bool,
    serial: u64,
}

struct Call {
    notif: Notif,
    phase: Phase,
    new_fds: Vec<NewFd>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    /// Results of descriptors that were put in, by serial number, until who asked has taken them.
    results: Vec<(u64, Result<usize>)>,
    next_id: u64,
    next_serial: u64,
}

/// What a filter and its listener share.
pub(crate) struct Notifications {
    state: SpinLock<State>,
    /// The listener is closed.
    is_closed: AtomicBool,
    /// No task has the filter any more.
    has_no_users: AtomicBool,
    waits_killable: bool,
    /// Callers wait here, and listeners for the results of new descriptors.
    pub(crate) callers: WaitQueue,
    /// Listeners wait here.
    pub(crate) listeners: WaitQueue,
}

/// The most severe problem of a lookup: gone, or not in the phase for it.
type Lookup<'a> = Result<&'a mut Call>;

impl State {
    fn call(&mut self, id: u64) -> Option<&mut Call> {
        self.calls.iter_mut().find(|call| call.notif.id == id)
    }

    /// The call `id`, if a listener has received it and not answered. `ENOENT`, `EINPROGRESS`.
    fn received(&mut self, id: u64) -> Lookup<'_> {
        let call = self.call(id).ok_or(Errno::ENOENT)?;
        if call.phase == Phase::Received { Ok(call) } else { Err(Errno::EINPROGRESS) }
    }
}

impl Notifications {
    pub(crate) fn new(waits_killable: bool) -> Arc<Self> {
        let state = State { next_id: hal::time::now_ns() | 1, ..State::default() };
        Arc::new(Self {
            state: SpinLock::new("seccomp.notifications", state),
            is_closed: AtomicBool::new(false),
            has_no_users: AtomicBool::new(false),
            waits_killable,
            callers: WaitQueue::new(),
            listeners: WaitQueue::new(),
        })
    }

    /// The last task with the filter is gone.
    pub(crate) fn lose_users(&self) {
        self.has_no_users.store(true, SeqCst);
        self.listeners.wake_all();
    }

    pub(crate) fn has_no_users(&self) -> bool {
        self.has_no_users.load(SeqCst)
    }

    /// Whether a call waits to be received, and whether one waits for its answer.
    pub(crate) fn pending(&self) -> (bool, bool) {
        let state = self.state.lock();
        let any = |phase: Phase| state.calls.iter().any(|call| call.phase == phase);
        (any(Phase::Waiting), any(Phase::Received))
    }

    /// Takes the oldest call that nobody has received.
    pub(crate) fn receive(&self) -> Option<Notif> {
        let mut state = self.state.lock();
        let call = state.calls.iter_mut().find(|call| call.phase == Phase::Waiting)?;
        call.phase = Phase::Received;
        let notif = call.notif;
        drop(state);
        self.callers.wake_all();
        self.listeners.wake_all();
        Some(notif)
    }

    /// Undoes [`Notifications::receive`].
    pub(crate) fn put_back(&self, id: u64) {
        if let Ok(call) = self.state.lock().received(id) {
            call.phase = Phase::Waiting;
        }
        self.listeners.wake_all();
    }

    /// Answers a call. `ENOENT`: it is gone. `EINPROGRESS`: not received yet, or answered.
    pub(crate) fn answer(&self, response: &Response) -> Result<()> {
        let answer = Answer { val: response.val, error: response.error, flags: response.flags };
        self.state.lock().received(response.id)?.phase = Phase::Answered(answer);
        self.callers.wake_all();
        Ok(())
    }

    /// Whether the call waits for its answer.
    pub(crate) fn is_received(&self, id: u64) -> bool {
        self.state.lock().received(id).is_ok()
    }

    /// Has the caller of `id` take a descriptor; gives its number there. `ENOENT`, `EINPROGRESS`, `EBUSY`.
    pub(crate) fn add_fd(&self, id: u64, mut new: NewFd) -> Result<usize> {
        let serial = {
            let mut state = self.state.lock();
            let serial = state.next_serial;
            state.next_serial += 1;
            let call = state.received(id)?;
            if new.answers && !call.new_fds.is_empty() {
                return Err(Errno::EBUSY);
            }
            call.new_fds.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            new.serial = serial;
            call.new_fds.push(new);
            serial
        };
        self.callers.wake_all();
        let look = || {
            let mut state = self.state.lock();
            let place = state.results.iter().position(|(of, _)| *of == serial);
            if let Some(place) = place {
                return Some(state.results.swap_remove(place).1);
            }
            let waits = state.calls.iter().any(|call| call.new_fds.iter().any(|new| new.serial == serial));
            let is_being_done = state.call(id).is_some();
            (!waits && !is_being_done).then_some(Err(Errno::ESRCH))
        };
        match self.callers.wait_interruptible(look) {
            Ok(result) => result,
            Err(_) => {
                let mut dropped = None;
                if let Some(call) = self.state.lock().call(id) {
                    let place = call.new_fds.iter().position(|new| new.serial == serial);
                    dropped = place.map(|place| call.new_fds.remove(place));
                }
                drop(dropped);
                Err(Errno::ERESTARTSYS)
            }
        }
    }

    /// The listener is closed: calls that wait fail with `ENOSYS`.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, SeqCst);
        {
            let mut state = self.state.lock();
            for call in &mut state.calls {
                if !matches!(call.phase, Phase::Answered(_)) {
                    call.phase = Phase::Answered(gone());
                }
            }
        }
        self.callers.wake_all();
    }
}

impl NewFd {
    pub(crate) fn new(file: Arc<File>, at: Option<i32>, flags: FdFlags, answers: bool) -> Self {
        Self { file, at, flags, answers, serial: 0 }
    }
}

/// The answer when nobody can give one.
fn gone() -> Answer {
    Answer { val: 0, error: Errno::ENOSYS.to_return() as i32, flags: 0 }
}

/// Why a caller woke up.
enum Woken {
    Answer(Answer),
    NewFd(NewFd),
    /// The call was received meanwhile, which changes what may interrupt the wait.
    Received,
}

/// Asks the listener of `filter` about the caller's call.
pub(crate) fn ask(task: &CurrentTask, regs: &mut UserRegs, filter: &Filter, data: &Data) -> Enter {
    let answer = match &filter.notifications {
        Some(notifications) => wait(task, notifications, data),
        None => gone(),
    };
    if answer.flags & CONTINUE != 0 {
        return Enter::Run;
    }
    regs.rax = if answer.error != 0 { i64::from(answer.error) as u64 } else { answer.val as u64 };
    Enter::Skip
}

fn wait(task: &CurrentTask, notifications: &Notifications, data: &Data) -> Answer {
    let id = {
        let mut state = notifications.state.lock();
        if notifications.is_closed.load(SeqCst) || state.calls.try_reserve(1).is_err() {
            return gone();
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        let notif = Notif {
            id,
            pid: task.tid(),
            flags: 0,
            nr: data.nr,
            arch: data.arch,
            instruction_pointer: data.instruction_pointer,
            args: data.args,
        };
        state.calls.push(Call { notif, phase: Phase::Waiting, new_fds: Vec::new() });
        id
    };
    notifications.listeners.wake_all();
    let answer = wait_for_answer(task, notifications, id);
    let call = {
        let mut state = notifications.state.lock();
        let place = state.calls.iter().position(|call| call.notif.id == id);
        place.map(|place| state.calls.remove(place))
    };
    drop(call);
    // Those whose descriptors were not taken learn of it, and so does poll(2).
    notifications.callers.wake_all();
    notifications.listeners.wake_all();
    answer
}

fn wait_for_answer(task: &CurrentTask, notifications: &Notifications, id: u64) -> Answer {
    let mut is_killable = false;
    loop {
        let look = || {
            let mut state = notifications.state.lock();
            let Some(call) = state.call(id) else { return Some(Woken::Answer(gone())) };
            if !call.new_fds.is_empty() {
                return Some(Woken::NewFd(call.new_fds.remove(0)));
            }
            match call.phase {
                Phase::Answered(answer) => Some(Woken::Answer(answer)),
                Phase::Received if notifications.waits_killable && !is_killable => Some(Woken::Received),
                _ => None,
            }
        };
        let kind = if is_killable { Interruptible::Killable } else { Interruptible::Yes };
        match notifications.callers.wait_deadline(look, None, kind) {
            Ok(Woken::Answer(answer)) => return answer,
            Ok(Woken::Received) => is_killable = true,
            Ok(Woken::NewFd(new)) => take_fd(task, notifications, id, new),
            Err(WaitError::Interrupted | WaitError::TimedOut) => {
                let error = Errno::ERESTARTSYS.to_return() as i32;
                return Answer { val: 0, error, flags: 0 };
            }
        }
    }
}

/// Puts a descriptor into the caller's own table and tells who sent it.
fn take_fd(task: &CurrentTask, notifications: &Notifications, id: u64, new: NewFd) {
    let limit = usize::try_from(task.group().rlimits().cur(limits::Resource::Nofile)).unwrap_or(usize::MAX);
    let result = task.files().ok_or(Errno::EBADF).and_then(|files| match new.at {
        Some(at) => files.replace(at, new.file.clone(), limit, new.flags).map(|()| at as usize),
        None => files.insert(new.file.clone(), 0, limit, new.flags).map(|fd| fd as usize),
    });
    {
        let mut state = notifications.state.lock();
        if new.answers
            && let Ok(fd) = result
            && let Some(call) = state.call(id)
        {
            call.phase = Phase::Answered(Answer { val: fd as i64, error: 0, flags: 0 });
        }
        // Without memory the sender learns that the call is gone, once it is.
        if state.results.try_reserve(1).is_ok() {
            state.results.push((new.serial, result));
        }
    }
    notifications.callers.wake_all();
}
